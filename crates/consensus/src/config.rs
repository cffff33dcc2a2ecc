//! How a group starts: from nothing, or from what a disk gave back.

use crate::fence::Fence;
use crate::types::{Entry, HardState, Membership, NUMBER_MAX, Position};
use base::{Duration, GroupId, NodeId};
use std::fmt;

/// Everything a [`crate::Group`] needs to know at its start.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group.
    pub group: GroupId,
    /// This node; never zero.
    pub node: NodeId,
    /// Who belongs to the group as of `applied`.
    pub membership: Membership,
    /// The index that the state machine stands at, 0 for an empty one. Entries behind it that are known to be committed are
    /// handed out again as `Commit`.
    pub applied: u64,
    /// The index of the newest durable snapshot, which another node can be sent; 0 for none. Not beyond `applied`.
    pub snapshot: u64,
    /// The position before the first of `entries`; at or before `applied`.
    pub start: Position,
    /// The log as found on disk, in order, without gaps.
    pub entries: Vec<Entry>,
    /// The newest one found on disk.
    pub hard_state: HardState,
    /// What this node's word on the group is worth, after what its disk has lost.
    pub fence: Fence,
    /// Draws election timeouts; differs between nodes and between starts.
    pub seed: u64,
    /// Whether the group falls silent when it has nothing to do. Needs a host that tells of lost links ([`crate::Input::LinkLost`]).
    pub quiesces: bool,
    /// How groups keep time.
    pub timing: Timing,
    /// What a group may hold and send.
    pub limits: GroupLimits,
    /// Promises to break.
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

/// How a group keeps time. All nodes of a group must have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How long a follower waits for its leader before it asks for votes; the real wait is this to twice this, drawn anew
    /// each time. Less where its link to the leader is lost ([`crate::Input::LinkLost`]).
    pub election: Duration,
    /// How often a leader says that it lives.
    pub heartbeat: Duration,
    /// How long a heartbeat that a majority answered lets the leader read alone, counted from its sending. Shorter than
    /// `loyalty` by what two clocks may drift apart meanwhile.
    pub lease: Duration,
    /// How long a follower that has heard of its leader refuses to vote for others, whatever it believes of the leader.
    pub loyalty: Duration,
}

impl Default for Timing {
    /// 1 s, 100 ms, and a lease of 450 ms with 500 ms of loyalty: clocks may differ in rate by 10 %.
    fn default() -> Timing {
        Timing {
            election: Duration::from_millis(1000),
            heartbeat: Duration::from_millis(100),
            lease: Duration::from_millis(450),
            loyalty: Duration::from_millis(500),
        }
    }
}

/// What a group may hold and send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// The most bytes of one proposal.
    pub proposal_bytes_max: usize,
    /// The most bytes of proposals that wait to be committed; one is always let in.
    pub uncommitted_bytes_max: u64,
    /// About the most bytes of entries in one message; one entry always fits.
    pub message_bytes_max: u64,
    /// The most messages with entries under way to one follower.
    pub inflight_messages_max: usize,
    /// The most reads that wait for an index.
    pub reads_max: usize,
}

impl Default for GroupLimits {
    fn default() -> GroupLimits {
        GroupLimits {
            proposal_bytes_max: 512 << 20,
            uncommitted_bytes_max: 1 << 30,
            message_bytes_max: 1 << 20,
            inflight_messages_max: 256,
            reads_max: 1 << 16,
        }
    }
}

/// Promises that tests break on purpose, to show that the break is caught.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// Term and vote are never written.
    pub hard_state_not_persisted: bool,
    /// Entries are acknowledged, and votes given, before they are durable.
    pub acks_before_durable: bool,
    /// A lease goes on after the lead was given away.
    pub lease_survives_transfer: bool,
    /// A leader reads by lease before it has applied an entry of its own term.
    pub lease_before_own_term: bool,
    /// Rounds of reads all have the same name.
    pub read_names_reused: bool,
    /// Followers are told at once what they have decided without the leader's own disk.
    pub commit_told_early: bool,
    /// A lease counts from when a heartbeat's answer came, not from when it was sent.
    pub lease_from_answer: bool,
    /// A node that has just started votes at once, though a lease may run on its word.
    pub votes_at_once: bool,
    /// What is known to be decided never reaches the disk.
    pub commit_not_persisted: bool,
    /// A vote counts for two.
    pub votes_counted_twice: bool,
    /// A node that has lost what it vouched for votes and acknowledges as if it had not.
    pub fence_ignored: bool,
    /// A node that cut a tail which was in truth rotten votes and acknowledges as if that were nothing.
    pub doubt_ignored: bool,
    /// A change of membership takes effect where it is appended, decided or not.
    pub members_before_commit: bool,
}

/// Why a group cannot start from this. Each but the first four means that the disk lost or invented something: starting
/// all the same could lose what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Node 0 is nobody.
    NodeZero,
    /// The membership is one that no group can have.
    Membership,
    /// Not heartbeat < lease < election, or a zero.
    Timing,
    /// A limit of zero, or proposals larger than what may wait.
    Limits,
    /// The entry found where index `expected` belongs, or with a term that went back or exceeds the hard state's.
    Entry {
        /// The index expected.
        expected: u64,
        /// The index found.
        found: u64,
        /// The term found.
        term: u64,
    },
    /// The state machine stands outside the log.
    AppliedOutside {
        /// The state machine's index.
        applied: u64,
        /// The position before the log's first entry.
        start: u64,
        /// The log's last.
        last: u64,
    },
    /// The hard state knows entries as committed that the log does not have.
    CommitBeyondLog {
        /// The commit index of the hard state.
        commit: u64,
        /// The log's last.
        last: u64,
    },
    /// An index or term beyond what any log reaches.
    Absurd,
    /// The library refused for another reason.
    Refused(String),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::NodeZero => write!(f, "node id 0 is reserved"),
            ConfigError::Membership => write!(f, "the membership has no voter, too many members, or one twice"),
            ConfigError::Timing => write!(f, "timing must satisfy 0 < heartbeat < lease < loyalty <= election timeout"),
            ConfigError::Limits => write!(f, "a limit of the consensus room is zero or contradicts another"),
            ConfigError::Entry { expected, found, term } => {
                write!(
                    f,
                    "log entry {found} of term {term} stands where entry {expected} belongs, or its term is impossible"
                )
            }
            ConfigError::AppliedOutside { applied, start, last } => {
                write!(f, "the state is at index {applied}, outside the log ({start}..={last})")
            }
            ConfigError::CommitBeyondLog { commit, last } => {
                write!(f, "entry {commit} was committed, but the log ends at {last}: acknowledged entries are missing")
            }
            ConfigError::Absurd => write!(f, "an index or a term of the log is impossibly large"),
            ConfigError::Refused(why) => write!(f, "the log cannot be started: {why}"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl GroupConfig {
    /// An empty group with the default timing and limits.
    pub fn new(group: GroupId, node: NodeId, membership: Membership, seed: u64) -> GroupConfig {
        GroupConfig {
            group,
            node,
            membership,
            applied: 0,
            snapshot: 0,
            start: Position::default(),
            entries: Vec::new(),
            hard_state: HardState::default(),
            fence: Fence::default(),
            seed,
            quiesces: false,
            timing: Timing::default(),
            limits: GroupLimits::default(),
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }

    /// Checks everything that the library would abort on. Answers the term at `applied`.
    pub(crate) fn check(&self) -> Result<u64, ConfigError> {
        if self.node.0 == 0 {
            return Err(ConfigError::NodeZero);
        }
        if !self.membership.is_possible() {
            return Err(ConfigError::Membership);
        }
        let timing = &self.timing;
        let Timing { election, heartbeat, lease, loyalty } = timing;
        if heartbeat.is_zero() || heartbeat >= lease || lease >= loyalty || loyalty > election {
            return Err(ConfigError::Timing);
        }
        let limits = &self.limits;
        if limits.proposal_bytes_max == 0
            || limits.inflight_messages_max == 0
            || limits.reads_max == 0
            || limits.uncommitted_bytes_max < limits.message_bytes_max
            || limits.uncommitted_bytes_max >= NUMBER_MAX
        {
            return Err(ConfigError::Limits);
        }
        let state = &self.hard_state;
        if self.start.index >= NUMBER_MAX || state.term >= NUMBER_MAX || state.commit >= NUMBER_MAX {
            return Err(ConfigError::Absurd);
        }
        let mut before = self.start;
        let mut applied_term = (before.index == self.applied).then_some(before.term);
        for entry in &self.entries {
            let fits = entry.index == before.index + 1 && entry.term >= before.term.max(1) && entry.term <= state.term;
            if !fits {
                let (found, term) = (entry.index, entry.term);
                return Err(ConfigError::Entry { expected: before.index + 1, found, term });
            }
            before = Position { index: entry.index, term: entry.term };
            if entry.index == self.applied {
                applied_term = Some(entry.term);
            }
        }
        let last = before.index;
        if before.term > state.term {
            return Err(ConfigError::Entry { expected: before.index, found: before.index, term: before.term });
        }
        if state.commit > last {
            return Err(ConfigError::CommitBeyondLog { commit: state.commit, last });
        }
        applied_term.ok_or(ConfigError::AppliedOutside { applied: self.applied, start: self.start.index, last })
    }
}

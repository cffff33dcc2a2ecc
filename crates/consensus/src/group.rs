//! One replicated log as a plain value: [`Group::step`] is told what happened and says what to do.
//!
//! Inside is the `raft` crate's `RawNode`; this file drives it and nothing else does. What the crate leaves to its user, or
//! leaves undone silently, is done here:
//!
//! - **Time.** The crate counts ticks and draws its own jitter. We never tick: elections, heartbeats, quorum checks and
//!   vote refusal are moments on the host's clock, the jitter is drawn from the seed, and the crate's own range is one value
//!   wide. So a group asks to be woken exactly when something is due ([`Group::deadline`]), and a lone voter never.
//! - **Durability.** `Ready`s are taken asynchronously: writes have tokens, messages name the token that they wait for.
//!   A change of the commit index alone is not worth a write: it rides in the next one, for it can be found again.
//! - **Order inside a batch.** Proposals and reads that wait may be stepped together ([`Group::step_all`]) and become one
//!   write; around everything else the crate is drained, for its messages must be sorted by the role they were made in.
//! - **The lease**, reads before the first entry of a term, second membership changes: see `lease` and below.
//! - **Bad messages** are dropped before the crate sees them: `guard`.
//!
//! - **Idle groups** fall silent: see `quiet`.
//!
//! **Absent:** clocks, threads, files, sockets. Never fails once made.

use crate::config::{ConfigError, GroupConfig, GroupLimits, Timing};
use crate::fence::{Ballots, Fence, Readmission, Tag, Trust};
use crate::guard::{self, Refused, Surroundings};
use crate::io::{DropReason, Input, Output, Token, WriteToken};
use crate::lease::Lease;
use crate::log::{MemLog, membership_of};
use crate::reads::Reads;
use crate::types::{Change, Entry, EntryKind, HardState, Membership, Position, Role};
use crate::wire::{self, Envelope};
use base::{GroupId, Instant, NodeId, Rng};
use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{self, ConfChangeV2, EntryType, Message, MessageType};
use raft::{Changer, Config, RawNode, ReadOnlyOption, SnapshotStatus, StateRole};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

mod fences;
mod quiet;

/// The crate's own election timeout in ticks, of which none ever passes. `election_elapsed` serves as a flag instead: the
/// crate sets it to zero whenever it resets its timer.
const TICKS: usize = 10;
/// How long a commit waits for an append that takes the word of it along.
const NOTICE: base::Duration = base::Duration::from_millis(2);
const TIMER_RUNS_LOYAL: usize = 1;
const TIMER_RUNS_FREE: usize = TICKS + 1;

/// A write that was asked for and is not known durable.
struct Write {
    token: WriteToken,
    /// The newest of the crate's `Ready`s that it covers.
    ready: u64,
    /// It carries entries or a snapshot.
    log: bool,
    /// It carries a new term or vote.
    ballot: bool,
    snapshot: Option<u64>,
}

/// One Raft group of one node. See the module's text.
pub struct Group {
    id: GroupId,
    node: NodeId,
    raft: RawNode<MemLog>,
    timing: Timing,
    limits: GroupLimits,
    rng: Rng,
    started: bool,

    writes: VecDeque<Write>,
    last_token: WriteToken,
    last_ready: u64,
    /// The newest hard state of the crate, and what was handed out to be written.
    hard_state: HardState,
    hard_state_written: HardState,

    /// The last index handed out as `Commit`.
    delivered: u64,
    /// The membership from these indexes on: the newest snapshot's first, the current one last.
    memberships: VecDeque<(u64, Membership)>,

    /// When this node stands for election, unless it hears of a leader.
    election_at: Instant,
    heartbeat_at: Instant,
    quorum_check_at: Instant,
    transfer_until: Option<Instant>,
    /// Until then another leader's lease may run on our word.
    loyal_until: Instant,
    /// The link to the leader is lost, and no other one is known.
    hurries: bool,
    /// See `quiet`: whether the group may fall silent, has, is about to (the heartbeats are being sent), what happened last and when,
    /// and members whose link is lost.
    quiesces: bool,
    quiet: bool,
    hushing: bool,
    stirred: bool,
    active_at: Instant,
    lost: BTreeSet<NodeId>,
    lease: Lease,
    reads: Reads,
    /// This node's own fence; the index that lifts it, from a leader that has let it in; the votes that it asked for.
    fence: Fence,
    lifts_at: Option<u64>,
    ballots: Ballots,
    /// At a leader: the others' fences, as of this term.
    fences: BTreeMap<NodeId, Readmission>,
    /// What must be said to other nodes and is not the library's.
    asides: Vec<Message>,
    snapshot_wanted: bool,
    /// At a leader: the newest commit that each follower was told, and when those are told who were told of less.
    told: BTreeMap<u64, u64>,
    notice_at: Option<Instant>,

    announced: (Role, u64, Option<NodeId>),
    announced_lease: Option<Instant>,
    refused: u64,
    #[cfg(any(test, feature = "planted"))]
    planted: crate::config::Planted,
}

/// A group as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The group.
    pub group: GroupId,
    /// This node's role.
    pub role: Role,
    /// The newest term seen.
    pub term: u64,
    /// The leader, where known.
    pub leader: Option<NodeId>,
    /// The position before the log's first entry.
    pub start: Position,
    /// The log's last index.
    pub last: u64,
    /// The last index known durable here.
    pub persisted: u64,
    /// The last index known to be decided.
    pub committed: u64,
    /// The last index that the state machine said to have applied.
    pub applied: u64,
    /// The newest durable snapshot's index.
    pub snapshot: u64,
    /// Who belongs to the group.
    pub membership: Membership,
    /// At a leader: how far each other member is known to be, sorted.
    pub followers: Vec<(NodeId, u64)>,
    /// Reads that wait for an index.
    pub reads_waiting: usize,
    /// Until when this node may read by itself.
    pub lease: Option<Instant>,
    /// Messages dropped at the gate since the start.
    pub messages_refused: u64,
    /// Whether it has fallen silent (`group::quiet`).
    pub quiet: bool,
    /// What this node's own word is worth. With anything but `Whole` it is being let back in, or waits for a leader.
    pub trust: Trust,
}

impl Group {
    /// A group from nothing or from what a disk gave back. It does nothing until the first step, which should follow at
    /// once ([`Input::Wake`]).
    pub fn new(config: GroupConfig) -> Result<Group, ConfigError> {
        let applied_term = config.check()?;
        let applied = config.applied;
        let hard_state = HardState { commit: config.hard_state.commit.max(applied), ..config.hard_state };
        // One from before `applied` could help nobody: the log's start is not known to reach back so far, and who belonged to
        // the group then is forgotten.
        let snapshot = match config.snapshot == applied {
            true => Position { index: applied, term: applied_term },
            false => Position::default(),
        };
        let log = MemLog::new(config.start, &config.entries, hard_state, snapshot, &config.membership);
        let limits = config.limits;
        let crate_config = Config {
            id: config.node.0,
            election_tick: TICKS,
            heartbeat_tick: 1,
            applied,
            max_size_per_msg: limits.message_bytes_max,
            max_inflight_msgs: limits.inflight_messages_max,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: TICKS,
            max_election_tick: TICKS + 1,
            read_only_option: ReadOnlyOption::Safe,
            // See `run_notices`.
            skip_bcast_commit: true,
            batch_append: true,
            max_uncommitted_size: limits.uncommitted_bytes_max,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raft = RawNode::new(&crate_config, log, &logger).map_err(|e| ConfigError::Refused(e.to_string()))?;
        let mut rng = Rng::new(config.seed);
        #[allow(unused_mut)]
        let mut reads = Reads::new(config.node, rng.next_u64());
        #[cfg(any(test, feature = "planted"))]
        {
            reads.planted_one_name = config.planted.read_names_reused;
        }
        Ok(Group {
            id: config.group,
            node: config.node,
            raft,
            timing: config.timing,
            limits,
            rng,
            started: false,
            writes: VecDeque::new(),
            last_token: 0,
            last_ready: 0,
            hard_state,
            hard_state_written: config.hard_state,
            delivered: applied,
            memberships: VecDeque::from([(applied, config.membership)]),
            election_at: Instant(0),
            heartbeat_at: Instant(0),
            quorum_check_at: Instant(0),
            transfer_until: None,
            loyal_until: Instant(0),
            hurries: false,
            quiesces: config.quiesces,
            quiet: false,
            hushing: false,
            stirred: true,
            active_at: Instant(0),
            lost: BTreeSet::new(),
            lease: Lease::default(),
            reads,
            fence: config.fence,
            lifts_at: None,
            ballots: Ballots::default(),
            fences: BTreeMap::new(),
            asides: Vec::new(),
            snapshot_wanted: false,
            told: BTreeMap::new(),
            notice_at: None,
            announced: (Role::Follower, hard_state.term, None),
            announced_lease: None,
            refused: 0,
            #[cfg(any(test, feature = "planted"))]
            planted: config.planted,
        })
    }

    /// Takes one input. `now` never goes back. Outputs are appended to `out` and to be done in order.
    pub fn step(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        self.step_all(now, [input], out);
    }

    /// Takes inputs in order. Proposals (and reads) that stand next to each other share one write (one round).
    pub fn step_all(&mut self, now: Instant, inputs: impl IntoIterator<Item = Input>, out: &mut Vec<Output>) {
        self.start(now, out);
        for input in inputs {
            match input {
                Input::Propose { token, data } => {
                    self.stir();
                    self.propose(token, data, out);
                }
                Input::ReadIndex { token } => {
                    self.stir();
                    self.read(token, out);
                }
                other => {
                    self.drain(now, out);
                    self.take(now, other, out);
                    self.drain(now, out);
                }
            }
        }
        self.drain(now, out);
        self.settle_stirred(now);
        self.run_timers(now, out);
        self.drain(now, out);
        self.run_notices(now, out);
        if std::mem::take(&mut self.hushing) {
            self.quiet = self.is_leader();
        }
    }

    /// When the group wants to be stepped next though nothing happens. `None`: not before something does.
    pub fn deadline(&self) -> Option<Instant> {
        if !self.started {
            return Some(Instant(0));
        }
        let core = &self.raft.raft;
        let timer = if self.quiet {
            None
        } else if core.state == StateRole::Leader {
            if core.prs().iter().len() <= 1 {
                None
            } else {
                let beats = self.heartbeat_at.min(self.quorum_check_at);
                [Some(beats), self.transfer_until, self.notice_at].into_iter().flatten().min()
            }
        } else if core.promotable() && !core.prs().is_singleton() && !self.is_writing_log() && !self.is_barred() {
            Some(self.election_at)
        } else {
            None
        };
        // A leader's round ends with an answer or with its lead; only a forwarded one can be lost.
        let reads = if core.state == StateRole::Leader { None } else { self.reads.deadline() };
        [timer, reads].into_iter().flatten().min()
    }

    /// Whether this node may answer reads from its applied state without asking anyone.
    ///
    /// Take `now` *after* the data was read: then nothing newer was acknowledged when it was read, however long the reader
    /// was held up in between.
    pub fn lease_valid(&self, now: Instant) -> bool {
        self.lease_until().is_some_and(|until| now < until)
    }

    /// The end of the lease: the far end of time for a lone voter. `None` where there is none.
    pub fn lease_until(&self) -> Option<Instant> {
        let core = &self.raft.raft;
        let settled = core.apply_to_current_term();
        #[cfg(any(test, feature = "planted"))]
        let settled = settled || self.planted.lease_before_own_term;
        if core.state != StateRole::Leader || self.lease.is_surrendered() || !settled {
            None
        } else if self.is_lone_voter() {
            Some(Instant(u64::MAX))
        } else {
            self.lease.until()
        }
    }

    /// The group as it stands.
    pub fn status(&self) -> Status {
        let core = &self.raft.raft;
        let (role, term, leader) = self.standing();
        let mut followers: Vec<(NodeId, u64)> = match core.state {
            StateRole::Leader => core.prs().iter().map(|(id, progress)| (NodeId(*id), progress.matched)).collect(),
            _ => Vec::new(),
        };
        followers.retain(|(id, _)| *id != self.node);
        followers.sort_unstable();
        Status {
            group: self.id,
            role,
            term,
            leader,
            start: core.store().start(),
            last: core.raft_log.last_index(),
            persisted: core.raft_log.persisted,
            committed: core.raft_log.committed,
            applied: core.raft_log.applied,
            snapshot: core.store().snapshot_index(),
            membership: self.membership().clone(),
            followers,
            reads_waiting: self.reads.len(),
            lease: self.lease_until(),
            quiet: self.quiet,
            messages_refused: self.refused,
            trust: self.trust(),
        }
    }

    /// Who belongs to the group, as of the last index handed out.
    pub fn membership(&self) -> &Membership {
        let (_, current) =
            self.memberships.back().expect("the membership at the start is never forgotten without another");
        current
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        self.raft.raft.state == StateRole::Leader
    }

    fn standing(&self) -> (Role, u64, Option<NodeId>) {
        let core = &self.raft.raft;
        let role = match core.state {
            StateRole::Follower => Role::Follower,
            StateRole::PreCandidate => Role::PreCandidate,
            StateRole::Candidate => Role::Candidate,
            StateRole::Leader => Role::Leader,
        };
        (role, core.term, self.leader())
    }

    fn leader(&self) -> Option<NodeId> {
        let id = self.raft.raft.leader_id;
        (id != raft::INVALID_ID).then_some(NodeId(id))
    }

    fn is_lone_voter(&self) -> bool {
        self.raft.raft.promotable() && self.raft.raft.prs().is_singleton()
    }

    fn is_writing_log(&self) -> bool {
        self.writes.iter().any(|write| write.log)
    }

    fn is_installing(&self) -> bool {
        self.writes.iter().any(|write| write.snapshot.is_some())
    }

    fn start(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.started {
            return;
        }
        self.started = true;
        self.election_at = self.draw_election(now);
        #[cfg(any(test, feature = "planted"))]
        let waits = !self.planted.votes_at_once;
        #[cfg(not(any(test, feature = "planted")))]
        let waits = true;
        // Before it stopped, this node may have answered a heartbeat on which a lease still runs.
        if waits && self.hard_state.term > 0 && !self.is_lone_voter() {
            self.loyal_until = now + self.timing.loyalty;
        }
        self.drain(now, out);
    }

    /// Between one election timeout and two from now, from the seed.
    fn draw_election(&mut self, now: Instant) -> Instant {
        let span = u64::try_from(self.timing.election.as_nanos()).unwrap_or(u64::MAX / 4).max(1);
        now + self.timing.election + base::Duration::from_nanos(self.rng.below(span))
    }

    fn propose(&mut self, token: Token, data: Bytes, out: &mut Vec<Output>) {
        if data.is_empty() || data.len() > self.limits.proposal_bytes_max {
            return self.drop_proposal(token, DropReason::Invalid, out);
        }
        self.append(token, EntryType::EntryNormal, data, out);
    }

    fn propose_membership(&mut self, token: Token, changes: Vec<Change>, out: &mut Vec<Output>) {
        let core = &self.raft.raft;
        if core.state != StateRole::Leader {
            return self.drop_proposal(token, DropReason::NotLeader, out);
        }
        // The crate would replace the proposal by an empty entry and say nothing.
        if core.has_pending_conf() || self.membership().is_joint() || !core.commit_to_current_term() {
            return self.drop_proposal(token, DropReason::ChangeUnderWay, out);
        }
        let change = ConfChangeV2 { changes: changes.iter().map(|c| c.to_raft()).collect(), ..ConfChangeV2::default() };
        let mut changer = Changer::new(core.prs());
        let possible = changes.len() <= crate::types::MEMBERS_MAX
            && change.changes.iter().all(|c| c.node_id != 0 && c.node_id < crate::types::NUMBER_MAX)
            && match change.enter_joint() {
                _ if changes.is_empty() => false,
                Some(auto_leave) => changer.enter_joint(auto_leave, &change.changes).is_ok(),
                None => changer.simple(&change.changes).is_ok(),
            };
        let added = changes.iter().filter(|c| !matches!(c, Change::Remove(_))).count();
        if !possible || self.membership().members().len() + added > crate::types::MEMBERS_MAX / 2 {
            return self.drop_proposal(token, DropReason::Invalid, out);
        }
        self.append(token, EntryType::EntryConfChangeV2, Bytes::from(change.encode_to_vec()), out);
    }

    fn append(&mut self, token: Token, kind: EntryType, data: Bytes, out: &mut Vec<Output>) {
        let core = &mut self.raft.raft;
        // The crate would forward it to the leader, and then nobody could say where it went.
        if core.state != StateRole::Leader {
            return self.drop_proposal(token, DropReason::NotLeader, out);
        }
        if core.lead_transferee.is_some() {
            return self.drop_proposal(token, DropReason::Transferring, out);
        }
        let entry = eraftpb::Entry { entry_type: kind as i32, data, ..eraftpb::Entry::default() };
        let message = Message {
            msg_type: MessageType::MsgPropose as i32,
            from: core.id,
            entries: vec![entry],
            ..Message::default()
        };
        match core.step(message) {
            Ok(()) => out.push(Output::Proposed { token, index: core.raft_log.last_index(), term: core.term }),
            Err(_) => self.drop_proposal(token, DropReason::Overloaded, out),
        }
    }

    fn drop_proposal(&self, token: Token, reason: DropReason, out: &mut Vec<Output>) {
        out.push(Output::ProposalDropped { token, reason, leader: self.leader() });
    }

    fn read(&mut self, token: Token, out: &mut Vec<Output>) {
        if self.reads.len() >= self.limits.reads_max {
            return out.push(Output::ReadDropped { token });
        }
        self.reads.ask(token);
    }

    /// Starts a round for the reads that wait, or drops them where the crate would do so without a word.
    fn start_reads(&mut self, now: Instant, out: &mut Vec<Output>) {
        if !self.reads.is_due() {
            return;
        }
        let core = &self.raft.raft;
        let possible = match core.state {
            StateRole::Leader => core.commit_to_current_term(),
            StateRole::Follower => core.leader_id != raft::INVALID_ID,
            StateRole::PreCandidate | StateRole::Candidate => false,
        };
        if !possible {
            return drop_reads(self.reads.drop_all(), out);
        }
        let name = self.reads.start_round(now + self.timing.election);
        self.raft.read_index(name);
    }

    fn take(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::Propose { token, data } => self.propose(token, data, out),
            Input::ReadIndex { token } => self.read(token, out),
            Input::ProposeMembership { token, changes } => {
                self.stir();
                self.propose_membership(token, changes, out);
            }
            Input::Message(envelope) => self.receive(now, envelope),
            Input::Persisted { token } => self.persisted(token),
            Input::Applied { index } => self.applied(index),
            Input::Snapshotted { index } => self.snapshotted(index),
            Input::Compact { index } => {
                // Nobody can lag behind a lone voter; whoever joins later is sent a snapshot that reaches this far.
                let alone = self.is_lone_voter() && self.membership().members().len() == 1;
                let kept = if alone { index } else { self.raft.raft.store().snapshot_index() };
                let index = index.min(kept).min(self.raft.raft.raft_log.applied);
                self.raft.raft.mut_store().compact(index);
            }
            Input::SnapshotSent { to, ok } => {
                let status = if ok { SnapshotStatus::Finish } else { SnapshotStatus::Failure };
                self.raft.report_snapshot(to.0, status);
            }
            Input::TransferLeader { to } => {
                self.stir();
                self.transfer(now, to, out);
            }
            Input::Unreachable { node } => self.raft.report_unreachable(node.0),
            Input::LinkLost { node } => self.link_lost(now, node),
            Input::Wake => {}
        }
    }

    /// Stands for election as soon as the leader's lease cannot run any more, unless it is heard of till then.
    fn link_lost(&mut self, now: Instant, node: NodeId) {
        self.lost(node);
        if self.leader() == Some(node) && !self.is_leader() {
            (self.hurries, self.quiet) = (true, false);
            // The others heard of it last a little later or earlier.
            let soon = self.loyal_until.max(now) + self.draw_hurried();
            self.election_at = self.election_at.min(soon);
        }
    }

    /// The next attempt, where this one comes to nothing.
    fn draw_next(&mut self, now: Instant) -> Instant {
        match self.hurries {
            true => now + self.timing.heartbeat + self.draw_hurried(),
            false => self.draw_election(now),
        }
    }

    /// A quarter of a heartbeat's interval to one and a half.
    fn draw_hurried(&mut self) -> base::Duration {
        let beat = u64::try_from(self.timing.heartbeat.as_nanos()).unwrap_or(u64::MAX / 4);
        base::Duration::from_nanos(beat / 4 + self.rng.below((beat + beat / 4).max(1)))
    }

    fn receive(&mut self, now: Instant, envelope: Envelope) {
        let group = envelope.group();
        let mut message = *envelope.message;
        if self.is_leader() && message.get_msg_type() != MessageType::MsgHeartbeatResponse && group == self.id {
            // Also a question for votes that is not let in: whoever asks has not heard of this leader. At a follower it is the leader's
            // to go on.
            self.stir();
        }
        let tag = Tag::of(&message);
        // A silent follower has not heard of its leader for long, and means to.
        // A leader that asks for votes leads no more: else those who fell silent with it were loyal to it for ever.
        let asks = matches!(message.get_msg_type(), MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
        let core = &self.raft.raft;
        let has_resigned = asks && message.from == core.leader_id && message.term > core.term;
        let loyal = (now < self.loyal_until || self.quiet) && !has_resigned || self.is_leader();
        let around = Surroundings { writing_log: self.is_writing_log(), installing: self.is_installing(), loyal };
        let admitted = match guard::admit(&self.raft, &around, &mut message) {
            _ if group != self.id => Err(Refused::Misaddressed),
            verdict => verdict,
        };
        if admitted.is_err() {
            self.refused += 1;
            return;
        }
        if !self.passes_fence(&message, tag) {
            return;
        }
        let kind = message.get_msg_type();
        let (from, term) = (message.from, message.term);
        self.lost.remove(&NodeId(from));
        let is_last = kind == MessageType::MsgHeartbeat && wire::is_last(&message);
        let stamp = match kind {
            MessageType::MsgHeartbeatResponse => wire::unstamp(&mut message),
            _ => None,
        };
        self.raft.raft.election_elapsed = if loyal { TIMER_RUNS_LOYAL } else { TIMER_RUNS_FREE };
        #[cfg(any(test, feature = "planted"))]
        if self.planted.votes_counted_twice && kind == MessageType::MsgRequestVoteResponse && !message.reject {
            let (_, membership) = self.memberships.back().expect("there is always a membership");
            let other = membership.voters.iter().find(|id| id.0 != from && **id != self.node).copied();
            let again = other.map(|other| Message { from: other.0, ..message.clone() });
            again.into_iter().for_each(|again| drop(self.raft.step(again)));
        }
        // Its errors say "not from a member" or "nothing to do with it": as good as lost.
        for message in self.count_votes(message, tag) {
            if self.raft.step(message).is_err() {
                self.refused += 1;
            }
        }
        if self.raft.raft.election_elapsed == 0 {
            self.election_at = self.draw_next(now);
        }
        let core = &self.raft.raft;
        let from_leader = matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat | MessageType::MsgSnapshot);
        let mut hears = false;
        if from_leader && core.state == StateRole::Follower && core.leader_id == from && core.term == term {
            self.loyal_until = self.loyal_until.max(now + self.timing.loyalty);
            hears = true;
        }
        if let Some(stamp) = stamp
            && core.state == StateRole::Leader
            && core.term == term
        {
            let (_, membership) = self.memberships.back().expect("there is always a membership");
            let halves = [membership.voters.as_slice(), membership.voters_outgoing.as_slice()];
            #[cfg(any(test, feature = "planted"))]
            let stamp = if self.planted.lease_from_answer { now } else { stamp };
            self.lease.echo(NodeId(from), stamp, now, self.node, halves, self.timing.lease);
        }
        if hears || self.leader().is_none() {
            self.heard_heartbeat(is_last && hears);
        }
        if hears && std::mem::take(&mut self.hurries) {
            self.election_at = self.draw_election(now);
        }
    }

    fn persisted(&mut self, token: WriteToken) {
        let mut newest = None;
        let mut snapshot = None;
        while let Some(write) = self.writes.pop_front_if(|write| write.token <= token) {
            newest = Some(write.ready);
            snapshot = write.snapshot.or(snapshot);
        }
        let Some(newest) = newest else { return };
        // With nothing under way, `Ready`s that needed no write are done as well.
        let ready = if self.writes.is_empty() { self.last_ready } else { newest };
        self.raft.on_persist_ready(ready);
        if let Some(index) = snapshot {
            self.delivered = self.delivered.max(index);
            self.applied(index);
        }
    }

    fn applied(&mut self, index: u64) {
        let log = &self.raft.raft.raft_log;
        if index > log.applied && index <= self.delivered.min(log.committed).min(log.persisted) {
            self.raft.advance_apply_to(index);
        }
    }

    fn snapshotted(&mut self, index: u64) {
        let core = &self.raft.raft;
        if index <= core.store().snapshot_index() || index > core.raft_log.applied {
            return;
        }
        let Some(term) = core.store().term_of(index) else { return };
        // What held at `index` becomes the first that is remembered.
        while self.memberships.get(1).is_some_and(|(from, _)| *from <= index) {
            self.memberships.pop_front();
        }
        let (_, membership) = self.memberships.front().expect("there is always a membership");
        let membership = membership.clone();
        self.snapshot_wanted = false;
        self.raft.raft.mut_store().set_snapshot(Position { index, term }, &membership);
    }

    /// Whether this leader is handing over, for one election timeout at most: until then proposals are dropped.
    pub fn is_handing_over(&self) -> bool {
        self.raft.raft.lead_transferee.is_some()
    }

    fn transfer(&mut self, now: Instant, to: NodeId, out: &mut Vec<Output>) {
        let core = &self.raft.raft;
        // Who has not had a lease yet answers nobody yet: without one in this term it might never, should the transfer come to nothing.
        let serves = self.lease.is_surrendered() || self.announced_lease.is_some();
        let willing = serves && core.state == StateRole::Leader && core.lead_transferee.is_none() && to != self.node;
        if !willing || !self.membership().voters.contains(&to) || core.prs().get(to.0).is_none() {
            return;
        }
        // First the lease, then the message: the successor's election is not held back by anyone's word.
        #[cfg(any(test, feature = "planted"))]
        let keeps = self.planted.lease_survives_transfer;
        #[cfg(not(any(test, feature = "planted")))]
        let keeps = false;
        if !keeps {
            self.lease.surrender();
        }
        self.announce_lease(out);
        self.transfer_until = Some(now + self.timing.election);
        self.raft.transfer_leader(to.0);
    }

    fn run_timers(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.reads.deadline().is_some_and(|deadline| now >= deadline) && !self.is_leader() {
            // At a leader the crate asks again with every heartbeat; a forwarded question may be lost for good.
            drop_reads(self.reads.drop_round(), out);
        }
        if self.is_leader() {
            self.run_leader_timers(now);
            return;
        }
        if !self.raft.raft.promotable() || self.is_writing_log() || self.is_barred() {
            return;
        }
        if self.is_lone_voter() || now >= self.election_at && !self.quiet {
            self.campaign(now);
        }
    }

    fn run_leader_timers(&mut self, now: Instant) {
        if self.raft.raft.prs().iter().len() <= 1 || self.quiet {
            return;
        }
        if self.transfer_until.is_some_and(|until| now >= until) {
            self.transfer_until = None;
            self.raft.raft.abort_leader_transfer();
        }
        if now >= self.quorum_check_at {
            self.quorum_check_at = now + self.timing.election;
            self.step_local(MessageType::MsgCheckQuorum);
        }
        if self.is_leader() && now >= self.heartbeat_at {
            self.heartbeat_at = now + self.timing.heartbeat;
            self.hushing = self.may_fall_silent(now);
            self.raft.ping();
        }
    }

    /// What has been decided is told to followers by the next append with entries, or by an empty one if none follows soon. A message of its own for each
    /// commit, and the answer to it, would be half of all messages.
    fn run_notices(&mut self, now: Instant, out: &mut Vec<Output>) {
        let core = &mut self.raft.raft;
        let known = core.raft_log.committed.min(core.raft_log.persisted);
        let own = core.id;
        let is_behind = |node: &u64| *node != own && self.told.get(node).is_none_or(|told| *told < known);
        if core.state != StateRole::Leader || !core.prs().iter().any(|(node, _)| is_behind(node)) {
            self.notice_at = None;
            return;
        }
        if now < *self.notice_at.get_or_insert(now + NOTICE) {
            return;
        }
        self.notice_at = None;
        let behind: Vec<u64> = core.prs().iter().map(|(node, _)| *node).filter(is_behind).collect();
        for node in behind {
            // Whoever cannot be sent an append now hears of it by the next heartbeat.
            self.told.insert(node, known);
            core.send_append(node);
        }
        self.drain(now, out);
    }

    fn campaign(&mut self, now: Instant) {
        self.election_at = self.draw_next(now);
        // Refused by the crate, and tried again later, while a decided change of membership is not applied.
        self.step_local(MessageType::MsgHup);
    }

    fn step_local(&mut self, kind: MessageType) {
        let message = Message { msg_type: kind as i32, from: self.raft.raft.id, ..Message::default() };
        self.raft.raft.step(message).expect("the crate's own timers never fail");
    }

    /// Takes everything out of the crate that it has to say.
    fn drain(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.start_reads(now, out);
        loop {
            self.announce(now, out);
            self.settle_fences(out);
            for message in std::mem::take(&mut self.asides) {
                out.push(Output::Send { message: Envelope::new(self.id, message), after: None });
            }
            if self.raft.raft.store().take_newer_wanted() && !self.snapshot_wanted {
                self.snapshot_wanted = true;
                let at_least = self.memberships.back().map_or(0, |(index, _)| *index);
                out.push(Output::SnapshotWanted { at_least });
            }
            if !self.raft.has_ready() {
                return;
            }
            let mut ready = self.raft.ready();
            self.last_ready = ready.number();
            if let Some(state) = ready.hs() {
                self.hard_state = HardState::from_raft(state);
            }
            if !ready.snapshot().is_empty() {
                self.install(ready.snapshot(), ready.number(), out);
            }
            let entries = ready.take_entries();
            let ballot = self.has_new_ballot();
            if !entries.is_empty() || ballot {
                self.persist(&entries, ready.number(), false, out);
                #[cfg(any(test, feature = "planted"))]
                let early: Vec<_> = entries.iter().filter(|_| self.planted.members_before_commit).cloned().collect();
                self.raft.raft.mut_store().append(entries);
                #[cfg(any(test, feature = "planted"))]
                for entry in early.iter().filter(|entry| entry.get_entry_type() != EntryType::EntryNormal) {
                    self.change_membership(entry.index, &entry.data, out);
                }
            }
            // A leader's messages may overtake its own entries, but not its term and vote.
            let ballot_token = self.writes.iter().rev().find(|write| write.ballot).map(|write| write.token);
            for message in ready.take_messages() {
                self.send(now, message, ballot_token, out);
            }
            let newest_token = self.writes.back().map(|write| write.token);
            #[cfg(any(test, feature = "planted"))]
            let newest_token = newest_token.filter(|_| !self.planted.acks_before_durable);
            for message in ready.take_persisted_messages() {
                self.send(now, message, newest_token, out);
            }
            for state in ready.take_read_states() {
                let index = state.index;
                let done = self.reads.finish_round(&state.request_ctx);
                out.extend(done.into_iter().map(|token| Output::ReadReady { token, index }));
            }
            let committed = ready.take_committed_entries();
            self.raft.advance_append_async(ready);
            if self.writes.is_empty() {
                self.raft.on_persist_ready(self.last_ready);
            }
            self.deliver(&committed, out);
            self.start_reads(now, out);
        }
    }

    fn has_new_ballot(&self) -> bool {
        let (new, old) = (&self.hard_state, &self.hard_state_written);
        new.term != old.term || new.vote != old.vote
    }

    /// Hands out a write of these entries and of the hard state, if that changed.
    fn persist(&mut self, entries: &[eraftpb::Entry], ready: u64, needed: bool, out: &mut Vec<Output>) {
        let ballot = self.has_new_ballot();
        // Whatever part of this write a power cut leaves: nothing is called committed that the log does not hold.
        let known = self.hard_state.commit.min(self.raft.raft.raft_log.persisted);
        #[cfg(any(test, feature = "planted"))]
        let known = if self.planted.commit_not_persisted { 0 } else { known };
        let hard_state = HardState { commit: known.max(self.hard_state_written.commit), ..self.hard_state };
        let changed = hard_state != self.hard_state_written;
        self.hard_state_written = hard_state;
        self.last_token += 1;
        let token = self.last_token;
        self.writes.push_back(Write { token, ready, log: !entries.is_empty(), ballot, snapshot: None });
        #[cfg(any(test, feature = "planted"))]
        let changed = changed && !self.planted.hard_state_not_persisted;
        out.push(Output::Persist {
            token,
            entries: entries.iter().map(Entry::from_raft).collect(),
            hard_state: changed.then_some(hard_state),
            needed: needed || ballot || !entries.is_empty(),
        });
    }

    fn install(&mut self, snapshot: &eraftpb::Snapshot, ready: u64, out: &mut Vec<Output>) {
        let meta = snapshot.get_metadata();
        let membership = membership_of(meta.get_conf_state());
        self.memberships.clear();
        self.memberships.push_back((meta.index, membership.clone()));
        self.lease.recount();
        let ballot = self.has_new_ballot();
        self.hard_state_written = self.hard_state;
        self.last_token += 1;
        let token = self.last_token;
        self.writes.push_back(Write { token, ready, log: true, ballot, snapshot: Some(meta.index) });
        let (index, term, hard_state) = (meta.index, meta.term, self.hard_state);
        out.push(Output::InstallSnapshot { token, index, term, membership, hard_state });
        self.raft.raft.mut_store().install(snapshot);
    }

    fn send(&mut self, now: Instant, mut message: Message, after: Option<WriteToken>, out: &mut Vec<Output>) {
        let kind = message.get_msg_type();
        // A majority of followers may be faster than this disk. What they have decided is not applied here before it is
        // durable here; if they applied it earlier, a read there would show what a later read by lease here does not.
        let persisted = self.raft.raft.raft_log.persisted;
        let leads = self.is_leader();
        #[cfg(any(test, feature = "planted"))]
        let leads = leads && !self.planted.commit_told_early;
        let told = match kind {
            MessageType::MsgAppend | MessageType::MsgHeartbeat if leads => Some(&mut message.commit),
            // Whatever was acknowledged is applied here. The crate takes the answer to a read for a commit as well.
            MessageType::MsgReadIndexResp if leads => Some(&mut message.index),
            _ => None,
        };
        if let Some(commit) = told.filter(|commit| **commit > persisted) {
            *commit = persisted;
        }
        if leads && matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat) {
            self.told.insert(message.to, message.commit);
        }
        self.tag(&mut message);
        if kind == MessageType::MsgHeartbeat {
            wire::stamp(&mut message, now, self.hushing);
        }
        let index = message.get_snapshot().get_metadata().index;
        let message = Envelope::new(self.id, message);
        out.push(match kind {
            MessageType::MsgSnapshot => Output::SendSnapshot { message, index, after },
            _ => Output::Send { message, after },
        });
    }

    /// Hands out decided entries. A change of membership ends a batch and takes effect at once.
    fn deliver(&mut self, committed: &[eraftpb::Entry], out: &mut Vec<Output>) {
        for batch in committed.split_inclusive(|entry| entry.get_entry_type() != EntryType::EntryNormal) {
            let entries: Vec<Entry> = batch.iter().map(Entry::from_raft).collect();
            let last = entries.last().map(|entry| (entry.index, entry.kind));
            out.push(Output::Commit { entries });
            let Some((index, kind)) = last else { continue };
            self.delivered = index;
            #[cfg(any(test, feature = "planted"))]
            if self.planted.members_before_commit {
                continue;
            }
            if kind == EntryKind::Membership {
                self.change_membership(index, &batch[batch.len() - 1].data, out);
            }
        }
    }

    fn change_membership(&mut self, index: u64, data: &Bytes, out: &mut Vec<Output>) {
        // What is refused here is refused by every node alike: it depends on the entry and the membership before.
        let Ok(change) = ConfChangeV2::decode(data.clone()) else { return };
        let Ok(state) = self.raft.apply_conf_change(&change) else { return };
        let membership = membership_of(&state);
        self.memberships.push_back((index, membership.clone()));
        self.lease.recount();
        let core = &mut self.raft.raft;
        if core.state == StateRole::Leader && !core.promotable() {
            // A leader outside of its group: the crate would go on, and abort when it looks for its own progress.
            let term = core.term;
            core.become_follower(term, raft::INVALID_ID);
        }
        // That this is decided must be known after a restart: a former lone voter must not elect itself again.
        if index > self.hard_state_written.commit {
            self.persist(&[], self.last_ready, true, out);
        }
        out.push(Output::Membership { index, membership });
    }

    /// Says what changed of role, term, leader and lease, and starts what belongs to a new role.
    fn announce(&mut self, now: Instant, out: &mut Vec<Output>) {
        let standing = self.standing();
        let (role, term, leader) = standing;
        if standing != self.announced {
            let (old_role, old_term, old_leader) = self.announced;
            self.announced = standing;
            (self.quiet, self.active_at) = (false, now);
            if (role == Role::Leader) != (old_role == Role::Leader) || term != old_term {
                self.lease.restart();
                self.transfer_until = None;
                self.told.clear();
            }
            if role != old_role || term != old_term || leader != old_leader {
                drop_reads(self.reads.drop_all(), out);
            }
            if role != old_role || term != old_term {
                self.begin_role(role, term);
            }
            if role == Role::Leader && (old_role != Role::Leader || term != old_term) {
                self.heartbeat_at = now + self.timing.heartbeat;
                self.quorum_check_at = now + self.timing.election;
                // At once, so that the lease need not wait for the first interval to pass.
                self.raft.ping();
            }
            self.hurries &= role != Role::Leader;
            if role != Role::Leader && old_role == Role::Leader {
                self.election_at = self.draw_election(now);
            }
            out.push(Output::Role { role, term, leader });
        }
        self.announce_lease(out);
    }

    fn announce_lease(&mut self, out: &mut Vec<Output>) {
        let until = self.lease_until();
        if until != self.announced_lease {
            self.announced_lease = until;
            out.push(Output::Lease { until });
        }
    }
}

fn drop_reads(tokens: Vec<Token>, out: &mut Vec<Output>) {
    out.extend(tokens.into_iter().map(|token| Output::ReadDropped { token }));
}

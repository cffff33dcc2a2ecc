//! The gate before the library: a message from another node passes only where the library has a defined reaction to it.
//!
//! `raft` trusts its peers and aborts the process on indexes that cannot be (`raft_log.rs`: "out of range", "conflict with
//! committed entry"; `become_leader`'s assertions). A node that lost its disk, one of another cluster, or a malicious one
//! can produce all of these. What is refused here is simply dropped, as if the network had lost it: Raft bears that.
//!
//! What is checked, by kind; `last`, `committed`, `term` are this node's:
//!
//! | message | must hold |
//! |---|---|
//! | all | known kind, addressed here, from another node, numbers below 2⁶², a term (reads: none), no long context |
//! | append | entries in order without gaps, of known kinds, terms rising and not above the message's; term 0 only at index 0 |
//! | heartbeat | a commit index beyond `last` is lowered to what is committed already |
//! | append, heartbeat answers | an acknowledged index is not beyond `last` |
//! | snapshot | index and term of something, a possible membership; not while another one is being installed |
//! | vote answers | only a candidate with nothing unwritten that may lead |
//! | read | one name of the right length; only at a leader that committed in its term, from a member |
//! | campaign-now | from this term's leader |

use crate::log::{MemLog, membership_of};
use crate::reads;
use crate::types::NUMBER_MAX;
use crate::wire;
use raft::eraftpb::{EntryType, Message, MessageType};
use raft::{CAMPAIGN_TRANSFER, RawNode, StateRole};

/// The most reads of other nodes that may be under way at a leader.
const FOREIGN_READS_MAX: usize = 1024;

/// What the gate needs to know beside the library's own state.
pub(crate) struct Surroundings {
    /// Entries or a snapshot are handed out and not durable yet.
    pub(crate) writing_log: bool,
    /// A snapshot is being installed.
    pub(crate) installing: bool,
    /// Votes are refused at the moment: a leader was heard of within the election timeout.
    pub(crate) loyal: bool,
}

/// Why a message was dropped. Counted, not acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Of another group, not for this node, or from it.
    Misaddressed,
    /// Of a kind that nodes do not send each other.
    Kind,
    /// An index, a term, an entry or a membership that cannot be.
    Impossible,
    /// Well-formed, but not at this moment.
    Untimely,
}

/// Whether a vote request says that the leader itself asked for the election.
pub(crate) fn is_transfer(message: &Message) -> bool {
    message.context == CAMPAIGN_TRANSFER
}

/// Checks a message, and lowers what is harmless once lowered.
pub(crate) fn admit(raft: &RawNode<MemLog>, around: &Surroundings, m: &mut Message) -> Result<(), Refused> {
    let core = &raft.raft;
    if m.to != core.id || m.from == core.id || m.from == 0 {
        return Err(Refused::Misaddressed);
    }
    let kind = MessageType::try_from(m.msg_type).map_err(|_| Refused::Kind)?;
    let numbers = [m.from, m.term, m.log_term, m.index, m.commit, m.commit_term, m.reject_hint];
    if numbers.iter().any(|n| *n >= NUMBER_MAX) {
        return Err(Refused::Impossible);
    }
    if kind == MessageType::MsgReadIndex {
        // The library's own form: a forwarded read has no term.
        m.term = 0;
    } else if m.term == 0 {
        return Err(Refused::Impossible);
    }
    // Not used by us, and not to be used against us.
    m.request_snapshot = 0;
    m.priority = 0;
    m.deprecated_priority = 0;
    let context_max = match kind {
        MessageType::MsgHeartbeat | MessageType::MsgHeartbeatResponse => wire::STAMP + reads::NAME,
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => CAMPAIGN_TRANSFER.len(),
        _ => 0,
    };
    if m.context.len() > context_max {
        return Err(Refused::Impossible);
    }
    if kind != MessageType::MsgSnapshot {
        m.snapshot = None;
    }
    let last = core.raft_log.last_index();
    match kind {
        MessageType::MsgAppend => append(m),
        MessageType::MsgHeartbeat => {
            if m.commit > last {
                m.commit = core.raft_log.committed;
            }
            no_entries(m)
        }
        MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => {
            let acknowledges = kind == MessageType::MsgAppendResponse && !m.reject;
            // A node that does not lead looks at the term only.
            let beyond = acknowledges && m.term == core.term && core.state == StateRole::Leader && m.index > last;
            if beyond { Err(Refused::Impossible) } else { no_entries(m) }
        }
        MessageType::MsgSnapshot => {
            let meta = m.get_snapshot().get_metadata();
            let stands = meta.index > 0 && meta.index < NUMBER_MAX && meta.term > 0 && meta.term <= m.term;
            // Before the conversion, which drops what is there twice.
            let state = meta.get_conf_state();
            let ids =
                state.voters.len() + state.learners.len() + state.voters_outgoing.len() + state.learners_next.len();
            let possible = ids <= crate::types::MEMBERS_MAX && membership_of(state).is_possible();
            if !stands || !possible {
                return Err(Refused::Impossible);
            }
            if around.installing { Err(Refused::Untimely) } else { no_entries(m) }
        }
        MessageType::MsgRequestVote | MessageType::MsgRequestPreVote => {
            // A vote at a time when the lease of the leader we follow may still run (`lease`).
            if around.loyal && !is_transfer(m) { Err(Refused::Untimely) } else { no_entries(m) }
        }
        MessageType::MsgRequestVoteResponse | MessageType::MsgRequestPreVoteResponse => {
            // An answer before our own question is durable is none: `become_leader` asserts that nothing is unwritten.
            let ready = !around.writing_log && core.promotable();
            if ready || m.term > core.term && m.reject { no_entries(m) } else { Err(Refused::Untimely) }
        }
        MessageType::MsgTimeoutNow => {
            let mine = m.term == core.term && m.from == core.leader_id && core.state == StateRole::Follower;
            if mine && !around.installing && !around.writing_log { no_entries(m) } else { Err(Refused::Untimely) }
        }
        MessageType::MsgReadIndex => {
            named(m)?;
            let can = core.state == StateRole::Leader
                && core.commit_to_current_term()
                && core.prs().get(m.from).is_some()
                && core.pending_read_count() < FOREIGN_READS_MAX;
            if can { Ok(()) } else { Err(Refused::Untimely) }
        }
        MessageType::MsgReadIndexResp => {
            named(m)?;
            let mine = m.term == core.term && m.from == core.leader_id && core.state == StateRole::Follower;
            if mine { Ok(()) } else { Err(Refused::Untimely) }
        }
        _ => Err(Refused::Kind),
    }
}

fn no_entries(m: &Message) -> Result<(), Refused> {
    if m.entries.is_empty() { Ok(()) } else { Err(Refused::Impossible) }
}

/// A read carries its round's name as the data of one entry.
fn named(m: &Message) -> Result<(), Refused> {
    let [entry] = m.entries.as_slice() else { return Err(Refused::Impossible) };
    if entry.data.len() == reads::NAME { Ok(()) } else { Err(Refused::Impossible) }
}

/// Entries must continue the position that the message names. The library takes term 0 at an unknown index for a match.
fn append(m: &Message) -> Result<(), Refused> {
    if (m.index == 0) != (m.log_term == 0) || m.log_term > m.term {
        return Err(Refused::Impossible);
    }
    let (mut index, mut term) = (m.index, m.log_term.max(1));
    for entry in &m.entries {
        let known =
            matches!(EntryType::try_from(entry.entry_type), Ok(EntryType::EntryNormal | EntryType::EntryConfChangeV2));
        if !known || entry.index != index + 1 || entry.term < term || entry.term > m.term {
            return Err(Refused::Impossible);
        }
        (index, term) = (entry.index, entry.term);
    }
    if index < NUMBER_MAX { Ok(()) } else { Err(Refused::Impossible) }
}

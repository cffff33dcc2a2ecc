//! What a group is told and what it answers. Durability order is data: see [`Output`].

use crate::types::{Change, Entry, HardState, Membership, Role};
use crate::wire::Envelope;
use base::{Instant, NodeId};
use bytes::Bytes;

/// Names a proposal or a read, chosen by the host.
pub type Token = u64;

/// Names a write that the group asked for, counted from 1 since the group was made.
pub type WriteToken = u64;

/// Something that happened to a group.
#[derive(Clone, Debug)]
pub enum Input {
    /// Append this to the log. Answered at once by `Proposed` or `ProposalDropped`. Must not be empty.
    Propose {
        /// Comes back in the answer.
        token: Token,
        /// The entry's data.
        data: Bytes,
    },
    /// Change who belongs to the group: one step simply, several at once by joint consensus. Answered as a proposal.
    ProposeMembership {
        /// Comes back in the answer.
        token: Token,
        /// The steps.
        changes: Vec<Change>,
    },
    /// A message from another node; the host has checked that the envelope's `from` is the link's other end.
    Message(Envelope),
    /// The write with this token, and all before it, will survive a power cut.
    Persisted {
        /// As in `Persist` or `InstallSnapshot`.
        token: WriteToken,
    },
    /// The state machine has applied everything up to this index.
    Applied {
        /// The last applied index.
        index: u64,
    },
    /// Find an index that covers everything acknowledged until now. Answered by `ReadReady` or `ReadDropped`.
    ReadIndex {
        /// Comes back in the answer.
        token: Token,
    },
    /// A snapshot of the state machine at this (applied) index is durable: what a follower that lags is sent from now on.
    Snapshotted {
        /// The snapshot's index.
        index: u64,
    },
    /// Forget the log in memory up to this index. What lies beyond the applied index stays, and with more than one voter what
    /// lies beyond the newest durable snapshot: a follower may still need it.
    Compact {
        /// The last index to forget.
        index: u64,
    },
    /// A snapshot that the group wanted sent has arrived and been installed there, or has not.
    SnapshotSent {
        /// The follower.
        to: NodeId,
        /// False to have it tried again.
        ok: bool,
    },
    /// Hand leadership to this voter. The lease ends at once.
    TransferLeader {
        /// The successor.
        to: NodeId,
    },
    /// Messages to this node were lost.
    Unreachable {
        /// The node.
        node: NodeId,
    },
    /// The link with this node has just broken: a process that ends does that at once. Where it leads, nobody waits for it longer
    /// than its lease may run. A wrong word costs an election at most; a missing one leaves a group without a leader that had fallen silent, so
    /// it must also come where a link has only been silent for long.
    LinkLost {
        /// The node.
        node: NodeId,
    },
    /// Time passed: a deadline was reached.
    Wake,
}

/// What the host has to do, **in the order given**.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Write this and answer `Persisted` once it would survive a power cut. Writes become durable in order of tokens.
    Persist {
        /// Comes back in `Persisted`.
        token: WriteToken,
        /// In order. The first may replace an entry written before: then that one and all after it are void.
        entries: Vec<Entry>,
        /// The newest hard state, if it changed. To reach the disk with the entries in one piece, or before them: entries of
        /// a term that the hard state does not know are refused at the next start. Its commit index names only what was
        /// durable before this write.
        hard_state: Option<HardState>,
        /// Must reach the disk even if only the commit index changed. Otherwise such a write may be answered at once and ride
        /// along with a later one, for a commit index can be found again; a decided change of membership must not be forgotten.
        needed: bool,
    },
    /// Replace state machine and log by the snapshot at this position, which came with the message just stepped; answer
    /// `Persisted` once that is durable. The log is empty after it and starts behind `index`.
    InstallSnapshot {
        /// Comes back in `Persisted`.
        token: WriteToken,
        /// The last index that the snapshot covers.
        index: u64,
        /// The term of that entry.
        term: u64,
        /// Who belongs to the group as of that index.
        membership: Membership,
        /// To be written with the snapshot.
        hard_state: HardState,
    },
    /// Send to another node; losing it does no harm. Keep the order of messages to one node.
    Send {
        /// What to send, to `message.to()`.
        message: Envelope,
        /// Only once this write is durable.
        after: Option<WriteToken>,
    },
    /// Stream the snapshot at this index to a node that lags too far, the message last; then say `SnapshotSent`, whatever
    /// became of it: until then that node is sent nothing.
    SendSnapshot {
        /// Announces the snapshot, to `message.to()`.
        message: Envelope,
        /// The snapshot's index: the newest one that the host declared.
        index: u64,
        /// As in `Send`.
        after: Option<WriteToken>,
    },
    /// A node lags behind the log's start, or is new, and the newest snapshot cannot help it: take one at `at_least` or
    /// behind and say `Snapshotted`. Said once until then.
    SnapshotWanted {
        /// The index where that node came to the group, or an earlier one.
        at_least: u64,
    },
    /// These are decided: apply them in order and say `Applied`. `Normal` entries without data change nothing.
    Commit {
        /// Follows the last `Commit` without a gap.
        entries: Vec<Entry>,
    },
    /// The entry at this index, the last of the `Commit` before, changed who belongs to the group. Part of the state
    /// machine: a snapshot at or behind `index` must carry it.
    Membership {
        /// The entry's index.
        index: u64,
        /// As it is from there on.
        membership: Membership,
    },
    /// Once the state machine has applied `index`, reading it reflects everything acknowledged before the question.
    ReadReady {
        /// The question's.
        token: Token,
        /// The index to wait for.
        index: u64,
    },
    /// There is no answer to this read: ask again, here or at the leader.
    ReadDropped {
        /// The question's.
        token: Token,
    },
    /// The proposal is in this node's log at this position. It is decided when `Commit` brings this index: with this term
    /// as proposed, with another one it is lost.
    Proposed {
        /// The proposal's.
        token: Token,
        /// Its index.
        index: u64,
        /// The term it was proposed in.
        term: u64,
    },
    /// The proposal is not in the log and never will be.
    ProposalDropped {
        /// The proposal's.
        token: Token,
        /// Why.
        reason: DropReason,
        /// Who to ask, where known.
        leader: Option<NodeId>,
    },
    /// Role, term or leader changed. On losing the lead, what was proposed and not committed has an unknown outcome.
    Role {
        /// This node's role.
        role: Role,
        /// The term.
        term: u64,
        /// The leader, where known.
        leader: Option<NodeId>,
    },
    /// This node has again whatever it may ever have vouched for: its fence of this name is lifted. To be written down; until it is,
    /// a restart finds the fence again.
    FenceLifted {
        /// The fence's.
        name: u64,
    },
    /// Until when this node may answer reads by itself. `None`: not at all. See [`crate::Group::lease_valid`].
    Lease {
        /// The end; the far end of time for a lone voter.
        until: Option<Instant>,
    },
}

/// Why a proposal was not appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Another node leads, or none.
    NotLeader,
    /// Leadership is being handed over.
    Transferring,
    /// Too many bytes wait to be committed.
    Overloaded,
    /// A change of membership is under way, or this leader has not committed an entry of its own term yet.
    ChangeUnderWay,
    /// Empty or too large, or a membership that no group can have.
    Invalid,
}

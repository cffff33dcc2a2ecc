//! What the driver is told and what it asks for.

use base::{GroupId, Millis, NodeId};
use bytes::Bytes;
use consensus::{Change, Entry, Envelope, HardState, Membership, Position};
use queue::extents::Copying;
use smallvec::SmallVec;
use store::extent::ExtentId;

use super::Arrived;
use crate::state::State;
use crate::topics::Filed;

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// Requests wait, or a deadline was reached.
    Wake,
    /// The append is durable.
    Appended,
    /// The append found no room; nothing of it was written. It is tried again, now and then when there is room, with
    /// [`Append::use_reserve`].
    AppendFull,
    /// What the log can take from now on.
    Room(Room),
    /// The log has stopped; whether the last append is on the disk is unknown.
    LogStopped(String),
    /// From another node.
    Message(GroupId, Envelope),
    /// The last snapshot output has been written; the next may come.
    SnapshotWritten(GroupId),
    /// What [`Output::CopyOut`] asked for is durable under its name, and holds this.
    FiledAway(GroupId, Vec<Filed>),
    /// The snapshot is durable under its name.
    SnapshotDurable(GroupId),
    /// The snapshot could not be written.
    SnapshotFailed(GroupId),
    /// Take a snapshot of this group soon, whatever the log's length.
    SnapshotWanted(GroupId),
    /// A snapshot that another node sent has arrived, durably, and has been read.
    SnapshotArrived(Arrived),
    /// What became of an [`Output::SendSnapshot`]: the other node has it, or it has to be tried again.
    SnapshotSent {
        /// Whose.
        group: GroupId,
        /// The other node.
        to: NodeId,
        /// False to have it tried again.
        ok: bool,
    },
    /// Messages to this node were lost.
    Unreachable(NodeId),
    /// The link with this node has broken.
    LinkLost(NodeId),
    /// Change who belongs to the group, if this node leads it and no other change is under way. Ask [`Driver::status`]
    /// what came of it.
    ChangeMembers(GroupId, Vec<Change>),
    /// Hand the lead of the group to this voter, if this node has it.
    TransferLead(GroupId, NodeId),
    /// Say [`Output::ReadReady`] once reading this group's state here reflects all that was acknowledged before.
    Read(GroupId, u64),
}

/// What the log can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Everything.
    Plenty,
    /// What frees, out of the reserve.
    Reserve,
}

/// Records that become durable together, in this order.
#[derive(Debug, Default)]
pub struct Append {
    /// Groups whose log starts anew behind a snapshot that has arrived; before their entries.
    pub installs: Vec<(GroupId, Position)>,
    /// Entries by group; the first of a group may replace what was written before.
    pub entries: Vec<(GroupId, Entry)>,
    /// The newest hard states, after the entries.
    pub hard_states: Vec<(GroupId, HardState)>,
    /// Whether it may use the reserve: everything in it frees.
    pub frees_only: bool,
    /// Whether one client made all of it and all of the append before: nobody else is there to share a flush with, so it
    /// may be written without handing it to another thread.
    pub lone_client: bool,
}

impl Append {
    pub(super) fn fresh() -> Append {
        Append { frees_only: true, lone_client: true, ..Append::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.installs.is_empty() && self.entries.is_empty() && self.hard_states.is_empty()
    }

    /// For an append that found no room: its entries are in their groups already and cannot be taken back, and everything
    /// behind them, deletes too, would wait for them. Say [`Input::AppendFull`] before, so that this one is the last.
    pub fn use_reserve(&mut self) {
        self.frees_only = true;
    }

    pub(super) fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, entry)| entry.data.len()).sum()
    }
}

/// What the host has to do, in the order given.
#[derive(Debug)]
pub enum Output {
    /// Make this durable, then say [`Input::Appended`]. Only one is under way.
    Append(Append),
    /// Send to another node.
    Send(GroupId, Envelope),
    /// Begin a snapshot file with this first chunk, then say [`Input::SnapshotWritten`].
    SnapshotBegin {
        /// Whose.
        group: GroupId,
        /// Of which moment.
        position: Position,
        /// Who belongs to the group as of then.
        membership: Membership,
        /// The first chunk.
        chunk: Vec<u8>,
    },
    /// Append a chunk to the snapshot file, then say [`Input::SnapshotWritten`].
    SnapshotChunk(GroupId, Vec<u8>),
    /// File this away ([`crate::topics::file_away`]), then say [`Input::FiledAway`]; if it cannot be done,
    /// [`Input::SnapshotFailed`].
    CopyOut(Copying),
    /// The snapshot that is newest needs these extent files of the group, and no others do.
    KeepExtents(GroupId, Vec<ExtentId>),
    /// Finish the snapshot file; say [`Input::SnapshotDurable`] when it is.
    SnapshotEnd(GroupId),
    /// Drop the unfinished snapshot file.
    SnapshotAbort(GroupId),
    /// A durable snapshot covers the group's log up to here.
    CompactLog(GroupId, Position),
    /// Stream this group's snapshot file at `index` to another node, the announcement last, and say [`Input::SnapshotSent`].
    SendSnapshot {
        /// Whose.
        group: GroupId,
        /// To whom.
        to: NodeId,
        /// Which file.
        index: u64,
        /// What the other node's group is told once it has the file.
        announcement: Envelope,
    },
    /// The log says durably that the group starts behind the snapshot that arrived: it is one like the others now
    /// ([`store::snapshot::adopt`]), older ones may go. Drop the state that it replaced, which may take a while.
    SnapshotInstalled(GroupId, Position, Box<State>),
    /// The snapshot that arrived is of no use ([`store::snapshot::discard`]).
    SnapshotUnwanted(GroupId, u64),
    /// The read with this token may be done now.
    ReadReady(u64),
    /// Ask again, here or at the leader.
    ReadDropped(u64),
    /// This node's word counts in the group again, its fence of this name is lifted: write it down ([`store::fence::lift`]).
    FenceLifted(GroupId, u64),
    /// An entry was applied, for the tape of commits.
    Applied(Applied),
    /// Something that must never happen did: stop the node and say this.
    Fatal(String),
}

/// What the tape shows of an entry.
#[derive(Clone, Debug)]
pub struct Applied {
    /// Whose entry.
    pub group: GroupId,
    /// Its index.
    pub index: u64,
    /// Shard time.
    pub stamp: Millis,
    /// The entry's bytes.
    pub data: Bytes,
    /// Its length before anybody cut `data` short.
    pub bytes: usize,
    /// Requests that it answered.
    pub requests: usize,
    /// Clients among the first that asked, by [`Sink::number`].
    pub clients: SmallVec<[u64; 4]>,
    /// Whether others may have asked too.
    pub more_clients: bool,
}

//! What a group does because there are other nodes: messages held until they may go, leadership that moves, and a state that
//! is swapped for a newer one which another node has sent.

use base::{GroupId, Instant, Millis, NodeId};
use consensus::{Envelope, HardState, Input as Told, Membership, Position, Role};

use super::snapshots::Extents;
use super::{Driver, Lane, Output, Snapshot};
use crate::live::Refusal;
use crate::state::{Sink, State};

/// A snapshot from another node: its file is durable here ([`store::snapshot::Arrival::finish`]) and has been read
/// ([`crate::open::arrived`]).
#[derive(Debug)]
pub struct Arrived {
    /// Whose.
    pub group: GroupId,
    /// What the sender's group has to say about it.
    pub announcement: Envelope,
    /// The index it was sent as.
    pub index: u64,
    /// What it holds.
    pub state: Box<State>,
}

/// A snapshot of which the log is about to speak.
pub(super) struct Installing {
    /// The write that must be durable first.
    token: u64,
    position: Position,
    membership: Membership,
    state: Box<State>,
}

impl<C: Clone + PartialEq> Driver<C> {
    pub(super) fn tell_group<S: Sink<C>>(
        &mut self,
        group: GroupId,
        now: Instant,
        wall: Millis,
        told: Told,
        sink: &mut S,
        out: &mut Vec<Output>,
    ) {
        if let Some(at) = self.rounds.at(group) {
            self.touch(at);
            self.tell(at, now, wall, told, sink, out);
        }
    }

    pub(super) fn snapshot_arrived<S: Sink<C>>(
        &mut self,
        arrived: Arrived,
        now: Instant,
        wall: Millis,
        sink: &mut S,
        out: &mut Vec<Output>,
    ) {
        let Arrived { group, announcement, index, state } = arrived;
        let Some(at) = self.rounds.at(group) else {
            return;
        };
        self.touch(at);
        if state.applied() == index && !self.stopped {
            self.lanes[at].arrived = Some((index, state));
            self.tell(at, now, wall, Told::Message(announcement), sink, out);
        }
        let lane = &mut self.lanes[at];
        lane.arrived = None;
        // One that comes twice has the same file: the log may be about to speak of it.
        if lane.installing.as_ref().is_none_or(|installing| installing.position.index != index) {
            out.push(Output::SnapshotUnwanted(group, index));
        }
    }

    /// Consensus wants the group to go on from the snapshot that has arrived. The log speaks of it in the next append; until
    /// then the old state stands.
    pub(super) fn install(
        &mut self,
        at: usize,
        token: u64,
        position: Position,
        membership: Membership,
        hard_state: HardState,
    ) -> Result<(), String> {
        let lane = &mut self.lanes[at];
        let group = lane.shard.group;
        let Some((_, state)) = lane.arrived.take_if(|(index, _)| *index == position.index) else {
            return Err(format!("{group} is to go on from a snapshot at {} that has not arrived", position.index));
        };
        // What was to be written behind the old state is void.
        self.next.entries.retain(|(other, _)| *other != group);
        self.next.hard_states.retain(|(other, _)| *other != group);
        self.next.installs.retain(|(other, _)| *other != group);
        #[cfg(any(test, feature = "planted"))]
        let marks = !lane.planted.install_without_mark;
        #[cfg(not(any(test, feature = "planted")))]
        let marks = true;
        if marks {
            self.next.installs.push((group, position));
        }
        self.next.hard_states.push((group, hard_state));
        (lane.lazy, lane.written) = (None, hard_state);
        if lane.waiting.replace(token).is_none() {
            self.rounds.wanting.push(at);
        }
        lane.installing = Some(Installing { token, position, membership, state });
        Ok(())
    }
}

impl<C: Clone> Lane<C> {
    /// Says it now, or once that write is durable.
    pub(super) fn send(&mut self, what: Output, after: Option<u64>, out: &mut Vec<Output>) {
        match after {
            Some(token) if token > self.durable => self.held.push_back((token, what)),
            _ => out.push(what),
        }
    }

    /// The log speaks durably of the snapshot that arrived: its state becomes the group's.
    pub(super) fn swap_in<S: Sink<C>>(&mut self, token: u64, sink: &mut S, out: &mut Vec<Output>) {
        let Some(installing) = self.installing.take_if(|installing| installing.token <= token) else {
            return;
        };
        let Installing { position, membership, state, .. } = installing;
        if !matches!(self.snapshot, Snapshot::None | Snapshot::Ending(_)) {
            out.push(Output::SnapshotAbort(self.shard.group));
            self.snapshot = Snapshot::None;
        }
        self.lose(&Refusal::Elsewhere(self.shard.leader()), sink);
        let mut own = self.shard.state_mut();
        own.end_waits(MOVED, sink);
        let old = own.replace(*state);
        let (changed, files) = (own.catalog().index(), own.files_to_keep());
        let revision = own.coordination().store().revision();
        let users = own.users().revision();
        self.note_litter(&own);
        drop(own);
        self.shard.bell.ring(changed);
        self.shard.etcd_bell.ring(revision as u64);
        self.shard.users_bell.ring(users);
        self.shard.board.ring_all();
        (self.applied, self.installed, self.membership) = (position, position.index, membership);
        (self.bytes_since_snapshot, self.bytes_held, self.covered) = (0, 0, position.index);
        while let Some((_, token)) = self.reads.pop_front_if(|(index, _)| *index <= position.index) {
            out.push(Output::ReadReady(token));
        }
        self.extents = Extents::default();
        out.push(Output::SnapshotInstalled(self.shard.group, position, Box::new(old)));
        out.push(Output::KeepExtents(self.shard.group, files));
    }

    pub(super) fn take_role<S: Sink<C>>(
        &mut self,
        role: Role,
        leader: Option<NodeId>,
        now: Instant,
        wall: Millis,
        sink: &mut S,
    ) {
        let leads = role == Role::Leader;
        let alone = self.membership.members() == [self.own];
        if leads && !self.leads {
            let stamp = self.shard.state().stamp();
            // A lone voter knows that nobody led meanwhile; and somebody has to begin.
            self.shard.clock.begin(now, stamp, (alone || stamp == 0).then_some(wall));
            self.unsettled = true;
        }
        #[cfg(any(test, feature = "planted"))]
        let keeps = self.planted.answers_by_index;
        #[cfg(not(any(test, feature = "planted")))]
        let keeps = false;
        if !leads && self.leads && !keeps {
            self.lose(&Refusal::Elsewhere(leader), sink);
        }
        self.leads = leads;
        self.shard.set_leader(leader);
        if !leads {
            self.shard.set_refusal(Some(if alone { Refusal::Loading } else { Refusal::Elsewhere(leader) }));
        }
    }
}

/// What a client is told whose wait ends because the lead has moved, as Redis says it.
const MOVED: &[u8] =
    b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n";

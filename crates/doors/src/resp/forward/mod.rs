//! Requests for shards that other nodes lead: any key is served on any node.
//!
//! ```text
//!   session ─ unit ─► origin ═ stream of requests ═► guests ─► the shard's queue, as any client of that node
//!   mailbox ◄──────── origin ◄═ stream of answers ══ guests ◄─ the guest's mailbox
//! ```
//!
//! What travels is a unit as it stands in an entry, so MULTI, waiting commands and scripts take the ways that exist. A client's
//! units for one shard are under way to one node at a time, in order. The node that leads says for each client from which unit on
//! *nothing was done*; only those are sent again, to somebody else, for [`FORWARD_WAIT`] at most; then the client is told
//! TRYAGAIN. Where a link breaks under units that were sent, or a part of a stream is missing, their outcome is unknown: the
//! client is disconnected, never answered.
//!
//! **Invariants:** a unit that was sent is sent again only after its receiver said that it did nothing. No answer is made up.
//! Locks: the origin's is held while frames are handed over; no shard's lock is taken under it.

pub mod frame;
mod guests;
mod origin;
mod place;

pub(super) use place::Placed;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use base::{Duration, GroupId, Histogram, Instant, NodeId};
use parking_lot::Mutex;
use shard::entry::Unblock;
use shard::error::CommandError;
use shard::live::Shard;

use self::frame::{AskRecord, Frame, FrameKind};
use self::guests::Guests;
use self::origin::{After, Origin};
use super::door::{Client, Door};
use super::pubsub::Kind;

/// How long a unit waits for a leader: an election takes about one second. Beyond it the client is told TRYAGAIN.
pub const FORWARD_WAIT: Duration = Duration::from_secs(3);

/// The wait of a client whose request waits at another node.
pub(super) const AWAY: u64 = 1 << 61;

/// What a door has to do with other nodes.
#[derive(Default)]
pub struct Forward {
    /// This node's number; 0 while it is alone.
    node: AtomicU64,
    pub(super) meta: OnceLock<Arc<Shard<Client>>>,
    origin: Mutex<Origin>,
    guests: Guests,
    /// From a request's leaving a session to its answer's coming back from another node.
    pub latency: Histogram,
    /// Frames of requests that came from other nodes.
    pub asked: AtomicU64,
}

/// Figures for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests of this node's clients that are under way to other nodes.
    pub away: usize,
    /// And their bytes.
    pub away_bytes: usize,
    /// Clients of other nodes that have asked here.
    pub guests: usize,
}

impl Forward {
    /// From now on this node is one of several. `meta` is its meta group's shard.
    pub fn join(&self, node: NodeId, meta: Arc<Shard<Client>>) {
        let _ = self.meta.set(meta);
        self.node.store(node.0, Ordering::Release);
    }

    /// This node, 0 while it is alone.
    #[inline]
    pub(in crate::resp) fn node(&self) -> NodeId {
        NodeId(self.node.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.node.load(Ordering::Acquire) != 0
    }

    #[inline]
    pub(super) fn has_ready(&self) -> bool {
        self.guests.has_ready()
    }

    fn take_here(&self, id: u64) -> Option<(Client, GroupId, Vec<Vec<u8>>)> {
        self.origin.lock().take_here(id)
    }

    fn put_back(&self, id: u64, units: Vec<Vec<u8>>) {
        self.origin.lock().put_back(id, units);
    }
}

/// What the host calls.
impl Door {
    /// A frame of another node. Those of one node must come in order.
    pub fn forwarded(&self, from: NodeId, frame: &[u8]) {
        let Ok(frame) = Frame::decode(frame) else {
            // Of a newer build, or damaged: what was in it is missed by the next one's offset.
            return;
        };
        if frame.kind == FrameKind::Asks {
            self.forward.asked.fetch_add(1, Ordering::Relaxed);
            return self.forward.guests.receive(self, from, &frame, self.world.now());
        }
        let mut after = After::default();
        self.forward.origin.lock().receive(self, from, &frame, &mut after);
        after.run(self);
        self.pump_commits();
    }

    /// The links to another node stand, or do not any more: what is under way to it has an unknown outcome.
    pub fn linked(&self, node: NodeId, up: bool) {
        if !up {
            self.forward.guests.down(self, node);
        }
        let mut after = After::default();
        self.forward.origin.lock().link(self, node, up, &mut after);
        after.run(self);
        self.pump_commits();
    }

    /// To be called every twenty milliseconds or so, on a node that is one of several.
    pub fn forward_tick(&self) {
        self.map_slots();
        let mut after = After::default();
        {
            let mut origin = self.forward.origin.lock();
            if origin.is_busy() {
                origin.tick(self, self.world.now(), &mut after);
            }
        }
        after.run(self);
        self.forward.guests.tick(self);
        self.tick_commits();
    }

    /// What is under way between nodes.
    pub fn forward_figures(&self) -> Figures {
        let (away, away_bytes) = self.forward.origin.lock().figures();
        Figures { away, away_bytes, guests: self.forward.guests.count() }
    }
}

/// What sessions call.
impl Door {
    pub(crate) fn forward_unit(
        &self,
        client: &Client,
        group: GroupId,
        unit: Vec<u8>,
        must: bool,
        now: Instant,
    ) -> Result<(), CommandError> {
        self.forward.origin.lock().submit(self, client, group, unit, must, now)
    }

    /// Whoever asked is not interested any more; what was asked still happens.
    pub(crate) fn forward_left(&self, client: u64) {
        let mut origin = self.forward.origin.lock();
        origin.left(client);
        origin.flush(self);
    }

    pub(crate) fn forward_flush(&self) {
        self.forward.origin.lock().flush(self);
    }

    pub(super) fn forward_unblock(&self, client: u64, how: Unblock) -> bool {
        let mut origin = self.forward.origin.lock();
        let was = origin.unblock(client, how);
        origin.flush(self);
        was
    }

    pub(super) fn forward_gone(&self, client: u64) {
        let mut origin = self.forward.origin.lock();
        origin.gone(client);
        origin.flush(self);
    }

    /// Tells the other nodes' clients.
    pub(super) fn forward_message(&self, kind: Kind, channel: &[u8], message: &[u8]) {
        if self.forward.is_on() {
            let mut origin = self.forward.origin.lock();
            origin.publish(&AskRecord::Publish { kind, channel, message });
            origin.flush(self);
        }
    }

    #[inline]
    pub(super) fn pump_guests(&self) {
        if self.forward.has_ready() {
            self.forward.guests.pump(self);
        }
    }

    /// Who leads a group, as far as this node knows. Where it holds no replica of it: who should, or at the next try another. The leader
    /// that it heard of while it still held one may be long dead: it is believed once.
    fn leader_of(&self, group: GroupId, tries: u32) -> Option<NodeId> {
        let me = self.forward.node();
        let known = self.shard_of_group(group).and_then(|shard| shard.leader());
        let leader = known.filter(|leader| *leader != me);
        if known.is_some() && tries == 0 {
            return leader;
        }
        let Some(meta) = self.forward.meta.get() else { return leader };
        let cluster = meta.state().cluster().clone();
        let Some(own) = cluster.groups().get(&group) else { return leader };
        if own.voters.contains(&me) || leader.is_some() && own.learners.contains(&me) {
            return leader;
        }
        let preferred = own.leader.filter(|leader| tries == 0 && *leader != me);
        let nth = || own.voters.get(tries as usize % own.voters.len().max(1)).copied();
        preferred.or_else(nth).filter(|node| *node != me)
    }

    /// Other nodes that hold whatever has been answered, at least: a majority of each shard's voters less the one that leads.
    pub(super) fn other_copies(&self) -> usize {
        let Some(meta) = self.forward.meta.get() else { return 0 };
        let cluster = meta.state().cluster().clone();
        let voters = |group| cluster.groups().get(&group).map_or(1, |own| own.voters.len());
        self.shards.iter().map(|shard| voters(shard.group) / 2).min().unwrap_or(0)
    }

    /// Who leads a group, this node too.
    pub(super) fn leader_anywhere(&self, group: GroupId) -> Option<NodeId> {
        let leader = self.shard_of_group(group).and_then(|shard| shard.leader());
        leader.or_else(|| self.leader_of(group, 0))
    }

    /// Whether another node leads the group, or perhaps none.
    fn is_group_elsewhere(&self, group: GroupId) -> bool {
        self.shard_of_group(group).is_none_or(|shard| shard.is_led_elsewhere())
    }
}

#[cfg(test)]
mod tests;

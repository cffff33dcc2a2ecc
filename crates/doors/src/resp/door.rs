//! What all connections of a Redis door share: the shards, who is connected, who listens to which channel, and figures.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;

use base::{Duration, GroupId, Instant, Limit, Limits, Millis, NodeId, SLOT_COUNT, SlotSet, key_slot};
use parking_lot::{Mutex, RwLock};
use queue::partition::Piece;
use shard::command::{Args, Flags, Spec};
use shard::commit::PARKED;
use shard::entry::Unblock;
use shard::live::{Shard, Shards};
use shard::reply::{Protocol, Reply};
use shard::state::Sink;
use store::disk::ReadError;

use super::acl::Access;
use super::commits::{Commits, NUMBERS};
use super::figures::{self, Figures, Note};
use super::forward::{AWAY, Forward};
use super::introspect;
use super::monitor::Monitors;
use super::peer::Peer;
use super::pubsub::{self, Delivery, Kind, Registry};
use super::topics;
use super::tracking::Tracking;
use crate::kafka::Soon;
use crate::secret::Secret;

/// Clients that have left and are remembered.
const DEPARTED_MAX: usize = 256;

/// A client, shared.
pub type Client = Arc<Peer>;

/// Counters of a door; all only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused: too many.
    pub refused: AtomicU64,
    /// Commands received.
    pub commands: AtomicU64,
    /// Error replies sent by the door itself.
    pub errors: AtomicU64,
    /// Clients closed because what they sent is no command.
    pub protocol_errors: AtomicU64,
    /// Wrong passwords.
    pub auth_failures: AtomicU64,
    /// Bytes read.
    pub bytes_in: AtomicU64,
    /// Bytes written.
    pub bytes_out: AtomicU64,
}

impl Counters {
    /// CONFIG RESETSTAT: what INFO counts starts again.
    pub fn reset(&self) {
        let counters =
            [&self.connections, &self.refused, &self.commands, &self.errors, &self.bytes_in, &self.bytes_out];
        for counter in counters {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// CLIENT PAUSE.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// Until when.
    pub until: Instant,
    /// Only writes, or everything.
    pub writes_only: bool,
}

/// What the outside world gives to the door.
pub trait World: Send + Sync {
    /// Wakes the driver: requests wait.
    fn wake_driver(&self);
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// The wall clock, microseconds since the Unix epoch.
    fn wall_micros(&self) -> u64;
    /// A number nobody can guess.
    fn random(&self) -> u64;
    /// What INFO tells of the node; the door fills in its clients.
    fn facts(&self) -> introspect::Facts;
    /// Milliseconds since another node was heard of, where that is known.
    fn silent_ms(&self, node: NodeId) -> Option<u64> {
        let _ = node;
        None
    }
    /// Runs a task beside the sessions.
    fn spawn(&self, task: Soon<()>) {
        drop(task);
    }
    /// Waits.
    fn sleep(&self, how_long: Duration) -> Soon<()> {
        let _ = how_long;
        Box::pin(std::future::pending())
    }
    /// The batches of pieces that were planned at this group, stamped, within their windows.
    fn read(&self, group: GroupId, pieces: Vec<Piece>) -> Soon<Result<Vec<u8>, ReadError>> {
        let _ = (group, pieces);
        Box::pin(std::future::ready(Err(ReadError::Gone)))
    }
    /// Hands a frame to the link to another node, behind those before it. Never waits. False: it was not taken.
    fn forward(&self, to: NodeId, frame: Vec<u8>) -> bool {
        let _ = (to, frame);
        false
    }
}

/// A Redis door.
pub struct Door {
    /// Bounds.
    pub limits: Limits,
    /// Data shards, in the order in which they were made.
    pub shards: Arc<Shards<Client>>,
    /// The place of each slot's shard in there, as far as known.
    slots: Box<[AtomicU16]>,
    /// The cluster's index by which it was last looked up.
    mapped: AtomicU64,
    /// How many of the shards there were from the beginning.
    founded: AtomicUsize,
    /// The default user's password by the settings, if one is set; what ACL SETUSER says of that user counts more.
    pub password: Option<Secret>,
    /// Who listens to what.
    pub channels: RwLock<Registry>,
    /// Who is connected.
    pub clients: Mutex<BTreeMap<u64, Client>>,
    /// See [`Counters`].
    pub counters: Counters,
    /// Who has left, the latest last: the tape of commits still names them.
    departed: Mutex<VecDeque<Client>>,
    /// Waits by id: whose they are.
    waits: Mutex<HashMap<u64, Client, store::hash::State>>,
    /// CLIENT PAUSE.
    pub pause: Mutex<Option<Pause>>,
    /// Close clients that were idle this long; zero never.
    pub idle_ms: AtomicU64,
    /// Most connections.
    pub connections_max: AtomicU64,
    next_client: AtomicU64,
    /// Clients that CLIENT PAUSE holds.
    pub held_clients: AtomicU64,
    /// CONFIG's parameters.
    pub config: Mutex<introspect::Config>,
    /// Clients that keep copies of what they read.
    pub tracking: Tracking,
    /// `notify-keyspace-events`.
    notifications: AtomicU16,
    /// How long commands take.
    pub figures: Figures,
    /// Who looks at what the others ask for.
    pub monitors: Monitors,
    /// What it remembers of users.
    pub(super) access: Access,
    /// What it keeps for topics as streams.
    pub(super) topic_counts: topics::Counts,
    /// Transactions over several shards that are under way.
    pub(super) commits: Commits,
    /// What it has to do with other nodes.
    pub forward: Forward,
    /// See [`World`].
    pub world: Box<dyn World>,
}

impl Door {
    /// A door to these shards.
    pub fn new(
        limits: Limits,
        shards: Vec<Arc<Shard<Client>>>,
        password: Option<Secret>,
        config: introspect::Config,
        world: Box<dyn World>,
    ) -> Door {
        assert!(!shards.is_empty(), "a door leads somewhere");
        let founded = shards.len();
        let slots: Box<[AtomicU16]> = (0..SLOT_COUNT).map(|_| AtomicU16::new(0)).collect();
        for at in 0..shards.len() {
            SlotSet::share(at, shards.len())
                .iter()
                .for_each(|slot| slots[usize::from(slot)].store(at as u16, Ordering::Relaxed));
        }
        Door {
            channels: RwLock::new(Registry::new(limits.clone())),
            connections_max: AtomicU64::new(limits.connections_max as u64),
            limits,
            shards: Arc::new(Shards::new(shards)),
            slots,
            mapped: AtomicU64::new(0),
            founded: AtomicUsize::new(founded),
            password,
            clients: Mutex::default(),
            counters: Counters::default(),
            departed: Mutex::default(),
            waits: Mutex::default(),
            pause: Mutex::new(None),
            idle_ms: AtomicU64::new(0),
            next_client: AtomicU64::new(0),
            held_clients: AtomicU64::new(0),
            config: Mutex::new(config),
            tracking: Tracking::default(),
            notifications: AtomicU16::new(0),
            figures: Figures::default(),
            monitors: Monitors::default(),
            access: Access::default(),
            topic_counts: topics::Counts::default(),
            commits: Commits::default(),
            forward: Forward::default(),
            world,
        }
    }

    /// Lets a client in. `None` where there are too many.
    pub fn admit(&self, addr: String, laddr: String, now: Instant) -> Option<Client> {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        let mut clients = self.clients.lock();
        if clients.len() as u64 >= self.connections_max.load(Ordering::Relaxed) {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            self.limits.hit(Limit::connections_max);
            return None;
        }
        let id = self.next_client.fetch_add(1, Ordering::Relaxed) + 1;
        let client = Arc::new(Peer::new(id, addr, laddr, now, self.limits.output_bytes_max));
        clients.insert(id, client.clone());
        Some(client)
    }

    /// Takes a client that has gone off the list.
    pub fn dismiss(&self, id: u64) {
        let Some(client) = self.clients.lock().remove(&id) else {
            return;
        };
        let mut departed = self.departed.lock();
        departed.push_back(client);
        if departed.len() > DEPARTED_MAX {
            departed.pop_front();
        }
    }

    /// A client by its number, if it is here or left not long ago.
    pub fn client(&self, id: u64) -> Option<Client> {
        let here = self.clients.lock().get(&id).cloned();
        here.or_else(|| self.departed.lock().iter().rev().find(|client| client.id == id).cloned())
    }

    /// The place of a key's shard.
    #[inline]
    pub fn shard_of(&self, key: &[u8]) -> usize {
        if self.shards.len() == 1 { 0 } else { self.shard_of_slot(key_slot(key)) }
    }

    /// Says how many of the shards there were from the beginning; the others were made later, and the map says what they have.
    pub fn found(&self, count: usize) {
        self.founded.store(count, Ordering::Relaxed);
        for at in 0..count {
            SlotSet::share(at, count)
                .iter()
                .for_each(|slot| self.slots[usize::from(slot)].store(at as u16, Ordering::Relaxed));
        }
    }

    /// The place of the shard that something belongs to which is no key and does not move with slots: a partition of a topic, a
    /// group of consumers. One of those that were there from the beginning.
    pub fn home_of(&self, name: &[u8]) -> usize {
        match self.founded.load(Ordering::Relaxed) {
            0 | 1 => 0,
            count => usize::from(key_slot(name)) * count / usize::from(SLOT_COUNT),
        }
    }

    /// The place of a slot's shard.
    #[inline]
    pub fn shard_of_slot(&self, slot: u16) -> usize {
        usize::from(self.slots[usize::from(slot)].load(Ordering::Relaxed))
    }

    /// The slots of the shard at a place.
    pub fn slots_of(&self, at: usize) -> SlotSet {
        let own = (0..SLOT_COUNT).filter(|slot| self.shard_of_slot(*slot) == at);
        SlotSet::of(own.map(|slot| (slot, slot)))
    }

    /// Looks up which shard has which slots, if that has changed. A shard that this node has not yet is not named.
    pub fn map_slots(&self) {
        let Some(meta) = self.forward.meta.get() else { return };
        let state = meta.state();
        let index = state.cluster().index();
        if index == self.mapped.load(Ordering::Relaxed) {
            return;
        }
        let cluster = state.cluster().clone();
        drop(state);
        if cluster.founded_shards() == 0 {
            return;
        }
        let mut is_whole = true;
        for (slot, group) in cluster.route().into_iter().enumerate() {
            let at = (group.0 as usize).wrapping_sub(1);
            match self.shards.get(at) {
                Some(shard) if shard.group == group => self.slots[slot].store(at as u16, Ordering::Relaxed),
                _ => is_whole = false,
            }
        }
        if is_whole {
            self.mapped.store(index, Ordering::Relaxed);
        }
    }

    /// Whether another node leads the shard, or perhaps none.
    pub fn is_led_elsewhere(&self, at: usize) -> bool {
        self.forward.is_on() && self.shards[at].is_led_elsewhere()
    }

    /// Shard time of the first shard: what TIME-like commands of the door use where no key is named.
    pub fn shard_now(&self, now: Instant) -> Millis {
        self.shards[0].now(now)
    }

    /// Sends a message to whoever listens, on this node and on the others. Returns how many got it on this one.
    pub fn publish(&self, kind: Kind, channel: &[u8], message: &[u8], wakers: &mut Vec<Waker>) -> i64 {
        self.forward_message(kind, channel, message);
        self.publish_here(kind, channel, message, wakers)
    }

    /// Sends a message to whoever listens on this node.
    pub(super) fn publish_here(&self, kind: Kind, channel: &[u8], message: &[u8], wakers: &mut Vec<Waker>) -> i64 {
        let channels = self.channels.read();
        let clients = self.clients.lock();
        let mut count = 0;
        let mut send = |delivery: Delivery<'_>| {
            count += 1;
            let Some(client) = clients.get(&delivery.client) else {
                return;
            };
            let protocol = if client.card.lock().resp == 3 { Protocol::Resp3 } else { Protocol::Resp2 };
            let mut reply = Reply::new(protocol);
            pubsub::write_message(delivery.kind, delivery.pattern, channel, message, &mut reply);
            wakers.extend(client.message(&reply.bytes));
        };
        match kind {
            Kind::Shard => channels.publish_shard(channel).for_each(&mut send),
            _ => channels.publish(channel).for_each(&mut send),
        }
        count
    }

    /// Which of the things that happen to keys this node's clients want to hear of, if this node leads their shards.
    pub fn set_notifications(&self, wanted: shard::notify::Events) {
        self.notifications.store(wanted.0, Ordering::Relaxed);
        for shard in self.shards.iter() {
            shard.state_mut().set_notifications(wanted);
        }
    }

    /// Whether any client of this node tracks what it reads.
    pub fn set_tracking(&self, on: bool) {
        for shard in self.shards.iter() {
            shard.state_mut().set_tracking(on);
        }
    }

    /// A client tracks no more.
    pub(super) fn stop_tracking(&self, id: u64) {
        if self.tracking.stop(id) {
            self.set_tracking(self.tracking.is_on());
        }
    }

    /// A shard that has come later is told what the others were.
    pub fn tell_notifications(&self, shard: &Shard<Client>) {
        let mut state = shard.state_mut();
        state.set_notifications(shard::notify::Events(self.notifications.load(Ordering::Relaxed)));
        state.set_tracking(self.tracking.is_on());
    }

    /// Ends a client's wait other than by data. False where it waits for nothing.
    pub fn unblock(&self, client: &Client, how: Unblock) -> bool {
        let waiter = client.waiting.load(Ordering::SeqCst);
        if waiter == 0 {
            return false;
        }
        if waiter == AWAY {
            return self.forward_unblock(client.id, how);
        }
        let mut outbox = Outbox::new(self);
        outbox.end_wait(waiter, how);
        outbox.flush();
        true
    }

    /// How many clients wait.
    pub fn blocked_clients(&self) -> usize {
        self.waits.lock().len()
    }
}

/// Where answers go: the clients' mailboxes. Wakes them once, by [`Outbox::flush`].
pub struct Outbox<'a> {
    door: &'a Door,
    wakers: Vec<Waker>,
    orphans: Vec<u64>,
    /// When the last command had run, and which have.
    clock: Instant,
    notes: Vec<Note>,
    /// For clients of other nodes.
    published: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Outbox<'a> {
    /// An empty outbox.
    pub fn new(door: &'a Door) -> Outbox<'a> {
        Outbox {
            door,
            wakers: Vec::new(),
            orphans: Vec::new(),
            clock: Instant::default(),
            notes: Vec::new(),
            published: Vec::new(),
        }
    }

    /// Wakes everybody who got something, and ends the waits of clients that have gone meanwhile.
    pub fn flush(mut self) {
        for waiter in std::mem::take(&mut self.orphans) {
            self.end_wait(waiter, Unblock::Gone);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        self.door.figures.take(&mut self.notes, || self.door.world.wall_micros());
        for (channel, message) in self.published.drain(..) {
            self.door.forward_message(Kind::Channel, &channel, &message);
        }
        self.door.pump_guests();
        self.door.pump_commits();
    }

    fn note(&mut self, client: Option<&Client>, spec: &'static Spec, words: Args<'_>, answer: &[u8]) {
        let ended = self.door.world.now();
        // Nothing began where a wait has ended: it took no time.
        let begun = std::mem::replace(&mut self.clock, ended);
        let took = if begun == Instant::default() { Duration::ZERO } else { ended.since(begun) };
        if self.door.figures.is_slow(took) {
            let card = client.map(|client| (client.addr.as_str(), client.card.lock().name.clone()));
            let (address, name) = card.unwrap_or_default();
            self.door.figures.add_slow(words, took, self.door.world.wall_micros() / 1_000_000, address, &name);
        }
        let is_fast = spec.flags.has(Flags::FAST);
        let ended = figures::ended(answer, false);
        self.notes.push(Note { name: figures::name_of(spec, words), is_fast, took, ended });
    }

    fn end_wait(&mut self, waiter: u64, how: Unblock) {
        let group = shard::waiters::group_of(waiter);
        let door = self.door;
        if let Some(shard) = door.shards.iter().find(|shard| shard.group == group)
            && shard::driver::end_wait(shard, waiter, how, self)
        {
            door.world.wake_driver();
        }
    }
}

impl Sink<Client> for Outbox<'_> {
    #[inline]
    fn reply(&mut self, client: &Client, bytes: &[u8]) {
        self.wakers.extend(client.answer(bytes));
    }

    fn refused(&mut self, client: &Client, line: &[u8]) {
        self.wakers.extend(client.refuse(line));
    }

    fn now(&self, _: Instant) -> Instant {
        self.door.world.now()
    }

    fn parked(&mut self, client: &Client, waiter: u64) {
        client.waiting.store(waiter, Ordering::SeqCst);
        self.door.waits.lock().insert(waiter, client.clone());
        if client.is_guest() {
            self.wakers.extend(client.nudge());
        }
        if client.is_closed() {
            self.orphans.push(waiter);
        }
    }

    fn held(&mut self, client: &Client, ticket: u64) {
        client.hold(ticket);
        self.door.waits.lock().insert(ticket, client.clone());
    }

    fn waits_on(&mut self, ticket: u64, waiter: u64) {
        let held = self.door.waits.lock().remove(&ticket);
        if let Some(client) = held {
            self.wakers.extend(client.unhold(ticket));
            self.parked(&client, waiter);
        }
    }

    fn abandoned(&mut self, ticket: u64) {
        if let Some(client) = self.door.waits.lock().remove(&ticket) {
            client.doom();
        }
    }

    fn awaits(&self, ticket: u64) -> bool {
        self.door.waits.lock().contains_key(&ticket)
    }

    fn served(&mut self, waiter: u64, bytes: &[u8]) {
        if waiter & PARKED != 0 {
            let held = self.door.waits.lock().remove(&waiter);
            if let Some(client) = held {
                self.wakers.extend(client.fill(waiter, bytes));
            }
            return;
        }
        if let Some(client) = self.door.waits.lock().remove(&waiter) {
            client.waiting.store(0, Ordering::SeqCst);
            self.wakers.extend(client.answer(bytes));
        }
    }

    fn lost(&mut self, client: &Client) {
        client.doom();
    }

    fn publish(&mut self, channel: &[u8], message: &[u8]) {
        self.door.publish_here(Kind::Channel, channel, message, &mut self.wakers);
        if self.door.forward.is_on() {
            // Behind the shard's lock.
            self.published.push((channel.to_vec(), message.to_vec()));
        }
    }

    fn receivers(&self, channel: &[u8]) -> i64 {
        self.door.channels.read().publish(channel).count() as i64
    }

    fn changed(&mut self, by: Option<&Client>, keys: &BTreeSet<&[u8]>) {
        self.door.tracking.changed(by.map_or(0, |client| client.id), keys, self.door, &mut self.wakers);
    }

    fn all_changed(&mut self) {
        self.door.tracking.all_changed(self.door, &mut self.wakers);
    }

    fn begin(&mut self) {
        self.clock = self.door.world.now();
    }

    fn ran(&mut self, client: &Client, spec: &'static Spec, words: Args<'_>, answer: &[u8]) {
        self.note(Some(client), spec, words, answer);
    }

    fn ran_late(&mut self, waiter: u64, spec: &'static Spec, words: Args<'_>, answer: &[u8]) {
        let client = self.door.waits.lock().get(&waiter).cloned();
        if client.is_some() {
            self.note(client.as_ref(), spec, words, answer);
        }
    }

    fn number(&self, client: &Client) -> u64 {
        if client.id >= NUMBERS { 0 } else { client.id }
    }
}

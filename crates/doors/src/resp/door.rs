//! What all connections of a Redis door share: the shards, who is connected, who listens to which channel, and figures.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;

use base::{Instant, Limit, Limits, Millis, NodeId};
use parking_lot::{Mutex, RwLock};
use shard::entry::Unblock;
use shard::live::Shard;
use shard::reply::{Protocol, Reply};
use shard::slots::shard_of;
use shard::state::Sink;

use super::forward::{AWAY, Forward};
use super::introspect;
use super::peer::Peer;
use super::pubsub::{self, Delivery, Kind, Registry};
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
    /// What INFO tells of the node; the door fills in its clients.
    fn facts(&self) -> introspect::Facts;
    /// Milliseconds since another node was heard of, where that is known.
    fn silent_ms(&self, node: NodeId) -> Option<u64> {
        let _ = node;
        None
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
    /// Data shards in slot order.
    pub shards: Vec<Arc<Shard<Client>>>,
    /// The password, if one is set.
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
    /// CONFIG's parameters.
    pub config: Mutex<introspect::Config>,
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
        Door {
            channels: RwLock::new(Registry::new(limits.clone())),
            connections_max: AtomicU64::new(limits.connections_max as u64),
            limits,
            shards,
            password,
            clients: Mutex::default(),
            counters: Counters::default(),
            departed: Mutex::default(),
            waits: Mutex::default(),
            pause: Mutex::new(None),
            idle_ms: AtomicU64::new(0),
            next_client: AtomicU64::new(0),
            config: Mutex::new(config),
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

    /// The shard of a slot.
    #[inline]
    pub fn shard_of(&self, key: &[u8]) -> usize {
        shard_of(key, self.shards.len())
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
    /// For clients of other nodes.
    published: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Outbox<'a> {
    /// An empty outbox.
    pub fn new(door: &'a Door) -> Outbox<'a> {
        Outbox { door, wakers: Vec::new(), orphans: Vec::new(), published: Vec::new() }
    }

    /// Wakes everybody who got something, and ends the waits of clients that have gone meanwhile.
    pub fn flush(mut self) {
        for waiter in std::mem::take(&mut self.orphans) {
            self.end_wait(waiter, Unblock::Gone);
        }
        for waker in self.wakers.drain(..) {
            waker.wake();
        }
        for (channel, message) in self.published.drain(..) {
            self.door.forward_message(Kind::Channel, &channel, &message);
        }
        self.door.pump_guests();
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

    fn served(&mut self, waiter: u64, bytes: &[u8]) {
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

    fn number(&self, client: &Client) -> u64 {
        if client.is_guest() { 0 } else { client.id }
    }
}

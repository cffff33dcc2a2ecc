//! At the node that leads: other nodes' clients, each with a mailbox of its own that is emptied into the stream back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use base::{GroupId, Instant, NodeId, Rng};
use parking_lot::Mutex;
use shard::entry::Unblock;
use store::codec::Corrupt;

use super::frame::{AnswerRecord, AskRecord, FRAME_BYTES, Frame, FrameKind, Incoming};
use super::place::Placed;
use crate::resp::door::{Client, Door};
use crate::resp::peer::{GUESTS, Peer};

/// Bytes of answers that wait for the link to another node, beyond which its clients' mailboxes are emptied no more.
const BACKLOG_BYTES: usize = 1 << 20;

/// A guest whose mailbox is to be emptied.
type Place = (NodeId, u64, u64);

/// Guests that have got something.
#[derive(Debug, Default)]
struct Ready {
    list: Mutex<Vec<Place>>,
    any: AtomicBool,
}

struct Bell {
    ready: Arc<Ready>,
    place: Place,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ready.list.lock().push(self.place);
        self.ready.any.store(true, Ordering::Release);
    }
}

struct Guest {
    peer: Client,
    group: GroupId,
    waker: Waker,
    /// The number of the next unit, and of the oldest that has not been answered.
    expected: u64,
    oldest: u64,
    /// Units are dropped until a fresh one comes: its node has been told, or will be, from where on nothing was done.
    refusing: bool,
    told: bool,
    waits: bool,
}

/// One other node's clients.
struct House {
    epoch: u64,
    incoming: Incoming,
    guests: BTreeMap<u64, Guest>,
    out: Vec<u8>,
    sent: u64,
    rng: Rng,
}

/// What is to be done once the house's lock is let go.
#[derive(Default)]
struct After {
    wake: bool,
    left: Vec<Client>,
    unblock: Vec<(Client, Unblock)>,
    publish: Vec<(crate::resp::pubsub::Kind, Vec<u8>, Vec<u8>)>,
}

/// All guests of this node.
#[derive(Default)]
pub(super) struct Guests {
    houses: Mutex<BTreeMap<NodeId, Arc<Mutex<House>>>>,
    ready: Arc<Ready>,
    next: Mutex<u64>,
}

impl Guests {
    fn house(&self, node: NodeId) -> Arc<Mutex<House>> {
        self.houses.lock().entry(node).or_default().clone()
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        let houses: Vec<_> = self.houses.lock().values().cloned().collect();
        houses.iter().map(|house| house.lock().guests.len()).sum()
    }

    #[inline]
    pub(super) fn has_ready(&self) -> bool {
        self.ready.any.load(Ordering::Acquire)
    }

    /// A part of the stream of requests has come.
    pub(super) fn receive(&self, door: &Door, from: NodeId, frame: &Frame<'_>, now: Instant) {
        let house = self.house(from);
        let mut after = After::default();
        let mut own = house.lock();
        if own.epoch != frame.epoch {
            if frame.offset != 0 {
                let broken = Frame { kind: FrameKind::Broken, epoch: frame.epoch, offset: 0, bytes: &[] };
                door.world.forward(from, broken.encode());
                return;
            }
            after.left.extend(own.begin(frame.epoch));
        }
        let mut incoming = std::mem::take(&mut own.incoming);
        let record_max = door.limits.command_bytes_max.saturating_mul(2).saturating_add(1 << 20);
        let taken = incoming.take(frame.offset, frame.bytes, record_max, |record| {
            own.record(self, door, from, AskRecord::read(record)?, now, &mut after);
            Ok::<(), Corrupt>(())
        });
        own.incoming = incoming;
        if taken.is_err() {
            let epoch = std::mem::take(&mut own.epoch);
            after.left.extend(own.begin(0));
            let broken = Frame { kind: FrameKind::Broken, epoch, offset: 0, bytes: &[] };
            door.world.forward(from, broken.encode());
        }
        own.flush(door, from);
        drop(own);
        after.run(door);
        if self.has_ready() {
            self.pump(door);
        }
    }

    /// Empties the mailboxes that have got something.
    pub(super) fn pump(&self, door: &Door) {
        while self.ready.any.swap(false, Ordering::AcqRel) {
            let ready = std::mem::take(&mut *self.ready.list.lock());
            let mut touched: Vec<(NodeId, Arc<Mutex<House>>)> = Vec::new();
            let mut after = After::default();
            for (node, epoch, client) in ready {
                let at = touched.iter().position(|(known, _)| *known == node).unwrap_or_else(|| {
                    touched.push((node, self.house(node)));
                    touched.len() - 1
                });
                let mut house = touched[at].1.lock();
                if house.epoch == epoch && house.out.len() < BACKLOG_BYTES {
                    after.left.extend(house.empty(door, client));
                } else if house.epoch == epoch {
                    house.flush(door, node);
                    // Later: the tick comes by.
                    self.ready.list.lock().push((node, epoch, client));
                }
            }
            for (node, house) in touched {
                house.lock().flush(door, node);
            }
            after.run(door);
        }
    }

    /// Tries again what a link did not take.
    pub(super) fn tick(&self, door: &Door) {
        let houses: Vec<_> = self.houses.lock().iter().map(|(node, house)| (*node, house.clone())).collect();
        for (node, house) in houses {
            house.lock().flush(door, node);
        }
        if !self.ready.list.lock().is_empty() {
            self.ready.any.store(true, Ordering::Release);
            self.pump(door);
        }
    }

    /// The links to a node have broken: its clients are nobody's any more.
    pub(super) fn down(&self, door: &Door, node: NodeId) {
        let house = self.houses.lock().remove(&node);
        if let Some(house) = house {
            let left = house.lock().begin(0);
            After { left, ..After::default() }.run(door);
        }
    }

    fn admit(&self, door: &Door, place: impl FnOnce(Bell) -> Waker, at: Place, now: Instant) -> Guest {
        let id = {
            let mut next = self.next.lock();
            *next += 1;
            GUESTS | *next
        };
        let peer = Arc::new(Peer::new(id, String::new(), String::new(), now, door.limits.output_bytes_max));
        let waker = place(Bell { ready: self.ready.clone(), place: at });
        peer.listen(&waker);
        Guest { peer, group: GroupId(0), waker, expected: 0, oldest: 0, refusing: true, told: true, waits: false }
    }
}

impl After {
    fn run(self, door: &Door) {
        for client in self.left {
            client.close();
            door.unblock(&client, Unblock::Gone);
        }
        for (client, how) in self.unblock {
            door.unblock(&client, how);
        }
        let mut wakers = Vec::new();
        for (kind, channel, message) in self.publish {
            door.publish_here(kind, &channel, &message, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
        if self.wake {
            door.world.wake_driver();
        }
    }
}

impl Default for House {
    fn default() -> House {
        House::new()
    }
}

impl House {
    fn new() -> House {
        House {
            epoch: 0,
            incoming: Incoming::default(),
            guests: BTreeMap::new(),
            out: Vec::new(),
            sent: 0,
            rng: Rng::new(0),
        }
    }

    /// A new stream; gives the clients of the old one.
    fn begin(&mut self, epoch: u64) -> Vec<Client> {
        let old = std::mem::replace(self, House { epoch, rng: Rng::new(epoch), ..House::new() });
        old.guests.into_values().map(|guest| guest.peer).collect()
    }

    fn record(
        &mut self,
        guests: &Guests,
        door: &Door,
        from: NodeId,
        record: AskRecord<'_>,
        now: Instant,
        after: &mut After,
    ) {
        match record {
            AskRecord::Unit { client, number, fresh, group, unit } => {
                if !self.guests.contains_key(&client) {
                    if self.guests.len() >= door.limits.connections_max.saturating_mul(2) {
                        door.limits.hit(base::Limit::connections_max);
                        return AnswerRecord::Doomed { client }.put(&mut self.out);
                    }
                    let at = (from, self.epoch, client);
                    let guest = guests.admit(door, |bell| Waker::from(Arc::new(bell)), at, now);
                    self.guests.insert(client, guest);
                }
                after.wake |= self.unit(door, client, number, fresh, GroupId(group), unit, now);
            }
            AskRecord::Gone { client } => after.left.extend(self.guests.remove(&client).map(|guest| guest.peer)),
            AskRecord::Unblock { client, how } => {
                after.unblock.extend(self.guests.get(&client).map(|guest| (guest.peer.clone(), how)));
            }
            AskRecord::Publish { kind, channel, message } => {
                after.publish.push((kind, channel.to_vec(), message.to_vec()));
            }
        }
    }

    /// Takes a unit; whether the driver must be woken.
    #[allow(clippy::too_many_arguments)]
    fn unit(
        &mut self,
        door: &Door,
        client: u64,
        number: u64,
        fresh: bool,
        group: GroupId,
        unit: &[u8],
        now: Instant,
    ) -> bool {
        let guest = self.guests.get_mut(&client).expect("it has just been let in");
        if fresh {
            (guest.expected, guest.oldest, guest.refusing, guest.told) = (number, number, false, true);
        }
        if guest.refusing || number != guest.expected {
            return false;
        }
        let idle = guest.oldest == guest.expected;
        guest.group = group;
        match door.place_unit(group, &guest.peer, unit, idle, now, &mut self.rng) {
            Placed::Queued(wake) => {
                guest.expected += 1;
                return wake;
            }
            Placed::Answered(bytes) => {
                guest.expected += 1;
                guest.oldest += 1;
                put_answers(&mut self.out, client, 1, false, &bytes);
            }
            Placed::Elsewhere(leader) => {
                guest.refusing = true;
                guest.told = idle;
                if idle {
                    AnswerRecord::Refused { client, from: number, leader }.put(&mut self.out);
                }
            }
        }
        false
    }

    /// Puts what a guest has got into the stream. Gives the guest where that was the last of it.
    fn empty(&mut self, door: &Door, client: u64) -> Option<Client> {
        let guest = self.guests.get_mut(&client)?;
        let mut bytes = Vec::new();
        loop {
            let count = guest.peer.collect(&mut bytes);
            let waits = guest.peer.waiting.load(Ordering::SeqCst) != 0;
            if guest.peer.is_doomed() {
                AnswerRecord::Doomed { client }.put(&mut self.out);
                return self.guests.remove(&client).map(|guest| guest.peer);
            }
            if count > 0 || waits != guest.waits {
                guest.oldest += count;
                guest.waits = waits;
                put_answers(&mut self.out, client, count, waits, &bytes);
                bytes.clear();
            }
            let refused = guest.peer.refused();
            let is_all = guest.oldest + refused == guest.expected;
            if is_all && (refused > 0 || !guest.told) {
                guest.peer.forget_refused();
                let leader = door.shard_of_group(guest.group).and_then(|shard| shard.leader());
                // What was refused comes again, if at all, as a fresh one.
                (guest.refusing, guest.told, guest.expected) = (true, true, guest.oldest);
                AnswerRecord::Refused { client, from: guest.oldest, leader }.put(&mut self.out);
            }
            if !guest.peer.listen(&guest.waker) {
                return None;
            }
        }
    }

    /// Hands the stream's bytes to the link, as far as it takes them.
    fn flush(&mut self, door: &Door, to: NodeId) {
        let mut done = 0;
        while done < self.out.len() {
            let bytes = &self.out[done..(done + FRAME_BYTES).min(self.out.len())];
            let frame = Frame { kind: FrameKind::Answers, epoch: self.epoch, offset: self.sent, bytes };
            if !door.world.forward(to, frame.encode()) {
                break;
            }
            done += bytes.len();
            self.sent += bytes.len() as u64;
        }
        self.out.drain(..done);
    }
}

/// Answers in records that are not too long.
fn put_answers(out: &mut Vec<u8>, client: u64, count: u64, waits: bool, bytes: &[u8]) {
    let mut rest = bytes;
    while rest.len() > FRAME_BYTES {
        let (part, behind) = rest.split_at(FRAME_BYTES);
        AnswerRecord::Answers { client, count: 0, waits, bytes: part }.put(out);
        rest = behind;
    }
    AnswerRecord::Answers { client, count, waits, bytes: rest }.put(out);
}

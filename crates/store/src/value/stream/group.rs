//! A consumer group: how far it has read, who reads in it, and what was delivered but not yet acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::Millis;

use super::StreamId;
use super::deliveries::{Deliveries, Part};
use crate::codec::{Corrupt, Input, put_bytes, put_varint};
use crate::value::pieces::Piece;

/// One delivery that was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending {
    /// The number of the consumer it was delivered to.
    pub consumer: ConsumerNumber,
    /// When it was delivered last, shard time.
    pub delivered: Millis,
    /// How often it was delivered.
    pub count: u64,
}

/// Names a consumer within its group until it is deleted. Differs between replicas: never let it out.
pub type ConsumerNumber = u32;

/// One reader of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumer {
    /// What it calls itself.
    pub name: Box<[u8]>,
    /// When it last tried to read or claim, shard time.
    pub seen: Millis,
    /// When it last read or claimed something.
    pub active: Option<Millis>,
    pending: BTreeSet<StreamId>,
}

impl Consumer {
    /// How many deliveries it has not acknowledged.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Ids of those deliveries from `start` on.
    pub fn pending_from(&self, start: StreamId) -> impl Iterator<Item = StreamId> {
        self.pending.range(start..).copied()
    }
}

/// A consumer group.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The last entry delivered to any of its consumers.
    pub last_id: StreamId,
    /// How many entries of the stream stand up to `last_id`, as far as that can be known.
    pub entries_read: Option<u64>,
    pending: Deliveries,
    numbers: BTreeMap<Box<[u8]>, ConsumerNumber>,
    consumers: Vec<Option<Consumer>>,
    free: Vec<ConsumerNumber>,
    /// Length of all consumers' names.
    name_bytes: usize,
    /// The deliveries by their time, once somebody has asked for it. Not stored, and not counted among the bytes: replicas may differ in it.
    by_time: Option<BTreeSet<(Millis, StreamId)>>,
}

const LIVING: &str = "a number names a consumer until the consumer is deleted";

impl Group {
    pub(super) fn new(last_id: StreamId, entries_read: Option<u64>) -> Group {
        Group { last_id, entries_read, ..Group::default() }
    }

    /// Heap bytes by estimate: a node of a B-tree is about two thirds full.
    pub(super) fn bytes(&self) -> usize {
        const PENDING: usize = (2 * size_of::<StreamId>() + size_of::<Pending>()) * 3 / 2;
        const CONSUMER: usize = size_of::<Option<Consumer>>() * 3 / 2 + 64;
        size_of::<Group>() + self.pending.len() * PENDING + self.numbers.len() * CONSUMER + 2 * self.name_bytes
    }

    /// How many deliveries were not acknowledged.
    pub fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// The delivery of this entry, if it was not acknowledged.
    pub fn pending(&self, id: StreamId) -> Option<&Pending> {
        self.pending.get(id)
    }

    /// Unacknowledged deliveries from `start` on.
    pub fn pending_from(&self, start: StreamId) -> impl DoubleEndedIterator<Item = (StreamId, &Pending)> {
        self.pending.from(start)
    }

    /// How many consumers it has.
    pub fn consumer_count(&self) -> usize {
        self.numbers.len()
    }

    /// Its consumers in the order of their names.
    pub fn consumers(&self) -> impl Iterator<Item = &Consumer> {
        self.numbers.values().map(|number| self.consumer(*number))
    }

    /// The number of the consumer of that name.
    pub fn find_consumer(&self, name: &[u8]) -> Option<ConsumerNumber> {
        self.numbers.get(name).copied()
    }

    /// The consumer of that number.
    pub fn consumer(&self, number: ConsumerNumber) -> &Consumer {
        self.consumers[number as usize].as_ref().expect(LIVING)
    }

    /// The consumer of that name, made where there is none; and whether it was made.
    pub fn ensure_consumer(&mut self, name: &[u8], now: Millis) -> (ConsumerNumber, bool) {
        if let Some(number) = self.find_consumer(name) {
            return (number, false);
        }
        let consumer = Consumer { name: name.into(), seen: now, active: None, pending: BTreeSet::new() };
        let number = self.free.pop().unwrap_or_else(|| {
            self.consumers.push(None);
            (self.consumers.len() - 1) as ConsumerNumber
        });
        self.consumers[number as usize] = Some(consumer);
        self.numbers.insert(name.into(), number);
        self.name_bytes += name.len();
        (number, true)
    }

    /// Removes a consumer and its deliveries. Returns how many those were.
    pub fn delete_consumer(&mut self, name: &[u8]) -> Option<usize> {
        let number = self.numbers.remove(name)?;
        let consumer = self.consumers[number as usize].take().expect(LIVING);
        self.free.push(number);
        self.name_bytes -= name.len();
        for id in &consumer.pending {
            let old = self.pending.remove(*id);
            if let (Some(by_time), Some(old)) = (&mut self.by_time, old) {
                by_time.remove(&(old.delivered, *id));
            }
        }
        Some(consumer.pending.len())
    }

    /// Notes that a consumer has tried to read.
    pub fn mark_seen(&mut self, number: ConsumerNumber, now: Millis) {
        self.consumers[number as usize].as_mut().expect(LIVING).seen = now;
    }

    /// Notes that a consumer has read something.
    pub fn mark_active(&mut self, number: ConsumerNumber, now: Millis) {
        self.consumers[number as usize].as_mut().expect(LIVING).active = Some(now);
    }

    /// Makes this the entry's delivery, whoever it was delivered to before.
    pub fn deliver(&mut self, id: StreamId, pending: Pending) {
        let old = self.pending.insert(id, pending);
        if let Some(by_time) = &mut self.by_time {
            if let Some(old) = &old {
                by_time.remove(&(old.delivered, id));
            }
            by_time.insert((pending.delivered, id));
        }
        if old.is_some_and(|old| old.consumer == pending.consumer) {
            return;
        }
        if let Some(old) = old {
            self.consumers[old.consumer as usize].as_mut().expect(LIVING).pending.remove(&id);
        }
        self.consumers[pending.consumer as usize].as_mut().expect(LIVING).pending.insert(id);
    }

    /// Forgets the delivery of an entry. False where there is none.
    pub fn acknowledge(&mut self, id: StreamId) -> bool {
        let Some(old) = self.pending.remove(id) else {
            return false;
        };
        if let Some(by_time) = &mut self.by_time {
            by_time.remove(&(old.delivered, id));
        }
        self.consumers[old.consumer as usize].as_mut().expect(LIVING).pending.remove(&id);
        true
    }

    /// Up to `most` entries that were delivered last at `until` or before, those that wait longest first.
    pub fn overdue(&mut self, until: Millis, most: usize) -> Vec<StreamId> {
        let all = || self.pending.from(StreamId::MIN).map(|(id, pending)| (pending.delivered, id)).collect();
        let by_time = &*self.by_time.get_or_insert_with(all);
        by_time.iter().take_while(|(delivered, _)| *delivered <= until).take(most).map(|(_, id)| *id).collect()
    }

    /// When the delivery that waits longest was made: known once [`Group::overdue`] was asked.
    pub fn oldest_delivery(&self) -> Option<Millis> {
        self.by_time.as_ref()?.first().map(|(delivered, _)| *delivered)
    }

    /// Frees up to `count` deliveries of a group that nobody uses any more. Returns whether all are freed.
    pub(super) fn crumble(&mut self, count: usize) -> bool {
        if let Some(by_time) = &mut self.by_time {
            for _ in 0..count {
                by_time.pop_first();
            }
        }
        if !self.pending.crumble(count.div_ceil(64)) {
            return false;
        }
        let mut left = count;
        while let Some(last) = self.consumers.last_mut() {
            match last {
                Some(consumer) if !consumer.pending.is_empty() => {
                    if left == 0 {
                        return false;
                    }
                    consumer.pending.pop_last();
                    left -= 1;
                }
                _ => {
                    self.consumers.pop();
                }
            }
        }
        true
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let order = self.encode_head(out);
        for (id, pending) in self.pending.from(StreamId::MIN) {
            encode_delivery(id, pending, &order, out);
        }
    }

    /// What stands before the deliveries: consumers, and how many deliveries there are. Gives back the place of each consumer by
    /// its number.
    fn encode_head(&self, out: &mut Vec<u8>) -> Vec<u64> {
        self.last_id.encode(out);
        put_option(out, self.entries_read);
        put_varint(out, self.numbers.len() as u64);
        let mut order = vec![0u64; self.consumers.len()];
        for (at, (name, number)) in self.numbers.iter().enumerate() {
            order[*number as usize] = at as u64;
            let consumer = self.consumer(*number);
            put_bytes(out, name);
            put_varint(out, consumer.seen);
            put_option(out, consumer.active);
        }
        put_varint(out, self.pending.len() as u64);
        order
    }

    /// The group as it is now, to be written behind `head`.
    pub(super) fn freeze(&mut self, mut head: Vec<u8>) -> impl Iterator<Item = Piece> {
        let order: Arc<[u64]> = self.encode_head(&mut head).into();
        let parts = self.pending.hold().map(move |part| Piece::Deliveries(order.clone(), part));
        std::iter::once(Piece::Bytes(head)).chain(parts)
    }

    /// Reads what stands before the deliveries, and how many follow.
    pub(super) fn decode_head(input: &mut Input<'_>) -> Result<(Group, u64), Corrupt> {
        let mut group = Group::new(StreamId::decode(input)?, option(input)?);
        for number in 0..input.count()? {
            let name = input.bytes()?;
            let seen = input.varint()?;
            if group.ensure_consumer(name, seen) != (number as ConsumerNumber, true) {
                return Err(Corrupt("a consumer stands twice"));
            }
            group.consumers[number].as_mut().expect(LIVING).active = option(input)?;
        }
        Ok((group, input.varint()?))
    }

    pub(super) fn decode_delivery(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let id = StreamId::decode(input)?;
        let consumer = input.varint()?;
        if consumer >= self.consumers.len() as u64 {
            return Err(Corrupt("a delivery to nobody"));
        }
        let pending =
            Pending { consumer: consumer as ConsumerNumber, delivered: input.varint()?, count: input.varint()? };
        self.deliver(id, pending);
        Ok(())
    }
}

fn encode_delivery(id: StreamId, pending: &Pending, order: &[u64], out: &mut Vec<u8>) {
    id.encode(out);
    put_varint(out, order[pending.consumer as usize]);
    put_varint(out, pending.delivered);
    put_varint(out, pending.count);
}

/// Writes a part of the deliveries that was held; `order` is the place of each consumer by its number.
pub(in crate::value) fn encode_part(part: &Part, order: &[u64], out: &mut Vec<u8>) {
    part.iter().for_each(|(id, pending)| encode_delivery(*id, pending, order, out));
}

fn put_option(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(u8::from(value.is_some()));
    if let Some(value) = value {
        put_varint(out, value);
    }
}

fn option(input: &mut Input<'_>) -> Result<Option<u64>, Corrupt> {
    match input.u8()? {
        0 => Ok(None),
        1 => input.varint().map(Some),
        _ => Err(Corrupt("neither something nor nothing")),
    }
}

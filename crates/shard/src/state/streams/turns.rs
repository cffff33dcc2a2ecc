//! XREADGROUP `>` where a group is not given entries in the order of their offsets alone: those that nobody has acknowledged for
//! too long again, delayed ones not before they are due, higher priorities first.
//!
//! ```text
//!   offsets        …  c  c+1  c+2  c+3  c+4  …  intake        cursor c = behind the group's last id
//!   marked records        ▲         ▲                         taken in: `later` (not due) or `ready` (by priority)
//!   ordinary ones     ▲        ▲         ▲                    given by the cursor, which passes what was taken in (`ahead`)
//! ```
//!
//! So an ordinary record costs nothing, however many there are, and the group goes by its last id as ever. A group has [`Turns`]
//! only while something is out of turn. Whoever sets the group's last id (XGROUP SETID) begins anew there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use ::queue::PartitionId;
use ::queue::partition::Partition;
use base::Millis;
use store::codec::{Corrupt, Input, put_u64, put_varint};
use store::value::{ConsumerNumber, Elsewhere, Group, Pending, StreamId};

use crate::reply::Reply;
use crate::streams::{Rules, put_given};

/// Records that one group may have taken in out of turn and not been given; further ones are taken in later.
pub const HELD_MAX: usize = 1 << 20;

/// All groups that have some.
pub(in crate::state) type AllTurns = BTreeMap<(PartitionId, Box<[u8]>), Turns>;

/// What a group has met out of turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::state) struct Turns {
    /// The group's last id when this was left: if it is another one, somebody has set it.
    seen: StreamId,
    /// Behind the last offset whose mark was looked at.
    intake: u64,
    /// Not due yet.
    later: BTreeSet<(Millis, u64, u8)>,
    /// Due.
    ready: BTreeSet<(Reverse<u8>, u64)>,
    /// What was taken in, from the cursor on, given by now or not.
    ahead: BTreeSet<u64>,
}

/// The offset behind an id.
fn behind(id: StreamId) -> u64 {
    if id.seq >= 1 { id.ms.saturating_add(1) } else { id.ms }
}

impl Turns {
    fn held(&self) -> usize {
        self.later.len() + self.ready.len()
    }

    /// Whether nothing would be lost without it.
    pub(in crate::state) fn is_empty(&self) -> bool {
        self.held() == 0 && self.ahead.is_empty()
    }

    /// When the next one is due.
    pub(in crate::state) fn next_due(&self) -> Option<Millis> {
        self.later.first().map(|(due, ..)| *due)
    }

    fn take_in(&mut self, own: &Partition, from: u64, end: u64, now: Millis) {
        let from = self.intake.max(from);
        for (offset, marked) in own.marked(from..end) {
            if self.held() >= HELD_MAX {
                self.intake = offset;
                return;
            }
            if marked.due > now {
                self.later.insert((marked.due, offset, marked.priority));
            } else if marked.priority > 0 {
                self.ready.insert((Reverse(marked.priority), offset));
            } else {
                // Its time is over: a record like any other.
                continue;
            }
            self.ahead.insert(offset);
        }
        self.intake = end.max(from);
    }

    fn ripen(&mut self, now: Millis) {
        while let Some((due, offset, priority)) = self.later.first().copied().filter(|(due, ..)| *due <= now) {
            self.later.remove(&(due, offset, priority));
            self.ready.insert((Reverse(priority), offset));
        }
    }

    /// The next ordinary offset.
    fn ordinary(&mut self, cursor: &mut u64) -> Option<u64> {
        while self.ahead.remove(cursor) {
            *cursor += 1;
        }
        (*cursor < self.intake).then_some(*cursor)
    }

    pub(in crate::state) fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.seen.ms);
        put_u64(out, self.seen.seq);
        put_varint(out, self.intake);
        put_varint(out, self.later.len() as u64);
        for (due, offset, priority) in &self.later {
            put_varint(out, *due);
            put_varint(out, *offset);
            out.push(*priority);
        }
        put_varint(out, self.ready.len() as u64);
        for (Reverse(priority), offset) in &self.ready {
            out.push(*priority);
            put_varint(out, *offset);
        }
        put_varint(out, self.ahead.len() as u64);
        self.ahead.iter().for_each(|offset| put_varint(out, *offset));
    }

    pub(in crate::state) fn decode(input: &mut Input<'_>) -> Result<Turns, Corrupt> {
        let mut own =
            Turns { seen: StreamId::new(input.u64()?, input.u64()?), intake: input.varint()?, ..Turns::default() };
        for _ in 0..input.count()? {
            own.later.insert((input.varint()?, input.varint()?, input.u8()?));
        }
        for _ in 0..input.count()? {
            own.ready.insert((Reverse(input.u8()?), input.varint()?));
        }
        for _ in 0..input.count()? {
            own.ahead.insert(input.varint()?);
        }
        Ok(own)
    }
}

/// One reader's wish.
pub(super) struct Wish<'a> {
    pub(super) consumer: &'a [u8],
    pub(super) count: usize,
    pub(super) no_ack: bool,
    pub(super) rules: Rules,
    pub(super) id: PartitionId,
    pub(super) now: Millis,
}

/// Which of the three sources an entry comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Overdue,
    Ready,
    Ordinary,
}

impl Wish<'_> {
    /// Gives the reader what it is to have, into `body`. Returns how many entries that were.
    pub(super) fn give(
        &self,
        own: Option<&Partition>,
        group: &mut Group,
        turns: &mut Turns,
        body: &mut Reply,
    ) -> usize {
        let (consumer, _) = group.ensure_consumer(self.consumer, self.now);
        group.mark_seen(consumer, self.now);
        let Some(own) = own else { return 0 };
        let end = own.stable();
        let start = own.start().min(end);
        if turns.seen != group.last_id {
            *turns = Turns { seen: group.last_id, intake: behind(group.last_id), ..Turns::default() };
        }
        let mut cursor = behind(group.last_id).max(start);
        turns.ahead = turns.ahead.split_off(&cursor);
        turns.take_in(own, cursor, end, self.now);
        turns.ripen(self.now);
        let mut overdue = self.overdue(own, group, start).into_iter().peekable();
        let mut given = 0;
        while given < self.count {
            while turns.ready.first().is_some_and(|(_, offset)| *offset < start) {
                turns.ready.pop_first();
            }
            let again = overdue.peek().map(|(priority, offset)| (*priority, From::Overdue, *offset));
            let ready = turns.ready.first().map(|(priority, offset)| (*priority, From::Ready, *offset));
            let next = turns.ordinary(&mut cursor).map(|offset| (Reverse(0), From::Ordinary, offset));
            // Within a priority, what comes again goes first, and the rest by its offset.
            let rank =
                |(priority, from, offset): &(Reverse<u8>, From, u64)| (*priority, *from != From::Overdue, *offset);
            let Some((_, from, offset)) = [again, ready, next].into_iter().flatten().min_by_key(rank) else { break };
            match from {
                From::Overdue => drop(overdue.next()),
                From::Ready => drop(turns.ready.pop_first()),
                From::Ordinary => cursor += 1,
            }
            self.deliver(group, consumer, offset, body);
            given += 1;
        }
        turns.ordinary(&mut cursor);
        if cursor > behind(group.last_id) {
            group.last_id = Elsewhere::id(cursor - 1);
        }
        // What the group has met: all before the cursor and what it was given ahead of it, without what it is yet to be given.
        let met = cursor + turns.ahead.len() as u64;
        group.entries_read = Some(met.saturating_sub(turns.held() as u64));
        turns.seen = group.last_id;
        given
    }

    /// Entries that were not acknowledged in time, by priority. Those that retention has taken are forgotten.
    fn overdue(&self, own: &Partition, group: &mut Group, start: u64) -> Vec<(Reverse<u8>, u64)> {
        let visibility = self.rules.visibility_ms;
        let Some(until) = self.now.checked_sub(visibility).filter(|_| visibility > 0) else { return Vec::new() };
        loop {
            let ids = group.overdue(until, self.count);
            let (gone, left): (Vec<StreamId>, Vec<StreamId>) = ids.into_iter().partition(|id| id.ms < start);
            if gone.is_empty() {
                let priority =
                    |offset: u64| own.marked(offset..offset + 1).next().map_or(0, |(_, marked)| marked.priority);
                let mut all: Vec<_> = left.into_iter().map(|id| (Reverse(priority(id.ms)), id.ms)).collect();
                all.sort_unstable();
                return all;
            }
            gone.into_iter().for_each(|id| {
                group.acknowledge(id);
            });
        }
    }

    fn deliver(&self, group: &mut Group, consumer: ConsumerNumber, offset: u64, body: &mut Reply) {
        let id = Elsewhere::id(offset);
        let before = group.pending(id).map_or(0, |pending| pending.count);
        let count = before.saturating_add(1);
        let most = self.rules.deliveries_max;
        let is_dead = most > 0 && before >= most;
        if self.no_ack && !is_dead {
            group.acknowledge(id);
        } else {
            group.deliver(id, Pending { consumer, delivered: self.now, count });
            group.mark_active(consumer, self.now);
        }
        body.array(2);
        let mut word = Vec::with_capacity(24);
        id.write(&mut word);
        body.bulk(&word);
        put_given(&mut body.bytes, (self.id.0.0, self.id.1), offset, count, is_dead);
    }
}

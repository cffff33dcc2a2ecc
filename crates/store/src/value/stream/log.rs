//! The entries of a stream, and the counters that Redis 7 keeps about those that are gone.

use std::collections::VecDeque;

use base::Millis;

use super::block::{Block, Entry};
use super::{Group, StreamId};
use crate::codec::{Corrupt, Input, put_varint};
use crate::value::pieces::{Frozen, Piece};

/// What a trim leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// At most this many entries, the newest.
    Newest(u64),
    /// Entries from this id on.
    From(StreamId),
}

/// How to trim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trim {
    /// What stays.
    pub keep: Keep,
    /// Whether only whole blocks may go, leaving somewhat more than asked.
    pub approximate: bool,
    /// At most this many entries go; 0 is no bound.
    pub limit: u64,
}

/// Entries that lie elsewhere, where whoever asks can get them by their numbers: the records of a topic's partition. The entry
/// of number `n` has the id `n-1`, so that none has `0-0`, behind which readers begin. They have no fields here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elsewhere {
    /// Where they lie: for whoever asks.
    pub owner: (u128, u32),
    /// The first number.
    pub start: u64,
    /// The number behind the last.
    pub end: u64,
}

impl Elsewhere {
    /// The id of a number.
    pub fn id(number: u64) -> StreamId {
        StreamId::new(number, 1)
    }

    /// The numbers from one id to another, both included.
    fn between(&self, start: StreamId, end: StreamId) -> std::ops::Range<u64> {
        let first = if start.seq <= 1 { start.ms } else { start.ms.saturating_add(1) };
        let behind = if end.seq >= 1 { end.ms.saturating_add(1) } else { end.ms };
        let first = first.max(self.start);
        first..behind.min(self.end).max(first)
    }

    fn entry(&self, number: u64) -> Entry<'_> {
        Entry::elsewhere(Elsewhere::id(number), self)
    }
}

/// Entries in the order of their ids. Ids only ever grow.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Where its entries are, if they are not here: then there are no blocks.
    elsewhere: Option<Box<Elsewhere>>,
    blocks: VecDeque<Block>,
    len: u64,
    first_id: StreamId,
    last_id: StreamId,
    max_deleted_id: StreamId,
    entries_added: u64,
    /// What the blocks cost.
    pub(super) bytes: usize,
}

fn cost(block: &Block) -> usize {
    size_of::<Block>() + block.bytes_len()
}

impl Log {
    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first entry's id, `0-0` where there is none.
    pub fn first_id(&self) -> StreamId {
        self.first_id
    }

    /// The largest id ever given.
    pub fn last_id(&self) -> StreamId {
        self.last_id
    }

    /// The largest id that XDEL has removed.
    pub fn max_deleted_id(&self) -> StreamId {
        self.max_deleted_id
    }

    /// How many entries were ever added.
    pub fn entries_added(&self) -> u64 {
        self.entries_added
    }

    /// How many blocks hold the entries.
    pub fn block_count(&self) -> usize {
        self.blocks.len()
    }

    /// The id that `*` gives: this millisecond's first, or the one behind the last where time has not moved on. `None`
    /// where ids are used up.
    pub fn next_id(&self, now: Millis) -> Option<StreamId> {
        if now > self.last_id.ms { Some(StreamId::new(now, 0)) } else { self.last_id.next() }
    }

    /// Adds an entry. `words` are fields and values in turn; `id` must be larger than every id before.
    pub fn append(&mut self, id: StreamId, words: &[&[u8]]) {
        assert!(id > self.last_id, "ids of a stream only grow");
        match self.blocks.back_mut() {
            Some(block) if !block.is_full(words) => {
                let before = block.bytes_len();
                block.append(id, words);
                self.bytes += block.bytes_len() - before;
            }
            full => {
                full.into_iter().for_each(|block| block.seal());
                let block = Block::new(id, words);
                self.bytes += cost(&block);
                self.blocks.push_back(block);
            }
        }
        self.len += 1;
        self.entries_added = self.entries_added.wrapping_add(1);
        self.last_id = id;
        if self.len == 1 {
            self.first_id = id;
        }
    }

    /// The entries from `start` to `end`, both included.
    pub fn range(&self, start: StreamId, end: StreamId) -> impl Iterator<Item = Entry<'_>> {
        let from = self.blocks.partition_point(|block| block.last < start);
        let own = self
            .blocks
            .range(from..)
            .take_while(move |block| block.first <= end)
            .flat_map(Block::entries)
            .filter(move |entry| entry.is_live() && entry.id >= start)
            .take_while(move |entry| entry.id <= end);
        own.chain(self.entries_elsewhere(start, end))
    }

    fn entries_elsewhere(&self, start: StreamId, end: StreamId) -> impl DoubleEndedIterator<Item = Entry<'_>> {
        let numbers = self.elsewhere.as_ref().map(|own| own.between(start, end).map(|number| own.entry(number)));
        numbers.into_iter().flatten()
    }

    /// From now on its entries are elsewhere; there must be none here. Its counters follow from that.
    pub fn set_elsewhere(&mut self, elsewhere: Elsewhere) {
        assert!(self.blocks.is_empty(), "entries lie in one place");
        let (start, end) = (elsewhere.start, elsewhere.end);
        *self = Log {
            len: end.saturating_sub(start),
            first_id: if end > start { Elsewhere::id(start) } else { StreamId::MIN },
            last_id: end.checked_sub(1).map_or(StreamId::MIN, Elsewhere::id),
            entries_added: end,
            elsewhere: Some(Box::new(elsewhere)),
            ..Log::default()
        };
    }

    /// Forgets entries that are elsewhere: as it is stored.
    pub fn clear_elsewhere(&mut self) {
        if self.elsewhere.is_some() {
            *self = Log::default();
        }
    }

    /// As [`Log::range`], backwards.
    pub fn range_back(&self, start: StreamId, end: StreamId) -> impl Iterator<Item = Entry<'_>> {
        let until = self.blocks.partition_point(|block| block.first <= end);
        let own =
            self.blocks.range(..until).rev().take_while(move |block| block.last >= start).flat_map(move |block| {
                let within = |entry: &Entry<'_>| entry.is_live() && start <= entry.id && entry.id <= end;
                block.entries().filter(within).collect::<Vec<_>>().into_iter().rev()
            });
        own.chain(self.entries_elsewhere(start, end).rev())
    }

    /// The entry of that id.
    pub fn get(&self, id: StreamId) -> Option<Entry<'_>> {
        self.range(id, id).next()
    }

    /// Removes an entry, as XDEL does. False where there is none.
    pub fn delete(&mut self, id: StreamId) -> bool {
        let at = self.blocks.partition_point(|block| block.last < id);
        let Some(block) = self.blocks.get_mut(at) else {
            return false;
        };
        if id < block.first || !block.delete(id) {
            return false;
        }
        if block.live == 0 {
            self.bytes -= cost(block);
            self.blocks.remove(at);
        }
        self.len -= 1;
        self.max_deleted_id = self.max_deleted_id.max(id);
        if id == self.first_id {
            self.find_first();
        }
        true
    }

    /// Removes entries at the front. Returns how many. Approximate trimming differs from Redis's only where entries are
    /// large: blocks of ours close at 4 KiB too, but hold more in them.
    pub fn trim(&mut self, trim: Trim) -> u64 {
        let before = self.len;
        while let Some(block) = self.blocks.front_mut() {
            let live = u64::from(block.live);
            let done = match trim.keep {
                Keep::Newest(count) => self.len <= count,
                Keep::From(id) => block.first >= id,
            };
            if done || (trim.limit != 0 && before - self.len + live > trim.limit) {
                break;
            }
            let whole = match trim.keep {
                Keep::Newest(count) => self.len - live >= count,
                Keep::From(id) => block.last < id,
            };
            if whole {
                self.bytes -= cost(block);
                self.len -= live;
                self.blocks.pop_front();
                continue;
            }
            if !trim.approximate {
                let mut len = self.len;
                self.len -= u64::from(block.delete_front(|entry| match trim.keep {
                    Keep::Newest(count) => {
                        len -= 1;
                        len >= count
                    }
                    Keep::From(id) => entry < id,
                }));
                if block.live == 0 {
                    self.bytes -= cost(block);
                    self.blocks.pop_front();
                }
            }
            break;
        }
        if self.len != before {
            self.find_first();
        }
        before - self.len
    }

    /// Sets the counters, as XSETID does. The caller has checked them against the entries.
    pub fn set_ids(&mut self, last_id: StreamId, entries_added: Option<u64>, max_deleted_id: Option<StreamId>) {
        if let Some(block) = self.blocks.back_mut()
            && block.last > last_id
        {
            // Only deleted entries can lie behind the new id: they go, since entries to come may take their place.
            self.bytes -= cost(block);
            block.drop_dead_tail();
            self.bytes += cost(block);
        }
        assert!(self.blocks.back().is_none_or(|block| block.last <= last_id), "ids of a stream only grow");
        self.last_id = last_id;
        self.entries_added = entries_added.unwrap_or(self.entries_added);
        self.max_deleted_id = max_deleted_id.unwrap_or(self.max_deleted_id);
    }

    /// Whether XDEL may have removed an entry from `start` on that is not before the first one.
    pub fn has_gap_from(&self, start: StreamId) -> bool {
        self.len != 0
            && self.max_deleted_id != StreamId::MIN
            && self.first_id <= self.max_deleted_id
            && start <= self.max_deleted_id
    }

    /// How many entries were ever added up to this id, where that can be told.
    pub fn entries_until(&self, id: StreamId) -> Option<u64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        if let Some(own) = &self.elsewhere {
            return Some(own.between(StreamId::MIN, id).end.max(own.start));
        }
        if id == self.last_id || (self.len == 0 && id < self.last_id) {
            return Some(self.entries_added);
        }
        if id > self.last_id || (self.max_deleted_id != StreamId::MIN && self.max_deleted_id >= self.first_id) {
            return None;
        }
        let before_first = self.entries_added.saturating_sub(self.len);
        match id.cmp(&self.first_id) {
            std::cmp::Ordering::Less => Some(before_first),
            std::cmp::Ordering::Equal => Some(before_first + 1),
            std::cmp::Ordering::Greater => None,
        }
    }

    /// How many entries a group has yet to be given, where that can be told.
    pub fn lag(&self, group: &Group) -> Option<i64> {
        if self.entries_added == 0 {
            return Some(0);
        }
        let read = match group.entries_read {
            Some(read) if !self.has_gap_from(group.last_id) => Some(read),
            _ => self.entries_until(group.last_id),
        };
        read.map(|read| self.entries_added.wrapping_sub(read) as i64)
    }

    /// Moves a group on to an entry that is delivered in it for the first time.
    pub fn advance(&self, group: &mut Group, id: StreamId) {
        group.entries_read = match group.entries_read {
            Some(read) if !self.has_gap_from(id) => Some(read.wrapping_add(1)),
            _ if self.entries_added != 0 => self.entries_until(id),
            read => read,
        };
        group.last_id = id;
    }

    fn find_first(&mut self) {
        let first = self.blocks.front().and_then(|block| block.entries().find(Entry::is_live));
        self.first_id = first.map_or(StreamId::MIN, |entry| entry.id);
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        self.blocks.iter().for_each(|block| block.encode(out));
    }

    fn encode_head(&self, out: &mut Vec<u8>) {
        self.last_id.encode(out);
        self.max_deleted_id.encode(out);
        put_varint(out, self.entries_added);
        put_varint(out, self.blocks.len() as u64);
    }

    /// The log as it is now, to be written behind `head`.
    pub(super) fn freeze(&mut self, mut head: Vec<u8>) -> Frozen {
        self.encode_head(&mut head);
        Frozen::new(head, self.blocks.iter_mut().map(|block| Piece::Block(block.first, block.hold())))
    }

    /// Frees up to `blocks` blocks of a log that nobody uses any more. Returns whether all are freed.
    pub(super) fn crumble(&mut self, blocks: usize) -> bool {
        self.blocks.truncate(self.blocks.len().saturating_sub(blocks));
        self.blocks.is_empty()
    }

    /// Reads what stands before the blocks, and how many there are.
    pub(super) fn decode_head(input: &mut Input<'_>) -> Result<(Log, u64), Corrupt> {
        let log = Log {
            last_id: StreamId::decode(input)?,
            max_deleted_id: StreamId::decode(input)?,
            entries_added: input.varint()?,
            ..Log::default()
        };
        Ok((log, input.varint()?))
    }

    pub(super) fn decode_block(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let block = Block::decode(input)?;
        if self.blocks.back().is_some_and(|before| before.last >= block.first) || block.last > self.last_id {
            return Err(Corrupt("blocks are out of order"));
        }
        self.len += u64::from(block.live);
        self.bytes += cost(&block);
        self.blocks.push_back(block);
        if self.blocks.len() == 1 {
            self.find_first();
        }
        Ok(())
    }
}

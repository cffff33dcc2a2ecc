//! Byte strings (or pairs that begin with one) in the order of insertion, found by hash: what large hashes and sets are.
//!
//! ```text
//!   chunks   [ row 0 … row 255 ] [ row 256 … ] …          removal puts the last row in the gap
//!   index    top bits of the hash ──► segment of ≤ 896 (hash, place)
//! ```
//!
//! The index is extendible hashing (Fagin et al., 1979) as the table of keys has it, so that no insert moves more than one
//! segment, however large the collection is; the rows never move at all. Order and places depend on the inserts and
//! removals alone, so they are the same on every replica, and survive being stored in order.

use std::borrow::Borrow;
use std::sync::Arc;

use hashbrown::HashTable;

use super::shared::Shared;

/// Rows of one chunk: what a change copies at most while a snapshot holds the chunk.
const CHUNK: usize = 256;
/// Slots at which a segment splits: 7/8 of 1024 buckets, hashbrown's own load limit.
const SEGMENT_MAX: usize = 896;
/// The directory's depth at which splitting ends and segments grow instead.
const DEPTH_MAX: u32 = 24;

const FOUND: &str = "every row has its slot in the index";

/// Where a row stands, with its hash, so that a split need not look at rows.
#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    at: u32,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    /// How many top bits its slots' hashes share.
    depth: u32,
    slots: HashTable<Slot>,
}

#[derive(Clone, Debug)]
struct Index {
    depth: u32,
    /// 2^depth indexes into `segments`.
    places: Vec<u32>,
    segments: Vec<Segment>,
}

impl Default for Index {
    fn default() -> Index {
        Index { depth: 0, places: vec![0], segments: vec![Segment::default()] }
    }
}

/// The table in a segment wants 64 bits: the upper ones for its tags, the lower ones for its buckets.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn spread_slot(slot: &Slot) -> u64 {
    spread(slot.hash)
}

#[inline]
fn hash_of(text: &[u8]) -> u32 {
    (crate::hash::of(text) >> 32) as u32
}

impl Index {
    #[inline]
    fn segment_of(&self, hash: u32) -> usize {
        let place = if self.depth == 0 { 0 } else { hash >> (32 - self.depth) };
        self.places[place as usize] as usize
    }

    #[inline]
    fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let slots = &self.segments[self.segment_of(hash)].slots;
        slots.find(spread(hash), |slot| slot.hash == hash && is_it(slot.at)).map(|slot| slot.at)
    }

    fn insert(&mut self, slot: Slot) {
        let mut segment = self.segment_of(slot.hash);
        while self.segments[segment].slots.len() >= SEGMENT_MAX && self.segments[segment].depth < DEPTH_MAX {
            self.split(segment, slot.hash);
            segment = self.segment_of(slot.hash);
        }
        self.segments[segment].slots.insert_unique(spread(slot.hash), slot, spread_slot);
    }

    /// Parts the segment of `hash` in two.
    fn split(&mut self, segment: usize, hash: u32) {
        let depth = self.segments[segment].depth + 1;
        if depth > self.depth {
            self.places = self.places.iter().flat_map(|place| [*place, *place]).collect();
            self.depth = depth;
        }
        let bit = 1u32 << (32 - depth);
        let (mut low, mut high) =
            (HashTable::with_capacity(SEGMENT_MAX / 2), HashTable::with_capacity(SEGMENT_MAX / 2));
        for slot in std::mem::take(&mut self.segments[segment].slots) {
            let half = if slot.hash & bit == 0 { &mut low } else { &mut high };
            half.insert_unique(spread(slot.hash), slot, spread_slot);
        }
        self.segments[segment] = Segment { depth, slots: low };
        let fresh = self.segments.len() as u32;
        self.segments.push(Segment { depth, slots: high });
        // The places of the old segment stand side by side; the upper half of them goes to the new one.
        let width = 1usize << (self.depth - depth + 1);
        let first = (hash >> (32 - self.depth)) as usize / width * width;
        self.places[first + width / 2..first + width].fill(fresh);
    }

    /// The row that stood at `from` stands at `to` now.
    fn moved(&mut self, hash: u32, from: u32, to: u32) {
        let segment = self.segment_of(hash);
        let slot = self.segments[segment].slots.find_mut(spread(hash), |slot| slot.at == from).expect(FOUND);
        slot.at = to;
    }

    fn remove(&mut self, hash: u32, at: u32) {
        let segment = self.segment_of(hash);
        let slots = &mut self.segments[segment].slots;
        slots.find_entry(spread(hash), |slot| slot.at == at).expect(FOUND).remove();
        if slots.capacity() > 64 && slots.len() < slots.capacity() / 8 {
            slots.shrink_to(slots.len() * 2, spread_slot);
        }
    }
}

/// See the module. At most 2^32 rows.
#[derive(Clone, Debug)]
pub(super) struct Rows<T> {
    /// All of [`CHUNK`] rows but the last one, which is never empty.
    chunks: Vec<Shared<Vec<T>>>,
    len: usize,
    index: Index,
}

impl<T> Default for Rows<T> {
    fn default() -> Rows<T> {
        Rows { chunks: Vec::new(), len: 0, index: Index::default() }
    }
}

impl<T: Borrow<[u8]> + Clone> Rows<T> {
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The row at a place of the order.
    #[inline]
    pub(super) fn at(&self, place: usize) -> Option<&T> {
        self.chunks.get(place / CHUNK)?.get(place % CHUNK)
    }

    /// The place of the row with this text.
    #[inline]
    pub(super) fn place_of(&self, text: &[u8]) -> Option<usize> {
        let is_it = |at: u32| self.at(at as usize).is_some_and(|row| row.borrow() == text);
        self.index.find(hash_of(text), is_it).map(|at| at as usize)
    }

    /// The row with this text.
    #[inline]
    pub(super) fn get(&self, text: &[u8]) -> Option<&T> {
        self.place_of(text).and_then(|place| self.at(place))
    }

    /// The row at a place, to be changed, but not its text.
    #[inline]
    pub(super) fn at_mut(&mut self, place: usize) -> Option<&mut T> {
        self.chunks.get_mut(place / CHUNK)?.own().get_mut(place % CHUNK)
    }

    /// Adds a row, whose text is not there, behind all others.
    pub(super) fn push(&mut self, row: T) {
        let at = u32::try_from(self.len).expect("four thousand million rows are beyond any memory");
        self.index.insert(Slot { hash: hash_of(row.borrow()), at });
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < CHUNK => {
                let chunk = chunk.own();
                if chunk.len() == chunk.capacity() {
                    // The first chunk of a small table need not be whole, nor one that a snapshot has made us copy.
                    chunk.reserve_exact(chunk.len().max(16).min(CHUNK - chunk.len()));
                }
                chunk.push(row);
            }
            _ => {
                let mut chunk = Vec::with_capacity(if self.len == 0 { 16 } else { CHUNK });
                chunk.push(row);
                self.chunks.push(Shared::Own(chunk));
            }
        }
        self.len += 1;
    }

    /// Removes the row at a place that is there and puts the last one into the gap.
    pub(super) fn swap_remove(&mut self, place: usize) -> T {
        let gone = hash_of(self.at(place).expect("the caller names a place below the length").borrow());
        self.index.remove(gone, place as u32);
        let chunk = self.chunks.last_mut().expect("it holds at least the row to be removed").own();
        let last = chunk.pop().expect("no chunk is empty");
        if chunk.is_empty() {
            self.chunks.pop();
            if self.chunks.capacity() > 64 && self.chunks.len() < self.chunks.capacity() / 4 {
                self.chunks.shrink_to(self.chunks.len() * 2);
            }
        }
        self.len -= 1;
        let row = if place == self.len {
            last
        } else {
            self.index.moved(hash_of(last.borrow()), self.len as u32, place as u32);
            std::mem::replace(self.at_mut(place).expect("it lies below the last one"), last)
        };
        if self.index.segments.len() > 64 && self.len < self.index.segments.len() {
            self.rebuild_index();
        }
        row
    }

    /// A collection that has shrunk to almost nothing gives its directory back.
    #[cold]
    fn rebuild_index(&mut self) {
        self.index = Index::default();
        for (at, row) in self.chunks.iter().flat_map(|chunk| chunk.iter()).enumerate() {
            self.index.insert(Slot { hash: hash_of(row.borrow()), at: at as u32 });
        }
    }

    /// All rows in order.
    #[inline]
    pub(super) fn iter(&self) -> Iter<'_, T> {
        Iter { chunks: self.chunks.iter(), rows: [].iter() }
    }

    /// The rows as they are now, for a snapshot.
    pub(super) fn hold(&mut self) -> impl Iterator<Item = Arc<Vec<T>>> {
        self.chunks.iter_mut().map(Shared::hold)
    }

    /// Frees up to `pieces` chunks of a collection that nobody uses any more. Returns whether all is freed.
    pub(super) fn crumble(&mut self, pieces: usize) -> bool {
        for _ in 0..pieces {
            self.chunks.pop();
            self.index.segments.pop();
        }
        self.chunks.is_empty() && self.index.segments.is_empty()
    }
}

/// See [`Rows::iter`].
#[derive(Clone, Debug)]
pub(super) struct Iter<'a, T> {
    chunks: std::slice::Iter<'a, Shared<Vec<T>>>,
    rows: std::slice::Iter<'a, T>,
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(row);
            }
            self.rows = self.chunks.next()?.iter();
        }
    }
}

#[cfg(test)]
mod tests;

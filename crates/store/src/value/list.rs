//! The list: a queue of packed chunks, as Redis's quicklist.
//!
//! ```text
//!   head ── chunk ≤ 8 KB ── chunk ≤ 8 KB ── … ── chunk ≤ 8 KB ── tail
//! ```
//!
//! Ends cost O(1); an index costs a walk over the chunks' counts from the nearer end. Growth never moves elements of other
//! chunks. What it costs in memory is computed from what it holds, so that equal lists cost the same on every replica,
//! however they came to be.

mod chunk;

pub use chunk::End;
pub(super) use chunk::Part;

use std::collections::VecDeque;

use super::pieces::{Frozen, Piece, Pieced};
use crate::codec::{Corrupt, Input, Stored, put_bytes, put_varint};
use chunk::{Chunk, FULL, packed_len};

/// Room that a further chunk of a long list begins with.
const FURTHER: usize = 2048;

/// A list.
#[derive(Clone, Debug, Default)]
pub struct List {
    chunks: VecDeque<Chunk>,
    len: usize,
    /// Packed bytes in all chunks.
    packed: usize,
    /// What OBJECT ENCODING says: it has outgrown one listpack and not shrunk below half of it since.
    quicklist: bool,
}

impl List {
    /// How many elements it holds.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Heap bytes by estimate, kept up to date with every change. A function of the elements alone.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        let slack = if self.packed <= FULL { self.packed / 2 } else { self.packed / 16 };
        size_of::<List>() + self.packed + slack + (self.packed / FULL + 1) * size_of::<Chunk>()
    }

    /// What OBJECT ENCODING answers: `listpack` up to 8 KB, `quicklist` beyond, and `listpack` again below 4 KB.
    pub fn encoding(&self) -> &'static str {
        if self.quicklist { "quicklist" } else { "listpack" }
    }

    /// Puts an element at one end.
    #[inline]
    pub fn push(&mut self, end: End, element: &[u8]) {
        let chunk = match end {
            End::Head => self.chunks.front_mut(),
            End::Tail => self.chunks.back_mut(),
        };
        if !chunk.is_some_and(|chunk| chunk.push(end, element)) {
            self.push_chunk(end, element);
        }
        self.len += 1;
        self.packed += packed_len(element.len());
        self.quicklist |= self.packed > FULL;
    }

    fn push_chunk(&mut self, end: End, element: &[u8]) {
        let mut chunk = if self.chunks.is_empty() { Chunk::default() } else { Chunk::with_room(FURTHER) };
        assert!(chunk.push(end, element), "an empty chunk takes any element");
        match end {
            End::Head => self.chunks.push_front(chunk),
            End::Tail => self.chunks.push_back(chunk),
        }
    }

    /// Removes the element at one end and lets `take` see it; `None` where the list is empty.
    #[inline]
    pub fn pop<R>(&mut self, end: End, take: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let chunk = match end {
            End::Head => self.chunks.front_mut(),
            End::Tail => self.chunks.back_mut(),
        }?;
        let (element, bytes) = chunk.peek(end);
        let result = take(element);
        chunk.cut(end, 1, bytes);
        if chunk.count() == 0 {
            match end {
                End::Head => self.chunks.pop_front(),
                End::Tail => self.chunks.pop_back(),
            };
        }
        self.shrunk(1, bytes);
        Some(result)
    }

    /// The element at an index.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        if index >= self.len {
            return None;
        }
        self.iter_from(index).next()
    }

    /// Gives the element at an index another value; false where there is none.
    pub fn set(&mut self, index: usize, element: &[u8]) -> bool {
        if index >= self.len {
            return false;
        }
        let (place, within) = self.locate(index);
        let chunk = &self.chunks[place];
        let offset = chunk.offset(within);
        let old = chunk::first(&chunk.packed()[offset..]).1;
        self.put(place, within, offset, old, element);
        self.packed = self.packed - old + packed_len(element.len());
        self.quicklist |= self.packed > FULL;
        true
    }

    /// Inserts before the element at an index; the length inserts at the tail. False where there is no such place.
    pub fn insert(&mut self, index: usize, element: &[u8]) -> bool {
        if index > self.len {
            return false;
        }
        if index == 0 {
            self.push(End::Head, element);
            return true;
        }
        if index == self.len {
            self.push(End::Tail, element);
            return true;
        }
        let (place, within) = self.locate(index);
        let offset = self.chunks[place].offset(within);
        self.put(place, within, offset, 0, element);
        self.len += 1;
        self.packed += packed_len(element.len());
        self.quicklist |= self.packed > FULL;
        true
    }

    /// Puts an element in the place of `old` packed bytes (none: inserts) of a chunk; divides the chunk where it would
    /// grow too large.
    fn put(&mut self, place: usize, within: usize, offset: usize, old: usize, element: &[u8]) {
        let need = packed_len(element.len());
        let chunk = &mut self.chunks[place];
        let others = chunk.count() - usize::from(old > 0);
        if others == 0 || chunk.used() - old + need <= FULL {
            return chunk.splice(offset, old, element);
        }
        let mut right = chunk.split_off(offset, within);
        if old > 0 {
            right.cut(End::Head, 1, old);
        }
        let mut next = place + 1;
        if chunk.count() == 0 {
            self.chunks.remove(place);
            next = place;
        } else if chunk.push(End::Tail, element) {
            if right.count() > 0 {
                self.chunks.insert(next, right);
            }
            return;
        }
        if right.count() > 0 {
            if right.push(End::Head, element) {
                return self.chunks.insert(next, right);
            }
            self.chunks.insert(next, right);
        }
        let mut alone = Chunk::default();
        assert!(alone.push(End::Tail, element), "an empty chunk takes any element");
        self.chunks.insert(next, alone);
    }

    /// Keeps `count` elements from an index on and removes the others. Returns how many it removed.
    pub fn trim(&mut self, from: usize, count: usize) -> usize {
        let from = from.min(self.len);
        let count = count.min(self.len - from);
        self.cut(End::Tail, self.len - from - count) + self.cut(End::Head, from)
    }

    fn cut(&mut self, end: End, count: usize) -> usize {
        let mut left = count;
        let mut bytes_cut = 0;
        while left > 0 {
            let chunk = match end {
                End::Head => self.chunks.front_mut(),
                End::Tail => self.chunks.back_mut(),
            }
            .expect("no more is cut than the list holds");
            if chunk.count() <= left {
                left -= chunk.count();
                bytes_cut += chunk.used();
                match end {
                    End::Head => self.chunks.pop_front(),
                    End::Tail => self.chunks.pop_back(),
                };
                continue;
            }
            let bytes = match end {
                End::Head => chunk.offset(left),
                End::Tail => chunk.used() - chunk.offset(chunk.count() - left),
            };
            chunk.cut(end, left, bytes);
            bytes_cut += bytes;
            left = 0;
        }
        self.shrunk(count, bytes_cut);
        count
    }

    /// Removes elements equal to `element`, at most `limit`, beginning at one end. Returns how many.
    pub fn remove(&mut self, end: End, element: &[u8], limit: usize) -> usize {
        let mut removed = 0;
        for step in 0..self.chunks.len() {
            if removed == limit {
                break;
            }
            let place = if end == End::Head { step } else { self.chunks.len() - 1 - step };
            removed += remove_from(&mut self.chunks[place], end, element, limit - removed);
        }
        if removed > 0 {
            self.join_small_chunks();
            self.shrunk(removed, removed * packed_len(element.len()));
        }
        removed
    }

    /// Drops empty chunks and joins neighbours that fit into half a chunk.
    fn join_small_chunks(&mut self) {
        let mut joined: VecDeque<Chunk> = VecDeque::with_capacity(self.chunks.len());
        for chunk in self.chunks.drain(..).filter(|chunk| chunk.count() > 0) {
            match joined.back_mut() {
                Some(back) if back.used() + chunk.used() <= FULL / 2 => back.absorb(&chunk),
                _ => joined.push_back(chunk),
            }
        }
        self.chunks = joined;
    }

    fn shrunk(&mut self, count: usize, bytes: usize) {
        self.len -= count;
        self.packed -= bytes;
        self.quicklist &= self.packed > FULL / 2;
        if self.chunks.capacity() > 64 && self.chunks.len() < self.chunks.capacity() / 4 {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }

    /// The chunk that holds an index, and the index within it. `index` must be below the length.
    fn locate(&self, index: usize) -> (usize, usize) {
        debug_assert!(index < self.len, "only what is there has a place");
        if index <= self.len / 2 {
            let mut before = 0;
            for (place, chunk) in self.chunks.iter().enumerate() {
                if index < before + chunk.count() {
                    return (place, index - before);
                }
                before += chunk.count();
            }
        } else {
            let mut before = self.len;
            for (place, chunk) in self.chunks.iter().enumerate().rev() {
                before -= chunk.count();
                if index >= before {
                    return (place, index - before);
                }
            }
        }
        unreachable!("the counts of the chunks add up to the length")
    }

    /// All elements from head to tail.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_from(0)
    }

    /// The elements from an index to the tail.
    pub fn iter_from(&self, index: usize) -> Iter<'_> {
        if index >= self.len {
            return Iter { list: self, next: self.chunks.len(), rest: &[] };
        }
        let (place, within) = self.locate(index);
        let chunk = &self.chunks[place];
        Iter { list: self, next: place + 1, rest: &chunk.packed()[chunk.offset(within)..] }
    }

    /// All elements from tail to head.
    pub fn iter_back(&self) -> IterBack<'_> {
        IterBack { list: self, before: self.chunks.len(), rest: &[] }
    }
}

/// Removes matches from one chunk, at most `limit`, beginning at one end.
fn remove_from(chunk: &mut Chunk, end: End, element: &[u8], limit: usize) -> usize {
    let packed = chunk.packed();
    let mut matches = Vec::new();
    let (mut from, mut to) = (0, packed.len());
    while from < to && matches.len() < limit {
        let (at, found, bytes) = match end {
            End::Head => {
                let (found, bytes) = chunk::first(&packed[from..]);
                from += bytes;
                (from - bytes, found, bytes)
            }
            End::Tail => {
                let (found, bytes) = chunk::last(&packed[..to]);
                to -= bytes;
                (to, found, bytes)
            }
        };
        if found == element {
            matches.push(at..at + bytes);
        }
    }
    if matches.is_empty() {
        return 0;
    }
    if end == End::Tail {
        matches.reverse();
    }
    let mut kept = Vec::with_capacity(packed.len());
    let mut done = 0;
    for gap in &matches {
        kept.extend_from_slice(&packed[done..gap.start]);
        done = gap.end;
    }
    kept.extend_from_slice(&packed[done..]);
    *chunk = Chunk::of(&kept, chunk.count() - matches.len());
    matches.len()
}

/// See [`List::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    list: &'a List,
    next: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            self.rest = self.list.chunks.get(self.next)?.packed();
            self.next += 1;
        }
        let (element, bytes) = chunk::first(self.rest);
        self.rest = &self.rest[bytes..];
        Some(element)
    }
}

/// See [`List::iter_back`].
#[derive(Clone, Debug)]
pub struct IterBack<'a> {
    list: &'a List,
    before: usize,
    rest: &'a [u8],
}

impl<'a> Iterator for IterBack<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            self.before = self.before.checked_sub(1)?;
            self.rest = self.list.chunks[self.before].packed();
        }
        let (element, bytes) = chunk::last(self.rest);
        self.rest = &self.rest[..self.rest.len() - bytes];
        Some(element)
    }
}

impl Stored for List {
    /// 0 for a listpack or 1 for a quicklist, a count, the elements.
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.quicklist));
        put_varint(out, self.len as u64);
        for element in self.iter() {
            put_bytes(out, element);
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<List, Corrupt> {
        List::decode_whole(input)
    }
}

impl Pieced for List {
    fn decode_head(input: &mut Input<'_>) -> Result<(List, u64), Corrupt> {
        let quicklist = match input.u8()? {
            0 => false,
            1 => true,
            _ => return Err(Corrupt("unknown form of list")),
        };
        // Pushes alone never make it a listpack again.
        Ok((List { quicklist, ..List::default() }, input.varint()?))
    }

    fn decode_next(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        self.push(End::Tail, input.bytes()?);
        Ok(())
    }

    fn freeze(&mut self, head: Vec<u8>) -> Option<Frozen> {
        let mut frozen = Frozen::new(head, self.chunks.iter_mut().map(Chunk::hold).map(Piece::Elements));
        frozen.head.push(u8::from(self.quicklist));
        put_varint(&mut frozen.head, self.len as u64);
        Some(frozen)
    }

    fn crumble(&mut self, pieces: usize) -> bool {
        // A chunk is one allocation, whatever it holds.
        self.chunks.truncate(self.chunks.len().saturating_sub(64 * pieces));
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests;

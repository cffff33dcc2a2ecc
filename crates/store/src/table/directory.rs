//! A hash table that grows a little at a time: extendible hashing (Fagin et al., 1979) over hashbrown segments.
//!
//! The directory maps the top bits of a key's *position* (its hash without the byte that hashbrown uses as tag) to a
//! segment; a segment that is full splits in two. So no insert moves more than [`SEGMENT_MAX`] pointers, and "ascending
//! position" is an order that no split disturbs: SCAN's cursor and the snapshot's walk are positions.

use base::Rng;
use hashbrown::HashTable;

use super::entry::Entry;

/// Entries at which a segment splits: 7/8 of 1024 buckets, hashbrown's own load limit.
const SEGMENT_MAX: usize = 896;
/// Low bits of a position that a cursor leaves out, so that it has room for more than a position. Keys that differ in
/// these alone are visited together.
const CURSOR_SHIFT: u32 = 12;
/// Entries among which [`Directory::random_repeatable`] chooses.
const NEAR: usize = 16;
/// The directory's depth at which splitting ends and segments grow instead: 2^28 segments are far beyond any memory.
const DEPTH_MAX: u32 = 28;

#[derive(Debug)]
struct Segment {
    entries: HashTable<Entry>,
    depth: u32,
}

#[derive(Debug)]
pub(super) struct Directory {
    /// Indexes into `segments`, 2^depth of them.
    map: Vec<u32>,
    depth: u32,
    segments: Vec<Segment>,
    len: usize,
}

impl Default for Directory {
    fn default() -> Directory {
        Directory { map: vec![0], depth: 0, segments: vec![Segment { entries: HashTable::new(), depth: 0 }], len: 0 }
    }
}

/// Where a hash stands in the directory's order. The low byte is always zero; never is a position `u64::MAX`.
#[inline]
pub(super) fn position(hash: u64) -> u64 {
    hash << 8
}

fn rehash(entry: &Entry) -> u64 {
    crate::hash::of(entry.key())
}

impl Directory {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    fn segment_index(&self, position: u64) -> usize {
        let prefix = if self.depth == 0 { 0 } else { position >> (64 - self.depth) };
        self.map[prefix as usize] as usize
    }

    #[inline]
    pub(super) fn find(&self, key: &[u8]) -> Option<&Entry> {
        if self.len == 0 {
            return None;
        }
        let hash = crate::hash::of(key);
        let segment = &self.segments[self.segment_index(position(hash))];
        segment.entries.find(hash, |entry| entry.key() == key)
    }

    #[inline]
    pub(super) fn find_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut Entry> {
        let index = self.segment_index(position(hash));
        self.segments[index].entries.find_mut(hash, |entry| entry.key() == key)
    }

    /// All entries at one position: one, but for colliding hashes.
    pub(super) fn at_position(&self, wanted: u64) -> impl Iterator<Item = &Entry> {
        let segment = &self.segments[self.segment_index(wanted)];
        segment.entries.iter().filter(move |entry| position(crate::hash::of(entry.key())) == wanted)
    }

    /// Adds an entry whose key is not there.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry) {
        let mut index = self.segment_index(position(hash));
        while self.segments[index].entries.len() >= SEGMENT_MAX && self.segments[index].depth < DEPTH_MAX {
            self.split(index, position(hash));
            index = self.segment_index(position(hash));
        }
        self.segments[index].entries.insert_unique(hash, entry, rehash);
        self.len += 1;
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Entry> {
        let index = self.segment_index(position(hash));
        let found = self.segments[index].entries.find_entry(hash, |entry| entry.key() == key).ok()?;
        self.len -= 1;
        Some(found.remove().0)
    }

    /// Parts a segment that holds `position` in two.
    fn split(&mut self, index: usize, position_in_it: u64) {
        if self.segments[index].depth == self.depth {
            self.map = self.map.iter().flat_map(|segment| [*segment, *segment]).collect();
            self.depth += 1;
        }
        let place = (position_in_it >> (64 - self.depth)) as usize;
        let depth = self.segments[index].depth + 1;
        let bit = 1u64 << (64 - depth);
        let mut upper = HashTable::with_capacity(SEGMENT_MAX / 2);
        let mut lower = HashTable::with_capacity(SEGMENT_MAX / 2);
        for entry in std::mem::take(&mut self.segments[index].entries) {
            let hash = rehash(&entry);
            let half = if position(hash) & bit != 0 { &mut upper } else { &mut lower };
            half.insert_unique(hash, entry, rehash);
        }
        self.segments[index] = Segment { entries: lower, depth };
        let new = self.segments.len() as u32;
        self.segments.push(Segment { entries: upper, depth });
        // The places of the old segment stand side by side; the upper half of them goes to the new one.
        let width = 1usize << (self.depth - depth + 1);
        let first = place / width * width;
        self.map[first + width / 2..first + width].fill(new);
    }

    /// The first position after the segment that holds `position`, `None` after the last one.
    fn segment_end(&self, position: u64) -> Option<u64> {
        let depth = self.segments[self.segment_index(position)].depth;
        if depth == 0 {
            return None;
        }
        (position >> (64 - depth)).checked_add(1).filter(|next| *next < 1 << depth).map(|next| next << (64 - depth))
    }

    /// See `Tables::scan`. The cursor is a position without its low bits. Visits in ascending order of position, then key, and
    /// stops at an entry, never at a segment: what is visited does not depend on how the table came to be laid out.
    pub(super) fn scan<'a>(&'a self, cursor: u64, count: usize, mut visit: impl FnMut(&'a Entry)) -> u64 {
        let mut from = cursor << CURSOR_SHIFT;
        let mut left = count.max(1);
        let mut last = None;
        loop {
            let segment = &self.segments[self.segment_index(from)];
            let entries = segment.entries.iter().map(|entry| (position(rehash(entry)), entry));
            let mut ahead: Vec<(u64, &Entry)> = entries.filter(|(at, _)| *at >= from).collect();
            ahead.sort_unstable_by(|(one, entry), (other, rival)| {
                one.cmp(other).then_with(|| entry.key().cmp(rival.key()))
            });
            for (at, entry) in ahead {
                let cell = at >> CURSOR_SHIFT;
                // What shares a cursor is visited together, or the cursor would skip some of it.
                if left == 0 && last != Some(cell) {
                    return cell;
                }
                visit(entry);
                left = left.saturating_sub(1);
                last = Some(cell);
            }
            match self.segment_end(from) {
                None => return 0,
                Some(next) => from = next,
            }
        }
    }

    /// An entry by chance, the same one wherever the same keys are, however they are laid out: one of those that come next
    /// after a place. Slower than [`Directory::random`], and a little less even.
    pub(super) fn random_repeatable(&self, rng: &mut Rng) -> Option<&Entry> {
        let wanted = NEAR.min(self.len);
        let mut near = Vec::with_capacity(NEAR + 1);
        self.scan(rng.next_u64() >> CURSOR_SHIFT, wanted.max(1), |entry| near.push(entry));
        if near.len() < wanted {
            self.scan(0, wanted - near.len(), |entry| near.push(entry));
        }
        (!near.is_empty()).then(|| near[rng.index(near.len())])
    }

    /// Visits entries of the segment at `position`, from there on in ascending position, until `visit` says that it is
    /// enough; all of them, also those before `position`, where together they cost less than `bytes`. Returns the position that is next, `None` after the
    /// last one. Entries at one position are visited together.
    pub(super) fn walk(
        &mut self,
        position: u64,
        bytes: usize,
        mut visit: impl FnMut(&mut Entry) -> bool,
    ) -> Option<u64> {
        let next = self.segment_end(position);
        let index = self.segment_index(position);
        let entries = &mut self.segments[index].entries;
        let mut cost = 0;
        let small = entries.iter().all(|entry| {
            cost += entry.cost();
            cost < bytes
        });
        if small {
            // Whoever was visited before knows it.
            entries.iter_mut().for_each(|entry| {
                visit(entry);
            });
            return next;
        }
        let mut ahead: Vec<(u64, &mut Entry)> = entries
            .iter_mut()
            .map(|entry| (self::position(rehash(entry)), entry))
            .filter(|(at, _)| *at >= position)
            .collect();
        ahead.sort_unstable_by_key(|(at, _)| *at);
        let mut enough = None;
        for (at, entry) in ahead {
            if enough.is_some_and(|last| at != last) {
                return Some(at);
            }
            if visit(entry) || enough.is_some() {
                enough = Some(at);
            }
        }
        next
    }

    pub(super) fn random(&self, rng: &mut Rng) -> Option<&Entry> {
        if self.len == 0 {
            return None;
        }
        loop {
            let segment = &self.segments[self.map[rng.index(self.map.len())] as usize];
            if segment.entries.is_empty() {
                continue;
            }
            let nth = rng.index(segment.entries.len());
            return segment.entries.iter().nth(nth);
        }
    }

    /// Visits up to `count` entries that stand together somewhere.
    pub(super) fn sample<'a>(&'a self, count: usize, rng: &mut Rng, mut visit: impl FnMut(&'a Entry)) {
        let mut left = count;
        for _ in 0..4 {
            let segment = &self.segments[self.map[rng.index(self.map.len())] as usize];
            let skip = if segment.entries.len() > left { rng.index(segment.entries.len() - left + 1) } else { 0 };
            for entry in segment.entries.iter().skip(skip).take(left) {
                visit(entry);
                left -= 1;
            }
            if left == 0 {
                return;
            }
        }
    }

    /// Takes a segment's entries out, for a directory that nobody uses any more. `None` where no segment is left.
    pub(super) fn take_segment(&mut self) -> Option<Vec<Entry>> {
        self.segments.pop().map(|segment| segment.entries.into_iter().collect())
    }

    /// Whether [`Directory::take_segment`] has taken all.
    pub(super) fn is_spent(&self) -> bool {
        self.segments.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.segments.iter().flat_map(|segment| segment.entries.iter())
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.segments.iter_mut().flat_map(|segment| segment.entries.iter_mut())
    }
}

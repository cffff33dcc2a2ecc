//! The score of each member: extendible hashing, so that growth never moves more than one segment at once, and so that
//! an iteration by ranges of hashes misses no member that stays.
//!
//! ```text
//!   places (top bits of the hash)   000 001 010 011 100 101 110 111
//!                                    └──A──┘   B   C   └─────D─────┘   segments of ≤ 448 items
//! ```

use hashbrown::HashTable;

use super::order::Item;

const SEGMENT_MAX: usize = 448;
const DEPTH_MAX: u32 = 24;
/// Cursors are positions in this many top bits of the hash, so that they fit into any client's integers.
const CURSOR_BITS: u32 = 48;

#[derive(Clone, Debug, Default)]
struct Segment {
    /// How many top bits its members' hashes share.
    depth: u32,
    table: HashTable<Item>,
}

#[derive(Clone, Debug)]
pub(super) struct Members {
    depth: u32,
    places: Vec<u32>,
    segments: Vec<Segment>,
}

/// The table in a segment takes its bits from elsewhere in the hash than the directory does.
fn inner(hash: u64) -> u64 {
    hash.rotate_left(32)
}

fn rehash(item: &Item) -> u64 {
    inner(crate::hash::of(&item.member))
}

impl Members {
    pub fn new() -> Members {
        Members { depth: 0, places: vec![0], segments: vec![Segment::default()] }
    }

    fn place(&self, hash: u64) -> usize {
        if self.depth == 0 { 0 } else { (hash >> (64 - self.depth)) as usize }
    }

    pub fn find(&self, member: &[u8]) -> Option<&Item> {
        let hash = crate::hash::of(member);
        let segment = self.places[self.place(hash)] as usize;
        self.segments[segment].table.find(inner(hash), |item| *item.member == *member)
    }

    pub fn find_mut(&mut self, member: &[u8]) -> Option<&mut Item> {
        let hash = crate::hash::of(member);
        let segment = self.places[self.place(hash)] as usize;
        self.segments[segment].table.find_mut(inner(hash), |item| *item.member == *member)
    }

    /// Adds an item that is not there.
    pub fn insert(&mut self, item: Item) {
        let hash = crate::hash::of(&item.member);
        loop {
            let segment = self.places[self.place(hash)] as usize;
            if self.segments[segment].table.len() < SEGMENT_MAX || !self.split(segment, hash) {
                self.segments[segment].table.insert_unique(inner(hash), item, rehash);
                return;
            }
        }
    }

    pub fn remove(&mut self, member: &[u8]) -> Option<Item> {
        let hash = crate::hash::of(member);
        let segment = self.places[self.place(hash)] as usize;
        let table = &mut self.segments[segment].table;
        let (item, _) = table.find_entry(inner(hash), |item| *item.member == *member).ok()?.remove();
        if table.capacity() > 64 && table.len() < table.capacity() / 8 {
            table.shrink_to(table.len() * 2, rehash);
        }
        Some(item)
    }

    /// Frees a segment of an index that nobody uses any more. Returns whether all is freed.
    pub fn crumble(&mut self) -> bool {
        self.segments.pop();
        self.segments.is_empty()
    }

    /// Visits whole segments from `cursor` on until `count` items were visited. Returns where to go on, 0 at the end.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&Item)) -> u64 {
        let mut position = cursor;
        let mut visited = 0;
        while position >> CURSOR_BITS == 0 {
            let place = self.place(position << (64 - CURSOR_BITS));
            let segment = &self.segments[self.places[place] as usize];
            segment.table.iter().for_each(&mut visit);
            visited += segment.table.len();
            let width = CURSOR_BITS - segment.depth;
            position = ((position >> width) + 1) << width;
            if visited >= count {
                break;
            }
        }
        if position >> CURSOR_BITS == 0 { position } else { 0 }
    }

    /// Parts the segment of `hash` in two. False where its members cannot be told apart by the bits that may be used.
    fn split(&mut self, segment: usize, hash: u64) -> bool {
        let depth = self.segments[segment].depth;
        if depth == DEPTH_MAX {
            return false;
        }
        if depth == self.depth {
            self.places = self.places.iter().flat_map(|place| [*place, *place]).collect();
            self.depth += 1;
        }
        let bit = 1u64 << (63 - depth);
        let old = std::mem::take(&mut self.segments[segment].table);
        let (mut low, mut high) = (HashTable::new(), HashTable::new());
        for item in old {
            let of_item = crate::hash::of(&item.member);
            let half = if of_item & bit == 0 { &mut low } else { &mut high };
            half.insert_unique(inner(of_item), item, rehash);
        }
        self.segments[segment] = Segment { depth: depth + 1, table: low };
        let fresh = self.segments.len() as u32;
        self.segments.push(Segment { depth: depth + 1, table: high });
        // The places of the old segment stand side by side; the upper half of them goes to the new one.
        let width = 1usize << (self.depth - depth);
        let first = self.place(hash) / width * width;
        self.places[first + width / 2..first + width].fill(fresh);
        true
    }
}

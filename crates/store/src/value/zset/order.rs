//! Members in the order of their scores, with the rank of each.
//!
//! ```text
//!   chunks   [ a b c ] [ d e f g ] [ h ]      each sorted, at most CHUNK_MAX items, none empty
//!   sums      3         7           1         a Fenwick tree over their lengths: ranks in O(log n)
//! ```
//!
//! A change moves the items of one chunk; only when a chunk splits, empties or merges are the sums built anew, which
//! costs one addition per chunk. So nothing stalls however long it grows.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use crate::value::shared::Shared;

const CHUNK_MAX: usize = 256;

/// One member with its score. The bytes are shared between the order and the index of members.
#[derive(Clone, Debug)]
pub(in crate::value) struct Item {
    pub score: f64,
    pub member: Arc<[u8]>,
}

impl Item {
    /// By score, then by bytes. Scores are never NaN; zero equals minus zero.
    fn compare(&self, score: f64, member: &[u8]) -> Ordering {
        self.score.partial_cmp(&score).unwrap_or(Ordering::Equal).then_with(|| (*self.member).cmp(member))
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Order {
    chunks: Vec<Shared<Vec<Item>>>,
    sums: Vec<usize>,
    len: usize,
}

/// Where an item stands: its chunk and its place in there.
type Place = (usize, usize);

impl Order {
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds an item that is not there.
    pub fn insert(&mut self, item: Item) {
        self.len += 1;
        let Some((chunk, at)) = self.seek(item.score, &item.member) else {
            self.chunks.push(Shared::Own(vec![item]));
            return self.rebuild();
        };
        let last = chunk + 1 == self.chunks.len();
        let items = &mut self.chunks[chunk];
        if items.len() < CHUNK_MAX {
            items.own().insert(at, item);
            return self.shift(chunk, 1);
        }
        if last && at == items.len() {
            // Growing at the end leaves full chunks behind.
            self.chunks.push(Shared::Own(vec![item]));
        } else {
            let items = items.own();
            let mut upper = items.split_off(CHUNK_MAX / 2);
            if at <= CHUNK_MAX / 2 {
                items.insert(at, item)
            } else {
                upper.insert(at - CHUNK_MAX / 2, item)
            }
            self.chunks.insert(chunk + 1, Shared::Own(upper));
        }
        self.rebuild();
    }

    /// Takes an item out.
    pub fn remove(&mut self, score: f64, member: &[u8]) -> Option<Item> {
        let (chunk, at) = self.find(score, member)?;
        self.len -= 1;
        let item = self.chunks[chunk].own().remove(at);
        if self.chunks[chunk].len() >= CHUNK_MAX / 8 || !self.tidy(chunk) {
            self.shift(chunk, -1);
        }
        Some(item)
    }

    /// Takes the items with these ranks out.
    pub fn remove_range(&mut self, ranks: Range<usize>, mut gone: impl FnMut(Item)) {
        let ranks = ranks.start.min(self.len)..ranks.end.min(self.len);
        if ranks.is_empty() {
            return;
        }
        let (first, mut at) = self.place(ranks.start);
        let mut left = ranks.len();
        let mut chunk = first;
        while left > 0 {
            let items = self.chunks[chunk].own();
            let count = left.min(items.len() - at);
            items.drain(at..at + count).for_each(&mut gone);
            left -= count;
            at = 0;
            chunk += 1;
        }
        self.len -= ranks.len();
        // Only the first and the last of the touched chunks can have anything left.
        let kept: Vec<_> = self.chunks.drain(first..chunk).filter(|items| !items.is_empty()).collect();
        self.chunks.splice(first..first, kept);
        self.rebuild();
        if first < self.chunks.len() && self.chunks[first].len() < CHUNK_MAX / 8 {
            self.tidy(first);
        }
    }

    /// How many items stand before this one.
    pub fn rank(&self, score: f64, member: &[u8]) -> Option<usize> {
        self.find(score, member).map(|(chunk, at)| self.before(chunk) + at)
    }

    /// How many items at the front satisfy `holds`, which must hold for all of a front part and for nothing behind it.
    pub fn partition_point(&self, holds: impl Fn(&Item) -> bool) -> usize {
        let chunk = self.chunks.partition_point(|items| items.last().is_some_and(&holds));
        match self.chunks.get(chunk) {
            Some(items) => self.before(chunk) + items.partition_point(&holds),
            None => self.len,
        }
    }

    /// The items with these ranks.
    pub fn range(&self, ranks: Range<usize>) -> Items<'_> {
        let ranks = ranks.start.min(self.len)..ranks.end.min(self.len);
        if ranks.is_empty() {
            return Items { chunks: &self.chunks, front: (0, 0), back: (0, 0), left: 0 };
        }
        let (chunk, at) = self.place(ranks.end - 1);
        Items { chunks: &self.chunks, front: self.place(ranks.start), back: (chunk, at + 1), left: ranks.len() }
    }

    /// The items as they are now, for a snapshot.
    pub fn hold(&mut self) -> impl Iterator<Item = Arc<Vec<Item>>> {
        self.chunks.iter_mut().map(Shared::hold)
    }

    /// Frees a chunk of an order that nobody uses any more. Returns whether all is freed.
    pub fn crumble(&mut self) -> bool {
        self.chunks.pop();
        self.chunks.is_empty()
    }

    /// Where the item is or would go.
    fn seek(&self, score: f64, member: &[u8]) -> Option<Place> {
        let less = |item: &Item| item.compare(score, member) == Ordering::Less;
        let chunk = self.chunks.partition_point(|items| items.last().is_some_and(less));
        match self.chunks.get(chunk) {
            Some(items) => Some((chunk, items.partition_point(less))),
            None => self.chunks.last().map(|items| (chunk - 1, items.len())),
        }
    }

    fn find(&self, score: f64, member: &[u8]) -> Option<Place> {
        let (chunk, at) = self.seek(score, member)?;
        let item = self.chunks[chunk].get(at)?;
        (item.compare(score, member) == Ordering::Equal).then_some((chunk, at))
    }

    /// Where the item of a rank below `len` stands.
    fn place(&self, rank: usize) -> Place {
        let mut chunk = 0;
        let mut left = rank;
        let mut step = self.sums.len().next_power_of_two();
        while step > 0 {
            if let Some(sum) = self.sums.get(chunk + step - 1)
                && *sum <= left
            {
                left -= sum;
                chunk += step;
            }
            step /= 2;
        }
        (chunk, left)
    }

    /// How many items stand in the chunks before this one.
    fn before(&self, chunk: usize) -> usize {
        let mut sum = 0;
        let mut index = chunk;
        while index > 0 {
            sum += self.sums[index - 1];
            index &= index - 1;
        }
        sum
    }

    /// A chunk's length has changed by one.
    fn shift(&mut self, chunk: usize, by: isize) {
        let mut index = chunk + 1;
        while index <= self.sums.len() {
            self.sums[index - 1] = self.sums[index - 1].wrapping_add_signed(by);
            index += index & index.wrapping_neg();
        }
    }

    fn rebuild(&mut self) {
        self.sums.clear();
        self.sums.extend(self.chunks.iter().map(|chunk| chunk.len()));
        for index in 1..=self.sums.len() {
            let parent = index + (index & index.wrapping_neg());
            if parent <= self.sums.len() {
                self.sums[parent - 1] += self.sums[index - 1];
            }
        }
    }

    /// Drops a chunk that is empty, or joins a small one with a neighbour. False where nothing was to be done.
    fn tidy(&mut self, chunk: usize) -> bool {
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
            self.rebuild();
            return true;
        }
        let fits = |left: usize| {
            self.chunks.get(left + 1).is_some_and(|right| self.chunks[left].len() + right.len() <= CHUNK_MAX / 2)
        };
        let left = if fits(chunk) {
            chunk
        } else if chunk > 0 && fits(chunk - 1) {
            chunk - 1
        } else {
            return false;
        };
        let mut right = self.chunks.remove(left + 1);
        self.chunks[left].own().append(right.own());
        self.rebuild();
        true
    }
}

/// Items in order, from either end.
pub(super) struct Items<'a> {
    chunks: &'a [Shared<Vec<Item>>],
    front: Place,
    back: Place,
    left: usize,
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a Item;

    fn next(&mut self) -> Option<&'a Item> {
        self.left = self.left.checked_sub(1)?;
        if self.front.1 == self.chunks[self.front.0].len() {
            self.front = (self.front.0 + 1, 0);
        }
        let item = &self.chunks[self.front.0][self.front.1];
        self.front.1 += 1;
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl DoubleEndedIterator for Items<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        if self.back.1 == 0 {
            self.back.0 -= 1;
            self.back.1 = self.chunks[self.back.0].len();
        }
        self.back.1 -= 1;
        Some(&self.chunks[self.back.0][self.back.1])
    }
}

impl ExactSizeIterator for Items<'_> {}

//! The sorted set: members with scores, in the order of score and then of bytes.
//!
//! ```text
//!   small   order (one chunk)                       a member is found by looking at all
//!   large   order ── Arc<[u8]> ── members by hash   a member is found in O(1), its rank in O(log n)
//! ```
//!
//! A set grows large beyond 128 members or with a member over 64 bytes, as Redis's does (`zset-max-listpack-*`), and
//! stays large. Walks by hash serve ZSCAN alone; everything else goes by the order, which is the same on every replica.

mod members;
mod order;

use std::ops::Range;
use std::sync::Arc;

use super::pieces::{Frozen, Piece, Pieced};
use crate::codec::{Corrupt, Input, Stored, put_bytes, put_f64, put_varint};
use members::Members;
pub(super) use order::Item;
use order::Order;

/// A sorted set. No score is NaN.
#[derive(Clone, Debug, Default)]
pub struct Zset {
    order: Order,
    /// Present once the set is large.
    members: Option<Members>,
    /// What the members' bytes cost.
    payload: usize,
}

impl Zset {
    /// Beyond this many members a set is large.
    pub const SMALL_LEN_MAX: usize = 128;
    /// With a member beyond this many bytes a set is large.
    pub const SMALL_MEMBER_MAX: usize = 64;

    /// An empty set.
    pub fn new() -> Zset {
        Zset::default()
    }

    /// How many members it holds.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap bytes by estimate, kept up to date with every change. Depends on members and encoding only, so replicas agree.
    pub fn heap_bytes(&self) -> usize {
        const FIXED: usize = size_of::<Zset>() + 64;
        const SMALL_EACH: usize = size_of::<Item>();
        // A slot in a chunk and one in a table, with the room that both leave free.
        const LARGE_EACH: usize = 72;
        FIXED + self.payload + self.len() * if self.members.is_some() { LARGE_EACH } else { SMALL_EACH }
    }

    /// What OBJECT ENCODING answers: Redis's name for a set of this size.
    pub fn encoding(&self) -> &'static str {
        if self.members.is_some() { "skiplist" } else { "listpack" }
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.find(member).map(|item| item.score)
    }

    /// Gives a member this score, which must not be NaN. Returns the one it had.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        debug_assert!(!score.is_nan(), "scores have an order");
        let Some(old) = self.score(member) else {
            self.add(Item { score, member: member.into() });
            return None;
        };
        if old == score {
            return Some(old);
        }
        let item = self.order.remove(old, member).expect("a member with a score stands in the order");
        if let Some(members) = &mut self.members {
            members.find_mut(member).expect("a large set's order and index hold the same").score = score;
        }
        self.order.insert(Item { score, ..item });
        Some(old)
    }

    /// Takes a member out. Returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let score = self.score(member)?;
        self.order.remove(score, member).expect("a member with a score stands in the order");
        if let Some(members) = &mut self.members {
            members.remove(member);
        }
        self.payload -= cost(member);
        Some(score)
    }

    /// How many members stand before this one, and its score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        let score = self.score(member)?;
        self.order.rank(score, member).map(|rank| (rank, score))
    }

    /// How many members at the front satisfy `holds`, which must hold for all of a front part and for nothing behind it.
    pub fn partition_point(&self, holds: impl Fn(&[u8], f64) -> bool) -> usize {
        self.order.partition_point(|item| holds(&item.member, item.score))
    }

    /// The members with these ranks and their scores, in order. Ranks beyond the end are ignored.
    pub fn range(&self, ranks: Range<usize>) -> impl DoubleEndedIterator<Item = (&[u8], f64)> + ExactSizeIterator {
        self.order.range(ranks).map(|item| (&*item.member, item.score))
    }

    /// All members and their scores, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&[u8], f64)> + ExactSizeIterator {
        self.range(0..self.len())
    }

    /// Takes the members with these ranks out. Returns how many.
    pub fn remove_range(&mut self, ranks: Range<usize>) -> usize {
        let before = self.len();
        let (members, payload) = (&mut self.members, &mut self.payload);
        self.order.remove_range(ranks, |item| {
            *payload -= cost(&item.member);
            if let Some(members) = members {
                members.remove(&item.member);
            }
        });
        before - self.len()
    }

    /// One step of an iteration in no particular order: visits about `count` members from `cursor` (0 starts) and returns
    /// where to go on, 0 at the end. A member that is there during the whole iteration is visited at least once, whatever
    /// comes and goes meanwhile; a small set is visited whole.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], f64)) -> u64 {
        match &self.members {
            Some(members) => members.scan(cursor, count, |item| visit(&item.member, item.score)),
            None => {
                self.iter().for_each(|(member, score)| visit(member, score));
                0
            }
        }
    }

    fn find(&self, member: &[u8]) -> Option<&Item> {
        match &self.members {
            Some(members) => members.find(member),
            None => self.order.range(0..self.order.len()).find(|item| *item.member == *member),
        }
    }

    /// Adds an item whose member is not there.
    fn add(&mut self, item: Item) {
        self.payload += cost(&item.member);
        if self.len() == Zset::SMALL_LEN_MAX || item.member.len() > Zset::SMALL_MEMBER_MAX {
            self.grow_large();
        }
        if let Some(members) = &mut self.members {
            members.insert(item.clone());
        }
        self.order.insert(item);
    }

    fn grow_large(&mut self) {
        if self.members.is_none() {
            let mut members = Members::new();
            self.order.range(0..self.order.len()).for_each(|item| members.insert(item.clone()));
            self.members = Some(members);
        }
    }
}

/// What a member's shared bytes cost: two counts and the bytes, in the allocator's steps of 16.
fn cost(member: &[u8]) -> usize {
    (2 * size_of::<usize>() + member.len()).next_multiple_of(16)
}

impl FromIterator<(Arc<[u8]>, f64)> for Zset {
    /// A member that comes twice gets the last score.
    fn from_iter<I: IntoIterator<Item = (Arc<[u8]>, f64)>>(items: I) -> Zset {
        let mut zset = Zset::new();
        for (member, score) in items {
            match zset.score(&member) {
                Some(_) => {
                    zset.insert(&member, score);
                }
                None => zset.add(Item { score, member }),
            }
        }
        zset
    }
}

impl Stored for Zset {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.members.is_some()));
        put_varint(out, self.len() as u64);
        for (member, score) in self.iter() {
            put_f64(out, score);
            put_bytes(out, member);
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Zset, Corrupt> {
        Zset::decode_whole(input)
    }
}

impl Pieced for Zset {
    fn decode_head(input: &mut Input<'_>) -> Result<(Zset, u64), Corrupt> {
        let mut zset = Zset::new();
        match input.u8()? {
            0 => {}
            1 => zset.grow_large(),
            _ => return Err(Corrupt("unknown form of a sorted set")),
        }
        Ok((zset, input.varint()?))
    }

    fn decode_next(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let score = input.f64()?;
        if score.is_nan() {
            return Err(Corrupt("a score is not a number"));
        }
        let member = input.bytes()?;
        if self.score(member).is_some() {
            return Err(Corrupt("a member stands twice"));
        }
        self.add(Item { score, member: member.into() });
        Ok(())
    }

    fn freeze(&mut self, head: Vec<u8>) -> Option<Frozen> {
        let mut frozen = Frozen::new(head, self.order.hold().map(Piece::Items));
        frozen.head.push(u8::from(self.members.is_some()));
        put_varint(&mut frozen.head, self.order.len() as u64);
        Some(frozen)
    }

    fn crumble(&mut self, pieces: usize) -> bool {
        (0..pieces).all(|_| {
            let indexed = self.members.as_mut().is_none_or(Members::crumble);
            self.order.crumble() && indexed
        })
    }
}

#[cfg(test)]
mod tests;

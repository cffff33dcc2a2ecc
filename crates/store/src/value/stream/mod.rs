//! The stream: an append-only log of entries, and the consumer groups that read it.
//!
//! ```text
//!   Stream ── Log    ── blocks of ≤ 100 entries or about 4 KiB, packed, field names shared
//!         └── groups ── by name: last id, pending deliveries, consumers
//! ```
//!
//! Blocks are stored as they are, deleted entries included: approximate trimming goes by blocks, so replicas must cut
//! them alike.

mod block;
mod group;
mod id;
mod log;

pub use block::Entry as StreamEntry;
pub use group::{Consumer, ConsumerNumber, Group, Pending};
pub use id::StreamId;
pub use log::{Keep, Log, Trim};

use std::collections::BTreeMap;

use super::pieces::{Frozen, Pieced};
use crate::codec::{Corrupt, Input, Stored, put_bytes, put_varint};

/// A stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Its entries.
    pub log: Log,
    groups: BTreeMap<Box<[u8]>, Group>,
    /// What the groups cost.
    group_bytes: usize,
}

impl Stream {
    /// How many entries it holds.
    pub fn len(&self) -> usize {
        self.log.len() as usize
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.log.is_empty()
    }

    /// Heap bytes by estimate, kept up to date with every change. Depends on contents only, so replicas agree.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Stream>() + self.log.bytes + self.group_bytes
    }

    /// What OBJECT ENCODING answers.
    pub fn encoding(&self) -> &'static str {
        "stream"
    }

    /// Its groups in the order of their names.
    pub fn groups(&self) -> impl ExactSizeIterator<Item = (&[u8], &Group)> {
        self.groups.iter().map(|(name, group)| (&**name, group))
    }

    /// The group of that name.
    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.get(name)
    }

    /// Makes a group. False where there is one of that name.
    pub fn create_group(&mut self, name: &[u8], last_id: StreamId, entries_read: Option<u64>) -> bool {
        if self.groups.contains_key(name) {
            return false;
        }
        let group = Group::new(last_id, entries_read);
        self.group_bytes += name.len() + group.bytes();
        self.groups.insert(name.into(), group);
        true
    }

    /// Removes a group. False where there is none of that name.
    pub fn destroy_group(&mut self, name: &[u8]) -> bool {
        let Some(group) = self.groups.remove(name) else {
            return false;
        };
        self.group_bytes -= name.len() + group.bytes();
        true
    }

    /// Lets `change` work on the group of that name, in sight of the entries.
    pub fn edit_group<R>(&mut self, name: &[u8], change: impl FnOnce(&Log, &mut Group) -> R) -> Option<R> {
        let group = self.groups.get_mut(name)?;
        let before = group.bytes();
        let result = change(&self.log, group);
        self.group_bytes = self.group_bytes + group.bytes() - before;
        Some(result)
    }
}

impl Stream {
    fn encode_groups(&self, out: &mut Vec<u8>) {
        put_varint(out, self.groups.len() as u64);
        for (name, group) in &self.groups {
            put_bytes(out, name);
            group.encode(out);
        }
    }

    fn decode_groups(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        for _ in 0..input.count()? {
            let name = input.bytes()?;
            let group = Group::decode(input)?;
            self.group_bytes += name.len() + group.bytes();
            if self.groups.insert(name.into(), group).is_some() {
                return Err(Corrupt("a group stands twice"));
            }
        }
        Ok(())
    }
}

impl Stored for Stream {
    fn encode(&self, out: &mut Vec<u8>) {
        self.log.encode(out);
        self.encode_groups(out);
    }

    fn decode(input: &mut Input<'_>) -> Result<Stream, Corrupt> {
        Stream::decode_whole(input)
    }
}

/// Its elements are the blocks, and then one more: all groups.
impl Pieced for Stream {
    fn decode_head(input: &mut Input<'_>) -> Result<(Stream, u64), Corrupt> {
        let (log, blocks) = Log::decode_head(input)?;
        Ok((Stream { log, ..Stream::default() }, blocks.saturating_add(1)))
    }

    fn decode_next(&mut self, left: u64, input: &mut Input<'_>) -> Result<(), Corrupt> {
        if left > 1 { self.log.decode_block(input) } else { self.decode_groups(input) }
    }

    fn freeze(&mut self, head: Vec<u8>) -> Option<Frozen> {
        let mut frozen = self.log.freeze(head);
        self.encode_groups(&mut frozen.tail);
        Some(frozen)
    }

    fn crumble(&mut self, pieces: usize) -> bool {
        self.log.crumble(64 * pieces)
    }
}

#[cfg(test)]
mod tests;

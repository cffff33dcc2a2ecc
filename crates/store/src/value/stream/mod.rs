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

impl Stored for Stream {
    fn encode(&self, out: &mut Vec<u8>) {
        self.log.encode(out);
        put_varint(out, self.groups.len() as u64);
        for (name, group) in &self.groups {
            put_bytes(out, name);
            group.encode(out);
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Stream, Corrupt> {
        let mut stream = Stream { log: Log::decode(input)?, ..Stream::default() };
        for _ in 0..input.count()? {
            let name = input.bytes()?;
            let group = Group::decode(input)?;
            stream.group_bytes += name.len() + group.bytes();
            if stream.groups.insert(name.into(), group).is_some() {
                return Err(Corrupt("a group stands twice"));
            }
        }
        Ok(stream)
    }
}

#[cfg(test)]
mod tests;

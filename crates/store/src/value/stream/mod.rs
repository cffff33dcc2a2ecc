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
mod deliveries;
mod group;
mod id;
mod log;

pub use block::Entry as StreamEntry;
pub(super) use deliveries::Part;
pub(super) use group::encode_part;
pub use group::{Consumer, ConsumerNumber, Group, Pending};
pub use id::StreamId;
pub use log::{Elsewhere, Keep, Log, Trim};

use std::collections::BTreeMap;

use super::pieces::{Frozen, Piece};
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

    /// The value as it is now, to be written behind `head`: block by block, and then the groups, their deliveries part by part.
    pub(super) fn freeze(&mut self, head: Vec<u8>) -> Option<Frozen> {
        let mut frozen = self.log.freeze(head);
        let mut count = Vec::new();
        put_varint(&mut count, self.groups.len() as u64);
        frozen.add(Piece::Bytes(count));
        for (name, group) in &mut self.groups {
            let mut head = Vec::new();
            put_bytes(&mut head, name);
            group.freeze(head).for_each(|piece| frozen.add(piece));
        }
        Some(frozen)
    }

    /// Frees up to `pieces` times 64 blocks or deliveries of a value that nobody uses any more. Returns whether the rest may be
    /// freed at once.
    pub(super) fn crumble(&mut self, pieces: usize) -> bool {
        if !self.log.crumble(64 * pieces) {
            return false;
        }
        while let Some(mut last) = self.groups.last_entry() {
            if !last.get_mut().crumble(64 * pieces) {
                return false;
            }
            last.remove();
        }
        true
    }
}

impl Stored for Stream {
    fn encode(&self, out: &mut Vec<u8>) {
        self.log.encode(out);
        self.encode_groups(out);
    }

    fn decode(input: &mut Input<'_>) -> Result<Stream, Corrupt> {
        let mut reading = Reading::begin(input)?;
        if !reading.feed(input)? {
            return Err(Corrupt("ends early"));
        }
        Ok(reading.finish())
    }
}

/// A stream that is being read, between any two of its blocks, groups and deliveries.
#[derive(Debug)]
pub(super) struct Reading {
    stream: Stream,
    /// Blocks that are still to come.
    blocks: u64,
    /// Groups that are still to come, once it has been read how many.
    groups: Option<u64>,
    /// The group that is being read, and how many deliveries of it are still to come.
    open: Option<(Box<[u8]>, Group, u64)>,
}

impl Reading {
    /// Reads what stands before the blocks.
    pub(super) fn begin(input: &mut Input<'_>) -> Result<Reading, Corrupt> {
        let (log, blocks) = Log::decode_head(input)?;
        Ok(Reading { stream: Stream { log, ..Stream::default() }, blocks, groups: None, open: None })
    }

    /// Reads on to the end of the stream or of the input. Returns whether the stream is whole.
    pub(super) fn feed(&mut self, input: &mut Input<'_>) -> Result<bool, Corrupt> {
        loop {
            if let Some((name, group, 0)) = self.open.take_if(|(.., left)| *left == 0) {
                self.stream.group_bytes += name.len() + group.bytes();
                if self.stream.groups.insert(name, group).is_some() {
                    return Err(Corrupt("a group stands twice"));
                }
            }
            if self.groups == Some(0) && self.open.is_none() {
                return Ok(true);
            }
            if input.is_empty() {
                return Ok(false);
            }
            match (&mut self.open, self.groups) {
                (Some((_, group, left)), _) => {
                    group.decode_delivery(input)?;
                    *left -= 1;
                }
                (None, None) if self.blocks > 0 => {
                    self.stream.log.decode_block(input)?;
                    self.blocks -= 1;
                }
                (None, None) => self.groups = Some(input.varint()?),
                (None, Some(groups)) => {
                    let name = input.bytes()?;
                    let (group, left) = Group::decode_head(input)?;
                    self.open = Some((name.into(), group, left));
                    self.groups = Some(groups - 1);
                }
            }
        }
    }

    /// The stream, once it is whole.
    pub(super) fn finish(self) -> Stream {
        self.stream
    }
}

#[cfg(test)]
mod tests;

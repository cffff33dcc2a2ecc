//! A hundred entries or so, packed into bytes.
//!
//! ```text
//!   block   count  field…                      the field names of the first entry
//!           entry…
//!   entry   flags  size  ms  seq  [count]  ([field] value)…
//! ```
//!
//! `ms` counts from the block's first id, and so does `seq` within the same millisecond; `size` is what follows it. An
//! entry with the block's own field names (flag 1) has neither count nor names. A deleted entry (flag 2) stays until its
//! block goes. All numbers are varints. Whatever came from disk is checked by [`Block::decode`], so reading cannot fail.

use std::sync::Arc;

use super::{Elsewhere, StreamId};
use crate::codec::{Corrupt, Input, put_bytes, put_varint};
use crate::value::shared::Shared;

const SAME_FIELDS: u8 = 1;
const DELETED: u8 = 2;
const CHECKED: &str = "a block is checked when it is read from disk";

/// As Redis's `stream-node-max-entries`: approximate trimming removes whole blocks, so users see this number.
pub(super) const ENTRIES_MAX: u32 = 100;
/// As Redis's `stream-node-max-bytes`. Our entries are smaller, so more of them fit.
const BYTES_MAX: usize = 4096;

#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Id of the first entry ever added.
    pub first: StreamId,
    /// Id of the last entry added, deleted or not.
    pub last: StreamId,
    pub live: u32,
    pub dead: u32,
    bytes: Shared<Vec<u8>>,
}

/// An entry as it lies in its block.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What it is called.
    pub id: StreamId,
    deleted: bool,
    /// Where its flags stand.
    at: usize,
    count: usize,
    /// The block's field names, where it uses them.
    shared: Option<Input<'a>>,
    body: Input<'a>,
    elsewhere: Option<&'a Elsewhere>,
}

impl<'a> Entry<'a> {
    /// One that has no fields here.
    pub(super) fn elsewhere(id: StreamId, elsewhere: &'a Elsewhere) -> Entry<'a> {
        let body = Input::new(&[]);
        Entry { id, deleted: false, at: 0, count: 0, shared: None, body, elsewhere: Some(elsewhere) }
    }

    /// Where its fields are, if not here.
    pub fn is_elsewhere(&self) -> Option<&'a Elsewhere> {
        self.elsewhere
    }

    /// How many fields it has.
    pub fn field_count(&self) -> usize {
        self.count
    }

    /// Its fields and their values, as they were given.
    pub fn fields(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let (mut shared, mut body) = (self.shared, self.body);
        (0..self.count).map(move |_| {
            let field = shared.as_mut().unwrap_or(&mut body).bytes().expect(CHECKED);
            (field, body.bytes().expect(CHECKED))
        })
    }

    pub(super) fn is_live(&self) -> bool {
        !self.deleted
    }
}

/// Reads an entry off the front; `total` is the length of the whole block.
fn read<'a>(
    first: StreamId,
    shared: (usize, Input<'a>),
    total: usize,
    rest: &mut Input<'a>,
) -> Result<Entry<'a>, Corrupt> {
    let at = total - rest.len();
    let flags = rest.u8()?;
    let size = rest.count()?;
    let mut body = Input::new(rest.take(size)?);
    let ms = first.ms.checked_add(body.varint()?).ok_or(Corrupt("an entry's id is too large"))?;
    let seq = body.varint()?;
    let seq = if ms == first.ms { first.seq.checked_add(seq) } else { Some(seq) };
    let id = StreamId::new(ms, seq.ok_or(Corrupt("an entry's id is too large"))?);
    let same = flags & SAME_FIELDS != 0;
    let count = if same { shared.0 } else { body.count()? };
    Ok(Entry { id, deleted: flags & DELETED != 0, at, count, shared: same.then_some(shared.1), body, elsewhere: None })
}

impl Block {
    /// A block that begins with this entry. `words` are fields and values in turn.
    pub fn new(id: StreamId, words: &[&[u8]]) -> Block {
        let mut bytes = Vec::new();
        put_varint(&mut bytes, words.len() as u64 / 2);
        words.iter().step_by(2).for_each(|field| put_bytes(&mut bytes, field));
        let mut block = Block { first: id, last: id, live: 0, dead: 0, bytes: Shared::Own(bytes) };
        block.append(id, words);
        block
    }

    /// Whether another entry of these words goes into a block of its own.
    pub fn is_full(&self, words: &[&[u8]]) -> bool {
        self.live + self.dead >= ENTRIES_MAX
            || self.bytes.len() + words.iter().map(|word| word.len()).sum::<usize>() >= BYTES_MAX
    }

    /// Adds an entry behind the last one.
    pub fn append(&mut self, id: StreamId, words: &[&[u8]]) {
        let same = self.has_fields(words);
        let mut ids = [0; 20];
        let mut left = &mut ids[..];
        let ms = id.ms - self.first.ms;
        let seq = if ms == 0 { id.seq - self.first.seq } else { id.seq };
        let head = write_varint(&mut left, ms) + write_varint(&mut left, seq);
        let payload: usize = if same {
            words.iter().skip(1).step_by(2).map(|word| bytes_len(word)).sum()
        } else {
            varint_len(words.len() as u64 / 2) + words.iter().map(|word| bytes_len(word)).sum::<usize>()
        };
        let bytes = self.bytes.own();
        bytes.push(if same { SAME_FIELDS } else { 0 });
        put_varint(bytes, (head + payload) as u64);
        bytes.extend_from_slice(&ids[..head]);
        if same {
            words.iter().skip(1).step_by(2).for_each(|word| put_bytes(bytes, word));
        } else {
            put_varint(bytes, words.len() as u64 / 2);
            words.iter().for_each(|word| put_bytes(bytes, word));
        }
        self.last = id;
        self.live += 1;
    }

    /// Frees the room that was kept for growing.
    pub fn seal(&mut self) {
        self.bytes.own().shrink_to_fit();
    }

    /// What it costs, without the block itself.
    pub fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// All entries in order, the deleted ones included.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'_>> {
        let shared = self.shared();
        let mut rest = shared.1;
        for _ in 0..shared.0 {
            rest.bytes().expect(CHECKED);
        }
        std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| read(self.first, shared, self.bytes.len(), &mut rest).expect(CHECKED))
        })
    }

    /// Marks a live entry as deleted.
    pub fn delete(&mut self, id: StreamId) -> bool {
        let Some(at) = self.entries().find(|entry| entry.id == id && entry.is_live()).map(|entry| entry.at) else {
            return false;
        };
        self.bytes.own()[at] |= DELETED;
        self.live -= 1;
        self.dead += 1;
        true
    }

    /// Marks the live entries at the front as deleted for as long as `doomed` says. Returns how many.
    pub fn delete_front(&mut self, mut doomed: impl FnMut(StreamId) -> bool) -> u32 {
        let marks: Vec<usize> =
            self.entries().filter(Entry::is_live).take_while(|entry| doomed(entry.id)).map(|entry| entry.at).collect();
        let bytes = self.bytes.own();
        marks.iter().for_each(|at| bytes[*at] |= DELETED);
        self.live -= marks.len() as u32;
        self.dead += marks.len() as u32;
        marks.len() as u32
    }

    /// Removes the deleted entries behind the last live one.
    pub fn drop_dead_tail(&mut self) {
        let (mut end, mut last, mut tail) = (self.bytes.len(), self.first, 0);
        for entry in self.entries() {
            if entry.is_live() {
                (last, tail) = (entry.id, 0);
            } else {
                end = if tail == 0 { entry.at } else { end };
                tail += 1;
            }
        }
        if tail > 0 {
            self.bytes.own().truncate(end);
            self.dead -= tail;
            self.last = last;
        }
    }

    /// The bytes as they are now, for a snapshot.
    pub fn hold(&mut self) -> Arc<Vec<u8>> {
        self.bytes.hold()
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        self.first.encode(out);
        put_bytes(out, &self.bytes);
    }

    /// Reads a block and every entry in it.
    pub fn decode(input: &mut Input<'_>) -> Result<Block, Corrupt> {
        let first = StreamId::decode(input)?;
        let bytes = input.bytes()?;
        let mut rest = Input::new(bytes);
        let count = rest.count()?;
        let shared = (count, rest);
        for _ in 0..count {
            rest.bytes()?;
        }
        let mut block = Block { first, last: first, live: 0, dead: 0, bytes: Shared::Own(bytes.to_vec()) };
        while !rest.is_empty() {
            let entry = read(first, shared, bytes.len(), &mut rest)?;
            let is_first = block.live + block.dead == 0;
            if if is_first { entry.id != first } else { entry.id <= block.last } {
                return Err(Corrupt("entries are out of order"));
            }
            let mut body = entry.body;
            for _ in 0..entry.count * if entry.shared.is_some() { 1 } else { 2 } {
                body.bytes()?;
            }
            if !body.is_empty() || bytes[entry.at] > (SAME_FIELDS | DELETED) {
                return Err(Corrupt("an entry is not what it says"));
            }
            block.last = entry.id;
            if entry.deleted { block.dead += 1 } else { block.live += 1 }
        }
        if block.live == 0 {
            return Err(Corrupt("a block without entries"));
        }
        Ok(block)
    }

    fn shared(&self) -> (usize, Input<'_>) {
        let mut input = Input::new(&self.bytes);
        let count = input.varint().expect(CHECKED) as usize;
        (count, input)
    }

    fn has_fields(&self, words: &[&[u8]]) -> bool {
        let (count, mut fields) = self.shared();
        count == words.len() / 2 && words.iter().step_by(2).all(|word| fields.bytes() == Ok(word))
    }
}

fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros() as usize).div_ceil(7)
}

fn bytes_len(bytes: &[u8]) -> usize {
    varint_len(bytes.len() as u64) + bytes.len()
}

/// As [`put_varint`], into a buffer that is long enough. Returns the length.
fn write_varint(out: &mut &mut [u8], mut value: u64) -> usize {
    let len = varint_len(value);
    let (head, rest) = std::mem::take(out).split_at_mut(len);
    for (at, byte) in head.iter_mut().enumerate() {
        *byte = value as u8 & 0x7F | if at + 1 < len { 0x80 } else { 0 };
        value >>= 7;
    }
    *out = rest;
    len
}

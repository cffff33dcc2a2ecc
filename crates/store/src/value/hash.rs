//! The hash: fields with values.
//!
//! Small ones (up to 512 fields, no text beyond 64 bytes) are one packed run of strings that is walked; larger ones are
//! [`Rows`] of pairs in insertion order, where removal puts the last pair in the gap. Either order is the same on every
//! replica and survives storing. What a hash costs in memory is computed from what it holds, for the same reason.

use std::borrow::Borrow;

use super::packed::{Packed, Strings};
use super::pieces::{Frozen, Piece, Pieced};
use super::rows::{self, Rows};
use crate::codec::{Corrupt, Input, Stored, put_bytes, put_varint};

/// Redis's `hash-max-listpack-entries` and `hash-max-listpack-value`.
const SMALL_FIELDS: usize = 512;
const SMALL_BYTES: usize = 64;

/// A field and its value in one allocation: the field's length as a varint, the field, the value.
#[derive(Clone, Debug)]
pub(super) struct Pair(Box<[u8]>);

impl Pair {
    fn new(field: &[u8], value: &[u8]) -> Pair {
        let mut bytes = Vec::with_capacity(field.len() + value.len() + if field.len() < 0x80 { 1 } else { 10 });
        put_varint(&mut bytes, field.len() as u64);
        bytes.extend_from_slice(field);
        bytes.extend_from_slice(value);
        Pair(bytes.into())
    }

    #[inline]
    pub(super) fn split(&self) -> (&[u8], &[u8]) {
        if self.0[0] < 0x80 {
            return self.0[1..].split_at(usize::from(self.0[0]));
        }
        let mut input = Input::new(&self.0);
        let field = input.bytes().expect("a pair begins with its field");
        let value = input.take(input.len()).expect("the value is the rest");
        (field, value)
    }

    /// Writes over the value where the new one has the same length.
    fn overwrite(&mut self, value: &[u8]) -> bool {
        let len = self.split().1.len();
        if len == value.len() {
            let at = self.0.len() - len;
            self.0[at..].copy_from_slice(value);
        }
        len == value.len()
    }
}

impl Borrow<[u8]> for Pair {
    fn borrow(&self) -> &[u8] {
        self.split().0
    }
}

#[derive(Clone, Debug)]
enum Form {
    /// Field, value, field, value, …
    Small(Packed),
    Table(Rows<Pair>),
}

/// A hash.
#[derive(Clone, Debug)]
pub struct Hash {
    form: Form,
    /// Bytes of all fields and values.
    payload: usize,
}

impl Default for Hash {
    fn default() -> Hash {
        Hash { form: Form::Small(Packed::default()), payload: 0 }
    }
}

impl Hash {
    /// How many fields it holds.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Small(packed) => packed.count() / 2,
            Form::Table(table) => table.len(),
        }
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Heap bytes by estimate, kept up to date with every change. A function of the form and the contents alone.
    #[inline]
    pub fn heap_bytes(&self) -> usize {
        /// The row (16), its slot in the index (9, half as much again), an allocation's rounding.
        const PAIR: usize = 40;
        let held = match &self.form {
            Form::Small(packed) => packed.used() + packed.used() / 8,
            Form::Table(table) => self.payload + table.len() * PAIR,
        };
        size_of::<Hash>() + held
    }

    /// What OBJECT ENCODING answers: `listpack` or `hashtable`. A hash never becomes small again.
    pub fn encoding(&self) -> &'static str {
        if self.is_small() { "listpack" } else { "hashtable" }
    }

    /// Whether it has the small form: access by index then walks, and a scan returns everything at once.
    pub fn is_small(&self) -> bool {
        matches!(self.form, Form::Small(_))
    }

    /// The value of a field.
    #[inline]
    pub fn get(&self, field: &[u8]) -> Option<&[u8]> {
        match &self.form {
            Form::Small(packed) => {
                let (_, value) = packed.at(packed.find::<2>(field)?)?;
                Some(packed.at(value)?.0)
            }
            Form::Table(table) => table.get(field).map(|pair| pair.split().1),
        }
    }

    /// Whether it has this field.
    #[inline]
    pub fn contains(&self, field: &[u8]) -> bool {
        self.get(field).is_some()
    }

    /// Gives a field a value. Returns whether the field is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8]) -> bool {
        if let Form::Small(packed) = &mut self.form {
            let fits = field.len() <= SMALL_BYTES && value.len() <= SMALL_BYTES;
            match packed.find::<2>(field) {
                Some(offset) if fits => {
                    let (_, at) = packed.at(offset).expect("a field was found here");
                    let (old, _) = packed.at(at).expect("every field has a value");
                    self.payload = self.payload - old.len() + value.len();
                    packed.replace(at, value);
                    return false;
                }
                None if fits && packed.count() < 2 * SMALL_FIELDS => {
                    packed.push(field);
                    packed.push(value);
                    self.payload += field.len() + value.len();
                    return true;
                }
                _ => self.make_table(),
            }
        }
        let Form::Table(table) = &mut self.form else {
            unreachable!("a hash that does not fit the small form has just been made a table");
        };
        if let Some(place) = table.place_of(field) {
            let pair = table.at_mut(place).expect("the place was found a line ago");
            self.payload = self.payload - pair.split().1.len() + value.len();
            if !pair.overwrite(value) {
                *pair = Pair::new(field, value);
            }
            return false;
        }
        table.push(Pair::new(field, value));
        self.payload += field.len() + value.len();
        true
    }

    /// Takes the large form.
    fn make_table(&mut self) {
        if self.is_small() {
            let mut table = Rows::default();
            self.iter().for_each(|(field, value)| table.push(Pair::new(field, value)));
            self.form = Form::Table(table);
        }
    }

    /// Removes a field. Returns whether it was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match &mut self.form {
            Form::Small(packed) => {
                let Some(offset) = packed.find::<2>(field) else {
                    return false;
                };
                let before = packed.used();
                packed.remove(offset, 2);
                self.payload -= before - packed.used() - 2;
            }
            Form::Table(table) => {
                let Some(place) = table.place_of(field) else {
                    return false;
                };
                let pair = table.swap_remove(place);
                let (field, value) = pair.split();
                self.payload -= field.len() + value.len();
            }
        }
        true
    }

    /// All fields with their values in the hash's own order.
    #[inline]
    pub fn iter(&self) -> Iter<'_> {
        match &self.form {
            Form::Small(packed) => Iter(Pairs::Small(packed.iter())),
            Form::Table(table) => Iter(Pairs::Table(table.iter())),
        }
    }

    /// The field at a place of the hash's order, with its value.
    pub fn at(&self, index: usize) -> Option<(&[u8], &[u8])> {
        match &self.form {
            Form::Small(_) => self.iter().nth(index),
            Form::Table(table) => table.at(index).map(Pair::split),
        }
    }

    /// One step of an iteration: visits about `count` fields from `cursor` on (0 starts) and returns where to go on, 0 at
    /// the end. A field that is there during the whole iteration is visited at least once: places are walked downwards,
    /// and a pair only ever moves downwards, from the end.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8], &[u8])) -> u64 {
        let Form::Table(table) = &self.form else {
            self.iter().for_each(|(field, value)| visit(field, value));
            return 0;
        };
        let end = downward(cursor, table.len());
        let begin = end.saturating_sub(count.max(1));
        for index in (begin..end).rev() {
            let (field, value) = table.at(index).expect("the index is below the length").split();
            visit(field, value);
        }
        begin as u64
    }
}

/// Where a downward walk goes on: below the cursor, or at the end where it starts or the table has shrunk below it.
pub(super) fn downward(cursor: u64, len: usize) -> usize {
    if cursor == 0 { len } else { usize::try_from(cursor).map_or(len, |cursor| cursor.min(len)) }
}

/// See [`Hash::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a>(Pairs<'a>);

#[derive(Clone, Debug)]
enum Pairs<'a> {
    Small(Strings<'a>),
    Table(rows::Iter<'a, Pair>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Pairs::Small(strings) => Some((strings.next()?, strings.next()?)),
            Pairs::Table(pairs) => pairs.next().map(Pair::split),
        }
    }
}

impl Stored for Hash {
    /// 0 for small or 1 for a table, a count, field and value in their order.
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(!self.is_small()));
        put_varint(out, self.len() as u64);
        for (field, value) in self.iter() {
            put_bytes(out, field);
            put_bytes(out, value);
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Hash, Corrupt> {
        Hash::decode_whole(input)
    }
}

impl Pieced for Hash {
    fn decode_head(input: &mut Input<'_>) -> Result<(Hash, u64), Corrupt> {
        let mut hash = Hash::default();
        match input.u8()? {
            0 => {}
            1 => hash.form = Form::Table(Rows::default()),
            _ => return Err(Corrupt("unknown form of hash")),
        }
        Ok((hash, input.varint()?))
    }

    fn decode_next(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        if self.insert(input.bytes()?, input.bytes()?) { Ok(()) } else { Err(Corrupt("a hash has a field twice")) }
    }

    fn freeze(&mut self, head: Vec<u8>) -> Option<Frozen> {
        let len = self.len();
        let Form::Table(table) = &mut self.form else {
            return None;
        };
        let mut frozen = Frozen::new(head, table.hold().map(Piece::Pairs));
        frozen.head.push(1);
        put_varint(&mut frozen.head, len as u64);
        Some(frozen)
    }

    fn crumble(&mut self, pieces: usize) -> bool {
        match &mut self.form {
            Form::Small(_) => true,
            Form::Table(table) => table.crumble(pieces),
        }
    }
}

#[cfg(test)]
mod tests;

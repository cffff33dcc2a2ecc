//! The set: members without repetition.
//!
//! As long as all members are whole numbers and at most 512, a sorted array of them; with texts a packed run that is walked
//! (up to 128 members of up to 64 bytes); beyond that [`Rows`] in insertion order, where removal puts the last member in the
//! gap. All orders are the same on every replica and survive storing. What a set costs in memory is computed from what it
//! holds, for the same reason.

mod ints;

use super::hash::downward;
use super::packed::{Packed, Strings};
use super::pieces::{Frozen, Piece, Pieced};
use super::rows::{self, Rows};
use crate::codec::{Corrupt, Input, Stored, put_bytes, put_u64, put_varint};
use base::{format_i64, parse_i64};
use ints::Ints;

/// Redis's `set-max-intset-entries`, `set-max-listpack-entries` and `set-max-listpack-value`.
const INTS_MAX: usize = 512;
const SMALL_MEMBERS: usize = 128;
const SMALL_BYTES: usize = 64;

#[derive(Clone, Debug)]
enum Form {
    Ints(Ints),
    Small(Packed),
    Table(Rows<Box<[u8]>>),
}

/// A set.
#[derive(Clone, Debug)]
pub struct Set {
    form: Form,
    /// Bytes of all members, unless they are held as numbers.
    payload: usize,
}

impl Default for Set {
    fn default() -> Set {
        Set { form: Form::Ints(Ints::default()), payload: 0 }
    }
}

/// A member as bytes, whatever form it is held in.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a>(Held<'a>);

#[derive(Clone, Copy, Debug)]
enum Held<'a> {
    Text(&'a [u8]),
    Number { digits: [u8; 20], from: u8 },
}

impl Member<'_> {
    fn number(value: i64) -> Member<'static> {
        let mut digits = [0; 20];
        let from = 20 - format_i64(value, &mut digits).len() as u8;
        Member(Held::Number { digits, from })
    }
}

impl std::ops::Deref for Member<'_> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Held::Text(text) => text,
            Held::Number { digits, from } => &digits[usize::from(*from)..],
        }
    }
}

impl Set {
    /// How many members it holds.
    #[inline]
    pub fn len(&self) -> usize {
        match &self.form {
            Form::Ints(ints) => ints.len(),
            Form::Small(packed) => packed.count(),
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
        const MEMBER: usize = 40;
        let held = match &self.form {
            Form::Ints(ints) => ints.used() + ints.used() / 8,
            Form::Small(packed) => packed.used() + packed.used() / 8,
            Form::Table(table) => self.payload + table.len() * MEMBER,
        };
        size_of::<Set>() + held
    }

    /// What OBJECT ENCODING answers: `intset`, `listpack` or `hashtable`. A set never goes back to an earlier one.
    pub fn encoding(&self) -> &'static str {
        match &self.form {
            Form::Ints(_) => "intset",
            Form::Small(_) => "listpack",
            Form::Table(_) => "hashtable",
        }
    }

    /// Whether it has one of the small forms: a scan then returns everything at once.
    pub fn is_small(&self) -> bool {
        !matches!(self.form, Form::Table(_))
    }

    /// Whether it has this member.
    #[inline]
    pub fn contains(&self, member: &[u8]) -> bool {
        match &self.form {
            Form::Ints(ints) => parse_i64(member).is_some_and(|value| ints.find(value).is_ok()),
            Form::Small(packed) => packed.find::<1>(member).is_some(),
            Form::Table(table) => table.place_of(member).is_some(),
        }
    }

    /// Says that about `count` members are about to come, so that an empty set can take the form that suits them, as
    /// Redis chooses it: by the first member and the number of them.
    pub fn expect(&mut self, first: &[u8], count: usize) {
        if self.is_empty() && !(count <= INTS_MAX && parse_i64(first).is_some()) {
            self.form =
                if count <= SMALL_MEMBERS { Form::Small(Packed::default()) } else { Form::Table(Rows::default()) };
        }
    }

    /// Adds a member. Returns whether it is new.
    #[inline]
    pub fn insert(&mut self, member: &[u8]) -> bool {
        if let Form::Table(table) = &mut self.form {
            return insert_text(table, &mut self.payload, member);
        }
        self.insert_small(member)
    }

    fn insert_small(&mut self, member: &[u8]) -> bool {
        if let Form::Ints(ints) = &mut self.form {
            let Some(value) = parse_i64(member) else {
                self.leave_ints(member.len());
                return self.insert(member);
            };
            let Err(index) = ints.find(value) else {
                return false;
            };
            ints.insert_at(index, value);
            if ints.len() > INTS_MAX {
                self.make_table();
            }
            return true;
        }
        if let Form::Small(packed) = &mut self.form {
            if packed.find::<1>(member).is_some() {
                return false;
            }
            if member.len() <= SMALL_BYTES && packed.count() < SMALL_MEMBERS {
                packed.push(member);
                self.payload += member.len();
                return true;
            }
            self.make_table();
        }
        self.insert(member)
    }

    /// A text of this length joins the numbers.
    fn leave_ints(&mut self, len: usize) {
        if self.len() >= SMALL_MEMBERS || len > SMALL_BYTES {
            return self.make_table();
        }
        let mut packed = Packed::default();
        self.iter().for_each(|member| packed.push(&member));
        self.payload = packed.used() - packed.count();
        self.form = Form::Small(packed);
    }

    fn make_table(&mut self) {
        let mut table: Rows<Box<[u8]>> = Rows::default();
        self.iter().for_each(|member| table.push(Box::from(&*member)));
        self.payload = table.iter().map(|member| member.len()).sum();
        self.form = Form::Table(table);
    }

    /// Removes a member. Returns whether it was there.
    #[inline]
    pub fn remove(&mut self, member: &[u8]) -> bool {
        let index = match &self.form {
            Form::Ints(ints) => parse_i64(member).and_then(|value| ints.find(value).ok()),
            Form::Small(packed) => {
                let Some(offset) = packed.find::<1>(member) else {
                    return false;
                };
                self.remove_packed(offset);
                return true;
            }
            Form::Table(table) => table.place_of(member),
        };
        match index {
            Some(index) => self.remove_at(index),
            None => false,
        }
    }

    fn remove_packed(&mut self, offset: usize) {
        if let Form::Small(packed) = &mut self.form {
            let before = packed.used();
            packed.remove(offset, 1);
            self.payload -= before - packed.used() - 1;
        }
    }

    /// Removes the member at a place of the set's order. Returns whether there is such a place.
    pub fn remove_at(&mut self, index: usize) -> bool {
        if index >= self.len() {
            return false;
        }
        match &mut self.form {
            Form::Ints(ints) => ints.remove_at(index),
            Form::Small(packed) => {
                let offset = packed.offset(index);
                self.remove_packed(offset);
            }
            Form::Table(table) => {
                let member = table.swap_remove(index);
                self.payload -= member.len();
            }
        }
        true
    }

    /// The member at a place of the set's order.
    #[inline]
    pub fn at(&self, index: usize) -> Option<Member<'_>> {
        match &self.form {
            Form::Ints(ints) => ints.at(index).map(Member::number),
            Form::Small(packed) if index < packed.count() => {
                packed.at(packed.offset(index)).map(|(text, _)| Member(Held::Text(text)))
            }
            Form::Small(_) => None,
            Form::Table(table) => table.at(index).map(|text| Member(Held::Text(text))),
        }
    }

    /// All members in the set's own order.
    pub fn iter(&self) -> Iter<'_> {
        Iter(match &self.form {
            Form::Ints(ints) => Members::Ints(ints, 0),
            Form::Small(packed) => Members::Small(packed.iter()),
            Form::Table(table) => Members::Table(table.iter()),
        })
    }

    /// One step of an iteration: visits about `count` members from `cursor` on (0 starts) and returns where to go on, 0 at
    /// the end. A member that is there during the whole iteration is visited at least once: places are walked downwards,
    /// and a member only ever moves downwards, from the end.
    pub fn scan(&self, cursor: u64, count: usize, mut visit: impl FnMut(&[u8])) -> u64 {
        let Form::Table(table) = &self.form else {
            self.iter().for_each(|member| visit(&member));
            return 0;
        };
        let end = downward(cursor, table.len());
        let begin = end.saturating_sub(count.max(1));
        for index in (begin..end).rev() {
            visit(table.at(index).expect("the index lies below the length"));
        }
        begin as u64
    }
}

/// See [`Set::iter`].
#[derive(Clone, Debug)]
pub struct Iter<'a>(Members<'a>);

#[derive(Clone, Debug)]
enum Members<'a> {
    Ints(&'a Ints, usize),
    Small(Strings<'a>),
    Table(rows::Iter<'a, Box<[u8]>>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = Member<'a>;

    #[inline]
    fn next(&mut self) -> Option<Member<'a>> {
        match &mut self.0 {
            Members::Ints(ints, index) => {
                *index += 1;
                ints.at(*index - 1).map(Member::number)
            }
            Members::Small(strings) => strings.next().map(|text| Member(Held::Text(text))),
            Members::Table(members) => members.next().map(|text| Member(Held::Text(text))),
        }
    }
}

fn insert_text(table: &mut Rows<Box<[u8]>>, payload: &mut usize, member: &[u8]) -> bool {
    if table.place_of(member).is_some() {
        return false;
    }
    table.push(member.into());
    *payload += member.len();
    true
}

impl Stored for Set {
    /// 0 for numbers, 1 for small or 2 for a table; a count; the members in their order. Numbers are eight bytes each,
    /// behind one byte with the width that they have in memory.
    fn encode(&self, out: &mut Vec<u8>) {
        match &self.form {
            Form::Ints(ints) => {
                out.push(0);
                put_varint(out, ints.len() as u64);
                out.push(ints.width() as u8);
                ints.iter().for_each(|value| put_u64(out, value as u64));
            }
            Form::Small(_) | Form::Table(_) => {
                out.push(if self.is_small() { 1 } else { 2 });
                put_varint(out, self.len() as u64);
                self.iter().for_each(|member| put_bytes(out, &member));
            }
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Set, Corrupt> {
        Set::decode_whole(input)
    }
}

impl Pieced for Set {
    fn decode_head(input: &mut Input<'_>) -> Result<(Set, u64), Corrupt> {
        let form = input.u8()?;
        let count = input.varint()?;
        let mut set = Set::default();
        match form {
            0 => return Ok((decode_ints(input, count)?, 0)),
            1 => set.form = Form::Small(Packed::default()),
            2 => set.form = Form::Table(Rows::default()),
            _ => return Err(Corrupt("unknown form of set")),
        }
        Ok((set, count))
    }

    fn decode_next(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        if self.insert(input.bytes()?) { Ok(()) } else { Err(Corrupt("a set has a member twice")) }
    }

    fn freeze(&mut self, head: Vec<u8>) -> Option<Frozen> {
        let len = self.len();
        let Form::Table(table) = &mut self.form else {
            return None;
        };
        let mut frozen = Frozen::new(head, table.hold().map(Piece::Members));
        frozen.head.push(2);
        put_varint(&mut frozen.head, len as u64);
        Some(frozen)
    }

    fn crumble(&mut self, pieces: usize) -> bool {
        match &mut self.form {
            Form::Ints(_) | Form::Small(_) => true,
            Form::Table(table) => table.crumble(pieces),
        }
    }
}

fn decode_ints(input: &mut Input<'_>, count: u64) -> Result<Set, Corrupt> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    if count > INTS_MAX {
        return Err(Corrupt("a set of numbers is too large"));
    }
    let width = input.u8()?;
    let mut ints = Ints::with_width(width.into()).ok_or(Corrupt("a set of numbers has an unknown width"))?;
    for index in 0..count {
        let value = input.u64()? as i64;
        if ints.find(value) != Err(index) {
            return Err(Corrupt("a set of numbers is not sorted"));
        }
        ints.insert_at(index, value);
    }
    Ok(Set { form: Form::Ints(ints), payload: 0 })
}

#[cfg(test)]
mod tests;

//! Large values in pieces: written as they were at one moment while they change, and read as the pieces come.
//!
//! What the pieces add up to is the value's stored form, byte for byte. A piece ends between two elements (of a string:
//! anywhere), so whoever reads needs no more than one piece at a time.

use std::collections::VecDeque;
use std::sync::Arc;

use super::hash::Pair;
use super::list::Part;
use super::stream::{self, encode_part};
use super::zset::Item;
use super::{Hash, List, Set, StreamId, Value, Zset};
use crate::codec::{Corrupt, Input, put_bytes, put_f64, put_varint};

/// A collection that can be written and read in pieces.
pub(super) trait Pieced: Sized {
    /// Reads what stands before the elements, and how many follow.
    fn decode_head(input: &mut Input<'_>) -> Result<(Self, u64), Corrupt>;
    /// Reads one element.
    fn decode_next(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt>;
    /// The value as it is now behind `head`, `None` where it is held in one piece, which is small.
    fn freeze(&mut self, head: Vec<u8>) -> Option<Frozen>;
    /// Frees up to `pieces` pieces of a value that nobody uses any more. Returns whether the rest may be freed at once.
    fn crumble(&mut self, pieces: usize) -> bool;

    /// Reads head and elements.
    fn decode_whole(input: &mut Input<'_>) -> Result<Self, Corrupt> {
        let (mut value, count) = Self::decode_head(input)?;
        for _ in 0..count {
            value.decode_next(input)?;
        }
        Ok(value)
    }
}

/// A part of a value that no change reaches any more.
#[derive(Debug)]
pub(super) enum Piece {
    Text(Arc<Vec<u8>>),
    Elements(Part),
    Pairs(Arc<Vec<Pair>>),
    Members(Arc<Vec<Box<[u8]>>>),
    Items(Arc<Vec<Item>>),
    /// A stream's block, by the id of its first entry.
    Block(StreamId, Arc<Vec<u8>>),
    /// A part of a group's deliveries, and the place of each consumer by its number.
    Deliveries(Arc<[u64]>, Arc<stream::Part>),
    /// What is small, as it is stored.
    Bytes(Vec<u8>),
}

/// A large value as it was at one moment, on its way to a snapshot.
#[derive(Debug)]
pub struct Frozen {
    /// What is written first: whatever the caller put before the value, and the value's own head.
    pub(super) head: Vec<u8>,
    pieces: VecDeque<Piece>,
    /// A string that is being written, and how far it is.
    text: Option<(Arc<Vec<u8>>, usize)>,
}

impl Frozen {
    pub(super) fn new(head: Vec<u8>, pieces: impl Iterator<Item = Piece>) -> Frozen {
        Frozen { head, pieces: pieces.collect(), text: None }
    }

    /// Adds a piece at the end.
    pub(super) fn add(&mut self, piece: Piece) {
        self.pieces.push_back(piece);
    }

    /// Goes on until `out` is `until` bytes long or somewhat longer. Returns whether all is written.
    pub fn write(&mut self, until: usize, out: &mut Vec<u8>) -> bool {
        out.append(&mut self.head);
        while out.len() < until {
            if let Some((text, at)) = &mut self.text {
                let end = text.len().min(*at + (until - out.len()));
                out.extend_from_slice(&text[*at..end]);
                *at = end;
                if end == text.len() {
                    self.text = None;
                }
                continue;
            }
            match self.pieces.pop_front() {
                Some(Piece::Text(text)) => self.text = Some((text, 0)),
                Some(piece) => piece.encode(out),
                None => return true,
            }
        }
        false
    }
}

impl Piece {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Piece::Text(text) => out.extend_from_slice(text),
            Piece::Elements(part) => part.iter().for_each(|element| put_bytes(out, element)),
            Piece::Pairs(pairs) => pairs.iter().map(Pair::split).for_each(|(field, value)| {
                put_bytes(out, field);
                put_bytes(out, value);
            }),
            Piece::Members(members) => members.iter().for_each(|member| put_bytes(out, member)),
            Piece::Items(items) => items.iter().for_each(|item| {
                put_f64(out, item.score);
                put_bytes(out, &item.member);
            }),
            Piece::Block(first, bytes) => {
                first.encode(out);
                put_bytes(out, bytes);
            }
            Piece::Deliveries(order, part) => encode_part(part, order, out),
            Piece::Bytes(bytes) => out.extend_from_slice(bytes),
        }
    }
}

impl Value {
    /// The value as it is now, to be written behind `head` piece by piece. `None` where it is held in one piece.
    pub fn freeze(&mut self, mut head: Vec<u8>) -> Option<Frozen> {
        head.push(self.view().number());
        match self {
            Value::Str(text) => {
                put_varint(&mut head, text.len() as u64);
                Some(Frozen::new(head, std::iter::once(Piece::Text(text.clone()))))
            }
            Value::List(inner) => inner.freeze(head),
            Value::Hash(inner) => inner.freeze(head),
            Value::Set(inner) => inner.freeze(head),
            Value::Zset(inner) => inner.freeze(head),
            Value::Stream(inner) => inner.freeze(head),
        }
    }

    /// Frees up to `pieces` pieces of a value that nobody uses any more. Returns whether the rest may be freed at once.
    pub fn crumble(&mut self, pieces: usize) -> bool {
        match self {
            Value::Str(_) => true,
            Value::List(inner) => inner.crumble(pieces),
            Value::Hash(inner) => inner.crumble(pieces),
            Value::Set(inner) => inner.crumble(pieces),
            Value::Zset(inner) => inner.crumble(pieces),
            Value::Stream(inner) => inner.crumble(pieces),
        }
    }
}

/// A value of which a part has been read.
#[derive(Debug)]
pub struct Growing {
    kind: Kinds,
    /// Elements (of a string: bytes) that are still to come. A stream knows by itself.
    left: u64,
}

#[derive(Debug)]
enum Kinds {
    Str(Vec<u8>),
    List(Box<List>),
    Hash(Box<Hash>),
    Set(Box<Set>),
    Zset(Box<Zset>),
    Stream(Box<stream::Reading>),
}

fn head<T: Pieced>(input: &mut Input<'_>, kind: fn(Box<T>) -> Kinds) -> Result<Growing, Corrupt> {
    let (value, left) = T::decode_head(input)?;
    Ok(Growing { kind: kind(Box::new(value)), left })
}

impl Growing {
    /// Reads the beginning of a value's stored form.
    pub fn begin(input: &mut Input<'_>) -> Result<Growing, Corrupt> {
        match input.u8()? {
            1 => {
                let left = input.varint()?;
                // A length is not believed further than what is there.
                let text = Vec::with_capacity(usize::try_from(left).unwrap_or(usize::MAX).min(input.len()));
                Ok(Growing { kind: Kinds::Str(text), left })
            }
            2 => head(input, Kinds::List),
            3 => head(input, Kinds::Hash),
            4 => head(input, Kinds::Set),
            5 => head(input, Kinds::Zset),
            6 => Ok(Growing { kind: Kinds::Stream(Box::new(stream::Reading::begin(input)?)), left: 0 }),
            _ => Err(Corrupt("unknown kind of value")),
        }
    }

    /// Reads on to the end of the value or of the input. Returns whether the value is whole.
    pub fn feed(&mut self, input: &mut Input<'_>) -> Result<bool, Corrupt> {
        if let Kinds::Str(text) = &mut self.kind {
            let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
            text.extend_from_slice(input.take(count)?);
            self.left -= count as u64;
            return Ok(self.left == 0);
        }
        if let Kinds::Stream(reading) = &mut self.kind {
            return reading.feed(input);
        }
        while self.left > 0 {
            if input.is_empty() {
                return Ok(false);
            }
            match &mut self.kind {
                Kinds::Str(_) | Kinds::Stream(_) => return Err(Corrupt("read above")),
                Kinds::List(inner) => inner.decode_next(input)?,
                Kinds::Hash(inner) => inner.decode_next(input)?,
                Kinds::Set(inner) => inner.decode_next(input)?,
                Kinds::Zset(inner) => inner.decode_next(input)?,
            }
            self.left -= 1;
        }
        Ok(true)
    }

    /// The value, once it is whole.
    pub fn finish(self) -> Value {
        match self.kind {
            Kinds::Str(text) => text.into(),
            Kinds::List(inner) => Value::List(inner),
            Kinds::Hash(inner) => Value::Hash(inner),
            Kinds::Set(inner) => Value::Set(inner),
            Kinds::Zset(inner) => Value::Zset(inner),
            Kinds::Stream(inner) => Value::Stream(Box::new(inner.finish())),
        }
    }
}

#[cfg(test)]
mod tests;

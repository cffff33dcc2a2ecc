//! Reading values.

use std::borrow::Cow;
use std::sync::Arc;

use base::{format_i64, parse_f64};
use store::value::{End, Hash, List, Set, Value, Zset};

use super::listpack::{Element, Listpack};
use super::ziplist::{self, Ziplist};
use super::{BadData, Bounds, kind, lzf, stream};

const SHORT: BadData = BadData("ends early");
const TWICE: BadData = BadData("an element stands twice");
const TOO_MUCH: BadData = BadData("more than a value may be");

/// Bytes that values are read from.
pub struct Source<'a> {
    rest: &'a [u8],
    bounds: Bounds,
    /// What the value that is being read may still bring.
    bytes_left: usize,
    elements_left: usize,
}

/// A length, or one of the forms of a string that has none.
enum Length {
    Plain(u64),
    Number(i64),
    Compressed,
}

impl<'a> Source<'a> {
    /// Begins at the front.
    pub fn new(bytes: &'a [u8], bounds: Bounds) -> Source<'a> {
        Source { rest: bytes, bounds, bytes_left: bounds.value_bytes, elements_left: bounds.elements }
    }

    /// How many bytes have not been read.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// So many bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], BadData> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(SHORT)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// A byte.
    pub fn u8(&mut self) -> Result<u8, BadData> {
        Ok(self.take(1)?[0])
    }

    /// Eight bytes, the lowest first.
    pub fn u64(&mut self) -> Result<u64, BadData> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
    }

    fn any_length(&mut self) -> Result<Length, BadData> {
        let first = self.u8()?;
        let little = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        let big = |bytes: &[u8]| bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Ok(match first {
            0x00..=0x3F => Length::Plain(u64::from(first)),
            0x40..=0x7F => Length::Plain(u64::from(first & 0x3F) << 8 | u64::from(self.u8()?)),
            0x80 => Length::Plain(big(self.take(4)?)),
            0x81 => Length::Plain(big(self.take(8)?)),
            0xC0 => Length::Number(i64::from(self.u8()? as i8)),
            0xC1 => Length::Number(i64::from(little(self.take(2)?) as i16)),
            0xC2 => Length::Number(i64::from(little(self.take(4)?) as i32)),
            0xC3 => Length::Compressed,
            _ => return Err(BadData("no length")),
        })
    }

    /// A number of anything.
    pub fn length(&mut self) -> Result<u64, BadData> {
        match self.any_length()? {
            Length::Plain(length) => Ok(length),
            _ => Err(BadData("a string where a number should be")),
        }
    }

    /// A number of things of which each takes at least one byte.
    pub(super) fn count(&mut self) -> Result<usize, BadData> {
        let count = self.length()?;
        usize::try_from(count).ok().filter(|count| *count <= self.rest.len()).ok_or(SHORT)
    }

    fn string_length(&mut self, length: u64) -> Result<usize, BadData> {
        let length = usize::try_from(length).ok().filter(|length| *length <= self.bounds.string_bytes);
        let length = length.ok_or(TOO_MUCH)?;
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or(TOO_MUCH)?;
        Ok(length)
    }

    /// A string, decompressed where need be.
    pub fn string(&mut self) -> Result<Cow<'a, [u8]>, BadData> {
        match self.any_length()? {
            Length::Plain(length) => {
                let length = self.string_length(length)?;
                Ok(Cow::Borrowed(self.take(length)?))
            }
            Length::Number(number) => Ok(Cow::Owned(format_i64(number, &mut [0; 20]).to_vec())),
            Length::Compressed => {
                let compressed = self.count()?;
                let length = self.length()?;
                let length = self.string_length(length)?;
                Ok(Cow::Owned(lzf::decompress(self.take(compressed)?, length)?))
            }
        }
    }

    /// One more element.
    pub(super) fn spend(&mut self) -> Result<(), BadData> {
        self.elements_left = self.elements_left.checked_sub(1).ok_or(TOO_MUCH)?;
        Ok(())
    }

    /// A value of this type. An empty collection is refused, as Redis does.
    pub fn value(&mut self, kind: u8) -> Result<Value, BadData> {
        (self.bytes_left, self.elements_left) = (self.bounds.value_bytes, self.bounds.elements);
        let value = match kind {
            kind::STRING => Value::from(self.string()?.into_owned()),
            kind::LIST | kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => {
                Value::List(Box::new(self.list(kind)?))
            }
            kind::SET | kind::SET_INTSET | kind::SET_LISTPACK => Value::Set(Box::new(self.set(kind)?)),
            kind::ZSET | kind::ZSET_BINARY | kind::ZSET_ZIPLIST | kind::ZSET_LISTPACK => {
                Value::Zset(Box::new(self.zset(kind)?))
            }
            kind::HASH | kind::HASH_ZIPMAP | kind::HASH_ZIPLIST | kind::HASH_LISTPACK => {
                Value::Hash(Box::new(self.hash(kind)?))
            }
            kind::STREAM_1 | kind::STREAM_2 | kind::STREAM_3 => Value::Stream(Box::new(stream::read(self, kind)?)),
            _ => return Err(BadData("a type that is not known")),
        };
        if value.is_vacant() { Err(BadData("an empty value")) } else { Ok(value) }
    }

    fn list(&mut self, kind: u8) -> Result<List, BadData> {
        let mut list = List::default();
        match kind {
            kind::LIST => {
                for _ in 0..self.count()? {
                    self.spend()?;
                    list.push(End::Tail, &self.string()?);
                }
            }
            kind::LIST_ZIPLIST => {
                let packed = self.string()?;
                self.unzip(&packed, |element| {
                    list.push(End::Tail, element.bytes(&mut [0; 20]));
                    Ok(())
                })?;
            }
            kind::LIST_QUICKLIST => {
                for _ in 0..self.count()? {
                    let packed = self.string()?;
                    self.unzip(&packed, |element| {
                        list.push(End::Tail, element.bytes(&mut [0; 20]));
                        Ok(())
                    })?;
                }
            }
            _ => {
                const PLAIN: u64 = 1;
                const PACKED: u64 = 2;
                for _ in 0..self.count()? {
                    let container = self.length()?;
                    let bytes = self.string()?;
                    match container {
                        PLAIN => {
                            self.spend()?;
                            list.push(End::Tail, &bytes);
                        }
                        PACKED => self.unpack(&bytes, |element| {
                            list.push(End::Tail, element.bytes(&mut [0; 20]));
                            Ok(())
                        })?,
                        _ => return Err(BadData("no container of a list")),
                    }
                }
            }
        }
        Ok(list)
    }

    fn set(&mut self, kind: u8) -> Result<Set, BadData> {
        let mut set = Set::default();
        let mut insert = |member: &[u8]| if set.insert(member) { Ok(()) } else { Err(TWICE) };
        match kind {
            kind::SET => {
                for _ in 0..self.count()? {
                    self.spend()?;
                    insert(&self.string()?)?;
                }
            }
            kind::SET_INTSET => {
                let packed = self.string()?;
                for number in ziplist::intset(&packed)? {
                    self.spend()?;
                    insert(format_i64(number, &mut [0; 20]))?;
                }
            }
            _ => {
                let packed = self.string()?;
                self.unpack(&packed, |element| insert(element.bytes(&mut [0; 20])))?;
            }
        }
        Ok(set)
    }

    fn zset(&mut self, kind: u8) -> Result<Zset, BadData> {
        const NO_SCORE: BadData = BadData("no score");
        let mut pairs: Vec<(Arc<[u8]>, f64)> = Vec::new();
        match kind {
            kind::ZSET | kind::ZSET_BINARY => {
                for _ in 0..self.count()? {
                    self.spend()?;
                    let member = self.string()?;
                    let score = if kind == kind::ZSET { self.text_score()? } else { f64::from_bits(self.u64()?) };
                    if score.is_nan() {
                        return Err(NO_SCORE);
                    }
                    pairs.push((Arc::from(&*member), score));
                }
            }
            _ => {
                let packed = self.string()?;
                let mut member: Option<Arc<[u8]>> = None;
                let pair = |element: Element<'_>| {
                    match member.take() {
                        None => member = Some(Arc::from(element.bytes(&mut [0; 20]))),
                        Some(member) => pairs.push((member, element.score().ok_or(NO_SCORE)?)),
                    }
                    Ok(())
                };
                if kind == kind::ZSET_ZIPLIST {
                    self.unzip(&packed, pair)?
                } else {
                    self.unpack(&packed, pair)?
                }
                if member.is_some() {
                    return Err(NO_SCORE);
                }
            }
        }
        // In order, so that the set grows at its end alone.
        pairs.sort_by(|one, other| one.1.total_cmp(&other.1).then_with(|| one.0.cmp(&other.0)));
        let count = pairs.len();
        let zset: Zset = pairs.into_iter().collect();
        if zset.len() == count { Ok(zset) } else { Err(TWICE) }
    }

    /// A score in digits, as versions before 4.0 wrote it.
    fn text_score(&mut self) -> Result<f64, BadData> {
        match self.u8()? {
            253 => Ok(f64::NAN),
            254 => Ok(f64::INFINITY),
            255 => Ok(f64::NEG_INFINITY),
            len => parse_f64(self.take(usize::from(len))?).ok_or(BadData("no score")),
        }
    }

    fn hash(&mut self, kind: u8) -> Result<Hash, BadData> {
        let mut hash = Hash::default();
        let mut insert = |field: &[u8], value: &[u8]| if hash.insert(field, value) { Ok(()) } else { Err(TWICE) };
        match kind {
            kind::HASH => {
                for _ in 0..self.count()? {
                    self.spend()?;
                    let field = self.string()?;
                    insert(&field, &self.string()?)?;
                }
            }
            kind::HASH_ZIPMAP => {
                let packed = self.string()?;
                ziplist::zipmap(&packed, |field, value| {
                    self.spend()?;
                    insert(field, value)
                })?;
            }
            _ => {
                let packed = self.string()?;
                let mut field: Option<Vec<u8>> = None;
                let pair = |element: Element<'_>| match field.take() {
                    None => {
                        field = Some(element.bytes(&mut [0; 20]).to_vec());
                        Ok(())
                    }
                    Some(field) => insert(&field, element.bytes(&mut [0; 20])),
                };
                if kind == kind::HASH_ZIPLIST {
                    self.unzip(&packed, pair)?
                } else {
                    self.unpack(&packed, pair)?
                }
                if field.is_some() {
                    return Err(BadData("a field without a value"));
                }
            }
        }
        Ok(hash)
    }

    fn unpack(
        &mut self,
        packed: &[u8],
        mut visit: impl FnMut(Element<'_>) -> Result<(), BadData>,
    ) -> Result<(), BadData> {
        let mut elements = Listpack::new(packed)?;
        while let Some(element) = elements.next()? {
            self.spend()?;
            visit(element)?;
        }
        Ok(())
    }

    fn unzip(
        &mut self,
        packed: &[u8],
        mut visit: impl FnMut(Element<'_>) -> Result<(), BadData>,
    ) -> Result<(), BadData> {
        let mut elements = Ziplist::new(packed)?;
        while let Some(element) = elements.next()? {
            self.spend()?;
            visit(element)?;
        }
        Ok(())
    }
}

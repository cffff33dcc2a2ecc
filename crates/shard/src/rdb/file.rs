//! RDB files, and the snapshot that a Redis server sends to its replica: read piece by piece, and written.
//!
//! ```text
//!   REDIS0011  (aux | functions | select db | [expiry] type key value)*  end  CRC-64 of all before it
//! ```
//!
//! A key's value is never looked into here: behind its type it is, byte for byte, what DUMP's payload holds, so it is passed on as one, and
//! RESTORE sees to it that it is sound. To find its end it is enough to know what it is made of: strings behind their length, numbers, and how
//! many of them ([`Part`]). So what has come of a value is looked at once, however small the pieces; in memory is one value at a time, and at most
//! [`FileBounds::record_bytes`]. The format: `rdb.c` and `rdb.h` of Redis 7.2.

use base::Millis;

use super::{BadData, Bounds, Source, VERSION, VERSION_OF_MOST, crc64, kind};

/// What a reader takes.
#[derive(Clone, Copy, Debug)]
pub struct FileBounds {
    /// Bytes of one key with its value.
    pub record_bytes: usize,
    /// Whether keys of modules are left out; else they end it.
    pub skips_modules: bool,
}

/// What cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Bytes from the beginning of the file.
    pub at: u64,
    /// What is wrong, and what could be done.
    pub why: String,
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at byte {}: {}", self.at, self.why)
    }
}

/// One thing out of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A word about the server that wrote it: name and value.
    Aux(Vec<u8>, Vec<u8>),
    /// The source of a library of functions.
    Functions(Vec<u8>),
    /// A key.
    Key {
        /// Its database.
        db: u64,
        /// When it expires.
        expiry: Option<Millis>,
        /// Its name.
        key: Vec<u8>,
        /// What DUMP would have answered.
        payload: Vec<u8>,
    },
    /// What was left out, and why.
    Left(String),
    /// The end: nothing of the file is left.
    End,
}

/// What a value is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// A string.
    Text,
    /// A length, or a number written as one.
    Number,
    /// So many bytes.
    Bytes(u64),
    /// A float as text: its length in one byte, or one of three words.
    Float,
    /// A number, and so many times the parts.
    Times(&'static [Part]),
    /// What a module wrote: numbers that say what follows, until one that says it is over.
    Module,
}

use Part::{Bytes as B, Float, Module, Number, Text, Times};

const PENDING: &[Part] = &[Times(&[B(16), B(8), Number])];
const CONSUMER: &[Part] = &[Text, B(8), Times(&[B(16)])];
const CONSUMER_3: &[Part] = &[Text, B(8), B(8), Times(&[B(16)])];
const GROUP_1: &[Part] = &[Text, Number, Number, PENDING[0], Times(CONSUMER)];
const GROUP_2: &[Part] = &[Text, Number, Number, Number, PENDING[0], Times(CONSUMER)];
const GROUP_3: &[Part] = &[Text, Number, Number, Number, PENDING[0], Times(CONSUMER_3)];
const NODES: Part = Times(&[Text, Text]);

/// The parts of a value of this type.
fn parts_of(kind: u8) -> Option<&'static [Part]> {
    Some(match kind {
        kind::STRING
        | kind::HASH_ZIPMAP
        | kind::LIST_ZIPLIST
        | kind::SET_INTSET
        | kind::ZSET_ZIPLIST
        | kind::HASH_ZIPLIST
        | kind::HASH_LISTPACK
        | kind::ZSET_LISTPACK
        | kind::SET_LISTPACK => &[Text],
        kind::LIST | kind::SET | kind::LIST_QUICKLIST => &[Times(&[Text])],
        kind::HASH => &[Times(&[Text, Text])],
        kind::ZSET => &[Times(&[Text, Float])],
        kind::ZSET_BINARY => &[Times(&[Text, B(8)])],
        kind::LIST_QUICKLIST_2 => &[Times(&[Number, Text])],
        kind::STREAM_1 => &[NODES, Number, Number, Number, Times(GROUP_1)],
        kind::STREAM_2 => &[NODES, Number, Number, Number, Number, Number, Number, Number, Number, Times(GROUP_2)],
        kind::STREAM_3 => &[NODES, Number, Number, Number, Number, Number, Number, Number, Number, Times(GROUP_3)],
        _ => return None,
    })
}

/// A value of a module, of the form that says where it ends.
const MODULE_2: u8 = 7;
/// Of the older one, which does not.
const MODULE_1: u8 = 6;

mod code {
    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION: u8 = 245;
    pub const FUNCTION_OLD: u8 = 246;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQUENCY: u8 = 249;
    pub const AUX: u8 = 250;
    pub const SIZES: u8 = 251;
    pub const EXPIRY_MS: u8 = 252;
    pub const EXPIRY: u8 = 253;
    pub const SELECT: u8 = 254;
    pub const END: u8 = 255;
}

const MAGIC: &[u8] = b"REDIS";
const HEADER_BYTES: usize = 9;
/// The oldest version that has checksums.
const VERSION_WITH_SUM: u16 = 5;

/// Reads a file. Hand it what has come ([`Reader::feed`]), take what is whole ([`Reader::item`]).
#[derive(Debug)]
pub struct Reader {
    bounds: FileBounds,
    buffer: Vec<u8>,
    /// Of the buffer, what items were made of already.
    used: usize,
    /// The file's bytes before the buffer.
    before: u64,
    sum: u64,
    version: u16,
    db: u64,
    expiry: Option<Millis>,
    record: Option<Record>,
    is_over: bool,
}

/// A record that has begun: its parts still to come.
#[derive(Debug)]
struct Record {
    code: u8,
    /// How far it has been looked at, from its beginning.
    seen: usize,
    todo: Vec<(u64, &'static [Part], usize)>,
    /// Where the key ends, for one that is a key.
    key_end: usize,
}

/// Nothing is wrong, but more is needed.
struct More;

impl Reader {
    /// At the beginning of a file.
    pub fn new(bounds: FileBounds) -> Reader {
        Reader {
            bounds,
            buffer: Vec::new(),
            used: 0,
            before: 0,
            sum: 0,
            version: 0,
            db: 0,
            expiry: None,
            record: None,
            is_over: false,
        }
    }

    /// The next bytes of the file.
    pub fn feed(&mut self, bytes: &[u8]) {
        // What was used is let go of once it is most of the buffer, so that every byte is moved but a few times.
        if self.used > self.buffer.len() / 2 {
            self.buffer.drain(..self.used);
            self.before += self.used as u64;
            self.used = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// Bytes of the file that were read.
    pub fn position(&self) -> u64 {
        self.before + self.used as u64
    }

    /// What was fed and lies behind the end of the file.
    pub fn rest(&mut self) -> Vec<u8> {
        self.buffer.split_off(self.used)
    }

    /// The next thing. `None`: feed more.
    ///
    /// # Errors
    /// It is no RDB file, or a damaged one, or too large for here. Do not go on.
    pub fn item(&mut self) -> Result<Option<Item>, Broken> {
        if self.is_over {
            return Ok(Some(Item::End));
        }
        if self.version == 0 && !self.header()? {
            return Ok(None);
        }
        loop {
            if self.record.is_none() {
                let Some(code) = self.buffer.get(self.used).copied() else { return Ok(None) };
                self.record = Some(self.begin(code)?);
            }
            if !self.look()? {
                return Ok(None);
            }
            let Some(record) = self.record.take() else { return Ok(None) };
            let item = self.finish(&record)?;
            let end = self.used + record.seen;
            if record.code != code::END {
                self.sum = crc64(self.sum, &self.buffer[self.used..end]);
            }
            self.used = end;
            if let Some(item) = item {
                return Ok(Some(item));
            }
        }
    }

    fn broken(&self, why: impl Into<String>) -> Broken {
        Broken { at: self.position(), why: why.into() }
    }

    fn header(&mut self) -> Result<bool, Broken> {
        let known = self.buffer.len().min(MAGIC.len());
        if self.buffer[..known] != MAGIC[..known] {
            return Err(self.broken("this is no RDB file: it does not begin with REDIS"));
        }
        let Some(header) = self.buffer.get(..HEADER_BYTES) else { return Ok(false) };
        let version = std::str::from_utf8(&header[MAGIC.len()..]).ok().and_then(|text| text.parse().ok());
        match version {
            Some(version @ 1..=VERSION) => self.version = version,
            Some(version) => {
                let why = format!(
                    "an RDB file of version {version}; versions 1 to {VERSION} are read, which Redis writes up to 7.2. Import from the \
                     running server with its commands, or write the file with an older one"
                );
                return Err(self.broken(why));
            }
            None => return Err(self.broken("this is no RDB file: its version is no number")),
        }
        self.sum = crc64(0, header);
        self.used = HEADER_BYTES;
        Ok(true)
    }

    fn begin(&self, code: u8) -> Result<Record, Broken> {
        const EXPIRY: &[Part] = &[B(4)];
        const EXPIRY_MS: &[Part] = &[B(8)];
        const FREQUENCY: &[Part] = &[B(1)];
        const NOTHING: &[Part] = &[];
        let parts: &[Part] = match code {
            code::END if self.version < VERSION_WITH_SUM => NOTHING,
            code::END => EXPIRY_MS,
            code::SELECT | code::IDLE => &[Number],
            code::SIZES => &[Number, Number],
            code::SLOT_INFO => &[Number, Number, Number],
            code::EXPIRY => EXPIRY,
            code::EXPIRY_MS => EXPIRY_MS,
            code::FREQUENCY => FREQUENCY,
            code::AUX => &[Text, Text],
            code::FUNCTION => &[Text],
            code::MODULE_AUX => &[Number, Number, Number, Module],
            code::FUNCTION_OLD => {
                return Err(
                    self.broken("functions in the form of a 7.0 release candidate: load them with FUNCTION LOAD")
                );
            }
            MODULE_2 => &[Text, Number, Module],
            MODULE_1 => {
                return Err(
                    self.broken("a module's value in the form of Redis 4.0's modules, whose end nobody else knows")
                );
            }
            kind => match parts_of(kind) {
                // The key comes first.
                Some(_) => &[Text],
                None => return Err(self.broken(format!("{kind} is no type that Redis 7.2 writes"))),
            },
        };
        Ok(Record { code, seen: 1, todo: vec![(1, parts, 0)], key_end: 0 })
    }

    /// Looks at what has come of the record. False: more is needed.
    fn look(&mut self) -> Result<bool, Broken> {
        let Some(mut record) = self.record.take() else { return Ok(false) };
        let bytes = &self.buffer[self.used..];
        let mut outcome = Ok(true);
        while let Some((left, parts, at)) = record.todo.last_mut() {
            if *at == parts.len() {
                (*left, *at) = (left.saturating_sub(1), 0);
            }
            if *left == 0 || parts.is_empty() {
                record.todo.pop();
                if record.todo.is_empty() && record.key_end == 0 && parts_of(record.code).is_some() {
                    record.key_end = record.seen;
                    record.todo.extend(parts_of(record.code).map(|parts| (1, parts, 0)));
                }
                continue;
            }
            let part = parts[*at];
            let source = &bytes[record.seen.min(bytes.len())..];
            match take(part, source) {
                Ok(Ok((size, then))) => {
                    *at += 1;
                    record.seen = record.seen.saturating_add(size);
                    match then {
                        Then::Nothing => {}
                        Then::Times(count, more) => {
                            // Nothing comes after it here: a module's value must not stack up with its length.
                            if *left == 1 && *at == parts.len() {
                                record.todo.pop();
                            }
                            record.todo.push((count, more, 0));
                        }
                    }
                }
                Ok(Err(More)) => {
                    outcome = Ok(false);
                    break;
                }
                Err(BadData(why)) => {
                    outcome = Err(self.broken_at(record.seen, &record, why));
                    break;
                }
            }
            if record.seen > self.bounds.record_bytes {
                outcome = Err(self.too_long(&record));
                break;
            }
        }
        if outcome == Ok(true) && record.seen > bytes.len() {
            outcome = Ok(false);
        }
        self.record = Some(record);
        outcome
    }

    fn name_of(&self, record: &Record) -> String {
        let bytes = self.buffer.get(self.used + 1..self.used + record.key_end.max(1)).unwrap_or_default();
        let key = self.text(bytes).unwrap_or_default();
        if key.is_empty() {
            String::new()
        } else {
            format!(" of the key '{}'", key[..key.len().min(128)].escape_ascii())
        }
    }

    fn broken_at(&self, seen: usize, record: &Record, why: &str) -> Broken {
        Broken { at: self.position() + seen as u64, why: format!("{why}, in a record{}", self.name_of(record)) }
    }

    fn too_long(&self, record: &Record) -> Broken {
        let bound = self.bounds.record_bytes;
        self.broken(format!(
            "a record{} of more than {bound} bytes, which is more than a command may have: raise limits.command_bytes_max and \
             limits.bulk_bytes_max at the node, or delete the key",
            self.name_of(record)
        ))
    }

    /// The string that these bytes begin with, decompressed.
    fn text(&self, bytes: &[u8]) -> Result<Vec<u8>, BadData> {
        let most = self.bounds.record_bytes;
        let bounds = Bounds { string_bytes: most, value_bytes: most, elements: Bounds::ELEMENTS_MAX };
        Source::new(bytes, bounds).string().map(std::borrow::Cow::into_owned)
    }

    /// The record is whole.
    fn finish(&mut self, record: &Record) -> Result<Option<Item>, Broken> {
        let bytes = &self.buffer[self.used..self.used + record.seen];
        let body = &bytes[1..];
        let bad = |BadData(why): BadData| self.broken(why);
        let bounds = Bounds { string_bytes: body.len(), value_bytes: body.len(), elements: 8 };
        let number = |body: &[u8]| Source::new(body, bounds).length().map_err(bad);
        match record.code {
            code::END => {
                self.is_over = true;
                let sum = body.first_chunk::<8>().map_or(0, |sum| u64::from_le_bytes(*sum));
                if sum != 0 && sum != crc64(self.sum, &[code::END]) {
                    return Err(self.broken("the checksum of the whole file is wrong: it is damaged"));
                }
                return Ok(Some(Item::End));
            }
            code::SELECT => self.db = number(body)?,
            code::EXPIRY => {
                let seconds = body.first_chunk::<4>().map_or(0, |bytes| i32::from_le_bytes(*bytes));
                self.expiry = Some(u64::try_from(seconds).unwrap_or(0).max(1) * 1000);
            }
            code::EXPIRY_MS => {
                let millis = body.first_chunk::<8>().map_or(0, |bytes| i64::from_le_bytes(*bytes));
                // What lies before 1970 has expired as well.
                self.expiry = Some(u64::try_from(millis).unwrap_or(0).max(1));
            }
            code::AUX => {
                let name = self.text(body).map_err(bad)?;
                let size = text_size(body).map_err(bad)?;
                let value = self.text(body.get(size..).unwrap_or_default()).map_err(bad)?;
                return Ok(Some(Item::Aux(name, value)));
            }
            code::FUNCTION => return Ok(Some(Item::Functions(self.text(body).map_err(bad)?))),
            code::MODULE_AUX => {
                return Ok(Some(Item::Left(format!(
                    "what the module {} keeps beside its keys",
                    module(number(body)?)
                ))));
            }
            code::IDLE | code::FREQUENCY | code::SIZES | code::SLOT_INFO => {}
            MODULE_2 => {
                let key = self.text(body).map_err(bad)?;
                let size = text_size(body).map_err(bad)?;
                let id = number(body.get(size..).unwrap_or_default())?;
                let what = format!("the key '{}', a value of the module {}", key.escape_ascii(), module(id));
                if !self.bounds.skips_modules {
                    return Err(self.broken(format!(
                        "{what}, which this node has not: delete it, or leave such keys out with --skip-modules"
                    )));
                }
                self.expiry = None;
                return Ok(Some(Item::Left(what)));
            }
            kind => {
                let key = self.text(&bytes[1..record.key_end]).map_err(bad)?;
                let value = &bytes[record.key_end..];
                let mut payload = Vec::with_capacity(value.len() + 11);
                payload.push(kind);
                payload.extend_from_slice(value);
                payload.extend_from_slice(&VERSION.to_le_bytes());
                let sum = crc64(0, &payload);
                payload.extend_from_slice(&sum.to_le_bytes());
                return Ok(Some(Item::Key { db: self.db, expiry: self.expiry.take(), key, payload }));
            }
        }
        Ok(None)
    }
}

/// A module's type: nine characters of six bits, and a version.
fn module(id: u64) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    (0..9).rev().map(|nth| char::from(LETTERS[(id >> (10 + 6 * nth) & 63) as usize])).collect()
}

enum Then {
    Nothing,
    Times(u64, &'static [Part]),
}

/// A length's own bytes, and what it says; of a number that a string is written as, its kind.
enum Length {
    Of(u64, usize),
    Encoded(u8, usize),
}

fn length(bytes: &[u8]) -> Result<Result<Length, More>, BadData> {
    let Some(first) = bytes.first() else { return Ok(Err(More)) };
    let low = u64::from(first & 0x3F);
    Ok(match first >> 6 {
        0 => Ok(Length::Of(low, 1)),
        1 => bytes.get(1).map_or(Err(More), |second| Ok(Length::Of(low << 8 | u64::from(*second), 2))),
        2 => match first {
            0x80 => bytes[1..]
                .first_chunk()
                .map_or(Err(More), |four| Ok(Length::Of(u64::from(u32::from_be_bytes(*four)), 5))),
            0x81 => bytes[1..].first_chunk().map_or(Err(More), |eight| Ok(Length::Of(u64::from_be_bytes(*eight), 9))),
            _ => return Err(BadData("a length of no known form")),
        },
        _ => Ok(Length::Encoded(first & 0x3F, 1)),
    })
}

fn to_size(length: u64) -> Result<usize, BadData> {
    // Sums of two such still fit.
    usize::try_from(length).ok().filter(|size| *size <= usize::MAX / 4).ok_or(BadData("a length beyond all memory"))
}

/// How many bytes a string takes; they need not be there yet.
fn text(bytes: &[u8]) -> Result<Result<usize, More>, BadData> {
    Ok(Ok(match length(bytes)? {
        Err(More) => return Ok(Err(More)),
        Ok(Length::Of(len, own)) => to_size(len)?.saturating_add(own),
        Ok(Length::Encoded(0, own)) => own + 1,
        Ok(Length::Encoded(1, own)) => own + 2,
        Ok(Length::Encoded(2, own)) => own + 4,
        Ok(Length::Encoded(3, own)) => {
            let Ok(Length::Of(compressed, first)) = length(&bytes[own..])? else {
                return if bytes.len() > own + 9 {
                    Err(BadData("a compressed string without a length"))
                } else {
                    Ok(Err(More))
                };
            };
            let rest = bytes.get(own + first..).unwrap_or_default();
            let Ok(Length::Of(_, second)) = length(rest)? else {
                return if rest.len() > 9 {
                    Err(BadData("a compressed string without a length"))
                } else {
                    Ok(Err(More))
                };
            };
            to_size(compressed)?.saturating_add(own + first + second)
        }
        Ok(Length::Encoded(..)) => return Err(BadData("a string of no known form")),
    }))
}

/// The same for one that is there.
fn text_size(bytes: &[u8]) -> Result<usize, BadData> {
    text(bytes)?.map_err(|More| BadData("a string that ends early"))
}

/// How many bytes the next part takes, and what follows from it.
fn take(part: Part, bytes: &[u8]) -> Result<Result<(usize, Then), More>, BadData> {
    let number = || match length(bytes)? {
        Ok(Length::Of(value, own)) => Ok(Ok((value, own))),
        Ok(Length::Encoded(..)) => Err(BadData("a string where a number was to be")),
        Err(More) => Ok(Err(More)),
    };
    let whole = |size: usize| if size <= bytes.len() { Ok((size, Then::Nothing)) } else { Err(More) };
    Ok(match part {
        Text => match text(bytes)? {
            // Its end may be beyond what has come: then all of it is waited for, and nothing is looked at again.
            Ok(size) => Ok((size, Then::Nothing)),
            Err(More) => Err(More),
        },
        Number => match number()? {
            Ok((_, own)) => Ok((own, Then::Nothing)),
            Err(More) => Err(More),
        },
        B(count) => Ok((to_size(count)?, Then::Nothing)),
        Float => match bytes.first() {
            None => Err(More),
            Some(253..) => Ok((1, Then::Nothing)),
            Some(len) => whole(usize::from(*len) + 1),
        },
        Times(parts) => match number()? {
            Ok((count, own)) => Ok((own, Then::Times(count, parts))),
            Err(More) => Err(More),
        },
        Module => match number()? {
            Err(More) => Err(More),
            Ok((0, own)) => Ok((own, Then::Nothing)),
            Ok((what, own)) => {
                const NEXT: [&[Part]; 4] = [&[Number, Module], &[B(4), Module], &[B(8), Module], &[Text, Module]];
                let next = match what {
                    1 | 2 => NEXT[0],
                    3 => NEXT[1],
                    4 => NEXT[2],
                    5 => NEXT[3],
                    _ => return Err(BadData("a module's value of no known form")),
                };
                Ok((own, Then::Times(1, next)))
            }
        },
    })
}

/// Writes a file: what each call gives is to be written, one after the other.
#[derive(Debug, Default)]
pub struct Writer {
    sum: u64,
    db: Option<u64>,
    version: u16,
}

/// A payload that is none of DUMP's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoPayload;

impl Writer {
    /// The beginning of a file, in 7.0's form.
    pub fn begin(&mut self, out: &mut Vec<u8>) {
        let begun = out.len();
        self.version = VERSION_OF_MOST;
        out.extend_from_slice(&header(self.version));
        self.sum = crc64(0, &out[begun..]);
    }

    /// A word about who writes it.
    pub fn aux(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        self.put(out, |out| {
            out.push(code::AUX);
            super::write::put_bytes(out, name);
            super::write::put_bytes(out, value);
        });
    }

    /// A library of functions.
    pub fn functions(&mut self, source: &[u8], out: &mut Vec<u8>) {
        self.put(out, |out| {
            out.push(code::FUNCTION);
            super::write::put_bytes(out, source);
        });
    }

    /// A key, with what DUMP has said of it.
    ///
    /// # Errors
    /// It has not.
    pub fn key(
        &mut self,
        db: u64,
        key: &[u8],
        expiry: Option<Millis>,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), NoPayload> {
        let body = payload.len().checked_sub(10).filter(|body| *body > 0).ok_or(NoPayload)?;
        self.version = self.version.max(u16::from_le_bytes([payload[body], payload[body + 1]]));
        let selects = self.db.replace(db) != Some(db);
        self.put(out, |out| {
            if selects {
                out.push(code::SELECT);
                super::write::put_length(out, db);
            }
            if let Some(at) = expiry {
                out.push(code::EXPIRY_MS);
                out.extend_from_slice(&at.to_le_bytes());
            }
            out.push(payload[0]);
            super::write::put_bytes(out, key);
            out.extend_from_slice(&payload[1..body]);
        });
        Ok(())
    }

    fn put(&mut self, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
        let begun = out.len();
        write(out);
        self.sum = crc64(self.sum, &out[begun..]);
    }

    /// The end of the file. Some: a value needs a newer version than the file was begun with: write this header over its first bytes, and zeros
    /// over its last eight (no checksum), which every reader takes.
    pub fn end(&mut self, out: &mut Vec<u8>) -> Option<[u8; HEADER_BYTES]> {
        self.put(out, |out| out.push(code::END));
        let newer = self.version > VERSION_OF_MOST;
        let sum = if newer { 0 } else { self.sum };
        out.extend_from_slice(&sum.to_le_bytes());
        newer.then(|| header(self.version))
    }
}

fn header(version: u16) -> [u8; HEADER_BYTES] {
    let mut header = *b"REDIS0000";
    let mut rest = version;
    for digit in header[MAGIC.len()..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    header
}

#[cfg(test)]
mod tests;

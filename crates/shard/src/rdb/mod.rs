//! Redis's stored form of values (RDB, version 11), to carry them from and to other servers: DUMP, RESTORE, and RDB files.
//!
//! ```text
//!   payload of DUMP:   type  value…  version (2)  CRC-64 (8)
//!   value              a string; or strings behind their number; or one string that is a listpack, ziplist, intset
//! ```
//!
//! Reads every type that Redis 7.2 reads but modules; writes the forms of 7.0, so that 7.0 takes them too, and 7.2's only where
//! a stream needs it. What is read may come from anyone: nothing is believed before it is counted, nothing is allocated
//! because a number says so, and what strings expand to is bounded ([`Bounds`]). The format: `rdb.h`, `listpack.c`,
//! `ziplist.c`, `intset.c` of Redis 7.2.

mod crc64;
pub mod file;
mod listpack;
mod lzf;
mod read;
mod stream;
#[cfg(test)]
mod tests;
mod write;
mod ziplist;

pub use crc64::crc64;
pub use read::Source;

use store::value::{Value, View};

/// The newest version that is read; 7.2's.
pub const VERSION: u16 = 11;
/// The version that all types but one belong to; 7.0's.
const VERSION_OF_MOST: u16 = 10;

/// The bytes are not what they should be; says what was wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadData(pub &'static str);

/// How much a value may be.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of one string.
    pub string_bytes: usize,
    /// Bytes of all strings of a value, decompressed.
    pub value_bytes: usize,
    /// Elements of a value: each costs memory beside its bytes.
    pub elements: usize,
}

impl Bounds {
    /// Most elements of one restored value.
    pub const ELEMENTS_MAX: usize = 1 << 24;

    /// What a command may bring.
    pub fn of(limits: &base::Limits) -> Bounds {
        Bounds {
            string_bytes: limits.bulk_bytes_max,
            value_bytes: limits.command_bytes_max,
            elements: Bounds::ELEMENTS_MAX,
        }
    }
}

/// Numbers of types. The others have numbers, too, but are no values that we write.
mod kind {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_BINARY: u8 = 5;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM_1: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_3: u8 = 21;
}

/// What DUMP answers for a value.
pub fn dump(value: View<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    let version = write::value(value, &mut out);
    seal_as(version, &mut out);
    out
}

/// Appends a string as such forms hold it.
pub fn put_string(text: &[u8], out: &mut Vec<u8>) {
    write::put_string(out, text);
}

/// Ends a payload of what most versions know.
pub fn seal(out: &mut Vec<u8>) {
    seal_as(VERSION_OF_MOST, out);
}

fn seal_as(version: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&version.to_le_bytes());
    let sum = crc64(0, out);
    out.extend_from_slice(&sum.to_le_bytes());
}

/// Whether a payload is whole, and of a version that is known.
pub fn is_whole(payload: &[u8]) -> bool {
    let Some((body, sum)) = payload.split_last_chunk::<8>() else {
        return false;
    };
    let Some((_, version)) = body.split_last_chunk::<2>() else {
        return false;
    };
    u16::from_le_bytes(*version) <= VERSION && crc64(0, body) == u64::from_le_bytes(*sum)
}

/// The value of a payload that [`is_whole`].
pub fn restore(payload: &[u8], bounds: Bounds) -> Result<Value, BadData> {
    let body = payload.len().checked_sub(10).ok_or(BadData("too short"))?;
    let mut source = Source::new(&payload[..body], bounds);
    let kind = source.u8()?;
    source.value(kind)
}

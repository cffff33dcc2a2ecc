//! Reading words.

use base::{Millis, parse_f64, parse_i64};

use crate::error::{self, CommandError};

/// An integer word.
pub fn integer(word: &[u8]) -> Result<i64, CommandError> {
    parse_i64(word).ok_or(error::NOT_INTEGER)
}

/// A float word.
pub fn float(word: &[u8]) -> Result<f64, CommandError> {
    parse_f64(word).ok_or(error::NOT_FLOAT)
}

/// Whether a word is this keyword, in any case.
#[inline]
pub fn is(word: &[u8], keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword.as_bytes())
}

/// A word in upper case, for matching against several keywords; words longer than any keyword become empty.
pub fn upper(word: &[u8]) -> smallvec::SmallVec<[u8; 24]> {
    if word.len() > 24 {
        return smallvec::SmallVec::new();
    }
    word.iter().map(u8::to_ascii_uppercase).collect()
}

/// The time limit of a blocking command: seconds, fractions allowed, 0 for ever. Returns when it ends in shard time, 0 for never.
pub fn timeout(word: &[u8], now: Millis) -> Result<Millis, CommandError> {
    let seconds = parse_f64(word).ok_or(error::TIMEOUT_NOT_FLOAT)?;
    if seconds < 0.0 {
        return Err(error::TIMEOUT_NEGATIVE);
    }
    milliseconds_from_now((seconds * 1000.0).ceil(), now)
}

/// The time limit of XREAD's BLOCK: whole milliseconds, 0 for ever. Returns when it ends in shard time, 0 for never.
pub fn milliseconds(word: &[u8], now: Millis) -> Result<Millis, CommandError> {
    let span = parse_i64(word).ok_or(CommandError::new("ERR timeout is not an integer or out of range"))?;
    if span < 0 {
        return Err(error::TIMEOUT_NEGATIVE);
    }
    milliseconds_from_now(span as f64, now)
}

fn milliseconds_from_now(span: f64, now: Millis) -> Result<Millis, CommandError> {
    if !span.is_finite() || span > (i64::MAX as u64 - now) as f64 {
        return Err(CommandError::new("ERR timeout is out of range"));
    }
    Ok(if span == 0.0 { 0 } else { now + span as Millis })
}

//! From a client's bytes to a command's words, without copying them: RESP arrays of bulk strings
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>) and inline commands, as Redis 7.2 reads them.
//!
//! [`decode`] looks at a buffer whose first byte is the first byte that no earlier command took. A command may arrive in
//! any pieces: [`DecodeState`] remembers how far the buffer is understood, so no byte is looked at again and again.
//!
//! ```text
//! buffer  *2 CRLF $3 CRLF GET CRLF $1 00 CRLF abc…      words  (8,11)
//!                                  ^ at      ^ bulk: 100 bytes, of which 3 are here
//! ```
//!
//! Knows nothing about sockets and what commands mean. Never reserves memory for a length that is only claimed: the caller's
//! buffer grows by what has arrived, and so do the words.

use base::{Limit, Limits};
use shard::reply::Reply;
use smallvec::SmallVec;

mod inline;
#[cfg(test)]
mod tests;

pub use inline::split_line;

/// Where a word stands: `start..end` of the text that [`DecodeState::text`] returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// The first byte.
    pub start: u32,
    /// The byte after the last.
    pub end: u32,
}

impl Word {
    /// The word's bytes in `text`, which must be what [`DecodeState::text`] returned for it.
    #[inline]
    pub fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..self.end as usize]
    }
}

/// A command's words. Eight of them cost no allocation.
pub type Words = SmallVec<[Word; 8]>;

/// The bounds of one connection at this moment.
#[derive(Clone, Debug)]
pub struct DecodeLimits {
    /// Whether the client may already run commands; it decides which error a broken bound answers.
    pub authenticated: bool,
    /// Most words of a command.
    pub args_max: usize,
    /// Longest word, bytes.
    pub bulk_bytes_max: usize,
    /// Longest command, bytes: the sum of its words.
    pub command_bytes_max: usize,
    /// Longest inline command or length line, bytes.
    pub inline_bytes_max: usize,
}

impl DecodeLimits {
    /// For a client that may run commands.
    pub fn authenticated(limits: &Limits) -> DecodeLimits {
        DecodeLimits {
            authenticated: true,
            args_max: limits.args_max,
            bulk_bytes_max: limits.bulk_bytes_max,
            command_bytes_max: limits.command_bytes_max,
            inline_bytes_max: limits.inline_bytes_max,
        }
    }

    /// For a client that has yet to give its password.
    pub fn unauthenticated(limits: &Limits) -> DecodeLimits {
        DecodeLimits {
            authenticated: false,
            args_max: limits.unauthenticated_args_max,
            bulk_bytes_max: limits.unauthenticated_bulk_bytes_max,
            command_bytes_max: limits.unauthenticated_args_max.saturating_mul(limits.unauthenticated_bulk_bytes_max),
            inline_bytes_max: limits.inline_bytes_max.min(limits.unauthenticated_bulk_bytes_max),
        }
    }
}

/// How far the command at the buffer's start is understood. Made for a connection, kept beside its buffer and words.
#[derive(Debug, Default)]
pub struct DecodeState {
    /// The bytes before this one are understood.
    at: usize,
    /// No end of line stands in `at..scanned`.
    scanned: usize,
    /// Words still to come; 0 between commands.
    missing: usize,
    /// The length of the word that begins at `at`, once its length line was read.
    bulk: Option<usize>,
    /// Sum of the lengths of all words whose length is known.
    bytes: usize,
    /// The words of an inline command with quotes, without them.
    unquoted: Vec<u8>,
}

impl DecodeState {
    /// Nothing read yet.
    pub fn new() -> DecodeState {
        DecodeState::default()
    }

    /// What the words of a [`Decoded::Command`] are places in: the buffer itself, or the text without its quotes.
    #[inline]
    pub fn text<'a>(&'a self, buffer: &'a [u8], unquoted: bool) -> &'a [u8] {
        if unquoted { &self.unquoted } else { buffer }
    }

    /// How many more bytes the word that is being read needs, at least, given that `buffered` have arrived; 1 if unknown.
    /// A claim of the client's: a hint for how much to read at once, never for how much to reserve.
    pub fn wanted(&self, buffered: usize) -> usize {
        self.bulk.map_or(1, |len| self.at.saturating_add(len).saturating_add(2).saturating_sub(buffered).max(1))
    }

    /// Whether the buffer's start is the middle of a command.
    pub fn is_within_command(&self) -> bool {
        self.missing > 0
    }

    fn finish(&mut self) {
        (self.at, self.scanned, self.missing, self.bulk, self.bytes) = (0, 0, 0, None, 0);
    }
}

/// What the start of the buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Not yet a whole command: read more and append it to the same buffer.
    Incomplete,
    /// Nothing to do and nothing to answer (an empty line, `*0`, `*-1`): drop `consumed` bytes and decode again.
    Empty {
        /// How many bytes it took.
        consumed: usize,
    },
    /// A command of at least one word: run it, drop `consumed` bytes and decode again.
    Command {
        /// How many bytes it took.
        consumed: usize,
        /// Which text the words are places in: see [`DecodeState::text`].
        unquoted: bool,
    },
}

/// Bytes that are no command. The client gets the text (see [`ProtocolError::write`]) and is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number of words is no number.
    MultibulkLength,
    /// More words than a command may have.
    TooManyArgs,
    /// More words than a client may send before it has given its password.
    UnauthenticatedMultibulkLength,
    /// The length of a word is no number.
    BulkLength,
    /// A longer word than there may be.
    BulkTooBig,
    /// A longer word than a client may send before it has given its password.
    UnauthenticatedBulkLength,
    /// All words together are above the bound.
    CommandTooBig,
    /// A word did not begin with its length.
    ExpectedBulk(u8),
    /// An inline command without an end.
    InlineTooBig,
    /// The line with the number of words has no end.
    MultibulkCountTooBig,
    /// The line with the length of a word has no end.
    BulkCountTooBig,
    /// A quote without its partner, or text right behind one.
    UnbalancedQuotes,
    /// An HTTP request: somebody's browser is being used against the node. Nothing is answered.
    CrossProtocol,
}

impl ProtocolError {
    /// The bound that was broken, if it was one.
    pub fn limit(self) -> Option<Limit> {
        match self {
            ProtocolError::TooManyArgs => Some(Limit::args_max),
            ProtocolError::UnauthenticatedMultibulkLength => Some(Limit::unauthenticated_args_max),
            ProtocolError::BulkTooBig => Some(Limit::bulk_bytes_max),
            ProtocolError::UnauthenticatedBulkLength => Some(Limit::unauthenticated_bulk_bytes_max),
            ProtocolError::CommandTooBig => Some(Limit::command_bytes_max),
            ProtocolError::InlineTooBig | ProtocolError::MultibulkCountTooBig | ProtocolError::BulkCountTooBig => {
                Some(Limit::inline_bytes_max)
            }
            ProtocolError::MultibulkLength
            | ProtocolError::BulkLength
            | ProtocolError::ExpectedBulk(_)
            | ProtocolError::UnbalancedQuotes
            | ProtocolError::CrossProtocol => None,
        }
    }

    /// Writes the error reply; nothing for [`ProtocolError::CrossProtocol`].
    pub fn write(self, reply: &mut Reply) {
        let text = match self {
            ProtocolError::MultibulkLength | ProtocolError::TooManyArgs => "invalid multibulk length",
            ProtocolError::UnauthenticatedMultibulkLength => "unauthenticated multibulk length",
            ProtocolError::BulkLength | ProtocolError::BulkTooBig => "invalid bulk length",
            ProtocolError::UnauthenticatedBulkLength => "unauthenticated bulk length",
            ProtocolError::CommandTooBig => "command exceeds the limit of its total size",
            ProtocolError::InlineTooBig => "too big inline request",
            ProtocolError::MultibulkCountTooBig => "too big mbulk count string",
            ProtocolError::BulkCountTooBig => "too big bulk count string",
            ProtocolError::UnbalancedQuotes => "unbalanced quotes in request",
            ProtocolError::ExpectedBulk(got) => {
                let got = if got == b'\r' || got == b'\n' { b' ' } else { got };
                reply.bytes.extend_from_slice(b"-ERR Protocol error: expected '$', got '");
                reply.bytes.push(got);
                reply.bytes.extend_from_slice(b"'\r\n");
                return;
            }
            ProtocolError::CrossProtocol => return,
        };
        reply.error(&format!("ERR Protocol error: {text}"));
    }
}

/// A bigger array of words is given back after its command.
const WORDS_KEPT_MAX: usize = 1024;

/// Reads the command at the start of `buffer`.
///
/// Until it answers something else than [`Decoded::Incomplete`], `buffer` may only grow at its end, and `state` and `words`
/// must be the same ones: `words` fills up as the command arrives. After an error the connection is of no more use.
#[inline]
pub fn decode(
    buffer: &[u8],
    state: &mut DecodeState,
    limits: &DecodeLimits,
    words: &mut Words,
) -> Result<Decoded, ProtocolError> {
    if state.missing == 0 {
        words.clear();
        if words.capacity() > WORDS_KEPT_MAX {
            *words = Words::new();
        }
        match buffer.first() {
            None => return Ok(Decoded::Incomplete),
            Some(b'*') => {}
            Some(_) => return inline::decode(buffer, state, limits, words),
        }
        let (count, end) = match length_line(buffer, 0, &mut state.scanned, limits) {
            Line::Incomplete => return Ok(Decoded::Incomplete),
            Line::TooBig => return Err(ProtocolError::MultibulkCountTooBig),
            Line::Bad => return Err(ProtocolError::MultibulkLength),
            Line::Number(count, end) => (count, end),
        };
        if count <= 0 {
            state.finish();
            return Ok(Decoded::Empty { consumed: end });
        }
        if count as u64 > limits.args_max as u64 {
            return Err(match limits.authenticated || count > i64::from(i32::MAX) {
                true => ProtocolError::TooManyArgs,
                false => ProtocolError::UnauthenticatedMultibulkLength,
            });
        }
        (state.missing, state.at) = (count as usize, end);
    }
    while state.missing > 0 {
        let len = match state.bulk {
            Some(len) => len,
            None => match bulk_length(buffer, state, limits)? {
                Some(len) => len,
                None => return Ok(Decoded::Incomplete),
            },
        };
        let end = state.at.saturating_add(len);
        if buffer.len() < end.saturating_add(2) {
            state.bulk = Some(len);
            return Ok(Decoded::Incomplete);
        }
        words.push(word(state.at, end)?);
        (state.at, state.bulk, state.missing) = (end + 2, None, state.missing - 1);
    }
    let consumed = state.at;
    state.finish();
    refuse_http(words[0].of(buffer))?;
    Ok(Decoded::Command { consumed, unquoted: false })
}

/// The length of the next word, its line taken; `None` if the line is not here yet.
#[inline]
fn bulk_length(buffer: &[u8], state: &mut DecodeState, limits: &DecodeLimits) -> Result<Option<usize>, ProtocolError> {
    let line = length_line(buffer, state.at, &mut state.scanned, limits);
    if !matches!(line, Line::Incomplete | Line::TooBig) && buffer[state.at] != b'$' {
        return Err(ProtocolError::ExpectedBulk(buffer[state.at]));
    }
    let (len, end) = match line {
        Line::Incomplete => return Ok(None),
        Line::TooBig => return Err(ProtocolError::BulkCountTooBig),
        Line::Bad => return Err(ProtocolError::BulkLength),
        Line::Number(len, end) => (len, end),
    };
    let Ok(len) = usize::try_from(len) else { return Err(ProtocolError::BulkLength) };
    if len > limits.bulk_bytes_max {
        return Err(match limits.authenticated {
            true => ProtocolError::BulkTooBig,
            false => ProtocolError::UnauthenticatedBulkLength,
        });
    }
    state.bytes = state.bytes.saturating_add(len);
    if state.bytes > limits.command_bytes_max {
        return Err(ProtocolError::CommandTooBig);
    }
    state.at = end;
    Ok(Some(len))
}

enum Line {
    /// The line's end is not here yet.
    Incomplete,
    /// No end within the bound.
    TooBig,
    /// No number.
    Bad,
    /// The number behind the mark, and where the next line begins.
    Number(i64, usize),
}

/// Reads a mark and a number up to the end of the line. Like Redis it takes whatever byte follows the `\r` for the `\n`.
#[inline]
fn length_line(buffer: &[u8], at: usize, scanned: &mut usize, limits: &DecodeLimits) -> Line {
    // Nearly every line is a few digits: read them without looking for the end first.
    let mut value = 0;
    for (place, byte) in buffer[at..].iter().enumerate().skip(1).take(9) {
        match byte {
            b'1'..=b'9' => value = value * 10 + i64::from(byte - b'0'),
            b'0' if value > 0 => value *= 10,
            b'\r' if value > 0 && buffer.len() > at + place + 1 => return Line::Number(value, at + place + 2),
            _ => break,
        }
    }
    any_length_line(buffer, at, scanned, limits)
}

#[cold]
fn any_length_line(buffer: &[u8], at: usize, scanned: &mut usize, limits: &DecodeLimits) -> Line {
    let from = (*scanned).max(at);
    let until = buffer.len().min(at.saturating_add(limits.inline_bytes_max).saturating_add(1)).max(from);
    let Some(place) = buffer[from..until].iter().position(|byte| *byte == b'\r') else {
        *scanned = until;
        return if until - at > limits.inline_bytes_max { Line::TooBig } else { Line::Incomplete };
    };
    let end = from + place;
    *scanned = end;
    if buffer.len() < end + 2 {
        return Line::Incomplete;
    }
    // A line may be `\r` alone: then there is no mark and no number.
    match buffer.get(at + 1..end).and_then(base::parse_i64) {
        Some(value) => Line::Number(value, end + 2),
        None => Line::Bad,
    }
}

#[inline]
fn word(start: usize, end: usize) -> Result<Word, ProtocolError> {
    match (u32::try_from(start), u32::try_from(end)) {
        (Ok(start), Ok(end)) => Ok(Word { start, end }),
        _ => Err(ProtocolError::CommandTooBig),
    }
}

/// Refuses what a browser sends when a page makes it talk to this port (Redis's `securityWarningCommand`).
#[inline]
fn refuse_http(name: &[u8]) -> Result<(), ProtocolError> {
    let is_http = match name.len() {
        4 => name.eq_ignore_ascii_case(b"post"),
        5 => name.eq_ignore_ascii_case(b"host:"),
        _ => false,
    };
    if is_http { Err(ProtocolError::CrossProtocol) } else { Ok(()) }
}

/// Feeds `data` to a decoder whole and in pieces that its own bytes decide, and panics if the two differ or if a promise of
/// this module is broken. For fuzzers, and for the corpus under `cargo test`.
pub fn fuzz(data: &[u8]) {
    let small = Limits {
        bulk_bytes_max: 1 << 10,
        args_max: 64,
        command_bytes_max: 4 << 10,
        inline_bytes_max: 128,
        unauthenticated_args_max: 4,
        unauthenticated_bulk_bytes_max: 32,
        ..Limits::DEFAULT
    };
    for limits in [DecodeLimits::authenticated(&small), DecodeLimits::unauthenticated(&small)] {
        let whole = run(data, &limits, |_| usize::MAX);
        assert_eq!(whole, run(data, &limits, |_| 1), "a command does not depend on how it arrives");
        let pieces = |at: usize| usize::from(data.get(at).copied().unwrap_or(0)) % 23 + 1;
        assert_eq!(whole, run(data, &limits, pieces), "a command does not depend on how it arrives");
    }
}

/// All commands of `data`, and the error it ends in, when it arrives in pieces of `piece(position)` bytes.
fn run(
    data: &[u8],
    limits: &DecodeLimits,
    piece: impl Fn(usize) -> usize,
) -> (Vec<Vec<Vec<u8>>>, Option<ProtocolError>) {
    let (mut state, mut words) = (DecodeState::new(), Words::new());
    let (mut start, mut arrived) = (0, 0);
    let mut commands = Vec::new();
    loop {
        let buffer = &data[start..arrived];
        match decode(buffer, &mut state, limits, &mut words) {
            Err(error) => return (commands, Some(error)),
            Ok(Decoded::Incomplete) if arrived == data.len() => return (commands, None),
            Ok(Decoded::Incomplete) => {
                assert!(state.wanted(buffer.len()) > 0, "an incomplete command wants more");
                arrived = arrived.saturating_add(piece(arrived)).min(data.len());
            }
            Ok(Decoded::Empty { consumed }) => {
                assert!(consumed > 0 && consumed <= buffer.len(), "progress, within the buffer");
                start += consumed;
            }
            Ok(Decoded::Command { consumed, unquoted }) => {
                assert!(consumed > 0 && consumed <= buffer.len(), "progress, within the buffer");
                assert!(!words.is_empty() && words.len() <= limits.args_max, "as many words as the bound allows");
                let text = state.text(buffer, unquoted);
                commands.push(words.iter().map(|word| word.of(text).to_vec()).collect());
                start += consumed;
            }
        }
    }
}

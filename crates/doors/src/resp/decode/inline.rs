//! Commands as a person types them: one line, words parted by blanks, quotes as in Redis (`sdssplitargs`).
//!
//! A line without quotes stays where it is; one with quotes is written out without them into [`DecodeState`]'s own text.

use super::{DecodeLimits, DecodeState, Decoded, ProtocolError, Words, refuse_http, word};

/// Reads the line at the start of `buffer`. See [`super::decode`].
pub(super) fn decode(
    buffer: &[u8],
    state: &mut DecodeState,
    limits: &DecodeLimits,
    words: &mut Words,
) -> Result<Decoded, ProtocolError> {
    let until = buffer.len().min(limits.inline_bytes_max.saturating_add(1));
    let from = state.scanned.min(until);
    let Some(place) = buffer[from..until].iter().position(|byte| *byte == b'\n') else {
        state.scanned = until;
        return if until > limits.inline_bytes_max {
            Err(ProtocolError::InlineTooBig)
        } else {
            Ok(Decoded::Incomplete)
        };
    };
    let newline = from + place;
    let line = &buffer[..newline];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let unquoted = line.iter().any(|byte| matches!(byte, b'"' | b'\''));
    if unquoted {
        unquote(line, &mut state.unquoted, words)?;
    } else {
        split(line, words)?;
    }
    state.finish();
    if words.is_empty() {
        return Ok(Decoded::Empty { consumed: newline + 1 });
    }
    if words.len() > limits.args_max {
        return Err(match limits.authenticated {
            true => ProtocolError::TooManyArgs,
            false => ProtocolError::UnauthenticatedMultibulkLength,
        });
    }
    refuse_http(words[0].of(state.text(buffer, unquoted)))?;
    Ok(Decoded::Command { consumed: newline + 1, unquoted })
}

/// Splits one line into words by the rules of inline commands; `None` if its quotes are unbalanced. For command lines that
/// people type elsewhere.
pub fn split_line(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let (mut text, mut words) = (Vec::new(), Words::new());
    unquote(line, &mut text, &mut words).ok()?;
    Some(words.iter().map(|word| word.of(&text).to_vec()).collect())
}

/// What may stand before a word (C's `isspace`).
fn is_blank(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

/// What ends a word outside of quotes: fewer bytes than may stand before one.
fn ends_word(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

fn split(line: &[u8], words: &mut Words) -> Result<(), ProtocolError> {
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|byte| is_blank(**byte)).count();
        if at == line.len() {
            return Ok(());
        }
        let end = at + line[at..].iter().take_while(|byte| !ends_word(**byte)).count();
        words.push(word(at, end)?);
        at = end;
    }
}

fn unquote(line: &[u8], text: &mut Vec<u8>, words: &mut Words) -> Result<(), ProtocolError> {
    text.clear();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|byte| is_blank(**byte)).count();
        rest = &rest[blanks..];
        if rest.is_empty() {
            return Ok(());
        }
        let start = text.len();
        rest = unquote_word(rest, text)?;
        words.push(word(start, text.len())?);
    }
}

/// Writes the word at the start of `rest` to `text`; returns what follows it.
fn unquote_word<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match rest {
            [b'"', inner @ ..] => return closed(double_quoted(inner, text)?),
            [b'\'', inner @ ..] => return closed(single_quoted(inner, text)?),
            [byte, after @ ..] if !ends_word(*byte) => {
                text.push(*byte);
                rest = after;
            }
            _ => return Ok(rest),
        }
    }
}

/// A quote that closes must be followed by a blank or nothing.
fn closed(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(byte) if !is_blank(*byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn double_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', after @ ..] => return Ok(after),
            [b'\\', b'x', high, low, after @ ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                (hex(*high) << 4 | hex(*low), after)
            }
            [b'\\', escaped, after @ ..] => (escape(*escaped), after),
            [byte, after @ ..] => (*byte, after),
        };
        text.push(byte);
        rest = after;
    }
}

fn single_quoted<'a>(mut rest: &'a [u8], text: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, after) = match rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\'', after @ ..] => return Ok(after),
            [b'\\', b'\'', after @ ..] => (b'\'', after),
            [byte, after @ ..] => (*byte, after),
        };
        text.push(byte);
        rest = after;
    }
}

fn escape(letter: u8) -> u8 {
    match letter {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        other => other,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit - b'A' + 10,
    }
}

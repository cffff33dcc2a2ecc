//! How a command answers: straight into bytes of RESP2 or RESP3
//! (<https://redis.io/docs/latest/develop/reference/protocol-spec/>), because an answer is built once and sent once.
//!
//! A RESP3 type that RESP2 lacks is written as what Redis 7.2 sends in its place.

use base::{Limits, format_i64};

use crate::error::CommandError;

/// The answer would be longer than a client may have outstanding.
pub const TOO_LONG: CommandError = CommandError::new(
    "ERR the answer is longer than the limit output_bytes_max (in a script: script_memory_bytes_max); \
     ask for less at a time. A write has been done all the same",
);

/// The protocol version that a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// What every client starts with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// A growing answer, up to a limit: a few words may ask for the same large value a million times.
#[derive(Debug)]
pub struct Reply {
    /// The bytes so far.
    pub bytes: Vec<u8>,
    /// Which types may be used.
    pub protocol: Protocol,
    /// Where it must not grow further. Whatever is written beyond is left out, and [`Reply::settle`] says so.
    pub bytes_max: usize,
    full: bool,
}

impl Default for Reply {
    fn default() -> Reply {
        Reply::new(Protocol::Resp2)
    }
}

impl Reply {
    /// An empty answer of the usual limit.
    pub fn new(protocol: Protocol) -> Reply {
        Reply::bounded(protocol, Limits::DEFAULT.output_bytes_max)
    }

    /// An empty answer that stays within so many bytes.
    pub fn bounded(protocol: Protocol, bytes_max: usize) -> Reply {
        Reply { bytes: Vec::new(), protocol, bytes_max, full: false }
    }

    /// Whether something was left out.
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// A command that began its answer at `begun` has ended: an error takes the answer's place, also where that is too long.
    pub fn settle(&mut self, begun: usize, outcome: Result<(), CommandError>) {
        let full = std::mem::take(&mut self.full);
        let error = match outcome {
            Err(error) => error,
            Ok(()) if full => TOO_LONG,
            Ok(()) => return,
        };
        self.bytes.truncate(begun);
        if full {
            // What the answer grew to is not kept.
            self.bytes.shrink_to(begun + 1024);
        }
        self.error(&error.0);
    }

    /// An answer to be written aside, and appended later.
    pub fn aside(&self) -> Reply {
        Reply::bounded(self.protocol, self.bytes_max)
    }

    /// What was written aside.
    pub fn append(&mut self, other: &Reply) {
        self.full |= other.full;
        self.put(&other.bytes);
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            self.full = true;
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    /// Whether RESP3 types may be used.
    pub fn is_resp3(&self) -> bool {
        self.protocol == Protocol::Resp3
    }

    /// `+OK`.
    pub fn ok(&mut self) {
        self.bytes.extend_from_slice(b"+OK\r\n");
    }

    /// A simple string. Must hold no line break.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']), "a simple string is one line");
        self.line(b'+', text.as_bytes());
    }

    /// An error. Line breaks become spaces, so that a user's bytes in the text cannot forge a second answer (CVE-2025-67733).
    pub fn error(&mut self, text: &str) {
        self.bytes.push(b'-');
        self.bytes.extend(text.bytes().map(|byte| if byte == b'\r' || byte == b'\n' { b' ' } else { byte }));
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn int(&mut self, value: i64) {
        self.header(b':', value);
    }

    /// A byte string.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > self.bytes_max {
            self.full = true;
            return;
        }
        self.header(b'$', bytes.len() as i64);
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// An integer as a byte string.
    pub fn bulk_int(&mut self, value: i64) {
        let mut buffer = [0; 20];
        self.bulk(format_i64(value, &mut buffer));
    }

    /// No value (RESP2: a null bulk string).
    pub fn null(&mut self) {
        self.put(if self.is_resp3() { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// No array (RESP2: a null array).
    pub fn null_array(&mut self) {
        self.put(if self.is_resp3() { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// An array of `len` answers that follow.
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// A map of `len` pairs that follow (RESP2: a flat array).
    pub fn map(&mut self, len: usize) {
        if self.is_resp3() { self.header(b'%', len as i64) } else { self.header(b'*', 2 * len as i64) }
    }

    /// A set of `len` answers that follow (RESP2: an array).
    pub fn set(&mut self, len: usize) {
        let mark = if self.is_resp3() { b'~' } else { b'*' };
        self.header(mark, len as i64);
    }

    /// An out-of-band message of `len` answers that follow (RESP2: an array).
    pub fn push(&mut self, len: usize) {
        let mark = if self.is_resp3() { b'>' } else { b'*' };
        self.header(mark, len as i64);
    }

    /// A float (RESP2: a byte string), in the shortest form that reads back to the same number, as Redis 7.2 does.
    pub fn double(&mut self, value: f64) {
        self.double_text(&format_f64(value));
    }

    /// A float in digits of the caller's choice (RESP2: a byte string).
    pub fn double_text(&mut self, text: &str) {
        if self.is_resp3() { self.line(b',', text.as_bytes()) } else { self.bulk(text.as_bytes()) }
    }

    /// A truth value (RESP2: 1 or 0).
    pub fn bool(&mut self, value: bool) {
        if self.is_resp3() {
            self.bytes.extend_from_slice(if value { b"#t\r\n" } else { b"#f\r\n" });
        } else {
            self.int(i64::from(value));
        }
    }

    /// Text for people (RESP2: a byte string). `format` is three letters, `txt` or `mkd`.
    pub fn verbatim(&mut self, format: &str, text: &[u8]) {
        if !self.is_resp3() {
            return self.bulk(text);
        }
        self.header(b'=', text.len() as i64 + 4);
        self.bytes.extend_from_slice(format.as_bytes());
        self.bytes.push(b':');
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Starts an array whose length is known only after its elements; end it with [`Reply::end_array`].
    pub fn begin_array(&mut self) -> usize {
        self.bytes.len()
    }

    /// Puts the header in front of the elements written since [`Reply::begin_array`].
    pub fn end_array(&mut self, begun: usize, len: usize) {
        let elements = self.bytes.split_off(begun);
        self.array(len);
        self.bytes.extend_from_slice(&elements);
    }

    #[inline]
    fn header(&mut self, mark: u8, value: i64) {
        let mut buffer = [0; 20];
        self.line(mark, format_i64(value, &mut buffer));
    }

    #[inline]
    fn line(&mut self, mark: u8, text: &[u8]) {
        if self.bytes.len() + text.len() > self.bytes_max {
            self.full = true;
            return;
        }
        self.bytes.push(mark);
        self.bytes.extend_from_slice(text);
        self.bytes.extend_from_slice(b"\r\n");
    }
}

/// A float as Redis 7.2 writes it (`fpconv_dtoa`): shortest digits, `1e+21` style exponents beyond that, `inf`, `-inf`, `nan`.
pub fn format_f64(value: f64) -> String {
    if value.is_nan() {
        return "nan".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if value == 0.0 {
        return if value.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').expect("Rust's {:e} always writes an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a small integer");
    if (-7..21).contains(&exponent) {
        return format!("{value}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{}", exponent.abs())
}

//! The head of a request and of an answer, read strictly by RFC 9112: what two programs could read differently is refused, never repaired.
//!
//! A head is one buffer of bytes and spans into it, whichever protocol it came by: a head of HTTP/2 is written into the same form, so that rules
//! and forwarding know one form only. Refused with 400 unless said otherwise:
//!
//! | what | why |
//! |---|---|
//! | a line that ends in LF alone; CR, NUL or another control in a line | RFC 9112 §2.2, RFC 9110 §5.5 |
//! | a line that begins with space or tab (obs-fold) | RFC 9112 §5.2 |
//! | space between a field's name and its colon; a name that is no token | RFC 9112 §5.1 |
//! | Content-Length beside Transfer-Encoding; twice; a list; anything but digits | RFC 9112 §6.3, RFC 9110 §8.6 |
//! | Transfer-Encoding other than `chunked` alone (501), or in HTTP/1.0 | RFC 9112 §6.1 |
//! | HTTP/1.1 without Host, Host twice, a Host that is no authority | RFC 9112 §3.2 |
//! | more than one space, or another white space, in the request line | RFC 9112 §3 |
//! | a version other than HTTP/1.0 and HTTP/1.1 (505) | RFC 9112 §2.3 |
//! | CONNECT (405): this is no forward proxy | RFC 9110 §9.3.6 |

use crate::limits::Limits;

/// Why something is no message: the status that it is answered with, and one reason for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad {
    /// 400, 405, 408, 413, 414, 431, 501 or 505; of an answer always 502.
    pub status: u16,
    /// In a few words.
    pub why: &'static str,
}

pub(crate) const fn bad(why: &'static str) -> Bad {
    Bad { status: 400, why }
}

/// The protocol that a head came by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
    /// HTTP/2.
    Http2,
}

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// There is none.
    #[default]
    None,
    /// So many bytes.
    Known(u64),
    /// The body says it: chunks, or an HTTP/2 stream's end.
    Streamed,
    /// The end of the connection (answers of HTTP/1 only).
    UntilClose,
}

/// A piece of a head's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        &bytes[self.start as usize..self.end as usize]
    }

    fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }
}

/// Header fields in the order they came.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    pub(crate) bytes: Vec<u8>,
    pub(crate) spans: Vec<(Span, Span)>,
}

impl Fields {
    /// Name and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|(name, value)| (name.of(&self.bytes), value.of(&self.bytes)))
    }

    /// The first field of a name, whatever its case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(it, _)| it.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    pub(crate) fn append(&mut self, text: &[u8]) -> Span {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(text);
        Span::new(start, self.bytes.len())
    }

    pub(crate) fn push(&mut self, name: &[u8], value: &[u8]) {
        let field = (self.append(name), self.append(value));
        self.spans.push(field);
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.spans.clear();
    }
}

/// What the fields that concern one connection only say, in both kinds of heads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hop {
    pub close: bool,
    pub keep_alive: bool,
    pub upgrade: bool,
    /// Connection names fields of its own: they must not be forwarded.
    pub nominates: bool,
    pub chunked: bool,
    pub length: Option<u64>,
    /// `Upgrade: websocket` and nothing else.
    pub websocket: bool,
    pub trailers: bool,
}

/// A request's head.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    pub(crate) fields: Fields,
    pub(crate) method: Span,
    pub(crate) target: Span,
    pub(crate) authority: Span,
    pub(crate) version: Version,
    pub(crate) body: BodyLength,
    pub(crate) hop: Hop,
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}

impl RequestHead {
    /// The method, as the client wrote it (methods are case-sensitive).
    pub fn method(&self) -> &str {
        text(self.method.of(&self.fields.bytes))
    }

    /// `/path?query`, or `*`.
    pub fn target(&self) -> &str {
        text(self.target.of(&self.fields.bytes))
    }

    /// The target's path, as it came: not normalised.
    pub fn path(&self) -> &str {
        let target = self.target();
        target.split_once('?').map_or(target, |(path, _)| path)
    }

    /// What follows the target's `?`.
    pub fn query(&self) -> Option<&str> {
        self.target().split_once('?').map(|(_, query)| query)
    }

    /// `host[:port]`: of an absolute target, else of Host or `:authority`. Empty where an HTTP/1.0 client named none.
    pub fn authority(&self) -> &str {
        text(self.authority.of(&self.fields.bytes))
    }

    /// How it came.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where its body ends.
    pub fn body(&self) -> BodyLength {
        self.body
    }

    /// All fields; Host only where it came as a field.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Whether it asks to become a WebSocket (RFC 6455 §4.1).
    pub fn asks_websocket(&self) -> bool {
        self.hop.websocket && self.hop.upgrade && self.method() == "GET" && self.version == Version::Http11
    }

    /// Whether it is gRPC, by its Content-Type.
    pub fn is_grpc(&self) -> bool {
        self.fields
            .get("content-type")
            .is_some_and(|it| it.len() >= 16 && it[..16].eq_ignore_ascii_case(b"application/grpc"))
    }

    /// Whether doing it twice is doing it once (RFC 9110 §9.2.2).
    pub fn is_idempotent(&self) -> bool {
        matches!(self.method(), "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE")
    }

    pub(crate) fn keeps_alive(&self) -> bool {
        match self.version {
            Version::Http10 => self.hop.keep_alive && !self.hop.close,
            Version::Http11 => !self.hop.close,
            Version::Http2 => true,
        }
    }

    pub(crate) fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = RequestHead { fields, ..RequestHead::default() };
    }
}

/// An answer's head.
#[derive(Clone, Debug, Default)]
pub struct AnswerHead {
    pub(crate) fields: Fields,
    pub(crate) status: u16,
    pub(crate) version: Version,
    pub(crate) hop: Hop,
}

impl AnswerHead {
    /// 100 to 999.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// How it came.
    pub fn version(&self) -> Version {
        self.version
    }

    /// All fields.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// Where the body ends (RFC 9112 §6.3).
    pub(crate) fn body(&self, to_head: bool) -> BodyLength {
        if to_head || self.status < 200 || self.status == 204 || self.status == 304 {
            return BodyLength::None;
        }
        match (self.hop.length, self.hop.chunked, self.version) {
            (Some(0), ..) => BodyLength::None,
            (Some(length), ..) => BodyLength::Known(length),
            (None, true, _) | (None, _, Version::Http2) => BodyLength::Streamed,
            (None, false, _) => BodyLength::UntilClose,
        }
    }

    pub(crate) fn keeps_alive(&self) -> bool {
        match self.version {
            Version::Http10 => self.hop.keep_alive && !self.hop.close,
            _ => !self.hop.close,
        }
    }

    pub(crate) fn clear(&mut self) {
        let mut fields = std::mem::take(&mut self.fields);
        fields.clear();
        *self = AnswerHead { fields, ..AnswerHead::default() };
    }
}

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;
const HOST: u8 = 8;

/// What each byte may be: token characters (RFC 9110 §5.6.2), a field's value (§5.5), a target, an authority (RFC 3986 §3.2).
static CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut at = 0;
    while at < 256 {
        let byte = at as u8;
        let alnum = byte.is_ascii_alphanumeric();
        if alnum || matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~') {
            class[at] |= TOKEN;
        }
        if byte >= 0x20 && byte != 0x7f || byte == b'\t' {
            class[at] |= VALUE;
        }
        if byte > 0x20 && byte < 0x7f && byte != b'#' {
            class[at] |= TARGET;
        }
        if alnum || matches!(byte, b'!' | b'$'..=b'.' | b':' | b';' | b'=' | b'[' | b']' | b'_' | b'~') {
            class[at] |= HOST;
        }
        at += 1;
    }
    class
};

fn all(bytes: &[u8], class: u8) -> bool {
    bytes.iter().all(|byte| CLASS[usize::from(*byte)] & class != 0)
}

/// Whether it may be a field's name.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && all(bytes, TOKEN)
}

/// Whether it may be a field's value.
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    all(bytes, VALUE)
}

/// Whether it may be a target of ours: `/…`, without controls, spaces or fragment.
pub(crate) fn is_target(bytes: &[u8]) -> bool {
    bytes.first() == Some(&b'/') && all(bytes, TARGET)
}

/// Whether it may be a Host.
pub(crate) fn is_authority(bytes: &[u8]) -> bool {
    all(bytes, HOST)
}

/// Looks for the empty line that ends a head, remembering how far it got, so that a head that comes byte by byte costs one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    at: usize,
    line: usize,
}

impl Scan {
    /// The length of the head with its empty line, once it is all there.
    pub fn run(&mut self, bytes: &[u8]) -> Result<Option<usize>, Bad> {
        while let Some(found) = bytes[self.at..].iter().position(|byte| *byte == b'\n') {
            let end = self.at + found;
            if end == self.line || bytes[end - 1] != b'\r' && !base::is_planted(base::Bug::BareLfTaken) {
                return Err(bad("a line ends in LF alone"));
            }
            let empty = end == self.line + 1;
            self.at = end + 1;
            self.line = self.at;
            if empty {
                return Ok(Some(self.at));
            }
        }
        self.at = bytes.len();
        Ok(None)
    }
}

/// Strips the white space around a field's value (RFC 9110 §5.5).
fn trim(bytes: &[u8], mut start: usize, mut end: usize) -> Span {
    while start < end && matches!(bytes[start], b' ' | b'\t') {
        start += 1;
    }
    while start < end && matches!(bytes[end - 1], b' ' | b'\t') {
        end -= 1;
    }
    Span::new(start, end)
}

/// The elements of a comma-separated list (RFC 9110 §5.6.1), empty ones left out.
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).filter(|it| !it.is_empty())
}

/// Digits and nothing else, at most 19 of them (RFC 9110 §8.6).
pub(crate) fn digits(value: &[u8]) -> Option<u64> {
    let right = (1..=19).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
    right.then(|| value.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

impl Hop {
    /// Takes in one field. `value` is trimmed.
    fn see(&mut self, name: &[u8], value: &[u8]) -> Result<(), Bad> {
        let is = |it: &[u8]| name.eq_ignore_ascii_case(it);
        match name.len() {
            14 if is(b"content-length") => {
                if self.length.is_some() {
                    return Err(bad("Content-Length twice"));
                }
                self.length = Some(digits(value).ok_or(bad("Content-Length is no number"))?);
            }
            17 if is(b"transfer-encoding") => {
                if self.chunked {
                    return Err(bad("Transfer-Encoding twice"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Bad { status: 501, why: "a Transfer-Encoding other than chunked" });
                }
                self.chunked = true;
            }
            10 if is(b"connection") => {
                for option in list(value) {
                    if !is_token(option) {
                        return Err(bad("a connection option that is no token"));
                    }
                    let is = |it: &[u8]| option.eq_ignore_ascii_case(it);
                    match option.len() {
                        5 if is(b"close") => self.close = true,
                        10 if is(b"keep-alive") => self.keep_alive = true,
                        7 if is(b"upgrade") => self.upgrade = true,
                        _ => self.nominates = true,
                    }
                }
            }
            7 if is(b"upgrade") => self.websocket = value.eq_ignore_ascii_case(b"websocket"),
            2 if is(b"te") => self.trailers |= list(value).any(|it| it.eq_ignore_ascii_case(b"trailers")),
            _ => {}
        }
        Ok(())
    }
}

/// Reads the lines of fields that stand in `fields.bytes[from..to]`, without the empty line, and tells each to `see`.
fn parse_fields(
    fields: &mut Fields,
    from: usize,
    to: usize,
    fields_max: usize,
    mut see: impl FnMut(&[u8], &[u8], Span) -> Result<(), Bad>,
) -> Result<(), Bad> {
    let Fields { bytes, spans } = fields;
    let mut start = from;
    while start < to {
        // The scan has seen that every line ends in CR LF.
        let feed = bytes[start..to].iter().position(|byte| *byte == b'\n');
        let end = start + feed.and_then(|at| at.checked_sub(1)).ok_or(bad("a line without its end"))?;
        let line = &bytes[start..end];
        let Some(colon) = line.iter().position(|byte| CLASS[usize::from(*byte)] & TOKEN == 0) else {
            return Err(bad("a line without a colon"));
        };
        match line.get(colon) {
            Some(b':') if colon > 0 => {}
            Some(b' ' | b'\t') if colon == 0 => return Err(bad("a folded line")),
            Some(b' ' | b'\t') => return Err(bad("a space before a colon")),
            _ => return Err(bad("a field's name is no token")),
        }
        let name = Span::new(start, start + colon);
        let value = trim(bytes, start + colon + 1, end);
        if !all(value.of(bytes), VALUE) {
            return Err(bad("a control character in a field"));
        }
        if spans.len() == fields_max {
            return Err(Bad { status: 431, why: "too many fields" });
        }
        see(name.of(bytes), value.of(bytes), value)?;
        spans.push((name, value));
        start = end + 2;
    }
    Ok(())
}

/// Reads a request's head: `bytes` is all of it, with the empty line, as [`Scan`] found it. `head` is overwritten.
pub(crate) fn parse_request(bytes: &[u8], head: &mut RequestHead, limits: &Limits) -> Result<(), Bad> {
    head.clear();
    head.fields.bytes.extend_from_slice(bytes);
    let bytes = &head.fields.bytes;
    let line_end =
        bytes.iter().position(|byte| *byte == b'\n').ok_or(bad("a request line without its end"))?.saturating_sub(1);
    let line = &bytes[..line_end];
    let method_end = line.iter().position(|byte| *byte == b' ').ok_or(bad("a request line without a target"))?;
    let target_end = line
        .iter()
        .rposition(|byte| *byte == b' ')
        .filter(|end| *end > method_end)
        .ok_or(bad("a request line without a version"))?;
    head.method = Span::new(0, method_end);
    head.target = Span::new(method_end + 1, target_end);
    head.version = match &line[target_end + 1..] {
        b"HTTP/1.1" => Version::Http11,
        b"HTTP/1.0" => Version::Http10,
        it if it.len() == 8 && it.starts_with(b"HTTP/") => {
            return Err(Bad { status: 505, why: "another version of HTTP" });
        }
        _ => return Err(bad("a request line without a version")),
    };
    let (method, target) = (head.method.of(bytes), head.target.of(bytes));
    if !is_token(method) {
        return Err(bad("a method that is no token"));
    }
    if target.len() > limits.target_bytes_max {
        return Err(Bad { status: 414, why: "a target that is too long" });
    }
    if target.is_empty() || !all(target, TARGET) {
        return Err(bad("a target with characters that targets do not have"));
    }
    if method == b"CONNECT" {
        return Err(Bad { status: 405, why: "CONNECT" });
    }
    let absolute = absolute_form(target, head.target.start as usize)?;
    if absolute.is_none() && target[0] != b'/' && !(target == b"*" && method == b"OPTIONS") {
        return Err(bad("a target that does not begin with /"));
    }
    let mut host: Option<Span> = None;
    let (hop, to) = (&mut head.hop, bytes.len().saturating_sub(2));
    parse_fields(&mut head.fields, line_end + 2, to, limits.fields_max, |name, value, span| {
        if name.len() == 4 && name.eq_ignore_ascii_case(b"host") {
            if host.replace(span).is_some() {
                return Err(bad("Host twice"));
            }
            if !is_authority(value) {
                return Err(bad("a Host that is no authority"));
            }
            return Ok(());
        }
        hop.see(name, value)
    })?;
    if host.is_none() && head.version == Version::Http11 {
        return Err(bad("no Host"));
    }
    head.authority = host.unwrap_or_default();
    if let Some((authority, target)) = absolute {
        head.authority = authority;
        head.target = target;
        if target == Span::default() {
            head.target = head.fields.append(if head.method() == "OPTIONS" { b"*" } else { b"/" });
        } else if head.target.of(&head.fields.bytes)[0] == b'?' {
            let query = head.target.of(&head.fields.bytes).to_vec();
            head.target = head.fields.append(&[b"/", &query[..]].concat());
        }
    }
    head.body = request_body(&head.hop, head.version)?;
    Ok(())
}

/// The authority and the rest of `http://authority/rest` (RFC 9112 §3.2.2); the rest is empty where there is none.
fn absolute_form(target: &[u8], at: usize) -> Result<Option<(Span, Span)>, Bad> {
    let after = |scheme: &[u8]| {
        target.get(..scheme.len()).is_some_and(|it| it.eq_ignore_ascii_case(scheme)).then_some(scheme.len())
    };
    let Some(start) = after(b"http://").or_else(|| after(b"https://")) else { return Ok(None) };
    let end =
        target[start..].iter().position(|byte| matches!(byte, b'/' | b'?')).map_or(target.len(), |found| start + found);
    if end == start || !is_authority(&target[start..end]) {
        return Err(bad("a target without an authority"));
    }
    let rest = if end == target.len() { Span::default() } else { Span::new(at + end, at + target.len()) };
    Ok(Some((Span::new(at + start, at + end), rest)))
}

/// Where a request's body ends (RFC 9112 §6.3).
fn request_body(hop: &Hop, version: Version) -> Result<BodyLength, Bad> {
    match (hop.length, hop.chunked) {
        (Some(length), true) if base::is_planted(base::Bug::BothLengthsTaken) => Ok(BodyLength::Known(length)),
        (Some(_), true) => Err(bad("Content-Length beside Transfer-Encoding")),
        (None, true) if version == Version::Http10 => Err(bad("Transfer-Encoding in HTTP/1.0")),
        (None, true) => Ok(BodyLength::Streamed),
        (Some(0) | None, false) => Ok(BodyLength::None),
        (Some(length), false) => Ok(BodyLength::Known(length)),
    }
}

/// Reads an answer's head: `bytes` is all of it, with the empty line. `head` is overwritten. The statuses of errors are 502.
pub(crate) fn parse_answer(bytes: &[u8], head: &mut AnswerHead, fields_max: usize) -> Result<(), Bad> {
    read_answer(bytes, head, fields_max).map_err(|error| Bad { status: 502, ..error })
}

fn read_answer(bytes: &[u8], head: &mut AnswerHead, fields_max: usize) -> Result<(), Bad> {
    head.clear();
    head.fields.bytes.extend_from_slice(bytes);
    let bytes = &head.fields.bytes;
    let line_end =
        bytes.iter().position(|byte| *byte == b'\n').ok_or(bad("a status line without its end"))?.saturating_sub(1);
    let line = &bytes[..line_end];
    head.version = match line.get(..9) {
        Some(b"HTTP/1.1 ") => Version::Http11,
        Some(b"HTTP/1.0 ") => Version::Http10,
        _ => return Err(bad("a status line without a version")),
    };
    // The space behind the status is missing in what some servers send; nobody reads that differently.
    let code = line.get(9..12).filter(|_| matches!(line.get(12), None | Some(b' '))).and_then(digits);
    head.status = code.filter(|code| *code >= 100).ok_or(bad("a status that is no number"))? as u16;
    if !all(&line[12..], VALUE) {
        return Err(bad("a control character in the status line"));
    }
    let (hop, to) = (&mut head.hop, bytes.len().saturating_sub(2));
    parse_fields(&mut head.fields, line_end + 2, to, fields_max, |name, value, _| hop.see(name, value))?;
    if hop.chunked && hop.length.is_some() {
        return Err(bad("Content-Length beside Transfer-Encoding"));
    }
    if hop.chunked && head.version == Version::Http10 {
        return Err(bad("Transfer-Encoding in HTTP/1.0"));
    }
    Ok(())
}

/// Reads the lines of trailers, `bytes` with their empty line, into `fields`. Fields that trailers must not have (RFC 9110 §6.5.1: framing,
/// routing, and those that concern a connection) are left out.
pub(crate) fn parse_trailers(bytes: &[u8], fields: &mut Fields, fields_max: usize) -> Result<(), Bad> {
    fields.clear();
    fields.bytes.extend_from_slice(bytes);
    parse_fields(fields, 0, bytes.len().saturating_sub(2), fields_max, |_, _, _| Ok(()))?;
    let Fields { bytes, spans } = fields;
    spans.retain(|(name, _)| may_trail(name.of(bytes)));
    Ok(())
}

/// Fields that concern one connection or the message's framing (RFC 9110 §7.6.1): written by the engine alone, never passed on.
pub(crate) fn is_framing(name: &[u8]) -> bool {
    let is = |it: &[u8]| name.eq_ignore_ascii_case(it);
    match name.len() {
        2 => is(b"te"),
        4 => is(b"host"),
        7 => is(b"upgrade") || is(b"trailer"),
        10 => is(b"connection") || is(b"keep-alive"),
        14 => is(b"content-length"),
        16 => is(b"proxy-connection"),
        17 => is(b"transfer-encoding"),
        _ => false,
    }
}

/// Whether a field may stand in trailers (RFC 9110 §6.5.1).
pub(crate) fn may_trail(name: &[u8]) -> bool {
    const NEVER: [&str; 9] = [
        "authorization",
        "cache-control",
        "content-encoding",
        "content-range",
        "content-type",
        "cookie",
        "expect",
        "max-forwards",
        "set-cookie",
    ];
    !is_framing(name) && !NEVER.iter().any(|it| name.eq_ignore_ascii_case(it.as_bytes()))
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;

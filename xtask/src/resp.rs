//! A small Redis client for tests: RESP2 and RESP3, nothing hidden.
//!
//! It keeps what a friendly client would smooth over: a null bulk, a null array and a RESP3 null are different values,
//! doubles stay text, error texts stay whole. A test that compares two servers must see all of that.
//!
//! Knows nothing about pools, retries or pipelining policies: `send` writes, `read` reads one reply.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// A reply nested deeper than this is a protocol error (the deepest reply of Redis, `XINFO STREAM FULL`, has six levels).
const DEPTH_MAX: usize = 64;
/// A longer bulk or line than this is a protocol error rather than an allocation.
const BULK_BYTES_MAX: usize = 512 * 1024 * 1024;

/// One reply as it stood on the wire.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// `+OK`
    Simple(Vec<u8>),
    /// `-ERR …`, the whole line without the dash.
    Error(Vec<u8>),
    /// `:1`
    Int(i64),
    /// `$3 abc`
    Bulk(Vec<u8>),
    /// `$-1` of RESP2.
    NullBulk,
    /// `*-1` of RESP2.
    NullArray,
    /// `_` of RESP3.
    Null,
    /// `*…`
    Array(Vec<Value>),
    /// `%…`
    Map(Vec<(Value, Value)>),
    /// `~…`
    Set(Vec<Value>),
    /// `>…`
    Push(Vec<Value>),
    /// `,1.5`, the text kept.
    Double(Vec<u8>),
    /// `#t`
    Bool(bool),
    /// `(123…`
    Big(Vec<u8>),
    /// `=15 txt:…`, format and text.
    Verbatim(Vec<u8>, Vec<u8>),
}

impl Value {
    /// The items of an array, set or push.
    pub fn items(&self) -> Option<&[Value]> {
        match self {
            Value::Array(items) | Value::Set(items) | Value::Push(items) => Some(items),
            _ => None,
        }
    }

    /// The bytes of a string of any kind (not of an error).
    pub fn bytes(&self) -> Option<&[u8]> {
        match self {
            Value::Simple(text) | Value::Bulk(text) | Value::Double(text) | Value::Verbatim(_, text) => Some(text),
            _ => None,
        }
    }

    /// The bytes as text, losing what is not UTF-8.
    pub fn text(&self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The text of an error.
    pub fn error(&self) -> Option<String> {
        match self {
            Value::Error(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        }
    }

    /// Whether this is one of the three nulls.
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null | Value::NullArray | Value::NullBulk)
    }
}

/// Bytes as one would type them into redis-cli: quoted where needed.
pub fn show(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\'' | b'\\');
    if !bytes.is_empty() && bytes.iter().all(plain) {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let mut out = String::from("\"");
    for &byte in bytes {
        match byte {
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'"' | b'\\' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            0x20..0x7f => out.push(char::from(byte)),
            _ => out.push_str(&format!("\\x{byte:02x}")),
        }
    }
    out.push('"');
    out
}

/// A command as one would type it into redis-cli.
pub fn show_command(args: &[Vec<u8>]) -> String {
    args.iter().map(|arg| show(arg)).collect::<Vec<_>>().join(" ")
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, open: &str, items: &[Value], close: &str| {
            f.write_str(open)?;
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    f.write_str(", ")?;
                }
                item.fmt(f)?;
            }
            f.write_str(close)
        };
        match self {
            Value::Simple(text) => write!(f, "+{}", String::from_utf8_lossy(text)),
            Value::Error(text) => write!(f, "-{}", String::from_utf8_lossy(text)),
            Value::Int(number) => write!(f, ":{number}"),
            Value::Bulk(text) => f.write_str(&show(text)),
            Value::NullBulk => f.write_str("(null bulk)"),
            Value::NullArray => f.write_str("(null array)"),
            Value::Null => f.write_str("(null)"),
            Value::Array(items) => list(f, "[", items, "]"),
            Value::Set(items) => list(f, "~[", items, "]"),
            Value::Push(items) => list(f, ">[", items, "]"),
            Value::Map(pairs) => {
                f.write_str("{")?;
                for (at, (key, value)) in pairs.iter().enumerate() {
                    write!(f, "{}{key}: {value}", if at > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
            Value::Double(text) => write!(f, ",{}", String::from_utf8_lossy(text)),
            Value::Bool(yes) => write!(f, "#{yes}"),
            Value::Big(text) => write!(f, "({}", String::from_utf8_lossy(text)),
            Value::Verbatim(format, text) => write!(f, "={}:{}", String::from_utf8_lossy(format), show(text)),
        }
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One connection.
pub struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
    pos: usize,
}

fn broken(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

impl Conn {
    /// Connects within `timeout`; the next bytes of a reply must come within the same time.
    pub fn open(addr: &str, timeout: Duration) -> io::Result<Conn> {
        Conn::open_with(addr, timeout, timeout)
    }

    /// Connects within `dial`; the next bytes of a reply must come within `timeout`.
    pub fn open_with(addr: &str, dial: Duration, timeout: Duration) -> io::Result<Conn> {
        let to = addr
            .to_socket_addrs()?
            .next()
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{addr}: no address")))?;
        let stream = TcpStream::connect_timeout(&to, dial)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        Ok(Conn { stream, buf: Vec::new(), pos: 0 })
    }

    /// Writes one command as an array of bulk strings.
    pub fn send<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<()> {
        let mut out = Vec::with_capacity(64);
        encode(&mut out, args);
        self.stream.write_all(&out)
    }

    /// Writes bytes as they are (inline commands, broken input).
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one command and reads its reply.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> io::Result<Value> {
        self.send(args)?;
        self.read()
    }

    /// [`Conn::call`] for a command given as text without quotes.
    pub fn text(&mut self, command: &str) -> io::Result<Value> {
        self.call(&command.split_ascii_whitespace().collect::<Vec<_>>())
    }

    /// Reads one reply. `WouldBlock` or `TimedOut` if nothing came in time; what did come is kept for the next call.
    pub fn read(&mut self) -> io::Result<Value> {
        let start = self.pos;
        match self.value(0) {
            Ok(value) => {
                if self.pos == self.buf.len() {
                    self.buf.clear();
                    self.pos = 0;
                }
                Ok(value)
            }
            Err(error) => {
                self.pos = start;
                Err(error)
            }
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut chunk = [0u8; 16 * 1024];
        let count = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection"));
        }
        self.buf.extend_from_slice(&chunk[..count]);
        Ok(())
    }

    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut from = self.pos;
        loop {
            if let Some(at) = self.buf[from..].windows(2).position(|pair| pair == b"\r\n") {
                let line = self.buf[self.pos..from + at].to_vec();
                self.pos = from + at + 2;
                return Ok(line);
            }
            from = self.buf.len().saturating_sub(1).max(self.pos);
            if self.buf.len() - self.pos > BULK_BYTES_MAX {
                return Err(broken("a line without end"));
            }
            self.more()?;
        }
    }

    fn body(&mut self, len: usize) -> io::Result<Vec<u8>> {
        while self.buf.len() < self.pos + len + 2 {
            self.more()?;
        }
        let body = self.buf[self.pos..self.pos + len].to_vec();
        if &self.buf[self.pos + len..self.pos + len + 2] != b"\r\n" {
            return Err(broken("a bulk string that does not end in CR LF"));
        }
        self.pos += len + 2;
        Ok(body)
    }

    fn list(&mut self, count: i64, depth: usize) -> io::Result<Vec<Value>> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.value(depth + 1)?);
        }
        Ok(items)
    }

    fn value(&mut self, depth: usize) -> io::Result<Value> {
        if depth > DEPTH_MAX {
            return Err(broken("a reply nested too deep"));
        }
        let line = self.line()?;
        let (&kind, rest) = line.split_first().ok_or_else(|| broken("an empty line where a reply begins"))?;
        let number = || -> io::Result<i64> {
            std::str::from_utf8(rest)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| broken(format!("not a number: {}", show(&line))))
        };
        let length = || -> io::Result<usize> {
            usize::try_from(number()?)
                .ok()
                .filter(|len| *len <= BULK_BYTES_MAX)
                .ok_or_else(|| broken(format!("bad length: {}", show(&line))))
        };
        Ok(match kind {
            b'+' => Value::Simple(rest.to_vec()),
            b'-' => Value::Error(rest.to_vec()),
            b':' => Value::Int(number()?),
            b',' => Value::Double(rest.to_vec()),
            b'(' => Value::Big(rest.to_vec()),
            b'#' => Value::Bool(match rest {
                b"t" => true,
                b"f" => false,
                _ => return Err(broken(format!("bad boolean: {}", show(&line)))),
            }),
            b'_' => Value::Null,
            b'$' if rest == b"-1" => Value::NullBulk,
            b'*' if rest == b"-1" => Value::NullArray,
            b'$' => Value::Bulk(self.body(length()?)?),
            b'!' => Value::Error(self.body(length()?)?),
            b'=' => {
                let body = self.body(length()?)?;
                if body.len() < 4 || body[3] != b':' {
                    return Err(broken("a verbatim string without its format"));
                }
                Value::Verbatim(body[..3].to_vec(), body[4..].to_vec())
            }
            b'*' => Value::Array(self.list(number()?, depth)?),
            b'~' => Value::Set(self.list(number()?, depth)?),
            b'>' => Value::Push(self.list(number()?, depth)?),
            b'%' | b'|' => {
                let mut pairs = Vec::new();
                for _ in 0..number()? {
                    pairs.push((self.value(depth + 1)?, self.value(depth + 1)?));
                }
                if kind == b'|' {
                    // Attributes decorate the reply that follows; no test looks at them.
                    return self.value(depth + 1);
                }
                Value::Map(pairs)
            }
            _ => return Err(broken(format!("not a reply: {}", show(&line)))),
        })
    }
}

/// Appends one command as an array of bulk strings.
pub fn encode<A: AsRef<[u8]>>(out: &mut Vec<u8>, args: &[A]) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        let arg = arg.as_ref();
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// What a server that sends `bytes` is understood to say.
    fn parse(bytes: &'static [u8]) -> io::Result<Value> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let addr = listener.local_addr()?.to_string();
        let server = std::thread::spawn(move || listener.accept().and_then(|(mut peer, _)| peer.write_all(bytes)));
        let value = Conn::open(&addr, Duration::from_secs(5))?.read();
        server.join().expect("the little server ends")?;
        value
    }

    #[test]
    fn nulls_of_the_two_protocols_differ() {
        assert_eq!(parse(b"$-1\r\n").unwrap(), Value::NullBulk);
        assert_eq!(parse(b"*-1\r\n").unwrap(), Value::NullArray);
        assert_eq!(parse(b"_\r\n").unwrap(), Value::Null);
    }

    #[test]
    fn nested_replies_of_every_kind() {
        let value =
            parse(b"*6\r\n%1\r\n+a\r\n:-1\r\n~1\r\n#t\r\n,1.50\r\n$2\r\n\r\n\r\n=7\r\ntxt:abc\r\n!5\r\nERR x\r\n");
        assert_eq!(value.unwrap().to_string(), r#"[{+a: :-1}, ~[#true], ,1.50, "\r\n", =txt:abc, -ERR x]"#);
    }

    #[test]
    fn broken_replies_are_errors_not_panics() {
        for bytes in [
            &b"$x\r\n"[..],
            b"?\r\n",
            b"\r\n",
            b"#x\r\n",
            b"$1\r\nabc\r\n",
            b"=2\r\nab\r\n",
            b"$-2\r\n",
            b"*2\r\n+a\r\n",
        ] {
            assert!(parse(bytes).is_err(), "{}", show(bytes));
        }
    }
}

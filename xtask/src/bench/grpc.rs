//! As much of gRPC over HTTP/2 (RFC 9113) as a loader needs that shall cost little: a closed loop of small calls, or of messages on streams that
//! stay open.
//!
//! A thread for each connection, some calls in flight on each. Headers of answers are not read: a call that went well has a message in a DATA
//! frame, one that failed has none (gRPC over HTTP/2, "Responses").

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Calls in flight on one connection.
pub const STREAMS: usize = 8;

/// A frame with a message, or a part of one.
pub const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
/// Nothing comes behind it on this stream.
pub const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a loader saw.
#[derive(Default)]
pub struct Shown {
    /// How long each request took.
    pub took: Vec<Duration>,
    /// How long it asked.
    pub span: Duration,
    /// Requests that failed.
    pub failed: usize,
    /// What one of them was told.
    pub complaint: String,
}

/// Puts a frame behind `out`.
pub fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

/// Opens a stream on which messages follow.
pub fn open(out: &mut Vec<u8>, stream: u32, head: &[u8]) {
    frame(out, HEADERS, END_HEADERS, stream, head);
}

/// A call's header block (RFC 7541): two indexed fields, the rest literal and never indexed, so it never changes.
pub fn head(path: &str, authority: &str) -> Vec<u8> {
    let mut out = vec![0x83, 0x86];
    let mut literal = |name: &[u8], value: &str| {
        out.extend_from_slice(name);
        out.push(value.len() as u8);
        out.extend_from_slice(value.as_bytes());
    };
    literal(&[0x04], path);
    literal(&[0x01], authority);
    literal(&[0x0f, 0x10], "application/grpc");
    literal(&[0x00, 2, b't', b'e'], "trailers");
    out
}

/// A number as protobuf writes it.
pub fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 128 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A field of bytes in a protobuf message.
pub fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A field with a number in a protobuf message.
pub fn number(out: &mut Vec<u8>, number: u8, value: u64) {
    out.push(number << 3);
    varint(out, value);
}

/// A message as it goes over the wire: not compressed, its length, the bytes that `fill` writes.
pub fn message(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>)) {
    out.clear();
    out.extend_from_slice(&[0; 5]);
    fill(out);
    let length = (out.len() - 5) as u32;
    out[1..5].copy_from_slice(&length.to_be_bytes());
}

/// A connection.
pub struct Connection {
    stream: TcpStream,
    buf: Vec<u8>,
    at: usize,
}

impl Connection {
    /// Connects, with windows so large that they need no care.
    pub fn open(addr: &str) -> Result<Connection, String> {
        let stream = TcpStream::connect(addr).map_err(|error| format!("{addr}: {error}"))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(10))));
        set.map_err(|error| error.to_string())?;
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut out, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0x3f, 0xff, 0xff, 0xff]);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes());
        let mut connection = Connection { stream, buf: Vec::new(), at: 0 };
        connection.write(&out)?;
        Ok(connection)
    }

    /// Sends frames.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("gRPC: {error}"))
    }

    /// Whether all that was read has been taken.
    pub fn is_empty(&self) -> bool {
        self.at == self.buf.len()
    }

    /// The bytes of a frame that [`Connection::next`] gave, before it is called again.
    pub fn body(&self, of: &std::ops::Range<usize>) -> &[u8] {
        &self.buf[of.clone()]
    }

    /// The next frame: kind, flags, stream, where its body is. What has to be said to one that concerns the connection is put into `out`.
    pub fn next(&mut self, out: &mut Vec<u8>) -> Result<(u8, u8, u32, std::ops::Range<usize>), String> {
        let (kind, flags, stream, body) = self.frame()?;
        match kind {
            SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => {
                let body = self.buf[body.clone()].to_vec();
                frame(out, PING, ACK, 0, &body);
            }
            GOAWAY => return Err("a server sent GOAWAY".into()),
            _ => {}
        }
        Ok((kind, flags, stream, body))
    }

    fn frame(&mut self) -> Result<(u8, u8, u32, std::ops::Range<usize>), String> {
        loop {
            let rest = &self.buf[self.at..];
            if rest.len() >= 9 {
                let length = u32::from_be_bytes([0, rest[0], rest[1], rest[2]]) as usize;
                if rest.len() >= 9 + length {
                    let body = self.at + 9..self.at + 9 + length;
                    let stream = u32::from_be_bytes([rest[5] & 0x7f, rest[6], rest[7], rest[8]]);
                    let found = (rest[3], rest[4], stream, body.clone());
                    self.at = body.end;
                    return Ok(found);
                }
            }
            self.buf.drain(..self.at);
            self.at = 0;
            let mut chunk = [0; 16 << 10];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err("a server closed a connection".into()),
                Ok(count) => self.buf.extend_from_slice(&chunk[..count]),
                Err(error) => return Err(format!("gRPC: {error}")),
            }
        }
    }
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Calls {
    /// `/package.Service/Method`.
    pub path: &'static str,
    /// Clients, one request in flight for each.
    pub clients: usize,
    /// How long.
    pub span: Duration,
    /// Whether each client keeps one stream open and sends message after message; else every message is a call of its own.
    pub is_stream: bool,
}

/// Plays `calls` on the servers at `addrs`, connection by connection in turn. `make(at)` gives what writes the messages of connection `at`.
pub fn play<M: FnMut(&mut Vec<u8>) + Send + 'static>(
    addrs: &[String],
    calls: &Calls,
    make: impl Fn(u64) -> M,
) -> Result<Shown, String> {
    let connections = calls.clients.div_ceil(STREAMS);
    let start = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|at| {
            let mut calls = calls.clone();
            calls.clients = STREAMS.min(calls.clients - at * STREAMS);
            let addr = addrs[at % addrs.len()].clone();
            let make = make(at as u64);
            std::thread::spawn(move || one(&addr, &calls, make))
        })
        .collect();
    let mut all = Shown::default();
    for thread in threads {
        let one = thread.join().map_err(|_| "a client of gRPC panicked")??;
        all.took.extend(one.took);
        all.failed += one.failed;
    }
    all.span = start.elapsed().min(calls.span);
    Ok(all)
}

fn one(addr: &str, calls: &Calls, mut make: impl FnMut(&mut Vec<u8>)) -> Result<Shown, String> {
    let mut connection = Connection::open(addr)?;
    let head = head(calls.path, addr);
    let mut shown = Shown::default();
    // By stream: since when it waits for an answer, and whether a message has come.
    let mut under_way: BTreeMap<u32, (Instant, bool)> = BTreeMap::new();
    let (mut stream, mut out, mut body) = (1, Vec::new(), Vec::new());
    let start = Instant::now();
    let mut free: Vec<u32> = Vec::new();
    loop {
        while under_way.len() < calls.clients && start.elapsed() < calls.span {
            message(&mut body, &mut make);
            let on = free.pop().unwrap_or_else(|| {
                open(&mut out, stream, &head);
                stream += 2;
                stream - 2
            });
            frame(&mut out, DATA, if calls.is_stream { 0 } else { END_STREAM }, on, &body);
            under_way.insert(on, (Instant::now(), false));
        }
        if under_way.is_empty() {
            shown.span = start.elapsed();
            return Ok(shown);
        }
        if !out.is_empty() {
            connection.write(&out)?;
            out.clear();
        }
        // All that has come, then all that it makes room for, in one write.
        loop {
            let (kind, flags, on, body) = connection.next(&mut out)?;
            let has_message = kind == DATA && (body.len() > 5 || flags & END_STREAM == 0);
            if has_message && let Some((_, told)) = under_way.get_mut(&on) {
                *told = true;
            }
            let last = (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 || kind == RST_STREAM;
            if calls.is_stream && last {
                return Err("a server ended a stream".into());
            }
            let is_over = if calls.is_stream { has_message } else { last };
            if is_over && let Some((asked, told)) = under_way.remove(&on) {
                shown.took.push(asked.elapsed());
                shown.failed += usize::from(!told);
                if calls.is_stream {
                    free.push(on);
                }
            }
            if connection.is_empty() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{field, message, number};

    #[test]
    fn messages_are_protobuf_behind_their_length() {
        let mut out = Vec::new();
        message(&mut out, |out| {
            field(out, 1, b"k");
            number(out, 3, 300);
        });
        assert_eq!(out, [0, 0, 0, 0, 6, 0x0a, 1, b'k', 0x18, 0xac, 0x02]);
    }
}

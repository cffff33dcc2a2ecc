//! The load in etcd's protocol (gRPC): as much of HTTP/2 (RFC 9113) as a closed loop of small calls needs, so that the client costs little.
//!
//! Eight calls in flight on each connection, a thread for each connection. Headers of answers are not read: a call that went well has a
//! message in a DATA frame, one that failed has none (gRPC over HTTP/2, "Responses").

use super::{Load, Shown};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Calls in flight on one connection.
const STREAMS: usize = 8;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, body: &[u8]) {
    out.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(body);
}

/// A call's header block (RFC 7541): two indexed fields, the rest literal and never indexed, so it never changes.
fn head(path: &str, authority: &str) -> Vec<u8> {
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

/// A field of bytes in a protobuf message; at most 16,383 of them.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    if bytes.len() >= 128 {
        out.extend_from_slice(&[bytes.len() as u8 | 0x80, (bytes.len() >> 7) as u8]);
    } else {
        out.push(bytes.len() as u8);
    }
    out.extend_from_slice(bytes);
}

struct Connection {
    stream: TcpStream,
    buf: Vec<u8>,
    at: usize,
}

impl Connection {
    fn open(addr: &str) -> Result<Connection, String> {
        let stream = TcpStream::connect(addr).map_err(|error| format!("{addr}: {error}"))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(10))));
        set.map_err(|error| error.to_string())?;
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        // No push; windows so large that they need no care.
        frame(&mut out, SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 0, 0, 4, 0x3f, 0xff, 0xff, 0xff]);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes());
        let mut connection = Connection { stream, buf: Vec::new(), at: 0 };
        connection.write(&out)?;
        Ok(connection)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("etcd: {error}"))
    }

    /// The next frame: kind, flags, stream, where its body is.
    fn next(&mut self) -> Result<(u8, u8, u32, std::ops::Range<usize>), String> {
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
                Ok(0) => return Err("etcd closed a connection".into()),
                Ok(count) => self.buf.extend_from_slice(&chunk[..count]),
                Err(error) => return Err(format!("etcd: {error}")),
            }
        }
    }
}

/// Plays `load` on the members at `addrs`, connection by connection in turn.
pub fn play(addrs: &[String], load: &Load) -> Result<Shown, String> {
    let connections = load.clients.div_ceil(STREAMS);
    let start = Instant::now();
    let threads: Vec<_> = (0..connections)
        .map(|at| {
            let mut load = load.clone();
            load.seed ^= (at as u64) << 40;
            load.clients = STREAMS.min(load.clients - at * STREAMS);
            let addr = addrs[at % addrs.len()].clone();
            std::thread::spawn(move || one(&addr, &load))
        })
        .collect();
    let mut all = Shown::default();
    for thread in threads {
        let one = thread.join().map_err(|_| "a client of etcd panicked")??;
        all.took.extend(one.took);
        all.failed += one.failed;
    }
    all.span = start.elapsed().min(load.span);
    Ok(all)
}

fn one(addr: &str, load: &Load) -> Result<Shown, String> {
    let mut connection = Connection::open(addr)?;
    let head = head(if load.write { "/etcdserverpb.KV/Put" } else { "/etcdserverpb.KV/Range" }, addr);
    let mut requests = load.requests();
    let mut shown = Shown::default();
    let mut under_way: BTreeMap<u32, (Instant, bool)> = BTreeMap::new();
    let mut stream = 1;
    let mut out = Vec::new();
    let mut body = Vec::new();
    let start = Instant::now();
    loop {
        while under_way.len() < load.clients && start.elapsed() < load.span {
            let (key, value) = requests.next();
            body.clear();
            body.extend_from_slice(&[0; 5]);
            field(&mut body, 1, key);
            if load.write {
                field(&mut body, 2, value);
            }
            let length = (body.len() - 5) as u32;
            body[1..5].copy_from_slice(&length.to_be_bytes());
            frame(&mut out, HEADERS, END_HEADERS, stream, &head);
            frame(&mut out, DATA, END_STREAM, stream, &body);
            under_way.insert(stream, (Instant::now(), false));
            stream += 2;
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
            let (kind, flags, on, body) = connection.next()?;
            match kind {
                DATA if body.len() > 5 || flags & END_STREAM == 0 => {
                    if let Some((_, told)) = under_way.get_mut(&on) {
                        *told = true;
                    }
                }
                SETTINGS if flags & ACK == 0 => frame(&mut out, SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => {
                    let body = connection.buf[body].to_vec();
                    frame(&mut out, PING, ACK, 0, &body);
                }
                GOAWAY => return Err("etcd sent GOAWAY".into()),
                _ => {}
            }
            let last = (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 || kind == RST_STREAM;
            if last && let Some((asked, told)) = under_way.remove(&on) {
                shown.took.push(asked.elapsed());
                shown.failed += usize::from(!told);
            }
            if connection.at == connection.buf.len() {
                break;
            }
        }
    }
}

//! HTTP/2 frame by frame: what clients must not send, floods, windows. Each case names its section of RFC 9113 or its CVE.

use crate::wire::{PATIENCE, Setting, Stage, Wire};
use bytes::Bytes;
use http::Request;
use proxy::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 32;

const PROTOCOL: u32 = 1;
const FLOW: u32 = 3;
const CLOSED: u32 = 5;
const SIZE: u32 = 6;
const REFUSED: u32 = 7;
const CANCEL: u32 = 8;
const COMPRESSION: u32 = 9;
const CALM: u32 = 11;

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

fn setting(name: u16, value: u32) -> Vec<u8> {
    [&name.to_be_bytes()[..], &value.to_be_bytes()].concat()
}

fn literal(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

/// A block of fields: GET or POST, http, path, authority and more.
fn block(method: &str, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut block = literal(":method", method);
    for (name, value) in [(":scheme", "http"), (":path", path), (":authority", "h")].iter().chain(more) {
        block.extend(literal(name, value));
    }
    block
}

fn get(id: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, id, &block("GET", path, &[]))
}

fn post(id: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, id, &block("POST", path, more))
}

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    id: u32,
    payload: Vec<u8>,
}

impl Frame {
    fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

struct Client(Wire);

impl Client {
    /// Shakes hands.
    async fn of(stage: &Stage) -> Client {
        let mut client = Client(stage.client());
        client.send(PREFACE).await;
        client.send(frame(SETTINGS, 0, 0, &[])).await;
        client
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // Whom we offend may have closed already.
        let _ = timeout(PATIENCE, self.0.stream.write_all(bytes.as_ref())).await.expect("in time");
    }

    /// The next frame; nothing at the end.
    async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.0.stream.read_exact(&mut head)).await.expect("in time").ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        timeout(PATIENCE, self.0.stream.read_exact(&mut payload)).await.expect("in time").ok()?;
        let id = u32::from_be_bytes(head[5..].try_into().expect("four bytes"));
        Some(Frame { kind: head[3], flags: head[4], id, payload })
    }

    /// The next frame of a kind.
    async fn next_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("it ended without a frame of kind {kind}"));
            if frame.kind == kind {
                return frame;
            }
            assert_ne!(frame.kind, GOAWAY, "{frame:?} instead of kind {kind}");
        }
    }

    /// The bodies' bytes of a stream until its end.
    async fn body(&mut self, id: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.next().await.expect("a frame");
            assert_ne!((frame.kind, frame.id), (RESET, id), "{frame:?}");
            if frame.id == id && frame.kind == DATA {
                body.extend(&frame.payload);
            }
            if frame.id == id && matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return body;
            }
        }
    }

    /// The connection is ended with this code.
    async fn ends_with(&mut self, code: u32, what: &str) {
        loop {
            let frame = self.next().await.unwrap_or_else(|| panic!("{what}: ended without GOAWAY"));
            if frame.kind == GOAWAY {
                assert_eq!(frame.code(), code, "{what}: {}", String::from_utf8_lossy(&frame.payload[8..]));
                break;
            }
        }
        while self.next().await.is_some() {}
    }
}

/// Answers every request of HTTP/1.1 with its own body, or with as many bytes as its path says.
fn echo_upstream(stage: &mut Stage) {
    async fn serve(mut stream: TcpStream) -> Option<()> {
        let mut seen = Vec::new();
        loop {
            let end = loop {
                if let Some(at) = seen.windows(4).position(|it| it == b"\r\n\r\n") {
                    break at + 4;
                }
                if stream.read_buf(&mut seen).await.ok()? == 0 {
                    return None;
                }
            };
            let head = String::from_utf8(seen.drain(..end).collect()).expect("text");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            while seen.len() < length {
                stream.read_buf(&mut seen).await.ok()?;
            }
            let mut body: Vec<u8> = seen.drain(..length).collect();
            let path = head.split(' ').nth(1).expect("a path");
            if let Ok(count) = path[1..].parse() {
                body = (0..count).map(|at: usize| (at % 251) as u8).collect();
            }
            let head = format!("HTTP/1.1 200 OK\r\nX-Path: {path}\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.ok()?;
            stream.write_all(&body).await.ok()?;
        }
    }
    let listener: TcpListener = stage.upstreams.remove(0);
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.expect("a connection").0;
            tokio::spawn(serve(stream));
        }
    });
}

#[tokio::test]
async fn what_ends_the_connection() {
    let large = vec![0; 16385];
    let open = |more: Vec<u8>| [post(1, "/wait", &[]), more].concat();
    for (what, bytes, code) in [
        ("§4.2 a frame beyond 16384", frame(DATA, 0, 1, &large), SIZE),
        ("§4.3 a block that is no HPACK", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x80]), COMPRESSION),
        ("§5.1 DATA on an idle stream", frame(DATA, 0, 1, b"x"), PROTOCOL),
        ("§5.1 RST_STREAM on an idle stream", frame(RESET, 0, 1, &[0; 4]), PROTOCOL),
        ("§5.1 WINDOW_UPDATE on an idle stream", frame(WINDOW, 0, 1, &[0, 0, 0, 1]), PROTOCOL),
        ("§5.1.1 a stream of even number", get(2, "/own"), PROTOCOL),
        ("§5.1.1 a smaller number", [get(5, "/own"), get(3, "/own")].concat(), CLOSED),
        (
            "§5.1 DATA behind END_STREAM",
            [frame(HEADERS, 5, 1, &block("POST", "/wait", &[])), frame(DATA, 0, 1, b"x")].concat(),
            CLOSED,
        ),
        (
            "§5.1 HEADERS behind END_STREAM",
            [frame(HEADERS, 5, 1, &block("POST", "/wait", &[])), frame(HEADERS, 5, 1, &literal("x", "y"))].concat(),
            CLOSED,
        ),
        ("§6.1 DATA without a stream", frame(DATA, 0, 0, b"x"), PROTOCOL),
        ("§6.1 more padding than frame", open(frame(DATA, PADDED, 1, &[2, b'x'])), PROTOCOL),
        ("§6.1 padding without its length", open(frame(DATA, PADDED, 1, &[])), SIZE),
        ("§6.2 HEADERS without a stream", get(0, "/"), PROTOCOL),
        ("§6.2 more padding than frame", frame(HEADERS, PADDED | END_HEADERS, 1, &[9, 0x82]), PROTOCOL),
        ("§6.2 priority that is cut", frame(HEADERS, WITH_PRIORITY | END_HEADERS, 1, &[0; 4]), SIZE),
        ("§6.3 PRIORITY without a stream", frame(PRIORITY, 0, 0, &[0; 5]), PROTOCOL),
        ("§6.3 PRIORITY of four bytes", frame(PRIORITY, 0, 1, &[0; 4]), SIZE),
        ("§6.4 RST_STREAM without a stream", frame(RESET, 0, 0, &[0; 4]), PROTOCOL),
        ("§6.4 RST_STREAM of three bytes", open(frame(RESET, 0, 1, &[0; 3])), SIZE),
        ("§6.5 SETTINGS on a stream", frame(SETTINGS, 0, 1, &[]), PROTOCOL),
        ("§6.5 SETTINGS of five bytes", frame(SETTINGS, 0, 0, &[0; 5]), SIZE),
        ("§6.5 an ACK that says more", frame(SETTINGS, 1, 0, &[0; 6]), SIZE),
        ("§6.5.2 ENABLE_PUSH", frame(SETTINGS, 0, 0, &setting(2, 2)), PROTOCOL),
        ("§6.5.2 INITIAL_WINDOW_SIZE", frame(SETTINGS, 0, 0, &setting(4, 1 << 31)), FLOW),
        ("§6.5.2 MAX_FRAME_SIZE below", frame(SETTINGS, 0, 0, &setting(5, 16383)), PROTOCOL),
        ("§6.5.2 MAX_FRAME_SIZE above", frame(SETTINGS, 0, 0, &setting(5, 1 << 24)), PROTOCOL),
        ("§6.6 PUSH_PROMISE", frame(PUSH, END_HEADERS, 1, &[0, 0, 0, 2]), PROTOCOL),
        ("§6.7 PING on a stream", frame(PING, 0, 1, &[0; 8]), PROTOCOL),
        ("§6.7 PING of seven bytes", frame(PING, 0, 0, &[0; 7]), SIZE),
        ("§6.8 GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), PROTOCOL),
        ("§6.9 WINDOW_UPDATE of nothing", frame(WINDOW, 0, 0, &[0; 4]), PROTOCOL),
        ("§6.9 WINDOW_UPDATE of three bytes", frame(WINDOW, 0, 0, &[0; 3]), SIZE),
        ("§6.9.1 a window beyond 2^31-1", frame(WINDOW, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), FLOW),
        (
            "§6.9.2 a stream's window beyond 2^31-1 by SETTINGS",
            [open(frame(WINDOW, 0, 1, &[0x7f, 0xff, 0, 0])), frame(SETTINGS, 0, 0, &setting(4, i32::MAX as u32))]
                .concat(),
            FLOW,
        ),
        ("§6.10 CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, &[]), PROTOCOL),
        ("§6.10 another frame between", [frame(HEADERS, 0, 1, &[0x82]), frame(PING, 0, 0, &[0; 8])].concat(), PROTOCOL),
        (
            "§6.10 CONTINUATION of another stream",
            [frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, END_HEADERS, 3, &[])].concat(),
            PROTOCOL,
        ),
    ] {
        let stage = Stage::new().await;
        let mut client = Client::of(&stage).await;
        client.send(bytes).await;
        client.ends_with(code, what).await;
    }
    let stage = Stage::new().await;
    for (what, bytes) in [
        ("§3.4 not SETTINGS first", [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()),
        ("§3.4 a preface that goes wrong", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
    ] {
        let mut client = Client(stage.client());
        client.send(bytes).await;
        client.ends_with(PROTOCOL, what).await;
    }
}

#[tokio::test]
async fn what_ends_a_stream_and_not_the_connection() {
    let long = [("content-length", "1")];
    for (what, bytes, code) in [
        ("§8.2.1 capitals", frame(HEADERS, 5, 1, &block("GET", "/", &[("X", "y")])), PROTOCOL),
        ("§8.2.2 Connection", frame(HEADERS, 5, 1, &block("GET", "/", &[("connection", "x")])), PROTOCOL),
        ("§8.3 an answer's pseudo-field", frame(HEADERS, 5, 1, &block("GET", "/", &[(":status", "1")])), PROTOCOL),
        ("§8.1.1 longer than it says", [post(1, "/wait", &long), frame(DATA, 0, 1, b"xy")].concat(), PROTOCOL),
        ("§8.1.1 shorter than it says", [post(1, "/wait", &long), frame(DATA, 1, 1, b"")].concat(), PROTOCOL),
        (
            "§8.1 trailers without END_STREAM",
            [post(1, "/wait", &[]), frame(HEADERS, END_HEADERS, 1, &literal("x", "y"))].concat(),
            PROTOCOL,
        ),
        (
            "§8.1 trailers with a pseudo-field",
            [post(1, "/wait", &[]), frame(HEADERS, 5, 1, &literal(":path", "/"))].concat(),
            PROTOCOL,
        ),
        ("§6.9 WINDOW_UPDATE of nothing", [post(1, "/wait", &[]), frame(WINDOW, 0, 1, &[0; 4])].concat(), PROTOCOL),
        (
            "§6.9.1 a window beyond 2^31-1",
            [post(1, "/wait", &[]), frame(WINDOW, 0, 1, &[0x7f, 0xff, 0xff, 0xff])].concat(),
            FLOW,
        ),
    ] {
        let stage = Stage::new().await;
        let mut client = Client::of(&stage).await;
        client.send(bytes).await;
        let reset = client.next_of(RESET).await;
        assert_eq!((reset.id, reset.code()), (1, code), "{what}");
        // What was under way when it was reset is no error (§5.1), and others go on.
        client.send([frame(WINDOW, 0, 1, &[0, 0, 0, 9]), get(3, "/own")].concat()).await;
        assert_eq!(client.body(3).await, b"ours\n", "{what}");
    }
}

#[tokio::test]
async fn floods_end_the_connection() {
    let many = |one: Vec<u8>| one.repeat(3000);
    let resets: Vec<u8> = (0..3000)
        .flat_map(|at| [get(2 * at + 1, "/wait"), frame(RESET, 0, 2 * at + 1, &[0, 0, 0, 8])].concat())
        .collect();
    let faults: Vec<u8> = (0..3000)
        .flat_map(|at| [post(2 * at + 1, "/wait", &[]), frame(WINDOW, 0, 2 * at + 1, &[0; 4])].concat())
        .collect();
    let malformed: Vec<u8> =
        (0..3000).flat_map(|at| frame(HEADERS, 5, 2 * at + 1, &block("GET", "/", &[("X", "y")]))).collect();
    for (what, bytes) in [
        ("CVE-2019-9512 PING", many(frame(PING, 0, 0, &[0; 8]))),
        ("CVE-2019-9515 SETTINGS", many(frame(SETTINGS, 0, 0, &[]))),
        ("CVE-2019-9513 PRIORITY", many(frame(PRIORITY, 0, 1, &[0; 5]))),
        ("CVE-2019-9518 empty DATA", [post(1, "/wait", &[]), many(frame(DATA, 0, 1, b""))].concat()),
        ("frames nobody knows", many(frame(0xbe, 0, 0, b"x"))),
        ("CVE-2023-44487 rapid reset", resets),
        ("CVE-2025-8671 resets that we are made to send", faults),
        ("CVE-2019-9514 malformed requests", malformed),
        ("CVE-2024-27316 CONTINUATION", [frame(HEADERS, 0, 1, &[0x82]), many(frame(CONTINUATION, 0, 1, &[]))].concat()),
        (
            "CVE-2024-27316 a large block",
            [frame(HEADERS, 0, 1, &[0x82]), frame(CONTINUATION, 0, 1, &[0; 16384]).repeat(3)].concat(),
        ),
    ] {
        let stage = Stage::new().await;
        let mut client = Client::of(&stage).await;
        client.send(bytes).await;
        client.ends_with(CALM, what).await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read() {
    let stage =
        Stage::set(Setting { limits: Limits { h2_nuisance_max: u32::MAX, ..Limits::DEFAULT }, ..Setting::default() })
            .await;
    let mut client = Client::of(&stage).await;
    // The answers fill the pipe (64 KiB) and what may wait (256 KiB and one read); then nobody takes the questions.
    let ping = frame(PING, 0, 0, &[0; 8]).repeat(1000);
    let mut taken = 0;
    while timeout(std::time::Duration::from_millis(200), client.0.stream.write_all(&ping)).await.is_ok() {
        taken += ping.len();
        assert!(taken < 1 << 20, "the answers to {taken} bytes are kept");
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_reset_ones_count_while_they_run() {
    let stage =
        Stage::set(Setting { limits: Limits { h2_streams_max: 2, ..Limits::DEFAULT }, ..Setting::default() }).await;
    let mut client = Client::of(&stage).await;
    client.send([get(1, "/wait"), get(3, "/wait"), get(5, "/wait")].concat()).await;
    let refused = client.next_of(RESET).await;
    assert_eq!((refused.id, refused.code()), (5, REFUSED));
    client.send([frame(RESET, 0, 1, &CANCEL.to_be_bytes()), frame(PING, 0, 0, &[7; 8])].concat()).await;
    client.next_of(PING).await;
    client.send(get(7, "/own")).await;
    assert_eq!(client.body(7).await, b"ours\n");
    assert_eq!(stage.heard(), ["Client 0 in 0 out 0", "Complete 200 in 0 out 5"]);
}

#[tokio::test]
async fn small_things_that_are_right() {
    let mut stage = Stage::new().await;
    echo_upstream(&mut stage);
    let mut client = Client::of(&stage).await;
    let settings = client.next().await.expect("SETTINGS first (§3.4)");
    assert_eq!((settings.kind, settings.flags, settings.id), (SETTINGS, 0, 0));
    assert_eq!(client.next_of(SETTINGS).await.flags, 1, "§6.5.3");
    client.send([frame(0xbe, 0xff, 9, b"unknown"), frame(PING, 0, 0, b"12345678")].concat()).await;
    let pong = client.next_of(PING).await;
    assert_eq!((pong.flags, &pong.payload[..]), (1, &b"12345678"[..]));
    // Padding, priority, a block in pieces, and a body in pieces with padding.
    let block = block("POST", "/echo", &[("content-length", "5")]);
    let (first, rest) = block.split_at(10);
    let padded = [&[3, 0, 0, 0, 0, 7][..], first, &[0; 3]].concat();
    client.send(frame(HEADERS, PADDED | WITH_PRIORITY, 1, &padded)).await;
    client.send(frame(CONTINUATION, END_HEADERS, 1, rest)).await;
    for piece in [frame(DATA, PADDED, 1, b"\x04ab\0\0\0\0"), frame(DATA, PADDED | END_STREAM, 1, b"\0cde")] {
        for byte in piece {
            client.send([byte]).await;
        }
    }
    assert_eq!(client.body(1).await, b"abcde");
    // A head beyond the limit is answered, and what its block put into the table stays.
    let many = (0..101).flat_map(|_| literal("x", "y")).collect::<Vec<u8>>();
    let kept = [&[0x40, 1, b'k', 1, b'v'][..], &self::block("GET", "/own", &[]), &many].concat();
    client.send(frame(HEADERS, 5, 3, &[&kept[5..], &kept[..5]].concat())).await;
    assert_eq!(client.body(3).await, b"too many fields\n");
    client.send(frame(HEADERS, 5, 5, &[self::block("GET", "/own", &[]), vec![0x80 | 62]].concat())).await;
    assert_eq!(client.body(5).await, b"ours\n");
}

#[tokio::test]
async fn windows_are_kept() {
    let mut stage = Stage::new().await;
    echo_upstream(&mut stage);
    let mut client = Client(stage.client());
    client.send(PREFACE).await;
    // §6.9.2: three bytes at first, two more later for open streams too.
    client.send(frame(SETTINGS, 0, 0, &setting(4, 3))).await;
    client.send(get(1, "/10")).await;
    assert_eq!(client.next_of(DATA).await.payload, [0, 1, 2]);
    client.send(frame(SETTINGS, 0, 0, &setting(4, 5))).await;
    assert_eq!(client.next_of(DATA).await.payload, [3, 4]);
    // A window that shrinks below zero sends nothing until it is above.
    client.send(frame(SETTINGS, 0, 0, &setting(4, 0))).await;
    client.send(frame(WINDOW, 0, 1, &[0, 0, 0, 5])).await;
    client.send(frame(PING, 0, 0, &[0; 8])).await;
    client.next_of(PING).await;
    client.send(frame(WINDOW, 0, 1, &[0, 0, 0, 4])).await;
    assert_eq!(client.next_of(DATA).await.payload, [5, 6, 7, 8]);
    client.send(frame(WINDOW, 0, 1, &[0, 0, 0, 1])).await;
    let last = client.next_of(DATA).await;
    assert_eq!((last.flags, &last.payload[..]), (END_STREAM, &[9][..]));
    // The connection's: 65535 bytes, of which ten are gone.
    client.send(frame(SETTINGS, 0, 0, &setting(4, 1 << 20))).await;
    client.send([get(3, "/60000"), get(5, "/60000")].concat()).await;
    let mut seen = 0;
    while seen < 65525 {
        seen += client.next_of(DATA).await.payload.len();
    }
    assert_eq!(seen, 65525);
    client.send(frame(WINDOW, 0, 0, &[0, 1, 0, 0])).await;
    while seen < 120_000 {
        seen += client.next_of(DATA).await.payload.len();
    }
    // What we said of ours is checked: a stream's is 256 KiB, and nobody takes it from this one.
    let stage = Stage::new().await;
    let mut client = Client::of(&stage).await;
    client.send(post(1, "/wait", &[])).await;
    let _quiet = stage.upstream().await;
    client.send(frame(DATA, 0, 1, &[0; 16384]).repeat(1000)).await;
    let reset = client.next_of(RESET).await;
    assert_eq!((reset.id, reset.code()), (1, FLOW), "§6.9.1 more than the window");
}

/// Frames of any kind, flags, stream and payload, cut anywhere, with enough that is right between them to come far.
#[tokio::test]
async fn any_frames_are_survived() {
    let mut stage = Stage::new().await;
    echo_upstream(&mut stage);
    let mut seed = 1u64;
    let mut below = move |most: u64| {
        // xorshift64*
        seed ^= seed >> 12;
        seed ^= seed << 25;
        seed ^= seed >> 27;
        (seed.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % most
    };
    for round in 0..400 {
        let (mut near, far) = tokio::io::duplex(1 << 20);
        let (proxy, shutdown) = (stage.proxy.clone(), stage.drain.subscribe());
        let served = tokio::spawn(async move { proxy.serve(far, crate::wire::peer(), shutdown).await });
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        let mut next = 1;
        for _ in 0..below(40) {
            let id = match below(4) {
                0 => 0,
                1 => next,
                _ => 1 + 2 * below(u64::from(next)) as u32,
            };
            match below(8) {
                0..3 => {
                    let (path, ended) = (["/own", "/9", "/70000"][below(3) as usize], below(2) as u8);
                    bytes.extend(frame(HEADERS, END_HEADERS | ended, next, &block("POST", path, &[])));
                    next += 2;
                }
                3 => bytes.extend(frame(DATA, below(2) as u8, id.max(1), &vec![0; below(3000) as usize])),
                4 => bytes.extend(frame(WINDOW, 0, id, &(below(1 << 17) as u32).to_be_bytes())),
                5 => bytes.extend(frame(RESET, 0, id.max(1), &(below(14) as u32).to_be_bytes())),
                6 => bytes.extend(frame(SETTINGS, 0, 0, &setting(below(7) as u16, below(1 << 20) as u32))),
                _ => {
                    let payload: Vec<u8> = (0..below(40)).map(|_| below(256) as u8).collect();
                    bytes.extend(frame(below(11) as u8, below(256) as u8, id, &payload));
                }
            }
        }
        while !bytes.is_empty() {
            let piece: Vec<u8> = bytes.drain(..bytes.len().min(1 + below(5000) as usize)).collect();
            if timeout(PATIENCE, near.write_all(&piece)).await.expect("in time").is_err() {
                break;
            }
            if below(3) == 0 {
                tokio::task::yield_now().await;
            }
        }
        drop(near);
        timeout(PATIENCE, served).await.expect("in time").unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
}

#[tokio::test]
async fn large_bodies_of_many_streams_cross_whole() {
    let mut stage = Stage::new().await;
    echo_upstream(&mut stage);
    let (send, connection) = h2::client::Builder::new()
        .initial_window_size(70_000)
        .handshake::<_, Bytes>(stage.client().stream)
        .await
        .expect("a handshake");
    tokio::spawn(connection);
    let mut streams = Vec::new();
    for at in 0..20usize {
        let mut send = send.clone().ready().await.expect("ready");
        streams.push(tokio::spawn(async move {
            let upload: Bytes = (0..300_000).map(|byte| ((byte + at) % 251) as u8).collect();
            let request = Request::post("http://h/echo").header("content-length", upload.len()).body(());
            let (answer, mut up) = send.send_request(request.expect("a request"), false).expect("sent");
            up.send_data(upload.clone(), true).expect("sent");
            let mut recv = answer.await.expect("an answer").into_body();
            let mut seen = Vec::new();
            while let Some(data) = recv.data().await {
                let data = data.expect("data");
                recv.flow_control().release_capacity(data.len()).expect("released");
                seen.extend_from_slice(&data);
            }
            assert!(seen == upload, "stream {at}: {} bytes", seen.len());
        }));
    }
    for stream in streams {
        timeout(PATIENCE, stream).await.expect("in time").expect("no panic");
    }
}

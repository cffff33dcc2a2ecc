//! NATS JetStream: publishers that wait for each message's acknowledgement, with a window; pull consumers that ask for a thousand messages
//! at a time, two requests under way, and acknowledge each thousand at once (`ack_policy` all). File storage: 2.9 writes a message without
//! an fsync and flushes every two minutes, so an acknowledged message may be lost with the machine.

use super::load::{Deal, Publisher, Shape, Speech, Subscriber, Topic, body};
use super::wire::{Wire, number};
use serde_json::{Value as Json, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Messages of one pull.
const PULL: usize = 1000;
/// Pulls under way for each stream.
const PULLS: usize = 2;
/// How long the servers may take to find a leader.
const LEADERS: Duration = Duration::from_secs(30);

/// Connections so far.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Servers with JetStream.
pub struct Nats {
    /// Where clients go, and each server's name.
    pub servers: Vec<(String, String)>,
    /// Copies of a stream.
    pub replicas: usize,
}

/// One connection.
struct Conn {
    wire: Wire,
    /// Where answers to it go: subjects are everybody's, so each connection has its own.
    inbox: String,
}

/// A message that came.
struct Message {
    sid: usize,
    reply: Vec<u8>,
    /// Bytes of its headers and of all of it.
    lens: (usize, usize),
}

impl Conn {
    fn open(addr: &str) -> Result<Conn, String> {
        let mut wire = Wire::open(addr)?;
        if !wire.line()?.starts_with(b"INFO ") {
            return Err(format!("{addr}: no NATS server"));
        }
        let options = json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "rust", "version": "0", "protocol": 1});
        wire.write(format!("CONNECT {options}\r\nPING\r\n").as_bytes())?;
        loop {
            match wire.line()? {
                b"PONG" => {
                    let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
                    return Ok(Conn { wire, inbox: format!("_INBOX.{}.{number}", std::process::id()) });
                }
                line if line.starts_with(b"-ERR") => {
                    return Err(format!("{addr}: {}", String::from_utf8_lossy(line)));
                }
                _ => {}
            }
        }
    }

    /// The head of the next message; its bytes are next on the wire.
    fn message(&mut self) -> Result<Message, String> {
        loop {
            let line = self.wire.line()?;
            let mut words = line.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
            let (kind, mut found, mut count) = (words.next().unwrap_or_default(), [&b""[..]; 5], 0);
            for (place, word) in found.iter_mut().zip(words) {
                *place = word;
                count += 1;
            }
            let words = &found[..count];
            let lens = match (kind, words) {
                (b"MSG", [_, _, .., len]) => (0, number(len)? as usize),
                (b"HMSG", [_, _, .., headers, len]) => (number(headers)? as usize, number(len)? as usize),
                (b"PING", _) => {
                    self.wire.write(b"PONG\r\n")?;
                    continue;
                }
                (b"-ERR", _) => return Err(format!("NATS: {}", String::from_utf8_lossy(line))),
                _ => continue,
            };
            let sizes = if kind == b"MSG" { 1 } else { 2 };
            let reply = if words.len() == 3 + sizes { words[2].to_vec() } else { Vec::new() };
            return Ok(Message { sid: number(words[1])? as usize, reply, lens });
        }
    }

    /// What a message holds behind its headers.
    fn body(&mut self, message: &Message) -> Result<&[u8], String> {
        let (headers, len) = message.lens;
        self.wire.take(len + 2).map(|bytes| &bytes[headers..len])
    }

    /// A request to JetStream.
    fn call(&mut self, subject: &str, request: &Json) -> Result<Json, String> {
        let text = request.to_string();
        let inbox = format!("{}.call", self.inbox);
        let lines = format!("SUB {inbox} 9\r\nUNSUB 9 1\r\nPUB {subject} {inbox} {}\r\n{text}\r\n", text.len());
        self.wire.write(lines.as_bytes())?;
        let message = self.message()?;
        if message.lens.0 > 0 {
            self.body(&message)?;
            return Err(format!("NATS: nobody answers {subject}"));
        }
        let answer: Json = serde_json::from_slice(self.body(&message)?).map_err(|error| error.to_string())?;
        match answer.get("error") {
            Some(why) => Err(format!("NATS: {subject}: {why}")),
            None => Ok(answer),
        }
    }
}

fn stream(topic: &Topic, partition: usize) -> String {
    format!("{}-{partition}", topic.name)
}

fn subject(topic: &Topic, partition: usize) -> String {
    format!("{}.{partition}", topic.name)
}

impl Nats {
    /// A connection to the server that leads the stream.
    fn dial(&self, topic: &Topic, partition: usize) -> Result<Conn, String> {
        let mut conn = Conn::open(&self.servers[0].1)?;
        if self.replicas == 1 {
            return Ok(conn);
        }
        let start = Instant::now();
        loop {
            let info = conn.call(&format!("$JS.API.STREAM.INFO.{}", stream(topic, partition)), &json!({}))?;
            let leader = info.pointer("/cluster/leader").and_then(Json::as_str).unwrap_or_default();
            if let Some((_, addr)) = self.servers.iter().find(|(name, _)| name == leader) {
                return Conn::open(addr);
            }
            if start.elapsed() > LEADERS {
                return Err(format!("NATS: stream {} has no leader", stream(topic, partition)));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Speech for Nats {
    fn batched(&self, _: &Topic) -> Shape {
        Shape { publishers: 4, chunk: 128, window: 1024, subscribers: 1 }
    }

    fn create(&self, topic: &Topic) -> Result<(), String> {
        let mut conn = Conn::open(&self.servers[0].1)?;
        for partition in 0..topic.partitions {
            let name = stream(topic, partition);
            let config = json!({"name": name, "subjects": [subject(topic, partition)], "storage": "file",
                "retention": "limits", "num_replicas": self.replicas, "max_consumers": -1, "max_msgs": -1, "max_bytes": -1});
            let start = Instant::now();
            loop {
                match conn.call(&format!("$JS.API.STREAM.CREATE.{name}"), &config) {
                    Ok(_) => break,
                    // The servers may not have found each other yet.
                    Err(why) if start.elapsed() > LEADERS => return Err(why),
                    Err(_) => std::thread::sleep(Duration::from_millis(200)),
                }
            }
        }
        Ok(())
    }

    fn remove(&self, topic: &Topic) -> Result<(), String> {
        let mut conn = Conn::open(&self.servers[0].1)?;
        for partition in 0..topic.partitions {
            conn.call(&format!("$JS.API.STREAM.DELETE.{}", stream(topic, partition)), &json!({}))?;
        }
        Ok(())
    }

    fn publisher(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Publisher>, String> {
        let mut conn = self.dial(topic, partitions[0])?;
        conn.wire.write(format!("SUB {} 1\r\n", conn.inbox).as_bytes())?;
        let head = |partition: &usize| {
            format!("PUB {} {} {}\r\n", subject(topic, *partition), conn.inbox, topic.bytes).into_bytes()
        };
        let heads = partitions.iter().map(head).collect();
        Ok(Box::new(Sender { conn, heads, deal: Deal::new(partitions), body: body(topic.bytes), out: Vec::new() }))
    }

    fn subscriber(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Subscriber>, String> {
        let mut conn = self.dial(topic, partitions[0])?;
        let mut pulled = Vec::new();
        for partition in partitions {
            let stream = stream(topic, partition);
            let request = json!({"stream_name": stream, "config": {"durable_name": "bench", "ack_policy": "all",
                "deliver_policy": "all", "replay_policy": "instant", "max_ack_pending": -1, "num_replicas": self.replicas}});
            conn.call(&format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.bench"), &request)?;
            // Subscription numbers begin behind those of calls.
            pulled.push(Pulled { subject: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.bench"), left: 0 });
        }
        let mut receiver = Receiver { conn, pulled };
        for at in 0..receiver.pulled.len() {
            let sid = at + FIRST_SID;
            receiver.conn.wire.write(format!("SUB {}.{sid} {sid}\r\n", receiver.conn.inbox).as_bytes())?;
            for _ in 0..PULLS {
                receiver.pull(at)?;
            }
        }
        Ok(Box::new(receiver))
    }
}

const FIRST_SID: usize = 10;

struct Sender {
    conn: Conn,
    heads: Vec<Vec<u8>>,
    deal: Deal,
    body: Vec<u8>,
    out: Vec<u8>,
}

impl Publisher for Sender {
    fn body(&mut self) -> &mut [u8] {
        &mut self.body
    }

    fn send(&mut self, count: usize) -> Result<(), String> {
        self.out.clear();
        for _ in 0..count {
            self.out.extend_from_slice(&self.heads[self.deal.next(1)]);
            self.out.extend_from_slice(&self.body);
            self.out.extend_from_slice(b"\r\n");
        }
        self.conn.wire.write(&self.out)
    }

    fn answered(&mut self) -> Result<usize, String> {
        let mut count = 0;
        // Whatever has come is taken at once; no acknowledgement is shorter.
        while count == 0 || self.conn.wire.waiting() >= 50 {
            let message = self.conn.message()?;
            let said = self.conn.body(&message)?;
            if !said.starts_with(b"{\"stream\"") {
                return Err(format!("NATS: {}", String::from_utf8_lossy(said)));
            }
            count += 1;
        }
        Ok(count)
    }

    fn deal(&self) -> &Deal {
        &self.deal
    }
}

/// A stream that is pulled from.
struct Pulled {
    subject: String,
    /// Messages that may still come of what was asked for.
    left: usize,
}

struct Receiver {
    conn: Conn,
    /// By subscription.
    pulled: Vec<Pulled>,
}

impl Receiver {
    fn pull(&mut self, at: usize) -> Result<(), String> {
        let request = json!({"batch": PULL, "expires": 25_000_000_000_u64}).to_string();
        let pulled = &mut self.pulled[at];
        pulled.left += PULL;
        let (subject, inbox, sid) = (&pulled.subject, &self.conn.inbox, at + FIRST_SID);
        let line = format!("PUB {subject} {inbox}.{sid} {}\r\n{request}\r\n", request.len());
        self.conn.wire.write(line.as_bytes())
    }
}

impl Subscriber for Receiver {
    fn next(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let message = self.conn.message()?;
        let body = self.conn.body(&message)?;
        if message.lens.0 > 0 {
            return Err("NATS: a pull came to nothing".into());
        }
        each(body);
        let at =
            message.sid.checked_sub(FIRST_SID).filter(|at| *at < self.pulled.len()).ok_or("NATS: whose is that?")?;
        let pulled = &mut self.pulled[at];
        pulled.left -= 1;
        if pulled.left == (PULLS - 1) * PULL {
            let reply = String::from_utf8_lossy(&message.reply);
            self.conn.wire.write(format!("PUB {reply} 4\r\n+ACK\r\n").as_bytes())?;
            self.pull(at)?;
        }
        Ok(())
    }
}

//! Redis streams: XADD in pipelines, XREAD of a thousand entries at a time without a group (a cheaper contract than consumer groups have:
//! nothing is acknowledged).

use super::load::{Deal, Publisher, Shape, Speech, Subscriber, Topic, body};
use super::wire::{Wire, number};
use crate::resp::encode;

/// Entries of one XREAD from each stream.
const COUNT: &str = "1000";

/// A Redis.
pub struct Streams {
    /// Where it is.
    pub addr: String,
}

fn key(topic: &Topic, partition: usize) -> String {
    format!("{}:{partition}", topic.name)
}

impl Speech for Streams {
    /// Redis reads 16 KiB of each connection before it syncs, so that many connections share a sync; more would only stand in its buffers.
    fn batched(&self, topic: &Topic) -> Shape {
        let (publishers, chunk) = if topic.bytes < 512 { (16, 64) } else { (50, 16) };
        Shape { publishers, chunk, window: 4 * chunk, subscribers: 1 }
    }

    fn create(&self, _: &Topic) -> Result<(), String> {
        Ok(())
    }

    fn remove(&self, topic: &Topic) -> Result<(), String> {
        let mut wire = Wire::open(&self.addr)?;
        let mut out = Vec::new();
        let keys: Vec<String> = (0..topic.partitions).map(|partition| key(topic, partition)).collect();
        let words: Vec<&str> = ["UNLINK"].into_iter().chain(keys.iter().map(String::as_str)).collect();
        encode(&mut out, &words);
        wire.write(&out)?;
        head(&mut wire).map(|_| ())
    }

    fn publisher(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Publisher>, String> {
        let keys = partitions.iter().map(|partition| key(topic, *partition)).collect();
        let wire = Wire::open(&self.addr)?;
        Ok(Box::new(Adder { wire, keys, deal: Deal::new(partitions), body: body(topic.bytes), out: Vec::new() }))
    }

    fn subscriber(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Subscriber>, String> {
        let next = partitions.iter().map(|partition| (key(topic, *partition), "0".to_owned())).collect();
        let mut reader = Reader { wire: Wire::open(&self.addr)?, next };
        reader.ask()?;
        Ok(Box::new(reader))
    }
}

/// The head of a reply: its first byte and the number behind it; an error reply is an error.
fn head(wire: &mut Wire) -> Result<(u8, i64), String> {
    let line = wire.line()?;
    match line.split_first() {
        Some((b'-', text)) => Err(format!("Redis: {}", String::from_utf8_lossy(text))),
        Some((kind, rest)) => Ok((*kind, number(rest)?)),
        None => Err("Redis: an empty line".into()),
    }
}

/// A bulk string.
fn bulk(wire: &mut Wire) -> Result<&[u8], String> {
    match head(wire)? {
        (b'$', len) if len >= 0 => wire.take(len as usize + 2).map(|text| &text[..text.len() - 2]),
        _ => Err("Redis: no string where one belongs".into()),
    }
}

struct Adder {
    wire: Wire,
    keys: Vec<String>,
    deal: Deal,
    body: Vec<u8>,
    out: Vec<u8>,
}

impl Publisher for Adder {
    fn body(&mut self) -> &mut [u8] {
        &mut self.body
    }

    fn send(&mut self, count: usize) -> Result<(), String> {
        self.out.clear();
        for _ in 0..count {
            let key = &self.keys[self.deal.next(1)];
            encode(&mut self.out, &[b"XADD", key.as_bytes(), b"*", b"f", &self.body]);
        }
        self.wire.write(&self.out)
    }

    fn answered(&mut self) -> Result<usize, String> {
        let mut count = 0;
        // Whatever has come is taken at once; no reply is shorter.
        while count == 0 || self.wire.waiting() >= 22 {
            bulk(&mut self.wire)?;
            count += 1;
        }
        Ok(count)
    }

    fn deal(&self) -> &Deal {
        &self.deal
    }
}

struct Reader {
    wire: Wire,
    /// Streams, and the id that each was read up to.
    next: Vec<(String, String)>,
}

impl Reader {
    fn ask(&mut self) -> Result<(), String> {
        let keys = self.next.iter().map(|(key, _)| key.as_str());
        let ids = self.next.iter().map(|(_, id)| id.as_str());
        let words: Vec<&str> =
            ["XREAD", "COUNT", COUNT, "BLOCK", "20000", "STREAMS"].into_iter().chain(keys).chain(ids).collect();
        let mut out = Vec::new();
        encode(&mut out, &words);
        self.wire.write(&out)
    }
}

impl Subscriber for Reader {
    fn next(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let (_, streams) = head(&mut self.wire)?;
        for _ in 0..streams.max(0) {
            head(&mut self.wire)?;
            let key = bulk(&mut self.wire)?;
            let at = self.next.iter().position(|(one, _)| one.as_bytes() == key);
            let at = at.ok_or("Redis: a stream that was not asked for")?;
            let (_, entries) = head(&mut self.wire)?;
            for entry in 0..entries {
                head(&mut self.wire)?;
                let id = bulk(&mut self.wire)?;
                if entry + 1 == entries {
                    self.next[at].1 = String::from_utf8_lossy(id).into_owned();
                }
                head(&mut self.wire)?;
                bulk(&mut self.wire)?;
                each(bulk(&mut self.wire)?);
            }
        }
        self.ask()
    }
}

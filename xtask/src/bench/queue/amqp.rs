//! RabbitMQ's protocol, AMQP 0-9-1, as far as quorum queues need it: persistent messages with publisher confirms; consumers with a
//! prefetch of 1,000 that acknowledge 200 at once.

use super::load::{Deal, Publisher, Shape, Speech, Subscriber, Topic, body};
use super::wire::Wire;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;

const START: (u16, u16) = (10, 10);
const START_OK: (u16, u16) = (10, 11);
const TUNE: (u16, u16) = (10, 30);
const TUNE_OK: (u16, u16) = (10, 31);
const OPEN: (u16, u16) = (10, 40);
const OPEN_OK: (u16, u16) = (10, 41);
const CLOSE: (u16, u16) = (10, 50);
const CHANNEL_OPEN: (u16, u16) = (20, 10);
const CHANNEL_OPEN_OK: (u16, u16) = (20, 11);
const CHANNEL_CLOSE: (u16, u16) = (20, 40);
const DECLARE: (u16, u16) = (50, 10);
const DECLARE_OK: (u16, u16) = (50, 11);
const DELETE: (u16, u16) = (50, 40);
const DELETE_OK: (u16, u16) = (50, 41);
const QOS: (u16, u16) = (60, 10);
const QOS_OK: (u16, u16) = (60, 11);
const CONSUME: (u16, u16) = (60, 20);
const CONSUME_OK: (u16, u16) = (60, 21);
const PUBLISH: (u16, u16) = (60, 40);
const DELIVER: (u16, u16) = (60, 60);
const ACK: (u16, u16) = (60, 80);
const CONFIRM_SELECT: (u16, u16) = (85, 10);
const CONFIRM_SELECT_OK: (u16, u16) = (85, 11);

/// Messages that a consumer may hold without having acknowledged them.
const PREFETCH: u16 = 1000;
/// Messages that one acknowledgement is for.
const ACK_EACH: u64 = 200;
/// Bytes of a frame, as RabbitMQ proposes them.
const FRAME_BYTES: u32 = 131_072;

/// Arguments of a method.
#[derive(Default)]
struct Args(Vec<u8>);

impl Args {
    fn bytes(mut self, bytes: &[u8]) -> Args {
        self.0.extend_from_slice(bytes);
        self
    }

    fn short(self, text: &str) -> Args {
        self.bytes(&[text.len() as u8]).bytes(text.as_bytes())
    }

    fn long(self, text: &[u8]) -> Args {
        self.bytes(&(text.len() as u32).to_be_bytes()).bytes(text)
    }
}

fn put_frame(out: &mut Vec<u8>, kind: u8, channel: u16, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(len as u32).to_be_bytes());
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.push(FRAME_END);
}

fn put_method(out: &mut Vec<u8>, channel: u16, (class, method): (u16, u16), args: &[u8]) {
    put_frame(out, METHOD, channel, &[&class.to_be_bytes(), &method.to_be_bytes(), args]);
}

/// The head of a persistent message.
fn put_header(out: &mut Vec<u8>, bytes: usize) {
    let mut header = vec![0, 60, 0, 0];
    header.extend_from_slice(&(bytes as u64).to_be_bytes());
    // Of the properties the delivery mode alone: 2.
    header.extend_from_slice(&[0x10, 0, 2]);
    put_frame(out, HEADER, 1, &[&header]);
}

/// One connection with one channel.
struct Conn {
    wire: Wire,
}

/// What a frame is.
enum Frame<'a> {
    Method((u16, u16), &'a [u8]),
    Body(&'a [u8]),
    Other,
}

impl Conn {
    fn open(addr: &str) -> Result<Conn, String> {
        let mut conn = Conn { wire: Wire::open(addr)? };
        conn.wire.write(b"AMQP\x00\x00\x09\x01")?;
        conn.await_method(START)?;
        // No properties.
        let ok = Args::default().long(b"").short("PLAIN").long(b"\0guest\0guest").short("en_US");
        conn.send(0, START_OK, &ok)?;
        conn.await_method(TUNE)?;
        let tuned = [&2047u16.to_be_bytes()[..], &FRAME_BYTES.to_be_bytes(), &0u16.to_be_bytes()].concat();
        conn.send(0, TUNE_OK, &Args(tuned))?;
        conn.send(0, OPEN, &Args::default().short("/").bytes(&[0, 0]))?;
        conn.await_method(OPEN_OK)?;
        conn.call(CHANNEL_OPEN, &Args::default().short(""), CHANNEL_OPEN_OK)?;
        Ok(conn)
    }

    fn send(&mut self, channel: u16, method: (u16, u16), args: &Args) -> Result<(), String> {
        let mut out = Vec::new();
        put_method(&mut out, channel, method, &args.0);
        self.wire.write(&out)
    }

    fn call(&mut self, method: (u16, u16), args: &Args, answer: (u16, u16)) -> Result<(), String> {
        self.send(1, method, args)?;
        self.await_method(answer)
    }

    /// The next frame; a server that closes is an error.
    fn frame(&mut self) -> Result<Frame<'_>, String> {
        let head: [u8; 7] = self.wire.take(7)?.try_into().map_err(|_| "AMQP: no frame")?;
        let [kind, _, _, len @ ..] = head;
        let frame = self.wire.take(u32::from_be_bytes(len) as usize + 1)?;
        let Some((&FRAME_END, payload)) = frame.split_last() else {
            return Err("AMQP: a frame without its end".into());
        };
        match (kind, payload) {
            (METHOD, [a, b, c, d, args @ ..]) => {
                let method = (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]));
                if matches!(method, CLOSE | CHANNEL_CLOSE) {
                    return Err(format!(
                        "AMQP: closed: {}",
                        String::from_utf8_lossy(args.get(3..).unwrap_or_default())
                    ));
                }
                Ok(Frame::Method(method, args))
            }
            (BODY, body) => Ok(Frame::Body(body)),
            _ => Ok(Frame::Other),
        }
    }

    fn await_method(&mut self, wanted: (u16, u16)) -> Result<(), String> {
        loop {
            if let Frame::Method(method, _) = self.frame()?
                && method == wanted
            {
                return Ok(());
            }
        }
    }
}

/// Nodes of RabbitMQ.
pub struct Amqp {
    /// Where clients go: the node where the queues' leaders are made.
    pub addr: String,
}

fn queue(topic: &Topic, partition: usize) -> String {
    format!("{}-{partition}", topic.name)
}

impl Amqp {
    /// Whether clients can come in.
    pub fn ready(addr: &str) -> bool {
        Conn::open(addr).is_ok()
    }
}

impl Speech for Amqp {
    fn batched(&self, _: &Topic) -> Shape {
        Shape { publishers: 2, chunk: 128, window: 1024, subscribers: 1 }
    }

    fn create(&self, topic: &Topic) -> Result<(), String> {
        let mut conn = Conn::open(&self.addr)?;
        let kind = Args::default().short("x-queue-type").bytes(b"S").long(b"quorum");
        for partition in 0..topic.partitions {
            // Durable.
            let args = Args::default().bytes(&[0, 0]).short(&queue(topic, partition)).bytes(&[2]).long(&kind.0);
            conn.call(DECLARE, &args, DECLARE_OK)?;
        }
        Ok(())
    }

    fn remove(&self, topic: &Topic) -> Result<(), String> {
        let mut conn = Conn::open(&self.addr)?;
        for partition in 0..topic.partitions {
            let args = Args::default().bytes(&[0, 0]).short(&queue(topic, partition)).bytes(&[0]);
            conn.call(DELETE, &args, DELETE_OK)?;
        }
        Ok(())
    }

    fn publisher(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Publisher>, String> {
        let mut conn = Conn::open(&self.addr)?;
        conn.call(CONFIRM_SELECT, &Args(vec![0]), CONFIRM_SELECT_OK)?;
        let publish = |partition: &usize| {
            // The default exchange, and the queue's name as the key.
            let args = Args::default().bytes(&[0, 0]).short("").short(&queue(topic, *partition)).bytes(&[0]);
            let mut out = Vec::new();
            put_method(&mut out, 1, PUBLISH, &args.0);
            put_header(&mut out, topic.bytes);
            out
        };
        let heads = partitions.iter().map(publish).collect();
        Ok(Box::new(Sender {
            conn,
            heads,
            deal: Deal::new(partitions),
            body: body(topic.bytes),
            out: Vec::new(),
            confirmed: Confirmed::default(),
        }))
    }

    fn subscriber(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Subscriber>, String> {
        let mut conn = Conn::open(&self.addr)?;
        let qos = Args::default().bytes(&0u32.to_be_bytes()).bytes(&PREFETCH.to_be_bytes()).bytes(&[0]);
        conn.call(QOS, &qos, QOS_OK)?;
        // All are asked before the first delivery is read: without an answer from the broker to wait for.
        for partition in partitions {
            const NO_WAIT: u8 = 8;
            let args = Args::default().bytes(&[0, 0]).short(&queue(topic, partition)).short(&partition.to_string());
            conn.send(1, CONSUME, &args.bytes(&[NO_WAIT]).long(b""))?;
        }
        Ok(Box::new(Receiver { conn, last: 0, acked: 0 }))
    }
}

/// Which messages were confirmed: confirms name one, or all up to one, and those of several queues come out of order.
#[derive(Default)]
struct Confirmed {
    /// All up to this one.
    upto: u64,
    /// Beyond it, singly.
    beyond: std::collections::BTreeSet<u64>,
}

impl Confirmed {
    /// How many messages this confirm is for.
    fn add(&mut self, tag: u64, multiple: bool) -> usize {
        let mut count = 0;
        if multiple {
            let new = tag.saturating_sub(self.upto);
            let known = self.beyond.range(..=tag).count() as u64;
            self.beyond = self.beyond.split_off(&(tag + 1));
            self.upto = self.upto.max(tag);
            count = (new - known) as usize;
        } else if tag > self.upto && self.beyond.insert(tag) {
            count = 1;
        }
        while self.beyond.remove(&(self.upto + 1)) {
            self.upto += 1;
        }
        count
    }
}

struct Sender {
    conn: Conn,
    /// Method and header of a message, in the order of the deal.
    heads: Vec<Vec<u8>>,
    deal: Deal,
    body: Vec<u8>,
    out: Vec<u8>,
    confirmed: Confirmed,
}

impl Publisher for Sender {
    fn body(&mut self) -> &mut [u8] {
        &mut self.body
    }

    fn send(&mut self, count: usize) -> Result<(), String> {
        self.out.clear();
        for _ in 0..count {
            self.out.extend_from_slice(&self.heads[self.deal.next(1)]);
            put_frame(&mut self.out, BODY, 1, &[&self.body]);
        }
        self.conn.wire.write(&self.out)
    }

    fn answered(&mut self) -> Result<usize, String> {
        let mut count = 0;
        // Whatever has come is taken at once; each confirm is a frame of 21 bytes.
        while count == 0 || self.conn.wire.waiting() >= 21 {
            match self.conn.frame()? {
                Frame::Method(ACK, [tag @ .., multiple]) => {
                    let tag = u64::from_be_bytes(tag.try_into().map_err(|_| "AMQP: a confirm without its number")?);
                    count += self.confirmed.add(tag, multiple & 1 == 1);
                }
                _ => return Err("AMQP: something that is no confirm".into()),
            }
        }
        Ok(count)
    }

    fn deal(&self) -> &Deal {
        &self.deal
    }
}

/// A consumer of one or more queues on one channel.
struct Receiver {
    conn: Conn,
    last: u64,
    acked: u64,
}

impl Subscriber for Receiver {
    fn next(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        loop {
            match self.conn.frame()? {
                Frame::Method(DELIVER, args) => {
                    let tag = args.split_first().and_then(|(len, rest)| rest.get(usize::from(*len)..)?.first_chunk());
                    let tag = u64::from_be_bytes(*tag.ok_or("AMQP: a delivery without its number")?);
                    self.last = tag;
                }
                Frame::Body(body) => {
                    each(body);
                    break;
                }
                Frame::Method(CONSUME_OK, _) | Frame::Other => {}
                Frame::Method(..) => return Err("AMQP: something that is no delivery".into()),
            }
        }
        if self.last - self.acked >= ACK_EACH {
            self.acked = self.last;
            self.conn.send(1, ACK, &Args::default().bytes(&self.last.to_be_bytes()).bytes(&[1]))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{ACK, BODY, Confirmed, PUBLISH, put_frame, put_header, put_method};

    #[test]
    fn confirms_are_counted_once() {
        let mut confirmed = Confirmed::default();
        let told = [(2, false), (1, false), (5, true), (5, false), (9, false), (8, false), (10, true), (12, false)];
        let counted = told.map(|(tag, multiple)| confirmed.add(tag, multiple));
        assert_eq!(counted, [1, 1, 3, 0, 1, 1, 3, 1]);
        assert_eq!((confirmed.upto, confirmed.beyond.len()), (10, 1));
    }

    /// The frames of the specification's section 4.2.
    #[test]
    fn frames_have_their_form() {
        let mut out = Vec::new();
        put_method(&mut out, 1, ACK, &[0, 0, 0, 0, 0, 0, 0, 7, 1]);
        assert_eq!(out, [1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 7, 1, 0xce]);
        out.clear();
        put_header(&mut out, 100);
        assert_eq!(out, [2, 0, 1, 0, 0, 0, 15, 0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100, 0x10, 0, 2, 0xce]);
        out.clear();
        put_frame(&mut out, BODY, 1, &[b"hi"]);
        assert_eq!(out, [3, 0, 1, 0, 0, 0, 2, b'h', b'i', 0xce]);
        assert_eq!(PUBLISH, (60, 40));
    }
}

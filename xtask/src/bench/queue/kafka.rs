//! A Kafka client, small and quick: ApiVersions 0, Metadata 4, CreateTopics 2, DeleteTopics 1, Produce 7, Fetch 11 (none of them flexible,
//! so all headers are the old ones) and record batches of version 2. Publishers wait for `acks=all`, with at most five requests under way on a
//! connection, as Kafka's own producers do; consumers ask for what follows before they read what came, as theirs do.

use super::load::{Deal, Publisher, Shape, Speech, Subscriber, Topic, body};
use super::wire::Wire;
use crate::kafka::{In, Out, batches, good, put_varint};
use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PRODUCE: (i16, i16) = (0, 7);
const FETCH: (i16, i16) = (1, 11);
const METADATA: (i16, i16) = (3, 4);
const API_VERSIONS: (i16, i16) = (18, 0);
const CREATE_TOPICS: (i16, i16) = (19, 2);
const DELETE_TOPICS: (i16, i16) = (20, 1);

/// Bytes of messages in a batch, roughly: half of librdkafka's `batch.size`.
const BATCH_BYTES: usize = 512 << 10;
/// `max.in.flight.requests.per.connection`.
const REQUESTS: usize = 5;
/// `fetch.max.bytes`.
const FETCH_BYTES: i32 = 16 << 20;
/// `max.partition.fetch.bytes`.
const PARTITION_FETCH_BYTES: i32 = 4 << 20;
/// How long a topic may take until all its partitions have a leader.
const LEADERS: Duration = Duration::from_secs(15);

/// Bytes of a number as a varint.
fn varint_len(number: i64) -> usize {
    let bits = 64 - (((number << 1) ^ (number >> 63)) as u64 | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// A record batch of `count` equal records without keys, uncompressed, of no producer.
fn put_batch(out: &mut Vec<u8>, count: usize, body: &[u8], stamp: i64) {
    let start = out.len();
    let last = count as i32 - 1;
    out.extend_from_slice(&[0; 12]);
    // Leader epoch unknown, magic 2, the checksum's place, attributes.
    out.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&stamp.to_be_bytes());
    out.extend_from_slice(&stamp.to_be_bytes());
    // Producer -1, its epoch and the first sequence likewise.
    out.extend_from_slice(&[0xff; 14]);
    out.extend_from_slice(&(count as i32).to_be_bytes());
    let value_len = body.len() as i64;
    for offset in 0..count as i64 {
        let len = 4 + varint_len(offset) + varint_len(value_len) + body.len();
        put_varint(out, len as i64);
        // Attributes, the delta of the timestamp.
        out.extend_from_slice(&[0, 0]);
        put_varint(out, offset);
        // No key.
        out.push(1);
        put_varint(out, value_len);
        out.extend_from_slice(body);
        // No headers.
        out.push(0);
    }
    let len = (out.len() - start - 12) as i32;
    out[start + 8..start + 12].copy_from_slice(&len.to_be_bytes());
    let sum = crc32c::crc32c(&out[start + 21..]);
    out[start + 17..start + 21].copy_from_slice(&sum.to_be_bytes());
}

/// One connection and the numbers of its requests.
struct Conn {
    wire: Wire,
    correlation: i32,
}

impl Conn {
    fn open(addr: &str) -> Result<Conn, String> {
        Ok(Conn { wire: Wire::open(addr)?, correlation: 0 })
    }

    fn request(&mut self, api: (i16, i16)) -> Out {
        self.correlation += 1;
        Out::request(api, self.correlation, "bench")
    }

    /// The next answer's body, and which request it is for.
    fn answer(&mut self) -> Result<(i32, In<'_>), String> {
        let len = In(self.wire.take(4)?).i32()?;
        let mut answer = In(self.wire.take(len.max(0) as usize)?);
        Ok((answer.i32()?, answer))
    }

    /// Sends a request and waits for its answer.
    fn call(&mut self, mut request: Out) -> Result<In<'_>, String> {
        self.wire.write(request.done())?;
        let wanted = self.correlation;
        let (correlation, answer) = self.answer()?;
        if correlation == wanted { Ok(answer) } else { Err(format!("Kafka: answer {correlation} to request {wanted}")) }
    }
}

/// Nodes that speak Kafka.
pub struct Kafka {
    /// Where the first of them may be asked.
    pub addrs: Vec<String>,
    /// Replicas of a partition.
    pub replicas: i16,
    /// Bytes of messages in a batch; 0: as usual.
    pub batch_bytes: usize,
}

impl Kafka {
    fn conn(&self) -> Result<Conn, String> {
        Conn::open(self.addrs.first().ok_or("no Kafka door")?)
    }

    /// Waits until the door serves all that the loads use.
    pub fn ready(&self) -> Result<(), String> {
        let mut conn = self.conn()?;
        let request = conn.request(API_VERSIONS);
        let mut answer = conn.call(request)?;
        good(answer.i16()?, "ApiVersions")?;
        let mut served = Vec::new();
        for _ in 0..answer.count()? {
            served.push((answer.i16()?, answer.i16()?..=answer.i16()?));
        }
        for (api, version) in [PRODUCE, FETCH, METADATA, CREATE_TOPICS, DELETE_TOPICS] {
            if !served.iter().any(|(one, versions)| *one == api && versions.contains(&version)) {
                return Err(format!("the Kafka door does not serve version {version} of API {api}"));
            }
        }
        Ok(())
    }

    /// The leaders' addresses, by partition; an error while one has none.
    fn leaders(&self, topic: &Topic) -> Result<Vec<String>, String> {
        let mut conn = self.conn()?;
        let mut request = conn.request(METADATA);
        // One topic, which is not to be made.
        request.i32(1).string(&topic.name).i8(0);
        read_leaders(conn.call(request)?, topic.partitions)
    }

    /// A connection to each leader, and for each of the partitions which of them.
    fn dial(&self, topic: &Topic, partitions: &[usize]) -> Result<(Vec<Conn>, Vec<usize>), String> {
        let leaders = self.leaders(topic)?;
        let (mut addrs, mut at) = (Vec::<&String>::new(), Vec::new());
        for partition in partitions {
            let leader = &leaders[*partition];
            at.push(addrs.iter().position(|addr| *addr == leader).unwrap_or(addrs.len()));
            if at.last() == Some(&addrs.len()) {
                addrs.push(leader);
            }
        }
        let conns = addrs.iter().map(|addr| Conn::open(addr)).collect::<Result<_, _>>()?;
        Ok((conns, at))
    }
}

fn create_request(mut request: Out, topic: &Topic, replicas: i16) -> Out {
    // One topic, no assignments, no settings, ten seconds, in earnest.
    request.i32(1).string(&topic.name).i32(topic.partitions as i32).i16(replicas).i32(0).i32(0).i32(10_000).i8(0);
    request
}

/// The leaders' addresses in an answer to Metadata.
fn read_leaders(mut answer: In, partitions: usize) -> Result<Vec<String>, String> {
    answer.i32()?;
    let mut brokers = Vec::new();
    for _ in 0..answer.count()? {
        let (node, host, port) = (answer.i32()?, answer.string()?, answer.i32()?);
        answer.string()?;
        brokers.push((node, format!("{host}:{port}")));
    }
    answer.string()?;
    answer.i32()?;
    let mut leaders = vec![String::new(); partitions];
    for _ in 0..answer.count()? {
        good(answer.i16()?, "Metadata of the topic")?;
        answer.string()?;
        answer.i8()?;
        for _ in 0..answer.count()? {
            good(answer.i16()?, "Metadata of a partition")?;
            let (partition, leader) = (answer.i32()?, answer.i32()?);
            for _ in 0..2 {
                let nodes = answer.count()?;
                answer.take(4 * nodes)?;
            }
            let found = brokers.iter().find(|(node, _)| *node == leader).ok_or("Kafka: a leader nobody knows")?;
            if let Some(place) = leaders.get_mut(partition as usize) {
                place.clone_from(&found.1);
            }
        }
    }
    if leaders.iter().any(String::is_empty) {
        return Err("Kafka: a partition without a leader".into());
    }
    Ok(leaders)
}

impl Speech for Kafka {
    fn batched(&self, topic: &Topic) -> Shape {
        let batch_bytes = if self.batch_bytes > 0 { self.batch_bytes } else { BATCH_BYTES };
        let chunk = (batch_bytes / (topic.bytes + 8)).max(1);
        Shape { publishers: 2, chunk, window: REQUESTS * chunk, subscribers: 2 }
    }

    fn create(&self, topic: &Topic) -> Result<(), String> {
        let mut conn = self.conn()?;
        let request = conn.request(CREATE_TOPICS);
        let mut answer = conn.call(create_request(request, topic, self.replicas))?;
        answer.i32()?;
        for _ in 0..answer.count()? {
            answer.string()?;
            let code = answer.i16()?;
            good(code, &format!("CreateTopics: {}", answer.string()?))?;
        }
        let start = Instant::now();
        loop {
            match self.leaders(topic) {
                Ok(_) => return Ok(()),
                Err(why) if start.elapsed() > LEADERS => return Err(why),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn remove(&self, topic: &Topic) -> Result<(), String> {
        let mut conn = self.conn()?;
        let mut request = conn.request(DELETE_TOPICS);
        request.i32(1).string(&topic.name).i32(10_000);
        let mut answer = conn.call(request)?;
        answer.i32()?;
        for _ in 0..answer.count()? {
            answer.string()?;
            good(answer.i16()?, "DeleteTopics")?;
        }
        Ok(())
    }

    fn publisher(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Publisher>, String> {
        let (conns, at) = self.dial(topic, &partitions)?;
        Ok(Box::new(Producer {
            conns,
            at,
            topic: topic.name.clone(),
            deal: Deal::new(partitions),
            body: body(topic.bytes),
            under_way: VecDeque::new(),
        }))
    }

    fn subscriber(&self, topic: &Topic, partitions: Vec<usize>) -> Result<Box<dyn Subscriber>, String> {
        let (conns, at) = self.dial(topic, &partitions)?;
        let mut fetchers: Vec<Fetcher> =
            conns.into_iter().map(|conn| Fetcher { conn, topic: topic.name.clone(), next: Vec::new() }).collect();
        for (partition, at) in partitions.into_iter().zip(at) {
            fetchers[at].next.push((partition as i32, 0));
        }
        for fetcher in &mut fetchers {
            fetcher.ask()?;
        }
        Ok(Box::new(Consumer { fetchers, turn: 0 }))
    }
}

struct Producer {
    conns: Vec<Conn>,
    /// Which connection leads to a partition's leader, in the order of the deal.
    at: Vec<usize>,
    topic: String,
    deal: Deal,
    body: Vec<u8>,
    /// Requests in the order of sending: connection, number, messages.
    under_way: VecDeque<(usize, i32, usize)>,
}

/// A request that produces one batch.
fn produce_request(mut request: Out, topic: &str, partition: i32, count: usize, body: &[u8], stamp: i64) -> Out {
    // No transaction, acks=all, the timeout, one topic, one partition.
    request.i16(-1).i16(-1).i32(30_000).i32(1).string(topic).i32(1).i32(partition);
    let at = request.0.len();
    request.0.reserve(count * (body.len() + 12) + 80);
    request.i32(0);
    put_batch(&mut request.0, count, body, stamp);
    request.put_len(at);
    request
}

impl Publisher for Producer {
    fn body(&mut self) -> &mut [u8] {
        &mut self.body
    }

    fn send(&mut self, count: usize) -> Result<(), String> {
        let place = self.deal.next(count);
        let (partition, at) = (self.deal.partitions()[place] as i32, self.at[place]);
        let conn = &mut self.conns[at];
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis() as i64);
        let request = conn.request(PRODUCE);
        let mut request = produce_request(request, &self.topic, partition, count, &self.body, stamp);
        conn.wire.write(request.done())?;
        self.under_way.push_back((at, conn.correlation, count));
        Ok(())
    }

    fn answered(&mut self) -> Result<usize, String> {
        let (at, wanted, count) = self.under_way.pop_front().ok_or("nothing is under way")?;
        let (correlation, mut answer) = self.conns[at].answer()?;
        if correlation != wanted {
            return Err(format!("Kafka: answer {correlation} to request {wanted}"));
        }
        for _ in 0..answer.count()? {
            answer.string()?;
            for _ in 0..answer.count()? {
                answer.i32()?;
                good(answer.i16()?, "Produce")?;
                answer.take(24)?;
            }
        }
        Ok(count)
    }

    fn deal(&self) -> &Deal {
        &self.deal
    }
}

/// What is consumed from one leader.
struct Fetcher {
    conn: Conn,
    topic: String,
    /// Partitions, and the offset that each wants next.
    next: Vec<(i32, i64)>,
}

fn fetch_request(mut request: Out, topic: &str, next: &[(i32, i64)]) -> Out {
    // A consumer; waits half a second at most, for a byte at least; uncommitted too; no session.
    request.i32(-1).i32(500).i32(1).i32(FETCH_BYTES).i8(0).i32(0).i32(-1);
    request.i32(1).string(topic).i32(next.len() as i32);
    for (partition, offset) in next {
        request.i32(*partition).i32(-1).i64(*offset).i64(-1).i32(PARTITION_FETCH_BYTES);
    }
    // Nothing forgotten, no rack.
    request.i32(0).string("");
    request
}

impl Fetcher {
    fn ask(&mut self) -> Result<(), String> {
        let request = self.conn.request(FETCH);
        self.conn.wire.write(fetch_request(request, &self.topic, &self.next).done())
    }

    /// Waits for an answer, asks for what follows it, and shows what it holds.
    fn fetch(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let (_, answer) = self.conn.answer()?;
        let got = read_fetched(answer, &mut self.next)?;
        self.ask()?;
        // Counted from the answer's end, which stays where it is until the next one is read.
        for (start, end, from) in got {
            let records = self.conn.wire.taken(start);
            show(&records[..start - end], from, each)?;
        }
        Ok(())
    }
}

/// Where the records of each partition lie in an answer to Fetch, counted from its end, and the offset that was asked for; moves `next` on.
fn read_fetched(mut answer: In, next: &mut [(i32, i64)]) -> Result<Vec<(usize, usize, i64)>, String> {
    answer.i32()?;
    good(answer.i16()?, "Fetch")?;
    answer.i32()?;
    let mut got = Vec::new();
    for _ in 0..answer.count()? {
        answer.string()?;
        for _ in 0..answer.count()? {
            let partition = answer.i32()?;
            good(answer.i16()?, "Fetch of a partition")?;
            answer.take(24)?;
            let aborted = answer.count()?;
            answer.take(16 * aborted)?;
            answer.i32()?;
            let records = answer.bytes()?;
            let place = next.iter_mut().find(|(one, _)| *one == partition);
            let next = &mut place.ok_or("Kafka: a partition that was not asked for")?.1;
            let behind = answer.0.len();
            got.push((behind + records.len(), behind, *next));
            *next = next_offset(records)?.unwrap_or(*next);
        }
    }
    Ok(got)
}

/// The offset behind the last whole batch.
fn next_offset(records: &[u8]) -> Result<Option<i64>, String> {
    let mut next = None;
    for batch in batches(records) {
        let (base, batch) = batch?;
        next = Some(base + i64::from(In(&batch[11..]).i32()?) + 1);
    }
    Ok(next)
}

/// Shows the values of all records from an offset on.
fn show(records: &[u8], from: i64, each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
    for batch in batches(records) {
        let (base, batch) = batch?;
        // Bit 5 marks markers, which are nobody's messages; the low bits a codec that nobody asked for.
        let attributes = In(&batch[9..]).i16()?;
        if attributes & 0x20 != 0 {
            continue;
        }
        if attributes & 7 != 0 {
            return Err("Kafka: a compressed batch".into());
        }
        let mut rest = In(&batch[45..]);
        for _ in 0..rest.count()? {
            let len = rest.varint()?;
            let mut record = In(rest.take(len.max(0) as usize)?);
            record.i8()?;
            record.varint()?;
            let offset = base + record.varint()?;
            let key = record.varint()?;
            record.take(key.max(0) as usize)?;
            let len = record.varint()?;
            let value = record.take(len.max(0) as usize)?;
            if offset >= from {
                each(value);
            }
        }
    }
    Ok(())
}

struct Consumer {
    fetchers: Vec<Fetcher>,
    turn: usize,
}

impl Subscriber for Consumer {
    fn next(&mut self, each: &mut dyn FnMut(&[u8])) -> Result<(), String> {
        let at = self.turn;
        self.turn = (at + 1) % self.fetchers.len();
        self.fetchers[at].fetch(each)
    }
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;

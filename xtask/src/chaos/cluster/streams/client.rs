//! What the clients of topics ask, each request a function: Metadata 4, CreateTopics 2, Produce 7, Fetch 11, FindCoordinator 1,
//! InitProducerId 1, AddPartitionsToTxn 0, EndTxn 0, JoinGroup 4, SyncGroup 1, Heartbeat 1, LeaveGroup 1, OffsetCommit 3, OffsetFetch 3.

use crate::kafka::{In, Out, batches, put_varint};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a client waits for an answer before it gives up and leaves the outcome open.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a connection may take to stand.
const DIAL: Duration = Duration::from_secs(1);
/// Most bytes of one answer.
const ANSWER_BYTES_MAX: usize = 32 << 20;
/// A session; the door takes none that is shorter.
pub const SESSION: Duration = Duration::from_secs(6);

const PRODUCE: (i16, i16) = (0, 7);
const FETCH: (i16, i16) = (1, 11);
const METADATA: (i16, i16) = (3, 4);
const OFFSET_COMMIT: (i16, i16) = (8, 3);
const OFFSET_FETCH: (i16, i16) = (9, 3);
const FIND_COORDINATOR: (i16, i16) = (10, 1);
const JOIN_GROUP: (i16, i16) = (11, 4);
const HEARTBEAT: (i16, i16) = (12, 1);
const LEAVE_GROUP: (i16, i16) = (13, 1);
const SYNC_GROUP: (i16, i16) = (14, 1);
const CREATE_TOPICS: (i16, i16) = (19, 2);
const INIT_PRODUCER_ID: (i16, i16) = (22, 1);
const ADD_PARTITIONS_TO_TXN: (i16, i16) = (24, 0);
const END_TXN: (i16, i16) = (26, 0);

/// Codes that mean something to a client here; with all others it asks again.
pub mod code {
    pub const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub const ILLEGAL_GENERATION: i16 = 22;
    pub const UNKNOWN_MEMBER_ID: i16 = 25;
    pub const REBALANCE_IN_PROGRESS: i16 = 27;
    pub const TOPIC_ALREADY_EXISTS: i16 = 36;
    pub const OUT_OF_ORDER_SEQUENCE: i16 = 45;
    pub const DUPLICATE_SEQUENCE: i16 = 46;
    pub const INVALID_PRODUCER_EPOCH: i16 = 47;
    pub const INVALID_TXN_STATE: i16 = 48;
    pub const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
    pub const UNKNOWN_PRODUCER_ID: i16 = 59;
    pub const MEMBER_ID_REQUIRED: i16 = 79;
    pub const PRODUCER_FENCED: i16 = 90;
}

/// Why something was not done.
#[derive(Clone)]
pub enum Fail {
    /// The server's word.
    Code(i16),
    /// Nobody knows whether it was.
    Lost(String),
}

impl std::fmt::Display for Fail {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fail::Code(code) => write!(out, "error {code}"),
            Fail::Lost(why) => out.write_str(why),
        }
    }
}

impl From<String> for Fail {
    fn from(why: String) -> Fail {
        Fail::Lost(why)
    }
}

impl From<std::io::Error> for Fail {
    fn from(error: std::io::Error) -> Fail {
        Fail::Lost(error.to_string())
    }
}

/// How it went.
pub type Told<T> = Result<T, Fail>;

fn good(code: i16) -> Told<()> {
    if code == 0 { Ok(()) } else { Err(Fail::Code(code)) }
}

/// A producer's number and epoch.
pub type Producer = (i64, i16);

/// What a fetch found.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Offsets and values.
    pub records: Vec<(u64, u64)>,
    /// Where to go on.
    pub next: u64,
    /// Behind the last record.
    pub high: u64,
    /// Behind the last record whose transaction has ended.
    pub stable: u64,
}

/// A member's place in its group.
#[derive(Clone, Debug, Default)]
pub struct Membership {
    pub member: String,
    pub generation: i32,
    /// All members, for whoever deals partitions out.
    pub members: Vec<String>,
}

/// One connection.
pub struct Conn {
    stream: TcpStream,
    correlation: i32,
}

impl Conn {
    /// Connects to `host:port`.
    pub fn open(addr: &str) -> Told<Conn> {
        let to: SocketAddr = addr.parse().map_err(|_| format!("no address: {addr}"))?;
        let stream = TcpStream::connect_timeout(&to, DIAL)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Conn { stream, correlation: 0 })
    }

    fn send(&mut self, api: (i16, i16), fill: impl FnOnce(&mut Out)) -> Told<()> {
        self.correlation += 1;
        let mut request = Out::request(api, self.correlation, "chaos");
        fill(&mut request);
        Ok(self.stream.write_all(request.done())?)
    }

    /// The next answer without its number.
    fn hear(&mut self) -> Told<Vec<u8>> {
        let mut head = [0; 8];
        self.stream.read_exact(&mut head)?;
        let length = In(&head).i32()?.max(4) as usize - 4;
        if length > ANSWER_BYTES_MAX {
            return Err(Fail::Lost(format!("an answer of {length} bytes")));
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn call(&mut self, api: (i16, i16), fill: impl FnOnce(&mut Out)) -> Told<Vec<u8>> {
        self.send(api, fill)?;
        self.hear()
    }

    /// Makes a topic; one that is there already is fine.
    pub fn create(&mut self, topic: &str, partitions: usize, replicas: i16) -> Told<()> {
        let body = self.call(CREATE_TOPICS, |request| {
            request.i32(1).string(topic).i32(partitions as i32).i16(replicas).i32(0).i32(0).i32(10_000).i8(0);
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        answer.count()?;
        answer.string()?;
        match answer.i16()? {
            0 | code::TOPIC_ALREADY_EXISTS => Ok(()),
            other => Err(Fail::Code(other)),
        }
    }

    /// The address of each partition's leader, where it has one.
    pub fn leaders(&mut self, topic: &str) -> Told<Vec<Option<String>>> {
        let body = self.call(METADATA, |request| {
            request.i32(1).string(topic).i8(0);
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        let mut brokers = Vec::new();
        for _ in 0..answer.count()? {
            let (node, host, port) = (answer.i32()?, answer.string()?, answer.i32()?);
            answer.string()?;
            brokers.push((node, format!("{host}:{port}")));
        }
        answer.string()?;
        answer.i32()?;
        let mut leaders = Vec::new();
        for _ in 0..answer.count()? {
            good(answer.i16()?)?;
            answer.string()?;
            answer.i8()?;
            for _ in 0..answer.count()? {
                answer.i16()?;
                let (partition, leader) = (answer.i32()?.max(0) as usize, answer.i32()?);
                for _ in 0..2 {
                    let nodes = answer.count()?;
                    answer.take(4 * nodes)?;
                }
                if leaders.len() <= partition && partition < 1000 {
                    leaders.resize(partition + 1, None);
                }
                leaders[partition] = brokers.iter().find(|(node, _)| *node == leader).map(|(_, addr)| addr.clone());
            }
        }
        Ok(leaders)
    }

    /// Sends one batch without waiting, with `acks=all`; in a transaction, if it has a name.
    pub fn produce(
        &mut self,
        topic: &str,
        partition: usize,
        producer: Producer,
        sequence: i32,
        values: &[u64],
        transaction: Option<&str>,
    ) -> Told<()> {
        self.send(PRODUCE, |request| {
            match transaction {
                Some(name) => request.string(name),
                None => request.i16(-1),
            };
            request.i16(-1).i32(3000).i32(1).string(topic).i32(1).i32(partition as i32);
            let at = request.0.len();
            request.i32(0);
            put_batch(&mut request.0, producer, sequence, values, transaction.is_some());
            request.put_len(at);
        })
    }

    /// The offset at which the oldest batch under way was stored.
    pub fn produced(&mut self) -> Told<u64> {
        let body = self.hear()?;
        let mut answer = In(&body);
        answer.count()?;
        answer.string()?;
        answer.count()?;
        answer.i32()?;
        good(answer.i16()?)?;
        Ok(answer.i64()?.max(0) as u64)
    }

    /// What a partition holds from an offset on; `committed` leaves out what was aborted, and ends at what is decided.
    pub fn fetch(&mut self, topic: &str, partition: usize, from: u64, committed: bool) -> Told<Fetched> {
        let body = self.call(FETCH, |request| {
            request.i32(-1).i32(20).i32(1).i32(1 << 20).i8(i8::from(committed)).i32(0).i32(-1);
            request.i32(1).string(topic).i32(1);
            request.i32(partition as i32).i32(-1).i64(from as i64).i64(-1).i32(1 << 20);
            request.i32(0).string("");
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        good(answer.i16()?)?;
        answer.i32()?;
        answer.count()?;
        answer.string()?;
        answer.count()?;
        answer.i32()?;
        good(answer.i16()?)?;
        let (high, stable) = (answer.i64()?.max(0) as u64, answer.i64()?.max(0) as u64);
        answer.i64()?;
        let mut aborted = Vec::new();
        for _ in 0..answer.count()? {
            let (producer, first) = (answer.i64()?, answer.i64()?);
            aborted.push((first, producer));
        }
        answer.i32()?;
        let (records, next) = records(answer.bytes()?, from, &mut aborted)?;
        Ok(Fetched { records, next, high, stable })
    }

    /// The address of whoever coordinates a group, or a transactional id.
    pub fn coordinator(&mut self, key: &str, of_transaction: bool) -> Told<String> {
        let body = self.call(FIND_COORDINATOR, |request| {
            request.string(key).i8(i8::from(of_transaction));
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        good(answer.i16()?)?;
        answer.string()?;
        answer.i32()?;
        Ok(format!("{}:{}", answer.string()?, answer.i32()?))
    }

    /// A producer's number; for a transactional id whatever was under way is aborted, and older producers are fenced.
    pub fn init_producer(&mut self, transaction: Option<&str>) -> Told<Producer> {
        let body = self.call(INIT_PRODUCER_ID, |request| {
            match transaction {
                Some(name) => request.string(name),
                None => request.i16(-1),
            };
            request.i32(30_000);
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        good(answer.i16()?)?;
        Ok((answer.i64()?, answer.i16()?))
    }

    /// These partitions belong to the transaction from now on.
    pub fn add_partitions(&mut self, name: &str, producer: Producer, topic: &str, partitions: &[usize]) -> Told<()> {
        let body = self.call(ADD_PARTITIONS_TO_TXN, |request| {
            request.string(name).i64(producer.0).i16(producer.1).i32(1).string(topic).i32(partitions.len() as i32);
            for partition in partitions {
                request.i32(*partition as i32);
            }
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        partition_codes(&mut answer)
    }

    /// The transaction ends.
    pub fn end_transaction(&mut self, name: &str, producer: Producer, commit: bool) -> Told<()> {
        let body = self.call(END_TXN, |request| {
            request.string(name).i64(producer.0).i16(producer.1).i8(i8::from(commit));
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        good(answer.i16()?)
    }

    /// Joins a group, and is told who else is in it if it is to deal partitions out.
    pub fn join(&mut self, group: &str, topic: &str, member: &str) -> Told<Membership> {
        self.stream.set_read_timeout(Some(2 * SESSION))?;
        let mut member = member.to_owned();
        loop {
            let body = self.call(JOIN_GROUP, |request| {
                let session = SESSION.as_millis() as i32;
                request.string(group).i32(session).i32(session).string(&member).string("consumer");
                request.i32(1).string("range");
                let at = request.0.len();
                request.i32(0).i16(0).i32(1).string(topic).i32(-1).put_len(at);
            })?;
            let mut answer = In(&body);
            answer.i32()?;
            let code = answer.i16()?;
            let generation = answer.i32()?;
            let (_, _, own) = (answer.string()?, answer.string()?, answer.string()?);
            if code == code::MEMBER_ID_REQUIRED && member != own {
                member = own;
                continue;
            }
            good(code)?;
            let mut members = Vec::new();
            for _ in 0..answer.count()? {
                members.push(answer.string()?);
                answer.bytes()?;
            }
            return Ok(Membership { member: own, generation, members });
        }
    }

    /// Tells what was dealt to whom, and is told the own part.
    pub fn sync(&mut self, group: &str, own: &Membership, dealt: &[(String, Vec<usize>)]) -> Told<Vec<usize>> {
        let body = self.call(SYNC_GROUP, |request| {
            request.string(group).i32(own.generation).string(&own.member).i32(dealt.len() as i32);
            for (member, partitions) in dealt {
                request.string(member);
                let at = request.0.len();
                // The form is the consumers' own business: here it is a list of numbers.
                request.i32(0);
                for partition in partitions {
                    request.i32(*partition as i32);
                }
                request.put_len(at);
            }
        })?;
        self.stream.set_read_timeout(Some(PATIENCE))?;
        let mut answer = In(&body);
        answer.i32()?;
        good(answer.i16()?)?;
        let dealt = answer.bytes()?;
        Ok(dealt.chunks_exact(4).filter_map(|four| Some(In(four).i32().ok()? as usize)).collect())
    }

    /// Still there.
    pub fn heartbeat(&mut self, group: &str, own: &Membership) -> Told<()> {
        let body = self.call(HEARTBEAT, |request| {
            request.string(group).i32(own.generation).string(&own.member);
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        good(answer.i16()?)
    }

    /// Goodbye.
    pub fn leave(&mut self, group: &str, own: &Membership) -> Told<()> {
        let body = self.call(LEAVE_GROUP, |request| {
            request.string(group).string(&own.member);
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        good(answer.i16()?)
    }

    /// Everything before these offsets has been dealt with.
    pub fn commit(&mut self, group: &str, own: &Membership, topic: &str, next: &[(usize, u64)]) -> Told<()> {
        let body = self.call(OFFSET_COMMIT, |request| {
            request.string(group).i32(own.generation).string(&own.member).i64(-1).i32(1).string(topic);
            request.i32(next.len() as i32);
            for (partition, offset) in next {
                request.i32(*partition as i32).i64(*offset as i64).i16(-1);
            }
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        partition_codes(&mut answer)
    }

    /// What was committed; 0 where nothing was.
    pub fn committed(&mut self, group: &str, topic: &str, partitions: &[usize]) -> Told<Vec<(usize, u64)>> {
        let body = self.call(OFFSET_FETCH, |request| {
            request.string(group).i32(1).string(topic).i32(partitions.len() as i32);
            for partition in partitions {
                request.i32(*partition as i32);
            }
        })?;
        let mut answer = In(&body);
        answer.i32()?;
        let mut found = Vec::new();
        for _ in 0..answer.count()? {
            answer.string()?;
            for _ in 0..answer.count()? {
                let (partition, offset) = (answer.i32()?, answer.i64()?);
                answer.string()?;
                good(answer.i16()?)?;
                found.push((partition.max(0) as usize, offset.max(0) as u64));
            }
        }
        good(answer.i16()?)?;
        Ok(found)
    }
}

/// Topics, partitions and their codes: the first that is not 0.
fn partition_codes(answer: &mut In) -> Told<()> {
    for _ in 0..answer.count()? {
        answer.string()?;
        for _ in 0..answer.count()? {
            answer.i32()?;
            good(answer.i16()?)?;
        }
    }
    Ok(())
}

/// A batch of these values, eight bytes each.
fn put_batch(out: &mut Vec<u8>, producer: Producer, sequence: i32, values: &[u64], transactional: bool) {
    let stamp = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |span| span.as_millis() as i64);
    let start = out.len();
    out.extend_from_slice(&[0; 12]);
    // Leader epoch unknown, magic 2, the checksum's place, attributes.
    out.extend_from_slice(&[0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0, if transactional { 0x10 } else { 0 }]);
    out.extend_from_slice(&(values.len() as i32 - 1).to_be_bytes());
    out.extend_from_slice(&stamp.to_be_bytes());
    out.extend_from_slice(&stamp.to_be_bytes());
    out.extend_from_slice(&producer.0.to_be_bytes());
    out.extend_from_slice(&producer.1.to_be_bytes());
    out.extend_from_slice(&sequence.to_be_bytes());
    out.extend_from_slice(&(values.len() as i32).to_be_bytes());
    for (at, value) in values.iter().enumerate() {
        // Attributes, the delta of the timestamp, the offset's; no key; eight bytes; no headers.
        let mut record = vec![0, 0];
        put_varint(&mut record, at as i64);
        record.extend_from_slice(&[1, 16]);
        record.extend_from_slice(&value.to_be_bytes());
        record.push(0);
        put_varint(out, record.len() as i64);
        out.extend_from_slice(&record);
    }
    let len = (out.len() - start - 12) as i32;
    out[start + 8..start + 12].copy_from_slice(&len.to_be_bytes());
    let sum = crc32c::crc32c(&out[start + 21..]);
    out[start + 17..start + 21].copy_from_slice(&sum.to_be_bytes());
}

/// Offsets and values from an offset on, less those of transactions that are listed as aborted (first offset, producer); and where to go on.
fn records(bytes: &[u8], from: u64, aborted: &mut Vec<(i64, i64)>) -> Told<(Vec<(u64, u64)>, u64)> {
    let (mut found, mut next) = (Vec::new(), from);
    let mut dropped: Vec<i64> = Vec::new();
    for batch in batches(bytes) {
        let (base, batch) = batch?;
        let attributes = In(&batch[9..]).i16()?;
        let last = base + i64::from(In(&batch[11..]).i32()?);
        let producer = In(&batch[31..]).i64()?;
        if crc32c::crc32c(&batch[9..]) != In(&batch[5..]).i32()? as u32 {
            return Err(Fail::Lost(format!("the batch at {base} has a wrong checksum")));
        }
        next = next.max(last as u64 + 1);
        aborted.retain(|(first, producer)| {
            let begun = *first <= last;
            dropped.extend(begun.then_some(*producer));
            !begun
        });
        if attributes & 0x20 != 0 {
            // The marker that ends what was dropped; whatever else the producer has aborted is listed by its own first offset.
            if let Some(at) = dropped.iter().position(|one| *one == producer) {
                dropped.swap_remove(at);
            }
            continue;
        }
        if attributes & 0x10 != 0 && dropped.contains(&producer) {
            continue;
        }
        let mut rest = In(&batch[45..]);
        for _ in 0..rest.count()? {
            let len = rest.varint()?;
            let mut record = In(rest.take(len.max(0) as usize)?);
            record.i8()?;
            record.varint()?;
            let offset = (base + record.varint()?) as u64;
            record.varint()?;
            record.varint()?;
            let value = record.i64()? as u64;
            if offset >= from {
                found.push((offset, value));
            }
        }
    }
    Ok((found, next))
}

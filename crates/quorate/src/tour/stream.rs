//! A client of event streams, for the demonstrations that need one: it speaks Kafka's protocol with the door's own messages, and keeps
//! nothing from whoever uses it. What is lost, asked again or seen twice is the demonstration's business.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use doors::kafka::apis::key;
use doors::kafka::errors;
use doors::kafka::messages::{
    CreatableTopic, CreateTopicsRequest, CreateTopicsResponse, FetchPartition, FetchRequest, FetchResponse, FetchTopic,
    FetchedPartition, InitProducerIdRequest, InitProducerIdResponse, ListOffsetsRequest, ListOffsetsResponse,
    ListPartition, ListTopic, MetadataRequest, MetadataRequestTopic, MetadataResponse, ProducePartition,
    ProduceRequest, ProduceResponse, ProduceTopic, ProducedPartition, RequestHeader,
};
use doors::kafka::wire::{Field, Message, Reader, Writer};
use queue::batch::{HEAD_BYTES, Header};

use super::PATIENCE;

/// A client that gets no answer for so long asks elsewhere.
const CLIENT_PATIENCE: Duration = Duration::from_millis(1500);
/// Most bytes of one answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;

const PRODUCE: (i16, i16) = (key::PRODUCE, 8);
const FETCH: (i16, i16) = (key::FETCH, 11);

/// The wall clock, milliseconds: what producers stamp their records with.
pub fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64)
}

/// One connection.
pub struct Wire {
    stream: BufReader<TcpStream>,
    last: i32,
}

fn broken(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

impl Wire {
    /// To `HOST:PORT`.
    pub fn open(address: &str) -> io::Result<Wire> {
        let address = address.to_socket_addrs()?.next().ok_or_else(|| broken("no address"))?;
        let stream = TcpStream::connect_timeout(&address, CLIENT_PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(CLIENT_PATIENCE))?;
        stream.set_write_timeout(Some(CLIENT_PATIENCE))?;
        Ok(Wire { stream: BufReader::with_capacity(256 << 10, stream), last: 0 })
    }

    /// How long an answer may take, where more than usual.
    pub fn be_patient(&mut self, patience: Duration) -> io::Result<()> {
        self.stream.get_mut().set_read_timeout(Some(patience))
    }

    /// Sends a request; its number.
    pub fn send<M: Message>(&mut self, (key, version): (i16, i16), message: &M) -> io::Result<i32> {
        self.last += 1;
        let mut writer = Writer::new(version, false);
        RequestHeader { key, version, correlation: self.last, client_id: Some("tour".into()) }.write(&mut writer);
        writer.become_message(version, version >= M::FLEXIBLE);
        writer.tags();
        message.write(&mut writer);
        let parts = writer.finish();
        let length: usize = parts.iter().map(Bytes::len).sum();
        let mut frame = (length as u32).to_be_bytes().to_vec();
        parts.iter().for_each(|part| frame.extend_from_slice(part));
        self.stream.get_mut().write_all(&frame)?;
        Ok(self.last)
    }

    /// The next answer, and the number of its request.
    pub fn hear<M: Message>(&mut self, (_, version): (i16, i16)) -> io::Result<(i32, M)> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let length = u32::from_be_bytes(length) as usize;
        if length > ANSWER_BYTES_MAX {
            return Err(broken(format!("an answer of {length} bytes")));
        }
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        let bytes: Bytes = bytes.into();
        let mut reader = Reader::new(&bytes, version, false);
        let garbage = |garbage: doors::kafka::wire::Garbage| broken(garbage.to_string());
        let number = i32::read(&mut reader).map_err(garbage)?;
        reader.become_message(version, version >= M::FLEXIBLE);
        reader.tags().map_err(garbage)?;
        Ok((number, M::read(&mut reader).map_err(garbage)?))
    }

    /// Sends a request and waits for its answer, with nothing else under way.
    pub fn ask<Q: Message, A: Message>(&mut self, api: (i16, i16), message: &Q) -> io::Result<A> {
        let sent = self.send(api, message)?;
        let (heard, answer) = self.hear(api)?;
        if heard == sent { Ok(answer) } else { Err(broken(format!("an answer to {heard} where {sent} was asked"))) }
    }

    /// Sends a batch, without waiting.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> io::Result<i32> {
        let partitions = vec![ProducePartition { index: partition, records: Some(batch) }];
        let topics = vec![ProduceTopic { name: topic.into(), partitions }];
        self.send(PRODUCE, &ProduceRequest { acks: -1, timeout_ms: 1000, topics, ..ProduceRequest::default() })
    }

    /// How the oldest batch under way was answered: error and offset.
    pub fn produced(&mut self) -> io::Result<ProducedPartition> {
        let (_, answer): (_, ProduceResponse) = self.hear(PRODUCE)?;
        let partition = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        partition.ok_or_else(|| broken("no partition was answered"))
    }

    /// What these partitions hold from these offsets on; at most so many bytes of each, and so long a wait for the first.
    pub fn fetch(
        &mut self,
        topic: &str,
        from: &[(i32, i64)],
        bytes_max: i32,
        wait: Duration,
    ) -> io::Result<Vec<FetchedPartition>> {
        let partition = |&(index, offset): &(i32, i64)| FetchPartition {
            index,
            offset,
            max_bytes: bytes_max,
            ..FetchPartition::default()
        };
        let topics = vec![FetchTopic { name: topic.into(), partitions: from.iter().map(partition).collect() }];
        let request = FetchRequest {
            max_wait_ms: wait.as_millis() as i32,
            min_bytes: 1,
            max_bytes: 32 << 20,
            topics,
            ..FetchRequest::default()
        };
        let answer: FetchResponse = self.ask(FETCH, &request)?;
        Ok(answer.topics.into_iter().flat_map(|topic| topic.partitions).collect())
    }

    /// The first offset whose record is not older than `stamp`, milliseconds; -1 for the end.
    pub fn offset_at(&mut self, topic: &str, index: i32, stamp: i64) -> Result<i64, String> {
        let partitions = vec![ListPartition { index, stamp, ..ListPartition::default() }];
        let topics = vec![ListTopic { name: topic.into(), partitions }];
        let request = ListOffsetsRequest { topics, ..ListOffsetsRequest::default() };
        let answer: ListOffsetsResponse =
            self.ask((key::LIST_OFFSETS, 5), &request).map_err(|error| error.to_string())?;
        let found = answer.topics.into_iter().flat_map(|topic| topic.partitions).next();
        match found {
            Some(found) if found.error == errors::NONE => Ok(found.offset),
            other => Err(format!("the offset at {stamp} was answered {other:?}")),
        }
    }

    /// The number of a new producer, and its epoch.
    pub fn producer(&mut self) -> Result<(i64, i16), String> {
        let request = InitProducerIdRequest { timeout_ms: 60_000, ..InitProducerIdRequest::default() };
        let answer: InitProducerIdResponse =
            self.ask((key::INIT_PRODUCER_ID, 1), &request).map_err(|error| error.to_string())?;
        match answer.error {
            errors::NONE => Ok((answer.producer, answer.epoch)),
            error => Err(format!("a producer's number was refused with error {error}")),
        }
    }
}

/// The Kafka doors of the nodes that run; changed while they come and go.
pub struct Doors(Mutex<Vec<SocketAddr>>);

impl Doors {
    /// These.
    pub fn new(doors: Vec<SocketAddr>) -> Doors {
        Doors(Mutex::new(doors))
    }

    /// Where nodes are now.
    pub fn meet(&self, doors: Vec<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = doors;
    }

    /// Asks one after the other until one answers.
    pub fn ask<T>(&self, mut what: impl FnMut(&mut Wire) -> Result<T, String>) -> Result<T, String> {
        let doors = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut why = "no node runs".to_owned();
        for door in doors {
            match Wire::open(&door.to_string()).map_err(|error| error.to_string()).and_then(|mut wire| what(&mut wire))
            {
                Ok(found) => return Ok(found),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Makes a topic and waits until each partition has a leader.
    pub fn create(&self, name: &str, partitions: i32, replication: i16) -> Result<(), String> {
        let topic = CreatableTopic { name: name.into(), partitions, replication, ..CreatableTopic::default() };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 10_000, validate_only: false };
        self.ask(|wire| {
            let answer: CreateTopicsResponse =
                wire.ask((key::CREATE_TOPICS, 4), &request).map_err(|error| error.to_string())?;
            match answer.topics.first() {
                Some(topic) if [errors::NONE, errors::TOPIC_ALREADY_EXISTS].contains(&topic.error) => Ok(()),
                other => Err(format!("the topic was refused: {other:?}")),
            }
        })?;
        self.settled(name).map(drop)
    }

    /// Who leads each partition, by `HOST:PORT`.
    pub fn leaders(&self, topic: &str) -> Result<Vec<String>, String> {
        let named = MetadataRequestTopic { name: Some(topic.into()), ..MetadataRequestTopic::default() };
        let request = MetadataRequest { topics: Some(vec![named]), may_create: false, ..MetadataRequest::default() };
        self.ask(|wire| {
            let answer: MetadataResponse = wire.ask((key::METADATA, 5), &request).map_err(|error| error.to_string())?;
            let nodes: BTreeMap<i32, String> =
                answer.brokers.iter().map(|broker| (broker.node, format!("{}:{}", broker.host, broker.port))).collect();
            let mut partitions: Vec<_> = answer.topics.into_iter().flat_map(|topic| topic.partitions).collect();
            partitions.sort_by_key(|partition| partition.index);
            let leader = |leader: i32| nodes.get(&leader).cloned().ok_or_else(|| "no leader".to_owned());
            let leaders: Vec<String> =
                partitions.iter().map(|partition| leader(partition.leader)).collect::<Result<_, _>>()?;
            if leaders.is_empty() { Err("the topic is not known".into()) } else { Ok(leaders) }
        })
    }

    /// [`Doors::leaders`], once all have one.
    pub fn settled(&self, topic: &str) -> Result<Vec<String>, String> {
        let began = Instant::now();
        loop {
            match self.leaders(topic) {
                Ok(leaders) => return Ok(leaders),
                Err(why) if began.elapsed() > PATIENCE => return Err(format!("{topic}: {why}")),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    /// Reads a partition from an offset up to its end of now, wherever it is led, asking again as clients do.
    pub fn read(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        mut each: impl FnMut(i64, &[u8]) -> Result<(), String>,
    ) -> Result<i64, String> {
        let (mut next, mut wire, mut failed) = (from, None, Instant::now());
        loop {
            if wire.is_none() {
                let leaders = self.settled(topic)?;
                wire = leaders.get(partition as usize).and_then(|leader| Wire::open(leader).ok());
            }
            let fetched =
                wire.as_mut().and_then(|wire| wire.fetch(topic, &[(partition, next)], 4 << 20, Duration::ZERO).ok());
            match fetched.and_then(|fetched| fetched.into_iter().next()) {
                Some(got) if got.error == errors::NONE => {
                    let bytes = got.records.0.concat();
                    next = records(&bytes, next, &mut each)?;
                    if next >= got.high_watermark {
                        return Ok(next);
                    }
                    failed = Instant::now();
                }
                got if failed.elapsed() > PATIENCE => {
                    return Err(format!("{topic}:{partition} cannot be read from {next} on: {got:?}"));
                }
                _ => {
                    wire = None;
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        }
    }
}

/// Shows each record from an offset on; the offset behind the last whole batch.
pub fn records(
    mut bytes: &[u8],
    from: i64,
    mut each: impl FnMut(i64, &[u8]) -> Result<(), String>,
) -> Result<i64, String> {
    let mut next = from;
    // The last batch may be cut off.
    while let Ok(head) = Header::read(bytes) {
        let (batch, rest) = bytes.split_at(head.bytes);
        bytes = rest;
        if !queue::batch::are_sound(batch) {
            return Err(format!("the batch at offset {} has a wrong checksum", head.base));
        }
        if head.is_control() {
            next = head.base + i64::from(head.last_delta) + 1;
            continue;
        }
        let mut left = &batch[HEAD_BYTES..];
        for _ in 0..head.count {
            let (offset, value) = record(&mut left).ok_or("a record breaks off")?;
            if head.base + offset >= from {
                each(head.base + offset, value)?;
            }
        }
        next = head.base + i64::from(head.last_delta) + 1;
    }
    Ok(next.max(from))
}

/// The next record's offset in its batch and its value.
fn record<'a>(left: &mut &'a [u8]) -> Option<(i64, &'a [u8])> {
    let length = usize::try_from(zigzag(left)?).ok()?;
    let (mut own, rest) = left.split_at_checked(length)?;
    *left = rest;
    own = own.get(1..)?;
    zigzag(&mut own)?;
    let offset = zigzag(&mut own)?;
    let key = zigzag(&mut own)?.max(0) as usize;
    own = own.get(key..)?;
    let length = zigzag(&mut own)?.max(0) as usize;
    Some((offset, own.get(..length)?))
}

fn zigzag(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7f) << shift;
        if *first < 0x80 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

//! Records in, records out, and where they begin and end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use base::Duration;
use bytes::Bytes;
use queue::batch::{self, Header};
use queue::command::Entered;
use queue::compact;
use queue::marks::Mark;
use queue::partition::{Isolation, Piece, Plan};
use queue::transaction::Target;
use queue::{Command, Outcome, PartitionId, Topic, Topics};
use shard::board::Grown;
use store::disk::ReadError;

use super::messages::*;
use super::proposal::{Failed, Proposal, all, code};
use super::wire::Records;
use super::{Call, Door, Said, Soon, apis, dispatch, errors};

/// Longest time a produce or a fetch may take, whatever the client says.
const WAIT_MAX: Duration = Duration::from_secs(300);
/// Records of a produce of which it is told that they are why it was refused.
const RECORD_ERRORS_MAX: usize = 1_000;
/// Most bytes of one fetch, whatever the client says.
const FETCH_BYTES_MAX: u64 = 16 << 20;

fn patience(ms: i32) -> Duration {
    Duration::from_millis(ms.max(0).unsigned_abs().into()).min(WAIT_MAX)
}

/// The topic of a partition that exists.
fn find<'a>(topics: &'a Topics, name: &str, index: i32) -> Result<&'a Arc<Topic>, i16> {
    let topic = topics.get(name).ok_or(errors::UNKNOWN_TOPIC_OR_PARTITION)?;
    let exists = u32::try_from(index).is_ok_and(|index| index < topic.partitions);
    if exists { Ok(topic) } else { Err(errors::UNKNOWN_TOPIC_OR_PARTITION) }
}

/// A partition of a produce: under way, or told at once what is wrong.
enum Part {
    Under(usize),
    Wrong(Wrong),
}

/// What is wrong with a partition's part of a produce, and with which of its records where not all of them are.
struct Wrong {
    code: i16,
    why: Cow<'static, str>,
    records: Vec<usize>,
}

impl Wrong {
    fn new(code: i16, why: impl Into<Cow<'static, str>>) -> Wrong {
        Wrong { code, why: why.into(), records: Vec::new() }
    }
}

impl From<i16> for Wrong {
    fn from(code: i16) -> Wrong {
        Wrong::new(code, "")
    }
}

/// What must be known of a transaction before its batches may be written.
struct Wanted {
    topic: usize,
    partition: usize,
    at: usize,
    marks: Vec<Mark>,
}

/// Begins a produce: when this returns, whatever needs no question first stands in its shard's queue.
pub(super) fn produce(door: &Arc<Door>, request: ProduceRequest, call: Call) -> Soon<Said> {
    let door = door.clone();
    if call.header.version < apis::PRODUCE_MIN {
        let answer =
            refuse_all(&request, errors::UNSUPPORTED_FOR_MESSAGE_FORMAT, "messages of format 0 and 1 are not taken");
        return Box::pin(async move { dispatch::said(&call, &answer) });
    }
    if !(-1..=1).contains(&request.acks) {
        let answer = refuse_all(&request, errors::INVALID_REQUIRED_ACKS, "acks are -1, 0 or 1");
        return Box::pin(async move { dispatch::said(&call, &answer) });
    }
    Box::pin(async move {
        let topics = door.topics();
        let mut proposals = Vec::new();
        let mut parts: Vec<Vec<Part>> = Vec::new();
        let mut wanted = Vec::new();
        let version = call.header.version;
        for (nth, topic) in request.topics.iter().enumerate() {
            let mut own = Vec::new();
            for (place, partition) in topic.partitions.iter().enumerate() {
                let part = match judge(&door, &topics, &topic.name, partition, &request.transactional_id, version) {
                    Err(wrong) => Part::Wrong(wrong),
                    Ok(Ready { at, entered: Some(entered), marks }) => {
                        let found = topics.get(&topic.name).expect("it was just found");
                        let records = partition.records.as_ref().expect("they were just judged");
                        proposals.push(propose(&door, at, found, partition.index as u32, entered, marks, records));
                        Part::Under(proposals.len() - 1)
                    }
                    Ok(Ready { at, entered: None, marks }) => {
                        wanted.push(Wanted { topic: nth, partition: place, at, marks });
                        Part::Wrong(errors::UNKNOWN.into())
                    }
                };
                own.push(part);
            }
            parts.push(own);
        }
        call.asking.store(!wanted.is_empty(), Ordering::Relaxed);
        for want in wanted {
            let (topic, partition) =
                (&request.topics[want.topic], &request.topics[want.topic].partitions[want.partition]);
            let found = topics.get(&topic.name).expect("it was just found");
            let records = partition.records.as_ref().expect("they were just judged");
            let id = request.transactional_id.as_deref().unwrap_or_default();
            let entered = enter(&door, id, found, partition.index as u32, records, version).await;
            parts[want.topic][want.partition] = match entered {
                Err(code) => Part::Wrong(Wrong::new(code, "the partition takes no part in this transaction")),
                Ok(entered) => {
                    let (index, entered) = (partition.index as u32, Some(entered));
                    proposals.push(propose(&door, want.at, found, index, entered, want.marks, records));
                    Part::Under(proposals.len() - 1)
                }
            };
        }
        call.asking.store(false, Ordering::Relaxed);
        if request.acks == 0 {
            let wrong = parts.iter().flatten().any(|part| matches!(part, Part::Wrong(_)));
            return match wrong {
                // Kafka's way to tell somebody who does not listen.
                true => Said::Close("a produce without an answer could not be taken".into()),
                false => Said::Nothing,
            };
        }
        let done = all(proposals, door.world.sleep(patience(request.timeout_ms).max(Duration::from_millis(100)))).await;
        let topics = request.topics.into_iter().zip(parts).map(|(topic, parts)| {
            let partitions = topic.partitions.iter().zip(parts).map(|(partition, part)| {
                let index = partition.index;
                let mut record_errors = Vec::new();
                let (error, message) = match part {
                    Part::Wrong(Wrong { code, why, records }) => {
                        record_errors.extend(records.iter().map(|at| RecordError { index: *at as i32, message: None }));
                        (code, why.into_owned())
                    }
                    Part::Under(nth) => match &done[nth] {
                        Ok(Outcome::Produced { base, stamp, start, .. }) => {
                            return ProducedPartition {
                                index,
                                base_offset: *base as i64,
                                append_ms: *stamp,
                                log_start: *start as i64,
                                ..ProducedPartition::default()
                            };
                        }
                        Ok(Outcome::Refused { code, why }) => (code.0, why.clone()),
                        Ok(_) => (errors::UNKNOWN, String::new()),
                        Err(failed) => (failed.of_partition(), String::new()),
                    },
                };
                door.counters.errors.fetch_add(1, Ordering::Relaxed);
                let message = Some(message).filter(|message| !message.is_empty());
                ProducedPartition { index, error, message, record_errors, ..ProducedPartition::default() }
            });
            ProducedTopic { partitions: partitions.collect(), name: topic.name }
        });
        let answer = ProduceResponse { topics: topics.collect(), throttle_ms: 0 };
        dispatch::said(&call, &answer)
    })
}

struct Ready {
    at: usize,
    /// `None`: the coordinator has to be asked first.
    entered: Option<Option<Entered>>,
    /// Of its records.
    marks: Vec<Mark>,
}

fn judge(
    door: &Arc<Door>,
    topics: &Topics,
    name: &str,
    partition: &ProducePartition,
    transactional_id: &Option<String>,
    version: i16,
) -> Result<Ready, Wrong> {
    let topic = find(topics, name, partition.index)?;
    let index = partition.index as u32;
    let at = door.shard_of_partition(topic, index);
    let shard = &door.shards.shards[at];
    if shard.is_led_elsewhere() {
        return Err(errors::NOT_LEADER_OR_FOLLOWER.into());
    }
    let none = || Wrong::new(errors::INVALID_RECORD, "a produce without a record batch");
    let records = partition.records.as_ref().ok_or_else(none)?;
    let rules = topic.settings.rules(door.shards.world.wall_micros() / 1000);
    let run = batch::check(records, &rules).map_err(|refused| Wrong::new(refused.code.0, refused.why))?;
    if topic.settings.compacts() {
        let keyless = compact::keyless(records, RECORD_ERRORS_MAX);
        let keyless = keyless.map_err(|unreadable| Wrong::new(errors::INVALID_RECORD, unreadable.0))?;
        if !keyless.is_empty() {
            let why = "a record without a key cannot go to a topic that is compacted";
            return Err(Wrong { code: errors::INVALID_RECORD, why: why.into(), records: keyless });
        }
    }
    door.counters.bytes_produced.fetch_add(records.len() as u64, Ordering::Relaxed);
    let now = door.shards.world.wall_micros() / 1000;
    let marks = queue::marks::read(records, &topic.settings, now);
    let marks = marks.map_err(|why| Wrong::new(errors::INVALID_RECORD, why))?;
    if !run.transactional {
        return Ok(Ready { at, entered: Some(None), marks });
    }
    if transactional_id.is_none() {
        return Err(Wrong::new(errors::INVALID_TXN_STATE, "a transactional batch needs a transactional id"));
    }
    let ongoing =
        shard.state().queue().partition(topic.id, index).and_then(|own| own.ongoing(run.producer, run.producer_epoch));
    let second_version = version >= apis::PRODUCE_SECOND;
    let entered = ongoing.map(|number| Some(Entered { number, second_version }));
    Ok(Ready { at, entered, marks })
}

fn propose(
    door: &Arc<Door>,
    at: usize,
    topic: &Topic,
    partition: u32,
    transaction: Option<Entered>,
    marks: Vec<Mark>,
    batches: &Bytes,
) -> Proposal {
    let place = topic.place();
    let append_time = topic.settings.append_time();
    let command =
        Command::Produce { topic: topic.id, place: &place, partition, append_time, transaction, marks, batches };
    door.propose(at, &command)
}

/// Asks the coordinator whether the partition takes part in the producer's transaction; in the second version it does from now on.
async fn enter(
    door: &Arc<Door>,
    id: &str,
    topic: &Topic,
    partition: u32,
    records: &Bytes,
    version: i16,
) -> Result<Entered, i16> {
    let head = Header::read(records).map_err(|refused| refused.code.0)?;
    let target = Target::Partition { topic: topic.id, place: topic.place().into(), partition };
    let second_version = version >= apis::PRODUCE_SECOND;
    let (producer, epoch) = (head.producer, head.producer_epoch);
    let number = match second_version {
        true => super::transactions::join(door, id, producer, epoch, target).await,
        false => super::transactions::verify(door, id, producer, epoch, target).await,
    };
    // What a coordinator says in words that producers of this version know (Kafka's AddPartitionsToTxnManager and ReplicaManager).
    let number = number.map_err(|code| match code {
        errors::PRODUCER_FENCED => errors::INVALID_PRODUCER_EPOCH,
        errors::TRANSACTION_ABORTABLE if version < apis::PRODUCE_ABORTABLE => errors::INVALID_TXN_STATE,
        errors::CONCURRENT_TRANSACTIONS if !second_version => errors::NOT_ENOUGH_REPLICAS,
        errors::NOT_COORDINATOR | errors::COORDINATOR_NOT_AVAILABLE => errors::NOT_ENOUGH_REPLICAS,
        code => code,
    })?;
    Ok(Entered { number, second_version })
}

fn refuse_all(request: &ProduceRequest, error: i16, why: &str) -> ProduceResponse {
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let message = Some(why.to_owned());
            ProducedPartition { index: partition.index, error, message, ..ProducedPartition::default() }
        });
        ProducedTopic { name: topic.name.clone(), partitions: partitions.collect() }
    });
    ProduceResponse { topics: topics.collect(), throttle_ms: 0 }
}

/// A partition of a fetch.
struct Fetched {
    at: usize,
    plan: Result<Plan, i16>,
    ends: Option<(u64, u64, u64)>,
}

fn isolation(level: i8) -> Isolation {
    if level == 1 { Isolation::Committed } else { Isolation::Uncommitted }
}

/// Plans a whole fetch.
fn plan(door: &Arc<Door>, request: &FetchRequest, topics: &Topics) -> (Vec<Vec<Fetched>>, u64, bool) {
    let mut left = u64::from(request.max_bytes.max(1).unsigned_abs()).min(FETCH_BYTES_MAX);
    let (mut bytes, mut is_wrong) = (0, false);
    let mut all = Vec::new();
    for topic in &request.topics {
        let mut own = Vec::new();
        for partition in &topic.partitions {
            let most = u64::from(partition.max_bytes.max(0).unsigned_abs()).min(left);
            let fetched =
                plan_one(door, topics, &topic.name, partition, isolation(request.isolation), most, bytes == 0);
            match &fetched.plan {
                Ok(plan) => {
                    bytes += plan.bytes;
                    left = left.saturating_sub(plan.bytes);
                }
                Err(_) => is_wrong = true,
            }
            own.push(fetched);
        }
        all.push(own);
    }
    (all, bytes, is_wrong)
}

fn plan_one(
    door: &Arc<Door>,
    topics: &Topics,
    name: &str,
    partition: &FetchPartition,
    isolation: Isolation,
    most: u64,
    is_first: bool,
) -> Fetched {
    let wrong = |at, code| Fetched { at, plan: Err(code), ends: None };
    let topic = match find(topics, name, partition.index) {
        Ok(topic) => topic,
        Err(code) => return wrong(0, code),
    };
    let at = door.shard_of_partition(topic, partition.index as u32);
    let shard = &door.shards.shards[at];
    if shard.is_led_elsewhere() {
        return wrong(at, errors::NOT_LEADER_OR_FOLLOWER);
    }
    let state = shard.state();
    if let Err(code) = state.queue().check_epoch(partition.leader_epoch) {
        return wrong(at, code.0);
    }
    let Ok(offset) = u64::try_from(partition.offset) else {
        return wrong(at, errors::OFFSET_OUT_OF_RANGE);
    };
    let Some(own) = state.queue().partition(topic.id, partition.index as u32) else {
        // Nothing has ever been written.
        let plan = if offset == 0 { Ok(Plan::default()) } else { Err(errors::OFFSET_OUT_OF_RANGE) };
        return Fetched { at, plan, ends: Some((0, 0, 0)) };
    };
    let ends = Some((own.high(), own.stable(), own.start()));
    let mut plan = own.plan(offset, most, isolation).map_err(|code| code.0);
    if let Ok(plan) = &mut plan
        && plan.bytes > most
        && !is_first
    {
        // One run may be larger than what is left; only the first of a fetch is given all the same.
        (plan.pieces, plan.bytes, plan.aborted) = (Vec::new(), 0, Vec::new());
    }
    Fetched { at, plan, ends }
}

/// What a fetch waits for, shard by shard.
fn watch(door: &Arc<Door>, request: &FetchRequest, topics: &Topics) -> Vec<Grown<crate::resp::door::Client>> {
    let mut watched: BTreeMap<usize, Vec<PartitionId>> = BTreeMap::new();
    for topic in &request.topics {
        let Some(found) = topics.get(&topic.name) else { continue };
        for partition in &topic.partitions {
            if let Ok(index) = u32::try_from(partition.index) {
                watched.entry(door.shard_of_partition(found, index)).or_default().push((found.id, index));
            }
        }
    }
    watched.into_iter().map(|(at, partitions)| Grown::new(door.shards.shards[at].clone(), partitions)).collect()
}

pub(super) async fn fetch(door: &Arc<Door>, request: FetchRequest, _: &Call) -> FetchResponse {
    if request.session != 0 {
        // None was ever given.
        return FetchResponse { error: errors::FETCH_SESSION_ID_NOT_FOUND, ..FetchResponse::default() };
    }
    let mut late = door.world.sleep(patience(request.max_wait_ms));
    let min = u64::from(request.min_bytes.max(0).unsigned_abs());
    let mut is_late = request.max_wait_ms <= 0;
    let mut doubted = std::collections::BTreeMap::new();
    let (topics, planned) = loop {
        let topics = door.topics();
        let mut watched = if is_late { Vec::new() } else { watch(door, &request, &topics) };
        let (mut planned, bytes, is_wrong) = plan(door, &request, &topics);
        // An offset beyond the end may be a leader's that knows more than this one, if this one leads no more: then nobody is sent back.
        let mut ask = std::collections::BTreeSet::new();
        for own in planned.iter_mut().flatten() {
            if own.plan.as_ref().err() == Some(&errors::OFFSET_OUT_OF_RANGE) {
                match doubted.get(&own.at) {
                    None => drop(ask.insert(own.at)),
                    Some(true) => {}
                    // Whoever cannot tell whether it leads knows nothing about ends.
                    Some(false) => own.plan = Err(errors::NOT_LEADER_OR_FOLLOWER),
                }
            }
        }
        if !ask.is_empty() {
            for at in ask {
                doubted.insert(at, door.fresh(at).await.is_ok());
            }
            continue;
        }
        if bytes >= min || is_wrong || is_late {
            break (topics, planned);
        }
        is_late = std::future::poll_fn(|context| {
            if late.as_mut().poll(context).is_ready() {
                return Poll::Ready(true);
            }
            let grown = watched.iter_mut().any(|own| std::pin::Pin::new(own).poll(context).is_ready());
            if grown { Poll::Ready(false) } else { Poll::Pending }
        })
        .await;
    };
    let _ = topics;
    let (mut answered, mut has_some) = (Vec::new(), false);
    for (topic, planned) in request.topics.into_iter().zip(planned) {
        let mut partitions = Vec::new();
        for (partition, fetched) in topic.partitions.iter().zip(planned) {
            let fetched = read(door, partition.index, fetched, !has_some).await;
            has_some |= !fetched.records.is_empty();
            partitions.push(fetched);
        }
        answered.push(FetchedTopic { name: topic.name, partitions });
    }
    FetchResponse { topics: answered, ..FetchResponse::default() }
}

async fn read(door: &Arc<Door>, index: i32, fetched: Fetched, may_wait: bool) -> FetchedPartition {
    let (high, stable, start) = fetched.ends.map_or((-1, -1, -1), |(a, b, c)| (a as i64, b as i64, c as i64));
    let base = FetchedPartition {
        index,
        high_watermark: high,
        last_stable: stable,
        log_start: start,
        aborted: None,
        ..FetchedPartition::default()
    };
    let plan = match fetched.plan {
        Ok(plan) => plan,
        Err(error) => {
            door.counters.errors.fetch_add(1, Ordering::Relaxed);
            return FetchedPartition { error, ..base };
        }
    };
    let records = match plan.pieces.is_empty() {
        true => Vec::new(),
        false => match door.world.read(door.shards.shards[fetched.at].group, plan.pieces, may_wait).await {
            Ok(bytes) => vec![bytes],
            // The log has let go of it since it was planned: the next fetch finds it elsewhere. Or there is no room for more now.
            Err(ReadError::Gone | ReadError::NotReady) => return base,
            Err(_) => {
                door.counters.errors.fetch_add(1, Ordering::Relaxed);
                return FetchedPartition { error: errors::KAFKA_STORAGE_ERROR, ..base };
            }
        },
    };
    let records = Records(records);
    door.counters.bytes_fetched.fetch_add(records.len() as u64, Ordering::Relaxed);
    let aborted = plan.aborted.iter().map(|own| Aborted { producer: own.producer, first_offset: own.first as i64 });
    let aborted: Vec<Aborted> = aborted.collect();
    FetchedPartition { records, aborted: Some(aborted), ..base }
}

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const LARGEST: i64 = -3;

pub(super) async fn list_offsets(door: &Arc<Door>, request: ListOffsetsRequest, _: &Call) -> ListOffsetsResponse {
    let topics = door.topics();
    let mut answered = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for partition in &topic.partitions {
            let found = list_one(door, &topics, &topic.name, partition, isolation(request.isolation)).await;
            partitions.push(found.unwrap_or_else(|error| ListedPartition {
                index: partition.index,
                error,
                ..ListedPartition::default()
            }));
        }
        answered.push(ListedTopic { name: topic.name, partitions });
    }
    ListOffsetsResponse { topics: answered, throttle_ms: 0 }
}

async fn list_one(
    door: &Arc<Door>,
    topics: &Topics,
    name: &str,
    asked: &ListPartition,
    isolation: Isolation,
) -> Result<ListedPartition, i16> {
    let topic = find(topics, name, asked.index)?;
    let index = asked.index as u32;
    let at = door.shard_of_partition(topic, index);
    door.fresh(at).await.map_err(Failed::of_partition)?;
    let shard = &door.shards.shards[at];
    let listed = |stamp: i64, offset: i64, leader_epoch: i32| ListedPartition {
        index: asked.index,
        error: errors::NONE,
        stamp,
        offset,
        leader_epoch,
    };
    let (piece, target, until, group) = {
        let state = shard.state();
        state.queue().check_epoch(asked.leader_epoch).map_err(|code| code.0)?;
        let epoch = state.queue().epoch();
        let Some(own) = state.queue().partition(topic.id, index) else {
            return Ok(match asked.stamp {
                LATEST | EARLIEST => listed(-1, 0, epoch),
                _ => listed(-1, -1, -1),
            });
        };
        let until = own.visible(isolation);
        match asked.stamp {
            LATEST => return Ok(listed(-1, until as i64, epoch)),
            EARLIEST => return Ok(listed(-1, own.start() as i64, epoch)),
            LARGEST => match own.newest() {
                None => return Ok(listed(-1, -1, -1)),
                Some((piece, stamp)) => (piece, stamp, until, shard.group),
            },
            stamp if stamp < 0 => return Err(errors::UNSUPPORTED_VERSION),
            stamp => match own.at_time(stamp, until) {
                None => return Ok(listed(-1, -1, -1)),
                Some(piece) => (piece, stamp, until, shard.group),
            },
        }
    };
    let found = at_time(door, group, &piece, target).await?;
    Ok(match found.filter(|(offset, _)| *offset < until as i64) {
        Some((offset, stamp)) => listed(stamp, offset, piece.epoch),
        None => listed(-1, -1, -1),
    })
}

/// The first record of a run that is not older than this: by its bytes.
async fn at_time(
    door: &Arc<Door>,
    group: base::GroupId,
    piece: &Piece,
    target: i64,
) -> Result<Option<(i64, i64)>, i16> {
    let bytes = door.world.read(group, vec![*piece], true).await.map_err(|_| errors::KAFKA_STORAGE_ERROR)?;
    Ok(batch::find_time(&bytes, target))
}

pub(super) fn offset_for_leader_epoch(
    door: &Arc<Door>,
    request: OffsetForLeaderEpochRequest,
    _: &Call,
) -> OffsetForLeaderEpochResponse {
    let topics = door.topics();
    let one = |name: &str, asked: &EpochPartition| -> Result<EpochEnd, i16> {
        let topic = find(&topics, name, asked.index)?;
        let at = door.shard_of_partition(topic, asked.index as u32);
        let shard = &door.shards.shards[at];
        if shard.is_led_elsewhere() {
            return Err(errors::NOT_LEADER_OR_FOLLOWER);
        }
        let state = shard.state();
        state.queue().check_epoch(asked.current_epoch).map_err(|code| code.0)?;
        let current = state.queue().epoch();
        let own = state.queue().partition(topic.id, asked.index as u32);
        let end = match own {
            Some(own) => own.epoch_end(asked.epoch, current),
            None => (asked.epoch == current).then_some((current, 0)),
        };
        let (epoch, end) = end.map_or((-1, -1), |(epoch, end)| (epoch, end as i64));
        Ok(EpochEnd { error: errors::NONE, index: asked.index, epoch, end_offset: end })
    };
    let topics = request.topics.iter().map(|topic| {
        let ends = topic.partitions.iter().map(|asked| {
            one(&topic.name, asked).unwrap_or_else(|error| EpochEnd {
                error,
                index: asked.index,
                ..EpochEnd::default()
            })
        });
        EpochEndTopic { name: topic.name.clone(), partitions: ends.collect() }
    });
    OffsetForLeaderEpochResponse { topics: topics.collect(), throttle_ms: 0 }
}

pub(super) async fn delete_records(door: &Arc<Door>, request: DeleteRecordsRequest, _: &Call) -> DeleteRecordsResponse {
    let topics = door.topics();
    let mut proposals = Vec::new();
    let mut parts: Vec<Vec<Result<usize, i16>>> = Vec::new();
    for topic in &request.topics {
        let mut own = Vec::new();
        for partition in &topic.partitions {
            let trim = (|| {
                let found = find(&topics, &topic.name, partition.index)?;
                if !found.settings.deletes() {
                    return Err(errors::POLICY_VIOLATION);
                }
                let index = partition.index as u32;
                let at = door.shard_of_partition(found, index);
                let high =
                    door.shards.shards[at].state().queue().partition(found.id, index).map_or(0, |own| own.high());
                let to = match partition.offset {
                    -1 => high,
                    to => u64::try_from(to).ok().filter(|to| *to <= high).ok_or(errors::OFFSET_OUT_OF_RANGE)?,
                };
                Ok((at, Command::Trim { topic: found.id, partition: index, to }))
            })();
            own.push(trim.map(|(at, command)| {
                proposals.push(door.propose(at, &command));
                proposals.len() - 1
            }));
        }
        parts.push(own);
    }
    let done = all(proposals, door.world.sleep(patience(request.timeout_ms).max(Duration::from_secs(1)))).await;
    let topics = request.topics.into_iter().zip(parts).map(|(topic, parts)| {
        let partitions = topic.partitions.iter().zip(parts).map(|(partition, part)| {
            let (error, low) = match part {
                Err(error) => (error, -1),
                Ok(nth) => match &done[nth] {
                    Ok(Outcome::Trimmed { start }) => (errors::NONE, *start as i64),
                    other => (code(other, Failed::of_partition), -1),
                },
            };
            DeletedRecordsPartition { index: partition.index, low_watermark: low, error }
        });
        DeletedRecordsTopic { partitions: partitions.collect(), name: topic.name }
    });
    DeleteRecordsResponse { topics: topics.collect(), throttle_ms: 0 }
}

//! Producers' ids and transactions: requests to the coordinator of a transactional id, and the markers that end a transaction everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Duration;
use queue::command::{Committer, Within};
use queue::group::OffsetOf;
use queue::transaction::Target;
use queue::{Code, Command, Outcome};

use super::messages::*;
use super::proposal::{Done, Failed, Proposal, all, code};
use super::{Call, Door, apis, errors};

/// How long a step may take.
const STEP_WAIT: Duration = Duration::from_secs(20);
/// How long the end of a transaction waits for its markers before it says that it is still at it.
const MARKERS_WAIT: Duration = Duration::from_secs(10);
/// How long one marker may take before it is written again.
const MARKER_WAIT: Duration = Duration::from_secs(4);
/// How often, and after how long, a write to a transaction that cannot begin yet is tried again before the client is told (Kafka's
/// `add.partitions.to.txn.retry.backoff.ms`, and as often as fits into its maximum).
const JOIN_TRIES: u32 = 5;
const JOIN_PAUSE: Duration = Duration::from_millis(20);
/// Markers that are under way together.
const MARKERS_AT_ONCE: usize = 1_000;

async fn one(door: &Arc<Door>, proposal: Proposal) -> Done {
    let mut done = all(vec![proposal], door.world.sleep(STEP_WAIT)).await;
    done.pop().unwrap_or(Err(Failed::Unknown))
}

pub(super) async fn init(door: &Arc<Door>, request: InitProducerIdRequest, _: &Call) -> InitProducerIdResponse {
    let refused = |error| InitProducerIdResponse { error, ..InitProducerIdResponse::default() };
    let Some(id) = &request.transactional_id else {
        // Any shard gives ids that no other one gives.
        let at = (0..door.shards.shards.len()).find(|at| !door.shards.shards[*at].is_led_elsewhere()).unwrap_or(0);
        return match one(door, door.propose_anywhere(at, &Command::InitProducer)).await {
            Ok(Outcome::Producer { id, epoch }) => {
                InitProducerIdResponse { producer: id, epoch, ..InitProducerIdResponse::default() }
            }
            done => refused(code(&done, Failed::of_coordinator)),
        };
    };
    if id.is_empty() {
        return refused(errors::INVALID_REQUEST);
    }
    let Ok(timeout_ms) = u32::try_from(request.timeout_ms) else {
        return refused(errors::INVALID_TRANSACTION_TIMEOUT);
    };
    let expected = (request.producer >= 0 && request.epoch >= 0).then_some((request.producer, request.epoch));
    let at = door.shard_of_name(id);
    let deadline = door.now() + MARKERS_WAIT;
    loop {
        let done = one(door, door.propose(at, &Command::Begin { id, timeout_ms, expected })).await;
        match &done {
            Ok(Outcome::Producer { id, epoch }) => {
                return InitProducerIdResponse { producer: *id, epoch: *epoch, ..InitProducerIdResponse::default() };
            }
            Ok(Outcome::Refused { code, .. }) if code.0 == errors::CONCURRENT_TRANSACTIONS && door.now() < deadline => {
                // A transaction of the producer before it is being ended: it helps.
                if !door.end_markers(at, Some(id)).await {
                    door.world.sleep(Duration::from_millis(50)).await;
                }
            }
            _ => return refused(code(&done, Failed::of_coordinator)),
        }
    }
}

pub(super) async fn add_partitions(
    door: &Arc<Door>,
    request: AddPartitionsToTxnRequest,
    call: &Call,
) -> AddPartitionsToTxnResponse {
    let mut answer = AddPartitionsToTxnResponse::default();
    if call.header.version < 4 {
        let AddPartitionsToTxnRequest { transactional_id, producer, epoch, topics, .. } = request;
        let own = TxnOfProducer { transactional_id, producer, epoch, verify_only: false, topics };
        answer.topics = add_to_one(door, own).await.topics;
    } else {
        for own in request.transactions {
            answer.transactions.push(add_to_one(door, own).await);
        }
    }
    answer
}

async fn add_to_one(door: &Arc<Door>, request: TxnOfProducer) -> TxnResult {
    let topics = door.topics();
    let exists = |name: &str, index: i32| {
        let topic = topics.get(name)?;
        u32::try_from(index).ok().filter(|index| *index < topic.partitions).map(|index| (topic.clone(), index))
    };
    let named = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(|index| (&topic.name[..], *index)));
    let found: Vec<Option<Target>> = named
        .map(|(name, index)| {
            let (topic, partition) = exists(name, index)?;
            Some(Target::Partition { topic: topic.id, place: topic.place().into(), partition })
        })
        .collect();
    let (id, producer, epoch) = (&request.transactional_id, request.producer, request.epoch);
    let at = door.shard_of_name(id);
    // Those that do not exist are told so; then nothing is added.
    let error = if found.contains(&None) {
        errors::OPERATION_NOT_ATTEMPTED
    } else if door.shards.shards[at].is_led_elsewhere() {
        errors::NOT_COORDINATOR
    } else if request.verify_only {
        let mut error = errors::NONE;
        for target in found.iter().flatten() {
            error = verify(door, id, producer, epoch, target.clone()).await.err().unwrap_or(error);
        }
        error
    } else {
        let targets = found.iter().flatten().cloned().collect();
        let done = one(door, door.propose(at, &Command::Enlist { id, producer, epoch, targets })).await;
        code(&done, Failed::of_coordinator)
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|index| {
            let is_missing = exists(&topic.name, *index).is_none();
            let error = if is_missing { errors::UNKNOWN_TOPIC_OR_PARTITION } else { error };
            TxnPartitionResult { index: *index, error }
        });
        TxnTopicResult { name: topic.name.clone(), partitions: partitions.collect() }
    });
    TxnResult { topics: topics.collect(), transactional_id: request.transactional_id }
}

pub(super) async fn add_offsets(
    door: &Arc<Door>,
    request: AddOffsetsToTxnRequest,
    _: &Call,
) -> AddOffsetsToTxnResponse {
    let at = door.shard_of_name(&request.transactional_id);
    let targets = vec![Target::Group(request.group.as_str().into())];
    let (id, producer, epoch) = (&request.transactional_id, request.producer, request.epoch);
    let done = one(door, door.propose(at, &Command::Enlist { id, producer, epoch, targets })).await;
    AddOffsetsToTxnResponse { error: code(&done, Failed::of_coordinator), throttle_ms: 0 }
}

pub(super) async fn end(door: &Arc<Door>, request: EndTxnRequest, call: &Call) -> EndTxnResponse {
    let at = door.shard_of_name(&request.transactional_id);
    let (id, producer, epoch, commit) = (&request.transactional_id, request.producer, request.epoch, request.commit);
    let second_version = call.header.version >= apis::END_TXN_SECOND;
    let done = one(door, door.propose(at, &Command::End { id, producer, epoch, commit, second_version })).await;
    let error = code(&done, Failed::of_coordinator);
    if error == errors::NONE {
        // The decision is made; who asks again is told the same. The markers follow, here and if need be by the upkeep.
        let deadline = door.now() + MARKERS_WAIT;
        while door.now() < deadline && !door.end_markers(at, Some(id)).await {
            door.world.sleep(Duration::from_millis(50)).await;
        }
    }
    match done {
        // In the second version the producer goes on with another epoch.
        Ok(Outcome::Producer { id, epoch }) if second_version => {
            EndTxnResponse { error, producer: id, epoch, throttle_ms: 0 }
        }
        _ => EndTxnResponse { error, ..EndTxnResponse::default() },
    }
}

/// A target takes part in a producer's transaction, which begins with the first one: its number.
pub(super) async fn join(door: &Arc<Door>, id: &str, producer: i64, epoch: i16, target: Target) -> Result<u64, i16> {
    let at = door.shard_of_name(id);
    let mut tries = JOIN_TRIES;
    loop {
        let targets = vec![target.clone()];
        match one(door, door.propose_anywhere(at, &Command::Enlist { id, producer, epoch, targets })).await {
            Ok(Outcome::Enlisted { number }) => return Ok(number),
            // The markers of the one before are on their way.
            Ok(Outcome::Refused { code, .. }) if code.0 == errors::CONCURRENT_TRANSACTIONS && tries > 0 => {
                tries -= 1;
                door.world.sleep(JOIN_PAUSE).await;
            }
            done => return Err(code(&done, Failed::of_coordinator)),
        }
    }
}

/// Whether a target takes part in a producer's transaction: its number.
pub(super) async fn verify(door: &Arc<Door>, id: &str, producer: i64, epoch: i16, target: Target) -> Result<u64, i16> {
    let at = door.shard_of_name(id);
    if door.shards.shards[at].is_led_elsewhere() {
        let command = Command::Verify { id, producer, epoch, target };
        return match one(door, door.propose_anywhere(at, &command)).await {
            Ok(Outcome::Enlisted { number }) => Ok(number),
            Ok(Outcome::Refused { code, .. }) => Err(code.0),
            _ => Err(errors::NOT_LEADER_OR_FOLLOWER),
        };
    }
    let state = door.shards.shards[at].state();
    let Some(own) = state.queue().transaction_of(id) else {
        return Err(errors::INVALID_PRODUCER_ID_MAPPING);
    };
    own.verify(producer, epoch, &target).map_err(|(code, _)| code.0)
}

pub(super) async fn commit_offsets(
    door: &Arc<Door>,
    request: TxnOffsetCommitRequest,
    call: &Call,
) -> TxnOffsetCommitResponse {
    let at = door.shard_of_name(&request.group);
    let target = Target::Group(request.group.as_str().into());
    let (id, producer, epoch) = (&request.transactional_id, request.producer, request.epoch);
    let entered = if door.shards.shards[at].is_led_elsewhere() {
        Err(errors::NOT_COORDINATOR)
    } else if call.header.version >= apis::TXN_OFFSET_COMMIT_SECOND {
        join(door, id, producer, epoch, target).await
    } else {
        verify(door, id, producer, epoch, target).await
    };
    // From version 4 on a client knows that code.
    let entered = entered.map_err(|code| match code {
        errors::TRANSACTION_ABORTABLE if call.header.version < 4 => errors::INVALID_TXN_STATE,
        errors::PRODUCER_FENCED => errors::INVALID_PRODUCER_EPOCH,
        code => code,
    });
    let topics = door.topics();
    let found = |name: &str, index: i32| {
        let topic = topics.get(name)?;
        u32::try_from(index).ok().filter(|index| *index < topic.partitions).map(|index| (topic.id, index))
    };
    let error = match entered {
        Err(error) => error,
        Ok(number) => {
            let offsets = request.topics.iter().flat_map(|topic| {
                topic.partitions.iter().filter_map(|own| {
                    let (id, partition) = found(&topic.name, own.index)?;
                    Some(OffsetOf {
                        topic: &topic.name,
                        id,
                        partition,
                        offset: own.offset,
                        epoch: own.leader_epoch,
                        metadata: own.metadata.as_deref().unwrap_or(""),
                    })
                })
            });
            let by = Committer {
                generation: request.generation,
                member: &request.member,
                instance: request.instance.as_deref(),
            };
            let within = Within { producer, epoch, number };
            let command = Command::TransactionCommit { group: &request.group, by, within, offsets: offsets.collect() };
            code(&one(door, door.propose(at, &command)).await, Failed::of_coordinator)
        }
    };
    let answered = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|own| {
            let exists = found(&topic.name, own.index).is_some();
            let error = if exists || error != errors::NONE { error } else { errors::UNKNOWN_TOPIC_OR_PARTITION };
            TxnPartitionResult { index: own.index, error }
        });
        TxnTopicResult { name: topic.name.clone(), partitions: partitions.collect() }
    });
    TxnOffsetCommitResponse { topics: answered.collect(), throttle_ms: 0 }
}

/// Whether a target needs no marker any more. Of the refusals only that of a newer epoch says so: whoever wrote with it has ended the
/// transaction as well (as Kafka's coordinator takes it). Any other is asked again, or the transaction would stay open there for ever.
fn is_marked(done: &Done) -> bool {
    match done {
        Ok(Outcome::Done) => true,
        Ok(Outcome::Refused { code, .. }) => *code == Code::INVALID_PRODUCER_EPOCH,
        _ => false,
    }
}

impl Door {
    /// Writes markers that are due at a coordinator: of one transactional id, or of some. True where nothing is left to do.
    pub(super) async fn end_markers(self: &Arc<Door>, at: usize, id: Option<&str>) -> bool {
        let shard = &self.shards.shards[at];
        let (due, epoch) = {
            let state = shard.state();
            let queue = state.queue();
            let due = id.map_or_else(|| queue.markers(MARKERS_AT_ONCE), |id| queue.markers_of(id));
            (due, queue.epoch())
        };
        if due.is_empty() {
            return true;
        }
        let stamp = self.shards.world.wall_micros() / 1000;
        let mut proposals = Vec::new();
        for own in &due {
            let batch = match own.target {
                Target::Partition { .. } => own.batch(epoch, stamp),
                Target::Group(_) => Vec::new(),
            };
            let place = self.shard_of_target(&own.target);
            proposals.push(self.propose_anywhere(place, &own.command(&batch)));
        }
        let done = all(proposals, self.world.sleep(MARKER_WAIT)).await;
        let mut marked: BTreeMap<(&str, u64), Vec<Target>> = BTreeMap::new();
        let mut is_whole = true;
        for (own, done) in due.iter().zip(&done) {
            if is_marked(done) {
                marked.entry((&own.id, own.number)).or_default().push(own.target.clone());
            } else {
                is_whole = false;
            }
        }
        let proposals = marked
            .into_iter()
            .map(|((id, number), targets)| self.propose(at, &Command::Marked { id, number, targets }));
        let done = all(proposals.collect(), self.world.sleep(MARKER_WAIT)).await;
        is_whole && done.iter().all(|done| matches!(done, Ok(Outcome::Done)))
    }

    fn shard_of_target(&self, target: &Target) -> usize {
        match target {
            Target::Partition { place, partition, .. } => {
                self.shards.home_of(format!("topic:{place}:{partition}").as_bytes())
            }
            Target::Group(group) => self.shard_of_name(group),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_marker_that_is_there_or_needless_counts_as_written() {
        let refused = |code| Ok(Outcome::refused(code, ""));
        assert!(is_marked(&Ok(Outcome::Done)));
        assert!(is_marked(&refused(Code::INVALID_PRODUCER_EPOCH)), "a newer epoch has been there");
        let kept_open = [Code::UNKNOWN_TOPIC_OR_PARTITION, Code::POLICY_VIOLATION, Code::UNKNOWN_SERVER_ERROR];
        for code in kept_open.into_iter().chain([Code::INVALID_RECORD, Code::CONCURRENT_TRANSACTIONS]) {
            assert!(!is_marked(&refused(code)), "{code}: nothing was marked");
        }
        assert!(!is_marked(&Err(Failed::Unknown)));
    }
}

//! Consumer groups: requests to the coordinator of the group's shard, and its members' offsets.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use base::{Duration, Instant};
use parking_lot::Mutex;
use queue::command::Committer;
use queue::coordinator::{Answer, By, Coordinator, Effects, Join, Phase, Token};
use queue::group::{Generation, OffsetOf};
use queue::{Code, Command, Outcome, TopicId};

use super::messages::*;
use super::proposal::{Done, Failed, code};
use super::{Call, Door, errors};

/// How long a commit may take.
const COMMIT_WAIT: Duration = Duration::from_secs(20);

/// What this node coordinates, shard by shard.
#[derive(Default)]
pub(crate) struct Groups {
    shards: Mutex<BTreeMap<usize, Arc<Led>>>,
    /// Wakes the upkeep: something is due earlier, or wants to be saved.
    news: Mutex<Option<Waker>>,
}

/// The groups of a shard that this node leads.
struct Led {
    /// The leader's epoch from which on.
    epoch: i32,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    coordinator: Coordinator,
    waiting: HashMap<Token, Slot, store::hash::State>,
    next: Token,
    /// Generations that have to be saved.
    unsaved: Vec<(String, Generation)>,
}

#[derive(Default)]
struct Slot {
    answer: Option<Answer>,
    waker: Option<Waker>,
}

impl Own {
    fn take(&mut self, effects: Effects) -> bool {
        for (token, answer) in effects.answers {
            if let Some(slot) = self.waiting.get_mut(&token) {
                slot.answer = Some(answer);
                if let Some(waker) = slot.waker.take() {
                    waker.wake();
                }
            }
        }
        let is_news = !effects.save.is_empty();
        self.unsaved.extend(effects.save);
        is_news
    }

    fn token(&mut self) -> Token {
        self.next += 1;
        self.waiting.insert(self.next, Slot::default());
        self.next
    }
}

/// An answer of the coordinator that comes later.
struct Waiting {
    led: Arc<Led>,
    token: Token,
}

impl Future for Waiting {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let mut own = self.led.own.lock();
        let slot = own.waiting.get_mut(&self.token).expect("only its own end takes it away");
        if let Some(answer) = slot.answer.take() {
            return Poll::Ready(answer);
        }
        slot.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.led.own.lock().waiting.remove(&self.token);
    }
}

impl Door {
    /// The coordinator of a group's shard, where this node leads it. Groups that were saved are taken over when they are first asked for.
    fn led(&self, name: &str) -> Result<Arc<Led>, i16> {
        let at = self.shard_of_name(name);
        let shard = &self.shards.shards[at];
        if shard.is_led_elsewhere() {
            return Err(errors::NOT_COORDINATOR);
        }
        if shard.refusal(true).is_some() {
            return Err(errors::COORDINATOR_NOT_AVAILABLE);
        }
        let (epoch, saved) = {
            let state = shard.state();
            let saved = state.queue().group(name).and_then(|own| own.generation().cloned());
            (state.queue().epoch(), saved)
        };
        let (led, old) = {
            let mut shards = self.groups.shards.lock();
            match shards.get(&at) {
                Some(led) if led.epoch == epoch => (led.clone(), None),
                _ => {
                    let led = Arc::new(Led { epoch, own: Mutex::default() });
                    let old = shards.insert(at, led.clone());
                    (led, old)
                }
            }
        };
        if let Some(old) = old {
            let mut own = old.own.lock();
            let effects = own.coordinator.abdicate(Code(errors::NOT_COORDINATOR));
            own.take(effects);
        }
        if let Some(saved) = saved {
            led.own.lock().coordinator.load(name, &saved, self.now());
        }
        Ok(led)
    }

    fn hear_news(&self) {
        if let Some(waker) = self.groups.news.lock().take() {
            waker.wake();
        }
    }

    /// What the coordinators of this node have to do: saves what has to be saved, and lets time pass. Returns when to come again, unless there is news.
    pub(super) async fn look_after_groups(self: &Arc<Door>) -> Option<Instant> {
        let shards: Vec<(usize, Arc<Led>)> =
            self.groups.shards.lock().iter().map(|(at, led)| (*at, led.clone())).collect();
        let mut next: Option<Instant> = None;
        for (at, led) in shards {
            let shard = &self.shards.shards[at];
            if shard.is_led_elsewhere() || shard.state().queue().epoch() != led.epoch {
                self.groups.shards.lock().remove(&at);
                let mut own = led.own.lock();
                let effects = own.coordinator.abdicate(Code(errors::NOT_COORDINATOR));
                own.take(effects);
                continue;
            }
            let unsaved = {
                let mut own = led.own.lock();
                let effects = own.coordinator.tick(self.now());
                own.take(effects);
                next = next.into_iter().chain(own.coordinator.deadline()).min();
                std::mem::take(&mut own.unsaved)
            };
            let mut proposals = Vec::new();
            let mut names = Vec::new();
            for (name, generation) in unsaved {
                let number = generation.number;
                proposals.push(self.propose(at, &Command::SaveGroup { group: &name, generation }));
                names.push((name, number));
            }
            if proposals.is_empty() {
                continue;
            }
            let done = super::proposal::all(proposals, self.world.sleep(COMMIT_WAIT)).await;
            let mut own = led.own.lock();
            for ((name, number), done) in names.into_iter().zip(done) {
                let code = Code(code(&done, Failed::of_coordinator));
                let effects = own.coordinator.saved(&name, number, code, self.now());
                own.take(effects);
            }
            next = next.into_iter().chain(own.coordinator.deadline()).min();
            if !own.unsaved.is_empty() {
                next = Some(self.now());
            }
        }
        next
    }

    /// Until a coordinator has news.
    pub(super) fn group_news(self: &Arc<Door>) -> impl Future<Output = ()> + Send + use<> {
        let door = self.clone();
        let mut is_set = false;
        std::future::poll_fn(move |context| {
            let mut news = door.groups.news.lock();
            if is_set && news.is_none() {
                return Poll::Ready(());
            }
            is_set = true;
            *news = Some(context.waker().clone());
            let is_unsaved = door.groups.shards.lock().values().any(|led| !led.own.lock().unsaved.is_empty());
            if is_unsaved { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}

fn by<'a>(member: &'a str, instance: &'a Option<String>, generation: i32) -> By<'a> {
    By { member, instance: instance.as_deref(), generation }
}

pub(super) async fn join(door: &Arc<Door>, request: JoinGroupRequest, call: &Call) -> JoinGroupResponse {
    let version = call.header.version;
    let refused = |error, member: String| JoinGroupResponse {
        error,
        member,
        protocol: (version < 7).then(String::new),
        ..JoinGroupResponse::default()
    };
    let led = match door.led(&request.group) {
        Ok(led) => led,
        Err(error) => return refused(error, request.member),
    };
    let join = Join {
        member: request.member,
        instance: request.instance,
        client: call.header.client_id.clone().unwrap_or_default(),
        host: format!("/{}", call.peer),
        session_ms: request.session_timeout_ms,
        rebalance_ms: request.rebalance_timeout_ms,
        kind: request.protocol_type,
        protocols: request.protocols.into_iter().map(|own| (own.name, own.metadata.to_vec())).collect(),
        needs_id: version >= 4,
        can_skip: version >= 9,
        random: door.world.random(),
    };
    let waiting = {
        let mut own = led.own.lock();
        let token = own.token();
        let effects = own.coordinator.join(&request.group, token, join, door.now());
        own.take(effects);
        drop(own);
        Waiting { led: led.clone(), token }
    };
    door.hear_news();
    let Answer::Joined(joined) = waiting.await else {
        return refused(errors::UNKNOWN, String::new());
    };
    if joined.code != Code::NONE {
        return refused(joined.code.0, joined.member);
    }
    let members = joined.members.into_iter();
    let members =
        members.map(|(member, instance, metadata)| JoinedMember { member, instance, metadata: metadata.into() });
    JoinGroupResponse {
        generation: joined.generation,
        protocol_type: Some(joined.kind),
        protocol: Some(joined.protocol),
        leader: joined.leader,
        skip_assignment: joined.skip,
        member: joined.member,
        members: members.collect(),
        ..JoinGroupResponse::default()
    }
}

pub(super) async fn sync(door: &Arc<Door>, request: SyncGroupRequest, _: &Call) -> SyncGroupResponse {
    let led = match door.led(&request.group) {
        Ok(led) => led,
        Err(error) => return SyncGroupResponse { error, ..SyncGroupResponse::default() },
    };
    let gives = request.assignments.iter().map(|own| (own.member.clone(), own.assignment.to_vec())).collect();
    let waiting = {
        let mut own = led.own.lock();
        let token = own.token();
        let by = by(&request.member, &request.instance, request.generation);
        let (kind, protocol) = (request.protocol_type.as_deref(), request.protocol.as_deref());
        let effects = own.coordinator.sync(&request.group, token, &by, kind, protocol, gives, door.now());
        own.take(effects);
        drop(own);
        Waiting { led: led.clone(), token }
    };
    door.hear_news();
    let Answer::Synced(synced) = waiting.await else {
        return SyncGroupResponse { error: errors::UNKNOWN, ..SyncGroupResponse::default() };
    };
    let is_good = synced.code == Code::NONE;
    SyncGroupResponse {
        error: synced.code.0,
        protocol_type: is_good.then_some(synced.kind),
        protocol: is_good.then_some(synced.protocol),
        assignment: synced.assignment.into(),
        ..SyncGroupResponse::default()
    }
}

pub(super) fn heartbeat(door: &Arc<Door>, request: HeartbeatRequest, _: &Call) -> HeartbeatResponse {
    let by = by(&request.member, &request.instance, request.generation);
    let beat = |led: Arc<Led>| led.own.lock().coordinator.heartbeat(&request.group, &by, door.now()).0;
    HeartbeatResponse { error: door.led(&request.group).map_or_else(|error| error, beat), throttle_ms: 0 }
}

pub(super) fn leave(door: &Arc<Door>, request: LeaveGroupRequest, call: &Call) -> LeaveGroupResponse {
    let led = match door.led(&request.group) {
        Ok(led) => led,
        Err(error) => return LeaveGroupResponse { error, ..LeaveGroupResponse::default() },
    };
    let is_old = call.header.version <= 2;
    let leaving = match is_old {
        true => vec![LeavingMember { member: request.member, ..LeavingMember::default() }],
        false => request.members,
    };
    let members: Vec<LeftMember> = {
        let mut own = led.own.lock();
        let gone = leaving.into_iter().map(|who| {
            let (code, effects) =
                own.coordinator.leave(&request.group, &who.member, who.instance.as_deref(), door.now());
            own.take(effects);
            LeftMember { member: who.member, instance: who.instance, error: code.0 }
        });
        gone.collect()
    };
    door.hear_news();
    let error = if is_old { members[0].error } else { errors::NONE };
    LeaveGroupResponse { error, members, throttle_ms: 0 }
}

/// The id of a topic that is known here; none for one that is not.
fn id_of(door: &Door, topics: &mut BTreeMap<String, Option<(TopicId, u32)>>, name: &str) -> Option<(TopicId, u32)> {
    if let Some(known) = topics.get(name) {
        return *known;
    }
    let found = door.topics().get(name).map(|topic| (topic.id, topic.partitions));
    topics.insert(name.to_owned(), found);
    found
}

pub(super) async fn commit(door: &Arc<Door>, request: OffsetCommitRequest, _: &Call) -> OffsetCommitResponse {
    let answer = |codes: &dyn Fn(&str, i32) -> i16| {
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter();
            let partitions =
                partitions.map(|own| CommittedPartition { index: own.index, error: codes(&topic.name, own.index) });
            CommittedTopic { name: topic.name.clone(), partitions: partitions.collect() }
        });
        OffsetCommitResponse { topics: topics.collect(), throttle_ms: 0 }
    };
    let led = match door.led(&request.group) {
        Ok(led) => led,
        Err(error) => return answer(&|_, _| error),
    };
    let by = by(&request.member, &request.instance, request.generation);
    let allowed = led.own.lock().coordinator.commits(&request.group, &by, door.now());
    if allowed != Code::NONE {
        return answer(&|_, _| allowed.0);
    }
    let mut known = BTreeMap::new();
    let mut offsets = Vec::new();
    for topic in &request.topics {
        for own in &topic.partitions {
            let found = id_of(door, &mut known, &topic.name);
            let Some((id, _)) = found.filter(|(_, count)| u32::try_from(own.index).is_ok_and(|index| index < *count))
            else {
                continue;
            };
            offsets.push(OffsetOf {
                topic: &topic.name,
                id,
                partition: own.index as u32,
                offset: own.offset,
                epoch: own.leader_epoch,
                metadata: own.metadata.as_deref().unwrap_or(""),
            });
        }
    }
    let exists = |name: &str, index: i32| {
        known
            .get(name)
            .copied()
            .flatten()
            .is_some_and(|(_, count)| u32::try_from(index).is_ok_and(|index| index < count))
    };
    let committer =
        Committer { generation: request.generation, member: &request.member, instance: request.instance.as_deref() };
    let error = if offsets.is_empty() {
        errors::NONE
    } else {
        let at = door.shard_of_name(&request.group);
        let proposal = door.propose(at, &Command::Commit { group: &request.group, by: committer, offsets });
        code(&within(door, proposal).await, Failed::of_coordinator)
    };
    answer(&|name, index| if exists(name, index) { error } else { errors::UNKNOWN_TOPIC_OR_PARTITION })
}

async fn within(door: &Arc<Door>, proposal: super::proposal::Proposal) -> Done {
    let mut done = super::proposal::all(vec![proposal], door.world.sleep(COMMIT_WAIT)).await;
    done.pop().unwrap_or(Err(Failed::Unknown))
}

pub(super) async fn fetch_offsets(door: &Arc<Door>, request: OffsetFetchRequest, call: &Call) -> OffsetFetchResponse {
    let stable = request.require_stable;
    if call.header.version < 8 {
        let fetched = fetch_group(door, &request.group, request.topics.as_deref(), stable).await;
        return match fetched {
            Ok(topics) => OffsetFetchResponse { topics, ..OffsetFetchResponse::default() },
            Err(error) => {
                // Version 1 has no place for it but the partitions.
                let topics = request.topics.unwrap_or_default().into_iter().map(|topic| {
                    let none = |index| FetchedOffset {
                        index,
                        offset: -1,
                        metadata: Some(String::new()),
                        error,
                        leader_epoch: -1,
                    };
                    FetchedOffsetTopic {
                        name: topic.name,
                        partitions: topic.partitions.into_iter().map(none).collect(),
                    }
                });
                OffsetFetchResponse { topics: topics.collect(), error, ..OffsetFetchResponse::default() }
            }
        };
    }
    let mut groups = Vec::new();
    for group in request.groups {
        let fetched = fetch_group(door, &group.group, group.topics.as_deref(), stable).await;
        let (topics, error) = fetched.map_or_else(|error| (Vec::new(), error), |topics| (topics, errors::NONE));
        groups.push(FetchedOffsetGroup { group: group.group, topics, error });
    }
    OffsetFetchResponse { groups, ..OffsetFetchResponse::default() }
}

async fn fetch_group(
    door: &Arc<Door>,
    name: &str,
    asked: Option<&[OffsetFetchTopic]>,
    stable: bool,
) -> Result<Vec<FetchedOffsetTopic>, i16> {
    let at = door.shard_of_name(name);
    door.fresh(at).await.map_err(Failed::of_coordinator)?;
    let topics = door.topics();
    let state = door.shards.shards[at].state();
    let group = state.queue().group(name);
    let none =
        |index, error| FetchedOffset { index, offset: -1, metadata: Some(String::new()), error, leader_epoch: -1 };
    let one = |topic: &str, index: i32| {
        let Some(group) = group else { return none(index, errors::NONE) };
        let Ok(partition) = u32::try_from(index) else { return none(index, errors::NONE) };
        if stable && group.is_unstable(topic, partition) {
            return none(index, errors::UNSTABLE_OFFSET_COMMIT);
        }
        let found = topics.get(topic).and_then(|known| group.offset(topic, known.id, partition));
        found.map_or_else(
            || none(index, errors::NONE),
            |own| FetchedOffset {
                index,
                offset: own.offset,
                leader_epoch: own.epoch,
                metadata: Some(own.metadata.to_string()),
                error: errors::NONE,
            },
        )
    };
    Ok(match asked {
        Some(asked) => asked
            .iter()
            .map(|topic| FetchedOffsetTopic {
                name: topic.name.clone(),
                partitions: topic.partitions.iter().map(|index| one(&topic.name, *index)).collect(),
            })
            .collect(),
        None => {
            let mut all: BTreeMap<&str, Vec<FetchedOffset>> = BTreeMap::new();
            for (topic, partition, _) in group.into_iter().flat_map(|group| group.offsets()) {
                let found = one(topic, partition as i32);
                if found.offset >= 0 || found.error != errors::NONE {
                    all.entry(topic).or_default().push(found);
                }
            }
            let all = all.into_iter();
            all.map(|(name, partitions)| FetchedOffsetTopic { name: name.to_owned(), partitions }).collect()
        }
    })
}

pub(super) async fn delete_offsets(door: &Arc<Door>, request: OffsetDeleteRequest, _: &Call) -> OffsetDeleteResponse {
    if let Err(error) = door.led(&request.group) {
        return OffsetDeleteResponse { error, ..OffsetDeleteResponse::default() };
    }
    let at = door.shard_of_name(&request.group);
    let partitions = request.topics.iter().flat_map(|topic| {
        let own = topic.partitions.iter().filter_map(|index| u32::try_from(*index).ok());
        own.map(|index| (topic.name.as_str(), index))
    });
    let command = Command::DeleteOffsets { group: &request.group, partitions: partitions.collect() };
    let done = within(door, door.propose(at, &command)).await;
    let error = code(&done, Failed::of_coordinator);
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter();
        let partitions = partitions.map(|index| CommittedPartition { index: *index, error });
        CommittedTopic { name: topic.name.clone(), partitions: partitions.collect() }
    });
    let topics = if error == errors::NONE { topics.collect() } else { Vec::new() };
    OffsetDeleteResponse { error, topics, throttle_ms: 0 }
}

pub(super) async fn delete_groups(door: &Arc<Door>, request: DeleteGroupsRequest, _: &Call) -> DeleteGroupsResponse {
    let mut results = Vec::new();
    for group in request.groups {
        let error = match door.led(&group) {
            Err(error) => error,
            Ok(led) => {
                let busy = led.own.lock().coordinator.get(&group).is_some_and(|own| own.phase() != Phase::Empty);
                if busy {
                    errors::NON_EMPTY_GROUP
                } else {
                    let at = door.shard_of_name(&group);
                    let done = within(door, door.propose(at, &Command::DeleteGroup { group: &group })).await;
                    if matches!(done, Ok(Outcome::Done)) {
                        led.own.lock().coordinator.forget(&group);
                    }
                    code(&done, Failed::of_coordinator)
                }
            }
        };
        results.push(DeletedGroup { group, error });
    }
    DeleteGroupsResponse { results, throttle_ms: 0 }
}

pub(super) fn describe(door: &Arc<Door>, request: DescribeGroupsRequest, _: &Call) -> DescribeGroupsResponse {
    let one = |group: String| {
        let dead = |group, error| DescribedGroup { error, group, state: "Dead".into(), ..DescribedGroup::default() };
        let led = match door.led(&group) {
            Ok(led) => led,
            Err(error) => return dead(group, error),
        };
        let own = led.own.lock();
        let Some(known) = own.coordinator.get(&group) else {
            let at = door.shard_of_name(&group);
            let exists = door.shards.shards[at].state().queue().group(&group).is_some();
            let mut described = dead(group, errors::NONE);
            if exists {
                described.state = Phase::Empty.word().into();
            }
            return described;
        };
        let members = known.members().map(|(member, subscription)| DescribedMember {
            member: member.id.clone(),
            instance: member.instance.clone(),
            client_id: member.client.clone(),
            client_host: member.host.clone(),
            metadata: subscription.into(),
            assignment: member.assignment.clone().into(),
        });
        DescribedGroup {
            error: errors::NONE,
            state: known.phase().word().into(),
            protocol_type: known.kind().to_owned(),
            protocol: known.protocol().to_owned(),
            members: members.collect(),
            group,
            ..DescribedGroup::default()
        }
    };
    DescribeGroupsResponse { groups: request.groups.into_iter().map(one).collect(), throttle_ms: 0 }
}

pub(super) fn list(door: &Arc<Door>, request: ListGroupsRequest, _: &Call) -> ListGroupsResponse {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for shard in door.shards.shards.iter().filter(|shard| !shard.is_led_elsewhere()) {
        for (name, group) in shard.state().queue().groups() {
            names.insert(name.to_owned(), group.generation().map(|own| own.kind.clone()).unwrap_or_default());
        }
    }
    let led: Vec<Arc<Led>> = door.groups.shards.lock().values().cloned().collect();
    for led in &led {
        for (name, group) in led.own.lock().coordinator.iter() {
            names.insert(name.to_owned(), group.kind().to_owned());
        }
    }
    let listed = names.into_iter().filter_map(|(group, protocol_type)| {
        let led = door.led(&group).ok()?;
        let phase = led.own.lock().coordinator.get(&group).map_or(Phase::Empty, |own| own.phase());
        let state = phase.word().to_owned();
        let is_asked =
            request.states.is_empty() || request.states.iter().any(|asked| asked.eq_ignore_ascii_case(&state));
        is_asked.then_some(ListedGroup { group, protocol_type, state })
    });
    ListGroupsResponse { groups: listed.collect(), ..ListGroupsResponse::default() }
}

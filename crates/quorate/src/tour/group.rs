//! A member of a consumer group, as Kafka's classic protocol wants it: whoever is told to lead deals the partitions out, all beat their
//! hearts, and where each stands is committed. Says what it was given to whoever started it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use doors::kafka::apis::key;
use doors::kafka::errors;
use doors::kafka::messages::{
    CommitPartition, CommitTopic, FindCoordinatorRequest, FindCoordinatorResponse, HeartbeatRequest, HeartbeatResponse,
    JoinGroupRequest, JoinGroupResponse, JoinProtocol, LeaveGroupRequest, LeaveGroupResponse, OffsetCommitRequest,
    OffsetCommitResponse, OffsetFetchRequest, OffsetFetchResponse, OffsetFetchTopic, SyncAssignment, SyncGroupRequest,
    SyncGroupResponse,
};

use super::PATIENCE;
use super::stream::{Doors, Wire, records};

/// The shortest session that the door takes (Kafka's `group.min.session.timeout.ms`).
pub const SESSION: Duration = Duration::from_secs(6);
const BEAT: Duration = Duration::from_millis(300);
const COMMIT: Duration = Duration::from_millis(500);
const FETCH_WAIT: Duration = Duration::from_millis(50);
const JOIN: (i16, i16) = (key::JOIN_GROUP, 4);

/// How a member is told to end.
pub mod end {
    /// Not at all.
    pub const STAY: u8 = 0;
    /// With a last commit, and goodbye.
    pub const LEAVE: u8 = 1;
    /// Without a word.
    pub const DIE: u8 = 2;
}

/// A record that a member was given.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    pub member: usize,
    pub partition: i32,
    pub offset: i64,
    pub at: Instant,
}

/// A group, and what its members were given, in order.
pub struct Group<'a> {
    pub name: &'a str,
    pub topic: &'a str,
    pub partitions: i32,
    pub doors: &'a Doors,
    pub given: Mutex<Vec<Given>>,
    /// Who has which partition, as each member believes.
    pub holds: Mutex<BTreeMap<usize, Vec<i32>>>,
}

/// Why something could not be done.
enum Out {
    /// The group goes on without this.
    Again(Anew),
    /// The coordinator is not there, or not there any more.
    Lost,
}

/// How a member goes on.
enum Anew {
    /// The group deals anew.
    Rejoin,
    /// The group does not know it any more.
    Stranger,
}

struct Member<'a, 'b> {
    group: &'b Group<'a>,
    number: usize,
    told: &'b AtomicU8,
    id: String,
    generation: i32,
    coordinator: Wire,
}

impl<'a> Group<'a> {
    pub fn new(name: &'a str, topic: &'a str, partitions: i32, doors: &'a Doors) -> Group<'a> {
        let (given, holds) = (Mutex::default(), Mutex::default());
        Group { name, topic, partitions, doors, given, holds }
    }

    pub fn holds(&self) -> BTreeMap<usize, Vec<i32>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who coordinates, by `HOST:PORT`.
    pub fn coordinator(&self) -> Result<String, String> {
        let request = FindCoordinatorRequest { key: self.name.into(), ..FindCoordinatorRequest::default() };
        self.doors.ask(|wire| {
            let found: FindCoordinatorResponse =
                wire.ask((key::FIND_COORDINATOR, 1), &request).map_err(|error| error.to_string())?;
            if found.error == errors::NONE {
                Ok(format!("{}:{}", found.host, found.port))
            } else {
                Err(format!("{found:?}"))
            }
        })
    }

    /// A connection to whoever coordinates, asked for until there is one or the member is told to end.
    fn find(&self, told: &AtomicU8) -> Option<Wire> {
        let began = Instant::now();
        loop {
            if let Some(wire) = self.coordinator().ok().and_then(|at| Wire::open(&at).ok()) {
                return Some(wire);
            }
            let over = told.load(Ordering::Relaxed) == end::DIE || began.elapsed() > PATIENCE;
            if over {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Is a member until it is told to end.
    pub fn member(&self, number: usize, told: &AtomicU8) {
        if let Some(coordinator) = self.find(told) {
            let mut member = Member { group: self, number, told, id: String::new(), generation: -1, coordinator };
            // Nothing: it was told to end, or nobody coordinates any more.
            while member.be().is_some() {}
        }
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }
}

impl Member<'_, '_> {
    /// Does it, and once more elsewhere while the coordinator is not there: whoever takes over knows the group as it was. Nothing where the
    /// member was told to end.
    fn insist<T>(&mut self, mut what: impl FnMut(&mut Self) -> Result<T, Out>) -> Option<Result<T, Anew>> {
        let began = Instant::now();
        loop {
            match what(self) {
                Ok(done) => return Some(Ok(done)),
                Err(Out::Again(anew)) => return Some(Err(anew)),
                Err(Out::Lost) if began.elapsed() > PATIENCE || self.told.load(Ordering::Relaxed) == end::DIE => {
                    return None;
                }
                Err(Out::Lost) => {
                    std::thread::sleep(Duration::from_millis(10));
                    self.coordinator = self.group.find(self.told)?;
                }
            }
        }
    }

    /// Joins, consumes, commits; nothing where it was told to end.
    fn be(&mut self) -> Option<()> {
        let mut next = match self.insist(Member::join)? {
            Ok(next) => next,
            Err(anew) => return self.anew(anew),
        };
        let hold = next.keys().copied().collect();
        self.group.holds.lock().unwrap_or_else(PoisonError::into_inner).insert(self.number, hold);
        let (mut beaten, mut committed) = (Instant::now(), Instant::now());
        let mut leaders: BTreeMap<String, (Wire, Vec<i32>)> = BTreeMap::new();
        loop {
            match self.told.load(Ordering::Relaxed) {
                end::STAY => {}
                end::LEAVE => {
                    self.insist(|own| own.commit(&next))?.ok();
                    self.insist(Member::leave)?.ok();
                    return None;
                }
                _ => return None,
            }
            if beaten.elapsed() > BEAT {
                beaten = Instant::now();
                if let Err(anew) = self.insist(Member::beat)? {
                    if matches!(anew, Anew::Rejoin) {
                        self.insist(|own| own.commit(&next))?.ok();
                    }
                    return self.anew(anew);
                }
            }
            if committed.elapsed() > COMMIT {
                committed = Instant::now();
                if let Err(anew) = self.insist(|own| own.commit(&next))? {
                    return self.anew(anew);
                }
            }
            if next.is_empty() {
                std::thread::sleep(FETCH_WAIT);
            } else if leaders.is_empty() {
                leaders = self.leaders(&next);
                if leaders.is_empty() {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            let mut moved = false;
            for (wire, own) in leaders.values_mut() {
                moved |= self.fetch(wire, own, &mut next).is_err();
            }
            if moved {
                leaders.clear();
            }
        }
    }

    /// Once more from the start, under the same id where it is worth anything.
    fn anew(&mut self, anew: Anew) -> Option<()> {
        if matches!(anew, Anew::Stranger) {
            self.id.clear();
        }
        Some(())
    }

    /// A connection to the leader of each partition, where all have one.
    fn leaders(&self, next: &BTreeMap<i32, i64>) -> BTreeMap<String, (Wire, Vec<i32>)> {
        let mut leaders: BTreeMap<String, (Wire, Vec<i32>)> = BTreeMap::new();
        let found = self.group.doors.leaders(self.group.topic).unwrap_or_default();
        for partition in next.keys() {
            let Some(leader) = found.get(*partition as usize) else { return BTreeMap::new() };
            if let Some((_, own)) = leaders.get_mut(leader) {
                own.push(*partition);
                continue;
            }
            let Ok(wire) = Wire::open(leader) else { return BTreeMap::new() };
            leaders.insert(leader.clone(), (wire, vec![*partition]));
        }
        leaders
    }

    fn fetch(&self, wire: &mut Wire, own: &[i32], next: &mut BTreeMap<i32, i64>) -> Result<(), String> {
        let from: Vec<(i32, i64)> = own.iter().map(|partition| (*partition, next[partition])).collect();
        let got = wire.fetch(self.group.topic, &from, 1 << 20, FETCH_WAIT).map_err(|error| error.to_string())?;
        for part in got {
            if part.error != errors::NONE {
                return Err(format!("error {}", part.error));
            }
            let Some(place) = next.get_mut(&part.index) else { continue };
            let bytes = part.records.0.concat();
            let mut given = self.group.given.lock().unwrap_or_else(PoisonError::into_inner);
            // Under the lock, so that what was given stands in order of time.
            let at = Instant::now();
            *place = records(&bytes, *place, |offset, _| {
                given.push(Given { member: self.number, partition: part.index, offset, at });
                Ok(())
            })?;
        }
        Ok(())
    }

    fn out(error: i16) -> Result<(), Out> {
        match error {
            errors::NONE => Ok(()),
            errors::REBALANCE_IN_PROGRESS => Err(Out::Again(Anew::Rejoin)),
            errors::UNKNOWN_MEMBER_ID | errors::ILLEGAL_GENERATION => Err(Out::Again(Anew::Stranger)),
            _ => Err(Out::Lost),
        }
    }

    /// Joins and is dealt partitions; where it goes on in each.
    fn join(&mut self) -> Result<BTreeMap<i32, i64>, Out> {
        let lost = |_| Out::Lost;
        let metadata = [&[0, 0, 0, 0, 0, 1][..], &text(self.group.topic), &[0xff; 4]].concat();
        let request = JoinGroupRequest {
            group: self.group.name.into(),
            session_timeout_ms: SESSION.as_millis() as i32,
            rebalance_timeout_ms: SESSION.as_millis() as i32,
            member: self.id.clone(),
            protocol_type: "consumer".into(),
            protocols: vec![JoinProtocol { name: "range".into(), metadata: metadata.into() }],
            ..JoinGroupRequest::default()
        };
        self.coordinator.be_patient(2 * SESSION).map_err(lost)?;
        let mut joined: JoinGroupResponse = self.coordinator.ask(JOIN, &request).map_err(lost)?;
        if joined.error == errors::MEMBER_ID_REQUIRED {
            let request = JoinGroupRequest { member: joined.member, ..request };
            joined = self.coordinator.ask(JOIN, &request).map_err(lost)?;
        }
        Member::out(joined.error)?;
        (self.id, self.generation) = (joined.member.clone(), joined.generation);
        let mut assignments = Vec::new();
        for (at, other) in joined.members.iter().enumerate() {
            let own: Vec<i32> = (0..self.group.partitions)
                .filter(|partition| *partition as usize % joined.members.len() == at)
                .collect();
            assignments.push(SyncAssignment { member: other.member.clone(), assignment: self.deal(&own).into() });
        }
        let request = SyncGroupRequest {
            group: self.group.name.into(),
            generation: self.generation,
            member: self.id.clone(),
            assignments,
            ..SyncGroupRequest::default()
        };
        let synced: SyncGroupResponse = self.coordinator.ask((key::SYNC_GROUP, 1), &request).map_err(lost)?;
        Member::out(synced.error)?;
        self.coordinator.be_patient(Duration::from_secs(2)).map_err(lost)?;
        let own = dealt(&synced.assignment).ok_or(Out::Lost)?;
        let topic = OffsetFetchTopic { name: self.group.topic.into(), partitions: own.clone() };
        let request = OffsetFetchRequest {
            group: self.group.name.into(),
            topics: Some(vec![topic]),
            ..OffsetFetchRequest::default()
        };
        let found: OffsetFetchResponse = self.coordinator.ask((key::OFFSET_FETCH, 3), &request).map_err(lost)?;
        Member::out(found.error)?;
        let found = found.topics.into_iter().flat_map(|topic| topic.partitions);
        // -1 where nobody committed yet: from the beginning.
        let next: BTreeMap<i32, i64> = found.map(|place| (place.index, place.offset.max(0))).collect();
        if next.len() == own.len() { Ok(next) } else { Err(Out::Lost) }
    }

    fn deal(&self, own: &[i32]) -> Vec<u8> {
        let mut bytes = [&[0, 0, 0, 0, 0, 1][..], &text(self.group.topic)].concat();
        bytes.extend_from_slice(&(own.len() as i32).to_be_bytes());
        own.iter().for_each(|partition| bytes.extend_from_slice(&partition.to_be_bytes()));
        bytes.extend_from_slice(&[0xff; 4]);
        bytes
    }

    fn beat(&mut self) -> Result<(), Out> {
        let request = HeartbeatRequest {
            group: self.group.name.into(),
            generation: self.generation,
            member: self.id.clone(),
            ..HeartbeatRequest::default()
        };
        let answer: HeartbeatResponse = self.coordinator.ask((key::HEARTBEAT, 1), &request).map_err(|_| Out::Lost)?;
        Member::out(answer.error)
    }

    fn commit(&mut self, next: &BTreeMap<i32, i64>) -> Result<(), Out> {
        let place = |(index, offset): (&i32, &i64)| CommitPartition {
            index: *index,
            offset: *offset,
            ..CommitPartition::default()
        };
        let topics = vec![CommitTopic { name: self.group.topic.into(), partitions: next.iter().map(place).collect() }];
        let request = OffsetCommitRequest {
            group: self.group.name.into(),
            generation: self.generation,
            member: self.id.clone(),
            topics,
            ..OffsetCommitRequest::default()
        };
        let answer: OffsetCommitResponse =
            self.coordinator.ask((key::OFFSET_COMMIT, 3), &request).map_err(|_| Out::Lost)?;
        answer.topics.iter().flat_map(|topic| &topic.partitions).try_for_each(|part| Member::out(part.error))
    }

    fn leave(&mut self) -> Result<(), Out> {
        let request = LeaveGroupRequest {
            group: self.group.name.into(),
            member: self.id.clone(),
            ..LeaveGroupRequest::default()
        };
        let answer: LeaveGroupResponse =
            self.coordinator.ask((key::LEAVE_GROUP, 1), &request).map_err(|_| Out::Lost)?;
        Member::out(answer.error)
    }
}

/// A string as Kafka's consumers write it.
fn text(word: &str) -> Vec<u8> {
    [&(word.len() as i16).to_be_bytes()[..], word.as_bytes()].concat()
}

/// The partitions of an assignment that [`Member::deal`] has written.
fn dealt(bytes: &[u8]) -> Option<Vec<i32>> {
    if bytes.is_empty() {
        return Some(Vec::new());
    }
    let name = usize::from(u16::from_be_bytes(bytes.get(6..8)?.try_into().ok()?));
    let rest = bytes.get(8 + name..)?;
    let count = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let own = rest.get(4..4 + 4 * count)?;
    Some(own.chunks(4).map(|four| i32::from_be_bytes(four.try_into().expect("four bytes"))).collect())
}

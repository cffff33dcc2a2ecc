//! What must be so whatever the disk did: the log as it was written, and every shard replayed from its first entry.
//!
//! The replay is a second replica that never saw a crash, a snapshot or a client. What the node answers and what it holds
//! after a restart is compared with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base::{GroupId, Limits};
use consensus::{Entry, EntryKind};
use shard::driver::{Append, Applied};
use shard::entry::{self, Part, Unit};
use shard::pending::{Batch, Place};
use shard::reply::Protocol;
use shard::state::{Planted, State};
use store::codec::{Input, Stored};
use store::keyspace::Keyspaces;

use crate::model::show;
use crate::node::{Answer, Answers};

/// The words of a logged request, all parts of a MULTI one after the other.
pub type Words = Vec<Vec<u8>>;

/// A logged request that was handed to the driver.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Its number.
    pub request: u64,
    /// What it says.
    pub words: Words,
}

/// How a request ended in this step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Reply(Vec<u8>),
    /// It waits.
    Parked(u64),
}

/// Whether an answer says that nothing was done.
pub fn is_refusal(reply: &[u8]) -> bool {
    reply.starts_with(b"-MISCONF")
        || reply.starts_with(b"-LOADING")
        || reply.starts_with(b"-BUSY ")
        || reply.starts_with(b"-TRYAGAIN ")
}

struct Lane {
    /// As written; index 1 first.
    entries: Vec<Entry>,
    shadow: State,
    sent: VecDeque<Sent>,
    /// The newest term that the node has acted in, durably.
    term: u64,
    pending_term: u64,
    /// Whether this life has written an entry yet.
    led: bool,
}

/// See the module.
pub struct Oracle {
    lanes: BTreeMap<GroupId, Lane>,
    /// Waits of this life's clients; those of earlier ones are nobody's.
    waits: BTreeSet<u64>,
    limits: Limits,
    planted: Planted,
}

fn fresh(group: GroupId, limits: &Limits, planted: Planted) -> State {
    let mut state = State::new(group, limits, Arc::new(Keyspaces::default()), 0);
    state.planted = planted;
    state
}

impl Oracle {
    /// Nothing has happened yet in these groups.
    pub fn new(groups: usize, limits: &Limits, planted: Planted) -> Oracle {
        let lane = |group| Lane {
            entries: Vec::new(),
            shadow: fresh(group, limits, planted),
            sent: VecDeque::new(),
            term: 0,
            pending_term: 0,
            led: false,
        };
        let lanes = (0..groups as u32).map(|group| (GroupId(group), lane(GroupId(group)))).collect();
        Oracle { lanes, waits: BTreeSet::new(), limits: limits.clone(), planted }
    }

    /// Entries written so far.
    pub fn entries(&self) -> usize {
        self.lanes.values().map(|lane| lane.entries.len()).sum()
    }

    /// A logged request goes to the driver.
    pub fn send(&mut self, group: GroupId, sent: Sent) {
        if let Some(lane) = self.lanes.get_mut(&group) {
            lane.sent.push_back(sent);
        }
    }

    /// The node died: what was under way is forgotten.
    pub fn restart(&mut self) {
        self.waits.clear();
        for lane in self.lanes.values_mut() {
            lane.sent.clear();
            lane.pending_term = 0;
            lane.led = false;
        }
    }

    /// The driver wants this written.
    pub fn append(&mut self, append: &Append) -> Result<(), String> {
        for (group, entry) in &append.entries {
            let lane = self.lanes.get_mut(group).ok_or("an entry of an unknown group")?;
            let applied = lane.shadow.applied();
            if entry.index <= applied {
                return Err(format!(
                    "{group}: entry {} is written anew, but everything up to {applied} was applied and told: acknowledged entries are lost",
                    entry.index
                ));
            }
            if entry.index > lane.entries.len() as u64 + 1 {
                return Err(format!("{group}: entry {} after {}", entry.index, lane.entries.len()));
            }
            if entry.term < lane.term || (!lane.led && entry.term == lane.term) {
                return Err(format!(
                    "{group}: entry {} is of term {}, although an earlier life acted in term {}",
                    entry.index, entry.term, lane.term
                ));
            }
            lane.led = true;
            lane.entries.truncate(entry.index as usize - 1);
            lane.entries.push(entry.clone());
            lane.pending_term = lane.pending_term.max(entry.term);
        }
        for (group, hard) in &append.hard_states {
            let lane = self.lanes.get_mut(group).ok_or("a hard state of an unknown group")?;
            if hard.term < lane.term {
                return Err(format!("{group}: the term went back from {} to {}", lane.term, hard.term));
            }
            if hard.commit > lane.entries.len() as u64 {
                return Err(format!("{group}: committed {} of {}", hard.commit, lane.entries.len()));
            }
            lane.pending_term = lane.pending_term.max(hard.term);
        }
        Ok(())
    }

    /// The last append was durable.
    pub fn durable(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.term = lane.term.max(std::mem::take(&mut lane.pending_term));
        }
    }

    /// What a step applied and answered. `outcomes` has the logged requests that ended in this step; those accounted for
    /// are taken out.
    pub fn step(
        &mut self,
        applied: &[Applied],
        outcomes: &mut BTreeMap<u64, Outcome>,
        served: &[(u64, Vec<u8>)],
    ) -> Result<(), String> {
        let mut expected = Vec::new();
        self.waits.extend(outcomes.values().filter_map(|outcome| match outcome {
            Outcome::Parked(waiter) => Some(*waiter),
            Outcome::Reply(_) => None,
        }));
        for applied in applied {
            let group = applied.group;
            let lane = self.lanes.get_mut(&group).ok_or("an unknown group applied something")?;
            let at = applied.index as usize;
            let entry = lane.entries.get(at - 1).ok_or_else(|| format!("{group}: applied {at}, never written"))?;
            if entry.data != applied.data {
                return Err(format!("{group}: entry {at} is not what was written there"));
            }
            while lane.shadow.applied() + 1 < applied.index {
                lane.pass(None)?;
            }
            if lane.shadow.applied() < applied.index {
                let units = units(&applied.data)?;
                let answers = lane.pass(Some(units.len()))?;
                lane.compare(group, at, &units, answers, outcomes, &mut expected)?;
            }
        }
        // Whatever is left was refused before it became an entry.
        for lane in self.lanes.values_mut() {
            lane.sent.retain(|sent| match outcomes.get(&sent.request) {
                Some(Outcome::Reply(reply)) if is_refusal(reply) => {
                    outcomes.remove(&sent.request);
                    false
                }
                _ => true,
            });
        }
        if let Some((request, outcome)) = outcomes.first_key_value() {
            return Err(format!("request {request} ended with {outcome:?} although no entry of it was applied"));
        }
        // A leader whose log has stopped ends its clients' waits with an error; no entry says so, and no replica does.
        let own = |served: &&(u64, Vec<u8>)| self.waits.contains(&served.0) && !is_refusal(&served.1);
        if !expected.iter().filter(own).eq(served.iter().filter(own)) {
            return Err(format!("waits were served {served:?}, the replica says {expected:?}"));
        }
        Ok(())
    }

    /// After a restart, when everything that survived has been applied: the node's states against the replay.
    pub fn compare(&mut self, group: GroupId, state: &mut State) -> Result<(), String> {
        let lane = self.lanes.get_mut(&group).ok_or("an unknown group")?;
        while lane.shadow.applied() < state.applied() {
            lane.pass(None)?;
        }
        if lane.shadow.applied() > state.applied() {
            let (told, there) = (lane.shadow.applied(), state.applied());
            return Err(format!("{group}: {told} entries were applied and told, {there} are there"));
        }
        differ(&mut lane.shadow, state).map_err(|what| format!("{group} at {}: {what}", state.applied()))
    }

    /// A state that was recovered elsewhere, at whatever index, against a replay of its own.
    pub fn compare_any(&self, group: GroupId, state: &mut State) -> Result<(), String> {
        let lane = self.lanes.get(&group).ok_or("an unknown group")?;
        let mut replay = fresh(group, &self.limits, self.planted);
        let upto = state.applied() as usize;
        if upto > lane.entries.len() {
            return Err(format!("{group}: {upto} entries applied, {} were ever written", lane.entries.len()));
        }
        for entry in &lane.entries[..upto] {
            apply(&mut replay, entry, None)?;
        }
        differ(&mut replay, state).map_err(|what| format!("{group} at {upto}: {what}"))
    }

    /// The entry at this place as written.
    pub fn entry(&self, group: GroupId, index: u64) -> Option<&Entry> {
        self.lanes.get(&group)?.entries.get(index as usize - 1)
    }
}

impl Lane {
    /// Applies the next entry to the replica, with as many callers as units, or with none.
    fn pass(&mut self, units: Option<usize>) -> Result<Vec<Answer>, String> {
        let index = self.shadow.applied() as usize;
        let entry = self.entries.get(index).ok_or_else(|| format!("entry {} was never written", index + 1))?;
        apply(&mut self.shadow, entry, units)
    }

    fn compare(
        &mut self,
        group: GroupId,
        index: usize,
        units: &[Option<Words>],
        answers: Vec<Answer>,
        outcomes: &mut BTreeMap<u64, Outcome>,
        expected: &mut Vec<(u64, Vec<u8>)>,
    ) -> Result<(), String> {
        let mut own = BTreeMap::new();
        for answer in answers {
            match answer {
                Answer::Reply(unit, bytes) => drop(own.insert(unit, Outcome::Reply(bytes))),
                Answer::Parked(unit, waiter) => drop(own.insert(unit, Outcome::Parked(waiter))),
                Answer::Served(waiter, bytes) => expected.push((waiter, bytes)),
                Answer::Lost(_) | Answer::Abandoned(_) => {}
            }
        }
        for (number, unit) in units.iter().enumerate() {
            let Some(words) = unit else { continue };
            let sent = loop {
                let Some(sent) = self.sent.pop_front() else { break None };
                if sent.words == *words {
                    break Some(sent);
                }
                match outcomes.remove(&sent.request) {
                    Some(Outcome::Reply(reply)) if is_refusal(&reply) => {}
                    other => {
                        return Err(format!(
                            "{group}: entry {index} holds {:?} where {:?} was due ({other:?})",
                            words.iter().map(|word| show(word)).collect::<Vec<_>>(),
                            sent.words.iter().map(|word| show(word)).collect::<Vec<_>>()
                        ));
                    }
                }
            };
            // Without a sender it is of an earlier life.
            let Some(sent) = sent else { continue };
            let outcome = outcomes.remove(&sent.request);
            let wanted = own.remove(&(number as u64));
            if outcome != wanted {
                return Err(format!(
                    "{group}: entry {index}, request {}: {:?}, the replica says {:?}",
                    sent.request, outcome, wanted
                ));
            }
        }
        Ok(())
    }
}

fn apply(state: &mut State, entry: &Entry, units: Option<usize>) -> Result<Vec<Answer>, String> {
    let mut answers = Answers::default();
    if entry.kind == EntryKind::Membership {
        state.pass(entry.index);
        return Ok(answers.0);
    }
    let mut callers = Batch::<u64>::default();
    for unit in 0..units.unwrap_or(0) {
        callers.command(Place::Logged, false, unit as u64, 0, Protocol::Resp2, &[b"X"]);
    }
    let callers = units.is_some().then_some(&callers);
    state
        .apply(entry.index, &entry.data, callers, &mut answers)
        .map_err(|corrupt| format!("entry {} cannot be applied: {corrupt}", entry.index))?;
    Ok(answers.0)
}

/// The units of an entry; the words of those that a client sent.
fn units(data: &[u8]) -> Result<Vec<Option<Words>>, String> {
    let mut input = Input::new(data);
    let mut units = Vec::new();
    if data.is_empty() {
        return Ok(units);
    }
    let failed = |corrupt: store::codec::Corrupt| format!("an entry cannot be read: {corrupt}");
    entry::read_header(&mut input).map_err(failed)?;
    let owned = |words: &[&[u8]]| words.iter().map(|word| word.to_vec()).collect::<Vec<_>>();
    while !input.is_empty() {
        units.push(match entry::read_unit(&mut input).map_err(failed)? {
            Unit::Command { words, .. } => Some(owned(&words)),
            Unit::Multi(mut multi) => {
                let mut all = Vec::new();
                for _ in 0..multi.count {
                    if let Part::Command(_, words) = multi.next_part().map_err(failed)? {
                        all.extend(owned(&words));
                    }
                }
                Some(all)
            }
            _ => None,
        });
    }
    Ok(units)
}

/// What a chunk of a snapshot begins with that holds none of the keys but the registry's, the queue's, etcd's.
const MARKED_CHUNKS: std::ops::RangeInclusive<u8> = 0xC0..=0xCF;

/// All of a state that replicas share: the first chunk of a snapshot, then each key's stored form, sorted.
pub fn contents(state: &mut State) -> Result<Vec<Vec<u8>>, String> {
    let planted = std::mem::take(&mut state.planted);
    let (_, first) = state.begin_snapshot();
    state.planted = planted;
    let (mut bytes, mut parts) = (Vec::new(), Vec::new());
    loop {
        let begin = bytes.len();
        let done = state.walk(usize::MAX >> 1, &mut bytes);
        if bytes.get(begin).is_some_and(|first| MARKED_CHUNKS.contains(first)) {
            parts.push(bytes.split_off(begin));
        }
        if done != Some(false) {
            break;
        }
    }
    let failed = |corrupt: store::codec::Corrupt| format!("a key cannot be read back: {corrupt}");
    let mut input = Input::new(&bytes);
    while !input.is_empty() {
        let mut part = vec![input.u8().map_err(failed)?];
        store::codec::put_varint(&mut part, input.varint().map_err(failed)?);
        store::codec::put_varint(&mut part, input.varint().map_err(failed)?);
        store::codec::put_bytes(&mut part, input.bytes().map_err(failed)?);
        store::value::Value::decode(&mut input).map_err(failed)?.encode(&mut part);
        parts.push(part);
    }
    parts.sort();
    parts.insert(0, first);
    Ok(parts)
}

fn differ(one: &mut State, other: &mut State) -> Result<(), String> {
    let (expected, found) = (contents(one)?, contents(other)?);
    if expected == found {
        return Ok(());
    }
    if expected[0] != found[0] {
        let at = expected[0].iter().zip(&found[0]).take_while(|(a, b)| a == b).count();
        return Err(format!(
            "the replay's books (time, waits, scripts, versions) are other ones, from byte {at} of {} and {}",
            expected[0].len(),
            found[0].len()
        ));
    }
    let lacks = expected.iter().find(|part| !found.contains(part)).map(|part| show(part));
    let extra = found.iter().find(|part| !expected.contains(part)).map(|part| show(part));
    Err(format!("the replay's keys are other ones: missing {lacks:?}, instead {extra:?}"))
}

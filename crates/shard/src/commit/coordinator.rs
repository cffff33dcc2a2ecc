//! What a door does for one transaction: units out, answers in. Pure; whoever drives it has one line of requests to each group,
//! whose answers come in order.

use std::collections::BTreeMap;

use base::{GroupId, Millis, Rng};
use store::codec::Input;

use super::{Age, Answer, DECIDE_WITHIN, Foreign, Step, TxId};
use crate::command::is;
use crate::entry::{self, MultiBuilder, Part, Unit, Watch};
use crate::reply::Protocol;

/// What is to be run.
#[derive(Clone, Debug)]
pub enum Body {
    /// A command, as in an entry.
    Command(Vec<u8>),
    /// MULTI … EXEC.
    Multi(MultiBuilder, Protocol),
}

/// Whose the keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Who decides.
    pub home: GroupId,
    /// All that have a part: keys, and watched keys.
    pub parts: BTreeMap<GroupId, (Vec<Vec<u8>>, Vec<Watch>)>,
}

impl Plan {
    /// The home is whoever has the most of them; of equals the first.
    pub fn of(keys: &[Vec<u8>], watches: &[Watch], group_of: impl Fn(&[u8]) -> GroupId) -> Plan {
        let mut parts = BTreeMap::<GroupId, (Vec<Vec<u8>>, Vec<Watch>)>::new();
        for key in keys {
            parts.entry(group_of(key)).or_default().0.push(key.clone());
        }
        for watch in watches {
            parts.entry(group_of(&watch.key)).or_default().1.push(watch.clone());
        }
        let weight = |part: &(Vec<Vec<u8>>, Vec<Watch>)| part.0.len() + part.1.len();
        let heaviest = parts.iter().rev().max_by_key(|(_, part)| weight(part));
        Plan { home: heaviest.map_or(GroupId(1), |(group, _)| *group), parts }
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Ask a group.
    Ask {
        /// Which.
        group: GroupId,
        /// The unit.
        unit: Vec<u8>,
    },
    /// The client's answer.
    Answer(Vec<u8>),
    /// The outcome is unknown: the client is disconnected.
    Doom,
    /// Begin again ([`Coordinator::begin`]) after so many milliseconds; at once for none.
    Again(u64),
    /// Nothing more is to be done, and nothing is under way.
    Over,
}

/// What came of the oldest question to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// Its answer.
    Answer(&'a [u8]),
    /// Nobody knows, and nothing that was asked of it will be answered.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Preparing,
    Deciding,
    Finishing,
    Forgetting,
    /// Answers are let come; then it begins again, or not.
    Aborting(bool),
    /// An older transaction holds keys of a shard: as soon as they are free, it begins again.
    Waiting,
    /// Something watched has changed; perhaps by this very commit, which has a name: what is kept under it is the answer.
    Recalling,
    Over,
}

/// Bugs to be found.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// The client is answered before the decision is in the log.
    pub answers_early: bool,
    /// The home forgets before the participants have finished.
    pub forgets_early: bool,
    /// Whoever is told to begin again keeps its locks.
    pub keeps_locks: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    body: Body,
    age: Age,
    incarnation: u64,
    stage: Stage,
    tx: TxId,
    deadline: Millis,
    plan: Plan,
    /// Questions to each group that have no answer yet.
    pending: BTreeMap<GroupId, usize>,
    values: BTreeMap<GroupId, Vec<u8>>,
    done: Vec<GroupId>,
    /// Groups that write, once it has been decided.
    has_decision: bool,
    /// The latest time that a shard has told.
    ahead: Millis,
    attempts: u32,
    answered: bool,
    /// No more attempts.
    is_late: bool,
    /// Whose keys are held by an older one.
    barred: Option<GroupId>,
    /// The name's key and its database are to be asked about.
    recalls: Option<(u8, Vec<u8>)>,
    why: Vec<u8>,
    rng: Rng,
    /// Bugs.
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

const TOO_OLD: &[u8] =
    b"-TRYAGAIN transactions across shards that began earlier hold these keys; nothing was done, try again in a moment\r\n";

impl Coordinator {
    /// A transaction that has just begun.
    pub fn new(body: Body, age: Age, incarnation: u64) -> Coordinator {
        let tx = TxId { home: GroupId(0), origin: age.origin, incarnation, number: age.number };
        Coordinator {
            body,
            age,
            incarnation,
            stage: Stage::Idle,
            tx,
            deadline: 0,
            plan: Plan { home: GroupId(0), parts: BTreeMap::new() },
            pending: BTreeMap::new(),
            values: BTreeMap::new(),
            done: Vec::new(),
            has_decision: false,
            ahead: 0,
            attempts: 0,
            answered: false,
            is_late: false,
            barred: None,
            recalls: None,
            why: Vec::new(),
            rng: Rng::new(age.at ^ age.number.rotate_left(32) ^ age.origin),
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }

    /// Whether its client has been told.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// Begins an attempt. `number` is new, `wall` the wall clock.
    pub fn begin(&mut self, plan: Plan, number: u64, wall: Millis, acts: &mut Vec<Act>) {
        self.tx = TxId { home: plan.home, origin: self.age.origin, incarnation: self.incarnation, number };
        self.deadline = wall.max(self.ahead) + DECIDE_WITHIN;
        self.plan = plan;
        self.barred = None;
        self.attempts += 1;
        self.stage = Stage::Preparing;
        self.values.clear();
        self.done.clear();
        self.pending.clear();
        let (tx, age, deadline) = (self.tx, self.age, self.deadline);
        for (group, (keys, watches)) in self.plan.parts.iter().filter(|(group, _)| **group != tx.home) {
            let keys = keys.iter().map(Vec::as_slice).collect();
            let unit = Step::Prepare { tx, age, deadline, keys, watches: watches.clone() }.bytes();
            acts.push(Act::Ask { group: *group, unit });
            *self.pending.entry(*group).or_default() += 1;
        }
        if self.pending.is_empty() {
            self.decide(acts);
        }
    }

    /// The client has waited long enough: this attempt is the last one, unless it has been decided already.
    pub fn hurry(&mut self, acts: &mut Vec<Act>) {
        self.is_late = true;
        match self.stage {
            Stage::Preparing => self.abort(true, acts),
            Stage::Idle | Stage::Waiting => self.give_up(acts),
            _ => {}
        }
    }

    /// What came of the oldest question to this group.
    pub fn heard(&mut self, group: GroupId, heard: Heard<'_>, acts: &mut Vec<Act>) {
        match heard {
            Heard::Unknown => {
                self.pending.remove(&group);
            }
            Heard::Answer(_) => {
                if let Some(count) = self.pending.get_mut(&group) {
                    *count -= 1;
                    if *count == 0 {
                        self.pending.remove(&group);
                    }
                }
            }
        }
        match self.stage {
            Stage::Preparing => self.prepared(group, heard, acts),
            Stage::Deciding => self.decided(heard, acts),
            Stage::Finishing | Stage::Forgetting | Stage::Aborting(_) => self.tidied(group, heard, acts),
            Stage::Waiting if self.pending.is_empty() => {
                self.stage = Stage::Idle;
                // Whatever was answered: free, or somebody else's by now.
                acts.push(Act::Again(if matches!(heard, Heard::Answer(_)) { 0 } else { 1 + self.rng.below(32) }));
            }
            Stage::Recalling => self.recalled(heard, acts),
            Stage::Idle | Stage::Waiting | Stage::Over => {}
        }
    }

    fn recalled(&mut self, heard: Heard<'_>, acts: &mut Vec<Act>) {
        match heard {
            Heard::Answer(b"$-1\r\n" | b"_\r\n") => self.answer(self.null(), acts),
            Heard::Answer(bytes) => self.answer(bytes.to_vec(), acts),
            // Nobody can say whether it was done before.
            Heard::Unknown => {
                if !std::mem::replace(&mut self.answered, true) {
                    acts.push(Act::Doom);
                }
            }
        }
        self.end(acts);
    }

    /// What EXEC answers where something watched has changed.
    fn null(&self) -> Vec<u8> {
        match &self.body {
            Body::Multi(_, Protocol::Resp3) => b"_\r\n".to_vec(),
            _ => b"*-1\r\n".to_vec(),
        }
    }

    /// The key under which the answer is kept, where this commit has a name.
    fn name(&self) -> Option<(u8, Vec<u8>)> {
        let Body::Multi(multi, protocol) = &self.body else { return None };
        let mut unit = Vec::new();
        multi.finish(&mut unit, *protocol, &[]);
        match entry::read_unit(&mut Input::new(&unit)) {
            Ok(Unit::Multi(mut multi)) if multi.count > 0 => match multi.next_part() {
                Ok(Part::Command(db, words)) if is(words[0], "q.txid") && words.len() > 1 => {
                    Some((db, words[1].to_vec()))
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn prepared(&mut self, group: GroupId, heard: Heard<'_>, acts: &mut Vec<Act>) {
        let Heard::Answer(bytes) = heard else {
            return self.abort(true, acts);
        };
        match Answer::read(bytes) {
            Ok(Answer::Prepared { stamp, values }) => {
                self.ahead = self.ahead.max(stamp);
                self.values.insert(group, values);
                if self.pending.is_empty() {
                    self.decide(acts);
                }
            }
            other => self.refused(group, bytes, other.ok(), acts),
        }
    }

    /// It cannot go on like this.
    fn refused(&mut self, group: GroupId, bytes: &[u8], answer: Option<Answer>, acts: &mut Vec<Act>) {
        match answer {
            Some(Answer::Changed) => {
                self.recalls = self.name();
                if self.recalls.is_none() {
                    self.answer(self.null(), acts);
                }
                self.abort(false, acts);
            }
            Some(Answer::Late { stamp }) => {
                self.ahead = self.ahead.max(stamp);
                self.abort(true, acts);
            }
            Some(answer) => {
                if answer == Answer::Die {
                    self.barred = Some(group);
                }
                self.abort(true, acts);
            }
            None => {
                let again = [b"-TRYAGAIN".as_slice(), b"-LOADING"].iter().any(|word| bytes.starts_with(word));
                self.why = bytes.to_vec();
                if !again {
                    self.answer(bytes.to_vec(), acts);
                }
                self.abort(again, acts);
            }
        }
    }

    fn decide(&mut self, acts: &mut Vec<Act>) {
        self.stage = Stage::Deciding;
        let home = self.tx.home;
        let mut unit = Vec::new();
        match &self.body {
            Body::Command(bytes) => unit.extend_from_slice(bytes),
            Body::Multi(multi, protocol) => {
                let watches = self.plan.parts.get(&home).map(|part| part.1.as_slice()).unwrap_or_default();
                multi.finish(&mut unit, *protocol, watches);
            }
        }
        let others = self.plan.parts.iter().filter(|(group, _)| **group != home);
        let foreign = others.map(|(group, (keys, _))| Foreign {
            group: *group,
            keys: keys.iter().map(Vec::as_slice).collect(),
            values: self.values.get(group).map(Vec::as_slice).unwrap_or_default(),
        });
        let (tx, age, deadline) = (self.tx, self.age, self.deadline);
        let unit = Step::Decide { tx, age, deadline, foreign: foreign.collect(), unit: &unit }.bytes();
        self.ask(home, unit, acts);
        #[cfg(any(test, feature = "planted"))]
        if self.planted.answers_early {
            self.answer(b"*0\r\n".to_vec(), acts);
        }
    }

    fn ask(&mut self, group: GroupId, unit: Vec<u8>, acts: &mut Vec<Act>) {
        *self.pending.entry(group).or_default() += 1;
        acts.push(Act::Ask { group, unit });
    }

    fn decided(&mut self, heard: Heard<'_>, acts: &mut Vec<Act>) {
        let Heard::Answer(bytes) = heard else {
            // The participants will find out by themselves.
            if !std::mem::replace(&mut self.answered, true) {
                acts.push(Act::Doom);
            }
            self.stage = Stage::Over;
            return acts.push(Act::Over);
        };
        match Answer::read(bytes) {
            Ok(Answer::Committed { reply, writes }) => {
                self.answer(reply, acts);
                self.stage = Stage::Finishing;
                self.has_decision = writes.iter().any(|(_, records)| !records.is_empty());
                #[cfg(any(test, feature = "planted"))]
                if self.planted.forgets_early && self.has_decision {
                    let groups = writes.iter().map(|(group, _)| *group).collect();
                    let (home, unit) = (self.tx.home, Step::Forget { tx: self.tx, groups }.bytes());
                    self.ask(home, unit, acts);
                }
                for (group, records) in writes {
                    let writes = self.has_decision.then_some(records.as_slice());
                    let unit = Step::Finish { tx: self.tx, writes }.bytes();
                    self.ask(group, unit, acts);
                }
                if self.pending.is_empty() {
                    self.end(acts);
                }
            }
            other => self.refused(self.tx.home, bytes, other.ok(), acts),
        }
    }

    fn tidied(&mut self, group: GroupId, heard: Heard<'_>, acts: &mut Vec<Act>) {
        if let (Stage::Finishing, Heard::Answer(bytes)) = (&self.stage, heard)
            && Answer::read(bytes) == Ok(Answer::Done)
            && group != self.tx.home
        {
            self.done.push(group);
        }
        if !self.pending.is_empty() {
            return;
        }
        match self.stage {
            Stage::Finishing if self.has_decision && !self.done.is_empty() => {
                self.stage = Stage::Forgetting;
                let (home, groups) = (self.tx.home, std::mem::take(&mut self.done));
                let unit = Step::Forget { tx: self.tx, groups }.bytes();
                self.ask(home, unit, acts);
            }
            Stage::Aborting(false) if !self.answered && self.recalls.is_some() => {
                let (db, key) = self.recalls.take().expect("it was there a line ago");
                let mut parts = self.plan.parts.iter();
                let group = parts.find(|(_, part)| part.0.contains(&key)).map_or(self.tx.home, |(group, _)| *group);
                let protocol = if let Body::Multi(_, protocol) = &self.body { *protocol } else { Protocol::Resp2 };
                let mut unit = Vec::new();
                entry::put_command(&mut unit, db, protocol, &[b"Q.TXRESULT", &key]);
                self.stage = Stage::Recalling;
                self.ask(group, unit, acts);
            }
            Stage::Aborting(true) if !self.is_late && !self.answered && self.barred.is_some() => {
                // A read of the same keys waits behind whoever holds them, and holds nothing itself.
                let group = self.barred.take().unwrap_or(self.tx.home);
                let (keys, watches) = self.plan.parts.get(&group).cloned().unwrap_or_default();
                let mut words: Vec<&[u8]> = vec![b"EXISTS"];
                words.extend(keys.iter().map(Vec::as_slice).chain(watches.iter().map(|watch| watch.key.as_slice())));
                let mut unit = Vec::new();
                entry::put_command(&mut unit, 0, Protocol::Resp2, &words);
                self.stage = Stage::Waiting;
                self.ask(group, unit, acts);
            }
            Stage::Aborting(true) if !self.is_late && !self.answered => {
                self.stage = Stage::Idle;
                let most = 2_u64 << self.attempts.min(5);
                acts.push(Act::Again(1 + self.rng.below(most)));
            }
            Stage::Aborting(_) => self.give_up(acts),
            _ => self.end(acts),
        }
    }

    /// Nothing is done: whoever may have prepared lets go.
    fn abort(&mut self, again: bool, acts: &mut Vec<Act>) {
        self.stage = Stage::Aborting(again);
        let asked: Vec<GroupId> = self.plan.parts.keys().copied().filter(|group| *group != self.tx.home).collect();
        #[cfg(any(test, feature = "planted"))]
        let asked = if self.planted.keeps_locks { Vec::new() } else { asked };
        for group in asked {
            let unit = Step::Finish { tx: self.tx, writes: None }.bytes();
            self.ask(group, unit, acts);
        }
        if (self.is_late || !again) && self.recalls.is_none() {
            self.refuse(acts);
        }
        if self.pending.is_empty() {
            // As if the last answer had come.
            self.tidied(self.tx.home, Heard::Unknown, acts);
        }
    }

    fn refuse(&mut self, acts: &mut Vec<Act>) {
        let why = if self.why.is_empty() { TOO_OLD.to_vec() } else { self.why.clone() };
        self.answer(why, acts);
    }

    fn give_up(&mut self, acts: &mut Vec<Act>) {
        self.refuse(acts);
        self.end(acts);
    }

    fn end(&mut self, acts: &mut Vec<Act>) {
        if self.stage != Stage::Over {
            self.stage = Stage::Over;
            acts.push(Act::Over);
        }
    }

    fn answer(&mut self, bytes: Vec<u8>, acts: &mut Vec<Act>) {
        if !std::mem::replace(&mut self.answered, true) {
            acts.push(Act::Answer(bytes));
        }
    }
}

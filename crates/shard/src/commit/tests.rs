//! Many transactions over several shards, in any order of deliveries, with coordinators that die at any step: what a serial
//! order explains, and nothing left in the end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::{GroupId, Limits, Millis, Rng, SlotSet, key_slot};
use store::keyspace::{Durability, Keyspaces};

use super::*;
use crate::command;
use crate::commit::{Act, Body, Coordinator, Heard, Plan, Recovery};
use crate::entry::{self, MultiBuilder, Watch};
use crate::pending::{Batch, Place};
use crate::reply::{Protocol, Reply};
use crate::slots::{SlotAnswer, SlotChange, Slots};
use crate::state::{Call, Silent, Sink, State};

const SHARDS: usize = 3;

#[derive(Default)]
struct Mail {
    answers: Vec<(usize, Vec<u8>)>,
    tickets: BTreeMap<u64, usize>,
}

impl Sink<usize> for Mail {
    fn reply(&mut self, client: &usize, bytes: &[u8]) {
        self.answers.push((*client, bytes.to_vec()));
    }
    fn parked(&mut self, client: &usize, waiter: u64) {
        self.tickets.insert(waiter, *client);
    }
    fn served(&mut self, waiter: u64, bytes: &[u8]) {
        if let Some(client) = self.tickets.remove(&waiter) {
            self.answers.push((client, bytes.to_vec()));
        }
    }
    fn waits_on(&mut self, ticket: u64, waiter: u64) {
        if let Some(client) = self.tickets.remove(&ticket) {
            self.tickets.insert(waiter, client);
        }
    }
    fn lost(&mut self, _: &usize) {}
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

struct Node {
    leader: State,
    replica: State,
    index: u64,
    mail: Mail,
}

/// What asks: a transaction of a door, a recovery, or a command of one shard.
#[allow(clippy::large_enum_variant)]
enum Job {
    Door { own: Coordinator, keys: Vec<Vec<u8>>, watches: Vec<Watch> },
    Leader(Recovery),
    Single,
}

struct World {
    nodes: Vec<Node>,
    jobs: BTreeMap<usize, Job>,
    next: usize,
    now: Millis,
    rng: Rng,
    /// Units on their way, and answers, by job and group.
    out: BTreeMap<(usize, GroupId), VecDeque<Vec<u8>>>,
    back: BTreeMap<(usize, GroupId), VecDeque<Vec<u8>>>,
    under_way: BTreeMap<usize, (usize, GroupId)>,
    places: usize,
    /// Answers of the jobs that have one.
    told: BTreeMap<usize, Vec<u8>>,
    waiting: Vec<(Millis, usize)>,
    planted: fn(&mut State),
    planted_door: super::coordinator::Planted,
    steps: u64,
}

fn group_of(key: &[u8]) -> GroupId {
    GroupId((usize::from(key_slot(key)) * SHARDS / 16384) as u32 + 1)
}

fn words(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

impl World {
    fn new(seed: u64) -> World {
        World::planted(seed, |_| {})
    }

    fn planted(seed: u64, planted: fn(&mut State)) -> World {
        let state = |at: usize, seed| {
            let mut state = State::new(GroupId(at as u32 + 1), &Limits::DEFAULT, Arc::new(Keyspaces::default()), seed);
            let own = (0..16384_u16).filter(|slot| usize::from(*slot) * SHARDS / 16384 == at);
            state.set_slots(Slots::of(SlotSet::of(own.map(|slot| (slot, slot)))));
            planted(&mut state);
            state
        };
        let node = |at| Node { leader: state(at, 1), replica: state(at, 2), index: 0, mail: Mail::default() };
        World {
            nodes: (0..SHARDS).map(node).collect(),
            jobs: BTreeMap::new(),
            next: 0,
            now: 1_000_000,
            rng: Rng::new(seed),
            out: BTreeMap::new(),
            back: BTreeMap::new(),
            under_way: BTreeMap::new(),
            places: 0,
            told: BTreeMap::new(),
            waiting: Vec::new(),
            planted,
            planted_door: Default::default(),
            steps: 0,
        }
    }

    fn begin_multi(&mut self, lines: &[String], watches: Vec<Watch>) -> usize {
        let (mut multi, mut keys) = (MultiBuilder::default(), Vec::new());
        for line in lines {
            let args = words(line);
            let spec = command::find(args[0]).expect("a command");
            keys.extend(spec.key_places(&args).iter().map(|place| args[*place].to_vec()));
            multi.command(0, &args);
        }
        self.begin(Body::Multi(multi, Protocol::Resp2), keys, watches)
    }

    fn begin_command(&mut self, args: &[&[u8]]) -> usize {
        let spec = command::find(args[0]).expect("a command");
        let keys = spec.key_places(args).iter().map(|place| args[*place].to_vec()).collect();
        let mut unit = Vec::new();
        entry::put_command(&mut unit, 0, Protocol::Resp2, args);
        self.begin(Body::Command(unit), keys, Vec::new())
    }

    fn begin(&mut self, body: Body, mut keys: Vec<Vec<u8>>, watches: Vec<Watch>) -> usize {
        keys.sort();
        keys.dedup();
        self.next += 1;
        let id = self.next;
        let age = Age { at: self.now, origin: 1, number: id as u64 };
        let mut own = Coordinator::new(body, age, 1);
        own.planted = self.planted_door;
        self.jobs.insert(id, Job::Door { own, keys, watches });
        self.attempt(id);
        id
    }

    fn attempt(&mut self, id: usize) {
        self.next += 1;
        let (number, now) = (self.next as u64, self.now);
        let mut acts = Vec::new();
        if let Some(Job::Door { own, keys, watches }) = self.jobs.get_mut(&id) {
            own.begin(Plan::of(keys, watches, group_of), number, now, &mut acts);
        }
        self.obey(id, acts);
    }

    fn single(&mut self, line: &str) -> usize {
        self.next += 1;
        let id = self.next;
        let args = words(line);
        let mut unit = Vec::new();
        entry::put_command(&mut unit, 0, Protocol::Resp2, &args);
        self.jobs.insert(id, Job::Single);
        self.obey(id, vec![Act::Ask { group: group_of(args[1]), unit }]);
        id
    }

    fn obey(&mut self, id: usize, acts: Vec<Act>) {
        for act in acts {
            match act {
                Act::Ask { group, unit } => self.out.entry((id, group)).or_default().push_back(unit),
                Act::Answer(bytes) => {
                    self.told.insert(id, bytes);
                }
                Act::Again(after) => self.waiting.push((self.now + after, id)),
                Act::Doom => {}
                Act::Over => {
                    self.jobs.remove(&id);
                }
            }
        }
    }

    /// A unit becomes an entry of its group's log.
    fn apply(&mut self, job: usize, group: GroupId, unit: &[u8]) {
        self.now += self.rng.below(3);
        self.places += 1;
        self.under_way.insert(self.places, (job, group));
        let reads = matches!(self.jobs.get(&job), Some(Job::Single)) && {
            let Ok(entry::Unit::Command { words, .. }) = entry::read_unit(&mut store::codec::Input::new(unit)) else {
                panic!("a single job asks commands");
            };
            !command::find(words[0]).expect("a command").is_write()
        };
        let node = &mut self.nodes[group.0 as usize - 1];
        let mut batch = Batch::default();
        let place = if reads && self.rng.chance(1, 2) { Place::Local } else { Place::Logged };
        batch.unit(place, true, self.places, unit);
        if place == Place::Local {
            node.leader.run_local(&batch, self.now, &mut node.mail).expect("readable");
        } else {
            node.index += 1;
            let data = batch.take_entry(self.now, self.now ^ node.index);
            node.leader.apply(node.index, &data, Some(&batch), &mut node.mail).expect("readable");
            node.replica.apply::<usize, _>(node.index, &data, None, &mut Silent).expect("readable");
        }
        for (place, bytes) in std::mem::take(&mut node.mail.answers) {
            let (job, group) = self.under_way.remove(&place).expect("one answer each");
            self.back.entry((job, group)).or_default().push_back(bytes);
        }
        if self.rng.chance(1, 20) {
            self.restart_replica(group);
        }
    }

    /// The replica goes on from a snapshot of the leader.
    fn restart_replica(&mut self, group: GroupId) {
        let node = &mut self.nodes[group.0 as usize - 1];
        let mut fresh = State::new(group, &Limits::DEFAULT, Arc::new(Keyspaces::default()), 7);
        (self.planted)(&mut fresh);
        let (_, first) = node.leader.begin_snapshot();
        fresh.restore_first(&first).expect("readable");
        loop {
            let mut chunk = Vec::new();
            let done = node.leader.walk(1000, &mut chunk).expect("nobody swaps databases");
            fresh.restore(&chunk).expect("readable");
            if done {
                break;
            }
        }
        fresh.finish_restore();
        node.replica = fresh;
    }

    /// The replica leads from now on; who asked the old leader hears nothing.
    fn fail_over(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        std::mem::swap(&mut node.leader, &mut node.replica);
        node.mail.tickets.clear();
        let lost: Vec<usize> =
            self.under_way.iter().filter(|(_, own)| own.1.0 as usize == at + 1).map(|(id, _)| *id).collect();
        for place in lost {
            let (job, group) = self.under_way.remove(&place).expect("it was there a line ago");
            self.hear(job, group, Heard::Unknown);
        }
        let group = GroupId(at as u32 + 1);
        self.restart_replica(group);
    }

    fn hear(&mut self, id: usize, group: GroupId, heard: Heard<'_>) {
        if heard == Heard::Unknown {
            self.out.remove(&(id, group));
            self.back.remove(&(id, group));
        }
        let mut acts = Vec::new();
        match self.jobs.get_mut(&id) {
            Some(Job::Door { own, .. }) => own.heard(group, heard, &mut acts),
            Some(Job::Leader(own)) => own.heard(group, heard, &mut acts),
            Some(Job::Single) => {
                if let Heard::Answer(bytes) = heard {
                    self.told.insert(id, bytes.to_vec());
                }
                acts.push(Act::Over);
            }
            None => {}
        }
        self.obey(id, acts);
    }

    /// One random thing that can happen. False where there is none but time.
    fn step(&mut self) -> bool {
        self.steps += 1;
        self.out.retain(|_, units| !units.is_empty());
        self.back.retain(|_, answers| !answers.is_empty());
        let due: Vec<usize> = self.waiting.iter().filter(|(at, _)| *at <= self.now).map(|(_, id)| *id).collect();
        self.waiting.retain(|(at, _)| *at > self.now);
        due.into_iter().for_each(|id| self.attempt(id));
        let choices = self.out.len() + self.back.len();
        if choices == 0 {
            return false;
        }
        let at = self.rng.index(choices);
        if at < self.out.len() {
            let (place, units) = self.out.iter_mut().nth(at).expect("it was counted");
            let (place, unit) = (*place, units.pop_front().expect("none is empty"));
            self.apply(place.0, place.1, &unit);
        } else {
            let (place, answers) = self.back.iter_mut().nth(at - self.out.len()).expect("it was counted");
            let (place, bytes) = (*place, answers.pop_front().expect("none is empty"));
            self.hear(place.0, place.1, Heard::Answer(&bytes));
        }
        true
    }

    /// The door dies: what is on its way still arrives, as far as it has left.
    fn crash(&mut self, id: usize) {
        self.jobs.remove(&id);
        for ((job, _), units) in &mut self.out {
            if *job == id {
                let left = self.rng.index(units.len() + 1);
                units.truncate(left);
            }
        }
        self.waiting.retain(|(_, job)| *job != id);
    }

    /// What leaders do every now and then.
    fn recover(&mut self) {
        for at in 0..self.nodes.len() {
            let own = GroupId(at as u32 + 1);
            for due in self.nodes[at].leader.commits().overdue(self.now, 16) {
                let tx = match &due {
                    Due::Prepared { tx, .. } | Due::Decided { tx, .. } => *tx,
                };
                let known = |job: &Job| matches!(job, Job::Leader(job) if job.tx() == tx && job.own() == own);
                if self.jobs.values().any(known) {
                    continue;
                }
                self.next += 1;
                let mut acts = Vec::new();
                self.jobs.insert(self.next, Job::Leader(Recovery::begin(own, due, &mut acts)));
                self.obey(self.next, acts);
            }
        }
    }

    /// Until nothing is under way and nothing is locked.
    fn settle(&mut self) {
        self.settle_with(true);
    }

    fn settle_with(&mut self, recovers: bool) {
        for _ in 0..200 {
            while self.step() {}
            self.now += if recovers { 200 } else { 20 };
            if recovers {
                self.recover();
            }
        }
        for node in &self.nodes {
            assert!(node.leader.commits().is_quiet(), "every lock is gone in the end");
            let (prepared, parked, decided, _) = node.leader.commits().counts();
            assert_eq!((prepared, parked, decided), (0, 0, 0), "nothing is left");
            self.same(node);
        }
    }

    fn same(&self, node: &Node) {
        let form = |state: &State| {
            let mut bytes = Vec::new();
            state.commits().encode(&mut bytes);
            let tables = state.tables(Durability::Fsync);
            let mut place = Some(store::table::Place::default());
            let mut all = BTreeMap::new();
            while let Some(at) = place {
                place = tables.sift(at, 100, |db, entry| {
                    let mut value = Vec::new();
                    entry.value().encode(&mut value);
                    all.insert((db, entry.key().to_vec()), (entry.version(), entry.expire(), value));
                });
            }
            (bytes, all)
        };
        assert_eq!(form(&node.leader), form(&node.replica), "replicas are alike");
    }

    /// A key read as it is.
    fn peek(&self, line: &str) -> String {
        let args = words(line);
        let mut reply = Reply::new(Protocol::Resp2);
        let node = &self.nodes[group_of(args[1]).0 as usize - 1];
        let call = Call::new(command::find(args[0]).expect("a command"), 0, &args, self.now);
        node.leader.read(&call, &mut Rng::new(1), &mut reply);
        String::from_utf8_lossy(&reply.bytes).into_owned()
    }

    fn answer(&self, id: usize) -> String {
        self.told.get(&id).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
    }
}

fn numbers(text: &str) -> Vec<i64> {
    let lines = text.split("\r\n").filter(|line| !line.starts_with(['$', '*', '+']));
    lines.filter_map(|line| line.trim_start_matches(':').parse().ok()).collect()
}

const ACCOUNTS: usize = 6;
const CONDITIONAL: &str = "local s = (redis.call('get', KEYS[1]) or 0) + (redis.call('get', KEYS[2]) or 0) \
     if s > 0 then redis.call('decr', KEYS[1]) return 1 end return 0";

/// A run with many transactions; what it found wrong.
fn run(seed: u64, planted: fn(&mut State), crashes: bool) -> Result<(), String> {
    run_in(World::planted(seed, planted), crashes, true)
}

fn run_in(mut world: World, crashes: bool, recovers: bool) -> Result<(), String> {
    for at in 0..ACCOUNTS {
        world.single(&format!("set account{at} 100"));
    }
    world.single("set left 3");
    world.single("set right 3");
    while world.step() {}
    let (mut audits, mut appends, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..60 {
        match world.rng.index(6) {
            0 | 1 => {
                let (from, to) = (world.rng.index(ACCOUNTS), world.rng.index(ACCOUNTS));
                let sum = world.rng.below(20);
                world
                    .begin_multi(&[format!("decrby account{from} {sum}"), format!("incrby account{to} {sum}")], vec![]);
            }
            2 => {
                let lines: Vec<String> = (0..ACCOUNTS).map(|at| format!("get account{at}")).collect();
                audits.push(world.begin_multi(&lines, vec![]));
            }
            3 => {
                appends.push((
                    round,
                    world.begin_multi(
                        &[format!("rpush one {round}"), format!("rpush two {round}"), format!("rpush three {round}")],
                        vec![],
                    ),
                ));
            }
            4 => {
                let known: Vec<i64> = appends
                    .iter()
                    .filter(|(_, id)| world.answer(*id).starts_with('*'))
                    .map(|(round, _)| *round)
                    .collect();
                let id = match world.rng.index(3) {
                    0 => world.single("lrange one 0 -1"),
                    1 => world.single("lrange three 0 -1"),
                    _ => world.begin_multi(
                        &["lrange one 0 -1".into(), "llen three".into(), "lrange two 0 -1".into()],
                        vec![],
                    ),
                };
                reads.push((known, id));
            }
            _ => {
                let (one, two): (&[u8], &[u8]) =
                    if world.rng.chance(1, 2) { (b"left", b"right") } else { (b"right", b"left") };
                world.begin_command(&[b"eval", CONDITIONAL.as_bytes(), b"2", one, two]);
            }
        }
        for _ in 0..world.rng.index(12) {
            world.step();
        }
        if crashes && world.rng.chance(1, 8) && !world.jobs.is_empty() {
            let at = world.rng.index(world.jobs.len());
            let id = *world.jobs.keys().nth(at).expect("it was counted");
            world.crash(id);
        }
        if crashes && world.rng.chance(1, 15) {
            let at = world.rng.index(SHARDS);
            world.fail_over(at);
        }
        if recovers && world.rng.chance(1, 6) {
            world.now += world.rng.below(1500);
            world.recover();
        }
    }
    world.settle_with(recovers);
    for id in audits {
        let found = numbers(&world.answer(id));
        if !found.is_empty() && found.iter().sum::<i64>() != 100 * ACCOUNTS as i64 {
            return Err(format!("an audit sees {found:?}"));
        }
    }
    let total: i64 = (0..ACCOUNTS).map(|at| numbers(&world.peek(&format!("get account{at}")))[0]).sum();
    if total != 100 * ACCOUNTS as i64 {
        return Err(format!("in the end there are {total}"));
    }
    let lists: Vec<Vec<i64>> =
        ["one", "two", "three"].iter().map(|key| numbers(&world.peek(&format!("lrange {key} 0 -1")))).collect();
    if lists[0] != lists[1] || lists[0] != lists[2] {
        return Err(format!("lists differ: {lists:?}"));
    }
    for (round, id) in &appends {
        if world.answer(*id).starts_with('*') && !lists[0].contains(round) {
            return Err(format!("{round} was acknowledged and is lost"));
        }
    }
    for (known, id) in reads {
        let answer = world.answer(id);
        if !answer.starts_with('*') {
            continue;
        }
        let found = numbers(&answer);
        if known.iter().any(|round| !found.contains(round)) {
            return Err(format!("a read sees {found:?}, and {known:?} had been acknowledged"));
        }
        // Of the long one: the first list, its length, the other one.
        if found.len() % 2 == 1 && answer.starts_with("*3\r\n*") {
            let half = found.len() / 2;
            if found[..half] != found[half + 1..] || found[half] != half as i64 {
                return Err(format!("a read sees half of a transaction: {found:?}"));
            }
        }
    }
    let (left, right) = (numbers(&world.peek("get left"))[0], numbers(&world.peek("get right"))[0]);
    if left + right < 0 {
        return Err(format!("write skew: {left} and {right}"));
    }
    Ok(())
}

#[test]
fn any_order_of_deliveries_is_a_serial_order() {
    for seed in 0..150 {
        run(seed, |_| {}, false).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[test]
fn whoever_dies_on_the_way_leaves_no_lock_and_no_half() {
    for seed in 0..300 {
        run(seed, |_| {}, true).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

fn fails(run: impl Fn(u64) -> Result<(), String> + std::panic::UnwindSafe + Copy) -> bool {
    (0..300).any(|seed| !matches!(std::panic::catch_unwind(move || run(seed)), Ok(Ok(()))))
}

#[test]
fn planted_bugs_of_shards_are_found() {
    let is_found = |planted: fn(&mut State)| fails(move |seed| run(seed, planted, true));
    assert!(is_found(|state| state.planted.locks_forgotten = true), "locks that a snapshot's reader forgets");
    assert!(is_found(|state| state.planted.lock_read_through = true), "a read that passes a lock");
    assert!(is_found(|state| state.planted.no_tombstone = true), "an abort without a tombstone");
}

#[test]
fn planted_bugs_of_doors_are_found() {
    let world = |seed, planted| World { planted_door: planted, ..World::new(seed) };
    let with = |planted| fails(move |seed| run_in(world(seed, planted), true, true));
    use super::coordinator::Planted;
    assert!(with(Planted { answers_early: true, ..Planted::default() }), "an answer before the decision is in the log");
    assert!(
        with(Planted { forgets_early: true, ..Planted::default() }),
        "a decision forgotten before all have finished"
    );
    let alone = |planted| fails(move |seed| run_in(world(seed, planted), false, false));
    assert!(!alone(Planted::default()), "where nobody dies, nobody has to ask");
    assert!(alone(Planted { keeps_locks: true, ..Planted::default() }), "whoever begins again keeps its locks");
}

/// A door dies after each number of deliveries in turn.
#[test]
fn a_door_may_die_at_every_step() {
    for order in 0..20 {
        for steps in 0..20 {
            let mut world = World::new(order);
            world.single("set account0 5");
            while world.step() {}
            let lines = ["rpush one x", "rpush two x", "rpush three x", "incr account0"];
            let id = world.begin_multi(&lines.map(String::from), vec![]);
            for _ in 0..steps {
                world.step();
            }
            let answered = world.answer(id).starts_with('*');
            world.crash(id);
            world.single("rpush one y");
            world.settle();
            let there = ["one", "two", "three"].map(|key| world.peek(&format!("lrange {key} 0 -1")).contains('x'));
            assert!(there == [true; 3] || there == [false; 3] && !answered, "after {steps} steps: {there:?}");
            assert!(world.peek("lrange one 0 -1").contains('y'), "whoever waited for the lock went on");
            assert_eq!(world.peek("get account0").contains('6'), there[0]);
        }
    }
}

#[test]
fn commands_over_shards_do_what_they_do_in_one() {
    let mut world = World::new(3);
    let mut ask = |line: &str| {
        let args = words(line);
        let id = world.begin_command(&args);
        while world.step() {}
        world.recover();
        world.answer(id)
    };
    assert_eq!(ask("mset one 1 two 2 three 3"), "+OK\r\n");
    assert_eq!(ask("mget one two three none"), "*4\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n3\r\n$-1\r\n");
    assert_eq!(ask("rename one four"), "+OK\r\n");
    assert_eq!(ask("mget one four"), "*2\r\n$-1\r\n$1\r\n1\r\n");
    assert_eq!(ask("copy four five DB 3"), ":1\r\n");
    assert_eq!(ask("bitop or six four two"), ":1\r\n");
    assert_eq!(ask("del two three four six none"), ":4\r\n");
    assert_eq!(ask("sadd one a"), ":1\r\n");
    assert_eq!(ask("sadd two a b"), ":2\r\n");
    assert_eq!(ask("sinterstore three one two"), ":1\r\n");
    assert_eq!(ask("sunion one two three"), "*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    assert_eq!(ask("rename none one"), "-ERR no such key\r\n");
    assert_eq!(ask("eval return{redis.call('get','elsewhere1'),redis.call('get','elsewhere2'),redis.call('get','elsewhere3')} 2 one two").get(..1), Some("-"));
    world.settle();
}

#[test]
fn a_changed_watched_key_of_any_shard_ends_the_transaction() {
    for (at, key) in ["one", "two", "three"].iter().enumerate() {
        let mut world = World::new(at as u64);
        let watches: Vec<Watch> = ["one", "two", "three"]
            .map(|key| {
                let node = &world.nodes[group_of(key.as_bytes()).0 as usize - 1];
                let version = node.leader.version(0, key.as_bytes(), world.now);
                Watch { db: 0, key: key.into(), version }
            })
            .to_vec();
        let lines = ["set one 1".to_owned(), "set two 1".to_owned()];
        let id = world.begin_multi(&lines, watches.clone());
        while world.step() {}
        assert_eq!(world.answer(id), "*2\r\n+OK\r\n+OK\r\n");
        world.single(&format!("set {key} 9"));
        while world.step() {}
        let id = world.begin_multi(&lines, watches);
        while world.step() {}
        assert_eq!(world.answer(id), "*-1\r\n", "{key} has changed");
        world.settle();
    }
}

#[test]
fn slots_are_frozen_only_when_no_transaction_holds_a_key_in_them() {
    let group = GroupId(1);
    let mut state = State::new(group, &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1);
    let (mut index, mut mail) = (0, Mail::default());
    let mut apply = |unit: &[u8]| {
        index += 1;
        let mut batch = Batch::default();
        batch.unit(Place::Logged, true, 1_usize, unit);
        let data = batch.take_entry(index, index);
        state.apply(index, &data, Some(&batch), &mut mail).expect("readable");
        mail.answers.pop().map(|(_, bytes)| bytes).unwrap_or_default()
    };
    let slots = |change: &SlotChange| {
        let mut unit = Vec::new();
        entry::put_slots(&mut unit, change);
        unit
    };
    let own = SlotSet::of([(key_slot(b"k"), key_slot(b"k"))]);
    let begun = apply(&slots(&SlotChange::Attempt { to: GroupId(2), slots: own }));
    let Ok(SlotAnswer::Begun { epoch, .. }) = SlotAnswer::decode(&begun) else { panic!("it begins") };
    let tx = TxId { home: GroupId(2), origin: 1, incarnation: 1, number: 1 };
    let age = Age { at: 1, origin: 1, number: 1 };
    let prepare = |tx| Step::Prepare { tx, age, deadline: 1000, keys: vec![b"k"], watches: vec![] }.bytes();
    assert!(apply(&prepare(tx)).starts_with(b"P"));
    let freeze = slots(&SlotChange::Freeze { epoch });
    assert_eq!(SlotAnswer::decode(&apply(&freeze)), Ok(SlotAnswer::Wait));
    assert_eq!(Answer::read(&apply(&Step::Finish { tx, writes: None }.bytes())), Ok(Answer::Done));
    assert_eq!(SlotAnswer::decode(&apply(&freeze)), Ok(SlotAnswer::Done));
    let late = apply(&prepare(TxId { number: 2, ..tx }));
    assert!(late.starts_with(b"-TRYAGAIN"), "nothing is locked in slots that are frozen");
}

#[test]
fn each_limit_of_commits_is_met_named_and_counted() {
    let limits = Limits::DEFAULT.counting();
    let mut state = State::new(GroupId(1), &limits, Arc::new(Keyspaces::default()), 1);
    let mut bounds = Vec::new();
    let (mut index, mut mail) = (0, Mail::default());
    let mut apply = |state: &mut State, unit: &[u8]| {
        index += 1;
        let mut batch = Batch::default();
        batch.unit(Place::Logged, true, index as usize, unit);
        let data = batch.take_entry(1, index);
        state.apply(index, &data, Some(&batch), &mut mail).expect("readable");
        let own = mail.answers.iter().rposition(|(client, _)| *client == index as usize);
        own.map(|at| String::from_utf8_lossy(&mail.answers.swap_remove(at).1).into_owned()).unwrap_or_default()
    };
    let command = |words: &[&[u8]]| {
        let mut unit = Vec::new();
        entry::put_command(&mut unit, 0, Protocol::Resp2, words);
        unit
    };
    let tx = |number| TxId { home: GroupId(2), origin: 1, incarnation: 1, number };
    let prepare = |number: u64, key: &[u8]| {
        let age = Age { at: number, origin: 1, number };
        Step::Prepare { tx: tx(number), age, deadline: 1000, keys: vec![key], watches: vec![] }.bytes()
    };
    // Values of one transaction.
    let offset = (BYTES_MAX / 2 + 1).to_string();
    for key in [b"big", b"too"] {
        assert!(apply(&mut state, &command(&[b"SETRANGE", key, offset.as_bytes(), b"x"])).starts_with(':'));
    }
    let age = Age { at: 1, origin: 1, number: 1 };
    let both = Step::Prepare { tx: tx(1), age, deadline: 1000, keys: vec![b"big", b"too"], watches: vec![] };
    let said = apply(&mut state, &both.bytes());
    assert!(said.starts_with("-ERR") && said.contains("limit commit_bytes_max"), "{said}");
    let values = vec![0; BYTES_MAX + 1];
    let foreign = vec![Foreign { group: GroupId(2), keys: vec![b"f"], values: &values }];
    let unit = command(&[b"SET", b"k", b"v"]);
    let decide = Step::Decide { tx: tx(1), age, deadline: 1000, foreign, unit: &unit }.bytes();
    assert!(apply(&mut state, &decide).contains("limit commit_bytes_max"));
    apply(&mut state, &command(&[b"DEL", b"big", b"too"]));
    bounds.push((base::Limit::commit_bytes_max, 2));
    // Units that wait.
    assert!(apply(&mut state, &prepare(2, b"held")).starts_with('P'));
    for _ in 0..PARKED_MAX {
        assert_eq!(apply(&mut state, &command(&[b"INCR", b"held"])), "");
    }
    let said = apply(&mut state, &command(&[b"INCR", b"held"]));
    assert!(said.starts_with("-BUSY") && said.contains("limit commit_parked_max"), "{said}");
    bounds.push((base::Limit::commit_parked_max, 1));
    apply(&mut state, &Step::Finish { tx: tx(2), writes: None }.bytes());
    assert_eq!(apply(&mut state, &command(&[b"INCR", b"held"])), format!(":{}\r\n", PARKED_MAX + 1));
    // Transactions that hold keys.
    for number in 0..PREPARED_MAX as u64 {
        assert!(apply(&mut state, &prepare(10 + number, &number.to_le_bytes())).starts_with('P'));
    }
    let said = apply(&mut state, &prepare(3, b"one more"));
    assert!(said.starts_with("-BUSY") && said.contains("limit commit_prepared_max"), "{said}");
    bounds.push((base::Limit::commit_prepared_max, 1));
    apply(&mut state, &Step::Finish { tx: tx(10), writes: None }.bytes());
    assert!(apply(&mut state, &prepare(3, b"one more")).starts_with('P'), "there is room again");
    for (limit, count) in bounds {
        assert_eq!(state.bounds().hits.of(limit), count, "{limit:?}");
    }
}

#[test]
fn a_commit_of_unknown_outcome_is_sent_again_and_happens_once() {
    for seed in 0..60 {
        let mut world = World::new(seed);
        let count = 12;
        for name in 0..count {
            let lines = [format!("q.txid name{name}"), "incr one".into(), "incr two".into(), "incr three".into()];
            let mut answers = Vec::new();
            // Until it has been answered, and once more.
            for _ in 0..40 {
                let id = world.begin_multi(&lines, vec![]);
                for _ in 0..world.rng.index(25) {
                    world.step();
                }
                match world.rng.index(4) {
                    0 => world.crash(id),
                    1 => {
                        let at = world.rng.index(SHARDS);
                        world.fail_over(at);
                    }
                    _ => while world.step() {},
                }
                for _ in 0..4 {
                    world.now += 400;
                    world.recover();
                    while world.step() {}
                }
                if world.answer(id).starts_with('*') {
                    answers.push(world.answer(id));
                }
                if answers.len() == 2 {
                    break;
                }
            }
            assert_eq!(answers.len(), 2, "seed {seed}");
            assert_eq!(answers[0], answers[1], "seed {seed}: each is answered the same");
        }
        world.settle();
        for key in ["one", "two", "three"] {
            assert_eq!(world.peek(&format!("get {key}")), format!("$2\r\n{count}\r\n"), "seed {seed}");
        }
    }
}

#[test]
fn steps_and_answers_read_back_and_damage_is_an_error() {
    let tx = TxId { home: GroupId(2), origin: 1, incarnation: 99, number: 7 };
    let age = Age { at: 5, origin: 1, number: 6 };
    let watches = vec![Watch { db: 3, key: b"w".to_vec(), version: 8 }];
    let foreign = vec![Foreign { group: GroupId(1), keys: vec![b"k"], values: b"values" }];
    let steps = [
        Step::Prepare { tx, age, deadline: 10, keys: vec![b"a", b""], watches },
        Step::Decide { tx, age, deadline: 10, foreign, unit: b"unit" },
        Step::Finish { tx, writes: None },
        Step::Finish { tx, writes: Some(b"writes") },
        Step::Resolve { tx, deadline: 10, from: GroupId(3) },
        Step::Forget { tx, groups: vec![GroupId(1), GroupId(3)] },
    ];
    let mut rng = Rng::new(4);
    for step in &steps {
        let bytes = step.bytes();
        let mut input = store::codec::Input::new(&bytes);
        assert!(matches!(entry::read_unit(&mut input), Ok(entry::Unit::Commit(read)) if read == *step));
        assert!(input.is_empty());
        for _ in 0..2000 {
            let mut damaged = bytes.clone();
            let at = rng.index(damaged.len());
            damaged[at] = rng.next_u64() as u8;
            damaged.truncate(rng.index(damaged.len()) + 1);
            let _ = entry::read_unit(&mut store::codec::Input::new(&damaged));
        }
    }
    let committed = Answer::Committed { reply: b"+OK\r\n".to_vec(), writes: vec![(GroupId(1), b"w".to_vec())] };
    let answers = [
        Answer::Prepared { stamp: 3, values: b"v".to_vec() },
        Answer::Die,
        Answer::Changed,
        Answer::Late { stamp: 9 },
        Answer::Aborted,
        committed,
        Answer::Done,
    ];
    for answer in answers {
        let mut bytes = Vec::new();
        answer.put(&mut bytes);
        assert_eq!(Answer::read(&bytes), Ok(answer));
    }
    assert!(Answer::read(b"-TRYAGAIN\r\n").is_err());
}

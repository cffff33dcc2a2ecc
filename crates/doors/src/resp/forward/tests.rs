//! Several doors joined by a wire that can be delayed and cut, over shards whose log is replicated at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{GroupId, Instant, Limits, NodeId, Rng};
use parking_lot::Mutex;
use shard::live::{Gate, Refusal, Shard};
use shard::reply::{Protocol, Reply};
use shard::slots::Slots;
use shard::state::{Silent, Sink, State};
use store::keyspace::{Durability, Eviction, Keyspace, Keyspaces};

use super::frame::{AnswerRecord, AskRecord, Frame, FrameKind, Incoming};
use super::{FORWARD_WAIT, Figures};
use crate::resp::door::{Client, Door, Outbox, World};
use crate::resp::introspect::{Config, ConfigFacts, Facts};
use crate::resp::pubsub::Kind;
use crate::resp::session::{Pause, Session};

/// What is between the nodes.
#[derive(Default)]
struct Wire {
    frames: BTreeMap<(u64, u64), VecDeque<Vec<u8>>>,
    up: std::collections::BTreeSet<(u64, u64)>,
    /// Takes nothing more, as a link whose queue is full.
    full: bool,
    sent: usize,
}

struct End {
    node: u64,
    wire: Arc<Mutex<Wire>>,
    clock: Arc<AtomicU64>,
}

impl World for End {
    fn wake_driver(&self) {}
    fn now(&self) -> Instant {
        Instant(self.clock.load(Ordering::SeqCst))
    }
    fn wall_micros(&self) -> u64 {
        self.clock.load(Ordering::SeqCst) / 1000
    }
    fn random(&self) -> u64 {
        7
    }
    fn facts(&self) -> Facts {
        Facts::default()
    }
    fn forward(&self, to: NodeId, frame: Vec<u8>) -> bool {
        let mut wire = self.wire.lock();
        let way = (self.node, to.0);
        if wire.full || !wire.up.contains(&way) {
            return false;
        }
        wire.sent += 1;
        wire.frames.entry(way).or_default().push_back(frame);
        true
    }
}

struct Cluster {
    wire: Arc<Mutex<Wire>>,
    clock: Arc<AtomicU64>,
    doors: Vec<Arc<Door>>,
    /// Who leads each shard; an index into `doors`.
    leaders: Vec<Option<usize>>,
    applied: Vec<u64>,
}

fn keyspaces() -> Keyspaces {
    let space = |prefix: &str, durability| Keyspace {
        prefix: prefix.into(),
        durability,
        max_bytes: 0,
        eviction: Eviction::Refuse,
        default_expiry: 0,
    };
    Keyspaces::new(vec![space("", Durability::Fsync), space("mem:", Durability::Memory)]).expect("two keyspaces")
}

impl Cluster {
    fn new(nodes: usize, shards: usize) -> Cluster {
        Cluster::with(nodes, shards, Limits::DEFAULT)
    }

    fn with(nodes: usize, count: usize, limits: Limits) -> Cluster {
        let (wire, clock) = (Arc::<Mutex<Wire>>::default(), Arc::new(AtomicU64::new(1_000_000_000)));
        let keyspaces = Arc::new(keyspaces());
        let shard = |group: usize| {
            let group = GroupId(group as u32);
            let mut state = State::new(group, &limits, keyspaces.clone(), 1);
            if group.0 > 0 {
                state.set_slots(Slots::of(base::SlotSet::share(group.0 as usize - 1, count)));
            }
            Arc::new(Shard::<Client>::new(group, state, &limits, Arc::new(Gate::default())))
        };
        let door = |node: usize| {
            let config = Config::new(&ConfigFacts {
                port: 0,
                bind: String::new(),
                dir: String::new(),
                maxclients: limits.connections_max as u64,
                timeout_seconds: 0,
                maxmemory: 0,
                maxmemory_policy: String::new(),
                databases: 16,
                bulk_bytes_max: limits.bulk_bytes_max,
                command_bytes_max: limits.command_bytes_max,
                has_password: false,
            });
            let world = End { node: node as u64 + 1, wire: wire.clone(), clock: clock.clone() };
            let shards = (1..=count).map(shard).collect();
            let door = Arc::new(Door::new(limits.clone(), shards, None, config, Box::new(world)));
            door.forward.join(NodeId(node as u64 + 1), shard(0));
            door
        };
        let doors: Vec<Arc<Door>> = (0..nodes).map(door).collect();
        let mut cluster = Cluster { wire, clock, doors, leaders: vec![None; count], applied: vec![0; count] };
        (0..count).for_each(|at| cluster.elect(at, None));
        for one in 0..nodes {
            for other in 0..one {
                cluster.join(one, other);
            }
        }
        cluster
    }

    fn lead(nodes: usize, shards: usize, leader: usize) -> Cluster {
        let mut cluster = Cluster::new(nodes, shards);
        (0..shards).for_each(|at| cluster.elect(at, Some(leader)));
        cluster
    }

    fn join(&mut self, one: usize, other: usize) {
        self.wire.lock().up.extend([(one as u64 + 1, other as u64 + 1), (other as u64 + 1, one as u64 + 1)]);
        self.doors[one].linked(NodeId(other as u64 + 1), true);
        self.doors[other].linked(NodeId(one as u64 + 1), true);
    }

    fn cut(&mut self, one: usize, other: usize) {
        let ways = [(one as u64 + 1, other as u64 + 1), (other as u64 + 1, one as u64 + 1)];
        let mut wire = self.wire.lock();
        for way in ways {
            wire.up.remove(&way);
            wire.frames.remove(&way);
        }
        drop(wire);
        self.doors[one].linked(NodeId(other as u64 + 1), false);
        self.doors[other].linked(NodeId(one as u64 + 1), false);
    }

    /// Another leader, or none. What waits at the old one is turned away, as its driver does.
    fn elect(&mut self, at: usize, leader: Option<usize>) {
        self.leaders[at] = leader;
        let node = leader.map(|leader| NodeId(leader as u64 + 1));
        for (own, door) in self.doors.iter().enumerate() {
            let shard = &door.shards[at];
            shard.set_leader(node);
            if Some(own) == leader {
                shard.set_lease(Some(Instant(u64::MAX)));
                shard.set_refusal(None);
            } else {
                shard.set_lease(None);
                shard.set_refusal(Some(Refusal::Elsewhere(node)));
            }
        }
        self.drive();
    }

    /// What the drivers do.
    fn drive(&mut self) {
        for at in 0..self.leaders.len() {
            for (own, door) in self.doors.iter().enumerate() {
                let shard = &door.shards[at];
                let mut outbox = Outbox::new(door);
                while let Some(mut batch) = shard.take() {
                    if Some(own) != self.leaders[at] {
                        let line = format!("-{}\r\n", Refusal::Elsewhere(None).error().0);
                        batch.clients().for_each(|client| outbox.refused(client, line.as_bytes()));
                        continue;
                    }
                    if !batch.needs_entry() {
                        shard.state_mut().run_local(&batch, 1, &mut outbox).expect("readable");
                        continue;
                    }
                    self.applied[at] += 1;
                    let (index, entry) = (self.applied[at], batch.take_entry(1, 1));
                    shard.state_mut().apply(index, &entry, Some(&batch), &mut outbox).expect("readable");
                    for other in self.doors.iter().filter(|other| !Arc::ptr_eq(other, door)) {
                        let mut state = other.shards[at].state_mut();
                        state.apply::<Client, _>(index, &entry, None, &mut Silent).expect("readable");
                    }
                }
                outbox.flush();
            }
        }
    }

    /// One frame arrives. False where there is none.
    fn deliver(&mut self, nth: usize) -> bool {
        let mut wire = self.wire.lock();
        let ways: Vec<(u64, u64)> =
            wire.frames.iter().filter(|(_, frames)| !frames.is_empty()).map(|(way, _)| *way).collect();
        if ways.is_empty() {
            return false;
        }
        let way = ways[nth % ways.len()];
        let frame = wire.frames.get_mut(&way).and_then(VecDeque::pop_front).expect("it is not empty");
        drop(wire);
        self.doors[way.1 as usize - 1].forwarded(NodeId(way.0), &frame);
        true
    }

    fn tick(&mut self, millis: u64) {
        self.clock.fetch_add(millis * 1_000_000, Ordering::SeqCst);
        self.doors.iter().for_each(|door| door.forward_tick());
    }

    /// Everything that is under way comes to its end, without time passing.
    fn settle(&mut self) {
        loop {
            self.drive();
            if !self.deliver(0) {
                self.drive();
                if !self.deliver(0) {
                    return;
                }
            }
        }
    }

    fn session(&self, node: usize) -> Session {
        let door = &self.doors[node];
        let client = door.admit(String::new(), String::new(), Instant::default()).expect("there is room");
        Session::new(door.clone(), client, 1)
    }

    /// Feeds inline commands and gives all answers.
    fn say(&mut self, session: &mut Session, lines: &str) -> String {
        let bytes = lines.replace('|', "\r\n") + "\r\n";
        let (mut from, mut out) = (0, Reply::new(Protocol::Resp2));
        for _ in 0..10_000 {
            let now = Instant(self.clock.load(Ordering::SeqCst));
            let fed = session.feed(&bytes.as_bytes()[from..], now, &mut out);
            from += fed.consumed;
            self.settle();
            session.collect(&mut out);
            let is_waiting = from == bytes.len() && session.is_blocked() && fed.pause == Pause::Answers;
            if is_waiting || fed.pause == Pause::None && !session.is_pending() {
                return String::from_utf8_lossy(&out.bytes).replace("\r\n", " ");
            }
            if session.client.is_doomed() {
                return "<doomed>".into();
            }
        }
        panic!("{lines:?} comes to no end");
    }
}

const LINES: &[&str] = &[
    "SET k 1|GET k|INCR k|GET k",
    "PING|SET a 1|ECHO x|GET a|PING y|DEL a",
    "SELECT 3|SET k 2|SELECT 0|GET k|SELECT 3|GET k|SELECT 0",
    "RPUSH l a b c|LPOP l|LRANGE l 0 -1|LLEN l",
    "MULTI|SET m 1|INCR m|GET m|PING|EXEC|GET m",
    "MULTI|INCR l|GET l|EXEC",
    "WATCH k|MULTI|INCR k|EXEC",
    "WATCH k|SET k 9|MULTI|INCR k|EXEC|GET k",
    "MULTI|NONSENSE|EXEC",
    "SET k",
    "NONSENSE",
    "EVAL \"return redis.call('incr',KEYS[1])\" 1 k|EVAL_RO \"return redis.call('get',KEYS[1])\" 1 k",
    "EVAL \"return redis.error_reply('TRYAGAIN by a script')\" 0",
    "SET mem:a 1|GET mem:a|INCR mem:a",
    "MULTI|SET mem:a 5|GET mem:a|EXEC",
    "MULTI|SET mem:a 1|SET k 1|EXEC",
    "RPUSH q 1|BLPOP q 1|GET k",
    "HELLO 3|HSET h f v|HGETALL h|HELLO 2",
    "CLIENT REPLY SKIP|INCR k|GET k",
    "DBSIZE|KEYS k|EXISTS k a l|TYPE l",
    "SCAN 0 MATCH k COUNT 1000",
    "SCRIPT LOAD \"return 1\"|SCRIPT EXISTS e0e1f9fabfc9d4800c877a703b823ac0578ff8db",
    "FLUSHALL|DBSIZE|SET k 5",
    "GET l|LPUSH k x",
];

#[test]
fn a_remote_door_answers_as_the_leader_s_own() {
    let mut rng = Rng::new(7);
    for round in 0..60 {
        let shards = [1, 3][round % 2];
        let (mut near, mut far) = (Cluster::lead(3, shards, 1), Cluster::lead(3, shards, 1));
        let (mut here, mut there) = (near.session(1), far.session(0));
        for _ in 0..12 {
            let count = 1 + rng.index(3);
            // A transaction that is cut off in the middle by RESET, too.
            let lines: Vec<&str> = (0..count).map(|_| LINES[rng.index(LINES.len())]).collect();
            let lines = lines.join("|");
            if shards > 1 && lines.contains("SCAN") {
                // A page is one shard's where another node leads it.
                continue;
            }
            let (own, other) = (near.say(&mut here, &lines), far.say(&mut there, &lines));
            assert_eq!(other, own, "{lines}");
        }
        assert!(far.wire.lock().sent > 0 && near.wire.lock().sent == 0);
        here.close();
        there.close();
        far.settle();
        assert!(far.doors.iter().all(|door| door.forward_figures() == Figures::default()), "nothing stays behind");
    }
}

#[test]
fn shards_of_several_nodes_are_one_keyspace() {
    let mut cluster = Cluster::new(3, 4);
    (0..4).for_each(|at| cluster.elect(at, Some(at % 3)));
    let mut session = cluster.session(2);
    for n in 0..200 {
        assert_eq!(cluster.say(&mut session, &format!("SET k{n} {n}")), "+OK ");
    }
    for n in 0..200 {
        let (key, text) = (format!("k{n}"), n.to_string());
        assert_eq!(cluster.say(&mut session, &format!("GET {key}")), format!("${} {text} ", text.len()));
    }
    assert_eq!(cluster.say(&mut session, "DBSIZE"), ":200 ");
    assert_eq!(cluster.say(&mut session, "KEYS *").split(' ').filter(|word| word.starts_with('k')).count(), 200);
    let (mut keys, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let answer = cluster.say(&mut session, &format!("SCAN {cursor} COUNT 30"));
        let mut words = answer.split(' ').filter(|word| !word.is_empty() && !word.starts_with(['*', '$']));
        cursor = words.next().expect("the cursor comes first").to_owned();
        keys.extend(words.map(str::to_owned));
        if cursor == "0" {
            break;
        }
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 200);
    assert!(cluster.say(&mut session, "RANDOMKEY").contains("k"));
    assert_eq!(cluster.say(&mut session, "SET k1 x|DBSIZE|GET k2|FLUSHALL|DBSIZE"), "+OK :200 $1 2 +OK :0 ");
    assert_eq!(cluster.say(&mut session, "MSET k1 1 k2 2 k3 3 k4 4|DBSIZE"), "+OK :4 ");
}

#[test]
fn a_waiting_client_is_served_unblocked_and_let_go_from_afar() {
    let mut cluster = Cluster::lead(2, 1, 1);
    let (mut one, mut two, mut near) = (cluster.session(0), cluster.session(0), cluster.session(1));
    assert_eq!(cluster.say(&mut one, "BLPOP q 0"), "");
    assert!(one.is_blocked() && one.client.waiting.load(Ordering::SeqCst) != 0);
    assert_eq!(cluster.say(&mut near, "RPUSH q x"), ":1 ");
    let mut out = Reply::new(Protocol::Resp2);
    one.collect(&mut out);
    assert_eq!(out.bytes, b"*2\r\n$1\r\nq\r\n$1\r\nx\r\n");
    assert_eq!(one.client.waiting.load(Ordering::SeqCst), 0);
    // CLIENT UNBLOCK at the node that the client came to.
    assert_eq!(cluster.say(&mut one, "BLPOP q 0"), "");
    assert_eq!(cluster.say(&mut two, &format!("CLIENT UNBLOCK {} ERROR", one.client.id)), ":1 ");
    out.bytes.clear();
    one.collect(&mut out);
    assert!(out.bytes.starts_with(b"-UNBLOCKED"), "{}", String::from_utf8_lossy(&out.bytes));
    // Who goes takes nothing with it.
    assert_eq!(cluster.say(&mut one, "BLPOP q 0"), "");
    one.close();
    cluster.settle();
    assert_eq!(cluster.say(&mut near, "RPUSH q y|LLEN q"), ":1 :1 ");
    // Nor does a node.
    assert_eq!(cluster.say(&mut two, "DEL q|BLPOP q 0"), ":1 ");
    cluster.cut(0, 1);
    assert!(two.client.is_doomed(), "whether it was served is unknown");
    assert_eq!(cluster.say(&mut near, "RPUSH q z|LLEN q"), ":1 :1 ");
}

#[test]
fn without_a_leader_a_request_waits_and_is_then_given_back() {
    let mut cluster = Cluster::new(3, 1);
    let mut session = cluster.session(0);
    let mut out = Reply::new(Protocol::Resp2);
    let fed = session.feed(b"SET a 1\r\nGET a\r\n", cluster.doors[0].world.now(), &mut out);
    assert_eq!(fed.pause, Pause::None);
    cluster.tick(1_000);
    cluster.settle();
    assert_eq!(out.bytes, b"");
    // Somebody is elected in time.
    cluster.elect(0, Some(2));
    cluster.tick(20);
    cluster.settle();
    session.collect(&mut out);
    assert_eq!(out.bytes, b"+OK\r\n$1\r\n1\r\n");
    // Nobody is.
    cluster.elect(0, None);
    out.bytes.clear();
    session.feed(b"SET a 2\r\nGET a\r\n", cluster.doors[0].world.now(), &mut out);
    cluster.tick(FORWARD_WAIT.as_millis() as u64);
    session.collect(&mut out);
    let text = String::from_utf8_lossy(&out.bytes).into_owned();
    assert_eq!(text.matches("-TRYAGAIN the shard of this key has had no leader for 3 seconds").count(), 2, "{text}");
    assert!(text.contains("nothing was done"));
    // The one that leads in the end is this node itself.
    out.bytes.clear();
    session.feed(b"SET a 3\r\nGET a\r\n", cluster.doors[0].world.now(), &mut out);
    cluster.elect(0, Some(0));
    cluster.tick(20);
    cluster.settle();
    session.collect(&mut out);
    assert_eq!(out.bytes, b"+OK\r\n$1\r\n3\r\n");
    assert_eq!(cluster.say(&mut session, "GET a"), "$1 3 ");
}

#[test]
fn what_an_old_leader_turns_away_is_done_by_the_new_one_in_order() {
    let mut cluster = Cluster::lead(3, 1, 1);
    let mut session = cluster.session(0);
    let mut out = Reply::new(Protocol::Resp2);
    let lines: String = (0..20).map(|n| format!("RPUSH l {n}\r\n")).collect();
    session.feed(lines.as_bytes(), cluster.doors[0].world.now(), &mut out);
    while cluster.deliver(0) {}
    // They stand in the old leader's queue.
    cluster.elect(0, Some(2));
    cluster.settle();
    cluster.tick(20);
    cluster.settle();
    session.collect(&mut out);
    let answers: String = (1..=20).map(|n| format!(":{n}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&out.bytes), answers);
    let mut list: Vec<String> = (0..20).map(|n: i32| n.to_string()).collect();
    let said = cluster.say(&mut session, "LRANGE l 0 -1");
    let values: Vec<String> =
        said.split(' ').filter(|word| !word.is_empty() && !word.starts_with(['*', '$'])).map(str::to_owned).collect();
    list.truncate(20);
    assert_eq!(values, list);
}

#[test]
fn messages_reach_the_clients_of_all_nodes_once() {
    let mut cluster = Cluster::lead(3, 1, 1);
    let mut listeners: Vec<Session> = (0..3).map(|node| cluster.session(node)).collect();
    for listener in &mut listeners {
        cluster.say(listener, "SUBSCRIBE c|PSUBSCRIBE d*|SSUBSCRIBE s");
    }
    let mut session = cluster.session(0);
    for line in [
        "PUBLISH c 1",
        "PUBLISH d1 2",
        "SPUBLISH s 3",
        "MULTI|PUBLISH c 4|EXEC",
        "EVAL \"return redis.call('publish','c','5')\" 0",
    ] {
        cluster.say(&mut session, line);
        for (node, listener) in listeners.iter_mut().enumerate() {
            let mut out = Reply::new(Protocol::Resp2);
            listener.collect(&mut out);
            let text = String::from_utf8_lossy(&out.bytes).into_owned();
            assert_eq!(text.matches("message\r\n").count(), 1, "node {node} heard of {line:?}: {text:?}");
        }
    }
}

/// Leaders change, links break and fill up, frames are held up at any point. What was acknowledged is there, once and in the
/// client's order; what was refused is not there; of the rest nothing is there twice.
#[test]
fn no_unit_runs_twice_and_no_answer_is_made_up() {
    let (mut dooms, mut refusals, mut done) = (0, 0, 0);
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let mut cluster = Cluster::lead(3, 1, rng.index(3));
        let mut next = 0u64;
        let (mut acknowledged, mut refused) = (Vec::<Vec<u64>>::new(), Vec::new());
        let mut cut: Option<(usize, usize)> = None;
        for _ in 0..6 {
            let mut session = cluster.session(rng.index(3));
            let mut own = Vec::new();
            let mut out = Reply::new(Protocol::Resp2);
            let mut waiting = VecDeque::new();
            let mut fed = Vec::new();
            for _ in 0..40 {
                match rng.below(12) {
                    0..4 => {
                        for _ in 0..=rng.below(3) {
                            fed.extend_from_slice(format!("RPUSH l {next}\r\n").as_bytes());
                            waiting.push_back(next);
                            next += 1;
                        }
                        let now = cluster.doors[0].world.now();
                        let taken = session.feed(&fed, now, &mut out);
                        fed.drain(..taken.consumed);
                    }
                    4 => cluster.drive(),
                    5 | 6 => {
                        cluster.deliver(rng.index(4));
                    }
                    7 => cluster.tick(rng.below(300)),
                    8 => {
                        let leader = rng.chance(3, 4).then(|| rng.index(3));
                        // Unknown outcomes of the old leader's are none here: everything it took was applied or turned away.
                        cluster.elect(0, leader);
                    }
                    9 if rng.chance(1, 3) => {
                        if let Some((one, other)) = cut.take() {
                            cluster.join(one, other);
                        } else {
                            let one = rng.index(3);
                            let other = (one + 1 + rng.index(2)) % 3;
                            cluster.cut(one, other);
                            cut = Some((one, other));
                        }
                    }
                    10 => {
                        let full = rng.chance(1, 3);
                        cluster.wire.lock().full = full;
                    }
                    _ => cluster.settle(),
                }
                // As the host does: who is doomed is cut off before anything more is written.
                if session.client.is_doomed() {
                    break;
                }
                session.collect(&mut out);
                let taken = session.feed(&fed, cluster.doors[0].world.now(), &mut out);
                fed.drain(..taken.consumed);
            }
            cluster.wire.lock().full = false;
            for _ in 0..400 {
                cluster.tick(20);
                cluster.settle();
                if session.client.is_doomed() {
                    break;
                }
                session.collect(&mut out);
                let taken = session.feed(&fed, cluster.doors[0].world.now(), &mut out);
                fed.drain(..taken.consumed);
                if fed.is_empty() && !session.is_pending() {
                    break;
                }
            }
            let text = String::from_utf8_lossy(&out.bytes).into_owned();
            for line in text.split("\r\n").filter(|line| !line.is_empty()) {
                let value = waiting.pop_front().expect("an answer that nobody asked for");
                if line.starts_with(':') {
                    own.push(value);
                    done += 1;
                } else {
                    assert!(line.starts_with("-TRYAGAIN") && line.contains("nothing was done"), "{line}");
                    refused.push(value);
                    refusals += 1;
                }
            }
            if session.client.is_doomed() {
                dooms += 1;
            } else {
                assert!(waiting.is_empty() && !session.is_pending(), "seed {seed}: {} unanswered", waiting.len());
            }
            acknowledged.push(own);
            session.close();
            cluster.settle();
        }
        let leader = cluster.leaders[0].unwrap_or(0);
        cluster.elect(0, Some(leader));
        let mut reader = cluster.session(leader);
        let said = cluster.say(&mut reader, "LRANGE l 0 -1");
        let values: Vec<u64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), values.len(), "seed {seed}: something ran twice");
        for own in acknowledged {
            let places: Vec<usize> =
                own.iter()
                    .map(|value| {
                        values.iter().position(|other| other == value).unwrap_or_else(|| {
                            panic!("seed {seed}: {value} was acknowledged and is not there: {values:?}")
                        })
                    })
                    .collect();
            assert!(places.is_sorted(), "seed {seed}: a pipeline was done out of order");
        }
        assert!(refused.iter().all(|value| !values.contains(value)), "seed {seed}: what was refused was done");
    }
    assert!(dooms > 50 && refusals > 50 && done > 3_000, "{dooms} {refusals} {done}");
}

#[test]
fn large_units_and_answers_travel_in_parts() {
    let mut cluster = Cluster::lead(2, 1, 1);
    let mut session = cluster.session(0);
    let value = "v".repeat(3_000_000);
    let mut bytes = Vec::new();
    crate::resp::client::write_command(&[b"SET".as_slice(), b"k", value.as_bytes()], &mut bytes);
    bytes.extend_from_slice(b"GET k\r\nGET k\r\n");
    let mut out = Reply::new(Protocol::Resp2);
    let fed = session.feed(&bytes, cluster.doors[0].world.now(), &mut out);
    assert_eq!(fed.consumed, bytes.len());
    cluster.settle();
    session.collect(&mut out);
    assert_eq!(out.bytes, format!("+OK\r\n{0}{0}", format_args!("$3000000\r\n{value}\r\n")).as_bytes());
    assert!(cluster.wire.lock().sent > 30, "no frame is long");
}

#[test]
fn frames_read_back_as_they_were_written_and_damage_is_an_error() {
    let asks = [
        AskRecord::Unit { client: 7, number: 900, fresh: true, group: 3, unit: b"abc" },
        AskRecord::Gone { client: 1 << 60 },
        AskRecord::Unblock { client: 2, how: shard::entry::Unblock::Error },
        AskRecord::Publish { kind: Kind::Shard, channel: b"c", message: b"" },
    ];
    let answers = [
        AnswerRecord::Answers { client: 7, count: 2, waits: true, bytes: b"+OK\r\n:1\r\n" },
        AnswerRecord::Refused { client: 7, from: 3, leader: Some(NodeId(2)) },
        AnswerRecord::Doomed { client: 7 },
    ];
    let mut stream = Vec::new();
    asks.iter().for_each(|record| record.put(&mut stream));
    let mut rng = Rng::new(3);
    for _ in 0..200 {
        let (mut incoming, mut offset, mut seen) = (Incoming::default(), 0, 0);
        while offset < stream.len() {
            let length = 1 + rng.index(stream.len() - offset);
            let part = &stream[offset..offset + length];
            let frame = Frame { kind: FrameKind::Asks, epoch: 9, offset: offset as u64, bytes: part }.encode();
            let frame = Frame::decode(&frame).expect("it was written so");
            let taken = incoming.take(frame.offset, frame.bytes, 100, |record| {
                assert_eq!(AskRecord::read(record)?, asks[seen]);
                seen += 1;
                Ok(())
            });
            assert!(taken.is_ok());
            offset += length;
        }
        assert_eq!(seen, asks.len());
        assert!(incoming.take(offset as u64 + 1, b"x", 100, |_| Ok(())).is_err(), "a part is missing");
        assert!(incoming.take(offset as u64, &[100], 99, |_| Ok(())).is_err(), "a record is too long");
    }
    let mut back = Vec::new();
    answers.iter().for_each(|record| record.put(&mut back));
    let mut seen = 0;
    let taken = Incoming::default().take(0, &back, 100, |record| {
        assert_eq!(AnswerRecord::read(record)?, answers[seen]);
        seen += 1;
        Ok(())
    });
    assert!(taken.is_ok() && seen == answers.len());
    // Whatever comes, two doors live through it.
    let cluster = Cluster::lead(2, 1, 1);
    for round in 0..3_000 {
        let mut bytes = if round % 2 == 0 { stream.clone() } else { back.clone() };
        for _ in 0..rng.below(4) {
            let at = rng.index(bytes.len());
            bytes[at] = rng.next_u64() as u8;
        }
        bytes.truncate(rng.index(bytes.len() + 1));
        let kind = [FrameKind::Asks, FrameKind::Answers, FrameKind::Broken][rng.index(3)];
        let frame = Frame { kind, epoch: rng.below(3), offset: 0, bytes: &bytes }.encode();
        let cut = rng.index(frame.len() + 1);
        cluster.doors[round % 2]
            .forwarded(NodeId(2 - round as u64 % 2), &frame[..if rng.chance(1, 4) { cut } else { frame.len() }]);
    }
}

/// Three nodes of a cluster whose state every door knows, each with a cluster door but the last.
fn with_cluster_doors(shards: usize) -> Cluster {
    let mut cluster = Cluster::new(3, shards);
    let place = |node: u64| cluster::Place {
        peer: format!("10.0.0.{node}:7400"),
        redis: format!("10.0.0.{node}:6379"),
        kafka: String::new(),
        etcd: String::new(),
        redis_cluster: if node < 3 { format!("10.0.0.{node}:6380") } else { String::new() },
        admin: String::new(),
        zone: String::new(),
        roles: cluster::Roles::ALL,
    };
    let found = cluster::Change::Found {
        id: base::ClusterId([7; 16]),
        authority: cluster::Authority { certificate: vec![1], token: [3; 32] },
        node: NodeId(1),
        place: place(1),
        key: [1; 32],
        groups: (0..=shards as u32).map(GroupId).collect(),
    };
    let mut changes = vec![found];
    changes.extend((2..=3).map(|node| cluster::Change::Join { key: [node as u8; 32], place: place(node) }));
    let everywhere = cluster::Assignment { voters: (1..=3).map(NodeId).collect(), ..cluster::Assignment::default() };
    let assign = |group: u32| cluster::Change::Assign { group: GroupId(group), was: None, to: everywhere.clone() };
    changes.extend((1..=shards as u32).map(assign));
    change_cluster(&cluster, 1, &changes);
    (0..shards).for_each(|at| cluster.elect(at, Some(at % 3)));
    cluster
}

/// Every node applies these changes, from that index on.
fn change_cluster(cluster: &Cluster, index: u64, changes: &[cluster::Change]) {
    for door in &cluster.doors {
        let meta = door.forward.meta.get().expect("it has joined");
        for (at, change) in changes.iter().enumerate() {
            let mut batch = shard::pending::Batch::<Client>::default();
            batch.cluster(door.admit(String::new(), String::new(), Instant::default()).expect("room"), change);
            let entry = batch.take_entry(1, 1);
            let mut outbox = Outbox::new(door);
            meta.state_mut().apply(at as u64 + index, &entry, Some(&batch), &mut outbox).expect("readable");
        }
    }
}

/// A node that no longer belongs to a shard hears no more of who leads it.
#[test]
fn a_leader_of_old_is_not_waited_for_where_the_shard_is_on_other_nodes() {
    let mut cluster = with_cluster_doors(1);
    let to = cluster::Assignment { voters: vec![NodeId(1), NodeId(2)], ..cluster::Assignment::default() };
    change_cluster(&cluster, 5, &[cluster::Change::Assign { group: GroupId(1), was: None, to }]);
    cluster.elect(0, Some(1));
    let old = Some(NodeId(1));
    cluster.doors[2].shards[0].set_leader(old);
    cluster.doors[2].shards[0].set_refusal(Some(Refusal::Elsewhere(old)));
    cluster.cut(2, 0);
    let mut session = cluster.session(2);
    let mut out = Reply::new(Protocol::Resp2);
    session.feed(b"SET a 1\r\n", cluster.doors[2].world.now(), &mut out);
    for _ in 0..4 {
        cluster.tick(20);
        cluster.settle();
    }
    session.collect(&mut out);
    assert_eq!(out.bytes, b"+OK\r\n");
}

#[test]
fn the_cluster_door_says_where_a_key_is_and_forwards_what_has_no_such_place() {
    let mut cluster = with_cluster_doors(3);
    let mut session = cluster.session(0).on_cluster_door();
    let key = |cluster: &Cluster, at: usize| {
        (0..).map(|n| format!("k{n}")).find(|key| cluster.doors[0].shard_of(key.as_bytes()) == at).expect("some")
    };
    // Whatever has been answered is on two of three nodes: that is what WAIT asks for.
    assert_eq!(cluster.say(&mut session, "WAIT 1 0|WAITAOF 1 1 0"), ":1 *2 :1 :1 ");
    let keys: Vec<String> = (0..3).map(|at| key(&cluster, at)).collect();
    assert_eq!(cluster.say(&mut session, &format!("SET {0} 1|GET {0}", keys[0])), "+OK $1 1 ");
    let slot = base::key_slot(keys[1].as_bytes());
    let moved = format!("-MOVED {slot} 10.0.0.2:6380 ");
    assert_eq!(cluster.say(&mut session, &format!("SET {} 1", keys[1])), moved);
    assert_eq!(cluster.say(&mut session, &format!("WATCH {}", keys[1])), moved);
    let aborted = "-EXECABORT Transaction discarded because of previous errors. ";
    assert_eq!(cluster.say(&mut session, &format!("MULTI|INCR {}|EXEC", keys[1])), format!("+OK {moved}{aborted}"));
    // The third node has no cluster door: its keys are served here.
    assert_eq!(cluster.say(&mut session, &format!("SET {0} 3|GET {0}", keys[2])), "+OK $1 3 ");
    assert_eq!(cluster.say(&mut session, "MSET a 1 b 2"), "-CROSSSLOT Keys in request don't hash to the same slot ");
    assert_eq!(cluster.say(&mut session, "MSET {x}a 1 {x}b 2").len(), "+OK ".len());
    assert!(cluster.say(&mut session, "SELECT 1").starts_with("-ERR SELECT is not allowed in cluster mode"));
    assert_eq!(cluster.say(&mut session, "SELECT 0|ASKING|READWRITE"), "+OK +OK +OK ");
    let mut other = cluster.session(1).on_cluster_door();
    assert_eq!(cluster.say(&mut other, &format!("SET {} 2|DBSIZE", keys[1])), "+OK :1 ");
    // READONLY takes what the replica has.
    assert_eq!(cluster.say(&mut session, &format!("GET {}", keys[1])), moved);
    assert_eq!(cluster.say(&mut session, &format!("READONLY|GET {0}|SET {0} 9", keys[1])), format!("+OK $1 2 {moved}"));
    assert_eq!(cluster.say(&mut session, &format!("RESET|GET {}", keys[1])), format!("+RESET {moved}"));
    assert!(cluster.say(&mut session, &format!("CLUSTER COUNTKEYSINSLOT {slot}")).starts_with(":1"));
    assert!(cluster.say(&mut session, &format!("CLUSTER GETKEYSINSLOT {slot} 9")).starts_with("*1"));
    assert_eq!(cluster.say(&mut session, &format!("CLUSTER KEYSLOT {}", keys[1])), format!(":{slot} "));
    let slots = cluster.say(&mut session, "CLUSTER SLOTS");
    assert!(slots.starts_with("*3 ") && slots.contains(":0 :5461 ") && slots.contains(":10923 :16383 "), "{slots}");
    assert!(slots.contains("$8 10.0.0.1 :6380 $40 07070707070707070707070707070707") && !slots.contains("10.0.0.3"));
    let nodes = cluster.say(&mut session, "CLUSTER NODES");
    assert!(nodes.contains("10.0.0.1:6380@7400 myself,master - 0 0") && nodes.contains(" connected 0-5461"), "{nodes}");
    assert!(cluster.say(&mut session, "CLUSTER INFO").contains("cluster_state:ok cluster_slots_assigned:16384"));
    assert!(cluster.say(&mut session, "CLUSTER SHARDS").starts_with("*3 *4 $5 slots *2 :0 :5461 $5 nodes "));
    assert!(cluster.say(&mut session, "CLUSTER NONSENSE").starts_with("-ERR unknown subcommand"));
    assert!(cluster.say(&mut session, "INFO cluster").contains("cluster_enabled:1"));
    assert!(cluster.say(&mut session, "INFO replication").contains("shard2:role=replica,leader=2,applied=1"));
    assert_eq!(cluster.say(&mut session, "FLUSHALL|DBSIZE"), "+OK :0 ");
    assert_eq!(cluster.say(&mut other, "DBSIZE"), ":1 ", "each node clears its own");
    let mut plain = cluster.session(0);
    assert!(cluster.say(&mut plain, "CLUSTER SLOTS").starts_with("-ERR This instance has cluster support disabled"));
    // Nobody leads: it waits, as on the plain door.
    cluster.elect(1, None);
    let mut out = Reply::new(Protocol::Resp2);
    session.feed(format!("GET {}\r\n", keys[1]).as_bytes(), cluster.doors[0].world.now(), &mut out);
    cluster.elect(1, Some(1));
    cluster.tick(20);
    cluster.settle();
    session.collect(&mut out);
    assert_eq!(out.bytes, b"$1\r\n2\r\n");
}

mod commits;

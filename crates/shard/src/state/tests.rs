//! What a leader did with its clients' requests beside the log must leave no trace in the logged state: a replica, and the
//! same node after a restart, sees the entries alone.

use std::sync::Arc;

use base::{GroupId, Limits, Rng};
use store::keyspace::{Durability, Eviction, Keyspace, Keyspaces};

use super::{Call, Silent, Sink, State};
use crate::command;
use crate::entry::{MultiBuilder, Unblock, Watch};
use crate::pending::{Batch, Place};
use crate::reply::{Protocol, Reply};

const STAMP: u64 = 1_000_000;

/// Notes answers and waits of the one client that it knows.
#[derive(Default)]
struct Noted {
    answers: String,
    parked: Vec<u64>,
}

impl Sink<u64> for Noted {
    fn reply(&mut self, _: &u64, bytes: &[u8]) {
        self.answers.push_str(&String::from_utf8_lossy(bytes));
    }
    fn parked(&mut self, _: &u64, waiter: u64) {
        self.parked.push(waiter);
    }
    fn served(&mut self, _: u64, bytes: &[u8]) {
        self.answers.push_str(&String::from_utf8_lossy(bytes));
    }
    fn lost(&mut self, _: &u64) {}
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

/// A leader, and a replica that sees nothing but the entries.
struct Pair {
    leader: State,
    replica: State,
    index: u64,
    noted: Noted,
}

impl Pair {
    fn new(keyspaces: Keyspaces) -> Pair {
        let state = |seed| State::new(GroupId(1), Limits::DEFAULT, Arc::new(keyspaces.clone()), seed);
        Pair { leader: state(1), replica: state(2), index: 0, noted: Noted::default() }
    }

    fn entry(&mut self, fill: impl FnOnce(&mut Batch<u64>)) -> String {
        let mut batch = Batch::default();
        fill(&mut batch);
        if batch.needs_entry() {
            self.index += 1;
            let entry = batch.take_entry(STAMP + self.index, self.index * 7919);
            self.leader.apply(self.index, &entry, Some(&batch), &mut self.noted).expect("readable");
            self.replica.apply::<u64, _>(self.index, &entry, None, &mut Silent).expect("readable");
        } else {
            self.leader.run_local(&batch, STAMP + self.index, &mut self.noted).expect("readable");
        }
        std::mem::take(&mut self.noted.answers)
    }

    fn ask(&mut self, lines: &[(Place, &str)]) -> String {
        self.entry(|batch| {
            for (place, line) in lines {
                batch.command(*place, false, 1, 0, Protocol::Resp2, &words(line));
            }
        })
    }

    /// The answer that both give.
    fn read(&self, line: &str) -> String {
        let args = words(line);
        let spec = command::find(args[0]).expect("a command");
        let answer = |state: &State| {
            let mut reply = Reply::new(Protocol::Resp2);
            state.read(&Call::new(spec, 0, &args, STAMP), &mut Rng::new(1), &mut reply);
            String::from_utf8_lossy(&reply.bytes).into_owned()
        };
        assert_eq!(answer(&self.leader), answer(&self.replica), "leader and replica differ: {line}");
        answer(&self.leader)
    }
}

fn words(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

#[test]
fn a_read_between_two_writes_of_an_entry_takes_nothing_of_its_randomness() {
    let mut pair = Pair::new(Keyspaces::default());
    pair.ask(&[(Place::Logged, "SADD s a b c d e f g h i j k l m n o p")]);
    for _ in 0..8 {
        pair.ask(&[(Place::Logged, "SET k 1"), (Place::Local, "SRANDMEMBER s"), (Place::Logged, "SPOP s")]);
    }
    pair.read("SMEMBERS s");
}

#[test]
fn waits_of_reads_do_not_shift_the_ids_of_replicated_waits() {
    let mut pair = Pair::new(Keyspaces::default());
    pair.ask(&[(Place::Local, "XREAD BLOCK 0 STREAMS x $")]);
    pair.ask(&[(Place::Logged, "BLPOP l 0")]);
    let waiter = pair.noted.parked[1];
    assert_eq!(pair.entry(|batch| batch.unblock(waiter, Unblock::Timeout)), "*-1\r\n");
    assert_eq!(pair.ask(&[(Place::Logged, "RPUSH l pushed")]), ":1\r\n");
    assert_eq!(pair.read("LRANGE l 0 -1"), "*1\r\n$6\r\npushed\r\n");
}

fn keyspace(prefix: &str, durability: Durability) -> Keyspace {
    Keyspace { prefix: prefix.into(), durability, max_bytes: 0, eviction: Eviction::Refuse, default_expiry: 0 }
}

fn mixed_keyspaces() -> Keyspaces {
    Keyspaces::new(vec![keyspace("cache:", Durability::Memory)]).expect("these settings are allowed")
}

#[test]
fn a_logged_transaction_may_not_hang_on_a_key_that_only_the_leader_has() {
    let mut pair = Pair::new(mixed_keyspaces());
    pair.ask(&[(Place::Local, "SET cache:k 1")]);
    let version = pair.leader.version(0, b"cache:k", STAMP);
    let mut multi = MultiBuilder::default();
    multi.command(0, &words("SET k 1"));
    let watch = Watch { db: 0, key: b"cache:k".to_vec(), version };
    let answer = pair.entry(|batch| batch.multi(Place::Logged, false, 1, Protocol::Resp2, &multi, &[watch]));
    assert!(answer.starts_with("-CROSSKEYSPACE"), "{answer}");
    pair.read("GET k");
}

#[test]
fn a_logged_script_does_not_see_what_only_the_leader_has() {
    let mut pair = Pair::new(mixed_keyspaces());
    pair.ask(&[(Place::Local, "SET cache:k 1")]);
    for read in ["dbsize", "randomkey", "keys','*", "scan','0"] {
        let script = format!("redis.call('set','k',cjson.encode(redis.pcall('{read}')))");
        let words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), b"0"];
        pair.entry(|batch| batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &words));
        pair.read("GET k");
    }
}

#[test]
fn a_script_without_keys_is_logged_whatever_the_default_keyspace() {
    let settings = vec![keyspace("", Durability::Memory), keyspace("db:", Durability::Fsync)];
    let keyspaces = Keyspaces::new(settings).expect("these settings are allowed");
    let pair = Pair::new(keyspaces);
    let spec = command::find(b"EVAL").expect("a command");
    assert_eq!(pair.leader.class_of(spec, &words("EVAL x 0")), Ok(Durability::Fsync));
    assert_eq!(pair.leader.class_of(spec, &words("EVAL x 1 k")), Ok(Durability::Memory));
}

#[test]
fn a_cached_stream_that_expires_ends_the_waits_of_its_groups_at_once() {
    let mut pair = Pair::new(mixed_keyspaces());
    pair.ask(&[(Place::Local, "XGROUP CREATE cache:s g $ MKSTREAM")]);
    pair.ask(&[(Place::Local, "PEXPIRE cache:s 50")]);
    pair.ask(&[(Place::Local, "XREADGROUP GROUP g c BLOCK 0 STREAMS cache:s >")]);
    assert_eq!(pair.leader.sweep_memory(STAMP + 1000, 10, &mut pair.noted), 1);
    assert!(pair.noted.answers.starts_with("-NOGROUP"), "{}", pair.noted.answers);
}

fn snapshot(state: &mut State, step: usize, mut between: impl FnMut(&mut State)) -> Vec<Vec<u8>> {
    let mut chunks = vec![state.begin_snapshot().1];
    loop {
        let mut chunk = Vec::new();
        let done = state.walk(step, &mut chunk).expect("nothing ends it early");
        chunks.push(chunk);
        if done {
            return chunks;
        }
        between(state);
    }
}

fn restored(chunks: &[Vec<u8>]) -> Result<State, store::codec::Corrupt> {
    let mut state = State::new(GroupId(1), Limits::DEFAULT, Arc::default(), 9);
    state.restore_first(&chunks[0])?;
    for chunk in &chunks[1..] {
        state.restore(chunk)?;
    }
    state.finish_restore();
    Ok(state)
}

#[test]
fn a_snapshot_of_large_values_leaves_a_replica_that_answers_as_its_leader() {
    let mut pair = Pair::new(Keyspaces::default());
    for round in 0..40 {
        let members: Vec<String> = (0..100).map(|n| format!("\u{c0}{}:{}", round, n * 7919)).collect();
        let fields: Vec<String> = members.iter().map(|member| format!("{member} {round}")).collect();
        pair.ask(&[
            (Place::Logged, &format!("SADD s {}", members.join(" "))),
            (Place::Logged, &format!("HSET h {}", fields.join(" "))),
            (Place::Logged, "SPOP s 20"),
        ]);
    }
    let whole = ["SMEMBERS s", "HGETALL h"].map(|line| pair.read(line));
    // Changes while it is made are not in it.
    let mut changing = restored(&snapshot(&mut pair.leader, 1 << 20, |_| ())).expect("as written");
    let mut index = changing.applied();
    let chunks = snapshot(&mut changing, 300, |state| {
        let mut batch = Batch::<u64>::default();
        index += 1;
        for line in ["SPOP s 3", &format!("SADD s late:{index}"), &format!("HSET h late:{index} v"), "SET other v"] {
            batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &words(line));
        }
        let entry = batch.take_entry(STAMP + index, index);
        state.apply::<u64, _>(index, &entry, None, &mut Silent).expect("readable");
    });
    assert!(chunks.len() > 20, "{} chunks: large values are written in pieces", chunks.len());
    pair.replica = restored(&chunks).expect("as written");
    assert_eq!(["SMEMBERS s", "HGETALL h"].map(|line| pair.read(line)), whole);
    // Chance takes the same members from the restored set as from the one that grew.
    for _ in 0..20 {
        pair.ask(&[(Place::Logged, "SPOP s 7"), (Place::Logged, "SPOP s")]);
    }
    pair.read("SMEMBERS s");
    pair.read("SRANDMEMBER s 50");
    pair.read("HRANDFIELD h 50 WITHVALUES");
    pair.read("HSCAN h 0 COUNT 100");
}

#[test]
fn snapshots_of_this_version_and_the_one_before_are_read_and_none_that_ends_in_the_middle_of_a_key() {
    let mut pair = Pair::new(Keyspaces::default());
    let members: Vec<String> = (0..9000).map(|n| format!("member:{n}")).collect();
    pair.ask(&[(Place::Logged, &format!("SADD s {}", members.join(" ")))]);
    let mut chunks = snapshot(&mut pair.leader, 4000, |_| ());
    assert_eq!(chunks[0][0], 2);
    assert!(restored(&chunks).expect("as written").is_whole());
    let cut = restored(&chunks[..chunks.len() / 2]).expect("what there is can be read");
    assert!(!cut.is_whole());
    // Version 1 never parted a key.
    let mut one = vec![chunks[0].clone(), chunks[1..].concat()];
    one[0][0] = 1;
    pair.replica = restored(&one).expect("the version before");
    pair.read("SMEMBERS s");
    chunks[0][0] = 3;
    assert!(restored(&chunks).is_err());
}

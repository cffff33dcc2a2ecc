//! What a leader did with its clients' requests beside the log must leave no trace in the logged state: a replica, and the
//! same node after a restart, sees the entries alone.

use std::sync::Arc;

use base::{GroupId, Limits, Rng};
use store::codec::Stored;
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
        let state = |seed| State::new(GroupId(1), &Limits::DEFAULT, Arc::new(keyspaces.clone()), seed);
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
    let mut state = State::new(GroupId(1), &Limits::DEFAULT, Arc::default(), 9);
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
fn snapshots_of_this_version_and_of_those_before_are_read_and_none_that_ends_in_the_middle_of_a_key() {
    let mut pair = Pair::new(Keyspaces::default());
    let members: Vec<String> = (0..9000).map(|n| format!("member:{n}")).collect();
    pair.ask(&[(Place::Logged, &format!("SADD s {}", members.join(" ")))]);
    let mut chunks = snapshot(&mut pair.leader, 4000, |_| ());
    assert_eq!(chunks[0][0], 10);
    assert!(restored(&chunks).expect("as written").is_whole());
    let cut = restored(&chunks[..chunks.len() / 2]).expect("what there is can be read");
    assert!(!cut.is_whole());
    // Before version 10 there were neither users nor libraries of functions, before 9 there was no word of etcd's keys, before 8 there were no commits across shards, before 7 there were no groups of topics as streams, before 6 there were no slots in it, before 5 no topics and no queue, before 4 no cluster, before 3 no bounds, and version 1 never parted a key.
    let mut cluster = Vec::new();
    pair.leader.cluster().encode(&mut cluster);
    let mut bounds = Vec::new();
    crate::bounds::encode(pair.leader.bounds(), &mut bounds);
    let at = chunks[0].windows(bounds.len()).position(|bytes| bytes == bounds).expect("they are in it");
    let after = at + bounds.len();
    let mut queue = Vec::new();
    pair.leader.topics().encode(&mut queue);
    pair.leader.queue().encode_books(&mut queue);
    let mut slots = Vec::new();
    pair.leader.slots().encode(&mut slots);
    let mut commits = Vec::new();
    pair.leader.commits().encode(&mut commits);
    let mut before = chunks.clone();
    let begins = after + cluster.len() + queue.len() + slots.len();
    let mut scripts = Vec::new();
    pair.leader.logged.waiters.encode(&mut scripts);
    pair.leader.logged.scripts.encode(&mut scripts);
    let users = begins + commits.len() + 1;
    assert_eq!(before[0].remove(users + 2 + scripts.len()), 0, "no libraries");
    assert_eq!(before[0].drain(users..users + 2).as_slice(), [0, 0], "none are there");
    before[0][0] = 9;
    assert!(restored(&before).expect("the version before").is_whole());
    assert_eq!(before[0].remove(begins + commits.len()), 0, "none are there");
    before[0][0] = 8;
    assert!(restored(&before).expect("the version before").is_whole());
    assert_eq!(before[0].drain(begins..begins + commits.len()).as_slice(), commits.as_slice());
    for version in [7, 6] {
        before[0][0] = version;
        assert!(restored(&before).expect("a version before").is_whole());
    }
    for (version, part, begins) in
        [(5, &slots, after + cluster.len() + queue.len()), (4, &queue, after + cluster.len())]
    {
        assert_eq!(before[0].drain(begins..begins + part.len()).as_slice(), part.as_slice());
        before[0][0] = version;
        pair.replica = restored(&before).expect("a version before");
        pair.read("SMEMBERS s");
    }
    assert_eq!(before[0].drain(after..after + cluster.len()).as_slice(), cluster);
    before[0][0] = 3;
    pair.replica = restored(&before).expect("the version before");
    pair.read("SMEMBERS s");
    before[0].drain(at..after);
    for (version, parted) in [(2, true), (1, false)] {
        before[0][0] = version;
        let chunks = if parted { before.clone() } else { vec![before[0].clone(), before[1..].concat()] };
        pair.replica = restored(&chunks).expect("a version before");
        pair.read("SMEMBERS s");
    }
    chunks[0][0] = 11;
    assert!(restored(&chunks).is_err());
}

#[test]
fn what_a_script_sees_does_not_depend_on_how_tables_came_to_be_laid_out() {
    let mut pair = Pair::new(Keyspaces::default());
    // Tables that grew and shrank: a replica that reads a snapshot lays them out anew.
    for n in 0..3000 {
        pair.ask(&[(Place::Logged, &format!("SET k{n} v")), (Place::Logged, &format!("SADD s m{n}"))]);
    }
    for n in 40..3000 {
        pair.ask(&[(Place::Logged, &format!("DEL k{n}")), (Place::Logged, &format!("SREM s m{n}"))]);
    }
    pair.replica = restored(&snapshot(&mut pair.leader, 1000, |_| ())).expect("as written");
    let calls = [
        "redis.call('keys','*')",
        "redis.call('randomkey')",
        "redis.call('scan','0')",
        "redis.call('scan',redis.call('scan','0','count',7)[1],'count',3)",
        "redis.call('smembers','s')",
        "redis.call('srandmember','s',5)",
        "redis.call('sscan','s','0')",
        "redis.call('sort','s','by','nosort')",
        "redis.call('dbsize')",
    ];
    for (n, call) in calls.iter().enumerate().cycle().take(calls.len() * 5) {
        let script = format!("redis.call('set','answer{n}',cjson.encode({call}))");
        let words: Vec<&[u8]> = vec![b"EVAL", script.as_bytes(), b"0"];
        pair.entry(|batch| batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &words));
        let answer = pair.read(&format!("GET answer{n}"));
        assert!(!answer.starts_with("$-1"), "{call} fails");
    }
}

#[test]
fn bounds_that_an_entry_meets_come_from_the_log_and_not_from_settings() {
    let mut pair = Pair::new(Keyspaces::default());
    let limits = Limits { scripts_max: 1, bulk_bytes_max: 8, waiters_max: 0, ..Limits::DEFAULT };
    assert_eq!(pair.ask(&[(Place::Logged, "SETRANGE k 10 x")]), ":11\r\n");
    pair.entry(|batch| batch.bounds(&limits));
    assert!(pair.ask(&[(Place::Logged, "SETRANGE k 10 x")]).starts_with("-ERR string exceeds maximum"));
    assert_eq!(pair.ask(&[(Place::Logged, "BLPOP l 0")]), "*-1\r\n", "nobody may wait");
    let mut other = restored(&snapshot(&mut pair.leader, 1000, |_| ())).expect("as written");
    assert!(crate::bounds::same(other.bounds(), &limits), "a snapshot holds them too");
    let mut batch = Batch::<u64>::default();
    batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &words("APPEND k 123456789"));
    let entry = batch.take_entry(STAMP, 1);
    other.apply::<u64, _>(pair.index + 1, &entry, None, &mut Silent).expect("readable");
    assert_eq!(other.tables(Durability::Fsync).total_usage(), pair.leader.tables(Durability::Fsync).total_usage());
}

#[test]
fn an_answer_that_repeats_one_large_value_is_refused_before_it_grows() {
    let limits = Limits { output_bytes_max: 10_000, ..Limits::DEFAULT };
    let mut pair = Pair::new(Keyspaces::default());
    pair.leader = State::new(GroupId(1), &limits, Arc::new(Keyspaces::default()), 1);
    let large = "x".repeat(999);
    pair.ask(&[(Place::Logged, &format!("SET k {large}")), (Place::Logged, &format!("RPUSH l 1 2 3 {large}"))]);
    let many = |count: usize, word: &str, each: &str| format!("{word}{}", format!(" {each}").repeat(count));
    let read = |state: &State, line: &str| {
        let args = words(line);
        let mut reply = Reply::new(Protocol::Resp2);
        reply.simple("what was answered before");
        state.read(
            &Call::new(command::find(args[0]).expect("a command"), 0, &args, STAMP),
            &mut Rng::new(1),
            &mut reply,
        );
        assert!(reply.bytes.len() < 11_000 && reply.bytes.starts_with(b"+what was answered before\r\n"));
        String::from_utf8_lossy(&reply.bytes[27..]).into_owned()
    };
    assert!(read(&pair.leader, &many(9, "MGET", "k")).starts_with("*9\r\n$999\r\n"));
    for line in [many(11, "MGET", "k"), many(3000, "MGET", "nothing"), many(11, "SORT_RO l BY nosort", "GET #")] {
        assert!(read(&pair.leader, &line).starts_with("-ERR the answer is longer than the limit output_bytes_max"));
    }
    // In a transaction the limit is the transaction's; what comes after is told so as well.
    let mut multi = MultiBuilder::default();
    for line in [many(5, "MGET", "k"), many(6, "MGET", "k"), "PING".into(), "SET other 1".into()] {
        multi.command(0, &words(&line));
    }
    let answer = pair.entry(|batch| batch.multi(Place::Logged, false, 1, Protocol::Resp2, &multi, &[]));
    assert!(answer.contains("-ERR the answer is longer") && answer.ends_with("+OK\r\n"), "{answer}");
    let script = "return #redis.call('mget',unpack(KEYS))";
    let keys = many(11, "", "k");
    let line = [b"EVAL".as_slice(), script.as_bytes(), b"11"];
    let words: Vec<&[u8]> = line.into_iter().chain(keys.trim().split(' ').map(str::as_bytes)).collect();
    let answer = pair.entry(|batch| batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &words));
    assert_eq!(answer, ":11\r\n", "what a script may see does not depend on a node's own settings");
}

/// The queue's units: a batch lies where the partition says, whatever stands before it in the entry; offsets, topics and the
/// leader's epoch are the same on every replica and in a snapshot.
#[test]
fn what_is_produced_lies_in_the_entry_where_the_partition_says() {
    use queue::partition::{Isolation, Source};
    use queue::{Command, Outcome, TopicId, topics};

    let topic = TopicId(7 << 64 | 1);
    let mut pair = Pair::new(Keyspaces::default());
    let mut entries: Vec<Vec<u8>> = Vec::new();
    let mut answers = Vec::new();
    struct Answers<'a>(&'a mut Vec<Outcome>);
    impl Sink<u64> for Answers<'_> {
        fn reply(&mut self, _: &u64, bytes: &[u8]) {
            self.0.extend(Outcome::decode(bytes).ok());
        }
        fn parked(&mut self, _: &u64, _: u64) {}
        fn served(&mut self, _: u64, _: &[u8]) {}
        fn lost(&mut self, _: &u64) {}
        fn publish(&mut self, _: &[u8], _: &[u8]) {}
        fn receivers(&self, _: &[u8]) -> i64 {
            0
        }
    }
    let mut stored = Vec::new();
    for round in 0..20u8 {
        let mut batch = Batch::default();
        for number in 0..round % 4 {
            batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &[b"SET", b"k", &[number; 3]]);
            batch.command(Place::Local, false, 1, 0, Protocol::Resp2, &[b"GET", b"k"]);
            let batches = queue::batch::example(&[&[round, number], b"x"], 5, (-1, -1, -1), false);
            let (place, append_time, transaction) = ("orders", false, None);
            batch.queue(
                1,
                &Command::Produce {
                    topic,
                    place,
                    partition: 0,
                    append_time,
                    transaction,
                    marks: Vec::new(),
                    batches: &batches,
                },
            );
            stored.push(batches);
        }
        let index = entries.len() as u64 + 1;
        let entry = if round % 5 == 0 { Vec::new() } else { batch.take_entry(STAMP, 7) };
        let asked = (!entry.is_empty()).then_some(&batch);
        if asked.is_none() {
            stored.truncate(stored.len() - usize::from(round % 4));
        }
        pair.leader.apply(index, &entry, asked, &mut Answers(&mut answers)).expect("readable");
        let grown = usize::from(!entry.is_empty() && round % 4 > 0);
        assert_eq!(pair.leader.take_grown().first(), [(topic, 0)][..grown].first());
        pair.replica.apply::<u64, _>(index, &entry, None, &mut Silent).expect("readable");
        entries.push(entry);
    }
    let restored = restored(&snapshot(&mut pair.leader, 50, |_| ())).expect("as written");
    let leaders = entries.iter().filter(|entry| entry.is_empty()).count() as i32;
    for state in [&pair.leader, &pair.replica, &restored] {
        assert_eq!(state.queue().epoch(), leaders, "an empty entry is a new leader's");
        let own = state.queue().partition(topic, 0).expect("written");
        assert_eq!(own.high(), 2 * stored.len() as u64);
    }
    // What was stored is copied out before a snapshot lets the log go: the restored one knows no place in the log.
    for state in [&pair.leader, &pair.replica] {
        let own = state.queue().partition(topic, 0).expect("written");
        let plan = own.plan(0, u64::MAX, Isolation::Committed).expect("in range");
        assert_eq!(plan.pieces.len(), stored.len());
        for (piece, batches) in plan.pieces.iter().zip(&stored) {
            let Source::Entry { index, at, bytes } = piece.source else { panic!("nothing was copied out") };
            assert_eq!(&entries[index as usize - 1][at as usize..][..bytes as usize], &batches[..]);
        }
    }
    let bases = answers.iter().map(|answer| match answer {
        Outcome::Produced { base, .. } => *base,
        other => panic!("{other:?}"),
    });
    assert!(bases.eq((0..stored.len() as u64).map(|at| 2 * at)));

    // Topics are the meta group's, but a state is a state.
    let create = topics::Change::Create { name: "orders".into(), partitions: 2, settings: Vec::new() };
    let mut batch = Batch::default();
    batch.topics(1, &create);
    let (index, entry) = (entries.len() as u64 + 1, batch.take_entry(STAMP, 7));
    for state in [&mut pair.leader, &mut pair.replica] {
        state.apply::<u64, _>(index, &entry, None, &mut Silent).expect("readable");
        assert_eq!(state.take_grown(), [crate::board::TOPICS]);
        assert_eq!(state.topics().get("orders").map(|topic| (topic.id.born(), topic.partitions)), Some((index, 2)));
    }
    assert_eq!(pair.leader.topics(), pair.replica.topics());
}

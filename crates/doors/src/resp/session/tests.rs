//! A conversation over a shard whose log is as quick as the test wants.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{GroupId, Instant, Limits, SlotSet};
use shard::live::{Gate, Shard};
use shard::reply::{Protocol, Reply};
use shard::slots::Slots;
use shard::state::State;
use store::keyspace::Keyspaces;

use super::{Pause, Session};
use crate::resp::door::{Client, Door, Outbox, World};
use crate::resp::introspect::{Config, ConfigFacts, Facts};

struct Nothing(Arc<AtomicU64>);

impl World for Nothing {
    fn wake_driver(&self) {}
    fn now(&self) -> Instant {
        Instant(self.0.load(Ordering::SeqCst))
    }
    fn wall_micros(&self) -> u64 {
        0
    }
    fn random(&self) -> u64 {
        7
    }
    fn facts(&self) -> Facts {
        Facts::default()
    }
}

pub(super) struct Scene {
    pub(super) door: Arc<Door>,
    /// Nanoseconds.
    pub(super) clock: Arc<AtomicU64>,
    applied: Vec<u64>,
}

impl Scene {
    pub(super) fn new(limits: Limits) -> Scene {
        Scene::with(limits, Keyspaces::default())
    }

    pub(super) fn with(limits: Limits, keyspaces: Keyspaces) -> Scene {
        Scene::split(limits, keyspaces, 1)
    }

    fn split(limits: Limits, keyspaces: Keyspaces, count: usize) -> Scene {
        let (keyspaces, clock) = (Arc::new(keyspaces), Arc::<AtomicU64>::default());
        let shard = |index: usize| {
            let group = GroupId(index as u32 + 1);
            let mut state = State::new(group, &limits, keyspaces.clone(), 1);
            state.set_slots(Slots::of(SlotSet::share(index, count)));
            let shard = Arc::new(Shard::<Client>::new(group, state, &limits, Arc::new(Gate::default())));
            shard.set_refusal(None);
            shard.set_lease(Some(Instant(u64::MAX)));
            shard
        };
        let shards = (0..count).map(shard).collect();
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
        let door = Arc::new(Door::new(limits, shards, None, config, Box::new(Nothing(clock.clone()))));
        let mut scene = Scene { door, clock, applied: vec![0; count] };
        // As the driver does at a start: what an entry meets comes from the log.
        for shard in scene.door.shards.iter() {
            if !shard::bounds::same(shard.state().bounds(), &scene.door.limits) {
                shard.put(|batch| batch.bounds(&scene.door.limits));
            }
        }
        scene.drive();
        scene
    }

    pub(super) fn session(&self) -> Session {
        let client = self.door.admit(String::new(), String::new(), Instant::default()).expect("there is room");
        Session::new(self.door.clone(), client, 1)
    }

    /// Nobody knows any more whether this node leads: what is read must ride in an entry.
    pub(super) fn end_leases(&self) {
        self.door.shards.iter().for_each(|shard| shard.set_lease(None));
    }

    /// What the driver does, on a disk that takes no time.
    fn drive(&mut self) {
        let mut outbox = Outbox::new(&self.door);
        for (shard, applied) in self.door.shards.iter().zip(&mut self.applied) {
            while let Some(mut batch) = shard.take() {
                if !shard.reads_here() {
                    batch.ride();
                }
                let mut state = shard.state_mut();
                if batch.needs_entry() {
                    *applied += 1;
                    let entry = batch.take_entry(1, 1);
                    state.apply(*applied, &entry, Some(&batch), &mut outbox).expect("readable");
                } else {
                    state.run_local(&batch, 1, &mut outbox).expect("readable");
                }
            }
        }
        outbox.flush();
    }

    /// Feeds inline commands and drives until all have been answered.
    pub(super) fn say(&mut self, session: &mut Session, lines: &str) -> String {
        let bytes = lines.replace('|', "\r\n") + "\r\n";
        let (mut from, mut out) = (0, Reply::new(Protocol::Resp2));
        loop {
            let fed = session.feed(&bytes.as_bytes()[from..], Instant::default(), &mut out);
            from += fed.consumed;
            self.drive();
            session.collect(&mut out);
            if fed.pause == Pause::None {
                return String::from_utf8_lossy(&out.bytes).replace("\r\n", " ");
            }
        }
    }
}

#[test]
fn select_in_a_transaction_that_does_nothing_selects_nothing() {
    let mut scene = Scene::new(Limits::DEFAULT);
    let (mut one, mut two) = (scene.session(), scene.session());
    scene.say(&mut one, "WATCH w");
    scene.say(&mut two, "SET w 1");
    assert_eq!(scene.say(&mut one, "MULTI|SELECT 5|EXEC|SET k 1"), "+OK +QUEUED *-1 +OK ");
    assert_eq!(scene.say(&mut two, "GET k|SELECT 5|GET k"), "$1 1 +OK $-1 ");
    assert_eq!(scene.say(&mut one, "WATCH w|MULTI|SELECT 5|EXEC|SET k 2"), "+OK +OK +QUEUED *1 +OK +OK ");
    assert_eq!(scene.say(&mut two, "GET k"), "$1 2 ");
}

#[test]
fn exec_with_words_behind_it_forgets_what_was_watched() {
    let mut scene = Scene::new(Limits::DEFAULT);
    let (mut one, mut two) = (scene.session(), scene.session());
    let refused = "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command ";
    assert_eq!(scene.say(&mut one, "WATCH k|EXEC 0"), format!("+OK {refused}"));
    scene.say(&mut two, "SET k 1");
    assert_eq!(scene.say(&mut one, "MULTI|EXEC"), "+OK *0 ");
}

#[test]
fn a_transaction_is_bounded_whatever_is_queued() {
    let mut scene = Scene::new(Limits { command_bytes_max: 64, ..Limits::DEFAULT });
    let mut session = scene.session();
    for word in ["ECHO", "PUBLISH c"] {
        let line = format!("{word} {}", "x".repeat(40));
        let answers = scene.say(&mut session, &format!("MULTI|{line}|{line}|{line}|EXEC"));
        assert!(answers.starts_with("+OK +QUEUED +QUEUED -ERR too many commands or bytes"), "{answers}");
        assert!(answers.contains("-EXECABORT"), "{answers}");
    }
}

#[test]
fn a_full_queue_does_not_make_a_transaction_take_a_command_twice() {
    let mut scene = Scene::new(Limits { pending_bytes_max: 1, ..Limits::DEFAULT });
    let mut session = scene.session();
    // The SET is under way and fills the queue when the rest is read.
    assert_eq!(scene.say(&mut session, "SET n 1|MULTI|INCR n"), "+OK +OK +QUEUED ");
    assert_eq!(scene.say(&mut session, "EXEC|GET n"), "*1 :2 $1 2 ");
}

#[test]
fn a_pause_holds_the_doors_own_commands_as_well() {
    let mut scene = Scene::new(Limits::DEFAULT);
    let mut session = scene.session();
    let until = Instant(1_000_000);
    let feed = |session: &mut Session, line: &str| {
        let mut out = Reply::new(Protocol::Resp2);
        let fed = session.feed(format!("{line}\r\n").as_bytes(), Instant::default(), &mut out);
        (fed.pause, String::from_utf8_lossy(&out.bytes).into_owned())
    };
    // What a Redis of 7.0 holds and what it does not.
    for (writes_only, held, free) in [
        (
            false,
            &["PING", "CLIENT UNPAUSE", "PUBLISH c m", "MULTI", "RESET", "QUIT", "INFO"][..],
            &["NONSENSE", "ECHO"][..],
        ),
        (
            true,
            &["PUBLISH c m", "SPUBLISH c m", "SET k v", "EVAL return 0"],
            &["PING", "GET k", "CLIENT ID", "SCRIPT EXISTS x", "EVAL_RO return 0", "MULTI"],
        ),
    ] {
        *scene.door.pause.lock() = Some(super::super::door::Pause { until, writes_only });
        for line in held {
            assert_eq!(feed(&mut session, line), (Pause::Until(until), String::new()), "{line}");
        }
        for line in free {
            assert_eq!(feed(&mut session, line).0, Pause::None, "{line}");
        }
    }
    assert_eq!(feed(&mut session, "PUBLISH c m").0, Pause::Until(until), "inside a transaction too");
    *scene.door.pause.lock() = None;
    scene.say(&mut session, "DISCARD");
    // A transaction waits where one of its commands would.
    for (line, held) in [("SCRIPT EXISTS x", false), ("GET k", false), ("PUBLISH c m", true), ("SET k v", true)] {
        scene.say(&mut session, &format!("MULTI|{line}"));
        *scene.door.pause.lock() = Some(super::super::door::Pause { until, writes_only: true });
        assert_eq!(feed(&mut session, "EXEC").0 == Pause::Until(until), held, "{line}");
        *scene.door.pause.lock() = None;
        scene.say(&mut session, if held { "DISCARD" } else { "PING" });
    }
}

#[test]
fn a_key_is_watched_once_and_all_of_them_within_bounds() {
    let mut scene = Scene::new(Limits { args_max: 3, command_bytes_max: 40, ..Limits::DEFAULT });
    let mut session = scene.session();
    assert_eq!(scene.say(&mut session, "WATCH a b|WATCH a b|UNWATCH|WATCH c d|WATCH e"), "+OK +OK +OK +OK +OK ");
    assert!(scene.say(&mut session, "WATCH f").starts_with("-ERR too many watched keys"));
    let long = "x".repeat(30);
    assert!(
        scene.say(&mut session, &format!("UNWATCH|WATCH a{long}|WATCH b{long}")).starts_with("+OK +OK -ERR too many")
    );
}

/// The keys of a SCAN that follows its cursor to the end.
fn scan(scene: &mut Scene, session: &mut Session, options: &str) -> Vec<String> {
    let (mut keys, mut cursor) = (Vec::new(), "0".to_owned());
    loop {
        let answer = scene.say(session, &format!("SCAN {cursor} {options}"));
        let mut words = answer.split(' ').filter(|word| !word.is_empty() && !word.starts_with(['*', '$']));
        cursor = words.next().expect("the cursor comes first").to_owned();
        keys.extend(words.map(str::to_owned));
        if cursor == "0" {
            return keys;
        }
    }
}

#[test]
fn commands_on_whole_databases_see_and_change_all_shards() {
    let mut scene = Scene::split(Limits::DEFAULT, Keyspaces::default(), 4);
    let mut session = scene.session();
    assert_eq!(scene.say(&mut session, "DBSIZE|RANDOMKEY|KEYS *|SCAN 0"), ":0 $-1 *0 *2 $1 0 *0 ");
    let mut all: Vec<String> = (0..500).map(|n| format!("k{n}")).collect();
    all.sort();
    for key in &all {
        assert_eq!(scene.say(&mut session, &format!("SET {key} v")), "+OK ");
    }
    // Pipelined behind a write that is under way.
    assert_eq!(scene.say(&mut session, "SET k0 w|DBSIZE"), "+OK :500 ");
    assert_eq!(scene.say(&mut session, "KEYS *").split(' ').filter(|word| word.starts_with('k')).count(), 500);
    for options in ["COUNT 1", "COUNT 7", "COUNT 1000", "MATCH k* TYPE string"] {
        let mut seen = scan(&mut scene, &mut session, options);
        seen.sort();
        assert_eq!(seen, all, "{options}");
    }
    let picked: std::collections::BTreeSet<usize> = (0..100)
        .map(|_| {
            let answer = scene.say(&mut session, "RANDOMKEY");
            scene.door.shard_of(answer.split(' ').nth(1).expect("a key").as_bytes())
        })
        .collect();
    assert_eq!(picked.len(), 4, "every shard's keys are picked");
    for cursor in ["18446744073709551615", "3", "7", "4503599627370497"] {
        assert!(scene.say(&mut session, &format!("SCAN {cursor}")).starts_with("*2"), "any cursor is harmless");
    }
    assert!(scene.say(&mut session, "FLUSHALL NONSENSE|SWAPDB 0 99").starts_with("-ERR syntax error -ERR DB index"));
    assert_eq!(scene.say(&mut session, "SWAPDB 0 3|DBSIZE|SELECT 3|DBSIZE|FLUSHDB|DBSIZE"), "+OK :0 +OK :500 +OK :0 ");
    assert!(scene.say(&mut session, "MULTI|FLUSHALL|EXEC").contains("cannot be part of a transaction"));
}

#[test]
fn who_monitors_sees_what_others_ask_for_until_it_is_reset() {
    let mut scene = Scene::new(Limits::DEFAULT);
    let (mut watcher, mut other) = (scene.session(), scene.session());
    assert_eq!(scene.say(&mut watcher, "MONITOR"), "+OK ");
    assert_eq!(
        scene.say(&mut other, "SELECT 2|SET k v|AUTH secret|CONFIG GET port|MULTI|INCR n|EXEC").matches('+').count(),
        4
    );
    let mut out = Reply::new(Protocol::Resp2);
    watcher.collect(&mut out);
    let seen = String::from_utf8_lossy(&out.bytes).into_owned();
    let words = |line: &str| line.split_once("] ").map(|(_, words)| words.to_owned());
    let seen: Vec<String> = seen.lines().filter_map(words).collect();
    assert_eq!(seen, [r#""SELECT" "2""#, r#""SET" "k" "v""#, r#""MULTI""#, r#""INCR" "n""#, r#""EXEC""#]);
    assert!(scene.say(&mut other, "CLIENT LIST").contains(" flags=O "));
    assert_eq!(scene.say(&mut watcher, "RESET"), "+RESET ");
    scene.say(&mut other, "SET k w");
    out.bytes.clear();
    watcher.collect(&mut out);
    assert!(out.bytes.is_empty() && !scene.door.monitors.is_on());
}

#[test]
fn a_command_for_all_shards_is_answered_once_and_messages_come_through() {
    let mut scene = Scene::split(Limits::DEFAULT, Keyspaces::default(), 3);
    let (mut session, mut other) = (scene.session(), scene.session());
    scene.say(&mut session, "HELLO 3|SUBSCRIBE c");
    let mut out = Reply::new(Protocol::Resp3);
    let line = b"FLUSHALL\r\nPING\r\n";
    assert_eq!(session.feed(line, Instant::default(), &mut out).pause, Pause::Answers);
    assert_eq!(scene.say(&mut other, "PUBLISH c hello"), ":1 ");
    let mut from = 0;
    for _ in 0..4 {
        scene.drive();
        session.collect(&mut out);
        from += session.feed(&line[from..], Instant::default(), &mut out).consumed;
    }
    let answers = String::from_utf8_lossy(&out.bytes).replace("\r\n", " ");
    assert_eq!(answers, ">3 $7 message $1 c $5 hello +OK +PONG ");
    assert_eq!(scene.applied, [1, 1, 1]);
    // Nobody but the shards is told what a silent client does not want to hear.
    assert_eq!(scene.say(&mut other, "CLIENT REPLY OFF|FLUSHALL|CLIENT REPLY ON|PING"), "+OK +PONG ");
    assert_eq!(scene.applied, [2, 2, 2]);
}

#[test]
fn a_full_disk_of_one_shard_is_heard_of() {
    let mut scene = Scene::split(Limits::DEFAULT, Keyspaces::default(), 3);
    let mut session = scene.session();
    scene.door.shards[2].set_refusal(Some(shard::live::Refusal::Stopped("gone".into())));
    assert!(scene.say(&mut session, "FLUSHALL|PING").starts_with("-MISCONF the log has stopped"));
    assert_eq!(scene.applied, [0, 0, 0], "what is known beforehand stops it before it begins");
}

#[test]
fn scripts_belong_to_the_shard_of_their_keys() {
    let mut scene = Scene::split(Limits::DEFAULT, Keyspaces::default(), 4);
    let mut session = scene.session();
    let say = |scene: &mut Scene, session: &mut Session, line: &str| scene.say(session, line);
    let keys: Vec<String> = (0..4)
        .map(|index| (0..).map(|n| format!("k{n}")).find(|key| scene.door.shard_of(key.as_bytes()) == index))
        .map(|key| key.expect("some key is there"))
        .collect();
    let sha = "d5394f77eb4c7f5a4be9d2ae9bd1c5c1ed48b5f7";
    assert!(say(&mut scene, &mut session, &format!("EVALSHA {sha} 0")).starts_with("-NOSCRIPT"));
    let loaded = say(&mut scene, &mut session, "SCRIPT LOAD \"return redis.call('incr',KEYS[1])\"");
    let sha = loaded.split(' ').nth(1).expect("its digest").to_owned();
    for key in &keys {
        assert_eq!(say(&mut scene, &mut session, &format!("EVALSHA {sha} 1 {key}|GET {key}")), ":1 $1 1 ");
        let multi = format!("MULTI|EVAL \"return 5\" 0|EVALSHA {sha} 1 {key}|PUBLISH c m|PING|GET {key}|EXEC");
        assert!(
            say(&mut scene, &mut session, &multi).ends_with("*5 :5 :2 :0 +PONG $1 2 "),
            "a transaction of one shard"
        );
        let foreign = keys.iter().find(|other| *other != key).expect("there are four");
        let script = format!("EVAL \"return redis.call('get','{foreign}')\" 1 {key}");
        assert!(say(&mut scene, &mut session, &script).starts_with("-ERR Script attempted to access a non local key"));
        let whole = format!("EVAL \"return redis.call('dbsize')\" 1 {key}");
        assert!(say(&mut scene, &mut session, &whole).starts_with("-ERR This command works on all shards"));
    }
    let exists = format!("SCRIPT EXISTS {sha} ffffffffffffffffffffffffffffffffffffffff");
    assert_eq!(say(&mut scene, &mut session, &exists), "*2 :1 :0 ");
    say(&mut scene, &mut session, &format!("EVAL \"return 77\" 1 {}", keys[3]));
    let known_to_one = "SCRIPT EXISTS 1a2ab2dd2a3e8b9d5ba5ed5a0c3c0c5fd0c0e3c9";
    assert_eq!(say(&mut scene, &mut session, known_to_one), "*1 :0 ");
    assert_eq!(say(&mut scene, &mut session, &format!("SCRIPT FLUSH|{exists}")), "+OK *2 :0 :0 ");
    say(&mut scene, &mut session, &format!("RPUSH {} 1 2", keys[0]));
    for line in ["SORT {} BY w_*", "SORT {} GET v_*", "SORT_RO {} BY w_*->f"] {
        let line = line.replace("{}", &keys[0]);
        assert!(say(&mut scene, &mut session, &line).starts_with("-ERR BY and GET of SORT are denied"), "{line}");
    }
    say(&mut scene, &mut session, "RPUSH {t}l 1 2|MSET {t}w_1 5 {t}w_2 4");
    assert_eq!(say(&mut scene, &mut session, "SORT {t}l BY {t}w_* GET # GET {t}w_*"), "*4 $1 2 $1 4 $1 1 $1 5 ");
}

#[test]
fn without_a_lease_every_read_rides_in_an_entry_and_is_answered_alike() {
    for count in [1, 3] {
        let mut scene = Scene::split(Limits::DEFAULT, Keyspaces::default(), count);
        let mut session = scene.session();
        scene.say(&mut session, "MSET {t}a 1 {t}b 2|RPUSH {t}l x y|SADD {t}s m");
        let lines = [
            "GET {t}a",
            "EXISTS {t}a {t}none",
            "LRANGE {t}l 0 -1|GET {t}b",
            "DBSIZE",
            "KEYS {t}l",
            "SCAN 0 COUNT 1000 MATCH {t}s",
            "EVAL_RO \"return redis.call('get',KEYS[1])\" 1 {t}a",
            "WATCH {t}a|MULTI|INCR {t}a|EXEC|DECR {t}a",
            "XREAD STREAMS {t}x 0|PING",
            "GET {t}l",
        ];
        let with: Vec<String> = lines.iter().map(|line| scene.say(&mut session, line)).collect();
        scene.end_leases();
        let applied = |scene: &Scene| scene.applied.iter().sum::<u64>();
        for (line, with) in lines.iter().zip(with) {
            let before = applied(&scene);
            if count > 1 && line.starts_with("SCAN") {
                // A page is one shard's.
                let keys: String =
                    (0..3).map(|cursor| scene.say(&mut session, &line.replacen('0', &cursor.to_string(), 1))).collect();
                assert!(keys.contains("{t}s"), "{keys}");
            } else {
                assert_eq!(scene.say(&mut session, line), with, "{line}");
            }
            assert!(applied(&scene) > before, "{line} was read without an entry");
        }
    }
}

#[test]
fn a_watched_key_that_changes_is_noticed_without_a_lease_too() {
    let mut scene = Scene::new(Limits::DEFAULT);
    let (mut one, mut two) = (scene.session(), scene.session());
    scene.end_leases();
    assert_eq!(scene.say(&mut one, "WATCH a b a|WATCH b"), "+OK +OK ");
    scene.say(&mut two, "SET b 1");
    assert_eq!(scene.say(&mut one, "MULTI|SET a 1|EXEC|GET a"), "+OK +QUEUED *-1 $-1 ");
    assert_eq!(scene.say(&mut one, "WATCH a b|MULTI|SET a 1|EXEC|GET a"), "+OK +OK +QUEUED *1 +OK $1 1 ");
}

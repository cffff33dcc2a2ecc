//! A topic as a stream does what a stream does, on every replica alike; and what stands beside it in a MULTI happens with it or
//! not at all.

use std::sync::Arc;

use ::queue::command::Committer;
use ::queue::group::OffsetOf;
use ::queue::records::{Record, batch_of};
use ::queue::{Command, TopicId};
use base::{GroupId, Limits, Rng};
use store::keyspace::Keyspaces;

use super::super::{Silent, Sink, State};
use crate::entry::{MultiBuilder, Watch};
use crate::pending::{Batch, Place};
use crate::reply::Protocol;
use crate::streams::{Named, put_queue, put_run, read_place};

mod turns;

const HOME: GroupId = GroupId(1);
const TOPIC: TopicId = TopicId(77);

#[derive(Default)]
struct Heard(Vec<u8>);

impl Sink<u64> for Heard {
    fn reply(&mut self, _: &u64, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }
    fn parked(&mut self, _: &u64, _: u64) {}
    fn served(&mut self, _: u64, _: &[u8]) {}
    fn lost(&mut self, _: &u64) {}
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

fn state() -> State {
    State::new(HOME, &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1)
}

/// A leader, and a replica that sees the entries alone and is now and then read from a snapshot.
struct Pair {
    leader: State,
    replica: State,
    index: u64,
    now: u64,
}

impl Pair {
    fn new() -> Pair {
        Pair { leader: state(), replica: state(), index: 0, now: 1_000_000 }
    }

    fn entry(&mut self, fill: impl FnOnce(&mut Batch<u64>)) -> String {
        let (mut batch, mut heard) = (Batch::default(), Heard::default());
        fill(&mut batch);
        if batch.needs_entry() {
            self.index += 1;
            let entry = batch.take_entry(self.now, self.index);
            self.leader.apply(self.index, &entry, Some(&batch), &mut heard).expect("readable");
            self.replica.apply::<u64, _>(self.index, &entry, None, &mut Silent).expect("readable");
        } else {
            self.leader.run_local(&batch, self.now, &mut heard).expect("readable");
        }
        String::from_utf8(heard.0).expect("the tests write text")
    }

    fn ask(&mut self, line: &str) -> String {
        self.entry(|batch| batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &words(line)))
    }

    fn on_topic(&mut self, place: Place, form: &[u8]) -> String {
        self.entry(|batch| batch.stream(place, false, 1, Protocol::Resp2, form))
    }

    fn exec(&mut self, fill: impl FnOnce(&mut MultiBuilder), watches: &[Watch]) -> String {
        let mut multi = MultiBuilder::default();
        fill(&mut multi);
        self.entry(|batch| batch.multi(Place::Logged, false, 1, Protocol::Resp2, &multi, watches))
    }

    fn restore_replica(&mut self) {
        let mut chunks = vec![self.leader.begin_snapshot().1];
        loop {
            let mut chunk = Vec::new();
            let done = self.leader.walk(64, &mut chunk).expect("nothing ends it early");
            chunks.push(chunk);
            if done {
                break;
            }
        }
        let mut restored = state();
        restored.restore_first(&chunks[0]).expect("as written");
        for chunk in &chunks[1..] {
            restored.restore(chunk).expect("as written");
        }
        assert!(restored.is_whole());
        restored.finish_restore();
        self.replica = restored;
    }
}

fn words(line: &str) -> Vec<&[u8]> {
    line.split(' ').map(str::as_bytes).collect()
}

fn record(value: &str) -> Vec<u8> {
    let batches = batch_of(&Record { value: Some(value.as_bytes()), stamp: 5, ..Record::default() });
    let (topic, place, partition, append_time, transaction) = (TOPIC, "t", 0, false, None);
    let command =
        Command::Produce { topic, place, partition, append_time, transaction, marks: Vec::new(), batches: &batches };
    let mut form = Vec::new();
    put_queue(&mut form, HOME, &command);
    form
}

fn offset(generation: i32, member: &str, offset: i64) -> Vec<u8> {
    let by = Committer { generation, member, instance: None };
    let own = OffsetOf { topic: "t", id: TOPIC, partition: 0, offset, epoch: -1, metadata: "" };
    let mut form = Vec::new();
    put_queue(&mut form, HOME, &Command::Commit { group: "g", by, offsets: vec![own] });
    form
}

/// A command's form; its key is `k`.
fn run(line: &str) -> Vec<u8> {
    let words = words(line);
    let word = words.iter().position(|word| *word == b"k").expect("it names the stream");
    let mut form = Vec::new();
    put_run(&mut form, HOME, &[Named { word, topic: TOPIC, partition: 0 }], &words);
    form
}

/// With the records in their places: each one's value is its offset.
fn filled(answer: &str) -> String {
    let line = |line: &str| match line.strip_prefix('@').and_then(|place| read_place(place.as_bytes())) {
        Some(own) => format!("*2\r\n$1\r\nV\r\n${}\r\n{}", own.offset.to_string().len(), own.offset),
        None => line.to_owned(),
    };
    answer.split("\r\n").map(line).collect::<Vec<_>>().join("\r\n")
}

#[test]
fn a_topic_answers_as_a_stream_with_its_ids_does_on_every_replica() {
    for seed in 0..60 {
        let (mut rng, mut pair) = (Rng::new(seed), Pair::new());
        let mut count = 0u64;
        for step in 0..120 {
            pair.now += rng.below(50);
            let (group, consumer) = (["g", "h"][rng.index(2)], ["a", "b", "c"][rng.index(3)]);
            let id = |rng: &mut Rng| format!("{}-{}", rng.below(count + 2), rng.below(3));
            let (one, other) = (id(&mut rng), id(&mut rng));
            let some = 1 + rng.below(4);
            if rng.below(3) == 0 {
                let answer = pair.on_topic(Place::Logged, &record(&count.to_string()));
                assert_eq!(answer, pair.ask(&format!("XADD s {count}-1 V {count}")));
                count += 1;
                continue;
            }
            if step % 40 == 39 {
                pair.restore_replica();
            }
            if count == 0 {
                // A topic is a stream before its first record; a key is none.
                continue;
            }
            let line = match rng.below(14) {
                0 => format!("XGROUP CREATE k {group} 0"),
                1 => format!("XGROUP CREATE k {group} $"),
                2 => format!("XGROUP SETID k {group} {one}"),
                3 => format!("XACK k {group} {one} {other}"),
                4 => format!("XPENDING k {group}"),
                5 => format!("XPENDING k {group} - + 10 {consumer}"),
                6 => format!("XCLAIM k {group} {consumer} 20 {one} {other}"),
                7 => format!("XAUTOCLAIM k {group} {consumer} 10 {one} COUNT {some}"),
                8 => format!("XRANGE k {one} {other} COUNT {some}"),
                9 => format!("XREVRANGE k + {one}"),
                10 => format!("XREAD COUNT {some} STREAMS k {one}"),
                11 => format!("XREADGROUP GROUP {group} {consumer} COUNT {some} STREAMS k {one}"),
                12 => "XLEN k".to_owned(),
                _ => format!("XREADGROUP GROUP {group} {consumer} COUNT {some} STREAMS k >"),
            };
            let reads = ["XPEND", "XRANGE", "XREV", "XREAD ", "XLEN"].iter().any(|name| line.starts_with(name));
            let place = if reads { Place::Local } else { Place::Logged };
            let answer = filled(&pair.on_topic(place, &run(&line)));
            let expected = pair.ask(&line.replacen(" k", " s", 1)).replace("key name 's'", "key name 'k'");
            let expected = expected.replace("key 's'", "key 'k'").replace("$1\r\ns\r\n", "$1\r\nk\r\n");
            assert_eq!(answer, expected, "seed {seed}, step {step}: {line}");
            if reads {
                std::mem::swap(&mut pair.leader, &mut pair.replica);
                assert_eq!(filled(&pair.on_topic(place, &run(&line))), expected, "on the replica: {line}");
                std::mem::swap(&mut pair.leader, &mut pair.replica);
            }
        }
    }
}

#[test]
fn a_row_and_its_record_and_an_offset_are_one_commit_or_none() {
    let mut pair = Pair::new();
    let all = |multi: &mut MultiBuilder| {
        multi.command(0, &words("INCR rows"));
        multi.stream(&record("a"));
        multi.stream(&offset(-1, "", 1));
    };
    assert_eq!(pair.exec(all, &[]), "*3\r\n:1\r\n$3\r\n0-1\r\n+OK\r\n");
    // What is read back is where the batch stands in the entry.
    let own = pair.leader.queue().partition(TOPIC, 0).expect("it was written to");
    assert_eq!((own.high(), own.rows().count()), (1, 1));
    // Somebody else has changed a watched key.
    let version = pair.leader.version(0, b"rows", pair.now);
    pair.ask("INCR rows");
    let watch = Watch { db: 0, key: b"rows".to_vec(), version };
    assert_eq!(pair.exec(all, &[watch]), "*-1\r\n");
    // A zombie of an older generation.
    let fenced = |multi: &mut MultiBuilder| {
        multi.command(0, &words("INCR rows"));
        multi.stream(&record("b"));
        multi.stream(&offset(3, "nobody", 2));
    };
    let answer = pair.exec(fenced, &[]);
    assert!(answer.starts_with("-EXECABORT Transaction discarded because of: FENCED"), "{answer}");
    assert_eq!(pair.ask("GET rows"), "$1\r\n2\r\n");
    assert_eq!(pair.leader.queue().partition(TOPIC, 0).expect("there").high(), 1);
    // A topic that has gone.
    let drop = Command::Drop { topic: TOPIC };
    pair.entry(|batch| batch.queue(1, &drop));
    let answer = pair.exec(all, &[]);
    assert!(answer.contains("the topic has been deleted"), "{answer}");
    assert_eq!(pair.ask("GET rows"), "$1\r\n2\r\n");
}

#[test]
fn what_another_consumer_has_claimed_ends_the_whole_transaction() {
    let mut pair = Pair::new();
    pair.on_topic(Place::Logged, &record("a"));
    pair.on_topic(Place::Logged, &run("XGROUP CREATE k g 0"));
    pair.on_topic(Place::Logged, &run("XREADGROUP GROUP g slow STREAMS k >"));
    pair.on_topic(Place::Logged, &run("XCLAIM k g quick 0 0-1"));
    let effect = |consumer: &'static str| {
        move |multi: &mut MultiBuilder| {
            multi.command(0, &words("INCR sum"));
            multi.stream(&run(&format!("Q.XACK k g {consumer} 0-1")));
        }
    };
    let answer = pair.exec(effect("slow"), &[]);
    assert!(answer.starts_with("-EXECABORT Transaction discarded because of: FENCED"), "{answer}");
    assert_eq!(pair.exec(effect("quick"), &[]), "*2\r\n:1\r\n:1\r\n");
    let answer = pair.exec(effect("quick"), &[]);
    assert!(answer.starts_with("-EXECABORT"), "it was done once: {answer}");
    assert_eq!(pair.ask("GET sum"), "$1\r\n1\r\n");
}

#[test]
fn a_shard_that_is_not_the_partitions_home_does_nothing_of_it() {
    let mut pair = Pair::new();
    let mut form = record("a");
    // The home is the form's first number.
    form[0] = 2;
    let refused = |answer: String| assert!(answer.starts_with("-TRYAGAIN"), "{answer}");
    refused(pair.on_topic(Place::Logged, &form));
    refused(pair.exec(
        |multi| {
            multi.command(0, &words("SET row 1"));
            multi.stream(&form);
        },
        &[],
    ));
    assert_eq!(pair.ask("EXISTS row"), ":0\r\n");
    assert!(pair.leader.queue().partition(TOPIC, 0).is_none());
}

//! Entries out of turn against a model that looks at all of them each time, on a leader and on a replica that is restored now and then.

use std::cmp::Reverse;

use ::queue::marks::{Mark, When};

use super::*;
use crate::streams::{Rules, put_burial, put_run_by};

const DEAD: TopicId = TopicId(78);
const RULES: Rules = Rules { visibility_ms: 100, deliveries_max: 0 };

fn produce(topic: TopicId, value: &str, marks: Vec<Mark>) -> Vec<u8> {
    let batches = batch_of(&Record { value: Some(value.as_bytes()), stamp: 5, ..Record::default() });
    let (place, partition, append_time, transaction) = ("t", 0, false, None);
    let mut form = Vec::new();
    let command = Command::Produce { topic, place, partition, append_time, transaction, marks, batches: &batches };
    put_queue(&mut form, HOME, &command);
    form
}

fn read(consumer: &str, count: usize, rules: Rules) -> Vec<u8> {
    let count = count.to_string();
    let words: [&[u8]; 9] =
        [b"XREADGROUP", b"GROUP", b"g", consumer.as_bytes(), b"COUNT", count.as_bytes(), b"STREAMS", b"k", b">"];
    let mut form = Vec::new();
    put_run_by(&mut form, HOME, &[Named { word: 7, topic: TOPIC, partition: 0 }], &words, rules);
    form
}

/// Offset and deliveries of each entry of an answer, and whether it is dead.
fn given(answer: &str) -> Vec<(u64, u64, bool)> {
    assert!(!answer.starts_with('-'), "{answer}");
    let places = answer.split("\r\n").filter_map(|line| read_place(line.strip_prefix('@')?.as_bytes()));
    places.map(|own| (own.offset, own.deliveries, own.is_dead)).collect()
}

struct Entry {
    due: u64,
    priority: u8,
    /// When it was delivered last, and how often; none where never.
    delivered: Option<(u64, u64)>,
    is_done: bool,
}

fn expected(all: &mut [Entry], now: u64, count: usize) -> Vec<(u64, u64, bool)> {
    let mut overdue: Vec<(u64, usize)> = (0..all.len())
        .filter(|nth| !all[*nth].is_done)
        .filter_map(|nth| Some((all[nth].delivered?.0, nth)))
        .filter(|(at, _)| at + RULES.visibility_ms <= now)
        .collect();
    overdue.sort_unstable();
    overdue.truncate(count);
    let again = overdue.into_iter().map(|(_, nth)| (Reverse(all[nth].priority), false, nth));
    let fresh = (0..all.len()).filter(|nth| all[*nth].delivered.is_none() && all[*nth].due <= now);
    let mut order: Vec<_> = again.chain(fresh.map(|nth| (Reverse(all[nth].priority), true, nth))).collect();
    order.sort_unstable();
    let mut shown = Vec::new();
    for (.., nth) in order.into_iter().take(count) {
        let deliveries = all[nth].delivered.map_or(0, |(_, count)| count) + 1;
        all[nth].delivered = Some((now, deliveries));
        shown.push((nth as u64, deliveries, false));
    }
    shown
}

#[test]
fn a_group_is_given_what_is_due_by_priority_and_again_what_was_not_acknowledged() {
    for seed in 0..80 {
        let (mut rng, mut pair) = (Rng::new(seed), Pair::new());
        let mut all: Vec<Entry> = Vec::new();
        pair.on_topic(Place::Logged, &run("XGROUP CREATE k g 0"));
        for step in 0..150 {
            pair.now += rng.below(40);
            let now = pair.now;
            match rng.below(10) {
                0..=3 => {
                    let delay = if rng.below(3) == 0 { rng.below(200) } else { 0 };
                    let priority = if rng.below(3) == 0 { rng.below(4) as u8 } else { 0 };
                    let when = if rng.below(2) == 0 { When::After(delay) } else { When::At(now + delay) };
                    let marks = vec![Mark { delta: 0, when, priority }];
                    let marks = if delay == 0 && priority == 0 && rng.below(2) == 0 { Vec::new() } else { marks };
                    pair.on_topic(Place::Logged, &produce(TOPIC, "v", marks));
                    all.push(Entry { due: now + delay, priority, delivered: None, is_done: false });
                }
                4..=7 => {
                    let count = 1 + rng.index(4);
                    let answer = pair.on_topic(Place::Logged, &read(["a", "b"][rng.index(2)], count, RULES));
                    let wanted = expected(&mut all, now, count);
                    assert_eq!(given(&answer), wanted, "seed {seed}, step {step}");
                }
                8 => {
                    let under_way: Vec<usize> =
                        (0..all.len()).filter(|nth| all[*nth].delivered.is_some() && !all[*nth].is_done).collect();
                    if !under_way.is_empty() {
                        let nth = under_way[rng.index(under_way.len())];
                        all[nth].is_done = true;
                        assert_eq!(pair.on_topic(Place::Logged, &run(&format!("XACK k g {nth}-1"))), ":1\r\n");
                    }
                }
                _ => {
                    pair.restore_replica();
                    std::mem::swap(&mut pair.leader, &mut pair.replica);
                }
            }
            let met = all.iter().filter(|own| own.delivered.is_some()).count();
            let groups = pair.on_topic(Place::Local, &run("XINFO GROUPS k"));
            let lag = groups.rsplit("$3\r\nlag\r\n:").next().and_then(|rest| rest.trim_end().parse::<usize>().ok());
            let is_fresh = met == 0 || step == 0;
            // What stands behind the group's last look is counted in any case.
            assert!(is_fresh || lag == Some(all.len() - met), "seed {seed}, step {step}: {groups}");
        }
        // In the end each has been given, and nothing is left to wait for.
        pair.now += 1_000;
        while !given(&pair.on_topic(Place::Logged, &read("a", 1, RULES))).is_empty() {
            let _ = expected(&mut all, pair.now, 1);
        }
        assert!(all.iter().all(|own| own.delivered.is_some()), "seed {seed}");
        assert!(pair.leader.turns.values().all(|own| own.next_due().is_none()), "seed {seed}");
    }
}

#[test]
fn an_entry_that_was_delivered_too_often_goes_to_the_dead_letters_once() {
    let mut pair = Pair::new();
    let rules = Rules { visibility_ms: 100, deliveries_max: 2 };
    pair.on_topic(Place::Logged, &produce(TOPIC, "poison", Vec::new()));
    pair.on_topic(Place::Logged, &run("XGROUP CREATE k g 0"));
    for count in 1..=2 {
        assert_eq!(given(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [(0, count, false)]);
        assert_eq!(given(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [], "it is out of sight");
        pair.now += 100;
    }
    assert_eq!(given(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [(0, 3, true)]);
    pair.now += 100;
    // The one who found it was slow: another one has found it too.
    assert_eq!(given(&pair.on_topic(Place::Logged, &read("b", 9, rules))), [(0, 4, true)]);
    let burial = |consumer: &str| {
        let words: [&[u8]; 5] = [b"Q.XACK", b"k", b"g", consumer.as_bytes(), b"0-1"];
        let batches = batch_of(&Record { value: Some(b"poison"), ..Record::default() });
        let (topic, place, partition, append_time, transaction) = (DEAD, "t", 0, false, None);
        let marks = Vec::new();
        let copy = Command::Produce { topic, place, partition, append_time, transaction, marks, batches: &batches };
        let mut form = Vec::new();
        put_burial(&mut form, HOME, Named { word: 1, topic: TOPIC, partition: 0 }, &words, &copy);
        form
    };
    let answer = pair.on_topic(Place::Logged, &burial("a"));
    assert!(answer.starts_with("-FENCED"), "{answer}");
    let high = |pair: &Pair| pair.leader.queue().partition(DEAD, 0).map_or(0, |own| own.high());
    assert_eq!(high(&pair), 0, "no copy without the acknowledgement");
    assert_eq!(pair.on_topic(Place::Logged, &burial("b")), ":1\r\n");
    assert_eq!(high(&pair), 1);
    assert_eq!(pair.on_topic(Place::Local, &run("XPENDING k g")), "*4\r\n:0\r\n$-1\r\n$-1\r\n*-1\r\n");
    assert!(pair.on_topic(Place::Logged, &burial("b")).starts_with("-FENCED"));
    // What is read back of the copy is where its batch stands in the entry.
    let rows = |state: &State| state.queue().partition(DEAD, 0).map(|own| own.rows().copied().collect::<Vec<_>>());
    assert_eq!(rows(&pair.leader), rows(&pair.replica));
}

#[test]
fn who_sets_a_group_back_begins_anew_there() {
    let mut pair = Pair::new();
    for _ in 0..3 {
        let marks = vec![Mark { delta: 0, when: When::After(50), priority: 0 }];
        pair.on_topic(Place::Logged, &produce(TOPIC, "v", marks));
    }
    pair.on_topic(Place::Logged, &run("XGROUP CREATE k g 0"));
    let rules = Rules::default();
    assert_eq!(given(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [], "none is due");
    pair.on_topic(Place::Logged, &run("XGROUP SETID k g 1-1"));
    pair.now += 50;
    let offsets = |answer: &str| given(answer).iter().map(|own| own.0).collect::<Vec<_>>();
    assert_eq!(offsets(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [2]);
    pair.on_topic(Place::Logged, &run("XGROUP SETID k g 0"));
    assert_eq!(offsets(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [0, 1, 2]);
    pair.on_topic(Place::Logged, &run("XGROUP DESTROY k g"));
    assert!(pair.leader.turns.is_empty() && pair.replica.turns.is_empty());
    // Nothing is forgotten where the settings are taken back while a record is delayed.
    let marks = vec![Mark { delta: 0, when: When::After(50), priority: 0 }];
    pair.on_topic(Place::Logged, &run("XGROUP CREATE k g $"));
    pair.on_topic(Place::Logged, &produce(TOPIC, "late", marks));
    pair.on_topic(Place::Logged, &produce(TOPIC, "soon", Vec::new()));
    assert_eq!(offsets(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [4]);
    pair.now += 50;
    assert_eq!(offsets(&pair.on_topic(Place::Logged, &read("a", 9, rules))), [3]);
    // A mixture of new and old in one command is refused where that matters.
    let line = "XREADGROUP GROUP g a STREAMS k k > 0";
    let words = words(line);
    let mut form = Vec::new();
    let named = |word, partition| Named { word, topic: TOPIC, partition };
    put_run(&mut form, HOME, &[named(5, 0), named(6, 1)], &words);
    let answer = pair.on_topic(Place::Logged, &form);
    assert!(answer.starts_with("-ERR of topics with delays"), "{answer}");
}

//! A parent and a child in memory, and keys that change while they move.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{GroupId, Limits, Rng, SlotSet, key_slot};
use store::keyspace::Keyspaces;

use super::{Ask, Mover, Told};
use crate::live::{Gate, Shard};
use crate::pending::Place;
use crate::reply::Protocol;
use crate::slots::{SlotAnswer, SlotChange, Slots};
use crate::state::{Sink, State};

#[derive(Default)]
struct Heard {
    replies: Vec<Vec<u8>>,
    refused: usize,
}

impl Sink<u64> for Heard {
    fn reply(&mut self, _: &u64, bytes: &[u8]) {
        self.replies.push(bytes.to_vec());
    }
    fn refused(&mut self, _: &u64, _: &[u8]) {
        self.refused += 1;
    }
    fn parked(&mut self, _: &u64, _: u64) {}
    fn served(&mut self, _: u64, bytes: &[u8]) {
        self.replies.push(bytes.to_vec());
    }
    fn lost(&mut self, _: &u64) {}
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

struct Pair {
    shards: [Shard<u64>; 2],
    stamps: [u64; 2],
}

impl Pair {
    fn new() -> Pair {
        let shard = |group: u32, slots: SlotSet| {
            let mut state = State::new(GroupId(group), &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1);
            state.set_slots(Slots::of(slots));
            Shard::new(GroupId(group), state, &Limits::DEFAULT, Arc::new(Gate::default()))
        };
        Pair { shards: [shard(1, SlotSet::all()), shard(2, SlotSet::default())], stamps: [1000, 10] }
    }

    /// What waits becomes entries and is applied.
    fn drive(&mut self, at: usize) -> Heard {
        let mut heard = Heard::default();
        while let Some(mut batch) = self.shards[at].take() {
            self.stamps[at] += 1;
            let entry = batch.take_entry(self.stamps[at], 7);
            let mut state = self.shards[at].state_mut();
            let index = state.applied() + 1;
            state.apply(index, &entry, Some(&batch), &mut heard).expect("readable");
        }
        heard
    }

    fn change(&mut self, at: usize, change: &SlotChange) -> SlotAnswer {
        self.shards[at].put(|batch| batch.slots(Some(1), change));
        // Waits that it ends come before.
        SlotAnswer::decode(self.drive(at).replies.last().expect("it is answered")).expect("an answer")
    }

    /// Asks a shard; `None` where it was refused.
    fn say(&mut self, at: usize, line: &str) -> Option<String> {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        self.shards[at].put(|batch| batch.command(Place::Logged, false, 1, 0, Protocol::Resp2, &words));
        let heard = self.drive(at);
        heard.replies.into_iter().next().map(|reply| String::from_utf8_lossy(&reply).into_owned())
    }

    fn step(&mut self, mover: &mut Mover) -> bool {
        let told = match mover.next(&self.shards[0]) {
            Ask::Pause(_) => return true,
            Ask::Meta(_) => {
                mover.told(&self.shards[0], Told::Done);
                return false;
            }
            Ask::Parent(change) => self.change(0, &change),
            Ask::Child(change) => self.change(1, &change),
        };
        mover.told(&self.shards[0], Told::Slots(told));
        true
    }

    /// As the child's leader does.
    fn sweep(&mut self, at: usize) {
        let state = self.shards[at].state();
        let Some((_, number)) = state.slots().litter() else { return };
        let (mut place, mut keys) = (Some(store::table::Place::default()), Vec::new());
        while let Some(from) = place {
            place = state.tables(store::keyspace::Durability::Fsync).sift(from, 100, |db, entry| {
                if state.slots().is_litter(entry.key()) {
                    keys.push((db, entry.key().to_vec()));
                }
            });
        }
        drop(state);
        self.change(at, &SlotChange::Purge { keys });
        self.change(at, &SlotChange::Swept { number });
    }
}

#[test]
fn keys_arrive_as_they_are_though_they_change_and_movers_come_and_go() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut pair = Pair::new();
        let mut model: BTreeMap<String, u64> = BTreeMap::new();
        let slots = SlotSet::of([(0, 8191)]);
        let long = "x".repeat(300_000);
        assert_eq!(pair.say(0, &format!("SET {{long}}key {long}")).as_deref(), Some("+OK\r\n"));
        assert_eq!(pair.say(0, "SET kept v PXAT 99999").as_deref(), Some("+OK\r\n"));
        let (mut at, mut mover) = (0, Mover::new(GroupId(1), GroupId(2), slots.clone()));
        for n in 0..2000 {
            if n > 500 {
                if rng.chance(1, 200) {
                    // The lead of the parent moves.
                    mover.stop(&pair.shards[0]);
                    mover = Mover::new(GroupId(1), GroupId(2), slots.clone());
                }
                if at == 0 && !pair.step(&mut mover) {
                    at = 1;
                }
                pair.sweep(1);
            }
            let key = format!("k{}", rng.below(300));
            let here = if slots.has(key_slot(key.as_bytes())) { at } else { 0 };
            if rng.chance(1, 3) {
                if pair.say(here, &format!("DEL {key}")).is_some() {
                    model.remove(&key);
                }
            } else if pair.say(here, &format!("SET {key} {n}")).is_some() {
                model.insert(key, n);
            }
        }
        while at == 0 {
            if !pair.step(&mut mover) {
                at = 1;
            }
            pair.sweep(1);
        }
        pair.sweep(0);
        for n in 0..300 {
            let key = format!("k{n}");
            let here = usize::from(slots.has(key_slot(key.as_bytes())));
            let wanted =
                model.get(&key).map_or("$-1\r\n".to_owned(), |n| format!("${}\r\n{n}\r\n", n.to_string().len()));
            assert_eq!(pair.say(here, &format!("GET {key}")), Some(wanted), "{key}, seed {seed}");
            assert_eq!(pair.say(1 - here, &format!("GET {key}")), None, "only one shard answers for it");
        }
        let long_at = usize::from(slots.has(key_slot(b"long")));
        assert_eq!(pair.say(long_at, "STRLEN {long}key").as_deref(), Some(":300000\r\n"));
        let kept_at = usize::from(slots.has(key_slot(b"kept")));
        assert_eq!(pair.say(kept_at, "PEXPIRETIME kept").as_deref(), Some(":99999\r\n"));
        // Whoever asks for all keys finds each once.
        let count = |pair: &mut Pair, at| pair.say(at, "KEYS *").map_or(0, |answer| answer.matches('$').count());
        assert_eq!(count(&mut pair, 0) + count(&mut pair, 1), model.len() + 2);
        assert!(pair.shards[1].state().stamp() >= 1000, "time in the child is not before that of what came");
    }
}

#[test]
fn a_flush_in_the_middle_and_a_wait_that_ends() {
    let mut pair = Pair::new();
    for n in 0..200 {
        pair.say(0, &format!("SET k{n} v"));
    }
    let mut mover = Mover::new(GroupId(1), GroupId(2), SlotSet::of([(0, 16000)]));
    assert_eq!(pair.say(0, "BLPOP {k1}list 0"), None, "it waits");
    (0..4).for_each(|_| assert!(pair.step(&mut mover)));
    assert_eq!(pair.say(0, "FLUSHALL").as_deref(), Some("+OK\r\n"));
    assert_eq!(pair.say(1, "FLUSHALL").as_deref(), Some("+OK\r\n"));
    pair.say(0, "SET {k1}new v");
    while pair.step(&mut mover) {
        pair.sweep(1);
    }
    assert_eq!(mover.attempts, 2);
    assert_eq!(pair.say(1, "GET k1").as_deref(), Some("$-1\r\n"));
    assert_eq!(pair.say(1, "GET {k1}new").as_deref(), Some("$1\r\nv\r\n"));
    assert_eq!(pair.shards[0].state().waiters(store::keyspace::Durability::Fsync).len(), 0);
}

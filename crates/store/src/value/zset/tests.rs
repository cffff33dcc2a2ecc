//! The promises of [`super::Zset`], against a model of two B-trees.

use std::collections::{BTreeMap, BTreeSet};

use base::Rng;

use super::Zset;
use crate::codec::{Input, Stored};

/// Scores as integers, so that the model can order them.
#[derive(Default)]
struct Model {
    scores: BTreeMap<Vec<u8>, i64>,
    order: BTreeSet<(i64, Vec<u8>)>,
}

impl Model {
    fn insert(&mut self, member: &[u8], score: i64) -> Option<f64> {
        let old = self.scores.insert(member.to_vec(), score);
        if let Some(old) = old {
            self.order.remove(&(old, member.to_vec()));
        }
        self.order.insert((score, member.to_vec()));
        old.map(|old| old as f64)
    }

    fn remove(&mut self, member: &[u8]) -> Option<f64> {
        let old = self.scores.remove(member)?;
        self.order.remove(&(old, member.to_vec()));
        Some(old as f64)
    }

    fn list(&self) -> Vec<(Vec<u8>, f64)> {
        self.order.iter().map(|(score, member)| (member.clone(), *score as f64)).collect()
    }
}

fn list(zset: &Zset) -> Vec<(Vec<u8>, f64)> {
    zset.iter().map(|(member, score)| (member.to_vec(), score)).collect()
}

fn member(rng: &mut Rng, spread: u64) -> Vec<u8> {
    format!("m{}", rng.below(spread)).into_bytes()
}

#[test]
fn does_what_two_b_trees_do() {
    for seed in 0..30 {
        let mut rng = Rng::new(seed);
        let (mut zset, mut model) = (Zset::new(), Model::default());
        let spread = [20, 200, 3000][rng.index(3)];
        for step in 0..4000 {
            let name = member(&mut rng, spread);
            match rng.below(100) {
                0..60 => {
                    let score = rng.below(50) as i64 - 25;
                    assert_eq!(zset.insert(&name, score as f64), model.insert(&name, score));
                }
                60..95 => assert_eq!(zset.remove(&name), model.remove(&name)),
                95..99 => {
                    let start = rng.index(zset.len() + 2);
                    let end = (start + rng.index(600)).min(zset.len() + 5);
                    let gone: Vec<_> = model.list().into_iter().take(end).skip(start).collect();
                    gone.iter().for_each(|(member, _)| _ = model.remove(member));
                    assert_eq!(zset.remove_range(start..end), gone.len());
                }
                _ => {
                    let start = rng.index(zset.len() + 1);
                    let end = start + rng.index(400);
                    let expected: Vec<_> = model.list().into_iter().take(end).skip(start).collect();
                    let found: Vec<_> = zset.range(start..end).map(|(m, s)| (m.to_vec(), s)).collect();
                    assert_eq!(found, expected);
                    let back: Vec<_> = zset.range(start..end).rev().map(|(m, s)| (m.to_vec(), s)).collect();
                    assert!(back.iter().eq(expected.iter().rev()));
                    let bound = rng.below(60) as f64 - 30.0;
                    let below = model.list().iter().filter(|(_, score)| *score < bound).count();
                    assert_eq!(zset.partition_point(|_, score| score < bound), below);
                }
            }
            assert_eq!(zset.len(), model.scores.len());
            let rank = model
                .scores
                .get(&name)
                .map(|score| (model.order.range(..(*score, name.clone())).count(), *score as f64));
            if step % 7 == 0 {
                assert_eq!(zset.rank(&name), rank, "seed {seed} step {step}");
            }
        }
        assert_eq!(list(&zset), model.list());
        let mut bytes = Vec::new();
        zset.encode(&mut bytes);
        let copy = Zset::decode(&mut Input::new(&bytes)).expect("its own stored form");
        assert_eq!(list(&copy), list(&zset));
        assert_eq!((copy.heap_bytes(), copy.encoding()), (zset.heap_bytes(), zset.encoding()));
        let all = zset.len();
        zset.remove_range(0..all);
        assert_eq!(zset.payload, 0);
    }
}

#[test]
fn grows_large_as_redis_does() {
    let mut zset = Zset::new();
    (0..128).for_each(|n| _ = zset.insert(format!("{n}").as_bytes(), 1.0));
    assert_eq!(zset.encoding(), "listpack");
    zset.insert(b"one more", 1.0);
    assert_eq!(zset.encoding(), "skiplist");
    let mut zset = Zset::new();
    zset.insert(&[b'x'; 64], 1.0);
    assert_eq!(zset.encoding(), "listpack");
    zset.insert(&[b'x'; 65], 1.0);
    assert_eq!(zset.encoding(), "skiplist");
}

#[test]
fn a_large_set_filled_in_any_direction_knows_every_rank() {
    for direction in 0..3 {
        let mut zset = Zset::new();
        for n in 0..20_000u64 {
            let score = [n, 20_000 - n, n * 7919 % 20_011][direction];
            zset.insert(format!("{score:08}").as_bytes(), score as f64);
        }
        for (expected, (member, score)) in list(&zset).into_iter().enumerate().step_by(97) {
            assert_eq!(zset.rank(&member), Some((expected, score)));
            assert_eq!(zset.range(expected..expected + 1).next(), Some((&member[..], score)));
        }
        while zset.len() > 3 {
            let half = zset.len() / 2;
            zset.remove_range(half - 1..half + half / 2 + 1);
        }
        assert!(zset.iter().is_sorted_by(|a, b| a.1 < b.1));
    }
}

#[test]
fn a_scan_visits_every_member_that_stays() {
    let mut rng = Rng::new(3);
    let mut zset = Zset::new();
    for n in 0..3000 {
        zset.insert(format!("stay{n}").as_bytes(), f64::from(n));
    }
    let mut seen = BTreeSet::new();
    let (mut cursor, mut steps) = (0, 0);
    loop {
        cursor = zset.scan(cursor, 10, |member, _| _ = seen.insert(member.to_vec()));
        steps += 1;
        if cursor == 0 {
            break;
        }
        for _ in 0..500 {
            let name = member(&mut rng, 5000);
            if rng.chance(2, 3) { _ = zset.insert(&name, 0.5) } else { _ = zset.remove(&name) }
        }
    }
    assert!(steps > 3, "a large set is not visited at once");
    assert!((0..3000).all(|n| seen.contains(format!("stay{n}").as_bytes())));
    assert_eq!(zset.scan(u64::MAX, 10, |_, _| panic!("nothing lies there")), 0);
}

#[test]
fn damaged_bytes_are_refused_or_give_a_sound_set() {
    let mut rng = Rng::new(11);
    let mut zset = Zset::new();
    (0..200).for_each(|n| _ = zset.insert(format!("member{n}").as_bytes(), f64::from(n % 10)));
    let mut bytes = Vec::new();
    zset.encode(&mut bytes);
    for _ in 0..2000 {
        let mut damaged = bytes.clone();
        for _ in 0..=rng.index(3) {
            let at = rng.index(damaged.len());
            damaged[at] = rng.next_u64() as u8;
        }
        damaged.truncate(rng.index(damaged.len()) + damaged.len() / 2);
        if let Ok(sound) = Zset::decode(&mut Input::new(&damaged)) {
            assert!(list(&sound).iter().all(|(member, score)| sound.score(member) == Some(*score)));
        }
    }
}

#[test]
fn zero_equals_minus_zero_and_infinities_have_a_place() {
    let mut zset = Zset::new();
    for (name, score) in [("b", 0.0), ("a", -0.0), ("z", f64::NEG_INFINITY), ("c", f64::INFINITY)] {
        zset.insert(name.as_bytes(), score);
    }
    let names: Vec<_> = zset.iter().map(|(member, _)| String::from_utf8_lossy(member).into_owned()).collect();
    assert_eq!(names, ["z", "a", "b", "c"]);
    assert_eq!(zset.insert(b"a", 0.0), Some(-0.0));
    assert!(zset.score(b"a").is_some_and(f64::is_sign_negative), "an equal score changes nothing");
}

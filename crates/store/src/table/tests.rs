//! The promises of [`super::Tables`]: scans miss nothing, walks copy one moment, books balance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::Rng;

use super::{Expiry, Tables, WrongType};
use crate::keyspace::Keyspaces;
use crate::value::{Hash, List, Set, Stream, StreamId, View, Zset};

fn tables() -> Tables {
    Tables::new(Arc::new(Keyspaces::default()))
}

fn text(value: View<'_>) -> Vec<u8> {
    match value {
        View::Str(bytes) => bytes.to_vec(),
        other => panic!("a string was stored, not {other:?}"),
    }
}

fn contents(tables: &Tables) -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
    let mut all = BTreeMap::new();
    for db in 0..16 {
        let mut cursor = 0;
        loop {
            cursor = tables.scan(db, cursor, 100, 0, |entry| {
                all.insert((db, entry.key().to_vec()), text(entry.value()));
            });
            if cursor == 0 {
                break;
            }
        }
    }
    all
}

#[test]
fn a_scan_visits_every_key_that_stays_while_others_come_and_go() {
    let mut tables = tables();
    let stays: BTreeSet<Vec<u8>> = (0..3000).map(|n| format!("stay:{n}").into_bytes()).collect();
    for key in &stays {
        tables.set_string(0, key, b"x", Expiry::Clear, 0);
    }
    let mut seen = BTreeSet::new();
    let mut cursor = 0;
    let mut round = 0;
    loop {
        cursor = tables.scan(0, cursor, 7, 0, |entry| {
            seen.insert(entry.key().to_vec());
        });
        for n in 0..20 {
            tables.set_string(0, format!("comes:{round}:{n}").as_bytes(), b"y", Expiry::Clear, 0);
        }
        tables.remove(0, format!("comes:{}:3", round / 2).as_bytes(), 0);
        round += 1;
        if cursor == 0 {
            break;
        }
    }
    assert!(stays.is_subset(&seen));
}

#[test]
fn a_walk_copies_the_moment_it_began_whatever_changes_meanwhile() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let mut tables = tables();
        for _ in 0..5000 {
            let key = format!("k{}", rng.below(4000));
            tables.set_string(
                (rng.below(3) * 7) as u8,
                key.as_bytes(),
                &rng.next_u64().to_le_bytes(),
                Expiry::Clear,
                0,
            );
        }
        let before = contents(&tables);
        let mut books = Vec::new();
        tables.encode_books(&mut books);
        tables.begin_walk();
        let mut chunks = Vec::new();
        loop {
            let mut chunk = Vec::new();
            let done = tables.walk(2000, &mut chunk);
            chunks.push(chunk);
            if done {
                break;
            }
            if rng.chance(1, 20) {
                tables.clear(if rng.chance(1, 4) { None } else { Some((rng.below(3) * 7) as u8) });
            }
            for _ in 0..50 {
                let key = format!("k{}", rng.below(6000));
                let db = (rng.below(3) * 7) as u8;
                if rng.chance(1, 3) {
                    tables.remove(db, key.as_bytes(), 0);
                } else {
                    tables.set_string(db, key.as_bytes(), &rng.next_u64().to_le_bytes(), Expiry::Clear, 0);
                }
            }
        }
        let mut restored = self::tables();
        restored.decode_books(&mut crate::codec::Input::new(&books)).expect("books as written");
        for chunk in &chunks {
            restored.restore(chunk).expect("entries as written");
        }
        assert_eq!(contents(&restored), before, "seed {seed}");
    }
}

#[test]
fn usage_returns_to_zero_and_expiries_are_found_in_order() {
    let mut tables = tables();
    for n in 0..2000u64 {
        tables.set_string(0, format!("k{n}").as_bytes(), &vec![b'v'; n as usize], Expiry::At(10 + n), 0);
    }
    assert_eq!(tables.next_expiry(), Some(10));
    let mut found = Vec::new();
    tables.expired(14, 100, |_, key| found.push(key.to_vec()));
    assert_eq!(found, [b"k0", b"k1", b"k2", b"k3", b"k4"]);
    assert!(tables.value(0, b"k4", 14).is_none() && tables.value(0, b"k5", 14).is_some());
    for n in 0..2000 {
        tables.remove(0, format!("k{n}").as_bytes(), 0);
    }
    assert_eq!(tables.total_usage(), super::Usage::default());
    assert_eq!(tables.next_expiry(), None);
}

#[test]
fn a_version_moves_with_every_change_and_only_then() {
    let mut tables = tables();
    let absent = tables.version(0, b"k", 0);
    tables.set_string(0, b"k", b"1", Expiry::Clear, 0);
    let first = tables.version(0, b"k", 0);
    assert_ne!(absent, first);
    assert_eq!(tables.version(0, b"k", 0), first);
    tables.edit_text(0, b"k", 0, |_| (false, ())).expect("a string");
    assert_eq!(tables.version(0, b"k", 0), first);
    tables.remove(0, b"k", 0);
    assert!(![absent, first].contains(&tables.version(0, b"k", 0)));
    tables.set_string(0, b"k", b"1", Expiry::Clear, 0);
    assert_eq!(tables.edit::<List, ()>(0, b"k", 0, |_| (true, ())), Err(WrongType));
}

/// Expiry, version and stored value of each key.
type Forms = BTreeMap<(u8, Vec<u8>), (u64, u64, Vec<u8>)>;

fn stored(tables: &Tables) -> Forms {
    let mut all = BTreeMap::new();
    for db in 0..16 {
        tables.scan(db, 0, usize::MAX, 0, |entry| {
            let mut bytes = Vec::new();
            entry.value().encode(&mut bytes);
            all.insert((db, entry.key().to_vec()), (entry.expire(), entry.version(), bytes));
        });
    }
    all
}

fn change_something(tables: &mut Tables, rng: &mut Rng, fresh: u64) {
    let db = (rng.below(2) * 9) as u8;
    let kind = rng.below(7);
    let key = format!("{kind}:{}", rng.below(3)).into_bytes();
    let name = format!("m{}", if rng.chance(1, 4) { rng.below(fresh + 1) } else { fresh }).into_bytes();
    let long = vec![b'x'; rng.index(200)];
    match kind {
        0 if rng.chance(1, 3) => {
            tables.upsert_text(db, &key, 0, |text| (true, text.extend_from_slice(&[7; 9000]))).expect("a string")
        }
        0 => tables.set_string(db, &key, &long, Expiry::At(rng.below(2) * 90), 0),
        1 => tables
            .upsert(db, &key, 0, |list: &mut List| (true, list.push(crate::value::End::Tail, &long)))
            .expect("a list"),
        2 => tables.upsert(db, &key, 0, |hash: &mut Hash| (hash.insert(&name, &long), ())).expect("a hash"),
        3 => tables.upsert(db, &key, 0, |set: &mut Set| (set.insert(&name), ())).expect("a set"),
        4 => {
            tables.upsert(db, &key, 0, |zset: &mut Zset| (zset.insert(&name, 1.0).is_none(), ())).expect("a sorted set")
        }
        5 => {
            let add = |stream: &mut Stream| (true, stream.log.append(StreamId::new(fresh + 1, 0), &[&name, &long]));
            tables.upsert(db, &key, 0, add).expect("a stream")
        }
        _ if rng.chance(1, 300) => {
            tables.remove(db, format!("{}:1", rng.below(6)).as_bytes(), 0);
        }
        _ => tables.set_string(db, &name, &long, Expiry::Clear, 0),
    }
}

#[test]
fn a_walk_copies_large_values_of_one_moment_in_small_steps() {
    for seed in 0..12 {
        let mut rng = Rng::new(seed);
        let mut tables = tables();
        let mut fresh = 0;
        // The second round begins while parts are still shared with the first one, which ends half way.
        for round in 0..3 {
            for _ in 0..12_000 {
                fresh += 1;
                change_something(&mut tables, &mut rng, fresh);
            }
            let before = stored(&tables);
            let mut books = Vec::new();
            tables.encode_books(&mut books);
            tables.begin_walk();
            let (mut chunks, mut steps) = (Vec::new(), 0);
            let step = 1 << (6 + rng.below(9));
            let done = loop {
                let mut chunk = Vec::new();
                let done = tables.walk(step, &mut chunk);
                assert!(chunk.len() <= step + (80 << 10), "a step of {step} wrote {}", chunk.len());
                chunks.push(chunk);
                steps += 1;
                if done || (round == 0 && steps == 20) {
                    break done;
                }
                for _ in 0..rng.below(20) {
                    fresh += 1;
                    change_something(&mut tables, &mut rng, fresh);
                }
            };
            if !done {
                continue;
            }
            let mut restored = self::tables();
            restored.decode_books(&mut crate::codec::Input::new(&books)).expect("books as written");
            for chunk in &chunks {
                restored.restore(chunk).expect("entries as written");
            }
            assert!(restored.is_whole());
            assert!(stored(&restored) == before, "seed {seed}, round {round}");
            let mut again = self::tables();
            let whole = chunks.concat();
            again.restore(&whole).expect("the chunks are one stored form, wherever they were cut");
            assert!(stored(&again) == before);
            assert_eq!(again.total_usage(), restored.total_usage());
        }
    }
}

#[test]
fn marks_of_many_walks_that_came_to_nothing_are_not_taken_for_later_ones() {
    let mut tables = tables();
    for n in 0..2000 {
        tables.set_string(0, format!("k{n}").as_bytes(), b"before", Expiry::Clear, 0);
    }
    for round in 0..600 {
        tables.begin_walk();
        tables.walk(1000, &mut Vec::new());
        tables.set_string(0, format!("k{}", round % 2000).as_bytes(), b"after", Expiry::Clear, 0);
        tables.abort_walk();
    }
    let before = contents(&tables);
    let mut bytes = Vec::new();
    tables.begin_walk();
    while !tables.walk(1000, &mut bytes) {}
    let mut restored = self::tables();
    restored.restore(&bytes).expect("entries as written");
    assert_eq!(contents(&restored), before);
}

#[test]
fn what_is_removed_is_gone_at_once_and_freed_by_and_by() {
    let mut tables = tables();
    for n in 0..20_000u32 {
        tables.upsert(0, b"h", 0, |hash: &mut Hash| (true, hash.insert(&n.to_le_bytes(), b"value"))).expect("a hash");
        tables.upsert(1, b"z", 0, |zset: &mut Zset| (true, zset.insert(&n.to_le_bytes(), 0.0))).expect("a sorted set");
        tables.set_string(2, &n.to_le_bytes(), b"text", Expiry::At(9), 0);
    }
    assert!(tables.remove(0, b"h", 0) && tables.version(0, b"h", 0) != 0 && tables.len(0) == 0);
    tables.clear(None);
    assert_eq!((tables.total_usage(), tables.is_empty()), (super::Usage::default(), true));
    assert_eq!(tables.next_expiry(), None);
    assert!(tables.has_leftovers());
    let mut steps = 0;
    while tables.free_some() {
        steps += 1;
    }
    assert!((100..5000).contains(&steps), "{steps} steps");
    // Replaced values go the same way, and changes do what calls do.
    for n in 0..20_000u32 {
        tables.upsert(0, b"s", 0, |set: &mut Set| (true, set.insert(&n.to_le_bytes()))).expect("a set");
    }
    tables.set_string(0, b"s", b"text", Expiry::Clear, 0);
    assert!(tables.has_leftovers());
    for _ in 0..500 {
        tables.set_string(0, b"s", b"text", Expiry::Clear, 0);
    }
    assert!(!tables.has_leftovers());
}

#[test]
fn scans_and_repeatable_picks_do_not_depend_on_how_a_table_was_laid_out() {
    let mut rng = Rng::new(3);
    for left in [0, 1, 5, 15, 40, 3000] {
        let mut grown = tables();
        for n in 0..20_000 {
            grown.set_string(0, format!("k{n}").as_bytes(), b"v", Expiry::Clear, 0);
        }
        for n in left..20_000 {
            grown.remove(0, format!("k{n}").as_bytes(), 0);
        }
        let mut books = Vec::new();
        grown.encode_books(&mut books);
        grown.begin_walk();
        let mut chunk = Vec::new();
        while !grown.walk(1000, &mut chunk) {}
        let mut restored = tables();
        restored.decode_books(&mut crate::codec::Input::new(&books)).expect("books as written");
        restored.restore(&chunk).expect("entries as written");
        let steps = |tables: &Tables, count| {
            let (mut steps, mut cursor) = (Vec::new(), 0);
            loop {
                let mut keys = Vec::new();
                cursor = tables.scan(0, cursor, count, 0, |entry| keys.push(entry.key().to_vec()));
                assert!(keys.len() <= count && cursor < 1 << 52);
                steps.push((cursor, keys));
                if cursor == 0 {
                    return steps;
                }
            }
        };
        for count in [1, 7, 100, usize::MAX] {
            let seen = steps(&grown, count);
            assert_eq!(seen, steps(&restored, count), "{left} keys by {count}");
            assert_eq!(seen.iter().map(|(_, keys)| keys.len()).sum::<usize>(), left);
        }
        let mut picked = BTreeSet::new();
        for _ in 0..200 {
            let seed = rng.next_u64();
            let pick =
                |tables: &Tables| tables.random_repeatable(0, 0, &mut Rng::new(seed)).map(|entry| entry.key().to_vec());
            assert_eq!(pick(&grown), pick(&restored));
            picked.extend(pick(&grown));
        }
        assert!(picked.len() >= left.min(100) * 8 / 10, "{} of {left} keys are ever picked", picked.len());
    }
}

//! The promises of [`super::Tables`]: scans miss nothing, walks copy one moment, books balance.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::Rng;

use super::{Expiry, Tables, WrongType};
use crate::keyspace::Keyspaces;
use crate::value::{List, Value};

fn tables() -> Tables {
    Tables::new(Arc::new(Keyspaces::default()))
}

fn text(value: &Value) -> Vec<u8> {
    match value {
        Value::Str(bytes) => bytes.clone(),
        other => panic!("a string was stored, not {other:?}"),
    }
}

fn contents(tables: &Tables) -> BTreeMap<(u8, Vec<u8>), Vec<u8>> {
    let mut all = BTreeMap::new();
    for db in 0..16 {
        let mut cursor = 0;
        loop {
            cursor = tables.scan(db, cursor, 100, 0, |entry| {
                all.insert((db, entry.key().to_vec()), text(&entry.value));
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
    tables.edit::<Vec<u8>, _>(0, b"k", 0, |_| (false, ())).expect("a string");
    assert_eq!(tables.version(0, b"k", 0), first);
    tables.remove(0, b"k", 0);
    assert!(![absent, first].contains(&tables.version(0, b"k", 0)));
    tables.set_string(0, b"k", b"1", Expiry::Clear, 0);
    assert_eq!(tables.edit::<List, ()>(0, b"k", 0, |_| (true, ())), Err(WrongType));
}

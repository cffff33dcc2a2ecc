//! [`Hash`] against a map.

use std::collections::BTreeMap;

use base::Rng;
use proptest::prelude::*;

use super::Hash;
use crate::codec::{Input, Stored};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn field() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        12 => (0u16..200).prop_map(|n| format!("field:{n}").into_bytes()),
        1 => (60usize..70).prop_map(|len| vec![b'f'; len]),
        1 => (120usize..140).prop_map(|len| vec![b'f'; len]),
        1 => Just(Vec::new()),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        60 => prop::collection::vec(any::<u8>(), 0..20),
        1 => prop::collection::vec(any::<u8>(), 60..300),
    ]
}

fn check(hash: &Hash, model: &Model) {
    assert_eq!(hash.len(), model.len());
    let all: Model = hash.iter().map(|(field, value)| (field.to_vec(), value.to_vec())).collect();
    assert_eq!(&all, model);
    for (index, pair) in hash.iter().enumerate().take(5) {
        assert_eq!(hash.at(index), Some(pair));
    }
    assert_eq!(hash.at(hash.len()), None);
    let payload: usize = model.iter().map(|(field, value)| field.len() + value.len()).sum();
    assert_eq!(hash.payload, payload, "bytes are counted");
    assert!(hash.heap_bytes() >= payload);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn a_hash_is_what_a_map_would_be(steps in prop::collection::vec((field(), prop::option::weighted(0.7, value())), 1..300)) {
        let (mut hash, mut model) = (Hash::default(), Model::new());
        for (field, value) in steps {
            match value {
                Some(value) => {
                    let new = model.insert(field.clone(), value.clone()).is_none();
                    assert_eq!(hash.insert(&field, &value), new);
                    assert_eq!(hash.get(&field), Some(&value[..]));
                }
                None => {
                    assert_eq!(hash.remove(&field), model.remove(&field).is_some());
                    assert_eq!(hash.get(&field), None);
                }
            }
        }
        check(&hash, &model);
        let mut stored = Vec::new();
        hash.encode(&mut stored);
        let mut input = Input::new(&stored);
        let again = Hash::decode(&mut input).expect("what was encoded decodes");
        prop_assert!(input.is_empty());
        prop_assert!(again.iter().eq(hash.iter()), "the order survives");
        prop_assert_eq!((again.encoding(), again.heap_bytes()), (hash.encoding(), hash.heap_bytes()));
        check(&again, &model);
    }

    #[test]
    fn damaged_bytes_do_no_harm(
        pairs in prop::collection::vec((field(), value()), 0..150), at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(),
    ) {
        let mut hash = Hash::default();
        for (field, value) in &pairs {
            hash.insert(field, value);
        }
        let mut stored = Vec::new();
        hash.encode(&mut stored);
        let place = at % stored.len();
        stored[place] = byte;
        let _ = Hash::decode(&mut Input::new(&stored));
        let _ = Hash::decode(&mut Input::new(&stored[..cut % stored.len()]));
    }

    #[test]
    fn a_scan_visits_every_field_that_stays_while_others_come_and_go(seed in any::<u64>(), stay in 1usize..300, count in 1usize..20) {
        let mut rng = Rng::new(seed);
        let mut hash = Hash::default();
        let mut passing: Vec<String> = (0..rng.index(300)).map(|n| format!("pass:{n}")).collect();
        for n in 0..stay.max(passing.len()) {
            if n < stay {
                hash.insert(format!("stay:{n}").as_bytes(), b"x");
            }
            if let Some(field) = passing.get(n) {
                hash.insert(field.as_bytes(), b"y");
            }
        }
        let (mut seen, mut cursor, mut fresh) = (Model::new(), 0, 0);
        loop {
            cursor = hash.scan(cursor, count, |field, value| {
                seen.insert(field.to_vec(), value.to_vec());
            });
            if cursor == 0 {
                break;
            }
            for _ in 0..rng.index(20) {
                if rng.chance(2, 3) && !passing.is_empty() {
                    let field = passing.swap_remove(rng.index(passing.len()));
                    assert!(hash.remove(field.as_bytes()));
                } else {
                    fresh += 1;
                    passing.push(format!("fresh:{fresh}"));
                    hash.insert(format!("fresh:{fresh}").as_bytes(), b"z");
                }
            }
        }
        for n in 0..stay {
            prop_assert!(seen.contains_key(format!("stay:{n}").as_bytes()), "stay:{n} was missed");
        }
    }
}

#[test]
fn a_hash_becomes_a_table_with_the_513th_field_or_a_65_byte_text_and_stays_one() {
    let mut hash = Hash::default();
    for n in 0..512 {
        hash.insert(format!("{n}").as_bytes(), &[1; 64]);
    }
    assert_eq!(hash.encoding(), "listpack");
    hash.insert(b"7", b"other");
    assert_eq!(hash.encoding(), "listpack");
    hash.insert(b"512", b"");
    assert_eq!(hash.encoding(), "hashtable");
    for n in 1..513 {
        hash.remove(format!("{n}").as_bytes());
    }
    assert_eq!((hash.len(), hash.encoding()), (1, "hashtable"));

    let mut long = Hash::default();
    long.insert(b"f", b"v");
    long.insert(b"f", &[1; 65]);
    assert_eq!((long.get(b"f"), long.encoding()), (Some(&[1; 65][..]), "hashtable"));
}

#[test]
fn cursors_that_were_never_given_out_are_harmless() {
    let mut hash = Hash::default();
    for n in 0..600 {
        hash.insert(format!("{n}").as_bytes(), b"");
    }
    let mut visited = 0;
    assert_eq!(hash.scan(u64::MAX, usize::MAX, |_, _| visited += 1), 0);
    assert_eq!(visited, 600);
    assert_eq!(hash.scan(5, 10, |_, _| visited += 1), 0);
    assert_eq!(visited, 605);
}

//! [`Rows`] against a vector.

use std::collections::BTreeMap;

use base::Rng;
use proptest::prelude::*;

use super::{CHUNK, Rows};

type Row = Box<[u8]>;

fn row(n: usize) -> Row {
    format!("row:{n}").into_bytes().into()
}

fn check(rows: &Rows<Row>, model: &[Row]) {
    assert_eq!(rows.len(), model.len());
    assert!(
        rows.iter().eq(model.iter()),
        "rows stand in the order of insertion, but for gaps that the last one filled"
    );
    for (place, row) in model.iter().enumerate() {
        assert_eq!((rows.at(place), rows.place_of(row)), (Some(row), Some(place)));
    }
    assert_eq!(rows.at(model.len()), None);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn rows_are_what_a_vector_would_be(seed in any::<u64>(), most in 1usize..6000) {
        let mut rng = Rng::new(seed);
        let (mut rows, mut model) = (Rows::default(), Vec::new());
        let (mut fresh, mut held) = (0, Vec::new());
        // Up to so many, down again to almost none, and up once more.
        for goal in [most, most / 40, most / 2] {
            while model.len() != goal {
                if (model.len() < goal) == rng.chance(9, 10) {
                    fresh += 1;
                    assert_eq!(rows.place_of(&row(fresh)), None);
                    rows.push(row(fresh));
                    model.push(row(fresh));
                } else if !model.is_empty() {
                    let place = rng.index(model.len());
                    let gone = rows.swap_remove(place);
                    assert_eq!(gone, model.swap_remove(place));
                    assert_eq!(rows.get(&gone), None);
                }
            }
            check(&rows, &model);
            held.push((rows.hold().collect::<Vec<_>>(), model.clone()));
        }
        for (chunks, model) in held {
            prop_assert!(chunks.iter().flat_map(|chunk| chunk.iter()).eq(model.iter()), "what is held does not change");
        }
        let mut steps = 0;
        while !rows.crumble(1) {
            steps += 1;
        }
        prop_assert!(steps <= most / CHUNK + 64);
    }
}

#[test]
fn rows_whose_hashes_begin_alike_are_told_apart() {
    let mut by_hash: BTreeMap<u32, usize> = BTreeMap::new();
    let mut rows = Rows::<Row>::default();
    for n in 0..200_000 {
        *by_hash.entry(super::hash_of(&row(n))).or_default() += 1;
        rows.push(row(n));
    }
    assert!(by_hash.len() < 200_000, "among so many some have the same 32 bits");
    for n in 0..200_000 {
        assert_eq!(rows.place_of(&row(n)), Some(n));
    }
}

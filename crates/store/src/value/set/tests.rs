//! [`Set`] against a tree.

use std::collections::BTreeSet;

use base::Rng;
use proptest::prelude::*;

use super::{Form, Set};
use crate::codec::{Input, Stored};

type Model = BTreeSet<Vec<u8>>;

fn member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        60 => (-300i64..300).prop_map(|n| n.to_string().into_bytes()),
        3 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        3 => any::<i32>().prop_map(|n| n.to_string().into_bytes()),
    ]
}

fn any_member() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        20 => member(),
        10 => (0u8..100).prop_map(|n| format!("member:{n}").into_bytes()),
        1 => (0usize..80).prop_map(|len| vec![b'm'; len]),
        1 => Just(b"007".to_vec()),
    ]
}

fn check(set: &Set, model: &Model) {
    assert_eq!(set.len(), model.len());
    assert_eq!(&set.iter().map(|member| member.to_vec()).collect::<Model>(), model);
    for index in [0, set.len() / 2, set.len()] {
        assert_eq!(set.at(index).map(|member| member.to_vec()), set.iter().nth(index).map(|member| member.to_vec()));
    }
    if !matches!(set.form, Form::Ints(_)) {
        assert_eq!(set.payload, model.iter().map(Vec::len).sum::<usize>(), "bytes are counted");
    }
}

fn run(steps: Vec<(bool, Vec<u8>)>) {
    let (mut set, mut model) = (Set::default(), Model::new());
    for (add, member) in steps {
        if add {
            assert_eq!(set.insert(&member), model.insert(member.clone()));
        } else {
            assert_eq!(set.remove(&member), model.remove(&member));
        }
        assert_eq!(set.contains(&member), add);
    }
    check(&set, &model);
    let mut stored = Vec::new();
    set.encode(&mut stored);
    let mut input = Input::new(&stored);
    let mut again = Set::decode(&mut input).expect("what was encoded decodes");
    assert!(input.is_empty());
    assert!(again.iter().map(|member| member.to_vec()).eq(set.iter().map(|member| member.to_vec())), "order survives");
    assert_eq!((again.encoding(), again.heap_bytes()), (set.encoding(), set.heap_bytes()));
    check(&again, &model);
    let mut rng = Rng::new(1);
    while !again.is_empty() {
        let index = rng.index(again.len());
        let gone = again.at(index).map(|member| member.to_vec()).expect("the index is below the length");
        assert!(again.remove_at(index) && model.remove(&gone));
        assert!(!again.contains(&gone));
    }
    assert!(!again.remove_at(0));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn a_set_of_numbers_is_what_a_tree_would_be(steps in prop::collection::vec((prop::bool::weighted(0.8), member()), 1..800)) {
        run(steps);
    }

    #[test]
    fn a_set_is_what_a_tree_would_be(steps in prop::collection::vec((prop::bool::weighted(0.7), any_member()), 1..300)) {
        run(steps);
    }

    #[test]
    fn damaged_bytes_do_no_harm(
        members in prop::collection::vec(any_member(), 0..150), numbers in any::<bool>(),
        at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(),
    ) {
        let mut set = Set::default();
        for member in members.iter().filter(|member| !numbers || base::parse_i64(member).is_some()) {
            set.insert(member);
        }
        let mut stored = Vec::new();
        set.encode(&mut stored);
        let place = at % stored.len();
        stored[place] = byte;
        let _ = Set::decode(&mut Input::new(&stored));
        let _ = Set::decode(&mut Input::new(&stored[..cut % stored.len()]));
    }

    #[test]
    fn a_scan_visits_every_member_that_stays_while_others_come_and_go(seed in any::<u64>(), stay in 130usize..400, count in 1usize..20) {
        let mut rng = Rng::new(seed);
        let mut set = Set::default();
        let mut passing = Vec::new();
        for n in 0..stay {
            set.insert(format!("stay:{n}").as_bytes());
            passing.push(format!("pass:{n}"));
            set.insert(format!("pass:{n}").as_bytes());
        }
        let (mut seen, mut cursor) = (Model::new(), 0);
        loop {
            cursor = set.scan(cursor, count, |member| {
                seen.insert(member.to_vec());
            });
            if cursor == 0 {
                break;
            }
            for _ in 0..rng.index(30) {
                if !passing.is_empty() {
                    set.remove(passing.swap_remove(rng.index(passing.len())).as_bytes());
                }
            }
        }
        for n in 0..stay {
            prop_assert!(seen.contains(format!("stay:{n}").as_bytes()), "stay:{n} was missed");
        }
    }
}

#[test]
fn a_set_takes_the_forms_that_redis_takes() {
    let mut ints = Set::default();
    for n in 0..512 {
        ints.insert(format!("{n}").as_bytes());
    }
    assert_eq!(ints.encoding(), "intset");
    let mut mixed = ints.clone();
    ints.insert(b"512");
    assert_eq!(ints.encoding(), "hashtable");
    mixed.insert(b"text");
    assert_eq!(mixed.encoding(), "hashtable");

    let mut small = Set::default();
    for n in 0..127 {
        small.insert(format!("{n}").as_bytes());
    }
    small.insert(b"text");
    assert_eq!((small.len(), small.encoding()), (128, "listpack"));
    small.insert(b"more");
    assert_eq!((small.len(), small.encoding()), (129, "hashtable"));
    small.remove(b"text");
    small.remove(b"more");
    assert_eq!(small.encoding(), "hashtable", "it never goes back");

    let mut long = Set::default();
    long.insert(b"1");
    long.insert(&[b'x'; 65]);
    assert_eq!((long.len(), long.encoding()), (2, "hashtable"));

    let mut expected = Set::default();
    expected.expect(b"text", 129);
    assert_eq!(expected.encoding(), "hashtable");
}

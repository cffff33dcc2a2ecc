//! [`List`] against a plain vector.

use proptest::prelude::*;

use super::{End, FULL, List};
use crate::codec::{Input, Stored};

#[derive(Clone, Debug)]
enum Step {
    Push(End, Vec<u8>),
    Pop(End),
    Set(usize, Vec<u8>),
    Insert(usize, Vec<u8>),
    Trim(usize, usize),
    Remove(End, Vec<u8>, usize),
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Head), Just(End::Tail)]
}

/// Mostly few and short, so that removal finds some; now and then of the size of a chunk.
fn element() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => (0u8..6).prop_map(|byte| vec![byte; usize::from(byte)]),
        4 => (100usize..400, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        1 => (FULL - 20..FULL + 20, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
        1 => (1000usize..20_000, any::<u8>()).prop_map(|(len, byte)| vec![byte; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (end(), element()).prop_map(|(end, element)| Step::Push(end, element)),
        3 => end().prop_map(Step::Pop),
        2 => (any::<usize>(), element()).prop_map(|(index, element)| Step::Set(index, element)),
        4 => (any::<usize>(), element()).prop_map(|(index, element)| Step::Insert(index, element)),
        1 => (0usize..5, 0usize..100).prop_map(|(from, count)| Step::Trim(from, count)),
        1 => (end(), element(), 1usize..4).prop_map(|(end, element, limit)| Step::Remove(end, element, limit)),
    ]
}

fn apply(list: &mut List, model: &mut Vec<Vec<u8>>, step: Step) {
    match step {
        Step::Push(end, element) => {
            list.push(end, &element);
            model.insert(if end == End::Head { 0 } else { model.len() }, element);
        }
        Step::Pop(end) => {
            let expected = match end {
                End::Head => (!model.is_empty()).then(|| model.remove(0)),
                End::Tail => model.pop(),
            };
            assert_eq!(list.pop(end, |bytes| bytes.to_vec()), expected);
        }
        Step::Set(index, element) => {
            let index = index % (model.len() + 1);
            assert_eq!(list.set(index, &element), index < model.len());
            if let Some(place) = model.get_mut(index) {
                *place = element;
            }
        }
        Step::Insert(index, element) => {
            let index = index % (model.len() + 2);
            assert_eq!(list.insert(index, &element), index <= model.len());
            if index <= model.len() {
                model.insert(index, element);
            }
        }
        Step::Trim(from, count) => {
            let kept: Vec<_> = model.iter().skip(from).take(count).cloned().collect();
            assert_eq!(list.trim(from, count), model.len() - kept.len());
            *model = kept;
        }
        Step::Remove(end, element, limit) => {
            let mut places: Vec<usize> = (0..model.len()).filter(|index| model[*index] == element).collect();
            if end == End::Tail {
                places.reverse();
            }
            places.truncate(limit);
            places.sort_unstable();
            for place in places.iter().rev() {
                model.remove(*place);
            }
            assert_eq!(list.remove(end, &element, limit), places.len());
        }
    }
}

fn check(list: &List, model: &[Vec<u8>]) {
    assert_eq!(list.len(), model.len());
    assert!(list.iter().eq(model.iter().map(Vec::as_slice)), "forwards");
    assert!(list.iter_back().eq(model.iter().rev().map(Vec::as_slice)), "backwards");
    for index in [0, 1, model.len() / 2, model.len().saturating_sub(2), model.len()] {
        assert_eq!(list.get(index), model.get(index).map(Vec::as_slice), "index {index}");
        assert!(list.iter_from(index).eq(model.iter().skip(index).map(Vec::as_slice)));
    }
    assert_eq!(list.packed, list.chunks.iter().map(super::Chunk::used).sum::<usize>(), "bytes are counted");
    assert!(list.chunks.iter().all(|chunk| chunk.count() > 0), "no chunk is empty");
    assert!(list.chunks.iter().all(|chunk| chunk.used() <= FULL || chunk.count() == 1), "no chunk is overfull");
    let payload: usize = model.iter().map(Vec::len).sum();
    assert!(list.heap_bytes() >= payload, "the estimate covers the payload");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn a_list_is_what_a_vector_would_be(steps in prop::collection::vec(step(), 1..200)) {
        let (mut list, mut model) = (List::default(), Vec::new());
        for step in steps {
            apply(&mut list, &mut model, step);
            check(&list, &model);
        }
        let mut stored = Vec::new();
        list.encode(&mut stored);
        let mut input = Input::new(&stored);
        let again = List::decode(&mut input).expect("what was encoded decodes");
        prop_assert!(input.is_empty());
        prop_assert_eq!(again.encoding(), list.encoding());
        prop_assert_eq!(again.heap_bytes(), list.heap_bytes());
        check(&again, &model);
    }

    #[test]
    fn damaged_bytes_do_no_harm(
        elements in prop::collection::vec(element(), 0..20), at in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(),
    ) {
        let mut list = List::default();
        for element in &elements {
            list.push(End::Tail, element);
        }
        let mut stored = Vec::new();
        list.encode(&mut stored);
        let place = at % stored.len();
        stored[place] = byte;
        let _ = List::decode(&mut Input::new(&stored));
        let _ = List::decode(&mut Input::new(&stored[..cut % stored.len()]));
    }
}

#[test]
fn a_list_becomes_a_quicklist_beyond_8_kb_and_a_listpack_below_4_kb() {
    let mut list = List::default();
    for _ in 0..63 {
        list.push(End::Tail, &[7; 126]);
    }
    assert_eq!(list.encoding(), "listpack");
    list.push(End::Head, &[7; 126]);
    list.push(End::Head, &[7; 126]);
    assert_eq!(list.encoding(), "quicklist");
    while list.len() > 33 {
        list.pop(End::Tail, |_| ());
    }
    assert_eq!(list.encoding(), "quicklist");
    list.pop(End::Tail, |_| ());
    assert_eq!(list.encoding(), "listpack");
}

#[test]
fn a_short_queue_that_many_elements_pass_through_stays_small() {
    let mut list = List::default();
    for round in 0u32..100_000 {
        list.push(End::Tail, &round.to_le_bytes());
        if round >= 10 {
            let out = list.pop(End::Head, |bytes| bytes.to_vec());
            assert_eq!(out, Some((round - 10).to_le_bytes().to_vec()));
        }
    }
    assert_eq!((list.len(), list.chunks.len()), (10, 1));
    assert!(list.heap_bytes() < 512);
}

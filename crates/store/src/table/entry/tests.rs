//! [`Entry`] against a plain struct. Small enough for Miri.

use proptest::prelude::*;

use super::{Entry, New, TEXT_MAX};
use crate::value::{End, List, Value, View};

/// What an entry is without its packing.
#[derive(Debug)]
struct Model {
    key: Vec<u8>,
    value: Held,
    expire: u64,
    version: u64,
    walked: u8,
    keyspace: u8,
}

#[derive(Clone, Debug, PartialEq)]
enum Held {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
}

#[derive(Clone, Debug)]
enum Step {
    Replace(Held),
    Append(Vec<u8>),
    Truncate(usize),
    Push(Vec<u8>),
    Expire(u64),
    Version(u64),
    Walked(u8),
    Keyspace(u8),
    Freeze,
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        6 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), TEXT_MAX - 9..TEXT_MAX + 9),
    ]
}

fn held() -> impl Strategy<Value = Held> {
    prop_oneof![
        3 => text().prop_map(Held::Text),
        1 => prop::collection::vec(text(), 1..4).prop_map(Held::List),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => held().prop_map(Step::Replace),
        2 => text().prop_map(Step::Append),
        1 => any::<usize>().prop_map(Step::Truncate),
        2 => text().prop_map(Step::Push),
        2 => prop_oneof![Just(0), any::<u64>()].prop_map(Step::Expire),
        1 => any::<u64>().prop_map(Step::Version),
        1 => any::<u8>().prop_map(Step::Walked),
        1 => any::<u8>().prop_map(Step::Keyspace),
        1 => Just(Step::Freeze),
    ]
}

fn value(held: &Held) -> Value {
    match held {
        Held::Text(text) => text.clone().into(),
        Held::List(elements) => {
            let mut list = List::default();
            elements.iter().for_each(|element| list.push(End::Tail, element));
            Value::List(Box::new(list))
        }
    }
}

fn seen(view: View<'_>) -> Held {
    match view {
        View::Str(text) => Held::Text(text.to_vec()),
        View::List(list) => Held::List(list.iter().map(<[u8]>::to_vec).collect()),
        other => panic!("only strings and lists were stored, not {other:?}"),
    }
}

fn check(entry: &Entry, model: &Model) {
    assert_eq!(entry.key(), model.key);
    assert_eq!(seen(entry.value()), model.value);
    assert_eq!((entry.expire(), entry.version()), (model.expire, model.version));
    assert_eq!((entry.walked(), entry.keyspace()), (model.walked, model.keyspace));
    assert_eq!(entry.text().is_some(), matches!(model.value, Held::Text(_)));
    let again = Entry::new(&model.key, value(&model.value).into(), model.keyspace, 0);
    if matches!(model.value, Held::Text(_)) {
        assert_eq!(
            entry.cost(),
            again.cost(),
            "what an entry costs depends on what it holds, not on how it came to be"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(if cfg!(miri) { 8 } else { 256 }) })]

    #[test]
    fn an_entry_is_what_it_was_last_given(
        key in text(), first in held(), whole in any::<bool>(), steps in prop::collection::vec(step(), 0..if cfg!(miri) { 12 } else { 40 }),
    ) {
        let mut scratch = Vec::new();
        let mut entry = match &first {
            Held::Text(text) if !whole => Entry::new(&key, New::Text(text), 3, 7),
            held => Entry::new(&key, value(held).into(), 3, 7),
        };
        let mut model = Model { key, value: first, expire: 0, version: 7, walked: 0, keyspace: 3 };
        let mut frozen = Vec::new();
        check(&entry, &model);
        for step in steps {
            match step {
                Step::Replace(held) => {
                    match &held {
                        Held::Text(text) => drop(entry.replace(New::Text(text))),
                        held => drop(entry.replace(value(held).into())),
                    }
                    model.value = held;
                }
                Step::Append(tail) => {
                    let edited = entry.edit_text(&mut scratch, |text| text.extend_from_slice(&tail)).is_some();
                    if let Held::Text(text) = &mut model.value {
                        text.extend_from_slice(&tail);
                        assert!(edited);
                    } else {
                        assert!(!edited);
                    }
                }
                Step::Truncate(to) => {
                    entry.edit_text(&mut scratch, |text| text.truncate(to % (text.len() + 1)));
                    if let Held::Text(text) = &mut model.value {
                        text.truncate(to % (text.len() + 1));
                    }
                }
                Step::Push(element) => {
                    if let (Some(Value::List(list)), Held::List(model)) = (entry.body_mut(), &mut model.value) {
                        list.push(End::Tail, &element);
                        model.push(element);
                    }
                }
                Step::Expire(at) => {
                    entry.set_expire(at);
                    model.expire = at;
                }
                Step::Version(version) => {
                    entry.set_version(version);
                    model.version = version;
                }
                Step::Walked(generation) => {
                    entry.set_walked(generation);
                    model.walked = generation;
                }
                Step::Keyspace(keyspace) => {
                    entry.set_keyspace(keyspace);
                    model.keyspace = keyspace;
                }
                // Parts that a snapshot holds change nothing here.
                Step::Freeze => frozen.extend(entry.body_mut().and_then(|value| value.freeze(Vec::new()))),
            }
            check(&entry, &model);
        }
        prop_assert_eq!(seen(entry.to_value().view()), model.value.clone());
        prop_assert_eq!(seen(entry.into_value().view()), model.value);
    }
}

#[test]
fn a_million_small_strings_cost_their_bytes_and_little_more() {
    // 24 bytes of head, rounded up with key and text to a multiple of 8.
    let shape = super::Shape::of_text(false, 16, 100);
    assert_eq!(shape.size(), 144);
    assert_eq!((super::HEAD, size_of::<Entry>(), size_of::<Option<Entry>>()), (24, 8, 8));
}

#[test]
fn a_string_of_another_length_takes_the_old_ones_place_only_where_it_fits() {
    let mut entry = Entry::new(b"k", New::Text(&[1; 100]), 0, 0);
    let before = entry.shape().size();
    entry.replace(New::Text(&[2; 90]));
    assert_eq!((entry.text(), entry.shape().size()), (Some(&[2; 90][..]), before));
    entry.replace(New::Text(&[3; 10]));
    assert_eq!(entry.text(), Some(&[3; 10][..]));
    assert!(entry.shape().size() < before, "room for ninety bytes more is not kept");
}

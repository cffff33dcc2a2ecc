//! Pieces add up to the stored form of the moment at which the value was frozen, whatever becomes of the value.

use base::Rng;
use proptest::prelude::*;

use super::Growing;
use crate::codec::{Input, Stored};
use crate::value::{End, Pending, Stream, StreamId, Value};

fn text(rng: &mut Rng) -> Vec<u8> {
    let len = if rng.chance(1, 50) { 300 } else { 30 };
    (0..rng.index(len)).map(|_| rng.next_u64() as u8).collect()
}

fn change(value: &mut Value, rng: &mut Rng, fresh: u64) {
    let gone = format!("m{}", rng.below(fresh + 1)).into_bytes();
    let name = format!("m{}", if rng.chance(1, 3) { rng.below(fresh + 1) } else { fresh }).into_bytes();
    match value {
        Value::Str(bytes) => std::sync::Arc::make_mut(bytes).extend(text(rng)),
        Value::List(list) => match rng.below(6) {
            0 => {
                list.pop(End::Head, |_| ());
            }
            1 if !list.is_empty() => {
                list.set(rng.index(list.len()), &text(rng));
            }
            2 if !list.is_empty() => {
                list.insert(rng.index(list.len()), &text(rng));
            }
            3 => list.push(End::Head, &text(rng)),
            _ => list.push(End::Tail, &text(rng)),
        },
        Value::Hash(hash) if rng.chance(1, 4) => {
            hash.remove(&gone);
        }
        Value::Hash(hash) => {
            hash.insert(&name, &text(rng));
        }
        Value::Set(set) if rng.chance(1, 4) => {
            set.remove(&gone);
        }
        Value::Set(set) => {
            set.insert(&name);
        }
        Value::Zset(zset) if rng.chance(1, 4) => {
            zset.remove(&gone);
        }
        Value::Zset(zset) => {
            zset.insert(&name, rng.below(100) as f64);
        }
        Value::Stream(stream) => {
            let id = StreamId::new(fresh + 1, 0);
            match rng.below(6) {
                0 => {
                    stream.log.delete(StreamId::new(rng.below(fresh + 1), 0));
                }
                1 => {
                    stream.edit_group(b"g", |_, group| {
                        let (consumer, _) = group.ensure_consumer(&name[..1], 1);
                        group.deliver(id, Pending { consumer, delivered: 2, count: 1 });
                    });
                }
                _ => stream.log.append(id, &[&name, &text(rng)]),
            }
        }
    }
}

fn fresh(kind: usize) -> Value {
    match kind {
        0 => Value::from(Vec::new()),
        1 => Value::List(Box::default()),
        2 => Value::Hash(Box::default()),
        3 => Value::Set(Box::default()),
        4 => Value::Zset(Box::default()),
        _ => {
            let mut stream = Stream::default();
            stream.create_group(b"g", StreamId::MIN, None);
            Value::Stream(Box::new(stream))
        }
    }
}

fn stored(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    value.encode(&mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn pieces_are_the_stored_form_of_one_moment(seed in any::<u64>(), kind in 0usize..6, size in 0u64..3000, step in 1usize..5000) {
        let mut rng = Rng::new(seed);
        let mut value = fresh(kind);
        for n in 0..size {
            change(&mut value, &mut rng, n);
        }
        let expected = stored(&value);
        let Some(mut frozen) = value.freeze(b"head".to_vec()) else {
            prop_assert!(size < 700, "only small forms are in one piece");
            return Ok(());
        };
        let (mut written, mut chunks, mut done) = (Vec::new(), Vec::new(), false);
        for n in size.. {
            if !done {
                let mut chunk = Vec::new();
                done = frozen.write(step, &mut chunk);
                written.extend_from_slice(&chunk);
                chunks.push(chunk);
            }
            if done && n > size + 300 {
                break;
            }
            change(&mut value, &mut rng, n);
        }
        prop_assert_eq!(&written[..4], b"head");
        prop_assert!(written[4..] == expected, "the pieces are the stored form");
        // And they can be read as they come.
        chunks[0].drain(..4);
        let mut first = chunks.iter().position(|chunk| !chunk.is_empty()).unwrap_or(0);
        let mut input = Input::new(&chunks[first]);
        let mut growing = Growing::begin(&mut input).expect("a head as written");
        while !growing.feed(&mut input).expect("elements as written") {
            prop_assert!(input.is_empty());
            first += 1;
            input = Input::new(&chunks[first]);
        }
        prop_assert!(input.is_empty() && chunks[first + 1..].iter().all(Vec::is_empty), "nothing is left over");
        prop_assert!(stored(&growing.finish()) == expected, "what was read is what was written");
        // What was changed while its parts were held is what it would be without.
        let now = stored(&value);
        let again = Value::decode(&mut Input::new(&now)).expect("a value as written");
        prop_assert!(stored(&again) == now);
        prop_assert_eq!(again.heap_bytes(), value.heap_bytes());
        let mut steps = 0;
        while !value.crumble(1) {
            steps += 1;
            prop_assert!(steps < 10_000);
        }
    }

    #[test]
    fn damaged_pieces_do_no_harm(seed in any::<u64>(), kind in 0usize..6, size in 0u64..400, at in any::<usize>(), byte in any::<u8>(), cut in 1usize..500) {
        let mut rng = Rng::new(seed);
        let mut value = fresh(kind);
        for n in 0..size {
            change(&mut value, &mut rng, n);
        }
        let mut bytes = stored(&value);
        let place = at % bytes.len();
        bytes[place] = byte;
        let mut growing: Option<Growing> = None;
        for chunk in bytes.chunks(cut) {
            let mut input = Input::new(chunk);
            let begun = match growing.take() {
                Some(growing) => Ok(growing),
                None => Growing::begin(&mut input),
            };
            let Ok(mut begun) = begun else { break };
            if begun.feed(&mut input) != Ok(false) {
                break;
            }
            growing = Some(begun);
        }
    }
}

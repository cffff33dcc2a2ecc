//! The promises of [`super::Stream`], against a plain list of entries and plain maps of deliveries.

use std::collections::BTreeMap;

use base::Rng;

use super::{Keep, Log, Pending, Stream, StreamId, Trim};
use crate::codec::{Input, Stored};

type Listed = (StreamId, Vec<(Vec<u8>, Vec<u8>)>);

fn listed<'a>(entries: impl Iterator<Item = super::StreamEntry<'a>>) -> Vec<Listed> {
    entries
        .map(|entry| (entry.id, entry.fields().map(|(field, value)| (field.to_vec(), value.to_vec())).collect()))
        .collect()
}

fn all(log: &Log) -> Vec<Listed> {
    listed(log.range(StreamId::MIN, StreamId::MAX))
}

fn words(rng: &mut Rng) -> Vec<Vec<u8>> {
    let shape = rng.index(4);
    let count = [2, 2, 3, 1 + rng.index(5)][shape];
    (0..count)
        .flat_map(|n| {
            let field = if shape < 3 { format!("field{n}") } else { format!("f{}", rng.below(3)) };
            let length = if rng.chance(1, 50) { rng.index(6000) } else { rng.index(20) };
            [field.into_bytes(), vec![b'v'; length]]
        })
        .collect()
}

fn append(log: &mut Log, id: StreamId, words: &[Vec<u8>]) {
    log.append(id, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
}

fn some_id(rng: &mut Rng, log: &Log) -> StreamId {
    StreamId::new(rng.below(log.last_id().ms + 2), rng.below(4))
}

#[test]
fn does_what_a_list_of_entries_does() {
    for seed in 0..20 {
        let mut rng = Rng::new(seed);
        let (mut log, mut model) = (Log::default(), Vec::<Listed>::new());
        for step in 0..3000 {
            match rng.below(100) {
                0..70 => {
                    let id = match rng.below(3) {
                        0 => log.last_id().next().expect("far from the end"),
                        _ => StreamId::new(log.last_id().ms + 1 + rng.below(3), rng.below(3)),
                    };
                    let words = words(&mut rng);
                    append(&mut log, id, &words);
                    model.push((id, words.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()));
                }
                70..90 => {
                    let id = match model.len() {
                        0 => StreamId::MIN,
                        len => model[rng.index(len)].0,
                    };
                    let id = if rng.chance(1, 4) { some_id(&mut rng, &log) } else { id };
                    let at = model.iter().position(|(other, _)| *other == id);
                    assert_eq!(log.delete(id), at.is_some());
                    at.map(|at| model.remove(at));
                }
                90..94 => {
                    let newest = rng.chance(1, 2);
                    let (keep, gone) = if newest {
                        let count = model.len().saturating_sub(rng.index(150));
                        (Keep::Newest(count as u64), model.len() - count)
                    } else {
                        let id = some_id(&mut rng, &log);
                        (Keep::From(id), model.iter().filter(|(other, _)| *other < id).count())
                    };
                    let approximate = rng.chance(1, 2);
                    let trimmed = log.trim(Trim { keep, approximate, limit: 0 }) as usize;
                    assert!(if approximate { trimmed <= gone } else { trimmed == gone });
                    model.drain(..trimmed);
                }
                _ => {
                    let (start, end) = (some_id(&mut rng, &log), some_id(&mut rng, &log));
                    let expected: Vec<_> = model.iter().filter(|(id, _)| start <= *id && *id <= end).cloned().collect();
                    assert_eq!(listed(log.range(start, end)), expected);
                    let back = listed(log.range_back(start, end));
                    assert!(back.iter().eq(expected.iter().rev()));
                    assert_eq!(log.get(start).is_some(), model.iter().any(|(id, _)| *id == start));
                }
            }
            assert_eq!(log.len(), model.len() as u64, "seed {seed} step {step}");
            assert_eq!(log.first_id(), model.first().map_or(StreamId::MIN, |(id, _)| *id));
        }
        assert_eq!(all(&log), model);
        let stream = Stream { log, ..Stream::default() };
        let copy = reread(&stream);
        assert_eq!(all(&copy.log), model);
        assert_eq!((copy.heap_bytes(), copy.log.block_count()), (stream.heap_bytes(), stream.log.block_count()));
        let mut log = copy.log;
        log.trim(Trim { keep: Keep::Newest(0), approximate: false, limit: 0 });
        assert_eq!((log.bytes, log.block_count()), (0, 0));
    }
}

fn reread(stream: &Stream) -> Stream {
    let mut bytes = Vec::new();
    stream.encode(&mut bytes);
    let mut input = Input::new(&bytes);
    let copy = Stream::decode(&mut input).expect("its own stored form");
    assert!(input.is_empty());
    let mut again = Vec::new();
    copy.encode(&mut again);
    assert_eq!(again, bytes, "a stream read back is stored as before");
    copy
}

#[test]
fn approximate_trimming_removes_whole_blocks_within_the_limit() {
    let mut log = Log::default();
    for n in 1..=1000 {
        log.append(StreamId::new(n, 0), &[b"f", b"v"]);
    }
    assert_eq!(log.block_count(), 10);
    let trim = |keep, limit| Trim { keep, approximate: true, limit };
    assert_eq!(log.trim(trim(Keep::Newest(950), 0)), 0);
    assert_eq!(log.trim(trim(Keep::Newest(450), 299)), 200);
    assert_eq!(log.trim(trim(Keep::Newest(450), 0)), 300);
    assert_eq!(log.trim(trim(Keep::From(StreamId::new(700, 1)), 0)), 200);
    assert_eq!((log.len(), log.first_id()), (300, StreamId::new(701, 0)));
}

#[test]
fn a_million_small_entries_cost_a_few_bytes_each_beside_their_values() {
    let mut log = Log::default();
    for n in 0..100_000u64 {
        log.append(StreamId::new(1_700_000_000_000 + n / 3, n % 3), &[b"temperature", b"21.5", b"humidity", b"0.4"]);
    }
    let each = log.bytes as f64 / 100_000.0;
    assert!(each < 16.0, "{each} bytes for values of 7");
}

#[test]
fn an_id_set_back_over_deleted_entries_may_be_given_again() {
    let mut log = Log::default();
    (1..=4).for_each(|n| log.append(StreamId::new(n, 0), &[b"f", b"v"]));
    assert!(log.delete(StreamId::new(2, 0)) && log.delete(StreamId::new(3, 0)) && log.delete(StreamId::new(4, 0)));
    log.set_ids(StreamId::new(2, 0), None, Some(StreamId::MIN));
    log.append(StreamId::new(2, 5), &[b"f", b"again"]);
    let ids: Vec<_> = all(&log).into_iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(ids, ["1-0", "2-5"]);
    let stream = Stream { log, ..Stream::default() };
    assert_eq!(reread(&stream).heap_bytes(), stream.heap_bytes());
}

#[test]
fn deliveries_belong_to_one_consumer_each() {
    let mut rng = Rng::new(5);
    let mut stream = Stream::default();
    assert!(stream.create_group(b"g", StreamId::MIN, None) && !stream.create_group(b"g", StreamId::MIN, None));
    let mut model = BTreeMap::<StreamId, (Vec<u8>, u64)>::new();
    for step in 0..4000u64 {
        let id = StreamId::new(rng.below(60), 0);
        let name = format!("consumer{}", rng.below(6)).into_bytes();
        stream.edit_group(b"g", |_, group| match rng.below(10) {
            0..6 => {
                let (consumer, _) = group.ensure_consumer(&name, step);
                group.deliver(id, Pending { consumer, delivered: step, count: 1 });
                model.insert(id, (name, step));
            }
            6..9 => assert_eq!(group.acknowledge(id), model.remove(&id).is_some()),
            _ => {
                let owned = model.values().filter(|(owner, _)| *owner == name).count();
                assert_eq!(group.delete_consumer(&name).unwrap_or(0), owned);
                model.retain(|_, (owner, _)| *owner != name);
            }
        });
        let group = stream.group(b"g").expect("it was made above");
        let list: Vec<_> = group
            .pending_from(StreamId::MIN)
            .map(|(id, pending)| (id, (group.consumer(pending.consumer).name.to_vec(), pending.delivered)))
            .collect();
        assert!(list.iter().map(|(id, owned)| (id, owned)).eq(model.iter()));
        assert_eq!(group.consumers().map(super::Consumer::pending_count).sum::<usize>(), model.len());
    }
    assert_eq!(reread(&stream).heap_bytes(), stream.heap_bytes());
    assert!(stream.destroy_group(b"g"));
    assert_eq!(stream.group_bytes, 0);
}

#[test]
fn damaged_bytes_are_refused_or_give_a_sound_stream() {
    let mut rng = Rng::new(2);
    let mut stream = Stream::default();
    for n in 0..150 {
        let words = words(&mut rng);
        append(&mut stream.log, StreamId::new(n / 2 + 1, n % 2), &words);
        if n % 5 == 0 {
            stream.log.delete(StreamId::new(n / 3 + 1, 0));
        }
    }
    stream.create_group(b"group", StreamId::new(3, 0), Some(3));
    stream.edit_group(b"group", |_, group| {
        let (consumer, _) = group.ensure_consumer(b"c", 7);
        group.deliver(StreamId::new(1, 0), Pending { consumer, delivered: 7, count: 1 });
    });
    let mut bytes = Vec::new();
    stream.encode(&mut bytes);
    for _ in 0..5000 {
        let mut damaged = bytes.clone();
        for _ in 0..=rng.index(3) {
            // Most of the bytes are values; the heads are where damage matters.
            let at = if rng.chance(1, 2) { rng.index(damaged.len()) } else { rng.index(damaged.len().min(64)) };
            damaged[at] = rng.next_u64() as u8;
        }
        damaged.truncate(rng.index(damaged.len()) + damaged.len() / 2);
        if let Ok(mut sound) = Stream::decode(&mut Input::new(&damaged)) {
            assert_eq!(all(&sound.log).len() as u64, sound.log.len());
            if let Some(id) = sound.log.next_id(0) {
                sound.log.append(id, &[b"f", b"v"]);
            }
            sound.log.trim(Trim { keep: Keep::Newest(3), approximate: false, limit: 0 });
        }
    }
}

#[test]
fn a_million_deliveries_are_written_and_freed_in_small_steps() {
    let mut stream = Stream::default();
    stream.log.append(StreamId::new(1, 0), &[b"f", b"v"]);
    for group in [&b"g"[..], b"h"] {
        stream.create_group(group, StreamId::MIN, None);
        stream.edit_group(group, |_, group| {
            for n in 0..500_000 {
                let (consumer, _) = group.ensure_consumer(format!("c{}", n % 7).as_bytes(), 1);
                group.deliver(StreamId::new(1_700_000_000_000 + n, 0), Pending { consumer, delivered: n, count: 1 });
            }
        });
    }
    let mut expected = Vec::new();
    stream.encode(&mut expected);
    let (mut frozen, mut written, mut steps, mut done) =
        (stream.freeze(Vec::new()).expect("it is large"), Vec::new(), 0, false);
    while !done {
        let mut step = Vec::new();
        done = frozen.write(16 << 10, &mut step);
        assert!(step.len() < 32 << 10, "a step of {} bytes", step.len());
        written.extend(step);
        steps += 1;
    }
    assert!(written == expected && steps > 100);
    let mut steps = 0;
    while !stream.crumble(4) {
        steps += 1;
    }
    assert!(steps > 1000, "{steps}");
}

#[test]
fn deliveries_at_any_place_are_found_again_and_cost_what_is_left_of_them() {
    use super::deliveries::Deliveries;
    let mut rng = Rng::new(8);
    for spread in [300, 5_000, 1 << 40] {
        let (mut ours, mut model) = (Deliveries::default(), BTreeMap::new());
        for step in 0..20_000u64 {
            // Forwards, backwards and anywhere.
            let id = StreamId::new(
                match rng.below(3) {
                    0 => spread + step,
                    1 => spread - step.min(spread),
                    _ => rng.below(spread),
                },
                0,
            );
            let pending = Pending { consumer: 0, delivered: step, count: 1 };
            if rng.chance(2, 3) {
                assert_eq!(ours.insert(id, pending), model.insert(id, pending));
            } else {
                let id = model.range(id..).next().map_or(id, |(id, _)| *id);
                assert_eq!(ours.remove(id), model.remove(&id));
            }
            if step % 1000 == 0 {
                ours.hold().for_each(drop);
            }
            assert_eq!((ours.len(), ours.get(id)), (model.len(), model.get(&id)));
        }
        for start in (0..40).map(|_| StreamId::new(rng.below(2 * spread), 0)) {
            assert!(ours.from(start).eq(model.range(start..).map(|(id, pending)| (*id, pending))));
            assert!(ours.from(start).rev().eq(model.range(start..).rev().map(|(id, pending)| (*id, pending))));
        }
    }
}

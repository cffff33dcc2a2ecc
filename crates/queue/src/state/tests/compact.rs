//! Compaction: what a reader sees of a topic of which only the last record of each key has to stay.

use super::*;
use crate::batch::{Header, rebuild};
use crate::compact::{Step, Work};
use crate::partition::{Aborted, Cleanable, Pass};
use crate::repack;

type Text = Vec<u8>;

/// A batch of keyed records, a millisecond apart; without a value it is a deletion.
fn keyed(records: &[(&[u8], Option<&[u8]>)], stamp: i64, producer: (i64, i16, i32), is_in: bool, codec: i16) -> Text {
    let mut batch = example(&vec![&b""[..]; records.len()], stamp, producer, is_in);
    batch[22] |= codec as u8;
    let mut opened = Vec::new();
    for (at, (key, value)) in records.iter().enumerate() {
        let mut record = vec![0];
        [at as i64, at as i64, key.len() as i64].into_iter().for_each(|word| batch::put_zigzag(&mut record, word));
        record.extend_from_slice(key);
        batch::put_zigzag(&mut record, value.map_or(-1, |value| value.len() as i64));
        record.extend_from_slice(value.unwrap_or_default());
        record.push(0);
        batch::put_zigzag(&mut opened, record.len() as i64);
        opened.extend_from_slice(&record);
    }
    let mut out = Vec::new();
    let (count, last) = (records.len() as i32, stamp + records.len() as i64 - 1);
    rebuild(&batch, &repack::close(codec as u8, opened), (stamp, last), count, false, &mut out);
    out
}

/// A record as a reader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    offset: u64,
    stamp: i64,
    key: Text,
    value: Option<Text>,
}

/// Opens stamped batches as a client does: it passes over control batches, and over the records of aborted transactions.
fn consumed(batches: &[(i64, Text)], aborted: &[(i64, u64)]) -> Vec<Seen> {
    let (mut seen, mut skipped) = (Vec::new(), std::collections::BTreeSet::new());
    let mut aborted: VecDeque<(i64, u64)> = aborted.to_vec().into();
    aborted.make_contiguous().sort_by_key(|(_, first)| *first);
    let mut next = 0;
    for (_, batch) in batches {
        let head = Header::read(batch).expect("sound");
        let base = head.base as u64;
        assert!(base >= next, "offsets grow");
        next = base + head.last_delta as u64 + 1;
        while let Some((producer, _)) = aborted.pop_front_if(|(_, first)| *first < next) {
            skipped.insert(producer);
        }
        if head.is_control() {
            if batch::marker_commits(batch) == Some(false) {
                skipped.remove(&head.producer);
            }
            continue;
        }
        if head.is_transactional() && skipped.contains(&head.producer) {
            continue;
        }
        let opened = repack::open(&head, batch).expect("sound");
        let mut rest = &opened[..];
        for _ in 0..head.count {
            let record = repack::next(&mut rest).expect("sound");
            let mut value = Vec::new();
            record.write(0, &mut value);
            seen.push(Seen {
                offset: base + record.offset_delta as u64,
                stamp: head.base_stamp + record.stamp_delta,
                key: record.key.expect("every record has one").to_vec(),
                value: (!record.is_tombstone).then(|| value_of(&value)),
            });
        }
        assert!(rest.is_empty());
    }
    seen
}

/// The value of a record in its stored form whose numbers are short: behind attributes, deltas and key.
fn value_of(stored: &[u8]) -> Text {
    let mut rest = stored;
    batch::zigzag(&mut rest);
    rest = &rest[1..];
    batch::zigzag(&mut rest);
    batch::zigzag(&mut rest);
    let key = batch::zigzag(&mut rest).expect("a key") as usize;
    rest = &rest[key..];
    let length = batch::zigzag(&mut rest).expect("a value") as usize;
    rest[..length].to_vec()
}

const ALWAYS: Cleanable = Cleanable { ratio: 0.0, lag_min_ms: 0, lag_max_ms: u64::MAX };

impl World {
    fn see(&self, offset: u64) -> Vec<Seen> {
        let plan = self.partition().plan(offset, u64::MAX, Isolation::Committed).expect("in range");
        let aborted: Vec<(i64, u64)> = plan.aborted.iter().map(|own: &Aborted| (own.producer, own.first)).collect();
        consumed(&self.read(0, offset, Isolation::Committed).expect("in range"), &aborted)
    }

    /// A pass as the leader makes it, given up after so many of its entries. Returns whether it came to its end.
    fn compact(&mut self, pass: Pass, tombstones_ms: i64, most: usize, mut between: impl FnMut(&mut World)) -> bool {
        let mut work = Work::new(pass, tombstones_ms, 99);
        for _ in 0..most {
            let pieces = match work.step(self.partition()) {
                Step::Read(pieces) => pieces,
                Step::Finish(clean) => {
                    return self.run(&Command::Clean { topic: TOPIC, partition: 0, clean }) == Outcome::Done;
                }
            };
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| self.bytes_of(piece)).collect();
            if let Some(cleaned) = work.take(&bytes, self.now as i64) {
                let command = Command::Clean { topic: TOPIC, partition: 0, clean: cleaned.command() };
                if self.run(&command) != Outcome::Done {
                    return false;
                }
                assert_eq!(self.run(&command).code(), Code::INVALID_REQUEST, "a pass made up before does nothing");
            }
            between(self);
        }
        false
    }
}

#[test]
fn every_compression_opens_to_what_was_closed() {
    let mut rng = base::Rng::new(3);
    for round in 0..300 {
        let value: Vec<u8> = (0..rng.index(70_000)).map(|at| (at / 7) as u8 ^ (rng.next_u64() & 1) as u8).collect();
        let records: &[(&[u8], Option<&[u8]>)] = &[(b"a", Some(&value)), (b"b", None), (b"a", Some(b""))];
        let codec = round % 5;
        let mut batch = keyed(records, 5, NOBODY, false, codec);
        assert!(batch::check(&batch, &batch::Rules::ANY).is_ok());
        let seen = consumed(&[(0, batch.clone())], &[]);
        assert_eq!(
            seen.iter().map(|own| own.value.as_deref()).collect::<Vec<_>>(),
            [Some(&value[..]), None, Some(b"")]
        );
        assert_eq!(crate::compact::keyless(&batch, 9), Ok(Vec::new()));
        // What is damaged is an error or something else, and never more than was allowed.
        for _ in 0..20 {
            let at = 61 + rng.index(batch.len() - 61);
            batch[at] = rng.next_u64() as u8;
            let _ = crate::compact::keyless(&batch, 9);
        }
    }
    let produce = [keyed(&[(b"a", None)], 5, NOBODY, false, 4), example(&[b"v", b"w"], 5, NOBODY, false)].concat();
    assert_eq!(crate::compact::keyless(&produce, 9), Ok(vec![1, 2]));
    assert_eq!(crate::compact::keyless(&produce, 1), Ok(vec![1]));
}

#[test]
fn a_batch_that_opens_to_more_than_it_may_is_refused() {
    let large = vec![0u8; crate::limits::UNPACKED_BYTES_MAX + 1];
    for codec in 1..=4 {
        let mut batch = example(&[b""], 5, NOBODY, false);
        batch[22] |= codec as u8;
        let mut bomb = Vec::new();
        rebuild(&batch, &repack::close(codec as u8, large.clone()), (5, 5), 1, false, &mut bomb);
        assert!(bomb.len() < large.len() / 10);
        assert!(crate::compact::keyless(&bomb, 9).is_err(), "codec {codec}");
    }
}

#[test]
fn the_last_record_of_each_key_stays_where_it_is() {
    let mut world = World::new();
    for (at, key) in [b"a", b"b", b"a", b"c", b"b", b"a"].into_iter().enumerate() {
        let value = [at as u8];
        let batch = keyed(&[(key, Some(&value))], world.now as i64 + at as i64, NOBODY, false, 0);
        world.store(0, &batch, None);
    }
    let pass = world.partition().cleanable(world.now, &ALWAYS).expect("all of it is dirty");
    assert_eq!((pass.start, pass.dirty, pass.end), (0, 0, 5), "the tail stays");
    assert!(world.compact(pass, 1_000, 100, |_| {}));
    let seen = world.see(0);
    assert_eq!(seen.iter().map(|own| own.offset).collect::<Vec<_>>(), [2, 3, 4, 5], "the tail's key is not compared");
    assert_eq!(world.partition().cleanable(world.now, &ALWAYS), None);
    assert_eq!((world.partition().start(), world.partition().high()), (0, 6));
    // From within a gap a reader finds what follows it; times are found as before.
    assert_eq!(world.see(1)[0].offset, 2);
    let piece = world.partition().at_time(world.now as i64 + 3, 6).expect("there is one");
    assert_eq!(batch::find_time(&world.bytes_of(&piece), world.now as i64 + 3), Some((3, world.now as i64 + 3)));
}

#[test]
fn a_range_of_which_nothing_is_left_stays_cleaned_after_a_snapshot() {
    let mut world = World::new();
    for _ in 0..3 {
        world.store(0, &keyed(&[(b"a", Some(b"old"))], world.now as i64, NOBODY, false, 0), None);
    }
    world.snapshot(50);
    world.store(0, &keyed(&[(b"a", None)], world.now as i64, NOBODY, false, 0), None);
    world.store(0, &keyed(&[(b"z", Some(b"tail"))], world.now as i64, NOBODY, false, 0), None);
    let pass = world.partition().cleanable(world.now, &ALWAYS).expect("dirty");
    assert!(world.compact(pass, 1_000, 100, |_| {}));
    assert_eq!(world.see(0).iter().map(|own| own.offset).collect::<Vec<_>>(), [3, 4], "the deletion is seen");
    world.store(0, &keyed(&[(b"z", Some(b"tail"))], world.now as i64, NOBODY, false, 0), None);
    world.now += 1_001;
    let pass = world.partition().cleanable(world.now, &ALWAYS).expect("dirty");
    assert!(world.compact(pass, 1_000, 100, |_| {}));
    assert_eq!(world.see(0).iter().map(|own| own.offset).collect::<Vec<_>>(), [4, 5], "and goes when its time is over");
    for _ in 0..3 {
        world.snapshot(50);
        assert_eq!(world.see(0).iter().map(|own| own.offset).collect::<Vec<_>>(), [4, 5]);
    }
}

/// What was written, as a model sees it.
#[derive(Default)]
struct Model {
    written: BTreeMap<u64, Seen>,
    /// First offset, and offsets, of what each producer has written in the transaction under way.
    open: BTreeMap<i64, Vec<Seen>>,
    /// Deletions, and when a pass first came to its end behind them.
    passed: BTreeMap<u64, Millis>,
    cleaned: u64,
}

const RETENTION_MS: u64 = 400;

fn life(seed: u64, steps: usize) {
    let mut rng = base::Rng::new(seed);
    let mut world = World::new();
    let mut model = Model::default();
    let first = Seen { offset: 0, stamp: world.now as i64, key: b"first".to_vec(), value: Some(b"v".to_vec()) };
    world.store(0, &keyed(&[(&first.key, first.value.as_deref())], first.stamp, NOBODY, false, 0), None);
    model.written.insert(0, first);
    let mut sequences: BTreeMap<i64, i32> = BTreeMap::new();
    // Transactional producers, each with the number of its transaction.
    let mut numbers: BTreeMap<i64, u64> = BTreeMap::new();
    let keys: Vec<Text> = (0..1 + rng.index(12)).map(|at| format!("key{at}").into_bytes()).collect();
    for _ in 0..steps {
        world.now += rng.below(60);
        match rng.below(16) {
            0..=8 => {
                let producer = [-1, 500, 700, 701][rng.index(4)];
                let is_in = producer >= 700;
                let count = 1 + rng.index(4);
                let values: Vec<(Text, Option<Text>)> = (0..count)
                    .map(|_| {
                        let value = rng.chance(4, 5).then(|| vec![b'v'; rng.index(60)]);
                        (keys[rng.index(keys.len())].clone(), value)
                    })
                    .collect();
                let records: Vec<(&[u8], Option<&[u8]>)> =
                    values.iter().map(|(key, value)| (&key[..], value.as_deref())).collect();
                let sequence = sequences.entry(producer).or_insert(0);
                let identity = if producer < 0 { NOBODY } else { (producer, 0, *sequence) };
                let codec = rng.index(5) as i16;
                let batch = keyed(&records, world.now as i64, identity, is_in, codec);
                *sequence += count as i32;
                let entered =
                    is_in.then(|| Entered { number: *numbers.entry(producer).or_insert(1), second_version: false });
                let first = base(&world.store(0, &batch, entered));
                let seen = values.into_iter().enumerate().map(|(at, (key, value))| Seen {
                    offset: first + at as u64,
                    stamp: world.now as i64 + at as i64,
                    key,
                    value,
                });
                if is_in {
                    model.open.entry(producer).or_default().extend(seen);
                } else {
                    model.written.extend(seen.map(|own| (own.offset, own)));
                }
            }
            9..=10 => {
                let producer = 700 + rng.below(2) as i64;
                let (Some(open), commit) = (model.open.remove(&producer), rng.chance(2, 3)) else { continue };
                let number = numbers.get_mut(&producer).expect("it has written");
                let batch = batch::marker(producer, 0, commit, 0, world.now as i64);
                let (place, number_now) = ("orders", *number);
                *number += 1;
                let mark =
                    Command::Mark { topic: TOPIC, place, partition: 0, number: number_now, commit, batch: &batch };
                assert_eq!(world.run(&mark), Outcome::Done);
                if commit {
                    model.written.extend(open.into_iter().map(|own| (own.offset, own)));
                }
            }
            11..=12 => {
                let lag_min_ms = [0, 0, 200][rng.index(3)];
                let when = Cleanable { lag_min_ms, ..ALWAYS };
                let Some(pass) = world.partition().cleanable(world.now, &when) else { continue };
                let (most, chaos) = ([3, 5, 1_000][rng.index(3)], rng.next_u64());
                let mut chaos = base::Rng::new(chaos);
                let over = world.compact(pass, RETENTION_MS as i64, most, |world| match chaos.below(12) {
                    0 => world.snapshot(1 + chaos.index(300)),
                    1 => world.lead(),
                    _ => {}
                });
                if over {
                    model.cleaned = model.cleaned.max(world.partition().cleaned);
                    for own in model.written.values().filter(|own| own.offset < model.cleaned && own.value.is_none()) {
                        model.passed.entry(own.offset).or_insert(world.now);
                    }
                }
            }
            13 if rng.chance(1, 6) => {
                let to = rng.below(world.partition().stable() + 1);
                world.run(&Command::Trim { topic: TOPIC, partition: 0, to });
            }
            14 => world.snapshot(1 + rng.index(300)),
            _ => world.lead(),
        }
        check(seed, &world, &model, &mut rng);
    }
    world.snapshot(100);
    check(seed, &world, &model, &mut rng);
}

fn check(seed: u64, world: &World, model: &Model, rng: &mut base::Rng) {
    let own = world.partition();
    let from = own.start() + rng.below(own.high() - own.start() + 1);
    let from = if rng.chance(1, 2) { own.start() } else { from };
    let mut seen = world.see(from);
    seen.retain(|own| own.offset >= from);
    let stable = own.stable();
    for own in &seen {
        assert_eq!(model.written.get(&own.offset), Some(own), "seed {seed}: nothing but what was written");
    }
    let offsets: std::collections::BTreeSet<u64> = seen.iter().map(|own| own.offset).collect();
    assert_eq!(offsets.len(), seen.len(), "seed {seed}: nothing twice");
    let mut newest: BTreeMap<&[u8], u64> = BTreeMap::new();
    for own in model.written.range(from..stable.max(from)).map(|(_, own)| own) {
        newest.insert(&own.key, own.offset);
        if own.offset >= model.cleaned.max(world.partition().cleaned) && world.partition().cleans == 0 {
            assert!(offsets.contains(&own.offset), "seed {seed}: nothing has gone yet");
        }
    }
    for (_, offset) in newest {
        let is_there = offsets.contains(&offset);
        let deletion = model.written[&offset].value.is_none();
        let since = model.passed.get(&offset).map_or(0, |passed| world.now - passed);
        assert!(is_there || deletion, "seed {seed}: the last record at {offset} is gone");
        assert!(is_there || since > RETENTION_MS, "seed {seed}: the deletion at {offset} went after {since} ms");
    }
    let clean = seen.iter().filter(|own| own.offset < model.cleaned);
    let mut keys: Vec<&Text> = clean.map(|own| &own.key).collect();
    keys.sort();
    let count = keys.len();
    keys.dedup();
    assert_eq!(keys.len(), count, "seed {seed}: below {} each key is there once", model.cleaned);
}

#[test]
fn a_compacted_partition_does_what_its_model_does() {
    for seed in 0..2_000 {
        life(seed, 60);
    }
    for seed in 3_000..3_040 {
        life(seed, 800);
    }
}

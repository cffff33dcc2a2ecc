//! Produce, fetch, offsets by time and epoch, trimming, retention.

use super::*;
use crate::batch::Header;
use crate::limits::WINDOW;

#[test]
fn offsets_follow_each_other_and_a_reader_finds_the_bytes_where_the_rows_say() {
    let mut world = World::new();
    let first = example(&[b"a", b"b", b"c"], 10, NOBODY, false);
    let two = [example(&[b"d"], 11, NOBODY, false), example(&[b"e", b"f"], 12, NOBODY, false)].concat();
    assert_eq!(base(&world.store(0, &first, None)), 0);
    assert_eq!(base(&world.store(0, &two, None)), 3);
    assert_eq!(base(&world.store(1, &first, None)), 0);
    world.lead();
    assert_eq!(base(&world.store(0, &first, None)), 6);
    let seen = |offset| {
        let seen = world.read(0, offset, Isolation::Uncommitted)?;
        Ok(seen.iter().map(|(base, _)| *base).collect::<Vec<_>>())
    };
    assert_eq!(seen(0), Ok(vec![0, 3, 4, 6]));
    // In the middle of a batch: the batch that holds the offset comes whole.
    assert_eq!(seen(1), Ok(vec![0, 3, 4, 6]));
    assert_eq!(seen(5), Ok(vec![4, 6]));
    assert_eq!(seen(8), Ok(vec![6]));
    assert_eq!(seen(9), Ok(vec![]));
    assert_eq!(seen(10), Err(Code::OFFSET_OUT_OF_RANGE));
    let (_, bytes) = &world.read(0, 6, Isolation::Uncommitted).expect("in range")[0];
    let head = Header::read(bytes).expect("sound");
    assert_eq!((head.base, head.epoch), (6, 2));
    assert_eq!(bytes[21..], first[21..], "all that the checksum covers is as it came");
    // The first piece comes however small the reader's buffer.
    let plan = world.partition().plan(0, 1, Isolation::Uncommitted).expect("in range");
    assert_eq!((plan.pieces.len(), plan.bytes as usize, plan.high, plan.stable), (1, first.len(), 9, 9));
    let plan = world.partition().plan(0, (first.len() + two.len()) as u64, Isolation::Uncommitted).expect("in range");
    assert_eq!(plan.pieces.len(), 2);
    world.snapshot(100);
}

#[test]
fn with_the_time_of_append_readers_see_it_and_the_checksum_is_theirs() {
    let mut world = World::new();
    let batches = example(&[b"a"], 5, NOBODY, false);
    let outcome = world.run(&Command::Produce {
        topic: TOPIC,
        place: "orders",
        partition: 0,
        append_time: true,
        transaction: None,
        marks: Vec::new(),
        batches: &batches,
    });
    assert_eq!(outcome, Outcome::Produced { base: 0, stamp: 1_000_000, start: 0, again: false });
    let (_, bytes) = &world.read(0, 0, Isolation::Uncommitted).expect("in range")[0];
    let head = Header::read(bytes).expect("sound");
    assert_eq!(head.max_stamp, 1_000_000);
    assert_eq!(crc32c::crc32c(&bytes[21..]).to_be_bytes(), bytes[17..21]);
    assert_eq!(batch::find_time(bytes, 6), Some((0, 1_000_000)));
}

/// R23: Kafka's `ProducerAppendInfo`, case by case.
#[test]
fn a_producers_batches_are_stored_once_and_in_order() {
    let mut world = World::new();
    let mut send = |sequence: i32, count: usize, epoch: i16| {
        let values = vec![&b"v"[..]; count];
        world.produce(&values, (9, epoch, sequence))
    };
    let out_of_order = Code::OUT_OF_ORDER_SEQUENCE_NUMBER;
    for (at, sequence) in (0..).zip([0, 2, 4, 6, 8, 10]) {
        assert_eq!(base(&send(sequence, 2, 0)), at * 2);
    }
    // The last five come again as they were, each with the offset that it has.
    for (at, sequence) in (1..).zip([2, 4, 6, 8, 10]) {
        assert_eq!(again(&send(sequence, 2, 0)), at * 2);
    }
    assert_eq!(send(0, 2, 0).code(), out_of_order, "the sixth last is no longer known");
    assert_eq!(send(10, 1, 0).code(), out_of_order, "another batch from the same number");
    assert_eq!(send(13, 1, 0).code(), out_of_order, "a gap");
    assert_eq!(base(&send(12, 1, 0)), 12);
    assert_eq!(send(5, 1, 1).code(), out_of_order, "a new epoch begins with 0");
    assert_eq!(base(&send(0, 1, 1)), 13);
    assert_eq!(send(13, 1, 0).code(), Code::INVALID_PRODUCER_EPOCH, "an older epoch");
    assert_eq!(send(12, 1, 0).code(), Code::INVALID_PRODUCER_EPOCH, "even for what was stored");
    assert_eq!(again(&send(0, 1, 1)), 13);
    // Nothing is known of this one: it was silent for a day. Kafka takes any number.
    assert_eq!(base(&world.produce(&[b"x"], (10, 0, 77))), 14);
    assert_eq!(world.produce(&[b"x"], (10, 0, 79)).code(), out_of_order);
    assert_eq!(WINDOW, 5);
}

#[test]
fn sequence_numbers_go_on_with_zero_behind_the_largest() {
    let mut world = World::new();
    assert_eq!(base(&world.produce(&[b"a", b"b"], (9, 0, i32::MAX - 2))), 0);
    assert_eq!(base(&world.produce(&[b"c", b"d"], (9, 0, i32::MAX))), 2);
    assert_eq!(again(&world.produce(&[b"c", b"d"], (9, 0, i32::MAX))), 2);
    assert_eq!(base(&world.produce(&[b"e"], (9, 0, 1))), 4);
}

#[test]
fn what_a_producer_stored_is_known_after_trimming_a_new_leader_and_a_snapshot() {
    let mut world = World::new();
    for sequence in 0..7 {
        world.produce(&[b"v"], (9, 0, sequence));
    }
    world.run(&Command::Trim { topic: TOPIC, partition: 0, to: 7 });
    world.lead();
    world.snapshot(10);
    assert_eq!(world.partition().row_count(), 0);
    assert_eq!(again(&world.produce(&[b"v"], (9, 0, 6))), 6);
    assert_eq!(base(&world.produce(&[b"v"], (9, 0, 7))), 7);
}

#[test]
fn a_silent_producer_is_forgotten_by_a_sweep() {
    let mut world = World::new();
    world.produce(&[b"v"], (9, 0, 0));
    world.now += PRODUCER_SILENT_MS / 2;
    world.produce(&[b"v"], (10, 0, 0));
    assert!(world.queue.is_sweep_due(world.now));
    world.run(&Command::Sweep);
    assert!(!world.queue.is_sweep_due(world.now));
    assert_eq!(world.queue.figures().producers, 2);
    world.now += PRODUCER_SILENT_MS / 2 + 1;
    world.run(&Command::Sweep);
    assert_eq!(world.partition().producers().map(|(id, _)| id).collect::<Vec<_>>(), [10]);
    assert_eq!(base(&world.produce(&[b"v"], (9, 0, 5))), 2);
}

#[test]
fn epochs_tell_where_each_leaders_records_end() {
    let mut world = World::new();
    world.produce(&[b"a", b"b"], NOBODY); // epoch 1: 0..2
    world.lead(); // epoch 2: nothing
    world.lead();
    world.produce(&[b"c"], NOBODY); // epoch 3: 2..3
    world.lead(); // epoch 4: nothing yet
    let own = world.partition();
    let ends: Vec<_> = (0..6).map(|epoch| own.epoch_end(epoch, world.queue.epoch())).collect();
    assert_eq!(ends, [Some((0, 0)), Some((1, 2)), Some((1, 2)), Some((3, 3)), Some((4, 3)), None]);
    assert_eq!(world.queue.check_epoch(3), Err(Code::FENCED_LEADER_EPOCH));
    assert_eq!(world.queue.check_epoch(5), Err(Code::UNKNOWN_LEADER_EPOCH));
    assert_eq!([-1, 4].map(|epoch| world.queue.check_epoch(epoch)), [Ok(()), Ok(())]);
    world.run(&Command::Trim { topic: TOPIC, partition: 0, to: 2 });
    assert_eq!(world.partition().epoch_end(1, 4), Some((1, 2)));
}

#[test]
fn times_are_found_by_run_and_then_by_record() {
    let mut world = World::new();
    for stamp in [100, 300, 200] {
        let batches = example(&[b"a", b"b"], stamp, NOBODY, false);
        world.store(0, &batches, None);
    }
    let at = |target| {
        let piece = world.partition().at_time(target, u64::MAX)?;
        let seen = world.read(0, piece.base, Isolation::Uncommitted).expect("in range");
        batch::find_time(&seen[0].1, target)
    };
    let found = [0, 100, 101, 102, 201, 301, 302].map(at);
    assert_eq!(found[..4], [Some((0, 100)), Some((0, 100)), Some((1, 101)), Some((2, 300))]);
    assert_eq!(found[4..], [Some((2, 300)), Some((3, 301)), None]);
    assert_eq!(world.partition().newest().map(|(piece, stamp)| (piece.base, stamp)), Some((2, 301)));
    assert_eq!(world.partition().at_time(102, 2), None, "what lies behind the last stable offset is not told");
}

#[test]
fn trimming_moves_the_start_to_the_offset_itself() {
    let mut world = World::new();
    for _ in 0..600 {
        world.produce(&[b"a", b"b"], NOBODY);
    }
    let trim = |to| Command::Trim { topic: TOPIC, partition: 0, to };
    assert_eq!(world.run(&trim(7)), Outcome::Trimmed { start: 7 });
    assert_eq!(world.run(&trim(3)), Outcome::Trimmed { start: 7 });
    assert_eq!(world.partition().plan(6, 1, Isolation::Uncommitted), Err(Code::OFFSET_OUT_OF_RANGE));
    assert_eq!(world.read(0, 7, Isolation::Uncommitted).expect("in range")[0].0, 6, "the batch around it comes whole");
    assert_eq!(world.run(&trim(1001)), Outcome::Trimmed { start: 1001 });
    assert_eq!(world.partition().row_count(), 100);
    world.snapshot(64);
    assert_eq!(world.run(&trim(u64::MAX)), Outcome::Trimmed { start: 1200 });
    assert_eq!((world.partition().row_count(), world.partition().bytes()), (0, 0));
    assert_eq!(base(&world.produce(&[b"a"], NOBODY)), 1200);
    let missing = Command::Trim { topic: TOPIC, partition: 5, to: 1 };
    assert_eq!(world.run(&missing), Outcome::Trimmed { start: 0 });
}

#[test]
fn retention_lets_go_by_time_and_by_size_of_deleting_topics_only() {
    let mut world = World::new();
    let make = |settings: &[(&str, &str)]| {
        let mut topics = Topics::default();
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let change = crate::topics::Change::Create { name: "orders".into(), partitions: 1, settings };
        topics.apply(&change, 1, 1);
        topics
    };
    let topic = make(&[]).get("orders").expect("made").id;
    let one = example(&[b"a"], 0, NOBODY, false).len() as u64;
    for second in 0..10 {
        let batches = example(&[b"a"], 1_000_000 + second * 1000, NOBODY, false);
        world.now = 1_000_000 + second as u64 * 1000;
        let (place, append_time, transaction) = ("orders", false, None);
        world.run(&Command::Produce {
            topic,
            place,
            partition: 0,
            append_time,
            transaction,
            marks: Vec::new(),
            batches: &batches,
        });
    }
    let due = |settings: &[(&str, &str)]| world.queue.expired(&make(settings), world.now, 10);
    assert_eq!(due(&[]), []);
    assert_eq!(due(&[("retention.ms", "3000")]), [((topic, 0), 6)], "what is 3000 ms old stays");
    assert_eq!(due(&[("retention.ms", "-1"), ("retention.bytes", &(3 * one).to_string())]), [((topic, 0), 7)]);
    assert_eq!(due(&[("retention.bytes", &(3 * one - 1).to_string())]), [((topic, 0), 7)], "never less than it says");
    assert_eq!(due(&[("retention.ms", "0"), ("cleanup.policy", "compact")]), []);
    assert_eq!(world.queue.expired(&Topics::default(), world.now, 10), [], "a topic that is not known yet keeps all");
    assert_eq!(world.queue.orphans(&Topics::default(), 0), []);
    assert_eq!(world.queue.orphans(&Topics::default(), 1), [topic]);
}

#[test]
fn a_dropped_topic_does_not_come_back_by_a_late_write() {
    let mut world = World::new();
    world.produce(&[b"a"], (9, 0, 0));
    world.run(&Command::Drop { topic: TOPIC });
    assert!(world.queue.partition(TOPIC, 0).is_none());
    assert_eq!(world.produce(&[b"a"], (9, 0, 1)).code(), Code::UNKNOWN_TOPIC_OR_PARTITION);
    world.snapshot(10);
    assert_eq!(world.produce(&[b"a"], (9, 0, 1)).code(), Code::UNKNOWN_TOPIC_OR_PARTITION);
    assert_eq!(world.queue.figures().producers, 0);
}

#[test]
fn what_grew_is_told_once() {
    let mut world = World::new();
    world.queue.take_grown();
    world.produce(&[b"a"], (9, 0, 0));
    world.produce(&[b"a"], (9, 0, 0));
    assert_eq!(world.queue.take_grown(), [(TOPIC, 0)], "a batch that came again is nothing new");
    assert_eq!(world.queue.take_grown(), []);
}

#[test]
fn producer_ids_are_the_shards_own() {
    let mut world = World::new();
    let ids = [0; 3].map(|_| world.run(&Command::InitProducer));
    let of = |counter: i64| Outcome::Producer { id: 3 << 40 | counter, epoch: 0 };
    assert_eq!(ids, [of(0), of(1), of(2)]);
    world.snapshot(10);
    assert_eq!(world.run(&Command::InitProducer), of(3));
}

#[test]
fn beyond_the_bound_those_producers_go_that_were_silent_longest() {
    let mut own = Queue::new(GroupId(1));
    let mut partition = Partition::new("orders");
    let run = |producer| batch::run(&example(&[b"a"], 0, (producer, 0, 0), false)).expect("sound");
    for producer in 0..100 {
        let spot = Spot { index: 1, at: 0, now: 1000 + producer as u64, epoch: 1 };
        partition.produce(&run(producer), false, None, spot);
    }
    own.partitions.insert((TOPIC, 0), Arc::new(partition));
    own.producers = PRODUCERS_MAX - 1;
    own.count_producers(1);
    assert_eq!(own.partitions[&(TOPIC, 0)].producers().count(), 100, "as many as there may be");
    own.count_producers(1);
    // A sixteenth of the bound is more than there are here.
    assert_eq!(own.partitions[&(TOPIC, 0)].producers().count(), 0);
    assert_eq!(own.producers, PRODUCERS_MAX + 1 - 100);
}

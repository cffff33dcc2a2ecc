use super::*;

const NOBODY: (i64, i16, i32) = (-1, -1, -1);

fn reseal(bytes: &mut [u8]) {
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn code(bytes: &[u8], rules: &Rules) -> Code {
    check(bytes, rules).expect_err("must be refused").code
}

#[test]
fn a_batch_is_read_as_it_was_made() {
    let bytes = example(&[b"a", b"bb", b"ccc"], 1000, (7, 2, 40), true);
    let run = check(&bytes, &Rules::ANY).expect("a sound batch");
    assert_eq!((run.count, run.bytes as usize, run.max_stamp), (3, bytes.len(), 1002));
    assert_eq!((run.producer, run.producer_epoch, run.sequence, run.transactional), (7, 2, 40, true));
    let head = Header::read(&bytes).expect("a sound head");
    assert_eq!((head.last_sequence(), head.is_control(), head.compression()), (42, false, 0));
}

/// Kafka's `LogValidator` and `ProduceRequest.validateRecords`, case by case.
#[test]
fn what_a_client_may_not_store_has_kafkas_code() {
    let sound = example(&[b"a", b"b"], 1000, NOBODY, false);
    let changed = |at: usize, with: &[u8]| {
        let mut bytes = sound.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        reseal(&mut bytes);
        bytes
    };
    let cases: Vec<(&str, Vec<u8>, Code)> = vec![
        ("nothing", Vec::new(), Code::INVALID_RECORD),
        ("cut", sound[..sound.len() - 1].to_vec(), Code::CORRUPT_MESSAGE),
        ("bytes behind", [sound.clone(), vec![0; 3]].concat(), Code::CORRUPT_MESSAGE),
        ("magic 0", changed(16, &[0]), Code::UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("magic 1", changed(16, &[1]), Code::UNSUPPORTED_FOR_MESSAGE_FORMAT),
        ("magic 3", changed(16, &[3]), Code::INVALID_RECORD),
        ("negative length", changed(8, &(-1i32).to_be_bytes()), Code::CORRUPT_MESSAGE),
        ("length below the head", changed(8, &10i32.to_be_bytes()), Code::CORRUPT_MESSAGE),
        ("no records", changed(57, &0i32.to_be_bytes()), Code::INVALID_RECORD),
        ("more records than offsets", changed(57, &3i32.to_be_bytes()), Code::INVALID_RECORD),
        ("negative last delta", changed(23, &(-1i32).to_be_bytes()), Code::INVALID_RECORD),
        ("last delta at the end", changed(23, &i32::MAX.to_be_bytes()), Code::INVALID_RECORD),
        ("control", changed(21, &0x20i16.to_be_bytes()), Code::INVALID_RECORD),
        ("unknown codec", changed(21, &5i16.to_be_bytes()), Code::INVALID_RECORD),
        ("time of append", changed(21, &8i16.to_be_bytes()), Code::INVALID_TIMESTAMP),
        ("transactional without producer", changed(21, &0x10i16.to_be_bytes()), Code::INVALID_RECORD),
        ("producer without sequence", changed(43, &9i64.to_be_bytes()), Code::INVALID_RECORD),
    ];
    for (name, bytes, expected) in cases {
        assert_eq!(code(&bytes, &Rules::ANY), expected, "{name}");
    }
    let mut flipped = sound.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    assert_eq!(code(&flipped, &Rules::ANY), Code::CORRUPT_MESSAGE);
    assert_eq!(code(&sound, &Rules { batch_bytes_max: sound.len() - 1, ..Rules::ANY }), Code::MESSAGE_TOO_LARGE);
    assert_eq!(code(&sound, &Rules { stamp_max: 1000, ..Rules::ANY }), Code::INVALID_TIMESTAMP);
    assert_eq!(code(&sound, &Rules { stamp_min: 1001, ..Rules::ANY }), Code::INVALID_TIMESTAMP);
    assert!(check(&sound, &Rules { stamp_max: 0, append_time: true, ..Rules::ANY }).is_ok());
    assert!(check(&changed(21, &4i16.to_be_bytes()), &Rules::ANY).is_ok(), "zstd is opaque");
}

#[test]
fn several_batches_are_one_run_if_they_are_one_producers_in_sequence() {
    let first = example(&[b"a", b"b"], 10, (7, 0, 0), false);
    let second = example(&[b"c"], 5, (7, 0, 2), false);
    let run = check(&[first.clone(), second.clone()].concat(), &Rules::ANY).expect("they follow each other");
    assert_eq!((run.count, run.max_stamp, run.sequence), (3, 11, 0));
    for other in [
        example(&[b"c"], 5, (7, 0, 3), false),
        example(&[b"c"], 5, (8, 0, 2), false),
        example(&[b"c"], 5, (7, 1, 2), false),
        example(&[b"c"], 5, (7, 0, 2), true),
        example(&[b"c"], 5, NOBODY, false),
        marker(7, 0, true, 0, 0),
    ] {
        assert_eq!(code(&[first.clone(), other].concat(), &Rules::ANY), Code::INVALID_RECORD);
    }
    let loose = example(&[b"x"], 0, NOBODY, false);
    assert_eq!(check(&[loose.clone(), loose].concat(), &Rules::ANY).map(|run| run.count), Ok(2));
    assert_eq!(add_sequence(i32::MAX, 1), 0);
    assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
}

#[test]
fn stamping_leaves_the_checksum_sound_and_reaches_every_batch() {
    let one = example(&[b"a", b"b"], 10, NOBODY, false);
    let mut bytes = [one.clone(), one.clone()].concat();
    stamp(&mut bytes, 100, 6, None);
    let (first, second) = bytes.split_at(one.len());
    let heads = [first, second].map(|batch| Header::read(batch).expect("sound"));
    assert_eq!(heads.map(|head| (head.base, head.epoch)), [(100, 6), (102, 6)]);
    assert!(check(&bytes, &Rules::ANY).is_ok());
    stamp(&mut bytes, 100, 7, Some(5555));
    let head = Header::read(&bytes).expect("sound");
    assert_eq!((head.max_stamp, head.epoch, head.attributes & APPEND_TIME), (5555, 7, APPEND_TIME));
    assert_eq!(crc32c::crc32c(&bytes[CRC_FROM..head.bytes]), u32::from_be_bytes(fixed(&bytes, 17)));
}

#[test]
fn a_marker_is_a_batch_of_one_control_record() {
    let bytes = marker(9, 3, false, 12, 777);
    let run = run(&bytes).expect("sound");
    assert_eq!((run.count, run.control, run.transactional, run.producer, run.producer_epoch), (1, true, true, 9, 3));
    assert_eq!(crc32c::crc32c(&bytes[CRC_FROM..]), u32::from_be_bytes(fixed(&bytes, 17)));
    assert_eq!(bytes.len(), 78, "as long as Kafka's own");
    let mut records = &bytes[HEAD_BYTES..];
    let first = crate::repack::next(&mut records).expect("a record");
    assert_eq!((first.stamp_delta, first.offset_delta), (0, 0));
    assert!(records.is_empty());
}

#[test]
fn a_time_is_found_record_by_record_where_records_are_open() {
    let mut bytes = [example(&[b"a", b"b"], 10, NOBODY, false), example(&[b"c", b"d"], 20, NOBODY, false)].concat();
    stamp(&mut bytes, 5, 0, None);
    let found = [9, 10, 11, 12, 20, 21, 22].map(|target| find_time(&bytes, target));
    assert_eq!(found[..4], [Some((5, 10)), Some((5, 10)), Some((6, 11)), Some((7, 20))]);
    assert_eq!(found[4..], [Some((7, 20)), Some((8, 21)), None]);
}

#[test]
fn any_bytes_are_refused_or_taken_never_a_panic() {
    let mut rng = base::Rng::new(11);
    let sound = [example(&[b"a", b"b"], 10, (7, 0, 0), true), example(&[b"c"], 5, (7, 0, 2), true)].concat();
    for _ in 0..30_000 {
        let mut bytes = sound.clone();
        for _ in 0..=rng.below(4) {
            let at = rng.index(bytes.len());
            bytes[at] = rng.next_u64() as u8;
        }
        bytes.truncate(rng.index(bytes.len()) + 1);
        let _ = (check(&bytes, &Rules::ANY), run(&bytes), find_time(&bytes, 7));
        stamp(&mut bytes, 3, 4, Some(5));
    }
}

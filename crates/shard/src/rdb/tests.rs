//! Values there and back, and bytes that nobody should believe.

use base::Rng;
use store::codec::Stored;
use store::value::{End, Hash, List, Pending, Set, Stream, StreamId, Value, Zset};

use super::{Bounds, crc64, dump, is_whole, restore};

const BOUNDS: Bounds = Bounds { string_bytes: 1 << 20, value_bytes: 4 << 20, elements: 100_000 };

fn word(rng: &mut Rng) -> Vec<u8> {
    match rng.index(5) {
        0 => (rng.index(1 << 20) as i64 - (1 << 19)).to_string().into_bytes(),
        1 => (rng.next_u64() as i64).to_string().into_bytes(),
        2 => vec![b'x'; rng.index(200)],
        3 => vec![b'y'; if rng.index(20) == 0 { 20_000 } else { 3 }],
        _ => (0..rng.index(12)).map(|_| rng.index(256) as u8).collect(),
    }
}

fn stream(rng: &mut Rng) -> Stream {
    let mut stream = Stream::default();
    let mut id = StreamId::new(rng.index(1000) as u64, 5);
    for _ in 0..rng.index(300) {
        id = if rng.index(3) == 0 {
            StreamId::new(id.ms + 1 + rng.index(9) as u64, rng.index(3) as u64)
        } else {
            id.next().unwrap()
        };
        let mut words = vec![b"field".to_vec(), word(rng)];
        if rng.index(4) == 0 {
            words.extend([word(rng), word(rng)]);
        }
        stream.log.append(id, &words.iter().map(Vec::as_slice).collect::<Vec<_>>());
        if rng.index(8) == 0 {
            stream.log.delete(id);
        }
    }
    for name in ["g", "h"].into_iter().take(rng.index(3)) {
        let read = (rng.index(2) == 0).then_some(7);
        stream.create_group(name.as_bytes(), StreamId::new(3, 0), read);
        stream.edit_group(name.as_bytes(), |_, group| {
            for consumer in 0..rng.index(4) {
                let (number, _) = group.ensure_consumer(format!("c{consumer}").as_bytes(), 1000);
                match rng.index(3) {
                    0 => {}
                    1 => group.mark_active(number, 1000),
                    _ => group.mark_active(number, 900),
                }
                for _ in 0..rng.index(20) {
                    let id = StreamId::new(rng.index(40) as u64, 1);
                    group.deliver(id, Pending { consumer: number, delivered: 77, count: 3 });
                }
            }
        });
    }
    stream
}

fn value(rng: &mut Rng) -> Value {
    let many = if rng.index(4) == 0 { 400 } else { 20 };
    let count = 1 + rng.index(many);
    match rng.index(7) {
        0 => Value::from(word(rng)),
        1 => {
            let mut list = List::default();
            (0..count).for_each(|_| list.push(End::Tail, &word(rng)));
            Value::List(Box::new(list))
        }
        2 => {
            let mut hash = Hash::default();
            (0..count).for_each(|_| _ = hash.insert(&word(rng), &word(rng)));
            Value::Hash(Box::new(hash))
        }
        3 => {
            let mut set = Set::default();
            (0..count).for_each(|_| _ = set.insert(&word(rng)));
            Value::Set(Box::new(set))
        }
        4 => {
            let mut set = Set::default();
            let scale = 1 << rng.index(40);
            (0..count).for_each(|_| {
                let number = (rng.index(1000) as i64 - 500) * scale;
                set.insert(number.to_string().as_bytes());
            });
            Value::Set(Box::new(set))
        }
        5 => {
            let mut zset = Zset::new();
            (0..count).for_each(|at| {
                let score = [0.1 * at as f64, -1e300, f64::INFINITY, at as f64][rng.index(4)];
                zset.insert(&word(rng), score);
            });
            Value::Zset(Box::new(zset))
        }
        _ => Value::Stream(Box::new(stream(rng))),
    }
}

/// What a value holds, in an order that does not depend on how it came about.
fn contents(value: &Value) -> String {
    match value {
        Value::Hash(hash) => {
            let mut pairs: Vec<_> = hash.iter().collect();
            pairs.sort();
            format!("{pairs:?}")
        }
        Value::Set(set) => {
            let mut members: Vec<Vec<u8>> = set.iter().map(|member| member.to_vec()).collect();
            members.sort();
            format!("{members:?}")
        }
        Value::Zset(zset) => format!("{:?}", zset.iter().collect::<Vec<_>>()),
        Value::List(list) => format!("{:?}", list.iter().collect::<Vec<_>>()),
        Value::Str(text) => format!("{text:?}"),
        Value::Stream(stream) => {
            let log = &stream.log;
            let entries: Vec<_> = log
                .range(StreamId::MIN, StreamId::MAX)
                .map(|entry| (entry.id, entry.fields().map(|(f, v)| (f.to_vec(), v.to_vec())).collect::<Vec<_>>()))
                .collect();
            let groups: Vec<_> = stream
                .groups()
                .map(|(name, group)| {
                    let pending: Vec<_> = group
                        .pending_from(StreamId::MIN)
                        .map(|(id, one)| (id, group.consumer(one.consumer).name.clone(), one.delivered, one.count))
                        .collect();
                    let consumers: Vec<_> =
                        group.consumers().map(|one| (one.name.clone(), one.seen, one.active)).collect();
                    (name, group.last_id, group.entries_read, pending, consumers)
                })
                .collect();
            let ids = (log.first_id(), log.last_id(), log.max_deleted_id(), log.entries_added(), log.len());
            format!("{entries:?} {ids:?} {groups:?}")
        }
    }
}

#[test]
fn every_value_comes_back_as_it_was() {
    let mut rng = Rng::new(1);
    for _ in 0..700 {
        let value = value(&mut rng);
        let payload = dump(value.view());
        assert!(is_whole(&payload));
        let back = restore(&payload, BOUNDS).unwrap_or_else(|error| panic!("{error:?}"));
        assert_eq!(contents(&back), contents(&value));
        // A stream's deleted entries leave holes in its blocks, which do not come along.
        if !matches!(value, Value::Stream(_)) {
            assert_eq!(back.heap_bytes(), value.heap_bytes(), "{}", value.view().type_name());
        }
    }
}

/// Payloads that a Redis 7.0.15 made.
#[test]
fn what_redis_wrote_is_read() {
    for line in include_str!("redis.golden").lines() {
        let (name, hex) = line.split_once(' ').unwrap();
        let payload: Vec<u8> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect();
        assert!(is_whole(&payload), "{name}");
        let value = restore(&payload, BOUNDS).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        assert_eq!(value.view().type_name(), name.split('-').next().unwrap());
        let again = restore(&dump(value.view()), BOUNDS).unwrap();
        assert_eq!(contents(&again), contents(&value), "{name}");
    }
}

#[test]
fn no_bytes_do_harm() {
    let mut rng = Rng::new(2);
    let mut refused = 0;
    for _ in 0..8_000 {
        let mut payload = dump(value(&mut rng).view());
        payload.truncate(payload.len() - 8);
        for _ in 0..=rng.index(4) {
            let body = payload.len() - 2;
            let at = rng.index(body);
            match rng.index(6) {
                0 => payload[at] = rng.index(256) as u8,
                1 => payload[at] ^= 1 << rng.index(8),
                2 => payload[at] = [0, 0x7F, 0x80, 0x81, 0xC3, 0xFF][rng.index(6)],
                3 => _ = payload.remove(at),
                4 => payload.insert(at, rng.index(256) as u8),
                _ => payload[0] = rng.index(26) as u8,
            }
            if payload.len() < 3 {
                break;
            }
        }
        let sum = crc64(0, &payload);
        payload.extend_from_slice(&sum.to_le_bytes());
        match restore(&payload, BOUNDS) {
            Ok(value) => {
                // Whatever was taken in must be a sound value.
                let mut stored = Vec::new();
                value.encode(&mut stored);
                let again = Value::decode(&mut store::codec::Input::new(&stored)).expect("a sound value");
                assert_eq!(contents(&again), contents(&value));
                let again = restore(&dump(value.view()), Bounds { elements: usize::MAX, ..BOUNDS }).unwrap();
                assert_eq!(contents(&again), contents(&value));
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 2_000, "{refused}");
}

#[test]
fn what_it_claims_is_not_what_it_gets() {
    let sealed = |body: &[u8]| {
        let mut payload = body.to_vec();
        payload.extend_from_slice(&11u16.to_le_bytes());
        let sum = crc64(0, &payload);
        payload.extend_from_slice(&sum.to_le_bytes());
        payload
    };
    for body in [
        // A string of 4 GiB, of 2^63 bytes; a list of 2^32 strings; compressed zeros of a gigabyte.
        &b"\x00\x80\xff\xff\xff\xffa"[..],
        b"\x00\x81\x7f\xff\xff\xff\xff\xff\xff\xffa",
        b"\x01\x80\xff\xff\xff\xffa",
        b"\x00\xc3\x05\x80\x40\x00\x00\x00\x00a\xe0\xff\x00",
        b"\x0b\x0a\x08\x00\x00\x00\xff\xff\xff\x1fab",
        b"\x10\x07\x07\x00\x00\x00\xff\xff\xff",
        b"\x01\x00",
        b"\x06\x00",
        b"",
    ] {
        let payload = sealed(body);
        assert!(is_whole(&payload));
        assert!(restore(&payload, BOUNDS).is_err(), "{body:?}");
    }
    let mut newer = sealed(b"\x00\x01a");
    newer[3] = 12;
    assert!(!is_whole(&newer) && !is_whole(b"") && !is_whole(&[0; 9]));
}

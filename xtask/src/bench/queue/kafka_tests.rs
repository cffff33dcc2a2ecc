//! Golden bytes, as kafka-python 3.0.12 writes them (an independent client, generated from Kafka's own message definitions).

use super::*;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
    digits.chunks(2).map(|pair| byte(pair).expect("two digits")).collect()
}

const BODY: &[u8] = b"hello queue";
const STAMP: i64 = 1_700_000_000_123;

/// Three records, in a request that produces them.
const PRODUCE_V7: &str = "0000009d0000000700000001000562656e6368ffffffff000075300000000100017400000001000000020000007300000000\
     0000000000000067000000000209ba0dce0000000000020000018bcfe5687b0000018bcfe5687bffffffffffffffffffffff\
     ffffff0000000322000000011668656c6c6f2071756575650022000002011668656c6c6f2071756575650022000004011668\
     656c6c6f20717565756500";
/// The same records, from offset 0 on.
const FETCH_RESPONSE_V11: &str = "0000000000000000000000000001000174000000010000000200000000000000000003000000000000000300000000000000\
     00ffffffffffffffff00000073000000000000000000000067000000000209ba0dce0000000000020000018bcfe5687b0000\
     018bcfe5687bffffffffffffffffffffffffffff0000000322000000011668656c6c6f207175657565002200000201166865\
     6c6c6f2071756575650022000004011668656c6c6f20717565756500";
/// Partition 1 is led by node 3, partition 0 by node 1.
const METADATA_RESPONSE_V4: &str = "00000000000000020000000100093132372e302e302e3100002384ffff0000000300093132372e302e302e31000023860001\
     7a00016300000001000000010000000174000000000200000000000100000003000000020000000100000003000000010000\
     0003000000000000000000010000000200000001000000030000000100000003";
const FETCH_V11: &str = "000000550001000b00000001000562656e6368ffffffff000001f400000001010000000000000000ffffffff000000010001\
     740000000100000002ffffffff0000000000000003ffffffffffffffff00400000000000000000";
const CREATE_TOPICS_V2: &str =
    "000000290013000200000001000562656e63680000000100017400000010000300000000000000000000271000";

/// Bytes of the request above in front of the batch.
const BEFORE_BATCH: usize = 46;

#[test]
fn a_request_to_produce() {
    let mut request = produce_request(Out::request(PRODUCE, 1, "bench"), "t", 2, 3, BODY, STAMP);
    let mut wanted = hex(PRODUCE_V7);
    // Both say that they do not know the leader's epoch, which no checksum covers: -1 as Java does, 0.
    wanted[BEFORE_BATCH + 12..BEFORE_BATCH + 16].fill(0xff);
    assert_eq!(request.done(), wanted);
}

#[test]
fn a_request_to_fetch() {
    assert_eq!(fetch_request(Out::request(FETCH, 1, "bench"), "t", &[(2, 3)]).done(), with_limit(hex(FETCH_V11)));
}

/// The golden request's limits, 16 and 4 MiB, replaced by ours.
fn with_limit(mut request: Vec<u8>) -> Vec<u8> {
    let (whole, each) = ((16i32 << 20).to_be_bytes(), (4i32 << 20).to_be_bytes());
    for (theirs, ours) in [(whole, FETCH_BYTES.to_be_bytes()), (each, PARTITION_FETCH_BYTES.to_be_bytes())] {
        let at = request.windows(4).position(|four| four == theirs).expect("the limit");
        request[at..at + 4].copy_from_slice(&ours);
    }
    request
}

#[test]
fn a_request_for_a_topic() {
    let topic = Topic { name: "t".into(), partitions: 16, bytes: 100 };
    assert_eq!(create_request(Out::request(CREATE_TOPICS, 1, "bench"), &topic, 3).done(), hex(CREATE_TOPICS_V2));
}

#[test]
fn leaders_are_found() {
    let answer = hex(METADATA_RESPONSE_V4);
    let wanted = ["127.0.0.1:9092", "127.0.0.1:9094"].map(str::to_owned);
    assert_eq!(read_leaders(In(&answer), 2).as_deref(), Ok(&wanted[..]));
    assert!(read_leaders(In(&answer), 3).is_err(), "the third has none");
    assert!(read_leaders(In(&answer[..90]), 2).is_err(), "it ends too early");
}

#[test]
fn what_was_fetched_is_shown_from_the_wanted_offset_on() {
    let answer = hex(FETCH_RESPONSE_V11);
    for (from, count) in [(0, 3), (2, 1)] {
        let mut next = [(2, from)];
        let got = read_fetched(In(&answer), &mut next).expect("an answer");
        assert_eq!(next, [(2, 3)]);
        let [(start, end, at)] = got[..] else { panic!("one partition") };
        assert_eq!((at, end), (from, 0));
        let records = &answer[answer.len() - start..];
        let mut seen = 0;
        let shown = show(records, at, &mut |value| {
            assert_eq!(value, BODY);
            seen += 1;
        });
        assert_eq!((shown, seen), (Ok(()), count));
        // A batch that is cut off is left for the next answer.
        assert_eq!(next_offset(&records[..records.len() - 1]), Ok(None));
    }
}

#[test]
fn varints() {
    for number in [0, -1, 1, 63, -64, 64, 8191, 8192, 1 << 40, i64::from(i32::MIN)] {
        let mut out = Vec::new();
        put_varint(&mut out, number);
        assert_eq!((out.len(), In(&out).varint()), (varint_len(number), Ok(number)));
    }
}

//! Files are made here of payloads that a real Redis gave (`redis.golden`); files of a real one are read by `cargo xtask transfer`.

use base::Rng;

use super::super::{Bounds, is_whole, restore};
use super::{Broken, FileBounds, Item, NoPayload, Reader, Writer};

const BOUNDS: FileBounds = FileBounds { record_bytes: 1 << 20, skips_modules: false };

/// Names and payloads of every type and form.
fn payloads() -> Vec<(String, Vec<u8>)> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
    let lines = include_str!("../redis.golden").lines().filter_map(|line| line.split_once(' '));
    let lines = lines.filter_map(|(name, hex)| {
        let hex = hex.split(' ').next()?;
        let payload: Vec<u8> = hex.as_bytes().chunks_exact(2).map(byte).collect();
        is_whole(&payload).then(|| (name.to_owned(), payload))
    });
    lines.collect()
}

fn file(payloads: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut writer, mut out) = (Writer::default(), Vec::new());
    writer.begin(&mut out);
    writer.aux(b"redis-ver", b"7.2.0", &mut out);
    writer.functions(b"#!lua name=l\nredis.register_function('f', function() return 1 end)", &mut out);
    for (nth, (name, payload)) in payloads.iter().enumerate() {
        let expiry = (nth % 3 == 0).then_some(1_900_000_000_000 + nth as u64);
        writer.key(nth as u64 % 2 * 3, name.as_bytes(), expiry, payload, &mut out).expect("payloads");
    }
    if let Some(header) = writer.end(&mut out) {
        out[..9].copy_from_slice(&header);
    }
    out
}

/// All items of a file that comes in pieces of this size.
fn read(bytes: &[u8], piece: usize, bounds: FileBounds) -> Result<Vec<Item>, Broken> {
    let (mut reader, mut items) = (Reader::new(bounds), Vec::new());
    for piece in bytes.chunks(piece) {
        reader.feed(piece);
        while let Some(item) = reader.item()? {
            let is_end = item == Item::End;
            items.push(item);
            if is_end {
                return Ok(items);
            }
        }
    }
    Ok(items)
}

#[test]
fn what_is_written_is_read_whatever_the_pieces() {
    let payloads = payloads();
    assert!(payloads.len() > 10, "the golden payloads are read");
    let bytes = file(&payloads);
    let items = read(&bytes, bytes.len(), BOUNDS).expect("sound");
    assert_eq!(items.last(), Some(&Item::End));
    let mut found = Vec::new();
    for item in &items {
        if let Item::Key { db, expiry, key, payload } = item {
            assert!(is_whole(payload), "its checksum is right");
            let nth = found.len();
            assert_eq!((*db, expiry.is_some()), (nth as u64 % 2 * 3, nth % 3 == 0));
            found.push((String::from_utf8(key.clone()).expect("text"), payload.clone()));
        }
    }
    assert_eq!(found.len(), payloads.len());
    for ((name, payload), (wanted_name, wanted)) in found.iter().zip(&payloads) {
        assert_eq!(name, wanted_name);
        // But for the version, which is the newest one here.
        assert_eq!(payload[..payload.len() - 10], wanted[..wanted.len() - 10], "{name}");
        let bounds = Bounds { string_bytes: 1 << 20, value_bytes: 1 << 20, elements: 1 << 20 };
        assert!(restore(payload, bounds).is_ok(), "{name}");
    }
    assert!(items.contains(&Item::Aux(b"redis-ver".to_vec(), b"7.2.0".to_vec())));
    assert!(items.iter().any(|item| matches!(item, Item::Functions(source) if source.starts_with(b"#!lua"))));
    for piece in [1, 2, 3, 7, 64, 1000] {
        assert_eq!(read(&bytes, piece, BOUNDS).as_ref(), Ok(&items), "in pieces of {piece}");
    }
}

#[test]
fn what_lies_behind_the_end_is_left() {
    let mut bytes = file(&payloads());
    let len = bytes.len();
    bytes.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
    let mut reader = Reader::new(BOUNDS);
    reader.feed(&bytes);
    while reader.item().expect("sound") != Some(Item::End) {}
    assert_eq!(reader.position(), len as u64);
    assert_eq!(reader.rest(), b"*1\r\n$4\r\nPING\r\n");
}

fn broken(bytes: &[u8]) -> String {
    read(bytes, bytes.len().max(1), BOUNDS).expect_err("it is broken").to_string()
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    assert_eq!(broken(b"hello"), "at byte 0: this is no RDB file: it does not begin with REDIS");
    assert_eq!(broken(b"REDIS00x1"), "at byte 0: this is no RDB file: its version is no number");
    assert!(broken(b"REDIS0012").starts_with("at byte 0: an RDB file of version 12; versions 1 to 11 are read"));
    assert_eq!(broken(b"REDIS0011\x63"), "at byte 9: 99 is no type that Redis 7.2 writes");
    assert!(broken(b"REDIS0011\xf6").contains("release candidate"));
    assert_eq!(broken(b"REDIS0011\x00\x01k\xff"), "at byte 12: a string of no known form, in a record of the key 'k'");
    // One of 4 GB that is only announced is not waited for.
    assert!(
        broken(b"REDIS0011\x00\x01k\x80\xff\xff\xff\xff")
            .contains("a record of the key 'k' of more than 1048576 bytes")
    );
    let mut bytes = file(&[]);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert!(broken(&bytes).contains("checksum"));
    // Without one it is believed, as Redis does.
    bytes[last - 7..].fill(0);
    assert!(read(&bytes, 100, BOUNDS).is_ok());
    assert_eq!(Writer::default().key(0, b"k", None, b"short", &mut Vec::new()), Err(NoPayload));
}

/// `module-aux` and a value of RedisJSON's, as their forms are.
#[test]
fn modules_are_left_out_by_name_or_refused() {
    // "ReJSON-RL", version 3.
    let id: u64 = "ReJSON-RL".bytes().fold(0, |id, letter| {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        id << 6 | LETTERS.iter().position(|known| *known == letter).expect("a letter") as u64
    }) << 10
        | 3;
    let mut bytes = b"REDIS0011".to_vec();
    let put = |bytes: &mut Vec<u8>| {
        bytes.push(0x81);
        bytes.extend_from_slice(&id.to_be_bytes());
    };
    bytes.push(247);
    put(&mut bytes);
    bytes.extend_from_slice(&[2, 2, 0]);
    bytes.extend_from_slice(&[7, 1, b'k']);
    put(&mut bytes);
    bytes.extend_from_slice(&[5, 2, b'{', b'}', 2, 9, 3, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0]);
    bytes.extend_from_slice(&[0, 1, b'a', 1, b'b', 255, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(broken(&bytes).contains("the key 'k', a value of the module ReJSON-RL"), "{}", broken(&bytes));
    for piece in [1, 5, 1000] {
        let items = read(&bytes, piece, FileBounds { skips_modules: true, ..BOUNDS }).expect("left out");
        assert_eq!(items.len(), 4, "{items:?}");
        assert_eq!(items[1], Item::Left("the key 'k', a value of the module ReJSON-RL".into()));
        assert!(matches!(&items[2], Item::Key { key, .. } if key == b"a"));
    }
}

/// Files with bytes changed, taken away, put in, cut off: an error or other keys, never a panic, and never more memory than the bound.
#[test]
fn damaged_files_never_panic() {
    let sound = file(&payloads());
    let mut rng = Rng::new(8);
    let bounds = FileBounds { record_bytes: 1 << 16, skips_modules: true };
    for _ in 0..3_000 {
        let mut bytes = sound.clone();
        for _ in 0..=rng.below(4) {
            let at = rng.index(bytes.len());
            match rng.below(4) {
                0 => bytes[at] = rng.next_u64() as u8,
                1 => bytes[at] ^= 1 << rng.below(8),
                2 => bytes.truncate(at.max(10)),
                _ => bytes.insert(at, rng.next_u64() as u8),
            }
        }
        let piece = rng.index(5_000) + 1;
        if let Ok(items) = read(&bytes, piece, bounds) {
            for item in items {
                if let Item::Key { payload, .. } = item {
                    assert!(payload.len() <= bounds.record_bytes + 16);
                    let bounds = Bounds { string_bytes: 1 << 16, value_bytes: 1 << 16, elements: 1 << 16 };
                    let _ = restore(&payload, bounds);
                }
            }
        }
    }
}

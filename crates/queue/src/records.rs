//! The records inside of batches: read for who wants fields instead of bytes (the Redis door), and written one at a time.
//!
//! ```text
//!   record   length  attributes:i8  timestamp delta  offset delta  key  value  headers: count (name value)*
//! ```
//!
//! Lengths and deltas are zigzag varints, -1 is null (<https://kafka.apache.org/documentation/#record>). All compressions of
//! Kafka are read: gzip, snappy (in the frames of snappy-java, or raw), LZ4 frames, Zstandard. What a batch says of itself is a
//! stranger's word: nothing is taken in advance, and no batch unfolds to more than [`UNPACKED_BYTES_MAX`].

use std::io::Read;

use crate::batch::{HEAD_BYTES, Header, put_zigzag, seal, zigzag};
use crate::limits::UNPACKED_BYTES_MAX;
use crate::partition::Aborted;

/// One record. A header's value may be null.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record<'a> {
    /// Its offset.
    pub offset: u64,
    /// Its timestamp, milliseconds.
    pub stamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers, in order.
    pub headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

/// Why records cannot be read: their producer packed them wrongly, or too tightly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable(pub &'static str);

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

fn put_some(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put_zigzag(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put_zigzag(out, -1),
    }
}

/// A batch of this one record, as a producer without an id would send it. The record's offset is left open.
pub fn batch_of(record: &Record<'_>) -> Vec<u8> {
    let mut body = vec![0, 0, 0];
    put_some(&mut body, record.key);
    put_some(&mut body, record.value);
    put_zigzag(&mut body, record.headers.len() as i64);
    for (name, value) in &record.headers {
        put_some(&mut body, Some(name));
        put_some(&mut body, *value);
    }
    let mut bytes = vec![0; HEAD_BYTES];
    put_zigzag(&mut bytes, body.len() as i64);
    bytes.extend_from_slice(&body);
    bytes[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    bytes[27..35].copy_from_slice(&record.stamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&record.stamp.to_be_bytes());
    bytes[43..57].fill(0xFF);
    bytes[57..61].copy_from_slice(&1i32.to_be_bytes());
    seal(&mut bytes);
    bytes
}

/// Shows every record of stamped batches, in order, that a reader of committed records sees: no markers, and nothing of the
/// transactions in `aborted`.
///
/// # Errors
/// Where a batch cannot be read. What came before it has been shown.
pub fn visit(bytes: &[u8], aborted: &[Aborted], mut show: impl FnMut(&Record<'_>)) -> Result<(), Unreadable> {
    let mut rest = bytes;
    while let Ok(head) = Header::read(rest) {
        let (batch, behind) = rest.split_at(head.bytes);
        rest = behind;
        let base = head.base.unsigned_abs();
        let is_aborted = |own: &Aborted| own.producer == head.producer && (own.first..=own.last).contains(&base);
        if head.is_control() || head.is_transactional() && aborted.iter().any(is_aborted) {
            continue;
        }
        let unpacked;
        let records = match head.compression() {
            0 => &batch[HEAD_BYTES..],
            packing => {
                unpacked = unpack(packing, &batch[HEAD_BYTES..])?;
                &unpacked[..]
            }
        };
        each(&head, records, &mut show)?;
    }
    Ok(())
}

const BROKEN: Unreadable = Unreadable("a record breaks off");

fn each(head: &Header, mut records: &[u8], show: &mut impl FnMut(&Record<'_>)) -> Result<(), Unreadable> {
    for _ in 0..head.count {
        let length = usize::try_from(zigzag(&mut records).ok_or(BROKEN)?).map_err(|_| BROKEN)?;
        let (record, behind) = records.split_at_checked(length).ok_or(BROKEN)?;
        records = behind;
        let record = read(head, record).ok_or(BROKEN)?;
        show(&record);
    }
    Ok(())
}

fn some<'a>(bytes: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = zigzag(bytes)?;
    if length < 0 {
        return Some(None);
    }
    let (some, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(Some(some))
}

fn read<'a>(head: &Header, bytes: &'a [u8]) -> Option<Record<'a>> {
    let mut rest = bytes.get(1..)?;
    let stamp = head.base_stamp.saturating_add(zigzag(&mut rest)?);
    let offset = u64::try_from(head.base.checked_add(zigzag(&mut rest)?)?).ok()?;
    let (key, value) = (some(&mut rest)?, some(&mut rest)?);
    let count = usize::try_from(zigzag(&mut rest)?).ok()?;
    let mut headers = Vec::new();
    for _ in 0..count {
        headers.push((some(&mut rest)??, some(&mut rest)?));
    }
    let stamp = if head.is_append_time() { head.max_stamp } else { stamp };
    Some(Record { offset, stamp, key, value, headers })
}

/// What a batch's records are without their compression.
///
/// # Errors
/// What is wrong with it.
pub fn unpack(packing: u8, bytes: &[u8]) -> Result<Vec<u8>, Unreadable> {
    match packing {
        1 => all(flate2::read::MultiGzDecoder::new(bytes), "gzip"),
        2 => unpack_snappy(bytes),
        3 => all(lz4_flex::frame::FrameDecoder::new(bytes), "lz4"),
        4 => {
            let wrong = |_| Unreadable("a batch's records are no zstd");
            all(ruzstd::decoding::StreamingDecoder::new(bytes).map_err(wrong)?, "zstd")
        }
        _ => Err(Unreadable("an unknown compression")),
    }
}

const TOO_LARGE: Unreadable = Unreadable("a batch's records unfold to more than 64 MiB");

fn all(from: impl Read, packing: &'static str) -> Result<Vec<u8>, Unreadable> {
    let mut out = Vec::new();
    let read = from.take(UNPACKED_BYTES_MAX as u64 + 1).read_to_end(&mut out);
    if out.len() > UNPACKED_BYTES_MAX {
        return Err(TOO_LARGE);
    }
    read.map_err(|_| match packing {
        "gzip" => Unreadable("a batch's records are no gzip"),
        "lz4" => Unreadable("a batch's records are no LZ4 frame"),
        _ => Unreadable("a batch's records are no zstd"),
    })?;
    Ok(out)
}

/// What snappy-java writes before its blocks; then follow two versions.
const XERIAL: &[u8] = b"\x82SNAPPY\0";

fn unpack_snappy(bytes: &[u8]) -> Result<Vec<u8>, Unreadable> {
    const WRONG: Unreadable = Unreadable("a batch's records are no snappy");
    let mut out = Vec::new();
    let mut block = |bytes: &[u8]| {
        // The length that it claims is at most 64 times what is there: no promise without bytes is believed.
        let length = snap::raw::decompress_len(bytes).map_err(|_| WRONG)?;
        if out.len() + length > UNPACKED_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        if length / 64 > bytes.len() {
            return Err(WRONG);
        }
        let begin = out.len();
        out.resize(begin + length, 0);
        let written = snap::raw::Decoder::new().decompress(bytes, &mut out[begin..]).map_err(|_| WRONG)?;
        out.truncate(begin + written);
        Ok(())
    };
    let Some(blocks) = bytes.strip_prefix(XERIAL) else {
        block(bytes)?;
        return Ok(out);
    };
    let mut rest = blocks.get(8..).ok_or(WRONG)?;
    while let Some((length, behind)) = rest.split_first_chunk::<4>() {
        let (own, behind) = behind.split_at_checked(u32::from_be_bytes(*length) as usize).ok_or(WRONG)?;
        block(own)?;
        rest = behind;
    }
    Ok(out)
}

/// The partition of a key as Kafka's own clients choose it (`DefaultPartitioner`): murmur2, positive, modulo.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key) & 0x7FFF_FFFF) % partitions.max(1)
}

/// MurmurHash2, 32 bits, with the seed that Kafka's clients share.
fn murmur2(bytes: &[u8]) -> u32 {
    const MIX: u32 = 0x5BD1_E995;
    let mut hash = 0x9747_B28C ^ bytes.len() as u32;
    let mut words = bytes.chunks_exact(4);
    for word in &mut words {
        let mut word = u32::from_le_bytes(word.try_into().expect("chunks of four")).wrapping_mul(MIX);
        word = (word ^ word >> 24).wrapping_mul(MIX);
        hash = hash.wrapping_mul(MIX) ^ word;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |last, byte| last << 8 | u32::from(*byte));
        hash = (hash ^ last).wrapping_mul(MIX);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(MIX);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::batch::{self, Rules};

    #[test]
    fn keys_go_where_kafkas_clients_send_them() {
        // Kafka's own cases (UtilsTest.testMurmur2), as signed numbers.
        let cases: [(&[u8], i32); 7] = [
            (b"21", -973932308),
            (b"foobar", -790332482),
            (b"a-little-bit-long-string", -985981536),
            (b"a-little-bit-longer-string", -1486304829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
            (b"abc", 479470107),
            (b"", 275646681),
        ];
        for (key, hash) in cases {
            assert_eq!(murmur2(key) as i32, hash, "{}", String::from_utf8_lossy(key));
        }
    }

    fn repacked(batch: &[u8], packing: u8, records: &[u8]) -> Vec<u8> {
        let mut out = batch[..HEAD_BYTES].to_vec();
        out[22] |= packing;
        out.extend_from_slice(records);
        seal(&mut out);
        out
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).expect("it goes into memory");
        writer.finish().expect("it goes into memory")
    }

    fn lz4(bytes: &[u8]) -> Vec<u8> {
        let mut writer = lz4_flex::frame::FrameEncoder::new(Vec::new());
        writer.write_all(bytes).expect("it goes into memory");
        writer.finish().expect("it goes into memory")
    }

    fn snappy(bytes: &[u8]) -> Vec<u8> {
        snap::raw::Encoder::new().compress_vec(bytes).expect("it is short")
    }

    fn xerial(bytes: &[u8]) -> Vec<u8> {
        let mut out = [XERIAL, &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
        for block in bytes.chunks(7) {
            let block = snappy(block);
            out.extend_from_slice(&(block.len() as u32).to_be_bytes());
            out.extend_from_slice(&block);
        }
        out
    }

    fn zstd(bytes: &[u8]) -> Vec<u8> {
        ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
    }

    type Seen = (u64, i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(Vec<u8>, Option<Vec<u8>>)>);

    fn seen(bytes: &[u8]) -> Vec<Seen> {
        let mut all = Vec::new();
        let own = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let show = |record: &Record<'_>| {
            let headers = record.headers.iter().map(|(name, value)| (name.to_vec(), own(*value))).collect();
            all.push((record.offset, record.stamp, own(record.key), own(record.value), headers));
        };
        visit(bytes, &[], show).expect("it is sound");
        all
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was_written_whatever_packs_it(
            key in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
            headers in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..9), proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9))), 0..4),
            stamp in 0i64..1 << 45,
            base in 0u64..1 << 50,
        ) {
            let record = Record {
                offset: 0, stamp, key: key.as_deref(), value: value.as_deref(),
                headers: headers.iter().map(|(name, value)| (&name[..], value.as_deref())).collect(),
            };
            let plain = batch_of(&record);
            prop_assert!(batch::check(&plain, &Rules::ANY).is_ok(), "a producer's batch is taken");
            let records = &plain[HEAD_BYTES..];
            let forms = [
                plain.clone(), repacked(&plain, 1, &gzip(records)), repacked(&plain, 2, &snappy(records)),
                repacked(&plain, 2, &xerial(records)), repacked(&plain, 3, &lz4(records)), repacked(&plain, 4, &zstd(records)),
            ];
            for mut form in forms {
                batch::stamp(&mut form, base, 0, None);
                prop_assert_eq!(seen(&form), vec![(base, stamp, key.clone(), value.clone(), headers.clone())]);
            }
        }

        #[test]
        fn damage_is_an_error_and_no_more(packing in 0u8..8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(packing, &bytes);
            let batch = repacked(&batch_of(&Record::default()), packing, &bytes);
            let _ = visit(&batch, &[], |_| {});
        }
    }

    #[test]
    fn what_unfolds_without_end_is_refused() {
        let bomb = gzip(&vec![0; UNPACKED_BYTES_MAX + 1]);
        assert_eq!(unpack(1, &bomb), Err(TOO_LARGE));
        // Snappy says its length first: a lie costs nothing.
        assert!(unpack(2, &[0xFF, 0xFF, 0xFF, 0x1F, 0]).is_err());
    }

    #[test]
    fn markers_and_what_was_aborted_are_not_shown() {
        let mut bytes = batch::example(&[b"open"], 5, (-1, -1, -1), false);
        bytes.extend(batch::example(&[b"torn"], 6, (9, 0, 0), true));
        bytes.extend(batch::marker(9, 0, false, 1, 7));
        bytes.extend(batch::example(&[b"kept"], 8, (9, 0, 1), true));
        bytes.extend(batch::marker(9, 0, true, 1, 9));
        batch::stamp(&mut bytes, 10, 0, None);
        let aborted = [Aborted { producer: 9, first: 11, last: 12, stable: 13 }];
        let mut shown = Vec::new();
        visit(&bytes, &aborted, |record| shown.push((record.offset, record.value.map(<[u8]>::to_vec)))).expect("sound");
        assert_eq!(shown, [(10, Some(b"open".to_vec())), (13, Some(b"kept".to_vec()))]);
    }
}

//! Record batches of version 2 as they travel and as they are stored (Kafka's `RecordBatch`,
//! <https://kafka.apache.org/documentation/#recordbatch>): read the head, check, stamp, and make the one kind that is ours,
//! the marker that ends a transaction.
//!
//! ```text
//!    0 base offset:i64     12 leader epoch:i32   16 magic:i8=2   17 crc:u32    21 attributes:i16   23 last offset delta:i32
//!    8 length:i32 (of what follows it)           ── the checksum covers all from here (21) on ──
//!   27 base stamp:i64   35 max stamp:i64   43 producer id:i64   51 epoch:i16   53 sequence:i32   57 count:i32   61 records
//! ```
//!
//! Records stay closed: compressed ones are opaque, and what the head says of them is believed as far as it is consistent.

use crate::code::Code;
use crate::limits::{PRODUCE_BATCHES_MAX, PRODUCE_BYTES_MAX};

/// Bytes of a batch before its records.
pub const HEAD_BYTES: usize = 61;
/// Bytes before those that the length counts.
pub const LENGTH_END: usize = 12;
/// Where the magic stands, in every version.
const MAGIC_AT: usize = 16;
const CRC_FROM: usize = 21;

const COMPRESSION: i16 = 0x07;
const APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
/// The first timestamp is the time up to which deletions stay (KIP-534); the records' deltas are from it.
const HORIZON: i16 = 0x40;

/// What a batch's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of its first record, where it has been stamped.
    pub base: i64,
    /// Bytes of the whole batch.
    pub bytes: usize,
    /// The leader's epoch, where it has been stamped.
    pub epoch: i32,
    /// Compression, timestamp type, transactional, control.
    pub attributes: i16,
    /// Offset of the last record less that of the first.
    pub last_delta: i32,
    /// Timestamp of the first record, milliseconds.
    pub base_stamp: i64,
    /// Largest timestamp, milliseconds.
    pub max_stamp: i64,
    /// Who wrote it; -1 for nobody in particular.
    pub producer: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// Sequence number of the first record; -1 without a producer.
    pub sequence: i32,
    /// How many records it holds.
    pub count: i32,
}

fn fixed<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("a slice of N bytes makes an array of N")
}

impl Header {
    /// Reads the head of the first batch in `bytes`, which must hold it whole. Checks lengths and the magic, nothing else.
    ///
    /// # Errors
    /// CORRUPT_MESSAGE where it breaks off, UNSUPPORTED_FOR_MESSAGE_FORMAT for formats before version 2.
    pub fn read(bytes: &[u8]) -> Result<Header, Refused> {
        if bytes.len() <= MAGIC_AT {
            return refuse(Code::CORRUPT_MESSAGE, "a record batch breaks off");
        }
        match bytes[MAGIC_AT] {
            2 => {}
            0 | 1 => {
                return refuse(
                    Code::UNSUPPORTED_FOR_MESSAGE_FORMAT,
                    "messages of format 0 and 1 are not taken; use a client of Kafka 0.11 or newer",
                );
            }
            _ => return refuse(Code::INVALID_RECORD, "a record batch of an unknown format"),
        }
        let Ok(length) = usize::try_from(i32::from_be_bytes(fixed(bytes, 8))) else {
            return refuse(Code::CORRUPT_MESSAGE, "a record batch of a negative length");
        };
        let whole = length + LENGTH_END;
        if whole < HEAD_BYTES || whole > bytes.len() {
            return refuse(Code::CORRUPT_MESSAGE, "a record batch breaks off");
        }
        Ok(Header {
            base: i64::from_be_bytes(fixed(bytes, 0)),
            bytes: whole,
            epoch: i32::from_be_bytes(fixed(bytes, 12)),
            attributes: i16::from_be_bytes(fixed(bytes, 21)),
            last_delta: i32::from_be_bytes(fixed(bytes, 23)),
            base_stamp: i64::from_be_bytes(fixed(bytes, 27)),
            max_stamp: i64::from_be_bytes(fixed(bytes, 35)),
            producer: i64::from_be_bytes(fixed(bytes, 43)),
            producer_epoch: i16::from_be_bytes(fixed(bytes, 51)),
            sequence: i32::from_be_bytes(fixed(bytes, 53)),
            count: i32::from_be_bytes(fixed(bytes, 57)),
        })
    }

    /// Whether the records belong to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether it is a marker.
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// How its records are compressed: Kafka's number, 0 for not at all.
    pub fn compression(&self) -> u8 {
        (self.attributes & COMPRESSION) as u8
    }

    /// Whether readers see the time of append.
    pub fn is_append_time(&self) -> bool {
        self.attributes & APPEND_TIME != 0
    }

    /// Whether the first timestamp says up to when deletions stay.
    pub fn has_horizon(&self) -> bool {
        self.attributes & HORIZON != 0
    }

    /// The sequence number of the last record: numbers go on with 0 after the largest.
    pub fn last_sequence(&self) -> i32 {
        add_sequence(self.sequence, self.last_delta)
    }
}

/// A sequence number so many further: behind the largest follows 0.
pub(crate) fn add_sequence(from: i32, by: i32) -> i32 {
    ((i64::from(from) + i64::from(by)) & i64::from(i32::MAX)) as i32
}

/// Why batches are not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What the client is told.
    pub code: Code,
    /// For people.
    pub why: &'static str,
}

fn refuse<T>(code: Code, why: &'static str) -> Result<T, Refused> {
    Err(Refused { code, why })
}

/// What is taken, by the topic's settings and the leader's clock.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Largest batch, bytes (`max.message.bytes`).
    pub batch_bytes_max: usize,
    /// Whether the topic stamps with the time of append (then the client's timestamps are not looked at).
    pub append_time: bool,
    /// Timestamps before this are refused, milliseconds.
    pub stamp_min: i64,
    /// And after this.
    pub stamp_max: i64,
}

impl Rules {
    /// Takes every timestamp, and batches up to Kafka's default size.
    pub const ANY: Rules =
        Rules { batch_bytes_max: 1_048_588, append_time: false, stamp_min: i64::MIN, stamp_max: i64::MAX };
}

/// What all batches of one produce have in common, and what they add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Offsets that they take.
    pub count: u32,
    /// Their bytes.
    pub bytes: u32,
    /// The largest timestamp.
    pub max_stamp: i64,
    /// Who wrote them; -1 for nobody in particular.
    pub producer: i64,
    /// The producer's epoch.
    pub producer_epoch: i16,
    /// The first sequence number; -1 without a producer.
    pub sequence: i32,
    /// Whether they belong to a transaction.
    pub transactional: bool,
    /// Whether it is a marker.
    pub control: bool,
}

/// Reads through the batches of a produce: that they fit together, not what they hold. Used at apply, where whoever proposed
/// has [checked](check) already; so no checksum is counted again.
///
/// # Errors
/// Why they cannot be stored.
pub fn run(bytes: &[u8]) -> Result<Run, Refused> {
    if bytes.is_empty() {
        return refuse(Code::INVALID_RECORD, "a produce without a record batch");
    }
    if bytes.len() > PRODUCE_BYTES_MAX {
        return refuse(Code::MESSAGE_TOO_LARGE, "more bytes than a produce may have");
    }
    let mut rest = bytes;
    let mut run: Option<Run> = None;
    let mut batches = 0;
    while !rest.is_empty() {
        let head = Header::read(rest)?;
        rest = &rest[head.bytes..];
        batches += 1;
        if batches > PRODUCE_BATCHES_MAX {
            return refuse(Code::INVALID_RECORD, "more record batches than a produce may have");
        }
        if head.last_delta < 0 || head.count <= 0 || i64::from(head.last_delta) + 1 != i64::from(head.count) {
            return refuse(Code::INVALID_RECORD, "a batch's count of records and its offsets disagree");
        }
        if head.producer >= 0 && (head.sequence < 0 || head.producer_epoch < 0) && !head.is_control() {
            return refuse(Code::INVALID_RECORD, "a batch with a producer id needs an epoch and a sequence number");
        }
        if head.producer < 0 && head.is_transactional() {
            return refuse(Code::INVALID_RECORD, "a transactional batch needs a producer id");
        }
        let count = head.count as u32;
        run = Some(match run {
            None => Run {
                count,
                bytes: bytes.len() as u32,
                max_stamp: head.max_stamp,
                producer: head.producer,
                producer_epoch: head.producer_epoch,
                sequence: head.sequence,
                transactional: head.is_transactional(),
                control: head.is_control(),
            },
            Some(before) => {
                let follows = head.producer < 0
                    || i64::from(head.sequence) == i64::from(add_sequence(before.sequence, before.count as i32));
                let alike = head.producer == before.producer
                    && head.producer_epoch == before.producer_epoch
                    && head.is_transactional() == before.transactional
                    && !head.is_control()
                    && !before.control;
                if !follows || !alike {
                    return refuse(Code::INVALID_RECORD, "batches of one produce must be one producer's, in sequence");
                }
                let Some(count) = before.count.checked_add(count).filter(|count| *count <= i32::MAX as u32) else {
                    return refuse(Code::INVALID_RECORD, "more records than a produce may have");
                };
                Run { count, max_stamp: before.max_stamp.max(head.max_stamp), ..before }
            }
        });
    }
    run.ok_or(Refused { code: Code::INVALID_RECORD, why: "a produce without a record batch" })
}

/// Checks what a client wants to store: form, checksums, sizes, timestamps; and that nothing in it is ours to write. To be
/// asked before proposing.
///
/// # Errors
/// What the client is to be told.
pub fn check(bytes: &[u8], rules: &Rules) -> Result<Run, Refused> {
    let run = run(bytes)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let head = Header::read(rest)?;
        let (batch, behind) = rest.split_at(head.bytes);
        rest = behind;
        if head.bytes > rules.batch_bytes_max {
            return refuse(Code::MESSAGE_TOO_LARGE, "a batch is larger than the topic's max.message.bytes");
        }
        if crc32c::crc32c(&batch[CRC_FROM..]) != u32::from_be_bytes(fixed(batch, 17)) {
            return refuse(Code::CORRUPT_MESSAGE, "a batch's checksum is wrong");
        }
        if head.is_control() {
            return refuse(Code::INVALID_RECORD, "clients may not write control batches");
        }
        if !matches!(head.attributes & COMPRESSION, 0..=4) {
            return refuse(Code::INVALID_RECORD, "an unknown compression");
        }
        if head.attributes & APPEND_TIME != 0 {
            return refuse(Code::INVALID_TIMESTAMP, "the time of append is not the client's to set");
        }
        if head.has_horizon() {
            return refuse(Code::INVALID_RECORD, "until when deletions stay is not the client's to set");
        }
        if !rules.append_time && head.max_stamp != -1 {
            let early = head.base_stamp.min(head.max_stamp) < rules.stamp_min;
            if early || head.max_stamp > rules.stamp_max {
                return refuse(Code::INVALID_TIMESTAMP, "a timestamp is too far from the leader's clock");
            }
        }
    }
    Ok(run)
}

/// Stamps stored batches for a reader, one after the other from `base`. With a time of append that is stamped too, and the
/// checksum counted anew. Bytes that are no whole batch are left as they are.
pub fn stamp(bytes: &mut [u8], base: u64, epoch: i32, append_time: Option<i64>) {
    let (mut at, mut base) = (0, base);
    while let Ok(head) = Header::read(&bytes[at..]) {
        let batch = &mut bytes[at..at + head.bytes];
        batch[..8].copy_from_slice(&(base as i64).to_be_bytes());
        batch[12..16].copy_from_slice(&epoch.to_be_bytes());
        if let Some(time) = append_time {
            batch[21..23].copy_from_slice(&(head.attributes | APPEND_TIME).to_be_bytes());
            batch[35..43].copy_from_slice(&time.to_be_bytes());
            let crc = crc32c::crc32c(&batch[CRC_FROM..]);
            batch[17..21].copy_from_slice(&crc.to_be_bytes());
        }
        at += head.bytes;
        base += u64::from(head.last_delta.unsigned_abs()) + 1;
    }
}

/// Whether stored bytes are whole batches with sound checksums.
pub fn are_sound(bytes: &[u8]) -> bool {
    let mut at = 0;
    while at < bytes.len() {
        let Ok(head) = Header::read(&bytes[at..]) else { return false };
        let batch = &bytes[at..at + head.bytes];
        if crc32c::crc32c(&batch[CRC_FROM..]) != u32::from_be_bytes(fixed(batch, 17)) {
            return false;
        }
        at += head.bytes;
    }
    true
}

/// Leaves of stamped batches those that have something between two offsets.
pub fn keep(bytes: &mut Vec<u8>, begin: usize, from: u64, until: u64) {
    let (mut first, mut at) = (begin, begin);
    while let Ok(head) = Header::read(&bytes[at..]) {
        let base = i64::from_be_bytes(fixed(&bytes[at..], 0)).unsigned_abs();
        if base >= until {
            break;
        }
        at += head.bytes;
        if base + u64::from(head.last_delta.unsigned_abs()) < from {
            first = at;
        }
    }
    bytes.truncate(at);
    bytes.drain(begin..first.min(at));
}

/// The marker that ends a transaction in a partition, ready to be stored (Kafka's `EndTransactionMarker`, version 0).
pub fn marker(producer: i64, producer_epoch: i16, commit: bool, coordinator_epoch: i32, stamp: i64) -> Vec<u8> {
    // A record: length, attributes, timestamp and offset deltas, key (version, type), value (version, coordinator epoch),
    // no headers; varints are zigzag.
    let mut record = vec![0, 0, 0, 8, 0, 0, 0, u8::from(commit), 12, 0, 0];
    record.extend_from_slice(&coordinator_epoch.to_be_bytes());
    record.push(0);
    let mut bytes = vec![0; HEAD_BYTES];
    bytes.push((record.len() * 2) as u8);
    bytes.extend_from_slice(&record);
    let length = (bytes.len() - LENGTH_END) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[MAGIC_AT] = 2;
    bytes[21..23].copy_from_slice(&(TRANSACTIONAL | CONTROL).to_be_bytes());
    bytes[27..35].copy_from_slice(&stamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&stamp.to_be_bytes());
    bytes[43..51].copy_from_slice(&producer.to_be_bytes());
    bytes[51..53].copy_from_slice(&producer_epoch.to_be_bytes());
    bytes[53..57].copy_from_slice(&(-1i32).to_be_bytes());
    bytes[57..61].copy_from_slice(&1i32.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

/// Whether a marker commits; `None` where it is no marker that is known here.
pub(crate) fn marker_commits(batch: &[u8]) -> Option<bool> {
    let head = Header::read(batch).ok()?;
    let record = crate::repack::next(&mut batch.get(HEAD_BYTES..head.bytes)?).ok()?;
    match record.key? {
        [0, 0, 0, kind @ 0..=1] => Some(*kind == 1),
        _ => None,
    }
}

/// Appends a batch with other records in it: so many, with this first and this largest timestamp, which is from now on the time up to
/// which deletions stay if it `begins`. Its offsets stay, and whose it is.
pub(crate) fn rebuild(
    batch: &[u8],
    records: &[u8],
    (base_stamp, max_stamp): (i64, i64),
    count: i32,
    begins: bool,
    out: &mut Vec<u8>,
) {
    let begin = out.len();
    out.extend_from_slice(&batch[..HEAD_BYTES]);
    out.extend_from_slice(records);
    let own = &mut out[begin..];
    let attributes = i16::from_be_bytes(fixed(own, 21)) | if begins { HORIZON } else { 0 };
    own[21..23].copy_from_slice(&attributes.to_be_bytes());
    own[27..35].copy_from_slice(&base_stamp.to_be_bytes());
    own[35..43].copy_from_slice(&max_stamp.to_be_bytes());
    own[57..61].copy_from_slice(&count.to_be_bytes());
    seal(own);
}

/// A batch without records that takes one offset: where a range was, of which nothing is left.
pub(crate) fn empty(offset: u64, epoch: i32) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    bytes[..8].copy_from_slice(&(offset as i64).to_be_bytes());
    bytes[12..16].copy_from_slice(&epoch.to_be_bytes());
    bytes[MAGIC_AT] = 2;
    bytes[27..57].fill(0xFF);
    seal(&mut bytes);
    bytes
}

/// Looks at what is left of a range after compaction: stamped batches within it, in order. Returns the largest timestamp.
///
/// # Errors
/// What is wrong with them.
pub fn cleaned(bytes: &[u8], (from, to): (u64, u64)) -> Result<i64, Refused> {
    let (mut rest, mut next, mut stamp) = (bytes, from, -1);
    while !rest.is_empty() {
        let head = Header::read(rest)?;
        rest = &rest[head.bytes..];
        // The first one may begin before: where the partition's beginning was moved into it.
        let base = u64::try_from(head.base).ok().filter(|base| (*base >= next || next == from) && head.last_delta >= 0);
        let end = base.map(|base| base + u64::from(head.last_delta.unsigned_abs()) + 1);
        let end = end.filter(|end| *end > next && *end <= to);
        let Some(end) = end else {
            return refuse(Code::INVALID_RECORD, "cleaned batches are not in order, or outside of their range");
        };
        next = end;
        stamp = stamp.max(head.max_stamp);
    }
    if next > from { Ok(stamp) } else { refuse(Code::INVALID_RECORD, "nothing is left of a range") }
}

/// The first record in stamped batches whose timestamp is at least `target`: its offset and timestamp. Where a batch cannot be opened
/// that is its first record, which lies at or before the one that is sought: a consumer that starts there misses nothing.
pub fn find_time(bytes: &[u8], target: i64) -> Option<(i64, i64)> {
    let mut rest = bytes;
    while let Ok(head) = Header::read(rest) {
        let (batch, behind) = rest.split_at(head.bytes);
        rest = behind;
        if head.max_stamp < target {
            continue;
        }
        if head.attributes & APPEND_TIME != 0 {
            return Some((head.base, head.max_stamp));
        }
        let Ok(opened) = crate::repack::open(&head, batch) else {
            return Some((head.base, head.max_stamp));
        };
        let mut records = &opened[..];
        for _ in 0..head.count {
            let Ok(record) = crate::repack::next(&mut records) else {
                break;
            };
            let stamp = head.base_stamp.saturating_add(record.stamp_delta);
            if stamp >= target {
                return Some((head.base.saturating_add(record.offset_delta), stamp));
            }
        }
    }
    None
}

pub(crate) fn zigzag(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(first & 0x7F) << shift;
        if *first < 0x80 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

/// Fills in what is known of a new batch once its bytes are there: length, format and checksum.
pub(crate) fn seal(bytes: &mut [u8]) {
    let length = (bytes.len() - LENGTH_END) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[MAGIC_AT] = 2;
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Batches for tests: uncompressed records whose values are what is given, each a millisecond after the one before.
pub fn example(values: &[&[u8]], stamp: i64, producer: (i64, i16, i32), transactional: bool) -> Vec<u8> {
    let mut bytes = vec![0; HEAD_BYTES];
    for (at, value) in values.iter().enumerate() {
        let mut record = vec![0];
        put_zigzag(&mut record, at as i64);
        put_zigzag(&mut record, at as i64);
        put_zigzag(&mut record, -1);
        put_zigzag(&mut record, value.len() as i64);
        record.extend_from_slice(value);
        record.push(0);
        put_zigzag(&mut bytes, record.len() as i64);
        bytes.extend_from_slice(&record);
    }
    let last = values.len() as i32 - 1;
    let length = (bytes.len() - LENGTH_END) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    bytes[12..16].copy_from_slice(&(-1i32).to_be_bytes());
    bytes[MAGIC_AT] = 2;
    bytes[21..23].copy_from_slice(&(if transactional { TRANSACTIONAL } else { 0 }).to_be_bytes());
    bytes[23..27].copy_from_slice(&last.to_be_bytes());
    bytes[27..35].copy_from_slice(&stamp.to_be_bytes());
    bytes[35..43].copy_from_slice(&(stamp + i64::from(last)).to_be_bytes());
    bytes[43..51].copy_from_slice(&producer.0.to_be_bytes());
    bytes[51..53].copy_from_slice(&producer.1.to_be_bytes());
    bytes[53..57].copy_from_slice(&producer.2.to_be_bytes());
    bytes[57..61].copy_from_slice(&(values.len() as i32).to_be_bytes());
    let crc = crc32c::crc32c(&bytes[CRC_FROM..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

pub(crate) fn put_zigzag(out: &mut Vec<u8>, value: i64) {
    let mut raw = ((value << 1) ^ (value >> 63)) as u64;
    while raw >= 0x80 {
        out.push(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.push(raw as u8);
}

#[cfg(test)]
mod tests;

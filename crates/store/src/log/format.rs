//! The stored form of the log: fixed numbers, in one place. Little-endian throughout.
//!
//! ```text
//! segment   0  magic u32   4  version u32   8  log id u64   16 node u64   24 number u64   32 capacity u64
//!          40  crc u32 (of 0..40)                                            zeros up to 1024
//! mark      at 1024 and at 2048, written in turn:
//!           0  magic u32   4  sealed u32    8  log id u64   16 number u64  24 sequence u64  32 turn u64
//!          40  crc u32 (of 0..40)
//! batches   from 4096 on, each at a multiple of 8
//! batch     0  magic u32   4  version u16   6  flags u16     8  length u32 (records)        12 count u32
//!          16  log id u64 24  segment u64  32  sequence u64 40  durable u64  48 oldest u64
//!          56  records' crc u32            60  crc u32 (of 0..60)
//!              flags: 1 checkpoint, 2 << (group mod 15) for each group that it has records of
//! record    0  crc u32 (of 4..32 and the body)  4 body length u32   8 kind u8  9 sub u8  10 zero u16  12 group u32
//!          16  index u64  24  term u64  32  body
//! ```
//!
//! The records' crc is a CRC-32C over the CRCs of the records in order, so that the data is summed once and the header
//! still vouches for exactly these records. A header vouches for its place (log, segment, sequence): stale content of a
//! recycled file and bytes that a client wrote to look like a batch are never taken for one.

use base::GroupId;

/// First bytes of a segment.
pub(super) const SEGMENT_MAGIC: u32 = u32::from_le_bytes(*b"QLSG");
/// First bytes of a durable mark.
pub(super) const MARK_MAGIC: u32 = u32::from_le_bytes(*b"QLMK");
/// First bytes of a batch.
pub(super) const BATCH_MAGIC: u32 = u32::from_le_bytes(*b"QLBT");
/// The one version of the stored form so far.
pub(super) const VERSION: u16 = 1;
/// Where the first batch of a segment starts: one page for the header and the marks.
pub(super) const BATCHES_AT: u64 = 4096;
/// Where the two durable marks are: sectors of their own, so that writing one cannot tear the other or the header.
pub(super) const MARKS_AT: [u64; 2] = [1024, 2048];
/// Length of a segment's header and of a mark as stored, bytes.
pub(super) const FIXED_BYTES: usize = 44;
/// Length of a batch header, bytes.
pub(super) const BATCH_HEADER: usize = 64;
/// Length of a record before its body, bytes.
pub(super) const RECORD_HEADER: usize = 32;
/// Batches start at multiples of this.
pub(super) const ALIGN: u64 = 8;
/// Largest batch, bytes. A length field that a rotten disk made up can cost no more memory than this.
pub(super) const BATCH_BYTES_MAX: u64 = 1 << 30;
/// Batch flag: restates the hard state and mark of every group; the first batch of every segment is one.
pub(super) const FLAG_CHECKPOINT: u16 = 1;

/// Batch flags above the first: whose records it holds, in 15 buckets. The header has its own checksum, so that damage in one
/// group's records is not taken for damage in another's.
pub(super) fn bucket(group: GroupId) -> u16 {
    2 << (group.0 % 15)
}

/// Record kinds. The numbers never change and are never used again.
pub(super) mod kind {
    /// Which node wrote the log: `term` is the node, `index` the log's id.
    pub const NODE: u8 = 1;
    /// An entry of a group.
    pub const ENTRY: u8 = 2;
    /// A group's term, vote (the body, 8 bytes) and commit (in `index`).
    pub const HARD_STATE: u8 = 3;
    /// Where a group's log starts; `sub` 1 = nothing written before this record counts any more.
    pub const SNAPSHOT_MARK: u8 = 4;
    /// A clean stop.
    pub const SEAL: u8 = 5;
}

/// One stored fact, in the order in which it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// The log's own identity and the node that writes it. Opens every segment.
    Node {
        /// Random identity of this log, from [`super::LogOptions::log_id`].
        log_id: u64,
        /// The node, from [`super::LogOptions::node`].
        node: u64,
    },
    /// An entry. Where the group already has an entry of this index, this one replaces it and all that follow it.
    Entry {
        /// Whose log.
        group: GroupId,
        /// Position in the group's log, from 1.
        index: u64,
        /// The term in which it was proposed.
        term: u64,
        /// What sort of entry; the number is consensus's, stored as it is.
        kind: u8,
        /// The entry's bytes.
        data: &'a [u8],
    },
    /// What Raft must remember.
    HardState {
        /// Whose.
        group: GroupId,
        /// Current term.
        term: u64,
        /// The node voted for in that term, 0 for none.
        vote: u64,
        /// Known committed index.
        commit: u64,
    },
    /// The group's log starts after `index`; what was before it is in a snapshot.
    SnapshotMark {
        /// Whose log.
        group: GroupId,
        /// Last index that the snapshot covers.
        index: u64,
        /// Term of that index.
        term: u64,
        /// True: the snapshot replaces the group's log, no entry before this record counts. False: entries after
        /// `index` stay.
        install: bool,
    },
    /// The node stopped cleanly here.
    Seal,
}

impl Record<'_> {
    /// Whether replay delivers it as an entry.
    pub fn is_entry(&self) -> bool {
        matches!(self, Record::Entry { .. })
    }
}

/// A batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub flags: u16,
    /// Bytes of records that follow.
    pub length: u32,
    pub count: u32,
    pub log_id: u64,
    pub segment: u64,
    pub sequence: u64,
    /// Every batch up to this sequence was durable before this one was written.
    pub durable: u64,
    /// Segments below this number are no longer part of the log.
    pub oldest: u64,
    pub records_crc: u32,
}

pub(super) fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl BatchHeader {
    pub(super) fn encode(&self, into: &mut [u8]) {
        into[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
        into[4..6].copy_from_slice(&VERSION.to_le_bytes());
        into[6..8].copy_from_slice(&self.flags.to_le_bytes());
        into[8..12].copy_from_slice(&self.length.to_le_bytes());
        into[12..16].copy_from_slice(&self.count.to_le_bytes());
        into[16..24].copy_from_slice(&self.log_id.to_le_bytes());
        into[24..32].copy_from_slice(&self.segment.to_le_bytes());
        into[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        into[40..48].copy_from_slice(&self.durable.to_le_bytes());
        into[48..56].copy_from_slice(&self.oldest.to_le_bytes());
        into[56..60].copy_from_slice(&self.records_crc.to_le_bytes());
        let crc = crc32c::crc32c(&into[..60]);
        into[60..64].copy_from_slice(&crc.to_le_bytes());
    }

    /// `None`: these bytes are not a batch header. `check` false only under a planted bug.
    pub(super) fn decode(bytes: &[u8], check: bool) -> Option<BatchHeader> {
        if bytes.len() < BATCH_HEADER || get_u32(bytes, 0) != BATCH_MAGIC {
            return None;
        }
        if check && crc32c::crc32c(&bytes[..60]) != get_u32(bytes, 60) {
            return None;
        }
        // A version that this program does not know cannot be judged at all; see `SegmentHeader::decode`, which refuses
        // the segment before any batch is read.
        let header = BatchHeader {
            flags: get_u16(bytes, 6),
            length: get_u32(bytes, 8),
            count: get_u32(bytes, 12),
            log_id: get_u64(bytes, 16),
            segment: get_u64(bytes, 24),
            sequence: get_u64(bytes, 32),
            durable: get_u64(bytes, 40),
            oldest: get_u64(bytes, 48),
            records_crc: get_u32(bytes, 56),
        };
        (u64::from(header.length) <= BATCH_BYTES_MAX).then_some(header)
    }

    /// Where the next batch starts if this one starts at `offset`.
    pub(super) fn end(&self, offset: u64) -> u64 {
        align(offset + BATCH_HEADER as u64 + u64::from(self.length))
    }
}

/// The next multiple of [`ALIGN`].
pub(super) fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN)
}

/// A segment's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub log_id: u64,
    pub node: u64,
    pub number: u64,
    /// Length of the file, bytes: a shorter one was cut by somebody.
    pub capacity: u64,
}

impl SegmentHeader {
    /// The segment's first page: this header, and no marks.
    pub(super) fn encode_page(&self, into: &mut [u8]) {
        into[..BATCHES_AT as usize].fill(0);
        into[0..4].copy_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        into[4..8].copy_from_slice(&u32::from(VERSION).to_le_bytes());
        into[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        into[16..24].copy_from_slice(&self.node.to_le_bytes());
        into[24..32].copy_from_slice(&self.number.to_le_bytes());
        into[32..40].copy_from_slice(&self.capacity.to_le_bytes());
        let crc = crc32c::crc32c(&into[..40]);
        into[40..44].copy_from_slice(&crc.to_le_bytes());
    }

    /// The header, or what is wrong with it.
    pub(super) fn decode(bytes: &[u8], check: bool) -> Result<SegmentHeader, &'static str> {
        if bytes.len() < FIXED_BYTES || get_u32(bytes, 0) != SEGMENT_MAGIC {
            return Err("not a log segment");
        }
        if check && crc32c::crc32c(&bytes[..40]) != get_u32(bytes, 40) {
            return Err("segment header fails its checksum");
        }
        if get_u32(bytes, 4) != u32::from(VERSION) {
            return Err("segment of a format that this program does not know (written by a newer one?)");
        }
        Ok(SegmentHeader {
            log_id: get_u64(bytes, 8),
            node: get_u64(bytes, 16),
            number: get_u64(bytes, 24),
            capacity: get_u64(bytes, 32),
        })
    }
}

/// A durable mark: every batch of the log up to `sequence` was durable when this was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub sealed: bool,
    pub log_id: u64,
    pub number: u64,
    pub sequence: u64,
    /// Counts the marks of a segment, so that the two places are written in turn.
    pub turn: u64,
}

impl Mark {
    pub(super) fn encode(&self) -> [u8; FIXED_BYTES] {
        let mut out = [0; FIXED_BYTES];
        out[0..4].copy_from_slice(&MARK_MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&u32::from(self.sealed).to_le_bytes());
        out[8..16].copy_from_slice(&self.log_id.to_le_bytes());
        out[16..24].copy_from_slice(&self.number.to_le_bytes());
        out[24..32].copy_from_slice(&self.sequence.to_le_bytes());
        out[32..40].copy_from_slice(&self.turn.to_le_bytes());
        let crc = crc32c::crc32c(&out[..40]);
        out[40..44].copy_from_slice(&crc.to_le_bytes());
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Mark> {
        if bytes.len() < FIXED_BYTES
            || get_u32(bytes, 0) != MARK_MAGIC
            || crc32c::crc32c(&bytes[..40]) != get_u32(bytes, 40)
        {
            return None;
        }
        Some(Mark {
            sealed: get_u32(bytes, 4) != 0,
            log_id: get_u64(bytes, 8),
            number: get_u64(bytes, 16),
            sequence: get_u64(bytes, 24),
            turn: get_u64(bytes, 32),
        })
    }
}

/// Appends one record and returns its CRC. The parts of the body are copied once.
pub(super) fn encode_record(into: &mut Vec<u8>, record: &Record<'_>, more: &[&[u8]]) -> u32 {
    let (kind, sub, group, index, term) = match *record {
        Record::Node { log_id, node } => (kind::NODE, 0, 0, log_id, node),
        Record::Entry { group, index, term, kind, .. } => (kind::ENTRY, kind, group.0, index, term),
        Record::HardState { group, term, commit, .. } => (kind::HARD_STATE, 0, group.0, commit, term),
        Record::SnapshotMark { group, index, term, install } => {
            (kind::SNAPSHOT_MARK, u8::from(install), group.0, index, term)
        }
        Record::Seal => (kind::SEAL, 0, 0, 0, 0),
    };
    let vote_bytes;
    let body: &[u8] = match record {
        Record::Entry { data, .. } => data,
        Record::HardState { vote, .. } => {
            vote_bytes = vote.to_le_bytes();
            &vote_bytes
        }
        _ => &[],
    };
    let length = body.len() + more.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(length).expect("a batch closes long before a record of 4 GiB");
    let start = into.len();
    let mut head = [0u8; RECORD_HEADER];
    head[4..8].copy_from_slice(&length.to_le_bytes());
    head[8] = kind;
    head[9] = sub;
    head[12..16].copy_from_slice(&group.to_le_bytes());
    head[16..24].copy_from_slice(&index.to_le_bytes());
    head[24..32].copy_from_slice(&term.to_le_bytes());
    into.extend_from_slice(&head);
    into.extend_from_slice(body);
    for part in more {
        into.extend_from_slice(part);
    }
    let crc = crc32c::crc32c(&into[start + 4..]);
    into[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    crc
}

/// The first record of `bytes`, its CRC and its length, or what is wrong with it.
pub(super) fn decode_record(bytes: &[u8], check: bool) -> Result<(Record<'_>, u32, usize), &'static str> {
    if bytes.len() < RECORD_HEADER {
        return Err("record is cut short");
    }
    let length = get_u32(bytes, 4) as usize;
    if length > bytes.len() - RECORD_HEADER {
        return Err("record is longer than its batch");
    }
    let end = RECORD_HEADER + length;
    let crc = get_u32(bytes, 0);
    if check && crc32c::crc32c(&bytes[4..end]) != crc {
        return Err("record fails its checksum");
    }
    let (sub, zero) = (bytes[9], get_u16(bytes, 10));
    let group = GroupId(get_u32(bytes, 12));
    let (index, term) = (get_u64(bytes, 16), get_u64(bytes, 24));
    let body = &bytes[RECORD_HEADER..end];
    let record = match (bytes[8], sub, body.len()) {
        (kind::ENTRY, kind, _) => Record::Entry { group, index, term, kind, data: body },
        (kind::HARD_STATE, 0, 8) => Record::HardState { group, term, vote: get_u64(body, 0), commit: index },
        (kind::SNAPSHOT_MARK, 0 | 1, 0) => Record::SnapshotMark { group, index, term, install: sub == 1 },
        (kind::NODE, 0, 0) if group.0 == 0 => Record::Node { log_id: index, node: term },
        (kind::SEAL, 0, 0) if group.0 == 0 && index == 0 && term == 0 => Record::Seal,
        _ => return Err("record of a kind that this program does not know"),
    };
    if zero != 0 {
        return Err("record of a kind that this program does not know");
    }
    Ok((record, crc, end))
}

//! A batch under construction: records are encoded straight into the bytes that go to the disk.

use super::format::{self, BATCH_HEADER, BatchHeader, RECORD_HEADER, Record};
use base::GroupId;

/// What a batch says about one group; kept beside the bytes so that appending need not read them again.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Note {
    /// Highest entry index, 0 for none.
    pub highest: u64,
    /// Index of the first entry, unless an installed snapshot came before it.
    pub first: Option<u64>,
    /// Where the group's log ends after this batch, if the batch moves it.
    pub last: Option<u64>,
    /// An entry that does not follow the one before it.
    pub gap: bool,
    /// Term, vote, commit.
    pub hard: Option<(u64, u64, u64)>,
    /// Highest snapshot mark: index and term.
    pub mark: Option<(u64, u64)>,
}

/// Records that will reach the disk together: after a crash all of them are there or none.
///
/// One buffer, kept from batch to batch: adding an entry copies its data once and allocates nothing once the buffer has
/// grown to size. Fill one while another is being appended.
#[derive(Debug)]
pub struct Batch {
    /// Room for the header, then the records.
    bytes: Vec<u8>,
    /// End of the records; what follows in `bytes` is padding.
    end: usize,
    count: u32,
    records_crc: u32,
    notes: Vec<(GroupId, Note)>,
    /// Entries: group, index, byte of the record behind the header.
    entries: Vec<(GroupId, u64, u32)>,
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// Capacity that [`Batch::clear`] keeps, bytes: one huge entry must not pin its size for ever.
    const KEEP_BYTES: usize = 16 << 20;

    /// An empty batch.
    pub fn new() -> Batch {
        Batch {
            bytes: vec![0; BATCH_HEADER],
            end: BATCH_HEADER,
            count: 0,
            records_crc: 0,
            notes: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Forgets the records, keeps the memory.
    pub fn clear(&mut self) {
        self.bytes.truncate(BATCH_HEADER);
        if self.bytes.capacity() > Batch::KEEP_BYTES {
            self.bytes.shrink_to(Batch::KEEP_BYTES);
        }
        self.end = BATCH_HEADER;
        self.count = 0;
        self.records_crc = 0;
        self.notes.clear();
        self.entries.clear();
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How many records.
    pub fn records(&self) -> u32 {
        self.count
    }

    /// Bytes that it will take in the log.
    pub fn bytes(&self) -> u64 {
        format::align(self.end as u64)
    }

    /// Bytes that an entry of `data_bytes` would add.
    pub const fn entry_bytes(data_bytes: usize) -> usize {
        RECORD_HEADER + data_bytes
    }

    /// Adds an entry (see [`Record::Entry`]).
    pub fn entry(&mut self, group: GroupId, index: u64, term: u64, kind: u8, data: &[u8]) {
        self.entry_parts(group, index, term, kind, &[data]);
    }

    /// Adds an entry whose data is these parts in order, so that a caller need not join them first.
    pub fn entry_parts(&mut self, group: GroupId, index: u64, term: u64, kind: u8, parts: &[&[u8]]) {
        assert!(index > 0, "an entry's index starts at 1");
        let at = u32::try_from(self.end - BATCH_HEADER).expect("a batch closes long before 4 GiB");
        self.entries.push((group, index, at));
        self.push(&Record::Entry { group, index, term, kind, data: &[] }, parts);
        let note = self.note(group);
        note.highest = note.highest.max(index);
        match note.last {
            None => note.first = Some(index),
            Some(last) => note.gap |= index > last.saturating_add(1),
        }
        note.last = Some(index);
    }

    /// Adds what Raft must remember of a group.
    pub fn hard_state(&mut self, group: GroupId, term: u64, vote: u64, commit: u64) {
        self.push(&Record::HardState { group, term, vote, commit }, &[]);
        self.note(group).hard = Some((term, vote, commit));
    }

    /// Says that the group's log starts after `index` (see [`Record::SnapshotMark`]). The snapshot that covers what is
    /// before it must be durable already: see [`crate::snapshot`]. The log's own older records of the group may go.
    pub fn snapshot_mark(&mut self, group: GroupId, index: u64, term: u64, install: bool) {
        self.push(&Record::SnapshotMark { group, index, term, install }, &[]);
        let note = self.note(group);
        if note.mark.is_none_or(|(have, _)| have < index) {
            note.mark = Some((index, term));
        }
        if install {
            note.last = Some(index);
        }
    }

    pub(super) fn record(&mut self, record: &Record<'_>) {
        self.push(record, &[]);
    }

    fn push(&mut self, record: &Record<'_>, more: &[&[u8]]) {
        self.bytes.truncate(self.end);
        let crc = format::encode_record(&mut self.bytes, record, more);
        self.records_crc = crc32c::crc32c_append(self.records_crc, &crc.to_le_bytes());
        self.end = self.bytes.len();
        self.count += 1;
    }

    fn note(&mut self, group: GroupId) -> &mut Note {
        // Batches speak of few groups, and mostly of the one that came last.
        let at = match self.notes.iter().rposition(|(have, _)| *have == group) {
            Some(at) => at,
            None => {
                self.notes.push((group, Note::default()));
                self.notes.len() - 1
            }
        };
        &mut self.notes[at].1
    }

    /// The entries in order: group, index, and the byte at which the record begins, counted from the end of the batch's header.
    pub(super) fn entries(&self) -> impl Iterator<Item = (GroupId, u64, u32)> {
        self.entries.iter().copied()
    }

    pub(super) fn notes(&self) -> &[(GroupId, Note)] {
        &self.notes
    }

    /// The bytes as stored, for this place in the log. `header`'s length, count and records' crc are filled in here.
    pub(super) fn seal_bytes(&mut self, mut header: BatchHeader) -> &[u8] {
        header.length = u32::try_from(self.end - BATCH_HEADER).expect("append refuses batches above 1 GiB");
        header.count = self.count;
        header.flags |= self.notes.iter().fold(0, |flags, (group, _)| flags | format::bucket(*group));
        header.records_crc = self.records_crc;
        header.encode(&mut self.bytes[..BATCH_HEADER]);
        self.bytes.truncate(self.end);
        self.bytes.resize(format::align(self.end as u64) as usize, 0);
        &self.bytes
    }
}

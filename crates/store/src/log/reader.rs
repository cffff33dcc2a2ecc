//! Reading a segment: batch after batch from its start, and the search behind the place where that ends.

use super::format::{
    self, ALIGN, BATCH_HEADER, BATCHES_AT, BatchHeader, FIXED_BYTES, MARKS_AT, Mark, Record, SegmentHeader,
};
use crate::disk::{DiskError, DiskFile};
use base::GroupId;
use std::collections::BTreeMap;

/// Bytes asked of the disk at once.
const READ_BYTES: usize = 1 << 20;

/// A window over a file, so that small reads cost few calls.
pub(super) struct Window<'f, F> {
    file: &'f F,
    pub len: u64,
    at: u64,
    bytes: Vec<u8>,
}

impl<'f, F: DiskFile> Window<'f, F> {
    pub(super) fn new(file: &'f F) -> Result<Window<'f, F>, DiskError> {
        Ok(Window { file, len: file.len()?, at: 0, bytes: Vec::new() })
    }

    /// The bytes from `offset` on: `want` of them, or as many as the file has.
    pub(super) fn get(&mut self, offset: u64, want: usize) -> Result<&[u8], DiskError> {
        let want = want.min(usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX));
        let inside = offset >= self.at && offset + want as u64 <= self.at + self.bytes.len() as u64;
        if !inside {
            self.load(offset, want)?;
        }
        let from = usize::try_from(offset - self.at).expect("the window starts at or before the offset");
        let end = (from + want).min(self.bytes.len());
        Ok(&self.bytes[from.min(end)..end])
    }

    /// Whatever is at hand from `offset` on, at least `want` bytes unless the file ends.
    fn rest(&mut self, offset: u64, want: usize) -> Result<&[u8], DiskError> {
        self.get(offset, want)?;
        let from = usize::try_from(offset - self.at).expect("the window starts at or before the offset");
        Ok(&self.bytes[from.min(self.bytes.len())..])
    }

    fn load(&mut self, offset: u64, want: usize) -> Result<(), DiskError> {
        let keep_from = offset.checked_sub(self.at).and_then(|from| usize::try_from(from).ok());
        match keep_from {
            Some(from) if from < self.bytes.len() => {
                self.bytes.drain(..from);
            }
            _ => self.bytes.clear(),
        }
        self.at = offset;
        let kept = self.bytes.len();
        let left = usize::try_from(self.len.saturating_sub(offset)).unwrap_or(usize::MAX);
        let target = want.max(READ_BYTES).min(left);
        self.bytes.resize(target.max(kept), 0);
        let mut filled = kept;
        while filled < target {
            let got = self.file.read_at(offset + filled as u64, &mut self.bytes[filled..])?;
            if got == 0 {
                break;
            }
            filled += got;
        }
        self.bytes.truncate(filled);
        if self.bytes.capacity() > 4 * READ_BYTES && self.bytes.len() <= READ_BYTES {
            self.bytes.shrink_to(READ_BYTES);
        }
        Ok(())
    }
}

/// Why the sequence of batches ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// No batch of this segment starts here.
    Nothing,
    /// A batch was meant to be here: what is wrong with it.
    Bad(&'static str),
}

/// Walks one segment's batches.
pub(super) struct SegmentReader<'f, F> {
    pub window: Window<'f, F>,
    pub log_id: u64,
    pub number: u64,
    /// Where the next batch starts.
    pub offset: u64,
    /// The sequence that the next batch must have, once one is known.
    pub expected: Option<u64>,
    check: bool,
}

impl<'f, F: DiskFile> SegmentReader<'f, F> {
    pub(super) fn new(file: &'f F, log_id: u64, number: u64, check: bool) -> Result<SegmentReader<'f, F>, DiskError> {
        Ok(SegmentReader { window: Window::new(file)?, log_id, number, offset: BATCHES_AT, expected: None, check })
    }

    /// The segment's header, or what is wrong with it.
    pub(super) fn header(&mut self) -> Result<Result<SegmentHeader, &'static str>, DiskError> {
        let (check, len) = (self.check, self.window.len);
        let header = SegmentHeader::decode(self.window.get(0, FIXED_BYTES)?, check);
        Ok(header.and_then(|header| {
            if header.number != self.number {
                Err("header belongs to another segment")
            } else if header.capacity > len {
                Err("file is shorter than its header says")
            } else {
                Ok(header)
            }
        }))
    }

    /// The marks of this segment.
    pub(super) fn marks(&mut self) -> Result<Vec<Mark>, DiskError> {
        let mut marks = Vec::new();
        for at in MARKS_AT {
            if let Some(mark) = Mark::decode(self.window.get(at, FIXED_BYTES)?)
                && mark.log_id == self.log_id
                && mark.number == self.number
            {
                marks.push(mark);
            }
        }
        Ok(marks)
    }

    /// The next batch, whole and checked, with the offset at which it starts; or why there is none.
    #[allow(clippy::type_complexity, reason = "one caller shape, three words")]
    pub(super) fn next(&mut self) -> Result<Result<(u64, BatchHeader, &[u8]), Stop>, DiskError> {
        let (check, offset, len) = (self.check, self.offset, self.window.len);
        let bytes = self.window.get(offset, BATCH_HEADER)?;
        let Some(header) = BatchHeader::decode(bytes, check) else {
            let near = bytes.len() >= BATCH_HEADER && looks_like_ours(bytes, self.log_id, self.number);
            return Ok(Err(if near { Stop::Bad("batch header fails its checksum") } else { Stop::Nothing }));
        };
        if header.log_id != self.log_id || header.segment != self.number {
            return Ok(Err(Stop::Nothing));
        }
        if self.expected.is_some_and(|expected| header.sequence != expected) {
            return Ok(Err(Stop::Bad("batch is out of order")));
        }
        if header.length == 0 || offset + BATCH_HEADER as u64 + u64::from(header.length) > len {
            return Ok(Err(Stop::Bad("batch runs past the end of the file")));
        }
        let whole = self.window.get(offset, BATCH_HEADER + header.length as usize)?;
        if whole.len() < BATCH_HEADER + header.length as usize {
            return Ok(Err(Stop::Bad("batch runs past the end of the file")));
        }
        let records = &whole[BATCH_HEADER..];
        if let Err(what) = check_records(&header, records, check) {
            return Ok(Err(Stop::Bad(what)));
        }
        self.offset = header.end(offset);
        self.expected = header.sequence.checked_add(1);
        Ok(Ok((offset, header, records)))
    }

    /// Looks behind the end for headers of this segment's batches: proof of what else was written.
    pub(super) fn search(&mut self) -> Result<Option<Later>, DiskError> {
        let len = self.window.len;
        let mut later: Option<Later> = None;
        let mut at = self.offset;
        while let Some((offset, header)) = self.find(at)? {
            let found = later.get_or_insert(Later { durable: 0, end: 0 });
            found.durable = found.durable.max(header.durable);
            found.end = found.end.max(header.end(offset).min(len));
            at = offset + ALIGN;
        }
        Ok(later)
    }

    /// Moves on to the next whole batch behind a place that cannot be read; false if there is none.
    pub(super) fn skip_to_next(&mut self) -> Result<bool, DiskError> {
        let mut at = self.offset + ALIGN;
        while let Some((offset, _)) = self.find(at)? {
            self.offset = offset;
            if self.next()?.is_ok() {
                self.offset = offset;
                self.expected = None;
                return Ok(true);
            }
            at = offset + ALIGN;
        }
        Ok(false)
    }

    /// The first header of one of this segment's batches at or after `at`. Its checksum is always checked: a search that
    /// believed anything would prove nothing.
    fn find(&mut self, mut at: u64) -> Result<Option<(u64, BatchHeader)>, DiskError> {
        let magic = format::BATCH_MAGIC.to_le_bytes();
        let (log_id, number) = (self.log_id, self.number);
        while at + BATCH_HEADER as u64 <= self.window.len {
            let bytes = self.window.rest(at, BATCH_HEADER)?;
            if bytes.len() < BATCH_HEADER {
                break;
            }
            let steps = (bytes.len() - BATCH_HEADER) / ALIGN as usize + 1;
            for from in (0..steps).map(|step| step * ALIGN as usize) {
                if bytes[from..from + 4] == magic
                    && let Some(header) = BatchHeader::decode(&bytes[from..from + BATCH_HEADER], true)
                    && header.log_id == log_id
                    && header.segment == number
                {
                    return Ok(Some((at + from as u64, header)));
                }
            }
            at += (steps * ALIGN as usize) as u64;
        }
        Ok(None)
    }
}

/// Whether a header that fails its checksum may have been a batch of this segment: one of its three marks is right. Better a word about
/// a write that never was than silence about one that rotted.
fn looks_like_ours(bytes: &[u8], log_id: u64, number: u64) -> bool {
    let marks = [
        format::get_u32(bytes, 0) == format::BATCH_MAGIC,
        format::get_u64(bytes, 16) == log_id,
        format::get_u64(bytes, 24) == number,
    ];
    marks.contains(&true)
}

fn check_records(header: &BatchHeader, mut records: &[u8], check: bool) -> Result<(), &'static str> {
    let (mut count, mut crcs) = (0u32, 0u32);
    while !records.is_empty() {
        let (_, crc, length) = format::decode_record(records, check)?;
        crcs = crc32c::crc32c_append(crcs, &crc.to_le_bytes());
        count += 1;
        records = &records[length..];
    }
    if check && (count != header.count || crcs != header.records_crc) {
        return Err("records are not those that the batch was written with");
    }
    Ok(())
}

/// The records of a batch that [`SegmentReader::next`] has checked.
pub(super) struct Records<'a>(pub &'a [u8]);

impl<'a> Records<'a> {
    /// Each with the byte at which it begins.
    pub(super) fn placed(mut self) -> impl Iterator<Item = (u32, Record<'a>)> {
        let whole = self.0.len();
        std::iter::from_fn(move || {
            let at = u32::try_from(whole - self.0.len()).expect("a batch is at most a gigabyte");
            self.next().map(|record| (at, record))
        })
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        if self.0.is_empty() {
            return None;
        }
        let (record, _, length) = format::decode_record(self.0, false).ok()?;
        self.0 = &self.0[length..];
        Some(record)
    }
}

/// How long a segment was made, as its header says: it is longer where it has become an extent file as well. `None`: this is no segment.
pub(crate) fn segment_capacity<F: DiskFile>(file: &F) -> Result<Option<u64>, DiskError> {
    let mut head = [0; FIXED_BYTES];
    let got = file.read_at(0, &mut head)?;
    Ok(SegmentHeader::decode(&head[..got], true).ok().map(|header| header.capacity))
}

/// What was found behind the end of the batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Later {
    /// Highest durable position that any header there claims.
    pub durable: u64,
    /// End of the last batch there.
    pub end: u64,
}

/// What one segment says for itself.
pub(super) struct Survey {
    pub header: Result<SegmentHeader, &'static str>,
    /// Sequences of the first and last good batch from the start on; none also if the header is bad.
    pub batches: Option<(u64, u64)>,
    /// Where the good batches end, and why.
    pub end: u64,
    pub stop: Stop,
    pub later: Option<Later>,
    /// Highest sequence that a mark calls durable.
    pub marked: u64,
    /// Highest turn of its marks.
    pub turn: u64,
    /// Where the first good batch starts that none of the later ones calls durable.
    pub unproven: u64,
    /// The last good batch's word on where the log starts.
    pub oldest: u64,
    /// Whether its last good batch is a seal.
    pub sealed: bool,
    /// Snapshot marks of all groups, as the checkpoint at its start and later records say.
    pub starts: BTreeMap<GroupId, (u64, u64)>,
}

impl Survey {
    /// Whether the segment was ever written to under this number.
    pub(super) fn alive(&self) -> bool {
        self.batches.is_some() || self.later.is_some() || self.marked > 0 || matches!(self.stop, Stop::Bad(_))
    }

    /// The highest sequence that this segment proves to have been durable.
    pub(super) fn bound(&self) -> u64 {
        self.marked.max(self.later.map_or(0, |later| later.durable))
    }

    /// End of what a torn write may have left behind `end`; `None` if there is no sign of one.
    pub(super) fn torn_until(&self) -> Option<u64> {
        let bad = matches!(self.stop, Stop::Bad(_)).then_some(self.end + BATCH_HEADER as u64);
        self.later.map(|later| later.end).max(bad)
    }
}

/// Reads a whole segment without delivering it.
pub(super) fn survey<F: DiskFile>(file: &F, log_id: u64, number: u64, check: bool) -> Result<Survey, DiskError> {
    let mut reader = SegmentReader::new(file, log_id, number, check)?;
    let header = reader.header()?;
    let marks = reader.marks()?;
    let mut survey = Survey {
        header,
        batches: None,
        end: BATCHES_AT,
        stop: Stop::Nothing,
        later: None,
        marked: marks.iter().map(|mark| mark.sequence).max().unwrap_or(0),
        turn: marks.iter().map(|mark| mark.turn).max().unwrap_or(0),
        unproven: BATCHES_AT,
        oldest: 0,
        sealed: false,
        starts: BTreeMap::new(),
    };
    if header.is_ok() {
        // Sequence and offset; one batch, or two at the start of a segment.
        let mut unproven: Vec<(u64, u64)> = Vec::new();
        survey.stop = loop {
            match reader.next()? {
                Err(stop) => break stop,
                Ok((offset, batch, records)) => {
                    unproven.retain(|(sequence, _)| *sequence > batch.durable);
                    unproven.push((batch.sequence, offset));
                    let first = survey.batches.map_or(batch.sequence, |(first, _)| first);
                    survey.batches = Some((first, batch.sequence));
                    survey.oldest = batch.oldest;
                    survey.sealed = false;
                    for record in Records(records) {
                        match record {
                            Record::SnapshotMark { group, index, term, .. } => {
                                let start = survey.starts.entry(group).or_insert((index, term));
                                if start.0 < index {
                                    *start = (index, term);
                                }
                            }
                            Record::Seal => survey.sealed = true,
                            _ => {}
                        }
                    }
                }
            }
        };
        survey.end = reader.offset;
        survey.unproven = unproven.first().map_or(BATCHES_AT, |(_, offset)| *offset);
    }
    survey.later = reader.search()?;
    Ok(survey)
}

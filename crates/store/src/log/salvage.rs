//! What a damaged log still holds, and a sound one in its place.
//!
//! [`salvage`] reads on behind damage and says which groups may have lost something there; it writes nothing. [`renew`] begins the log
//! anew behind the damaged segments with what its caller made of it: one new segment, whole before it gets its name, whose batches
//! say that the log starts there. A crash before that leaves the damaged log as it was; behind it the old segments are of the past.

use super::format::{self, BATCH_HEADER, BATCHES_AT, BatchHeader, Record};
use super::open::{names, segment_name};
use super::reader::{Records, SegmentReader, Stop};
use super::upkeep::Zeroing;
use super::verify::Damage;
use super::{Batch, GroupState, Log, LogError, LogOptions, Places};
use crate::disk::{Disk, DiskFile};
use base::GroupId;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the reading of a damaged log comes upon, in order.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// A record. A group's first is its mark, if it has one; entries at or below that are left out.
    Record(Record<'a>),
    /// Records that cannot be read: of which groups, as far as is known.
    Lost(Hit),
}

/// Whose records a damaged place held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// Anybody's.
    All,
    /// Those of the groups with these buckets.
    Buckets(u16),
}

impl Hit {
    /// Whether it may have held records of this group.
    pub fn may_be(self, group: GroupId) -> bool {
        match self {
            Hit::All => true,
            Hit::Buckets(buckets) => buckets & format::bucket(group) != 0,
        }
    }
}

/// A damaged log as a whole.
#[derive(Debug, Default)]
pub struct Salvaged {
    log_id: u64,
    node: u64,
    /// The highest number of a segment, and of a batch.
    highest: u64,
    sequence: u64,
    /// The damaged places.
    pub damage: Vec<Damage>,
    /// A torn write follows the last readable batch, and nothing proves that it was durable.
    pub torn: bool,
    /// Where the entries lie that can be read.
    pub places: Arc<Places>,
}

/// Reads a damaged log from its start to its end.
///
/// # Errors
/// `Disk` if the disk fails, `Refused` what `visit` says.
pub fn salvage<D: Disk>(
    disk: &D,
    options: &LogOptions,
    visit: &mut dyn FnMut(Found<'_>) -> Result<(), String>,
) -> Result<Salvaged, LogError> {
    let names = names(disk)?;
    let mut out = Salvaged { log_id: options.log_id, node: options.node, ..Salvaged::default() };
    out.highest = names.segments.keys().next_back().copied().unwrap_or(0);
    for (number, name) in names.segments.iter().rev() {
        let file = disk.open(name)?;
        if let Ok(header) = SegmentReader::new(&file, 0, *number, true)?.header()? {
            (out.log_id, out.node) = (header.log_id, header.node);
            break;
        }
    }
    // First: from where on, and from which marks.
    let (mut oldest, mut starts, mut bound) = (0, BTreeMap::<GroupId, (u64, u64)>::new(), 0);
    for (number, name) in &names.segments {
        let file = disk.open(name)?;
        let mut reader = SegmentReader::new(&file, out.log_id, *number, true)?;
        bound = reader.marks()?.iter().map(|mark| mark.sequence).max().unwrap_or(0).max(bound);
        while let Some((_, batch, records)) = read_on(&mut reader, &mut |_| {})? {
            oldest = oldest.max(batch.oldest);
            bound = bound.max(batch.durable);
            out.sequence = out.sequence.max(batch.sequence);
            for record in Records(&records) {
                if let Record::SnapshotMark { group, index, term, .. } = record {
                    let start = starts.entry(group).or_insert((index, term));
                    *start = (*start).max((index, term));
                }
            }
        }
        bound = bound.max(reader.search()?.map_or(0, |later| later.durable));
    }
    let mut tell = |found: Found<'_>| visit(found).map_err(LogError::Refused);
    for (&group, &(index, term)) in &starts {
        tell(Found::Record(Record::SnapshotMark { group, index, term, install: true }))?;
    }
    let mut expected = None;
    let last_read = out.sequence;
    let note =
        |number: u64, offset: u64, what: &str| Damage { file: segment_name(number), offset, what: what.to_owned() };
    for number in oldest.max(1)..=out.highest {
        let Some(name) = names.segments.get(&number) else {
            out.damage.push(note(number, 0, "the segment is missing"));
            tell(Found::Lost(Hit::All))?;
            continue;
        };
        let file = disk.open(name)?;
        let mut reader = SegmentReader::new(&file, out.log_id, number, true)?;
        loop {
            let mut holes = Vec::new();
            let next = read_on(&mut reader, &mut |hole| holes.push(hole))?;
            // A hole behind the last batch of all is damage only if something proves that it was durable: see below.
            let proven = next.is_some() || expected.is_none_or(|expected: u64| expected <= last_read);
            out.torn |= !proven && !holes.is_empty();
            let mut lost = None;
            for (offset, what, hit) in holes.into_iter().filter(|_| proven) {
                out.damage.push(note(number, offset, what));
                lost = match (lost, hit) {
                    (None, hit) => Some(hit),
                    (Some(Hit::Buckets(a)), Hit::Buckets(b)) => Some(Hit::Buckets(a | b)),
                    _ => Some(Hit::All),
                };
            }
            let Some((offset, batch, records)) = next else {
                if let Some(hit) = lost {
                    tell(Found::Lost(hit))?;
                }
                break;
            };
            if expected.is_some_and(|expected| batch.sequence != expected) && !matches!(lost, Some(Hit::Buckets(_))) {
                if lost.is_none() {
                    out.damage.push(note(number, BATCHES_AT, "batches before this are missing"));
                }
                lost = Some(Hit::All);
            }
            if let Some(hit) = lost {
                tell(Found::Lost(hit))?;
            }
            expected = batch.sequence.checked_add(1);
            for (at, record) in Records(&records).placed() {
                if let Record::Entry { group, index, .. } = record
                    && out.places.follows(group, index)
                {
                    out.places.note(number, offset + BATCH_HEADER as u64, std::iter::once((group, index, at)));
                }
                if let Record::SnapshotMark { group, index, install: true, .. } = record {
                    out.places.restart(group, index);
                }
                match record {
                    Record::Entry { group, index, .. } if index <= starts.get(&group).map_or(0, |start| start.0) => {}
                    Record::SnapshotMark { group, install: true, .. } => {
                        let (index, term) = starts.get(&group).copied().unwrap_or((0, 0));
                        tell(Found::Record(Record::SnapshotMark { group, index, term, install: true }))?;
                    }
                    Record::SnapshotMark { .. } => {}
                    record => tell(Found::Record(record))?,
                }
            }
        }
    }
    let read = expected.map_or(0, |expected| expected - 1);
    if bound > read || names.segments.is_empty() {
        out.damage.push(note(out.highest, 0, "batches that were durable cannot be read"));
        tell(Found::Lost(Hit::All))?;
    }
    out.sequence = out.sequence.max(bound);
    Ok(out)
}

/// Where a batch begins, its header and its records' bytes.
type Read = (u64, BatchHeader, Vec<u8>);

/// The next batch that can be read, and before it each place that cannot.
fn read_on<F: DiskFile>(
    reader: &mut SegmentReader<'_, F>,
    hole: &mut dyn FnMut((u64, &'static str, Hit)),
) -> Result<Option<Read>, LogError> {
    loop {
        reader.expected = None;
        let at = reader.offset;
        let stop = match reader.next()? {
            Ok((offset, batch, records)) => return Ok(Some((offset, batch, records.to_vec()))),
            Err(stop) => stop,
        };
        // A header that is whole vouches for the length, and for whose records they were.
        let (log_id, number, len) = (reader.log_id, reader.number, reader.window.len);
        let whole = BatchHeader::decode(reader.window.get(at, BATCH_HEADER)?, true)
            .filter(|header| header.log_id == log_id && header.segment == number && header.end(at) <= len);
        match (whole, stop) {
            (Some(header), Stop::Bad(what)) => {
                let buckets = header.flags & !format::FLAG_CHECKPOINT;
                let known = buckets != 0 && header.flags & format::FLAG_CHECKPOINT == 0;
                hole((at, what, if known { Hit::Buckets(buckets) } else { Hit::All }));
                reader.offset = header.end(at);
            }
            (_, stop) => {
                if !reader.skip_to_next()? {
                    if let Stop::Bad(what) = stop {
                        hole((at, what, Hit::All));
                    }
                    return Ok(None);
                }
                let what = if let Stop::Bad(what) = stop { what } else { "no batch can be read" };
                hole((at, what, Hit::All));
            }
        }
    }
}

/// Begins the log anew with these records, each group's mark before its entries. Then [`Log::open`] finds a sound log.
///
/// # Errors
/// `Full`, `Disk`: the log is as it was.
pub fn renew<D: Disk>(disk: &D, options: &LogOptions, salvaged: &Salvaged, batch: &mut Batch) -> Result<(), LogError> {
    let names = names(disk)?;
    for name in &names.unfinished {
        disk.remove(name)?;
    }
    let number = salvaged.highest + 1;
    let id = names.spares.iter().map(|(id, _)| id + 1).max().unwrap_or(1);
    // The checkpoint restates what the batch says of each group, and no more.
    let room = 2 * BATCHES_AT + 2 * batch.bytes() + BATCH_HEADER as u64;
    let capacity = options.segment_bytes.max(room).next_multiple_of(BATCHES_AT);
    let spare = Zeroing::whole(disk, id, capacity)?;
    let groups = batch.notes().iter().map(|(group, note)| {
        let state = GroupState { hard: note.hard, mark: note.mark.unwrap_or_default(), last: 0 };
        (*group, state)
    });
    let (identity, name) = ((salvaged.log_id, salvaged.node), spare.name.clone());
    let mut log = Log::begun(disk.clone(), options.clone(), identity, number, spare, id + 1);
    log.sequence = salvaged.sequence;
    log.groups = groups.collect();
    let end = log.write_checkpoint(salvaged.sequence + 1)?;
    if !batch.is_empty() {
        let header = log.header(salvaged.sequence + 2, number, 0);
        log.file.write_at(end, batch.seal_bytes(header))?;
    }
    log.file.sync()?;
    disk.rename(&name, &segment_name(number))?;
    disk.sync_dir()?;
    Ok(())
}

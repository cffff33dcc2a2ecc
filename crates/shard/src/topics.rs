//! Reading what topics hold, and filing away what the log lets go of. Pure over [`Disk`], so host and simulator run the same code.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base::GroupId;
use queue::batch;
use queue::extents::Copying;
use queue::partition::{Piece, Source};
use store::disk::{Disk, DiskError, ReadError, Wait};
use store::extent::{self, ExtentId, Owner, Row, Stretch};
use store::log::{self, LogError, Place, Places};

/// What topics hold, wherever it lies.
pub struct Stored<D: Disk> {
    log: log::Reader<D>,
    extents: extent::Reader<D>,
}

impl<D: Disk> Stored<D> {
    /// In this directory, and in the log whose places these are.
    pub fn new(disk: D, places: Arc<Places>) -> Stored<D> {
        Stored { log: log::Reader::new(disk.clone(), places), extents: extent::Reader::new(disk) }
    }

    /// Appends a piece's batches to `out`, stamped for a reader, and only those within its window. Each batch's checksum is looked at: whatever the disk made of it,
    /// no reader is given anything but what was written.
    ///
    /// # Errors
    /// `Gone` where the piece was planned before the log let go of it: plan again. See [`ReadError`]; then nothing was appended.
    pub fn read(&self, group: GroupId, piece: &Piece, out: &mut Vec<u8>, wait: Wait) -> Result<(), ReadError> {
        let begin = out.len();
        // A segment may be recycled between the look at the record's head and the read of its body: then the second look finds that.
        for _ in 0..2 {
            match piece.source {
                Source::Entry { index, at, bytes } => self.log.read(group, index, (at, bytes), out, wait)?,
                Source::Extent { file, at, bytes } => self.extents.read(file, (at, bytes), out, wait)?,
            }
            if batch::are_sound(&out[begin..]) {
                if !piece.is_stamped {
                    batch::stamp(&mut out[begin..], piece.base, piece.epoch, piece.append_time);
                }
                batch::keep(out, begin, piece.from, piece.until);
                return Ok(());
            }
            out.truncate(begin);
        }
        let what =
            format!("a record batch of {group} at offset {} fails its checksum ({:?})", piece.base, piece.source);
        Err(ReadError::Disk(DiskError::Failed(what)))
    }

    /// Files of the group that are not named have gone.
    pub fn forget_others(&self, group: GroupId, keep: &[ExtentId]) {
        self.extents.forget(|id| id.group == group && !keep.contains(&id));
    }
}

/// A run of batches shorter than this part of a segment is copied rather than linked: what is kept in memory of a file stays in
/// proportion to it.
const RUNS_MAX: u64 = 1024;

/// An extent file and what is in it.
pub type Filed = (ExtentId, Vec<Stretch>);

/// Files what the log is about to let go of: segments that hold little else are linked, the rest is copied into one file. In the order
/// in which [`queue::Queue::copied`] is to be told. Long work.
///
/// # Errors
/// `Damaged` where the log no longer holds what was written; `Full`, `Disk`. Then what was made is swept with the next snapshot.
pub fn file_away<D: Disk>(disk: &D, stored: &Stored<D>, copying: &Copying) -> Result<Vec<Filed>, LogError> {
    let mut filed = link(disk, stored, copying)?;
    let linked: BTreeSet<(Owner, u64)> =
        filed.iter().flat_map(|(_, stretches)| stretches.iter().map(|stretch| (stretch.owner, stretch.base))).collect();
    let mut rest = copying.runs().filter(|run| !linked.contains(&(run.owner, run.piece.base))).peekable();
    if rest.peek().is_none() {
        return Ok(filed);
    }
    let mut writer = extent::Writer::begin(disk, copying.file)?;
    let mut bytes = Vec::new();
    for run in rest {
        bytes.clear();
        stored.read(copying.file.group, &run.piece, &mut bytes, Wait::Yes).map_err(|error| match error {
            ReadError::Disk(error) => LogError::from(error),
            other => LogError::Misuse(format!("{other}: the log has let go of what was not copied yet")),
        })?;
        writer.put(run.owner, run.piece.base, run.piece.count, run.stamp, &bytes)?;
    }
    filed.push((copying.file, writer.finish()?));
    Ok(filed)
}

/// What a segment holds of a group that may stay there.
struct Segment {
    place: Place,
    room: u64,
    /// The last entry that has a part in it.
    index: u64,
    bytes: u64,
    stretches: Vec<Stretch>,
}

impl Segment {
    /// One that has gone holds nothing.
    fn new(place: Place, room: Option<u64>) -> Segment {
        Segment { place, room: room.unwrap_or(u64::MAX), index: 0, bytes: 0, stretches: Vec::new() }
    }
}

/// Links the segments of which runs that may stay as they are take more than a half: that many bytes at most lie there for nothing.
fn link<D: Disk>(disk: &D, stored: &Stored<D>, copying: &Copying) -> Result<Vec<Filed>, LogError> {
    let group = copying.file.group;
    // Where the log goes on is not sealed, and holds what the next snapshot will want.
    let Some(open) = stored.log.place(group, copying.file.index, 0) else { return Ok(Vec::new()) };
    let mut segments: BTreeMap<u32, Segment> = BTreeMap::new();
    for run in copying.runs() {
        let Source::Entry { index, at, bytes } = run.piece.source else { continue };
        let is_raw = !run.piece.is_stamped && run.piece.append_time.is_none();
        let place = stored.log.place(group, index, at).filter(|place| place.segment < open.segment);
        let Some(place) = place.filter(|_| is_raw) else { continue };
        let own = segments.entry(place.segment).or_insert_with(|| Segment::new(place, stored.log.room(place)));
        let bytes = u64::from(bytes);
        if bytes < own.room / RUNS_MAX {
            continue;
        }
        (own.index, own.bytes) = (own.index.max(index), own.bytes + bytes);
        let (base, position) = (run.piece.base, place.position);
        own.stretches.push(Stretch {
            owner: run.owner,
            base,
            end: base + run.piece.count,
            position,
            bytes,
            rows: vec![Row { base, position, stamp: run.stamp }],
            is_raw,
        });
    }
    let mut filed = Vec::new();
    for own in segments.into_values().filter(|own| own.bytes > own.room / 2) {
        let file = ExtentId { index: own.index, ..copying.file };
        // While the log knows a place in it, it is not handed on.
        let is_there = || stored.log.place(group, own.index, 0).is_some_and(|place| place.segment == own.place.segment);
        if extent::link(disk, file, &own.place.file(), &own.stretches, is_there)?.is_some() {
            filed.push((file, own.stretches));
        }
    }
    Ok(filed)
}

//! Reading what topics hold, and copying it out of the log. Pure over [`Disk`], so host and simulator run the same code.

use std::sync::Arc;

use base::GroupId;
use queue::batch;
use queue::extents::Copying;
use queue::partition::{Piece, Source};
use store::disk::{Disk, DiskError, ReadError, Wait};
use store::extent::{self, ExtentId, Stretch};
use store::log::{self, LogError, Places};

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

/// Copies what the log is about to let go of into an extent file. Long work.
///
/// # Errors
/// `Damaged` where the log no longer holds what was written; `Full`, `Disk`. Then there is no file.
pub fn copy<D: Disk>(disk: &D, stored: &Stored<D>, copying: &Copying) -> Result<Vec<Stretch>, LogError> {
    let mut writer = extent::Writer::begin(disk, copying.file)?;
    let mut bytes = Vec::new();
    for run in copying.runs() {
        bytes.clear();
        stored.read(copying.file.group, &run.piece, &mut bytes, Wait::Yes).map_err(|error| match error {
            ReadError::Disk(error) => LogError::from(error),
            other => LogError::Misuse(format!("{other}: the log has let go of what was not copied yet")),
        })?;
        writer.put(run.owner, run.piece.base, run.piece.count, run.stamp, &bytes)?;
    }
    writer.finish()
}

//! Room kept for the snapshot that a full disk needs most: the one after which old log segments can go.

use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::LogError;

const NAME: &str = "ballast";
const STEP: usize = 1 << 20;

/// Takes `bytes` of the disk so that nobody else does; nothing to do if they are taken already. Call it when there is
/// room, off the path of anything that waits: it writes that much.
///
/// # Errors
/// `Full`: there is no room to keep; none is taken. `Disk`.
pub fn hold_ballast<D: Disk>(disk: &D, bytes: u64) -> Result<(), LogError> {
    let mut file = match disk.open(NAME) {
        Ok(file) => file,
        Err(DiskError::NotFound) => disk.create(NAME)?,
        Err(error) => return Err(error.into()),
    };
    let mut at = file.len()?;
    let zeros = vec![0; STEP.min(usize::try_from(bytes.saturating_sub(at)).unwrap_or(STEP))];
    let filled = loop {
        if at >= bytes {
            break file.sync();
        }
        // Written, not only reserved: on a file system that shares or compresses blocks a reservation may hold nothing.
        let length = (bytes - at).min(zeros.len() as u64);
        if let Err(error) = file.write_at(at, &zeros[..length as usize]) {
            break Err(error);
        }
        at += length;
    };
    if let Err(error) = filled {
        drop(file);
        release_ballast(disk)?;
        return Err(error.into());
    }
    Ok(disk.sync_dir()?)
}

/// Gives the room back, for a snapshot that found none; true if there was any. [`hold_ballast`] again once the log has been
/// compacted.
pub fn release_ballast<D: Disk>(disk: &D) -> Result<bool, LogError> {
    match disk.remove(NAME) {
        Ok(()) => {
            disk.sync_dir()?;
            Ok(true)
        }
        Err(DiskError::NotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

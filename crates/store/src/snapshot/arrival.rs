//! A snapshot on its way from another node: its file, byte by byte, and checked before it counts.

use super::{SnapshotId, check, installed_name, parse_name, snapshot_name};
use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::LogError;
use base::GroupId;

/// The name of a snapshot of which parts are missing.
fn part_name(group: GroupId, index: u64) -> String {
    snapshot_name(group, index).replacen("snap", "recv", 1)
}

/// Which snapshot the name of a part speaks of.
pub(super) fn parse_part(name: &str) -> Option<(GroupId, u64)> {
    parse_name(&format!("snap{}", name.strip_prefix("recv")?))
}

pub(super) fn is_part(name: &str) -> bool {
    parse_part(name).is_some()
}

/// A snapshot file that another node sends. What has come stays where it is when the link breaks; [`Arrival::len`] says from
/// where on the rest is wanted. It does not survive a restart (see [`super::sweep`]).
pub struct Arrival<D: Disk> {
    disk: D,
    file: D::File,
    group: GroupId,
    index: u64,
    len: u64,
}

impl<D: Disk> Arrival<D> {
    /// Begins a file; one that was begun before is void.
    ///
    /// # Errors
    /// `Full`, `Disk`.
    pub fn begin(disk: &D, group: GroupId, index: u64) -> Result<Arrival<D>, LogError> {
        let name = part_name(group, index);
        match disk.remove(&name) {
            Ok(()) | Err(DiskError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let file = disk.create(&name)?;
        Ok(Arrival { disk: disk.clone(), file, group, index, len: 0 })
    }

    /// Whose snapshot it is, and which.
    pub fn id(&self) -> (GroupId, u64) {
        (self.group, self.index)
    }

    /// Bytes that have come.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing has come yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The next bytes of the file.
    ///
    /// # Errors
    /// `Full`, `Disk`: what is there is void then.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        self.file.write_at(self.len, bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// All has come: reads it through, and makes it durable under the name of one that has arrived. [`adopt`] or [`discard`] it.
    ///
    /// # Errors
    /// `Damaged` if it is not whole, or another one; `Disk`. Then the file is gone.
    pub fn finish(mut self) -> Result<SnapshotId, LogError> {
        let part = part_name(self.group, self.index);
        let checked = self.file.sync().map_err(LogError::from).and_then(|()| check(&self.disk, &part, &mut |_, _| {}));
        drop(self.file);
        match checked {
            Ok(id) => {
                self.disk.rename(&part, &installed_name(self.group, self.index))?;
                self.disk.sync_dir()?;
                Ok(id)
            }
            Err(error) => {
                let _ = self.disk.remove(&part);
                Err(error)
            }
        }
    }
}

/// The log says durably that the group starts behind this snapshot: from now on it is one like the others.
///
/// # Errors
/// `Disk`; nothing is lost by trying again, or by a restart.
pub fn adopt<D: Disk>(disk: &D, group: GroupId, index: u64) -> Result<(), LogError> {
    match disk.rename(&installed_name(group, index), &snapshot_name(group, index)) {
        Ok(()) => Ok(disk.sync_dir()?),
        Err(DiskError::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Nobody wants this one, which has arrived.
///
/// # Errors
/// `Disk`; it only costs room.
pub fn discard<D: Disk>(disk: &D, group: GroupId, index: u64) -> Result<(), LogError> {
    match disk.remove(&installed_name(group, index)) {
        Ok(()) | Err(DiskError::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

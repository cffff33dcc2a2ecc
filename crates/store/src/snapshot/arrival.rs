//! A snapshot on its way from another node: the extent files that it names and then its own, byte by byte as if they were one, and
//! checked before it counts.

use super::{SnapshotId, check, installed_name, parse_name, snapshot_name};
use crate::disk::{Disk, DiskError, DiskFile};
use crate::extent::{self, ExtentId};
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

/// What another node sends. What has come stays where it is when the link breaks; [`Arrival::len`] says from
/// where on the rest is wanted. It does not survive a restart (see [`super::sweep`], [`extent::sweep`]).
pub struct Arrival<D: Disk> {
    disk: D,
    group: GroupId,
    index: u64,
    /// The files in the order in which they come, the snapshot's last, each with where it ends.
    files: Vec<Part<D::File>>,
    len: u64,
}

struct Part<F> {
    file: F,
    /// `None` for the snapshot.
    extent: Option<ExtentId>,
    begin: u64,
    /// The snapshot's own has none.
    end: u64,
}

fn fresh<D: Disk>(disk: &D, name: &str) -> Result<D::File, DiskError> {
    match disk.remove(name) {
        Ok(()) | Err(DiskError::NotFound) => disk.create(name),
        Err(error) => Err(error),
    }
}

impl<D: Disk> Arrival<D> {
    /// Begins the files; what was begun before of them is void. The extent files come first, each so long.
    ///
    /// # Errors
    /// `Full`, `Disk`.
    pub fn begin(disk: &D, group: GroupId, index: u64, extents: &[(ExtentId, u64)]) -> Result<Arrival<D>, LogError> {
        let mut files = Vec::new();
        let mut begin = 0u64;
        for (id, bytes) in extents {
            let end = begin.checked_add(*bytes).ok_or(LogError::Misuse("files of no possible length".into()))?;
            files.push(Part { file: fresh(disk, &extent::part_name(*id))?, extent: Some(*id), begin, end });
            begin = end;
        }
        let file = fresh(disk, &part_name(group, index))?;
        files.push(Part { file, extent: None, begin, end: u64::MAX });
        Ok(Arrival { disk: disk.clone(), group, index, files, len: 0 })
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

    /// The next bytes.
    ///
    /// # Errors
    /// `Full`, `Disk`: what is there is void then.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), LogError> {
        while !bytes.is_empty() {
            let part = self.files.iter_mut().find(|part| self.len < part.end).expect("the last one has no end");
            let room = usize::try_from(part.end - self.len).unwrap_or(usize::MAX);
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            part.file.write_at(self.len - part.begin, now)?;
            self.len += now.len() as u64;
            bytes = rest;
        }
        Ok(())
    }

    /// All has come: reads it through, and makes it durable under the name of one that has arrived. [`adopt`] or [`discard`] it.
    ///
    /// # Errors
    /// `Damaged` if it is not whole, or another one; `Disk`. Then the files are gone.
    pub fn finish(self) -> Result<SnapshotId, LogError> {
        let Arrival { disk, group, index, files, .. } = self;
        let extents: Vec<ExtentId> = files.iter().filter_map(|part| part.extent).collect();
        let finished = || -> Result<SnapshotId, LogError> {
            for part in files {
                let Part { mut file, extent, .. } = part;
                file.sync()?;
                drop(file);
                if let Some(id) = extent {
                    extent::arrived(&disk, id, index)?;
                }
            }
            let part = part_name(group, index);
            let id = check(&disk, &part, &mut |_, _| {})?;
            disk.rename(&part, &installed_name(group, index))?;
            disk.sync_dir()?;
            Ok(id)
        };
        finished().inspect_err(|_| {
            let _ = disk.remove(&part_name(group, index));
            let _ = extent::discard(&disk, group, index);
            for id in extents {
                let _ = disk.remove(&extent::part_name(id));
            }
        })
    }
}

/// Whether such a snapshot has come whole and waits to be adopted.
pub(crate) fn has_arrived<D: Disk>(disk: &D, group: GroupId, index: u64) -> Result<bool, LogError> {
    match disk.open(&installed_name(group, index)) {
        Ok(_) => Ok(true),
        Err(DiskError::NotFound) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The log says durably that the group starts behind this snapshot: from now on it is one like the others, and so are the extent files
/// that came with it.
///
/// # Errors
/// `Disk`; nothing is lost by trying again, or by a restart.
pub fn adopt<D: Disk>(disk: &D, group: GroupId, index: u64) -> Result<(), LogError> {
    // First the files: as long as the snapshot has its first name, they are found by it.
    extent::adopt(disk, group, index)?;
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
    extent::discard(disk, group, index)?;
    match disk.remove(&installed_name(group, index)) {
        Ok(()) | Err(DiskError::NotFound) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

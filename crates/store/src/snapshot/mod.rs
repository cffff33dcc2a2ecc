//! Snapshot files: one per group and index, written piece by piece, whole or absent.
//!
//! ```text
//! header   0  magic u32   4  version u32   8  group u32   12 meta length u32   16 index u64   24 term u64
//!         32  meta crc u32                 36 crc u32 (of 0..36)
//! meta     the caller's bytes
//! chunk    0  length u32  4  crc u32 (of the header's crc, the chunk's number u64, length, bytes)   8  bytes
//! footer   0  u32::MAX    4  crc u32 (of the header's crc, and 8..32)
//!          8  chunks u64  16 bytes u64     24 crc u32 (over the chunks' crcs)     28 zero u32
//! ```
//!
//! Every checksum is bound to this header and to the chunk's place, so that chunks of another snapshot, left in the disk's
//! blocks, are never taken for this one's. A snapshot is written under another name, synced, renamed, and the directory
//! synced: a file called `snap-GROUP-INDEX.snap` was whole once, and what is wrong with it now is damage.
//!
//! A snapshot that another node made arrives byte by byte ([`Arrival`]) and is called `inst-GROUP-INDEX.snap` from when it is whole
//! until the log says that the group starts behind it ([`adopt`]): only such a one may reach further than the log.
//!
//! The order that keeps every acknowledged entry: finish the new snapshot, then tell the log ([`crate::log::Log::compact`]),
//! then remove older snapshots.

mod arrival;
mod ballast;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub(crate) use arrival::has_arrived;
pub use arrival::{Arrival, adopt, discard};
pub use ballast::{hold_ballast, release_ballast};
pub use reader::SnapshotReader;
pub use writer::SnapshotWriter;

use crate::disk::{Disk, DiskError};
use crate::log::LogError;
use base::GroupId;

/// Largest chunk, bytes. Keep to about 1 MiB: a chunk is held in memory whole, by writer and reader.
pub const CHUNK_BYTES_MAX: usize = 128 << 20;
/// Largest meta, bytes.
pub const META_BYTES_MAX: usize = 16 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"QSNP");
const VERSION: u32 = 1;
const HEADER: usize = 40;
const CHUNK_HEADER: usize = 8;
const FOOTER: usize = 32;
const FOOTER_MARK: u32 = u32::MAX;

/// A snapshot, by what it covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SnapshotId {
    /// Whose.
    pub group: GroupId,
    /// Last index that it covers.
    pub index: u64,
    /// Term of that index.
    pub term: u64,
}

/// The snapshot to load, and what had to be passed over for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picked {
    /// `None`: the group starts empty, all of it is in the log.
    pub snapshot: Option<SnapshotId>,
    /// Whether it came from another node and the log may not say so yet.
    pub installed: bool,
    /// Newer snapshots that are damaged; the log still holds what they covered. To be reported, then removed.
    pub damaged: Vec<LogError>,
}

/// The name of a snapshot's file.
pub fn snapshot_name(group: GroupId, index: u64) -> String {
    format!("snap-{:08x}-{index:016x}.snap", group.0)
}

/// The name of a snapshot that has arrived whole and that the log may not speak of yet.
fn installed_name(group: GroupId, index: u64) -> String {
    snapshot_name(group, index).replacen("snap", "inst", 1)
}

/// Which snapshot a file name speaks of.
pub fn parse_name(name: &str) -> Option<(GroupId, u64)> {
    let (group, index) = name.strip_prefix("snap-")?.strip_suffix(".snap")?.split_once('-')?;
    let id = (GroupId(u32::from_str_radix(group, 16).ok()?), u64::from_str_radix(index, 16).ok()?);
    (snapshot_name(id.0, id.1) == name).then_some(id)
}

/// The same for the name of one that has arrived.
fn parse_installed(name: &str) -> Option<(GroupId, u64)> {
    parse_name(&format!("snap{}", name.strip_prefix("inst")?))
}

/// Indexes of the group's snapshots, oldest first.
pub fn indexes<D: Disk>(disk: &D, group: GroupId) -> Result<Vec<u64>, LogError> {
    let mut indexes: Vec<u64> = disk
        .list()?
        .iter()
        .filter_map(|name| parse_name(name))
        .filter(|(have, _)| *have == group)
        .map(|(_, index)| index)
        .collect();
    indexes.sort_unstable();
    Ok(indexes)
}

/// Indexes of the group's snapshots that have arrived and not been adopted.
fn arrived<D: Disk>(disk: &D, group: GroupId) -> Result<Vec<u64>, LogError> {
    let names = disk.list()?;
    let ids = names.iter().filter_map(|name| parse_installed(name));
    Ok(ids.filter(|(have, _)| *have == group).map(|(_, index)| index).collect())
}

/// The group's newest snapshot as its name says, unread. `None`: it has none.
pub fn latest<D: Disk>(disk: &D, group: GroupId) -> Result<Option<u64>, LogError> {
    Ok(indexes(disk, group)?.pop())
}

/// The snapshot to start the group from, given where its log starts (`mark`, index and term, from the replay): the newest
/// whole one that the log joins on to. Every candidate is read through and checked before it is offered.
///
/// # Errors
/// [`LogError::Damaged`] if the log starts behind every snapshot that can be read: an older one would silently lose what
/// lies between, so there is none to offer.
pub fn pick<D: Disk>(disk: &D, group: GroupId, mark: (u64, u64)) -> Result<Picked, LogError> {
    let mut picked = Picked::default();
    let mut candidates: Vec<(u64, bool)> = indexes(disk, group)?.into_iter().map(|index| (index, false)).collect();
    candidates.extend(arrived(disk, group)?.into_iter().map(|index| (index, true)));
    candidates.sort_unstable_by_key(|(index, installed)| (std::cmp::Reverse(*index), *installed));
    for (index, installed) in candidates.into_iter().take_while(|(index, _)| *index >= mark.0) {
        let name = if installed { installed_name(group, index) } else { snapshot_name(group, index) };
        match check(disk, &name, &mut |_, _| {}) {
            Ok(id) if id.index == mark.0 && id.term != mark.1 => picked.damaged.push(LogError::Damaged {
                file: name,
                offset: 24,
                what: format!("the snapshot is of term {}, the log says {}", id.term, mark.1),
            }),
            Ok(id) => {
                picked.snapshot = Some(id);
                picked.installed = installed;
                return Ok(picked);
            }
            Err(error @ LogError::Damaged { .. }) => picked.damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    if mark.0 == 0 {
        return Ok(picked);
    }
    Err(picked.damaged.into_iter().next().unwrap_or_else(|| LogError::Damaged {
        file: snapshot_name(group, mark.0),
        offset: 0,
        what: "the snapshot is missing and the log starts after it".to_string(),
    }))
}

/// Reads a snapshot through; `progress` is told how many bytes of how many are done.
///
/// # Errors
/// [`LogError::Damaged`] with the first place that is wrong.
pub fn check<D: Disk>(disk: &D, name: &str, progress: &mut dyn FnMut(u64, u64)) -> Result<SnapshotId, LogError> {
    let mut reader = SnapshotReader::open_name(disk, name)?;
    let mut chunk = Vec::new();
    while reader.chunk(&mut chunk)? {
        progress(reader.offset(), reader.len());
    }
    Ok(reader.id())
}

/// Removes the group's snapshots older than `keep`, which must be durable, and whose mark must be in the log. Returns how
/// many went.
pub fn remove_older<D: Disk>(disk: &D, group: GroupId, keep: u64) -> Result<usize, LogError> {
    let indexes = indexes(disk, group)?;
    if !indexes.contains(&keep) {
        return Err(LogError::Misuse(format!("{group} has no snapshot at {keep} to keep")));
    }
    let mut gone = 0;
    for index in indexes.into_iter().filter(|index| *index < keep) {
        disk.remove(&snapshot_name(group, index))?;
        gone += 1;
    }
    for index in arrived(disk, group)?.into_iter().filter(|index| *index <= keep) {
        discard(disk, group, index)?;
        gone += 1;
    }
    if gone > 0 {
        disk.sync_dir()?;
    }
    Ok(gone)
}

/// Removes snapshots that were begun and never finished. For the start, when nobody is writing one.
pub fn sweep<D: Disk>(disk: &D) -> Result<usize, LogError> {
    let mut gone = 0;
    for name in disk.list()? {
        let unfinished = name.starts_with("snap-") && name.ends_with(".tmp");
        if unfinished || arrival::is_part(&name) {
            match disk.remove(&name) {
                Ok(()) => gone += 1,
                Err(DiskError::NotFound) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(gone)
}

/// The checksum of a chunk: bound to its snapshot and its place in it.
fn chunk_crc(header_crc: u32, number: u64, bytes: &[u8]) -> u32 {
    let mut bound = [0; 16];
    bound[..4].copy_from_slice(&header_crc.to_le_bytes());
    bound[4..12].copy_from_slice(&number.to_le_bytes());
    bound[12..].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&bound), bytes)
}

/// The footer's checksum.
fn footer_crc(header_crc: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&header_crc.to_le_bytes()), rest)
}

//! Reading a snapshot: piece by piece, nothing given out that was not checked.

use super::{
    CHUNK_BYTES_MAX, CHUNK_HEADER, FOOTER, FOOTER_MARK, HEADER, MAGIC, META_BYTES_MAX, SnapshotId, VERSION, arrived,
    chunk_crc, footer_crc, installed_name, parse_installed, parse_name, snapshot_name,
};
use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::LogError;
use base::GroupId;

/// A snapshot being read.
pub struct SnapshotReader<D: Disk> {
    file: D::File,
    name: String,
    len: u64,
    id: SnapshotId,
    header_crc: u32,
    meta: Vec<u8>,
    offset: u64,
    chunks: u64,
    bytes: u64,
    chunks_crc: u32,
    done: bool,
}

fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

impl<D: Disk> SnapshotReader<D> {
    /// Opens the group's snapshot at `index`.
    ///
    /// # Errors
    /// `Damaged`, also if there is none; `Disk`.
    pub fn open(disk: &D, group: GroupId, index: u64) -> Result<SnapshotReader<D>, LogError> {
        match SnapshotReader::open_name(disk, &snapshot_name(group, index)) {
            Err(LogError::Damaged { .. }) if arrived(disk, group)?.contains(&index) => {
                SnapshotReader::open_name(disk, &installed_name(group, index))
            }
            other => other,
        }
    }

    /// Opens by file name.
    pub(super) fn open_name(disk: &D, name: &str) -> Result<SnapshotReader<D>, LogError> {
        let damaged = |offset, what: &str| LogError::Damaged { file: name.to_string(), offset, what: what.to_string() };
        let file = match disk.open(name) {
            Err(DiskError::NotFound) => return Err(damaged(0, "the snapshot is missing")),
            other => other?,
        };
        let len = file.len()?;
        let mut head = [0; HEADER];
        if file.read_at(0, &mut head)? < HEADER || get_u32(&head, 0) != MAGIC {
            return Err(damaged(0, "not a snapshot"));
        }
        let header_crc = get_u32(&head, 36);
        if crc32c::crc32c(&head[..36]) != header_crc {
            return Err(damaged(0, "snapshot header fails its checksum"));
        }
        if get_u32(&head, 4) != VERSION {
            return Err(damaged(4, "snapshot of a format that this program does not know (written by a newer one?)"));
        }
        let id = SnapshotId { group: GroupId(get_u32(&head, 8)), index: get_u64(&head, 16), term: get_u64(&head, 24) };
        let named = parse_name(name).or_else(|| parse_installed(name)).or_else(|| super::arrival::parse_part(name));
        if named != Some((id.group, id.index)) {
            return Err(damaged(8, "the snapshot is another one than its name says"));
        }
        let meta_length = get_u32(&head, 12) as usize;
        if meta_length > META_BYTES_MAX || (HEADER + meta_length) as u64 > len {
            return Err(damaged(12, "snapshot is cut short"));
        }
        let mut meta = vec![0; meta_length];
        if file.read_at(HEADER as u64, &mut meta)? < meta_length || crc32c::crc32c(&meta) != get_u32(&head, 32) {
            return Err(damaged(HEADER as u64, "snapshot meta fails its checksum"));
        }
        Ok(SnapshotReader {
            file,
            name: name.to_string(),
            len,
            id,
            header_crc,
            meta,
            offset: (HEADER + meta_length) as u64,
            chunks: 0,
            bytes: 0,
            chunks_crc: 0,
            done: false,
        })
    }

    /// What it covers.
    pub fn id(&self) -> SnapshotId {
        self.id
    }

    /// What the writer was given as meta.
    pub fn meta(&self) -> &[u8] {
        &self.meta
    }

    /// Bytes read so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the file.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Never: a snapshot has a header at least.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Puts the next piece into `into`; false once all have been read and the footer agrees. Only then is the snapshot known
    /// to be whole.
    ///
    /// # Errors
    /// `Damaged` with the piece's place; `Disk`.
    pub fn chunk(&mut self, into: &mut Vec<u8>) -> Result<bool, LogError> {
        into.clear();
        if self.done {
            return Ok(false);
        }
        let mut head = [0; CHUNK_HEADER];
        if self.file.read_at(self.offset, &mut head)? < CHUNK_HEADER {
            return Err(self.damaged("snapshot ends without its footer"));
        }
        let (length, crc) = (get_u32(&head, 0), get_u32(&head, 4));
        if length == FOOTER_MARK {
            self.footer()?;
            return Ok(false);
        }
        let length = length as usize;
        let start = self.offset + CHUNK_HEADER as u64;
        if length == 0 || length > CHUNK_BYTES_MAX || start + length as u64 > self.len {
            return Err(self.damaged("snapshot chunk runs past the end of the file"));
        }
        into.resize(length, 0);
        if self.file.read_at(start, into)? < length || chunk_crc(self.header_crc, self.chunks, into) != crc {
            into.clear();
            return Err(self.damaged("snapshot chunk fails its checksum"));
        }
        self.offset = start + length as u64;
        self.chunks += 1;
        self.bytes += length as u64;
        self.chunks_crc = crc32c::crc32c_append(self.chunks_crc, &crc.to_le_bytes());
        Ok(true)
    }

    fn footer(&mut self) -> Result<(), LogError> {
        let mut footer = [0; FOOTER];
        if self.file.read_at(self.offset, &mut footer)? < FOOTER {
            return Err(self.damaged("snapshot footer is cut short"));
        }
        if footer_crc(self.header_crc, &footer[8..]) != get_u32(&footer, 4) {
            return Err(self.damaged("snapshot footer fails its checksum"));
        }
        let says = (get_u64(&footer, 8), get_u64(&footer, 16), get_u32(&footer, 24));
        if says != (self.chunks, self.bytes, self.chunks_crc) {
            return Err(self.damaged("snapshot has other chunks than its footer says"));
        }
        self.offset += FOOTER as u64;
        if self.offset != self.len {
            return Err(self.damaged("snapshot goes on after its footer"));
        }
        self.done = true;
        Ok(())
    }

    fn damaged(&self, what: &str) -> LogError {
        LogError::Damaged { file: self.name.clone(), offset: self.offset, what: what.to_string() }
    }
}

//! Writing a snapshot, fed by the caller in pieces.

use super::{
    CHUNK_BYTES_MAX, CHUNK_HEADER, FOOTER, FOOTER_MARK, HEADER, MAGIC, META_BYTES_MAX, SnapshotId, VERSION, chunk_crc,
    footer_crc, snapshot_name,
};
use crate::disk::{Disk, DiskError, DiskFile};
use crate::log::LogError;
use base::GroupId;

/// Bytes after which the writer syncs by itself: a log on the same disk then never waits behind a great heap of dirty
/// pages, and the sync at the end is short.
const SYNC_BYTES: u64 = 4 << 20;

/// A snapshot being written. Dropped before [`SnapshotWriter::finish`] it leaves only a file that [`super::sweep`] removes.
pub struct SnapshotWriter<D: Disk> {
    disk: D,
    file: D::File,
    id: SnapshotId,
    header_crc: u32,
    offset: u64,
    synced: u64,
    chunks: u64,
    bytes: u64,
    chunks_crc: u32,
    buffer: Vec<u8>,
    /// Something failed; a sync that succeeds after that would prove nothing.
    failed: bool,
    /// A bug put in on purpose: the name is not made durable.
    #[cfg(any(test, feature = "planted"))]
    pub planted_dir_not_synced: bool,
}

impl<D: Disk> SnapshotWriter<D> {
    /// Starts the snapshot of `group` up to and including `index`. `meta` is the caller's, given back by the reader.
    ///
    /// # Errors
    /// `Full`: no room. `Disk`: the disk failed. `Misuse`: meta above [`META_BYTES_MAX`].
    pub fn begin(disk: &D, group: GroupId, index: u64, term: u64, meta: &[u8]) -> Result<SnapshotWriter<D>, LogError> {
        if meta.len() > META_BYTES_MAX {
            return Err(LogError::Misuse(format!("snapshot meta of {} bytes", meta.len())));
        }
        let id = SnapshotId { group, index, term };
        let name = unfinished_name(id);
        match disk.remove(&name) {
            Ok(()) | Err(DiskError::NotFound) => {}
            Err(error) => return Err(error.into()),
        }
        let file = disk.create(&name)?;
        let mut head = vec![0; HEADER];
        head[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        head[4..8].copy_from_slice(&VERSION.to_le_bytes());
        head[8..12].copy_from_slice(&group.0.to_le_bytes());
        head[12..16].copy_from_slice(&(meta.len() as u32).to_le_bytes());
        head[16..24].copy_from_slice(&index.to_le_bytes());
        head[24..32].copy_from_slice(&term.to_le_bytes());
        head[32..36].copy_from_slice(&crc32c::crc32c(meta).to_le_bytes());
        let header_crc = crc32c::crc32c(&head[..36]);
        head[36..40].copy_from_slice(&header_crc.to_le_bytes());
        head.extend_from_slice(meta);
        let mut writer = SnapshotWriter {
            disk: disk.clone(),
            file,
            id,
            header_crc,
            offset: 0,
            synced: 0,
            chunks: 0,
            bytes: 0,
            chunks_crc: 0,
            buffer: Vec::new(),
            failed: false,
            #[cfg(any(test, feature = "planted"))]
            planted_dir_not_synced: false,
        };
        writer.write(&head)?;
        Ok(writer)
    }

    /// Adds a piece; the reader gives back the same pieces. About 1 MiB is a good size. An empty piece is left out.
    ///
    /// # Errors
    /// As [`SnapshotWriter::begin`]; after one, [`SnapshotWriter::abandon`] it.
    pub fn chunk(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err(LogError::Misuse(format!("snapshot chunk of {} bytes", bytes.len())));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let crc = chunk_crc(self.header_crc, self.chunks, bytes);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        buffer.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&crc.to_le_bytes());
        debug_assert_eq!(buffer.len(), CHUNK_HEADER, "length and checksum stand before a chunk");
        buffer.extend_from_slice(bytes);
        let written = self.write(&buffer);
        self.buffer = buffer;
        written?;
        self.chunks += 1;
        self.bytes += bytes.len() as u64;
        self.chunks_crc = crc32c::crc32c_append(self.chunks_crc, &crc.to_le_bytes());
        if self.offset - self.synced >= SYNC_BYTES {
            if let Err(error) = self.file.sync() {
                self.failed = true;
                return Err(error.into());
            }
            self.synced = self.offset;
        }
        Ok(())
    }

    /// Length of the file so far, bytes.
    pub fn file_bytes(&self) -> u64 {
        self.offset
    }

    /// Makes the snapshot whole and durable under its name.
    ///
    /// # Errors
    /// `Full` or `Disk`: there is no such snapshot; what was written is taken away as far as the disk lets us.
    pub fn finish(mut self) -> Result<SnapshotId, LogError> {
        let mut footer = [0; FOOTER];
        footer[0..4].copy_from_slice(&FOOTER_MARK.to_le_bytes());
        footer[8..16].copy_from_slice(&self.chunks.to_le_bytes());
        footer[16..24].copy_from_slice(&self.bytes.to_le_bytes());
        footer[24..28].copy_from_slice(&self.chunks_crc.to_le_bytes());
        let crc = footer_crc(self.header_crc, &footer[8..]);
        footer[4..8].copy_from_slice(&crc.to_le_bytes());
        let done = self.write(&footer).and_then(|()| Ok(self.file.sync()?));
        if let Err(error) = done {
            self.abandon();
            return Err(error);
        }
        self.disk.rename(&unfinished_name(self.id), &snapshot_name(self.id.group, self.id.index))?;
        #[cfg(any(test, feature = "planted"))]
        if self.planted_dir_not_synced {
            return Ok(self.id);
        }
        self.disk.sync_dir()?;
        Ok(self.id)
    }

    /// Gives up and frees the room.
    pub fn abandon(self) {
        let SnapshotWriter { disk, file, id, .. } = self;
        drop(file);
        // If this fails too, the next start sweeps it.
        let _ = disk.remove(&unfinished_name(id));
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), LogError> {
        if self.failed {
            return Err(LogError::Disk("the snapshot failed before".to_string()));
        }
        if let Err(error) = self.file.write_at(self.offset, bytes) {
            self.failed = true;
            return Err(error.into());
        }
        self.offset += bytes.len() as u64;
        Ok(())
    }
}

fn unfinished_name(id: SnapshotId) -> String {
    format!("snap-{:08x}-{:016x}.tmp", id.group.0, id.index)
}

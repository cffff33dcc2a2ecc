//! A data directory as [`store::disk::Disk`]: pread, pwrite, fdatasync, fallocate.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use store::disk::{Disk, DiskError, DiskFile};

/// One directory of files.
#[derive(Clone, Debug)]
pub struct Directory {
    path: Arc<PathBuf>,
}

/// An open file of a [`Directory`].
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    sync_delay: std::time::Duration,
}

/// Tests and benchmarks may slow every fdatasync down by this many microseconds (`QUORATE_SYNC_DELAY_US`): a slower disk.
fn sync_delay() -> std::time::Duration {
    static DELAY: std::sync::OnceLock<std::time::Duration> = std::sync::OnceLock::new();
    *DELAY.get_or_init(|| {
        let micros = std::env::var("QUORATE_SYNC_DELAY_US").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        std::time::Duration::from_micros(micros)
    })
}

fn disk_error(error: io::Error) -> DiskError {
    match error.kind() {
        ErrorKind::NotFound => DiskError::NotFound,
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => DiskError::Full,
        _ => DiskError::Failed(error.to_string()),
    }
}

impl Directory {
    /// The directory at this path, made if it is not there.
    pub fn open(path: &Path) -> io::Result<Directory> {
        std::fs::create_dir_all(path)?;
        Ok(Directory { path: Arc::new(path.to_owned()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes free for this user on its file system.
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(self.path.as_path()).ok()?;
        Some(stat.f_bavail * stat.f_frsize)
    }
}

impl Disk for Directory {
    type File = OpenFile;

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.path.as_path()).map_err(disk_error)? {
            let entry = entry.map_err(disk_error)?;
            if entry.file_type().map_err(disk_error)?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create(&self, name: &str) -> Result<OpenFile, DiskError> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name));
        Ok(OpenFile { file: file.map_err(disk_error)?, sync_delay: sync_delay() })
    }

    fn open(&self, name: &str) -> Result<OpenFile, DiskError> {
        let file = OpenOptions::new().read(true).write(true).open(self.path.join(name));
        Ok(OpenFile { file: file.map_err(disk_error)?, sync_delay: sync_delay() })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        std::fs::rename(self.path.join(from), self.path.join(to)).map_err(disk_error)
    }

    fn link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        std::fs::hard_link(self.path.join(from), self.path.join(to)).map_err(disk_error)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.path.join(name)).map_err(disk_error)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        File::open(self.path.as_path()).and_then(|directory| directory.sync_all()).map_err(disk_error)
    }
}

impl DiskFile for OpenFile {
    fn len(&self) -> Result<u64, DiskError> {
        Ok(self.file.metadata().map_err(disk_error)?.len())
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, DiskError> {
        let mut filled = 0;
        while filled < into.len() {
            match self.file.read_at(&mut into[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(disk_error(error)),
            }
        }
        Ok(filled)
    }

    fn read_ready(&self, offset: u64, into: &mut [u8]) -> Result<Option<usize>, DiskError> {
        use rustix::io::{Errno, ReadWriteFlags, preadv2};
        let mut filled = 0;
        while filled < into.len() {
            let mut rest = [io::IoSliceMut::new(&mut into[filled..])];
            match preadv2(&self.file, &mut rest, offset + filled as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(Errno::INTR) => {}
                // Not in memory, or a file system that cannot say.
                Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(None),
                Err(errno) => return Err(disk_error(errno.into())),
            }
        }
        Ok(Some(filled))
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        self.file.write_all_at(bytes, offset).map_err(disk_error)
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        if !self.sync_delay.is_zero() {
            std::thread::sleep(self.sync_delay);
        }
        // One call, never repeated: after a failure the kernel may have dropped the pages (fsyncgate).
        self.file.sync_data().map_err(disk_error)
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        match rustix::fs::fallocate(&self.file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(()),
            // A file system without it: the writes that follow find out whether there is room.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                if DiskFile::len(self)? < len {
                    self.file.set_len(len).map_err(disk_error)?;
                }
                Ok(())
            }
            Err(errno) => Err(disk_error(errno.into())),
        }
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len).map_err(disk_error)
    }
}

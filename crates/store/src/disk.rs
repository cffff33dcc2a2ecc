//! The files that a pure room may touch: one flat directory, named files, and the operations whose order decides what
//! survives a power cut.
//!
//! The room never opens a file itself; `host` implements these traits over pread, pwrite, fdatasync and fallocate, and
//! `sim` over memory that forgets. What every implementation promises:
//!
//! - Bytes written are durable after `sync` of that file returned `Ok`, and not before. The length is part of it.
//! - A name created, linked, renamed or removed is durable after `sync_dir` returned `Ok`, and not before.
//! - `rename` is atomic: after a crash either the old or the new name is there.
//! - Nothing is retried behind the caller's back: a failed `sync` is reported once, and what was written before it is in
//!   doubt for ever (the kernel may have thrown the pages away).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

/// Why a disk call failed, by what the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// No file of that name. The caller decides whether that is normal.
    NotFound,
    /// No room (ENOSPC, EDQUOT). Free some and try again.
    Full,
    /// The device or file system failed, or the call is wrong for this file. Stop using what it touched.
    Failed(String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskError::NotFound => f.write_str("no such file"),
            DiskError::Full => f.write_str("no space left on the disk"),
            DiskError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for DiskError {}

/// One directory of files. Clones speak of the same directory, so that background work can hold its own.
pub trait Disk: Clone + Send {
    /// An open file; reading and writing.
    type File: DiskFile;

    /// The names of all files, in ascending order (the order is behaviour). Subdirectories are left out.
    fn list(&self) -> Result<Vec<String>, DiskError>;
    /// A new empty file. A name that is taken is `Failed`.
    fn create(&self, name: &str) -> Result<Self::File, DiskError>;
    /// An existing file, for reading and writing.
    fn open(&self, name: &str) -> Result<Self::File, DiskError>;
    /// Gives the file another name, replacing whatever had it. Handles that are open stay valid.
    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Gives the file a second name; it is there until both are removed. `Failed` where the name is taken, or where the file system
    /// knows no such thing.
    fn link(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Takes the name away.
    fn remove(&self, name: &str) -> Result<(), DiskError>;
    /// Makes the names durable as they are now.
    fn sync_dir(&self) -> Result<(), DiskError>;
}

/// One open file.
pub trait DiskFile: Send + Sync {
    /// Length in bytes.
    fn len(&self) -> Result<u64, DiskError>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> Result<bool, DiskError> {
        Ok(self.len()? == 0)
    }
    /// Fills `into` from `offset` and returns how many bytes there were: fewer than asked only at the end of the file.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, DiskError>;
    /// Like [`DiskFile::read_at`] where nothing has to be waited for: `None` where a device would have to be asked, or nobody knows.
    fn read_ready(&self, offset: u64, into: &mut [u8]) -> Result<Option<usize>, DiskError> {
        let _ = (offset, into);
        Ok(None)
    }
    /// Writes all of `bytes`, growing the file where they reach past its end. After an error any part may be written.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError>;
    /// Makes bytes and length durable (fdatasync).
    fn sync(&mut self) -> Result<(), DiskError>;
    /// Reserves room up to `len` and makes the file at least that long (fallocate); new bytes read as zeros.
    fn allocate(&mut self, len: u64) -> Result<(), DiskError>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> Result<(), DiskError>;
}

/// A faultless disk in memory: for tests, and for reading bytes that are not on a disk at all. (The one that tears,
/// forgets and fills up is `sim::disk::VirtualDisk`.)
#[derive(Clone, Debug, Default)]
pub struct MemDisk {
    files: Arc<Mutex<BTreeMap<String, MemFile>>>,
}

/// A file of a [`MemDisk`].
#[derive(Clone, Debug, Default)]
pub struct MemFile {
    bytes: Arc<Mutex<Vec<u8>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere cannot leave a map or a vector half changed in a way that matters to a test.
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl MemDisk {
    /// An empty directory.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// Puts a file of these bytes, replacing any other.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        lock(&self.files).insert(name.to_string(), MemFile { bytes: Arc::new(Mutex::new(bytes)) });
    }

    /// A copy of a file's bytes.
    pub fn get(&self, name: &str) -> Option<Vec<u8>> {
        lock(&self.files).get(name).map(|file| lock(&file.bytes).clone())
    }

    /// A directory of its own with the same content.
    pub fn copy(&self) -> MemDisk {
        let copy = MemDisk::new();
        for (name, file) in lock(&self.files).iter() {
            copy.put(name, lock(&file.bytes).clone());
        }
        copy
    }
}

impl Disk for MemDisk {
    type File = MemFile;

    fn list(&self) -> Result<Vec<String>, DiskError> {
        Ok(lock(&self.files).keys().cloned().collect())
    }

    fn create(&self, name: &str) -> Result<MemFile, DiskError> {
        let mut files = lock(&self.files);
        if files.contains_key(name) {
            return Err(DiskError::Failed(format!("{name} exists")));
        }
        let file = MemFile::default();
        files.insert(name.to_string(), file.clone());
        Ok(file)
    }

    fn open(&self, name: &str) -> Result<MemFile, DiskError> {
        lock(&self.files).get(name).cloned().ok_or(DiskError::NotFound)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut files = lock(&self.files);
        let file = files.remove(from).ok_or(DiskError::NotFound)?;
        files.insert(to.to_string(), file);
        Ok(())
    }

    fn link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut files = lock(&self.files);
        let file = files.get(from).cloned().ok_or(DiskError::NotFound)?;
        if files.contains_key(to) {
            return Err(DiskError::Failed(format!("{to} exists")));
        }
        files.insert(to.to_string(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        lock(&self.files).remove(name).map(|_| ()).ok_or(DiskError::NotFound)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn len(&self) -> Result<u64, DiskError> {
        Ok(lock(&self.bytes).len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, DiskError> {
        let bytes = lock(&self.bytes);
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = into.len().min(bytes.len() - from);
        into[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn read_ready(&self, offset: u64, into: &mut [u8]) -> Result<Option<usize>, DiskError> {
        self.read_at(offset, into).map(Some)
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> Result<(), DiskError> {
        let mut bytes = lock(&self.bytes);
        let from = offset as usize;
        let end = from + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[from..end].copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        Ok(())
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        let mut bytes = lock(&self.bytes);
        if (bytes.len() as u64) < len {
            bytes.resize(len as usize, 0);
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        lock(&self.bytes).truncate(len as usize);
        Ok(())
    }
}

/// Whether a reader waits for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// It takes what is in memory, or nothing.
    No,
    /// It does.
    Yes,
}

/// Why bytes cannot be read from where they should lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// They are not there any more, or not yet.
    Gone,
    /// A device would have to be waited for ([`Wait::No`]).
    NotReady,
    /// The disk failed.
    Disk(DiskError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::Gone => out.write_str("what should be read is not there any more"),
            ReadError::NotReady => out.write_str("it is not in memory"),
            ReadError::Disk(error) => error.fmt(out),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<DiskError> for ReadError {
    fn from(error: DiskError) -> ReadError {
        match error {
            DiskError::NotFound => ReadError::Gone,
            other => ReadError::Disk(other),
        }
    }
}

/// Fills `into` from `offset` of the file; [`ReadError::Gone`] where the file ends before.
pub fn read_whole<F: DiskFile>(file: &F, offset: u64, into: &mut [u8], wait: Wait) -> Result<(), ReadError> {
    let got = match wait {
        Wait::Yes => file.read_at(offset, into)?,
        Wait::No => file.read_ready(offset, into)?.ok_or(ReadError::NotReady)?,
    };
    if got == into.len() { Ok(()) } else { Err(ReadError::Gone) }
}

/// Files that are kept open for readers, by what they are called; the least recently opened goes first.
pub struct OpenFiles<K, F> {
    files: Mutex<Vec<(K, Arc<F>)>>,
    most: usize,
}

impl<K: Copy + PartialEq, F> OpenFiles<K, F> {
    /// So many at most.
    pub fn new(most: usize) -> OpenFiles<K, F> {
        OpenFiles { files: Mutex::default(), most }
    }

    /// The file, opened if need be.
    ///
    /// # Errors
    /// What opening says.
    pub fn get(&self, key: K, open: impl FnOnce() -> Result<F, DiskError>) -> Result<Arc<F>, DiskError> {
        let mut files = lock(&self.files);
        if let Some((_, file)) = files.iter().find(|(have, _)| *have == key) {
            return Ok(file.clone());
        }
        let file = Arc::new(open()?);
        if files.len() >= self.most {
            files.remove(0);
        }
        files.push((key, file.clone()));
        Ok(file)
    }

    /// Whatever is called so may have become another file, or none.
    pub fn forget(&self, gone: impl Fn(K) -> bool) {
        lock(&self.files).retain(|(have, _)| !gone(*have));
    }
}

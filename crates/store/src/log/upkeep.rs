//! Work on files that must not hold up an append: making spare segments, recycling and removing old ones.
//!
//! A spare is written full of zeros and synced before it is used, because appending to a file that grows, or into extents
//! that were reserved but never written, makes every fdatasync write metadata too. A recycled segment needs no zeros: its
//! old batches name another segment number; one that has grown is kept as an extent file as well ([`crate::extent::link`]) and only
//! loses its name here. Nor does one for a log whose appends are large: to them the metadata are little,
//! while the zeros would take half of the disk's bandwidth just where it is short.

use super::LogError;
use super::open::spare_name;
use crate::disk::{Disk, DiskError, DiskFile};

/// Bytes of zeros written and synced in one step: small, so that an append's fdatasync never waits behind much.
const STEP_BYTES: u64 = 4 << 20;

/// A file ready to become the next segment.
#[derive(Debug)]
pub(super) struct Spare<F> {
    pub name: String,
    pub file: F,
    pub capacity: u64,
}

/// A file with zeros being written to it.
pub(super) struct Zeroing<D: Disk> {
    id: u64,
    file: D::File,
    capacity: u64,
    done: u64,
}

impl<D: Disk> Zeroing<D> {
    /// Without `zeros` the room is only reserved; it reads as zeros all the same.
    pub(super) fn begin(disk: &D, id: u64, capacity: u64, zeros: bool) -> Result<Zeroing<D>, DiskError> {
        let name = unfinished_name(id);
        let mut file = disk.create(&name)?;
        if let Err(error) = file.allocate(capacity) {
            drop(file);
            // What could not be made is taken away again; if that fails too, the next start does it.
            let _ = disk.remove(&name);
            return Err(error);
        }
        Ok(Zeroing { id, file, capacity, done: if zeros { 0 } else { capacity } })
    }

    /// Writes some zeros; true while there are more to write.
    fn step(&mut self) -> Result<bool, DiskError> {
        let length = STEP_BYTES.min(self.capacity - self.done);
        zero(&mut self.file, self.done, self.done + length)?;
        self.file.sync()?;
        self.done += length;
        Ok(self.done < self.capacity)
    }

    fn finish(self, disk: &D) -> Result<Spare<D::File>, DiskError> {
        let name = spare_name(self.id);
        disk.rename(&unfinished_name(self.id), &name)?;
        disk.sync_dir()?;
        Ok(Spare { name, file: self.file, capacity: self.capacity })
    }

    /// All of it at once.
    pub(super) fn whole(disk: &D, id: u64, capacity: u64) -> Result<Spare<D::File>, DiskError> {
        let mut zeroing = Zeroing::begin(disk, id, capacity, true)?;
        loop {
            match zeroing.step() {
                Ok(true) => {}
                Ok(false) => return zeroing.finish(disk),
                Err(error) => {
                    drop(zeroing);
                    let _ = disk.remove(&unfinished_name(id));
                    return Err(error);
                }
            }
        }
    }
}

fn unfinished_name(id: u64) -> String {
    format!("spare-{id:016x}.tmp")
}

/// Writes zeros over `from..to`.
pub(super) fn zero<F: DiskFile>(file: &mut F, from: u64, to: u64) -> Result<(), DiskError> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut at = from;
    while at < to {
        let length = (to - at).min(ZEROS.len() as u64);
        file.write_at(at, &ZEROS[..length as usize])?;
        at += length;
    }
    Ok(())
}

/// An old segment under a spare's name: what is in it no longer counts once this returned. `None`: it has not the length that it was made
/// with, for what is in it is needed elsewhere; then it has only lost its name.
pub(super) fn recycle<D: Disk>(
    disk: &D,
    name: &str,
    id: u64,
    capacity: Option<u64>,
) -> Result<Option<Spare<D::File>>, DiskError> {
    let file = disk.open(name)?;
    let length = file.len()?;
    if capacity.is_some_and(|capacity| capacity != length) {
        drop(file);
        disk.remove(name)?;
        disk.sync_dir()?;
        return Ok(None);
    }
    let spare = spare_name(id);
    disk.rename(name, &spare)?;
    disk.sync_dir()?;
    Ok(Some(Spare { name: spare, file, capacity: length }))
}

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Task {
    Remove { name: String },
    Recycle { name: String, id: u64, capacity: Option<u64> },
    Create { id: u64, capacity: u64, zeros: bool },
}

/// Upkeep of a log's files, in steps that block no append: give it to another thread, call [`Upkeep::step`] until it
/// says false or fails, then hand it to [`super::Log::finish_upkeep`] in every case.
pub struct Upkeep<D: Disk> {
    disk: D,
    /// Next one last.
    pub(super) tasks: Vec<Task>,
    zeroing: Option<Zeroing<D>>,
    pub(super) spares: Vec<Spare<D::File>>,
    removed: bool,
    pub(super) full: bool,
}

impl<D: Disk> Upkeep<D> {
    pub(super) fn new(disk: D, mut tasks: Vec<Task>, full: bool) -> Upkeep<D> {
        tasks.reverse();
        Upkeep { disk, tasks, zeroing: None, spares: Vec::new(), removed: false, full }
    }

    /// Does a piece of the work, at most a few megabytes of writing; true while there is more.
    ///
    /// # Errors
    /// `Full`: no room for a spare; what had been begun is gone again. `Disk`: the disk failed. Either way: hand it back.
    pub fn step(&mut self) -> Result<bool, LogError> {
        match self.try_step() {
            Ok(more) => Ok(more),
            Err(error) => {
                if let Some(zeroing) = self.zeroing.take() {
                    let name = unfinished_name(zeroing.id);
                    drop(zeroing);
                    let _ = self.disk.remove(&name);
                }
                self.full |= error == DiskError::Full;
                Err(error.into())
            }
        }
    }

    fn try_step(&mut self) -> Result<bool, DiskError> {
        if let Some(zeroing) = &mut self.zeroing {
            if zeroing.step()? {
                return Ok(true);
            }
            if let Some(zeroing) = self.zeroing.take() {
                self.spares.push(zeroing.finish(&self.disk)?);
            }
            return Ok(self.more());
        }
        match self.tasks.pop() {
            Some(Task::Remove { name }) => {
                match self.disk.remove(&name) {
                    Ok(()) | Err(DiskError::NotFound) => self.removed = true,
                    Err(error) => {
                        self.tasks.push(Task::Remove { name });
                        return Err(error);
                    }
                }
                Ok(self.more())
            }
            Some(Task::Recycle { name, id, capacity }) => {
                match recycle(&self.disk, &name, id, capacity) {
                    Ok(spare) => self.spares.extend(spare),
                    Err(error) => {
                        self.tasks.push(Task::Recycle { name, id, capacity });
                        return Err(error);
                    }
                }
                Ok(self.more())
            }
            Some(Task::Create { id, capacity, zeros }) => {
                self.zeroing = Some(Zeroing::begin(&self.disk, id, capacity, zeros)?);
                Ok(true)
            }
            None => {
                if std::mem::take(&mut self.removed) {
                    self.disk.sync_dir()?;
                }
                Ok(false)
            }
        }
    }

    fn more(&self) -> bool {
        !self.tasks.is_empty() || self.zeroing.is_some() || self.removed
    }
}

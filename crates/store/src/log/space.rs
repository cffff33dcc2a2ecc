//! Where the next batch goes: the current segment, the next one, the reserve; and the files that must be ready for it.

use super::format::{BATCH_HEADER, BATCHES_AT, RECORD_HEADER};
use super::open::segment_name;
use super::upkeep::{self, Task, Upkeep, Zeroing};
use super::{Before, Live, Log, LogError, Room};
use crate::disk::{Disk, DiskError};

/// Segments, spares included, that a log which has grown keeps for its next growth: to make one anew costs as much writing as what it
/// will hold. Given back where room is short.
const KEPT_MAX: usize = 8;
/// Where appends are this large on average, new segments are reserved without being written full of zeros.
pub(super) const HEAVY_BYTES: u64 = 512 << 10;
/// Bytes at the end of the reserve that only compaction marks and the seal may use.
const COMPACTION_BYTES: u64 = 1024;

impl<D: Disk> Log<D> {
    /// Whether an append of this size would find room, without trying: for refusing a write before it is proposed.
    pub fn room_for(&self, bytes: u64, room: Room) -> Result<(), LogError> {
        self.usable()?;
        let spares_needed = if room == Room::Normal { 2 } else { 1 };
        if self.fits(bytes, room)? || self.spares.len() >= spares_needed || !self.full {
            Ok(())
        } else {
            Err(LogError::Full)
        }
    }

    /// The work that the files need, if any: to be done elsewhere and brought back by [`Log::finish_upkeep`]. Only one at a
    /// time is handed out.
    pub fn upkeep(&mut self) -> Option<Upkeep<D>> {
        if self.upkeep_out || self.stopped.is_some() {
            return None;
        }
        let mut missing = self.options.spares.saturating_sub(self.spares.len());
        let (mut remove, mut recycle, mut create) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = self.disk_bytes();
        self.frugal |= self.full || self.options.bytes_max > 0;
        let kept = if self.frugal { 0 } else { KEPT_MAX };
        let mut surplus = kept.saturating_sub(self.live.len() + self.options.spares.max(self.spares.len()));
        if self.frugal {
            for spare in self.spares.drain(self.options.spares.min(self.spares.len())..) {
                bytes -= spare.capacity;
                remove.push(Task::Remove { name: spare.name });
            }
        }
        for (name, length) in std::mem::take(&mut self.retired) {
            if length == self.options.segment_bytes && (missing > 0 || surplus > 0) {
                if missing == 0 {
                    surplus -= 1;
                }
                missing = missing.saturating_sub(1);
                let capacity = self.options.links_respected().then_some(length);
                recycle.push(Task::Recycle { name, id: self.take_spare_id(), capacity });
            } else {
                bytes -= length;
                remove.push(Task::Remove { name });
            }
        }
        let mut limited = false;
        for _ in 0..missing {
            bytes += self.options.segment_bytes;
            if self.options.bytes_max > 0 && bytes > self.options.bytes_max {
                limited = true;
                break;
            }
            let zeros = self.usual_bytes < HEAVY_BYTES;
            create.push(Task::Create { id: self.take_spare_id(), capacity: self.options.segment_bytes, zeros });
        }
        // Old files first: on a full disk they are the room for new ones.
        remove.append(&mut recycle);
        remove.append(&mut create);
        if remove.is_empty() {
            self.full = limited;
            return None;
        }
        self.upkeep_out = true;
        Some(Upkeep::new(self.disk.clone(), remove, limited))
    }

    /// Somebody else found the disk full: from now on no old segments are kept beyond the spares asked for, and the next upkeep gives back
    /// those that are.
    pub fn save_room(&mut self) {
        self.frugal = true;
    }

    /// Takes back what [`Log::upkeep`] handed out, finished or not.
    pub fn finish_upkeep(&mut self, mut upkeep: Upkeep<D>) {
        self.upkeep_out = false;
        if !upkeep.spares.is_empty() {
            self.in_reserve = false;
        }
        self.full = upkeep.full;
        self.spares.append(&mut upkeep.spares);
        for task in upkeep.tasks.drain(..) {
            if let Task::Remove { name } | Task::Recycle { name, .. } = task {
                self.retired.push((name, self.options.segment_bytes));
            }
        }
    }

    /// All upkeep at once, in place.
    ///
    /// # Errors
    /// `Full`: no room for a spare; normal appends go on as long as they have room. `Disk`: a spare could not be made or an
    /// old file not removed; the log itself is not in doubt.
    pub fn prepare(&mut self) -> Result<(), LogError> {
        self.usable()?;
        let Some(mut upkeep) = self.upkeep() else {
            return if self.full { Err(LogError::Full) } else { Ok(()) };
        };
        let result = loop {
            match upkeep.step() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.finish_upkeep(upkeep);
        result
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.live.iter().map(|live| live.capacity).sum::<u64>()
            + self.spares.iter().map(|spare| spare.capacity).sum::<u64>()
            + self.retired.iter().map(|(_, length)| length).sum::<u64>()
    }

    pub(super) fn take_spare_id(&mut self) -> u64 {
        self.next_spare += 1;
        self.next_spare - 1
    }

    /// Most bytes that a checkpoint may take now.
    pub(super) fn checkpoint_bytes(&self) -> u64 {
        (BATCH_HEADER + RECORD_HEADER + self.groups.len() * (2 * RECORD_HEADER + 8)) as u64
    }

    /// Whether the current segment has room. Normal appends stay out of the reserve altogether.
    pub(super) fn fits(&self, bytes: u64, room: Room) -> Result<bool, LogError> {
        let Some(live) = self.live.back() else { return Ok(false) };
        if self.in_reserve && room == Room::Normal {
            return Err(LogError::Full);
        }
        let kept = if self.in_reserve && room == Room::Reserve { COMPACTION_BYTES } else { 0 };
        let opening = if self.untouched() { self.checkpoint_bytes() } else { 0 };
        Ok(live.used + opening + bytes + kept <= live.capacity)
    }

    /// Makes the next segment the current one.
    pub(super) fn rotate(&mut self, bytes: u64, room: Room) -> Result<(), LogError> {
        let need = BATCHES_AT + self.checkpoint_bytes() + bytes + COMPACTION_BYTES;
        let spare = if need > self.options.segment_bytes {
            // A batch of unusual size gets a file of its own; the reserve is for many small ones.
            self.unprepared += 1;
            let id = self.take_spare_id();
            self.allow(need)?;
            let made = Zeroing::whole(&self.disk, id, need.next_multiple_of(BATCHES_AT));
            self.full = matches!(made, Err(DiskError::Full));
            made?
        } else {
            let wanted = 2;
            while self.spares.len() < wanted {
                self.unprepared += 1;
                match self.make_spare() {
                    Ok(()) => {}
                    Err(LogError::Full) if room != Room::Normal && !self.spares.is_empty() => {
                        self.in_reserve = true;
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            self.spares.remove(0)
        };
        let number = self.live.back().map_or(1, |live| live.number + 1);
        let renamed = self.disk.rename(&spare.name, &segment_name(number)).and_then(|()| self.disk.sync_dir());
        if let Err(error) = renamed {
            return Err(self.stop(error));
        }
        self.live.push_back(Live { number, capacity: spare.capacity, used: BATCHES_AT, highest: Vec::new() });
        let file = std::mem::replace(&mut self.file, spare.file);
        self.before = Some(Before { file, number: number - 1, mark_turn: self.mark_turn });
        self.marked = 0;
        self.mark_turn = 0;
        Ok(())
    }

    /// Whether the byte limit leaves room for `more`.
    pub(super) fn allow(&mut self, more: u64) -> Result<(), LogError> {
        let over = self.options.bytes_max > 0 && self.disk_bytes() + more > self.options.bytes_max;
        self.full |= over;
        if over { Err(LogError::Full) } else { Ok(()) }
    }

    /// One more spare, in place: an old segment if there is one, else a new file.
    pub(super) fn make_spare(&mut self) -> Result<(), LogError> {
        let (id, capacity) = (self.take_spare_id(), self.options.segment_bytes);
        while let Some(at) = self.retired.iter().position(|(_, length)| *length == capacity) {
            let (name, _) = self.retired.remove(at);
            let recycled = upkeep::recycle(&self.disk, &name, id, Some(capacity));
            self.full = matches!(recycled, Err(DiskError::Full));
            if let Some(spare) = recycled? {
                self.spares.push(spare);
                return Ok(());
            }
        }
        self.allow(capacity)?;
        let made = Zeroing::whole(&self.disk, id, capacity);
        self.full = matches!(made, Err(DiskError::Full));
        self.spares.push(made?);
        Ok(())
    }
}

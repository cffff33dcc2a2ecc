//! The log: one per node, shared by all its groups, in segment files of a fixed size.
//!
//! # The idea
//! Everything that waits is one [`Batch`]; a batch is one write and one fdatasync; when [`Log::append`] returns, all of it
//! is durable. Segments are full of zeros before they are used (see [`Upkeep`]), so an append never grows a file.
//!
//! ```text
//! 0000000000000007.log   [header, marks][checkpoint][batch][batch] … [batch]
//! 0000000000000008.log   [header, marks][checkpoint][batch]          <- the end; zeros, or a former life's bytes, follow
//! spare-0000000000000009.log                                         <- next segment, and the reserve
//! ```
//!
//! Every segment begins with a checkpoint, a batch that restates each group's hard state and snapshot mark. So a segment
//! may go as soon as no group needs an entry in it, and the last segment alone tells where every group's log starts.
//!
//! # Torn or rotten?
//! Batches are numbered without gaps, and each names the last one that was durable before it was written (its *durable
//! position*). When a batch cannot be read where one is due, the log looks for proof that it was durable: a later batch
//! header, in this segment or the next, or one of the segment's two *marks*, which [`Log::mark_durable`] and [`Log::seal`]
//! write, and every change of segment in the one that is full. With proof it is damage: [`LogError::Damaged`], nothing is cut, the node does not start. Without proof it is the
//! end, and what is left of a torn write there is cut and zeroed.
//!
//! **What a lone node cannot tell.** The last batch before a power cut has no successor. If it cannot be read, it was
//! either never acknowledged (torn) or acknowledged and then spoiled (rotten); both look the same, and it is cut. The
//! window is that batch, or a stretch of rot that takes every batch from some place to the end and so all proof;
//! `mark_durable`, called when the log falls idle, closes it: after that the end is proven too. If nothing is left of a
//! batch's header (zeroed), there is no trace to report either: the cut is empty. And a data directory whose segments were
//! all deleted, with no snapshot left, is a new one to the log.
//!
//! # Full disk
//! The spares are the room that is certain. One of them is the *reserve*: an append with [`Room::Normal`] never takes it
//! and gets [`LogError::Full`] instead; [`Room::Reserve`] (deletes, expiry) does take it; the last bytes of that are kept
//! for compaction marks. Once [`Log::prepare`] has made a spare again, normal appends go on.
//!
//! # Failed disk
//! After a failed fsync nobody knows what the disk holds, so the log stops: every later call is [`LogError::Stopped`], and
//! only a restart goes on. Even that must not believe what it reads, which may come from pages that the kernel keeps and
//! will never write: opening writes the last batch, the one without proof, once more before it syncs.
//!
//! This room knows nothing about Raft's rules, threads or files of the operating system.

mod batch;
mod format;
mod fuzz;
mod mend;
mod open;
mod places;
mod reader;
mod salvage;
mod space;
#[cfg(test)]
mod tests;
mod upkeep;
mod verify;
mod words;
mod write;

pub use batch::Batch;
pub use format::Record;
pub use fuzz::fuzz;
pub use places::{Place, Places, Reader};
pub(crate) use reader::segment_capacity;
pub use salvage::{Found, Hit, Salvaged, renew, salvage};
pub use upkeep::Upkeep;
pub use verify::{Damage, GroupReport, Progress, Report, verify};
#[cfg(any(test, feature = "planted"))]
pub use words::Planted;
pub use words::{Appended, Cut, LogError, LogOptions, Position, Recovery, Room, Status, Visit};

use crate::disk::{Disk, DiskError};
use base::GroupId;
use format::{BATCH_BYTES_MAX, BATCHES_AT};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use upkeep::Spare;

/// What the log remembers of a group.
#[derive(Clone, Copy, Debug, Default)]
struct GroupState {
    /// Term, vote, commit.
    hard: Option<(u64, u64, u64)>,
    /// Index and term after which the group's log starts.
    mark: (u64, u64),
    /// Last index.
    last: u64,
}

/// A segment of the log.
#[derive(Debug)]
struct Live {
    number: u64,
    capacity: u64,
    used: u64,
    /// Highest entry index per group.
    highest: Vec<(GroupId, u64)>,
}

/// The segment that was full, as far as its marks go.
struct Before<F> {
    file: F,
    number: u64,
    mark_turn: u64,
}

/// The log, open for appending. One per data directory; the caller sees to that (a lock file is the host's business).
pub struct Log<D: Disk> {
    disk: D,
    options: LogOptions,
    log_id: u64,
    node: u64,
    /// In order of number; the last is being written.
    live: VecDeque<Live>,
    /// The last segment's file.
    file: D::File,
    /// The segment before it, until that has been told that this one exists.
    before: Option<Before<D::File>>,
    /// Last batch; always durable.
    sequence: u64,
    /// Highest sequence that a mark of the current segment says.
    marked: u64,
    mark_turn: u64,
    groups: BTreeMap<GroupId, GroupState>,
    spares: Vec<Spare<D::File>>,
    /// Old files: name and length.
    retired: Vec<(String, u64)>,
    next_spare: u64,
    upkeep_out: bool,
    in_reserve: bool,
    full: bool,
    /// Room has been short since the start: see [`Log::save_room`].
    frugal: bool,
    /// Moving average of an append, bytes.
    usual_bytes: u64,
    unprepared: u64,
    stopped: Option<String>,
    checkpoint: Batch,
    page: Vec<u8>,
    places: Arc<Places>,
}

/// Whether nothing of a log is there: neither a segment nor a snapshot of what one held. Makes nothing, so whoever knows that
/// there was a log can refuse before [`Log::open`] makes a new one.
///
/// # Errors
/// `Disk` if the disk fails.
pub fn is_absent<D: Disk>(disk: &D) -> Result<bool, LogError> {
    let names = open::names(disk)?;
    Ok(names.segments.is_empty() && names.snapshots == 0)
}

impl<D: Disk> Log<D> {
    /// Opens the log, or makes one in a directory that has none, and delivers what it holds in order.
    ///
    /// Per group the visitor sees: a [`Record::SnapshotMark`] if its log does not start at 1, then entries without a gap
    /// (one whose index is not above the last replaces it and all that follow). A mark that comes later means that no entry
    /// delivered so far counts. Hard states come in order; the last one counts.
    ///
    /// A new log has no spares yet, so no reserve either: call [`Log::prepare`] or do its [`Log::upkeep`] soon after.
    ///
    /// Memory: one batch at a time.
    ///
    /// # Errors
    /// [`LogError::Damaged`] before anything on disk was changed; `Refused` likewise; `Full` if a new log finds no room;
    /// `Disk` if the disk failed.
    pub fn open(disk: D, options: LogOptions, visit: Visit<'_>) -> Result<(Log<D>, Recovery), LogError> {
        Log::open_with_progress(disk, options, visit, &mut |_, _| {})
    }

    /// Like [`Log::open`]; `progress` is told the segment and the byte in it after every batch.
    pub fn open_with_progress(
        disk: D,
        options: LogOptions,
        visit: Visit<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Log<D>, Recovery), LogError> {
        Log::open_guarded(disk, options, visit, progress, &mut |_| Ok(()))
    }

    /// Like [`Log::open_with_progress`]; `before` is told what was found before anything on the disk is changed: a tail that will be
    /// cut leaves no trace.
    pub fn open_guarded(
        disk: D,
        mut options: LogOptions,
        visit: Visit<'_>,
        progress: &mut dyn FnMut(u64, u64),
        before: &mut dyn FnMut(&Recovery) -> Result<(), LogError>,
    ) -> Result<(Log<D>, Recovery), LogError> {
        options.segment_bytes = options.segment_bytes.max(2 * BATCHES_AT).next_multiple_of(BATCHES_AT);
        options.spares = options.spares.max(2);
        match open::plan(&disk, &options)? {
            Some(plan) => {
                let replay = open::replay(&plan, &options, visit, progress)?;
                before(&replay.recovery)?;
                Log::mend(disk, options, plan, replay)
            }
            None => Log::make(disk, options, visit),
        }
    }

    /// Makes the batch durable: one write, one fdatasync (a second small write at the start of a segment). The batch is
    /// left as it is, to be cleared or tried again. An empty batch costs nothing.
    ///
    /// # Errors
    /// `Full`, `TooLarge`, `Misuse`, `Disk` (no next segment could be made): nothing was appended and nothing of it will
    /// ever be seen. `Stopped`: whether it was
    /// appended is unknown until the log is opened again.
    pub fn append(&mut self, batch: &mut Batch, room: Room) -> Result<Appended, LogError> {
        self.usable()?;
        if batch.is_empty() {
            return Ok(Appended { position: self.end(), bytes: 0 });
        }
        self.check(batch)?;
        let bytes = batch.bytes();
        if bytes > BATCH_BYTES_MAX {
            return Err(LogError::TooLarge { bytes, limit: BATCH_BYTES_MAX });
        }
        if !self.fits(bytes, room)? {
            self.rotate(bytes, room)?;
        }
        self.usual_bytes = (self.usual_bytes * 15 + bytes) / 16;
        self.write(batch)
    }

    /// Says that the group's log starts after `index`, makes that durable, and retires the segments that no group needs
    /// any more; [`Log::prepare`] or [`Upkeep`] then recycles or removes their files. The snapshot that covers the group
    /// up to `index` must be durable before. Returns how many segments were retired.
    ///
    /// # Errors
    /// As [`Log::append`]; it may use the whole reserve.
    pub fn compact(&mut self, group: GroupId, index: u64, term: u64) -> Result<usize, LogError> {
        let before = self.oldest();
        let mut batch = Batch::new();
        batch.snapshot_mark(group, index, term, false);
        self.append(&mut batch, Room::Compaction)?;
        // Not by the list of retired files: turning to a new segment may take one of those.
        Ok((self.oldest() - before) as usize)
    }

    /// Writes down that everything so far is durable, so that the last batch is proven too (see "Torn or rotten?"). Call
    /// it when the log has fallen idle. One small write and one fdatasync; nothing if it is known already.
    ///
    /// # Errors
    /// `Stopped`, also from now on if the disk fails here.
    pub fn mark_durable(&mut self) -> Result<(), LogError> {
        self.usable()?;
        if self.marked >= self.sequence || self.untouched() {
            return Ok(());
        }
        self.write_mark(false)
    }

    /// A clean stop: appends a seal and marks it durable. After this nothing is ever cut. The log takes no more appends.
    ///
    /// # Errors
    /// `Stopped` if the log had stopped before or stops here.
    pub fn seal(&mut self) -> Result<(), LogError> {
        self.usable()?;
        let mut batch = Batch::new();
        batch.record(&Record::Seal);
        match self.append(&mut batch, Room::Compaction) {
            // Not even room for that: the mark alone proves the rest.
            Ok(_) | Err(LogError::Full) => {}
            Err(error) => return Err(error),
        }
        if !self.untouched() {
            self.write_mark(true)?;
        }
        self.stopped = Some("it was sealed".to_string());
        Ok(())
    }

    /// Figures for people and metrics.
    pub fn status(&self) -> Status {
        let pinned = self.live.front().filter(|_| self.live.len() > 1).and_then(|oldest| {
            let over = |(group, high): &&(GroupId, u64)| *high > self.mark_of(*group);
            oldest.highest.iter().find(over).copied()
        });
        Status {
            segments: self.live.len(),
            spares: self.spares.len(),
            retired: self.retired.len(),
            used_bytes: self.live.iter().map(|live| live.used).sum(),
            disk_bytes: self.disk_bytes(),
            sequence: self.sequence,
            oldest: self.oldest(),
            current: self.live.back().map_or(0, |live| live.number),
            in_reserve: self.in_reserve,
            full: self.full,
            stopped: self.stopped.clone(),
            unprepared: self.unprepared,
            pinned,
        }
    }

    /// Where the group's log starts: index and term of the last entry that a snapshot covers, zeros if it starts at 1.
    pub fn mark(&self, group: GroupId) -> (u64, u64) {
        self.groups.get(&group).map_or((0, 0), |state| state.mark)
    }

    /// Where entries lie, for [`Reader`]s.
    pub fn places(&self) -> &Arc<Places> {
        &self.places
    }

    /// Last index of the group's log.
    pub fn last_index(&self, group: GroupId) -> u64 {
        self.groups.get(&group).map_or(0, |state| state.last)
    }

    /// The end of the log: the last batch's sequence, and where the next one would start in the current segment.
    pub fn end(&self) -> Position {
        let (segment, offset) = self.live.back().map_or((0, 0), |live| (live.number, live.used));
        Position { sequence: self.sequence, segment, offset }
    }

    fn usable(&self) -> Result<(), LogError> {
        match &self.stopped {
            Some(why) => Err(LogError::Stopped(why.clone())),
            None => Ok(()),
        }
    }

    fn stop(&mut self, error: DiskError) -> LogError {
        let why = error.to_string();
        self.stopped = Some(why.clone());
        LogError::Stopped(why)
    }

    fn current(&mut self) -> &mut Live {
        self.live.back_mut().expect("a log always has a segment")
    }

    /// Whether the current segment has no batch yet.
    fn untouched(&self) -> bool {
        self.live.back().is_none_or(|live| live.used == BATCHES_AT)
    }

    fn oldest(&self) -> u64 {
        self.live.front().map_or(0, |live| live.number)
    }

    fn mark_of(&self, group: GroupId) -> u64 {
        self.mark(group).0
    }
}

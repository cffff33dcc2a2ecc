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
//! only a restart, which reads what is really there, goes on.
//!
//! This room knows nothing about Raft's rules, threads or files of the operating system.

mod batch;
mod format;
mod fuzz;
mod open;
mod reader;
#[cfg(test)]
mod tests;
mod upkeep;
mod verify;

pub use batch::Batch;
pub use format::Record;
pub use fuzz::fuzz;
pub use upkeep::Upkeep;
pub use verify::{Damage, GroupReport, Progress, Report, verify};

use crate::disk::{Disk, DiskError, DiskFile};
use base::GroupId;
use format::{BATCH_BYTES_MAX, BATCH_HEADER, BATCHES_AT, BatchHeader, MARKS_AT, Mark, RECORD_HEADER, SegmentHeader};
use open::{raise, segment_name};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use upkeep::{Spare, Task, Zeroing};

/// Bytes at the end of the reserve that only compaction marks and the seal may use.
const COMPACTION_BYTES: u64 = 1024;

/// What receives the records of a replay. An error stops it and comes back as [`LogError::Refused`].
pub type Visit<'a> = &'a mut dyn FnMut(Record<'_>) -> Result<(), String>;

/// Bugs put in on purpose, for the tests that must catch them.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// Reading believes bytes whose checksum is wrong.
    pub crc_not_checked: bool,
    /// An append returns before its bytes are durable.
    pub ack_before_fsync: bool,
}

/// How a log is kept.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Length of a segment file, bytes; a batch that does not fit gets a segment of its own size.
    pub segment_bytes: u64,
    /// Spare segments to keep ready; at least 2, of which the last is the reserve.
    pub spares: usize,
    /// Most bytes of all the log's files together; 0 = as much as the disk has. Reached, it is like a full disk.
    pub bytes_max: u64,
    /// Identity given to the log if it is new: random, so that no other log's bytes (nor a client's, made up to look like
    /// a batch) are taken for this one's.
    pub log_id: u64,
    /// The node given to the log if it is new.
    pub node: u64,
    /// See [`Planted`].
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            spares: 2,
            bytes_max: 0,
            log_id: 0,
            node: 1,
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }
}

impl LogOptions {
    fn crc_checked(&self) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.crc_not_checked {
            return false;
        }
        true
    }

    fn sync_before_ack(&self) -> bool {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.ack_before_fsync {
            return false;
        }
        true
    }
}

/// Why the log did not do it, by what the caller must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// Something that was durable cannot be read. Do not start; tell the operator the file and offset.
    Damaged {
        /// Name within the data directory.
        file: String,
        /// Where in it, bytes.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// No room. Nothing was appended; the log is usable. Refuse writes, free room, call [`Log::prepare`].
    Full,
    /// The log has stopped for good (a failed write or fsync, or a seal). Answer errors; restart to go on.
    Stopped(String),
    /// The batch can never be appended: bytes and the limit. Nothing was appended.
    TooLarge {
        /// Bytes of the batch.
        bytes: u64,
        /// Most that a batch may have.
        limit: u64,
    },
    /// The batch contradicts the log (a hole in a group's entries, a mark that goes back): a bug of the caller. Nothing was
    /// appended.
    Misuse(String),
    /// The disk failed while reading or during upkeep; the log itself is not in doubt.
    Disk(String),
    /// The visitor of a replay refused a record.
    Refused(String),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogError::Damaged { file, offset, what } => write!(f, "{file} is damaged at byte {offset}: {what}"),
            LogError::Full => f.write_str("no room for the log"),
            LogError::Stopped(why) => write!(f, "the log has stopped: {why}"),
            LogError::TooLarge { bytes, limit } => write!(f, "a batch of {bytes} bytes is above the limit of {limit}"),
            LogError::Misuse(what) => write!(f, "wrong use of the log: {what}"),
            LogError::Disk(why) => write!(f, "disk: {why}"),
            LogError::Refused(why) => write!(f, "the log's content was refused: {why}"),
        }
    }
}

impl std::error::Error for LogError {}

impl From<DiskError> for LogError {
    fn from(error: DiskError) -> LogError {
        match error {
            DiskError::Full => LogError::Full,
            DiskError::NotFound => LogError::Disk("a file vanished while in use".to_string()),
            DiskError::Failed(why) => LogError::Disk(why),
        }
    }
}

/// Which room an append may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// All but the reserve.
    Normal,
    /// The reserve too: deletes, expiry, whatever frees room.
    Reserve,
    /// Down to the last byte: snapshot marks and hard states that go with them.
    Compaction,
}

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the batch, from 1, without gaps.
    pub sequence: u64,
    /// Number of the segment.
    pub segment: u64,
    /// Where in the segment's file the batch starts.
    pub offset: u64,
}

/// A batch that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where.
    pub position: Position,
    /// Bytes that it took.
    pub bytes: u64,
}

/// A torn tail that was cut off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which file.
    pub file: String,
    /// From where.
    pub offset: u64,
    /// Up to how many bytes of it showed traces of a batch.
    pub bytes: u64,
}

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// There was no log; a new one was made.
    pub fresh: bool,
    /// The log ended with a clean stop.
    pub sealed: bool,
    /// What was cut off: never acknowledged, or see "What a lone node cannot tell".
    pub cut: Option<Cut>,
    /// Batches read.
    pub batches: u64,
    /// Records read.
    pub records: u64,
    /// Entries delivered.
    pub entries: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Segments of the log.
    pub segments: usize,
    /// Sequence of the last batch.
    pub sequence: u64,
    /// Identity of the log.
    pub log_id: u64,
    /// The node that it belongs to.
    pub node: u64,
}

/// The log's state, for people and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Segments of the log.
    pub segments: usize,
    /// Spare files ready.
    pub spares: usize,
    /// Old segments waiting for upkeep.
    pub retired: usize,
    /// Bytes of batches.
    pub used_bytes: u64,
    /// Bytes of all the log's files.
    pub disk_bytes: u64,
    /// Sequence of the last batch; all up to it is durable.
    pub sequence: u64,
    /// Number of the oldest segment and of the one being written.
    pub oldest: u64,
    /// See `oldest`.
    pub current: u64,
    /// Only deletes and compaction are taken, out of the reserve.
    pub in_reserve: bool,
    /// The last try to make a spare found no room.
    pub full: bool,
    /// Why the log stopped, if it did.
    pub stopped: Option<String>,
    /// Segments that had to be made while an append waited.
    pub unprepared: u64,
    /// The group that keeps the oldest segment, and the index up to which it would have to be compacted.
    pub pinned: Option<(GroupId, u64)>,
}

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
    unprepared: u64,
    stopped: Option<String>,
    checkpoint: Batch,
    page: Vec<u8>,
}

impl<D: Disk> Log<D> {
    /// Opens the log, or makes one in a directory that has none, and delivers what it holds in order.
    ///
    /// Per group the visitor sees: a [`Record::SnapshotMark`] if its log does not start at 1, then entries without a gap
    /// (one whose index is not above the last replaces it and all that follow). A mark that comes later means that no entry
    /// delivered so far counts. Hard states come in order; the last one counts.
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
        mut options: LogOptions,
        visit: Visit<'_>,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<(Log<D>, Recovery), LogError> {
        options.segment_bytes = options.segment_bytes.max(2 * BATCHES_AT).next_multiple_of(BATCHES_AT);
        options.spares = options.spares.max(2);
        match open::plan(&disk, &options)? {
            Some(plan) => {
                let replay = open::replay(&plan, &options, visit, progress)?;
                Log::mend(disk, options, plan, replay)
            }
            None => Log::make(disk, options, visit),
        }
    }

    /// A new log. Its first segment gets its name only when it is whole.
    fn make(disk: D, options: LogOptions, visit: Visit<'_>) -> Result<(Log<D>, Recovery), LogError> {
        let names = open::names(&disk)?;
        for name in names.unfinished.iter().chain(names.spares.iter().map(|(_, name)| name)) {
            disk.remove(name)?;
        }
        let (log_id, node) = (options.log_id, options.node);
        let spare = Zeroing::whole(&disk, 1, options.segment_bytes)?;
        let mut log = Log {
            disk,
            log_id,
            node,
            live: VecDeque::from([Live { number: 1, capacity: spare.capacity, used: BATCHES_AT, highest: Vec::new() }]),
            file: spare.file,
            before: None,
            sequence: 0,
            marked: 0,
            mark_turn: 0,
            groups: BTreeMap::new(),
            spares: Vec::new(),
            retired: Vec::new(),
            next_spare: 2,
            upkeep_out: false,
            in_reserve: false,
            full: false,
            unprepared: 0,
            stopped: None,
            checkpoint: Batch::new(),
            page: Vec::new(),
            options,
        };
        let end = log.write_checkpoint(1)?;
        log.file.sync()?;
        log.disk.rename(&spare.name, &segment_name(1))?;
        log.disk.sync_dir()?;
        log.sequence = 1;
        log.current().used = end;
        visit(Record::Node { log_id, node }).map_err(LogError::Refused)?;
        let recovery = Recovery { fresh: true, segments: 1, sequence: 1, log_id, node, ..Recovery::default() };
        Ok((log, recovery))
    }

    /// Brings the files into the state that the plan found them to mean, and makes sure that what was read is durable.
    fn mend(
        disk: D,
        options: LogOptions,
        plan: open::Plan<D::File>,
        replay: open::Replay,
    ) -> Result<(Log<D>, Recovery), LogError> {
        let mut next_spare = plan.names.spares.iter().map(|(id, _)| id + 1).max().unwrap_or(1);
        for name in &plan.names.unfinished {
            disk.remove(name)?;
        }
        let mut live = VecDeque::new();
        let mut last_file = None;
        for ((number, file), replayed) in plan.live.into_iter().zip(replay.segments) {
            live.push_back(Live { number, capacity: file.len()?, used: replayed.used, highest: replayed.highest });
            last_file = Some(file);
        }
        let mut file = last_file.expect("a plan has at least one segment");
        let end = live.back().map_or(BATCHES_AT, |last| last.used);
        if plan.last.torn_until().is_some() {
            // Zeroed to the end: no later recovery may find this torn write again and take part of it for good.
            let length = file.len()?;
            upkeep::zero(&mut file, end, length)?;
        }
        // After a crash of the process alone, what was read may still be on its way to the disk.
        file.sync()?;

        let mut spares = Vec::new();
        for (number, touched) in plan.unused {
            let name = segment_name(number);
            let mut unused = disk.open(&name)?;
            let capacity = unused.len()?;
            if touched {
                upkeep::zero(&mut unused, 0, capacity)?;
                unused.sync()?;
            }
            spares.push(upkeep::recycle(&disk, &name, next_spare)?);
            next_spare += 1;
        }
        for (_, name) in &plan.names.spares {
            let file = disk.open(name)?;
            let capacity = file.len()?;
            spares.push(Spare { name: name.clone(), file, capacity });
        }
        let mut kept = Vec::new();
        for spare in spares {
            if spare.capacity == options.segment_bytes && kept.len() < options.spares {
                kept.push(spare);
            } else {
                disk.remove(&spare.name)?;
            }
        }
        let mut retired = Vec::new();
        for number in plan.retired {
            let name = segment_name(number);
            let length = disk.open(&name)?.len()?;
            retired.push((name, length));
        }
        disk.sync_dir()?;
        let mut log = Log {
            disk,
            options,
            log_id: plan.log_id,
            node: plan.node,
            live,
            file,
            before: None,
            sequence: replay.sequence,
            marked: plan.last.marked,
            mark_turn: plan.last.turn,
            groups: replay.groups,
            spares: kept,
            retired,
            next_spare,
            upkeep_out: false,
            in_reserve: false,
            full: false,
            unprepared: 0,
            stopped: None,
            checkpoint: Batch::new(),
            page: Vec::new(),
        };
        log.write_mark(false)?;
        if log.spares.is_empty() {
            // A log that was in its reserve when it stopped must not forget that.
            match log.make_spare() {
                Ok(()) => {}
                Err(LogError::Full) => log.in_reserve = true,
                Err(error) => return Err(error),
            }
        }
        Ok((log, replay.recovery))
    }

    /// Makes the batch durable: one write, one fdatasync (a second small write at the start of a segment). The batch is
    /// left as it is, to be cleared or tried again. An empty batch costs nothing.
    ///
    /// # Errors
    /// `Full`, `TooLarge`, `Misuse`: nothing was appended and nothing of it will ever be seen. `Stopped`: whether it was
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
        self.write(batch)
    }

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

    /// Says that the group's log starts after `index`, makes that durable, and retires the segments that no group needs
    /// any more; [`Log::prepare`] or [`Upkeep`] then recycles or removes their files. The snapshot that covers the group
    /// up to `index` must be durable before. Returns how many segments were retired.
    ///
    /// # Errors
    /// As [`Log::append`]; it may use the whole reserve.
    pub fn compact(&mut self, group: GroupId, index: u64, term: u64) -> Result<usize, LogError> {
        let before = self.retired.len();
        let mut batch = Batch::new();
        batch.snapshot_mark(group, index, term, false);
        self.append(&mut batch, Room::Compaction)?;
        Ok(self.retired.len() - before)
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

    /// The work that the files need, if any: to be done elsewhere and brought back by [`Log::finish_upkeep`]. Only one at a
    /// time is handed out.
    pub fn upkeep(&mut self) -> Option<Upkeep<D>> {
        if self.upkeep_out || self.stopped.is_some() {
            return None;
        }
        let mut missing = self.options.spares.saturating_sub(self.spares.len());
        let (mut remove, mut recycle, mut create) = (Vec::new(), Vec::new(), Vec::new());
        let mut bytes = self.disk_bytes();
        for (name, length) in std::mem::take(&mut self.retired) {
            if missing > 0 && length == self.options.segment_bytes {
                missing -= 1;
                recycle.push(Task::Recycle { name, id: self.take_spare_id() });
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
            create.push(Task::Create { id: self.take_spare_id(), capacity: self.options.segment_bytes });
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

    fn disk_bytes(&self) -> u64 {
        self.live.iter().map(|live| live.capacity).sum::<u64>()
            + self.spares.iter().map(|spare| spare.capacity).sum::<u64>()
            + self.retired.iter().map(|(_, length)| length).sum::<u64>()
    }

    fn take_spare_id(&mut self) -> u64 {
        self.next_spare += 1;
        self.next_spare - 1
    }

    /// The laws that a batch must keep; breaking one would be found at the next start, when it is too late.
    fn check(&self, batch: &Batch) -> Result<(), LogError> {
        for (group, note) in batch.notes() {
            let state = self.groups.get(group).copied().unwrap_or_default();
            if note.gap || note.first.is_some_and(|first| first > state.last + 1) {
                let last = state.last;
                return Err(LogError::Misuse(format!(
                    "entries of {group} do not follow each other, or its last, {last}"
                )));
            }
            if note.mark.is_some_and(|(index, _)| index < state.mark.0) {
                let mark = state.mark.0;
                return Err(LogError::Misuse(format!("the snapshot mark of {group} would go back from {mark}")));
            }
        }
        Ok(())
    }

    /// Most bytes that a checkpoint may take now.
    fn checkpoint_bytes(&self) -> u64 {
        (BATCH_HEADER + RECORD_HEADER + self.groups.len() * (2 * RECORD_HEADER + 8)) as u64
    }

    /// Whether the current segment has room. Normal appends stay out of the reserve altogether.
    fn fits(&self, bytes: u64, room: Room) -> Result<bool, LogError> {
        let Some(live) = self.live.back() else { return Ok(false) };
        if self.in_reserve && room == Room::Normal {
            return Err(LogError::Full);
        }
        let kept = if self.in_reserve && room == Room::Reserve { COMPACTION_BYTES } else { 0 };
        let opening = if self.untouched() { self.checkpoint_bytes() } else { 0 };
        Ok(live.used + opening + bytes + kept <= live.capacity)
    }

    /// Makes the next segment the current one.
    fn rotate(&mut self, bytes: u64, room: Room) -> Result<(), LogError> {
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
    fn allow(&mut self, more: u64) -> Result<(), LogError> {
        let over = self.options.bytes_max > 0 && self.disk_bytes() + more > self.options.bytes_max;
        self.full |= over;
        if over { Err(LogError::Full) } else { Ok(()) }
    }

    /// One more spare, in place: an old segment if there is one, else a new file.
    fn make_spare(&mut self) -> Result<(), LogError> {
        let id = self.take_spare_id();
        let fit = self.retired.iter().position(|(_, length)| *length == self.options.segment_bytes);
        let made = match fit {
            Some(at) => {
                let (name, _) = self.retired.remove(at);
                upkeep::recycle(&self.disk, &name, id)
            }
            None => {
                self.allow(self.options.segment_bytes)?;
                Zeroing::whole(&self.disk, id, self.options.segment_bytes)
            }
        };
        self.full = matches!(made, Err(DiskError::Full));
        self.spares.push(made?);
        Ok(())
    }

    /// The segment's page and a checkpoint as the batch `sequence`; returns where it ends.
    fn write_checkpoint(&mut self, sequence: u64) -> Result<u64, DiskError> {
        let Live { number, capacity, .. } = *self.current();
        self.checkpoint.clear();
        self.checkpoint.record(&Record::Node { log_id: self.log_id, node: self.node });
        for (&group, state) in &self.groups {
            if let Some((term, vote, commit)) = state.hard {
                self.checkpoint.hard_state(group, term, vote, commit);
            }
            if state.mark.0 > 0 {
                self.checkpoint.snapshot_mark(group, state.mark.0, state.mark.1, false);
            }
        }
        let oldest = self.oldest();
        let header = self.header(sequence, oldest, format::FLAG_CHECKPOINT);
        self.page.clear();
        self.page.resize(BATCHES_AT as usize, 0);
        SegmentHeader { log_id: self.log_id, node: self.node, number, capacity }.encode_page(&mut self.page);
        self.page.extend_from_slice(self.checkpoint.seal_bytes(header));
        self.file.write_at(0, &self.page)?;
        Ok(self.page.len() as u64)
    }

    fn header(&self, sequence: u64, oldest: u64, flags: u16) -> BatchHeader {
        BatchHeader {
            flags,
            length: 0,
            count: 0,
            log_id: self.log_id,
            segment: self.live.back().map_or(0, |live| live.number),
            sequence,
            durable: self.sequence,
            oldest,
            records_crc: 0,
        }
    }

    /// The number of the oldest segment that is needed once `batch` is durable.
    fn oldest_with(&self, batch: &Batch) -> u64 {
        if batch.notes().iter().all(|(_, note)| note.mark.is_none()) {
            return self.oldest();
        }
        let mark = |group: GroupId| {
            let new = batch.notes().iter().find(|(have, _)| *have == group).and_then(|(_, note)| note.mark);
            self.mark_of(group).max(new.map_or(0, |(index, _)| index))
        };
        let needed = |live: &&Live| live.highest.iter().any(|(group, high)| *high > mark(*group));
        let current = self.live.back().map_or(0, |live| live.number);
        self.live.iter().find(needed).map_or(current, |live| live.number.min(current))
    }

    fn write(&mut self, batch: &mut Batch) -> Result<Appended, LogError> {
        let opening = self.untouched();
        let oldest = self.oldest_with(batch);
        let mut sequence = self.sequence + 1;
        let mut offset = self.live.back().map_or(0, |live| live.used);
        if opening {
            match self.write_checkpoint(sequence) {
                Ok(end) => offset = end,
                Err(error) => return Err(self.unwrite(&[BATCHES_AT], error)),
            }
            sequence += 1;
        }
        let header = self.header(sequence, oldest, 0);
        let written = {
            let bytes = batch.seal_bytes(header);
            self.file.write_at(offset, bytes).map(|()| bytes.len() as u64)
        };
        let bytes = match written {
            Ok(bytes) => bytes,
            Err(error) if opening => return Err(self.unwrite(&[BATCHES_AT, offset], error)),
            Err(error) => return Err(self.unwrite(&[offset], error)),
        };
        if self.options.sync_before_ack()
            && let Err(error) = self.file.sync()
        {
            // Never again, whatever the error says: the pages may be gone and a second fsync would call them durable.
            return Err(self.stop(error));
        }
        self.sequence = sequence;
        self.remember(batch, offset + bytes);
        if let Some(before) = self.before.take() {
            self.announce(before);
        }
        self.retire(oldest);
        let segment = self.live.back().map_or(0, |live| live.number);
        Ok(Appended { position: Position { sequence, segment, offset }, bytes })
    }

    /// After a write that found no room: what it may have left must never be read as a batch. Then the log is as before.
    fn unwrite(&mut self, offsets: &[u64], error: DiskError) -> LogError {
        if error != DiskError::Full {
            return self.stop(error);
        }
        for offset in offsets {
            if let Err(error) = self.file.write_at(*offset, &[0; BATCH_HEADER]) {
                return self.stop(error);
            }
        }
        match self.file.sync() {
            Ok(()) => {
                self.full = true;
                LogError::Full
            }
            Err(error) => self.stop(error),
        }
    }

    fn remember(&mut self, batch: &Batch, end: u64) {
        for (group, note) in batch.notes() {
            if note.highest > 0 {
                raise(&mut self.current().highest, *group, note.highest);
            }
            let state = self.groups.entry(*group).or_default();
            if let Some(hard) = note.hard {
                state.hard = Some(hard);
            }
            if let Some(mark) = note.mark {
                state.mark = mark;
            }
            state.last = note.last.unwrap_or(state.last).max(state.mark.0);
        }
        self.current().used = end;
    }

    fn retire(&mut self, oldest: u64) {
        while self.live.len() > 1 && self.oldest() < oldest {
            if let Some(old) = self.live.pop_front() {
                self.retired.push((segment_name(old.number), old.capacity));
            }
        }
    }

    /// Marks in the segment before this one that the log went on, so that a last segment that vanishes whole is missed.
    /// The append that led here is durable either way; a disk that fails now stops the log for the next one.
    fn announce(&mut self, mut before: Before<D::File>) {
        let turn = before.mark_turn + 1;
        let mark = Mark { sealed: false, log_id: self.log_id, number: before.number, sequence: self.sequence, turn };
        let at = MARKS_AT[(turn % 2) as usize];
        if let Err(error) = before.file.write_at(at, &mark.encode()).and_then(|()| before.file.sync()) {
            self.stop(error);
        }
    }

    fn write_mark(&mut self, sealed: bool) -> Result<(), LogError> {
        let number = self.current().number;
        let turn = self.mark_turn + 1;
        let mark = Mark { sealed, log_id: self.log_id, number, sequence: self.sequence, turn };
        let at = MARKS_AT[(turn % 2) as usize];
        if let Err(error) = self.file.write_at(at, &mark.encode()).and_then(|()| self.file.sync()) {
            return Err(self.stop(error));
        }
        self.mark_turn = turn;
        self.marked = self.sequence;
        Ok(())
    }
}

//! One partition: which offsets lie where, whose they are, and what a reader may see of them.
//!
//! ```text
//!        start                       stable        high
//!          ├──── may be read by all ───┼─ of open ────┤  next offset to be given out
//!                                        transactions
//!   rows   [0..3 | entry 17, byte 96] [3..4 | entry 19, byte 80] …   in chunks, which a snapshot shares
//! ```
//!
//! What a snapshot has made the log let go of lies in extent files (`extents`); the rows are of what the log holds.
//!
//! A row is what one produce stored: adjacent batches of one entry. All that has been applied is committed, so the high
//! watermark is the next offset. The last stable offset is where the oldest open transaction began.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::Millis;
use store::extent::ExtentId;

use crate::batch::{self, Run};
use crate::code::Code;
use crate::command::{Clean, Entered};
use crate::extents::Held;
use crate::limits::{ABORTED_MAX, EPOCHS_MAX};
use crate::marks::Marked;
use crate::outcome::Outcome;
use crate::producer::{self, Ongoing, Producer, Verdict};

/// Rows of one chunk.
const CHUNK_ROWS: usize = 256;

/// Where a run of batches lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its first offset.
    pub base: u64,
    /// Offsets that it takes.
    pub count: u32,
    /// Its bytes.
    pub bytes: u32,
    /// The largest timestamp, or the time of append.
    pub stamp: i64,
    /// The entry that holds it.
    pub index: u64,
    /// Where in that entry's data it begins.
    pub at: u32,
    /// Whether readers see the time of append.
    pub append_time: bool,
    /// Whether compaction has put it there: its batches are stamped already, and have gaps between them.
    pub is_cleaned: bool,
}

impl Row {
    /// The offset behind its last.
    pub fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }
}

impl Row {
    /// How a reader gets it.
    pub(crate) fn piece(&self, epoch: i32, (from, until): (u64, u64)) -> Piece {
        let source = Source::Entry { index: self.index, at: self.at, bytes: self.bytes };
        let append_time = self.append_time.then_some(self.stamp);
        let is_stamped = self.is_cleaned;
        Piece { base: self.base, count: u64::from(self.count), epoch, append_time, source, is_stamped, from, until }
    }
}

/// The epoch of the leader that stored what is at this offset.
pub(crate) fn epoch_at(epochs: &[(i32, u64)], offset: u64) -> i32 {
    let older = epochs.partition_point(|(_, first)| *first <= offset);
    epochs[..older].last().or(epochs.first()).map_or(0, |(epoch, _)| *epoch)
}

/// Some rows, shared with a snapshot that is being written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    rows: Vec<Row>,
    stamp: i64,
}

impl Chunk {
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Forgets rows at its front.
    fn drop_front(&mut self, count: usize) {
        self.rows.drain(..count);
        self.stamp = self.rows.iter().map(|row| row.stamp).max().unwrap_or(i64::MIN);
    }
}

/// A transaction that readers of committed records pass over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose.
    pub producer: i64,
    /// Its first offset here.
    pub first: u64,
    /// That of its marker.
    pub last: u64,
    /// The last stable offset once it was marked.
    pub stable: u64,
}

/// Where bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In an entry of the shard's log.
    Entry {
        /// Which.
        index: u64,
        /// Where in its data.
        at: u32,
        /// How many.
        bytes: u32,
    },
    /// In a file of this node's own; stamped already, but for what a linked one holds.
    Extent {
        /// Which.
        file: ExtentId,
        /// Where in it.
        at: u64,
        /// How many.
        bytes: u32,
    },
}

/// A run of batches to be read and stamped ([`crate::batch::stamp`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its first offset.
    pub base: u64,
    /// Offsets that it takes.
    pub count: u64,
    /// The leader's epoch when it was stored.
    pub epoch: i32,
    /// The time of append, where readers see it.
    pub append_time: Option<i64>,
    /// Where its bytes lie.
    pub source: Source,
    /// Whether its batches bear their offsets and epochs already.
    pub is_stamped: bool,
    /// Batches that end at or before this offset, and those that begin at or behind the other one, are left out.
    pub from: u64,
    /// See `from`.
    pub until: u64,
}

impl Piece {
    /// How many bytes it has.
    pub fn bytes(&self) -> u32 {
        match self.source {
            Source::Entry { bytes, .. } | Source::Extent { bytes, .. } => bytes,
        }
    }
}

/// What a reader is to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Everything.
    Uncommitted,
    /// What lies before the oldest open transaction.
    Committed,
}

/// What a fetch reads, and what it is told beside it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to read, in order. Whole runs: the first may begin before the offset that was asked for.
    pub pieces: Vec<Piece>,
    /// Their bytes.
    pub bytes: u64,
    /// The high watermark.
    pub high: u64,
    /// The last stable offset.
    pub stable: u64,
    /// The first offset.
    pub start: u64,
    /// Aborted transactions that reach into what is read; empty but for readers of committed records.
    pub aborted: Vec<Aborted>,
}

/// One partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Partition {
    pub(crate) place: Arc<str>,
    pub(crate) start: u64,
    pub(crate) next: u64,
    /// What the log holds of it, by offset; extent files hold the rest. What compaction has written anew may lie before that.
    chunks: VecDeque<Arc<Chunk>>,
    rows: usize,
    bytes: u64,
    pub(crate) held: Held,
    /// Epoch and first offset, growing.
    pub(crate) epochs: Vec<(i32, u64)>,
    pub(crate) producers: BTreeMap<i64, Producer>,
    /// First offsets of open transactions.
    open: BTreeMap<u64, i64>,
    pub(crate) aborted: VecDeque<Aborted>,
    /// How often compaction has changed it: a change that was made up before another one does nothing.
    pub(crate) cleans: u64,
    /// Up to where there is one record of each key at most.
    pub(crate) cleaned: u64,
    /// Records that group readers are given out of turn.
    pub(crate) marked: BTreeMap<u64, Marked>,
    #[cfg(any(test, feature = "planted"))]
    pub(crate) planted: crate::planted::Planted,
}

/// What compaction has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// [`Partition::cleans`] when it was looked at.
    pub number: u64,
    /// Where the partition begins.
    pub start: u64,
    /// Where the dirty part begins.
    pub dirty: u64,
    /// Behind what may be cleaned.
    pub end: u64,
}

/// When compaction is due, by a topic's settings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cleanable {
    /// The dirty part's share of the bytes above which it is (`min.cleanable.dirty.ratio`).
    pub ratio: f64,
    /// Records younger than this are left, milliseconds (`min.compaction.lag.ms`).
    pub lag_min_ms: u64,
    /// A record older than this is not left dirty, whatever the ratio (`max.compaction.lag.ms`).
    pub lag_max_ms: u64,
}

/// Some adjacent offsets, wherever they lie.
struct Span {
    end: u64,
    bytes: u64,
    stamp: i64,
}

/// Where the batches of a command lie, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot {
    pub index: u64,
    pub at: u32,
    pub now: Millis,
    pub epoch: i32,
}

impl Partition {
    /// An empty one. `place` is [`crate::Topic::place`].
    pub fn new(place: &str) -> Partition {
        Partition { place: place.into(), ..Partition::default() }
    }

    /// The name under which it is placed.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Its first offset.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The next offset to be given out: the high watermark.
    pub fn high(&self) -> u64 {
        self.next
    }

    /// Where the oldest open transaction began; else the high watermark.
    pub fn stable(&self) -> u64 {
        #[cfg(any(test, feature = "planted"))]
        if self.planted.stable_not_held {
            return self.next;
        }
        self.open.keys().next().map_or(self.next, |first| (*first).max(self.start))
    }

    /// Up to where this reader sees.
    pub fn visible(&self, isolation: Isolation) -> u64 {
        match isolation {
            Isolation::Uncommitted => self.high(),
            Isolation::Committed => self.stable(),
        }
    }

    /// Bytes of what it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes + self.held.bytes()
    }

    /// How many rows it has in the log.
    pub fn row_count(&self) -> usize {
        self.rows
    }

    /// Its rows in the log, oldest first.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.chunks.iter().flat_map(|chunk| &chunk.rows)
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = &Arc<Chunk>> {
        self.chunks.iter()
    }

    /// Forgets the rows of all entries up to this one.
    pub(crate) fn forget_rows(&mut self, index: u64) {
        self.forget_where(0..self.chunks.len(), |row| row.index <= index);
    }

    fn forget_where(&mut self, chunks: std::ops::Range<usize>, gone: impl Fn(&Row) -> bool) {
        let mut is_some_empty = false;
        for chunk in self.chunks.range_mut(chunks).filter(|chunk| chunk.rows.iter().any(&gone)) {
            let theirs = chunk.rows.iter().filter(|row| gone(row));
            let (rows, bytes) = theirs.fold((0, 0), |(rows, bytes), row| (rows + 1, bytes + u64::from(row.bytes)));
            (self.rows, self.bytes) = (self.rows - rows, self.bytes - bytes);
            is_some_empty |= rows == chunk.rows.len();
            let chunk = Arc::make_mut(chunk);
            chunk.rows.retain(|row| !gone(row));
            chunk.stamp = chunk.rows.iter().map(|row| row.stamp).max().unwrap_or(i64::MIN);
        }
        if is_some_empty {
            self.chunks.retain(|chunk| !chunk.rows.is_empty());
        }
    }

    fn forget_while(&mut self, gone: impl Fn(&Row) -> bool) {
        while let Some(front) = self.chunks.front_mut() {
            let count = front.rows.partition_point(&gone);
            let bytes: u64 = front.rows[..count].iter().map(|row| u64::from(row.bytes)).sum();
            self.bytes -= bytes;
            self.rows -= count;
            if count == front.rows.len() {
                self.chunks.pop_front();
                continue;
            }
            if count > 0 {
                Arc::make_mut(front).drop_front(count);
            }
            break;
        }
    }

    /// Its producers.
    pub fn producers(&self) -> impl Iterator<Item = (i64, &Producer)> {
        self.producers.iter().map(|(id, producer)| (*id, producer))
    }

    /// The transaction that this producer has open here: what a write of it names, without the coordinator being asked.
    pub fn ongoing(&self, producer: i64, epoch: i16) -> Option<u64> {
        let known = self.producers.get(&producer).filter(|known| known.epoch == epoch)?;
        known.ongoing.map(|ongoing| ongoing.number)
    }

    // ---- apply -----------------------------------------------------------------------------------------------------

    /// Stores a run of batches. Where the producer is new, `self` has one more.
    pub(crate) fn produce(&mut self, run: &Run, append_time: bool, entered: Option<Entered>, spot: Spot) -> Outcome {
        if run.control {
            return Outcome::refused(Code::INVALID_RECORD, "clients may not write control batches");
        }
        let append_stamp = if append_time { spot.now as i64 } else { -1 };
        if run.producer >= 0 {
            let verdict = producer::judge(self.producers.get(&run.producer), run, entered);
            #[cfg(any(test, feature = "planted"))]
            let verdict = match verdict {
                Verdict::Refused(Code::INVALID_TXN_STATE, _) if self.planted.late_batches && entered.is_some() => {
                    Verdict::New
                }
                other => other,
            };
            match verdict {
                Verdict::New => {}
                Verdict::Again(stored) => {
                    let (base, stamp, start) = (stored.base, stored.stamp, self.start);
                    return Outcome::Produced { base, stamp, start, again: true };
                }
                Verdict::Refused(code, why) => return Outcome::refused(code, why),
            }
            if run.transactional && self.aborted.len() >= ABORTED_MAX {
                return Outcome::refused(
                    Code::POLICY_VIOLATION,
                    "the partition lists as many aborted transactions as it can",
                );
            }
        }
        let base = self.append(run, append_time, spot);
        if run.producer >= 0 {
            let known =
                self.producers.entry(run.producer).or_insert_with(|| Producer::new(run.producer_epoch, spot.now));
            known.keep(run, base, append_stamp, spot.now);
            #[cfg(any(test, feature = "planted"))]
            if self.planted.window_of_one {
                known.forget_all_but_last();
            }
            if run.transactional && known.ongoing.is_none() {
                let entered = entered.expect("a transactional run without a transaction is refused");
                known.ongoing = Some(Ongoing { number: entered.number, first: base });
                self.open.insert(base, run.producer);
            }
        }
        Outcome::Produced { base, stamp: append_stamp, start: self.start, again: false }
    }

    /// Ends the transaction of this number. The marker is stored only where the transaction has written something. True
    /// where it was.
    pub(crate) fn mark(&mut self, run: &Run, number: u64, commit: bool, spot: Spot) -> Result<bool, Outcome> {
        let known = self.producers.entry(run.producer).or_insert_with(|| Producer::new(run.producer_epoch, spot.now));
        if number <= known.marked {
            return Ok(false);
        }
        if run.producer_epoch < known.epoch {
            return Err(Outcome::refused(Code::INVALID_PRODUCER_EPOCH, "the producer has a newer epoch"));
        }
        let ongoing = known.ongoing.take();
        known.marked = number;
        known.stamp = spot.now;
        known.take_epoch(run.producer_epoch);
        let Some(ongoing) = ongoing else {
            return Ok(false);
        };
        let last = self.append(run, false, spot);
        self.open.remove(&ongoing.first);
        if !commit {
            let (producer, first, stable) = (run.producer, ongoing.first, self.stable());
            self.aborted.push_back(Aborted { producer, first, last, stable });
        }
        Ok(true)
    }

    fn append(&mut self, run: &Run, append_time: bool, spot: Spot) -> u64 {
        let base = self.next;
        if self.epochs.last().is_none_or(|(epoch, _)| *epoch < spot.epoch) {
            self.epochs.push((spot.epoch, base));
            if self.epochs.len() > EPOCHS_MAX {
                self.epochs.remove(0);
            }
        }
        // Without a timestamp of its own it ages from its append.
        let stamp = if append_time || run.max_stamp < 0 { spot.now as i64 } else { run.max_stamp };
        let (count, bytes) = (run.count, run.bytes);
        self.push(Row { base, count, bytes, stamp, index: spot.index, at: spot.at, append_time, is_cleaned: false });
        self.next = base + u64::from(count);
        base
    }

    pub(crate) fn push(&mut self, row: Row) {
        if self.chunks.back().is_none_or(|chunk| chunk.rows.len() >= CHUNK_ROWS) {
            self.chunks.push_back(Arc::new(Chunk { rows: Vec::new(), stamp: i64::MIN }));
        }
        let last = self.chunks.back_mut().expect("one was pushed where there was none");
        let last = Arc::make_mut(last);
        last.stamp = last.stamp.max(row.stamp);
        last.rows.push(row);
        self.rows += 1;
        self.bytes += u64::from(row.bytes);
    }

    /// Lets it begin at `to`, but not behind its end. Returns the first offset.
    pub(crate) fn trim(&mut self, to: u64) -> u64 {
        let to = to.min(self.next);
        if to <= self.start {
            return self.start;
        }
        self.start = to;
        self.forget_marked();
        self.held.trim(to);
        self.forget_while(|row| row.end() <= to);
        while self.aborted.pop_front_if(|aborted| aborted.last < to).is_some() {}
        let older = self.epochs.partition_point(|(_, first)| *first <= to);
        if older > 0 {
            self.epochs.drain(..older - 1);
            self.epochs[0].1 = to;
        }
        to
    }

    /// Puts what compaction has left of a range in its place, and remembers how far it is.
    pub(crate) fn clean(&mut self, clean: &Clean<'_>, spot: Spot) -> Outcome {
        let Clean { number, from, to, done, markers, batches } = clean;
        if *number != self.cleans {
            return Outcome::refused(Code::INVALID_REQUEST, "compaction has changed the partition meanwhile");
        }
        // Nothing here may depend on where a replica has what: all must come to the same.
        if *from < self.start || *to > self.stable() || *done > self.stable() || from > to {
            return Outcome::refused(Code::OFFSET_OUT_OF_RANGE, "the range is not one that can be cleaned");
        }
        if from < to {
            let stamp = match batch::cleaned(batches, (*from, *to)) {
                Ok(stamp) => stamp,
                Err(refused) => return Outcome::refused(refused.code, refused.why),
            };
            let Ok(count) = u32::try_from(to - from) else {
                return Outcome::refused(Code::INVALID_REQUEST, "the range is too long");
            };
            let (base, index, at, bytes) = (*from, spot.index, spot.at, batches.len() as u32);
            self.replace(Row { base, count, bytes, stamp, index, at, append_time: false, is_cleaned: true });
            self.aborted.retain(|aborted| markers.binary_search(&aborted.last).is_err());
        }
        self.cleans += 1;
        self.cleaned = self.cleaned.max(*done);
        Outcome::Done
    }

    /// A row takes the place of all that lies in its range.
    fn replace(&mut self, row: Row) {
        let (from, to) = (row.base, row.end());
        self.held.cut(from, to);
        self.held.trim(self.start);
        let first = self.chunks.partition_point(|chunk| chunk.rows.last().is_some_and(|last| last.end() <= from));
        let last = self.chunks.partition_point(|chunk| chunk.rows.first().is_some_and(|first| first.base < to));
        self.forget_where(first..last.max(first), |old| old.end() > from && old.base < to);
        let at = self.chunks.partition_point(|chunk| chunk.rows.last().is_some_and(|last| last.base < from));
        if at == self.chunks.len() {
            return self.push(row);
        }
        let chunk = Arc::make_mut(&mut self.chunks[at]);
        let place = chunk.rows.partition_point(|own| own.base < from);
        chunk.rows.insert(place, row);
        chunk.stamp = chunk.stamp.max(row.stamp);
        self.rows += 1;
        self.bytes += u64::from(row.bytes);
    }

    /// Ranges that compaction has written anew in entries behind this one.
    pub(crate) fn cleaned_behind(&self, index: u64) -> Vec<(u64, u64)> {
        let newer = self.rows().filter(|row| row.is_cleaned && row.index > index);
        newer.map(|row| (row.base, row.end())).collect()
    }

    /// Forgets producers that have been silent since before `until` and are in no transaction, `most` at most.
    pub(crate) fn forget_silent(&mut self, until: Millis, most: usize) -> usize {
        let silent = |known: &Producer| known.ongoing.is_none() && known.stamp < until;
        let mut gone: Vec<i64> = Vec::new();
        gone.extend(self.producers.iter().filter(|(_, known)| silent(known)).map(|(id, _)| *id).take(most));
        for id in &gone {
            self.producers.remove(id);
        }
        gone.len()
    }

    /// After a restore: what is derived.
    pub(crate) fn rebuild(&mut self) {
        let open = self.producers.iter().filter_map(|(id, known)| Some((known.ongoing?.first, *id)));
        self.open = open.collect();
    }

    // ---- questions -------------------------------------------------------------------------------------------------

    /// What to read from `offset` on: whole runs up to `bytes_max` together, the first however large.
    ///
    /// # Errors
    /// OFFSET_OUT_OF_RANGE where the offset lies before the start or behind the end.
    pub fn plan(&self, offset: u64, bytes_max: u64, isolation: Isolation) -> Result<Plan, Code> {
        if offset < self.start || offset > self.next {
            return Err(Code::OFFSET_OUT_OF_RANGE);
        }
        let mut plan = Plan { high: self.high(), stable: self.stable(), start: self.start, ..Plan::default() };
        let until = self.visible(isolation);
        if offset >= until {
            // A row of a file may hold what lies on both sides: nobody who waits is to be woken for it.
            return Ok(plan);
        }
        let mut end = offset;
        for piece in self.pieces((offset, until)).take_while(|piece| piece.base < until) {
            let bytes = u64::from(piece.bytes());
            if !plan.pieces.is_empty() && plan.bytes + bytes > bytes_max {
                break;
            }
            plan.bytes += bytes;
            plan.pieces.push(piece);
            end = (piece.base + piece.count).min(until);
        }
        if isolation == Isolation::Committed && !plan.pieces.is_empty() {
            let from = self.aborted.partition_point(|aborted| aborted.last < offset);
            for aborted in self.aborted.range(from..) {
                if aborted.first < end {
                    plan.aborted.push(*aborted);
                }
                // Whatever was marked later began behind this.
                if aborted.stable >= end {
                    break;
                }
            }
        }
        Ok(plan)
    }

    /// Pieces from the one on that holds the window's first offset, or what follows it.
    fn pieces(&self, window: (u64, u64)) -> impl Iterator<Item = Piece> {
        let mut held = self.held.pieces_from(window).map(|piece| self.with_epoch(piece)).peekable();
        let rows = self.rows_from(window.0).map(move |row| row.piece(epoch_at(&self.epochs, row.base), window));
        let mut rows = rows.peekable();
        std::iter::from_fn(move || match (held.peek(), rows.peek()) {
            (Some(one), Some(other)) if one.base > other.base => rows.next(),
            (None, _) => rows.next(),
            _ => held.next(),
        })
    }

    /// What is to be stamped by a reader says with which epoch.
    fn with_epoch(&self, piece: Piece) -> Piece {
        if piece.is_stamped { piece } else { Piece { epoch: epoch_at(&self.epochs, piece.base), ..piece } }
    }

    /// All of it, oldest first.
    fn spans(&self) -> impl Iterator<Item = Span> {
        let mut held = self.held.spans().peekable();
        let mut rows = self.rows().peekable();
        std::iter::from_fn(move || {
            let is_row = match (held.peek(), rows.peek()) {
                (Some((end, _, _)), Some(row)) => *end > row.base,
                (held, _) => held.is_none(),
            };
            if is_row {
                return rows.next().map(|row| Span { end: row.end(), bytes: row.bytes.into(), stamp: row.stamp });
            }
            held.next().map(|(end, bytes, stamp)| Span { end, bytes, stamp })
        })
    }

    /// What to clean next of a pass: whole runs from `from` on up to its end, about `bytes_max` together, and where they end. None where
    /// nothing is left.
    pub fn to_clean(&self, from: u64, end: u64, bytes_max: u64) -> Option<(Vec<Piece>, u64)> {
        let (mut pieces, mut bytes, mut to) = (Vec::new(), 0, from);
        for piece in self.pieces((from, end)).take_while(|piece| piece.base + piece.count <= end) {
            let next = piece.base + piece.count;
            bytes += u64::from(piece.bytes());
            if !pieces.is_empty() && (bytes > bytes_max || next - from > i32::MAX as u64) {
                break;
            }
            to = next;
            pieces.push(piece);
        }
        (!pieces.is_empty()).then_some((pieces, to))
    }

    /// Whether compaction has something to do. The tail, which is what was written last, stays as it is.
    pub fn cleanable(&self, now: Millis, when: &Cleanable) -> Option<Pass> {
        let stable = self.stable();
        let (dirty_from, mut end) = (self.cleaned.max(self.start), 0);
        let (mut clean, mut dirty, mut oldest) = (0u64, 0u64, i64::MAX);
        let lag = Some(when.lag_min_ms).filter(|lag| *lag > 0);
        let young = lag.and_then(|lag| i64::try_from(now.saturating_sub(lag)).ok()).unwrap_or(i64::MAX);
        for span in self.spans() {
            if span.end > stable || span.end >= self.next || span.stamp > young && span.end > dirty_from {
                break;
            }
            if span.end <= dirty_from {
                clean += span.bytes;
            } else {
                (end, dirty, oldest) = (span.end, dirty + span.bytes, oldest.min(span.stamp));
            }
        }
        let too_old = i64::try_from(now.saturating_sub(when.lag_max_ms)).is_ok_and(|old| oldest < old);
        let is_due = dirty > 0 && (dirty as f64 > (clean + dirty) as f64 * when.ratio || too_old);
        is_due.then_some(Pass { number: self.cleans, start: self.start, dirty: dirty_from, end })
    }

    /// Transactions that were aborted and reach into this range, oldest marker first.
    pub fn aborted(&self, from: u64, to: u64) -> impl Iterator<Item = Aborted> {
        let first = self.aborted.partition_point(|aborted| aborted.last < from);
        self.aborted.range(first..).filter(move |aborted| aborted.first < to).copied()
    }

    fn rows_from(&self, offset: u64) -> impl Iterator<Item = &Row> {
        let chunk = self.chunks.partition_point(|chunk| chunk.rows.last().is_none_or(|row| row.end() <= offset));
        let mut rest = self.chunks.range(chunk..);
        let first = rest.next().map_or(&[][..], |chunk| {
            let from = chunk.rows.partition_point(|row| row.end() <= offset);
            &chunk.rows[from..]
        });
        first.iter().chain(rest.flat_map(|chunk| &chunk.rows))
    }

    /// The first run that has a record of at least this time and lies before `until`. Its bytes tell which record
    /// ([`crate::batch::find_time`]).
    pub fn at_time(&self, target: i64, until: u64) -> Option<Piece> {
        let window = (self.start, until);
        let row = || {
            let chunk = self.chunks.iter().find(|chunk| chunk.stamp >= target)?;
            let row = chunk.rows.iter().find(|row| row.stamp >= target)?;
            Some(row.piece(epoch_at(&self.epochs, row.base), window))
        };
        let held = self.held.at_time(target, window).map(|piece| self.with_epoch(piece));
        let piece = [held, row()].into_iter().flatten().min_by_key(|piece| piece.base)?;
        (piece.base < until).then_some(piece)
    }

    /// The run with the largest timestamp, the first of them, and that timestamp.
    pub fn newest(&self) -> Option<(Piece, i64)> {
        let stamp = self.chunks.iter().map(|chunk| chunk.stamp).chain(self.held.newest()).max()?;
        Some((self.at_time(stamp, self.next)?, stamp))
    }

    /// Where the records of a leader's epoch end (OffsetForLeaderEpoch): the largest epoch up to `asked` that has any, and the
    /// offset behind them. `None` for an epoch that is yet to come.
    pub fn epoch_end(&self, asked: i32, current: i32) -> Option<(i32, u64)> {
        if asked >= current {
            return (asked == current).then_some((asked, self.next));
        }
        let newer = self.epochs.partition_point(|(epoch, _)| *epoch <= asked);
        let end = self.epochs.get(newer).map_or(self.next, |(_, first)| *first);
        Some((self.epochs[..newer].last().map_or(asked, |(epoch, _)| *epoch), end))
    }

    /// Where it should begin by the topic's retention; `None` where it begins there already. Never behind an open transaction.
    pub fn expired(&self, now: Millis, retention_ms: Option<u64>, retention_bytes: Option<u64>) -> Option<u64> {
        let mut excess = retention_bytes.map_or(0, |most| self.bytes().saturating_sub(most));
        let stale = retention_ms.and_then(|span| i64::try_from(now.checked_sub(span)?).ok());
        let stable = self.stable();
        let mut to = self.start;
        for Span { end, bytes, stamp } in self.spans() {
            let too_much = excess >= bytes && excess > 0;
            let too_old = stale.is_some_and(|stale| stamp < stale);
            if !(too_much || too_old) || end > stable {
                break;
            }
            excess = excess.saturating_sub(bytes);
            to = end;
        }
        (to > self.start).then_some(to)
    }
}

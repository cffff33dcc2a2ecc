//! Putting a batch on the disk, and what the log remembers of it.

use super::format::{self, BATCH_HEADER, BATCHES_AT, BatchHeader, MARKS_AT, Mark, SegmentHeader};
use super::open::{raise, segment_name};
use super::{Appended, Batch, Before, Live, Log, LogError, Position, Record};
use crate::disk::{Disk, DiskError, DiskFile};
use base::GroupId;

impl<D: Disk> Log<D> {
    /// The laws that a batch must keep; breaking one would be found at the next start, when it is too late.
    pub(super) fn check(&self, batch: &Batch) -> Result<(), LogError> {
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

    /// The segment's page and a checkpoint as the batch `sequence`; returns where it ends.
    pub(super) fn write_checkpoint(&mut self, sequence: u64) -> Result<u64, DiskError> {
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

    pub(super) fn header(&self, sequence: u64, oldest: u64, flags: u16) -> BatchHeader {
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
    pub(super) fn oldest_with(&self, batch: &Batch) -> u64 {
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

    pub(super) fn write(&mut self, batch: &mut Batch) -> Result<Appended, LogError> {
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
            && (self.options.sync_once() || self.file.sync().is_err())
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
        self.places.note(segment, offset + BATCH_HEADER as u64, batch.entries());
        Ok(Appended { position: Position { sequence, segment, offset }, bytes })
    }

    /// After a write that found no room: what it may have left must never be read as a batch. Then the log is as before.
    pub(super) fn unwrite(&mut self, offsets: &[u64], error: DiskError) -> LogError {
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

    pub(super) fn remember(&mut self, batch: &Batch, end: u64) {
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

    pub(super) fn retire(&mut self, oldest: u64) {
        while self.live.len() > 1 && self.oldest() < oldest {
            if let Some(old) = self.live.pop_front() {
                self.retired.push((segment_name(old.number), old.capacity));
                self.places.forget_before(old.number + 1);
            }
        }
    }

    /// Marks in the segment before this one that the log went on, so that a last segment that vanishes whole is missed.
    /// The append that led here is durable either way; a disk that fails now stops the log for the next one.
    pub(super) fn announce(&mut self, mut before: Before<D::File>) {
        let turn = before.mark_turn + 1;
        let mark = Mark { sealed: false, log_id: self.log_id, number: before.number, sequence: self.sequence, turn };
        let at = MARKS_AT[(turn % 2) as usize];
        if let Err(error) = before.file.write_at(at, &mark.encode()).and_then(|()| before.file.sync()) {
            self.stop(error);
        }
    }

    pub(super) fn write_mark(&mut self, sealed: bool) -> Result<(), LogError> {
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

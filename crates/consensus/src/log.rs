//! The log in memory: what `raft` reads as its storage. Durable storage is the host's; an entry is here from the moment it
//! is handed out to be written.
//!
//! ```text
//!   …compacted… | start | first … last
//!                  ^ index and term are remembered, for matching
//! ```
//!
//! **Absent:** files, the applied state. Never fails: what raft may ask for within its own invariants is here.

use crate::types::{Entry, HardState, Membership, Position};
use raft::eraftpb::{self, ConfState, Snapshot, SnapshotMetadata};
use raft::util::limit_size;
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

pub(crate) struct MemLog {
    /// The position before the first entry held.
    start: Position,
    /// Positions `start.index + 1` and on, without gaps.
    entries: VecDeque<eraftpb::Entry>,
    /// The newest snapshot that the host holds durably: what a follower that lags too far is sent.
    snapshot: SnapshotMetadata,
    /// A follower needs a newer snapshot than there is. (`raft` asks through a shared borrow.)
    newer_wanted: AtomicBool,
    /// As of the start; `raft` asks once.
    initial: RaftState,
}

impl MemLog {
    /// A log as it was found on disk. The caller has checked that the entries follow `start` without gaps and that
    /// `snapshot` lies within.
    pub(crate) fn new(
        start: Position,
        entries: &[Entry],
        hard_state: HardState,
        snapshot: Position,
        membership: &Membership,
    ) -> MemLog {
        let conf_state = membership.to_raft();
        let meta =
            SnapshotMetadata { conf_state: Some(conf_state.clone()), index: snapshot.index, term: snapshot.term };
        MemLog {
            start,
            entries: entries.iter().map(Entry::to_raft).collect(),
            snapshot: meta,
            newer_wanted: AtomicBool::new(false),
            initial: RaftState::new(hard_state.to_raft(), conf_state),
        }
    }

    pub(crate) fn start(&self) -> Position {
        self.start
    }

    pub(crate) fn last(&self) -> u64 {
        self.start.index + self.entries.len() as u64
    }

    fn slot(&self, index: u64) -> Option<usize> {
        usize::try_from(index.checked_sub(self.start.index + 1)?).ok()
    }

    pub(crate) fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.entries.get(self.slot(index)?).map(|entry| entry.term)
    }

    /// Adds entries, replacing whatever stood at their positions and after.
    pub(crate) fn append(&mut self, entries: Vec<eraftpb::Entry>) {
        let Some(first) = entries.first() else { return };
        let keep = self.slot(first.index).expect("raft never rewrites what was compacted, for that is committed");
        assert!(keep <= self.entries.len(), "raft hands entries out without gaps");
        self.entries.truncate(keep);
        self.entries.extend(entries);
    }

    /// Forgets entries up to `index`, which lies within the log.
    pub(crate) fn compact(&mut self, index: u64) {
        let Some(slot) = self.slot(index) else { return };
        let Some(entry) = self.entries.get(slot) else { return };
        self.start = Position { index, term: entry.term };
        self.entries.drain(..=slot);
    }

    /// Remembers a newer snapshot of the state machine.
    pub(crate) fn set_snapshot(&mut self, at: Position, membership: &Membership) {
        let conf_state = Some(membership.to_raft());
        self.snapshot = SnapshotMetadata { conf_state, index: at.index, term: at.term };
    }

    pub(crate) fn snapshot_index(&self) -> u64 {
        self.snapshot.index
    }

    /// Whether a newer snapshot was asked for since the last time.
    pub(crate) fn take_newer_wanted(&self) -> bool {
        self.newer_wanted.load(Ordering::Relaxed) && self.newer_wanted.swap(false, Ordering::Relaxed)
    }

    /// Replaces the whole log by a snapshot from the leader.
    pub(crate) fn install(&mut self, snapshot: &Snapshot) {
        let meta = snapshot.get_metadata();
        self.start = Position { index: meta.index, term: meta.term };
        self.entries.clear();
        self.snapshot = meta.clone();
    }
}

impl Storage for MemLog {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(self.initial.clone())
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> Result<Vec<eraftpb::Entry>> {
        let (Some(from), Some(to)) = (self.slot(low), self.slot(high)) else {
            return Err(StorageError::Compacted.into());
        };
        if from > to || to > self.entries.len() {
            return Err(StorageError::Unavailable.into());
        }
        let mut found: Vec<_> = self.entries.range(from..to).cloned().collect();
        limit_size(&mut found, max_size.into());
        Ok(found)
    }

    fn term(&self, index: u64) -> Result<u64> {
        match self.term_of(index) {
            Some(term) => Ok(term),
            None if index < self.start.index => Err(StorageError::Compacted.into()),
            None => Err(StorageError::Unavailable.into()),
        }
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.start.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    fn snapshot(&self, request_index: u64, to: u64) -> Result<Snapshot> {
        let meta = &self.snapshot;
        let conf = meta.get_conf_state();
        // An index of zero, or one before the log, would not let the follower go on; `raft` aborts on the former. And a
        // follower refuses a snapshot from before it belonged to the group.
        let reaches = meta.index > 0 && meta.index >= request_index.max(self.start.index);
        let names = [&conf.voters, &conf.learners, &conf.voters_outgoing].into_iter().any(|ids| ids.contains(&to));
        if !reaches || !names {
            self.newer_wanted.store(true, Ordering::Relaxed);
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(Snapshot { metadata: Some(meta.clone()), ..Snapshot::default() })
    }
}

/// `raft` reads conf states by reference; this keeps the conversion in one place.
pub(crate) fn membership_of(state: &ConfState) -> Membership {
    Membership::from_raft(state)
}

#[cfg(test)]
mod tests {
    use super::{MemLog, Position};
    use crate::types::{Entry, EntryKind, HardState, Membership};
    use base::NodeId;
    use bytes::Bytes;
    use raft::{GetEntriesContext, Storage};

    fn log() -> MemLog {
        let entry =
            |index| Entry { index, term: index, kind: EntryKind::Normal, data: Bytes::from_static(b"0123456789") };
        let entries: Vec<Entry> = (4..9).map(entry).collect();
        let start = Position { index: 3, term: 2 };
        let members = Membership::new([NodeId(1)], []);
        MemLog::new(start, &entries, HardState::default(), start, &members)
    }

    fn indexes(log: &MemLog, low: u64, high: u64, max: u64) -> Option<Vec<u64>> {
        let found = log.entries(low, high, max, GetEntriesContext::empty(false)).ok()?;
        Some(found.iter().map(|entry| entry.index).collect())
    }

    #[test]
    fn ranges_and_terms_end_where_the_log_does() {
        let log = log();
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (4, 8));
        assert_eq!(indexes(&log, 4, 9, u64::MAX), Some(vec![4, 5, 6, 7, 8]));
        assert_eq!(indexes(&log, 5, 9, 40), Some(vec![5, 6]), "an entry is 16 bytes here");
        assert_eq!(indexes(&log, 5, 9, 1), Some(vec![5]), "one is always given");
        assert_eq!(indexes(&log, 3, 5, u64::MAX), None);
        assert_eq!(indexes(&log, 4, 10, u64::MAX), None);
        assert_eq!([2, 3, 4, 8, 9].map(|i| log.term_of(i)), [None, Some(2), Some(4), Some(8), None]);
    }

    #[test]
    fn appending_replaces_the_tail_and_compaction_keeps_the_last_term() {
        let mut log = log();
        let newer = Entry { index: 6, term: 9, kind: EntryKind::Normal, data: Bytes::new() };
        log.append(vec![newer.to_raft()]);
        assert_eq!((log.last(), log.term_of(6)), (6, Some(9)));
        log.compact(5);
        assert_eq!((log.start(), log.last()), (Position { index: 5, term: 5 }, 6));
        log.compact(5);
        log.compact(99);
        assert_eq!(log.start().index, 5);
        assert!(log.snapshot(0, 1).is_err(), "the snapshot at 3 does not reach the log's start");
        assert!(log.take_newer_wanted() && !log.take_newer_wanted());
        log.set_snapshot(Position { index: 6, term: 9 }, &Membership::new([NodeId(1)], []));
        assert_eq!(log.snapshot(0, 1).unwrap().get_metadata().index, 6);
        assert!(log.snapshot(0, 2).is_err(), "2 was no member at 6");
    }
}

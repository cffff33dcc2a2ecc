//! A shard's way back: the newest snapshot, then the log's records behind it, streamed.
//!
//! Entries known to be committed are applied as they come and dropped; only the tail that no hard state vouches for is kept
//! in memory, and handed to consensus, which decides about it.

use std::collections::VecDeque;

use base::GroupId;
use consensus::{Entry, EntryKind, HardState, Membership, Position};

use crate::pending::Batch;
use crate::state::{Silent, State};

/// One group being brought back.
pub struct Recovery {
    group: GroupId,
    /// The state as far as it has been brought back.
    pub state: State,
    snapshot: Position,
    /// Whether the snapshot came from another node, and the log may not speak of it yet.
    installed: bool,
    membership: Membership,
    start: Position,
    entries: VecDeque<Entry>,
    hard_state: HardState,
    bytes: u64,
    /// Something of this group's was durable and cannot be read: what comes behind that place does not count.
    lost: bool,
}

/// What consensus needs to go on.
pub struct Recovered {
    /// The state; its `applied` lies at or behind `start`.
    pub state: State,
    /// The position before the first entry.
    pub start: Position,
    /// The undecided tail.
    pub entries: Vec<Entry>,
    /// The newest hard state.
    pub hard_state: HardState,
    /// Who belongs to the group as of `state`.
    pub membership: Membership,
    /// The index of the newest snapshot.
    pub snapshot: u64,
    /// Another node's snapshot that the group goes on from and that has not been adopted; whether the log has to be told of it.
    pub installed: Option<(Position, bool)>,
    /// Bytes of the entries behind the snapshot.
    pub bytes: u64,
}

impl Recovery {
    /// Starts from a state that was read from the snapshot at this position (zeros: an empty one), and who belonged to the
    /// group then. `installed`: another node made that snapshot, and what this node's log holds may be void or end before it.
    pub fn new(group: GroupId, state: State, snapshot: Position, membership: Membership, installed: bool) -> Recovery {
        let mut recovery = Recovery {
            group,
            state,
            snapshot,
            installed,
            membership,
            start: Position::default(),
            entries: VecDeque::new(),
            hard_state: HardState::default(),
            bytes: 0,
            lost: false,
        };
        recovery.hard_state.term = snapshot.term;
        recovery
    }

    /// Something durable of this group cannot be read. What was read before stands; of what comes only term and vote count, which
    /// must not go back.
    pub fn lose(&mut self) {
        self.lost = true;
    }

    /// Whether anything was lost.
    pub fn is_lost(&self) -> bool {
        self.lost
    }

    /// Whether the log ends before the snapshot that it belongs to: then something is missing between.
    pub fn is_short(&self) -> bool {
        let ends = self.entries.back().map_or(self.start.index, |entry| entry.index);
        !self.installed && ends < self.snapshot.index
    }

    /// Who belongs to the group, as far as has been read.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The log of this group starts after this position; with `install`, what was read before is void.
    pub fn mark(&mut self, position: Position, install: bool) -> Result<(), String> {
        if self.lost {
            return Ok(());
        }
        if position.index > self.snapshot.index {
            return Err(format!(
                "the log of {} starts after index {}, but the newest readable snapshot is at {}: a snapshot is missing",
                self.group, position.index, self.snapshot.index
            ));
        }
        if install {
            self.entries.clear();
        }
        while self.entries.front().is_some_and(|entry| entry.index <= position.index) {
            self.entries.pop_front();
        }
        if position.index >= self.start.index {
            self.start = position;
        }
        Ok(())
    }

    /// The next entry as the log has it.
    pub fn entry(&mut self, entry: Entry) -> Result<(), String> {
        if self.lost {
            return Ok(());
        }
        while self.entries.back().is_some_and(|last| last.index >= entry.index) {
            self.entries.pop_back();
        }
        let last = self.entries.back().map_or(self.start.index, |last| last.index);
        if entry.index <= self.start.index {
            return Err(format!("{}: entry {} stands behind a start of {}", self.group, entry.index, self.start.index));
        }
        if entry.index != last + 1 {
            return Err(format!("{}: entry {} follows entry {last}", self.group, entry.index));
        }
        if entry.index > self.snapshot.index {
            self.bytes += entry.data.len() as u64;
        }
        self.entries.push_back(entry);
        Ok(())
    }

    /// A hard state as the log has it: everything up to its commit index is decided.
    pub fn hard_state(&mut self, hard_state: HardState) -> Result<(), String> {
        if self.lost {
            let commit = self.hard_state.commit;
            self.hard_state = HardState { commit, ..hard_state };
            return Ok(());
        }
        self.hard_state = HardState { commit: hard_state.commit.max(self.hard_state.commit), ..hard_state };
        self.apply_decided()
    }

    /// Only what the log itself calls decided: what a snapshot covers may stand in the log in an earlier, void version first.
    fn apply_decided(&mut self) -> Result<(), String> {
        while let Some(entry) = self.entries.front().filter(|entry| entry.index <= self.hard_state.commit) {
            if entry.kind == EntryKind::Membership && entry.index > self.snapshot.index {
                self.membership = self.membership.after(entry);
            }
            apply_entry(&mut self.state, entry, self.group)?;
            self.start = Position { index: entry.index, term: entry.term };
            self.entries.pop_front();
        }
        Ok(())
    }

    /// Everything has been read.
    pub fn finish(mut self) -> Result<Recovered, String> {
        let ends = self.entries.back().map_or(self.start.index, |entry| entry.index);
        if self.lost {
            self.hard_state.commit = self.hard_state.commit.min(ends);
            let newest = self.entries.back().map_or(self.start.term, |entry| entry.term).max(self.snapshot.term);
            self.hard_state.term = self.hard_state.term.max(newest);
        }
        let void = self.installed && !self.leads_through_snapshot() || self.lost && ends < self.snapshot.index;
        if void {
            // The node died between the arrival of the snapshot and the log's word of it.
            self.entries.clear();
            self.start = self.snapshot;
        }
        self.hard_state.commit = self.hard_state.commit.max(self.snapshot.index);
        self.apply_decided()?;
        let last = self.entries.back().map_or(self.start.index, |entry| entry.index);
        if last < self.snapshot.index || self.state.applied() < self.start.index {
            return Err(format!(
                "the log of {} ends at index {last}, before the snapshot at {}: acknowledged entries are missing",
                self.group, self.snapshot.index
            ));
        }
        Ok(Recovered {
            state: self.state,
            start: self.start,
            entries: self.entries.into(),
            hard_state: self.hard_state,
            membership: self.membership,
            snapshot: self.snapshot.index,
            installed: self.installed.then_some((self.snapshot, void)),
            bytes: self.bytes,
        })
    }

    /// Whether the log holds the very entry at which the snapshot ends, or has decided what lies behind it.
    fn leads_through_snapshot(&self) -> bool {
        let Position { index, term } = self.snapshot;
        let own = match self.start.index {
            start if start == index => Some(self.start.term),
            _ => self.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term),
        };
        self.start.index > index || own == Some(term)
    }
}

/// Applies a committed entry for which nobody on this node waits.
pub(crate) fn apply_entry(state: &mut State, entry: &Entry, group: GroupId) -> Result<(), String> {
    match entry.kind {
        EntryKind::Normal => state
            .apply::<u64, _>(entry.index, &entry.data, None::<&Batch<u64>>, &mut Silent)
            .map_err(|corrupt| format!("{group}: entry {} cannot be applied: {corrupt}", entry.index)),
        EntryKind::Membership => {
            state.pass(entry.index);
            Ok(())
        }
    }
}

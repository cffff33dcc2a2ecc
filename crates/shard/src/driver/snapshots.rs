//! A group's own snapshots: when one is due, piece by piece, and what goes once it is durable.

use base::{Duration, GroupId, Instant, Millis};
use consensus::{Input as Told, Position};

use queue::extents::Copying;
use store::extent::ExtentId;

use super::{Driver, Lane, Output, Snapshot};
use crate::state::{Sink, State};
use crate::topics::Filed;

/// After so long a snapshot that failed is tried again if another node waits for it.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What of a snapshot lies in extent files.
#[derive(Default)]
pub(super) struct Extents {
    /// To be copied out of the log.
    copying: Option<Copying>,
    /// What has been, for the state once the snapshot is durable.
    filed: Vec<Filed>,
    /// The files that the snapshot names.
    named: Vec<ExtentId>,
}

impl<C: Clone + PartialEq> Driver<C> {
    pub(super) fn walk(&mut self, group: GroupId, out: &mut Vec<Output>) {
        let Some(at) = self.rounds.at(group) else {
            return;
        };
        self.touch(at);
        let lane = &mut self.lanes[at];
        let (position, done) = match lane.snapshot {
            Snapshot::Walking(position, done) => (position, done),
            Snapshot::Naming(position) => return lane.end_snapshot(position, out),
            _ => return,
        };
        if done {
            return match lane.extents.copying.take() {
                Some(copying) => {
                    lane.snapshot = Snapshot::Copying(position);
                    out.push(Output::CopyOut(copying));
                }
                None => lane.name_files(position, out),
            };
        }
        let bytes = self.config.snapshot_chunk_bytes;
        let mut chunk = Vec::with_capacity(bytes * 2);
        match lane.shard.state_mut().walk(bytes, &mut chunk) {
            None => {
                lane.snapshot = Snapshot::Wanted;
                out.push(Output::SnapshotAbort(group));
            }
            Some(done) => {
                lane.snapshot = Snapshot::Walking(position, done);
                out.push(Output::SnapshotChunk(group, chunk));
            }
        }
    }

    /// What the log is about to let go of lies in extent files.
    pub(super) fn filed_away(&mut self, group: GroupId, filed: Vec<Filed>, out: &mut Vec<Output>) {
        let Some(at) = self.rounds.at(group) else {
            return;
        };
        self.touch(at);
        let lane = &mut self.lanes[at];
        if let Snapshot::Copying(position) = lane.snapshot {
            lane.extents.filed = filed;
            lane.name_files(position, out);
        }
    }

    pub(super) fn snapshot_durable<S: Sink<C>>(
        &mut self,
        group: GroupId,
        now: Instant,
        wall: Millis,
        sink: &mut S,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.rounds.at(group) else {
            return;
        };
        self.touch(at);
        let Snapshot::Ending(position) = std::mem::replace(&mut self.lanes[at].snapshot, Snapshot::None) else {
            return;
        };
        let lane = &mut self.lanes[at];
        lane.covered = lane.covered.max(position.index);
        (lane.needed, lane.again_at) = (false, None);
        self.tell(at, now, wall, Told::Snapshotted { index: position.index }, sink, out);
        self.tell(at, now, wall, Told::Compact { index: position.index }, sink, out);
        // An older one than what another node has sent meanwhile is of no use to the log.
        let lane = &mut self.lanes[at];
        let Extents { filed, named, .. } = std::mem::take(&mut lane.extents);
        if position.index > lane.installed {
            let mut state = lane.shard.state_mut();
            for (file, stretches) in filed {
                state.queue_mut().copied(file, &stretches);
            }
            state.queue_mut().forget_rows(position.index);
            drop(state);
            out.push(Output::CompactLog(group, position));
            out.push(Output::KeepExtents(group, named));
        }
    }

    pub(super) fn snapshot_failed(&mut self, group: GroupId, now: Instant) {
        let Some(at) = self.rounds.at(group) else {
            return;
        };
        self.touch(at);
        let lane = &mut self.lanes[at];
        lane.shard.state_mut().abort_walk();
        (lane.snapshot, lane.extents) = (Snapshot::None, Extents::default());
        // Tried again after as many bytes once more: a full disk must not be asked at every entry.
        lane.bytes_since_snapshot = 0;
        lane.log_at_snapshot = self.log_bytes;
        // Consensus asks once, and another node waits.
        lane.again_at = lane.needed.then(|| now + AGAIN_AFTER);
    }
}

impl<C: Clone> Lane<C> {
    /// Begins a snapshot if one is due: after `each` bytes of the group's own, or of `lanes` times as many of all groups, whose
    /// log is `log_bytes` long.
    pub(super) fn begin_snapshot(&mut self, each: u64, lanes: u64, log_bytes: u64, out: &mut Vec<Output>) {
        let in_the_way = || {
            self.applied.index > self.covered
                && log_bytes.saturating_sub(self.log_at_snapshot) >= each.saturating_mul(lanes)
        };
        let due = matches!(self.snapshot, Snapshot::None) && (self.bytes_since_snapshot >= each || in_the_way());
        if !due && !matches!(self.snapshot, Snapshot::Wanted) || self.applied.index == 0 {
            return;
        }
        let mut state = self.shard.state_mut();
        let (index, chunk) = state.begin_snapshot();
        let copying = state.queue().to_copy(self.shard.group, index, self.own.0);
        drop(state);
        self.extents = Extents { copying, ..Extents::default() };
        let position = Position { index, term: self.applied.term };
        self.snapshot = Snapshot::Walking(position, false);
        self.bytes_since_snapshot = 0;
        self.log_at_snapshot = log_bytes;
        let membership = self.membership.clone();
        #[cfg(any(test, feature = "planted"))]
        if self.planted.compact_before_durable {
            out.push(Output::CompactLog(self.shard.group, position));
        }
        out.push(Output::SnapshotBegin { group: self.shard.group, position, membership, chunk });
    }

    /// All else is in the snapshot: its last chunk names the extent files.
    fn name_files(&mut self, position: Position, out: &mut Vec<Output>) {
        let mut files = self.shard.state().queue().files();
        files.extend(self.extents.filed.iter().map(|(file, _)| *file));
        if files.is_empty() {
            return self.end_snapshot(position, out);
        }
        self.snapshot = Snapshot::Naming(position);
        out.push(Output::SnapshotChunk(self.shard.group, State::files_chunk(&files)));
        self.extents.named = files;
    }

    fn end_snapshot(&mut self, position: Position, out: &mut Vec<Output>) {
        self.snapshot = Snapshot::Ending(position);
        out.push(Output::SnapshotEnd(self.shard.group));
    }
}

//! A group's own snapshots: when one is due, piece by piece, and what goes once it is durable.

use base::{Duration, GroupId, Instant, Millis};
use consensus::{Input as Told, Position};

use super::{Driver, Lane, Output, Snapshot};
use crate::state::Sink;

/// After so long a snapshot that failed is tried again if another node waits for it.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

impl<C: Clone + PartialEq> Driver<C> {
    pub(super) fn walk(&mut self, group: GroupId, out: &mut Vec<Output>) {
        let Some(lane) = self.lanes.iter_mut().find(|lane| lane.shard.group == group) else {
            return;
        };
        let Snapshot::Walking(position, done) = lane.snapshot else {
            return;
        };
        if done {
            lane.snapshot = Snapshot::Ending(position);
            return out.push(Output::SnapshotEnd(group));
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

    pub(super) fn snapshot_durable<S: Sink<C>>(
        &mut self,
        group: GroupId,
        now: Instant,
        wall: Millis,
        sink: &mut S,
        out: &mut Vec<Output>,
    ) {
        let Some(at) = self.lanes.iter().position(|lane| lane.shard.group == group) else {
            return;
        };
        let Snapshot::Ending(position) = std::mem::replace(&mut self.lanes[at].snapshot, Snapshot::None) else {
            return;
        };
        let lane = &mut self.lanes[at];
        lane.covered = lane.covered.max(position.index);
        (lane.needed, lane.again_at) = (false, None);
        self.tell(at, now, wall, Told::Snapshotted { index: position.index }, sink, out);
        self.tell(at, now, wall, Told::Compact { index: position.index }, sink, out);
        // An older one than what another node has sent meanwhile is of no use to the log.
        if position.index > self.lanes[at].installed {
            out.push(Output::CompactLog(group, position));
        }
    }

    pub(super) fn snapshot_failed(&mut self, group: GroupId, now: Instant) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.shard.group == group) {
            lane.shard.state_mut().abort_walk();
            lane.snapshot = Snapshot::None;
            // Tried again after as many bytes once more: a full disk must not be asked at every entry.
            lane.bytes_since_snapshot = 0;
            lane.log_at_snapshot = self.log_bytes;
            // Consensus asks once, and another node waits.
            lane.again_at = lane.needed.then(|| now + AGAIN_AFTER);
        }
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
        let (index, chunk) = self.shard.state_mut().begin_snapshot();
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
}

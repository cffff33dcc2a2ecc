//! Which lanes are looked at when. A log has thousands of groups, and few of them have anything to do: so nothing here costs more
//! for the others. A lane is looked at after whatever it was told, after its shard was touched ([`Shard::touch`]), and when its
//! alarm rings; what concerns all lanes alike (a full disk, a link that broke, a log that has become long) touches all.
//!
//! [`Shard::touch`]: crate::live::Shard::touch

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use base::{Duration, GroupId, Instant};

use consensus::Position;

use super::{Driver, LOOK_EVERY, Lane, RESERVE_LOG_BYTES, Room};

/// A group as it stands: role, term, leader and last index; and what it has applied.
pub type GroupStatus = (GroupId, consensus::Status, Position);

/// No alarm.
pub(super) const NEVER: Instant = Instant(u64::MAX);

/// The lanes that are to be looked at, now or later.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// Now, in the order in which something happened to them.
    touched: VecDeque<usize>,
    /// When one can propose: requests wait in them.
    eager: Vec<usize>,
    /// Then. An entry counts only while it is the alarm of its lane: one that was brought forward leaves the later one behind.
    alarms: BinaryHeap<Reverse<(Instant, usize)>>,
    /// Of which the last hard state has not been written.
    pub(super) lazy: Vec<usize>,
    /// With entries in the next append, and in the one under way.
    pub(super) wanting: Vec<usize>,
    pub(super) writing: Vec<usize>,
    /// With requests whose entry is on its way.
    flying: Vec<usize>,
    /// When all lanes are to be looked at because the log has become long.
    log_bytes: u64,
    by_group: BTreeMap<GroupId, usize>,
    heard: Vec<GroupId>,
    /// Looked at since their status was last asked for.
    changed: Vec<usize>,
}

impl Rounds {
    pub(super) fn at(&self, group: GroupId) -> Option<usize> {
        self.by_group.get(&group).copied()
    }

    pub(super) fn add(&mut self, group: GroupId, at: usize) {
        self.by_group.insert(group, at);
        // Its own snapshot may be due before the others'.
        self.log_bytes = 0;
    }

    /// The next lane to be looked at.
    pub(super) fn next(&mut self) -> Option<usize> {
        self.touched.pop_front()
    }

    pub(super) fn next_alarm(&self) -> Option<Instant> {
        self.alarms.peek().map(|Reverse((at, _))| *at)
    }
}

impl<C: Clone + PartialEq> Driver<C> {
    /// This lane is looked at in this step.
    pub(super) fn touch(&mut self, at: usize) {
        if !std::mem::replace(&mut self.lanes[at].touched, true) {
            self.rounds.touched.push_back(at);
        }
    }

    pub(super) fn touch_all(&mut self) {
        (0..self.lanes.len()).for_each(|at| self.touch(at));
    }

    /// Requests wait in this lane for the next append.
    pub(super) fn wait_for_turn(&mut self, at: usize) {
        if !std::mem::replace(&mut self.lanes[at].eager, true) {
            self.rounds.eager.push(at);
        }
    }

    /// Touches whatever has become due, and first those that have waited longest.
    pub(super) fn wake_lanes(&mut self, now: Instant) {
        if !self.appending && !self.held {
            for at in std::mem::take(&mut self.rounds.eager) {
                self.lanes[at].eager = false;
                self.touch(at);
            }
        }
        while let Some(Reverse((due, at))) = self.rounds.alarms.peek().copied().filter(|Reverse((due, _))| *due <= now)
        {
            self.rounds.alarms.pop();
            if self.lanes[at].alarm == due {
                self.lanes[at].alarm = NEVER;
                self.touch(at);
            }
        }
        if self.log_bytes >= self.rounds.log_bytes {
            self.touch_all();
            let span = self.snapshot_span();
            let next = self.lanes.iter().map(|lane| lane.log_at_snapshot.saturating_add(span));
            self.rounds.log_bytes =
                next.filter(|at| *at > self.log_bytes).min().unwrap_or(self.log_bytes.saturating_add(span.max(1)));
        }
    }

    /// Touches the shards that were touched from outside.
    pub(super) fn hear(&mut self) {
        let mut heard = std::mem::take(&mut self.rounds.heard);
        self.gate.hear(&mut heard);
        for group in heard.drain(..) {
            if let Some(at) = self.rounds.at(group) {
                self.lanes[at].shard.heard();
                self.touch(at);
            }
        }
        self.rounds.heard = heard;
    }

    /// The room or the bytes after which snapshots are taken are others now.
    pub(super) fn respan(&mut self) {
        self.rounds.log_bytes = 0;
    }

    /// Bytes of a group's own after which it takes a snapshot, and for how many groups as many of all count. On a full disk every
    /// group lets go of old segments soon, and again whenever a little more was written.
    pub(super) fn snapshot_bytes(&self) -> (u64, u64) {
        match self.room {
            Room::Reserve => (self.config.snapshot_log_bytes.min(RESERVE_LOG_BYTES), 1),
            Room::Plenty => (self.config.snapshot_log_bytes, self.lanes.len() as u64),
        }
    }

    fn snapshot_span(&self) -> u64 {
        let (each, lanes) = self.snapshot_bytes();
        each.saturating_mul(lanes)
    }

    /// Remembers when the lane wants to be looked at though nothing happens.
    pub(super) fn arm(&mut self, at: usize, now: Instant) {
        let lane = &mut self.lanes[at];
        let Some(due) = lane.due(now) else { return };
        if due < lane.alarm {
            // One that is later than the alarm finds out when that rings.
            lane.alarm = due;
            self.rounds.alarms.push(Reverse((due, at)));
        }
    }

    /// The lane's status may be another now.
    pub(super) fn note_change(&mut self, at: usize) {
        if !std::mem::replace(&mut self.lanes[at].changed, true) {
            self.rounds.changed.push(at);
        }
    }

    /// Like [`Driver::status`], of those groups alone that were looked at since the last time, with their places there.
    pub fn changed_status(&mut self) -> Vec<(usize, GroupStatus)> {
        let Driver { rounds, lanes, .. } = self;
        let status = rounds.changed.drain(..).map(|at| {
            let lane = &mut lanes[at];
            lane.changed = false;
            (at, lane.status())
        });
        status.collect()
    }

    /// Requests of this lane are on their way.
    pub(super) fn fly(&mut self, at: usize) {
        if !self.rounds.flying.contains(&at) {
            self.rounds.flying.push(at);
        }
    }

    /// Whether requests are on their way through the log, here or on other nodes.
    pub fn is_flying(&mut self) -> bool {
        let Driver { rounds, lanes, .. } = self;
        rounds.flying.retain(|at| !lanes[*at].flights.is_empty());
        !rounds.flying.is_empty()
    }
}

impl<C> Lane<C> {
    pub(super) fn status(&self) -> GroupStatus {
        (self.shard.group, self.group.status(), self.applied)
    }

    fn due(&self, now: Instant) -> Option<Instant> {
        let soon = now + Duration::from_millis(1);
        let state = self.shard.state();
        let next = if self.leads { state.next_due() } else { None };
        // While nobody changes the state: a change that makes something due earlier than this tells of it.
        self.shard.set_due(next);
        let due = next.map(|due| self.shard.clock.when(due).max(self.looked + LOOK_EVERY).max(soon));
        let leftovers = state.has_leftovers().then_some(soon);
        let litter = (self.leads && self.has_litter()).then(|| (self.looked + LOOK_EVERY).max(soon));
        [self.group.deadline(), due, leftovers, litter, self.again_at].into_iter().flatten().min()
    }
}

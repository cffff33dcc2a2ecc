//! Groups that have nothing to do fall silent.
//!
//! A leader of a group in which nothing has happened for a second, and whose followers have everything, says so in its last heartbeats:
//! from then on neither it nor they have timers. What replaces heartbeats is the host's word on the links between nodes, one for all
//! groups ([`Input::LinkLost`](crate::Input::LinkLost)): it must come soon after a link breaks, or has been silent, on both of its ends. Then a
//! silent follower of that node stands for election, and a silent leader asks whether it still has a majority.
//!
//! - A silent group has no lease once the last one has run out, so nothing is read from the past: what is asked wakes it.
//! - A silent follower stays loyal to its leader. One that has missed the last heartbeat, or has restarted, finds no votes; but its
//!   question reaches the leader, which any message but an answer wakes. Is it the leader itself that asks, then it leads no more, and nobody is loyal to it.
//! - A group with learners does not fall silent: one that has missed the last word of what is decided cannot ask for it by an election.
//! - A leader falls silent only where all members have everything and no link to one of them is lost: who comes back must be heard, and
//!   one behind a fence does not ask by itself. So a dead node costs its groups their heartbeats until it is replaced.

use super::Group;
use base::{Instant, NodeId};
use raft::{ProgressState, StateRole};

/// Intervals between heartbeats in which nothing happens before a group falls silent.
const IDLE_BEATS: u32 = 10;

impl Group {
    /// Something happened that is more than an idle group's heartbeats.
    pub(super) fn stir(&mut self) {
        self.stirred = true;
    }

    /// After the inputs of a step: a leader that was stirred goes on with its heartbeats at once.
    pub(super) fn settle_stirred(&mut self, now: Instant) {
        if !std::mem::take(&mut self.stirred) {
            return;
        }
        self.active_at = now;
        if std::mem::take(&mut self.quiet) && self.is_leader() {
            self.heartbeat_at = now;
            self.quorum_check_at = now + self.timing.election;
        }
    }

    /// The link with a node is lost.
    pub(super) fn lost(&mut self, node: NodeId) {
        // Whoever leads later does not wait for it either. Nodes are few; those of other groups do no harm.
        let is_news = self.lost.insert(node);
        if is_news && self.is_leader() && self.membership().members().contains(&node) {
            self.stir();
        }
    }

    /// Whether the heartbeats that are due may be the last ones.
    pub(super) fn may_fall_silent(&self, now: Instant) -> bool {
        let core = &self.raft.raft;
        let log = &core.raft_log;
        let last = log.last_index();
        let is_still = self.quiesces
            && now.since(self.active_at) >= self.timing.heartbeat * IDLE_BEATS
            && core.apply_to_current_term()
            && [log.committed, log.applied, log.persisted] == [last; 3]
            && self.writes.is_empty()
            && self.reads.len() == 0
            && self.fences.is_empty()
            && core.lead_transferee.is_none()
            && !core.has_pending_conf()
            && !self.membership().is_joint()
            && self.membership().learners.is_empty();
        if !is_still {
            return false;
        }
        let has_all = |node: &NodeId| {
            *node == self.node
                || core
                    .prs()
                    .get(node.0)
                    .is_some_and(|progress| progress.matched == last && progress.state == ProgressState::Replicate)
        };
        self.membership().members().iter().all(|node| has_all(node) && !self.lost.contains(node))
    }

    /// A follower has heard its leader's heartbeat: the last one for a while, or not.
    pub(super) fn heard_heartbeat(&mut self, is_last: bool) {
        let core = &self.raft.raft;
        let log = &core.raft_log;
        self.quiet = is_last && core.state == StateRole::Follower && log.committed == log.last_index();
    }
}

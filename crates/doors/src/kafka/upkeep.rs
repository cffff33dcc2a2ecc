//! What nobody asks for and somebody has to do: groups' time passes, transactions end everywhere, records and topics go. At leaders only,
//! and each of it may be done twice without harm, so a new leader simply goes on.

use std::sync::Arc;
use std::task::Poll;

use base::{Duration, Instant};
use queue::Command;

use super::Door;

/// How often transactions and topics are looked at.
const EVERY: Duration = Duration::from_secs(1);
/// Partitions of a shard that are trimmed in one look.
const TRIMS_MAX: usize = 1_000;

impl Door {
    /// Looks after everything, for ever.
    pub async fn look_after(self: Arc<Door>) {
        let groups = self.clone().look_after_groups_for_ever();
        let (rest, compaction) = (self.look_after_shards(), self.compact_for_ever());
        let (mut groups, mut rest, mut compaction) = (Box::pin(groups), Box::pin(rest), Box::pin(compaction));
        std::future::poll_fn(|context| {
            let _ = groups.as_mut().poll(context);
            let _ = rest.as_mut().poll(context);
            let _ = compaction.as_mut().poll(context);
            Poll::Pending
        })
        .await
    }

    async fn look_after_groups_for_ever(self: Arc<Door>) {
        loop {
            let news = self.group_news();
            let next = self.look_after_groups().await;
            // Somebody else may come to lead, which is no news of ours: a look each second at least.
            let left = next.map_or(EVERY, |next| next.since(self.now()).min(EVERY));
            super::proposal::until(news, self.world.sleep(left)).await;
        }
    }

    async fn look_after_shards(self: &Arc<Door>) {
        loop {
            self.world.sleep(EVERY).await;
            for at in 0..self.shards.shards.len() {
                if !self.shards.shards[at].is_led_elsewhere() && self.shards.shards[at].refusal(true).is_none() {
                    self.look_after_shard(at, self.now()).await;
                }
            }
        }
    }

    async fn look_after_shard(self: &Arc<Door>, at: usize, mono: Instant) {
        let shard = self.shards.shards[at].clone();
        let (topics, known) = {
            let meta = self.registry.shard().state();
            (meta.topics().clone(), meta.applied())
        };
        let now = shard.now(mono);
        let (expired, orphans, overdue, sweep, markers) = {
            let state = shard.state();
            let queue = state.queue();
            if queue.is_empty() && !state.has_streams() {
                return;
            }
            let expired = queue.expired(&topics, now, TRIMS_MAX);
            (
                expired,
                [queue.orphans(&topics, known), state.orphaned_streams(&topics, known)].concat(),
                queue.overdue(now),
                queue.is_sweep_due(now),
                !queue.markers(1).is_empty(),
            )
        };
        let mut proposals = Vec::new();
        for ((topic, partition), to) in expired {
            proposals.push(self.propose(at, &Command::Trim { topic, partition, to }));
        }
        for topic in orphans {
            proposals.push(self.propose(at, &Command::Drop { topic }));
        }
        for (id, number) in &overdue {
            proposals.push(self.propose(at, &Command::TimeOut { id, number: *number }));
        }
        if sweep {
            proposals.push(self.propose(at, &Command::Sweep));
        }
        if !proposals.is_empty() {
            super::proposal::all(proposals, self.world.sleep(EVERY * 10)).await;
        }
        if markers || !overdue.is_empty() {
            self.end_markers(at, None).await;
        }
    }
}

//! Compaction of topics by key: this node reads what it leads, decides what stays ([`queue::compact`]), and proposes it. One partition
//! after the other, one entry of a megabyte after the other, so that whoever produces is not held up.

use std::sync::Arc;

use base::Duration;
use queue::compact::{Step, Work};
use queue::partition::Pass;
use queue::{Command, Outcome, PartitionId};
use store::disk::ReadError;

use super::Door;
use super::proposal::{Failed, all};

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(5);
/// Between two entries of a pass: at most some 100 MB are read in a second.
const PAUSE: Duration = Duration::from_millis(10);
/// How long an entry may take.
const WAIT: Duration = Duration::from_secs(20);
/// Passes over the partitions of one shard in one look.
const PASSES_MAX: usize = 64;

impl Door {
    /// Compacts what is due, for ever.
    pub(super) async fn compact_for_ever(self: &Arc<Door>) {
        loop {
            self.world.sleep(EVERY).await;
            for at in 0..self.shards.shards.len() {
                for (id, pass) in self.cleanable(at) {
                    // What goes wrong is begun anew at the next look, by whoever leads then.
                    let _ = self.compact(at, id, pass).await;
                }
            }
        }
    }

    fn cleanable(&self, at: usize) -> Vec<(PartitionId, Pass)> {
        let shard = &self.shards.shards[at];
        if shard.is_led_elsewhere() || shard.refusal(false).is_some() {
            return Vec::new();
        }
        let topics = self.topics();
        let now = shard.now(self.now());
        shard.state().queue().cleanable(&topics, now, PASSES_MAX)
    }

    async fn compact(self: &Arc<Door>, at: usize, id: PartitionId, pass: Pass) -> Result<(), Failed> {
        let (topic, partition) = id;
        let shard = self.shards.shards[at].clone();
        let tombstones_ms = self.topics().by_id(topic).map_or(0, |topic| topic.settings.tombstones_ms());
        let mut work = Work::new(pass, tombstones_ms, self.world.random());
        loop {
            let step = match shard.state().queue().partition(topic, partition) {
                Some(own) if !shard.is_led_elsewhere() => work.step(own),
                _ => return Err(Failed::NotLeader),
            };
            let pieces = match step {
                Step::Read(pieces) => pieces,
                Step::Finish(clean) => return self.put_clean(at, &Command::Clean { topic, partition, clean }).await,
            };
            let bytes = match self.world.read(shard.group, pieces, true).await {
                Ok(bytes) => bytes,
                // The log has let go of it meanwhile: it is found elsewhere.
                Err(ReadError::Gone) => continue,
                Err(_) => return Err(Failed::Storage),
            };
            let now = i64::try_from(shard.now(self.now())).unwrap_or(i64::MAX);
            if let Some(cleaned) = work.take(&bytes, now) {
                let command = Command::Clean { topic, partition, clean: cleaned.command() };
                self.put_clean(at, &command).await?;
            }
            self.world.sleep(PAUSE).await;
        }
    }

    async fn put_clean(self: &Arc<Door>, at: usize, command: &Command<'_>) -> Result<(), Failed> {
        let done = all(vec![self.propose(at, command)], self.world.sleep(WAIT)).await;
        match done.first() {
            Some(Ok(Outcome::Done)) => Ok(()),
            _ => Err(Failed::Unknown),
        }
    }
}

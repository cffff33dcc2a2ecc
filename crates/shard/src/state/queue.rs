//! Event streams within the state machine: a change is a unit, its answer the outcome's form.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use queue::{Code, Command, Outcome, Queue, Topics, topics};

use super::State;
use crate::board::TOPICS;
use crate::reply::Reply;

impl State {
    /// The shard's partitions, groups and transactional ids.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// The same, to change what is not replicated state.
    pub fn queue_mut(&mut self) -> &mut Queue {
        &mut self.queue
    }

    /// The topics, as of the last entry: the meta group's; empty in any other. Shared, for its readers keep it.
    pub fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    /// Partitions whose readers may see more since the last entry but one, and forgets them. [`TOPICS`] stands for the topics.
    pub fn take_grown(&mut self) -> Vec<queue::PartitionId> {
        self.queue.take_grown()
    }

    /// Applies a command whose form is `bytes` long and ends at `end` of the entry's data. A panic of ours ends it with a
    /// refusal, on every replica alike.
    pub(super) fn queue_command(&mut self, command: &Command<'_>, bytes: usize, end: usize, reply: &mut Reply) {
        let place = queue::Place { index: self.applied, at: (end - bytes) as u32 };
        let (own, now) = (&mut self.queue, self.stamp);
        let outcome = catch_unwind(AssertUnwindSafe(|| own.apply(command, bytes, place, now))).unwrap_or_else(|_| {
            self.panics += 1;
            let why = "internal error: this command met a bug of quorate; please report it";
            Outcome::refused(Code::UNKNOWN_SERVER_ERROR, why)
        });
        if let Command::Drop { topic } = command {
            self.drop_streams(*topic);
        }
        outcome.encode_into(&mut reply.bytes);
    }

    /// Applies a change of the topics.
    pub(super) fn topics_change(&mut self, change: &topics::Change, reply: &mut Reply) {
        let outcome = Arc::make_mut(&mut self.topics).apply(change, self.applied, self.stamp);
        self.queue.note_grown(TOPICS);
        reply.bytes.extend_from_slice(&outcome.encode());
    }
}

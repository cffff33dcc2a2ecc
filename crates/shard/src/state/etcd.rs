//! etcd's keys within the state machine: a command is a unit, its answer the outcome's form.

use std::panic::{AssertUnwindSafe, catch_unwind};

use coordination::{Command, Coordination, command, error};

use super::State;
use crate::reply::Reply;

impl State {
    /// etcd's keys, leases and users, as of the last entry: the meta group's; empty in any other.
    pub fn coordination(&self) -> &Coordination {
        &self.coordination
    }

    /// Applies a command of etcd's. A panic of ours ends it with an error, on every replica alike.
    pub(super) fn etcd_command(&mut self, command: &Command<'_>, reply: &mut Reply) {
        #[cfg(any(test, feature = "planted"))]
        self.coordination.plant(self.planted.coordination);
        let (own, now) = (&mut self.coordination, self.stamp);
        let outcome = catch_unwind(AssertUnwindSafe(|| own.apply(command, now))).unwrap_or_else(|_| {
            self.panics += 1;
            Err(error::BUG)
        });
        command::put_outcome(&outcome, &mut reply.bytes);
    }
}

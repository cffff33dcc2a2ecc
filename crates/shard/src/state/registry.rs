//! Registry and cluster within the state machine: a change is a unit, its answer the outcome's form.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cluster::Cluster;
use discovery::Catalog;
use discovery::change::{Change, Outcome, Refusal};
#[cfg(any(test, feature = "planted"))]
use discovery::session::SessionChange;

use super::State;
use crate::reply::Reply;

impl State {
    /// The registry.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The cluster, as of the last entry.
    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// Applies a change at the index of the entry. A panic of ours ends it with a refusal, on every replica alike.
    pub(super) fn change(&mut self, change: &Change, reply: &mut Reply) {
        let (index, now) = (self.applied, self.stamp);
        #[cfg(any(test, feature = "planted"))]
        if let Change::Session(SessionChange::Renew { id }) = change
            && self.planted.session_renewals_forgotten
            && let Some(session) = self.catalog.session(id)
        {
            reply.bytes.extend_from_slice(&Outcome::Session(Box::new(session.clone())).encode());
            return;
        }
        let catalog = &mut self.catalog;
        let outcome = catch_unwind(AssertUnwindSafe(|| catalog.apply_at(change, index, now))).unwrap_or_else(|_| {
            self.panics += 1;
            let why = "internal error: this change met a bug of quorate; please report it".into();
            Outcome::Refused(Refusal::Invalid, why)
        });
        reply.bytes.extend_from_slice(&outcome.encode());
    }
}

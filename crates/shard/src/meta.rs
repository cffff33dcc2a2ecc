//! The meta group's registry as others use it: who waits for a change, and what a change may do on a full disk.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use discovery::Change;
use discovery::change::Verb;
use discovery::config::ConfigChange;
use discovery::session::SessionChange;
use parking_lot::Mutex;

use crate::live::Shard;

/// Whether a change frees room, or is so small and so needed that it may use the log's reserve: a dead backend must not
/// keep its traffic because the disk is full.
pub fn frees(change: &Change) -> bool {
    match change {
        Change::Deregister { .. } | Change::Reap { .. } | Change::CheckStatus { .. } => true,
        Change::Kv(ops) | Change::Config(ConfigChange::By { ops, .. }) => {
            ops.iter().all(|op| matches!(op.verb, Verb::Delete | Verb::DeleteCas | Verb::DeleteTree))
        }
        Change::Documents { changes, .. } => changes.iter().all(|change| change.body.is_none()),
        Change::Config(change) => matches!(change, ConfigChange::Forget { .. }),
        Change::Session(change) => !matches!(change, SessionChange::Create(_)),
        Change::Register { .. } => false,
    }
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: BTreeMap<u64, Waker>,
    next: u64,
}

/// Rings for everybody who waits when the registry has changed. Rung after the change can be read.
#[derive(Debug, Default)]
pub struct Bell {
    index: AtomicU64,
    waiting: Mutex<Waiting>,
}

impl Bell {
    pub(crate) fn new(index: u64) -> Bell {
        Bell { index: AtomicU64::new(index), waiting: Mutex::default() }
    }

    /// The registry's index when it last rang.
    pub fn index(&self) -> u64 {
        self.index.load(Ordering::SeqCst)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.lock().wakers.len()
    }

    pub(crate) fn ring(&self, index: u64) {
        if self.index.swap(index, Ordering::SeqCst) == index {
            return;
        }
        let wakers = std::mem::take(&mut self.waiting.lock().wakers);
        for waker in wakers.into_values() {
            waker.wake();
        }
    }
}

/// Waits until the registry's index is beyond the one given; gives the new one.
#[must_use]
pub struct Changed<C> {
    shard: Arc<Shard<C>>,
    bell: fn(&Shard<C>) -> &Bell,
    after: u64,
    /// The place among those who wait.
    place: Option<u64>,
}

impl<C> Changed<C> {
    /// Waits at this shard, the meta group's.
    pub fn new(shard: Arc<Shard<C>>, after: u64) -> Changed<C> {
        Changed { shard, bell: |shard| &shard.bell, after, place: None }
    }

    /// The same for etcd's keys: waits until their revision is beyond the one given.
    pub fn etcd(shard: Arc<Shard<C>>, after: u64) -> Changed<C> {
        Changed { shard, bell: |shard| &shard.etcd_bell, after, place: None }
    }

    /// The same for the users: waits until their revision is beyond the one given.
    pub fn users(shard: Arc<Shard<C>>, after: u64) -> Changed<C> {
        Changed { shard, bell: |shard| &shard.users_bell, after, place: None }
    }
}

impl<C> Future for Changed<C> {
    type Output = u64;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u64> {
        let this = &mut *self;
        let bell = (this.bell)(&this.shard);
        let mut waiting = bell.waiting.lock();
        // Looked at under the lock: a bell that rings now finds the waker.
        let index = bell.index();
        if index > this.after {
            if let Some(place) = this.place.take() {
                waiting.wakers.remove(&place);
            }
            return Poll::Ready(index);
        }
        let place = *this.place.get_or_insert_with(|| {
            waiting.next += 1;
            waiting.next
        });
        waiting.wakers.insert(place, context.waker().clone());
        Poll::Pending
    }
}

impl<C> Drop for Changed<C> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            (self.bell)(&self.shard).waiting.lock().wakers.remove(&place);
        }
    }
}

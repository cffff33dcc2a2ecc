//! Who waits for a partition to grow: consumers' long polls. Each is woken by its own partitions only, and where nobody waits
//! an entry costs one look at a counter.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use queue::{PartitionId, TopicId};

use crate::live::Shard;

/// Stands for the list of topics itself, at the meta group's board. No partition has this name.
pub const TOPICS: PartitionId = (TopicId(0), 0);

#[derive(Debug, Default)]
struct Held {
    partitions: Vec<PartitionId>,
    rung: bool,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct Watches {
    all: BTreeMap<u64, Held>,
    of: BTreeMap<PartitionId, BTreeSet<u64>>,
    next: u64,
}

/// One shard's board.
#[derive(Debug, Default)]
pub struct Board {
    count: AtomicUsize,
    watches: Mutex<Watches>,
}

impl Board {
    /// How many watch.
    pub fn watching(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Wakes who watches one of these. Called after what has changed can be read.
    pub fn ring(&self, grown: &[PartitionId]) {
        if grown.is_empty() || self.watching() == 0 {
            return;
        }
        let mut woken = Vec::new();
        let mut watches = self.watches.lock();
        let Watches { all, of, .. } = &mut *watches;
        for id in grown.iter().flat_map(|partition| of.get(partition)).flatten() {
            let held = all.get_mut(id).expect("who is listed by a partition watches");
            held.rung = true;
            woken.extend(held.waker.take());
        }
        drop(watches);
        woken.into_iter().for_each(Waker::wake);
    }

    /// Wakes everybody: another leader, or another state.
    pub fn ring_all(&self) {
        if self.watching() == 0 {
            return;
        }
        let mut watches = self.watches.lock();
        let woken: Vec<Waker> = watches
            .all
            .values_mut()
            .filter_map(|held| {
                held.rung = true;
                held.waker.take()
            })
            .collect();
        drop(watches);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Waits until one of some partitions has grown, or the shard's leader changed. Make it *before* looking at the state, so that
/// nothing that happens in between is missed. It may be awaited again and again: each time for what came since.
#[must_use]
pub struct Grown<C> {
    shard: Arc<Shard<C>>,
    id: u64,
}

impl<C> Grown<C> {
    /// Watches these partitions of the shard.
    pub fn new(shard: Arc<Shard<C>>, partitions: Vec<PartitionId>) -> Grown<C> {
        let mut watches = shard.board.watches.lock();
        watches.next += 1;
        let id = watches.next;
        for partition in &partitions {
            watches.of.entry(*partition).or_default().insert(id);
        }
        watches.all.insert(id, Held { partitions, ..Held::default() });
        shard.board.count.fetch_add(1, Ordering::SeqCst);
        drop(watches);
        Grown { shard, id }
    }
}

impl<C> Future for Grown<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut watches = self.shard.board.watches.lock();
        let held = watches.all.get_mut(&self.id).expect("it watches until it is dropped");
        if std::mem::take(&mut held.rung) {
            held.waker = None;
            return Poll::Ready(());
        }
        held.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

impl<C> Drop for Grown<C> {
    fn drop(&mut self) {
        let mut watches = self.shard.board.watches.lock();
        let Some(held) = watches.all.remove(&self.id) else {
            return;
        };
        for partition in held.partitions {
            if let Some(of) = watches.of.get_mut(&partition) {
                of.remove(&self.id);
                if of.is_empty() {
                    watches.of.remove(&partition);
                }
            }
        }
        self.shard.board.count.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    use base::{GroupId, Limits};
    use store::keyspace::Keyspaces;

    use super::*;
    use crate::live::Gate;
    use crate::state::State;

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_watches_is_woken_by_its_own_partitions_and_by_nothing_else() {
        let state = State::new(GroupId(1), &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1);
        let shard = Arc::new(Shard::<u64>::new(GroupId(1), state, &Limits::DEFAULT, Arc::new(Gate::default())));
        let [a, b, c] = [1, 2, 3].map(|topic| (TopicId(topic), 0));
        let counts = [Arc::new(Count::default()), Arc::new(Count::default())];
        let wakers = counts.clone().map(Waker::from);
        let mut contexts = wakers.each_ref().map(Context::from_waker);
        {
            let mut first = pin!(Grown::new(shard.clone(), vec![a, b]));
            let mut second = pin!(Grown::new(shard.clone(), vec![b, c]));
            // Rung before it is awaited: not missed.
            shard.board.ring(&[a]);
            assert_eq!(first.as_mut().poll(&mut contexts[0]), Poll::Ready(()));
            assert_eq!(first.as_mut().poll(&mut contexts[0]), Poll::Pending);
            assert_eq!(second.as_mut().poll(&mut contexts[1]), Poll::Pending);
            shard.board.ring(&[c, c]);
            let woken = || counts.each_ref().map(|count| count.0.load(Ordering::SeqCst));
            assert_eq!(woken(), [0, 1]);
            shard.board.ring(&[(TopicId(9), 9)]);
            shard.board.ring_all();
            assert_eq!(woken(), [1, 1], "who has been woken is not woken again before it looks");
            assert_eq!(second.as_mut().poll(&mut contexts[1]), Poll::Ready(()));
            assert_eq!(shard.board.watching(), 2);
        }
        assert_eq!(shard.board.watching(), 0);
        assert!(shard.board.watches.lock().of.is_empty());
    }
}

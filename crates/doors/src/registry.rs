//! The way from a door to the registry: reads under the meta group's shared lock, changes through its log, waiting for news.
//!
//! The catalog here is that of the last entry which this node has applied. A change made here is told once it can be read here,
//! whichever node leads; who must not read anything older than others have been told of waits for [`Registry::fresh`] first.
//!
//! The Consul door, DNS, the gateway and the admin door go through here.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use base::{Duration, GroupId, Instant, NodeId};
use bytes::Bytes;
use discovery::watch::{Waiting, Watch};
use discovery::{Catalog, Change};
use parking_lot::{MappedRwLockReadGuard, Mutex};
use shard::live::Shard;
use shard::meta::{Changed, frees};
use shard::pending::Place;

use crate::resp::door::{Client, Door};
use crate::resp::peer::{GUESTS, Peer};

mod changing;
mod fresh;

pub use changing::{Changing, Proposing};
pub use fresh::{Fresh, Reads};

/// Bytes of one outcome: the reads of a transaction are bounded far below.
const OUTCOME_BYTES_MAX: usize = 64 << 20;

/// The registry, for those who serve it.
pub struct Registry {
    shard: Arc<Shard<Client>>,
    wake: Box<dyn Fn() + Send + Sync>,
    /// Locked after the catalog, never before it.
    board: Mutex<Board>,
    /// The other nodes, where there are any.
    around: OnceLock<Arc<Around>>,
}

struct Around {
    meta: GroupId,
    /// Whose forwarding takes changes to the node that leads.
    door: Arc<Door>,
    reads: Arc<Reads>,
    next: AtomicU64,
}

impl Around {
    /// Sends a unit to the node that leads.
    fn propose(&self, unit: Bytes, shown: Shown) -> Proposing {
        let number = CHANGES | (self.next.fetch_add(1, Ordering::Relaxed) + 1);
        let now = self.door.world.now();
        let peer = Arc::new(Peer::new(number, String::new(), String::new(), now, OUTCOME_BYTES_MAX));
        match self.door.forward_unit(&peer, self.meta, unit.to_vec(), false, now) {
            Err(error) => Proposing::refused(error.0.into_owned()),
            Ok(()) => {
                self.door.forward_flush();
                let seen = match shown {
                    Shown::Here => Fresh::new(self.reads.clone(), Some((self.door.clone(), SEEN_WAIT))),
                    Shown::Somewhere => Fresh::already(),
                };
                Proposing::there(peer, self.door.clone(), seen)
            }
        }
    }
}

/// Where what was done can be read when it is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// On this node too.
    Here,
    /// On the node that leads.
    Somewhere,
}

/// Numbers of changes among the clients whose requests are forwarded.
const CHANGES: u64 = GUESTS >> 1;

/// How long a change that was made elsewhere is waited for here. It has been made; this node does not hear of it.
const SEEN_WAIT: Duration = Duration::from_secs(5);

/// Who waits for what. A change wakes those whom it concerns; the others sleep on, however many they are.
#[derive(Debug, Default)]
struct Board {
    groups: BTreeMap<Watch, BTreeMap<u64, Waiter>>,
    next: u64,
    /// The catalog's index up to which everybody here was told.
    told: u64,
}

#[derive(Debug)]
struct Waiter {
    waiting: Waiting,
    waker: Waker,
    is_over: bool,
}

impl Board {
    /// Those whom the changes since the last call concern.
    fn tell(&mut self, catalog: &Catalog) -> Vec<Waker> {
        let (before, index) = (self.told, catalog.index());
        self.told = index;
        let mut woken = Vec::new();
        for (watch, waiters) in &mut self.groups {
            if !catalog.may_have_changed(watch, before) {
                continue;
            }
            let last = catalog.last_change(watch);
            for waiter in waiters.values_mut() {
                // Up to here nothing was its own, or it would be over.
                waiter.waiting.looked(before);
                if waiter.waiting.hears(last, index) && !waiter.is_over {
                    waiter.is_over = true;
                    woken.push(waiter.waker.clone());
                }
            }
        }
        woken
    }
}

/// Why a change has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// Nothing was done, for this reason: the log takes nothing at the moment.
    Refused(String),
    /// It is unknown whether it was done.
    Unknown,
}

impl std::fmt::Display for ChangeError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChangeError::Refused(why) => write!(out, "nothing was changed: {why}"),
            ChangeError::Unknown => out.write_str("it is unknown whether the change was made"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl Registry {
    /// The registry of this meta group; `wake` wakes its driver.
    pub fn new(meta: Arc<Shard<Client>>, wake: Box<dyn Fn() + Send + Sync>) -> Registry {
        Registry { shard: meta, wake, board: Mutex::default(), around: OnceLock::new() }
    }

    /// From now on there are other nodes: `door` forwards changes, and `ask` has the driver begin a read of the meta group with this
    /// token ([`shard::driver::Input::Read`]); its end is to be told to the [`Reads`] that this returns.
    pub fn join(&self, door: Arc<Door>, ask: Box<dyn Fn(u64) + Send + Sync>) -> Arc<Reads> {
        let reads = Arc::new(Reads::new(ask));
        let around = Around { meta: self.shard.group, door, reads: reads.clone(), next: AtomicU64::new(0) };
        let _ = self.around.set(Arc::new(around));
        reads
    }

    /// The meta group, for whoever serves its topics.
    pub fn shard(&self) -> &Arc<Shard<Client>> {
        &self.shard
    }

    /// Who leads the meta group, where known.
    pub fn leader(&self) -> Option<NodeId> {
        self.shard.leader()
    }

    /// The cluster, as of the last entry applied here.
    pub fn cluster(&self) -> Arc<cluster::Cluster> {
        self.shard.state().cluster().clone()
    }

    /// Until the catalog here holds whatever anybody was told of before now. At once where this node leads and its lease
    /// holds; else the leader is asked. It does not end while there is no leader.
    pub fn fresh(&self) -> Fresh {
        let Some(around) = self.around.get() else {
            return Fresh::already();
        };
        if self.shard.may_read(|| around.door.world.now()) {
            return Fresh::already();
        }
        Fresh::new(around.reads.clone(), None)
    }

    /// The catalog, for a short look: changes wait meanwhile.
    pub fn read(&self) -> MappedRwLockReadGuard<'_, Catalog> {
        parking_lot::RwLockReadGuard::map(self.shard.state(), |state| state.catalog())
    }

    /// The catalog's index when the bell last rang: a change that anybody has been told of is in it.
    #[inline]
    pub fn index(&self) -> u64 {
        self.shard.bell.index()
    }

    /// Proposes a change. The future ends when it has been applied here, or cannot be.
    pub fn change(&self, change: &Change) -> Changing {
        let mut unit = Vec::new();
        shard::entry::put_change(&mut unit, change);
        Changing(self.propose(unit.into(), frees(change), Shown::Here))
    }

    /// Proposes a command of etcd's. It ends when it has been applied by the node that leads; what is read here may be older.
    pub fn etcd(&self, command: &coordination::Command<'_>) -> Proposing {
        let mut unit = Vec::with_capacity(command.request.len() + command.user.len() + 16);
        shard::entry::put_etcd(&mut unit, command);
        self.propose(unit.into(), command.frees(), Shown::Somewhere)
    }

    fn propose(&self, unit: Bytes, frees: bool, shown: Shown) -> Proposing {
        if let Some(around) = self.around.get()
            && self.shard.is_led_elsewhere()
        {
            return around.propose(unit, shown);
        }
        if let Some(error) = self.shard.refusal(frees) {
            return Proposing::refused(error.0.into_owned());
        }
        let peer = Arc::new(Peer::new(0, String::new(), String::new(), Instant::default(), OUTCOME_BYTES_MAX));
        match self.shard.submit(|batch| batch.unit(Place::Logged, frees, peer.clone(), &unit)) {
            Err(error) => Proposing::refused(error.0.into_owned()),
            Ok(is_idle) => {
                if is_idle {
                    (self.wake)();
                }
                // Nobody else to go to where there are no other nodes.
                let around = self.around.get().map(|around| Box::new((around.clone(), unit, shown)));
                Proposing::here(peer, around)
            }
        }
    }

    /// Waits until the catalog's index is beyond this one.
    pub fn changed(&self, after: u64) -> Changed<Client> {
        Changed::new(self.shard.clone(), after)
    }

    /// Waits until the query's own may have changed. `looked` is the catalog's index when it was polled last. Needs somebody
    /// who calls [`Registry::tell`] after every change.
    pub fn concerned<'a>(&'a self, waiting: &'a mut Waiting, looked: u64) -> Concerned<'a> {
        Concerned { board: &self.board, waiting, looked, place: None }
    }

    /// Wakes those whom the changes since the last call concern.
    pub fn tell(&self) {
        let woken = {
            let catalog = self.read();
            self.board.lock().tell(&catalog)
        };
        for waker in woken {
            waker.wake();
        }
    }

    /// How many queries wait for a change.
    pub fn waiting(&self) -> usize {
        self.board.lock().groups.values().map(BTreeMap::len).sum()
    }
}

/// A query that waits; see [`Registry::concerned`].
#[must_use]
pub struct Concerned<'a> {
    board: &'a Mutex<Board>,
    waiting: &'a mut Waiting,
    looked: u64,
    place: Option<u64>,
}

impl Future for Concerned<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut board = this.board.lock();
        let Some(place) = this.place else {
            // Others were told of something that came after its last look.
            if board.told > this.looked {
                return Poll::Ready(());
            }
            board.next += 1;
            let place = board.next;
            let waiter = Waiter { waiting: this.waiting.clone(), waker: context.waker().clone(), is_over: false };
            board.groups.entry(this.waiting.watch().clone()).or_default().insert(place, waiter);
            this.place = Some(place);
            return Poll::Pending;
        };
        let waiter = board.groups.get_mut(this.waiting.watch()).and_then(|group| group.get_mut(&place));
        let waiter = waiter.expect("only its own end takes it from the board");
        if waiter.is_over {
            return Poll::Ready(());
        }
        waiter.waker.clone_from(context.waker());
        Poll::Pending
    }
}

impl Drop for Concerned<'_> {
    fn drop(&mut self) {
        let Some(place) = self.place else {
            return;
        };
        let mut board = self.board.lock();
        let told = board.told;
        if let Some(group) = board.groups.get_mut(self.waiting.watch()) {
            let waiter = group.remove(&place);
            if group.is_empty() {
                board.groups.remove(self.waiting.watch());
            }
            // What woke it is judged anew; what did not was none of its own.
            if waiter.is_some_and(|waiter| !waiter.is_over) {
                self.waiting.looked(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use base::Rng;
    use discovery::change::{KvOp, Verb};
    use discovery::form::Blob;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn set(catalog: &mut Catalog, key: &str, index: u64) {
        let op = KvOp {
            verb: Verb::Set,
            key: key.into(),
            value: Blob(index.to_string().into()),
            flags: 0,
            index: 0,
            session: String::new(),
        };
        catalog.apply(&Change::Kv(vec![op]), index);
    }

    /// Many wait for one key each; changes come, and are told of one by one or several together.
    #[test]
    fn a_change_wakes_those_whom_it_concerns_and_nobody_else() {
        let mut rng = Rng::new(5);
        let board = Mutex::new(Board::default());
        let mut catalog = Catalog::default();
        let mut waiting: Vec<Waiting> =
            (0..300).map(|number| Waiting::new(Watch::Key(format!("k{}", number % 100)), 1)).collect();
        let counts: Vec<Arc<Count>> = (0..300).map(|_| Arc::default()).collect();
        {
            let mut futures: Vec<_> = waiting
                .iter_mut()
                .map(|waiting| Box::pin(Concerned { board: &board, waiting, looked: 1, place: None }))
                .collect();
            let poll = |future: &mut Pin<Box<Concerned<'_>>>, count: &Arc<Count>| {
                future.as_mut().poll(&mut Context::from_waker(&count.clone().into())).is_ready()
            };
            for (future, count) in futures.iter_mut().zip(&counts) {
                assert!(!poll(future, count));
            }
            let mut changed = [false; 100];
            for index in 2..60 {
                let key = rng.index(100);
                set(&mut catalog, &format!("k{key}"), index);
                set(&mut catalog, "other", index);
                changed[key] = true;
                if rng.below(3) > 0 {
                    continue;
                }
                board.lock().tell(&catalog).into_iter().for_each(Waker::wake);
                for (number, (future, count)) in futures.iter_mut().zip(&counts).enumerate() {
                    let is_concerned = changed[number % 100];
                    assert_eq!(count.0.load(Ordering::Relaxed), usize::from(is_concerned), "woken once, if at all");
                    assert_eq!(poll(future, count), is_concerned);
                }
            }
            assert!(changed.contains(&false) && changed.contains(&true));
            // More goes than is remembered: that is nothing to those who were there all the time.
            for index in 100..5_000 {
                set(&mut catalog, "gone", index);
                let op = KvOp {
                    verb: Verb::Delete,
                    key: format!("gone{index}"),
                    value: Blob::default(),
                    flags: 0,
                    index: 0,
                    session: String::new(),
                };
                set(&mut catalog, &format!("gone{index}"), index);
                catalog.apply(&Change::Kv(vec![op]), index);
                if index % 900 == 0 {
                    board.lock().tell(&catalog).into_iter().for_each(Waker::wake);
                }
            }
            let asleep =
                futures.iter_mut().zip(&counts).filter_map(|(future, count)| (!poll(future, count)).then_some(count));
            assert!(asleep.map(|count| count.0.load(Ordering::Relaxed)).all(|count| count == 0));
            board.lock().tell(&catalog);
        }
        let sleeper =
            waiting.iter_mut().find_map(|own| (!own.is_over(&catalog)).then_some(own)).expect("somebody slept");
        assert_eq!(sleeper.index(&catalog), 1, "and its time over, it is told what it had");
        assert!(board.lock().groups.is_empty(), "who goes leaves nothing");
        // What was told before it came must be looked at again.
        let mut late = Waiting::new(Watch::Key("k1".into()), 1);
        let mut late = Concerned { board: &board, waiting: &mut late, looked: 1, place: None };
        assert!(Pin::new(&mut late).poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }
}

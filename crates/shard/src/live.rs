//! A shard as connections see it: its state under a lock that readers share, and the queue of what waits for the log.
//!
//! ```text
//!   connection ── read ──► state (shared lock)            driver ── apply ──► state (exclusive lock)
//!              └─ submit ► queue (batches) ──────────────► driver
//! ```

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use base::{GroupId, Instant, Limit, Limits, Millis, NodeId};
use bytes::Bytes;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::board::Board;
use crate::clock::Clock;
use crate::error::CommandError;
use crate::meta::Bell;
use crate::pending::Batch;
use crate::state::State;

/// Why logged writes are refused at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not yet ready: the log is being replayed.
    Loading,
    /// Another node leads this shard, or none at the moment.
    Elsewhere(Option<NodeId>),
    /// Too much waits for a majority of the nodes.
    Overloaded,
    /// The disk is full: only what frees is taken.
    Full,
    /// The log has stopped for good, for this reason.
    Stopped(String),
}

impl Refusal {
    /// What a client is told.
    pub fn error(&self) -> CommandError {
        match self {
            Refusal::Loading => CommandError::new("LOADING Redis is loading the dataset in memory"),
            Refusal::Elsewhere(Some(node)) => CommandError::from(format!(
                "TRYAGAIN node {node} leads the shard of this key; nothing was done: ask there, or here again in a moment"
            )),
            Refusal::Elsewhere(None) => CommandError::new(
                "TRYAGAIN the shard of this key has no leader at the moment (a majority of its nodes is needed); nothing was done",
            ),
            Refusal::Overloaded => CommandError::new(
                "BUSY too many bytes wait for a majority of the nodes (limit uncommitted_bytes_max); nothing was done, try again in a moment",
            ),
            Refusal::Full => CommandError::new(
                "MISCONF the disk is full: writes are refused until there is room; reads, deletes and expiry go on",
            ),
            Refusal::Stopped(why) => CommandError::from(format!(
                "MISCONF the log has stopped and the node takes no more writes: {why}; see /readyz, mend the disk and restart"
            )),
        }
    }
}

/// Room of one entry that is kept for the next one, bytes.
const ROOM_BYTES_MAX: usize = 64 << 10;

/// So many bytes that wait are worth a flush of their own: nobody gathers company for them. On a disk of 2 GB/s that flushes in
/// 0.1 ms they take as long to write as the flush itself.
pub const HEAVY_BYTES: usize = 256 << 10;

/// What waits for one log, all its shards together: how many requests, how many its driver waits for, and which shards it has to look at.
#[derive(Debug, Default)]
pub struct Gate {
    queued: AtomicUsize,
    bytes: AtomicUsize,
    wake_at: AtomicUsize,
    touched: Mutex<Touched>,
}

/// Shards in which something has happened that the driver has not looked at, in that order.
#[derive(Debug)]
struct Touched {
    groups: Vec<GroupId>,
    /// Whether the driver is to be woken for more of them. While it writes, it takes nothing anyway, and looks by itself afterwards.
    listens: bool,
}

impl Default for Touched {
    fn default() -> Touched {
        Touched { groups: Vec::new(), listens: true }
    }
}

impl Gate {
    /// Requests that wait.
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Acquire)
    }

    /// Whether what waits is [`HEAVY_BYTES`] or more.
    pub fn is_heavy(&self) -> bool {
        self.bytes.load(Ordering::Acquire) >= HEAVY_BYTES
    }

    /// From now on the driver is woken by the request that makes them this many or heavy, beside the first one. 0: by the first alone.
    pub fn wake_at(&self, count: usize) {
        self.wake_at.store(count, Ordering::Release);
    }

    /// Counts some more. Whether they are as many now as the driver waits for, or so heavy that it waits no longer.
    fn add(&self, more: usize, bytes: usize) -> bool {
        let weighed = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let before = self.queued.fetch_add(more, Ordering::AcqRel);
        let wake_at = self.wake_at.load(Ordering::Acquire);
        let crosses = |before: usize, more: usize, mark: usize| before < mark && before + more >= mark;
        wake_at > 0 && (crosses(before, more, wake_at) || crosses(weighed, bytes, HEAVY_BYTES))
    }

    /// Moves the shards that were touched since the last time behind those in `into`.
    pub(crate) fn hear(&self, into: &mut Vec<GroupId>) {
        into.append(&mut self.touched.lock().groups);
    }

    /// Whether the driver wants to be woken for shards that are touched from now on. True where some were already of which it has
    /// not been told.
    pub(crate) fn listen(&self, listens: bool) -> bool {
        let mut touched = self.touched.lock();
        touched.listens = listens;
        listens && !touched.groups.is_empty()
    }
}

/// One shard on one node.
pub struct Shard<C> {
    /// Its group.
    pub group: GroupId,
    /// Shard time.
    pub clock: Clock,
    state: RwLock<State>,
    queue: Mutex<VecDeque<Batch<C>>>,
    /// Where the next entry is written.
    room: Mutex<Vec<u8>>,
    queued_bytes: AtomicU64,
    gate: Arc<Gate>,
    /// Whether it is on the gate's list.
    touched: AtomicBool,
    refusal: RwLock<Option<Refusal>>,
    /// When the driver will look at expiries and waits by itself, shard time; `u64::MAX` for never.
    due: AtomicU64,
    limits: Limits,
    /// Until when this node may answer reads by itself, on its monotonic clock; 0 for not at all.
    lease: AtomicU64,
    /// The node that leads, as far as known; 0 for none.
    leader: AtomicU64,
    /// Rings when the registry has changed.
    pub bell: Bell,
    /// Rings when etcd's keys have changed, with their revision.
    pub etcd_bell: Bell,
    /// Rings when the users have changed, with their revision.
    pub users_bell: Bell,
    /// Rings when partitions have grown.
    pub board: Board,
    /// Whether keys may lie here that are not the shard's.
    pub(crate) littered: AtomicBool,
}

/// Shards that a node can have: so many places there are in its list.
pub const SHARDS_MAX: usize = 1025;

/// A node's shards, by place. It only grows, and whoever reads it waits for nobody.
pub struct Shards<C> {
    places: Box<[OnceLock<Arc<Shard<C>>>]>,
    count: AtomicUsize,
}

impl<C> Shards<C> {
    /// These, in order.
    pub fn new(shards: impl IntoIterator<Item = Arc<Shard<C>>>) -> Shards<C> {
        let own = Shards { places: (0..SHARDS_MAX).map(|_| OnceLock::new()).collect(), count: AtomicUsize::new(0) };
        shards.into_iter().for_each(|shard| {
            own.push(shard);
        });
        own
    }

    /// Adds one at the end; only one adds at a time. False where there is no place left.
    pub fn push(&self, shard: Arc<Shard<C>>) -> bool {
        let at = self.count.load(Ordering::Acquire);
        let taken = self.places.get(at).is_some_and(|place| place.set(shard).is_ok());
        if taken {
            self.count.store(at + 1, Ordering::Release);
        }
        taken
    }

    /// How many there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The one at a place.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Arc<Shard<C>>> {
        self.places.get(at)?.get()
    }

    /// All of them as of now, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Shard<C>>> + Clone {
        let own = self.places[..self.len()].iter();
        own.map(|place| place.get().expect("what is counted has been put there"))
    }

    /// The shard of a group.
    pub fn of(&self, group: GroupId) -> Option<&Arc<Shard<C>>> {
        self.iter().find(|shard| shard.group == group)
    }
}

impl<C> std::ops::Index<usize> for Shards<C> {
    type Output = Arc<Shard<C>>;
    #[inline]
    fn index(&self, at: usize) -> &Arc<Shard<C>> {
        self.places[at].get().expect("no place is named before somebody has put a shard there")
    }
}

impl<'a, C> IntoIterator for &'a Shards<C> {
    type Item = &'a Arc<Shard<C>>;
    type IntoIter = std::vec::IntoIter<&'a Arc<Shard<C>>>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter().collect::<Vec<_>>().into_iter()
    }
}

impl<C> std::fmt::Debug for Shards<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} shards", self.len())
    }
}

impl<C> Shard<C> {
    /// A shard that refuses writes until its driver says otherwise. `gate` is its log's.
    pub fn new(group: GroupId, state: State, limits: &Limits, gate: Arc<Gate>) -> Shard<C> {
        Shard {
            littered: AtomicBool::new(state.slots().litter().is_some()),
            bell: Bell::new(state.catalog().index()),
            etcd_bell: Bell::new(state.coordination().store().revision() as u64),
            users_bell: Bell::new(state.users().revision()),
            board: Board::default(),
            group,
            clock: Clock::default(),
            state: RwLock::new(state),
            queue: Mutex::new(VecDeque::new()),
            room: Mutex::default(),
            queued_bytes: AtomicU64::new(0),
            gate,
            touched: AtomicBool::new(false),
            refusal: RwLock::new(Some(Refusal::Loading)),
            due: AtomicU64::new(u64::MAX),
            limits: limits.clone(),
            lease: AtomicU64::new(0),
            leader: AtomicU64::new(0),
        }
    }

    /// The node that leads, where known.
    pub fn leader(&self) -> Option<NodeId> {
        Some(NodeId(self.leader.load(Ordering::Acquire))).filter(|node| node.0 != 0)
    }

    /// Says who leads, as far as known.
    pub fn set_leader(&self, leader: Option<NodeId>) {
        self.leader.store(leader.map_or(0, |node| node.0), Ordering::Release);
    }

    /// Says until when this node may answer reads by itself, on its monotonic clock; for ever for a lone voter.
    pub fn set_lease(&self, until: Option<Instant>) {
        self.lease.store(until.map_or(0, |until| until.0), Ordering::Release);
    }

    /// Whether what was just read from the state is what a leader would have answered: nothing newer had been acknowledged by
    /// anybody. `now` is asked for *after* the read, so that a reader which was held up in between does not answer from the
    /// past; a lone voter needs no clock.
    #[inline]
    pub fn may_read(&self, now: impl FnOnce() -> Instant) -> bool {
        match self.lease.load(Ordering::Acquire) {
            0 => false,
            u64::MAX => true,
            until => now().0 < until,
        }
    }

    /// Whether a look at the state is worth while: this node had a lease a moment ago. A hint; [`Shard::may_read`] decides.
    #[inline]
    pub fn reads_here(&self) -> bool {
        self.lease.load(Ordering::Relaxed) != 0
    }

    /// Whether nobody else can lead: no lease that ends.
    pub(crate) fn is_lone(&self) -> bool {
        self.lease.load(Ordering::Acquire) == u64::MAX
    }

    /// The state, for reading.
    #[inline]
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read()
    }

    /// The state, for apply and for memory keyspaces.
    #[inline]
    pub fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write()
    }

    /// Shard time now.
    #[inline]
    pub fn now(&self, mono: Instant) -> Millis {
        self.clock.now(mono)
    }

    /// Why logged writes are refused, if they are. `frees` for a command that frees room.
    #[inline]
    pub fn refusal(&self, frees: bool) -> Option<CommandError> {
        let refusal = self.refusal.read();
        match &*refusal {
            None => None,
            Some(Refusal::Full) if frees => None,
            Some(refusal) => Some(refusal.error()),
        }
    }

    /// Says whether and why logged writes are refused from now on.
    pub fn set_refusal(&self, refusal: Option<Refusal>) {
        *self.refusal.write() = refusal;
    }

    /// Whether another node leads, or perhaps none.
    pub fn is_led_elsewhere(&self) -> bool {
        matches!(*self.refusal.read(), Some(Refusal::Elsewhere(_)))
    }

    /// What is refused at the moment.
    pub fn current_refusal(&self) -> Option<Refusal> {
        self.refusal.read().clone()
    }

    /// Adds requests to the queue. True where the driver must be woken. An error where too much waits already; then
    /// nothing was added.
    #[inline]
    pub fn submit(&self, add: impl FnOnce(&mut Batch<C>)) -> Result<bool, CommandError> {
        if self.queued_bytes.load(Ordering::Relaxed) > self.limits.pending_bytes_max as u64 {
            return Err(CommandError::new(
                "BUSY too many bytes of commands wait for the log (limit pending_bytes_max); nothing was done, slow down and try again",
            ));
        }
        Ok(self.put(add))
    }

    /// Like [`Shard::submit`], however much waits already: for what is small, and bounded by what it follows.
    #[inline]
    pub fn put(&self, add: impl FnOnce(&mut Batch<C>)) -> bool {
        let mut queue = self.queue.lock();
        let idle = queue.is_empty();
        let is_full = queue.back().map(|batch| batch.entry_bytes() >= self.limits.entry_bytes_max);
        if is_full != Some(false) {
            if is_full.is_some() {
                self.limits.hit(Limit::entry_bytes_max);
            }
            queue.push_back(Batch::with_room(std::mem::take(&mut *self.room.lock())));
        }
        let batch = queue.back_mut().expect("one was pushed where there was none");
        let before = (batch.bytes(), batch.requests().len());
        add(batch);
        self.queued_bytes.fetch_add((batch.bytes() - before.0) as u64, Ordering::Relaxed);
        let wakes = self.gate.add(batch.requests().len() - before.1, batch.bytes() - before.0);
        (idle && self.touch()) || wakes
    }

    /// Something has happened here that the driver has to look at. True where it must be woken for that; not so where it has been told
    /// already, or looks soon by itself.
    pub fn touch(&self) -> bool {
        if self.touched.swap(true, Ordering::AcqRel) {
            return false;
        }
        let mut touched = self.gate.touched.lock();
        touched.groups.push(self.group);
        touched.listens
    }

    /// The driver looks: what happens from now on is to be told again.
    pub(crate) fn heard(&self) {
        self.touched.store(false, Ordering::Release);
    }

    /// An entry as consensus keeps it, for long: in no more room than it needs. The room in which it grew is used again.
    pub(crate) fn keep(&self, entry: Vec<u8>) -> Bytes {
        if entry.len() > ROOM_BYTES_MAX {
            return Bytes::from(entry);
        }
        let kept = Bytes::copy_from_slice(&entry);
        if entry.capacity() <= ROOM_BYTES_MAX {
            *self.room.lock() = entry;
        }
        kept
    }

    /// Puts a batch back to where it was taken from.
    pub(crate) fn put_first(&self, batch: Batch<C>) {
        self.queued_bytes.fetch_add(batch.bytes() as u64, Ordering::Relaxed);
        self.gate.add(batch.requests().len(), batch.bytes());
        self.queue.lock().push_front(batch);
        self.touch();
    }

    /// Takes the next batch, oldest first.
    pub fn take(&self) -> Option<Batch<C>> {
        let batch = self.queue.lock().pop_front()?;
        self.queued_bytes.fetch_sub(batch.bytes() as u64, Ordering::Relaxed);
        self.gate.queued.fetch_sub(batch.requests().len(), Ordering::AcqRel);
        self.gate.bytes.fetch_sub(batch.bytes(), Ordering::AcqRel);
        Some(batch)
    }

    /// Whether something waits.
    pub fn has_queued(&self) -> bool {
        !self.queue.lock().is_empty()
    }

    /// After a change outside the driver: whether it must be woken, for something is now due earlier than it knows, or there is something
    /// to be freed.
    pub fn is_due_earlier(&self, state: &State) -> bool {
        let earlier = state.next_due().is_some_and(|due| due < self.due.load(Ordering::Relaxed));
        // Whoever touches it without waking the driver takes the wake of the next request away.
        (earlier || state.has_leftovers()) && self.touch()
    }

    /// Remembers when the driver will look by itself.
    pub fn set_due(&self, due: Option<Millis>) {
        self.due.store(due.unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

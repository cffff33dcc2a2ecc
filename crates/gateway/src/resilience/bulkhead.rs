//! Bulkheads: a route or an upstream has so many places, and so many may wait for one, for so long (M. Nygard, "Release It!"; Envoy calls
//! them circuit breaker thresholds). What one slow upstream holds is then bounded, and the others do not notice.
//!
//! Entering and leaving are one compare-and-swap while nobody waits. Who must wait gets a [`Ticket`]; leaving hands the place to the first in
//! the queue and says whose ticket it was, so that the host wakes exactly that one. The same type bounds connections (no queue).
//!
//! Law: who is told to go holds a place and gives it back by [`Bulkhead::leave`], once. Who waits ends waiting by being called, or by
//! [`Bulkhead::give_up`]; where both happen at once, `give_up` says that the place is his and must be given back.

use super::defaults::Defaults;
use base::{Duration, Instant};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire},
};

/// How many may be in, and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BulkheadConfig {
    /// Most requests (or connections) at once; at least one.
    pub places: u32,
    /// Most that wait for a place.
    pub queue: u32,
    /// Longest wait.
    pub wait: Duration,
}

impl BulkheadConfig {
    /// The default for the requests of a route or an upstream.
    pub fn requests() -> BulkheadConfig {
        let Defaults { bulkhead_in_flight_max, bulkhead_queue_max, bulkhead_queue_timeout_ms, .. } = Defaults::DEFAULT;
        BulkheadConfig {
            places: bulkhead_in_flight_max as u32,
            queue: bulkhead_queue_max as u32,
            wait: Duration::from_millis(bulkhead_queue_timeout_ms),
        }
    }

    /// The default for the connections to an endpoint.
    pub fn connections() -> BulkheadConfig {
        BulkheadConfig { places: Defaults::DEFAULT.bulkhead_connections_max as u32, queue: 0, wait: Duration::ZERO }
    }
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// What became of asking for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Go; [`Bulkhead::leave`] when done.
    Go,
    /// Wait to be called, until then at the latest.
    Wait(Ticket, Instant),
}

/// Neither a place nor room to wait: answered 503 at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// See the module's head.
#[derive(Debug)]
pub struct Bulkhead {
    config: BulkheadConfig,
    /// High half: how many wait; low half: how many are in. Waiting is changed only under the lock of `queue`.
    state: AtomicU64,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    tickets: VecDeque<Ticket>,
    issued: u64,
}

const WAITING: u64 = 1 << 32;

fn split(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}

impl Bulkhead {
    /// All places free.
    pub fn new(config: BulkheadConfig) -> Bulkhead {
        Bulkhead { config, state: AtomicU64::new(0), queue: Mutex::default() }
    }

    /// How many are in.
    pub fn in_flight(&self) -> u32 {
        split(self.state.load(Acquire)).1
    }

    /// How many wait.
    pub fn waiting(&self) -> u32 {
        split(self.state.load(Acquire)).0
    }

    /// Takes a place, unless somebody waits for one or all are taken.
    fn try_go(&self) -> bool {
        let free = |state| matches!(split(state), (0, taken) if taken < self.config.places.max(1));
        self.state.fetch_update(AcqRel, Acquire, |state| free(state).then_some(state + 1)).is_ok()
    }

    /// Asks for a place.
    pub fn enter(&self, now: Instant) -> Result<Entry, Full> {
        if self.try_go() {
            return Ok(Entry::Go);
        }
        if self.config.queue == 0 {
            return Err(Full);
        }
        let mut queue = self.queue.lock();
        loop {
            if self.try_go() {
                return Ok(Entry::Go);
            }
            let state = self.state.load(Acquire);
            let (waiting, taken) = split(state);
            if waiting == 0 && taken < self.config.places.max(1) {
                continue;
            }
            if waiting >= self.config.queue {
                return Err(Full);
            }
            if self.state.compare_exchange(state, state + WAITING, AcqRel, Acquire).is_ok() {
                break;
            }
        }
        let ticket = Ticket(queue.issued);
        queue.issued += 1;
        queue.tickets.push_back(ticket);
        Ok(Entry::Wait(ticket, now + self.config.wait))
    }

    /// Gives a place back. If somebody waits the place is handed on, and that one is to be called: the place is his.
    #[must_use = "who is named has the place and must be called"]
    pub fn leave(&self) -> Option<Ticket> {
        let out = |state: u64| (split(state).0 == 0).then(|| state - 1);
        debug_assert!(self.in_flight() > 0, "nobody leaves who was not in");
        if self.state.fetch_update(AcqRel, Acquire, out).is_ok() {
            return None;
        }
        let mut queue = self.queue.lock();
        match queue.tickets.pop_front() {
            Some(ticket) => {
                self.state.fetch_sub(WAITING, AcqRel);
                Some(ticket)
            }
            None => {
                // Whoever waited gave up between: nobody can have begun to wait, which takes this lock.
                self.state.fetch_sub(1, AcqRel);
                None
            }
        }
    }

    /// Ends waiting without a place (the wait is over, or the client is gone). False: the call was under way, the place is the caller's and
    /// must be given back.
    #[must_use = "where it is false a place must be given back"]
    pub fn give_up(&self, ticket: Ticket) -> bool {
        let mut queue = self.queue.lock();
        // Tickets are in order.
        let Ok(at) = queue.tickets.binary_search(&ticket) else { return false };
        queue.tickets.remove(at);
        self.state.fetch_sub(WAITING, AcqRel);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bulkhead(places: u32, queue: u32) -> Bulkhead {
        Bulkhead::new(BulkheadConfig { places, queue, wait: Duration::from_secs(1) })
    }

    fn ticket(entry: Result<Entry, Full>) -> Ticket {
        match entry {
            Ok(Entry::Wait(ticket, _)) => ticket,
            other => panic!("{other:?} is not a ticket"),
        }
    }

    #[test]
    fn places_then_the_queue_in_order_then_full() {
        let bulkhead = bulkhead(2, 2);
        let now = Instant(5);
        assert_eq!([bulkhead.enter(now), bulkhead.enter(now)], [Ok(Entry::Go); 2]);
        assert_eq!(bulkhead.enter(now), Ok(Entry::Wait(Ticket(0), now + Duration::from_secs(1))));
        let second = ticket(bulkhead.enter(now));
        assert_eq!(bulkhead.enter(now), Err(Full));
        assert_eq!(bulkhead.leave(), Some(Ticket(0)), "who waited longest");
        assert!(bulkhead.give_up(second));
        assert!(!bulkhead.give_up(Ticket(0)), "was called: has a place");
        assert_eq!((bulkhead.in_flight(), bulkhead.waiting()), (2, 0));
        assert_eq!([bulkhead.leave(), bulkhead.leave()], [None; 2]);
        assert_eq!(bulkhead.in_flight(), 0);
    }

    #[test]
    fn nobody_overtakes_the_queue() {
        let bulkhead = bulkhead(1, 5);
        assert_eq!(bulkhead.enter(Instant(0)), Ok(Entry::Go));
        let first = ticket(bulkhead.enter(Instant(0)));
        let second = ticket(bulkhead.enter(Instant(0)));
        assert_eq!([bulkhead.leave(), bulkhead.leave()], [Some(first), Some(second)]);
    }

    #[test]
    fn connections_do_not_queue() {
        let bulkhead = Bulkhead::new(BulkheadConfig { places: 1, ..BulkheadConfig::connections() });
        assert_eq!([bulkhead.enter(Instant(0)), bulkhead.enter(Instant(0))], [Ok(Entry::Go), Err(Full)]);
    }

    proptest! {
        #[test]
        fn it_is_a_queue_before_a_counter(places in 1u32..4, room in 0u32..4, steps in proptest::collection::vec((0u8..4, 0usize..8), 0..200)) {
            let bulkhead = bulkhead(places, room);
            let (mut inside, mut waiting) = (0u32, VecDeque::new());
            for (what, which) in steps {
                match what {
                    0 | 1 => match bulkhead.enter(Instant(0)) {
                        Ok(Entry::Go) => {
                            prop_assert!(inside < places && waiting.is_empty());
                            inside += 1;
                        }
                        Ok(Entry::Wait(ticket, _)) => {
                            prop_assert!(inside == places && (waiting.len() as u32) < room);
                            waiting.push_back(ticket);
                        }
                        Err(Full) => prop_assert!(inside == places && waiting.len() as u32 == room),
                    },
                    2 if inside > 0 => {
                        let called = bulkhead.leave();
                        prop_assert_eq!(called, waiting.pop_front());
                        inside -= u32::from(called.is_none());
                    }
                    3 if !waiting.is_empty() => {
                        let gone = waiting.remove(which % waiting.len()).expect("one of them");
                        prop_assert!(bulkhead.give_up(gone) && !bulkhead.give_up(gone));
                    }
                    _ => {}
                }
                prop_assert_eq!((bulkhead.in_flight(), bulkhead.waiting()), (inside, waiting.len() as u32));
            }
        }
    }

    #[test]
    fn threads_never_exceed_the_places_and_lose_none() {
        let bulkhead = bulkhead(3, 0);
        let inside = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if bulkhead.enter(Instant(0)) == Ok(Entry::Go) {
                            assert!(inside.fetch_add(1, AcqRel) < 3);
                            inside.fetch_sub(1, AcqRel);
                            assert_eq!(bulkhead.leave(), None);
                        }
                    }
                });
            }
        });
        assert_eq!((bulkhead.in_flight(), bulkhead.waiting()), (0, 0));
    }
}

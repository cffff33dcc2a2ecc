//! A route at work: its places, its limit, its counters.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use base::{Duration, Histogram};
use parking_lot::Mutex;

use super::LiveUpstream;
use crate::model::{LimitKey, Route, Span};
use crate::resilience::{Backoff, Bulkhead, BulkheadConfig, RateLimit, RetryPolicy, Ticket, Timeouts};
use crate::route::Compiled;

/// The places of a route and those who wait for one.
#[derive(Debug)]
pub(super) struct Places {
    pub bulkhead: Bulkhead,
    config: BulkheadConfig,
    queue: Mutex<BTreeMap<Ticket, Waiter>>,
}

/// One who waits, or the trace of a place that was handed to somebody who has not looked or has just gone.
#[derive(Debug)]
enum Waiter {
    Waits(Waker),
    Handed,
    Gone,
}

impl Places {
    fn new(config: BulkheadConfig) -> Places {
        Places { bulkhead: Bulkhead::new(config), config, queue: Mutex::default() }
    }

    /// A request ended: the next in the queue has its place.
    pub fn leave(&self) {
        let Some(ticket) = self.bulkhead.leave() else { return };
        let mut queue = self.queue.lock();
        // Whoever has gone meanwhile was told by `give_up` that the place is its to hand on.
        if let Some(Waiter::Waits(waker)) = match queue.remove(&ticket) {
            Some(Waiter::Gone) => None,
            other => {
                queue.insert(ticket, Waiter::Handed);
                other
            }
        } {
            waker.wake();
        }
    }

    /// Whether the ticket's place was handed over; if not, the waker is called when it is.
    pub fn poll(&self, ticket: Ticket, waker: &Waker) -> bool {
        let mut queue = self.queue.lock();
        if matches!(queue.get(&ticket), Some(Waiter::Handed)) {
            queue.remove(&ticket);
            return true;
        }
        queue.insert(ticket, Waiter::Waits(waker.clone()));
        false
    }

    /// Nobody waits with this ticket any more. If it was handed a place meanwhile that goes to the next.
    pub fn give_up(&self, ticket: Ticket) {
        let in_time = self.bulkhead.give_up(ticket);
        let mut queue = self.queue.lock();
        if !matches!(queue.remove(&ticket), Some(Waiter::Handed)) && !in_time {
            queue.insert(ticket, Waiter::Gone);
        }
        drop(queue);
        if !in_time {
            self.leave();
        }
    }
}

/// What is counted; kept when the route is configured anew.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub requests: AtomicU64,
    /// By the first digit of the status; 0 for those without an answer.
    pub answers: [AtomicU64; 6],
    /// The same of answers that no upstream had a part in.
    pub own: [AtomicU64; 6],
    pub limited: AtomicU64,
    pub refused: AtomicU64,
    latency: OnceLock<Box<Histogram>>,
}

impl Counters {
    pub fn answered(&self, status: u16, took: Duration) {
        self.answers[usize::from(status / 100).min(5)].fetch_add(1, Relaxed);
        self.latency.get_or_init(Box::default).record(took);
    }
}

/// See the module's head.
pub struct LiveRoute<E> {
    /// What it was made from.
    pub compiled: Arc<Compiled>,
    pub(super) targets: Vec<Arc<LiveUpstream<E>>>,
    pub(super) places: Arc<Places>,
    pub(super) counters: Arc<Counters>,
    pub(super) limit: Option<(RateLimit, LimitKey)>,
    pub(super) retry: RetryPolicy,
    /// How long each step may take; what is off is as long as a span can be.
    pub timeouts: Timeouts,
}

fn off(span: Span) -> Duration {
    span.limit().unwrap_or(Span::MAX)
}

impl<E> LiveRoute<E> {
    pub(super) fn new(
        compiled: Arc<Compiled>,
        targets: Vec<Arc<LiveUpstream<E>>>,
        before: Option<&LiveRoute<E>>,
    ) -> LiveRoute<E> {
        let document: &Route = &compiled.document;
        let config = BulkheadConfig {
            places: document.bulkhead.in_flight_max,
            queue: document.bulkhead.queue_max,
            wait: document.bulkhead.queue_timeout.0,
        };
        let kept = before.filter(|before| before.places.config == config).map(|before| Arc::clone(&before.places));
        let limit = document.rate_limit.as_ref().map(|limit| {
            let burst = if limit.burst > 0 { limit.burst as f64 } else { limit.rate.per_second().ceil().max(1.0) };
            let requests = u32::try_from(limit.rate.count).unwrap_or(u32::MAX);
            let burst = burst.min(f64::from(u32::MAX)) as u32;
            (RateLimit { requests, period: limit.rate.per, burst }, limit.per.clone())
        });
        let connect = Span::MAX;
        let timeouts = Timeouts {
            connect,
            answer: off(document.timeouts.first_byte),
            idle: off(document.timeouts.idle),
            request: off(document.timeouts.total),
        };
        LiveRoute {
            places: kept.unwrap_or_else(|| Arc::new(Places::new(config))),
            counters: before.map(|before| Arc::clone(&before.counters)).unwrap_or_default(),
            retry: RetryPolicy {
                attempts_max: document.retry.attempts + 1,
                statuses: document.retry.on_status.clone(),
                on_timeout: document.retry.on_timeout,
                idempotency_keys: document.retry.idempotency_keys,
                backoff: Backoff { base: document.retry.backoff.0, cap: document.retry.backoff_max.0 },
            },
            limit,
            timeouts,
            targets,
            compiled,
        }
    }

    pub(super) fn look(&self) -> super::RouteLook {
        let counters = &self.counters;
        super::RouteLook {
            name: self.compiled.name.to_string(),
            targets: self.targets.iter().map(|target| target.name.to_string()).collect(),
            requests: counters.requests.load(Relaxed),
            answers: std::array::from_fn(|at| counters.answers[at].load(Relaxed)),
            own: std::array::from_fn(|at| counters.own[at].load(Relaxed)),
            limited: counters.limited.load(Relaxed),
            refused: counters.refused.load(Relaxed),
            in_flight: self.places.bulkhead.in_flight(),
            waiting: self.places.bulkhead.waiting(),
            latency: counters.latency.get().map(|latency| latency.snapshot()).unwrap_or_default(),
        }
    }
}

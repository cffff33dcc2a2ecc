//! What a node learns about an endpoint while it uses it: requests in flight, latency, failures. Shared by all sets that hold the endpoint.

use super::peak_ewma::PeakEwma;
use crate::resilience::{Outcome, Tally};
use base::{Duration, Instant};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::AcqRel, Ordering::Acquire, Ordering::Relaxed};

/// One endpoint's counters. All are atomics that stand alone: no reader needs two of them to agree.
#[derive(Debug, Default)]
pub struct Live {
    in_flight: AtomicU32,
    requests: AtomicU64,
    failures: AtomicU64,
    /// Nanoseconds of [`Instant`]; zero is "ever since".
    passing_since: AtomicU64,
    /// How often it was taken out: whoever picked it under an earlier number may not use it any more.
    tenure: AtomicU64,
    pub(super) latency: PeakEwma,
    /// What outlier ejection counts.
    pub tally: Tally,
}

impl Live {
    /// Requests under way at this moment.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Requests sent since the node knows this endpoint.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// Those of them that ended in a 5xx or without an answer.
    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    /// The peak-sensitive average of the answer times as of `now`; zero before the first answer.
    pub fn latency(&self, now: Instant) -> Duration {
        Duration::from_nanos(self.latency.value(now) as u64)
    }

    /// The cost of giving it one more request, by peak EWMA.
    pub(super) fn cost(&self, now: Instant) -> f64 {
        self.latency.cost(now, self.in_flight())
    }

    /// When it began to pass its checks.
    pub fn passing_since(&self) -> Instant {
        Instant(self.passing_since.load(Relaxed))
    }

    pub(super) fn set_passing_since(&self, now: Instant) {
        self.passing_since.store(now.0, Relaxed);
    }

    /// What to remember of a pick, and to compare with before it is used: another number says that the endpoint was taken out between (I7).
    pub fn tenure(&self) -> u64 {
        self.tenure.load(Acquire)
    }

    /// It is taken out: gone, elsewhere now, or critical in the registry. Who has picked it before and has not sent yet picks again.
    pub(crate) fn end_tenure(&self) {
        self.tenure.fetch_add(1, AcqRel);
    }

    /// Counts a request that is sent to it now. Whatever becomes of the [`Attempt`], the request is counted out when it is dropped.
    pub fn begin(self: &Arc<Live>, now: Instant) -> Attempt {
        self.in_flight.fetch_add(1, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        Attempt { live: Arc::clone(self), started: now }
    }
}

/// A request under way at an endpoint. Dropped without [`Attempt::finish`] it was cancelled, and says nothing about the endpoint.
#[derive(Debug)]
#[must_use = "dropping it counts the request as ended"]
pub struct Attempt {
    live: Arc<Live>,
    started: Instant,
}

impl Attempt {
    /// When it was sent.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// The endpoint's counters.
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Notes how it ended: `now` is when the answer's head came, or when it was clear that none would. An endpoint that fails fast does not
    /// look fast: a failure counts for at least the average so far. `finish` does not end the count of requests in flight, since a body may
    /// still follow: dropping the attempt does.
    pub fn finish(&self, now: Instant, outcome: Outcome) {
        self.live.tally.note(outcome);
        let took = now.since(self.started).as_nanos() as f64;
        match outcome {
            Outcome::Answered => self.live.latency.observe(now, took),
            Outcome::ServerError | Outcome::GatewayFailure | Outcome::Unreachable => {
                self.live.failures.fetch_add(1, Relaxed);
                self.live.latency.observe(now, took.max(self.live.latency.value(now)));
            }
            Outcome::Cancelled => {}
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let before = self.live.in_flight.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "an attempt is counted in before it is counted out");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_is_counted_out_whatever_becomes_of_it() {
        let live = Arc::new(Live::default());
        let first = live.begin(Instant(0));
        let second = live.begin(Instant(0));
        assert_eq!(live.in_flight(), 2);
        first.finish(Instant(5_000_000), Outcome::Answered);
        assert_eq!(live.in_flight(), 2, "its body may still be under way");
        drop(first);
        drop(second);
        assert_eq!((live.in_flight(), live.requests(), live.failures()), (0, 2, 0));
        assert_eq!(live.latency(Instant(5_000_000)), Duration::from_millis(5));
    }

    #[test]
    fn failing_fast_does_not_look_fast() {
        let live = Arc::new(Live::default());
        live.begin(Instant(0)).finish(Instant(20_000_000), Outcome::Answered);
        let before = live.latency(Instant(20_000_000));
        for at in 21..40 {
            live.begin(Instant(at * 1_000_000)).finish(Instant(at * 1_000_000 + 1000), Outcome::Unreachable);
        }
        assert!(live.latency(Instant(39_001_000)) >= before.mul_f64(0.99), "19 refusals within 19 ms");
        assert_eq!(live.failures(), 19);
    }
}

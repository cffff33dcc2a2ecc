//! Peak EWMA: an average of answer times that jumps up to a peak at once and comes down slowly, times the requests under way.
//!
//! As Finagle defines it (twitter/finagle, `loadbalancer/PeakEwma.scala`; linkerd and tower follow it): with `td` the time since the last
//! observation and `w = exp(-td/τ)`, an answer time above the average replaces it, another one moves it to `average·w + time·(1-w)`; what an
//! endpoint costs is the average, decayed to now, times requests in flight + 1. An endpoint of which nothing is known costs nothing while it
//! has no request under way, and very much while it has: it gets one request to be known by.
//!
//! Average and time stamp live in one word, so that an observation is one compare-and-swap: 32 bits of float, and 32 bits of a clock that
//! ticks every 65,536 ns and goes round in 78 hours; an endpoint that is idle for exactly that long keeps its old average for one answer.

use base::{Duration, Instant};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// τ: how long an observation counts (to 1/e). Finagle's and linkerd's default.
pub const DECAY: Duration = Duration::from_secs(10);

/// What an unknown endpoint costs while its first request is under way: more than any known one.
const PENALTY: f64 = (i64::MAX >> 16) as f64;

const TICK_BITS: u32 = 16;

/// The average of one endpoint.
#[derive(Debug, Default)]
pub(super) struct PeakEwma(AtomicU64);

fn tick(now: Instant) -> u32 {
    (now.0 >> TICK_BITS) as u32
}

/// The weight of what was observed at `stamp`. A stamp ahead of `now` (another thread was faster) has lost nothing.
fn kept(stamp: u32, now: u32) -> f64 {
    let ticks = now.wrapping_sub(stamp).cast_signed().max(0);
    (-f64::from(ticks) * f64::from(1u32 << TICK_BITS) / DECAY.as_nanos() as f64).exp()
}

fn unpack(word: u64) -> (u32, f64) {
    ((word >> 32) as u32, f64::from(f32::from_bits(word as u32)))
}

impl PeakEwma {
    /// Notes an answer time in nanoseconds.
    pub(super) fn observe(&self, now: Instant, nanos: f64) {
        let now = tick(now);
        let step = |word| {
            let (stamp, average) = unpack(word);
            let w = kept(stamp, now);
            let next = if nanos > average { nanos } else { average * w + nanos * (1.0 - w) };
            let stamp = if now.wrapping_sub(stamp).cast_signed() > 0 || word == 0 { now } else { stamp };
            u64::from(stamp) << 32 | u64::from((next as f32).to_bits())
        };
        let mut word = self.0.load(Relaxed);
        while let Err(seen) = self.0.compare_exchange_weak(word, step(word), Relaxed, Relaxed) {
            word = seen;
        }
    }

    /// The average in nanoseconds, decayed to `now`.
    pub(super) fn value(&self, now: Instant) -> f64 {
        let (stamp, average) = unpack(self.0.load(Relaxed));
        if average == 0.0 { 0.0 } else { average * kept(stamp, tick(now)) }
    }

    /// What one more request costs.
    pub(super) fn cost(&self, now: Instant, in_flight: u32) -> f64 {
        let average = self.value(now);
        if average == 0.0 && in_flight != 0 {
            PENALTY + f64::from(in_flight)
        } else {
            average * (f64::from(in_flight) + 1.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: f64 = 1e6;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_by_a_factor_of_e_in_ten_seconds() {
        let ewma = PeakEwma::default();
        ewma.observe(at(1000), 10.0 * MS);
        ewma.observe(at(1001), 500.0 * MS);
        assert!((ewma.value(at(1001)) - 500.0 * MS).abs() < MS);
        let later = ewma.value(at(11_001));
        assert!((later / MS - 500.0 / std::f64::consts::E).abs() < 1.0, "{later}");
        // Answers of 10 ms for ten seconds bring it down by the same curve towards 10 ms.
        let ewma = PeakEwma::default();
        ewma.observe(at(0), 500.0 * MS);
        (1..=10_000).for_each(|ms| ewma.observe(at(ms), 10.0 * MS));
        let expected = 10.0 + 490.0 / std::f64::consts::E;
        assert!((ewma.value(at(10_000)) / MS - expected).abs() < 2.0, "{}", ewma.value(at(10_000)) / MS);
    }

    #[test]
    fn an_unknown_endpoint_gets_one_request_to_be_known_by() {
        let (unknown, known) = (PeakEwma::default(), PeakEwma::default());
        known.observe(at(5), 3.0 * MS);
        assert!(unknown.cost(at(5), 0) < known.cost(at(5), 0));
        assert!(unknown.cost(at(5), 1) > known.cost(at(5), 1000));
    }

    proptest! {
        #[test]
        fn the_average_stays_between_nothing_and_the_highest_peak(
            answers in proptest::collection::vec((0u64..100_000_000, 1.0f64..1e10), 1..200)
        ) {
            let ewma = PeakEwma::default();
            let mut now = Instant(1);
            let mut peak = 0.0f64;
            for (gap, nanos) in answers {
                now = now + Duration::from_nanos(gap);
                ewma.observe(now, nanos);
                peak = peak.max(nanos);
                let value = ewma.value(now);
                prop_assert!(value >= 0.0 && value <= peak * 1.000_001, "{value} of {peak}");
            }
        }
    }
}

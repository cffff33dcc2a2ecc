//! Slow start: an endpoint that begins to pass is given a share that grows with time, so that cold caches and compilers are not met with
//! the whole load at once. As Envoy's (docs "Slow start mode") with aggression 1: `max(min_percent, elapsed / window)` of its weight.
//!
//! Done by thinning: a candidate that is still ramping is accepted with that probability, else another is drawn. This needs no rebuild as time
//! passes. Hash policies and sticky clients are not thinned: they would be sent elsewhere and back.

use base::{Duration, Instant, Rng};

/// How an upstream's new endpoints are eased in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowStart {
    /// How long the ramp takes.
    pub window: Duration,
    /// The share at its beginning, percent of the weight; Envoy's default is 10.
    pub min_percent: u8,
}

impl SlowStart {
    /// The share of its weight that an endpoint gets which passes since `since`.
    pub fn share(&self, since: Instant, now: Instant) -> f64 {
        let (passed, window) = (now.since(since), self.window);
        if passed >= window {
            return 1.0;
        }
        (passed.as_secs_f64() / window.as_secs_f64()).max(f64::from(self.min_percent.min(100)) / 100.0)
    }

    /// Whether a candidate is taken this time.
    pub(super) fn accepts(&self, since: Instant, now: Instant, rng: &mut Rng) -> bool {
        let share = self.share(since, now);
        share >= 1.0 || rng.unit() < share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_linearly_from_its_minimum_to_the_whole() {
        let ramp = SlowStart { window: Duration::from_secs(10), min_percent: 10 };
        let share = |ms: u64| ramp.share(Instant(1_000_000_000), Instant(1_000_000_000 + ms * 1_000_000));
        assert_eq!(
            [share(0), share(500), share(2_500), share(9_000), share(10_000), share(1 << 30)],
            [0.1, 0.1, 0.25, 0.9, 1.0, 1.0]
        );
        assert_eq!(ramp.share(Instant(5), Instant(0)), 0.1, "a start that lies ahead");
    }
}

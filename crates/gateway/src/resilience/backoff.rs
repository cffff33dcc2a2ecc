//! How long to wait before trying again: exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture
//! Blog, 2015): uniformly between nothing and `min(cap, base · 2^n)`. The jitter is what keeps clients that failed together from coming back
//! together.

use super::defaults::Defaults;
use base::{Duration, Rng};

/// How pauses grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first pause.
    pub base: Duration,
    /// The longest pause of all.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Backoff {
        let Defaults { retry_backoff_base_ms, retry_backoff_cap_ms, .. } = Defaults::DEFAULT;
        Backoff { base: Duration::from_millis(retry_backoff_base_ms), cap: Duration::from_millis(retry_backoff_cap_ms) }
    }
}

impl Backoff {
    /// The longest pause before retry number `retry` (the first is 0).
    pub fn ceiling(&self, retry: u32) -> Duration {
        let factor = 1u32.checked_shl(retry).unwrap_or(u32::MAX);
        self.base.saturating_mul(factor).min(self.cap)
    }

    /// The pause before retry number `retry`.
    pub fn pause(&self, retry: u32, rng: &mut Rng) -> Duration {
        let ceiling = self.ceiling(retry).as_nanos() as u64;
        Duration::from_nanos(rng.below(ceiling.saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ceilings_double_up_to_the_cap_and_pauses_fill_them_evenly() {
        let backoff = Backoff { base: Duration::from_millis(25), cap: Duration::from_millis(250) };
        assert_eq!(
            [0, 1, 2, 3, 4, 31, 32, 4000].map(|n| backoff.ceiling(n).as_millis()),
            [25, 50, 100, 200, 250, 250, 250, 250]
        );
        let mut rng = Rng::new(6);
        let pauses: Vec<f64> = (0..10_000).map(|_| backoff.pause(2, &mut rng).as_secs_f64() * 1000.0).collect();
        assert!(pauses.iter().all(|pause| (0.0..=100.0).contains(pause)));
        for quarter in 0..4 {
            let range = f64::from(quarter) * 25.0..f64::from(quarter + 1) * 25.0;
            let count = pauses.iter().filter(|pause| range.contains(pause)).count();
            assert!((2300..2700).contains(&count), "{count} in {range:?}");
        }
        assert_eq!(Backoff { base: Duration::ZERO, cap: Duration::ZERO }.pause(3, &mut rng), Duration::ZERO);
    }
}

//! A histogram of durations that many threads fill and somebody reads: log-linear buckets, 1/16 relative width.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Duration;

const SUB: usize = 16;
const BUCKETS: usize = SUB * 41;

/// Counts by duration. Recording is two atomic additions.
#[derive(Debug)]
pub struct Histogram {
    counts: Vec<AtomicU64>,
    sum_nanos: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum_nanos: AtomicU64::new(0) }
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < SUB as u64 {
        return nanos as usize;
    }
    let exponent = 63 - nanos.leading_zeros() as usize;
    let sub = (nanos >> (exponent - 4)) as usize & (SUB - 1);
    ((exponent - 3) * SUB + sub).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let exponent = bucket / SUB + 3;
    let sub = (bucket % SUB) as u64;
    ((SUB as u64 + sub + 1) << (exponent - 4)) - 1
}

impl Histogram {
    /// Counts one.
    pub fn record(&self, span: Duration) {
        let nanos = span.as_nanos().min(u128::from(u64::MAX)) as u64;
        self.counts[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What has been counted up to now.
    pub fn snapshot(&self) -> Counts {
        Counts {
            counts: self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(),
            sum_nanos: self.sum_nanos.load(Ordering::Relaxed),
        }
    }
}

/// Counts at one moment.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    counts: Vec<u64>,
    sum_nanos: u64,
}

impl Counts {
    /// What has come since an earlier moment.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let before = |at: usize| earlier.counts.get(at).copied().unwrap_or(0);
        Counts {
            counts: self.counts.iter().enumerate().map(|(at, count)| count.saturating_sub(before(at))).collect(),
            sum_nanos: self.sum_nanos.saturating_sub(earlier.sum_nanos),
        }
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanos)
    }

    /// How many took at most this long (to a bucket's width).
    pub fn at_most(&self, span: Duration) -> u64 {
        let nanos = span.as_nanos() as u64;
        self.counts.iter().enumerate().take_while(|(at, _)| upper_bound(*at) <= nanos).map(|(_, count)| count).sum()
    }

    /// The duration that `share` (0 to 1) of them did not exceed, to 1/16; `None` without any.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let total = self.count();
        if total == 0 {
            return None;
        }
        let wanted = (share * total as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        })?;
        Some(Duration::from_nanos(upper_bound(at)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Histogram, bucket, upper_bound};
    use crate::Duration;

    #[test]
    fn buckets_are_ordered_and_hold_what_they_say() {
        let mut last = 0;
        for nanos in (0..10_000u64).chain([1 << 20, 123_456_789, 1 << 30, 10_000_000_000]) {
            let at = bucket(nanos);
            assert!(at >= last, "order");
            assert!(upper_bound(at) >= nanos, "{nanos} in a bucket up to {}", upper_bound(at));
            assert!(upper_bound(at) <= nanos + nanos / 8 + 1, "{nanos} in a bucket up to {}", upper_bound(at));
            last = at;
        }
    }

    #[test]
    fn quantiles_are_right_to_a_sixteenth() {
        let histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.record(Duration::from_micros(micros));
        }
        let counts = histogram.snapshot();
        let p50 = counts.quantile(0.5).expect("a thousand were recorded").as_micros();
        assert!((500..=535).contains(&p50), "{p50}");
        assert_eq!(counts.count(), 1000);
        assert_eq!(counts.since(&counts).count(), 0);
    }
}

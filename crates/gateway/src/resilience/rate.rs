//! Rate limits by token bucket, in the form of the *generic cell rate algorithm* (ITU-T I.371; "leaky bucket as a meter"): a bucket is one
//! moment, the *theoretical arrival time*. With `T` the time that a token takes to grow and `b` the burst, a request at `now` makes
//! `tat' = max(now, tat) + T` and is let through if `tat' − now ≤ b·T`.
//!
//! One table holds the buckets of all routes and clients: its size is fixed, so no number of clients can make it grow. Buckets stand in sets of
//! [`WAYS`], each behind its own small lock. A bucket that has filled up again is the same as none and its place is free; where no place of a
//! set is free, the bucket that is nearest to being full goes: that client may get a burst too early, and a client that is over its limit
//! (its `tat` lies furthest ahead) never wins by making others come.
//!
//! A client is a hash under a secret key (of its address: [`crate::balance::client_hash`]; of an API key or header as well), taken together
//! with the route, so that nobody can aim at another's set.

use super::defaults::Defaults;
use base::{Duration, Instant};
use parking_lot::Mutex;

/// Buckets of a set.
const WAYS: usize = 8;

/// How fast requests may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests per `period`; at least one.
    pub requests: u32,
    /// The time they are counted by.
    pub period: Duration,
    /// How many may come at once after a pause; at least one.
    pub burst: u32,
}

impl RateLimit {
    /// So many per second, with a burst of as many.
    pub fn per_second(requests: u32) -> RateLimit {
        RateLimit { requests, period: Duration::from_secs(1), burst: requests }
    }

    fn token(&self) -> u64 {
        let nanos = u64::try_from(self.period.as_nanos()).unwrap_or(u64::MAX);
        (nanos / u64::from(self.requests.max(1))).max(1)
    }
}

/// Whether a request may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateDecision {
    /// It may.
    Pass {
        /// How many more may come at once (`RateLimit-Remaining`).
        left: u32,
    },
    /// It may not: answered 429 (RFC 6585 §4).
    Limited {
        /// When the next may (`Retry-After`, RFC 9110 §10.2.3, rounded up to seconds).
        retry_after: Duration,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    /// Zero: nobody's.
    who: u64,
    tat: u64,
}

/// The buckets of all clients.
#[derive(Debug)]
pub struct RateTable {
    sets: Box<[Mutex<[Bucket; WAYS]>]>,
}

impl Default for RateTable {
    fn default() -> RateTable {
        RateTable::new(Defaults::DEFAULT.rate_buckets_max as usize)
    }
}

impl RateTable {
    /// A table for about so many clients (17 bytes each), rounded up to a power of two.
    pub fn new(buckets: usize) -> RateTable {
        let sets = (buckets.max(1).next_power_of_two() / WAYS).max(1);
        RateTable { sets: (0..sets).map(|_| Mutex::default()).collect() }
    }

    /// One request of `who` (the hash of route and client) at `now`.
    pub fn check(&self, who: u64, limit: &RateLimit, now: Instant) -> RateDecision {
        let who = who.max(1);
        let token = limit.token();
        let depth = token.saturating_mul(u64::from(limit.burst.max(1)));
        // High bits choose the set; all of them tell clients apart.
        let set = ((u128::from(who) * self.sets.len() as u128) >> 64) as usize;
        let mut set = self.sets[set].lock();
        let at = set.iter().position(|bucket| bucket.who == who).unwrap_or_else(|| {
            let fullest = set.iter().enumerate().min_by_key(|(_, bucket)| bucket.tat);
            fullest.map(|(at, _)| at).expect("a set has buckets")
        });
        let bucket = &mut set[at];
        let tat = if bucket.who == who { bucket.tat } else { 0 };
        let next = tat.max(now.0).saturating_add(token);
        let ahead = next - now.0;
        if ahead > depth {
            return RateDecision::Limited { retry_after: Duration::from_nanos(ahead - depth) };
        }
        *bucket = Bucket { who, tat: next };
        RateDecision::Pass { left: ((depth - ahead) / token) as u32 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Rng;
    use proptest::prelude::*;

    fn passes(decision: RateDecision) -> bool {
        matches!(decision, RateDecision::Pass { .. })
    }

    #[test]
    fn a_burst_then_the_rate() {
        let table = RateTable::new(64);
        let limit = RateLimit { requests: 10, period: Duration::from_secs(1), burst: 3 };
        let at = |ms: u64| Instant(1_000_000_000 + ms * 1_000_000);
        let left: Vec<_> = (0..3).map(|_| table.check(7, &limit, at(0))).collect();
        assert_eq!(left, [2, 1, 0].map(|left| RateDecision::Pass { left }));
        assert_eq!(table.check(7, &limit, at(40)), RateDecision::Limited { retry_after: Duration::from_millis(60) });
        assert_eq!(table.check(7, &limit, at(100)), RateDecision::Pass { left: 0 });
        assert!(passes(table.check(8, &limit, at(100))), "another client");
        assert_eq!(table.check(7, &limit, at(5000)), RateDecision::Pass { left: 2 }, "full again, and no fuller");
    }

    #[test]
    fn odd_limits_do_no_harm() {
        let table = RateTable::new(0);
        for (who, limit) in [
            RateLimit { requests: 0, period: Duration::ZERO, burst: 0 },
            RateLimit { requests: u32::MAX, period: Duration::from_nanos(1), burst: u32::MAX },
            RateLimit { requests: 1, period: Duration::MAX, burst: u32::MAX },
        ]
        .into_iter()
        .enumerate()
        {
            assert!(passes(table.check(2 * who as u64, &limit, Instant(1))), "{limit:?}");
            table.check(2 * who as u64, &limit, Instant(u64::MAX));
        }
    }

    #[test]
    fn a_flood_of_clients_neither_grows_the_table_nor_frees_who_is_over_the_limit() {
        let table = RateTable::new(1024);
        let limit = RateLimit { requests: 10, period: Duration::from_secs(1), burst: 50 };
        let abuser = 0x1234_5678_9abc_def0;
        let mut rng = Rng::new(3);
        let mut passed = 0;
        // For ten seconds a client sends 1,000/s while a million others send one request each.
        for ms in 0..10_000u64 {
            passed += u32::from(passes(table.check(abuser, &limit, Instant(ms * 1_000_000))));
            for _ in 0..100 {
                table.check(rng.next_u64(), &limit, Instant(ms * 1_000_000));
            }
        }
        println!("limit 10/s with a burst of 50, 10 s, a million other clients: {passed} of 10,000 passed");
        assert!((149..=150).contains(&passed), "{passed}");
    }

    proptest! {
        #[test]
        fn in_any_span_at_most_the_burst_and_what_grows_in_it(
            requests in 1u32..50, burst in 1u32..20, gaps in proptest::collection::vec(0u64..200, 1..300)
        ) {
            let table = RateTable::new(8);
            let limit = RateLimit { requests, period: Duration::from_secs(1), burst };
            let mut now = 1_000_000u64;
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap * 1_000_000;
                match table.check(42, &limit, Instant(now)) {
                    RateDecision::Pass { left } => {
                        prop_assert!(left < burst);
                        passed.push(now);
                    }
                    RateDecision::Limited { retry_after } => {
                        let then = Instant(now) + retry_after;
                        prop_assert!(retry_after > Duration::ZERO && then.0 - now <= limit.token(), "never longer than one token");
                    }
                }
            }
            for (from, start) in passed.iter().enumerate() {
                for (upto, end) in passed.iter().enumerate().skip(from) {
                    let grown = (end - start) as f64 / limit.token() as f64;
                    prop_assert!((upto - from + 1) as f64 <= f64::from(burst) + grown + 1e-6);
                }
            }
        }
    }
}

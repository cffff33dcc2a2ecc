//! The retry budget: retries may be at most a share of the requests, whatever fails. Without it a service that begins to fail gets more
//! requests the more it fails (Finagle's blog, "Retry Budgets", 2016; Google's SRE book, chapter 22 "Handling Overload").
//!
//! In the last ten seconds retries ≤ max(20 % of first attempts, 10). Unlike Finagle's, the floor is not *added* to the share: from 50
//! requests in ten seconds on, the upstream never gets more than 1.2 times the requests, and the floor lets a quiet service retry too.
//!
//! The bound holds for the whole run, not only per window: a retry is remembered at least as long as the requests that paid for it. It is
//! strict between threads: a retry is counted first and taken back if it was too many.

use super::defaults::Defaults;
use super::window::Rolling;
use base::{Duration, Instant};

/// The window that requests and retries are counted over; Finagle's.
const WINDOW: Duration = Duration::from_secs(10);

/// How much may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryBudgetConfig {
    /// Retries per hundred requests.
    pub percent: u32,
    /// Retries in ten seconds that are allowed however few the requests.
    pub floor: u32,
}

impl Default for RetryBudgetConfig {
    fn default() -> RetryBudgetConfig {
        let Defaults { retry_budget_percent, retry_budget_floor, .. } = Defaults::DEFAULT;
        RetryBudgetConfig { percent: retry_budget_percent as u32, floor: retry_budget_floor as u32 }
    }
}

/// One upstream's budget.
#[derive(Debug)]
pub struct RetryBudget {
    config: RetryBudgetConfig,
    requests: Rolling,
    retries: Rolling,
}

impl RetryBudget {
    /// A budget in which nothing was spent.
    pub fn new(config: RetryBudgetConfig) -> RetryBudget {
        RetryBudget { config, requests: Rolling::new(WINDOW), retries: Rolling::new(WINDOW) }
    }

    /// A request is sent for the first time.
    pub fn deposit(&self, now: Instant) {
        self.requests.add(now);
    }

    /// Whether one retry may be sent now; if so it is spent.
    pub fn withdraw(&self, now: Instant) -> bool {
        self.retries.add(now);
        let fits = self.retries.sum(now) <= self.allowed(now) || base::is_planted(base::Bug::BudgetNotKept);
        if !fits {
            self.retries.undo(now);
        }
        fits
    }

    fn allowed(&self, now: Instant) -> u64 {
        (self.requests.sum(now) * u64::from(self.config.percent) / 100).max(u64::from(self.config.floor))
    }

    /// How many retries are left at this moment.
    pub fn left(&self, now: Instant) -> u64 {
        self.allowed(now).saturating_sub(self.retries.sum(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_quiet_service_may_retry_and_a_busy_one_by_its_share() {
        let budget = RetryBudget::new(RetryBudgetConfig { percent: 20, floor: 10 });
        assert_eq!((0..50).filter(|_| budget.withdraw(Instant(0))).count(), 10);
        (0..1000).for_each(|_| budget.deposit(Instant(1)));
        assert_eq!(budget.left(Instant(1)), 190);
        assert_eq!((0..1000).filter(|_| budget.withdraw(Instant(1))).count(), 190);
        let later = Instant(11_000_000_000);
        assert_eq!((0..50).filter(|_| budget.withdraw(later)).count(), 10, "what is old neither pays nor counts");
    }

    proptest! {
        #[test]
        fn in_the_end_retries_never_exceed_the_share_of_all_requests(
            steps in proptest::collection::vec((0u64..3_000, 0u32..200, 0u32..200), 1..100)
        ) {
            let budget = RetryBudget::new(RetryBudgetConfig { percent: 20, floor: 0 });
            let (mut now, mut requests, mut retries) = (Instant(0), 0u64, 0u64);
            for (gap, sent, wanted) in steps {
                now = now + Duration::from_millis(gap);
                (0..sent).for_each(|_| budget.deposit(now));
                requests += u64::from(sent);
                retries += (0..wanted).filter(|_| budget.withdraw(now)).count() as u64;
                prop_assert!(retries * 5 <= requests, "{retries} retries of {requests} requests");
            }
        }
    }
}

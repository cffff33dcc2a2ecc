//! Active health checks: when to probe an endpoint, and what the answers make of it. The probing itself (HTTP, TCP) is done by the host.
//!
//! ```text
//!            first answer good                fall failures in a row
//!  Unknown ───────────────────► Passing ◄──────────────────────────► Failing
//!     └───── first answer bad ─────────── rise successes in a row ──────┘
//! ```
//!
//! The first answer decides at once, so that an endpoint is used or avoided from the start; after that it takes [`CheckConfig::rise`] and
//! [`CheckConfig::fall`] in a row (HAProxy's words and defaults, `rise 2 fall 3`). Until the first answer an endpoint counts as passing, as in
//! nginx and HAProxy: requests and outlier ejection will tell. Each pause is drawn anew around the interval, so that probes of many endpoints
//! from many nodes do not fall into step.

use super::defaults::Defaults;
use base::{Duration, Instant, Rng};

/// How an endpoint is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckConfig {
    /// From one probe's start to the next one's.
    pub interval: Duration,
    /// Each pause is drawn from the interval ± this percentage.
    pub jitter_percent: u32,
    /// A probe without an answer after this long has failed.
    pub timeout: Duration,
    /// Successes in a row until a failing endpoint passes.
    pub rise: u32,
    /// Failures in a row until a passing endpoint fails.
    pub fall: u32,
}

impl Default for CheckConfig {
    fn default() -> CheckConfig {
        let d = Defaults::DEFAULT;
        CheckConfig {
            interval: Duration::from_millis(d.check_interval_ms),
            jitter_percent: d.check_jitter_percent as u32,
            timeout: Duration::from_millis(d.check_timeout_ms),
            rise: d.check_rise as u32,
            fall: d.check_fall as u32,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Nothing,
    Passing,
    Failing,
}

/// The checks of one endpoint. At most one probe is under way.
#[derive(Clone, Debug)]
pub struct HealthCheck {
    config: CheckConfig,
    known: Known,
    /// Answers in a row that speak against what is known.
    against: u32,
    /// When the next probe is due, or when the one under way has failed.
    next: Instant,
    under_way: bool,
}

impl HealthCheck {
    /// Checks of which the first is due at `now`.
    pub fn new(config: CheckConfig, now: Instant) -> HealthCheck {
        HealthCheck { config, known: Known::Nothing, against: 0, next: now, under_way: false }
    }

    /// Whether the endpoint may get requests.
    pub fn is_passing(&self) -> bool {
        self.known != Known::Failing
    }

    /// Whether any probe has been answered.
    pub fn is_known(&self) -> bool {
        self.known != Known::Nothing
    }

    /// When to look again: the next probe, or the end of the one under way.
    pub fn deadline(&self) -> Instant {
        self.next
    }

    /// Begins a probe if one is due, and says until when its answer is waited for.
    pub fn begin(&mut self, now: Instant) -> Option<Instant> {
        if self.under_way || now < self.next {
            return None;
        }
        self.under_way = true;
        self.next = now + self.config.timeout;
        Some(self.next)
    }

    /// The probe under way was not made after all, for a reason that says nothing of the endpoint. The next one comes in its time.
    pub fn give_up(&mut self, now: Instant, rng: &mut Rng) {
        if std::mem::take(&mut self.under_way) {
            self.next = now + self.pause(rng);
        }
    }

    /// Notes the answer to the probe under way; a timeout is a bad answer. Gives the new state if it changed. An answer that nobody waits for
    /// any more is ignored.
    pub fn finish(&mut self, now: Instant, good: bool, rng: &mut Rng) -> Option<bool> {
        if !self.under_way {
            return None;
        }
        self.under_way = false;
        self.next = now + self.pause(rng);
        let (passing, needed) = match self.known {
            Known::Nothing => {
                self.known = if good { Known::Passing } else { Known::Failing };
                return (!good).then_some(false);
            }
            Known::Passing => (true, self.config.fall),
            Known::Failing => (false, self.config.rise),
        };
        if good == passing {
            self.against = 0;
            return None;
        }
        self.against += 1;
        if self.against < needed.max(1) {
            return None;
        }
        self.against = 0;
        self.known = if good { Known::Passing } else { Known::Failing };
        Some(good)
    }

    fn pause(&self, rng: &mut Rng) -> Duration {
        let interval = self.config.interval.as_nanos() as u64;
        let spread = interval / 100 * u64::from(self.config.jitter_percent.min(100));
        Duration::from_nanos(interval - spread + rng.below(2 * spread + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Rng;
    use proptest::prelude::*;

    fn config() -> CheckConfig {
        CheckConfig { rise: 2, fall: 3, ..CheckConfig::default() }
    }

    /// Answers one letter after the other (`+` good, `-` bad); gives the state after each (`P` passing, `f` failing).
    fn states(answers: &str) -> String {
        let mut rng = Rng::new(1);
        let mut check = HealthCheck::new(config(), Instant(0));
        let state = |answer| {
            let now = check.deadline();
            check.begin(now).expect("due");
            let before = check.is_passing();
            let change = check.finish(now, answer == '+', &mut rng);
            assert_eq!(
                change,
                (check.is_passing() != before).then_some(check.is_passing()),
                "a change is told when there is one"
            );
            if check.is_passing() { 'P' } else { 'f' }
        };
        answers.chars().map(state).collect()
    }

    #[test]
    fn the_first_answer_decides_and_then_it_takes_rise_and_fall_in_a_row() {
        assert_eq!(states("-++"), "ffP");
        assert_eq!(states("+--+---+-++"), "PPPPPPffffP");
        assert_eq!(states("-+-+-+-"), "fffffff");
    }

    #[test]
    fn a_probe_that_could_not_be_made_says_nothing_and_the_next_one_comes() {
        let mut rng = Rng::new(1);
        let mut check = HealthCheck::new(config(), Instant(7));
        let until = check.begin(Instant(7)).expect("due");
        check.give_up(Instant(8), &mut rng);
        assert!(!check.is_known() && check.deadline() > until);
        assert_eq!(check.finish(Instant(9), false, &mut rng), None, "nobody waits for it");
        assert!(check.is_passing() && check.begin(check.deadline()).is_some());
    }

    #[test]
    fn one_probe_at_a_time_and_a_late_answer_counts_for_nothing() {
        let mut rng = Rng::new(1);
        let mut check = HealthCheck::new(config(), Instant(7));
        assert_eq!(check.begin(Instant(6)), None, "not due");
        let until = check.begin(Instant(7)).expect("due");
        assert_eq!(until, Instant(7) + config().timeout);
        assert_eq!(check.begin(until), None, "one is under way");
        assert_eq!(check.finish(until, false, &mut rng), Some(false), "timed out");
        assert_eq!(check.finish(until, true, &mut rng), None, "too late");
        assert!(!check.is_passing() && check.is_known());
    }

    proptest! {
        #[test]
        fn pauses_stay_within_the_jitter(seed: u64, jitter_percent in 0u32..200) {
            let config = CheckConfig { jitter_percent, ..config() };
            let mut check = HealthCheck::new(config, Instant(0));
            check.begin(Instant(0));
            check.finish(Instant(0), true, &mut Rng::new(seed));
            let pause = check.deadline().since(Instant(0)).as_secs_f64() / config.interval.as_secs_f64();
            let spread = f64::from(jitter_percent.min(100)) / 100.0;
            prop_assert!((1.0 - spread - 1e-6..=1.0 + spread + 1e-6).contains(&pause), "{pause}");
        }
    }
}

//! The circuit breaker of an upstream (M. Nygard, "Release It!", 2007; the window, minimum volume and half-open probes are those of Netflix's
//! Hystrix and resilience4j).
//!
//! ```text
//!            failures ≥ threshold of ≥ volume in the window
//!  Closed ─────────────────────────────────────────────────► Open ◄──────┐
//!    ▲                                                        │ pause    │ a probe fails
//!    │               all probes succeed                       ▼          │ (the pause doubles)
//!    └─────────────────────────────────────────────────── HalfOpen ──────┘
//! ```
//!
//! Closed costs one load to enter and one count to report. The threshold is high (75 % by default) on purpose: half of an upstream's answers
//! failing is a matter for ejection and the retry budget; refusing the other half too would make it worse.
//!
//! A probe that never reports (its task died) gives its place free after [`BreakerConfig::probe_timeout`].

use super::defaults::Defaults;
use super::outcome::Outcome;
use super::window::Rolling;
use base::{Duration, Instant};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// When a breaker opens and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerConfig {
    /// Over how long failures are counted.
    pub window: Duration,
    /// Reports within the window, below which it does not open.
    pub volume_min: u32,
    /// Failures of a hundred reports at which it opens.
    pub failure_percent: u32,
    /// The first pause.
    pub pause: Duration,
    /// The longest pause.
    pub pause_max: Duration,
    /// Probes that must succeed for it to close; so many are let through at once.
    pub probes: u32,
    /// A probe that has not reported after this long is given up.
    pub probe_timeout: Duration,
}

impl Default for BreakerConfig {
    fn default() -> BreakerConfig {
        let d = Defaults::DEFAULT;
        BreakerConfig {
            window: Duration::from_millis(d.breaker_window_ms),
            volume_min: d.breaker_volume_min as u32,
            failure_percent: d.breaker_failure_percent as u32,
            pause: Duration::from_millis(d.breaker_pause_ms),
            pause_max: Duration::from_millis(d.breaker_pause_max_ms),
            probes: d.breaker_probes as u32,
            probe_timeout: Duration::from_millis(d.breaker_probe_timeout_ms),
        }
    }
}

/// What a breaker does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets them through.
    Closed,
    /// Refuses them.
    Open,
    /// Lets a few through to see.
    HalfOpen,
}

/// Leave to send one request; to be reported with [`Breaker::report`], as [`Outcome::Cancelled`] if it was not sent after all.
#[derive(Debug)]
#[must_use = "report how it ended"]
pub struct Pass {
    generation: u64,
    probe: bool,
}

/// Refused: the upstream is known to be down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// When it is worth trying again (`Retry-After`).
    pub retry_after: Duration,
}

/// A change of state, for the log, the console and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: BreakerState,
    /// What it is now.
    pub to: BreakerState,
}

#[derive(Debug)]
struct Inner {
    state: BreakerState,
    open_until: Instant,
    /// Openings in a row without a close between them.
    openings: u32,
    probes_out: u32,
    probes_good: u32,
    /// When the last probe went out.
    last_probe: Instant,
}

/// One upstream's breaker.
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    /// The number of the present state times two, odd while it is closed: what a report belongs to.
    word: AtomicU64,
    total: Rolling,
    failed: Rolling,
    inner: Mutex<Inner>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(config: BreakerConfig) -> Breaker {
        let inner = Inner {
            state: BreakerState::Closed,
            open_until: Instant(0),
            openings: 0,
            probes_out: 0,
            probes_good: 0,
            last_probe: Instant(0),
        };
        Breaker {
            config,
            word: AtomicU64::new(1),
            total: Rolling::new(config.window),
            failed: Rolling::new(config.window),
            inner: Mutex::new(inner),
        }
    }

    /// Its state. An open breaker whose pause is over is still open until somebody asks to pass.
    pub fn state(&self) -> BreakerState {
        if self.word.load(Ordering::Acquire) & 1 == 1 { BreakerState::Closed } else { self.inner.lock().state }
    }

    /// The share of failures within the window, 0 to 1; zero where nothing was reported.
    pub fn failure_rate(&self, now: Instant) -> f64 {
        let total = self.total.sum(now);
        if total == 0 { 0.0 } else { self.failed.sum(now) as f64 / total as f64 }
    }

    /// Whether a request may be sent; with the transition that asking brought about, if any.
    pub fn admit(&self, now: Instant) -> (Result<Pass, Open>, Option<Transition>) {
        let generation = self.word.load(Ordering::Acquire);
        if generation & 1 == 1 {
            return (Ok(Pass { generation, probe: false }), None);
        }
        let mut inner = self.inner.lock();
        let mut transition = None;
        match inner.state {
            BreakerState::Closed => {
                return (Ok(Pass { generation: self.word.load(Ordering::Acquire), probe: false }), None);
            }
            BreakerState::Open if now < inner.open_until => {
                return (Err(Open { retry_after: inner.open_until.since(now) }), None);
            }
            BreakerState::Open => transition = Some(self.turn(&mut inner, BreakerState::HalfOpen, now)),
            BreakerState::HalfOpen => {
                let lost = inner.probes_out > 0 && now.since(inner.last_probe) >= self.config.probe_timeout;
                if lost {
                    inner.probes_out = 0;
                }
            }
        }
        if inner.probes_out + inner.probes_good >= self.config.probes.max(1) {
            return (Err(Open { retry_after: self.config.pause }), transition);
        }
        inner.probes_out += 1;
        inner.last_probe = now;
        (Ok(Pass { generation: self.word.load(Ordering::Acquire), probe: true }), transition)
    }

    /// Notes how a request ended. What began under an earlier state says nothing about this one.
    pub fn report(&self, pass: Pass, now: Instant, outcome: Outcome) -> Option<Transition> {
        if pass.probe {
            return self.report_probe(&pass, now, outcome);
        }
        if outcome == Outcome::Cancelled || pass.generation != self.word.load(Ordering::Acquire) {
            return None;
        }
        self.total.add(now);
        if !outcome.is_failure() {
            return None;
        }
        self.failed.add(now);
        let (failed, total) = (self.failed.sum(now), self.total.sum(now));
        if total < u64::from(self.config.volume_min) || failed * 100 < total * u64::from(self.config.failure_percent) {
            return None;
        }
        let mut inner = self.inner.lock();
        // Another thread may have opened it between.
        let still = pass.generation == self.word.load(Ordering::Acquire) && inner.state == BreakerState::Closed;
        still.then(|| self.turn(&mut inner, BreakerState::Open, now))
    }

    /// Gives a pass back that was not used to the end, for who has no time at hand (a `Drop`): as reporting [`Outcome::Cancelled`].
    pub fn cancel(&self, pass: Pass) {
        if pass.probe {
            let mut inner = self.inner.lock();
            if pass.generation == self.word.load(Ordering::Acquire) {
                inner.probes_out = inner.probes_out.saturating_sub(1);
            }
        }
    }

    fn report_probe(&self, pass: &Pass, now: Instant, outcome: Outcome) -> Option<Transition> {
        let mut inner = self.inner.lock();
        if pass.generation != self.word.load(Ordering::Acquire) || inner.state != BreakerState::HalfOpen {
            return None;
        }
        inner.probes_out = inner.probes_out.saturating_sub(1);
        if outcome.is_failure() {
            return Some(self.turn(&mut inner, BreakerState::Open, now));
        }
        inner.probes_good += u32::from(outcome == Outcome::Answered);
        (inner.probes_good >= self.config.probes.max(1)).then(|| self.turn(&mut inner, BreakerState::Closed, now))
    }

    fn turn(&self, inner: &mut Inner, to: BreakerState, now: Instant) -> Transition {
        use BreakerState::{Closed, HalfOpen, Open};
        let from = inner.state;
        assert!(
            matches!((from, to), (Closed, Open) | (Open, HalfOpen) | (HalfOpen, Open | Closed)),
            "no way leads from {from:?} to {to:?}"
        );
        inner.state = to;
        (inner.probes_out, inner.probes_good) = (0, 0);
        match to {
            Open => {
                let doubled = self.config.pause.saturating_mul(1u32.checked_shl(inner.openings).unwrap_or(u32::MAX));
                inner.open_until = now + doubled.min(self.config.pause_max.max(self.config.pause));
                inner.openings = inner.openings.saturating_add(1);
            }
            Closed => {
                inner.openings = 0;
                self.total.clear();
                self.failed.clear();
            }
            HalfOpen => {}
        }
        // The next number of this kind: odd for closed, even else.
        let word = self.word.load(Ordering::Acquire);
        let next = (word / 2 + 1) * 2 + u64::from(to == Closed);
        self.word.store(next, Ordering::Release);
        Transition { from, to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CONFIG: BreakerConfig = BreakerConfig {
        window: Duration::from_secs(10),
        volume_min: 20,
        failure_percent: 75,
        pause: Duration::from_secs(5),
        pause_max: Duration::from_secs(30),
        probes: 3,
        probe_timeout: Duration::from_secs(30),
    };

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    fn pass(breaker: &Breaker, now: Instant) -> Pass {
        breaker.admit(now).0.expect("a pass")
    }

    fn send(breaker: &Breaker, now: Instant, outcome: Outcome) -> Option<Transition> {
        breaker.report(pass(breaker, now), now, outcome)
    }

    fn opened() -> Breaker {
        let breaker = Breaker::new(CONFIG);
        let changes: Vec<_> = (0..20).filter_map(|_| send(&breaker, at(0), Outcome::GatewayFailure)).collect();
        assert_eq!(changes, [Transition { from: BreakerState::Closed, to: BreakerState::Open }]);
        breaker
    }

    #[test]
    fn it_opens_at_the_threshold_of_the_volume_within_the_window() {
        let breaker = Breaker::new(CONFIG);
        (0..19).for_each(|_| assert_eq!(send(&breaker, at(0), Outcome::GatewayFailure), None, "too few"));
        assert_eq!(send(&breaker, at(11_000), Outcome::GatewayFailure), None, "the others are forgotten");
        let breaker = Breaker::new(CONFIG);
        for request in 0..2000 {
            let outcome = if request % 2 == 0 { Outcome::ServerError } else { Outcome::Answered };
            assert_eq!(send(&breaker, at(request), outcome), None, "half failing does not open it");
        }
        assert!((breaker.failure_rate(at(2000)) - 0.5).abs() < 0.01);
        opened();
    }

    #[test]
    fn open_refuses_then_a_few_probe_and_close_it() {
        let breaker = opened();
        let (refused, _) = breaker.admit(at(1000));
        assert_eq!(refused.err(), Some(Open { retry_after: Duration::from_secs(4) }));
        let (first, transition) = breaker.admit(at(5000));
        assert_eq!(transition, Some(Transition { from: BreakerState::Open, to: BreakerState::HalfOpen }));
        let probes = [first.expect("a probe"), pass(&breaker, at(5000)), pass(&breaker, at(5000))];
        assert!(breaker.admit(at(5000)).0.is_err(), "three and no more");
        let changes = probes.map(|probe| breaker.report(probe, at(5100), Outcome::Answered));
        assert_eq!(changes, [None, None, Some(Transition { from: BreakerState::HalfOpen, to: BreakerState::Closed })]);
        assert_eq!((breaker.state(), breaker.failure_rate(at(5100))), (BreakerState::Closed, 0.0));
    }

    #[test]
    fn a_failed_probe_opens_it_for_twice_as_long_up_to_the_most() {
        let breaker = opened();
        let mut now = at(5000);
        let pauses = [10, 20, 30, 30].map(|secs| {
            let change = send(&breaker, now, Outcome::GatewayFailure);
            assert_eq!(change, Some(Transition { from: BreakerState::HalfOpen, to: BreakerState::Open }));
            let pause = breaker.admit(now).0.expect_err("open").retry_after;
            now = now + pause;
            pause == Duration::from_secs(secs)
        });
        assert_eq!(pauses, [true; 4]);
    }

    #[test]
    fn probes_that_are_cancelled_or_lost_give_their_places_free() {
        let breaker = opened();
        for _ in 0..10 {
            assert_eq!(send(&breaker, at(5000), Outcome::Cancelled), None);
            breaker.cancel(pass(&breaker, at(5000)));
        }
        let lost = [pass(&breaker, at(5000)), pass(&breaker, at(5000)), pass(&breaker, at(5000))];
        assert!(breaker.admit(at(34_999)).0.is_err());
        assert!(breaker.admit(at(35_000)).0.is_ok(), "after the probe timeout");
        drop(lost);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn what_began_before_says_nothing_after() {
        let breaker = Breaker::new(CONFIG);
        let old: Vec<Pass> = (0..40).map(|_| pass(&breaker, at(0))).collect();
        (0..20).for_each(|_| _ = send(&breaker, at(0), Outcome::GatewayFailure));
        let probe = pass(&breaker, at(5000));
        assert!(old.into_iter().all(|pass| breaker.report(pass, at(5000), Outcome::GatewayFailure).is_none()));
        assert_eq!(breaker.state(), BreakerState::HalfOpen, "late failures of the time before do not fail the probe");
        breaker.report(probe, at(5000), Outcome::Answered);
    }

    proptest! {
        #[test]
        fn it_keeps_its_law_under_any_traffic(steps in proptest::collection::vec((0u64..2_000, 0u8..4, 0usize..4), 1..400)) {
            let breaker = Breaker::new(CONFIG);
            let (mut now, mut out, mut state) = (0u64, Vec::new(), BreakerState::Closed);
            for (gap, what, which) in steps {
                now += gap;
                let mut changes = Vec::new();
                match what {
                    0 | 1 => {
                        let (result, change) = breaker.admit(at(now));
                        changes.extend(change);
                        out.extend(result.ok());
                    }
                    _ if out.is_empty() => {}
                    _ => {
                        let outcome = [Outcome::Answered, Outcome::GatewayFailure, Outcome::ServerError, Outcome::Cancelled][which];
                        let pass = out.swap_remove(which % out.len());
                        changes.extend(breaker.report(pass, at(now), outcome));
                    }
                }
                for change in changes {
                    prop_assert_eq!(change.from, state, "transitions are a chain");
                    state = change.to;
                }
                prop_assert_eq!(breaker.state(), state);
                let probes = out.iter().filter(|pass| pass.probe && pass.generation == breaker.word.load(Ordering::Relaxed)).count();
                prop_assert!(state == BreakerState::HalfOpen || probes == 0);
            }
        }
    }
}

//! Passive health: an endpoint that fails while others do not is ejected for a while (Envoy, docs "Outlier detection"; the defaults are
//! Envoy's but for [`OutlierConfig::max_ejection_percent`]).
//!
//! * *consecutive failures*: so many 5xx, or gateway failures, in a row: ejected at once, unless every other endpoint in service is failing too:
//!   then it is no outlier, and taking it out would put its load on the others (a slow spell of three seconds under 80 % load became an outage
//!   of forty in the simulation of `storm`).
//! * *unreachable* so many times in a row: nobody is there. Ejected for a short while only, since finding out again costs one refused
//!   connection, and a restarted endpoint should serve soon; and without regard to the percentage, since such an endpoint takes no load.
//! * *success rate*: at each sweep, an endpoint whose rate is below `mean − factor · deviation` of all that had enough requests.
//!
//! The other ejections last `base · n`, where `n` grows with each ejection and shrinks with each sweep that the endpoint spends in service, up to a
//! maximum. **Never all**: an ejection that would leave no endpoint that is neither ejected nor unhealthy otherwise does not happen, nor one
//! beyond the percentage (which always allows one). So an upstream that fails as a whole is left to the breaker. An ejected endpoint is
//! still the last resort of a request that has tried all others; if it answers, or passes a probe, it is pardoned ([`Outliers::pardon`]).
//!
//! Successes touch only their endpoint's [`Tally`]; the lock around [`Outliers`] is taken after a failure that makes a tally suspicious, and by
//! the sweep.

use super::defaults::Defaults;
use super::outcome::Outcome;
use crate::balance::{EndpointId, Live};
use base::{Duration, Instant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What is counted of one endpoint.
#[derive(Debug, Default)]
pub struct Tally {
    errors_in_a_row: AtomicU32,
    gateway_failures_in_a_row: AtomicU32,
    unreachable_in_a_row: AtomicU32,
    answered: AtomicU32,
    failed: AtomicU32,
}

impl Tally {
    /// Notes how an attempt ended.
    pub(crate) fn note(&self, outcome: Outcome) {
        match outcome {
            Outcome::Answered => {
                self.answered.fetch_add(1, Relaxed);
                self.forgive();
            }
            Outcome::ServerError | Outcome::GatewayFailure | Outcome::Unreachable => {
                let count = |counter: &AtomicU32, more: bool| {
                    if more {
                        counter.fetch_add(1, Relaxed);
                    } else {
                        counter.store(0, Relaxed);
                    }
                };
                self.failed.fetch_add(1, Relaxed);
                count(&self.errors_in_a_row, true);
                count(&self.gateway_failures_in_a_row, outcome != Outcome::ServerError);
                count(&self.unreachable_in_a_row, outcome == Outcome::Unreachable);
            }
            Outcome::Cancelled => {}
        }
    }

    fn forgive(&self) {
        // Loads before stores: the line stays shared between threads while all goes well.
        for count in [&self.errors_in_a_row, &self.gateway_failures_in_a_row, &self.unreachable_in_a_row] {
            if count.load(Relaxed) != 0 {
                count.store(0, Relaxed);
            }
        }
    }

    /// Whether so many failures came in a row that [`Outliers::consider`] is to be asked. To be asked after a failure only.
    pub fn is_suspicious(&self, config: &OutlierConfig) -> bool {
        self.too_many(config).is_some()
    }

    fn too_many(&self, config: &OutlierConfig) -> Option<EjectedFor> {
        let beyond = |count: &AtomicU32, limit: u32| limit > 0 && count.load(Relaxed) >= limit;
        if beyond(&self.unreachable_in_a_row, config.consecutive_unreachable) {
            Some(EjectedFor::Unreachable)
        } else if beyond(&self.gateway_failures_in_a_row, config.consecutive_gateway_failures) {
            Some(EjectedFor::GatewayFailures)
        } else if beyond(&self.errors_in_a_row, config.consecutive_errors) {
            Some(EjectedFor::Errors)
        } else {
            None
        }
    }
}

/// When an endpoint is an outlier, and for how long it is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierConfig {
    /// 5xx of any kind, or none at all, in a row; zero: not looked at.
    pub consecutive_errors: u32,
    /// Gateway failures in a row; zero: not looked at.
    pub consecutive_gateway_failures: u32,
    /// Connections refused in a row; zero: not looked at.
    pub consecutive_unreachable: u32,
    /// From sweep to sweep.
    pub interval: Duration,
    /// The first ejection.
    pub base_ejection: Duration,
    /// The longest ejection.
    pub max_ejection: Duration,
    /// The first ejection of an endpoint that is unreachable.
    pub unreachable_ejection: Duration,
    /// The longest ejection of an endpoint that is unreachable.
    pub unreachable_ejection_max: Duration,
    /// Most endpoints that are ejected at once, unreachable ones aside; one always may, all never.
    pub max_ejection_percent: u32,
    /// Endpoints with enough requests, below which success rates are not compared.
    pub success_rate_hosts_min: u32,
    /// Requests within an interval, below which an endpoint has no success rate.
    pub success_rate_volume_min: u32,
    /// How many hundredths of a standard deviation below the mean an outlier is; zero: not looked at.
    pub success_rate_deviations_percent: u32,
}

impl Default for OutlierConfig {
    fn default() -> OutlierConfig {
        let d = Defaults::DEFAULT;
        OutlierConfig {
            consecutive_errors: d.outlier_consecutive_errors as u32,
            consecutive_gateway_failures: d.outlier_consecutive_gateway_failures as u32,
            consecutive_unreachable: d.outlier_consecutive_unreachable as u32,
            interval: Duration::from_millis(d.outlier_interval_ms),
            base_ejection: Duration::from_millis(d.outlier_base_ejection_ms),
            max_ejection: Duration::from_millis(d.outlier_max_ejection_ms),
            unreachable_ejection: Duration::from_millis(d.outlier_unreachable_ejection_ms),
            unreachable_ejection_max: Duration::from_millis(d.outlier_unreachable_ejection_max_ms),
            max_ejection_percent: d.outlier_max_ejection_percent as u32,
            success_rate_hosts_min: d.outlier_success_rate_hosts_min as u32,
            success_rate_volume_min: d.outlier_success_rate_volume_min as u32,
            success_rate_deviations_percent: d.outlier_success_rate_deviations_percent as u32,
        }
    }
}

/// What an endpoint was ejected for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EjectedFor {
    /// 5xx in a row.
    Errors,
    /// Reset, timed out, or 502 to 504 in a row.
    GatewayFailures,
    /// Nobody there, several times in a row.
    Unreachable,
    /// It fails much more often than the others.
    SuccessRate,
}

/// What changed. The endpoint set is to be rebuilt: an ejected endpoint is [`crate::balance::Health::Suspect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutlierChange {
    /// Out until then.
    Ejected {
        /// Who.
        endpoint: EndpointId,
        /// Until when.
        until: Instant,
        /// For what.
        why: EjectedFor,
    },
    /// In again.
    Returned {
        /// Who.
        endpoint: EndpointId,
    },
}

#[derive(Debug)]
struct Watched {
    live: Arc<Live>,
    /// Nothing else speaks against it.
    healthy_otherwise: bool,
    ejected_until: Option<Instant>,
    /// Unreachable ones do not count against the percentage.
    ejected_for: EjectedFor,
    /// How many times the base its next ejection lasts, less one.
    ejections: u32,
}

impl Watched {
    fn is_in_service(&self) -> bool {
        self.healthy_otherwise && self.ejected_until.is_none()
    }
}

/// Failures in a row of all others by which an upstream fails as a whole.
const FAILING_TOO: u32 = 2;

/// One upstream's ejections.
#[derive(Debug)]
pub struct Outliers {
    config: OutlierConfig,
    watched: BTreeMap<EndpointId, Watched>,
    next_sweep: Instant,
}

impl Outliers {
    /// Nobody is ejected yet.
    pub fn new(config: OutlierConfig, now: Instant) -> Outliers {
        Outliers { config, watched: BTreeMap::new(), next_sweep: now + config.interval }
    }

    /// The numbers it goes by.
    pub fn config(&self) -> &OutlierConfig {
        &self.config
    }

    /// Says who the endpoints are now, and of whom nothing *else* speaks against them (registry, own probes, drain). Ejections of those that
    /// stay are kept. Where the last one in service became unhealthy otherwise, ejections end, so that somebody serves: those are given.
    pub fn set_members<'a>(
        &mut self,
        members: impl IntoIterator<Item = (EndpointId, &'a Arc<Live>, bool)>,
    ) -> Vec<OutlierChange> {
        let mut before = std::mem::take(&mut self.watched);
        for (id, live, healthy_otherwise) in members {
            let kept = before.remove(&id).filter(|kept| Arc::ptr_eq(&kept.live, live));
            let new = || Watched {
                live: Arc::clone(live),
                healthy_otherwise,
                ejected_until: None,
                ejected_for: EjectedFor::Errors,
                ejections: 0,
            };
            self.watched.insert(id, Watched { healthy_otherwise, ..kept.unwrap_or_else(new) });
        }
        let mut changes = Vec::new();
        if self.in_service() == 0 && !base::is_planted(base::Bug::AllEjected) {
            for (id, watched) in self.watched.iter_mut().filter(|(_, watched)| watched.healthy_otherwise) {
                if watched.ejected_until.take().is_some() {
                    watched.live.tally.forgive();
                    changes.push(OutlierChange::Returned { endpoint: *id });
                }
            }
        }
        self.check();
        changes
    }

    /// Whether it is ejected.
    pub fn is_ejected(&self, endpoint: EndpointId) -> bool {
        self.watched.get(&endpoint).is_some_and(|watched| watched.ejected_until.is_some())
    }

    /// What it is ejected for, if it is.
    pub fn ejected_for(&self, endpoint: EndpointId) -> Option<EjectedFor> {
        let watched = self.watched.get(&endpoint)?;
        watched.ejected_until.map(|_| watched.ejected_for)
    }

    /// How many are ejected.
    pub fn ejected(&self) -> usize {
        self.watched.values().filter(|watched| watched.ejected_until.is_some()).count()
    }

    /// When [`Outliers::sweep`] is due.
    pub fn deadline(&self) -> Instant {
        self.watched.values().filter_map(|watched| watched.ejected_until).fold(self.next_sweep, Instant::min)
    }

    /// Ejects an endpoint whose tally is suspicious, if that is allowed.
    pub fn consider(&mut self, endpoint: EndpointId, now: Instant) -> Option<OutlierChange> {
        let why = self.watched.get(&endpoint)?.live.tally.too_many(&self.config)?;
        let mut others = self.watched.iter().filter(|(id, watched)| **id != endpoint && watched.is_in_service());
        let failing = |watched: &Watched| watched.live.tally.errors_in_a_row.load(Relaxed) >= FAILING_TOO;
        let all = why != EjectedFor::Unreachable && others.all(|(_, watched)| failing(watched));
        if all && !base::is_planted(base::Bug::AllEjected) {
            return None;
        }
        self.eject(endpoint, why, now)
    }

    /// Lets an endpoint return that has shown that it works: it passed an active probe, or answered as a last resort.
    pub fn pardon(&mut self, endpoint: EndpointId) -> Option<OutlierChange> {
        let watched = self.watched.get_mut(&endpoint)?;
        watched.ejected_until.take()?;
        watched.live.tally.forgive();
        Some(OutlierChange::Returned { endpoint })
    }

    /// Lets those return whose time is over and, once an interval, compares success rates.
    pub fn sweep(&mut self, now: Instant) -> Vec<OutlierChange> {
        let mut changes = Vec::new();
        for (id, watched) in &mut self.watched {
            if watched.ejected_until.is_some_and(|until| until <= now) {
                watched.ejected_until = None;
                watched.live.tally.forgive();
                changes.push(OutlierChange::Returned { endpoint: *id });
            }
        }
        if now >= self.next_sweep {
            self.next_sweep = now + self.config.interval;
            for endpoint in self.slow_of_success() {
                changes.extend(self.eject(endpoint, EjectedFor::SuccessRate, now));
            }
            for watched in self.watched.values_mut().filter(|watched| watched.ejected_until.is_none()) {
                watched.ejections = watched.ejections.saturating_sub(1);
            }
        }
        self.check();
        changes
    }

    /// Whose success rate stands out, the worst first; counts begin anew.
    fn slow_of_success(&self) -> Vec<EndpointId> {
        let mut rates: Vec<(f64, EndpointId)> = Vec::new();
        for (id, watched) in &self.watched {
            let [answered, failed] =
                [&watched.live.tally.answered, &watched.live.tally.failed].map(|count| count.swap(0, Relaxed));
            let total = answered.saturating_add(failed);
            if watched.ejected_until.is_none() && total > 0 && total >= self.config.success_rate_volume_min {
                rates.push((f64::from(answered) / f64::from(total), *id));
            }
        }
        if self.config.success_rate_deviations_percent == 0
            || rates.len() < self.config.success_rate_hosts_min.max(2) as usize
        {
            return Vec::new();
        }
        let count = rates.len() as f64;
        let mean = rates.iter().map(|(rate, _)| rate).sum::<f64>() / count;
        let deviation = (rates.iter().map(|(rate, _)| (rate - mean).powi(2)).sum::<f64>() / count).sqrt();
        let threshold = mean - deviation * f64::from(self.config.success_rate_deviations_percent) / 100.0;
        // The small distance keeps rounding from ejecting one of many that are all the same.
        rates.retain(|(rate, _)| *rate < threshold - 1e-9);
        rates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        rates.into_iter().map(|(_, id)| id).collect()
    }

    fn in_service(&self) -> usize {
        self.watched.values().filter(|watched| watched.is_in_service()).count()
    }

    fn eject(&mut self, endpoint: EndpointId, why: EjectedFor, now: Instant) -> Option<OutlierChange> {
        let allowed = (self.watched.len() * self.config.max_ejection_percent.min(100) as usize / 100).max(1);
        let unreachable = why == EjectedFor::Unreachable;
        let counts =
            |watched: &&Watched| watched.ejected_until.is_some() && watched.ejected_for != EjectedFor::Unreachable;
        let ejected = self.watched.values().filter(counts).count();
        let in_service = self.in_service();
        let watched = self.watched.get_mut(&endpoint).filter(|watched| watched.ejected_until.is_none())?;
        let left = in_service - usize::from(watched.healthy_otherwise);
        if (left == 0 || !unreachable && ejected >= allowed) && !base::is_planted(base::Bug::AllEjected) {
            return None;
        }
        watched.ejections = watched.ejections.saturating_add(1);
        watched.ejected_for = why;
        let (base, max) = if unreachable {
            (self.config.unreachable_ejection, self.config.unreachable_ejection_max)
        } else {
            (self.config.base_ejection, self.config.max_ejection)
        };
        let span = base.saturating_mul(watched.ejections).min(max);
        let until = now + span;
        watched.ejected_until = Some(until);
        watched.live.tally.forgive();
        self.check();
        Some(OutlierChange::Ejected { endpoint, until, why })
    }

    fn check(&self) {
        debug_assert!(
            self.in_service() > 0
                || self.watched.values().all(|watched| watched.ejected_until.is_none() || !watched.healthy_otherwise),
            "never all: where nobody serves nobody is ejected who else could"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(secs: u64) -> Instant {
        Instant(secs * 1_000_000_000)
    }

    fn upstream(count: u64, config: OutlierConfig) -> (Outliers, Vec<Arc<Live>>) {
        let lives: Vec<Arc<Live>> = (0..count).map(|_| Arc::default()).collect();
        let mut outliers = Outliers::new(config, at(0));
        outliers.set_members(lives.iter().enumerate().map(|(id, live)| (EndpointId(id as u64), live, true)));
        (outliers, lives)
    }

    fn fail(live: &Live, outcome: Outcome, times: u32) {
        (0..times).for_each(|_| live.tally.note(outcome));
    }

    #[test]
    fn five_failures_in_a_row_eject_and_a_success_between_them_does_not() {
        let (mut outliers, lives) = upstream(4, OutlierConfig::default());
        let config = *outliers.config();
        fail(&lives[1], Outcome::ServerError, 4);
        lives[1].tally.note(Outcome::Answered);
        fail(&lives[1], Outcome::ServerError, 4);
        assert!(!lives[1].tally.is_suspicious(&config));
        assert_eq!(outliers.consider(EndpointId(1), at(1)), None);
        lives[1].tally.note(Outcome::Cancelled);
        lives[1].tally.note(Outcome::GatewayFailure);
        assert!(lives[1].tally.is_suspicious(&config));
        let ejected = OutlierChange::Ejected { endpoint: EndpointId(1), until: at(11), why: EjectedFor::Errors };
        assert_eq!(outliers.consider(EndpointId(1), at(1)), Some(ejected));
        assert_eq!(outliers.consider(EndpointId(1), at(1)), None, "once");
        fail(&lives[2], Outcome::GatewayFailure, 5);
        let change = outliers.consider(EndpointId(2), at(2));
        assert!(matches!(change, Some(OutlierChange::Ejected { why: EjectedFor::GatewayFailures, .. })));
        assert_eq!(outliers.sweep(at(11)), [OutlierChange::Returned { endpoint: EndpointId(1) }]);
        assert!(!lives[1].tally.is_suspicious(&config), "it begins anew");
    }

    #[test]
    fn ejections_grow_and_are_forgiven_while_in_service() {
        let config = OutlierConfig { base_ejection: Duration::from_secs(30), ..OutlierConfig::default() };
        let (mut outliers, lives) = upstream(2, config);
        let eject = |outliers: &mut Outliers, now| {
            fail(&lives[0], Outcome::GatewayFailure, 5);
            match outliers.consider(EndpointId(0), now) {
                Some(OutlierChange::Ejected { until, .. }) => until.since(now).as_secs(),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(eject(&mut outliers, at(0)), 30);
        outliers.sweep(at(30));
        assert_eq!(eject(&mut outliers, at(31)), 30, "the sweep that let it return forgave one");
        outliers.next_sweep = at(1000);
        outliers.sweep(at(61));
        assert_eq!(eject(&mut outliers, at(62)), 60);
        outliers.sweep(at(122));
        assert_eq!(eject(&mut outliers, at(123)), 90);
        outliers.watched.get_mut(&EndpointId(0)).expect("it").ejections = 1000;
        outliers.sweep(at(999));
        assert_eq!(eject(&mut outliers, at(999)), 300, "and no longer");
    }

    #[test]
    fn a_success_rate_that_stands_out_ejects() {
        let (mut outliers, lives) = upstream(6, OutlierConfig::default());
        for (at, live) in lives.iter().enumerate() {
            for request in 0..200 {
                let bad = request % if at == 3 { 4 } else { 100 } == 0;
                live.tally.note(if bad { Outcome::ServerError } else { Outcome::Answered });
            }
        }
        let changes = outliers.sweep(at(10));
        assert!(matches!(
            changes[..],
            [OutlierChange::Ejected { endpoint: EndpointId(3), why: EjectedFor::SuccessRate, .. }]
        ));
        assert_eq!(
            outliers.sweep(at(20)),
            [OutlierChange::Returned { endpoint: EndpointId(3) }],
            "no requests, no rates"
        );
    }

    #[test]
    fn where_the_last_one_in_service_falls_ill_the_ejected_return() {
        let (mut outliers, lives) =
            upstream(3, OutlierConfig { max_ejection_percent: 100, ..OutlierConfig::default() });
        for id in [0, 1] {
            fail(&lives[id as usize], Outcome::GatewayFailure, 5);
            assert!(outliers.consider(EndpointId(id), at(1)).is_some());
        }
        let members = lives.iter().enumerate().map(|(id, live)| (EndpointId(id as u64), live, id != 2));
        let changes = outliers.set_members(members);
        assert_eq!(changes, [0, 1].map(|id| OutlierChange::Returned { endpoint: EndpointId(id) }));
    }

    #[test]
    fn an_upstream_that_fails_as_a_whole_keeps_its_endpoints() {
        let (mut outliers, lives) = upstream(4, OutlierConfig::default());
        lives.iter().for_each(|live| fail(live, Outcome::GatewayFailure, 5));
        assert!((0..4).all(|id| outliers.consider(EndpointId(id), at(1)).is_none()));
        lives[3].tally.note(Outcome::Answered);
        assert!(outliers.consider(EndpointId(0), at(1)).is_some(), "one that answers makes the others outliers");
    }

    #[test]
    fn all_that_are_unreachable_but_one_are_out_for_a_short_while() {
        let (mut outliers, lives) = upstream(4, OutlierConfig::default());
        lives.iter().for_each(|live| fail(live, Outcome::Unreachable, 3));
        let spans: Vec<_> = (0..4).map(|id| outliers.consider(EndpointId(id), at(1))).collect();
        let out = |endpoint| {
            let endpoint = EndpointId(endpoint);
            Some(OutlierChange::Ejected { endpoint, until: at(2), why: EjectedFor::Unreachable })
        };
        assert_eq!(spans, [out(0), out(1), out(2), None]);
        assert_eq!(outliers.pardon(EndpointId(1)), Some(OutlierChange::Returned { endpoint: EndpointId(1) }));
        assert_eq!(outliers.pardon(EndpointId(1)), None);
        assert_eq!(outliers.ejected(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn never_all_whatever_fails(
            count in 1u64..12,
            percent in 0u32..=150,
            steps in proptest::collection::vec((0u64..12, 0u8..8, 0u64..20), 0..200),
        ) {
            let config = OutlierConfig { max_ejection_percent: percent, ..OutlierConfig::default() };
            let (mut outliers, lives) = upstream(count, config);
            let mut healthy = vec![true; count as usize];
            let mut now = at(0);
            for (who, what, wait) in steps {
                let who = who % count;
                now = now + Duration::from_secs(wait);
                match what {
                    0 => {
                        healthy[who as usize] ^= true;
                        let members = lives.iter().enumerate().map(|(id, live)| (EndpointId(id as u64), live, healthy[id]));
                        outliers.set_members(members);
                    }
                    1 => drop(outliers.sweep(now)),
                    2 => _ = outliers.pardon(EndpointId(who)),
                    3 => lives.iter().for_each(|live| live.tally.note(Outcome::Answered)),
                    _ => {
                        let outcome = if what < 6 { Outcome::GatewayFailure } else { Outcome::Unreachable };
                        fail(&lives[who as usize], outcome, 5);
                        outliers.consider(EndpointId(who), now);
                    }
                }
                let serves = |id: usize| healthy[id] && !outliers.is_ejected(EndpointId(id as u64));
                let some_could = healthy.iter().any(|healthy| *healthy);
                prop_assert!(!some_could || (0..count as usize).any(serves), "somebody healthy is always in service");
                let allowed = (count as usize * percent.min(100) as usize / 100).max(1);
                let by_percent = |watched: &&Watched| watched.ejected_until.is_some() && watched.ejected_for != EjectedFor::Unreachable;
                prop_assert!(outliers.watched.values().filter(by_percent).count() <= allowed);
                prop_assert!(outliers.ejected() < count as usize);
                prop_assert!(outliers.deadline() <= now + config.interval.max(config.max_ejection));
            }
        }
    }
}

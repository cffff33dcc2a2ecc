//! An upstream at work: its endpoints as they are now, its breaker, its retry budget.
//!
//! One object lives as long as its name is configured; settings and endpoints change inside it under one lock. A pick happens while
//! that lock is held for reading, a change while it is held for writing: once [`LiveUpstream::set_members`] has returned, nobody is
//! given an endpoint that is gone (I7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base::{Duration, Histogram, Instant, Rng};
use parking_lot::{Mutex, RwLock};

use super::{Event, Settings};
use crate::balance::{
    Ask, Balance, Endpoint, EndpointId, EndpointSet, HashOn, Health, Live, Locality, Member, NoEndpoint, Policy,
    SlowStart, ZoneRule,
};
use crate::model::{self, CheckKind, ClientKey, Upstream};
use crate::resilience::{
    Breaker, BreakerConfig, Bulkhead, BulkheadConfig, CheckConfig, HealthCheck, OutlierConfig, Outliers, RetryBudget,
    RetryBudgetConfig,
};

/// Where requests to an endpoint go: the engine's own handle (its connections) beside what is known here.
#[derive(Debug)]
pub struct Picked<E> {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// What people call it.
    pub name: Box<str>,
    /// The engine's handle.
    pub handle: Arc<E>,
    /// Its counters.
    pub(super) live: Arc<Live>,
    /// The client's cookie named it.
    pub(super) stuck: bool,
}

/// What changes together.
struct Inner<E> {
    document: Arc<Upstream>,
    /// As they were given: without what checks and ejections say.
    members: Vec<Member>,
    set: EndpointSet,
    handles: BTreeMap<EndpointId, Arc<E>>,
    breaker: Arc<Breaker>,
    budget: Arc<RetryBudget>,
    bulkhead: Arc<Bulkhead>,
}

/// Watches over endpoints; touched by checks and failures, not by requests that go well.
struct Watch {
    outliers: Outliers,
    checks: BTreeMap<EndpointId, HealthCheck>,
}

/// A check that is due. The answer goes to [`super::Gateway::checked`].
#[derive(Clone, Debug)]
pub struct Probe {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How: TCP or HTTP, with path, host and good statuses.
    pub check: model::HealthCheck,
    /// The kind, decided.
    pub kind: CheckKind,
    /// An answer later than this is no answer.
    pub until: Instant,
}

/// See the module's head.
pub struct LiveUpstream<E> {
    /// Its name.
    pub name: Arc<str>,
    inner: RwLock<Inner<E>>,
    watch: Mutex<Watch>,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) retries: AtomicU64,
    latency: OnceLock<Box<Histogram>>,
}

/// What a request takes along from its upstream.
pub(super) struct Protection {
    pub breaker: Arc<Breaker>,
    pub budget: Arc<RetryBudget>,
    pub bulkhead: Arc<Bulkhead>,
}

fn balance_of(document: &Upstream, settings: &Settings) -> Balance {
    let hash_on = |key: &ClientKey| match key {
        ClientKey::Address => HashOn::ClientIp,
        ClientKey::Cookie(name) => HashOn::Cookie(name.as_str().into()),
        ClientKey::Header(name) => HashOn::Header(name.as_str().into()),
    };
    let policy = match document.balance {
        model::Balance::RoundRobin => Policy::RoundRobin,
        model::Balance::WeightedRoundRobin => Policy::WeightedRoundRobin,
        model::Balance::LeastConnections => Policy::LeastConnections,
        model::Balance::PeakEwma => Policy::PeakEwma,
        model::Balance::Random => Policy::Random,
        model::Balance::IpHash => Policy::Hash(HashOn::ClientIp),
        model::Balance::Hash => Policy::Hash(document.hash_key.as_ref().map_or(HashOn::ClientIp, hash_on)),
    };
    let zoned = document.locality == model::Locality::Zone && !settings.zone.is_empty();
    let locality = match document.locality {
        // The key already says which endpoint.
        _ if matches!(policy, Policy::Hash(_)) => Locality::None,
        model::Locality::Zone if zoned => {
            Locality::Zone(ZoneRule { local: settings.zone.clone(), traffic: Vec::new() })
        }
        model::Locality::Geographic => Locality::Geographic,
        _ => Locality::None,
    };
    Balance {
        policy,
        locality,
        slow_start: document.slow_start.limit().map(|window| SlowStart { window, min_percent: 10 }),
        sticky: (!document.sticky_cookie.is_empty()).then_some(settings.secret),
        ..Balance::default()
    }
}

fn breaker_of(document: &model::Breaker) -> BreakerConfig {
    BreakerConfig {
        window: document.window.0,
        volume_min: document.requests_min,
        // More than all of them never fail.
        failure_percent: if document.enabled { document.failure_percent } else { 101 },
        pause: document.pause.0,
        pause_max: document.pause_max.0,
        probes: document.trials,
        ..BreakerConfig::default()
    }
}

fn outliers_of(document: &model::Outlier) -> OutlierConfig {
    let on = |count: u32| if document.enabled { count } else { 0 };
    let defaults = OutlierConfig::default();
    OutlierConfig {
        consecutive_errors: on(document.consecutive_errors),
        consecutive_gateway_failures: on(document.consecutive_gateway_failures),
        base_ejection: document.ejection.0,
        max_ejection: document.ejection_max.0,
        max_ejection_percent: document.ejected_percent_max,
        success_rate_deviations_percent: on(defaults.success_rate_deviations_percent),
        ..defaults
    }
}

fn check_of(document: &model::HealthCheck) -> CheckConfig {
    CheckConfig {
        interval: document.interval.0,
        timeout: document.timeout.0,
        rise: document.healthy_after,
        fall: document.unhealthy_after,
        ..CheckConfig::default()
    }
}

impl<E> LiveUpstream<E> {
    pub(super) fn new(
        name: &str,
        document: Arc<Upstream>,
        settings: &Settings,
        now: Instant,
        rng: &mut Rng,
    ) -> LiveUpstream<E> {
        let set = EndpointSet::build(balance_of(&document, settings), Vec::new(), None, now, rng);
        let outliers = Outliers::new(outliers_of(&document.outlier), now);
        let inner = Inner {
            breaker: Arc::new(Breaker::new(breaker_of(&document.breaker))),
            budget: Arc::new(RetryBudget::new(budget_of(&document))),
            bulkhead: Arc::new(Bulkhead::new(bulkhead_of(&document))),
            members: Vec::new(),
            handles: BTreeMap::new(),
            set,
            document,
        };
        LiveUpstream {
            name: name.into(),
            inner: RwLock::new(inner),
            watch: Mutex::new(Watch { outliers, checks: BTreeMap::new() }),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            latency: OnceLock::new(),
        }
    }

    /// What it was configured with.
    pub fn document(&self) -> Arc<Upstream> {
        Arc::clone(&self.inner.read().document)
    }

    /// Takes another document; what was learned stays where its numbers did not change.
    pub(super) fn reconfigure(&self, document: Arc<Upstream>, settings: &Settings, now: Instant, rng: &mut Rng) {
        let mut watch = self.watch.lock();
        let mut inner = self.inner.write();
        let before = std::mem::replace(&mut inner.document, document);
        let document = Arc::clone(&inner.document);
        if *before == *document {
            return;
        }
        if before.breaker != document.breaker {
            inner.breaker = Arc::new(Breaker::new(breaker_of(&document.breaker)));
        }
        if before.retry_budget != document.retry_budget {
            inner.budget = Arc::new(RetryBudget::new(budget_of(&document)));
        }
        if before.in_flight_max != document.in_flight_max {
            inner.bulkhead = Arc::new(Bulkhead::new(bulkhead_of(&document)));
        }
        if before.outlier != document.outlier {
            watch.outliers = Outliers::new(outliers_of(&document.outlier), now);
        }
        if before.health != document.health || before.service.is_some() != document.service.is_some() {
            watch.checks.clear();
        }
        self.rebuild(&mut inner, &mut watch, settings, now, rng);
    }

    /// Its endpoints are these from now on. `handle` makes the engine's handle of one that has none yet, or whose address changed.
    pub(super) fn set_members(
        &self,
        members: Vec<Member>,
        handle: &mut dyn FnMut(&Endpoint, &Upstream) -> Arc<E>,
        settings: &Settings,
        now: Instant,
        rng: &mut Rng,
    ) {
        let mut watch = self.watch.lock();
        let mut inner = self.inner.write();
        let mut before = std::mem::take(&mut inner.handles);
        let moved = |member: &Member| {
            inner.set.get(member.endpoint.id).is_none_or(|(old, ..)| old.addr != member.endpoint.addr)
        };
        let handles = members.iter().map(|member| {
            let kept = before.remove(&member.endpoint.id).filter(|_| !moved(member));
            (member.endpoint.id, kept.unwrap_or_else(|| handle(&member.endpoint, &inner.document)))
        });
        let handles = handles.collect();
        inner.handles = handles;
        inner.members = members;
        self.rebuild(&mut inner, &mut watch, settings, now, rng);
    }

    /// New handles for all endpoints: the document says something else about how they are spoken to.
    pub(super) fn renew_handles(&self, handle: &mut dyn FnMut(&Endpoint, &Upstream) -> Arc<E>) {
        let mut inner = self.inner.write();
        let document = Arc::clone(&inner.document);
        let renewed = inner.members.iter().map(|member| (member.endpoint.id, handle(&member.endpoint, &document)));
        inner.handles = renewed.collect();
    }

    fn rebuild(&self, inner: &mut Inner<E>, watch: &mut Watch, settings: &Settings, now: Instant, rng: &mut Rng) {
        let checked = !matches!(inner.document.check_kind(), CheckKind::Off);
        let is_member = |id: &EndpointId| inner.members.iter().any(|member| member.endpoint.id == *id);
        watch.checks.retain(|id, _| checked && is_member(id));
        if checked {
            for member in &inner.members {
                let config = check_of(&inner.document.health);
                watch.checks.entry(member.endpoint.id).or_insert_with(|| HealthCheck::new(config, now));
            }
        }
        let judged = |watch: &Watch| -> Vec<Member> {
            let health = |member: &Member| match member.health {
                Health::Passing if watch.outliers.is_ejected(member.endpoint.id) => Health::Suspect,
                Health::Passing if watch.checks.get(&member.endpoint.id).is_some_and(|check| !check.is_passing()) => {
                    Health::Suspect
                }
                health => health,
            };
            inner
                .members
                .iter()
                .map(|member| Member { endpoint: member.endpoint.clone(), health: health(member) })
                .collect()
        };
        let balance = balance_of(&inner.document, settings);
        let set = EndpointSet::build(balance.clone(), judged(watch), Some(&inner.set), now, rng);
        // Ejection is bounded by those in service, which the new set may have changed: the law is looked at again.
        let passing = |id: EndpointId, health: Health, watch: &Watch| {
            health == Health::Passing
                || watch.outliers.is_ejected(id) && watch.checks.get(&id).is_none_or(HealthCheck::is_passing)
        };
        let watched: Vec<_> = set
            .iter()
            .map(|(endpoint, health, live)| (endpoint.id, Arc::clone(live), passing(endpoint.id, health, watch)))
            .collect();
        let changes = watch.outliers.set_members(watched.iter().map(|(id, live, healthy)| (*id, live, *healthy)));
        inner.set =
            if changes.is_empty() { set } else { EndpointSet::build(balance, judged(watch), Some(&set), now, rng) };
    }

    /// Breaker, budget and places, as they are now.
    pub(super) fn protection(&self) -> Protection {
        let inner = self.inner.read();
        Protection {
            breaker: Arc::clone(&inner.breaker),
            budget: Arc::clone(&inner.budget),
            bulkhead: Arc::clone(&inner.bulkhead),
        }
    }

    /// Picks an endpoint.
    pub(super) fn pick(&self, ask: &Ask<'_>, rng: &mut Rng) -> Result<Picked<E>, NoEndpoint> {
        // Held until the pick is made: see the module's head.
        let inner = self.inner.read();
        let picked = inner.set.pick(ask, rng)?;
        let handle = inner.handles.get(&picked.endpoint.id).ok_or(NoEndpoint::NoneUsable)?;
        Ok(Picked {
            endpoint: picked.endpoint.id,
            name: picked.endpoint.name.clone(),
            handle: Arc::clone(handle),
            live: Arc::clone(picked.live),
            stuck: picked.stuck,
        })
    }

    /// The Set-Cookie value that keeps a client at an endpoint; `None` where the upstream is not sticky.
    pub(super) fn set_cookie(&self, endpoint: EndpointId, secure: bool) -> Option<String> {
        let inner = self.inner.read();
        let token = inner.set.cookie(endpoint)?;
        let secure = if secure { "; Secure" } else { "" };
        let token = String::from_utf8_lossy(&token).into_owned();
        Some(format!("{}={token}; Path=/; HttpOnly; SameSite=Lax{secure}", inner.document.sticky_cookie))
    }

    /// What requests are hashed by, and the name of the sticky cookie.
    pub(super) fn asks(&self) -> (Option<HashOn>, Option<String>) {
        let inner = self.inner.read();
        let hash = match &inner.set.balance().policy {
            Policy::Hash(on) => Some(on.clone()),
            _ => None,
        };
        let cookie = &inner.document.sticky_cookie;
        (hash, (!cookie.is_empty()).then(|| cookie.clone()))
    }

    /// An endpoint failed: is it one too many? Asked after the failure was counted.
    pub(super) fn suspect(
        &self,
        picked: EndpointId,
        live: &Live,
        settings: &Settings,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Event> {
        let mut watch = self.watch.lock();
        if !live.tally.is_suspicious(watch.outliers.config()) {
            return None;
        }
        let change = watch.outliers.consider(picked, now)?;
        self.rebuild(&mut self.inner.write(), &mut watch, settings, now, rng);
        Some(Event::Outlier { upstream: Arc::clone(&self.name), change })
    }

    /// Ends ejections whose time has come and looks at success rates; lists checks that are due.
    pub(super) fn tick(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut Rng,
        events: &mut Vec<Event>,
        probes: &mut Vec<Probe>,
    ) {
        let mut watch = self.watch.lock();
        let changes = watch.outliers.sweep(now);
        if !changes.is_empty() {
            self.rebuild(&mut self.inner.write(), &mut watch, settings, now, rng);
        }
        events.extend(changes.into_iter().map(|change| Event::Outlier { upstream: Arc::clone(&self.name), change }));
        let inner = self.inner.read();
        let kind = inner.document.check_kind();
        for member in &inner.members {
            let Some(check) = watch.checks.get_mut(&member.endpoint.id) else { continue };
            if let Some(until) = check.begin(now) {
                let check = inner.document.health.clone();
                let endpoint = member.endpoint.clone();
                probes.push(Probe { upstream: Arc::clone(&self.name), endpoint, check, kind, until });
            }
        }
    }

    /// The answer to a check.
    pub(super) fn checked(
        &self,
        endpoint: EndpointId,
        good: bool,
        settings: &Settings,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Event> {
        let mut watch = self.watch.lock();
        let passing = watch.checks.get_mut(&endpoint)?.finish(now, good, rng)?;
        let mut inner = self.inner.write();
        self.rebuild(&mut inner, &mut watch, settings, now, rng);
        let name = inner.set.get(endpoint).map(|(endpoint, ..)| endpoint.name.clone()).unwrap_or_default();
        Some(Event::Check { upstream: Arc::clone(&self.name), endpoint: name, passing })
    }

    /// When [`LiveUpstream::tick`] has something to do.
    pub(super) fn deadline(&self) -> Instant {
        let watch = self.watch.lock();
        watch.checks.values().map(HealthCheck::deadline).fold(watch.outliers.deadline(), Instant::min)
    }

    pub(super) fn record(&self, took: Duration) {
        self.latency.get_or_init(Box::default).record(took);
    }

    /// Looks at it for the console.
    pub(super) fn look(&self, now: Instant) -> super::UpstreamLook {
        let watch = self.watch.lock();
        let inner = self.inner.read();
        let endpoints = inner.set.iter().map(|(endpoint, health, live)| super::EndpointLook {
            name: endpoint.name.to_string(),
            address: endpoint.addr.to_string(),
            zone: endpoint.zone.to_string(),
            weight: endpoint.weight,
            health,
            ejected: watch.outliers.is_ejected(endpoint.id),
            checked: watch.checks.get(&endpoint.id).is_some_and(HealthCheck::is_known),
            in_flight: live.in_flight(),
            requests: live.requests(),
            failures: live.failures(),
            latency: live.latency(now),
        });
        super::UpstreamLook {
            name: self.name.to_string(),
            balance: inner.document.balance,
            service: inner.document.service.as_ref().map(|source| source.service.clone()),
            endpoints: endpoints.collect(),
            usable: inner.set.usable(),
            in_panic: inner.set.in_panic(),
            breaker: inner.breaker.state(),
            failure_rate: inner.breaker.failure_rate(now),
            retries_left: inner.budget.left(now),
            in_flight: inner.bulkhead.in_flight(),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            retries: self.retries.load(Relaxed),
            latency: self.latency.get().map(|latency| latency.snapshot()).unwrap_or_default(),
        }
    }
}

fn budget_of(document: &Upstream) -> RetryBudgetConfig {
    RetryBudgetConfig { percent: document.retry_budget.percent, floor: document.retry_budget.floor }
}

fn bulkhead_of(document: &Upstream) -> BulkheadConfig {
    BulkheadConfig { places: document.in_flight_max, queue: 0, wait: Duration::ZERO }
}

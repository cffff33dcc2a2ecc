//! An upstream at work: its endpoints as they are now, its breaker, its retry budget.
//!
//! One object lives as long as its name is configured; endpoints change inside it under one lock. A pick happens while that lock is held for
//! reading, a change while it is held for writing: once [`LiveUpstream::set_members`] has returned, nobody is given an endpoint that is gone, and
//! who was given one before and has not sent yet (a retry in its pause) sees by its tenure that it must pick again (I7). What does not depend on
//! endpoints ([`Ways`]) is read without a lock.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, Guard};
use base::{Duration, Histogram, Instant, Rng};
use parking_lot::{Mutex, RwLock};

use super::{Event, Settings};
use crate::balance::{
    Ask, Balance, Endpoint, EndpointId, EndpointSet, HashOn, Health, Live, Locality, Member, NoEndpoint, Policy,
    SlowStart, ZoneRule,
};
use crate::model::{self, CheckKind, ClientKey, Upstream};
use crate::resilience::{
    Breaker, BreakerConfig, Bulkhead, BulkheadConfig, CheckConfig, EjectedFor, HealthCheck, OutlierConfig, Outliers,
    RetryBudget, RetryBudgetConfig,
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
    /// The tenure of `live` when it was picked.
    pub(super) tenure: u64,
    /// The client's cookie named it.
    pub(super) stuck: bool,
    /// It is suspect: if it answers it is pardoned.
    pub(super) last_resort: bool,
}

/// What changes together.
struct Inner<E> {
    document: Arc<Upstream>,
    /// As they were given: without what checks and ejections say.
    members: Vec<Member>,
    set: EndpointSet,
    handles: BTreeMap<EndpointId, Arc<E>>,
}

/// Watches over endpoints; touched by checks and failures, not by requests that go well.
struct Watch {
    outliers: Outliers,
    checks: BTreeMap<EndpointId, HealthCheck>,
}

/// A check that is due. The answer goes to [`super::Gateway::checked`].
#[derive(Debug)]
pub struct Probe<E> {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What it is spoken to through.
    pub handle: Arc<E>,
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
    ways: ArcSwap<Ways>,
    watch: Mutex<Watch>,
    pub(super) requests: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) retries: AtomicU64,
    latency: OnceLock<Box<Histogram>>,
}

/// What every request to an upstream goes by, whichever endpoint it gets. Never changes; another document makes another one.
pub(super) struct Ways {
    /// What is hashed, where the balance goes by a hash.
    pub hash: Option<HashOn>,
    /// The name of the sticky cookie; empty: none.
    pub sticky_cookie: String,
    /// Whether it matters where the client is.
    pub geographic: bool,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    pub breaker: Arc<Breaker>,
    pub budget: Arc<RetryBudget>,
    pub bulkhead: Arc<Bulkhead>,
}

impl Ways {
    /// What the document says. What was learned is kept where its numbers did not change.
    fn new(document: &Upstream, settings: &Settings, before: Option<(&Ways, &Upstream)>) -> Ways {
        let balance = balance_of(document, settings);
        let kept = |same: fn(&Upstream, &Upstream) -> bool| {
            before.filter(|(_, other)| same(document, other)).map(|(ways, _)| ways)
        };
        let breaker = kept(|a, b| a.breaker == b.breaker).map(|ways| Arc::clone(&ways.breaker));
        let budget = kept(|a, b| a.retry_budget == b.retry_budget).map(|ways| Arc::clone(&ways.budget));
        let bulkhead = kept(|a, b| a.in_flight_max == b.in_flight_max).map(|ways| Arc::clone(&ways.bulkhead));
        Ways {
            hash: match balance.policy {
                Policy::Hash(on) => Some(on),
                _ => None,
            },
            sticky_cookie: document.sticky_cookie.clone(),
            geographic: balance.locality == Locality::Geographic,
            connect_timeout: document.connect_timeout.limit().unwrap_or(Duration::MAX),
            breaker: breaker.unwrap_or_else(|| Arc::new(Breaker::new(breaker_of(&document.breaker)))),
            budget: budget.unwrap_or_else(|| Arc::new(RetryBudget::new(budget_of(document)))),
            bulkhead: bulkhead.unwrap_or_else(|| Arc::new(Bulkhead::new(bulkhead_of(document)))),
        }
    }
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
        let ways = Ways::new(&document, settings, None);
        let inner = Inner { members: Vec::new(), handles: BTreeMap::new(), set, document };
        LiveUpstream {
            name: name.into(),
            inner: RwLock::new(inner),
            ways: ArcSwap::from_pointee(ways),
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
        let ways = Ways::new(&document, settings, Some((&self.ways.load(), &before)));
        self.ways.store(Arc::new(ways));
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
        let mut said: BTreeMap<EndpointId, &Member> = BTreeMap::new();
        for member in &members {
            // As the set does: of two with one id the first counts.
            said.entry(member.endpoint.id).or_insert(member);
        }
        let mut before = std::mem::take(&mut inner.handles);
        for (endpoint, _, live) in inner.set.iter() {
            let member = said.get(&endpoint.id).filter(|member| member.endpoint.addr == endpoint.addr);
            if member.is_none() {
                before.remove(&endpoint.id);
            }
            if member.is_none_or(|member| member.health == Health::Off) {
                live.end_tenure();
            }
        }
        let handles = said.iter().map(|(id, member)| {
            let kept = before.remove(id).filter(|_| inner.set.get(*id).is_some());
            (*id, kept.unwrap_or_else(|| handle(&member.endpoint, &inner.document)))
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
                Health::Passing if watch.outliers.is_ejected(member.endpoint.id) => {
                    if base::is_planted(base::Bug::AllEjected) { Health::Off } else { Health::Suspect }
                }
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

    /// What requests go by at this moment; see [`Ways`]. Not to be kept.
    pub(super) fn ways(&self) -> Guard<Arc<Ways>> {
        self.ways.load()
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
            tenure: picked.live.tenure(),
            stuck: picked.stuck,
            last_resort: picked.last_resort,
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

    /// An ejected endpoint answered as a last resort: it works.
    pub(super) fn pardon(
        &self,
        endpoint: EndpointId,
        settings: &Settings,
        now: Instant,
        rng: &mut Rng,
    ) -> Option<Event> {
        let mut watch = self.watch.lock();
        let change = watch.outliers.pardon(endpoint)?;
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
        probes: &mut Vec<Probe<E>>,
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
            let id = member.endpoint.id;
            let (Some(check), Some(handle)) = (watch.checks.get_mut(&id), inner.handles.get(&id)) else { continue };
            if let Some(until) = check.begin(now) {
                let (check, handle) = (inner.document.health.clone(), Arc::clone(handle));
                let endpoint = member.endpoint.clone();
                probes.push(Probe { upstream: Arc::clone(&self.name), endpoint, handle, check, kind, until });
            }
        }
    }

    /// The answer to a check. A good one also ends an ejection, but one by TCP only that of an endpoint which refused connections: that
    /// somebody listens says nothing about the errors that it answers with.
    pub(super) fn checked(
        &self,
        endpoint: EndpointId,
        good: bool,
        settings: &Settings,
        now: Instant,
        rng: &mut Rng,
    ) -> [Option<Event>; 2] {
        let mut watch = self.watch.lock();
        let Some(check) = watch.checks.get_mut(&endpoint) else { return [None, None] };
        let passing = check.finish(now, good, rng);
        let mut inner = self.inner.write();
        let shown = match watch.outliers.ejected_for(endpoint) {
            Some(EjectedFor::Unreachable) => good,
            Some(_) => good && inner.document.check_kind() == CheckKind::Http,
            None => false,
        };
        let pardoned = if shown { watch.outliers.pardon(endpoint) } else { None };
        if passing.is_none() && pardoned.is_none() {
            return [None, None];
        }
        self.rebuild(&mut inner, &mut watch, settings, now, rng);
        let name = inner.set.get(endpoint).map(|(endpoint, ..)| endpoint.name.clone()).unwrap_or_default();
        let upstream = || Arc::clone(&self.name);
        [
            passing.map(|passing| Event::Check { upstream: upstream(), endpoint: name, passing }),
            pardoned.map(|change| Event::Outlier { upstream: upstream(), change }),
        ]
    }

    /// See [`super::Gateway::not_checked`].
    pub(super) fn not_checked(&self, endpoint: EndpointId, now: Instant, rng: &mut Rng) {
        if let Some(check) = self.watch.lock().checks.get_mut(&endpoint) {
            check.give_up(now, rng);
        }
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
        let ways = self.ways.load();
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
            breaker: ways.breaker.state(),
            failure_rate: ways.breaker.failure_rate(now),
            retries_left: ways.budget.left(now),
            in_flight: ways.bulkhead.in_flight(),
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

//! The gateway at work: configuration, endpoints and what was learned, in one value that many threads ask.
//!
//! ```text
//!  apply(Config) ─► State: tables, routes ─┐   swapped whole; what was learned stays by name
//!  endpoints(…)  ─► LiveUpstream: set ─────┤
//!                                          ▼
//!  decide(head) ─► Answer | Queue ─► go ─► Forward(Plan, Flight) ─► answered / failed ─► over, dropped
//!  tick(now) ─► checks that are due ─► checked(…)                    happenings() ─► log, console
//! ```
//!
//! A request meets, in this order: normal form (400), route (404), header bytes (431), load shedding (503), *the place of CORS* (a preflight has no
//! credentials, so it is answered before they are asked for), *the place of authentication* (JWT), rate limit (429; *limits that all nodes
//! share* are asked here too), redirect or direct answer, *the place of the cache*, *the place of feature flags* (they choose among targets before
//! weights do, and what they chose is told upstream), split by weight, *the place of mirroring* (a copy for another upstream, whose answer nobody
//! waits for; after the split, so that copies are drawn from what really goes out), the route's places (a queue, 503), the upstream's places,
//! breaker and endpoints (503). What is not built has its place marked in [`decide`].
//!
//! `E` is the engine's handle of an endpoint (its pool of connections). No clock is read and nothing is drawn but from what is handed in.

mod decide;
mod flight;
mod route;
mod snapshot;
#[cfg(test)]
mod storm_tests;
#[cfg(test)]
mod tests;
mod upstream;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use base::{Duration, Instant, Rng};
use parking_lot::{Mutex, RwLock};

use crate::Config;
use crate::balance::{Coordinates, Country, Endpoint, EndpointId, HashKey, Health, Member, Place};
use crate::model::{HeaderEdits, Upstream};
use crate::resilience::{OutlierChange, RateTable, Shed, ShedConfig, Shedder, Transition};

pub use flight::{Ended, Flight, Next, Plan, Queued, Resumed};
pub use route::LiveRoute;
pub use snapshot::{EndpointLook, RouteLook, Snapshot, UpstreamLook};
pub use upstream::{LiveUpstream, Picked, Probe};

/// Most happenings that are kept for [`Gateway::happenings`]; beyond it the oldest go.
pub const EVENTS_MAX: usize = 1000;

/// What one gateway knows of itself.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The zone that it stands in; empty: none.
    pub zone: Box<str>,
    /// The secret under which sticky cookies are made and clients are hashed to endpoints; the same on all nodes.
    pub secret: HashKey,
    /// When load is shed.
    pub shed: ShedConfig,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { zone: "".into(), secret: HashKey::SHARED, shed: ShedConfig::default() }
    }
}

/// Something that the operator may want to know.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A breaker changed.
    Breaker {
        /// Whose.
        upstream: Arc<str>,
        /// How.
        transition: Transition,
    },
    /// An endpoint was ejected or returned.
    Outlier {
        /// Whose.
        upstream: Arc<str>,
        /// Which and why.
        change: OutlierChange,
    },
    /// Active checks changed their mind.
    Check {
        /// Whose.
        upstream: Arc<str>,
        /// Which.
        endpoint: Box<str>,
        /// To what.
        passing: bool,
    },
}

/// An answer of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Fields beside Content-Length, Date and the like.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Arc<str>,
    /// The route that it is of, if any.
    pub route: Option<Arc<str>>,
    /// Why, for the log; empty where it is what the route says.
    pub why: &'static str,
}

impl Answer {
    fn plain(status: u16, content_type: &str, body: Arc<str>) -> Answer {
        let headers = if body.is_empty() { Vec::new() } else { vec![("content-type".into(), content_type.into())] };
        Answer { status, headers, body, route: None, why: "" }
    }

    fn error(status: u16, why: &'static str) -> Answer {
        Answer { why, ..Answer::plain(status, "text/plain; charset=utf-8", format!("{status} {why}\n").into()) }
    }

    /// With Retry-After in whole seconds, at least one.
    fn retry_after(mut self, after: Duration) -> Answer {
        let seconds = after.as_millis().div_ceil(1000).max(1);
        self.headers.push(("retry-after".into(), seconds.to_string()));
        self
    }

    fn on(mut self, route: &Arc<str>) -> Answer {
        self.route = Some(Arc::clone(route));
        self
    }

    fn edited(mut self, edits: &HeaderEdits) -> Answer {
        self.headers.retain(|(name, _)| {
            let is = |other: &String| other.eq_ignore_ascii_case(name);
            !edits.remove.iter().any(is) && !edits.set.keys().any(is)
        });
        let edits = edits.set.iter().chain(&edits.add);
        self.headers.extend(edits.map(|(name, value)| (name.clone(), value.clone())));
        self
    }
}

/// What becomes of a request.
pub enum Decision<E> {
    /// We answer.
    Answer(Answer),
    /// An upstream gets it.
    Forward(Box<Plan<E>>, Box<Flight<E>>),
    /// It waits for a place.
    Queue(Queued<E>),
}

/// What [`Gateway::apply`] swaps whole.
struct State<E> {
    config: Arc<Config>,
    /// In the order of the configuration.
    routes: Vec<Arc<LiveRoute<E>>>,
    upstreams: BTreeMap<String, Arc<LiveUpstream<E>>>,
}

/// Tells where an address is; see [`Gateway::locate_by`].
pub type PlaceOf = Arc<dyn Fn(IpAddr) -> Place + Send + Sync>;

/// See the module's head.
pub struct Gateway<E> {
    settings: Settings,
    state: ArcSwap<State<E>>,
    /// Where clients are; taken for upstreams whose locality is geographic only.
    places: RwLock<Option<PlaceOf>>,
    /// Changes come one after the other.
    change: Mutex<()>,
    shed: Arc<Shedder>,
    rates: OnceLock<RateTable>,
    events: Mutex<VecDeque<Event>>,
    /// Answers of ours without a route, by the first digit of their status.
    own: [AtomicU64; 6],
    unrouted: AtomicU64,
    bad: AtomicU64,
    shed_count: AtomicU64,
}

/// The country that two capital letters name.
pub fn country_of(letters: &str) -> Option<Country> {
    let letters: [u8; 2] = letters.as_bytes().try_into().ok()?;
    letters.iter().all(u8::is_ascii_uppercase).then_some(Country(letters))
}

/// The members of an upstream whose endpoints are listed by address: those whose address is an address. Names are the host's to look up.
pub fn listed_members(upstream: &Upstream) -> Vec<Member> {
    let member = |spec: &crate::model::EndpointSpec| {
        let mut endpoint = Endpoint::new(&spec.address, spec.address.parse().ok()?);
        endpoint.weight = spec.weight;
        endpoint.zone = spec.zone.as_str().into();
        endpoint.location = spec.location.map(|(latitude, longitude)| Coordinates { latitude, longitude });
        endpoint.country = country_of(&spec.country);
        // Weight zero drains: clients that stick to it stay.
        let health = if spec.weight == 0 { Health::Draining } else { Health::Passing };
        Some(Member { endpoint, health })
    };
    upstream.endpoints.iter().filter_map(member).collect()
}

impl<E> Gateway<E> {
    /// A gateway without a configuration: every request is answered 404.
    pub fn new(settings: Settings) -> Gateway<E> {
        let state = State { config: Arc::default(), routes: Vec::new(), upstreams: BTreeMap::new() };
        Gateway {
            shed: Arc::new(Shedder::new(settings.shed)),
            settings,
            state: ArcSwap::from_pointee(state),
            places: RwLock::default(),
            change: Mutex::new(()),
            rates: OnceLock::new(),
            events: Mutex::default(),
            own: Default::default(),
            unrouted: AtomicU64::new(0),
            bad: AtomicU64::new(0),
            shed_count: AtomicU64::new(0),
        }
    }

    /// Takes a configuration. Requests see the old one or the new one, whole. Endpoints, breakers, budgets, places and counters stay for
    /// names that stay (breakers, budgets and places: where their numbers did not change). A new upstream has no endpoints until
    /// [`Gateway::endpoints`]; [`listed_members`] gives those that are listed. `handle` makes new handles where a document says something
    /// else about how endpoints are spoken to.
    pub fn apply(
        &self,
        config: Config,
        handle: &mut dyn FnMut(&Endpoint, &Upstream) -> Arc<E>,
        now: Instant,
        rng: &mut Rng,
    ) {
        let _one = self.change.lock();
        let before = self.current();
        let mut upstreams = BTreeMap::new();
        for (name, document) in config.upstreams() {
            let live = match before.upstreams.get(name) {
                Some(live) => {
                    let old = live.document();
                    live.reconfigure(Arc::clone(document), &self.settings, now, rng);
                    if spoken(&old) != spoken(document) {
                        live.renew_handles(handle);
                    }
                    Arc::clone(live)
                }
                None => Arc::new(LiveUpstream::new(name, Arc::clone(document), &self.settings, now, rng)),
            };
            upstreams.insert(name.clone(), live);
        }
        let old_routes: BTreeMap<&str, &Arc<LiveRoute<E>>> =
            before.routes.iter().map(|route| (&*route.compiled.name, route)).collect();
        let routes = config.routes().iter().map(|compiled| {
            let targets = Config::targets(compiled)
                .map(|name| Arc::clone(upstreams.get(name).expect("a valid configuration names only what is there")));
            let old = old_routes.get(&*compiled.name).map(|route| &***route);
            Arc::new(LiveRoute::new(Arc::clone(compiled), targets.collect(), old))
        });
        let routes = routes.collect();
        let gone: Vec<_> = before.upstreams.iter().filter(|(name, _)| !upstreams.contains_key(*name)).collect();
        self.state.store(Arc::new(State { config: Arc::new(config), routes, upstreams }));
        // Requests that took a route of the old configuration may still retry: not at endpoints that nobody watches any more.
        for (_, live) in gone {
            live.set_members(Vec::new(), handle, &self.settings, now, rng);
        }
    }

    /// The endpoints of an upstream are these from now on: when this returns, nobody is given another, nor one that is off, and a retry that was
    /// told one of them before ([`Next::Retry`]) is told another by [`Flight::resume`] (I7). False: there is no such upstream.
    pub fn endpoints(
        &self,
        upstream: &str,
        members: Vec<Member>,
        handle: &mut dyn FnMut(&Endpoint, &Upstream) -> Arc<E>,
        now: Instant,
        rng: &mut Rng,
    ) -> bool {
        let _one = self.change.lock();
        let state = self.current();
        let live = state.upstreams.get(upstream);
        if let Some(live) = live {
            live.set_members(members, handle, &self.settings, now, rng);
        }
        live.is_some()
    }

    fn current(&self) -> Arc<State<E>> {
        self.state.load_full()
    }

    /// The configuration in use.
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.state.load().config)
    }

    /// The routes in use, in order of their names; a [`LiveRoute`]'s `compiled.index` is its place.
    pub fn routes(&self) -> Vec<Arc<LiveRoute<E>>> {
        self.current().routes.clone()
    }

    /// An upstream in use.
    pub fn upstream(&self, name: &str) -> Option<Arc<LiveUpstream<E>>> {
        self.current().upstreams.get(name).cloned()
    }

    /// Where clients are, from whoever has a file of locations (MaxMind's); `None`: nobody knows, and `locality = "geographic"` has no effect. Asked
    /// once for each request to an upstream with that locality, on the thread that decides: it must be quick. Takes effect at once.
    pub fn locate_by(&self, place_of: Option<PlaceOf>) {
        *self.places.write() = place_of;
    }

    /// Where a client is.
    fn place_of(&self, client: IpAddr) -> Place {
        let place_of = self.places.read().clone();
        place_of.map(|place_of| place_of(client)).unwrap_or_default()
    }

    /// Does what is due at `now` and lists the checks to make: each answer goes to [`Gateway::checked`], none that does not come in time.
    pub fn tick(&self, now: Instant, rng: &mut Rng) -> Vec<Probe<E>> {
        let (mut events, mut probes) = (Vec::new(), Vec::new());
        for live in self.current().upstreams.values() {
            live.tick(&self.settings, now, rng, &mut events, &mut probes);
        }
        events.into_iter().for_each(|event| self.happened(Some(event)));
        probes
    }

    /// A connection that was ready to be handled was handled after so long; samples will do. Where that is long for all, load is shed.
    pub fn waited(&self, delay: Duration, now: Instant) {
        self.shed.waited(now, delay);
    }

    /// When [`Gateway::tick`] is due; `None` without upstreams.
    pub fn deadline(&self) -> Option<Instant> {
        self.current().upstreams.values().map(|live| live.deadline()).min()
    }

    /// The answer to a check.
    pub fn checked(&self, upstream: &str, endpoint: EndpointId, good: bool, now: Instant, rng: &mut Rng) {
        if let Some(live) = self.current().upstreams.get(upstream) {
            live.checked(endpoint, good, &self.settings, now, rng).into_iter().for_each(|event| self.happened(event));
        }
    }

    /// A check could not be made for want of something of ours: it says nothing of the endpoint, and the next one comes in its time.
    pub fn not_checked(&self, upstream: &str, endpoint: EndpointId, now: Instant, rng: &mut Rng) {
        if let Some(live) = self.current().upstreams.get(upstream) {
            live.not_checked(endpoint, now, rng);
        }
    }

    fn happened(&self, event: Option<Event>) {
        let Some(event) = event else { return };
        let mut events = self.events.lock();
        if events.len() == EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// What happened since the last call, for the log and the console.
    pub fn happenings(&self) -> Vec<Event> {
        self.events.lock().drain(..).collect()
    }

    /// Everything at one moment.
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let state = self.current();
        Snapshot {
            routes: state.routes.iter().map(|route| route.look()).collect(),
            upstreams: state.upstreams.values().map(|live| live.look(now)).collect(),
            in_flight: self.shed.in_flight(),
            shed_share: self.shed.share(),
            own: std::array::from_fn(|class| self.own[class].load(Relaxed)),
            unrouted: self.unrouted.load(Relaxed),
            bad: self.bad.load(Relaxed),
            shed: self.shed_count.load(Relaxed),
        }
    }

    /// A client gets an answer of ours: `status`, 0 where it is only closed, for the route of this name if there is one. To be told once for each
    /// [`Decision::Answer`], and for what was refused before it could be decided.
    pub fn answered(&self, route: Option<&str>, status: u16) {
        let class = usize::from(status / 100).min(5);
        let state = self.state.load();
        let found = route.and_then(|name| state.routes.binary_search_by(|one| (*one.compiled.name).cmp(name)).ok());
        let own = found.map_or(&self.own, |at| &state.routes[at].counters.own);
        own[class].fetch_add(1, Relaxed);
    }

    /// Whether requests of the route of this name are logged; those of one that has gone meanwhile are.
    pub fn is_logged(&self, route: &str) -> bool {
        let state = self.state.load();
        let found = state.routes.binary_search_by(|one| (*one.compiled.name).cmp(route));
        found.map_or(true, |at| state.routes[at].compiled.document.access_log)
    }

    /// What came was no request: an engine refused it with `status`, 0 for none.
    pub fn malformed(&self, status: u16) {
        self.bad.fetch_add(1, Relaxed);
        self.answered(None, status);
    }

    fn shed_answer(&self, shed: Shed) -> Answer {
        self.shed_count.fetch_add(1, Relaxed);
        let why = match shed {
            Shed::InFlight => "too many requests are under way",
            Shed::Memory => "too little memory is left",
            Shed::Delay => "requests wait too long",
        };
        Answer::error(503, why).retry_after(Duration::from_secs(1))
    }
}

/// What a document says about how endpoints are spoken to: what handles are made of.
fn spoken(upstream: &Upstream) -> impl PartialEq + use<> {
    (
        upstream.protocol,
        upstream.tls.clone(),
        upstream.connect_timeout,
        upstream.connections_max,
        upstream.idle_connections_max,
        upstream.idle_timeout,
        upstream.head_bytes_max,
    )
}

//! The front door at work: the pure [`gateway`] decides, [`proxy`] moves the bytes, the registry says what there is.
//!
//! ```text
//!  registry (documents, instances) ── sync ──► gateway::live ◄── decide ── proxy ◄── listeners ◄── clients
//!                                                  ▲
//!                                   probes, names ─┘
//! ```
//!
//! [`Front::sync`] runs before a request is decided whenever the registry has changed since: an instance that was taken away or
//! became critical gets no request after the change has been applied on this node.

pub mod access;
mod begin;
mod decide;
pub mod documents;
pub(crate) mod files;
mod late;
mod listeners;
mod members;
mod places;
mod probes;
mod trust;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::gateway::live::{Event, Gateway, Settings, Snapshot};
use ::gateway::model::{Body, Document, Listener, Locality, Upstream};
use ::gateway::resilience::ShedConfig;
use ::gateway::{Compiled, Config};
use base::{Instant, Limits, Rng};
use discovery::watch::Watch;
use doors::registry::Registry;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use crate::admin::gateway::Recent;
use crate::clock;
use access::AccessLog;
use decide::RouteRules;
use files::Stamp;
use listeners::Listeners;
use members::Names;
use places::Watched;
use trust::{Auths, Told};

/// The listener that every node has by itself; a document of this name replaces it.
pub const OWN_LISTENER: &str = "main";
/// Troubles that are remembered for people.
const TROUBLES_MAX: usize = 32;
/// How often names of endpoints are looked up again.
const LOOKUP_EVERY: Duration = Duration::from_secs(10);
/// How often files are looked at that are read again when they change.
const FILES_EVERY: Duration = Duration::from_secs(1);
/// The longest time without a look at what is due.
const TICK_MAX: Duration = Duration::from_secs(1);

/// How the front door is told to be.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where the access log goes: empty for nowhere, `-` for standard output, else a file that is appended to.
    pub access_log: String,
    /// Whether listeners may leave loopback without TLS.
    pub insecure_bind: bool,
    /// The zone that this node stands in; empty for none.
    pub zone: String,
    /// A MaxMind file that says where clients are; empty for none.
    pub locations: String,
    /// How long connections may take when the node stops.
    pub drain: Duration,
    /// Bytes that the gateway may hold for requests (heads, kept bodies), and in its connections' buffers: beyond it requests are
    /// refused, and connections not accepted.
    pub memory_max: u64,
    /// Where limits that are hit are counted.
    pub limits: Limits,
}

impl Default for GatewayConfig {
    fn default() -> GatewayConfig {
        GatewayConfig {
            access_log: String::new(),
            insecure_bind: false,
            zone: String::new(),
            locations: String::new(),
            drain: Duration::ZERO,
            memory_max: 512 << 20,
            limits: Limits::default(),
        }
    }
}

/// What [`Front::sync`] has seen.
#[derive(Default)]
struct Seen {
    documents: u64,
    services: BTreeMap<String, u64>,
    names: Names,
    /// Settings that apply at the moment: listed upstreams follow only them and the names.
    listed: BTreeMap<String, Arc<Upstream>>,
}

/// The front door.
pub struct Front {
    /// What decides.
    pub gateway: Gateway<proxy::Endpoint>,
    /// Documents through the log.
    pub documents: documents::Documents,
    /// Where requests are logged.
    pub access: AccessLog,
    /// How fast answers were some seconds ago, for the console.
    pub recent: Mutex<Recent>,
    registry: Arc<Registry>,
    own: Listener,
    config: GatewayConfig,
    rules: RwLock<Vec<Arc<RouteRules>>>,
    /// The registry's index that was last looked at.
    synced: AtomicU64,
    seen: Mutex<Seen>,
    /// Whom we believe towards upstreams.
    auths: Mutex<Auths>,
    /// The file of locations, where there is one.
    locations: Mutex<Option<Watched>>,
    /// What is wrong, by what it is about, for people.
    troubles: Mutex<BTreeMap<String, String>>,
    /// Addresses of the listeners that are open.
    open: Mutex<BTreeMap<String, SocketAddr>>,
    relisten: Notify,
    lookup: Notify,
}

impl Front {
    /// A front door that listens nowhere yet; `own` is the address of the listener that needs no document.
    pub fn new(registry: Arc<Registry>, own: SocketAddr, config: GatewayConfig) -> Result<Arc<Front>, String> {
        let own = Listener { bind: own, ..Listener::default() };
        let access = AccessLog::open(&config.access_log)?;
        let shed = ShedConfig::default();
        let shed = ShedConfig { bytes_max: shed.bytes_max.min(config.memory_max), ..shed };
        let settings = Settings { zone: config.zone.as_str().into(), shed, ..Settings::default() };
        let gateway = Gateway::new(settings);
        let locations = match config.locations.as_str() {
            "" => None,
            path => {
                let seen = Stamp::of([path]);
                gateway.locate_by(Some(places::load(path).map_err(|why| format!("gateway.locations {why}"))?));
                Some(Watched::new(path, seen))
            }
        };
        Ok(Arc::new(Front {
            gateway,
            documents: documents::Documents::new(registry.clone(), own.clone()),
            access,
            recent: Mutex::default(),
            registry,
            own,
            config,
            rules: RwLock::default(),
            synced: AtomicU64::new(0),
            seen: Mutex::default(),
            auths: Mutex::default(),
            locations: Mutex::new(locations),
            troubles: Mutex::default(),
            open: Mutex::default(),
            relisten: Notify::new(),
            lookup: Notify::new(),
        }))
    }

    /// Everything at one moment.
    pub fn snapshot(&self) -> Snapshot {
        self.gateway.snapshot(clock::now())
    }

    /// What is wrong at the moment: about what, and what it is.
    pub fn troubles(&self) -> Vec<(String, String)> {
        self.troubles.lock().iter().map(|(about, what)| (about.clone(), what.clone())).collect()
    }

    /// The listeners that are open, by name.
    pub fn listening(&self) -> Vec<(String, SocketAddr)> {
        self.open.lock().iter().map(|(name, address)| (name.clone(), *address)).collect()
    }

    /// Whether nobody has said yet where anything goes.
    pub fn is_new(&self) -> bool {
        self.gateway.config().routes().is_empty()
    }

    /// Writes what this node's configuration file says of routes, upstreams and listeners.
    pub async fn declare(&self, node: &str, documents: &[Document]) -> Result<(), String> {
        self.documents.declare(node, documents).await.map_err(|why| match why {
            documents::NotApplied::Wrong(wrongs) => {
                let all: Vec<String> = wrongs.iter().map(ToString::to_string).collect();
                format!("the configuration file and what was said at run time do not go together: {}", all.join("; "))
            }
            documents::NotApplied::Failed(why) => format!("the gateway's configuration cannot be written: {why}"),
            other => format!("the gateway's configuration cannot be written: {other:?}"),
        })
    }

    fn trouble(&self, about: &str, what: Option<String>) {
        let mut troubles = self.troubles.lock();
        match what {
            None => {
                troubles.remove(about);
            }
            Some(what) if troubles.get(about) != Some(&what) => {
                eprintln!("quorate: gateway: {about}: {what}");
                if troubles.len() < TROUBLES_MAX {
                    troubles.insert(about.to_owned(), what);
                }
            }
            Some(_) => {}
        }
    }

    /// Takes over what has changed in the registry, if anything has. Cheap where nothing has.
    #[inline]
    pub fn sync(&self) {
        if self.registry.index() > self.synced.load(Ordering::Acquire)
            && !base::is_planted(base::Bug::ChangesFollowedLate)
        {
            self.sync_now();
        }
    }

    fn sync_now(&self) {
        let mut seen = self.seen.lock();
        // The index before the look: a change meanwhile is looked at once more.
        let index = self.registry.index();
        if index <= self.synced.load(Ordering::Acquire) {
            return;
        }
        let documents = self.registry.read().index_of(&Watch::Documents);
        if documents != seen.documents || self.synced.load(Ordering::Acquire) == 0 {
            seen.documents = documents;
            self.apply(&mut seen);
        }
        self.follow(&mut seen);
        self.synced.store(index, Ordering::Release);
    }

    /// The documents have changed.
    fn apply(&self, seen: &mut Seen) {
        let documents = match documents::read(&self.registry.read()) {
            Ok(documents) => documents,
            Err(unreadable) => {
                return self.trouble("documents", Some(format!("{unreadable}; the configuration stays as it was")));
            }
        };
        let config = match Config::new(documents::with_own(documents, &self.own)) {
            Ok(config) => config,
            Err(wrongs) => {
                let first = wrongs.first().map_or(String::new(), |wrong| wrong.to_string());
                return self.trouble("documents", Some(format!("{first}; the configuration stays as it was")));
            }
        };
        self.trouble("documents", None);
        let told = self.auths.lock().follow(&config);
        self.tell_trust(told);
        let mut lost = config.upstreams().iter().filter(|(_, one)| one.locality == Locality::Geographic);
        let lost = lost.next().filter(|_| self.config.locations.is_empty()).map(|(name, _)| {
            format!("locality = \"geographic\" has no effect (upstream {name}): gateway.locations names no file")
        });
        self.trouble("locality", lost);
        *self.rules.write() = config.routes().iter().map(|compiled| Arc::new(RouteRules::of(compiled))).collect();
        let mut rng = Rng::new(clock::seed());
        self.gateway.apply(config, &mut |endpoint, upstream| self.handle(endpoint, upstream), clock::now(), &mut rng);
        // Endpoints that stay keep what was learned of them; what is the same is not set again.
        let upstreams = self.gateway.config();
        seen.services.retain(|name, _| upstreams.upstreams().contains_key(name));
        seen.listed.retain(|name, _| upstreams.upstreams().contains_key(name));
        self.relisten.notify_one();
    }

    fn tell_trust(&self, told: Told) {
        for (upstream, what) in told {
            self.trouble(&format!("TLS to upstream {upstream}"), what);
        }
    }

    /// Reads again what has changed of the files that upstreams and balancing go by.
    fn reload_files(self: &Arc<Self>) {
        let told = self.auths.lock().reload();
        self.tell_trust(told.unwrap_or_default());
        let due = self.locations.lock().as_mut().and_then(|file| file.due().map(str::to_owned));
        if let Some(path) = due {
            let front = self.clone();
            // A file of cities has a hundred million bytes.
            tokio::task::spawn_blocking(move || match places::load(&path) {
                Ok(place_of) => {
                    front.gateway.locate_by(Some(place_of));
                    front.trouble("gateway.locations", None);
                    eprintln!("quorate: gateway: locations are read anew from {path}");
                }
                Err(why) => {
                    let why = format!("{why}; what was read before is still used");
                    front.trouble("gateway.locations", Some(why));
                }
            });
        }
    }

    /// Gives every upstream the endpoints that it has now.
    fn follow(&self, seen: &mut Seen) {
        let config = self.gateway.config();
        let mut changed = Vec::new();
        {
            let catalog = self.registry.read();
            for (name, upstream) in config.upstreams() {
                match &upstream.service {
                    Some(source) => {
                        let index = catalog.index_of(&Watch::Service(source.service.clone()));
                        let same_source = seen.listed.get(name).is_some_and(|old| old.service == upstream.service);
                        if same_source && seen.services.get(name) == Some(&index) {
                            continue;
                        }
                        changed.push((name.clone(), members::of_service(&catalog, source, &mut seen.names)));
                        seen.services.insert(name.clone(), index);
                        seen.listed.insert(name.clone(), upstream.clone());
                    }
                    None => {
                        if seen.listed.get(name).is_some_and(|old| Arc::ptr_eq(old, upstream)) {
                            continue;
                        }
                        changed.push((name.clone(), members::listed(upstream, &mut seen.names)));
                        seen.listed.insert(name.clone(), upstream.clone());
                    }
                }
            }
        }
        let mut rng = Rng::new(clock::seed());
        for (name, members) in changed {
            let mut handle =
                |endpoint: &::gateway::balance::Endpoint, upstream: &Upstream| self.handle(endpoint, upstream);
            self.gateway.endpoints(&name, members, &mut handle, clock::now(), &mut rng);
        }
        if seen.names.take_new() {
            self.lookup.notify_one();
        }
    }

    /// What an endpoint is spoken to through.
    fn handle(&self, endpoint: &::gateway::balance::Endpoint, upstream: &Upstream) -> Arc<proxy::Endpoint> {
        let auths = self.auths.lock();
        members::handle(endpoint, upstream, &auths, &mut |about, what| self.trouble(about, what))
    }

    /// Opens the listeners: who connects when this has returned is served. `first` is the own listener's socket.
    pub fn open(self: &Arc<Self>, first: tokio::net::TcpListener) -> Listeners {
        self.sync_now();
        let mut listeners = Listeners::new(self.clone(), first);
        listeners.follow();
        listeners
    }

    /// Follows the registry and makes the checks until told to stop.
    pub async fn run(self: Arc<Self>, mut listeners: Listeners, mut stop: watch::Receiver<bool>) {
        let (mut looked, mut rng) = (Instant::default(), Rng::new(clock::seed()));
        let mut reloaded = clock::now();
        loop {
            let now = clock::now();
            for probe in self.gateway.tick(now, &mut rng) {
                tokio::spawn(probes::make(self.clone(), probe));
            }
            for event in self.gateway.happenings() {
                say(&event);
            }
            let due = self.gateway.deadline().map_or(TICK_MAX, |due| due.since(clock::now()).min(TICK_MAX));
            let seen = self.synced.load(Ordering::Acquire);
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                _ = self.registry.changed(seen) => self.sync(),
                () = self.relisten.notified() => listeners.follow(),
                () = self.lookup.notified() => looked = Instant::default(),
                () = tokio::time::sleep(due.max(Duration::from_millis(1))) => {}
            }
            if base::is_planted(base::Bug::ChangesFollowedLate) {
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.sync_now();
            }
            // By the clock and not by the wait above, which a registry that changes all the time never lets come to its end.
            if clock::now().since(reloaded) >= FILES_EVERY {
                reloaded = clock::now();
                listeners.reload_certificates();
                listeners.try_again();
                self.reload_files();
            }
            let is_due = clock::now().since(looked) >= LOOKUP_EVERY && !base::is_planted(base::Bug::NamesLookedUpOnce);
            if is_due || looked == Instant::default() {
                looked = clock::now();
                let wanted = self.seen.lock().names.wanted();
                if !wanted.is_empty() {
                    tokio::spawn(look_up(self.clone(), wanted));
                }
            }
        }
        listeners.stop(self.config.drain).await;
    }
}

/// Looks names up and takes over what has changed.
async fn look_up(front: Arc<Front>, wanted: Vec<(String, u16)>) {
    for (name, port) in wanted {
        let found = tokio::time::timeout(Duration::from_secs(5), tokio::net::lookup_host((name.as_str(), port))).await;
        let about = format!("name {name}");
        match found {
            Ok(Ok(addresses)) => {
                front.trouble(&about, None);
                let mut seen = front.seen.lock();
                if seen.names.found(&name, port, addresses.collect()) {
                    // Whoever uses the name is followed again.
                    seen.services.clear();
                    seen.listed.clear();
                    front.follow(&mut seen);
                }
            }
            Ok(Err(error)) => front.trouble(&about, Some(format!("cannot be looked up: {error}"))),
            Err(_) => front.trouble(&about, Some("cannot be looked up: no answer in 5 s".into())),
        }
    }
}

fn say(event: &Event) {
    match event {
        Event::Breaker { upstream, transition } => {
            eprintln!("quorate: gateway: upstream {upstream}: breaker {transition:?}")
        }
        Event::Outlier { upstream, change } => eprintln!("quorate: gateway: upstream {upstream}: {change:?}"),
        Event::Check { upstream, endpoint, passing } => {
            let how = if *passing { "answers its checks" } else { "does not answer its checks" };
            eprintln!("quorate: gateway: upstream {upstream}: {endpoint} {how}");
        }
    }
}

/// The rules of a route, for the style of headers that its listener wants.
fn rules_of(front: &Front, compiled: &Arc<Compiled>) -> Arc<RouteRules> {
    let rules = front.rules.read().get(compiled.index).filter(|rules| Arc::ptr_eq(&rules.compiled, compiled)).cloned();
    // A request that was decided by the configuration before: its rules are made once more.
    rules.unwrap_or_else(|| Arc::new(RouteRules::of(compiled)))
}

/// The node's own listener among others, where no document has its name.
pub(crate) fn own_document(own: &Listener) -> Document {
    Document { name: OWN_LISTENER.into(), body: Body::Listener(own.clone()) }
}

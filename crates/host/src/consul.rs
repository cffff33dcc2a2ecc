//! The sockets of the Consul door: HTTP/1.1 in, [`doors::consul`]'s answers out, blocking queries held until they are due.
//!
//! Everything is bounded: connections (each holds one query at most), the head and the body of a request, and how long
//! either may take to come.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Limit, Limits};
use bytes::Bytes;
use discovery::change::Change;
use discovery::check::Runner;
use discovery::model::NodeForm;
use doors::admin::guard::{self, Asked, Refused};
use doors::consul::{BODY_BYTES_MAX, Contact, Declared, Door, NodeFacts, Plan, Read, Request, Response, declaration};
use doors::registry::Registry;
use doors::secret::Secret;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};

use crate::admin::Patient;
use crate::checks::{self, Checks};
use crate::clock;
use crate::cluster::alive::NODE_KEY;
use crate::listener::{self, Converse, Places};
use crate::node::Node;
use crate::tls::DoorTls;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 4096;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Lines of a request's head.
const HEADERS_MAX: usize = 64;
/// How long a request's head may take to come, and an idle connection is kept: longer than clients' pools keep theirs.
const HEAD_PATIENCE: Duration = Duration::from_secs(120);
/// How long a request's body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a read that may not be stale waits for a leader, as Consul's `rpc_hold_timeout`.
const LEADER_PATIENCE: Duration = Duration::from_secs(7);
/// How long open connections may take when the door closes.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Changes of the configuration file's services that are under way together.
const DECLARED_AT_ONCE_MAX: usize = 1000;
/// Bytes of them.
const DECLARED_BYTES_MAX: usize = 1 << 20;
/// Of how many that are refused it is said why.
const FAILURES_TOLD_MAX: usize = 10;

/// How the door is told to be.
#[derive(Clone, Debug, Default)]
pub struct ConsulConfig {
    /// The node's name in the registry.
    pub node_name: String,
    /// The datacenter's name.
    pub datacenter: String,
    /// The address under which others reach this node's services; empty for the door's own.
    pub advertise: String,
    /// What a client must show.
    pub token: Option<Secret>,
    /// Services of the configuration file.
    pub services: Vec<Declared>,
    /// TLS, if the door speaks it.
    pub tls: Option<Arc<DoorTls>>,
}

/// What the door counts, for people.
pub struct Figures {
    /// Its connections.
    pub places: Arc<Places>,
    /// Requests received.
    pub requests: AtomicU64,
}

struct Served {
    door: Door,
    node: Arc<Node>,
    /// Whether only this machine reaches the door: then a browser on it is the hole (see [`guard`]).
    is_guarded: bool,
    stop: watch::Receiver<bool>,
    figures: Arc<Figures>,
}

impl Converse for Served {
    const NAME: &'static str = "Consul";
    const LIMIT: Limit = Limit::consul_connections_max;
    const NO_PLACE: &'static [u8] =
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n";

    fn limits(&self) -> &Limits {
        &self.node.door.limits
    }

    async fn converse<S>(self: Arc<Self>, stream: S, from: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        converse(stream, from, self).await;
    }
}

/// The door, its services registered and nobody served yet.
pub struct Opened {
    listener: TcpListener,
    address: SocketAddr,
    node: Arc<Node>,
    door: Door,
    checks: Checks,
    tls: Option<Arc<DoorTls>>,
}

/// Registers this node and its declared services. When it returns they are applied: whoever asks next finds them.
///
/// # Errors
/// The listener has no address.
pub async fn open(listener: TcpListener, node: Arc<Node>, config: ConsulConfig) -> Result<Opened, String> {
    let address = listener.local_addr().map_err(|error| format!("the Consul door has no address: {error}"))?;
    let own = own_node(&node, &config, address);
    let runner = Arc::new(Mutex::new(Runner::new(&own.name, clock::seed())));
    let facts = NodeFacts {
        name: own.name.clone(),
        id: own.id.clone(),
        address: own.address.clone(),
        datacenter: config.datacenter.clone(),
        door: address.to_string(),
        version: env!("CARGO_PKG_VERSION").into(),
    };
    let registry = node.registry.clone();
    declare(&registry, &own, &config.services).await;
    let checks =
        Checks { registry: registry.clone(), runner: runner.clone(), node: own, ended: Arc::new(Notify::new()) };
    let door = Door { registry, checks: runner, facts, token: config.token };
    Ok(Opened { listener, address, node, door, checks, tls: config.tls })
}

impl Opened {
    /// Makes this node's checks, and serves the door until told to stop.
    pub async fn serve(self, stop: watch::Receiver<bool>) {
        let Opened { listener, address, node, door, checks, tls } = self;
        tokio::spawn(checks.run(stop.clone()));
        tokio::spawn(tell(door.registry.clone(), stop.clone()));
        let places = Places::new(address, CONNECTIONS_MAX);
        let figures = Arc::new(Figures { places: places.clone(), requests: AtomicU64::new(0) });
        let _ = node.consul.set(figures.clone());
        let is_guarded = address.ip().is_loopback();
        let served = Arc::new(Served { door, node, is_guarded, stop: stop.clone(), figures });
        listener::serve(listener, tls, &places, served, stop).await;
    }
}

/// Wakes the queries that a change concerns, after every change.
async fn tell(registry: Arc<Registry>, mut stop: watch::Receiver<bool>) {
    let mut index = registry.index();
    loop {
        registry.tell();
        tokio::select! {
            changed = registry.changed(index) => index = changed,
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// This node as it registers itself; its id stays what it was.
fn own_node(node: &Node, config: &ConsulConfig, address: SocketAddr) -> NodeForm {
    let known = node.registry.read().node(&config.node_name).map(|node| node.form.id.clone());
    let id = known.filter(|id| !id.is_empty()).unwrap_or_else(uuid);
    let advertised = match (config.advertise.as_str(), address.ip()) {
        ("", ip) if ip.is_unspecified() => "127.0.0.1".to_owned(),
        ("", ip) => ip.to_string(),
        (advertise, _) => advertise.to_owned(),
    };
    let tagged = ["lan", "wan"].map(|name| (name.to_owned(), advertised.clone()));
    NodeForm {
        name: config.node_name.clone(),
        id,
        address: advertised,
        tagged_addresses: tagged.into(),
        meta: [(NODE_KEY.to_owned(), node.member.own.0.to_string())].into(),
    }
}

/// A random UUID (RFC 9562 §5.4).
fn uuid() -> String {
    doors::consul::uuid(clock::seed(), clock::seed())
}

/// Registers this node and what the configuration file declares, unless it is there already; takes away what the file no
/// longer has. Many changes share an entry of the log, so thousands of services cost some syncs and not thousands.
async fn declare(registry: &Registry, own: &NodeForm, services: &[Declared]) {
    let changes = {
        let catalog = registry.read();
        let is_there = catalog.node(&own.name).is_some_and(|node| node.form == *own);
        let node = (!is_there).then(|| checks::register(own));
        node.into_iter().chain(declaration(&catalog, own, services)).collect::<Vec<_>>()
    };
    let (mut rest, mut failed) = (changes.as_slice(), 0);
    while !rest.is_empty() {
        // Under way together, whatever is queued becomes one entry: bounded, so that nobody waits long behind it.
        let mut bytes = 0;
        let mut fits = |change: &Change| {
            bytes += change.encode().len();
            bytes <= DECLARED_BYTES_MAX
        };
        let count = rest.iter().take(DECLARED_AT_ONCE_MAX).take_while(|change| fits(change)).count().max(1);
        let (now, later) = rest.split_at(count);
        rest = later;
        let under_way: Vec<_> = now.iter().map(|change| registry.change(change)).collect();
        for changing in under_way {
            let why = match changing.await {
                Ok(discovery::Outcome::Refused(_, why)) => format!("a service of the configuration is refused: {why}"),
                Ok(_) => continue,
                Err(error) => format!("the registry does not take this node's services: {error}"),
            };
            failed += 1;
            if failed <= FAILURES_TOLD_MAX {
                eprintln!("quorate: {why}");
            }
        }
    }
    if failed > FAILURES_TOLD_MAX {
        eprintln!("quorate: {} more services of the configuration are not registered", failed - FAILURES_TOLD_MAX);
    }
}

async fn converse<S>(stream: S, from: SocketAddr, served: Arc<Served>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stop = served.stop.clone();
    let from: Arc<str> = from.ip().to_string().into();
    let service = service_fn(move |request| {
        let (served, from) = (served.clone(), from.clone());
        async move { Ok::<_, Infallible>(finish(answer(&served, &from, request).await)) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        _ = connection.as_mut() => true,
        _ = stop.wait_for(|stop| *stop) => false,
    };
    if !ended {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(STOP_PATIENCE, connection).await;
    }
}

async fn answer(served: &Served, from: &str, request: hyper::Request<Incoming>) -> Response {
    served.figures.requests.fetch_add(1, Ordering::Relaxed);
    if let Some(refused) = refusal(served, &request) {
        return refused;
    }
    let length = header_text(request.headers(), header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.is_some_and(|length| length > BODY_BYTES_MAX as u64) {
        served.node.door.limits.hit(Limit::consul_body_bytes_max);
        return text(413, format!("Request body too large, max size: {BODY_BYTES_MAX} bytes"));
    }
    let (parts, body) = request.into_parts();
    let body = match tokio::time::timeout(BODY_PATIENCE, Limited::new(body, BODY_BYTES_MAX).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => {
            served.node.door.limits.hit(Limit::consul_body_bytes_max);
            return text(413, format!("Request body too large, max size: {BODY_BYTES_MAX} bytes"));
        }
        Ok(Err(_)) => return text(400, "the body breaks off"),
        Err(_) => return text(408, "the body took too long"),
    };
    let token = header_text(&parts.headers, HeaderName::from_static("x-consul-token")).or_else(|| {
        let bearer = header_text(&parts.headers, header::AUTHORIZATION)?;
        let (kind, token) = bearer.split_once(' ')?;
        kind.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let plan = served.door.plan(&Request {
        method: parts.method.as_str(),
        path: parts.uri.path(),
        query: parts.uri.query().unwrap_or(""),
        token,
        namespace: header_text(&parts.headers, HeaderName::from_static("x-consul-namespace")),
        partition: header_text(&parts.headers, HeaderName::from_static("x-consul-partition")),
        from,
        body: &body,
        now: clock::now(),
        random: clock::seed(),
        more_random: clock::seed(),
    });
    match plan {
        Plan::Answer(response) => response,
        Plan::Write(write) => {
            let changing = served.door.registry.change(&write.change);
            // Whoever hangs up does not stop a change; the answer alone is lost.
            write.finish(changing.await)
        }
        Plan::Read(mut read) => {
            let registry = &served.door.registry;
            if read.is_stale() {
                read.set_contact(contact(&served.node));
            } else if tokio::time::timeout(LEADER_PATIENCE, registry.fresh()).await.is_err() {
                return Read::leaderless();
            }
            wait(served, read).await
        }
    }
}

/// What this node knows of who leads the registry.
fn contact(node: &Node) -> Contact {
    let Some(leader) = node.registry.leader() else {
        return Contact { is_known: false, silent_ms: 0 };
    };
    let links = node.member.links();
    let heard = links.iter().find(|link| link.node == leader.0).and_then(|link| link.heard);
    Contact { is_known: true, silent_ms: heard.map_or(0, |heard| heard.as_millis() as u64) }
}

/// Holds a query until it has an answer. When the door closes, it is answered as if its time were over.
async fn wait(served: &Served, mut read: Read) -> Response {
    let mut stop = served.stop.clone();
    loop {
        let index = {
            let catalog = served.door.registry.read();
            if let Some(response) = read.poll(&catalog, clock::now()) {
                return response;
            }
            catalog.index()
        };
        let left = read.deadline().map_or(Duration::ZERO, |deadline| deadline.since(clock::now()));
        tokio::select! {
            () = served.door.registry.concerned(read.waiting(), index) => {}
            () = tokio::time::sleep(left) => {}
            _ = stop.wait_for(|stop| *stop) => {}
        }
        if *stop.borrow() {
            read.give_up();
        }
    }
}

/// What a request that is not let in is told.
fn refusal(served: &Served, request: &hyper::Request<Incoming>) -> Option<Response> {
    let headers = request.headers();
    let host = request.uri().authority().map(|authority| authority.as_str()).or(header_text(headers, header::HOST));
    if !served.is_guarded || served.door.token.is_some() {
        return None;
    }
    let asked = Asked {
        host: host.or(Some("localhost")),
        origin: header_text(headers, header::ORIGIN),
        fetch_site: header_text(headers, HeaderName::from_static("sec-fetch-site")),
        changes: request.method() != hyper::Method::GET,
    };
    match guard::check(asked, &[]) {
        Ok(()) => None,
        Err(Refused::NoHost) => Some(text(400, "a request needs one Host header\n")),
        Err(Refused::WrongHost(name)) => {
            let why = format!(
                "the Consul door is not called {name:?}: use localhost or its address, or set a token (consul.token_file)\n"
            );
            Some(text(421, why))
        }
        Err(Refused::OtherOrigin) => Some(text(403, "a page of another origin may not ask the Consul door\n")),
    }
}

/// A header that is there once; twice or unreadable, it reads as one that fits nothing.
fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() { Some("") } else { Some(first.to_str().unwrap_or("")) }
}

fn text(status: u16, text: impl Into<String>) -> Response {
    Response { status, kind: "text/plain; charset=utf-8", headers: Vec::new(), body: text.into().into_bytes() }
}

fn finish(response: Response) -> hyper::Response<Full<Bytes>> {
    let mut out = hyper::Response::new(Full::new(Bytes::from(response.body)));
    *out.status_mut() = StatusCode::from_u16(response.status).expect("the door's statuses are three digits");
    out.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(response.kind));
    for (name, value) in response.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            out.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    out
}

//! The admin door: HTTP/1.1 for people, probes and Prometheus.
//!
//! Everything is bounded: connections, the head of a request, how long it may take to come and how long an answer may take
//! to be read. What is answered is rendered by [`doors::admin`]; this file has the sockets.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use base::Limit;
use bytes::Bytes;
use doors::access;
use doors::admin::guard::{self, Asked, Refused};
use doors::admin::rates::Minute;
use doors::admin::{CONSOLE, NONCE, auth, metrics};
use doors::secret::Secret;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Frame, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::Sleep;

use crate::clock;
use crate::net::not_accepted;
use crate::node::Node;

mod cluster;
mod events;
mod explain;
pub(crate) mod gateway;
mod look;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Most of them that follow `/events`: the others stay free for probes.
const FOLLOWERS_MAX: usize = 16;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Lines of a request's head.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's body; nothing reads one.
const BODY_BYTES_MAX: u64 = 64 << 10;
/// Bytes of a body below `/config`: a schema or a value, as JSON writes it.
const CONFIG_BODY_BYTES_MAX: usize = 512 << 10;
/// How long a leader is waited for.
const LEADER_PATIENCE: Duration = Duration::from_secs(5);
/// How long a request's head may take to come, and an idle connection is kept.
const HEAD_PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may leave what was sent unread.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);
/// How long open connections may take when the door closes.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// What there is, for those who ask for something else.
const PATHS: &str = "The admin door has:
  GET  /          the console
  GET  /healthz   200 while the process lives
  GET  /readyz    200 if the node serves, 503 and why if it does not
  GET  /status    everything about the node, JSON
  GET  /metrics   for Prometheus
  ANY  /cluster   nodes, shards, leaders, and what is to become of them: see docs/cluster.md
  ANY  /gateway   routes, upstreams and listeners: see docs/routes.md
  ANY  /config    configuration: its prefixes, schemas, history: see docs/config.md
  GET  /events    the tape of commits and the status, as server-sent events
  GET  /explain   where a key (?key=…) lies, and the last commit that named it
  POST /snapshot  takes a snapshot now
";

const EVENT_STREAM: &str = "text/event-stream; charset=utf-8";

type Body = BoxBody<Bytes, Infallible>;

struct Admin {
    node: Arc<Node>,
    /// Where the door listens.
    address: Option<SocketAddr>,
    /// Names by which the door may be called, beside loopback's.
    hosts: Vec<String>,
    /// The password, if one is set.
    password: Option<Secret>,
    auth_failures: AtomicU64,
    /// The last minute.
    minute: Mutex<Minute>,
    /// The registry, for people.
    services: Mutex<look::Services>,
    /// The status as JSON, once a second.
    told: watch::Sender<Arc<str>>,
    /// Places for connections, and among them for those that follow the events.
    places: Arc<Semaphore>,
    followers: Arc<Semaphore>,
    connections: AtomicU64,
    requests: AtomicU64,
    stop: watch::Receiver<bool>,
}

/// Serves the admin door until told to stop: whoever connects, and whoever did so `early` and has not asked yet.
pub async fn serve(
    listener: TcpListener,
    mut early: mpsc::Receiver<TcpStream>,
    node: Arc<Node>,
    mut stop: watch::Receiver<bool>,
) {
    let tls = node.config.admin_tls.clone();
    if let Some(tls) = &tls {
        tokio::spawn(tls.clone().follow(stop.clone()));
    }
    let (hosts, password) = (node.config.admin_hosts.clone(), node.config.admin_password.clone());
    let admin = Arc::new(Admin {
        node,
        address: listener.local_addr().ok(),
        hosts,
        password,
        auth_failures: AtomicU64::new(0),
        minute: Mutex::default(),
        services: Mutex::default(),
        told: watch::Sender::new(Arc::from("")),
        places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        connections: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        stop: stop.clone(),
    });
    tokio::spawn(look::every_second(admin.clone()));
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(stream) = early.recv() => Ok(stream),
            accepted = listener.accept() => accepted.map(|(stream, _)| stream),
        };
        match accepted {
            Ok(stream) => match admin.places.clone().try_acquire_owned() {
                Ok(place) => {
                    admin.connections.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.set_nodelay(true);
                    match tls.clone() {
                        None => {
                            tokio::spawn(converse(stream, admin.clone(), place));
                        }
                        Some(tls) => {
                            let admin = admin.clone();
                            tokio::spawn(async move {
                                if let Some(stream) = tls.accept(stream).await {
                                    converse(stream, admin, place).await;
                                }
                            });
                        }
                    }
                }
                Err(_) => {
                    admin.node.door.limits.hit(Limit::admin_connections_max);
                    let _ = stream.try_write(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nretry-after: 1\r\nconnection: close\r\n\r\n");
                }
            },
            Err(error) => not_accepted("admin", &error, &admin.node.door.limits).await,
        }
    }
    // Whoever has a place is given a moment to finish.
    let _ = tokio::time::timeout(STOP_PATIENCE, admin.places.acquire_many(CONNECTIONS_MAX as u32)).await;
}

async fn converse<S>(stream: S, admin: Arc<Admin>, _place: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut stop = admin.stop.clone();
    let limits = admin.node.door.limits.clone();
    let service = service_fn(move |request| {
        let admin = admin.clone();
        async move {
            let is_head = request.method() == Method::HEAD;
            let path = request.uri().path();
            let answer = if is_below("/gateway", path) {
                of_gateway(&admin, request).await
            } else if is_below("/config", path) {
                of_config(&admin, request).await
            } else if is_below("/cluster", path) {
                of_cluster(&admin, &request).await
            } else {
                answer(&admin, &request)
            };
            Ok::<_, Infallible>(finish(answer, is_head))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(Patient::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => {
            if ended.is_err_and(|error| error.is_parse_too_large() || error.is_timeout()) {
                limits.hit(Limit::admin_head_max);
            }
            true
        }
        _ = stop.wait_for(|stop| *stop) => false,
    };
    if !ended {
        connection.as_mut().graceful_shutdown();
        let _ = tokio::time::timeout(STOP_PATIENCE, connection).await;
    }
}

fn is_below(root: &str, path: &str) -> bool {
    path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The cluster, and what is to become of it.
async fn of_cluster(admin: &Arc<Admin>, request: &Request<Incoming>) -> Response<Body> {
    if let Some(refused) = refusal(admin, request) {
        return refused;
    }
    admin.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path().strip_prefix("/cluster").unwrap_or_default();
    let query = request.uri().query().unwrap_or_default();
    json(&cluster::answer(&admin.node.member, request.method().as_str(), path, query).await)
}

fn json(told: &gateway::Told) -> Response<Body> {
    let status = StatusCode::from_u16(told.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    body(status, "application/json", Full::new(format!("{:#}\n", told.body).into()).boxed())
}

/// Configuration: what is below the prefixes that are.
async fn of_config(admin: &Arc<Admin>, request: Request<Incoming>) -> Response<Body> {
    if let Some(refused) = refusal(admin, &request) {
        return refused;
    }
    admin.requests.fetch_add(1, Ordering::Relaxed);
    let (head, incoming) = request.into_parts();
    let content = match body_of(incoming, CONFIG_BODY_BYTES_MAX).await {
        Ok(content) => content,
        Err(refused) => return refused,
    };
    let registry = &admin.node.registry;
    // Whoever changed something at another node and asks here wants to find it.
    if tokio::time::timeout(LEADER_PATIENCE, registry.fresh()).await.is_err() {
        return text(StatusCode::SERVICE_UNAVAILABLE, "nobody leads the registry at the moment\n");
    }
    let path = head.uri.path().strip_prefix("/config").unwrap_or_default();
    let (status, body) = doors::admin::config::answer(registry, head.method.as_str(), path, &content).await;
    json(&gateway::Told { status, body })
}

async fn body_of(incoming: Incoming, most: usize) -> Result<Bytes, Response<Body>> {
    match tokio::time::timeout(BODY_PATIENCE, Limited::new(incoming, most).collect()).await {
        Ok(Ok(content)) => Ok(content.to_bytes()),
        Ok(Err(_)) => Err(text(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or broke off\n")),
        Err(_) => Err(text(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n")),
    }
}

/// The front door's configuration.
async fn of_gateway(admin: &Arc<Admin>, request: Request<Incoming>) -> Response<Body> {
    if let Some(refused) = refusal(admin, &request) {
        return refused;
    }
    admin.requests.fetch_add(1, Ordering::Relaxed);
    let Some(front) = admin.node.front.get() else {
        return text(StatusCode::SERVICE_UNAVAILABLE, "the gateway is not there yet\n");
    };
    let (head, incoming) = request.into_parts();
    let content = match body_of(incoming, gateway::BODY_BYTES_MAX).await {
        Ok(content) => content,
        Err(refused) => return refused,
    };
    let expected = match header_text(&head.headers, header::IF_MATCH) {
        None | Some("*") => None,
        Some(index) => match index.trim_matches('"').parse() {
            Ok(index) => Some(index),
            Err(_) => return text(StatusCode::BAD_REQUEST, "If-Match wants the index that GET /gateway tells\n"),
        },
    };
    let asked = gateway::Asked {
        method: head.method.as_str(),
        path: head.uri.path().strip_prefix("/gateway").unwrap_or_default(),
        query: head.uri.query().unwrap_or_default(),
        is_json: header_text(&head.headers, header::CONTENT_TYPE)
            .is_some_and(|kind| kind.starts_with("application/json")),
        expected,
        body: &content,
    };
    json(&gateway::answer(front, &asked).await)
}

fn answer(admin: &Arc<Admin>, request: &Request<Incoming>) -> Response<Body> {
    if let Some(refused) = refusal(admin, request) {
        return refused;
    }
    admin.requests.fetch_add(1, Ordering::Relaxed);
    let path = request.uri().path();
    match (path, request.method()) {
        ("/healthz", &Method::GET | &Method::HEAD) => text(StatusCode::OK, "alive\n"),
        ("/readyz", &Method::GET | &Method::HEAD) => match admin.node.not_ready() {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        ("/", &Method::GET | &Method::HEAD) => console(),
        ("/status", &Method::GET | &Method::HEAD) => {
            body(StatusCode::OK, "application/json", Full::new(look::status(admin).json().into()).boxed())
        }
        ("/metrics", &Method::GET | &Method::HEAD) => {
            let mut page = metrics::render(&look::status(admin));
            if let Some(front) = admin.node.front.get() {
                page.push_str(&doors::admin::front::render(&gateway::metrics(front)));
            }
            body(StatusCode::OK, metrics::CONTENT_TYPE, Full::new(page.into()).boxed())
        }
        ("/events", &Method::HEAD) => body(StatusCode::OK, EVENT_STREAM, Full::default().boxed()),
        ("/events", &Method::GET) => follow(admin, request),
        ("/explain", &Method::GET | &Method::HEAD) => {
            match explain::answer(admin, request.uri().query().unwrap_or_default()) {
                Ok(told) => body(StatusCode::OK, "application/json", Full::new(told.to_string().into()).boxed()),
                Err(why) => text(StatusCode::BAD_REQUEST, format!("{why}\n")),
            }
        }
        ("/snapshot", &Method::POST) => {
            admin.node.snapshot_now();
            text(StatusCode::ACCEPTED, "a snapshot has been asked for; /status shows when it is done\n")
        }
        ("/snapshot", _) => not_allowed("POST"),
        ("/" | "/healthz" | "/readyz" | "/status" | "/metrics" | "/events" | "/explain", _) => not_allowed("GET, HEAD"),
        _ => text(StatusCode::NOT_FOUND, PATHS),
    }
}

/// How long a body may take to come.
const BODY_PATIENCE: Duration = Duration::from_secs(10);

/// The console, which runs only what it brought along and talks only to this door.
fn console() -> Response<Body> {
    let nonce = format!("{:016x}{:016x}", clock::seed(), clock::seed());
    let page = CONSOLE.replace(NONCE, &nonce);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = body(StatusCode::OK, "text/html; charset=utf-8", Full::new(page.into()).boxed());
    let policy = HeaderValue::from_str(&policy).expect("a nonce of digits is a header's text");
    response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    response
}

fn follow(admin: &Arc<Admin>, request: &Request<Incoming>) -> Response<Body> {
    let Ok(place) = admin.followers.clone().try_acquire_owned() else {
        admin.node.door.limits.hit(Limit::admin_followers_max);
        let mut refused = text(StatusCode::SERVICE_UNAVAILABLE, format!("{FOLLOWERS_MAX} follow the events already\n"));
        refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
        return refused;
    };
    let last = header_text(request.headers(), HeaderName::from_static("last-event-id"));
    let (sender, receiver) = mpsc::channel(2);
    tokio::spawn(events::tell(admin.clone(), last.and_then(|last| last.parse().ok()), sender, place));
    body(StatusCode::OK, EVENT_STREAM, Stream(receiver).boxed())
}

/// What a request that is not let in is told.
fn refusal(admin: &Admin, request: &Request<Incoming>) -> Option<Response<Body>> {
    let headers = request.headers();
    let host = request.uri().authority().map(|authority| authority.as_str()).or(header_text(headers, header::HOST));
    let is_old = request.version() == Version::HTTP_10;
    let asked = Asked {
        // HTTP/1.0 may leave it out; no browser speaks that.
        host: host.or(is_old.then_some("localhost")),
        origin: header_text(headers, header::ORIGIN),
        fetch_site: header_text(headers, HeaderName::from_static("sec-fetch-site")),
        changes: !matches!(*request.method(), Method::GET | Method::HEAD),
    };
    match guard::check(asked, &admin.hosts) {
        Ok(()) => {}
        Err(Refused::NoHost) => return Some(text(StatusCode::BAD_REQUEST, "a request needs one Host header\n")),
        Err(Refused::WrongHost(name)) => {
            let why = format!(
                "the admin door is not called {name:?}: use localhost or its address, or add the name to admin.hosts\n"
            );
            return Some(text(StatusCode::MISDIRECTED_REQUEST, why));
        }
        Err(Refused::OtherOrigin) => {
            return Some(text(StatusCode::FORBIDDEN, "a page of another origin may not ask the admin door\n"));
        }
    }
    if let Some(password) = &admin.password
        && !auth::is_open(request.uri().path())
    {
        let given = header_text(headers, header::AUTHORIZATION);
        let is_administrator =
            |name: &str, given: &str| access::is_administrator(&admin.node.door.users(), name, given);
        if !auth::allows(password, given, is_administrator) {
            // A browser's first request comes without one: that is no wrong password.
            admin.auth_failures.fetch_add(u64::from(given.is_some()), Ordering::Relaxed);
            let mut refused = text(StatusCode::UNAUTHORIZED, "the admin door wants its password (Basic or Bearer)\n");
            refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(auth::CHALLENGE));
            return Some(refused);
        }
    }
    let length = header_text(headers, header::CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
    if length.unwrap_or(0) > BODY_BYTES_MAX
        && !["/gateway", "/config"].iter().any(|root| is_below(root, request.uri().path()))
    {
        admin.node.door.limits.hit(Limit::admin_body_bytes_max);
        return Some(text(StatusCode::PAYLOAD_TOO_LARGE, "no request to the admin door needs a body\n"));
    }
    None
}

/// A header that is there once; twice or unreadable, it reads as one that fits nothing.
fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?;
    if all.next().is_some() { Some("") } else { Some(first.to_str().unwrap_or("")) }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    body(status, "text/plain; charset=utf-8", Full::new(text.into()).boxed())
}

fn not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, format!("this path takes {allowed}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    response
}

fn body(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Adds what every answer carries.
fn finish(mut response: Response<Body>, is_head: bool) -> Response<Body> {
    let headers = response.headers_mut();
    let always = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in always {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    if is_head {
        // The length that GET would tell is told; hyper sends no body to HEAD.
        if let Some(length) = hyper::body::Body::size_hint(response.body()).exact() {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = Full::default().boxed();
    }
    response
}

/// A body that comes in pieces.
struct Stream(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece))))
    }
}

/// A stream that gives up when the other side does not read.
pub(crate) struct Patient<S> {
    stream: S,
    /// Since a write had to wait.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S) -> Patient<S> {
        Patient { stream, waiting: None }
    }

    fn watch<T>(&mut self, context: &mut Context<'_>, polled: Poll<std::io::Result<T>>) -> Poll<std::io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_PATIENCE)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(std::io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.watch(context, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

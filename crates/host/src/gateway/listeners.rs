//! Listeners come, change and go while the node runs.
//!
//! A listener that goes accepts nothing more; its connections end with the answers that are under way, and after its
//! `drain_timeout` in any case. One that only changes keeps its socket: no connection is refused meanwhile.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::gateway::model::{Listener, Protocol};
use base::{Limit, Limits};
use proxy::{Certificate, Certificates, Decide, Io, Peer, PeerTls, Proxy, borrowed_bytes};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::begin::{read_hello, read_proxy_header};
use super::decide::Decider;
use super::files::{Stamp, read};
use super::late::Late;
use super::{Front, OWN_LISTENER};
use crate::clock;
use crate::net::not_accepted;

/// So long before a certificate expires people are told: time enough for a renewal that failed to be looked at, and less than the rest of a
/// 90-day certificate at which clients of ACME renew (RFC 8555's issuers: 30 days).
const EXPIRY_WARNING_S: u64 = 14 * 86_400;
/// How long accepting rests after it failed.
const REST: Duration = Duration::from_millis(100);

/// Connections of a listener, counted by the places that they hold.
#[derive(Clone)]
struct Places {
    free: Arc<Semaphore>,
    most: u32,
}

struct Running {
    document: Arc<Listener>,
    socket: Arc<TcpListener>,
    stop: watch::Sender<bool>,
    places: Places,
    certificates: Option<Shown>,
}

/// The certificates that a listener shows.
struct Shown {
    shown: Arc<Certificates>,
    /// What their files looked like.
    seen: Stamp,
    /// The first moment at which one of them expires, in seconds since 1970.
    expires: Option<u64>,
}

/// All listeners of this node.
pub struct Listeners {
    front: Arc<Front>,
    running: BTreeMap<String, Running>,
    /// The socket that was bound before anything else, until its listener takes it.
    first: Option<TcpListener>,
}

impl Listeners {
    /// None yet.
    pub fn new(front: Arc<Front>, first: TcpListener) -> Listeners {
        Listeners { front, running: BTreeMap::new(), first: Some(first) }
    }

    /// Makes them what the configuration says.
    pub fn follow(&mut self) {
        let config = self.front.gateway.config();
        let gone: Vec<String> =
            self.running.keys().filter(|name| !config.listeners().contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(running) = self.running.remove(&name) {
                drain(running);
            }
            for about in ["listener", "certificates of listener", "a certificate of listener"] {
                self.front.trouble(&format!("{about} {name}"), None);
            }
        }
        for (name, document) in config.listeners() {
            if self.running.get(name).is_some_and(|running| *running.document == **document) {
                continue;
            }
            let about = format!("listener {name}");
            match self.start(name, document) {
                Ok(()) => self.front.trouble(&about, None),
                Err(why) => self.front.trouble(&about, Some(why)),
            }
        }
        // Where a document gave the own listener another address: nobody would ever accept what comes to the first one.
        self.first = None;
        let open = self.running.iter().filter_map(|(name, one)| Some((name.clone(), one.socket.local_addr().ok()?)));
        *self.front.open.lock() = open.collect();
    }

    /// Opens what could not be opened: its address may be free now.
    pub fn try_again(&mut self) {
        let config = self.front.gateway.config();
        if config.listeners().keys().any(|name| !self.running.contains_key(name)) {
            self.follow();
        }
    }

    fn start(&mut self, name: &str, document: &Arc<Listener>) -> Result<(), String> {
        let bind = document.bind;
        let is_tls = document.terminates_tls() || document.protocol == Protocol::Tls;
        if !bind.ip().is_loopback() && !is_tls && !self.front.config.insecure_bind {
            return Err(format!(
                "{bind} is not on loopback and the listener has no certificate: give it one, or allow this with insecure_bind = true"
            ));
        }
        let certificates = match document.certificates.is_empty() {
            true => None,
            false => {
                // Stamped first: what changes while it is read is read again.
                let seen = stamp(document);
                let read = read_certificates(document)?;
                Some(Shown { shown: Certificates::new(&read), seen, expires: expires(&read) })
            }
        };
        let old = self.running.remove(name);
        let kept = old.as_ref().filter(|old| old.document.bind == bind).map(|old| old.socket.clone());
        let socket = match kept {
            Some(socket) => socket,
            None => match self.first.take() {
                Some(first) if name == OWN_LISTENER && first.local_addr().ok() == Some(bind) => Arc::new(first),
                other => {
                    self.first = other;
                    match listen(bind) {
                        Ok(socket) => Arc::new(socket),
                        Err(error) => {
                            // What was there before goes on.
                            if let Some(old) = old {
                                self.running.insert(name.to_owned(), old);
                            }
                            return Err(format!("cannot listen on {bind}: {error}"));
                        }
                    }
                }
            },
        };
        if let Some(old) = old {
            drain(old);
        }
        let (stop, stopping) = watch::channel(false);
        let most = document.connections_max;
        let places = Places { free: Arc::new(Semaphore::new(most as usize)), most };
        let decider = Decider { front: self.front.clone(), name: name.into(), listener: document.clone() };
        let limits = proxy::Limits {
            head_bytes_max: document.head_bytes_max.0 as usize,
            target_bytes_max: proxy::Limits::DEFAULT.target_bytes_max.min(document.head_bytes_max.0 as usize),
            fields_max: document.headers_max as usize,
            head_timeout: document.head_timeout.0,
            idle_timeout: document.idle_timeout.0,
            h2_in_the_clear: document.http2,
            ..proxy::Limits::DEFAULT
        };
        let serving = Serving {
            proxy: Proxy::new(decider, limits),
            document: document.clone(),
            acceptor: certificates.as_ref().map(|certificates| match (document.protocol, document.http2) {
                (Protocol::Http, true) => certificates.shown.acceptor(),
                (Protocol::Http, false) => certificates.shown.acceptor_of(&[b"http/1.1"]),
                // Whatever is spoken inside, it is not ours to choose.
                (Protocol::Tcp | Protocol::Tls, _) => certificates.shown.acceptor_of(&[]),
            }),
            places: places.clone(),
            stop: stopping,
            memory_max: self.front.config.memory_max,
            front: self.front.clone(),
        };
        let limits = self.front.config.limits.clone();
        tokio::spawn(accept(socket.clone(), Arc::new(serving), limits));
        let running = Running { document: document.clone(), socket, stop, places, certificates };
        self.running.insert(name.to_owned(), running);
        Ok(())
    }

    /// Shows certificates anew whose files have changed, and tells people of those that are about to expire.
    pub fn reload_certificates(&mut self) {
        for (name, running) in &mut self.running {
            let Some(certificates) = &mut running.certificates else { continue };
            self.front.trouble(&format!("a certificate of listener {name}"), ending(certificates.expires));
            let now = stamp(&running.document);
            if now == certificates.seen || base::is_planted(base::Bug::CertificatesReadOnce) {
                continue;
            }
            let about = format!("certificates of listener {name}");
            match read_certificates(&running.document) {
                Ok(read) => {
                    certificates.shown.replace(&read);
                    (certificates.seen, certificates.expires) = (now, expires(&read));
                    self.front.trouble(&about, None);
                    eprintln!("quorate: gateway: listener {name} shows the certificates that its files have now");
                }
                // Half written, perhaps: the old ones are shown until they can be read.
                Err(why) => {
                    let why = format!("{why}; the certificates that were read before are still shown");
                    self.front.trouble(&about, Some(why));
                }
            }
        }
    }

    /// Ends all of them; connections have this long, and no longer than their listener says.
    pub async fn stop(mut self, patience: Duration) {
        let deadline = tokio::time::Instant::now() + patience;
        let running = std::mem::take(&mut self.running);
        self.front.open.lock().clear();
        let places: Vec<Places> = running.values().map(|running| running.places.clone()).collect();
        running.into_values().for_each(drain);
        for places in places {
            let _ = tokio::time::timeout_at(deadline, places.free.acquire_many(places.most)).await;
        }
    }
}

fn drain(running: Running) {
    running.stop.send_replace(true);
}

fn listen(bind: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = std::net::TcpListener::bind(bind)?;
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn read_certificates(document: &Listener) -> Result<Vec<Certificate>, String> {
    let mut certificates = Vec::new();
    for (place, one) in document.certificates.iter().enumerate() {
        let (chain, key) = (read(&one.chain)?, read(&one.key)?);
        let names: Vec<&str> = one.hosts.iter().map(String::as_str).collect();
        let certificate = |names: &[&str]| {
            Certificate::from_pem(names, &chain, &key).map_err(|error| format!("{}: {error}", one.chain))
        };
        let named = certificate(&names)?;
        certificates.push(if names.is_empty() { named.named(named.own_names()) } else { named });
        // The first one also answers clients that name nothing known.
        if place == 0 {
            certificates.push(certificate(&[])?);
        }
    }
    Ok(certificates)
}

fn expires(certificates: &[Certificate]) -> Option<u64> {
    certificates.iter().filter_map(Certificate::not_after).min()
}

/// What is to be said of a certificate that expires then.
fn ending(expires: Option<u64>) -> Option<String> {
    let (expires, now) = (expires?, clock::wall() / 1000);
    match expires.checked_sub(now) {
        None => Some("it has expired: clients refuse it; put a new one in its files".into()),
        Some(left) if left < EXPIRY_WARNING_S => {
            Some(format!("it expires in {} days; a new one in its files is shown at once", left / 86_400))
        }
        Some(_) => None,
    }
}

fn stamp(document: &Listener) -> Stamp {
    Stamp::of(document.certificates.iter().flat_map(|one| [one.chain.as_str(), &one.key]))
}

struct Serving {
    proxy: Arc<Proxy<Decider>>,
    document: Arc<Listener>,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    places: Places,
    stop: watch::Receiver<bool>,
    /// Bytes that the gateway's connections may hold.
    memory_max: u64,
    front: Arc<Front>,
}

async fn accept(socket: Arc<TcpListener>, serving: Arc<Serving>, limits: Limits) {
    let mut stop = serving.stop.clone();
    loop {
        // Beyond the limit connections wait in the system's queue.
        let place = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            place = serving.places.free.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { return };
        // Nor are there more while those that are there hold as much as the gateway may.
        if borrowed_bytes() >= serving.memory_max {
            let what =
                "its connections hold as much as gateway.memory_max allows: no more are accepted until that is less";
            serving.front.trouble("memory", Some(what.into()));
            while !*stop.borrow() && borrowed_bytes() >= serving.memory_max {
                tokio::time::sleep(REST).await;
            }
            serving.front.trouble("memory", None);
        }
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = socket.accept() => accepted,
        };
        let number = match accepted {
            Ok((stream, from)) => {
                let (serving, number) = (serving.clone(), stream.as_raw_fd());
                tokio::spawn(async move {
                    converse(stream, from, &serving).await;
                    drop(place);
                });
                number
            }
            // Connections that are open go on, and their end makes room.
            Err(error) => {
                if base::is_planted(base::Bug::FilesOutForGood) {
                    return;
                }
                not_accepted("gateway", &error, &limits).await;
                continue;
            }
        };
        // The system gives the lowest free number: a high one says that nearly all are in use.
        if i64::from(number) >= files_for_clients() {
            limits.hit(Limit::open_files);
            if base::is_planted(base::Bug::FilesOutForGood) {
                return;
            }
            eprintln!(
                "quorate: nearly all open files are in use: the gateway accepts no more connections until some are free"
            );
            while !*stop.borrow() && lowest_free(&socket).is_none_or(|number| i64::from(number) >= files_for_clients())
            {
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// Descriptors that clients of the gateway may take. The others are for those who are there already: their requests need connections to
/// upstreams, and their writes a log.
fn files_for_clients() -> i64 {
    let most = getrlimit(Resource::Nofile).current.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX));
    most - (most / 8).clamp(16, 1024)
}

/// The lowest free descriptor; nothing where none is.
fn lowest_free(socket: &TcpListener) -> Option<i32> {
    rustix::io::fcntl_dupfd_cloexec(socket.as_fd(), 0).ok().map(|free| free.as_raw_fd())
}

async fn converse(mut stream: TcpStream, mut from: SocketAddr, serving: &Arc<Serving>) {
    let _ = stream.set_nodelay(true);
    let (proxy, document) = (&serving.proxy, &serving.document);
    let local = stream.local_addr().unwrap_or(document.bind);
    let (mut stop, stopping) = (serving.stop.clone(), serving.stop.clone());
    let drained = async {
        let _ = stop.wait_for(|stop| *stop).await;
        if !base::is_planted(base::Bug::DrainNotWaited) {
            tokio::time::sleep(document.drain_timeout.0).await;
        }
    };
    let peer_of = |from: SocketAddr| {
        let ip: IpAddr = from.ip().to_canonical();
        let trusted = document.trusted_proxies.iter().any(|network| network.contains(ip));
        Peer { addr: from, local, tls: None, trusted, listener: 0 }
    };
    let refuse = |from: SocketAddr, why: &'static str| proxy.decider().on_refused(&peer_of(from), 0, why);
    let patience = document.head_timeout.0;
    let served = async {
        if document.proxy_protocol {
            // On the heap, so that an idle connection's task stays small; so below.
            match timeout(patience, Box::pin(read_proxy_header(&mut stream))).await {
                Ok(Ok(client)) => from = client.unwrap_or(from),
                Ok(Err(why)) => return refuse(from, why),
                Err(_) => return refuse(from, "the PROXY header did not come in time"),
            }
        }
        let peer = peer_of(from);
        match (document.protocol, &serving.acceptor) {
            (Protocol::Http, None) => proxy.serve(stream, peer, serving.stop.clone()).await,
            (Protocol::Http, Some(acceptor)) => {
                proxy.serve_tls(stream, acceptor, peer, serving.stop.clone()).await;
            }
            (Protocol::Tcp, None) => proxy.serve_tcp(stream, peer).await,
            (Protocol::Tcp, Some(acceptor)) => match timeout(patience, Box::pin(acceptor.accept(stream))).await {
                Ok(Ok(stream)) => {
                    let server_name = stream.get_ref().1.server_name().map(Arc::from);
                    let peer = Peer { tls: Some(PeerTls { server_name }), ..peer };
                    proxy.serve_tcp(Io::TlsIn(Box::new(stream)), peer).await;
                }
                Ok(Err(_)) => refuse(from, "the TLS handshake failed"),
                Err(_) => refuse(from, "the TLS handshake took too long"),
            },
            (Protocol::Tls, _) => match timeout(patience, Box::pin(read_hello(&mut stream))).await {
                Ok(Ok((begun, server_name))) => {
                    let peer = Peer { tls: Some(PeerTls { server_name: server_name.map(Arc::from) }), ..peer };
                    proxy.serve_tcp_begun(stream, begun, peer).await;
                }
                Ok(Err(why)) => refuse(from, why),
                Err(_) => refuse(from, "the ClientHello did not come in time"),
            },
        }
    };
    // The wait is looked at first and when something has changed only: this runs with every wake of the connection.
    let (mut served, mut drained, mut first) = (pin!(served), pin!(drained), true);
    let (mut late, gateway) = (Late::default(), &proxy.decider().front.gateway);
    poll_fn(|cx| {
        if let Some((waited, now)) = late.waited() {
            gateway.waited(waited, now);
        }
        if late.poll(cx, |cx| served.as_mut().poll(cx)).is_ready() {
            return Poll::Ready(());
        }
        if std::mem::take(&mut first) || !matches!(stopping.has_changed(), Ok(false)) {
            return drained.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await;
}

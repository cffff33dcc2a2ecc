//! Listeners come, change and go while the node runs.
//!
//! A listener that goes accepts nothing more; its connections end with the answers that are under way, and after its
//! `drain_timeout` in any case. One that only changes keeps its socket: no connection is refused meanwhile.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use ::gateway::model::{Listener, Protocol};
use proxy::{Certificate, Certificates, Peer, Proxy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::decide::Decider;
use super::{Front, OWN_LISTENER};
use crate::clock;

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
    /// When their files were written.
    ages: Vec<SystemTime>,
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

    fn start(&mut self, name: &str, document: &Arc<Listener>) -> Result<(), String> {
        let bind = document.bind;
        if !bind.ip().is_loopback() && !document.terminates_tls() && !self.front.config.insecure_bind {
            return Err(format!(
                "{bind} is not on loopback and the listener has no certificate: give it one, or allow this with insecure_bind = true"
            ));
        }
        if document.protocol == Protocol::Tls {
            return Err(
                "protocol = \"tls\" (passing TLS through unopened) is not there yet; \"http\" and \"tcp\" are".into()
            );
        }
        if document.proxy_protocol {
            return Err("proxy_protocol is not there yet; set it to false".into());
        }
        let certificates = match document.certificates.is_empty() {
            true => None,
            false => {
                let ages = ages(document);
                let read = read_certificates(document)?;
                Some(Shown { shown: Certificates::new(&read), ages, expires: expires(&read) })
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
            ..proxy::Limits::DEFAULT
        };
        let serving = Serving {
            proxy: Proxy::new(decider, limits),
            document: document.clone(),
            acceptor: certificates.as_ref().map(|certificates| certificates.shown.acceptor()),
            places: places.clone(),
            stop: stopping,
        };
        tokio::spawn(accept(socket.clone(), Arc::new(serving)));
        let running = Running { document: document.clone(), socket, stop, places, certificates };
        self.running.insert(name.to_owned(), running);
        Ok(())
    }

    /// Shows certificates anew whose files have changed, and tells people of those that are about to expire.
    pub fn reload_certificates(&mut self) {
        for (name, running) in &mut self.running {
            let Some(certificates) = &mut running.certificates else { continue };
            self.front.trouble(&format!("a certificate of listener {name}"), ending(certificates.expires));
            let now = ages(&running.document);
            if now == certificates.ages || base::is_planted(base::Bug::CertificatesReadOnce) {
                continue;
            }
            let about = format!("certificates of listener {name}");
            match read_certificates(&running.document) {
                Ok(read) => {
                    certificates.shown.replace(&read);
                    (certificates.ages, certificates.expires) = (now, expires(&read));
                    self.front.trouble(&about, None);
                }
                // Half written, perhaps: the old ones are shown until they can be read.
                Err(why) => self.front.trouble(&about, Some(why)),
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
    let read = |path: &str| std::fs::read(path).map_err(|error| format!("{path}: {error}"));
    let mut certificates = Vec::new();
    for (place, one) in document.certificates.iter().enumerate() {
        let (chain, key) = (read(&one.chain)?, read(&one.key)?);
        let names: Vec<&str> = one.hosts.iter().map(String::as_str).collect();
        let certificate = |names: &[&str]| {
            Certificate::from_pem(names, &chain, &key).map_err(|error| format!("{}: {error}", one.chain))
        };
        certificates.push(certificate(&names)?);
        // The first one also answers clients that name nothing known.
        if place == 0 && !names.is_empty() {
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

/// When the files were last written.
fn ages(document: &Listener) -> Vec<SystemTime> {
    let files = document.certificates.iter().flat_map(|one| [&one.chain, &one.key]);
    files.filter_map(|file| std::fs::metadata(file).and_then(|meta| meta.modified()).ok()).collect()
}

struct Serving {
    proxy: Arc<Proxy<Decider>>,
    document: Arc<Listener>,
    acceptor: Option<tokio_rustls::TlsAcceptor>,
    places: Places,
    stop: watch::Receiver<bool>,
}

async fn accept(socket: Arc<TcpListener>, serving: Arc<Serving>) {
    let mut stop = serving.stop.clone();
    loop {
        // Beyond the limit connections wait in the system's queue.
        let place = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            place = serving.places.free.clone().acquire_owned() => place,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => {
                let serving = serving.clone();
                tokio::spawn(async move {
                    converse(stream, from, &serving).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, mostly: connections that are open go on, and their end makes room.
                eprintln!("quorate: gateway: a connection could not be accepted: {error}");
                if base::is_planted(base::Bug::FilesOutForGood) {
                    return;
                }
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, from: SocketAddr, serving: &Arc<Serving>) {
    let _ = stream.set_nodelay(true);
    let local = stream.local_addr().unwrap_or(serving.document.bind);
    let ip: IpAddr = from.ip().to_canonical();
    let trusted = serving.document.trusted_proxies.iter().any(|network| network.contains(ip));
    let peer = Peer { addr: from, local, tls: None, trusted, listener: 0 };
    let (mut stop, stopping) = (serving.stop.clone(), serving.stop.clone());
    let drained = async {
        let _ = stop.wait_for(|stop| *stop).await;
        if !base::is_planted(base::Bug::DrainNotWaited) {
            tokio::time::sleep(serving.document.drain_timeout.0).await;
        }
    };
    let proxy = &serving.proxy;
    let served = async {
        match (serving.document.protocol, &serving.acceptor) {
            (Protocol::Http, None) => proxy.serve(stream, peer, serving.stop.clone()).await,
            (Protocol::Http, Some(acceptor)) => {
                proxy.serve_tls(stream, acceptor, peer, serving.stop.clone()).await;
            }
            (Protocol::Tcp | Protocol::Tls, _) => proxy.serve_tcp(stream, peer).await,
        }
    };
    // The wait is looked at first and when something has changed only: this runs with every wake of the connection.
    let (mut served, mut drained, mut first) = (pin!(served), pin!(drained), true);
    poll_fn(|cx| {
        if served.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if std::mem::take(&mut first) || !matches!(stopping.has_changed(), Ok(false)) {
            return drained.as_mut().poll(cx);
        }
        Poll::Pending
    })
    .await;
}

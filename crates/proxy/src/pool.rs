//! One address that serves an upstream's requests, with the connections to it.
//!
//! Whoever decides keeps an [`Endpoint`] beside what it knows of the address and hands it over with each plan: no table is searched for a
//! request. Connections of HTTP/1.1 serve one request at a time and wait here between two, the one used last goes first; connections of HTTP/2 are
//! shared. A connection that waits is not looked after by a task: it is checked when it is taken, and by a sweep once a second that runs only
//! while any wait.

use crate::head::is_authority;
use crate::io::Io;
use crate::tls::UpstreamTls;
use base::Duration;
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// How an upstream is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113 §3.3). What gRPC needs.
    Http2,
}

/// How an endpoint is connected to.
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// Where it listens.
    pub addr: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
    /// Its own Host, for plans that want it ([`crate::Plan::endpoint_host`]); one that is none is replaced by the address.
    pub host: Box<str>,
    /// Set where it is spoken to over TLS.
    pub tls: Option<Arc<UpstreamTls>>,
    /// Until a connection stands, TLS and HTTP/2's preface included. 2 s.
    pub connect_timeout: Duration,
    /// Most connections, used and idle; beyond it [`crate::FailureKind::Full`]. 1024.
    pub connections_max: usize,
    /// Most idle connections. 128.
    pub idle_max: usize,
    /// How long a connection may be idle; a server that says less (`Keep-Alive: timeout=`) is believed. 50 s.
    pub idle_timeout: Duration,
    /// Largest head of an answer, bytes; beyond it it is malformed. 64 KiB.
    pub head_bytes_max: usize,
}

impl EndpointConfig {
    /// Plain HTTP/1.1 with the documented defaults.
    pub fn new(addr: SocketAddr) -> EndpointConfig {
        EndpointConfig {
            addr,
            protocol: Protocol::Http1,
            host: addr.to_string().into(),
            tls: None,
            connect_timeout: Duration::from_secs(2),
            connections_max: 1024,
            idle_max: 128,
            idle_timeout: Duration::from_secs(50),
            head_bytes_max: 64 << 10,
        }
    }
}

/// See the module.
pub struct Endpoint {
    config: EndpointConfig,
    idle: Mutex<Vec<Idle>>,
    shared: Mutex<Vec<Shared>>,
    /// Only one request at a time opens a connection of HTTP/2: the others will share it.
    opening: tokio::sync::Mutex<()>,
    open: Arc<AtomicUsize>,
    /// Connections of an earlier one are not kept.
    generation: AtomicU64,
}

struct Idle {
    connection: Connection,
    until: Instant,
}

struct Shared {
    id: u64,
    send: h2::client::SendRequest<Bytes>,
    streams: Arc<AtomicUsize>,
}

impl Shared {
    fn lease(&self) -> Shares {
        self.streams.fetch_add(1, Ordering::Relaxed);
        Shares { send: self.send.clone(), id: self.id, _counted: Counted(self.streams.clone()) }
    }
}

/// The right to one stream of a shared connection.
pub(crate) struct Shares {
    pub send: h2::client::SendRequest<Bytes>,
    pub id: u64,
    _counted: Counted,
}

/// An open connection.
pub(crate) struct Connection {
    pub io: Io,
    pub lease: Lease,
}

/// Counts a connection until it is dropped.
pub(crate) struct Lease {
    generation: u64,
    _counted: Counted,
}

struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Endpoint({}, {} open)", self.config.addr, self.open())
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum NoConnection {
    Full,
    Failed,
}

impl From<io::Error> for NoConnection {
    fn from(error: io::Error) -> NoConnection {
        if is_our_own(&error) { NoConnection::Full } else { NoConnection::Failed }
    }
}

/// Whether a connection failed for want of something of ours, a file descriptor or a local port: the endpoint is not to blame.
pub fn is_our_own(error: &io::Error) -> bool {
    // EMFILE, ENFILE, EADDRNOTAVAIL; the same numbers on every architecture of Linux that we build for.
    matches!(error.raw_os_error(), Some(23 | 24 | 99))
}

impl Endpoint {
    /// An endpoint without connections.
    pub fn new(mut config: EndpointConfig) -> Arc<Endpoint> {
        if config.host.is_empty() || !is_authority(config.host.as_bytes()) {
            config.host = config.addr.to_string().into();
        }
        Arc::new(Endpoint {
            config,
            idle: Mutex::default(),
            shared: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            open: Arc::default(),
            generation: AtomicU64::new(0),
        })
    }

    /// How it is connected to.
    pub fn config(&self) -> &EndpointConfig {
        &self.config
    }

    /// Connections open now, used and idle.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Idle connections.
    pub fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    /// Closes what is idle, and what is in use when its request ends: the endpoint was ejected, drained or taken out. It stays usable.
    pub fn close_connections(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
        let idle = std::mem::take(&mut *self.idle.lock());
        let shared = std::mem::take(&mut *self.shared.lock());
        drop((idle, shared));
    }

    /// An idle connection that looks good.
    pub(crate) fn take_idle(&self) -> Option<Connection> {
        loop {
            let mut idle = self.idle.lock().pop()?;
            if idle.connection.io.is_quiet() {
                return Some(idle.connection);
            }
        }
    }

    /// Opens a connection.
    pub(crate) async fn connect(&self) -> Result<Connection, NoConnection> {
        self.connect_for(Some(self.config.protocol)).await
    }

    /// Opens a connection for a TCP stream: whatever is spoken inside, it is not ours to choose.
    pub(crate) async fn connect_stream(&self) -> Result<Connection, NoConnection> {
        self.connect_for(None).await
    }

    async fn connect_for(&self, protocol: Option<Protocol>) -> Result<Connection, NoConnection> {
        let counted = Counted(self.open.clone());
        if counted.0.fetch_add(1, Ordering::Relaxed) >= self.config.connections_max {
            return Err(NoConnection::Full);
        }
        let generation = self.generation.load(Ordering::Relaxed);
        let io = timeout(self.config.connect_timeout, self.dial_for(protocol))
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Connection { io, lease: Lease { generation, _counted: counted } })
    }

    /// A connection that nobody counts, TLS included.
    pub(crate) async fn dial(&self) -> io::Result<Io> {
        self.dial_for(Some(self.config.protocol)).await
    }

    async fn dial_for(&self, protocol: Option<Protocol>) -> io::Result<Io> {
        let stream = TcpStream::connect(self.config.addr).await?;
        stream.set_nodelay(true)?;
        match &self.config.tls {
            None => Ok(Io::Tcp(stream)),
            Some(tls) => tls.connect(stream, protocol).await,
        }
    }

    /// Keeps a connection whose exchange ended well. `promised` is how long its server said it would.
    pub(crate) fn keep(self: &Arc<Self>, connection: Connection, promised: Option<Duration>) {
        if connection.lease.generation != self.generation.load(Ordering::Relaxed) {
            return;
        }
        // A second before the server's own end: a request must not meet it on the way.
        let promised = promised.map_or(self.config.idle_timeout, |it| it.saturating_sub(Duration::from_secs(1)));
        let until = Instant::now() + promised.min(self.config.idle_timeout);
        let mut idle = self.idle.lock();
        if idle.len() >= self.config.idle_max {
            return;
        }
        idle.push(Idle { connection, until });
        if idle.len() == 1 {
            drop(idle);
            self.sweep_while_idle();
        }
    }

    /// Once a second drops what waited too long or was closed by its server, until nothing waits.
    fn sweep_while_idle(self: &Arc<Self>) {
        let endpoint = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let Some(endpoint) = endpoint.upgrade() else { return };
                let now = Instant::now();
                let mut idle = endpoint.idle.lock();
                idle.retain_mut(|it| it.until > now && it.connection.io.is_quiet());
                if idle.is_empty() {
                    return;
                }
            }
        });
    }

    /// A connection of HTTP/2 with room for a stream.
    pub(crate) async fn share(self: &Arc<Self>) -> Result<Shares, NoConnection> {
        if let Some(send) = self.with_room() {
            return Ok(send);
        }
        let _one = self.opening.lock().await;
        if let Some(send) = self.with_room() {
            return Ok(send);
        }
        let Connection { io, lease } = self.connect().await?;
        let mut builder = h2::client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .max_header_list_size(self.config.head_bytes_max as u32)
            .max_send_buffer_size(256 << 10);
        let shake = timeout(self.config.connect_timeout, builder.handshake::<_, Bytes>(io)).await;
        let (send, connection) =
            shake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map_err(io::Error::other)?;
        static IDS: AtomicU64 = AtomicU64::new(0);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let shared = Shared { id, send, streams: Arc::default() };
        let shares = shared.lease();
        if lease.generation == self.generation.load(Ordering::Relaxed) {
            self.shared.lock().push(shared);
        }
        let endpoint = Arc::downgrade(self);
        tokio::spawn(async move {
            let _lease = lease;
            // How it ended is told to each of its streams.
            let _ = connection.await;
            if let Some(endpoint) = endpoint.upgrade() {
                endpoint.shared.lock().retain(|it| it.id != id);
            }
        });
        Ok(shares)
    }

    fn with_room(&self) -> Option<Shares> {
        let shared = self.shared.lock();
        shared
            .iter()
            .find(|it| it.streams.load(Ordering::Relaxed) < it.send.current_max_send_streams())
            .map(Shared::lease)
    }

    /// New streams go over another connection: this one said GOAWAY.
    pub(crate) fn forget(&self, id: u64) {
        self.shared.lock().retain(|it| it.id != id);
    }
}

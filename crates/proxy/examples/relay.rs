//! The engine with the smallest plan there is: every request goes to the next of the upstreams.
//!
//! `relay [--tcp] [--h2] [--threads N] LISTEN UPSTREAM…`, such as `relay 127.0.0.1:8080 127.0.0.1:9001 127.0.0.1:9002`. `--h2`: the upstreams
//! speak HTTP/2.

use proxy::{Action, Decide, Endpoint, EndpointConfig, Limits, Peer, Plan, Protocol, Proxy, RequestHead, Rules};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct RoundRobin {
    endpoints: Vec<Arc<Endpoint>>,
    next: AtomicUsize,
    rules: Arc<Rules>,
}

impl RoundRobin {
    fn plan(&self) -> Plan {
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len();
        Plan::new(self.rules.clone(), self.endpoints[next].clone())
    }
}

impl Decide for RoundRobin {
    type Ticket = ();

    fn on_request(&self, _: &RequestHead, _: &Peer) -> Action<()> {
        Action::Forward(self.plan(), ())
    }

    fn on_connection(&self, _: &Peer) -> Action<()> {
        Action::Forward(self.plan(), ())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    let mut flag = |name: &str| words.iter().position(|it| it == name).map(|at| words.remove(at)).is_some();
    let (tcp, h2) = (flag("--tcp"), flag("--h2"));
    let threads = match words.iter().position(|it| it == "--threads") {
        Some(at) => words.drain(at..at + 2).nth(1).ok_or("how many threads?")?.parse()?,
        None => 1,
    };
    let mut addresses = words.iter().map(|it| it.parse::<SocketAddr>());
    let listen = addresses.next().ok_or("relay LISTEN UPSTREAM…")??;
    let protocol = if h2 { Protocol::Http2 } else { Protocol::Http1 };
    let endpoints: Vec<_> = addresses
        .map(|addr| addr.map(|addr| Endpoint::new(EndpointConfig { protocol, ..EndpointConfig::new(addr) })))
        .collect::<Result<_, _>>()?;
    let rules = Arc::new(Rules { websocket: true, ..Rules::default() });
    let proxy = Proxy::new(RoundRobin { endpoints, next: AtomicUsize::new(0), rules }, Limits::default());
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if threads == 1 {
        builder = tokio::runtime::Builder::new_current_thread();
    }
    let runtime = builder.worker_threads(threads).enable_all().build()?;
    runtime.block_on(async move {
        let listener = tokio::net::TcpListener::bind(listen).await?;
        let (_drain, shutdown) = tokio::sync::watch::channel(false);
        loop {
            let (stream, addr) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (proxy, shutdown) = (proxy.clone(), shutdown.clone());
            tokio::spawn(async move {
                let peer = Peer::plain(addr, listen);
                if tcp { proxy.serve_tcp(stream, peer).await } else { proxy.serve(stream, peer, shutdown).await }
            });
        }
    })
}

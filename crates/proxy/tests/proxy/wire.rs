//! Both ends of the wire for tests: clients over pipes in memory, upstreams over loopback, and a decider that follows a script.

use parking_lot::Mutex;
use proxy::{
    Action, Again, AnswerHead, Attempt, Decide, End, Endpoint, EndpointConfig, FailureKind, Limits, OnAnswer,
    OnFailure, Peer, Plan, Protocol, Proxy, Reply, RequestHead, Rules,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::timeout;

pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a test does to a plan.
pub type Edit = Box<dyn Fn(&RequestHead, &mut Plan) + Send + Sync>;

/// Sends every request to the endpoints in turn, tries again as often as told, and remembers what it heard.
pub struct Script {
    pub endpoints: Vec<Arc<Endpoint>>,
    pub rules: Arc<Rules>,
    pub retries: u32,
    pub retry_status: Option<u16>,
    pub edit: Edit,
    pub next: AtomicUsize,
    pub heard: Mutex<Vec<String>>,
    /// So many endpoints are taken out while a connection to them is being made.
    pub moves: AtomicUsize,
}

impl Script {
    fn turn(&self) -> Arc<Endpoint> {
        self.endpoints[self.next.fetch_add(1, Ordering::Relaxed) % self.endpoints.len()].clone()
    }

    fn again(&self) -> Again {
        Again { to: self.turn(), pause: Duration::ZERO }
    }
}

impl Decide for Script {
    type Ticket = ();

    fn on_request(&self, request: &RequestHead, _: &Peer) -> Action<()> {
        if request.path() == "/own" {
            return Action::Respond(Reply::text(200, "ours"), None);
        }
        let mut plan = Plan::new(self.rules.clone(), self.turn());
        (self.edit)(request, &mut plan);
        Action::Forward(plan, ())
    }

    fn on_answer(&self, (): &mut (), answer: &AnswerHead, attempt: &Attempt) -> OnAnswer {
        if self.retry_status == Some(answer.status()) && attempt.number < self.retries {
            self.heard.lock().push(format!("answer {}", answer.status()));
            return OnAnswer::Retry(self.again());
        }
        OnAnswer::Pass(vec![])
    }

    fn on_failure(&self, (): &mut (), kind: FailureKind, attempt: &Attempt) -> OnFailure {
        self.heard.lock().push(format!("{kind:?}"));
        if attempt.number < self.retries { OnFailure::Retry(self.again()) } else { OnFailure::GiveUp(None) }
    }

    fn on_resume(&self, (): &mut (), to: Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        let moves = |left: usize| left.checked_sub(1);
        let moved = self.moves.fetch_update(Ordering::Relaxed, Ordering::Relaxed, moves).is_ok();
        Some(if moved { self.turn() } else { to })
    }

    fn on_end(&self, _: Option<()>, _: &RequestHead, _: &Peer, end: &End) {
        self.heard.lock().push(format!("{:?} {} in {} out {}", end.ending, end.status, end.bytes_in, end.bytes_out));
    }

    fn on_refused(&self, _: &Peer, status: u16, _: &'static str) {
        self.heard.lock().push(format!("refused {status}"));
    }

    fn on_connection(&self, _: &Peer) -> Action<()> {
        Action::Forward(Plan::new(self.rules.clone(), self.turn()), ())
    }

    fn on_stream_end(&self, (): (), _: &Peer, end: &End) {
        self.heard.lock().push(format!("stream {:?} in {} out {}", end.ending, end.bytes_in, end.bytes_out));
    }
}

/// A proxy before one or more upstreams that tests play themselves.
pub struct Stage {
    pub upstreams: Vec<TcpListener>,
    pub proxy: Arc<Proxy<Script>>,
    pub drain: watch::Sender<bool>,
}

/// How a stage is set.
pub struct Setting {
    pub upstreams: usize,
    pub protocol: Protocol,
    pub rules: Rules,
    pub limits: Limits,
    pub retries: u32,
    pub retry_status: Option<u16>,
    pub edit: Edit,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            upstreams: 1,
            protocol: Protocol::Http1,
            rules: Rules { forwarded: proxy::Forwarded::Off, ..Rules::default() },
            limits: Limits::default(),
            retries: 0,
            retry_status: None,
            edit: Box::new(|_, _| {}),
        }
    }
}

pub fn peer() -> Peer {
    Peer::plain("192.0.2.7:4711".parse().expect("an address"), "127.0.0.1:80".parse().expect("an address"))
}

impl Stage {
    pub async fn new() -> Stage {
        Stage::set(Setting::default()).await
    }

    pub async fn set(setting: Setting) -> Stage {
        let mut upstreams = Vec::new();
        for _ in 0..setting.upstreams {
            upstreams.push(TcpListener::bind("127.0.0.1:0").await.expect("loopback"));
        }
        let endpoint = |it: &TcpListener| {
            let config = EndpointConfig::new(it.local_addr().expect("bound"));
            Endpoint::new(EndpointConfig { protocol: setting.protocol, ..config })
        };
        let script = Script {
            endpoints: upstreams.iter().map(endpoint).collect(),
            rules: Arc::new(setting.rules),
            retries: setting.retries,
            retry_status: setting.retry_status,
            edit: setting.edit,
            next: AtomicUsize::new(0),
            heard: Mutex::default(),
            moves: AtomicUsize::new(0),
        };
        Stage { upstreams, proxy: Proxy::new(script, setting.limits), drain: watch::channel(false).0 }
    }

    /// A client's connection.
    pub fn client(&self) -> Wire {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (proxy, shutdown) = (self.proxy.clone(), self.drain.subscribe());
        tokio::spawn(async move { proxy.serve(far, peer(), shutdown).await });
        Wire::new(near)
    }

    /// The next connection that an upstream gets.
    pub async fn upstream(&self) -> Wire {
        self.upstream_of(0).await
    }

    pub async fn upstream_of(&self, number: usize) -> Wire {
        let accepted = timeout(PATIENCE, self.upstreams[number].accept()).await.expect("a connection in time");
        Wire::new(accepted.expect("a connection").0)
    }

    /// Whether the upstream has no further connection.
    pub async fn upstream_is_left_alone(&self) -> bool {
        timeout(Duration::from_millis(30), self.upstreams[0].accept()).await.is_err()
    }

    pub fn heard(&self) -> Vec<String> {
        self.proxy.decider().heard.lock().clone()
    }
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// One end of a connection.
pub struct Wire {
    pub stream: Box<dyn Stream>,
    seen: Vec<u8>,
}

impl Wire {
    pub fn new(stream: impl Stream + 'static) -> Wire {
        Wire { stream: Box::new(stream), seen: Vec::new() }
    }

    pub async fn send(&mut self, text: impl AsRef<[u8]>) {
        timeout(PATIENCE, self.stream.write_all(text.as_ref())).await.expect("in time").expect("written");
    }

    /// Ends our half.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    async fn more(&mut self) -> usize {
        let mut bytes = [0; 4096];
        let read = timeout(PATIENCE, self.stream.read(&mut bytes)).await;
        let count = read
            .unwrap_or_else(|_| panic!("nothing more came behind {:?}", String::from_utf8_lossy(&self.seen)))
            .unwrap_or(0);
        self.seen.extend_from_slice(&bytes[..count]);
        count
    }

    /// All that comes, up to and with `end`.
    pub async fn until(&mut self, end: &str) -> String {
        loop {
            if let Some(at) = self.seen.windows(end.len()).position(|it| it == end.as_bytes()) {
                let text = self.seen.drain(..at + end.len()).collect();
                return String::from_utf8(text).expect("text");
            }
            assert!(self.more().await > 0, "it ended without {end:?} after {:?}", String::from_utf8_lossy(&self.seen));
        }
    }

    /// What came already and nobody asked for.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.seen)
    }

    /// A head.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// All that comes until the connection ends.
    pub async fn rest(&mut self) -> String {
        while self.more().await > 0 {}
        String::from_utf8_lossy(&std::mem::take(&mut self.seen)).into_owned()
    }
}

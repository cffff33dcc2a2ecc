//! The seam between what is decided and what is done: whoever owns routes, balancing and resilience implements [`Decide`]; the engine calls it
//! with a request's head and with what became of each attempt, and obeys the values it gets.
//!
//! ```text
//!  head ─► on_request ─► Respond ────────────────────────────────────────────────► on_end
//!                     └► Forward(Plan, ticket) ─► attempt ─┬─ head of an answer ─► on_answer ─► Pass ─► bytes ─► on_end
//!                     └► Wait(future of an Action)  ▲      │                          │ Retry
//!                                                   │      └─ no answer ─► on_failure ┤
//!                                                   └──────── pause ◄─────────────────┘ GiveUp ─► answer of ours ─► on_end
//! ```
//!
//! The *ticket* is the decider's own: what it must remember of a request (the permit of a bulkhead, the attempt that counts as in flight). It
//! is given back by [`Decide::on_end`] exactly once for each `Forward`, and dropped without it only when the whole task is: what must be undone
//! then belongs into its `Drop`.
//!
//! The engine retries nothing by itself but one thing: a request whose method is idempotent and that met a *kept* connection which its server
//! had closed meanwhile goes over another one of the same endpoint (RFC 9112 §9.3.1). It refuses a retry that is not possible any more: once a
//! byte of the answer left, or when the request's body is gone.

use crate::head::{AnswerHead, RequestHead};
use crate::pool::Endpoint;
use base::Duration;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

/// Who is at the other end of a client's connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The client's address.
    pub addr: SocketAddr,
    /// Ours, where it came in.
    pub local: SocketAddr,
    /// Set where the connection is encrypted.
    pub tls: Option<PeerTls>,
    /// Whether its `X-Forwarded-*` and `Forwarded` are believed and continued; they are replaced otherwise.
    pub trusted: bool,
    /// The listener's own number, for whoever decides.
    pub listener: u32,
}

impl Peer {
    /// A client of listener 0 over plain TCP that is not believed.
    pub fn plain(addr: SocketAddr, local: SocketAddr) -> Peer {
        Peer { addr, local, tls: None, trusted: false, listener: 0 }
    }
}

/// What TLS said about a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// The name it asked for (SNI), in small letters.
    pub server_name: Option<Arc<str>>,
}

/// What becomes of a request.
pub enum Action<T> {
    /// We answer. What is remembered of it, if anything, goes to [`Decide::on_end`].
    Respond(Reply, Option<T>),
    /// An upstream answers.
    Forward(Plan, T),
    /// Not decided yet (a bulkhead's queue): ask the future. Dropped when the client leaves.
    Wait(Pin<Box<dyn Future<Output = Action<T>> + Send>>),
}

/// An answer of our own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// Header fields beside Content-Length; names and values must be what RFC 9110 §5 allows, others are left out.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The body; not sent to HEAD, nor with 204 and 304.
    pub body: Box<[u8]>,
    /// Close the connection after it.
    pub close: bool,
}

impl Reply {
    /// A plain text of one line.
    pub fn text(status: u16, text: &str) -> Reply {
        let headers = vec![("content-type".into(), "text/plain; charset=utf-8".into())];
        Reply { status, headers, body: format!("{text}\n").into_bytes().into(), close: false }
    }
}

/// How a request is forwarded.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What all requests of a route share.
    pub rules: Arc<Rules>,
    /// Where the first attempt goes.
    pub to: Arc<Endpoint>,
    /// The target for the upstream (`/path?query`); absent: as the client sent it. One with characters that RFC 9112 §3.2 does not allow is
    /// answered with 500.
    pub target: Option<String>,
    /// The Host for the upstream; absent: the client's.
    pub host: Option<String>,
    /// The Host is that of the endpoint that is asked ([`crate::EndpointConfig::host`]), another one's after a retry; `host` does not count then.
    pub endpoint_host: bool,
    /// Header fields put in place of those of the same name, for this request alone (`traceparent`).
    pub headers: Vec<(&'static str, String)>,
    /// The client's own deadline, where it is believed: shortens [`Timeouts::request`].
    pub deadline: Option<Duration>,
}

impl Plan {
    /// Forwards everything as it is.
    pub fn new(rules: Arc<Rules>, to: Arc<Endpoint>) -> Plan {
        Plan { rules, to, target: None, host: None, endpoint_host: false, headers: Vec::new(), deadline: None }
    }
}

/// What all requests of a route share.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// How long each step may take.
    pub timeouts: Timeouts,
    /// Bytes of a request's body; beyond it 413. Zero: no limit.
    pub body_bytes_max: u64,
    /// How much of a request's body is kept for another attempt. Zero: requests with a body are tried once.
    pub replay_bytes_max: usize,
    /// Edits of what the upstream gets.
    pub request_headers: HeaderEdits,
    /// Edits of what the client gets.
    pub answer_headers: HeaderEdits,
    /// Which headers tell the upstream about the client.
    pub forwarded: Forwarded,
    /// Whether `Upgrade: websocket` is passed on. Other upgrades never are (an `h2c` upgrade would be a tunnel past every rule).
    pub websocket: bool,
    /// Bytes of a request's body that must come in a second, on the mean of every [`BODY_GRACE`], until the answer begins; less is 408. Not of gRPC,
    /// whose streams may be silent. Zero: any.
    pub body_bytes_per_second_min: u64,
    /// Whether the upstream is told how long it has (`grpc-timeout` of gRPC, `x-request-timeout-ms` else).
    pub pass_deadline: bool,
}

/// Over so long a request's body must have come at [`Rules::body_bytes_per_second_min`].
pub const BODY_GRACE: Duration = Duration::from_secs(5);

/// How long each step may take. Zero turns one off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's last byte to the answer's head, for one attempt.
    pub answer: Duration,
    /// Between two bytes of a body, in either direction.
    pub idle: Duration,
    /// The same of a WebSocket, a TCP stream, and an answer of gRPC or of server-sent events.
    pub stream_idle: Duration,
    /// The whole request with its retries, until the answer's head: the deadline that is passed upstream. Bodies may take longer, as long as
    /// they move.
    pub request: Duration,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        let seconds = Duration::from_secs;
        Timeouts { answer: seconds(30), idle: seconds(60), stream_idle: seconds(3600), request: seconds(60) }
    }
}

/// Edits of headers, in this order: remove, set, add. Names are compared without regard to case. Framing and connection fields
/// (RFC 9110 §7.6.1) cannot be edited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// Taken out.
    pub remove: Vec<Box<str>>,
    /// Put in place of what is there.
    pub set: Vec<(Box<str>, Box<str>)>,
    /// Put in beside what is there.
    pub add: Vec<(Box<str>, Box<str>)>,
}

/// Which headers tell the upstream about the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    #[default]
    X,
    /// `Forwarded` (RFC 7239).
    Rfc7239,
    /// Both.
    Both,
    /// None, and those of the client are taken out.
    Off,
}

/// How far an attempt came, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// The first is 0.
    pub number: u32,
    /// From its start until now, waiting for a connection included.
    pub took: Duration,
    /// Whether a byte of the request may have reached the upstream.
    pub sent: bool,
    /// Whether another attempt is possible: nothing was answered and the whole request is still at hand.
    pub replayable: bool,
}

/// Why an attempt had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// No connection: refused, unreachable, TLS failed, or [`crate::EndpointConfig::connect_timeout`] passed.
    Connect,
    /// The endpoint has as many connections as it may.
    Full,
    /// The connection ended or broke before the answer's head.
    Reset,
    /// [`Timeouts::answer`] passed.
    AnswerTimeout,
    /// The request's deadline passed.
    Deadline,
    /// What came is no answer.
    Malformed,
}

impl FailureKind {
    /// The status that a client gets where nobody says otherwise: 502, 503 or 504.
    pub fn status(self) -> u16 {
        match self {
            FailureKind::AnswerTimeout | FailureKind::Deadline => 504,
            FailureKind::Full => 503,
            FailureKind::Connect | FailureKind::Reset | FailureKind::Malformed => 502,
        }
    }
}

/// What follows an answer's head.
pub enum OnAnswer {
    /// It goes to the client, with these header fields added (a sticky cookie).
    Pass(Vec<(Box<str>, Box<str>)>),
    /// It is thrown away for another attempt; if that is not possible any more it goes to the client.
    Retry(Again),
    /// It is thrown away and the client gets this.
    Replace(Reply),
}

/// What follows a failure.
pub enum OnFailure {
    /// Another attempt; if that is not possible the client gets [`FailureKind::status`].
    Retry(Again),
    /// The client gets this, or [`FailureKind::status`].
    GiveUp(Option<Reply>),
}

/// Another attempt.
#[derive(Clone, Debug)]
pub struct Again {
    /// Where it goes.
    pub to: Arc<Endpoint>,
    /// What is waited before.
    pub pause: Duration,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The answer is with the client, whole.
    Complete,
    /// The client went away, or did not read or send in time.
    Client,
    /// The upstream broke off in the middle of its answer, which the client sees as broken too.
    Upstream,
}

/// What the access log may say about a request. `status` is zero where nothing was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// How it ended.
    pub ending: Ending,
    /// The status that the client got; of an answer of ours to gRPC the one that its `grpc-status` stands for.
    pub status: u16,
    /// Attempts made.
    pub attempts: u32,
    /// Bytes of the request's body.
    pub bytes_in: u64,
    /// Bytes of the answer's body.
    pub bytes_out: u64,
    /// From the request's head to the answer's head.
    pub until_answer: Duration,
    /// From the request's head to the end.
    pub took: Duration,
}

/// Who decides. Called on the threads that move bytes: must not block.
pub trait Decide: Send + Sync + 'static {
    /// What is remembered of a request; see the module.
    type Ticket: Send + 'static;

    /// A well-formed head came. The body has not been read.
    fn on_request(&self, request: &RequestHead, peer: &Peer) -> Action<Self::Ticket>;

    /// An upstream began to answer. Not called for 1xx.
    fn on_answer(&self, ticket: &mut Self::Ticket, answer: &AnswerHead, attempt: &Attempt) -> OnAnswer {
        let _ = (ticket, answer, attempt);
        OnAnswer::Pass(Vec::new())
    }

    /// An attempt had no answer.
    fn on_failure(&self, ticket: &mut Self::Ticket, failure: FailureKind, attempt: &Attempt) -> OnFailure {
        let _ = (ticket, failure, attempt);
        OnFailure::GiveUp(None)
    }

    /// The pause before another attempt is over, or a new connection stands, and nothing has been sent: where it goes now, since who decided may have
    /// taken that endpoint out meanwhile. Nothing: the client gets 503.
    fn on_resume(&self, ticket: &mut Self::Ticket, to: Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        let _ = ticket;
        Some(to)
    }

    /// It is over. `ticket` is that of the request, or what its [`Action::Respond`] had.
    fn on_end(&self, ticket: Option<Self::Ticket>, request: &RequestHead, peer: &Peer, end: &End) {
        let _ = (ticket, request, peer, end);
    }

    /// Something came that is no request, and was answered with this status (0: only closed).
    fn on_refused(&self, peer: &Peer, status: u16, why: &'static str) {
        let _ = (peer, status, why);
    }

    /// A connection came to a TCP listener. `Respond` closes it.
    fn on_connection(&self, peer: &Peer) -> Action<Self::Ticket> {
        let _ = peer;
        Action::Respond(Reply::text(502, "no route"), None)
    }

    /// A TCP stream is over. `bytes_in` came from the client, `bytes_out` went to it.
    fn on_stream_end(&self, ticket: Self::Ticket, peer: &Peer, end: &End) {
        let _ = (ticket, peer, end);
    }
}

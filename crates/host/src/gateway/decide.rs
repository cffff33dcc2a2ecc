//! The thin joint between what decides ([`gateway::live`]) and what moves bytes ([`proxy`]): heads and values go over, nothing is
//! decided here.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ::gateway::live::{Answer, Decision, Ended, Flight, Next, Queued, Resumed};
use ::gateway::log::{Entry, write_line};
use ::gateway::model::{self, AccessLog, ForwardedStyle, Listener};
use ::gateway::request::{Head, Peer};
use ::gateway::resilience::Failure;
use ::gateway::{Compiled, headers::TraceId};
use base::{Instant, Rng};
use proxy::{Action, Again, Attempt, Decide, End, Ending, FailureKind, OnAnswer, OnFailure, Reply, RequestHead};

use super::{Front, rules_of};
use crate::clock;

thread_local! {
    /// Draws for balancing and pauses: nothing that must not be guessed.
    static RNG: RefCell<Rng> = RefCell::new(Rng::new(clock::seed()));
}

fn with_rng<R>(run: impl FnOnce(&mut Rng) -> R) -> R {
    RNG.with_borrow_mut(run)
}

/// A head as the pure room sees it.
struct Asked<'a>(&'a RequestHead);

impl Head for Asked<'_> {
    fn method(&self) -> &str {
        self.0.method()
    }
    fn authority(&self) -> &str {
        self.0.authority()
    }
    fn path(&self) -> &str {
        self.0.path()
    }
    fn query(&self) -> Option<&str> {
        self.0.query()
    }
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.fields().iter()
    }
}

/// What all requests of a route share, in the engine's words; one for each style of forwarding headers.
pub struct RouteRules {
    pub compiled: Arc<Compiled>,
    x: Arc<proxy::Rules>,
    rfc7239: Arc<proxy::Rules>,
    both: Arc<proxy::Rules>,
}

impl RouteRules {
    /// The rules of a route.
    pub fn of(compiled: &Arc<Compiled>) -> RouteRules {
        let make = |forwarded| Arc::new(rules(&compiled.document, forwarded));
        RouteRules {
            compiled: compiled.clone(),
            x: make(proxy::Forwarded::X),
            rfc7239: make(proxy::Forwarded::Rfc7239),
            both: make(proxy::Forwarded::Both),
        }
    }

    fn styled(&self, style: ForwardedStyle) -> Arc<proxy::Rules> {
        match style {
            ForwardedStyle::X => self.x.clone(),
            ForwardedStyle::Rfc7239 => self.rfc7239.clone(),
            ForwardedStyle::Both => self.both.clone(),
        }
    }
}

fn rules(route: &model::Route, forwarded: proxy::Forwarded) -> proxy::Rules {
    proxy::Rules {
        timeouts: proxy::Timeouts {
            answer: route.timeouts.first_byte.0,
            idle: route.timeouts.idle.0,
            stream_idle: route.timeouts.stream_idle.0,
            request: route.timeouts.total.0,
        },
        body_bytes_max: route.limits.body_bytes_max.0,
        body_bytes_per_second_min: route.limits.body_min_bytes_per_second,
        replay_bytes_max: if route.retry.attempts == 0 { 0 } else { route.retry.body_bytes_max.0 as usize },
        request_headers: edits(&route.request_headers),
        answer_headers: edits(&route.response_headers),
        forwarded,
        websocket: true,
        pass_deadline: true,
    }
}

fn edits(edits: &model::HeaderEdits) -> proxy::HeaderEdits {
    let pairs = |from: &std::collections::BTreeMap<String, String>| {
        from.iter().map(|(name, value)| (name.as_str().into(), value.as_str().into())).collect()
    };
    proxy::HeaderEdits {
        remove: edits.remove.iter().map(|name| name.as_str().into()).collect(),
        set: pairs(&edits.set),
        add: pairs(&edits.add),
    }
}

/// What is remembered of a request.
pub enum Ticket {
    /// It is under way.
    Flight(Box<Flight<proxy::Endpoint>>),
    /// We answered it by ourselves.
    Own {
        /// For this route, if any.
        route: Option<Arc<str>>,
        /// Why; empty where it is what the route says.
        why: &'static str,
    },
}

impl Ticket {
    fn flight(&self) -> Option<&Flight<proxy::Endpoint>> {
        match self {
            Ticket::Flight(flight) => Some(flight),
            Ticket::Own { .. } => None,
        }
    }
}

/// Decides for one listener.
pub struct Decider {
    pub front: Arc<Front>,
    pub name: Arc<str>,
    pub listener: Arc<Listener>,
}

impl Clone for Decider {
    fn clone(&self) -> Decider {
        Decider { front: self.front.clone(), name: self.name.clone(), listener: self.listener.clone() }
    }
}

fn reply(answer: Answer) -> Reply {
    let headers = answer.headers.into_iter().map(|(name, value)| (name.into_boxed_str(), value.into_boxed_str()));
    Reply { status: answer.status, headers: headers.collect(), body: answer.body.as_bytes().into(), close: false }
}

impl Decider {
    /// An answer of ours, counted. A stream is only closed.
    fn respond(&self, answer: Answer, is_stream: bool) -> Action<Ticket> {
        self.front.gateway.answered(answer.route.as_deref(), if is_stream { 0 } else { answer.status });
        let ticket = Ticket::Own { route: answer.route.clone(), why: answer.why };
        Action::Respond(reply(answer), Some(ticket))
    }

    fn act(&self, decision: Decision<proxy::Endpoint>, is_stream: bool, now: Instant) -> Action<Ticket> {
        match decision {
            Decision::Answer(answer) => self.respond(answer, is_stream),
            Decision::Queue(queued) => Action::Wait(Box::pin(wait(self.clone(), queued, is_stream))),
            Decision::Forward(plan, flight) => {
                let rules = rules_of(&self.front, &flight.route.compiled).styled(self.listener.forwarded);
                let forward = proxy::Plan {
                    rules,
                    to: plan.to,
                    target: plan.target,
                    host: plan.host,
                    endpoint_host: plan.endpoint_host,
                    headers: plan.headers,
                    deadline: Some(plan.deadline.since(now)),
                };
                Action::Forward(forward, Ticket::Flight(flight))
            }
        }
    }

    fn next(&self, next: Next<proxy::Endpoint>) -> Result<Option<String>, Again> {
        match next {
            Next::Pass(cookie) => Ok(cookie),
            Next::Retry { to, pause, .. } => Err(Again { to, pause }),
        }
    }

    fn log(&self, end: &End, ticket: Option<&Ticket>, head: &impl Head, version: &str, peer: &proxy::Peer) {
        let access = &self.front.access;
        if !access.is_on() || self.listener.access_log == AccessLog::Off {
            return;
        }
        let flight = ticket.and_then(Ticket::flight);
        let (route, own, logged) = match ticket {
            Some(Ticket::Flight(flight)) => {
                let compiled = &flight.route.compiled;
                (&*compiled.name, "", compiled.document.access_log)
            }
            Some(Ticket::Own { route: Some(route), why }) => (&**route, *why, self.front.gateway.is_logged(route)),
            Some(Ticket::Own { route: None, why }) => ("", *why, true),
            None => ("", "", true),
        };
        if !logged {
            return;
        }
        let trace: Option<TraceId> = flight.map(|flight| flight.trace());
        let entry = Entry {
            at: clock::wall().saturating_sub(end.took.as_millis() as u64),
            listener: &self.name,
            route,
            upstream: flight.map_or("", |flight| flight.upstream()),
            endpoint: flight.map_or("", |flight| flight.endpoint()),
            client: flight.map_or(peer.addr.ip(), |flight| flight.client()),
            tls: peer.tls.is_some(),
            version,
            status: end.status,
            attempts: end.attempts,
            bytes_in: end.bytes_in,
            bytes_out: end.bytes_out,
            took: end.took,
            until_answer: end.until_answer,
            trace,
            why: match end.ending {
                Ending::Complete => own,
                Ending::Client => "the client went away",
                Ending::Upstream => "the upstream broke off",
            },
        };
        let mut line = String::with_capacity(512);
        write_line(self.listener.access_log, &entry, head, &mut line);
        line.push('\n');
        access.put(line);
    }
}

/// Waits for a place on a route, as long as one may.
async fn wait(decider: Decider, mut queued: Queued<proxy::Endpoint>, is_stream: bool) -> Action<Ticket> {
    let span = queued.until.since(clock::now());
    if tokio::time::timeout(span, Pin::new(&mut queued)).await.is_err() {
        return decider.respond(queued.refused(), is_stream);
    }
    // What has changed while it waited counts.
    decider.front.sync();
    let now = clock::now();
    let decision = with_rng(|rng| queued.go(&decider.front.gateway, now, rng));
    decider.act(decision, is_stream, now)
}

fn peer_of(peer: &proxy::Peer) -> Peer {
    Peer { address: peer.addr.ip().to_canonical(), tls: peer.tls.is_some() }
}

fn failure_of(kind: FailureKind) -> Failure {
    match kind {
        FailureKind::Connect => Failure::Connect,
        // Our own bound: nothing was sent, and the endpoint is not to blame.
        FailureKind::Full => Failure::Refused,
        FailureKind::Reset | FailureKind::Malformed => Failure::Reset,
        FailureKind::AnswerTimeout | FailureKind::Deadline => Failure::Timeout,
    }
}

fn seconds(value: &[u8]) -> Option<Duration> {
    std::str::from_utf8(value).ok()?.trim().parse().ok().map(Duration::from_secs)
}

impl Decide for Decider {
    type Ticket = Ticket;

    fn on_request(&self, request: &RequestHead, peer: &proxy::Peer) -> Action<Ticket> {
        self.front.sync();
        if request.path() == "/" && matches!(request.method(), "GET" | "HEAD") && self.front.is_new() {
            self.front.gateway.answered(None, 200);
            return Action::Respond(welcome(peer), None);
        }
        let now = clock::now();
        let gateway = &self.front.gateway;
        let decision = with_rng(|rng| gateway.decide(&self.name, &Asked(request), &peer_of(peer), now, rng));
        self.act(decision, false, now)
    }

    fn on_answer(&self, ticket: &mut Ticket, answer: &proxy::AnswerHead, attempt: &Attempt) -> OnAnswer {
        let Ticket::Flight(flight) = ticket else { return OnAnswer::Pass(Vec::new()) };
        let grpc = answer.fields().get("grpc-status");
        let grpc = grpc.and_then(|value| std::str::from_utf8(value).ok()?.parse().ok());
        let ended = Ended {
            failure: Failure::Status(answer.status()),
            sent: attempt.sent,
            replayable: attempt.replayable,
            retry_after: answer.fields().get("retry-after").and_then(seconds),
        };
        let gateway = &self.front.gateway;
        let now = clock::now();
        let next = with_rng(|rng| flight.answered(gateway, answer.status(), grpc, ended, now, rng));
        match self.next(next) {
            Ok(cookie) => {
                OnAnswer::Pass(cookie.map(|cookie| ("set-cookie".into(), cookie.into())).into_iter().collect())
            }
            Err(again) => OnAnswer::Retry(again),
        }
    }

    fn on_failure(&self, ticket: &mut Ticket, failure: FailureKind, attempt: &Attempt) -> OnFailure {
        let Ticket::Flight(flight) = ticket else { return OnFailure::GiveUp(None) };
        let ended = Ended {
            failure: failure_of(failure),
            sent: attempt.sent,
            replayable: attempt.replayable,
            retry_after: None,
        };
        let gateway = &self.front.gateway;
        let now = clock::now();
        let next = with_rng(|rng| flight.failed(gateway, ended, now, rng));
        match self.next(next) {
            Ok(_) => OnFailure::GiveUp(None),
            Err(again) => OnFailure::Retry(again),
        }
    }

    fn on_resume(&self, ticket: &mut Ticket, to: Arc<proxy::Endpoint>) -> Option<Arc<proxy::Endpoint>> {
        self.front.sync();
        let Ticket::Flight(flight) = ticket else { return Some(to) };
        match with_rng(|rng| flight.resume(clock::now(), rng)) {
            Resumed::There => Some(to),
            Resumed::Elsewhere { to, .. } => Some(to),
            Resumed::Nowhere => None,
        }
    }

    fn on_end(&self, ticket: Option<Ticket>, request: &RequestHead, peer: &proxy::Peer, end: &End) {
        let version = match request.version() {
            proxy::Version::Http10 => "HTTP/1.0",
            proxy::Version::Http11 => "HTTP/1.1",
            proxy::Version::Http2 => "HTTP/2",
        };
        self.log(end, ticket.as_ref(), &Asked(request), version, peer);
        if let Some(Ticket::Flight(mut flight)) = ticket {
            flight.over(end.status, clock::now());
        }
    }

    fn on_refused(&self, _: &proxy::Peer, status: u16, _: &'static str) {
        self.front.gateway.malformed(status);
    }

    fn on_connection(&self, peer: &proxy::Peer) -> Action<Ticket> {
        self.front.sync();
        let now = clock::now();
        let server_name = peer.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let gateway = &self.front.gateway;
        let decision = with_rng(|rng| gateway.decide_connection(&self.name, server_name, &peer_of(peer), now, rng));
        self.act(decision, true, now)
    }

    fn on_stream_end(&self, ticket: Ticket, peer: &proxy::Peer, end: &End) {
        // What it asked for by TLS, if it did, stands where a request's host does.
        let authority = peer.tls.as_ref().and_then(|tls| tls.server_name.as_deref()).unwrap_or("");
        let head = ::gateway::request::PlainHead { method: "CONNECT", authority, target: "/", fields: &[] };
        self.log(end, Some(&ticket), &head, "TCP", peer);
        // A stream that ended as it should counts as an answer of 200.
        let status = if end.ending == Ending::Upstream && end.bytes_out == 0 { 502 } else { 200 };
        if let Ticket::Flight(mut flight) = ticket {
            flight.over(status, clock::now());
        }
    }
}

/// What the front door says while it has no routes.
fn welcome(peer: &proxy::Peer) -> Reply {
    let page = include_str!("welcome.html").replace("{{address}}", &peer.local.to_string());
    let headers = [
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("content-security-policy", "default-src 'none'; style-src 'unsafe-inline'"),
        ("x-content-type-options", "nosniff"),
    ];
    let headers = headers.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Reply { status: 200, headers, body: page.into_bytes().into(), close: false }
}

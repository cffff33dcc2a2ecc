//! A route: which requests, and what becomes of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::matching::{ClientKey, HostPattern, LimitKey, MethodName, PathPattern, ValueMatch};
use super::text::{Rate, Size, Span};
use crate::resilience::Defaults;

/// An upstream and its share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The upstream's name.
    pub upstream: String,
    /// Its share of the requests, relative to the other targets'; 0 takes none. 100.
    #[serde(default = "hundred")]
    pub weight: u32,
}

fn hundred() -> u32 {
    100
}

/// Sends the client elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redirect {
    /// A URL or a path. May hold `{scheme}`, `{host}`, `{path}`, `{query}` (with its `?`), `{rest}` (what lies below a
    /// `/*`) and the parameters of the route's path.
    pub to: String,
    /// 301, 302, 303, 307 or 308. 308: method and body stay, browsers remember it.
    #[serde(default = "permanent")]
    pub status: u16,
}

fn permanent() -> u16 {
    308
}

/// Answers without an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// The body.
    #[serde(default)]
    pub body: String,
    /// Its Content-Type.
    #[serde(default = "plain")]
    pub content_type: String,
}

fn plain() -> String {
    "text/plain; charset=utf-8".into()
}

/// What the upstream is asked instead of what the client asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rewrite {
    /// The new path. May hold the parameters of the route's path, `{rest}` (what lies below a `/*`) and `{path}`.
    /// To take a prefix away: `path = "/api/*"` and `rewrite = { path = "/{rest}" }`.
    pub path: Option<String>,
    /// The new host: a name, or `"upstream"` for the endpoint's own address. Absent: the client's.
    pub host: Option<String>,
}

/// What is done to headers. In this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HeaderEdits {
    /// Put in, in place of what is there.
    pub set: BTreeMap<String, String>,
    /// Put in beside what is there.
    pub add: BTreeMap<String, String>,
    /// Taken out.
    pub remove: Vec<String>,
}

/// How large a request may be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of a request's body; beyond it 413. 10 MiB; 0: no limit.
    pub body_bytes_max: Size,
    /// Bytes of header names and values; beyond it 431. 16 KiB; never more than the listener takes.
    pub header_bytes_max: Size,
    /// Bytes of a body that must come in a second, on the mean of every five seconds until the answer begins; a client that is slower gets 408. 240;
    /// 0: any. Does not hold for gRPC.
    pub body_min_bytes_per_second: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { body_bytes_max: Size(10 << 20), header_bytes_max: Size(16 << 10), body_min_bytes_per_second: 240 }
    }
}

/// How long things may take; `"0s"` turns one off. Connecting is the upstream's `connect_timeout`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Timeouts {
    /// From the end of the request's head to the answer's head, all attempts together; the deadline that is passed on. 30 s. Bodies may
    /// take longer, as long as they move.
    pub total: Span,
    /// From the last byte of the request sent to the answer's head, each attempt. 15 s.
    pub first_byte: Span,
    /// Between two bytes of a body, either way. 5 min.
    pub idle: Span,
    /// Silence after which a WebSocket or TCP stream is closed. 1 h.
    pub stream_idle: Span,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            total: Span::millis(Defaults::DEFAULT.timeout_request_ms),
            first_byte: Span::millis(Defaults::DEFAULT.timeout_answer_ms),
            idle: Span::millis(Defaults::DEFAULT.timeout_idle_ms),
            stream_idle: Span::secs(3600),
        }
    }
}

/// What is tried again, on another endpoint if there is one. Never more than the upstream's retry budget lets through, never
/// after a byte of the answer went to the client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retry {
    /// Attempts beside the first. 2; 0: none.
    pub attempts: u32,
    /// Answers that are tried again when the method is idempotent (RFC 9110 §9.2.2). 502, 503, 504. Failed connections are tried again
    /// for every method, since the request was not sent.
    pub on_status: Vec<u16>,
    /// First pause; doubles each time, with full jitter. 25 ms.
    pub backoff: Span,
    /// Longest pause. 250 ms.
    pub backoff_max: Span,
    /// Answers that did not come in time are tried again too. False: the upstream may be slow rather than broken.
    pub on_timeout: bool,
    /// Requests with an Idempotency-Key are tried again whatever their method: only where the upstream honours it. False.
    pub idempotency_keys: bool,
    /// A request whose body is larger is not tried again: so much of it is kept. 64 KiB.
    pub body_bytes_max: Size,
}

impl Default for Retry {
    fn default() -> Retry {
        Retry {
            attempts: Defaults::DEFAULT.retry_attempts_max as u32 - 1,
            on_status: vec![502, 503, 504],
            backoff: Span::millis(Defaults::DEFAULT.retry_backoff_base_ms),
            backoff_max: Span::millis(Defaults::DEFAULT.retry_backoff_cap_ms),
            on_timeout: false,
            idempotency_keys: false,
            body_bytes_max: Size(64 << 10),
        }
    }
}

/// How often: a token bucket. Beyond it 429 with Retry-After.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// How often in the long run: `"100/s"`.
    pub rate: Rate,
    /// How many at once; absent or 0: one second's worth, at least 1.
    #[serde(default)]
    pub burst: u64,
    /// Whose: `"client"`, `"cookie:NAME"`, `"header:NAME"`, or `"route"` for everybody's together. Requests without the cookie
    /// or header count for their address. `"client"`.
    #[serde(default)]
    pub per: LimitKey,
}

/// How many at once: what one route may take of the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bulkhead {
    /// Requests under way. 1024.
    pub in_flight_max: u32,
    /// Requests that wait for one of these to end; beyond it 503. 1024.
    pub queue_max: u32,
    /// How long one waits at most; then 503. 1 s.
    pub queue_timeout: Span,
}

impl Default for Bulkhead {
    fn default() -> Bulkhead {
        let d = Defaults::DEFAULT;
        Bulkhead {
            in_flight_max: d.bulkhead_in_flight_max as u32,
            queue_max: d.bulkhead_queue_max as u32,
            queue_timeout: Span::millis(d.bulkhead_queue_timeout_ms),
        }
    }
}

/// Which requests, and what becomes of them. Exactly one of `to`, `redirect` and `respond` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Upstreams, by weight: `to = "shop"` or `to = [{ upstream = "shop", weight = 95 }, { upstream = "next", weight = 5 }]`.
    pub to: Vec<Target>,
    /// Sends the client elsewhere.
    pub redirect: Option<Redirect>,
    /// Answers by itself.
    pub respond: Option<Respond>,
    /// Listeners it serves; none named: every HTTP listener.
    pub listeners: Vec<String>,
    /// Higher goes before lower, whatever else they ask. 0.
    pub priority: i32,
    /// Any of these; none: any host.
    pub hosts: Vec<HostPattern>,
    /// The path. `/*`.
    pub path: PathPattern,
    /// Any of these; none: any method. GET stands for HEAD too.
    pub methods: Vec<MethodName>,
    /// All of these.
    pub headers: BTreeMap<String, ValueMatch>,
    /// All of these, as decoded.
    pub query: BTreeMap<String, ValueMatch>,
    /// By what a user stays with one target. Absent: each request is drawn by itself.
    pub sticky: Option<ClientKey>,
    /// Path and host for the upstream.
    pub rewrite: Rewrite,
    /// Edits of what the upstream gets.
    pub request_headers: HeaderEdits,
    /// Edits of what the client gets.
    pub response_headers: HeaderEdits,
    /// How large.
    pub limits: Limits,
    /// How long.
    pub timeouts: Timeouts,
    /// What is tried again.
    pub retry: Retry,
    /// How often; absent: no limit.
    pub rate_limit: Option<RateLimit>,
    /// How many at once.
    pub bulkhead: Bulkhead,
    /// Whether its requests are in the access log.
    pub access_log: bool,
}

impl Default for Route {
    fn default() -> Route {
        Route {
            to: Vec::new(),
            redirect: None,
            respond: None,
            listeners: Vec::new(),
            priority: 0,
            hosts: Vec::new(),
            path: PathPattern::default(),
            methods: Vec::new(),
            headers: BTreeMap::new(),
            query: BTreeMap::new(),
            sticky: None,
            rewrite: Rewrite::default(),
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            retry: Retry::default(),
            rate_limit: None,
            bulkhead: Bulkhead::default(),
            access_log: true,
        }
    }
}

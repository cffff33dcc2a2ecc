//! What the console and `/metrics` see. Counts only grow; who asks twice has rates, and by [`Counts::since`] the p99 of the time between.

use base::{Counts, Duration};

use crate::balance::Health;
use crate::model::Balance;
use crate::resilience::BreakerState;

/// A route at one moment.
#[derive(Clone, Debug, Default)]
pub struct RouteLook {
    /// Its name.
    pub name: String,
    /// Its upstreams.
    pub targets: Vec<String>,
    /// Requests that took it.
    pub requests: u64,
    /// Answers to requests that went to an upstream, by the first digit of their status; at 0 requests that ended without one.
    pub answers: [u64; 6],
    /// Answers that the gateway made by itself (direct ones, redirects, 429, 503 …), in the same way.
    pub own: [u64; 6],
    /// Requests beyond the rate limit (429).
    pub limited: u64,
    /// Requests refused for want of a place, an endpoint, or because the breaker is open (503).
    pub refused: u64,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests that wait for a place.
    pub waiting: u32,
    /// From the head to the answer's head.
    pub latency: Counts,
}

/// An endpoint at one moment.
#[derive(Clone, Debug)]
pub struct EndpointLook {
    /// What people call it.
    pub name: String,
    /// Where it listens.
    pub address: String,
    /// Where it stands.
    pub zone: String,
    /// Its share.
    pub weight: u32,
    /// Whether it may be picked.
    pub health: Health,
    /// Whether it is ejected as an outlier.
    pub ejected: bool,
    /// Whether an active check has answered.
    pub checked: bool,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests sent.
    pub requests: u64,
    /// Those that failed.
    pub failures: u64,
    /// The moving peak average of its answer times.
    pub latency: Duration,
}

/// An upstream at one moment.
#[derive(Clone, Debug)]
pub struct UpstreamLook {
    /// Its name.
    pub name: String,
    /// How endpoints are chosen.
    pub balance: Balance,
    /// The service that its endpoints come from.
    pub service: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointLook>,
    /// How many of them take new requests.
    pub usable: usize,
    /// Whether too few pass.
    pub in_panic: bool,
    /// Its breaker.
    pub breaker: BreakerState,
    /// The share of failures in the breaker's window.
    pub failure_rate: f64,
    /// Retries that its budget has left.
    pub retries_left: u64,
    /// Requests under way.
    pub in_flight: u32,
    /// Requests, each once however often it was tried.
    pub requests: u64,
    /// Attempts that failed.
    pub failures: u64,
    /// Attempts beside the first.
    pub retries: u64,
    /// From an attempt's start to its answer's head.
    pub latency: Counts,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The routes by name.
    pub routes: Vec<RouteLook>,
    /// The upstreams by name.
    pub upstreams: Vec<UpstreamLook>,
    /// Requests under way in the whole gateway.
    pub in_flight: u64,
    /// The share of requests that is shed for delay, 0 to 1.
    pub shed_share: f64,
    /// Answers that the gateway made by itself to requests without a route, by the first digit of their status; at 0 what was only closed.
    pub own: [u64; 6],
    /// Requests without a route (404).
    pub unrouted: u64,
    /// Ill-formed requests (400).
    pub bad: u64,
    /// Requests shed (503).
    pub shed: u64,
}

//! An upstream: endpoints that are equals, how one is chosen, and what is done when they fail.

use serde::{Deserialize, Serialize};

use super::matching::ClientKey;
use super::text::{Size, Span};
use crate::resilience::Defaults;

/// One server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// `"10.0.0.1:9000"`, `"[::1]:9000"` or `"name:9000"`, which the host looks up again and again.
    pub address: String,
    /// Its share relative to the others'; 1. 0: none, but what is under way goes on (drain).
    #[serde(default = "one")]
    pub weight: u32,
    /// The zone it stands in.
    #[serde(default)]
    pub zone: String,
    /// Degrees north and east, for `locality = "geographic"`.
    #[serde(default)]
    pub location: Option<(f64, f64)>,
    /// The country of that place by its two letters (`"DE"`): for clients of whom no more than the country is known.
    #[serde(default)]
    pub country: String,
}

fn one() -> u32 {
    1
}

/// Endpoints out of the registry: the instances of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceSource {
    /// The service's name.
    pub service: String,
    /// Instances must have all of these tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Only instances whose checks all pass; else those that warn too. True.
    #[serde(default = "yes")]
    pub passing_only: bool,
}

fn yes() -> bool {
    true
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// One after the other by weight, spread evenly (smooth).
    WeightedRoundRobin,
    /// Of two drawn at random, the one with fewer requests under way for its weight.
    #[default]
    LeastConnections,
    /// The one with the lowest moving peak of latency times requests under way, of two drawn at random.
    PeakEwma,
    /// Drawn by weight.
    Random,
    /// By the client's address, with little disturbance when endpoints come and go (Maglev).
    IpHash,
    /// By `hash_key`, in the same way.
    Hash,
}

/// How an endpoint is asked whether it works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckKind {
    /// TCP for endpoints that are listed here; none for a service's, which the registry checks.
    #[default]
    Auto,
    /// A connection that succeeds, TLS included where the upstream has it.
    Tcp,
    /// A GET whose answer's status is right, over what the upstream speaks.
    Http,
    /// Not at all.
    Off,
}

/// Active checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// How.
    pub kind: CheckKind,
    /// What an HTTP check asks for. `/`. Written alone it means an HTTP check.
    pub path: String,
    /// The Host of an HTTP check; empty: the endpoint's address.
    pub host: String,
    /// Statuses that are healthy, first and last. 200 to 399.
    pub status: (u16, u16),
    /// How often, with a tenth of jitter. 5 s.
    pub interval: Span,
    /// How long one may take. 2 s.
    pub timeout: Span,
    /// Successes in a row that make an endpoint healthy. 2; the first check after its arrival is enough by itself.
    pub healthy_after: u32,
    /// Failures in a row that make it unhealthy. 3.
    pub unhealthy_after: u32,
}

impl Default for HealthCheck {
    fn default() -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Auto,
            path: "/".into(),
            host: String::new(),
            status: (200, 399),
            interval: Span::millis(Defaults::DEFAULT.check_interval_ms),
            timeout: Span::millis(Defaults::DEFAULT.check_timeout_ms),
            healthy_after: Defaults::DEFAULT.check_rise as u32,
            unhealthy_after: Defaults::DEFAULT.check_fall as u32,
        }
    }
}

/// Endpoints that answer badly get no requests for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outlier {
    /// Whether at all. True.
    pub enabled: bool,
    /// 5xx, or no answer, in a row that eject. 5.
    pub consecutive_errors: u32,
    /// 502 to 504 and broken connections in a row that eject. 5.
    pub consecutive_gateway_failures: u32,
    /// How long the first time; then twice, three times … as long. 10 s.
    pub ejection: Span,
    /// The longest. 5 min.
    pub ejection_max: Span,
    /// Most endpoints of a hundred that may be ejected at once; one always may, all never. 50.
    pub ejected_percent_max: u32,
}

impl Default for Outlier {
    fn default() -> Outlier {
        let d = Defaults::DEFAULT;
        Outlier {
            enabled: true,
            consecutive_errors: d.outlier_consecutive_errors as u32,
            consecutive_gateway_failures: d.outlier_consecutive_gateway_failures as u32,
            ejection: Span::millis(d.outlier_base_ejection_ms),
            ejection_max: Span::millis(d.outlier_max_ejection_ms),
            ejected_percent_max: d.outlier_max_ejection_percent as u32,
        }
    }
}

/// When too many requests to an upstream fail, the next are answered 503 at once for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Breaker {
    /// Whether at all. True.
    pub enabled: bool,
    /// It opens when of a hundred requests in the window at least so many failed. 75.
    pub failure_percent: u32,
    /// … out of at least so many. 20.
    pub requests_min: u32,
    /// The window. 5 s.
    pub window: Span,
    /// How long it stays open before trial requests; doubles with each that fails. 5 s.
    pub pause: Span,
    /// The longest. 30 s.
    pub pause_max: Span,
    /// Trial requests, all of which must succeed for it to close. 5.
    pub trials: u32,
}

impl Default for Breaker {
    fn default() -> Breaker {
        let d = Defaults::DEFAULT;
        Breaker {
            enabled: true,
            failure_percent: d.breaker_failure_percent as u32,
            requests_min: d.breaker_volume_min as u32,
            window: Span::millis(d.breaker_window_ms),
            pause: Span::millis(d.breaker_pause_ms),
            pause_max: Span::millis(d.breaker_pause_max_ms),
            trials: d.breaker_probes as u32,
        }
    }
}

/// How much of the traffic may be retries, over ten seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryBudget {
    /// Retries per hundred requests. 20.
    pub percent: u32,
    /// Retries that are allowed however few the requests. 10.
    pub floor: u32,
}

impl Default for RetryBudget {
    fn default() -> RetryBudget {
        let d = Defaults::DEFAULT;
        RetryBudget { percent: d.retry_budget_percent as u32, floor: d.retry_budget_floor as u32 }
    }
}

/// What is spoken to the endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2 (with prior knowledge where there is no TLS): gRPC.
    Http2,
}

/// TLS to the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpstreamTls {
    /// The name that is asked for and that the certificate must have; empty: the endpoint's host.
    pub server_name: String,
    /// File with the authorities that are believed, PEM; empty: the system's. Files are read again when they change.
    pub authorities: String,
    /// Believe any certificate. Only for tests: the node complains as long as it is on.
    pub insecure: bool,
    /// File with our own certificate chain, PEM, for servers that ask for one; empty: none is shown.
    pub chain: String,
    /// File with its key, PEM.
    pub key: String,
}

/// Whether it matters where endpoints stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Locality {
    /// Endpoints in the node's own zone first, as far as they can take it; the rest goes to zones that have room. Without effect
    /// where no endpoint has a zone, and with a balance by hash, which already says which endpoint.
    #[default]
    Zone,
    /// The site nearest to the client first; needs the node's `gateway.locations`, and endpoints with a `location`.
    Geographic,
    /// It does not matter.
    Off,
}

/// Endpoints that are equals. Exactly one of `endpoints` and `service` is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upstream {
    /// The endpoints, listed.
    pub endpoints: Vec<EndpointSpec>,
    /// The endpoints, by the registry.
    pub service: Option<ServiceSource>,
    /// How one is chosen. `"least_connections"`.
    pub balance: Balance,
    /// What `balance = "hash"` goes by.
    pub hash_key: Option<ClientKey>,
    /// A cookie that keeps a client at its endpoint as long as that one works; empty: none. We make it and take it away
    /// from what the endpoint sees.
    pub sticky_cookie: String,
    /// Active checks.
    pub health: HealthCheck,
    /// Ejection of endpoints that answer badly.
    pub outlier: Outlier,
    /// Answering 503 at once when the upstream as a whole fails.
    pub breaker: Breaker,
    /// How much of its traffic may be retries.
    pub retry_budget: RetryBudget,
    /// How long an endpoint that is new or healthy again takes to its full share. 10 s; `"0s"`: none.
    pub slow_start: Span,
    /// How long connecting (with TLS) may take, each attempt. 2 s.
    pub connect_timeout: Span,
    /// Connections to one endpoint at once. 1024.
    pub connections_max: u32,
    /// Connections to one endpoint that are kept for the next request. 128.
    pub idle_connections_max: u32,
    /// How long they are kept. 50 s: below the usual 60 s of servers, so that they do not close one that we just took.
    pub idle_timeout: Span,
    /// What is spoken.
    pub protocol: UpstreamProtocol,
    /// TLS to the endpoints; absent: none.
    pub tls: Option<UpstreamTls>,
    /// Whether it matters where endpoints stand. `"zone"`.
    pub locality: Locality,
    /// Requests under way to all endpoints together; beyond it 503. 1024.
    pub in_flight_max: u32,
    /// Largest head of an answer. 32 KiB; beyond it 502.
    pub head_bytes_max: Size,
}

impl Default for Upstream {
    fn default() -> Upstream {
        Upstream {
            endpoints: Vec::new(),
            service: None,
            balance: Balance::LeastConnections,
            hash_key: None,
            sticky_cookie: String::new(),
            health: HealthCheck::default(),
            outlier: Outlier::default(),
            breaker: Breaker::default(),
            retry_budget: RetryBudget::default(),
            slow_start: Span::secs(10),
            connect_timeout: Span::millis(Defaults::DEFAULT.timeout_connect_ms),
            connections_max: Defaults::DEFAULT.bulkhead_connections_max as u32,
            idle_connections_max: 128,
            idle_timeout: Span::secs(50),
            protocol: UpstreamProtocol::Http1,
            tls: None,
            locality: Locality::Zone,
            in_flight_max: Defaults::DEFAULT.bulkhead_in_flight_max as u32,
            head_bytes_max: Size(32 << 10),
        }
    }
}

impl Upstream {
    /// How its endpoints are checked, with [`CheckKind::Auto`] decided.
    pub fn check_kind(&self) -> CheckKind {
        match self.health.kind {
            CheckKind::Auto if self.service.is_some() => CheckKind::Off,
            CheckKind::Auto if self.health.path != "/" => CheckKind::Http,
            CheckKind::Auto => CheckKind::Tcp,
            kind => kind,
        }
    }
}

//! All documents together, judged before they apply: either the whole configuration makes sense, or it is refused with all
//! that is wrong with it, and what was there before stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::headers::is_token;
use crate::model::text::meant;
use crate::model::{
    Balance, Body, CheckKind, Document, HostPattern, Kind, Listener, Protocol, Route, Span, Upstream, Wrong,
};
use crate::request;
use crate::route::{Compiled, RouteAction};
use crate::table::RouteTable;

/// Most listeners.
pub const LISTENERS_MAX: usize = 64;
/// Most routes.
pub const ROUTES_MAX: usize = 20_000;
/// Most upstreams.
pub const UPSTREAMS_MAX: usize = 10_000;
/// Most hosts, targets, methods, or conditions of one kind, of one route.
pub const PER_ROUTE_MAX: usize = 64;
/// Most endpoints listed for one upstream.
pub const ENDPOINTS_MAX: usize = 1024;
/// Largest weight of a target or an endpoint.
pub const WEIGHT_MAX: u32 = 1000;
/// Most attempts beside the first.
pub const RETRIES_MAX: u32 = 10;
/// Most problems told at once.
pub const WRONGS_MAX: usize = 100;

/// A configuration that makes sense. Never changes.
#[derive(Debug, Default)]
pub struct Config {
    listeners: BTreeMap<String, Arc<Listener>>,
    upstreams: BTreeMap<String, Arc<Upstream>>,
    routes: Vec<Arc<Compiled>>,
    tables: BTreeMap<String, RouteTable>,
}

impl Config {
    /// Judges documents and makes the tables. All that is wrong is told (up to [`WRONGS_MAX`]), each with its key and what to do.
    pub fn new(documents: impl IntoIterator<Item = Document>) -> Result<Config, Vec<Wrong>> {
        let mut config = Config::default();
        let mut routes: BTreeMap<String, Route> = BTreeMap::new();
        let mut wrongs = Vec::new();
        for document in documents {
            let key = document.key();
            let name = document.name;
            let twice = match document.body {
                Body::Listener(body) => config.listeners.insert(name, Arc::new(body)).is_some(),
                Body::Upstream(body) => config.upstreams.insert(name, Arc::new(*body)).is_some(),
                Body::Route(body) => routes.insert(name, *body).is_some(),
            };
            if twice {
                wrongs.push(Wrong::new(key, "is there twice: keep one, or give one of them another name"));
            }
        }
        for (kind, count, most) in [
            (Kind::Listener, config.listeners.len(), LISTENERS_MAX),
            (Kind::Route, routes.len(), ROUTES_MAX),
            (Kind::Upstream, config.upstreams.len(), UPSTREAMS_MAX),
        ] {
            if count > most {
                wrongs.push(Wrong::new(kind.word(), format!("{count} of them; at most {most}")));
            }
        }
        config.check_listeners(&mut wrongs);
        for (name, upstream) in &config.upstreams {
            let mut found = Vec::new();
            check_upstream(upstream, &mut found);
            wrongs.extend(found.into_iter().map(|wrong| wrong.under(&format!("upstream.{name}"))));
        }
        for (index, (name, route)) in routes.iter().enumerate() {
            let mut found = Vec::new();
            config.check_route(route, &mut found);
            match Compiled::new(name, index, route) {
                Ok(compiled) => config.routes.push(Arc::new(compiled)),
                Err(mut wrongs) => found.append(&mut wrongs),
            }
            wrongs.extend(found.into_iter().map(|wrong| wrong.under(&format!("route.{name}"))));
        }
        if wrongs.is_empty() {
            config.make_tables(&mut wrongs);
        }
        wrongs.truncate(WRONGS_MAX);
        if wrongs.is_empty() { Ok(config) } else { Err(wrongs) }
    }

    /// The listeners by name.
    pub fn listeners(&self) -> &BTreeMap<String, Arc<Listener>> {
        &self.listeners
    }

    /// The upstreams by name.
    pub fn upstreams(&self) -> &BTreeMap<String, Arc<Upstream>> {
        &self.upstreams
    }

    /// The routes in order of their names; a route's `index` is its place here.
    pub fn routes(&self) -> &[Arc<Compiled>] {
        &self.routes
    }

    /// The routes of a listener.
    pub fn table(&self, listener: &str) -> Option<&RouteTable> {
        self.tables.get(listener)
    }

    fn check_listeners(&self, wrongs: &mut Vec<Wrong>) {
        let mut taken: Vec<(&str, SocketAddr)> = Vec::new();
        for (name, listener) in &self.listeners {
            let mut wrong = |key: &str, what: String| wrongs.push(Wrong::new(format!("listener.{name}{key}"), what));
            let bind = listener.bind;
            let overlaps = |other: &SocketAddr| {
                let both = bind.ip() == other.ip() || bind.ip().is_unspecified() || other.ip().is_unspecified();
                bind.port() != 0 && bind.port() == other.port() && both
            };
            if let Some((other, at)) = taken.iter().find(|(_, at)| overlaps(at)) {
                wrong(".bind", format!("{bind} is taken by listener.{other} ({at}): choose another port"));
            }
            taken.push((name, bind));
            if listener.protocol == Protocol::Tls && !listener.certificates.is_empty() {
                let what = "protocol = \"tls\" passes TLS through unopened; to end TLS here write protocol = \"http\" or \"tcp\"";
                wrong(".certificates", what.into());
            }
            for certificate in &listener.certificates {
                for (key, path) in [("chain", &certificate.chain), ("key", &certificate.key)] {
                    if path.is_empty() {
                        wrong(".certificates", format!("{key} is empty: name the PEM file"));
                    }
                }
                for host in &certificate.hosts {
                    match host.parse::<HostPattern>() {
                        Ok(HostPattern::Any) => wrong(
                            ".certificates",
                            "\"*\" names no host; the first certificate serves unknown names".into(),
                        ),
                        Ok(_) => {}
                        Err(why) => wrong(".certificates", format!("{host:?}: {why}")),
                    }
                }
            }
            for (key, value, least) in [
                (".connections_max", u64::from(listener.connections_max), 1),
                (".headers_max", u64::from(listener.headers_max), 8),
                (".head_bytes_max", listener.head_bytes_max.0, 1024),
            ] {
                if value < least {
                    wrong(key, format!("{value}: at least {least}"));
                }
            }
            if listener.head_bytes_max.0 > 1 << 20 || listener.headers_max > 1000 {
                wrong("", "head_bytes_max is at most 1MiB and headers_max at most 1000".into());
            }
            for (key, span) in [(".head_timeout", listener.head_timeout), (".idle_timeout", listener.idle_timeout)] {
                if span.is_zero() {
                    wrong(key, "0s would close every connection at once; write a longer one".into());
                }
            }
        }
    }

    fn check_route(&self, route: &Route, wrongs: &mut Vec<Wrong>) {
        let mut wrong = |key: &str, what: String| wrongs.push(Wrong::new(key, what));
        for (key, count) in [
            ("to", route.to.len()),
            ("listeners", route.listeners.len()),
            ("hosts", route.hosts.len()),
            ("methods", route.methods.len()),
            ("headers", route.headers.len()),
            ("query", route.query.len()),
            ("retry.on_status", route.retry.on_status.len()),
        ] {
            if count > PER_ROUTE_MAX {
                wrong(key, format!("{count} of them; at most {PER_ROUTE_MAX}"));
            }
        }
        let mut targets = BTreeSet::new();
        for target in &route.to {
            let name = target.upstream.as_str();
            if !self.upstreams.contains_key(name) {
                let known = self.upstreams.keys().map(String::as_str);
                wrong("to", format!("there is no upstream {name:?}; {}", meant(name, known)));
            }
            if !targets.insert(name) {
                wrong("to", format!("{name:?} is there twice: add up its weights"));
            }
            if target.weight > WEIGHT_MAX {
                wrong("to", format!("weight {} of {name:?}: at most {WEIGHT_MAX}", target.weight));
            }
        }
        for name in &route.listeners {
            if !self.listeners.contains_key(name) {
                let known = self.listeners.keys().map(String::as_str);
                wrong("listeners", format!("there is no listener {name:?}; {}", meant(name, known)));
            }
        }
        let mut hosts: Vec<&HostPattern> = route.hosts.iter().collect();
        hosts.sort();
        if let Some(pair) = hosts.windows(2).find(|pair| pair[0] == pair[1]) {
            wrong("hosts", format!("{} is there twice", pair[0]));
        }
        if route.retry.attempts > RETRIES_MAX {
            wrong("retry.attempts", format!("{}: at most {RETRIES_MAX}", route.retry.attempts));
        }
        for status in route.retry.on_status.iter().filter(|status| !(500..=599).contains(*status) && **status != 429) {
            wrong("retry.on_status", format!("{status}: only 429 and 500 to 599 are tried again"));
        }
        if route.retry.backoff > route.retry.backoff_max {
            wrong(
                "retry.backoff",
                format!("{} is above backoff_max, {}", route.retry.backoff, route.retry.backoff_max),
            );
        }
        if route.bulkhead.in_flight_max == 0 {
            wrong("bulkhead.in_flight_max", "0 would refuse every request; at least 1".into());
        }
        if route.timeouts.total.is_zero() && route.timeouts.first_byte.is_zero() {
            wrong(
                "timeouts",
                "total and first_byte are both off: a silent upstream would hold requests for ever; keep one".into(),
            );
        }
        self.check_stream_route(route, &mut wrong);
    }

    /// A route of a TCP or TLS listener knows no more than the server name.
    fn check_stream_route(&self, route: &Route, wrong: &mut dyn FnMut(&str, String)) {
        let listeners = route.listeners.iter().filter_map(|name| Some((name, self.listeners.get(name)?)));
        for (name, listener) in listeners.filter(|(_, listener)| listener.protocol != Protocol::Http) {
            let protocol = if listener.protocol == Protocol::Tcp { "tcp" } else { "tls" };
            if route.to.is_empty() {
                wrong("to", format!("listener {name:?} is {protocol}: its routes need to = \"UPSTREAM\""));
            }
            let plain = route.methods.is_empty()
                && route.headers.is_empty()
                && route.query.is_empty()
                && route.path == crate::model::PathPattern::default();
            if !plain {
                wrong(
                    "listeners",
                    format!("listener {name:?} is {protocol}: no paths, methods, headers or query are seen there"),
                );
            }
            if listener.protocol == Protocol::Tcp && !listener.terminates_tls() && !route.hosts.is_empty() {
                wrong("hosts", format!("listener {name:?} is tcp without TLS: no host is seen there; leave hosts out"));
            }
            if matches!(&route.sticky, Some(key) if *key != crate::model::ClientKey::Address) {
                wrong("sticky", format!("listener {name:?} is {protocol}: only \"client\" is known there"));
            }
        }
    }

    fn make_tables(&mut self, wrongs: &mut Vec<Wrong>) {
        let mut told = BTreeSet::new();
        for (name, listener) in &self.listeners {
            let serves = |route: &&Arc<Compiled>| {
                let names = &route.document.listeners;
                names.contains(name) || names.is_empty() && listener.protocol == Protocol::Http
            };
            let routes: Vec<Arc<Compiled>> = self.routes.iter().filter(serves).cloned().collect();
            match RouteTable::build(&routes) {
                Ok(table) => {
                    self.tables.insert(name.clone(), table);
                }
                Err(conflicts) => {
                    for conflict in conflicts {
                        // The same conflict on several listeners is told once.
                        if told.insert((conflict.route.clone(), conflict.what.clone())) {
                            wrongs.push(Wrong::new(format!("route.{}", conflict.route), conflict.what));
                        }
                    }
                }
            }
        }
    }

    /// The names of the upstreams that a route's requests may go to.
    pub fn targets(route: &Compiled) -> impl Iterator<Item = &str> {
        let shares = match &route.action {
            RouteAction::Proxy { shares, .. } => shares.as_slice(),
            _ => &[],
        };
        shares.iter().map(|share| &*share.upstream)
    }
}

fn check_upstream(upstream: &Upstream, wrongs: &mut Vec<Wrong>) {
    let mut wrong = |key: &str, what: String| wrongs.push(Wrong::new(key, what));
    match (upstream.endpoints.is_empty(), &upstream.service) {
        (true, None) => {
            wrong("", "has no endpoints: give it endpoints = [\"127.0.0.1:9001\"] or service = \"NAME\"".into())
        }
        (false, Some(_)) => wrong("", "has both endpoints and service: keep one".into()),
        (true, Some(service)) if service.service.is_empty() => wrong("service", "the name is empty".into()),
        _ => {}
    }
    if upstream.endpoints.len() > ENDPOINTS_MAX {
        wrong("endpoints", format!("{} of them; at most {ENDPOINTS_MAX}", upstream.endpoints.len()));
    }
    let mut seen = BTreeSet::new();
    for endpoint in &upstream.endpoints {
        let address = &endpoint.address;
        match request::host_and_port(address) {
            Ok((_, Some(port))) if port > 0 => {}
            Ok(_) => wrong("endpoints", format!("{address:?}: the port is missing, as in \"127.0.0.1:9001\"")),
            Err(error) => wrong("endpoints", format!("{address:?}: wants \"host:port\" ({error})")),
        }
        if !seen.insert(address) {
            wrong("endpoints", format!("{address:?} is there twice: give it a weight instead"));
        }
        if endpoint.weight > WEIGHT_MAX {
            wrong("endpoints", format!("weight {} of {address:?}: at most {WEIGHT_MAX}", endpoint.weight));
        }
    }
    match (upstream.balance, &upstream.hash_key) {
        (Balance::Hash, None) => {
            wrong("hash_key", "balance = \"hash\" needs it: \"cookie:NAME\", \"header:NAME\" or \"client\"".into())
        }
        (Balance::Hash, Some(_)) | (_, None) => {}
        (_, Some(_)) => wrong("hash_key", "has a meaning only with balance = \"hash\"".into()),
    }
    if !upstream.sticky_cookie.is_empty() && !is_token(&upstream.sticky_cookie) {
        wrong("sticky_cookie", format!("{:?} is no name of a cookie", upstream.sticky_cookie));
    }
    let health = &upstream.health;
    if upstream.check_kind() == CheckKind::Http && !health.path.starts_with('/') {
        wrong("health.path", format!("{:?}: a path starts with /", health.path));
    }
    let (first, last) = health.status;
    if !(100..=599).contains(&first) || !(first..=599).contains(&last) {
        wrong(
            "health.status",
            format!("[{first}, {last}]: wants the first and the last healthy status, as in [200, 399]"),
        );
    }
    for (key, span) in [
        ("health.interval", health.interval),
        ("health.timeout", health.timeout),
        ("connect_timeout", upstream.connect_timeout),
    ] {
        if span < Span::millis(10) {
            wrong(key, format!("{span}: at least 10ms"));
        }
    }
    for (key, count) in [
        ("health.healthy_after", health.healthy_after),
        ("health.unhealthy_after", health.unhealthy_after),
        ("in_flight_max", upstream.in_flight_max),
        ("connections_max", upstream.connections_max),
        ("breaker.trials", upstream.breaker.trials),
    ] {
        if count == 0 {
            wrong(key, "0: at least 1".into());
        }
    }
    for (key, percent) in [
        ("outlier.ejected_percent_max", upstream.outlier.ejected_percent_max),
        ("breaker.failure_percent", upstream.breaker.failure_percent),
        ("retry_budget.percent", upstream.retry_budget.percent),
    ] {
        if percent > 100 {
            wrong(key, format!("{percent}: at most 100"));
        }
    }
    if upstream.breaker.enabled && (upstream.breaker.failure_percent == 0 || upstream.breaker.window < Span::secs(1)) {
        wrong(
            "breaker",
            "failure_percent is at least 1 and window at least 1s; to turn it off write enabled = false".into(),
        );
    }
    if upstream.endpoints.iter().filter_map(|endpoint| endpoint.location).any(|(north, east)| {
        // A NaN is in no range.
        !(-90.0..=90.0).contains(&north) || !(-180.0..=180.0).contains(&east)
    }) {
        wrong("endpoints", "location: wants degrees north and east, as in [52.5, 13.4]".into());
    }
    for endpoint in upstream.endpoints.iter().filter(|endpoint| !endpoint.country.is_empty()) {
        let country = endpoint.country.as_bytes();
        if country.len() != 2 || !country.iter().all(u8::is_ascii_uppercase) || endpoint.location.is_none() {
            let what =
                format!("country {:?}: wants two capital letters, as in \"DE\", beside a location", endpoint.country);
            wrong("endpoints", what);
        }
    }
    if upstream.tls.as_ref().is_some_and(|tls| tls.insecure && !tls.authorities.is_empty()) {
        wrong("tls", "insecure believes anybody, so authorities has no effect: keep one of them".into());
    }
    if upstream.tls.as_ref().is_some_and(|tls| tls.chain.is_empty() != tls.key.is_empty()) {
        wrong("tls", "chain and key come together: name both files or none".into());
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

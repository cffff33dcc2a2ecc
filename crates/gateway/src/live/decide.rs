//! One request, decided.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use base::{Duration, Instant, Rng};

use super::flight::{self, Permit, Wish};
use super::{Answer, Decision, Gateway, LiveRoute};
use crate::balance::{HashKey, HashOn, Place, client_hash};
use crate::headers::{client_address, cookie, cookies_without, next_trace};
use crate::model::{ClientKey, LimitKey, Listener};
use crate::request::{Asked, Head, Peer, PlainHead};
use crate::resilience::{
    Deadline, Entry, Idempotence, RateDecision, RateTable, TIMEOUT_HEADER, parse_grpc_timeout, parse_timeout_ms,
};
use crate::route::{HostRewrite, RouteAction, Share};
use crate::split;
use crate::table::Captures;

/// The hash of whoever a key names: of its cookie or header, or of its address where it has none.
fn user(key: &ClientKey, head: &impl Head, client: IpAddr, secret: &HashKey) -> u64 {
    let value = match key {
        ClientKey::Address => None,
        ClientKey::Cookie(name) => cookie(head, name),
        ClientKey::Header(name) => head.values(name).next(),
    };
    value.map_or_else(|| client_hash(secret, client), |value| secret.hash(value))
}

impl<E> Gateway<E> {
    /// Decides a request that came in on a listener.
    pub fn decide(&self, listener: &str, head: &impl Head, peer: &Peer, now: Instant, rng: &mut Rng) -> Decision<E> {
        let asked = match Asked::of(head) {
            Ok(asked) => asked,
            Err(bad) => {
                self.bad.fetch_add(1, Relaxed);
                return Decision::Answer(Answer::error(400, bad.why));
            }
        };
        if asked.server_wide {
            // RFC 9110 §9.3.7: a question to the server, not to a resource.
            return Decision::Answer(Answer::plain(204, "", "".into()));
        }
        let state = self.state.load();
        let mut captures = Captures::default();
        let table = state.config.table(listener);
        let found = table.and_then(|table| table.find(&asked, head, &mut captures));
        let (Some(compiled), Some(settings)) = (found, state.config.listeners().get(listener)) else {
            self.unrouted.fetch_add(1, Relaxed);
            return Decision::Answer(Answer::error(404, "no route for this host and path"));
        };
        let route = &state.routes[compiled.index];
        let name = &compiled.name;
        let document = &compiled.document;
        route.counters.requests.fetch_add(1, Relaxed);
        let bytes: usize = head.fields().map(|(name, value)| name.len() + value.len()).sum();
        if document.limits.header_bytes_max.0 > 0 && bytes as u64 > document.limits.header_bytes_max.0 {
            return Decision::Answer(Answer::error(431, "the headers are larger than this route takes").on(name));
        }
        let permit = match self.shed.admit(now, rng) {
            Ok(()) => {
                let length = head.values("content-length").next().and_then(|value| std::str::from_utf8(value).ok());
                let length =
                    length.and_then(|text| text.parse().ok()).unwrap_or(0).min(document.retry.body_bytes_max.0);
                Permit::holding(&self.shed, bytes as u64 + length)
            }
            Err(shed) => return Decision::Answer(self.shed_answer(shed).on(name)),
        };
        let client = client_address(head, peer.address, &settings.trusted_proxies);
        // The place of CORS, then of authentication: see the module's head.
        if let Some(answer) = self.over_rate(route, head, client, now) {
            return Decision::Answer(answer);
        }
        match &compiled.action {
            RouteAction::Redirect { status, to } => {
                let location = to.fill(&asked, peer.tls, &captures);
                let mut answer = Answer::plain(*status, "", "".into()).on(name);
                answer.headers.push(("location".into(), location));
                Decision::Answer(answer.edited(&document.response_headers))
            }
            RouteAction::Respond { status, content_type, body } => {
                let answer = Answer::plain(*status, content_type, Arc::clone(body)).on(name);
                Decision::Answer(answer.edited(&document.response_headers))
            }
            RouteAction::Proxy { shares, path, host } => {
                // The place of the cache.
                let target = target(head, &asked, path.as_ref().map(|path| path.fill(&asked, peer.tls, &captures)));
                let wish = self.wish(route, head, peer, settings, client, target, host, now, rng);
                self.send(Arc::clone(route), shares, head, wish, permit, now, rng)
            }
        }
    }

    /// Decides a connection of a TCP or TLS listener; `server_name` is what the client asks for by TLS, if it does.
    pub fn decide_connection(
        &self,
        listener: &str,
        server_name: Option<&str>,
        peer: &Peer,
        now: Instant,
        rng: &mut Rng,
    ) -> Decision<E> {
        let refuse = |why| Decision::Answer(Answer::error(503, why));
        let name = server_name.unwrap_or("").to_ascii_lowercase();
        let state = self.state.load();
        let table = state.config.table(listener);
        let found = table.and_then(|table| table.find_connection(name.trim_end_matches('.')));
        let (Some(compiled), Some(settings)) = (found, state.config.listeners().get(listener)) else {
            self.unrouted.fetch_add(1, Relaxed);
            return refuse("no route for this connection");
        };
        let RouteAction::Proxy { shares, .. } = &compiled.action else { return refuse("the route answers HTTP only") };
        let route = &state.routes[compiled.index];
        route.counters.requests.fetch_add(1, Relaxed);
        let permit = match self.shed.admit(now, rng) {
            Ok(()) => Permit::holding(&self.shed, 0),
            Err(shed) => return Decision::Answer(self.shed_answer(shed).on(&compiled.name)),
        };
        // A connection has no head; whoever is asked for headers finds none.
        let head = PlainHead { method: "CONNECT", authority: "", target: "/", fields: &[] };
        if let Some(answer) = self.over_rate(route, &head, peer.address, now) {
            return Decision::Answer(answer);
        }
        let wish = self.wish(route, &head, peer, settings, peer.address, None, &HostRewrite::Keep, now, rng);
        let wish = Wish { stream: true, ..wish };
        self.send(Arc::clone(route), shares, &head, wish, permit, now, rng)
    }

    /// Limits that all nodes share will be asked here too.
    fn over_rate(&self, route: &LiveRoute<E>, head: &impl Head, client: IpAddr, now: Instant) -> Option<Answer> {
        let (limit, per) = route.limit.as_ref()?;
        let name = &route.compiled.name;
        let who = match per {
            LimitKey::Route => 0,
            LimitKey::Each(key) => user(key, head, client, &self.settings.secret),
        };
        let mut word = [0; 16];
        word[..8].copy_from_slice(&who.to_le_bytes());
        word[8..].copy_from_slice(&self.settings.secret.hash(name.as_bytes()).to_le_bytes());
        let rates = self.rates.get_or_init(RateTable::default);
        match rates.check(self.settings.secret.hash(&word), limit, now) {
            RateDecision::Pass { .. } => None,
            RateDecision::Limited { retry_after } => {
                route.counters.limited.fetch_add(1, Relaxed);
                Some(Answer::error(429, "too many requests").retry_after(retry_after).on(name))
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "everything that a request brings, once")]
    fn wish(
        &self,
        route: &LiveRoute<E>,
        head: &impl Head,
        peer: &Peer,
        listener: &Listener,
        client: IpAddr,
        target: Option<String>,
        host: &HostRewrite,
        now: Instant,
        rng: &mut Rng,
    ) -> Wish {
        let (trace, continued) = next_trace(head, rng);
        let mut headers = vec![("traceparent", trace.to_text())];
        if !continued && head.values("tracestate").next().is_some() {
            // It belongs to a parent that is not there; an empty one is the same as none (W3C Trace Context §3.3.1).
            headers.push(("tracestate", String::new()));
        }
        let trusted = listener.trusted_proxies.iter().any(|network| network.contains(peer.address));
        let limit = head.values("grpc-timeout").next().and_then(parse_grpc_timeout).or_else(|| {
            let said = head.values(TIMEOUT_HEADER).next().filter(|_| trusted);
            said.and_then(parse_timeout_ms)
        });
        Wish {
            client,
            trace,
            secure: peer.tls,
            target,
            host: match host {
                HostRewrite::Fixed(host) => Some(host.clone()),
                _ => None,
            },
            endpoint_host: matches!(host, HostRewrite::Endpoint),
            headers,
            hash: None,
            cookie: None,
            place: Place::default(),
            stream: false,
            idempotence: Idempotence::of_method(head.method()),
            has_idempotency_key: head.values("idempotency-key").next().is_some(),
            started: now,
            deadline: Deadline::new(now, &route.timeouts, limit),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "everything that was decided so far, once")]
    fn send(
        &self,
        route: Arc<LiveRoute<E>>,
        shares: &[Share],
        head: &impl Head,
        mut wish: Wish,
        mut permit: Permit,
        now: Instant,
        rng: &mut Rng,
    ) -> Decision<E> {
        // The place of feature flags.
        // The user's place among the targets is the same on every node and whatever the secret is.
        let sticky = route.compiled.document.sticky.as_ref().filter(|_| shares.len() > 1);
        let of = sticky.map(|key| user(key, head, wish.client, &HashKey::SHARED));
        let upstream = Arc::clone(&route.targets[split::choose(shares, of, rng)]);
        // The place of mirroring.
        let ways = upstream.ways();
        let secret = &self.settings.secret;
        wish.hash = ways.hash.as_ref().and_then(|on| match on {
            HashOn::ClientIp => Some(client_hash(secret, wish.client)),
            HashOn::Header(name) => head.values(name).next().map(|value| secret.hash(value)),
            HashOn::Cookie(name) => cookie(head, name).map(|value| secret.hash(value)),
        });
        if ways.geographic {
            wish.place = self.place_of(wish.client);
        }
        if !ways.sticky_cookie.is_empty() {
            let name = &ways.sticky_cookie;
            wish.cookie = cookie(head, name).map(Into::into);
            // The cookie is ours: the endpoint does not see it.
            if let Some(rest) = cookies_without(head, name).and_then(|rest| String::from_utf8(rest).ok()) {
                wish.headers.push(("cookie", rest));
            }
        }
        drop(ways);
        match route.places.bulkhead.enter(now) {
            Ok(Entry::Go) => {
                permit.places = Some(Arc::clone(&route.places));
                flight::start(self, route, upstream, wish, permit, now, rng)
            }
            Ok(Entry::Wait(ticket, until)) => {
                Decision::Queue(flight::queue(route, upstream, wish, ticket, until, permit))
            }
            Err(_) => {
                route.counters.refused.fetch_add(1, Relaxed);
                let answer = Answer::error(503, "too many requests of this route are under way");
                Decision::Answer(answer.retry_after(Duration::from_secs(1)).on(&route.compiled.name))
            }
        }
    }
}

/// Path and query for the upstream: what was matched is what is forwarded.
fn target(head: &impl Head, asked: &Asked<'_>, rewritten: Option<String>) -> Option<String> {
    let path: &str = match &rewritten {
        Some(path) => path,
        None if asked.path == head.path() => return None,
        None => &asked.path,
    };
    Some(match asked.query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    })
}

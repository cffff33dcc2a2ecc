use super::*;
use crate::model::read_toml;
use crate::request::{Peer, PlainHead};
use crate::resilience::{BreakerState, Failure, RetryBudgetConfig};
use std::collections::BTreeSet;
use std::future::Future;
use std::task::{Context, Poll, Waker};

/// The engine's handle, here: the address.
pub(super) type Handle = std::net::SocketAddr;

pub(super) struct World {
    pub gateway: Gateway<Handle>,
    pub now: Instant,
    pub rng: Rng,
}

const TOML: &str = r#"
[listener.web]
trusted_proxies = "10.0.0.0/8"
[listener.db]
bind = "127.0.0.1:5432"
protocol = "tcp"
[upstream.shop]
endpoints = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]
balance = "round_robin"
slow_start = "0s"
[upstream.next]
endpoints = "127.0.0.1:9"
[upstream.sticky]
endpoints = ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]
sticky_cookie = "Q"
[route.shop]
path = "/shop/*"
to = "shop"
[route.canary]
path = "/canary/*"
to = [{ upstream = "shop", weight = 90 }, { upstream = "next", weight = 10 }]
sticky = "cookie:user"
[route.sticky]
path = "/sticky/*"
to = "sticky"
[route.rewritten]
path = "/users/{id}/*"
to = "next"
rewrite = { path = "/v2/{id}/{rest}", host = "inner.example" }
[route.limited]
path = "/limited"
to = "next"
rate_limit = { rate = "10/s", burst = 2 }
[route.narrow]
path = "/narrow"
to = "next"
bulkhead = { in_flight_max = 1, queue_max = 1 }
[route.old]
path = "/old/*"
redirect = "https://new.example/{rest}{query}"
response_headers.set.x-by = "us"
[route.hello]
path = "/hello"
respond = { status = 200, body = "hello" }
[route.db]
listeners = "db"
to = "next"
"#;

pub(super) fn config(text: &str) -> Config {
    let documents = read_toml(text).unwrap_or_else(|wrongs| panic!("{wrongs:?}"));
    Config::new(documents).unwrap_or_else(|wrongs| panic!("{wrongs:?}"))
}

pub(super) fn head<'a>(target: &'a str, fields: &'a [(&'a str, &'a str)]) -> PlainHead<'a> {
    PlainHead { method: "GET", authority: "a.example", target, fields }
}

pub(super) fn peer(address: &str) -> Peer {
    Peer { address: address.parse().expect("an address"), tls: false }
}

impl World {
    pub fn new(text: &str) -> World {
        let mut world =
            World { gateway: Gateway::new(Settings::default()), now: Instant(1_000_000_000_000), rng: Rng::new(1) };
        world.apply(text);
        world
    }

    pub fn apply(&mut self, text: &str) {
        let config = config(text);
        let lists: Vec<_> = config.upstreams().iter().map(|(name, it)| (name.clone(), listed_members(it))).collect();
        self.gateway.apply(config, &mut |endpoint, _| Arc::new(endpoint.addr), self.now, &mut self.rng);
        for (name, members) in lists {
            self.endpoints(&name, members);
        }
    }

    pub fn endpoints(&mut self, upstream: &str, members: Vec<Member>) {
        let there = self.gateway.endpoints(upstream, members, &mut |it, _| Arc::new(it.addr), self.now, &mut self.rng);
        assert!(there, "{upstream} is an upstream");
    }

    pub fn decide(&mut self, head: &PlainHead<'_>, from: &str) -> Decision<Handle> {
        self.gateway.decide("web", head, &peer(from), self.now, &mut self.rng)
    }

    pub fn forward(&mut self, target: &str, fields: &[(&str, &str)]) -> (Box<Plan<Handle>>, Box<Flight<Handle>>) {
        match self.decide(&head(target, fields), "9.9.9.9") {
            Decision::Forward(plan, flight) => (plan, flight),
            Decision::Answer(answer) => panic!("{target}: {answer:?}"),
            Decision::Queue(_) => panic!("{target}: waits"),
        }
    }

    pub fn answer(&mut self, target: &str) -> Answer {
        match self.decide(&head(target, &[]), "9.9.9.9") {
            Decision::Answer(answer) => answer,
            _ => panic!("{target}: is not answered at once"),
        }
    }

    pub fn finish(&mut self, mut flight: Box<Flight<Handle>>, status: u16) {
        let next =
            flight.answered(&self.gateway, status, None, failed(Failure::Status(status)), self.now, &mut self.rng);
        assert!(matches!(next, Next::Pass(_)), "not tried again");
        flight.over(status, self.now);
    }
}

pub(super) fn failed(failure: Failure) -> Ended {
    Ended { failure, sent: true, replayable: true, retry_after: None }
}

#[test]
fn what_is_answered_without_an_upstream() {
    let mut world = World::new(TOML);
    let shown = |answer: Answer| format!("{} {:?} {:?}", answer.status, answer.headers, answer.body);
    for (target, wanted) in [
        ("/hello", r#"200 [("content-type", "text/plain; charset=utf-8")] "hello""#),
        ("/old/a?b=c", r#"308 [("location", "https://new.example/a?b=c"), ("x-by", "us")] """#),
        ("/nowhere", "404 "),
        ("/a%2fb", "400 "),
        ("/shop/../..", "400 "),
    ] {
        let answer = shown(world.answer(target));
        assert!(answer.starts_with(wanted), "{target}: {answer}");
    }
    let star = PlainHead { method: "OPTIONS", ..head("*", &[]) };
    assert!(matches!(world.decide(&star, "9.9.9.9"), Decision::Answer(answer) if answer.status == 204));
    let snapshot = world.gateway.snapshot(world.now);
    assert_eq!((snapshot.unrouted, snapshot.bad, snapshot.in_flight), (1, 2, 0));
}

#[test]
fn what_was_matched_is_what_is_forwarded() {
    let mut world = World::new(TOML);
    for (target, wanted) in [
        ("/shop/a?b=c", None),
        ("/shop//x/%7e?b=%7e", Some("/shop/x/~?b=%7e")),
        ("/canary/../shop/x", Some("/shop/x")),
        ("/users/17/a/b?c", Some("/v2/17/a/b?c")),
        ("/users/17", Some("/v2/17")),
    ] {
        let (plan, _) = world.forward(target, &[]);
        assert_eq!(plan.target.as_deref(), wanted, "{target}");
    }
    let (plan, flight) = world.forward("/users/17/x", &[]);
    assert_eq!(plan.host.as_deref(), Some("inner.example"));
    assert_eq!((plan.to.to_string().as_str(), flight.upstream()), ("127.0.0.1:9", "next"));
    assert!(plan.headers[0].1.starts_with("00-") && plan.headers[0].0 == "traceparent");
}

#[test]
fn deadlines_can_be_shortened_by_clients_and_not_lengthened() {
    let mut world = World::new(TOML);
    let mut left = |fields: &[(&str, &str)], from: &str| match world.decide(&head("/shop/", fields), from) {
        Decision::Forward(plan, _) => plan.deadline.since(world.now),
        _ => panic!("is forwarded"),
    };
    assert_eq!(left(&[], "9.9.9.9"), Duration::from_secs(30));
    assert_eq!(left(&[("grpc-timeout", "5S")], "9.9.9.9"), Duration::from_secs(5));
    assert_eq!(left(&[("grpc-timeout", "5H")], "9.9.9.9"), Duration::from_secs(30));
    assert_eq!(left(&[("x-request-timeout-ms", "100")], "9.9.9.9"), Duration::from_secs(30), "not from anybody");
    assert_eq!(left(&[("x-request-timeout-ms", "100")], "10.0.0.1"), Duration::from_millis(100));
}

#[test]
fn a_canary_keeps_its_users_and_grows_by_weight() {
    let mut world = World::new(TOML);
    let place = |world: &mut World| -> BTreeSet<u32> {
        (0..1000u32)
            .filter(|user| {
                let cookie = format!("a=b; user={user}");
                world.forward("/canary/", &[("cookie", &cookie)]).1.upstream() == "next"
            })
            .collect()
    };
    let before = place(&mut world);
    assert!((60..140).contains(&before.len()), "{}", before.len());
    assert_eq!(before, place(&mut world), "a user stays");
    world.apply(&TOML.replace("weight = 90", "weight = 70").replace("weight = 10", "weight = 30"));
    let after = place(&mut world);
    assert!(after.is_superset(&before) && (240..360).contains(&after.len()), "{}", after.len());
    world.apply(TOML);
    assert_eq!(before, place(&mut world), "and goes back where it was");
    let (_, anonymous) = world.forward("/canary/", &[]);
    let first = anonymous.upstream().to_owned();
    assert!((0..20).all(|_| world.forward("/canary/", &[]).1.upstream() == first), "without a cookie: by address");
}

#[test]
fn a_sticky_cookie_is_set_once_kept_and_hidden_from_the_endpoint() {
    let mut world = World::new(TOML);
    let (plan, mut flight) = world.forward("/sticky/", &[("cookie", "a=1")]);
    let first = *plan.to;
    let ended = failed(Failure::Status(200));
    let next = flight.answered(&world.gateway, 200, None, ended, world.now, &mut world.rng);
    let Next::Pass(Some(cookie)) = next else { panic!("a cookie is set") };
    assert!(cookie.starts_with("Q=") && cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    let sent = format!("a=1; {}", cookie.split(';').next().expect("a pair"));
    for _ in 0..20 {
        let (plan, mut flight) = world.forward("/sticky/", &[("cookie", &sent)]);
        assert_eq!(*plan.to, first);
        assert!(plan.headers.contains(&("cookie", "a=1".to_owned())), "{:?}", plan.headers);
        let next = flight.answered(&world.gateway, 200, None, ended, world.now, &mut world.rng);
        assert!(matches!(next, Next::Pass(None)), "no second cookie");
    }
}

#[test]
fn limits_answer_429_and_places_queue_then_503() {
    let mut world = World::new(TOML);
    let take = |world: &mut World| matches!(world.decide(&head("/limited", &[]), "9.9.9.9"), Decision::Forward(..));
    assert!(take(&mut world) && take(&mut world));
    let answer = world.answer("/limited");
    assert_eq!((answer.status, answer.headers.last().map(|(name, _)| name.as_str())), (429, Some("retry-after")));
    assert!(matches!(world.decide(&head("/limited", &[]), "8.8.8.8"), Decision::Forward(..)), "another client");
    // Somebody behind a trusted proxy is somebody else; a lie is not believed.
    let lie = [("x-forwarded-for", "7.7.7.7")];
    assert!(matches!(world.decide(&head("/limited", &lie), "9.9.9.9"), Decision::Answer(_)));
    assert!(matches!(world.decide(&head("/limited", &lie), "10.0.0.1"), Decision::Forward(..)));

    let (_, holder) = world.forward("/narrow", &[]);
    let Decision::Queue(mut queued) = world.decide(&head("/narrow", &[]), "9.9.9.9") else { panic!("waits") };
    assert_eq!(world.answer("/narrow").status, 503, "the queue is full");
    let mut context = Context::from_waker(Waker::noop());
    let mut poll = |queued: &mut Queued<Handle>| std::pin::Pin::new(queued).poll(&mut context);
    assert_eq!(poll(&mut queued), Poll::Pending);
    drop(holder);
    assert_eq!(poll(&mut queued), Poll::Ready(()));
    let Decision::Forward(_, second) = queued.go(&world.gateway, world.now, &mut world.rng) else { panic!("goes on") };
    // One that gives up its wait, and one whose place came while it did, leave no trace.
    let Decision::Queue(mut third) = world.decide(&head("/narrow", &[]), "9.9.9.9") else { panic!("waits") };
    assert_eq!(poll(&mut third), Poll::Pending);
    drop(third);
    let Decision::Queue(fourth) = world.decide(&head("/narrow", &[]), "9.9.9.9") else { panic!("waits") };
    drop(second);
    drop(fourth);
    let snapshot = world.gateway.snapshot(world.now);
    let narrow = snapshot.routes.iter().find(|route| route.name == "narrow").expect("there");
    assert_eq!((narrow.in_flight, narrow.waiting, narrow.refused), (0, 0, 1));
    assert_eq!(snapshot.in_flight, 0);
    drop(world.forward("/narrow", &[]));
}

#[test]
fn load_is_shed_where_too_many_bytes_are_held() {
    let shed = ShedConfig { bytes_max: 3_000, ..ShedConfig::default() };
    let gateway = Gateway::new(Settings { shed, ..Settings::default() });
    let mut world = World { gateway, now: Instant(1_000_000_000_000), rng: Rng::new(1) };
    world.apply(TOML);
    let body = [("content-length", "2000")];
    let (_, first) = world.forward("/canary/", &body);
    let (_, second) = world.forward("/canary/", &body);
    let answer = world.answer("/canary/");
    assert_eq!((answer.status, world.gateway.snapshot(world.now).shed), (503, 1), "4,000 bytes are held");
    drop(first);
    let (_, third) = world.forward("/canary/", &[("content-length", "18446744073709551615")]);
    assert_eq!(world.answer("/canary/").status, 503, "no more of a body counts than may be kept");
    drop((second, third));
    drop(world.forward("/canary/", &body));
}

#[test]
fn a_removed_endpoint_gets_nothing_after_the_call_returned() {
    let mut world = World::new(TOML);
    let mut members = config(TOML).upstreams().get("shop").map(|shop| listed_members(shop)).expect("there");
    while let Some(removed) = members.pop() {
        world.endpoints("shop", members.clone());
        for _ in 0..50 {
            match world.decide(&head("/shop/", &[]), "9.9.9.9") {
                Decision::Forward(plan, mut flight) => {
                    assert_ne!(*plan.to, removed.endpoint.addr);
                    // Not by a retry either.
                    let ended = failed(Failure::Connect);
                    let next = flight.failed(&world.gateway, ended, world.now, &mut world.rng);
                    assert!(!matches!(next, Next::Retry { to, .. } if *to == removed.endpoint.addr));
                    world.now = world.now + Duration::from_secs(60);
                    world.gateway.tick(world.now, &mut world.rng);
                }
                Decision::Answer(answer) => assert!(members.is_empty() && answer.status == 503, "{answer:?}"),
                Decision::Queue(_) => panic!("waits"),
            }
        }
    }
}

#[test]
fn retries_go_elsewhere_and_stay_within_the_budget() {
    let mut world = World::new(TOML);
    let (plan, mut flight) = world.forward("/shop/", &[]);
    let first = *plan.to;
    let ended = failed(Failure::Reset);
    let Next::Retry { to, pause, .. } = flight.failed(&world.gateway, ended, world.now, &mut world.rng) else {
        panic!("a GET is tried again")
    };
    assert!(*to != first && pause <= Duration::from_millis(25));
    let post = PlainHead { method: "POST", ..head("/shop/", &[]) };
    let Decision::Forward(_, mut flight) = world.decide(&post, "9.9.9.9") else { panic!("is forwarded") };
    assert!(matches!(flight.failed(&world.gateway, ended, world.now, &mut world.rng), Next::Pass(None)), "POST is not");
    drop(flight);
    // Half of all answers fail: attempts grow by a fifth at most.
    let mut attempts = 0u32;
    let requests = 2000;
    for _ in 0..requests {
        world.now = world.now + Duration::from_millis(5);
        let (_, mut flight) = world.forward("/shop/", &[]);
        loop {
            let status = if world.rng.chance(1, 2) { 503 } else { 200 };
            let ended = failed(Failure::Status(status));
            match flight.answered(&world.gateway, status, None, ended, world.now, &mut world.rng) {
                Next::Retry { .. } => {}
                Next::Pass(_) => break,
            }
        }
        attempts += flight.attempts();
        flight.over(200, world.now);
    }
    let floor = RetryBudgetConfig::default().floor;
    assert!(attempts <= requests * 12 / 10 + floor, "{attempts} attempts of {requests} requests");
    assert!(attempts > requests * 11 / 10, "and the budget is used: {attempts}");
}

#[test]
fn an_upstream_that_is_down_opens_its_breaker_and_keeps_what_it_learned() {
    let mut world = World::new(TOML);
    for _ in 0..40 {
        if let Decision::Forward(_, flight) = world.decide(&head("/users/1", &[]), "9.9.9.9") {
            world.finish(flight, 500);
        }
    }
    let breaker = |world: &World| {
        let snapshot = world.gateway.snapshot(world.now);
        snapshot.upstreams.iter().find(|upstream| upstream.name == "next").map(|upstream| upstream.breaker)
    };
    assert_eq!(breaker(&world), Some(BreakerState::Open));
    assert_eq!(world.answer("/users/1").status, 503);
    let happened = world.gateway.happenings();
    assert!(happened.iter().any(|event| matches!(event, Event::Breaker { upstream, .. } if **upstream == *"next")));
    // Another configuration with the same upstream: what is known of it stays.
    world.apply(&TOML.replace("/hello", "/hi"));
    assert_eq!(breaker(&world), Some(BreakerState::Open));
    assert_eq!(world.answer("/hi").status, 200);
    // One that says something else about its breaker begins anew.
    world.apply(&TOML.replace("[upstream.next]", "[upstream.next]\nbreaker.enabled = false"));
    assert_eq!(breaker(&world), Some(BreakerState::Closed));
}

#[test]
fn checks_take_endpoints_out_and_bring_them_back() {
    let mut world = World::new(TOML);
    let dead: Handle = "127.0.0.1:2".parse().expect("an address");
    let turn = |world: &mut World, alive: bool| {
        world.now = world.now + Duration::from_secs(6);
        for probe in world.gateway.tick(world.now, &mut world.rng) {
            assert!(probe.kind == crate::model::CheckKind::Tcp && probe.until > world.now);
            let good = probe.endpoint.addr != dead || alive;
            world.gateway.checked(&probe.upstream, probe.endpoint.id, good, world.now, &mut world.rng);
        }
        (0..30).any(|_| *world.forward("/shop/", &[]).0.to == dead)
    };
    assert!(!turn(&mut world, false), "the first answer decides at once");
    assert!(!turn(&mut world, true), "two in a row are needed");
    assert!(turn(&mut world, true));
    assert!(turn(&mut world, false) && turn(&mut world, false), "so are three");
    assert!(!turn(&mut world, false));
    assert!(world.gateway.deadline().is_some_and(|at| at <= world.now + Duration::from_secs(6)));
}

#[test]
fn connections_take_the_route_of_their_listener() {
    let mut world = World::new(TOML);
    let decision = world.gateway.decide_connection("db", None, &peer("9.9.9.9"), world.now, &mut world.rng);
    let Decision::Forward(plan, flight) = decision else { panic!("is forwarded") };
    assert_eq!((plan.to.to_string().as_str(), &*flight.route.compiled.name), ("127.0.0.1:9", "db"));
    let decision = world.gateway.decide_connection("nobody", None, &peer("9.9.9.9"), world.now, &mut world.rng);
    assert!(matches!(decision, Decision::Answer(answer) if answer.status == 503));
}

#[test]
fn streams_that_end_well_close_a_breaker() {
    let mut world = World::new(TOML);
    let connect = |world: &mut World| {
        let decision = world.gateway.decide_connection("db", None, &peer("9.9.9.9"), world.now, &mut world.rng);
        let Decision::Forward(_, flight) = decision else { return None };
        Some(flight)
    };
    for _ in 0..40 {
        if let Some(mut flight) = connect(&mut world) {
            flight.failed(&world.gateway, failed(Failure::Connect), world.now, &mut world.rng);
        }
    }
    assert!(connect(&mut world).is_none(), "open");
    world.now = world.now + Duration::from_secs(40);
    world.gateway.tick(world.now, &mut world.rng);
    for _ in 0..5 {
        connect(&mut world).expect("a trial").over(200, world.now);
    }
    let snapshot = world.gateway.snapshot(world.now);
    assert!(snapshot.upstreams.iter().all(|upstream| upstream.breaker == BreakerState::Closed));
}

#[test]
fn an_upstream_that_is_gone_gets_no_retries() {
    let mut world = World::new(TOML);
    let (_, mut flight) = world.forward("/users/1", &[]);
    world.apply("[listener.web]\n[route.hello]\nrespond = 200\n");
    let next = flight.failed(&world.gateway, failed(Failure::Connect), world.now, &mut world.rng);
    assert!(matches!(next, Next::Pass(None)));
    flight.over(502, world.now);
    drop(flight);
    assert_eq!(world.gateway.snapshot(world.now).in_flight, 0);
}

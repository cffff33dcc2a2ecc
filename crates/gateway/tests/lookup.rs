//! What finding a route costs, at ten and at ten thousand routes, and what deciding costs on two threads. Measurements, so not run by themselves:
//!
//! ```text
//! cargo test --release -p gateway --test lookup -- --ignored --nocapture
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use base::Duration;
use gateway::live::{Decision, Ended, Gateway, Settings, listed_members};
use gateway::model::read_toml;
use gateway::request::{Asked, Peer, PlainHead};
use gateway::resilience::Failure;
use gateway::{Captures, Config};

/// Routes by host, by wildcard host and by path alone, each with a parameter and a rest.
fn config(count: usize) -> Config {
    let routes: String = (0..count)
        .map(|at| {
            let host = match at % 3 {
                0 => format!("hosts = \"h{at}.example\"\n"),
                1 => format!("hosts = \"*.w{at}.example\"\n"),
                _ => String::new(),
            };
            format!("[route.r{at}]\n{host}path = \"/svc{at}/{{id}}/*\"\nto = \"u\"\n")
        })
        .collect();
    let text = format!("[listener.web]\n[upstream.u]\nendpoints = \"127.0.0.1:1\"\n{routes}");
    Config::new(read_toml(&text).expect("valid")).expect("valid")
}

/// Nanoseconds for one request: normal form and lookup. `targets` are asked for in turn.
fn cost(config: &Config, targets: &[(String, String)], rounds: usize) -> f64 {
    let table = config.table("web").expect("there");
    let started = Instant::now();
    let mut found = 0;
    for round in 0..rounds {
        let (authority, target) = &targets[round % targets.len()];
        let head = PlainHead { method: "GET", authority, target, fields: &[("accept", "*/*"), ("user-agent", "x")] };
        let asked = Asked::of(&head).expect("good");
        found += usize::from(table.find(&asked, &head, &mut Captures::default()).is_some());
    }
    assert_eq!(found, rounds);
    started.elapsed().as_nanos() as f64 / rounds as f64
}

fn targets(from: impl Iterator<Item = usize>) -> Vec<(String, String)> {
    from.map(|at| {
        let host = match at % 3 {
            0 => format!("h{at}.example"),
            1 => format!("x.w{at}.example"),
            _ => "elsewhere.example".into(),
        };
        (host, format!("/svc{at}/17/a/b?c=d"))
    })
    .collect()
}

#[test]
#[ignore = "a measurement: see the head"]
fn ten_thousand_routes_cost_what_ten_cost() {
    const ROUNDS: usize = 2_000_000;
    let (few, many) = (config(10), config(10_000));
    // Ten of the ten thousand, and all of them in a mixed order (every one a cache miss).
    let hot = targets((0..10).map(|at| at * 997));
    let cold = targets((0..10_000).map(|at| at * 7919 % 10_000));
    let ten = targets(0..10);
    for name in ["warm-up", "measured", "measured"] {
        let (a, b, c) = (cost(&few, &ten, ROUNDS), cost(&many, &hot, ROUNDS), cost(&many, &cold, ROUNDS));
        println!(
            "{name}: 10 routes {a:.0} ns; 10,000 routes, ten of them asked for {b:.0} ns ({:.2}x); all of them {c:.0} ns ({:.2}x)",
            b / a,
            c / a
        );
    }
}

/// Nanoseconds of one decision with its answer, as each of so many threads sees it.
fn deciding(threads: usize, rounds: usize) -> f64 {
    let text = "[listener.web]\n[upstream.u]\nendpoints = [\"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:3\"]\n\
        [route.r]\npath = \"/svc/*\"\nto = \"u\"\n";
    let config = Config::new(read_toml(text).expect("valid")).expect("valid");
    let members = listed_members(&config.upstreams()["u"]);
    let gateway: Gateway<SocketAddr> = Gateway::new(Settings::default());
    let (now, mut rng) = (base::Instant(1_000_000_000), base::Rng::new(1));
    gateway.apply(config, &mut |it, _| Arc::new(it.addr), now, &mut rng);
    assert!(gateway.endpoints("u", members, &mut |it, _| Arc::new(it.addr), now, &mut rng));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut rng = base::Rng::new(thread as u64);
                let peer = Peer { address: [127, 0, 0, 1].into(), tls: false };
                let fields = [("accept", "*/*"), ("user-agent", "x")];
                let head = PlainHead { method: "GET", authority: "a.example", target: "/svc/x", fields: &fields };
                for round in 0..rounds {
                    let now = now + Duration::from_micros(round as u64);
                    let decision = gateway.decide("web", &head, &peer, now, &mut rng);
                    let Decision::Forward(_, mut flight) = decision else { panic!("is forwarded") };
                    let ended =
                        Ended { failure: Failure::Status(200), sent: true, replayable: true, retry_after: None };
                    flight.answered(gateway, 200, None, ended, now, &mut rng);
                    flight.over(200, now);
                }
            });
        }
    });
    started.elapsed().as_nanos() as f64 / rounds as f64
}

#[test]
#[ignore = "a measurement: see the head"]
fn two_threads_decide_without_much_of_each_other() {
    for name in ["warm-up", "measured", "measured", "measured"] {
        let (one, two) = (deciding(1, 500_000), deciding(2, 500_000));
        println!(
            "{name}: a decision and its answer: one thread {one:.0} ns; two threads {two:.0} ns each ({:.2}x)",
            two / one
        );
    }
}

//! What finding a route costs, at ten and at ten thousand routes. A measurement, so not run by itself:
//!
//! ```text
//! cargo test --release -p gateway --test lookup -- --ignored --nocapture
//! ```

use std::time::Instant;

use gateway::model::read_toml;
use gateway::request::{Asked, PlainHead};
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

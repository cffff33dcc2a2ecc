//! `cargo xtask bench gateway`: Debian's nginx and HAProxy and quorate's gateway in alternation, in the same minutes, under the same client.
//!
//! ```text
//! cargo xtask bench gateway [--quick] [--bin PATH] [--out FILE] [--rounds N] [--seconds S] [--only PART,PART]
//!   parts: http, two-threads, tcp, h2, rated, latency, routes, idle
//! ```
//!
//! Client, balancers and upstreams share the machine's cores, so the figure to compare is the balancer's own CPU for 100,000 requests;
//! throughput and latencies stand beside it. In every round each balancer gets the same load once; the order turns from round to round. Quoted
//! are medians of the rounds' ratios with the smallest and the largest. Writes its part of docs/benchmarks.md, between marks of its own;
//! a part that did not run keeps the table that stands there.

mod clients;
pub mod peers;
mod rated;
mod report;

use super::measure;
use crate::shell::root;
use clients::Load;
use peers::{Balancer, Peers};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is run and for how long.
pub struct Plan {
    quick: bool,
    rounds: usize,
    seconds: u64,
    only: Vec<String>,
    bin: PathBuf,
    out: PathBuf,
    dir: PathBuf,
}

/// What one load on one balancer showed.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Answers.
    pub requests: f64,
    /// Answers a second.
    pub rate: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// The latency that one in a hundred exceeds.
    pub p99_ms: f64,
    /// The balancer's CPU seconds for 100,000 requests.
    pub cpu: f64,
    /// Answers that were none, or not 2xx.
    pub failed: f64,
}

/// One load on several balancers.
pub struct Row {
    /// What was loaded with what.
    pub title: String,
    /// Ours is the first; peers follow.
    pub names: Vec<String>,
    /// Round by round, in the order of the names.
    pub rounds: Vec<Vec<Sample>>,
    /// What the issue asks for: the most of CPU and of p99 against the better peer.
    pub asked: (Option<f64>, Option<f64>),
}

/// Memory of idle connections: name, connections, bytes each, resident bytes before.
pub type Idle = Vec<(String, usize, f64, u64)>;

/// Everything a part found.
pub enum Found {
    /// Loads.
    Rows(Vec<Row>),
    /// Memory.
    Idle(Idle),
}

/// A part's name and what runs it.
type Part = (&'static str, fn(&Plan) -> Result<Found, String>);

const PARTS: [Part; 8] = [
    ("http", http),
    ("two-threads", two_threads),
    ("tcp", tcp),
    ("h2", h2),
    ("rated", rated),
    ("latency", latency),
    ("routes", routes),
    ("idle", idle),
];

/// Entry of `cargo xtask bench gateway`.
pub fn run(args: &[String]) -> Result<(), String> {
    let plan = read(args)?;
    for program in ["nginx", "haproxy", "wrk", "h2load"] {
        peers::program(program)?;
    }
    if !plan.bin.is_file() {
        return Err(format!("{} is not there: cargo build --release -p quorate, or --bin PATH", plan.bin.display()));
    }
    let start = Instant::now();
    for (name, part) in PARTS {
        if plan.only.is_empty() || plan.only.iter().any(|wanted| wanted == name) {
            let found = part(&plan)?;
            report::write(&plan, name, &found)?;
        }
    }
    let _ = std::fs::remove_dir_all(&plan.dir);
    println!("bench: {:.1} minutes; wrote {}", start.elapsed().as_secs_f64() / 60.0, plan.out.display());
    Ok(())
}

fn read(args: &[String]) -> Result<Plan, String> {
    let root = root();
    let quick = args.iter().any(|flag| flag == "--quick");
    let (rounds, seconds) = if quick { (3, 2) } else { (5, 4) };
    let mut plan = Plan {
        quick,
        rounds,
        seconds,
        only: Vec::new(),
        bin: root.join("target/release/quorate"),
        out: root.join("docs/benchmarks.md"),
        dir: root.join("target/bench-gateway"),
    };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        let number =
            |text: String| text.parse().ok().filter(|n| *n > 0).ok_or(format!("{flag} wants a number above 0"));
        match flag.as_str() {
            "--quick" => {}
            "--bin" => plan.bin = PathBuf::from(value()?),
            "--out" => plan.out = PathBuf::from(value()?),
            "--rounds" => plan.rounds = number(value()?)? as usize,
            "--seconds" => plan.seconds = number(value()?)?,
            "--only" => plan.only = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("bench gateway does not know {flag}")),
        }
    }
    let names = PARTS.map(|(name, _)| name);
    match plan.only.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!("--only: no part {name:?}; there are {}", names.join(", "))),
        None => Ok(plan),
    }
}

/// The same load on each in turn, round after round; a first short round does not count.
fn row(
    plan: &Plan,
    title: &str,
    asked: (Option<f64>, Option<f64>),
    balancers: &[&Balancer],
    load: &dyn Fn(&Balancer, u64) -> Result<Sample, String>,
) -> Result<Row, String> {
    for balancer in balancers {
        load(balancer, 1)?;
    }
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        let mut samples = vec![Sample::default(); balancers.len()];
        for step in 0..balancers.len() {
            let at = (round + step) % balancers.len();
            let before = balancers[at].cpu_seconds()?;
            let sample = load(balancers[at], plan.seconds)?;
            let cpu = (balancers[at].cpu_seconds()? - before) * 100_000.0 / sample.requests.max(1.0);
            samples[at] = Sample { cpu, ..sample };
        }
        rounds.push(samples);
    }
    let names = balancers.iter().map(|balancer| balancer.name.clone()).collect();
    let row = Row { title: title.to_owned(), names, rounds, asked };
    println!("bench: {}", report::line(&row));
    Ok(row)
}

/// Requests a second of the part `rated`.
const RATE: usize = 10_000;

const PROXIED: (Option<f64>, Option<f64>) = (Some(1.25), Some(1.2));

fn http(plan: &Plan) -> Result<Found, String> {
    let peers = Peers::start(plan, 1, 10)?;
    let mut rows = Vec::new();
    for connections in [64, 1] {
        let load = |balancer: &Balancer, seconds| Load::wrk(connections, seconds).run(&balancer.http);
        let title = format!("HTTP/1.1, {connections} connection{}", if connections == 1 { "" } else { "s" });
        rows.push(row(plan, &title, PROXIED, &peers.all(), &load)?);
    }
    Ok(Found::Rows(rows))
}

fn two_threads(plan: &Plan) -> Result<Found, String> {
    let peers = Peers::start(plan, 2, 10)?;
    let load = |balancer: &Balancer, seconds| Load::wrk(64, seconds).run(&balancer.http);
    Ok(Found::Rows(vec![row(plan, "HTTP/1.1, 64 connections, two threads each", PROXIED, &peers.all(), &load)?]))
}

fn tcp(plan: &Plan) -> Result<Found, String> {
    let peers = Peers::start(plan, 1, 10)?;
    let load = |balancer: &Balancer, seconds| Load::wrk(64, seconds).run(&balancer.tcp);
    let both = [&peers.quorate, &peers.haproxy];
    Ok(Found::Rows(vec![row(plan, "TCP, 64 connections", (Some(1.1), Some(1.2)), &both, &load)?]))
}

fn h2(plan: &Plan) -> Result<Found, String> {
    let peers = Peers::start(plan, 1, 10)?;
    let load = |balancer: &Balancer, seconds| Load::h2load(8, 8, seconds).run(&balancer.h2);
    Ok(Found::Rows(vec![row(plan, "HTTP/2 (h2c) in front, 8 connections × 8 streams", PROXIED, &peers.all(), &load)?]))
}

/// Below what any of them can do: what a queue that the client makes by itself does not hide.
fn rated(plan: &Plan) -> Result<Found, String> {
    let peers = Peers::start(plan, 1, 10)?;
    let plain =
        |balancer: &Balancer, seconds| rated::rated(&balancer.http, RATE as f64, 64, Duration::from_secs(seconds));
    let streams = |balancer: &Balancer, seconds| Load::h2load(8, 8, seconds).rate(RATE).run(&balancer.h2);
    let asked = (None, Some(1.2));
    let first = row(plan, "10,000 requests/s, HTTP/1.1, 64 connections", asked, &peers.all(), &plain)?;
    let title = "10,000 requests/s, HTTP/2 (h2c) in front, 8 connections × 8 streams";
    Ok(Found::Rows(vec![first, row(plan, title, asked, &peers.all(), &streams)?]))
}

/// At 1,000 requests a second; the first of the row is the upstream itself.
fn latency(plan: &Plan) -> Result<Found, String> {
    let peers = Peers::start(plan, 1, 10)?;
    let direct = peers.direct();
    let load = |balancer: &Balancer, seconds| clients::paced(&balancer.http, 1000.0, 4, seconds);
    let all = [&peers.quorate, &peers.nginx, &peers.haproxy, &direct];
    Ok(Found::Rows(vec![row(plan, "1,000 requests/s, 4 connections, paced", (None, None), &all, &load)?]))
}

fn routes(plan: &Plan) -> Result<Found, String> {
    let many = 10_000;
    let peers = Peers::start(plan, 1, 10)?;
    let full = peers.another_quorate(plan, "10,000 routes", 1, many)?;
    let load = |balancer: &Balancer, seconds| {
        let at = if balancer.name == "quorate" { 7 } else { many - 3 };
        Load::wrk(64, seconds).host(&format!("h{at}.example.com")).path(&format!("/api/v{at}/x")).run(&balancer.http)
    };
    Ok(Found::Rows(vec![row(plan, "10,000 routes beside ten", (Some(1.2), None), &[&full, &peers.quorate], &load)?]))
}

fn idle(plan: &Plan) -> Result<Found, String> {
    let count = if plan.quick { 2000 } else { 9000 };
    let peers = Peers::start(plan, 1, 10)?;
    let mut found = Vec::new();
    for balancer in peers.all() {
        let before = balancer.resident_bytes()?;
        let held = clients::hold(&balancer.http, count)?;
        std::thread::sleep(Duration::from_secs(2));
        let after = balancer.resident_bytes()?;
        let each = after.saturating_sub(before) as f64 / held.len() as f64;
        println!("bench: {}: {:.1} KiB for each of {} idle connections", balancer.name, each / 1024.0, held.len());
        found.push((balancer.name.clone(), held.len(), each, before));
    }
    Ok(Found::Idle(found))
}

//! `cargo xtask bench discovery`: coordination and registry. Debian's etcd and quorate in alternation, on one node and on three, under the same gRPC
//! load; then the registry by itself, which has no peer here.
//!
//! ```text
//! cargo xtask bench discovery [--quick] [--bin PATH] [--out FILE] [--rounds N] [--seconds S] [--only PART,PART]
//!   parts: one, three (etcd's calls), watch (1,000 watchers of one key), registry (visibility, memory, checks)
//! ```
//!
//! Both run at once on the machine that they share with the loader, the load goes to one after the other, round by round, the order turning.
//! 128-byte values over 10,000 keys, one call in flight for each client, eight clients on a connection, all at the node that leads. What an
//! answer to a write promises is the same on both: it is on the disks of a majority.

mod etcd;
mod registry;
mod report;
mod watch;

use super::cluster::peers::{self, Peer};
use super::grpc::Shown;
use super::measure;
use crate::ground::{Ground, Process};
use crate::nodes::Nodes;
use crate::shell::root;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is run and for how long.
pub struct Plan {
    quick: bool,
    rounds: usize,
    seconds: f64,
    only: Vec<String>,
    bin: PathBuf,
    out: PathBuf,
    dir: PathBuf,
}

/// One load on one system.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Answers a second.
    pub rate: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// The latency that one in a hundred exceeds.
    pub p99_ms: f64,
    /// CPU microseconds for one request: of all servers, and of the loader.
    pub cpu_us: [f64; 2],
}

/// One load on ours and on etcd, in this order, round by round.
pub struct Row {
    title: String,
    rounds: Vec<[Sample; 2]>,
}

/// A system under load, its leader first.
pub struct System {
    pids: Vec<u32>,
    /// Where clients of etcd's protocol go.
    addrs: Vec<String>,
    #[expect(dead_code, reason = "its processes run as long as it lives")]
    running: Running,
}

#[expect(dead_code, reason = "its processes run as long as it lives")]
enum Running {
    Peer(Peer),
    Ours(Box<Nodes>),
}

impl System {
    fn etcd(plan: &Plan, count: usize) -> Result<System, String> {
        let peer = peers::etcd(&Ground::loopback(), &plan.dir.join(format!("etcd-{count}")), count, None)?;
        let pids = peer.processes.iter().map(Process::pid).collect();
        Ok(System { pids, addrs: peer.addrs.clone(), running: Running::Peer(peer) })
    }

    /// Ours; the node that leads the meta group, where etcd's keys are, first.
    fn ours(plan: &Plan, count: usize) -> Result<System, String> {
        let nodes = nodes(plan, count)?;
        let leader = if count > 1 { nodes.leader(0).ok_or("nobody leads the meta group")? } else { 0 };
        let mut order: Vec<usize> = (0..count).collect();
        order.swap(0, leader);
        let pids = order.iter().filter_map(|at| nodes.nodes[*at].process.as_ref()).map(Process::pid).collect();
        let addrs = order.iter().map(|at| nodes.nodes[*at].etcd.clone()).collect();
        Ok(System { pids, addrs, running: Running::Ours(Box::new(nodes)) })
    }

    fn cpu(&self) -> Result<f64, String> {
        self.pids.iter().map(|pid| measure::cpu_seconds(*pid)).sum()
    }

    /// Runs a load, and what it cost. `count` of what was done stands for the requests, where they are not what was timed.
    fn measured(&self, run: impl FnOnce(&[String]) -> Result<Shown, String>) -> Result<Sample, String> {
        let loader = || measure::cpu_seconds(std::process::id());
        let before = (self.cpu()?, loader()?);
        let mut shown = run(&self.addrs)?;
        let spent = [self.cpu()? - before.0, loader()? - before.1];
        if shown.failed * 1000 > shown.took.len() || shown.took.is_empty() {
            return Err(format!("{} of {} failed: {}", shown.failed, shown.took.len(), shown.complaint));
        }
        let count = shown.took.len() as f64;
        let [p50_ms, p99_ms, _] = measure::latencies(&mut shown.took);
        let cpu_us = spent.map(|seconds| seconds * 1e6 / count);
        Ok(Sample { rate: count / shown.span.as_secs_f64(), p50_ms, p99_ms, cpu_us })
    }
}

/// Nodes of ours that serve.
fn nodes(plan: &Plan, count: usize) -> Result<Nodes, String> {
    let dir = plan.dir.join(format!("ours-{count}"));
    let _ = std::fs::remove_dir_all(&dir);
    let args = ["--stop-timeout", "5s"].map(str::to_owned).to_vec();
    let start = crate::nodes::Plan { bin: plan.bin.clone(), args, ..Default::default() };
    let nodes = Nodes::found(Ground::loopback(), start, &dir, count)?;
    nodes.all_serve(Duration::from_secs(60))?;
    if count > 1 {
        nodes.await_replicas(Duration::from_secs(60))?;
    }
    Ok(nodes)
}

/// The same on both systems, round by round; `play` is given how long, and a number of the round.
fn row(
    plan: &Plan,
    title: &str,
    systems: &[System; 2],
    mut play: impl FnMut(&System, Duration, u64) -> Result<Sample, String>,
) -> Result<Row, String> {
    // A first run that counts for nothing: files have grown, keys are there.
    for system in systems {
        play(system, Duration::from_secs_f64(plan.seconds / 3.0), 0)?;
    }
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        let mut samples = [Sample::default(), Sample::default()];
        for turn in 0..2 {
            let at = (turn + round) % 2;
            samples[at] = play(&systems[at], Duration::from_secs_f64(plan.seconds), round as u64 + 1)?;
        }
        rounds.push(samples);
    }
    let row = Row { title: title.to_owned(), rounds };
    println!("bench: {}", report::line(&row));
    Ok(row)
}

/// Rows, and sentences that stand below them.
type Found = (Vec<Row>, Vec<String>);

/// A part's name and what runs it.
type Part = (&'static str, fn(&Plan) -> Result<Found, String>);

const PARTS: [Part; 4] = [("one", one), ("three", three), ("watch", watched), ("registry", registry::run)];

fn one(plan: &Plan) -> Result<Found, String> {
    calls(plan, 1)
}

fn three(plan: &Plan) -> Result<Found, String> {
    calls(plan, 3)
}

fn calls(plan: &Plan, count: usize) -> Result<Found, String> {
    let systems = [System::ours(plan, count)?, System::etcd(plan, count)?];
    measure::settle();
    let mut rows = Vec::new();
    for load in etcd::LOADS {
        for clients in [64, 1] {
            let of = if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") };
            rows.push(row(plan, &format!("{}, {of}", load.title), &systems, |system, span, round| {
                system.measured(|addrs| load.play(&addrs[..1], clients, span, round))
            })?);
        }
    }
    Ok((rows, Vec::new()))
}

fn watched(plan: &Plan) -> Result<Found, String> {
    let mut rows = Vec::new();
    for count in [1, 3] {
        let systems = [System::ours(plan, count)?, System::etcd(plan, count)?];
        measure::settle();
        let nodes = if count == 1 { "one node" } else { "three nodes, the watchers at all of them" };
        rows.push(row(plan, &format!("1,000 watchers of one key, {nodes}"), &systems, |system, span, _| {
            // The clock of a delivery begins before its put.
            system.measured(|addrs| watch::play(addrs, span))
        })?);
    }
    Ok((rows, Vec::new()))
}

/// Entry of `cargo xtask bench discovery`.
pub fn run(args: &[String]) -> Result<(), String> {
    let plan = read(args)?;
    if !crate::shell::there("etcd") {
        return Err("no etcd (Debian: etcd-server)".into());
    }
    let start = Instant::now();
    for (name, part) in PARTS {
        if plan.only.is_empty() || plan.only.iter().any(|wanted| wanted == name) {
            let (rows, notes) = part(&plan)?;
            report::write(&plan, name, &rows, &notes)?;
        }
    }
    let _ = std::fs::remove_dir_all(&plan.dir);
    println!("bench: {:.1} minutes; wrote {}", start.elapsed().as_secs_f64() / 60.0, plan.out.display());
    Ok(())
}

fn read(args: &[String]) -> Result<Plan, String> {
    let root = root();
    let quick = args.iter().any(|flag| flag == "--quick");
    let (rounds, seconds) = if quick { (2, 0.6) } else { (5, 2.0) };
    let mut plan = Plan {
        quick,
        rounds,
        seconds,
        only: Vec::new(),
        bin: root.join("target/release/quorate"),
        out: root.join("docs/benchmarks.md"),
        dir: root.join("target/bench-discovery"),
    };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--quick" => {}
            "--bin" => plan.bin = PathBuf::from(value()?),
            "--out" => plan.out = PathBuf::from(value()?),
            "--rounds" => {
                plan.rounds = value()?.parse().ok().filter(|n| *n > 0).ok_or("--rounds wants a number above 0")?;
            }
            "--seconds" => {
                plan.seconds = value()?.parse().ok().filter(|n| *n > 0.0).ok_or("--seconds wants a number above 0")?;
            }
            "--only" => plan.only = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("bench discovery does not know {flag}")),
        }
    }
    match plan.only.iter().find(|name| !PARTS.iter().any(|(part, _)| part == name)) {
        Some(name) => Err(format!("--only: no part {name:?}; there are {}", PARTS.map(|(name, _)| name).join(", "))),
        None => Ok(plan),
    }
}

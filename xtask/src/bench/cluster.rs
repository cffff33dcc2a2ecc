//! `cargo xtask bench cluster`: three nodes of ours, Debian's etcd on three nodes, and Redis with a replica, in alternation, under the same load.
//!
//! ```text
//! cargo xtask bench cluster [--quick] [--bin PATH] [--out FILE] [--rounds N] [--seconds S] [--only PART,PART] [--without-ours]
//!   parts: loopback, shards, slow, costs
//! ```
//!
//! All servers of a part run at once, the load goes to one after the other (round by round, the order turning), 128-byte values over 100,000
//! keys, one request in flight for each client. The loaders are our own (`redis`, `etcd`), and how much CPU they take stands in the table, so that
//! one can see that they are not what is measured. What an answer promises: ours and etcd, on the disks of a majority of three; Redis with
//! `appendfsync always` and `WAIT 1`, on the master's disk and in the replica's memory. `slow`: 1 ms between nodes each way (the switch of
//! `net`), and 2 ms added to each fsync and fdatasync of every server alike.

mod etcd;
pub mod peers;
mod redis;
mod report;

use super::measure;
use crate::ground::Ground;
use crate::net::switch::Line;
use crate::net::sync::Syncs;
use crate::nodes::Nodes;
use crate::rng::Rng;
use crate::shell::root;
use peers::Peer;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Lines between servers in the part `slow`, each way.
const SLOW_LINE: Duration = Duration::from_millis(1);
/// What each fsync takes longer there.
const SLOW_SYNC: Duration = Duration::from_millis(2);
/// Keys that requests draw from.
const KEYS: usize = 100_000;

/// What is asked, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients, one request in flight for each.
    pub clients: usize,
    /// Writes, or linearizable reads.
    pub write: bool,
    /// How long.
    pub span: Duration,
    /// Which keys.
    pub seed: u64,
}

impl Load {
    fn requests(&self) -> Requests {
        let value = super::load::value(&mut Rng::new(self.seed ^ 0x7661_6c75), measure::VALUE_BYTES);
        Requests { rng: Rng::new(self.seed), key: Vec::new(), value }
    }
}

/// Keys and values, drawn by the seed.
pub struct Requests {
    rng: Rng,
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Requests {
    fn next(&mut self) -> (&[u8], &[u8]) {
        self.key = format!("key:{:012}", self.rng.below(KEYS)).into_bytes();
        (&self.key, &self.value)
    }
}

/// One load on one system.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Answers.
    pub count: f64,
    /// Answers a second.
    pub rate: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// The latency that one in a hundred exceeds.
    pub p99_ms: f64,
    /// CPU seconds for 100,000 requests of the leader (or whoever serves the clients), of all servers, and of the loader.
    pub cpu: [f64; 3],
}

/// One load on several systems.
pub struct Row {
    title: String,
    names: Vec<String>,
    /// Round by round, in the order of the names.
    rounds: Vec<Vec<Sample>>,
}

/// What is run and for how long.
pub struct Plan {
    rounds: usize,
    seconds: f64,
    only: Vec<String>,
    ours: bool,
    bin: PathBuf,
    out: PathBuf,
    dir: PathBuf,
}

/// How a system is spoken to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Speech {
    Etcd,
    Redis { wait: bool },
}

/// A system under load.
struct System {
    name: String,
    /// Its processes; the one that serves the clients (or leads) first.
    pids: Vec<u32>,
    /// Where those live, in the same order.
    places: Vec<usize>,
    /// What their fsyncs do, in the same order; may be empty.
    syncs: Vec<Arc<Syncs>>,
    /// Where clients go.
    addrs: Vec<String>,
    speech: Speech,
    /// What keeps it running.
    running: Running,
}

enum Running {
    #[expect(dead_code, reason = "its processes run as long as it lives")]
    Peer(Peer),
    Ours(Box<Nodes>),
}

impl System {
    fn peer(name: &str, peer: Peer, speech: Speech) -> System {
        let pids = peer.processes.iter().map(crate::ground::Process::pid).collect();
        let (places, syncs) = (peer.places.clone(), peer.syncs.clone());
        System {
            name: name.into(),
            pids,
            places,
            syncs,
            addrs: vec![peer.addrs[0].clone()],
            speech,
            running: Running::Peer(peer),
        }
    }

    /// `count` nodes of ours. Clients go to the leader of the first shard, or to all nodes.
    fn ours(
        plan: &Plan,
        ground: Ground,
        name: &str,
        count: usize,
        shards: usize,
        all: bool,
        syncs: Option<Duration>,
    ) -> Result<System, String> {
        let dir = plan.dir.join(format!("ours-{count}-{shards}"));
        let _ = std::fs::remove_dir_all(&dir);
        let mut args = Vec::new();
        args.extend(["--stop-timeout", "5s"].map(str::to_owned));
        let start =
            crate::nodes::Plan { bin: plan.bin.clone(), shards, args, syncs: syncs.is_some(), ..Default::default() };
        let nodes = Nodes::found(ground, start, &dir, count)?;
        if let Some(delay) = syncs {
            nodes.nodes.iter().for_each(|node| node.syncs.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed));
        }
        nodes.all_serve(Duration::from_secs(60))?;
        let leader = if count > 1 {
            nodes.await_replicas(Duration::from_secs(60))?;
            nodes.leader(1).ok_or("shard 1 of ours has no leader")?
        } else {
            0
        };
        let mut order: Vec<usize> = (0..count).collect();
        order.swap(0, leader);
        let pids =
            order.iter().filter_map(|at| nodes.nodes[*at].process.as_ref()).map(crate::ground::Process::pid).collect();
        let targets = if all { count } else { 1 };
        let addrs = order.iter().take(targets).map(|at| nodes.nodes[*at].redis.clone()).collect();
        let speech = Speech::Redis { wait: false };
        let syncs = order.iter().map(|at| Arc::clone(&nodes.nodes[*at].syncs)).collect();
        Ok(System {
            name: name.into(),
            pids,
            places: order,
            syncs,
            addrs,
            speech,
            running: Running::Ours(Box::new(nodes)),
        })
    }

    fn play(&self, ground: &Ground, load: &Load) -> Result<Sample, String> {
        let cpu = || -> Result<Vec<f64>, String> {
            let servers = self.pids.iter().map(|pid| measure::cpu_seconds(*pid));
            servers.chain([measure::cpu_seconds(std::process::id())]).collect()
        };
        let before = cpu()?;
        let addrs = &self.addrs;
        // Ours has a ground of its own.
        let ground = match &self.running {
            Running::Ours(nodes) => &nodes.ground,
            Running::Peer(_) => ground,
        };
        let mut shown = ground.visit(|| match self.speech {
            Speech::Etcd => etcd::play(addrs, load),
            Speech::Redis { wait } => redis::play(addrs, load, wait),
        })?;
        let spent: Vec<f64> = cpu()?.iter().zip(before).map(|(after, before)| after - before).collect();
        // A lead that moves while it is measured costs a refusal or two.
        if shown.failed * 1000 > shown.took.len() || shown.took.is_empty() {
            return Err(format!("{}: {} of {} failed: {}", self.name, shown.failed, shown.took.len(), shown.complaint));
        }
        let count = shown.took.len() as f64;
        let [p50_ms, p99_ms, _] = measure::latencies(&mut shown.took);
        let (loader, servers) = spent.split_last().map_or((0.0, &[][..]), |(loader, servers)| (*loader, servers));
        let each = |seconds: f64| seconds * 100_000.0 / count;
        let cpu = [each(servers.first().copied().unwrap_or(0.0)), each(servers.iter().sum()), each(loader)];
        Ok(Sample { count, rate: count / shown.span.as_secs_f64(), p50_ms, p99_ms, cpu })
    }
}

/// Entry of `cargo xtask bench cluster`.
pub fn run(args: &[String]) -> Result<(), String> {
    let plan = read(args)?;
    for program in ["etcd", "redis-server"] {
        if !crate::shell::there(program) {
            return Err(format!("no {program} (Debian: etcd-server, redis-server)"));
        }
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

/// Rows, and sentences that stand below them.
type Found = (Vec<Row>, Vec<String>);

/// A part's name and what runs it.
type Part = (&'static str, fn(&Plan) -> Result<Found, String>);

const PARTS: [Part; 4] = [("loopback", loopback), ("shards", shards), ("slow", slow), ("costs", costs)];

fn read(args: &[String]) -> Result<Plan, String> {
    let root = root();
    let quick = args.iter().any(|flag| flag == "--quick");
    let (rounds, seconds) = if quick { (3, 1.0) } else { (5, 3.0) };
    let mut plan = Plan {
        rounds,
        seconds,
        only: Vec::new(),
        ours: true,
        bin: root.join("target/release/quorate"),
        out: root.join("docs/benchmarks.md"),
        dir: root.join("target/bench-cluster"),
    };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--quick" => {}
            "--without-ours" => plan.ours = false,
            "--bin" => plan.bin = PathBuf::from(value()?),
            "--out" => plan.out = PathBuf::from(value()?),
            "--dir" => plan.dir = PathBuf::from(value()?).join(format!("bench-cluster-{}", std::process::id())),
            "--rounds" => {
                plan.rounds = value()?.parse().ok().filter(|n| *n > 0).ok_or("--rounds wants a number above 0")?;
            }
            "--seconds" => {
                plan.seconds = value()?.parse().ok().filter(|n| *n > 0.0).ok_or("--seconds wants a number above 0")?;
            }
            "--only" => plan.only = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("bench cluster does not know {flag}")),
        }
    }
    match plan.only.iter().find(|name| !PARTS.iter().any(|(part, _)| part == name)) {
        Some(name) => Err(format!("--only: no part {name:?}; there are {}", PARTS.map(|(name, _)| name).join(", "))),
        None => Ok(plan),
    }
}

/// The same load on all systems, round by round.
fn row(
    plan: &Plan,
    ground: &Ground,
    title: &str,
    systems: &[&System],
    clients: usize,
    write: bool,
) -> Result<Row, String> {
    let mut load = Load { clients, write, span: Duration::from_secs_f64(plan.seconds / 3.0), seed: 1 };
    // A first run that counts for nothing: connections are known, files have grown, keys are there.
    for system in systems {
        system.play(ground, &load)?;
    }
    load.span = Duration::from_secs_f64(plan.seconds);
    let mut rounds = Vec::new();
    for round in 0..plan.rounds {
        load.seed = 2 + round as u64;
        let mut samples = vec![Sample::default(); systems.len()];
        for turn in 0..systems.len() {
            let at = (turn + round) % systems.len();
            samples[at] = systems[at].play(ground, &load)?;
        }
        rounds.push(samples);
    }
    let row =
        Row { title: title.to_owned(), names: systems.iter().map(|system| system.name.clone()).collect(), rounds };
    println!("bench: {}", report::line(&row));
    Ok(row)
}

/// etcd and Redis.
fn peers_of(plan: &Plan, ground: &Ground, syncs: Option<Duration>) -> Result<Vec<System>, String> {
    let etcd = peers::etcd(ground, &plan.dir.join("etcd"), 3, syncs)?;
    let redis = peers::redis(ground, &plan.dir.join("redis"), syncs)?;
    Ok(vec![
        System::peer("etcd, 3 nodes", etcd, Speech::Etcd),
        System::peer("Redis and a replica, WAIT 1", redis, Speech::Redis { wait: true }),
    ])
}

/// The rows that all systems can play.
fn rows(plan: &Plan, ground: &Ground, systems: &[System]) -> Result<Vec<Row>, String> {
    let systems: Vec<&System> = systems.iter().collect();
    Ok(vec![
        row(plan, ground, "writes, 64 clients", &systems, 64, true)?,
        row(plan, ground, "linearizable reads, 64 clients", &systems, 64, false)?,
        row(plan, ground, "writes, 1 client", &systems, 1, true)?,
    ])
}

fn loopback(plan: &Plan) -> Result<Found, String> {
    let ground = Ground::loopback();
    let mut systems = Vec::new();
    if plan.ours {
        systems.push(System::ours(plan, Ground::loopback(), "quorate, 3 nodes", 3, 1, false, None)?);
    }
    systems.extend(peers_of(plan, &ground, None)?);
    measure::settle();
    let before = measure::disk(&plan.dir)?;
    let mut rows = rows(plan, &ground, &systems)?;
    let mut notes = Vec::new();
    if plan.ours {
        let single = System::ours(plan, Ground::loopback(), "quorate, 1 node", 1, 1, false, None)?;
        rows.push(row(plan, &ground, "writes, 1 client: three nodes and one", &[&systems[0], &single], 1, true)?);
        rows.push(row(plan, &ground, "writes, 64 clients: three nodes and one", &[&systems[0], &single], 64, true)?);
    }
    notes.push(report::disk(before, measure::disk(&plan.dir)?));
    Ok((rows, notes))
}

/// Throughput by number of shards, the clients spread over all nodes.
fn shards(plan: &Plan) -> Result<Found, String> {
    let ground = Ground::loopback();
    let mut systems = Vec::new();
    if plan.ours {
        for count in [1, 4, 16] {
            let name = format!("quorate, 3 nodes, {count} shards");
            systems.push(System::ours(plan, Ground::loopback(), &name, 3, count, true, None)?);
        }
    }
    let all: Vec<&System> = systems.iter().collect();
    let mut rows = Vec::new();
    if !all.is_empty() {
        measure::settle();
        rows.push(row(plan, &ground, "writes, 64 clients at all nodes", &all, 64, true)?);
        rows.push(row(plan, &ground, "writes, 256 clients at all nodes", &all, 256, true)?);
        rows.push(row(plan, &ground, "linearizable reads, 64 clients at all nodes", &all, 64, false)?);
    }
    Ok((rows, Vec::new()))
}

/// Lines between servers that take a millisecond each way; clients' own lines are quick.
fn slow_ground() -> Result<Ground, String> {
    let ground = Ground::network(3, 1)?;
    if let Some(net) = ground.net() {
        for (from, to) in [(0, 1), (0, 2), (1, 2)] {
            net.set_both(from, to, Line { delay: SLOW_LINE, ..Line::default() });
        }
    }
    Ok(ground)
}

fn slow(plan: &Plan) -> Result<Found, String> {
    let ground = match slow_ground() {
        Ok(ground) => ground,
        Err(why) => {
            println!("skipped: {why}");
            return Ok((Vec::new(), vec![format!("Not run: {why}.")]));
        }
    };
    // Everybody plays on the same ground, but for ours, which has a like one: its nodes own theirs.
    let mut rows = Vec::new();
    let peers = peers_of(plan, &ground, Some(SLOW_SYNC))?;
    let mut systems: Vec<&System> = peers.iter().collect();
    let ours = plan
        .ours
        .then(|| System::ours(plan, slow_ground()?, "quorate, 3 nodes", 3, 1, false, Some(SLOW_SYNC)))
        .transpose()?;
    systems.splice(0..0, ours.as_ref());
    for (title, clients, write) in [
        ("writes, 64 clients", 64, true),
        ("writes, 256 clients", 256, true),
        ("writes, 1 client", 1, true),
        ("linearizable reads, 64 clients", 64, false),
    ] {
        rows.push(row(plan, &ground, title, &systems, clients, write)?);
    }
    Ok((rows, Vec::new()))
}

/// What a write costs: frames and bytes on the lines between servers as the switch counts them, fsyncs as the kernel asks about them, CPU.
fn costs(plan: &Plan) -> Result<Found, String> {
    if let Some(why) = crate::net::unavailable() {
        println!("skipped: {why}");
        return Ok((Vec::new(), vec![format!("Not run: {why}.")]));
    }
    let mut lines = vec![
        "| for one write | clients | frames sent by the leader | bytes | frames sent by a follower | bytes | fsyncs: leader | follower | CPU µs: leader | follower |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
            .to_owned(),
    ];
    for which in 0..4 {
        let ground = Ground::network(3, 1)?;
        let counting = Some(Duration::ZERO);
        let system = match which {
            0 | 1 if !plan.ours => continue,
            0 => System::ours(plan, Ground::network(3, 1)?, "quorate, 3 nodes", 3, 1, false, counting)?,
            1 => System::ours(
                plan,
                Ground::network(3, 1)?,
                "quorate, 3 nodes, 16 shards, clients at all",
                3,
                16,
                true,
                counting,
            )?,
            2 => {
                System::peer("etcd, 3 nodes", peers::etcd(&ground, &plan.dir.join("etcd"), 3, counting)?, Speech::Etcd)
            }
            _ => {
                let peer = peers::redis(&ground, &plan.dir.join("redis"), counting)?;
                System::peer("Redis and a replica, WAIT 1", peer, Speech::Redis { wait: true })
            }
        };
        for clients in [1, 64] {
            let line = cost(plan, &ground, &system, clients)?;
            println!("bench: {line}");
            lines.push(line);
        }
    }
    Ok((Vec::new(), vec![lines.join("\n")]))
}

/// One line of the table of costs. A follower is the second process.
fn cost(plan: &Plan, ground: &Ground, system: &System, clients: usize) -> Result<String, String> {
    let load = Load { clients, write: true, span: Duration::from_secs_f64(plan.seconds), seed: 9 };
    system.play(ground, &Load { span: Duration::from_millis(500), ..load.clone() })?;
    let net = match &system.running {
        Running::Ours(nodes) => nodes.ground.net(),
        Running::Peer(_) => ground.net(),
    };
    let net = net.ok_or("no network")?;
    let (leader, follower) = (system.places[0], system.places[1]);
    let sent = |from: usize| {
        let to = system.places.iter().filter(|to| **to != from).map(|to| net.traffic(from, *to));
        to.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    };
    let now = || {
        let ((a, b), (c, d)) = (sent(leader), sent(follower));
        let syncs = |at: usize| system.syncs[at].count.load(Ordering::Relaxed);
        [a, b, c, d, syncs(0), syncs(1)].map(|count| count as f64)
    };
    let cpu = |at: usize| measure::cpu_seconds(system.pids[at]);
    let (before, used) = (now(), (cpu(0)?, cpu(1)?));
    let sample = system.play(ground, &load)?;
    let (after, then) = (now(), (cpu(0)?, cpu(1)?));
    let each: Vec<f64> = after.iter().zip(before).map(|(after, before)| (after - before) / sample.count).collect();
    let micros = |span: f64| span * 1e6 / sample.count;
    Ok(format!(
        "| {} | {clients} | {:.2} | {:.0} | {:.2} | {:.0} | {:.3} | {:.3} | {:.1} | {:.1} |",
        system.name,
        each[0],
        each[1],
        each[2],
        each[3],
        each[4],
        each[5],
        micros(then.0 - used.0),
        micros(then.1 - used.1)
    ))
}

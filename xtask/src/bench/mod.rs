//! `cargo xtask bench redis`: Debian's redis-server and quorate in alternation, in the same minutes, under the same client.
//!
//! ```text
//! cargo xtask bench redis [--quick] [--bin PATH] [--out FILE] [--pairs N] [--seconds S] [--only PART,PART] [--build]
//!   parts: memory, fsync, slow-disk, mix, footprint, snapshot
//! ```
//!
//! Single figures on a shared machine spread by a factor of two, so none is quoted alone: every row is the median of the ratios of at least
//! five pairs (A B A B …) with the smallest and largest, and the server's CPU per 100,000 requests from `/proc/PID/stat` stands beside the
//! throughput, because client and server share the cores. Before runs that wait for the disk, `sync`; after them, what the disk alone does.
//! Writes docs/benchmarks.md; what stands there below the line `<!-- notes -->` is kept.

pub mod cluster;
mod commit;
mod discovery;
mod dns;
mod footprint;
mod gateway;
mod grpc;
mod load;
mod measure;
mod queue;
mod report;

use crate::server::Server;
use crate::shell::root;
use load::Mix;
pub use measure::latencies;
use measure::{Ask, Sample};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What an answer to a write promises, on both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing: no file is written.
    Memory,
    /// On disk before the answer.
    Fsync,
    /// The same on a disk whose every sync takes 2 ms more.
    SlowDisk,
}

impl Mode {
    fn title(self) -> &'static str {
        match self {
            Mode::Memory => "In memory: `--durability memory` against Redis without persistence",
            Mode::Fsync => "Fsync before the answer: the default against `appendfsync always`",
            Mode::SlowDisk => "The same on a slower disk: 2 ms added to each fdatasync",
        }
    }

    fn redis_args(self) -> &'static [&'static str] {
        match self {
            Mode::Memory => &["--save", ""],
            _ => {
                &["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]
            }
        }
    }

    fn quorate_args(self) -> &'static [&'static str] {
        match self {
            Mode::Memory => &["--durability", "memory"],
            _ => &[],
        }
    }
}

/// What is run and for how long.
pub struct Plan {
    quick: bool,
    pairs: usize,
    /// How long one run should take.
    seconds: f64,
    only: Vec<String>,
    build: bool,
    bin: PathBuf,
    out: PathBuf,
    /// Where servers keep their files.
    dir: PathBuf,
}

/// One row: the same load on both servers, pair by pair.
pub struct Row {
    test: String,
    connections: usize,
    pipeline: usize,
    /// Redis, quorate.
    pairs: Vec<(Sample, Sample)>,
}

/// Rows of one mode, and what the disk alone did around them.
pub struct Block {
    mode: Mode,
    rows: Vec<Row>,
    mix: Vec<Row>,
    /// 4-KiB overwrites with fdatasync a second, before and after.
    disk: Option<(f64, f64)>,
}

/// Everything a run found.
#[derive(Default)]
pub struct Found {
    blocks: Vec<Block>,
    footprint: Vec<footprint::Footprint>,
    snapshot: Option<footprint::Snapshots>,
    build_seconds: Option<f64>,
    took: Duration,
}

const TESTS: &[&str] = &["GET", "SET", "INCR", "LPUSH", "HSET", "XADD", "MSET"];
const SLOW_TESTS: &[&str] = &["SET", "INCR", "XADD"];

/// Entry of `cargo xtask bench`.
pub fn run(args: &[String]) -> Result<(), String> {
    match args.split_first().map(|(kind, rest)| (kind.as_str(), rest)) {
        Some(("cluster", rest)) => return cluster::run(rest),
        Some(("gateway", rest)) => return gateway::run(rest),
        Some(("commit", rest)) => return commit::run(rest),
        Some(("discovery", rest)) => return discovery::run(rest),
        Some(("dns", rest)) => return dns::run(rest),
        Some(("queue", rest)) => return queue::run(rest),
        _ => {}
    }
    let plan = read(args)?;
    if !plan.bin.is_file() {
        return Err(format!("{} is not there: cargo build --release -p quorate, or --bin PATH", plan.bin.display()));
    }
    let start = Instant::now();
    let mut found = Found::default();
    let wanted = |part: &str| plan.only.is_empty() || plan.only.iter().any(|name| name == part);
    if plan.build {
        found.build_seconds = Some(build(&plan)?);
    }
    for (part, mode) in [("memory", Mode::Memory), ("fsync", Mode::Fsync), ("slow-disk", Mode::SlowDisk)] {
        if wanted(part) || wanted("mix") && mode != Mode::SlowDisk {
            found.blocks.push(block(&plan, mode, wanted(part), wanted("mix") && mode != Mode::SlowDisk)?);
            found.took = start.elapsed();
            report::write(&plan, &found)?;
        }
    }
    if wanted("footprint") {
        found.footprint = footprint::memory(&plan)?;
        // What is found is kept, whatever becomes of the next part.
        report::write(&plan, &found)?;
    }
    if wanted("snapshot") {
        found.snapshot = Some(footprint::snapshots(&plan)?);
    }
    found.took = start.elapsed();
    report::write(&plan, &found)?;
    let _ = std::fs::remove_dir_all(&plan.dir);
    println!("bench: {:.1} minutes; wrote {}", found.took.as_secs_f64() / 60.0, plan.out.display());
    Ok(())
}

fn read(args: &[String]) -> Result<Plan, String> {
    let (kind, rest) =
        args.split_first().ok_or("bench wants what: redis, cluster, commit, discovery, dns, gateway or queue")?;
    if kind != "redis" {
        return Err(format!(
            "no benchmark {kind:?}; there are redis, cluster, commit, discovery, dns, gateway and queue"
        ));
    }
    let root = root();
    let mut plan = Plan {
        quick: rest.iter().any(|flag| flag == "--quick"),
        pairs: 5,
        seconds: 1.0,
        only: Vec::new(),
        build: false,
        bin: root.join("target/release/quorate"),
        out: root.join("docs/benchmarks.md"),
        dir: root.join("target/bench"),
    };
    if plan.quick {
        (plan.pairs, plan.seconds) = (3, 0.3);
    }
    let mut rest = rest.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--quick" => {}
            "--bin" => plan.bin = PathBuf::from(value()?),
            "--out" => plan.out = PathBuf::from(value()?),
            "--pairs" => {
                plan.pairs = value()?.parse().ok().filter(|n| *n > 0).ok_or("--pairs wants a number above 0")?
            }
            "--seconds" => {
                plan.seconds = value()?.parse().ok().filter(|n| *n > 0.0).ok_or("--seconds wants a number above 0")?;
            }
            "--only" => plan.only = value()?.split(',').map(str::to_owned).collect(),
            "--build" => plan.build = true,
            _ => return Err(format!("bench does not know {flag}")),
        }
    }
    let parts = ["memory", "fsync", "slow-disk", "mix", "footprint", "snapshot"];
    match plan.only.iter().find(|name| !parts.contains(&name.as_str())) {
        Some(name) => Err(format!("--only: no part {name:?}; there are {}", parts.join(", "))),
        None => Ok(plan),
    }
}

/// From a clean checkout to a node that answers: the build from nothing in a folder of its own, then the start.
fn build(plan: &Plan) -> Result<f64, String> {
    let dir = plan.dir.join("clean-build");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&plan.dir).map_err(|error| error.to_string())?;
    println!("bench: building from nothing");
    let start = Instant::now();
    let mut command = Command::new("cargo");
    command.args(["build", "--locked", "--release", "-p", "quorate", "--target-dir"]).arg(&dir).current_dir(root());
    crate::shell::logged(command, &plan.dir.join("build.log"), Duration::from_secs(1800))?;
    Server::quorate(&dir.join("release/quorate"), &plan.dir.join("first-start"), &[], &[])?;
    let took = start.elapsed().as_secs_f64();
    let _ = std::fs::remove_dir_all(&dir);
    Ok(took)
}

/// Both servers of one mode, fresh.
fn both(plan: &Plan, mode: Mode) -> Result<(Server, Server), String> {
    let dir = plan.dir.join(format!("{mode:?}").to_lowercase());
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let (mut redis_vars, mut quorate_vars) = (Vec::new(), Vec::new());
    let shim = if mode == Mode::SlowDisk { measure::slow_sync_shim(&plan.dir)? } else { PathBuf::new() };
    let shim = shim.to_string_lossy();
    if mode == Mode::SlowDisk {
        redis_vars.push(("LD_PRELOAD", &*shim));
        quorate_vars.push(("QUORATE_SYNC_DELAY_US", "2000"));
    }
    let redis = Server::redis(&dir.join("redis"), mode.redis_args(), &redis_vars)?;
    let quorate = Server::quorate(&plan.bin, &dir.join("quorate"), mode.quorate_args(), &quorate_vars)?;
    Ok((redis, quorate))
}

fn block(plan: &Plan, mode: Mode, tests: bool, mix: bool) -> Result<Block, String> {
    let (redis, quorate) = both(plan, mode)?;
    let durable = mode != Mode::Memory;
    let disk = || if durable { measure::disk(&plan.dir).map(Some) } else { Ok(None) };
    if durable {
        measure::settle();
    }
    let before = disk()?;
    let mut block = Block { mode, rows: Vec::new(), mix: Vec::new(), disk: None };
    let names = match (tests, mode) {
        (false, _) => &[][..],
        (true, Mode::SlowDisk) => SLOW_TESTS,
        (true, _) => TESTS,
    };
    for name in names {
        for (connections, pipeline) in [(1, 1), (1, 16), (50, 1), (50, 16)] {
            let row = measure_row(plan, name, connections, pipeline, &redis, &quorate)?;
            println!("bench: {}", report::line(mode, &row));
            block.rows.push(row);
        }
    }
    if mix {
        for connections in [1, 50] {
            let row = mix_row(plan, connections, &redis, &quorate)?;
            println!("bench: {}", report::line(mode, &row));
            block.mix.push(row);
        }
    }
    block.disk = before.zip(disk()?);
    quorate.stop()?;
    Ok(block)
}

/// Empties a server, and fills what the test reads.
fn prepare(server: &Server, test: &str) -> Result<(), String> {
    let mut conn = server.connect()?;
    conn.text("FLUSHALL").map_err(|error| format!("FLUSHALL: {error}"))?;
    if test == "GET" {
        load::fill(&server.redis, 0..measure::KEYS, &|key| format!("key:{key:012}"), 128)?;
    }
    Ok(())
}

fn measure_row(
    plan: &Plan,
    test: &str,
    connections: usize,
    pipeline: usize,
    redis: &Server,
    quorate: &Server,
) -> Result<Row, String> {
    let mut ask = Ask { test, connections, pipeline, requests: if connections * pipeline == 1 { 500 } else { 4000 } };
    // How many requests take the time that a run should: by what both do in a first run that counts for nothing.
    let mut rate: f64 = 0.0;
    for server in [redis, quorate] {
        prepare(server, test)?;
        rate = rate.max(measure::redis_benchmark(&ask, server)?.rate);
    }
    ask.requests = ((rate * plan.seconds) as usize).max(500);
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        let mut samples = Vec::new();
        for server in [redis, quorate] {
            if test != "GET" {
                prepare(server, test)?;
            }
            samples.push(measure::redis_benchmark(&ask, server)?);
        }
        pairs.extend(samples.pop().zip(samples.pop()).map(|(quorate, redis)| (redis, quorate)));
    }
    Ok(Row { test: test.to_owned(), connections, pipeline, pairs })
}

fn mix_row(plan: &Plan, connections: usize, redis: &Server, quorate: &Server) -> Result<Row, String> {
    let mix = Mix { connections, keys: 100_000, value_bytes: 128, seconds: plan.seconds * 1.5, seed: 1 };
    for server in [redis, quorate] {
        prepare(server, "")?;
        load::fill(&server.redis, 0..mix.keys, &load::mix_key, mix.value_bytes)?;
    }
    let mut pairs = Vec::new();
    for _ in 0..plan.pairs {
        let redis = measure::with_cpu(redis, || mix.play(&redis.redis))?;
        let quorate = measure::with_cpu(quorate, || mix.play(&quorate.redis))?;
        pairs.push((redis, quorate));
    }
    Ok(Row { test: "90 % GET, 10 % SET, Zipf".into(), connections, pipeline: 1, pairs })
}

/// The shorter name of a path in documents.
fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

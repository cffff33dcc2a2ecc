//! `cargo xtask bench queue`: our Kafka door beside Debian's RabbitMQ (quorum queues), Redis (streams, `appendfsync always`) and NATS (JetStream
//! with file storage, which does not sync before it acknowledges), in alternation, in the same minutes.
//!
//! ```text
//! cargo xtask bench queue [--quick] [--bin PATH] [--out FILE] [--dir DIR] [--rounds N] [--seconds S]
//!                         [--only PART,PART] [--rows WORD,WORD] [--batch-bytes N] [--without-ours] [--without-peers]
//!   parts: one, three (nodes); rows: those whose titles have all of the words, as `1 KiB,batched`
//! ```
//!
//! All servers of a part run at once, the load goes to one after the other, round by round, the order turning; every round makes new topics.
//! Loaders are our own for all of them: blocking sockets and threads, one buffer for reading, messages framed as they are sent and looked at where
//! they came. Client and servers share the cores, so the CPU of both stands beside the throughput. With each round of large loads goes what the
//! disk and loopback alone can do. A peer that is not installed is left out with a sentence. With `--quick` a part takes under four minutes.

mod amqp;
mod kafka;
pub mod load;
mod nats;
mod physical;
mod report;
pub mod servers;
mod streams;
pub mod wire;

use super::measure;
use crate::shell::root;
use load::{Shape, Topic};
use physical::{Disk, Limits};
use servers::System;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Messages a second while the way from end to end is measured.
const LIVE_RATE: f64 = 500.0;

/// What is run and for how long.
pub struct Plan {
    rounds: usize,
    seconds: f64,
    only: Vec<String>,
    rows: Vec<String>,
    ours: bool,
    peers: bool,
    batch_bytes: usize,
    bin: PathBuf,
    out: PathBuf,
    dir: PathBuf,
}

/// How messages go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Many under way; then the backlog is consumed.
    Batched,
    /// One under way on each connection, a connection for each partition.
    Single,
    /// At a pace, a consumer waiting for each.
    Live,
}

/// One load on one system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Messages acknowledged a second.
    pub published: f64,
    /// Median latency of an acknowledgement, or from end to end.
    pub p50_ms: f64,
    /// The latency that one in a hundred exceeds.
    pub p99_ms: f64,
    /// The servers' CPU seconds for a million messages.
    pub publish_cpu: f64,
    /// The loader's.
    pub publish_loader: f64,
    /// Messages of the backlog consumed a second.
    pub consumed: f64,
    /// The servers' CPU seconds for a million messages.
    pub consume_cpu: f64,
    /// The loader's.
    pub consume_loader: f64,
}

/// Every system once.
pub struct Round {
    /// In the order of the row's names.
    samples: Vec<Sample>,
    /// What the machine alone did just before; nothing, where nobody asks.
    limits: Limits,
}

/// One load on several systems.
pub struct Row {
    title: String,
    kind: Kind,
    bytes: usize,
    nodes: usize,
    /// Whether the first system is ours.
    ours: bool,
    names: Vec<String>,
    rounds: Vec<Round>,
}

/// Name and title.
const PARTS: [(&str, &str); 2] = [("one", "One node"), ("three", "Three nodes")];

/// Entry of `cargo xtask bench queue`.
pub fn run(args: &[String]) -> Result<(), String> {
    let plan = read(args)?;
    if plan.ours && !plan.bin.is_file() {
        return Err(format!("{} is not there: cargo build --release -p quorate, or --bin PATH", plan.bin.display()));
    }
    let start = Instant::now();
    for (at, (name, _)) in PARTS.iter().enumerate() {
        if plan.only.is_empty() || plan.only.iter().any(|wanted| wanted == name) {
            let (rows, notes) = part(&plan, [1, 3][at])?;
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
    let (rounds, seconds) = if quick { (2, 0.5) } else { (5, 2.0) };
    let mut plan = Plan {
        rounds,
        seconds,
        only: Vec::new(),
        rows: Vec::new(),
        ours: true,
        peers: true,
        batch_bytes: 0,
        bin: root.join("target/release/quorate"),
        out: root.join("docs/benchmarks.md"),
        dir: root.join("target/bench-queue"),
    };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        let number =
            |text: String| text.parse().ok().filter(|n| *n > 0).ok_or(format!("{flag} wants a number above 0"));
        let words = |text: String| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        match flag.as_str() {
            "--quick" => {}
            "--without-ours" => plan.ours = false,
            "--without-peers" => plan.peers = false,
            "--bin" => plan.bin = PathBuf::from(value()?),
            "--out" => plan.out = PathBuf::from(value()?),
            "--dir" => plan.dir = PathBuf::from(value()?).join(format!("bench-queue-{}", std::process::id())),
            "--rounds" => plan.rounds = number(value()?)?,
            "--batch-bytes" => plan.batch_bytes = number(value()?)?,
            "--seconds" => {
                plan.seconds = value()?.parse().ok().filter(|n| *n > 0.0).ok_or("--seconds wants a number above 0")?;
            }
            "--only" => plan.only = words(value()?),
            "--rows" => plan.rows = words(value()?),
            _ => return Err(format!("bench queue does not know {flag}")),
        }
    }
    let names = PARTS.map(|(name, _)| name);
    match plan.only.iter().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(format!("--only: no part {name:?}; there are {}", names.join(", "))),
        None => Ok(plan),
    }
}

/// What is asked of the systems: kind, bytes, partitions.
const LOADS: [(Kind, usize, usize); 10] = [
    (Kind::Batched, 100, 1),
    (Kind::Batched, 100, 16),
    (Kind::Batched, 1024, 1),
    (Kind::Batched, 1024, 16),
    (Kind::Single, 100, 1),
    (Kind::Single, 100, 16),
    (Kind::Single, 1024, 1),
    (Kind::Single, 1024, 16),
    (Kind::Live, 100, 1),
    (Kind::Live, 1024, 1),
];

fn title(kind: Kind, bytes: usize, partitions: usize) -> String {
    let how = match kind {
        Kind::Batched => "batched",
        Kind::Single => "one at a time",
        Kind::Live => "end to end",
    };
    let size = if bytes == 1024 { "1 KiB".to_owned() } else { format!("{bytes} B") };
    let partitions = if partitions == 1 { "1 partition".to_owned() } else { format!("{partitions} partitions") };
    format!("{size}, {how}, {partitions}")
}

/// All loads on so many nodes: rows, and sentences that stand below them.
fn part(plan: &Plan, nodes: usize) -> Result<(Vec<Row>, Vec<String>), String> {
    std::fs::create_dir_all(&plan.dir).map_err(|error| format!("{}: {error}", plan.dir.display()))?;
    let (mut systems, mut notes) = (Vec::new(), Vec::new());
    if plan.ours {
        systems.push(servers::ours(&plan.bin, &plan.dir.join("ours"), nodes, plan.batch_bytes)?);
    }
    if plan.peers {
        let (peers, said) = servers::peers(&plan.dir, nodes)?;
        systems.extend(peers);
        notes.extend(said);
    }
    notes.iter().for_each(|note| println!("bench: {note}"));
    let disk = Disk::new(&plan.dir)?;
    measure::settle();
    let mut rows = Vec::new();
    for (kind, bytes, partitions) in LOADS {
        let title = title(kind, bytes, partitions);
        if plan.rows.iter().all(|word| title.contains(word.as_str())) {
            let row = row(plan, &systems, &disk, nodes, (title, kind, bytes, partitions))?;
            println!("bench: {}", report::line(&row));
            rows.push(row);
        }
    }
    Ok((rows, notes))
}

/// The same load on all systems, round by round.
fn row(
    plan: &Plan,
    systems: &[System],
    disk: &Disk,
    nodes: usize,
    (title, kind, bytes, partitions): (String, Kind, usize, usize),
) -> Result<Row, String> {
    let mut row = Row {
        title,
        kind,
        bytes,
        nodes,
        ours: plan.ours,
        names: systems.iter().map(|system| system.name.clone()).collect(),
        rounds: Vec::new(),
    };
    let topic = |round: usize| {
        let name = format!("b{}-{kind:?}-{bytes}-{partitions}-{round}", std::process::id()).to_lowercase();
        Topic { name, partitions, bytes }
    };
    let named = |system: &System, why: String| format!("{}: {}: {why}", row.title, system.name);
    // A first run that counts for nothing: files have grown, code is warm.
    for system in systems {
        play(system, kind, &topic(0), Duration::from_secs_f64(plan.seconds / 4.0)).map_err(|why| named(system, why))?;
    }
    for round in 1..=plan.rounds {
        let limits = match kind {
            Kind::Batched => disk.limits(Duration::from_secs_f64(plan.seconds.min(1.0) / 2.0))?,
            _ => Limits::default(),
        };
        let mut samples = vec![Sample::default(); systems.len()];
        for turn in 0..systems.len() {
            let at = (turn + round) % systems.len();
            // What the one before left dirty must not be written in the time of the next.
            crate::shell::output("sync", &[])?;
            samples[at] = play(&systems[at], kind, &topic(round), Duration::from_secs_f64(plan.seconds))
                .map_err(|why| named(&systems[at], why))?;
        }
        row.rounds.push(Round { samples, limits });
    }
    Ok(row)
}

/// CPU seconds of a system and of ourselves.
fn cpu(system: &System) -> Result<[f64; 2], String> {
    Ok([system.cpu_seconds()?, measure::cpu_seconds(std::process::id())?])
}

/// One load on one system, on a topic that is new and is removed behind it.
fn play(system: &System, kind: Kind, topic: &Topic, span: Duration) -> Result<Sample, String> {
    let speech = system.speech.as_ref();
    speech.create(topic)?;
    let mut sample = Sample::default();
    let spent = |before: [f64; 2], count: usize| -> Result<[f64; 2], String> {
        let after = cpu(system)?;
        Ok([0, 1].map(|at| (after[at] - before[at]) * 1e6 / count.max(1) as f64))
    };
    let before = cpu(system)?;
    if kind == Kind::Live {
        [sample.p50_ms, sample.p99_ms] = load::live(speech, topic, LIVE_RATE, span)?;
        let count = (LIVE_RATE * span.as_secs_f64()) as usize;
        [sample.publish_cpu, sample.publish_loader] = spent(before, count)?;
    } else {
        let shape = match kind {
            Kind::Single => Shape { publishers: topic.partitions, chunk: 1, window: 1, subscribers: 1 },
            _ => speech.batched(topic),
        };
        let mut published = load::publish(speech, topic, shape, span)?;
        [sample.publish_cpu, sample.publish_loader] = spent(before, published.count)?;
        [sample.p50_ms, sample.p99_ms] = published.latencies();
        sample.published = published.count as f64 / published.span.as_secs_f64();
        if kind == Kind::Batched {
            let before = cpu(system)?;
            let consumed = load::consume(speech, topic, shape.subscribers, &published.counts)?;
            [sample.consume_cpu, sample.consume_loader] = spent(before, consumed.count)?;
            sample.consumed = consumed.count as f64 / consumed.span.as_secs_f64();
        }
    }
    speech.remove(topic)?;
    Ok(sample)
}

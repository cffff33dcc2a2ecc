//! `cargo xtask chaos cluster`: three real nodes in namespaces behind our own switch, the rows of the fault matrix, clients, a judge.
//!
//! ```text
//! cargo xtask chaos cluster --bin PATH [--minutes M] [--rows 1,2,…] [--seed S] [--shards N] [--nodes N] [--dir DIR] [--plant lying-disk]
//! ```
//!
//! Each row has its share of the time: faults of its kind are drawn by the seed, begun, held and ended again and again while clients append to
//! lists and read them through all nodes ([`workload`]), and others produce to a topic and consume it ([`streams`]). Then it is quiet: every
//! node must run, serve writes and reads within a minute, every list's history must have an order that explains it, and every topic's none of
//! ten anomalies. A row whose fault never struck has failed.
//!
//! With `--plant lying-disk` no fsync is done and all are answered as done: a judge that is worth something must find writes lost by the
//! power cut (row 3), and the run succeeds only if it does.

mod faults;
mod flood;
mod lost;
mod rows;
mod streams;
mod twice;
mod workload;

use crate::ground::Ground;
use crate::interrupt;
use crate::nodes::{Nodes, Plan, clock_shim};
use crate::rng::Rng;
use faults::Course;
use rows::{ROWS, Row};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use streams::Streams;
use workload::Workload;

/// Namespaces beyond the nodes of the start: some join later.
const SPARE: usize = 2;
/// Clients.
const CLIENTS: usize = 6;
/// How soon all must serve once it is quiet.
const QUIET: Duration = Duration::from_secs(60);
/// How long is waited for what a planted fault has lost.
const PLANTED: Duration = Duration::from_secs(3);
/// MiB of each node's file system.
const IMAGE_MIB: u64 = 512;

/// What is asked for.
struct Ask {
    bin: PathBuf,
    minutes: f64,
    rows: Vec<u32>,
    seed: u64,
    shards: usize,
    nodes: usize,
    dir: PathBuf,
    plant: bool,
}

/// How a row went.
struct Found {
    row: &'static Row,
    took: Duration,
    injected: u64,
    counts: workload::Counts,
    pause: Duration,
    p99: Duration,
    back: Duration,
    notes: Vec<String>,
    wrong: Vec<String>,
}

fn read(args: &[String]) -> Result<Ask, String> {
    let mut ask = Ask {
        bin: crate::shell::root().join("target/release/quorate"),
        minutes: 10.0,
        rows: ROWS.iter().map(|row| row.number).collect(),
        seed: u64::from(std::process::id()),
        shards: 4,
        nodes: 3,
        dir: std::env::temp_dir(),
        plant: false,
    };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"))?;
        let number = || {
            value
                .parse::<f64>()
                .ok()
                .filter(|n| *n > 0.0)
                .ok_or(format!("{flag} wants a number above 0, not {value:?}"))
        };
        match flag.as_str() {
            "--bin" => ask.bin = std::path::absolute(&value).map_err(|error| format!("{value}: {error}"))?,
            "--minutes" => ask.minutes = number()?,
            "--seed" => ask.seed = number()? as u64,
            "--plant" if value == "lying-disk" => ask.plant = true,
            "--nodes" => ask.nodes = number()? as usize,
            "--shards" => ask.shards = number()? as usize,
            "--dir" => ask.dir = PathBuf::from(value),
            "--rows" => {
                let row = |text: &str| text.trim().parse().ok().filter(|row| ROWS.iter().any(|one| one.number == *row));
                let all = ROWS.iter().map(|row| row.number.to_string()).collect::<Vec<_>>().join(", ");
                ask.rows =
                    value.split(',').map(row).collect::<Option<_>>().ok_or(format!("--rows: there are {all}"))?;
            }
            _ => return Err(format!("chaos cluster does not know {flag}")),
        }
    }
    Ok(ask)
}

/// A new cluster in new namespaces.
fn found(ask: &Ask, dir: &Path, clock: Option<&PathBuf>) -> Result<Nodes, String> {
    let ground = Ground::network(ask.nodes + SPARE, ask.seed)?;
    // Small segments and snapshots, so that a run of minutes has seen what a node has seen after days.
    let args = ["log.segment_bytes=4MiB", "log.snapshot_bytes=4MiB", flood::MEMORY_MAX, lost::REPLACE_AFTER]
        .iter()
        .flat_map(|set| ["--set".to_owned(), (*set).to_owned()]);
    let plan = Plan {
        bin: ask.bin.clone(),
        shards: ask.shards,
        args: args.collect(),
        syncs: true,
        steps: false,
        image_mib: faults::image_possible().is_none().then_some(IMAGE_MIB),
        clock: clock.cloned(),
    };
    let nodes = Nodes::found(ground, plan, dir, ask.nodes)?;
    nodes.all_serve(QUIET)?;
    nodes.await_replicas(QUIET)?;
    // Only now: a node that has lost itself would say so, and the judge would not be asked.
    nodes.nodes.iter().for_each(|node| node.syncs.lies.store(ask.plant, std::sync::atomic::Ordering::Relaxed));
    Ok(nodes)
}

/// Entry of `cargo xtask chaos cluster`.
pub fn run(args: &[String]) -> Result<(), String> {
    let ask = read(args)?;
    if let Some(why) = crate::net::unavailable() {
        return super::skip(&why);
    }
    interrupt::attend();
    let base = ask.dir.join(format!("quorate-chaos-cluster-{}", std::process::id()));
    std::fs::create_dir_all(&base).map_err(|error| format!("{}: {error}", base.display()))?;
    println!("chaos cluster: seed {}, {} minutes, files in {}", ask.seed, ask.minutes, base.display());
    let clock = clock_shim(&base).inspect_err(|why| println!("no shifted clocks: {why}")).ok();
    let done = all(&ask, &base, clock.as_ref());
    match &done {
        Ok(()) => super::remove(&base)?,
        Err(_) => println!("(seed {}; what the nodes said and have is kept in {})", ask.seed, base.display()),
    }
    done
}

fn all(ask: &Ask, base: &Path, clock: Option<&PathBuf>) -> Result<(), String> {
    let rows: Vec<&Row> = ROWS.iter().filter(|row| ask.rows.contains(&row.number)).collect();
    let share = Duration::from_secs_f64((ask.minutes * 60.0 / rows.len() as f64).max(3.0));
    let mut nodes: Option<Nodes> = None;
    let mut results = Vec::new();
    let mut founded = 0;
    for row in rows {
        if interrupt::told() {
            break;
        }
        if let Some(why) = row.skip.and_then(|skip| skip(clock.is_some())) {
            println!("row {}: skipped: {why}", row.number);
            continue;
        }
        let running = match nodes.take() {
            Some(running) => running,
            None => {
                founded += 1;
                let start = Instant::now();
                let running = found(ask, &base.join(format!("cluster{founded}")), clock)?;
                println!("a cluster of {} after {:.1} s", ask.nodes, start.elapsed().as_secs_f64());
                running
            }
        };
        let (result, running) = one(ask, row, running, share);
        println!("{}", line(&result));
        for text in result.notes.iter().chain(&result.wrong) {
            println!("      {text}");
        }
        // A cluster that broke a promise is not the next row's.
        nodes = result.wrong.is_empty().then_some(running);
        results.push(result);
    }
    drop(nodes);
    table(&results);
    let failed = results.iter().filter(|result| !result.wrong.is_empty()).count();
    if ask.plant {
        let told = |word: &str| results.iter().flat_map(|result| &result.wrong).any(|why| why.contains(word));
        // What was lost may be who has a partition: then its end cannot be read for all the patience there is, which is a verdict, too.
        return match (told("is lost"), told("lost write") || told("the last read of partition")) {
            (true, true) => Ok(()),
            (lists, topics) => Err(format!("a disk that lies was not noticed: lists {lists}, topics {topics}")),
        };
    }
    match (failed, interrupt::told()) {
        (0, false) => Ok(()),
        (0, true) => Err("interrupted".into()),
        _ => Err(format!("{failed} of {} rows failed", results.len())),
    }
}

/// One row on a cluster that serves.
fn one(ask: &Ask, row: &'static Row, nodes: Nodes, share: Duration) -> (Found, Nodes) {
    let start = Instant::now();
    let seed = ask.seed ^ u64::from(row.number) << 20;
    let mut found = Found {
        row,
        took: Duration::ZERO,
        injected: 0,
        counts: workload::Counts::default(),
        pause: Duration::ZERO,
        p99: Duration::ZERO,
        back: Duration::ZERO,
        notes: Vec::new(),
        wrong: Vec::new(),
    };
    let prefix = format!("r{}", row.number);
    let clients = Workload::start(&nodes.ground, &nodes.addrs()[..ask.nodes], CLIENTS, &prefix, seed);
    let clients = match clients {
        Ok(clients) => clients,
        Err(why) => {
            found.wrong.push(why);
            return (found, nodes);
        }
    };
    let doors = (0..ask.nodes + SPARE).map(|at| format!("{}:9092", nodes.ground.ip(at))).collect();
    let topic = format!("{prefix}-{:x}", start.elapsed().as_nanos() as u64 ^ seed);
    let streams =
        match Streams::start(&nodes.ground, doors, &topic, seed, if ask.plant { PLANTED } else { streams::GRACE }) {
            Ok(streams) => Some(streams),
            Err(why) => {
                found.wrong.push(why);
                None
            }
        };
    let before = nodes.ground.net().map(|net| net.counts().harmed()).unwrap_or_default();
    let mut course = Course::new(nodes, Rng::new(seed), start + share, clients);
    if let Err(why) = course.run(row) {
        found.wrong.push(why);
    }
    // Quiet: whatever still holds ends, whoever is down comes back.
    if let Err(why) = course.quiet() {
        found.wrong.push(why);
    }
    let missed = row.musts.iter().filter(|kind| !course.seen.contains_key(*kind));
    found.wrong.extend(missed.map(|kind| format!("never struck: {kind}")));
    let (mut nodes, clients) = (course.nodes, course.clients);
    found.injected = course.injected;
    found.notes = course.notes;
    match nodes.all_serve(QUIET) {
        Ok(back) => found.back = back,
        Err(why) => found.wrong.push(why),
    }
    found.wrong.extend(nodes.ended());
    let readers = (0..nodes.nodes.len()).filter_map(|at| nodes.connect(at, Duration::from_secs(5)).ok()).collect();
    match clients.judge(readers) {
        Ok(verdict) => {
            (found.counts, found.pause, found.p99) = (verdict.counts, verdict.pause, verdict.p99);
            found.wrong.extend(verdict.wrong);
            if row.once && verdict.again > 0 {
                found.wrong.push(format!("{} operations were refused twice in a row, by two nodes", verdict.again));
            }
            let refusals = verdict.refusals.iter().map(|(text, count)| format!("{count} × {text}"));
            found.notes.extend(refusals);
        }
        Err(why) => found.wrong.push(why),
    }
    match streams.map(|streams| streams.judge(&nodes.ground)) {
        Some(Ok(verdict)) => {
            found.notes.push(verdict.note);
            found.notes.extend(verdict.fails.iter().map(|(text, count)| format!("{count} × {text}")));
            found.wrong.extend(verdict.wrong);
        }
        Some(Err(why)) => found.wrong.push(why),
        None => {}
    }
    if found.injected == 0 {
        found.wrong.push("no fault was injected".into());
    }
    let harmed = nodes.ground.net().map(|net| net.counts().harmed()).unwrap_or_default() - before;
    if row.network {
        found.notes.push(format!("{harmed} frames harmed"));
        if harmed == 0 {
            found.wrong.push("no frame was harmed".into());
        }
    }
    if found.counts.done == 0 {
        found.wrong.push("no operation was answered".into());
    }
    found.took = start.elapsed();
    (found, nodes)
}

fn line(found: &Found) -> String {
    format!(
        "row {:2} {:44} {:5.0} s {:7} done {:6} refused {:4} unknown {:4} faults, writes paused {:6.2} s at most, p99 {:6.1} ms, all serve after {:5.2} s: {}",
        found.row.number,
        found.row.about,
        found.took.as_secs_f64(),
        found.counts.done,
        found.counts.refused,
        found.counts.unknown,
        found.injected,
        found.pause.as_secs_f64(),
        found.p99.as_secs_f64() * 1000.0,
        found.back.as_secs_f64(),
        if found.wrong.is_empty() { "held" } else { "BROKEN" }
    )
}

/// The table at the end, as a document can have it.
fn table(results: &[Found]) {
    println!(
        "\n| row | fault | seconds | answered | refused | unknown | faults | writes paused at most s | p99 ms | all serve after s | verdict |\n\
         |--:|---|--:|--:|--:|--:|--:|--:|--:|--:|---|"
    );
    for found in results {
        println!(
            "| {} | {} | {:.0} | {} | {} | {} | {} | {:.2} | {:.1} | {:.2} | {} |",
            found.row.number,
            found.row.about,
            found.took.as_secs_f64(),
            found.counts.done,
            found.counts.refused,
            found.counts.unknown,
            found.injected,
            found.pause.as_secs_f64(),
            found.p99.as_secs_f64() * 1000.0,
            found.back.as_secs_f64(),
            if found.wrong.is_empty() { "held" } else { "**broken**" }
        );
    }
}

//! `cargo xtask sim`: whole clusters in the simulator, side by side on all cores; for CI and for nights.
//!
//! ```text
//! cargo xtask sim [--seeds N] [--from N] [--minutes M] [--floors]
//! ```
//!
//! Runs seeds until there are N of them, or until M minutes are over if that is said alone. A seed that fails is kept in
//! `crates/sim/cases.txt`, which every later run begins with. With `--floors` (CI) a total that is short, or a kind of fault that
//! never struck, is a failure: the harness would be lying.

use crate::shell::{root, visibly};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Seeds of one process: few, so that all cores are busy to the end.
const BATCH: u64 = 25;
/// After so many failures there is something to look at.
const FAILURES_MAX: usize = 5;
/// What a run in CI must come to, whatever the seeds.
const FLOORS: &[(&str, u64)] = &[
    // A session outlives the faults of these clusters; a test of its own has longer ones.
    ("sessions that were over when they were renewed", 0),
    ("of these after a change of the leader", 0),
    ("events", 50_000_000),
    ("elections", 10_000),
    ("membership changes", 1_000),
    ("transactions over shards done", 5_000),
    ("transactions over shards begun again", 3_000),
    ("participants that asked what was decided", 1_000),
    ("homes that told participants what was decided", 250),
];

#[derive(Default)]
struct Total {
    seeds: u64,
    figures: BTreeMap<String, u64>,
    cases: Vec<String>,
    broken: Vec<String>,
}

/// Entry of `cargo xtask sim`.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut seeds, mut from, mut minutes, mut floors) = (None, 0, None, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|text| text.parse::<u64>().ok()).ok_or(format!("{arg} wants a number"));
        match arg.as_str() {
            "--seeds" => seeds = Some(number()?),
            "--from" => from = number()?,
            "--minutes" => minutes = Some(number()?),
            "--floors" => floors = true,
            _ => return Err(format!("sim does not know {arg}")),
        }
    }
    visibly("cargo", &["build", "--locked", "--release", "-p", "sim"])?;
    let until = minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
    let end = from.saturating_add(seeds.unwrap_or(if minutes.is_some() { u64::MAX } else { 1_000 }));
    let start = Instant::now();
    let total = all(from, end, until)?;
    println!("{} seeds in {:.0} s", total.seeds, start.elapsed().as_secs_f64());
    for (name, count) in &total.figures {
        println!("{count:>12} {name}");
    }
    let mut wrong = total.broken;
    if !total.cases.is_empty() {
        keep(&total.cases)?;
        wrong.extend(total.cases.iter().map(|case| format!("seed, founders, milliseconds {case}")));
    }
    if floors {
        let floor = |name: &str| FLOORS.iter().find(|(of, _)| *of == name).map_or(1, |(_, floor)| *floor);
        let short = total.figures.iter().filter(|(name, count)| **count < floor(name));
        wrong.extend(short.map(|(name, count)| format!("only {count} {name}, wanted {}", floor(name))));
        if total.figures.is_empty() {
            wrong.push("no figures".to_owned());
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// All seeds, in batches that each core takes as it gets free.
fn all(from: u64, end: u64, until: Option<Instant>) -> Result<Total, String> {
    let program = root().join("target/release/sim");
    let (next, total) = (AtomicU64::new(from), Mutex::new(Total::default()));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    let enough = lock(&total).cases.len() >= FAILURES_MAX || !lock(&total).broken.is_empty();
                    if first >= end || enough || until.is_some_and(|until| Instant::now() >= until) {
                        return;
                    }
                    batch(&program, first, end.min(first.saturating_add(BATCH)), &total);
                }
            });
        }
    });
    Ok(total.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()))
}

fn lock(total: &Mutex<Total>) -> std::sync::MutexGuard<'_, Total> {
    total.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn batch(program: &Path, first: u64, end: u64, total: &Mutex<Total>) {
    let seeds = format!("{first}..{end}");
    let done = Command::new(program)
        .args(["cluster", "--machine", "1", "--seeds", &seeds])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let mut total = lock(total);
    let done = match done {
        Ok(done) => done,
        Err(error) => return total.broken.push(format!("{}: {error}", program.display())),
    };
    let said = String::from_utf8_lossy(&done.stdout);
    let cases: Vec<String> = said.lines().filter_map(|line| Some(line.strip_prefix("case ")?.to_owned())).collect();
    if !done.status.success() && cases.is_empty() {
        total.broken.push(format!("seeds {seeds}: {}", done.status));
    }
    total.cases.extend(cases);
    total.seeds += end - first;
    for (count, name) in said.lines().filter_map(|line| line.strip_prefix("figure ")?.split_once(' ')) {
        *total.figures.entry(name.to_owned()).or_default() += count.parse::<u64>().unwrap_or(0);
    }
}

/// Adds what failed to the cases that are always run, unless it is there.
fn keep(cases: &[String]) -> Result<(), String> {
    let path = root().join("crates/sim/cases.txt");
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let there = std::fs::read_to_string(&path).map_err(at)?;
    let words = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let new: Vec<&String> = cases.iter().filter(|case| !there.lines().any(|line| words(line) == words(case))).collect();
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).map_err(at)?;
    new.iter().try_for_each(|case| writeln!(file, "{case}")).map_err(at)
}

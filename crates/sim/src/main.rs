//! `cargo run --release -p sim -- [cluster] --seeds A..B`: seeds of the simulator, for nights and for a seed that failed.
//! `cargo xtask sim` runs several of these side by side.

use sim::{cluster, world};

fn main() {
    let mut seeds = 0..100u64;
    let mut one = world::Options::default();
    let mut several = cluster::Options::default();
    let mut machine = false;
    let mut said = Said::default();
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|word| word == "idle").is_some() {
        let mut number = |usual| args.next().map_or(usual, |text| text.parse().unwrap_or_else(|_| usage()));
        let (groups, seconds) = (number(1_000), number(10));
        let figures = sim::idle::run(groups as u32, seconds, || println!("all groups have a leader"));
        println!("{groups} idle groups of three nodes, {seconds} s: {figures:?}");
        return;
    }
    let clusters = args.next_if(|word| word == "cluster").is_some();
    while let Some(arg) = args.next() {
        let value = args.next().unwrap_or_default();
        let number = || value.parse().unwrap_or_else(|_| usage());
        match arg.as_str() {
            "--seeds" => {
                let Some((from, to)) = value.split_once("..") else { usage() };
                let bound = |text: &str| text.parse().unwrap_or_else(|_| usage());
                seeds = bound(from)..bound(to);
            }
            "--lives" => one.lives = number() as usize,
            "--steps" => one.ticks = number() as usize,
            "--nodes" => said.nodes = Some(number()),
            "--moves" => said.moves = Some(number() > 0),
            "--streams" => said.streams = Some(number() > 0),
            "--commits" => said.commits = Some(number() > 0),
            "--twins" => said.twins = Some(number() > 0),
            "--etcd" => said.etcd = Some(number() > 0),
            "--machine" => machine = number() > 0,
            "--millis" => several.millis = number(),
            "--trace" => several.trace = (number() > 0).then_some(|line| println!("{line}")),
            _ => usage(),
        }
    }
    match (clusters, machine) {
        (true, true) => run_for_machines(seeds, said, &several),
        (true, false) => run_clusters(seeds, said, &several),
        (false, _) => run_nodes(seeds, &one),
    }
}

fn run_nodes(seeds: std::ops::Range<u64>, options: &world::Options) {
    let mut total = world::Report::default();
    let count = seeds.end.saturating_sub(seeds.start);
    for (done, seed) in seeds.enumerate() {
        match world::run(seed, options) {
            Ok(report) => total.add(&report),
            Err(failure) => fail(format!("{failure} --lives {} --steps {}", options.lives, options.ticks)),
        }
        if (done + 1) % 100 == 0 {
            println!("{} of {count} seeds: {total}", done + 1);
        }
    }
    println!("{count} seeds: {total}; checksum {:016x}", total.digest);
}

/// What was said on the command line; the seed says the rest.
#[derive(Clone, Copy, Default)]
struct Said {
    nodes: Option<u64>,
    moves: Option<bool>,
    streams: Option<bool>,
    commits: Option<bool>,
    twins: Option<bool>,
    etcd: Option<bool>,
}

fn of_seed(seed: u64, said: Said, options: &cluster::Options) -> cluster::Options {
    let nodes = said.nodes.unwrap_or_else(|| cluster::founders(seed));
    let moves = said.moves.unwrap_or_else(|| cluster::moves(seed));
    let streams = said.streams.unwrap_or_else(|| cluster::has_streams(seed));
    let commits = said.commits.unwrap_or_else(|| cluster::has_commits(seed)) && !streams;
    let twins = said.twins.unwrap_or_else(|| cluster::has_twins(seed));
    let etcd = said.etcd.unwrap_or_else(|| cluster::has_etcd(seed));
    cluster::Options { nodes, streams, moves, commits, twins, etcd, ..*options }
}

fn run_clusters(seeds: std::ops::Range<u64>, said: Said, options: &cluster::Options) {
    let mut total = cluster::Report::default();
    let count = seeds.end.saturating_sub(seeds.start);
    for (done, seed) in seeds.enumerate() {
        match cluster::run(seed, &of_seed(seed, said, options)) {
            Ok(report) => total.add(&report),
            Err(failure) => fail(failure.to_string()),
        }
        if (done + 1) % 20 == 0 {
            println!("{} of {count} seeds: {total}", done + 1);
        }
    }
    println!("{count} seeds: {total}; checksum {:016x}", total.digest);
}

/// A line for each failure, with the line of `cases.txt` that it asks for, and one for each figure. The kept cases come with
/// seed 0.
fn run_for_machines(seeds: std::ops::Range<u64>, said: Said, options: &cluster::Options) {
    let mut total = cluster::Report::default();
    let mut failed = false;
    let kept = if seeds.start == 0 { cluster::cases() } else { Vec::new() };
    let kept = kept.into_iter().map(|(seed, kept)| (seed, cluster::Options { trace: options.trace, ..kept }));
    for (seed, options) in kept.chain(seeds.map(|seed| (seed, of_seed(seed, said, options)))) {
        match cluster::run(seed, &options) {
            Ok(report) => total.add(&report),
            Err(failure) => {
                failed = true;
                let what = failure.what.lines().next().unwrap_or_default();
                let moves = if failure.moves { " moves" } else { "" };
                let commits = if failure.commits { " commits" } else { "" };
                let twins = if failure.twins { " twins" } else { "" };
                let etcd = if failure.etcd { " etcd" } else { "" };
                println!("case {seed} {} {}{moves}{commits}{twins}{etcd} # {what}", failure.nodes, failure.millis);
                eprintln!("{failure}");
            }
        }
    }
    for (name, count) in total.figures() {
        println!("figure {count} {name}");
    }
    std::process::exit(i32::from(failed));
}

fn fail(why: String) -> ! {
    eprintln!("{why}");
    std::process::exit(1)
}

fn usage() -> ! {
    eprintln!("usage: sim idle [GROUPS [SECONDS]]");
    eprintln!("       sim --seeds A..B [--lives N] [--steps N]");
    eprintln!(
        "       sim cluster --seeds A..B [--nodes N] [--millis N] [--moves 0|1] [--streams 0|1] [--commits 0|1] [--twins 0|1] [--etcd 0|1] [--trace 1] [--machine 1]"
    );
    std::process::exit(2)
}

//! A whole node on a disk that forgets: nothing acknowledged is lost, nothing is half there, and bugs put in are found.
//!
//! `SIM_SEEDS` is how many seeds the random part runs, `SIM_TEARS` in how many ways each enumerated crash tears the disk.

use sim::disk::Operation;
use sim::world::{Bugs, Failure, Options, Report, crash_at, run};

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seeds() -> u64 {
    parameter("SIM_SEEDS", 150)
}

fn many_lives(seeds: std::ops::Range<u64>) -> Report {
    let count = seeds.end - seeds.start;
    let mut total = Report::default();
    for seed in seeds {
        match run(seed, &Options::default()) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{count} seeds: {total}");
    total
}

#[test]
fn nothing_acknowledged_is_lost_over_many_lives() {
    let total = many_lives(0..seeds());
    let tried = [
        total.snapshots,
        total.stops,
        total.full,
        total.crashed_starts,
        total.spoiled,
        total.clients.unknown,
        total.cache.1,
    ];
    assert!(seeds() < 20 || tried.iter().all(|count| *count > 0), "something was never tried: {total}");
}

/// Workloads: the first start alone, then work with snapshots, turns of segments and their return.
const WORKLOADS: [(u64, usize); 4] = [(1, 0), (2, 200), (3, 300), (9, 500)];

fn cut_everywhere(tears: u64) {
    let (mut crashes, mut kinds) = (0, std::collections::BTreeMap::<&str, u64>::new());
    for (seed, ticks) in WORKLOADS {
        let operations = crash_at(seed, ticks, None, Bugs::default()).unwrap_or_else(|failure| panic!("{failure}"));
        for (place, operation) in operations.iter().enumerate() {
            *kinds.entry(kind(operation)).or_default() += 1;
            for tear in 0..tears {
                let done = crash_at(seed, ticks, Some((place as u64, tear)), Bugs::default());
                done.unwrap_or_else(|failure| panic!("operation {place} ({operation:?}), tear {tear}: {failure}"));
                crashes += 1;
            }
        }
    }
    let places: u64 = kinds.values().sum();
    println!("{crashes} power cuts, {tears} at each of {places} disk operations: {kinds:?}");
    assert!(["write", "sync", "rename"].iter().all(|kind| kinds[kind] > 0), "{kinds:?}");
}

fn kind(operation: &Operation) -> &'static str {
    match operation {
        Operation::Create(_) => "create",
        Operation::Write(..) => "write",
        Operation::Sync(_) => "sync",
        Operation::Allocate(..) => "allocate",
        Operation::Truncate(..) => "truncate",
        Operation::Rename(..) => "rename",
        Operation::Link(..) => "link",
        Operation::Remove(_) => "remove",
        Operation::SyncDir => "sync of the directory",
    }
}

#[test]
fn a_power_cut_at_every_disk_operation_loses_nothing() {
    cut_everywhere(parameter("SIM_TEARS", 2));
}

#[test]
#[ignore = "takes half an hour: for nights"]
fn a_night_of_seeds_and_power_cuts() {
    cut_everywhere(20);
    many_lives(1_000_000..1_000_000 + parameter("SIM_NIGHT_SEEDS", 10_000));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_answers() {
    let digest = |seed| run(seed, &Options::default()).unwrap_or_else(|failure| panic!("{failure}")).digest;
    for seed in 0..4 {
        assert_eq!(digest(seed), digest(seed), "seed {seed}");
    }
    assert_ne!(digest(0), digest(1));
}

/// Runs the seeds that must pass without the bug until one fails with it.
fn caught(what: &str, bugs: Bugs) -> Failure {
    let options = Options { bugs, ..Options::default() };
    for seed in 0..seeds().max(20) {
        if let Err(failure) = run(seed, &options) {
            println!("{what}: caught after {} seeds, in life {}: {}", seed + 1, failure.life, failure.what);
            return *failure;
        }
    }
    panic!("{what}: not caught by {} seeds", seeds().max(20));
}

#[test]
fn an_answer_before_the_sync_is_found() {
    let mut bugs = Bugs::default();
    bugs.log.ack_before_fsync = true;
    caught("answer before fsync", bugs);
}

#[test]
fn a_hard_state_that_is_not_kept_is_found() {
    let mut bugs = Bugs::default();
    bugs.node.consensus.hard_state_not_persisted = true;
    caught("hard state not persisted", bugs);
}

#[test]
fn records_applied_twice_after_a_restart_are_found() {
    let mut bugs = Bugs::default();
    bugs.node.state.applied_twice = true;
    caught("record applied twice after restart", bugs);
}

#[test]
fn checksums_that_nobody_checks_are_found() {
    let mut bugs = Bugs::default();
    bugs.log.crc_not_checked = true;
    caught("CRC not checked", bugs);
}

#[test]
fn a_snapshot_whose_index_is_off_by_one_is_found() {
    let mut bugs = Bugs::default();
    bugs.node.state.snapshot_index_off_by_one = true;
    caught("snapshot index off by one", bugs);
}

#[test]
fn a_failed_sync_that_is_tried_again_is_found() {
    let mut bugs = Bugs::default();
    bugs.log.failed_sync_retried = true;
    caught("failed fsync retried", bugs);
}

#[test]
fn a_snapshot_whose_name_is_not_durable_is_found() {
    let caught = caught("directory not synced after rename", Bugs { snapshot_dir_not_synced: true, ..Bugs::default() });
    assert!(caught.what.contains("snapshot"), "{}", caught.what);
}

#[test]
fn watched_keys_that_nobody_looks_at_are_found() {
    let mut bugs = Bugs::default();
    bugs.node.state.watch_ignored = true;
    caught("WATCH ignored", bugs);
}

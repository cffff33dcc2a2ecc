//! A whole node on a disk that forgets: nothing acknowledged is lost, nothing is half there, and bugs put in are found.
//!
//! `SIM_SEEDS` is how many seeds the random part runs, `SIM_TEARS` in how many ways each enumerated crash tears the disk.

use sim::world::{Bugs, Failure, Options, Report, crash_at, run};

fn parameter(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn seeds() -> u64 {
    parameter("SIM_SEEDS", 150)
}

#[test]
fn nothing_acknowledged_is_lost_over_many_lives() {
    let mut total = Report::default();
    for seed in 0..seeds() {
        match run(seed, &Options::default()) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{} seeds: {total}", seeds());
    let each_is_there =
        [total.snapshots, total.stops, total.full, total.crashed_starts, total.spoiled, total.clients.unknown];
    assert!(each_is_there.iter().all(|count| *count > 0), "something was never tried: {total}");
}

#[test]
fn a_power_cut_at_every_disk_operation_loses_nothing() {
    let tears = parameter("SIM_TEARS", 2);
    let (mut crashes, mut places) = (0, 0);
    // The first start alone, then work with snapshots, turns of segments and their return.
    for (seed, ticks) in [(1, 0), (2, 150), (3, 300)] {
        let operations = crash_at(seed, ticks, None, Bugs::default()).unwrap_or_else(|failure| panic!("{failure}"));
        places += operations;
        for operation in 0..operations {
            for tear in 0..tears {
                let done = crash_at(seed, ticks, Some((operation, tear)), Bugs::default());
                done.unwrap_or_else(|failure| panic!("operation {operation}, tear {tear}: {failure}"));
                crashes += 1;
            }
        }
    }
    println!("{crashes} power cuts at {places} writes, syncs, renames and other disk operations");
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

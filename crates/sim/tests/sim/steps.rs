//! One commit, cut at every durable step of every node: no state where one part is visible without the others.
//!
//! `SIM_STEP_SEEDS` is for how many seeds.

use std::collections::BTreeMap;

use base::NodeId;
use sim::cluster::steps::{Course, Cut, Fate, Path, Told, play};
use sim::disk::Operation;
use sim::world::Bugs;

fn seeds() -> u64 {
    std::env::var("SIM_STEP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

fn courses(seed: u64, (nodes, snapshots): (u64, bool), path: Path, bugs: Bugs) -> Vec<Course> {
    // In one shard the client is its leader's.
    let doors = if path == Path::One { 1 } else { nodes };
    (1..=doors).map(|door| Course { seed, nodes, path, door: NodeId(door), snapshots, bugs, trace: None }).collect()
}

/// Plays a course with a cut at each of its steps, each in four ways; what is counted.
fn cut_everywhere(course: &Course, figures: &mut BTreeMap<&'static str, u64>) -> Result<(), String> {
    let mut count = |what: &'static str| *figures.entry(what).or_default() += 1;
    let whole = play(course, None)?;
    assert_eq!((whole.told, whole.happened), (Told::Done, true), "{course:?}");
    for (node, operations) in &whole.operations {
        for (step, operation) in operations.iter().enumerate() {
            count("steps");
            count(match operation {
                Operation::Write(..) => "writes",
                Operation::Sync(_) => "syncs",
                _ => "of files and names",
            });
            for fate in Fate::ALL {
                let played = play(course, Some(Cut { node: *node, step: step as u64, fate }))
                    .map_err(|why| format!("{operation:?}: {why}"))?;
                count(match (played.told, played.happened) {
                    (Told::Done, _) => "answered",
                    (Told::Refused, _) => "refused",
                    (_, true) => "unknown, and done",
                    (_, false) => "unknown, and not done",
                });
            }
        }
    }
    Ok(())
}

/// So many nodes, and whether they take snapshots all the while: much to cut, so that several nodes are for nights.
const BY_DAY: [(u64, bool); 3] = [(1, false), (1, true), (3, false)];

fn every_step(path: Path, seeds: std::ops::Range<u64>, sizes: &[(u64, bool)]) {
    let mut figures = BTreeMap::new();
    for seed in seeds {
        for size in sizes {
            for course in courses(seed, *size, path, Bugs::default()) {
                cut_everywhere(&course, &mut figures).unwrap_or_else(|why| panic!("{why}"));
            }
        }
    }
    println!("{path:?}: {figures:?}");
    let mut wanted = vec!["writes", "syncs", "of files and names", "answered"];
    if path != Path::Named {
        wanted.extend(["unknown, and done", "unknown, and not done"]);
    }
    assert!(wanted.iter().all(|what| figures.contains_key(what)), "{figures:?}");
}

#[test]
fn a_commit_in_one_shard_is_seen_whole_or_not_at_all() {
    every_step(Path::One, 0..seeds(), &BY_DAY);
}

#[test]
fn a_commit_over_two_shards_is_seen_whole_or_not_at_all() {
    every_step(Path::Across, 0..seeds(), &BY_DAY);
}

#[test]
fn a_commit_that_has_a_name_happens_once() {
    every_step(Path::Named, 0..seeds(), &BY_DAY);
}

#[test]
#[ignore = "takes half an hour: for nights"]
fn a_night_of_steps_with_snapshots() {
    for path in [Path::One, Path::Across, Path::Named] {
        every_step(path, 100..105, &[(1, true), (3, true), (3, false)]);
    }
}

#[test]
fn the_same_cut_gives_the_same_end() {
    let course = courses(0, (3, false), Path::Across, Bugs::default())[1];
    let cut = Cut { node: NodeId(2), step: 5, fate: Fate::Torn };
    let story = || format!("{:?}", play(&course, Some(cut)));
    assert_eq!(story(), story());
}

/// A bug that is put in must be found at some step.
fn caught(bugs: Bugs, sizes: &[(u64, bool)]) {
    for seed in 0..8 {
        for size in sizes {
            for course in courses(seed, *size, Path::Across, bugs) {
                if let Err(why) = cut_everywhere(&course, &mut BTreeMap::new()) {
                    println!("caught with seed {seed}: {why}");
                    return;
                }
            }
        }
    }
    panic!("not caught");
}

macro_rules! planted {
    ($($name:ident: $($place:ident).+, $sizes:expr;)*) => {
        $(#[test]
        fn $name() {
            let mut bugs = Bugs::default();
            bugs.$($place).+ = true;
            caught(bugs, $sizes);
        })*
    };
}

planted! {
    an_answer_before_the_decision_is_found_at_a_step: door.answers_early, &BY_DAY;
    a_decision_forgotten_before_all_know_is_found_at_a_step: door.forgets_early, &BY_DAY;
    an_answer_before_the_sync_is_found_at_a_step: log.ack_before_fsync, &BY_DAY;
    a_read_between_two_shards_is_found_at_a_step: node.state.lock_read_through, &BY_DAY;
    locks_forgotten_by_a_restart_are_found_at_a_step: node.state.locks_forgotten, &BY_DAY;
    decisions_forgotten_by_a_restart_are_found_at_a_step: node.state.decisions_forgotten, &[(3, true)];
}

//! Whole clusters under faults: nothing acknowledged is lost, nothing read is stale, replicas stay alike, and bugs put in are
//! found.
//!
//! `SIM_CLUSTER_SEEDS` is how many seeds run, with one, three and five founders.

use sim::cluster::{Failure, Options, Report, cases, founders, run, run_taped};
use sim::world::Bugs;

fn seeds() -> u64 {
    std::env::var("SIM_CLUSTER_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn clusters_lose_nothing_and_answer_nothing_stale() {
    let mut total = Report::default();
    for seed in 0..seeds() {
        match run(seed, &Options { nodes: founders(seed), ..Options::default() }) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{} clusters: {total}", seeds());
    for (what, count) in total.figures() {
        assert!(count > 0, "no {what} in any of the seeds: the harness does not do what it says");
    }
}

#[test]
fn the_same_seed_tells_the_same_story() {
    let story = |seed| {
        let report =
            run(seed, &Options { millis: 6_000, ..Options::default() }).unwrap_or_else(|failure| panic!("{failure}"));
        format!("{report} {}", report.digest)
    };
    assert_eq!(story(3), story(3));
    assert_ne!(story(3), story(4));
}

#[test]
fn what_failed_once_holds() {
    for (seed, nodes, millis) in cases() {
        run(seed, &Options { nodes, millis, ..Options::default() }).unwrap_or_else(|failure| panic!("{failure}"));
    }
}

/// What `adya` (which agrees with Elle) says of a history.
fn second_opinion(tape: &str) -> adya::Valid {
    let history = adya::History::from_json(tape).expect("the tape is in its form");
    let opts = adya::Opts { models: vec!["strict-serializable".into()], ..adya::Opts::default() };
    adya::check(&history, adya::Workload::ListAppend, &opts).valid
}

/// Transactions and single operations together, as one history over all lists.
#[test]
fn a_second_judge_finds_the_histories_strictly_serializable() {
    for seed in 0..24 {
        let (done, tape) = run_taped(seed, &Options { nodes: founders(seed), millis: 8_000, ..Options::default() });
        done.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(tape.lines().count() > 100, "seed {seed}: {} lines", tape.lines().count());
        assert_eq!(second_opinion(&tape), adya::Valid::True, "seed {seed}");
    }
}

/// Where ours finds a history that no order explains, so does the other.
#[test]
fn a_second_judge_sees_the_same_stale_reads() {
    let mut bugs = Bugs::default();
    bugs.node.driver.endless_lease = true;
    bugs.node.driver.read_before_applied = true;
    let mut agreed = 0;
    for seed in 0..PLANTED_SEEDS {
        let (done, tape) = run_taped(seed, &Options { nodes: founders(seed), bugs, ..Options::default() });
        if done.is_err_and(|failure| failure.what.starts_with("list ")) {
            assert_eq!(second_opinion(&tape), adya::Valid::False, "seed {seed}");
            agreed += 1;
        }
        if agreed == 5 {
            return;
        }
    }
    panic!("only {agreed} histories with stale reads in {PLANTED_SEEDS} seeds");
}

/// How many seeds may be needed to catch a bug.
const PLANTED_SEEDS: u64 = 800;

/// Runs the seeds that must pass without the bug until one fails with it.
fn caught(what: &str, bugs: Bugs) -> Failure {
    for seed in 0..PLANTED_SEEDS {
        let options = Options { bugs, nodes: founders(seed), ..Options::default() };
        if let Err(failure) = run(seed, &options) {
            println!("{what}: caught after {} clusters, at {} ms: {}", seed + 1, failure.at, failure.what);
            return *failure;
        }
    }
    panic!("{what}: not caught by {PLANTED_SEEDS} clusters");
}

/// One bug each: its name, where it is put in.
macro_rules! planted {
    ($($name:ident: $($place:ident).+;)*) => {
        $(#[test]
        fn $name() {
            let mut bugs = Bugs::default();
            bugs.$($place).+ = true;
            caught(stringify!($name), bugs);
        })*
    };
}

planted! {
    a_vote_that_is_not_kept_is_found: node.consensus.hard_state_not_persisted;
    an_acknowledgement_before_the_disk_is_found: node.consensus.acks_before_durable;
    an_answer_before_the_sync_is_found: log.ack_before_fsync;
    a_failed_sync_that_is_tried_again_is_found: log.failed_sync_retried;
    a_lease_kept_by_who_gives_the_lead_away_is_found: node.consensus.lease_survives_transfer;
    a_lease_that_does_not_end_is_found: node.driver.endless_lease;
    a_lease_before_an_entry_of_the_own_term_is_found: node.consensus.lease_before_own_term;
    a_commit_that_followers_see_before_the_leader_is_found: node.consensus.commit_told_early;
    names_of_reads_used_again_are_found: node.consensus.read_names_reused;
    a_read_before_its_index_is_applied_is_found: node.driver.read_before_applied;
    a_change_of_membership_that_is_forgotten_is_found: node.membership_forgotten;
    answers_of_somebody_elses_entry_are_found: node.driver.answers_by_index;
    a_snapshot_that_the_log_does_not_hear_of_is_found: node.driver.install_without_mark;
    a_snapshot_whose_index_is_off_by_one_is_found: node.state.snapshot_index_off_by_one;
    a_lease_counted_from_the_answer_is_found: node.consensus.lease_from_answer;
    a_restarted_node_that_votes_at_once_is_found: node.consensus.votes_at_once;
    a_decision_that_never_reaches_the_disk_is_found: node.consensus.commit_not_persisted;
    votes_counted_twice_are_found: node.consensus.votes_counted_twice;
    members_that_count_before_they_are_decided_are_found: node.consensus.members_before_commit;
    a_log_that_is_let_go_before_its_snapshot_is_found: node.driver.compact_before_durable;
    a_wiped_disk_under_the_old_name_is_found: wiped_disk;
    time_by_wall_clocks_is_found: wall_clocks;
    a_fence_that_is_ignored_is_found: node.consensus.fence_ignored;
    a_doubt_that_is_ignored_is_found: node.consensus.doubt_ignored;
    records_applied_twice_after_a_restart_are_found: node.state.applied_twice;
}

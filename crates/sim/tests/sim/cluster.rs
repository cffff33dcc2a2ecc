//! Whole clusters under faults: nothing acknowledged is lost, nothing read is stale, replicas stay alike, and bugs put in are
//! found.
//!
//! `SIM_CLUSTER_SEEDS` is how many seeds run, with one, three and five founders.

use sim::cluster::{
    Failure, Options, Report, cases, founders, has_commits, has_etcd, has_streams, has_twins, moves, run, run_taped,
};
use sim::world::Bugs;

fn seeds() -> u64 {
    std::env::var("SIM_CLUSTER_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

#[test]
fn clusters_lose_nothing_and_answer_nothing_stale() {
    let mut total = Report::default();
    for seed in 0..seeds() {
        let (nodes, streams) = (founders(seed), has_streams(seed));
        let commits = has_commits(seed) && !streams;
        let (moves, twins, etcd) = (moves(seed), has_twins(seed), has_etcd(seed));
        let options = Options { nodes, moves, streams, commits, twins, etcd, ..Options::default() };
        match run(seed, &options) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{} clusters: {total}", seeds());
    // A session outlives these clusters' faults: see `watchers_are_told_what_happened_and_locks_have_one_holder`.
    let longer = [total.sessions_over, total.sessions_over_leaders].len();
    for (what, count) in total.figures().into_iter().rev().skip(longer) {
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
    for (seed, options) in cases() {
        run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
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

/// The same of transactions over several shards, mixed with single operations; in half of the seeds slots move.
#[test]
fn a_second_judge_finds_commits_over_shards_strictly_serializable() {
    for seed in 0..24 {
        let options = Options { commits: true, moves: seed % 2 == 0, nodes: founders(seed), ..Options::default() };
        let (done, tape) = run_taped(seed, &Options { millis: 8_000, ..options });
        done.unwrap_or_else(|failure| panic!("{failure}"));
        assert!(tape.lines().count() > 100, "seed {seed}: {} lines", tape.lines().count());
        assert_eq!(second_opinion(&tape), adya::Valid::True, "seed {seed}");
    }
}

/// Where ours finds a history of such transactions that no order explains, so does the other.
#[test]
fn a_second_judge_sees_the_same_torn_commits() {
    let mut bugs = Bugs::default();
    bugs.node.state.lock_read_through = true;
    bugs.node.state.locks_shared = true;
    let mut agreed = 0;
    for seed in 0..PLANTED_SEEDS {
        let options = Options { nodes: founders(seed), bugs, commits: true, ..Options::default() };
        let (done, tape) = run_taped(seed, &options);
        if done.is_err_and(|failure| failure.what.starts_with("no order")) {
            assert_eq!(second_opinion(&tape), adya::Valid::False, "seed {seed}");
            agreed += 1;
        }
        if agreed == 5 {
            return;
        }
    }
    panic!("only {agreed} histories without an order in {PLANTED_SEEDS} seeds");
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
const PLANTED_SEEDS: u64 = 2400;

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

/// The same for a bug of slots that move.
fn caught_moving(what: &str, bugs: Bugs) -> Failure {
    for seed in 0..PLANTED_SEEDS {
        let options = Options { bugs, nodes: founders(seed), moves: true, ..Options::default() };
        if let Err(failure) = run(seed, &options) {
            println!("{what}: caught after {} clusters, at {} ms: {}", seed + 1, failure.at, failure.what);
            return *failure;
        }
    }
    panic!("{what}: not caught by {PLANTED_SEEDS} clusters");
}

/// The same for a bug of the queue.
fn caught_streams(what: &str, bugs: Bugs) -> Failure {
    for seed in 0..PLANTED_SEEDS {
        let options = Options { bugs, nodes: founders(seed), streams: true, ..Options::default() };
        if let Err(failure) = run(seed, &options) {
            println!("{what}: caught after {} clusters, at {} ms: {}", seed + 1, failure.at, failure.what);
            return *failure;
        }
    }
    panic!("{what}: not caught by {PLANTED_SEEDS} clusters");
}

/// The same for a bug in etcd's keys: it is found by one of these words, not by chance.
fn caught_etcd(what: &str, bugs: Bugs, words: &[&str]) {
    for seed in 0..PLANTED_SEEDS {
        let options = Options { bugs, nodes: founders(seed), millis: LOCKED_MILLIS, etcd: true, ..Options::default() };
        if let Err(failure) = run(seed, &options) {
            println!("{what}: caught after {} clusters, at {} ms: {}", seed + 1, failure.at, failure.what);
            assert!(words.iter().any(|word| failure.what.contains(word)), "not by {words:?}: {failure}");
            return;
        }
    }
    panic!("{what}: not caught by {PLANTED_SEEDS} clusters");
}

/// The same for a bug of commits over shards; slots move in half of the seeds.
fn caught_commits(what: &str, bugs: Bugs) -> Failure {
    for seed in 0..PLANTED_SEEDS {
        let options =
            Options { bugs, nodes: founders(seed), commits: true, moves: seed % 2 == 1, ..Options::default() };
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

/// The same, of slots that move.
macro_rules! planted_moving {
    ($($name:ident: $($place:ident).+;)*) => {
        $(#[test]
        fn $name() {
            let mut bugs = Bugs::default();
            bugs.$($place).+ = true;
            caught_moving(stringify!($name), bugs);
        })*
    };
}

planted_moving! {
    a_child_without_what_changed_last_is_found: mover.no_rest;
    deletes_that_are_not_sent_are_found: mover.deletes_forgotten;
    a_parent_that_lets_go_first_is_found: mover.gone_first;
    a_freeze_that_nobody_asks_about_at_apply_is_found: node.state.freeze_unchecked;
    a_stale_word_to_open_is_found: node.state.stale_open;
}

/// The same, of event streams.
macro_rules! planted_streams {
    ($($name:ident: $($place:ident).+;)*) => {
        $(#[test]
        fn $name() {
            let mut bugs = Bugs::default();
            bugs.$($place).+ = true;
            caught_streams(stringify!($name), bugs);
        })*
    };
}

planted_streams! {
    a_window_of_one_batch_is_found: node.queue.window_of_one;
    producers_that_a_snapshot_forgets_are_found: node.queue.producers_forgotten;
    abort_markers_that_a_new_leader_forgets_are_found: node.queue.abort_markers_lost;
    a_last_stable_offset_that_is_not_held_back_is_found: node.queue.stable_not_held;
    a_batch_of_a_transaction_that_has_ended_is_found: node.queue.late_batches;
    offsets_of_an_older_generation_are_found: node.queue.offsets_not_fenced;
    a_leader_that_serves_before_it_has_applied_its_log_is_found: node.consensus.lease_before_own_term;
    a_linked_segment_that_is_written_over_is_found: log.links_ignored;
}

/// The same, of commits over shards.
macro_rules! planted_commits {
    ($($name:ident: $($place:ident).+;)*) => {
        $(#[test]
        fn $name() {
            let mut bugs = Bugs::default();
            bugs.$($place).+ = true;
            caught_commits(stringify!($name), bugs);
        })*
    };
}

planted_commits! {
    a_commit_answered_before_its_decision_is_found: door.answers_early;
    a_decision_forgotten_too_early_is_found: door.forgets_early;
    locks_that_a_restart_forgets_are_found: node.state.locks_forgotten;
    decisions_that_a_restart_forgets_are_found: node.state.decisions_forgotten;
    a_read_between_two_shards_commits_is_found: node.state.lock_read_through;
    an_abort_without_a_tombstone_is_found: node.state.no_tombstone;
    a_decision_behind_its_deadline_is_found: node.state.decided_late;
    a_finish_obeyed_twice_is_found: node.state.finished_twice;
    watches_that_a_participant_ignores_are_found: node.state.prepare_unwatched;
    a_freeze_over_locks_is_found: node.state.freeze_over_locks;
    locks_of_two_are_found: node.state.locks_shared;
    a_named_commit_done_twice_is_found: node.state.names_ignored;
}

/// The same, of etcd's keys, leases and watches.
macro_rules! planted_etcd {
    ($($name:ident: $($place:ident).+ => $($word:literal),+;)*) => {
        $(#[test]
        fn $name() {
            let mut bugs = Bugs::default();
            bugs.$($place).+ = true;
            caught_etcd(stringify!($name), bugs, &[$($word),+]);
        })*
    };
}

planted_etcd! {
    a_compaction_that_takes_what_comes_after_it_is_found: node.state.coordination.compacts_too_much => "reliable:", "two histories:";
    a_deletion_that_watchers_do_not_hear_of_is_found: node.state.coordination.deletes_untold => "lost write:", "reliable:", "two histories:";
    a_transaction_in_several_revisions_is_found: node.state.coordination.torn_transactions => "lost write:", "atomic:";
    a_compare_that_is_ignored_is_found: node.state.coordination.compares_ignored => "two hold the lock", "a late write";
    a_renewal_that_is_forgotten_is_found: node.state.coordination.renewals_forgotten => "that was prolonged at";
    a_stale_number_that_is_let_through_is_found: node.state.fences_ignored => "a late write";
    a_renewal_of_a_session_that_is_forgotten_is_found: node.state.session_renewals_forgotten => "that was prolonged at";
    keys_that_a_snapshot_parts_from_their_lease_are_found: node.state.coordination.attachments_forgotten => "two histories:", "outlived its lease";
}

/// A session ends 20 seconds after its last renewal: some end while faults last.
const LOCKED_MILLIS: u64 = 45_000;

/// Clients of etcd's door in every one of them: what watchers are told is what happened, and a lock has one holder.
#[test]
fn watchers_are_told_what_happened_and_locks_have_one_holder() {
    let mut total = Report::default();
    let count = (seeds() / 40).max(33);
    for seed in 30_000..30_000 + count {
        match run(seed, &Options { nodes: founders(seed), millis: LOCKED_MILLIS, etcd: true, ..Options::default() }) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{count} clusters: {total}");
    assert!(total.watched > 500 * count && total.resumed > 50 * count && total.locks_taken > 3 * count, "{total}");
    assert!(total.behind > 0 && total.late_refused > 0 && total.paused_holders > 0, "{total}");
    assert!(total.numbers > 0 && total.shown > total.numbers && total.stale_refused > 0, "{total}");
    assert!(total.sessions_over_leaders > 0, "{total}");
}

/// Transactions over several shards in every one of them; slots move in half.
#[test]
fn commits_over_shards_lose_nothing_and_show_no_part() {
    let mut total = Report::default();
    for seed in 20_000..20_000 + seeds() / 2 {
        let options = Options { commits: true, moves: seed % 2 == 0, nodes: founders(seed), ..Options::default() };
        match run(seed, &options) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{} clusters: {total}", seeds() / 2);
    assert!(total.cross > 20 * seeds() && total.resolves > seeds() && total.reminders > seeds() / 4, "{total}");
    assert!(total.moves > 0 && total.doors_struck > 0 && total.leaders_struck > 0, "{total}");
}

/// Slots move in every one of them.
#[test]
fn clusters_whose_slots_move_lose_nothing_and_answer_nothing_stale() {
    let mut total = Report::default();
    for seed in 10_000..10_000 + seeds() / 2 {
        match run(seed, &Options { nodes: founders(seed), moves: true, ..Options::default() }) {
            Ok(report) => total.add(&report),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{} clusters: {total}", seeds() / 2);
    assert!(total.moves > 0 && total.broken_moves > 0 && total.thaws > 0, "{total}");
}

//! A group with one voter: the first node's whole life.

use base::{GroupId, Instant, NodeId};
use bytes::Bytes;
use consensus::{DropReason, Entry, EntryKind, Group, GroupConfig, HardState, Input, Membership, Output, Role};

const ME: NodeId = NodeId(1);
const END_OF_TIME: Instant = Instant(u64::MAX);

fn config() -> GroupConfig {
    GroupConfig::new(GroupId(1), ME, Membership::new([ME], []), 7)
}

fn step(group: &mut Group, input: Input) -> Vec<Output> {
    let mut out = Vec::new();
    group.step(Instant(5), input, &mut out);
    out
}

fn entry(index: u64, term: u64, data: &'static str) -> Entry {
    Entry { index, term, kind: EntryKind::Normal, data: Bytes::from_static(data.as_bytes()) }
}

fn propose(token: u64, data: &'static str) -> Input {
    Input::Propose { token, data: Bytes::from_static(data.as_bytes()) }
}

/// A leader that has applied its first entry.
fn leader() -> Group {
    let mut group = Group::new(config()).unwrap();
    step(&mut group, Input::Wake);
    step(&mut group, Input::Persisted { token: 1 });
    step(&mut group, Input::Applied { index: 1 });
    group
}

#[test]
fn it_elects_itself_at_once_and_reads_once_its_first_entry_is_applied() {
    let mut group = Group::new(config()).unwrap();
    assert_eq!(group.deadline(), Some(Instant(0)), "it wants to be stepped");
    let role = Output::Role { role: Role::Leader, term: 1, leader: Some(ME) };
    let hard_state = Some(HardState { term: 1, vote: 1, commit: 0 });
    let persist = Output::Persist { token: 1, entries: vec![entry(1, 1, "")], hard_state, needed: true };
    assert_eq!(step(&mut group, Input::Wake), [role, persist]);
    assert_eq!(step(&mut group, Input::ReadIndex { token: 9 }), [Output::ReadDropped { token: 9 }]);
    let commit = Output::Commit { entries: vec![entry(1, 1, "")] };
    assert_eq!(step(&mut group, Input::Persisted { token: 1 }), [commit]);
    assert!(!group.lease_valid(Instant(5)));
    let lease = Output::Lease { until: Some(END_OF_TIME) };
    assert_eq!(step(&mut group, Input::Applied { index: 1 }), [lease]);
    assert!(group.lease_valid(Instant(u64::MAX - 1)));
    assert_eq!(group.deadline(), None, "an idle lone voter sleeps");
    assert_eq!(step(&mut group, Input::ReadIndex { token: 9 }), [Output::ReadReady { token: 9, index: 1 }]);
}

#[test]
fn what_is_proposed_together_is_one_write_and_nothing_is_decided_before_it_is_durable() {
    let mut group = leader();
    let mut out = Vec::new();
    group.step_all(Instant(6), [propose(10, "a"), propose(11, "b"), propose(12, "")], &mut out);
    let dropped = Output::ProposalDropped { token: 12, reason: DropReason::Invalid, leader: Some(ME) };
    let hard_state = Some(HardState { term: 1, vote: 1, commit: 1 });
    assert_eq!(
        out,
        [
            Output::Proposed { token: 10, index: 2, term: 1 },
            Output::Proposed { token: 11, index: 3, term: 1 },
            dropped,
            Output::Persist { token: 2, entries: vec![entry(2, 1, "a"), entry(3, 1, "b")], hard_state, needed: true },
        ]
    );
    // The next batch fills while the first is being written.
    let second = step(&mut group, propose(13, "c"));
    let persist = Output::Persist { token: 3, entries: vec![entry(4, 1, "c")], hard_state: None, needed: true };
    assert_eq!(second, [Output::Proposed { token: 13, index: 4, term: 1 }, persist]);
    let commit = Output::Commit { entries: vec![entry(2, 1, "a"), entry(3, 1, "b")] };
    assert_eq!(step(&mut group, Input::Persisted { token: 2 }), [commit]);
    assert_eq!(step(&mut group, Input::Persisted { token: 2 }), []);
    assert_eq!(step(&mut group, Input::Persisted { token: 3 }), [Output::Commit { entries: vec![entry(4, 1, "c")] }]);
    assert_eq!(step(&mut group, Input::Applied { index: 4 }), []);
    let status = group.status();
    assert_eq!((status.last, status.committed, status.applied, status.persisted), (4, 4, 4, 4));
}

#[test]
fn after_a_crash_it_goes_on_from_what_was_durable() {
    let found = GroupConfig {
        entries: vec![entry(1, 1, ""), entry(2, 1, "a"), entry(3, 1, "b")],
        hard_state: HardState { term: 1, vote: 1, commit: 2 },
        ..config()
    };
    let mut group = Group::new(found).unwrap();
    let out = step(&mut group, Input::Wake);
    let known = Output::Commit { entries: vec![entry(1, 1, ""), entry(2, 1, "a")] };
    let role = Output::Role { role: Role::Leader, term: 2, leader: Some(ME) };
    let hard_state = Some(HardState { term: 2, vote: 1, commit: 2 });
    let persist = Output::Persist { token: 1, entries: vec![entry(4, 2, "")], hard_state, needed: true };
    assert_eq!(out, [known, role, persist]);
    let rest = Output::Commit { entries: vec![entry(3, 1, "b"), entry(4, 2, "")] };
    assert_eq!(step(&mut group, Input::Persisted { token: 1 }), [rest]);
}

#[test]
fn it_compacts_whatever_is_applied_since_nobody_lags_and_restarts_from_there() {
    let mut group = leader();
    step(&mut group, propose(1, "a"));
    step(&mut group, propose(2, "b"));
    step(&mut group, Input::Persisted { token: 3 });
    step(&mut group, Input::Applied { index: 2 });
    step(&mut group, Input::Compact { index: 2 });
    assert_eq!(group.status().start.index, 2, "nobody else may need what is applied");
    step(&mut group, Input::Snapshotted { index: 3 });
    assert_eq!(group.status().snapshot, 0, "3 is not applied");
    step(&mut group, Input::Snapshotted { index: 2 });
    step(&mut group, Input::Compact { index: 9 });
    let start = group.status().start;
    assert_eq!((start.index, start.term), (2, 1));

    let found = GroupConfig {
        start,
        applied: 2,
        snapshot: 2,
        entries: vec![entry(3, 1, "b")],
        hard_state: HardState { term: 1, vote: 1, commit: 1 },
        ..config()
    };
    let mut group = Group::new(found).unwrap();
    step(&mut group, Input::Wake);
    let out = step(&mut group, Input::Persisted { token: 1 });
    assert_eq!(out, [Output::Commit { entries: vec![entry(3, 1, "b"), entry(4, 2, "")] }]);
}

/// A learner must not hear of a term that a crash could make this node use a second time.
#[test]
fn with_a_learner_its_first_message_waits_for_term_and_vote() {
    let membership = Membership::new([ME], [NodeId(2)]);
    let mut group = Group::new(GroupConfig::new(GroupId(1), ME, membership, 7)).unwrap();
    let out = step(&mut group, Input::Wake);
    let sends: Vec<_> = out.iter().filter(|o| matches!(o, Output::Send { .. })).collect();
    assert!(!sends.is_empty());
    assert!(sends.iter().all(|o| matches!(o, Output::Send { after: Some(1), .. })), "{sends:?}");
    step(&mut group, Input::Persisted { token: 1 });
    // From there on entries overtake their own write.
    let out = step(&mut group, propose(1, "a"));
    assert!(out.iter().all(|o| !matches!(o, Output::Send { after: Some(_), .. })), "{out:?}");
    assert!(group.deadline().is_some(), "a learner is sent heartbeats");
}

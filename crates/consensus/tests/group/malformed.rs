//! Messages from a peer that lost its disk, belongs to another cluster, or lies: none makes a group panic, and none makes
//! it hand out what contradicts itself.

use base::{Duration, GroupId, Instant, NodeId};
use bytes::Bytes;
use consensus::{
    Change, Entry, EntryKind, Envelope, Group, GroupConfig, HardState, Input, Membership, Output, Position,
};
use proptest::prelude::*;
use prost::Message as _;
use raft_proto::eraftpb as pb;

const GROUP: GroupId = GroupId(1);

/// Numbers near those that the group itself uses, and far from them.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0..16u64, 1 => Just(1 << 61), 1 => Just((1 << 62) - 1), 1 => Just(1 << 62), 1 => Just(u64::MAX)]
}

fn context() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        3 => Just(Bytes::new()),
        1 => Just(Bytes::from_static(b"CampaignTransfer")),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from),
        1 => Just(Bytes::from_static(&[0; 8])),
    ]
}

fn conf_state() -> impl Strategy<Value = pb::ConfState> {
    let ids = || prop::collection::vec(0..5u64, 0..4);
    (ids(), ids(), ids(), ids(), any::<bool>()).prop_map(
        |(voters, learners, voters_outgoing, learners_next, auto_leave)| pb::ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        },
    )
}

fn plain_conf_state() -> impl Strategy<Value = pb::ConfState> {
    prop_oneof![
        conf_state(),
        Just(pb::ConfState::from((vec![1, 2, 3], vec![4]))),
        Just(pb::ConfState { voters_outgoing: vec![1, 2], ..pb::ConfState::from((vec![1, 3], vec![4])) }),
        Just(pb::ConfState::from((vec![1], vec![]))),
    ]
}

/// Entry data: text, or a change of membership.
fn data() -> impl Strategy<Value = Bytes> {
    let change = (0..4u64, 0..3i32, 0..3i32, 0..3usize).prop_map(|(node_id, change_type, transition, n)| {
        let changes = (0..n as u64).map(|i| pb::ConfChangeSingle { change_type, node_id: node_id + i }).collect();
        Bytes::from(pb::ConfChangeV2 { transition, changes, ..pb::ConfChangeV2::default() }.encode_to_vec())
    });
    prop_oneof![Just(Bytes::from_static(b"x")), change, prop::collection::vec(any::<u8>(), 0..30).prop_map(Bytes::from)]
}

fn entries(from: u64, term: u64) -> impl Strategy<Value = Vec<pb::Entry>> {
    let orderly = prop::collection::vec((0..4i32, data()), 0..5).prop_map(move |list| {
        let entry = |(i, (kind, data)): (usize, (i32, Bytes))| pb::Entry {
            // Mostly plain ones.
            entry_type: if kind == 2 { 2 } else { 0 },
            term,
            index: from.wrapping_add(1 + i as u64),
            data,
            ..pb::Entry::default()
        };
        list.into_iter().enumerate().map(entry).collect()
    });
    let wild = prop::collection::vec((0..4i32, number(), number(), data()), 0..4).prop_map(|list| {
        let entry =
            |(entry_type, term, index, data)| pb::Entry { entry_type, term, index, data, ..pb::Entry::default() };
        list.into_iter().map(entry).collect()
    });
    let read = prop::collection::vec(any::<u8>(), 24)
        .prop_map(|name| vec![pb::Entry { data: Bytes::from(name), ..pb::Entry::default() }]);
    prop_oneof![4 => orderly, 1 => wild, 1 => read]
}

fn message() -> impl Strategy<Value = pb::Message> {
    let head = (0..21i32, 0..5u64, number(), number(), number());
    let rest = (number(), number(), any::<bool>(), number(), context(), number());
    (head, rest, prop::option::of((number(), number(), plain_conf_state()))).prop_flat_map(|(head, rest, snapshot)| {
        let (msg_type, from, term, log_term, index) = head;
        entries(index, term).prop_map(move |entries| {
            let (commit, commit_term, reject, reject_hint, context, request_snapshot) = rest.clone();
            let snapshot = snapshot.clone().map(|(index, term, conf_state)| pb::Snapshot {
                metadata: Some(pb::SnapshotMetadata { conf_state: Some(conf_state), index, term }),
                ..pb::Snapshot::default()
            });
            pb::Message {
                msg_type,
                to: 1,
                from,
                term,
                log_term,
                index,
                entries,
                commit,
                commit_term,
                snapshot,
                request_snapshot,
                reject,
                reject_hint,
                context,
                ..pb::Message::default()
            }
        })
    })
}

#[derive(Clone, Debug)]
enum Act {
    Message(Box<pb::Message>),
    /// An answer that would suit the group's term.
    Suited(Box<pb::Message>),
    Wait(u64),
    Persist,
    Apply,
    Propose,
    Change(u64),
    Read,
    Snapshot,
    Transfer(u64),
    Report(u64, bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => message().prop_map(|m| Act::Message(Box::new(m))),
        8 => message().prop_map(|m| Act::Suited(Box::new(m))),
        3 => prop_oneof![Just(0u64), Just(150), Just(2100)].prop_map(Act::Wait),
        3 => Just(Act::Persist),
        2 => Just(Act::Apply),
        1 => Just(Act::Propose),
        1 => (0..6u64).prop_map(Act::Change),
        1 => Just(Act::Read),
        1 => Just(Act::Snapshot),
        1 => (0..5u64).prop_map(Act::Transfer),
        1 => (0..5u64, any::<bool>()).prop_map(|(n, ok)| Act::Report(n, ok)),
    ]
}

fn group(kind: u8) -> Group {
    let nodes = |ids: &[u64]| ids.iter().map(|id| NodeId(*id)).collect::<Vec<_>>();
    let three = Membership::new(nodes(&[1, 2, 3]), nodes(&[4]));
    let membership = match kind {
        0 => Membership::new(nodes(&[1]), []),
        1 => Membership::new(nodes(&[1]), nodes(&[2])),
        2 => Membership {
            voters_outgoing: nodes(&[2]),
            auto_leave: true,
            ..Membership::new(nodes(&[1, 3]), nodes(&[4]))
        },
        3 => Membership::new(nodes(&[2, 3]), nodes(&[1])),
        _ => three,
    };
    let entry = |index| Entry { index, term: 2 + index / 4, kind: EntryKind::Normal, data: Bytes::from_static(b"x") };
    let config = GroupConfig {
        applied: 4,
        snapshot: 4,
        start: Position { index: 3, term: 2 },
        entries: (4..8).map(entry).collect(),
        hard_state: HardState { term: 4, vote: 0, commit: 5 },
        ..GroupConfig::new(GROUP, NodeId(1), membership, 1)
    };
    Group::new(config).expect("a sound start")
}

fn envelope(message: &pb::Message) -> Envelope {
    let mut bytes = vec![1, 1, 0, 0, 0];
    message.encode(&mut bytes).expect("a vector grows");
    Envelope::decode(Bytes::from(bytes)).expect("of the schema")
}

fn play(kind: u8, acts: &[Act]) {
    let mut group = group(kind);
    let mut now = Instant(1);
    let (mut token, mut committed, mut asked) = (0, 4, 0);
    let mut out = Vec::new();
    group.step(now, Input::Wake, &mut out);
    for act in acts {
        let input = match act.clone() {
            Act::Message(message) => Input::Message(envelope(&message)),
            Act::Suited(mut message) => {
                let status = group.status();
                message.term = status.term + u64::from(message.msg_type == 18 && !message.reject);
                message.index = message.index.min(status.last + 1);
                Input::Message(envelope(&message))
            }
            Act::Wait(ms) => {
                now = now + Duration::from_millis(ms);
                Input::Wake
            }
            Act::Persist => Input::Persisted { token },
            Act::Apply => Input::Applied { index: committed },
            Act::Propose => Input::Propose { token: 1, data: Bytes::from_static(b"y") },
            Act::Change(n) if n % 2 == 0 => Input::ProposeMembership {
                token: 2,
                changes: vec![Change::AddVoter(NodeId(n)), Change::Remove(NodeId(n + 1))],
            },
            Act::Change(n) => Input::ProposeMembership { token: 2, changes: vec![Change::Remove(NodeId(n))] },
            Act::Read => {
                asked += 1;
                Input::ReadIndex { token: 3 }
            }
            Act::Snapshot => {
                group.step(now, Input::Snapshotted { index: committed }, &mut out);
                Input::Compact { index: committed }
            }
            Act::Transfer(n) => Input::TransferLeader { to: NodeId(n) },
            Act::Report(n, ok) => Input::SnapshotSent { to: NodeId(n), ok },
        };
        group.step(now, input, &mut out);
        for output in out.drain(..) {
            match output {
                Output::Persist { token: t, .. } => {
                    assert_eq!(t, token + 1);
                    token = t;
                }
                Output::InstallSnapshot { token: t, index, .. } => {
                    assert!(t == token + 1 && index >= committed);
                    (token, committed) = (t, index);
                }
                Output::Commit { entries } => {
                    for entry in entries {
                        assert_eq!(entry.index, committed + 1);
                        committed = entry.index;
                    }
                }
                Output::ReadReady { .. } | Output::ReadDropped { .. } => asked -= 1,
                Output::Send { message, .. } | Output::SendSnapshot { message, .. } => drop(message.encode()),
                _ => {}
            }
        }
        let status = group.status();
        assert!(status.applied <= status.committed && status.start.index <= committed);
        assert_eq!(status.reads_waiting, asked);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_message_makes_a_group_panic(kind in 0..6u8, acts in prop::collection::vec(act(), 1..60)) {
        play(kind, &acts);
    }

    #[test]
    fn bytes_that_are_no_message_are_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let _ = Envelope::decode(Bytes::from(bytes.clone()));
        if let Some(version) = bytes.first_mut() {
            *version = 1;
        }
        if let Ok(envelope) = Envelope::decode(Bytes::from(bytes)) {
            let mut out = Vec::new();
            group(4).step(Instant(1), Input::Message(envelope), &mut out);
        }
        prop_assert!(Membership::from_bytes(b"").is_none());
    }
}

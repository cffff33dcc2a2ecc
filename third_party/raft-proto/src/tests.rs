//! The bytes are protobuf's own: written here by hand from the encoding's rules and the schema's numbers.

use crate::eraftpb::{
    ConfChange, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType, Message, MessageType,
    Snapshot, SnapshotMetadata,
};
use crate::{ConfChangeI, conf_state_eq, parse_conf_change, stringify_conf_change};
use bytes::Bytes;
use prost::Message as _;
use protobuf::Message as _;

/// Tag 1 varint 2, tag 2 varint 300, tag 3 varint 7, tag 4 "ab", tag 5 true, tag 6 "c".
const ENTRY: &[u8] = &[0x08, 0x02, 0x10, 0xac, 0x02, 0x18, 0x07, 0x22, 0x02, b'a', b'b', 0x28, 0x01, 0x32, 0x01, b'c'];

fn entry() -> Entry {
    Entry {
        entry_type: EntryType::EntryConfChangeV2 as i32,
        term: 300,
        index: 7,
        data: Bytes::from_static(b"ab"),
        context: Bytes::from_static(b"c"),
        sync_log: true,
    }
}

#[test]
fn an_entry_has_the_schemas_bytes() {
    // prost writes fields in the order of their tags, as protoc's code does.
    assert_eq!(entry().encode_to_vec(), ENTRY);
    assert_eq!(Entry::decode(ENTRY).unwrap(), entry());
    assert_eq!(entry().compute_size() as usize, ENTRY.len());
    let mut merged = Entry::default();
    merged.merge_from_bytes(ENTRY).unwrap();
    assert_eq!(merged, entry());
    assert!(merged.merge_from_bytes(&[0x22, 0x05, b'a']).is_err());
}

#[test]
fn a_message_has_the_schemas_bytes() {
    let m = Message {
        msg_type: MessageType::MsgAppend as i32,
        to: 2,
        from: 1,
        term: 5,
        log_term: 4,
        index: 6,
        entries: vec![Entry { term: 5, index: 7, ..Entry::default() }],
        commit: 3,
        commit_term: 9,
        snapshot: Some(Snapshot {
            data: Bytes::from_static(b"d"),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(ConfState { voters: vec![1, 300], auto_leave: true, ..ConfState::default() }),
                index: 8,
                term: 2,
            }),
        }),
        request_snapshot: 10,
        reject: true,
        reject_hint: 11,
        context: Bytes::from_static(b"x"),
        deprecated_priority: 12,
        priority: -1,
    };
    let want: &[u8] = &[
        0x08, 3, 0x10, 2, 0x18, 1, 0x20, 5, 0x28, 4, 0x30, 6, // type, to, from, term, log_term, index
        0x3a, 4, 0x10, 5, 0x18, 7, // entries
        0x40, 3, // commit
        0x4a, 18, 0x0a, 1, b'd', 0x12, 13, 0x0a, 7, 0x0a, 3, 1, 0xac, 0x02, 0x28, 1, 0x10, 8, // snapshot …
        0x18, 2, // … and its term
        0x50, 1, 0x58, 11, 0x62, 1, b'x', 0x68, 10, 0x70, 12, 0x78,
        9, // reject, hint, context, request, priority, commit_term
        0x80, 0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, // priority −1
    ];
    let bytes = m.encode_to_vec();
    assert_eq!(Message::decode(bytes.as_slice()).unwrap(), m);
    assert_eq!(Message::decode(want).unwrap(), m);
    assert_eq!(bytes.as_slice(), want);
}

#[test]
fn absent_messages_read_as_empty_and_unknown_kinds_as_the_first() {
    let mut m = Message::default();
    assert!(m.get_snapshot().is_empty());
    assert!(!m.has_snapshot());
    assert_eq!(m.get_snapshot().get_metadata().get_conf_state(), ConfState::default_ref());
    m.mut_snapshot().mut_metadata().set_index(3);
    assert!(!m.get_snapshot().is_empty());
    assert_eq!(m.take_snapshot().get_metadata().get_index(), 3);
    m.msg_type = 99;
    assert_eq!(m.get_msg_type(), MessageType::MsgHup);
    m.set_entries(vec![entry()]);
    assert_eq!(m.take_entries()[0].take_data(), "ab");
    assert!(m.entries.is_empty());
}

#[test]
fn changes_say_when_they_are_joint() {
    let two = parse_conf_change(" v1 l2  r3").unwrap();
    assert_eq!(stringify_conf_change(&two), "v1 l2 r3");
    assert!(parse_conf_change("x1").is_err() && parse_conf_change("v").is_err());
    let mut cc = ConfChangeV2 { changes: two, ..ConfChangeV2::default() };
    assert_eq!(cc.enter_joint(), Some(true));
    cc.changes.truncate(1);
    assert_eq!(cc.enter_joint(), None);
    cc.set_transition(ConfChangeTransition::Explicit);
    assert_eq!(cc.enter_joint(), Some(false));
    assert!(ConfChangeV2::default().leave_joint() && !cc.leave_joint());
    let old = ConfChange { node_id: 4, change_type: ConfChangeType::RemoveNode as i32, ..ConfChange::default() };
    assert_eq!(stringify_conf_change(&old.as_v2().changes), "r4");
    assert!(old.as_v1().is_some() && cc.as_v1().is_none());
}

#[test]
fn configurations_are_sets() {
    let a = ConfState { voters: vec![1, 2], ..ConfState::default() };
    let b = ConfState { voters: vec![2, 1], ..ConfState::default() };
    assert!(conf_state_eq(&a, &b));
    assert!(!conf_state_eq(&a, &ConfState { auto_leave: true, ..b }));
    assert_eq!(ConfState::from((vec![1, 2], vec![])), a);
}

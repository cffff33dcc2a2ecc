use std::collections::BTreeMap;

use base::Rng;
use bytes::Bytes;

use super::*;
use crate::command::put_outcome;
use crate::proto::{Compare, CompareWith, KeyValue, PutResponse, RequestOp, TxnResponse, compare};
use crate::store::Version;

/// A key's new value and lease, or none where it goes.
type Write = (Vec<u8>, Option<(Vec<u8>, i64)>);

/// Every revision whole, and what happened in each: as simple as it can be said.
#[derive(Clone, Default)]
struct Model {
    revisions: Vec<BTreeMap<Vec<u8>, KeyValue>>,
    events: Vec<(i64, Vec<u8>, Option<KeyValue>)>,
    compacted: i64,
}

impl Model {
    fn new() -> Model {
        Model { revisions: vec![BTreeMap::new(); 2], events: Vec::new(), compacted: -1 }
    }

    fn revision(&self) -> i64 {
        self.revisions.len() as i64 - 1
    }

    fn change(&mut self, changes: Vec<Write>) {
        if changes.is_empty() {
            return;
        }
        let main = self.revision() + 1;
        let mut keys = self.revisions.last().cloned().unwrap_or_default();
        for (key, value) in changes {
            let before = keys.remove(&key);
            if let Some((value, lease)) = value {
                let kv = KeyValue {
                    key: key.clone().into(),
                    value: value.into(),
                    lease,
                    mod_revision: main,
                    create_revision: before.as_ref().map_or(main, |before| before.create_revision),
                    version: before.map_or(1, |before| before.version + 1),
                };
                keys.insert(key.clone(), kv.clone());
                self.events.push((main, key, Some(kv)));
            } else {
                self.events.push((main, key, None));
            }
        }
        self.revisions.push(keys);
    }

    fn within(&self, span: Span<'_>) -> Vec<Vec<u8>> {
        self.revisions[self.revision() as usize].keys().filter(|key| span.has(key)).cloned().collect()
    }
}

fn key(rng: &mut Rng) -> Vec<u8> {
    format!("k{}", rng.below(12)).into_bytes()
}

fn end(rng: &mut Rng) -> Vec<u8> {
    match rng.below(4) {
        0 => vec![0],
        1 => Vec::new(),
        _ => key(rng),
    }
}

fn run<M: Message>(room: &mut Coordination, kind: Kind, request: &M, now: Millis) -> Outcome {
    let request = request.encode_to_vec();
    let command = Command { kind, user: "", request: &request };
    let mut form = Vec::new();
    command.encode(&mut form);
    let command = Command::decode(&form).expect("what was written can be read");
    let outcome = room.apply(&command, now);
    let mut form = Vec::new();
    put_outcome(&outcome, &mut form);
    assert_eq!(crate::command::read_outcome(&form).expect("what was written can be read"), outcome);
    outcome
}

fn check(room: &Coordination, model: &Model) {
    let store = room.store();
    assert_eq!((store.revision(), store.compacted()), (model.revision(), model.compacted));
    for revision in 1..=model.revision() {
        let request = RangeRequest {
            key: Bytes::from_static(b"\0"),
            range_end: Bytes::from_static(b"\0"),
            revision,
            ..RangeRequest::default()
        };
        match room.range("", &request) {
            Err(error) => assert_eq!((error, revision < model.compacted), (error::COMPACTED, true)),
            Ok(response) => {
                let wanted: Vec<KeyValue> = model.revisions[revision as usize].values().cloned().collect();
                assert_eq!((response.kvs, response.count as usize), (wanted.clone(), wanted.len()), "at {revision}");
            }
        }
    }
    let from = model.compacted.max(0);
    let told: Vec<_> = store
        .changes(from)
        .map(|change| {
            let (version, _) = store.change(change).expect("what changed is known");
            (change.main, change.key.to_vec(), (!version.is_tombstone()).then(|| version.to_proto(&change.key)))
        })
        .collect();
    let wanted: Vec<_> = model.events.iter().filter(|(main, ..)| *main >= from).cloned().collect();
    assert_eq!(told, wanted, "each event once, in order");
}

fn whole(room: &mut Coordination) -> (Vec<u8>, Vec<u8>) {
    let (mut books, mut records) = (Vec::new(), Vec::new());
    room.begin_walk(&mut books);
    while !room.walk(50, &mut records) {}
    (books, records)
}

fn restored(books: &[u8], records: &[u8]) -> Coordination {
    let mut room = Coordination::read_books(&mut Input::new(books)).expect("the books are sound");
    room.restore(records).expect("the records are sound");
    room.finish_restore();
    room
}

/// Random operations beside the model, and snapshots that are written while it goes on.
#[test]
fn it_does_what_a_list_of_whole_revisions_would_do() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let (mut room, mut model, mut now) = (Coordination::default(), Model::new(), 1_000_000);
        let mut leases: BTreeMap<i64, u64> = BTreeMap::new();
        // The books, the records so far, and the model when it began.
        let mut walk: Option<(Vec<u8>, Vec<u8>, Model)> = None;
        for _ in 0..rng.below(160) {
            now += rng.below(400);
            match rng.below(20) {
                0..=8 => {
                    let (key, value) = (key(&mut rng), vec![b'x'; rng.below(20) as usize]);
                    let lease = if rng.below(3) == 0 { rng.below(4) as i64 } else { 0 };
                    let request = PutRequest {
                        key: key.clone().into(),
                        value: value.clone().into(),
                        lease,
                        prev_kv: true,
                        ..PutRequest::default()
                    };
                    let before = model.revisions[model.revision() as usize].get(&key).cloned();
                    match run(&mut room, Kind::Put, &request, now) {
                        Ok(answer) => {
                            assert!(lease == 0 || leases.contains_key(&lease));
                            let response = PutResponse::decode(&answer.body[..]).expect("an answer");
                            assert_eq!(response.prev_kv, before);
                            model.change(vec![(key, Some((value, lease)))]);
                            assert_eq!(answer.revision, model.revision());
                        }
                        Err(error) => assert_eq!((error, leases.contains_key(&lease)), (error::LEASE_NOT_FOUND, false)),
                    }
                }
                9..=11 => {
                    let (key, end) = (key(&mut rng), end(&mut rng));
                    let gone = model.within(Span::of(&key, &end));
                    let request =
                        DeleteRangeRequest { key: key.clone().into(), range_end: end.clone().into(), prev_kv: false };
                    run(&mut room, Kind::Delete, &request, now).expect("a deletion is always possible");
                    model.change(gone.into_iter().map(|key| (key, None)).collect());
                }
                12..=13 => {
                    // If the first exists, delete it and set the second; else set both. One revision either way.
                    let (one, two) = (b"k1".to_vec(), b"k2".to_vec());
                    let put = |key: &[u8]| RequestOp {
                        request: Some(RequestKind::Put(PutRequest {
                            key: Bytes::copy_from_slice(key),
                            ..PutRequest::default()
                        })),
                    };
                    let delete = DeleteRangeRequest { key: one.clone().into(), ..DeleteRangeRequest::default() };
                    let request = TxnRequest {
                        compare: vec![Compare {
                            result: compare::GREATER,
                            target: compare::VERSION,
                            key: one.clone().into(),
                            target_union: Some(CompareWith::Version(0)),
                            range_end: Bytes::new(),
                        }],
                        success: vec![RequestOp { request: Some(RequestKind::Delete(delete)) }, put(&two)],
                        failure: vec![put(&one), put(&two)],
                    };
                    let is_there = model.within(Span::of(&one, &[])).len() == 1;
                    let answer = run(&mut room, Kind::Txn, &request, now).expect("it can be done");
                    let response = TxnResponse::decode(&answer.body[..]).expect("an answer");
                    assert_eq!(response.succeeded, is_there);
                    let first = (one, (!is_there).then(|| (Vec::new(), 0)));
                    model.change(vec![first, (two, Some((Vec::new(), 0)))]);
                }
                14 => {
                    let revision = rng.below(model.revision() as u64 + 3) as i64;
                    let outcome = run(&mut room, Kind::Compact, &CompactionRequest { revision, physical: true }, now);
                    if revision <= model.compacted {
                        assert_eq!(outcome, Err(error::COMPACTED));
                    } else if revision > model.revision() {
                        assert_eq!(outcome, Err(error::FUTURE_REVISION));
                    } else {
                        outcome.expect("it can be compacted");
                        model.compacted = revision;
                    }
                }
                15 => {
                    let id = 1 + rng.below(3) as i64;
                    match run(&mut room, Kind::Grant, &LeaseGrantRequest { id, ttl: 3 }, now) {
                        Ok(_) => assert!(leases.insert(id, now + 3000).is_none()),
                        Err(error) => assert_eq!((error, leases.contains_key(&id)), (error::LEASE_EXISTS, true)),
                    }
                }
                16 => {
                    let id = 1 + rng.below(3) as i64;
                    let answer = run(&mut room, Kind::KeepAlive, &LeaseRequest { id }, now).expect("an answer");
                    let response = LeaseKeepAliveResponse::decode(&answer.body[..]).expect("an answer");
                    assert_eq!(response.ttl, if leases.contains_key(&id) { 3 } else { 0 });
                    if let Some(until) = leases.get_mut(&id) {
                        *until = now + 3000;
                    }
                }
                17 => {
                    let id = 1 + rng.below(3) as i64;
                    let outcome = run(&mut room, Kind::Revoke, &LeaseRequest { id }, now);
                    assert_eq!(outcome.is_ok(), leases.remove(&id).is_some());
                    let keys = model.revisions[model.revision() as usize].values().filter(|kv| kv.lease == id);
                    let changes = keys.map(|kv| (kv.key.to_vec(), None)).collect();
                    model.change(changes);
                }
                18 => {
                    assert_eq!(room.next_due(), leases.values().min().copied());
                    let mut over: Vec<(u64, i64)> = leases.iter().map(|(id, until)| (*until, *id)).collect();
                    over.retain(|(until, _)| *until <= now);
                    over.sort_unstable();
                    run(&mut room, Kind::Expire, &LeaseRequest::default(), now).expect("an answer");
                    for (_, id) in over {
                        leases.remove(&id);
                        let keys = model.revisions[model.revision() as usize].values().filter(|kv| kv.lease == id);
                        let changes = keys.map(|kv| (kv.key.to_vec(), None)).collect();
                        model.change(changes);
                    }
                }
                _ => match walk.take() {
                    None => {
                        let mut books = Vec::new();
                        room.begin_walk(&mut books);
                        walk = Some((books, Vec::new(), model.clone()));
                    }
                    Some((books, mut records, then)) => {
                        if room.walk(1 + rng.below(200) as usize, &mut records) {
                            let read = restored(&books, &records);
                            check(&read, &then);
                        } else {
                            walk = Some((books, records, then));
                        }
                    }
                },
            }
        }
        room.abort_walk();
        check(&room, &model);
        // Who starts from a snapshot goes on exactly like who did not.
        let (books, records) = whole(&mut room);
        let mut other = restored(&books, &records);
        for _ in 0..40 {
            let request = PutRequest { key: key(&mut rng).into(), ..PutRequest::default() };
            assert_eq!(run(&mut room, Kind::Put, &request, now), run(&mut other, Kind::Put, &request, now));
            let compaction = CompactionRequest { revision: room.store().revision() - 3, physical: false };
            assert_eq!(
                run(&mut room, Kind::Compact, &compaction, now),
                run(&mut other, Kind::Compact, &compaction, now)
            );
        }
        assert_eq!(whole(&mut room), whole(&mut other), "alike to the byte (seed {seed})");
        assert_eq!((room.store().bytes(), room.store().len()), (other.store().bytes(), other.store().len()));
    }
}

#[test]
fn compaction_gives_the_bytes_back_step_by_step() {
    let mut room = Coordination::default();
    for number in 0..20_000 {
        let key = Bytes::from(format!("k{}", number % 10));
        run(&mut room, Kind::Put, &PutRequest { key, ..PutRequest::default() }, 1).expect("room");
    }
    let revision = room.store().revision();
    run(&mut room, Kind::Compact, &CompactionRequest { revision, physical: false }, 1).expect("it can be");
    assert!(room.store().bytes().0 > room.store().bytes().1, "not all at once");
    for _ in 0..10 {
        run(&mut room, Kind::KeepAlive, &LeaseRequest { id: 1 }, 1).expect("an answer");
    }
    assert_eq!(room.store().bytes().0, room.store().bytes().1);
    assert_eq!(room.store().len(), 10);
}

#[test]
fn a_new_leader_gives_every_lease_its_whole_time_again() {
    let mut room = Coordination::default();
    run(&mut room, Kind::Grant, &LeaseGrantRequest { id: 7, ttl: 10 }, 1_000).expect("granted");
    room.new_leader();
    run(&mut room, Kind::Expire, &LeaseRequest::default(), 60_000).expect("an answer");
    assert_eq!(room.leases().get(7).map(|lease| lease.until), Some(70_000));
    run(&mut room, Kind::Expire, &LeaseRequest::default(), 70_000).expect("an answer");
    assert_eq!(room.leases().get(7), None);
}

fn nested(depth: usize) -> TxnRequest {
    let mut txn = TxnRequest::default();
    for _ in 0..depth {
        txn = TxnRequest { success: vec![RequestOp { request: Some(RequestKind::Txn(txn)) }], ..TxnRequest::default() };
    }
    txn
}

#[test]
fn what_is_too_much_for_a_transaction_is_refused_before_it_is_read() {
    assert_eq!(txn::check_form(&nested(30).encode_to_vec()), Ok(()));
    assert_eq!(txn::check_form(&nested(60).encode_to_vec()), Err(error::TOO_MANY_OPS));
    let wide = TxnRequest { failure: vec![RequestOp::default(); 129], ..TxnRequest::default() };
    assert_eq!(txn::check_form(&wide.encode_to_vec()), Err(error::TOO_MANY_OPS));
    let inner = TxnRequest { success: vec![RequestOp::default(); 120], ..TxnRequest::default() };
    let op = RequestOp { request: Some(RequestKind::Txn(inner)) };
    let many = TxnRequest { success: vec![op; 120], ..TxnRequest::default() };
    assert_eq!(txn::check_form(&many.encode_to_vec()), Err(error::TOO_MANY_OPS));
    for bytes in [&[0x12_u8, 0xFF][..], &[0xFF; 12], &[0x12, 4, 0x22, 0x7F, 0, 0]] {
        assert!(txn::check_form(bytes).is_err(), "{bytes:?}");
    }
}

/// Every command, at every depth of a transaction, for users of every kind: what may not be done is refused, nothing is changed.
#[test]
fn rights_hold_for_every_request_at_every_depth() {
    let mut room = Coordination::default();
    let plain = |kind: Kind, request: Vec<u8>| (kind, request);
    let name = |name: &str| NameRequest { name: name.into() }.encode_to_vec();
    let grant = |role: &str, kind: i32, key: &'static str, end: &'static str| {
        let perm = Some(crate::proto::Permission { perm_type: kind, key: key.into(), range_end: end.into() });
        AuthRoleGrantPermissionRequest { name: role.into(), perm }.encode_to_vec()
    };
    let give = |user: &str, role: &str| AuthUserRoleRequest { user: user.into(), role: role.into() }.encode_to_vec();
    let user = |name: &str| AuthUserAddRequest { name: name.into(), ..AuthUserAddRequest::default() }.encode_to_vec();
    let setup = [
        plain(Kind::RoleAdd, name("root")),
        plain(Kind::RoleAdd, name("reads")),
        plain(Kind::RoleAdd, name("writes")),
        plain(Kind::RoleAdd, name("both")),
        plain(Kind::RoleGrant, grant("reads", crate::auth::READ, "a", "c")),
        plain(Kind::RoleGrant, grant("writes", crate::auth::WRITE, "a", "c")),
        plain(Kind::RoleGrant, grant("both", crate::auth::READ_WRITE, "a", "c")),
        plain(Kind::UserAdd, user("root")),
        plain(Kind::UserAdd, user("reads")),
        plain(Kind::UserAdd, user("writes")),
        plain(Kind::UserAdd, user("both")),
        plain(Kind::UserAdd, user("none")),
        plain(Kind::UserGrant, give("root", "root")),
        plain(Kind::UserGrant, give("reads", "reads")),
        plain(Kind::UserGrant, give("writes", "writes")),
        plain(Kind::UserGrant, give("both", "both")),
        plain(Kind::Grant, LeaseGrantRequest { id: 1, ttl: 1000 }.encode_to_vec()),
        plain(Kind::Put, PutRequest { key: "z".into(), lease: 1, ..PutRequest::default() }.encode_to_vec()),
        plain(Kind::AuthEnable, b"secret".to_vec()),
    ];
    for (kind, request) in &setup {
        let outcome = room.apply(&Command { kind: *kind, user: "", request }, 1);
        outcome.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    }
    let put = |key: &'static str, prev_kv: bool, lease: i64| {
        RequestKind::Put(PutRequest { key: key.into(), prev_kv, lease, ..PutRequest::default() })
    };
    let delete = |key: &'static str, end: &'static str, prev_kv: bool| {
        RequestKind::Delete(DeleteRangeRequest { key: key.into(), range_end: end.into(), prev_kv })
    };
    let range = |key: &'static str, end: &'static str| {
        RequestKind::Range(RangeRequest { key: key.into(), range_end: end.into(), ..RangeRequest::default() })
    };
    // What is asked, and who may.
    let cases: Vec<(RequestKind, &[&str])> = vec![
        (range("a", ""), &["root", "reads", "both"]),
        (range("a", "c"), &["root", "reads", "both"]),
        (range("a", "d"), &["root"]),
        (range("a", "\0"), &["root"]),
        (range("z", ""), &["root"]),
        (put("a", false, 0), &["root", "writes", "both"]),
        (put("a", true, 0), &["root", "both"]),
        (put("z", false, 0), &["root"]),
        // Its lease has a key that they may not write.
        (put("a", false, 1), &["root"]),
        (delete("a", "", false), &["root", "writes", "both"]),
        (delete("a", "c", true), &["root", "both"]),
        (delete("a", "\0", false), &["root"]),
    ];
    for (request, may) in cases {
        for depth in 0..3 {
            for user in ["root", "reads", "writes", "both", "none", "nobody", ""] {
                let mut room = restored_of(&mut room);
                let before = room.store().revision();
                let mut op = request.clone();
                for level in 0..depth {
                    // In the branch that is not taken it counts too.
                    let ops = vec![RequestOp { request: Some(op) }];
                    let txn = match level % 2 {
                        0 => TxnRequest { failure: ops, ..TxnRequest::default() },
                        _ => TxnRequest { success: ops, ..TxnRequest::default() },
                    };
                    op = RequestKind::Txn(txn);
                }
                let (kind, form) = match &op {
                    RequestKind::Put(request) => (Kind::Put, request.encode_to_vec()),
                    RequestKind::Delete(request) => (Kind::Delete, request.encode_to_vec()),
                    RequestKind::Txn(request) => (Kind::Txn, request.encode_to_vec()),
                    RequestKind::Range(request) => {
                        assert_eq!(room.range(user, request).is_ok(), may.contains(&user), "{user} {request:?}");
                        continue;
                    }
                };
                let outcome = room.apply(&Command { kind, user, request: &form }, 1);
                assert_eq!(outcome.is_ok(), may.contains(&user), "{user} at {depth}: {op:?}");
                if outcome.is_err() {
                    assert_eq!(room.store().revision(), before);
                }
            }
        }
    }
    // What is asked of the whole, by who is not root.
    let compare = Compare { key: "z".into(), ..Compare::default() };
    let spies = TxnRequest { compare: vec![compare], ..TxnRequest::default() }.encode_to_vec();
    for (kind, request) in setup.iter().filter(|(kind, _)| !matches!(kind, Kind::Grant | Kind::Put)).chain(&[
        plain(Kind::AuthDisable, Vec::new()),
        plain(Kind::UserDelete, name("none")),
        plain(Kind::UserPassword, name("none")),
        plain(Kind::UserRevoke, UserRevokeRoleRequest { name: "both".into(), role: "both".into() }.encode_to_vec()),
        plain(Kind::RoleDelete, RoleRequest { role: "both".into() }.encode_to_vec()),
        plain(
            Kind::RoleRevoke,
            AuthRoleRevokePermissionRequest { role: "both".into(), key: "a".into(), range_end: "c".into() }
                .encode_to_vec(),
        ),
        plain(Kind::Revoke, LeaseRequest { id: 1 }.encode_to_vec()),
        plain(Kind::Txn, spies),
    ]) {
        for user in ["both", "none", "nobody", ""] {
            let mut room = restored_of(&mut room);
            let before = room.auth().clone();
            let outcome = room.apply(&Command { kind: *kind, user, request }, 1);
            assert!(outcome.is_err(), "{kind:?} by {user}");
            assert_eq!(room.auth(), &before);
        }
    }
    // And those that need a user only.
    for (kind, request) in [
        plain(Kind::Compact, CompactionRequest::default().encode_to_vec()),
        plain(Kind::Grant, LeaseGrantRequest { id: 2, ttl: 5 }.encode_to_vec()),
        plain(Kind::KeepAlive, LeaseRequest { id: 1 }.encode_to_vec()),
    ] {
        for (user, may) in [("none", true), ("nobody", false), ("", false)] {
            let mut room = restored_of(&mut room);
            assert_eq!(room.apply(&Command { kind, user, request: &request }, 1).is_ok(), may, "{kind:?} by {user}");
        }
    }
}

fn restored_of(room: &mut Coordination) -> Coordination {
    let (books, records) = whole(room);
    restored(&books, &records)
}

#[test]
fn damaged_forms_are_refused_and_never_panic() {
    let mut room = Coordination::default();
    for number in 0..30 {
        let key = Bytes::from(format!("k{number}"));
        run(&mut room, Kind::Put, &PutRequest { key, value: "v".into(), ..PutRequest::default() }, 1).expect("room");
    }
    run(&mut room, Kind::Grant, &LeaseGrantRequest { id: 7, ttl: 10 }, 1).expect("granted");
    let (books, records) = whole(&mut room);
    let mut rng = Rng::new(3);
    for _ in 0..2000 {
        let (mut books, mut records) = (books.clone(), records.clone());
        let place = rng.index(books.len());
        books[place] = rng.below(256) as u8;
        let place = rng.index(records.len());
        records[place] = rng.below(256) as u8;
        records.truncate(rng.index(records.len()) + 1);
        if let Ok(mut room) = Coordination::read_books(&mut Input::new(&books))
            && room.restore(&records).is_ok()
        {
            room.finish_restore();
        }
    }
    let _ = Version { main: 0, sub: 0, create: 0, version: 0, lease: 0, value: Bytes::new() };
}

use base::Rng;

use super::*;
use crate::change::{KvOp, Verb};
use crate::form::Blob;
use crate::model::{Definition, HttpRequest, KvEntry, Tls};
use crate::session::{Behavior, SessionChange, SessionForm};
use crate::watch::{Waiting, Watch};

fn text(prefix: &str, number: u64) -> String {
    format!("{prefix}{number}")
}

fn service(id: &str, name: &str) -> ServiceForm {
    ServiceForm { id: id.into(), name: name.into(), port: 80, ..ServiceForm::default() }
}

fn check(id: &str, owner: &str, status: Status) -> CheckForm {
    CheckForm { id: id.into(), name: id.into(), service_id: owner.into(), status, ..CheckForm::default() }
}

fn node(name: &str) -> NodeForm {
    NodeForm { name: name.into(), address: "10.0.0.1".into(), ..NodeForm::default() }
}

fn register(on: &str, service: Option<ServiceForm>, checks: Vec<CheckForm>) -> Change {
    Change::Register { node: node(on), keep_node: false, service, checks, replace_checks: false }
}

fn kv(verb: Verb, key: &str, value: &str, index: u64) -> KvOp {
    KvOp { verb, key: key.into(), value: Blob(value.into()), flags: 0, index, session: String::new() }
}

/// A change out of a small world, so that all meet.
fn random_change(rng: &mut Rng) -> Change {
    let on = text("Node", rng.below(3));
    let id = text("id", rng.below(4));
    let name = text("Svc", rng.below(4));
    let owner = if rng.below(3) == 0 { String::new() } else { id.clone() };
    let status = [Status::Passing, Status::Warning, Status::Critical][rng.index(3)];
    let key = ["a", "a/b", "a/c", "b", "b/x/y"][rng.index(5)];
    let op = |rng: &mut Rng| {
        let verbs = [Verb::Set, Verb::Set, Verb::Cas, Verb::Delete, Verb::DeleteCas, Verb::DeleteTree];
        kv(verbs[rng.index(6)], key, &text("", rng.below(3)), rng.below(40))
    };
    let session = text("s", rng.below(4));
    match rng.below(15) {
        12 => Change::Session(match rng.below(5) {
            0 | 1 => SessionChange::Create(SessionForm {
                id: session,
                node: on,
                service_checks: if rng.below(2) == 0 { vec![text("c", rng.below(5))] } else { vec![] },
                lock_delay_ns: rng.below(2) * 5_000_000_000,
                behavior: if rng.below(2) == 0 { Behavior::Release } else { Behavior::Delete },
                ttl_ms: rng.below(3) * 10_000,
                ..SessionForm::default()
            }),
            2 => SessionChange::Destroy { id: session },
            3 => SessionChange::Renew { id: session },
            _ => SessionChange::Expire,
        }),
        13 | 14 => {
            let verb = [Verb::Lock, Verb::Lock, Verb::Unlock, Verb::CheckSession][rng.index(4)];
            Change::Kv(vec![KvOp { session, ..kv(verb, key, &text("", rng.below(3)), 0) }])
        }
        0..3 => register(&on, Some(service(&id, &name)), vec![]),
        3 | 4 => register(&on, None, vec![check(&text("c", rng.below(5)), &owner, status)]),
        5 => Change::CheckStatus { node: on, check: text("c", rng.below(5)), status, output: text("", rng.below(9)) },
        6 => Change::Deregister { node: on, what: Registered::Service(id) },
        7 => Change::Deregister { node: on, what: Registered::Check(text("c", rng.below(5))) },
        8 if rng.below(4) == 0 => Change::Deregister { node: on, what: Registered::Node },
        9 => Change::Documents {
            expected: None,
            changes: vec![DocumentChange {
                kind: text("k", rng.below(2)),
                name: text("d", rng.below(3)),
                body: (rng.below(2) == 0).then(|| Blob(text("{}", rng.below(3)).into())),
            }],
        },
        _ => Change::Kv((0..=rng.below(2)).map(|_| op(rng)).collect()),
    }
}

const WATCHES: &[&str] = &["Svc0", "svc1", "Svc3"];

fn watches() -> Vec<Watch> {
    let mut all = vec![Watch::Sessions, Watch::Nodes, Watch::Services, Watch::Checks, Watch::Documents];
    all.extend(WATCHES.iter().map(|name| Watch::Service((*name).into())));
    all.extend((0..3).map(|number| Watch::Node(text("node", number))));
    all.extend(["a", "a/b", "b", "zz"].map(|key| Watch::Key(key.into())));
    all.extend(["a", "a/", "b", "b/x", "", "zz"].map(|prefix| Watch::Prefix(prefix.into())));
    all
}

/// What somebody who watches this can see.
fn seen(catalog: &Catalog, watch: &Watch) -> String {
    match watch {
        Watch::Nodes => format!("{:?}", catalog.nodes().map(|node| &node.form).collect::<Vec<_>>()),
        Watch::Node(name) => {
            let services: Vec<_> = catalog.services_on(name).map(|one| &one.service.form).collect();
            let checks: Vec<_> = catalog.checks_on(name).map(|check| &check.form).collect();
            format!("{:?} {services:?} {checks:?}", catalog.node(name).map(|node| &node.form))
        }
        Watch::Services => {
            let all: Vec<_> = catalog
                .nodes()
                .flat_map(|node| catalog.services_on(&node.form.name))
                .map(|one| &one.service.form)
                .collect();
            format!("{all:?}")
        }
        Watch::Service(name) => {
            let all: Vec<_> = catalog
                .instances(name)
                .map(|one| {
                    (&one.node.form, &one.service.form, one.checks().map(|check| &check.form).collect::<Vec<_>>())
                })
                .collect();
            format!("{all:?}")
        }
        Watch::Checks => format!("{:?}", catalog.checks().map(|check| &check.form).collect::<Vec<_>>()),
        Watch::Key(key) => format!("{:?}", catalog.key(key)),
        Watch::Prefix(prefix) => format!("{:?}", catalog.keys_under(prefix).collect::<Vec<_>>()),
        Watch::Documents => format!(
            "{:?} {:?}",
            catalog.documents("k0").collect::<Vec<_>>(),
            catalog.documents("k1").collect::<Vec<_>>()
        ),
        Watch::Sessions => format!("{:?}", catalog.sessions().map(|one| &one.form).collect::<Vec<_>>()),
        Watch::Everything => String::new(),
    }
}

#[test]
fn no_watcher_misses_a_change_and_the_indexes_never_fall() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut catalog = Catalog::default();
        let mut before: Vec<(String, u64)> =
            watches().iter().map(|watch| (seen(&catalog, watch), catalog.index_of(watch))).collect();
        for index in 2..200 {
            // Some entries hold several changes: they share the index.
            for _ in 0..=rng.below(3) / 2 {
                catalog.apply_at(&random_change(&mut rng), index, index * 3000);
            }
            for (watch, (view, last)) in watches().iter().zip(&mut before) {
                let now = (seen(&catalog, watch), catalog.index_of(watch));
                assert!(now.1 >= *last, "{watch:?} fell from {last} to {}", now.1);
                if now.0 != *view {
                    assert_eq!(now.1, index, "{watch:?} changed unseen (seed {seed})");
                }
                if catalog.last_change(watch).0 == index {
                    assert!(catalog.may_have_changed(watch, index - 1), "{watch:?} would sleep on (seed {seed})");
                }
                assert!(now.1 >= 1, "0 would end every wait at once");
                let mut waiting = Waiting::new(watch.clone(), *last);
                if waiting.is_over(&catalog) {
                    assert_eq!(now.1, index);
                } else {
                    assert_eq!((&now.0, waiting.index(&catalog)), (&*view, *last));
                }
                (*view, *last) = now;
            }
        }
    }
}

#[test]
fn what_is_the_same_raises_no_index() {
    let mut catalog = Catalog::default();
    let all = register("n", Some(service("s", "web")), vec![check("c", "s", Status::Passing)]);
    catalog.apply(&all, 5);
    catalog.apply(&all, 6);
    catalog.apply(&Change::Kv(vec![kv(Verb::Set, "k", "v", 0)]), 7);
    catalog.apply(&Change::Kv(vec![kv(Verb::Set, "k", "v", 0)]), 8);
    assert_eq!(catalog.index(), 7);
    assert_eq!(catalog.index_of(&Watch::Service("WEB".into())), 5);
    assert_eq!(catalog.key("k").map(|entry| entry.ages), Some(Ages { created: 7, modified: 7 }));
}

#[test]
fn a_watcher_of_one_name_sleeps_through_all_others() {
    let mut catalog = Catalog::default();
    catalog.apply(&register("n", Some(service("s", "web")), vec![]), 5);
    let mut waiting = [
        Waiting::new(Watch::Service("web".into()), 5),
        Waiting::new(Watch::Service("absent".into()), 5),
        Waiting::new(Watch::Prefix("p/".into()), 5),
        Waiting::new(Watch::Key("k".into()), 5),
    ];
    for index in 6..3 * limits::GONE_MAX as u64 {
        catalog.apply(&Change::Kv(vec![kv(Verb::Set, &text("o", index), "", 0)]), index);
        catalog.apply(&Change::Kv(vec![kv(Verb::Delete, &text("o", index), "", 0)]), index);
        catalog.apply(&register("n", Some(service("t", &text("t", index))), vec![]), index);
        for waiting in &mut waiting {
            assert!(!waiting.is_over(&catalog), "{waiting:?} at {index}");
            assert_eq!(waiting.index(&catalog), 5);
        }
    }
    // Who comes back with an old index cannot be told that nothing was deleted: more has gone than is remembered.
    assert!(Waiting::new(Watch::Prefix("p/".into()), 5).is_over(&catalog));
}

#[test]
fn an_index_of_another_life_is_answered_with_a_lower_one() {
    let mut rng = Rng::new(1);
    let mut catalog = Catalog::default();
    for watch in watches() {
        let mut waiting = Waiting::new(watch.clone(), 1_000_000);
        assert!(!waiting.is_over(&catalog));
        assert_eq!(waiting.index(&catalog), 1, "{watch:?} in an empty registry");
    }
    for index in 1..100 {
        catalog.apply_at(&random_change(&mut rng), index, index * 3000);
        for watch in watches() {
            let mut waiting = Waiting::new(watch.clone(), 1_000_000);
            waiting.is_over(&catalog);
            let told = waiting.index(&catalog);
            assert!((1..=index).contains(&told), "{watch:?}: a client that is told {told} begins anew");
        }
    }
}

#[test]
fn whoever_watches_few_keys_is_not_asked_for_every_other() {
    let mut catalog = Catalog::default();
    let watch = Watch::Prefix("p/".into());
    let mut index = 0;
    let mut set = |catalog: &mut Catalog, key: &str| {
        index += 1;
        catalog.apply(&Change::Kv(vec![kv(Verb::Set, key, &text("", index), 0)]), index);
        index
    };
    let first = set(&mut catalog, "p/a");
    assert!(catalog.may_have_changed(&watch, first - 1) && !catalog.may_have_changed(&watch, first));
    for number in 0..3000 {
        let now = set(&mut catalog, &text("o/", number));
        assert!(!catalog.may_have_changed(&watch, now - 1));
        assert!(catalog.may_have_changed(&Watch::Prefix("o/".into()), now - 1));
    }
    assert!(catalog.may_have_changed(&watch, first), "too long ago to know");
    let last = set(&mut catalog, "p/b");
    assert!(catalog.may_have_changed(&watch, last - 1));
    let tree = catalog.apply(&Change::Kv(vec![kv(Verb::DeleteTree, "", "", 0)]), last + 1);
    assert!(matches!(tree, Outcome::Kv(_)) && catalog.may_have_changed(&watch, last));
}

#[test]
fn a_snapshot_holds_the_moment_it_began_and_nothing_later() {
    for seed in 0..40 {
        let mut rng = Rng::new(seed);
        let mut catalog = Catalog::default();
        for index in 1..150 {
            catalog.apply_at(&random_change(&mut rng), index, index * 3000);
        }
        let moment = catalog.clone();
        let mut books = Vec::new();
        catalog.begin_walk(&mut books);
        let mut chunks = Vec::new();
        for index in 150.. {
            let mut chunk = Vec::new();
            let done = catalog.walk(60, &mut chunk);
            chunks.push(chunk);
            if done {
                break;
            }
            catalog.apply_at(&random_change(&mut rng), index, index * 3000);
        }
        let mut input = Input::new(&books);
        let mut back = Catalog::read_books(&mut input).expect("books");
        assert!(input.is_empty());
        for chunk in &chunks {
            back.restore(chunk).expect("records");
        }
        back.finish_restore();
        for watch in watches() {
            assert_eq!(seen(&back, &watch), seen(&moment, &watch), "seed {seed}");
            assert_eq!(back.last_change(&watch), moment.last_change(&watch));
        }
        assert_eq!((back.index(), back.counts()), (moment.index(), moment.counts()));
        // And it goes on alike.
        let (mut one, mut other) = (back, moment);
        for index in 150..250 {
            let change = random_change(&mut rng);
            let now = index * 3000;
            assert_eq!(one.apply_at(&change, index, now), other.apply_at(&change, index, now), "{change:?}");
        }
    }
}

#[test]
fn the_tree_is_what_a_plain_map_says() {
    for seed in 0..50 {
        let mut rng = Rng::new(seed);
        let mut catalog = Catalog::default();
        let mut model = BTreeMap::<String, (Vec<u8>, u64)>::new();
        for index in 1..300 {
            let key = ["a", "a/b", "a/c", "b"][rng.index(4)].to_owned();
            let at = model.get(&key).map_or(0, |(_, at)| *at);
            let guess = if rng.below(2) == 0 { at } else { rng.below(index) };
            let value = text("", rng.below(4));
            let verb = [Verb::Set, Verb::Cas, Verb::Delete, Verb::DeleteCas, Verb::DeleteTree][rng.index(5)];
            let outcome = catalog.apply(&Change::Kv(vec![kv(verb, &key, &value, guess)]), index);
            let mut put = |value: &str| {
                if model.get(&key).is_none_or(|(old, _)| old != value.as_bytes()) {
                    model.insert(key.clone(), (value.into(), index));
                }
            };
            let fits = match verb {
                Verb::Set => {
                    put(&value);
                    true
                }
                Verb::Cas if guess == at => {
                    put(&value);
                    true
                }
                Verb::Cas => false,
                Verb::DeleteCas if at != 0 && guess != at => false,
                Verb::DeleteTree => {
                    model.retain(|own, _| !own.starts_with(&key));
                    true
                }
                _ => {
                    model.remove(&key);
                    true
                }
            };
            assert_eq!(matches!(outcome, Outcome::Kv(_)), fits, "{verb:?} {key} {guess}");
            let held: Vec<_> = catalog
                .keys_under("")
                .map(|(key, entry)| (key.clone(), (entry.value.0.clone(), entry.ages.modified)))
                .collect();
            assert_eq!(held, model.clone().into_iter().collect::<Vec<_>>());
        }
        let bytes: usize = model.iter().map(|(key, (value, _))| key.len() + value.len()).sum();
        assert_eq!(catalog.counts().kv_bytes, bytes as u64);
    }
}

#[test]
fn a_transaction_is_done_whole_or_not_at_all() {
    let mut catalog = Catalog::default();
    let ops = vec![kv(Verb::Set, "a", "1", 0), kv(Verb::Get, "b", "", 0), kv(Verb::Cas, "a", "2", 9)];
    let Outcome::KvFailed(failures) = catalog.apply(&Change::Kv(ops), 3) else { panic!("b is not there") };
    assert_eq!(failures.iter().map(|failure| (failure.op, failure.stale)).collect::<Vec<_>>(), [(1, false), (2, true)]);
    assert!(catalog.is_empty() && catalog.key("a").is_none());
    let ops = vec![kv(Verb::CheckNotExists, "a", "", 0), kv(Verb::Set, "a", "1", 0), kv(Verb::GetTree, "", "", 0)];
    let Outcome::Kv(results) = catalog.apply(&Change::Kv(ops), 4) else { panic!("nothing is in the way") };
    let entry = |value: &str| KvEntry {
        value: Blob(value.into()),
        ages: Ages { created: 4, modified: 4 },
        ..KvEntry::default()
    };
    assert_eq!(
        results.iter().map(|result| result.entry.clone()).collect::<Vec<_>>(),
        [Some(entry("")), Some(entry("1"))]
    );
    let many = (0..=limits::TXN_OPS_MAX as u64).map(|number| kv(Verb::Set, &text("k", number), "", 0)).collect();
    assert!(matches!(catalog.apply(&Change::Kv(many), 5), Outcome::Refused(Refusal::Invalid, _)));
}

#[test]
fn an_instance_is_as_bad_as_its_worst_check_or_its_nodes() {
    let mut catalog = Catalog::default();
    let tagged = ServiceForm { tags: vec!["blue".into()], ..service("1", "Web") };
    catalog.apply(&register("n", Some(tagged), vec![check("c", "1", Status::Passing)]), 1);
    catalog.apply(&register("n", Some(service("2", "web")), vec![]), 2);
    let healthy =
        |catalog: &Catalog, tag| catalog.healthy("WEB", tag).map(|one| one.service.form.id.clone()).collect::<Vec<_>>();
    assert_eq!(healthy(&catalog, None), ["1", "2"]);
    assert_eq!(healthy(&catalog, Some("BLUE")), ["1"]);
    let set = |check: &str, status| Change::CheckStatus {
        node: "N".into(),
        check: check.into(),
        status,
        output: String::new(),
    };
    catalog.apply(&set("c", Status::Critical), 3);
    assert_eq!(healthy(&catalog, None), ["2"]);
    catalog.apply(&set("c", Status::Warning), 4);
    assert_eq!(healthy(&catalog, None), ["1", "2"]);
    catalog.apply(&register("n", None, vec![check("m", "", Status::Critical)]), 5);
    assert_eq!(healthy(&catalog, None), [""; 0]);
    catalog.apply(&Change::Deregister { node: "n".into(), what: Registered::Check("m".into()) }, 6);
    assert_eq!(healthy(&catalog, None), ["1", "2"]);
    assert_eq!(catalog.index_of(&Watch::Service("web".into())), 6);
}

#[test]
fn what_cannot_be_is_refused_whole() {
    let mut catalog = Catalog::default();
    let refused = |outcome| match outcome {
        Outcome::Refused(refusal, _) => refusal,
        other => panic!("{other:?}"),
    };
    let stray = register("n", Some(service("s", "web")), vec![check("c", "other", Status::Passing)]);
    assert_eq!(refused(catalog.apply(&stray, 1)), Refusal::Unknown);
    let long = register("n", Some(service("s", &"x".repeat(300))), vec![]);
    assert_eq!(refused(catalog.apply(&long, 1)), Refusal::Invalid);
    let checks = (0..33).map(|number| check(&text("c", number), "s", Status::Passing)).collect();
    assert_eq!(refused(catalog.apply(&register("n", Some(service("s", "web")), checks), 1)), Refusal::Full);
    let gone = Change::Deregister { node: "n".into(), what: Registered::Node };
    assert_eq!(refused(catalog.apply(&gone, 1)), Refusal::Unknown);
    assert!(catalog.is_empty());
}

#[test]
fn documents_change_together_and_only_if_nobody_was_faster() {
    let mut catalog = Catalog::default();
    let put = |name: &str, body: Option<&str>| DocumentChange {
        kind: "route".into(),
        name: name.into(),
        body: body.map(|body| Blob(body.into())),
    };
    let change = |expected, changes: Vec<DocumentChange>| Change::Documents { expected, changes };
    assert_eq!(catalog.apply(&change(Some(0), vec![put("a", Some("1")), put("b", Some("2"))]), 4), Outcome::Done(4));
    assert_eq!(catalog.apply(&change(Some(0), vec![put("a", Some("9"))]), 5), Outcome::Stale(4));
    assert_eq!(catalog.apply(&change(Some(4), vec![put("a", None), put("b", Some("2"))]), 6), Outcome::Done(6));
    let held: Vec<_> = catalog.documents("route").map(|(name, document)| (name, document.ages)).collect();
    assert_eq!(held, [("b", Ages { created: 4, modified: 4 })]);
    assert_eq!(catalog.documents_index(), 6);
}

#[test]
fn a_stored_http_check_keeps_its_form() {
    use crate::form::Form;
    let headers = [("h".to_owned(), vec!["v".to_owned()])].into();
    let request = HttpRequest { url: "u".into(), method: "GET".into(), headers, body: "b".into(), no_redirects: true };
    let mut out = Vec::new();
    Probe::Http(request).put(&mut out);
    assert_eq!(out, b"\x02\x01u\x03GET\x01\x01h\x01\x01v\x01b\x01");
}

#[test]
fn stored_changes_read_back_and_damaged_ones_are_errors() {
    let mut rng = Rng::new(7);
    let definition = Definition { probe: Probe::Ttl, interval_ms: 10, ..Definition::default() };
    let mut first = register("n", Some(service("s", "web")), vec![check("c", "s", Status::Passing)]);
    if let Change::Register { checks, .. } = &mut first {
        checks[0].definition = definition;
    }
    let mut all: Vec<Change> = (0..200).map(|_| random_change(&mut rng)).collect();
    let (request, tls) = (HttpRequest::default(), Tls { skip_verify: true, server_name: "x".into() });
    for probe in [
        Probe::External,
        Probe::Http(request.clone()),
        Probe::Tcp { address: "x:1".into() },
        Probe::Https(request, tls.clone()),
        Probe::TcpTls { address: "x:1".into(), tls: tls.clone() },
        Probe::Grpc { target: "x:1/y".into(), tls: Some(tls) },
        Probe::H2Ping { address: "x:1".into(), tls: None },
        Probe::Alias { node: "n".into(), service: "s".into() },
    ] {
        if let Change::Register { checks, .. } = &mut first {
            checks[0].definition.probe = probe;
        }
        all.push(first.clone());
    }
    for change in all {
        let bytes = change.encode();
        assert_eq!(Change::decode(&bytes).as_ref(), Ok(&change));
        for _ in 0..50 {
            let mut damaged = bytes.clone();
            let at = rng.index(damaged.len());
            damaged[at] = rng.next_u64() as u8;
            damaged.truncate(rng.index(damaged.len()) + 1);
            let _ = Change::decode(&damaged);
        }
    }
}

use super::*;
use crate::change::{Change, KvOp, KvResult, Registered, Verb};
use crate::form::Blob;
use crate::model::{CheckForm, Lock, NodeForm};
use crate::session::SessionForm;

struct World {
    catalog: Catalog,
    index: u64,
    now: Millis,
}

impl World {
    fn new() -> World {
        let mut world = World { catalog: Catalog::default(), index: 0, now: 1_000_000 };
        world.check(Status::Passing);
        world
    }

    fn apply(&mut self, change: Change) -> Outcome {
        self.index += 1;
        self.catalog.apply_at(&change, self.index, self.now)
    }

    fn check(&mut self, status: Status) {
        let check = CheckForm { id: "alive".into(), name: "alive".into(), status, ..CheckForm::default() };
        let node = NodeForm { name: "Node".into(), ..NodeForm::default() };
        let change =
            Change::Register { node, keep_node: true, service: None, checks: vec![check], replace_checks: false };
        assert!(matches!(self.apply(change), Outcome::Done(_)));
    }

    fn create(&mut self, id: &str, change: impl Fn(&mut SessionForm)) -> Outcome {
        let mut form = SessionForm { id: id.into(), node: "node".into(), ..SessionForm::default() };
        change(&mut form);
        self.apply(Change::Session(SessionChange::Create(form)))
    }

    fn one(&mut self, verb: Verb, key: &str, session: &str) -> Result<Option<KvResult>, String> {
        let op =
            KvOp { verb, key: key.into(), value: Blob(b"v".to_vec()), flags: 0, index: 0, session: session.into() };
        match self.apply(Change::Kv(vec![op])) {
            Outcome::Kv(mut results) => Ok(results.pop()),
            Outcome::KvFailed(failures) => Err(failures[0].why.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn lock(&mut self, key: &str, session: &str) -> Result<u64, String> {
        let result = self.one(Verb::Lock, key, session)?.expect("a lock tells its key");
        Ok(result.entry.expect("and what it is").lock.expect("held").fence)
    }

    fn holder(&self, key: &str) -> Option<&Lock> {
        self.catalog.key(key)?.lock.as_deref()
    }

    /// What the leader does when something is due.
    fn pass(&mut self, milliseconds: u64) {
        self.now += milliseconds;
        if self.catalog.next_due().is_some_and(|due| due <= self.now) {
            self.apply(Change::Session(SessionChange::Expire));
        }
    }
}

#[test]
fn a_key_has_one_holder_and_every_taking_a_greater_number() {
    let mut world = World::new();
    world.create("a", |_| ());
    world.create("b", |_| ());
    let first = world.lock("k", "a").expect("nobody holds it");
    assert_eq!(world.lock("k", "a"), Ok(first), "who holds it goes on holding it");
    assert_eq!(world.lock("k", "b"), Err("failed to lock key \"k\", lock is already held".into()));
    assert_eq!(world.lock("k", "c"), Err("invalid session \"c\"".into()));
    assert_eq!(world.lock("k", ""), Err("missing session".into()));
    assert!(world.one(Verb::Unlock, "k", "b").is_err(), "not hers");
    assert!(world.one(Verb::CheckSession, "k", "a").is_ok() && world.one(Verb::CheckSession, "k", "b").is_err());
    assert!(world.one(Verb::Set, "k", "").is_ok(), "as in Consul a lock is advice");
    assert_eq!(world.holder("k").map(|lock| lock.fence), Some(first), "and a write does not end it");
    assert!(world.one(Verb::Unlock, "k", "a").is_ok() && world.holder("k").is_none());
    let second = world.lock("k", "b").expect("no delay where it was let go of");
    assert!(second > first);
    assert_eq!(world.catalog.key("k").map(|entry| entry.lock_index), Some(2));
    // A key that goes and comes again counts its locks anew; the numbers of the locks go on.
    world.one(Verb::Delete, "k", "").expect("deleted");
    assert!(world.lock("k", "a").expect("free") > second);
    assert_eq!(world.catalog.key("k").map(|entry| entry.lock_index), Some(1));
    // Two locks of one entry.
    let op = |verb, key: &str, session: &str| KvOp {
        verb,
        key: key.into(),
        value: Blob::default(),
        flags: 0,
        index: 0,
        session: session.into(),
    };
    let ops = vec![op(Verb::Lock, "x", "a"), op(Verb::Unlock, "x", "a"), op(Verb::Lock, "x", "b")];
    let Outcome::Kv(results) = world.apply(Change::Kv(ops)) else { panic!("nothing is in the way") };
    let fences: Vec<_> = results.iter().map(|one| one.entry.as_ref()?.lock.as_ref().map(|lock| lock.fence)).collect();
    assert!(fences[0] < fences[2] && fences[1].is_none(), "{fences:?}");
}

#[test]
fn a_session_ends_with_what_it_hangs_on_and_lets_go() {
    let ways: [fn(&mut World); 5] = [
        |world| drop(world.apply(Change::Session(SessionChange::Destroy { id: "a".into() }))),
        |world| world.check(Status::Critical),
        |world| {
            world.apply(Change::Deregister { node: "node".into(), what: Registered::Check("alive".into()) });
        },
        |world| drop(world.apply(Change::Deregister { node: "NODE".into(), what: Registered::Node })),
        |world| world.pass(20_000),
    ];
    for (number, way) in ways.into_iter().enumerate() {
        for behavior in [Behavior::Release, Behavior::Delete] {
            let mut world = World::new();
            let made = world.create("a", |form| {
                form.node_checks = vec!["alive".into()];
                (form.behavior, form.ttl_ms) = (behavior, 10_000);
                form.lock_delay_ns = 5_000_000_000;
            });
            assert!(matches!(made, Outcome::Session(_)), "{made:?}");
            world.lock("k", "a").expect("free");
            world.lock("l", "a").expect("free");
            way(&mut world);
            assert!(world.catalog.session("a").is_none(), "way {number}");
            assert_eq!(world.catalog.sessions_on("Node").count(), 0);
            assert_eq!(world.catalog.key("k").is_some(), behavior == Behavior::Release, "way {number}");
            assert!(world.holder("k").is_none() && world.holder("l").is_none());
            assert_eq!(world.catalog.key("l").map_or(world.index, |entry| entry.ages.modified), world.index);
            // Whoever wants the key waits for the delay.
            world.check(Status::Passing);
            world.create("b", |_| ());
            assert_eq!(world.lock("k", "b"), Err("failed to lock key \"k\" due to lock delay".into()));
            world.now += 4_999;
            assert!(world.lock("k", "b").is_err());
            world.now += 1;
            assert!(world.lock("k", "b").is_ok());
        }
    }
}

#[test]
fn a_renewed_session_lives_and_a_new_leader_gives_all_their_whole_time() {
    let mut world = World::new();
    world.create("a", |form| form.ttl_ms = 10_000);
    world.create("b", |form| form.ttl_ms = 15_000);
    for _ in 0..10 {
        world.pass(19_999);
        let renewed = world.apply(Change::Session(SessionChange::Renew { id: "a".into() }));
        assert!(matches!(renewed, Outcome::Session(_)));
    }
    assert!(world.catalog.session("b").is_none(), "nobody renewed it");
    let gone = world.apply(Change::Session(SessionChange::Renew { id: "b".into() }));
    assert_eq!(gone, Outcome::Refused(Refusal::Unknown, "Session id 'b' not found".into()));
    world.now += 60_000;
    world.catalog.new_leader();
    world.pass(0);
    assert!(world.catalog.session("a").is_some());
    world.pass(19_999);
    assert!(world.catalog.session("a").is_some());
    world.pass(1);
    assert!(world.catalog.session("a").is_none());
    assert_eq!(world.catalog.next_due(), None);
}

#[test]
fn what_a_session_cannot_hang_on_is_refused_as_consul_says_it() {
    let mut world = World::new();
    world.check(Status::Critical);
    type Make = fn(&mut SessionForm);
    let cases: [(Make, &str); 5] = [
        (|form| form.node = "other".into(), "Missing node registration"),
        (|form| form.service_checks = vec!["x".into()], "Missing check 'x' registration"),
        (|form| form.node_checks = vec!["alive".into()], "Check 'alive' is in critical state"),
        (|form| form.ttl_ms = 9_999, "Invalid Session TTL '9999000000', must be between [10s=24h0m0s]"),
        (|form| form.node_checks = vec!["alive".into(); 65], "65 checks of a session, at most 64 are taken"),
    ];
    for (change, why) in cases {
        let before = world.catalog.index();
        assert_eq!(world.create("a", change), Outcome::Refused(Refusal::Invalid, why.into()));
        assert_eq!(world.catalog.index(), before);
    }
}

#[test]
fn remembered_delays_are_bounded_and_the_oldest_is_forgotten_first() {
    use crate::limits::LOCK_DELAYS_MAX;
    let mut sessions = crate::session::Sessions::default();
    for number in 0..=LOCK_DELAYS_MAX as u64 {
        sessions.delay(&format!("k{number}"), 1000 + number);
    }
    assert!(!sessions.is_delayed("k0", 0) && sessions.is_delayed("k1", 0));
    sessions.delay("k1", 90_000);
    sessions.begin(80_000);
    assert!(sessions.is_delayed("k1", 80_000) && !sessions.is_delayed("k2", 0), "what is over goes");
}

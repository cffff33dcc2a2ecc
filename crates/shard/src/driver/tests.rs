//! A lone voter's life, driven by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{GroupId, Instant, Limits, NodeId};
use consensus::{GroupConfig, Membership, Position};
use store::keyspace::Keyspaces;

use super::{Driver, DriverConfig, Input, Output};
use crate::live::Shard;
use crate::pending::Place;
use crate::recover::Recovery;
use crate::reply::Protocol;
use crate::state::{Sink, State};

#[derive(Default)]
struct Answers {
    by_client: BTreeMap<u64, String>,
    waiting: BTreeMap<u64, u64>,
    /// How much later it is when an answer leaves than when the step began, nanoseconds.
    later: u64,
}

impl Sink<u64> for Answers {
    fn reply(&mut self, client: &u64, bytes: &[u8]) {
        self.by_client.entry(*client).or_default().push_str(&String::from_utf8_lossy(bytes));
    }
    fn parked(&mut self, client: &u64, waiter: u64) {
        self.waiting.insert(waiter, *client);
    }
    fn served(&mut self, waiter: u64, bytes: &[u8]) {
        if let Some(client) = self.waiting.remove(&waiter) {
            self.reply(&client, bytes);
        }
    }
    fn now(&self, step: Instant) -> Instant {
        Instant(step.0 + self.later)
    }
    fn lost(&mut self, client: &u64) {
        self.by_client.entry(*client).or_default().push_str("<lost>");
    }
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

struct World {
    driver: Driver<u64>,
    shard: Arc<Shard<u64>>,
    answers: Answers,
    now: u64,
    appends: usize,
}

impl World {
    fn new() -> World {
        World::bounded(Limits::DEFAULT)
    }

    fn bounded(limits: Limits) -> World {
        let config = DriverConfig {
            node: NodeId(1),
            snapshot_log_bytes: u64::MAX,
            snapshot_chunk_bytes: super::WALK_BYTES,
            limits,
            planted: super::Planted::default(),
        };
        let mut driver = Driver::new(config);
        let state = State::new(GroupId(1), &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1);
        let membership = Membership::new([NodeId(1)], []);
        let recovery = Recovery::new(GroupId(1), state, Position::default(), membership.clone(), false);
        let recovered = recovery.finish().expect("nothing was stored yet");
        let shard = driver
            .add(GroupConfig::new(GroupId(1), NodeId(1), membership, 7), recovered)
            .expect("an empty group can start");
        let mut world = World { driver, shard, answers: Answers::default(), now: 0, appends: 0 };
        world.run();
        world
    }

    /// Steps until nothing more is asked; every append is durable at once.
    fn run(&mut self) {
        self.tell(Input::Wake);
    }

    fn tell(&mut self, mut input: Input) {
        loop {
            let mut out = Vec::new();
            self.driver.step(Instant(self.now * 1_000_000), 1_000_000 + self.now, input, &mut self.answers, &mut out);
            let append = out.iter().any(|output| matches!(output, Output::Append(_)));
            assert!(!out.iter().any(|output| matches!(output, Output::Fatal(_))), "{out:?}");
            if !append {
                return;
            }
            self.appends += 1;
            input = Input::Appended;
        }
    }

    fn ask(&mut self, client: u64, place: Place, line: &str) {
        let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let frees = line.starts_with("DEL");
        self.shard
            .submit(|batch| batch.command(place, frees, client, 0, Protocol::Resp2, &words))
            .expect("the queue has room");
    }

    fn answers(&mut self, client: u64) -> String {
        self.answers.by_client.remove(&client).unwrap_or_default()
    }
}

#[test]
fn whatever_waits_becomes_one_entry_and_is_answered_in_order() {
    let mut world = World::new();
    assert_eq!(world.shard.current_refusal(), None, "a lone voter leads at once");
    let before = world.appends;
    world.ask(1, Place::Logged, "SET k 1");
    world.ask(1, Place::Local, "GET k");
    world.ask(2, Place::Logged, "SET k 2");
    world.ask(1, Place::Local, "GET k");
    world.run();
    assert_eq!(world.answers(1), "+OK\r\n$1\r\n1\r\n$1\r\n2\r\n");
    assert_eq!(world.answers(2), "+OK\r\n");
    assert_eq!(world.appends - before, 1, "one append, and no second one for the commit index");
}

#[test]
fn keys_expire_by_an_entry_when_their_time_has_come() {
    let mut world = World::new();
    world.ask(1, Place::Logged, "SET k 1");
    world.run();
    let stamp = world.shard.state().stamp();
    let mut state = world.shard.state_mut();
    state.tables_mut(store::keyspace::Durability::Fsync).set_expire(0, b"k", stamp + 500, stamp);
    assert!(world.shard.is_due_earlier(&state), "nobody else tells the driver");
    drop(state);
    world.run();
    world.now += 400;
    world.run();
    assert_eq!(world.shard.state().tables(store::keyspace::Durability::Fsync).len(0), 1);
    world.now += 200;
    world.run();
    assert_eq!(world.shard.state().tables(store::keyspace::Durability::Fsync).len(0), 0);
}

#[test]
fn a_stopped_log_leaves_nobody_without_an_answer() {
    let mut world = World::new();
    world.ask(1, Place::Logged, "BLPOP l 0");
    world.run();
    let step = |world: &mut World, input| {
        let mut out = Vec::new();
        world.driver.step(Instant(0), 1_000_000, input, &mut world.answers, &mut out);
        assert!(out.is_empty(), "{out:?}");
    };
    step(&mut world, Input::LogStopped("the disk is gone".into()));
    assert!(world.answers(1).starts_with("-MISCONF the log has stopped"), "nothing will ever feed it");
    // A write that passed the door just before, and what needs no log.
    world.ask(2, Place::Logged, "SET k 1");
    step(&mut world, Input::Wake);
    world.ask(3, Place::Local, "GET k");
    step(&mut world, Input::LogStopped("it is still gone".into()));
    step(&mut world, Input::Room(super::Room::Reserve));
    assert!(world.answers(2).starts_with("-MISCONF the log has stopped"));
    assert_eq!(world.answers(3), "$-1\r\n");
    assert!(!world.driver.is_busy(), "a stop need not wait");
}

#[test]
fn whatever_a_full_disk_refuses_is_answered_at_once_however_much_it_is() {
    let mut world = World::bounded(Limits { entry_bytes_max: 1, ..Limits::DEFAULT });
    world.tell(Input::Room(super::Room::Reserve));
    for client in 0..100 {
        world.ask(client, Place::Logged, "SET k 1");
    }
    world.run();
    for client in 0..100 {
        assert!(world.answers(client).starts_with("-MISCONF"), "client {client} still waits");
    }
}

#[test]
fn a_refusal_does_not_overtake_the_answers_before_it() {
    let mut world = World::bounded(Limits { entry_bytes_max: 1, ..Limits::DEFAULT });
    world.tell(Input::Room(super::Room::Reserve));
    world.ask(1, Place::Logged, "DEL k");
    world.ask(1, Place::Logged, "SET k 1");
    world.ask(1, Place::Logged, "DEL k");
    world.run();
    let answers = world.answers(1);
    assert!(answers.starts_with(":0\r\n-MISCONF") && answers.ends_with("\r\n:0\r\n"), "{answers}");
}

#[test]
fn the_end_of_a_wait_is_not_lost_with_a_batch_that_is_refused() {
    let mut world = World::new();
    world.ask(1, Place::Logged, "BLPOP l 0");
    world.run();
    let waiter = *world.answers.waiting.keys().next().expect("it waits");
    world.ask(2, Place::Logged, "SET k 1");
    super::end_wait(&world.shard, waiter, crate::entry::Unblock::Gone, &mut world.answers);
    world.tell(Input::Room(super::Room::Reserve));
    assert!(world.answers(2).starts_with("-MISCONF"));
    world.tell(Input::Room(super::Room::Plenty));
    world.ask(3, Place::Logged, "RPUSH l x");
    world.ask(3, Place::Local, "LLEN l");
    world.run();
    assert_eq!(world.answers(3), ":1\r\n:1\r\n", "nobody is there to take it");
}

#[test]
fn a_client_that_leaves_ends_its_wait_though_the_queue_is_full() {
    let mut world = World::bounded(Limits { pending_bytes_max: 10, ..Limits::DEFAULT });
    world.ask(1, Place::Logged, "BLPOP l 0");
    world.run();
    let waiter = *world.answers.waiting.keys().next().expect("it waits");
    world.ask(2, Place::Logged, "SET some-key some-value");
    super::end_wait(&world.shard, waiter, crate::entry::Unblock::Gone, &mut world.answers);
    world.run();
    assert!(world.shard.state().waiters(store::keyspace::Durability::Fsync).is_empty(), "a ghost waits");
}

#[test]
fn a_change_of_the_registry_is_answered_by_its_outcome_and_survives_a_snapshot() {
    use std::task::{Context, Poll, Waker};

    use discovery::change::{Change, Outcome};
    use discovery::model::{NodeForm, ServiceForm};

    let mut world = World::new();
    let register = |number: u32| Change::Register {
        node: NodeForm { name: "n".into(), ..NodeForm::default() },
        keep_node: true,
        service: Some(ServiceForm { id: number.to_string(), name: "web".into(), ..ServiceForm::default() }),
        checks: Vec::new(),
        replace_checks: false,
    };
    let mut changed = Box::pin(crate::meta::Changed::new(world.shard.clone(), 0));
    let mut context = Context::from_waker(Waker::noop());
    assert!(changed.as_mut().poll(&mut context).is_pending());
    for number in 0..20 {
        world.shard.submit(|batch| batch.change(7, &register(number))).expect("the queue has room");
    }
    world.run();
    let index = world.shard.state().applied();
    assert_eq!(world.shard.state().catalog().index(), index);
    assert_eq!(world.answers(7).as_bytes(), Outcome::Done(index).encode().repeat(20));
    assert_eq!(changed.as_mut().poll(&mut context), Poll::Ready(index));
    drop(changed);
    assert_eq!(world.shard.bell.waiting(), 0);

    let mut state = world.shard.state_mut();
    let (_, first) = state.begin_snapshot();
    let mut back = State::new(GroupId(1), &Limits::DEFAULT, Arc::new(Keyspaces::default()), 1);
    back.restore_first(&first).expect("books");
    loop {
        let mut chunk = Vec::new();
        let done = state.walk(64, &mut chunk).expect("nothing ends the walk");
        assert!(chunk.len() < 256, "the steps are small");
        back.restore(&chunk).expect("records");
        if done {
            break;
        }
    }
    back.finish_restore();
    assert_eq!(back.catalog().instances("web").count(), 20);
    assert_eq!(back.catalog().index(), index);
    assert_eq!(state.walk(64, &mut Vec::new()), None);
}

/// A leader with other voters has a lease that ends; here the test says when.
#[test]
fn what_needs_no_entry_rides_in_one_where_there_is_no_lease() {
    let mut world = World::new();
    world.ask(1, Place::Logged, "SET k 1");
    world.run();
    world.answers(1);
    world.shard.set_lease(Some(Instant(5_000_000)));
    let before = world.appends;
    world.ask(1, Place::Local, "GET k");
    world.run();
    assert_eq!((world.answers(1).as_str(), world.appends), ("$1\r\n1\r\n", before), "the lease holds");
    world.now = 5;
    world.ask(1, Place::Local, "GET k");
    world.ask(2, Place::Local, "GET none");
    world.run();
    assert_eq!((world.answers(1), world.answers(2)), ("$1\r\n1\r\n".into(), "$-1\r\n".into()));
    assert_eq!(world.appends, before + 1, "one entry for both");
    world.shard.set_lease(None);
    world.ask(1, Place::Local, "GET k");
    world.run();
    assert_eq!((world.answers(1).as_str(), world.appends), ("$1\r\n1\r\n", before + 2));
}

#[test]
fn what_was_held_up_while_it_was_read_is_not_answered() {
    let mut world = World::new();
    world.shard.set_lease(Some(Instant(5_000_000)));
    // Between the step's clock and the answer the process stands still.
    world.answers.later = 6_000_000;
    world.ask(1, Place::Local, "GET k");
    world.run();
    assert_eq!(world.answers(1), "<lost>");
}

#[test]
fn what_was_to_be_answered_beside_an_entry_waits_for_the_next_one_when_the_lease_is_over() {
    let mut world = World::new();
    world.shard.set_lease(Some(Instant(5_000_000)));
    let mut out = Vec::new();
    let mut step = |world: &mut World, input| {
        world.driver.step(Instant(world.now * 1_000_000), 1_000_000, input, &mut world.answers, &mut out);
        std::mem::take(&mut out)
    };
    world.ask(1, Place::Logged, "SET k 1");
    assert!(step(&mut world, Input::Wake).iter().any(|output| matches!(output, Output::Append(_))));
    // Queued while the append is under way, taken when it ends, run when there is no lease any more.
    world.ask(1, Place::Local, "GET k");
    world.ask(2, Place::Local, "GET k");
    world.now = 6;
    let out = step(&mut world, Input::Appended);
    assert_eq!((world.answers(1).as_str(), world.answers(2).as_str()), ("+OK\r\n", ""));
    assert!(out.iter().any(|output| matches!(output, Output::Append(_))), "an entry for the reads alone");
    step(&mut world, Input::Appended);
    assert_eq!((world.answers(1), world.answers(2)), ("$1\r\n1\r\n".into(), "$1\r\n1\r\n".into()));
}

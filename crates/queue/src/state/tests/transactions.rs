//! Transactions: the coordinator's steps, markers, what readers see, and what comes late.

use super::*;
use crate::partition::Aborted;

type Identity = (i64, i16);

fn partition(number: u32) -> Target {
    Target::Partition { topic: TOPIC, place: "orders".into(), partition: number }
}

impl World {
    fn begin(&mut self, expected: Option<Identity>) -> Result<Identity, Code> {
        self.begin_as("t", expected)
    }

    pub fn begin_as(&mut self, id: &str, expected: Option<Identity>) -> Result<Identity, Code> {
        match self.run(&Command::Begin { id, timeout_ms: 60_000, expected }) {
            Outcome::Producer { id, epoch } => Ok((id, epoch)),
            other => Err(other.code()),
        }
    }

    fn enlist(&mut self, own: Identity, targets: Vec<Target>) -> Result<u64, Code> {
        self.enlist_as("t", own, targets)
    }

    pub fn enlist_as(&mut self, id: &str, own: Identity, targets: Vec<Target>) -> Result<u64, Code> {
        match self.run(&Command::Enlist { id, producer: own.0, epoch: own.1, targets }) {
            Outcome::Enlisted { number } => Ok(number),
            other => Err(other.code()),
        }
    }

    fn end(&mut self, own: Identity, commit: bool, second_version: bool) -> Result<Identity, Code> {
        self.end_as("t", own, commit, second_version)
    }

    pub fn end_as(&mut self, id: &str, own: Identity, commit: bool, second_version: bool) -> Result<Identity, Code> {
        match self.run(&Command::End { id, producer: own.0, epoch: own.1, commit, second_version }) {
            Outcome::Producer { id, epoch } => Ok((id, epoch)),
            other => Err(other.code()),
        }
    }

    /// Writes all markers that are due, as the leader's upkeep does, each twice.
    pub fn mark_all(&mut self) {
        for due in self.queue.markers(usize::MAX) {
            let marker = due.batch(self.queue.epoch(), self.now);
            for _ in 0..2 {
                assert_eq!(self.run(&due.command(&marker)), Outcome::Done);
                self.run(&Command::Marked { id: &due.id, number: due.number, targets: vec![due.target.clone()] });
            }
        }
    }

    fn write(&mut self, on: u32, own: Identity, sequence: i32, number: u64, second_version: bool) -> Outcome {
        let batches = example(&[b"v"], self.now as i64, (own.0, own.1, sequence), true);
        self.store(on, &batches, Some(Entered { number, second_version }))
    }

    fn phase(&self) -> Phase {
        self.queue.transaction_of("t").expect("begun").phase
    }

    fn stable(&self, on: u32) -> (u64, u64) {
        let own = self.queue.partition(TOPIC, on).expect("written");
        (own.stable(), own.high())
    }
}

/// A queue with something of everything.
pub fn busy() -> World {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    let number = world.enlist(own, vec![partition(0), partition(1), Target::Group("g".into())]).expect("it begins");
    world.write(0, own, 0, number, false);
    let within = Within { producer: own.0, epoch: own.1, number };
    let by = Committer { generation: -1, member: "", instance: None };
    let offset = OffsetOf { topic: "orders", id: TOPIC, partition: 0, offset: 5, epoch: -1, metadata: "" };
    let offsets = vec![offset];
    world.run(&Command::TransactionCommit { group: "g", by: by.clone(), within, offsets: offsets.clone() });
    world.run(&Command::Commit { group: "h", by, offsets });
    world.end(own, false, false).expect("it ends");
    world.mark_all();
    let number = world.enlist(own, vec![partition(1)]).expect("the next one");
    world.write(1, own, 0, number, false);
    world.run(&Command::InitProducer);
    let generation = Generation { number: 2, members: vec![crate::group::Member::default()], ..Generation::default() };
    world.run(&Command::SaveGroup { group: "k", generation });
    world.run(&Command::TimeOut { id: "t", number });
    world.run(&Command::Drop { topic: TopicId(5) });
    world.run(&Command::Trim { topic: TOPIC, partition: 0, to: 1 });
    world.run(&Command::Sweep);
    world.run(&Command::DeleteGroup { group: "none" });
    world.run(&Command::DeleteOffsets { group: "none", partitions: vec![("orders", 1)] });
    world
}

#[test]
fn a_transaction_is_seen_by_readers_of_committed_records_once_it_is_marked() {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    assert_eq!((own, world.phase()), ((3 << 40, 0), Phase::Empty));
    world.produce(&[b"before"], NOBODY);
    let number = world.enlist(own, vec![partition(0), partition(1)]).expect("it begins");
    assert_eq!((number, world.phase()), (1, Phase::Ongoing));
    assert_eq!(base(&world.write(0, own, 0, number, false)), 1);
    world.produce(&[b"beside"], NOBODY);
    assert_eq!(base(&world.write(0, own, 1, number, false)), 3);
    assert_eq!(world.stable(0), (1, 4));
    assert_eq!(world.partition().ongoing(own.0, own.1), Some(1));
    let read = |world: &World| world.read(0, 0, Isolation::Committed).map(|seen| seen.len());
    assert_eq!((read(&world), world.read(0, 1, Isolation::Committed)), (Ok(1), Ok(vec![])));
    world.snapshot(33);
    assert_eq!(world.end(own, true, false), Ok(own));
    assert_eq!(world.phase(), Phase::Ending(true));
    assert_eq!(world.stable(0), (1, 4), "decided, but not marked");
    assert_eq!(world.end(own, true, false), Err(Code::CONCURRENT_TRANSACTIONS));
    assert_eq!(world.end(own, false, false), Err(Code::INVALID_TXN_STATE), "it has been decided otherwise");
    assert_eq!(world.enlist(own, vec![partition(0)]), Err(Code::CONCURRENT_TRANSACTIONS));
    assert_eq!(world.begin(None), Err(Code::CONCURRENT_TRANSACTIONS));
    world.mark_all();
    assert_eq!(world.phase(), Phase::Ended(true));
    assert_eq!(world.stable(0), (5, 5), "the marker takes an offset");
    assert_eq!(read(&world), Ok(5));
    let plan = world.partition().plan(0, u64::MAX, Isolation::Committed).expect("in range");
    assert_eq!(plan.aborted, []);
    let other = world.queue.partition(TOPIC, 1).expect("it remembers the end");
    assert_eq!(other.high(), 0, "where nothing was written no marker is");
    assert_eq!(world.end(own, true, false), Ok(own), "who asks again gets the same answer");
    assert_eq!(world.end(own, false, false), Err(Code::INVALID_TXN_STATE));
    world.snapshot(33);
}

#[test]
fn an_aborted_transaction_is_listed_to_whoever_reads_into_it() {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    let other = world.begin_as("u", None).expect("a new id");
    let number = world.enlist(own, vec![partition(0)]).expect("it begins");
    world.write(0, own, 0, number, false); // 0
    assert_eq!(world.enlist_as("u", other, vec![partition(0)]), Ok(1));
    world.write(0, other, 0, 1, false); // 1
    world.write(0, own, 1, number, false); // 2
    world.end(own, false, false).expect("it ends");
    world.mark_all(); // 3
    assert_eq!(world.stable(0), (1, 4), "the other one is still open");
    world.produce(&[b"x"], NOBODY); // 4
    world.end_as("u", other, false, false).expect("it ends");
    world.mark_all(); // 5
    let first = Aborted { producer: own.0, first: 0, last: 3, stable: 1 };
    let second = Aborted { producer: other.0, first: 1, last: 5, stable: 6 };
    let listed = |offset, bytes| world.partition().plan(offset, bytes, Isolation::Committed).map(|plan| plan.aborted);
    assert_eq!(listed(0, u64::MAX), Ok(vec![first, second]));
    assert_eq!(listed(0, 1), Ok(vec![first]), "what is not read of is not listed");
    assert_eq!(listed(4, u64::MAX), Ok(vec![second]));
    assert_eq!(listed(3, 1), Ok(vec![first, second]));
    assert_eq!(world.partition().plan(0, 9999, Isolation::Uncommitted).map(|plan| plan.aborted), Ok(vec![]));
    world.snapshot(20);
    world.run(&Command::Trim { topic: TOPIC, partition: 0, to: 4 });
    assert_eq!(world.queue.figures().aborted, 1, "what has gone is not listed");
}

/// R28, old clients: the epoch stays, and only the number tells one transaction from the next.
#[test]
fn a_late_batch_lands_in_no_other_transaction() {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    let late = |world: &mut World, sequence, number| world.write(0, own, sequence, number, false).code();
    assert_eq!(late(&mut world, 0, 0), Code::INVALID_TXN_STATE, "nobody asked the coordinator");
    let one = world.enlist(own, vec![partition(0)]).expect("it begins");
    assert_eq!(base(&world.write(0, own, 0, one, false)), 0);
    world.end(own, false, false).expect("it ends");
    world.mark_all();
    assert_eq!(late(&mut world, 1, one), Code::INVALID_TXN_STATE, "behind the end: it would hang for ever");
    let two = world.enlist(own, vec![partition(0)]).expect("the next one");
    assert_eq!(late(&mut world, 1, one), Code::INVALID_TXN_STATE, "before the next one has written");
    assert_eq!(base(&world.write(0, own, 1, two, false)), 2);
    assert_eq!(late(&mut world, 2, one), Code::INVALID_TXN_STATE, "while the next one is under way");
    let plain = example(&[b"v"], 0, (own.0, own.1, 2), false);
    assert_eq!(world.store(0, &plain, None).code(), Code::INVALID_TXN_STATE, "not part of the transaction");
    // A partition that has never seen this producer learns of the end too.
    world.enlist(own, vec![partition(1)]).expect("one more");
    world.end(own, false, false).expect("it ends");
    world.mark_all();
    assert_eq!(world.write(1, own, 0, two, false).code(), Code::INVALID_TXN_STATE);
}

/// KIP-890: the epoch is another after each end.
#[test]
fn in_the_second_version_every_end_fences_what_was_before() {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    let one = world.enlist(own, vec![partition(0)]).expect("it begins");
    assert_eq!(world.write(0, own, 5, one, true).code(), Code::OUT_OF_ORDER_SEQUENCE_NUMBER, "it begins with 0");
    assert_eq!(base(&world.write(0, own, 0, one, true)), 0);
    let next = (own.0, own.1 + 1);
    assert_eq!(world.end(own, true, true), Ok(next));
    assert_eq!(world.end(own, true, true), Err(Code::CONCURRENT_TRANSACTIONS));
    world.mark_all();
    assert_eq!(world.end(own, true, true), Ok(next), "who asks again gets the same answer");
    assert_eq!(world.end(own, false, true), Err(Code::INVALID_TXN_STATE));
    assert_eq!(world.write(0, own, 1, one, true).code(), Code::INVALID_PRODUCER_EPOCH);
    assert_eq!(world.enlist(own, vec![partition(0)]), Err(Code::PRODUCER_FENCED));
    let two = world.enlist(next, vec![partition(0)]).expect("the next one");
    assert_eq!(base(&world.write(0, next, 0, two, true)), 2);
    let third = (own.0, own.1 + 2);
    assert_eq!(world.end(next, false, true), Ok(third));
    world.mark_all();
    assert_eq!(world.end(third, false, true), Ok((own.0, own.1 + 3)), "an abort of nothing fences too");
    assert_eq!(world.end((own.0, own.1 + 3), true, true), Err(Code::INVALID_TXN_STATE), "there is nothing to commit");
    assert_eq!(world.phase(), Phase::Ended(false));
}

#[test]
fn a_transaction_that_takes_too_long_is_aborted_and_its_producer_fenced() {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    let number = world.enlist(own, vec![partition(0)]).expect("it begins");
    world.write(0, own, 0, number, false);
    world.run(&Command::TimeOut { id: "t", number });
    assert_eq!((world.phase(), world.queue.overdue(world.now)), (Phase::Ongoing, vec![]), "its time is not over");
    world.now += 60_000;
    assert_eq!(world.queue.overdue(world.now), [("t".into(), number)]);
    world.run(&Command::TimeOut { id: "t", number: number + 1 });
    assert_eq!(world.phase(), Phase::Ongoing);
    world.run(&Command::TimeOut { id: "t", number });
    assert_eq!(world.phase(), Phase::Ending(false));
    assert_eq!(world.end(own, true, false), Err(Code::PRODUCER_FENCED));
    world.mark_all();
    assert_eq!(world.write(0, own, 1, number, false).code(), Code::INVALID_PRODUCER_EPOCH);
    assert_eq!(world.partition().plan(0, 99999, Isolation::Committed).map(|plan| plan.aborted.len()), Ok(1));
    // The newest epoch is nobody's: so nobody goes on with what it had, and must begin anew.
    assert_eq!(world.begin(Some(own)), Err(Code::PRODUCER_FENCED));
    assert_eq!(world.begin(None), Ok((own.0, own.1 + 2)));
}

/// Kafka's `prepareInitProducerIdTransit`, case by case.
#[test]
fn who_takes_an_id_fences_who_had_it() {
    let mut world = World::new();
    assert_eq!(world.begin_as("", None), Err(Code::INVALID_REQUEST));
    for timeout_ms in [0, TRANSACTION_TIMEOUT_MS_MAX + 1] {
        let outcome = world.run(&Command::Begin { id: "t", timeout_ms, expected: None });
        assert_eq!(outcome.code(), Code::INVALID_TRANSACTION_TIMEOUT);
    }
    let first = world.begin(Some((77, 3))).expect("a new id takes whoever comes");
    assert_eq!(first, (3 << 40, 0));
    let second = (first.0, 1);
    assert_eq!(world.begin(None), Ok(second));
    assert_eq!(world.begin(Some(first)), Err(Code::PRODUCER_FENCED), "another one has begun since");
    let third = (first.0, 2);
    assert_eq!(world.begin(Some(second)), Ok(third), "going on after an error");
    assert_eq!(world.begin(Some(second)), Ok(third), "and asking again");
    assert_eq!(world.begin(Some((5, 2))), Err(Code::PRODUCER_FENCED), "another producer id");
    assert_eq!(world.enlist(second, vec![partition(0)]), Err(Code::PRODUCER_FENCED));
    assert_eq!(world.enlist((5, 2), vec![partition(0)]), Err(Code::INVALID_PRODUCER_ID_MAPPING));
    assert_eq!(world.enlist_as("nobody", (1, 0), vec![]), Err(Code::INVALID_PRODUCER_ID_MAPPING));
    // With a transaction under way it is aborted first, by an epoch that nobody gets.
    let number = world.enlist(third, vec![partition(0)]).expect("it begins");
    world.write(0, third, 0, number, false);
    assert_eq!(world.begin(Some(second)), Err(Code::PRODUCER_FENCED), "a zombie does not abort it");
    assert_eq!(world.begin(None), Err(Code::CONCURRENT_TRANSACTIONS));
    assert_eq!(world.phase(), Phase::Ending(false));
    world.mark_all();
    assert_eq!(world.begin(None), Ok((first.0, 4)));
    world.snapshot(9);
}

#[test]
fn used_up_epochs_give_another_producer_id() {
    let mut world = World::new();
    let use_up = |world: &mut World| {
        for queue in [&mut world.queue, &mut world.twin] {
            let own = queue.transactions.get_mut("t").expect("begun");
            Arc::make_mut(own).epoch = i16::MAX - 1;
        }
    };
    let own = world.begin(None).expect("a new id");
    use_up(&mut world);
    let last = (own.0, i16::MAX - 1);
    let fresh = (own.0 + 1, 0);
    assert_eq!(world.begin(Some(last)), Ok(fresh));
    assert_eq!(world.begin(Some(last)), Ok(fresh), "and asking again");
    use_up(&mut world);
    let last = (fresh.0, i16::MAX - 1);
    let number = world.enlist(last, vec![partition(0)]).expect("it begins");
    world.write(0, last, 0, number, true);
    let fresh = (own.0 + 2, 0);
    assert_eq!(world.end(last, true, true), Ok(fresh));
    let due = world.queue.markers(9);
    assert_eq!((due[0].producer, due[0].epoch), (last.0, i16::MAX), "the old id's end is marked");
    world.mark_all();
    assert_eq!(world.end(last, true, true), Ok(fresh), "who asks again gets the same answer");
    assert_eq!(world.stable(0), (2, 2));
}

#[test]
fn only_who_takes_part_is_verified() {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    let verify = |world: &World, (producer, epoch): Identity, on| {
        let known = world.queue.transaction_of("t").expect("begun");
        known.verify(producer, epoch, &partition(on)).map_err(|(code, _)| code)
    };
    assert_eq!(verify(&world, own, 0), Err(Code::TRANSACTION_ABORTABLE));
    let number = world.enlist(own, vec![partition(0)]).expect("it begins");
    assert_eq!(verify(&world, own, 0), Ok(number));
    assert_eq!(verify(&world, own, 1), Err(Code::TRANSACTION_ABORTABLE));
    assert_eq!(verify(&world, (own.0, 7), 0), Err(Code::PRODUCER_FENCED));
    assert_eq!(verify(&world, (1, 0), 0), Err(Code::INVALID_PRODUCER_ID_MAPPING));
    world.end(own, true, false).expect("it ends");
    assert_eq!(verify(&world, own, 0), Err(Code::CONCURRENT_TRANSACTIONS));
    world.mark_all();
    assert_eq!(verify(&world, own, 0), Err(Code::TRANSACTION_ABORTABLE));
}

#[test]
fn a_silent_transactional_id_is_forgotten_but_not_in_a_transaction() {
    let mut world = World::new();
    let own = world.begin(None).expect("a new id");
    world.begin_as("u", None).expect("a new id");
    world.enlist(own, vec![partition(0)]).expect("it begins");
    world.now += TRANSACTION_SILENT_MS + 1;
    world.run(&Command::Sweep);
    assert_eq!(world.queue.transactions().map(|(id, _)| id).collect::<Vec<_>>(), ["t"]);
}

#[test]
fn a_transactions_targets_lie_where_their_keys_do() {
    let target = Target::Partition { topic: TOPIC, place: "{a}orders".into(), partition: 3 };
    assert_eq!(target.slot(), base::key_slot(b"a"));
    assert_eq!(Target::Group("g1".into()).slot(), base::key_slot(b"g1"));
    assert_eq!(partition(4).slot(), base::key_slot(b"topic:orders:4"));
}

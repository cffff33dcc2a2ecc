//! Long random lives of one partition and two transactional producers, beside a model that knows nothing but what was stored.

use super::*;
use crate::limits::WINDOW;
use crate::partition::Aborted;

/// A stored run, as the model sees it.
#[derive(Clone, Copy, Debug)]
struct Kept {
    base: u64,
    count: u64,
    producer: i64,
    epoch: i16,
    sequence: i32,
    stamp: i64,
    marker: bool,
    bytes: usize,
}

#[derive(Default)]
struct Model {
    kept: Vec<Kept>,
    start: u64,
    next: u64,
    /// Newest epoch seen of each producer.
    epochs: BTreeMap<i64, i16>,
    /// Numbers up to which each producer's transactions have been ended here.
    ended: BTreeMap<i64, u64>,
    /// Producer, number, first offset.
    open: Vec<(i64, u64, u64)>,
    aborted: Vec<Aborted>,
}

impl Model {
    fn stable(&self) -> u64 {
        self.open.iter().map(|(_, _, first)| *first).min().map_or(self.next, |first| first.max(self.start))
    }

    /// What a produce must come to: an offset and whether it was known, or a code.
    fn judge(&self, producer: (i64, i16, i32), count: usize, number: Option<u64>) -> Result<(u64, bool), Code> {
        let (id, epoch, sequence) = producer;
        if id < 0 {
            return Ok((self.next, false));
        }
        let known = self.epochs.get(&id).copied();
        // Since its epoch was last another.
        let own: Vec<&Kept> = match known {
            Some(known) => {
                self.kept.iter().filter(|run| run.producer == id && run.epoch == known && !run.marker).collect()
            }
            None => Vec::new(),
        };
        let newest = &own[own.len().saturating_sub(WINDOW)..];
        if known == Some(epoch)
            && let Some(run) = newest.iter().find(|run| run.sequence == sequence && run.count == count as u64)
        {
            return Ok((run.base, true));
        }
        if known.is_some_and(|known| epoch < known) {
            return Err(Code::INVALID_PRODUCER_EPOCH);
        }
        let open = self.open.iter().find(|(open, _, _)| *open == id);
        let belongs = match (number, open) {
            (None, open) => open.is_none(),
            (Some(0), _) => false,
            (Some(number), Some((_, open, _))) => number == *open,
            (Some(number), None) => number > self.ended.get(&id).copied().unwrap_or(0),
        };
        if !belongs {
            return Err(Code::INVALID_TXN_STATE);
        }
        let expected = match known {
            None => sequence,
            Some(known) if known != epoch => 0,
            Some(_) => newest.last().map_or(0, |run| run.sequence + run.count as i32),
        };
        if sequence != expected {
            return Err(Code::OUT_OF_ORDER_SEQUENCE_NUMBER);
        }
        Ok((self.next, false))
    }

    fn push(&mut self, run: Kept) {
        self.next += run.count;
        self.kept.push(run);
    }

    fn end(&mut self, producer: i64, epoch: i16, number: u64, commit: bool) {
        if number <= self.ended.get(&producer).copied().unwrap_or(0) {
            return;
        }
        self.ended.insert(producer, number);
        self.epochs.insert(producer, epoch);
        let Some(at) = self.open.iter().position(|(open, _, _)| *open == producer) else {
            return;
        };
        let (_, _, first) = self.open.remove(at);
        let last = self.next;
        let (stamp, bytes) = (0, 78);
        self.push(Kept { base: last, count: 1, producer, epoch, sequence: -1, stamp, marker: true, bytes });
        if !commit {
            let stable = self.stable();
            self.aborted.push(Aborted { producer, first, last, stable });
        }
    }

    fn read(&self, offset: u64, bytes_max: usize, isolation: Isolation) -> Result<Read, Code> {
        if offset < self.start || offset > self.next {
            return Err(Code::OFFSET_OUT_OF_RANGE);
        }
        let until = if isolation == Isolation::Committed { self.stable() } else { self.next };
        if offset >= until {
            return Ok(Read::default());
        }
        let (mut bases, mut bytes, mut end) = (Vec::new(), 0, offset);
        for run in self.kept.iter().filter(|run| run.base + run.count > offset && run.base < until) {
            if !bases.is_empty() && bytes_max.saturating_sub(bytes) < run.bytes {
                break;
            }
            bytes += run.bytes;
            bases.push(run.base);
            end = run.base + run.count;
        }
        let mut aborted = Vec::new();
        if isolation == Isolation::Committed && !bases.is_empty() {
            let reaches = |own: &&Aborted| own.last >= offset && own.first < end;
            aborted.extend(self.aborted.iter().filter(reaches).map(|own| (own.producer, own.first)));
        }
        Ok((bases, aborted))
    }
}

/// The first offsets of what is read; aborted transactions.
type Read = (Vec<u64>, Vec<(i64, u64)>);

const IDS: [&str; 2] = ["t", "u"];

#[derive(Clone, Copy, Default)]
struct Client {
    identity: (i64, i16),
    /// The number that it last heard of.
    number: u64,
    second_version: bool,
}

fn target() -> Target {
    Target::Partition { topic: TOPIC, place: "orders".into(), partition: 0 }
}

fn life(seed: u64, steps: usize) {
    let mut rng = base::Rng::new(seed);
    let mut world = World::new();
    let mut model = Model::default();
    let mut clients = [Client::default(); IDS.len()];
    for (client, id) in clients.iter_mut().zip(IDS) {
        *client =
            Client { identity: world.begin_as(id, None).expect("new"), second_version: rng.chance(1, 2), number: 0 };
    }
    world.run(&Command::Trim { topic: TOPIC, partition: 0, to: 0 });
    let plain = [(-1, -1), (500, 0), (501, 0)];
    for _ in 0..steps {
        world.now += rng.below(50);
        let at = rng.index(IDS.len());
        match rng.below(20) {
            0..=11 => {
                // A producer with its next sequence number, or one near it; now and then an old epoch or number.
                let transactional = rng.chance(2, 3);
                let (id, epoch, number) = if transactional {
                    let Client { identity, number, .. } = clients[at];
                    (
                        identity.0,
                        identity.1 - rng.chance(1, 20) as i16,
                        Some(number - (number > 0 && rng.chance(1, 12)) as u64),
                    )
                } else {
                    let (id, epoch) = plain[rng.index(plain.len())];
                    (id, if id < 0 { epoch } else { epoch + rng.chance(1, 30) as i16 }, None)
                };
                if id >= 0 && epoch < 0 {
                    continue;
                }
                let known = model.epochs.get(&id) == Some(&epoch);
                let last =
                    model.kept.iter().rfind(|run| run.producer == id && run.epoch == epoch && !run.marker && known);
                let next = last.map_or(0, |run| run.sequence + run.count as i32);
                let sequence = if id < 0 { -1 } else { (next + [0, 0, 0, 0, -1, -2, -4, 1][rng.index(8)]).max(0) };
                let count = 1 + rng.index(2);
                let stamp = 1_000_000 + rng.below(1000) as i64;
                let batches = example(&vec![&b"value"[..]; count], stamp, (id, epoch, sequence), transactional);
                let entered = number.map(|number| Entered { number, second_version: false });
                let expected = model.judge((id, epoch, sequence), count, number);
                let outcome = world.store(0, &batches, entered);
                match (&outcome, expected) {
                    (Outcome::Produced { base, again, .. }, Ok(expected)) => assert_eq!((*base, *again), expected),
                    (Outcome::Refused { code, .. }, Err(expected)) => assert_eq!(*code, expected),
                    other => panic!("seed {seed}: {other:?}"),
                }
                if let Outcome::Produced { base, again: false, .. } = outcome {
                    if id >= 0 {
                        model.epochs.insert(id, epoch);
                    }
                    if let Some(number) = number
                        && !model.open.iter().any(|(open, _, _)| *open == id)
                    {
                        model.open.push((id, number, base));
                    }
                    let stamp = stamp + count as i64 - 1;
                    let (count, bytes) = (count as u64, batches.len());
                    model.push(Kept { base, count, producer: id, epoch, sequence, stamp, marker: false, bytes });
                }
            }
            12..=13 => {
                if let Ok(number) = world.enlist_as(IDS[at], clients[at].identity, vec![target()]) {
                    clients[at].number = number;
                }
            }
            14 => {
                let Client { identity, second_version, .. } = clients[at];
                if let Ok(identity) = world.end_as(IDS[at], identity, rng.chance(1, 2), second_version) {
                    clients[at].identity = identity;
                }
            }
            15 => {
                for due in world.queue.markers(1 + rng.index(2)) {
                    let marker = due.batch(1, 0);
                    world.run(&due.command(&marker));
                    model.end(due.producer, due.epoch, due.number, due.commit);
                    // The report may be lost: then it is marked again.
                    if rng.chance(2, 3) {
                        world.run(&Command::Marked {
                            id: &due.id,
                            number: due.number,
                            targets: vec![due.target.clone()],
                        });
                    }
                }
            }
            16 => {
                if let Ok(identity) = world.begin_as(IDS[at], None) {
                    clients[at].identity = identity;
                }
            }
            17 if rng.chance(1, 4) => {
                let to = rng.below(model.next + 2);
                world.run(&Command::Trim { topic: TOPIC, partition: 0, to });
                model.start = model.start.max(to.min(model.next));
            }
            18 => world.lead(),
            _ => {
                if rng.chance(1, 5) {
                    world.snapshot(1 + rng.index(300));
                }
            }
        }
        let Some(own) = world.queue.partition(TOPIC, 0) else { continue };
        assert_eq!((own.start(), own.high(), own.stable()), (model.start, model.next, model.stable()), "seed {seed}");
        let offset = rng.below(model.next + 3);
        let bytes_max = rng.index(1000);
        for isolation in [Isolation::Uncommitted, Isolation::Committed] {
            let plan = own.plan(offset, bytes_max as u64, isolation).map(|plan| {
                let listed = plan.aborted.iter().map(|own| (own.producer, own.first)).collect();
                (plan.pieces.iter().map(|piece| piece.base).collect(), listed)
            });
            assert_eq!(plan, model.read(offset, bytes_max, isolation), "seed {seed}: {isolation:?} from {offset}");
        }
        if rng.chance(1, 4) && (model.start..=model.next).contains(&offset) {
            for isolation in [Isolation::Uncommitted, Isolation::Committed] {
                let seen = world.read(0, offset, isolation).expect("in range");
                let read = model.read(offset, usize::MAX, isolation).expect("in range");
                assert_eq!(seen.iter().map(|(base, _)| *base as u64).collect::<Vec<_>>(), read.0, "seed {seed}");
            }
        }
        let target = 1_000_000 + rng.below(1100) as i64;
        let held = |run: &&Kept| run.base + run.count > model.start;
        let first = model.kept.iter().filter(held).find(|run| run.stamp >= target && !run.marker);
        assert_eq!(
            own.at_time(target, u64::MAX).map(|piece| piece.base),
            first.map(|run| run.base),
            "seed {seed}: time"
        );
    }
    // In the end everything that began is ended, and what readers get is what was stored.
    for _ in 0..4 {
        world.now += 100_000;
        for (id, number) in world.queue.overdue(world.now) {
            world.run(&Command::TimeOut { id: &id, number });
        }
        for due in world.queue.markers(usize::MAX) {
            model.end(due.producer, due.epoch, due.number, due.commit);
        }
        world.mark_all();
    }
    if let Some(own) = world.queue.partition(TOPIC, 0) {
        assert_eq!((own.stable(), own.stable()), (own.high(), model.next), "seed {seed}: nothing hangs");
        let seen = world.read(0, own.start(), Isolation::Committed).expect("in range");
        let expected: Vec<i64> =
            model.kept.iter().filter(|run| run.base + run.count > model.start).map(|run| run.base as i64).collect();
        assert_eq!(seen.iter().map(|(base, _)| *base).collect::<Vec<_>>(), expected);
    }
    world.snapshot(100);
}

#[test]
fn a_partition_does_what_its_model_does() {
    for seed in 0..600 {
        life(seed, 120);
    }
    for seed in 600..610 {
        life(seed, 2_000);
    }
}

/// What happens while a snapshot is being written is not in it.
#[test]
fn a_walk_gives_the_moment_at_which_it_began() {
    for seed in 0..40 {
        let mut rng = base::Rng::new(seed);
        let mut world = transactions::busy();
        for _ in 0..rng.below(700) {
            world.produce(&[b"v"], NOBODY);
        }
        let moment = shown(&world.queue);
        let mut books = Vec::new();
        world.queue.encode_books(&mut books);
        world.queue.begin_walk();
        let mut chunks = Vec::new();
        loop {
            let mut chunk = Vec::new();
            let over = world.queue.walk(1 + rng.index(400), &mut chunk);
            chunks.push(chunk);
            if over {
                break;
            }
            let batches = example(&[b"w"], 5, (60 + rng.below(3) as i64, 0, rng.below(2) as i32), false);
            world.store(rng.below(3) as u32, &batches, None);
            match rng.below(8) {
                0 => drop(world.run(&Command::Trim { topic: TOPIC, partition: 0, to: rng.below(500) })),
                1 => drop(world.run(&Command::DeleteGroup { group: "h" })),
                2 => drop(world.begin_as("t", None)),
                3 if rng.chance(1, 10) => drop(world.run(&Command::Drop { topic: TOPIC })),
                _ => {}
            }
        }
        let mut whole = Queue::new(GroupId(3));
        whole.read_books(&mut Input::new(&books)).expect("books");
        for chunk in &chunks {
            whole.restore(chunk).expect("records");
        }
        whole.finish_restore();
        assert_eq!(shown(&whole), moment, "seed {seed}");
    }
}

//! Those who write: one whose batches carry sequence numbers, three under way at once, and one whose records belong to transactions.

use super::client::{Conn, Fail, Producer, Told, code};
use super::{AGAIN, PARTITIONS, Shared, locked};
use crate::rng::Rng;
use history::stream::{Ended, Sent};
use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Batches under way at once (a producer may have five).
const UNDER_WAY: usize = 3;
/// How long a transaction's step is asked again before the transaction is given up.
const STEP: Duration = Duration::from_secs(15);

/// A batch that was not answered yet.
struct Batch {
    sequence: i32,
    values: Vec<u64>,
    /// Their numbers in the history.
    sends: Vec<usize>,
}

impl Shared {
    /// New values, and the sends of them begun now.
    fn batch(&self, partition: usize, producer: u64, sequence: i32, count: usize, transaction: Option<u64>) -> Batch {
        let first = self.value.fetch_add(count as u64, Ordering::Relaxed) + 1;
        let values: Vec<u64> = (first..first + count as u64).collect();
        let mut seen = locked(&self.seen);
        let now = self.now();
        let send = |value: &u64| seen.send(partition as u32, producer, *value, transaction, now);
        let sends = values.iter().map(send).collect();
        Batch { sequence, values, sends }
    }

    fn stored(&self, batch: &Batch, base: u64) {
        let mut seen = locked(&self.seen);
        let now = self.now();
        for (send, offset) in batch.sends.iter().zip(base..) {
            seen.sent(*send, Sent::Done(now, offset));
        }
        drop(seen);
        self.acknowledged(batch.values.len());
    }

    /// Asks until it is done; nothing where all give up, or a word of the server forbids to go on.
    fn insist<T>(
        &self,
        what: &str,
        within: Duration,
        is_last_word: fn(i16) -> bool,
        mut ask: impl FnMut() -> Told<T>,
    ) -> Result<T, Fail> {
        let start = Instant::now();
        loop {
            let fail = match ask() {
                Ok(done) => return Ok(done),
                Err(fail) => fail,
            };
            self.failed(what, &fail);
            let is_last = matches!(fail, Fail::Code(code) if is_last_word(code));
            if is_last || start.elapsed() > within || self.gave_up() {
                return Err(fail);
            }
            std::thread::sleep(AGAIN);
        }
    }
}

/// Words after which a producer cannot go on as it was.
fn is_fatal(code: i16) -> bool {
    [
        code::OUT_OF_ORDER_SEQUENCE,
        code::DUPLICATE_SEQUENCE,
        code::INVALID_PRODUCER_EPOCH,
        code::INVALID_TXN_STATE,
        code::INVALID_PRODUCER_ID_MAPPING,
        code::UNKNOWN_PRODUCER_ID,
        code::PRODUCER_FENCED,
    ]
    .contains(&code)
}

/// Writes to one partition after the other, and asks again until it is answered.
pub fn idempotent(shared: &Shared, rng: &mut Rng) {
    let within = Duration::from_secs(3600);
    let mut own = Rng::new(rng.next());
    let found =
        shared.insist("InitProducerId", within, is_fatal, || shared.anybody(&mut own, |conn| conn.init_producer(None)));
    let producer = match found {
        Ok(producer) => producer,
        Err(why) => return shared.wrong(format!("no number for a producer: {why}")),
    };
    let mut next = [0; PARTITIONS];
    while !shared.stopped() {
        let partition = rng.below(PARTITIONS);
        let count = 1 + rng.below(8);
        if let Err(why) = burst(shared, rng, producer, partition, &mut next[partition], count) {
            // Nothing before it is open, so these words say that something acknowledged was forgotten.
            return shared.wrong(why);
        }
        std::thread::sleep(Duration::from_micros(500 + rng.next() % 6000));
    }
}

fn burst(
    shared: &Shared,
    rng: &mut Rng,
    producer: Producer,
    partition: usize,
    next: &mut i32,
    count: usize,
) -> Result<(), String> {
    let (mut window, mut sent, mut left) = (VecDeque::<Batch>::new(), 0, count);
    let mut conn: Option<Conn> = None;
    let mut was_sent = i32::MIN;
    loop {
        if shared.stopped() {
            left = 0;
        }
        if window.is_empty() && left == 0 || shared.gave_up() {
            return Ok(());
        }
        let Some(open) = &mut conn else {
            sent = 0;
            match shared.leader(rng, partition) {
                Ok(open) => conn = Some(open),
                Err(why) => {
                    shared.failed("Metadata", &why);
                    std::thread::sleep(AGAIN);
                }
            }
            continue;
        };
        while window.len() < UNDER_WAY && left > 0 {
            let batch = shared.batch(partition, 0, *next, 1 + rng.below(5), None);
            *next += batch.values.len() as i32;
            window.push_back(batch);
            left -= 1;
        }
        let mut told = Ok(());
        while sent < window.len() && told.is_ok() {
            let batch = &window[sent];
            told = open.produce(&shared.topic, partition, producer, batch.sequence, &batch.values, None);
            let again = batch.sequence <= was_sent;
            shared.counts.again.fetch_add(u64::from(again), Ordering::Relaxed);
            was_sent = was_sent.max(batch.sequence);
            sent += 1;
        }
        match told.and_then(|()| open.produced()) {
            Ok(base) => {
                sent -= 1;
                window.pop_front().iter().for_each(|batch| shared.stored(batch, base));
            }
            Err(why) => {
                shared.failed("Produce", &why);
                if let Fail::Code(code) = why
                    && is_fatal(code)
                {
                    let sequence = window.front().map_or(0, |batch| batch.sequence);
                    return Err(format!(
                        "lost write: partition {partition} answers error {code} to sequence {sequence}, all before which was acknowledged"
                    ));
                }
                conn = None;
                std::thread::sleep(AGAIN);
            }
        }
    }
}

/// One transaction after the other; the last one is ended, whatever it takes.
pub fn transactional(shared: &Shared, rng: &mut Rng) {
    let name = format!("{}-tx", shared.topic);
    let mut generation = 0;
    loop {
        // Whatever was under way is aborted by this, also at the end.
        let mut own = Rng::new(rng.next());
        let found = shared.insist(
            "InitProducerId",
            Duration::from_secs(3600),
            |_| false,
            || shared.coordinator(&mut own, &name, true)?.init_producer(Some(&name)),
        );
        let producer = match found {
            Ok(producer) => producer,
            Err(why) => return shared.wrong(format!("a transactional producer is given no number any more: {why}")),
        };
        generation += 1;
        let mut next = [0; PARTITIONS];
        loop {
            if shared.stopped() {
                return;
            }
            if transaction(shared, rng, &name, producer, generation, &mut next).is_err() {
                break;
            }
            std::thread::sleep(Duration::from_micros(500 + rng.next() % 8000));
        }
    }
}

/// The error says that the producer must begin anew.
fn transaction(
    shared: &Shared,
    rng: &mut Rng,
    name: &str,
    producer: Producer,
    generation: u64,
    next: &mut [i32; PARTITIONS],
) -> Result<(), Fail> {
    let number = shared.number();
    let first = rng.below(PARTITIONS);
    let partitions: Vec<usize> = (0..1 + rng.below(3)).map(|at| (first + at) % PARTITIONS).collect();
    let mut conn = None;
    let mut own = Rng::new(rng.next());
    let mut at_coordinator = |shared: &Shared, ask: &dyn Fn(&mut Conn) -> Told<()>| -> Told<()> {
        let open = match &mut conn {
            Some(open) => open,
            none => none.insert(shared.coordinator(&mut own, name, true)?),
        };
        let told = ask(open);
        if told.is_err() {
            conn = None;
        }
        told
    };
    shared.insist("AddPartitionsToTxn", STEP, is_fatal, || {
        at_coordinator(shared, &|conn| conn.add_partitions(name, producer, &shared.topic, &partitions))
    })?;
    let mut produced = Ok(());
    for partition in &partitions {
        let batch = shared.batch(*partition, generation, next[*partition], 1 + rng.below(3), Some(number));
        next[*partition] += batch.values.len() as i32;
        let mut own = Rng::new(rng.next());
        let mut conn = None;
        let told = shared.insist("Produce in a transaction", STEP, is_fatal, || {
            let mut open = match conn.take() {
                Some(open) => open,
                None => shared.leader(&mut own, *partition)?,
            };
            open.produce(&shared.topic, *partition, producer, batch.sequence, &batch.values, Some(name))?;
            open.produced()
        });
        match told {
            Ok(base) => shared.stored(&batch, base),
            Err(why) => {
                produced = Err(why);
                break;
            }
        }
    }
    let commit = produced.is_ok() && rng.percent(70);
    if commit {
        locked(&shared.seen).commit(number, shared.now());
    }
    let told = shared.insist("EndTxn", STEP, is_fatal, || {
        at_coordinator(shared, &|conn| conn.end_transaction(name, producer, commit))
    });
    let counts = &shared.counts;
    let (ended, count) = match (&told, commit) {
        (Ok(()), true) => (Ended::Committed, &counts.committed),
        // Whatever became of the question: nobody ever asked for a commit.
        (_, false) => (Ended::Aborted, &counts.aborted),
        (Err(_), true) => (Ended::Unknown, &counts.unknown),
    };
    locked(&shared.seen).ended(number, ended);
    count.fetch_add(1, Ordering::Relaxed);
    produced.and(told)
}

//! Producers and consumers of a topic while everything breaks, and what they saw.
//!
//! An idempotent producer with three batches under way, a transactional one, a group of two that reads committed records, and a reader of
//! everything. Producers ask again until they are answered, as Kafka's do, under the same sequence numbers: so a record may never be there
//! twice. `history::stream` judges: ten anomalies by their names. Beside it: nobody was left out anything between two polls.
//!
//! In Rust and by hand rather than with librdkafka: each request and its outcome is known, nothing is retried or dropped behind our back, and
//! namespaces need no Python in them.

mod client;
mod consumers;
mod producers;

use crate::ground::Ground;
use crate::rng::Rng;
use client::{Conn, Fail, Told, code};
use history::stream::{Last, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Partitions of the topic: with four shards they lie in different ones.
const PARTITIONS: usize = 4;
/// How long a producer may go on asking once it is told to stop, and how long the last reads may take.
pub const GRACE: Duration = Duration::from_secs(30);
/// So soon a topic that is there is known to every node that serves.
const KNOWN: Duration = Duration::from_secs(5);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(15);

/// Partition and offset.
type Place = (u32, u64);

/// What clients share.
struct Shared {
    start: Instant,
    /// [`GRACE`], or less where nobody doubts that something is lost.
    grace: Duration,
    /// No new records.
    stop: AtomicBool,
    /// When nobody asks again any more, nanoseconds; 0: not known yet.
    give_up: AtomicU64,
    /// Consumers may go home.
    over: AtomicBool,
    topic: String,
    addrs: Vec<String>,
    value: AtomicU64,
    /// Consumers and transactions so far.
    number: AtomicU64,
    seen: Mutex<Stream>,
    /// What the group, and the reader of everything, were given.
    given: [Mutex<BTreeSet<Place>>; 2],
    wrong: Mutex<Vec<String>>,
    counts: Counts,
    fails: Mutex<BTreeMap<String, u64>>,
    last: AtomicU64,
    pause: AtomicU64,
}

/// What happened how often.
#[derive(Default)]
struct Counts {
    acknowledged: AtomicU64,
    again: AtomicU64,
    committed: AtomicU64,
    aborted: AtomicU64,
    unknown: AtomicU64,
    given: AtomicU64,
    twice: AtomicU64,
    joins: AtomicU64,
    ends: AtomicU64,
}

/// Whose reads are counted where.
const GROUP: usize = 0;
const READER: usize = 1;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Nobody is to ask again any more.
    fn gave_up(&self) -> bool {
        let at = self.give_up.load(Ordering::Relaxed);
        at > 0 && self.now() > at
    }

    fn number(&self) -> u64 {
        self.number.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn wrong(&self, why: String) {
        let mut wrong = locked(&self.wrong);
        if wrong.len() < 20 {
            wrong.push(why);
        }
    }

    /// Counts what kept a client from going on.
    fn failed(&self, what: &str, why: &Fail) {
        let why = match why {
            Fail::Code(code) => format!("{what}: error {code}"),
            Fail::Lost(_) => format!("{what}: lost"),
        };
        *locked(&self.fails).entry(why).or_default() += 1;
    }

    fn acknowledged(&self, records: usize) {
        let now = self.now();
        let before = self.last.swap(now, Ordering::Relaxed);
        self.pause.fetch_max(now.saturating_sub(before), Ordering::Relaxed);
        self.counts.acknowledged.fetch_add(records as u64, Ordering::Relaxed);
    }

    /// Asks one node after the other, from a random one on, until one answers.
    fn anybody<T>(&self, rng: &mut Rng, mut what: impl FnMut(&mut Conn) -> Told<T>) -> Told<T> {
        let first = rng.below(self.addrs.len());
        let mut why = Fail::Lost("no node".into());
        for at in 0..self.addrs.len() {
            let addr = &self.addrs[(first + at) % self.addrs.len()];
            match Conn::open(addr).and_then(|mut conn| what(&mut conn)) {
                Ok(found) => return Ok(found),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// A connection to a partition's leader.
    fn leader(&self, rng: &mut Rng, partition: usize) -> Told<Conn> {
        let leaders = self.anybody(rng, |conn| conn.leaders(&self.topic))?;
        let leader = leaders.get(partition).cloned().flatten();
        Conn::open(&leader.ok_or_else(|| Fail::Lost("no leader".into()))?)
    }

    /// A connection to a coordinator.
    fn coordinator(&self, rng: &mut Rng, key: &str, of_transaction: bool) -> Told<Conn> {
        let addr = self.anybody(rng, |conn| conn.coordinator(key, of_transaction))?;
        Conn::open(&addr)
    }
}

/// The running clients.
pub struct Streams {
    shared: Arc<Shared>,
    producers: Vec<JoinHandle<Result<(), String>>>,
    consumers: Vec<JoinHandle<Result<(), String>>>,
}

/// What was found.
pub struct Verdict {
    /// A line about it.
    pub note: String,
    /// What kept clients from going on, and how often.
    pub fails: BTreeMap<String, u64>,
    /// What contradicts the promise; empty: nothing.
    pub wrong: Vec<String>,
}

impl Streams {
    /// Makes the topic and starts all clients. `addrs` are the Kafka doors of all places where nodes may be.
    pub fn start(
        ground: &Ground,
        addrs: Vec<String>,
        topic: &str,
        seed: u64,
        grace: Duration,
    ) -> Result<Streams, String> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            grace,
            stop: AtomicBool::new(false),
            give_up: AtomicU64::new(0),
            over: AtomicBool::new(false),
            topic: topic.to_owned(),
            addrs,
            value: AtomicU64::new(0),
            number: AtomicU64::new(0),
            seen: Mutex::default(),
            given: Default::default(),
            wrong: Mutex::default(),
            counts: Counts::default(),
            fails: Mutex::default(),
            last: AtomicU64::new(0),
            pause: AtomicU64::new(0),
        });
        ground.visit(|| {
            let (mut rng, start) = (Rng::new(seed), Instant::now());
            loop {
                let made = shared.anybody(&mut rng, |conn| conn.create(&shared.topic, PARTITIONS, 3));
                let made = made.and_then(|()| (0..PARTITIONS).try_for_each(|at| shared.leader(&mut rng, at).map(drop)));
                match made {
                    Ok(()) => return Ok(()),
                    Err(why) if start.elapsed() > GRACE => return Err(format!("the topic cannot be made: {why}")),
                    Err(_) => std::thread::sleep(AGAIN),
                }
            }
        })?;
        let mut streams = Streams { shared, producers: Vec::new(), consumers: Vec::new() };
        let jobs: [fn(&Shared, &mut Rng); 5] =
            [producers::idempotent, producers::transactional, consumers::member, consumers::member, consumers::reader];
        for (number, job) in jobs.into_iter().enumerate() {
            let (shared, pass) = (Arc::clone(&streams.shared), ground.pass()?);
            let mut rng = Rng::new(seed ^ (number as u64 + 1) << 40);
            let thread = std::thread::spawn(move || {
                pass.map_or(Ok(()), |pass| pass.enter())?;
                job(&shared, &mut rng);
                Ok(())
            });
            if number < 2 { streams.producers.push(thread) } else { streams.consumers.push(thread) }
        }
        Ok(streams)
    }

    /// Ends the producers, reads everything a last time, waits until consumers have it too, and judges.
    pub fn judge(mut self, ground: &Ground) -> Result<Verdict, String> {
        let shared = Arc::clone(&self.shared);
        shared.give_up.store(shared.now() + shared.grace.as_nanos() as u64, Ordering::Relaxed);
        shared.stop.store(true, Ordering::Relaxed);
        for thread in self.producers.drain(..) {
            thread.join().map_err(|_| "a producer panicked")??;
        }
        let last = ground.visit(|| Ok((shared.everything(true)?, shared.everything(false)?)));
        if let Ok((committed, all)) = &last {
            shared.await_readers(committed, all);
        }
        shared.over.store(true, Ordering::Relaxed);
        for thread in self.consumers.drain(..) {
            thread.join().map_err(|_| "a consumer panicked")??;
        }
        let mut wrong = std::mem::take(&mut *locked(&shared.wrong));
        wrong.extend(last.and_then(|(committed, all)| locked(&shared.seen).check(&committed, &all)).err());
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counts = &shared.counts;
        if count(&counts.acknowledged) == 0 || count(&counts.committed) == 0 || count(&counts.given) == 0 {
            wrong.push("no record was acknowledged, no transaction committed, or nothing consumed".into());
        }
        let note = format!(
            "streams: {} records acknowledged, none for {:.2} s at most, {} batches sent again; {} transactions committed, {} aborted, {} unknown; \
             the group was given {} records, {} of them twice, after {} joins and {} ends of members",
            count(&counts.acknowledged),
            count(&shared.pause) as f64 / 1e9,
            count(&counts.again),
            count(&counts.committed),
            count(&counts.aborted),
            count(&counts.unknown),
            count(&counts.given),
            count(&counts.twice),
            count(&counts.joins),
            count(&counts.ends),
        );
        let fails = std::mem::take(&mut *locked(&shared.fails));
        Ok(Verdict { note, fails, wrong: wrong.into_iter().map(|why| format!("{}: {why}", shared.topic)).collect() })
    }
}

impl Shared {
    /// All that the partitions hold, once no transaction is open.
    fn everything(&self, committed: bool) -> Result<Last, String> {
        let (mut rng, start) = (Rng::new(1), Instant::now());
        let mut last = Last::new();
        for partition in 0..PARTITIONS {
            let found: &mut Vec<(u64, u64)> = last.entry(partition as u32).or_default();
            let (mut next, mut conn) = (0, None);
            loop {
                let fetched = match &mut conn {
                    None => self.leader(&mut rng, partition).map(|open| {
                        conn = Some(open);
                        None
                    }),
                    Some(open) => open.fetch(&self.topic, partition, next, committed).map(Some),
                };
                match fetched {
                    Ok(None) => continue,
                    Ok(Some(fetched)) => {
                        let is_end = fetched.next >= fetched.high && fetched.stable >= fetched.high;
                        found.extend(fetched.records);
                        next = fetched.next;
                        if is_end {
                            break;
                        }
                        if start.elapsed() > self.grace {
                            let (high, stable) = (fetched.high, fetched.stable);
                            return Err(format!(
                                "partition {partition} is read up to {next}, decided up to {stable}, and ends at {high}"
                            ));
                        }
                    }
                    Err(why) => {
                        conn = None;
                        let unknown = matches!(why, Fail::Code(code::UNKNOWN_TOPIC_OR_PARTITION));
                        if unknown && start.elapsed() > KNOWN.min(self.grace) {
                            return Err("lost write: the topic is not known any more".into());
                        }
                        if start.elapsed() > self.grace {
                            return Err(format!("the last read of partition {partition}: {why}"));
                        }
                        std::thread::sleep(AGAIN);
                    }
                }
            }
        }
        Ok(last)
    }

    /// Waits until the group was given all that is committed and the reader all that is there; says what they were not given.
    fn await_readers(&self, committed: &Last, all: &Last) {
        let start = Instant::now();
        for (who, name, wanted) in [(GROUP, "the group", committed), (READER, "the reader", all)] {
            let places: BTreeSet<Place> = wanted
                .iter()
                .flat_map(|(partition, records)| records.iter().map(|(offset, _)| (*partition, *offset)))
                .collect();
            loop {
                let missing: Vec<Place> = places.difference(&locked(&self.given[who])).take(3).copied().collect();
                if missing.is_empty() {
                    break;
                }
                if start.elapsed() > self.grace {
                    self.wrong(format!(
                        "poll skip: {name} was not given {missing:?} within {} s",
                        self.grace.as_secs()
                    ));
                    break;
                }
                std::thread::sleep(AGAIN);
            }
        }
    }
}

//! Clients that append to lists and read them through every node, and what they saw.
//!
//! Every value is new. An answer counts as what it says: a number is an acknowledgement, an error reply is the promise that nothing was done, and
//! a connection that broke or did not answer leaves the outcome open for ever. `history` judges each list; a pair of lists is only ever
//! written and read as one (MULTI), so both must be alike whenever a transaction looks at them.

use crate::ground::Ground;
use crate::resp::{Conn, Value};
use crate::rng::Rng;
use history::{List, Outcome};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a client waits for an answer before it gives up and leaves the outcome open.
pub const PATIENCE: Duration = Duration::from_secs(4);
/// How long a connection may take to stand.
const DIAL: Duration = Duration::from_secs(1);
/// How long the last read of a list may take.
const LAST_READ: Duration = Duration::from_secs(20);
/// Lists that are written at once; half of them are pairs.
const LANES: usize = 8;
/// Appends begun on a list before its lane goes on with a new one, so that reads stay short.
const LENGTH: u64 = 150;

/// What is known of one row's operations.
#[derive(Default)]
struct Seen {
    lists: BTreeMap<String, List>,
    /// Transactions that saw half of another, and answers of an impossible shape.
    wrong: Vec<String>,
    took: Vec<Duration>,
}

/// Counts of one row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Answered as asked.
    pub done: u64,
    /// Refused by an error reply.
    pub refused: u64,
    /// Never answered.
    pub unknown: u64,
}

struct Shared {
    start: Instant,
    stop: AtomicBool,
    value: AtomicU64,
    prefix: String,
    begun: [AtomicU64; LANES],
    seen: Mutex<Seen>,
    counts: [AtomicU64; 3],
    /// Refused at one node, and again at the next.
    again: AtomicU64,
    writes: AtomicU64,
    /// When a write was last acknowledged, and the longest time without one, in nanoseconds.
    last: AtomicU64,
    pause: AtomicU64,
    refusals: Mutex<BTreeMap<String, u64>>,
    addrs: Vec<String>,
}

/// The running clients.
pub struct Workload {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Result<(), String>>>,
}

/// What a row's clients found.
pub struct Verdict {
    /// Operations by how they ended.
    pub counts: Counts,
    /// Those refused that were refused once more when they were asked again, of another node.
    pub again: u64,
    /// The longest time without an acknowledged write.
    pub pause: Duration,
    /// The latency that one of a hundred acknowledged operations exceeds.
    pub p99: Duration,
    /// What contradicts the promise; empty: nothing.
    pub wrong: Vec<String>,
    /// Texts of refusals, and how often.
    pub refusals: BTreeMap<String, u64>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The values of a list as it was read.
fn values(reply: &Value) -> Option<Vec<u64>> {
    reply.items()?.iter().map(|item| item.text()?.parse().ok()).collect()
}

impl Shared {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// The lane's list of now; `writes` counts this as an append.
    fn list(&self, lane: usize, writes: bool) -> String {
        let begun = self.begun[lane].fetch_add(u64::from(writes), Ordering::Relaxed);
        format!("{}:{{{lane}.{}}}", self.prefix, begun / LENGTH)
    }

    fn acknowledged(&self, begun: u64) {
        let now = self.now();
        let before = self.last.swap(now, Ordering::Relaxed);
        self.pause.fetch_max(now.saturating_sub(before), Ordering::Relaxed);
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.counts[0].fetch_add(1, Ordering::Relaxed);
        locked(&self.seen).took.push(Duration::from_nanos(now - begun));
    }

    fn refused(&self, text: &[u8]) {
        self.counts[1].fetch_add(1, Ordering::Relaxed);
        let text: String = String::from_utf8_lossy(text).chars().take(100).collect();
        let mut refusals = locked(&self.refusals);
        if refusals.len() < 50 || refusals.contains_key(&text) {
            *refusals.entry(text).or_default() += 1;
        }
    }

    fn wrong(&self, what: String) {
        let mut seen = locked(&self.seen);
        if seen.wrong.len() < 20 {
            seen.wrong.push(what);
        }
    }

    /// One append to one list; whether it was refused. The error: the connection is of no use any more.
    fn append(&self, conn: &mut Conn, lane: usize) -> std::io::Result<bool> {
        let (name, value) = (self.list(lane, true), self.value.fetch_add(1, Ordering::Relaxed));
        let begun = self.now();
        let at = locked(&self.seen).lists.entry(name.clone()).or_default().begin(value, begun);
        let reply = conn.call(&["RPUSH", &name, &value.to_string()]);
        let outcome = match &reply {
            Ok(Value::Int(length)) => Outcome::Done(self.now(), *length as u64),
            Ok(Value::Error(_)) => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        if let Some(list) = locked(&self.seen).lists.get_mut(&name) {
            list.end(at, outcome);
        }
        self.ended(reply, begun, true, |value| matches!(value, Value::Int(_)))
    }

    fn read(&self, conn: &mut Conn, lane: usize) -> std::io::Result<bool> {
        let name = self.list(lane, false);
        let begun = self.now();
        let reply = conn.call(&["LRANGE", &name, "0", "-1"]);
        if let Some(found) = reply.as_ref().ok().and_then(values) {
            let now = self.now();
            locked(&self.seen).lists.entry(name).or_default().read(found, begun, now);
        }
        self.ended(reply, begun, false, |value| values(value).is_some())
    }

    /// A transaction that appends to both lists of a pair and reads both, or only reads.
    fn both(&self, conn: &mut Conn, lane: usize, writes: bool) -> std::io::Result<bool> {
        let name = self.list(lane, writes);
        let names = [format!("{name}a"), format!("{name}b")];
        let value = self.value.fetch_add(1, Ordering::Relaxed);
        let begun = self.now();
        let mut at = [0; 2];
        let mut out = Vec::new();
        crate::resp::encode(&mut out, &["MULTI"]);
        if writes {
            let mut seen = locked(&self.seen);
            for (name, at) in names.iter().zip(&mut at) {
                *at = seen.lists.entry(name.clone()).or_default().begin(value, begun);
                crate::resp::encode(&mut out, &["RPUSH", name, &value.to_string()]);
            }
        }
        for name in &names {
            crate::resp::encode(&mut out, &["LRANGE", name, "0", "-1"]);
        }
        crate::resp::encode(&mut out, &["EXEC"]);
        let commands = if writes { 4 } else { 2 };
        let mut refusal = None;
        let reply = conn.send_raw(&out).and_then(|()| {
            for _ in 0..=commands {
                if let Value::Error(text) = conn.read()? {
                    refusal = Some(text);
                }
            }
            conn.read()
        });
        let now = self.now();
        let answers = reply.as_ref().ok().and_then(Value::items).filter(|answers| answers.len() == commands);
        // An error inside an EXEC that ran is an answer too: that command did nothing, whatever the others did.
        let failed = answers.is_some_and(|answers| answers.iter().any(|answer| answer.error().is_some()));
        {
            let mut seen = locked(&self.seen);
            let lengths: Vec<Option<u64>> = (0..2)
                .map(|which| match answers?.get(which)? {
                    Value::Int(length) if writes => Some(*length as u64),
                    _ => None,
                })
                .collect();
            for (which, name) in names.iter().enumerate() {
                let Some(list) = seen.lists.get_mut(name) else { continue };
                if !writes {
                    continue;
                }
                let outcome = match (&reply, lengths[which]) {
                    (Ok(Value::Array(_)), Some(length)) => Outcome::Done(now, length),
                    (Ok(Value::Error(_) | Value::NullArray | Value::Null), _) => Outcome::Refused,
                    (Ok(Value::Array(_)), None) => Outcome::Refused,
                    _ => Outcome::Unknown,
                };
                list.end(at[which], outcome);
            }
            let lists: Option<Vec<Vec<u64>>> =
                answers.and_then(|answers| answers[commands - 2..].iter().map(values).collect());
            if let Some(lists) = lists {
                for (name, list) in names.iter().zip(&lists) {
                    seen.lists.entry(name.clone()).or_default().read(list.clone(), begun, now);
                }
                if lists[0] != lists[1] && seen.wrong.len() < 20 {
                    seen.wrong
                        .push(format!("half a transaction was seen: {name}a {:?}, {name}b {:?}", lists[0], lists[1]));
                }
            }
        }
        if failed {
            self.wrong(format!("a command failed inside EXEC: {reply:?}"));
        }
        if let (Some(text), Ok(Value::Error(_))) = (&refusal, &reply) {
            // EXECABORT says little; the command's own refusal says why.
            self.refused(text);
            return Ok(true);
        }
        self.ended(reply, begun, writes, |value| value.items().is_some())
    }

    /// Counts how an operation ended; whether it was refused. `fine` knows the shape of its answer.
    fn ended(
        &self,
        reply: std::io::Result<Value>,
        begun: u64,
        write: bool,
        fine: impl Fn(&Value) -> bool,
    ) -> std::io::Result<bool> {
        match reply {
            Ok(Value::Error(text)) => {
                self.refused(&text);
                return Ok(true);
            }
            Ok(value) if fine(&value) => {
                if write {
                    self.acknowledged(begun);
                } else {
                    self.counts[0].fetch_add(1, Ordering::Relaxed);
                    let took = Duration::from_nanos(self.now() - begun);
                    locked(&self.seen).took.push(took);
                }
            }
            Ok(value) => self.wrong(format!("an answer of no possible kind: {value}")),
            Err(error) => {
                self.counts[2].fetch_add(1, Ordering::Relaxed);
                let how = match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => "(no answer in time)",
                    _ => "(connection lost)",
                };
                *locked(&self.refusals).entry(how.to_owned()).or_default() += 1;
                return Err(error);
            }
        }
        Ok(false)
    }

    fn client(&self, number: usize, seed: u64) {
        let mut rng = Rng::new(seed ^ (number as u64) << 32);
        let mut node = number;
        let mut conn: Option<Conn> = None;
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_micros(500 + rng.next() % 5000));
            if conn.is_none() || rng.percent(1) {
                // Another node each time: whoever does not answer is not asked again and again.
                node = (node + 1) % self.addrs.len();
                conn = Conn::open_with(&self.addrs[node], DIAL, PATIENCE).ok();
            }
            let Some(open) = &mut conn else { continue };
            let lane = rng.below(LANES);
            let writes = rng.percent(55);
            let play = |conn: &mut Conn| match (lane % 2, writes) {
                (0, true) => self.append(conn, lane),
                (0, false) => self.read(conn, lane),
                (_, writes) => self.both(conn, lane, writes),
            };
            match play(open) {
                Ok(false) => {}
                // As clients do: once more, at another node.
                Ok(true) => {
                    node = (node + 1) % self.addrs.len();
                    conn = Conn::open_with(&self.addrs[node], DIAL, PATIENCE).ok();
                    match conn.as_mut().map(play) {
                        Some(Ok(is_refused)) => self.again.fetch_add(u64::from(is_refused), Ordering::Relaxed),
                        Some(Err(_)) => {
                            conn = None;
                            0
                        }
                        None => 0,
                    };
                }
                Err(_) => conn = None,
            }
        }
    }
}

impl Workload {
    /// Starts so many clients. Keys begin with `prefix`, so that rows do not see each other's.
    pub fn start(
        ground: &Ground,
        addrs: &[String],
        clients: usize,
        prefix: &str,
        seed: u64,
    ) -> Result<Workload, String> {
        let shared = Arc::new(Shared {
            start: Instant::now(),
            stop: AtomicBool::new(false),
            value: AtomicU64::new(1),
            prefix: prefix.to_owned(),
            begun: Default::default(),
            seen: Mutex::default(),
            counts: Default::default(),
            again: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            last: AtomicU64::new(0),
            pause: AtomicU64::new(0),
            refusals: Mutex::default(),
            addrs: addrs.to_vec(),
        });
        let mut threads = Vec::new();
        for number in 0..clients {
            let (shared, pass) = (Arc::clone(&shared), ground.pass()?);
            threads.push(std::thread::spawn(move || {
                pass.map_or(Ok(()), |pass| pass.enter())?;
                shared.client(number, seed);
                Ok(())
            }));
        }
        Ok(Workload { shared, threads })
    }

    /// Writes acknowledged up to now.
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }

    /// How long ago a write was last acknowledged.
    pub fn since_write(&self) -> Duration {
        Duration::from_nanos(self.shared.now().saturating_sub(self.shared.last.load(Ordering::Relaxed)))
    }

    /// Ends the clients, reads every list a last time through `reader`, and judges.
    pub fn judge(self, mut readers: Vec<Conn>) -> Result<Verdict, String> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().map_err(|_| "a client panicked")??;
        }
        let shared = self.shared;
        let mut seen = std::mem::take(&mut *locked(&shared.seen));
        let names: Vec<String> = seen.lists.keys().cloned().collect();
        for name in names {
            // Whoever cannot say at the moment is asked again, for a while.
            let (found, begun) = 'read: {
                let mut why = String::from("nobody is there to be asked");
                let start = Instant::now();
                while start.elapsed() < LAST_READ {
                    for reader in &mut readers {
                        let begun = shared.now();
                        match reader.call(&["LRANGE", &name, "0", "-1"]) {
                            Ok(reply) => match values(&reply) {
                                Some(found) => break 'read (found, begun),
                                None => why = reply.to_string(),
                            },
                            Err(error) => why = error.to_string(),
                        }
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                return Err(format!("the last read of {name}: {why}"));
            };
            if let Some(list) = seen.lists.get_mut(&name) {
                list.read(found, begun, shared.now());
            }
        }
        let mut wrong = std::mem::take(&mut seen.wrong);
        for (name, list) in &seen.lists {
            wrong.extend(list.check().err().map(|why| format!("{name}: {why}")));
        }
        let count = |at: usize| shared.counts[at].load(Ordering::Relaxed);
        let [_, p99, _] = crate::bench::latencies(&mut seen.took);
        let refusals = locked(&shared.refusals).clone();
        Ok(Verdict {
            counts: Counts { done: count(0), refused: count(1), unknown: count(2) },
            again: shared.again.load(Ordering::Relaxed),
            pause: Duration::from_nanos(shared.pause.load(Ordering::Relaxed)),
            p99: Duration::from_secs_f64(p99 / 1000.0),
            wrong,
            refusals,
        })
    }
}

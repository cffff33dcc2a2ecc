//! Commits across shards, for this door's clients and for the shards that this node leads: drives [`shard::commit`]'s machines
//! over the ways that any unit takes, here or to other nodes.
//!
//! ```text
//!   session ─ begin ─► job: a Coordinator ─ units ─► a line of requests for each group (a peer of its own) ─► place or forward
//!   mailbox ◄─ answer ─┘        ▲ answers ─────────── the peers' mailboxes
//!   tick ──► overdue transactions of shards that are led here ─► job: a Recovery
//! ```
//!
//! **Invariant:** a job's lock is the outermost; nothing is asked of the table or of a job under a shard's lock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Wake, Waker};

use base::{Duration, GroupId, Instant, Limit, Rng};
use parking_lot::Mutex;
use shard::commit::{Act, Age, Answer, Body, Coordinator, Due, Heard, Plan, Recovery};
use shard::entry::Watch;
use store::codec::{Corrupt, Input};

use super::door::{Client, Door};
use super::forward::{FORWARD_WAIT, Placed};
use super::peer::{GUESTS, Peer};

/// Numbers of a job's lines, among those of other clients. Nobody's number is larger but guests' and other doors'.
pub(super) const NUMBERS: u64 = GUESTS >> 2;
/// How often overdue transactions are looked for, and how many of a shard at a time.
const LOOK_EVERY: Duration = Duration::from_millis(250);
const LOOK_COUNT: usize = 32;

/// What a transaction needs.
pub(super) struct Wish {
    /// What is to be run.
    pub(super) body: Body,
    /// Its keys, each once.
    pub(super) keys: Vec<Vec<u8>>,
    /// Keys that must not have changed.
    pub(super) watches: Vec<Watch>,
    /// The shard that must be its home: work on a topic is done there.
    pub(super) home: Option<usize>,
}

/// Lines that have got something.
#[derive(Debug, Default)]
struct Ready {
    list: Mutex<Vec<(u64, GroupId)>>,
    any: AtomicBool,
}

struct Bell {
    ready: Arc<Ready>,
    place: (u64, GroupId),
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.ready.list.lock().push(self.place);
        self.ready.any.store(true, Ordering::Release);
    }
}

/// Requests to one group: their answers come in order.
struct Line {
    peer: Client,
    waker: Waker,
    /// It has been sent to another node.
    away: bool,
    /// What has come, and how many answers end in it.
    bytes: Vec<u8>,
    count: u64,
}

enum Machine {
    Door { own: Box<Coordinator>, keys: Vec<Vec<u8>>, watches: Vec<Watch>, home: Option<usize>, client: Client },
    Leader(Recovery),
}

struct Job {
    id: u64,
    machine: Machine,
    lines: BTreeMap<GroupId, Line>,
    since: Instant,
    again: Option<Instant>,
    hurried: bool,
    over: bool,
}

/// All that are under way.
#[derive(Default)]
pub(super) struct Commits {
    jobs: Mutex<BTreeMap<u64, Arc<Mutex<Job>>>>,
    ready: Arc<Ready>,
    next: AtomicU64,
    incarnation: OnceLock<u64>,
    looked: AtomicU64,
}

impl Commits {
    #[inline]
    fn has_ready(&self) -> bool {
        self.ready.any.load(Ordering::Acquire)
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn job(&self, id: u64) -> Option<Arc<Mutex<Job>>> {
        self.jobs.lock().get(&id).cloned()
    }

    fn put(&self, job: Job) -> Arc<Mutex<Job>> {
        let (id, job) = (job.id, Arc::new(Mutex::new(job)));
        self.jobs.lock().insert(id, job.clone());
        job
    }
}

impl Job {
    fn new(id: u64, machine: Machine, since: Instant) -> Job {
        Job { id, machine, lines: BTreeMap::new(), since, again: None, hurried: false, over: false }
    }

    /// Does what is to be done, and what follows from that at once.
    fn obey(&mut self, door: &Door, acts: Vec<Act>, wakers: &mut Vec<Waker>) {
        let mut left: VecDeque<Act> = acts.into();
        let (mut sent, mut at_once) = (false, false);
        while let Some(act) = left.pop_front() {
            match act {
                Act::Ask { group, unit } => {
                    sent = true;
                    self.ask(door, group, unit, wakers);
                }
                Act::Answer(bytes) => {
                    if let Machine::Door { client, .. } = &self.machine {
                        wakers.extend(client.answer(&bytes));
                    }
                }
                Act::Doom => {
                    if let Machine::Door { client, .. } = &self.machine {
                        client.doom();
                    }
                }
                Act::Again(0) => at_once = true,
                Act::Again(after) => {
                    self.again = Some(door.world.now() + Duration::from_millis(after));
                }
                Act::Over => self.over = true,
            }
        }
        if sent {
            door.forward_flush();
        }
        if at_once {
            return self.attempt(door, wakers);
        }
        if self.over {
            for (_, line) in std::mem::take(&mut self.lines) {
                line.peer.close();
                if line.away {
                    door.forward_left(line.peer.id);
                }
            }
            door.commits.jobs.lock().remove(&self.id);
        }
    }

    fn ask(&mut self, door: &Door, group: GroupId, unit: Vec<u8>, wakers: &mut Vec<Waker>) {
        let now = door.world.now();
        let (id, ready) = (self.id, door.commits.ready.clone());
        let line = self.lines.entry(group).or_insert_with(|| {
            let number = NUMBERS | door.commits.number();
            let peer = Arc::new(Peer::new(number, String::new(), String::new(), now, usize::MAX));
            let waker = Waker::from(Arc::new(Bell { ready, place: (id, group) }));
            peer.listen(&waker);
            Line { peer, waker, away: false, bytes: Vec::new(), count: 0 }
        });
        let elsewhere = line.away || door.shard_of_group(group).is_none_or(|shard| shard.is_led_elsewhere());
        if !elsewhere {
            let mut rng = Rng::new(now.0);
            match door.place_unit(group, &line.peer, &unit, false, now, &mut rng) {
                Placed::Queued(wake) => {
                    if wake {
                        door.world.wake_driver();
                    }
                    return;
                }
                Placed::Answered(bytes) => return wakers.extend(line.peer.answer(&bytes)),
                Placed::Elsewhere(_) => {}
            }
        }
        line.away = true;
        // What has been begun is not given up for a queue that is full.
        if let Err(error) = door.forward_unit(&line.peer, group, unit, true, now) {
            wakers.extend(line.peer.answer(format!("-{}\r\n", error.0).as_bytes()));
        }
    }

    /// Takes what has come from a group.
    fn collect(&mut self, door: &Door, group: GroupId, wakers: &mut Vec<Waker>) {
        loop {
            let Some(line) = self.lines.get_mut(&group) else { return };
            line.count += line.peer.collect(&mut line.bytes);
            let mut acts = Vec::new();
            if line.count > 0 {
                let taken = answer_of(&line.bytes);
                line.count -= 1;
                let bytes: Vec<u8> = line.bytes.drain(..taken).collect();
                self.hear(group, Heard::Answer(&bytes), &mut acts);
            } else if line.peer.is_doomed() {
                if let Some(line) = self.lines.remove(&group) {
                    line.peer.close();
                    if line.away {
                        door.forward_left(line.peer.id);
                    }
                }
                self.hear(group, Heard::Unknown, &mut acts);
            } else if !line.peer.listen(&line.waker) {
                return;
            } else {
                continue;
            }
            self.obey(door, acts, wakers);
        }
    }

    fn hear(&mut self, group: GroupId, heard: Heard<'_>, acts: &mut Vec<Act>) {
        match &mut self.machine {
            Machine::Door { own, .. } => own.heard(group, heard, acts),
            Machine::Leader(own) => own.heard(group, heard, acts),
        }
    }

    fn attempt(&mut self, door: &Door, wakers: &mut Vec<Waker>) {
        let mut acts = Vec::new();
        self.again = None;
        if let Machine::Door { own, keys, watches, home, .. } = &mut self.machine {
            let mut plan = Plan::of(keys, watches, |key| door.shards[door.shard_of(key)].group);
            if let Some(home) = *home {
                plan.home = door.shards[home].group;
            }
            own.begin(plan, door.commits.number(), door.world.wall_micros() / 1000, &mut acts);
        }
        self.obey(door, acts, wakers);
    }
}

/// How long the first of several answers is.
fn answer_of(bytes: &[u8]) -> usize {
    if bytes.first() == Some(&b'-') {
        return bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1);
    }
    let mut input = Input::new(bytes);
    let read: Result<Answer, Corrupt> = Answer::take(&mut input);
    read.map_or(bytes.len(), |_| bytes.len() - input.len())
}

impl Door {
    /// Begins a transaction over several shards. The client is answered once, or disconnected.
    pub(super) fn commit(&self, client: &Client, wish: Wish) {
        let commits = &self.commits;
        let id = commits.number();
        let at = self.world.wall_micros();
        let incarnation = *commits.incarnation.get_or_init(|| at);
        let age = Age { at, origin: self.forward.node().0, number: id };
        let own = Box::new(Coordinator::new(wish.body, age, incarnation));
        let Wish { keys, watches, home, .. } = wish;
        let machine = Machine::Door { own, keys, watches, home, client: client.clone() };
        let job = commits.put(Job::new(id, machine, self.world.now()));
        let mut wakers = Vec::new();
        job.lock().attempt(self, &mut wakers);
        wakers.into_iter().for_each(Waker::wake);
        self.pump_commits();
    }

    /// How many transactions over several shards are under way at this door, those included that it finishes for others.
    pub fn commits_under_way(&self) -> usize {
        self.commits.jobs.lock().len()
    }

    /// Takes what has come for transactions.
    #[inline]
    pub(super) fn pump_commits(&self) {
        if self.commits.has_ready() {
            self.pump_ready();
        }
    }

    fn pump_ready(&self) {
        let ready = &self.commits.ready;
        while ready.any.swap(false, Ordering::AcqRel) {
            let list = std::mem::take(&mut *ready.list.lock());
            let mut wakers = Vec::new();
            for (id, group) in list {
                if let Some(job) = self.commits.job(id) {
                    job.lock().collect(self, group, &mut wakers);
                }
            }
            wakers.into_iter().for_each(Waker::wake);
        }
    }

    /// Begins again what has paused, hurries what is late, and looks for transactions that nobody finishes.
    pub(super) fn tick_commits(&self) {
        let now = self.world.now();
        let jobs: Vec<_> = self.commits.jobs.lock().values().cloned().collect();
        let mut wakers = Vec::new();
        let mut known = Vec::new();
        for job in jobs {
            let mut job = job.lock();
            let is_late = now.since(job.since) >= FORWARD_WAIT && !job.hurried;
            match &mut job.machine {
                Machine::Leader(own) => known.push((own.own(), own.tx())),
                Machine::Door { own, .. } if is_late && !own.is_answered() => {
                    let mut acts = Vec::new();
                    own.hurry(&mut acts);
                    job.hurried = true;
                    self.limits.hit(Limit::commit_wait);
                    job.obey(self, acts, &mut wakers);
                }
                Machine::Door { .. } => {}
            }
            if !job.over && job.again.is_some_and(|at| at <= now) {
                job.attempt(self, &mut wakers);
            }
        }
        let looked = self.commits.looked.load(Ordering::Relaxed);
        if now.0.saturating_sub(looked) >= LOOK_EVERY.as_nanos() as u64 || looked == 0 {
            self.commits.looked.store(now.0.max(1), Ordering::Relaxed);
            self.recover(now, &known, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
        self.pump_commits();
    }

    /// For the shards that this node leads.
    fn recover(&self, now: Instant, known: &[(GroupId, shard::commit::TxId)], wakers: &mut Vec<Waker>) {
        for shard in self.shards.iter() {
            if shard.refusal(true).is_some() || shard.state().commits().is_still() {
                continue;
            }
            let due = shard.state().commits().overdue(shard.now(now), LOOK_COUNT);
            for due in due {
                let (Due::Prepared { tx, .. } | Due::Decided { tx, .. }) = &due;
                if known.contains(&(shard.group, *tx)) {
                    continue;
                }
                let mut acts = Vec::new();
                let machine = Machine::Leader(Recovery::begin(shard.group, due, &mut acts));
                let job = self.commits.put(Job::new(self.commits.number(), machine, now));
                job.lock().obey(self, acts, wakers);
            }
        }
    }
}

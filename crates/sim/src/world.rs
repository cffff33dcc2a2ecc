//! Lives of one node: work, a fault, a crash, the way back, and after each the question whether all is there.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use base::{Duration, GroupId, Instant, NodeId, Rng};
use consensus::EntryKind;
use shard::driver::Append;
use shard::live::Refusal;
use shard::open::{OpenError, OpenOptions, Planted};
use store::disk::Disk;
use store::keyspace::{Durability, Eviction, Keyspace, Keyspaces};
use store::log::LogOptions;

use crate::cache::{Cache, PREFIX};
use crate::clients::{Clients, Door, panics};
use crate::disk::{Keep, Operation, VirtualDisk};
use crate::node::{Actor, Node, Step, Watch};
use crate::oracle::{Oracle, contents};

/// What is broken on purpose.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bugs {
    /// In consensus and in the shards.
    pub node: Planted,
    /// In who moves slots.
    pub mover: shard::mover::Planted,
    /// In a door that drives a commit over shards.
    pub door: shard::commit::Planted,
    /// In the log.
    pub log: store::log::Planted,
    /// In the writing of snapshots.
    pub snapshot_dir_not_synced: bool,
    /// In a cluster: a node that has lost its disk comes back under its old name.
    pub wiped_disk: bool,
    /// In a cluster: nodes measure time by their wall clocks.
    pub wall_clocks: bool,
}

/// How a seed is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How often the node dies.
    pub lives: usize,
    /// Steps of work in a life.
    pub ticks: usize,
    /// See [`Bugs`].
    pub bugs: Bugs,
}

impl Default for Options {
    fn default() -> Options {
        Options { lives: 6, ticks: 500, bugs: Bugs::default() }
    }
}

/// What a seed came to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Report {
    /// Lives that ended.
    pub lives: u64,
    /// Requests sent, answered, refused, of unknown outcome.
    pub clients: crate::clients::Figures,
    /// Commands on keys in memory only, and keys that had gone for room.
    pub cache: (u64, u64),
    /// Log entries written, those of lives whose end was cut counted once.
    pub entries: u64,
    /// Snapshots made durable.
    pub snapshots: u64,
    /// Disk operations, each a place where a crash may strike.
    pub operations: u64,
    /// A log that stopped because the disk failed.
    pub stops: u64,
    /// Episodes of a full disk.
    pub full: u64,
    /// Crashes while the node was on its way back.
    pub crashed_starts: u64,
    /// Starts tried on spoiled bytes.
    pub spoiled: u64,
    /// A checksum over the disk at each life's end and all answers.
    pub digest: u64,
}

impl Report {
    /// Adds another one's figures.
    pub fn add(&mut self, other: &Report) {
        self.lives += other.lives;
        self.clients.requests += other.clients.requests;
        self.clients.answered += other.clients.answered;
        self.clients.refused += other.clients.refused;
        self.clients.unknown += other.clients.unknown;
        self.cache = (self.cache.0 + other.cache.0, self.cache.1 + other.cache.1);
        self.entries += other.entries;
        self.snapshots += other.snapshots;
        self.operations += other.operations;
        self.stops += other.stops;
        self.full += other.full;
        self.crashed_starts += other.crashed_starts;
        self.spoiled += other.spoiled;
        self.digest = self.digest.rotate_left(1) ^ other.digest;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { clients, .. } = self;
        write!(
            f,
            "{} lives, {} requests ({} answered, {} refused, {} unknown), {} on caches ({} evicted), {} entries, {} snapshots, {} disk operations, {} stopped logs, {} full disks, {} crashed starts, {} starts on spoiled bytes",
            self.lives,
            clients.requests,
            clients.answered,
            clients.refused,
            clients.unknown,
            self.cache.0,
            self.cache.1,
            self.entries,
            self.snapshots,
            self.operations,
            self.stops,
            self.full,
            self.crashed_starts,
            self.spoiled
        )
    }
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// By which seed.
    pub seed: u64,
    /// In which life, from 0.
    pub life: usize,
    /// After how many steps of it.
    pub tick: usize,
    /// What.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}, life {}, step {}: {}\nagain: cargo run -p sim -- --seeds {}..{}",
            self.seed,
            self.life,
            self.tick,
            self.what,
            self.seed,
            self.seed + 1
        )
    }
}

/// How a life ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Power cut during this disk operation, counted from the life's begin.
    CrashAt(u64),
    /// Power cut so many operations after so many renames.
    AfterRename(u64, u64),
    /// Power cut between two steps.
    Crash,
    /// The process dies, the machine stays up.
    Kill,
    /// A clean stop.
    Seal,
}

/// Settings that nobody's keys fall under; with `memory` there are both classes.
fn draw_keyspaces(rng: &mut Rng) -> Keyspaces {
    let durability = if rng.chance(1, 2) { Durability::Memory } else { Durability::Fsync };
    let number = rng.below(1 << 20);
    let (max_bytes, eviction) = match (durability, number % 4) {
        (Durability::Fsync, _) => (number, Eviction::Refuse),
        (Durability::Memory, 0) => (0, Eviction::Refuse),
        // A few of the cache's keys fit.
        (Durability::Memory, 1) => (2000 + number % 4000, Eviction::Refuse),
        (Durability::Memory, _) => (2000 + number % 4000, Eviction::Lru),
    };
    let memory = Keyspace { prefix: PREFIX.into(), durability, max_bytes, eviction, default_expiry: 0 };
    Keyspaces::new(vec![memory]).expect("one setting cannot clash")
}

/// One seed.
pub struct World {
    seed: u64,
    options: Options,
    open: OpenOptions,
    rng: Rng,
    now: Instant,
    wall_offset: u64,
    disk: VirtualDisk,
    oracle: Oracle,
    clients: Clients,
    cache: Cache,
    report: Report,
    life: usize,
    tick: usize,
    /// The last life ended by a clean stop.
    sealed: bool,
}

struct Watching<'a> {
    oracle: &'a mut Oracle,
    clients: &'a mut Clients,
}

impl Watch for Watching<'_> {
    fn append(&mut self, append: &Append) -> Result<(), String> {
        self.oracle.append(append)
    }
    fn durable(&mut self) {
        self.oracle.durable();
    }
    fn step(&mut self, step: Step) -> Result<(), String> {
        let (mut outcomes, served) = self.clients.take(&step.answers)?;
        self.oracle.step(&step.applied, &mut outcomes, &served)
    }
}

const BALLAST: u64 = 24 << 10;

/// Runs a seed: the same bytes and answers each time.
///
/// # Errors
/// A promise that was broken.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, options);
    let done = guarded(|| world.lives());
    world.finish(done)
}

/// Runs a fixed workload from an empty disk, with a power cut at that disk operation, and the way back; `tear` draws what
/// the disk keeps. Without a place, how many operations there are.
///
/// # Errors
/// A promise that was broken.
pub fn crash_at(
    seed: u64,
    ticks: usize,
    place: Option<(u64, u64)>,
    bugs: Bugs,
) -> Result<Vec<Operation>, Box<Failure>> {
    let options = Options { lives: 1, ticks, bugs };
    let mut world = World::new(seed, &options);
    world.disk.trace();
    let done = guarded(|| world.enumerated(place));
    let operations = world.disk.take_trace();
    world.finish(done).map(|_| operations)
}

/// A panic anywhere in the product is a failure like others: the seed must be told.
pub(crate) fn guarded(work: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without a text")))
    })
}

impl World {
    fn new(seed: u64, options: &Options) -> World {
        let mut rng = Rng::new(seed);
        let shards = 1 + rng.index(3);
        let log = LogOptions {
            segment_bytes: 8192 << rng.below(3),
            log_id: rng.next_u64(),
            planted: options.bugs.log,
            ..LogOptions::default()
        };
        let mut open = OpenOptions::new(NodeId(1), shards, log);
        open.snapshot_log_bytes = 600 << rng.below(5);
        open.snapshot_chunk_bytes = 1 << (4 + rng.below(9));
        open.limits.entry_bytes_max = 200 << rng.below(6);
        open.planted = options.bugs.node;
        open.planted.slots_ignored = true;
        let oracle = Oracle::new(shards + 1, &open.limits, options.bugs.node.state);
        let clients = Clients::new(3 + rng.index(6), shards);
        World {
            seed,
            options: *options,
            open,
            rng,
            now: Instant(1_000_000_000),
            wall_offset: 1_700_000_000_000,
            disk: VirtualDisk::new(),
            oracle,
            clients,
            cache: Cache::new(seed),
            report: Report::default(),
            life: 0,
            tick: 0,
            sealed: false,
        }
    }

    fn finish(mut self, done: Result<(), String>) -> Result<Report, Box<Failure>> {
        self.report.clients = self.clients.figures;
        self.report.cache = self.cache.figures;
        self.report.entries = self.oracle.entries() as u64;
        self.report.operations = self.disk.operations();
        self.report.digest ^= self.clients.digest;
        match done {
            Ok(()) => Ok(self.report),
            Err(what) => Err(Box::new(Failure { seed: self.seed, life: self.life, tick: self.tick, what })),
        }
    }

    fn wall(&self) -> u64 {
        self.wall_offset + self.now.0 / 1_000_000
    }

    fn lives(&mut self) -> Result<(), String> {
        let mut node = self.start()?;
        for life in 0..self.options.lives {
            (self.life, self.tick) = (life, 0);
            let end = self.draw_end();
            self.work(&mut node, end)?;
            self.end(node, end)?;
            node = self.start()?;
        }
        // At the end everything that was asked is answered, and the last state is what the replay says.
        self.settle(&mut node, true)
    }

    fn enumerated(&mut self, place: Option<(u64, u64)>) -> Result<(), String> {
        if let Some((operation, _)) = place {
            self.disk.crash_at(operation);
        }
        let node = match self.open() {
            Ok(mut node) => {
                let begun = self.settle(&mut node, false);
                if self.disk.is_crashed() {
                    None
                } else {
                    begun?;
                    self.work(&mut node, End::Crash)?;
                    Some(node)
                }
            }
            Err(error) if !self.disk.is_crashed() => return Err(format!("the node does not start: {error}")),
            Err(_) => None,
        };
        let Some((_, tear)) = place else {
            return Ok(());
        };
        drop(node);
        self.clients.crash();
        self.disk = self.disk.crash(&mut Rng::new(tear), Keep::Any);
        let mut node = self.start()?;
        self.settle(&mut node, true)
    }

    fn draw_end(&mut self) -> End {
        match self.rng.below(14) {
            0..6 => End::CrashAt(self.disk.operations() + self.rng.below(300)),
            6..9 => End::AfterRename(self.rng.below(12), self.rng.below(8)),
            9 | 10 => End::Crash,
            11 | 12 => End::Kill,
            _ => End::Seal,
        }
    }

    // ---- a life ------------------------------------------------------------------------------------------------------

    fn work(&mut self, node: &mut Node, end: End) -> Result<(), String> {
        match end {
            End::CrashAt(operation) => self.disk.crash_at(operation),
            End::AfterRename(count, delay) => self.disk.crash_after_rename(count, delay),
            _ => {}
        }
        let keyspaces = self.rng.chance(1, 3).then(|| draw_keyspaces(&mut self.rng));
        if let Some(keyspaces) = &keyspaces {
            node.driver.propose_settings(keyspaces);
            node.wake();
        }
        let mut ticks = self.options.ticks;
        let fault = if self.options.lives == 1 { 99 } else { self.rng.below(9) };
        let strikes = self.rng.index(ticks.max(1));
        let mut full = None;
        let mut seen_full = false;
        while self.tick < ticks {
            self.tick += 1;
            if self.tick == strikes {
                match fault {
                    0 => self.disk.fail_sync(self.rng.below(10)),
                    1 => self.disk.fail_write(self.rng.below(20)),
                    2 | 3 => {
                        self.disk.set_capacity(Some(self.disk.used() + self.rng.below(24 << 10)));
                        full = Some(self.tick + 150 + self.rng.index(300));
                        ticks = ticks.max(self.tick + 500);
                    }
                    _ => {}
                }
            }
            if full == Some(self.tick) {
                self.disk.set_capacity(None);
            }
            if self.rng.chance(1, 400) {
                let group = self.rng.index(node.shards.len());
                node.want_snapshot(node.shards[group].group);
            }
            self.one(node, true)?;
            if self.disk.is_crashed() {
                return Ok(());
            }
            if full.is_some() && !seen_full {
                seen_full = node.shards.iter().any(|shard| shard.current_refusal() == Some(Refusal::Full));
                self.report.full += u64::from(seen_full);
            }
        }
        if let End::Seal = end {
            self.disk.set_capacity(None);
            self.settle_unless_crashed(node)?;
            if node.stopped.is_none() {
                if self.rng.chance(1, 3) {
                    self.disk.crash_at(self.disk.operations() + self.rng.below(5));
                }
                match node.seal() {
                    Ok(()) => self.sealed = true,
                    Err(_) if self.disk.is_crashed() => {}
                    Err(error) => return Err(format!("a clean stop failed: {error}")),
                }
            }
        } else if full.is_some() && self.rng.chance(1, 2) {
            // There is room again: writing goes on without a restart.
            self.disk.set_capacity(None);
            self.settle_unless_crashed(node)?;
        }
        Ok(())
    }

    /// One step of somebody.
    fn one(&mut self, node: &mut Node, play: bool) -> Result<(), String> {
        if play && self.rng.chance(1, 2) {
            let door = Door { shards: &node.shards, now: self.now };
            let (sent, wake) = self.clients.play(&mut self.rng, &door)?;
            for (group, sent) in sent {
                self.oracle.send(group, sent);
            }
            let wakes = self.cache.play(&node.shards, self.now)?;
            if wake || wakes {
                node.wake();
            }
        }
        let ready: Vec<Actor> = [Actor::Driver, Actor::Log, Actor::Upkeep, Actor::Snapshots]
            .into_iter()
            .filter(|actor| node.is_ready(*actor, self.now))
            .collect();
        let actor = match ready.len() {
            // Nobody: time passes, and the log's thread is idle.
            0 if self.rng.chance(1, 2) => Some(Actor::Log),
            0 => None,
            count => Some(ready[self.rng.index(count)]),
        };
        let pause = match (actor, ready.is_empty(), self.rng.below(20)) {
            (_, true, 0..10) => self.rng.below(200_000),
            (_, _, 0) => self.rng.below(20_000),
            _ => self.rng.below(600),
        };
        self.now = self.now + Duration::from_micros(pause);
        match actor {
            Some(Actor::Driver) => self.turn(node),
            Some(actor) => {
                node.act(actor);
                Ok(())
            }
            None => self.turn(node),
        }
    }

    fn turn(&mut self, node: &mut Node) -> Result<(), String> {
        let wall = self.wall();
        let mut watching = Watching { oracle: &mut self.oracle, clients: &mut self.clients };
        let rng = &mut self.rng;
        node.turn(self.now, wall, &mut || rng.chance(1, 2), &mut watching)
    }

    /// Lets everything come to rest. With `answers`, everybody must then have been answered and writing must go on.
    fn settle(&mut self, node: &mut Node, answers: bool) -> Result<(), String> {
        for _ in 0..4000 {
            if self.disk.is_crashed() {
                return Err("the disk crashed".into());
            }
            let waits = self.clients.is_waiting() || node.waits_for_room();
            let refused = node.shards.iter().any(|shard| shard.current_refusal().is_some());
            if node.stopped.is_some() && !node.is_busy(self.now) {
                return Ok(());
            }
            if !node.is_busy(self.now) && !waits && !refused {
                return Ok(());
            }
            self.one(node, false)?;
        }
        if !answers && !self.clients.is_waiting() {
            return Ok(());
        }
        let refusals: Vec<_> = node.shards.iter().map(|shard| shard.current_refusal()).collect();
        Err(format!(
            "no rest: clients wait {}, an append waits for room {}, refused {refusals:?}, stopped {:?}",
            self.clients.is_waiting(),
            node.waits_for_room(),
            node.stopped
        ))
    }

    fn settle_unless_crashed(&mut self, node: &mut Node) -> Result<(), String> {
        let settled = self.settle(node, true);
        if self.disk.is_crashed() { Ok(()) } else { settled }
    }

    fn end(&mut self, node: Node, end: End) -> Result<(), String> {
        let bugs: u64 = node.shards.iter().map(|shard| panics(shard)).sum();
        if bugs > 0 {
            return Err(format!("{bugs} commands panicked"));
        }
        self.report.lives += 1;
        self.report.snapshots += node.snapshots;
        self.report.stops += u64::from(node.stopped.is_some() && !self.disk.is_crashed());
        drop(node);
        self.disk.set_capacity(None);
        self.clients.crash();
        let kill = matches!(end, End::Kill) && !self.disk.is_crashed();
        self.disk = if kill {
            self.disk.kill()
        } else {
            let keep = [Keep::Nothing, Keep::All, Keep::Any, Keep::Any][self.rng.index(4)];
            self.disk.crash(&mut self.rng, keep)
        };
        self.report.digest = self.report.digest.rotate_left(7) ^ u64::from(self.disk.digest());
        Ok(())
    }

    // ---- the way back ------------------------------------------------------------------------------------------------

    fn open(&mut self) -> Result<Node, OpenError> {
        self.open_on(&self.disk.clone())
    }

    fn open_on(&mut self, disk: &VirtualDisk) -> Result<Node, OpenError> {
        let rng = &mut self.rng;
        let bugs = &self.options.bugs;
        Node::open(disk, &self.open, BALLAST, bugs.snapshot_dir_not_synced, &mut || rng.next_u64())
    }

    fn start(&mut self) -> Result<Node, String> {
        self.oracle.restart();
        // The machine was off for a while; its wall clock may be wrong.
        self.now = Instant(self.now.0 + 1_000_000 * self.rng.below(5_000));
        self.wall_offset = self.wall_offset.saturating_add_signed(self.rng.below(4_000) as i64 - 1_000);
        if self.rng.chance(1, 3) {
            self.try_spoiled()?;
        }
        if self.rng.chance(1, 4) {
            self.try_twice()?;
        }
        while self.rng.chance(1, 4) {
            let fails = self.rng.chance(1, 3);
            match self.rng.below(2) {
                0 if fails => self.disk.fail_sync(self.rng.below(8)),
                _ if fails => self.disk.fail_write(self.rng.below(12)),
                _ => self.disk.crash_at(self.disk.operations() + self.rng.below(40)),
            }
            match self.open() {
                Err(error) if !fails && !self.disk.is_crashed() => {
                    return Err(format!("the node does not start: {error}"));
                }
                _ => {}
            }
            self.report.crashed_starts += 1;
            self.sealed = false;
            self.disk = if self.rng.chance(1, 3) && !self.disk.is_crashed() {
                self.disk.kill()
            } else {
                self.disk.crash(&mut self.rng, Keep::Any)
            };
        }
        let mut node = self.open().map_err(|error| format!("the node does not start: {error}"))?;
        let found = &node.found;
        if std::mem::take(&mut self.sealed) && (!found.sealed || found.cut.is_some()) {
            return Err(format!("a clean stop came back as {found:?}"));
        }
        if !found.damaged_snapshots.is_empty() {
            return Err(format!("damage where nothing was spoiled: {:?}", found.damaged_snapshots));
        }
        self.settle(&mut node, false)?;
        for shard in &node.shards {
            self.oracle.compare(shard.group, &mut shard.state_mut())?;
        }
        self.clients.verify(&Door { shards: &node.shards, now: self.now })?;
        self.cache.restart(&node.shards)?;
        Ok(node)
    }

    /// Two starts one after the other bring back the same.
    fn try_twice(&mut self) -> Result<(), String> {
        let mut disk = self.disk.fork();
        let mut before: Option<Vec<_>> = None;
        for _ in 0..2 {
            disk = disk.kill();
            let node = self.open_on(&disk).map_err(|error| format!("the node does not start: {error}"))?;
            let states = node.shards.iter().map(|shard| {
                let mut state = shard.state_mut();
                contents(&mut state).map(|contents| (state.applied(), contents))
            });
            let states = states.collect::<Result<Vec<_>, _>>()?;
            if before.as_ref().is_some_and(|before| *before != states) {
                return Err("two starts on the same disk bring back different states".into());
            }
            before = Some(states);
        }
        Ok(())
    }

    /// Bytes rot: the node either says so or is not misled. (What nothing proves may be cut: see `store::log`.)
    fn try_spoiled(&mut self) -> Result<(), String> {
        let disk = self.disk.fork();
        let names = disk.list().map_err(|error| error.to_string())?;
        let files: Vec<String> =
            names.into_iter().filter(|name| !name.starts_with("spare") && name != "ballast").collect();
        if files.is_empty() {
            return Ok(());
        }
        for _ in 0..3 {
            let disk = disk.fork();
            let name = &files[self.rng.index(files.len())];
            let bytes = disk.bytes(name).unwrap_or_default();
            // Where something was written, not among the zeros.
            let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
            if used.is_empty() {
                continue;
            }
            let at = used[self.rng.index(used.len())] as u64;
            disk.corrupt(name, at, 1 << self.rng.below(8));
            self.report.spoiled += 1;
            let what = |error: String| format!("{name} was spoiled at byte {at}, and nobody noticed: {error}");
            if let Ok(node) = self.open_on(&disk.kill()) {
                for shard in &node.shards {
                    self.oracle.compare_any(shard.group, &mut shard.state_mut()).map_err(what)?;
                }
                self.tail_as_written(node).map_err(what)?;
            }
        }
        Ok(())
    }

    /// Whatever a start found behind its state is what was written there.
    fn tail_as_written(&mut self, mut node: Node) -> Result<(), String> {
        /// The oracle, and per group from where on the start has written itself.
        struct Tail<'a>(&'a Oracle, BTreeMap<GroupId, u64>);
        impl Watch for Tail<'_> {
            fn append(&mut self, append: &Append) -> Result<(), String> {
                for (group, entry) in &append.entries {
                    self.1.entry(*group).or_insert(entry.index);
                }
                Ok(())
            }
            fn durable(&mut self) {}
            fn step(&mut self, step: Step) -> Result<(), String> {
                for applied in step.applied {
                    let (group, index) = (applied.group, applied.index);
                    if self.1.get(&group).is_some_and(|own| *own <= index) {
                        continue;
                    }
                    let written = self.0.entry(group, index);
                    if written.is_none_or(|entry| entry.kind != EntryKind::Normal || entry.data != applied.data) {
                        return Err(format!("{group}: entry {index} is not what was written there"));
                    }
                }
                Ok(())
            }
        }
        let mut tail = Tail(&self.oracle, BTreeMap::new());
        let wall = self.wall();
        for _ in 0..6 {
            node.turn(self.now, wall, &mut || false, &mut tail)?;
            node.act(Actor::Log);
        }
        Ok(())
    }
}

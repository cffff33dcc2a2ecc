//! Faults: how each begins and ends. What began always ends, in any order and together with any other.

use super::rows::Row;
use super::workload::Workload;
use crate::interrupt;
use crate::net::switch::Line;
use crate::nodes::Nodes;
use crate::rng::Rng;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How soon writes must be acknowledged again once nothing holds.
const RESUME: Duration = Duration::from_secs(20);
/// How soon a change of the members must be done.
pub(super) const CHANGE: Duration = Duration::from_secs(60);
/// Shards that splits may make, those of the beginning included.
const SHARDS_MAX: usize = 8;
/// A write this short ago: they flow.
const FLOWS: Duration = Duration::from_millis(150);
/// Values that are written on a full disk, and how many at most.
const PRESS_BYTES: usize = 256 << 10;
const PRESS_COUNT: usize = 100;
/// Bytes of a step while a disk is filled.
const BALLAST_STEP: usize = 64 << 10;

/// Kinds of faults that a row must have seen (`Row::musts`).
pub const TWICE: &str = "two changes at once from two nodes";
/// A flood at a gateway.
pub const FLOOD: &str = "a gateway under a flood";
/// A node that is replaced.
pub const LOST: &str = "a node lost for good";
/// A shard's log that is gone on one node.
pub const LOG_LOST: &str = "the whole log of a shard lost on a node";

/// Why nodes cannot have file systems of their own here, if they cannot.
pub fn image_possible() -> Option<String> {
    crate::chaos::image::only_root("an image")
}

/// One fault.
#[derive(Clone, Debug)]
pub enum Fault {
    /// kill -9; at the end they start again.
    Kill(Vec<usize>),
    /// SIGSTOP until the end.
    Pause(usize),
    /// What was not synced is lost; at the end they start again.
    PowerCut(Vec<usize>),
    /// The next fsync fails; at the end the node is started anew.
    SyncFails(usize),
    /// A file is damaged while the node is down; at the end it starts.
    Corrupt(usize),
    /// No room is left on the disk.
    Full(Vec<usize>),
    /// Each fsync takes so much longer.
    SlowDisk(usize, Duration),
    /// Lines between nodes.
    Lines(Vec<(usize, usize, Line)>),
    /// Lines are cut one after the other and healed one after the other in another order.
    Swizzle(Vec<(usize, usize)>),
    /// The wall clock jumps by so many nanoseconds, then runs so much faster.
    Clock { at: usize, shift: i64, drift_percent: i64 },
    /// SIGTERM, and a start.
    Restart(usize),
    /// It runs for ten of each hundred milliseconds.
    Starve(usize),
    /// A new node.
    Join,
    /// A node leaves for good, dead or alive.
    Leave { at: usize, dead: bool },
    /// A node loses its disk and comes back as a new one.
    Wipe(usize),
    /// A replica moves, or a lead.
    Move,
    /// Two changes of the cluster at the same moment, from two nodes.
    Twice,
    /// A node's gateway has more to do than it can.
    Flood(usize),
    /// A node that nobody starts again; a spare one takes over what it held.
    Lost(usize),
    /// A node that is down loses all that it has of one shard; it starts.
    LogLost(usize),
    /// A shard is split or slots move between two, and a node is killed in the middle; at the end it starts again.
    Slots { kill: Option<usize> },
}

/// A fault that holds.
struct Holding {
    fault: Fault,
    /// Stops the thread that keeps it up.
    stop: Option<(Arc<AtomicBool>, std::thread::JoinHandle<()>)>,
}

/// The course of one row.
pub struct Course {
    /// The cluster.
    pub nodes: Nodes,
    /// What is drawn.
    pub rng: Rng,
    /// The clients.
    pub clients: Workload,
    /// Faults begun so far.
    pub injected: u64,
    /// Those of a kind that a row must have seen.
    pub seen: BTreeMap<&'static str, u64>,
    /// What is worth telling.
    pub notes: Vec<String>,
    end: Instant,
    holding: Vec<Holding>,
    slowest_resume: Duration,
    /// Damaged nodes that started, and those that said what they miss.
    repaired: u64,
    refused: u64,
}

impl Course {
    /// A course until `end`.
    pub fn new(nodes: Nodes, rng: Rng, end: Instant, clients: Workload) -> Course {
        let (holding, notes) = (Vec::new(), Vec::new());
        Course {
            nodes,
            rng,
            clients,
            injected: 0,
            seen: BTreeMap::new(),
            notes,
            end,
            holding,
            slowest_resume: Duration::ZERO,
            repaired: 0,
            refused: 0,
        }
    }

    /// Places of the nodes that run.
    pub fn running(&self) -> Vec<usize> {
        self.nodes.nodes.iter().filter(|node| node.process.is_some()).map(|node| node.place).collect()
    }

    /// Whom to strike: mostly somebody who leads.
    pub fn victim(&mut self) -> usize {
        let running = self.running();
        let group = self.rng.below(3);
        if self.rng.percent(70)
            && let Some(leader) = self.nodes.leader(group)
            && running.contains(&leader)
        {
            return leader;
        }
        running.get(self.rng.below(running.len().max(1))).copied().unwrap_or(0)
    }

    /// Another that runs, if there is one.
    pub fn other(&mut self, than: usize) -> usize {
        let others: Vec<usize> = self.running().into_iter().filter(|at| *at != than).collect();
        if others.is_empty() { than } else { *self.rng.pick(&others) }
    }

    /// The row's faults until the time is over.
    pub fn run(&mut self, row: &Row) -> Result<(), String> {
        interrupt::sleep(Duration::from_millis(300));
        while Instant::now() < self.end && !interrupt::told() {
            for fault in (row.draw)(self) {
                self.begin(fault)?;
            }
            let (least, most) = row.hold;
            let span = Duration::from_millis(least + self.rng.below((most - least + 1) as usize) as u64);
            // A row's last fault may be cut short, its first not: a row without one shows nothing.
            let left = self.end.saturating_duration_since(Instant::now()).max(Duration::from_millis(least));
            interrupt::sleep(span.min(left));
            self.end_all()?;
            self.resume()?;
        }
        Ok(())
    }

    /// Waits until writes are acknowledged again.
    fn resume(&mut self) -> Result<(), String> {
        let start = Instant::now();
        let done = self.clients.writes();
        while self.clients.writes() < done + 5 || self.clients.since_write() > FLOWS {
            if start.elapsed() > RESUME {
                return Err(format!("no write was acknowledged for {} s after the faults ended", RESUME.as_secs()));
            }
            if !interrupt::sleep(Duration::from_millis(10)) {
                return Ok(());
            }
        }
        self.slowest_resume = self.slowest_resume.max(start.elapsed());
        Ok(())
    }

    /// Everything that holds ends, everybody runs.
    pub fn quiet(&mut self) -> Result<(), String> {
        self.end_all()?;
        if let Some(net) = self.nodes.ground.net() {
            net.heal();
        }
        for at in 0..self.nodes.nodes.len() {
            if self.nodes.nodes[at].process.is_none() && !self.nodes.nodes[at].left {
                self.nodes.start(at)?;
            }
        }
        self.nodes.await_slots(CHANGE)?;
        self.notes.push(format!(
            "writes flowed {:.2} s after a fault's end at the latest",
            self.slowest_resume.as_secs_f64()
        ));
        Ok(())
    }

    /// What a row must have seen has been seen.
    fn see(&mut self, kind: &'static str, said: String) {
        *self.seen.entry(kind).or_default() += 1;
        self.notes.push(said);
    }

    fn hold(&mut self, fault: Fault) {
        self.holding.push(Holding { fault, stop: None });
    }

    /// Keeps something up until the fault ends, every 10 ms.
    fn hold_by(&mut self, fault: Fault, mut step: impl FnMut(u64) + Send + 'static) {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            for round in 0.. {
                if told.load(Ordering::Relaxed) {
                    return;
                }
                step(round);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        self.holding.push(Holding { fault, stop: Some((stop, thread)) });
    }

    fn begin(&mut self, fault: Fault) -> Result<(), String> {
        self.injected += 1;
        match &fault {
            Fault::Kill(victims) => {
                victims.iter().for_each(|at| self.nodes.kill(*at));
                self.hold(fault);
            }
            Fault::Pause(at) => {
                self.nodes.signal(*at, Signal::STOP);
                self.hold(fault);
            }
            Fault::PowerCut(victims) => {
                for at in victims {
                    self.cut_power(*at)?;
                }
                self.hold(fault);
            }
            Fault::SyncFails(at) => {
                self.nodes.nodes[*at].syncs.fail.store(1, Ordering::Relaxed);
                self.hold(fault);
            }
            Fault::Corrupt(at) => {
                self.nodes.kill(*at);
                let mut rng = Rng::new(self.rng.next());
                let said = self.nodes.at_files(*at, move |dir| damage(dir, &mut rng))??;
                self.notes.push(format!("node {}: {said}", at + 1));
                self.hold(fault);
            }
            Fault::Full(victims) => {
                for at in victims {
                    self.nodes.at_files(*at, fill)??;
                }
                self.press(victims[0]);
                self.hold(fault);
            }
            Fault::SlowDisk(at, span) => {
                self.nodes.nodes[*at].syncs.delay_us.store(span.as_micros() as u64, Ordering::Relaxed);
                self.hold(fault);
            }
            Fault::Lines(lines) => {
                let net = self.nodes.ground.net().ok_or("no network")?;
                lines.iter().for_each(|(from, to, line)| net.set(*from, *to, line.clone()));
                self.hold(fault);
            }
            Fault::Swizzle(lines) => {
                let mut order = lines.clone();
                self.shuffle(&mut order);
                for (from, to) in order {
                    self.nodes.ground.net().ok_or("no network")?.set(from, to, Line::cut());
                    interrupt::sleep(Duration::from_millis(self.rng.below(200) as u64));
                }
                self.hold(fault);
            }
            Fault::Clock { at, shift, drift_percent } => {
                let (at, shift, drift) = (*at, *shift, *drift_percent);
                self.nodes.set_clock(at, shift)?;
                let clock = self.nodes.clock(at)?;
                let start = Instant::now();
                self.hold_by(fault, move |_| {
                    let drifted = start.elapsed().as_nanos() as i64 * drift / 100;
                    let _ = std::os::unix::fs::FileExt::write_all_at(&clock, &(shift + drifted).to_le_bytes(), 0);
                });
            }
            Fault::Restart(at) => {
                let took = self.nodes.stop(*at)?;
                if took > Duration::from_secs(5) {
                    self.notes.push(format!("node {} took {:.1} s to stop", at + 1, took.as_secs_f64()));
                }
                self.nodes.start(*at)?;
            }
            Fault::Starve(at) => {
                let pid = self.nodes.nodes[*at].process.as_ref().map(crate::ground::Process::pid);
                let Some(pid) = pid.and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) else { return Ok(()) };
                self.hold_by(fault, move |round| {
                    let signal = if round % 10 == 0 { Signal::CONT } else { Signal::STOP };
                    let _ = rustix::process::kill_process(pid, signal);
                });
            }
            Fault::Join => {
                if let Some(at) = self.nodes.free_place()? {
                    let took = self.nodes.start(at)?;
                    let id = self.nodes.nodes[at].id;
                    // While there are two, one of them decides: the next fault would be one too many.
                    self.nodes.await_replicas(CHANGE)?;
                    self.notes.push(format!("node {id} joined in {:.2} s", took.as_secs_f64()));
                }
            }
            Fault::Leave { at, dead } => {
                if *dead {
                    self.nodes.kill(*at);
                }
                let start = Instant::now();
                self.nodes.leave(*at, CHANGE)?;
                let (id, how) = (self.nodes.nodes[*at].id, if *dead { ", dead," } else { "" });
                self.notes.push(format!("node {id}{how} left in {:.2} s", start.elapsed().as_secs_f64()));
            }
            Fault::Wipe(at) => {
                let (old, start) = (self.nodes.nodes[*at].id, Instant::now());
                self.nodes.wipe(*at, CHANGE)?;
                let id = self.nodes.nodes[*at].id;
                self.notes.push(format!(
                    "node {old} lost its disk and is node {id} after {:.2} s",
                    start.elapsed().as_secs_f64()
                ));
            }
            Fault::Slots { kill } => {
                self.move_slots()?;
                // In the middle of the copy, or of what follows it.
                interrupt::sleep(Duration::from_millis(self.rng.below(80) as u64));
                if let Some(at) = *kill {
                    self.nodes.kill(at);
                }
                self.hold(fault);
            }
            Fault::Twice => {
                let said = self.twice()?;
                self.see(TWICE, said);
            }
            Fault::Flood(at) => {
                let said = self.flood(*at)?;
                self.see(FLOOD, said);
            }
            Fault::Lost(at) => {
                let said = self.lose_node(*at)?;
                self.see(LOST, said);
            }
            Fault::LogLost(at) => {
                let said = self.lose_log(*at)?;
                self.see(LOG_LOST, said);
            }
            Fault::Move => {
                let said = self.nodes.shuffle_shards(&mut self.rng, CHANGE)?;
                self.notes.push(said);
            }
        }
        Ok(())
    }

    fn end_all(&mut self) -> Result<(), String> {
        let mut down = Vec::new();
        for Holding { fault, stop } in std::mem::take(&mut self.holding) {
            if let Some((stop, thread)) = stop {
                stop.store(true, Ordering::Relaxed);
                let _ = thread.join();
            }
            match fault {
                Fault::Kill(victims) => down.extend(victims),
                Fault::Slots { kill } => down.extend(kill),
                Fault::Pause(at) | Fault::Starve(at) => self.nodes.signal(at, Signal::CONT),
                Fault::PowerCut(victims) => {
                    for at in &victims {
                        self.nodes.at_image(*at, |image| image.reboot())??;
                    }
                    down.extend(victims);
                }
                Fault::SyncFails(at) => {
                    self.nodes.nodes[at].syncs.fail.store(0, Ordering::Relaxed);
                    // Whoever has a disk that failed is replaced or started anew; to carry on would be the bug.
                    self.nodes.kill(at);
                    down.push(at);
                }
                Fault::Corrupt(at) => {
                    self.nodes.launch(at)?;
                    match self.nodes.ready(at) {
                        Ok(()) => self.repaired += 1,
                        Err(why) => {
                            // It says so and does not serve: then it is an operator's, who has it replaced.
                            let word =
                                why.lines().rev().find(|line| line.contains("quorate: ")).unwrap_or(&why).to_owned();
                            self.notes.push(format!("node {} refused to start: {word}", self.nodes.nodes[at].id));
                            self.refused += 1;
                            self.nodes.wipe(at, CHANGE)?;
                            self.nodes.await_replicas(CHANGE)?;
                        }
                    }
                }
                Fault::Full(victims) => {
                    for at in victims {
                        self.nodes
                            .at_files(at, |dir| std::fs::remove_file(ballast(dir)))?
                            .map_err(|why| why.to_string())?;
                    }
                }
                Fault::SlowDisk(at, _) => self.nodes.nodes[at].syncs.delay_us.store(0, Ordering::Relaxed),
                Fault::Lines(lines) => {
                    let net = self.nodes.ground.net().ok_or("no network")?;
                    lines.iter().for_each(|(from, to, _)| net.set(*from, *to, Line::default()));
                }
                Fault::Swizzle(mut lines) => {
                    self.shuffle(&mut lines);
                    for (from, to) in lines {
                        self.nodes.ground.net().ok_or("no network")?.set(from, to, Line::default());
                        interrupt::sleep(Duration::from_millis(self.rng.below(200) as u64));
                    }
                }
                Fault::Clock { at, .. } => self.nodes.set_clock(at, 0)?,
                // They hold nothing: when they have begun, they are over.
                Fault::Restart(_) | Fault::Join | Fault::Leave { .. } | Fault::Wipe(_) | Fault::Move => {}
                Fault::Twice | Fault::Flood(_) | Fault::Lost(_) | Fault::LogLost(_) => {}
            }
        }
        // All at once: a majority that is down comes back together.
        down.sort_unstable();
        down.dedup();
        down.retain(|at| self.nodes.nodes[*at].process.is_none());
        for at in &down {
            self.nodes.launch(*at)?;
        }
        for at in down {
            self.nodes.ready(at)?;
        }
        Ok(())
    }

    /// Begins a split, or a move of slots from one shard to another, once none is under way.
    fn move_slots(&mut self) -> Result<(), String> {
        let groups = self.nodes.await_slots(CHANGE)?;
        let at = self.rng.below(groups.len());
        let (from, slots) = groups[at].clone();
        let (first, last) = slots
            .split(',')
            .next()
            .and_then(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?))
            })
            .ok_or_else(|| format!("shard {from} has slots {slots:?}"))?;
        let to = groups[(at + 1 + self.rng.below(groups.len().max(2) - 1)) % groups.len()].0;
        let what = if groups.len() < SHARDS_MAX && last - first > 64 {
            format!("split?group={from}")
        } else {
            format!("move-slots?slots={first}-{}&from={from}&to={to}", last.min(first + 200))
        };
        self.nodes.change(&what)?;
        self.notes.push(what);
        Ok(())
    }

    /// Writes large values until the full disk is felt, for the room that was reserved beforehand would last for long.
    fn press(&mut self, at: usize) {
        let Ok(mut conn) = self.nodes.connect(at, Duration::from_secs(2)) else { return };
        let value = vec![b'x'; PRESS_BYTES];
        for number in 0..PRESS_COUNT {
            match conn.call(&[b"SET", format!("press:{}", number % 8).as_bytes(), &value]) {
                Ok(crate::resp::Value::Simple(_)) => {}
                Ok(reply) => {
                    let text: String = reply.to_string().chars().take(90).collect();
                    self.notes.push(format!("after {number} values of {} KiB: {text}", PRESS_BYTES >> 10));
                    return;
                }
                Err(_) => return,
            }
        }
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, self.rng.below(at + 1));
        }
    }

    /// The process is stopped first: an fdatasync that returns while the file system goes down must not be believed by anybody, since at a
    /// real cut nobody would have heard it.
    fn cut_power(&mut self, at: usize) -> Result<(), String> {
        if let Some(process) = &self.nodes.nodes[at].process {
            process.signal(Signal::STOP);
            wait_stopped(process.pid());
        }
        self.nodes.at_image(at, |image| image.cut())??;
        self.nodes.kill(at);
        Ok(())
    }
}

/// Waits until no thread of a process runs any more (at most a second; one in a system call stops when that ends).
fn wait_stopped(pid: u32) {
    let start = Instant::now();
    let stopped = || {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads.into_iter().all(|thread| {
            let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(')')
                .is_none_or(|(_, rest)| matches!(rest.trim_start().as_bytes().first(), Some(b'T' | b't')))
        })
    };
    while !stopped() && start.elapsed() < Duration::from_secs(1) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn ballast(data: &Path) -> PathBuf {
    data.with_file_name("ballast")
}

/// Fills the disk up to the last block.
fn fill(data: &Path) -> Result<(), String> {
    use std::io::Write;
    let path = ballast(data);
    let mut file = std::fs::File::create(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let block = vec![1; BALLAST_STEP];
    for size in [BALLAST_STEP, 4096, 512] {
        while file.write_all(&block[..size]).is_ok() {}
    }
    Ok(())
}

/// Spoils one file of a data directory: a bit, a run of zeros, its end, all of it.
fn damage(data: &Path, rng: &mut Rng) -> Result<String, String> {
    let mut files = Vec::new();
    let mut dirs = vec![data.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?.flatten() {
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                dirs.push(entry.path());
            } else if about.len() > 0 && !entry.file_name().to_string_lossy().contains("identity") {
                files.push((entry.path(), about.len()));
            }
        }
    }
    files.sort();
    if files.is_empty() {
        return Err("there are no files to damage".into());
    }
    let (path, length) = rng.pick(&files).clone();
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let name = path.strip_prefix(data).unwrap_or(&path).display().to_string();
    let place = rng.next() % length;
    let said = match rng.below(4) {
        0 => {
            let mut bytes = std::fs::read(&path).map_err(at)?;
            bytes[place as usize] ^= 1 << rng.below(8);
            std::fs::write(&path, bytes).map_err(at)?;
            format!("a bit of {name} at {place} of {length}")
        }
        1 => {
            let mut bytes = std::fs::read(&path).map_err(at)?;
            let upto = (place as usize + 4096).min(bytes.len());
            bytes[place as usize..upto].fill(0);
            std::fs::write(&path, bytes).map_err(at)?;
            format!("zeros in {name} from {place} of {length}")
        }
        2 => {
            let file = std::fs::File::options().write(true).open(&path).map_err(at)?;
            file.set_len(place).map_err(at)?;
            format!("{name} cut to {place} of {length}")
        }
        _ => {
            std::fs::remove_file(&path).map_err(at)?;
            format!("{name} of {length} bytes deleted")
        }
    };
    Ok(said)
}

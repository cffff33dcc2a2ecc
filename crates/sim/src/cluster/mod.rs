//! Whole clusters on one thread: nodes, disks and a network in virtual time, faults of many kinds, and clients whose histories
//! must be explained by one order.
//!
//! While faults strike, safety is asked after every step: one leader a term, every replica applies the same entries, and each
//! life begins with what earlier ones had made durable. Then everything is mended, and the cluster must come to rest: all
//! members alike to the byte, and writing goes on. Last, each list's history is checked (`history`).

mod clients;
mod commits;
mod etcd;
mod faults;
mod locks;
mod moving;
mod network;
mod report;
mod rest;
mod seeds;
pub mod steps;
mod streams;
mod tape;
mod transactions;
mod twins;

pub use report::{Failure, Report};
pub use seeds::{cases, founders, has_commits, has_etcd, has_streams, has_twins, moves};

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base::{GroupId, Instant, NodeId, Rng};
use consensus::{Change, Membership, Role};
use shard::command;
use shard::driver::{Append, Input};
use shard::entry::MultiBuilder;
use shard::open::OpenOptions;
use shard::pending::Place;
use shard::reply::{Protocol, Reply};
use shard::state::Call;
use store::log::LogOptions;

use crate::disk::{Keep, VirtualDisk};
use crate::history::{List, Outcome};
use crate::model;
use crate::node::{Actor, Answer, Node, Outbox, Step, Stream, Watch};
use crate::oracle::{contents, is_refusal};
use crate::world::{Bugs, guarded};

const MILLI: u64 = 1_000_000;
const ACTORS: [Actor; 4] = [Actor::Driver, Actor::Log, Actor::Upkeep, Actor::Snapshots];
const BALLAST: u64 = 24 << 10;
const DATA: GroupId = GroupId(1);
const GROUPS: usize = 2;
const LISTS: u64 = 5;
/// A request that has found no answer so long is given up; its outcome stays unknown.
const PATIENCE: u64 = 5_000 * MILLI;
/// The client that only reads by lease, and the one that looks for another node soon: between them they see what a leader that
/// is one no longer still shows.
const READER: usize = 0;
const WANDERER: usize = 1;
/// A snapshot of which nothing is heard so long is sent again.
const STREAM_PATIENCE: u64 = 2_000 * MILLI;
/// How often a node says that it lives, and after how long it is taken for lost.
const PING: u64 = 500 * MILLI;
const SILENCE: u64 = 2_000 * MILLI;
/// How long a mended cluster may take to come to rest.
const REST: u64 = 60_000 * MILLI;

/// How a seed is run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Nodes that found the cluster.
    pub nodes: u64,
    /// Virtual milliseconds of faults.
    pub millis: u64,
    /// Whether a shard is split, and slots move.
    pub moves: bool,
    /// See [`Bugs`].
    pub bugs: Bugs,
    /// Whether there are producers and consumers of a topic too.
    pub streams: bool,
    /// Whether there are two data shards, and transactions over them.
    pub commits: bool,
    /// Whether members of a group are changed from two nodes at once.
    pub twins: bool,
    /// Whether there are clients of etcd's door and, where neither slots move nor transactions span shards, holders of fenced locks.
    pub etcd: bool,
    /// Is told the story, a line at a time.
    pub trace: Option<fn(&str)>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 3,
            millis: 15_000,
            moves: false,
            bugs: Bugs::default(),
            streams: false,
            commits: false,
            twins: false,
            etcd: false,
            trace: None,
        }
    }
}

/// Runs a seed, and gives back besides what clients asked and were told, in order, for another judge: a JSON object a line, as
/// Jepsen writes histories of list-append.
pub fn run_taped(seed: u64, options: &Options) -> (Result<Report, Box<Failure>>, String) {
    let mut world = World::new(seed, options);
    world.tape = Some(tape::Tape::default());
    let done = world.judged(seed);
    (done, world.tape.take().map(tape::Tape::end).unwrap_or_default())
}

/// Runs a seed: the same events and answers each time.
///
/// # Errors
/// A promise that was broken.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    World::new(seed, options).judged(seed)
}

#[derive(Clone, Debug)]
enum Packet {
    Message(consensus::Envelope),
    Stream(Box<Stream>),
    /// What became of a snapshot that this node had sent.
    Arrived(GroupId, bool),
    /// A node lives, its so manieth life.
    Ping(u64),
    /// A mover asks the leader of a shard.
    Slots(Box<moving::Question>),
    /// A door asks it.
    Unit(Box<commits::Errand>),
    /// What came of that.
    Told(u64, commits::Told),
    /// One of two asks for a change of members.
    Members(u64, usize),
}

#[derive(Clone, Debug)]
enum Event {
    /// Somebody on a node works; of that life only.
    Act(NodeId, u64, Actor),
    Idle(NodeId, u64),
    /// The driver's deadline, unless there is another one by now.
    Wake(NodeId, u64),
    Packet {
        from: NodeId,
        to: NodeId,
        packet: Packet,
    },
    /// Nothing was heard of a snapshot sent to that node.
    StreamLost(NodeId, u64, GroupId, NodeId),
    /// Nodes say that they live, and look who has not said so.
    Links,
    Client(usize),
    /// The same of producers and consumers.
    Streams(usize),
    /// The same of clients of etcd's door.
    Etcd(usize),
    /// The same of holders of fenced locks.
    Locks(usize),
    /// The same of transactions over several shards.
    Commits(usize),
    /// Doors look after what is late, and leaders after what nobody finishes.
    Doors,
    /// A transaction is tried again.
    Again(u64),
    /// A unit is sent.
    Route(u64),
    /// Its door takes the link for broken.
    AskOver(u64),
    /// A unit comes that nobody waits for any more.
    LateUnit(GroupId, Vec<u8>),
    /// Whoever had a part in a transaction dies.
    Strike(NodeId),
    /// A command for the queue comes that its client has given up.
    Late(Vec<u8>),
    GiveUp(u64),
    /// The second half of a read by lease.
    Look(u64),
    Fault,
    Start(NodeId),
    Resume(NodeId),
    Mend(Vec<(NodeId, NodeId)>),
    Cut(Vec<(NodeId, NodeId)>),
    Quick(NodeId),
    QuickLinks(Vec<(NodeId, NodeId)>),
    /// The storm is over.
    Calm,
    /// That leader falls, and the end of that follower's log rots.
    RotAndFall(NodeId, NodeId),
    /// That life ends in a power cut, unless it has ended.
    Dark(NodeId, u64),
    /// Room on that node's disk again.
    Roomy(NodeId),
    /// A process killed and started again at once.
    Bounce(NodeId),
    /// The leader of the data group is asked to hand over.
    HandOver,
    /// Movers are looked after.
    Moves,
    /// Two nodes want members changed at once.
    Twins,
    /// One of them asks, or looks whether it was done.
    AskMembers(u64, usize),
    /// A node hears of the new shard.
    Learn(NodeId),
    MoverGivesUp(NodeId, u64),
}

struct Machine {
    id: NodeId,
    open: OpenOptions,
    disk: VirtualDisk,
    node: Option<Node>,
    life: u64,
    /// Its monotonic clock against the world's, and its wall clock against that.
    clock_offset: u64,
    clock_ppm: i64,
    wall_offset: u64,
    /// As it was at first, where time goes by the wall clock (planted).
    first_wall: Option<u64>,
    paused: bool,
    /// When each other node was heard last, and which life of it.
    heard: BTreeMap<NodeId, u64>,
    known: BTreeMap<NodeId, u64>,
    /// The next power cut tears what is being written.
    tears: bool,
    /// Its disk was spoiled, and not everything is back yet.
    rotten: bool,
    /// Groups behind a fence, when last looked at.
    fenced: BTreeSet<GroupId>,
    stalled: VecDeque<Event>,
    /// Disk work takes this many times as long.
    slow: u64,
    /// Who has an event under way.
    scheduled: [bool; 4],
    wake_at: u64,
    /// Snapshots under way to others.
    streams: BTreeSet<(GroupId, NodeId)>,
}

impl Machine {
    fn local(&self, now: u64) -> Instant {
        let now = i128::from(now) * self.rate() / 1_000_000 + i128::from(self.clock_offset) + self.jumped();
        Instant(u64::try_from(now).unwrap_or(0))
    }

    fn global(&self, at: Instant) -> u64 {
        let since = (i128::from(at.0) - i128::from(self.clock_offset) - self.jumped()).max(0);
        u64::try_from(since * 1_000_000 / self.rate()).unwrap_or(u64::MAX / 2)
    }

    fn jumped(&self) -> i128 {
        self.first_wall.map_or(0, |first| (i128::from(self.wall_offset) - i128::from(first)) * i128::from(MILLI))
    }

    fn rate(&self) -> i128 {
        1_000_000 + i128::from(self.clock_ppm)
    }

    fn runs(&self) -> bool {
        self.node.is_some() && !self.paused
    }
}

/// What a request is to its client.
enum Kind {
    /// Lists, each with the append's number there.
    Append(Vec<(u64, usize)>),
    Read(u64),
    Stream(streams::Ask),
    Etcd(etcd::Ask),
    /// Of this holder, by this name.
    Lock(usize, String, locks::Ask),
    /// Of this client of transactions.
    Commit(usize, commits::Op),
}

struct Request {
    client: usize,
    node: NodeId,
    group: GroupId,
    kind: Kind,
    begun: u64,
}

#[derive(Clone, Copy)]
struct Weather {
    delay: (u64, u64),
    /// Of a thousand messages.
    lost: u64,
    doubled: u64,
    reorders: bool,
}

struct World {
    rng: Rng,
    now: u64,
    sequence: u64,
    /// By time, and in the order they were planned.
    events: BTreeMap<(u64, u64), Event>,
    options: Options,
    weather: Weather,
    /// How the weather is when nothing special is the matter.
    usual: Weather,
    machines: BTreeMap<NodeId, Machine>,
    founders: Vec<NodeId>,
    cut: BTreeSet<(NodeId, NodeId)>,
    /// What messages on these links take longer.
    slow_links: BTreeMap<(NodeId, NodeId), u64>,
    /// When the last message on a link arrives: links keep their order.
    arrives: BTreeMap<(NodeId, NodeId), u64>,
    /// Whether this seed's groups may fall silent.
    quiesces: bool,
    quiet: bool,
    ends: u64,
    /// Nothing is written at this node until then.
    hushed: Option<(NodeId, u64)>,
    /// When somebody was last asked to change who belongs to a group.
    changed_at: u64,

    lists: Vec<List>,
    homes: Vec<NodeId>,
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    next_value: u64,

    leaders: BTreeMap<(GroupId, u64), NodeId>,
    /// Every applied entry: its bytes' checksum.
    applied: BTreeMap<(GroupId, u64), u32>,
    /// As the newest leaders had them.
    memberships: BTreeMap<GroupId, Membership>,
    /// Producers and consumers, where this seed has them.
    streams: Option<streams::Streams>,
    /// Clients of etcd's door, where it has them.
    etcd: Option<etcd::Etcd>,
    /// Holders of fenced locks.
    locks: Option<locks::Locks>,
    /// Transactions over several shards, where it has them.
    commits: commits::Commits,
    report: Report,
    moving: moving::Moving,
    /// One commit, cut where the script says.
    script: Option<Box<steps::Script>>,
    twins: twins::Twins,
    tape: Option<tape::Tape>,
}

/// Takes what a turn came to.
#[derive(Default)]
struct Watching(Vec<Step>);

impl Watch for Watching {
    fn append(&mut self, _: &Append) -> Result<(), String> {
        Ok(())
    }
    fn durable(&mut self) {}
    fn step(&mut self, step: Step) -> Result<(), String> {
        self.0.push(step);
        Ok(())
    }
}

impl World {
    fn new(seed: u64, options: &Options) -> World {
        let mut rng = Rng::new(seed ^ 0x00c1_0572);
        let founders: Vec<NodeId> = (1..=options.nodes).map(NodeId).collect();
        let low = 50_000 + rng.below(MILLI);
        let weather = Weather {
            delay: (low, low * (1 + rng.below(20))),
            lost: [0, 0, 5, 50][rng.index(4)],
            doubled: [0, 0, 20][rng.index(3)],
            reorders: rng.chance(1, 4),
        };
        let clients = 3 + rng.index(6);
        let mut world = World {
            rng,
            now: 0,
            sequence: 0,
            events: BTreeMap::new(),
            options: *options,
            weather,
            usual: weather,
            machines: BTreeMap::new(),
            founders: founders.clone(),
            cut: BTreeSet::new(),
            slow_links: BTreeMap::new(),
            arrives: BTreeMap::new(),
            quiet: false,
            quiesces: seed.is_multiple_of(2),
            hushed: None,
            changed_at: 0,
            ends: options.millis * MILLI,
            lists: vec![List::default(); LISTS as usize],
            homes: vec![NodeId(1); clients],
            requests: BTreeMap::new(),
            next_request: 1,
            next_value: 1,
            leaders: BTreeMap::new(),
            applied: BTreeMap::new(),
            memberships: BTreeMap::new(),
            streams: None,
            etcd: None,
            locks: None,
            commits: commits::Commits::default(),
            report: Report::default(),
            moving: moving::Moving::default(),
            script: None,
            twins: twins::Twins::default(),
            tape: None,
        };
        for id in founders {
            world.add_machine(id);
        }
        world
    }

    fn add_machine(&mut self, id: NodeId) {
        let data_shards = self.founded() - 1;
        let rng = &mut self.rng;
        let log = LogOptions {
            segment_bytes: 8192 << rng.below(3),
            log_id: rng.next_u64(),
            planted: self.options.bugs.log,
            ..LogOptions::default()
        };
        let mut open = OpenOptions::new(id, data_shards, log);
        open.founders = self.founders.clone();
        open.snapshot_log_bytes = 600 << rng.below(6);
        open.snapshot_chunk_bytes = 1 << (4 + rng.below(9));
        open.limits.entry_bytes_max = 200 << rng.below(6);
        open.planted = self.options.bugs.node;
        open.quiesces = self.quiesces;
        // Two clocks may differ in rate by 10 %, as the lease allows.
        let drift = 45_000;
        let wall_offset = 1_700_000_000_000 + rng.below(10_000);
        let machine = Machine {
            id,
            open,
            disk: VirtualDisk::new(),
            node: None,
            life: 0,
            clock_offset: 1_000_000_000 + rng.below(1 << 40),
            clock_ppm: rng.below(2 * drift + 1) as i64 - drift as i64,
            wall_offset,
            first_wall: self.options.bugs.wall_clocks.then_some(wall_offset),
            paused: false,
            heard: BTreeMap::new(),
            known: BTreeMap::new(),
            tears: false,
            rotten: false,
            fenced: BTreeSet::new(),
            stalled: VecDeque::new(),
            slow: 1,
            scheduled: [false; 4],
            wake_at: u64::MAX,
            streams: BTreeSet::new(),
        };
        self.machines.insert(id, machine);
        let at = self.now + self.rng.below(300 * MILLI);
        self.at(at, Event::Start(id));
    }

    fn at(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((at.max(self.now), self.sequence), event);
    }

    /// For people who look for what went wrong.
    fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(trace) = self.options.trace {
            trace(&format!("{:>9.3} ms  {}", self.now as f64 / MILLI as f64, what()));
        }
    }

    fn tell_all(&self) {
        for machine in self.machines.values() {
            for (group, status, _) in machine.node.iter().flat_map(|node| node.driver.status()) {
                let consensus::Status { role, term, start, last, committed, applied, membership, .. } = status;
                self.tell(|| {
                    let id = machine.id;
                    format!("{id} {group}: {role:?} {term}, {start:?}..{last}, {committed} {applied}, {membership:?}")
                });
            }
        }
    }

    fn draw(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.rng.below(high - low + 1)
    }

    fn ids(&self) -> Vec<NodeId> {
        self.machines.keys().copied().collect()
    }

    fn any(&mut self) -> NodeId {
        let ids = self.ids();
        ids[self.rng.index(ids.len())]
    }

    fn judged(&mut self, seed: u64) -> Result<Report, Box<Failure>> {
        let done = guarded(|| self.live());
        self.report.events = self.sequence;
        self.report.elections = self.leaders.len() as u64;
        let Options { nodes, millis, moves, commits, twins, etcd, .. } = self.options;
        let at = self.now / MILLI;
        done.map(|()| self.report)
            .map_err(|what| Box::new(Failure { seed, nodes, millis, moves, commits, twins, etcd, at, what }))
    }

    // ---- the course of things ----------------------------------------------------------------------------------------

    fn live(&mut self) -> Result<(), String> {
        for client in 0..self.homes.len() {
            let at = self.rng.below(2_000 * MILLI);
            self.at(at, Event::Client(client));
        }
        if self.options.streams {
            self.begin_streams();
        }
        if self.options.commits {
            self.begin_commits();
        }
        if self.options.etcd {
            self.begin_etcd();
            if !self.options.moves && !self.options.commits {
                self.begin_locks();
            }
        }
        let first = self.rng.below(3_000 * MILLI);
        self.at(first, Event::Fault);
        self.at(PING, Event::Links);
        if self.options.moves {
            self.at(2_000 * MILLI, Event::Moves);
        }
        if self.options.twins {
            self.at(2_000 * MILLI, Event::Twins);
        }
        while self.now < self.ends {
            self.next()?;
        }
        self.mend();
        let ends = self.now + REST;
        let mut looked = self.now;
        self.tell(|| "faults end".to_owned());
        loop {
            self.next()?;
            if self.now > looked + 50 * MILLI {
                looked = self.now;
                match self.rests() {
                    Ok(()) => break,
                    Err(why) if self.now > ends => {
                        self.tell_all();
                        return Err(format!("no rest after faults have ended: {why}"));
                    }
                    Err(_) => {}
                }
            }
        }
        self.tell_all();
        self.judge_streams()?;
        self.judge_etcd()?;
        self.judge_locks()?;
        self.last_reads()?;
        // Where there are transactions, all that was done to lists is in their story.
        let lists = self.lists.iter().enumerate().filter(|_| !self.options.commits);
        for (list, history) in lists {
            history.check().map_err(|why| format!("list {list}: {why}"))?;
        }
        if self.options.commits {
            self.judge_commits()?;
        }
        Ok(())
    }

    fn next(&mut self) -> Result<(), String> {
        let Some(((at, _), event)) = self.events.pop_first() else {
            return Err("nothing happens any more".into());
        };
        self.now = at;
        self.happen(event)
    }

    fn happen(&mut self, event: Event) -> Result<(), String> {
        let target = match &event {
            Event::Act(id, life, _)
            | Event::Idle(id, life)
            | Event::Wake(id, life)
            | Event::StreamLost(id, life, ..) => Some((*id, Some(*life))),
            Event::Packet { to, .. } => Some((*to, None)),
            _ => None,
        };
        if let Some((id, life)) = target {
            let machine = self.machines.get_mut(&id).expect("events speak of machines that exist");
            if machine.node.is_none() || life.is_some_and(|life| life != machine.life) {
                return Ok(());
            }
            if machine.paused {
                machine.stalled.push_back(event);
                return Ok(());
            }
        }
        match event {
            Event::Act(id, _, actor) => self.act(id, actor),
            Event::Wake(id, _) => {
                if self.machines[&id].wake_at != self.now {
                    return Ok(());
                }
                self.act(id, Actor::Driver)
            }
            Event::Idle(id, life) => {
                let machine = self.machine(id);
                if !machine.scheduled[1] {
                    machine.node.as_mut().expect("checked").act(Actor::Log);
                }
                self.at(self.now + 200 * MILLI, Event::Idle(id, life));
                self.after(id)
            }
            Event::Packet { from, to, packet } => self.receive(from, to, packet),
            Event::StreamLost(id, _, group, to) => {
                let machine = self.machine(id);
                if machine.streams.remove(&(group, to)) {
                    machine.node.as_mut().expect("checked").tell(Input::SnapshotSent { group, to, ok: false });
                }
                self.after(id)
            }
            Event::Client(client) => self.play(client),
            Event::Streams(client) => self.play_streams(client),
            Event::Etcd(client) => self.play_etcd(client),
            Event::Locks(holder) => self.play_locks(holder),
            Event::Late(bytes) => self.come_late(&bytes),
            Event::Commits(client) => self.play_commits(client),
            Event::Doors => self.look_after_doors(),
            Event::Again(job) => self.attempt(job),
            Event::Route(request) => self.route(request),
            Event::AskOver(request) => self.ask_over(request),
            Event::LateUnit(group, unit) => self.late_unit(group, &unit),
            Event::Strike(id) => {
                self.struck(id);
                Ok(())
            }
            Event::GiveUp(request) => {
                let number = request;
                if let Some(request) = self.requests.remove(&request) {
                    if let Kind::Stream(ask) = request.kind {
                        self.report.unknown += 1;
                        return self.stream_answered(request.node, ask, None);
                    }
                    if let Kind::Etcd(ask) = request.kind {
                        return self.etcd_answered(ask, None);
                    }
                    if let Kind::Lock(holder, name, ask) = request.kind {
                        return self.lock_answered(holder, &name, &ask, None);
                    }
                    if let Kind::Commit(client, op) = request.kind {
                        return self.commit_answered(client, op, None);
                    }
                    if let Kind::Append(_) = request.kind {
                        self.report.unknown += 1;
                    }
                    if let Some(tape) = &mut self.tape {
                        tape.unknown(number);
                    }
                    self.homes[request.client] = self.any();
                    self.again(request.client);
                }
                Ok(())
            }
            Event::Look(request) => self.look(request),
            Event::Links => self.ping_all(),
            Event::Fault => {
                if !self.quiet {
                    self.fault();
                    let pause = self.draw((50 * MILLI, 1_500 * MILLI));
                    self.at(self.now + pause, Event::Fault);
                }
                Ok(())
            }
            Event::Start(id) => self.start(id),
            Event::Resume(id) => self.resume(id),
            Event::Mend(links) => {
                self.cut.retain(|link| !links.contains(link));
                Ok(())
            }
            Event::Cut(links) => {
                if !self.quiet {
                    self.cut.extend(links);
                }
                Ok(())
            }
            Event::QuickLinks(links) => {
                self.slow_links.retain(|link, _| !links.contains(link));
                Ok(())
            }
            Event::Calm => {
                self.weather = self.usual;
                Ok(())
            }
            Event::RotAndFall(leader, rotten) => {
                self.fall(leader, rotten);
                Ok(())
            }
            Event::Dark(id, life) => {
                if self.machines[&id].life == life {
                    self.stop(id, false);
                }
                Ok(())
            }
            Event::Roomy(id) => {
                self.machine(id).disk.set_capacity(None);
                Ok(())
            }
            Event::Moves => self.look_after_moves(),
            Event::Twins => {
                self.think_of_twins();
                Ok(())
            }
            Event::AskMembers(number, which) => self.ask_members(number, which),
            Event::Learn(id) => self.learn(id),
            Event::MoverGivesUp(id, request) => {
                self.moving_given_up(request);
                self.tell_mover(id, request, shard::mover::Told::Unknown);
                Ok(())
            }
            Event::HandOver => {
                self.hand_over(DATA);
                Ok(())
            }
            Event::Bounce(id) => {
                if !self.quiet {
                    self.stop(id, true);
                    let soon = self.now + self.rng.below(20 * MILLI);
                    self.at(soon, Event::Start(id));
                }
                Ok(())
            }
            Event::Quick(id) => {
                self.machine(id).slow = 1;
                Ok(())
            }
        }
    }

    fn machine(&mut self, id: NodeId) -> &mut Machine {
        self.machines.get_mut(&id).expect("machines never go")
    }

    fn start(&mut self, id: NodeId) -> Result<(), String> {
        let seeds = self.rng.next_u64();
        let not_synced = self.options.bugs.snapshot_dir_not_synced;
        if self.machines[&id].node.as_ref().is_some_and(|node| node.stopped.is_some()) {
            self.stop(id, true);
        }
        let machine = self.machine(id);
        if machine.node.is_some() {
            return Ok(());
        }
        let mut rng = Rng::new(seeds);
        let node = Node::open(&machine.disk, &machine.open, BALLAST, not_synced, &mut || rng.next_u64())
            .map_err(|error| format!("{id} does not start: {error}"))?;
        let found = &node.found;
        if !(machine.rotten || found.damaged_snapshots.is_empty() && found.repaired.is_empty()) {
            return Err(format!(
                "{id}: damage where nothing was spoiled: {:?} {:?}",
                found.damaged_snapshots, found.repaired
            ));
        }
        let (damage, cut, fenced) = (found.repaired.clone(), found.cut.is_some(), found.fenced.clone());
        machine.fenced = fenced.iter().copied().collect();
        // What was spoiled may have been of no account.
        machine.rotten &= !fenced.is_empty();
        machine.node = Some(node);
        machine.heard.clear();
        machine.known.clear();
        machine.life += 1;
        machine.scheduled = [false; 4];
        machine.wake_at = u64::MAX;
        machine.streams.clear();
        let life = machine.life;
        self.report.damages += u64::from(!damage.is_empty());
        self.report.cuts += u64::from(cut);
        if let Some(members) = self.memberships.get(&DATA).filter(|_| cut) {
            let doubtful = members.voters.iter().filter(|id| self.machines[id].fenced.contains(&DATA)).count();
            self.report.doubtful_majorities +=
                u64::from(doubtful > members.voters.len() / 2 && members.voters.len() > 1);
        }
        self.tell(|| format!("{id} starts its life {life}, fenced: {fenced:?} {damage:?}"));
        self.at(self.now + 200 * MILLI, Event::Idle(id, life));
        if self.moving.born.is_some() {
            self.at(self.now + MILLI, Event::Learn(id));
        }
        self.after(id)
    }

    fn stop(&mut self, id: NodeId, kill: bool) {
        let keep = [Keep::Nothing, Keep::All, Keep::Any, Keep::Any][self.rng.index(4)];
        let mut rng = Rng::new(self.rng.next_u64());
        let scripted = self.script.as_ref().and_then(|script| script.fate(id));
        let machine = self.machine(id);
        if machine.node.take().is_none() {
            return;
        }
        machine.disk.set_capacity(None);
        let keep = if std::mem::take(&mut machine.tears) { Keep::Torn } else { keep };
        let (kill, keep) = scripted.unwrap_or((kill, keep));
        machine.disk = if kill { machine.disk.kill() } else { machine.disk.crash(&mut rng, keep) };
        machine.paused = false;
        machine.stalled.clear();
        // Its clients see the connection break.
        self.door_dies(id);
        let gone: Vec<u64> = self.requests.iter().filter(|(_, r)| r.node == id).map(|(id, _)| *id).collect();
        for request in gone {
            self.at(self.now, Event::GiveUp(request));
        }
    }

    fn resume(&mut self, id: NodeId) -> Result<(), String> {
        let machine = self.machine(id);
        if !std::mem::take(&mut machine.paused) {
            return Ok(());
        }
        machine.wake_at = u64::MAX;
        let stalled = std::mem::take(&mut machine.stalled);
        self.tell(|| format!("{id} goes on"));
        for event in stalled {
            self.at(self.now, event);
        }
        self.after(id)
    }

    // ---- a node's turn -----------------------------------------------------------------------------------------------

    fn act(&mut self, id: NodeId, actor: Actor) -> Result<(), String> {
        let now = self.now;
        let mut watching = Watching::default();
        let mut rng = Rng::new(self.rng.next_u64());
        let machine = self.machine(id);
        machine.scheduled[actor as usize] = false;
        let (local, wall) = (machine.local(now), machine.wall_offset + now / MILLI);
        let node = machine.node.as_mut().expect("checked");
        match actor {
            Actor::Driver => {
                machine.wake_at = u64::MAX;
                machine.scheduled[0] = false;
                node.turn(local, wall, &mut || rng.chance(1, 2), &mut watching)
                    .map_err(|why| format!("{id}: {why}"))?;
            }
            other => node.act(other),
        }
        if let Some(script) = self.script.as_mut().filter(|_| !watching.0.is_empty()) {
            script.touched(id, watching.0.iter().any(|step| !step.applied.is_empty()));
        }
        for step in watching.0 {
            self.judge(id, &step)?;
            for answer in step.answers {
                self.answered(id, answer)?;
            }
        }
        if self.machines[&id].disk.is_crashed() {
            // The power went while it wrote.
            self.stop(id, false);
            return Ok(());
        }
        self.after(id)
    }

    /// What every step is asked.
    fn judge(&mut self, id: NodeId, step: &Step) -> Result<(), String> {
        for applied in &step.applied {
            let sum = crc(&applied.data);
            let place = (applied.group, applied.index);
            let first = *self.applied.entry(place).or_insert(sum);
            if first != sum {
                return Err(format!("{id} applies another entry than others did at {} of {}", place.1, place.0));
            }
        }
        if step.applied.iter().any(|applied| applied.group == GroupId(0)) {
            self.note_etcd(id)?;
        }
        let statuses = self.machines[&id].node.as_ref().expect("it just acted").driver.status();
        let mut lifted = 0;
        let machine = self.machine(id);
        for (group, status, _) in &statuses {
            if status.trust == consensus::Trust::Whole {
                lifted += u64::from(machine.fenced.remove(group));
            }
        }
        machine.rotten &= !machine.fenced.is_empty();
        self.report.lifted += lifted;
        for (group, status, _) in statuses {
            if status.role == Role::Leader {
                if !self.leaders.contains_key(&(group, status.term)) {
                    self.tell(|| format!("{group}: {id} leads in term {}", status.term));
                }
                if self.memberships.get(&group) != Some(&status.membership) {
                    self.report.changes += u64::from(self.memberships.insert(group, status.membership).is_some());
                }
                let leader = *self.leaders.entry((group, status.term)).or_insert(id);
                if leader != id {
                    return Err(format!("{leader} and {id} both lead {group} in term {}", status.term));
                }
            }
        }
        Ok(())
    }

    /// After anything that happened on a node: what it has to say goes out, and who has work gets a turn.
    fn after(&mut self, id: NodeId) -> Result<(), String> {
        let now = self.now;
        let Some(node) = self.machine(id).node.as_mut() else {
            return Ok(());
        };
        let Outbox { messages, streams, arrived, reads } = std::mem::take(&mut node.outbox);
        for envelope in messages {
            self.send(id, envelope.to(), Packet::Message(envelope));
        }
        for stream in streams {
            let (group, to) = (stream.group, stream.to);
            self.tell(|| format!("{id} sends {to} its snapshot of {group} at {}", stream.index));
            let machine = self.machine(id);
            machine.streams.insert((group, to));
            let life = machine.life;
            self.send(id, to, Packet::Stream(Box::new(stream)));
            self.at(now + STREAM_PATIENCE, Event::StreamLost(id, life, group, to));
        }
        for (group, from, ok) in arrived {
            self.report.installed += u64::from(ok);
            self.tell(|| format!("{id} has got the snapshot of {group} from {from}: {ok}"));
            self.send(id, from, Packet::Arrived(group, ok));
        }
        for (token, ok) in reads {
            if ok {
                self.look(token)?;
            } else if let Some(request) = self.requests.remove(&token) {
                self.homes[request.client] = self.any();
                self.again(request.client);
            }
        }
        let machine = self.machines.get(&id).expect("machines never go");
        let Some(node) = machine.node.as_ref() else { return Ok(()) };
        let (life, slow, local) = (machine.life, machine.slow, machine.local(now));
        let ready = ACTORS.map(|actor| node.is_ready(actor, local));
        let wake = node.driver.deadline().map_or(u64::MAX, |deadline| machine.global(deadline).max(now) + 1000);
        for (at, actor) in ACTORS.into_iter().enumerate() {
            if ready[at] && !self.machines[&id].scheduled[at] {
                let span = match actor {
                    Actor::Driver => (5_000, 50_000),
                    Actor::Log => (100_000 * slow, 2_000_000 * slow),
                    Actor::Upkeep | Actor::Snapshots => (20_000 * slow, 300_000 * slow),
                };
                let pause = self.draw(span);
                self.machine(id).scheduled[at] = true;
                self.at(now + pause, Event::Act(id, life, actor));
            }
        }
        if !ready[0] && wake < self.machines[&id].wake_at {
            self.machine(id).wake_at = wake;
            self.at(wake, Event::Wake(id, life));
        }
        Ok(())
    }
}

fn crc(bytes: &[u8]) -> u32 {
    // FNV-1a, folded: enough to tell entries apart.
    let sum =
        bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    (sum ^ (sum >> 32)) as u32
}

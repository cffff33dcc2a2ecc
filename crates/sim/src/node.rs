//! One node: the product's own log, snapshots and driver, with the threads of the host turned into jobs that somebody
//! else schedules. What the host does in a thread is done here in one call, in the same order.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use base::{GroupId, Instant, Millis, NodeId};
use consensus::{Envelope, Membership, Position};
use queue::extents::Copying;
use shard::driver::{Append, Arrived, Driver, Input, Output};
use shard::live::Shard;
use shard::manifest::Manifest;
use shard::open::{self, Found, OpenError, OpenOptions};
use shard::state::Sink;
use shard::topics::{self, Stored};
use store::extent::{self, ExtentId};
use store::log::{Batch, Log, LogError, Places, Upkeep};
use store::snapshot::{
    Arrival, SnapshotWriter, adopt, discard, hold_ballast, release_ballast, remove_older, snapshot_name,
};

use crate::disk::VirtualDisk;

/// What a driver's step told clients, in order. Clients are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The next answer of this client.
    Reply(u64, Vec<u8>),
    /// The client's request waits under this id.
    Parked(u64, u64),
    /// The answer of a wait.
    Served(u64, Vec<u8>),
    /// The outcome of the client's next request is unknown.
    Lost(u64),
    /// Nobody will know here what came of what waited under this ticket.
    Abandoned(u64),
}

/// Collects answers.
#[derive(Debug, Default)]
pub struct Answers(pub Vec<Answer>);

impl Sink<u64> for Answers {
    fn reply(&mut self, client: &u64, bytes: &[u8]) {
        self.0.push(Answer::Reply(*client, bytes.to_vec()));
    }
    fn parked(&mut self, client: &u64, waiter: u64) {
        self.0.push(Answer::Parked(*client, waiter));
    }
    fn served(&mut self, waiter: u64, bytes: &[u8]) {
        self.0.push(Answer::Served(waiter, bytes.to_vec()));
    }
    fn abandoned(&mut self, ticket: u64) {
        self.0.push(Answer::Abandoned(ticket));
    }
    fn lost(&mut self, client: &u64) {
        self.0.push(Answer::Lost(*client));
    }
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

/// What one step of the driver came to, for whoever checks.
#[derive(Debug, Default)]
pub struct Step {
    /// Answers, in order.
    pub answers: Vec<Answer>,
    /// Entries applied (group, index, bytes), in order.
    pub applied: Vec<shard::driver::Applied>,
}

/// Somebody who has work to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The driver's task.
    Driver,
    /// The log's thread.
    Log,
    /// Its helper that makes spare segments.
    Upkeep,
    /// The snapshot thread.
    Snapshots,
}

enum LogJob {
    Append(Append),
    Compact(GroupId, Position),
    Upkeep,
}

enum SnapshotJob {
    Begin(GroupId, Position, Membership, Vec<u8>),
    Chunk(GroupId, Vec<u8>),
    Copy(Copying),
    KeepExtents(GroupId, Vec<ExtentId>),
    End(GroupId),
    Abort(GroupId),
    Sweep(GroupId, u64),
    Adopt(GroupId, u64),
    Lift(GroupId, u64),
    Discard(GroupId, u64),
    Arrive(Stream),
    Stream(Stream),
}

/// A snapshot on its way to another node: the file, and what is said with it.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Whose.
    pub group: GroupId,
    /// From where.
    pub from: NodeId,
    /// To where.
    pub to: NodeId,
    /// At which index.
    pub index: u64,
    /// Extent files that come before it, and how long they are.
    pub extents: Vec<(ExtentId, u64)>,
    /// All files' bytes.
    pub bytes: Vec<u8>,
    /// What the receiver's group is told behind it.
    pub announcement: Envelope,
}

/// What a node wants carried to others, and what it has to say about reads.
#[derive(Debug, Default)]
pub struct Outbox {
    /// Messages, in order.
    pub messages: Vec<Envelope>,
    /// Snapshots.
    pub streams: Vec<Stream>,
    /// Snapshots that have arrived here: the group, from whom, and whether they could be used.
    pub arrived: Vec<(GroupId, NodeId, bool)>,
    /// Reads by token: whether the index is there.
    pub reads: Vec<(u64, bool)>,
}

/// A running node.
pub struct Node {
    /// Its disk.
    pub disk: VirtualDisk,
    /// Its driver.
    pub driver: Driver<u64>,
    /// Meta first, then data shards.
    pub shards: Vec<Arc<Shard<u64>>>,
    /// What the start found.
    pub found: Found,
    /// Snapshots made durable in this life.
    pub snapshots: u64,
    /// Set once the driver has been told that the log has stopped.
    pub stopped: Option<String>,
    log: Log<VirtualDisk>,
    batch: Batch,
    segment: u64,
    log_jobs: VecDeque<LogJob>,
    full: Option<Append>,
    upkeep: Option<Upkeep<VirtualDisk>>,
    snapshot_jobs: VecDeque<SnapshotJob>,
    writers: BTreeMap<GroupId, SnapshotWriter<VirtualDisk>>,
    inbox: VecDeque<Input>,
    ballast: u64,
    dir_not_synced: bool,
    options: OpenOptions,
    seed: u64,
    /// For other nodes.
    pub outbox: Outbox,
}

impl Node {
    /// Opens the disk, as the host does at its start.
    ///
    /// # Errors
    /// As [`open::open`].
    pub fn open(
        disk: &VirtualDisk,
        options: &OpenOptions,
        ballast: u64,
        dir_not_synced: bool,
        seed: &mut dyn FnMut() -> u64,
    ) -> Result<Node, OpenError> {
        let opened = open::open(disk, options, seed, &mut |_| {})?;
        let _ = hold_ballast(disk, ballast);
        let segment = opened.log.status().current;
        Ok(Node {
            disk: disk.clone(),
            driver: opened.driver,
            shards: opened.shards,
            found: opened.found,
            snapshots: 0,
            stopped: None,
            log: opened.log,
            batch: Batch::new(),
            segment,
            log_jobs: VecDeque::from([LogJob::Upkeep]),
            full: None,
            upkeep: None,
            snapshot_jobs: VecDeque::new(),
            writers: BTreeMap::new(),
            inbox: VecDeque::from([Input::Wake]),
            ballast,
            dir_not_synced,
            options: options.clone(),
            seed: seed(),
            outbox: Outbox::default(),
        })
    }

    /// Tells the driver that requests wait.
    pub fn wake(&mut self) {
        self.inbox.push_back(Input::Wake);
    }

    /// Tells the driver something.
    pub fn tell(&mut self, input: Input) {
        self.inbox.push_back(input);
    }

    /// The node hears of a group that it has not. False where its disk does not take it: then it is to be told again.
    ///
    /// # Errors
    /// The group contradicts itself.
    pub fn add_group(&mut self, group: GroupId, founders: &[NodeId]) -> Result<bool, String> {
        if self.shards.iter().any(|shard| shard.group == group) {
            return Ok(true);
        }
        let Ok(Some(mut manifest)) = Manifest::read(&self.disk) else { return Ok(false) };
        manifest.born.insert(group, founders.to_vec());
        if manifest.write(&self.disk).is_err() || self.disk.is_crashed() {
            return Ok(false);
        }
        self.seed = self.seed.wrapping_add(1);
        let mut seed = base::Rng::new(self.seed);
        let (config, recovered) = open::new_group(group, founders, &self.options, &mut || seed.next_u64())?;
        self.shards.push(self.driver.add(config, recovered)?);
        self.wake();
        Ok(true)
    }

    /// A snapshot's file has come from another node.
    pub fn arrive(&mut self, stream: Stream) {
        self.snapshot_jobs.push_back(SnapshotJob::Arrive(stream));
    }

    /// Asks for a snapshot.
    pub fn want_snapshot(&mut self, group: GroupId) {
        self.inbox.push_back(Input::SnapshotWanted(group));
    }

    /// Whether the actor has something to do. The log's thread can always be idle.
    pub fn is_ready(&self, actor: Actor, now: Instant) -> bool {
        match actor {
            Actor::Driver => !self.inbox.is_empty() || self.driver.deadline().is_some_and(|deadline| deadline <= now),
            Actor::Log => !self.log_jobs.is_empty(),
            Actor::Upkeep => self.upkeep.is_some(),
            Actor::Snapshots => !self.snapshot_jobs.is_empty(),
        }
    }

    /// Where the log's entries lie.
    pub fn places(&self) -> &Arc<Places> {
        self.log.places()
    }

    /// Where the log ends: segment and byte.
    pub fn log_end(&self) -> (u64, u64) {
        let end = self.log.end();
        (end.segment, end.offset)
    }

    /// Whether an append waits for room.
    pub fn waits_for_room(&self) -> bool {
        self.full.is_some()
    }

    /// Whether anything at all is under way.
    pub fn is_busy(&self, now: Instant) -> bool {
        let actors = [Actor::Driver, Actor::Log, Actor::Upkeep, Actor::Snapshots];
        actors.into_iter().any(|actor| self.is_ready(actor, now)) || self.driver.is_busy()
    }

    /// Seals the log, as a clean stop does.
    ///
    /// # Errors
    /// The log's own.
    pub fn seal(&mut self) -> Result<(), LogError> {
        self.log.seal()
    }

    // ---- the driver's task -------------------------------------------------------------------------------------------

    /// The driver's turn: what has come in, and whatever follows at once. `watch` sees each append before it is written
    /// and what came of each step; `in_place` says whether a lone client's append is written without the log's thread.
    ///
    /// # Errors
    /// What must never happen: the driver's `Fatal`, an append after the log has stopped, and what `watch` says.
    pub fn turn(
        &mut self,
        now: Instant,
        wall: Millis,
        in_place: &mut dyn FnMut() -> bool,
        watch: &mut dyn Watch,
    ) -> Result<(), String> {
        let mut next = Some(std::mem::take(&mut self.inbox));
        while let Some(inputs) = next.take() {
            for input in &inputs {
                match input {
                    Input::Appended => watch.durable(),
                    Input::LogStopped(why) => drop(self.stopped.get_or_insert_with(|| why.clone())),
                    _ => {}
                }
            }
            let mut answers = Answers::default();
            let mut out = Vec::new();
            self.driver.step_all(now, wall, inputs, &mut answers, &mut out);
            let mut step = Step { answers: answers.0, applied: Vec::new() };
            let mut here = None;
            for output in out {
                match output {
                    Output::Append(append) => {
                        if let Some(why) = &self.stopped {
                            return Err(format!("an append although the log has stopped ({why})"));
                        }
                        watch.append(&append)?;
                        if append.lone_client && in_place() {
                            here = Some(append);
                        } else {
                            self.log_jobs.push_back(LogJob::Append(append));
                        }
                    }
                    Output::Send(_, envelope) => self.outbox.messages.push(envelope),
                    Output::SendSnapshot { group, to, index, announcement } => {
                        let from = announcement.from();
                        let stream =
                            Stream { group, from, to, index, extents: Vec::new(), bytes: Vec::new(), announcement };
                        self.snapshot_jobs.push_back(SnapshotJob::Stream(stream));
                    }
                    Output::SnapshotInstalled(group, position, _) => {
                        self.snapshot_jobs.push_back(SnapshotJob::Adopt(group, position.index));
                        self.snapshot_jobs.push_back(SnapshotJob::Sweep(group, position.index));
                    }
                    Output::SnapshotUnwanted(group, index) => {
                        self.snapshot_jobs.push_back(SnapshotJob::Discard(group, index));
                    }
                    Output::FenceLifted(group, name) => self.snapshot_jobs.push_back(SnapshotJob::Lift(group, name)),
                    Output::ReadReady(token) => self.outbox.reads.push((token, true)),
                    Output::ReadDropped(token) => self.outbox.reads.push((token, false)),
                    Output::SnapshotBegin { group, position, membership, chunk } => {
                        self.snapshot_jobs.push_back(SnapshotJob::Begin(group, position, membership, chunk));
                    }
                    Output::SnapshotChunk(group, chunk) => {
                        self.snapshot_jobs.push_back(SnapshotJob::Chunk(group, chunk));
                    }
                    Output::CopyOut(copying) => self.snapshot_jobs.push_back(SnapshotJob::Copy(copying)),
                    Output::KeepExtents(group, files) => {
                        self.snapshot_jobs.push_back(SnapshotJob::KeepExtents(group, files));
                    }
                    Output::SnapshotEnd(group) => self.snapshot_jobs.push_back(SnapshotJob::End(group)),
                    Output::SnapshotAbort(group) => self.snapshot_jobs.push_back(SnapshotJob::Abort(group)),
                    Output::CompactLog(group, position) => {
                        self.log_jobs.push_back(LogJob::Compact(group, position));
                        self.snapshot_jobs.push_back(SnapshotJob::Sweep(group, position.index));
                    }
                    Output::Applied(applied) => step.applied.push(applied),
                    Output::Fatal(why) => return Err(format!("fatal: {why}")),
                }
            }
            watch.step(step)?;
            if let Some(append) = here {
                match self.append_here(append) {
                    Some(input) => next = Some(VecDeque::from([input])),
                    None if self.disk.is_crashed() => return Ok(()),
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn append_here(&mut self, append: Append) -> Option<Input> {
        let appended = open::append(&mut self.log, &mut self.batch, &append);
        if self.disk.is_crashed() {
            return None;
        }
        match appended {
            Ok(_) => {
                if self.log.end().segment != self.segment {
                    self.segment = self.log.end().segment;
                    self.log_jobs.push_back(LogJob::Upkeep);
                }
                Some(Input::Appended)
            }
            Err(LogError::Full) => {
                self.log_jobs.push_back(LogJob::Append(append));
                None
            }
            Err(error) => Some(Input::LogStopped(error.to_string())),
        }
    }

    // ---- the log's thread --------------------------------------------------------------------------------------------

    /// One piece of work of an actor other than the driver. The log's thread without a job is idle.
    pub fn act(&mut self, actor: Actor) {
        match actor {
            Actor::Driver => {}
            Actor::Log => match self.log_jobs.pop_front() {
                Some(LogJob::Append(append)) => self.append(append),
                Some(LogJob::Compact(group, position)) => {
                    let compacted = self.log.compact(group, position.index, position.term);
                    if let Err(LogError::Stopped(why)) = compacted {
                        self.inbox.push_back(Input::LogStopped(why));
                    }
                    self.start_upkeep();
                }
                Some(LogJob::Upkeep) => self.start_upkeep(),
                None => self.idle(),
            },
            Actor::Upkeep => self.upkeep_step(),
            Actor::Snapshots => {
                if let Some(job) = self.snapshot_jobs.pop_front() {
                    self.snapshot(job);
                }
            }
        }
    }

    fn append(&mut self, mut append: Append) {
        let mut appended = open::append(&mut self.log, &mut self.batch, &append);
        if appended == Err(LogError::Full) && !append.frees_only {
            self.inbox.push_back(Input::AppendFull);
            append.use_reserve();
            appended = open::append(&mut self.log, &mut self.batch, &append);
        }
        match appended {
            Ok(_) => {
                let turned = self.log.end().segment != self.segment;
                self.segment = self.log.end().segment;
                self.inbox.push_back(Input::Appended);
                if turned {
                    self.start_upkeep();
                }
            }
            Err(LogError::Full) => {
                self.inbox.push_back(Input::AppendFull);
                self.full = Some(append);
                self.start_upkeep();
            }
            Err(error) => {
                self.inbox.push_back(Input::LogStopped(error.to_string()));
            }
        }
    }

    fn start_upkeep(&mut self) {
        match self.log.upkeep() {
            None => self.tell_room(),
            Some(upkeep) => self.upkeep = Some(upkeep),
        }
    }

    fn upkeep_step(&mut self) {
        let Some(mut upkeep) = self.upkeep.take() else {
            return;
        };
        if let Ok(true) = upkeep.step() {
            self.upkeep = Some(upkeep);
        } else {
            self.log.finish_upkeep(upkeep);
            self.tell_room();
        }
    }

    fn tell_room(&mut self) {
        self.inbox.push_back(Input::Room(open::room(&self.log.status())));
    }

    fn idle(&mut self) {
        self.start_upkeep();
        if let Some(append) = self.full.take() {
            return self.append(append);
        }
        if let Err(LogError::Stopped(why)) = self.log.mark_durable() {
            self.inbox.push_back(Input::LogStopped(why));
        }
    }

    // ---- the snapshot thread -----------------------------------------------------------------------------------------

    fn snapshot(&mut self, job: SnapshotJob) {
        let (group, done) = match job {
            SnapshotJob::Begin(group, position, membership, chunk) => {
                (group, self.begin(group, position, &membership, &chunk))
            }
            SnapshotJob::Chunk(group, chunk) => {
                let written = match self.writers.get_mut(&group) {
                    Some(writer) if !chunk.is_empty() => writer.chunk(&chunk),
                    _ => Ok(()),
                };
                (group, written.map(|()| Input::SnapshotWritten(group)))
            }
            SnapshotJob::Copy(copying) => {
                let stored = Stored::new(self.disk.clone(), self.log.places().clone());
                let filed = topics::file_away(&self.disk, &stored, &copying);
                (copying.file.group, filed.map(|filed| Input::FiledAway(copying.file.group, filed)))
            }
            SnapshotJob::KeepExtents(group, files) => return drop(extent::remove_others(&self.disk, group, &files)),
            SnapshotJob::End(group) => {
                let finished = match self.writers.remove(&group) {
                    Some(writer) => writer.finish().map(|_| Input::SnapshotDurable(group)),
                    None => Err(LogError::Misuse("no snapshot is being written".into())),
                };
                self.snapshots += u64::from(finished.is_ok());
                (group, finished)
            }
            SnapshotJob::Abort(group) => {
                self.writers.remove(&group);
                return;
            }
            SnapshotJob::Adopt(group, index) => return drop(adopt(&self.disk, group, index)),
            SnapshotJob::Lift(group, name) => return drop(store::fence::lift(&self.disk, group, name)),
            SnapshotJob::Discard(group, index) => return drop(discard(&self.disk, group, index)),
            SnapshotJob::Stream(mut stream) => {
                // The file may have gone for a newer one meanwhile.
                match self.disk.bytes(&snapshot_name(stream.group, stream.index)) {
                    Some(bytes) => {
                        let files = extent::list(&self.disk, stream.group).unwrap_or_default();
                        for id in files.into_iter().filter(|id| id.index <= stream.index) {
                            if let Some(extent) = self.disk.bytes(&extent::extent_name(id)) {
                                stream.extents.push((id, extent.len() as u64));
                                stream.bytes.extend(extent);
                            }
                        }
                        stream.bytes.extend(bytes);
                        self.outbox.streams.push(stream);
                    }
                    None => self.inbox.push_back(Input::SnapshotSent { group: stream.group, to: stream.to, ok: false }),
                }
                return;
            }
            SnapshotJob::Arrive(stream) => {
                let (group, from) = (stream.group, stream.from);
                match self.read_arrival(stream) {
                    Ok(arrived) => {
                        self.inbox.push_back(Input::SnapshotArrived(arrived));
                        self.outbox.arrived.push((group, from, true));
                    }
                    Err(_) => self.outbox.arrived.push((group, from, false)),
                }
                return;
            }
            SnapshotJob::Sweep(group, keep) => {
                let _ = remove_older(&self.disk, group, keep);
                let _ = hold_ballast(&self.disk, self.ballast);
                return;
            }
        };
        match done {
            Ok(input) => self.inbox.push_back(input),
            Err(error) => {
                self.writers.remove(&group);
                self.inbox.push_back(Input::SnapshotFailed(group));
                if error == LogError::Full && release_ballast(&self.disk).unwrap_or(false) {
                    self.inbox.push_back(Input::SnapshotWanted(group));
                }
            }
        }
    }

    fn read_arrival(&mut self, stream: Stream) -> Result<Arrived, LogError> {
        let Stream { group, index, extents, bytes, announcement, .. } = stream;
        let mut arrival = Arrival::begin(&self.disk, group, index, &extents)?;
        for piece in bytes.chunks(997) {
            arrival.write(piece)?;
        }
        arrival.finish()?;
        let state = open::arrived(&self.disk, group, index, &self.options, self.seed)?;
        Ok(Arrived { group, announcement, index, state: Box::new(state) })
    }

    fn begin(
        &mut self,
        group: GroupId,
        position: Position,
        membership: &Membership,
        chunk: &[u8],
    ) -> Result<Input, LogError> {
        let meta = membership.to_bytes();
        let mut writer = SnapshotWriter::begin(&self.disk, group, position.index, position.term, &meta)?;
        writer.planted_dir_not_synced = self.dir_not_synced;
        writer.chunk(chunk)?;
        self.writers.insert(group, writer);
        Ok(Input::SnapshotWritten(group))
    }
}

/// Who watches a node.
pub trait Watch {
    /// The driver wants this written.
    ///
    /// # Errors
    /// A promise that is broken by it.
    fn append(&mut self, append: &Append) -> Result<(), String>;
    /// The last append is durable, and the driver is about to hear of it.
    fn durable(&mut self);
    /// What a step of the driver came to.
    ///
    /// # Errors
    /// A promise that is broken by it.
    fn step(&mut self, step: Step) -> Result<(), String>;
}

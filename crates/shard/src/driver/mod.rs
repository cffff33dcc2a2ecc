//! What turns one log: requests in, entries through consensus and onto the disk, answers out. Pure: the host and the
//! simulator run the same code and obey the same outputs.
//!
//! ```text
//!   queue ─► propose ─► Persist ─┐ merged over all groups   ┌─► Commit ─► apply ─► answers
//!                                └► Output::Append ─(disk)─► Input::Appended
//! ```
//!
//! One append is under way at a time; whatever arrives meanwhile becomes the next one (group commit). An answer leaves only
//! from apply, and apply only follows a commit, so nothing is acknowledged that is not durable on a quorum.
//!
//! With other nodes: messages go out once what they vouch for is durable (`held`); a follower that lags too far is sent the
//! newest snapshot's file and swaps its state for that one's (`nodes`).
//!
//! **Invariant:** knows no files, sockets, threads or clocks; a failed append is never retried.

mod beside;
mod io;
mod litter;
mod nodes;
mod rounds;
mod snapshots;

use std::collections::VecDeque;
use std::sync::Arc;

use base::{Duration, Instant, Limit, Limits, Millis, NodeId, Rng};
use consensus::{
    DropReason, Entry, EntryKind, Group, GroupConfig, HardState, Input as Told, Membership, Output as Asked, Position,
};
use smallvec::SmallVec;
use store::keyspace::Keyspaces;

use crate::bounds;
use crate::entry::Unblock;
use crate::live::{Gate, Refusal, Shard};
use crate::pending::Batch;
use crate::recover::Recovered;
use crate::state::{MEMORY_WAIT, Sink, State};
pub use io::{Append, Applied, Input, Output, Room};
pub use nodes::Arrived;
use nodes::Installing;
pub use rounds::GroupStatus;
use rounds::{NEVER, Rounds};
use snapshots::Extents;

/// Keys that one expiry entry removes at most, so that it stays short work.
const EXPIRE_KEYS_MAX: usize = 512;
/// Bytes of one snapshot chunk by default: what the state's lock is held for at a time.
pub const WALK_BYTES: usize = 128 << 10;
/// Bytes of applied entries after which consensus is told to forget what it need not keep.
const HELD_BYTES_MAX: usize = 4 << 20;
/// Bytes of entries after which a group takes a snapshot while the disk is full.
const RESERVE_LOG_BYTES: u64 = 16 << 10;
/// Entries of one group in one append.
const ENTRIES_MAX: usize = 8;
/// Bytes of entries after which an append takes no more: with the largest command on top it stays within what the log takes.
const APPEND_BYTES_MAX: usize = 32 << 20;
/// How often the driver looks at expiries while some are set.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// And while more is due than one look takes.
const LOOK_SOON: Duration = Duration::from_millis(1);

/// Tokens of proposals: requests, and who belongs to the group.
const BATCH: u64 = 0;
const MEMBERS: u64 = 1;

/// Requests that are looked at for the tape's clients: an entry may answer thousands.
const NAMED_REQUESTS_MAX: usize = 64;

fn named<C, S: Sink<C>>(batch: Option<&Batch<C>>, sink: &S) -> (SmallVec<[u64; 4]>, bool) {
    let mut numbers = SmallVec::<[u64; 4]>::new();
    let Some(batch) = batch else {
        return (numbers, false);
    };
    for client in batch.clients().take(NAMED_REQUESTS_MAX) {
        let number = sink.number(client);
        if number != 0 && !numbers.contains(&number) {
            if numbers.len() == numbers.inline_size() {
                return (numbers, true);
            }
            numbers.push(number);
        }
    }
    (numbers, batch.requests().len() > NAMED_REQUESTS_MAX)
}

/// Requests whose entry is on its way.
struct Flight<C> {
    index: u64,
    term: u64,
    kind: Kind,
    /// It runs before the units of its entry, not after them.
    before: bool,
    batch: Batch<C>,
}

/// What a flight's index is to its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// The batch's own entry.
    Own,
    /// The entry before it: the batch needs none and runs once that one has been applied.
    Beside,
    /// The entry before it: the batch is refused, but no client's answers overtake each other.
    Refused(Refusal),
}

enum Snapshot {
    None,
    Wanted,
    /// Chunks are being written; the position it will have.
    Walking(Position, bool),
    /// What lies in the log only is being copied out.
    Copying(Position),
    /// The chunk that names the extent files is being written.
    Naming(Position),
    /// The file is being made durable.
    Ending(Position),
}

/// One group's lane.
struct Lane<C> {
    own: NodeId,
    shard: Arc<Shard<C>>,
    group: Group,
    membership: Membership,
    flights: VecDeque<Flight<C>>,
    /// The last hard state written, and a newer one of which only the commit index differs: it needs no sync of its own.
    written: HardState,
    lazy: Option<HardState>,
    /// Consensus writes in the append under way, and in the next one.
    persisting: Option<u64>,
    waiting: Option<u64>,
    /// The last write known durable.
    durable: u64,
    /// What is sent once a write is durable.
    held: VecDeque<(u64, Output)>,
    /// A snapshot that has arrived and that consensus has not decided about; one that the log is about to speak of.
    arrived: Option<(u64, Box<State>)>,
    installing: Option<Installing>,
    /// The last index that an installed snapshot covers.
    installed: u64,
    /// Reads that wait until this index is applied.
    reads: VecDeque<(u64, u64)>,
    leads: bool,
    /// Since it leads, nobody has looked whether the settings in force are those that this node was started with.
    unsettled: bool,
    applied: Position,
    rng: Rng,
    snapshot: Snapshot,
    extents: Extents,
    /// Another node waits for a snapshot; when one that failed is tried again.
    needed: bool,
    again_at: Option<Instant>,
    /// Bytes of this group's entries that no snapshot of it covers.
    bytes_since_snapshot: u64,
    /// How long the log of all groups was when its last snapshot began: what stands behind that cannot go without a newer one.
    log_at_snapshot: u64,
    /// The last entry that a durable snapshot covers.
    covered: u64,
    /// Bytes of applied entries that consensus may still hold in memory.
    bytes_held: usize,
    looked: Instant,
    /// It is on the list of those that are looked at now; of those that propose next; and when it is looked at by itself.
    touched: bool,
    eager: bool,
    changed: bool,
    alarm: Instant,
    /// How far it has looked for keys that are not the shard's.
    sweep: Option<litter::Sweep>,
    #[cfg(any(test, feature = "planted"))]
    planted: Planted,
}

/// How a driver behaves.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// This node.
    pub node: NodeId,
    /// Bytes of a group's entries after which it takes a snapshot. A group that has written less takes one after as many bytes
    /// for each group of the log: old segments hold the entries of all, and none goes before the last group lets go of it.
    pub snapshot_log_bytes: u64,
    /// Bytes of one snapshot chunk, about; see [`WALK_BYTES`].
    pub snapshot_chunk_bytes: usize,
    /// Bounds.
    pub limits: Limits,
    /// Bugs to be found (see `sim`).
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

/// Bugs of the joint between consensus, log and state.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// An entry answers the batch that was proposed at its index, whoever's entry it is and whoever leads meanwhile.
    pub answers_by_index: bool,
    /// The log does not hear of a snapshot that was installed.
    pub install_without_mark: bool,
    /// A read by index does not wait until the index is applied.
    pub read_before_applied: bool,
    /// Leases do not end.
    pub endless_lease: bool,
    /// The log may let go of what a snapshot covers before that is durable.
    pub compact_before_durable: bool,
}

/// All groups of one log.
pub struct Driver<C> {
    config: DriverConfig,
    lanes: Vec<Lane<C>>,
    appending: bool,
    next: Append,
    rounds: Rounds,
    /// How many groups this node leads.
    leading: usize,
    /// Bytes of all groups' entries, those found at the start included.
    log_bytes: u64,
    room: Room,
    stopped: bool,
    /// What every group's keyspaces are to be, once that has been said.
    keyspaces: Option<Keyspaces>,
    /// The client that made the whole of the last batch.
    last_client: Option<C>,
    gate: Arc<Gate>,
    held: bool,
}

impl<C: Clone + PartialEq> Driver<C> {
    /// An empty driver; groups are added by [`Driver::add`].
    pub fn new(config: DriverConfig) -> Driver<C> {
        Driver {
            config,
            lanes: Vec::new(),
            appending: false,
            next: Append::fresh(),
            rounds: Rounds::default(),
            leading: 0,
            log_bytes: 0,
            room: Room::Plenty,
            stopped: false,
            keyspaces: None,
            last_client: None,
            gate: Arc::default(),
            held: false,
        }
    }

    /// Adds a group as it was recovered. Returns its shard for connections to use.
    pub fn add(&mut self, mut config: GroupConfig, recovered: Recovered) -> Result<Arc<Shard<C>>, String> {
        let applied = recovered.state.applied();
        config.applied = applied;
        config.start = recovered.start;
        config.snapshot = recovered.snapshot;
        config.hard_state = recovered.hard_state;
        let term_at = |index| {
            let behind = recovered.entries.iter().find(|entry| entry.index == index).map(|entry| entry.term);
            behind.unwrap_or(recovered.start.term)
        };
        let applied = Position { index: applied, term: term_at(applied) };
        config.entries = recovered.entries;
        let shard = Arc::new(Shard::new(config.group, recovered.state, &self.config.limits, self.gate.clone()));
        let (membership, written, seed, name) =
            (config.membership.clone(), config.hard_state, config.seed, config.group);
        let group = Group::new(config).map_err(|error| format!("{name} cannot start: {error}"))?;
        if membership.members() != [self.config.node] {
            // Others decide who leads; nobody here knows it yet.
            shard.set_refusal(Some(Refusal::Elsewhere(None)));
        }
        let at = self.lanes.len();
        self.rounds.add(name, at);
        self.lanes.push(Lane {
            own: self.config.node,
            shard: shard.clone(),
            group,
            membership,
            flights: VecDeque::new(),
            written,
            lazy: None,
            persisting: None,
            waiting: None,
            durable: 0,
            held: VecDeque::new(),
            arrived: None,
            installing: None,
            installed: 0,
            reads: VecDeque::new(),
            leads: false,
            unsettled: false,
            applied,
            rng: Rng::new(seed ^ 0x0071_756f_7261_7465),
            snapshot: Snapshot::None,
            extents: Extents::default(),
            needed: false,
            again_at: None,
            bytes_since_snapshot: recovered.bytes,
            log_at_snapshot: 0,
            covered: recovered.snapshot,
            bytes_held: 0,
            looked: Instant::default(),
            touched: false,
            eager: false,
            changed: false,
            alarm: NEVER,
            sweep: None,
            #[cfg(any(test, feature = "planted"))]
            planted: self.config.planted,
        });
        self.touch(at);
        Ok(shard)
    }

    /// Says how long the log was that was found at the start: an old one is not kept for a group that has little in it.
    pub fn found_log(&mut self, bytes: u64) {
        self.log_bytes = bytes;
        self.respan();
    }

    /// The shards, in the order they were added.
    pub fn shards(&self) -> impl Iterator<Item = &Arc<Shard<C>>> {
        self.lanes.iter().map(|lane| &lane.shard)
    }

    /// Role, term, leader, applied and last index of each group, for people.
    pub fn status(&self) -> Vec<GroupStatus> {
        self.lanes.iter().map(Lane::status).collect()
    }

    /// How many groups this node leads.
    pub fn leading(&self) -> usize {
        self.leading
    }

    /// How many requests wait, and for how many to wait.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// While held, nothing that waits is proposed, so that more can join. The host lets go soon, and then steps again.
    pub fn hold(&mut self, held: bool) {
        self.held = held;
    }

    /// Whether an append is under way or wanted, or requests wait: not the moment to stop.
    pub fn is_busy(&self) -> bool {
        let lane_busy = |lane: &Lane<C>| !lane.flights.is_empty() || lane.shard.has_queued();
        // An append that stopped the log never ends.
        !self.stopped && (self.appending || self.lanes.iter().any(lane_busy))
    }

    /// Proposes keyspace settings and limits to every group whose own differ, whenever this node takes its lead.
    pub fn propose_settings(&mut self, keyspaces: &Keyspaces) {
        self.keyspaces = Some(keyspaces.clone());
        for at in 0..self.lanes.len() {
            self.lanes[at].unsettled = true;
            self.settle_settings(at);
        }
    }

    /// When the state of a group that is led shows all that was decided before, and again where a full disk may have refused them.
    fn settle_settings(&mut self, at: usize) {
        let (Some(keyspaces), limits) = (&self.keyspaces, &self.config.limits) else {
            return;
        };
        let lane = &mut self.lanes[at];
        if !lane.leads || !std::mem::take(&mut lane.unsettled) {
            return;
        }
        let state = lane.shard.state();
        let (other_keyspaces, other_bounds) =
            (**state.keyspaces() != *keyspaces, !bounds::same(state.bounds(), limits));
        drop(state);
        if other_keyspaces {
            lane.shard.put(|batch| batch.keyspaces(keyspaces));
        }
        if other_bounds {
            lane.shard.put(|batch| batch.bounds(limits));
        }
    }

    /// When [`Input::Wake`] is due at the latest.
    pub fn deadline(&self) -> Option<Instant> {
        self.rounds.next_alarm()
    }

    /// One step. `wall` is the wall clock in milliseconds since the Unix epoch.
    pub fn step<S: Sink<C>>(&mut self, now: Instant, wall: Millis, input: Input, sink: &mut S, out: &mut Vec<Output>) {
        self.step_all(now, wall, [input], sink, out);
    }

    /// One step for all that has happened meanwhile, in order: what it leads to shares an append.
    pub fn step_all<S: Sink<C>>(
        &mut self,
        now: Instant,
        wall: Millis,
        inputs: impl IntoIterator<Item = Input>,
        sink: &mut S,
        out: &mut Vec<Output>,
    ) {
        for input in inputs {
            self.take(now, wall, input, sink, out);
        }
        self.pump(now, wall, sink, out);
    }

    fn take<S: Sink<C>>(&mut self, now: Instant, wall: Millis, input: Input, sink: &mut S, out: &mut Vec<Output>) {
        match input {
            Input::Wake => {}
            // Too late: their clients have been let go, and nothing makes the log go on but a restart.
            Input::Appended | Input::AppendFull | Input::Room(_) if self.stopped => {}
            Input::Appended => self.appended(now, wall, sink, out),
            Input::AppendFull => self.append_full(),
            Input::Room(room) => self.set_room(room),
            Input::LogStopped(why) => self.log_stopped(&why, sink),
            Input::Message(group, envelope) => {
                self.tell_group(group, now, wall, Told::Message(envelope), sink, out);
            }
            Input::SnapshotWritten(group) => self.walk(group, out),
            Input::FiledAway(group, filed) => self.filed_away(group, filed, out),
            Input::SnapshotDurable(group) => self.snapshot_durable(group, now, wall, sink, out),
            Input::SnapshotFailed(group) => self.snapshot_failed(group, now),
            Input::SnapshotArrived(arrived) => self.snapshot_arrived(arrived, now, wall, sink, out),
            Input::SnapshotSent { group, to, ok } => {
                self.tell_group(group, now, wall, Told::SnapshotSent { to, ok }, sink, out);
            }
            Input::Unreachable(node) => {
                for at in 0..self.lanes.len() {
                    self.touch(at);
                    self.tell(at, now, wall, Told::Unreachable { node }, sink, out);
                }
            }
            Input::LinkLost(node) => {
                for at in 0..self.lanes.len() {
                    self.touch(at);
                    self.tell(at, now, wall, Told::LinkLost { node }, sink, out);
                }
            }
            Input::ChangeMembers(group, changes) => {
                self.tell_group(group, now, wall, Told::ProposeMembership { token: MEMBERS, changes }, sink, out);
            }
            Input::TransferLead(group, to) => {
                self.tell_group(group, now, wall, Told::TransferLeader { to }, sink, out);
            }
            Input::Read(group, token) => self.tell_group(group, now, wall, Told::ReadIndex { token }, sink, out),
            Input::SnapshotWanted(group) => {
                if let Some(at) = self.rounds.at(group) {
                    let lane = &mut self.lanes[at];
                    if matches!(lane.snapshot, Snapshot::None) {
                        lane.snapshot = Snapshot::Wanted;
                    }
                    self.touch(at);
                }
            }
        }
    }

    fn pump<S: Sink<C>>(&mut self, now: Instant, wall: Millis, sink: &mut S, out: &mut Vec<Output>) {
        self.wake_lanes(now);
        loop {
            self.hear();
            while let Some(at) = self.rounds.next() {
                self.lanes[at].touched = false;
                self.tend(at, now, wall, sink, out);
            }
            self.begin_append(out);
            // Nothing is taken while an append is under way, so nobody need wake us.
            if !self.gate.listen(self.stopped || (!self.appending && !self.held)) {
                break;
            }
        }
    }

    /// Does what is due in a lane.
    fn tend<S: Sink<C>>(&mut self, at: usize, now: Instant, wall: Millis, sink: &mut S, out: &mut Vec<Output>) {
        self.note_change(at);
        self.lanes[at].free_leftovers();
        if self.stopped {
            self.lanes[at].tend_stopped(now, sink, out);
            return self.arm(at, now);
        }
        if self.lanes[at].group.deadline().is_some_and(|deadline| deadline <= now) {
            self.tell(at, now, wall, Told::Wake, sink, out);
        }
        let lane = &mut self.lanes[at];
        if lane.leads {
            // Followers go by the leader's stamps: a wrong clock of theirs must not come with them into the lead.
            lane.shard.clock.slew(now, wall);
        }
        if lane.leads && now.since(lane.looked) >= LOOK_EVERY {
            lane.look(now, sink);
            if lane.has_litter() {
                lane.sweep(now);
            }
        }
        if !self.lanes[at].leads {
            self.lanes[at].send_elsewhere(sink);
        } else {
            // While the lead is handed over nothing is taken: what waits is turned away when it has moved, or goes on here.
            if !self.appending && !self.held && !self.lanes[at].group.is_handing_over() {
                self.propose(at, now, wall, sink, out);
            }
            if self.lanes[at].shard.has_queued() {
                self.wait_for_turn(at);
            }
        }
        let lane = &mut self.lanes[at];
        if lane.again_at.take_if(|at| *at <= now).is_some() && matches!(lane.snapshot, Snapshot::None) {
            lane.snapshot = Snapshot::Wanted;
        }
        let (each, lanes) = self.snapshot_bytes();
        self.lanes[at].begin_snapshot(each, lanes, self.log_bytes, out);
        self.arm(at, now);
    }

    fn begin_append(&mut self, out: &mut Vec<Output>) {
        if self.appending || self.stopped || self.next.is_empty() {
            return;
        }
        self.appending = true;
        for at in self.rounds.lazy.drain(..) {
            let lane = &mut self.lanes[at];
            if let Some(hard_state) = lane.lazy.take() {
                self.next.hard_states.retain(|(group, _)| *group != lane.shard.group);
                self.next.hard_states.push((lane.shard.group, hard_state));
                lane.written = hard_state;
            }
        }
        std::mem::swap(&mut self.rounds.wanting, &mut self.rounds.writing);
        for at in &self.rounds.writing {
            let lane = &mut self.lanes[*at];
            lane.persisting = lane.waiting.take();
        }
        out.push(Output::Append(std::mem::replace(&mut self.next, Append::fresh())));
    }

    /// Turns what waits into entries, until the append is large enough; what needs no entry or is refused is none of its load.
    fn propose<S: Sink<C>>(&mut self, at: usize, now: Instant, wall: Millis, sink: &mut S, out: &mut Vec<Output>) {
        let mut proposed = 0;
        while proposed < ENTRIES_MAX && self.next.bytes() < APPEND_BYTES_MAX {
            let lane = &mut self.lanes[at];
            let Some(mut batch) = lane.shard.take() else {
                return;
            };
            let stamp = lane.shard.now(now);
            if !batch.needs_entry() {
                match lane.flights.back() {
                    None => match beside::run(&lane.shard, &mut lane.shard.state_mut(), &batch, now, sink) {
                        Ok(true) => continue,
                        Ok(false) => {}
                        Err(why) => return out.push(Output::Fatal(why)),
                    },
                    Some(last) if lane.shard.may_read(|| now) => {
                        let (index, term) = (last.index, last.term);
                        lane.flights.push_back(Flight { index, term, kind: Kind::Beside, before: false, batch });
                        continue;
                    }
                    Some(_) => {}
                }
                batch.ride();
            }
            let frees_only = batch.frees_only();
            if self.room == Room::Reserve && !frees_only {
                // The disk filled up after these were queued: nothing of the batch has been proposed, so all are refused.
                lane.turn_away(batch, Refusal::Full, sink);
                continue;
            }
            proposed += 1;
            let data = lane.shard.keep(batch.take_entry(stamp, lane.rng.next_u64()));
            self.next.frees_only &= frees_only;
            let first = batch.clients().next().cloned();
            let same =
                first.as_ref().is_some_and(|first| self.last_client.as_ref() == Some(first) && batch.only_of(first));
            // Where others have to write it too, it must be on its way to them before it is written here.
            self.next.lone_client &= same && lane.group.membership().is_lone();
            self.last_client = first;
            lane.flights.push_back(Flight { index: 0, term: 0, kind: Kind::Own, before: false, batch });
            self.fly(at);
            self.tell(at, now, wall, Told::Propose { token: BATCH, data }, sink, out);
        }
    }

    /// Steps consensus and does what it asks until it asks for nothing more.
    fn tell<S: Sink<C>>(
        &mut self,
        at: usize,
        now: Instant,
        wall: Millis,
        told: Told,
        sink: &mut S,
        out: &mut Vec<Output>,
    ) {
        let mut asked = Vec::new();
        self.lanes[at].group.step(now, told, &mut asked);
        let mut queue = VecDeque::from(asked);
        while let Some(ask) = queue.pop_front() {
            let lane = &mut self.lanes[at];
            let mut more = Vec::new();
            match ask {
                Asked::Persist { token, entries, hard_state, needed } => {
                    let only_commit =
                        hard_state.is_none_or(|hard| (hard.term, hard.vote) == (lane.written.term, lane.written.vote));
                    if !needed && only_commit && lane.waiting.is_none() && lane.persisting.is_none() {
                        // A commit index alone may be lost without harm: it rides along with the next append.
                        if lane.lazy.is_none() && hard_state.is_some() {
                            self.rounds.lazy.push(at);
                        }
                        lane.lazy = hard_state.or(lane.lazy);
                        lane.durable = token;
                        lane.group.step(now, Told::Persisted { token }, &mut more);
                    } else {
                        let group = lane.shard.group;
                        self.next.entries.extend(entries.into_iter().map(|entry| (group, entry)));
                        if let Some(hard_state) = hard_state {
                            lane.lazy = None;
                            lane.written = hard_state;
                            self.next.hard_states.retain(|(other, _)| *other != group);
                            self.next.hard_states.push((group, hard_state));
                        }
                        if lane.waiting.replace(token).is_none() {
                            self.rounds.wanting.push(at);
                        }
                    }
                }
                Asked::Send { message, after } => lane.send(Output::Send(lane.shard.group, message), after, out),
                Asked::SendSnapshot { message, index, after } => {
                    let (group, to) = (lane.shard.group, message.to());
                    lane.send(Output::SendSnapshot { group, to, index, announcement: message }, after, out);
                }
                Asked::Commit { entries } => {
                    for entry in &entries {
                        if let Err(why) = lane.apply(entry, now, sink, out) {
                            out.push(Output::Fatal(why));
                            return;
                        }
                    }
                    let index = lane.applied.index;
                    lane.group.step(now, Told::Applied { index }, &mut more);
                    let bytes = entries.iter().map(|entry| entry.data.len()).sum::<usize>();
                    // A follower's log grows as its leader's does.
                    lane.bytes_since_snapshot += bytes as u64;
                    self.log_bytes += bytes as u64;
                    lane.bytes_held += bytes;
                    if lane.bytes_held >= HELD_BYTES_MAX {
                        lane.bytes_held = 0;
                        lane.group.step(now, Told::Compact { index }, &mut more);
                    }
                }
                Asked::Membership { membership, .. } => lane.membership = membership,
                Asked::Proposed { token: MEMBERS, .. } | Asked::ProposalDropped { token: MEMBERS, .. } => {}
                Asked::Proposed { index, term, .. } => {
                    if let Some(flight) = lane.flights.iter_mut().rev().find(|flight| flight.kind == Kind::Own) {
                        (flight.index, flight.term) = (index, term);
                    }
                }
                Asked::ProposalDropped { reason, leader, .. } => {
                    let refusal = match reason {
                        DropReason::Overloaded => Refusal::Overloaded,
                        _ => Refusal::Elsewhere(leader),
                    };
                    if let Some(flight) = lane.flights.pop_back() {
                        lane.turn_away(flight.batch, refusal, sink);
                    }
                }
                Asked::Role { role, leader, .. } => {
                    let led = lane.leads;
                    lane.take_role(role, leader, now, wall, sink);
                    self.leading = self.leading + usize::from(lane.leads) - usize::from(led);
                }
                Asked::Lease { until } => {
                    #[cfg(any(test, feature = "planted"))]
                    let until = until.map(|end| if lane.planted.endless_lease { Instant(u64::MAX) } else { end });
                    lane.shard.set_lease(until);
                    if lane.leads && until.is_some() {
                        let full = self.room == Room::Reserve;
                        lane.shard.set_refusal(full.then_some(Refusal::Full));
                        self.settle_settings(at);
                    }
                }
                Asked::ReadReady { token, index } if index <= lane.applied.index => out.push(Output::ReadReady(token)),
                #[cfg(any(test, feature = "planted"))]
                Asked::ReadReady { token, .. } if lane.planted.read_before_applied => {
                    out.push(Output::ReadReady(token))
                }
                Asked::ReadReady { token, index } => lane.reads.push_back((index, token)),
                Asked::FenceLifted { name } => out.push(Output::FenceLifted(lane.shard.group, name)),
                Asked::ReadDropped { token } => out.push(Output::ReadDropped(token)),
                Asked::InstallSnapshot { token, index, term, membership, hard_state } => {
                    let position = Position { index, term };
                    if let Err(why) = self.install(at, token, position, membership, hard_state) {
                        return out.push(Output::Fatal(why));
                    }
                }
                Asked::SnapshotWanted { .. } => {
                    lane.needed = true;
                    if matches!(lane.snapshot, Snapshot::None) {
                        lane.snapshot = Snapshot::Wanted;
                    }
                }
            }
            queue.extend(more);
        }
    }

    fn appended<S: Sink<C>>(&mut self, now: Instant, wall: Millis, sink: &mut S, out: &mut Vec<Output>) {
        assert!(self.appending, "an append ends only where one was under way");
        self.appending = false;
        let mut written = std::mem::take(&mut self.rounds.writing);
        for at in written.drain(..) {
            self.touch(at);
            let lane = &mut self.lanes[at];
            let Some(token) = lane.persisting.take() else {
                continue;
            };
            lane.durable = token;
            lane.swap_in(token, sink, out);
            while let Some((_, held)) = lane.held.pop_front_if(|(after, _)| *after <= token) {
                out.push(held);
            }
            self.tell(at, now, wall, Told::Persisted { token }, sink, out);
        }
        // Kept for its room.
        self.rounds.writing = written;
    }

    fn append_full(&mut self) {
        // Consensus has these entries already: the log writes them out of its reserve. What does not even fit there is
        // written when the snapshot has made room, and its clients wait so long.
        self.set_room(Room::Reserve);
    }

    fn set_room(&mut self, room: Room) {
        if self.room == room {
            return;
        }
        self.room = room;
        if room == Room::Reserve {
            self.config.limits.hit(Limit::log_max_bytes);
        }
        for lane in &mut self.lanes {
            if lane.leads {
                lane.shard.set_refusal((room == Room::Reserve).then_some(Refusal::Full));
            }
            // A snapshot lets old segments go: the way out of a full disk after deletes. Also before the group has a leader: the disk
            // may have been full when the node started.
            if room == Room::Reserve && matches!(lane.snapshot, Snapshot::None) && lane.applied.index > lane.covered {
                lane.snapshot = Snapshot::Wanted;
            }
        }
        self.touch_all();
        self.respan();
        if room == Room::Plenty {
            for at in 0..self.lanes.len() {
                self.lanes[at].unsettled = true;
                self.settle_settings(at);
            }
        }
    }

    fn log_stopped<S: Sink<C>>(&mut self, why: &str, sink: &mut S) {
        if std::mem::replace(&mut self.stopped, true) {
            // The log says it again whenever it is asked for anything; reads that wait or queue are no business of its.
            return;
        }
        self.appending = false;
        self.touch_all();
        for lane in &mut self.lanes {
            let refusal = Refusal::Stopped(why.to_owned());
            lane.shard.set_refusal(Some(refusal.clone()));
            lane.lose(&refusal, sink);
            while let Some(batch) = lane.shard.take() {
                refuse(&batch, &refusal, sink);
            }
            lane.shard.state_mut().end_waits(format!("-{}\r\n", refusal.error().0).as_bytes(), sink);
        }
    }
}

impl<C: Clone> Lane<C> {
    /// Frees some of what was removed and was too large to be freed at once: about a quarter of a millisecond's worth.
    fn free_leftovers(&self) {
        const STEPS: usize = 32;
        if self.shard.state().has_leftovers() {
            let mut state = self.shard.state_mut();
            let _ = (0..STEPS).all(|_| state.free_some());
        }
    }

    /// The log has stopped: what needs no log still runs, the rest is refused.
    fn tend_stopped<S: Sink<C>>(&mut self, now: Instant, sink: &mut S, out: &mut Vec<Output>) {
        if now.since(self.looked) >= LOOK_EVERY {
            self.look(now, sink);
        }
        while let Some(batch) = self.shard.take() {
            if batch.needs_entry() {
                if let Some(refusal) = self.shard.current_refusal() {
                    refuse(&batch, &refusal, sink);
                }
                continue;
            }
            let ran = beside::run(&self.shard, &mut self.shard.state_mut(), &batch, now, sink);
            match ran {
                Ok(true) => {}
                Ok(false) => {
                    let refusal = self.shard.current_refusal().unwrap_or(Refusal::Elsewhere(None));
                    refuse(&batch, &refusal, sink);
                }
                Err(why) => out.push(Output::Fatal(why)),
            }
        }
    }

    fn apply<S: Sink<C>>(
        &mut self,
        entry: &Entry,
        now: Instant,
        sink: &mut S,
        out: &mut Vec<Output>,
    ) -> Result<(), String> {
        let (mut requests, mut clients, mut more_clients) = (0, SmallVec::new(), false);
        self.run_before((entry.index, entry.term), now, sink)?;
        let mut state = self.shard.state_mut();
        state.set_leads(self.leads);
        match entry.kind {
            EntryKind::Membership => state.pass(entry.index),
            EntryKind::Normal => {
                let flight =
                    self.flights.pop_front_if(|flight| flight.kind == Kind::Own && flight.index == entry.index);
                #[cfg(any(test, feature = "planted"))]
                let trusting = self.planted.answers_by_index;
                #[cfg(not(any(test, feature = "planted")))]
                let trusting = false;
                let flight = match flight {
                    Some(flight) if flight.term != entry.term && !trusting => {
                        // Another leader's entry stands where this batch should: it is lost, and its clients cannot know.
                        lose(&flight.batch, sink);
                        None
                    }
                    other => other,
                };
                let batch = flight.as_ref().map(|flight| &flight.batch);
                requests = batch.map_or(0, |batch| batch.requests().len());
                (clients, more_clients) = named(batch, sink);
                state.apply(entry.index, &entry.data, batch, sink).map_err(|corrupt| {
                    format!("{}: entry {} cannot be applied: {corrupt}", self.shard.group, entry.index)
                })?;
            }
        }
        self.applied = Position { index: entry.index, term: entry.term };
        // A leader's own entries are behind its clock; what came with slots from another shard may be ahead of it.
        self.shard.clock.follow(now, state.stamp());
        while let Some((_, token)) = self.reads.pop_front_if(|(index, _)| *index <= entry.index) {
            out.push(Output::ReadReady(token));
        }
        let (changed, stamp, grown) = (state.catalog().index(), state.stamp(), state.take_grown());
        let revision = state.coordination().store().revision();
        let users = state.users().revision();
        self.note_litter(&state);
        drop(state);
        self.run_beside(entry.index, now, sink)?;
        if !entry.data.is_empty() {
            let (group, index) = (self.shard.group, entry.index);
            let (data, bytes) = (entry.data.clone(), entry.data.len());
            let applied = Applied { group, index, stamp, data, bytes, requests, clients, more_clients };
            out.push(Output::Applied(applied));
        }
        // Whoever wakes up reads.
        self.shard.bell.ring(changed);
        self.shard.etcd_bell.ring(revision as u64);
        self.shard.users_bell.ring(users);
        if entry.data.is_empty() {
            self.shard.board.ring_all()
        } else {
            self.shard.board.ring(&grown)
        }
        Ok(())
    }

    /// Looks for what has become due: expired keys and waits whose time is over.
    fn look<S: Sink<C>>(&mut self, now: Instant, sink: &mut S) {
        use store::keyspace::Durability::{Fsync, Memory};
        self.looked = now;
        let stamp = self.shard.now(now);
        let state = self.shard.state();
        self.shard.set_due(state.next_due());
        if state.next_due().is_none_or(|due| due > stamp) {
            return;
        }
        let memory_due = [state.tables(Memory).next_expiry(), state.waiters(Memory).next_until()];
        let mut keys = Vec::new();
        state.tables(Fsync).expired(stamp, EXPIRE_KEYS_MAX, |db, key| keys.push((db, key.to_vec())));
        let overdue = state.waiters(Fsync).overdue(stamp);
        let leases_end = state.coordination().next_due().is_some_and(|due| due <= stamp);
        let sessions_end = state.catalog().next_due().is_some_and(|due| due <= stamp);
        drop(state);
        if keys.len() == EXPIRE_KEYS_MAX {
            self.look_soon(now);
        }
        if !keys.is_empty() || !overdue.is_empty() || leases_end || sessions_end {
            // Where the queue is full, they are found again by the next look.
            let _ = self.shard.submit(|batch| {
                if !keys.is_empty() {
                    batch.expire(&keys);
                }
                if leases_end {
                    batch.etcd_expire();
                }
                if sessions_end {
                    batch.sessions_expire();
                }
                for waiter in overdue.iter().filter(|id| **id & crate::waiters::LOCAL == 0) {
                    batch.unblock(*waiter, Unblock::Timeout);
                }
            });
        }
        let mut state = self.shard.state_mut();
        for waiter in overdue.into_iter().filter(|id| *id & crate::waiters::LOCAL != 0) {
            state.unblock(waiter, Unblock::Timeout, sink);
        }
        if memory_due.into_iter().flatten().any(|due| due <= stamp)
            && state.sweep_memory(stamp, EXPIRE_KEYS_MAX, sink) == EXPIRE_KEYS_MAX
        {
            drop(state);
            self.look_soon(now);
        }
    }

    /// More is due than one look takes.
    fn look_soon(&mut self, now: Instant) {
        let (every, soon) = (LOOK_EVERY.as_nanos() as u64, LOOK_SOON.as_nanos() as u64);
        self.looked = Instant(now.0.saturating_sub(every - soon));
    }

    /// Refuses a batch of which nothing was proposed, behind what is under way. The ends of waits in it were asked for by
    /// nobody who could ask again: they come back.
    fn turn_away<S: Sink<C>>(&mut self, batch: Batch<C>, refusal: Refusal, sink: &mut S) {
        let ends = batch.unblocks();
        if !ends.is_empty() {
            self.shard.put(|batch| ends.iter().for_each(|(waiter, how)| batch.unblock(*waiter, *how)));
        }
        match self.flights.back() {
            None => refuse(&batch, &refusal, sink),
            Some(last) => {
                let (index, term) = (last.index, last.term);
                self.flights.push_back(Flight { index, term, kind: Kind::Refused(refusal), before: false, batch });
            }
        }
    }

    /// Refuses whatever waits here while another node leads: nothing of it has been proposed. What the leader's own doings
    /// were for (expiries, the ends of waits), the next leader sees to.
    fn send_elsewhere<S: Sink<C>>(&self, sink: &mut S) {
        while let Some(batch) = self.shard.take() {
            let refusal = self.shard.current_refusal().unwrap_or(Refusal::Elsewhere(self.shard.leader()));
            refuse(&batch, &refusal, sink);
        }
    }

    /// Leadership or the log is gone: what was proposed may or may not happen, what waited beside it was not done.
    fn lose<S: Sink<C>>(&mut self, refusal: &Refusal, sink: &mut S) {
        for flight in self.flights.drain(..) {
            match &flight.kind {
                Kind::Own => lose(&flight.batch, sink),
                Kind::Beside => refuse(&flight.batch, refusal, sink),
                Kind::Refused(refusal) => refuse(&flight.batch, refusal, sink),
            }
        }
    }
}

/// Ends a wait on this node's leader: a cancelled or killed client, CLIENT UNBLOCK. True where the driver must be woken.
pub fn end_wait<C, S: Sink<C>>(shard: &Shard<C>, waiter: u64, how: Unblock, sink: &mut S) -> bool {
    if waiter & (MEMORY_WAIT | crate::waiters::LOCAL) != 0 {
        shard.state_mut().unblock(waiter, how, sink);
        return false;
    }
    match how {
        // A client leaves once, and nobody will come back for its wait.
        Unblock::Gone => shard.put(|batch| batch.unblock(waiter, how)),
        // A queue that is full keeps the wait until its time is over.
        _ => shard.submit(|batch| batch.unblock(waiter, how)).unwrap_or(false),
    }
}

fn refuse<C, S: Sink<C>>(batch: &Batch<C>, refusal: &Refusal, sink: &mut S) {
    let line = format!("-{}\r\n", refusal.error().0);
    for client in batch.clients() {
        sink.refused(client, line.as_bytes());
    }
}

fn lose<C, S: Sink<C>>(batch: &Batch<C>, sink: &mut S) {
    for client in batch.clients() {
        sink.lost(client);
    }
}

#[cfg(test)]
mod tests;

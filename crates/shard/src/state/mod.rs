//! The state machine of one shard: entries in, tables and answers out.
//!
//! Applied on every replica in log order. On the leader a [`Sink`] receives the answers and a list of requests says whose
//! they are; the leader's own requests that are not logged (a read behind a write in one pipeline, a write to a memory
//! keyspace) run in their place between the logged units.
//!
//! Deterministic in everything that is logged. A command that panics is a bug of ours, but it must not become a node that
//! dies again at every start: the unit ends with an error, on every replica alike, and the panic is counted.
//!
//! Here: what a shard is, and its units. `run`: one command. `wait`: who waits, and who is served. `snapshot`: out and in.

mod commits;
mod etcd;
mod fence;
mod moving;
mod named;
mod queue;
mod registry;
mod run;
mod sink;
mod snapshot;
mod streams;
mod wait;

pub use moving::{NOT_HERE, keys_of};
pub use run::Call;
pub use sink::{Silent, Sink};
pub use streams::{DELIVERIES_MAX, GROUPS_MAX, HELD_MAX, stream_id_of};

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::queue::{PartitionId, Queue, Topics};
use base::{GroupId, Limits, Millis, Rng};
use cluster::Cluster;
use cluster::growth::HEAT_PARTS;
use coordination::Coordination;
use discovery::Catalog;
use store::codec::{Corrupt, Input, put_u64};
use store::keyspace::{Durability, Keyspaces};
use store::table::Tables;
use store::value::Stream;
use users::Users;

use crate::bounds;
use crate::command::{self, Args, Flags, Spec};
use crate::commit::Commits;
use crate::entry::{self, Multi, Part, Unit, Watch};
use crate::error::CommandError;
use crate::notify::{self, Event, Events};
use crate::pending::{Batch, Place};
use crate::reply::Reply;
use crate::script::{Libraries, Scripts};
use crate::slots::Slots;
use crate::waiters::Waiters;
use commits::Asker;
use run::Ran;

/// Set in the ids of waits on memory keyspaces.
pub const MEMORY_WAIT: u64 = 1 << 62;

/// What a shard keeps of one durability class.
struct Half {
    tables: Tables,
    scripts: Scripts,
    waiters: Waiters,
    rng: Rng,
}

/// One shard's state.
pub struct State {
    logged: Half,
    memory: Half,
    /// Functions of all keyspaces, logged wherever any of them is.
    libraries: Libraries,
    /// The same where none is: no part of a snapshot.
    memory_libraries: Libraries,
    /// For requests of the leader's own clients that stand beside an entry: the entry's randomness is not theirs.
    local_rng: Rng,
    /// The registry: the meta group's; empty in any other.
    catalog: Catalog,
    /// etcd's keys, leases and users: the meta group's; empty in any other.
    coordination: Coordination,
    /// Who may come in by the doors: the meta group's; empty in any other. Shared, for its readers keep it.
    users: Arc<Users>,
    /// Whether the snapshot that is being written holds etcd's keys, and whether it has come to them.
    holds_etcd: bool,
    /// See `holds_etcd`.
    walks_etcd: bool,
    /// The cluster: the meta group's; empty in any other. Shared, for its readers keep it.
    cluster: Arc<Cluster>,
    /// The topics: the meta group's; empty in any other. Shared, for its readers keep it.
    topics: Arc<Topics>,
    /// Partitions, groups and transactional ids: a data group's.
    queue: Queue,
    /// Groups of the Redis door, by partition of a topic.
    streams: BTreeMap<PartitionId, Box<Stream>>,
    /// What those groups have met out of turn.
    turns: streams::AllTurns,
    /// Where their commands run; empty but for that.
    stream_tables: Option<Box<Tables>>,
    /// What a snapshot that is being written still has to say of them, and what has been read of one.
    streams_form: Vec<u8>,
    walks_streams: bool,
    /// Whether a snapshot has come to the queue.
    walks_queue: bool,
    /// Whether a snapshot has come to the registry.
    walks_catalog: bool,
    /// Extent files that the snapshot named which was read.
    files: Vec<store::extent::ExtentId>,
    /// The same, once they have been asked for.
    named: Vec<store::extent::ExtentId>,
    applied: u64,
    stamp: Millis,
    /// Replicated where they can matter, the defaults elsewhere.
    limits: Limits,
    slots: Slots,
    /// Commits across shards.
    commits: Commits,
    group: GroupId,
    /// Bytes of one answer to this node's clients.
    answer_bytes_max: usize,
    scratch: Reply,
    published: Vec<(Vec<u8>, Vec<u8>)>,
    /// What happened to keys in the unit at hand, which of it is wanted, and whether this node is to tell: it leads.
    events: Vec<Event>,
    wanted: Events,
    leads: bool,
    /// Whether clients of this node keep copies of what they read, and whether any of it may have changed.
    tracking: bool,
    all_changed: bool,
    panics: u64,
    expired: u64,
    evicted: u64,
    commands: u64,
    /// Of them, those with a key, by part of the slots; sampled.
    heat: [u64; HEAT_PARTS],
    /// Tests only: a bug to be found (see `sim`).
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

/// Bugs that the simulator must find.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// The snapshot says one index more than it holds.
    pub snapshot_index_off_by_one: bool,
    /// Entries at or below the applied index are applied again.
    pub applied_twice: bool,
    /// EXEC runs whatever has become of the watched keys.
    pub watch_ignored: bool,
    /// An entry changes keys of slots that the shard does not answer for.
    pub freeze_unchecked: bool,
    /// A word to answer for slots is believed though a newer attempt has begun.
    pub stale_open: bool,
    /// A snapshot's reader forgets the locks.
    pub locks_forgotten: bool,
    /// A read passes a lock.
    pub lock_read_through: bool,
    /// Whoever asks what has become of a transaction is told nothing, and it may be decided all the same.
    pub no_tombstone: bool,
    /// A participant locks whatever has become of the watched keys.
    pub prepare_unwatched: bool,
    /// A transaction is decided behind its deadline, when its tombstone may have gone.
    pub decided_late: bool,
    /// A word to finish is obeyed by whoever has finished already.
    pub finished_twice: bool,
    /// Slots are frozen while transactions hold keys in them.
    pub freeze_over_locks: bool,
    /// A snapshot's reader forgets what has been decided.
    pub decisions_forgotten: bool,
    /// A transaction that was told to begin again gets its locks all the same.
    pub locks_shared: bool,
    /// In etcd's keys.
    pub coordination: coordination::store::Planted,
    /// A MULTI is done whatever numbers it shows to fences.
    pub fences_ignored: bool,
    /// A renewal of a session is answered and changes nothing.
    pub session_renewals_forgotten: bool,
    /// A commit is done again whatever is known under its name.
    pub names_ignored: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a state at {}", self.applied)
    }
}

impl State {
    /// An empty shard that owns every key. Of the limits it takes `output_bytes_max` alone: what an entry meets is in the log.
    pub fn new(group: GroupId, limits: &Limits, keyspaces: Arc<Keyspaces>, seed: u64) -> State {
        let half = |seed| Half {
            tables: Tables::new(keyspaces.clone()),
            scripts: Scripts::default(),
            waiters: Waiters::new(group),
            rng: Rng::new(seed),
        };
        State {
            logged: half(0),
            memory: half(seed),
            libraries: Libraries::default(),
            memory_libraries: Libraries::default(),
            local_rng: Rng::new(!seed),
            catalog: Catalog::default(),
            coordination: Coordination::default(),
            users: Arc::default(),
            holds_etcd: false,
            walks_etcd: false,
            cluster: Arc::default(),
            topics: Arc::default(),
            queue: Queue::new(group),
            streams: BTreeMap::new(),
            turns: streams::AllTurns::new(),
            stream_tables: None,
            streams_form: Vec::new(),
            walks_streams: false,
            walks_queue: false,
            files: Vec::new(),
            named: Vec::new(),
            walks_catalog: false,
            applied: 0,
            stamp: 0,
            limits: Limits { hits: limits.hits.clone(), ..bounds::first() },
            slots: Slots::default(),
            commits: Commits::new(group),
            group,
            answer_bytes_max: limits.output_bytes_max,
            scratch: Reply::default(),
            published: Vec::new(),
            events: Vec::new(),
            wanted: Events::default(),
            leads: false,
            tracking: false,
            all_changed: false,
            panics: 0,
            expired: 0,
            evicted: 0,
            commands: 0,
            heat: [0; HEAT_PARTS],
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }

    /// Becomes a newer state of the same group; what this node has counted stays. Returns the old one, which may be large.
    pub fn replace(&mut self, newer: State) -> State {
        let old = std::mem::replace(self, newer);
        (self.commands, self.panics) = (old.commands, old.panics);
        self.heat = old.heat;
        (self.expired, self.evicted) = (old.expired, old.evicted);
        self.leads = old.leads;
        self.set_notifications(old.wanted);
        self.set_tracking(old.tracking);
        self.all_changed = true;
        old
    }

    /// Which of the things that happen to keys this node's clients want to hear of. Each node's own business.
    pub fn set_notifications(&mut self, wanted: Events) {
        self.wanted = wanted;
        self.set_noting();
    }

    /// Whether this node leads the shard: the one that tells of what happens to keys.
    pub fn set_leads(&mut self, leads: bool) {
        if self.leads != leads {
            self.leads = leads;
            self.set_noting();
        }
    }

    /// Whether this node's clients keep copies of what they read (CLIENT TRACKING), so that every change is told to the sink.
    pub fn set_tracking(&mut self, tracking: bool) {
        self.tracking = tracking;
        self.set_noting();
    }

    fn set_noting(&mut self) {
        self.events.clear();
        let wanted = self.wanted.is_on();
        self.logged.tables.set_noting(self.tracking || wanted && self.leads);
        self.memory.tables.set_noting(self.tracking || wanted);
    }

    /// Who may come in by the doors, as of the last entry: the meta group's; empty in any other.
    pub fn users(&self) -> &Arc<Users> {
        &self.users
    }

    /// Index of the last entry that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Shard time of the last entry.
    pub fn stamp(&self) -> Millis {
        self.stamp
    }

    /// Commands run so far, and how many of our own bugs they met.
    pub fn counts(&self) -> (u64, u64) {
        (self.commands, self.panics)
    }

    /// How the commands fell on the parts of the slots ([`cluster::growth`]), roughly.
    pub fn heat(&self) -> &[u64; HEAT_PARTS] {
        &self.heat
    }

    /// Keys that expired and keys that were evicted on this node since its start.
    pub fn gone(&self) -> (u64, u64) {
        (self.expired, self.evicted)
    }

    /// Scripts that EVALSHA finds, and the bytes of their sources.
    pub fn scripts_kept(&self) -> (u64, u64) {
        let halves = [&self.logged.scripts, &self.memory.scripts];
        halves.iter().fold((0, 0), |(count, bytes), kept| (count + kept.len() as u64, bytes + kept.bytes() as u64))
    }

    /// How often a key was changed.
    pub fn key_changes(&self) -> u64 {
        self.logged.tables.sequence() + self.memory.tables.sequence()
    }

    /// Libraries, functions, and their bytes.
    pub fn functions_kept(&self) -> (u64, u64, u64) {
        let kept = if self.keyspaces().classes().1 { &self.libraries } else { &self.memory_libraries };
        let (libraries, functions) = kept.counts();
        (libraries as u64, functions as u64, kept.bytes() as u64)
    }

    /// The tables of one class.
    pub fn tables(&self, class: Durability) -> &Tables {
        match class {
            Durability::Fsync => &self.logged.tables,
            Durability::Memory => &self.memory.tables,
        }
    }

    /// The tables of one class, to change what is not replicated state (walks).
    pub fn tables_mut(&mut self, class: Durability) -> &mut Tables {
        match class {
            Durability::Fsync => &mut self.logged.tables,
            Durability::Memory => &mut self.memory.tables,
        }
    }

    /// Who waits, by class.
    pub fn waiters(&self, class: Durability) -> &Waiters {
        match class {
            Durability::Fsync => &self.logged.waiters,
            Durability::Memory => &self.memory.waiters,
        }
    }

    /// Makes it one shard of several: what it has from the beginning.
    pub fn set_slots(&mut self, slots: Slots) {
        self.slots = slots;
    }

    /// The [replicated bounds](crate::bounds) in force.
    pub fn bounds(&self) -> &Limits {
        &self.limits
    }

    /// The settings in force.
    pub fn keyspaces(&self) -> &Arc<Keyspaces> {
        self.logged.tables.keyspaces()
    }

    /// The durability class of a command's keys. An error where they are of both.
    #[inline]
    pub fn class_of(&self, spec: &Spec, args: Args<'_>) -> Result<Durability, CommandError> {
        let keyspaces = self.keyspaces();
        if spec.flags.has(Flags::WHOLE) || matches!(spec.name, "script" | "function") {
            return Ok(self.class_of_whole());
        }
        if keyspaces.count() == 1 {
            return Ok(keyspaces.get(0).durability);
        }
        let mut class = None;
        for place in spec.key_places(args) {
            let own = self.class_of_key(args[place]);
            if *class.get_or_insert(own) != own {
                return Err(MIXED);
            }
        }
        // A script without keys is logged wherever anything is: it may touch whatever it likes.
        Ok(class.unwrap_or_else(|| self.class_of_whole()))
    }

    /// The durability class of what names no keys: logged wherever anything is.
    pub fn class_of_whole(&self) -> Durability {
        if self.keyspaces().classes().1 { Durability::Fsync } else { Durability::Memory }
    }

    /// The durability class of one key.
    pub fn class_of_key(&self, key: &[u8]) -> Durability {
        self.logged.tables.durability(key)
    }

    /// What WATCH remembers of a key.
    pub fn version(&self, db: u8, key: &[u8], now: Millis) -> u64 {
        self.tables(self.class_of_key(key)).version(db, key, now)
    }
    /// Counts an entry that changes nothing here (a change of membership).
    pub fn pass(&mut self, index: u64) {
        self.applied = self.applied.max(index);
    }

    // ---- apply -----------------------------------------------------------------------------------------------------

    /// Applies one committed entry. `batch` holds the requests of this node's clients that the entry answers; without it
    /// nobody here asked. An error means that the log says something this build cannot understand: the node must stop.
    pub fn apply<C: Clone, S: Sink<C>>(
        &mut self,
        index: u64,
        data: &[u8],
        batch: Option<&Batch<C>>,
        sink: &mut S,
    ) -> Result<(), Corrupt> {
        if index <= self.applied {
            #[cfg(any(test, feature = "planted"))]
            let again = self.planted.applied_twice;
            #[cfg(not(any(test, feature = "planted")))]
            let again = false;
            if !again {
                return Ok(());
            }
        } else {
            assert_eq!(index, self.applied + 1, "entries are applied in order, each once");
            self.applied = index;
        }
        self.queue.take_grown();
        if data.is_empty() {
            self.queue.new_leader();
            self.coordination.new_leader();
            self.catalog.new_leader();
            // A new leader's first entry: whoever waited, waited at another leader.
            for waiter in self.logged.waiters.clear() {
                sink.served(waiter, b"-UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)\r\n");
            }
            self.update_watching();
            return Ok(());
        }
        let mut input = Input::new(data);
        let (stamp, seed) = entry::read_header(&mut input)?;
        self.stamp = self.stamp.max(stamp);
        self.logged.rng = Rng::new(seed);
        let mut local = batch.map(Batch::local).unwrap_or(Input::new(&[]));
        if batch.is_some() {
            sink.begin();
        }
        for request in batch.map_or(&[][..], Batch::requests) {
            let source = match request.place {
                Place::Logged => &mut input,
                Place::Local => &mut local,
            };
            let begun = *source;
            let unit = entry::read_unit(source)?;
            let raw = begun.until(source);
            let end = data.len() - input.len();
            self.unit(unit, raw, end, request.place, self.stamp, request.client.as_ref(), sink);
        }
        while !input.is_empty() {
            let begun = input;
            let unit = entry::read_unit(&mut input)?;
            let end = data.len() - input.len();
            self.unit::<C, S>(unit, begun.until(&input), end, Place::Logged, self.stamp, None, sink);
        }
        Ok(())
    }

    /// Runs requests that need no entry, in order: a batch whose logged part is empty.
    pub fn run_local<C: Clone, S: Sink<C>>(
        &mut self,
        batch: &Batch<C>,
        now: Millis,
        sink: &mut S,
    ) -> Result<(), Corrupt> {
        let mut local = batch.local();
        let now = now.max(self.stamp);
        sink.begin();
        for request in batch.requests() {
            assert_eq!(request.place, Place::Local, "a batch without an entry has local requests only");
            let begun = local;
            let unit = entry::read_unit(&mut local)?;
            self.unit(unit, begun.until(&local), 0, Place::Local, now, request.client.as_ref(), sink);
        }
        Ok(())
    }

    /// One unit, whose form is `raw` and ends at `end` of the entry's data where it stands there.
    #[allow(clippy::too_many_arguments)]
    fn unit<C: Clone, S: Sink<C>>(
        &mut self,
        unit: Unit<'_>,
        raw: &[u8],
        end: usize,
        place: Place,
        now: Millis,
        client: Option<&C>,
        sink: &mut S,
    ) {
        if self.is_elsewhere(&unit) {
            if let Some(client) = client {
                sink.refused(client, format!("-{}\r\n", NOT_HERE.0).as_bytes());
            }
            return;
        }
        if self.held_back(&unit, raw, place, client, sink) {
            return;
        }
        let asker = client.map_or(Asker::Nobody, Asker::Client);
        self.run(unit, end, place, now, asker, sink);
        self.run_ready::<C, S>(now, sink);
    }

    /// A unit that nothing holds back.
    fn run<C: Clone, S: Sink<C>>(
        &mut self,
        unit: Unit<'_>,
        end: usize,
        place: Place,
        now: Millis,
        asker: Asker<'_, C>,
        sink: &mut S,
    ) {
        let mut reply = std::mem::take(&mut self.scratch);
        reply.bytes.clear();
        reply.bytes_max = self.answer_bytes_max;
        if place == Place::Local {
            std::mem::swap(&mut self.logged.rng, &mut self.local_rng);
        }
        let answered = match unit {
            Unit::Command { db, protocol, words } => {
                reply.protocol = protocol;
                // Only an entry of a newer build can hold an unknown one: refused alike on every replica of this build.
                let spec = command::find(words[0]).ok_or(CommandError::new("ERR unknown command"));
                let call = spec.clone().map(|spec| Call { may_block: true, ..Call::new(spec, db, &words, now) });
                let answered = self.unit_command(call, place, asker, &mut reply, sink);
                if let (true, Asker::Client(client), Ok(spec)) = (answered, asker, spec) {
                    sink.ran(client, spec, &words, &reply.bytes);
                }
                answered
            }
            Unit::Multi(multi) => {
                reply.protocol = multi.protocol;
                self.unit_multi(multi, end, place, now, asker, &mut reply, sink);
                true
            }
            Unit::Expire(mut keys) => {
                while let Ok(Some((db, key))) = entry::read_expire(&mut keys) {
                    if self.logged.tables.peek(db, key, now).is_none() {
                        let before = self.logged.tables.len(db);
                        self.logged.tables.remove(db, key, now);
                        self.expired += (before - self.logged.tables.len(db)) as u64;
                    }
                }
                false
            }
            Unit::Unblock { waiter, how } => {
                self.unblock(waiter, how, sink);
                false
            }
            Unit::Keyspaces(keyspaces) => {
                let keyspaces = Arc::new(keyspaces);
                self.logged.tables.set_keyspaces(keyspaces.clone());
                self.memory.tables.set_keyspaces(keyspaces);
                false
            }
            Unit::Bounds(limits) => {
                self.limits = Limits { hits: self.limits.hits.clone(), ..*limits };
                false
            }
            Unit::Literal(bytes) => {
                reply.bytes.extend_from_slice(bytes);
                true
            }
            Unit::Versions(mut keys) => {
                while let Ok(Some((db, key))) = entry::read_expire(&mut keys) {
                    put_u64(&mut reply.bytes, self.version(db, key, now));
                }
                true
            }
            Unit::Change(change) => {
                self.change(&change, &mut reply);
                true
            }
            Unit::Etcd(command) => {
                assert_eq!(place, Place::Logged, "etcd's keys are changed by entries only");
                self.etcd_command(&command, &mut reply);
                true
            }
            Unit::Queue(command, bytes) => {
                assert_eq!(place, Place::Logged, "the queue is changed by entries only");
                self.queue_command(&command, bytes, end, &mut reply);
                true
            }
            Unit::Stream { protocol, op } => {
                reply.protocol = protocol;
                self.stream_op(&op, end, place, now, &mut reply);
                true
            }
            Unit::Topics(change) => {
                self.topics_change(&change, &mut reply);
                true
            }
            Unit::Users(change) => {
                let outcome = Arc::make_mut(&mut self.users).apply(&change);
                reply.bytes.extend_from_slice(&outcome.encode());
                true
            }
            Unit::Commit(step) => {
                self.step::<C, S>(&step, end, now, &mut reply, sink);
                true
            }
            Unit::Slots(change) => {
                let answer = self.slot_change(change, now, sink);
                reply.bytes.extend_from_slice(&answer.encode());
                true
            }
            Unit::Cluster(change) => {
                let outcome = Arc::make_mut(&mut self.cluster).apply(&change, self.applied, now);
                reply.bytes.extend_from_slice(&outcome.encode());
                true
            }
        };
        if place == Place::Local {
            std::mem::swap(&mut self.logged.rng, &mut self.local_rng);
        }
        match asker {
            Asker::Client(client) if answered => sink.reply(client, &reply.bytes),
            Asker::Ticket(ticket) if answered => {
                if sink.awaits(ticket) {
                    self.publish(sink);
                }
                sink.served(ticket, &reply.bytes);
            }
            _ => {}
        }
        // A scratch that one huge answer has blown up is not kept.
        if reply.bytes.capacity() <= 1 << 20 {
            self.scratch = reply;
        }
        if matches!(asker, Asker::Client(_)) {
            self.publish(sink);
        } else {
            // Whoever leads has clients that asked, and tells those of the other nodes.
            self.published.clear();
        }
        self.serve(Durability::Fsync, now, sink);
        if place == Place::Local {
            self.serve(Durability::Memory, now, sink);
        }
        let by = if let Asker::Client(client) = asker { Some(client) } else { None };
        self.tell_events(by, sink);
    }

    /// Tells of what happened to keys, and forgets it. What no command did (an expiry, slots that came) is told here too.
    fn tell_events<C, S: Sink<C>>(&mut self, by: Option<&C>, sink: &mut S) {
        if !self.wanted.is_on() && !self.tracking {
            return;
        }
        for class in [Durability::Fsync, Durability::Memory] {
            let mut events = std::mem::take(&mut self.events);
            let half = self.half_mut(class);
            if half.tables.has_noted() {
                notify::expired(&mut half.tables, &mut events);
            }
            self.events = events;
        }
        if self.tracking {
            if std::mem::take(&mut self.all_changed) {
                sink.all_changed();
            }
            if !self.events.is_empty() {
                let keys: BTreeSet<&[u8]> = self.events.iter().map(|event| &event.key[..]).collect();
                sink.changed(by, &keys);
            }
        }
        let is_told = self.leads && self.wanted.is_on();
        for event in self.events.drain(..).filter(|_| is_told) {
            event.messages(self.wanted, |channel, message| sink.publish(channel, message));
        }
    }

    /// Runs a unit's one command. False where it began to wait.
    fn unit_command<C: Clone, S: Sink<C>>(
        &mut self,
        call: Result<Call<'_>, CommandError>,
        place: Place,
        asker: Asker<'_, C>,
        reply: &mut Reply,
        sink: &mut S,
    ) -> bool {
        let checked = call.and_then(|call| Ok((self.checked_class(call.spec, call.args, place)?, call)));
        let (class, call) = match checked {
            Ok(checked) => checked,
            Err(error) => {
                reply.error(&error.0);
                return true;
            }
        };
        match self.guarded(class, &call, reply) {
            Ran::Answered => true,
            Ran::Waits(block) => {
                self.park(class, &call, reply.protocol, block, asker, sink);
                false
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn unit_multi<C: Clone, S: Sink<C>>(
        &mut self,
        mut multi: Multi<'_>,
        end: usize,
        place: Place,
        now: Millis,
        asker: Asker<'_, C>,
        reply: &mut Reply,
        sink: &mut S,
    ) {
        let only_here = |watch: &Watch| self.class_of_key(&watch.key) == Durability::Memory;
        if place == Place::Logged && multi.watches.iter().any(only_here) {
            // Its outcome would differ where that key is not: on replicas, and here after a restart.
            return reply.error(&MIXED.0);
        }
        let begun = reply.bytes.len();
        // Before anything that was watched is looked at: by itself it may have been changed.
        let Ok(named) = self.named(&multi, place, now, reply) else {
            return;
        };
        let mut is_first = named.is_some();
        let changed = multi.watches.iter().any(|Watch { db, key, version }| self.version(*db, key, now) != *version);
        #[cfg(any(test, feature = "planted"))]
        let changed = changed && !self.planted.watch_ignored;
        if changed {
            return reply.null_array();
        }
        if let Some(error) = self.fenced(&multi, now) {
            return reply.error(&error.0);
        }
        if let Some(error) = self.streams_refusal(&multi) {
            return reply.error(&format!("EXECABORT Transaction discarded because of: {}", error.0));
        }
        reply.array(multi.count);
        for _ in 0..multi.count {
            match multi.next_part() {
                Ok(Part::Literal(bytes)) => reply.bytes.extend_from_slice(bytes),
                // The parts end where the unit does.
                Ok(Part::Stream(op, behind)) => {
                    self.stream_op(&op, end.saturating_sub(behind), place, now, reply);
                }
                Ok(Part::Command(..)) if std::mem::take(&mut is_first) => reply.ok(),
                Ok(Part::Command(db, words)) => match command::find(words[0]) {
                    Some(spec) => {
                        let begun = reply.bytes.len();
                        self.unit_command(Ok(Call::new(spec, db, &words, now)), place, Asker::<C>::Nobody, reply, sink);
                        if let Asker::Client(client) = asker {
                            sink.ran(client, spec, &words, &reply.bytes[begun..]);
                        }
                    }
                    None => self.door_command(&words, reply, sink),
                },
                Err(corrupt) => reply.error(&format!("ERR {corrupt}")),
            }
        }
        if let Some(named) = named {
            self.keep_named(&named, &reply.bytes[begun..], reply, now);
        }
    }

    /// PUBLISH in a MULTI: the one command of the door that has an effect at apply.
    fn door_command<C, S: Sink<C>>(&mut self, args: Args<'_>, reply: &mut Reply, sink: &S) {
        self.commands += 1;
        match args {
            [_, channel, message] => {
                reply.int(sink.receivers(channel));
                self.published.push((channel.to_vec(), message.to_vec()));
            }
            _ => reply.error("ERR unknown command"),
        }
    }

    /// The class of a unit's command, refused where it does not belong in this place: the settings may have changed
    /// between proposal and apply.
    fn checked_class(&self, spec: &Spec, args: Args<'_>, place: Place) -> Result<Durability, CommandError> {
        let class = self.class_of(spec, args)?;
        let logged_write = place == Place::Logged && spec.is_write();
        if logged_write && class == Durability::Memory {
            return Err(CommandError::new(
                "ERR the durability of this key's keyspace changed while the command was under way; nothing was done, try it again",
            ));
        }
        if place == Place::Local && spec.is_write() && class == Durability::Fsync {
            return Err(MIXED);
        }
        Ok(class)
    }

    fn half_mut(&mut self, class: Durability) -> &mut Half {
        match class {
            Durability::Fsync => &mut self.logged,
            Durability::Memory => &mut self.memory,
        }
    }

    fn publish<C, S: Sink<C>>(&mut self, sink: &mut S) {
        for (channel, message) in self.published.drain(..) {
            sink.publish(&channel, &message);
        }
    }
}

/// A unit touches keys of both durability classes.
pub const MIXED: CommandError = CommandError::new(
    "CROSSKEYSPACE keys of a memory keyspace and of a logged one cannot change together; split the command or give both keyspaces one durability",
);

#[cfg(test)]
mod tests;

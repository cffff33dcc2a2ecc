//! The state machine of one shard: entries in, tables and answers out.
//!
//! Applied on every replica in log order. On the leader a [`Sink`] receives the answers and a list of requests says whose
//! they are; the leader's own requests that are not logged (a read behind a write in one pipeline, a write to a memory
//! keyspace) run in their place between the logged units.
//!
//! Deterministic in everything that is logged. A command that panics is a bug of ours, but it must not become a node that
//! dies again at every start: the unit ends with an error, on every replica alike, and the panic is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use base::{GroupId, Limits, Millis, Rng};
use store::codec::{Corrupt, Input, Stored, put_u64, put_varint};
use store::keyspace::{Durability, Eviction, Keyspaces};
use store::table::Tables;
use store::value::Value;

use crate::command::{self, Args, Block, Flags, Reading, Run, Served, Spec, Writing};
use crate::entry::{self, Multi, Part, Unblock, Unit, Watch};
use crate::error::{CommandError, WRONG_TYPE};
use crate::pending::{Batch, Place};
use crate::reply::{Protocol, Reply};
use crate::script::Scripts;
use crate::waiters::{Waiter, Waiters};

/// Set in the ids of waits on memory keyspaces.
pub const MEMORY_WAIT: u64 = 1 << 62;

/// Where a leader's answers go.
pub trait Sink<C> {
    /// The next answer of this client.
    fn reply(&mut self, client: &C, bytes: &[u8]);
    /// The client's request waits under this id; its answer comes by [`Sink::served`].
    fn parked(&mut self, client: &C, waiter: u64);
    /// The answer of a request that waited. Ids that nobody on this node waits for are ignored.
    fn served(&mut self, waiter: u64, bytes: &[u8]);
    /// The outcome of this client's request is unknown: its connection must be closed, never answered.
    fn lost(&mut self, client: &C);
    /// A message published by a MULTI or a script.
    fn publish(&mut self, channel: &[u8], message: &[u8]);
    /// How many clients of this node a message on the channel would reach.
    fn receivers(&self, channel: &[u8]) -> i64;
    /// A number by which people know this client; 0 for none.
    fn number(&self, _client: &C) -> u64 {
        0
    }
}

/// A sink for replicas: nobody asked.
pub struct Silent;

impl<C> Sink<C> for Silent {
    fn reply(&mut self, _: &C, _: &[u8]) {}
    fn parked(&mut self, _: &C, _: u64) {}
    fn served(&mut self, _: u64, _: &[u8]) {}
    fn lost(&mut self, _: &C) {}
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

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
    /// For requests of the leader's own clients that stand beside an entry: the entry's randomness is not theirs.
    local_rng: Rng,
    applied: u64,
    stamp: Millis,
    limits: Limits,
    scratch: Reply,
    published: Vec<(Vec<u8>, Vec<u8>)>,
    panics: u64,
    commands: u64,
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
}

/// How one command ended.
enum Ran {
    Answered,
    Waits(Block),
}

impl State {
    /// An empty shard.
    pub fn new(group: GroupId, limits: Limits, keyspaces: Arc<Keyspaces>, seed: u64) -> State {
        let half = |seed| Half {
            tables: Tables::new(keyspaces.clone()),
            scripts: Scripts::default(),
            waiters: Waiters::new(group),
            rng: Rng::new(seed),
        };
        State {
            logged: half(0),
            memory: half(seed),
            local_rng: Rng::new(!seed),
            applied: 0,
            stamp: 0,
            limits,
            scratch: Reply::default(),
            published: Vec::new(),
            panics: 0,
            commands: 0,
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
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

    /// The settings in force.
    pub fn keyspaces(&self) -> &Arc<Keyspaces> {
        self.logged.tables.keyspaces()
    }

    /// The durability class of a command's keys. An error where they are of both.
    #[inline]
    pub fn class_of(&self, spec: &Spec, args: Args<'_>) -> Result<Durability, CommandError> {
        let keyspaces = self.keyspaces();
        if spec.flags.has(Flags::WHOLE) || spec.name == "script" {
            return Ok(if keyspaces.classes().1 { Durability::Fsync } else { Durability::Memory });
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
        Ok(class.unwrap_or(if keyspaces.classes().1 { Durability::Fsync } else { Durability::Memory }))
    }

    /// The durability class of one key.
    pub fn class_of_key(&self, key: &[u8]) -> Durability {
        self.logged.tables.durability(key)
    }

    /// What WATCH remembers of a key.
    pub fn version(&self, db: u8, key: &[u8], now: Millis) -> u64 {
        self.tables(self.class_of_key(key)).version(db, key, now)
    }

    /// Runs a read now, under a shared lock. A wish to wait comes back for the caller to place in the order.
    #[allow(clippy::too_many_arguments)]
    #[inline]
    pub fn read(
        &self,
        spec: &Spec,
        db: u8,
        args: Args<'_>,
        now: Millis,
        rng: &mut Rng,
        may_block: bool,
        reply: &mut Reply,
    ) -> Option<Block> {
        let begun = reply.bytes.len();
        let class = match self.class_of(spec, args) {
            Ok(class) => class,
            Err(error) => {
                reply.error(&error.0);
                return None;
            }
        };
        let Run::Read(run) = spec.run else {
            reply.error("ERR a write cannot run as a read");
            return None;
        };
        let (tables, other) = match class {
            Durability::Fsync => (&self.logged.tables, &self.memory.tables),
            Durability::Memory => (&self.memory.tables, &self.logged.tables),
        };
        let mut reading = Reading { db, now: now.max(self.stamp), tables, other, rng, may_block, block: None };
        if let Err(error) = run(&mut reading, args, reply) {
            reply.bytes.truncate(begun);
            reply.error(&error.0);
        }
        reading.block
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
        if data.is_empty() {
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
        for request in batch.map_or(&[][..], Batch::requests) {
            let source = match request.place {
                Place::Logged => &mut input,
                Place::Local => &mut local,
            };
            let unit = entry::read_unit(source)?;
            self.unit(unit, request.place, self.stamp, request.client.as_ref(), sink);
        }
        while !input.is_empty() {
            let unit = entry::read_unit(&mut input)?;
            self.unit::<C, S>(unit, Place::Logged, self.stamp, None, sink);
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
        for request in batch.requests() {
            assert_eq!(request.place, Place::Local, "a batch without an entry has local requests only");
            let unit = entry::read_unit(&mut local)?;
            self.unit(unit, Place::Local, now, request.client.as_ref(), sink);
        }
        Ok(())
    }

    /// Runs one write on a memory keyspace now, for a client that waits for nothing else. False where it began to wait.
    #[allow(clippy::too_many_arguments)]
    pub fn run_memory<C: Clone, S: Sink<C>>(
        &mut self,
        spec: &Spec,
        db: u8,
        args: Args<'_>,
        now: Millis,
        client: &C,
        reply: &mut Reply,
        sink: &mut S,
    ) -> bool {
        let now = now.max(self.stamp);
        let protocol = reply.protocol;
        let ran = self.guarded(Durability::Memory, reply, |state, reply| {
            state.command(
                Some(spec),
                Durability::Memory,
                db,
                args,
                now,
                true,
                Served::First,
                reply,
                sink_receivers(sink),
            )
        });
        match ran {
            Ran::Waits(block) => {
                let words = args.iter().map(|word| word.to_vec()).collect();
                self.park(Durability::Memory, db, protocol, words, block, false, Some(client), reply, sink)
            }
            Ran::Answered => {
                self.publish(sink);
                self.serve(Durability::Memory, now, sink);
                true
            }
        }
    }

    fn unit<C: Clone, S: Sink<C>>(
        &mut self,
        unit: Unit<'_>,
        place: Place,
        now: Millis,
        client: Option<&C>,
        sink: &mut S,
    ) {
        let mut reply = std::mem::take(&mut self.scratch);
        reply.bytes.clear();
        if place == Place::Local {
            std::mem::swap(&mut self.logged.rng, &mut self.local_rng);
        }
        let answered = match unit {
            Unit::Command { db, protocol, words } => {
                reply.protocol = protocol;
                self.unit_command(db, &words, place, now, client, &mut reply, sink)
            }
            Unit::Multi(multi) => {
                reply.protocol = multi.protocol;
                self.unit_multi(multi, place, now, &mut reply, sink);
                true
            }
            Unit::Expire(mut keys) => {
                while let Ok(Some((db, key))) = entry::read_expire(&mut keys) {
                    if self.logged.tables.peek(db, key, now).is_none() {
                        self.logged.tables.remove(db, key, now);
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
            Unit::Literal(bytes) => {
                reply.bytes.extend_from_slice(bytes);
                true
            }
        };
        if place == Place::Local {
            std::mem::swap(&mut self.logged.rng, &mut self.local_rng);
        }
        if answered && let Some(client) = client {
            sink.reply(client, &reply.bytes);
        }
        // A scratch that one huge answer has blown up is not kept.
        if reply.bytes.capacity() <= 1 << 20 {
            self.scratch = reply;
        }
        self.publish(sink);
        self.serve(Durability::Fsync, now, sink);
        if place == Place::Local {
            self.serve(Durability::Memory, now, sink);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn unit_command<C: Clone, S: Sink<C>>(
        &mut self,
        db: u8,
        args: Args<'_>,
        place: Place,
        now: Millis,
        client: Option<&C>,
        reply: &mut Reply,
        sink: &mut S,
    ) -> bool {
        let Some(spec) = command::find(args[0]) else {
            // Only an entry of a newer build can hold one: refused alike on every replica of this build.
            reply.error("ERR unknown command");
            return true;
        };
        let class = match self.checked_class(spec, args, place) {
            Ok(class) => class,
            Err(error) => {
                reply.error(&error.0);
                return true;
            }
        };
        let ran = self.guarded(class, reply, |state, reply| {
            state.command(Some(spec), class, db, args, now, true, Served::First, reply, sink_receivers(sink))
        });
        match ran {
            Ran::Answered => true,
            Ran::Waits(block) => {
                let words = args.iter().map(|word| word.to_vec()).collect();
                // A waiting read changes nothing, so only the leader needs to know of it.
                let local = !spec.is_write();
                self.park(class, db, reply.protocol, words, block, local, client, reply, sink)
            }
        }
    }

    fn unit_multi<C, S: Sink<C>>(
        &mut self,
        mut multi: Multi<'_>,
        place: Place,
        now: Millis,
        reply: &mut Reply,
        sink: &mut S,
    ) {
        let only_here = |watch: &Watch| self.class_of_key(&watch.key) == Durability::Memory;
        if place == Place::Logged && multi.watches.iter().any(only_here) {
            // Its outcome would differ where that key is not: on replicas, and here after a restart.
            return reply.error(&MIXED.0);
        }
        let changed = multi.watches.iter().any(|Watch { db, key, version }| self.version(*db, key, now) != *version);
        #[cfg(any(test, feature = "planted"))]
        let changed = changed && !self.planted.watch_ignored;
        if changed {
            return reply.null_array();
        }
        reply.array(multi.count);
        for _ in 0..multi.count {
            match multi.next_part() {
                Ok(Part::Literal(bytes)) => reply.bytes.extend_from_slice(bytes),
                Ok(Part::Command(db, words)) => {
                    let spec = command::find(words[0]);
                    let class = match spec {
                        Some(spec) => self.checked_class(spec, &words, place),
                        None => Ok(Durability::Fsync),
                    };
                    match class {
                        Ok(class) => {
                            self.guarded(class, reply, |state, reply| {
                                let receivers = sink_receivers(sink);
                                state.command(spec, class, db, &words, now, false, Served::First, reply, receivers)
                            });
                        }
                        Err(error) => reply.error(&error.0),
                    }
                    // More than a client may have outstanding closes it: what is beyond need not be kept.
                    reply.bytes.truncate(self.limits.output_bytes_max.saturating_add(1));
                }
                Err(corrupt) => reply.error(&format!("ERR {corrupt}")),
            }
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

    /// Runs a command and turns a panic into an error.
    fn guarded(
        &mut self,
        class: Durability,
        reply: &mut Reply,
        run: impl FnOnce(&mut State, &mut Reply) -> Ran,
    ) -> Ran {
        let begun = reply.bytes.len();
        self.commands += 1;
        match catch_unwind(AssertUnwindSafe(|| run(self, reply))) {
            Ok(ran) => ran,
            Err(_) => {
                self.panics += 1;
                reply.bytes.truncate(begun);
                reply.error(
                    "ERR internal error: this command met a bug of quorate; please report it with its arguments",
                );
                // The interpreter may be in any state; it is made anew.
                self.half_mut(class).scripts.forget_interpreter();
                Ran::Answered
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn command(
        &mut self,
        spec: Option<&Spec>,
        class: Durability,
        db: u8,
        args: Args<'_>,
        now: Millis,
        may_block: bool,
        served: Served,
        reply: &mut Reply,
        receivers: impl Fn(&[u8]) -> i64,
    ) -> Ran {
        let begun = reply.bytes.len();
        let Some(spec) = spec else {
            // PUBLISH is the one command of the door that has an effect at apply.
            if args.len() == 3 {
                reply.int(receivers(args[1]));
                self.published.push((args[1].to_vec(), args[2].to_vec()));
            } else {
                reply.error("ERR unknown command");
            }
            return Ran::Answered;
        };
        if spec.flags.has(Flags::GROWS)
            && let Err(error) = self.make_room(spec, class, args, now)
        {
            reply.error(&error.0);
            return Ran::Answered;
        }
        let (half, other) = match class {
            Durability::Fsync => (&mut self.logged, &mut self.memory),
            Durability::Memory => (&mut self.memory, &mut self.logged),
        };
        let (outcome, block) = match spec.run {
            Run::Read(run) => {
                let mut reading = Reading {
                    db,
                    now,
                    tables: &half.tables,
                    other: &other.tables,
                    rng: &mut half.rng,
                    may_block,
                    block: None,
                };
                (run(&mut reading, args, reply), reading.block)
            }
            Run::Write(run) => {
                let mut writing = Writing {
                    db,
                    now,
                    tables: &mut half.tables,
                    other: &mut other.tables,
                    rng: &mut half.rng,
                    may_block: may_block && half.waiters.replicated() < self.limits.waiters_max,
                    served,
                    block: None,
                    scripts: &mut half.scripts,
                    limits: &self.limits,
                    published: &mut self.published,
                };
                (run(&mut writing, args, reply), writing.block)
            }
        };
        match (outcome, block) {
            (Err(error), _) => {
                reply.bytes.truncate(begun);
                reply.error(&error.0);
                Ran::Answered
            }
            (Ok(()), Some(block)) => Ran::Waits(block),
            (Ok(()), None) => Ran::Answered,
        }
    }

    /// Before a command that grows memory: evicts from a memory keyspace over its budget, or refuses.
    fn make_room(&mut self, spec: &Spec, class: Durability, args: Args<'_>, now: Millis) -> Result<(), CommandError> {
        const OOM: CommandError = CommandError::new("OOM command not allowed when used memory > 'maxmemory'.");
        const SAMPLES: usize = 5;
        let keyspaces = self.keyspaces().clone();
        if keyspaces.iter().all(|space| space.max_bytes == 0) {
            return Ok(());
        }
        let half = self.half_mut(class);
        for place in spec.key_places(args) {
            let id = keyspaces.of(args[place]);
            let settings = keyspaces.get(id);
            let incoming: usize = args.iter().map(|word| word.len()).sum();
            while settings.max_bytes != 0 && half.tables.usage(id).bytes + incoming as u64 > settings.max_bytes {
                // In a logged keyspace an eviction would have to be an entry of its own: refused until it is.
                if settings.eviction == Eviction::Refuse || class == Durability::Fsync {
                    return Err(OOM);
                }
                let Some((db, key)) = half.tables.eviction_candidate(id, SAMPLES, &mut half.rng) else {
                    return Err(OOM);
                };
                half.tables.remove(db, &key, now);
            }
        }
        Ok(())
    }

    fn half_mut(&mut self, class: Durability) -> &mut Half {
        match class {
            Durability::Fsync => &mut self.logged,
            Durability::Memory => &mut self.memory,
        }
    }

    // ---- waiting ---------------------------------------------------------------------------------------------------

    /// Puts a command among the waiting. Always false: there is no answer yet.
    #[allow(clippy::too_many_arguments)]
    fn park<C, S: Sink<C>>(
        &mut self,
        class: Durability,
        db: u8,
        protocol: Protocol,
        words: Vec<Vec<u8>>,
        block: Block,
        local: bool,
        client: Option<&C>,
        _reply: &mut Reply,
        sink: &mut S,
    ) -> bool {
        let half = self.half_mut(class);
        let mut id = half.waiters.add(db, protocol, words, block, local);
        half.tables.set_watching(true);
        if class == Durability::Memory {
            id |= MEMORY_WAIT;
        }
        if let Some(client) = client {
            sink.parked(client, id);
        }
        false
    }

    fn update_watching(&mut self) {
        for half in [&mut self.logged, &mut self.memory] {
            half.tables.set_watching(!half.waiters.is_empty());
        }
    }

    /// Ends a wait other than by data: by its entry, or at once where it is not replicated.
    pub fn unblock<C, S: Sink<C>>(&mut self, waiter: u64, how: Unblock, sink: &mut S) {
        let class = if waiter & MEMORY_WAIT != 0 { Durability::Memory } else { Durability::Fsync };
        let Some(wait) = self.half_mut(class).waiters.remove(waiter & !MEMORY_WAIT) else {
            return;
        };
        let mut reply = Reply::new(wait.protocol);
        match how {
            Unblock::Timeout if wait.null_is_array => reply.null_array(),
            Unblock::Timeout => reply.null(),
            Unblock::Error => reply.error("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            Unblock::Gone => {}
        }
        sink.served(waiter, &reply.bytes);
        self.update_watching();
    }

    /// Ends every wait on logged keys with this answer: the log has stopped, so nothing will feed them.
    pub fn end_waits<C, S: Sink<C>>(&mut self, answer: &[u8], sink: &mut S) {
        for waiter in self.logged.waiters.clear() {
            sink.served(waiter, answer);
        }
        self.update_watching();
    }

    /// Serves whoever waits for keys that have changed, in order, until nothing changes any more.
    fn serve<C, S: Sink<C>>(&mut self, class: Durability, now: Millis, sink: &mut S) {
        if self.half_mut(class).waiters.is_empty() {
            return;
        }
        loop {
            let touched = self.half_mut(class).tables.take_touched();
            if touched.is_empty() {
                break;
            }
            for (db, key) in touched {
                for id in self.half_mut(class).waiters.waiting_for(db, &key) {
                    self.try_serve(class, id, now, sink);
                }
            }
        }
        self.update_watching();
    }

    fn try_serve<C, S: Sink<C>>(&mut self, class: Durability, id: u64, now: Millis, sink: &mut S) {
        let Some(wait) = self.half_mut(class).waiters.get(id).cloned() else {
            return;
        };
        let args: Vec<&[u8]> = wait.words.iter().map(Vec::as_slice).collect();
        let Some(spec) = command::find(args[0]) else {
            return;
        };
        let mut reply = Reply::new(wait.protocol);
        let ran = self.guarded(class, &mut reply, |state, reply| {
            state.command(Some(spec), class, wait.db, &args, now, true, Served::Again, reply, sink_receivers(sink))
        });
        let wrong_kind = reply.bytes.strip_prefix(b"-").is_some_and(|text| text.starts_with(WRONG_TYPE.0.as_bytes()));
        if matches!(ran, Ran::Waits(_)) || (wrong_kind && !self.answers_wrong_kind(class, spec, &wait, now)) {
            return;
        }
        self.half_mut(class).waiters.remove(id);
        let id = if class == Durability::Memory { id | MEMORY_WAIT } else { id };
        sink.served(id, &reply.bytes);
    }

    /// A key that now holds another kind of value does not end a wait, but for XREADGROUP, and for a move whose source is
    /// there: then it is the destination that is wrong.
    fn answers_wrong_kind(&self, class: Durability, spec: &Spec, wait: &Waiter, now: Millis) -> bool {
        let source_is_list = || {
            let source = wait.keys.first().and_then(|key| self.tables(class).value(wait.db, key, now));
            matches!(source, Some(Value::List(_)))
        };
        match spec.name {
            "xreadgroup" => true,
            "blmove" | "brpoplpush" => source_is_list(),
            _ => false,
        }
    }

    fn publish<C, S: Sink<C>>(&mut self, sink: &mut S) {
        for (channel, message) in self.published.drain(..) {
            sink.publish(&channel, &message);
        }
    }

    // ---- snapshots ---------------------------------------------------------------------------------------------------

    /// Begins a snapshot of the logged half as it is now. Returns its index and its first chunk; [`State::walk`] gives the others.
    pub fn begin_snapshot(&mut self) -> (u64, Vec<u8>) {
        let mut chunk = vec![1];
        put_u64(&mut chunk, self.applied);
        put_varint(&mut chunk, self.stamp);
        self.logged.waiters.encode(&mut chunk);
        self.logged.scripts.encode(&mut chunk);
        self.logged.tables.encode_books(&mut chunk);
        self.logged.tables.begin_walk();
        #[cfg(any(test, feature = "planted"))]
        if self.planted.snapshot_index_off_by_one {
            chunk[1..9].copy_from_slice(&(self.applied + 1).to_le_bytes());
            return (self.applied + 1, chunk);
        }
        (self.applied, chunk)
    }

    /// Goes on with a snapshot. `None` where FLUSHALL or the like has ended it early: begin again.
    pub fn walk(&mut self, bytes: usize, out: &mut Vec<u8>) -> Option<bool> {
        if !self.logged.tables.is_walking() {
            return None;
        }
        Some(self.logged.tables.walk(bytes, out))
    }

    /// Reads a snapshot's first chunk.
    pub fn restore_first(&mut self, chunk: &[u8]) -> Result<(), Corrupt> {
        let mut input = Input::new(chunk);
        if input.u8()? != 1 {
            return Err(Corrupt("a snapshot of a version that this build does not know"));
        }
        self.applied = input.u64()?;
        self.stamp = input.varint()?;
        self.logged.waiters = Waiters::decode(&mut input)?;
        self.logged.scripts = Scripts::decode(&mut input)?;
        self.logged.tables.decode_books(&mut input)?;
        let keyspaces = self.logged.tables.keyspaces().clone();
        self.memory.tables = Tables::new(keyspaces);
        self.update_watching();
        Ok(())
    }

    /// Reads one of a snapshot's other chunks. Returns how many keys it held.
    pub fn restore(&mut self, chunk: &[u8]) -> Result<usize, Corrupt> {
        self.logged.tables.restore(chunk)
    }

    // ---- time --------------------------------------------------------------------------------------------------------

    /// Removes expired keys of memory keyspaces, at most `count`, and ends their waits. Logged ones need an entry.
    pub fn sweep_memory<C, S: Sink<C>>(&mut self, now: Millis, count: usize, sink: &mut S) {
        let mut gone = Vec::new();
        self.memory.tables.expired(now, count, |db, key| gone.push((db, key.to_vec())));
        for (db, key) in gone {
            self.memory.tables.remove(db, &key, now);
        }
        for waiter in self.memory.waiters.overdue(now) {
            self.unblock(waiter | MEMORY_WAIT, Unblock::Timeout, sink);
        }
    }

    /// When something next becomes due: an expiry or the end of a wait.
    pub fn next_due(&self) -> Option<Millis> {
        let halves = [&self.logged, &self.memory];
        halves.iter().flat_map(|half| [half.tables.next_expiry(), half.waiters.next_until()]).flatten().min()
    }
}

fn sink_receivers<C, S: Sink<C>>(sink: &S) -> impl Fn(&[u8]) -> i64 + '_ {
    |channel| sink.receivers(channel)
}

/// A unit touches keys of both durability classes.
pub const MIXED: CommandError = CommandError::new(
    "CROSSKEYSPACE keys of a memory keyspace and of a logged one cannot change together; split the command or give both keyspaces one durability",
);

#[cfg(test)]
mod tests;

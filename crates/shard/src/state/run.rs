//! How one command runs: on which tables, within which bounds, and what its panic comes to.

use std::panic::{AssertUnwindSafe, catch_unwind};

use base::{Limit, Millis, Rng};
use cluster::growth::PART_SLOTS;
use store::keyspace::{Durability, Eviction};

use super::commits::Asker;
use super::{Sink, State};
use crate::command::{Args, Block, Flags, Reading, Run, Served, Spec, Writing};
use crate::error::CommandError;
use crate::notify;
use crate::reply::Reply;

/// Every so manieth command is looked at for [`State::heat`]; a prime, so that no habit of clients hides from it.
const HEAT_EACH: u64 = 17;

/// One command as it is to be run.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    /// Which.
    pub spec: &'a Spec,
    /// The selected database.
    pub db: u8,
    /// Its words.
    pub args: Args<'a>,
    /// Shard time.
    pub now: Millis,
    /// Whether it may ask to wait: not inside MULTI.
    pub may_block: bool,
    /// Whether it has waited and runs again.
    pub served: Served,
}

impl<'a> Call<'a> {
    /// A command that may not wait and has not waited.
    pub fn new(spec: &'a Spec, db: u8, args: Args<'a>, now: Millis) -> Call<'a> {
        Call { spec, db, args, now, may_block: false, served: Served::First }
    }
}

/// How one command ended.
pub(super) enum Ran {
    Answered,
    Waits(Block),
}

impl State {
    /// Runs a read now, under a shared lock. A wish to wait comes back for the caller to place in the order.
    #[inline]
    pub fn read(&self, call: &Call<'_>, rng: &mut Rng, reply: &mut Reply) -> Option<Block> {
        let begun = reply.bytes.len();
        reply.bytes_max = begun.saturating_add(self.answer_bytes_max);
        let class = match self.class_of(call.spec, call.args) {
            Ok(class) => class,
            Err(error) => {
                reply.error(&error.0);
                return None;
            }
        };
        if !self.takes(call.spec, call.args) {
            reply.error(&super::NOT_HERE.0);
            return None;
        }
        let Run::Read(run) = call.spec.run else {
            reply.error("ERR a write cannot run as a read");
            return None;
        };
        let mut reading = Reading { may_block: call.may_block, ..self.reading(class, call.db, call.now, rng) };
        let outcome = run(&mut reading, call.args, reply);
        reply.settle(begun, outcome);
        reading.block
    }

    /// What a read of one class sees.
    pub(crate) fn reading<'a>(&'a self, class: Durability, db: u8, now: Millis, rng: &'a mut Rng) -> Reading<'a> {
        let (tables, other) = match class {
            Durability::Fsync => (&self.logged.tables, &self.memory.tables),
            Durability::Memory => (&self.memory.tables, &self.logged.tables),
        };
        let (now, slots) = (now.max(self.stamp), &self.slots);
        Reading { db, now, tables, other, rng, slots, repeatable: false, may_block: false, block: None }
    }

    /// What a command on whole databases sees.
    pub(crate) fn reading_whole<'a>(&'a self, db: u8, now: Millis, rng: &'a mut Rng) -> Reading<'a> {
        self.reading(self.class_of_whole(), db, now, rng)
    }

    /// Runs one write on a memory keyspace now, for a client that waits for nothing else. False where it began to wait.
    pub fn run_memory<C: Clone, S: Sink<C>>(
        &mut self,
        call: &Call<'_>,
        client: &C,
        reply: &mut Reply,
        sink: &mut S,
    ) -> bool {
        let call = Call { now: call.now.max(self.stamp), ..*call };
        reply.bytes_max = reply.bytes.len().saturating_add(self.answer_bytes_max);
        match self.guarded(Durability::Memory, &call, reply) {
            Ran::Waits(block) => {
                self.park(Durability::Memory, &call, reply.protocol, block, Asker::Client(client), sink);
                false
            }
            Ran::Answered => {
                self.publish(sink);
                self.serve(Durability::Memory, call.now, sink);
                self.tell_events(Some(client), sink);
                true
            }
        }
    }

    /// Runs a command and turns a panic into an error.
    pub(super) fn guarded(&mut self, class: Durability, call: &Call<'_>, reply: &mut Reply) -> Ran {
        let begun = reply.bytes.len();
        self.commands += 1;
        // One of so many is looked at: which slots have to do.
        if self.commands.is_multiple_of(HEAT_EACH)
            && let Some(place) = call.spec.key_places(call.args).first()
        {
            self.heat[usize::from(base::key_slot(call.args[*place]) / PART_SLOTS)] += HEAT_EACH;
        }
        match catch_unwind(AssertUnwindSafe(|| self.command(class, call, reply))) {
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

    fn command(&mut self, class: Durability, call: &Call<'_>, reply: &mut Reply) -> Ran {
        let begun = reply.bytes.len();
        let Call { spec, db, args, now, may_block, served } = *call;
        self.note_clearing(spec);
        self.all_changed |= self.tracking && spec.flags.has(Flags::WHOLE) && spec.is_write();
        if spec.flags.has(Flags::GROWS)
            && let Err(error) = self.make_room(spec, class, args, now)
        {
            reply.error(&error.0);
            return Ran::Answered;
        }
        let libraries = match self.class_of_whole() {
            Durability::Fsync => &mut self.libraries,
            Durability::Memory => &mut self.memory_libraries,
        };
        let (half, other) = match class {
            Durability::Fsync => (&mut self.logged, &mut self.memory),
            Durability::Memory => (&mut self.memory, &mut self.logged),
        };
        let (outcome, block) = match spec.run {
            Run::Read(run) => {
                let (tables, other, rng) = (&half.tables, &other.tables, &mut half.rng);
                let (slots, repeatable) = (&self.slots, false);
                let mut reading = Reading { db, now, tables, other, rng, slots, repeatable, may_block, block: None };
                (run(&mut reading, args, reply), reading.block)
            }
            Run::Write(run) => {
                let full = may_block && half.waiters.replicated() >= self.limits.waiters_max;
                let mut writing = Writing {
                    db,
                    now,
                    tables: &mut half.tables,
                    other: &mut other.tables,
                    rng: &mut half.rng,
                    may_block: may_block && !full,
                    served,
                    block: None,
                    scripts: &mut half.scripts,
                    libraries,
                    limits: &self.limits,
                    published: &mut self.published,
                    events: &mut self.events,
                    slots: &self.slots,
                    commits: &self.commits,
                    user: None,
                };
                let outcome = run(&mut writing, args, reply);
                let block = writing.block;
                if half.tables.has_noted() {
                    notify::gather(&mut half.tables, spec.name, args, &mut self.events);
                }
                if spec.flags.has(Flags::WHOLE) && other.tables.has_noted() {
                    notify::gather(&mut other.tables, spec.name, args, &mut self.events);
                }
                let is_null = || matches!(&reply.bytes[begun..], b"*-1\r\n" | b"$-1\r\n" | b"_\r\n");
                if full && spec.flags.has(Flags::BLOCKING) && outcome.is_ok() && is_null() {
                    self.limits.hit(Limit::waiters_max);
                }
                (outcome, block)
            }
        };
        match (outcome, block) {
            (Ok(()), Some(block)) => Ran::Waits(block),
            (outcome, _) => {
                reply.settle(begun, outcome);
                Ran::Answered
            }
        }
    }

    /// Before a command that grows memory: evicts from a memory keyspace over its budget, or refuses.
    pub(super) fn make_room(
        &mut self,
        spec: &Spec,
        class: Durability,
        args: Args<'_>,
        now: Millis,
    ) -> Result<(), CommandError> {
        const OOM: CommandError = CommandError::new("OOM command not allowed when used memory > 'maxmemory'.");
        const SAMPLES: usize = 5;
        let keyspaces = self.keyspaces().clone();
        if keyspaces.iter().all(|space| space.max_bytes == 0) {
            return Ok(());
        }
        let hits = self.limits.hits.clone();
        let mut evicted = 0;
        let half = self.half_mut(class);
        for place in spec.key_places(args) {
            let id = keyspaces.of(args[place]);
            let settings = keyspaces.get(id);
            let incoming: usize = args.iter().map(|word| word.len()).sum();
            while settings.max_bytes != 0 && half.tables.usage(id).bytes + incoming as u64 > settings.max_bytes {
                hits.count(Limit::keyspace_max_bytes);
                // In a logged keyspace an eviction would have to be an entry of its own: refused until it is.
                if settings.eviction == Eviction::Refuse || class == Durability::Fsync {
                    return Err(OOM);
                }
                let Some((db, key)) = half.tables.eviction_candidate(id, SAMPLES, &mut half.rng) else {
                    return Err(OOM);
                };
                half.tables.remove(db, &key, now);
                evicted += 1;
            }
        }
        if half.tables.has_noted() {
            let mut events = std::mem::take(&mut self.events);
            notify::evicted(&mut self.half_mut(class).tables, &mut events);
            self.events = events;
        }
        self.evicted += evicted;
        Ok(())
    }
}

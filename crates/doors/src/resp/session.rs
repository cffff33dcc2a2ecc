//! One client's conversation: commands in, answers out, in the order of the commands.
//!
//! ```text
//!   bytes ─ decode ─► read, nothing under way  ─► state, at once ──────────────► out
//!                     write, or a read behind one ─► queue ─► log ─► mailbox ──► out
//!                     the door's own (CLIENT, INFO …) ─► only when nothing is under way
//! ```
//!
//! An answer may be written straight to `out` only while nothing of this client is under way; else it takes its place in
//! the queue. A command that must see the effects of those before it stops the reading until they have been answered.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Instant, Limit, Rng};
use shard::command::{self, Flags, Spec};
use shard::entry::{MultiBuilder, Unblock, Watch};
use shard::error::CommandError;
use shard::pending::{Batch, Place};
use shard::reply::{Protocol, Reply};
use shard::state::{Call, MIXED};
use smallvec::SmallVec;
use store::keyspace::Durability;

use super::decode::{self, DecodeLimits, DecodeState, Decoded};
use super::door::{Client, Door, Outbox};

/// Words of one command.
pub(super) type Words<'a> = SmallVec<[&'a [u8]; 16]>;

/// Why a session stopped reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// Not at all: everything was read; more bytes are needed.
    None,
    /// Answers are under way that must come first.
    Answers,
    /// CLIENT PAUSE: try again at this moment.
    Until(Instant),
    /// Enough answers: write them, then feed the rest. A few bytes of pipelined reads could ask for any amount.
    Output,
}

/// Answers that may gather before they are written, bytes; one answer may be larger.
const OUTPUT_BYTES_AT_ONCE: usize = 1 << 20;

/// An answer up to this many bytes takes its place behind others however much waits.
const SMALL_ANSWER: usize = 1024;

/// What came of the bytes.
#[derive(Clone, Copy, Debug)]
pub struct Fed {
    /// Bytes that were used; drop them.
    pub consumed: usize,
    /// Why it stopped.
    pub pause: Pause,
    /// The driver must be woken.
    pub wake: bool,
}

/// What a command needs.
pub(super) enum Step {
    /// Done, or on its way.
    Next,
    /// Cannot run before everything under way has been answered.
    Barrier,
    /// Cannot run before this moment.
    Later(Instant),
}

/// MULTI … EXEC being collected.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) builder: MultiBuilder,
    /// CLIENT SETNAME among the commands: takes effect at EXEC.
    pub(super) name: Option<Vec<u8>>,
    /// A command was refused: EXEC aborts.
    dirty: bool,
    writes: bool,
    /// Something in it waits while CLIENT PAUSE holds writes.
    held_with_writes: bool,
    frees_only: bool,
    class: Option<Durability>,
    shard: Option<usize>,
    /// Database at MULTI, to return to on DISCARD or abort.
    db: u8,
}

const FULL_TRANSACTION: CommandError = CommandError::new(
    "ERR too many commands or bytes in one transaction (limits multi_commands_max, command_bytes_max)",
);

impl Transaction {
    fn is_full(&self, door: &Door) -> bool {
        let (commands, bytes) = (door.limits.multi_commands_max, door.limits.command_bytes_max);
        let full = self.builder.len() >= commands || self.builder.bytes() >= bytes;
        if full {
            door.limits.hit(if self.builder.len() >= commands {
                Limit::multi_commands_max
            } else {
                Limit::command_bytes_max
            });
        }
        full
    }
}

/// One client's conversation.
pub struct Session {
    pub(super) door: Arc<Door>,
    /// The client as others see it.
    pub client: Client,
    pub(super) protocol: Protocol,
    pub(super) db: u8,
    pub(super) authenticated: bool,
    pub(super) transaction: Option<Transaction>,
    pub(super) watches: Vec<Watch>,
    /// The watched keys again, to be found quickly, and their bytes.
    watched: HashSet<(u8, Vec<u8>), store::hash::State>,
    watched_bytes: usize,
    watch_shard: Option<usize>,
    decode: DecodeState,
    words: decode::Words,
    limits: DecodeLimits,
    pub(super) rng: Rng,
    /// Requests sent into the queue, and answers received for them.
    pub(super) sent: u64,
    received: u64,
    /// The shard that requests are under way to.
    pub(super) towards: usize,
    /// A request under way may wait for long: nothing of this client may overtake it.
    pub(super) blocked: bool,
    /// As many requests as may be are under way, which has been counted.
    deep: bool,
    /// A command that goes to one shard after the other.
    pub(super) round: Option<super::whole::Round>,
    /// Database to return to where the EXEC under way does nothing, because a watched key has changed.
    undo_db: Option<u8>,
    /// The connection ends after what has been written.
    pub(super) closing: bool,
    /// Skip the next answer (CLIENT REPLY SKIP): counted down.
    pub(super) skip: u8,
    /// The answer to be skipped is under way.
    skipping: bool,
    pub(super) silent: bool,
    /// CLIENT KILL under way: what it answers, and who must be gone before it does.
    pub(super) killing: Option<(super::introspect::KillFilter, Vec<Client>, usize)>,
    /// The command at hand has written messages rather than an answer.
    pub(super) pushed: bool,
    pub(super) wake: bool,
    pub(super) now: Instant,
    commands: u64,
}

impl Session {
    /// A conversation with a client that has just come.
    pub fn new(door: Arc<Door>, client: Client, seed: u64) -> Session {
        let authenticated = door.password.is_none();
        let limits = if authenticated {
            DecodeLimits::authenticated(&door.limits)
        } else {
            DecodeLimits::unauthenticated(&door.limits)
        };
        Session {
            door,
            client,
            protocol: Protocol::Resp2,
            db: 0,
            authenticated,
            transaction: None,
            watches: Vec::new(),
            watched: HashSet::default(),
            watched_bytes: 0,
            watch_shard: None,
            decode: DecodeState::new(),
            words: decode::Words::new(),
            limits,
            rng: Rng::new(seed),
            sent: 0,
            received: 0,
            towards: 0,
            blocked: false,
            deep: false,
            round: None,
            undo_db: None,
            closing: false,
            skip: 0,
            skipping: false,
            silent: false,
            killing: None,
            pushed: false,
            wake: false,
            now: Instant::default(),
            commands: 0,
        }
    }

    /// Whether requests are under way.
    pub fn is_pending(&self) -> bool {
        self.sent != self.received
    }

    /// Whether a request under way may wait for long, for data from others.
    pub fn is_blocked(&self) -> bool {
        self.blocked && self.is_pending()
    }

    /// Whether the connection is to be closed once `out` has been written.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// How many more bytes would be useful: a hint for the next read.
    pub fn wanted(&self, buffered: usize) -> usize {
        self.decode.wanted(buffered)
    }

    /// Takes what has come into the mailbox.
    pub fn collect(&mut self, out: &mut Reply) {
        let begun = out.bytes.len();
        self.received += self.client.collect(&mut out.bytes);
        assert!(self.received <= self.sent, "every answer has its request");
        if !self.is_pending() {
            (self.blocked, self.deep) = (false, false);
            let answer = &out.bytes[begun..];
            if let Some(db) = self.undo_db.take()
                && (answer.starts_with(b"*-1\r\n") || answer.starts_with(b"_\r\n"))
            {
                self.db = db;
            }
            if std::mem::take(&mut self.skipping) {
                self.skip = 0;
                self.client.muted.store(self.silent, Ordering::Relaxed);
            }
        }
    }

    /// Reads commands from the start of `buffer` and runs them, as far as it goes.
    pub fn feed(&mut self, buffer: &[u8], now: Instant, out: &mut Reply) -> Fed {
        self.now = now;
        self.wake = false;
        self.commands = 0;
        let mut consumed = 0;
        let mut pause = Pause::None;
        let mut last = None;
        while !self.closing {
            if self.blocked && self.is_pending()
                || self.sent - self.received >= self.door.limits.pipeline_depth_max as u64
            {
                if !self.blocked && consumed < buffer.len() && !std::mem::replace(&mut self.deep, true) {
                    self.door.limits.hit(Limit::pipeline_depth_max);
                }
                pause = Pause::Answers;
                break;
            }
            if out.bytes.len() >= OUTPUT_BYTES_AT_ONCE {
                pause = Pause::Output;
                break;
            }
            let rest = &buffer[consumed..];
            let mut words = std::mem::take(&mut self.words);
            let decoded = decode::decode(rest, &mut self.decode, &self.limits, &mut words);
            let (used, unquoted) = match decoded {
                Ok(Decoded::Incomplete) => {
                    self.words = words;
                    break;
                }
                Ok(Decoded::Empty { consumed: used }) => {
                    consumed += used;
                    self.words = words;
                    continue;
                }
                Ok(Decoded::Command { consumed: used, unquoted }) => (used, unquoted),
                Err(error) => {
                    if self.is_pending() {
                        // The error takes its place behind the answers under way; it will be found again.
                        self.decode = DecodeState::new();
                        self.words = decode::Words::new();
                        pause = Pause::Answers;
                        break;
                    }
                    self.door.counters.protocol_errors.fetch_add(1, Ordering::Relaxed);
                    if let Some(limit) = error.limit() {
                        self.door.limits.hit(limit);
                    }
                    error.write(out);
                    self.closing = true;
                    break;
                }
            };
            let state = std::mem::take(&mut self.decode);
            let place = state.text(rest, unquoted);
            let args: Words<'_> = words.iter().map(|word| word.of(place)).collect();
            out.protocol = self.protocol;
            let begun = out.bytes.len();
            let spec = command::find(args[0]);
            let step = self.command(spec, &args, out);
            if let Some(spec) = spec {
                last = Some(spec.name);
            }
            drop(args);
            self.decode = state;
            self.words = words;
            match step {
                Step::Next => {
                    consumed += used;
                    self.commands += 1;
                    self.drop_unwanted(begun, out);
                }
                Step::Barrier => {
                    // Decoded again when its turn comes.
                    self.decode = DecodeState::new();
                    pause = Pause::Answers;
                    break;
                }
                Step::Later(at) => {
                    self.decode = DecodeState::new();
                    pause = Pause::Until(at);
                    break;
                }
            }
        }
        if self.commands > 0 {
            self.door.counters.commands.fetch_add(self.commands, Ordering::Relaxed);
            self.update_card(last, buffer.len() - consumed, consumed as u64);
        }
        Fed { consumed, pause, wake: self.wake }
    }

    fn update_card(&self, last: Option<&'static str>, buffered: usize, consumed: u64) {
        let mut card = self.client.card.lock();
        if let Some(name) = last {
            card.command = name;
        }
        card.active = self.now;
        card.db = self.db;
        card.buffered = buffered;
        card.traffic.0 += consumed;
        card.multi = self.transaction.as_ref().map_or(-1, |transaction| transaction.builder.len() as i64);
        card.watching = self.watches.len();
    }

    /// CLIENT REPLY OFF and SKIP: answers that were written straight away are taken back.
    fn drop_unwanted(&mut self, begun: usize, out: &mut Reply) {
        if std::mem::take(&mut self.pushed) {
            // What (P|S)SUBSCRIBE and kin say are messages: nobody can do without them.
        } else if self.silent || self.skip == 1 {
            out.bytes.truncate(begun);
        }
        // An answer to be skipped that is still under way keeps the client muted until it has come: see `collect`.
        self.skipping = self.skip == 1 && self.is_pending();
        if self.skip > 0 && !self.skipping {
            self.skip -= 1;
            let mute = self.silent || self.skip == 1;
            self.client.muted.store(mute, Ordering::Relaxed);
        }
    }

    /// The connection has ended.
    pub fn close(&mut self) {
        self.client.close();
        self.door.unblock(&self.client, Unblock::Gone);
        self.door.channels.write().unsubscribe_all(self.client.id);
        self.door.dismiss(self.client.id);
    }

    // ---- one command -------------------------------------------------------------------------------------------------

    fn command(&mut self, spec: Option<&'static Spec>, args: &[&[u8]], out: &mut Reply) -> Step {
        if (self.silent || self.skip > 0) && self.is_pending() {
            return Step::Barrier;
        }
        if !self.authenticated {
            return self.before_password(args, out);
        }
        let Some(spec) = spec else {
            return self.door_command(args, out);
        };
        if let Err(error) = command::check(spec, args) {
            return self.refuse(error, out);
        }
        if self.protocol == Protocol::Resp2 && self.is_subscriber() {
            return self.refuse(subscriber_only(spec.name), out);
        }
        if let Some(until) = self.paused(held_with_writes(spec)) {
            return Step::Later(until);
        }
        if self.transaction.is_some() {
            return self.enqueue(spec, args, out);
        }
        if self.is_for_all_shards(spec, args) {
            return self.whole(spec, args, out);
        }
        let shard = match self.route(spec, args) {
            Ok(shard) => shard.unwrap_or(0),
            Err(error) => return self.refuse(error, out),
        };
        if self.is_pending() && self.towards != shard {
            return Step::Barrier;
        }
        self.towards = shard;
        if spec.is_write() || spec.flags.has(Flags::READ_ONLY) {
            self.write(spec, shard, args, out)
        } else {
            self.read(spec, shard, args, out)
        }
    }

    fn read(&mut self, spec: &'static Spec, at: usize, args: &[&[u8]], out: &mut Reply) -> Step {
        let may_block = spec.flags.has(Flags::BLOCKING);
        if self.is_pending() {
            return self.submit(spec, at, Place::Local, args, out);
        }
        let shard = &self.door.shards[at];
        let state = shard.state();
        let begun = out.bytes.len();
        let call = Call { may_block, ..Call::new(spec, self.db, args, shard.now(self.now)) };
        let block = state.read(&call, &mut self.rng, out);
        drop(state);
        if block.is_some() {
            // It waits: its place is in the queue, where whoever feeds it comes by.
            out.bytes.truncate(begun);
            return self.submit(spec, at, Place::Local, args, out);
        }
        Step::Next
    }

    fn write(&mut self, spec: &'static Spec, at: usize, args: &[&[u8]], out: &mut Reply) -> Step {
        let door = self.door.clone();
        let shard = &door.shards[at];
        let class = match shard.state().class_of(spec, args) {
            Ok(class) => class,
            Err(error) => return self.refuse(error, out),
        };
        if class == Durability::Memory || spec.flags.has(Flags::READ_ONLY) {
            if self.is_pending() || class == Durability::Fsync {
                return self.submit(spec, at, Place::Local, args, out);
            }
            let mut outbox = Outbox::new(&door);
            let mut state = shard.state_mut();
            let call = Call { may_block: true, ..Call::new(spec, self.db, args, shard.now(self.now)) };
            let answered = state.run_memory(&call, &self.client, out, &mut outbox);
            self.wake |= shard.is_due_earlier(&state);
            drop(state);
            outbox.flush();
            if !answered {
                self.sent += 1;
                self.blocked = true;
            }
            return Step::Next;
        }
        if let Some(error) = shard.refusal(spec.flags.has(Flags::FREES)) {
            return self.refuse(error, out);
        }
        self.submit(spec, at, Place::Logged, args, out)
    }

    fn submit(&mut self, spec: &'static Spec, at: usize, place: Place, args: &[&[u8]], out: &mut Reply) -> Step {
        let frees = spec.flags.has(Flags::FREES);
        let (db, protocol) = (self.db, self.protocol);
        let client = self.client.clone();
        let submitted = self.door.shards[at].submit(|batch| batch.command(place, frees, client, db, protocol, args));
        match submitted {
            Ok(wake) => {
                self.wake |= wake;
                self.sent += 1;
                self.blocked |= spec.flags.has(Flags::BLOCKING);
                Step::Next
            }
            Err(_) if self.is_pending() => Step::Barrier,
            Err(error) => {
                self.door.limits.hit(Limit::pending_bytes_max);
                self.refuse(error, out)
            }
        }
    }

    /// Writes an answer in its place: now, or behind those under way.
    pub(super) fn answer(&mut self, out: &mut Reply, write: impl FnOnce(&mut Reply)) -> Step {
        if !self.is_pending() {
            write(out);
            return Step::Next;
        }
        let mut reply = Reply::new(self.protocol);
        write(&mut reply);
        let client = self.client.clone();
        let shard = &self.door.shards[self.towards];
        let literal = |batch: &mut Batch<Client>| batch.literal(client, &reply.bytes);
        // What is small is never put off: its command may have had its effect already, which must not come twice.
        let placed = if reply.bytes.len() <= SMALL_ANSWER { Ok(shard.put(literal)) } else { shard.submit(literal) };
        match placed {
            Ok(wake) => {
                self.wake |= wake;
                self.sent += 1;
                Step::Next
            }
            Err(_) => Step::Barrier,
        }
    }

    /// Answers an error, and remembers it where a transaction is being collected.
    pub(super) fn refuse(&mut self, error: CommandError, out: &mut Reply) -> Step {
        self.refuse_with(out, |reply| reply.error(&error.0))
    }

    /// The same for an error that is not a text but a client's bytes.
    pub(super) fn refuse_with(&mut self, out: &mut Reply, write: impl FnOnce(&mut Reply)) -> Step {
        self.door.counters.errors.fetch_add(1, Ordering::Relaxed);
        if let Some(transaction) = &mut self.transaction {
            transaction.dirty = true;
        }
        self.answer(out, write)
    }

    /// The shard of a command's keys; `None` where it has none and any will do.
    fn route(&self, spec: &Spec, args: &[&[u8]]) -> Result<Option<usize>, CommandError> {
        if self.door.shards.len() == 1 {
            return Ok(Some(0));
        }
        if self.is_for_all_shards(spec, args) {
            return Err(NOT_IN_MULTI);
        }
        let mut found = None;
        for place in spec.key_places(args) {
            let shard = self.door.shard_of(args[place]);
            if *found.get_or_insert(shard) != shard {
                return Err(CROSS_SLOT);
            }
        }
        Ok(found)
    }

    pub(super) fn paused(&self, write: bool) -> Option<Instant> {
        let pause = (*self.door.pause.lock())?;
        (pause.until > self.now && (write || !pause.writes_only)).then_some(pause.until)
    }

    /// Whether the client is in subscriber mode.
    pub fn is_subscriber(&self) -> bool {
        self.door.channels.read().is_subscribed(self.client.id)
    }

    // ---- transactions --------------------------------------------------------------------------------------------------

    pub(super) fn multi(&mut self, out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            return self.answer(out, |reply| reply.error("ERR MULTI calls can not be nested"));
        }
        let db = self.db;
        self.transaction =
            Some(Transaction { db, frees_only: true, shard: self.watch_shard, ..Transaction::default() });
        self.answer(out, Reply::ok)
    }

    fn enqueue(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        let checked = self.check_for_transaction(spec, args);
        let db = self.db;
        let transaction = self.transaction.as_mut().expect("a transaction is being collected");
        let error = match checked {
            Ok(_) if transaction.is_full(&self.door) => FULL_TRANSACTION,
            Ok((class, shard)) => {
                let has_keys = spec.is_write() || !spec.key_places(args).is_empty();
                if has_keys && *transaction.class.get_or_insert(class) != class {
                    MIXED
                } else if shard.is_some_and(|shard| *transaction.shard.get_or_insert(shard) != shard) {
                    CROSS_SLOT
                } else {
                    transaction.writes |= spec.is_write();
                    transaction.held_with_writes |= held_with_writes(spec);
                    transaction.frees_only &= spec.flags.has(Flags::FREES) || !spec.is_write();
                    transaction.builder.command(db, args);
                    return self.answer(out, |reply| reply.simple("QUEUED"));
                }
            }
            Err(error) => error,
        };
        self.refuse(error, out)
    }

    fn check_for_transaction(&self, spec: &Spec, args: &[&[u8]]) -> Result<(Durability, Option<usize>), CommandError> {
        let place = self.route(spec, args)?;
        let shard = place.or(self.transaction.as_ref().and_then(|transaction| transaction.shard)).unwrap_or(0);
        let class = self.door.shards[shard].state().class_of(spec, args)?;
        if spec.is_write()
            && class == Durability::Fsync
            && let Some(error) = self.door.shards[shard].refusal(spec.flags.has(Flags::FREES))
        {
            return Err(error);
        }
        Ok((class, place))
    }

    /// Queues an answer that the door gives itself, inside MULTI.
    pub(super) fn enqueue_literal(&mut self, reply: &Reply, out: &mut Reply) -> Step {
        let transaction = self.transaction.as_mut().expect("a transaction is being collected");
        if transaction.is_full(&self.door) {
            return self.refuse(FULL_TRANSACTION, out);
        }
        transaction.builder.literal(&reply.bytes);
        self.answer(out, |reply| reply.simple("QUEUED"))
    }

    /// PUBLISH inside MULTI: its message leaves when the unit is applied.
    pub(super) fn enqueue_publish(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        let db = self.db;
        let transaction = self.transaction.as_mut().expect("a transaction is being collected");
        if transaction.is_full(&self.door) {
            return self.refuse(FULL_TRANSACTION, out);
        }
        transaction.builder.command(db, args);
        transaction.held_with_writes = true;
        self.answer(out, |reply| reply.simple("QUEUED"))
    }

    pub(super) fn discard(&mut self, out: &mut Reply) -> Step {
        let Some(transaction) = self.transaction.take() else {
            return self.answer(out, |reply| reply.error("ERR DISCARD without MULTI"));
        };
        self.db = transaction.db;
        self.unwatch();
        self.answer(out, Reply::ok)
    }

    /// EXEC with words behind it ends the transaction as well, where there is one, and forgets the watched keys.
    pub(super) fn exec_refused(&mut self, out: &mut Reply) -> Step {
        if let Some(transaction) = self.transaction.take() {
            self.db = transaction.db;
        }
        self.unwatch();
        self.door.counters.errors.fetch_add(1, Ordering::Relaxed);
        self.answer(out, |reply| {
            reply.error("EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command");
        })
    }

    pub(super) fn exec(&mut self, out: &mut Reply) -> Step {
        let Some(transaction) = &self.transaction else {
            return self.answer(out, |reply| reply.error("ERR EXEC without MULTI"));
        };
        let shard = transaction.shard.unwrap_or(0);
        if self.is_pending() && self.towards != shard {
            return Step::Barrier;
        }
        if let Some(until) = self.paused(transaction.held_with_writes) {
            return Step::Later(until);
        }
        let undo_db = (!self.watches.is_empty() && self.db != transaction.db).then_some(transaction.db);
        if undo_db.is_some() && self.is_pending() {
            return Step::Barrier;
        }
        let transaction = self.transaction.take().expect("it was there a line ago");
        let watches = std::mem::take(&mut self.watches);
        self.forget_watched();
        if transaction.dirty {
            self.db = transaction.db;
            return self.answer(out, |reply| {
                reply.error("EXECABORT Transaction discarded because of previous errors.");
            });
        }
        if let Some(name) = &transaction.name {
            self.client.card.lock().name.clone_from(name);
        }
        self.towards = shard;
        let logged = transaction.writes && transaction.class != Some(Durability::Memory);
        if logged && let Some(error) = self.door.shards[shard].refusal(transaction.frees_only) {
            self.db = transaction.db;
            return self
                .answer(out, |reply| reply.error(&format!("EXECABORT Transaction discarded because of: {}", error.0)));
        }
        let place = if logged { Place::Logged } else { Place::Local };
        let (client, protocol) = (self.client.clone(), self.protocol);
        let submitted = self.door.shards[shard].submit(|batch| {
            batch.multi(place, transaction.frees_only, client, protocol, &transaction.builder, &watches);
        });
        match submitted {
            Ok(wake) => {
                self.wake |= wake;
                self.sent += 1;
                // What follows runs in the database that SELECT chose, or did not.
                self.undo_db = undo_db;
                self.blocked |= undo_db.is_some();
                Step::Next
            }
            Err(error) => {
                self.door.limits.hit(Limit::pending_bytes_max);
                self.db = transaction.db;
                self.refuse(error, out)
            }
        }
    }

    pub(super) fn watch(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            return self.answer(out, |reply| reply.error("ERR WATCH inside MULTI is not allowed"));
        }
        if self.is_pending() {
            return Step::Barrier;
        }
        for key in &args[1..] {
            let at = self.door.shard_of(key);
            if *self.watch_shard.get_or_insert(at) != at {
                return self.refuse(CROSS_SLOT, out);
            }
            let shard = &self.door.shards[at];
            if !self.watched.insert((self.db, key.to_vec())) {
                continue;
            }
            self.watched_bytes += key.len();
            let limits = &self.door.limits;
            if self.watches.len() >= limits.args_max || self.watched_bytes > limits.command_bytes_max {
                let many = self.watches.len() >= limits.args_max;
                limits.hit(if many { Limit::args_max } else { Limit::command_bytes_max });
                return self
                    .refuse(CommandError::new("ERR too many watched keys (limits args_max, command_bytes_max)"), out);
            }
            let version = shard.state().version(self.db, key, shard.now(self.now));
            self.watches.push(Watch { db: self.db, key: key.to_vec(), version });
        }
        self.answer(out, Reply::ok)
    }

    pub(super) fn unwatch(&mut self) {
        self.watches.clear();
        self.forget_watched();
    }

    fn forget_watched(&mut self) {
        self.watched = HashSet::default();
        self.watched_bytes = 0;
        self.watch_shard = None;
    }

    /// From here on the client may do everything.
    pub(super) fn authenticate(&mut self) {
        self.authenticated = true;
        self.limits = DecodeLimits::authenticated(&self.door.limits);
    }

    /// As if the client had just come (RESET).
    pub(super) fn reset(&mut self) {
        self.transaction = None;
        self.unwatch();
        self.db = 0;
        self.protocol = Protocol::Resp2;
        self.silent = false;
        self.skip = 0;
        self.skipping = false;
        self.client.muted.store(false, Ordering::Relaxed);
        self.door.channels.write().unsubscribe_all(self.client.id);
        let mut card = self.client.card.lock();
        card.resp = 2;
        card.name.clear();
        drop(card);
        if self.door.password.is_some() {
            self.authenticated = false;
            self.limits = DecodeLimits::unauthenticated(&self.door.limits);
        }
    }
}

const NOT_IN_MULTI: CommandError = CommandError::new(
    "ERR this command works on all shards and cannot be part of a transaction while data_shards is above 1",
);

/// Whether CLIENT PAUSE WRITE holds it. SCRIPT is an entry of the log here, but no write to Redis: it goes on.
fn held_with_writes(spec: &Spec) -> bool {
    spec.is_write() && spec.name != "script"
}

/// Keys of one command or transaction live in different shards.
pub const CROSS_SLOT: CommandError = CommandError::new("CROSSSLOT Keys in request don't hash to the same slot");

pub(super) fn subscriber_only(name: &str) -> CommandError {
    format!(
        "ERR Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        name.to_ascii_lowercase()
    )
    .into()
}

#[cfg(test)]
mod limits;
#[cfg(test)]
mod tests;

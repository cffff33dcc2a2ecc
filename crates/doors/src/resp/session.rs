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
use shard::command::rights as user_rights;
use shard::command::{self, Flags, Spec};
use shard::entry::{Unblock, Watch};
use shard::error::CommandError;
use shard::pending::Place;
use shard::reply::{Protocol, Reply};
use shard::state::Call;
use smallvec::SmallVec;
use store::keyspace::Durability;
use users::Grant;

use super::decode::{self, DecodeLimits, DecodeState, Decoded};
use super::door::{Client, Door, Outbox};
use super::figures::{self, Note};
use ask::Ask;
use multi::Transaction;

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

/// One client's conversation.
pub struct Session {
    pub(super) door: Arc<Door>,
    /// The client as others see it.
    pub client: Client,
    pub(super) protocol: Protocol,
    pub(super) db: u8,
    pub(super) authenticated: bool,
    /// What its user may do, and as of which revision of the users.
    pub(super) grant: Arc<Grant>,
    pub(super) users_seen: u64,
    /// It came by the cluster door.
    pub(super) is_cluster: bool,
    /// READONLY: it takes what a replica has.
    pub(super) readonly: bool,
    pub(super) transaction: Option<Transaction>,
    pub(super) watches: Vec<Watch>,
    /// The shards in which they were watched, one for each.
    watch_places: Vec<usize>,
    /// The watched keys again, to be found quickly, and their bytes.
    watched: HashSet<(u8, Vec<u8>), store::hash::State>,
    watched_bytes: usize,
    decode: DecodeState,
    words: decode::Words,
    pub(super) limits: DecodeLimits,
    pub(super) rng: Rng,
    /// Requests sent into the queue, and answers received for them.
    pub(super) sent: u64,
    received: u64,
    /// The shard that requests are under way to, and whether another node leads it.
    pub(super) towards: usize,
    pub(super) there: bool,
    /// Something of it was sent to another node, and something waits to be.
    travelled: bool,
    departs: bool,
    /// A request under way may wait for long: nothing of this client may overtake it.
    pub(super) blocked: bool,
    /// As many requests as may be are under way, which has been counted.
    deep: bool,
    /// WATCH has asked a shard for versions, and comes by again when they are here; those that it has by now.
    watching: Option<multi::Watching>,
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
    /// Counts down from CLIENT CACHING to the end of the command behind it.
    pub(super) caching: u8,
    /// Keys that MULTI will have read.
    to_track: Vec<Vec<u8>>,
    /// How long the command at hand is, bytes.
    pub(super) at_hand: usize,
    /// Counted among those that CLIENT PAUSE holds.
    is_held: bool,
    /// When the last command had run, and which have.
    clock: Instant,
    notes: Vec<Note>,
}

impl Session {
    /// A conversation with a client that has just come.
    pub fn new(door: Arc<Door>, client: Client, seed: u64) -> Session {
        // Before the user is looked at: a change in between is looked at again.
        let users_seen = door.users_index();
        let (grant, authenticated) = door.default_grant();
        client.card.lock().grant = Some(grant.clone());
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
            grant,
            users_seen,
            is_cluster: false,
            readonly: false,
            transaction: None,
            watches: Vec::new(),
            watched: HashSet::default(),
            watched_bytes: 0,
            watch_places: Vec::new(),
            decode: DecodeState::new(),
            words: decode::Words::new(),
            limits,
            rng: Rng::new(seed),
            sent: 0,
            received: 0,
            towards: 0,
            there: false,
            travelled: false,
            departs: false,
            watching: None,
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
            caching: 0,
            to_track: Vec::new(),
            at_hand: 0,
            is_held: false,
            clock: Instant::default(),
            notes: Vec::new(),
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
        self.clock = self.door.world.now();
        self.hold(false);
        if self.door.tracking.is_on() {
            // What was told before these commands came stands before their answers.
            self.collect(out);
        }
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
            self.at_hand = used;
            let (db, sent, queues) = (self.db, self.sent, self.transaction.is_some());
            let step = self.command(spec, &args, out);
            let is_exec = spec.is_none() && queues && self.transaction.is_none();
            if matches!(step, Step::Next) && (sent == self.sent || is_exec) {
                self.note(spec, &args, queues, &out.bytes[begun.min(out.bytes.len())..]);
            }
            if self.door.monitors.is_on() && matches!(step, Step::Next) && self.authenticated {
                self.door.monitors.tell(self.door.world.wall_micros(), db, &self.client.addr, &args);
            }
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
                    if self.caching > 0 && self.transaction.is_none() {
                        self.caching -= 1;
                    }
                    self.drop_unwanted(begun, out);
                }
                Step::Barrier => {
                    // Decoded again when its turn comes.
                    self.decode = DecodeState::new();
                    pause = Pause::Answers;
                    break;
                }
                Step::Later(at) => {
                    self.hold(self.killing.is_none());
                    self.decode = DecodeState::new();
                    pause = Pause::Until(at);
                    break;
                }
            }
        }
        if std::mem::take(&mut self.departs) {
            self.door.forward_flush();
        }
        self.door.figures.take(&mut self.notes, || self.door.world.wall_micros());
        if self.commands > 0 {
            self.door.counters.commands.fetch_add(self.commands, Ordering::Relaxed);
            self.update_card(last, buffer.len() - consumed, consumed as u64);
        }
        Fed { consumed, pause, wake: self.wake }
    }

    /// A command has been answered at once: it counts. One that MULTI takes in counts when it runs.
    fn note(&mut self, spec: Option<&'static Spec>, args: &[&[u8]], queues: bool, answer: &[u8]) {
        if queues && self.transaction.is_some() && !answer.starts_with(b"-") {
            return;
        }
        let ended = self.door.world.now();
        let took = ended.since(std::mem::replace(&mut self.clock, ended));
        let rejected = queues && self.transaction.is_some()
            || spec.is_some_and(|spec| command::check(spec, args).is_err())
            || !self.authenticated;
        let (name, is_fast) = match spec {
            Some(spec) => (figures::name_of(spec, args), spec.flags.has(Flags::FAST)),
            None => match figures::name_of_door(args) {
                Some(named) => named,
                None => return self.door.figures.count_error_line(answer),
            },
        };
        if self.door.figures.is_slow(took) && !rejected {
            let (seconds, name) = (self.door.world.wall_micros() / 1_000_000, self.client.card.lock().name.clone());
            self.door.figures.add_slow(args, took, seconds, &self.client.addr, &name);
        }
        self.notes.push(Note { name, is_fast, took, ended: figures::ended(answer, rejected) });
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
        if self.travelled {
            self.door.forward_gone(self.client.id);
        }
        self.door.unblock(&self.client, Unblock::Gone);
        self.door.channels.write().unsubscribe_all(self.client.id);
        self.door.monitors.remove(self.client.id);
        self.door.stop_tracking(self.client.id);
        self.hold(false);
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
        let Some(spec) = spec.filter(|spec| !user_rights::is_internal(spec)) else {
            return self.door_command(args, out);
        };
        if let Err(error) = command::check(spec, args) {
            return self.refuse(error, out);
        }
        if let Some(error) = self.forbidden(spec.name, || spec.key_places(args), args) {
            return self.refuse(error, out);
        }
        if self.protocol == Protocol::Resp2 && self.is_subscriber() {
            return self.refuse(subscriber_only(spec.name), out);
        }
        if let Some(until) = self.paused(held_with_writes(spec)) {
            return Step::Later(until);
        }
        if let Some(step) = self.on_topic(spec, args, out) {
            return step;
        }
        if self.door.tracking.is_on() {
            self.track(spec, args);
        }
        if spec.flags.has(Flags::SCRIPT)
            && let Some((spec, rights)) = self.wrapped(spec)
        {
            let args: Words<'_> = [spec.name.as_bytes(), &rights].into_iter().chain(args.iter().copied()).collect();
            return self.data_command(spec, &args, out);
        }
        self.data_command(spec, args, out)
    }

    /// A command that may be done, and is no work on a topic.
    fn data_command(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            return self.enqueue(spec, args, out);
        }
        if self.is_for_all_shards(spec, args) {
            return self.whole(spec, args, out);
        }
        let shard = match self.route(spec, args) {
            Ok(shard) => shard.unwrap_or(0),
            Err(error) if self.may_cross(&error) => return self.cross_command(spec, args, out),
            Err(error) => return self.refuse(error, out),
        };
        if self.is_cluster && self.may_be_old(spec, shard) {
            return self.read_old(spec, shard, args, out);
        }
        let taken = self.door.shards.len() == 1 || self.door.shards[shard].state().takes(spec, args);
        if !self.turn_to(shard, taken) {
            return Step::Barrier;
        }
        if spec.is_write() || spec.flags.has(Flags::READ_ONLY) {
            self.write(spec, shard, args, out)
        } else {
            self.read(spec, shard, args, out)
        }
    }

    /// Remembers the keys that are about to be read, where the client wants that.
    fn track(&mut self, spec: &'static Spec, args: &[&[u8]]) {
        let reads = !spec.is_write() || spec.flags.has(Flags::SCRIPT);
        if !reads || !self.door.tracking.remembers(self.client.id, self.caching > 0) {
            return;
        }
        let keys = spec.key_places(args).into_iter().map(|place| args[place].to_vec());
        self.to_track.extend(keys);
        if self.transaction.is_none() {
            self.track_queued();
        }
    }

    /// The same of what MULTI has gathered, as it is about to run.
    pub(super) fn track_queued(&mut self) {
        let mut wakers = Vec::new();
        for key in std::mem::take(&mut self.to_track) {
            self.door.tracking.remember(self.client.id, &key, &self.door, &mut wakers);
            let has_copy = !self.door.forward.is_on() || self.door.shards[self.door.shard_of(&key)].leader().is_some();
            if !has_copy {
                self.door.tracking.changed(0, &[&key[..]].into(), &self.door, &mut wakers);
            }
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
    }

    /// Counts it among the clients that CLIENT PAUSE holds, or no more.
    fn hold(&mut self, held: bool) {
        if self.is_held != held {
            self.is_held = held;
            let figure = &self.door.held_clients;
            if held {
                figure.fetch_add(1, Ordering::Relaxed)
            } else {
                figure.fetch_sub(1, Ordering::Relaxed)
            };
        }
    }

    fn read(&mut self, spec: &'static Spec, at: usize, args: &[&[u8]], out: &mut Reply) -> Step {
        let may_block = spec.flags.has(Flags::BLOCKING);
        let shard = &self.door.shards[at];
        if self.is_pending() || self.there || !shard.reads_here() {
            return self.submit(spec, at, Place::Local, args, out);
        }
        let state = shard.state();
        if state.is_locked(spec, args) {
            // It waits behind whoever holds the key.
            drop(state);
            return self.submit(spec, at, Place::Local, args, out);
        }
        let begun = out.bytes.len();
        let call = Call { may_block, ..Call::new(spec, self.db, args, shard.now(self.now)) };
        let block = state.read(&call, &mut self.rng, out);
        drop(state);
        if block.is_none() && shard.may_read(|| self.door.world.now()) {
            return Step::Next;
        }
        // It waits, and its place is in the queue, where whoever feeds it comes by; or the lease is over, and somebody may have
        // been told of something newer.
        out.bytes.truncate(begun);
        self.submit(spec, at, Place::Local, args, out)
    }

    fn write(&mut self, spec: &'static Spec, at: usize, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.there {
            return self.submit(spec, at, Place::Logged, args, out);
        }
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
        match self.ask(at, Ask::Command { place, frees, words: args }) {
            Ok(()) => {
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
        match self.ask(self.towards, Ask::Literal(&reply.bytes)) {
            Ok(()) => Step::Next,
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
        // What is answered at once is counted where it was read.
        let door = self.door.clone();
        let figures = &door.figures;
        let is_queued = self.is_pending();
        self.answer(out, |reply| {
            let begun = reply.bytes.len();
            write(reply);
            if is_queued {
                figures.count_error_line(&reply.bytes[begun..]);
            }
        })
    }

    /// The shard of a command's keys; `None` where it has none and any will do.
    fn route(&self, spec: &Spec, args: &[&[u8]]) -> Result<Option<usize>, CommandError> {
        if self.is_cluster {
            self.only_one_database(spec, args)?;
            if !spec.flags.has(Flags::WHOLE) {
                return self.route_by_slot(spec.key_places(args).iter().map(|place| args[*place]), Some(spec));
            }
        }
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
        self.readonly = false;
        self.silent = false;
        self.skip = 0;
        self.skipping = false;
        self.client.muted.store(false, Ordering::Relaxed);
        self.door.channels.write().unsubscribe_all(self.client.id);
        self.door.monitors.remove(self.client.id);
        self.door.stop_tracking(self.client.id);
        self.caching = 0;
        let mut card = self.client.card.lock();
        card.resp = 2;
        card.name.clear();
        drop(card);
        self.become_default();
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

pub(super) mod ask;
mod cross;
#[cfg(test)]
mod limits;
mod multi;
#[cfg(test)]
mod rights;
mod slots;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod told;

//! MULTI, EXEC, DISCARD and WATCH: what is collected between them, and the one unit that it becomes.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::{Limit, key_slot};
use shard::command::{Flags, Spec};
use shard::entry::{MultiBuilder, Watch};
use shard::error::CommandError;
use shard::pending::Place;
use shard::reply::Reply;
use shard::state::MIXED;
use store::keyspace::Durability;
use users::Grant;

use super::ask::Ask;
use super::{CROSS_SLOT, Session, Step, held_with_writes};
use crate::resp::door::Door;

/// MULTI … EXEC being collected.
#[derive(Default)]
pub(in crate::resp) struct Transaction {
    pub(in crate::resp) builder: MultiBuilder,
    /// CLIENT SETNAME among the commands: takes effect at EXEC.
    pub(in crate::resp) name: Option<Vec<u8>>,
    /// A command was refused: EXEC aborts.
    pub(super) dirty: bool,
    writes: bool,
    /// Something in it waits while CLIENT PAUSE holds writes.
    held_with_writes: bool,
    frees_only: bool,
    class: Option<Durability>,
    shard: Option<usize>,
    /// Its keys, watched ones too, lie in several shards.
    crosses: bool,
    /// The shard of its work on topics.
    topics: Option<usize>,
    /// The slots of its keys.
    slots: BTreeSet<u16>,
    /// What was watched has moved to another shard.
    stale: bool,
    /// What the user might do at MULTI, by which its commands were let in.
    grant: Option<Arc<Grant>>,
    /// Database at MULTI, to return to on DISCARD or abort.
    db: u8,
}

/// WATCH over several shards, or where another node leads.
#[derive(Debug, Default)]
pub(super) struct Watching {
    /// The shard that was asked last, and for which keys.
    asked: Option<(usize, Vec<Vec<u8>>)>,
    /// What is known by now, and where from.
    versions: BTreeMap<Vec<u8>, (u64, usize)>,
}

const TOPICS_APART: CommandError = CommandError::new(
    "CROSSSLOT Keys in request don't hash to the same slot: the topics' partitions of one transaction must lie in one shard",
);
const NAME_FIRST: CommandError = CommandError::new("ERR Q.TXID must be the first command of a MULTI");
const FULL_TRANSACTION: CommandError = CommandError::new(
    "ERR too many commands or bytes in one transaction (limits multi_commands_max, command_bytes_max)",
);

/// Keys of one shard that are not known yet.
fn missing_of<'a>(door: &Door, new: &[&'a [u8]], watching: &Watching) -> Option<(usize, Vec<&'a [u8]>)> {
    let left: Vec<&[u8]> = new.iter().copied().filter(|key| !watching.versions.contains_key(*key)).collect();
    let at = door.shard_of(left.first()?);
    Some((at, left.into_iter().filter(|key| door.shard_of(key) == at).collect()))
}

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

impl Session {
    pub(in crate::resp) fn multi(&mut self, out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            return self.answer(out, |reply| reply.error("ERR MULTI calls can not be nested"));
        }
        let db = self.db;
        let mut places = self.watches.iter().zip(&self.watch_places);
        let stale = places.any(|(watch, place)| self.door.shard_of(&watch.key) != *place);
        let shard = self.watch_places.first().copied().filter(|_| !stale);
        let crosses = self.watch_places.iter().any(|place| Some(*place) != shard);
        let grant = Some(self.grant.clone());
        self.transaction =
            Some(Transaction { db, frees_only: true, shard, crosses, stale, grant, ..Transaction::default() });
        self.answer(out, Reply::ok)
    }

    pub(super) fn enqueue(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
        let checked = self.check_for_transaction(spec, args);
        let (db, is_cluster) = (self.db, self.is_cluster);
        let transaction = self.transaction.as_mut().expect("a transaction is being collected");
        let error = match checked {
            Ok(_) if transaction.is_full(&self.door) => FULL_TRANSACTION,
            Ok(_) if spec.name == "q.txid" && !transaction.builder.is_empty() => NAME_FIRST,
            Ok((class, shard, crosses)) => {
                let crosses = crosses || shard.is_some_and(|shard| *transaction.shard.get_or_insert(shard) != shard);
                let has_keys = spec.is_write() || !spec.key_places(args).is_empty();
                if has_keys && *transaction.class.get_or_insert(class) != class {
                    MIXED
                } else if crosses && is_cluster {
                    CROSS_SLOT
                } else {
                    transaction.crosses |= crosses;
                    transaction.writes |= spec.is_write();
                    transaction.held_with_writes |= held_with_writes(spec);
                    transaction.frees_only &= spec.flags.has(Flags::FREES) || !spec.is_write();
                    transaction.slots.extend(spec.key_places(args).iter().map(|place| key_slot(args[*place])));
                    transaction.builder.command(db, args);
                    return self.answer(out, |reply| reply.simple("QUEUED"));
                }
            }
            Err(error) => error,
        };
        self.refuse(error, out)
    }

    /// The class of a command's keys, their shard where they have one, and whether they have several.
    fn check_for_transaction(
        &self,
        spec: &Spec,
        args: &[&[u8]],
    ) -> Result<(Durability, Option<usize>, bool), CommandError> {
        let (place, crosses) = match self.route(spec, args) {
            Err(error) if self.may_cross(&error) => (None, true),
            place => (place?, false),
        };
        let shard = place.or(self.transaction.as_ref().and_then(|transaction| transaction.shard)).unwrap_or(0);
        let class = self.door.shards[shard].state().class_of(spec, args)?;
        if spec.is_write()
            && class == Durability::Fsync
            && !self.is_there(shard)
            && let Some(error) = self.door.shards[shard].refusal(spec.flags.has(Flags::FREES))
        {
            return Err(error);
        }
        Ok((class, place, crosses))
    }

    /// The shard of what a MULTI holds so far.
    pub(in crate::resp) fn transaction_shard(&self) -> Option<usize> {
        self.transaction.as_ref().and_then(|transaction| transaction.shard)
    }

    /// Queues work on a topic, which is done in this shard.
    pub(in crate::resp) fn enqueue_stream(
        &mut self,
        at: usize,
        is_write: bool,
        frees: bool,
        form: &[u8],
        out: &mut Reply,
    ) -> Step {
        let is_cluster = self.is_cluster;
        let refusal = self.door.shards[at].refusal(frees).filter(|_| is_write && !self.is_there(at));
        let transaction = self.transaction.as_mut().expect("a transaction is being collected");
        let error = if transaction.is_full(&self.door) {
            FULL_TRANSACTION
        } else if let Some(refusal) = refusal {
            refusal
        } else if *transaction.class.get_or_insert(Durability::Fsync) != Durability::Fsync {
            MIXED
        } else if *transaction.topics.get_or_insert(at) != at {
            TOPICS_APART
        } else if is_cluster && transaction.shard.is_some_and(|shard| shard != at) {
            CROSS_SLOT
        } else {
            transaction.crosses |= *transaction.shard.get_or_insert(at) != at;
            transaction.writes |= is_write;
            transaction.held_with_writes |= is_write;
            transaction.frees_only &= frees || !is_write;
            transaction.builder.stream(form);
            return self.answer(out, |reply| reply.simple("QUEUED"));
        };
        self.refuse(error, out)
    }

    /// Queues an answer that the door gives itself, inside MULTI.
    pub(in crate::resp) fn enqueue_literal(&mut self, reply: &Reply, out: &mut Reply) -> Step {
        let transaction = self.transaction.as_mut().expect("a transaction is being collected");
        if transaction.is_full(&self.door) {
            return self.refuse(FULL_TRANSACTION, out);
        }
        transaction.builder.literal(&reply.bytes);
        self.answer(out, |reply| reply.simple("QUEUED"))
    }

    /// PUBLISH inside MULTI: its message leaves when the unit is applied.
    pub(in crate::resp) fn enqueue_publish(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        let db = self.db;
        let transaction = self.transaction.as_mut().expect("a transaction is being collected");
        if transaction.is_full(&self.door) {
            return self.refuse(FULL_TRANSACTION, out);
        }
        transaction.builder.command(db, args);
        transaction.held_with_writes = true;
        self.answer(out, |reply| reply.simple("QUEUED"))
    }

    pub(in crate::resp) fn discard(&mut self, out: &mut Reply) -> Step {
        let Some(transaction) = self.transaction.take() else {
            return self.answer(out, |reply| reply.error("ERR DISCARD without MULTI"));
        };
        self.db = transaction.db;
        self.unwatch();
        self.answer(out, Reply::ok)
    }

    /// EXEC with words behind it ends the transaction as well, where there is one, and forgets the watched keys.
    pub(in crate::resp) fn exec_refused(&mut self, out: &mut Reply) -> Step {
        if let Some(transaction) = self.transaction.take() {
            self.db = transaction.db;
        }
        self.unwatch();
        self.door.counters.errors.fetch_add(1, Ordering::Relaxed);
        self.answer(out, |reply| {
            reply.error("EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command");
        })
    }

    pub(in crate::resp) fn exec(&mut self, out: &mut Reply) -> Step {
        let Some(transaction) = &self.transaction else {
            return self.answer(out, |reply| reply.error("ERR EXEC without MULTI"));
        };
        let shard = transaction.shard.unwrap_or(0);
        let held_with_writes = transaction.held_with_writes;
        let taken = {
            let state = self.door.shards[shard].state();
            transaction.slots.iter().all(|slot| state.slots().takes_slot(*slot))
        };
        let (stale, crosses) = (transaction.stale, transaction.crosses);
        let may_go = if crosses { !self.is_pending() } else { self.turn_to(shard, taken) };
        if !may_go {
            return Step::Barrier;
        }
        if let Some(until) = self.paused(held_with_writes) {
            return Step::Later(until);
        }
        let transaction = self.transaction.as_ref().expect("it was there a line ago");
        let undo_db = (!self.watches.is_empty() && self.db != transaction.db).then_some(transaction.db);
        if undo_db.is_some() && self.is_pending() {
            return Step::Barrier;
        }
        let transaction = self.transaction.take().expect("it was there a line ago");
        let watches = std::mem::take(&mut self.watches);
        self.forget_watched();
        self.watch_places.clear();
        if transaction.dirty {
            self.db = transaction.db;
            return self.answer(out, |reply| {
                reply.error("EXECABORT Transaction discarded because of previous errors.");
            });
        }
        if transaction.grant.is_some_and(|before| !Arc::ptr_eq(&before, &self.grant)) {
            self.db = transaction.db;
            return self.answer(out, |reply| {
                reply.error(
                    "EXECABORT Transaction discarded because of: the rules of its user have changed since MULTI",
                );
            });
        }
        if stale {
            // What was watched has moved to another shard: whether it has changed is not known.
            self.db = transaction.db;
            return self.answer(out, Reply::null_array);
        }
        if let Some(name) = &transaction.name {
            self.client.card.lock().name.clone_from(name);
        }
        if crosses {
            if transaction.class == Some(Durability::Memory) {
                self.db = transaction.db;
                return self.refuse(super::cross::IN_MEMORY, out);
            }
            self.undo_db = undo_db;
            return self.cross_multi(transaction.builder, watches, transaction.topics);
        }
        let logged = transaction.writes && transaction.class != Some(Durability::Memory);
        if logged
            && !self.there
            && let Some(error) = self.door.shards[shard].refusal(transaction.frees_only)
        {
            self.db = transaction.db;
            return self
                .answer(out, |reply| reply.error(&format!("EXECABORT Transaction discarded because of: {}", error.0)));
        }
        let place = if logged { Place::Logged } else { Place::Local };
        let frees = transaction.frees_only;
        match self.ask(shard, Ask::Multi { place, frees, multi: &transaction.builder, watches: &watches }) {
            Ok(()) => {
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

    pub(in crate::resp) fn watch(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            return self.answer(out, |reply| reply.error("ERR WATCH inside MULTI is not allowed"));
        }
        if self.is_pending() {
            return Step::Barrier;
        }
        let limits = self.door.limits.clone();
        let (mut new, mut seen) = (Vec::new(), HashSet::<_, store::hash::State>::default());
        let mut shard = self.watch_places.first().copied();
        if self.db == 0 && args[1..].iter().any(|key| self.door.is_topic(key)) {
            let text =
                "ERR a topic cannot be watched: its records never change, and XADD never fails because of others";
            return self.refuse(CommandError::new(text), out);
        }
        for key in &args[1..] {
            let at = self.door.shard_of(key);
            if *shard.get_or_insert(at) != at && self.is_cluster {
                return self.refuse(CROSS_SLOT, out);
            }
            if seen.insert(*key) && !self.watched.contains(&(self.db, key.to_vec())) {
                new.push(*key);
            }
        }
        let many = self.watches.len() + new.len() > limits.args_max;
        let bytes = self.watched_bytes + new.iter().map(|key| key.len()).sum::<usize>();
        if many || bytes > limits.command_bytes_max {
            limits.hit(if many { Limit::args_max } else { Limit::command_bytes_max });
            return self
                .refuse(CommandError::new("ERR too many watched keys (limits args_max, command_bytes_max)"), out);
        }
        if self.is_cluster
            && let Err(error) = self.route_by_slot(args[1..].iter().copied(), None)
        {
            return self.refuse(error, out);
        }
        let mut watching = self.watching.take().unwrap_or_default();
        if let Some((at, keys)) = watching.asked.take() {
            let answer = self.client.take_aside();
            // A version may begin like an error; it never ends like a line, for it counts changes.
            let is_error = answer.starts_with(b"-") && answer.ends_with(b"\r\n");
            if is_error || answer.len() != keys.len() * 8 {
                out.bytes.extend_from_slice(&answer);
                return Step::Next;
            }
            let version = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
            let versions = answer.chunks_exact(8).map(|bytes| (version(bytes), at));
            watching.versions.extend(keys.into_iter().zip(versions));
        }
        let mut next = missing_of(&self.door, &new, &watching);
        while let Some((at, keys)) = next {
            let own = self.door.shards[at].clone();
            let taken = self.door.shards.len() == 1 || keys.iter().all(|key| own.state().slots().takes(key));
            self.turn_to(at, taken);
            let Some(versions) = self.versions(at, &keys) else {
                // Before the question: its answer may be here before the next line is reached.
                self.client.set_aside();
                if let Err(error) = self.ask(at, Ask::Versions(&keys)) {
                    self.client.take_aside();
                    return self.refuse(error, out);
                }
                watching.asked = Some((at, keys.iter().map(|key| key.to_vec()).collect()));
                (self.watching, self.blocked) = (Some(watching), true);
                // It comes by again with them.
                return Step::Barrier;
            };
            let known = keys.iter().map(|key| key.to_vec()).zip(versions.into_iter().map(|version| (version, at)));
            watching.versions.extend(known);
            next = missing_of(&self.door, &new, &watching);
        }
        self.watched_bytes = bytes;
        for key in new {
            let Some((version, at)) = watching.versions.remove(key) else { continue };
            self.watched.insert((self.db, key.to_vec()));
            self.watches.push(Watch { db: self.db, key: key.to_vec(), version });
            self.watch_places.push(at);
        }
        self.answer(out, Reply::ok)
    }

    /// The keys' versions as they are here, if that is what they are.
    fn versions(&self, at: usize, keys: &[&[u8]]) -> Option<Vec<u64>> {
        let shard = &self.door.shards[at];
        if self.there || !shard.reads_here() {
            return None;
        }
        let state = shard.state();
        let now = shard.now(self.now);
        let versions = keys.iter().map(|key| state.version(self.db, key, now)).collect();
        drop(state);
        shard.may_read(|| self.door.world.now()).then_some(versions)
    }

    pub(in crate::resp) fn unwatch(&mut self) {
        self.watches.clear();
        self.watch_places.clear();
        self.forget_watched();
    }

    fn forget_watched(&mut self) {
        self.watched = HashSet::default();
        self.watched_bytes = 0;
    }
}

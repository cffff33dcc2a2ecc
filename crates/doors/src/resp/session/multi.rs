//! MULTI, EXEC, DISCARD and WATCH: what is collected between them, and the one unit that it becomes.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use base::Limit;
use shard::command::{Flags, Spec};
use shard::entry::{MultiBuilder, Watch};
use shard::error::CommandError;
use shard::pending::Place;
use shard::reply::Reply;
use shard::state::MIXED;
use store::keyspace::Durability;

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

impl Session {
    pub(in crate::resp) fn multi(&mut self, out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            return self.answer(out, |reply| reply.error("ERR MULTI calls can not be nested"));
        }
        let db = self.db;
        self.transaction =
            Some(Transaction { db, frees_only: true, shard: self.watch_shard, ..Transaction::default() });
        self.answer(out, Reply::ok)
    }

    pub(super) fn enqueue(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Step {
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
            && !self.is_there(shard)
            && let Some(error) = self.door.shards[shard].refusal(spec.flags.has(Flags::FREES))
        {
            return Err(error);
        }
        Ok((class, place))
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
        if !self.turn_to(shard) {
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
        if transaction.dirty {
            self.db = transaction.db;
            return self.answer(out, |reply| {
                reply.error("EXECABORT Transaction discarded because of previous errors.");
            });
        }
        if let Some(name) = &transaction.name {
            self.client.card.lock().name.clone_from(name);
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
        let (mut new, mut seen, mut shard) =
            (Vec::new(), HashSet::<_, store::hash::State>::default(), self.watch_shard);
        for key in &args[1..] {
            let at = self.door.shard_of(key);
            if *shard.get_or_insert(at) != at {
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
        let at = shard.unwrap_or(0);
        if self.is_cluster
            && let Err(error) = self.route_by_slot(args[1..].iter().copied(), None)
        {
            return self.refuse(error, out);
        }
        let versions = if std::mem::take(&mut self.watching) {
            let answer = self.client.take_aside();
            if answer.starts_with(b"-") || answer.len() != new.len() * 8 {
                out.bytes.extend_from_slice(&answer);
                return Step::Next;
            }
            let version = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("chunks of eight"));
            Some(answer.chunks_exact(8).map(version).collect::<Vec<u64>>())
        } else {
            self.turn_to(at);
            self.versions(at, &new)
        };
        let Some(versions) = versions else {
            if let Err(error) = self.ask(at, Ask::Versions(&new)) {
                return self.refuse(error, out);
            }
            self.client.set_aside();
            (self.watching, self.blocked) = (true, true);
            // It comes by again with them.
            return Step::Barrier;
        };
        (self.watch_shard, self.watched_bytes) = (shard, bytes);
        for (key, version) in new.into_iter().zip(versions) {
            self.watched.insert((self.db, key.to_vec()));
            self.watches.push(Watch { db: self.db, key: key.to_vec(), version });
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
        self.forget_watched();
    }

    fn forget_watched(&mut self) {
        self.watched = HashSet::default();
        self.watched_bytes = 0;
        self.watch_shard = None;
    }
}

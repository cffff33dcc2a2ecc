//! What the units of a commit across shards do to the tables ([`crate::commit`]), and how units wait for locked keys.

use std::collections::{BTreeMap, BTreeSet};

use base::{GroupId, Millis};
use store::codec::{Corrupt, Input, Stored};
use store::keyspace::Durability;
use store::table::DATABASES;
use store::value::Value;

use super::named::is_named;
use super::{MIXED, NOT_HERE, Sink, State, keys_of};
use crate::command::{self, Args, Flags, Spec, is};
use crate::commit::{Answer, BYTES_MAX, Commits, Foreign, Parked, Step, TxId, Verdict};
use crate::entry::{self, Unit};
use crate::error::CommandError;
use crate::pending::Place;
use crate::reply::Reply;
use crate::slots::{Record, put_record, read_record};
use crate::waiters::LOCAL;

/// Who is to be answered.
#[derive(Debug)]
pub(super) enum Asker<'a, C> {
    Nobody,
    Client(&'a C),
    /// Whoever waits under this ticket.
    Ticket(u64),
}

impl<C> Clone for Asker<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Asker<'_, C> {}

const TOO_MANY: CommandError = CommandError::new(
    "BUSY too many commands wait for keys that transactions across shards hold (limit commit_parked_max); nothing was done",
);
const HELD: CommandError = CommandError::new(
    "TRYAGAIN a transaction across shards holds a key of this one, which has records or offsets of topics in it; nothing was done",
);
const TOO_MANY_TXS: CommandError = CommandError::new(
    "BUSY too many transactions across shards are under way (limit commit_prepared_max); nothing was done",
);
const TOO_LARGE: CommandError = CommandError::new(
    "ERR the values of a transaction across shards are larger than the limit commit_bytes_max; nothing was done",
);
const GONE_AWAY: &[u8] =
    b"-TRYAGAIN a transaction across shards held this key when this node fell behind; nothing was done\r\n";

/// Whether a command may read or change keys that it does not name.
fn is_wide(spec: &Spec, args: Args<'_>) -> bool {
    let sorts = || {
        let pattern = |at: usize| args.get(at + 1).is_some_and(|word| **word != *b"#" && !is(word, "nosort"));
        let by = |(at, word): (usize, &&[u8])| (is(word, "by") || is(word, "get")) && pattern(at);
        spec.name.starts_with("sort") && args.iter().enumerate().skip(2).any(by)
    };
    spec.flags.has(Flags::WHOLE) && spec.is_write() || sorts()
}

fn is_wide_words(words: Args<'_>) -> bool {
    command::find(words[0]).is_some_and(|spec| is_wide(spec, words))
}

fn has_streams(unit: &[u8]) -> bool {
    matches!(entry::read_unit(&mut Input::new(unit)), Ok(Unit::Multi(multi)) if multi.has_streams)
}

/// Keys of a decision that are its home's.
pub(super) fn own_keys(foreign: &[Foreign<'_>], unit: &[u8]) -> Vec<Vec<u8>> {
    let others: BTreeSet<&[u8]> = foreign.iter().flat_map(|part| part.keys.iter().copied()).collect();
    let mut own = BTreeSet::new();
    if let Ok(unit) = entry::read_unit(&mut Input::new(unit)) {
        keys_of(&unit, |key| {
            if !others.contains(key) {
                own.insert(key.to_vec());
            }
        });
    }
    own.into_iter().collect()
}

impl State {
    /// Locks, whoever waits for them, and decisions.
    pub fn commits(&self) -> &Commits {
        &self.commits
    }

    /// Whether a read must not run now and here: it names a locked key, or might meet one.
    #[inline]
    pub fn is_locked(&self, spec: &Spec, args: Args<'_>) -> bool {
        self.commits.locks_any() && {
            #[cfg(any(test, feature = "planted"))]
            if self.planted.lock_read_through {
                return false;
            }
            is_wide(spec, args) || spec.key_places(args).iter().any(|place| self.commits.locks(args[*place]))
        }
    }

    /// Whether a unit waits, or has been answered: then it is not to be run.
    pub(super) fn held_back<C: Clone, S: Sink<C>>(
        &mut self,
        unit: &Unit<'_>,
        raw: &[u8],
        place: Place,
        client: Option<&C>,
        sink: &mut S,
    ) -> bool {
        if self.commits.is_quiet() {
            return false;
        }
        // Records are read from where their unit stands in the log for ever: such a unit cannot run later.
        let mut may_wait = true;
        let (keys, all, tx) = match unit {
            Unit::Commit(Step::Prepare { tx, age, keys, watches, .. }) => {
                let keys = keys.iter().map(|key| key.to_vec()).chain(watches.iter().map(|watch| watch.key.clone()));
                (keys.collect(), false, Some((*tx, *age)))
            }
            Unit::Commit(Step::Decide { tx, age, deadline, foreign, unit }) => {
                if self.commits.is_buried(tx) || *deadline < self.stamp {
                    return false;
                }
                may_wait = !has_streams(unit);
                (own_keys(foreign, unit), false, Some((*tx, *age)))
            }
            Unit::Command { words, .. } => {
                let all = is_wide_words(words);
                let mut keys = Vec::new();
                keys_of(unit, |key| keys.push(key.to_vec()));
                (keys, all, None)
            }
            Unit::Multi(multi) => {
                let all = multi.clone().any_command(is_wide_words);
                may_wait = !multi.has_streams || place == Place::Local;
                let mut keys = Vec::new();
                keys_of(unit, |key| keys.push(key.to_vec()));
                (keys, all, None)
            }
            _ => return false,
        };
        let answer = |answer: Answer, sink: &mut S| {
            let mut bytes = Vec::new();
            answer.put(&mut bytes);
            if let Some(client) = client {
                sink.reply(client, &bytes);
            }
        };
        if let Some((_, age)) = &tx {
            #[cfg(any(test, feature = "planted"))]
            if self.planted.locks_shared {
                return false;
            }
            match self.commits.verdict(*age, keys.iter().map(Vec::as_slice)) {
                Verdict::Free => return false,
                Verdict::Die => {
                    answer(Answer::Die, sink);
                    return true;
                }
                Verdict::Wait => {}
            }
        } else {
            #[cfg(any(test, feature = "planted"))]
            if self.planted.lock_read_through && place == Place::Local {
                return false;
            }
            let waits =
                all || keys.iter().any(|key| self.commits.bars(key)) || !keys.is_empty() && self.commits.bars_all();
            if !waits {
                return false;
            }
        }
        let ticket = match place {
            _ if !may_wait => None,
            Place::Logged => self.commits.park(raw, keys, all, tx),
            Place::Local => self.commits.park_reader(raw, keys, all),
        };
        match (ticket, client) {
            (Some(ticket), Some(client)) => sink.held(client, ticket),
            (None, _) if tx.is_some() => answer(Answer::Die, sink),
            (None, Some(client)) if !may_wait => {
                sink.refused(client, format!("-{}\r\n", HELD.0).as_bytes());
            }
            (None, Some(client)) => {
                self.limits.hit(base::Limit::commit_parked_max);
                sink.refused(client, format!("-{}\r\n", TOO_MANY.0).as_bytes());
            }
            _ => {}
        }
        true
    }

    /// Runs whoever need not wait any more.
    pub(super) fn run_ready<C: Clone, S: Sink<C>>(&mut self, now: Millis, sink: &mut S) {
        while let Some((ticket, parked)) = self.commits.next_ready() {
            self.run_parked::<C, S>(ticket, &parked, now, sink);
        }
    }

    fn run_parked<C: Clone, S: Sink<C>>(&mut self, ticket: u64, parked: &Parked, now: Millis, sink: &mut S) {
        let Ok(unit) = entry::read_unit(&mut Input::new(&parked.unit)) else {
            return;
        };
        if self.is_elsewhere(&unit) {
            return sink.served(ticket, format!("-{}\r\n", NOT_HERE.0).as_bytes());
        }
        let place = if ticket & LOCAL != 0 { Place::Local } else { Place::Logged };
        self.run::<C, S>(unit, parked.unit.len(), place, now, Asker::Ticket(ticket), sink);
    }

    /// This node's state is swapped for a newer one, or its log has stopped: whoever waits for a lock is told, or let go of.
    pub(super) fn end_holds<C, S: Sink<C>>(&mut self, sink: &mut S) {
        for ticket in self.commits.take_readers() {
            sink.served(ticket, GONE_AWAY);
        }
        for ticket in self.commits.tickets() {
            sink.abandoned(ticket);
        }
    }

    /// Does what a unit of a commit asks for. Nothing is in its way.
    pub(super) fn step<C: Clone, S: Sink<C>>(
        &mut self,
        step: &Step<'_>,
        end: usize,
        now: Millis,
        reply: &mut Reply,
        sink: &mut S,
    ) {
        let done = match step {
            Step::Prepare { .. } => self.prepare(step, now),
            Step::Decide { .. } => self.decide::<C, S>(step, end, now, sink),
            Step::Finish { tx, writes } => {
                self.finish::<C, S>(tx, *writes, now, sink);
                Ok(Answer::Done)
            }
            Step::Resolve { tx, deadline, from } => self.resolve(tx, *deadline, *from, sink),
            Step::Forget { tx, groups } => {
                self.commits.forget(tx, groups);
                Ok(Answer::Done)
            }
        };
        match done {
            Ok(answer) => answer.put(&mut reply.bytes),
            Err(error) => reply.error(&error.0),
        }
    }

    fn prepare(&mut self, step: &Step<'_>, now: Millis) -> Result<Answer, CommandError> {
        let Step::Prepare { tx, age, deadline, keys, watches } = step else {
            return Ok(Answer::Aborted);
        };
        if *deadline < self.stamp {
            return Ok(Answer::Late { stamp: self.stamp });
        }
        if self.commits.is_full() {
            self.limits.hit(base::Limit::commit_prepared_max);
            return Err(TOO_MANY_TXS);
        }
        let memory = |key: &[u8]| self.class_of_key(key) == Durability::Memory;
        if keys.iter().any(|key| memory(key)) || watches.iter().any(|watch| memory(&watch.key)) {
            return Err(MIXED);
        }
        #[cfg(any(test, feature = "planted"))]
        let watches = &if self.planted.prepare_unwatched { Vec::new() } else { watches.clone() };
        if watches.iter().any(|watch| self.version(watch.db, &watch.key, now) != watch.version) {
            return Ok(Answer::Changed);
        }
        let mut values = Vec::new();
        for key in keys {
            for db in 0..DATABASES as u8 {
                if self.logged.tables.len(db) == 0 {
                    continue;
                }
                let Some(entry) = self.logged.tables.peek(db, key, now) else { continue };
                if values.len() + entry.value().heap_bytes() > BYTES_MAX {
                    self.limits.hit(base::Limit::commit_bytes_max);
                    return Err(TOO_LARGE);
                }
                put_record(&mut values, &Record::Put { db, expire: entry.expire(), key });
                entry.value().encode(&mut values);
            }
        }
        let mut locked: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        locked.extend(watches.iter().map(|watch| watch.key.clone()));
        locked.sort_unstable();
        locked.dedup();
        self.commits.lock(*tx, *age, *deadline, self.stamp, locked);
        Ok(Answer::Prepared { stamp: self.stamp, values })
    }

    fn decide<C: Clone, S: Sink<C>>(
        &mut self,
        step: &Step<'_>,
        end: usize,
        now: Millis,
        sink: &mut S,
    ) -> Result<Answer, CommandError> {
        let Step::Decide { tx, deadline, foreign, unit, .. } = step else {
            return Ok(Answer::Aborted);
        };
        #[cfg(any(test, feature = "planted"))]
        let deadline = &if self.planted.decided_late { Millis::MAX } else { *deadline };
        if self.commits.is_buried(tx) || self.commits.is_decided(tx) {
            return Ok(Answer::Aborted);
        }
        if *deadline < self.stamp {
            return Ok(Answer::Late { stamp: self.stamp });
        }
        if self.commits.is_full() {
            self.limits.hit(base::Limit::commit_prepared_max);
            return Err(TOO_MANY_TXS);
        }
        if foreign.iter().map(|part| part.values.len()).sum::<usize>() > BYTES_MAX {
            self.limits.hit(base::Limit::commit_bytes_max);
            return Err(TOO_LARGE);
        }
        let unreadable = |_: Corrupt| CommandError::new("ERR a transaction across shards cannot be read");
        let unit = entry::read_unit(&mut Input::new(unit)).map_err(unreadable)?;
        // Whether one that has a name was done already is asked first, once its name's key lies here.
        if let Unit::Multi(multi) = &unit
            && !is_named(multi)
            && multi.watches.iter().any(|watch| self.version(watch.db, &watch.key, now) != watch.version)
        {
            return Ok(Answer::Changed);
        }
        let keys: BTreeSet<&[u8]> = foreign.iter().flat_map(|part| part.keys.iter().copied()).collect();
        let beneath = self.lift(&keys, now);
        let laid = foreign.iter().try_for_each(|part| self.put_values(part.values, now));
        let mut answer = Err(CommandError::new("ERR a transaction across shards cannot be read"));
        let mut writes = BTreeMap::new();
        if laid.is_ok() {
            let before: BTreeMap<(u8, &[u8]), u64> = self.versions_of(&keys, now).collect();
            self.slots.lay(keys.iter().map(|key| key.to_vec()).collect());
            let mut reply = Reply::bounded(Default::default(), self.answer_bytes_max);
            match unit {
                Unit::Command { db, protocol, words } => {
                    reply.protocol = protocol;
                    let spec = command::find(words[0]).ok_or(CommandError::new("ERR unknown command"));
                    let call = spec.map(|spec| super::Call::new(spec, db, &words, now));
                    self.unit_command::<C, S>(call, Place::Logged, Asker::Nobody, &mut reply, sink);
                }
                Unit::Multi(multi) => {
                    reply.protocol = multi.protocol;
                    self.unit_multi::<C, S>(multi, end, Place::Logged, now, Asker::Nobody, &mut reply, sink);
                }
                _ => reply.error("ERR a transaction across shards holds what no client may ask for"),
            }
            self.slots.lay(BTreeSet::new());
            for part in foreign {
                writes.insert(part.group, self.changes(part, &before, now));
            }
            answer = Ok(reply.bytes);
        }
        // What was laid beside the tables goes, and what was there before comes back.
        for key in &keys {
            for db in 0..DATABASES as u8 {
                if self.logged.tables.len(db) > 0 {
                    self.logged.tables.remove(db, key, now);
                }
            }
        }
        let _ = self.put_values(&beneath, now);
        let reply = answer?;
        let writes_any = writes.values().any(|records| !records.is_empty());
        let told = writes.iter().map(|(group, records)| (*group, records.clone())).collect();
        if writes_any {
            self.commits.decide(*tx, self.stamp, writes);
        }
        Ok(Answer::Committed { reply, writes: told })
    }

    /// Takes out what lies here under keys that are not the shard's (litter, or what is arriving): its records.
    fn lift(&mut self, keys: &BTreeSet<&[u8]>, now: Millis) -> Vec<u8> {
        let mut records = Vec::new();
        for key in keys {
            for db in 0..DATABASES as u8 {
                if self.logged.tables.len(db) == 0 {
                    continue;
                }
                if let Some(entry) = self.logged.tables.entry_of(db, key) {
                    put_record(&mut records, &Record::Put { db, expire: entry.expire(), key });
                    entry.value().encode(&mut records);
                    self.logged.tables.remove(db, key, now);
                }
            }
        }
        records
    }

    fn put_values(&mut self, records: &[u8], now: Millis) -> Result<(), Corrupt> {
        let mut input = Input::new(records);
        while let Some(record) = read_record(&mut input)? {
            match record {
                Record::Put { db, expire, key } => {
                    let value = Value::decode(&mut input)?;
                    self.logged.tables.import(db, key, value, expire, now);
                }
                Record::Gone { db, key } => {
                    self.logged.tables.remove(db, key, now);
                }
                _ => return Err(Corrupt("a record that no commit writes")),
            }
        }
        Ok(())
    }

    fn versions_of<'a>(&self, keys: &BTreeSet<&'a [u8]>, now: Millis) -> impl Iterator<Item = ((u8, &'a [u8]), u64)> {
        let tables = &self.logged.tables;
        let dbs: Vec<u8> = (0..DATABASES as u8).filter(|db| tables.len(*db) > 0).collect();
        let of = move |key: &'a [u8]| {
            let version = |db: &u8| Some(((*db, key), tables.peek(*db, key, now)?.version()));
            dbs.iter().filter_map(version).collect::<Vec<_>>()
        };
        keys.iter().flat_map(move |key| of(key))
    }

    /// What the unit did to a participant's keys.
    fn changes(&self, part: &Foreign<'_>, before: &BTreeMap<(u8, &[u8]), u64>, now: Millis) -> Vec<u8> {
        let mut records = Vec::new();
        let keys: BTreeSet<&[u8]> = part.keys.iter().copied().collect();
        let after: BTreeMap<(u8, &[u8]), u64> = self.versions_of(&keys, now).collect();
        for (&(db, key), version) in &after {
            if before.get(&(db, key)) == Some(version) {
                continue;
            }
            if let Some(entry) = self.logged.tables.peek(db, key, now) {
                put_record(&mut records, &Record::Put { db, expire: entry.expire(), key });
                entry.value().encode(&mut records);
            }
        }
        for &(db, key) in before.keys().filter(|place| keys.contains(place.1) && !after.contains_key(place)) {
            put_record(&mut records, &Record::Gone { db, key });
        }
        records
    }

    fn finish<C: Clone, S: Sink<C>>(&mut self, tx: &TxId, writes: Option<&[u8]>, now: Millis, sink: &mut S) {
        if let Some(ticket) = self.commits.cancel(tx) {
            tell(ticket, &Answer::Aborted, sink);
        }
        #[cfg(any(test, feature = "planted"))]
        if self.planted.finished_twice && !self.commits.is_prepared(tx) {
            let _ = self.put_values(writes.unwrap_or_default(), now);
        }
        let Some(keys) = self.commits.release(tx) else {
            return;
        };
        if let Some(records) = writes {
            // What cannot be read was never written: the decision is our own.
            let _ = self.put_values(records, now);
        }
        // Who waits for data was passed over while one of its keys was locked.
        for id in self.logged.waiters.ids() {
            let names = self.logged.waiters.get(id).is_some_and(|wait| {
                let args: Vec<&[u8]> = wait.words.iter().map(Vec::as_slice).collect();
                let spec = command::find(args[0]);
                spec.is_some_and(|spec| {
                    spec.key_places(&args).iter().any(|place| keys.iter().any(|key| key == args[*place]))
                })
            });
            if names {
                self.try_serve::<C, S>(Durability::Fsync, id, now, sink);
            }
        }
    }

    fn resolve<C, S: Sink<C>>(
        &mut self,
        tx: &TxId,
        deadline: Millis,
        from: GroupId,
        sink: &mut S,
    ) -> Result<Answer, CommandError> {
        if let Some(writes) = self.commits.writes_of(tx, from) {
            return Ok(Answer::Committed { reply: Vec::new(), writes: vec![(from, writes)] });
        }
        #[cfg(any(test, feature = "planted"))]
        if self.planted.no_tombstone {
            return Ok(Answer::Aborted);
        }
        if !self.commits.bury(*tx, deadline, self.stamp) {
            return Err(TOO_MANY_TXS);
        }
        if let Some(ticket) = self.commits.cancel(tx) {
            tell(ticket, &Answer::Aborted, sink);
        }
        Ok(Answer::Aborted)
    }
}

fn tell<C, S: Sink<C>>(ticket: u64, answer: &Answer, sink: &mut S) {
    let mut bytes = Vec::new();
    answer.put(&mut bytes);
    sink.served(ticket, &bytes);
}

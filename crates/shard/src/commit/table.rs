//! A shard's part in commits: who has which lock, who waits for one, and what has been decided. Replicated state, but for the
//! reads that a leader parks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base::{GroupId, Millis, SlotSet, key_slot};
use store::codec::{Corrupt, Input, put_bytes, put_u64, put_varint};

use super::{Age, PARKED_MAX, PREPARED_MAX, RESOLVE_AFTER, TxId, read_group};
use crate::waiters::LOCAL;

/// Set in the tickets of parked units, so that they differ from the ids of waits.
pub const PARKED: u64 = 1 << 60;
/// Bits of a ticket that count; above them stands the group.
const COUNT_BITS: u32 = 40;
/// Units that are looked at to find out whom a transaction would wait for; beyond it is told to begin again.
const LOOKED_MAX: usize = 64;

/// A transaction that holds locks.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prepared {
    age: Age,
    deadline: Millis,
    since: Millis,
    keys: Vec<Vec<u8>>,
}

/// A unit that waits for keys to be free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// As in an entry.
    pub unit: Vec<u8>,
    /// What it waits for.
    pub keys: Vec<Vec<u8>>,
    /// It waits until nothing is locked at all.
    pub all: bool,
    /// A unit of this transaction.
    pub tx: Option<(TxId, Age)>,
}

/// A read that waits, on the leader alone: behind whoever was parked before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reader {
    unit: Vec<u8>,
    keys: Vec<Vec<u8>>,
    all: bool,
    behind: u64,
}

/// What has been decided.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decision {
    since: Millis,
    /// Of participants that may not have finished: what they write.
    writes: BTreeMap<GroupId, Vec<u8>>,
}

/// Whether a transaction may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All keys are free.
    Free,
    /// Whoever is in the way is younger.
    Wait,
    /// Somebody is older.
    Die,
}

/// What is overdue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Due {
    /// A transaction is prepared here, and nobody says what has become of it.
    Prepared {
        /// Which.
        tx: TxId,
        /// When it must have been decided.
        deadline: Millis,
    },
    /// These participants may not know of a decision.
    Decided {
        /// Which.
        tx: TxId,
        /// They, and what they write.
        writes: Vec<(GroupId, Vec<u8>)>,
    },
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Commits {
    prepared: BTreeMap<TxId, Prepared>,
    locks: BTreeMap<Vec<u8>, TxId>,
    parked: BTreeMap<u64, Parked>,
    /// Tickets by key, in order of arrival.
    queues: BTreeMap<Vec<u8>, VecDeque<u64>>,
    /// Those that wait for everything.
    wide: BTreeSet<u64>,
    /// Tickets of parked transactions.
    parked_txs: BTreeMap<TxId, u64>,
    next: u64,
    decisions: BTreeMap<TxId, Decision>,
    tombstones: BTreeMap<TxId, Millis>,
    tombstones_by_deadline: BTreeSet<(Millis, TxId)>,
    /// Not replicated: this leader's readers.
    readers: BTreeMap<u64, Reader>,
    next_reader: u64,
    /// Keys that may be free for the next one: empty between units.
    loose: BTreeSet<Vec<u8>>,
    stirred: bool,
}

impl Commits {
    /// Nothing is locked yet in this group.
    pub const fn new(group: GroupId) -> Commits {
        Commits {
            prepared: BTreeMap::new(),
            locks: BTreeMap::new(),
            parked: BTreeMap::new(),
            queues: BTreeMap::new(),
            wide: BTreeSet::new(),
            parked_txs: BTreeMap::new(),
            next: (group.0 as u64 & 0xFFFF) << COUNT_BITS | PARKED,
            decisions: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            tombstones_by_deadline: BTreeSet::new(),
            readers: BTreeMap::new(),
            next_reader: (group.0 as u64 & 0xFFFF) << COUNT_BITS | PARKED | LOCAL,
            loose: BTreeSet::new(),
            stirred: false,
        }
    }

    /// Whether nothing is locked and nobody waits: every unit may run.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.locks.is_empty() && self.parked.is_empty()
    }

    /// Whether nothing is prepared and no decision is kept: nothing can be overdue.
    #[inline]
    pub fn is_still(&self) -> bool {
        self.prepared.is_empty() && self.decisions.is_empty()
    }

    /// Whether a transaction has locked this key.
    #[inline]
    pub fn locks(&self, key: &[u8]) -> bool {
        !self.locks.is_empty() && self.locks.contains_key(key)
    }

    /// Whether anything is locked.
    #[inline]
    pub fn locks_any(&self) -> bool {
        !self.locks.is_empty()
    }

    /// Whether a unit that names this key must wait.
    pub fn bars(&self, key: &[u8]) -> bool {
        self.locks.contains_key(key) || self.queues.contains_key(key)
    }

    /// Whether everybody must wait, behind a unit on whole databases.
    pub fn bars_all(&self) -> bool {
        !self.wide.is_empty()
    }

    /// Whether a key of these slots is locked or waited for.
    pub fn holds_in(&self, slots: &SlotSet) -> bool {
        self.locks.keys().chain(self.queues.keys()).any(|key| slots.has(key_slot(key)))
    }

    /// Transactions prepared, units parked, decisions kept, tombstones.
    pub fn counts(&self) -> (usize, usize, usize, usize) {
        (self.prepared.len(), self.parked.len() + self.readers.len(), self.decisions.len(), self.tombstones.len())
    }

    // ---- waiting ---------------------------------------------------------------------------------------------------

    /// Whether a transaction of this age may go on with these keys. It would wait for whoever has one, for those that wait for
    /// one already, and for whom those wait.
    pub fn verdict<'a>(&self, age: Age, keys: impl Iterator<Item = &'a [u8]>) -> Verdict {
        let (mut found, mut seen, mut left) = (false, BTreeSet::new(), Vec::new());
        for key in keys {
            if let Some(tx) = self.locks.get(key) {
                found = true;
                if self.is_older(tx, age) {
                    return Verdict::Die;
                }
            }
            left.extend(self.queues.get(key).into_iter().flatten().copied());
        }
        if !self.wide.is_empty() {
            return Verdict::Die;
        }
        while let Some(ticket) = left.pop() {
            found = true;
            if !seen.insert(ticket) {
                continue;
            }
            if seen.len() > LOOKED_MAX {
                return Verdict::Die;
            }
            let Some(parked) = self.parked.get(&ticket) else { continue };
            if parked.tx.is_some_and(|(_, other)| other <= age) {
                return Verdict::Die;
            }
            for key in &parked.keys {
                if self.locks.get(key).is_some_and(|tx| self.is_older(tx, age)) {
                    return Verdict::Die;
                }
                let before = self.queues.get(key).into_iter().flatten();
                left.extend(before.filter(|other| **other < ticket));
            }
        }
        if found { Verdict::Wait } else { Verdict::Free }
    }

    fn is_older(&self, tx: &TxId, age: Age) -> bool {
        self.prepared.get(tx).is_none_or(|own| own.age <= age)
    }

    /// Parks a unit; its ticket. `None` where too many wait.
    pub fn park(&mut self, unit: &[u8], keys: Vec<Vec<u8>>, all: bool, tx: Option<(TxId, Age)>) -> Option<u64> {
        if self.parked.len() >= PARKED_MAX {
            return None;
        }
        self.next += 1;
        self.insert(self.next, Parked { unit: unit.to_vec(), keys, all, tx });
        Some(self.next)
    }

    fn insert(&mut self, ticket: u64, mut parked: Parked) {
        parked.keys.sort_unstable();
        parked.keys.dedup();
        for key in &parked.keys {
            self.queues.entry(key.clone()).or_default().push_back(ticket);
        }
        if parked.all {
            self.wide.insert(ticket);
        }
        if let Some((tx, _)) = parked.tx {
            self.parked_txs.insert(tx, ticket);
        }
        self.parked.insert(ticket, parked);
    }

    /// Parks a read on this leader.
    pub fn park_reader(&mut self, unit: &[u8], keys: Vec<Vec<u8>>, all: bool) -> Option<u64> {
        if self.readers.len() >= PARKED_MAX {
            return None;
        }
        self.next_reader += 1;
        self.readers.insert(self.next_reader, Reader { unit: unit.to_vec(), keys, all, behind: self.next });
        Some(self.next_reader)
    }

    fn remove(&mut self, ticket: u64) -> Option<Parked> {
        let parked = self.parked.remove(&ticket)?;
        for key in &parked.keys {
            if let Some(queue) = self.queues.get_mut(key) {
                queue.retain(|other| *other != ticket);
                if queue.is_empty() {
                    self.queues.remove(key);
                }
            }
            self.loose.insert(key.clone());
        }
        if self.wide.remove(&ticket) {
            self.loose.extend(self.queues.keys().cloned());
        }
        if let Some((tx, _)) = parked.tx {
            self.parked_txs.remove(&tx);
        }
        self.stirred = true;
        Some(parked)
    }

    /// Takes out a transaction that waits; its ticket.
    pub fn cancel(&mut self, tx: &TxId) -> Option<u64> {
        let ticket = self.parked_txs.get(tx).copied()?;
        self.remove(ticket);
        Some(ticket)
    }

    fn may_run(&self, ticket: u64) -> bool {
        let Some(parked) = self.parked.get(&ticket) else { return false };
        if parked.all {
            return self.locks.is_empty() && self.parked.first_key_value().is_some_and(|(first, _)| *first == ticket);
        }
        let first = |key: &Vec<u8>| self.queues.get(key).and_then(VecDeque::front) == Some(&ticket);
        self.wide.first().is_none_or(|wide| *wide > ticket)
            && parked.keys.iter().all(|key| !self.locks.contains_key(key) && first(key))
    }

    /// The next unit that need not wait any more, taken out, with its ticket; `None` at the end. To be asked after every unit.
    pub fn next_ready(&mut self) -> Option<(u64, Parked)> {
        if !self.stirred {
            return None;
        }
        let fronts = self.loose.iter().filter_map(|key| self.queues.get(key)?.front());
        let found = fronts.chain(self.wide.first()).filter(|ticket| self.may_run(**ticket)).min().copied();
        if let Some(ticket) = self.next_reader_ready(found) {
            let Reader { unit, keys, all, .. } = self.readers.remove(&ticket)?;
            return Some((ticket, Parked { unit, keys, all, tx: None }));
        }
        let Some(ticket) = found else {
            self.loose.clear();
            self.stirred = false;
            return None;
        };
        self.remove(ticket).map(|parked| (ticket, parked))
    }

    /// A reader that may run, unless `found` stood before it.
    fn next_reader_ready(&self, found: Option<u64>) -> Option<u64> {
        let free = |reader: &Reader| {
            let first = |key: &Vec<u8>| self.queues.get(key).and_then(|queue| queue.front().copied());
            let behind = |ticket: Option<u64>| ticket.is_none_or(|ticket| ticket > reader.behind);
            let wide = behind(self.wide.first().copied());
            match reader.all {
                true => self.locks.is_empty() && behind(self.parked.keys().next().copied()),
                false => wide && reader.keys.iter().all(|key| !self.locks.contains_key(key) && behind(first(key))),
            }
        };
        let own = self.readers.iter().find(|(_, reader)| free(reader))?;
        found.is_none_or(|found| own.1.behind < found).then_some(*own.0)
    }

    /// Drops this node's readers; their tickets come back so that clients can be told.
    pub fn take_readers(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.readers).into_keys().collect()
    }

    /// Tickets of all that wait for the log's sake.
    pub fn tickets(&self) -> Vec<u64> {
        self.parked.keys().copied().collect()
    }

    // ---- participant -----------------------------------------------------------------------------------------------

    /// Whether a transaction is prepared here.
    pub fn is_prepared(&self, tx: &TxId) -> bool {
        self.prepared.contains_key(tx)
    }

    /// Whether no more can be prepared.
    pub fn is_full(&self) -> bool {
        self.prepared.len().max(self.decisions.len()).max(self.tombstones.len()) >= PREPARED_MAX
    }

    /// Gives a transaction its locks: [`Commits::verdict`] has said that they are free.
    pub fn lock(&mut self, tx: TxId, age: Age, deadline: Millis, since: Millis, keys: Vec<Vec<u8>>) {
        for key in &keys {
            self.locks.insert(key.clone(), tx);
        }
        self.prepared.insert(tx, Prepared { age, deadline, since, keys });
    }

    /// Takes them away again: the keys; `None` where it was not prepared.
    pub fn release(&mut self, tx: &TxId) -> Option<Vec<Vec<u8>>> {
        let prepared = self.prepared.remove(tx)?;
        for key in &prepared.keys {
            if self.locks.get(key) == Some(tx) {
                self.locks.remove(key);
            }
        }
        self.loose.extend(prepared.keys.iter().cloned());
        self.stirred = true;
        Some(prepared.keys)
    }

    // ---- home ------------------------------------------------------------------------------------------------------

    /// Whether a transaction has been given up for good.
    pub fn is_buried(&self, tx: &TxId) -> bool {
        self.tombstones.contains_key(tx)
    }

    /// Whether there is a decision.
    pub fn is_decided(&self, tx: &TxId) -> bool {
        self.decisions.contains_key(tx)
    }

    /// Keeps a decision.
    pub fn decide(&mut self, tx: TxId, since: Millis, writes: BTreeMap<GroupId, Vec<u8>>) {
        self.decisions.insert(tx, Decision { since, writes });
    }

    /// What a participant has to write; `None` where there is no decision. One that has finished writes nothing.
    pub fn writes_of(&self, tx: &TxId, group: GroupId) -> Option<Vec<u8>> {
        Some(self.decisions.get(tx)?.writes.get(&group).cloned().unwrap_or_default())
    }

    /// Makes sure that it is not decided any more. False where too many are kept.
    pub fn bury(&mut self, tx: TxId, deadline: Millis, now: Millis) -> bool {
        self.forget_buried(now);
        if deadline < now {
            // Whoever came now would be late.
            return true;
        }
        if self.tombstones.len() >= PREPARED_MAX {
            return false;
        }
        if self.tombstones.insert(tx, deadline).is_none() {
            self.tombstones_by_deadline.insert((deadline, tx));
        }
        true
    }

    fn forget_buried(&mut self, now: Millis) {
        while let Some((_, tx)) = self.tombstones_by_deadline.pop_first_if_before(now) {
            self.tombstones.remove(&tx);
        }
    }

    /// Participants have finished.
    pub fn forget(&mut self, tx: &TxId, groups: &[GroupId]) {
        if let Some(decision) = self.decisions.get_mut(tx) {
            groups.iter().for_each(|group| {
                decision.writes.remove(group);
            });
            if decision.writes.is_empty() {
                self.decisions.remove(tx);
            }
        }
    }

    /// What has waited too long at `now`, at most `count` of each kind.
    pub fn overdue(&self, now: Millis, count: usize) -> Vec<Due> {
        let is_old = |since: Millis| since.saturating_add(RESOLVE_AFTER) <= now;
        let held = self.prepared.iter().filter(|(_, own)| is_old(own.since));
        let held = held.map(|(tx, own)| Due::Prepared { tx: *tx, deadline: own.deadline });
        let told = self.decisions.iter().filter(|(_, own)| is_old(own.since));
        let told = told.map(|(tx, own)| Due::Decided {
            tx: *tx,
            writes: own.writes.iter().map(|(group, writes)| (*group, writes.clone())).collect(),
        });
        held.take(count).chain(told.take(count)).collect()
    }

    // ---- the stored form -------------------------------------------------------------------------------------------

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.prepared.len() as u64);
        for (tx, own) in &self.prepared {
            tx.put(out);
            own.age.put(out);
            put_varint(out, own.deadline);
            put_varint(out, own.since);
            put_keys(out, &own.keys);
        }
        put_u64(out, self.next);
        put_varint(out, self.parked.len() as u64);
        for (ticket, parked) in &self.parked {
            put_u64(out, *ticket);
            put_bytes(out, &parked.unit);
            put_keys(out, &parked.keys);
            out.push(u8::from(parked.all) | u8::from(parked.tx.is_some()) << 1);
            if let Some((tx, age)) = &parked.tx {
                tx.put(out);
                age.put(out);
            }
        }
        put_varint(out, self.decisions.len() as u64);
        for (tx, own) in &self.decisions {
            tx.put(out);
            put_varint(out, own.since);
            put_varint(out, own.writes.len() as u64);
            for (group, writes) in &own.writes {
                put_varint(out, u64::from(group.0));
                put_bytes(out, writes);
            }
        }
        put_varint(out, self.tombstones.len() as u64);
        for (tx, deadline) in &self.tombstones {
            tx.put(out);
            put_varint(out, *deadline);
        }
    }

    /// Reads what [`Commits::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(group: GroupId, input: &mut Input<'_>) -> Result<Commits, Corrupt> {
        let mut own = Commits::new(group);
        for _ in 0..input.count()? {
            let (tx, age) = (TxId::read(input)?, Age::read(input)?);
            let (deadline, since, keys) = (input.varint()?, input.varint()?, read_keys(input)?);
            own.lock(tx, age, deadline, since, keys);
        }
        own.next = input.u64()?;
        for _ in 0..input.count()? {
            let (ticket, unit, keys, flags) = (input.u64()?, input.bytes()?.to_vec(), read_keys(input)?, input.u8()?);
            let tx = match flags & 2 {
                0 => None,
                _ => Some((TxId::read(input)?, Age::read(input)?)),
            };
            own.insert(ticket, Parked { unit, keys, all: flags & 1 != 0, tx });
        }
        for _ in 0..input.count()? {
            let (tx, since) = (TxId::read(input)?, input.varint()?);
            let mut writes = BTreeMap::new();
            for _ in 0..input.count()? {
                writes.insert(read_group(input)?, input.bytes()?.to_vec());
            }
            own.decide(tx, since, writes);
        }
        for _ in 0..input.count()? {
            let (tx, deadline) = (TxId::read(input)?, input.varint()?);
            own.bury(tx, deadline, 0);
        }
        Ok(own)
    }

    /// As it would be after a restart that loses the locks: a bug to be found.
    #[cfg(any(test, feature = "planted"))]
    pub fn lose_locks(&mut self) {
        self.locks.clear();
        self.prepared.clear();
    }

    /// The same of decisions.
    #[cfg(any(test, feature = "planted"))]
    pub fn lose_decisions(&mut self) {
        self.decisions.clear();
    }
}

fn put_keys(out: &mut Vec<u8>, keys: &[Vec<u8>]) {
    put_varint(out, keys.len() as u64);
    keys.iter().for_each(|key| put_bytes(out, key));
}

fn read_keys(input: &mut Input<'_>) -> Result<Vec<Vec<u8>>, Corrupt> {
    (0..input.count()?).map(|_| Ok(input.bytes()?.to_vec())).collect()
}

/// The first one whose deadline is over.
trait Overdue {
    fn pop_first_if_before(&mut self, now: Millis) -> Option<(Millis, TxId)>;
}

impl Overdue for BTreeSet<(Millis, TxId)> {
    fn pop_first_if_before(&mut self, now: Millis) -> Option<(Millis, TxId)> {
        if self.first()?.0 < now { self.pop_first() } else { None }
    }
}

//! The key-value tree. Operations run against an overlay; only if none has failed does the overlay become the tree.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use base::Millis;

use crate::change::{KvFailure, KvOp, KvResult, Outcome, Refusal, Verb};
use crate::config::{Config, Space};
use crate::form::Blob;
use crate::index::Gone;
use crate::limits::{KEY_BYTES_MAX, KEYS_MAX, KV_BYTES_MAX, TXN_ANSWER_BYTES_MAX, TXN_OPS_MAX, VALUE_BYTES_MAX};
use crate::model::{Ages, KvEntry, Lock};
use crate::session::Sessions;
use crate::shelf::Shelf;

#[derive(Clone, Debug)]
pub(crate) struct Kv {
    pub(crate) shelf: Shelf<String, KvEntry>,
    pub(crate) gone: Gone,
    pub(crate) bytes: u64,
    /// The number that the last taking of a lock yielded.
    pub(crate) fence: u64,
    /// Session and key, of all that are held. Derived.
    held: BTreeSet<(String, String)>,
    recent: Recent,
}

/// The keys that changed last: so that who watches few of very many keys need not look at them all to learn that none was
/// his. Derived, and this node's own.
#[derive(Clone, Debug, Default)]
struct Recent {
    /// Index and key, the indexes rising.
    keys: VecDeque<(u64, String)>,
    /// All changes after this index are here.
    floor: u64,
}

/// Changes that [`Recent`] remembers.
const RECENT_MAX: usize = 1024;

impl Recent {
    fn forget_all(&mut self, index: u64) {
        self.keys.clear();
        self.floor = index;
    }

    fn add<'a>(&mut self, keys: impl ExactSizeIterator<Item = &'a String>, index: u64) {
        if keys.len() > RECENT_MAX {
            return self.forget_all(index);
        }
        self.keys.extend(keys.map(|key| (index, key.clone())));
        while self.keys.len() > RECENT_MAX {
            if let Some((index, _)) = self.keys.pop_front() {
                self.floor = index;
            }
        }
    }
}

/// What is to become of keys; `None` for going.
type Overlay = BTreeMap<String, Option<KvEntry>>;

/// Why an operation fails: only the index, and the text.
type Failure = (bool, String);

impl Kv {
    pub(crate) fn new(number: u8) -> Kv {
        Kv {
            shelf: Shelf::new(number),
            gone: Gone::default(),
            bytes: 0,
            fence: 0,
            held: BTreeSet::new(),
            recent: Recent::default(),
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&KvEntry> {
        self.shelf.records().get(key)
    }

    /// Keys that begin so, in order.
    pub(crate) fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a KvEntry)> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.shelf.records().range::<str, _>(from).take_while(move |(key, _)| key.starts_with(prefix))
    }

    /// Whether a key that fits has changed after this index; `None` where that is too long ago to know.
    pub(crate) fn has_changed(&self, since: u64, fits: impl Fn(&str) -> bool) -> Option<bool> {
        if since < self.recent.floor {
            return None;
        }
        let later = self.recent.keys.iter().rev().take_while(|(index, _)| *index > since);
        Some(later.map(|(_, key)| key).any(|key| fits(key)))
    }

    /// Counts bytes anew, after a snapshot of this index was read.
    pub(crate) fn recount(&mut self, index: u64) {
        self.recent.forget_all(index);
        self.bytes = self.shelf.records().iter().map(|(key, entry)| size(key, entry)).sum();
        let records = self.shelf.records().iter();
        self.held = records.filter_map(|(key, entry)| holding(key, entry)).collect();
    }

    /// Runs operations that only read.
    pub(crate) fn read(&self, ops: &[KvOp], sessions: &Sessions) -> Outcome {
        assert!(ops.iter().all(|op| op.verb.is_read()), "a write needs an entry");
        match self.overlay(ops, sessions, 0, 0) {
            Ok((_, _, results)) => Outcome::Kv(results),
            Err(failed) => failed,
        }
    }

    /// Runs operations at an index. True where something has changed.
    pub(crate) fn run(
        &mut self,
        ops: &[KvOp],
        sessions: &Sessions,
        (config, who): (&mut Config, &str),
        index: u64,
        now: Millis,
    ) -> (Outcome, bool) {
        let (overlay, fence, results) = match self.overlay(ops, sessions, index, now) {
            Ok(done) => done,
            Err(failed) => return (failed, false),
        };
        if config.has_rules(Space::Consul) {
            let failures = self.refused(&overlay, ops, config);
            if !failures.is_empty() {
                return (Outcome::KvFailed(failures), false);
            }
        }
        let (mut keys, mut bytes) = (self.shelf.records().len() as i64, self.bytes as i64);
        for (key, entry) in &overlay {
            let before = self.entry(key);
            keys += i64::from(entry.is_some()) - i64::from(before.is_some());
            bytes += entry.as_ref().map_or(0, |entry| size(key, entry) as i64);
            bytes -= before.map_or(0, |entry| size(key, entry) as i64);
        }
        let grows = keys > self.shelf.records().len() as i64 || bytes > self.bytes as i64;
        if grows && (keys > KEYS_MAX as i64 || bytes > KV_BYTES_MAX as i64) {
            let why = format!(
                "the key-value tree is full: at most {KEYS_MAX} keys and {KV_BYTES_MAX} bytes; nothing was done"
            );
            return (Outcome::Refused(Refusal::Full, why), false);
        }
        let changes = !overlay.is_empty();
        self.bytes = bytes as u64;
        self.fence = fence;
        self.note(&overlay, (config, who), index, now);
        self.become_so(overlay, index);
        (Outcome::Kv(results), changes)
    }

    /// What may not become so because it is configuration and does not fit, by the last operation that wrote it.
    fn refused(&self, overlay: &Overlay, ops: &[KvOp], config: &Config) -> Vec<KvFailure> {
        let mut failures = Vec::new();
        for (key, entry) in overlay {
            let Some(entry) = entry else { continue };
            if self.entry(key).is_some_and(|before| before.value == entry.value) {
                continue;
            }
            if let Err(why) = config.check(Space::Consul, key.as_bytes(), &entry.value.0) {
                let op = ops.iter().rposition(|op| !op.verb.is_read() && op.key == *key).unwrap_or(0);
                failures.push(KvFailure { op: op as u32, stale: false, why });
            }
        }
        failures
    }

    /// Has configuration remember what is about to become so.
    fn note(&self, overlay: &Overlay, (config, who): (&mut Config, &str), index: u64, now: Millis) {
        if !config.has_rules(Space::Consul) {
            return;
        }
        for (key, entry) in overlay {
            let value = |entry: Option<&KvEntry>| entry.map(|entry| entry.value.0.clone());
            let values = [value(self.entry(key)), value(entry.as_ref())];
            config.note(Space::Consul, key.as_bytes(), who, now, index, values.each_ref().map(Option::as_deref));
        }
    }

    /// The overlay becomes the tree.
    fn become_so(&mut self, overlay: Overlay, index: u64) {
        self.recent.add(overlay.keys(), index);
        for (key, entry) in overlay {
            if let Some(held) = self.entry(&key).and_then(|before| holding(&key, before)) {
                self.held.remove(&held);
            }
            match entry {
                Some(entry) => {
                    self.held.extend(holding(&key, &entry));
                    self.gone.forget(&key);
                    self.shelf.insert(key, entry);
                }
                None => {
                    self.shelf.remove(&key);
                    self.gone.add(&key, index);
                }
            }
        }
    }

    /// A session is over: what it holds has no holder any more, or goes. Gives the keys.
    pub(crate) fn let_go(
        &mut self,
        session: &str,
        deletes: bool,
        config: &mut Config,
        index: u64,
        now: Millis,
    ) -> Vec<String> {
        let own = self.held.range((session.to_owned(), String::new())..).take_while(|(held_by, _)| held_by == session);
        let keys: Vec<String> = own.map(|(_, key)| key.clone()).collect();
        let mut overlay = Overlay::new();
        for key in &keys {
            let entry = self.entry(key).expect("what is held is there").clone();
            let ages = Ages { modified: index, ..entry.ages };
            let freed = if deletes { size(key, &entry) } else { 0 };
            overlay.insert(key.clone(), (!deletes).then_some(KvEntry { lock: None, ages, ..entry }));
            self.bytes -= freed;
        }
        self.note(&overlay, (config, "a session that ended"), index, now);
        self.become_so(overlay, index);
        keys
    }

    /// What operations come to, the number of the last lock then, and what they tell.
    fn overlay(
        &self,
        ops: &[KvOp],
        sessions: &Sessions,
        index: u64,
        now: Millis,
    ) -> Result<(Overlay, u64, Vec<KvResult>), Outcome> {
        if ops.len() > TXN_OPS_MAX {
            let why = format!("Transaction contains too many operations ({} > {TXN_OPS_MAX})", ops.len());
            return Err(Outcome::Refused(Refusal::Invalid, why));
        }
        let mut overlay = Overlay::new();
        let mut moment = Moment { sessions, index, now, fence: self.fence };
        let (mut results, mut failures) = (Vec::new(), Vec::new());
        let mut told = 0;
        for (number, op) in ops.iter().enumerate() {
            match self.one(op, &mut moment, &mut overlay, &mut results, &mut told) {
                Ok(()) => {}
                Err((stale, why)) => failures.push(KvFailure { op: number as u32, stale, why }),
            }
        }
        if !failures.is_empty() {
            return Err(Outcome::KvFailed(failures));
        }
        // What ended as it was is no change.
        overlay.retain(|key, entry| self.entry(key) != entry.as_ref());
        Ok((overlay, moment.fence, results))
    }

    fn one(
        &self,
        op: &KvOp,
        moment: &mut Moment<'_>,
        overlay: &mut Overlay,
        results: &mut Vec<KvResult>,
        told: &mut usize,
    ) -> Result<(), Failure> {
        let key = &op.key;
        let is_tree = matches!(op.verb, Verb::GetTree | Verb::DeleteTree);
        if key.is_empty() && !is_tree {
            return Err((false, "Missing key name".into()));
        }
        if key.len() > KEY_BYTES_MAX {
            return Err((false, format!("the key is {} bytes long, at most {KEY_BYTES_MAX} are taken", key.len())));
        }
        let now = match overlay.get(key) {
            Some(entry) => entry.as_ref(),
            None => self.entry(key),
        };
        let mut tell = |key: &str, entry: Option<&KvEntry>, has_value: bool| {
            *told += key.len() + entry.filter(|_| has_value).map_or(0, |entry| entry.value.0.len());
            if *told > TXN_ANSWER_BYTES_MAX {
                return Err((false, format!("the transaction reads more than {TXN_ANSWER_BYTES_MAX} bytes")));
            }
            let entry = entry.map(|entry| KvEntry {
                value: if has_value { entry.value.clone() } else { Blob::default() },
                ..entry.clone()
            });
            results.push(KvResult { key: key.to_owned(), entry, has_value });
            Ok(())
        };
        let at = now.map_or(0, |entry| entry.ages.modified);
        match op.verb {
            Verb::Set | Verb::Cas => {
                fits(op)?;
                if op.verb == Verb::Cas && at != op.index {
                    return Err((true, format!("failed to set key {key:?}, index is stale")));
                }
                let entry = set(now, op, moment.index);
                tell(key, Some(&entry), false)?;
                overlay.insert(key.clone(), Some(entry));
            }
            Verb::Lock | Verb::Unlock => {
                fits(op)?;
                let entry = if op.verb == Verb::Lock { moment.lock(now, op)? } else { unlock(now, op, moment.index)? };
                tell(key, Some(&entry), false)?;
                overlay.insert(key.clone(), Some(entry));
            }
            Verb::CheckSession => match now {
                None => return Err((false, format!("failed to check session, key {key:?} doesn't exist"))),
                Some(entry) if holder(entry) != op.session => {
                    let why = format!(
                        "failed session check for key {key:?}, current session {:?} != {:?}",
                        holder(entry),
                        op.session
                    );
                    return Err((true, why));
                }
                Some(entry) => tell(key, Some(entry), false)?,
            },
            Verb::Delete => {
                overlay.insert(key.clone(), None);
            }
            Verb::DeleteCas => {
                // As Consul: what is not there is deleted, whatever the index.
                if now.is_some() && at != op.index {
                    return Err((true, format!("failed to delete key {key:?}, index is stale")));
                }
                overlay.insert(key.clone(), None);
            }
            Verb::DeleteTree => {
                let mut keys: Vec<String> = self.under(key).map(|(key, _)| key.clone()).collect();
                keys.extend(overlay.keys().filter(|own| own.starts_with(key.as_str())).cloned());
                for key in keys {
                    overlay.insert(key, None);
                }
            }
            Verb::Get => match now {
                Some(entry) => tell(key, Some(entry), true)?,
                None => return Err((false, format!("key {key:?} doesn't exist"))),
            },
            Verb::GetOrEmpty => tell(key, now, true)?,
            Verb::GetTree => {
                let mut found: BTreeMap<&str, &KvEntry> =
                    self.under(key).map(|(key, entry)| (key.as_str(), entry)).collect();
                for (own, entry) in overlay.iter().filter(|(own, _)| own.starts_with(key.as_str())) {
                    match entry {
                        Some(entry) => found.insert(own, entry),
                        None => found.remove(own.as_str()),
                    };
                }
                for (key, entry) in found {
                    tell(key, Some(entry), true)?;
                }
            }
            Verb::CheckIndex => match now {
                None => return Err((false, format!("key {key:?} doesn't exist"))),
                Some(_) if at != op.index => {
                    let why = format!("failed index check for key {key:?}, current modify index {at} != {}", op.index);
                    return Err((true, why));
                }
                Some(entry) => tell(key, Some(entry), false)?,
            },
            Verb::CheckNotExists => {
                if now.is_some() {
                    return Err((false, format!("key {key:?} exists")));
                }
            }
        }
        Ok(())
    }
}

/// What a key becomes. The same value and flags again change nothing, as in Consul.
fn set(now: Option<&KvEntry>, op: &KvOp, index: u64) -> KvEntry {
    match now {
        Some(entry) if entry.value == op.value && entry.flags == op.flags => entry.clone(),
        now => KvEntry {
            value: op.value.clone(),
            flags: op.flags,
            lock_index: now.map_or(0, |entry| entry.lock_index),
            ages: Ages { created: now.map_or(index, |entry| entry.ages.created), modified: index },
            lock: now.and_then(|entry| entry.lock.clone()),
        },
    }
}

/// What an operation meets beside the tree.
struct Moment<'a> {
    sessions: &'a Sessions,
    index: u64,
    now: Millis,
    /// The number of the last lock.
    fence: u64,
}

impl Moment<'_> {
    /// What a key becomes that a session locks. Who holds it already goes on holding it.
    fn lock(&mut self, now: Option<&KvEntry>, op: &KvOp) -> Result<KvEntry, Failure> {
        let key = &op.key;
        if op.session.is_empty() {
            return Err((false, "missing session".into()));
        }
        if !self.sessions.all().contains_key(&op.session) {
            return Err((false, format!("invalid session {:?}", op.session)));
        }
        let held_by = now.map_or("", holder);
        if held_by == op.session {
            return Ok(set(now, op, self.index));
        }
        if !held_by.is_empty() {
            return Err((true, format!("failed to lock key {key:?}, lock is already held")));
        }
        if self.sessions.is_delayed(key, self.now) {
            return Err((true, format!("failed to lock key {key:?} due to lock delay")));
        }
        // Indexes alone would not do: two locks may be taken by one entry.
        self.fence = (self.fence + 1).max(self.index);
        let entry = set(now, op, self.index);
        Ok(KvEntry {
            lock_index: entry.lock_index + 1,
            ages: Ages { modified: self.index, ..entry.ages },
            lock: Some(Box::new(Lock { session: op.session.clone(), fence: self.fence })),
            ..entry
        })
    }
}

/// What a key becomes that its session lets go of.
fn unlock(now: Option<&KvEntry>, op: &KvOp, index: u64) -> Result<KvEntry, Failure> {
    if op.session.is_empty() {
        return Err((false, "missing session".into()));
    }
    if now.map_or("", holder) != op.session {
        let why = format!("failed to unlock key {:?}, lock isn't held, or is held by another session", op.key);
        return Err((true, why));
    }
    let entry = set(now, op, index);
    Ok(KvEntry { lock: None, ages: Ages { modified: index, ..entry.ages }, ..entry })
}

/// The session that holds a key, or nothing.
fn holder(entry: &KvEntry) -> &str {
    entry.lock.as_ref().map_or("", |lock| &lock.session)
}

fn holding(key: &str, entry: &KvEntry) -> Option<(String, String)> {
    entry.lock.as_ref().map(|lock| (lock.session.clone(), key.to_owned()))
}

fn fits(op: &KvOp) -> Result<(), Failure> {
    let bytes = op.value.0.len();
    if bytes > VALUE_BYTES_MAX {
        return Err((false, format!("the value is {bytes} bytes long, at most {VALUE_BYTES_MAX} are taken")));
    }
    Ok(())
}

fn size(key: &str, entry: &KvEntry) -> u64 {
    (key.len() + entry.value.0.len()) as u64
}

//! Keys with all their revisions since the last compaction, and the order in which they changed.
//!
//! A key's versions stand in a row; a deletion is a version too (a *tombstone*). Reading at a revision is a search for the last version
//! at or before it. Compaction says at once that what was before is gone (`compacted`), and clears it away by and by, some changes with
//! each entry (`swept`), on every replica alike.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use crate::error::{self, Error};
use crate::limits::{HISTORY_BYTES_MAX, SWEEP_MAX, VERSION_COST};
use crate::proto::KeyValue;
use crate::span::{End, Span};

/// A key as it became by one change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The revision.
    pub main: i64,
    /// Its number among the changes of that revision.
    pub sub: u32,
    /// The revision in which the key came to be.
    pub create: i64,
    /// Changes since then; 0 for a deletion.
    pub version: i64,
    /// The lease that it goes with; 0 for none.
    pub lease: i64,
    /// The value.
    pub value: Bytes,
}

impl Version {
    /// Whether it is a deletion.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    fn cost(&self, key: &[u8]) -> u64 {
        VERSION_COST + key.len() as u64 + self.value.len() as u64
    }

    /// As clients see it.
    pub fn to_proto(&self, key: &Bytes) -> KeyValue {
        KeyValue {
            key: key.clone(),
            create_revision: self.create,
            mod_revision: self.main,
            version: self.version,
            value: self.value.clone(),
            lease: self.lease,
        }
    }
}

/// That a key changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision.
    pub main: i64,
    /// Its number among the changes of that revision.
    pub sub: u32,
    /// Which key.
    pub key: Bytes,
}

/// What a read found.
#[derive(Debug)]
pub struct Found<'a> {
    /// Keys in order, as many as were asked for.
    pub keys: Vec<(&'a Bytes, &'a Version)>,
    /// How many there are.
    pub count: i64,
    /// The revision now.
    pub revision: i64,
}

/// A snapshot that is being written: what it still has to say.
#[derive(Debug, Default)]
struct Walk {
    /// The last key that was begun.
    after: Option<Bytes>,
    /// The rest of that one's versions.
    pending: Option<(Bytes, VecDeque<Version>)>,
    /// Keys that have changed since the walk began and were not reached yet, as they were.
    saved: BTreeMap<Bytes, Option<Vec<Version>>>,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    keys: BTreeMap<Bytes, Vec<Version>>,
    changes: VecDeque<Change>,
    revision: i64,
    compacted: i64,
    swept: i64,
    /// The number of the next change of the revision that is being made; it counts from 0.
    sub: u32,
    live: u64,
    live_bytes: u64,
    bytes: u64,
    walk: Option<Walk>,
    /// Tests only: a bug to be found (see `sim`).
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

/// Bugs that the simulator must find.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// Compaction lets go of changes that come after it.
    pub compacts_too_much: bool,
    /// A deletion is not among the changes.
    pub deletes_untold: bool,
    /// The operations of a transaction are revisions of their own.
    pub torn_transactions: bool,
    /// A transaction does what it should do if its compares hold, whether they hold or not.
    pub compares_ignored: bool,
    /// A renewal of a lease is answered and changes nothing.
    pub renewals_forgotten: bool,
    /// Who reads a snapshot does not know which keys go with which lease.
    pub attachments_forgotten: bool,
}

impl Default for Store {
    fn default() -> Store {
        Store {
            keys: BTreeMap::new(),
            changes: VecDeque::new(),
            revision: 1,
            compacted: -1,
            swept: -1,
            sub: 0,
            live: 0,
            live_bytes: 0,
            bytes: 0,
            walk: None,
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }
}

/// The version of a row that is in force at a revision.
fn at(versions: &[Version], revision: i64) -> Option<&Version> {
    let place = versions.partition_point(|version| version.main <= revision);
    versions[..place].last().filter(|version| !version.is_tombstone())
}

impl Store {
    /// The revision now; while one is being made, that one as soon as it holds a change.
    pub fn revision(&self) -> i64 {
        if self.sub > 0 { self.revision + 1 } else { self.revision }
    }

    /// What was before this revision cannot be read any more.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// Keys that exist.
    pub fn len(&self) -> u64 {
        self.live
    }

    /// Whether nothing was ever written.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.revision == 1
    }

    /// Bytes of all that is remembered, and of what exists now.
    pub fn bytes(&self) -> (u64, u64) {
        (self.bytes, self.live_bytes)
    }

    /// Keys that exist and begin so, in order.
    pub fn under<'a>(&'a self, prefix: &'a [u8]) -> impl Iterator<Item = (&'a Bytes, &'a Version)> {
        let from = (std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded);
        let keys = self.keys.range::<[u8], _>(from).take_while(move |(key, _)| key.starts_with(prefix));
        keys.filter_map(|(key, versions)| Some((key, versions.last().filter(|version| !version.is_tombstone())?)))
    }

    /// Reads keys as they were at a revision; 0 (or less) for now. `limit` of them at most, 0 for all.
    ///
    /// # Errors
    /// The revision is compacted, or in the future.
    pub fn range(&self, span: Span<'_>, revision: i64, limit: usize, count_only: bool) -> Result<Found<'_>, Error> {
        let now = self.revision();
        if revision > now {
            return Err(error::FUTURE_REVISION);
        }
        let at_revision = if revision <= 0 { now } else { revision };
        if at_revision < self.compacted {
            return Err(error::COMPACTED);
        }
        let mut found = Found { keys: Vec::new(), count: 0, revision: now };
        if span.end == End::Single {
            if let Some((key, versions)) = self.keys.get_key_value(span.key)
                && let Some(version) = at(versions, at_revision)
            {
                found.count = 1;
                if !count_only {
                    found.keys.push((key, version));
                }
            }
            return Ok(found);
        }
        let Some(bounds) = span.bounds() else {
            return Ok(found);
        };
        for (key, versions) in self.keys.range::<[u8], _>(bounds) {
            if let Some(version) = at(versions, at_revision) {
                found.count += 1;
                if !count_only && (limit == 0 || found.keys.len() < limit) {
                    found.keys.push((key, version));
                }
            }
        }
        Ok(found)
    }

    /// The key as it is now.
    pub fn get(&self, key: &[u8]) -> Option<(&Bytes, &Version)> {
        let (key, versions) = self.keys.get_key_value(key)?;
        Some((key, versions.last().filter(|version| !version.is_tombstone())?))
    }

    /// The changes from a revision on, oldest first. What is compacted is not among them: ask [`Store::compacted`].
    pub fn changes(&self, from: i64) -> impl Iterator<Item = &Change> {
        let place = self.changes.partition_point(|change| change.main < from);
        self.changes.range(place..)
    }

    /// What a change made of its key, and what was before it, where that is still known.
    pub fn change(&self, change: &Change) -> Option<(&Version, Option<&Version>)> {
        let versions = self.keys.get(&change.key)?;
        let place = versions.binary_search_by_key(&(change.main, change.sub), |own| (own.main, own.sub)).ok()?;
        // As if it were read one revision earlier.
        let before = versions[..place].iter().rev().find(|own| own.main < change.main);
        let is_known = change.main > self.compacted;
        Some((&versions[place], before.filter(|before| is_known && !before.is_tombstone())))
    }

    // ---- changes ---------------------------------------------------------------------------------------------------

    /// Keeps what a running snapshot has not yet said of a key.
    fn touch(&mut self, key: &[u8]) {
        let Some(walk) = &mut self.walk else {
            return;
        };
        if walk.after.as_deref().is_some_and(|after| key <= after) || walk.saved.contains_key(key) {
            return;
        }
        walk.saved.insert(Bytes::copy_from_slice(key), self.keys.get(key).cloned());
    }

    fn push(&mut self, key: &[u8], make: impl FnOnce(i64, u32, Option<&Version>) -> Version) {
        self.touch(key);
        let (main, sub) = (self.revision + 1, self.sub);
        self.sub += 1;
        let shared = match self.keys.get_key_value(key) {
            Some((key, _)) => key.clone(),
            None => Bytes::copy_from_slice(key),
        };
        let versions = self.keys.entry(shared.clone()).or_default();
        let before = versions.last().filter(|version| !version.is_tombstone());
        let version = make(main, sub, before);
        if let Some(before) = before {
            self.live -= 1;
            self.live_bytes -= before.cost(key);
        }
        if !version.is_tombstone() {
            self.live += 1;
            self.live_bytes += version.cost(key);
        }
        self.bytes += version.cost(key);
        #[cfg(any(test, feature = "planted"))]
        if self.planted.deletes_untold && version.is_tombstone() {
            versions.push(version);
            return;
        }
        versions.push(version);
        self.changes.push_back(Change { main, sub, key: shared });
    }

    /// Sets a key within the revision that is being made.
    pub fn put(&mut self, key: &[u8], value: Bytes, lease: i64) {
        self.push(key, |main, sub, before| Version {
            main,
            sub,
            create: before.map_or(main, |before| before.create),
            version: before.map_or(0, |before| before.version) + 1,
            lease,
            value,
        });
    }

    /// Deletes a key that exists.
    pub fn delete(&mut self, key: &[u8]) {
        assert!(self.get(key).is_some(), "only a key that exists is deleted");
        self.push(key, |main, sub, _| Version { main, sub, create: 0, version: 0, lease: 0, value: Bytes::new() });
    }

    /// Ends the revision that is being made, if anything has changed.
    pub fn end(&mut self) {
        if std::mem::take(&mut self.sub) > 0 {
            self.revision += 1;
        }
        while self.bytes - self.live_bytes > HISTORY_BYTES_MAX
            && let Some(change) = self.changes.get(SWEEP_MAX.min(self.changes.len().saturating_sub(1)))
            && change.main > self.swept
        {
            self.compacted = self.compacted.max(change.main);
            self.sweep();
        }
    }

    /// Forgets what was before a revision.
    ///
    /// # Errors
    /// It has been forgotten already, or is in the future.
    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(error::COMPACTED);
        }
        if revision > self.revision {
            return Err(error::FUTURE_REVISION);
        }
        self.compacted = revision;
        Ok(())
    }

    /// Clears some of what is compacted away.
    pub fn sweep(&mut self) {
        if self.swept >= self.compacted {
            return;
        }
        // Whole revisions only.
        let mut to = self.compacted;
        if let Some(change) = self.changes.get(SWEEP_MAX)
            && change.main < to
        {
            to = change.main.max(self.swept + 1);
        }
        let gone = self.changes.partition_point(|change| change.main <= to);
        let mut keys: Vec<Bytes> = self.changes.range(..gone).map(|change| change.key.clone()).collect();
        let drained = self.changes.partition_point(|change| change.main < to);
        #[cfg(any(test, feature = "planted"))]
        let drained = if self.planted.compacts_too_much { (drained + 2).min(self.changes.len()) } else { drained };
        self.changes.drain(..drained);
        keys.sort_unstable();
        keys.dedup();
        for key in keys {
            self.sweep_key(&key, to);
        }
        self.swept = to;
    }

    fn sweep_key(&mut self, key: &Bytes, to: i64) {
        let Some(versions) = self.keys.get(key) else {
            return;
        };
        let kept = versions.partition_point(|version| version.main < to);
        let base_is_needed = kept > 0
            && !versions[kept - 1].is_tombstone()
            && versions.get(kept).is_none_or(|version| version.main > to);
        let gone = if base_is_needed { kept - 1 } else { kept };
        if gone == 0 {
            return;
        }
        self.touch(key);
        let versions = self.keys.get_mut(key).expect("it was there above");
        self.bytes -= versions[..gone].iter().map(|version| version.cost(key)).sum::<u64>();
        versions.drain(..gone);
        if versions.is_empty() {
            self.keys.remove(key);
        } else if versions.capacity() > 2 * versions.len() + 4 {
            versions.shrink_to_fit();
        }
    }

    // ---- snapshots -------------------------------------------------------------------------------------------------

    /// Revision, compacted and swept, for a snapshot's books.
    pub fn books(&self) -> [i64; 3] {
        [self.revision, self.compacted, self.swept]
    }

    /// An empty one of these books; keys come by [`Store::restore`].
    pub fn of_books([revision, compacted, swept]: [i64; 3]) -> Store {
        Store { revision, compacted, swept, ..Store::default() }
    }

    /// Begins to write all keys as they are now.
    pub fn begin_walk(&mut self) {
        assert_eq!(self.sub, 0, "a snapshot stands between revisions");
        self.walk = Some(Walk::default());
    }

    /// Ends it early.
    pub fn abort_walk(&mut self) {
        self.walk = None;
    }

    fn next_of_walk(&mut self) -> Option<(Bytes, VecDeque<Version>)> {
        loop {
            let walk = self.walk.as_mut()?;
            let from = match &walk.after {
                Some(after) => Bound::Excluded(&after[..]),
                None => Bound::Unbounded,
            };
            let own = self.keys.range::<[u8], _>((from, Bound::Unbounded)).next().map(|(key, _)| key.clone());
            let saved = walk.saved.keys().next().cloned();
            let key = match (own, saved) {
                (Some(own), Some(saved)) => own.min(saved),
                (Some(key), None) | (None, Some(key)) => key,
                (None, None) => return None,
            };
            walk.after = Some(key.clone());
            let versions = match walk.saved.remove(&key) {
                Some(was) => was,
                None => self.keys.get(&key).cloned(),
            };
            if let Some(versions) = versions {
                return Some((key, versions.into()));
            }
        }
    }

    /// Hands out versions, some of one key at a time, until `take` has enough or there are no more. True at the end.
    pub fn walk(&mut self, mut take: impl FnMut(&Bytes, &Version) -> bool) -> bool {
        loop {
            let pending = match self.walk.as_mut().and_then(|walk| walk.pending.take()) {
                Some(pending) => Some(pending),
                None => self.next_of_walk(),
            };
            let Some((key, mut versions)) = pending else {
                self.walk = None;
                return true;
            };
            while let Some(version) = versions.pop_front() {
                if !take(&key, &version) {
                    self.walk.as_mut().expect("it was there a line ago").pending = Some((key, versions));
                    return false;
                }
            }
        }
    }

    /// Takes back what a walk handed out, in its order.
    pub fn restore(&mut self, key: &[u8], version: Version) {
        self.bytes += version.cost(key);
        match self.keys.get_mut(key) {
            Some(versions) => versions.push(version),
            None => {
                self.keys.insert(Bytes::copy_from_slice(key), vec![version]);
            }
        }
    }

    /// After the last: builds what is not stored.
    pub fn finish_restore(&mut self) {
        let mut changes = Vec::new();
        for (key, versions) in &self.keys {
            if let Some(last) = versions.last().filter(|version| !version.is_tombstone()) {
                self.live += 1;
                self.live_bytes += last.cost(key);
            }
            let since = versions.iter().filter(|version| version.main >= self.swept);
            changes.extend(since.map(|version| Change { main: version.main, sub: version.sub, key: key.clone() }));
        }
        changes.sort_unstable_by_key(|change| (change.main, change.sub));
        self.changes = changes.into();
    }

    /// All keys that exist, with their leases.
    pub fn leased(&self) -> impl Iterator<Item = (&Bytes, i64)> {
        self.keys.iter().filter_map(|(key, versions)| {
            let last = versions.last().filter(|version| version.lease != 0 && !version.is_tombstone())?;
            Some((key, last.lease))
        })
    }
}

//! Tables in memory: sixteen databases of keys, their expiries, their versions, and the walk that snapshots them.
//!
//! ```text
//!   Tables ── db 0..15 ── Directory ── segments of ≤ 896 entries ──► Entry: version, expiry, key, value
//!         └── Books: sequence, bytes per keyspace, versions of the gone, the walk under way, touched keys, leftovers
//! ```
//!
//! Every change goes through [`Tables::edit`], [`Tables::upsert`], their sisters for strings, [`Tables::set`] or
//! [`Tables::remove`], so that four things happen exactly once and nowhere else: the entry's version moves (WATCH), bytes are counted (budgets), a
//! snapshot's walk that has not come by yet keeps the old form (copy before change), and blocked clients hear of the key.
//!
//! Deterministic: the same calls in the same order leave the same tables on every replica. Time comes in as `now`.
//! An expired key is absent to every call that takes `now`.
//!
//! No call takes long because one key is large, but where the command itself asks for all of it: the walk takes large
//! values piece by piece, and what is removed is freed a little at a time (`leftovers`).

mod directory;
mod entry;
mod leftovers;
mod noted;
mod track;
mod walk;

pub use entry::Entry;
pub use noted::{Noted, What};
pub use track::Place;

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{Millis, Rng};

use crate::keyspace::{Durability, KeyspaceId, Keyspaces};
use crate::value::{Kind, Value, View};
use directory::Directory;
use entry::New;
use leftovers::Leftovers;
use track::Tracking;
use walk::{Restoring, Walk};

/// How many databases SELECT reaches.
pub const DATABASES: usize = 16;
const GONE_BUCKETS: usize = 4096;

/// The key holds a value of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongType;

/// A key that changed while somebody may be waiting for it.
pub type Touched = (u8, Vec<u8>);

#[derive(Debug, Default)]
struct Db {
    keys: Directory,
    /// When each volatile key expires, with its position in the directory. Exactly one pair per volatile key.
    expiries: BTreeSet<(Millis, u64)>,
    /// What it holds of each keyspace.
    usage: Vec<Usage>,
    /// Keys that hold streams.
    streams: usize,
}

impl Db {
    fn new(keyspaces: usize) -> Db {
        Db { usage: vec![Usage::default(); keyspaces], ..Db::default() }
    }

    /// Counts an entry that comes.
    fn count(&mut self, entry: &Entry) {
        let usage = &mut self.usage[usize::from(entry.keyspace())];
        usage.bytes += entry.cost() as u64;
        usage.keys += 1;
        self.streams += usize::from(matches!(entry.value(), View::Stream(_)));
    }

    /// Counts an entry that goes.
    fn discount(&mut self, entry: &Entry) {
        let usage = &mut self.usage[usize::from(entry.keyspace())];
        usage.bytes = usage.bytes.saturating_sub(entry.cost() as u64);
        usage.keys -= 1;
        self.streams -= usize::from(matches!(entry.value(), View::Stream(_)));
    }
}

fn account(usage: &mut [Usage], keyspace: KeyspaceId, before: usize, after: usize) {
    let usage = &mut usage[usize::from(keyspace)];
    usage.bytes = (usage.bytes + after as u64).saturating_sub(before as u64);
}

/// Bytes and keys of one keyspace, over all databases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// By estimate, entry overhead included.
    pub bytes: u64,
    /// Keys, the expired but not yet removed ones included.
    pub keys: u64,
}

#[derive(Debug)]
struct Books {
    /// Counts changes; the version of a key is the count at its last change. Never goes back.
    sequence: u64,
    keyspaces: Arc<Keyspaces>,
    /// Version of keys that are not there, by hash: a WATCH on an absent key sees it come and go.
    gone: Box<[u64]>,
    walk: Option<Walk>,
    /// Names the last walk: 1 to 255, and around.
    generation: u8,
    /// Walks begun since one came to its end.
    unfinished: u8,
    restoring: Option<Restoring>,
    leftovers: Leftovers,
    /// Where short strings are edited.
    scratch: Vec<u8>,
    /// Keys of kinds that clients block on, changed since the last [`Tables::take_touched`]; only while `watching`.
    touched: Vec<Touched>,
    watching: bool,
    /// Keys of slots that are being copied to another shard, changed since they were last asked for.
    tracking: Option<Box<Tracking>>,
    /// What happened to keys; `None` where nobody wants to hear of it.
    noted: Option<Vec<Noted>>,
}

impl Books {
    fn next_version(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    #[inline]
    fn note_touch(&mut self, db: u8, entry: &Entry) {
        if self.watching && matches!(entry.value(), View::List(_) | View::Zset(_) | View::Stream(_)) {
            self.touched.push((db, entry.key().to_vec()));
        }
    }

    /// A stream that goes wakes those who wait in its groups: their groups go with it.
    #[inline]
    fn note_loss(&mut self, db: u8, entry: &Entry) {
        if self.watching && matches!(entry.value(), View::Stream(_)) {
            self.touched.push((db, entry.key().to_vec()));
        }
    }

    /// Frees some of what was removed before.
    #[inline]
    fn free_some(&mut self) {
        if !self.leftovers.is_empty() {
            self.leftovers.free_some();
        }
    }
}

/// All keys of one shard of one durability class.
#[derive(Debug)]
pub struct Tables {
    dbs: Vec<Db>,
    books: Books,
}

/// What a write does to the key's expiry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Leave it as it is (KEEPTTL).
    Keep,
    /// Remove it, or give the keyspace's default one.
    Clear,
    /// Expire at this shard time.
    At(Millis),
}

impl Tables {
    /// Empty tables under these keyspaces.
    pub fn new(keyspaces: Arc<Keyspaces>) -> Tables {
        Tables {
            dbs: (0..DATABASES).map(|_| Db::new(keyspaces.count())).collect(),
            books: Books {
                sequence: 0,
                keyspaces,
                gone: vec![0; GONE_BUCKETS].into(),
                walk: None,
                generation: 1,
                unfinished: 0,
                restoring: None,
                leftovers: Leftovers::default(),
                scratch: Vec::new(),
                touched: Vec::new(),
                watching: false,
                tracking: None,
                noted: None,
            },
        }
    }

    // ---- reading -------------------------------------------------------------------------------------------------

    /// The entry of a live key.
    #[inline]
    pub fn entry(&self, db: u8, key: &[u8], now: Millis) -> Option<&Entry> {
        let entry = self.dbs[usize::from(db)].keys.find(key)?;
        if entry.is_expired(now) {
            return None;
        }
        entry.mark_used(now);
        Some(entry)
    }

    /// The value of a live key.
    #[inline]
    pub fn value(&self, db: u8, key: &[u8], now: Millis) -> Option<View<'_>> {
        self.entry(db, key, now).map(Entry::value)
    }

    /// The string of a live key; `None` where there is no such key.
    #[inline]
    pub fn text(&self, db: u8, key: &[u8], now: Millis) -> Result<Option<&[u8]>, WrongType> {
        match self.entry(db, key, now) {
            None => Ok(None),
            Some(entry) => entry.text().map(Some).ok_or(WrongType),
        }
    }

    /// The collection of a live key as one kind; `None` where there is no such key.
    #[inline]
    pub fn get<T: Kind>(&self, db: u8, key: &[u8], now: Millis) -> Result<Option<&T>, WrongType> {
        match self.value(db, key, now) {
            None => Ok(None),
            Some(value) => T::of(value).map(Some).ok_or(WrongType),
        }
    }

    /// Like [`Tables::entry`], but does not count as use (OBJECT, TTL, WATCH).
    pub fn peek(&self, db: u8, key: &[u8], now: Millis) -> Option<&Entry> {
        self.dbs[usize::from(db)].keys.find(key).filter(|entry| !entry.is_expired(now))
    }

    /// What WATCH remembers: changes whenever the key does, also when it comes or goes.
    pub fn version(&self, db: u8, key: &[u8], now: Millis) -> u64 {
        match self.peek(db, key, now) {
            Some(entry) => entry.version(),
            None => self.books.gone[gone_bucket(db, crate::hash::of(key))],
        }
    }

    /// Keys in a database, the expired but not yet removed ones included (as DBSIZE counts).
    pub fn len(&self, db: u8) -> usize {
        self.dbs[usize::from(db)].keys.len()
    }

    /// Whether no database holds a key.
    pub fn is_empty(&self) -> bool {
        self.dbs.iter().all(|db| db.keys.len() == 0)
    }

    /// Keys with an expiry in a database.
    pub fn volatile_len(&self, db: u8) -> usize {
        self.dbs[usize::from(db)].expiries.len()
    }

    /// One step of an iteration: visits about `count` keys from `cursor` (0 starts), the live ones among them, and returns
    /// where to go on, 0 at the end; a cursor has 52 bits. A key that is there during the whole iteration is visited at
    /// least once, whatever grows or shrinks meanwhile. The order depends on the keys alone.
    pub fn scan(&self, db: u8, cursor: u64, count: usize, now: Millis, mut visit: impl FnMut(&Entry)) -> u64 {
        self.dbs[usize::from(db)].keys.scan(cursor, count, |entry| {
            if !entry.is_expired(now) {
                visit(entry);
            }
        })
    }

    /// A live key by chance, `None` where (nearly) all are expired or there is none.
    pub fn random(&self, db: u8, now: Millis, rng: &mut Rng) -> Option<&Entry> {
        let keys = &self.dbs[usize::from(db)].keys;
        (0..100).find_map(|_| keys.random(rng).filter(|entry| !entry.is_expired(now)))
    }

    /// Like [`Tables::random`], but the same on every replica: `random` depends on how a table came to be laid out.
    pub fn random_repeatable(&self, db: u8, now: Millis, rng: &mut Rng) -> Option<&Entry> {
        let keys = &self.dbs[usize::from(db)].keys;
        (0..100).find_map(|_| keys.random_repeatable(rng).filter(|entry| !entry.is_expired(now)))
    }

    /// The settings in force.
    pub fn keyspaces(&self) -> &Arc<Keyspaces> {
        &self.books.keyspaces
    }

    /// What a keyspace holds.
    pub fn usage(&self, keyspace: KeyspaceId) -> Usage {
        sum(self.dbs.iter().map(|db| db.usage[usize::from(keyspace)]))
    }

    /// What all keyspaces hold.
    pub fn total_usage(&self) -> Usage {
        sum(self.dbs.iter().flat_map(|db| db.usage.iter().copied()))
    }

    /// Counts changes since the shard began; equal on equal replicas.
    pub fn sequence(&self) -> u64 {
        self.books.sequence
    }

    // ---- changing ------------------------------------------------------------------------------------------------

    /// Lets `change` work on the collection of a live key as one kind. Its first result says whether anything changed: only
    /// then does the version move. An emptied collection is removed. `None` where there is no such key.
    pub fn edit<T: Kind, R>(
        &mut self,
        db: u8,
        key: &[u8],
        now: Millis,
        change: impl FnOnce(&mut T) -> (bool, R),
    ) -> Result<Option<R>, WrongType> {
        self.make_way(db, key, now);
        let hash = crate::hash::of(key);
        let place = &mut self.dbs[usize::from(db)];
        let Some(entry) = place.keys.find_mut(hash, key) else {
            return Ok(None);
        };
        let (result, vacant) = edit_entry(&mut self.books, &mut place.usage, db, hash, entry, now, change)?;
        if vacant {
            self.remove(db, key, now);
        }
        Ok(Some(result))
    }

    /// Like [`Tables::edit`], but makes the key where it is absent (and leaves none behind where it stays empty).
    pub fn upsert<T: Kind, R>(
        &mut self,
        db: u8,
        key: &[u8],
        now: Millis,
        change: impl FnOnce(&mut T) -> (bool, R),
    ) -> Result<R, WrongType> {
        self.make_way(db, key, now);
        let hash = crate::hash::of(key);
        let place = &mut self.dbs[usize::from(db)];
        if place.keys.find_mut(hash, key).is_none() {
            let mut value = T::fresh();
            let (_, result) = change(T::of_mut(&mut value).expect("a fresh value is of its own kind"));
            if !value.is_vacant() {
                self.insert(db, hash, key, value.into(), Expiry::Clear, now);
            }
            return Ok(result);
        }
        let entry = place.keys.find_mut(hash, key).expect("it was found a line ago");
        let (result, vacant) = edit_entry(&mut self.books, &mut place.usage, db, hash, entry, now, change)?;
        if vacant {
            self.remove(db, key, now);
        }
        Ok(result)
    }

    /// [`Tables::edit`] for a string.
    pub fn edit_text<R>(
        &mut self,
        db: u8,
        key: &[u8],
        now: Millis,
        change: impl FnOnce(&mut Vec<u8>) -> (bool, R),
    ) -> Result<Option<R>, WrongType> {
        self.make_way(db, key, now);
        let hash = crate::hash::of(key);
        let (place, books) = (&mut self.dbs[usize::from(db)], &mut self.books);
        let Some(entry) = place.keys.find_mut(hash, key) else {
            return Ok(None);
        };
        let Some(before) = entry.text().map(<[u8]>::len) else {
            return Err(WrongType);
        };
        books.keep_old_form(db, hash, entry);
        let (changed, result) = entry.edit_text(&mut books.scratch, change).expect("it was a string a line ago");
        let after = entry.text().map_or(0, <[u8]>::len);
        account(&mut place.usage, entry.keyspace(), before, after);
        entry.mark_used(now);
        if changed {
            entry.set_version(books.next_version());
            books.note_change(db, key, What::Changed);
        }
        Ok(Some(result))
    }

    /// [`Tables::upsert`] for a string: a key that is made begins with an empty one.
    pub fn upsert_text<R>(
        &mut self,
        db: u8,
        key: &[u8],
        now: Millis,
        change: impl FnOnce(&mut Vec<u8>) -> (bool, R),
    ) -> Result<R, WrongType> {
        let mut change = Some(change);
        let edited = self.edit_text(db, key, now, |text| change.take().expect("it runs once")(text))?;
        if let Some(result) = edited {
            return Ok(result);
        }
        let mut text = Vec::new();
        let (_, result) = change.take().expect("there was no key to change")(&mut text);
        self.insert(db, crate::hash::of(key), key, Value::from(text).into(), Expiry::Clear, now);
        Ok(result)
    }

    /// Gives the key this value, whatever it held.
    pub fn set(&mut self, db: u8, key: &[u8], value: Value, expiry: Expiry, now: Millis) {
        self.put(db, key, value.into(), expiry, now);
    }

    /// Gives the key this string, whatever it held.
    pub fn set_string(&mut self, db: u8, key: &[u8], text: &[u8], expiry: Expiry, now: Millis) {
        self.books.free_some();
        let hash = crate::hash::of(key);
        let (place, books) = (&mut self.dbs[usize::from(db)], &mut self.books);
        // What most writes do, on a short path: one string without expiry takes the place of another.
        if let Some(entry) = place.keys.find_mut(hash, key)
            && let Some(before) = entry.plain_text_len()
        {
            books.keep_old_form(db, hash, entry);
            if !entry.overwrite(text) {
                entry.replace(New::Text(text));
            }
            account(&mut place.usage, entry.keyspace(), before, text.len());
            entry.set_version(books.next_version());
            entry.mark_used(now);
            books.note_change(db, key, What::Changed);
            if expiry != Expiry::Clear || books.keyspaces.get(entry.keyspace()).default_expiry != 0 {
                self.apply_expiry(db, hash, key, expiry, now);
                self.note_expiry(db, key, expiry);
            }
            return;
        }
        self.put(db, key, New::Text(text), expiry, now);
    }

    fn put(&mut self, db: u8, key: &[u8], new: New<'_>, expiry: Expiry, now: Millis) {
        self.make_way(db, key, now);
        let hash = crate::hash::of(key);
        let (place, books) = (&mut self.dbs[usize::from(db)], &mut self.books);
        let Some(entry) = place.keys.find_mut(hash, key) else {
            return self.insert(db, hash, key, new, expiry, now);
        };
        books.keep_old_form(db, hash, entry);
        let before = entry.value().heap_bytes();
        books.note_loss(db, entry);
        let was_stream = matches!(entry.value(), View::Stream(_));
        if let Some(old) = entry.replace(new) {
            books.leftovers.value(old);
        }
        account(&mut place.usage, entry.keyspace(), before, entry.value().heap_bytes());
        place.streams += usize::from(matches!(entry.value(), View::Stream(_)));
        place.streams -= usize::from(was_stream);
        entry.set_version(books.next_version());
        entry.mark_used(now);
        books.note_change(db, key, What::Changed);
        books.note_touch(db, entry);
        let stays = entry.expire() == 0 && books.keyspaces.get(entry.keyspace()).default_expiry == 0;
        if expiry != Expiry::Clear || !stays {
            self.apply_expiry(db, hash, key, expiry, now);
            self.note_expiry(db, key, expiry);
        }
    }

    /// Removes a key. An expired key goes too, but counts as absent. Returns whether the key was there.
    pub fn remove(&mut self, db: u8, key: &[u8], now: Millis) -> bool {
        match self.take_out(db, key, now) {
            Some((entry, live)) => {
                self.books.leftovers.entry(entry);
                live
            }
            None => false,
        }
    }

    /// Removes a key and returns its value and expiry (0 is none). An expired key is removed too, but not returned.
    pub fn take(&mut self, db: u8, key: &[u8], now: Millis) -> Option<(Value, Millis)> {
        let (entry, live) = self.take_out(db, key, now)?;
        if !live {
            self.books.leftovers.entry(entry);
            return None;
        }
        let expire = entry.expire();
        Some((entry.into_value(), expire))
    }

    fn take_out(&mut self, db: u8, key: &[u8], now: Millis) -> Option<(Entry, bool)> {
        self.books.free_some();
        let hash = crate::hash::of(key);
        let place = &mut self.dbs[usize::from(db)];
        if self.books.walk.is_some() {
            self.books.keep_old_form(db, hash, place.keys.find_mut(hash, key)?);
        }
        let entry = place.keys.remove(hash, key)?;
        self.books.note_change(db, key, if entry.is_expired(now) { What::Expired } else { What::Went });
        self.books.note_loss(db, &entry);
        if entry.expire() != 0 {
            place.expiries.remove(&(entry.expire(), directory::position(hash)));
        }
        place.discount(&entry);
        let live = !entry.is_expired(now);
        if live {
            // An expired key was absent already; the version of its absence was set together with its expiry.
            self.books.gone[gone_bucket(db, hash)] = self.books.next_version();
        }
        Some((entry, live))
    }

    /// Sets when a live key expires, 0 for never. False where there is no such key or it already is so.
    pub fn set_expire(&mut self, db: u8, key: &[u8], at: Millis, now: Millis) -> bool {
        self.make_way(db, key, now);
        let hash = crate::hash::of(key);
        let Some(entry) = self.dbs[usize::from(db)].keys.find_mut(hash, key) else {
            return false;
        };
        if entry.expire() == at {
            return at != 0;
        }
        self.books.keep_old_form(db, hash, entry);
        entry.set_version(self.books.next_version());
        self.books.note_change(db, key, if at == 0 { What::Persists } else { What::Expires });
        self.apply_expiry(db, hash, key, Expiry::At(at), now);
        true
    }

    /// Removes every key of one database, or of all. Where a walk under way still needs them, their memory is free only when
    /// it has passed.
    pub fn clear(&mut self, db: Option<u8>) {
        self.books.lose_track();
        let version = self.books.next_version();
        for (index, place) in self.dbs.iter_mut().enumerate() {
            if db.is_some_and(|only| usize::from(only) != index) || place.keys.len() == 0 {
                continue;
            }
            // Only keys that were there: who watches an absent one sees no change. Many keys leave no bucket untouched.
            if place.keys.len() > GONE_BUCKETS * 16 {
                self.books.gone.fill(version);
            } else {
                for entry in place.keys.iter() {
                    self.books.gone[gone_bucket(index as u8, crate::hash::of(entry.key()))] = version;
                }
            }
            if self.books.watching && place.streams > 0 {
                place.keys.iter().for_each(|entry| self.books.note_loss(index as u8, entry));
            }
            let old = std::mem::replace(place, Db::new(self.books.keyspaces.count()));
            let keys = self.books.set_aside(index, old.keys).unwrap_or_default();
            self.books.leftovers.database(keys, old.expiries);
        }
    }

    /// Frees some of what was removed and is too large to be freed at once. Changes do it too; call it while there are
    /// none. Returns whether anything is left.
    pub fn free_some(&mut self) -> bool {
        self.books.free_some();
        !self.books.leftovers.is_empty()
    }

    /// Whether [`Tables::free_some`] has anything to do.
    pub fn has_leftovers(&self) -> bool {
        !self.books.leftovers.is_empty()
    }

    /// Exchanges two databases. A walk under way ends.
    pub fn swap(&mut self, one: u8, other: u8) {
        self.books.end_walk();
        self.books.lose_track();
        self.dbs.swap(usize::from(one), usize::from(other));
        // A key and its absence never share a version, or expiry would go unseen.
        let (version, absent) = (self.books.next_version(), self.books.next_version());
        for db in [one, other] {
            for entry in self.dbs[usize::from(db)].keys.iter_mut() {
                entry.set_version(version);
                let hash = crate::hash::of(entry.key());
                for seen_from in [one, other] {
                    self.books.gone[gone_bucket(seen_from, hash)] = absent;
                }
                self.books.note_touch(db, entry);
            }
        }
    }

    /// Keys that expire at or before `now`, at most `count`, soonest first.
    pub fn expired(&self, now: Millis, count: usize, mut visit: impl FnMut(u8, &[u8])) -> usize {
        let mut found = 0;
        for (index, db) in self.dbs.iter().enumerate() {
            for (at, position) in db.expiries.range(..=(now, u64::MAX)) {
                if found == count {
                    return found;
                }
                for entry in db.keys.at_position(*position).filter(|entry| entry.expire() == *at) {
                    visit(index as u8, entry.key());
                    found += 1;
                }
            }
        }
        found
    }

    /// When the next key expires, if any does.
    pub fn next_expiry(&self) -> Option<Millis> {
        self.dbs.iter().filter_map(|db| db.expiries.first().map(|(at, _)| *at)).min()
    }

    /// Of `samples` keys of one keyspace taken by chance, the one used longest ago.
    pub fn eviction_candidate(&self, keyspace: KeyspaceId, samples: usize, rng: &mut Rng) -> Option<(u8, Vec<u8>)> {
        let mut best: Option<(u32, u8, &Entry)> = None;
        for (index, db) in self.dbs.iter().enumerate().filter(|(_, db)| db.keys.len() > 0) {
            db.keys.sample(samples * 4, rng, |entry| {
                let older = best.is_none_or(|(used, ..)| entry.used_seconds() < used);
                if entry.keyspace() == keyspace && older {
                    best = Some((entry.used_seconds(), index as u8, entry));
                }
            });
        }
        best.map(|(_, db, entry)| (db, entry.key().to_vec()))
    }

    /// Puts other keyspace settings in force. Counts are made anew; values stay where they are.
    pub fn set_keyspaces(&mut self, keyspaces: Arc<Keyspaces>) {
        for db in &mut self.dbs {
            db.usage = vec![Usage::default(); keyspaces.count()];
            for entry in db.keys.iter_mut() {
                entry.set_keyspace(keyspaces.of(entry.key()));
                let usage = &mut db.usage[usize::from(entry.keyspace())];
                usage.bytes += entry.cost() as u64;
                usage.keys += 1;
            }
        }
        self.books.keyspaces = keyspaces;
    }

    /// Whether changed keys are to be remembered for [`Tables::take_touched`].
    pub fn set_watching(&mut self, watching: bool) {
        self.books.watching = watching;
    }

    /// The lists, sorted sets and streams that changed, and the streams that went, since the last call, in the order of the changes.
    pub fn take_touched(&mut self) -> Vec<Touched> {
        std::mem::take(&mut self.books.touched)
    }

    fn insert(&mut self, db: u8, hash: u64, key: &[u8], new: New<'_>, expiry: Expiry, now: Millis) {
        let keyspace = self.books.keyspaces.of(key);
        let mut entry = Entry::new(key, new, keyspace, self.books.next_version());
        entry.mark_used(now);
        // A key born during a walk is not part of the snapshot.
        entry.set_walked(self.books.generation);
        self.books.note_touch(db, &entry);
        self.books.note_change(db, key, What::Came);
        let place = &mut self.dbs[usize::from(db)];
        place.count(&entry);
        place.keys.insert(hash, entry);
        if expiry != Expiry::Clear || self.books.keyspaces.get(keyspace).default_expiry != 0 {
            self.apply_expiry(db, hash, key, expiry, now);
            self.note_expiry(db, key, expiry);
        }
    }

    /// A value has come together with a moment of expiry.
    fn note_expiry(&mut self, db: u8, key: &[u8], expiry: Expiry) {
        if matches!(expiry, Expiry::At(at) if at != 0) {
            self.books.note(db, key, What::Expires);
        }
    }

    fn apply_expiry(&mut self, db: u8, hash: u64, key: &[u8], expiry: Expiry, now: Millis) {
        let place = &mut self.dbs[usize::from(db)];
        let entry = place.keys.find_mut(hash, key).expect("the caller has just written it");
        let at = match expiry {
            Expiry::Keep => return,
            Expiry::At(at) => at,
            Expiry::Clear => match self.books.keyspaces.get(entry.keyspace()).default_expiry {
                0 => 0,
                span => now + span,
            },
        };
        let position = directory::position(hash);
        if entry.expire() != 0 {
            place.expiries.remove(&(entry.expire(), position));
        }
        entry.set_expire(at);
        if at != 0 {
            // It will go without a command: its absence then differs from the one before it came (WATCH).
            self.books.gone[gone_bucket(db, hash)] = self.books.next_version();
            place.expiries.insert((at, position));
        }
    }

    /// Before a change: removes the key where it has expired, and frees some of what was removed before.
    #[inline]
    fn make_way(&mut self, db: u8, key: &[u8], now: Millis) {
        self.books.free_some();
        let place = &self.dbs[usize::from(db)];
        if !place.expiries.is_empty() && place.keys.find(key).is_some_and(|entry| entry.is_expired(now)) {
            self.remove(db, key, now);
        }
    }

    /// The class whose keys these tables hold under current settings, for one key.
    pub fn durability(&self, key: &[u8]) -> Durability {
        self.books.keyspaces.get(self.books.keyspaces.of(key)).durability
    }
}

/// Returns what `change` gives, and whether the value is to be removed.
fn edit_entry<T: Kind, R>(
    books: &mut Books,
    usage: &mut [Usage],
    db: u8,
    hash: u64,
    entry: &mut Entry,
    now: Millis,
    change: impl FnOnce(&mut T) -> (bool, R),
) -> Result<(R, bool), WrongType> {
    if T::of(entry.value()).is_none() {
        return Err(WrongType);
    }
    books.keep_old_form(db, hash, entry);
    let value = entry.body_mut().and_then(T::of_mut).expect("its kind was checked above");
    let before = value.heap_bytes();
    let (changed, result) = change(value);
    let (after, vacant) = (value.heap_bytes(), value.is_vacant());
    account(usage, entry.keyspace(), before, after);
    entry.mark_used(now);
    if changed {
        entry.set_version(books.next_version());
        books.note_change(db, entry.key(), What::Changed);
        books.note_touch(db, entry);
    }
    Ok((result, vacant))
}

fn sum(usages: impl Iterator<Item = Usage>) -> Usage {
    usages.fold(Usage::default(), |sum, one| Usage { bytes: sum.bytes + one.bytes, keys: sum.keys + one.keys })
}

fn gone_bucket(db: u8, hash: u64) -> usize {
    (hash as usize ^ (usize::from(db) * 257)) % GONE_BUCKETS
}

#[cfg(test)]
mod tests;

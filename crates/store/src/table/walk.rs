//! The walk that copies tables piecemeal as they were at one moment, while they go on changing.
//!
//! The walk visits entries in ascending position. Whoever changes an entry that the walk has not reached first writes
//! the entry's old form into the walk's backlog and marks it; a key born meanwhile is marked from the start. So the forms
//! that come out are exactly the keys and values of the moment the walk began, each once, in no particular order, and
//! the extra memory is the backlog that the caller drains, never a second copy of the data. A database that is cleared is
//! handed to the walk as it is.
//!
//! A large value is frozen instead of written: its parts are shared with the walk, which writes some at every step, and a
//! change copies the one part that it touches. No step writes much more than it was asked for, whatever the values' size;
//! to freeze a value costs a moment per thousand members (measured: docs/benchmarks.md).

use std::collections::{BTreeSet, VecDeque};

use base::Millis;

use super::directory::{self, Directory};
use super::{Books, DATABASES, Entry, Tables, WrongType};
use crate::codec::{Corrupt, Input, Stored, put_bytes, put_varint};
use crate::value::{Frozen, Growing, Value};

/// Values that cost more are written in pieces. What one step writes at once beyond its bytes is at most such a value, an
/// element, or the consumers of a group.
const LARGE_BYTES: usize = 32 << 10;
/// The backlog is kept in blocks of about this size, so that one step need not take all of it.
const BLOCK_BYTES: usize = 64 << 10;
/// After so many walks that came to no end all marks are wiped, so that no old mark is taken for a new one.
const UNFINISHED_MAX: u8 = 250;

#[derive(Debug, Default)]
pub(super) struct Walk {
    db: usize,
    position: u64,
    /// Old forms of entries that changed before the walk came by.
    backlog: VecDeque<Vec<u8>>,
    /// Large values as they were when the walk began. The first may be written in part.
    frozen: VecDeque<Frozen>,
    /// What was cleared before the walk came by: database, how far it has been visited, keys.
    aside: VecDeque<(usize, u64, Directory)>,
}

/// A key whose value has been read in part.
#[derive(Debug)]
pub(super) struct Restoring {
    db: u8,
    key: Vec<u8>,
    expire: Millis,
    version: u64,
    value: Growing,
}

/// Writes an entry down, or puts it among the frozen ones where its value is large.
fn keep(db: usize, entry: &mut Entry, out: &mut Vec<u8>, frozen: &mut VecDeque<Frozen>) {
    let large = entry.value().heap_bytes() > LARGE_BYTES;
    let begun = out.len();
    out.push(db as u8);
    put_varint(out, entry.expire());
    put_varint(out, entry.version());
    put_bytes(out, entry.key());
    if large && let Some(value) = entry.body_mut().and_then(|value| value.freeze(out[begun..].to_vec())) {
        out.truncate(begun);
        return frozen.push_back(value);
    }
    entry.value().encode(out);
}

impl Walk {
    #[cold]
    fn keep_unless_passed(&mut self, db: u8, hash: u64, entry: &mut Entry) {
        let db = usize::from(db);
        if db < self.db || (db == self.db && directory::position(hash) < self.position) {
            return;
        }
        if self.backlog.back().is_none_or(|block| block.len() >= BLOCK_BYTES) {
            self.backlog.push_back(Vec::new());
        }
        let block = self.backlog.back_mut().expect("there is a block with room");
        keep(db, entry, block, &mut self.frozen);
    }
}

impl Books {
    /// Called before an entry changes or goes: keeps its old form where the walk still needs it.
    #[inline]
    pub(super) fn keep_old_form(&mut self, db: u8, hash: u64, entry: &mut Entry) {
        if let Some(walk) = &mut self.walk
            && entry.walked() != self.generation
        {
            entry.set_walked(self.generation);
            walk.keep_unless_passed(db, hash, entry);
        }
    }
}

impl Books {
    /// Called with a whole database that goes: keeps it where the walk still needs it, and gives it back where not.
    pub(super) fn set_aside(&mut self, db: usize, keys: Directory) -> Option<Directory> {
        let Some(walk) = self.walk.as_mut().filter(|walk| db >= walk.db) else {
            return Some(keys);
        };
        let position = if db == walk.db { walk.position } else { 0 };
        walk.aside.push_back((db, position, keys));
        None
    }

    /// Ends a walk before its end, if one is under way.
    pub(super) fn end_walk(&mut self) {
        for (_, _, keys) in self.walk.take().into_iter().flat_map(|walk| walk.aside) {
            self.leftovers.database(keys, BTreeSet::new());
        }
    }
}

impl Tables {
    /// Begins a walk over everything as it is now. One that is under way ends.
    pub fn begin_walk(&mut self) {
        if self.books.unfinished >= UNFINISHED_MAX {
            self.dbs.iter_mut().flat_map(|db| db.keys.iter_mut()).for_each(|entry| entry.set_walked(0));
            self.books.unfinished = 0;
        }
        self.books.end_walk();
        self.books.unfinished += 1;
        self.books.generation = self.books.generation % u8::MAX + 1;
        self.books.walk = Some(Walk::default());
    }

    /// Whether a walk is under way. SWAPDB ends one.
    pub fn is_walking(&self) -> bool {
        self.books.walk.is_some()
    }

    /// Ends a walk early.
    pub fn abort_walk(&mut self) {
        self.books.end_walk();
    }

    /// Goes on until about `bytes` more have been appended to `out`. True when everything has been; the walk is then over.
    pub fn walk(&mut self, bytes: usize, out: &mut Vec<u8>) -> bool {
        let generation = self.books.generation;
        let Some(walk) = &mut self.books.walk else {
            return true;
        };
        let until = out.len().saturating_add(bytes);
        while out.len() < until {
            // What stands between the pieces of a value would be taken for its elements: it goes on until it ends.
            if let Some(first) = walk.frozen.front_mut() {
                if first.write(until, out) {
                    walk.frozen.pop_front();
                }
                continue;
            }
            if let Some(mut block) = walk.backlog.pop_front() {
                out.append(&mut block);
                continue;
            }
            if let Some((db, position, keys)) = walk.aside.front_mut() {
                let next = keys.walk(*position, until - out.len(), |entry| {
                    if entry.walked() != generation {
                        entry.set_walked(generation);
                        keep(*db, entry, out, &mut walk.frozen);
                    }
                    out.len() >= until
                });
                match next {
                    Some(next) => *position = next,
                    None => {
                        let keys = walk.aside.pop_front().map(|(_, _, keys)| keys);
                        self.books.leftovers.database(keys.unwrap_or_default(), BTreeSet::new());
                    }
                }
                continue;
            }
            if walk.db == DATABASES {
                self.books.walk = None;
                self.books.unfinished = 0;
                return true;
            }
            let db = walk.db;
            let room = until - out.len();
            let next = self.dbs[db].keys.walk(walk.position, room, |entry| {
                if entry.walked() != generation {
                    entry.set_walked(generation);
                    keep(db, entry, out, &mut walk.frozen);
                }
                out.len() >= until
            });
            match next {
                Some(position) => walk.position = position,
                None => {
                    walk.db += 1;
                    walk.position = 0;
                }
            }
        }
        false
    }

    /// What a snapshot needs beside the entries: call at [`Tables::begin_walk`].
    pub fn encode_books(&self, out: &mut Vec<u8>) {
        put_varint(out, self.books.sequence);
        self.books.keyspaces.encode(out);
        put_varint(out, self.books.gone.len() as u64);
        for version in &self.books.gone {
            put_varint(out, *version);
        }
    }

    /// Empties the tables and reads what [`Tables::encode_books`] wrote. Entries follow by [`Tables::restore`].
    pub fn decode_books(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let sequence = input.varint()?;
        let keyspaces = crate::keyspace::Keyspaces::decode(input)?;
        if input.count()? != self.books.gone.len() {
            return Err(Corrupt("another number of version buckets"));
        }
        let mut fresh = Tables::new(keyspaces.into());
        for version in &mut fresh.books.gone {
            *version = input.varint()?;
        }
        fresh.books.sequence = sequence;
        fresh.books.watching = self.books.watching;
        *self = fresh;
        Ok(())
    }

    /// Puts back every entry of a chunk that [`Tables::walk`] wrote; chunks come in the order of the walk. An entry that
    /// goes on in the next chunk is put back with its last one. Returns how many were.
    pub fn restore(&mut self, chunk: &[u8]) -> Result<usize, Corrupt> {
        let mut input = Input::new(chunk);
        let mut count = 0;
        while !input.is_empty() {
            let mut entry = match self.books.restoring.take() {
                Some(begun) => begun,
                None => Restoring::begin(&mut input)?,
            };
            if !entry.value.feed(&mut input)? {
                self.books.restoring = Some(entry);
                break;
            }
            let Restoring { db, key, expire, version, value } = entry;
            self.restore_entry(db, &key, value.finish(), expire, version).map_err(|_| Corrupt("a key stands twice"))?;
            count += 1;
        }
        Ok(count)
    }

    /// Whether every entry that [`Tables::restore`] has begun is whole.
    pub fn is_whole(&self) -> bool {
        self.books.restoring.is_none()
    }

    fn restore_entry(
        &mut self,
        db: u8,
        key: &[u8],
        value: Value,
        expire: Millis,
        version: u64,
    ) -> Result<(), WrongType> {
        let hash = crate::hash::of(key);
        let keyspace = self.books.keyspaces.of(key);
        let place = &mut self.dbs[usize::from(db)];
        if place.keys.find_mut(hash, key).is_some() {
            return Err(WrongType);
        }
        let mut entry = Entry::new(key, value.into(), keyspace, version);
        entry.set_expire(expire);
        if expire != 0 {
            place.expiries.insert((expire, directory::position(hash)));
        }
        place.count(&entry);
        place.keys.insert(hash, entry);
        Ok(())
    }
}

impl Restoring {
    fn begin(input: &mut Input<'_>) -> Result<Restoring, Corrupt> {
        let db = input.u8()?;
        if usize::from(db) >= DATABASES {
            return Err(Corrupt("no such database"));
        }
        let (expire, version) = (input.varint()?, input.varint()?);
        let key = input.bytes()?.to_vec();
        Ok(Restoring { db, key, expire, version, value: Growing::begin(input)? })
    }
}

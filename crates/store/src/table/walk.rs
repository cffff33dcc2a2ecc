//! The walk that copies tables piecemeal as they were at one moment, while they go on changing.
//!
//! The walk visits segments in ascending position. Whoever changes an entry that the walk has not reached first writes
//! the entry's old form into the walk's backlog and marks it; a key born meanwhile is marked from the start. So the forms
//! that come out are exactly the keys and values of the moment the walk began, each once, in no particular order, and
//! the extra memory is the backlog that the caller drains, never a second copy of the data.

use base::Millis;

use super::directory;
use super::{Books, DATABASES, Entry, Tables, WrongType};
use crate::codec::{Corrupt, Input, Stored, put_bytes, put_varint};
use crate::value::Value;

#[derive(Debug)]
pub(super) struct Walk {
    generation: u32,
    db: usize,
    position: u64,
    backlog: Vec<u8>,
}

fn encode(db: usize, entry: &Entry, out: &mut Vec<u8>) {
    out.push(db as u8);
    put_varint(out, entry.expire);
    put_varint(out, entry.version);
    put_bytes(out, entry.key());
    entry.value.encode(out);
}

impl Books {
    /// Called before an entry changes or goes: keeps its old form where the walk still needs it.
    #[inline]
    pub(super) fn keep_old_form(&mut self, db: u8, hash: u64, entry: &mut Entry) {
        if let Some(walk) = &mut self.walk
            && entry.walked != walk.generation
        {
            entry.walked = walk.generation;
            let passed =
                usize::from(db) < walk.db || (usize::from(db) == walk.db && directory::position(hash) < walk.position);
            if !passed {
                encode(usize::from(db), entry, &mut walk.backlog);
            }
        }
    }
}

impl Tables {
    /// Begins a walk over everything as it is now. One that is under way ends.
    pub fn begin_walk(&mut self) {
        self.books.generation += 1;
        self.books.walk = Some(Walk { generation: self.books.generation, db: 0, position: 0, backlog: Vec::new() });
    }

    /// Whether a walk is under way. FLUSHALL, FLUSHDB and SWAPDB end one.
    pub fn is_walking(&self) -> bool {
        self.books.walk.is_some()
    }

    /// Ends a walk early.
    pub fn abort_walk(&mut self) {
        self.books.walk = None;
    }

    /// Goes on until about `bytes` more have been appended to `out`. True when everything has been; the walk is then over.
    pub fn walk(&mut self, bytes: usize, out: &mut Vec<u8>) -> bool {
        let Some(walk) = &mut self.books.walk else {
            return true;
        };
        out.append(&mut walk.backlog);
        let until = out.len() + bytes;
        while out.len() < until {
            if walk.db == DATABASES {
                self.books.walk = None;
                return true;
            }
            let db = walk.db;
            let generation = walk.generation;
            let next = self.dbs[db].keys.walk_segment(walk.position, |entry| {
                if entry.walked != generation {
                    entry.walked = generation;
                    encode(db, entry, out);
                }
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

    /// Bytes that wait in the walk's backlog.
    pub fn walk_backlog(&self) -> usize {
        self.books.walk.as_ref().map_or(0, |walk| walk.backlog.len())
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

    /// Puts back every entry of a chunk that [`Tables::walk`] wrote. Returns how many.
    pub fn restore(&mut self, chunk: &[u8]) -> Result<usize, Corrupt> {
        let mut input = Input::new(chunk);
        let mut count = 0;
        while !input.is_empty() {
            let db = input.u8()?;
            if usize::from(db) >= DATABASES {
                return Err(Corrupt("no such database"));
            }
            let expire: Millis = input.varint()?;
            let version = input.varint()?;
            let key = input.bytes()?;
            let value = Value::decode(&mut input)?;
            self.restore_entry(db, key, value, expire, version).map_err(|_| Corrupt("a key stands twice"))?;
            count += 1;
        }
        Ok(count)
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
        let mut entry = Entry::new(key, value, keyspace, version);
        entry.expire = expire;
        if expire != 0 {
            place.expiries.insert((expire, directory::position(hash)));
        }
        let usage = &mut self.books.usage[usize::from(keyspace)];
        usage.bytes += entry.bytes() as u64;
        usage.keys += 1;
        place.keys.insert(hash, entry);
        Ok(())
    }
}

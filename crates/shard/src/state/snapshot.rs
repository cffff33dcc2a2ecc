//! The logged half out to a snapshot, piece by piece, and back in.

use std::sync::Arc;

use base::Limits;
use cluster::Cluster;
use store::codec::{Corrupt, Input, Stored, put_u64, put_varint};
use store::table::Tables;

use super::State;
use crate::bounds;
use crate::script::Scripts;
use crate::waiters::Waiters;
use discovery::Catalog;

/// The stored form of a shard. In 2 a key's value may go on in the next chunk; otherwise it is as 1 was. In 3 there are bounds,
/// in 4 the cluster.
const VERSION: u8 = 4;

/// Begins a chunk of the registry's records; any other begins with the number of a database, which is smaller, or in the
/// middle of a key.
const CATALOG_CHUNK: u8 = 0xC0;

impl State {
    /// Begins a snapshot of the logged half as it is now. Returns its index and its first chunk; [`State::walk`] gives the others.
    pub fn begin_snapshot(&mut self) -> (u64, Vec<u8>) {
        let mut chunk = vec![VERSION];
        put_u64(&mut chunk, self.applied);
        put_varint(&mut chunk, self.stamp);
        bounds::encode(&self.limits, &mut chunk);
        self.cluster.encode(&mut chunk);
        self.logged.waiters.encode(&mut chunk);
        self.logged.scripts.encode(&mut chunk);
        self.logged.tables.encode_books(&mut chunk);
        self.logged.tables.begin_walk();
        self.walks_catalog = false;
        if !self.catalog.is_empty() {
            self.catalog.begin_walk(&mut chunk);
        }
        #[cfg(any(test, feature = "planted"))]
        if self.planted.snapshot_index_off_by_one {
            chunk[1..9].copy_from_slice(&(self.applied + 1).to_le_bytes());
            return (self.applied + 1, chunk);
        }
        (self.applied, chunk)
    }

    /// Goes on with a snapshot. `None` where SWAPDB has ended it early: begin again.
    pub fn walk(&mut self, bytes: usize, out: &mut Vec<u8>) -> Option<bool> {
        if !self.walks_catalog {
            if !self.logged.tables.is_walking() {
                return None;
            }
            if !self.logged.tables.walk(bytes, out) {
                return Some(false);
            }
            self.walks_catalog = !self.catalog.is_empty();
            return Some(!self.walks_catalog);
        }
        out.push(CATALOG_CHUNK);
        let done = self.catalog.walk(bytes, out);
        self.walks_catalog = !done;
        Some(done)
    }

    /// Ends a snapshot early.
    pub fn abort_walk(&mut self) {
        self.logged.tables.abort_walk();
        self.catalog.abort_walk();
        self.walks_catalog = false;
    }

    /// Reads a snapshot's first chunk.
    pub fn restore_first(&mut self, chunk: &[u8]) -> Result<(), Corrupt> {
        let mut input = Input::new(chunk);
        let version = input.u8()?;
        if !(1..=VERSION).contains(&version) {
            return Err(Corrupt("a snapshot of a version that this build does not know"));
        }
        self.applied = input.u64()?;
        self.stamp = input.varint()?;
        // Before there were bounds in it they could not be replayed either.
        let limits = if version < 3 { bounds::first() } else { bounds::decode(&mut input)? };
        self.limits = Limits { hits: self.limits.hits.clone(), ..limits };
        self.cluster = if version < 4 { Arc::default() } else { Arc::new(Cluster::decode(&mut input)?) };
        self.logged.waiters = Waiters::decode(&mut input)?;
        self.logged.scripts = Scripts::decode(&mut input)?;
        self.logged.tables.decode_books(&mut input)?;
        let keyspaces = self.logged.tables.keyspaces().clone();
        self.memory.tables = Tables::new(keyspaces);
        self.catalog = if input.is_empty() { Catalog::default() } else { Catalog::read_books(&mut input)? };
        self.update_watching();
        Ok(())
    }

    /// Reads one of a snapshot's other chunks. Returns how many keys it held.
    pub fn restore(&mut self, chunk: &[u8]) -> Result<usize, Corrupt> {
        match chunk.split_first() {
            Some((&CATALOG_CHUNK, records)) if self.logged.tables.is_whole() => self.catalog.restore(records),
            _ => self.logged.tables.restore(chunk),
        }
    }

    /// Whether everything that the chunks began has ended: a snapshot that is not whole must not be used.
    pub fn is_whole(&self) -> bool {
        self.logged.tables.is_whole()
    }

    /// Frees some of what was removed and was too large to be freed at once. Returns whether anything is left.
    pub fn free_some(&mut self) -> bool {
        let logged = self.logged.tables.free_some();
        self.memory.tables.free_some() || logged
    }

    /// Whether [`State::free_some`] has anything to do.
    pub fn has_leftovers(&self) -> bool {
        self.logged.tables.has_leftovers() || self.memory.tables.has_leftovers()
    }

    /// After the last chunk: builds what is not stored.
    pub fn finish_restore(&mut self) {
        self.catalog.finish_restore();
    }
}

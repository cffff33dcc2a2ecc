//! The logged half out to a snapshot, piece by piece, and back in.

use std::sync::Arc;

use base::Limits;
use cluster::Cluster;
use coordination::Coordination;
use store::codec::{Corrupt, Input, Stored, put_bytes, put_u64, put_varint};
use store::table::Tables;
use store::value::{Value, View};
use users::Users;

use super::State;
use super::streams::Turns;
use crate::bounds;
use crate::commit::Commits;
use crate::script::{Libraries, Scripts};
use crate::slots::Slots;
use crate::waiters::Waiters;
use discovery::Catalog;
use queue::{TopicId, Topics, extents};
use store::extent::ExtentId;

/// The stored form of a shard. In 2 a key's value may go on in the next chunk; otherwise it is as 1 was. In 3 there are bounds,
/// in 4 the cluster, in 5 topics and queue, in 6 the slots, in 7 there may be groups of topics as streams, in 8 commits across shards, in 9 etcd's keys,
/// in 10 users and libraries of functions.
const VERSION: u8 = 10;

/// Begins a chunk of the registry's records; any other begins with the number of a database, which is smaller, or in the
/// middle of a key.
const CATALOG_CHUNK: u8 = 0xC0;
/// Begins a chunk of the queue's records.
const QUEUE_CHUNK: u8 = 0xC1;
/// Begins a chunk of the groups of topics as streams; the byte behind it says whether it is the last one.
const STREAMS_CHUNK: u8 = 0xC3;
/// Begins a chunk of etcd's keys.
const ETCD_CHUNK: u8 = 0xC4;
/// Begins the chunk that names extent files: the last one, where there are any.
const FILES_CHUNK: u8 = 0xC2;

impl State {
    /// Begins a snapshot of the logged half as it is now. Returns its index and its first chunk; [`State::walk`] gives the others.
    pub fn begin_snapshot(&mut self) -> (u64, Vec<u8>) {
        let mut chunk = vec![VERSION];
        put_u64(&mut chunk, self.applied);
        put_varint(&mut chunk, self.stamp);
        bounds::encode(&self.limits, &mut chunk);
        self.cluster.encode(&mut chunk);
        self.topics.encode(&mut chunk);
        self.queue.encode_books(&mut chunk);
        self.slots.encode(&mut chunk);
        self.commits.encode(&mut chunk);
        self.holds_etcd = !self.coordination.is_empty();
        self.walks_etcd = false;
        chunk.push(u8::from(self.holds_etcd));
        if self.holds_etcd {
            self.coordination.begin_walk(&mut chunk);
        }
        self.users.encode(&mut chunk);
        self.logged.waiters.encode(&mut chunk);
        self.logged.scripts.encode(&mut chunk);
        self.libraries.encode(&mut chunk);
        self.logged.tables.encode_books(&mut chunk);
        self.logged.tables.begin_walk();
        self.queue.begin_walk();
        (self.walks_queue, self.walks_catalog) = (false, false);
        self.streams_form = self.encode_streams();
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
        if self.walks_etcd {
            out.push(ETCD_CHUNK);
            self.walks_etcd = !self.coordination.walk(bytes, out);
            return Some(!self.walks_etcd);
        }
        let done = self.walk_all_but_etcd(bytes, out)?;
        self.walks_etcd = done && self.holds_etcd;
        Some(done && !self.walks_etcd)
    }

    fn walk_all_but_etcd(&mut self, bytes: usize, out: &mut Vec<u8>) -> Option<bool> {
        if self.walks_streams {
            let some = bytes.max(1).min(self.streams_form.len());
            self.walks_streams = some < self.streams_form.len();
            out.extend_from_slice(&[STREAMS_CHUNK, u8::from(!self.walks_streams)]);
            out.extend(self.streams_form.drain(..some));
            return Some(!self.walks_streams);
        }
        let done = self.walk_rest(bytes, out)?;
        self.walks_streams = done && !self.streams_form.is_empty();
        Some(done && !self.walks_streams)
    }

    /// The groups of topics as streams as they are now. All at once: they are few, and small beside the rest.
    fn encode_streams(&self) -> Vec<u8> {
        let mut form = Vec::new();
        for ((topic, partition), stream) in &self.streams {
            put_u64(&mut form, (topic.0 >> 64) as u64);
            put_u64(&mut form, topic.0 as u64);
            put_varint(&mut form, u64::from(*partition));
            View::Stream(stream).encode(&mut form);
        }
        // No topic has the id 0: what follows it is of a group that has met something out of turn.
        for (((topic, partition), group), turns) in &self.turns {
            put_u64(&mut form, 0);
            put_u64(&mut form, 0);
            put_u64(&mut form, (topic.0 >> 64) as u64);
            put_u64(&mut form, topic.0 as u64);
            put_varint(&mut form, u64::from(*partition));
            put_bytes(&mut form, group);
            turns.encode(&mut form);
        }
        form
    }

    fn restore_streams(&mut self, form: &[u8]) -> Result<(), Corrupt> {
        let mut input = Input::new(form);
        while !input.is_empty() {
            let id = |input: &mut Input<'_>| Ok(TopicId(u128::from(input.u64()?) << 64 | u128::from(input.u64()?)));
            let mut topic = id(&mut input)?;
            let is_turns = topic == TopicId(0);
            if is_turns {
                topic = id(&mut input)?;
            }
            let partition = u32::try_from(input.varint()?).map_err(|_| Corrupt("no such partition"))?;
            if is_turns {
                let group = input.bytes()?.into();
                self.turns.insert(((topic, partition), group), Turns::decode(&mut input)?);
                continue;
            }
            let Value::Stream(stream) = Value::decode(&mut input)? else {
                return Err(Corrupt("groups of a topic that are no stream"));
            };
            self.streams.insert((topic, partition), stream);
        }
        Ok(())
    }

    fn walk_rest(&mut self, bytes: usize, out: &mut Vec<u8>) -> Option<bool> {
        if self.walks_queue {
            out.push(QUEUE_CHUNK);
            self.walks_queue = !self.queue.walk(bytes, out);
            return Some(!self.walks_queue);
        }
        if !self.walks_catalog {
            if !self.logged.tables.is_walking() {
                return None;
            }
            if !self.logged.tables.walk(bytes, out) {
                return Some(false);
            }
            self.walks_catalog = !self.catalog.is_empty();
            self.walks_queue = !self.walks_catalog && self.queue.is_walking();
            return Some(!self.walks_catalog && !self.walks_queue);
        }
        out.push(CATALOG_CHUNK);
        let done = self.catalog.walk(bytes, out);
        self.walks_catalog = !done;
        self.walks_queue = done && self.queue.is_walking();
        Some(done && !self.walks_queue)
    }

    /// The chunk that names the extent files which a snapshot needs; behind all that [`State::walk`] gives.
    pub fn files_chunk(files: &[ExtentId]) -> Vec<u8> {
        let mut chunk = vec![FILES_CHUNK];
        extents::put_files(files, &mut chunk);
        chunk
    }

    /// The extent files that a snapshot has named and nobody has asked for yet: their indexes are to be told to
    /// [`queue::Queue::copied`], in this order, before anything is applied.
    pub fn take_files(&mut self) -> Vec<ExtentId> {
        self.named.clone_from(&self.files);
        std::mem::take(&mut self.files)
    }

    /// The extent files that this node must keep: those that the state needs, and those that the snapshot names it was read from,
    /// which the next start needs though their records have been deleted since.
    pub fn files_to_keep(&self) -> Vec<ExtentId> {
        let mut files = self.queue.files();
        files.extend(self.named.iter().filter(|file| !files.contains(file)).copied().collect::<Vec<_>>());
        files
    }

    /// Ends a snapshot early.
    pub fn abort_walk(&mut self) {
        self.logged.tables.abort_walk();
        self.catalog.abort_walk();
        self.coordination.abort_walk();
        self.walks_etcd = false;
        self.queue.abort_walk();
        (self.walks_queue, self.walks_catalog) = (false, false);
        self.walks_streams = false;
        self.streams_form = Vec::new();
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
        if version >= 5 {
            self.topics = Arc::new(Topics::decode(&mut input)?);
            self.queue.read_books(&mut input)?;
        } else {
            self.topics = Arc::default();
            self.queue.clear();
        }
        if version >= 6 {
            self.slots = Slots::decode(&mut input)?;
        }
        self.streams.clear();
        self.turns.clear();
        self.streams_form.clear();
        if version >= 8 {
            self.commits = Commits::decode(self.group, &mut input)?;
            #[cfg(any(test, feature = "planted"))]
            if self.planted.locks_forgotten {
                self.commits.lose_locks();
            }
            #[cfg(any(test, feature = "planted"))]
            if self.planted.decisions_forgotten {
                self.commits.lose_decisions();
            }
        }
        self.coordination = match version >= 9 && input.u8()? != 0 {
            true => Coordination::read_books(&mut input)?,
            false => Coordination::default(),
        };
        self.users = if version >= 10 { Arc::new(Users::decode(&mut input)?) } else { Arc::default() };
        self.logged.waiters = Waiters::decode(&mut input)?;
        self.logged.scripts = Scripts::decode(&mut input)?;
        self.libraries = if version >= 10 { Libraries::decode(&mut input)? } else { Libraries::default() };
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
            Some((&ETCD_CHUNK, records)) if self.logged.tables.is_whole() => self.coordination.restore(records),
            Some((&FILES_CHUNK, files)) if self.logged.tables.is_whole() => {
                self.files = extents::read_files(&mut Input::new(files))?;
                Ok(0)
            }
            Some((&STREAMS_CHUNK, [is_last, form @ ..])) if self.logged.tables.is_whole() => {
                self.streams_form.extend_from_slice(form);
                if *is_last == 0 {
                    return Ok(0);
                }
                let form = std::mem::take(&mut self.streams_form);
                self.restore_streams(&form).map(|()| 0)
            }
            Some((&QUEUE_CHUNK, records)) if self.logged.tables.is_whole() => self.queue.restore(records),
            _ => self.logged.tables.restore(chunk),
        }
    }

    /// Whether everything that the chunks began has ended: a snapshot that is not whole must not be used.
    pub fn is_whole(&self) -> bool {
        self.logged.tables.is_whole() && self.streams_form.is_empty()
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
        #[cfg(any(test, feature = "planted"))]
        self.coordination.plant(self.planted.coordination);
        self.coordination.finish_restore();
        self.queue.finish_restore();
    }
}

//! The stored form of a log entry: what time it is, a seed, and units of work, each applied whole or not at all.
//!
//! ```text
//!   entry   version:u8=1  stamp:u64(ms)  seed:u64  unit*
//!   unit    1 command     flags|db:u8  words
//!           2 multi       flags:u8  watches:(db key version)*  (0 db words | 1 literal reply | 2 stream)*
//!           3 expire      (db key)*
//!           4 unblock     waiter:u64  how:u8
//!           5 keyspaces   settings
//!           6 literal     reply            (never in a log: only among a leader's own requests)
//!           7 change      a change of the registry (see `discovery::change`); in the meta group's log only
//!           8 bounds      numbers
//!           9 cluster     a change of the cluster (see `cluster::change`); in the meta group's log only
//!          10 versions    (db key)*         (never in a log)
//!          11 slots       a change of the shard's slots (see `slots::SlotChange`)
//!          12 prepare, 13 decide, 14 finish, 15 resolve, 16 forget: commits across shards (see `commit::Step`)
//!          17 etcd        a command of etcd's (see `coordination::command`); in the meta group's log only
//!          20 queue       a command of the queue (see `queue::command`), whose batches are read from here for ever
//!          21 topics      a change of the topics (see `queue::topics`); in the meta group's log only
//!          22 stream      flags:u8  what is done to a topic as a stream (see `streams`); its batches are read from here for ever
//!          23 users       a change of the users (see `users::room`); in the meta group's log only
//!   words   count:varint (len:varint bytes)*
//! ```
//!
//! An empty entry is Raft's own: a new leader's first, which ends every wait of the leaders before it.

use base::{Limits, Millis};
use discovery::Change;
use smallvec::SmallVec;
use store::codec::{Corrupt, Input, Stored, put_bytes, put_u64, put_varint};
use store::keyspace::Keyspaces;

use crate::bounds;
use crate::command::Args;
use crate::commit::Step;
use crate::reply::Protocol;
use crate::slots::SlotChange;
use crate::streams::StreamOp;

const VERSION: u8 = 1;
const COMMAND: u8 = 1;
const MULTI: u8 = 2;
const EXPIRE: u8 = 3;
const UNBLOCK: u8 = 4;
const KEYSPACES: u8 = 5;
const LITERAL: u8 = 6;
const CHANGE: u8 = 7;
const BOUNDS: u8 = 8;
const CLUSTER: u8 = 9;
const VERSIONS: u8 = 10;
const SLOTS: u8 = 11;
const PREPARE: u8 = 12;
const FORGET: u8 = 16;
const ETCD: u8 = 17;
const QUEUE: u8 = 20;
const TOPICS: u8 = 21;
const STREAM: u8 = 22;
const USERS: u8 = 23;
const RESP3: u8 = 0x80;
/// Of a MULTI: some of its parts work on topics.
const HAS_STREAMS: u8 = 1;

/// Words of one command; sixteen fit without an allocation.
pub type Words<'a> = SmallVec<[&'a [u8]; 16]>;

/// Bytes of an entry before its first unit.
pub const HEADER_BYTES: usize = 17;

/// Begins an entry: units follow. Its stamp and seed are filled in by [`stamp_header`] when it is proposed.
pub fn put_header(out: &mut Vec<u8>) {
    debug_assert!(out.is_empty(), "a header comes first");
    out.push(VERSION);
    put_u64(out, 0);
    put_u64(out, 0);
}

/// Fills in what [`put_header`] left open.
pub fn stamp_header(entry: &mut [u8], stamp: Millis, seed: u64) {
    entry[1..9].copy_from_slice(&stamp.to_le_bytes());
    entry[9..17].copy_from_slice(&seed.to_le_bytes());
}

/// Reads an entry's stamp and seed.
pub fn read_header(input: &mut Input<'_>) -> Result<(Millis, u64), Corrupt> {
    if input.u8()? != VERSION {
        return Err(Corrupt("an entry of a version that this build does not know"));
    }
    Ok((input.u64()?, input.u64()?))
}

/// A key that must not have changed for a MULTI to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Its database.
    pub db: u8,
    /// Its name.
    pub key: Vec<u8>,
    /// `Tables::version` when WATCH ran.
    pub version: u64,
}

/// How a wait ends other than by data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unblock {
    /// Its time is over: a null answer.
    Timeout,
    /// CLIENT UNBLOCK … ERROR.
    Error,
    /// The client is gone: no answer.
    Gone,
}

/// One unit, as it is read back. Lives on the stack for one command: a box would cost an allocation for each.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Unit<'a> {
    /// One command.
    Command {
        /// The selected database.
        db: u8,
        /// What the client speaks, so that a waiting command is answered alike on every replica.
        protocol: Protocol,
        /// Name and arguments.
        words: Words<'a>,
    },
    /// MULTI … EXEC.
    Multi(Multi<'a>),
    /// Keys that the leader found expired.
    Expire(Input<'a>),
    /// The end of a wait.
    Unblock {
        /// Which wait.
        waiter: u64,
        /// How it ends.
        how: Unblock,
    },
    /// Other keyspace settings from here on.
    Keyspaces(Keyspaces),
    /// An answer that the door already knows, in its place among others.
    Literal(&'a [u8]),
    /// A change of the registry.
    Change(Change),
    /// Other [bounds](crate::bounds) from here on.
    Bounds(Box<Limits>),
    /// A change of the cluster.
    Cluster(cluster::Change),
    /// A change of the shard's slots.
    Slots(SlotChange),
    /// A step of a commit across shards.
    Commit(Step<'a>),
    /// WATCH asks for the versions of these keys ([`read_expire`] reads them): a read. Answered by eight bytes for each.
    Versions(Input<'a>),
    /// A command of etcd's.
    Etcd(coordination::Command<'a>),
    /// A command of the queue, and how long its form is: it ends where the unit does.
    Queue(queue::Command<'a>, usize),
    /// A change of the topics.
    Topics(queue::topics::Change),
    /// A change of the users.
    Users(users::Change),
    /// Work on a topic as a stream. Its form ends where the unit does.
    Stream {
        /// What the client speaks.
        protocol: Protocol,
        /// What.
        op: StreamOp<'a>,
    },
}

/// A MULTI's parts, read one by one.
#[derive(Clone, Debug)]
pub struct Multi<'a> {
    /// What the client speaks.
    pub protocol: Protocol,
    /// Keys that must not have changed.
    pub watches: Vec<Watch>,
    /// How many parts follow.
    pub count: usize,
    /// Whether some of them work on topics.
    pub has_streams: bool,
    parts: Input<'a>,
}

/// One part of a MULTI.
#[allow(clippy::large_enum_variant)]
#[derive(Debug)]
pub enum Part<'a> {
    /// A command and its database.
    Command(u8, Words<'a>),
    /// An answer that the door already knows (PING, CLIENT …).
    Literal(&'a [u8]),
    /// Work on a topic as a stream, and how many bytes of the parts follow its form.
    Stream(StreamOp<'a>, usize),
}

impl<'a> Multi<'a> {
    /// The next part. Ask `count` times.
    pub fn next_part(&mut self) -> Result<Part<'a>, Corrupt> {
        match self.parts.u8()? {
            0 => {
                let db = read_db(self.parts.u8()?)?;
                Ok(Part::Command(db, read_words(&mut self.parts)?))
            }
            1 => Ok(Part::Literal(self.parts.bytes()?)),
            2 => {
                let op = StreamOp::read(self.parts.bytes()?)?;
                Ok(Part::Stream(op, self.parts.len()))
            }
            _ => Err(Corrupt("unknown part of a MULTI")),
        }
    }
}

fn flags(protocol: Protocol) -> u8 {
    if protocol == Protocol::Resp3 { RESP3 } else { 0 }
}

fn protocol(flags: u8) -> Protocol {
    if flags & RESP3 != 0 { Protocol::Resp3 } else { Protocol::Resp2 }
}

pub(crate) fn put_words(out: &mut Vec<u8>, words: Args<'_>) {
    put_varint(out, words.len() as u64);
    for word in words {
        put_bytes(out, word);
    }
}

pub(crate) fn read_words<'a>(input: &mut Input<'a>) -> Result<Words<'a>, Corrupt> {
    let count = input.count()?;
    if count == 0 {
        return Err(Corrupt("a command without a name"));
    }
    let mut words = Words::with_capacity(count);
    for _ in 0..count {
        words.push(input.bytes()?);
    }
    Ok(words)
}

fn read_db(byte: u8) -> Result<u8, Corrupt> {
    let db = byte & !RESP3;
    if usize::from(db) < store::table::DATABASES { Ok(db) } else { Err(Corrupt("no such database")) }
}

/// Appends a command.
#[inline]
pub fn put_command(out: &mut Vec<u8>, db: u8, protocol: Protocol, words: Args<'_>) {
    out.push(COMMAND);
    out.push(db | flags(protocol));
    put_words(out, words);
}

/// A MULTI being collected between MULTI and EXEC.
#[derive(Clone, Debug, Default)]
pub struct MultiBuilder {
    parts: Vec<u8>,
    count: usize,
    has_streams: bool,
}

impl MultiBuilder {
    /// Adds a command.
    pub fn command(&mut self, db: u8, words: Args<'_>) {
        self.parts.push(0);
        self.parts.push(db);
        put_words(&mut self.parts, words);
        self.count += 1;
    }

    /// Adds an answer that is already known.
    pub fn literal(&mut self, reply: &[u8]) {
        self.parts.push(1);
        put_bytes(&mut self.parts, reply);
        self.count += 1;
    }

    /// Adds work on a topic, by its [form](StreamOp).
    pub fn stream(&mut self, form: &[u8]) {
        self.parts.push(2);
        put_bytes(&mut self.parts, form);
        self.count += 1;
        self.has_streams = true;
    }

    /// How many parts there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether EXEC would do nothing.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.parts.len()
    }

    /// Appends the whole unit.
    pub fn finish(&self, out: &mut Vec<u8>, protocol: Protocol, watches: &[Watch]) {
        out.push(MULTI);
        out.push(flags(protocol) | if self.has_streams { HAS_STREAMS } else { 0 });
        put_varint(out, watches.len() as u64);
        for watch in watches {
            out.push(watch.db);
            put_bytes(out, &watch.key);
            put_varint(out, watch.version);
        }
        put_varint(out, self.count as u64);
        put_bytes(out, &self.parts);
    }
}

/// Appends a change of the registry.
pub fn put_change(out: &mut Vec<u8>, change: &Change) {
    out.push(CHANGE);
    put_bytes(out, &change.encode());
}

/// Appends a change of the cluster.
pub fn put_cluster(out: &mut Vec<u8>, change: &cluster::Change) {
    out.push(CLUSTER);
    put_bytes(out, &change.encode());
}

/// Appends a change of the shard's slots.
pub fn put_slots(out: &mut Vec<u8>, change: &SlotChange) {
    out.push(SLOTS);
    put_bytes(out, &change.encode());
}

/// From so many bytes on a command's room is made for several.
const LARGE_BYTES: usize = 64 << 10;

/// Appends a command of the queue.
pub fn put_queue(out: &mut Vec<u8>, command: &queue::Command<'_>) {
    out.push(QUEUE);
    // Batches are large: they are copied once, behind a length that is known only then.
    let mut form = Vec::new();
    let batches = command.batches().len();
    command.encode_head(&mut form);
    let bytes = form.len() + batches;
    if bytes >= LARGE_BYTES && out.capacity() - out.len() < bytes + 16 {
        // More of its kind follow: growing by doubling would copy them all once more. What is not used is never touched.
        out.reserve(4 * bytes);
    }
    put_varint(out, bytes as u64);
    out.extend_from_slice(&form);
    out.extend_from_slice(command.batches());
}

/// Appends a command of etcd's.
pub fn put_etcd(out: &mut Vec<u8>, command: &coordination::Command<'_>) {
    out.push(ETCD);
    let mut form = Vec::with_capacity(command.request.len() + command.user.len() + 8);
    command.encode(&mut form);
    put_bytes(out, &form);
}

/// Appends a change of the topics.
pub fn put_topics(out: &mut Vec<u8>, change: &queue::topics::Change) {
    out.push(TOPICS);
    put_bytes(out, &change.encode());
}

/// Appends a change of the users.
pub fn put_users(out: &mut Vec<u8>, change: &users::Change) {
    out.push(USERS);
    put_bytes(out, &change.encode());
}

/// Appends work on a topic, by its [form](StreamOp).
pub fn put_stream(out: &mut Vec<u8>, protocol: Protocol, form: &[u8]) {
    out.push(STREAM);
    out.push(flags(protocol));
    put_bytes(out, form);
}

/// Appends keys that are to be removed if they are expired.
pub fn put_expire(out: &mut Vec<u8>, keys: &[(u8, Vec<u8>)]) {
    out.push(EXPIRE);
    let mut list = Vec::new();
    for (db, key) in keys {
        list.push(*db);
        put_bytes(&mut list, key);
    }
    put_bytes(out, &list);
}

/// Appends keys whose versions are wanted.
pub fn put_versions<'a>(out: &mut Vec<u8>, db: u8, keys: impl Iterator<Item = &'a [u8]>) {
    out.push(VERSIONS);
    let mut list = Vec::new();
    for key in keys {
        list.push(db);
        put_bytes(&mut list, key);
    }
    put_bytes(out, &list);
}

/// The next key of an expire or versions unit.
pub fn read_expire<'a>(keys: &mut Input<'a>) -> Result<Option<(u8, &'a [u8])>, Corrupt> {
    if keys.is_empty() {
        return Ok(None);
    }
    let db = read_db(keys.u8()?)?;
    Ok(Some((db, keys.bytes()?)))
}

/// Appends the end of a wait.
pub fn put_unblock(out: &mut Vec<u8>, waiter: u64, how: Unblock) {
    out.push(UNBLOCK);
    put_u64(out, waiter);
    out.push(match how {
        Unblock::Timeout => 0,
        Unblock::Error => 1,
        Unblock::Gone => 2,
    });
}

/// Appends keyspace settings.
pub fn put_keyspaces(out: &mut Vec<u8>, keyspaces: &Keyspaces) {
    out.push(KEYSPACES);
    keyspaces.encode(out);
}

/// Appends bounds.
pub fn put_bounds(out: &mut Vec<u8>, limits: &Limits) {
    out.push(BOUNDS);
    bounds::encode(limits, out);
}

/// Appends an answer that is already known.
pub fn put_literal(out: &mut Vec<u8>, reply: &[u8]) {
    out.push(LITERAL);
    put_bytes(out, reply);
}

/// Reads the next unit.
pub fn read_unit<'a>(input: &mut Input<'a>) -> Result<Unit<'a>, Corrupt> {
    match input.u8()? {
        COMMAND => {
            let byte = input.u8()?;
            Ok(Unit::Command { db: read_db(byte)?, protocol: protocol(byte), words: read_words(input)? })
        }
        MULTI => {
            let byte = input.u8()?;
            let mut watches = Vec::new();
            for _ in 0..input.count()? {
                let db = read_db(input.u8()?)?;
                watches.push(Watch { db, key: input.bytes()?.to_vec(), version: input.varint()? });
            }
            let count = input.varint()? as usize;
            let parts = Input::new(input.bytes()?);
            if count > parts.len() {
                return Err(Corrupt("a MULTI of more parts than bytes"));
            }
            let has_streams = byte & HAS_STREAMS != 0;
            Ok(Unit::Multi(Multi { protocol: protocol(byte), watches, count, has_streams, parts }))
        }
        EXPIRE => Ok(Unit::Expire(Input::new(input.bytes()?))),
        UNBLOCK => {
            let waiter = input.u64()?;
            let how = match input.u8()? {
                0 => Unblock::Timeout,
                1 => Unblock::Error,
                2 => Unblock::Gone,
                _ => return Err(Corrupt("unknown end of a wait")),
            };
            Ok(Unit::Unblock { waiter, how })
        }
        KEYSPACES => Ok(Unit::Keyspaces(Keyspaces::decode(input)?)),
        LITERAL => Ok(Unit::Literal(input.bytes()?)),
        CHANGE => Ok(Unit::Change(Change::decode(input.bytes()?)?)),
        BOUNDS => Ok(Unit::Bounds(Box::new(bounds::decode(input)?))),
        CLUSTER => Ok(Unit::Cluster(cluster::Change::decode(input.bytes()?)?)),
        SLOTS => Ok(Unit::Slots(SlotChange::decode(input.bytes()?)?)),
        kind @ PREPARE..=FORGET => Ok(Unit::Commit(Step::read(kind, input)?)),
        ETCD => Ok(Unit::Etcd(coordination::Command::decode(input.bytes()?)?)),
        VERSIONS => Ok(Unit::Versions(Input::new(input.bytes()?))),
        QUEUE => {
            let form = input.bytes()?;
            Ok(Unit::Queue(queue::Command::decode(form)?, form.len()))
        }
        STREAM => {
            let byte = input.u8()?;
            Ok(Unit::Stream { protocol: protocol(byte), op: StreamOp::read(input.bytes()?)? })
        }
        TOPICS => Ok(Unit::Topics(queue::topics::Change::decode(input.bytes()?)?)),
        USERS => Ok(Unit::Users(users::Change::decode(input.bytes()?)?)),
        _ => Err(Corrupt("unknown kind of unit")),
    }
}

/// Database and words of a command whose entry breaks off: those words that are whole. For people only.
pub fn read_cut<'a>(input: &mut Input<'a>) -> Option<(u8, Words<'a>)> {
    if input.u8().ok()? != COMMAND {
        return None;
    }
    let db = read_db(input.u8().ok()?).ok()?;
    let count = input.varint().ok()?;
    let mut words = Words::new();
    while (words.len() as u64) < count
        && let Ok(word) = input.bytes()
    {
        words.push(word);
    }
    (!words.is_empty()).then_some((db, words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_read_back_as_they_were_written() {
        let mut bytes = Vec::new();
        put_header(&mut bytes);
        stamp_header(&mut bytes, 17, 42);
        put_command(&mut bytes, 3, Protocol::Resp3, &[b"SET", b"k", b"v"]);
        let mut multi = MultiBuilder::default();
        multi.command(1, &[b"INCR", b"n"]);
        multi.literal(b"+PONG\r\n");
        let watch = Watch { db: 1, key: b"n".to_vec(), version: 9 };
        multi.finish(&mut bytes, Protocol::Resp2, std::slice::from_ref(&watch));
        put_expire(&mut bytes, &[(0, b"a".to_vec()), (2, b"b".to_vec())]);
        put_unblock(&mut bytes, 77, Unblock::Error);
        put_bounds(&mut bytes, &Limits { scripts_max: 3, ..Limits::DEFAULT });

        let mut input = Input::new(&bytes);
        assert_eq!(read_header(&mut input), Ok((17, 42)));
        let Ok(Unit::Command { db: 3, protocol: Protocol::Resp3, words }) = read_unit(&mut input) else {
            panic!("a command was written first");
        };
        assert_eq!(words.as_slice(), [b"SET".as_slice(), b"k", b"v"]);
        let Ok(Unit::Multi(mut multi)) = read_unit(&mut input) else { panic!("a MULTI was written second") };
        assert_eq!((multi.watches.as_slice(), multi.count), ([watch].as_slice(), 2));
        assert!(matches!(multi.next_part(), Ok(Part::Command(1, words)) if words.len() == 2));
        assert!(matches!(multi.next_part(), Ok(Part::Literal(b"+PONG\r\n"))));
        let Ok(Unit::Expire(mut keys)) = read_unit(&mut input) else { panic!("expired keys were written third") };
        assert_eq!(read_expire(&mut keys), Ok(Some((0, b"a".as_slice()))));
        assert_eq!(read_expire(&mut keys), Ok(Some((2, b"b".as_slice()))));
        assert_eq!(read_expire(&mut keys), Ok(None));
        assert!(matches!(read_unit(&mut input), Ok(Unit::Unblock { waiter: 77, how: Unblock::Error })));
        assert!(matches!(read_unit(&mut input), Ok(Unit::Bounds(limits)) if limits.scripts_max == 3));
        assert!(input.is_empty());
    }

    #[test]
    fn damaged_entries_are_errors_never_panics() {
        let mut bytes = Vec::new();
        put_header(&mut bytes);
        stamp_header(&mut bytes, 17, 42);
        put_command(&mut bytes, 3, Protocol::Resp3, &[b"SET", b"k", b"v"]);
        MultiBuilder::default().finish(&mut bytes, Protocol::Resp2, &[]);
        let mut rng = base::Rng::new(5);
        for _ in 0..20_000 {
            let mut damaged = bytes.clone();
            for _ in 0..=rng.below(3) {
                let at = rng.index(damaged.len());
                damaged[at] = rng.next_u64() as u8;
            }
            damaged.truncate(rng.index(damaged.len()) + 1);
            let mut input = Input::new(&damaged);
            if read_header(&mut input).is_ok() {
                while let Ok(unit) = read_unit(&mut input) {
                    if let Unit::Multi(mut multi) = unit {
                        while multi.next_part().is_ok() {}
                    }
                }
            }
        }
    }
}

//! Compaction by key: what of a topic's records stays when only the last one of each key has to.
//!
//! ```text
//!   start              cleaned to            end       stable
//!     ├──── clean ─────────┼──── dirty ───────┼── tail ───┤
//!                          └─► keys: hash ► last offset (bounded; where they are full the pass ends)
//!     └─► run by run: what is older than its key's last offset goes ─► Command::Clean ─► every replica alike
//! ```
//!
//! The leader reads, decides, and proposes what is left of a range as one entry; replicas put it in the place of what they have there,
//! in the log or in extent files. Offsets never change, batches keep their first and last one, and a range of which nothing is left
//! keeps a batch without records (as Kafka's cleaner has them), so that readers find their way and a replica's files say whose word is
//! the last. A producer's sequence numbers are replicated state and need no batch.
//!
//! A deletion (a record without a value) stays for `delete.retention.ms` after the pass that has let go of what it deletes: the batch
//! says until when, in the place of its first timestamp (Kafka's KIP-534). Records of aborted transactions go, and then their marker
//! together with its line in the list of aborted transactions; the marker of a commit tells readers nothing and goes at once.

use std::collections::BTreeMap;
use std::hash::Hasher;

use crate::batch::{self, Header};
use crate::command::Clean;
use crate::limits::{COMPACT_BYTES, COMPACT_KEYS_MAX};
use crate::partition::{Aborted, Partition, Pass, Piece};
use crate::records::Unreadable;
use crate::repack::{self, Record};

/// The last offset of each key, by a hash that nobody who does not know the seed can make collide.
#[derive(Debug)]
struct Keys {
    seed: u64,
    newest: BTreeMap<u128, u64>,
}

impl Keys {
    /// Whether there are as many as one pass may have.
    fn are_full(&self) -> bool {
        self.newest.len() >= COMPACT_KEYS_MAX
    }

    fn hash(&self, key: &[u8]) -> u128 {
        // SipHash with a secret before the text, twice: 128 bits.
        let half = |seed: u64| {
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u64(seed);
            hasher.write_u64(self.seed);
            hasher.write(key);
            u128::from(hasher.finish())
        };
        half(1) << 64 | half(2)
    }

    /// Learns the keys of stamped batches. What is aborted or cannot be opened has none.
    fn learn(&mut self, bytes: &[u8], aborted: &Gone) {
        for (head, batch) in batches(bytes) {
            if head.is_control() || aborted.has(&head) {
                continue;
            }
            let _ = each(&head, batch, |record, offset| {
                if let Some(key) = record.key {
                    let newest = self.newest.entry(self.hash(key)).or_insert(offset);
                    *newest = offset.max(*newest);
                }
            });
        }
    }

    fn newest(&self, key: &[u8]) -> Option<u64> {
        self.newest.get(&self.hash(key)).copied()
    }
}

fn batches(bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let head = Header::read(rest).ok()?;
        let (batch, behind) = rest.split_at(head.bytes);
        rest = behind;
        Some((head, batch))
    })
}

fn each(head: &Header, batch: &[u8], mut what: impl FnMut(&Record<'_>, u64)) -> Result<(), Unreadable> {
    let opened = repack::open(head, batch)?;
    let mut rest = &opened[..];
    for _ in 0..head.count {
        let record = repack::next(&mut rest)?;
        let offset = offset_of(head, &record).ok_or(Unreadable("a record's offset lies outside of its batch"))?;
        what(&record, offset);
    }
    if rest.is_empty() { Ok(()) } else { Err(Unreadable("there is more than the batch's records")) }
}

fn offset_of(head: &Header, record: &Record<'_>) -> Option<u64> {
    let fits = (0..=i64::from(head.last_delta)).contains(&record.offset_delta);
    u64::try_from(head.base.checked_add(record.offset_delta).filter(|_| fits)?).ok()
}

/// Aborted transactions, by producer.
#[derive(Debug, Default)]
struct Gone(BTreeMap<i64, Vec<(u64, u64)>>);

impl Gone {
    fn new(aborted: impl Iterator<Item = Aborted>) -> Gone {
        let mut gone = Gone::default();
        aborted.for_each(|own| gone.0.entry(own.producer).or_default().push((own.first, own.last)));
        gone
    }

    fn has(&self, head: &Header) -> bool {
        let base = head.base.unsigned_abs();
        let theirs = || self.0.get(&head.producer).into_iter().flatten();
        head.is_transactional() && theirs().any(|(first, last)| (*first..=*last).contains(&base))
    }
}

/// Which records of a produce may not go to a topic that is compacted, since they have no key: the first of them, `most` at most, by their
/// places in the produce.
///
/// # Errors
/// Why they cannot be looked at.
pub fn keyless(bytes: &[u8], most: usize) -> Result<Vec<usize>, Unreadable> {
    let (mut found, mut place) = (Vec::new(), 0);
    for (head, batch) in batches(bytes) {
        each(&head, batch, |record, _| {
            if record.key.is_none() && found.len() < most {
                found.push(place);
            }
            place += 1;
        })?;
    }
    Ok(found)
}

/// One pass over one partition, at the leader: what to read, and what to propose. It holds nothing that cannot be begun anew.
#[derive(Debug)]
pub struct Work {
    pass: Pass,
    keys: Keys,
    /// How far it has come.
    next: u64,
    /// Behind what is being read.
    to: u64,
    aborted: Gone,
    learning: bool,
    tombstones_ms: i64,
}

/// What a pass wants.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// To read these, stamped, for [`Work::take`].
    Read(Vec<Piece>),
    /// Nothing any more, but to propose this.
    Finish(Clean<'static>),
}

/// What is left of a range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    number: u64,
    from: u64,
    to: u64,
    /// Its batches, stamped; never none.
    bytes: Vec<u8>,
    /// Offsets of the markers of aborted transactions that have gone.
    markers: Vec<u64>,
}

impl Cleaned {
    /// What is to be proposed; where it is refused, the pass is over.
    pub fn command(&self) -> Clean<'_> {
        let Cleaned { number, from, to, bytes, markers } = self;
        Clean { number: *number, from: *from, to: *to, done: 0, markers: markers.clone(), batches: bytes }
    }
}

impl Work {
    /// Begins one. Deletions stay for `tombstones_ms`; the seed must be a number that nobody can guess.
    pub fn new(pass: Pass, tombstones_ms: i64, seed: u64) -> Work {
        let keys = Keys { seed, newest: BTreeMap::new() };
        let (next, aborted) = (pass.dirty, Gone::default());
        Work { pass, keys, next, to: next, aborted, learning: true, tombstones_ms }
    }

    /// What comes next.
    pub fn step(&mut self, own: &Partition) -> Step {
        loop {
            let full = self.learning && self.keys.are_full();
            let Some((pieces, to)) = own.to_clean(self.next, self.pass.end, COMPACT_BYTES).filter(|_| !full) else {
                if self.learning {
                    (self.learning, self.pass.end, self.next) = (false, self.next, self.pass.start);
                    continue;
                }
                let (number, from, done) = (self.pass.number, self.next, self.next);
                return Step::Finish(Clean { number, from, to: from, done, markers: Vec::new(), batches: &[] });
            };
            self.to = to;
            self.aborted = Gone::new(own.aborted(self.next, to));
            return Step::Read(pieces);
        }
    }

    /// Takes what was read, at this moment of the leader's clock. Returns what is left of it where that is less.
    pub fn take(&mut self, bytes: &[u8], now: i64) -> Option<Cleaned> {
        let from = std::mem::replace(&mut self.next, self.to);
        if self.learning {
            self.keys.learn(bytes, &self.aborted);
            return None;
        }
        let mut cleaned = self.clean(bytes, now);
        if cleaned.bytes == bytes {
            return None;
        }
        (cleaned.number, cleaned.from, cleaned.to) = (self.pass.number, from, self.to);
        self.pass.number += 1;
        Some(cleaned)
    }

    fn clean(&self, bytes: &[u8], now: i64) -> Cleaned {
        let mut cleaned = Cleaned::default();
        let mut epoch = 0;
        for (head, batch) in batches(bytes) {
            epoch = head.epoch;
            if head.is_control() {
                match batch::marker_commits(batch) {
                    None => cleaned.bytes.extend_from_slice(batch),
                    Some(true) => {}
                    Some(false) => cleaned.markers.push(head.base.unsigned_abs()),
                }
            } else if head.count > 0 && !self.aborted.has(&head) {
                self.clean_batch(&head, batch, now, &mut cleaned.bytes);
            }
        }
        if cleaned.bytes.is_empty() {
            cleaned.bytes = batch::empty(self.to - 1, epoch);
        }
        cleaned
    }

    fn clean_batch(&self, head: &Header, batch: &[u8], now: i64, out: &mut Vec<u8>) {
        let horizon = head.has_horizon().then_some(head.base_stamp);
        let is_over = horizon.is_some_and(|until| until < now);
        let (mut stays, mut tombstones) = (Vec::new(), false);
        let read = each(head, batch, |record, offset| {
            let is_newest = record.key.is_some_and(|key| self.keys.newest(key).is_none_or(|newest| newest <= offset));
            let keep = is_newest && !(record.is_tombstone && is_over);
            tombstones |= keep && record.is_tombstone;
            stays.push(keep);
        });
        let begins = tombstones && horizon.is_none();
        if read.is_err() || !begins && stays.iter().all(|keep| *keep) {
            // What cannot be opened stays as it is.
            return out.extend_from_slice(batch);
        }
        if !stays.contains(&true) {
            return;
        }
        let base_stamp = if begins { now.saturating_add(self.tombstones_ms) } else { head.base_stamp };
        let (mut records, mut count, mut max_stamp) = (Vec::new(), 0, i64::MIN);
        let mut stays = stays.into_iter();
        let written = each(head, batch, |record, _| {
            if stays.next() == Some(true) {
                let stamp = head.base_stamp.saturating_add(record.stamp_delta);
                record.write(stamp.saturating_sub(base_stamp), &mut records);
                max_stamp = max_stamp.max(stamp);
                count += 1;
            }
        });
        debug_assert!(written.is_ok(), "it was read a moment ago");
        // With the time of append it is the batch's, and not its records'.
        let max_stamp = if head.is_append_time() { head.max_stamp } else { max_stamp };
        let records = repack::close(head.compression(), records);
        batch::rebuild(batch, &records, (base_stamp, max_stamp), count, begins, out);
    }
}

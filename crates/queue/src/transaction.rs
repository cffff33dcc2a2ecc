//! What the coordinator of a transactional id knows: the rules of Kafka's `TransactionMetadata` and `TransactionCoordinator`.
//!
//! ```text
//!   Empty ── Enlist ─► Ongoing ── End, TimeOut, Begin ─► Ending(commit or abort) ── Marked, all of them ─► Ended
//!                         ▲                                                                                  │
//!                         └────────────────────────────── Enlist ────────────────────────────────────────────┘
//! ```
//!
//! Every transaction of an id has a number, one more than the one before. A decision is an entry: once `Ending` is applied the
//! markers follow, written by whoever leads; each may be written twice without harm, since it carries the number. The next
//! transaction begins only when all have been written.
//!
//! In the second version (KIP-890) the epoch grows at every end, so that what comes late is fenced by it as well.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::Millis;
use store::codec::{Corrupt, Input, put_varint};

use crate::code::Code;
use crate::command::{id, put_id};
use crate::limits::{ID_BYTES_MAX, NAME_BYTES_MAX, TARGETS_MAX};
use crate::topics::TopicId;
use crate::words::{int, int16, put_bool, put_int, put_text, text, truth, uint32};

/// The epoch at which a producer gets another id. The last one is kept for fencing.
pub(crate) const EPOCH_LAST: i16 = i16::MAX - 1;

/// Who takes part in a transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A partition.
    Partition {
        /// Of which topic.
        topic: TopicId,
        /// [`crate::Topic::place`].
        place: Arc<str>,
        /// Which.
        partition: u32,
    },
    /// A group's offsets.
    Group(Arc<str>),
}

impl Target {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Target::Partition { topic, place, partition } => {
                out.push(0);
                put_id(out, *topic);
                put_text(out, place);
                put_varint(out, u64::from(*partition));
            }
            Target::Group(group) => {
                out.push(1);
                put_text(out, group);
            }
        }
    }

    pub(crate) fn decode(input: &mut Input<'_>) -> Result<Target, Corrupt> {
        match input.u8()? {
            0 => Ok(Target::Partition { topic: id(input)?, place: text(input)?.into(), partition: uint32(input)? }),
            1 => Ok(Target::Group(text(input)?.into())),
            _ => Err(Corrupt("unknown kind of target")),
        }
    }

    /// The slot in whose shard it lives.
    pub fn slot(&self) -> u16 {
        match self {
            Target::Partition { place, partition, .. } => crate::topics::slot(place, *partition),
            Target::Group(group) => base::key_slot(group.as_bytes()),
        }
    }

    fn is_sound(&self) -> bool {
        match self {
            // A place is a name and a tag.
            Target::Partition { place, .. } => place.len() <= 2 * NAME_BYTES_MAX + crate::limits::SETTING_BYTES_MAX,
            Target::Group(group) => group.len() <= ID_BYTES_MAX,
        }
    }
}

/// Where a transactional id stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A producer has it; no transaction has begun.
    Empty,
    /// A transaction is under way.
    Ongoing,
    /// It has been decided (true: committed); markers are being written.
    Ending(bool),
    /// All markers are written.
    Ended(bool),
}

/// One transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// The producer's id.
    pub producer: i64,
    /// Its epoch; -1 before the first.
    pub epoch: i16,
    /// Until a transaction is given up, milliseconds.
    pub timeout_ms: u32,
    /// Where it stands.
    pub phase: Phase,
    /// The number of the transaction under way, or of the last one.
    pub number: u64,
    /// Who takes part; while it ends, who has no marker yet.
    pub targets: BTreeSet<Target>,
    /// When the transaction began, shard time.
    pub began: Millis,
    /// When anything last changed, shard time.
    pub stamp: Millis,
    /// The epoch that markers carry.
    pub marker_epoch: i16,
    /// The id that markers carry.
    pub marker_producer: i64,
    /// The id and epoch before the last change of them that its producer asked for: who asks again gets the same answer.
    last: Option<(i64, i16)>,
    /// Whether the last end was the second version's.
    second_version: bool,
    /// Whether the one that was under way is being fenced: its producer must begin anew.
    fenced: bool,
}

type Refusal = (Code, &'static str);

impl Transaction {
    /// An id that a producer takes for the first time.
    pub(crate) fn new(producer: i64, timeout_ms: u32, now: Millis) -> Transaction {
        Transaction {
            producer,
            epoch: -1,
            timeout_ms,
            phase: Phase::Empty,
            number: 0,
            targets: BTreeSet::new(),
            began: now,
            stamp: now,
            marker_epoch: -1,
            marker_producer: producer,
            last: None,
            second_version: false,
            fenced: false,
        }
    }

    /// InitProducerId. `fresh` gives a new producer id where this one's epochs are used up.
    pub(crate) fn begin(
        &mut self,
        timeout_ms: u32,
        expected: Option<(i64, i16)>,
        now: Millis,
        fresh: impl FnOnce() -> i64,
    ) -> Result<(i64, i16), Refusal> {
        const FENCED: Refusal = (Code::PRODUCER_FENCED, "a newer producer has this transactional id");
        if let Some((producer, epoch)) = expected {
            let was_mine = self.last.is_some_and(|(last, _)| last == producer) && epoch >= EPOCH_LAST;
            if self.epoch != -1 && producer != self.producer && !was_mine {
                return Err(FENCED);
            }
        }
        match self.phase {
            Phase::Ending(_) => return Err((Code::CONCURRENT_TRANSACTIONS, "the last transaction is being ended")),
            Phase::Ongoing => {
                // Whoever says what it had must have had the newest.
                if expected.is_some_and(|(producer, epoch)| producer == self.producer && epoch != self.epoch) {
                    return Err(FENCED);
                }
                self.fence(now);
                return Err((Code::CONCURRENT_TRANSACTIONS, "the last transaction is being aborted"));
            }
            Phase::Empty | Phase::Ended(_) => {}
        }
        self.timeout_ms = timeout_ms;
        self.stamp = now;
        let had = (self.producer, self.epoch);
        match expected {
            None => self.last = None,
            _ if self.epoch == -1 => self.last = None,
            Some((_, epoch)) if epoch == self.epoch && had.0 == self.producer && expected == Some(had) => {
                self.last = Some(had);
            }
            Some(expected) if self.last == Some(expected) => return Ok(had),
            Some(_) => return Err(FENCED),
        }
        if self.epoch >= EPOCH_LAST {
            (self.producer, self.epoch) = (fresh(), 0);
        } else {
            self.epoch += 1;
        }
        (self.phase, self.fenced) = (Phase::Empty, false);
        Ok((self.producer, self.epoch))
    }

    /// Aborts the transaction under way and lets nobody go on with its epoch.
    fn fence(&mut self, now: Millis) {
        debug_assert_eq!(self.phase, Phase::Ongoing, "only a transaction under way is fenced");
        self.epoch = self.epoch.saturating_add(1);
        (self.marker_producer, self.marker_epoch) = (self.producer, self.epoch);
        (self.last, self.second_version, self.fenced) = (None, false, true);
        self.ending(false, now);
    }

    fn ending(&mut self, commit: bool, now: Millis) {
        self.stamp = now;
        self.phase = if self.targets.is_empty() { Phase::Ended(commit) } else { Phase::Ending(commit) };
    }

    fn own(&self, producer: i64, epoch: i16) -> Result<(), Refusal> {
        if producer != self.producer {
            return Err((Code::INVALID_PRODUCER_ID_MAPPING, "the transactional id has another producer id"));
        }
        if epoch != self.epoch {
            return Err((Code::PRODUCER_FENCED, "a newer producer has this transactional id"));
        }
        Ok(())
    }

    /// Adds to the transaction; begins it with the first. Returns its number.
    pub(crate) fn enlist(
        &mut self,
        producer: i64,
        epoch: i16,
        targets: Vec<Target>,
        now: Millis,
    ) -> Result<u64, Refusal> {
        self.own(producer, epoch)?;
        if matches!(self.phase, Phase::Ending(_)) {
            return Err((Code::CONCURRENT_TRANSACTIONS, "the last transaction is being ended"));
        }
        if !targets.iter().all(Target::is_sound) {
            return Err((Code::INVALID_REQUEST, "a name is too long"));
        }
        let more = targets.iter().filter(|target| !self.targets.contains(target)).count();
        let before = if self.phase == Phase::Ongoing { self.targets.len() } else { 0 };
        if before + more > TARGETS_MAX {
            return Err((Code::POLICY_VIOLATION, "more partitions than a transaction may have"));
        }
        if self.phase != Phase::Ongoing {
            self.phase = Phase::Ongoing;
            self.number += 1;
            self.began = now;
            self.targets.clear();
        }
        self.targets.extend(targets);
        self.stamp = now;
        Ok(self.number)
    }

    /// Whether the target takes part in the transaction under way: its number. A read.
    ///
    /// # Errors
    /// Kafka's code for who asks.
    pub fn verify(&self, producer: i64, epoch: i16, target: &Target) -> Result<u64, (Code, &'static str)> {
        self.own(producer, epoch)?;
        match self.phase {
            Phase::Ending(_) => Err((Code::CONCURRENT_TRANSACTIONS, "the transaction is being ended")),
            Phase::Ongoing if self.targets.contains(target) => Ok(self.number),
            _ => Err((Code::TRANSACTION_ABORTABLE, "the partition takes no part in the transaction")),
        }
    }

    /// EndTxn. Returns the producer's id and epoch from then on.
    pub(crate) fn end(
        &mut self,
        producer: i64,
        epoch: i16,
        commit: bool,
        second_version: bool,
        now: Millis,
        fresh: impl FnOnce() -> i64,
    ) -> Result<(i64, i16), Refusal> {
        // In the second version an end changes the epoch: who asks again knows the one before.
        let again = second_version && self.second_version && self.last == Some((producer, epoch));
        if !again {
            self.own(producer, epoch)?;
        }
        const STATE: Refusal = (Code::INVALID_TXN_STATE, "the transaction is not in a state to be ended like this");
        match self.phase {
            Phase::Ending(decided) if decided == commit && !self.fenced => {
                return Err((Code::CONCURRENT_TRANSACTIONS, "the transaction is being ended"));
            }
            Phase::Ending(_) => return Err(STATE),
            Phase::Ended(decided) if again => {
                return if decided == commit { Ok((self.producer, self.epoch)) } else { Err(STATE) };
            }
            Phase::Ended(decided) if !second_version => {
                return if decided == commit { Ok((self.producer, self.epoch)) } else { Err(STATE) };
            }
            // An abort of nothing changes the epoch too: so what was on its way is fenced.
            Phase::Empty | Phase::Ended(_) if second_version && !commit => self.targets.clear(),
            Phase::Empty | Phase::Ended(_) => return Err(STATE),
            Phase::Ongoing => {}
        }
        (self.marker_producer, self.marker_epoch) = (self.producer, self.epoch);
        self.second_version = second_version;
        if second_version {
            self.last = Some((self.producer, self.epoch));
            if self.epoch >= EPOCH_LAST {
                self.marker_epoch = i16::MAX;
                (self.producer, self.epoch) = (fresh(), 0);
            } else {
                self.epoch += 1;
                self.marker_epoch = self.epoch;
            }
        }
        self.ending(commit, now);
        Ok((self.producer, self.epoch))
    }

    /// Gives up the transaction of this number, if it is still under way and its time is over.
    pub(crate) fn time_out(&mut self, number: u64, now: Millis) {
        if self.phase == Phase::Ongoing && self.number == number && self.is_overdue(now) {
            self.fence(now);
        }
    }

    /// Whether a transaction under way has taken too long.
    pub fn is_overdue(&self, now: Millis) -> bool {
        self.phase == Phase::Ongoing && self.began.saturating_add(u64::from(self.timeout_ms)) <= now
    }

    /// These have their markers of the transaction of this number.
    pub(crate) fn marked(&mut self, number: u64, targets: &[Target], now: Millis) {
        let Phase::Ending(commit) = self.phase else {
            return;
        };
        if self.number == number {
            targets.iter().for_each(|target| {
                self.targets.remove(target);
            });
            self.ending(commit, now);
        }
    }

    /// All but its targets.
    pub(crate) fn encode_head(&self, out: &mut Vec<u8>) {
        put_int(out, self.producer);
        put_int(out, i64::from(self.epoch));
        put_varint(out, u64::from(self.timeout_ms));
        out.push(match self.phase {
            Phase::Empty => 0,
            Phase::Ongoing => 1,
            Phase::Ending(commit) => 2 + u8::from(commit),
            Phase::Ended(commit) => 4 + u8::from(commit),
        });
        put_varint(out, self.number);
        put_varint(out, self.began);
        put_varint(out, self.stamp);
        put_int(out, i64::from(self.marker_epoch));
        put_int(out, self.marker_producer);
        crate::words::put_maybe(out, self.last, |out, (producer, epoch)| {
            put_int(out, producer);
            put_int(out, i64::from(epoch));
        });
        put_bool(out, self.second_version);
        put_bool(out, self.fenced);
    }

    pub(crate) fn decode_head(input: &mut Input<'_>) -> Result<Transaction, Corrupt> {
        Ok(Transaction {
            producer: int(input)?,
            epoch: int16(input)?,
            timeout_ms: uint32(input)?,
            phase: match input.u8()? {
                0 => Phase::Empty,
                1 => Phase::Ongoing,
                ending @ 2..=3 => Phase::Ending(ending == 3),
                ended @ 4..=5 => Phase::Ended(ended == 5),
                _ => return Err(Corrupt("unknown phase of a transaction")),
            },
            number: input.varint()?,
            targets: BTreeSet::new(),
            began: input.varint()?,
            stamp: input.varint()?,
            marker_epoch: int16(input)?,
            marker_producer: int(input)?,
            last: crate::words::maybe(input, |input| Ok((int(input)?, int16(input)?)))?,
            second_version: truth(input)?,
            fenced: truth(input)?,
        })
    }
}

//! What a partition remembers of a producer: its epoch, its last five batches, the transaction it is in.
//!
//! The rules are those of Kafka's `ProducerAppendInfo` and `ProducerStateManager`. A batch that comes again within the window
//! gets the offset that it has; one whose sequence number does not follow is refused for good, since something before it is
//! missing; an older epoch is fenced. Because all this is replicated state, neither a new leader nor deleted segments forget it.
//!
//! One rule is stricter than Kafka's: a transactional write names the transaction it belongs to by its number, which grows
//! with every transaction of that producer. So a write that comes late cannot land in the next transaction, whatever its
//! epoch, nor begin one that has ended already (KIP-890's verification, as part of apply).

use base::Millis;
use store::codec::{Corrupt, Input, put_varint};

use crate::batch::{Run, add_sequence};
use crate::code::Code;
use crate::command::Entered;
use crate::limits::WINDOW;
use crate::words::{int, int16, int32, maybe, put_int, put_maybe};

/// A run of batches that a producer has stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Sequence number of the first record.
    pub first: i32,
    /// And of the last.
    pub last: i32,
    /// Offset of the first record.
    pub base: u64,
    /// Time of append where readers see it; else -1.
    pub stamp: i64,
}

/// The transaction that a producer has written into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ongoing {
    /// Which.
    pub number: u64,
    /// Its first offset here.
    pub first: u64,
}

/// What a partition remembers of one producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// The newest epoch.
    pub epoch: i16,
    /// When it last did something, shard time.
    pub stamp: Millis,
    /// The transaction under way.
    pub ongoing: Option<Ongoing>,
    /// Number of the last transaction whose end has been marked here; 0 for none.
    pub marked: u64,
    window: [Stored; WINDOW],
    kept: u8,
}

/// What is to become of a run of batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Store it.
    New,
    /// It has been stored.
    Again(Stored),
    /// Kafka's code, and why.
    Refused(Code, &'static str),
}

impl Producer {
    /// One that has done nothing yet.
    pub fn new(epoch: i16, stamp: Millis) -> Producer {
        Producer { epoch, stamp, ongoing: None, marked: 0, window: [Stored::default(); WINDOW], kept: 0 }
    }

    /// Its last runs, oldest first.
    pub fn window(&self) -> &[Stored] {
        &self.window[..usize::from(self.kept)]
    }

    /// Remembers a run that is stored at `base`.
    pub fn keep(&mut self, run: &Run, base: u64, append_stamp: i64, now: Millis) {
        self.take_epoch(run.producer_epoch);
        if usize::from(self.kept) == WINDOW {
            self.window.copy_within(1.., 0);
            self.kept -= 1;
        }
        let last = add_sequence(run.sequence, run.count as i32 - 1);
        self.window[usize::from(self.kept)] = Stored { first: run.sequence, last, base, stamp: append_stamp };
        self.kept += 1;
        self.stamp = now;
    }

    #[cfg(any(test, feature = "planted"))]
    pub(crate) fn forget_all_but_last(&mut self) {
        if let Some(last) = self.window().last().copied() {
            self.forget();
            (self.window[0], self.kept) = (last, 1);
        }
    }

    #[cfg(any(test, feature = "planted"))]
    pub(crate) fn forget(&mut self) {
        (self.window, self.kept) = ([Stored::default(); WINDOW], 0);
    }

    /// Takes another epoch: sequence numbers begin anew.
    pub fn take_epoch(&mut self, epoch: i16) {
        if epoch != self.epoch {
            self.epoch = epoch;
            self.kept = 0;
            self.window = [Stored::default(); WINDOW];
        }
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_int(out, i64::from(self.epoch));
        put_varint(out, self.stamp);
        put_maybe(out, self.ongoing, |out, ongoing| {
            put_varint(out, ongoing.number);
            put_varint(out, ongoing.first);
        });
        put_varint(out, self.marked);
        out.push(self.kept);
        for stored in self.window() {
            put_int(out, i64::from(stored.first));
            put_int(out, i64::from(stored.last));
            put_varint(out, stored.base);
            put_int(out, stored.stamp);
        }
    }

    pub(crate) fn decode(input: &mut Input<'_>) -> Result<Producer, Corrupt> {
        let mut own = Producer::new(int16(input)?, input.varint()?);
        own.ongoing = maybe(input, |input| Ok(Ongoing { number: input.varint()?, first: input.varint()? }))?;
        own.marked = input.varint()?;
        own.kept = input.u8()?;
        if usize::from(own.kept) > WINDOW {
            return Err(Corrupt("a producer's window is too long"));
        }
        for at in 0..usize::from(own.kept) {
            own.window[at] =
                Stored { first: int32(input)?, last: int32(input)?, base: input.varint()?, stamp: int(input)? };
        }
        Ok(own)
    }
}

/// Judges a run of a producer of whom the partition remembers `known`.
pub fn judge(known: Option<&Producer>, run: &Run, entered: Option<Entered>) -> Verdict {
    let last = add_sequence(run.sequence, run.count as i32 - 1);
    if let Some(known) = known {
        let same = |stored: &&Stored| stored.first == run.sequence && stored.last == last;
        if known.epoch == run.producer_epoch
            && let Some(stored) = known.window().iter().find(same)
        {
            return Verdict::Again(*stored);
        }
        if run.producer_epoch < known.epoch {
            return Verdict::Refused(Code::INVALID_PRODUCER_EPOCH, "the producer has a newer epoch");
        }
    }
    if let Some((code, why)) = outside(known, run, entered) {
        return Verdict::Refused(code, why);
    }
    let out_of_order = |why| Verdict::Refused(Code::OUT_OF_ORDER_SEQUENCE_NUMBER, why);
    match known {
        // Whoever was silent for so long that it has been forgotten may go on with any number, except where each
        // transaction begins with 0.
        None if run.sequence != 0 && entered.is_some_and(|entered| entered.second_version) => {
            out_of_order("nothing is known of this producer, and it does not begin with sequence number 0")
        }
        None => Verdict::New,
        Some(known) if run.producer_epoch != known.epoch && run.sequence != 0 => {
            out_of_order("a new epoch begins with sequence number 0")
        }
        Some(known) if run.producer_epoch != known.epoch => {
            debug_assert!(run.producer_epoch > known.epoch, "older epochs were refused");
            Verdict::New
        }
        Some(known) => {
            let expected = known.window().last().map_or(0, |stored| add_sequence(stored.last, 1));
            if run.sequence == expected {
                Verdict::New
            } else {
                out_of_order("the sequence number does not follow the last one: something is missing before it")
            }
        }
    }
}

/// Why a run does not belong to the transaction that it should.
fn outside(known: Option<&Producer>, run: &Run, entered: Option<Entered>) -> Option<(Code, &'static str)> {
    let refused = |why| Some((Code::INVALID_TXN_STATE, why));
    let ongoing = known.and_then(|known| known.ongoing);
    if !run.transactional {
        return ongoing.and_then(|_| refused("the producer is in a transaction, and this batch is not"));
    }
    let Some(entered) = entered.filter(|entered| entered.number > 0) else {
        return refused("the coordinator has not been asked whether the partition takes part in a transaction");
    };
    match ongoing {
        Some(ongoing) if ongoing.number == entered.number => None,
        Some(_) => refused("the batch belongs to another transaction than the one under way"),
        None if known.is_some_and(|known| entered.number <= known.marked) => {
            refused("the transaction of this batch has ended")
        }
        None => None,
    }
}

//! The units of a commit across shards, their answers, and the stored forms of both.
//!
//! ```text
//!   12 prepare  tx age deadline keys watches:(db key version)*
//!   13 decide   tx age deadline (group keys values)* unit
//!   14 finish   tx commits:u8 writes
//!   15 resolve  tx deadline from:group
//!   16 forget   tx group*
//! ```
//!
//! Values and writes are records of `slots::put_record`.

use base::{GroupId, Millis};
use store::codec::{Corrupt, Input, put_bytes, put_varint};

use super::{Age, TxId, read_group};
use crate::entry::Watch;

/// Kinds of units, from the first to the last.
pub(crate) const PREPARE: u8 = 12;
pub(crate) const FORGET: u8 = 16;

/// One participant's part of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreign<'a> {
    /// The participant.
    pub group: GroupId,
    /// Keys of its that the unit names, absent ones too.
    pub keys: Vec<&'a [u8]>,
    /// What they hold.
    pub values: &'a [u8],
}

/// A unit of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// To a participant: lock these, and say what the keys hold.
    Prepare {
        /// Whose.
        tx: TxId,
        /// See [`Age`].
        age: Age,
        /// When it must have been decided, by the home's time.
        deadline: Millis,
        /// Keys that the unit names.
        keys: Vec<&'a [u8]>,
        /// Keys that must not have changed.
        watches: Vec<Watch>,
    },
    /// To the home: run the unit.
    Decide {
        /// Which.
        tx: TxId,
        /// See [`Age`].
        age: Age,
        /// As it was told to the participants.
        deadline: Millis,
        /// What is not the home's.
        foreign: Vec<Foreign<'a>>,
        /// A command or a MULTI as in an entry; its watches are the home's. It ends where this unit ends.
        unit: &'a [u8],
    },
    /// To a participant: it is over.
    Finish {
        /// Which.
        tx: TxId,
        /// What it writes; `None` where it was not done.
        writes: Option<&'a [u8]>,
    },
    /// To the home, by a participant: what has become of it? Nothing, from now on, if nothing has.
    Resolve {
        /// Which.
        tx: TxId,
        /// As it was told to the participant.
        deadline: Millis,
        /// Who asks.
        from: GroupId,
    },
    /// To the home: these have finished.
    Forget {
        /// Which.
        tx: TxId,
        /// Participants.
        groups: Vec<GroupId>,
    },
}

fn put_list<T: AsRef<[u8]>>(out: &mut Vec<u8>, list: &[T]) {
    put_varint(out, list.len() as u64);
    list.iter().for_each(|one| put_bytes(out, one.as_ref()));
}

fn read_list<'a>(input: &mut Input<'a>) -> Result<Vec<&'a [u8]>, Corrupt> {
    (0..input.count()?).map(|_| input.bytes()).collect()
}

impl<'a> Step<'a> {
    /// Which transaction's.
    pub fn tx(&self) -> TxId {
        match self {
            Step::Prepare { tx, .. }
            | Step::Decide { tx, .. }
            | Step::Finish { tx, .. }
            | Step::Resolve { tx, .. }
            | Step::Forget { tx, .. } => *tx,
        }
    }

    /// What it is, for people.
    pub fn word(&self) -> &'static str {
        match self {
            Step::Prepare { .. } => "prepare",
            Step::Decide { .. } => "decide",
            Step::Finish { .. } => "finish",
            Step::Resolve { .. } => "resolve",
            Step::Forget { .. } => "forget",
        }
    }

    /// Whether it takes no room, or makes some: taken on a full disk.
    pub fn frees(&self) -> bool {
        !matches!(self, Step::Prepare { .. } | Step::Decide { .. })
    }

    /// Appends the unit.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Step::Prepare { tx, age, deadline, keys, watches } => {
                out.push(PREPARE);
                tx.put(out);
                age.put(out);
                put_varint(out, *deadline);
                put_list(out, keys);
                put_varint(out, watches.len() as u64);
                for watch in watches {
                    out.push(watch.db);
                    put_bytes(out, &watch.key);
                    put_varint(out, watch.version);
                }
            }
            Step::Decide { tx, age, deadline, foreign, unit } => {
                out.push(PREPARE + 1);
                tx.put(out);
                age.put(out);
                put_varint(out, *deadline);
                put_varint(out, foreign.len() as u64);
                for Foreign { group, keys, values } in foreign {
                    put_varint(out, u64::from(group.0));
                    put_list(out, keys);
                    put_bytes(out, values);
                }
                put_bytes(out, unit);
            }
            Step::Finish { tx, writes } => {
                out.push(PREPARE + 2);
                tx.put(out);
                out.push(u8::from(writes.is_some()));
                put_bytes(out, writes.unwrap_or_default());
            }
            Step::Resolve { tx, deadline, from } => {
                out.push(PREPARE + 3);
                tx.put(out);
                put_varint(out, *deadline);
                put_varint(out, u64::from(from.0));
            }
            Step::Forget { tx, groups } => {
                out.push(FORGET);
                tx.put(out);
                put_varint(out, groups.len() as u64);
                groups.iter().for_each(|group| put_varint(out, u64::from(group.0)));
            }
        }
    }

    /// The unit's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put(&mut out);
        out
    }

    /// Reads what stands behind the unit's kind.
    pub(crate) fn read(kind: u8, input: &mut Input<'a>) -> Result<Step<'a>, Corrupt> {
        let tx = TxId::read(input)?;
        Ok(match kind {
            PREPARE => {
                let (age, deadline, keys) = (Age::read(input)?, input.varint()?, read_list(input)?);
                let mut watches = Vec::new();
                for _ in 0..input.count()? {
                    let db = input.u8()?;
                    if usize::from(db) >= store::table::DATABASES {
                        return Err(Corrupt("no such database"));
                    }
                    watches.push(Watch { db, key: input.bytes()?.to_vec(), version: input.varint()? });
                }
                Step::Prepare { tx, age, deadline, keys, watches }
            }
            13 => {
                let (age, deadline) = (Age::read(input)?, input.varint()?);
                let mut foreign = Vec::new();
                for _ in 0..input.count()? {
                    let (group, keys, values) = (read_group(input)?, read_list(input)?, input.bytes()?);
                    foreign.push(Foreign { group, keys, values });
                }
                Step::Decide { tx, age, deadline, foreign, unit: input.bytes()? }
            }
            14 => {
                let commits = input.u8()? != 0;
                let writes = input.bytes()?;
                Step::Finish { tx, writes: commits.then_some(writes) }
            }
            15 => Step::Resolve { tx, deadline: input.varint()?, from: read_group(input)? },
            FORGET => {
                let groups = (0..input.count()?).map(|_| read_group(input)).collect::<Result<_, _>>()?;
                Step::Forget { tx, groups }
            }
            _ => return Err(Corrupt("unknown unit of a commit")),
        })
    }
}

/// What a shard answers. None begins like an error of RESP does: whoever asks tells them apart by the first byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Prepared; what the keys hold, and the participant's time.
    Prepared {
        /// Its shard time.
        stamp: Millis,
        /// Records.
        values: Vec<u8>,
    },
    /// Begin again: an older transaction has a lock.
    Die,
    /// A watched key has changed: nothing is done.
    Changed,
    /// The home's time is behind the deadline: begin again by its time.
    Late {
        /// What that is.
        stamp: Millis,
    },
    /// It was not, and will not be done.
    Aborted,
    /// Done.
    Committed {
        /// What the client is answered; nothing to whoever resolves.
        reply: Vec<u8>,
        /// What the participants have to write. To whoever resolves, its own.
        writes: Vec<(GroupId, Vec<u8>)>,
    },
    /// Finished, or forgotten; or it was so already.
    Done,
}

impl Answer {
    /// Appends the stored form.
    pub fn put(&self, out: &mut Vec<u8>) {
        match self {
            Answer::Prepared { stamp, values } => {
                out.push(b'P');
                put_varint(out, *stamp);
                put_bytes(out, values);
            }
            Answer::Die => out.push(b'D'),
            Answer::Changed => out.push(b'W'),
            Answer::Late { stamp } => {
                out.push(b'L');
                put_varint(out, *stamp);
            }
            Answer::Aborted => out.push(b'A'),
            Answer::Committed { reply, writes } => {
                out.push(b'C');
                put_bytes(out, reply);
                put_varint(out, writes.len() as u64);
                for (group, records) in writes {
                    put_varint(out, u64::from(group.0));
                    put_bytes(out, records);
                }
            }
            Answer::Done => out.push(b'F'),
        }
    }

    /// Reads it.
    ///
    /// # Errors
    /// What is wrong with it; also where it is an error of RESP.
    pub fn read(bytes: &[u8]) -> Result<Answer, Corrupt> {
        let mut input = Input::new(bytes);
        let answer = Answer::take(&mut input)?;
        if input.is_empty() { Ok(answer) } else { Err(Corrupt("an answer of a commit is too long")) }
    }

    /// Reads the first of several.
    ///
    /// # Errors
    /// See [`Answer::read`].
    pub fn take(input: &mut Input<'_>) -> Result<Answer, Corrupt> {
        Ok(match input.u8()? {
            b'P' => Answer::Prepared { stamp: input.varint()?, values: input.bytes()?.to_vec() },
            b'D' => Answer::Die,
            b'W' => Answer::Changed,
            b'L' => Answer::Late { stamp: input.varint()? },
            b'A' => Answer::Aborted,
            b'C' => {
                let reply = input.bytes()?.to_vec();
                let mut writes = Vec::new();
                for _ in 0..input.count()? {
                    writes.push((read_group(input)?, input.bytes()?.to_vec()));
                }
                Answer::Committed { reply, writes }
            }
            b'F' => Answer::Done,
            _ => return Err(Corrupt("unknown answer of a commit")),
        })
    }
}

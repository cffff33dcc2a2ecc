//! What changes a shard's queue: the body of a unit of an entry. Read as it lies there: batches are not copied.

use store::codec::{Corrupt, Input, put_varint};

use crate::group::{Generation, OffsetOf};
use crate::marks::{self, Mark};
use crate::topics::TopicId;
use crate::transaction::Target;
use crate::words::{
    end, int, int16, int32, list, maybe, put_bool, put_int, put_maybe, put_text, text, truth, uint32, version,
};

pub(crate) use crate::topics::form::{id, put_id};

const VERSION: u8 = 1;
/// The number of a produce with marks.
const MARKED: u8 = 24;

/// A transaction as the one who proposes a write to it knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// Its number, from the partition itself ([`Partition::ongoing`](crate::partition::Partition::ongoing)) or else from the
    /// coordinator. It ties the write to that one transaction, however late it comes.
    pub number: u64,
    /// Whether the client speaks the second version of transactions (KIP-890), whose epoch is another in each.
    pub second_version: bool,
}

/// Who commits offsets, as far as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committer<'a> {
    /// The generation; negative outside of group management.
    pub generation: i32,
    /// The member; may be empty.
    pub member: &'a str,
    /// A static member's name.
    pub instance: Option<&'a str>,
}

/// A producer and the transaction in which it does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Within {
    /// The producer's id.
    pub producer: i64,
    /// Its epoch.
    pub epoch: i16,
    /// The transaction's number, from the coordinator.
    pub number: u64,
}

/// What compaction has left of a range of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clean<'a> {
    /// How often compaction had changed the partition when this was made up ([`Pass::number`](crate::partition::Pass)).
    pub number: u64,
    /// The range's first offset, which begins a run.
    pub from: u64,
    /// Behind its last offset, which ends one. An empty range changes nothing but `done`.
    pub to: u64,
    /// Up to where the partition is clean from now on; 0 in the middle of a pass.
    pub done: u64,
    /// Offsets of the markers of aborted transactions that have gone with their records, growing.
    pub markers: Vec<u64>,
    /// What is left, stamped. The last bytes of the command.
    pub batches: &'a [u8],
}

/// What an entry does to the queue of its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Batches for one partition. Checked before ([`crate::batch::check`]).
    Produce {
        /// Which topic.
        topic: TopicId,
        /// [`crate::Topic::place`]: with the partition's number it gives the slot.
        place: &'a str,
        /// Which partition.
        partition: u32,
        /// Whether readers see the time of append.
        append_time: bool,
        /// For transactional batches.
        transaction: Option<Entered>,
        /// Which of their records group readers are given out of turn; of topics whose settings ask for it.
        marks: Vec<Mark>,
        /// As they came. The last bytes of the command.
        batches: &'a [u8],
    },
    /// A partition begins later from now on (DeleteRecords, retention).
    Trim {
        /// Which topic.
        topic: TopicId,
        /// Which partition.
        partition: u32,
        /// The first offset that stays; no further than the end.
        to: u64,
    },
    /// A topic has gone.
    Drop {
        /// Which.
        topic: TopicId,
    },
    /// A new id for a producer without transactions.
    InitProducer,
    /// Offsets of a group.
    Commit {
        /// Which group.
        group: &'a str,
        /// Who commits.
        by: Committer<'a>,
        /// Which.
        offsets: Vec<OffsetOf<'a>>,
    },
    /// Offsets of a group that count once the transaction has committed.
    TransactionCommit {
        /// Which group.
        group: &'a str,
        /// Who commits.
        by: Committer<'a>,
        /// In which transaction.
        within: Within,
        /// Which.
        offsets: Vec<OffsetOf<'a>>,
    },
    /// Some offsets of a group go.
    DeleteOffsets {
        /// Which group.
        group: &'a str,
        /// Topic and partition.
        partitions: Vec<(&'a str, u32)>,
    },
    /// A group goes that has no members.
    DeleteGroup {
        /// Which.
        group: &'a str,
    },
    /// A rebalance is complete, or the last member has left.
    SaveGroup {
        /// Which group.
        group: &'a str,
        /// Who is in it, and who has what.
        generation: Generation,
    },
    /// A producer takes a transactional id (InitProducerId).
    Begin {
        /// Which id.
        id: &'a str,
        /// Until a transaction is given up, milliseconds.
        timeout_ms: u32,
        /// What the producer had before, where it goes on after an error.
        expected: Option<(i64, i16)>,
    },
    /// Partitions or groups take part in the transaction; it begins with the first (AddPartitionsToTxn, AddOffsetsToTxn).
    Enlist {
        /// Which transactional id.
        id: &'a str,
        /// The producer.
        producer: i64,
        /// Its epoch.
        epoch: i16,
        /// Who takes part.
        targets: Vec<Target>,
    },
    /// Whether a target takes part in the transaction that is under way: a question of another node's. It changes nothing.
    Verify {
        /// Which transactional id.
        id: &'a str,
        /// The producer.
        producer: i64,
        /// Its epoch.
        epoch: i16,
        /// Who.
        target: Target,
    },
    /// The transaction ends (EndTxn).
    End {
        /// Which transactional id.
        id: &'a str,
        /// The producer.
        producer: i64,
        /// Its epoch.
        epoch: i16,
        /// Or else it is aborted.
        commit: bool,
        /// Whether the client speaks the second version of transactions.
        second_version: bool,
    },
    /// A transaction that takes too long is aborted, and its producer fenced.
    TimeOut {
        /// Which transactional id.
        id: &'a str,
        /// Only this transaction.
        number: u64,
    },
    /// These have their markers.
    Marked {
        /// Which transactional id.
        id: &'a str,
        /// Only this transaction.
        number: u64,
        /// Who.
        targets: Vec<Target>,
    },
    /// A transaction's end in one partition. Doing it again does nothing.
    Mark {
        /// Which topic.
        topic: TopicId,
        /// [`crate::Topic::place`].
        place: &'a str,
        /// Which partition.
        partition: u32,
        /// The transaction's number.
        number: u64,
        /// Or else it was aborted.
        commit: bool,
        /// The marker, ready to be stored ([`crate::batch::marker`]). The last bytes of the command.
        batch: &'a [u8],
    },
    /// A transaction's end in one group. Doing it again does nothing.
    MarkGroup {
        /// Which group.
        group: &'a str,
        /// The producer and the transaction.
        within: Within,
        /// Or else it was aborted.
        commit: bool,
    },
    /// What has been silent for too long goes: producers, offsets, transactional ids. By the entry's stamp.
    Sweep,
    /// Compaction has let go of records whose keys have newer ones.
    Clean {
        /// Which topic.
        topic: TopicId,
        /// Which partition.
        partition: u32,
        /// What is left.
        clean: Clean<'a>,
    },
}

fn put_committer(out: &mut Vec<u8>, by: &Committer<'_>) {
    put_int(out, i64::from(by.generation));
    put_text(out, by.member);
    put_maybe(out, by.instance, put_text);
}

fn committer<'a>(input: &mut Input<'a>) -> Result<Committer<'a>, Corrupt> {
    Ok(Committer { generation: int32(input)?, member: text(input)?, instance: maybe(input, text)? })
}

fn put_within(out: &mut Vec<u8>, within: Within) {
    put_int(out, within.producer);
    put_int(out, i64::from(within.epoch));
    put_varint(out, within.number);
}

fn within(input: &mut Input<'_>) -> Result<Within, Corrupt> {
    Ok(Within { producer: int(input)?, epoch: int16(input)?, number: input.varint()? })
}

fn put_offsets(out: &mut Vec<u8>, offsets: &[OffsetOf<'_>]) {
    put_varint(out, offsets.len() as u64);
    offsets.iter().for_each(|offset| offset.encode(out));
}

fn put_targets(out: &mut Vec<u8>, targets: &[Target]) {
    put_varint(out, targets.len() as u64);
    targets.iter().for_each(|target| target.encode(out));
}

impl<'a> Command<'a> {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_into(&mut out);
        out
    }

    /// Appends the stored form.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        self.encode_head(out);
        out.extend_from_slice(self.batches());
    }

    /// The batches or the marker in it, with which its form ends.
    pub fn batches(&self) -> &'a [u8] {
        match self {
            Command::Produce { batches, .. } => batches,
            Command::Mark { batch, .. } => batch,
            Command::Clean { clean, .. } => clean.batches,
            _ => &[],
        }
    }

    /// Appends the stored form but for its [batches](Command::batches).
    pub fn encode_head(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        match self {
            Command::Produce { topic, place, partition, append_time, transaction, marks, .. } => {
                out.push(if marks.is_empty() { 1 } else { MARKED });
                put_id(out, *topic);
                put_text(out, place);
                put_varint(out, u64::from(*partition));
                put_bool(out, *append_time);
                put_maybe(out, *transaction, |out, entered| {
                    put_varint(out, entered.number);
                    put_bool(out, entered.second_version);
                });
                if !marks.is_empty() {
                    marks::put(out, marks);
                }
            }
            Command::Trim { topic, partition, to } => {
                out.push(2);
                put_id(out, *topic);
                put_varint(out, u64::from(*partition));
                put_varint(out, *to);
            }
            Command::Drop { topic } => {
                out.push(3);
                put_id(out, *topic);
            }
            Command::InitProducer => out.push(4),
            Command::Commit { group, by, offsets } => {
                out.push(5);
                put_text(out, group);
                put_committer(out, by);
                put_offsets(out, offsets);
            }
            Command::TransactionCommit { group, by, within, offsets } => {
                out.push(6);
                put_text(out, group);
                put_committer(out, by);
                put_within(out, *within);
                put_offsets(out, offsets);
            }
            Command::DeleteOffsets { group, partitions } => {
                out.push(7);
                put_text(out, group);
                put_varint(out, partitions.len() as u64);
                for (topic, partition) in partitions {
                    put_text(out, topic);
                    put_varint(out, u64::from(*partition));
                }
            }
            Command::DeleteGroup { group } => {
                out.push(8);
                put_text(out, group);
            }
            Command::SaveGroup { group, generation } => {
                out.push(9);
                put_text(out, group);
                generation.encode(out);
            }
            Command::Begin { id, timeout_ms, expected } => {
                out.push(10);
                put_text(out, id);
                put_varint(out, u64::from(*timeout_ms));
                put_maybe(out, *expected, |out, (producer, epoch)| {
                    put_int(out, producer);
                    put_int(out, i64::from(epoch));
                });
            }
            Command::Enlist { id, producer, epoch, targets } => {
                out.push(11);
                put_text(out, id);
                put_int(out, *producer);
                put_int(out, i64::from(*epoch));
                put_targets(out, targets);
            }
            Command::Verify { id, producer, epoch, target } => {
                out.push(18);
                put_text(out, id);
                put_int(out, *producer);
                put_int(out, i64::from(*epoch));
                target.encode(out);
            }
            Command::End { id, producer, epoch, commit, second_version } => {
                out.push(12);
                put_text(out, id);
                put_int(out, *producer);
                put_int(out, i64::from(*epoch));
                put_bool(out, *commit);
                put_bool(out, *second_version);
            }
            Command::TimeOut { id, number } => {
                out.push(13);
                put_text(out, id);
                put_varint(out, *number);
            }
            Command::Marked { id, number, targets } => {
                out.push(14);
                put_text(out, id);
                put_varint(out, *number);
                put_targets(out, targets);
            }
            Command::Mark { topic, place, partition, number, commit, .. } => {
                out.push(15);
                put_id(out, *topic);
                put_text(out, place);
                put_varint(out, u64::from(*partition));
                put_varint(out, *number);
                put_bool(out, *commit);
            }
            Command::MarkGroup { group, within, commit } => {
                out.push(16);
                put_text(out, group);
                put_within(out, *within);
                put_bool(out, *commit);
            }
            Command::Sweep => out.push(17),
            Command::Clean { topic, partition, clean } => {
                out.push(19);
                put_id(out, *topic);
                put_varint(out, u64::from(*partition));
                [clean.number, clean.from, clean.to, clean.done].into_iter().for_each(|word| put_varint(out, word));
                put_varint(out, clean.markers.len() as u64);
                clean.markers.iter().for_each(|marker| put_varint(out, *marker));
            }
        }
    }

    /// Reads what [`Command::encode`] wrote.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &'a [u8]) -> Result<Command<'a>, Corrupt> {
        let mut input = Input::new(bytes);
        let input = &mut input;
        version(input, VERSION)?;
        let command = match input.u8()? {
            kind @ (1 | MARKED) => Command::Produce {
                topic: id(input)?,
                place: text(input)?,
                partition: uint32(input)?,
                append_time: truth(input)?,
                transaction: maybe(input, |input| {
                    Ok(Entered { number: input.varint()?, second_version: truth(input)? })
                })?,
                marks: if kind == MARKED { list(input, marks::take)? } else { Vec::new() },
                batches: input.take(input.len())?,
            },
            2 => Command::Trim { topic: id(input)?, partition: uint32(input)?, to: input.varint()? },
            3 => Command::Drop { topic: id(input)? },
            4 => Command::InitProducer,
            5 => {
                Command::Commit { group: text(input)?, by: committer(input)?, offsets: list(input, OffsetOf::decode)? }
            }
            6 => Command::TransactionCommit {
                group: text(input)?,
                by: committer(input)?,
                within: within(input)?,
                offsets: list(input, OffsetOf::decode)?,
            },
            7 => Command::DeleteOffsets {
                group: text(input)?,
                partitions: list(input, |input| Ok((text(input)?, uint32(input)?)))?,
            },
            8 => Command::DeleteGroup { group: text(input)? },
            9 => Command::SaveGroup { group: text(input)?, generation: Generation::decode(input)? },
            10 => Command::Begin {
                id: text(input)?,
                timeout_ms: uint32(input)?,
                expected: maybe(input, |input| Ok((int(input)?, int16(input)?)))?,
            },
            11 => Command::Enlist {
                id: text(input)?,
                producer: int(input)?,
                epoch: int16(input)?,
                targets: list(input, Target::decode)?,
            },
            12 => Command::End {
                id: text(input)?,
                producer: int(input)?,
                epoch: int16(input)?,
                commit: truth(input)?,
                second_version: truth(input)?,
            },
            13 => Command::TimeOut { id: text(input)?, number: input.varint()? },
            14 => Command::Marked { id: text(input)?, number: input.varint()?, targets: list(input, Target::decode)? },
            15 => Command::Mark {
                topic: id(input)?,
                place: text(input)?,
                partition: uint32(input)?,
                number: input.varint()?,
                commit: truth(input)?,
                batch: input.take(input.len())?,
            },
            16 => Command::MarkGroup { group: text(input)?, within: within(input)?, commit: truth(input)? },
            17 => Command::Sweep,
            19 => Command::Clean {
                topic: id(input)?,
                partition: uint32(input)?,
                clean: Clean {
                    number: input.varint()?,
                    from: input.varint()?,
                    to: input.varint()?,
                    done: input.varint()?,
                    markers: list(input, |input| input.varint())?,
                    batches: input.take(input.len())?,
                },
            },
            18 => Command::Verify {
                id: text(input)?,
                producer: int(input)?,
                epoch: int16(input)?,
                target: Target::decode(input)?,
            },
            _ => return Err(Corrupt("unknown command of the queue")),
        };
        end(input)?;
        Ok(command)
    }

    /// A word for people.
    pub fn word(&self) -> &'static str {
        match self {
            Command::Produce { .. } => "produce",
            Command::Trim { .. } => "trim",
            Command::Drop { .. } => "topic gone",
            Command::InitProducer => "producer",
            Command::Commit { .. } => "offsets",
            Command::TransactionCommit { .. } => "offsets in a transaction",
            Command::DeleteOffsets { .. } => "offsets deleted",
            Command::DeleteGroup { .. } => "group deleted",
            Command::SaveGroup { .. } => "group",
            Command::Begin { .. } => "transactional producer",
            Command::Enlist { .. } => "transaction joined",
            Command::Verify { .. } => "transaction asked for",
            Command::End { .. } => "transaction ended",
            Command::TimeOut { .. } => "transaction timed out",
            Command::Marked { .. } => "markers written",
            Command::Mark { .. } | Command::MarkGroup { .. } => "marker",
            Command::Sweep => "sweep",
            Command::Clean { .. } => "compaction",
        }
    }

    /// Whether it frees room, or is so small and so needed that it may use the log's reserve on a full disk.
    pub fn frees(&self) -> bool {
        matches!(
            self,
            Command::Trim { .. }
                | Command::Drop { .. }
                | Command::DeleteOffsets { .. }
                | Command::DeleteGroup { .. }
                | Command::End { .. }
                | Command::TimeOut { .. }
                | Command::Marked { .. }
                | Command::Mark { .. }
                | Command::MarkGroup { .. }
                | Command::Sweep
        )
    }
}

//! What is kept of a consumer group: its offsets, and its last completed generation.
//!
//! Who is joining at the moment is the coordinator's own affair and not kept; once a rebalance is complete, generation,
//! members and assignment are, so that a new leader goes on where the old one stopped. Commits are fenced here, at apply, by
//! what was kept: a member of an older generation cannot overwrite what its successor has committed.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Millis;
use store::codec::{Corrupt, Input, put_bytes, put_varint};

use crate::code::Code;
use crate::command::{Committer, Within, id, put_id};
use crate::limits::{GENERATION_BYTES_MAX, ID_BYTES_MAX, MEMBER_BYTES_MAX, MEMBERS_MAX, OFFSET_METADATA_BYTES_MAX};
use crate::topics::TopicId;
use crate::words::{int, int16, int32, list, maybe, put_int, put_maybe, put_text, text, uint32};

/// An offset in a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetOf<'a> {
    /// The topic's name.
    pub topic: &'a str,
    /// Which topic it is: of another one with this name the offset says nothing.
    pub id: TopicId,
    /// The partition.
    pub partition: u32,
    /// The offset; negative ones are kept as they are.
    pub offset: i64,
    /// The leader's epoch that the consumer saw; -1 for none.
    pub epoch: i32,
    /// The consumer's own words.
    pub metadata: &'a str,
}

impl<'a> OffsetOf<'a> {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_text(out, self.topic);
        put_id(out, self.id);
        put_varint(out, u64::from(self.partition));
        put_int(out, self.offset);
        put_int(out, i64::from(self.epoch));
        put_text(out, self.metadata);
    }

    pub(crate) fn decode(input: &mut Input<'a>) -> Result<OffsetOf<'a>, Corrupt> {
        Ok(OffsetOf {
            topic: text(input)?,
            id: id(input)?,
            partition: uint32(input)?,
            offset: int(input)?,
            epoch: int32(input)?,
            metadata: text(input)?,
        })
    }
}

/// A committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offset {
    /// Which topic it is.
    pub topic: TopicId,
    /// The offset.
    pub offset: i64,
    /// The leader's epoch that the consumer saw; -1 for none.
    pub epoch: i32,
    /// The consumer's own words.
    pub metadata: Box<str>,
    /// When it was committed, shard time.
    pub stamp: Millis,
}

/// A member of a completed generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: String,
    /// A static member's name.
    pub instance: Option<String>,
    /// What the client calls itself.
    pub client: String,
    /// Where it came from.
    pub host: String,
    /// Silent for so long it is out, milliseconds.
    pub session_ms: u32,
    /// How long a rebalance waits for it, milliseconds.
    pub rebalance_ms: u32,
    /// The protocols it speaks, each with its subscription.
    pub protocols: Vec<(String, Vec<u8>)>,
    /// What it was given.
    pub assignment: Vec<u8>,
}

/// A completed rebalance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: i32,
    /// The kind of group ("consumer").
    pub kind: String,
    /// The protocol that was chosen; empty without members.
    pub protocol: String,
    /// The member that assigns.
    pub leader: String,
    /// Who is in it; nobody in an empty group.
    pub members: Vec<Member>,
}

impl Generation {
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        put_int(out, i64::from(self.number));
        [&self.kind, &self.protocol, &self.leader].into_iter().for_each(|word| put_text(out, word));
        put_varint(out, self.members.len() as u64);
        for member in &self.members {
            put_text(out, &member.id);
            put_maybe(out, member.instance.as_deref(), put_text);
            put_text(out, &member.client);
            put_text(out, &member.host);
            put_varint(out, u64::from(member.session_ms));
            put_varint(out, u64::from(member.rebalance_ms));
            put_varint(out, member.protocols.len() as u64);
            for (name, subscription) in &member.protocols {
                put_text(out, name);
                put_bytes(out, subscription);
            }
            put_bytes(out, &member.assignment);
        }
    }

    pub(crate) fn decode(input: &mut Input<'_>) -> Result<Generation, Corrupt> {
        let number = int32(input)?;
        let [kind, protocol, leader] = [text(input)?, text(input)?, text(input)?].map(str::to_owned);
        let members = list(input, |input| {
            Ok(Member {
                id: text(input)?.to_owned(),
                instance: maybe(input, text)?.map(str::to_owned),
                client: text(input)?.to_owned(),
                host: text(input)?.to_owned(),
                session_ms: uint32(input)?,
                rebalance_ms: uint32(input)?,
                protocols: list(input, |input| Ok((text(input)?.to_owned(), input.bytes()?.to_vec())))?,
                assignment: input.bytes()?.to_vec(),
            })
        })?;
        Ok(Generation { number, kind, protocol, leader, members })
    }

    /// Bytes of its members' words.
    pub fn bytes(&self) -> usize {
        let own = |member: &Member| {
            let protocols: usize = member.protocols.iter().map(|(name, words)| name.len() + words.len()).sum();
            let instance = member.instance.as_ref().map_or(0, String::len);
            member.id.len() + instance + member.client.len() + member.host.len() + protocols + member.assignment.len()
        };
        self.members.iter().map(own).sum()
    }

    pub(crate) fn check(&self) -> Result<(), (Code, &'static str)> {
        let long = |word: &str| word.len() > ID_BYTES_MAX;
        let too_long = |member: &Member| {
            long(&member.id)
                || member.instance.as_deref().is_some_and(long)
                || long(&member.client)
                || long(&member.host)
                || member.assignment.len() > MEMBER_BYTES_MAX
                || member.protocols.iter().any(|(name, words)| long(name) || words.len() > MEMBER_BYTES_MAX)
        };
        if self.members.len() > MEMBERS_MAX || self.bytes() > GENERATION_BYTES_MAX {
            return Err((
                Code::POLICY_VIOLATION,
                "the group has more members, or more words of theirs, than a group may have",
            ));
        }
        if [&self.kind, &self.protocol, &self.leader].into_iter().any(|word| long(word))
            || self.members.iter().any(too_long)
        {
            return Err((Code::POLICY_VIOLATION, "a word of the group or of a member is too long"));
        }
        Ok(())
    }
}

/// A topic's partition, as offsets are kept by it.
pub type Key = (Arc<str>, u32);

/// What a producer has committed in a transaction that has not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pending {
    pub epoch: i16,
    pub number: u64,
    pub offsets: BTreeMap<Key, Offset>,
}

/// What a group remembers of a producer whose transactions commit offsets in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    pub epoch: i16,
    pub number: u64,
    pub stamp: Millis,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    pub(crate) generation: Option<Generation>,
    pub(crate) offsets: BTreeMap<Key, Offset>,
    pub(crate) pending: BTreeMap<i64, Pending>,
    pub(crate) marked: BTreeMap<i64, Marked>,
    /// When it last changed, shard time.
    pub(crate) stamp: Millis,
}

type Refusal = (Code, &'static str);

impl Group {
    /// The last completed generation.
    pub fn generation(&self) -> Option<&Generation> {
        self.generation.as_ref()
    }

    /// Whether nobody is in it.
    pub fn is_empty(&self) -> bool {
        self.generation.as_ref().is_none_or(|generation| generation.members.is_empty())
    }

    /// A committed offset, of this topic and no other of the name.
    pub fn offset(&self, topic: &str, id: TopicId, partition: u32) -> Option<&Offset> {
        self.offsets.get(&(Arc::from(topic), partition)).filter(|offset| offset.topic == id)
    }

    /// All committed offsets: topic, partition, offset.
    pub fn offsets(&self) -> impl Iterator<Item = (&str, u32, &Offset)> {
        self.offsets.iter().map(|((topic, partition), offset)| (&**topic, *partition, offset))
    }

    /// Whether a transaction that has not ended has committed an offset here (fetches that need a stable one are told
    /// UNSTABLE_OFFSET_COMMIT).
    pub fn is_unstable(&self, topic: &str, partition: u32) -> bool {
        if self.pending.is_empty() {
            return false;
        }
        let key = (Arc::from(topic), partition);
        self.pending.values().any(|pending| pending.offsets.contains_key(&key))
    }

    /// Offsets, those of open transactions too.
    pub(crate) fn offset_count(&self) -> usize {
        self.offsets.len() + self.pending.values().map(|pending| pending.offsets.len()).sum::<usize>()
    }

    /// Whether this one may commit: Kafka's `validateOffsetCommit`.
    pub(crate) fn admits(&self, by: &Committer<'_>, transactional: bool) -> Result<(), Refusal> {
        if by.generation < 0 && self.is_empty() {
            return Ok(());
        }
        let Some(generation) = &self.generation else {
            return Err((Code::ILLEGAL_GENERATION, "the group has no such generation"));
        };
        if by.generation < 0 && by.member.is_empty() && by.instance.is_none() {
            // Older transactional clients do not say who they are.
            return if transactional {
                Ok(())
            } else {
                Err((Code::UNKNOWN_MEMBER_ID, "the group has members: only they commit"))
            };
        }
        if let Some(instance) = by.instance {
            let known = generation.members.iter().find(|member| member.instance.as_deref() == Some(instance));
            match known {
                None => return Err((Code::UNKNOWN_MEMBER_ID, "the group has no such static member")),
                Some(member) if member.id != by.member => {
                    return Err((Code::FENCED_INSTANCE_ID, "another member has taken this static member's place"));
                }
                Some(_) => {}
            }
        } else if !generation.members.iter().any(|member| member.id == by.member) {
            return Err((Code::UNKNOWN_MEMBER_ID, "the group has no such member"));
        }
        if by.generation != generation.number {
            return Err((Code::ILLEGAL_GENERATION, "the group is at another generation"));
        }
        Ok(())
    }

    pub(crate) fn commit(&mut self, offsets: &[OffsetOf<'_>], now: Millis) {
        for of in offsets {
            self.offsets.insert((of.topic.into(), of.partition), kept(of, now));
        }
        self.stamp = now;
    }

    pub(crate) fn commit_within(
        &mut self,
        within: Within,
        offsets: &[OffsetOf<'_>],
        now: Millis,
    ) -> Result<(), Refusal> {
        if within.number == 0 {
            return Err((Code::INVALID_TXN_STATE, "the coordinator has not been asked whether the group takes part"));
        }
        if let Some(marked) = self.marked.get(&within.producer) {
            if within.epoch < marked.epoch {
                return Err((Code::INVALID_PRODUCER_EPOCH, "the producer has a newer epoch"));
            }
            if within.number <= marked.number {
                return Err((Code::INVALID_TXN_STATE, "the transaction of these offsets has ended"));
            }
        }
        let pending = self.pending.entry(within.producer).or_insert_with(|| Pending {
            epoch: within.epoch,
            number: within.number,
            offsets: BTreeMap::new(),
        });
        if within.epoch < pending.epoch {
            return Err((Code::INVALID_PRODUCER_EPOCH, "the producer has a newer epoch"));
        }
        if within.number != pending.number {
            return Err((Code::INVALID_TXN_STATE, "the producer's transaction here is another one"));
        }
        pending.epoch = within.epoch;
        for of in offsets {
            pending.offsets.insert((of.topic.into(), of.partition), kept(of, now));
        }
        self.stamp = now;
        Ok(())
    }

    /// Ends the transaction in this group.
    pub(crate) fn mark(&mut self, within: Within, commit: bool, now: Millis) {
        let marked =
            self.marked.entry(within.producer).or_insert(Marked { epoch: within.epoch, number: 0, stamp: now });
        if within.number <= marked.number {
            return;
        }
        *marked = Marked { epoch: marked.epoch.max(within.epoch), number: within.number, stamp: now };
        self.stamp = now;
        let Some(pending) = self.pending.remove(&within.producer) else {
            return;
        };
        if commit && pending.number == within.number {
            self.offsets.extend(pending.offsets);
        }
    }
}

fn kept(of: &OffsetOf<'_>, now: Millis) -> Offset {
    Offset { topic: of.id, offset: of.offset, epoch: of.epoch, metadata: of.metadata.into(), stamp: now }
}

/// Whether a commit's offsets are of a size that is kept.
pub(crate) fn check_offsets(offsets: &[OffsetOf<'_>]) -> Result<(), Refusal> {
    if offsets.len() > crate::limits::COMMIT_OFFSETS_MAX {
        return Err((Code::POLICY_VIOLATION, "more offsets than one commit may have"));
    }
    if offsets.iter().any(|of| of.metadata.len() > OFFSET_METADATA_BYTES_MAX) {
        return Err((Code::OFFSET_METADATA_TOO_LARGE, "the words kept with an offset are too long"));
    }
    if offsets.iter().any(|of| of.topic.len() > crate::limits::NAME_BYTES_MAX) {
        return Err((Code::INVALID_TOPIC_EXCEPTION, "a topic's name is too long"));
    }
    Ok(())
}

// ---- stored forms --------------------------------------------------------------------------------------------------

pub(crate) fn put_kept(out: &mut Vec<u8>, offsets: &[(&Key, &Offset)]) {
    put_varint(out, offsets.len() as u64);
    for ((topic, partition), kept) in offsets {
        let Offset { topic: id, offset, epoch, metadata, stamp } = kept;
        let (id, offset, epoch) = (*id, *offset, *epoch);
        OffsetOf { topic, id, partition: *partition, offset, epoch, metadata }.encode(out);
        put_varint(out, *stamp);
    }
}

pub(crate) fn read_kept(input: &mut Input<'_>) -> Result<Vec<(Key, Offset)>, Corrupt> {
    list(input, |input| {
        let of = OffsetOf::decode(input)?;
        Ok(((Arc::from(of.topic), of.partition), kept(&of, input.varint()?)))
    })
}

impl Group {
    /// All but its offsets.
    pub(crate) fn encode_head(&self, out: &mut Vec<u8>) {
        put_varint(out, self.stamp);
        put_maybe(out, self.generation.as_ref(), |out, generation| generation.encode(out));
        put_varint(out, self.marked.len() as u64);
        for (producer, marked) in &self.marked {
            put_int(out, *producer);
            put_int(out, i64::from(marked.epoch));
            put_varint(out, marked.number);
            put_varint(out, marked.stamp);
        }
    }

    pub(crate) fn decode_head(input: &mut Input<'_>) -> Result<Group, Corrupt> {
        let stamp = input.varint()?;
        let generation = maybe(input, Generation::decode)?;
        let marked = list(input, |input| {
            let producer = int(input)?;
            Ok((producer, Marked { epoch: int16(input)?, number: input.varint()?, stamp: input.varint()? }))
        })?;
        Ok(Group { generation, marked: marked.into_iter().collect(), stamp, ..Group::default() })
    }
}

//! Topics as Redis streams: what a door asks a shard for, and its form in an entry.
//!
//! ```text
//!   unit 22, part 2   flags:u8 (only a unit's)  form(bytes)
//!   form              home:varint  1 command of the queue…        a record (XADD), offsets of a group (Q.COMMITOFFSET)
//!                                  2 (word topic partition)* words  any other command of streams
//!                                  3 visibility deliveries, and as 2  XREADGROUP of a topic whose entries come again
//!                                  4 topic partition words, and as 1  Q.XACK and the copy for the dead letter topic: both or neither
//! ```
//!
//! A partition of a topic has no key: it stays at its shard whatever becomes of slots. So the unit names that shard, and any
//! other refuses it. The records of a batch are stored as they stand in the entry, like those of Kafka's producers. Other
//! commands run as they do on any stream, only that the entries are *elsewhere* ([`store::value::Elsewhere`]): where their
//! fields would stand, an answer says which record to put there ([`put_place`]); whoever asked reads it from the disk.

use base::GroupId;
use queue::TopicId;
use smallvec::SmallVec;
use store::codec::{Corrupt, Input, put_u64, put_varint};

use crate::command::Args;
use crate::entry::{Words, put_words, read_words};

const QUEUE: u8 = 1;
const RUN: u8 = 2;
const RUN_BY: u8 = 3;
const BURY: u8 = 4;

/// A word of a command that names a partition as a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Which word.
    pub word: usize,
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: u32,
}

/// What is to be done.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug)]
pub enum What<'a> {
    /// A command of the queue, and how long its form is: it ends where the unit does, or the part.
    Queue(queue::Command<'a>, usize),
    /// A command of streams.
    Run {
        /// Its keys.
        streams: SmallVec<[Named; 2]>,
        /// Its words.
        words: Words<'a>,
        /// What the topic's settings ask of a group's readers.
        rules: Rules,
    },
    /// An entry goes to the dead letter topic.
    Bury {
        /// Whose it is.
        stream: Named,
        /// Q.XACK and its words.
        words: Words<'a>,
        /// The copy.
        produce: queue::Command<'a>,
        /// How long that command's form is, with which this ends.
        bytes: usize,
    },
}

/// What the settings of a topic ask of those who read for a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Milliseconds after which an entry that was not acknowledged is given to the next reader; 0 for never.
    pub visibility_ms: u64,
    /// Deliveries after which it is dead; 0 for never.
    pub deliveries_max: u64,
}

/// What a door asks for.
#[derive(Clone, Debug)]
pub struct StreamOp<'a> {
    /// The shard in which the partition lives, or the group whose offsets they are.
    pub home: GroupId,
    /// See [`What`].
    pub what: What<'a>,
}

/// Appends the form of a command of the queue.
pub fn put_queue(out: &mut Vec<u8>, home: GroupId, command: &queue::Command<'_>) {
    put_varint(out, u64::from(home.0));
    out.push(QUEUE);
    command.encode_into(out);
}

/// Appends the form of a command of streams.
pub fn put_run(out: &mut Vec<u8>, home: GroupId, streams: &[Named], words: Args<'_>) {
    put_run_by(out, home, streams, words, Rules::default());
}

/// The same of a topic with these rules.
pub fn put_run_by(out: &mut Vec<u8>, home: GroupId, streams: &[Named], words: Args<'_>, rules: Rules) {
    put_varint(out, u64::from(home.0));
    if rules == Rules::default() {
        out.push(RUN);
    } else {
        out.push(RUN_BY);
        put_varint(out, rules.visibility_ms);
        put_varint(out, rules.deliveries_max);
    }
    put_varint(out, streams.len() as u64);
    for named in streams {
        put_varint(out, named.word as u64);
        put_u64(out, (named.topic.0 >> 64) as u64);
        put_u64(out, named.topic.0 as u64);
        put_varint(out, u64::from(named.partition));
    }
    put_words(out, words);
}

/// Appends the form of an entry's going to the dead letter topic. `words` are those of Q.XACK, the second one its key.
pub fn put_burial(out: &mut Vec<u8>, home: GroupId, stream: Named, words: Args<'_>, produce: &queue::Command<'_>) {
    put_varint(out, u64::from(home.0));
    out.push(BURY);
    put_u64(out, (stream.topic.0 >> 64) as u64);
    put_u64(out, stream.topic.0 as u64);
    put_varint(out, u64::from(stream.partition));
    put_words(out, words);
    produce.encode_into(out);
}

impl<'a> StreamOp<'a> {
    /// Reads a form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(form: &'a [u8]) -> Result<StreamOp<'a>, Corrupt> {
        const WRONG: Corrupt = Corrupt("a number of a stream that cannot be");
        let mut input = Input::new(form);
        let home = GroupId(u32::try_from(input.varint()?).map_err(|_| WRONG)?);
        let what = match input.u8()? {
            QUEUE => {
                let bytes = input.len();
                What::Queue(queue::Command::decode(input.take(bytes)?)?, bytes)
            }
            kind @ (RUN | RUN_BY) => {
                let rules = match kind {
                    RUN => Rules::default(),
                    _ => Rules { visibility_ms: input.varint()?, deliveries_max: input.varint()? },
                };
                let mut streams = SmallVec::new();
                for _ in 0..input.count()? {
                    let word = usize::try_from(input.varint()?).map_err(|_| WRONG)?;
                    let topic = TopicId(u128::from(input.u64()?) << 64 | u128::from(input.u64()?));
                    let partition = u32::try_from(input.varint()?).map_err(|_| WRONG)?;
                    streams.push(Named { word, topic, partition });
                }
                let words = read_words(&mut input)?;
                if streams.iter().any(|named: &Named| named.word == 0 || named.word >= words.len()) {
                    return Err(WRONG);
                }
                What::Run { streams, words, rules }
            }
            BURY => {
                let topic = TopicId(u128::from(input.u64()?) << 64 | u128::from(input.u64()?));
                let partition = u32::try_from(input.varint()?).map_err(|_| WRONG)?;
                let words = read_words(&mut input)?;
                if words.len() < 5 || !is_acknowledge(&words) {
                    return Err(WRONG);
                }
                let bytes = input.len();
                let produce = queue::Command::decode(input.take(bytes)?)?;
                What::Bury { stream: Named { word: 1, topic, partition }, words, produce, bytes }
            }
            _ => return Err(Corrupt("unknown kind of work on a stream")),
        };
        if !input.is_empty() {
            return Err(Corrupt("more than one piece of work on a stream"));
        }
        Ok(StreamOp { home, what })
    }

    /// Whether it changes something, and so has to be an entry.
    pub fn is_write(&self) -> bool {
        match &self.what {
            What::Queue(..) | What::Bury { .. } => true,
            What::Run { words, .. } => {
                is_acknowledge(words) || crate::command::find(words[0]).is_none_or(crate::command::Spec::is_write)
            }
        }
    }

    /// Whether it only frees, and so is taken when the disk is full.
    pub fn frees(&self) -> bool {
        match &self.what {
            What::Queue(command, _) => command.frees(),
            What::Bury { .. } => false,
            What::Run { words, .. } => is_acknowledge(words) || words[0].eq_ignore_ascii_case(b"xack"),
        }
    }
}

/// Q.XACK: as XACK, but of entries that are pending for the consumer that it names, or nothing at all happens.
pub(crate) fn is_acknowledge(words: Args<'_>) -> bool {
    words[0].eq_ignore_ascii_case(b"q.xack")
}

/// Writes, in place of a record's fields, which record it is. No answer of a protocol begins with this byte.
pub fn put_place(out: &mut Vec<u8>, owner: (u128, u32), offset: u64) {
    out.extend_from_slice(format!("@{:032x}:{}:{offset}\r\n", owner.0, owner.1).as_bytes());
}

/// The same of an entry that was delivered for the so manyth time; `is_dead` where that is once too often.
pub fn put_given(out: &mut Vec<u8>, owner: (u128, u32), offset: u64, count: u64, is_dead: bool) {
    let word = if is_dead { "dead" } else { "given" };
    out.extend_from_slice(format!("@{:032x}:{}:{offset}:{word}:{count}\r\n", owner.0, owner.1).as_bytes());
}

/// What stands in place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stand {
    /// Which partition.
    pub id: (TopicId, u32),
    /// Which record.
    pub offset: u64,
    /// How often the entry was delivered; 0 where that is not told.
    pub deliveries: u64,
    /// Whether it is to go to the dead letter topic.
    pub is_dead: bool,
}

/// Reads a line that [`put_place`] or [`put_given`] wrote, without its first byte and its end.
pub fn read_place(line: &[u8]) -> Option<Stand> {
    let mut parts = std::str::from_utf8(line).ok()?.split(':');
    let topic = u128::from_str_radix(parts.next()?, 16).ok()?;
    let (partition, offset) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let (deliveries, is_dead) = match parts.next() {
        None => (0, false),
        Some(word @ ("given" | "dead")) => (parts.next()?.parse().ok()?, word == "dead"),
        Some(_) => return None,
    };
    parts.next().is_none().then_some(Stand { id: (TopicId(topic), partition), offset, deliveries, is_dead })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_read_back_and_damage_is_an_error() {
        let named = [Named { word: 3, topic: TopicId(1 << 100 | 7), partition: 9 }];
        let words: [&[u8]; 5] = [b"XREAD", b"BLOCK", b"STREAMS", b"topic:a", b"0"];
        let mut form = Vec::new();
        put_run(&mut form, GroupId(3), &named, &words);
        let op = StreamOp::read(&form).expect("it was just written");
        let What::Run { streams, words: own, .. } = &op.what else { panic!("a command was written") };
        assert_eq!((op.home, &streams[..], &own[..]), (GroupId(3), &named[..], &words[..]));
        assert!(!op.is_write());
        let mut rng = base::Rng::new(3);
        for _ in 0..20_000 {
            let mut damaged = form.clone();
            let at = rng.index(damaged.len());
            damaged[at] = rng.next_u64() as u8;
            damaged.truncate(rng.index(damaged.len()) + 1);
            let _ = StreamOp::read(&damaged);
        }
        let mut place = Vec::new();
        put_place(&mut place, (1 << 100 | 7, 9), 41);
        let line = place.strip_prefix(b"@").and_then(|line| line.strip_suffix(b"\r\n"));
        let mut stand = Stand { id: (TopicId(1 << 100 | 7), 9), offset: 41, deliveries: 0, is_dead: false };
        assert_eq!(line.and_then(read_place), Some(stand));
        place.clear();
        put_given(&mut place, (1 << 100 | 7, 9), 41, 3, true);
        let line = place.strip_prefix(b"@").and_then(|line| line.strip_suffix(b"\r\n"));
        (stand.deliveries, stand.is_dead) = (3, true);
        assert_eq!(line.and_then(read_place), Some(stand));
    }
}

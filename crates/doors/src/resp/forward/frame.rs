//! What goes over the wire: two streams of records between a pair of nodes, cut into frames.
//!
//! ```text
//! frame   kind ─ epoch ─ offset in the stream ─ bytes
//! stream  length ─ record ─ length ─ record …
//! ```
//!
//! A stream lives as long as its epoch. What follows the wrong offset says that something was lost, and both ends begin anew.
//! Varints and byte strings are those of [`store::codec`]. Reading never panics, and holds no more than one record.

use base::NodeId;
use shard::entry::Unblock;
use store::codec::{Corrupt, Input, put_bytes, put_u64, put_varint};

use crate::resp::pubsub::Kind;

/// Bytes of a stream in one frame: heartbeats wait behind no more than that.
pub const FRAME_BYTES: usize = 256 << 10;
/// Bytes before a frame's part of the stream.
pub const HEAD_BYTES: usize = 17;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Requests, to the node that leads.
    Asks,
    /// What became of them, back.
    Answers,
    /// Back: something of the stream of requests was lost; what is under way in it has an unknown outcome.
    Broken,
}

/// One frame, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// See [`FrameKind`].
    pub kind: FrameKind,
    /// Which stream.
    pub epoch: u64,
    /// Where in the stream `bytes` stand.
    pub offset: u64,
    /// A part of it.
    pub bytes: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Writes a frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES + self.bytes.len());
        out.push(match self.kind {
            FrameKind::Asks => 1,
            FrameKind::Answers => 2,
            FrameKind::Broken => 3,
        });
        put_u64(&mut out, self.epoch);
        put_u64(&mut out, self.offset);
        out.extend_from_slice(self.bytes);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// Of a kind that this build does not know, or too short to be one.
    pub fn decode(frame: &'a [u8]) -> Result<Frame<'a>, Corrupt> {
        let mut input = Input::new(frame);
        let kind = match input.u8()? {
            1 => FrameKind::Asks,
            2 => FrameKind::Answers,
            3 => FrameKind::Broken,
            _ => return Err(Corrupt("a forwarded frame of an unknown kind")),
        };
        Ok(Frame { kind, epoch: input.u64()?, offset: input.u64()?, bytes: &frame[HEAD_BYTES..] })
    }
}

/// The end of a stream that puts its parts together.
#[derive(Debug, Default)]
pub struct Incoming {
    offset: u64,
    kept: Vec<u8>,
}

impl Incoming {
    /// Takes a frame's part and gives each record that is whole to `each`. `record_max` bounds one record.
    ///
    /// # Errors
    /// Where the part is not the next one, or a record is too long or not to be read: the stream is of no more use.
    pub fn take(
        &mut self,
        offset: u64,
        bytes: &[u8],
        record_max: usize,
        mut each: impl FnMut(&[u8]) -> Result<(), Corrupt>,
    ) -> Result<(), Corrupt> {
        if offset != self.offset {
            return Err(Corrupt("a part of a forwarded stream is missing"));
        }
        self.offset += bytes.len() as u64;
        let kept = if self.kept.is_empty() {
            None
        } else {
            self.kept.extend_from_slice(bytes);
            Some(std::mem::take(&mut self.kept))
        };
        let mut rest = kept.as_deref().unwrap_or(bytes);
        while !rest.is_empty() {
            let mut input = Input::new(rest);
            let Ok(length) = input.varint() else {
                if rest.len() > 10 {
                    return Err(Corrupt("a forwarded record of no length"));
                }
                break;
            };
            if length > record_max as u64 {
                return Err(Corrupt("a forwarded record is too long"));
            }
            let begun = rest.len() - input.len();
            let Some(record) = rest.get(begun..begun + length as usize) else {
                break;
            };
            each(record)?;
            rest = &rest[begun + length as usize..];
        }
        let left = rest.len();
        match kept {
            // The common case: whole records, nothing left.
            None => self.kept = rest.to_vec(),
            Some(whole) => {
                self.kept = whole;
                self.kept.drain(..self.kept.len() - left);
            }
        }
        Ok(())
    }
}

/// A record on the way to the node that leads.
#[derive(Debug, PartialEq, Eq)]
pub enum AskRecord<'a> {
    /// A unit.
    Unit {
        /// Whose, among the sender's clients.
        client: u64,
        /// Counted by client; the next one's is one more.
        number: u64,
        /// The first on its way to this node: whatever was before it has been settled.
        fresh: bool,
        /// The group.
        group: u32,
        /// As [`shard::entry::read_unit`] reads it.
        unit: &'a [u8],
    },
    /// This client has left.
    Gone {
        /// Which.
        client: u64,
    },
    /// End this client's wait.
    Unblock {
        /// Which.
        client: u64,
        /// How.
        how: Unblock,
    },
    /// Tell those who listen.
    Publish {
        /// To a channel or a shard channel.
        kind: Kind,
        /// Which.
        channel: &'a [u8],
        /// What.
        message: &'a [u8],
    },
}

/// A record on the way back.
#[derive(Debug, PartialEq, Eq)]
pub enum AnswerRecord<'a> {
    /// The next answers.
    Answers {
        /// Whose.
        client: u64,
        /// How many end in `bytes`.
        count: u64,
        /// Whether the request behind them waits for data.
        waits: bool,
        /// Answers, or a part of them.
        bytes: &'a [u8],
    },
    /// Nothing was done of this unit and of those behind it.
    Refused {
        /// Whose.
        client: u64,
        /// The first one.
        from: u64,
        /// Who leads, where known.
        leader: Option<NodeId>,
    },
    /// The outcome of what is under way is unknown.
    Doomed {
        /// Whose.
        client: u64,
    },
}

fn put_record(out: &mut Vec<u8>, head: &[u8], tail: &[u8]) {
    put_varint(out, (head.len() + tail.len()) as u64);
    out.extend_from_slice(head);
    out.extend_from_slice(tail);
}

impl<'a> AskRecord<'a> {
    /// Appends it to a stream.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut head = Vec::with_capacity(24);
        let mut tail: &[u8] = &[];
        match self {
            AskRecord::Unit { client, number, fresh, group, unit } => {
                head.push(1);
                put_varint(&mut head, *client);
                put_varint(&mut head, *number);
                head.push(u8::from(*fresh));
                put_varint(&mut head, u64::from(*group));
                tail = unit;
            }
            AskRecord::Gone { client } => {
                head.push(2);
                put_varint(&mut head, *client);
            }
            AskRecord::Unblock { client, how } => {
                head.push(3);
                put_varint(&mut head, *client);
                head.push(match how {
                    Unblock::Timeout => 0,
                    Unblock::Error => 1,
                    Unblock::Gone => 2,
                });
            }
            AskRecord::Publish { kind, channel, message } => {
                head.push(4);
                head.push(match kind {
                    Kind::Channel => 0,
                    Kind::Pattern => 1,
                    Kind::Shard => 2,
                });
                put_bytes(&mut head, channel);
                tail = message;
            }
        }
        put_record(out, &head, tail);
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is no record.
    pub fn read(record: &'a [u8]) -> Result<AskRecord<'a>, Corrupt> {
        let mut input = Input::new(record);
        Ok(match input.u8()? {
            1 => {
                let (client, number) = (input.varint()?, input.varint()?);
                let fresh = input.u8()? != 0;
                let group = u32::try_from(input.varint()?).map_err(|_| Corrupt("no such group"))?;
                AskRecord::Unit { client, number, fresh, group, unit: &record[record.len() - input.len()..] }
            }
            2 => AskRecord::Gone { client: input.varint()? },
            3 => {
                let client = input.varint()?;
                let how = match input.u8()? {
                    0 => Unblock::Timeout,
                    1 => Unblock::Error,
                    2 => Unblock::Gone,
                    _ => return Err(Corrupt("unknown end of a wait")),
                };
                AskRecord::Unblock { client, how }
            }
            4 => {
                let kind = match input.u8()? {
                    0 => Kind::Channel,
                    1 => Kind::Pattern,
                    2 => Kind::Shard,
                    _ => return Err(Corrupt("unknown kind of channel")),
                };
                let channel = input.bytes()?;
                AskRecord::Publish { kind, channel, message: &record[record.len() - input.len()..] }
            }
            _ => return Err(Corrupt("a forwarded record of an unknown kind")),
        })
    }
}

impl<'a> AnswerRecord<'a> {
    /// Appends it to a stream.
    pub fn put(&self, out: &mut Vec<u8>) {
        let mut head = Vec::with_capacity(24);
        let mut tail: &[u8] = &[];
        match self {
            AnswerRecord::Answers { client, count, waits, bytes } => {
                head.push(1);
                put_varint(&mut head, *client);
                put_varint(&mut head, *count);
                head.push(u8::from(*waits));
                tail = bytes;
            }
            AnswerRecord::Refused { client, from, leader } => {
                head.push(2);
                put_varint(&mut head, *client);
                put_varint(&mut head, *from);
                put_varint(&mut head, leader.map_or(0, |node| node.0));
            }
            AnswerRecord::Doomed { client } => {
                head.push(3);
                put_varint(&mut head, *client);
            }
        }
        put_record(out, &head, tail);
    }

    /// Reads one.
    ///
    /// # Errors
    /// What is no record.
    pub fn read(record: &'a [u8]) -> Result<AnswerRecord<'a>, Corrupt> {
        let mut input = Input::new(record);
        Ok(match input.u8()? {
            1 => {
                let (client, count, waits) = (input.varint()?, input.varint()?, input.u8()? != 0);
                AnswerRecord::Answers { client, count, waits, bytes: &record[record.len() - input.len()..] }
            }
            2 => {
                let (client, from, leader) = (input.varint()?, input.varint()?, input.varint()?);
                AnswerRecord::Refused { client, from, leader: Some(NodeId(leader)).filter(|node| node.0 != 0) }
            }
            3 => AnswerRecord::Doomed { client: input.varint()? },
            _ => return Err(Corrupt("a forwarded record of an unknown kind")),
        })
    }
}

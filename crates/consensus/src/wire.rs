//! What nodes of a group send to each other: the `raft` crate's message in an envelope of ours.
//!
//! ```text
//! version 1 (1 byte) · group (4 bytes, little-endian) · eraftpb.Message (protobuf, to the end)
//! ```
//!
//! A heartbeat's context begins with a stamp: the leader's clock when it was sent, 8 bytes, the highest bit set in the last one of a
//! group that falls silent. The follower echoes it. From it the leader counts its lease (`lease`).
//!
//! **Absent:** authentication and framing. Whoever owns the link must check that `from` is the node at its other end.

use base::{GroupId, Instant, NodeId};
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use raft::eraftpb::{Message, MessageType};
use std::fmt;

/// The version of the envelope's form.
const VERSION: u8 = 1;
/// Version and group.
const HEADER: usize = 5;
/// Bytes of a heartbeat's stamp.
pub(crate) const STAMP: usize = 8;

/// One message between two nodes of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct Envelope {
    group: GroupId,
    /// Boxed, for inputs and outputs are moved about and most are small.
    pub(crate) message: Box<Message>,
}

/// Why bytes are no envelope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// Shorter than the header.
    Short,
    /// A version of the form that this program does not speak.
    Version(u8),
    /// The message's bytes are no protobuf of the schema.
    Malformed,
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WireError::Short => write!(f, "consensus message shorter than its header"),
            WireError::Version(v) => write!(f, "consensus message of version {v}, this node speaks {VERSION}"),
            WireError::Malformed => write!(f, "consensus message is not of the schema"),
        }
    }
}

impl std::error::Error for WireError {}

impl Envelope {
    pub(crate) fn new(group: GroupId, message: Message) -> Envelope {
        Envelope { group, message: Box::new(message) }
    }

    /// The group that the message belongs to.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The sender, as it calls itself.
    pub fn from(&self) -> NodeId {
        NodeId(self.message.from)
    }

    /// The addressee.
    pub fn to(&self) -> NodeId {
        NodeId(self.message.to)
    }

    /// The sender's term; 0 in a forwarded read.
    pub fn term(&self) -> u64 {
        self.message.term
    }

    /// A short name of the message's kind, for traces and counters.
    pub fn kind(&self) -> &'static str {
        match self.message.get_msg_type() {
            MessageType::MsgAppend => "append",
            MessageType::MsgAppendResponse if self.message.reject => "append-rejected",
            MessageType::MsgAppendResponse => "append-ok",
            MessageType::MsgRequestVote => "vote?",
            MessageType::MsgRequestVoteResponse if self.message.reject => "vote-no",
            MessageType::MsgRequestVoteResponse => "vote-yes",
            MessageType::MsgRequestPreVote => "prevote?",
            MessageType::MsgRequestPreVoteResponse if self.message.reject => "prevote-no",
            MessageType::MsgRequestPreVoteResponse => "prevote-yes",
            MessageType::MsgSnapshot => "snapshot",
            MessageType::MsgHeartbeat => "heartbeat",
            MessageType::MsgHeartbeatResponse => "heartbeat-ok",
            MessageType::MsgTimeoutNow => "campaign-now",
            MessageType::MsgReadIndex => "read?",
            MessageType::MsgReadIndexResp => "read-ok",
            _ => "unknown",
        }
    }

    /// The bytes to send.
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(self.encoded_len());
        self.encode_into(&mut bytes);
        bytes.freeze()
    }

    /// How many bytes [`Envelope::encode`] gives.
    pub fn encoded_len(&self) -> usize {
        HEADER + self.message.encoded_len()
    }

    /// The same bytes, behind what is in `out`.
    pub fn encode_into(&self, out: &mut BytesMut) {
        out.put_u8(VERSION);
        out.put_u32_le(self.group.0);
        self.message.encode(out).expect("a buffer that grows has room for every message");
    }

    /// Reads what [`Envelope::encode`] wrote. Entries share the buffer's memory.
    pub fn decode(mut bytes: Bytes) -> Result<Envelope, WireError> {
        if bytes.len() < HEADER {
            return Err(WireError::Short);
        }
        let header = bytes.split_to(HEADER);
        if header[0] != VERSION {
            return Err(WireError::Version(header[0]));
        }
        let group = GroupId(u32::from_le_bytes([header[1], header[2], header[3], header[4]]));
        let message = Message::decode(bytes).map_err(|_| WireError::Malformed)?;
        Ok(Envelope::new(group, message))
    }
}

/// Set in a stamp: no more heartbeats follow until something happens (`group::quiet`).
const LAST: u64 = 1 << 63;

/// Puts the time of sending in front of a heartbeat's context, and whether it is the last one for a while.
pub(crate) fn stamp(message: &mut Message, now: Instant, is_last: bool) {
    let mut context = BytesMut::with_capacity(STAMP + message.context.len());
    context.put_u64_le(now.0 & !LAST | if is_last { LAST } else { 0 });
    context.put_slice(&message.context);
    message.context = context.freeze();
}

/// Takes the echoed stamp off a heartbeat's answer. `None` where there is none.
pub(crate) fn unstamp(message: &mut Message) -> Option<Instant> {
    let (stamp, _) = message.context.split_first_chunk::<STAMP>()?;
    let stamp = u64::from_le_bytes(*stamp);
    message.context = message.context.slice(STAMP..);
    Some(Instant(stamp & !LAST))
}

/// Whether a heartbeat says that it is the last one for a while.
pub(crate) fn is_last(message: &Message) -> bool {
    let stamp = message.context.split_first_chunk::<STAMP>().map(|(stamp, _)| u64::from_le_bytes(*stamp));
    stamp.is_some_and(|stamp| stamp & LAST != 0)
}

#[cfg(test)]
mod tests {
    use super::{Envelope, WireError, is_last, stamp, unstamp};
    use base::{GroupId, Instant};
    use bytes::Bytes;
    use raft::eraftpb::{Message, MessageType};

    #[test]
    fn an_envelope_survives_the_wire() {
        let message =
            Message { to: 2, from: 1, term: 3, msg_type: MessageType::MsgAppend as i32, ..Message::default() };
        let envelope = Envelope::new(GroupId(7), message);
        let bytes = envelope.encode();
        assert_eq!(bytes.as_ref(), [1, 7, 0, 0, 0, 0x08, 3, 0x10, 2, 0x18, 1, 0x20, 3]);
        assert_eq!(envelope.encoded_len(), bytes.len());
        assert_eq!(Envelope::decode(bytes.clone()), Ok(envelope));
        assert_eq!(Envelope::decode(bytes.slice(..4)), Err(WireError::Short));
        assert_eq!(Envelope::decode(bytes.slice(..6)), Err(WireError::Malformed));
        assert_eq!(Envelope::decode(Bytes::from_static(&[9, 0, 0, 0, 0])), Err(WireError::Version(9)));
    }

    #[test]
    fn a_stamp_comes_off_as_it_went_on() {
        let mut m = Message { context: Bytes::from_static(b"read"), ..Message::default() };
        stamp(&mut m, Instant(77), true);
        assert!(is_last(&m));
        assert_eq!(unstamp(&mut m), Some(Instant(77)));
        assert_eq!(m.context, "read");
        assert_eq!(unstamp(&mut m), None);
    }
}

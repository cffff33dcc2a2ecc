//! What an entry of a stream is called: when it came, and which one of that millisecond it is.

use base::format_i64;

use crate::codec::{Corrupt, Input, put_varint};

/// The id of an entry, `ms-seq`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// Milliseconds, usually since the Unix epoch.
    pub ms: u64,
    /// Tells entries of one millisecond apart.
    pub seq: u64,
}

impl StreamId {
    /// `0-0`, which no entry can have.
    pub const MIN: StreamId = StreamId { ms: 0, seq: 0 };
    /// The last possible id.
    pub const MAX: StreamId = StreamId { ms: u64::MAX, seq: u64::MAX };

    /// Both halves.
    pub const fn new(ms: u64, seq: u64) -> StreamId {
        StreamId { ms, seq }
    }

    /// The id right behind this one.
    pub fn next(self) -> Option<StreamId> {
        match self.seq.checked_add(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => self.ms.checked_add(1).map(|ms| StreamId { ms, seq: 0 }),
        }
    }

    /// The id right before this one.
    pub fn previous(self) -> Option<StreamId> {
        match self.seq.checked_sub(1) {
            Some(seq) => Some(StreamId { seq, ..self }),
            None => self.ms.checked_sub(1).map(|ms| StreamId { ms, seq: u64::MAX }),
        }
    }

    /// Appends the text form.
    pub fn write(self, out: &mut Vec<u8>) {
        for (at, half) in [self.ms, self.seq].into_iter().enumerate() {
            if at == 1 {
                out.push(b'-');
            }
            match i64::try_from(half) {
                Ok(half) => out.extend_from_slice(format_i64(half, &mut [0; 20])),
                Err(_) => out.extend_from_slice(half.to_string().as_bytes()),
            }
        }
    }

    pub(in crate::value) fn encode(self, out: &mut Vec<u8>) {
        put_varint(out, self.ms);
        put_varint(out, self.seq);
    }

    pub(super) fn decode(input: &mut Input<'_>) -> Result<StreamId, Corrupt> {
        Ok(StreamId { ms: input.varint()?, seq: input.varint()? })
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

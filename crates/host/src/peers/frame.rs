//! How messages lie on a connection, and how they are found again.
//!
//! ```text
//! length of the rest (4 bytes, little-endian) · kind (1 byte) · body
//! ```
//!
//! The numbers of the kinds are fixed; one that is unknown ends the connection, for the hello has agreed on a version. Reading takes no
//! more memory than has come, and a little: a length alone allocates nothing.
//!
//! **Absent:** sockets. What the bodies mean is in [`super::words`].

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The largest frame: one message. An entry of the log is one command at most above `limits.entry_bytes_max`, and no command is larger
/// than 256 MiB; an answer neither.
pub const FRAME_BYTES_MAX: usize = 512 << 20;
/// The same before the two ends know each other, and for everything that is no message.
pub const SMALL_FRAME_BYTES_MAX: usize = 64 << 10;
/// Length and kind.
pub const HEADER: usize = 5;
/// Bodies up to this are copied out, so that one small message does not hold on to all that was read with it.
const COPIED_MAX: usize = 16 << 10;
/// What is asked for at once while a long frame comes in.
const STEP: usize = 4 << 20;

/// What a frame is. The numbers are sent and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The first of a connection: who dials, and what for.
    Hello = 1,
    /// The answer to it: a byte that says whether the directory there knows who dials (see [`Kind::Known`]).
    Welcome = 2,
    /// The last of a connection: why not, a sentence.
    Refused = 3,
    /// Answered by a pong with the same stamp.
    Ping = 4,
    /// A ping's stamp; 0 where something else was heard.
    Pong = 5,
    /// A message of consensus.
    Raft = 6,
    /// A message of the doors.
    Forward = 7,
    /// A question.
    Ask = 8,
    /// Its answer.
    Answer = 9,
    /// Which snapshot is sent, and how long it is.
    SnapshotOffer = 10,
    /// From where on it is wanted.
    SnapshotWant = 11,
    /// The next bytes of it.
    SnapshotChunk = 12,
    /// All was sent; the announcement.
    SnapshotEnd = 13,
    /// It has arrived, durably.
    SnapshotDone = 14,
    /// Somebody wants to become a node.
    Join = 15,
    /// He is one.
    Joined = 16,
    /// The directory here has come to know whoever dialled.
    Known = 17,
}

impl Kind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 17] = [
            Hello,
            Welcome,
            Refused,
            Ping,
            Pong,
            Raft,
            Forward,
            Ask,
            Answer,
            SnapshotOffer,
            SnapshotWant,
            SnapshotChunk,
            SnapshotEnd,
            SnapshotDone,
            Join,
            Joined,
            Known,
        ];
        ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub body: Bytes,
}

/// Why bytes are no frame. The connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// So long a frame is not taken.
    TooLong(usize),
    /// A frame without a kind.
    Empty,
    /// A kind that is not known.
    Kind(u8),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong(bytes) => write!(f, "it sent a frame of {bytes} bytes, more than is taken"),
            FrameError::Empty => f.write_str("it sent an empty frame"),
            FrameError::Kind(kind) => write!(f, "it sent a frame of unknown kind {kind}"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Puts a frame behind what is in `out`.
pub fn put(out: &mut BytesMut, kind: Kind, body: &[u8]) {
    head(out, kind, body.len());
    out.put_slice(body);
}

/// Puts a frame's head; `length` bytes of body must follow.
pub fn head(out: &mut BytesMut, kind: Kind, length: usize) {
    debug_assert!(length < FRAME_BYTES_MAX, "whoever sends keeps to the bound");
    out.put_u32_le(length as u32 + 1);
    out.put_u8(kind as u8);
}

/// Finds frames in bytes as they come.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    max: usize,
}

impl Decoder {
    /// Frames of `max` bytes at most.
    pub fn new(max: usize) -> Decoder {
        Decoder { buffer: BytesMut::new(), max }
    }

    /// Another bound from now on.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
    }

    /// Where the next bytes go: behind what has come, with room for some.
    pub fn buffer(&mut self) -> &mut BytesMut {
        let missing = self.missing().unwrap_or(0).min(STEP.max(self.buffer.len()));
        self.buffer.reserve(missing.max(SMALL_FRAME_BYTES_MAX / 2));
        &mut self.buffer
    }

    /// Bytes that the frame which has begun still lacks.
    fn missing(&self) -> Option<usize> {
        let length = self.buffer.first_chunk::<4>()?;
        (4 + u32::from_le_bytes(*length) as usize).checked_sub(self.buffer.len())
    }

    /// The next frame, once it is whole.
    ///
    /// # Errors
    /// What comes is no frame, and nothing behind it can be one.
    pub fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some(length) = self.buffer.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 {
            return Err(FrameError::Empty);
        }
        if length > self.max {
            return Err(FrameError::TooLong(length));
        }
        let Some(kind) = self.buffer.get(4) else {
            return Ok(None);
        };
        let kind = Kind::from_number(*kind).ok_or(FrameError::Kind(*kind))?;
        if self.buffer.len() < 4 + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let body = if length - 1 <= COPIED_MAX {
            let body = Bytes::copy_from_slice(&self.buffer[..length - 1]);
            self.buffer.advance(length - 1);
            body
        } else {
            self.buffer.split_to(length - 1).freeze()
        };
        Ok(Some(Frame { kind, body }))
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Frame, FrameError, Kind, put};
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        (1u8..=17).prop_map(|number| Kind::from_number(number).expect("there are seventeen"))
    }

    /// All frames in `bytes`, given in pieces of these lengths, over and over.
    fn decode(bytes: &[u8], pieces: &[usize], max: usize) -> (Vec<Frame>, Option<FrameError>) {
        let (mut decoder, mut frames, mut rest) = (Decoder::new(max), Vec::new(), bytes);
        for piece in pieces.iter().cycle() {
            let (now, later) = rest.split_at((*piece).min(rest.len()));
            decoder.buffer().extend_from_slice(now);
            rest = later;
            loop {
                match decoder.next() {
                    Ok(Some(frame)) => frames.push(frame),
                    Ok(None) => break,
                    Err(error) => return (frames, Some(error)),
                }
            }
            if rest.is_empty() {
                break;
            }
        }
        (frames, None)
    }

    #[test]
    fn a_frame_is_length_kind_and_body() {
        let mut out = BytesMut::new();
        put(&mut out, Kind::Ping, b"12345678");
        assert_eq!(out.as_ref(), b"\x09\0\0\0\x0412345678");
        for kind in 1..=17 {
            assert_eq!(Kind::from_number(kind).map(|kind| kind as u8), Some(kind));
        }
        assert_eq!((Kind::from_number(0), Kind::from_number(18)), (None, None));
    }

    #[test]
    fn what_is_no_frame_is_refused_by_its_head_alone() {
        assert_eq!(decode(&[0, 0, 0, 0], &[4], 100).1, Some(FrameError::Empty));
        assert_eq!(decode(&[101, 0, 0, 0], &[4], 100).1, Some(FrameError::TooLong(101)));
        assert_eq!(decode(&[1, 0, 0, 0, 99], &[4], 100).1, Some(FrameError::Kind(99)));
        assert_eq!(decode(&[255, 255, 255, 255, 1], &[1], 100).1, Some(FrameError::TooLong(u32::MAX as usize)));
    }

    #[test]
    fn a_length_alone_takes_no_memory() {
        let mut decoder = Decoder::new(512 << 20);
        decoder.buffer().extend_from_slice(&[0, 0, 0, 16, 6]);
        assert_eq!(decoder.next(), Ok(None));
        assert!(decoder.buffer().capacity() <= 8 << 20, "{}", decoder.buffer().capacity());
    }

    proptest! {
        #[test]
        fn frames_are_found_as_they_were_put_however_they_are_cut(
            frames in proptest::collection::vec((kinds(), proptest::collection::vec(any::<u8>(), 0..200)), 0..20),
            long in 0usize..100_000,
            pieces in proptest::collection::vec(1usize..300, 1..10),
        ) {
            let mut out = BytesMut::new();
            let mut put_in: Vec<Frame> = frames.into_iter().map(|(kind, body)| Frame { kind, body: body.into() }).collect();
            put_in.push(Frame { kind: Kind::Raft, body: Bytes::from(vec![7; long]) });
            put_in.iter().for_each(|frame| put(&mut out, frame.kind, &frame.body));
            prop_assert_eq!(decode(&out, &pieces, 1 << 20), (put_in, None));
        }

        #[test]
        fn no_bytes_make_it_panic_or_take_more_than_has_come(
            bytes in proptest::collection::vec(any::<u8>(), 0..2000),
            pieces in proptest::collection::vec(1usize..300, 1..10),
            max in 1usize..5000,
        ) {
            let (frames, _) = decode(&bytes, &pieces, max);
            prop_assert!(frames.iter().map(|frame| frame.body.len() + 5).sum::<usize>() <= bytes.len());
        }

        #[test]
        fn a_changed_byte_in_a_head_is_another_frame_or_an_error(at in 0usize..5, bit in 0u32..8) {
            let mut out = BytesMut::new();
            put(&mut out, Kind::Raft, b"message");
            put(&mut out, Kind::Ping, b"12345678");
            out[at] ^= 1 << bit;
            let _ = decode(&out, &[3], 100);
        }
    }
}

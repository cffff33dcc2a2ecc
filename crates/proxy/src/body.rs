//! Where a body of HTTP/1.1 ends: reading and writing its framing (RFC 9112 §6 and §7). Plain values, fed with bytes.
//!
//! Chunks are never passed on as they came: their data is taken out and framed anew, so that an upstream cannot read a chunk's line otherwise
//! than we did.

use crate::head::{Bad, BodyLength, Fields, Scan, bad, is_value, parse_trailers};

/// Most bytes of a chunk's line, its extensions included; they are dropped (RFC 9112 §7.1.1).
const CHUNK_LINE_MAX: usize = 256;
/// Most digits of a chunk's size: 2^60 bytes.
const CHUNK_DIGITS_MAX: usize = 15;

/// What the next bytes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// `skip` bytes of framing, then so many of data (at least one).
    Data { skip: usize, len: usize },
    /// `skip` bytes of framing; the rest has not come.
    More { skip: usize },
    /// `skip` bytes of framing, and that was all.
    End { skip: usize },
}

/// Reads a body.
#[derive(Debug, Default)]
pub(crate) enum Decoder {
    /// Nothing is left.
    #[default]
    Done,
    /// So many bytes are left.
    Length(u64),
    Chunked(Box<Chunks>),
    UntilClose,
}

#[derive(Debug)]
pub(crate) struct Chunks {
    state: ChunkState,
    /// Bytes of the chunk that are left.
    left: u64,
    /// Bytes of the line so far.
    line: usize,
    digits: usize,
    scan: Scan,
    trailer_bytes: Vec<u8>,
    trailer_bytes_max: usize,
    fields_max: usize,
    pub trailers: Fields,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailers,
}

impl Decoder {
    pub fn new(length: BodyLength, trailer_bytes_max: usize, fields_max: usize) -> Decoder {
        match length {
            BodyLength::None | BodyLength::Known(0) => Decoder::Done,
            BodyLength::Known(length) => Decoder::Length(length),
            BodyLength::UntilClose => Decoder::UntilClose,
            BodyLength::Streamed => Decoder::Chunked(Box::new(Chunks {
                state: ChunkState::Size,
                left: 0,
                line: 0,
                digits: 0,
                scan: Scan::default(),
                trailer_bytes: Vec::new(),
                trailer_bytes_max,
                fields_max,
                trailers: Fields::default(),
            })),
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self, Decoder::Done)
    }

    /// What `input` begins with. Its bytes count as used once they were told in a step.
    pub fn next(&mut self, input: &[u8]) -> Result<Step, Bad> {
        match self {
            Decoder::Done => Ok(Step::End { skip: 0 }),
            Decoder::UntilClose if input.is_empty() => Ok(Step::More { skip: 0 }),
            Decoder::UntilClose => Ok(Step::Data { skip: 0, len: input.len() }),
            Decoder::Length(0) => {
                *self = Decoder::Done;
                Ok(Step::End { skip: 0 })
            }
            Decoder::Length(_) if input.is_empty() => Ok(Step::More { skip: 0 }),
            Decoder::Length(left) => {
                let len = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= len as u64;
                Ok(Step::Data { skip: 0, len })
            }
            Decoder::Chunked(chunks) => chunks.next(input),
        }
    }

    /// The trailers, once the end was reached.
    pub fn trailers(&self) -> Option<&Fields> {
        match self {
            Decoder::Chunked(chunks) if !chunks.trailers.is_empty() => Some(&chunks.trailers),
            _ => None,
        }
    }
}

impl Chunks {
    fn next(&mut self, input: &[u8]) -> Result<Step, Bad> {
        let mut at = 0;
        while at < input.len() {
            let byte = input[at];
            match self.state {
                ChunkState::Data => {
                    let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                    self.left -= len as u64;
                    if self.left == 0 {
                        self.state = ChunkState::DataCr;
                    }
                    return Ok(Step::Data { skip: at, len });
                }
                ChunkState::Trailers => return self.trailer(input, at),
                ChunkState::Size | ChunkState::Extension => {
                    self.line += 1;
                    if self.line > CHUNK_LINE_MAX {
                        return Err(bad("a chunk's line that is too long"));
                    }
                    self.size(byte)?;
                }
                ChunkState::SizeLf if byte == b'\n' => {
                    self.state = if self.left == 0 { ChunkState::Trailers } else { ChunkState::Data };
                }
                ChunkState::DataCr if byte == b'\r' => self.state = ChunkState::DataLf,
                ChunkState::DataLf if byte == b'\n' => (self.state, self.line, self.digits) = (ChunkState::Size, 0, 0),
                ChunkState::SizeLf => return Err(bad("a chunk's line with a CR in it")),
                ChunkState::DataCr | ChunkState::DataLf => return Err(bad("a chunk that is longer than it says")),
            }
            at += 1;
        }
        Ok(Step::More { skip: at })
    }

    /// One byte of the line of a chunk's size.
    fn size(&mut self, byte: u8) -> Result<(), Bad> {
        match byte {
            b'\r' if self.digits > 0 => self.state = ChunkState::SizeLf,
            b';' if self.digits > 0 => self.state = ChunkState::Extension,
            _ if self.state == ChunkState::Extension && is_value(&[byte]) => {}
            _ if self.state == ChunkState::Extension => return Err(bad("a control character in a chunk's line")),
            _ => {
                let digit = (byte as char).to_digit(16).ok_or(bad("a chunk's size that is no number"))?;
                self.digits += 1;
                if self.digits > CHUNK_DIGITS_MAX {
                    return Err(bad("a chunk's size that is too large"));
                }
                self.left = self.left << 4 | u64::from(digit);
            }
        }
        Ok(())
    }

    fn trailer(&mut self, input: &[u8], at: usize) -> Result<Step, Bad> {
        let before = self.trailer_bytes.len();
        let room = (self.trailer_bytes_max + 4).saturating_sub(before).min(input.len() - at);
        self.trailer_bytes.extend_from_slice(&input[at..at + room]);
        match self.scan.run(&self.trailer_bytes)? {
            Some(end) => {
                self.trailer_bytes.truncate(end);
                if end > 2 {
                    parse_trailers(&self.trailer_bytes, &mut self.trailers, self.fields_max)?;
                }
                Ok(Step::End { skip: at + end - before })
            }
            None if room < input.len() - at || self.trailer_bytes.len() > self.trailer_bytes_max => {
                Err(Bad { status: 431, why: "trailers that are too large" })
            }
            None => Ok(Step::More { skip: input.len() }),
        }
    }
}

/// Writes a body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// There is none, or it is all written.
    #[default]
    None,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
    /// The connection's end is the body's.
    UntilClose,
}

/// The body is longer or shorter than its head said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrongLength;

impl Encoder {
    /// Appends data with its framing.
    pub fn data(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), WrongLength> {
        match self {
            _ if data.is_empty() => {}
            Encoder::None => return Err(WrongLength),
            Encoder::Length(left) => {
                *left = left.checked_sub(data.len() as u64).ok_or(WrongLength)?;
                out.extend_from_slice(data);
            }
            Encoder::UntilClose => out.extend_from_slice(data),
            Encoder::Chunked => {
                push_hex(data.len(), out);
                out.extend_from_slice(b"\r\n");
                out.extend_from_slice(data);
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }

    /// Appends the end; trailers where the framing has a place for them.
    pub fn end(&mut self, trailers: Option<&Fields>, out: &mut Vec<u8>) -> Result<(), WrongLength> {
        match std::mem::take(self) {
            Encoder::None | Encoder::Length(0) | Encoder::UntilClose => {}
            Encoder::Length(_) => return Err(WrongLength),
            Encoder::Chunked => {
                out.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flat_map(Fields::iter) {
                    push_field(name, value, out);
                }
                out.extend_from_slice(b"\r\n");
            }
        }
        Ok(())
    }
}

/// Appends a line.
pub(crate) fn push_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn push_hex(number: usize, out: &mut Vec<u8>) {
    let digits = (usize::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for digit in (0..digits).rev() {
        out.push(b"0123456789abcdef"[number >> (digit * 4) & 15]);
    }
}

/// Appends a number.
pub(crate) fn push_decimal(number: u64, out: &mut Vec<u8>) {
    let (mut digits, mut at, mut rest) = ([0; 20], 20, number);
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All data of a body that comes in these pieces, and how many bytes were left over.
    fn decode(length: BodyLength, pieces: &[&[u8]]) -> Result<(Vec<u8>, bool, usize), Bad> {
        let (mut decoder, mut data, mut input) = (Decoder::new(length, 64, 4), Vec::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match decoder.next(&input)? {
                    Step::Data { skip, len } => {
                        data.extend_from_slice(&input[skip..skip + len]);
                        input.drain(..skip + len);
                    }
                    Step::More { skip } => {
                        input.drain(..skip);
                        break;
                    }
                    Step::End { skip } => return Ok((data, true, input.len() - skip)),
                }
            }
        }
        Ok((data, false, input.len()))
    }

    #[test]
    fn chunks_that_are_taken() {
        for (section, text, wanted, left) in [
            ("9112 §7.1", "3\r\nabc\r\n0\r\n\r\nrest", "abc", 4),
            ("9112 §7.1 two", "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "abcde", 0),
            ("9112 §7.1 hexadecimal, zeros", "00a\r\n0123456789\r\n000\r\n\r\n", "0123456789", 0),
            ("9112 §7.1.1 extensions", "3;a=b;c=\"d\"\r\nabc\r\n0;x\r\n\r\n", "abc", 0),
            ("9112 §7.1.2 trailers", "1\r\na\r\n0\r\nX: y\r\n\r\n!", "a", 1),
        ] {
            assert_eq!(decode(BodyLength::Streamed, &[text.as_bytes()]), Ok((wanted.into(), true, left)), "{section}");
            // And byte by byte.
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(decode(BodyLength::Streamed, &pieces).map(|it| it.0), Ok(wanted.into()), "{section}, in bytes");
        }
    }

    #[test]
    fn chunks_that_are_refused() {
        let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(300));
        let trailers = format!("0\r\nx: {}\r\n\r\n", "y".repeat(100));
        for (section, text) in [
            ("9112 §7.1 bare LF", "3\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1 bare LF behind the data", "3\r\nabc\n0\r\n\r\n"),
            ("9112 §7.1 longer than it says", "3\r\nabcd\r\n0\r\n\r\n"),
            ("9112 §7.1 no size", "\r\nabc"),
            ("9112 §7.1 a sign", "+3\r\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1 a space before", " 3\r\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1 a space behind", "3 \r\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1 beyond 60 bits", "1000000000000003\r\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1 a CR in the line", "3\rx\r\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1.1 a LF in an extension", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
            ("9112 §7.1.1 too long", &long),
            ("9112 §7.1.2 bare LF", "0\r\nX: y\n\r\n"),
            ("9112 §7.1.2 a folded line", "0\r\nX: y\r\n z\r\n\r\n"),
            ("9112 §7.1.2 too large", &trailers),
        ] {
            assert!(decode(BodyLength::Streamed, &[text.as_bytes()]).is_err(), "{section}: {text:?}");
            let pieces: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert!(decode(BodyLength::Streamed, &pieces).is_err(), "{section}, in bytes: {text:?}");
        }
    }

    #[test]
    fn trailers_that_frame_or_route_are_left_out() {
        let mut decoder = Decoder::new(BodyLength::Streamed, 256, 8);
        let text = b"0\r\nContent-Length: 5\r\nHost: x\r\ngrpc-status: 0\r\nAuthorization: y\r\n\r\n";
        assert_eq!(decoder.next(text), Ok(Step::End { skip: text.len() }));
        let names: Vec<_> =
            decoder.trailers().into_iter().flat_map(Fields::iter).map(|(name, _)| name.to_vec()).collect();
        assert_eq!(names, [b"grpc-status"]);
    }

    #[test]
    fn lengths_are_kept() {
        assert_eq!(decode(BodyLength::Known(3), &[b"ab", b"cde"]), Ok((b"abc".to_vec(), true, 2)));
        assert_eq!(decode(BodyLength::Known(3), &[b"ab"]), Ok((b"ab".to_vec(), false, 0)));
        let mut out = Vec::new();
        let mut encoder = Encoder::Length(3);
        assert_eq!(encoder.data(b"abcd", &mut out), Err(WrongLength));
        assert_eq!((encoder.data(b"ab", &mut out), encoder.end(None, &mut out)), (Ok(()), Err(WrongLength)));
    }

    #[test]
    fn numbers() {
        let text = |push: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            push(&mut out);
            String::from_utf8(out).expect("ASCII")
        };
        for number in [0, 1, 9, 10, 15, 16, 255, 4096, 1_000_000, usize::MAX] {
            assert_eq!(text(&|out| push_hex(number, out)), format!("{number:x}"));
            assert_eq!(text(&|out| push_decimal(number as u64, out)), number.to_string());
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..8), cut in 1usize..9) {
            let (mut encoder, mut out) = (Encoder::Chunked, Vec::new());
            for chunk in &chunks {
                prop_assert_eq!(encoder.data(chunk, &mut out), Ok(()));
            }
            prop_assert_eq!(encoder.end(None, &mut out), Ok(()));
            let pieces: Vec<&[u8]> = out.chunks(cut).collect();
            prop_assert_eq!(decode(BodyLength::Streamed, &pieces), Ok((chunks.concat(), true, 0)));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'f')], 0..100), cut in 1usize..9) {
            let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
            let _ = decode(BodyLength::Streamed, &pieces);
        }
    }
}

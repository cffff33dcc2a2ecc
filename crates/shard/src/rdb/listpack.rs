//! Listpacks: elements one behind the other, each followed by its own length so that they can be walked backwards.
//!
//! ```text
//!   bytes in all (4)  elements (2; 65535: not counted)  { encoding  bytes  length of both, 7 bits a byte } …  0xFF
//! ```

use base::format_i64;

use super::BadData;

const HEADER: usize = 6;
const END: u8 = 0xFF;

const BAD: BadData = BadData("a listpack is damaged");

/// An element: numbers are kept as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element<'a> {
    Text(&'a [u8]),
    Number(i64),
}

impl<'a> Element<'a> {
    /// As bytes, whatever it is kept as.
    pub fn bytes<'b>(&self, buffer: &'b mut [u8; 20]) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Element::Text(text) => text,
            Element::Number(number) => format_i64(*number, buffer),
        }
    }

    /// As a number, where it is one.
    pub fn number(&self) -> Option<i64> {
        match self {
            Element::Text(text) => base::parse_i64(text),
            Element::Number(number) => Some(*number),
        }
    }

    /// As a score.
    pub fn score(&self) -> Option<f64> {
        match self {
            Element::Text(text) => base::parse_f64(text).filter(|score| !score.is_nan()),
            Element::Number(number) => Some(*number as f64),
        }
    }
}

/// The elements of a listpack, checked as they are read.
pub struct Listpack<'a> {
    rest: &'a [u8],
}

impl<'a> Listpack<'a> {
    /// Begins to read; `bytes` must be the whole listpack.
    pub fn new(bytes: &'a [u8]) -> Result<Listpack<'a>, BadData> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(BAD)?;
        let (_, rest) = rest.split_first_chunk::<2>().ok_or(BAD)?;
        let rest = rest.strip_suffix(&[END]).ok_or(BAD)?;
        if u32::from_le_bytes(*length) as usize != bytes.len() {
            return Err(BAD);
        }
        Ok(Listpack { rest })
    }

    /// The next element, `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Element<'a>>, BadData> {
        let Some(first) = self.rest.first().copied() else {
            return Ok(None);
        };
        let byte = |at: usize| self.rest.get(at).copied().map(usize::from).ok_or(BAD);
        let sign = |bits: usize, width: u32| ((bits as i64) << (64 - width)) >> (64 - width);
        let little = |count: usize| {
            let bytes = self.rest.get(1..1 + count).ok_or(BAD)?;
            Ok(bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte)))
        };
        let low = usize::from(first);
        let (head, text, number) = match first {
            0x00..=0x7F => (1, 0, Some(i64::from(first))),
            0x80..=0xBF => (1, low & 0x3F, None),
            0xC0..=0xDF => (2, 0, Some(sign((low & 0x1F) << 8 | byte(1)?, 13))),
            0xE0..=0xEF => (2, (low & 0x0F) << 8 | byte(1)?, None),
            0xF0 => (5, little(4)?, None),
            0xF1 => (3, 0, Some(sign(little(2)?, 16))),
            0xF2 => (4, 0, Some(sign(little(3)?, 24))),
            0xF3 => (5, 0, Some(sign(little(4)?, 32))),
            0xF4 => (9, 0, Some(sign(little(8)?, 64))),
            _ => return Err(BAD),
        };
        let len = head + text;
        let bytes = self.rest.get(head..len).ok_or(BAD)?;
        let mut back = smallvec::SmallVec::new();
        put_back_length(&mut back, len);
        self.rest = self.rest[len..].strip_prefix(&back[..]).ok_or(BAD)?;
        Ok(Some(number.map_or(Element::Text(bytes), Element::Number)))
    }

    /// The next element, which must be there.
    pub fn expect(&mut self) -> Result<Element<'a>, BadData> {
        self.next()?.ok_or(BAD)
    }

    /// The next element, which must be a number.
    pub fn expect_number(&mut self) -> Result<i64, BadData> {
        self.expect()?.number().ok_or(BAD)
    }
}

/// How long an element is, to be read from its end: the highest seven bits first, all bytes but the first marked.
fn put_back_length(out: &mut smallvec::SmallVec<[u8; 5]>, len: usize) {
    let bytes = match len {
        0..=127 => 1,
        128..=16383 => 2,
        16384..=2_097_151 => 3,
        2_097_152..=268_435_455 => 4,
        _ => 5,
    };
    for at in (0..bytes).rev() {
        let bits = (len >> (7 * at)) as u8 & 0x7F;
        out.push(if at + 1 == bytes { bits } else { bits | 0x80 });
    }
}

/// A listpack that is being written.
pub struct Builder {
    bytes: Vec<u8>,
    count: usize,
}

impl Builder {
    /// An empty one.
    pub fn new() -> Builder {
        Builder { bytes: vec![0; HEADER], count: 0 }
    }

    /// How many bytes it has by now.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// How many elements it has by now.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds an element, as a number where it is one.
    pub fn push(&mut self, element: &[u8]) {
        if let Some(number) = base::parse_i64(element) {
            return self.push_number(number);
        }
        let from = self.bytes.len();
        match element.len() {
            len @ 0..=63 => self.bytes.push(0x80 | len as u8),
            len @ 64..=4095 => self.bytes.extend([0xE0 | (len >> 8) as u8, len as u8]),
            len => {
                self.bytes.push(0xF0);
                self.bytes.extend_from_slice(&(len as u32).to_le_bytes());
            }
        }
        self.bytes.extend_from_slice(element);
        self.end(from);
    }

    /// Adds a number.
    pub fn push_number(&mut self, number: i64) {
        let from = self.bytes.len();
        let little = number.to_le_bytes();
        match number {
            0..=127 => self.bytes.push(number as u8),
            -4096..=4095 => self.bytes.extend([0xC0 | (number >> 8) as u8 & 0x1F, number as u8]),
            -32768..=32767 => {
                self.bytes.push(0xF1);
                self.bytes.extend_from_slice(&little[..2]);
            }
            -8_388_608..=8_388_607 => {
                self.bytes.push(0xF2);
                self.bytes.extend_from_slice(&little[..3]);
            }
            -2_147_483_648..=2_147_483_647 => {
                self.bytes.push(0xF3);
                self.bytes.extend_from_slice(&little[..4]);
            }
            _ => {
                self.bytes.push(0xF4);
                self.bytes.extend_from_slice(&little);
            }
        }
        self.end(from);
    }

    fn end(&mut self, from: usize) {
        let mut back = smallvec::SmallVec::new();
        put_back_length(&mut back, self.bytes.len() - from);
        self.bytes.extend_from_slice(&back);
        self.count += 1;
    }

    /// The whole.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.push(END);
        let length = (self.bytes.len() as u32).to_le_bytes();
        self.bytes[..4].copy_from_slice(&length);
        let count = self.count.min(usize::from(u16::MAX)) as u16;
        self.bytes[4..6].copy_from_slice(&count.to_le_bytes());
        self.bytes
    }
}

#[test]
fn elements_of_every_size_come_back() {
    let numbers =
        [0, 1, 127, 128, 4095, 4096, -1, -4096, -4097, 32767, -32768, 32768, 8_388_607, -8_388_608, 8_388_608]
            .into_iter()
            .chain([i64::from(i32::MIN), i64::from(i32::MAX), i64::from(i32::MAX) + 1, i64::MIN, i64::MAX]);
    let texts = [0, 1, 63, 64, 126, 127, 4095, 4096, 16_380, 70_000, 2_100_000].map(|len| vec![b'x'; len]);
    let mut builder = Builder::new();
    numbers.clone().for_each(|number| builder.push_number(number));
    texts.iter().for_each(|text| builder.push(text));
    builder.push(b"-17");
    builder.push(b"+17");
    let bytes = builder.finish();
    let mut listpack = Listpack::new(&bytes).unwrap();
    for number in numbers {
        assert_eq!(listpack.next(), Ok(Some(Element::Number(number))));
    }
    for text in &texts {
        assert_eq!(listpack.next(), Ok(Some(Element::Text(text))));
    }
    assert_eq!(listpack.next(), Ok(Some(Element::Number(-17))));
    assert_eq!(listpack.next(), Ok(Some(Element::Text(b"+17"))));
    assert_eq!(listpack.next(), Ok(None));
}

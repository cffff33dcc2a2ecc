//! What Redis packed small values into before listpacks: ziplists and zipmaps, and intsets, which still are.

use super::BadData;
use super::listpack::Element;

const BAD: BadData = BadData("a ziplist is damaged");

/// The elements of a ziplist: `bytes in all (4)  offset of the last (4)  elements (2)  { previous' length  encoding  bytes } …  0xFF`.
pub struct Ziplist<'a> {
    rest: &'a [u8],
}

impl<'a> Ziplist<'a> {
    /// Begins to read; `bytes` must be the whole ziplist.
    pub fn new(bytes: &'a [u8]) -> Result<Ziplist<'a>, BadData> {
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or(BAD)?;
        let (_, rest) = rest.split_first_chunk::<6>().ok_or(BAD)?;
        let rest = rest.strip_suffix(&[0xFF]).ok_or(BAD)?;
        if u32::from_le_bytes(*length) as usize != bytes.len() {
            return Err(BAD);
        }
        Ok(Ziplist { rest })
    }

    /// The next element, `None` behind the last.
    pub fn next(&mut self) -> Result<Option<Element<'a>>, BadData> {
        let Some(first) = self.rest.first() else {
            return Ok(None);
        };
        self.take(if *first < 254 { 1 } else { 5 })?;
        let first = self.take(1)?[0];
        let number = |bytes: &[u8]| {
            let bits = bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            let unused = 64 - 8 * bytes.len() as u32;
            Element::Number(((bits << unused) as i64) >> unused)
        };
        let text = |len: usize, own: &mut Self| own.take(len).map(Element::Text);
        let element = match first {
            0x00..=0x3F => text(usize::from(first), self)?,
            0x40..=0x7F => {
                let len = usize::from(first & 0x3F) << 8 | usize::from(self.take(1)?[0]);
                text(len, self)?
            }
            0x80 => {
                let len = self.take(4)?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
                text(len, self)?
            }
            0xC0 => number(self.take(2)?),
            0xD0 => number(self.take(4)?),
            0xE0 => number(self.take(8)?),
            0xF0 => number(self.take(3)?),
            0xFE => number(self.take(1)?),
            0xF1..=0xFD => Element::Number(i64::from(first & 0x0F) - 1),
            _ => return Err(BAD),
        };
        Ok(Some(element))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], BadData> {
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(BAD)?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// The numbers of an intset: `width (4)  numbers (4)  numbers, ascending`.
pub fn intset(bytes: &[u8]) -> Result<impl Iterator<Item = i64>, BadData> {
    const BAD: BadData = BadData("an intset is damaged");
    let (width, rest) = bytes.split_first_chunk::<4>().ok_or(BAD)?;
    let (count, rest) = rest.split_first_chunk::<4>().ok_or(BAD)?;
    let (width, count) = (u32::from_le_bytes(*width) as usize, u32::from_le_bytes(*count) as usize);
    if !matches!(width, 2 | 4 | 8) || rest.len() != count.saturating_mul(width) {
        return Err(BAD);
    }
    let unused = 64 - 8 * width as u32;
    let number = move |bytes: &[u8]| {
        let bits = bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        ((bits << unused) as i64) >> unused
    };
    Ok(rest.chunks_exact(width).map(number))
}

/// Fields and values of a zipmap (Redis before 2.6): `pairs  { length  bytes  length  free  bytes  unused } …  0xFF`.
pub fn zipmap<'a>(
    bytes: &'a [u8],
    mut visit: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), BadData>,
) -> Result<(), BadData> {
    const BAD: BadData = BadData("a zipmap is damaged");
    fn take<'a>(rest: &mut &'a [u8], len: usize) -> Result<&'a [u8], BadData> {
        let (bytes, after) = rest.split_at_checked(len).ok_or(BAD)?;
        *rest = after;
        Ok(bytes)
    }
    fn length(rest: &mut &[u8]) -> Result<usize, BadData> {
        Ok(match take(rest, 1)?[0] {
            254 => take(rest, 4)?.iter().rev().fold(0, |len, byte| len << 8 | usize::from(*byte)),
            255 => return Err(BAD),
            len => usize::from(len),
        })
    }
    let mut rest = bytes.get(1..).ok_or(BAD)?.strip_suffix(&[0xFF]).ok_or(BAD)?;
    while !rest.is_empty() {
        let len = length(&mut rest)?;
        let field = take(&mut rest, len)?;
        let len = length(&mut rest)?;
        let free = usize::from(take(&mut rest, 1)?[0]);
        let value = take(&mut rest, len)?;
        take(&mut rest, free)?;
        visit(field, value)?;
    }
    Ok(())
}

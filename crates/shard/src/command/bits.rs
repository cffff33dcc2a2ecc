//! Bits of strings: bit 0 is the highest bit of the first byte, and beyond the end all bits are zero.

use store::table::Expiry;
use store::value::Value;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, bitfield, integer, is};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

family!("bitmap");

const KEY: Keys = Keys::Range(1, 1, 1);

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("setbit", 4, Flags::GROWS, KEY, Run::Write(setbit), "2.2.0", "Sets or clears the bit at offset of the string value. Creates the key if it doesn't exist."),
    spec("getbit", 3, Flags::FAST, KEY, Run::Read(getbit), "2.2.0", "Returns a bit value by offset."),
    spec("bitcount", -2, Flags::NONE, KEY, Run::Read(bitcount), "2.6.0", "Counts the number of set bits (population counting) in a string."),
    spec("bitpos", -3, Flags::NONE, KEY, Run::Read(bitpos), "2.8.7", "Finds the first set (1) or clear (0) bit in a string."),
    spec("bitop", -4, Flags::GROWS, Keys::Range(2, -1, 1), Run::Write(bitop), "2.6.0", "Performs bitwise operations on multiple strings, and stores the result."),
    spec("bitfield", -2, Flags::GROWS, KEY, Run::Write(bitfield::bitfield), "3.2.0", "Performs arbitrary bitfield integer operations on strings."),
    spec("bitfield_ro", -2, Flags::FAST, KEY, Run::Read(bitfield::bitfield_ro), "6.0.0", "Performs arbitrary read-only bitfield integer operations on strings."),
];

const BAD_OFFSET: CommandError = CommandError::new("ERR bit offset is not an integer or out of range");
const BAD_BIT: CommandError = CommandError::new("ERR bit is not an integer or out of range");

/// A bit's place in a string of at most `longest` bytes. With `width` the form `#n` means the n-th field of that width.
pub(super) fn offset(word: &[u8], width: Option<i64>, longest: usize) -> Result<u64, CommandError> {
    let place = match (word, width) {
        ([b'#', rest @ ..], Some(width)) => base::parse_i64(rest).and_then(|nth| nth.checked_mul(width)),
        _ => base::parse_i64(word),
    };
    let place = place.and_then(|place| u64::try_from(place).ok());
    place.filter(|place| place >> 3 < longest as u64).ok_or(BAD_OFFSET)
}

fn text<'a>(reading: &'a Reading<'_>, key: &[u8]) -> Result<Option<&'a [u8]>, CommandError> {
    Ok(reading.tables.text(reading.db, key, reading.now)?)
}

fn bit_at(text: &[u8], place: u64) -> bool {
    text.get((place >> 3) as usize).is_some_and(|byte| byte & 0x80 >> (place & 7) != 0)
}

fn setbit(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let place = offset(args[2], None, writing.limits.bulk_bytes_max)?;
    let on = match base::parse_i64(args[3]) {
        Some(bit @ 0..=1) => bit == 1,
        _ => return Err(BAD_BIT),
    };
    let was = writing.tables.upsert_text(writing.db, args[1], writing.now, |text: &mut Vec<u8>| {
        let byte = (place >> 3) as usize;
        let grows = byte >= text.len();
        if grows {
            text.resize(byte + 1, 0);
        }
        let was = bit_at(text, place);
        let mask = 0x80 >> (place & 7);
        text[byte] = if on { text[byte] | mask } else { text[byte] & !mask };
        (grows || was != on, was)
    })?;
    reply.int(i64::from(was));
    Ok(())
}

fn getbit(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    // A read knows no limits of its own; beyond every string all bits are zero anyway.
    let place = offset(args[2], None, base::Limits::DEFAULT.bulk_bytes_max)?;
    let text = text(reading, args[1])?.unwrap_or_default();
    reply.int(i64::from(bit_at(text, place)));
    Ok(())
}

/// Whether a range of BITCOUNT or BITPOS counts bits; `None` is not given.
fn unit(word: Option<&&[u8]>) -> Result<bool, CommandError> {
    match word {
        None => Ok(false),
        Some(word) if is(word, "BIT") => Ok(true),
        Some(word) if is(word, "BYTE") => Ok(false),
        Some(_) => Err(SYNTAX),
    }
}

/// The first bit of a range and the one behind its last. Indexes below zero count from the end.
fn bit_range(len: usize, start: i64, end: i64, by_bit: bool) -> Option<(u64, u64)> {
    let total = if by_bit { len as i64 * 8 } else { len as i64 };
    let place = |index: i64| if index < 0 { total.saturating_add(index).max(0) } else { index };
    let (start, end) = (place(start), place(end).min(total - 1));
    if start > end {
        return None;
    }
    let (start, end) = (start as u64, end as u64 + 1);
    Some(if by_bit { (start, end) } else { (start * 8, end * 8) })
}

fn bitcount(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let Some(text) = text(reading, args[1])? else {
        reply.int(0);
        return Ok(());
    };
    let range = match args.len() {
        2 => bit_range(text.len(), 0, -1, false),
        4 | 5 => {
            let (start, end) = (integer(args[2])?, integer(args[3])?);
            let backwards = start < 0 && end < 0 && start > end;
            // Redis answers 0 to such a range before it looks at the unit.
            if backwards { None } else { bit_range(text.len(), start, end, unit(args.get(4))?) }
        }
        _ => return Err(SYNTAX),
    };
    reply.int(range.map_or(0, |(start, end)| ones(text, start, end)) as i64);
    Ok(())
}

/// How many bits are set from `start` to before `end`, which lie within the text.
fn ones(text: &[u8], start: u64, end: u64) -> u64 {
    let bytes = &text[(start >> 3) as usize..end.div_ceil(8) as usize];
    let (words, rest) = bytes.as_chunks::<8>();
    let all: u64 = words.iter().map(|word| u64::from(u64::from_le_bytes(*word).count_ones())).sum::<u64>()
        + rest.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
    let (first, last) = (bytes[0], bytes[bytes.len() - 1]);
    let before = first & !(0xFF >> (start & 7));
    let after = if end & 7 == 0 { 0 } else { last & (0xFF >> (end & 7)) };
    all - u64::from(before.count_ones()) - u64::from(after.count_ones())
}

fn bitpos(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let wanted = match integer(args[2])? {
        bit @ 0..=1 => bit == 1,
        _ => return Err(CommandError::new("ERR The bit argument must be 1 or 0.")),
    };
    let Some(text) = text(reading, args[1])? else {
        reply.int(if wanted { -1 } else { 0 });
        return Ok(());
    };
    let (start, end, by_bit) = match args.len() {
        3 => (0, -1, false),
        4 => (integer(args[3])?, -1, false),
        5 | 6 => {
            let start = integer(args[3])?;
            let by_bit = unit(args.get(5))?;
            (start, integer(args[4])?, by_bit)
        }
        _ => return Err(SYNTAX),
    };
    let end_given = args.len() >= 5;
    reply.int(match bit_range(text.len(), start, end, by_bit) {
        None => -1,
        Some((start, end)) => match first(text, start, end, wanted) {
            Some(place) => place as i64,
            // Without an end the string goes on in zeros.
            None if !wanted && !end_given => text.len() as i64 * 8,
            None => -1,
        },
    });
    Ok(())
}

/// The first bit of that value from `start` to before `end`, which lie within the text.
fn first(text: &[u8], start: u64, end: u64, wanted: bool) -> Option<u64> {
    let dull = if wanted { 0 } else { 0xFF };
    let mut place = start;
    while place < end {
        if place & 7 == 0 {
            // Bytes without such a bit are skipped whole.
            let rest = &text[(place >> 3) as usize..end.div_ceil(8) as usize];
            place += rest.iter().take_while(|byte| **byte == dull).count() as u64 * 8;
            if place >= end {
                return None;
            }
        }
        if bit_at(text, place) == wanted {
            return Some(place);
        }
        place += 1;
    }
    None
}

fn bitop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (target, sources) = (args[2], &args[3..]);
    let mut negate = false;
    let operation: fn(u8, u8) -> u8 = match super::upper(args[1]).as_slice() {
        b"AND" => |a, b| a & b,
        b"OR" => |a, b| a | b,
        b"XOR" => |a, b| a ^ b,
        b"NOT" if sources.len() == 1 => {
            negate = true;
            |a, _| a
        }
        b"NOT" => return Err(CommandError::new("ERR BITOP NOT must be called with a single source key.")),
        _ => return Err(SYNTAX),
    };
    let reading = writing.reading();
    let texts = sources.iter().map(|key| Ok(text(&reading, key)?.unwrap_or_default()));
    let texts = texts.collect::<Result<Vec<&[u8]>, CommandError>>()?;
    let len = texts.iter().map(|text| text.len()).max().unwrap_or(0);
    let mut result = texts[0].to_vec();
    result.resize(len, 0);
    if negate {
        result.iter_mut().for_each(|byte| *byte = !*byte);
    }
    for text in &texts[1..] {
        let (within, beyond) = result.split_at_mut(text.len());
        for (byte, other) in within.iter_mut().zip(*text) {
            *byte = operation(*byte, *other);
        }
        for byte in beyond {
            *byte = operation(*byte, 0);
        }
    }
    if result.is_empty() {
        writing.tables.remove(writing.db, target, writing.now);
    } else {
        writing.tables.set(writing.db, target, Value::from(result), Expiry::Clear, writing.now);
    }
    reply.int(len as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/bits.txt"));
    }
}

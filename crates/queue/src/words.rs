//! Words of the stored forms beside `store::codec`'s: signed numbers, text, truth values.

use store::codec::{Corrupt, Input, put_bytes, put_varint};

/// Appends a signed number (zigzag).
pub(crate) fn put_int(out: &mut Vec<u8>, value: i64) {
    put_varint(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Reads what [`put_int`] wrote.
pub(crate) fn int(input: &mut Input<'_>) -> Result<i64, Corrupt> {
    let raw = input.varint()?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

pub(crate) fn int32(input: &mut Input<'_>) -> Result<i32, Corrupt> {
    i32::try_from(int(input)?).map_err(|_| Corrupt("a number is too large"))
}

pub(crate) fn int16(input: &mut Input<'_>) -> Result<i16, Corrupt> {
    i16::try_from(int(input)?).map_err(|_| Corrupt("a number is too large"))
}

pub(crate) fn uint32(input: &mut Input<'_>) -> Result<u32, Corrupt> {
    u32::try_from(input.varint()?).map_err(|_| Corrupt("a number is too large"))
}

pub(crate) fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.push(u8::from(value));
}

pub(crate) fn truth(input: &mut Input<'_>) -> Result<bool, Corrupt> {
    match input.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Corrupt("a truth value that is neither")),
    }
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

pub(crate) fn text<'a>(input: &mut Input<'a>) -> Result<&'a str, Corrupt> {
    std::str::from_utf8(input.bytes()?).map_err(|_| Corrupt("a text that is not UTF-8"))
}

/// Appends a value that may be missing.
pub(crate) fn put_maybe<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    put_bool(out, value.is_some());
    if let Some(value) = value {
        put(out, value);
    }
}

/// Reads what [`put_maybe`] wrote.
pub(crate) fn maybe<'a, T>(
    input: &mut Input<'a>,
    read: impl FnOnce(&mut Input<'a>) -> Result<T, Corrupt>,
) -> Result<Option<T>, Corrupt> {
    if truth(input)? { read(input).map(Some) } else { Ok(None) }
}

/// Reads a count and as many things.
pub(crate) fn list<'a, T>(
    input: &mut Input<'a>,
    mut read: impl FnMut(&mut Input<'a>) -> Result<T, Corrupt>,
) -> Result<Vec<T>, Corrupt> {
    let count = input.count()?;
    // What is read may be larger than the byte that stands for it: no more is reserved than is read.
    let mut things = Vec::new();
    for _ in 0..count {
        things.push(read(input)?);
    }
    Ok(things)
}

/// Refuses a form that goes on where it should end.
pub(crate) fn end(input: &Input<'_>) -> Result<(), Corrupt> {
    if input.is_empty() { Ok(()) } else { Err(Corrupt("something follows where nothing should")) }
}

/// Reads a version byte.
pub(crate) fn version(input: &mut Input<'_>, known: u8) -> Result<(), Corrupt> {
    if input.u8()? == known { Ok(()) } else { Err(Corrupt("a queue of a version that this build does not know")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signed_numbers_read_back() {
        for value in [0, 1, -1, 63, -64, i64::MAX, i64::MIN, i64::from(i32::MIN)] {
            let mut bytes = Vec::new();
            put_int(&mut bytes, value);
            assert_eq!(int(&mut Input::new(&bytes)), Ok(value));
        }
    }
}

//! LZF, as Redis compresses strings (LibLZF's format): runs of literals, and copies of what came before.

use super::BadData;

const BAD: BadData = BadData("a compressed string is damaged");

/// Most bytes that one compressed byte can stand for: three make a copy of 264.
const EXPANSION_MAX: usize = 88;

/// The text of `len` bytes that these are. Allocates no more than they can be.
pub fn decompress(mut bytes: &[u8], len: usize) -> Result<Vec<u8>, BadData> {
    if len > bytes.len().saturating_mul(EXPANSION_MAX) {
        return Err(BAD);
    }
    let mut text = Vec::with_capacity(len);
    while let [control, rest @ ..] = bytes {
        bytes = rest;
        let control = usize::from(*control);
        if control < 32 {
            let (literal, rest) = bytes.split_at_checked(control + 1).ok_or(BAD)?;
            text.extend_from_slice(literal);
            bytes = rest;
        } else {
            let mut count = control >> 5;
            if count == 7 {
                let (more, rest) = bytes.split_first().ok_or(BAD)?;
                count += usize::from(*more);
                bytes = rest;
            }
            let (low, rest) = bytes.split_first().ok_or(BAD)?;
            bytes = rest;
            let back = ((control & 0x1F) << 8 | usize::from(*low)) + 1;
            let from = text.len().checked_sub(back).ok_or(BAD)?;
            if text.len() + count + 2 > len {
                return Err(BAD);
            }
            // What is copied may be what this copy writes.
            (from..from + count + 2).for_each(|at| text.push(text[at]));
        }
        if text.len() > len {
            return Err(BAD);
        }
    }
    if text.len() == len { Ok(text) } else { Err(BAD) }
}

#[test]
fn copies_may_overlap_and_nothing_reaches_outside() {
    assert_eq!(decompress(b"\x00a\xe0\x10\x00", 26).unwrap(), [b'a'; 26]);
    assert_eq!(decompress(b"\x02abc\x20\x02", 6).unwrap(), b"abcabc");
    for (bytes, len) in [
        (&b"\x00a\xe0\x10\x01"[..], 26),
        (b"\x00a\xe0\x10\x00", 25),
        (b"\x00a\xe0\x10\x00", 27),
        (b"\x05ab", 6),
        (b"\x00a\xe0", 1),
        (b"\x00a\x20", 4),
        (b"", 1),
        (b"\x00a", usize::MAX),
    ] {
        assert_eq!(decompress(bytes, len), Err(BAD), "{bytes:?} {len}");
    }
}

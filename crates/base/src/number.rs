//! Numbers as Redis reads and writes them.

/// Reads a whole signed decimal exactly as Redis's `string2ll` does: no spaces, no `+`, no leading zeros, no `-0`.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    match digits {
        [] => return None,
        [b'0'] => return (!negative).then_some(0),
        [b'0', ..] => return None,
        _ if digits.len() > 19 => return None,
        _ => {}
    }
    let mut value: u64 = 0;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))?;
    }
    if negative {
        if value > 1 << 63 { None } else { Some((value as i64).wrapping_neg()) }
    } else {
        i64::try_from(value).ok()
    }
}

/// Reads a floating point number as Redis does for scores and INCRBYFLOAT: the whole text, no spaces, no NaN;
/// `inf`, `+inf`, `-inf` and `infinity` in any case are numbers.
pub fn parse_f64(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    if text.is_empty() || text.len() > 512 {
        return None;
    }
    let value = match hexadecimal(text) {
        Some(value) => value,
        None => text.parse::<f64>().ok()?,
    };
    (!value.is_nan()).then_some(value)
}

/// C's `strtod` also takes `0x10`; whole hexadecimal numbers are read, exponents of two are not.
fn hexadecimal(text: &str) -> Option<f64> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    let digits = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X"))?;
    u64::from_str_radix(digits, 16).ok().map(|value| sign * value as f64)
}

/// How many bytes [`format_i64`] writes.
pub fn decimal_len(value: i64) -> usize {
    let mut buffer = [0; 20];
    format_i64(value, &mut buffer).len()
}

/// Writes a decimal into `buffer` and returns the part that was written.
pub fn format_i64(value: i64, buffer: &mut [u8; 20]) -> &[u8] {
    let mut at = buffer.len();
    let mut rest = value.unsigned_abs();
    loop {
        at -= 1;
        buffer[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

#[cfg(test)]
mod tests {
    use super::{format_i64, parse_f64, parse_i64};

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, value) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(parse_i64(text.as_bytes()), Some(value), "{text}");
            assert_eq!(format_i64(value, &mut [0; 20]), text.as_bytes());
        }
        for text in ["", "-", "-0", "00", "01", "+1", " 1", "1 ", "1a", "9223372036854775808", "-9223372036854775809"] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn floats_are_read_as_redis_reads_them() {
        assert_eq!(parse_f64(b"3.5e2"), Some(350.0));
        assert_eq!(parse_f64(b"+inf"), Some(f64::INFINITY));
        assert_eq!(parse_f64(b"-Infinity"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_f64(b"0x10"), Some(16.0));
        for text in [&b""[..], b" 1", b"1 ", b"nan", b"1a", b"\xff"] {
            assert_eq!(parse_f64(text), None, "{text:?}");
        }
    }
}

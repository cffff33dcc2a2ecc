//! Numbers as C's `printf("%.14g")` writes and `strtod` reads them: what Lua 5.1 and its JSON library use.

/// A number in at most 14 significant digits, as Lua's `tostring` writes it.
pub fn text(value: f64) -> String {
    general(value, 14)
}

/// `%.{digits}g`.
pub fn general(value: f64, digits: usize) -> String {
    if value.is_nan() {
        return if value.is_sign_negative() { "-nan".into() } else { "nan".into() };
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf".into() } else { "-inf".into() };
    }
    let digits = digits.max(1);
    let scientific = format!("{:.*e}", digits - 1, value);
    let (mantissa, exponent) = scientific.split_once('e').expect("Rust's {:e} always writes an exponent");
    let exponent: i32 = exponent.parse().expect("the exponent is a small integer");
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    let decimals = (digits as i32 - 1 - exponent).max(0) as usize;
    trim(&format!("{value:.decimals$}"))
}

/// A string that reads as a number in Lua: blanks around it, decimal or hexadecimal.
pub fn parse(text: &[u8]) -> Option<f64> {
    let text = trim(text);
    let (value, used) = prefix(text)?;
    (used == text.len()).then_some(value)
}

fn trim(text: &[u8]) -> &[u8] {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = text.iter().position(|byte| !blank(byte)).unwrap_or(text.len());
    let end = text.iter().rposition(|byte| !blank(byte)).map_or(start, |end| end + 1);
    &text[start..end]
}

/// The longest prefix that `strtod` reads (without leading blanks), and its length.
pub fn prefix(text: &[u8]) -> Option<(f64, usize)> {
    let sign = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let rest = &text[sign..];
    let signed = |value: f64| if text[0] == b'-' { -value } else { value };
    let starts = |word: &[u8]| rest.len() >= word.len() && rest[..word.len()].eq_ignore_ascii_case(word);
    if starts(b"infinity") {
        return Some((signed(f64::INFINITY), sign + 8));
    }
    if starts(b"inf") {
        return Some((signed(f64::INFINITY), sign + 3));
    }
    if starts(b"nan") {
        return Some((signed(f64::NAN), sign + 3));
    }
    if starts(b"0x") && rest.get(2).is_some_and(u8::is_ascii_hexdigit) {
        let digits = rest[2..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let value = rest[2..2 + digits]
            .iter()
            .fold(0.0, |value, digit| value * 16.0 + f64::from((*digit as char).to_digit(16).expect("a hex digit")));
        return Some((signed(value), sign + 2 + digits));
    }
    let count = |from: usize| rest[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole = count(0);
    let mut end = whole;
    let mut fraction = 0;
    if rest.get(end) == Some(&b'.') {
        fraction = count(end + 1);
        if whole + fraction > 0 {
            end += 1 + fraction;
        }
    }
    if whole + fraction == 0 {
        return None;
    }
    if matches!(rest.get(end), Some(b'e' | b'E')) {
        let exponent_sign = usize::from(matches!(rest.get(end + 1), Some(b'+' | b'-')));
        let exponent = count((end + 1 + exponent_sign).min(rest.len()));
        if exponent > 0 {
            end += 1 + exponent_sign + exponent;
        }
    }
    let digits = std::str::from_utf8(&rest[..end]).expect("only ASCII was counted");
    let value: f64 = digits.parse().ok()?;
    Some((signed(value), sign + end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_printf_does() {
        for (value, expected) in [
            (0.0, "0"),
            (0.1, "0.1"),
            (1e20, "1e+20"),
            (1e14, "1e+14"),
            (123456789012345.0, "1.2345678901234e+14"),
            (12345678901234.0, "12345678901234"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-2.5, "-2.5"),
            (1.0 / 3.0, "0.33333333333333"),
            (100.0, "100"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(text(value), expected);
        }
        assert_eq!(general(1.0 / 3.0, 3), "0.333");
    }

    #[test]
    fn numbers_are_read_as_strtod_does() {
        for (text, expected) in
            [("10", 10.0), (" 0x10 ", 16.0), ("1e3", 1000.0), (".5", 0.5), ("5.", 5.0), ("-1.5", -1.5), ("+2", 2.0)]
        {
            assert_eq!(parse(text.as_bytes()), Some(expected), "{text}");
        }
        for text in ["", " ", "x", "1x", "0x", ".", "e5", "1 2"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(prefix(b"1e+"), Some((1.0, 1)));
    }
}

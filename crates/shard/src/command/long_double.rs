//! The numbers of INCRBYFLOAT and HINCRBYFLOAT: the x87's 80-bit floats, in integers, so that every machine and every
//! replica comes to the same digits as Redis on x86-64 does.
//!
//! ```text
//!   value = ± mantissa · 2^exponent, mantissa a full 64 bits (top bit set) or zero
//!   parse     decimal → big integer ratio → 64 bits, half to even      (C's strtold)
//!   plus      align, add with a sticky bit, half to even               (C's +)
//!   to_text   17 places, half to even, trailing zeros cut              (Redis's ld2string, LD_STR_HUMAN)
//! ```
//!
//! Caveat: numbers below 2^-16382, where the x87 loses digits, keep all of theirs. They print as 0 either way.

use std::cmp::Ordering;

/// Most bytes a number may have, as Redis's `MAX_LONG_DOUBLE_CHARS`.
const TEXT_MAX: usize = 5 * 1024;
/// The largest power of two that a mantissa's top bit can stand for.
const TOP_MAX: i32 = 16383;
/// The smallest one that is not zero (the x87's smallest denormal).
const TOP_MIN: i32 = -16445;
/// Beyond these powers of ten every number is infinite or zero, however many digits it has.
const TEN_MAX: i64 = 4940;
const TEN_MIN: i64 = -4960;
const TEN_9: u32 = 1_000_000_000;

/// One number; infinity is kept apart because no result may be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LongDouble {
    /// `negative`, `mantissa`, `exponent`.
    Finite(bool, u64, i32),
    /// `negative`.
    Infinite(bool),
}

use LongDouble::{Finite, Infinite};

impl LongDouble {
    pub(super) const ZERO: LongDouble = Finite(false, 0, 0);

    /// Reads the whole text as C's `strtold` does. `None` where it is no number, or one too large or too small to hold.
    pub(super) fn parse(text: &[u8]) -> Option<LongDouble> {
        if text.is_empty() || text.len() >= TEXT_MAX {
            return None;
        }
        let (negative, digits) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        if digits.eq_ignore_ascii_case(b"inf") || digits.eq_ignore_ascii_case(b"infinity") {
            return Some(Infinite(negative));
        }
        if let [b'0', b'x' | b'X', hex @ ..] = digits {
            let hex = hex.iter().all(u8::is_ascii_hexdigit).then_some(hex)?;
            let whole = u64::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
            return rounded(negative, u128::from(whole), 0, false);
        }
        let (digits, ten) = decimal(digits)?;
        if digits.is_empty() {
            return Some(Finite(negative, 0, 0));
        }
        // The value lies in 10^(magnitude-1)..10^magnitude.
        let magnitude = ten.checked_add(digits.len() as i64)?;
        if !(TEN_MIN..=TEN_MAX).contains(&magnitude) {
            return None;
        }
        let mut big = Big::of_decimal(&digits);
        let mut exponent = 0;
        let mut sticky = false;
        if ten >= 0 {
            big.times_ten_to(ten as u32);
        } else {
            // Enough bits that 66 are left after the division: log2(10) < 3.33.
            let shift = (ten.unsigned_abs() as u32 * 333 / 100 + 70).next_multiple_of(32);
            big.shift_left_words(shift / 32);
            exponent = -(shift as i32);
            sticky = big.divide_by_ten_to(ten.unsigned_abs() as u32);
        }
        let (top, shift, lost) = big.top();
        rounded(negative, top, exponent + shift, sticky || lost)
    }

    /// The sum; `None` where it is infinite or no number.
    pub(super) fn plus(self, other: LongDouble) -> Option<LongDouble> {
        let (Finite(a_negative, a, a_exponent), Finite(b_negative, b, b_exponent)) = (self, other) else {
            return None;
        };
        if a == 0 || b == 0 {
            return Some(if b == 0 { self } else { other });
        }
        // Mantissas have their top bit set, so the exponent decides first which is larger.
        let a_larger = (a_exponent, a) >= (b_exponent, b);
        let ((negative, large, exponent), (other_negative, small, small_exponent)) = if a_larger {
            ((a_negative, a, a_exponent), (b_negative, b, b_exponent))
        } else {
            ((b_negative, b, b_exponent), (a_negative, a, a_exponent))
        };
        const ROOM: u32 = 62;
        let (large, small) = (u128::from(large) << ROOM, u128::from(small) << ROOM);
        let distance = exponent.abs_diff(small_exponent);
        let shifted = small.checked_shr(distance).unwrap_or(0);
        let sticky = shifted.checked_shl(distance).unwrap_or(0) != small;
        let sum = match (negative == other_negative, sticky) {
            (true, _) => large + shifted,
            // What is lost is subtracted too: one unit less, and still something lost.
            (false, lost) => large - shifted - u128::from(lost),
        };
        if sum == 0 {
            return Some(LongDouble::ZERO);
        }
        rounded(negative, sum, exponent - ROOM as i32, sticky).filter(|sum| matches!(sum, Finite(..)))
    }

    /// As Redis prints it for people: 17 places at most, no exponent, no trailing zeros.
    pub(super) fn to_text(self) -> String {
        let (negative, mantissa, exponent) = match self {
            Finite(negative, mantissa, exponent) => (negative, mantissa, exponent),
            Infinite(negative) => return if negative { "-inf" } else { "inf" }.into(),
        };
        let text = if exponent >= 0 {
            let mut big = Big(vec![mantissa as u32, (mantissa >> 32) as u32]);
            big.shift_left(exponent as u32);
            big.into_decimal()
        } else {
            const PLACES: usize = 17;
            // 64 bits times 10^17 are below 2^121.
            let scaled = u128::from(mantissa) * 10u128.pow(PLACES as u32);
            let units = shift_right_to_even(scaled, exponent.unsigned_abs(), false);
            let digits = format!("{units:018}");
            let (whole, places) = digits.split_at(digits.len() - PLACES);
            let places = places.trim_end_matches('0');
            if places.is_empty() { whole.to_string() } else { format!("{whole}.{places}") }
        };
        if negative && text != "0" { format!("-{text}") } else { text }
    }
}

/// The digits without leading zeros and the power of ten of the last one.
fn decimal(text: &[u8]) -> Option<(Vec<u8>, i64)> {
    let (number, ten) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(at) => (&text[..at], power(&text[at + 1..])?),
        None => (text, 0),
    };
    let (whole, fraction) = match number.iter().position(|byte| *byte == b'.') {
        Some(at) => (&number[..at], &number[at + 1..]),
        None => (number, &number[..0]),
    };
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
    Some((digits[zeros..].to_vec(), ten - fraction.len() as i64))
}

/// A power of ten with its sign; beyond a million they are all alike.
fn power(text: &[u8]) -> Option<i64> {
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        rest => (1, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let size = digits.iter().fold(0i64, |size, digit| (size * 10 + i64::from(digit - b'0')).min(1_000_000));
    Some(sign * size)
}

/// The nearest number with 64 bits, `None` beyond the range. `sticky` says that something was cut off below.
fn rounded(negative: bool, value: u128, exponent: i32, sticky: bool) -> Option<LongDouble> {
    if value == 0 {
        return Some(Finite(negative, 0, 0));
    }
    let bits = u128::BITS - value.leading_zeros();
    let (mantissa, exponent) = if bits <= 64 {
        ((value as u64) << (64 - bits), exponent - (64 - bits) as i32)
    } else {
        let excess = bits - 64;
        let kept = shift_right_to_even(value, excess, sticky);
        match u64::try_from(kept) {
            Ok(kept) => (kept, exponent + excess as i32),
            // All ones were rounded up to the next power of two.
            Err(_) => (1 << 63, exponent + excess as i32 + 1),
        }
    };
    let top = exponent + 63;
    if !(TOP_MIN..=TOP_MAX).contains(&top) {
        return None;
    }
    Some(Finite(negative, mantissa, exponent))
}

/// `value / 2^by`, to the nearest, half to even; `sticky` says that `value` itself was a little larger.
fn shift_right_to_even(value: u128, by: u32, sticky: bool) -> u128 {
    if by > u128::BITS {
        return 0;
    }
    let kept = value.checked_shr(by).unwrap_or(0);
    let lost = value - kept.checked_shl(by).unwrap_or(0);
    let half = 1u128 << (by - 1);
    match lost.cmp(&half) {
        Ordering::Greater => kept + 1,
        Ordering::Equal if sticky || kept & 1 == 1 => kept + 1,
        _ => kept,
    }
}

/// A natural number of any size: 32 bits a word, the lowest first.
struct Big(Vec<u32>);

impl Big {
    fn of_decimal(digits: &[u8]) -> Big {
        let mut big = Big(Vec::new());
        for group in digits.chunks(9) {
            let value = group.iter().fold(0, |value, digit| value * 10 + u32::from(digit - b'0'));
            big.times_plus(10u32.pow(group.len() as u32), value);
        }
        big
    }

    fn times_plus(&mut self, factor: u32, addend: u32) {
        let mut carry = u64::from(addend);
        for word in &mut self.0 {
            carry += u64::from(*word) * u64::from(factor);
            *word = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn times_ten_to(&mut self, mut ten: u32) {
        while ten > 0 {
            let step = ten.min(9);
            self.times_plus(10u32.pow(step), 0);
            ten -= step;
        }
    }

    fn shift_left_words(&mut self, words: u32) {
        self.0.splice(..0, std::iter::repeat_n(0, words as usize));
    }

    fn shift_left(&mut self, bits: u32) {
        self.times_plus(1 << (bits % 32), 0);
        self.shift_left_words(bits / 32);
    }

    /// Returns the remainder.
    fn divide_by(&mut self, divisor: u32) -> u32 {
        let mut rest = 0u64;
        for word in self.0.iter_mut().rev() {
            rest = rest << 32 | u64::from(*word);
            *word = (rest / u64::from(divisor)) as u32;
            rest %= u64::from(divisor);
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        rest as u32
    }

    /// Returns whether anything was lost.
    fn divide_by_ten_to(&mut self, mut ten: u32) -> bool {
        let mut lost = false;
        while ten > 0 {
            let step = ten.min(9);
            lost |= self.divide_by(10u32.pow(step)) != 0;
            ten -= step;
        }
        lost
    }

    /// The top 97 to 128 bits, the power of two of their last one, and whether any bit stands below.
    fn top(&self) -> (u128, i32, bool) {
        let words = &self.0[..];
        let below = words.len().saturating_sub(4);
        let top = words[below..].iter().rev().fold(0, |top, word| top << 32 | u128::from(*word));
        (top, below as i32 * 32, words[..below].iter().any(|word| *word != 0))
    }

    fn into_decimal(mut self) -> String {
        let mut groups = Vec::new();
        while !self.0.is_empty() {
            groups.push(self.divide_by(TEN_9));
        }
        let mut text = groups.pop().map_or("0".into(), |group| group.to_string());
        for group in groups.iter().rev() {
            text.push_str(&format!("{group:09}"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::LongDouble;

    fn sum(a: &str, b: &str) -> Option<String> {
        let [a, b] = [a, b].map(|text| LongDouble::parse(text.as_bytes()));
        Some(a?.plus(b?)?.to_text())
    }

    #[test]
    fn sums_have_the_digits_of_redis() {
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("3.0e3", "200", "3200"),
            ("10.50", "0.1", "10.6"),
            ("5.0e3", "-5000", "0"),
            ("-1.5", "1", "-0.5"),
            ("1e18", "0.5", "1000000000000000000.5"),
            ("1e19", "0.5", "10000000000000000000"),
            ("1e-18", "0", "0"),
            ("-1e-18", "0", "0"),
            ("0x10", "1", "17"),
            ("  1", "1", ""),
            ("1", "1 ", ""),
            ("1e", "1", ""),
            (".", "1", ""),
            (".5", "5.", "5.5"),
            ("", "1", ""),
            ("nan", "1", ""),
            ("inf", "1", ""),
            ("1e5000", "1", ""),
            ("1e-5000", "1", ""),
            ("1e99999999999999999999", "1", ""),
        ] {
            assert_eq!(sum(a, b).unwrap_or_default(), expected, "{a} + {b}");
        }
    }

    #[test]
    fn the_largest_number_prints_all_its_digits_and_no_larger_one_is_read() {
        let largest = sum("1.18973149535723176502e4932", "0").expect("it is in range");
        assert_eq!(largest.len(), 4933);
        assert!(largest.starts_with("118973149535723176502126385303097020516906332229462420044032373389173700552297"));
        assert_eq!(sum("1.1897314953572317651e4932", "0"), None);
        assert_eq!(sum(&largest, &largest), None);
        assert_eq!(sum(&largest, "0"), Some(largest));
    }
}

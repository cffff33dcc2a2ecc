//! Until when a certificate is valid, read out of its DER (RFC 5280 §4.1): the one field of it that whoever keeps a gateway must know in time.

/// A value of DER and what follows it: tag, content, rest (X.690 §8.1). Nothing where the bytes are no DER.
fn value(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        // At most four bytes of length: a certificate is smaller than 4 GiB.
        0x81..=0x84 => {
            let (length, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity in seconds since 1970; nothing where it is no certificate.
pub(crate) fn not_after(der: &[u8]) -> Option<u64> {
    let (SEQUENCE, certificate, _) = value(der)? else { return None };
    let (SEQUENCE, mut rest, _) = value(certificate)? else { return None };
    if let (VERSION, _, behind) = value(rest)? {
        rest = behind;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        rest = value(rest)?.2;
    }
    let (SEQUENCE, validity, _) = value(rest)? else { return None };
    let (_, _, rest) = value(validity)?;
    let (tag, text, _) = value(rest)?;
    moment(tag, text)
}

/// `YYMMDDHHMMSSZ` (years from 1950 on) or `YYYYMMDDHHMMSSZ` (RFC 5280 §4.1.2.5).
fn moment(tag: u8, text: &[u8]) -> Option<u64> {
    let digits = text.strip_suffix(b"Z")?;
    let wanted = match tag {
        UTC_TIME => 12,
        GENERALIZED_TIME => 14,
        _ => return None,
    };
    if digits.len() != wanted || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |part: &[u8]| part.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    let (year, rest) = digits.split_at(wanted - 10);
    let year = match (tag, number(year)) {
        (UTC_TIME, year @ 50..) => 1900 + year,
        (UTC_TIME, year) => 2000 + year,
        (_, year) => year,
    };
    let mut two = rest.chunks(2).map(number);
    let (month, day, hour, minute, second) = (two.next()?, two.next()?, two.next()?, two.next()?, two.next()?);
    if year < 1970 || !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    Some(days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Days since 1970-01-01 in the Gregorian calendar. The year begins in March, so that the leap day is its last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let in_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_of_both_kinds() {
        for (tag, text, wanted) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "260228235959Z", Some(1_772_323_199)),
            (UTC_TIME, "240229000000Z", Some(1_709_164_800)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "99991231235959Z", Some(253_402_300_799)),
            (UTC_TIME, "500101000000Z", None),
            (UTC_TIME, "20260228235959Z", None),
            (UTC_TIME, "2602282359Z", None),
            (UTC_TIME, "261301000000Z", None),
            (UTC_TIME, "260228235959+0100", None),
            (0x04, "260228235959Z", None),
        ] {
            assert_eq!(moment(tag, text.as_bytes()), wanted, "{text}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_byte_of_a_certificate_is_borne() {
        let der = [
            &[
                0x30, 0x2e, 0x30, 0x2c, 0xa0, 0x03, 0x02, 0x01, 0x02, 0x02, 0x01, 0x05, 0x30, 0x00, 0x30, 0x00, 0x30,
                0x1e, 0x17, 0x0d,
            ][..],
            b"260101000000Z",
            &[0x17, 0x0d],
            b"260228235959Z",
        ]
        .concat();
        assert_eq!(not_after(&der), Some(1_772_323_199));
        for end in 0..der.len() {
            assert_eq!(not_after(&der[..end]), None, "{end}");
        }
        for at in 0..der.len() {
            for byte in 0..=255 {
                let mut changed = der.clone();
                changed[at] = byte;
                let _ = not_after(&changed);
            }
        }
    }
}

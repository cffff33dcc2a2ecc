//! The admin door's password: what an `Authorization` header says, and who needs one.
//!
//! `Basic` (RFC 7617) is what browsers and Prometheus send, under any user name; `Bearer` (RFC 6750) what scripts like.
//! Probes need none: `/healthz` and `/readyz` tell nobody anything but that.

use crate::secret::Secret;

/// What a 401 asks for (`WWW-Authenticate`).
pub const CHALLENGE: &str = "Basic realm=\"quorate admin\", charset=\"UTF-8\"";

/// Whether a path is answered to everybody.
pub fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Whether this header gives the password, or a user's who may do everything (`is_administrator` knows that of a name and a password).
pub fn allows(password: &Secret, header: Option<&str>, is_administrator: impl Fn(&str, &str) -> bool) -> bool {
    let Some((scheme, given)) = header.and_then(|header| header.trim().split_once(' ')) else { return false };
    let given = given.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return password.matches(given.as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let Some(pair) = from_base64(given) else { return false };
    match pair.iter().position(|byte| *byte == b':') {
        Some(colon) => {
            let (name, given) = (&pair[..colon], &pair[colon + 1..]);
            password.matches(given)
                || std::str::from_utf8(name)
                    .is_ok_and(|name| std::str::from_utf8(given).is_ok_and(|given| is_administrator(name, given)))
        }
        None => false,
    }
}

/// The header that gives this password.
pub fn header(password: &str) -> String {
    format!("Basic {}", to_base64(format!("quorate:{password}").as_bytes()))
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// RFC 4648 §4.
fn to_base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

/// The bytes, or `None` where a digit is none or the length is impossible. Padding may be missing.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::new();
    for chunk in digits.chunks(4) {
        let mut word = 0;
        for digit in chunk {
            word = word << 6 | DIGITS.iter().position(|known| known == digit)? as u32;
        }
        word <<= 6 * (4 - chunk.len());
        bytes.extend_from_slice(&word.to_be_bytes()[1..chunk.len()]);
    }
    (digits.len() % 4 != 1).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{allows, from_base64, header, is_open, to_base64};
    use crate::secret::Secret;

    /// RFC 4648 §10.
    #[test]
    fn base64_as_its_rfc_shows_it() {
        for (bytes, text) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(to_base64(bytes.as_bytes()), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes.as_bytes()));
            assert_eq!(from_base64(text.trim_end_matches('=')).as_deref(), Some(bytes.as_bytes()));
        }
        assert_eq!((from_base64("Z"), from_base64("Zg-_")), (None, None));
    }

    #[test]
    fn basic_and_bearer_give_the_password_and_nothing_else_does() {
        let password = Secret::new("geh:eim ä".into());
        for right in
            [header("geh:eim ä"), "bearer geh:eim ä".into(), format!("BASIC  {}", to_base64("x:geh:eim ä".as_bytes()))]
        {
            assert!(allows(&password, Some(&right), |_, _| false), "{right}");
        }
        let empty = header("");
        for wrong in
            ["", "Bearer", "Bearer geheim", "Basic", "Basic !", "Basic Zm9v", "Digest geh:eim ä", "geh:eim ä", &empty]
        {
            assert!(!allows(&password, Some(wrong), |_, _| false), "{wrong}");
        }
        assert!(!allows(&password, None, |_, _| true));
        assert!(is_open("/healthz") && is_open("/readyz") && !is_open("/status") && !is_open("/"));
    }
}

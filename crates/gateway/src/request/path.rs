//! One normal form of a path, made once, on which every decision rests and which is what the upstream gets: what was matched is
//! what is forwarded (RFC 3986 §6.2.2).
//!
//! | in the request | becomes | why |
//! |---|---|---|
//! | `%7e`, `%41` (unreserved) | `~`, `A` | RFC 3986 §6.2.2.2 |
//! | `%3a` | `%3A` | §6.2.2.1; other encodings stay, since decoding them would change the meaning |
//! | `/./`, `/a/../` | `/`, `/` | §6.2.2.3; also after `%2e` became a dot |
//! | `//` | `/` | servers disagree; a rule for `/admin` must not be passed by as `//admin` |
//! | bytes outside of RFC 3986's path characters | `%XX` | so that everybody reads the same |
//! | `/..` above the root | refused | nobody asks for it in earnest |
//! | `%2F`, `%5C`, `\` | refused | servers disagree whether they divide segments |
//! | `%00`, controls, raw or encoded; `%` without two hex digits; `#` | refused | no path has them |
//! | `/..;x/`, `/.;x` | refused | some servers drop `;x` before they look at the dots |
//!
//! Refused means 400. A trailing slash stays: `/a` and `/a/` are two paths.

use std::borrow::Cow;
use std::fmt;

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// It does not start with `/`.
    NotAbsolute,
    /// A `%` without two hex digits.
    Percent,
    /// A slash or backslash, encoded, or a backslash as such.
    Slash,
    /// A control character or `#`.
    Control,
    /// `..` above the root.
    AboveRoot,
    /// Dots followed by `;`.
    DottedParameter,
}

impl BadPath {
    /// Why, in words.
    pub fn why(self) -> &'static str {
        match self {
            BadPath::NotAbsolute => "the path does not start with /",
            BadPath::Percent => "a % in the path is not followed by two hex digits",
            BadPath::Slash => "the path has an encoded slash or a backslash",
            BadPath::Control => "the path has a control character",
            BadPath::AboveRoot => "the path goes above the root",
            BadPath::DottedParameter => "the path has a parameter behind dots",
        }
    }
}

impl fmt::Display for BadPath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.why())
    }
}

const UNRESERVED: u8 = 1;
const PATH: u8 = 2;

/// What each byte may be: RFC 3986 §2.3 (unreserved) and §3.3 (pchar).
const CLASS: [u8; 256] = {
    let mut class = [0; 256];
    let mut byte = 0;
    while byte < 128 {
        let it = byte as u8;
        if it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_' | b'~') {
            class[byte] = UNRESERVED | PATH;
        } else if matches!(
            it,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' | b'/'
        ) {
            class[byte] = PATH;
        }
        byte += 1;
    }
    class
};

const HEX: &[u8; 16] = b"0123456789ABCDEF";

pub(super) fn hex(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

fn push_encoded(out: &mut String, byte: u8) {
    out.push('%');
    out.push(HEX[usize::from(byte >> 4)] as char);
    out.push(HEX[usize::from(byte & 15)] as char);
}

/// The normal form of a path (without query). Borrowed, and quick, where it is normal already.
pub fn normal_path(path: &str) -> Result<Cow<'_, str>, BadPath> {
    let bytes = path.as_bytes();
    if bytes.first() != Some(&b'/') {
        return Err(BadPath::NotAbsolute);
    }
    let mut last = 0;
    let plain = bytes.iter().all(|&byte| {
        let odd = last == b'/' && matches!(byte, b'/' | b'.');
        last = byte;
        CLASS[usize::from(byte)] & PATH != 0 && !odd
    });
    if plain { Ok(Cow::Borrowed(path)) } else { slow(bytes).map(Cow::Owned) }
}

#[cold]
fn slow(bytes: &[u8]) -> Result<String, BadPath> {
    // First the letters, so that dots are dots; then the segments.
    let mut letters = String::with_capacity(bytes.len() + 16);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'%' => {
                let digit = |at: usize| bytes.get(at).copied().and_then(hex).ok_or(BadPath::Percent);
                let value = digit(at)? << 4 | digit(at + 1)?;
                at += 2;
                match value {
                    b'/' | b'\\' => return Err(BadPath::Slash),
                    0..0x20 | 0x7f => return Err(BadPath::Control),
                    _ if CLASS[usize::from(value)] & UNRESERVED != 0 => letters.push(value as char),
                    _ => push_encoded(&mut letters, value),
                }
            }
            b'\\' => return Err(BadPath::Slash),
            0..0x20 | 0x7f | b'#' => return Err(BadPath::Control),
            _ if CLASS[usize::from(byte)] & PATH != 0 => letters.push(byte as char),
            _ => push_encoded(&mut letters, byte),
        }
    }
    let mut out = String::with_capacity(letters.len());
    let mut ends_in_slash = true;
    for segment in letters[1..].split('/') {
        ends_in_slash = true;
        match segment {
            "" | "." => {}
            ".." => {
                let parent = out.rfind('/').ok_or(BadPath::AboveRoot)?;
                out.truncate(parent);
            }
            _ => {
                let dotless = segment.trim_start_matches('.');
                let dots = segment.len() - dotless.len();
                if (1..=2).contains(&dots) && (dotless.starts_with(';') || dotless.starts_with("%3B")) {
                    return Err(BadPath::DottedParameter);
                }
                out.push('/');
                out.push_str(segment);
                ends_in_slash = false;
            }
        }
    }
    if ends_in_slash {
        out.push('/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden() {
        use BadPath::*;
        for (path, wanted) in [
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/a/b/", Ok("/a/b/")),
            ("/%7euser/%41", Ok("/~user/A")),
            ("/a%3ab%c3%a9", Ok("/a%3Ab%C3%A9")),
            ("/é", Ok("/%C3%A9")),
            ("/a|b{c}\"", Ok("/a%7Cb%7Bc%7D%22")),
            ("/a/./b/../c", Ok("/a/c")),
            ("/a/%2e%2E/c", Ok("/c")),
            ("/a/b/..", Ok("/a/")),
            ("/a/.", Ok("/a/")),
            ("//a///b//", Ok("/a/b/")),
            ("/.well-known/x", Ok("/.well-known/x")),
            ("/...", Ok("/...")),
            ("/a;v=1/b", Ok("/a;v=1/b")),
            ("/%252e%252e/", Ok("/%252e%252e/")),
            ("/a//../b", Ok("/b")),
            ("", Err(NotAbsolute)),
            ("a", Err(NotAbsolute)),
            ("/%", Err(Percent)),
            ("/%4", Err(Percent)),
            ("/%zz", Err(Percent)),
            ("/%+1", Err(Percent)),
            ("/a%2fb", Err(Slash)),
            ("/a%5Cb", Err(Slash)),
            ("/a\\b", Err(Slash)),
            ("/%00", Err(Control)),
            ("/%0d%0a", Err(Control)),
            ("/a\u{7f}", Err(Control)),
            ("/a#b", Err(Control)),
            ("/..", Err(AboveRoot)),
            ("/a/../..", Err(AboveRoot)),
            ("/%2e%2e/etc", Err(AboveRoot)),
            ("/a/..;/b", Err(DottedParameter)),
            ("/a/.;x=1/b", Err(DottedParameter)),
            ("/a/..%3b/b", Err(DottedParameter)),
        ] {
            let got = normal_path(path);
            assert_eq!(got.as_deref().map_err(|error| *error), wanted, "{path:?}");
        }
    }

    #[test]
    fn a_normal_path_is_borrowed() {
        assert!(matches!(normal_path("/api/users/17?"), Ok(Cow::Owned(_))), "a ? is no letter of a path");
        assert!(matches!(normal_path("/api/users/17"), Ok(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn normalising_is_idempotent_and_leaves_nothing_to_disagree_about(path in "/([a-c.%/;\\\\2eEfF0é]|%2e|%2E|\\.\\./){0,24}") {
            if let Ok(normal) = normal_path(&path) {
                prop_assert_eq!(&normal_path(&normal).expect("normal"), &normal);
                prop_assert!(normal.starts_with('/') && normal.is_ascii());
                prop_assert!(!normal.contains("//") && !normal.contains('\\'), "{}", normal);
                prop_assert!(normal.split('/').all(|segment| segment != "." && segment != ".."), "{}", normal);
                prop_assert!(!normal.contains("%2F") && !normal.contains("%5C") && !normal.contains("%00"));
            }
        }
    }
}

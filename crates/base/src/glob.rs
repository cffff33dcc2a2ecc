//! Redis's glob patterns: `*`, `?`, `[a-z]`, `[^x]`, `\` (`stringmatchlen` in Redis's util.c).
//!
//! Matching backtracks only to the last `*`, so it costs at most pattern × text steps: a pattern such as
//! `*a*a*a*a*b` cannot stall the node (CVE-2024-31228 is the class).

/// Whether KEYS or one of the SCANs with this pattern shows this name: a `*` alone is not even compared.
pub fn glob_selects(pattern: &[u8], name: &[u8]) -> bool {
    pattern == b"*" || glob_matches(pattern, name)
}

/// Whether the whole `text` matches `pattern`. An empty text matches an empty pattern only, not even `*`: Redis looks at
/// the pattern only as long as there is text.
pub fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == b'*' {
            while p < pattern.len() && pattern[p] == b'*' {
                p += 1;
            }
            if p == pattern.len() {
                return true;
            }
            star = Some((p, t));
            continue;
        }
        if t == text.len() {
            return p == pattern.len();
        }
        match one(&pattern[p..], text[t]) {
            Some(width) => {
                p += width;
                t += 1;
            }
            None => match &mut star {
                Some((after, from)) => {
                    *from += 1;
                    (p, t) = (*after, *from);
                }
                None => return false,
            },
        }
    }
}

/// How many pattern bytes match this one text byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => class(rest, byte).map(|width| width + 1),
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        [plain, ..] => (*plain == byte).then_some(1),
    }
}

/// A `[...]` class without its opening bracket. An unclosed class ends with the pattern, as in Redis.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = pattern.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut hit = false;
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => break,
            [b'\\', escaped, ..] => {
                hit |= *escaped == byte;
                at += 2;
            }
            [b']', ..] => {
                at += 1;
                break;
            }
            [low, b'-', high, ..] => {
                let (low, high) = (low.min(high), low.max(high));
                hit |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [plain, ..] => {
                hit |= *plain == byte;
                at += 1;
            }
        }
    }
    (hit != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::{glob_matches, glob_selects};

    #[test]
    fn patterns_match_as_in_redis() {
        for (pattern, text, matches) in [
            ("*", "", false),
            ("**", "", false),
            ("", "", true),
            ("", "a", false),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[", "", false),
            ("[a", "a", true),
            ("[\\]]", "]", true),
            ("*[ab]*x", "zzaqx", true),
            ("**b", "aab", true),
            ("*a*b*c", "xaxbxcxc", true),
            ("key:*", "key:1", true),
            ("a\\", "a\\", true),
        ] {
            assert_eq!(glob_matches(pattern.as_bytes(), text.as_bytes()), matches, "{pattern} against {text}");
        }
        assert!(glob_selects(b"*", b"") && !glob_selects(b"**", b"") && !glob_selects(b"b*", b"a"));
    }

    #[test]
    fn nested_stars_cost_no_more_than_pattern_times_text() {
        let pattern = b"a*".repeat(2000);
        let text = vec![b'a'; 20_000];
        assert!(glob_matches(&pattern, &text));
        let mut never = pattern;
        never.push(b'b');
        assert!(!glob_matches(&never, &text));
    }
}

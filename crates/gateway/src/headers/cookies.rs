//! Cookies in requests (RFC 6265 §5.4, RFC 9113 §8.2.3: HTTP/2 may divide them over several fields).

use crate::request::Head;

fn pairs(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b';').map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty())
}

fn divided(pair: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = pair.iter().position(|byte| *byte == b'=')?;
    Some((pair[..at].trim_ascii(), pair[at + 1..].trim_ascii()))
}

/// The value of a cookie; the first of that name. Names are compared letter by letter.
pub fn cookie<'h>(head: &'h impl Head, name: &str) -> Option<&'h [u8]> {
    let all = head.values("cookie").flat_map(pairs).filter_map(divided);
    all.filter(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value).next()
}

/// The Cookie field without one cookie; `None` where that is not there.
pub fn cookies_without(head: &impl Head, name: &str) -> Option<Vec<u8>> {
    cookie(head, name)?;
    let mut kept: Vec<u8> = Vec::new();
    for pair in head.values("cookie").flat_map(pairs) {
        if divided(pair).is_none_or(|(key, _)| key != name.as_bytes()) {
            if !kept.is_empty() {
                kept.extend_from_slice(b"; ");
            }
            kept.extend_from_slice(pair);
        }
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::PlainHead;

    #[test]
    fn golden() {
        let fields = [("Cookie", "a=1; Sid = x=y ;b"), ("cookie", "c=3; Sid=z; sid=w")];
        let head = PlainHead { method: "GET", authority: "a", target: "/", fields: &fields };
        assert_eq!(cookie(&head, "Sid"), Some(&b"x=y"[..]));
        assert_eq!(cookie(&head, "c"), Some(&b"3"[..]));
        assert_eq!(cookie(&head, "b"), None);
        assert_eq!(cookies_without(&head, "Sid").as_deref(), Some(&b"a=1; b; c=3; sid=w"[..]));
        assert_eq!(cookies_without(&head, "nobody"), None);
    }
}

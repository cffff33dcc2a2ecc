//! Query parameters: `name=value` joined by `&`, percent-encoded, `+` for a space (WHATWG URL, application/x-www-form-urlencoded).

use std::borrow::Cow;

use super::path::hex;

/// The parameters, decoded, in their order. What is not UTF-8 is compared as bytes.
pub fn parameters(query: &str) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    })
}

/// Percent-decoded; a `%` without two hex digits stays.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digit = |at: usize| bytes.get(at).copied().and_then(hex);
        at += 1;
        match (byte, digit(at), digit(at + 1)) {
            (b'%', Some(high), Some(low)) => {
                out.push(high << 4 | low);
                at += 2;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        let shown = |query: &str| {
            parameters(query)
                .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        for (query, wanted) in [
            ("", ""),
            ("a=1&b=2&a=3", "a=1 b=2 a=3"),
            ("a&&=x&b=", "a= =x b="),
            ("a+b=%41%2b+c%", "a b=A+ c%"),
            ("%zz=%4", "%zz=%4"),
            ("x=%ff", "x=\\xff"),
            ("a=b=c", "a=b=c"),
        ] {
            assert_eq!(shown(query), wanted, "{query}");
        }
    }
}

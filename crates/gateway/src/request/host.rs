//! Host names in one form: small letters, no final dot, no port, addresses as the standard library writes them.

use std::borrow::Cow;
use std::fmt;
use std::net::Ipv6Addr;

/// Why a host is refused: it is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHost(&'static str);

impl BadHost {
    /// Why, in words.
    pub fn why(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for BadHost {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// Longest name (RFC 1035 §3.1).
const NAME_BYTES_MAX: usize = 253;

/// Divides `host[:port]` (RFC 3986 §3.2, without user information, which requests do not have: RFC 9110 §4.2.4).
/// Names may have letters, digits, `-` and `_`; an IPv6 address stands in brackets.
pub fn host_and_port(authority: &str) -> Result<(Cow<'_, str>, Option<u16>), BadHost> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(BadHost("an address without its ]"))?;
        let address: Ipv6Addr = address.parse().map_err(|_| BadHost("no IPv6 address between [ and ]"))?;
        let port = match port {
            "" => None,
            port => parse_port(port.strip_prefix(':').ok_or(BadHost("letters behind the ]"))?)?,
        };
        return Ok((Cow::Owned(format!("[{address}]")), port));
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, parse_port(port)?),
        None => (authority, None),
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        return Err(BadHost("the name is empty"));
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(BadHost("the name is longer than 253 bytes"));
    }
    let (mut capitals, mut last) = (false, b'.');
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => {}
            b'A'..=b'Z' => capitals = true,
            b'.' if last != b'.' => {}
            b'.' => return Err(BadHost("the name has an empty part")),
            _ => return Err(BadHost("the name has a letter that names do not have")),
        }
        last = byte;
    }
    let name = if capitals { Cow::Owned(name.to_ascii_lowercase()) } else { Cow::Borrowed(name) };
    Ok((name, port))
}

fn parse_port(text: &str) -> Result<Option<u16>, BadHost> {
    match text {
        // "host:" is allowed (RFC 3986 §3.2.3).
        "" => Ok(None),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(Some).map_err(|_| BadHost("the port is above 65535"))
        }
        _ => Err(BadHost("the port is no number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        for (text, wanted) in [
            ("example.com", Some(("example.com", None))),
            ("EXAMPLE.com.:8080", Some(("example.com", Some(8080)))),
            ("a_b-c:", Some(("a_b-c", None))),
            ("[::1]", Some(("[::1]", None))),
            ("[2001:DB8:0::1]:443", Some(("[2001:db8::1]", Some(443)))),
            ("127.0.0.1:1", Some(("127.0.0.1", Some(1)))),
            ("", None),
            (".", None),
            ("a..b", None),
            (".a", None),
            ("user@host", None),
            ("a/b", None),
            ("a b", None),
            ("a%20b", None),
            ("host:port", None),
            ("host:65536", None),
            ("host:+80", None),
            ("host:1:2", None),
            ("[::1", None),
            ("[::1]x", None),
            ("[::1%25eth0]", None),
            ("bücher.example", None),
        ] {
            let got = host_and_port(text).ok();
            assert_eq!(got.as_ref().map(|(name, port)| (name.as_ref(), *port)), wanted, "{text:?}");
        }
        assert!(host_and_port(&"a".repeat(254)).is_err());
    }
}

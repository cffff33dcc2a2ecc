//! What a route asks of a request: host, path, method, header and query patterns, as people write them.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::text::by_text;
use crate::headers::is_token;
use crate::request;

/// Longest pattern of a path.
pub const PATTERN_BYTES_MAX: usize = 1024;
/// Most `{parameters}` of one path pattern.
pub const PARAMETERS_MAX: usize = 8;

/// A host name: `shop.example.com`, `*.example.com` (any name below it, at any depth), `*` (any, also an address).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// Names below this one; without the `*.`.
    Below(String),
    /// This name or address.
    Exact(String),
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<HostPattern, String> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err("a * may only stand for whole leading labels, as in \"*.example.com\"".into());
        }
        if !name.is_ascii() {
            return Err("write international names as clients send them, as in \"xn--bcher-kva.example\"".into());
        }
        let (host, port) = request::host_and_port(name).map_err(|error| format!("wants a host name ({error})"))?;
        if port.is_some() {
            return Err("a route's host has no port; name the listener instead (listeners = [\"…\"])".into());
        }
        if below && host.starts_with('[') {
            return Err("wants a name behind the *., not an address".into());
        }
        let host = host.into_owned();
        Ok(if below { HostPattern::Below(host) } else { HostPattern::Exact(host) })
    }
}

impl Display for HostPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => out.write_str("*"),
            HostPattern::Below(name) => write!(out, "*.{name}"),
            HostPattern::Exact(name) => out.write_str(name),
        }
    }
}

/// One part of a path between slashes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Segment {
    /// These letters, normalised.
    Text(String),
    /// Anything but nothing, known by this name.
    Parameter(String),
}

/// A path: `/health` (exact), `/api/*` (`/api` and all below it), `/users/{id}/orders`, `/users/{id}/*`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPattern {
    /// The parts between slashes; the path `/` has one empty part.
    pub segments: Vec<Segment>,
    /// Whether all below it match too.
    pub below: bool,
}

impl Default for PathPattern {
    fn default() -> PathPattern {
        PathPattern { segments: Vec::new(), below: true }
    }
}

impl PathPattern {
    /// The names of its parameters, in order.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Parameter(name) => Some(name.as_str()),
            Segment::Text(_) => None,
        })
    }
}

impl FromStr for PathPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<PathPattern, String> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(format!("wants at most {PATTERN_BYTES_MAX} bytes"));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(
                "a path starts with /, as in \"/api/*\" (all below), \"/health\" (exact) or \"/users/{id}\"".into()
            );
        };
        let (rest, below) = match rest {
            "*" => return Ok(PathPattern::default()),
            rest => match rest.strip_suffix("/*") {
                Some(rest) => (rest, true),
                None => (rest, false),
            },
        };
        let mut segments = Vec::new();
        for part in rest.split('/') {
            let name = part.strip_prefix('{').and_then(|part| part.strip_suffix('}'));
            let segment = match name {
                Some(name) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') => {
                    let twice = segments.iter().any(|earlier| matches!(earlier, Segment::Parameter(it) if it == name));
                    if twice {
                        return Err(format!("{{{name}}} is there twice; give one another name"));
                    }
                    Segment::Parameter(name.to_owned())
                }
                _ if part.contains(['{', '}', '*']) => {
                    return Err(format!(
                        "{part:?} is neither text nor a whole {{name}}; a * may only be the last part, as in \"/api/*\""
                    ));
                }
                _ => Segment::Text(part.to_owned()),
            };
            segments.push(segment);
        }
        let pattern = PathPattern { segments, below };
        if pattern.parameters().count() > PARAMETERS_MAX {
            return Err(format!("wants at most {PARAMETERS_MAX} parameters"));
        }
        // What requests are compared with is normalised, so a pattern must be so too, or it could never match.
        let plain = pattern.segments.iter().map(|segment| match segment {
            Segment::Text(text) => format!("/{text}"),
            Segment::Parameter(_) => "/p".to_owned(),
        });
        let plain: String = plain.collect();
        let normal = request::normal_path(&plain).map_err(|error| format!("no request can have this path: {error}"))?;
        if normal != plain {
            return Err(format!("requests' paths are normalised before they are compared: write it as {normal:?}"));
        }
        Ok(pattern)
    }
}

impl Display for PathPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => write!(out, "/{text}")?,
                Segment::Parameter(name) => write!(out, "/{{{name}}}")?,
            }
        }
        if self.below { out.write_str("/*") } else { Ok(()) }
    }
}

/// What a header or query parameter must be: a value, `*` (there, whatever it is), `!` (not there).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ValueMatch {
    /// There.
    Present,
    /// Not there.
    Absent,
    /// There with this value, letter by letter.
    Exact(String),
}

impl ValueMatch {
    /// Whether what a request has (all values of the name) is as wanted: one of them is enough.
    pub fn accepts<'a>(&self, mut values: impl Iterator<Item = &'a [u8]>) -> bool {
        match self {
            ValueMatch::Present => values.next().is_some(),
            ValueMatch::Absent => values.next().is_none(),
            ValueMatch::Exact(wanted) => values.any(|value| value == wanted.as_bytes()),
        }
    }
}

impl FromStr for ValueMatch {
    type Err = String;

    fn from_str(text: &str) -> Result<ValueMatch, String> {
        Ok(match text {
            "*" => ValueMatch::Present,
            "!" => ValueMatch::Absent,
            text => ValueMatch::Exact(text.to_owned()),
        })
    }
}

impl Display for ValueMatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ValueMatch::Present => "*",
            ValueMatch::Absent => "!",
            ValueMatch::Exact(text) => text,
        })
    }
}

/// What tells one user from another: `"client"` (its address), `"cookie:NAME"`, `"header:NAME"`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientKey {
    /// The client's address (behind trusted proxies, what they say it is).
    Address,
    /// A cookie's value.
    Cookie(String),
    /// A header's value; the name in small letters.
    Header(String),
}

impl FromStr for ClientKey {
    type Err = String;

    fn from_str(text: &str) -> Result<ClientKey, String> {
        const WANTED: &str = "wants \"client\", \"cookie:NAME\" or \"header:NAME\"";
        if text == "client" {
            return Ok(ClientKey::Address);
        }
        let (kind, name) = text.split_once(':').ok_or(WANTED)?;
        // Cookie names are tokens as header names are (RFC 6265 §4.1.1), but their case counts.
        if !is_token(name) {
            return Err(format!("{name:?} is no name of a {kind}: {WANTED}"));
        }
        match kind {
            "cookie" => Ok(ClientKey::Cookie(name.to_owned())),
            "header" => Ok(ClientKey::Header(name.to_ascii_lowercase())),
            _ => Err(WANTED.into()),
        }
    }
}

impl Display for ClientKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientKey::Address => out.write_str("client"),
            ClientKey::Cookie(name) => write!(out, "cookie:{name}"),
            ClientKey::Header(name) => write!(out, "header:{name}"),
        }
    }
}

/// Whose requests a rate limit counts together: `"route"` (all), or a [`ClientKey`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitKey {
    /// Everybody's.
    Route,
    /// Each client's by itself.
    Each(ClientKey),
}

impl Default for LimitKey {
    fn default() -> LimitKey {
        LimitKey::Each(ClientKey::Address)
    }
}

impl FromStr for LimitKey {
    type Err = String;

    fn from_str(text: &str) -> Result<LimitKey, String> {
        if text == "route" {
            return Ok(LimitKey::Route);
        }
        text.parse().map(LimitKey::Each).map_err(|why: String| format!("{why}, or \"route\""))
    }
}

impl Display for LimitKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitKey::Route => out.write_str("route"),
            LimitKey::Each(key) => key.fmt(out),
        }
    }
}

by_text!(HostPattern, PathPattern, ValueMatch, ClientKey, LimitKey);

/// A method's name in capital letters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MethodName(pub String);

impl TryFrom<String> for MethodName {
    type Error = String;

    fn try_from(text: String) -> Result<MethodName, String> {
        if !is_token(&text) {
            return Err(format!("{text:?} is no method"));
        }
        if text.bytes().any(|byte| byte.is_ascii_lowercase()) {
            return Err(format!("methods are written in capitals: {:?}", text.to_ascii_uppercase()));
        }
        Ok(MethodName(text))
    }
}

impl From<MethodName> for String {
    fn from(name: MethodName) -> String {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round<T: FromStr<Err = String> + Display>(text: &str) -> String {
        text.parse::<T>().map_or_else(|why| format!("error: {why}"), |value| value.to_string())
    }

    #[test]
    fn host_patterns() {
        for (text, shown) in [
            ("*", "*"),
            ("Shop.Example.COM.", "shop.example.com"),
            ("*.Example.com", "*.example.com"),
            ("127.0.0.1", "127.0.0.1"),
            ("[::1]", "[::1]"),
        ] {
            assert_eq!(round::<HostPattern>(text), shown);
        }
        for (text, wanted) in [
            ("a.*.com", "whole leading labels"),
            ("shop:80", "name the listener"),
            ("bücher.example", "xn--"),
            ("a b", "host name"),
            ("", "host name"),
        ] {
            assert!(round::<HostPattern>(text).contains(wanted), "{text}: {}", round::<HostPattern>(text));
        }
    }

    #[test]
    fn path_patterns() {
        for text in ["/*", "/", "/health", "/api/*", "/api/", "/users/{id}/orders", "/users/{id}/*", "/a%20b"] {
            assert_eq!(round::<PathPattern>(text), text);
        }
        for (text, wanted) in [
            ("api", "starts with /"),
            ("/a*", "last part"),
            ("/*/a", "last part"),
            ("/x{id}", "whole {name}"),
            ("/{id}/{id}", "twice"),
            ("/a//b", "write it as \"/a/b\""),
            ("/a/../b", "write it as \"/b\""),
            ("/%7Ea", "write it as \"/~a\""),
            ("/a%2fb", "no request can have this path"),
        ] {
            assert!(round::<PathPattern>(text).contains(wanted), "{text}: {}", round::<PathPattern>(text));
        }
    }

    #[test]
    fn client_keys_and_values() {
        for text in ["client", "cookie:Sid", "header:x-user"] {
            assert_eq!(round::<ClientKey>(text), text);
        }
        assert_eq!(round::<ClientKey>("header:X-User"), "header:x-user");
        assert!(round::<ClientKey>("ip").starts_with("error") && round::<ClientKey>("cookie:a b").starts_with("error"));
        let values: [&[u8]; 2] = [b"a", b"b"];
        let accepts = |text: &str, values: &[&'static [u8]]| {
            text.parse::<ValueMatch>().expect("any text is one").accepts(values.iter().copied())
        };
        assert!(accepts("*", &values) && accepts("b", &values) && !accepts("c", &values) && !accepts("!", &values));
        assert!(accepts("!", &[]) && !accepts("*", &[]));
    }
}

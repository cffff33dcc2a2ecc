//! A request's head as the engine has it, and what it asks for in normal form.

use std::borrow::Cow;
use std::net::IpAddr;

use super::host::host_and_port;
use super::path::normal_path;

/// A well-formed request's head, whoever has it. The engine has judged its syntax (RFC 9112, RFC 9113): exactly one authority (an absolute
/// target's before Host's; in HTTP/2 both agree), one method, fields without controls.
pub trait Head {
    /// The method, as it came (methods are case-sensitive).
    fn method(&self) -> &str;
    /// `host[:port]`; empty where an HTTP/1.0 client named none.
    fn authority(&self) -> &str;
    /// The target's path, as it came; `*` for `OPTIONS *`.
    fn path(&self) -> &str;
    /// What follows the target's `?`.
    fn query(&self) -> Option<&str>;
    /// Name (in any case) and value of each field.
    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])>;

    /// The values of a field; `name` in small letters.
    fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.fields().filter(|(it, _)| it.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

/// A head in plain parts.
#[derive(Clone, Copy, Debug)]
pub struct PlainHead<'a> {
    /// See [`Head::method`].
    pub method: &'a str,
    /// See [`Head::authority`].
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Names and values.
    pub fields: &'a [(&'a str, &'a str)],
}

impl Head for PlainHead<'_> {
    fn method(&self) -> &str {
        self.method
    }

    fn authority(&self) -> &str {
        self.authority
    }

    fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()))
    }
}

/// Who sent it: the other end of the connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its address (by the PROXY protocol where the listener believes that).
    pub address: IpAddr,
    /// Whether the connection was TLS that ended here.
    pub tls: bool,
}

/// A request that no route can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// Why, for the client and the log. The status is 400.
    pub why: &'static str,
}

/// What a request asks for, in normal form.
#[derive(Clone, Debug)]
pub struct Asked<'a> {
    /// The host without port; empty for an HTTP/1.0 request that names none.
    pub host: Cow<'a, str>,
    /// The port that the client named with the host.
    pub port: Option<u16>,
    /// The path.
    pub path: Cow<'a, str>,
    /// What follows the `?`, as it came.
    pub query: Option<&'a str>,
    /// `OPTIONS *` asks the server, not a path.
    pub server_wide: bool,
}

impl<'a> Asked<'a> {
    /// Normalises and judges a head.
    pub fn of(head: &'a impl Head) -> Result<Asked<'a>, BadRequest> {
        let (host, port) = match head.authority() {
            "" => (Cow::Borrowed(""), None),
            authority => host_and_port(authority).map_err(|error| BadRequest { why: error.why() })?,
        };
        let server_wide = head.path() == "*";
        if server_wide && head.method() != "OPTIONS" {
            return Err(BadRequest { why: "only OPTIONS has the target *" });
        }
        let path = match head.path() {
            // An absolute target may have no path (RFC 9112 §3.2.2).
            "" | "*" => Cow::Borrowed("/"),
            path => normal_path(path).map_err(|error| BadRequest { why: error.why() })?,
        };
        Ok(Asked { host, port, path, query: head.query(), server_wide })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden() {
        for (method, authority, target, wanted) in [
            ("GET", "Example.com:80", "/a?b=c", "example.com Some(80) /a Some(\"b=c\")"),
            ("GET", "x.example", "", "x.example None / None"),
            ("GET", "a", "/%7e//x/../y?", "a None /~/y Some(\"\")"),
            ("GET", "", "/a", " None /a None"),
            ("OPTIONS", "a", "*", "a None / None"),
            ("GET", "a b", "/", "400 the name has a letter that names do not have"),
            ("GET", "user@a", "/", "400 the name has a letter that names do not have"),
            ("GET", "a", "*", "400 only OPTIONS has the target *"),
            ("GET", "a", "/a%2fb", "400 the path has an encoded slash or a backslash"),
        ] {
            let head = PlainHead { method, authority, target, fields: &[] };
            let got = match Asked::of(&head) {
                Ok(asked) => format!("{} {:?} {} {:?}", asked.host, asked.port, asked.path, asked.query),
                Err(bad) => format!("400 {}", bad.why),
            };
            assert_eq!(got, wanted, "{method} {authority} {target}");
        }
        let head = PlainHead { method: "GET", authority: "a", target: "/", fields: &[("X-A", "1"), ("x-a", "2")] };
        assert_eq!(head.values("x-a").collect::<Vec<_>>(), [b"1", b"2"]);
    }
}

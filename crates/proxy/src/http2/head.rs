//! The fields of a stream as a head of ours, by RFC 9113 §8: what is malformed resets the stream, what is well-formed and cannot be served is
//! answered.

use crate::head::{
    Bad, BodyLength, Fields, RequestHead, Span, Version, bad, digits, is_authority, is_target, is_token, is_value,
    may_trail,
};
use crate::http2::hpack::ENTRY_BYTES;
use crate::limits::Limits;

/// Why a head is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoHead {
    /// The stream is reset (RFC 9113 §8.1.1).
    Malformed(&'static str),
    /// It gets an answer.
    Refused(Bad),
}

/// Takes the fields of a request one after the other.
pub(crate) struct Taking<'a> {
    head: &'a mut RequestHead,
    limits: &'a Limits,
    wrong: Option<NoHead>,
    bytes: usize,
    method: bool,
    scheme: bool,
    path: bool,
    connect: bool,
    authority: bool,
    host: Option<Span>,
    /// A field came that is no pseudo-field.
    regular: bool,
    cookie: Vec<u8>,
}

impl<'a> Taking<'a> {
    /// Overwrites `head`.
    pub fn new(head: &'a mut RequestHead, limits: &'a Limits) -> Taking<'a> {
        head.clear();
        head.version = Version::Http2;
        Taking {
            head,
            limits,
            wrong: None,
            bytes: 0,
            method: false,
            scheme: false,
            path: false,
            connect: false,
            authority: false,
            host: None,
            regular: false,
            cookie: Vec::new(),
        }
    }

    /// One field. What is wrong is remembered: the rest of the block must be read in any case.
    pub fn see(&mut self, name: &[u8], value: &[u8]) {
        self.bytes += name.len() + value.len() + ENTRY_BYTES;
        if self.wrong.is_some() {
            return;
        }
        self.wrong = if self.bytes > self.limits.head_bytes_max {
            Some(NoHead::Refused(Bad { status: 431, why: "a head that is too large" }))
        } else if let Some(name) = name.strip_prefix(b":") {
            self.pseudo(name, value).err().map(NoHead::Malformed)
        } else if self.head.fields.len() >= self.limits.fields_max {
            Some(NoHead::Refused(Bad { status: 431, why: "too many fields" }))
        } else {
            self.regular = true;
            self.field(name, value).err().map(NoHead::Malformed)
        };
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        if self.regular {
            return Err("a pseudo-field behind others");
        }
        if !is_value(value) {
            return Err("a control character in a pseudo-field");
        }
        let seen = match name {
            b"method" => &mut self.method,
            b"scheme" => &mut self.scheme,
            b"path" => &mut self.path,
            b"authority" => &mut self.authority,
            _ => return Err("a pseudo-field that requests do not have"),
        };
        if std::mem::replace(seen, true) {
            return Err("a pseudo-field twice");
        }
        match name {
            b"method" if !is_token(value) => return Err("a method that is no token"),
            b"method" => {
                self.connect = value == b"CONNECT";
                self.head.method = self.head.fields.append(value);
            }
            b"path" => self.head.target = self.head.fields.append(value),
            b"authority" => self.head.authority = self.head.fields.append(value),
            _ => {}
        }
        Ok(())
    }

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), &'static str> {
        check(name, value)?;
        match name {
            b"cookie" => {
                // The crumbs of a cookie become one field (RFC 9113 §8.2.3).
                if !self.cookie.is_empty() {
                    self.cookie.extend_from_slice(b"; ");
                }
                self.cookie.extend_from_slice(value);
            }
            b"te" if value.eq_ignore_ascii_case(b"trailers") => self.head.hop.trailers = true,
            b"te" => return Err("a TE other than trailers"),
            b"content-length" => {
                let length = digits(value).ok_or("Content-Length is no number")?;
                if self.head.hop.length.replace(length).is_some() {
                    return Err("Content-Length twice");
                }
            }
            b"transfer-encoding" | b"connection" | b"upgrade" | b"keep-alive" | b"proxy-connection" => {
                return Err("a field of HTTP/1 connections");
            }
            b"host" => {
                if self.host.is_some() {
                    return Err("Host twice");
                }
                self.host = Some(self.head.fields.append(value));
            }
            _ => self.head.fields.push(name, value),
        }
        Ok(())
    }

    /// All fields were seen. `ended`: no body follows.
    pub fn done(mut self, ended: bool) -> Result<(), NoHead> {
        if !self.cookie.is_empty() {
            let cookie = std::mem::take(&mut self.cookie);
            self.head.fields.push(b"cookie", &cookie);
        }
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        let refused = |why| Err(NoHead::Refused(bad(why)));
        let malformed = |why| Err(NoHead::Malformed(why));
        if !self.method {
            return malformed("no :method");
        }
        if self.connect {
            return Err(NoHead::Refused(Bad { status: 405, why: "CONNECT" }));
        }
        if !self.scheme || !self.path {
            return malformed("no :scheme or no :path");
        }
        let head = self.head;
        let bytes = &head.fields.bytes;
        let target = head.target.of(bytes);
        match target {
            [] => return malformed("an empty :path"),
            _ if target.len() > self.limits.target_bytes_max => {
                return Err(NoHead::Refused(Bad { status: 414, why: "a target that is too long" }));
            }
            b"*" if head.method() == "OPTIONS" => {}
            _ if !is_target(target) => return refused("a target with characters that targets do not have"),
            _ => {}
        }
        if let Some(host) = self.host {
            if self.authority && !head.authority.of(bytes).eq_ignore_ascii_case(host.of(bytes)) {
                return refused("a Host other than :authority");
            }
            head.authority = if self.authority { head.authority } else { host };
        } else if !self.authority {
            return refused("neither Host nor :authority");
        }
        if !is_authority(head.authority.of(bytes)) {
            return refused("an :authority that is none");
        }
        head.body = match (ended, head.hop.length) {
            (true, None | Some(0)) => BodyLength::None,
            (true, Some(_)) => return malformed("a body shorter than Content-Length"),
            (false, Some(length)) => BodyLength::Known(length),
            (false, None) => BodyLength::Streamed,
        };
        Ok(())
    }
}

/// RFC 9113 §8.2.1.
fn check(name: &[u8], value: &[u8]) -> Result<(), &'static str> {
    if !is_token(name) || name.iter().any(u8::is_ascii_uppercase) {
        return Err("a field's name that is no token in small letters");
    }
    let blank = |it: Option<&u8>| matches!(it, Some(b' ' | b'\t'));
    if !is_value(value) || blank(value.first()) || blank(value.last()) {
        return Err("a field's value with controls, or with blanks around it");
    }
    Ok(())
}

/// Takes the fields of trailers; those that trailers must not have (RFC 9110 §6.5.1) are left out.
pub(crate) struct TakingTrailers<'a> {
    limits: &'a Limits,
    fields: Fields,
    bytes: usize,
    right: bool,
}

impl<'a> TakingTrailers<'a> {
    pub fn new(limits: &'a Limits) -> TakingTrailers<'a> {
        TakingTrailers { limits, fields: Fields::default(), bytes: 0, right: true }
    }

    pub fn see(&mut self, name: &[u8], value: &[u8]) {
        self.bytes += name.len() + value.len() + ENTRY_BYTES;
        self.right &= check(name, value).is_ok()
            && self.bytes <= self.limits.trailer_bytes_max
            && self.fields.len() < self.limits.fields_max;
        if self.right && may_trail(name) {
            self.fields.push(name, value);
        }
    }

    /// Nothing where they are malformed or too large.
    pub fn done(self) -> Option<Fields> {
        self.right.then_some(self.fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: [(&str, &str); 4] = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "h")];

    fn take(fields: &[(&str, &str)], ended: bool) -> Result<RequestHead, NoHead> {
        let mut head = RequestHead::default();
        let mut taking = Taking::new(&mut head, &Limits::DEFAULT);
        fields.iter().for_each(|(name, value)| taking.see(name.as_bytes(), value.as_bytes()));
        taking.done(ended).map(|()| head)
    }

    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&PLAIN[..], more].concat()
    }

    #[test]
    fn a_head() {
        let fields = with(&[("cookie", "a=1"), ("x", "y"), ("te", "trailers"), ("cookie", "b=2"), ("host", "H")]);
        let head = take(&fields, true).expect("a head");
        assert_eq!((head.method(), head.target(), head.authority()), ("GET", "/", "h"));
        let seen: Vec<_> = head.fields().iter().collect();
        assert_eq!(seen, [(&b"x"[..], &b"y"[..]), (b"cookie", b"a=1; b=2")]);
        assert!(head.hop.trailers);
        assert_eq!(head.body, BodyLength::None);
        let host = take(&[PLAIN[0], PLAIN[1], PLAIN[2], ("host", "h")], false).expect("a head");
        assert_eq!((host.authority(), host.body), ("h", BodyLength::Streamed));
        assert_eq!(take(&with(&[("content-length", "3")]), false).map(|it| it.body), Ok(BodyLength::Known(3)));
    }

    #[test]
    fn what_is_malformed() {
        let long = "1".repeat(20);
        for (section, more) in [
            ("9113 §8.2.1: capitals", ("X-Y", "z")),
            ("9113 §8.2.1: no token", ("x y", "z")),
            ("9113 §8.2.1: no name", ("", "z")),
            ("9113 §8.2.1: LF", ("x", "y\nz")),
            ("9113 §8.2.1: CR", ("x", "y\rz")),
            ("9113 §8.2.1: NUL", ("x", "y\0z")),
            ("9113 §8.2.1: a blank before", ("x", " y")),
            ("9113 §8.2.1: a blank behind", ("x", "y\t")),
            ("9113 §8.2.2", ("connection", "close")),
            ("9113 §8.2.2", ("transfer-encoding", "chunked")),
            ("9113 §8.2.2", ("upgrade", "h2c")),
            ("9113 §8.2.2", ("keep-alive", "1")),
            ("9113 §8.2.2", ("proxy-connection", "x")),
            ("9113 §8.2.2", ("te", "gzip")),
            ("9113 §8.3: unknown", (":x", "y")),
            ("9113 §8.3: an answer's", (":status", "200")),
            ("9113 §8.3.1: twice", (":path", "/")),
            ("9113 §8.3.1: twice", (":authority", "h")),
            ("9110 §8.6", ("content-length", "x")),
            ("9110 §8.6", ("content-length", "-1")),
            ("9110 §8.6", ("content-length", &long)),
            ("9113 §8.1.1: a body shorter than its length", ("content-length", "1")),
        ] {
            assert!(matches!(take(&with(&[more]), true), Err(NoHead::Malformed(_))), "{section}: {more:?}");
        }
        let behind = [("x", "y"), PLAIN[0], PLAIN[1], PLAIN[2], PLAIN[3]];
        assert!(matches!(take(&behind, true), Err(NoHead::Malformed(_))), "§8.3: a pseudo-field behind others");
        for (at, left_out) in PLAIN.iter().take(3).enumerate() {
            let mut fields = PLAIN.to_vec();
            fields.remove(at);
            assert!(matches!(take(&fields, true), Err(NoHead::Malformed(_))), "§8.3.1 without {left_out:?}");
        }
        let empty = [PLAIN[0], PLAIN[1], (":path", ""), PLAIN[3]];
        assert!(matches!(take(&empty, true), Err(NoHead::Malformed(_))), "§8.3.1: an empty :path");
    }

    #[test]
    fn what_is_answered() {
        let refused = |fields: &[(&str, &str)]| match take(fields, true) {
            Err(NoHead::Refused(bad)) => bad.status,
            other => panic!("{fields:?}: {other:?}"),
        };
        let large = "x".repeat(Limits::DEFAULT.head_bytes_max);
        let long = format!("/{}", "x".repeat(Limits::DEFAULT.target_bytes_max));
        assert_eq!(refused(&[(":method", "CONNECT"), (":authority", "h:1")]), 405);
        assert_eq!(refused(&with(&[("host", "other")])), 400);
        assert_eq!(refused(&with(&[("x", &large)])), 431);
        assert_eq!(refused(&with(&vec![("x", ""); Limits::DEFAULT.fields_max + 1])), 431);
        assert_eq!(refused(&[PLAIN[0], PLAIN[1], (":path", &long), PLAIN[3]]), 414);
        assert_eq!(refused(&[PLAIN[0], PLAIN[1], (":path", "x"), PLAIN[3]]), 400);
        assert_eq!(refused(&[PLAIN[0], PLAIN[1], PLAIN[2]]), 400);
        assert_eq!(refused(&[PLAIN[0], PLAIN[1], PLAIN[2], (":authority", "u@h")]), 400);
    }

    #[test]
    fn trailers() {
        let take = |fields: &[(&str, &str)]| {
            let mut taking = TakingTrailers::new(&Limits::DEFAULT);
            fields.iter().for_each(|(name, value)| taking.see(name.as_bytes(), value.as_bytes()));
            taking.done().map(|it| it.iter().count())
        };
        assert_eq!(take(&[("grpc-status", "0"), ("content-length", "1"), ("x", "y")]), Some(2));
        assert_eq!(take(&[(":path", "/")]), None);
        assert_eq!(take(&[("X", "y")]), None);
        assert_eq!(take(&[("x", &"y".repeat(9000))]), None);
    }
}

//! The heads that are taken and those that are refused, each by its section.

use super::*;
use proptest::prelude::*;

fn read(text: &str) -> Result<RequestHead, Bad> {
    read_bytes(text.as_bytes())
}

fn read_bytes(bytes: &[u8]) -> Result<RequestHead, Bad> {
    let mut head = RequestHead::default();
    let end = Scan::default().run(bytes)?.ok_or(bad("not all"))?;
    parse_request(&bytes[..end], &mut head, &Limits { fields_max: 8, target_bytes_max: 64, ..Limits::DEFAULT })
        .map(|()| head)
}

fn answer(text: &str) -> Result<AnswerHead, Bad> {
    let mut head = AnswerHead::default();
    let end = Scan::default().run(text.as_bytes())?.ok_or(bad("not all"))?;
    parse_answer(&text.as_bytes()[..end], &mut head, 8).map(|()| head)
}

#[test]
fn requests_that_are_refused() {
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(64));
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "x: y\r\n".repeat(8));
    for (section, status, text) in [
        ("9112 §2.2 bare LF", 400, "GET / HTTP/1.1\nHost: a\n\n"),
        ("9112 §2.2 bare LF in a field", 400, "GET / HTTP/1.1\r\nHost: a\nx: y\r\n\r\n"),
        ("9112 §2.2 bare LF before the end", 400, "GET / HTTP/1.1\r\nHost: a\r\n\n"),
        ("9112 §2.2 bare CR in a field", 400, "GET / HTTP/1.1\r\nHost: a\r\nx: y\rz: w\r\n\r\n"),
        ("9112 §2.2 bare CR in the first line", 400, "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 no target", 400, "GET HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 two spaces", 400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 two spaces before the version", 400, "GET /  HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 a tab", 400, "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 a space in the target", 400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 a space before the method", 400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 behind the version", 400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"),
        ("9112 §3 no version (HTTP/0.9)", 400, "GET /\r\n\r\n"),
        ("9110 §5.6.2 a method that is no token", 400, "G(T / HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §2.3 HTTP/2.0", 505, "GET / HTTP/2.0\r\nHost: a\r\n\r\n"),
        ("9112 §2.3 HTTP/1.2", 505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"),
        ("9112 §2.3 small letters", 400, "GET / http/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §2.3 HTTP/01.1", 400, "GET / HTTP/01.1\r\nHost: a\r\n\r\n"),
        ("9112 §3 a target that is too long", 414, &long),
        ("9112 §3.2 a target without /", 400, "GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3.2 a fragment", 400, "GET /#a HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3.2 a byte above 127", 400, "GET /ä HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3.2.3 CONNECT", 405, "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
        ("9112 §3.2.4 * with GET", 400, "GET * HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §3.2 no Host", 400, "GET / HTTP/1.1\r\n\r\n"),
        ("9112 §3.2 Host twice", 400, "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n"),
        ("9112 §3.2 a Host that is none", 400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"),
        ("9112 §3.2 a Host with user information", 400, "GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"),
        ("9112 §3.2.2 an absolute target without a host", 400, "GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("9112 §5.1 a space before the colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nContent-Length : 3\r\n\r\n"),
        ("9112 §5.1 a tab before the colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nx\t: 3\r\n\r\n"),
        ("9112 §5 no colon", 400, "GET / HTTP/1.1\r\nHost: a\r\nx\r\n\r\n"),
        ("9112 §5 no name", 400, "GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n"),
        ("9110 §5.1 a name that is no token", 400, "GET / HTTP/1.1\r\nHost: a\r\nx(: y\r\n\r\n"),
        ("9112 §5.2 a folded line", 400, "GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n z\r\n\r\n"),
        ("9112 §5.2 a folded line with a tab", 400, "GET / HTTP/1.1\r\nHost: a\r\nx: y\r\n\tz: w\r\n\r\n"),
        ("9112 §2.2 white space behind the first line", 400, "GET / HTTP/1.1\r\n Host: a\r\nHost: b\r\n\r\n"),
        ("9110 §5.5 NUL", 400, "GET / HTTP/1.1\r\nHost: a\r\nx: a\0b\r\n\r\n"),
        ("9110 §5.5 a control", 400, "GET / HTTP/1.1\r\nHost: a\r\nx: a\u{1}b\r\n\r\n"),
        ("9110 §5.4 too many fields", 431, &many),
        (
            "9112 §6.3 both lengths",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        (
            "9112 §6.3 both lengths, the other way",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        ),
        ("9112 §6.3 two lengths", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"),
        (
            "9112 §6.3 the same length twice",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\ncontent-length: 3\r\n\r\n",
        ),
        ("9112 §6.3 a list of lengths", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3, 3\r\n\r\n"),
        ("9110 §8.6 a sign", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\n"),
        ("9110 §8.6 a negative length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -3\r\n\r\n"),
        ("9110 §8.6 hexadecimal", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x3\r\n\r\n"),
        ("9110 §8.6 an empty length", 400, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length:\r\n\r\n"),
        (
            "9110 §8.6 a length beyond 64 bits",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        ),
        ("9112 §6.1 another coding", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
        ("9112 §6.1 codings", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"),
        (
            "9112 §6.1 chunked and something",
            501,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n",
        ),
        (
            "9112 §6.1 chunked twice",
            400,
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
        ("9112 §6.1 a vertical tab", 400, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \u{b}chunked\r\n\r\n"),
        ("9112 §6.1 quoted", 501, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \"chunked\"\r\n\r\n"),
        ("9112 §6.1 in HTTP/1.0", 400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
    ] {
        assert_eq!(read(text).map(|_| ()).map_err(|bad| bad.status), Err(status), "{section}: {text:?}");
    }
}

#[test]
fn requests_that_are_taken() {
    use BodyLength::{Known, None as Nothing, Streamed};
    for (section, text, wanted) in [
        ("9112 §3", "GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n", ("GET", "/a?b", "h", Nothing)),
        (
            "9112 §3.2.1 odd characters",
            "GET /a|{\"}%zz HTTP/1.1\r\nHost: h\r\n\r\n",
            ("GET", "/a|{\"}%zz", "h", Nothing),
        ),
        ("9112 §3.2.2 absolute", "GET http://b:1/x HTTP/1.1\r\nHost: h\r\n\r\n", ("GET", "/x", "b:1", Nothing)),
        ("9112 §3.2.2 absolute, no path", "GET HTTP://b HTTP/1.1\r\nHost: h\r\n\r\n", ("GET", "/", "b", Nothing)),
        (
            "9112 §3.2.2 absolute, query only",
            "GET http://b?q HTTP/1.1\r\nHost: h\r\n\r\n",
            ("GET", "/?q", "b", Nothing),
        ),
        ("9112 §3.2.4 absolute *", "OPTIONS http://b HTTP/1.1\r\nHost: h\r\n\r\n", ("OPTIONS", "*", "b", Nothing)),
        ("9112 §3.2.4 *", "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", ("OPTIONS", "*", "h", Nothing)),
        ("9112 §3.2 an empty Host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", ("GET", "/", "", Nothing)),
        ("9112 §3.2 HTTP/1.0 without Host", "GET / HTTP/1.0\r\n\r\n", ("GET", "/", "", Nothing)),
        ("9110 §5.5 white space", "GET / HTTP/1.1\r\nHost: \t h \t\r\n\r\n", ("GET", "/", "h", Nothing)),
        ("9112 §6.2", "PUT / HTTP/1.1\r\nHost: h\r\nCONTENT-LENGTH: 007\r\n\r\n", ("PUT", "/", "h", Known(7))),
        ("9112 §6.2 nothing", "PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", ("PUT", "/", "h", Nothing)),
        ("9112 §7.1", "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n", ("PUT", "/", "h", Streamed)),
    ] {
        let head = read(text).unwrap_or_else(|bad| panic!("{section}: {text:?}: {bad:?}"));
        assert_eq!((head.method(), head.target(), head.authority(), head.body()), wanted, "{section}");
    }
    let head = read("GET / HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a:  \u{e9} 2\r\n\r\n").expect("well-formed");
    assert_eq!(head.fields().get("x-A"), Some(&b"1"[..]));
    assert_eq!(head.fields().iter().nth(2), Some((&b"x-a"[..], "\u{e9} 2".as_bytes())));
}

#[test]
fn which_requests_keep_their_connection() {
    for (text, keeps) in [
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: foo, close\r\n\r\n", false),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false),
        ("GET / HTTP/1.0\r\n\r\n", false),
        ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
    ] {
        assert_eq!(read(text).map(|head| head.keeps_alive()), Ok(keeps), "{text:?}");
    }
}

#[test]
fn answers() {
    for (section, text) in [
        ("9112 §4 no version", "200 OK\r\n\r\n"),
        ("9112 §4 another version", "HTTP/2 200 OK\r\n\r\n"),
        ("9112 §4 no status", "HTTP/1.1 OK\r\n\r\n"),
        ("9112 §4 four digits", "HTTP/1.1 2000 OK\r\n\r\n"),
        ("9110 §15 below 100", "HTTP/1.1 099 OK\r\n\r\n"),
        ("9112 §2.2 bare LF", "HTTP/1.1 200 OK\n\n"),
        ("9112 §5.2 a folded line", "HTTP/1.1 200 OK\r\nx: y\r\n z\r\n\r\n"),
        ("9112 §6.3 both lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("9112 §6.3 two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"),
    ] {
        assert!(answer(text).is_err(), "{section}");
    }
    for (section, text, to_head, wanted) in [
        ("9112 §6.3 (6)", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false, BodyLength::Known(5)),
        ("9112 §6.3 (1) HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true, BodyLength::None),
        ("9112 §6.3 (1) 304", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", false, BodyLength::None),
        ("9112 §6.3 (1) 204", "HTTP/1.1 204 No Content\r\n\r\n", false, BodyLength::None),
        ("9112 §6.3 (1) 1xx", "HTTP/1.1 100 Continue\r\n\r\n", false, BodyLength::None),
        ("9112 §6.3 (4)", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, BodyLength::Streamed),
        ("9112 §6.3 (8)", "HTTP/1.1 200 OK\r\n\r\n", false, BodyLength::UntilClose),
        ("9112 §4 no reason", "HTTP/1.0 200 \r\n\r\n", false, BodyLength::UntilClose),
        (
            "9112 §4 no reason and no space, which is tolerated",
            "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
            false,
            BodyLength::None,
        ),
    ] {
        let head = answer(text).unwrap_or_else(|bad| panic!("{section}: {bad:?}"));
        assert_eq!(head.body(to_head), wanted, "{section}");
    }
}

#[test]
fn a_head_is_found_however_it_is_cut() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    for cut in 0..text.len() {
        let mut scan = Scan::default();
        let first = scan.run(&text[..cut]);
        let found = first.and_then(|found| found.map_or_else(|| scan.run(text), |found| Ok(Some(found))));
        assert_eq!(found, Ok(Some(27)), "cut at {cut}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' ')], 0..200)) {
        let _ = read_bytes(&bytes);
        let mut request = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
        request.extend_from_slice(&bytes);
        request.extend_from_slice(b"\r\n\r\n");
        let _ = read_bytes(&request);
        let mut head = AnswerHead::default();
        let _ = parse_answer(&bytes, &mut head, 8);
        let _ = parse_trailers(&bytes, &mut Fields::default(), 8);
        let _ = parse_request(&bytes, &mut RequestHead::default(), &Limits::DEFAULT);
    }

    #[test]
    fn what_is_taken_has_no_line_ends_inside(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let text = [b"GET / HTTP/1.1\r\nHost: a\r\nx: ", &bytes[..], b"\r\n\r\n"].concat();
        if let Ok(head) = read_bytes(&text) {
            for (name, value) in head.fields().iter() {
                prop_assert!(is_token(name) && !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
            }
        }
    }
}

//! Answers of our own to gRPC: its clients look for `grpc-status` in an answer of 200 (*Trailers-Only*, gRPC over HTTP/2, "Responses") and take any
//! other status for a broken path. An answer with a status of HTTP is therefore said again in gRPC's words, as Envoy does.

use crate::head::RequestHead;
use crate::plan::Reply;

/// How much of an answer's text becomes `grpc-message`.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The answer for a client of gRPC, where it is one and the answer says that something went wrong.
pub(crate) fn reply_for(request: &RequestHead, reply: &Reply) -> Option<Reply> {
    if reply.status < 400 || !speaks(request.fields().get("content-type")?) {
        return None;
    }
    let dropped = ["content-type", "grpc-status", "grpc-message"];
    let kept = reply.headers.iter().filter(|(name, _)| !dropped.iter().any(|it| name.eq_ignore_ascii_case(it)));
    let mut headers = vec![
        ("content-type".into(), "application/grpc".into()),
        ("grpc-status".into(), code(reply.status).to_string().into()),
        ("grpc-message".into(), message(&reply.body).into()),
    ];
    headers.extend(kept.cloned());
    Some(Reply { status: 200, headers, body: Box::default(), close: reply.close })
}

/// `application/grpc`, `application/grpc+proto` and their like; not gRPC-Web, which is another protocol.
fn speaks(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    content_type.len() >= NAME.len()
        && content_type[..NAME.len()].eq_ignore_ascii_case(NAME)
        && matches!(content_type.get(NAME.len()), None | Some(b'+' | b';' | b' '))
}

/// gRPC's code for a status of HTTP: its `http-grpc-status-mapping.md`, but where we know more than a client that only sees the status. What was late is
/// DEADLINE_EXCEEDED; too many and too much are RESOURCE_EXHAUSTED, as servers of gRPC say it of both, and not UNAVAILABLE, upon which clients come back at once.
fn code(status: u16) -> u8 {
    match status {
        408 | 504 => 4,        // DEADLINE_EXCEEDED
        403 => 7,              // PERMISSION_DENIED
        413 | 429 | 431 => 8,  // RESOURCE_EXHAUSTED
        404 | 405 | 501 => 12, // UNIMPLEMENTED
        400 | 500 => 13,       // INTERNAL
        502 | 503 => 14,       // UNAVAILABLE
        401 => 16,             // UNAUTHENTICATED
        _ => 2,                // UNKNOWN
    }
}

/// The text as a `grpc-message`: bytes other than printable ASCII, and `%`, as `%XX`.
fn message(body: &[u8]) -> String {
    let text = body.trim_ascii();
    let text = &text[..text.len().min(MESSAGE_BYTES_MAX)];
    let mut out = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(char::from(*byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(content_type: &str, reply: &Reply) -> Option<Reply> {
        let mut request = RequestHead::default();
        request.fields.push(b"content-type", content_type.as_bytes());
        reply_for(&request, reply)
    }

    #[test]
    fn who_hears_it() {
        let reply = Reply::text(503, "no");
        for (content_type, is) in [
            ("application/grpc", true),
            ("Application/GRPC+proto", true),
            ("application/grpc; charset=x", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/json", false),
            ("application/grp", false),
        ] {
            assert_eq!(said(content_type, &reply).is_some(), is, "{content_type}");
        }
        assert_eq!(reply_for(&RequestHead::default(), &reply), None);
        assert_eq!(said("application/grpc", &Reply::text(200, "as the route says")), None);
    }

    #[test]
    fn what_it_hears() {
        let mut reply = Reply::text(503, "no: 100 %\u{e9}");
        reply.headers.push(("retry-after".into(), "1".into()));
        let said = said("application/grpc", &reply).expect("in its words");
        let headers: Vec<_> = said.headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(
            headers,
            [
                ("content-type", "application/grpc"),
                ("grpc-status", "14"),
                ("grpc-message", "no: 100 %25%C3%A9"),
                ("retry-after", "1")
            ]
        );
        assert_eq!((said.status, said.body.len(), said.close), (200, 0, false));
        let codes = [400, 401, 403, 404, 408, 413, 429, 431, 500, 502, 503, 504, 418].map(code);
        assert_eq!(codes, [13, 16, 7, 12, 4, 8, 8, 8, 13, 14, 14, 4, 2]);
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(message(&vec![b'x'; 5000]).len(), MESSAGE_BYTES_MAX);
    }
}

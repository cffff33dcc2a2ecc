//! RFC 9112: the upstream gets exactly the right bytes or nothing, the client gets exactly one answer.

use crate::wire::{Setting, Stage};
use proxy::{Forwarded, HeaderEdits, Rules};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn the_upstream_gets_exactly_these_bytes() {
    for (section, request, wanted, end) in [
        (
            "9112 §3",
            "GET /a?b=c HTTP/1.1\r\nHost: h\r\nX: y\r\n\r\n",
            "GET /a?b=c HTTP/1.1\r\nhost: h\r\nX: y\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "9112 §2.2 an empty line before",
            "\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "9112 §3.2.2 absolute",
            "GET http://b/x HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /x HTTP/1.1\r\nhost: b\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "9112 §2.3 HTTP/1.0 is lifted",
            "GET / HTTP/1.0\r\nHost: h\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "9110 §7.6.1 connection fields stay here",
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\nUpgrade: h2c\r\nProxy-Connection: close\r\nX-B: 2\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\nX-B: 2\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "9110 §7.6.1 who a client says it is",
            "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=x\r\nX-Real-IP: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nhost: h\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "9112 §6.2 a length",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 05\r\n\r\nab\r\nc",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab\r\nc",
            "ab\r\nc",
        ),
        (
            "9112 §6.2 no body",
            "POST / HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
            "\r\n\r\n",
        ),
        (
            "9112 §7.1 chunks are framed anew",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0003;x=y\r\nabc\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "0\r\n\r\n",
        ),
        (
            "9112 §7.1.2 trailers",
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\nContent-Length: 7\r\n\r\n",
            "POST / HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
            "y\r\n\r\n",
        ),
        (
            "9110 §10.1.1 Expect is the upstream's",
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\na",
            "POST / HTTP/1.1\r\nhost: h\r\nExpect: 100-continue\r\ncontent-length: 1\r\n\r\na",
            "\r\n\r\na",
        ),
    ] {
        let stage = Stage::new().await;
        let mut client = stage.client();
        client.send(request).await;
        let mut upstream = stage.upstream().await;
        assert_eq!(upstream.until(end).await, wanted, "{section}");
        upstream.send(OK).await;
        assert!(client.until("ok").await.starts_with("HTTP/1.1 200 OK\r\n"), "{section}");
    }
}

#[tokio::test]
async fn what_is_no_request_reaches_nobody() {
    for (section, status, request) in [
        (
            "9112 §6.3 smuggling, CL.TE",
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG",
        ),
        (
            "9112 §6.3 two lengths",
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nGET /x HTTP/1.1\r\n\r\n",
        ),
        (
            "9112 §6.1 a coding that is hidden",
            501,
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "9112 §5.1 a name with a space",
            400,
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        ),
        ("9112 §5.2 a folded line", 400, "POST / HTTP/1.1\r\nHost: h\r\nX: y\r\n Content-Length: 3\r\n\r\n"),
        (
            "9112 §5.2 a folded coding",
            501,
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        ("9112 §2.2 bare LF", 400, "GET / HTTP/1.1\nHost: h\n\n"),
        ("9112 §2.3 the preface of HTTP/2, second", 505, "PRI * HTTP/2.1\r\n\r\n"),
        ("9112 §3.2 no Host", 400, "GET / HTTP/1.1\r\n\r\n"),
        ("9112 §2.2 empty lines", 400, "\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n"),
    ] {
        let stage = Stage::new().await;
        let mut client = stage.client();
        // Something that looks like a second request follows.
        client.send(format!("{request}GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        client.finish().await;
        let answer = client.rest().await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{section}: {answer}");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{section}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{section}: one answer only: {answer}");
        assert!(stage.upstream_is_left_alone().await, "{section}");
        assert_eq!(stage.heard(), [format!("refused {status}")], "{section}");
    }
}

#[tokio::test]
async fn a_body_that_turns_out_wrong_is_never_whole_for_the_upstream() {
    for (section, body) in [
        ("9112 §7.1 a size", "1\r\na\r\nzz\r\nb\r\n0\r\n\r\n"),
        ("9112 §7.1 a chunk that is longer", "1\r\nab\r\n0\r\n\r\n"),
        ("9112 §7.1.2 trailers", "1\r\na\r\n0\r\n x\r\n\r\n"),
    ] {
        let stage = Stage::new().await;
        let mut client = stage.client();
        client.send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        let mut upstream = stage.upstream().await;
        upstream.head().await;
        client.send(body).await;
        client.finish().await;
        let got = upstream.rest().await;
        assert!(!got.contains("0\r\n\r\n"), "{section}: {got:?}");
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{section}: {answer}");
    }
    // A client that ends in the middle.
    let stage = Stage::new().await;
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab").await;
    let mut upstream = stage.upstream().await;
    assert_eq!(upstream.until("ab").await, "POST / HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab");
    client.finish().await;
    assert_eq!((upstream.rest().await, client.rest().await), (String::new(), String::new()));
    assert_eq!(stage.heard(), ["Client 0 in 2 out 0"]);
}

#[tokio::test]
async fn the_client_gets_exactly_these_bytes() {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let head = "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n";
    let old = "GET / HTTP/1.0\r\n\r\n";
    for (section, request, answer, wanted) in [
        (
            "9112 §6.2",
            get,
            "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX: y\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nX: y\r\ncontent-length: 2\r\n\r\nok",
        ),
        (
            "9112 §7.1",
            get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n02\r\nbc\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n",
        ),
        (
            "9112 §7.1.2",
            get,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n",
        ),
        (
            "9112 §6.3 until the end",
            get,
            "HTTP/1.0 200 OK\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "9112 §6.3 HEAD",
            head,
            "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n",
        ),
        (
            "9112 §6.3 304",
            get,
            "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
        ),
        ("9112 §6.3 204", get, "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "9110 §7.6.1",
            get,
            "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x-a\r\nX-A: 1\r\nKeep-Alive: timeout=5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "9110 §15.2 informational answers",
            get,
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        ),
        (
            "9110 §15.2 not to HTTP/1.0",
            old,
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            "HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\na",
        ),
        (
            "9112 §7.1 not to HTTP/1.0",
            old,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\na",
        ),
    ] {
        let stage = Stage::new().await;
        let mut client = stage.client();
        client.send(request).await;
        let mut upstream = stage.upstream().await;
        upstream.head().await;
        upstream.send(answer).await;
        upstream.finish().await;
        assert_eq!(
            client.until(&wanted[wanted.len() - 4..]).await.len(),
            wanted.find(&wanted[wanted.len() - 4..]).expect("it is") + 4
        );
        // Once more, and to the end.
        let mut client = stage.client();
        client.send(request).await;
        let mut upstream = stage.upstream().await;
        upstream.head().await;
        upstream.send(answer).await;
        upstream.finish().await;
        let mut got = String::new();
        while got.len() < wanted.len() {
            got.push_str(&client.until(&wanted[wanted.len() - 1..]).await);
        }
        assert_eq!(got, wanted, "{section}");
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_a_502() {
    for answer in [
        "nonsense\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx",
        "",
    ] {
        let stage = Stage::new().await;
        let mut client = stage.client();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let mut upstream = stage.upstream().await;
        upstream.head().await;
        upstream.send(answer).await;
        drop(upstream);
        assert!(client.head().await.starts_with("HTTP/1.1 502 "), "{answer:?}");
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_is_never_whole_for_the_client() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    ] {
        let stage = Stage::new().await;
        let mut client = stage.client();
        client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
        let mut upstream = stage.upstream().await;
        upstream.head().await;
        upstream.send(answer).await;
        drop(upstream);
        let got = client.rest().await;
        assert!(!got.ends_with("0\r\n\r\n") && got.contains("abc"), "{got:?}");
        assert_eq!(stage.heard(), ["Upstream 200 in 0 out 3"]);
    }
}

#[tokio::test]
async fn requests_in_one_packet_are_answered_in_their_order() {
    let stage = Stage::new().await;
    let mut client = stage.client();
    client
        .send(
            "GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\nGET /own HTTP/1.1\r\nHost: h\r\n\r\n",
        )
        .await;
    let mut upstream = stage.upstream().await;
    for path in ["/1", "/2"] {
        assert!(upstream.head().await.starts_with(&format!("GET {path} ")));
        upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{path}")).await;
    }
    let got = client.until("ours\n").await;
    let at = |text: &str| got.find(text).unwrap_or_else(|| panic!("{text} in {got}"));
    assert!(at("\r\n\r\n/1") < at("\r\n\r\n/2") && at("\r\n\r\n/2") < at("ours"));
}

#[tokio::test]
async fn headers_about_the_client_and_edits() {
    let pair = |name: &str, value: &str| (name.into(), value.into());
    let rules = Rules {
        forwarded: Forwarded::Both,
        request_headers: HeaderEdits {
            remove: vec!["X-Gone".into()],
            set: vec![pair("x-set", "1")],
            add: vec![pair("x-add", "2")],
        },
        answer_headers: HeaderEdits {
            remove: vec!["server".into()],
            set: vec![pair("x-set", "3")],
            // Neither framing nor a second line.
            add: vec![pair("content-length", "9"), pair("x-bad", "a\r\nb: c")],
        },
        pass_deadline: true,
        ..Rules::default()
    };
    let edit = |_: &proxy::RequestHead, plan: &mut proxy::Plan| {
        plan.target = Some("/new?x".into());
        plan.host = Some("inner".into());
        plan.headers = vec![("traceparent", "00-1".into())];
        plan.deadline = Some(std::time::Duration::from_millis(2500));
    };
    let stage = Stage::set(Setting { rules, edit: Box::new(edit), ..Setting::default() }).await;
    let mut client = stage.client();
    client.send("GET /old HTTP/1.1\r\nHost: outer\r\nx-gone: 1\r\nX-Set: 0\r\nX-Add: 1\r\nX-Forwarded-For: 6.6.6.6\r\nTraceparent: 9\r\n\r\n").await;
    let mut upstream = stage.upstream().await;
    let head = upstream.head().await;
    let (before, millis) = head.split_once("x-request-timeout-ms: ").expect("a deadline");
    assert_eq!(
        before,
        "GET /new?x HTTP/1.1\r\nhost: inner\r\nX-Add: 1\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: http\r\n\
         x-forwarded-host: outer\r\nforwarded: for=192.0.2.7;proto=http;host=\"outer\"\r\n"
    );
    let (millis, after) = millis.split_once("\r\n").expect("a line");
    assert!((1..=2500).contains(&millis.parse::<u32>().expect("a number")));
    assert_eq!(after, "x-set: 1\r\nx-add: 2\r\ntraceparent: 00-1\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 0\r\nX-Set: 0\r\nX: 1\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 200 OK\r\nX: 1\r\nx-set: 3\r\ncontent-length: 0\r\n\r\n");
}

#[tokio::test]
async fn any_bytes_end_in_an_answer_or_a_close() {
    let mut rng = base::Rng::new(20261122);
    let words: [&[u8]; 16] = [
        b"GET ",
        b"POST ",
        b"/",
        b" HTTP/1.1\r\n",
        b"Host: h\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b"0\r\n\r\n",
        b"5",
        b": ",
        b"\x00",
        b"\xff\xfe",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ];
    let stage = Stage::new().await;
    // Whoever asks is refused at once.
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    drop(gone);
    for _ in 0..300 {
        let mut client = stage.client();
        let mut bytes = Vec::new();
        for _ in 0..rng.below(20) {
            match rng.below(4) {
                0 => bytes.push(rng.below(256) as u8),
                _ => bytes.extend_from_slice(words[rng.below(16) as usize]),
            }
        }
        client.send(&bytes).await;
        client.finish().await;
        client.rest().await;
    }
}

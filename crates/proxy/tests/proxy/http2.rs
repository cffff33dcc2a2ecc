//! HTTP/2 on either side, and gRPC as the reason for it.

use crate::wire::{PATIENCE, Setting, Stage, Wire};
use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use proxy::{Protocol, Rules, Timeouts};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::timeout;

type Send = h2::client::SendRequest<Bytes>;

async fn connect(wire: Wire) -> Send {
    let (send, connection) = h2::client::handshake(wire.stream).await.expect("a handshake");
    tokio::spawn(connection);
    send.ready().await.expect("ready")
}

/// Serves one connection of HTTP/2: each request's stream goes to `serve`.
fn upstream_h2<F, T>(stage: &mut Stage, serve: F)
where
    F: Fn(Request<RecvStream>, h2::server::SendResponse<Bytes>) -> T + std::marker::Send + Sync + 'static,
    T: Future<Output = ()> + std::marker::Send + 'static,
{
    let listener: TcpListener = stage.upstreams.remove(0);
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.expect("a connection").0;
            let mut connection = h2::server::handshake(stream).await.expect("a handshake");
            while let Some(Ok((request, respond))) = connection.accept().await {
                tokio::spawn(serve(request, respond));
            }
        }
    });
}

async fn body(mut recv: RecvStream) -> (String, Option<HeaderMap>) {
    let mut text = Vec::new();
    while let Some(data) = timeout(PATIENCE, recv.data()).await.expect("in time") {
        let data = data.expect("data");
        recv.flow_control().release_capacity(data.len()).expect("released");
        text.extend_from_slice(&data);
    }
    (String::from_utf8(text).expect("text"), recv.trailers().await.expect("trailers"))
}

fn request(method: &str, path: &str) -> http::request::Builder {
    Request::builder().method(method).uri(format!("http://h.example{path}"))
}

#[tokio::test]
async fn http2_in_front_of_http1() {
    let stage = Stage::new().await;
    let mut send = connect(stage.client()).await;
    let request = request("POST", "/x?y")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("x", "y")
        .body(())
        .expect("a request");
    let (answer, mut stream) = send.send_request(request, false).expect("sent");
    stream.send_data(Bytes::from_static(b"abc"), false).expect("sent");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "6".parse().expect("a value"));
    stream.send_trailers(trailers).expect("sent");
    let mut upstream = stage.upstream().await;
    assert_eq!(
        upstream.until("6\r\n\r\n").await,
        "POST /x?y HTTP/1.1\r\nhost: h.example\r\nx: y\r\ncookie: a=1; b=2\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n"
    );
    upstream.send("HTTP/1.1 103 Early Hints\r\nLink: z\r\n\r\n").await;
    upstream.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: x-a\r\nX-A: 1\r\nX-B: 2\r\n\r\n2\r\nok\r\n0\r\nX-T: 3\r\n\r\n").await;
    let answer = timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), answer.headers().get("x-a"), answer.headers()["x-b"].as_bytes()),
        (200, None, &b"2"[..])
    );
    let (text, trailers) = body(answer.into_body()).await;
    assert_eq!((text.as_str(), trailers.expect("trailers")["x-t"].as_bytes()), ("ok", &b"3"[..]));
    // The next streams: an answer of our own, and one without a body over the kept connection.
    let (own, _) = send.send_request(self::request("GET", "/own").body(()).expect("a request"), true).expect("sent");
    assert_eq!(body(own.await.expect("an answer").into_body()).await.0, "ours\n");
    let (answer, _) = send.send_request(self::request("GET", "/").body(()).expect("a request"), true).expect("sent");
    assert_eq!(upstream.head().await, "GET / HTTP/1.1\r\nhost: h.example\r\n\r\n");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(body(answer.await.expect("an answer").into_body()).await.0, "ok");
}

#[tokio::test]
async fn http1_in_front_of_http2() {
    let mut stage = Stage::set(Setting { protocol: Protocol::Http2, ..Setting::default() }).await;
    upstream_h2(&mut stage, |request, mut respond| async move {
        assert_eq!((request.uri().to_string().as_str(), request.headers().get("connection")), ("http://h/x", None));
        let (text, _) = body(request.into_body()).await;
        let mut send = respond
            .send_response(Response::builder().header("x", "y").body(()).expect("an answer"), false)
            .expect("sent");
        send.send_data(Bytes::from(text), true).expect("sent");
    });
    let mut client = stage.client();
    for _ in 0..2 {
        client.send("POST /x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc").await;
        assert_eq!(
            client.until("0\r\n\r\n").await,
            "HTTP/1.1 200 OK\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
        );
    }
    assert_eq!(stage.proxy.decider().endpoints[0].open(), 1, "both over one connection");
}

async fn echo(recv: &mut RecvStream, send: &mut SendStream<Bytes>) {
    while let Some(data) = recv.data().await {
        let data = data.expect("data");
        recv.flow_control().release_capacity(data.len()).expect("released");
        send.send_data(data, false).expect("sent");
    }
}

#[tokio::test]
async fn a_grpc_stream_goes_both_ways_at_once_and_ends_in_trailers() {
    let mut stage = Stage::set(Setting { protocol: Protocol::Http2, ..Setting::default() }).await;
    upstream_h2(&mut stage, |request, mut respond| async move {
        assert_eq!(request.headers()["te"].as_bytes(), b"trailers");
        let mut recv = request.into_body();
        let head = Response::builder().header("content-type", "application/grpc").body(()).expect("an answer");
        let mut send = respond.send_response(head, false).expect("sent");
        echo(&mut recv, &mut send).await;
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        send.send_trailers(trailers).expect("sent");
    });
    let mut send = connect(stage.client()).await;
    let head = request("POST", "/s/m")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(())
        .expect("a request");
    let (answer, mut up) = send.send_request(head, false).expect("sent");
    let mut down =
        timeout(PATIENCE, answer).await.expect("in time").expect("the head comes before the body").into_body();
    for message in ["one", "two", "three"] {
        up.send_data(message.into(), false).expect("sent");
        let data = timeout(PATIENCE, down.data()).await.expect("in time").expect("data").expect("data");
        assert_eq!(data, message);
        down.flow_control().release_capacity(data.len()).expect("released");
    }
    up.send_data(Bytes::new(), true).expect("sent");
    let (rest, trailers) = body(down).await;
    assert_eq!((rest.as_str(), trailers.expect("trailers")["grpc-status"].as_bytes()), ("", &b"0"[..]));
    assert_eq!(stage.heard(), ["Complete 200 in 11 out 11"]);
}

#[tokio::test]
async fn an_answer_that_is_only_a_head_stays_one() {
    let mut stage = Stage::set(Setting { protocol: Protocol::Http2, ..Setting::default() }).await;
    upstream_h2(&mut stage, |_, mut respond| async move {
        let head = Response::builder().header("grpc-status", "5").body(()).expect("an answer");
        respond.send_response(head, true).expect("sent");
    });
    let mut send = connect(stage.client()).await;
    let (answer, _) = send.send_request(request("POST", "/s/m").body(()).expect("a request"), true).expect("sent");
    let answer = timeout(PATIENCE, answer).await.expect("in time").expect("an answer");
    assert_eq!(answer.headers()["grpc-status"].as_bytes(), b"5");
    assert!(answer.body().is_end_stream(), "gRPC calls it Trailers-Only");
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHost: h\r\n\r\nHEAD / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 200 OK\r\ngrpc-status: 5\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(client.head().await, "HTTP/1.1 200 OK\r\ngrpc-status: 5\r\n\r\n");
}

#[tokio::test]
async fn grpc_hears_our_own_answers_in_its_words() {
    let timeouts = Timeouts { request: Duration::from_millis(60), ..Timeouts::default() };
    let stage =
        Stage::set(Setting { rules: Rules { timeouts, ..Setting::default().rules }, ..Setting::default() }).await;
    let mut send = connect(stage.client()).await;
    let mut ask = async |path: &str| {
        let head = request("POST", path).header("content-type", "application/grpc+proto").body(()).expect("a request");
        let (answer, _) = send.send_request(head, true).expect("sent");
        timeout(PATIENCE, answer).await.expect("in time").expect("an answer")
    };
    // A request whose deadline passes, and a head that is none.
    let long = format!("/{}", "x".repeat(9000));
    for (path, status, message) in [("/s/m", "4", "Gateway Timeout"), (&long, "2", "too long")] {
        let answer = ask(path).await;
        assert_eq!(answer.status().as_u16(), 200);
        assert_eq!(answer.headers()["grpc-status"], status);
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert!(answer.headers()["grpc-message"].to_str().expect("text").contains(message));
        assert!(answer.headers().get("content-length").is_none());
        assert!(answer.body().is_end_stream(), "gRPC calls it Trailers-Only");
    }
}

#[tokio::test]
async fn a_reset_goes_on_to_the_other_side() {
    // The client's.
    let stage = Stage::new().await;
    let mut send = connect(stage.client()).await;
    let (answer, mut stream) = send.send_request(request("GET", "/").body(()).expect("a request"), true).expect("sent");
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    assert_eq!(upstream.rest().await, "");
    // The upstream's, in the middle of an answer.
    let (answer, _) = send.send_request(request("GET", "/").body(()).expect("a request"), true).expect("sent");
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await;
    drop(upstream);
    // Whether the head still arrives is a race; that it breaks is not.
    let mut broken = None;
    match timeout(PATIENCE, answer).await.expect("in time") {
        Err(error) => broken = error.reason(),
        Ok(answer) => {
            let mut recv = answer.into_body();
            while let Some(data) = timeout(PATIENCE, recv.data()).await.expect("in time") {
                broken = broken.or(data.err().and_then(|error| error.reason()));
                if broken.is_some() {
                    break;
                }
            }
        }
    }
    assert_eq!(broken, Some(h2::Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn what_http2_requests_may_not_have() {
    let stage = Stage::new().await;
    let mut send = connect(stage.client()).await;
    let mut refused = async |request: Request<()>| {
        let (answer, _) = send.send_request(request, true).expect("sent");
        timeout(PATIENCE, answer).await.expect("in time").map(|it| it.status().as_u16()).ok()
    };
    assert_eq!(refused(request("GET", "/").header("host", "other").body(()).expect("a request")).await, Some(400));
    assert_eq!(
        refused(request("GET", &format!("/{}", "x".repeat(9000))).body(()).expect("a request")).await,
        Some(414)
    );
    let many = (0..101).fold(request("GET", "/"), |it, number| it.header("x", number));
    assert_eq!(refused(many.body(()).expect("a request")).await, Some(431));
}

#[tokio::test]
async fn a_drain_says_goaway_and_lets_streams_end() {
    let stage = Stage::new().await;
    let mut send = connect(stage.client()).await;
    let (answer, _) = send.send_request(request("GET", "/").body(()).expect("a request"), true).expect("sent");
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    stage.drain.send_replace(true);
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    assert_eq!(body(answer.await.expect("an answer").into_body()).await.0, "ok");
    let gone = async {
        while send.send_request(request("GET", "/own").body(()).expect("a request"), true).is_ok() {
            tokio::task::yield_now().await
        }
    };
    timeout(PATIENCE, gone).await.expect("no new streams");
}

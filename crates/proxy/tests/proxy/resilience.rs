//! Connections that are kept, attempts that are repeated, and steps that take too long.

use crate::wire::{PATIENCE, Setting, Stage};
use proxy::{Endpoint, EndpointConfig, Limits, Protocol, Rules, Timeouts};
use std::sync::atomic::Ordering;
use std::time::Duration;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const SHORT: Duration = Duration::from_millis(60);

fn rules(timeouts: Timeouts) -> Rules {
    Rules { timeouts, ..Setting::default().rules }
}

#[tokio::test]
async fn a_connection_serves_the_requests_of_all_clients_one_after_the_other() {
    let stage = Stage::new().await;
    let mut first = stage.client();
    first.send(GET).await;
    let mut upstream = stage.upstream().await;
    for _ in 0..3 {
        upstream.head().await;
        upstream.send(OK).await;
        first.until("ok").await;
        first.send(GET).await;
    }
    upstream.head().await;
    upstream.send(OK).await;
    first.until("ok").await;
    let mut second = stage.client();
    second.send(GET).await;
    upstream.head().await;
    upstream.send(OK).await;
    second.until("ok").await;
    assert!(stage.upstream_is_left_alone().await);
    let endpoint = &stage.proxy.decider().endpoints[0];
    assert_eq!((endpoint.open(), endpoint.idle()), (1, 1));
    endpoint.close_connections();
    assert_eq!((endpoint.open(), endpoint.idle()), (0, 0));
    assert_eq!(upstream.rest().await, "");
}

#[tokio::test]
async fn a_connection_is_not_kept_after_an_answer_that_leaves_doubts() {
    for (why, answer) in [
        ("it said so", "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"),
        ("HTTP/1.0", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"),
        ("bytes that nobody asked for", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok+"),
    ] {
        let stage = Stage::new().await;
        let mut client = stage.client();
        client.send(GET).await;
        let mut upstream = stage.upstream().await;
        upstream.head().await;
        upstream.send(answer).await;
        client.until("ok").await;
        assert_eq!(upstream.rest().await, "", "{why}");
        client.send(GET).await;
        let mut upstream = stage.upstream().await;
        upstream.head().await;
        upstream.send(OK).await;
        client.until("ok").await;
    }
}

#[tokio::test]
async fn a_kept_connection_that_its_server_closed_harms_nobody() {
    let stage = Stage::new().await;
    let mut client = stage.client();
    client.send(GET).await;
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    upstream.send(OK).await;
    client.until("ok").await;
    // It answers the next request with its end: as if the close had crossed the request on the way.
    client.send(GET).await;
    upstream.head().await;
    drop(upstream);
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    upstream.send(OK).await;
    client.until("ok").await;
    // The same with POST, which may have been done: not tried again by the engine.
    client.send("POST / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    upstream.head().await;
    drop(upstream);
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
}

/// I7: making a connection takes time, and who was taken out meanwhile gets nothing over it.
#[tokio::test]
async fn nothing_is_sent_over_a_connection_whose_endpoint_was_taken_out_while_it_was_made() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let stage = Stage::set(Setting { upstreams: 2, protocol, ..Setting::default() }).await;
        stage.proxy.decider().moves.store(1, Ordering::Relaxed);
        let mut client = stage.client();
        client.send(GET).await;
        if protocol == Protocol::Http2 {
            // What comes there is HTTP/2's own, and no request.
            let (stream, _) = stage.upstreams[1].accept().await.expect("a connection");
            let mut server = h2::server::handshake(stream).await.expect("a handshake");
            let (_, mut respond) = server.accept().await.expect("a request").expect("a whole one");
            respond.send_response(http::Response::new(()), true).expect("sent");
            tokio::spawn(async move { while server.accept().await.is_some() {} });
            assert!(client.head().await.starts_with("HTTP/1.1 200 "));
            let (stream, _) = stage.upstreams[0].accept().await.expect("a connection");
            let mut first = h2::server::handshake(stream).await.expect("a handshake");
            let nothing = tokio::time::timeout(SHORT, first.accept()).await;
            assert!(!matches!(nothing, Ok(Some(Ok(_)))), "a request came to who was taken out");
        } else {
            let mut second = stage.upstream_of(1).await;
            second.head().await;
            second.send(OK).await;
            client.until("ok").await;
            assert_eq!(stage.upstream_of(0).await.rest().await, "");
        }
        assert_eq!(
            stage.heard(),
            [format!("Complete 200 in 0 out {}", if protocol == Protocol::Http1 { 2 } else { 0 })]
        );
    }
}

#[tokio::test]
async fn the_request_is_sent_again_whole_where_the_decider_says_so() {
    let rules = Rules { replay_bytes_max: 16, ..Setting::default().rules };
    let stage =
        Stage::set(Setting { upstreams: 2, rules, retries: 1, retry_status: Some(503), ..Setting::default() }).await;
    let mut client = stage.client();
    client
        .send(
            "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n3\r\ncde\r\n0\r\nX: y\r\n\r\n",
        )
        .await;
    let mut first = stage.upstream_of(0).await;
    first.until("y\r\n\r\n").await;
    first.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy").await;
    let mut second = stage.upstream_of(1).await;
    assert_eq!(
        second.until("y\r\n\r\n").await,
        "POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\nX: y\r\n\r\n"
    );
    second.send(OK).await;
    client.until("ok").await;
    assert_eq!(stage.heard(), ["answer 503", "Complete 200 in 5 out 2"]);
    // A body that is larger than what is kept is not: the client gets the answer.
    client.send(format!("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 17\r\n\r\n{}", "x".repeat(17))).await;
    let mut first = stage.upstream_of(0).await;
    first.until(&"x".repeat(17)).await;
    first.send("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy").await;
    assert!(client.until("busy").await.contains("HTTP/1.1 503 "));
}

#[tokio::test]
async fn a_server_that_refuses_and_one_that_resets_are_passed_by() {
    let stage = Stage::set(Setting { upstreams: 2, retries: 2, ..Setting::default() }).await;
    let mut client = stage.client();
    client.send(GET).await;
    let upstream = stage.upstream_of(0).await;
    drop(upstream);
    let mut upstream = stage.upstream_of(1).await;
    upstream.head().await;
    upstream.send(OK).await;
    client.until("ok").await;
    assert_eq!(stage.heard(), ["Reset", "Complete 200 in 0 out 2"]);
    let Stage { upstreams, proxy, drain } = stage;
    drop(upstreams);
    drop(upstream);
    let stage = Stage { upstreams: vec![], proxy, drain };
    client.send(GET).await;
    assert!(client.head().await.starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
    assert_eq!(stage.heard().iter().filter(|it| *it == "Connect").count(), 3);
}

#[tokio::test]
async fn connections_are_bounded() {
    let mut stage = Stage::new().await;
    let config = EndpointConfig { connections_max: 1, ..stage.proxy.decider().endpoints[0].config().clone() };
    let script = crate::wire::Script {
        endpoints: vec![Endpoint::new(config)],
        rules: stage.proxy.decider().rules.clone(),
        retries: 0,
        retry_status: None,
        edit: Box::new(|_, _| {}),
        next: 0.into(),
        moves: Default::default(),
        heard: parking_lot::Mutex::default(),
    };
    stage.proxy = proxy::Proxy::new(script, Limits::default());
    let (mut first, mut second) = (stage.client(), stage.client());
    first.send(GET).await;
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    second.send(GET).await;
    assert!(second.head().await.starts_with("HTTP/1.1 503 "));
    upstream.send(OK).await;
    first.until("ok").await;
    assert_eq!(stage.heard(), ["Full", "Complete 503 in 0 out 20", "Complete 200 in 0 out 2"]);
}

#[tokio::test]
async fn each_step_has_its_time() {
    // The head.
    let stage =
        Stage::set(Setting { limits: Limits { head_timeout: SHORT, ..Limits::default() }, ..Setting::default() }).await;
    let mut client = stage.client();
    client.send("GET / HTTP/1.1\r\nHo").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 408 "));
    // Between requests, the first included.
    let stage =
        Stage::set(Setting { limits: Limits { idle_timeout: SHORT, ..Limits::default() }, ..Setting::default() }).await;
    assert_eq!(stage.client().rest().await, "");
    // The answer, of one attempt.
    let stage =
        Stage::set(Setting { rules: rules(Timeouts { answer: SHORT, ..Timeouts::default() }), ..Setting::default() })
            .await;
    let mut client = stage.client();
    client.send(GET).await;
    let mut upstream = stage.upstream().await;
    assert!(client.head().await.starts_with("HTTP/1.1 504 "));
    upstream.head().await;
    assert_eq!(upstream.rest().await, "", "the upstream's connection ends with it");
    // The whole request.
    let stage = Stage::set(Setting {
        rules: rules(Timeouts { request: SHORT, ..Timeouts::default() }),
        retries: 9,
        ..Setting::default()
    })
    .await;
    let mut client = stage.client();
    client.send(GET).await;
    let _upstream = stage.upstream().await;
    assert!(client.head().await.starts_with("HTTP/1.1 504 "));
    assert!(
        stage.heard().iter().all(|it| it.starts_with("Deadline") || it.starts_with("Complete 504")),
        "{:?}",
        stage.heard()
    );
    // Which is not the body's, as long as it moves; nor that of a stream of events.
    let timeouts = Timeouts { request: SHORT / 3, idle: SHORT / 3, ..Timeouts::default() };
    let stage = Stage::set(Setting { rules: rules(timeouts), ..Setting::default() }).await;
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n").await;
    let mut upstream = stage.upstream().await;
    for _ in 0..9 {
        tokio::time::sleep(SHORT / 10).await;
        client.send("a").await;
    }
    upstream.until("aaaaaaaaa").await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 2\r\n\r\no").await;
    client.until("o").await;
    tokio::time::sleep(SHORT).await;
    upstream.send("k").await;
    client.until("k").await;
    // The client's body.
    let idle = || rules(Timeouts { idle: SHORT, ..Timeouts::default() });
    let stage = Stage::set(Setting { rules: idle(), ..Setting::default() }).await;
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 408 "));
    // The upstream's.
    let stage = Stage::set(Setting { rules: idle(), ..Setting::default() }).await;
    let mut client = stage.client();
    client.send(GET).await;
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab").await;
    assert!(client.rest().await.ends_with("ab"));
    assert_eq!(stage.heard(), ["Upstream 200 in 0 out 2"]);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let rules = || Rules { body_bytes_max: 4, ..Setting::default().rules };
    let stage = Stage::set(Setting { rules: rules(), ..Setting::default() }).await;
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 413 "));
    assert!(stage.upstream_is_left_alone().await);
    let mut client = stage.client();
    client
        .send("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        .await;
    client.finish().await;
    assert!(client.rest().await.starts_with("HTTP/1.1 413 "));
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_request_along() {
    let stage = Stage::new().await;
    let mut client = stage.client();
    client.send(GET).await;
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    drop(client);
    assert_eq!(upstream.rest().await, "");
    assert_eq!(stage.heard(), ["Client 0 in 0 out 0"]);
}

#[tokio::test]
async fn an_upstream_may_answer_before_it_read_the_body() {
    let stage = Stage::new().await;
    let mut client = stage.client();
    client.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nab").await;
    let mut upstream = stage.upstream().await;
    upstream.until("ab").await;
    upstream.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno").await;
    drop(upstream);
    let got = client.until("\r\n\r\nno").await;
    assert!(got.starts_with("HTTP/1.1 401 ") && got.contains("connection: close"), "{got}");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once() {
    let stage = Stage::new().await;
    let length = 3_000_000;
    let (mut to_client, mut from_client) = tokio::io::split(stage.client().stream);
    let send = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n");
        from_client.write_all(head.as_bytes()).await.expect("written");
        from_client.write_all(&vec![b'a'; length]).await.expect("written");
        from_client
    });
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    upstream.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")).await;
    let echo = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let early = upstream.take();
        upstream.stream.write_all(&early).await.expect("written");
        let (mut left, mut bytes) = (length - early.len(), vec![0; 10_000]);
        while left > 0 {
            let count = upstream.stream.read(&mut bytes).await.expect("read");
            upstream.stream.write_all(&bytes[..count]).await.expect("written");
            left -= count;
        }
    });
    let read = async {
        use tokio::io::AsyncReadExt;
        let (mut bytes, mut buffer) = (0, vec![0; 10_000]);
        while bytes < length {
            let count = to_client.read(&mut buffer).await.expect("read");
            assert!(count > 0, "after {bytes} bytes");
            bytes += buffer[..count].iter().filter(|it| **it == b'a').count();
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("in time");
    send.await.expect("sent");
    echo.await.expect("echoed");
}

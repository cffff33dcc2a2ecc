//! WebSockets, TCP, TLS, and listeners that drain.

use crate::wire::{PATIENCE, Setting, Stage, Wire, peer};
use proxy::{Certificate, Certificates, Rules, UpstreamTls};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

const ASKS: &str = "GET /chat HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const SWITCHES: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

#[tokio::test]
async fn a_websocket_passes_with_what_came_early() {
    let stage =
        Stage::set(Setting { rules: Rules { websocket: true, ..Setting::default().rules }, ..Setting::default() })
            .await;
    let mut client = stage.client();
    client.send(format!("{ASKS}early")).await;
    let mut upstream = stage.upstream().await;
    assert_eq!(
        upstream.head().await,
        "GET /chat HTTP/1.1\r\nhost: h\r\nSec-WebSocket-Key: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    upstream.send(format!("{SWITCHES}hello")).await;
    assert_eq!(
        client.until("hello").await,
        "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: y\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhello"
    );
    assert_eq!(upstream.until("early").await, "early");
    client.send("a\r\n\r\nb").await;
    assert_eq!(upstream.until("b").await, "a\r\n\r\nb");
    upstream.finish().await;
    drop(upstream);
    assert_eq!(client.rest().await, "");
    drop(client);
    while stage.heard().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(stage.heard(), ["Complete 101 in 11 out 5"]);
}

#[tokio::test]
async fn an_upgrade_that_is_not_allowed_is_not_asked_for() {
    let stage = Stage::new().await;
    let mut client = stage.client();
    client.send(ASKS).await;
    let mut upstream = stage.upstream().await;
    assert_eq!(upstream.head().await, "GET /chat HTTP/1.1\r\nhost: h\r\nSec-WebSocket-Key: x\r\n\r\n");
    // And one that nobody asked for is no answer.
    upstream.send(SWITCHES).await;
    assert!(client.head().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn tcp_passes_both_ways_and_half_closes() {
    let stage = Stage::set(Setting { upstreams: 2, retries: 2, ..Setting::default() }).await;
    let (near, far) = tokio::io::duplex(1024);
    let proxy = stage.proxy.clone();
    let task = tokio::spawn(async move { proxy.serve_tcp(far, peer()).await });
    let mut client = Wire::new(near);
    client.send("question").await;
    client.finish().await;
    let mut upstream = stage.upstream().await;
    assert_eq!(upstream.rest().await, "question");
    upstream.send("answer").await;
    drop(upstream);
    assert_eq!(client.rest().await, "answer");
    task.await.expect("it ends");
    assert_eq!(stage.heard(), ["stream Complete in 8 out 6"]);
}

#[tokio::test]
async fn tcp_goes_elsewhere_when_nobody_listens() {
    let mut stage = Stage::set(Setting { upstreams: 2, retries: 1, ..Setting::default() }).await;
    drop(stage.upstreams.remove(0));
    let (near, far) = tokio::io::duplex(1024);
    let proxy = stage.proxy.clone();
    tokio::spawn(async move { proxy.serve_tcp(far, peer()).await });
    let mut client = Wire::new(near);
    client.send("x").await;
    let mut upstream = stage.upstream().await;
    assert_eq!(upstream.until("x").await, "x");
    assert_eq!(stage.heard(), ["Connect"]);
}

#[tokio::test]
async fn a_drain_ends_idle_connections_soon_and_others_with_their_answer() {
    let stage = Stage::new().await;
    let (mut idle, mut late, mut busy) = (stage.client(), stage.client(), stage.client());
    late.send("GET /own HTTP/1.1\r\nHost: h\r\n\r\n").await;
    late.until("ours\n").await;
    idle.send("GET /own HTTP/1.1\r\nHost: h\r\n\r\n").await;
    idle.until("ours\n").await;
    busy.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let mut upstream = stage.upstream().await;
    upstream.head().await;
    stage.drain.send_replace(true);
    // A request that was on its way when the drain began.
    tokio::task::yield_now().await;
    late.send("GET /own HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let got = late.rest().await;
    assert!(got.contains("\r\nconnection: close\r\n") && got.ends_with("ours\n"), "{got}");
    assert_eq!(idle.rest().await, "");
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let got = busy.rest().await;
    assert!(got.contains("\r\nconnection: close\r\n") && got.ends_with("ok"), "{got}");
}

fn certificate(name: &str) -> Certificate {
    let (chain, key): (&[u8], &[u8]) = match name {
        "a.example" => (include_bytes!("certs/a.pem"), include_bytes!("certs/a.key")),
        _ => (include_bytes!("certs/b.pem"), include_bytes!("certs/b.key")),
    };
    Certificate::from_pem(&[name], chain, key).expect("a certificate")
}

/// Serves one connection over TLS; the client's half, or why the handshake failed.
async fn handshake(stage: &Stage, certificates: &Arc<Certificates>, name: &str, alpn: &[u8]) -> std::io::Result<Wire> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let stream = TcpStream::connect(listener.local_addr()?).await?;
    let (proxy, acceptor, shutdown) = (stage.proxy.clone(), certificates.acceptor(), stage.drain.subscribe());
    let accepted = listener.accept().await?.0;
    tokio::spawn(async move { proxy.serve_tls(accepted, &acceptor, peer(), shutdown).await });
    let mut roots = rustls::RootCertStore::empty();
    for pem in [&include_bytes!("certs/a.pem")[..], include_bytes!("certs/b.pem")] {
        use rustls_pki_types::pem::PemObject;
        roots.add(rustls_pki_types::CertificateDer::from_pem_slice(pem).expect("PEM")).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = name.to_owned().try_into().expect("a name");
    Ok(Wire::new(tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

#[tokio::test]
async fn certificates_are_chosen_by_name_and_exchanged_without_a_restart() {
    let stage = Stage::set(Setting { rules: Rules::default(), ..Setting::default() }).await;
    let certificates = Certificates::new(&[certificate("a.example")]);
    assert!(handshake(&stage, &certificates, "b.example", b"http/1.1").await.is_err());
    let mut client = handshake(&stage, &certificates, "a.example", b"http/1.1").await.expect("a's");
    certificates.replace(&[certificate("b.example")]);
    handshake(&stage, &certificates, "b.example", b"http/1.1").await.expect("b's now");
    assert!(handshake(&stage, &certificates, "a.example", b"http/1.1").await.is_err());
    // The connection that stands goes on.
    client.send("GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    let mut upstream = stage.upstream().await;
    assert!(upstream.head().await.contains("\r\nx-forwarded-proto: https\r\n"));
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    client.until("ok").await;
    client.send("GET /own HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    client.until("ours\n").await;
    let mut h2 = handshake(&stage, &certificates, "b.example", b"h2").await.expect("ALPN");
    h2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut settings = [0; 9];
    let read = tokio::io::AsyncReadExt::read_exact(&mut h2.stream, &mut settings);
    tokio::time::timeout(PATIENCE, read).await.expect("in time").expect("a frame");
    assert_eq!(settings[3], 4, "SETTINGS comes first (RFC 9113 §3.4)");
}

#[test]
fn certificates_that_are_none() {
    let (pem, key, other) =
        (include_bytes!("certs/a.pem"), include_bytes!("certs/a.key"), include_bytes!("certs/b.key"));
    assert!(Certificate::from_pem(&["a"], pem, key).is_ok());
    assert!(Certificate::from_pem(&["a"], pem, other).is_err(), "another's key");
    assert!(Certificate::from_pem(&["a"], b"", key).is_err());
    assert!(
        Certificate::from_pem(&["a"], pem, b"-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n").is_err()
    );
    assert!(UpstreamTls::new("a.example", pem).is_ok());
    assert!(UpstreamTls::new("a b", pem).is_err() && UpstreamTls::new("a", b"").is_err());
}

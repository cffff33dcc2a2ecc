//! The gRPC health check (`grpc.health.v1.Health/Check`) and HTTP/2's ping, over the `h2` crate. The two messages have one
//! field each, so they are written and read by hand: no generated code, no protoc.

use bytes::{BufMut, Bytes, BytesMut};
use discovery::model::{Status, Tls};
use h2::{Ping, client};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE, USER_AGENT};
use hyper::{Request, Version};

use super::probe::{beside, connect};

/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// Bytes of the head of an answer.
const HEAD_BYTES_MAX: u32 = 16 << 10;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Asks `host:port` or `host:port/service` how it is.
pub(super) async fn check(target: &str, tls: Option<&Tls>) -> Result<(Status, String), String> {
    let (address, service) = target.split_once('/').unwrap_or((target, ""));
    let stream = connect(address, tls, Some(b"h2")).await?;
    let mut builder = client::Builder::new();
    builder.max_header_list_size(HEAD_BYTES_MAX);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await.map_err(|error| error.to_string())?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let mut request = Request::new(());
    *request.method_mut() = hyper::Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = format!("{scheme}://{address}/grpc.health.v1.Health/Check")
        .parse()
        .map_err(|_| format!("{address:?} is no address"))?;
    let own = request.headers_mut();
    own.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    own.insert(TE, HeaderValue::from_static("trailers"));
    own.insert(USER_AGENT, HeaderValue::from_static("Consul Health Check"));
    let exchange = async {
        let mut sender = sender.ready().await.map_err(|error| error.to_string())?;
        let (answer, mut out) = sender.send_request(request, false).map_err(|error| error.to_string())?;
        out.send_data(question(service), true).map_err(|error| error.to_string())?;
        let answer = answer.await.map_err(|error| error.to_string())?;
        if answer.status() != hyper::StatusCode::OK {
            return Err(format!("HTTP status {}: is it a gRPC server?", answer.status().as_u16()));
        }
        let (head, mut body) = answer.into_parts();
        let mut read = Vec::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(|error| error.to_string())?;
            let _ = body.flow_control().release_capacity(data.len());
            read.extend_from_slice(&data);
            if read.len() > ANSWER_BYTES_MAX {
                return Err(format!("the answer is longer than {ANSWER_BYTES_MAX} bytes"));
            }
        }
        let trailers = body.trailers().await.map_err(|error| error.to_string())?.unwrap_or_default();
        failure(&head.headers).or_else(|| failure(&trailers)).map_or_else(|| Ok(read), Err)
    };
    let read = beside(exchange, connection).await?;
    match status(&read) {
        Some(1) => Ok((Status::Passing, "success".into())),
        Some(status) => Err(format!("gRPC health status: {}", word(status))),
        None => Err("the answer is no HealthCheckResponse".into()),
    }
}

/// What `grpc-status` says, where it is not OK.
fn failure(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let code = text(GRPC_STATUS).filter(|code| code != "0")?;
    Some(match (code.as_str(), text(GRPC_MESSAGE)) {
        ("5", _) => "gRPC status 5: the server does not know this service".into(),
        ("12", _) => "gRPC status 12: the server has no health service (grpc.health.v1)".into(),
        (code, message) => format!("gRPC status {code}: {}", message.unwrap_or_default()),
    })
}

/// `HealthCheckRequest { string service = 1; }`, framed.
fn question(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(1 << 3 | 2);
        put_varint(&mut message, service.len() as u64);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.extend_from_slice(&message);
    framed.freeze()
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// `HealthCheckResponse { ServingStatus status = 1; }`: the status of a framed answer. Fields that we do not know are passed
/// over.
fn status(framed: &[u8]) -> Option<u64> {
    let (head, rest) = framed.split_first_chunk::<5>()?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    let mut message = rest.get(..length).filter(|_| head[0] == 0)?;
    let mut status = 0;
    while !message.is_empty() {
        let key = take_varint(&mut message)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = take_varint(&mut message)?,
            (_, 0) => drop(take_varint(&mut message)?),
            (_, 1) => message = message.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(take_varint(&mut message)?).ok()?;
                message = message.get(length..)?;
            }
            (_, 5) => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn word(status: u64) -> &'static str {
    match status {
        1 => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// Asks for an answer to a ping of HTTP/2 (RFC 9113, 6.7).
pub(super) async fn ping(address: &str, tls: Option<&Tls>) -> Result<(Status, String), String> {
    let stream = connect(address, tls, Some(b"h2")).await?;
    // The sender is kept: without it the connection would close by itself.
    let (_sender, mut connection) = client::handshake(stream).await.map_err(|error| error.to_string())?;
    let mut pings = connection.ping_pong().ok_or("no ping can be sent")?;
    let exchange = async { pings.ping(Ping::opaque()).await.map_err(|error| error.to_string()) };
    beside(exchange, connection).await?;
    Ok((Status::Passing, "success".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers so: framed message, `grpc-status` of the trailers.
    async fn server(answer: &'static [u8], code: &'static str) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut connection) = h2::server::handshake(stream).await else {
                    continue;
                };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                    assert_eq!(request.headers()[CONTENT_TYPE], "application/grpc");
                    let mut out = respond.send_response(hyper::Response::new(()), false).expect("it is open");
                    out.send_data(Bytes::from_static(answer), false).expect("it is open");
                    let trailers = HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static(code))]);
                    out.send_trailers(trailers).expect("it is open");
                }
            }
        });
        address.to_string()
    }

    #[tokio::test]
    async fn a_server_is_asked_over_http_2() {
        let serving = server(&[0, 0, 0, 0, 2, 8, 1], "0").await;
        assert_eq!(check(&serving, None).await, Ok((Status::Passing, "success".into())));
        assert_eq!(check(&format!("{serving}/shop.Cart"), None).await, Ok((Status::Passing, "success".into())));
        assert_eq!(ping(&serving, None).await, Ok((Status::Passing, "success".into())));
        for (answer, code, why) in [
            (&[0, 0, 0, 0, 2, 8, 2][..], "0", "gRPC health status: NOT_SERVING"),
            (&[], "12", "gRPC status 12: the server has no health service (grpc.health.v1)"),
            (&[], "0", "the answer is no HealthCheckResponse"),
        ] {
            assert_eq!(check(&server(answer, code).await, None).await, Err(why.into()));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let nobody = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        assert!(check(&nobody, None).await.is_err() && ping(&nobody, None).await.is_err());
    }

    #[test]
    fn questions_and_answers_have_the_form_of_the_protocol() {
        assert_eq!(question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(question("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(question(&"x".repeat(200))[5..8], [0x0a, 0xc8, 1]);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0), "the default is left out");
        assert_eq!(status(&[0, 0, 0, 0, 6, 0x12, 2, 9, 9, 8, 2]), Some(2), "other fields are passed over");
        for wrong in [
            &[][..],
            &[0, 0, 0, 0],
            &[0, 0, 0, 0, 3, 8, 1],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 0x12, 9],
            &[0, 0, 0, 0, 2, 0x0b, 1],
            &[0, 0, 0, 0, 11, 8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        ] {
            assert_eq!(status(wrong), None, "{wrong:?}");
        }
    }
}

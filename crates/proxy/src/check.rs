//! Active checks of an endpoint, over a connection of their own, spoken as its requests are.

use crate::io::Io;
use crate::pool::{Endpoint, Protocol};
use http::{Method, Request, Uri};
use std::io;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of an answer that are looked at: its first line.
const STATUS_LINE_BYTES_MAX: usize = 256;

impl Endpoint {
    /// Whether a connection stands, TLS included. It is closed at once. Bound it in time.
    pub async fn check_connection(&self) -> io::Result<()> {
        self.dial().await.map(drop)
    }

    /// The status that a GET of `path` is answered with. `host` is the Host that it asks for, by default the endpoint's own. Bound it in time.
    pub async fn check_get(&self, path: &str, host: Option<&str>) -> io::Result<u16> {
        let host = host.unwrap_or(&self.config().host);
        let io = self.dial().await?;
        match self.config().protocol {
            Protocol::Http1 => get_h1(io, path, host).await,
            Protocol::Http2 => get_h2(io, path, host, self.config().tls.is_some()).await,
        }
    }
}

async fn get_h1(mut io: Io, path: &str, host: &str) -> io::Result<u16> {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: quorate-check\r\nconnection: close\r\n\r\n");
    io.write_all(request.as_bytes()).await?;
    io.flush().await?;
    let mut line = Vec::with_capacity(STATUS_LINE_BYTES_MAX);
    let mut piece = [0; 64];
    while line.len() < STATUS_LINE_BYTES_MAX && !line.contains(&b'\n') {
        match io.read(&mut piece).await? {
            0 => break,
            count => line.extend_from_slice(&piece[..count]),
        }
    }
    status(&line).ok_or_else(|| io::Error::other("no answer of HTTP/1"))
}

/// The status of an answer's first line (RFC 9112 §4).
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 "))?;
    let digits = rest.get(..3)?;
    if rest.get(3).is_some_and(|after| !matches!(after, b' ' | b'\r' | b'\n')) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok().filter(|status| (100..600).contains(status))
}

async fn get_h2(io: Io, path: &str, host: &str, is_secure: bool) -> io::Result<u16> {
    let scheme = if is_secure { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build().map_err(io::Error::other)?;
    let request = Request::builder().method(Method::GET).uri(uri).header("user-agent", "quorate-check").body(());
    let (send, connection) = h2::client::handshake(io).await.map_err(io::Error::other)?;
    let ask = async {
        let (answer, _) = send.ready().await?.send_request(request.map_err(|_| h2::Reason::INTERNAL_ERROR)?, true)?;
        Ok::<u16, h2::Error>(answer.await?.status().as_u16())
    };
    tokio::select! {
        status = ask => status.map_err(io::Error::other),
        ended = connection => Err(ended.err().map_or_else(|| io::ErrorKind::UnexpectedEof.into(), io::Error::other)),
    }
}

#[cfg(test)]
mod tests {
    use super::status;

    #[test]
    fn the_status_is_read_from_the_first_line_and_nothing_else_is_one() {
        assert_eq!(status(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status(b"HTTP/1.0 503\r\n"), Some(503));
        for wrong in [&b""[..], b"HTTP/2 200", b"HTTP/1.1 20", b"HTTP/1.1 2000 OK", b"HTTP/1.1 099 ", b"+PONG\r\n"] {
            assert_eq!(status(wrong), None, "{}", String::from_utf8_lossy(wrong));
        }
    }
}

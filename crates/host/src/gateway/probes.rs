//! Active checks: a connection, or a GET whose answer's status is right.

use std::sync::Arc;

use ::gateway::live::Probe;
use ::gateway::model::CheckKind;
use base::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Front;
use crate::clock;

/// Bytes of an answer that are looked at: its first line.
const STATUS_LINE_BYTES_MAX: usize = 256;

/// Makes one check and says what came of it.
pub async fn make(front: Arc<Front>, probe: Probe) {
    let span = probe.until.since(clock::now());
    let good = tokio::time::timeout(span, ask(&probe)).await;
    // A check that takes too long has failed.
    let good = matches!(good, Ok(Ok(true)));
    let mut rng = Rng::new(clock::seed());
    front.gateway.checked(&probe.upstream, probe.endpoint.id, good, clock::now(), &mut rng);
}

async fn ask(probe: &Probe) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(probe.endpoint.addr).await?;
    if probe.kind != CheckKind::Http {
        return Ok(true);
    }
    let host = match probe.check.host.as_str() {
        "" => probe.endpoint.addr.to_string(),
        host => host.to_owned(),
    };
    let path = &probe.check.path;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: quorate-check\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::with_capacity(STATUS_LINE_BYTES_MAX);
    let mut piece = [0; 64];
    while line.len() < STATUS_LINE_BYTES_MAX && !line.contains(&b'\n') {
        match stream.read(&mut piece).await? {
            0 => break,
            count => line.extend_from_slice(&piece[..count]),
        }
    }
    let (first, last) = probe.check.status;
    Ok(status(&line).is_some_and(|status| (first..=last).contains(&status)))
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

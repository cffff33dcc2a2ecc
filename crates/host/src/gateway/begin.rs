//! What stands at the begin of a connection before anything is served: a PROXY protocol header, a ClientHello that is passed on unopened.

use std::net::SocketAddr;

use ::gateway::request::{HELLO_INPUT_BYTES_MAX, Sni, proxy_header, server_name};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// How much of a PROXY header is looked at at once; most are shorter.
const PIECE_BYTES: usize = 256;
/// How much room a ClientHello has at first; with post-quantum key shares they have about 2 KiB.
const HELLO_BYTES: usize = 2048;

/// Reads the PROXY header and not a byte more. The client's address, or nothing where the balancer speaks for itself; an error says why
/// the connection is closed. Bounded by the header's own bounds; bound it in time.
pub async fn read_proxy_header(stream: &mut TcpStream) -> Result<Option<SocketAddr>, &'static str> {
    let (mut seen, mut piece) = (Vec::with_capacity(PIECE_BYTES), [0; PIECE_BYTES]);
    loop {
        let count = stream.peek(&mut piece).await.map_err(|_| "the connection broke in its PROXY header")?;
        if count == 0 {
            return Err("the connection ended in its PROXY header");
        }
        let before = seen.len();
        seen.extend_from_slice(&piece[..count]);
        let header = proxy_header(&seen).map_err(|bad| bad.why())?;
        // As long as the header is not whole, all that is there belongs to it.
        let own = header.map_or(count, |header| header.length.saturating_sub(before).min(count));
        stream.read_exact(&mut piece[..own]).await.map_err(|_| "the connection broke in its PROXY header")?;
        if let Some(header) = header {
            return Ok(header.addresses.map(|(client, _)| client));
        }
    }
}

/// Reads until it is known which server a client asks for by TLS: what was read, and the name if there is one. Bounded in bytes; bound it
/// in time.
pub async fn read_hello(stream: &mut (impl AsyncRead + Unpin)) -> Result<(Vec<u8>, Option<String>), &'static str> {
    let mut bytes = Vec::with_capacity(HELLO_BYTES);
    loop {
        let room = HELLO_INPUT_BYTES_MAX.saturating_sub(bytes.len()) as u64;
        let count = (&mut *stream).take(room).read_buf(&mut bytes).await;
        if count.map_err(|_| "the connection broke in its ClientHello")? == 0 {
            return Err("the connection ended in its ClientHello");
        }
        if bytes.len() < wanted(&bytes) && bytes.len() < HELLO_INPUT_BYTES_MAX {
            continue;
        }
        match server_name(&bytes) {
            Sni::Name(name) => return Ok((bytes, Some(name))),
            Sni::None => return Ok((bytes, None)),
            Sni::NotTls => return Err("what came is no TLS"),
            Sni::Incomplete => {}
        }
    }
}

/// How many bytes there are when the record is whole that is not yet: before that, nothing new could be said, and a client that sends byte by
/// byte would make us read everything again for each. At once for what is no handshake.
fn wanted(bytes: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&[kind, major, _, high, low]) = bytes.get(at..at + 5) {
        if kind != 22 || major != 3 {
            return 0;
        }
        at += 5 + usize::from(u16::from_be_bytes([high, low]));
        if at > bytes.len() {
            return at;
        }
    }
    // A head that is cut off: its first byte may show already that it is none.
    0
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    /// What is made of a connection's bytes, sent in pieces of `piece`, and what is left of them.
    async fn begun(bytes: &[u8], piece: usize) -> (Result<Option<SocketAddr>, &'static str>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
        let mut stream = listener.accept().await.expect("a connection").0;
        let bytes = bytes.to_vec();
        let sender = tokio::spawn(async move {
            client.set_nodelay(true).expect("a socket");
            for piece in bytes.chunks(piece) {
                // The other end may have closed it.
                let _ = client.write_all(piece).await;
                tokio::task::yield_now().await;
            }
        });
        let header = read_proxy_header(&mut stream).await;
        let mut rest = Vec::new();
        if header.is_ok() {
            stream.read_to_end(&mut rest).await.expect("it is sent");
        }
        sender.await.expect("sent");
        (header, rest)
    }

    #[tokio::test]
    async fn a_proxy_header_is_taken_off_to_the_byte_however_it_comes() {
        let first = b"PROXY TCP4 203.0.113.7 10.0.0.1 4242 443\r\n";
        let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x01\x0c".to_vec();
        second.extend([203, 0, 113, 7, 10, 0, 0, 1, 0x10, 0x92, 1, 187]);
        // Extensions, longer than what is looked at at once.
        second.extend([0xea, 0, 253]);
        second.resize(second.len() + 253, 7);
        for header in [&first[..], &second] {
            for piece in [1, 7, 1000] {
                let whole = [header, b"GET / HTTP/1.1\r\n\r\n"].concat();
                let (client, rest) = begun(&whole, piece).await;
                assert_eq!(client, Ok(Some(SocketAddr::from(([203, 0, 113, 7], 4242)))), "{piece}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n\r\n", "{piece}");
            }
        }
        assert_eq!(begun(b"PROXY UNKNOWN\r\nx", 1).await, (Ok(None), b"x".to_vec()));
        assert!(begun(b"GET / HTTP/1.1\r\n\r\n", 3).await.0.is_err());
        assert!(begun(b"PROXY TCP4 1.2.3.4", 5).await.0.is_err(), "cut off");
    }

    #[tokio::test]
    async fn a_hello_is_bounded_and_what_is_none_is_told_at_once() {
        assert_eq!(read_hello(&mut &b"GET / HTTP/1.1\r\n"[..]).await, Err("what came is no TLS"));
        assert_eq!(read_hello(&mut &b"\x16\x03\x01\x02"[..]).await, Err("the connection ended in its ClientHello"));
        // Records of one byte that promise a hello of 16 KiB and never end.
        let mut endless = b"\x16\x03\x01\0\x04\x01\0\x3f\xf0".to_vec();
        endless.extend(b"\x16\x03\x01\0\x01\0".repeat(HELLO_INPUT_BYTES_MAX));
        let mut from = &endless[..];
        assert!(read_hello(&mut from).await.is_err());
        assert!(endless.len() - from.len() <= HELLO_INPUT_BYTES_MAX);
    }
}

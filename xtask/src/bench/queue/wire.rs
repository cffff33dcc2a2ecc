//! A blocking connection that is read through one buffer, for loaders that must cost little: what came is looked at where it lies.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a server may leave a loader without a byte that it waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is asked of the kernel at once.
const READ_BYTES: usize = 256 << 10;

/// One connection.
pub struct Wire {
    stream: TcpStream,
    addr: String,
    /// Bytes from `at` to `end` have come and were not taken.
    buf: Vec<u8>,
    at: usize,
    end: usize,
}

impl Wire {
    /// Connects to `host:port`.
    pub fn open(addr: &str) -> Result<Wire, String> {
        let failed = |error: std::io::Error| format!("{addr}: {error}");
        let to: SocketAddr =
            addr.replace("localhost", "127.0.0.1").parse().map_err(|_| format!("no address: {addr}"))?;
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
        Ok(Wire { stream, addr: addr.to_owned(), buf: vec![0; READ_BYTES], at: 0, end: 0 })
    }

    /// Writes all of it.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.stream.write_all(bytes).map_err(|error| format!("{}: {error}", self.addr))
    }

    /// Waits for bytes behind those that are there; there is room for `count` in all.
    fn more(&mut self, count: usize) -> Result<(), String> {
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
        }
        if self.buf.len() - self.at < count.max(self.end - self.at + 1) {
            self.buf.copy_within(self.at..self.end, 0);
            (self.at, self.end) = (0, self.end - self.at);
            if self.buf.len() < count.max(self.end + 1) {
                self.buf.resize(count.max(2 * self.buf.len()), 0);
            }
        }
        loop {
            match self.stream.read(&mut self.buf[self.end..]) {
                Ok(0) => return Err(format!("{}: the server closed the connection", self.addr)),
                Ok(read) => {
                    self.end += read;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("{}: {error}", self.addr)),
            }
        }
    }

    /// Takes the next `count` bytes, waiting for them.
    pub fn take(&mut self, count: usize) -> Result<&[u8], String> {
        while self.end - self.at < count {
            self.more(count)?;
        }
        self.at += count;
        Ok(&self.buf[self.at - count..self.at])
    }

    /// The last `count` bytes that were taken; gone with the next wait for more.
    pub fn taken(&self, count: usize) -> &[u8] {
        &self.buf[self.at.saturating_sub(count)..self.at]
    }

    /// Takes the next line, without its CR LF.
    pub fn line(&mut self) -> Result<&[u8], String> {
        let mut seen = 0;
        loop {
            let there = &self.buf[self.at + seen..self.end];
            if let Some(found) = there.iter().position(|byte| *byte == b'\n') {
                let (from, upto) = (self.at, self.at + seen + found);
                self.at = upto + 1;
                let line = &self.buf[from..upto];
                return Ok(line.strip_suffix(b"\r").unwrap_or(line));
            }
            seen += there.len();
            self.more(seen + 1)?;
        }
    }

    /// How many bytes are there that were not taken.
    pub fn waiting(&self) -> usize {
        self.end - self.at
    }
}

/// The number that a text of digits (or `-` and digits) is.
pub fn number(text: &[u8]) -> Result<i64, String> {
    let parsed = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| format!("no number: {}", String::from_utf8_lossy(text)))
}

#[cfg(test)]
mod tests {
    use super::Wire;
    use std::io::Write;
    use std::net::TcpListener;

    #[test]
    fn what_comes_in_pieces_is_read_whole() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("its address").to_string();
        let long = vec![7; 700_000];
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            stream.write_all(b"first\r\nsec").expect("written");
            stream.write_all(b"ond\r\n").expect("written");
            stream.write_all(&long).expect("written");
            stream.write_all(b"last\n").expect("written");
        });
        let mut wire = Wire::open(&addr).expect("connected");
        assert_eq!(wire.line(), Ok(&b"first"[..]));
        assert_eq!(wire.line(), Ok(&b"second"[..]));
        assert!(wire.take(700_000).is_ok_and(|bytes| bytes.iter().all(|byte| *byte == 7)));
        assert_eq!(wire.line(), Ok(&b"last"[..]));
        assert_eq!((wire.taken(5), wire.waiting()), (&b"last\n"[..], 0));
        assert!(wire.take(1).is_err());
        server.join().expect("the server's end");
    }
}

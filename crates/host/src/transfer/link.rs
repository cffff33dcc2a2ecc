//! One connection to a server that speaks Redis's protocol.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use doors::resp::client::{Value, read_value, write_command};

/// How long a server may take to take a connection, and to go on with an answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A server, and how to come in.
#[derive(Clone)]
pub struct Server {
    /// `HOST:PORT`.
    pub address: String,
    /// Whose password; the default user's if not said.
    pub user: Option<String>,
    /// None: nobody asks.
    pub password: Option<String>,
    /// Authorities (PEM): set, it is spoken to over TLS.
    pub authorities: Option<Vec<u8>>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.address)
    }
}

trait Duplex: Read + Write {}
impl<T: Read + Write> Duplex for T {}

/// See the module.
pub(super) struct Link {
    stream: BufReader<Box<dyn Duplex>>,
    socket: TcpStream,
    address: String,
}

impl Link {
    /// Connects and says who it is.
    pub(super) fn open(server: &Server) -> Result<Link, String> {
        let address = &server.address;
        let lost = |error: io::Error| format!("{address} cannot be reached: {error}");
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        let mut found = None;
        for place in address.to_socket_addrs().map_err(lost)? {
            match TcpStream::connect_timeout(&place, PATIENCE) {
                Ok(socket) => {
                    found = Some((socket, place));
                    break;
                }
                Err(error) => last = error,
            }
        }
        let (socket, place) = found.ok_or_else(|| lost(last))?;
        socket.set_nodelay(true).map_err(lost)?;
        socket.set_read_timeout(Some(PATIENCE)).map_err(lost)?;
        socket.set_write_timeout(Some(PATIENCE)).map_err(lost)?;
        let own = socket.try_clone().map_err(lost)?;
        let stream: Box<dyn Duplex> = match &server.authorities {
            None => Box::new(own),
            Some(authorities) => Box::new(crate::tls::to_door(own, place, authorities)?),
        };
        let mut link = Link { stream: BufReader::with_capacity(1 << 18, stream), socket, address: address.clone() };
        if let Some(password) = &server.password {
            let words: Vec<&str> = ["AUTH"].into_iter().chain(server.user.as_deref()).chain([&password[..]]).collect();
            link.ask_ok(&words)?;
        }
        link.ask_ok(&["PING"])?;
        Ok(link)
    }

    pub(super) fn lost(&self, error: &io::Error) -> String {
        let why = match error.kind() {
            io::ErrorKind::UnexpectedEof => "it closed the connection".to_owned(),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "it is silent".to_owned(),
            _ => error.to_string(),
        };
        format!("{} is lost: {why}", self.address)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), String> {
        let written = self.stream.get_mut().write_all(bytes).and_then(|()| self.stream.get_mut().flush());
        written.map_err(|error| self.lost(&error))
    }

    pub(super) fn answer(&mut self) -> Result<Value, String> {
        read_value(&mut self.stream).map_err(|error| self.lost(&error))
    }

    /// One command, and its answer.
    pub(super) fn ask(&mut self, words: &[impl AsRef<[u8]>]) -> Result<Value, String> {
        let mut bytes = Vec::new();
        write_command(words, &mut bytes);
        self.write(&bytes)?;
        self.answer()
    }

    /// One command that must not be answered by an error.
    pub(super) fn ask_ok(&mut self, words: &[impl AsRef<[u8]>]) -> Result<Value, String> {
        match self.ask(words)? {
            Value::Error(text) => {
                let name = String::from_utf8_lossy(words[0].as_ref()).into_owned();
                Err(format!("{} answers {name} with: {}", self.address, String::from_utf8_lossy(&text)))
            }
            value => Ok(value),
        }
    }

    /// A line, without its end.
    pub(super) fn line(&mut self) -> Result<Vec<u8>, String> {
        let mut line = Vec::new();
        let read = self.stream.by_ref().take(1 << 16).read_until(b'\n', &mut line);
        match read {
            Ok(0) => Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {
                while line.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
                    line.pop();
                }
                Ok(line)
            }
            Err(error) => Err(self.lost(&error)),
        }
    }

    /// How long a read waits from now on.
    pub(super) fn set_patience(&self, wait: Duration) {
        // A socket that cannot be told so is about to fail anyhow.
        let _ = self.socket.set_read_timeout(Some(wait));
    }

    /// Appends what has come. False: nothing within its patience.
    pub(super) fn some(&mut self, into: &mut Vec<u8>) -> Result<bool, String> {
        match self.stream.fill_buf() {
            Ok([]) => Err(self.lost(&io::ErrorKind::UnexpectedEof.into())),
            Ok(bytes) => {
                let count = bytes.len();
                into.extend_from_slice(bytes);
                self.stream.consume(count);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(self.lost(&error)),
        }
    }
}

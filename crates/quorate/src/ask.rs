//! A few requests to the admin door of a running node: HTTP/1.1, one connection each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use doors::admin::auth;

use crate::config;

/// How long the node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The admin door of a node.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where it is.
    pub address: SocketAddr,
    /// Its password, if it wants one.
    pub password: Option<String>,
    /// Authorities (PEM): set, it is spoken to over TLS.
    authorities: Option<Vec<u8>>,
}

impl Admin {
    /// The door at this address, with the password out of the file or the environment.
    pub fn new(address: SocketAddr, password_file: Option<&Path>) -> Result<Admin, String> {
        let password = match password_file {
            Some(path) => Some(config::password_in(path).map_err(|why| format!("{why} (--password-file)"))?),
            None => std::env::var(config::ADMIN_PASSWORD_VARIABLE).ok(),
        };
        let authorities =
            match std::env::var_os(config::ADMIN_CA_VARIABLE) {
                Some(path) => Some(std::fs::read(&path).map_err(|error| {
                    format!("{}: {error} ({})", Path::new(&path).display(), config::ADMIN_CA_VARIABLE)
                })?),
                None => None,
            };
        Ok(Admin { address, password, authorities })
    }

    /// The same at another address.
    pub fn at(&self, address: SocketAddr) -> Admin {
        Admin { address, ..self.clone() }
    }

    /// Asks, and says what to do where nobody is there or the password is wrong.
    pub fn ask(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<(u16, String), String> {
        let address = self.address;
        let asked = Asked { address, method, path, password: self.password.as_deref(), kind, body };
        let answer = asked.by(self.authorities.as_deref()).map_err(|why| {
            format!(
                "the node's admin door at {address} cannot be asked: {why}. Start a node with `quorate up`, or say where it is with \
                 --admin, or, if it speaks TLS, name the file of its authority in {}",
                config::ADMIN_CA_VARIABLE
            )
        })?;
        if answer.0 == 401 {
            let which = if self.password.is_some() { "another password than this one" } else { "its password" };
            return Err(format!(
                "the node's admin door at {address} wants {which}: --password-file, or {}",
                config::ADMIN_PASSWORD_VARIABLE
            ));
        }
        Ok(answer)
    }
}

/// One request in the clear: status code and body.
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    password: Option<&str>,
    kind: &str,
    body: &[u8],
) -> Result<(u16, String), String> {
    Asked { address, method, path, password, kind, body }.by(None)
}

struct Asked<'a> {
    address: SocketAddr,
    method: &'a str,
    path: &'a str,
    password: Option<&'a str>,
    kind: &'a str,
    body: &'a [u8],
}

impl Asked<'_> {
    /// Asks, over TLS where there are authorities.
    fn by(&self, authorities: Option<&[u8]>) -> Result<(u16, String), String> {
        let told = |error: std::io::Error| error.to_string();
        let connect = || -> std::io::Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            Ok(stream)
        };
        let stream = connect().map_err(told)?;
        let answer = match authorities {
            None => self.over(stream),
            Some(authorities) => self.over(host::tls::to_door(stream, self.address, authorities)?),
        };
        let answer = String::from_utf8(answer.map_err(told)?).map_err(|_| "it answers no text")?;
        let (head, body) = answer.split_once("\r\n\r\n").ok_or("it does not speak HTTP")?;
        let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("it does not speak HTTP")?;
        let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        Ok((code, if is_chunked { unchunk(body).ok_or("its answer is cut short")? } else { body.to_owned() }))
    }

    fn over(&self, mut stream: impl Read + Write) -> std::io::Result<Vec<u8>> {
        let Asked { address, method, path, password, kind, body } = self;
        let login = password.map_or(String::new(), |password| format!("Authorization: {}\r\n", auth::header(password)));
        let content = match body {
            [] if matches!(*method, "GET" | "HEAD" | "DELETE") => String::new(),
            body => format!("Content-Type: {kind}\r\nContent-Length: {}\r\n", body.len()),
        };
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{login}{content}Connection: close\r\n\r\n")?;
        stream.write_all(body)?;
        stream.flush()?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_a_cut_is_noticed() {
        assert_eq!(unchunk("3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n").as_deref(), Some("abcde"));
        assert_eq!(unchunk("5\r\nabc"), None);
        assert_eq!(unchunk(""), None);
    }
}

//! PostgreSQL: started for the run, and its protocol (<https://www.postgresql.org/docs/15/protocol-message-formats.html>) as far as simple
//! queries and notifications go.

use crate::bench::queue::wire::Wire;
use crate::ground::{Ground, Process};
use crate::server::free_port;
use crate::shell::output;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BIN: &str = "/usr/lib/postgresql/15/bin";
const START: Duration = Duration::from_secs(60);

/// A server with Debian's settings but for its port, every commit synced.
pub struct Postgres {
    /// Where it listens.
    pub addr: String,
    dir: PathBuf,
    _process: Process,
}

impl Postgres {
    /// Whether it is installed.
    pub fn is_there() -> bool {
        Path::new(BIN).join("initdb").is_file()
    }

    /// Makes a cluster of tables in a directory of its own and starts it; not as root, which it refuses.
    pub fn start() -> Result<Postgres, String> {
        let dir = std::env::temp_dir().join(format!("quorate-bench-postgres-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let data = dir.join("data").to_string_lossy().into_owned();
        let is_root = rustix::process::geteuid().is_root();
        let own = dir.to_string_lossy();
        let mut prefix: Vec<&str> = Vec::new();
        if is_root {
            output("chown", &["postgres", &own])?;
            prefix.extend(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]);
        }
        let initdb = format!("{BIN}/initdb");
        let make = [&initdb, "-D", &data, "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale"];
        let words = [&prefix[..], &make[..]].concat();
        output(words[0], &words[1..])?;
        let port = free_port()?.to_string();
        let server = format!("{BIN}/postgres");
        let serve = [&server, "-D", &data, "-p", &port, "-c", "listen_addresses=127.0.0.1", "-k", &own];
        let words = [&prefix[..], &serve[..]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]);
        let mut process = Ground::loopback().spawn(0, command, &dir.join("log"), None)?;
        let addr = format!("127.0.0.1:{port}");
        process.wait_until(START, |_| Client::open(&addr).is_ok()).map_err(|why| format!("PostgreSQL: {why}"))?;
        Ok(Postgres { addr, dir, _process: process })
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // A fast shutdown; what is left is killed with its process.
        self._process.signal(rustix::process::Signal::INT);
        let _ = self._process.stop(Duration::from_secs(10));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// One connection.
pub struct Client(Wire);

impl Client {
    /// Connects as `postgres` to its own database.
    pub fn open(addr: &str) -> Result<Client, String> {
        let mut client = Client(Wire::open(addr)?);
        let mut hello = 196_608u32.to_be_bytes().to_vec();
        hello.extend_from_slice(b"user\0postgres\0database\0postgres\0\0");
        let mut out = (hello.len() as u32 + 4).to_be_bytes().to_vec();
        out.extend_from_slice(&hello);
        client.0.write(&out)?;
        client.finish(|_| {})?;
        Ok(client)
    }

    /// One message: its kind and what it holds.
    fn message(&mut self) -> Result<(u8, Vec<u8>), String> {
        let head = self.0.take(5)?;
        let (kind, bytes) = (head[0], u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize);
        Ok((kind, self.0.take(bytes.saturating_sub(4))?.to_vec()))
    }

    fn finish(&mut self, mut row: impl FnMut(&[u8])) -> Result<(), String> {
        let mut failed = None;
        loop {
            match self.message()? {
                (b'Z', _) => return failed.map_or(Ok(()), Err),
                (b'E', text) => {
                    failed = Some(format!("PostgreSQL: {}", String::from_utf8_lossy(&text).replace('\0', " ")))
                }
                (b'D', columns) => row(&columns),
                _ => {}
            }
        }
    }

    /// Runs statements in one message; shows the first column of each row.
    pub fn query(&mut self, text: &str, mut each: impl FnMut(&[u8])) -> Result<(), String> {
        let mut out = vec![b'Q'];
        out.extend_from_slice(&(text.len() as u32 + 5).to_be_bytes());
        out.extend_from_slice(text.as_bytes());
        out.push(0);
        self.0.write(&out)?;
        self.finish(|columns| {
            // Count of columns, then the length of each before its text.
            if let Some((bytes, rest)) = columns.get(2..).and_then(|rest| rest.split_first_chunk::<4>()) {
                each(rest.get(..u32::from_be_bytes(*bytes) as usize).unwrap_or_default());
            }
        })
    }

    /// Waits for a notification.
    pub fn notified(&mut self) -> Result<(), String> {
        while self.message()?.0 != b'A' {}
        Ok(())
    }
}

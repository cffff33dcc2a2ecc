//! One server process on one data directory.

use crate::resp::{Conn, Value};
use std::fs::{File, OpenOptions};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a start (with its replay) and a stop may take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A running server; killed when dropped.
pub struct Server {
    child: Child,
    /// `host:port` of its Redis door.
    pub addr: String,
    /// `host:port` of its Kafka door, where the template names it.
    pub kafka: String,
    log: PathBuf,
    log_from: u64,
}

/// Why a server did not become ready.
pub enum NotReady {
    /// It ended by itself: how, and what it said.
    Ended(ExitStatus, String),
    /// It neither ended nor served in time.
    Silent(String),
}

fn free_port() -> Result<u16, String> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|addr| addr.port())
        .map_err(|error| format!("no free port: {error}"))
}

impl Server {
    /// Starts a server on `data`; its output is appended to `log`.
    pub fn start(template: &str, data: &Path, log: &Path) -> Result<Server, String> {
        let (port, admin, kafka) = (free_port()?, free_port()?, free_port()?);
        // Split before the values go in: a directory may have a space in its name.
        let words: Vec<String> = template
            .split(' ')
            .map(|word| {
                word.replace("{data}", &data.to_string_lossy())
                    .replace("{port}", &port.to_string())
                    .replace("{kafka}", &kafka.to_string())
                    .replace("{admin}", &admin.to_string())
            })
            .collect();
        let (program, args) = words.split_first().ok_or("an empty --template")?;
        let out = super::at(log, OpenOptions::new().create(true).append(true).open(log))?;
        let log_from = super::at(log, out.metadata())?.len();
        let err: File = super::at(log, out.try_clone())?;
        let child = Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        Ok(Server {
            child,
            addr: format!("127.0.0.1:{port}"),
            kafka: format!("127.0.0.1:{kafka}"),
            log: log.to_owned(),
            log_from,
        })
    }

    /// What it said since it was started.
    pub fn said(&self) -> String {
        let whole = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&whole[(self.log_from as usize).min(whole.len())..]).into_owned()
    }

    /// Waits until PING is answered by PONG, however long it says LOADING within the patience.
    pub fn ready(&mut self) -> Result<Conn, NotReady> {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(NotReady::Ended(status, self.said()));
            }
            if let Ok(mut conn) = Conn::open(&self.addr, Duration::from_secs(20))
                && let Ok(Value::Simple(text)) = conn.text("PING")
                && text == b"PONG"
            {
                return Ok(conn);
            }
            std::thread::sleep(LOOK);
        }
        Err(NotReady::Silent(self.said()))
    }

    /// [`Server::ready`] where anything else is a failure.
    pub fn must_be_ready(&mut self) -> Result<Conn, String> {
        self.ready().map_err(|why| match why {
            NotReady::Ended(status, said) => {
                format!("the server ended ({status}) instead of serving; it said:\n{}", tail(&said))
            }
            NotReady::Silent(said) => {
                format!("the server was not ready within {} s; it said:\n{}", PATIENCE.as_secs(), tail(&said))
            }
        })
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// SIGTERM, and waits for its end.
    pub fn stop(&mut self) -> Result<ExitStatus, String> {
        let id = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &id]).status();
        asked.map_err(|error| format!("kill: {error}"))?;
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Ok(status);
            }
            std::thread::sleep(LOOK);
        }
        Err(format!("the server did not end within {} s of SIGTERM", PATIENCE.as_secs()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}

//! A server for a stage or a benchmark: ours or Debian's `redis-server`, on a free port, ready when it is given out, killed when dropped.

use crate::resp::{Conn, Value};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start, with its replay, may take.
const START_MAX: Duration = Duration::from_secs(120);
/// How long an orderly end may take.
const STOP_MAX: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A running server that answers PING.
pub struct Server {
    child: Child,
    /// `host:port` of the Redis door.
    pub redis: String,
    /// `host:port` of the admin door; empty for Redis.
    pub admin: String,
    /// `host:port` of the Consul door; empty for Redis.
    pub consul: String,
    /// Address of the Kafka door.
    pub kafka: String,
    /// Its etcd door.
    pub etcd: String,
    /// `host:port` of the gateway's own listener; empty for Redis.
    pub gateway: String,
    /// `host:port` of the DNS door; empty for Redis.
    pub dns: String,
    /// Where its output went.
    pub log: PathBuf,
    /// From the start of the process to its being ready.
    pub took: Duration,
}

impl Server {
    /// `quorate up` with its data in `dir` and its output in `dir.log`. `args` are further flags, `vars` its environment beside ours.
    pub fn quorate(bin: &Path, dir: &Path, args: &[&str], vars: &[(&str, &str)]) -> Result<Server, String> {
        let mut command = Command::new(bin);
        command
            .args([
                "up",
                "--redis-port",
                "0",
                "--admin-port",
                "0",
                "--gateway-port",
                "0",
                "--kafka-port",
                "0",
                "--etcd-port",
                "0",
                "--consul-port",
                "0",
                "--dns-port",
                "0",
                "--print-ready",
                "--data",
            ])
            .arg(dir)
            .args(args);
        command.envs(vars.iter().copied());
        let mut server = Server::spawn(command, dir)?;
        server.wait_until(|server| {
            let said = fs::read_to_string(&server.log).unwrap_or_default();
            let Some(line) = said.lines().find_map(|line| line.strip_prefix("ready ")) else { return false };
            // The line may be half written: its last word is whole when a line break follows.
            if !said.ends_with('\n') {
                return false;
            }
            for word in line.split(' ') {
                match word.split_once('=') {
                    Some(("redis", addr)) => server.redis = addr.to_owned(),
                    Some(("admin", addr)) => server.admin = addr.to_owned(),
                    Some(("kafka", addr)) => server.kafka = addr.to_owned(),
                    Some(("etcd", addr)) => server.etcd = addr.to_owned(),
                    Some(("consul", addr)) => server.consul = addr.to_owned(),
                    Some(("gateway", addr)) => server.gateway = addr.to_owned(),
                    Some(("dns", addr)) => server.dns = addr.to_owned(),
                    _ => {}
                }
            }
            server.answers()
        })?;
        Ok(server)
    }

    /// `redis-server` on loopback with its files in `dir` and its output in `dir.log`.
    pub fn redis<A: AsRef<OsStr>>(dir: &Path, args: &[A], vars: &[(&str, &str)]) -> Result<Server, String> {
        fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        let port = free_port()?;
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--daemonize", "no", "--port", &port.to_string(), "--dir"])
            .arg(dir)
            .args(args);
        command.envs(vars.iter().copied());
        let mut server = Server::spawn(command, dir)?;
        server.redis = format!("127.0.0.1:{port}");
        server.wait_until(|server| server.answers())?;
        Ok(server)
    }

    fn spawn(mut command: Command, dir: &Path) -> Result<Server, String> {
        let log = dir.with_extension("log");
        if let Some(above) = dir.parent() {
            fs::create_dir_all(above).map_err(|error| format!("{}: {error}", above.display()))?;
        }
        let at = |error: std::io::Error| format!("{}: {error}", log.display());
        let out = File::create(&log).map_err(at)?;
        let err = out.try_clone().map_err(at)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.map_err(|error| format!("{program}: {error}"))?;
        Ok(Server {
            child,
            redis: String::new(),
            admin: String::new(),
            consul: String::new(),
            kafka: String::new(),
            etcd: String::new(),
            gateway: String::new(),
            dns: String::new(),
            log,
            took: Duration::ZERO,
        })
    }

    fn wait_until(&mut self, mut done: impl FnMut(&mut Server) -> bool) -> Result<(), String> {
        let start = Instant::now();
        while !done(self) {
            let ended = self.child.try_wait().map_err(|error| error.to_string())?;
            let said = || crate::shell::tail(&fs::read_to_string(&self.log).unwrap_or_default(), 25);
            if let Some(status) = ended {
                return Err(format!("the server ended ({status}) instead of serving; it said:\n{}", said()));
            }
            if start.elapsed() > START_MAX {
                return Err(format!("the server was not ready within {} s; it said:\n{}", START_MAX.as_secs(), said()));
            }
            std::thread::sleep(LOOK);
        }
        self.took = start.elapsed();
        Ok(())
    }

    fn answers(&self) -> bool {
        let Ok(mut conn) = Conn::open(&self.redis, Duration::from_secs(20)) else { return false };
        conn.text("PING").is_ok_and(|reply| reply == Value::Simple(b"PONG".to_vec()))
    }

    /// A connection to its Redis door.
    pub fn connect(&self) -> Result<Conn, String> {
        Conn::open(&self.redis, Duration::from_secs(60)).map_err(|error| format!("{}: {error}", self.redis))
    }

    /// The port of its Redis door.
    pub fn port(&self) -> &str {
        self.redis.rsplit_once(':').map_or("", |(_, port)| port)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM, and waits for its end, which must be by itself with exit code 0.
    pub fn stop(mut self) -> Result<(), String> {
        let asked = Command::new("kill").args(["-TERM", &self.pid().to_string()]).status();
        asked.map_err(|error| format!("kill: {error}"))?;
        let start = Instant::now();
        while start.elapsed() < STOP_MAX {
            match self.child.try_wait().map_err(|error| error.to_string())? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(format!("the server ended with {status} after SIGTERM")),
                None => std::thread::sleep(LOOK),
            }
        }
        Err(format!("the server did not end within {} s of SIGTERM", STOP_MAX.as_secs()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    listener.map(|addr| addr.port()).map_err(|error| format!("no free port: {error}"))
}

/// One HTTP request to an admin door: the status and the body.
pub fn http(method: &str, addr: &str, path: &str) -> Result<(u16, String), String> {
    http_within(method, addr, path, Duration::from_secs(120))
}

/// [`http`] with a limit to connecting and to each wait for bytes.
pub fn http_within(method: &str, addr: &str, path: &str, limit: Duration) -> Result<(u16, String), String> {
    let at = |error: std::io::Error| format!("http://{addr}{path}: {error}");
    let to = addr.parse().map_err(|_| format!("no address: {addr}"))?;
    let mut stream = TcpStream::connect_timeout(&to, limit).map_err(at)?;
    stream.set_read_timeout(Some(limit)).map_err(at)?;
    let request = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(at)?;
    let mut reply = Vec::new();
    stream.read_to_end(&mut reply).map_err(at)?;
    let reply = String::from_utf8_lossy(&reply);
    let (head, body) = reply.split_once("\r\n\r\n").ok_or_else(|| format!("http://{addr}{path}: half a reply"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| format!("http://{addr}{path}: not HTTP: {head}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

/// A chunked body put together.
fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        let Some(part) = rest.get(..size).filter(|part| !part.is_empty()) else { break };
        out.push_str(part);
        body = rest.get(size + 2..).unwrap_or("");
    }
    out
}

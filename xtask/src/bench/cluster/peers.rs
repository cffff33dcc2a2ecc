//! The peers: Debian's etcd on three nodes, and Redis with one replica, as their documents advise for durable use.

use crate::ground::{Ground, Process};
use crate::net::sync::Syncs;
use crate::resp::Conn;
use crate::server::free_port;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a start may take.
const START: Duration = Duration::from_secs(30);

/// Servers that are one.
pub struct Peer {
    /// The processes, the leader first.
    pub processes: Vec<Process>,
    /// Where clients are served, in the same order.
    pub addrs: Vec<String>,
    /// Where they live, in the same order.
    pub places: Vec<usize>,
    /// What their fsyncs do, in the same order; empty: as without us.
    pub syncs: Vec<Arc<Syncs>>,
}

fn fresh(dir: &Path) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(dir);
    std::fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// What an HTTP server answers to a POST; etcd's JSON gateway, which only the search for the leader uses.
fn post(addr: &str, path: &str) -> Result<String, String> {
    let at = |error: std::io::Error| format!("http://{addr}{path}: {error}");
    let mut stream = TcpStream::connect(addr).map_err(at)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(at)?;
    let request = format!("POST {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}");
    stream.write_all(request.as_bytes()).map_err(at)?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map_err(at)?;
    Ok(text)
}

/// `"name":"VALUE"` in a JSON text.
fn text_after<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    json.split_once(&format!("\"{name}\":\""))?.1.split('"').next()
}

/// One for each of so many processes, if fsyncs are to be looked at.
fn each(count: usize, delay: Option<Duration>) -> Vec<Arc<Syncs>> {
    delay.map_or(Vec::new(), |delay| (0..count).map(|_| Syncs::slow(delay)).collect())
}

/// So many members of etcd; the first of the answer leads.
pub fn etcd(ground: &Ground, dir: &Path, count: usize, syncs: Option<Duration>) -> Result<Peer, String> {
    fresh(dir)?;
    let mut urls = Vec::new();
    for at in 0..count {
        let ip = ground.ip(at);
        urls.push((format!("{ip}:{}", free_port()?), format!("http://{ip}:{}", free_port()?)));
    }
    let all: Vec<String> = urls.iter().enumerate().map(|(at, (_, peer))| format!("n{at}={peer}")).collect();
    let (mut processes, syncs) = (Vec::new(), each(count, syncs));
    for (at, (client, peer)) in urls.iter().enumerate() {
        let mut command = Command::new("etcd");
        command.args(["--name", &format!("n{at}"), "--logger", "zap", "--log-level", "error", "--data-dir"]);
        command.arg(dir.join(format!("n{at}")));
        let url = format!("http://{client}");
        command.args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        command.args(["--initial-cluster", &all.join(","), "--initial-cluster-token", &std::process::id().to_string()]);
        processes.push(ground.spawn(at, command, &dir.join(format!("n{at}.log")), syncs.get(at))?);
    }
    let addrs: Vec<String> = urls.into_iter().map(|(client, _)| client).collect();
    let start = Instant::now();
    let leader = loop {
        let found = ground.visit(|| {
            Ok(addrs.iter().position(|addr| {
                let said = post(addr, "/v3/maintenance/status").unwrap_or_default();
                text_after(&said, "leader").is_some_and(|leader| text_after(&said, "member_id") == Some(leader))
            }))
        })?;
        if let Some(leader) = found {
            break leader;
        }
        if start.elapsed() > START {
            return Err(format!("etcd found no leader; it said: {}", processes[0].said()));
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let mut peer = Peer { processes, addrs, places: (0..count).collect(), syncs };
    peer.processes.swap(0, leader);
    peer.addrs.swap(0, leader);
    peer.places.swap(0, leader);
    if !peer.syncs.is_empty() {
        peer.syncs.swap(0, leader);
    }
    Ok(peer)
}

/// A master and its replica, both with `appendfsync always`.
pub fn redis(ground: &Ground, dir: &Path, syncs: Option<Duration>) -> Result<Peer, String> {
    fresh(dir)?;
    let (mut processes, mut addrs, syncs) = (Vec::new(), Vec::new(), each(2, syncs));
    for at in 0..2 {
        let (ip, port) = (ground.ip(at), free_port()?.to_string());
        let files = dir.join(format!("r{at}"));
        fresh(&files)?;
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", &ip, "--protected-mode", "no", "--daemonize", "no", "--port", &port, "--dir"])
            .arg(&files);
        command.args([
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--auto-aof-rewrite-percentage",
            "0",
        ]);
        if at == 1 {
            let (host, port) = addrs.first().and_then(|addr: &String| addr.split_once(':')).unwrap_or_default();
            command.args(["--replicaof", &format!("{host} {port}")]);
        }
        let mut process = ground.spawn(at, command, &dir.join(format!("r{at}.log")), syncs.get(at))?;
        let addr = format!("{ip}:{port}");
        let wanted = if at == 0 { "role:master" } else { "master_link_status:up" };
        process.wait_until(START, |_| {
            let info = ground.visit(|| {
                let asked =
                    Conn::open(&addr, Duration::from_secs(2)).and_then(|mut conn| conn.text("INFO replication"));
                asked.map_err(|error| error.to_string())
            });
            info.is_ok_and(|info| info.text().is_some_and(|text| text.contains(wanted)))
        })?;
        processes.push(process);
        addrs.push(addr);
    }
    Ok(Peer { processes, addrs, places: vec![0, 1], syncs })
}

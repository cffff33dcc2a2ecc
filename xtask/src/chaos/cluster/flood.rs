//! A front door under a flood: more requests than one node can answer, and connections whose heads never end, until the gateway's memory is
//! all used. It has threads and memory of its own, so nothing of it may reach the groups: not one election.

use super::faults::{CHANGE, Course};
use crate::interrupt;
use crate::nodes::Nodes;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long it takes.
const SPAN: Duration = Duration::from_secs(4);
/// Requests at most, of all clients.
const REQUESTS_MAX: u64 = 400_000;
/// Clients that ask as fast as they are answered, and requests that each has under way.
const CLIENTS: usize = 3;
const UNDER_WAY: usize = 32;
/// Connections whose heads never end, and bytes of each.
const HALVES: usize = 400;
const HALF_BYTES: usize = 3000;
/// What the gateway may hold: less than the halves do.
pub const MEMORY_MAX: &str = "gateway.memory_max=1MiB";
/// What it says once it holds that.
const FULL: &str = "as much as gateway.memory_max allows";
/// How long all nodes may take to say how they are.
const SAY: Duration = Duration::from_secs(10);

impl Course {
    /// Floods the gateway of a node while all leads stay where they are.
    pub(super) fn flood(&mut self, at: usize) -> Result<String, String> {
        // A lead that moves by plan begins a term as well: they are held where they are.
        self.nodes.await_replicas(CHANGE)?;
        self.nodes.hold_leads()?;
        let before = self.nodes.terms(SAY)?;
        let (addr, admin) = (self.nodes.nodes[at].gateway.clone(), self.nodes.nodes[at].admin.clone());
        let asked = self.nodes.ground.visit(|| {
            put_route(&admin)?;
            flood(&addr)
        })?;
        let after = self.nodes.terms(SAY)?;
        self.nodes.change("rebalance")?;
        let node = &self.nodes.nodes[at];
        let is_full = node.process.as_ref().is_some_and(|process| process.said().contains(FULL));
        if before != after {
            return Err(format!(
                "a flood at the gateway of node {} cost elections: {before:?}, then {after:?}",
                node.id
            ));
        }
        if asked == 0 || !is_full {
            return Err(format!("the gateway of node {} was not flooded: {asked} answers, full: {is_full}", node.id));
        }
        Ok(format!("node {}'s gateway answered {asked} requests beside {HALVES} endless ones, no election", node.id))
    }
}

/// A route that is answered by the gateway itself.
fn put_route(admin: &str) -> Result<(), String> {
    let body = r#"{"path":"/flood/*","respond":{"status":200,"body":"flooded"}}"#;
    let at = |error: std::io::Error| format!("{admin}: {error}");
    let mut stream = TcpStream::connect(admin).map_err(at)?;
    stream.set_read_timeout(Some(SAY)).map_err(at)?;
    let length = body.len();
    write!(
        stream,
        "PUT /gateway/route/flood HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
    .map_err(at)?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply).map_err(at)?;
    if reply.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(format!("the route was refused: {reply}")) }
}

/// Floods an address for its span; how many requests were answered.
fn flood(addr: &str) -> Result<u64, String> {
    let (stop, asked, answered) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                // A connection that was closed is made anew; nobody is surprised by one here.
                while !stop.load(Ordering::Relaxed) && asked.load(Ordering::Relaxed) < REQUESTS_MAX {
                    if ask(addr, &stop, &asked, &answered).is_err() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
        // Those that ask have their connections before memory is all used.
        let start = Instant::now();
        while answered.load(Ordering::Relaxed) < 1000 && start.elapsed() < SPAN {
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut halves = Vec::new();
        while start.elapsed() < SPAN && !interrupt::told() {
            if halves.len() < HALVES {
                halves.extend(half(addr));
            } else {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    Ok(answered.load(Ordering::Relaxed))
}

/// A connection whose request's head does not end.
fn half(addr: &str) -> Option<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&addr.parse().ok()?, Duration::from_millis(500)).ok()?;
    let head = format!("GET /flood/half HTTP/1.1\r\nHost: flood\r\nx-long: {}", "x".repeat(HALF_BYTES));
    stream.write_all(head.as_bytes()).ok()?;
    Some(stream)
}

/// Asks on one connection as fast as it is answered, until it breaks or all is over.
fn ask(addr: &str, stop: &AtomicBool, asked: &AtomicU64, answered: &AtomicU64) -> std::io::Result<()> {
    let to = addr.parse().map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let many = "GET /flood/all HTTP/1.1\r\nHost: flood\r\n\r\n".repeat(UNDER_WAY);
    let mut bytes = vec![0; 64 << 10];
    while !stop.load(Ordering::Relaxed) && asked.fetch_add(UNDER_WAY as u64, Ordering::Relaxed) < REQUESTS_MAX {
        stream.write_all(many.as_bytes())?;
        // The word ends each answer, and is in no head.
        let (mut ends, mut last) = (0, [0; 7]);
        while ends < UNDER_WAY {
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            for byte in &bytes[..count] {
                last.rotate_left(1);
                last[6] = *byte;
                ends += usize::from(last == *b"flooded");
            }
        }
        answered.fetch_add(UNDER_WAY as u64, Ordering::Relaxed);
    }
    Ok(())
}

impl Nodes {
    /// Every lead is held where it is, until `rebalance`.
    fn hold_leads(&self) -> Result<(), String> {
        let view = self.view()?;
        for group in view["groups"].as_array().into_iter().flatten() {
            let (Some(group), Some(leader)) = (group["group"].as_u64(), group["leader"].as_u64()) else { continue };
            self.change(&format!("lead?group={group}&to={leader}"))?;
        }
        Ok(())
    }

    /// The newest term of each group, of all nodes that run.
    fn terms(&self, limit: Duration) -> Result<BTreeMap<usize, u64>, String> {
        let start = Instant::now();
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        let mut all = BTreeMap::new();
        for node in running {
            loop {
                match self.parts_of(node.place) {
                    Ok(parts) => {
                        for (group, part) in parts {
                            let term: &mut u64 = all.entry(group).or_default();
                            *term = part.term.max(*term);
                        }
                        break;
                    }
                    Err(why) if start.elapsed() > limit => return Err(why),
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            }
        }
        Ok(all)
    }
}

//! Three nodes that act as one, for the demonstrations that need them, and clients that write to any of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use doors::resp::client::Value;
use serde_json::Value as Json;

use super::{Connection, PATIENCE, Server};
use crate::ask::request;

/// How long the cluster may take to have what is waited for.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// A client that gets no answer for so long tries the next node.
const CLIENT_PATIENCE: Duration = Duration::from_millis(1500);

/// The nodes, by number from 1.
pub struct Trio {
    directory: PathBuf,
    nodes: Vec<Option<Server>>,
    flags: Vec<Vec<String>>,
}

impl Trio {
    /// Starts three nodes, the second and third with a token of the first; each with flags of its own.
    pub fn start(directory: &Path, flags: [Vec<String>; 3]) -> Result<Trio, String> {
        let began = Instant::now();
        let mut trio =
            Trio { directory: directory.to_owned(), nodes: (0..3).map(|_| None).collect(), flags: flags.to_vec() };
        trio.up(1, &[])?;
        let token = trio.post("token")?;
        let token = token.get("token").and_then(Json::as_str).ok_or("the node gives no token")?.to_owned();
        let first = trio.view()?.pointer("/nodes/0/peer").and_then(Json::as_str).map(str::to_owned);
        let first = first.ok_or("the node does not say where it is")?;
        for node in 2..=3 {
            trio.up(node, &["--join", &first, "--token", &token])?;
        }
        trio.wait("three voters in every shard", |view| {
            list(view, "groups").all(|group| list(group, "voters").count() == 3 && number(group, "leader") != 0)
        })?;
        println!("Three nodes act as one after {:.1} s.", began.elapsed().as_secs_f64());
        Ok(trio)
    }

    /// Starts a node, again perhaps.
    pub fn up(&mut self, node: u64, more: &[&str]) -> Result<(), String> {
        let at = node as usize - 1;
        let data = self.directory.join(format!("node{node}"));
        let flags: Vec<&str> = self.flags[at].iter().map(String::as_str).chain(more.iter().copied()).collect();
        self.nodes[at] = Some(Server::start(&data, &flags, &[])?);
        Ok(())
    }

    /// A node that runs.
    pub fn node(&mut self, node: u64) -> Result<&mut Server, String> {
        self.nodes[node as usize - 1].as_mut().ok_or_else(|| format!("node {node} does not run"))
    }

    /// Forgets a node's process, which must have ended.
    pub fn gone(&mut self, node: u64) {
        self.nodes[node as usize - 1] = None;
    }

    /// The Redis doors of the nodes that run.
    pub fn doors(&self) -> Vec<SocketAddr> {
        self.nodes.iter().flatten().map(|server| server.redis).collect()
    }

    /// The Kafka doors of the nodes that run.
    pub fn streams(&self) -> Vec<SocketAddr> {
        self.nodes.iter().flatten().map(|server| server.kafka).collect()
    }

    /// The node whose Kafka door this is.
    pub fn of_stream(&self, door: &str) -> Result<u64, String> {
        let at = self.nodes.iter().position(|node| node.as_ref().is_some_and(|own| own.kafka.to_string() == door));
        at.map(|at| at as u64 + 1).ok_or_else(|| format!("no node's Kafka door is at {door}"))
    }

    /// `quorate cluster status --json` of any node that answers.
    pub fn view(&self) -> Result<Json, String> {
        self.ask("GET", "/cluster")
    }

    /// A change of the cluster.
    pub fn post(&self, verb: &str) -> Result<Json, String> {
        self.ask("POST", &format!("/cluster/{verb}"))
    }

    fn ask(&self, method: &str, path: &str) -> Result<Json, String> {
        let mut why = "no node runs".to_owned();
        for server in self.nodes.iter().flatten() {
            match request(server.admin, method, path, None, "application/json", &[]) {
                Ok((200, body)) => return serde_json::from_str(&body).map_err(|error| error.to_string()),
                Ok((code, body)) => why = format!("the node answers {code}: {}", body.trim()),
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// Waits until the cluster looks like this.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Json) -> bool) -> Result<Duration, String> {
        let began = Instant::now();
        let mut last = Json::Null;
        while began.elapsed() < SETTLED_WITHIN {
            if let Ok(view) = self.view() {
                if is_so(&view) {
                    return Ok(began.elapsed());
                }
                last = view;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let problems: Vec<&str> =
            list(&last, "problems").chain(list(&last, "moves")).filter_map(Json::as_str).collect();
        Err(format!("no {what} within {SETTLED_WITHIN:?}: {}", problems.join("; ")))
    }

    /// Who leads a shard.
    pub fn leader(&self, shard: u64) -> Result<u64, String> {
        let view = self.view()?;
        let leader =
            list(&view, "groups").find(|group| number(group, "group") == shard).map(|group| number(group, "leader"));
        leader.filter(|node| *node != 0).ok_or_else(|| format!("shard {shard} has no leader"))
    }
}

pub fn list<'a>(value: &'a Json, name: &str) -> impl Iterator<Item = &'a Json> {
    value.get(name).and_then(Json::as_array).into_iter().flatten()
}

pub fn number(value: &Json, name: &str) -> u64 {
    value.get(name).and_then(Json::as_u64).unwrap_or(0)
}

/// Clients that each write one key after the other, to whichever node takes it.
pub struct Load {
    /// Where nodes are; changed while they come and go.
    pub doors: Mutex<Vec<SocketAddr>>,
    answered: Vec<AtomicU64>,
    stop: AtomicBool,
    /// Errors that a client saw twice in a row for one write.
    pub failed_twice: AtomicU64,
    /// Answers that said "try again", and connections that broke.
    pub retried: AtomicU64,
    began: Instant,
    /// When the last write was answered, and the longest time without one since it was asked last, microseconds.
    last_us: AtomicU64,
    gap_us: AtomicU64,
    /// The longest time that one write took since it was asked last, tries that failed included.
    slowest_us: AtomicU64,
}

impl Load {
    /// So many clients; run by [`Load::run`].
    pub fn new(clients: usize, doors: Vec<SocketAddr>) -> Load {
        Load {
            doors: Mutex::new(doors),
            answered: (0..clients).map(|_| AtomicU64::new(0)).collect(),
            stop: AtomicBool::new(false),
            failed_twice: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            began: Instant::now(),
            last_us: AtomicU64::new(0),
            gap_us: AtomicU64::new(0),
            slowest_us: AtomicU64::new(0),
        }
    }

    /// Runs the clients as long as `then` takes.
    pub fn run<T>(&self, then: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        std::thread::scope(|scope| {
            for client in 0..self.answered.len() {
                scope.spawn(move || self.write(client));
            }
            let done = then();
            self.stop.store(true, Ordering::Relaxed);
            done
        })
    }

    /// Where nodes are now.
    pub fn meet(&self, doors: Vec<SocketAddr>) {
        *self.doors.lock().unwrap_or_else(PoisonError::into_inner) = doors;
    }

    /// Writes that were answered.
    pub fn answered(&self) -> u64 {
        self.answered.iter().map(|answered| answered.load(Ordering::Relaxed)).sum()
    }

    /// Waits until so many more writes are answered.
    pub fn more(&self, count: u64) -> Result<(), String> {
        let (target, began) = (self.answered() + count, Instant::now());
        while self.answered() < target {
            if began.elapsed() > PATIENCE {
                return Err(format!("no {count} writes were answered within {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// The longest time without an answer since this was last asked.
    pub fn gap(&self) -> Duration {
        let now = self.began.elapsed().as_micros() as u64;
        let open = now.saturating_sub(self.last_us.load(Ordering::Relaxed));
        Duration::from_micros(self.gap_us.swap(0, Ordering::Relaxed).max(open))
    }

    /// The longest time that one write took since this was last asked.
    pub fn slowest(&self) -> Duration {
        Duration::from_micros(self.slowest_us.swap(0, Ordering::Relaxed))
    }

    fn write(&self, client: usize) {
        let (mut turn, mut connection) = (client, None::<Connection>);
        let mut next = 1;
        let mut failed = false;
        let mut asked = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if connection.is_none() {
                let door = {
                    let doors = self.doors.lock().unwrap_or_else(PoisonError::into_inner);
                    doors.get(turn % doors.len().max(1)).copied()
                };
                turn += 1;
                connection = door.and_then(|door| Connection::open_patient(door, CLIENT_PATIENCE).ok());
            }
            let key = key(client, next);
            let answer = connection
                .as_mut()
                .map(|connection| connection.ask(&[b"SET", key.as_bytes(), next.to_string().as_bytes()]));
            match answer {
                Some(Ok(Value::Simple(text))) if text == b"OK" => {
                    self.answered[client].store(next, Ordering::Relaxed);
                    let now = self.began.elapsed().as_micros() as u64;
                    let last = self.last_us.fetch_max(now, Ordering::Relaxed);
                    self.gap_us.fetch_max(now.saturating_sub(last), Ordering::Relaxed);
                    next += 1;
                    failed = false;
                    self.slowest_us.fetch_max(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
                    asked = Instant::now();
                    continue;
                }
                // Whoever says "try again" may be about to stop: the next node is asked, as a balancer would.
                _ => connection = None,
            }
            self.retried.fetch_add(1, Ordering::Relaxed);
            self.failed_twice.fetch_add(u64::from(failed), Ordering::Relaxed);
            failed = true;
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks for every write that was answered, at this node.
    pub fn look(&self, connection: &mut Connection) -> Result<u64, String> {
        for (client, answered) in self.answered.iter().enumerate() {
            for at in 1..=answered.load(Ordering::Relaxed) {
                let key = key(client, at);
                let value = patiently(connection, &[b"GET", key.as_bytes()])?;
                if value != Value::Bulk(at.to_string().into_bytes()) {
                    return Err(format!("{key} was answered with OK and now holds {value:?}"));
                }
            }
        }
        Ok(self.answered())
    }
}

/// Asks again while nobody leads the shard: a lead may be handed over just then.
pub fn patiently(connection: &mut Connection, words: &[&[u8]]) -> Result<Value, String> {
    let began = Instant::now();
    loop {
        match connection.must(words) {
            Err(why) if why.contains("TRYAGAIN") && began.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
}

fn key(client: usize, number: u64) -> String {
    format!("trio:{client}:{number}")
}

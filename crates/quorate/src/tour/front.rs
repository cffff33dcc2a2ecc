//! What the gateway's demonstrations share: servers to stand behind it, clients to stand before it, and words to the node.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{PATIENCE, Server};
use crate::ask;

/// Most bytes of a line of a head; both ends are ours.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// What a backend has seen and how it is to behave.
#[derive(Default)]
struct Behaviour {
    requests: AtomicU64,
    /// Requests that a client began to send after [`Load::late`] was set.
    late: AtomicU64,
    delay_us: AtomicU64,
    /// Every so many hundredths of the answers are 503.
    failing_percent: AtomicU64,
    dead: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

/// A small HTTP server of this process that says its name.
pub struct Backend {
    /// What it says.
    pub name: String,
    /// Where it listens, also when it was killed and is back.
    pub address: SocketAddr,
    behaviour: Arc<Behaviour>,
}

impl Backend {
    /// A server on a free port.
    pub fn start(name: &str) -> Result<Backend, String> {
        let listener = listen(0)?;
        let address = listener.local_addr().map_err(|error| format!("a server has no address: {error}"))?;
        let backend = Backend { name: name.to_owned(), address, behaviour: Arc::default() };
        backend.serve(listener);
        Ok(backend)
    }

    /// Several, named `prefix`1, 2 …
    pub fn several(prefix: &str, count: usize) -> Result<Vec<Backend>, String> {
        (1..=count).map(|number| Backend::start(&format!("{prefix}{number}"))).collect()
    }

    fn serve(&self, listener: TcpListener) {
        let (name, behaviour) = (self.name.clone(), self.behaviour.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if behaviour.dead.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(twin) = stream.try_clone() {
                    lock(&behaviour.open).push(twin);
                }
                let (name, behaviour) = (name.clone(), behaviour.clone());
                std::thread::spawn(move || answer_all(stream, &name, &behaviour));
            }
        });
    }

    /// How long each answer takes from now on.
    pub fn delay(&self, delay: Duration) {
        self.behaviour.delay_us.store(delay.as_micros() as u64, Ordering::Relaxed);
    }

    /// How many of a hundred answers are 503 from now on.
    pub fn fail(&self, percent: u64) {
        self.behaviour.failing_percent.store(percent, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn requests(&self) -> u64 {
        self.behaviour.requests.load(Ordering::SeqCst)
    }

    /// Requests so far that were begun after [`Load::late`] was set.
    pub fn late(&self) -> u64 {
        self.behaviour.late.load(Ordering::SeqCst)
    }

    /// As kill -9 does it: every connection breaks, whatever is under way, and nobody listens.
    pub fn kill(&self) {
        self.behaviour.dead.store(true, Ordering::SeqCst);
        // The thread that accepts wakes up, sees that it is dead and lets go of the port.
        let _ = TcpStream::connect_timeout(&self.address, PATIENCE);
        for stream in lock(&self.behaviour.open).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// It is back at its address.
    pub fn restart(&self) -> Result<(), String> {
        let listener = listen(self.address.port())?;
        self.behaviour.dead.store(false, Ordering::SeqCst);
        self.serve(listener);
        Ok(())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(port: u16) -> Result<TcpListener, String> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map_err(|error| format!("port {port} cannot be listened on: {error}"))
}

/// Answers the requests of one connection; the threads end with their connections.
fn answer_all(stream: TcpStream, name: &str, behaviour: &Behaviour) {
    let _ = stream.set_nodelay(true);
    let mut reader = BufReader::new(stream);
    loop {
        let Ok(head) = read_head(&mut reader) else { return };
        // The gateway's own checks are no requests of clients.
        let is_check = head.iter().any(|line| line.eq_ignore_ascii_case("user-agent: quorate-check"));
        let number = behaviour.requests.fetch_add(u64::from(!is_check), Ordering::SeqCst);
        if head.iter().any(|line| line.eq_ignore_ascii_case("x-late: 1")) {
            behaviour.late.fetch_add(1, Ordering::SeqCst);
        }
        let delay = behaviour.delay_us.load(Ordering::Relaxed);
        if delay > 0 {
            std::thread::sleep(Duration::from_micros(delay));
        }
        if behaviour.dead.load(Ordering::SeqCst) {
            return;
        }
        // Spread evenly but without a rhythm that requests could fall into: a multiplicative hash of the number.
        let drawn = (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) % 100;
        let status = match drawn < behaviour.failing_percent.load(Ordering::Relaxed) {
            true => "503 Service Unavailable",
            false => "200 OK",
        };
        let body = format!("I am {name}\n");
        let answer = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nX-Backend: {name}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        if reader.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// The lines up to the empty one.
fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.by_ref().take(LINE_BYTES_MAX).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(line.to_owned());
    }
}

/// A client that keeps its connection.
pub struct Client(BufReader<TcpStream>);

/// What a client was answered.
pub struct Answer {
    pub status: u16,
    /// The name of the server that answered; empty: the gateway itself.
    pub backend: String,
}

impl Client {
    pub fn connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Client(BufReader::new(stream)))
    }

    /// GET / with these header lines, each with its end.
    pub fn get(&mut self, headers: &str) -> io::Result<Answer> {
        let request = format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{headers}\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let head = read_head(&mut self.0)?;
        let broken = || io::Error::other("the answer is not HTTP/1.1 with a length");
        let header = |name: &str| {
            let lines = head.iter().filter_map(|line| line.split_once(':'));
            lines.filter(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned()).next()
        };
        let status = head.first().and_then(|line| line.split(' ').nth(1)).and_then(|status| status.parse().ok());
        let length: u64 = header("content-length").and_then(|length| length.parse().ok()).ok_or_else(broken)?;
        io::copy(&mut self.0.by_ref().take(length), &mut io::sink())?;
        Ok(Answer { status: status.ok_or_else(broken)?, backend: header("x-backend").unwrap_or_default() })
    }
}

/// What clients were answered.
#[derive(Default)]
pub struct Figures {
    /// Requests.
    pub requests: u64,
    /// Those that were not answered 2xx.
    pub failed: u64,
    /// One of those that failed, in words.
    pub complaint: Option<String>,
    /// How many each server answered.
    pub by_backend: BTreeMap<String, u64>,
    latencies_us: Vec<u32>,
}

impl Figures {
    fn add(&mut self, other: Figures) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.complaint = self.complaint.take().or(other.complaint);
        for (name, count) in other.by_backend {
            *self.by_backend.entry(name).or_default() += count;
        }
        self.latencies_us.extend(other.latencies_us);
    }

    /// Requests that this server answered.
    pub fn of(&self, backend: &Backend) -> u64 {
        self.by_backend.get(&backend.name).copied().unwrap_or(0)
    }

    /// This server's share of what was answered, percent.
    pub fn percent(&self, backend: &Backend) -> f64 {
        100.0 * self.of(backend) as f64 / (self.requests - self.failed).max(1) as f64
    }

    /// The time below which this share of the answers came.
    pub fn quantile(&mut self, share: f64) -> Duration {
        self.latencies_us.sort_unstable();
        let last = self.latencies_us.len().saturating_sub(1);
        let at = (last as f64 * share).round() as usize;
        Duration::from_micros(self.latencies_us.get(at).copied().unwrap_or(0).into())
    }

    /// An error where a request failed.
    pub fn none_failed(&self) -> Result<(), String> {
        match &self.complaint {
            None => Ok(()),
            Some(why) => Err(format!("{} of {} requests failed, one with {why}", self.failed, self.requests)),
        }
    }
}

/// Clients that ask one after the other, each waiting for its answer, until there were enough or [`Load::stop`].
pub struct Load {
    address: SocketAddr,
    clients: usize,
    asked: AtomicU64,
    most: u64,
    stop: AtomicBool,
    late: AtomicBool,
}

impl Load {
    /// So many clients of this gateway.
    pub fn new(address: SocketAddr, clients: usize) -> Load {
        let (asked, stop, late) = (AtomicU64::new(0), AtomicBool::new(false), AtomicBool::new(false));
        Load { address, clients, asked, most: u64::MAX, stop, late }
    }

    /// No more than so many requests.
    pub fn most(mut self, requests: u64) -> Load {
        self.most = requests;
        self
    }

    /// Ends it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// Whether requests that are begun from now on are marked.
    pub fn late(&self, late: bool) {
        self.late.store(late, Ordering::SeqCst);
    }

    /// Runs the clients; `meanwhile` runs beside them, and they stop when it is done unless there is a number to reach.
    pub fn run(&self, meanwhile: impl FnOnce() -> Result<(), String>) -> Result<Figures, String> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..self.clients).map(|_| scope.spawn(|| self.client())).collect();
            let done = meanwhile();
            if done.is_err() || self.most == u64::MAX {
                self.stop();
            }
            let mut figures = Figures::default();
            for client in clients {
                figures.add(client.join().map_err(|_| "a client failed")?);
            }
            done.map(|()| figures)
        })
    }

    fn client(&self) -> Figures {
        let mut figures = Figures::default();
        let mut connection = None;
        while !self.stop.load(Ordering::SeqCst) && self.asked.fetch_add(1, Ordering::Relaxed) < self.most {
            let began = Instant::now();
            // Read before the request is sent: a marked one was begun after the mark was set.
            let headers = if self.late.load(Ordering::SeqCst) { "X-Late: 1\r\n" } else { "" };
            figures.requests += 1;
            let answer = match connection.take().map_or_else(|| Client::connect(self.address), Ok) {
                Ok(mut client) => client.get(headers).inspect(|_| connection = Some(client)),
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) if (200..300).contains(&answer.status) => {
                    *figures.by_backend.entry(answer.backend).or_default() += 1;
                    figures.latencies_us.push(began.elapsed().as_micros().min(u128::from(u32::MAX)) as u32);
                }
                Ok(answer) => {
                    let by = if answer.backend.is_empty() { "the gateway" } else { &answer.backend };
                    figures.failed += 1;
                    figures.complaint.get_or_insert(format!("{} from {by}", answer.status));
                }
                Err(error) => {
                    figures.failed += 1;
                    figures.complaint.get_or_insert(format!("no answer: {error}"));
                }
            }
        }
        figures
    }
}

/// Runs a command of this program on the node, and shows it.
pub fn tell(server: &Server, words: &[&str]) -> Result<(), String> {
    let shown: Vec<String> =
        words.iter().map(|word| if word.contains('*') { format!("'{word}'") } else { (*word).into() }).collect();
    println!("  $ quorate {}", shown.join(" "));
    let program = std::env::current_exe().map_err(|error| format!("this program cannot be found: {error}"))?;
    let mut command = Command::new(program);
    command.args(words).args(["--admin", &server.admin.to_string()]);
    let said = command.output().map_err(|error| format!("quorate {}: {error}", words[0]))?;
    if said.status.success() {
        return Ok(());
    }
    Err(format!("quorate {} was answered {}", shown.join(" "), String::from_utf8_lossy(&said.stderr).trim()))
}

/// `quorate upstream VERB NAME`, then the servers' addresses, then the options.
pub fn upstream(server: &Server, verb: &str, name: &str, backends: &[Backend], options: &[&str]) -> Result<(), String> {
    let addresses: Vec<String> = backends.iter().map(|backend| backend.address.to_string()).collect();
    let mut words = vec!["upstream", verb, name];
    words.extend(addresses.iter().map(String::as_str));
    words.extend(options);
    tell(server, &words)
}

/// The upstream of this name as `/gateway/look` shows it.
pub fn look(server: &Server, name: &str) -> Result<Value, String> {
    let (status, body) = ask::request(server.admin, "GET", "/gateway/look", None, "", &[])?;
    let look: Value = serde_json::from_str(&body).map_err(|error| format!("/gateway/look, {status}: {error}"))?;
    let upstreams = look["upstreams"].as_array();
    let found = upstreams.and_then(|all| all.iter().find(|upstream| upstream["name"] == name));
    found.cloned().ok_or_else(|| format!("there is no upstream {name:?} in {body}"))
}

/// The endpoint of this server, within [`look`].
pub fn endpoint(upstream: &Value, backend: &Backend) -> Option<Value> {
    let address = backend.address.to_string();
    let endpoints = upstream["endpoints"].as_array();
    endpoints.and_then(|all| all.iter().find(|endpoint| endpoint["address"] == *address)).cloned()
}

/// Waits until it holds.
pub fn wait(
    what: &str,
    patience: Duration,
    mut holds: impl FnMut() -> Result<bool, String>,
) -> Result<Duration, String> {
    let began = Instant::now();
    while !holds()? {
        if began.elapsed() > patience {
            return Err(format!("within {patience:?} it did not happen that {what}"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(began.elapsed())
}

/// A duration in milliseconds, for people.
pub fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1e3)
}

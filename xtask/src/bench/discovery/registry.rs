//! The registry by itself: from a registration to its being seen on every node, what 100,000 instances take, what 10,000 checks a second cost.

use super::{Found, Plan, nodes};
use crate::bench::measure;
use crate::server::{Server, http};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Connections that register, and that renew.
const CLIENTS: usize = 16;

/// A client of the Consul door.
struct Client {
    stream: TcpStream,
    buf: Vec<u8>,
}

/// An answer: status, `X-Consul-Index`, body.
type Answer = (u16, u64, String);

impl Client {
    fn open(addr: &str) -> Result<Client, String> {
        let stream = TcpStream::connect(addr).map_err(|error| format!("{addr}: {error}"))?;
        let set = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(60))));
        set.map_err(|error| error.to_string())?;
        Ok(Client { stream, buf: Vec::new() })
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, String> {
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let at = |why: &str| format!("{method} {path}: {why}");
        self.stream.write_all(request.as_bytes()).map_err(|error| at(&error.to_string()))?;
        self.buf.clear();
        let mut chunk = [0; 16 << 10];
        loop {
            if let Some(head) = self.buf.windows(4).position(|four| four == b"\r\n\r\n") {
                let text = String::from_utf8_lossy(&self.buf[..head]).to_ascii_lowercase();
                let header = |name: &str| {
                    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.trim().parse().ok())
                };
                let length: u64 = header("content-length:").ok_or_else(|| at("no Content-Length"))?;
                if self.buf.len() as u64 >= head as u64 + 4 + length {
                    let status =
                        text.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(|| at("no HTTP"))?;
                    let body = String::from_utf8_lossy(&self.buf[head + 4..]).into_owned();
                    return Ok((status, header("x-consul-index:").unwrap_or(0), body));
                }
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(at("the connection was closed")),
                Ok(count) => self.buf.extend_from_slice(&chunk[..count]),
                Err(error) => return Err(at(&error.to_string())),
            }
        }
    }

    /// The same where only a success will do.
    fn done(&mut self, method: &str, path: &str, body: &str) -> Result<Answer, String> {
        let answer = self.ask(method, path, body)?;
        if answer.0 == 200 { Ok(answer) } else { Err(format!("{method} {path}: {} {}", answer.0, answer.2)) }
    }
}

/// Does `job` for each number, spread over some connections.
fn many(addr: &str, count: usize, job: impl Fn(&mut Client, usize) -> Result<(), String> + Sync) -> Result<(), String> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS)
            .map(|thread| {
                let job = &job;
                scope.spawn(move || {
                    let mut client = Client::open(addr)?;
                    (thread..count).step_by(CLIENTS).try_for_each(|at| job(&mut client, at))
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a client panicked".to_owned())?)
    })
}

/// All of this part.
pub fn run(plan: &Plan) -> Result<Found, String> {
    let mut notes = vec![visible(plan)?];
    println!("bench: {}", notes[0]);
    for more in [memory as fn(&Plan) -> Result<String, String>, checks] {
        let note = more(plan)?;
        println!("bench: {note}");
        notes.push(note);
    }
    Ok((Vec::new(), notes))
}

/// Where the Consul door of a node is.
fn consul(said: &str) -> Option<String> {
    let line = said.lines().find_map(|line| line.strip_prefix("ready "))?;
    line.split(' ').find_map(|word| word.strip_prefix("consul=")).map(str::to_owned)
}

/// From a registration's being sent to a blocking query's answer on every node of three.
fn visible(plan: &Plan) -> Result<String, String> {
    let times = if plan.quick { 50 } else { 500 };
    let nodes = nodes(plan, 3)?;
    let doors: Vec<String> = nodes.nodes.iter().filter_map(|node| consul(&node.process.as_ref()?.said())).collect();
    if doors.len() != 3 {
        return Err("a node does not say where its Consul door is".into());
    }
    measure::settle();
    let (tell, told) = mpsc::channel();
    let threads: Vec<_> = doors
        .iter()
        .map(|door| {
            let (door, tell) = (door.clone(), tell.clone());
            std::thread::spawn(move || {
                let done = follow(&door, times, &tell);
                if let Err(why) = &done {
                    let _ = tell.send(Err(why.clone()));
                }
            })
        })
        .collect();
    let mut clients = doors.iter().map(|door| Client::open(door)).collect::<Result<Vec<_>, _>>()?;
    let (mut took, mut acknowledged) = (Vec::new(), Vec::new());
    let next = || told.recv_timeout(Duration::from_secs(30)).map_err(|_| "nothing is seen".to_owned())?;
    for at in 0..times {
        for _ in &doors {
            next()?;
        }
        // Those who follow are about to wait.
        std::thread::sleep(Duration::from_millis(2));
        let body = format!(r#"{{"ID":"v{at}","Name":"visible-{at}","Address":"127.0.0.1","Port":80}}"#);
        let start = Instant::now();
        clients[at % 3].done("PUT", "/v1/agent/service/register", &body)?;
        acknowledged.push(start.elapsed());
        let mut last = start;
        for _ in &doors {
            last = last.max(next()?);
        }
        took.push(last - start);
    }
    for thread in threads {
        let _ = thread.join();
    }
    let [middle, worst, longest] = measure::latencies(&mut took);
    let acknowledged = measure::latencies(&mut acknowledged);
    Ok(format!(
        "Three nodes, {times} registrations at each in turn, seen by blocking queries on all three: from the request to the last of the three answers \
         p50 {middle:.2}, **p99 {worst:.2} ms**, longest {longest:.2} (asked: below 50); acknowledged after p50 {:.2}, p99 {:.2} ms.",
        acknowledged[0], acknowledged[1]
    ))
}

/// For one service after the other: says that it is about to wait, then when it has seen it.
fn follow(door: &str, times: usize, tell: &mpsc::Sender<Result<Instant, String>>) -> Result<(), String> {
    let mut client = Client::open(door)?;
    for at in 0..times {
        let path = format!("/v1/health/service/visible-{at}?passing");
        let (_, mut index, _) = client.done("GET", &path, "")?;
        let _ = tell.send(Ok(Instant::now()));
        loop {
            let (_, now, body) = client.done("GET", &format!("{path}&index={index}&wait=20s"), "")?;
            index = now;
            if body.contains("Service") {
                let _ = tell.send(Ok(Instant::now()));
                break;
            }
        }
    }
    Ok(())
}

fn fresh(plan: &Plan, what: &str) -> Result<Server, String> {
    let dir = plan.dir.join(what);
    let _ = std::fs::remove_dir_all(&dir);
    Server::quorate(&plan.bin, &dir, &[], &[])
}

/// What many instances take.
fn memory(plan: &Plan) -> Result<String, String> {
    let count = if plan.quick { 10_000 } else { 100_000 };
    let server = fresh(plan, "memory")?;
    let before = measure::resident_bytes(server.pid())?;
    let start = Instant::now();
    many(&server.consul, count, |client, at| {
        let (node, service) = (at / 100, at % 1000);
        let body = format!(
            r#"{{"Node":"host-{node}","Address":"10.0.{}.{}","Service":{{"ID":"service-{service}-{at}","Service":"service-{service}",
               "Tags":["v1","blue"],"Meta":{{"version":"1.{service}"}},"Address":"10.0.{}.{}","Port":8080}},
               "Check":{{"CheckID":"service:{at}","Name":"alive","ServiceID":"service-{service}-{at}","Status":"passing","Output":"HTTP GET: 200 OK"}}}}"#,
            node / 250,
            node % 250 + 1,
            node / 250,
            node % 250 + 1
        );
        client.done("PUT", "/v1/catalog/register", &body).map(|_| ())
    })?;
    let span = start.elapsed().as_secs_f64();
    let after = measure::resident_bytes(server.pid())?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    Ok(format!(
        "{count} instances of 1,000 services on {} nodes, each with two tags, metadata and a check: **{:.0} MiB** resident, {:.0} before they came \
         ({:.0} bytes for an instance with its check; asked: 300 MB for 100,000); registered in {span:.1} s, one request each, over {CLIENTS} connections.",
        count.div_ceil(100),
        mib(after),
        mib(before),
        (after - before) as f64 / count as f64,
    ))
}

/// A backend under every address of 127/8, which answers and goes.
struct Backend {
    port: u16,
    stop: Arc<AtomicBool>,
}

impl Backend {
    fn start() -> Result<Backend, String> {
        let listener = TcpListener::bind("0.0.0.0:0").map_err(|error| error.to_string())?;
        let port = listener.local_addr().map_err(|error| error.to_string())?.port();
        let stop = Arc::new(AtomicBool::new(false));
        for _ in 0..2 {
            let (listener, stop) = (listener.try_clone().map_err(|error| error.to_string())?, stop.clone());
            std::thread::spawn(move || {
                let mut chunk = [0; 2048];
                while let Ok((mut stream, _)) = listener.accept() {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // One that only connects has nothing to say, and is read to its end; any other says it at once.
                    if stream.read(&mut chunk).is_ok_and(|count| count > 0) {
                        let _ =
                            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nup");
                    }
                }
            });
        }
        Ok(Backend { port, stop })
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for _ in 0..2 {
            let _ = TcpStream::connect(("127.0.0.1", self.port));
        }
    }
}

/// What many checks cost that all pass, and that they write nothing.
fn checks(plan: &Plan) -> Result<String, String> {
    let (count, seconds) = if plan.quick { (2_000, 3) } else { (10_000, 10) };
    let backend = Backend::start()?;
    let mut lines = Vec::new();
    for kind in ["TTL", "TCP", "HTTP"] {
        let server = fresh(plan, "checks")?;
        many(&server.consul, count, |client, at| {
            let address = format!("127.1.{}.{}", at / 250, at % 250 + 1);
            let check = match kind {
                "TTL" => r#""TTL":"3s","Status":"passing""#.to_owned(),
                "TCP" => format!(r#""TCP":"{address}:{}","Interval":"1s""#, backend.port),
                _ => format!(r#""HTTP":"http://{address}:{}/health","Interval":"1s""#, backend.port),
            };
            let port = backend.port;
            let body =
                format!(r#"{{"ID":"i{at}","Name":"checked","Address":"{address}","Port":{port},"Check":{{{check}}}}}"#);
            client.done("PUT", "/v1/agent/service/register", &body).map(|_| ())
        })?;
        let stop = AtomicBool::new(false);
        let line = std::thread::scope(|scope| {
            let renewing = (kind == "TTL").then(|| scope.spawn(|| renew(&server.consul, count, &stop)));
            let line = steady(&server, count, seconds, kind);
            stop.store(true, Ordering::Relaxed);
            let renewed = renewing.map_or(Ok(Ok(())), |thread| thread.join());
            renewed.map_err(|_| "a client panicked".to_owned())??;
            line
        })?;
        println!("bench: {line}");
        lines.push(line);
    }
    Ok(format!("{count} instances on one node, each with a check every second, all passing: {}.", lines.join("; ")))
}

/// Renews each TTL check once a second.
fn renew(addr: &str, count: usize, stop: &AtomicBool) -> Result<(), String> {
    let start = Instant::now();
    many(addr, CLIENTS, |client, at| {
        for round in 0.. {
            for check in (at..count).step_by(CLIENTS) {
                // Spread over the second.
                let due =
                    start + Duration::from_secs(round) + Duration::from_secs(1).mul_f64(check as f64 / count as f64);
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                client.done("PUT", &format!("/v1/agent/check/pass/service:i{check}"), "")?;
            }
        }
        Ok(())
    })
}

/// Waits until all pass, and then looks on for a while.
fn steady(server: &Server, count: usize, seconds: u64, kind: &str) -> Result<String, String> {
    let look = || -> Result<(u64, u64), String> {
        let (_, body) = http("GET", &server.admin, "/status")?;
        let status: serde_json::Value = serde_json::from_str(&body).map_err(|error| format!("/status: {error}"))?;
        let passing = status["registry"]["instances"]["passing"].as_u64().ok_or("/status: no registry")?;
        let meta = status["groups"].as_array().into_iter().flatten().find(|group| group["group"] == "g0");
        Ok((passing, meta.and_then(|group| group["applied"].as_u64()).ok_or("/status: no meta group")?))
    };
    let start = Instant::now();
    while look()?.0 < count as u64 {
        if start.elapsed() > Duration::from_secs(60) {
            return Err(format!("{kind}: after a minute {} of {count} pass", look()?.0));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    // The second in which the last of them was first looked at.
    std::thread::sleep(Duration::from_secs(2));
    let (_, before) = look()?;
    let (used, start) = (measure::cpu_seconds(server.pid())?, Instant::now());
    std::thread::sleep(Duration::from_secs(seconds));
    let cores = (measure::cpu_seconds(server.pid())? - used) / start.elapsed().as_secs_f64();
    let (passing, after) = look()?;
    Ok(format!(
        "{kind} **{cores:.2} cores** and **{} entries** of the log in {seconds} s, {passing} passing at the end",
        after - before
    ))
}

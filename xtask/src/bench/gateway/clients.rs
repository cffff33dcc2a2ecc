//! The loads: wrk, h2load, and one of our own that keeps a pace and holds connections.

use super::peers::program;
use super::{Sample, measure};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A run of wrk or h2load.
pub struct Load {
    http2: bool,
    connections: usize,
    streams: usize,
    seconds: u64,
    host: String,
    path: String,
    rate: usize,
}

impl Load {
    /// `wrk` with one thread.
    pub fn wrk(connections: usize, seconds: u64) -> Load {
        Load { http2: false, connections, streams: 1, seconds, host: String::new(), path: "/".into(), rate: 0 }
    }

    /// `h2load` in the clear with prior knowledge.
    pub fn h2load(connections: usize, streams: usize, seconds: u64) -> Load {
        Load { http2: true, streams, ..Load::wrk(connections, seconds) }
    }

    /// The Host that is asked for.
    pub fn host(self, host: &str) -> Load {
        Load { host: host.to_owned(), ..self }
    }

    /// The path.
    pub fn path(self, path: &str) -> Load {
        Load { path: path.to_owned(), ..self }
    }

    /// `h2load` with so many requests a second, evenly over its connections.
    pub fn rate(self, rate: usize) -> Load {
        Load { rate, ..self }
    }

    /// Plays it; the CPU is not in the sample yet.
    pub fn run(&self, addr: &str) -> Result<Sample, String> {
        let url = format!("http://{addr}{}", self.path);
        let (connections, streams) = (self.connections.to_string(), self.streams.to_string());
        let span = self.seconds.to_string();
        let mut command = if self.http2 {
            let mut command = Command::new(program("h2load")?);
            command.args(["-t1", "-c", &connections, "-m", &streams, "-D", &span]);
            if self.rate > 0 {
                command.arg(format!("--rps={}", self.rate / self.connections));
            }
            command
        } else {
            let mut command = Command::new(program("wrk")?);
            command.args(["-t1", "-c", &connections, "--latency", "-d", &span]);
            if !self.host.is_empty() {
                command.args(["-H", &format!("Host: {}", self.host)]);
            }
            command
        };
        // h2load says percentiles only of its own log.
        let log = std::env::temp_dir().join(format!("bench-gateway-{}.h2", std::process::id()));
        if self.http2 {
            command.arg(format!("--log-file={}", log.display()));
        }
        let done = command.arg(&url).stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let sample = if self.http2 { read_h2load(&said, &log, self.seconds) } else { read_wrk(&said) };
        let _ = std::fs::remove_file(log);
        let sample =
            sample.ok_or_else(|| format!("{url}: no figures in:\n{said}{}", String::from_utf8_lossy(&done.stderr)))?;
        if sample.failed > 0.0 {
            return Err(format!("{url}: {} requests failed:\n{said}", sample.failed));
        }
        Ok(sample)
    }
}

fn after<'a>(said: &'a str, mark: &str) -> Option<&'a str> {
    said.lines().find_map(|line| line.trim().strip_prefix(mark)).map(str::trim)
}

/// `1.23ms`, `456.00us`, `2.00s` in milliseconds.
fn milliseconds(text: &str) -> Option<f64> {
    [("us", 0.001), ("ms", 1.0), ("s", 1000.0)]
        .into_iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

fn read_wrk(said: &str) -> Option<Sample> {
    let requests = said.lines().find(|line| line.contains(" requests in "))?.split_whitespace().next()?.parse().ok()?;
    let bad = after(said, "Non-2xx or 3xx responses:").and_then(|text| text.parse().ok()).unwrap_or(0.0);
    // "connect 0, read 0, write 0, timeout 3"
    let broken: f64 = after(said, "Socket errors:").map_or(0.0, |text| {
        text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<f64>().ok()).sum()
    });
    Some(Sample {
        requests,
        rate: after(said, "Requests/sec:")?.parse().ok()?,
        p50_ms: milliseconds(after(said, "50%")?)?,
        p99_ms: milliseconds(after(said, "99%")?)?,
        cpu: 0.0,
        failed: bad + broken,
    })
}

/// Lines of the log: start in µs, status, duration in µs.
fn read_h2load(said: &str, log: &std::path::Path, seconds: u64) -> Option<Sample> {
    let line = after(said, "requests:")?;
    let number = |mark: &str| {
        line.split(',').find_map(|part| part.trim().strip_suffix(mark)).and_then(|text| text.trim().parse::<f64>().ok())
    };
    let status = after(said, "status codes:")?;
    let good: f64 = status.split(' ').next()?.parse().ok()?;
    let done = number("done")?;
    let text = std::fs::read_to_string(log).ok()?;
    let mut took: Vec<Duration> =
        text.lines().filter_map(|line| Some(Duration::from_micros(line.split('\t').nth(2)?.parse().ok()?))).collect();
    let [p50_ms, p99_ms, _] = measure::latencies(&mut took);
    // With -D, requests that are under way at the end are neither done nor failed.
    Some(Sample {
        requests: done,
        rate: done / seconds as f64,
        p50_ms,
        p99_ms,
        cpu: 0.0,
        failed: (done - good).max(0.0),
    })
}

/// One request on a connection that stays; the answer has a Content-Length.
struct Asker {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Asker {
    fn open(addr: &str) -> Result<Asker, String> {
        let at = |error: std::io::Error| format!("{addr}: {error}");
        let stream = TcpStream::connect(addr).map_err(at)?;
        stream.set_nodelay(true).map_err(at)?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).map_err(at)?;
        let request = format!("GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n").into_bytes();
        Ok(Asker { stream, request, buffer: Vec::new() })
    }

    fn ask(&mut self) -> Result<(), String> {
        self.stream.write_all(&self.request).map_err(|error| error.to_string())?;
        self.buffer.clear();
        let mut chunk = [0; 4096];
        loop {
            let got = self.stream.read(&mut chunk).map_err(|error| error.to_string())?;
            if got == 0 {
                return Err("the connection was closed before the answer".into());
            }
            self.buffer.extend_from_slice(&chunk[..got]);
            let Some(end) = self.buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&self.buffer[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 200") {
                return Err(format!("not 200: {head}"));
            }
            let length =
                head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if self.buffer.len() >= end + 4 + length.ok_or("an answer without Content-Length")? {
                return Ok(());
            }
        }
    }
}

/// So many requests a second, evenly, over so many connections. A latency runs from the moment that a request was due, unless the client
/// itself woke up late.
pub fn paced(addr: &str, rate: f64, connections: usize, seconds: u64) -> Result<Sample, String> {
    let start = Instant::now();
    let limit = Duration::from_secs(seconds);
    let each = Duration::from_secs_f64(connections as f64 / rate);
    let threads: Vec<_> = (0..connections)
        .map(|at| {
            let addr = addr.to_owned();
            std::thread::spawn(move || -> Result<Vec<Duration>, String> {
                let mut asker = Asker::open(&addr)?;
                let mut due = start + each.mul_f64(at as f64 / connections as f64);
                let mut took = Vec::new();
                while due < start + limit {
                    let begun = match due.checked_duration_since(Instant::now()) {
                        Some(early) => {
                            std::thread::sleep(early);
                            Instant::now()
                        }
                        None => due,
                    };
                    asker.ask()?;
                    took.push(begun.elapsed());
                    due += each;
                }
                Ok(took)
            })
        })
        .collect();
    let mut took = Vec::new();
    for thread in threads {
        took.extend(thread.join().map_err(|_| "a client panicked")??);
    }
    let [p50_ms, p99_ms, _] = measure::latencies(&mut took);
    let requests = took.len() as f64;
    Ok(Sample { requests, rate: requests / start.elapsed().as_secs_f64(), p50_ms, p99_ms, ..Sample::default() })
}

/// So many connections, each of which has had one answer.
pub fn hold(addr: &str, count: usize) -> Result<Vec<impl Sized + use<>>, String> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut asker = Asker::open(addr)?;
        asker.ask().map_err(|why| format!("{addr}, connection {}: {why}", held.len() + 1))?;
        held.push(asker.stream);
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::{milliseconds, read_wrk};

    #[test]
    fn figures_of_wrk() {
        let said = "Running 4s test\n  Latency Distribution\n     50%    1.86ms\n     75%    2.10ms\n     90%    2.40ms\n     99%  980.00us\n  130123 requests in 4.00s, 160MB read\n  Socket errors: connect 0, read 2, write 0, timeout 1\n  Non-2xx or 3xx responses: 5\nRequests/sec:  32530.11\n";
        let sample = read_wrk(said).expect("figures");
        assert_eq!((sample.requests, sample.rate, sample.failed), (130_123.0, 32_530.11, 8.0));
        assert_eq!((sample.p50_ms, sample.p99_ms), (1.86, 0.98));
        assert_eq!(milliseconds("2.00s"), Some(2000.0));
    }
}

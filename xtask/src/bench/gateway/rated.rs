//! A load that does not wait for answers: so many requests a second, evenly, over connections that take turns. A latency runs from the moment a
//! request was due, so who keeps the client waiting is not asked less (as `wrk2` does; `wrk`, which asks again only when it was answered, measures
//! how long the queue is that it makes by itself). One thread, as `wrk -t1`.

use super::{Sample, measure};
use rustix::event::epoll;
use rustix::time::Timespec;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// What is still under way at the end may take so long.
const PATIENCE: Duration = Duration::from_secs(5);

/// One connection and the request that is under way on it.
struct Lane {
    stream: TcpStream,
    due: Instant,
    got: Vec<u8>,
    /// Bytes of the answer, once its head is there.
    whole: Option<usize>,
}

impl Lane {
    fn open(addr: &str, at: u64, poll: &OwnedFd) -> Result<Lane, String> {
        let told = |error: std::io::Error| format!("{addr}: {error}");
        let stream = TcpStream::connect(addr).map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        stream.set_nonblocking(true).map_err(told)?;
        epoll::add(poll, &stream, epoll::EventData::new_u64(at), epoll::EventFlags::IN)
            .map_err(|error| format!("epoll: {error}"))?;
        Ok(Lane { stream, due: Instant::now(), got: Vec::with_capacity(4096), whole: None })
    }

    /// A request is smaller than any socket's buffer, which is empty.
    fn ask(&mut self, request: &[u8], due: Instant) -> Result<(), String> {
        (self.due, self.whole) = (due, None);
        self.got.clear();
        self.stream.write_all(request).map_err(|error| error.to_string())
    }

    /// Reads what came; true when the answer is whole.
    fn read(&mut self) -> Result<bool, String> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => return Err("the connection was closed before the answer".into()),
            Ok(count) => self.got.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.to_string()),
        }
        if self.whole.is_none() {
            let Some(end) = self.got.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(false) };
            self.whole = Some(end + 4 + length_of(&self.got[..end])?);
        }
        Ok(self.whole.is_some_and(|whole| self.got.len() >= whole))
    }
}

/// The Content-Length of a head that says 200.
fn length_of(head: &[u8]) -> Result<usize, String> {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    if !head.starts_with("http/1.1 200") {
        return Err(format!("not 200: {head}"));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    length.ok_or_else(|| format!("an answer without Content-Length: {head}"))
}

/// Plays `rate` requests a second over so many connections; the CPU is not in the sample yet.
pub fn rated(addr: &str, rate: f64, connections: usize, span: Duration) -> Result<Sample, String> {
    let request = format!("GET / HTTP/1.1\r\nHost: {addr}\r\n\r\n").into_bytes();
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
    let lanes: Result<Vec<_>, _> = (0..connections).map(|at| Lane::open(addr, at as u64, &poll)).collect();
    let mut lanes = lanes?;
    let mut free: VecDeque<usize> = (0..connections).collect();
    // Due, and nobody was free.
    let mut waits = VecDeque::new();
    // Else the system lets a wait be 50 µs longer than was asked.
    rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1)).map_err(|error| format!("prctl: {error}"))?;
    let total = (rate * span.as_secs_f64()) as usize;
    let start = Instant::now();
    let due_at = |number: usize| start + Duration::from_secs_f64(number as f64 / rate);
    let (mut asked, mut took) = (0, Vec::with_capacity(total));
    let mut events = Vec::with_capacity(connections);
    while took.len() < total {
        let now = Instant::now();
        if now > due_at(total) + PATIENCE {
            return Err(format!("{addr}: {} of {total} requests have no answer", total - took.len()));
        }
        while asked < total && due_at(asked) <= now {
            waits.push_back(due_at(asked));
            asked += 1;
        }
        while let (Some(&due), Some(&at)) = (waits.front(), free.front()) {
            lanes[at].ask(&request, due)?;
            waits.pop_front();
            free.pop_front();
        }
        let pause = if asked < total { due_at(asked).saturating_duration_since(Instant::now()) } else { PATIENCE };
        let pause = Timespec { tv_sec: pause.as_secs() as i64, tv_nsec: pause.subsec_nanos().into() };
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&pause)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("epoll: {error}")),
        }
        for event in &events {
            let at = event.data.u64() as usize;
            if lanes[at].read().map_err(|why| format!("{addr}: {why}"))? {
                took.push(lanes[at].due.elapsed());
                free.push_back(at);
            }
        }
    }
    let spent = start.elapsed().as_secs_f64();
    let [p50_ms, p99_ms, _] = measure::latencies(&mut took);
    Ok(Sample { requests: total as f64, rate: total as f64 / spent, p50_ms, p99_ms, ..Sample::default() })
}

#[cfg(test)]
mod tests {
    use super::{length_of, rated};
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn heads() {
        assert_eq!(length_of(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\nX: y"), Ok(12));
        assert!(length_of(b"HTTP/1.1 503 No\r\nContent-Length: 12").is_err());
        assert!(length_of(b"HTTP/1.1 200 OK\r\nX: y").is_err());
    }

    /// A server that rests before its first answer makes every request late that was due meanwhile, not only the one that it holds.
    #[test]
    fn who_rests_is_late_for_all_that_were_due() {
        let door = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = door.local_addr().expect("bound").to_string();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = door.accept().expect("the client comes");
            let mut chunk = [0; 4096];
            let mut rested = false;
            while let Ok(count @ 1..) = stream.read(&mut chunk) {
                assert!(chunk[..count].ends_with(b"\r\n\r\n"));
                if !std::mem::replace(&mut rested, true) {
                    std::thread::sleep(Duration::from_millis(100));
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi").expect("it reads");
            }
        });
        let sample = rated(&addr, 500.0, 1, Duration::from_millis(150)).expect("figures");
        assert_eq!(sample.requests, 75.0);
        // Two thirds of those that were due in 150 ms were due while it rested.
        assert!(sample.p99_ms >= 90.0 && sample.p50_ms >= 10.0 && sample.p99_ms < 5000.0, "{sample:?}");
        server.join().expect("it ends with the connection");
    }
}

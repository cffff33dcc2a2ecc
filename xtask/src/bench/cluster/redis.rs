//! The load in Redis's protocol: many connections on one thread, one request in flight on each.

use super::Load;
use crate::bench::grpc::Shown;
use rustix::event::epoll;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// One client.
struct Client {
    stream: TcpStream,
    asked: Instant,
    /// Replies that the request under way still waits for.
    waits: usize,
    buf: Vec<u8>,
}

/// The length of the first reply in `buf`, if it is whole, and whether it is an error.
fn reply(buf: &[u8]) -> Option<(usize, bool)> {
    let end = buf.windows(2).position(|pair| pair == b"\r\n")?;
    let number = || std::str::from_utf8(&buf[1..end]).ok()?.parse::<i64>().ok();
    match buf[0] {
        b'$' => match usize::try_from(number()?) {
            Ok(length) => (buf.len() >= end + 2 + length + 2).then_some((end + 2 + length + 2, false)),
            Err(_) => Some((end + 2, false)),
        },
        kind => Some((end + 2, kind == b'-')),
    }
}

/// Plays `load` on servers at `addrs`, client by client in turn. `wait` adds `WAIT 1 0` behind each write.
pub fn play(addrs: &[String], load: &Load, wait: bool) -> Result<Shown, String> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| format!("epoll: {error}"))?;
    let mut clients = Vec::new();
    for at in 0..load.clients {
        let addr = &addrs[at % addrs.len()];
        let stream = TcpStream::connect(addr).map_err(|error| format!("{addr}: {error}"))?;
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(|error| error.to_string())?;
        epoll::add(&poll, &stream, epoll::EventData::new_u64(at as u64), epoll::EventFlags::IN)
            .map_err(|error| format!("epoll: {error}"))?;
        clients.push(Client { stream, asked: Instant::now(), waits: 0, buf: Vec::with_capacity(4096) });
    }
    let mut requests = load.requests();
    let mut out = Vec::new();
    let mut send = |client: &mut Client| -> Result<(), String> {
        let (key, value) = requests.next();
        out.clear();
        if load.write {
            crate::resp::encode(&mut out, &[b"SET", key, value]);
            if wait {
                out.extend_from_slice(b"*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$1\r\n0\r\n");
            }
        } else {
            crate::resp::encode(&mut out, &[b"GET", key]);
        }
        client.waits = 1 + usize::from(wait && load.write);
        client.asked = Instant::now();
        client.stream.write_all(&out).map_err(|error| format!("a request could not be sent: {error}"))
    };
    let mut shown = Shown::default();
    let start = Instant::now();
    for client in &mut clients {
        send(client)?;
    }
    let mut ready = vec![epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 256];
    let mut chunk = vec![0; 64 << 10];
    while start.elapsed() < load.span {
        let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        let count = epoll::wait(&poll, &mut ready[..], Some(&patience)).map_err(|error| format!("epoll: {error}"))?;
        if count == 0 {
            return Err("no answer for ten seconds".into());
        }
        for event in &ready[..count] {
            let client = &mut clients[event.data.u64() as usize];
            match client.stream.read(&mut chunk) {
                Ok(0) => return Err("the server closed a connection".into()),
                Ok(count) => client.buf.extend_from_slice(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error.to_string()),
            }
            while let Some((length, failed)) = reply(&client.buf) {
                if failed {
                    shown.failed += 1;
                    shown.complaint = String::from_utf8_lossy(&client.buf[..length]).trim().to_owned();
                }
                client.buf.drain(..length);
                client.waits -= 1;
                if client.waits == 0 {
                    shown.took.push(client.asked.elapsed());
                    send(client)?;
                }
            }
        }
    }
    shown.span = start.elapsed();
    // The requests under way are awaited, so that the next measurement does not pay for them.
    for client in &mut clients {
        let _ = client.stream.set_nonblocking(false);
        let _ = client.stream.set_read_timeout(Some(Duration::from_secs(5)));
        while client.waits > 0 {
            match client.stream.read(&mut chunk) {
                Ok(count) if count > 0 => client.buf.extend_from_slice(&chunk[..count]),
                _ => break,
            }
            while let Some((length, _)) = reply(&client.buf) {
                client.buf.drain(..length);
                client.waits = client.waits.saturating_sub(1);
            }
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::reply;

    #[test]
    fn replies_are_counted_when_whole() {
        assert_eq!(reply(b"+OK\r\n:1\r\n"), Some((5, false)));
        assert_eq!(reply(b"-ERR x\r\n"), Some((8, true)));
        assert_eq!(reply(b"$3\r\nab"), None);
        assert_eq!(reply(b"$3\r\nabc\r\n"), Some((9, false)));
        assert_eq!(reply(b"$-1\r\n"), Some((5, false)));
        assert_eq!(reply(b"+O"), None);
    }
}

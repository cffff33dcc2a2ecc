//! A thousand watchers of one key: how long until a change has been told to each of them.

use crate::bench::grpc::{self, Connection, Shown, field};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Connections, and watchers on each, every one on a stream of its own.
const CONNECTIONS: usize = 50;
const EACH: usize = 20;
/// From one put to the next.
const EVERY: Duration = Duration::from_millis(50);
const KEY: &[u8] = b"watched";
/// Before the moment of a put in its value.
const MARK: &[u8] = b"moment=";

/// Puts for so long; what is timed is every delivery to a watcher, from before the put.
pub fn play(addrs: &[String], span: Duration) -> Result<Shown, String> {
    let puts = (span.as_secs_f64() / EVERY.as_secs_f64()).ceil() as usize;
    let begin = Instant::now();
    let (ready, readies) = mpsc::channel();
    let threads: Vec<_> = (0..CONNECTIONS)
        .map(|at| {
            let (addr, ready) = (addrs[at % addrs.len()].clone(), ready.clone());
            std::thread::spawn(move || watch(&addr, puts, begin, &ready))
        })
        .collect();
    drop(ready);
    for _ in 0..CONNECTIONS {
        readies.recv().map_err(|_| "a watcher ended before it watched")?;
    }
    let mut connection = Connection::open(&addrs[0])?;
    let head = grpc::head("/etcdserverpb.KV/Put", &addrs[0]);
    let (mut out, mut body) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for at in 0..puts {
        let stream = at as u32 * 2 + 1;
        grpc::message(&mut body, |out| {
            field(out, 1, KEY);
            let mut value = MARK.to_vec();
            value.extend_from_slice(format!("{:016x}", begin.elapsed().as_nanos() as u64).as_bytes());
            field(out, 2, &value);
        });
        grpc::open(&mut out, stream, &head);
        grpc::frame(&mut out, grpc::DATA, grpc::END_STREAM, stream, &body);
        connection.write(&out)?;
        out.clear();
        // Whether a put has been answered is not asked: what is not put is not told of, and then the watchers complain.
        std::thread::sleep((start + EVERY * (at as u32 + 1)).saturating_duration_since(Instant::now()));
    }
    let mut all = Shown { span: start.elapsed(), ..Shown::default() };
    for thread in threads {
        all.took.extend(thread.join().map_err(|_| "a watcher panicked")??);
    }
    Ok(all)
}

fn watch(addr: &str, puts: usize, begin: Instant, ready: &mpsc::Sender<()>) -> Result<Vec<Duration>, String> {
    let mut connection = Connection::open(addr)?;
    let head = grpc::head("/etcdserverpb.Watch/Watch", addr);
    let (mut out, mut body, mut request) = (Vec::new(), Vec::new(), Vec::new());
    field(&mut request, 1, KEY);
    grpc::message(&mut body, |out| field(out, 1, &request));
    for at in 0..EACH {
        let stream = at as u32 * 2 + 1;
        grpc::open(&mut out, stream, &head);
        grpc::frame(&mut out, grpc::DATA, 0, stream, &body);
    }
    let (mut created, mut took) = (0, Vec::with_capacity(puts * EACH));
    while took.len() < puts * EACH {
        if !out.is_empty() {
            connection.write(&out)?;
            out.clear();
        }
        let (kind, flags, _, of) = connection.next(&mut out)?;
        if kind != grpc::DATA {
            continue;
        }
        if flags & grpc::END_STREAM != 0 {
            return Err("a server ended a watch".into());
        }
        let now = begin.elapsed();
        let body = connection.body(&of);
        let mut at = 0;
        let before = took.len();
        while let Some(found) = body[at..].windows(MARK.len()).position(|window| window == MARK) {
            at += found + MARK.len();
            let moment = body.get(at..at + 16).and_then(|hex| std::str::from_utf8(hex).ok());
            let moment = moment.and_then(|hex| u64::from_str_radix(hex, 16).ok());
            let moment = moment.ok_or("an event was cut in two, which this loader does not read")?;
            took.push(now.saturating_sub(Duration::from_nanos(moment)));
        }
        // What tells of nothing says that the watch is there, but for progress, which nobody asked for.
        if took.len() == before && body.len() > 5 {
            created += 1;
            if created == EACH {
                let _ = ready.send(());
            }
        }
    }
    Ok(took)
}

//! Several writers, kill -9 under load, and every write that was answered is looked for.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::Rng;
use doors::resp::client::Value;

use super::{Connection, PATIENCE, Server, grouped};

const WRITERS: usize = 6;
const KILLS: usize = 5;
/// How many keys are asked for at once when all are looked for.
const LOOKED_AT_ONCE: u64 = 500;

/// What one writer knows: writes 1 to `answered` were acknowledged, `sent` is the last that was sent.
#[derive(Default)]
struct Writer {
    answered: AtomicU64,
    sent: AtomicU64,
}

pub fn run(directory: &Path) -> Result<(), String> {
    let data = directory.join("data");
    let writers: [Writer; WRITERS] = Default::default();
    let mut rng = Rng::new(host::clock::seed());
    println!(
        "{WRITERS} clients write one key after the other, each waiting for its +OK; the node is killed under them."
    );
    let mut server = Server::start(&data, &[], &[])?;
    let (mut unanswered, mut survived) = (0, 0);
    for round in 1..=KILLS {
        let more = 300 + rng.below(1500);
        let done = || writers.iter().map(|writer| writer.answered.load(Ordering::Relaxed)).sum::<u64>();
        let target = done() + more;
        let address = server.redis;
        std::thread::scope(|scope| {
            for (number, writer) in writers.iter().enumerate() {
                scope.spawn(move || write(address, number, writer));
            }
            let deadline = Instant::now() + PATIENCE;
            while done() < target && Instant::now() < deadline {
                std::thread::sleep(Duration::from_micros(200));
            }
            server.kill();
        });
        let answered = done();
        if answered < target {
            return Err(format!("only {answered} writes were answered within {PATIENCE:?}"));
        }
        server = Server::start(&data, &[], &[])?;
        let mut connection = server.connect()?;
        for (number, writer) in writers.iter().enumerate() {
            let last = writer.answered.load(Ordering::Relaxed);
            look(&mut connection, number, last)?;
            // A write whose answer never came may have happened or not; both are right, and it is counted.
            let sent = writer.sent.load(Ordering::Relaxed);
            if sent > last {
                unanswered += 1;
                let there = connection.must(&[b"GET", key(number, sent).as_bytes()])? != Value::Null;
                survived += u64::from(there);
                writer.answered.store(if there { sent } else { last }, Ordering::Relaxed);
            }
        }
        println!(
            "  kill -9 number {round}: {:>7} writes answered so far, {:>7} found; the node was back after {:.2} s",
            grouped(answered),
            grouped(answered),
            server.took.as_secs_f64()
        );
    }
    println!(
        "{unanswered} writes were under way when the node was killed and never answered: {survived} of them are there, as may be."
    );
    Ok(())
}

fn key(writer: usize, number: u64) -> String {
    format!("durable:{writer}:{number}")
}

/// Writes until the connection breaks.
fn write(address: std::net::SocketAddr, number: usize, writer: &Writer) {
    let Ok(mut connection) = Connection::open(address) else { return };
    let mut next = writer.answered.load(Ordering::Relaxed) + 1;
    loop {
        writer.sent.store(next, Ordering::Relaxed);
        let value = next.to_string();
        match connection.ask(&[b"SET", key(number, next).as_bytes(), value.as_bytes()]) {
            Ok(Value::Simple(text)) if text == b"OK" => writer.answered.store(next, Ordering::Relaxed),
            _ => return,
        }
        next += 1;
    }
}

fn look(connection: &mut Connection, number: usize, last: u64) -> Result<(), String> {
    let mut first = 1;
    while first <= last {
        let end = (first + LOOKED_AT_ONCE - 1).min(last);
        let keys: Vec<String> = (first..=end).map(|at| key(number, at)).collect();
        let words: Vec<&[u8]> = [&b"MGET"[..]].into_iter().chain(keys.iter().map(|key| key.as_bytes())).collect();
        let Value::Array(values) = connection.must(&words)? else {
            return Err("MGET was not answered with a list".into());
        };
        for (value, at) in values.iter().zip(first..) {
            if *value != Value::Bulk(at.to_string().into_bytes()) {
                return Err(format!("{} was answered with OK and now holds {value:?}", key(number, at)));
            }
        }
        first = end + 1;
    }
    Ok(())
}

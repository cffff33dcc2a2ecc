//! Rows and records in one commit, and kill -9 around EXEC.
//!
//! Writers count up, each commit a counter, a row and a record of a topic, until the server is killed. Then the counter, the rows and the
//! records of each writer must tell the same, by both doors, and no answer may have been lost. Wants kcat, which declares the topic and reads it.

use super::server::Server;
use super::{Ask, at};
use crate::resp::{Conn, Value};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const WRITERS: usize = 4;
const TOPIC: &str = "orders";

/// What the template says beside the others, so that the Kafka door is where kcat looks.
pub const KAFKA: &str = " --kafka-port {kafka}";

fn kcat(server: &Server, words: &[&str]) -> Result<String, String> {
    let done = Command::new("kcat").args(["-b", &server.kafka]).args(words).output();
    let done = done.map_err(|error| format!("kcat: {error}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => Err(format!("kcat {}: {}", words.join(" "), String::from_utf8_lossy(&done.stderr))),
    }
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        text => text.text()?.parse().ok(),
    }
}

/// Commits until the connection ends; `answered` is the last one that was.
fn write(addr: &str, writer: usize, answered: &AtomicU64) -> Result<(), String> {
    let Ok(mut conn) = Conn::open(addr, Duration::from_secs(20)) else { return Ok(()) };
    loop {
        let next = answered.load(Ordering::Relaxed) + 1;
        let lines = [
            "MULTI".to_owned(),
            format!("INCR count:{writer}"),
            format!("XADD topic:{TOPIC} * K {writer} V {next}"),
            format!("SET row:{writer}:{next} {next}"),
            "EXEC".to_owned(),
        ];
        let mut last = Value::Null;
        for line in &lines {
            match conn.text(line) {
                Ok(answer) => last = answer,
                Err(_) => return Ok(()),
            }
        }
        let count = last.items().and_then(|items| items.first()).and_then(number);
        if count != Some(next) {
            return Err(format!("writer {writer} committed {next}, and the counter says {last:?}"));
        }
        answered.store(next, Ordering::Relaxed);
    }
}

/// What there is of each writer; the two doors and the rows must agree.
fn check(server: &Server, conn: &mut Conn, answered: &[AtomicU64]) -> Result<u64, String> {
    let mut records: BTreeMap<usize, u64> = BTreeMap::new();
    for line in kcat(server, &["-C", "-t", TOPIC, "-e", "-q", "-f", "%k %s\n"])?.lines() {
        let mut words = line.split(' ').map(|word| word.parse::<u64>().ok());
        let (Some(Some(writer)), Some(Some(value))) = (words.next(), words.next()) else {
            return Err(format!("a record that nobody wrote: {line}"));
        };
        let own = records.entry(writer as usize).or_default();
        *own += 1;
        if *own != value {
            return Err(format!("writer {writer}'s record {value} stands where {own} belongs"));
        }
    }
    let all: u64 = records.values().sum();
    let length = conn.text(&format!("XLEN topic:{TOPIC}")).ok().as_ref().and_then(number);
    if length != Some(all) {
        return Err(format!("the stream has {length:?} entries, kcat saw {all}"));
    }
    for (writer, answered) in answered.iter().enumerate() {
        let own = records.get(&writer).copied().unwrap_or(0);
        let count = conn.text(&format!("GET count:{writer}")).ok().as_ref().and_then(number).unwrap_or(0);
        let before = answered.load(Ordering::Relaxed);
        if own != count || own < before || own > before + 1 {
            return Err(format!(
                "writer {writer}: {own} records, a counter of {count}, {before} commits that were answered"
            ));
        }
        for (row, there) in [(own, 1), (own + 1, 0)] {
            let found = conn.text(&format!("EXISTS row:{writer}:{row}")).ok().as_ref().and_then(number);
            if row > 0 && found != Some(there) {
                return Err(format!("writer {writer}: {own} records, and row {row} is {found:?}"));
            }
        }
        // One may have been done and not answered.
        answered.store(own, Ordering::Relaxed);
    }
    Ok(all)
}

/// Kills and checks, again and again on one data directory.
pub fn run(ask: &Ask) -> Result<(), String> {
    let (data, log) = (ask.dir.join("data"), ask.dir.join("server.log"));
    at(&data, std::fs::create_dir_all(&data))?;
    let mut rng = ask.rng();
    let answered: [AtomicU64; WRITERS] = Default::default();
    let mut all = 0;
    for round in 0..=ask.rounds {
        let mut server = Server::start(&ask.template, &data, &log)?;
        let mut conn = server.must_be_ready().map_err(|why| format!("round {round}: {why}"))?;
        if round == 0 {
            kcat(&server, &["-L", "-t", TOPIC])?;
        }
        all = check(&server, &mut conn, &answered).map_err(|why| format!("round {round}: {why}"))?;
        if round == ask.rounds {
            break;
        }
        let addr = server.addr.clone();
        let written = std::thread::scope(|scope| {
            let writers: Vec<_> = answered
                .iter()
                .enumerate()
                .map(|(writer, answered)| {
                    let addr = &addr;
                    scope.spawn(move || write(addr, writer, answered))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(5 + rng.below(250) as u64));
            server.kill();
            writers.into_iter().try_for_each(|writer| writer.join().unwrap_or_else(|_| Err("a writer panicked".into())))
        });
        written.map_err(|why| format!("round {round}: {why}"))?;
    }
    println!(
        "chaos commit: {} kills, {all} commits of a counter, a row and a record: none torn, none lost",
        ask.rounds
    );
    Ok(())
}

//! Transfers between accounts in two shards, and the node that drives them killed in the middle: who is alive finishes them.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{Rng, SLOT_COUNT, key_slot};
use doors::resp::client::Value;

use super::trio::{Trio, list, number};
use super::{Connection, PATIENCE, grouped};

const ACCOUNTS: usize = 64;
const EACH: i64 = 1_000;
/// Clients of the node that is killed, each with a transfer under way nearly always.
const CLIENTS: usize = 12;
const ROUNDS: usize = 3;
/// A key that answers later than this was held by a transaction of the dead.
const HELD: Duration = Duration::from_millis(100);

pub fn run(directory: &Path) -> Result<(), String> {
    let flags = || ["--data-shards", "2"].map(str::to_owned).to_vec();
    let mut trio = Trio::start(directory, [flags(), flags(), flags()])?;
    let mut rng = Rng::new(host::clock::seed());
    // Half of the accounts in each shard: the first with the lower half of the slots.
    let (mut halves, mut nth) = ([Vec::new(), Vec::new()], 0);
    while halves.iter().any(|half| half.len() < ACCOUNTS / 2) {
        let key = format!("account:{nth}");
        let half = &mut halves[usize::from(key_slot(key.as_bytes()) >= SLOT_COUNT / 2)];
        if half.len() < ACCOUNTS / 2 {
            half.push(key);
        }
        nth += 1;
    }
    let mut connection = trio.node(1)?.connect()?;
    for key in halves.iter().flatten() {
        connection.must(&[b"SET", key.as_bytes(), EACH.to_string().as_bytes()])?;
    }
    println!(
        "{ACCOUNTS} accounts lie in two shards. {CLIENTS} clients of one node move money from one shard to the other; that node, which drives\n\
         their two-phase commits, is killed with kill -9 in the middle."
    );
    for _ in 0..ROUNDS {
        let node = coordinator(&trio)?;
        let door = trio.node(node)?.redis;
        let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
        let seeds: Vec<u64> = (0..CLIENTS).map(|_| rng.next_u64()).collect();
        let (held, longest) = std::thread::scope(|scope| {
            for seed in &seeds {
                scope.spawn(|| transfer(door, &halves, Rng::new(*seed), &stop, &done));
            }
            let began = Instant::now();
            while done.load(Ordering::Relaxed) < 300 && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(1));
            }
            let killed = trio.node(node).map(|server| server.kill());
            stop.store(true, Ordering::Relaxed);
            killed?;
            trio.gone(node);
            touch_all(&trio.doors(), &halves)
        })?;
        println!(
            "  node {node} killed after {} transfers; {held} accounts were held by its unfinished ones, the longest for {:.2} s",
            grouped(done.load(Ordering::Relaxed)),
            longest.as_secs_f64()
        );
        let other = (1..=3).find(|other| *other != node).expect("there are three");
        let total = total(&mut trio.node(other)?.connect()?, &halves)?;
        if total != ACCOUNTS as i64 * EACH {
            return Err(format!("{total} is in the accounts, and not {}", ACCOUNTS as i64 * EACH));
        }
        trio.up(node, &[])?;
        trio.wait("node that is back, level and leads what it should", |view| {
            let settled =
                |group: &serde_json::Value| [0, number(group, "leader")].contains(&number(group, "wanted_leader"));
            let problems = view.get("problems").and_then(|problems| problems.as_array());
            problems.is_some_and(Vec::is_empty) && list(view, "groups").all(settled)
        })?;
    }
    println!("  after each: {} in all accounts together, as at the beginning", grouped(ACCOUNTS as u64 * EACH as u64));
    Ok(())
}

/// A node that leads no shard with accounts, if there is one: then nothing but the coordinator is lost.
fn coordinator(trio: &Trio) -> Result<u64, String> {
    let view = trio.view()?;
    let leaders: Vec<u64> =
        list(&view, "groups").filter(|group| number(group, "group") > 0).map(|group| number(group, "leader")).collect();
    Ok((1..=3).find(|node| !leaders.contains(node)).unwrap_or(3))
}

/// Moves money until the connection breaks or the time is over.
fn transfer(door: SocketAddr, halves: &[Vec<String>; 2], mut rng: Rng, stop: &AtomicBool, done: &AtomicU64) {
    let Ok(mut connection) = Connection::open(door) else { return };
    while !stop.load(Ordering::Relaxed) {
        let amount = (1 + rng.below(9)).to_string();
        let one = halves[0][rng.index(halves[0].len())].as_bytes();
        let other = halves[1][rng.index(halves[1].len())].as_bytes();
        let words: [&[&[u8]]; 4] =
            [&[b"MULTI"], &[b"DECRBY", one, amount.as_bytes()], &[b"INCRBY", other, amount.as_bytes()], &[b"EXEC"]];
        for words in words {
            if connection.ask(words).is_err() {
                return;
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes to every account through nodes that are alive, all at once. How many answered late, and how late the last one.
fn touch_all(doors: &[SocketAddr], halves: &[Vec<String>; 2]) -> Result<(usize, Duration), String> {
    let keys: Vec<&String> = halves.iter().flatten().collect();
    let took = std::thread::scope(|scope| {
        let touch = |(nth, key): (usize, &&String)| {
            let (door, key) = (doors[nth % doors.len()], (*key).clone());
            scope.spawn(move || touch(door, key.as_bytes()))
        };
        let threads: Vec<_> = keys.iter().enumerate().map(touch).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into())));
        joined.collect::<Result<Vec<Duration>, String>>()
    })?;
    let late: Vec<&Duration> = took.iter().filter(|took| **took > HELD).collect();
    Ok((late.len(), late.into_iter().max().copied().unwrap_or_default()))
}

fn touch(door: SocketAddr, key: &[u8]) -> Result<Duration, String> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        let answer = Connection::open(door).and_then(|mut connection| connection.ask(&[b"INCRBY", key, b"0"]));
        match answer {
            Ok(Value::Int(_)) => return Ok(began.elapsed()),
            Ok(Value::Error(text)) if !text.starts_with(b"TRYAGAIN") => {
                return Err(String::from_utf8_lossy(&text).into_owned());
            }
            _ => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    Err(format!("{} could not be written within {PATIENCE:?}", String::from_utf8_lossy(key)))
}

fn total(connection: &mut Connection, halves: &[Vec<String>; 2]) -> Result<i64, String> {
    let mut words: Vec<&[u8]> = vec![b"MGET"];
    words.extend(halves.iter().flatten().map(|key| key.as_bytes()));
    let Value::Array(values) = connection.must(&words)? else { return Err("MGET answers no list".into()) };
    let number = |value: &Value| match value {
        Value::Bulk(text) => String::from_utf8_lossy(text).parse::<i64>().ok(),
        _ => None,
    };
    values.iter().map(number).sum::<Option<i64>>().ok_or_else(|| "an account is no number".into())
}

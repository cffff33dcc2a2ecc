//! `cargo xtask failover`: how long writes pause when a leader is killed under load.
//!
//! ```text
//! cargo xtask failover [--runs N] [--bin PATH] [--dir DIR] [--shards N]
//! ```
//!
//! Three nodes on loopback. Each run: clients of the two other nodes write to one shard; its leader is killed with -9; the time from there to the
//! first write that was begun after the kill and acknowledged is the run's. The node starts again, and the next run waits until all serve.
//! Asked for: at most 1 s in the median, 3 s at worst.

use crate::ground::Ground;
use crate::interrupt;
use crate::nodes::{Nodes, Plan};
use crate::resp::{Conn, Value};
use crate::shell::root;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Clients at each of the nodes that stay.
const CLIENTS: usize = 4;
/// How long a client waits for an answer before it asks on a new connection.
const PATIENCE: Duration = Duration::from_millis(1000);
/// A leader for so long stays.
const SETTLED: Duration = Duration::from_millis(1200);
/// Longer than this is a failure.
const LIMIT: Duration = Duration::from_secs(30);
/// What is asked for: the median, the worst.
const ASKED: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(3)];

/// Entry of `cargo xtask failover`.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut runs, mut shards) = (50, 1);
    let mut bin = root().join("target/release/quorate");
    let mut base = std::env::temp_dir();
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"))?;
        let number = || value.parse::<usize>().ok().filter(|n| *n > 0).ok_or(format!("{flag} wants a number above 0"));
        match flag.as_str() {
            "--runs" => runs = number()?,
            "--shards" => shards = number()?,
            "--bin" => bin = PathBuf::from(value),
            "--dir" => base = PathBuf::from(value),
            _ => return Err(format!("failover does not know {flag}")),
        }
    }
    interrupt::attend();
    let dir = base.join(format!("quorate-failover-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let took = all(&bin, shards, runs, &dir)?;
    let _ = std::fs::remove_dir_all(&dir);
    let mut sorted = took.clone();
    sorted.sort_unstable();
    let at = |part: usize| sorted.get((sorted.len() * part / 100).min(sorted.len() - 1)).copied().unwrap_or_default();
    let (middle, worst) = (at(50), at(100));
    println!(
        "failover: {} runs, writes resumed after {:.2} s in the median, {:.2} s at least, {:.2} s for nine of ten, {:.2} s at worst",
        took.len(),
        middle.as_secs_f64(),
        at(0).as_secs_f64(),
        at(90).as_secs_f64(),
        worst.as_secs_f64()
    );
    if middle > ASKED[0] || worst > ASKED[1] {
        return Err(format!(
            "asked for: {:.0} s in the median, {:.0} s at worst",
            ASKED[0].as_secs_f64(),
            ASKED[1].as_secs_f64()
        ));
    }
    Ok(())
}

fn all(bin: &Path, shards: usize, runs: usize, dir: &Path) -> Result<Vec<Duration>, String> {
    let plan = Plan { bin: bin.to_owned(), shards, ..Plan::default() };
    let mut nodes = Nodes::found(Ground::loopback(), plan, dir, 3)?;
    nodes.all_serve(LIMIT)?;
    nodes.await_replicas(LIMIT)?;
    let mut took = Vec::new();
    while took.len() < runs {
        if interrupt::told() {
            return Err("interrupted".into());
        }
        let Some(one) = one(&mut nodes)? else { continue };
        took.push(one);
        println!("run {:2}: {:.3} s", took.len(), one.as_secs_f64());
    }
    Ok(took)
}

/// Who leads shard 1, once that has been the same for a while: after a restart leads go back to where they belong.
fn settled_leader(nodes: &Nodes) -> Result<usize, String> {
    let start = Instant::now();
    let mut since: Option<(usize, Instant)> = None;
    while start.elapsed() < LIMIT {
        let now = nodes.leader(1);
        since = match (now, since) {
            (Some(now), Some((before, at))) if now == before => Some((before, at)),
            (Some(now), _) => Some((now, Instant::now())),
            (None, _) => None,
        };
        if let Some((leader, at)) = since
            && at.elapsed() > SETTLED
        {
            return Ok(leader);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("shard 1 has no leader that stays".into())
}

/// One run; nothing, if the lead moved before the kill.
fn one(nodes: &mut Nodes) -> Result<Option<Duration>, String> {
    let leader = settled_leader(nodes)?;
    let addrs: Vec<String> =
        nodes.nodes.iter().filter(|node| node.place != leader).map(|node| node.redis.clone()).collect();
    let stop = AtomicBool::new(false);
    // When the leader was killed, and the first write begun behind it that was acknowledged.
    let killed: Mutex<Option<Instant>> = Mutex::new(None);
    let first: Mutex<Option<Instant>> = Mutex::new(None);
    let lock = |cell: &Mutex<Option<Instant>>| *cell.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    std::thread::scope(|scope| {
        for (number, addr) in addrs.iter().cycle().take(addrs.len() * CLIENTS).enumerate() {
            let (stop, killed, first) = (&stop, &killed, &first);
            scope.spawn(move || {
                let mut conn: Option<Conn> = None;
                while !stop.load(Ordering::Relaxed) {
                    let Some(open) = &mut conn else {
                        conn = Conn::open_with(addr, PATIENCE, PATIENCE).ok();
                        std::thread::sleep(Duration::from_millis(2));
                        continue;
                    };
                    let begun = Instant::now();
                    match open.call(&["INCR", &format!("failover:{number}")]) {
                        Ok(Value::Int(_)) => {
                            if lock(killed).is_some_and(|killed| begun > killed) {
                                let mut first = first.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                                let now = Instant::now();
                                *first = Some(first.map_or(now, |before| before.min(now)));
                            }
                        }
                        Ok(_) => std::thread::sleep(Duration::from_millis(5)),
                        Err(_) => conn = None,
                    }
                }
            });
        }
        std::thread::sleep(Duration::from_millis(700));
        if nodes.leader(1) != Some(leader) {
            stop.store(true, Ordering::Relaxed);
            return Ok(None);
        }
        let start = Instant::now();
        *killed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(start);
        nodes.kill(leader);
        let done = loop {
            if let Some(first) = lock(&first) {
                break Ok(Some(first - start));
            }
            if start.elapsed() > LIMIT {
                break Err(format!("no write was acknowledged within {} s of the leader's end", LIMIT.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        stop.store(true, Ordering::Relaxed);
        done
    })
    .and_then(|took| {
        if took.is_none() {
            return Ok(None);
        }
        nodes.start(leader)?;
        nodes.all_serve(LIMIT)?;
        nodes.await_replicas(LIMIT)?;
        Ok(took)
    })
}

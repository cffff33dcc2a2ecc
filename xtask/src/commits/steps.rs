//! One commit of four parts, and kill -9 of a node at its first durable step, at its second, and so on, until the commit needs no more of them.
//!
//! A row in one shard, a row in another (or in the same), a record of a topic, and the acknowledgement of the message that it answers. The
//! program is the one that is shipped: the kernel asks us at each call that changes a file (`net::sync`), and at the Nth the process is killed in
//! place of it. Meanwhile others read the parts one after the other, at every node: whoever has seen one of them must see the others. In the end
//! all nodes tell the same, and what was answered has happened.
//!
//! Which step is the Nth may differ from one commit to the next (an idle log marks its end, a segment turns); the simulator counts them exactly
//! (`cargo test -p sim steps`).

use super::LIMIT;
use crate::ground::Ground;
use crate::interrupt;
use crate::nodes::{Nodes, Plan};
use crate::resp::{Conn, Value};
use std::path::Path as File;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TOPIC: &str = "topic:steps";
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(8);
/// A node that has taken no step for so long has none left to take.
const STILL: Duration = Duration::from_millis(300);
const LOOK: Duration = Duration::from_millis(5);

/// How a commit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    /// In one shard: one entry.
    One,
    /// Over two.
    Across,
}

/// What is looked at.
#[derive(Clone)]
struct Parts {
    rows: [String; 2],
    record: String,
    /// The message that is acknowledged.
    answers: String,
}

/// What the client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Done,
    Refused,
    Unknown,
}

/// What there is of a commit: rows, record, acknowledgement.
type There = [bool; 4];

/// So many rounds, or until every node has outlived every path. `Err`: what was seen that must not be.
pub fn run(bin: &File, count: usize, rounds: u64, dir: &File) -> Result<String, String> {
    let plan = Plan { bin: bin.to_owned(), shards: 2, steps: true, ..Plan::default() };
    let mut nodes = Nodes::found(Ground::loopback(), plan, dir, count)?;
    nodes.all_serve(LIMIT)?;
    if count > 1 {
        nodes.await_replicas(LIMIT)?;
    }
    let mut conn = nodes.connect(0, PATIENCE)?;
    let made = conn.text("Q.TOPIC CREATE steps PARTITIONS 1 quorate.tag 0").map_err(|error| error.to_string())?;
    let grouped = conn.text(&format!("XGROUP CREATE {TOPIC} g 0")).map_err(|error| error.to_string())?;
    if made.error().or(grouped.error()).is_some() {
        return Err(format!("Q.TOPIC was answered {made}, XGROUP {grouped}"));
    }
    // Of each path and node: the step at which it dies next.
    let paths = [Path::Across, Path::One];
    let mut next: Vec<(Path, usize, u64)> =
        paths.iter().flat_map(|path| (0..count).map(|node| (*path, node, 1))).collect();
    let (mut round, mut deaths, mut told) = (0, 0, [0u64; 3]);
    let mut lengths = Vec::new();
    while round < rounds && !next.is_empty() && !interrupt::told() {
        let (path, victim, step) = next.remove(0);
        let door = (victim + round as usize) % count;
        let (died, answer) = one(&mut nodes, path, (victim, door, step), round)
            .map_err(|why| format!("{path:?}, node {} at its step {step}, door {}: {why}", victim + 1, door + 1))?;
        round += 1;
        told[answer as usize] += 1;
        if died {
            deaths += 1;
            next.push((path, victim, step + 1));
        } else {
            lengths.push(format!("{path:?} node {}: {}", victim + 1, step - 1));
        }
    }
    let [done, refused, unknown] = told;
    let left = if next.is_empty() { "no step is left" } else { "steps are left" };
    Ok(format!(
        "commits: {round} commits of rows, record and acknowledgement, {deaths} of them cut at a durable step ({left}; {}): {done} done, {refused} \
         refused, {unknown} of unknown outcome; nobody saw a part without the others",
        lengths.join(", ")
    ))
}

/// Waits until a condition holds.
fn await_that(what: &str, limit: Duration, mut holds: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let start = Instant::now();
    while !holds()? {
        if start.elapsed() > limit {
            return Err(format!("{what}: not within {} s", limit.as_secs()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Until a node's disk stands still, or it has gone; false where it has gone.
fn stands_still(nodes: &mut Nodes, at: usize) -> Result<bool, String> {
    let (mut count, mut since) = (u64::MAX, Instant::now());
    let mut lives = true;
    await_that("a node's disk does not come to rest", LIMIT, || {
        lives = nodes.nodes[at].process.as_mut().is_some_and(|process| process.ended().is_none());
        let now = nodes.nodes[at].syncs.count.load(Ordering::Relaxed);
        if std::mem::replace(&mut count, now) != now {
            since = Instant::now();
        }
        Ok(!lives || since.elapsed() > STILL)
    })?;
    Ok(lives)
}

fn one(
    nodes: &mut Nodes,
    path: Path,
    (victim, door, step): (usize, usize, u64),
    round: u64,
) -> Result<(bool, Told), String> {
    nodes.all_serve(LIMIT)?;
    let failed = |error: std::io::Error| error.to_string();
    // The two halves of the slots are the two shards; `{0}` and the topic lie in the second, `{2}` in the first.
    let tag = if path == Path::One { "0" } else { "2" };
    let rows = [format!("near:{{0}}:{round}"), format!("far:{{{tag}}}:{round}")];
    let mut conn = nodes.connect(door, PATIENCE)?;
    conn.call(&["XADD", TOPIC, "*", "V", &format!("todo:{round}")]).map_err(failed)?;
    let given = conn.text(&format!("XREADGROUP GROUP g c COUNT 100 STREAMS {TOPIC} >")).map_err(failed)?;
    let mut ids: Vec<String> = entries(&given).into_iter().map(|(id, _)| id).collect();
    let answers = ids.pop().ok_or_else(|| format!("XREADGROUP was answered {given}"))?;
    if !ids.is_empty() {
        conn.call(&[&["XACK", TOPIC, "g"][..], &ids.iter().map(String::as_str).collect::<Vec<_>>()].concat())
            .map_err(failed)?;
    }
    let parts = Parts { rows, record: format!("done:{round}"), answers };
    for at in 0..nodes.nodes.len() {
        stands_still(nodes, at)?;
    }
    nodes.nodes[victim].syncs.dies.store(step, Ordering::Relaxed);
    let addrs = nodes.addrs();
    let (over, wrong) = (AtomicBool::new(false), Mutex::new(None));
    let (told, lives) = std::thread::scope(|scope| {
        for addr in &addrs {
            let (parts, over, wrong) = (&parts, &over, &wrong);
            scope.spawn(move || {
                if let Err(why) = watch(addr, parts, over) {
                    wrong.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(why);
                }
            });
        }
        let told = commit(&mut conn, &parts);
        // Others finish what a door has left.
        let lives = stands_still(nodes, victim);
        over.store(true, Ordering::Relaxed);
        (told, lives)
    });
    nodes.nodes[victim].syncs.dies.store(0, Ordering::Relaxed);
    let (told, lives) = (told?, lives?);
    if let Some(why) = wrong.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
        return Err(why);
    }
    if !lives {
        nodes.kill(victim);
        nodes.start(victim)?;
    }
    nodes.all_serve(LIMIT)?;
    let mut first: Option<There> = None;
    for at in 0..nodes.nodes.len() {
        let mut conn = nodes.connect(at, PATIENCE)?;
        let start = Instant::now();
        let there = loop {
            match there(&mut conn, &parts) {
                Ok(there) => break there,
                Err(why) if start.elapsed() > LIMIT => return Err(format!("in the end, node {}: {why}", at + 1)),
                Err(_) => {
                    std::thread::sleep(LOOK);
                    conn = nodes.connect(at, PATIENCE)?;
                }
            }
        };
        if there.iter().any(|part| *part != there[0]) || *first.get_or_insert(there) != there {
            return Err(format!(
                "in the end node {} has (rows, record, acknowledgement) {there:?}, the first {first:?}",
                at + 1
            ));
        }
        match told {
            Told::Done if !there[0] => return Err(format!("it was answered, and node {} has nothing of it", at + 1)),
            Told::Refused if there[0] => return Err(format!("it was refused, and node {} has it", at + 1)),
            _ => {}
        }
    }
    Ok((!lives, told))
}

/// MULTI … EXEC.
fn commit(conn: &mut Conn, parts: &Parts) -> Result<Told, String> {
    let commands: [Vec<&str>; 6] = [
        vec!["MULTI"],
        vec!["INCR", &parts.rows[0]],
        vec!["INCR", &parts.rows[1]],
        vec!["XADD", TOPIC, "*", "V", &parts.record],
        vec!["Q.XACK", TOPIC, "g", "c", &parts.answers],
        vec!["EXEC"],
    ];
    let mut last = Value::Null;
    for command in &commands {
        match conn.call(command) {
            Ok(answer) => last = answer,
            Err(_) if command[0] == "EXEC" => return Ok(Told::Unknown),
            Err(_) => return Ok(Told::Refused),
        }
        if command[0] != "EXEC"
            && let Some(why) = last.error()
        {
            return Err(format!("{command:?} was answered {why}"));
        }
    }
    match last.error() {
        None if last
            .items()
            .is_some_and(|items| items.len() == 4 && items.iter().all(|item| item.error().is_none())) =>
        {
            Ok(Told::Done)
        }
        Some(why)
            if ["TRYAGAIN", "LOADING", "MISCONF", "BUSY", "CLUSTERDOWN"].iter().any(|word| why.starts_with(word)) =>
        {
            Ok(Told::Refused)
        }
        _ => Err(format!("EXEC was answered {last}")),
    }
}

/// Ids and values of a stream's entries, of XRANGE's answer or of XREADGROUP's.
fn entries(answer: &Value) -> Vec<(String, String)> {
    let items = answer.items().unwrap_or_default();
    let of_stream = items.first().and_then(|stream| stream.items()?.get(1)?.items());
    let nested = of_stream.filter(|list| list.first().is_none_or(|entry| entry.items().is_some()));
    let entry = |entry: &Value| {
        let [id, fields] = entry.items()? else { return None };
        Some((id.text()?, fields.items()?.get(1)?.text()?))
    };
    nested.unwrap_or(items).iter().filter_map(entry).collect()
}

/// Whether a row is there; `None` where nobody says.
fn row(conn: &mut Conn, key: &str) -> Result<Option<bool>, String> {
    match conn.call(&["GET", key]).map_err(|error| error.to_string())? {
        Value::NullBulk | Value::Null => Ok(Some(false)),
        Value::Bulk(text) if text == b"1" => Ok(Some(true)),
        Value::Bulk(text) => Err(format!("WRONG {key} is {}", String::from_utf8_lossy(&text))),
        _ => Ok(None),
    }
}

fn record(conn: &mut Conn, parts: &Parts) -> Result<Option<bool>, String> {
    let ask = format!("XREVRANGE {TOPIC} + - COUNT 1");
    let answer = conn.text(&ask).map_err(|error| error.to_string())?;
    Ok(answer.items().map(|_| entries(&answer).iter().any(|(_, value)| *value == parts.record)))
}

/// Whether the message is acknowledged.
fn acknowledged(conn: &mut Conn, parts: &Parts) -> Result<Option<bool>, String> {
    let ask = format!("XPENDING {TOPIC} g {0} {0} 1", parts.answers);
    let answer = conn.text(&ask).map_err(|error| error.to_string())?;
    Ok(answer.items().map(<[Value]>::is_empty))
}

fn there(conn: &mut Conn, parts: &Parts) -> Result<There, String> {
    let found =
        [row(conn, &parts.rows[0])?, row(conn, &parts.rows[1])?, record(conn, parts)?, acknowledged(conn, parts)?];
    match found {
        [Some(a), Some(b), Some(c), Some(d)] => Ok([a, b, c, d]),
        _ => Err(format!("nobody says what there is: {found:?}")),
    }
}

/// Reads one part and then the others, in every order in turn: who has seen one must see them all.
fn watch(addr: &str, parts: &Parts, over: &AtomicBool) -> Result<(), String> {
    let mut conn: Option<Conn> = None;
    for turn in 0usize.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let Some(open) = &mut conn else {
            conn = Conn::open_with(addr, Duration::from_secs(1), PATIENCE).ok();
            std::thread::sleep(LOOK);
            continue;
        };
        let mut seen: [Option<bool>; 4] = [None; 4];
        let mut has_one = false;
        for at in (0..4).map(|nth| (nth + turn) % 4) {
            let part = match at {
                0 | 1 => row(open, &parts.rows[at]),
                2 => record(open, parts),
                _ => acknowledged(open, parts),
            };
            match part {
                Ok(part) => seen[at] = part,
                Err(why) if why.starts_with("WRONG") => return Err(why),
                Err(_) => {
                    conn = None;
                    break;
                }
            }
            if has_one && seen[at] == Some(false) {
                return Err(format!("at {addr} a part was seen, and then (rows, record, acknowledgement) {seen:?}"));
            }
            has_one |= seen[at] == Some(true);
        }
    }
    Ok(())
}

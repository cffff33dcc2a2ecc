//! A shard is split under writes, and once more while its leader is killed.

use std::path::Path;
use std::time::Instant;

use doors::resp::client::{Value, write_command};
use serde_json::Value as Json;

use super::grouped;
use super::trio::{Load, Trio, list, number, patiently};

/// Keys that are there before, and bytes of each.
const KEYS: usize = 150_000;
const BYTES: usize = 200;
/// Keys written at a time.
const AT_ONCE: usize = 500;

pub fn run(directory: &Path) -> Result<(), String> {
    let mut trio = Trio::start(directory, [Vec::new(), Vec::new(), Vec::new()])?;
    let leader = trio.leader(1)?;
    fill(&mut trio, leader)?;
    println!(
        "{} keys of {BYTES} bytes are in one shard. Eight clients write, each waiting for its +OK.",
        grouped(KEYS as u64)
    );
    let load = Load::new(8, trio.doors());
    load.run(|| {
        load.more(2000)?;
        load.slowest();
        let began = Instant::now();
        let made = number(&trio.post("split?group=1")?, "shard");
        trio.wait("slots that have arrived", |view| arrived(view, made))?;
        println!(
            "  shard 1 split in two in {:.1} s: shard {made} has half of the slots; the write that waited longest waited {:.0} ms",
            began.elapsed().as_secs_f64(),
            load.slowest().as_secs_f64() * 1e3
        );
        load.more(1000)?;
        let leader = trio.leader(1)?;
        load.slowest();
        let began = Instant::now();
        let made = number(&trio.post("split?group=1")?, "shard");
        trio.wait("slots on their way", |view| {
            list(view, "slot_moves").any(|own| number(own, "keys") > 0) || arrived(view, made)
        })?;
        trio.node(leader)?.kill();
        trio.gone(leader);
        load.meet(trio.doors());
        trio.wait("slots that have arrived although the leader was killed", |view| arrived(view, made))?;
        println!(
            "  split again into shard {made}, and its leader (node {leader}) killed with kill -9 in the middle: done after {:.1} s; longest wait {:.2} s",
            began.elapsed().as_secs_f64(),
            load.slowest().as_secs_f64()
        );
        load.more(1000)?;
        trio.up(leader, &[])?;
        load.meet(trio.doors());
        trio.wait("node that is back, level and leads what it should", |view| {
            let settled = |group: &Json| [0, number(group, "leader")].contains(&number(group, "wanted_leader"));
            let problems = view.get("problems").and_then(|problems| problems.as_array());
            problems.is_some_and(Vec::is_empty) && list(view, "groups").all(settled)
        })?;
        Ok(())
    })?;
    for node in 1..=3 {
        let found = load.look(&mut trio.node(node)?.connect()?)?;
        println!("  every one of {} answered writes is read through node {node}", grouped(found));
    }
    let mut connection = trio.node(1)?.connect()?;
    let sample = (0..KEYS).step_by(97);
    for at in sample {
        let key = format!("old:{at}");
        match patiently(&mut connection, &[b"STRLEN", key.as_bytes()])? {
            Value::Int(length) if length as usize == BYTES => {}
            other => return Err(format!("{key} was there before, and now its length is {other:?}")),
        }
    }
    println!("  and so are the keys that were there before");
    Ok(())
}

/// Whether the shard has slots and none are on their way.
fn arrived(view: &Json, shard: u64) -> bool {
    let has = list(view, "groups").any(|group| {
        number(group, "group") == shard
            && group.get("slots").and_then(Json::as_str).is_some_and(|slots| !slots.is_empty())
    });
    has && list(view, "slot_moves").next().is_none()
}

fn fill(trio: &mut Trio, node: u64) -> Result<(), String> {
    let mut connection = trio.node(node)?.connect()?;
    let value = vec![b'v'; BYTES];
    for first in (0..KEYS).step_by(AT_ONCE) {
        let mut bytes = Vec::new();
        for at in first..first + AT_ONCE {
            let key = format!("old:{at}");
            write_command(&[&b"SET"[..], key.as_bytes(), &value], &mut bytes);
        }
        connection.write(&bytes).map_err(|error| error.to_string())?;
        for _ in 0..AT_ONCE {
            match connection.read().map_err(|error| error.to_string())? {
                Value::Simple(text) if text == b"OK" => {}
                other => return Err(format!("a key could not be written: {other:?}")),
            }
        }
    }
    Ok(())
}

//! `cargo xtask redis-suite`: Redis 7.2's own suite against a running quorate.
//!
//! ```text
//! cargo xtask redis-suite [--bin PATH] [--suite DIR] [--write] [--minutes N] [UNIT …]
//! ```
//!
//! The suite is no part of this repository: `DIR` (or `QUORATE_REDIS_SUITE`) is a checkout of Redis at a 7.2 tag, of which only the
//! scripts under `tests/` are used, unchanged, in the mode that they have for servers they did not start (`--host`). Without it,
//! or without `tclsh`, the tool says so and does nothing.
//!
//! Every unit meets a server of its own with an empty directory. A case that fails must stand in `exceptions.txt` with a reason, and
//! one that stands there must fail: else the run fails. One whose reason begins with `not run` would wait for ever, and is skipped. `--write` writes what ran (`ran.md`), which `cargo xtask compat --write`
//! takes into docs/compatibility.md.

use crate::server::Server;
use crate::shell::{logged, root, there};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Units that say anything about a server that they did not start.
const UNITS: &[&str] = &[
    "unit/dump",
    "unit/protocol",
    "unit/keyspace",
    "unit/scan",
    "unit/info-command",
    "unit/type/string",
    "unit/type/incr",
    "unit/type/list",
    "unit/type/list-3",
    "unit/type/set",
    "unit/type/zset",
    "unit/type/hash",
    "unit/type/stream",
    "unit/type/stream-cgroups",
    "unit/sort",
    "unit/expire",
    "unit/other",
    "unit/multi",
    "unit/quit",
    "unit/pubsub",
    "unit/slowlog",
    "unit/latency-monitor",
    "unit/scripting",
    "unit/functions",
    "unit/introspection",
    "unit/introspection-2",
    "unit/bitops",
    "unit/bitfield",
    "unit/geo",
    "unit/hyperloglog",
    "unit/lazyfree",
    "unit/pause",
    "unit/tracking",
    "unit/violations",
];

/// Cases with these tags are left out, and why.
const TAGS: &[(&str, &str)] = &[
    ("needs:debug", "DEBUG, which reaches into Redis's inside"),
    ("needs:repl", "Redis's replication protocol"),
    ("needs:save", "SAVE and BGSAVE"),
    ("needs:config-maxmemory", "CONFIG SET maxmemory: budgets are per keyspace, and replicated"),
    ("slow", "minutes each"),
];

/// Failures that are known, each with its reason: `unit | case | reason`.
const EXCEPTIONS: &str = include_str!("redis_suite/exceptions.txt");
/// How the reason of a case begins that is not even tried.
const NOT_RUN: &str = "not run";
/// What ran, as the document shows it.
const RAN_PATH: &str = "xtask/src/redis_suite/ran.md";

/// What came of one unit.
#[derive(Default)]
struct Ran {
    passed: usize,
    left_out: usize,
    failed: Vec<String>,
}

/// Entry of `cargo xtask redis-suite`.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut bin, mut write, mut minutes) = (root().join("target/release/quorate"), false, 5);
    let mut dir = std::env::var_os("QUORATE_REDIS_SUITE").map(PathBuf::from);
    let mut units = Vec::new();
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--bin" => bin = PathBuf::from(value()?),
            "--suite" => dir = Some(PathBuf::from(value()?)),
            "--minutes" => minutes = value()?.parse().map_err(|_| "--minutes wants a number".to_owned())?,
            "--write" => write = true,
            unit if unit.starts_with("unit/") => units.push(unit.to_owned()),
            _ => return Err(format!("redis-suite does not know {flag}")),
        }
    }
    let Some(dir) = dir.filter(|dir| dir.join("tests/test_helper.tcl").is_file()) else {
        println!("redis-suite: skipped: no suite; --suite DIR names a checkout of Redis 7.2");
        return Ok(());
    };
    if !there("tclsh") {
        println!("redis-suite: skipped: no tclsh (Debian's package tcl)");
        return Ok(());
    }
    let whole = units.is_empty();
    if whole {
        units = UNITS.iter().map(|unit| (*unit).to_owned()).collect();
    }
    let exceptions = exceptions()?;
    let place = std::env::temp_dir().join(format!("quorate-redis-suite-{}", std::process::id()));
    let mut table = BTreeMap::new();
    let mut wrong = Vec::new();
    for unit in &units {
        let own = exceptions.iter().filter(|((of, _), _)| of == unit).map(|((_, case), reason)| (*case, *reason));
        let (skipped, known): (Vec<_>, Vec<_>) = own.partition(|(_, reason)| reason.starts_with(NOT_RUN));
        let skipped: Vec<&str> = skipped.into_iter().map(|(case, _)| case).collect();
        let ran = play(unit, &skipped, &bin, &dir, &place, Duration::from_secs(minutes * 60))?;
        let known: BTreeSet<&str> = known.into_iter().map(|(case, _)| case).collect();
        let failed: BTreeSet<&str> = ran.failed.iter().map(String::as_str).collect();
        wrong.extend(failed.difference(&known).map(|case| format!("{unit}: fails: {case}")));
        wrong.extend(
            known
                .difference(&failed)
                .map(|case| format!("{unit}: stands among the exceptions, and does not fail: {case}")),
        );
        println!("{unit}: {} passed, {} failed, {} left out", ran.passed, ran.failed.len(), ran.left_out);
        table.insert(unit.clone(), ran);
    }
    let _ = std::fs::remove_dir_all(&place);
    let sum = |of: fn(&Ran) -> usize| table.values().map(of).sum::<usize>();
    println!("redis-suite: {} passed, {} failed", sum(|ran| ran.passed), sum(|ran| ran.failed.len()));
    if write && whole {
        let path = root().join(RAN_PATH);
        std::fs::write(&path, markdown(&table, &exceptions)).map_err(|error| format!("{RAN_PATH}: {error}"))?;
        println!("wrote {RAN_PATH}");
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// What ran the last time.
pub fn ran() -> Result<String, String> {
    std::fs::read_to_string(root().join(RAN_PATH)).map_err(|error| format!("{RAN_PATH}: {error}"))
}

fn exceptions() -> Result<BTreeMap<(&'static str, &'static str), &'static str>, String> {
    let lines = EXCEPTIONS.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let mut parts = line.splitn(3, " | ");
            match (parts.next(), parts.next(), parts.next()) {
                (Some(unit), Some(case), Some(reason)) => Ok(((unit, case), reason)),
                _ => Err(format!("exceptions.txt: not `unit | case | reason`: {line}")),
            }
        })
        .collect()
}

/// Plays one unit against a server of its own.
fn play(unit: &str, skipped: &[&str], bin: &Path, suite: &Path, place: &Path, limit: Duration) -> Result<Ran, String> {
    let name = unit.replace('/', "-");
    let server = Server::quorate(bin, &place.join(&name), &[], &[])?;
    let tags: Vec<String> = TAGS.iter().map(|(tag, _)| format!("-{tag}")).collect();
    let mut command = Command::new("tclsh");
    command.current_dir(suite).args(["tests/test_helper.tcl", "--host", "127.0.0.1", "--port", server.port()]);
    command.args(["--durable", "--ignore-encoding", "--ignore-digest", "--single", unit, "--tags", &tags.join(" ")]);
    for case in skipped {
        command.args(["--skiptest", case]);
    }
    // Its exit code says what its lines say.
    let said = logged(command, &place.join(format!("{name}.out")), limit);
    let said = match &said {
        Ok(said) | Err(said) => said,
    };
    let whole = std::fs::read_to_string(place.join(format!("{name}.out"))).unwrap_or_default();
    Ok(read(&whole, said))
}

/// Reads the suite's lines.
fn read(said: &str, end: &str) -> Ran {
    let mut ran = Ran::default();
    for line in said.lines() {
        let line = plain(line);
        if line.starts_with("[ok]: ") {
            ran.passed += 1;
        } else if line.starts_with("[ignore]: ") {
            ran.left_out += 1;
        } else if let Some(rest) = line.strip_prefix("[err]: ") {
            let case = rest.rsplit_once(" in tests/").map_or(rest, |(case, _)| case);
            // What is no case is something between cases: its words may hold anything.
            let case = if rest.contains(" in tests/") { case } else { "(between cases)" };
            ran.failed.push(case.trim().to_owned());
        } else if line.starts_with("[exception]: ") || line.contains("[TIMEOUT]") {
            ran.failed.push("(the unit ended early)".to_owned());
        }
    }
    if ran.passed + ran.left_out + ran.failed.len() == 0 {
        ran.failed.push("(nothing ran)".to_owned());
    }
    if end.contains("not done within") {
        ran.failed.push("(the unit did not end)".to_owned());
    }
    ran
}

/// Without the colours of a terminal.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, behind)) = rest.split_once("\x1b[") {
        text.push_str(before);
        rest = behind.split_once('m').map_or("", |(_, rest)| rest);
    }
    text + rest
}

fn markdown(table: &BTreeMap<String, Ran>, exceptions: &BTreeMap<(&str, &str), &str>) -> String {
    let mut text = String::from("| unit | passed | exceptions | left out |\n|---|---|---|---|\n");
    for (unit, ran) in table {
        text += &format!("| {unit} | {} | {} | {} |\n", ran.passed, ran.failed.len(), ran.left_out);
    }
    text += "\nLeft out by the suite itself: what needs to start or stop the server. Left out by tag:\n\n";
    for (tag, why) in TAGS {
        text += &format!("* `{tag}`: {why}\n");
    }
    text += "\n| unit | case that fails | why |\n|---|---|---|\n";
    for ((unit, case), reason) in exceptions {
        text += &format!("| {unit} | {} | {reason} |\n", case.replace('|', "\\|"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_suite_s_lines_are_read() {
        let said = "\x1b[32m[ok]\x1b[0m: SET (1 ms)\n\x1b[33m[ignore]\x1b[0m: X: Tag: slow denied\n\
                    \x1b[31m[err]\x1b[0m: GET in tests/unit/x.tcl\nExpected 1\n[err]: ERR x\n[exception]: Executing\n";
        let ran = read(said, "");
        assert_eq!((ran.passed, ran.left_out), (1, 1));
        assert_eq!(ran.failed, ["GET", "(between cases)", "(the unit ended early)"]);
        assert_eq!(read("cannot listen\n", "").failed, ["(nothing ran)"]);
    }

    #[test]
    fn every_exception_has_a_unit_that_is_played() {
        for (unit, _) in exceptions().expect("well formed").keys() {
            assert!(UNITS.contains(unit), "{unit}");
        }
    }
}

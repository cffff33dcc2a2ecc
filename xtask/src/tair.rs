//! `cargo xtask tair`: the cases of Tair's compatibility suite, as they touch a standalone server.
//!
//! ```text
//! cargo xtask tair --port P [--host H] [--suite FILE] [--since 7.0.0] [--password P] [--markdown FILE] [--failed]
//! ```
//!
//! The suite's data lies beside the repository (`../shared/suites/tair-cts.json`) and is not copied into it; where it is absent this says
//! so and passes. A case runs on an emptied server, its commands one by one. A case in which the server answers "unknown command" counts as
//! not implemented; every other case must pass. `--markdown` writes the table for docs/compatibility.md from what ran.

use crate::resp::{Conn, Value, show_command};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// How one case went.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// The command that the server does not know.
    NotImplemented(String),
    /// The command, what was wanted, what came.
    Failed(String),
}

/// Counts for one command.
#[derive(Default)]
struct Row {
    passed: usize,
    missing: usize,
    failed: usize,
}

/// Entry of `cargo xtask tair`.
pub fn run(args: &[String]) -> Result<(), String> {
    let mut host = "127.0.0.1".to_owned();
    let mut port = None;
    let mut suite = "../shared/suites/tair-cts.json".to_owned();
    let mut since = "7.0.0".to_owned();
    let mut password = None;
    let mut markdown = None;
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--host" => host = value()?,
            "--port" => port = Some(value()?),
            "--suite" => suite = value()?,
            "--since" => since = value()?,
            "--password" => password = Some(value()?),
            "--markdown" => markdown = Some(value()?),
            _ => return Err(format!("tair does not know {flag}")),
        }
    }
    let addr = format!("{host}:{}", port.ok_or("tair wants --port")?);
    let text = match std::fs::read(&suite) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("tair: skipped: {suite} is not here");
            return Ok(());
        }
        Err(error) => return Err(format!("{suite}: {error}")),
    };
    let cases: Json = serde_json::from_slice(&text).map_err(|error| format!("{suite}: {error}"))?;
    let cases = cases.as_array().ok_or_else(|| format!("{suite}: not a list of cases"))?;
    let limit = version(&since);
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    let (mut passed, mut missing, mut failed) = (0, BTreeMap::new(), Vec::new());
    let mut total = 0;
    for case in cases {
        let tag = case["tags"].as_str().unwrap_or("standalone");
        let skipped = case["skipped"].as_bool().unwrap_or(false);
        if tag != "standalone" || skipped || version(case["since"].as_str().unwrap_or("0")) > limit {
            continue;
        }
        total += 1;
        let name = case["name"].as_str().unwrap_or("?");
        // A connection of its own: a case may leave a transaction open or a reply unread.
        let outcome = Conn::open(&addr, Duration::from_secs(5))
            .and_then(|mut conn| {
                if let Some(password) = &password {
                    conn.call(&["AUTH", password])?;
                }
                play(&mut conn, case)
            })
            .unwrap_or_else(|error| Outcome::Failed(format!("{addr}: {error}")));
        let row = rows.entry(subject(name)).or_default();
        match outcome {
            Outcome::Passed => {
                passed += 1;
                row.passed += 1;
            }
            Outcome::NotImplemented(command) => {
                *missing.entry(command).or_insert(0) += 1;
                row.missing += 1;
            }
            Outcome::Failed(why) => {
                row.failed += 1;
                failed.push(format!("FAILED {name}: {why}"));
            }
        }
    }
    for line in &failed {
        println!("{line}");
    }
    for (command, times) in &missing {
        println!("not implemented: {command} ({times} cases)");
    }
    let without: usize = missing.values().sum();
    println!(
        "tair: {passed} of {total} cases passed, {without} not implemented, {} failed (since <= {since}, standalone)",
        failed.len()
    );
    if let Some(path) = markdown {
        std::fs::write(&path, table(&rows, passed, total, without)).map_err(|error| format!("{path}: {error}"))?;
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{} cases failed", failed.len())) }
}

/// "7.0.0" as something that compares.
fn version(text: &str) -> Vec<u32> {
    text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// What a case is about: the suite names it "set with NX", "set command".
fn subject(name: &str) -> String {
    name.split(' ').next().unwrap_or(name).to_ascii_uppercase()
}

fn play(conn: &mut Conn, case: &Json) -> std::io::Result<Outcome> {
    conn.text("FLUSHALL")?;
    let binary = case["command_binary"].as_bool().unwrap_or(false);
    let sorted = case["sort_result"].as_bool().unwrap_or(false);
    let empty = Vec::new();
    let commands = case["command"].as_array().unwrap_or(&empty);
    let results = case["result"].as_array().unwrap_or(&empty);
    for (command, wanted) in commands.iter().zip(results) {
        let args = split(command.as_str().unwrap_or_default(), binary);
        let reply = conn.call(&args)?;
        if !equal(wanted, &reply, sorted) {
            if let Some(error) = reply.error()
                && (error.starts_with("ERR unknown command") || error.starts_with("ERR unknown subcommand"))
            {
                let words = if error.starts_with("ERR unknown sub") { 2 } else { 1 };
                let name: Vec<_> =
                    args.iter().take(words).map(|arg| String::from_utf8_lossy(arg).to_ascii_uppercase()).collect();
                return Ok(Outcome::NotImplemented(name.join(" ")));
            }
            return Ok(Outcome::Failed(format!("{}: wanted {wanted}, got {reply}", show_command(&args))));
        }
    }
    Ok(Outcome::Passed)
}

/// Words between spaces; double quotes keep spaces together. In a binary case `\xNN`, `\n`, `\r`, `\t`, `\a`, `\b` stand for bytes.
fn split(command: &str, binary: bool) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quoted = false;
    let mut bytes = command.bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            b' ' if !quoted => words.extend(word.take()),
            b'\\' if binary || quoted => {
                let decoded = match bytes.next() {
                    Some(b'x') => {
                        let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                        u8::from_str_radix(&digits, 16).unwrap_or(b'?')
                    }
                    Some(b'n') => b'\n',
                    Some(b'r') => b'\r',
                    Some(b't') => b'\t',
                    Some(b'a') => 7,
                    Some(b'b') => 8,
                    Some(other) => other,
                    None => b'\\',
                };
                word.get_or_insert_default().push(decoded);
            }
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

fn equal(wanted: &Json, reply: &Value, sorted: bool) -> bool {
    match wanted {
        Json::Null => reply.is_null(),
        Json::Number(number) => matches!(reply, Value::Int(got) if number.as_i64() == Some(*got)),
        Json::String(text) => reply.bytes() == Some(text.as_bytes()),
        Json::Array(wanted) => {
            let Some(items) = reply.items() else {
                return false;
            };
            if wanted.len() != items.len() {
                return false;
            }
            let (mut wanted, mut items) = (wanted.iter().collect::<Vec<_>>(), items.iter().collect::<Vec<_>>());
            if sorted && wanted.iter().all(|item| item.is_string()) {
                wanted.sort_by_key(|item| item.as_str().unwrap_or_default().to_owned());
                items.sort();
            }
            wanted.iter().zip(items).all(|(wanted, item)| equal(wanted, item, sorted))
        }
        Json::Bool(_) | Json::Object(_) => false,
    }
}

/// The table for docs/compatibility.md.
fn table(rows: &BTreeMap<String, Row>, passed: usize, total: usize, without: usize) -> String {
    let mut out = format!(
        "{passed} of {total} cases pass; {without} touch a command that is not implemented.\n\n| command | cases | passed | not implemented | failed |\n|---|---|---|---|---|\n"
    );
    for (name, row) in rows {
        let cases = row.passed + row.missing + row.failed;
        let _ = writeln!(out, "| {name} | {cases} | {} | {} | {} |", row.passed, row.missing, row.failed);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_quotes_and_bytes() {
        assert_eq!(split("set k  \"a b\"", false), [b"set".to_vec(), b"k".to_vec(), b"a b".to_vec()]);
        assert_eq!(split("restore k 0 \\x00\\a]", true)[3], b"\x00\x07]");
        assert_eq!(split("eval \"\" 0", false)[1], b"");
    }

    #[test]
    fn replies_against_the_suite() {
        let json = |text: &str| serde_json::from_str::<Json>(text).unwrap();
        let bulk = |text: &str| Value::Bulk(text.as_bytes().to_vec());
        assert!(equal(&json("null"), &Value::NullArray, false));
        assert!(equal(
            &json("[\"a\",[\"b\",1]]"),
            &Value::Array(vec![bulk("a"), Value::Array(vec![bulk("b"), Value::Int(1)])]),
            false
        ));
        assert!(!equal(&json("1"), &bulk("1"), false));
        assert!(equal(&json("[\"a\",\"b\"]"), &Value::Array(vec![bulk("b"), bulk("a")]), true));
        assert!(!equal(&json("[\"a\",\"b\"]"), &Value::Array(vec![bulk("b"), bulk("a")]), false));
    }
}

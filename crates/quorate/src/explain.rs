//! `quorate explain KEY`: asks the admin door of a running node where a key lies and what the last commit that named it did.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::ask::Admin;

/// Prints it.
pub fn run(
    address: SocketAddr,
    key: &str,
    db: u8,
    is_json: bool,
    password_file: Option<&Path>,
) -> Result<ExitCode, String> {
    let door = Admin::new(address, password_file)?;
    let mut path = "/explain?key=".to_owned();
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => path.push(char::from(byte)),
            byte => write!(path, "%{byte:02X}").expect("a string takes everything"),
        }
    }
    write!(path, "&db={db}").expect("a string takes everything");
    let (code, body) = door.ask("GET", &path, "", &[])?;
    let told: Value = match (code, serde_json::from_str(&body)) {
        (200, Ok(told)) => told,
        _ => return Err(format!("{address} answered {code}: {}", body.trim())),
    };
    if is_json {
        println!("{told:#}");
    } else {
        print!("{}", summary(&told));
    }
    Ok(ExitCode::SUCCESS)
}

fn text(value: &Value, path: &str) -> String {
    match value.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(other) => other.to_string(),
    }
}

fn number(value: &Value, path: &str) -> u64 {
    value.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

/// Names, and how many others there are.
fn names(value: &Value, list: &str, more: &str, name: impl Fn(&Value) -> String) -> String {
    let mut all: Vec<String> = value.pointer(list).and_then(Value::as_array).into_iter().flatten().map(name).collect();
    if number(value, more) > 0 {
        all.push(format!("and {} more", number(value, more)));
    }
    all.join(", ")
}

/// The answer in a few lines.
fn summary(told: &Value) -> String {
    let mut out = format!("key       {} (database {})\n", text(told, "/key"), text(told, "/db"));
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "{name:<9} {text}");
    };
    if told.pointer("/topic/name").is_some() {
        let partition = match told.pointer("/topic/partition") {
            Some(Value::Number(own)) => format!(", partition {own}"),
            _ => String::new(),
        };
        line("topic", format!("{}{partition}", text(told, "/topic/name")));
    } else {
        let prefix = match text(told, "/keyspace/prefix") {
            none if none.is_empty() => "the default one".to_owned(),
            prefix => format!("\"{prefix}\""),
        };
        line("keyspace", format!("{prefix}, durability {}", text(told, "/keyspace/durability")));
        line("slot", text(told, "/slot"));
    }
    line("shard", text(told, "/shard"));
    line("leader", format!("node {}, term {}", text(told, "/leader"), text(told, "/term")));
    let (count, since) = (number(told, "/remembered/commits"), number(told, "/remembered/since_ms"));
    let Some(commit) = told.get("commit").filter(|commit| !commit.is_null()) else {
        let here = if told.get("held_here") == Some(&Value::Bool(false)) {
            "; this node does not hold the shard: ask one that does (quorate cluster)"
        } else {
            ""
        };
        line(
            "commit",
            format!("none of the last {count} that this node remembers, since {}, names it{here}", moment(since)),
        );
        return out;
    };
    let across = if commit.get("across_shards") == Some(&Value::Bool(true)) { ", across shards" } else { "" };
    line(
        "commit",
        format!(
            "index {} of shard {}, {}{across}",
            text(commit, "/index"),
            text(commit, "/group"),
            moment(number(commit, "/time_ms"))
        ),
    );
    let commands = names(commit, "/commands", "/more_commands", |own| match number(own, "/count") {
        1 => text(own, "/name"),
        count => format!("{} × {count}", text(own, "/name")),
    });
    line("commands", commands);
    line("keys", names(commit, "/keys", "/more_keys", |own| text(own, "/name")));
    let own = |own: &Value| format!("{} partition {}", text(own, "/topic"), text(own, "/partition"));
    let partitions = names(commit, "/partitions", "/-", own);
    if !partitions.is_empty() {
        line("records", partitions);
    }
    let groups = names(commit, "/groups", "/-", |own| own.as_str().unwrap_or_default().to_owned());
    if !groups.is_empty() {
        line("offsets", groups);
    }
    if number(commit, "/others") > 0 {
        let others = number(commit, "/others");
        line(
            "beside",
            format!("{others} other commands or transactions, durable by the same write, independent of it"),
        );
    }
    out
}

fn moment(ms: u64) -> String {
    format!("{}.{:03} UTC", to_the_second(ms), ms % 1000)
}

/// Milliseconds since the Unix epoch as a date and a time, UTC (days to dates by Howard Hinnant's `civil_from_days`).
pub fn to_the_second(ms: u64) -> String {
    let (days, rest) = (ms / 86_400_000, ms % 86_400_000);
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{moment, summary};

    #[test]
    fn moments_are_dates() {
        assert_eq!(moment(0), "1970-01-01 00:00:00.000 UTC");
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00.000 UTC");
        assert_eq!(moment(1_735_689_599_999), "2024-12-31 23:59:59.999 UTC");
    }

    #[test]
    fn a_commit_is_told_in_lines_and_its_absence_too() {
        let mut told = json!({
            "key": "order:17", "db": 0, "topic": null, "keyspace": {"prefix": "", "durability": "fsync"}, "slot": 5, "shard": 1, "leader": 2,
            "term": 3, "held_here": true, "remembered": {"commits": 9, "since_ms": 0},
            "commit": {"index": 41, "group": 1, "time_ms": 0, "across_shards": false, "others": 2, "more_commands": 0, "more_keys": 1,
                "commands": [{"name": "SET", "count": 1}, {"name": "DECR", "count": 2}], "keys": [{"name": "order:17"}],
                "partitions": [{"topic": "orders", "partition": 0}], "groups": ["billing"]}
        });
        let lines = summary(&told);
        for part in
            ["index 41 of shard 1", "SET, DECR × 2", "order:17, and 1 more", "orders partition 0", "billing", "2 other"]
        {
            assert!(lines.contains(part), "{part}: {lines}");
        }
        told["commit"] = serde_json::Value::Null;
        assert!(summary(&told).contains("none of the last 9 that this node remembers"));
    }
}

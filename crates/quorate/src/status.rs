//! `quorate status`: asks the admin door of a running node and prints what it says.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use crate::ask::Admin;

/// Prints the node's state; exit code 1 if it is not there or not ready.
pub fn run(address: SocketAddr, is_json: bool, password_file: Option<&Path>) -> Result<ExitCode, String> {
    let door = Admin::new(address, password_file)?;
    let (code, body) = door.ask("GET", "/status", "", &[])?;
    if code == 503 {
        println!("not ready: {}", body.trim());
        return Ok(ExitCode::FAILURE);
    }
    let status: Value = match (code, serde_json::from_str(&body)) {
        (200, Ok(status)) => status,
        _ => return Err(format!("{address} answered {code} and no status: is it the admin door of a quorate?")),
    };
    if is_json {
        println!("{status:#}");
    } else {
        print!("{}", summary(&status));
    }
    let is_ready = door.ask("GET", "/readyz", "", &[]).is_ok_and(|(code, _)| code == 200);
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The state in a few lines.
fn summary(status: &Value) -> String {
    let text = |path: &str| match status.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(other) => other.to_string(),
    };
    let number = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let mib = |path: &str| number(status, path) >> 20;
    let list = |path: &str| status.pointer(path).and_then(Value::as_array).cloned().unwrap_or_default();
    let ready = match status.pointer("/not_ready") {
        Some(Value::String(why)) => format!("not ready: {why}"),
        _ => "ready".into(),
    };
    let mut out = format!("quorate {}, up {} s, {ready}\n", text("/version"), number(status, "/uptime_seconds"));
    let field = |value: &Value, name: &str| match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "-".into(),
    };
    for problem in list("/problems") {
        out.push_str(&format!("  {}: {}\n", field(&problem, "severity"), field(&problem, "what")));
    }
    for door in list("/doors") {
        out.push_str(&format!(
            "  {:<9} {:<21} {} connections, {} commands, {} refused\n",
            field(&door, "name"),
            field(&door, "address"),
            field(&door, "connections"),
            field(&door, "commands_total"),
            field(&door, "refused_total")
        ));
    }
    for group in list("/groups") {
        out.push_str(&format!(
            "  group {:<3} {}, term {}, entry {}, {} keys\n",
            field(&group, "group"),
            field(&group, "role"),
            field(&group, "term"),
            field(&group, "applied"),
            field(&group, "keys")
        ));
    }
    out.push_str(&format!(
        "  log       {} MiB of files, {} commits, {} syncs of {} us on average\n",
        mib("/log/disk_bytes"),
        number(status, "/log/commits_total"),
        number(status, "/log/appends_total"),
        number(status, "/log/append_us_average")
    ));
    out.push_str(&registry(status));
    out.push_str(&format!("  snapshots {} taken\n", number(status, "/snapshots/finished_total")));
    out.push_str(&format!(
        "  memory    {} MiB resident, {} keys\n",
        mib("/memory/resident_bytes"),
        number(status, "/memory/keys")
    ));
    out.push_str(&format!("  data      {}\n", text("/data_dir")));
    out
}

/// Services that are named: those in trouble.
const NAMED_MAX: usize = 5;

/// The registry: how much there is, and what of it is in trouble.
fn registry(status: &Value) -> String {
    let Some(registry) = status.get("registry") else {
        return String::new();
    };
    let number = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let health =
        |value: &Value| ["passing", "warning", "critical"].map(|word| number(value, &format!("/instances/{word}")));
    let [passing, warning, critical] = health(registry);
    let mut out = format!(
        "  registry  {} services, {} instances: {passing} passing, {warning} warning, {critical} critical; last change at index {}\n",
        number(registry, "/services"),
        passing + warning + critical,
        number(registry, "/index"),
    );
    let listed = registry.get("listed").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let in_trouble = listed.iter().filter(|service| health(service)[1..] != [0, 0]);
    for service in in_trouble.take(NAMED_MAX) {
        let [passing, warning, critical] = health(service);
        let name = service.get("name").and_then(Value::as_str).unwrap_or("-");
        // A name is anybody's: nothing in it may steer the terminal.
        out.push_str(&format!(
            "    {}: {passing} passing, {warning} warning, {critical} critical\n",
            name.escape_debug()
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_told_in_a_few_lines_and_missing_fields_do_not_matter() {
        let status = serde_json::json!({"version": "1", "not_ready": "the disk is full", "doors": [{"name": "redis"}]});
        let text = summary(&status);
        assert!(text.starts_with("quorate 1, up 0 s, not ready: the disk is full\n  redis "), "{text}");
    }

    #[test]
    fn services_in_trouble_are_named() {
        let service = |name: &str, passing: u64, critical: u64| serde_json::json!({"name": name, "instances": {"passing": passing, "warning": 0, "critical": critical}});
        let listed = [service("shop\u{1b}[2J", 1, 1), service("web", 2, 0)];
        let health = serde_json::json!({"passing": 3, "warning": 0, "critical": 1});
        let status =
            serde_json::json!({"registry": {"services": 2, "instances": health, "index": 9, "listed": listed}});
        let wanted = "  registry  2 services, 4 instances: 3 passing, 0 warning, 1 critical; last change at index 9\n    \
                      shop\\u{1b}[2J: 1 passing, 0 warning, 1 critical\n";
        assert_eq!(registry(&status), wanted);
    }
}

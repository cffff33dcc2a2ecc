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
    out.push_str(&format!("  snapshots {} taken\n", number(status, "/snapshots/finished_total")));
    out.push_str(&format!(
        "  memory    {} MiB resident, {} keys\n",
        mib("/memory/resident_bytes"),
        number(status, "/memory/keys")
    ));
    out.push_str(&format!("  data      {}\n", text("/data_dir")));
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
}

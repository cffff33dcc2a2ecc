//! `quorate status`: asks the admin door of a running node and prints what it says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use doors::admin::auth;
use serde_json::Value;

use crate::config;

/// How long the node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Prints the node's state; exit code 1 if it is not there or not ready.
pub fn run(address: SocketAddr, is_json: bool, password_file: Option<&Path>) -> Result<ExitCode, String> {
    let password = match password_file {
        Some(path) => Some(config::password_in(path).map_err(|why| format!("{why} (--password-file)"))?),
        None => std::env::var(config::ADMIN_PASSWORD_VARIABLE).ok(),
    };
    let (code, body) = get_with(address, "/status", password.as_deref()).map_err(|why| {
        format!("the node's admin door at {address} cannot be asked: {why}. Start a node with `quorate up`, or say where it is with --admin")
    })?;
    if code == 401 {
        let which = if password.is_some() { "another password than this one" } else { "its password" };
        return Err(format!(
            "the node's admin door at {address} wants {which}: --password-file, or {}",
            config::ADMIN_PASSWORD_VARIABLE
        ));
    }
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
    let is_ready = get(address, "/readyz").is_ok_and(|(code, _)| code == 200);
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A GET of HTTP/1.1: status code and body.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    get_with(address, path, None)
}

fn get_with(address: SocketAddr, path: &str, password: Option<&str>) -> Result<(u16, String), String> {
    let login = password.map_or(String::new(), |password| format!("Authorization: {}\r\n", auth::header(password)));
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{login}Connection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = String::from_utf8(ask().map_err(|error| error.to_string())?).map_err(|_| "it answers no text")?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("it does not speak HTTP")?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("it does not speak HTTP")?;
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((code, if is_chunked { unchunk(body).ok_or("its answer is cut short")? } else { body.to_owned() }))
}

fn unchunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size + 2..)?;
    }
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
    fn chunks_are_joined_and_a_cut_is_noticed() {
        assert_eq!(unchunk("3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n").as_deref(), Some("abcde"));
        assert_eq!(unchunk("5\r\nabc"), None);
        assert_eq!(unchunk(""), None);
    }

    #[test]
    fn a_status_is_told_in_a_few_lines_and_missing_fields_do_not_matter() {
        let status = serde_json::json!({"version": "1", "not_ready": "the disk is full", "doors": [{"name": "redis"}]});
        let text = summary(&status);
        assert!(text.starts_with("quorate 1, up 0 s, not ready: the disk is full\n  redis "), "{text}");
    }
}

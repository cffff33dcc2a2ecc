//! `quorate status`: asks the admin door of a running node and prints what it says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

/// How long the node may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: u64 = 4 << 20;

/// Prints the node's state; exit code 1 if it is not there or not ready.
pub fn run(address: SocketAddr, is_json: bool) -> Result<ExitCode, String> {
    let (code, body) = get(address, "/status").map_err(|why| {
        format!("the node's admin door at {address} cannot be asked: {why}. Start a node with `quorate up`, or say where it is with --admin")
    })?;
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
        let mut lines = Vec::new();
        flatten("", &status, &mut lines);
        let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in lines {
            println!("{name:<width$}  {value}");
        }
    }
    let is_ready = get(address, "/readyz").is_ok_and(|(code, _)| code == 200);
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A GET of HTTP/1.1: status code and body.
pub fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    let ask = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
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

/// One line per value; what is in a list is numbered.
fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| flatten(&inner(key), value, lines)),
        Value::Array(values) => {
            values.iter().enumerate().for_each(|(at, value)| flatten(&inner(&at.to_string()), value, lines));
        }
        Value::Null => lines.push((name.to_owned(), "-".into())),
        Value::String(text) => lines.push((name.to_owned(), text.clone())),
        other => lines.push((name.to_owned(), other.to_string())),
    }
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
    fn a_status_is_lines_for_people() {
        let mut lines = Vec::new();
        flatten("", &serde_json::json!({"log": {"ok": true}, "groups": [{"role": "leader"}]}), &mut lines);
        lines.sort();
        let line = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(lines, [line("groups.0.role", "leader"), line("log.ok", "true")]);
    }
}

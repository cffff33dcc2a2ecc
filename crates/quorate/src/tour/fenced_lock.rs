//! A holder that was paused past the end of its lock writes late: refused, whichever way the lock was taken.

use std::path::Path;
use std::time::{Duration, Instant};

use doors::resp::client::Value;
use serde_json::json;

use super::live_registry::consul;
use super::{Connection, Server};
use crate::ask;

/// How long a lock is taken for.
const LEASE_MS: &str = "300";
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(directory: &Path) -> Result<(), String> {
    let data = directory.join("data");
    let mut server = Server::start(&data, &[], &[])?;
    let (mut first, mut second) = (server.connect()?, server.connect()?);
    first.must(&[b"SET", b"{d}balance", b"100"])?;

    println!("A lock of Redis clients (Q.LOCK), a lease of {LEASE_MS} ms:");
    let early = lock(&mut first, "first")?.ok_or("nobody held the lock, and it was not given")?;
    println!("  the first one holds it: number {early}. It reads 100, and is paused.");
    if lock(&mut second, "second")?.is_some() {
        return Err("two hold one lock".into());
    }
    let began = Instant::now();
    let late = loop {
        if let Some(number) = lock(&mut second, "second")? {
            break number;
        }
        if began.elapsed() > PATIENCE {
            return Err("the lease does not end".into());
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    println!("  its lease ends; the second one holds the lock: number {late}. It writes 90.");
    if late <= early {
        return Err(format!("{late} came after {early}"));
    }
    write(&mut second, "{d}fence", late, "90")?.map_err(|error| format!("the holder was refused: {error}"))?;
    refuses(&mut first, "{d}fence", early)?;

    println!("A lock over Consul's API, a session each:");
    let session = |server: &Server| {
        let made = consul(server, "PUT", "/v1/session/create", Some(&json!({"LockDelay": 0})))?;
        made["ID"].as_str().map(str::to_owned).ok_or(format!("a session was answered {made}"))
    };
    let (one, other) = (session(&server)?, session(&server)?);
    let early = acquire(&server, &one)?.ok_or("nobody held the key, and it was not given")?;
    if acquire(&server, &other)?.is_some() {
        return Err("two hold one key".into());
    }
    println!("  the first one holds it: number {early}. Its session ends while it is paused.");
    consul(&server, "PUT", &format!("/v1/session/destroy/{one}"), None)?;
    let late = acquire(&server, &other)?.ok_or("the session has ended, and its key is held")?;
    second.must(&[b"Q.FENCE", b"{d}consul", late.to_string().as_bytes()])?;
    println!("  the second one holds the key: number {late}.");
    refuses(&mut first, "{d}consul", early)?;

    println!("The node is killed (kill -9) and started again:");
    server.kill();
    drop(server);
    let server = Server::start(&data, &[], &[])?;
    refuses(&mut server.connect()?, "{d}consul", early)?;
    match server.connect()?.must(&[b"GET", b"{d}balance"])? {
        Value::Bulk(text) if text == b"90" => Ok(()),
        other => Err(format!("the balance is {other:?}, not 90: a late write happened")),
    }
}

/// The lock's number, if it was free.
fn lock(connection: &mut Connection, owner: &str) -> Result<Option<i64>, String> {
    match connection.must(&[b"Q.LOCK", b"{d}lock", b"{d}fence", owner.as_bytes(), LEASE_MS.as_bytes()])? {
        Value::Int(number) => Ok(Some(number)),
        _ => Ok(None),
    }
}

/// The number that holding the key yields, if it was free.
fn acquire(server: &Server, session: &str) -> Result<Option<i64>, String> {
    if consul(server, "PUT", &format!("/v1/kv/door?acquire={session}"), None)? != json!(true) {
        return Ok(None);
    }
    let (_, said) = ask::request(server.consul, "GET", "/v1/kv/door", None, "application/json", &[])?;
    let key: serde_json::Value = serde_json::from_str(&said).map_err(|error| format!("{error}: {said}"))?;
    key[0]["Fence"].as_i64().map(Some).ok_or(format!("no number: {said}"))
}

/// A write that shows its number: an error's text, if it was refused.
fn write(connection: &mut Connection, fence: &str, number: i64, value: &str) -> Result<Result<(), String>, String> {
    connection.must(&[b"MULTI"])?;
    connection.must(&[b"Q.FENCE", fence.as_bytes(), number.to_string().as_bytes()])?;
    connection.must(&[b"SET", b"{d}balance", value.as_bytes()])?;
    match connection.ask(&[b"EXEC"]).map_err(|error| format!("EXEC was not answered: {error}"))? {
        Value::Error(text) => Ok(Err(String::from_utf8_lossy(&text).into_owned())),
        _ => Ok(Ok(())),
    }
}

fn refuses(connection: &mut Connection, fence: &str, number: i64) -> Result<(), String> {
    match write(connection, fence, number, "70")? {
        Err(error) if error.starts_with("FENCED") => {
            println!("  the first one wakes up and writes 70: {error}");
            Ok(())
        }
        Err(error) => Err(format!("the late write was refused for another reason: {error}")),
        Ok(()) => Err(format!("the late write with number {number} happened")),
    }
}

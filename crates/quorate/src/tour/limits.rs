//! One unreasonable client after the other, each answered; memory and the others' service looked at after each.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use doors::resp::client::Value;

use super::{Connection, PATIENCE, Server};

/// The node's limits here: small, so that they are hit fast.
const FLAGS: [&str; 9] = [
    "--set=limits.bulk_bytes_max=1MiB",
    "--set=limits.command_bytes_max=2MiB",
    "--set=limits.args_max=1000",
    "--set=limits.pipeline_depth_max=100",
    "--set=limits.output_bytes_max=4MiB",
    "--set=limits.multi_commands_max=100",
    "--set=limits.connections_max=50",
    "--set=limits.script_instructions_max=1000000",
    "--set=limits.scripts_max=10",
];
/// How much the node may grow by while it is mistreated, bytes.
const GROWTH_MAX: u64 = 64 << 20;

type Case = (&'static str, fn(&Server) -> Result<String, String>);

const CASES: [Case; 10] = [
    ("a value of 2 MiB where 1 MiB is the limit", bulk),
    ("a command that claims 100,000 words (limit 1,000)", args),
    ("a line of 200,000 bytes without an end", inline),
    ("50,000 commands sent without reading (limit 100)", pipeline),
    ("a client that asks for 200 MiB and never reads", silent),
    ("a subscriber that never reads 64 MiB of messages (limit 4 MiB)", subscriber),
    ("200 commands in one MULTI (limit 100)", multi),
    ("a script that never ends", script),
    ("200 connections at once (limit 50)", connections),
    ("a browser that posts to the Redis door", browser),
];

pub fn run(directory: &Path) -> Result<(), String> {
    let server = Server::start(&directory.join("data"), &FLAGS, &[])?;
    let mut other = server.connect()?;
    let begun = server.peak_bytes();
    let mut most = begun;
    for (number, (what, case)) in CASES.iter().enumerate() {
        let answer = case(&server).map_err(|why| format!("{what}: {why}"))?;
        println!("  {what}\n      {answer}");
        let value = format!("{number}");
        other
            .must(&[b"SET", b"other", value.as_bytes()])
            .map_err(|why| format!("another client after {what}: {why}"))?;
        most = most.max(server.peak_bytes());
        if most.saturating_sub(begun) > GROWTH_MAX {
            return Err(format!("memory grew from {} to {} MiB with {what}", begun >> 20, most >> 20));
        }
    }
    println!(
        "Another client was served after each. The node's memory: {} MiB before, {} MiB at most.",
        begun >> 20,
        most >> 20
    );
    Ok(())
}

/// The error that a client gets, and whether it is closed behind it.
fn error(connection: &mut Connection, wanted: &str) -> Result<String, String> {
    let text = match connection.read() {
        Ok(Value::Error(text)) => String::from_utf8_lossy(&text).into_owned(),
        Ok(other) => return Err(format!("answered {other:?}")),
        Err(error) => return Err(format!("not answered: {error}")),
    };
    if text.contains(wanted) { Ok(text) } else { Err(format!("answered {text:?}, not {wanted:?}")) }
}

fn closed(connection: &mut Connection) -> Result<(), String> {
    match connection.read() {
        Err(error) if is_end(&error) => Ok(()),
        other => Err(format!("the connection stays open: {other:?}")),
    }
}

fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn broken(error: io::Error) -> String {
    format!("the connection broke: {error}")
}

fn bulk(server: &Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    // The length alone is enough; the value need not even be sent.
    connection.write(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2097152\r\n").map_err(broken)?;
    let text = error(&mut connection, "invalid bulk length")?;
    closed(&mut connection)?;
    Ok(format!("-{text}, and closed"))
}

fn args(server: &Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    connection.write(b"*100000\r\n").map_err(broken)?;
    let text = error(&mut connection, "invalid multibulk length")?;
    closed(&mut connection)?;
    Ok(format!("-{text}, and closed"))
}

fn inline(server: &Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    match connection.write(&[b'x'; 200_000]) {
        Err(error) if !is_end(&error) => return Err(broken(error)),
        // It may be closed before all is sent.
        _ => {}
    }
    match error(&mut connection, "too big inline request") {
        Ok(text) => Ok(format!("-{text}, and closed")),
        Err(why) if why.contains("reset") => Ok("closed".into()),
        Err(why) => Err(why),
    }
}

fn pipeline(server: &Server) -> Result<String, String> {
    const COMMANDS: usize = 50_000;
    let mut connection = server.connect()?;
    let mut writing = connection.0.get_ref().try_clone().map_err(broken)?;
    let writer = std::thread::spawn(move || -> io::Result<()> {
        let commands = b"*2\r\n$4\r\nINCR\r\n$8\r\npipeline\r\n".repeat(100);
        (0..COMMANDS / 100).try_for_each(|_| writing.write_all(&commands))
    });
    for wanted in 1..=COMMANDS as i64 {
        let value = connection.read().map_err(broken)?;
        if value != Value::Int(wanted) {
            return Err(format!("command {wanted} was answered {value:?}"));
        }
    }
    writer.join().map_err(|_| "the writer failed")?.map_err(broken)?;
    Ok("all answered, in order; what was above the limit was held back by TCP meanwhile".into())
}

fn silent(server: &Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    let value = vec![b'v'; 512 << 10];
    connection.must(&[b"SET", b"large", &value])?;
    let deadline = Instant::now() + PATIENCE;
    for sent in 1..=400 {
        if let Err(error) = connection.send(&[b"GET", b"large"]) {
            return if is_end(&error) { Ok(format!("closed after {sent} questions")) } else { Err(broken(error)) };
        }
    }
    // What the kernel buffered can be read, then it must end, well before all 200 MiB.
    let mut answers = 0;
    while Instant::now() < deadline {
        match connection.read() {
            Ok(_) => answers += 1,
            Err(error) if is_end(&error) && answers < 400 => {
                return Ok(format!("closed: {answers} of 400 answers had gone out, no more were kept for it"));
            }
            Err(error) => return Err(broken(error)),
        }
        if answers == 400 {
            return Ok("no more of its questions were taken until it read; then all were answered".into());
        }
    }
    Err("neither closed nor answered".into())
}

fn subscriber(server: &Server) -> Result<String, String> {
    const MESSAGES: usize = 1024;
    let mut connection = server.connect()?;
    connection.must(&[b"SUBSCRIBE", b"flood"])?;
    let mut publisher = server.connect()?;
    let message = vec![b'm'; 64 << 10];
    let mut heard = 0;
    for _ in 0..MESSAGES {
        if publisher.must(&[b"PUBLISH", b"flood", &message])? == Value::Int(1) {
            heard += 1;
        }
    }
    if heard == MESSAGES {
        return Err("all messages were kept for it".into());
    }
    loop {
        match connection.read() {
            Ok(_) => {}
            Err(error) if is_end(&error) => break,
            Err(error) => return Err(broken(error)),
        }
    }
    Ok(format!("closed after {heard} of {MESSAGES} messages; the publisher did not wait for it"))
}

fn multi(server: &Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    connection.must(&[b"MULTI"])?;
    let mut refusal = None;
    for _ in 0..200 {
        if let Value::Error(text) = connection.ask(&[b"INCR", b"multi"]).map_err(broken)? {
            refusal.get_or_insert(String::from_utf8_lossy(&text).into_owned());
        }
    }
    let refusal = refusal.ok_or("all were taken")?;
    match connection.ask(&[b"EXEC"]).map_err(broken)? {
        Value::Error(text) if text.starts_with(b"EXECABORT") => {
            Ok(format!("-{refusal}; EXEC: -EXECABORT, nothing was done"))
        }
        other => Err(format!("EXEC was answered {other:?}")),
    }
}

fn script(server: &Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    connection.send(&[b"EVAL", b"while true do end", b"0"]).map_err(broken)?;
    error(&mut connection, "instructions").map(|text| format!("-{text}"))
}

fn connections(server: &Server) -> Result<String, String> {
    let mut open = Vec::new();
    let (mut served, mut refused, mut text) = (0, 0, String::new());
    for _ in 0..200 {
        let mut connection = server.connect()?;
        match connection.ask(&[b"PING"]) {
            Ok(Value::Simple(_)) => served += 1,
            Ok(Value::Error(error)) => {
                refused += 1;
                text = String::from_utf8_lossy(&error).into_owned();
            }
            Err(error) if is_end(&error) => refused += 1,
            other => return Err(format!("PING was answered {other:?}")),
        }
        open.push(connection);
    }
    if served > 50 || served == 0 {
        return Err(format!("{served} were served"));
    }
    drop(open);
    // Once they have left there is room again.
    let deadline = Instant::now() + PATIENCE;
    while !matches!(server.connect()?.ask(&[b"PING"]), Ok(Value::Simple(_))) {
        if Instant::now() > deadline {
            return Err("nobody is let in after they have left".into());
        }
    }
    Ok(format!("{served} served beside the one that watches, {refused} refused: -{text}"))
}

fn browser(server: &Server) -> Result<String, String> {
    let mut connection = server.connect()?;
    let request = b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 19\r\n\r\nSET browser was-here";
    connection.write(request).map_err(broken)?;
    closed(&mut connection)?;
    match server.connect()?.must(&[b"GET", b"browser"])? {
        Value::Null => Ok("closed without an answer, nothing of it was run".into()),
        other => Err(format!("its command was run: {other:?}")),
    }
}

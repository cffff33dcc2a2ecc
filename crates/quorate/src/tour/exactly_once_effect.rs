//! A consumer that adds up payments and is killed again and again: with its progress told after the effect, before it, and in one commit with it.

use std::io;
use std::path::Path;

use base::Rng;
use doors::resp::client::Value;

use super::stream::Doors;
use super::{Connection, Server, grouped};

const TOPIC: &str = "payments";
const STREAM: &[u8] = b"topic:payments";
/// Payments, and consumers that die before the last one is left alone.
const PAYMENTS: u64 = 600;
const DEATHS: usize = 40;
/// A consumer that dies does so within so many commands.
const LIFE: u64 = 60;

/// When a consumer says that it is done with a payment.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    After,
    Before,
    Together,
}

pub fn run(directory: &Path) -> Result<(), String> {
    let data = directory.join("data");
    let mut server = Server::start(&data, &[], &[])?;
    Doors::new(vec![server.kafka]).create(TOPIC, 1, 1)?;
    let mut connection = server.connect()?;
    for payment in 1..=PAYMENTS {
        connection.must(&[b"XADD", STREAM, b"*", b"V", payment.to_string().as_bytes()])?;
    }
    let exact = PAYMENTS * (PAYMENTS + 1) / 2;
    println!(
        "A topic holds {} payments; a consumer adds them up in a row. It is killed {DEATHS} times, at any of its steps, and so is the node\n\
         once. Its successor goes on with what was not acknowledged. The sum should be {}.",
        grouped(PAYMENTS),
        grouped(exact)
    );
    let mut rng = Rng::new(host::clock::seed());
    let ways = [
        (Told::After, "effect", "the effect, then XACK"),
        (Told::Before, "word", "XACK, then the effect"),
        (Told::Together, "both", "MULTI: the effect and Q.XACK"),
    ];
    let mut sums = Vec::new();
    for (told, group, name) in ways {
        connection = server.connect()?;
        connection.must(&[b"XGROUP", b"CREATE", STREAM, group.as_bytes(), b"0"])?;
        for death in 0..DEATHS {
            let mut life = 1 + rng.below(LIFE);
            let mut consumer = server.connect()?;
            match consume(&mut consumer, told, group, &mut life) {
                Ok(()) => {}
                Err(error) if error.kind() == DEAD => {}
                Err(error) => return Err(format!("{name}: {error}")),
            }
            if death == DEATHS / 2 {
                server.kill();
                server = Server::start(&data, &[], &[])?;
            }
        }
        let mut life = u64::MAX;
        connection = server.connect()?;
        consume(&mut connection, told, group, &mut life).map_err(|error| format!("{name}: {error}"))?;
        let sum = match connection.must(&[b"GET", group.as_bytes()])? {
            Value::Bulk(text) => String::from_utf8_lossy(&text).parse::<u64>().map_err(|error| error.to_string())?,
            other => return Err(format!("the sum is {other:?}")),
        };
        let off = sum as i64 - exact as i64;
        let how = match off {
            0 => "exact".to_owned(),
            off if off > 0 => format!("{} too much: paid twice", grouped(off as u64)),
            off => format!("{} missing: never paid", grouped(off.unsigned_abs())),
        };
        println!("  {name:<30} {:>8}  {how}", grouped(sum));
        sums.push(off);
    }
    match sums[..] {
        [after, before, 0] if after > 0 && before < 0 => Ok(()),
        [_, _, 0] => {
            Err("nothing was lost or done twice without a commit: what was done to the consumer has shown nothing"
                .into())
        }
        _ => Err("the sum of the one commit is not exact".into()),
    }
}

/// What a killed consumer's next command comes to.
const DEAD: io::ErrorKind = io::ErrorKind::Interrupted;

/// Asks, if it is still alive.
fn ask(connection: &mut Connection, life: &mut u64, words: &[&[u8]]) -> io::Result<Value> {
    if *life == 0 {
        return Err(DEAD.into());
    }
    *life -= 1;
    if *life == 0 {
        // Its last words may arrive; it does not hear the answer.
        connection.send(words)?;
        return Err(DEAD.into());
    }
    match connection.ask(words)? {
        Value::Error(text) => Err(io::Error::other(String::from_utf8_lossy(&text).into_owned())),
        value => Ok(value),
    }
}

/// Takes what was left behind, then what is new, until nothing is.
fn consume(connection: &mut Connection, told: Told, group: &str, life: &mut u64) -> io::Result<()> {
    let group = group.as_bytes();
    let mut from: &[u8] = b"0";
    loop {
        let words: [&[u8]; 9] = [b"XREADGROUP", b"GROUP", group, b"c", b"COUNT", b"5", b"STREAMS", STREAM, from];
        let entries = entries(&ask(connection, life, &words)?);
        if entries.is_empty() {
            if from == b">" {
                return Ok(());
            }
            from = b">";
            continue;
        }
        for (id, payment) in entries {
            let effect: [&[u8]; 3] = [b"INCRBY", group, &payment];
            let done: [&[u8]; 4] = [b"XACK", STREAM, group, &id];
            match told {
                Told::After => {
                    ask(connection, life, &effect)?;
                    ask(connection, life, &done)?;
                }
                Told::Before => {
                    ask(connection, life, &done)?;
                    ask(connection, life, &effect)?;
                }
                Told::Together => {
                    ask(connection, life, &[b"MULTI"])?;
                    ask(connection, life, &effect)?;
                    ask(connection, life, &[b"Q.XACK", STREAM, group, b"c", &id])?;
                    match ask(connection, life, &[b"EXEC"]) {
                        // The last words of the one before came late, and have done it: nothing was done now.
                        Err(error) if error.to_string().contains("FENCED") => {}
                        done => drop(done?),
                    }
                }
            }
        }
    }
}

/// Ids and values of what XREADGROUP has answered of one stream.
fn entries(answer: &Value) -> Vec<(Vec<u8>, Vec<u8>)> {
    let list = |value: &Value, at: usize| match value {
        Value::Array(items) => items.get(at).cloned(),
        _ => None,
    };
    let Some(Value::Array(entries)) = list(answer, 0).and_then(|stream| list(&stream, 1)) else { return Vec::new() };
    let entry = |entry: &Value| match (list(entry, 0)?, list(&list(entry, 1)?, 1)?) {
        (Value::Bulk(id), Value::Bulk(value)) => Some((id, value)),
        _ => None,
    };
    entries.iter().filter_map(entry).collect()
}

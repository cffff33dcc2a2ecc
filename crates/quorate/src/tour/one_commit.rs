//! A MULTI of a SET and an XADD, killed at every step of its way.

use std::path::Path;
use std::time::{Duration, Instant};

use base::Rng;
use doors::resp::client::Value;

use super::{Connection, Server};

/// Kills per step.
const ROUNDS: usize = 6;
/// Every sync of the disk is slowed down by this, so that there is time to be killed in.
const SYNC_DELAY_US: u64 = 3_000;

/// Where the node is killed, and after how long at most.
const STEPS: [(&str, Step); 6] = [
    ("after MULTI", Step::Sent(1)),
    ("after SET was queued", Step::Sent(2)),
    ("after XADD was queued", Step::Sent(3)),
    ("as EXEC is sent", Step::Exec(0)),
    ("while EXEC is logged and synced", Step::Exec(2 * SYNC_DELAY_US)),
    ("once EXEC was answered", Step::Answered),
];

#[derive(Clone, Copy)]
enum Step {
    /// So many of the commands before EXEC were sent and answered.
    Sent(usize),
    /// EXEC was sent, and then up to so many microseconds passed.
    Exec(u64),
    /// EXEC was answered.
    Answered,
}

pub fn run(directory: &Path) -> Result<(), String> {
    let data = directory.join("data");
    let delay = SYNC_DELAY_US.to_string();
    let start = || Server::start(&data, &[], &[("QUORATE_SYNC_DELAY_US", &delay)]);
    let mut rng = Rng::new(host::clock::seed());
    let mut server = start()?;
    let mut connection = server.connect()?;

    let before = position(&mut connection)?;
    transact(&mut connection, 1, STEPS[5].1, &mut rng).map_err(|error| format!("the transaction broke: {error}"))?;
    let entries = position(&mut connection)? - before;
    println!("MULTI, SET order, XADD orders, EXEC: the log grew by {entries} entry.");
    if entries != 1 {
        return Err(format!("one transaction made {entries} entries"));
    }

    println!("Now the node is killed (kill -9) at each step of such a transaction, {ROUNDS} times each:");
    let (mut last, mut kills) = (1u64, 0);
    for (name, step) in STEPS {
        let (mut both, mut neither) = (0, 0);
        for _ in 0..ROUNDS {
            let number = last + 1;
            let answered = transact(&mut connection, number, step, &mut rng)
                .map_err(|error| format!("the transaction broke before its time: {error}"))?;
            server.kill();
            kills += 1;
            server = start()?;
            connection = server.connect()?;
            let order = order(&mut connection)?;
            let newest = newest(&mut connection)?;
            if order != newest {
                return Err(format!("half a transaction: order is {order}, the stream ends with {newest} ({name})"));
            }
            match order {
                found if found == number => both += 1,
                found if found == last && !answered => neither += 1,
                found => {
                    return Err(format!("transaction {number} (answered: {answered}) left {found} behind ({name})"));
                }
            }
            let may_be_there = matches!(step, Step::Exec(_) | Step::Answered);
            if order == number && !may_be_there {
                return Err(format!("the transaction happened without EXEC ({name})"));
            }
            last = order;
        }
        println!("  {name:<33} both {both}, neither {neither}, half 0");
    }
    println!("{kills} kills, {last} transactions in the log, never a half.");
    Ok(())
}

/// Sends the transaction as far as the step says. True if EXEC was answered.
fn transact(connection: &mut Connection, number: u64, step: Step, rng: &mut Rng) -> std::io::Result<bool> {
    let (value, id) = (number.to_string(), format!("{number}-0"));
    let commands: [&[&[u8]]; 3] = [
        &[b"MULTI"],
        &[b"SET", b"order", value.as_bytes()],
        &[b"XADD", b"orders", id.as_bytes(), b"order", value.as_bytes()],
    ];
    let count = if let Step::Sent(count) = step { count } else { commands.len() };
    for command in &commands[..count] {
        refused(connection.ask(command)?)?;
    }
    match step {
        Step::Sent(_) => Ok(false),
        Step::Exec(most) => {
            connection.send(&[b"EXEC"])?;
            let until = Instant::now() + Duration::from_micros(if most == 0 { 0 } else { rng.below(most) });
            // Shorter than a thread sleeps.
            while Instant::now() < until {
                std::hint::spin_loop();
            }
            Ok(false)
        }
        Step::Answered => match connection.ask(&[b"EXEC"])? {
            Value::Array(answers) => answers.into_iter().try_for_each(refused).map(|()| true),
            other => refused(other).map(|()| false),
        },
    }
}

fn refused(value: Value) -> std::io::Result<()> {
    match value {
        Value::Error(text) => Err(std::io::Error::other(String::from_utf8_lossy(&text).into_owned())),
        _ => Ok(()),
    }
}

fn order(connection: &mut Connection) -> Result<u64, String> {
    match connection.must(&[b"GET", b"order"])? {
        Value::Bulk(text) => number(&text),
        other => Err(format!("order holds {other:?}")),
    }
}

fn newest(connection: &mut Connection) -> Result<u64, String> {
    let answer = connection.must(&[b"XREVRANGE", b"orders", b"+", b"-", b"COUNT", b"1"])?;
    let Value::Array(entries) = &answer else { return Err(format!("orders holds {answer:?}")) };
    match entries.first() {
        Some(Value::Array(entry)) => match entry.first() {
            Some(Value::Bulk(id)) => number(id.split(|byte| *byte == b'-').next().unwrap_or_default()),
            _ => Err(format!("orders holds {answer:?}")),
        },
        _ => Err("orders is empty".into()),
    }
}

/// How far the log has come, as INFO tells it.
fn position(connection: &mut Connection) -> Result<u64, String> {
    let info = match connection.must(&[b"INFO", b"replication"])? {
        Value::Bulk(text) | Value::Verbatim(text) => String::from_utf8_lossy(&text).into_owned(),
        other => return Err(format!("INFO was answered {other:?}")),
    };
    let line = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
    number(line.ok_or("INFO does not tell the log's position")?.as_bytes())
}

fn number(text: &[u8]) -> Result<u64, String> {
    let text = String::from_utf8_lossy(text);
    text.trim().parse().map_err(|_| format!("{text:?} is no number"))
}

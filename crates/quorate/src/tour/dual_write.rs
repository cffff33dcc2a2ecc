//! A shop writes each order into a database and tells of it in a queue, and is killed again and again: with two systems, in either order of
//! writing, and with one commit.

use std::collections::BTreeSet;
use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base::Rng;
use doors::resp::client::Value;

use super::stream::Doors;
use super::{Connection, PATIENCE, Server, grouped};

const ORDERS: u64 = 600;
/// A shop lives for so many commands at most; then its successor goes on with the next order.
const LIFE: u64 = 40;
const TOPIC: &str = "orders";
const STREAM: &[u8] = b"topic:orders";

/// In which order the two writes are made.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    RowFirst,
    MessageFirst,
    Together,
}

/// One of two systems, each of which keeps what it has answered.
enum Peer {
    Redis { child: Child, port: u16 },
    Own(Server),
}

impl Peer {
    /// A `redis-server` that syncs each write, where one is installed; else a node of ours.
    fn start(directory: &Path) -> Result<Peer, String> {
        let redis = || {
            std::fs::create_dir_all(directory).ok()?;
            let port = TcpListener::bind("127.0.0.1:0").and_then(|own| own.local_addr()).ok()?.port();
            let port_word = port.to_string();
            let child = Command::new("redis-server")
                .args(["--bind", "127.0.0.1", "--port", &port_word, "--daemonize", "no", "--save", ""])
                .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
                .arg(directory)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            Some(Peer::Redis { child, port })
        };
        let Some(mut peer) = redis() else {
            return Server::start(directory, &[], &[]).map(Peer::Own);
        };
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if peer.connect().is_ok_and(|mut connection| connection.must(&[b"PING"]).is_ok()) {
                return Ok(peer);
            }
            if let Peer::Redis { child, .. } = &mut peer
                && !matches!(child.try_wait(), Ok(None))
            {
                return Server::start(directory, &[], &[]).map(Peer::Own);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("redis-server did not start within {PATIENCE:?}"))
    }

    fn connect(&self) -> Result<Connection, String> {
        match self {
            Peer::Redis { port, .. } => {
                let address = ([127, 0, 0, 1], *port).into();
                Connection::open(address).map_err(|error| format!("redis-server cannot be reached: {error}"))
            }
            Peer::Own(server) => server.connect(),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Peer::Redis { .. } => "redis-server with appendfsync always",
            Peer::Own(_) => "quorate, a node for each",
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Peer::Redis { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn run(directory: &Path) -> Result<(), String> {
    let (database, queue) = (Peer::start(&directory.join("database"))?, Peer::start(&directory.join("queue"))?);
    println!(
        "A shop writes {} orders: each a row in a database, and a message in a queue that others work by. It is killed at any of its steps,\n\
         and its successor goes on with the next order. First with two systems ({}), each of which keeps what it has answered.",
        grouped(ORDERS),
        database.name()
    );
    let mut rng = Rng::new(host::clock::seed());
    let mut wrong = Vec::new();
    for (way, prefix, name) in
        [(Way::RowFirst, "r", "the row, then the message"), (Way::MessageFirst, "m", "the message, then the row")]
    {
        let stream = format!("orders-{prefix}");
        let deaths = sell(&mut rng, || Ok((database.connect()?, queue.connect()?)), way, prefix, stream.as_bytes())?;
        let count = count(&mut database.connect()?, &mut queue.connect()?, prefix, stream.as_bytes())?;
        println!("  {name:<30} killed {deaths:>2} times: {}", count.words());
        wrong.push(count);
    }
    drop((database, queue));
    let data = directory.join("data");
    let mut server = Server::start(&data, &[], &[])?;
    Doors::new(vec![server.kafka]).create(TOPIC, 1, 1)?;
    println!("Then with one commit: MULTI, SET, XADD, EXEC at one node, which is killed once, too.");
    let mut deaths = 0;
    for half in ["c", "d"] {
        deaths += sell(&mut rng, || Ok((server.connect()?, server.connect()?)), Way::Together, half, STREAM)?;
        server.kill();
        server = Server::start(&data, &[], &[])?;
    }
    let mut together = Count::default();
    for half in ["c", "d"] {
        let own = count(&mut server.connect()?, &mut server.connect()?, half, STREAM)?;
        together.silent += own.silent;
        together.hollow += own.hollow;
    }
    println!("  {:<30} killed {deaths:>2} times: {}", "both in one commit", together.words());
    match (&wrong[..], together) {
        (_, Count { silent: 1.., .. } | Count { hollow: 1.., .. }) => Err("the one commit has left a half".into()),
        ([Count { silent: 1.., hollow: 0 }, Count { silent: 0, hollow: 1.. }], _) => Ok(()),
        _ => Err("two systems have not come apart: what was done to the shop has shown nothing".into()),
    }
}

/// Orders that are half there.
#[derive(Default)]
struct Count {
    /// Rows that nobody was told of.
    silent: usize,
    /// Messages of an order that is not there.
    hollow: usize,
}

impl Count {
    fn words(&self) -> String {
        match (self.silent, self.hollow) {
            (0, 0) => "every row has its message, every message its row".into(),
            (silent, 0) => format!("{silent} orders that nobody was told of: paid, and never sent"),
            (0, hollow) => format!("{hollow} messages of orders that are not there: sent, and never paid"),
            (silent, hollow) => format!("{silent} orders without a message, {hollow} messages without an order"),
        }
    }
}

/// Sells all orders, one shop after the other. Gives back how many died.
fn sell(
    rng: &mut Rng,
    connect: impl Fn() -> Result<(Connection, Connection), String>,
    way: Way,
    prefix: &str,
    stream: &[u8],
) -> Result<usize, String> {
    let (mut next, mut deaths) = (0, 0);
    while next < ORDERS {
        let (mut database, mut queue) = connect()?;
        let mut life = 1 + rng.below(LIFE);
        while next < ORDERS {
            let number = format!("{prefix}{next}");
            next += 1;
            match order(&mut database, &mut queue, &mut life, way, &number, stream) {
                Ok(()) => {}
                Err(error) if error.kind() == DEAD => {
                    deaths += 1;
                    break;
                }
                Err(error) => return Err(format!("order {number}: {error}")),
            }
        }
    }
    Ok(deaths)
}

/// What a killed shop's next command comes to.
const DEAD: io::ErrorKind = io::ErrorKind::Interrupted;

/// Asks, if it is still alive. A command that it dies of is not sent: what was sent may arrive, which the other tours show.
fn ask(connection: &mut Connection, life: &mut u64, words: &[&[u8]]) -> io::Result<()> {
    if *life == 0 {
        return Err(DEAD.into());
    }
    *life -= 1;
    match connection.ask(words)? {
        Value::Error(text) => Err(io::Error::other(String::from_utf8_lossy(&text).into_owned())),
        _ => Ok(()),
    }
}

fn order(
    database: &mut Connection,
    queue: &mut Connection,
    life: &mut u64,
    way: Way,
    number: &str,
    stream: &[u8],
) -> io::Result<()> {
    let row: [&[u8]; 3] = [b"SET", number.as_bytes(), b"3 apples"];
    let message: [&[u8]; 5] = [b"XADD", stream, b"*", b"V", number.as_bytes()];
    match way {
        Way::RowFirst => {
            ask(database, life, &row)?;
            ask(queue, life, &message)
        }
        Way::MessageFirst => {
            ask(queue, life, &message)?;
            ask(database, life, &row)
        }
        Way::Together => {
            ask(database, life, &[b"MULTI"])?;
            ask(database, life, &row)?;
            ask(database, life, &message)?;
            ask(database, life, &[b"EXEC"])
        }
    }
}

fn count(database: &mut Connection, queue: &mut Connection, prefix: &str, stream: &[u8]) -> Result<Count, String> {
    let mut told = BTreeSet::new();
    if let Value::Array(entries) = queue.must(&[b"XRANGE", stream, b"-", b"+", b"COUNT", b"10000"])? {
        for entry in entries {
            let Value::Array(parts) = entry else { continue };
            let Some(Value::Array(fields)) = parts.get(1) else { continue };
            if let Some(Value::Bulk(number)) = fields.get(1) {
                told.insert(String::from_utf8_lossy(number).into_owned());
            }
        }
    }
    let mut count = Count::default();
    for nth in 0..ORDERS {
        let number = format!("{prefix}{nth}");
        let is_there = database.must(&[b"EXISTS", number.as_bytes()])? == Value::Int(1);
        match (is_there, told.contains(&number)) {
            (true, false) => count.silent += 1,
            (false, true) => count.hollow += 1,
            _ => {}
        }
    }
    Ok(count)
}

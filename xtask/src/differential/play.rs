//! Plays steps against two servers at once and says where they first differ.

use super::compare::same;
use super::generate::{CONNECTIONS, Step};
use crate::resp::{Conn, Value, show_command};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// A reply that takes longer is a difference by itself.
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a blocking command may take to be seen waiting.
const BLOCKED_TIMEOUT: Duration = Duration::from_millis(300);

/// A bug planted between us and the server on the right, to prove that the comparison sees it.
#[derive(Clone, Copy, Debug)]
pub struct Plant {
    /// What `--plant` calls it.
    pub name: &'static str,
    /// Rewrites the commands that the right server is sent.
    pub rewrite: fn(&mut Vec<Vec<u8>>),
}

/// Where the two differed.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// The step's place in the list that was played.
    pub at: usize,
    /// The command.
    pub command: Vec<Vec<u8>>,
    /// What the left server said.
    pub left: String,
    /// What the right server said.
    pub right: String,
    /// Whether the right server just does not know the command.
    pub missing: bool,
}

impl Mismatch {
    /// The same for two failures of probably one cause.
    pub fn signature(&self) -> String {
        let name = String::from_utf8_lossy(&self.command[0]).to_ascii_uppercase();
        // The first word of an error, or the first letter of another reply: its kind.
        let kind = |reply: &str| {
            if reply.starts_with('-') {
                reply.split(' ').take(4).collect::<Vec<_>>().join(" ")
            } else {
                reply.chars().next().unwrap_or(' ').to_string()
            }
        };
        format!("{name} {} {}", kind(&self.left), kind(&self.right))
    }
}

/// How often a command was answered, and by which errors.
#[derive(Default)]
pub struct Tally {
    /// All replies.
    pub replies: usize,
    /// The errors among them, by the beginning of their text.
    pub errors: BTreeMap<String, usize>,
}

/// The two servers and how to talk to them.
pub struct Arena {
    /// `host:port` of the server that is right by definition.
    pub left: String,
    /// `host:port` of the server on trial.
    pub right: String,
    /// A password for each, if it wants one.
    pub password: Option<String>,
    /// A planted bug.
    pub plant: Option<Plant>,
    /// For each command how often it was answered, and how often by an error: a stream of nothing but errors proves little.
    pub tally: RefCell<BTreeMap<String, Tally>>,
}

/// One connection to each of the two.
struct Pair {
    left: Conn,
    right: Conn,
    /// The commands queued since MULTI.
    queued: Vec<Vec<Vec<u8>>>,
    in_multi: bool,
}

/// A played step: fine, or the command and the two replies that differ.
type Played = io::Result<Option<(Vec<Vec<u8>>, Value, Value)>>;

fn words(text: &str) -> Vec<Vec<u8>> {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// A reply, or the failure to get one made into a value that can be compared and shown.
fn reply(conn: &mut Conn) -> Value {
    match conn.read() {
        Ok(value) => value,
        Err(error) => Value::Simple(format!("(no reply: {error})").into_bytes()),
    }
}

impl Arena {
    fn open(&self, resp3: bool) -> io::Result<Pair> {
        let mut pair = Pair {
            left: Conn::open(&self.left, REPLY_TIMEOUT)?,
            right: Conn::open(&self.right, REPLY_TIMEOUT)?,
            queued: Vec::new(),
            in_multi: false,
        };
        for conn in [&mut pair.left, &mut pair.right] {
            if let Some(password) = &self.password {
                conn.call(&["AUTH", password])?;
            }
            if resp3 {
                conn.text("HELLO 3")?;
            }
        }
        Ok(pair)
    }

    fn send(&self, pair: &mut Pair, args: &[Vec<u8>]) -> io::Result<()> {
        // A server that hung up shows when its reply is read.
        let _ = pair.left.send(args);
        let mut args = args.to_vec();
        if let Some(plant) = self.plant {
            (plant.rewrite)(&mut args);
        }
        let _ = pair.right.send(&args);
        Ok(())
    }

    /// Plays `steps` on emptied servers. `protocols` says by its bits which connections speak RESP3.
    pub fn play(&self, steps: &[Step], protocols: u64) -> Result<Option<Mismatch>, String> {
        self.try_play(steps, protocols).map_err(|error| format!("{} or {}: {error}", self.left, self.right))
    }

    fn try_play(&self, steps: &[Step], protocols: u64) -> io::Result<Option<Mismatch>> {
        let mut control = self.open(false)?;
        for command in ["FLUSHALL", "SCRIPT FLUSH", "FUNCTION FLUSH"] {
            control.left.text(command)?;
            control.right.text(command)?;
        }
        let mut pairs = Vec::new();
        for at in 0..CONNECTIONS {
            pairs.push(self.open(protocols >> at & 1 == 1)?);
        }
        for (at, step) in steps.iter().enumerate() {
            let played = match step {
                Step::Call { conn, args } => self.call(&mut pairs[*conn], args),
                Step::Block { conn, args, feeder, feed } => {
                    self.block(&mut control, &mut pairs, (*conn, args), (*feeder, feed))
                }
                Step::PubSub { subscribe, publish } => {
                    self.pubsub(&mut control, protocols >> CONNECTIONS & 1 == 1, subscribe, publish)
                }
            };
            if let Some((command, left, right)) = played? {
                let unknown = |value: &Value| matches!(value, Value::Error(text) if text.starts_with(b"ERR unknown command") || text.starts_with(b"ERR unknown subcommand"));
                let missing = unknown(&right) && !unknown(&left);
                let cut = |value: Value| {
                    let mut text = value.to_string();
                    if let Some((end, _)) = text.char_indices().nth(2000) {
                        text.truncate(end);
                    }
                    text
                };
                return Ok(Some(Mismatch { at, command, left: cut(left), right: cut(right), missing }));
            }
        }
        Ok(None)
    }

    fn call(&self, pair: &mut Pair, args: &[Vec<u8>]) -> Played {
        let name = args[0].to_ascii_uppercase();
        if name == b"DBSIZE" {
            if pair.in_multi {
                return Ok(None);
            }
            // A key set with an expiry in the past is counted until somebody looks at it; SCAN does, where KEYS only passes over it.
            self.send(pair, &words("SCAN 0 COUNT 1000000"))?;
            for conn in [&mut pair.left, &mut pair.right] {
                reply(conn);
            }
        }
        self.send(pair, args)?;
        let (left, right) = (reply(&mut pair.left), reply(&mut pair.right));
        let mut tally = self.tally.borrow_mut();
        let counts = tally.entry(String::from_utf8_lossy(&name).into_owned()).or_default();
        counts.replies += 1;
        if let Some(error) = left.error() {
            *counts.errors.entry(error.chars().take(50).collect()).or_default() += 1;
        }
        drop(tally);
        let scan = matches!(&name[..], b"SCAN" | b"HSCAN" | b"SSCAN" | b"ZSCAN");
        let equal = if scan && cursor(&left).is_some() && cursor(&right).is_some() {
            let (left, right) = (self.scan(&mut pair.left, args, left)?, self.scan(&mut pair.right, args, right)?);
            return Ok((left != right).then(|| (args.to_vec(), left, right)));
        } else if name == b"EXEC" {
            let queued = std::mem::take(&mut pair.queued);
            // The cursors and orders within a transaction are taken as they are only when they agree.
            let left = settle(&queued, &left);
            let right = settle(&queued, &right);
            same(args, &queued, &left, &right)
        } else {
            same(args, &[], &left, &right)
        };
        if !equal {
            return Ok(Some((args.to_vec(), left, right)));
        }
        match (&name[..], &left) {
            (b"MULTI", Value::Simple(_)) => {
                pair.in_multi = true;
                pair.queued.clear();
            }
            (b"EXEC" | b"DISCARD", _) if args.len() == 1 => {
                pair.in_multi = false;
                pair.queued.clear();
            }
            (_, Value::Simple(text)) if text == b"QUEUED" => pair.queued.push(args.to_vec()),
            _ => {}
        }
        Ok(None)
    }

    /// Follows the cursor to the end and gives back everything found, sorted, without doubles.
    fn scan(&self, conn: &mut Conn, args: &[Vec<u8>], first: Value) -> io::Result<Value> {
        let place = if args[0].eq_ignore_ascii_case(b"SCAN") { 1 } else { 2 };
        let pairs = matches!(args[0].to_ascii_uppercase()[0], b'H' | b'Z');
        let mut found = Vec::new();
        let mut page = first;
        for _ in 0..100_000 {
            let Some((next, items)) = cursor(&page) else {
                return Ok(page);
            };
            if pairs {
                found.extend(items.chunks(2).map(|pair| {
                    let mut pair = pair.to_vec();
                    if let [_, Value::Bulk(score)] = &mut pair[..]
                        && let Some(number) = std::str::from_utf8(score).ok().and_then(|text| text.parse::<f64>().ok())
                    {
                        *score = format!("{:?}", number + 0.0).into_bytes();
                    }
                    Value::Array(pair)
                }));
            } else {
                found.extend(items.iter().cloned());
            }
            if next == b"0" {
                found.sort();
                found.dedup();
                return Ok(Value::Array(found));
            }
            let mut again = args.to_vec();
            again[place] = next;
            page = conn.call(&again)?;
        }
        Ok(Value::Simple(b"(a scan without end)".to_vec()))
    }

    /// Sends what blocks, waits until it does (or has answered), sends what may feed it, then wants its reply.
    fn block(
        &self,
        control: &mut Pair,
        pairs: &mut [Pair],
        (conn, args): (usize, &[Vec<u8>]),
        (feeder, feed): (usize, &[Vec<u8>]),
    ) -> Played {
        let nonblocking = pairs[conn].in_multi;
        if !nonblocking {
            self.send(&mut pairs[conn], args)?;
            for side in [&mut control.left, &mut control.right] {
                let start = Instant::now();
                while start.elapsed() < BLOCKED_TIMEOUT {
                    let info = side.text("INFO clients")?.text().unwrap_or_default();
                    if !info.contains("blocked_clients:0") {
                        break;
                    }
                    // Answered at once or about to be seen: another look costs one turn.
                    std::thread::yield_now();
                    if start.elapsed() > Duration::from_millis(20) {
                        break;
                    }
                }
            }
            let fed = self.call(&mut pairs[feeder], feed)?;
            let pair = &mut pairs[conn];
            let (left, right) = (reply(&mut pair.left), reply(&mut pair.right));
            if fed.is_some() {
                return Ok(fed);
            }
            if !same(args, &[], &left, &right) {
                return Ok(Some((args.to_vec(), left, right)));
            }
            return Ok(None);
        }
        match self.call(&mut pairs[conn], args)? {
            Some(differs) => Ok(Some(differs)),
            None => self.call(&mut pairs[feeder], feed),
        }
    }

    /// A subscriber hears what others publish; a PING behind it all shows that nothing more is coming.
    fn pubsub(&self, control: &mut Pair, resp3: bool, subscribe: &[Vec<Vec<u8>>], publish: &[Vec<Vec<u8>>]) -> Played {
        let mut listener = self.open(resp3)?;
        for args in subscribe {
            self.send(&mut listener, args)?;
            let replies = match &args[0][..] {
                b"PING" => 1,
                word if word.ends_with(b"UNSUBSCRIBE") && args.len() == 1 => 0,
                _ => args.len() - 1,
            };
            // A reply may be one for each channel left: the PING below collects what is unknown here.
            for _ in 0..replies {
                let (left, right) = (reply(&mut listener.left), reply(&mut listener.right));
                if !same(args, &[], &left, &right) {
                    return Ok(Some((args.clone(), left, right)));
                }
            }
            if replies == 0
                && let Some(differs) = self.barrier(&mut listener, args, true)?
            {
                return Ok(Some(differs));
            }
        }
        for args in publish {
            if let Some(differs) = self.call(control, args)? {
                return Ok(Some(differs));
            }
        }
        let heard = self.barrier(&mut listener, &words("(what the subscriber heard)"), false)?;
        // When a server sees that a connection is gone is its own affair: it stops listening while it is there.
        self.send(&mut listener, &words("RESET"))?;
        for conn in [&mut listener.left, &mut listener.right] {
            reply(conn);
        }
        Ok(heard)
    }

    fn barrier(&self, listener: &mut Pair, args: &[Vec<u8>], unordered: bool) -> Played {
        self.send(listener, &words("PING barrier"))?;
        let hear = |conn: &mut Conn| {
            let mut heard = Vec::new();
            loop {
                let value = reply(conn);
                let last = match &value {
                    Value::Bulk(text) => text == b"barrier",
                    Value::Array(items) | Value::Push(items) => {
                        items.last().and_then(Value::bytes) == Some(b"barrier") && items.len() == 2
                    }
                    Value::Simple(_) => true,
                    _ => false,
                };
                heard.push(value);
                if last || heard.len() > 1000 {
                    break;
                }
            }
            // Which of a subscriber's patterns hears one message first is not promised.
            let same_message = |a: &Value, b: &Value| match (a.items(), b.items()) {
                (Some(a), Some(b)) => a.len() == 4 && b.len() == 4 && a[2..] == b[2..],
                _ => false,
            };
            heard.chunk_by_mut(same_message).for_each(<[Value]>::sort);
            if unordered {
                // Which of several channels is left first is not promised, nor therefore the counts on the way.
                for value in &mut heard {
                    if let Value::Array(items) | Value::Push(items) = value
                        && items.len() == 3
                    {
                        items.truncate(2);
                    }
                }
                heard.sort();
            }
            Value::Array(heard)
        };
        let (left, right) = (hear(&mut listener.left), hear(&mut listener.right));
        Ok((left != right).then(|| (args.to_vec(), left, right)))
    }
}

/// The cursor and the items of a reply of the SCAN family.
fn cursor(value: &Value) -> Option<(Vec<u8>, Vec<Value>)> {
    match value {
        Value::Array(parts) if parts.len() == 2 => match (&parts[0], &parts[1]) {
            (Value::Bulk(next), Value::Array(items)) => Some((next.clone(), items.clone())),
            _ => None,
        },
        _ => None,
    }
}

/// An EXEC's reply with the parts blanked that depend on cursors.
fn settle(queued: &[Vec<Vec<u8>>], value: &Value) -> Value {
    let Value::Array(items) = value else {
        return value.clone();
    };
    let settled = items.iter().enumerate().map(|(at, item)| {
        let scan = queued.get(at).is_some_and(|args| args[0].to_ascii_uppercase().ends_with(b"SCAN"));
        if scan && cursor(item).is_some() { Value::Simple(b"(a page)".to_vec()) } else { item.clone() }
    });
    Value::Array(settled.collect())
}

/// A step as a line that a person can follow.
pub fn show_step(step: &Step) -> String {
    match step {
        Step::Call { conn, args } => format!("{conn}> {}", show_command(args)),
        Step::Block { conn, args, feeder, feed } => {
            format!("{conn}> {}   (waits)\n    {feeder}> {}", show_command(args), show_command(feed))
        }
        Step::PubSub { subscribe, publish } => {
            let lines: Vec<_> = subscribe
                .iter()
                .map(|args| format!("subscriber> {}", show_command(args)))
                .chain(publish.iter().map(|args| format!("other> {}", show_command(args))))
                .collect();
            lines.join("\n    ")
        }
    }
}

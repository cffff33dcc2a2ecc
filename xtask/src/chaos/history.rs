//! What was written, what of it was acknowledged, and whether it is all there.
//!
//! Every object is written by one writer, with the numbers 0, 1, 2 … in order. So all that must be remembered of an object is how many writes
//! were sent and how many were acknowledged; and what must be found is exactly the first `n` numbers, where acknowledged <= n <= sent. More
//! would be a write out of nothing, fewer a loss, a gap or a doubled number a broken order. Of a transaction's two keys either both have
//! a write or neither.

use crate::resp::{Conn, Value};
use crate::rng::Rng;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// How far a fault has come, for the writers to know what an answer means.
#[derive(Default)]
pub struct Stage(AtomicU8);

impl Stage {
    /// The fault begins: what is answered from here on need not be there afterwards, though it may.
    pub fn begins(&self) {
        self.0.store(1, Ordering::SeqCst);
    }

    /// The fault is complete: whatever is sent from here on must not be acknowledged at all.
    pub fn complete(&self) {
        self.0.store(2, Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.store(3, Ordering::SeqCst);
    }

    fn now(&self) -> u8 {
        self.0.load(Ordering::SeqCst)
    }
}

/// What kind of write an object sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SET of a new key each time.
    Set,
    /// INCR of one counter.
    Incr,
    /// RPUSH to one list.
    Push,
    /// XADD to one stream.
    Add,
    /// MULTI of a SET and an XADD.
    Multi,
}

const KINDS: [Kind; 5] = [Kind::Set, Kind::Incr, Kind::Push, Kind::Add, Kind::Multi];

/// One object and its history.
#[derive(Clone, Debug)]
pub struct Object {
    kind: Kind,
    name: String,
    sent: u64,
    acknowledged: u64,
}

/// Bytes behind each number, so that records span pages.
fn value(name: &str, number: u64) -> String {
    let pad = (number % 7 * 60) as usize;
    format!("{number}:{name}:{}", "x".repeat(pad))
}

fn parse(bytes: &[u8]) -> Option<u64> {
    std::str::from_utf8(bytes).ok()?.split(':').next()?.parse().ok()
}

impl Object {
    /// An object of writer `writer` in round `round`.
    pub fn new(round: usize, writer: usize) -> Object {
        let kind = KINDS[writer % KINDS.len()];
        // The braces keep a transaction's two keys in one slot.
        Object { kind, name: format!("{{r{round}w{writer}}}"), sent: 0, acknowledged: 0 }
    }

    /// How many of its writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    fn commands(&self, number: u64) -> Vec<Vec<String>> {
        let name = &self.name;
        let value = value(name, number);
        let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        match self.kind {
            Kind::Set => vec![words(&["SET", &format!("{name}:{number}"), &value])],
            Kind::Incr => vec![words(&["INCR", name])],
            Kind::Push => vec![words(&["RPUSH", name, &value])],
            Kind::Add => vec![words(&["XADD", name, "*", "v", &value])],
            Kind::Multi => vec![
                words(&["MULTI"]),
                words(&["SET", &format!("{name}:last"), &value]),
                words(&["XADD", &format!("{name}:all"), "*", "v", &value]),
                words(&["EXEC"]),
            ],
        }
    }

    /// Whether `reply` acknowledges write `number`; what it means if it does not.
    fn acknowledges(&self, number: u64, reply: &Value) -> Result<(), String> {
        let fine = match (self.kind, reply) {
            (Kind::Set, Value::Simple(text)) => text == b"OK",
            (Kind::Incr | Kind::Push, Value::Int(count)) => *count as u64 == number + 1,
            (Kind::Add, Value::Bulk(_)) => true,
            (Kind::Multi, Value::Array(replies)) => {
                matches!(&replies[..], [Value::Simple(ok), Value::Bulk(_)] if ok == b"OK")
            }
            _ => false,
        };
        if fine { Ok(()) } else { Err(format!("{:?} {} write {number} was answered {reply}", self.kind, self.name)) }
    }

    /// Writes until told to stop or until the connection breaks. An error reply ends it and is handed back.
    pub fn write(&mut self, addr: &str, rng: &mut Rng, stage: &Stage) -> Result<(), String> {
        let Ok(mut conn) = Conn::open(addr, Duration::from_secs(30)) else {
            return Ok(());
        };
        while stage.now() != 3 {
            let depth = if rng.percent(50) { 1 } else { 1 + rng.below(24) as u64 };
            let mut bytes = Vec::new();
            let first = self.acknowledged;
            for number in first..first + depth {
                for command in self.commands(number) {
                    crate::resp::encode(&mut bytes, &command);
                }
            }
            self.sent = first + depth;
            let sent_at = stage.now();
            if conn.send_raw(&bytes).is_err() {
                return Ok(());
            }
            for number in first..first + depth {
                // Of a transaction the last of four replies counts.
                let replies = if self.kind == Kind::Multi { 4 } else { 1 };
                let mut last = Value::Null;
                for _ in 0..replies {
                    match conn.read() {
                        Ok(reply) => last = reply,
                        Err(_) => return Ok(()),
                    }
                }
                self.acknowledges(number, &last)?;
                if sent_at == 2 {
                    return Err(format!("ACKNOWLEDGED WITHOUT A DISK: {:?} {} write {number}", self.kind, self.name));
                }
                if !matches!(stage.now(), 0 | 3) {
                    return Ok(());
                }
                self.acknowledged = number + 1;
            }
        }
        Ok(())
    }

    /// One write, alone: acknowledged or an error.
    pub fn write_one(&mut self, conn: &mut Conn) -> Result<(), String> {
        let number = self.acknowledged;
        self.sent = number + 1;
        let mut last = Value::Null;
        for command in self.commands(number) {
            last = conn.call(&command).map_err(|error| format!("{:?} {}: {error}", self.kind, self.name))?;
        }
        self.acknowledges(number, &last)?;
        self.acknowledged = self.sent;
        Ok(())
    }

    /// Reads it back. Then what was found becomes what must be found from now on: what a reader saw may not vanish either.
    pub fn check(&mut self, conn: &mut Conn) -> Result<(), String> {
        let found = self.found(conn)?;
        if found < self.acknowledged {
            return Err(format!(
                "LOST: {:?} {}: {} writes acknowledged, {found} found",
                self.kind, self.name, self.acknowledged
            ));
        }
        if found > self.sent {
            return Err(format!(
                "OUT OF NOTHING: {:?} {}: {} writes sent, {found} found",
                self.kind, self.name, self.sent
            ));
        }
        self.acknowledged = found;
        self.sent = found;
        Ok(())
    }

    /// How many writes are there, if they are the first ones, whole and in order.
    pub fn found(&self, conn: &mut Conn) -> Result<u64, String> {
        let name = &self.name;
        let mut call = |words: &[&str]| conn.call(words).map_err(|error| format!("{words:?}: {error}"));
        let number = |reply: Value| match reply {
            Value::Bulk(text) => std::str::from_utf8(&text)
                .ok()
                .and_then(|text| text.parse().ok())
                .ok_or_else(|| format!("{name} holds {text:?}")),
            Value::NullBulk => Ok(0),
            other => Err(format!("GET {name} was answered {other}")),
        };
        match self.kind {
            Kind::Incr => number(call(&["GET", name])?),
            Kind::Push => self.in_order(&call(&["LRANGE", name, "0", "-1"])?, |item| item.bytes().map(<[u8]>::to_vec)),
            Kind::Add => self.in_order(&call(&["XRANGE", name, "-", "+"])?, stream_value),
            Kind::Multi => {
                let found = self.in_order(&call(&["XRANGE", &format!("{name}:all"), "-", "+"])?, stream_value)?;
                let last = match call(&["GET", &format!("{name}:last")])? {
                    Value::Bulk(text) => parse(&text).map_or(0, |last| last + 1),
                    _ => 0,
                };
                if last == found {
                    Ok(found)
                } else {
                    Err(format!("HALF A TRANSACTION: {name}: the string says {last}, the stream {found}"))
                }
            }
            Kind::Set => {
                let mut found = 0;
                let mut ended = false;
                let numbers: Vec<u64> = (0..self.sent).collect();
                for chunk in numbers.chunks(500) {
                    let mut words = vec!["MGET".to_owned()];
                    words.extend(chunk.iter().map(|number| format!("{name}:{number}")));
                    let words: Vec<&str> = words.iter().map(String::as_str).collect();
                    let reply = call(&words)?;
                    let items = reply.items().ok_or_else(|| format!("MGET was answered {reply}"))?;
                    for (number, item) in chunk.iter().zip(items) {
                        match item {
                            Value::NullBulk => ended = true,
                            // Later ones of one pipeline without an earlier one: an order that was never given.
                            _ if ended => return Err(format!("A GAP: {name}:{number} is there, one before it is not")),
                            Value::Bulk(text) if *text == value(name, *number).into_bytes() => found += 1,
                            other => return Err(format!("WRONG DATA: {name}:{number} is {other}")),
                        }
                    }
                }
                Ok(found)
            }
        }
    }

    fn in_order(&self, reply: &Value, text: impl Fn(&Value) -> Option<Vec<u8>>) -> Result<u64, String> {
        let items =
            reply.items().ok_or_else(|| format!("{:?} {}: reading was answered {reply}", self.kind, self.name))?;
        for (number, item) in items.iter().enumerate() {
            let wanted = value(&self.name, number as u64);
            if text(item).as_deref() != Some(wanted.as_bytes()) {
                return Err(format!("WRONG DATA: {:?} {}: at {number} stands {item}", self.kind, self.name));
            }
        }
        Ok(items.len() as u64)
    }
}

fn stream_value(entry: &Value) -> Option<Vec<u8>> {
    entry.items()?.get(1)?.items()?.get(1)?.bytes().map(<[u8]>::to_vec)
}

/// Writers at work on their objects, each a thread of its own, while `during` runs; it ends them by its return (or by breaking the server),
/// and says how far a fault has come where answers may outlive it.
pub fn load(addr: &str, objects: &mut [Object], rng: &mut Rng, during: impl FnOnce(&Stage)) -> Result<(), String> {
    let stage = Stage::default();
    let ends: Vec<Result<(), String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = objects
            .iter_mut()
            .map(|object| {
                let mut rng = Rng::new(rng.next());
                let stage = &stage;
                scope.spawn(move || object.write(addr, &mut rng, stage))
            })
            .collect();
        during(&stage);
        stage.end();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a writer panicked".into()))).collect()
    });
    ends.into_iter().collect()
}

/// All objects are checked; the first that fails is told.
pub fn check_all<'a>(conn: &mut Conn, objects: impl IntoIterator<Item = &'a mut Object>) -> Result<u64, String> {
    let mut writes = 0;
    for object in objects {
        object.check(conn)?;
        writes += object.acknowledged;
    }
    Ok(writes)
}

//! Clients: what each has asked, what it must be answered, and what may have happened where no answer came.
//!
//! A client keeps to one shard and one database. On its own keys every answer is predicted. On keys shared by all clients
//! of the shard it plays games whose rules hold whatever the order: a MULTI of three parts that always agree, a counter, a
//! number that is raised under WATCH only, a queue from which every item comes at most once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use base::{GroupId, Instant, Rng};
use shard::command;
use shard::entry::{MultiBuilder, Unblock, Watch};
use shard::live::Shard;
use shard::pending::Place;
use shard::reply::{Protocol, Reply};
use shard::state::Call;

use crate::model::{Answer, KINDS, Model, Own, key, show, stream_values};
use crate::node::{self, Answers};
use crate::oracle::{Outcome, Sent, Words, is_refusal};

/// What a request was.
#[derive(Clone, Debug)]
enum Op {
    Own(Own),
    /// MULTI of SET, XADD and INCR.
    Triple(Vec<u8>),
    /// Reads the three; how many were acknowledged when it was sent.
    TripleRead(u64),
    Count,
    CountRead(u64),
    /// Writes the number read plus one, if nobody else did.
    Raise,
    Push(Vec<u8>),
    Pop,
    /// Checked against the replica only: keys that expire, and the like.
    Loose,
}

#[derive(Clone, Debug)]
struct Request {
    id: u64,
    op: Op,
    logged: bool,
}

#[derive(Debug)]
struct Client {
    id: u64,
    shard: usize,
    db: u8,
    /// Which [`Shared`].
    shared: usize,
    model: Model,
    outstanding: VecDeque<Request>,
    /// Own writes of which nobody knows whether they happened.
    limbo: Vec<Own>,
    waiter: Option<u64>,
    /// The watched number, its version, and what it was.
    watched: Option<(Watch, u64)>,
}

/// Databases that are played in.
const DBS: [u8; 2] = [0, 9];
/// One that is emptied now and then.
const SPARE_DB: u8 = 5;

/// What is known of the keys that the clients of one shard and database share.
#[derive(Debug, Default)]
struct Shared {
    shard: usize,
    db: u8,
    triples: BTreeSet<Vec<u8>>,
    triples_sent: u64,
    count: u64,
    count_sent: u64,
    raised: u64,
    raised_sent: u64,
    pushed: BTreeSet<Vec<u8>>,
    pushed_sent: BTreeSet<Vec<u8>>,
    popped: BTreeSet<Vec<u8>>,
    pops_unknown: usize,
}

/// A wait that was served, and with what.
pub type Served = (u64, Vec<u8>);

/// Figures of what clients did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Requests sent.
    pub requests: u64,
    /// Answered with an effect or a value.
    pub answered: u64,
    /// Refused: a full disk, a stopped log.
    pub refused: u64,
    /// Of unknown outcome.
    pub unknown: u64,
}

/// All clients.
#[derive(Debug)]
pub struct Clients {
    clients: Vec<Client>,
    shared: Vec<Shared>,
    next: u64,
    /// See [`Figures`].
    pub figures: Figures,
    /// A checksum over everything that was answered.
    pub digest: u64,
}

fn name(db: u8, what: &str) -> Vec<u8> {
    format!("{what}:{db}").into_bytes()
}

fn mix(sum: u64, bytes: &[u8]) -> u64 {
    // FNV-1a: enough to tell two runs apart.
    bytes.iter().fold(sum ^ 0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

/// The shards and the time, as a client's request meets them.
pub struct Door<'a> {
    /// Meta first.
    pub shards: &'a [std::sync::Arc<Shard<u64>>],
    /// Monotonic time.
    pub now: Instant,
}

impl Clients {
    /// So many clients, spread over so many shards.
    pub fn new(count: usize, shards: usize) -> Clients {
        let client = |id: usize| Client {
            id: id as u64,
            shard: id % shards,
            db: DBS[id / shards % 2],
            shared: id % (shards * 2),
            model: Model::default(),
            outstanding: VecDeque::new(),
            limbo: Vec::new(),
            waiter: None,
            watched: None,
        };
        Clients {
            clients: (0..count).map(client).collect(),
            shared: (0..shards * 2)
                .map(|at| Shared { shard: at % shards, db: DBS[at / shards], ..Shared::default() })
                .collect(),
            next: 0,
            figures: Figures::default(),
            digest: 0,
        }
    }

    /// Whether an answer is due that no other client's doing must bring about.
    pub fn is_waiting(&self) -> bool {
        self.clients.iter().any(|client| !client.outstanding.is_empty() && client.waiter.is_none())
    }

    /// One client does something. Returns the logged requests that it sent, for the oracle, and whether to wake the driver.
    pub fn play(&mut self, rng: &mut Rng, door: &Door<'_>) -> Result<(Vec<(GroupId, Sent)>, bool), String> {
        let at = rng.index(self.clients.len());
        let mut sent = Vec::new();
        let mut wake = false;
        if let Some(waiter) = self.clients[at].waiter {
            if rng.chance(1, 12) {
                // The client goes away, or is told to stop waiting.
                let how = if rng.chance(1, 2) { Unblock::Gone } else { Unblock::Error };
                let shard = &door.shards[self.clients[at].shard + 1];
                wake |= shard::driver::end_wait(shard, waiter, how, &mut Answers::default());
            }
            return Ok((sent, wake));
        }
        for _ in 0..=rng.index(4) {
            if self.clients[at].outstanding.len() > 8
                || self.clients[at].outstanding.iter().any(|r| matches!(r.op, Op::Pop))
            {
                break;
            }
            wake |= self.ask(at, rng, door, &mut sent)?;
        }
        Ok((sent, wake))
    }

    fn ask(
        &mut self,
        at: usize,
        rng: &mut Rng,
        door: &Door<'_>,
        sent: &mut Vec<(GroupId, Sent)>,
    ) -> Result<bool, String> {
        let client = &mut self.clients[at];
        let shared = &mut self.shared[client.shared];
        let id = self.next;
        self.next += 1;
        let mut db = client.db;
        // Unique, and now and then long.
        let mut value = format!("v{id}").into_bytes();
        if rng.chance(1, 12) {
            value.resize(20 + rng.index(900), b'.');
        }
        let word = |text: &str| text.as_bytes().to_vec();
        let field = format!("f{}", rng.below(5)).into_bytes();
        let plain = |op: Op, words: Words| (op, vec![words], Vec::new(), false);
        let (op, parts, watches, multi): (Op, Vec<Words>, Vec<Watch>, bool) = match rng.below(40) {
            0..22 => {
                let own = match rng.below(50) {
                    0..4 => Own::Set(value),
                    4..8 => Own::Get,
                    8..11 => Own::Append(value),
                    11 | 12 => Own::DelText,
                    13..17 => Own::Incr,
                    17 | 18 => Own::GetCount,
                    19..23 => Own::RPush(value),
                    23..26 => Own::LPop,
                    26..29 => Own::LRange,
                    29..33 => Own::HSet(field, value),
                    33 | 34 => Own::HGet(field),
                    35..39 => Own::ZAdd(field, id as i64),
                    39 | 40 => Own::ZScore(field),
                    41..45 => Own::XAdd(value),
                    45..48 => Own::XLen,
                    48 => Own::DelAll,
                    _ => Own::Eval(value),
                };
                let words = own.words(client.id);
                plain(Op::Own(own), words)
            }
            22..26 => {
                shared.triples_sent += 1;
                let set = vec![word("SET"), name(db, "m:s"), value.clone()];
                let add = vec![word("XADD"), name(db, "m:x"), word("*"), word("v"), value.clone()];
                let count = vec![word("INCR"), name(db, "m:n")];
                (Op::Triple(value), vec![set, add, count], Vec::new(), true)
            }
            26..29 => {
                let get = vec![word("GET"), name(db, "m:s")];
                let length = vec![word("XLEN"), name(db, "m:x")];
                let count = vec![word("GET"), name(db, "m:n")];
                (Op::TripleRead(shared.triples.len() as u64), vec![get, length, count], Vec::new(), true)
            }
            29 | 30 => {
                shared.count_sent += 1;
                plain(Op::Count, vec![word("INCR"), name(db, "g")])
            }
            31 => plain(Op::CountRead(shared.count), vec![word("GET"), name(db, "g")]),
            32..34 => match client.watched.take() {
                Some((watch, number)) => {
                    shared.raised_sent += 1;
                    let set = vec![word("SET"), name(db, "w"), (number + 1).to_string().into_bytes()];
                    (Op::Raise, vec![set], vec![watch], true)
                }
                None if client.outstanding.is_empty() => {
                    let key = name(db, "w");
                    let shard = &door.shards[client.shard + 1];
                    let version = shard.state().version(db, &key, shard.now(door.now));
                    let number = read(shard, db, door.now, &[b"GET", &key])?.number()?;
                    if number < shared.raised || number > shared.raised_sent {
                        return Err(format!(
                            "the watched number is {number}; {} raises were acknowledged, {} sent",
                            shared.raised, shared.raised_sent
                        ));
                    }
                    client.watched = Some((Watch { db, key, version }, number));
                    return Ok(false);
                }
                None => return Ok(false),
            },
            34 | 35 => {
                shared.pushed_sent.insert(value.clone());
                plain(Op::Push(value.clone()), vec![word("RPUSH"), name(db, "q"), value])
            }
            36 => {
                let patience = ["0", "0", "0.05", "1"][rng.index(4)];
                plain(Op::Pop, vec![word("BLPOP"), name(db, "q"), word(patience)])
            }
            37 => plain(
                Op::Loose,
                vec![
                    word("SET"),
                    name(db, &format!("e{}", rng.below(6))),
                    value,
                    word("PX"),
                    word(&(1 + rng.below(400)).to_string()),
                ],
            ),
            38 => plain(
                Op::Loose,
                vec![word("PEXPIRE"), name(db, &format!("e{}", rng.below(6))), word(&(1 + rng.below(400)).to_string())],
            ),
            _ => {
                let key = name(db, &format!("e{}", rng.below(6)));
                let words = match rng.below(12) {
                    0..4 => vec![word("GET"), key],
                    4 | 5 => vec![word("SADD"), name(db, "set"), value],
                    6 => vec![word("SPOP"), name(db, "set")],
                    7 => {
                        let script = word("return redis.call('SET',KEYS[1],math.random(1000000))");
                        vec![word("EVAL"), script, word("1"), name(db, "r")]
                    }
                    8 => vec![word("SCRIPT"), word("LOAD"), format!("return {}", rng.below(9)).into_bytes()],
                    // What is in another database may go at any time; it ends a snapshot that is being taken.
                    9 => {
                        db = SPARE_DB;
                        vec![word("FLUSHDB")]
                    }
                    _ => {
                        db = SPARE_DB;
                        vec![word("SET"), name(db, &format!("s{}", rng.below(30))), value]
                    }
                };
                plain(Op::Loose, words)
            }
        };
        self.send(at, id, op, db, &parts, &watches, multi, door, sent)
    }

    #[allow(clippy::too_many_arguments)]
    fn send(
        &mut self,
        at: usize,
        id: u64,
        op: Op,
        db: u8,
        parts: &[Words],
        watches: &[Watch],
        multi: bool,
        door: &Door<'_>,
        sent: &mut Vec<(GroupId, Sent)>,
    ) -> Result<bool, String> {
        self.figures.requests += 1;
        let client = &mut self.clients[at];
        let number = client.id;
        let shard = &door.shards[client.shard + 1];
        let specs: Vec<_> = parts.iter().map(|words| command::find(&words[0])).collect();
        let spec = |at: usize| specs[at].ok_or("a command that does not exist");
        let mut writes = false;
        let mut frees = true;
        for part in 0..parts.len() {
            writes |= spec(part)?.is_write();
            frees &= spec(part)?.flags.has(command::Flags::FREES) || !spec(part)?.is_write();
        }
        let words: Vec<&[u8]> = parts[0].iter().map(Vec::as_slice).collect();
        if !writes && client.outstanding.is_empty() && !multi {
            let answer = read_bytes(shard, db, door.now, &words)?;
            return self.answered(at, op, &answer).map(|()| false);
        }
        if writes && let Some(error) = shard.refusal(frees) {
            if frees && shard.current_refusal() == Some(shard::live::Refusal::Full) {
                return Err("what frees is refused on a full disk".into());
            }
            if client.outstanding.is_empty() {
                let line = format!("-{}\r\n", error.0);
                return self.answered(at, op, line.as_bytes()).map(|()| false);
            }
            self.unsend(at, &op);
            return Ok(false);
        }
        let place = if writes { Place::Logged } else { Place::Local };
        let submitted = shard.submit(|batch| {
            if multi {
                let mut builder = MultiBuilder::default();
                for words in parts {
                    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                    builder.command(db, &words);
                }
                batch.multi(place, frees, number, Protocol::Resp2, &builder, watches);
            } else {
                batch.command(place, frees, number, db, Protocol::Resp2, &words);
            }
        });
        match submitted {
            Ok(wake) => {
                client.outstanding.push_back(Request { id, op, logged: writes });
                if writes {
                    sent.push((shard.group, Sent { request: id, words: parts.concat() }));
                }
                Ok(wake)
            }
            Err(_) => {
                self.unsend(at, &op);
                Ok(false)
            }
        }
    }

    /// Answers of one step. Returns how the logged requests among them ended, and what waits were served.
    pub fn take(&mut self, answers: &[node::Answer]) -> Result<(BTreeMap<u64, Outcome>, Vec<Served>), String> {
        let mut outcomes = BTreeMap::new();
        let mut served = Vec::new();
        for answer in answers {
            match answer {
                node::Answer::Reply(client, bytes) => {
                    let at = *client as usize;
                    let request = self.clients[at].outstanding.pop_front();
                    let Request { id, op, logged } =
                        request.ok_or_else(|| format!("client {client} was answered {} unasked", show(bytes)))?;
                    if logged {
                        outcomes.insert(id, Outcome::Reply(bytes.clone()));
                    }
                    self.answered(at, op, bytes)?;
                }
                node::Answer::Parked(client, waiter) => {
                    let client = &mut self.clients[*client as usize];
                    let front = client.outstanding.front().ok_or("a client waits that asked nothing")?;
                    if !matches!(front.op, Op::Pop) {
                        return Err(format!("client {} was parked with {:?}", client.id, front.op));
                    }
                    outcomes.insert(front.id, Outcome::Parked(*waiter));
                    client.waiter = Some(*waiter);
                }
                node::Answer::Served(waiter, bytes) => {
                    served.push((*waiter, bytes.clone()));
                    if let Some(at) = self.clients.iter().position(|client| client.waiter == Some(*waiter)) {
                        self.clients[at].waiter = None;
                        let request = self.clients[at].outstanding.pop_front().ok_or("a wait of nobody")?;
                        if !bytes.is_empty() && !bytes.starts_with(b"-UNBLOCKED") {
                            self.answered(at, request.op, bytes)?;
                        }
                    }
                }
                node::Answer::Abandoned(_) => {}
                node::Answer::Lost(client) => {
                    let at = *client as usize;
                    let request = self.clients[at].outstanding.pop_front().ok_or("nothing of a client was lost")?;
                    self.lose(at, request);
                }
            }
        }
        Ok((outcomes, served))
    }

    fn lose(&mut self, at: usize, request: Request) {
        if !request.logged {
            return;
        }
        self.figures.unknown += 1;
        match request.op {
            Op::Own(own) => self.clients[at].limbo.push(own),
            Op::Pop => self.shared[self.clients[at].shared].pops_unknown += 1,
            _ => {}
        }
    }

    /// A request that surely did nothing.
    fn unsend(&mut self, at: usize, op: &Op) {
        self.figures.refused += 1;
        let shared = &mut self.shared[self.clients[at].shared];
        match op {
            Op::Triple(_) => shared.triples_sent -= 1,
            Op::Count => shared.count_sent -= 1,
            Op::Raise => shared.raised_sent -= 1,
            Op::Push(value) => drop(shared.pushed_sent.remove(value)),
            _ => {}
        }
    }

    fn answered(&mut self, at: usize, op: Op, bytes: &[u8]) -> Result<(), String> {
        self.digest = mix(self.digest ^ at as u64, bytes);
        if is_refusal(bytes) {
            self.unsend(at, &op);
            return Ok(());
        }
        self.figures.answered += 1;
        let client = &mut self.clients[at];
        let shared = &mut self.shared[client.shared];
        let answer = Answer::parse(bytes)?;
        let between = |what: &str, number: u64, least: u64, most: u64| {
            if (least..=most).contains(&number) {
                Ok(())
            } else {
                Err(format!("{what} is {number}, not within {least}..={most}"))
            }
        };
        match op {
            Op::Own(own) => match client.model.apply(&own) {
                Some(expected) if expected != answer => {
                    return Err(format!("client {at}: {own:?} was answered {answer:?}, not {expected:?}"));
                }
                None if !matches!(answer, Answer::Bulk(Some(_))) => {
                    return Err(format!("client {at}: {own:?} was answered {answer:?}"));
                }
                _ => {}
            },
            Op::Triple(value) => {
                if answer.items()?.len() != 3 {
                    return Err(format!("EXEC of three was answered {answer:?}"));
                }
                shared.triples.insert(value);
            }
            Op::TripleRead(least) => {
                let items = answer.items()?;
                let (entries, count) = (items[1].number()?, items[2].number()?);
                if entries != count || (count == 0) != (items[0] == Answer::Bulk(None)) {
                    return Err(format!("half a MULTI was seen: {answer:?}"));
                }
                between("the number of MULTIs", count, least, shared.triples_sent)?;
            }
            Op::Count => shared.count += 1,
            Op::CountRead(least) => between("the counter", answer.number()?, least, shared.count_sent)?,
            Op::Raise if answer == Answer::Array(None) => self.unsend(at, &Op::Raise),
            Op::Raise => shared.raised += 1,
            Op::Push(value) => drop(shared.pushed.insert(value)),
            Op::Pop => {
                let items = answer.items()?;
                if let Some(item) = items.get(1) {
                    let item = item.text()?;
                    if !shared.pushed_sent.contains(&item) {
                        return Err(format!("{} came out of the queue and was never put in", show(&item)));
                    }
                    if !shared.popped.insert(item.clone()) {
                        return Err(format!("{} came out of the queue twice", show(&item)));
                    }
                }
            }
            Op::Loose => {}
        }
        Ok(())
    }

    /// The node died: whatever was under way is unknown.
    pub fn crash(&mut self) {
        for at in 0..self.clients.len() {
            while let Some(request) = self.clients[at].outstanding.pop_front() {
                self.lose(at, request);
            }
            self.clients[at].waiter = None;
            self.clients[at].watched = None;
        }
    }

    /// After a restart: everything that was acknowledged is there, and what is unknown is there wholly or not at all.
    pub fn verify(&mut self, door: &Door<'_>) -> Result<(), String> {
        for client in &mut self.clients {
            let shard = &door.shards[client.shard + 1];
            let mut ask = |words: &[&[u8]]| read(shard, client.db, door.now, words);
            let found = Model::read(client.id, &mut ask)?;
            let mut model = client.model.clone();
            let mut tries = vec![model.clone()];
            for own in client.limbo.drain(..) {
                model.apply(&own);
                tries.push(model.clone());
            }
            if !tries.contains(&found) {
                let wrong =
                    KINDS.iter().find(|kind| tries.iter().all(|model| model.0.get(*kind) != found.0.get(*kind)));
                let kind = wrong.copied().unwrap_or("text");
                return Err(format!(
                    "client {}: {} is {:?}, it should be {:?} ({} ways it may be)",
                    client.id,
                    show(&key(client.id, kind)),
                    found.0.get(kind),
                    tries[0].0.get(kind),
                    tries.len()
                ));
            }
            client.model = found;
        }
        for at in 0..self.shared.len() {
            self.verify_shared(at, door).map_err(|what| format!("keys shared by group {at}: {what}"))?;
        }
        Ok(())
    }

    fn verify_shared(&mut self, at: usize, door: &Door<'_>) -> Result<(), String> {
        let shared = &mut self.shared[at];
        let (shard, db) = (&door.shards[shared.shard + 1], shared.db);
        let ask = |words: &[&[u8]]| read(shard, db, door.now, words);
        let entries = stream_values(&ask(&[b"XRANGE", &name(db, "m:x"), b"-", b"+"])?)?;
        let number = ask(&[b"GET", &name(db, "m:n")])?.number()?;
        let last = ask(&[b"GET", &name(db, "m:s")])?;
        if number != entries.len() as u64 || last != Answer::Bulk(entries.last().cloned()) {
            return Err(format!("half a MULTI is there: {} entries, count {number}, last {last:?}", entries.len()));
        }
        let triples: BTreeSet<Vec<u8>> = entries.iter().cloned().collect();
        if triples.len() < entries.len() {
            return Err("a MULTI is there twice".into());
        }
        let count = ask(&[b"GET", &name(db, "g")])?.number()?;
        let raised = ask(&[b"GET", &name(db, "w")])?.number()?;
        let mut queue = BTreeSet::new();
        for item in ask(&[b"LRANGE", &name(db, "q"), b"0", b"-1"])?.items()? {
            let item = item.text()?;
            if shared.popped.contains(&item) || !queue.insert(item.clone()) {
                return Err(format!("{} is in the queue again", show(&item)));
            }
        }
        if let Some(lost) = shared.triples.iter().find(|value| !triples.contains(*value)) {
            return Err(format!("the acknowledged MULTI of {} is gone", show(lost)));
        }
        if !(shared.count..=shared.count_sent).contains(&count) {
            return Err(format!("the counter is {count}: {} acknowledged, {} sent", shared.count, shared.count_sent));
        }
        if !(shared.raised..=shared.raised_sent).contains(&raised) {
            return Err(format!(
                "the watched number is {raised}: {} acknowledged, {} sent",
                shared.raised, shared.raised_sent
            ));
        }
        let missing = shared.pushed.iter().filter(|item| !queue.contains(*item) && !shared.popped.contains(*item));
        let missing: Vec<Vec<u8>> = missing.cloned().collect();
        if missing.len() > shared.pops_unknown {
            return Err(format!(
                "{} acknowledged items of the queue are gone, {} pops are of unknown outcome",
                missing.len(),
                shared.pops_unknown
            ));
        }
        shared.pops_unknown = 0;
        shared.popped.extend(missing);
        shared.pushed.extend(queue);
        shared.triples_sent = triples.len() as u64;
        shared.triples = triples;
        (shared.count, shared.count_sent) = (count, count);
        (shared.raised, shared.raised_sent) = (raised, raised);
        Ok(())
    }
}

fn read_bytes(shard: &Shard<u64>, db: u8, now: Instant, words: &[&[u8]]) -> Result<Vec<u8>, String> {
    let spec = command::find(words[0]).ok_or("a command that does not exist")?;
    let mut reply = Reply::new(Protocol::Resp2);
    let state = shard.state();
    let _ = state.read(&Call::new(spec, db, words, shard.now(now)), &mut Rng::new(0), &mut reply);
    Ok(reply.bytes)
}

fn read(shard: &Shard<u64>, db: u8, now: Instant, words: &[&[u8]]) -> Result<Answer, String> {
    Answer::parse(&read_bytes(shard, db, now, words)?)
}

/// Whether a shard's state met a bug of ours.
pub fn panics(shard: &Shard<u64>) -> u64 {
    let state = shard.state();
    state.counts().1
}

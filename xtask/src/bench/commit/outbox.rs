//! A row and its message until a consumer has it: by one commit, and by the usual outbox.

use super::postgres::{Client, Postgres};
use super::{MANY, PATIENCE, Plan, Sample, commit, mark, middle, ratio, shown, topic, transaction};
use crate::bench::measure::latencies;
use crate::bench::queue::load::{Speech, Topic};
use crate::bench::queue::servers;
use crate::bench::report::thousands;
use crate::resp::{Conn, Value};
use crate::server::Server;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a message, its time included.
const MESSAGE_BYTES: usize = 100;
/// Clients and commits a second where the time to the consumer is taken: far from what either side can do.
const PACED: usize = 8;
const PACE: f64 = 200.0;
/// Messages that the relay moves at once.
const RELAYED: usize = 100;

/// The moments at which consumers had messages, by when these were due to be committed: nanoseconds since the run's start.
struct Seen {
    /// Which run: what an earlier one has left with the broker does not count.
    run: u64,
    start: Instant,
    took: Mutex<Vec<Duration>>,
    count: AtomicU64,
}

impl Seen {
    fn note(&self, body: &[u8]) {
        let number = |part: Option<&[u8]>| std::str::from_utf8(part?).ok()?.parse::<u64>().ok();
        if number(body.get(..HEAD_BYTES - 20)) != Some(self.run) {
            return;
        }
        let due = number(body.get(HEAD_BYTES - 20..HEAD_BYTES)).unwrap_or(0);
        let took = self.start.elapsed().saturating_sub(Duration::from_nanos(due));
        self.took.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(took);
        self.count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Run and time, before what fills a message up.
const HEAD_BYTES: usize = 26;
/// Numbers of runs.
static RUNS: AtomicU64 = AtomicU64::new(1);

/// Commits a row and a message with this body.
type Committer<'a> = Box<dyn FnMut(&str, &str) -> Result<(), String> + 'a>;

/// One of the two sides.
trait Side: Sync {
    /// A client's connection.
    fn client(&self) -> Result<Committer<'_>, String>;
    /// Moves and consumes messages until `stop`.
    fn consume(&self, seen: &Seen, stop: &AtomicBool) -> Result<(), String>;
}

pub fn run(plan: &Plan) -> Result<String, String> {
    if !Postgres::is_there() {
        println!("bench: outbox left out: PostgreSQL is not installed (Debian: postgresql)");
        return Ok("\nThe outbox was left out: PostgreSQL is not installed.\n".into());
    }
    let ours = Ours::start(plan)?;
    let usual = Usual::start(plan)?;
    let sides: [&dyn Side; 2] = [&ours, &usual];
    let mut text = String::from(
        "\n### Row, message, consumer: beside PostgreSQL with an outbox and RabbitMQ\n\n| | quorate | outbox | ratio | asked |\n|---|--:|--:|--:|--:|\n",
    );
    let span = Duration::from_secs_f64(plan.seconds);
    let play = |which: usize, span: Duration, pace: Option<f64>| play(sides[which], span, pace);
    let rates = super::in_turn(plan, |which, span| play(which, span, None))?;
    let rate = ratio(&rates, |own| own.rate);
    let figure = |pairs: &[[Sample; 2]], which, figure: fn(&Sample) -> f64| middle(pairs, which, figure);
    text += &format!(
        "| commits/s of {MANY} clients, until the last is consumed | {} | {} | {} | ≥ 5 {} |\n",
        thousands(figure(&rates, 0, |own| own.rate)),
        thousands(figure(&rates, 1, |own| own.rate)),
        shown(rate),
        mark(rate.0 >= 5.0)
    );
    println!("bench: outbox: {} of its commits a second", shown(rate));
    let paced = super::in_turn(plan, |which, _| play(which, span.max(Duration::from_secs(1)), Some(PACE)))?;
    for (name, take) in [("p50", (|own: &Sample| own.p50_ms) as fn(&Sample) -> f64), ("p99", |own| own.p99_ms)] {
        let part = ratio(&paced, take);
        text += &format!(
            "| {PACE} commits/s, from when one was due until its consumer has it, {name} ms | {:.2} | {:.2} | {} | ≤ 0.1 {} |\n",
            figure(&paced, 0, take),
            figure(&paced, 1, take),
            shown(part),
            mark(part.0 <= 0.1)
        );
        println!("bench: outbox: {} of its time to the consumer, {name}", shown(part));
    }
    text += "\nPostgreSQL: BEGIN, two INSERTs, NOTIFY and COMMIT are one message and one answer; settings Debian's. The relay takes up to 100 rows by \
             DELETE … RETURNING, publishes them together (persistent, a quorum queue), and commits when all are confirmed. quorate: MULTI of SET and XADD; \
             the consumer reads by XREADGROUP and acknowledges what it was given with its next request.\n";
    Ok(text)
}

fn play(side: &dyn Side, span: Duration, pace: Option<f64>) -> Result<Sample, String> {
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let seen = Seen { run, start: Instant::now(), took: Mutex::default(), count: AtomicU64::new(0) };
    let (stop, over, sent) = (AtomicBool::new(false), AtomicBool::new(false), AtomicU64::new(0));
    let clients = if pace.is_some() { PACED } else { MANY };
    let seconds = std::thread::scope(|scope| {
        let consumer = scope.spawn(|| side.consume(&seen, &over));
        let client = |nth: usize| {
            let (seen, stop, sent) = (&seen, &stop, &sent);
            scope.spawn(move || -> Result<(), String> {
                let mut client = side.client()?;
                let each = pace.map(|pace| Duration::from_secs_f64(PACED as f64 / pace));
                let mut due = each.map(|each| seen.start.elapsed() + each * nth as u32 / PACED as u32);
                for number in 0u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    if let Some(due) = due {
                        std::thread::sleep(due.saturating_sub(seen.start.elapsed()));
                    }
                    let at = due.unwrap_or_else(|| seen.start.elapsed());
                    let body = format!("{run:06}{:020}{}", at.as_nanos(), "m".repeat(MESSAGE_BYTES - HEAD_BYTES));
                    client(&format!("row:{nth}:{}", number % 1000), &body)?;
                    sent.fetch_add(1, Ordering::Relaxed);
                    due = due.zip(each).map(|(due, each)| due + each);
                }
                Ok(())
            })
        };
        let threads: Vec<_> = (0..clients).map(client).collect();
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
        let joined = threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into())));
        let began = Instant::now();
        while joined.is_ok()
            && seen.count.load(Ordering::Relaxed) < sent.load(Ordering::Relaxed)
            && began.elapsed() < PATIENCE
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let seconds = seen.start.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        // Its last wait ends with one more message.
        let last = side.client().and_then(|mut client| client("row:last", &"z".repeat(MESSAGE_BYTES)));
        consumer.join().unwrap_or_else(|_| Err("the consumer panicked".into()))?;
        joined.and(last).map(|()| seconds)
    })?;
    let sent = sent.load(Ordering::Relaxed);
    if seen.count.load(Ordering::Relaxed) < sent {
        return Err(format!("of {sent} messages {} were consumed", seen.count.load(Ordering::Relaxed)));
    }
    let mut took = seen.took.into_inner().unwrap_or_default();
    let [p50_ms, p99_ms, _] = latencies(&mut took);
    Ok(Sample { rate: sent as f64 / seconds, p50_ms, p99_ms })
}

struct Ours {
    server: Server,
}

impl Ours {
    fn start(plan: &Plan) -> Result<Ours, String> {
        let server = Server::quorate(&plan.bin, &plan.dir.join("ours"), &["--data-shards", "1"], &[])?;
        let mut conn = server.connect().map_err(|error| error.to_string())?;
        topic(&mut conn, "outbox")?;
        match conn.call(&["XGROUP", "CREATE", "topic:outbox", "g", "0"]).map_err(|error| error.to_string())? {
            Value::Simple(_) => Ok(Ours { server }),
            other => Err(format!("XGROUP was answered {other}")),
        }
    }
}

impl Side for Ours {
    fn client(&self) -> Result<Committer<'_>, String> {
        let mut conn = Conn::open(&self.server.redis, PATIENCE).map_err(|error| error.to_string())?;
        Ok(Box::new(move |row, body| {
            let set: [&[u8]; 3] = [b"SET", row.as_bytes(), b"3 apples"];
            let told: [&[u8]; 7] = [b"XADD", b"topic:outbox", b"*", b"K", row.as_bytes(), b"V", body.as_bytes()];
            commit(&mut conn, &transaction(&[&set, &told]))
        }))
    }

    fn consume(&self, seen: &Seen, stop: &AtomicBool) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        let mut conn = Conn::open(&self.server.redis, PATIENCE).map_err(failed)?;
        let wish = "XREADGROUP GROUP g c COUNT 1000 BLOCK 1000 STREAMS topic:outbox >";
        let mut given: Vec<Vec<u8>> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let mut out = Vec::new();
            let has_acknowledged = !given.is_empty();
            if has_acknowledged {
                let mut words: Vec<&[u8]> = vec![b"XACK", b"topic:outbox", b"g"];
                words.extend(given.iter().map(Vec::as_slice));
                crate::resp::encode(&mut out, &words);
            }
            crate::resp::encode(&mut out, &wish.split(' ').collect::<Vec<_>>());
            conn.send_raw(&out).map_err(failed)?;
            if has_acknowledged {
                conn.read().map_err(failed)?;
            }
            given.clear();
            let answer = conn.read().map_err(failed)?;
            if let Some(why) = answer.error() {
                return Err(why);
            }
            let entries =
                answer.items().and_then(|streams| streams.first()?.items()?.get(1)?.items()).unwrap_or_default();
            for entry in entries {
                let Some([id, fields]) = entry.items() else { continue };
                given.extend(id.bytes().map(<[u8]>::to_vec));
                seen.note(fields.items().and_then(|fields| fields.get(3)?.bytes()).unwrap_or_default());
            }
        }
        if !given.is_empty() {
            let mut words: Vec<&[u8]> = vec![b"XACK", b"topic:outbox", b"g"];
            words.extend(given.iter().map(Vec::as_slice));
            conn.call(&words).map_err(failed)?;
        }
        Ok(())
    }
}

/// PostgreSQL, a relay, RabbitMQ.
struct Usual {
    postgres: Postgres,
    rabbitmq: servers::System,
    topic: Topic,
}

impl Usual {
    fn start(plan: &Plan) -> Result<Usual, String> {
        let postgres = Postgres::start()?;
        let mut client = Client::open(&postgres.addr)?;
        let tables = "CREATE TABLE rows (name text PRIMARY KEY, body text NOT NULL); \
                      CREATE TABLE outbox (id bigserial PRIMARY KEY, body text NOT NULL)";
        client.query(tables, |_| {})?;
        let rabbitmq = servers::rabbitmq(&plan.dir.join("rabbitmq"), 1)?;
        let topic = Topic { name: "outbox".into(), partitions: 1, bytes: MESSAGE_BYTES };
        rabbitmq.speech.create(&topic)?;
        Ok(Usual { postgres, rabbitmq, topic })
    }

    fn speech(&self) -> &dyn Speech {
        self.rabbitmq.speech.as_ref()
    }

    /// Moves what is in the outbox, woken by its notifications.
    fn relay(&self, stop: &AtomicBool) -> Result<(), String> {
        let mut listener = Client::open(&self.postgres.addr)?;
        let mut client = Client::open(&self.postgres.addr)?;
        let mut publisher = self.speech().publisher(&self.topic, vec![0])?;
        listener.query("LISTEN outbox", |_| {})?;
        let take = format!(
            "BEGIN; DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT {RELAYED} FOR UPDATE SKIP LOCKED) RETURNING body"
        );
        loop {
            loop {
                let mut bodies: Vec<Vec<u8>> = Vec::new();
                client.query(&take, |body| bodies.push(body.to_vec()))?;
                for body in &bodies {
                    publisher.body().copy_from_slice(body);
                    publisher.send(1)?;
                }
                let mut confirmed = 0;
                while confirmed < bodies.len() {
                    confirmed += publisher.answered()?;
                }
                client.query("COMMIT", |_| {})?;
                if bodies.is_empty() {
                    break;
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            listener.notified()?;
        }
    }
}

impl Side for Usual {
    fn client(&self) -> Result<Committer<'_>, String> {
        let mut client = Client::open(&self.postgres.addr)?;
        Ok(Box::new(move |row, body| {
            let text = format!(
                "BEGIN; INSERT INTO rows VALUES ('{row}', '3 apples') ON CONFLICT (name) DO UPDATE SET body = excluded.body; \
                 INSERT INTO outbox (body) VALUES ('{body}'); NOTIFY outbox; COMMIT"
            );
            client.query(&text, |_| {})
        }))
    }

    fn consume(&self, seen: &Seen, stop: &AtomicBool) -> Result<(), String> {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let relay = scope.spawn(|| self.relay(&is_over));
            let mut subscriber = self.speech().subscriber(&self.topic, vec![0])?;
            while !stop.load(Ordering::Relaxed) {
                subscriber.next(&mut |body| seen.note(body))?;
            }
            is_over.store(true, Ordering::Relaxed);
            Client::open(&self.postgres.addr)?.query("NOTIFY outbox", |_| {})?;
            relay.join().unwrap_or_else(|_| Err("the relay panicked".into()))
        })
    }
}

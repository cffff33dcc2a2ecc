//! `cargo xtask bench commit`: what a message in the same commit costs, what a second shard costs, and what the usual outbox costs.
//!
//! ```text
//! cargo xtask bench commit [--quick] [--bin PATH] [--out FILE] [--pairs N] [--seconds S] [--only message,shards,outbox]
//! ```
//!
//! Every figure is the median of ratios of pairs run in turn (A B A B …), with the smallest and the largest. *message*: MULTI of a SET and
//! an XADD into a topic beside the same MULTI without the XADD, one client and 64. *shards*: MULTI of two SETs with keys in two shards
//! beside keys in one. *outbox*: a row and its message, in PostgreSQL with an outbox table (one round trip a transaction), a relay that is woken
//! by LISTEN/NOTIFY and moves up to 100 messages at a time to RabbitMQ with confirms, and a consumer there; beside MULTI and a consumer group.
//! Writes its part of docs/benchmarks.md, between marks of its own.

mod outbox;
mod postgres;

use super::measure::latencies;
use super::report::{median, thousands};
use crate::resp::{Conn, Value, encode};
use crate::server::Server;
use crate::shell::{output, root};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BEGIN: &str = "<!-- bench commit: begin -->";
const END: &str = "<!-- bench commit: end -->";
const NOTES: &str = "<!-- notes -->";
/// Clients of the loads with many.
const MANY: usize = 64;
/// Bytes of a value.
const BYTES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(30);
/// Pairs of keys that all clients want.
const WANTED: usize = 8;
/// The slot's half tells the shard of a node that was made with two.
const SLOTS: u16 = 16384;

struct Plan {
    quick: bool,
    pairs: usize,
    seconds: f64,
    only: Vec<String>,
    bin: PathBuf,
    out: PathBuf,
    dir: PathBuf,
}

/// What one run showed.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Entry of `cargo xtask bench commit`.
pub fn run(args: &[String]) -> Result<(), String> {
    let plan = read(args)?;
    if !plan.bin.is_file() {
        return Err(format!("{} is not there: cargo build --release -p quorate, or --bin PATH", plan.bin.display()));
    }
    let start = Instant::now();
    let _ = std::fs::remove_dir_all(&plan.dir);
    std::fs::create_dir_all(&plan.dir).map_err(|error| format!("{}: {error}", plan.dir.display()))?;
    let wanted = |part: &str| plan.only.is_empty() || plan.only.iter().any(|name| name == part);
    let mut text = String::new();
    if wanted("message") {
        text += &message(&plan)?;
    }
    if wanted("shards") {
        text += &shards(&plan)?;
    }
    if wanted("outbox") {
        text += &outbox::run(&plan)?;
    }
    let _ = std::fs::remove_dir_all(&plan.dir);
    write(&plan, &text)?;
    println!("bench: {:.1} minutes; wrote {}", start.elapsed().as_secs_f64() / 60.0, plan.out.display());
    Ok(())
}

fn read(args: &[String]) -> Result<Plan, String> {
    let root = root();
    let quick = args.iter().any(|flag| flag == "--quick");
    let (pairs, seconds) = if quick { (2, 0.5) } else { (5, 2.0) };
    let (bin, out) = (root.join("target/release/quorate"), root.join("docs/benchmarks.md"));
    let mut plan = Plan { quick, pairs, seconds, only: Vec::new(), bin, out, dir: root.join("target/bench-commit") };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        let number = |text: String| text.parse::<f64>().map_err(|_| format!("{flag} wants a number"));
        match flag.as_str() {
            "--quick" => {}
            "--bin" => plan.bin = value()?.into(),
            "--out" => plan.out = value()?.into(),
            "--pairs" => plan.pairs = (number(value()?)? as usize).max(1),
            "--seconds" => plan.seconds = number(value()?)?,
            "--only" => plan.only = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("bench commit does not know {flag}")),
        }
    }
    Ok(plan)
}

/// MULTI, these commands, EXEC, as bytes; and how many answers that has.
fn transaction(commands: &[&[&[u8]]]) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    encode(&mut out, &[b"MULTI"]);
    commands.iter().for_each(|words| encode(&mut out, words));
    encode(&mut out, &[b"EXEC"]);
    (out, commands.len() + 2)
}

/// Transactions that were told to try again, and did.
static AGAIN: AtomicU64 = AtomicU64::new(0);

/// Sends one, and waits until it is done; again where it is told to try again.
fn commit(conn: &mut Conn, (bytes, answers): &(Vec<u8>, usize)) -> Result<(), String> {
    let failed = |error: std::io::Error| error.to_string();
    loop {
        conn.send_raw(bytes).map_err(failed)?;
        let mut again = false;
        for _ in 1..=*answers {
            match conn.read().map_err(failed)? {
                Value::Error(text) if text.starts_with(b"TRYAGAIN") => again = true,
                Value::Error(text) => return Err(String::from_utf8_lossy(&text).into_owned()),
                Value::Array(_) | Value::Simple(_) => {}
                other => return Err(format!("EXEC was answered {other}")),
            }
        }
        if !again {
            return Ok(());
        }
        AGAIN.fetch_add(1, Ordering::Relaxed);
    }
}

/// So many clients, each one transaction after the other for a time.
fn load(
    addr: &str,
    clients: usize,
    span: Duration,
    make: impl Fn(usize, u64) -> (Vec<u8>, usize) + Sync,
) -> Result<Sample, String> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let began = Instant::now();
    let took = std::thread::scope(|scope| {
        let client = |client: usize| {
            let (make, stop, count) = (&make, &stop, &count);
            scope.spawn(move || -> Result<Vec<Duration>, String> {
                let mut conn = Conn::open(addr, PATIENCE).map_err(|error| error.to_string())?;
                let mut took = Vec::new();
                for nth in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let words = make(client, nth);
                    let asked = Instant::now();
                    commit(&mut conn, &words)?;
                    took.push(asked.elapsed());
                    count.fetch_add(1, Ordering::Relaxed);
                }
                Ok(took)
            })
        };
        let threads: Vec<_> = (0..clients).map(client).collect();
        std::thread::sleep(span);
        stop.store(true, Ordering::Relaxed);
        let joined =
            threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("a client panicked".into())));
        joined.collect::<Result<Vec<_>, String>>()
    })?;
    let seconds = began.elapsed().as_secs_f64();
    let mut took: Vec<Duration> = took.into_iter().flatten().collect();
    let [p50_ms, p99_ms, _] = latencies(&mut took);
    Ok(Sample { rate: count.load(Ordering::Relaxed) as f64 / seconds, p50_ms, p99_ms })
}

/// Median of the pairs' ratios, with the smallest and the largest.
fn ratio(pairs: &[[Sample; 2]], figure: fn(&Sample) -> f64) -> (f64, f64, f64) {
    let ratios: Vec<f64> = pairs.iter().map(|[one, other]| figure(one) / figure(other)).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    (median(ratios), least, most)
}

fn middle(pairs: &[[Sample; 2]], which: usize, figure: fn(&Sample) -> f64) -> f64 {
    median(pairs.iter().map(|pair| figure(&pair[which])).collect())
}

/// Runs two loads in turn, after a first run of each that counts for nothing.
fn in_turn(
    plan: &Plan,
    mut one: impl FnMut(usize, Duration) -> Result<Sample, String>,
) -> Result<Vec<[Sample; 2]>, String> {
    for which in 0..2 {
        one(which, Duration::from_secs_f64(plan.seconds / 4.0))?;
    }
    let mut pairs = Vec::new();
    for pair in 0..plan.pairs {
        let mut samples = [Sample::default(); 2];
        for turn in 0..2 {
            let which = (turn + pair) % 2;
            samples[which] = one(which, Duration::from_secs_f64(plan.seconds))?;
        }
        pairs.push(samples);
    }
    Ok(pairs)
}

fn mark(holds: bool) -> &'static str {
    if holds { "✓" } else { "**short**" }
}

fn table(title: &str, names: [&str; 2]) -> String {
    format!(
        "\n### {title}\n\n| clients | {0}: commits/s | p50 ms | p99 ms | {1}: commits/s | p50 ms | p99 ms | latency p50 | throughput |\n\
         |--:|--:|--:|--:|--:|--:|--:|--:|--:|\n",
        names[0], names[1]
    )
}

fn line(clients: usize, pairs: &[[Sample; 2]], checked: [String; 2]) -> String {
    let side = |which| {
        format!(
            "{} | {:.2} | {:.2}",
            thousands(middle(pairs, which, |own| own.rate)),
            middle(pairs, which, |own| own.p50_ms),
            middle(pairs, which, |own| own.p99_ms)
        )
    };
    let [latency, rate] = checked;
    format!("| {clients} | {} | {} | {latency} | {rate} |\n", side(0), side(1))
}

fn shown((middle, least, most): (f64, f64, f64)) -> String {
    format!("{middle:.2}× ({least:.2}–{most:.2})")
}

fn message(plan: &Plan) -> Result<String, String> {
    let server = Server::quorate(&plan.bin, &plan.dir.join("message"), &["--data-shards", "1"], &[])?;
    let mut conn = server.connect().map_err(|error| error.to_string())?;
    topic(&mut conn, "told")?;
    let value = vec![b'v'; BYTES];
    let mut text = table("A message in the same commit", ["SET and XADD", "SET"]);
    for clients in [1, MANY] {
        let pairs = in_turn(plan, |which, span| {
            load(&server.redis, clients, span, |client, nth| {
                let key = format!("row:{client}:{}", nth % 1000);
                let row: [&[u8]; 3] = [b"SET", key.as_bytes(), &value];
                let told: [&[u8]; 7] = [b"XADD", b"topic:told", b"*", b"K", key.as_bytes(), b"V", &value];
                if which == 0 { transaction(&[&row, &told]) } else { transaction(&[&row]) }
            })
        })?;
        let (latency, rate) = (ratio(&pairs, |own| own.p50_ms), ratio(&pairs, |own| own.rate));
        let cost = 1.0 / rate.0;
        println!("bench: {clients} client(s): a message costs {cost:.2}× ({})", shown(latency));
        let checked = format!("{}; cost {cost:.2}×, asked ≤ 1.3 {}", shown(rate), mark(cost <= 1.3));
        text += &line(clients, &pairs, [shown(latency), checked]);
    }
    server.stop()?;
    Ok(text)
}

fn topic(conn: &mut Conn, name: &str) -> Result<(), String> {
    match conn.call(&["Q.TOPIC", "CREATE", name, "PARTITIONS", "1"]).map_err(|error| error.to_string())? {
        Value::Simple(_) => Ok(()),
        other => Err(format!("Q.TOPIC was answered {other}")),
    }
}

/// CRC16 (XMODEM) of a key without a tag: which slot it has in Redis Cluster's specification.
fn slot(key: &[u8]) -> u16 {
    let shift = |crc: u16, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
    key.iter().fold(0u16, |crc, byte| (0..8).fold(crc ^ u16::from(*byte) << 8, shift)) % SLOTS
}

fn shards(plan: &Plan) -> Result<String, String> {
    let server = Server::quorate(&plan.bin, &plan.dir.join("shards"), &["--data-shards", "2"], &[])?;
    let value = vec![b'v'; BYTES];
    // Keys of each shard, of each client its own: what conflicts is another question.
    let keys = |shard: u16, client: usize| -> Vec<String> {
        let names = (0..).map(|nth| format!("row:{client}:{nth}"));
        names.filter(|key| slot(key.as_bytes()) / (SLOTS / 2) == shard).take(200).collect()
    };
    let own: Vec<[Vec<String>; 2]> = (0..MANY).map(|client| [keys(0, client), keys(1, client)]).collect();
    let mut text = table("A second shard in the commit", ["two shards", "one shard"]);
    for clients in [1, MANY] {
        let pairs = in_turn(plan, |which, span| {
            load(&server.redis, clients, span, |client, nth| {
                let (first, second) = (nth as usize % 100, 100 + nth as usize % 100);
                // The shards take turns, so that both sides load both.
                let shard = nth as usize % 2;
                let other = if which == 0 { 1 - shard } else { shard };
                let (one, two) = (&own[client][shard][first], &own[client][other][second]);
                transaction(&[&[b"SET", one.as_bytes(), &value], &[b"SET", two.as_bytes(), &value]])
            })
        })?;
        let (latency, rate) = (ratio(&pairs, |own| own.p50_ms), ratio(&pairs, |own| own.rate));
        println!(
            "bench: {clients} client(s): two shards {} of the latency, {} of the throughput",
            shown(latency),
            shown(rate)
        );
        let checked = match clients {
            1 => [format!("{}; asked ≤ 3 {}", shown(latency), mark(latency.0 <= 3.0)), shown(rate)],
            _ => [shown(latency), format!("{}; asked ≥ 0.4 {}", shown(rate), mark(rate.0 >= 0.4))],
        };
        text += &line(clients, &pairs, checked);
    }
    // All want the same few keys.
    text += &table(
        "Keys that many want, in two shards",
        [format!("{WANTED} pairs of keys").as_str(), "a pair of its own each"],
    );
    AGAIN.store(0, Ordering::Relaxed);
    let pairs = in_turn(plan, |which, span| {
        load(&server.redis, MANY, span, |client, nth| {
            let (client, nth) =
                if which == 0 { (0, (client + nth as usize) % WANTED) } else { (client, nth as usize % 100) };
            let (one, two) = (&own[client][0][nth], &own[client][1][nth]);
            transaction(&[&[b"SET", one.as_bytes(), &value], &[b"SET", two.as_bytes(), &value]])
        })
    })?;
    let (latency, rate) = (ratio(&pairs, |own| own.p50_ms), ratio(&pairs, |own| own.rate));
    let again = AGAIN.load(Ordering::Relaxed);
    println!(
        "bench: {WANTED} wanted pairs: p99 {:.2} ms, {again} told to try again",
        middle(&pairs, 0, |own| own.p99_ms)
    );
    text += &line(MANY, &pairs, [shown(latency), format!("{}; {again} were told to try again after 3 s", shown(rate))]);
    server.stop()?;
    Ok(text)
}

fn write(plan: &Plan, parts: &str) -> Result<(), String> {
    let first = |text: Result<String, String>| text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned();
    let there = std::fs::read_to_string(&plan.out).unwrap_or_default();
    let (before, behind) =
        match there.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1))) {
            Some((before, behind)) => (before.to_owned(), behind.to_owned()),
            None => match there.split_once(NOTES) {
                Some((before, behind)) => (format!("{before}{NOTES}\n\n"), behind.to_owned()),
                None => (format!("{there}\n"), "\n".to_owned()),
            },
        };
    let mut text = format!(
        "{BEGIN}\n\n## One commit\n\n`cargo xtask bench commit{}`, run {}, commit {}: {} pairs of {} s in alternation, medians; values of {BYTES} bytes, one node, every \
         commit synced before its answer; a MULTI is one write and its answers one read. Clients and servers share the cores.\n",
        if plan.quick { " --quick" } else { "" },
        first(output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        first(output("git", &["rev-parse", "--short", "HEAD"])),
        plan.pairs,
        plan.seconds,
    );
    let _ = write!(text, "{parts}\n{END}");
    std::fs::write(&plan.out, format!("{before}{text}{behind}"))
        .map_err(|error| format!("{}: {error}", plan.out.display()))
}

#[cfg(test)]
mod tests {
    use super::{Sample, ratio, slot};

    #[test]
    fn slots_are_those_of_the_specification() {
        // Its check value, and `CLUSTER KEYSLOT somekey`.
        assert_eq!((slot(b"123456789"), slot(b"somekey")), (0x31C3, 11058));
    }

    #[test]
    fn a_ratio_is_that_of_its_pairs() {
        let pair =
            |one, other| [Sample { rate: one, ..Sample::default() }, Sample { rate: other, ..Sample::default() }];
        assert_eq!(ratio(&[pair(1.0, 2.0), pair(3.0, 4.0), pair(9.0, 9.0)], |own| own.rate), (0.75, 0.5, 1.0));
    }
}

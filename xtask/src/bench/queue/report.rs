//! The queue's part of docs/benchmarks.md.

use super::{Kind, Limits, Plan, Row, Sample};
use crate::bench::report::{median, thousands};
use crate::shell::output;
use std::fmt::Write as _;
use std::fs;

const BEGIN: &str = "<!-- bench queue: begin -->";
const END: &str = "<!-- bench queue: end -->";
/// Columns that compare with the first line.
const RATIO: &str = "the first's to this";

fn medians(row: &Row, at: usize, figure: &dyn Fn(&Sample) -> f64) -> f64 {
    median(row.rounds.iter().map(|round| figure(&round.samples[at])).collect())
}

/// Ratios round by round: median, least, most.
fn spread(ratios: Vec<f64>) -> [f64; 3] {
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    [median(ratios), least, most]
}

/// Of the first system to another.
fn ratio(row: &Row, to: usize, figure: &dyn Fn(&Sample) -> f64) -> [f64; 3] {
    spread(row.rounds.iter().map(|round| figure(&round.samples[0]) / figure(&round.samples[to])).collect())
}

/// Of the first system's bytes a second to a limit of the same round.
fn share(row: &Row, rate: &dyn Fn(&Sample) -> f64, limit: &dyn Fn(&Limits) -> f64) -> [f64; 3] {
    let bytes = row.bytes as f64;
    spread(row.rounds.iter().map(|round| rate(&round.samples[0]) * bytes / limit(&round.limits)).collect())
}

fn megabytes(row: &Row, rate: f64) -> String {
    format!("{:.1}", rate * row.bytes as f64 / 1e6)
}

/// One row in a line, while it runs.
pub fn line(row: &Row) -> String {
    let mut out = format!("{}:", row.title);
    for (at, name) in row.names.iter().enumerate() {
        let of = |figure: &dyn Fn(&Sample) -> f64| medians(row, at, figure);
        let _ = write!(out, "\n    {name}:");
        if row.kind != Kind::Live {
            let rate = of(&|sample| sample.published);
            let _ = write!(out, " published {}/s, {} MB/s,", thousands(rate), megabytes(row, rate));
        }
        let _ = write!(out, " p50 {:.2}, p99 {:.2} ms", of(&|sample| sample.p50_ms), of(&|sample| sample.p99_ms));
        let _ = write!(out, ", CPU {:.2} s/M", of(&|sample| sample.publish_cpu));
        if row.kind == Kind::Batched {
            let rate = of(&|sample| sample.consumed);
            let _ = write!(out, "; consumed {}/s, {} MB/s", thousands(rate), megabytes(row, rate));
            let _ = write!(out, ", CPU {:.2} s/M", of(&|sample| sample.consume_cpu));
        }
        let (publish, consume) = (of(&|sample| sample.publish_loader), of(&|sample| sample.consume_loader));
        let _ = write!(out, "; loader {publish:.2}, {consume:.2}");
    }
    for sentence in verdicts(row) {
        let _ = write!(out, "\n    {sentence}");
    }
    out
}

/// `**2.00×** (1.90–2.10)`
fn times([middle, least, most]: [f64; 3]) -> String {
    format!("**{middle:.2}×** ({least:.2}–{most:.2})")
}

fn percent([middle, least, most]: [f64; 3]) -> String {
    format!("**{:.0} %** ({:.0}–{:.0})", middle * 100.0, least * 100.0, most * 100.0)
}

fn verdict(found: f64, asked: f64) -> &'static str {
    if found >= asked { "✓" } else { "**short**" }
}

/// What the issue asks of a row, and whether it is met.
fn verdicts(row: &Row) -> Vec<String> {
    let mut out = Vec::new();
    if row.kind != Kind::Batched {
        return out;
    }
    let limits =
        |figure: &dyn Fn(&Limits) -> f64| median(row.rounds.iter().map(|round| figure(&round.limits)).collect());
    out.push(format!(
        "The same minute: 1-MiB writes into a preallocated file, each with fdatasync, {:.0} MB/s; a copy over loopback {:.0} MB/s, {:.2} CPU s \
         of the sender for a GB.",
        limits(&|limits| limits.disk) / 1e6,
        limits(&|limits| limits.copy) / 1e6,
        limits(&|limits| limits.copy_cpu),
    ));
    if !row.ours {
        return out;
    }
    let (publish, consume) = (|sample: &Sample| sample.published, |sample: &Sample| sample.consumed);
    let peer = |name: &str| row.names.iter().position(|one| one.starts_with(name));
    let mut said = Vec::new();
    for (name, asked) in [("RabbitMQ", 10.0), ("Redis", 2.0)] {
        if let Some(at) = peer(name) {
            let found = ratio(row, at, &publish);
            said.push(format!("{} of {name}, asked ≥ {asked} {}", times(found), verdict(found[0], asked)));
        }
    }
    let found = share(row, &publish, &|limits| limits.disk);
    let asked = if row.nodes == 1 && row.bytes >= 1024 {
        format!(", asked ≥ 30 % {}, aim 60 %", verdict(found[0], 0.3))
    } else {
        String::new()
    };
    said.push(format!("{} of the disk's bandwidth{asked}", percent(found)));
    out.push(format!("Published: {}.", said.join("; ")));
    said.clear();
    if let Some(at) = peer("NATS") {
        let found = ratio(row, at, &consume);
        said.push(format!("{} of JetStream, asked ≥ 2 {}", times(found), verdict(found[0], 2.0)));
    }
    said.push(format!("{} of the copy's bandwidth, aim 60 %", percent(share(row, &consume, &|limits| limits.copy))));
    let gigabyte = |sample: &Sample| sample.consume_cpu * 1000.0 / row.bytes as f64;
    said.push(format!("{:.2} server CPU s for a GB", medians(row, 0, &gigabyte)));
    out.push(format!("Consumed: {}.", said.join("; ")));
    out
}

fn table(out: &mut String, row: &Row) {
    let heads: &[&str] = match row.kind {
        Kind::Batched => &[
            "published/s",
            "MB/s",
            "p50 ms",
            "p99 ms",
            "CPU s / M",
            "loader",
            RATIO,
            "consumed/s",
            "MB/s",
            "CPU s / M",
            "loader",
            RATIO,
        ],
        Kind::Single => &["published/s", "MB/s", "p50 ms", "p99 ms", "CPU s / M", "loader", RATIO, "its p99"],
        Kind::Live => &["end to end p50 ms", "p99 ms", "CPU s / M", "loader", "the first's p50 to this", "its p99"],
    };
    let _ = writeln!(out, "\n| {} | {} |\n|---{}|", row.title, heads.join(" | "), "|--:".repeat(heads.len()));
    for (at, name) in row.names.iter().enumerate() {
        let of = |figure: &dyn Fn(&Sample) -> f64| medians(row, at, figure);
        let two = |figure: &dyn Fn(&Sample) -> f64| format!("{:.2}", of(figure));
        let against =
            |figure: &dyn Fn(&Sample) -> f64| if at == 0 { "–".to_owned() } else { times(ratio(row, at, figure)) };
        let mut cells = vec![name.clone()];
        let published = |sample: &Sample| sample.published;
        let consumed = |sample: &Sample| sample.consumed;
        if row.kind != Kind::Live {
            cells.extend([thousands(of(&published)), megabytes(row, of(&published))]);
        }
        cells.extend([two(&|sample| sample.p50_ms), two(&|sample| sample.p99_ms)]);
        cells.extend([two(&|sample| sample.publish_cpu), two(&|sample| sample.publish_loader)]);
        match row.kind {
            Kind::Batched => {
                cells.extend([against(&published), thousands(of(&consumed)), megabytes(row, of(&consumed))]);
                cells.extend([two(&|sample| sample.consume_cpu), two(&|sample| sample.consume_loader)]);
                cells.push(against(&consumed));
            }
            Kind::Single => cells.extend([against(&published), against(&|sample| sample.p99_ms)]),
            Kind::Live => cells.extend([against(&|sample| sample.p50_ms), against(&|sample| sample.p99_ms)]),
        }
        let _ = writeln!(out, "| {} |", cells.join(" | "));
    }
    for sentence in verdicts(row) {
        let _ = writeln!(out, "\n{sentence}");
    }
}

/// What ran, and what each side promises.
fn head(plan: &Plan) -> String {
    let first = |text: Result<String, String>| text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned();
    let package = |name: &str| first(output("dpkg-query", &["-W", "-f", "${Version}", name]));
    format!(
        "## Queues\n\n`cargo xtask bench queue`, {}; RabbitMQ {}; {}; NATS {}; quorate commit {}. All servers of a part run at once on this one \
         machine and share its cores with the loader (our own for all; its CPU stands in the table); the loads alternate, {} rounds of {:.1} s after a \
         first short one that does not count. Every round publishes to new topics, then consumes what lies there. Medians; a ratio is the first \
         system's to that line's, the median of the rounds' with the smallest and the largest. CPU: of all servers of a system, seconds for a \
         million messages.\n\n\
         What an acknowledgement promises: quorate (`acks=all`) and RabbitMQ (quorum queue, persistent, publisher confirms), on the disks of a \
         majority; Redis (`appendfsync always`), on the disk; **NATS 2.9 does not sync a message before it acknowledges it** (every two minutes), so \
         its figures are those of a queue that may lose what it acknowledged when the machine fails. *Batched*, with as many \
         connections and messages under way as served each best when tried: RabbitMQ two with up to 1,024 messages, JetStream four with 1,024, \
         Redis 16 with 256 (at 1 KiB 50 with 64), quorate two with five requests of 512 KiB. *One at a \
         time*: each connection waits for its answer; one connection for each partition. Consumers: RabbitMQ prefetch 1,000, one acknowledgement \
         for 200; JetStream two pulls of 1,000 under way, one acknowledgement for 1,000; Redis XREAD of 1,000 entries, no acknowledgements; \
         quorate fetches of up to 16 MiB, 4 of one partition. *End to end*: 500 messages a second, from when one was due until the consumer had it.\n",
        first(output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        package("rabbitmq-server"),
        first(output("redis-server", &["--version"])).split(" sha=").next().unwrap_or("?"),
        package("nats-server"),
        first(output("git", &["rev-parse", "--short", "HEAD"])),
        plan.rounds,
        plan.seconds,
    )
}

/// Replaces this part's tables; the other parts keep what stands there.
pub fn write(plan: &Plan, part: &str, rows: &[Row], notes: &[String]) -> Result<(), String> {
    let there = fs::read_to_string(&plan.out).unwrap_or_default();
    let (before, rest) =
        there.split_once(BEGIN).map_or((there.trim_end(), ""), |(before, rest)| (before.trim_end(), rest));
    let (inside, after) = rest.split_once(END).unwrap_or(("", rest));
    let mut out = format!("{before}\n\n{BEGIN}\n{}", head(plan));
    for (name, title) in super::PARTS {
        let mark = format!("<!-- part {name} -->\n");
        let kept = inside.split_once(&mark).map(|(_, text)| text.split("<!-- part ").next().unwrap_or("").trim_end());
        if name == part {
            let _ = write!(out, "\n{mark}### {title}\n");
            rows.iter().for_each(|row| table(&mut out, row));
            notes.iter().for_each(|note| out.push_str(&format!("\n{note}\n")));
        } else if let Some(kept) = kept {
            let _ = write!(out, "\n{mark}{kept}\n");
        }
    }
    let _ = write!(out, "\n{END}\n{}", after.trim_start_matches('\n'));
    if let Some(dir) = plan.out.parent() {
        let _ = fs::create_dir_all(dir);
    }
    fs::write(&plan.out, out).map_err(|error| format!("{}: {error}", plan.out.display()))
}

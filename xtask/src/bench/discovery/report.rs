//! This bench's part of docs/benchmarks.md.

use super::{Plan, Row, Sample};
use crate::bench::report::{median, thousands};
use crate::shell::output;
use std::fmt::Write as _;
use std::fs;

const BEGIN: &str = "<!-- bench discovery: begin -->";
const END: &str = "<!-- bench discovery: end -->";
const NAMES: [&str; 2] = ["quorate", "etcd"];

fn medians(row: &Row, at: usize, figure: fn(&Sample) -> f64) -> f64 {
    median(row.rounds.iter().map(|round| figure(&round[at])).collect())
}

/// Ours to etcd's, round by round: median, least, most.
fn ratio(row: &Row, figure: fn(&Sample) -> f64) -> [f64; 3] {
    let ratios: Vec<f64> = row.rounds.iter().map(|round| figure(&round[0]) / figure(&round[1])).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    [median(ratios), least, most]
}

/// One row in a line, while it runs.
pub fn line(row: &Row) -> String {
    let mut out = format!("{}:", row.title);
    for (at, name) in NAMES.iter().enumerate() {
        let _ = write!(
            out,
            " {name} {}/s, p50 {:.2}, p99 {:.2} ms, CPU {:.1} µs (loader {:.1});",
            thousands(medians(row, at, |sample| sample.rate)),
            medians(row, at, |sample| sample.p50_ms),
            medians(row, at, |sample| sample.p99_ms),
            medians(row, at, |sample| sample.cpu_us[0]),
            medians(row, at, |sample| sample.cpu_us[1]),
        );
    }
    out
}

fn table(rows: &[Row], notes: &[String]) -> String {
    let mut out = String::new();
    if !rows.is_empty() {
        out.push_str(
            "\n| | a second | etcd's | | p50 ms | etcd's | p99 ms | etcd's | | servers' CPU µs each | etcd's | |\n\
             |---|--:|--:|---|--:|--:|--:|--:|---|--:|--:|---|\n",
        );
    }
    for row in rows {
        let against = |figure: fn(&Sample) -> f64| {
            let [middle, least, most] = ratio(row, figure);
            format!("**{middle:.2}×** ({least:.2}–{most:.2})")
        };
        let both = |figure: fn(&Sample) -> f64| [medians(row, 0, figure), medians(row, 1, figure)];
        let (rate, cpu) = (both(|sample| sample.rate), both(|sample| sample.cpu_us[0]));
        let (p50, p99) = (both(|sample| sample.p50_ms), both(|sample| sample.p99_ms));
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {:.1} | {:.1} | {} |",
            row.title,
            thousands(rate[0]),
            thousands(rate[1]),
            against(|sample| sample.rate),
            p50[0],
            p50[1],
            p99[0],
            p99[1],
            against(|sample| sample.p99_ms),
            cpu[0],
            cpu[1],
            against(|sample| sample.cpu_us[0]),
        );
    }
    for note in notes {
        let _ = write!(out, "\n{note}\n");
    }
    out
}

fn first(text: Result<String, String>) -> String {
    text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned()
}

const HEAD: &str = "## Coordination and registry\n\n`cargo xtask bench discovery`. etcd and quorate run at once on this one machine and share its cores \
    with the loader; the loads alternate after a first that does not count. Medians; a ratio is ours to etcd's, the median of the rounds' with the \
    smallest and the largest. Asked: throughput ≥ 1.5×, CPU ≤ 0.33×, p99 ≤ 1×, of watches ≤ 0.5×. 128-byte values over 10,000 keys; eight calls in \
    flight on each connection, to the node that leads. What an answer to a write promises is the same: on the disks of a majority. A watch's row \
    counts deliveries, timed from before the put (20 a second).\n";

fn title(part: &str) -> &'static str {
    match part {
        "one" => "### One node",
        "three" => "### Three nodes",
        "watch" => "### Watches",
        _ => "### The registry",
    }
}

/// Replaces this part's table; the other parts keep what stands there.
pub fn write(plan: &Plan, part: &str, rows: &[Row], notes: &[String]) -> Result<(), String> {
    let there = fs::read_to_string(&plan.out).unwrap_or_default();
    let (before, rest) =
        there.split_once(BEGIN).map_or((there.trim_end(), ""), |(before, rest)| (before.trim_end(), rest));
    let (inside, after) = rest.split_once(END).unwrap_or(("", rest));
    let mut out = format!("{before}\n\n{BEGIN}\n{HEAD}");
    for (name, _) in super::PARTS {
        let mark = format!("<!-- part {name} -->\n");
        let kept = inside.split_once(&mark).map(|(_, text)| text.split("<!-- part ").next().unwrap_or("").trim_end());
        if name == part {
            let _ = write!(
                out,
                "\n{mark}{}\n\nRun {}, {}; quorate commit {}; {} rounds of {:.1} s.\n{}",
                title(name),
                first(output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
                first(output("etcd", &["--version"])),
                first(output("git", &["rev-parse", "--short", "HEAD"])),
                plan.rounds,
                plan.seconds,
                table(rows, notes)
            );
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

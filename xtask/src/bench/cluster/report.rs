//! The cluster's part of docs/benchmarks.md.

use super::{Plan, Row, Sample};
use crate::bench::report::{median, thousands};
use crate::shell::output;
use std::fmt::Write as _;
use std::fs;

const BEGIN: &str = "<!-- bench cluster: begin -->";
const END: &str = "<!-- bench cluster: end -->";

fn medians(row: &Row, at: usize, figure: &impl Fn(&Sample) -> f64) -> f64 {
    median(row.rounds.iter().map(|round| figure(&round[at])).collect())
}

/// The ratio of the first system to another, round by round: median, least, most.
fn ratio(row: &Row, to: usize, figure: impl Fn(&Sample) -> f64) -> [f64; 3] {
    let ratios: Vec<f64> = row.rounds.iter().map(|round| figure(&round[0]) / figure(&round[to])).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    [median(ratios), least, most]
}

/// One row in a line, while it runs.
pub fn line(row: &Row) -> String {
    let mut out = format!("{}:", row.title);
    for (at, name) in row.names.iter().enumerate() {
        let _ = write!(
            out,
            " {name} {}/s, p50 {:.2}, p99 {:.2} ms, CPU {:.1} (leader {:.1}, loader {:.1});",
            thousands(medians(row, at, &|sample| sample.rate)),
            medians(row, at, &|sample| sample.p50_ms),
            medians(row, at, &|sample| sample.p99_ms),
            medians(row, at, &|sample| sample.cpu[1]),
            medians(row, at, &|sample| sample.cpu[0]),
            medians(row, at, &|sample| sample.cpu[2]),
        );
    }
    out
}

/// What the disk alone did.
pub fn disk(before: f64, after: f64) -> String {
    format!(
        "The disk alone (4-KiB overwrite and fdatasync, one writer): {} a second before these runs, {} after.",
        thousands(before),
        thousands(after)
    )
}

fn table(rows: &[Row], notes: &[String]) -> String {
    let mut out = String::new();
    for row in rows {
        let _ = writeln!(
            out,
            "\n| {} | requests/s | p50 ms | p99 ms | CPU s / 100k: leader | all servers | loader | throughput of the first | its p99 |\n\
             |---|--:|--:|--:|--:|--:|--:|---|---|",
            row.title
        );
        for (at, name) in row.names.iter().enumerate() {
            let against = |figure: fn(&Sample) -> f64| match at {
                0 => "–".to_owned(),
                _ => {
                    let [middle, least, most] = ratio(row, at, figure);
                    format!("**{middle:.2}×** ({least:.2}–{most:.2})")
                }
            };
            let _ = writeln!(
                out,
                "| {name} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} |",
                thousands(medians(row, at, &|sample| sample.rate)),
                medians(row, at, &|sample| sample.p50_ms),
                medians(row, at, &|sample| sample.p99_ms),
                medians(row, at, &|sample| sample.cpu[0]),
                medians(row, at, &|sample| sample.cpu[1]),
                medians(row, at, &|sample| sample.cpu[2]),
                against(|sample| sample.rate),
                against(|sample| sample.p99_ms),
            );
        }
    }
    for note in notes {
        let _ = write!(out, "\n{note}\n");
    }
    out
}

fn head(plan: &Plan) -> String {
    let first = |text: Result<String, String>| text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned();
    format!(
        "## A cluster of three\n\n`cargo xtask bench cluster`, {}; {}; {}; quorate commit {}. All servers of a part run at once on this one machine \
         and share its cores with the loader; the loads alternate, {} rounds of {:.1} s after a first that does not count. Medians; a ratio is the \
         first system's against that line's, the median of the rounds' with the smallest and the largest. etcd: eight calls in flight on each of \
         eight connections to the leader; the others: a connection for each client. What an answer promises: ours and etcd, on the disks of a \
         majority of three; Redis, on the master's disk and in the replica's memory.\n",
        first(output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        first(output("etcd", &["--version"])),
        first(output("redis-server", &["--version"])).split(" sha=").next().unwrap_or("?"),
        first(output("git", &["rev-parse", "--short", "HEAD"])),
        plan.rounds,
        plan.seconds,
    )
}

fn title(part: &str) -> &'static str {
    match part {
        "loopback" => "### On loopback",
        "costs" => "### What a write costs",
        "slow" => "### With 1 ms between nodes and 2 ms added to each fsync",
        _ => "### By number of shards",
    }
}

/// Replaces this part's table; the other parts keep what stands there.
pub fn write(plan: &Plan, part: &str, rows: &[Row], notes: &[String]) -> Result<(), String> {
    let there = fs::read_to_string(&plan.out).unwrap_or_default();
    let (before, rest) =
        there.split_once(BEGIN).map_or((there.trim_end(), ""), |(before, rest)| (before.trim_end(), rest));
    let (inside, after) = rest.split_once(END).unwrap_or(("", rest));
    let mut out = format!("{before}\n\n{BEGIN}\n{}", head(plan));
    for (name, _) in super::PARTS {
        let mark = format!("<!-- part {name} -->\n");
        let kept = inside.split_once(&mark).map(|(_, text)| text.split("<!-- part ").next().unwrap_or("").trim_end());
        if name == part {
            let _ = write!(out, "\n{mark}{}\n{}", title(name), table(rows, notes));
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

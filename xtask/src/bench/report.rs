//! docs/benchmarks.md from what was found.

use super::measure::{Ask, Sample};
use super::{Block, Found, Mode, Plan, Row, footprint, shown};
use crate::shell::output;
use std::fmt::Write as _;
use std::fs;

/// What stands below it is written by hand and kept.
const NOTES: &str = "<!-- notes -->";

/// The median; NaN of nothing.
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    match numbers.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => numbers[n / 2],
        n => (numbers[n / 2 - 1] + numbers[n / 2]) / 2.0,
    }
}

/// Redis's and ours, each the median of its runs, and the median of the pairs' ratios with its spread.
struct Compared {
    redis: f64,
    quorate: f64,
    ratio: f64,
    least: f64,
    most: f64,
}

fn compare(row: &Row, figure: impl Fn(&Sample) -> f64) -> Compared {
    let ratios: Vec<f64> = row.pairs.iter().map(|(redis, ours)| figure(ours) / figure(redis)).collect();
    Compared {
        redis: median(row.pairs.iter().map(|(redis, _)| figure(redis)).collect()),
        quorate: median(row.pairs.iter().map(|(_, ours)| figure(ours)).collect()),
        least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
        most: ratios.iter().copied().fold(0.0, f64::max),
        ratio: median(ratios),
    }
}

/// A rate in thousands.
pub fn thousands(rate: f64) -> String {
    if rate >= 100_000.0 { format!("{:.0}k", rate / 1000.0) } else { format!("{:.1}k", rate / 1000.0) }
}

/// One row in a line, while it runs.
pub fn line(mode: Mode, row: &Row) -> String {
    let (rate, cpu) = (compare(row, |sample| sample.rate), compare(row, |sample| sample.cpu));
    let p99 = compare(row, |sample| sample.p99_ms);
    format!(
        "{mode:?} {} c{} P{}: {} against {}, {:.2}× ({:.2}–{:.2}); CPU {:.2}×; p99 {:.2} against {:.2} ms",
        row.test,
        row.connections,
        row.pipeline,
        thousands(rate.quorate),
        thousands(rate.redis),
        rate.ratio,
        rate.least,
        rate.most,
        cpu.ratio,
        p99.quorate,
        p99.redis
    )
}

/// What the issue asks of a row: the least ratio of throughput and the largest of CPU.
fn asked(mode: Mode, row: &Row) -> (Option<f64>, Option<f64>) {
    let writes = row.test != "GET" && !row.test.contains('%');
    match (mode, row.connections, row.pipeline) {
        (Mode::Memory, _, 1) => (Some(1.0), Some(1.0)),
        (Mode::Memory, ..) => (None, Some(0.7)),
        (_, 1, _) => (Some(1.2), Some(1.3)),
        (_, _, 1) => (Some(1.0), Some(1.3)),
        _ => (writes.then_some(1.5), Some(1.3)),
    }
}

fn table(out: &mut String, mode: Mode, rows: &[Row]) {
    let _ = writeln!(
        out,
        "\n| test | conns | P | redis req/s | quorate req/s | ratio (least–most) | asked | p50 ms | p99 ms | CPU s / 100k | CPU ratio | asked |"
    );
    let _ = writeln!(out, "|---|--:|--:|--:|--:|---|---|---|---|---|---|---|");
    for row in rows {
        let (rate, cpu) = (compare(row, |sample| sample.rate), compare(row, |sample| sample.cpu));
        let (p50, p99) = (compare(row, |sample| sample.p50_ms), compare(row, |sample| sample.p99_ms));
        let (rate_asked, cpu_asked) = asked(mode, row);
        let verdict = |asked: Option<f64>, sign: &str, met: &dyn Fn(f64) -> bool| {
            asked.map_or("–".to_owned(), |wanted| {
                format!("{sign} {wanted} {}", if met(wanted) { "✓" } else { "**short**" })
            })
        };
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} | **{:.2}×** ({:.2}–{:.2}) | {} | {:.2} → {:.2} | {:.2} → {:.2}{} | {:.2} → {:.2} | {:.2}× ({:.2}–{:.2}) | {} |",
            row.test,
            row.connections,
            row.pipeline,
            thousands(rate.redis),
            thousands(rate.quorate),
            rate.ratio,
            rate.least,
            rate.most,
            verdict(rate_asked, "≥", &|wanted| rate.ratio >= wanted),
            p50.redis,
            p50.quorate,
            p99.redis,
            p99.quorate,
            if p99.ratio > 1.0 { " **worse**" } else { "" },
            cpu.redis,
            cpu.quorate,
            cpu.ratio,
            cpu.least,
            cpu.most,
            verdict(cpu_asked, "≤", &|wanted| cpu.ratio <= wanted),
        );
    }
}

fn block(out: &mut String, block: &Block) {
    let _ = writeln!(out, "\n## {}", block.mode.title());
    let _ = writeln!(
        out,
        "\nredis-server `{}`; quorate `{}`.{}",
        block
            .mode
            .redis_args()
            .iter()
            .map(|word| if word.is_empty() { "''" } else { word })
            .collect::<Vec<_>>()
            .join(" "),
        ["up", &block.mode.quorate_args().join(" ")].join(" ").trim_end(),
        match block.mode {
            Mode::Memory => " Neither writes a file.",
            Mode::Fsync => " Both have what they acknowledge on disk before they answer.",
            Mode::SlowDisk => " Redis through a preloaded library, quorate by `QUORATE_SYNC_DELAY_US=2000`.",
        }
    );
    if let Some((before, after)) = block.disk {
        let _ = writeln!(
            out,
            "\nThe disk alone (4-KiB overwrite and fdatasync, one writer): {} a second before these runs, {} after.{}",
            thousands(before),
            thousands(after),
            if block.mode == Mode::SlowDisk { " With 2 ms added: at most 0.5k." } else { "" }
        );
    }
    if !block.rows.is_empty() {
        table(out, block.mode, &block.rows);
    }
    if !block.mix.is_empty() {
        let _ = writeln!(out, "\nA mix over 100,000 keys, Zipf 0.99, by our own loader (a thread per connection):");
        table(out, block.mode, &block.mix);
    }
}

fn footprints(out: &mut String, found: &Found) {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    if let Some(keys) = found.footprint.first().map(|one| one.keys) {
        let _ = writeln!(out, "\n## Memory\n\n{keys} strings of 100 bytes under 12-byte keys; resident memory.\n");
        let _ = writeln!(out, "| server | empty MB | full MB | bytes a key |\n|---|--:|--:|--:|");
        for one in &found.footprint {
            let (empty, full) = one.resident;
            let each = full.saturating_sub(empty) as f64 / one.keys as f64;
            let _ = writeln!(out, "| {} | {:.1} | {:.1} | {each:.0} |", one.server, megabytes(empty), megabytes(full));
        }
    }
    let Some(footprint::Snapshots { keys, stalls }) = &found.snapshot else { return };
    let _ = writeln!(
        out,
        "\n## A snapshot, and a start\n\n{keys} strings of 100 bytes. One connection asks without a pause, GET and SET in turn, at rest and while the \
         snapshot is made.\n"
    );
    let _ = writeln!(
        out,
        "| server | snapshot s | GET p50 / p99 / longest ms at rest | during | SET at rest | during | resident MB at rest | most during | start s after a stop | after kill -9 |\n|---|--:|---|---|---|---|--:|--:|--:|--:|"
    );
    let three = |[p50, p99, most]: [f64; 3]| format!("{p50:.2} / {p99:.2} / {most:.1}");
    for stall in stalls {
        let _ = writeln!(
            out,
            "| {} | {:.1} | {} | {} | {} | {} | {:.0} | {:.0} | {:.2} | {} |",
            stall.server,
            stall.snapshot.as_secs_f64(),
            three(stall.get_ms.0),
            three(stall.get_ms.1),
            three(stall.set_ms.0),
            three(stall.set_ms.1),
            megabytes(stall.resident.0),
            megabytes(stall.resident.1),
            stall.start_after_stop.as_secs_f64(),
            stall.start_after_kill.map_or("–".into(), |took| format!("{:.2}", took.as_secs_f64())),
        );
    }
}

/// What ran on what.
fn machine(plan: &Plan) -> String {
    let first = |text: Result<String, String>| text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned();
    let field = |file: &str, name: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?");
        value.trim_matches(|c: char| matches!(c, ':' | '=' | '"') || c.is_whitespace()).to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let gigabytes = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0) / 1048576.0;
    let changed = output("git", &["status", "--porcelain", "--untracked-files=no", "--", ":!docs"])
        .is_ok_and(|said| !said.trim().is_empty());
    format!(
        "| | |\n|---|---|\n| date | {} |\n| machine | {}, {cores} cores, {gigabytes:.0} GiB, {}, Linux {} |\n| file system | {} |\n| redis-server | {} |\n| client | {} |\n| quorate | {}, commit {}{}, {} |\n",
        first(output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        field("/proc/cpuinfo", "model name"),
        field("/etc/os-release", "PRETTY_NAME"),
        first(output("uname", &["-r"])),
        first(output("findmnt", &["-n", "-o", "FSTYPE", "--target", &plan.dir.to_string_lossy()])),
        first(output("redis-server", &["--version"])),
        first(output("redis-benchmark", &["--version"])),
        first(output(&plan.bin.to_string_lossy(), &["--version"])),
        first(output("git", &["rev-parse", "--short", "HEAD"])),
        if changed { " with changes" } else { "" },
        first(output("rustc", &["--version"])),
    )
}

/// Writes the document; what stands in it below [`NOTES`] stays.
pub fn write(plan: &Plan, found: &Found) -> Result<(), String> {
    let mut out = String::from(
        "# Benchmarks\n\n<!-- Generated by `cargo xtask bench redis`, down to the line of the notes. -->\n\n",
    );
    out.push_str(&machine(plan));
    let sample = Ask { test: "SET", connections: 50, pipeline: 16, requests: 100_000 }.words("PORT").join(" ");
    let _ = writeln!(
        out,
        "\n`cargo xtask bench redis{}`: both servers of a block run at once, the loads alternate (redis, quorate, redis, …), {} pairs of about \
         {:.1} s each after a first run that does not count; {:.0} minutes in all. Client: `redis-benchmark {sample}` and its like (XADD: \
         `XADD mystream * f VALUE`), the number of requests by what a run should take; the data are emptied before each run, GET reads 100,000 \
         keys that are there. A *ratio* is the median of the pairs' ratios, with the smallest and the largest. Two figures with an arrow are \
         redis → quorate, medians. *CPU* is the server's own, user and system, from `/proc/PID/stat`: client and servers share the cores, so at \
         P 1 half of what throughput shows is the client. *asked* is what the first issue asks for; a latency is **worse** when the median of \
         the pairs' ratios is above 1.",
        if plan.quick { " --quick" } else { "" },
        plan.pairs,
        plan.seconds,
        found.took.as_secs_f64() / 60.0,
    );
    if plan.quick || plan.pairs < 5 {
        let _ = writeln!(out, "\n**A quick run: too few pairs for figures to be quoted.**");
    }
    if let Some(seconds) = found.build_seconds {
        let _ = writeln!(
            out,
            "\nFrom a clean checkout to a node that answers, the build included: {:.1} minutes (packages already downloaded).",
            seconds / 60.0
        );
    }
    for one in &found.blocks {
        block(&mut out, one);
    }
    footprints(&mut out, found);
    let there = fs::read_to_string(&plan.out).unwrap_or_default();
    let notes = there.split_once(NOTES).map_or("\n", |(_, notes)| notes);
    let _ = write!(out, "\n{NOTES}{notes}");
    if let Some(dir) = plan.out.parent() {
        let _ = fs::create_dir_all(dir);
    }
    fs::write(&plan.out, out).map_err(|error| format!("{}: {error}", shown(&plan.out)))
}

#[cfg(test)]
mod tests {
    use super::{compare, median};
    use crate::bench::{Row, measure::Sample};

    #[test]
    fn ratios_are_of_pairs() {
        let sample = |rate| Sample { rate, ..Sample::default() };
        let pairs = [(10.0, 20.0), (100.0, 100.0), (1.0, 3.0)].map(|(redis, ours)| (sample(redis), sample(ours)));
        let row = Row { test: "SET".into(), connections: 1, pipeline: 1, pairs: pairs.to_vec() };
        let compared = compare(&row, |sample| sample.rate);
        assert_eq!((compared.ratio, compared.least, compared.most), (2.0, 1.0, 3.0));
        assert_eq!((compared.redis, compared.quorate), (10.0, 20.0));
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
    }
}

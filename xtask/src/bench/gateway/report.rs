//! The gateway's part of docs/benchmarks.md.

use super::{Found, Idle, Plan, Row, Sample};
use crate::bench::report::{median, thousands};
use crate::shell::output;
use std::fmt::Write as _;
use std::fs;

const BEGIN: &str = "<!-- bench gateway: begin -->";
const END: &str = "<!-- bench gateway: end -->";
const NOTES: &str = "<!-- notes -->";

fn medians(row: &Row, at: usize, figure: &impl Fn(&Sample) -> f64) -> f64 {
    median(row.rounds.iter().map(|round| figure(&round[at])).collect())
}

/// The peer with the lowest median of the figure, and the ratios of ours to it, round by round: median, least, most.
fn against(row: &Row, figure: impl Fn(&Sample) -> f64) -> (usize, f64, f64, f64) {
    let peers = 1..row.names.iter().position(|name| name == "no balancer").unwrap_or(row.names.len());
    let best = peers
        .min_by(|left, right| medians(row, *left, &figure).total_cmp(&medians(row, *right, &figure)))
        .unwrap_or_default();
    let ratios: Vec<f64> = row.rounds.iter().map(|round| figure(&round[0]) / figure(&round[best])).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    (best, median(ratios), least, most)
}

/// The least and the most of the rounds.
fn spread(row: &Row, at: usize, figure: impl Fn(&Sample) -> f64) -> (f64, f64) {
    let all = row.rounds.iter().map(|round| figure(&round[at]));
    all.fold((f64::INFINITY, 0.0), |(least, most), it| (least.min(it), most.max(it)))
}

/// One row in a line, while it runs.
pub fn line(row: &Row) -> String {
    let mut out = format!("{}:", row.title);
    for (at, name) in row.names.iter().enumerate() {
        let _ = write!(
            out,
            " {name} {:.2} CPU s, {}/s, p50 {:.2}, p99 {:.2} ms;",
            medians(row, at, &|sample| sample.cpu),
            thousands(medians(row, at, &|sample| sample.rate)),
            medians(row, at, &|sample| sample.p50_ms),
            medians(row, at, &|sample| sample.p99_ms),
        );
    }
    for (what, figure) in [("CPU", (|sample| sample.cpu) as fn(&Sample) -> f64), ("p99", |sample| sample.p99_ms)] {
        let (best, ratio, least, most) = against(row, figure);
        let _ = write!(out, " {what} {ratio:.2}× ({least:.2}–{most:.2}) of {}", row.names[best]);
    }
    out
}

fn rows(out: &mut String, rows: &[Row]) {
    for row in rows {
        let _ =
            writeln!(out, "\n| {} | CPU s / 100k | requests/s | p50 ms | p99 ms |\n|---|--:|--:|--:|--:|", row.title);
        for (at, name) in row.names.iter().enumerate() {
            let cpu = medians(row, at, &|sample| sample.cpu);
            let (least, most) = spread(row, at, |sample| sample.p99_ms);
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {:.3} | {:.3} ({least:.2}–{most:.2}) |",
                if cpu > 0.0 { format!("{cpu:.2}") } else { "–".into() },
                thousands(medians(row, at, &|sample| sample.rate)),
                medians(row, at, &|sample| sample.p50_ms),
                medians(row, at, &|sample| sample.p99_ms),
            );
        }
        let verdict = |asked: Option<f64>, ratio: f64| match asked {
            Some(most) => format!("; asked: ≤ {most} {}", if ratio <= most { "✓" } else { "**short**" }),
            None => String::new(),
        };
        let (cpu, p99) = (against(row, |sample| sample.cpu), against(row, |sample| sample.p99_ms));
        let _ = writeln!(
            out,
            "\nCPU **{:.2}×** ({:.2}–{:.2}) of {}{}. p99 **{:.2}×** ({:.2}–{:.2}) of {}{}.",
            cpu.1,
            cpu.2,
            cpu.3,
            row.names[cpu.0],
            verdict(row.asked.0, cpu.1),
            p99.1,
            p99.2,
            p99.3,
            row.names[p99.0],
            verdict(row.asked.1, p99.1),
        );
    }
}

fn idle(out: &mut String, found: &Idle) {
    let _ = writeln!(
        out,
        "\n| idle connections (one answer each) | connections | KiB each | resident MB before |\n|---|--:|--:|--:|"
    );
    for (name, count, each, before) in found {
        let _ = writeln!(out, "| {name} | {count} | {:.1} | {:.1} |", each / 1024.0, *before as f64 / 1e6);
    }
    let ours = found.first().map_or(f64::NAN, |one| one.2 / 1024.0);
    let _ = writeln!(out, "\nAsked: at most 16 KiB: {}.", if ours <= 16.0 { "✓" } else { "**short**" });
}

fn first(text: Result<String, String>) -> String {
    text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned()
}

/// The text that a part of the document has now.
fn part<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<!-- part {name} -->"))?;
    Some(rest.split("<!-- ").next().unwrap_or(rest).trim())
}

/// Writes one part's tables into the document; the other parts stay.
pub fn write(plan: &Plan, name: &str, found: &Found) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", plan.out.display());
    let there = fs::read_to_string(&plan.out).map_err(at)?;
    let (before, own, behind) =
        match there.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?))) {
            Some((before, (own, behind))) => (before.to_owned(), own.to_owned(), behind.to_owned()),
            None => match there.split_once(NOTES) {
                Some((before, notes)) => (format!("{before}{NOTES}\n\n"), String::new(), format!("\n{notes}")),
                None => return Err(format!("{}: no line {NOTES}", plan.out.display())),
            },
        };
    let mut tables = String::new();
    match found {
        Found::Rows(found) => rows(&mut tables, found),
        Found::Idle(found) => idle(&mut tables, found),
    }
    let made = format!(
        "Run {}, commit {}, {} rounds of {} s{}.\n",
        first(output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        first(output("git", &["rev-parse", "--short", "HEAD"])),
        plan.rounds,
        plan.seconds,
        if plan.quick { " (**quick: for the direction, not to be quoted**)" } else { "" },
    );
    let versions = format!(
        "{}; {}; wrk {}; {}; {}",
        first(output("sh", &["-c", "PATH=$PATH:/usr/sbin nginx -v 2>&1"])).replace("nginx version: ", ""),
        first(output("sh", &["-c", "PATH=$PATH:/usr/sbin haproxy -v"]))
            .split(' ')
            .take(3)
            .collect::<Vec<_>>()
            .join(" "),
        first(output("sh", &["-c", "wrk -v 2>&1 || true"])).split(' ').nth(1).unwrap_or("?"),
        first(output("h2load", &["--version"])),
        first(output(&plan.bin.to_string_lossy(), &["--version"])),
    );
    let mut out = format!(
        "{BEGIN}\n\n## The gateway beside nginx and HAProxy\n\n`cargo xtask bench gateway{}`: {versions}. 1 KiB over keep-alive to three upstreams \
         (nginx, one worker, three ports), round robin, one worker or thread each (two where it says so); nginx with `keepalive 128` and HTTP/1.1 to \
         upstreams, HAProxy with `http-reuse always`, both adding X-Forwarded-For; ours with every protection on, adding X-Forwarded-*, Forwarded, \
         traceparent and the deadline. `wrk -t1`, `h2load -t1`. Medians; a ratio is the median of the rounds' ratios with the smallest and the \
         largest, ours over the better peer's. CPU is the balancer's own, children and threads included; client and upstreams share the cores with it.\n",
        if plan.quick { " --quick" } else { "" },
    );
    for (one, _) in super::PARTS {
        let text = if one == name { format!("{made}{tables}") } else { part(&own, one).unwrap_or_default().to_owned() };
        if !text.trim().is_empty() {
            let _ = write!(out, "\n<!-- part {one} -->\n\n{}\n", text.trim());
        }
    }
    fs::write(&plan.out, format!("{before}{out}\n{END}{behind}")).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::{against, part};
    use crate::bench::gateway::{Row, Sample};

    #[test]
    fn the_better_peer_is_compared() {
        let round = |cpus: [f64; 3]| cpus.map(|cpu| Sample { cpu, ..Sample::default() }).to_vec();
        let row = Row {
            title: "x".into(),
            names: ["quorate", "nginx", "HAProxy"].map(str::to_owned).to_vec(),
            rounds: vec![round([2.0, 4.0, 5.0]), round([3.0, 3.0, 9.0]), round([1.0, 4.0, 4.0])],
            asked: (None, None),
        };
        assert_eq!(against(&row, |sample| sample.cpu), (1, 0.5, 0.25, 1.0));
    }

    #[test]
    fn a_part_ends_where_the_next_begins() {
        let text = "a <!-- part tcp -->\n\n| x |\n\n<!-- part h2 -->\ny\n";
        assert_eq!((part(text, "tcp"), part(text, "h2"), part(text, "idle")), (Some("| x |"), Some("y"), None));
    }
}

//! `cargo xtask bench dns`: Debian's dnsmasq and quorate's DNS door in alternation, in the same minutes, under the same `dnsperf`.
//!
//! ```text
//! cargo xtask bench dns [--quick] [--bin PATH] [--out FILE] [--pairs N] [--seconds S] [--names N]
//! ```
//!
//! Both know the same names with one address each: dnsmasq from a hosts file, quorate as instances of services out of its configuration. Client and
//! servers share the machine's cores, so the figure to compare is answers for each second of the server's CPU; rate and latency stand beside
//! it. Quoted is the median of the pairs' ratios with the smallest and the largest. Every answer must be NOERROR and none may be lost.
//! Writes its part of docs/benchmarks.md, between marks of its own.

use super::gateway::peers::{Process, program};
use super::measure;
use super::report::{median, thousands};
use crate::server::{Server, free_port};
use crate::shell::{output, root};
use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const BEGIN: &str = "<!-- bench dns: begin -->";
const END: &str = "<!-- bench dns: end -->";
/// What stands before our part: the gateway's, or else the line above all parts that are kept.
const BEFORE: [&str; 2] = ["<!-- bench gateway: end -->", "<!-- notes -->"];
/// dnsperf's clients and the queries that are under way at once.
const LOAD: [&str; 4] = ["-c", "8", "-q", "100"];
/// How long quorate may take to register all names.
const REGISTER_MAX: Duration = Duration::from_secs(120);

struct Plan {
    quick: bool,
    pairs: usize,
    seconds: u64,
    names: usize,
    bin: PathBuf,
    out: PathBuf,
    dir: PathBuf,
}

/// What one run on one server showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Sample {
    /// Answers a second of the clock.
    rate: f64,
    /// Answers for a second of the server's CPU.
    each_cpu_second: f64,
    latency_ms: f64,
}

fn name(at: usize) -> String {
    format!("web-{at}")
}

fn address(at: usize) -> String {
    format!("10.{}.{}.{}", 1 + at / 65_536, at / 256 % 256, at % 256)
}

/// Entry of `cargo xtask bench dns`.
pub fn run(args: &[String]) -> Result<(), String> {
    let plan = read(args)?;
    program("dnsmasq").map_err(|_| "dnsmasq is not there: apt-get install dnsmasq-base")?;
    program("dnsperf")?;
    if !plan.bin.is_file() {
        return Err(format!("{} is not there: cargo build --release -p quorate, or --bin PATH", plan.bin.display()));
    }
    let start = Instant::now();
    let _ = fs::remove_dir_all(&plan.dir);
    fs::create_dir_all(&plan.dir).map_err(|error| format!("{}: {error}", plan.dir.display()))?;
    let (mut hosts, mut queries, mut config) = (String::new(), String::new(), String::new());
    for at in 0..plan.names {
        let (name, address) = (name(at), address(at));
        let _ = writeln!(hosts, "{address} {name}.service.consul");
        let _ = writeln!(config, "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = 80");
    }
    // In an order without a pattern, the same at every run.
    let mut rng = crate::rng::Rng::new(7);
    for _ in 0..plan.names * 4 {
        let _ = writeln!(queries, "{}.service.consul A", name(rng.next() as usize % plan.names));
    }
    let file = |name: &str, text: &str| {
        let path = plan.dir.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok::<_, String>(path.to_string_lossy().into_owned())
    };
    let (hosts, queries, config) = (file("hosts", &hosts)?, file("queries", &queries)?, file("quorate.toml", &config)?);

    let port = free_port()?.to_string();
    let words = [
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--listen-address=127.0.0.1",
        "--local=/consul/",
        "--cache-size=10000",
        "--port",
        &port,
        "--addn-hosts",
        &hosts,
    ];
    let dnsmasq = Process::start("dnsmasq", &words, &plan.dir.join("dnsmasq.log"))?;
    let dnsmasq_at = format!("127.0.0.1:{port}");
    until_told(&plan, &dnsmasq_at, Duration::from_secs(20))?;
    let quorate = Server::quorate(&plan.bin, &plan.dir.join("quorate"), &["--config", &config], &[])?;
    let registered = until_told(&plan, &quorate.dns, REGISTER_MAX)?;
    println!("bench: all names are told {:.1} s after the node was ready", registered.as_secs_f64());

    let servers = [(quorate.dns.as_str(), quorate.pid()), (dnsmasq_at.as_str(), dnsmasq.0.id())];
    for (at, pid) in servers {
        load(at, pid, &queries, 1)?;
    }
    let mut pairs = Vec::new();
    for pair in 0..plan.pairs {
        let mut samples = [Sample::default(); 2];
        for step in 0..2 {
            let which = (pair + step) % 2;
            let (at, pid) = servers[which];
            samples[which] = load(at, pid, &queries, plan.seconds)?;
        }
        println!(
            "bench: answers for a CPU second: quorate {}, dnsmasq {}",
            thousands(samples[0].each_cpu_second),
            thousands(samples[1].each_cpu_second)
        );
        pairs.push(samples);
    }
    let memory = [measure::resident_bytes(quorate.pid())?, measure::resident_bytes(dnsmasq.0.id())?];
    write(&plan, &pairs, memory, registered)?;
    quorate.stop()?;
    drop(dnsmasq);
    let _ = fs::remove_dir_all(&plan.dir);
    println!("bench: {:.1} minutes; wrote {}", start.elapsed().as_secs_f64() / 60.0, plan.out.display());
    Ok(())
}

fn read(args: &[String]) -> Result<Plan, String> {
    let root = root();
    let quick = args.iter().any(|flag| flag == "--quick");
    let (pairs, seconds) = if quick { (3, 2) } else { (7, 5) };
    let mut plan = Plan {
        quick,
        pairs,
        seconds,
        names: 10_000,
        bin: root.join("target/release/quorate"),
        out: root.join("docs/benchmarks.md"),
        dir: root.join("target/bench-dns"),
    };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        let number =
            |text: String| text.parse().ok().filter(|n| *n > 0).ok_or(format!("{flag} wants a number above 0"));
        match flag.as_str() {
            "--quick" => {}
            "--bin" => plan.bin = PathBuf::from(value()?),
            "--out" => plan.out = PathBuf::from(value()?),
            "--pairs" => plan.pairs = number(value()?)? as usize,
            "--seconds" => plan.seconds = number(value()?)?,
            "--names" => plan.names = number(value()?)? as usize,
            _ => return Err(format!("bench dns does not know {flag}")),
        }
    }
    Ok(plan)
}

/// Waits until every name is told; how long that took.
fn until_told(plan: &Plan, at: &str, most: Duration) -> Result<Duration, String> {
    let start = Instant::now();
    let socket = UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.connect(at).map(|()| socket));
    let socket = socket.map_err(|error| format!("{at}: {error}"))?;
    let _ = socket.set_read_timeout(Some(Duration::from_millis(500)));
    for name in (0..plan.names).map(name) {
        let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in [name.as_str(), "service", "consul"] {
            query.push(label.len() as u8);
            query.extend_from_slice(label.as_bytes());
        }
        query.extend_from_slice(b"\x00\x00\x01\x00\x01");
        loop {
            let mut answer = [0; 512];
            // Four bits of RCODE, and how many records answer (RFC 1035 §4.1.1).
            let told = socket.send(&query).is_ok()
                && socket.recv(&mut answer).is_ok()
                && answer[3] & 15 == 0
                && answer[6..8] == [0, 1];
            if told {
                break;
            }
            if start.elapsed() > most {
                return Err(format!("{at}: {name} is not told after {} s", most.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    Ok(start.elapsed())
}

fn load(at: &str, pid: u32, queries: &str, seconds: u64) -> Result<Sample, String> {
    let (host, port) = at.rsplit_once(':').ok_or_else(|| format!("{at}: no port"))?;
    let before = measure::cpu_seconds(pid)?;
    let seconds = seconds.to_string();
    let mut command = Command::new(program("dnsperf")?);
    command.args(["-s", host, "-p", port, "-d", queries, "-l", &seconds]).args(LOAD);
    let done = command.stdin(Stdio::null()).output().map_err(|error| format!("dnsperf: {error}"))?;
    let said = String::from_utf8_lossy(&done.stdout);
    let complaint = || format!("dnsperf at {at}:\n{said}{}", String::from_utf8_lossy(&done.stderr));
    let (completed, sample) = read_dnsperf(&said).ok_or_else(complaint)?;
    let cpu = measure::cpu_seconds(pid)? - before;
    Ok(Sample { each_cpu_second: completed / cpu.max(0.01), ..sample })
}

/// Answers and what else dnsperf says; nothing where a query was lost or an answer was not NOERROR.
fn read_dnsperf(said: &str) -> Option<(f64, Sample)> {
    let after = |mark: &str| said.lines().find_map(|line| line.trim().strip_prefix(mark)).map(str::trim);
    let first = |text: &str| text.split_whitespace().next()?.parse::<f64>().ok();
    let completed = first(after("Queries completed:")?)?;
    let lost = first(after("Queries lost:")?)?;
    let good = first(after("Response codes:")?.strip_prefix("NOERROR")?)?;
    let rate = first(after("Queries per second:")?)?;
    let latency_ms = first(after("Average Latency (s):")?)? * 1000.0;
    (lost == 0.0 && good == completed && completed > 0.0)
        .then_some((completed, Sample { rate, latency_ms, ..Sample::default() }))
}

fn first_line(text: Result<String, String>) -> String {
    text.unwrap_or_default().lines().next().unwrap_or("?").trim().to_owned()
}

fn write(plan: &Plan, pairs: &[[Sample; 2]], memory: [u64; 2], registered: Duration) -> Result<(), String> {
    let at = |error: std::io::Error| format!("{}: {error}", plan.out.display());
    let there = fs::read_to_string(&plan.out).map_err(at)?;
    let ours = there.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, behind) = match ours {
        Some((before, behind)) => (before.to_owned(), behind.to_owned()),
        None => {
            let mark = BEFORE.into_iter().find(|mark| there.contains(mark));
            let (before, behind) = mark
                .and_then(|mark| there.split_once(mark).map(|(before, behind)| (format!("{before}{mark}\n\n"), behind)))
                .ok_or_else(|| format!("{}: no line {}", plan.out.display(), BEFORE[1]))?;
            (before, behind.to_owned())
        }
    };
    let ratios: Vec<f64> = pairs.iter().map(|[ours, peer]| ours.each_cpu_second / peer.each_cpu_second).collect();
    let least = ratios.iter().copied().fold(f64::INFINITY, f64::min);
    let most = ratios.iter().copied().fold(0.0, f64::max);
    let ratio = median(ratios);
    let middle =
        |which: usize, figure: fn(&Sample) -> f64| median(pairs.iter().map(|pair| figure(&pair[which])).collect());
    let mut rows = String::new();
    for (which, name) in ["quorate", "dnsmasq"].into_iter().enumerate() {
        let _ = writeln!(
            rows,
            "| {name} | {} | {} | {:.2} | {:.0} |",
            thousands(middle(which, |sample| sample.each_cpu_second)),
            thousands(middle(which, |sample| sample.rate)),
            middle(which, |sample| sample.latency_ms),
            memory[which] as f64 / 1e6,
        );
    }
    println!("bench: answers for a CPU second {ratio:.2}× ({least:.2}–{most:.2}) of dnsmasq's");
    let text = format!(
        "{BEGIN}\n\n## DNS beside dnsmasq\n\n`cargo xtask bench dns{}`, run {}, commit {}: {}; dnsperf {}; {}. {} names with one address each, asked \
         for A over UDP at random, `dnsperf {}`, {} pairs of {} s in alternation, medians. dnsmasq reads them from a hosts file with \
         `cache-size=10000`; quorate has them as instances of as many services and looks each up in the registry, whose answers are never \
         older than the last change. No query was lost and every answer was NOERROR.\n\n\
         | A over UDP | answers for a CPU second | answers/s | mean latency ms | resident MB |\n|---|--:|--:|--:|--:|\n{rows}\n\
         Answers for a second of the server's CPU **{ratio:.2}×** ({least:.2}–{most:.2}) of dnsmasq's; asked: at least 1 {}. After its start the \
         node took {:.1} s to tell all names.\n\n{END}",
        if plan.quick { " --quick" } else { "" },
        first_line(output("date", &["-u", "+%Y-%m-%d %H:%M UTC"])),
        first_line(output("git", &["rev-parse", "--short", "HEAD"])),
        first_line(output(&program("dnsmasq")?.to_string_lossy(), &["--version"])).split("  ").next().unwrap_or("?"),
        first_line(output("sh", &["-c", "dnsperf -d /dev/null -l 1 2>&1 | sed -n 's/^Version //p'"])),
        first_line(output(&plan.bin.to_string_lossy(), &["--version"])),
        plan.names,
        LOAD.join(" "),
        pairs.len(),
        plan.seconds,
        if ratio >= 1.0 { "✓" } else { "**short**" },
        registered.as_secs_f64(),
    );
    fs::write(&plan.out, format!("{before}{text}{behind}")).map_err(at)
}

#[cfg(test)]
mod tests {
    use super::{Sample, address, read_dnsperf};

    const SAID: &str = "Statistics:\n\n  Queries sent:         500\n  Queries completed:    500 (100.00%)\n  Queries lost:         0 (0.00%)\n\n  Response codes:       NOERROR 500 (100.00%)\n  Average packet size:  request 40, response 56\n  Run time (s):         2.5\n  Queries per second:   200.0\n\n  Average Latency (s):  0.000500 (min 0.000010, max 0.010000)\n";

    #[test]
    fn figures_of_dnsperf_and_none_where_anything_went_wrong() {
        let sample = Sample { rate: 200.0, latency_ms: 0.5, ..Sample::default() };
        assert_eq!(read_dnsperf(SAID), Some((500.0, sample)));
        assert_eq!(read_dnsperf(&SAID.replace("lost:         0", "lost:         1")), None);
        assert_eq!(read_dnsperf(&SAID.replace("NOERROR 500", "NOERROR 499 (99%), NXDOMAIN 1")), None);
    }

    #[test]
    fn addresses_are_told_apart() {
        assert_eq!(
            (address(0), address(9999), address(65_536)),
            ("10.1.0.0".into(), "10.1.39.15".into(), "10.2.0.0".into())
        );
    }
}

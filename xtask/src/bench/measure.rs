//! Instruments: redis-benchmark, a server's CPU and memory, the disk alone.

use crate::server::Server;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Keys that redis-benchmark draws from.
pub const KEYS: u64 = 100_000;
/// Bytes of a value.
pub const VALUE_BYTES: usize = 128;
/// Clock ticks a second in /proc/PID/stat, on every Linux of today (USER_HZ).
const TICKS: f64 = 100.0;

/// What one run on one server showed.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Requests answered.
    pub requests: usize,
    /// Requests a second.
    pub rate: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// The latency that one in a hundred exceeds.
    pub p99_ms: f64,
    /// The server's CPU seconds for 100,000 requests.
    pub cpu: f64,
}

/// One run of redis-benchmark.
pub struct Ask<'a> {
    /// GET, SET, INCR, LPUSH, HSET, XADD or MSET.
    pub test: &'a str,
    /// `-c`.
    pub connections: usize,
    /// `-P`.
    pub pipeline: usize,
    /// `-n`.
    pub requests: usize,
}

impl Ask<'_> {
    /// The requests, rounded up to whole pipelines: else redis-benchmark may let its last client go before it counts itself
    /// done, and says "All clients disconnected" (redis/redis #4575), whatever the server.
    fn whole(&self) -> usize {
        self.requests.next_multiple_of(self.pipeline * self.connections)
    }

    /// Its words after the program's name.
    pub fn words(&self, port: &str) -> Vec<String> {
        let numbers =
            [("-p", port.to_owned()), ("-c", self.connections.to_string()), ("-P", self.pipeline.to_string())];
        let more = [("-n", self.whole().to_string()), ("-d", VALUE_BYTES.to_string()), ("-r", KEYS.to_string())];
        let mut words: Vec<String> =
            numbers.into_iter().chain(more).flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        words.push("--csv".into());
        if self.test == "XADD" {
            words.extend(["XADD", "mystream", "*", "f"].map(str::to_owned));
            words.push("x".repeat(VALUE_BYTES));
        } else {
            words.extend(["-t".to_owned(), self.test.to_lowercase()]);
        }
        words
    }
}

/// Runs redis-benchmark against a server, with the server's CPU.
pub fn redis_benchmark(ask: &Ask, server: &Server) -> Result<Sample, String> {
    with_cpu(server, || {
        let done = Command::new("redis-benchmark").args(ask.words(server.port())).stdin(Stdio::null()).output();
        let done = done.map_err(|error| format!("redis-benchmark: {error}"))?;
        let said = String::from_utf8_lossy(&done.stdout);
        let sample = said.lines().rev().find_map(read_csv).ok_or_else(|| {
            let complaint = String::from_utf8_lossy(&done.stderr);
            format!("redis-benchmark {}: no figures: {}{complaint}", ask.test, said.trim())
        })?;
        Ok(Sample { requests: ask.whole(), ..sample })
    })
}

/// `"SET","123.4",avg,min,p50,p95,p99,max`; the name may have anything in it, so it is read from the end.
fn read_csv(line: &str) -> Option<Sample> {
    let mut cells = line.trim().rsplit("\",\"").map(|cell| cell.trim_matches('"').parse::<f64>().ok());
    let _most = cells.next()??;
    let p99_ms = cells.next()??;
    let _p95 = cells.next()??;
    let p50_ms = cells.next()??;
    let _min = cells.next()??;
    let _average = cells.next()??;
    let rate = cells.next()??;
    Some(Sample { rate, p50_ms, p99_ms, ..Sample::default() })
}

/// Adds the CPU that the server took meanwhile.
pub fn with_cpu(server: &Server, run: impl FnOnce() -> Result<Sample, String>) -> Result<Sample, String> {
    let before = cpu_seconds(server.pid())?;
    let sample = run()?;
    let spent = cpu_seconds(server.pid())? - before;
    Ok(Sample { cpu: spent * 100_000.0 / sample.requests.max(1) as f64, ..sample })
}

/// User and system time of a process since its start, threads included.
pub fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // After the name in brackets: state is field 3, utime 14, stime 15.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect());
    let field = |at: usize| fields.get(at - 3).and_then(|text| text.parse::<f64>().ok());
    field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS).ok_or_else(|| format!("{path}: {stat}"))
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64, String> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kilobytes.map(|kilobytes| kilobytes << 10).ok_or_else(|| format!("{path}: no VmRSS"))
}

/// Median, 99th of a hundred and longest, in milliseconds; sorts.
pub fn latencies(took: &mut [Duration]) -> [f64; 3] {
    took.sort_unstable();
    let at = |part: f64| took.get(((took.len() as f64 * part) as usize).min(took.len().saturating_sub(1)));
    [at(0.5), at(0.99), took.last()].map(|span| span.map_or(0.0, |span| span.as_secs_f64() * 1000.0))
}

/// Writes out what is dirty and lets the disk come to rest.
pub fn settle() {
    let _ = Command::new("sync").status();
    std::thread::sleep(Duration::from_secs(3));
}

/// What the disk alone does: 4-KiB overwrites of a preallocated file with fdatasync, a second.
pub fn disk(dir: &Path) -> Result<f64, String> {
    let path = dir.join("disk.probe");
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).map_err(at)?;
    let page = [0x5a_u8; 4096];
    const PAGES: u64 = 4096;
    for number in 0..PAGES {
        file.write_all_at(&page, number * 4096).map_err(at)?;
    }
    file.sync_all().map_err(at)?;
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(2) {
        file.write_all_at(&page, (count % PAGES) * 4096).map_err(at)?;
        file.sync_data().map_err(at)?;
        count += 1;
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    let _ = fs::remove_file(&path);
    Ok(rate)
}

/// A library that makes fsync and fdatasync of the program it is loaded into take 2 ms more. Built with the C compiler at hand.
pub fn slow_sync_shim(dir: &Path) -> Result<PathBuf, String> {
    let (source, library) = (dir.join("slow_sync.c"), dir.join("slow_sync.so"));
    let text = "\
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <unistd.h>
#include <time.h>
static void wait_2ms(void) { struct timespec span = {0, 2000000}; nanosleep(&span, 0); }
int fsync(int fd) { wait_2ms(); return (int)syscall(SYS_fsync, fd); }
int fdatasync(int fd) { wait_2ms(); return (int)syscall(SYS_fdatasync, fd); }
";
    fs::write(&source, text).map_err(|error| format!("{}: {error}", source.display()))?;
    let (source, target) = (source.to_string_lossy(), library.to_string_lossy());
    crate::shell::output("cc", &["-O2", "-shared", "-fPIC", "-o", &target, &source])?;
    Ok(library)
}

#[cfg(test)]
mod tests {
    use super::{latencies, read_csv};
    use std::time::Duration;

    #[test]
    fn figures_are_read_from_the_end_of_the_line() {
        let line =
            "\"XADD s * f \",\"1\",\"x\",\"166666.67\",\"0.088\",\"0.032\",\"0.055\",\"0.087\",\"0.191\",\"3.863\"";
        let sample = read_csv(line).expect("figures");
        assert_eq!((sample.rate, sample.p50_ms, sample.p99_ms), (166_666.67, 0.055, 0.191));
        assert!(read_csv("\"test\",\"rps\",\"avg_latency_ms\"").is_none());
    }

    #[test]
    fn ranks_of_latencies() {
        let mut took: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(latencies(&mut took), [101.0, 199.0, 200.0]);
        assert_eq!(latencies(&mut []), [0.0; 3]);
    }
}

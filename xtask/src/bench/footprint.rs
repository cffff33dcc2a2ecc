//! What is not throughput: memory, stalls while a snapshot is made, the time of a start.

use super::{Mode, Plan, load, measure};
use crate::server::{Server, http};
use std::time::{Duration, Instant};

/// Memory of one server with many small strings.
pub struct Footprint {
    /// Which, with what settings.
    pub server: String,
    /// How many strings of 100 bytes.
    pub keys: u64,
    /// Resident bytes before and after.
    pub resident: (u64, u64),
}

/// One server's snapshots and starts.
pub struct Stall {
    /// Which, with what settings.
    pub server: String,
    /// Median, 99th of a hundred and longest latency in ms of GET, at rest and during the snapshot; then of SET.
    pub get_ms: ([f64; 3], [f64; 3]),
    /// The same of SET.
    pub set_ms: ([f64; 3], [f64; 3]),
    /// How long the snapshot took.
    pub snapshot: Duration,
    /// Resident bytes at rest, and the most seen during the snapshot (children included).
    pub resident: (u64, u64),
    /// A start after an orderly stop.
    pub start_after_stop: Duration,
    /// A start after kill -9, if it was tried.
    pub start_after_kill: Option<Duration>,
}

/// Stalls and starts of both, with so many keys.
pub struct Snapshots {
    /// Keys of 100 bytes.
    pub keys: u64,
    /// Redis, quorate.
    pub stalls: Vec<Stall>,
}

fn key(at: u64) -> String {
    format!("k:{at:010}")
}

/// Memory of a million strings.
pub fn memory(plan: &Plan) -> Result<Vec<Footprint>, String> {
    let keys = if plan.quick { 100_000 } else { 1_000_000 };
    let mut found = Vec::new();
    for (name, mode, ours) in [
        ("redis, no persistence", Mode::Memory, false),
        ("quorate, memory", Mode::Memory, true),
        ("redis, appendfsync always", Mode::Fsync, false),
        ("quorate, fsync", Mode::Fsync, true),
    ] {
        println!("bench: memory of {keys} strings, {name}");
        let server = one(plan, mode, ours, &[])?;
        let before = measure::resident_bytes(server.pid())?;
        load::fill(&server.redis, 0..keys, &key, 100)?;
        std::thread::sleep(Duration::from_millis(500));
        let after = measure::resident_bytes(server.pid())?;
        found.push(Footprint { server: name.into(), keys, resident: (before, after) });
    }
    Ok(found)
}

/// One fresh server, its files in `footprint`.
fn one(plan: &Plan, mode: Mode, ours: bool, more: &[&str]) -> Result<Server, String> {
    let dir = plan.dir.join("footprint");
    let _ = std::fs::remove_dir_all(&dir);
    start(plan, mode, ours, more)
}

fn start(plan: &Plan, mode: Mode, ours: bool, more: &[&str]) -> Result<Server, String> {
    let dir = plan.dir.join("footprint/data");
    if ours {
        Server::quorate(&plan.bin, &dir, &[mode.quorate_args(), more].concat(), &[])
    } else {
        Server::redis(&dir, &[mode.redis_args(), more].concat(), &[])
    }
}

/// The longest stall while a snapshot is made, and the starts after it.
pub fn snapshots(plan: &Plan) -> Result<Snapshots, String> {
    let keys = if plan.quick { 200_000 } else { 2_000_000 };
    let mut stalls = Vec::new();
    for (name, ours) in [("redis, BGSAVE and appendfsync always", false), ("quorate, fsync", true)] {
        println!("bench: a snapshot of {keys} keys, {name}");
        let server = one(plan, Mode::Fsync, ours, &[])?;
        load::fill(&server.redis, 0..keys, &key, 100)?;
        measure::settle();
        let seconds = if plan.quick { 1 } else { 5 };
        let pinger = load::Pinger::start(&server.redis, keys, key)?;
        std::thread::sleep(Duration::from_secs(seconds));
        let [mut rest_get, mut rest_set] = pinger.stop()?;
        let at_rest = measure::resident_bytes(server.pid())?;
        let pinger = load::Pinger::start(&server.redis, keys, key)?;
        let begun = Instant::now();
        let most = if ours { snapshot_of_ours(&server)? } else { snapshot_of_redis(&server)? };
        let snapshot = begun.elapsed();
        let [mut get, mut set] = pinger.stop()?;
        println!("bench: starts with {keys} keys, {name}");
        // Redis ends with exit code 0 after SIGTERM too.
        server.stop()?;
        let server = start(plan, Mode::Fsync, ours, &[])?;
        let start_after_stop = server.took;
        // Dropped, it is killed.
        drop(server);
        let start_after_kill = Some(start(plan, Mode::Fsync, ours, &[])?.took);
        stalls.push(Stall {
            server: name.into(),
            get_ms: (measure::latencies(&mut rest_get), measure::latencies(&mut get)),
            set_ms: (measure::latencies(&mut rest_set), measure::latencies(&mut set)),
            snapshot,
            resident: (at_rest, most),
            start_after_stop,
            start_after_kill,
        });
    }
    Ok(Snapshots { keys, stalls })
}

/// Groups of a node with one data shard: the meta group and the shard's. Each makes a snapshot of its own.
const GROUPS: u64 = 2;

/// Asks at the admin door, and looks at /status until both groups have made theirs.
fn snapshot_of_ours(server: &Server) -> Result<u64, String> {
    let look = || -> Result<(u64, u64, bool), String> {
        let (_, body) = http("GET", &server.admin, "/status")?;
        let status: serde_json::Value = serde_json::from_str(&body).map_err(|error| format!("/status: {error}"))?;
        let snapshots = &status["snapshots"];
        let count = |name: &str| snapshots[name].as_u64().ok_or_else(|| format!("/status: no snapshots.{name}"));
        Ok((count("finished_total")?, count("failed_total")?, snapshots["running"].as_bool().unwrap_or(false)))
    };
    let start = Instant::now();
    let mut before = look()?;
    // One may be under way that filling set off.
    while before.2 && start.elapsed() < Duration::from_secs(120) {
        std::thread::sleep(Duration::from_millis(50));
        before = look()?;
    }
    let (status, body) = http("POST", &server.admin, "/snapshot")?;
    if !(200..300).contains(&status) {
        return Err(format!("POST /snapshot: {status}: {body}"));
    }
    let mut most = 0;
    loop {
        most = most.max(measure::resident_bytes(server.pid())?);
        let now = look()?;
        if now.1 > before.1 {
            return Err(format!("the snapshot failed; see {}", server.log.display()));
        }
        if now.0 >= before.0 + GROUPS && !now.2 {
            return Ok(most);
        }
        if start.elapsed() > Duration::from_secs(300) {
            return Err("the snapshot was not done within 300 s".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn snapshot_of_redis(server: &Server) -> Result<u64, String> {
    let mut conn = server.connect()?;
    let mut ask = |line: &str| conn.text(line).map_err(|error| format!("{line}: {error}"));
    ask("BGSAVE")?;
    let mut most = 0;
    loop {
        let children =
            std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", server.pid())).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|pid| measure::resident_bytes(pid.parse().ok()?).ok());
        most = most.max(measure::resident_bytes(server.pid())? + children.sum::<u64>());
        let info = ask("INFO persistence")?.bytes().map(|text| String::from_utf8_lossy(text).into_owned());
        if info.is_some_and(|info| info.contains("rdb_bgsave_in_progress:0")) {
            return Ok(most);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

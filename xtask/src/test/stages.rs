//! The stages, in their order.

use super::{Ctx, Outcome, Stage, environment, write_program};
use crate::compat;
use crate::gateway_proof::PLANTED;
use crate::ground::Ground;
use crate::nodes::{Nodes, Plan};
use crate::server::{Server, http};
use crate::shell::there;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// All of them. A new capability adds its own, or better a case to one that is here.
pub const STAGES: &[Stage] = &[
    Stage {
        name: "environment",
        about: "what is needed from outside is there, or is installed",
        run: environment::run,
    },
    Stage { name: "build", about: "the binary, with protoc and cmake masked", run: build },
    Stage {
        name: "house",
        about: "format, lints, the rules of the house (what `cargo xtask verify` says)",
        run: house,
    },
    Stage { name: "unit", about: "unit, golden and property tests of every room", run: unit },
    Stage {
        name: "sim",
        about: "store, log and consensus on a disk that loses, tears and corrupts; planted bugs are caught",
        run: sim,
    },
    Stage {
        name: "clusters",
        about: "1,300 simulated clusters: at least 5e7 events, 1e4 elections, 1e3 membership changes, every kind of fault",
        run: clusters,
    },
    Stage { name: "program", about: "the binary's own tests: flags, messages, exit codes", run: program },
    Stage { name: "tours", about: "every tour that `quorate tour` lists", run: tours },
    Stage { name: "compatibility", about: "Tair's cases; docs/compatibility.md is what ran", run: compatibility },
    Stage { name: "differential", about: "random commands beside a real redis-server", run: differential },
    Stage {
        name: "clients",
        about: "redis-cli, redis-benchmark, redis-py, ioredis, celery, rq; py-consul, python-consul, npm consul; kcat, kafka-txn2, kafka-python, \
                confluent-kafka, aiokafka; Kafka's and RedisCluster against three nodes too",
        run: clients,
    },
    Stage {
        name: "shop",
        about: "the examples: a shop whose worker is killed again and again, with every sum exact; questions and answers over topics",
        run: shop,
    },
    Stage {
        name: "gateway",
        about: "gateway and registry before real backends and under real clients, while things change and break",
        run: gateway,
    },
    Stage {
        name: "gateway-bugs",
        about: "the same cases against a program with planted bugs: each is caught",
        run: gateway_bugs,
    },
    Stage {
        name: "cluster",
        about: "three real nodes behind a bad network, row by row of the fault matrix, every history judged; a disk that lies is caught",
        run: cluster,
    },
    Stage {
        name: "failover",
        about: "the leader killed under load, again and again: how soon writes resume",
        run: failover,
    },
    Stage { name: "kill9", about: "kill -9 under load: nothing acknowledged is lost", run: kill9 },
    Stage {
        name: "commit",
        about: "kill -9 around EXEC, and at one durable step after the other of one node and of three: all parts of a commit, or none",
        run: commit,
    },
    Stage { name: "power-cut", about: "un-synced data is lost: nothing acknowledged is", run: power_cut },
    Stage { name: "disk-full", about: "a full disk refuses writes, serves reads, recovers", run: disk_full },
    Stage { name: "corrupt", about: "damaged files: refuse and say where, or lose nothing", run: corrupt },
    Stage { name: "console", about: "the console in a headless browser", run: console },
    Stage { name: "admin", about: "healthz, readyz, status; metrics as promtool wants them", run: admin },
    Stage { name: "deny", about: "licences, banned crates and sources of what we build on", run: deny },
];

fn passed(text: impl Into<String>) -> Result<Outcome, String> {
    Ok(Outcome::Passed(text.into()))
}

fn skipped(text: impl Into<String>) -> Result<Outcome, String> {
    Ok(Outcome::Skipped(text.into()))
}

fn build(ctx: &Ctx) -> Result<Outcome, String> {
    ctx.cargo("build --locked --release -p quorate", 20)?;
    let built = ctx.root.join("target/release/quorate");
    let bytes = fs::read(&built).map_err(|error| format!("{}: {error}", built.display()))?;
    write_program(&ctx.bin, &bytes)?;
    passed(format!("{:.1} MB", bytes.len() as f64 / 1e6))
}

fn house(ctx: &Ctx) -> Result<Outcome, String> {
    let failed: Vec<String> = [
        ctx.cargo("fmt --all -- --check", 2).map_err(|why| format!("{why}\n`cargo xtask fix` formats")),
        ctx.tool(&["tidy"], 2),
        // In the release profile, whose build scripts and macros are there already.
        ctx.cargo("clippy --locked --release --workspace --all-targets -- -D warnings", 15),
    ]
    .into_iter()
    .filter_map(Result::err)
    .collect();
    if failed.is_empty() { passed("") } else { Err(failed.join("\n")) }
}

/// The sum of all lines "test result: ok. N passed; …".
fn tests_passed(said: &str) -> usize {
    let counts = said.lines().filter_map(|line| line.trim().strip_prefix("test result: ok. "));
    counts.filter_map(|rest| rest.split(' ').next()?.parse::<usize>().ok()).sum()
}

fn unit(ctx: &Ctx) -> Result<Outcome, String> {
    let said = ctx.cargo(
        "test --locked --release --workspace --exclude sim --exclude quorate --lib --bins --tests --no-fail-fast",
        25,
    )?;
    passed(format!("{} tests", tests_passed(&said)))
}

fn sim(ctx: &Ctx) -> Result<Outcome, String> {
    let test = "test --locked --release -p sim --lib --tests --no-fail-fast";
    let said = ctx.cargo(&format!("{test} -- --nocapture"), 15)?;
    let mut text = format!("{} tests", tests_passed(&said));
    if ctx.night {
        ctx.cargo(&format!("{test} -- --ignored --nocapture"), 30)?;
        text.push_str(", and the long ones");
    }
    passed(text)
}

fn clusters(ctx: &Ctx) -> Result<Outcome, String> {
    // Known, and of the world's making: in seed 1312 members are taken out while the only other voter has nothing yet, and then the one
    // disk that has all is spoiled. Faults should spare it.
    let seeds = ctx.count(1_300, 20_000).to_string();
    let said = ctx.tool(&["sim", "--floors", "--seeds", &seeds], if ctx.night { 180 } else { 10 })?;
    let figure =
        |name: &str| said.lines().find_map(|line| line.trim().strip_suffix(name)).unwrap_or("?").trim().to_owned();
    let [events, elections, changes] = [" events", " elections", " membership changes"].map(figure);
    passed(format!("{events} events, {elections} elections, {changes} changes of membership"))
}

fn program(ctx: &Ctx) -> Result<Outcome, String> {
    let said = ctx.cargo("test --locked --release -p quorate --bins --tests --no-fail-fast", 10)?;
    passed(format!("{} tests", tests_passed(&said)))
}

/// The names in what `quorate tour` lists: a line is two spaces, the name, two spaces or more, what it shows.
fn tour_names(said: &str) -> Vec<String> {
    let name = |line: &str| {
        let (name, about) = line.strip_prefix("  ")?.split_once("  ")?;
        let is_name =
            !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        (is_name && !about.trim().is_empty()).then(|| name.to_owned())
    };
    said.lines().filter_map(name).collect()
}

fn tours(ctx: &Ctx) -> Result<Outcome, String> {
    let names = tour_names(&ctx.run(&ctx.bin, &["tour"], 1)?);
    if names.is_empty() {
        return Err("`quorate tour` lists none (wanted: lines of two spaces, name, two spaces, what it shows)".into());
    }
    let mut failed = Vec::new();
    for name in &names {
        if let Err(why) = ctx.run(&ctx.bin, &["tour", name], 2) {
            failed.push(why);
        }
    }
    if failed.is_empty() { passed(names.join(", ")) } else { Err(failed.join("\n")) }
}

fn compatibility(ctx: &Ctx) -> Result<Outcome, String> {
    let Some(suite) = compat::suite() else {
        // Data that nobody can install: where it is absent the other stages must do, also in CI.
        return passed("NOT RUN: the suite's data is not beside the repository");
    };
    let (bin, suite) = (ctx.bin.to_string_lossy(), suite.to_string_lossy());
    let said = ctx.tool(&["compat", "--bin", &bin, "--suite", &suite], 5)?;
    passed(said.lines().find_map(|line| line.strip_prefix("tair: ")).unwrap_or("").to_owned())
}

fn differential(ctx: &Ctx) -> Result<Outcome, String> {
    if !there("redis-server") {
        return skipped("no redis-server");
    }
    let left = Server::redis(&ctx.dir("redis"), &["--save", ""], &[])?;
    let right = Server::quorate(&ctx.bin, &ctx.dir("quorate"), &[], &[])?;
    let memory = Server::quorate(&ctx.bin, &ctx.dir("memory"), &["--durability", "memory"], &[])?;
    let commands = ctx.count(20_000, 500_000).to_string();
    let mut failed = Vec::new();
    // Seeds are fixed, so that a failure here is one everywhere; the night's are new every time.
    let first = if ctx.night { u64::from(std::process::id()) << 8 } else { 1 };
    let seeds = ctx.count(3, 30);
    for seed in first..first + seeds {
        // The last one is played against tables without a log.
        let right = if seed + 1 == first + seeds { &memory } else { &right };
        let seed = seed.to_string();
        let said = ctx.tool(
            &["differential", "--left", &left.redis, "--right", &right.redis, "--seed", &seed, "--commands", &commands],
            6,
        );
        failed.extend(said.err());
    }
    if failed.is_empty() { passed(format!("{seeds} seeds of {commands} commands")) } else { Err(failed.join("\n")) }
}

fn clients(ctx: &Ctx) -> Result<Outcome, String> {
    let server = Server::quorate(&ctx.bin, &ctx.dir("data"), &[], &[])?;
    let port = |address: &str| address.rsplit_once(':').map_or(String::new(), |(_, port)| port.to_owned());
    let (consul, kafka, etcd) = (port(&server.consul), port(&server.kafka), port(&server.etcd));
    let doors = ["--port", server.port(), "--consul-port", &consul, "--kafka-port", &kafka, "--etcd-port", &etcd];
    let said = ctx.tool(&[&["clients"], &doors[..]].concat(), 15)?;
    server.stop()?;
    let said = said + &clients_of_three(ctx)?;
    let names = |mark: &str| {
        let lines = said.lines().filter(|line| line.contains(mark));
        lines.filter_map(|line| line.split_whitespace().next()).collect::<Vec<_>>().join(", ")
    };
    // A minute, most of which is sessions that have to end: of a night only, and where the packages are.
    let patroni = match (ctx.night, there("patroni")) {
        (false, _) => "",
        (true, false) => "; skipped: patroni (Debian: patroni python3-consul postgresql)",
        (true, true) => {
            ctx.run("tests/clients/patroni.py", &["--quorate", &ctx.bin.to_string_lossy()], 8)?;
            ", patroni"
        }
    };
    let absent = names(" skipped: ");
    passed(names(" ok (") + patroni + &if absent.is_empty() { String::new() } else { format!("; skipped: {absent}") })
}

/// Clients that go to leaders themselves, at three nodes.
fn clients_of_three(ctx: &Ctx) -> Result<String, String> {
    let plan = Plan { bin: ctx.bin.clone(), shards: 4, ..Plan::default() };
    let nodes = Nodes::found(Ground::loopback(), plan, &ctx.dir("three"), 3)?;
    nodes.all_serve(Duration::from_secs(60))?;
    nodes.await_replicas(Duration::from_secs(60))?;
    let port = |addr: &str| addr.rsplit_once(':').map_or(String::new(), |(_, port)| port.to_owned());
    let node = &nodes.nodes[1];
    let (kafka, cluster, admin) = (port(&node.kafka), port(&node.redis_cluster), port(&node.admin));
    let only = "kcat,kafka-python,confluent-kafka,aiokafka,redis-py-cluster,topics-as-streams,etcdctl,python-etcd3,etcd-differential";
    let (redis, etcd) = (port(&node.redis), port(&node.etcd));
    let doors = ["--port", &redis, "--kafka-port", &kafka, "--etcd-port", &etcd, "--cluster-port", &cluster];
    let doors = [&doors[..], &["--admin-port", &admin]].concat();
    ctx.tool(&[&["clients", "--called", "three", "--only", only], &doors[..]].concat(), 8)
}

/// The examples, each a program of its own that says how it went.
fn shop(ctx: &Ctx) -> Result<Outcome, String> {
    if !there("python3") {
        return skipped("no python3");
    }
    let (bin, kills) = (ctx.bin.to_string_lossy(), ctx.count(15, 1_000).to_string());
    let mut told = Vec::new();
    for nodes in ["1", "3"] {
        let said = ctx.run("examples/shop/run", &["--quorate", &bin, "--kills", &kills, "--nodes", nodes], 5)?;
        let last = said.lines().rev().find(|line| line.starts_with("every sum is exact")).unwrap_or("");
        told.push(format!("{nodes} node(s), {kills} kills: {last}"));
    }
    let replied = ctx.run("examples/request-reply/run", &["--quorate", &bin, "--nodes", "3"], 5)?;
    told.extend(replied.lines().rev().nth(1).map(str::to_owned));
    let fenced = ctx.run("examples/fenced-lock/run", &["--quorate", &bin], 2)?;
    told.extend(fenced.lines().next_back().map(str::to_owned));
    passed(told.join("; "))
}

fn gateway(ctx: &Ctx) -> Result<Outcome, String> {
    let (bin, requests) = (ctx.bin.to_string_lossy(), ctx.count(100_000, 1_000_000).to_string());
    let said = ctx.tool(&["gateway-proof", "--bin", &bin, "--requests", &requests], 15)?;
    if let Some(why) = said.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        return skipped(why);
    }
    let absent = said.lines().filter(|line| line.contains("skipped: ")).collect::<Vec<_>>().join("; ");
    let rolling = said.lines().find_map(|line| line.strip_prefix("rolling ")).unwrap_or("").trim();
    passed(if absent.is_empty() { rolling.to_owned() } else { format!("{rolling}; {absent}") })
}

fn gateway_bugs(ctx: &Ctx) -> Result<Outcome, String> {
    if !there("python3") {
        return skipped("no python3");
    }
    // By day every third bug: neighbours in the list are mostly caught by the same case.
    let bugs: Vec<&str> = PLANTED.iter().step_by(ctx.count(3, 1) as usize).map(|(bug, ..)| *bug).collect();
    let said = ctx.tool(&["gateway-proof", "--planted", &bugs.join(",")], 25)?;
    passed(format!("{} planted bugs caught by the unchanged cases", said.matches(" caught by ").count()))
}

fn chaos(ctx: &Ctx, kind: &str, rounds: Option<u64>) -> Result<Outcome, String> {
    let (bin, rounds) = (ctx.bin.to_string_lossy(), rounds.map(|rounds| rounds.to_string()));
    let mut args = vec!["chaos", kind, "--bin", &bin];
    if let Some(rounds) = &rounds {
        args.extend(["--rounds", rounds]);
    }
    let said = ctx.tool(&args, 8)?;
    if let Some(why) = said.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        return skipped(why);
    }
    passed(said.trim().lines().last().unwrap_or("").to_owned())
}

fn cluster(ctx: &Ctx) -> Result<Outcome, String> {
    let (bin, minutes) = (ctx.bin.to_string_lossy(), ctx.count(3, 40).to_string());
    // By day the seed is fixed; the night's is new every time.
    let seed = if ctx.night { std::process::id().to_string() } else { "1".into() };
    let said = ctx.tool(&["chaos", "cluster", "--bin", &bin, "--minutes", &minutes, "--seed", &seed], 12)?;
    if let Some(why) = said.lines().find_map(|line| line.strip_prefix("skipped: ")) {
        return skipped(why);
    }
    let held = said.lines().filter(|line| line.ends_with("| held |")).count();
    let absent = said.lines().filter(|line| line.contains("skipped: ")).collect::<Vec<_>>().join("; ");
    let plant = ["--rows", "3", "--minutes", "0.2", "--plant", "lying-disk"];
    ctx.tool(&[&["chaos", "cluster", "--bin", &bin, "--seed", &seed], &plant[..]].concat(), 4)?;
    passed(format!("{held} rows held{}{absent}", if absent.is_empty() { "" } else { "; " }))
}

fn failover(ctx: &Ctx) -> Result<Outcome, String> {
    let (bin, runs) = (ctx.bin.to_string_lossy(), ctx.count(10, 50).to_string());
    let said = ctx.tool(&["failover", "--bin", &bin, "--runs", &runs], 6)?;
    passed(said.lines().find_map(|line| line.strip_prefix("failover: ")).unwrap_or(""))
}

fn kill9(ctx: &Ctx) -> Result<Outcome, String> {
    chaos(ctx, "kill9", Some(ctx.count(20, 200)))
}

fn commit(ctx: &Ctx) -> Result<Outcome, String> {
    let around = match chaos(ctx, "commit", Some(ctx.count(20, 200)))? {
        Outcome::Passed(around) => around,
        skipped => return Ok(skipped),
    };
    let (bin, mut told) = (ctx.bin.to_string_lossy(), vec![around]);
    let rounds = if ctx.night { "all" } else { "6" };
    for nodes in ["1", "3"] {
        let said = ctx.tool(&["commits", "--bin", &bin, "--nodes", nodes, "--steps", rounds], 5)?;
        told.push(said.trim().lines().last().unwrap_or("").to_owned());
    }
    if ctx.night {
        let said = ctx.tool(&["commits", "--bin", &bin, "--seconds", "600"], 15)?;
        told.push(said.trim().lines().last().unwrap_or("").to_owned());
    }
    passed(told.join("; "))
}

fn power_cut(ctx: &Ctx) -> Result<Outcome, String> {
    chaos(ctx, "power-cut", Some(ctx.count(10, 100)))
}

fn disk_full(ctx: &Ctx) -> Result<Outcome, String> {
    chaos(ctx, "disk-full", None)
}

fn corrupt(ctx: &Ctx) -> Result<Outcome, String> {
    chaos(ctx, "corrupt", Some(ctx.count(20, 200)))
}

/// `tests/console/console.mjs`, with its pinned packages; its screenshots are beside the logs.
fn console(ctx: &Ctx) -> Result<Outcome, String> {
    let dir = ctx.root.join("tests/console");
    if !dir.join("console.mjs").is_file() {
        return Err("tests/console/console.mjs is not there".into());
    }
    if let Some(missing) = ["node", "npm", "chromium"].into_iter().find(|program| !there(program)) {
        return skipped(format!("no {missing}"));
    }
    ctx.run_in(&dir, "npm", &["ci", "--no-audit", "--no-fund", "--silent"], 5)?;
    let server = Server::quorate(&ctx.bin, &ctx.dir("data"), &[], &[])?;
    let admin = server.admin.rsplit_once(':').map_or("", |(_, port)| port);
    for look in [&["1280x800"][..], &["390x844", "dark"]] {
        let picture = ctx.logs.join(format!("console-{}.png", look[0])).to_string_lossy().into_owned();
        ctx.run_in(&dir, "node", &[&["console.mjs", admin, server.port(), &picture], look].concat(), 3)?;
    }
    passed("")
}

fn admin(ctx: &Ctx) -> Result<Outcome, String> {
    let server = Server::quorate(&ctx.bin, &ctx.dir("data"), &[], &[])?;
    let mut conn = server.connect()?;
    // Some of everything, so that no family of metrics is empty.
    for line in ["SET a 1", "GET a", "LPUSH l 1 2", "XADD s * f v", "INCR l", "SUBSCRIBE c"] {
        conn.text(line).map_err(|error| format!("{line}: {error}"))?;
    }
    for path in ["/healthz", "/readyz", "/status", "/"] {
        let (status, body) = http("GET", &server.admin, path)?;
        if status != 200 {
            return Err(format!("{path}: {status}: {body}"));
        }
        if path == "/status" {
            serde_json::from_str::<serde_json::Value>(&body).map_err(|error| format!("/status: {error}: {body}"))?;
        }
    }
    let (status, metrics) = http("GET", &server.admin, "/metrics")?;
    let families = metrics.lines().filter(|line| line.starts_with("# TYPE ")).count();
    if status != 200 || families == 0 {
        return Err(format!("/metrics: {status}, {families} families"));
    }
    if !there("promtool") {
        return skipped(format!("no promtool to check {families} families of metrics; the rest is well"));
    }
    let file = ctx.dir("metrics.txt");
    fs::write(&file, &metrics).map_err(|error| format!("{}: {error}", file.display()))?;
    let mut command = Command::new("sh");
    command.args(["-c", "exec promtool check metrics < \"$0\""]).arg(&file);
    crate::shell::logged(command, &ctx.log(), Duration::from_secs(60))?;
    server.stop()?;
    passed(format!("{families} families of metrics"))
}

/// The version of cargo-deny; the registry serves its source.
const DENY: &str = "0.20.2";

fn deny(ctx: &Ctx) -> Result<Outcome, String> {
    let tools = ctx.root.join(".tools/deny");
    let program = tools.join("bin/cargo-deny");
    let made = ctx.run(&program, &["--version"], 1).is_ok_and(|said| said.contains(DENY));
    if !made {
        // Without optimization: it compiles in a third of the time and runs for two seconds.
        let (at, build) = (tools.to_string_lossy(), tools.join("build"));
        let install = [
            "install",
            "cargo-deny",
            "--locked",
            "--debug",
            "--force",
            "--version",
            DENY,
            "--root",
            &at,
            "--target-dir",
        ];
        ctx.run("cargo", &[&install[..], &[&build.to_string_lossy()]].concat(), 12)?;
        let _ = fs::remove_dir_all(build);
    }
    ctx.run(&program, &["--locked", "check", "licenses", "bans", "sources"], 3)?;
    passed("licences, bans and sources (no list of advisories can be had here)")
}

#[cfg(test)]
mod tests {
    use super::{tests_passed, tour_names};

    #[test]
    fn tours_are_read_from_the_list() {
        let said = "Tours, each under 30 seconds:\n\n  durable      kill -9, nothing lost\n  one-commit   MULTI is one entry\n\nRun one:  quorate tour durable\n  Not a name  x\n";
        assert_eq!(tour_names(said), ["durable", "one-commit"]);
    }

    #[test]
    fn results_are_added_up() {
        assert_eq!(tests_passed("test result: ok. 16 passed; 0 failed\nx\ntest result: ok. 4 passed; 0 failed"), 20);
    }
}

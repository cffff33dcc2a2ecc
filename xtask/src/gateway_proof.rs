//! `cargo xtask gateway-proof`: the gateway in the whole binary, before real backends and under real clients, while things break.
//!
//! ```text
//! cargo xtask gateway-proof [--bin PATH] [--requests N] [--only CASE,CASE]
//! ```
//!
//! Each case is a script in `tests/gateway/` that starts nodes and backends of its own on free ports and prints one line. Python's packages
//! (a WebSocket and a gRPC implementation that nobody here wrote) come from a pinned list into `.tools/gateway`; without them the streams are
//! left out, and the line says so. With `CI=true` in the environment a skip is a failure.

use crate::clients::once;
use crate::shell::{logged, root, there};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A script, and how long it may take at most beside a second for each 500 requests.
const CASES: &[(&str, u64)] =
    &[("rolling", 90), ("registry", 60), ("faults", 90), ("framing", 60), ("files", 60), ("programs", 90)];

/// By this exit code a script says that it cannot run here.
const SKIPPED: &str = "exit status: 77";

/// Entry of `cargo xtask gateway-proof`.
pub fn run(args: &[String]) -> Result<(), String> {
    let root = root();
    let (mut bin, mut requests, mut only) = (root.join("target/release/quorate"), 20_000_u64, Vec::new());
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--bin" => bin = PathBuf::from(value()?),
            "--requests" => {
                requests = value()?.parse().ok().filter(|n| *n > 0).ok_or("--requests wants a number above 0")?;
            }
            "--only" => only = value()?.split(',').map(str::to_owned).collect(),
            _ => return Err(format!("gateway-proof does not know {flag}")),
        }
    }
    let names: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    if let Some(name) = only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("--only: no case {name:?}; there are {}", names.join(", ")));
    }
    if !there("python3") {
        println!("skipped: no python3");
        return Ok(());
    }
    let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
    let mut failed = Vec::new();
    let python = match python(&root) {
        Ok(python) => python,
        Err(why) => {
            println!("packages skipped: {why}");
            if strict {
                failed.push("packages");
            }
            PathBuf::from("python3")
        }
    };
    for &(name, seconds_max) in CASES {
        if !only.is_empty() && !only.iter().any(|wanted| wanted == name) {
            continue;
        }
        let start = Instant::now();
        let seconds_max = seconds_max + requests / 500;
        let done = play(&root, &python, name, &bin, requests, Duration::from_secs(seconds_max));
        let seconds = start.elapsed().as_secs_f64();
        match done {
            Ok(said) => println!("{name:10} ok ({seconds:.1} s): {}", said.trim().lines().last().unwrap_or("")),
            Err(why) if why.contains(SKIPPED) => {
                let said = why.lines().find_map(|line| line.strip_prefix("skipped: ")).unwrap_or("");
                println!("{name:10} skipped: {said}");
                if strict {
                    failed.push(name);
                }
            }
            Err(why) => {
                println!("{name:10} FAILED ({seconds:.1} s)\n{why}");
                failed.push(name);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {}", failed.join(", "))) }
}

/// The environment of the pinned list, made unless it is there.
fn python(root: &Path) -> Result<PathBuf, String> {
    let (venv, list) = (root.join(".tools/gateway"), root.join("tests/gateway/requirements.txt"));
    let (python, log) = (venv.join("bin/python"), root.join(".tools/logs/gateway-packages.log"));
    std::fs::create_dir_all(root.join(".tools/logs")).map_err(|error| format!(".tools/logs: {error}"))?;
    once(&list, &venv.join("pinned.txt"), || {
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&venv);
        logged(make, &log, Duration::from_secs(120))?;
        let mut install = Command::new(&python);
        install.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
            "-r",
        ]);
        install.arg(&list);
        logged(install, &log, Duration::from_secs(300)).map(|_| ())
    })?;
    Ok(python)
}

fn play(root: &Path, python: &Path, name: &str, bin: &Path, requests: u64, limit: Duration) -> Result<String, String> {
    let logs = root.join(".tools/logs");
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let dir = root.join("target/gateway-proof").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let mut command = Command::new(python);
    command.arg(root.join("tests/gateway").join(format!("{name}.py"))).arg(bin).arg(&dir).arg(requests.to_string());
    command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    let said = logged(command, &logs.join(format!("gateway-{name}.log")), limit)?;
    let _ = std::fs::remove_dir_all(dir);
    Ok(said)
}

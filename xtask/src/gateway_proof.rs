//! `cargo xtask gateway-proof`: the gateway in the whole binary, before real backends and under real clients, while things break.
//!
//! ```text
//! cargo xtask gateway-proof [--bin PATH] [--requests N] [--only CASE[:PART],…] [--planted [BUG,…]]
//! ```
//!
//! Each case is a script in `tests/gateway/` that starts nodes and backends of its own on free ports and prints one line. Packages that nobody here
//! wrote (WebSocket, gRPC, a browser's remote control) come from pinned lists: Python's into `.tools/gateway`, node's beside the scripts. A case
//! that lacks something says so; with `CI=true` in the environment that is a failure.
//!
//! `--planted` asks whether the proof proves anything: it builds the program with the feature `planted`, and plays every bug of
//! `base::planted` against the case that must catch it, which is the same script as ever.

use crate::clients::once;
use crate::shell::{logged, output, root, there};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// A script, and how long it may take at most beside a second for each 500 requests.
const CASES: &[(&str, u64)] = &[
    ("rolling", 90),
    ("registry", 90),
    ("faults", 90),
    ("drain", 60),
    ("changes", 90),
    ("framing", 60),
    ("files", 60),
    ("tls", 90),
    ("doors", 90),
    ("edges", 90),
    ("slow", 120),
    ("overload", 120),
    ("backends", 150),
    ("programs", 90),
    ("dns", 90),
    ("haproxy", 120),
    ("nginx", 90),
    ("config", 60),
];

/// A bug of `base::planted`, the case that must catch it, and the part of it that is played.
pub const PLANTED: &[(&str, &str, &str)] = &[
    ("bare-lf-taken", "framing", ""),
    ("both-lengths-taken", "framing", ""),
    ("hop-fields-forwarded", "framing", ""),
    ("cut-answer-whole", "faults", "broken_off"),
    ("post-sent-again", "faults", "broken_off"),
    ("answer-never-late", "faults", "stalled"),
    ("budget-not-kept", "faults", "storm"),
    ("delay-not-shed", "overload", ""),
    ("all-ejected", "faults", "ejection"),
    ("refused-not-retried", "rolling", ""),
    ("changes-followed-late", "registry", "deregistered"),
    ("critical-served", "registry", "critical"),
    ("retry-not-asked-again", "registry", "retries"),
    ("drain-not-waited", "drain", "listener"),
    ("files-out-for-good", "files", ""),
    ("head-never-late", "slow", "heads"),
    ("body-never-slow", "slow", "drips"),
    ("certificates-read-once", "changes", "certificates"),
    ("names-looked-up-once", "changes", "names"),
    ("tunnel-start-lost", "backends", "node"),
    ("trailers-lost", "backends", "grpcio"),
    ("window-kept", "programs", ""),
    ("dns-cut-unsaid", "dns", ""),
    ("dns-tells-critical", "dns", ""),
];
/// Requests of a case that is to fail.
const PLANTED_REQUESTS: u64 = 10_000;

/// By this exit code a script says that it cannot run here.
const SKIPPED: &str = "exit status: 77";

/// Entry of `cargo xtask gateway-proof`.
pub fn run(args: &[String]) -> Result<(), String> {
    let root = root();
    let (mut bin, mut requests, mut only) = (root.join("target/release/quorate"), 20_000_u64, Vec::new());
    let mut bugs: Option<Vec<String>> = None;
    let mut rest = args.iter().peekable();
    while let Some(flag) = rest.next() {
        if flag == "--planted" {
            let named = rest.next_if(|word| !word.starts_with("--"));
            bugs = Some(named.map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default());
            continue;
        }
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--bin" => bin = PathBuf::from(value()?),
            "--requests" => {
                requests = value()?.parse().ok().filter(|n| *n > 0).ok_or("--requests wants a number above 0")?;
            }
            "--only" => {
                let split = |word: &str| {
                    word.split_once(':')
                        .map_or((word.to_owned(), String::new()), |(case, part)| (case.to_owned(), part.to_owned()))
                };
                only = value()?.split(',').map(split).collect();
            }
            _ => return Err(format!("gateway-proof does not know {flag}")),
        }
    }
    let names: Vec<&str> = CASES.iter().map(|(name, _)| *name).collect();
    if let Some((name, _)) = only.iter().find(|(name, _)| !names.contains(&name.as_str())) {
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
    if let Err(why) = node(&root) {
        println!("packages skipped: {why}");
        if strict {
            failed.push("packages");
        }
    }
    if let Some(bugs) = bugs {
        return planted(&root, &python, &bugs);
    }
    for &(name, seconds_max) in CASES {
        let part = only.iter().find(|(wanted, _)| wanted == name).map(|(_, part)| part.as_str());
        if !only.is_empty() && part.is_none() {
            continue;
        }
        let start = Instant::now();
        let case =
            Case { name, part: part.unwrap_or(""), requests, seconds_max: seconds_max + requests / 500, bug: "" };
        let done = play(&root, &python, &bin, &case);
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

/// What the scripts need of node, unless it is there.
fn node(root: &Path) -> Result<(), String> {
    let scripts = root.join("tests/gateway");
    once(&scripts.join("package-lock.json"), &scripts.join("node_modules/.pinned"), || {
        let mut install = Command::new("npm");
        install.args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(&scripts);
        logged(install, &root.join(".tools/logs/gateway-packages.log"), Duration::from_secs(300)).map(|_| ())
    })
}

/// The program with all bugs in it, of which it has the one that its environment names. The usual one stays where it was.
fn planted_program(root: &Path) -> Result<PathBuf, String> {
    let build = |words: &[&str]| {
        let mut command = Command::new("cargo");
        command.args(["build", "--locked", "--release", "-p", "quorate"]).args(words).current_dir(root);
        logged(command, &root.join(".tools/logs/gateway-planted.log"), Duration::from_secs(1200))
    };
    let (usual, planted) = (root.join("target/release/quorate"), root.join("target/gateway-proof/quorate-planted"));
    let at = |error: std::io::Error| format!("{}: {error}", planted.display());
    std::fs::create_dir_all(root.join("target/gateway-proof")).map_err(at)?;
    let was_there = usual.is_file();
    build(&["--features", "planted"])?;
    std::fs::copy(&usual, &planted).map_err(at)?;
    // The file of this name must never be the broken one.
    std::fs::remove_file(&usual).map_err(at)?;
    if was_there {
        build(&[])?;
    }
    Ok(planted)
}

/// Plays every bug against its case, which must fail.
fn planted(root: &Path, python: &Path, wanted: &[String]) -> Result<(), String> {
    if let Some(name) = wanted.iter().find(|name| !PLANTED.iter().any(|(bug, ..)| bug == name)) {
        return Err(format!("--planted: no bug {name:?}"));
    }
    let bin = planted_program(root)?;
    // A new bug must have its case before this passes again.
    let said = output("grep", &["-oE", "= \"[a-z-]+\";", "crates/base/src/planted.rs"])?;
    let all: Vec<&str> = said.lines().map(|line| line.trim_matches(['=', ' ', '"', ';'])).collect();
    let mut failed: Vec<&str> =
        all.iter().copied().filter(|bug| !PLANTED.iter().any(|(name, ..)| name == bug)).collect();
    for &(bug, name, part) in PLANTED {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == bug) {
            continue;
        }
        let start = Instant::now();
        let seconds_max = CASES.iter().find(|(case, _)| *case == name).map_or(60, |(_, seconds)| *seconds);
        let done = play(root, python, &bin, &Case { name, part, requests: PLANTED_REQUESTS, seconds_max, bug });
        let (seconds, case) =
            (start.elapsed().as_secs_f64(), if part.is_empty() { name.to_owned() } else { format!("{name}:{part}") });
        match done {
            // Only what a case says is it that was caught: not that a program is missing, nor that nothing came of it.
            Err(why) if why.contains("AssertionError") => {
                let said = why.lines().rev().find_map(|line| line.strip_prefix("AssertionError: ")).unwrap_or("");
                let said: String = said.chars().take(110).collect();
                println!("{bug:24} caught by {case:22} ({seconds:.1} s): {said}");
            }
            other => {
                println!("{bug:24} NOT CAUGHT by {case} ({seconds:.1} s): {}", other.unwrap_or_else(|why| why));
                failed.push(bug);
            }
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not caught: {}", failed.join(", "))) }
}

/// A script, and how it is played.
struct Case<'a> {
    name: &'a str,
    /// The part of it that is wanted; empty: all.
    part: &'a str,
    requests: u64,
    seconds_max: u64,
    /// The promise that the program is to break; empty: none.
    bug: &'a str,
}

fn play(root: &Path, python: &Path, bin: &Path, case: &Case<'_>) -> Result<String, String> {
    let Case { name, part, requests, seconds_max, bug } = *case;
    let logs = root.join(".tools/logs");
    std::fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let dir = root.join("target/gateway-proof").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    let mut command = Command::new(python);
    command
        .arg(root.join("tests/gateway").join(format!("{name}.py")))
        .arg(bin)
        .arg(&dir)
        .arg(requests.to_string())
        .arg(part);
    command.env("PYTHONUNBUFFERED", "1").env("PYTHONDONTWRITEBYTECODE", "1");
    if bug.is_empty() {
        command.env_remove("QUORATE_PLANTED");
    } else {
        command.env("QUORATE_PLANTED", bug);
    }
    let log = logs.join(format!("gateway-{name}{}{bug}.log", if bug.is_empty() { "" } else { "-" }));
    let said = logged(command, &log, Duration::from_secs(seconds_max))?;
    let _ = std::fs::remove_dir_all(dir);
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::{CASES, PLANTED};
    use crate::shell::root;

    #[test]
    fn the_document_tells_every_case_and_what_catches_which_bug() {
        let told = std::fs::read_to_string(root().join("docs/gateway-proof.md")).expect("the document");
        for (case, _) in CASES {
            assert!(told.contains(&format!("\n| `{case}` |")), "{case}");
        }
        for (bug, case, part) in PLANTED {
            let case = if part.is_empty() { (*case).to_owned() } else { format!("{case}:{part}") };
            assert!(told.contains(&format!("\n| `{bug}` | `{case}` |")), "{bug}");
        }
        assert_eq!(told.matches("\n| `").count(), CASES.len() + PLANTED.len());
    }
}

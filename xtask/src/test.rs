//! `cargo xtask test`: everything that must hold, on a fresh machine with Rust and a C compiler, in stages.
//!
//! ```text
//! cargo xtask test [--night] [--only STAGE,STAGE] [--without STAGE,STAGE] [--stages]
//! ```
//!
//! What stages need from outside is installed here, or a line says what is skipped and why; with `CI=true` in the environment a skip is a
//! failure. All stages run, whatever failed before; the end is a table of stages and minutes, and a last line `N passed, N failed`. The counts
//! of random tests are few by default and many with `--night`. Logs are in `target/ci/logs`, scratch files in `target/ci/scratch`.
//!
//! One build profile (release) serves tests and binary. The binary is built alone (`-p quorate`) and copied away before any test is built:
//! tests of consensus, store and the simulator switch on the feature `planted`, which must not get into it.

mod environment;
mod stages;

use crate::shell::{logged, root};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How a stage ended when it did not fail.
pub enum Outcome {
    /// What it showed, in a few words.
    Passed(String),
    /// Why it could not run.
    Skipped(String),
}

/// One stage.
pub struct Stage {
    name: &'static str,
    /// What it shows.
    about: &'static str,
    run: fn(&Ctx) -> Result<Outcome, String>,
}

/// What stages share.
pub struct Ctx {
    /// The repository.
    root: PathBuf,
    /// Many instead of few.
    night: bool,
    /// A skip is a failure.
    strict: bool,
    /// The binary that every stage tries.
    bin: PathBuf,
    /// This program, where a rebuild does not touch it.
    xtask: PathBuf,
    /// Where logs go.
    logs: PathBuf,
    /// Where servers keep their files.
    scratch: PathBuf,
    /// PATH with programs in front that a stock machine does not have and that end every build that asks for them.
    path: String,
    /// The stage that runs.
    stage: &'static str,
}

impl Ctx {
    fn new(night: bool) -> Result<Ctx, String> {
        let root = root();
        let ci = root.join("target/ci");
        let dirs = ["logs", "scratch", "mask"].map(|name| ci.join(name));
        for dir in &dirs {
            let _ = fs::remove_dir_all(dir);
            fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        }
        let [logs, scratch, mask] = dirs;
        for name in ["protoc", "cmake"] {
            let text = format!(
                "#!/bin/sh\necho '{name} is masked: a stock machine has none, the build must do without' >&2\nexit 1\n"
            );
            write_program(&mask.join(name), text.as_bytes())?;
        }
        let xtask = ci.join("xtask");
        let me = std::env::current_exe().and_then(fs::read).map_err(|error| format!("this program: {error}"))?;
        write_program(&xtask, &me)?;
        let path = format!("{}:{}", mask.display(), std::env::var("PATH").unwrap_or_default());
        let strict = std::env::var("CI").is_ok_and(|ci| ci == "true");
        Ok(Ctx { root, night, strict, bin: ci.join("quorate"), xtask, logs, scratch, path, stage: "" })
    }

    /// Few or, at night, many.
    fn count(&self, few: u64, many: u64) -> u64 {
        if self.night { many } else { few }
    }

    /// Runs a program into this stage's log, for at most so many minutes; gives back what it said.
    fn run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str], minutes_max: u64) -> Result<String, String> {
        self.run_in(&self.root, program, args, minutes_max)
    }

    /// [`Ctx::run`] in another folder.
    fn run_in(
        &self,
        dir: &Path,
        program: impl AsRef<std::ffi::OsStr>,
        args: &[&str],
        minutes_max: u64,
    ) -> Result<String, String> {
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).env("PATH", &self.path).env_remove("PROTOC").env_remove("CMAKE");
        let minutes_max = if self.night { minutes_max * 20 } else { minutes_max };
        logged(command, &self.log(), Duration::from_secs(60 * minutes_max))
    }

    /// `cargo` with these words, split at spaces.
    fn cargo(&self, words: &str, minutes_max: u64) -> Result<String, String> {
        self.run("cargo", &words.split(' ').collect::<Vec<_>>(), minutes_max)
    }

    /// One of our own tools in a process of its own.
    fn tool(&self, args: &[&str], minutes_max: u64) -> Result<String, String> {
        self.run(&self.xtask, args, minutes_max)
    }

    fn log(&self) -> PathBuf {
        self.logs.join(format!("{}.log", self.stage))
    }

    /// A folder of this stage's own, for servers' files.
    fn dir(&self, name: &str) -> PathBuf {
        self.scratch.join(self.stage).join(name)
    }
}

/// Writes an executable file, never over one that runs.
fn write_program(path: &Path, bytes: &[u8]) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let at = |error: std::io::Error| format!("{}: {error}", path.display());
    let new = path.with_extension("new");
    fs::write(&new, bytes).map_err(at)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).map_err(at)?;
    fs::rename(&new, path).map_err(at)
}

/// Entry of `cargo xtask test`. Ends the process itself, so that the line of counts is the last.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut night, mut only, mut without) = (false, Vec::new(), Vec::new());
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut names = || -> Result<Vec<String>, String> {
            let names: Vec<String> =
                rest.next().ok_or(format!("{flag} wants names"))?.split(',').map(str::to_owned).collect();
            match names.iter().find(|name| !stages::STAGES.iter().any(|stage| stage.name == **name)) {
                Some(name) => Err(format!("{flag}: no stage {name:?}; `cargo xtask test --stages` lists them")),
                None => Ok(names),
            }
        };
        match flag.as_str() {
            "--night" => night = true,
            "--only" => only = names()?,
            "--without" => without = names()?,
            "--stages" => {
                for stage in stages::STAGES {
                    println!("{:14} {}", stage.name, stage.about);
                }
                return Ok(());
            }
            _ => return Err(format!("test does not know {flag}")),
        }
    }
    let mut ctx = Ctx::new(night)?;
    let mut rows = Vec::new();
    let whole = Instant::now();
    for stage in stages::STAGES {
        let wanted = only.is_empty() || only.iter().any(|name| name == stage.name);
        if !wanted || without.iter().any(|name| name == stage.name) {
            continue;
        }
        ctx.stage = stage.name;
        println!("== {}: {}", stage.name, stage.about);
        let start = Instant::now();
        let (word, text) = match (stage.run)(&ctx) {
            Ok(Outcome::Passed(text)) => ("passed", text),
            Ok(Outcome::Skipped(why)) if ctx.strict => {
                ("FAILED", format!("skipped, which CI=true makes a failure: {why}"))
            }
            Ok(Outcome::Skipped(why)) => ("skipped", why),
            Err(why) => ("FAILED", why),
        };
        println!("   {word}{}{text}", if text.is_empty() { "" } else { ": " });
        if word != "FAILED" {
            let _ = fs::remove_dir_all(ctx.scratch.join(stage.name));
        }
        rows.push((stage.name, word, start.elapsed(), text));
    }
    println!("\n{:14} {:>7}  result", "stage", "minutes");
    for (name, word, took, text) in &rows {
        let text = text.lines().next().unwrap_or("");
        println!(
            "{name:14} {:7.1}  {word}{}{text}",
            took.as_secs_f64() / 60.0,
            if text.is_empty() { "" } else { ": " }
        );
    }
    println!("{:14} {:7.1}", "together", whole.elapsed().as_secs_f64() / 60.0);
    let count = |wanted: &str| rows.iter().filter(|(_, word, ..)| *word == wanted).count();
    println!("{} passed, {} failed", count("passed"), count("FAILED"));
    std::process::exit(i32::from(count("FAILED") > 0))
}

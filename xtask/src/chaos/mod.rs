//! `cargo xtask chaos KIND`: the real binary on real files, and what must survive.
//!
//! ```text
//! cargo xtask chaos cluster   --bin PATH [--minutes M]    three nodes behind a bad network: its own flags, see `cluster` (root only)
//! cargo xtask chaos kill9     --bin PATH [--rounds N]     kill -9 under load, again and again on one data directory
//! cargo xtask chaos commit    --bin PATH [--rounds N]     kill -9 around EXEC: a row and a message of a topic, both or neither (wants kcat)
//! cargo xtask chaos power-cut --bin PATH [--rounds N]     a file system that loses what was not synced (root only)
//! cargo xtask chaos disk-full --bin PATH                  a full disk refuses writes, serves the rest, recovers (root only)
//! cargo xtask chaos corrupt   --bin PATH [--rounds N]     damaged files: refuse and say where, or lose nothing
//!   common: [--template "COMMAND …"] [--seed N] [--dir DIR]
//! ```
//!
//! The template is how a server is started, `{bin}`, `{data}`, `{port}` and `{admin}` standing for what they say; words are split at spaces.
//! With another template the same tests try another server: that is how they were tried before ours served
//! (`--template "redis-server --port {port} --dir {data} --save  --appendonly yes --appendfsync always"`).
//!
//! The promise tested everywhere: what was acknowledged is there, what was not is there whole or not at all, and nothing else is there.

mod cluster;
mod commit;
mod corrupt;
mod disk_full;
mod history;
pub mod image;
mod kill9;
mod server;

pub use image::Image;

use crate::rng::Rng;
use std::path::{Path, PathBuf};

/// How `quorate` is started.
const TEMPLATE: &str = "{bin} up --data {data} --redis-port {port} --admin-port {admin}";

/// What all kinds are told.
pub struct Ask {
    template: String,
    rounds: usize,
    seed: u64,
    dir: PathBuf,
}

impl Ask {
    fn rng(&self) -> Rng {
        Rng::new(self.seed)
    }
}

/// Entry of `cargo xtask chaos`.
pub fn run(args: &[String]) -> Result<(), String> {
    let (kind, rest) =
        args.split_first().ok_or("chaos wants a kind: cluster, kill9, commit, power-cut, disk-full, corrupt")?;
    if kind == "cluster" {
        return cluster::run(rest);
    }
    let mut bin = None;
    let mut template = TEMPLATE.to_owned();
    let mut rounds = 20;
    let mut seed = u64::from(std::process::id());
    let mut base = std::env::temp_dir();
    let mut rest = rest.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{flag} wants a number, not {value:?}"));
        match flag.as_str() {
            "--bin" => bin = Some(value),
            "--template" => template = value,
            "--rounds" => rounds = number()? as usize,
            "--seed" => seed = number()?,
            "--dir" => base = PathBuf::from(value),
            _ => return Err(format!("chaos does not know {flag}")),
        }
    }
    if kind == "commit" && !template.contains("{kafka}") {
        template.push_str(commit::KAFKA);
    }
    if template.contains("{bin}") {
        let bin = bin.ok_or("chaos wants --bin PATH (or a --template without {bin})")?;
        let bin = std::path::absolute(&bin).map_err(|error| format!("{bin}: {error}"))?;
        template = template.replace("{bin}", &bin.to_string_lossy());
    }
    let dir = base.join(format!("quorate-chaos-{}-{}", kind, std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let ask = Ask { template, rounds, seed, dir };
    println!("chaos {kind}: seed {seed}, files in {}", ask.dir.display());
    let done = match kind.as_str() {
        "kill9" => kill9::run(&ask),
        "commit" => commit::run(&ask),
        "power-cut" => image::only_root("power-cut").map_or_else(|| kill9::power_cut(&ask), |why| skip(&why)),
        "disk-full" => image::only_root("disk-full").map_or_else(|| disk_full::run(&ask), |why| skip(&why)),
        "corrupt" => corrupt::run(&ask),
        _ => Err(format!("no kind of chaos {kind:?}; there are cluster, kill9, commit, power-cut, disk-full, corrupt")),
    };
    match done {
        Ok(()) => remove(&ask.dir),
        Err(message) => {
            Err(format!("{message}\n(seed {seed}; data and the server's output are kept in {})", ask.dir.display()))
        }
    }
}

fn skip(why: &str) -> Result<(), String> {
    println!("skipped: {why}");
    if std::env::var("CI").is_ok_and(|ci| ci == "true") {
        Err("a skip is a failure where CI=true".into())
    } else {
        Ok(())
    }
}

fn remove(dir: &Path) -> Result<(), String> {
    std::fs::remove_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))
}

/// Says which file an error is about.
fn at<T>(path: &Path, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{}: {error}", path.display()))
}

//! `cargo xtask compat`: docs/compatibility.md, generated from what ran.
//!
//! ```text
//! cargo xtask compat --bin PATH [--suite FILE] [--write]
//! ```
//!
//! Starts the binary, plays Tair's cases against it and compares the document that follows with the committed one; `--write` writes it.

use crate::server::Server;
use crate::shell::{output, root};
use crate::tair;
use std::path::{Path, PathBuf};

/// The document.
const DOCUMENT: &str = "docs/compatibility.md";
/// The suite's data beside the repository.
const SUITE: &str = "shared/suites/tair-cts.json";

/// Entry of `cargo xtask compat`.
pub fn run(args: &[String]) -> Result<(), String> {
    let (mut bin, mut given, mut write) = (root().join("target/release/quorate"), None, false);
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--bin" => bin = PathBuf::from(value()?),
            "--suite" => given = Some(PathBuf::from(value()?)),
            "--write" => write = true,
            _ => return Err(format!("compat does not know {flag}")),
        }
    }
    let suite =
        given.or_else(suite).ok_or("the suite's data is not beside the repository; --suite FILE says where it is")?;
    let dir = std::env::temp_dir().join(format!("quorate-compat-{}", std::process::id()));
    let done = write_or_compare(&bin, &suite, &dir, write);
    if done.is_ok() {
        let _ = std::fs::remove_dir_all(&dir);
    }
    done
}

/// Where the suite's data is: beside the repository, or beside the one that this is a local clone of.
pub fn suite() -> Option<PathBuf> {
    let origin = output("git", &["config", "--get", "remote.origin.url"]).unwrap_or_default();
    let origin = PathBuf::from(origin.trim().trim_start_matches("file://").trim_end_matches("/.git"));
    let named = std::env::var_os("QUORATE_SUITES").map(|dir| PathBuf::from(dir).join("tair-cts.json"));
    let beside = [root(), origin].into_iter().filter_map(|repository| repository.parent().map(|dir| dir.join(SUITE)));
    named.into_iter().chain(beside).find(|file| file.is_absolute() && file.is_file())
}

fn write_or_compare(bin: &Path, suite: &Path, dir: &Path, write: bool) -> Result<(), String> {
    let server = Server::quorate(bin, &dir.join("data"), &[], &[])?;
    let table = dir.join("table.md");
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let args = ["--port", server.port(), "--suite", &text(suite), "--markdown", &text(&table)].map(str::to_owned);
    let played = tair::run(&args);
    let table = std::fs::read_to_string(&table).map_err(|error| format!("{}: {error}", table.display()))?;
    let (masks, suite) = (crate::differential::masks(), crate::redis_suite::ran()?);
    let whole = format!(
        "# Compatibility with Redis\n\n<!-- Generated from what ran: `cargo xtask compat --write`. Do not edit. -->\n\n\
         We claim Redis 7.2's semantics and error texts for the commands that are there. Three things check it.\n\n\
         ## Tair's compatibility suite, cases up to 7.0.0\n\n{table}\n\
         ## Redis 7.2's own suite\n\n\
         `cargo xtask redis-suite` plays it, unchanged, against a running server; it is no part of this repository, and not of every run.\n\n{suite}\n\
         ## Random commands beside a real redis-server\n\n\
         `cargo xtask differential` sends the same random commands to Debian's redis-server 7.0.15 and to quorate and compares every reply. \
         What it does not compare, among them the differences of 7.0 from 7.2:\n\n{masks}"
    );
    let document = root().join(DOCUMENT);
    if write {
        std::fs::create_dir_all(root().join("docs"))
            .and_then(|()| std::fs::write(&document, whole))
            .map_err(|error| format!("{DOCUMENT}: {error}"))?;
        println!("wrote {DOCUMENT}");
        return played;
    }
    played?;
    let there = std::fs::read_to_string(&document).unwrap_or_default();
    if there != whole {
        let differs = there.lines().zip(whole.lines()).find(|(old, new)| old != new);
        let differs = differs.map_or(String::new(), |(old, new)| format!("\n  there: {old}\n  ran:   {new}"));
        return Err(format!("{DOCUMENT} is not what ran; `cargo xtask compat --write` writes it{differs}"));
    }
    println!("{DOCUMENT} is what ran");
    Ok(())
}

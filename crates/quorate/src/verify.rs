//! `quorate log verify DIR`: reads every record of every segment and every snapshot of a node that does not run.

use shard::manifest::Manifest;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use store::log::{Damage, LogOptions, Report, verify};

/// Checks the directory; exit code 1 for damage.
pub fn run(path: &Path) -> Result<ExitCode, String> {
    let shown = path.display();
    if !path.is_dir() {
        return Err(format!("{shown} is no directory; `quorate log verify` wants a data directory (data_dir)"));
    }
    if !path.join("SHARDS").exists() && !path.join("LOCK").exists() {
        return Err(format!("{shown} is no data directory: it holds no log"));
    }
    let (disk, _lock) = host::start::lock(path)?;
    let is_terminal = io::stderr().is_terminal();
    let mut percent = u64::MAX;
    let mut report = verify(&disk, &LogOptions::default(), &mut |progress| {
        let now = (progress.done * 100).checked_div(progress.total).unwrap_or(100);
        // Off a terminal a line every tenth is enough.
        if now == percent || (!is_terminal && now / 10 == percent / 10) {
            return;
        }
        percent = now;
        let (start, end) = if is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        let mib = |bytes: u64| bytes >> 20;
        eprint!("{start}checking: {now}% of {} MiB  {}{end}", mib(progress.total), progress.file);
    })
    .map_err(|error| format!("{shown} cannot be read: {error}"))?;
    if is_terminal {
        eprint!("\r\x1b[K");
    }
    report.damage.extend(missing(path, &report));
    print(path, &report);
    let _ = io::stdout().flush();
    Ok(if report.damage.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What the log cannot know: that there was one. The file SHARDS is written once a log is there.
fn missing(path: &Path, report: &Report) -> Option<Damage> {
    const MARK: &str = "SHARDS";
    let text = std::fs::read(path.join(MARK)).ok()?;
    let is_mended = || std::fs::read(path.join("SHARDS.copy")).is_ok_and(|copy| Manifest::is_sound(&copy));
    let what = match (Manifest::is_sound(&text), report.segments) {
        (false, _) if is_mended() => "it does not say which shards there are; the next start mends it from SHARDS.copy",
        (false, _) => "it does not say which shards there are, nor does SHARDS.copy",
        (true, 0) if report.damage.is_empty() => "it says that a log was here, and there is none",
        _ => return None,
    };
    Some(Damage { file: MARK.into(), offset: 0, what: what.into() })
}

fn print(path: &Path, report: &Report) {
    println!(
        "{} segments: {} batches, {} records, {} entries, {} KiB",
        report.segments,
        report.batches,
        report.records,
        report.entries,
        report.log_bytes >> 10
    );
    println!("{} snapshots: {} KiB", report.snapshots, report.snapshot_bytes >> 10);
    for group in &report.groups {
        let snapshot = group.snapshot.map_or("no snapshot".into(), |index| format!("snapshot at {index}"));
        println!("{}: {snapshot}, log from {} to {}", group.group, group.start + 1, group.last);
    }
    if let Some(cut) = &report.torn {
        println!(
            "the last batch cannot be read, and the next start cuts it off: {} from byte {}, {} bytes (a crash tears what nobody was told of; rot in the very last batch would look the same)",
            path.join(&cut.file).display(),
            cut.offset,
            cut.bytes
        );
    }
    println!("the last stop was {}", if report.sealed { "clean" } else { "a crash, a kill or a power cut" });
    for damage in &report.damage {
        println!("DAMAGED: {} at byte {}: {}", path.join(&damage.file).display(), damage.offset, damage.what);
    }
    match report.damage.len() {
        0 => println!("{} is sound", path.display()),
        1 => println!("{} is damaged in 1 place: restore it from a backup", path.display()),
        count => println!("{} is damaged in {count} places: restore it from a backup", path.display()),
    }
}

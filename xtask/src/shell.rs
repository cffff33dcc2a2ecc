//! Other programs, run by name: what all tools here need of the shell, without a shell.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The repository's root: xtask is built in it.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// What a program printed; the error is what it complained about.
pub fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let done = Command::new(program)
        .args(args)
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&done.stderr);
    Err(format!("{program} {}: {}: {}", args.join(" "), done.status, said.trim()))
}

/// Runs a program at the root with its output on ours.
pub fn visibly(program: &str, args: &[&str]) -> Result<(), String> {
    println!("$ {program} {}", args.join(" "));
    let status = Command::new(program)
        .args(args)
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("{program}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program} {}: {status}", args.join(" "))) }
}

/// Runs `command`, its output appended to `log`. When `limit` has passed it ends it and all that it started.
/// Gives back what it printed; the error has the end of it.
pub fn logged(mut command: Command, log: &Path, limit: Duration) -> Result<String, String> {
    let shown = show(&command);
    let open = || OpenOptions::new().create(true).append(true).open(log);
    let at = |error: std::io::Error| format!("{}: {error}", log.display());
    let mut out = open().map_err(at)?;
    std::io::Write::write_all(&mut out, format!("$ {shown}\n").as_bytes()).map_err(at)?;
    let from = out.metadata().map_err(at)?.len() as usize;
    let err = open().map_err(at)?;
    let mut child =
        command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().map_err(|error| format!("{shown}: {error}"))?;
    let start = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break Ok(()),
            Ok(Some(status)) => break Err(format!("{status}")),
            Ok(None) if start.elapsed() > limit => {
                let family: Vec<String> = family(child.id()).iter().map(u32::to_string).collect();
                let _ = Command::new("kill").arg("-KILL").args(family).stderr(Stdio::null()).status();
                let _ = child.wait();
                break Err(format!("not done within {} s", limit.as_secs()));
            }
            Ok(None) => std::thread::sleep(Duration::from_millis(20)),
            Err(error) => break Err(error.to_string()),
        }
    };
    let said = fs::read(log).unwrap_or_default();
    let said = String::from_utf8_lossy(&said[from.min(said.len())..]).into_owned();
    match ended {
        Ok(()) => Ok(said),
        Err(why) => Err(format!("{shown}: {why}; the end of {}:\n{}", log.display(), tail(&said, 60))),
    }
}

/// A process and all that descend from it.
pub fn family(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name in brackets may hold anything; the parent is the second word after it.
            let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?;
            Some((pid, parent))
        })
        .collect();
    let mut family = vec![pid];
    let mut at = 0;
    while at < family.len() {
        let above = family[at];
        family.extend(parents.iter().filter(|(_, parent)| *parent == above).map(|(pid, _)| *pid));
        at += 1;
    }
    family
}

/// The last lines.
pub fn tail(text: &str, lines_max: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(lines_max)..].join("\n")
}

/// Whether a program can be found.
pub fn there(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

//! Other programs, run by name: what all tools here need of the shell, without a shell.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
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

/// Runs `command` in a process group of its own, its output appended to `log`. Ends the whole group when `limit` has passed.
/// Gives back what it printed; the error has the end of it.
pub fn logged(mut command: Command, log: &Path, limit: Duration) -> Result<String, String> {
    let shown = show(&command);
    let open = || OpenOptions::new().create(true).append(true).open(log);
    let at = |error: std::io::Error| format!("{}: {error}", log.display());
    let mut out = open().map_err(at)?;
    std::io::Write::write_all(&mut out, format!("$ {shown}\n").as_bytes()).map_err(at)?;
    let from = out.metadata().map_err(at)?.len() as usize;
    let err = open().map_err(at)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .process_group(0)
        .spawn()
        .map_err(|error| format!("{shown}: {error}"))?;
    let start = Instant::now();
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break Ok(()),
            Ok(Some(status)) => break Err(format!("{status}")),
            Ok(None) if start.elapsed() > limit => {
                let group = format!("-{}", child.id());
                let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
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

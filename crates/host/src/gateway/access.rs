//! The access log: lines go to a thread of their own, through a queue that never holds a request up.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait; further ones are dropped and counted.
const LINES_MAX: usize = 16_384;
/// How long a line may wait in the buffer.
const FLUSH_EVERY: Duration = Duration::from_millis(200);

/// Where requests are logged.
pub struct AccessLog {
    lines: Option<SyncSender<String>>,
    dropped: AtomicU64,
}

impl AccessLog {
    /// Opens it: empty for nowhere, `-` for standard output, else a file that is appended to.
    pub fn open(path: &str) -> Result<AccessLog, String> {
        let out: Box<dyn Write + Send> = match path {
            "" => return Ok(AccessLog { lines: None, dropped: AtomicU64::new(0) }),
            "-" => Box::new(std::io::stdout()),
            path => {
                let file = OpenOptions::new().append(true).create(true).open(path);
                Box::new(file.map_err(|error| format!("gateway.access_log {path}: {error}"))?)
            }
        };
        let (lines, queue) = sync_channel(LINES_MAX);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || write(&queue, BufWriter::new(out)))
            .map_err(|error| format!("no thread for the access log: {error}"))?;
        Ok(AccessLog { lines: Some(lines), dropped: AtomicU64::new(0) })
    }

    /// Whether anybody reads it.
    pub fn is_on(&self) -> bool {
        self.lines.is_some()
    }

    /// Adds a line, which has its line break.
    pub fn put(&self, line: String) {
        if let Some(lines) = &self.lines
            && lines.try_send(line).is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that found no room: the disk was too slow.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

fn write(queue: &Receiver<String>, mut out: BufWriter<Box<dyn Write + Send>>) {
    let mut failed = false;
    loop {
        let written = match queue.recv_timeout(FLUSH_EVERY) {
            Ok(line) => out.write_all(line.as_bytes()),
            Err(RecvTimeoutError::Timeout) => out.flush(),
            Err(RecvTimeoutError::Disconnected) => {
                let _ = out.flush();
                return;
            }
        };
        if let Err(error) = written
            && !std::mem::replace(&mut failed, true)
        {
            eprintln!("quorate: the access log cannot be written: {error}");
        }
    }
}

//! What the machine alone does in the same minute: a disk that is written to in large pieces, a copy over loopback.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One write, and one copy's buffer.
const PIECE: usize = 1 << 20;
/// Bytes of the file that is written over.
const FILE_PIECES: u64 = 256;

/// What was found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Bytes a second of 1-MiB writes into a preallocated file, each with an fdatasync.
    pub disk: f64,
    /// Bytes a second from one thread to another over a loopback connection.
    pub copy: f64,
    /// CPU seconds that the sending thread takes for a gigabyte.
    pub copy_cpu: f64,
}

/// A file of its own to write over.
pub struct Disk {
    file: File,
    path: PathBuf,
}

impl Disk {
    /// Makes the file.
    pub fn new(dir: &Path) -> Result<Disk, String> {
        let path = dir.join("disk.probe");
        let at = |error: std::io::Error| format!("{}: {error}", path.display());
        let file = OpenOptions::new().create(true).truncate(true).write(true).open(&path).map_err(at)?;
        for number in 0..FILE_PIECES {
            file.write_all_at(&[0x5a; PIECE], number * PIECE as u64).map_err(at)?;
        }
        file.sync_all().map_err(at)?;
        Ok(Disk { file, path })
    }

    fn measure(&self, span: Duration) -> Result<f64, String> {
        let at = |error: std::io::Error| format!("{}: {error}", self.path.display());
        let piece = vec![0xa5; PIECE];
        let (start, mut count) = (Instant::now(), 0);
        while start.elapsed() < span {
            self.file.write_all_at(&piece, (count % FILE_PIECES) * PIECE as u64).map_err(at)?;
            self.file.sync_data().map_err(at)?;
            count += 1;
        }
        Ok(count as f64 * PIECE as f64 / start.elapsed().as_secs_f64())
    }

    /// Both limits, each looked at for so long.
    pub fn limits(&self, span: Duration) -> Result<Limits, String> {
        let disk = self.measure(span)?;
        let (copy, copy_cpu) = copy(span).map_err(|error| format!("a copy over loopback: {error}"))?;
        Ok(Limits { disk, copy, copy_cpu })
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// CPU seconds of the calling thread.
fn thread_cpu() -> std::io::Result<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(text.split_whitespace().next().and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e9)
}

/// Bytes a second, and the sender's CPU seconds for a gigabyte.
fn copy(span: Duration) -> std::io::Result<(f64, f64)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut out = TcpStream::connect(listener.local_addr()?)?;
    let (mut into, _) = listener.accept()?;
    let reader = std::thread::spawn(move || -> std::io::Result<u64> {
        let (mut piece, mut bytes) = (vec![0; PIECE / 4], 0);
        loop {
            match into.read(&mut piece)? {
                0 => return Ok(bytes),
                count => bytes += count as u64,
            }
        }
    });
    let piece = vec![0xa5; PIECE / 4];
    let (start, before) = (Instant::now(), thread_cpu()?);
    while start.elapsed() < span {
        out.write_all(&piece)?;
    }
    let spent = thread_cpu()? - before;
    drop(out);
    let bytes = reader.join().map_err(|_| std::io::Error::other("the reader panicked"))?? as f64;
    Ok((bytes / start.elapsed().as_secs_f64(), spent * 1e9 / bytes))
}

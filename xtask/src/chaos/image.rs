//! A small ext4 file system in a file, that can be filled up and whose power can be cut.

use super::at;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// `_IOR('X', 125, __u32)`: shuts an ext4 down.
const EXT4_IOC_SHUTDOWN: u64 = 0x8004_587d;
/// Flush nothing, not even the journal: the power is gone.
const NO_LOG_FLUSH: u32 = 2;

/// How long somebody may still have files open there.
const BUSY: Duration = Duration::from_secs(10);

/// A mounted image; unmounted when dropped.
pub struct Image {
    file: PathBuf,
    mount: PathBuf,
    mounted: bool,
}

/// Why this cannot run here, if it cannot.
pub fn only_root(kind: &str) -> Option<String> {
    let uid = Command::new("id")
        .arg("-u")
        .output()
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        .unwrap_or_default();
    if uid != "0" {
        return Some(format!("{kind} mounts a file system: root only"));
    }
    let found = Command::new("mkfs.ext4").arg("-V").output().is_ok();
    (!found).then(|| format!("{kind} wants mkfs.ext4"))
}

fn command(program: &str, args: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(args).output().map_err(|error| format!("{program}: {error}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {} {}", args.join(" "), out.status, String::from_utf8_lossy(&out.stderr).trim()))
}

impl Image {
    /// Makes and mounts an image of so many MiB under `dir`.
    pub fn make(dir: &Path, mib: u64) -> Result<Image, String> {
        let (file, mount) = (dir.join("disk.img"), dir.join("mnt"));
        let image = at(&file, File::create(&file))?;
        at(&file, image.set_len(mib << 20))?;
        command("mkfs.ext4", &["-q", "-m", "0", &file.to_string_lossy()])?;
        at(&mount, std::fs::create_dir_all(&mount))?;
        let mut image = Image { file, mount, mounted: false };
        image.attach()?;
        Ok(image)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn attach(&mut self) -> Result<(), String> {
        command("mount", &["-o", "loop", &self.file.to_string_lossy(), &self.mount.to_string_lossy()])?;
        self.mounted = true;
        Ok(())
    }

    fn detach(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while self.mounted {
            match command("umount", &[&self.mount.to_string_lossy()]) {
                Ok(()) => self.mounted = false,
                // A process that the server forked may be on its way out.
                Err(_) if start.elapsed() < BUSY => std::thread::sleep(Duration::from_millis(20)),
                Err(why) => return Err(why),
            }
        }
        Ok(())
    }

    /// Everything written so far is on the disk.
    pub fn sync(&self) -> Result<(), String> {
        command("sync", &["-f", &self.mount.to_string_lossy()])
    }

    /// Cuts the power: what was not synced is lost, and nothing can be written until [`Image::reboot`].
    #[allow(unsafe_code)]
    pub fn cut(&self) -> Result<(), String> {
        use std::os::fd::AsRawFd;
        let dir = at(&self.mount, File::open(&self.mount))?;
        let flag = NO_LOG_FLUSH;
        // SAFETY: the descriptor is open for the whole call, and this request reads one u32 from the address, which `flag` is.
        let done = unsafe { libc::ioctl(dir.as_raw_fd(), EXT4_IOC_SHUTDOWN as _, &raw const flag) };
        if done == 0 {
            Ok(())
        } else {
            Err(format!("{}: shutdown: {}", self.mount.display(), std::io::Error::last_os_error()))
        }
    }

    /// Mounts what the cut left. Whoever had files open there must be gone.
    pub fn reboot(&mut self) -> Result<(), String> {
        self.detach()?;
        self.attach()
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(why) = self.detach() {
            eprintln!("{why}");
        }
    }
}

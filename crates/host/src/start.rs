//! From a data directory to a running driver: lock, log, snapshots, replay.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use base::{Limits, NodeId};
use doors::resp::door::Client;
use shard::driver::Driver;
use shard::live::Shard;
pub use shard::open::Found;
use shard::open::{OpenError, OpenOptions};
use store::disk::{Disk, DiskError, DiskFile};
use store::log::{Log, LogError, LogOptions};

use crate::files::Directory;
use crate::node::NodeConfig;

/// A data directory opened by this process alone.
pub struct Opened {
    /// Held as long as the node runs.
    pub lock: File,
    /// The directory.
    pub disk: Directory,
    /// The log, ready for appends.
    pub log: Log<Directory>,
    /// The driver, its groups recovered.
    pub driver: Driver<Client>,
    /// Meta first, then data shards in slot order.
    pub shards: Vec<Arc<Shard<Client>>>,
    /// What was found, for people.
    pub found: Found,
    /// How it was opened: another node's snapshot is read the same way.
    pub options: OpenOptions,
}

/// Progress of a start: what is done and how far, for people and for `-LOADING`.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// Locks a data directory, or says why not.
pub fn lock(path: &Path) -> Result<(Directory, File), String> {
    let shown = path.display();
    let disk = Directory::open(path)
        .map_err(|error| format!("the data directory {shown} cannot be used: {error}; set data_dir (--data) to a directory that can be written"))?;
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path.join("LOCK"))
        .map_err(|error| format!("the data directory {shown} cannot be written: {error}; set data_dir (--data) to a directory that can be"))?;
    match file.try_lock() {
        Ok(()) => Ok((disk, file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(format!(
            "the data directory {shown} is in use by another quorate; stop that one, or set data_dir (--data) to another directory"
        )),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(format!("the data directory {shown} cannot be locked: {error}"))
        }
    }
}

/// The options that open the log of a node like this.
pub fn log_options(config: &NodeConfig) -> LogOptions {
    LogOptions {
        segment_bytes: config.segment_bytes,
        bytes_max: config.log_bytes_max,
        log_id: crate::clock::seed(),
        node: config.node.0,
        ..LogOptions::default()
    }
}

/// What people do about a data directory that has lost something which nobody can give back to it.
pub fn go_on(node: NodeId) -> String {
    format!(
        "If the node was alone, restore the directory from a backup. Else go on as a new node: on a member `quorate cluster token` prints the command, to be \
         run here with --data set to a new directory; then, there, `quorate cluster replace {} N`, N being the number that it was given",
        node.0
    )
}

fn explain(path: &Path, node: NodeId, error: &LogError) -> String {
    match error {
        LogError::Damaged { file, offset, what } => format!(
            "{} is damaged at byte {offset}: {what}. It was acknowledged, so the node does not start without it; `quorate log verify {}` checks the rest. {}",
            path.join(file).display(),
            path.display(),
            go_on(node)
        ),
        LogError::Full => {
            format!("no room for the log in {}; free some, or set data_dir (--data) to another disk", path.display())
        }
        other => format!("the log in {} cannot be opened: {other}", path.display()),
    }
}

/// Opens everything.
pub fn open(config: &NodeConfig, progress: Progress<'_>) -> Result<Opened, String> {
    let path = config.data_dir.as_path();
    let (disk, lock) = lock(path)?;
    let options = OpenOptions {
        snapshot_log_bytes: config.snapshot_log_bytes,
        limits: config.limits.clone(),
        // Whoever founded the cluster founded its groups, alone.
        founders: vec![FIRST_NODE],
        timing: config.timing,
        quiesces: true,
        // Whoever joined has peers, whatever its disk still knows of them.
        has_peers: config.node != FIRST_NODE || path.join(PEERS).exists(),
        ..OpenOptions::new(config.node, config.data_shards, log_options(config))
    };
    let opened = shard::open::open(&disk, &options, &mut crate::clock::seed, progress).map_err(|error| {
        let shown = path.display();
        match error {
            OpenError::Log(error, damaged) if damaged.is_empty() => explain(path, config.node, &error),
            OpenError::Log(error, damaged) => format!("{}; {}", damaged.join("; "), explain(path, config.node, &error)),
            OpenError::Shards(stored) => format!(
                "{shown} was made with data_shards = {stored}, and {} is set; set data_shards = {stored}, or data_dir to a new directory",
                config.data_shards
            ),
            OpenError::Gone => format!(
                "{shown} once held a log (SHARDS says so), and now it is gone: what was acknowledged is missing. {}",
                go_on(config.node)
            ),
            OpenError::Refused(why) => format!("{why} ({shown}). {}", go_on(config.node)),
        }
    })?;
    let shard::open::Opened { log, driver, shards, found } = opened;
    Ok(Opened { lock, disk, log, driver, shards, found, options })
}

/// A file that is there while the first node is not alone. Whoever joined knows that by its number; the first node's damaged log may say
/// nothing of others any more, and with it who can give back what it lost.
const PEERS: &str = "PEERS";

/// Writes down whether the first node has others beside it.
///
/// # Errors
/// The file cannot be written, or removed.
pub fn note_peers(disk: &Directory, has_peers: bool) -> Result<(), DiskError> {
    match has_peers {
        true if disk.open(PEERS).is_ok() => {}
        true => {
            let mut file = disk.create(PEERS)?;
            file.write_at(0, b"other nodes hold what this one holds\n")?;
            file.sync()?;
        }
        false => match disk.remove(PEERS) {
            Ok(()) | Err(DiskError::NotFound) => {}
            Err(error) => return Err(error),
        },
    }
    disk.sync_dir()
}

/// The number of the node that founds a cluster.
pub const FIRST_NODE: NodeId = NodeId(1);

/// The documented bounds.
pub fn default_limits() -> Limits {
    Limits::DEFAULT
}

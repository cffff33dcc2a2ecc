//! From a data directory to a running driver: lock, log, snapshots, replay.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use base::{GroupId, Limits, NodeId};
use bytes::Bytes;
use consensus::{Entry, EntryKind, GroupConfig, HardState, Membership, Position};
use doors::resp::door::Client;
use shard::driver::{Driver, DriverConfig};
use shard::live::Shard;
use shard::recover::Recovery;
use shard::state::State;
use store::disk::Disk;
use store::keyspace::Keyspaces;
use store::log::{Log, LogError, LogOptions, Record};
use store::snapshot::{SnapshotReader, pick, sweep};

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
}

/// What a start found.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Nothing: a new node.
    pub fresh: bool,
    /// The node had been stopped cleanly.
    pub sealed: bool,
    /// A torn tail that was cut off, in words.
    pub cut: Option<String>,
    /// Entries read from the log.
    pub entries: u64,
    /// Bytes read from the log.
    pub log_bytes: u64,
    /// Keys from snapshots.
    pub snapshot_keys: u64,
    /// Damaged newer snapshots that were passed over because the log still holds what they covered.
    pub damaged_snapshots: Vec<String>,
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

fn explain(path: &Path, error: &LogError) -> String {
    match error {
        LogError::Damaged { file, offset, what } => format!(
            "{} is damaged at byte {offset}: {what}. It was acknowledged, so the node does not start without it; `quorate log verify {}` checks the rest, then restore the directory from a backup",
            path.join(file).display(),
            path.display()
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
    let _ = sweep(&disk);
    let mut found = Found::default();
    let groups: Vec<GroupId> = (0..=config.data_shards as u32).map(GroupId).collect();
    let known = check_shards(&disk, config.data_shards)?;
    let mut recoveries = BTreeMap::new();
    for group in &groups {
        let recovery =
            load_snapshot(&disk, *group, config, &mut found, progress).map_err(|error| explain(path, &error))?;
        recoveries.insert(*group, recovery);
    }
    let mut entries = 0u64;
    let visit = &mut |record: Record<'_>| -> Result<(), String> {
        let of = |group: GroupId| format!("a record of {group}, which this node does not have");
        match record {
            Record::Node { .. } | Record::Seal => Ok(()),
            Record::Entry { group, index, term, kind, data } => {
                entries += 1;
                let kind = EntryKind::from_number(kind).ok_or_else(|| format!("an entry of unknown kind {kind}"))?;
                let entry = Entry { index, term, kind, data: Bytes::copy_from_slice(data) };
                recoveries.get_mut(&group).ok_or_else(|| of(group))?.entry(entry)
            }
            Record::HardState { group, term, vote, commit } => {
                recoveries.get_mut(&group).ok_or_else(|| of(group))?.hard_state(HardState { term, vote, commit })
            }
            Record::SnapshotMark { group, index, term, install } => {
                recoveries.get_mut(&group).ok_or_else(|| of(group))?.mark(Position { index, term }, install)
            }
        }
    };
    let shown =
        &mut |segment: u64, offset: u64| progress(&format!("reading the log: segment {segment}, {} MiB", offset >> 20));
    let (log, recovery) =
        Log::open_with_progress(disk.clone(), log_options(config), visit, shown).map_err(|error| {
            let damaged = found.damaged_snapshots.join("; ");
            if damaged.is_empty() { explain(path, &error) } else { format!("{damaged}; {}", explain(path, &error)) }
        })?;
    if recovery.fresh && known {
        return Err(format!(
            "{} once held a log, and now it is gone: what was acknowledged is missing. Restore the directory from a backup, or set data_dir (--data) to a new one",
            path.display()
        ));
    }
    if !known {
        write_shards(&disk, config.data_shards)?;
    }
    found.fresh = recovery.fresh;
    found.sealed = recovery.sealed;
    found.entries = entries;
    found.log_bytes = recovery.bytes;
    found.cut = recovery.cut.map(|cut| {
        format!(
            "a torn, never acknowledged tail was cut off: {} from byte {}, {} bytes",
            cut.file, cut.offset, cut.bytes
        )
    });
    let mut driver = Driver::new(DriverConfig {
        node: config.node,
        snapshot_log_bytes: config.snapshot_log_bytes,
        limits: config.limits.clone(),
        believe_wall: true,
    });
    let mut shards = Vec::new();
    for (group, recovery) in recoveries {
        let membership = Membership::new([config.node], []);
        let group_config = GroupConfig::new(group, config.node, membership, crate::clock::seed());
        let recovered = recovery.finish().map_err(|why| format!("{why} ({})", path.display()))?;
        shards.push(driver.add(group_config, recovered)?);
    }
    Ok(Opened { lock, disk, log, driver, shards, found })
}

/// The number of data shards is part of the data: keys would be looked for in the wrong one. False where the directory has
/// never held a log.
fn check_shards(disk: &Directory, wanted: usize) -> Result<bool, String> {
    let path = disk.path().join("SHARDS");
    match std::fs::read_to_string(&path) {
        Ok(text) => match text.trim().parse::<usize>() {
            Ok(stored) if stored == wanted => Ok(true),
            Ok(stored) => Err(format!(
                "{} was made with data_shards = {stored}, and {wanted} is set; set data_shards = {stored}, or data_dir to a new directory",
                disk.path().display()
            )),
            Err(_) => Err(format!("{} does not hold a number of shards", path.display())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Says that this directory holds a log. Written after the log was made: a log that is missing later is noticed.
fn write_shards(disk: &Directory, count: usize) -> Result<(), String> {
    let path = disk.path().join("SHARDS");
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    std::fs::write(&path, format!("{count}\n")).map_err(failed)?;
    File::open(&path).and_then(|file| file.sync_all()).map_err(failed)?;
    disk.sync_dir().map_err(|error| format!("{}: {error}", disk.path().display()))
}

fn load_snapshot(
    disk: &Directory,
    group: GroupId,
    config: &NodeConfig,
    found: &mut Found,
    progress: Progress<'_>,
) -> Result<Recovery, LogError> {
    let seed = crate::clock::seed();
    let mut state = State::new(group, config.limits.clone(), Arc::new(Keyspaces::default()), seed);
    let picked = pick(disk, group, (0, 0))?;
    found.damaged_snapshots.extend(picked.damaged.iter().map(ToString::to_string));
    let Some(id) = picked.snapshot else {
        return Ok(Recovery::new(group, state, Position::default()));
    };
    let mut reader = SnapshotReader::open(disk, group, id.index)?;
    let mut chunk = Vec::new();
    let mut first = true;
    let mut keys = 0u64;
    while reader.chunk(&mut chunk)? {
        let damaged = |corrupt: store::codec::Corrupt| LogError::Damaged {
            file: store::snapshot::snapshot_name(group, id.index),
            offset: 0,
            what: corrupt.to_string(),
        };
        if first {
            state.restore_first(&chunk).map_err(damaged)?;
            first = false;
        } else {
            keys += state.restore(&chunk).map_err(damaged)? as u64;
        }
        progress(&format!("reading the snapshot of {group}: {} of {} MiB", reader.offset() >> 20, reader.len() >> 20));
    }
    found.snapshot_keys += keys;
    Ok(Recovery::new(group, state, Position { index: id.index, term: id.term }))
}

/// The node id of a lone node.
pub const FIRST_NODE: NodeId = NodeId(1);

/// The documented bounds.
pub fn default_limits() -> Limits {
    Limits::DEFAULT
}

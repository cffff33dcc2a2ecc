//! Offline check of a data directory: every record of every segment, every snapshot. Reads only.

use super::open::{self, names};
use super::reader::{SegmentReader, Stop};
use super::{Cut, LogError, LogOptions};
use crate::disk::{Disk, DiskFile};
use crate::snapshot;
use base::GroupId;
use std::collections::BTreeMap;

/// How far a verification is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The file being read.
    pub file: String,
    /// Bytes done, of all files.
    pub done: u64,
    /// Bytes of all files.
    pub total: u64,
}

/// One place that cannot be read as it was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it, bytes.
    pub offset: u64,
    /// What is wrong.
    pub what: String,
}

/// One group as the log holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupReport {
    /// Which.
    pub group: GroupId,
    /// Its log starts after this index.
    pub start: u64,
    /// Last index.
    pub last: u64,
    /// The snapshot that it would start from, by index.
    pub snapshot: Option<u64>,
}

/// What a verification found. Sound if `damage` is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments of the log.
    pub segments: usize,
    /// Batches, records and entries read.
    pub batches: u64,
    /// See `batches`.
    pub records: u64,
    /// See `batches`.
    pub entries: u64,
    /// Bytes of batches.
    pub log_bytes: u64,
    /// Snapshots read, and their bytes.
    pub snapshots: usize,
    /// See `snapshots`.
    pub snapshot_bytes: u64,
    /// The log ends with a clean stop.
    pub sealed: bool,
    /// A torn tail that the next start will cut off.
    pub torn: Option<Cut>,
    /// Groups, if the log as a whole can be read.
    pub groups: Vec<GroupReport>,
    /// All that is damaged, by file and offset.
    pub damage: Vec<Damage>,
}

/// Reads everything. What is damaged is in the report; a torn tail is not damage.
///
/// # Errors
/// `Disk` if the disk fails; never `Damaged`.
pub fn verify<D: Disk>(disk: &D, options: &LogOptions, progress: &mut dyn FnMut(Progress)) -> Result<Report, LogError> {
    let mut report = Report::default();
    let names = names(disk)?;
    let snapshots: Vec<String> = disk.list()?.into_iter().filter(|name| snapshot::parse_name(name).is_some()).collect();
    let mut sizes = BTreeMap::new();
    for name in names.segments.values().chain(&snapshots) {
        sizes.insert(name.clone(), disk.open(name)?.len()?);
    }
    let total = sizes.values().sum();
    let mut done = 0;
    for name in &snapshots {
        let check = snapshot::check(disk, name, &mut |at, _| {
            progress(Progress { file: name.clone(), done: done + at, total });
        });
        collect(check, &mut report.damage)?;
        report.snapshots += 1;
        report.snapshot_bytes += sizes[name];
        done += sizes[name];
    }

    let planned = open::plan(disk, options);
    let mut whole = None;
    if let Some(Some(plan)) = collect(planned, &mut report.damage)? {
        report.segments = plan.live.len();
        report.sealed = plan.last.sealed;
        report.torn = plan.cut.clone();
        let base = done;
        let replay = open::replay(&plan, options, &mut |_| Ok(()), &mut |number, at| {
            let before: u64 = names.segments.range(..number).map(|(_, name)| sizes[name]).sum();
            let file = open::segment_name(number);
            progress(Progress { file, done: (base + before + at).min(total), total });
        });
        whole = collect(replay, &mut report.damage)?;
    }
    match whole {
        Some(replay) => {
            let counts = &replay.recovery;
            (report.batches, report.records, report.entries) = (counts.batches, counts.records, counts.entries);
            report.log_bytes = counts.bytes;
            for (group, state) in replay.groups {
                let picked = collect(snapshot::pick(disk, group, state.mark), &mut report.damage)?;
                report.groups.push(GroupReport {
                    group,
                    start: state.mark.0,
                    last: state.last,
                    snapshot: picked.and_then(|picked| picked.snapshot).map(|id| id.index),
                });
            }
        }
        // The first damage ended the reading; the rest is found segment by segment.
        None => {
            for (number, name) in &names.segments {
                let file = disk.open(name)?;
                report.damage.append(&mut holes(&file, *number, options)?);
            }
        }
    }
    report.damage.sort();
    report.damage.dedup_by(|a, b| a.file == b.file && a.offset == b.offset);
    progress(Progress { file: String::new(), done: total, total });
    Ok(report)
}

/// Damage goes to the list, other errors to the caller.
fn collect<T>(result: Result<T, LogError>, damage: &mut Vec<Damage>) -> Result<Option<T>, LogError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(LogError::Damaged { file, offset, what }) => {
            damage.push(Damage { file, offset, what });
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Every place of a segment where a batch cannot be read although a later one of the same segment can.
fn holes<F: DiskFile>(file: &F, number: u64, options: &LogOptions) -> Result<Vec<Damage>, LogError> {
    let mut found = Vec::new();
    let name = open::segment_name(number);
    let mut reader = SegmentReader::new(file, 0, number, options.crc_checked())?;
    match reader.header()? {
        Ok(header) => reader.log_id = header.log_id,
        // Nothing else in the file says which log it was; an unused segment has no header either.
        Err(_) => return Ok(found),
    }
    loop {
        while reader.next()?.is_ok() {}
        let at = reader.offset;
        let what = match reader.next()? {
            Err(Stop::Bad(what)) => what,
            _ => "no batch can be read",
        };
        reader.expected = None;
        if !reader.skip_to_next()? {
            return Ok(found);
        }
        found.push(Damage { file: name.clone(), offset: at, what: what.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{open, small};
    use super::super::{Batch, Room};
    use super::*;
    use crate::disk::MemDisk;
    use crate::snapshot::SnapshotWriter;

    const G: GroupId = GroupId(1);

    fn data_directory() -> MemDisk {
        let disk = MemDisk::new();
        let (mut log, ..) = open(&disk).expect("a new log");
        let mut batch = Batch::new();
        for index in 1..=40 {
            batch.clear();
            batch.entry(G, index, 1, 0, &[index as u8; 500]);
            log.append(&mut batch, Room::Normal).expect("room");
        }
        let mut writer = SnapshotWriter::begin(&disk, G, 20, 1, b"meta").expect("room");
        writer.chunk(&[5; 2000]).expect("room");
        writer.finish().expect("room");
        log.compact(G, 20, 1).expect("room");
        log.prepare().expect("room");
        log.seal().expect("a healthy disk");
        disk
    }

    fn report(disk: &MemDisk) -> Report {
        verify(disk, &small(), &mut |_| {}).expect("memory does not fail")
    }

    #[test]
    fn a_sound_directory_is_reported_as_it_is_and_not_touched() {
        let disk = data_directory();
        let before: Vec<_> = disk.list().expect("memory").iter().map(|name| disk.get(name)).collect();
        let mut last = None;
        let report = verify(&disk, &small(), &mut |progress| {
            assert!(progress.done <= progress.total);
            last = Some(progress);
        })
        .expect("memory does not fail");
        assert_eq!(last.map(|progress| progress.done == progress.total), Some(true));
        assert_eq!(report.damage, []);
        assert!(report.sealed && report.torn.is_none() && report.segments >= 2);
        assert_eq!((report.snapshots, report.entries), (1, 20));
        assert_eq!(report.groups, [GroupReport { group: G, start: 20, last: 40, snapshot: Some(20) }]);
        let after: Vec<_> = disk.list().expect("memory").iter().map(|name| disk.get(name)).collect();
        assert_eq!(before, after);
    }

    #[test]
    fn every_damaged_place_is_named() {
        let disk = data_directory();
        let segments: Vec<String> =
            disk.list().expect("memory").into_iter().filter(|name| name.starts_with('0')).collect();
        for name in [&segments[0], &segments[1]] {
            let mut bytes = disk.get(name).expect("it is listed");
            for at in [4300, 6000] {
                bytes[at] ^= 1;
            }
            disk.put(name, bytes);
        }
        let snapshot = snapshot::snapshot_name(G, 20);
        let mut bytes = disk.get(&snapshot).expect("it was written");
        bytes[100] ^= 1;
        disk.put(&snapshot, bytes);
        let report = report(&disk);
        let named = |file: &str| report.damage.iter().filter(|damage| damage.file == file).count();
        assert_eq!((named(&segments[0]), named(&segments[1]), named(&snapshot)), (2, 2, 1), "{:?}", report.damage);
    }

    #[test]
    fn a_missing_snapshot_is_damage_and_a_torn_tail_is_not() {
        let disk = data_directory();
        disk.remove(&snapshot::snapshot_name(G, 20)).expect("it is there");
        assert!(report(&disk).damage[0].what.contains("missing"));
        let disk = MemDisk::new();
        let (mut log, ..) = open(&disk).expect("a new log");
        let mut batch = Batch::new();
        batch.entry(G, 1, 1, 0, &[1; 500]);
        let position = log.append(&mut batch, Room::Normal).expect("room").position;
        drop(log);
        let name = super::open::segment_name(1);
        let mut bytes = disk.get(&name).expect("the segment");
        bytes[position.offset as usize + 300] ^= 1;
        disk.put(&name, bytes);
        let report = report(&disk);
        assert_eq!(report.damage, []);
        assert_eq!(report.torn.map(|cut| cut.offset), Some(position.offset));
    }

    #[test]
    fn an_empty_directory_is_sound() {
        assert_eq!(report(&MemDisk::new()), Report::default());
    }
}

//! What the log promises, on a disk without faults. The faulty one is in `sim`.

use super::format::{BATCH_HEADER, BatchHeader, MARKS_AT, RECORD_HEADER};
use super::open::segment_name;
use super::*;
use crate::disk::MemDisk;

/// What a node would know after a replay: per group, where the log starts and its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub groups: BTreeMap<u32, SeenGroup>,
    pub seals: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SeenGroup {
    pub start: (u64, u64),
    /// Term, kind, data.
    pub entries: Vec<(u64, u8, Vec<u8>)>,
    pub hard: Option<(u64, u64, u64)>,
}

impl Seen {
    pub(super) fn take(&mut self, record: Record<'_>) -> Result<(), String> {
        match record {
            Record::Entry { group, index, term, kind, data } => {
                let seen = self.groups.entry(group.0).or_default();
                let at = index.checked_sub(seen.start.0 + 1).ok_or("an entry before the start of its group")? as usize;
                if at > seen.entries.len() {
                    return Err(format!("{group}: entry {index} leaves a hole"));
                }
                seen.entries.truncate(at);
                seen.entries.push((term, kind, data.to_vec()));
            }
            Record::HardState { group, term, vote, commit } => {
                self.groups.entry(group.0).or_default().hard = Some((term, vote, commit));
            }
            Record::SnapshotMark { group, index, term, .. } => {
                let seen = self.groups.entry(group.0).or_default();
                seen.start = (index, term);
                seen.entries.clear();
            }
            Record::Seal => self.seals += 1,
            Record::Node { .. } => {}
        }
        Ok(())
    }
}

pub(super) fn small() -> LogOptions {
    LogOptions { segment_bytes: 8192, log_id: 0x5eed, node: 7, ..LogOptions::default() }
}

pub(super) fn open(disk: &MemDisk) -> Result<(Log<MemDisk>, Recovery, Seen), LogError> {
    let mut seen = Seen::default();
    let (log, recovery) = Log::open(disk.clone(), small(), &mut |record| seen.take(record))?;
    Ok((log, recovery, seen))
}

fn must_open(disk: &MemDisk) -> (Log<MemDisk>, Recovery, Seen) {
    open(disk).expect("a log that nothing happened to opens")
}

const G: GroupId = GroupId(1);
const H: GroupId = GroupId(2);

/// Appends one entry of `bytes` bytes to a group.
fn add(log: &mut Log<MemDisk>, group: GroupId, index: u64, term: u64, bytes: usize) -> Result<Appended, LogError> {
    let mut batch = Batch::new();
    batch.entry(group, index, term, 0, &vec![index as u8; bytes]);
    log.append(&mut batch, Room::Normal)
}

#[test]
fn what_was_appended_is_there_after_reopening() {
    let disk = MemDisk::new();
    let (mut log, recovery, _) = must_open(&disk);
    assert!(recovery.fresh);
    let mut batch = Batch::new();
    batch.hard_state(G, 3, 7, 1);
    batch.entry_parts(G, 1, 3, 4, &[b"hello ", b"world"]);
    batch.entry(H, 1, 1, 0, b"");
    let appended = log.append(&mut batch, Room::Normal).expect("room for three records");
    assert_eq!(appended.position.sequence, 2);
    drop(log);
    let (log, recovery, seen) = must_open(&disk);
    assert!(!recovery.fresh && !recovery.sealed && recovery.cut.is_none());
    assert_eq!((recovery.log_id, recovery.node, recovery.entries), (0x5eed, 7, 2));
    assert_eq!(seen.groups[&1].hard, Some((3, 7, 1)));
    assert_eq!(seen.groups[&1].entries, vec![(3, 4, b"hello world".to_vec())]);
    assert_eq!(seen.groups[&2].entries, vec![(1, 0, Vec::new())]);
    assert_eq!(log.end().sequence, 2);
}

#[test]
fn a_later_entry_replaces_the_suffix_across_segments() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    for index in 1..=20 {
        add(&mut log, G, index, 1, 500).expect("room");
    }
    for index in 8..=9 {
        add(&mut log, G, index, 2, 500).expect("room");
    }
    assert!(log.status().segments > 2, "{:?}", log.status());
    drop(log);
    let (log, _, seen) = must_open(&disk);
    let terms: Vec<u64> = seen.groups[&1].entries.iter().map(|entry| entry.0).collect();
    assert_eq!(terms, [1, 1, 1, 1, 1, 1, 1, 2, 2]);
    assert_eq!(log.last_index(G), 9);
}

#[test]
fn compaction_drops_segments_recycles_them_and_bounds_the_disk() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    let mut most = 0;
    for index in 1..=400 {
        add(&mut log, G, index, 1, 700).expect("room");
        if index == 1 {
            add(&mut log, H, 1, 1, 10).expect("room");
            log.compact(H, 1, 1).expect("room");
        }
        if index % 10 == 0 {
            log.compact(G, index - 3, 1).expect("room");
            log.prepare().expect("room");
        }
        most = most.max(log.status().disk_bytes);
    }
    assert!(most <= 8 * 8192, "{most} bytes for 13 entries of 700");
    drop(log);
    let (log, _, seen) = must_open(&disk);
    assert_eq!(seen.groups[&1].start, (397, 1));
    assert_eq!(seen.groups[&1].entries.len(), 3);
    assert_eq!(seen.groups[&2].start, (1, 1));
    assert_eq!(log.mark(G), (397, 1));
}

#[test]
fn an_installed_snapshot_replaces_the_groups_log() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    for index in 1..=10 {
        add(&mut log, G, index, 1, 100).expect("room");
    }
    let mut batch = Batch::new();
    batch.snapshot_mark(G, 6, 2, true);
    batch.hard_state(G, 2, 0, 6);
    log.append(&mut batch, Room::Normal).expect("room");
    assert_eq!(log.last_index(G), 6);
    drop(log);
    let (mut log, _, seen) = must_open(&disk);
    assert_eq!(seen.groups[&1], SeenGroup { start: (6, 2), entries: vec![], hard: Some((2, 0, 6)) });
    add(&mut log, G, 7, 2, 1).expect("room");
    drop(log);
    assert_eq!(must_open(&disk).2.groups[&1].entries.len(), 1);
}

#[test]
fn entries_replaced_below_a_later_mark_do_not_come_back() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    for index in 1..=20 {
        add(&mut log, G, index, 1, 10).expect("room");
    }
    for index in 8..=10 {
        add(&mut log, G, index, 2, 10).expect("room");
    }
    log.compact(G, 10, 2).expect("room");
    drop(log);
    let (_, _, seen) = must_open(&disk);
    assert_eq!(seen.groups[&1].start, (10, 2));
    assert_eq!(seen.groups[&1].entries, vec![]);
}

#[test]
fn a_seal_is_seen_once_and_ends_the_log() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    add(&mut log, G, 1, 1, 10).expect("room");
    log.seal().expect("a healthy log can be sealed");
    assert!(matches!(add(&mut log, G, 2, 1, 10), Err(LogError::Stopped(_))));
    drop(log);
    let (mut log, recovery, _) = must_open(&disk);
    assert!(recovery.sealed);
    add(&mut log, G, 2, 1, 10).expect("room");
    drop(log);
    let (_, recovery, seen) = must_open(&disk);
    assert!(!recovery.sealed);
    assert_eq!(seen.groups[&1].entries.len(), 2);
}

#[test]
fn a_batch_larger_than_a_segment_gets_its_own() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    add(&mut log, G, 1, 1, 100_000).expect("room");
    add(&mut log, G, 2, 1, 10).expect("room");
    add(&mut log, G, 3, 1, 5_000).expect("room");
    drop(log);
    let (_, _, seen) = must_open(&disk);
    let sizes: Vec<usize> = seen.groups[&1].entries.iter().map(|entry| entry.2.len()).collect();
    assert_eq!(sizes, [100_000, 10, 5_000]);
}

#[test]
fn misuse_is_refused_before_it_is_stored() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    assert!(matches!(add(&mut log, G, 2, 1, 10), Err(LogError::Misuse(_))), "a hole at the start");
    add(&mut log, G, 1, 1, 10).expect("room");
    let mut batch = Batch::new();
    batch.entry(G, 2, 1, 0, b"");
    batch.entry(G, 4, 1, 0, b"");
    assert!(matches!(log.append(&mut batch, Room::Normal), Err(LogError::Misuse(_))), "a hole inside the batch");
    log.compact(G, 1, 1).expect("room");
    assert!(matches!(log.compact(G, 0, 1), Err(LogError::Misuse(_))), "a mark that goes back");
    drop(log);
    assert_eq!(must_open(&disk).2.groups[&1].start, (1, 1));
}

#[test]
fn upkeep_can_be_done_elsewhere_while_appends_go_on() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    let mut upkeep = log.upkeep().expect("a new log has no spares");
    assert!(log.upkeep().is_none(), "one at a time");
    let worker = std::thread::spawn(move || {
        while upkeep.step().expect("room") {}
        upkeep
    });
    for index in 1..=5 {
        add(&mut log, G, index, 1, 500).expect("room");
    }
    log.finish_upkeep(worker.join().expect("the worker ends"));
    assert_eq!((log.status().spares, log.status().unprepared), (2, 0));
    for index in 6..=40 {
        add(&mut log, G, index, 1, 500).expect("room");
        log.prepare().expect("room");
    }
    assert_eq!(log.status().unprepared, 0, "no append ever waited for a segment");
    drop(log);
    assert_eq!(must_open(&disk).2.groups[&1].entries.len(), 40);
}

fn log_segments(disk: &MemDisk) -> Vec<String> {
    disk.list().expect("a disk in memory").into_iter().filter(|name| name.starts_with('0')).collect()
}

#[test]
fn a_missing_segment_is_damage() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    for index in 1..=40 {
        add(&mut log, G, index, 1, 500).expect("room");
    }
    drop(log);
    let segments = log_segments(&disk);
    assert!(segments.len() > 3);
    for number in 1..=segments.len() as u64 {
        let copy = disk.copy();
        copy.remove(&segment_name(number)).expect("it is there");
        let error = open(&copy).err();
        assert!(matches!(error, Some(LogError::Damaged { .. })), "segment {number} missing: {error:?}");
    }
}

#[test]
fn a_batch_that_was_never_acknowledged_does_not_come_back_two_crashes_later() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    log.prepare().expect("room");
    let mut index = 0;
    let segment = segment_name(2);
    // Up to the append that begins the second segment: its checkpoint and its batch are one write with one sync.
    let before = loop {
        let before = disk.copy();
        index += 1;
        add(&mut log, G, index, 1, 500).expect("room");
        if disk.get(&segment).is_some() {
            break before;
        }
    };
    drop(log);
    // The power went during that: the checkpoint's sector is lost, the batch's are there, the rename is durable.
    let mut torn = disk.get(&segment).expect("it was just made");
    torn[BATCHES_AT as usize..BATCHES_AT as usize + BATCH_HEADER].fill(0);
    before.put(&segment, torn);
    let disk = before.copy();
    disk.remove("spare-0000000000000002.log").expect("it became the second segment");
    let (mut log, recovery, seen) = must_open(&disk);
    assert_eq!(seen.groups[&1].entries.len() as u64, index - 1);
    assert_eq!(recovery.cut.map(|cut| cut.file), Some(segment.clone()));
    // Another leader's entry takes its place, and the power goes again: this time only the checkpoint arrives.
    let spares: Vec<(String, Vec<u8>)> = disk
        .list()
        .expect("a disk in memory")
        .into_iter()
        .filter(|name| name.starts_with("spare"))
        .filter_map(|name| disk.get(&name).map(|bytes| (name, bytes)))
        .collect();
    add(&mut log, G, index, 2, 400).expect("room");
    drop(log);
    let now = disk.get(&segment).expect("the second segment again");
    let data_at = BATCHES_AT as usize + BATCH_HEADER + RECORD_HEADER;
    for (_, stale) in spares.iter().filter(|(name, _)| disk.get(name).is_none()) {
        let mut torn = now.clone();
        torn[data_at..].copy_from_slice(&stale[data_at..]);
        let copy = disk.copy();
        copy.put(&segment, torn);
        let first = copy.get(&segment_name(1)).expect("the first segment");
        let mut first = first;
        first[MARKS_AT[0] as usize..MARKS_AT[0] as usize + 64].fill(0);
        first[MARKS_AT[1] as usize..MARKS_AT[1] as usize + 64].fill(0);
        copy.put(&segment_name(1), first);
        let (_, _, seen) = must_open(&copy);
        assert_eq!(seen.groups[&1].entries.len() as u64, index - 1, "an old, refused entry came back");
    }
}

#[test]
fn a_log_that_has_grown_keeps_its_old_segments_until_room_is_short() {
    let disk = MemDisk::default();
    let (mut log, _, _) = must_open(&disk);
    let mut index = 0;
    let grow = |log: &mut Log<MemDisk>, index: &mut u64| {
        let from = log.status().segments;
        while log.status().segments < from + 4 {
            *index += 1;
            add(log, G, *index, 1, 400).expect("room");
            while let Some(mut upkeep) = log.upkeep() {
                while upkeep.step().expect("a disk in memory") {}
                log.finish_upkeep(upkeep);
            }
        }
    };
    let files = |disk: &MemDisk| {
        let mut names = disk.list().expect("a disk in memory");
        names.retain(|name| name.ends_with(".log"));
        names.len()
    };
    grow(&mut log, &mut index);
    let most = files(&disk);
    log.compact(G, index, 1).expect("a disk in memory");
    log.prepare().expect("room");
    assert_eq!(files(&disk), most, "what was let go is kept for the next growth");
    grow(&mut log, &mut index);
    assert!(files(&disk) <= most + 1, "{} files, {most} before", files(&disk));
    // Room is short elsewhere: all but the spares asked for goes.
    log.compact(G, index, 1).expect("a disk in memory");
    log.prepare().expect("room");
    log.save_room();
    log.prepare().expect("room");
    assert_eq!(log.status().spares, small().spares);
}

#[test]
fn new_segments_are_not_written_twice_where_appends_are_large() {
    for (usual, wanted) in [(400, true), (super::space::HEAVY_BYTES, false)] {
        let disk = MemDisk::default();
        let (mut log, _, _) = must_open(&disk);
        log.usual_bytes = usual;
        let mut upkeep = log.upkeep().expect("a new log has no spares");
        for task in &upkeep.tasks {
            assert!(matches!(task, super::upkeep::Task::Create { zeros, .. } if *zeros == wanted), "{task:?}");
        }
        while upkeep.step().expect("a disk in memory") {}
        log.finish_upkeep(upkeep);
        assert_eq!(log.status().spares, small().spares);
        for index in 1..=60 {
            add(&mut log, G, index, 1, 400).expect("room");
            log.prepare().expect("room");
        }
        drop(log);
        assert_eq!(must_open(&disk).2.groups[&1].entries.len(), 60);
    }
}

#[test]
fn the_stored_form_does_not_change() {
    let mut batch = Batch::new();
    batch.entry(GroupId(0x0102), 3, 4, 5, b"six");
    batch.hard_state(GroupId(7), 8, 9, 10);
    batch.snapshot_mark(GroupId(11), 12, 13, true);
    batch.record(&Record::Node { log_id: 14, node: 15 });
    batch.record(&Record::Seal);
    let header = BatchHeader {
        flags: 1,
        length: 0,
        count: 0,
        log_id: 16,
        segment: 17,
        sequence: 18,
        durable: 19,
        oldest: 20,
        records_crc: 0,
    };
    let hex: Vec<String> =
        batch.seal_bytes(header).chunks(16).map(|row| row.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    assert_eq!(hex, GOLDEN, "a log written by an older program must still be read: add a version, do not change this");
}

/// Version 1: a batch of one record of each kind. The flags' upper bits, whose records it holds, were zero once: then it may be anybody's.
const GOLDEN: [&str; 15] = [
    "514c425401001111ab00000005000000",
    "10000000000000001100000000000000",
    "12000000000000001300000000000000",
    "14000000000000000f3c38d356002c95",
    "6a4799d6030000000205000002010000",
    "03000000000000000400000000000000",
    "73697873caaa74080000000300000007",
    "0000000a000000000000000800000000",
    "0000000900000000000000097b31e300",
    "000000040100000b0000000c00000000",
    "0000000d00000000000000f8eaf15b00",
    "00000001000000000000000e00000000",
    "0000000f000000000000003de261af00",
    "00000005000000000000000000000000",
    "00000000000000000000000000000000",
];

#[test]
fn compaction_counts_what_it_retires_also_when_it_turns_to_a_retired_file() {
    let disk = MemDisk::new();
    let (mut log, ..) = must_open(&disk);
    let mut retired = 0;
    for index in 1..=400 {
        // Sizes that differ, so that now and then it is the mark of the compaction that needs the new segment.
        add(&mut log, G, index, 1, 500 + (index as usize * 37) % 700).expect("the disk has room");
        let before = log.status().oldest;
        // Nobody does the upkeep, so that turning to a new segment takes old files.
        let count = log.compact(G, index, 1).expect("the disk has room");
        assert_eq!(count as u64, log.status().oldest - before);
        retired += count;
    }
    assert!(retired > 5, "segments were retired: {retired}");
}

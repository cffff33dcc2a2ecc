//! The log on a disk that forgets: what was acknowledged is there, what was not is there whole or not at all.

use base::{GroupId, Rng};
use sim::disk::{Keep, VirtualDisk};
use std::collections::BTreeMap;
use store::disk::Disk;
use store::log::{Batch, Log, LogError, LogOptions, Record, Recovery, Room};
use store::snapshot::{self, SnapshotReader, SnapshotWriter};

/// What a node knows of its groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    groups: BTreeMap<u32, Group>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Group {
    start: (u64, u64),
    /// Term and data.
    entries: Vec<(u64, Vec<u8>)>,
    hard: (u64, u64, u64),
}

impl Group {
    fn last(&self) -> u64 {
        self.start.0 + self.entries.len() as u64
    }

    fn term_at(&self, index: u64) -> u64 {
        if index <= self.start.0 { self.start.1 } else { self.entries[(index - self.start.0 - 1) as usize].0 }
    }
}

impl Known {
    /// What replay delivers, taken as the log's contract says.
    fn take(&mut self, record: Record<'_>) -> Result<(), String> {
        match record {
            Record::Entry { group, index, term, data, .. } => {
                let group = self.groups.entry(group.0).or_default();
                let at = index.checked_sub(group.start.0 + 1).ok_or("an entry before the start")? as usize;
                if at > group.entries.len() {
                    return Err(format!("entry {index} leaves a hole"));
                }
                group.entries.truncate(at);
                group.entries.push((term, data.to_vec()));
            }
            Record::HardState { group, term, vote, commit } => {
                self.groups.entry(group.0).or_default().hard = (term, vote, commit);
            }
            Record::SnapshotMark { group, index, term, .. } => {
                let group = self.groups.entry(group.0).or_default();
                group.start = (index, term);
                group.entries.clear();
            }
            Record::Node { .. } | Record::Seal => {}
        }
        Ok(())
    }
}

/// One thing that a node does with its log.
#[derive(Clone, Debug)]
enum Step {
    /// Append to groups: first index, term, sizes; with a hard state.
    Append(Vec<(u32, u64, u64, Vec<usize>)>),
    /// Snapshot, compact up to the index, remove older snapshots, do the upkeep.
    Compact(u32, u64),
    /// A snapshot from elsewhere replaces the group's log: index, term.
    Install(u32, u64, u64),
    MarkDurable,
    Prepare,
}

fn data(group: u32, index: u64, term: u64, length: usize) -> Vec<u8> {
    (0..length).map(|at| (u64::from(group) * 31 + index * 7 + term * 3 + at as u64) as u8).collect()
}

/// The same steps for the same seed, whatever the disk does.
fn plan(seed: u64, count: usize) -> Vec<Step> {
    plan_on(&mut Rng::new(seed), &Known::default(), count)
}

/// Steps that go on from what is known.
fn plan_on(rng: &mut Rng, known: &Known, count: usize) -> Vec<Step> {
    // Start, last index and term of each group.
    let mut ends: BTreeMap<u32, (u64, u64, u64)> = (1..=2)
        .map(|id| {
            let group = known.groups.get(&id).cloned().unwrap_or_default();
            (id, (group.start.0, group.last(), group.term_at(group.last()).max(group.hard.0).max(1)))
        })
        .collect();
    let mut steps = Vec::new();
    for _ in 0..count {
        let group = 1 + rng.below(2) as u32;
        let (start, last, term) = ends[&group];
        let step = match rng.below(12) {
            0 | 1 if last > start => {
                let index = start + 1 + rng.below(last - start);
                ends.insert(group, (index, last, term));
                Step::Compact(group, index)
            }
            2 if rng.chance(1, 3) => {
                let index = last + 3;
                ends.insert(group, (index, index, term + 1));
                Step::Install(group, index, term + 1)
            }
            3 => Step::MarkDurable,
            4 => Step::Prepare,
            _ => {
                let mut parts = Vec::new();
                for group in 1..=1 + rng.below(2) as u32 {
                    let (start, last, term) = ends[&group];
                    // Now and then a new leader overwrites what was not committed.
                    let (first, term) = if rng.chance(1, 5) && last > start {
                        (last.saturating_sub(rng.below(3)).max(start + 1), term + 1)
                    } else {
                        (last + 1, term)
                    };
                    let sizes: Vec<usize> = (0..1 + rng.index(3)).map(|_| rng.index(700)).collect();
                    ends.insert(group, (start, first + sizes.len() as u64 - 1, term));
                    parts.push((group, first, term, sizes));
                }
                Step::Append(parts)
            }
        };
        steps.push(step);
    }
    steps
}

fn options() -> LogOptions {
    LogOptions { segment_bytes: 8192, log_id: 0x1234_5678_9abc, ..LogOptions::default() }
}

fn open(disk: &VirtualDisk, options: &LogOptions) -> Result<(Log<VirtualDisk>, Known, Recovery), LogError> {
    let mut known = Known::default();
    let (log, recovery) = Log::open(disk.clone(), options.clone(), &mut |record| known.take(record))?;
    snapshot::sweep(disk)?;
    Ok((log, known, recovery))
}

/// What a node had been told when it stopped: all of `acked`; `begun` may have happened whole or not at all.
#[derive(Clone, Debug, Default)]
struct Outcome {
    acked: Known,
    begun: Option<Known>,
    error: Option<LogError>,
}

fn snapshot_bytes(group: u32, index: u64) -> Vec<u8> {
    data(group, index, 0, 3000)
}

fn write_snapshot(disk: &VirtualDisk, group: u32, index: u64, term: u64) -> Result<(), LogError> {
    let mut writer = SnapshotWriter::begin(disk, GroupId(group), index, term, b"m")?;
    for chunk in snapshot_bytes(group, index).chunks(1000) {
        writer.chunk(chunk)?;
    }
    writer.finish()?;
    Ok(())
}

/// Does one step; tells in `begun` what it is about to make of `known`.
fn act(
    log: &mut Log<VirtualDisk>,
    disk: &VirtualDisk,
    step: &Step,
    known: &Known,
    begun: &mut Option<Known>,
) -> Result<(), LogError> {
    match step {
        Step::Append(parts) => {
            let mut batch = Batch::new();
            let mut next = known.clone();
            for (id, first, term, sizes) in parts {
                let group = next.groups.entry(*id).or_default();
                group.entries.truncate((first - group.start.0 - 1) as usize);
                for (at, size) in sizes.iter().enumerate() {
                    let index = first + at as u64;
                    let bytes = data(*id, index, *term, *size);
                    batch.entry(GroupId(*id), index, *term, 0, &bytes);
                    group.entries.push((*term, bytes));
                }
                group.hard = (*term, u64::from(*id), group.start.0);
                batch.hard_state(GroupId(*id), *term, u64::from(*id), group.start.0);
            }
            *begun = Some(next);
            log.append(&mut batch, Room::Normal)?;
        }
        Step::Compact(id, index) => {
            let mut next = known.clone();
            let group = next.groups.entry(*id).or_default();
            let term = group.term_at(*index);
            write_snapshot(disk, *id, *index, term)?;
            group.entries.drain(..(index - group.start.0) as usize);
            group.start = (*index, term);
            *begun = Some(next);
            log.compact(GroupId(*id), *index, term)?;
            snapshot::remove_older(disk, GroupId(*id), *index)?;
            log.prepare()?;
        }
        Step::Install(id, index, term) => {
            write_snapshot(disk, *id, *index, *term)?;
            let mut next = known.clone();
            let group = next.groups.entry(*id).or_default();
            *group = Group { start: (*index, *term), entries: Vec::new(), hard: (*term, 0, *index) };
            *begun = Some(next);
            let mut batch = Batch::new();
            batch.snapshot_mark(GroupId(*id), *index, *term, true);
            batch.hard_state(GroupId(*id), *term, 0, *index);
            log.append(&mut batch, Room::Reserve)?;
        }
        Step::MarkDurable => log.mark_durable()?,
        Step::Prepare => log.prepare()?,
    }
    Ok(())
}

/// Runs the steps on a new log until one fails.
fn run(disk: &VirtualDisk, steps: &[Step], options: &LogOptions) -> Outcome {
    run_on(disk, Known::default(), steps, options)
}

/// Opens what holds `acked`, and runs the steps until one fails.
fn run_on(disk: &VirtualDisk, acked: Known, steps: &[Step], options: &LogOptions) -> Outcome {
    let mut outcome = Outcome { acked, ..Outcome::default() };
    let mut log = match open(disk, options) {
        Ok((log, ..)) => log,
        Err(error) => return Outcome { error: Some(error), ..outcome },
    };
    for step in steps {
        let mut begun = None;
        let result = act(&mut log, disk, step, &outcome.acked, &mut begun);
        match result {
            Ok(()) => outcome.acked = begun.unwrap_or(outcome.acked),
            Err(error) => {
                outcome.begun = begun;
                outcome.error = Some(error);
                break;
            }
        }
    }
    outcome
}

/// What the log says now must be what was acknowledged, or that and the whole of what was begun.
fn judge(disk: &VirtualDisk, outcome: &Outcome, options: &LogOptions) -> Result<Known, String> {
    let (mut log, known, _) = open(disk, options).map_err(|error| format!("does not open: {error}"))?;
    if known != outcome.acked && Some(&known) != outcome.begun.as_ref() {
        return Err(format!(
            "the log holds {known:?}\nacknowledged was {:?}\nbegun was {:?}",
            outcome.acked, outcome.begun
        ));
    }
    for (id, group) in &known.groups {
        let picked = snapshot::pick(disk, GroupId(*id), group.start).map_err(|error| format!("snapshot: {error}"))?;
        let Some(found) = picked.snapshot else { continue };
        let mut reader = SnapshotReader::open(disk, found.group, found.index).map_err(|error| error.to_string())?;
        let (mut all, mut chunk) = (Vec::new(), Vec::new());
        while reader.chunk(&mut chunk).map_err(|error| error.to_string())? {
            all.extend_from_slice(&chunk);
        }
        if all != snapshot_bytes(*id, found.index) {
            return Err(format!("snapshot {} of group {id} holds other bytes", found.index));
        }
    }
    // The log that was found goes on.
    let mut batch = Batch::new();
    let last = known.groups.get(&1).map_or(0, Group::last);
    batch.entry(GroupId(1), last + 1, 99, 0, b"and on");
    log.append(&mut batch, Room::Normal).map_err(|error| format!("does not go on: {error}"))?;
    drop(log);
    let (_, again, recovery) = open(disk, options).map_err(|error| format!("does not open again: {error}"))?;
    if recovery.cut.is_some() {
        return Err(format!("cut what it had written after recovery: {:?}", recovery.cut));
    }
    if again.groups[&1].entries.last() != Some(&(99, b"and on".to_vec())) || again.groups[&1].last() != last + 1 {
        return Err("what was appended after recovery is not there".to_string());
    }
    Ok(known)
}

/// Crashes at every operation of the workload, in several ways each; the number of crashes, or what went wrong.
fn crash_everywhere(seed: u64, count: usize, fates: u64, options: &LogOptions) -> Result<u64, String> {
    let steps = plan(seed, count);
    let whole = VirtualDisk::new();
    let outcome = run(&whole, &steps, options);
    if let Some(error) = outcome.error {
        return Err(format!("seed {seed} fails without any fault: {error}"));
    }
    let mut crashes = 0;
    for at in 0..whole.operations() {
        let disk = VirtualDisk::new();
        disk.crash_at(at);
        let outcome = run(&disk, &steps, options);
        for fate in 0..fates {
            let keep = [Keep::Nothing, Keep::All].get(fate as usize).copied().unwrap_or(Keep::Any);
            let mut rng = Rng::new(seed ^ at << 8 ^ fate << 40);
            let after = disk.fork().crash(&mut rng, keep);
            crashes += 1;
            if fate % 3 == 2 {
                // And once more, while recovering from the first.
                let probe = after.fork();
                let _ = open(&probe, options);
                let recovering = (probe.operations() - after.operations()).max(1);
                after.crash_at(after.operations() + rng.below(recovering));
                let _ = open(&after, options);
                let after = after.crash(&mut rng, Keep::Any);
                crashes += 1;
                judge(&after, &outcome, options)
            } else {
                judge(&after, &outcome, options)
            }
            .map_err(|what| format!("seed {seed}, crash at operation {at}, fate {fate}, crash {crashes}: {what}"))?;
        }
    }
    Ok(crashes)
}

#[test]
fn nothing_acknowledged_is_lost_in_a_crash_at_any_operation() {
    let mut crashes = 0;
    for seed in 0..4 {
        crashes += crash_everywhere(seed, 60, 5, &options()).unwrap_or_else(|what| panic!("{what}"));
    }
    println!("{crashes} crashes at every write, sync, rename and directory sync of 4 workloads");
    assert!(crashes > 2000, "only {crashes} crashes");
}

#[test]
fn the_workload_reaches_rotation_compaction_recycling_and_snapshots() {
    let disk = VirtualDisk::new();
    disk.trace();
    let outcome = run(&disk, &plan(0, 60), &options());
    assert_eq!(outcome.error, None);
    let trace: Vec<String> = disk.take_trace().iter().map(|operation| format!("{operation:?}")).collect();
    let count = |what: &str| trace.iter().filter(|operation| operation.contains(what)).count();
    assert!(count(".log\", \"000") > 3, "rotations: {}", count(".log\", \"000"));
    assert!(count("Rename(\"000") > 1, "recycled: {}", count("Rename(\"000"));
    assert!(count(".snap\")") > 3, "snapshots finished: {}", count(".snap\")"));
}

#[test]
fn the_process_alone_may_die_anywhere_too() {
    let steps = plan(3, 40);
    let whole = VirtualDisk::new();
    run(&whole, &steps, &options());
    for at in 0..whole.operations() {
        let disk = VirtualDisk::new();
        disk.crash_at(at);
        let outcome = run(&disk, &steps, &options());
        // The power goes while the next start is at work, too.
        for fate in 0..6 {
            let after = disk.fork().kill();
            after.crash_at(after.operations() + fate);
            let _ = open(&after, &options());
            let after = after.crash(&mut Rng::new(at ^ fate << 32), Keep::Any);
            judge(&after, &outcome, &options())
                .unwrap_or_else(|what| panic!("killed at {at}, power lost at operation {fate} of recovery: {what}"));
        }
        // The machine stays up; the power goes only after the next start read what was still in memory.
        let after = disk.kill();
        let known = match open(&after, &options()) {
            Ok((_, known, _)) => known,
            Err(error) => panic!("killed at {at}: {error}"),
        };
        assert!(known == outcome.acked || Some(&known) == outcome.begun.as_ref(), "killed at {at}");
        let after = after.crash(&mut Rng::new(at), Keep::Nothing);
        let seen = Outcome { acked: known, ..Outcome::default() };
        judge(&after, &seen, &options()).unwrap_or_else(|what| panic!("killed at {at}, then power lost: {what}"));
    }
}

#[test]
fn a_failed_sync_stops_the_log_for_good() {
    let steps = plan(1, 40);
    let whole = VirtualDisk::new();
    run(&whole, &steps, &options());
    for nth in 0..whole.syncs() {
        let disk = VirtualDisk::new();
        disk.fail_sync(nth);
        let outcome = run(&disk, &steps, &options());
        let Some(error) = &outcome.error else { continue };
        assert!(matches!(error, LogError::Stopped(_) | LogError::Disk(_)), "sync {nth}: {error}");
        for keep in [Keep::Nothing, Keep::All, Keep::Any] {
            let after = disk.fork().crash(&mut Rng::new(nth), keep);
            judge(&after, &outcome, &options()).unwrap_or_else(|what| panic!("sync {nth} failed, {keep:?}: {what}"));
        }
    }
    // A stopped log stays stopped although the disk is well again.
    let disk = VirtualDisk::new();
    let (mut log, ..) = open(&disk, &options()).expect("a new log");
    disk.fail_sync(0);
    let mut batch = Batch::new();
    batch.entry(GroupId(1), 1, 1, 0, b"x");
    for _ in 0..3 {
        assert!(matches!(log.append(&mut batch, Room::Normal), Err(LogError::Stopped(_))));
    }
    assert!(log.status().stopped.is_some());
    assert!(matches!(log.prepare(), Err(LogError::Stopped(_))));
    assert!(matches!(log.seal(), Err(LogError::Stopped(_))));
}

#[test]
fn a_failed_write_stops_the_log_and_loses_nothing() {
    let steps = plan(2, 30);
    for nth in 0..80 {
        let disk = VirtualDisk::new();
        disk.fail_write(nth);
        let outcome = run(&disk, &steps, &options());
        let after = disk.crash(&mut Rng::new(nth), Keep::Any);
        judge(&after, &outcome, &options()).unwrap_or_else(|what| panic!("write {nth} failed: {what}"));
    }
}

#[test]
fn a_write_that_finds_no_room_was_never_there() {
    let disk = VirtualDisk::new();
    let (mut log, ..) = open(&disk, &options()).expect("a new log");
    let mut batch = Batch::new();
    for index in 1..=30 {
        // Every second append fails half-way; then it is tried again with other bytes.
        disk.short_write(0);
        batch.clear();
        batch.entry(GroupId(1), index, 1, 0, &[0xbb; 900]);
        let refused = log.append(&mut batch, Room::Normal);
        if refused == Err(LogError::Full) {
            let crashed = disk.fork().crash(&mut Rng::new(index), Keep::All);
            let (_, known, _) = open(&crashed, &options()).expect("a refused write is no damage");
            assert_eq!(known.groups.get(&1).map_or(0, Group::last), index - 1);
        }
        batch.clear();
        batch.entry(GroupId(1), index, 2, 0, &[0xaa; 500]);
        log.append(&mut batch, Room::Normal).expect("there is room again");
    }
    drop(log);
    let (_, known, _) = open(&disk, &options()).expect("a whole log");
    assert!(known.groups[&1].entries.iter().all(|(term, bytes)| *term == 2 && bytes.len() == 500));
}

#[test]
fn a_full_disk_refuses_writes_takes_deletes_and_recovers_without_a_restart() {
    let disk = VirtualDisk::new();
    let (mut log, ..) = open(&disk, &options()).expect("a new log");
    log.prepare().expect("room");
    disk.set_capacity(Some(disk.used() + 8192 + 2048));
    let mut batch = Batch::new();
    let mut index = 0;
    let mut append = |log: &mut Log<VirtualDisk>, index: u64, room| {
        batch.clear();
        batch.entry(GroupId(1), index, 1, 0, &[7; 400]);
        log.append(&mut batch, room).map(|_| ())
    };
    let refused = loop {
        match append(&mut log, index + 1, Room::Normal) {
            Ok(()) => index += 1,
            Err(error) => break error,
        }
        assert!(index < 1000, "never full");
    };
    assert_eq!(refused, LogError::Full);
    assert_eq!(log.prepare(), Err(LogError::Full));
    assert_eq!(log.room_for(400, Room::Normal), Err(LogError::Full));
    // Deletes go on, for a whole reserve.
    let mut deletes = 0;
    while append(&mut log, index + 1, Room::Reserve).is_ok() {
        (index, deletes) = (index + 1, deletes + 1);
    }
    assert!(deletes >= 5, "only {deletes} deletes fitted into the reserve");
    assert!(log.status().in_reserve);
    assert_eq!(append(&mut log, index + 1, Room::Normal), Err(LogError::Full));
    // A restart does not forget that only the reserve is left.
    drop(log);
    let after = disk.crash(&mut Rng::new(1), Keep::Nothing);
    let (mut log, known, _) = open(&after, &options()).expect("a full disk is no damage");
    assert_eq!(known.groups[&1].last(), index);
    assert_eq!(append(&mut log, index + 1, Room::Normal), Err(LogError::Full));
    // Compaction always finds room, and makes more.
    assert!(log.compact(GroupId(1), index, 1).expect("kept for this") > 0);
    log.prepare().expect("old segments become spares");
    for _ in 0..100 {
        index += 1;
        append(&mut log, index, Room::Normal).expect("room without a restart");
        if index % 10 == 0 {
            log.compact(GroupId(1), index, 1).expect("room");
            log.prepare().expect("room");
        }
    }
    drop(log);
    assert_eq!(open(&after, &options()).expect("a whole log").1.groups[&1].last(), index);
}

#[test]
fn room_that_comes_back_is_used_without_a_restart() {
    let disk = VirtualDisk::new();
    let (mut log, ..) = open(&disk, &options()).expect("a new log");
    log.prepare().expect("room");
    disk.set_capacity(Some(disk.used()));
    let mut index = 0;
    let mut batch = Batch::new();
    loop {
        batch.clear();
        batch.entry(GroupId(1), index + 1, 1, 0, &[7; 400]);
        if log.append(&mut batch, Room::Normal).is_err() {
            break;
        }
        index += 1;
    }
    disk.set_capacity(None);
    log.prepare().expect("room again");
    log.append(&mut batch, Room::Normal).expect("the same batch, tried again");
    let limited = LogOptions { bytes_max: 6 * 8192, ..options() };
    drop(log);
    let (mut log, ..) = open(&disk, &limited).expect("a whole log");
    let refused = (index + 2..500).find_map(|index| {
        batch.clear();
        batch.entry(GroupId(1), index, 1, 0, &[7; 400]);
        log.append(&mut batch, Room::Normal).err()
    });
    assert_eq!(refused, Some(LogError::Full), "the configured limit is like a full disk");
    assert!(log.status().disk_bytes <= 6 * 8192);
}

#[test]
fn after_a_clean_stop_nothing_is_cut() {
    let disk = VirtualDisk::new();
    let steps = plan(5, 30);
    let outcome = run(&disk, &steps, &options());
    let disk = disk.kill();
    let (mut log, ..) = open(&disk, &options()).expect("a whole log");
    log.seal().expect("a healthy disk");
    let end = log.end();
    drop(log);
    let disk = disk.crash(&mut Rng::new(1), Keep::Nothing);
    let (_, known, recovery) = open(&disk.fork(), &options()).expect("a sealed log");
    assert!(recovery.sealed && recovery.cut.is_none());
    assert_eq!(known, outcome.acked);
    let file = format!("{:016x}.log", end.segment);
    for offset in 4096..end.offset {
        let spoiled = disk.fork();
        spoiled.corrupt(&file, offset, 1 << (offset % 8));
        match open(&spoiled, &options()) {
            Err(LogError::Damaged { file: named, offset: place, .. }) => {
                assert!(named == file && place <= offset, "byte {offset}: names {named} at {place}");
            }
            Ok((_, known, _)) => assert_eq!(known, outcome.acked, "byte {offset}: padding at most"),
            Err(error) => panic!("byte {offset}: {error}"),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let once = |seed| {
        let disk = VirtualDisk::new();
        disk.crash_at(150);
        run(&disk, &plan(seed, 60), &options());
        disk.crash(&mut Rng::new(seed), Keep::Any).digest()
    };
    for seed in 0..5 {
        assert_eq!(once(seed), once(seed));
    }
    assert_ne!(once(0), once(1));
}

#[test]
fn an_answer_before_the_sync_is_caught() {
    let mut planted = options();
    planted.planted.ack_before_fsync = true;
    let error = crash_everywhere(0, 60, 5, &planted).expect_err("the planted bug went unnoticed");
    let place = error.split(": ").next().unwrap_or_default().to_string();
    println!("answer before fsync: caught at {place}");
    assert!(error.contains("acknowledged was") || error.contains("damaged"), "{error}");
}

#[test]
fn a_checksum_that_nobody_checks_is_caught() {
    // Spoil one byte after another of a sealed log: without checksums a wrong record comes out.
    let mut planted = options();
    planted.planted.crc_not_checked = true;
    let disk = VirtualDisk::new();
    let outcome = run(&disk, &plan(0, 20), &options());
    let disk = disk.kill();
    let names = disk.list().expect("alive");
    let file = names.iter().find(|name| name.starts_with('0')).expect("a segment");
    let caught_after = |options: &LogOptions| {
        (0..8192).find(|offset| {
            let spoiled = disk.fork();
            spoiled.corrupt(file, *offset, 0x10);
            match open(&spoiled, options) {
                Ok((_, known, recovery)) => known != outcome.acked && recovery.cut.is_none(),
                Err(_) => false,
            }
        })
    };
    assert_eq!(caught_after(&options()), None, "a wrong record came out although checksums are checked");
    let after = caught_after(&planted).expect("the planted bug went unnoticed");
    println!("checksum not checked: caught after {} spoiled bytes", after + 1);
}

#[test]
fn a_full_disk_still_has_room_for_the_snapshot_that_frees_it() {
    let disk = VirtualDisk::new();
    let (mut log, ..) = open(&disk, &options()).expect("a new log");
    log.prepare().expect("room");
    snapshot::hold_ballast(&disk, 16 << 10).expect("room");
    disk.set_capacity(Some(disk.used() + 8192));
    assert_eq!(snapshot::hold_ballast(&disk, 1 << 20), Err(LogError::Full));
    assert!(!disk.list().expect("alive").contains(&"ballast".to_string()), "a ballast that does not fit is none");
    snapshot::hold_ballast(&disk, 16 << 10).expect("room for the smaller one");
    let mut batch = Batch::new();
    let mut index = 0;
    for room in [Room::Normal, Room::Reserve] {
        loop {
            batch.clear();
            batch.entry(GroupId(1), index + 1, 1, 0, &[7; 400]);
            if log.append(&mut batch, room).is_err() {
                break;
            }
            index += 1;
        }
    }
    assert_eq!(write_snapshot(&disk, 1, index, 1), Err(LogError::Full));
    snapshot::sweep(&disk).expect("alive");
    assert_eq!(snapshot::release_ballast(&disk), Ok(true));
    write_snapshot(&disk, 1, index, 1).expect("the room that was kept");
    assert!(log.compact(GroupId(1), index, 1).expect("kept for this") > 0);
    log.prepare().expect("old segments become spares");
    log.append(&mut batch, Room::Normal).expect("room again");
    drop(log);
    assert_eq!(open(&disk, &options()).expect("a whole log").1.groups[&1].last(), index + 1);
}

#[test]
fn a_long_life_of_crashes_loses_nothing() {
    let mut lives = 0;
    for seed in 100..130 {
        let mut rng = Rng::new(seed);
        let mut disk = VirtualDisk::new();
        let mut known = Known::default();
        for life in 0..25 {
            let steps = plan_on(&mut rng, &known, 40);
            match rng.below(8) {
                0 => disk.fail_sync(rng.below(40)),
                1 => disk.fail_write(rng.below(60)),
                _ => disk.crash_at(disk.operations() + rng.below(160)),
            }
            let outcome = run_on(&disk, known, &steps, &options());
            disk = if rng.chance(1, 6) { disk.kill() } else { disk.crash(&mut rng, Keep::Any) };
            known = match open(&disk, &options()) {
                Ok((_, found, _)) if found == outcome.acked || Some(&found) == outcome.begun.as_ref() => found,
                Ok((_, found, _)) => panic!("seed {seed}, life {life}: {found:?} is not {:?}", outcome.acked),
                Err(error) => panic!("seed {seed}, life {life}: {error}"),
            };
            // A fork is judged, so that what judging appends does not become part of this life.
            let seen = Outcome { acked: known.clone(), ..Outcome::default() };
            judge(&disk.fork(), &seen, &options()).unwrap_or_else(|what| panic!("seed {seed}, life {life}: {what}"));
            lives += 1;
        }
    }
    println!("{lives} lives, each ended by a crash, a kill or a failing disk");
}

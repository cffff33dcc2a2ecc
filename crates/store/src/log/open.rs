//! Opening a log: decide what it holds, replay it, then mend what may be mended. The first two never write.

use super::format::{self, BATCH_HEADER, BATCHES_AT, Record};
use super::reader::{Records, SegmentReader, Stop, Survey, survey};
use super::{Cut, GroupState, LogError, LogOptions, Places, Recovery, Visit};
use crate::disk::{Disk, DiskError, DiskFile};
use base::GroupId;
use std::collections::BTreeMap;

/// What the directory holds, by name alone.
#[derive(Debug, Default)]
pub(super) struct Names {
    pub segments: BTreeMap<u64, String>,
    pub spares: Vec<(u64, String)>,
    /// Spares that were never finished.
    pub unfinished: Vec<String>,
    pub snapshots: usize,
}

/// A segment's name.
pub(super) fn segment_name(number: u64) -> String {
    format!("{number:016x}.log")
}

/// A spare's name.
pub(super) fn spare_name(id: u64) -> String {
    format!("spare-{id:016x}.log")
}

fn parse_hex(text: &str) -> Option<u64> {
    (text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
        .then(|| u64::from_str_radix(text, 16).ok())
        .flatten()
}

pub(super) fn names<D: Disk>(disk: &D) -> Result<Names, DiskError> {
    let mut names = Names::default();
    for name in disk.list()? {
        if let Some(number) = name.strip_suffix(".log").and_then(parse_hex) {
            names.segments.insert(number, name);
        } else if let Some(spare) = name.strip_prefix("spare-") {
            match spare.strip_suffix(".log").and_then(parse_hex) {
                Some(id) => names.spares.push((id, name)),
                None if spare.ends_with(".tmp") => names.unfinished.push(name),
                None => {}
            }
        } else if crate::snapshot::parse_name(&name).is_some() {
            names.snapshots += 1;
        }
    }
    Ok(names)
}

/// What opening will do; made without writing a byte.
pub(super) struct Plan<F> {
    pub names: Names,
    pub log_id: u64,
    pub node: u64,
    /// The log's segments in order, with their files.
    pub live: Vec<(u64, F)>,
    /// What the last of them says.
    pub last: Survey,
    /// Segments below the log's start: left over from a compaction.
    pub retired: Vec<u64>,
    /// Segments above its end, with whether a torn write touched them.
    pub unused: Vec<(u64, bool)>,
    pub cut: Option<Cut>,
}

fn damaged(number: u64, offset: u64, what: impl Into<String>) -> LogError {
    LogError::Damaged { file: segment_name(number), offset, what: what.into() }
}

/// Decides what the log holds. `None`: there is none yet.
pub(super) fn plan<D: Disk>(disk: &D, options: &LogOptions) -> Result<Option<Plan<D::File>>, LogError> {
    let names = names(disk)?;
    let check = options.crc_checked();
    let Some(&highest) = names.segments.keys().next_back() else {
        if names.snapshots > 0 {
            return Err(damaged(1, 0, "the log is missing although snapshots are there"));
        }
        return Ok(None);
    };

    // The log's identity: the word of the newest readable header. Others that differ are found in replay.
    let mut identity = None;
    for (number, name) in names.segments.iter().rev() {
        let file = disk.open(name)?;
        if let Ok(header) = SegmentReader::new(&file, 0, *number, check)?.header()? {
            identity = Some((header.log_id, header.node));
            break;
        }
    }
    let Some((log_id, node)) = identity else {
        return Err(damaged(highest, 0, "no segment has a readable header"));
    };

    // From the top: segments that nothing was written to, then one that was begun at most, then the last that holds
    // good batches. What any of them proves durable must be in the log.
    let mut unused = Vec::new();
    let mut bound = 0;
    let mut begun: Option<(u64, Result<(), &'static str>)> = None;
    let mut cut: Option<Cut> = None;
    let mut found = None;
    for (&number, name) in names.segments.iter().rev() {
        let file = disk.open(name)?;
        let survey = survey(&file, log_id, number, check)?;
        bound = bound.max(survey.bound());
        if survey.batches.is_some() {
            found = Some((number, survey));
            break;
        }
        let alive = survey.alive();
        unused.push((number, alive));
        if alive {
            begun = Some((number, survey.header.map(|_| ())));
            cut = Some(Cut { file: name.clone(), offset: 0, bytes: survey.torn_until().unwrap_or(BATCHES_AT) });
        }
    }
    let Some((number, last)) = found else {
        return Err(damaged(highest, BATCHES_AT, "no segment holds a readable batch"));
    };
    let (_, sequence) = last.batches.expect("the search above ends at a segment with batches");
    if bound > sequence {
        // The next batch was durable and cannot be read. It is behind the last good one, unless that segment was full.
        let (file, offset, what) = match (begun, last.stop, last.later) {
            (_, Stop::Bad(what), _) => (number, last.end, what),
            (Some((begun, Err(what))), _, None) => (begun, 0, what),
            (Some((begun, Ok(()))), _, None) => (begun, BATCHES_AT, "no batch can be read"),
            (_, Stop::Nothing, _) => (number, last.end, "no batch can be read"),
        };
        let what = format!("{what}; batch {} was durable, as a later position says", sequence + 1);
        return Err(damaged(file, offset, what));
    }
    if let Some(until) = last.torn_until() {
        cut = Some(Cut { file: segment_name(number), offset: last.end, bytes: until - last.end });
    }

    let mut live = Vec::new();
    for at in last.oldest..=number {
        match names.segments.get(&at) {
            Some(name) => live.push((at, disk.open(name)?)),
            None => return Err(damaged(at, 0, "the segment is missing")),
        }
    }
    if live.is_empty() {
        return Err(damaged(number, BATCHES_AT, "the log says that it starts behind its own end"));
    }
    let retired = names.segments.range(..last.oldest).map(|(number, _)| *number).collect();
    Ok(Some(Plan { names, log_id, node, live, last, retired, unused, cut }))
}

/// What replay learned about a segment.
pub(super) struct Replayed {
    pub used: u64,
    pub highest: Vec<(GroupId, u64)>,
}

/// The result of a replay.
pub(super) struct Replay {
    pub groups: BTreeMap<GroupId, GroupState>,
    pub segments: Vec<Replayed>,
    pub sequence: u64,
    pub recovery: Recovery,
    pub places: Places,
}

/// How far one group's log has been read.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    /// Last index as stored, compacted ones included; `None` until the first record.
    last: Option<u64>,
    /// Whether the visitor holds entries of the group.
    holds: bool,
}

/// Reads the planned log in order. The visitor sees, per group: a mark where its log starts if it does not start at 1,
/// then its entries without a gap; a later mark of the same group means that the entries seen so far do not count.
pub(super) fn replay<F: DiskFile>(
    plan: &Plan<F>,
    options: &LogOptions,
    visit: Visit<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Replay, LogError> {
    let starts = &plan.last.starts;
    let mut out = Replay {
        groups: BTreeMap::new(),
        segments: Vec::new(),
        sequence: 0,
        recovery: Recovery {
            sealed: plan.last.sealed,
            segments: plan.live.len(),
            cut: plan.cut.clone(),
            log_id: plan.log_id,
            node: plan.node,
            ..Recovery::default()
        },
        places: Places::default(),
    };
    let mut deliver = |record: Record<'_>| visit(record).map_err(LogError::Refused);
    for (&group, &(index, term)) in starts {
        deliver(Record::SnapshotMark { group, index, term, install: true })?;
    }
    let mut cursors: BTreeMap<GroupId, Cursor> = BTreeMap::new();
    let mut expected = None;
    for (at, (number, file)) in plan.live.iter().enumerate() {
        let mut reader = SegmentReader::new(file, plan.log_id, *number, options.crc_checked())?;
        match reader.header()? {
            Err(what) => return Err(damaged(*number, 0, what)),
            Ok(header) if header.log_id != plan.log_id => {
                return Err(damaged(*number, 0, "the segment belongs to another log"));
            }
            Ok(_) => {}
        }
        reader.expected = expected;
        let mut highest: Vec<(GroupId, u64)> = Vec::new();
        let mut first = true;
        let stop = loop {
            let (offset, batch, records) = match reader.next()? {
                Ok(found) => found,
                Err(stop) => break stop,
            };
            if first && batch.flags & format::FLAG_CHECKPOINT == 0 {
                return Err(damaged(*number, offset, "the segment does not begin with a checkpoint"));
            }
            first = false;
            out.sequence = batch.sequence;
            out.recovery.batches += 1;
            for (at, record) in Records(records).placed() {
                out.recovery.records += 1;
                match record {
                    Record::Entry { group, index, .. } => {
                        let start = starts.get(&group).map_or(0, |start| start.0);
                        let cursor = cursors.entry(group).or_default();
                        // What is before the group's start may be gone; behind that there are no holes.
                        let most = cursor.last.unwrap_or(start);
                        if index == 0 || index > most.saturating_add(1) {
                            let what = format!("{group} has entry {index} after {most}: entries between are missing");
                            return Err(damaged(*number, offset, what));
                        }
                        cursor.last = Some(index);
                        raise(&mut highest, group, index);
                        if index > start {
                            out.places.note(*number, offset + BATCH_HEADER as u64, std::iter::once((group, index, at)));
                            cursor.holds = true;
                            out.recovery.entries += 1;
                            deliver(record)?;
                        } else if std::mem::take(&mut cursor.holds) {
                            // This entry, compacted since, had replaced all that the visitor was given.
                            let (index, term) = starts.get(&group).copied().unwrap_or((0, 0));
                            deliver(Record::SnapshotMark { group, index, term, install: true })?;
                        }
                    }
                    Record::SnapshotMark { group, index, install, .. } => {
                        let cursor = cursors.entry(group).or_default();
                        if install {
                            cursor.last = Some(index);
                        } else if let Some(last) = &mut cursor.last {
                            // Before the group's first entry a mark says nothing of where that is: checkpoints restate
                            // marks, and entries between may have gone with segments that were compacted.
                            *last = (*last).max(index);
                        }
                        if install && std::mem::take(&mut cursor.holds) {
                            let (index, term) = starts.get(&group).copied().unwrap_or((0, 0));
                            deliver(Record::SnapshotMark { group, index, term, install: true })?;
                        }
                    }
                    Record::HardState { group, term, vote, commit } => {
                        out.groups.entry(group).or_default().hard = Some((term, vote, commit));
                        deliver(record)?;
                    }
                    Record::Node { log_id, .. } if log_id != plan.log_id => {
                        return Err(damaged(*number, offset, "the batch belongs to another log"));
                    }
                    Record::Node { .. } | Record::Seal => deliver(record)?,
                }
            }
            progress(*number, reader.offset);
        };
        expected = reader.expected;
        let used = reader.offset;
        out.recovery.bytes += used;
        out.segments.push(Replayed { used, highest });
        if let Some((next, file)) = plan.live.get(at + 1) {
            // This segment ended well if the next one goes on exactly where it stopped.
            let mut ahead = SegmentReader::new(file, plan.log_id, *next, options.crc_checked())?;
            ahead.expected = expected;
            if ahead.next()?.is_err() {
                // Whose fault? A next segment that begins later than this one ended leaves the hole here.
                ahead.expected = None;
                return Err(match (stop, ahead.next()?) {
                    (Stop::Bad(what), _) => damaged(*number, used, what),
                    (_, Ok(_)) => damaged(*number, used, "no batch can be read; the next segment begins later"),
                    (_, Err(Stop::Bad(what))) => damaged(*next, BATCHES_AT, what),
                    (_, Err(Stop::Nothing)) => damaged(*next, BATCHES_AT, "no batch can be read"),
                });
            }
        }
    }
    for (&group, &start) in starts {
        out.groups.entry(group).or_default().mark = start;
    }
    for (group, cursor) in cursors {
        let state = out.groups.entry(group).or_default();
        state.last = cursor.last.unwrap_or(0).max(state.mark.0);
    }
    out.recovery.sequence = out.sequence;
    Ok(out)
}

/// Keeps the highest index of a group in a short list.
pub(super) fn raise(highest: &mut Vec<(GroupId, u64)>, group: GroupId, index: u64) {
    match highest.iter_mut().rev().find(|(have, _)| *have == group) {
        Some((_, high)) => *high = (*high).max(index),
        None => highest.push((group, index)),
    }
}

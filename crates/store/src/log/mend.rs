//! From a plan to an open log: a new one made, or an old one's files brought into the state that they mean.

use super::open::{self, segment_name};
use super::upkeep::{self, Spare, Zeroing};
use super::{BATCHES_AT, Batch, Live, Log, LogError, LogOptions, Record, Recovery, Visit};
use crate::disk::{Disk, DiskError, DiskFile};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

impl<D: Disk> Log<D> {
    /// A new log. Its first segment gets its name only when it is whole.
    pub(super) fn make(disk: D, options: LogOptions, visit: Visit<'_>) -> Result<(Log<D>, Recovery), LogError> {
        let names = open::names(&disk)?;
        for name in names.unfinished.iter().chain(names.spares.iter().map(|(_, name)| name)) {
            disk.remove(name)?;
        }
        let (log_id, node) = (options.log_id, options.node);
        let spare = Zeroing::whole(&disk, 1, options.segment_bytes)?;
        let name = spare.name.clone();
        let mut log = Log::begun(disk, options, (log_id, node), 1, spare, 2);
        let end = log.write_checkpoint(1)?;
        log.file.sync()?;
        log.disk.rename(&name, &segment_name(1))?;
        log.disk.sync_dir()?;
        log.sequence = 1;
        log.current().used = end;
        visit(Record::Node { log_id, node }).map_err(LogError::Refused)?;
        let recovery = Recovery { fresh: true, segments: 1, sequence: 1, log_id, node, ..Recovery::default() };
        Ok((log, recovery))
    }

    /// A log with nothing in it but this one segment, which nothing has been written to.
    pub(super) fn begun(
        disk: D,
        options: LogOptions,
        (log_id, node): (u64, u64),
        number: u64,
        spare: Spare<D::File>,
        next_spare: u64,
    ) -> Log<D> {
        Log {
            disk,
            log_id,
            node,
            live: VecDeque::from([Live { number, capacity: spare.capacity, used: BATCHES_AT, highest: Vec::new() }]),
            file: spare.file,
            before: None,
            sequence: 0,
            marked: 0,
            mark_turn: 0,
            groups: BTreeMap::new(),
            spares: Vec::new(),
            retired: Vec::new(),
            next_spare,
            upkeep_out: false,
            in_reserve: false,
            full: false,
            frugal: false,
            usual_bytes: 0,
            unprepared: 0,
            stopped: None,
            checkpoint: Batch::new(),
            page: Vec::new(),
            places: Arc::default(),
            options,
        }
    }

    /// Brings the files into the state that the plan found them to mean, and makes sure that what was read is durable.
    pub(super) fn mend(
        disk: D,
        options: LogOptions,
        plan: open::Plan<D::File>,
        replay: open::Replay,
    ) -> Result<(Log<D>, Recovery), LogError> {
        let mut next_spare = plan.names.spares.iter().map(|(id, _)| id + 1).max().unwrap_or(1);
        for name in &plan.names.unfinished {
            disk.remove(name)?;
        }
        let mut live = VecDeque::new();
        let mut last_file = None;
        for ((number, file), replayed) in plan.live.into_iter().zip(replay.segments) {
            live.push_back(Live { number, capacity: file.len()?, used: replayed.used, highest: replayed.highest });
            last_file = Some(file);
        }
        let mut file = last_file.expect("a plan has at least one segment");
        let end = live.back().map_or(BATCHES_AT, |last| last.used);
        if plan.last.torn_until().is_some() {
            // Zeroed to the end: no later recovery may find this torn write again and take part of it for good.
            let length = file.len()?;
            upkeep::zero(&mut file, end, length)?;
        }
        // After a crash of the process alone, what was read may still be on its way to the disk, or worse: an fsync may have
        // failed, and the kernel shows pages that it will never write. Written again, they are dirty, and this sync counts.
        let from = if plan.last.unproven == BATCHES_AT { 0 } else { plan.last.unproven };
        rewrite(&mut file, from, end)?;
        file.sync()?;

        let mut spares = Vec::new();
        for (number, touched) in plan.unused {
            let name = segment_name(number);
            let mut unused = disk.open(&name)?;
            let capacity = unused.len()?;
            if touched {
                upkeep::zero(&mut unused, 0, capacity)?;
                unused.sync()?;
            }
            spares.extend(upkeep::recycle(&disk, &name, next_spare, None)?);
            next_spare += 1;
        }
        for (_, name) in &plan.names.spares {
            let file = disk.open(name)?;
            let capacity = file.len()?;
            spares.push(Spare { name: name.clone(), file, capacity });
        }
        let mut kept = Vec::new();
        for spare in spares {
            if spare.capacity == options.segment_bytes && kept.len() < options.spares {
                kept.push(spare);
            } else {
                disk.remove(&spare.name)?;
            }
        }
        let mut retired = Vec::new();
        for number in plan.retired {
            let name = segment_name(number);
            let length = disk.open(&name)?.len()?;
            retired.push((name, length));
        }
        disk.sync_dir()?;
        let mut log = Log {
            disk,
            options,
            log_id: plan.log_id,
            node: plan.node,
            live,
            file,
            before: None,
            sequence: replay.sequence,
            marked: plan.last.marked,
            mark_turn: plan.last.turn,
            groups: replay.groups,
            spares: kept,
            retired,
            next_spare,
            upkeep_out: false,
            in_reserve: false,
            full: false,
            frugal: false,
            usual_bytes: 0,
            unprepared: 0,
            stopped: None,
            checkpoint: Batch::new(),
            page: Vec::new(),
            places: Arc::new(replay.places),
        };
        log.write_mark(false)?;
        if log.spares.is_empty() {
            // A log that was in its reserve when it stopped must not forget that.
            match log.make_spare() {
                Ok(()) => {}
                Err(LogError::Full) => log.in_reserve = true,
                Err(error) => return Err(error),
            }
        }
        Ok((log, replay.recovery))
    }
}

/// Writes the bytes `from..to` again as they are.
fn rewrite<F: DiskFile>(file: &mut F, from: u64, to: u64) -> Result<(), DiskError> {
    let mut bytes = vec![0; 64 << 10];
    let mut at = from;
    while at < to {
        let want = (to - at).min(bytes.len() as u64) as usize;
        let got = file.read_at(at, &mut bytes[..want])?;
        if got == 0 {
            return Err(DiskError::Failed("the file ended while it was read".to_string()));
        }
        file.write_at(at, &bytes[..got])?;
        at += got as u64;
    }
    Ok(())
}

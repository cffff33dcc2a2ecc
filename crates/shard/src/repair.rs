//! A node whose disk is damaged, made sound again as far as it goes: the groups that were hit stand behind a fence with what they have
//! left, the others are whole. Afterwards [`crate::open`] finds a log without damage.
//!
//! Everything is written in an order that may break off anywhere: the fences first, then snapshots of what each group has, then one new
//! segment that makes all older ones void. Before that last step the next start finds the same damage and does the same again.

use std::collections::BTreeMap;

use base::GroupId;
use consensus::{HardState, Position};
use store::disk::{Disk, DiskError};
use store::fence;
use store::log::{Batch, Found, LogError, Record, renew, salvage};
use store::snapshot::{SnapshotWriter, adopt};

use crate::open::{self, OpenError, OpenOptions};
use crate::recover::{Recovered, Recovery};
use crate::state::State;
use crate::topics::{self, Stored};

/// Repairs what `error` is about, if there are peers to give back what was lost. What was wrong, in words.
///
/// # Errors
/// `error` where there are none; whatever else stops it.
pub(crate) fn repair<D: Disk>(
    disk: &D,
    options: &OpenOptions,
    error: OpenError,
    seed: &mut dyn FnMut() -> u64,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<String>, OpenError> {
    let mut words = vec![error.to_string()];
    let (mut fences, all) = match fence::read(disk) {
        Ok(fences) => (fences, false),
        Err(LogError::Damaged { .. }) => (fence::Fences::new(), true),
        Err(other) => return Err(other.into()),
    };
    let mut found = open::Found::default();
    let mut recoveries = BTreeMap::new();
    for group in open::groups(options) {
        recoveries.insert(group, open::load_snapshot(disk, group, options, seed(), &mut found, progress)?);
    }
    let salvaged = salvage(disk, &options.log, &mut |found| match found {
        Found::Lost(hit) => {
            recoveries.iter_mut().filter(|(group, _)| hit.may_be(**group)).for_each(|(_, recovery)| recovery.lose());
            Ok(())
        }
        Found::Record(record) => take(&mut recoveries, record),
    })
    .map_err(|error| OpenError::Log(error, found.damaged_snapshots.clone()))?;
    words.extend(
        salvaged.damage.iter().map(|damage| format!("{} at byte {}: {}", damage.file, damage.offset, damage.what)),
    );
    for recovery in recoveries.values_mut() {
        if all || recovery.is_short() {
            recovery.lose();
        }
    }
    let peers =
        recoveries.values().any(|recovery| recovery.membership().members().iter().any(|id| *id != options.node));
    if !peers && !options.has_peers {
        return Err(error);
    }
    let (lost, whole): (Vec<_>, Vec<_>) = recoveries.iter().partition(|(_, recovery)| recovery.is_lost());
    let ids = |of: Vec<(&GroupId, &Recovery)>| of.into_iter().map(|(group, _)| *group).collect::<Vec<_>>();
    let (lost, whole) = (ids(lost), ids(whole));
    words.push(format!("fenced: {}", lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")));
    open::put_up(&mut fences, lost, fence::State::Damage, open::new_name(seed));
    if salvaged.torn {
        open::put_up(&mut fences, whole, fence::State::Doubt, open::new_name(seed));
    }
    fence::write(disk, &fences)?;

    let (mut batch, mut arrived) = (Batch::new(), Vec::new());
    for (group, recovery) in recoveries {
        let mut recovered = recovery.finish().map_err(OpenError::Refused)?;
        let Position { index, term } = recovered.start;
        if index > recovered.snapshot {
            let stored = Stored::new(disk.clone(), salvaged.places.clone());
            snapshot(disk, &stored, group, &mut recovered, options)?;
        }
        if index > 0 {
            batch.snapshot_mark(group, index, term, true);
        }
        for entry in &recovered.entries {
            batch.entry(group, entry.index, entry.term, entry.kind as u8, &entry.data);
        }
        let HardState { term, vote, commit } = recovered.hard_state;
        batch.hard_state(group, term, vote, commit);
        arrived.extend(recovered.installed.map(|(position, _)| (group, position.index)));
    }
    renew(disk, &options.log, &salvaged, &mut batch)?;
    for (group, index) in arrived {
        adopt(disk, group, index)?;
    }
    for name in found.damaged_files {
        match disk.remove(&name) {
            Ok(()) | Err(DiskError::NotFound) => {}
            Err(error) => return Err(LogError::from(error).into()),
        }
    }
    Ok(words)
}

fn take(recoveries: &mut BTreeMap<GroupId, Recovery>, record: Record<'_>) -> Result<(), String> {
    let (Record::Entry { group, .. } | Record::HardState { group, .. } | Record::SnapshotMark { group, .. }) = record
    else {
        return Ok(());
    };
    let of = || format!("a record of {group}, which this node does not have");
    let recovery = recoveries.get_mut(&group).ok_or_else(of)?;
    match record {
        Record::Entry { .. } => {
            let entry = open::stored_entry(record)?;
            // A gap: what was between them is lost.
            if recovery.entry(entry).is_err() {
                recovery.lose();
            }
            Ok(())
        }
        Record::HardState { term, vote, commit, .. } => recovery.hard_state(HardState { term, vote, commit }),
        Record::SnapshotMark { index, term, install, .. } => {
            if recovery.mark(Position { index, term }, install).is_err() {
                recovery.lose();
            }
            Ok(())
        }
        Record::Node { .. } | Record::Seal => Ok(()),
    }
}

/// A snapshot of what a group has, so that nothing older is needed of it.
fn snapshot<D: Disk>(
    disk: &D,
    stored: &Stored<D>,
    group: GroupId,
    recovered: &mut Recovered,
    options: &OpenOptions,
) -> Result<(), LogError> {
    let Position { index, term } = recovered.start;
    let state = &mut recovered.state;
    let copying = state.queue().to_copy(group, index, options.node.0);
    let mut writer = SnapshotWriter::begin(disk, group, index, term, &recovered.membership.to_bytes())?;
    let (_, first) = state.begin_snapshot();
    writer.chunk(&first)?;
    let mut chunk = Vec::new();
    loop {
        chunk.clear();
        let done = state.walk(options.snapshot_chunk_bytes, &mut chunk).unwrap_or(true);
        if !chunk.is_empty() {
            writer.chunk(&chunk)?;
        }
        if done {
            break;
        }
    }
    let mut files = state.queue().files();
    if let Some(copying) = copying {
        for (file, stretches) in topics::file_away(disk, stored, &copying)? {
            state.queue_mut().copied(file, &stretches);
            files.push(file);
        }
        state.queue_mut().forget_rows(index);
    }
    if !files.is_empty() {
        writer.chunk(&State::files_chunk(&files))?;
    }
    writer.finish().map(drop)
}

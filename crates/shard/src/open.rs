//! From a directory of files to a running driver: log, snapshots, replay. Host and simulator start a node by this code.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base::{GroupId, Limits, NodeId, SlotSet};
use bytes::Bytes;
use consensus::{Entry, EntryKind, GroupConfig, HardState, Membership, Position, Timing, Trust};
use store::disk::Disk;
use store::fence;
use store::keyspace::Keyspaces;
use store::log::{self, Batch, Log, LogError, LogOptions, Record};
use store::snapshot::{SnapshotReader, adopt, pick, snapshot_name, sweep};

use crate::driver::{Append, Driver, DriverConfig, Room, WALK_BYTES};
use crate::live::Shard;
use crate::manifest::Manifest;
use crate::recover::{Recovered, Recovery};
use crate::slots::Slots;
use crate::state::State;

/// How a node is to be opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// This node.
    pub node: NodeId,
    /// Who the groups belonged to when they were founded: the same on all nodes for ever.
    pub founders: Vec<NodeId>,
    /// Whether this node is known to have peers that may repair what it lost, even if the damage hides who belongs to its groups.
    pub has_peers: bool,
    /// Data shards beside the meta group, from the beginning; part of the data.
    pub data_shards: usize,
    /// Shards that were made later, as the directory's [`Manifest`] has them; read when it is opened.
    pub born: BTreeMap<GroupId, Vec<NodeId>>,
    /// Bytes of a group's entries after which it takes a snapshot.
    pub snapshot_log_bytes: u64,
    /// Bytes that one piece of a snapshot has, about.
    pub snapshot_chunk_bytes: usize,
    /// How soon groups notice that their leader is gone.
    pub timing: Timing,
    /// Whether groups that have nothing to do fall silent; then lost links must be told ([`crate::driver::Input::LinkLost`]).
    pub quiesces: bool,
    /// Bounds.
    pub limits: Limits,
    /// The log.
    pub log: LogOptions,
    /// Bugs to be found (see `sim`).
    #[cfg(any(test, feature = "planted"))]
    pub planted: Planted,
}

impl OpenOptions {
    /// A node whose log is kept like this, with the rest as is usual.
    pub fn new(node: NodeId, data_shards: usize, log: LogOptions) -> OpenOptions {
        OpenOptions {
            node,
            founders: vec![node],
            has_peers: false,
            data_shards,
            born: BTreeMap::new(),
            snapshot_log_bytes: 256 << 20,
            snapshot_chunk_bytes: WALK_BYTES,
            timing: Timing::default(),
            quiesces: false,
            limits: Limits::DEFAULT,
            log,
            #[cfg(any(test, feature = "planted"))]
            planted: Planted::default(),
        }
    }
}

/// Bugs of a whole node.
#[cfg(any(test, feature = "planted"))]
#[derive(Clone, Copy, Debug, Default)]
pub struct Planted {
    /// Not a bug: the simulator's clients belong to a shard whatever their keys' slots.
    pub slots_ignored: bool,
    /// In consensus.
    pub consensus: consensus::Planted,
    /// In the shards.
    pub state: crate::state::Planted,
    /// In the driver.
    pub driver: crate::driver::Planted,
    /// In the queue.
    pub queue: queue::planted::Planted,
    /// A start believes that the group still belongs to its founders.
    pub membership_forgotten: bool,
}

/// A node ready to run.
pub struct Opened<D: Disk, C> {
    /// The log, ready for appends.
    pub log: Log<D>,
    /// The driver, its groups recovered.
    pub driver: Driver<C>,
    /// Meta first, then data shards in slot order.
    pub shards: Vec<Arc<Shard<C>>>,
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
    /// Their files.
    pub damaged_files: Vec<String>,
    /// Damage that the groups' other nodes are to repair, in words.
    pub repaired: Vec<String>,
    /// Groups in which this node's word does not count until a leader has let it in.
    pub fenced: Vec<GroupId>,
}

/// Why a node does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// The log or a snapshot; with the damaged snapshots that may be behind it.
    Log(LogError, Vec<String>),
    /// The directory was made with so many data shards.
    Shards(usize),
    /// There was a log once, and it is gone.
    Gone,
    /// What was read contradicts itself.
    Refused(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Log(error, damaged) if damaged.is_empty() => error.fmt(f),
            OpenError::Log(error, damaged) => write!(f, "{}; {error}", damaged.join("; ")),
            OpenError::Shards(stored) => write!(f, "the directory was made with data_shards = {stored}"),
            OpenError::Gone => f.write_str("the directory once held a log, and now it is gone"),
            OpenError::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<LogError> for OpenError {
    fn from(error: LogError) -> OpenError {
        OpenError::Log(error, Vec::new())
    }
}

/// Opens everything, or makes it where there is nothing yet. `seed` gives seeds that differ between nodes and starts.
///
/// What is damaged in a node that has peers is repaired from them: the groups that it hit keep their sound prefix behind a fence
/// ([`consensus::Trust`]), the others go on as if nothing had happened. A lone node does not start: nobody could give it back.
///
/// # Errors
/// Whatever was acknowledged and cannot be read, and what [`Log::open`] says.
pub fn open<D: Disk, C: Clone + PartialEq>(
    disk: &D,
    options: &OpenOptions,
    seed: &mut dyn FnMut() -> u64,
    progress: &mut dyn FnMut(&str),
) -> Result<Opened<D, C>, OpenError> {
    let mut lost = false;
    let mut options = options.clone();
    if let Some(manifest) = Manifest::read(disk)? {
        options.born = manifest.born;
    }
    let options = &options;
    let error = match open_sound(disk, options, seed, progress, &mut lost) {
        Err(error) if lost || matches!(error, OpenError::Log(LogError::Damaged { .. }, _)) => error,
        other => return other,
    };
    let damage = crate::repair::repair(disk, options, error, seed, progress)?;
    let mut opened = open_sound(disk, options, seed, progress, &mut lost)?;
    opened.found.repaired = damage;
    Ok(opened)
}

fn open_sound<D: Disk, C: Clone + PartialEq>(
    disk: &D,
    options: &OpenOptions,
    seed: &mut dyn FnMut() -> u64,
    progress: &mut dyn FnMut(&str),
    lost: &mut bool,
) -> Result<Opened<D, C>, OpenError> {
    let _ = (sweep(disk), store::extent::sweep(disk));
    let mut found = Found::default();
    let known = known_shards(disk)?;
    if let Some(stored) = known.filter(|stored| *stored != options.data_shards) {
        return Err(OpenError::Shards(stored));
    }
    // Before a new one is made: the next start would take that for the log.
    if known.is_some() && store::log::is_absent(disk)? {
        return Err(OpenError::Gone);
    }
    let mut fences = fence::read(disk)?;
    let recoveries = RefCell::new(BTreeMap::new());
    for group in groups(options) {
        let recovery = load_snapshot(disk, group, options, seed(), &mut found, progress)?;
        recoveries.borrow_mut().insert(group, recovery);
    }
    let mut entries = 0u64;
    let visit = &mut |record: Record<'_>| -> Result<(), String> {
        let mut recoveries = recoveries.borrow_mut();
        let of = |group: GroupId| format!("a record of {group}, which this node does not have");
        match record {
            Record::Node { .. } | Record::Seal => Ok(()),
            Record::Entry { group, .. } => {
                entries += 1;
                recoveries.get_mut(&group).ok_or_else(|| of(group))?.entry(stored_entry(record)?)
            }
            Record::HardState { group, term, vote, commit } => {
                recoveries.get_mut(&group).ok_or_else(|| of(group))?.hard_state(HardState { term, vote, commit })
            }
            Record::SnapshotMark { group, index, term, install } => {
                let recovery = recoveries.get_mut(&group).ok_or_else(|| of(group))?;
                recovery.mark(Position { index, term }, install).inspect_err(|_| *lost = true)
            }
        }
    };
    let shown =
        &mut |segment: u64, offset: u64| progress(&format!("reading the log: segment {segment}, {} MiB", offset >> 20));
    let name = new_name(seed);
    let doubts = &mut |recovery: &log::Recovery| -> Result<(), LogError> {
        if recovery.cut.is_none() {
            return Ok(());
        }
        // Before the tail goes, for it leaves no trace: whoever has peers may have told them of what was in it.
        let shared =
            recoveries.borrow().iter().filter(|(_, r)| !is_lone(r.membership(), options)).map(|(g, _)| *g).collect();
        put_up(&mut fences, shared, fence::State::Doubt, name);
        if fences.is_empty() { Ok(()) } else { fence::write(disk, &fences) }
    };
    let (mut log, recovery) = Log::open_guarded(disk.clone(), options.log.clone(), visit, shown, doubts)
        .map_err(|error| OpenError::Log(error, found.damaged_snapshots.clone()))?;
    if known.is_none() {
        let manifest = Manifest { founded: options.data_shards, born: options.born.clone() };
        manifest.write(disk).map_err(LogError::from)?;
    }
    found.fresh = recovery.fresh;
    found.sealed = recovery.sealed;
    found.entries = entries;
    found.log_bytes = recovery.bytes;
    found.cut = recovery.cut.map(|cut| {
        format!(
            "the last batch cannot be read and was cut off: {} from byte {}, {} bytes. A crash tears what nobody was told of; rot in the very last batch would look the same",
            cut.file, cut.offset, cut.bytes
        )
    });
    let mut driver = Driver::new(DriverConfig {
        node: options.node,
        snapshot_log_bytes: options.snapshot_log_bytes,
        snapshot_chunk_bytes: options.snapshot_chunk_bytes,
        limits: options.limits.clone(),
        #[cfg(any(test, feature = "planted"))]
        planted: options.planted.driver,
    });
    driver.found_log(found.log_bytes);
    let mut shards = Vec::new();
    for (group, recovery) in recoveries.into_inner() {
        *lost |= recovery.is_short();
        let recovered = recovery.finish().map_err(OpenError::Refused)?;
        // What a crash has left of a snapshot that was not finished. The log may have let go of what the snapshot names.
        let _ = store::extent::remove_others(disk, group, &recovered.state.files_to_keep());
        if let Some((position, void)) = recovered.installed {
            settle_arrival(disk, &mut log, group, position, void.then_some(recovered.hard_state))?;
        }
        let mut config = group_config(group, recovered.membership.clone(), options, seed());
        config.fence = match fences.get(&group) {
            Some(fence) => {
                consensus::Fence { name: fence.name, trust: trust(fence.state, &config.membership, options) }
            }
            None => consensus::Fence::default(),
        };
        if config.fence.trust != Trust::Whole {
            found.fenced.push(group);
        }
        #[cfg(any(test, feature = "planted"))]
        if options.planted.membership_forgotten {
            config.membership = founders(group, options);
        }
        shards.push(driver.add(config, recovered).map_err(OpenError::Refused)?);
    }
    Ok(Opened { log, driver, shards, found })
}

/// The node's groups, meta first.
pub(crate) fn groups(options: &OpenOptions) -> impl Iterator<Item = GroupId> {
    (0..=options.data_shards as u32).map(GroupId).chain(options.born.keys().copied())
}

/// Who belonged to a group at its birth.
fn founders(group: GroupId, options: &OpenOptions) -> Membership {
    let founders = options.born.get(&group).unwrap_or(&options.founders);
    Membership::new(founders.iter().copied(), [])
}

/// Whether nobody but this node votes in the group: then there is nobody whom it could have misled, and nobody who could let it in.
pub(crate) fn is_lone(membership: &Membership, options: &OpenOptions) -> bool {
    membership.voters == [options.node] && membership.voters_outgoing.is_empty()
}

/// A fence's name: random, not zero, below 2⁶².
pub(crate) fn new_name(seed: &mut dyn FnMut() -> u64) -> u64 {
    (seed() >> 3) | 1
}

/// Puts up fences for these groups. Known damage is not made a mere doubt.
pub(crate) fn put_up(fences: &mut fence::Fences, groups: Vec<GroupId>, state: fence::State, name: u64) {
    for group in groups {
        let stands = fences.get(&group).is_some_and(|fence| fence.state == fence::State::Damage);
        let state = if stands { fence::State::Damage } else { state };
        fences.insert(group, fence::Fence { name, state });
    }
}

fn trust(state: fence::State, membership: &Membership, options: &OpenOptions) -> Trust {
    match state {
        fence::State::Lifted => Trust::Whole,
        fence::State::Doubt if is_lone(membership, options) => Trust::Whole,
        fence::State::Doubt => Trust::Doubt,
        fence::State::Damage => Trust::Damage,
    }
}

/// An entry as the log has it.
pub(crate) fn stored_entry(record: Record<'_>) -> Result<Entry, String> {
    let Record::Entry { index, term, kind, data, .. } = record else { return Err("not an entry".to_owned()) };
    let kind = EntryKind::from_number(kind).ok_or_else(|| format!("an entry of unknown kind {kind}"))?;
    Ok(Entry { index, term, kind, data: Bytes::copy_from_slice(data) })
}

/// The node died before it had done with another node's snapshot: the log hears of it, if it has not, and it is adopted.
fn settle_arrival<D: Disk>(
    disk: &D,
    log: &mut Log<D>,
    group: GroupId,
    position: Position,
    unheard: Option<HardState>,
) -> Result<(), LogError> {
    if let Some(hard) = unheard {
        let mut batch = Batch::new();
        batch.snapshot_mark(group, position.index, position.term, true);
        batch.hard_state(group, hard.term, hard.vote, hard.commit);
        log.append(&mut batch, log::Room::Reserve)?;
    }
    adopt(disk, group, position.index)
}

/// Makes what the driver asked for durable.
///
/// # Errors
/// As [`Log::append`].
pub fn append<D: Disk>(log: &mut Log<D>, batch: &mut Batch, append: &Append) -> Result<log::Appended, LogError> {
    batch.clear();
    for (group, position) in &append.installs {
        batch.snapshot_mark(*group, position.index, position.term, true);
    }
    for (group, entry) in &append.entries {
        batch.entry(*group, entry.index, entry.term, entry.kind as u8, &entry.data);
    }
    for (group, hard) in &append.hard_states {
        batch.hard_state(*group, hard.term, hard.vote, hard.commit);
    }
    log.append(batch, if append.frees_only { log::Room::Reserve } else { log::Room::Normal })
}

/// What the driver is to be told of the log's room.
pub fn room(status: &log::Status) -> Room {
    let reserve = status.in_reserve || (status.full && status.spares < 2);
    if reserve { Room::Reserve } else { Room::Plenty }
}

/// How many data shards a directory was made with; `None` where it has never held a log. The number is part of the data: keys
/// would be looked for in the wrong one.
///
/// # Errors
/// The file that says it cannot be read.
pub fn known_shards<D: Disk>(disk: &D) -> Result<Option<usize>, OpenError> {
    Ok(Manifest::read(disk)?.map(|manifest| manifest.founded))
}

/// A group that this node has not had: nothing in it, and these were its members at its birth. Its line must stand in the
/// [`Manifest`] before it is added to a driver.
///
/// # Errors
/// It contradicts itself.
pub fn new_group(
    group: GroupId,
    founders: &[NodeId],
    options: &OpenOptions,
    seed: &mut dyn FnMut() -> u64,
) -> Result<(GroupConfig, Recovered), String> {
    let state = empty_state(group, options, seed());
    let founders = Membership::new(founders.iter().copied(), []);
    let recovered = Recovery::new(group, state, Position::default(), founders, false).finish()?;
    let config = group_config(group, recovered.membership.clone(), options, seed());
    Ok((config, recovered))
}

fn group_config(group: GroupId, membership: Membership, options: &OpenOptions, seed: u64) -> GroupConfig {
    let mut config = GroupConfig::new(group, options.node, membership, seed);
    config.timing = options.timing;
    config.quiesces = options.quiesces;
    config.fence = consensus::Fence::default();
    #[cfg(any(test, feature = "planted"))]
    {
        config.planted = options.planted.consensus;
    }
    config
}

pub(crate) fn load_snapshot<D: Disk>(
    disk: &D,
    group: GroupId,
    options: &OpenOptions,
    seed: u64,
    found: &mut Found,
    progress: &mut dyn FnMut(&str),
) -> Result<Recovery, LogError> {
    let mut state = empty_state(group, options, seed);
    let picked = pick(disk, group, (0, 0))?;
    for damaged in &picked.damaged {
        found.damaged_snapshots.push(damaged.to_string());
        if let LogError::Damaged { file, .. } = damaged {
            found.damaged_files.push(file.clone());
        }
    }
    let nothing = |state| Recovery::new(group, state, Position::default(), founders(group, options), false);
    let Some(id) = picked.snapshot else {
        return Ok(nothing(state));
    };
    let (membership, keys) = match restore(disk, group, id.index, &mut state, progress) {
        Ok(read) => read,
        // The snapshot is whole and an extent file that it names is not: it is of no use without.
        Err(error @ LogError::Damaged { .. }) => {
            found.damaged_snapshots.push(error.to_string());
            if let LogError::Damaged { file, .. } = error {
                found.damaged_files.extend([file, snapshot_name(group, id.index)]);
            }
            return Ok(nothing(empty_state(group, options, seed)));
        }
        Err(error) => return Err(error),
    };
    found.snapshot_keys += keys;
    Ok(Recovery::new(group, state, Position { index: id.index, term: id.term }, membership, picked.installed))
}

/// An empty state of a group, as this node keeps it.
fn empty_state(group: GroupId, options: &OpenOptions, seed: u64) -> State {
    let mut state = State::new(group, &options.limits, Arc::new(Keyspaces::default()), seed);
    #[cfg(any(test, feature = "planted"))]
    let split = !options.planted.slots_ignored;
    #[cfg(not(any(test, feature = "planted")))]
    let split = true;
    if let Some(index) = (group.0 as usize).checked_sub(1) {
        // A shard that was made later begins with nothing.
        match index < options.data_shards {
            true if split => state.set_slots(Slots::of(SlotSet::share(index, options.data_shards))),
            true => {}
            false => state.set_slots(Slots::of(SlotSet::default())),
        }
    }
    #[cfg(any(test, feature = "planted"))]
    {
        state.planted = options.planted.state;
        state.queue_mut().planted = options.planted.queue;
    }
    state
}

/// The state that another node's snapshot holds, which has arrived ([`store::snapshot::Arrival`]), for
/// [`crate::driver::Input::SnapshotArrived`]. Long work; nothing of the running group is touched.
///
/// # Errors
/// `Damaged`, with the place; `Disk`.
pub fn arrived<D: Disk>(
    disk: &D,
    group: GroupId,
    index: u64,
    options: &OpenOptions,
    seed: u64,
) -> Result<State, LogError> {
    let mut state = empty_state(group, options, seed);
    restore(disk, group, index, &mut state, &mut |_| {})?;
    Ok(state)
}

/// Reads a snapshot into an empty state. Who belonged to the group as of then, and how many keys there are.
fn restore<D: Disk>(
    disk: &D,
    group: GroupId,
    index: u64,
    state: &mut State,
    progress: &mut dyn FnMut(&str),
) -> Result<(Membership, u64), LogError> {
    let mut reader = SnapshotReader::open(disk, group, index)?;
    let damaged =
        |offset, what: &str| LogError::Damaged { file: snapshot_name(group, index), offset, what: what.to_owned() };
    let membership =
        Membership::from_bytes(reader.meta()).ok_or_else(|| damaged(0, "the snapshot names no members"))?;
    let mut chunk = Vec::new();
    let mut first = true;
    let mut keys = 0u64;
    while reader.chunk(&mut chunk)? {
        let wrong = |corrupt: store::codec::Corrupt| damaged(0, &corrupt.to_string());
        if std::mem::take(&mut first) {
            state.restore_first(&chunk).map_err(wrong)?;
        } else {
            keys += state.restore(&chunk).map_err(wrong)? as u64;
        }
        progress(&format!("reading the snapshot of {group}: {} of {} MiB", reader.offset() >> 20, reader.len() >> 20));
    }
    if !state.is_whole() {
        return Err(damaged(reader.offset(), "the snapshot ends in the middle of a key"));
    }
    for file in state.take_files() {
        progress(&format!("reading the index of {}", store::extent::extent_name(file)));
        let stretches = store::extent::stretches(disk, file)?;
        state.queue_mut().copied(file, &stretches);
    }
    state.finish_restore();
    Ok((membership, keys))
}

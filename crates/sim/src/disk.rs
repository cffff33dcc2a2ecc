//! A disk in memory that keeps only what it must, and not even that when told to.
//!
//! Two states of everything: what the running program sees, and what would survive a power cut now. A write becomes durable
//! by a sync of its file, a name by a sync of the directory. A crash keeps, of what was not yet durable, whatever the seed
//! says: nothing, all, a prefix, any subset of 512-byte sectors, or a write torn in the middle of a byte range.
//!
//! Nothing here depends on anything but the calls made and the seed: same seed, same bytes.

use base::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use store::disk::{Disk, DiskError, DiskFile};

/// What a disk writes at once, bytes.
const SECTOR: usize = 512;

/// A directory of files; clones speak of the same one.
#[derive(Clone, Debug)]
pub struct VirtualDisk {
    world: Arc<Mutex<World>>,
    /// Life in which this handle was made; a crash ends it.
    life: u64,
}

/// An open file.
#[derive(Debug)]
pub struct VirtualFile {
    world: Arc<Mutex<World>>,
    life: u64,
    id: u64,
}

/// How much of what was not durable a crash keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Everything.
    All,
    /// All but the last write of each file, which is torn.
    Torn,
    /// A different fate for each file and for the directory, as the seed says.
    Any,
}

/// A call that changes something, for traces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A file was made.
    Create(String),
    /// Bytes were written: file, offset, length.
    Write(String, u64, usize),
    /// A file was synced.
    Sync(String),
    /// Room was reserved: file, length.
    Allocate(String, u64),
    /// A file was cut: file, length.
    Truncate(String, u64),
    /// A file was renamed: from, to.
    Rename(String, String),
    /// A file was given a second name: from, to.
    Link(String, String),
    /// A name was removed.
    Remove(String),
    /// The directory was synced.
    SyncDir,
}

#[derive(Clone, Debug)]
enum Pending {
    Write {
        offset: usize,
        bytes: Vec<u8>,
    },
    /// Allocation (longer) or truncation (shorter).
    Length(usize),
}

#[derive(Clone, Debug, Default)]
struct Inode {
    name: String,
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
}

#[derive(Clone, Debug)]
enum Naming {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Debug, Default)]
struct World {
    life: u64,
    files: BTreeMap<u64, Inode>,
    next_file: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    naming: Vec<Naming>,
    operations: u64,
    crash_at: Option<u64>,
    /// After so many more renames, so many operations later.
    crash_after_rename: Option<(u64, u64)>,
    crashed: bool,
    fail_sync_in: Option<u64>,
    fail_write_in: Option<u64>,
    /// The n-th write from now writes only part of its bytes and then finds no room.
    short_write_in: Option<u64>,
    capacity: Option<u64>,
    syncs: u64,
    trace: Option<Vec<Operation>>,
}

fn lock(world: &Mutex<World>) -> MutexGuard<'_, World> {
    // A test that panicked while it held the disk has failed already.
    world.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn crashed() -> DiskError {
    DiskError::Failed("crashed".to_string())
}

impl Default for VirtualDisk {
    fn default() -> VirtualDisk {
        VirtualDisk::new()
    }
}

impl VirtualDisk {
    /// An empty directory on a disk without limits or faults.
    pub fn new() -> VirtualDisk {
        VirtualDisk { world: Arc::new(Mutex::new(World::default())), life: 0 }
    }

    /// A disk of its own with the same state, faults, counters and unsynced writes included; to try several ends.
    pub fn fork(&self) -> VirtualDisk {
        let world = lock(&self.world);
        let copy = World {
            life: world.life,
            files: world.files.clone(),
            next_file: world.next_file,
            names: world.names.clone(),
            durable_names: world.durable_names.clone(),
            naming: world.naming.clone(),
            operations: world.operations,
            crash_at: world.crash_at,
            crash_after_rename: world.crash_after_rename,
            crashed: world.crashed,
            fail_sync_in: world.fail_sync_in,
            fail_write_in: world.fail_write_in,
            short_write_in: world.short_write_in,
            capacity: world.capacity,
            syncs: world.syncs,
            trace: world.trace.clone(),
        };
        VirtualDisk { world: Arc::new(Mutex::new(copy)), life: self.life }
    }

    /// How many calls changed something so far: every one of them is a place to crash at.
    pub fn operations(&self) -> u64 {
        lock(&self.world).operations
    }

    /// How many syncs of files succeeded so far.
    pub fn syncs(&self) -> u64 {
        lock(&self.world).syncs
    }

    /// From now on remembers every operation, for [`VirtualDisk::take_trace`].
    pub fn trace(&self) {
        lock(&self.world).trace = Some(Vec::new());
    }

    /// What was done since [`VirtualDisk::trace`] or the last call.
    pub fn take_trace(&self) -> Vec<Operation> {
        lock(&self.world).trace.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Crash during the operation with this number (as [`VirtualDisk::operations`] counts; the next one is `operations()`):
    /// it reaches the disk as much as an unsynced write does, and it and every later call fail. Then call
    /// [`VirtualDisk::crash`].
    pub fn crash_at(&self, operation: u64) {
        lock(&self.world).crash_at = Some(operation);
    }

    /// Crash `delay` operations after the `n`-th rename from now (0 = the next): where names may not be durable yet.
    pub fn crash_after_rename(&self, n: u64, delay: u64) {
        lock(&self.world).crash_after_rename = Some((n, delay));
    }

    /// Whether [`VirtualDisk::crash_at`] has struck.
    pub fn is_crashed(&self) -> bool {
        lock(&self.world).crashed
    }

    /// The `n`-th file sync from now (0 = the next) fails, and what it should have made durable is lost although reading
    /// still shows it, as on Linux.
    pub fn fail_sync(&self, n: u64) {
        lock(&self.world).fail_sync_in = Some(n);
    }

    /// The `n`-th write from now (0 = the next) fails after writing part of its bytes.
    pub fn fail_write(&self, n: u64) {
        lock(&self.world).fail_write_in = Some(n);
    }

    /// The `n`-th write from now (0 = the next) writes part of its bytes, then finds no room.
    pub fn short_write(&self, n: u64) {
        lock(&self.world).short_write_in = Some(n);
    }

    /// Room for this many bytes in all files together; `None` for no limit. What is there already stays.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        lock(&self.world).capacity = bytes;
    }

    /// Bytes of all files.
    pub fn used(&self) -> u64 {
        lock(&self.world).used()
    }

    /// The names of all files.
    pub fn names(&self) -> Vec<String> {
        lock(&self.world).names.keys().cloned().collect()
    }

    /// Spoils a byte of a file, durably.
    pub fn corrupt(&self, name: &str, offset: u64, xor: u8) {
        let mut world = lock(&self.world);
        let Some(id) = world.names.get(name).copied() else { return };
        let Some(file) = world.files.get_mut(&id) else { return };
        for bytes in [&mut file.seen, &mut file.durable] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= xor;
            }
        }
    }

    /// What the program sees in a file.
    pub fn bytes(&self, name: &str) -> Option<Vec<u8>> {
        let world = lock(&self.world);
        world.names.get(name).and_then(|id| world.files.get(id)).map(|file| file.seen.clone())
    }

    /// A checksum over all that would survive a crash now that keeps nothing else.
    pub fn digest(&self) -> u32 {
        let world = lock(&self.world);
        let mut sum = 0;
        for (name, id) in &world.durable_names {
            sum = mix(sum, name.as_bytes());
            if let Some(file) = world.files.get(id) {
                sum = mix(sum, &(file.durable.len() as u64).to_le_bytes());
                sum = mix(sum, &file.durable);
            }
        }
        sum
    }

    /// Power cut: what was not durable is lost as far as `keep` and the seed say, open handles are dead, faults that were
    /// armed are forgotten (the capacity stays). Returns the disk as the next life finds it; operations go on counting.
    pub fn crash(&self, rng: &mut Rng, keep: Keep) -> VirtualDisk {
        let mut world = lock(&self.world);
        world.life += 1;
        world.crashed = false;
        world.crash_at = None;
        world.crash_after_rename = None;
        world.fail_sync_in = None;
        world.fail_write_in = None;
        world.short_write_in = None;
        let naming = std::mem::take(&mut world.naming);
        let fate = if keep == Keep::Torn { Fate::All } else { Fate::draw(rng, keep, naming.len()) };
        for (at, change) in naming.iter().enumerate() {
            if fate.keeps(rng, at) {
                apply_naming(&mut world.durable_names, change);
            }
        }
        world.names = world.durable_names.clone();
        let named: BTreeMap<u64, String> = world.names.iter().map(|(name, id)| (*id, name.clone())).collect();
        world.files.retain(|id, _| named.contains_key(id));
        for (id, file) in &mut world.files {
            file.name = named[id].clone();
            let pending = std::mem::take(&mut file.pending);
            let fate = Fate::draw(rng, keep, pending.len());
            for (at, change) in pending.iter().enumerate() {
                fate.apply(rng, at, change, &mut file.durable);
            }
            file.seen = file.durable.clone();
        }
        VirtualDisk { world: self.world.clone(), life: world.life }
    }

    /// The process dies, the machine stays up: everything written is still seen, nothing more is durable. Handles are dead,
    /// faults that were armed are forgotten.
    pub fn kill(&self) -> VirtualDisk {
        let mut world = lock(&self.world);
        world.life += 1;
        world.crashed = false;
        world.crash_at = None;
        world.crash_after_rename = None;
        world.fail_sync_in = None;
        world.fail_write_in = None;
        world.short_write_in = None;
        VirtualDisk { world: self.world.clone(), life: world.life }
    }
}

fn mix(sum: u32, bytes: &[u8]) -> u32 {
    // FNV-1a: enough to tell two runs apart, and needs no crate.
    bytes.iter().fold(sum ^ 0x811c_9dc5, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// What a crash does to one list of changes that were not durable.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Nothing,
    All,
    /// The first so many, and part of the one after.
    Prefix(usize),
    /// Each change, and each sector of a write, on its own: reordered writes.
    Sectors,
    /// All, but one of them torn anywhere.
    TornAt(usize),
}

impl Fate {
    fn draw(rng: &mut Rng, keep: Keep, changes: usize) -> Fate {
        match keep {
            Keep::Nothing => Fate::Nothing,
            Keep::All => Fate::All,
            Keep::Any | Keep::Torn if changes == 0 => Fate::All,
            Keep::Torn => Fate::TornAt(changes - 1),
            Keep::Any => match rng.below(5) {
                0 => Fate::Nothing,
                1 => Fate::All,
                2 => Fate::Prefix(rng.index(changes + 1)),
                3 => Fate::Sectors,
                _ => Fate::TornAt(rng.index(changes)),
            },
        }
    }

    /// For changes that are there whole or not at all.
    fn keeps(self, rng: &mut Rng, at: usize) -> bool {
        match self {
            Fate::Nothing => false,
            Fate::All => true,
            Fate::Prefix(count) => at < count,
            Fate::Sectors => rng.chance(1, 2),
            Fate::TornAt(torn) => at != torn,
        }
    }

    fn apply(self, rng: &mut Rng, at: usize, change: &Pending, durable: &mut Vec<u8>) {
        let (offset, bytes) = match change {
            Pending::Write { offset, bytes } => (*offset, bytes),
            Pending::Length(length) => {
                if self.keeps(rng, at) {
                    durable.resize(*length, 0);
                }
                return;
            }
        };
        match self {
            Fate::Nothing => {}
            Fate::All => put(durable, offset, bytes),
            Fate::Prefix(count) if at < count => put(durable, offset, bytes),
            Fate::Prefix(count) if at == count => put(durable, offset, &bytes[..rng.index(bytes.len() + 1)]),
            Fate::Prefix(_) => {}
            Fate::TornAt(torn) if at == torn => {
                // A hole in the middle: what is before and behind it arrived.
                let (a, b) = (rng.index(bytes.len() + 1), rng.index(bytes.len() + 1));
                put(durable, offset, &bytes[..a.min(b)]);
                put(durable, offset + a.max(b), &bytes[a.max(b)..]);
            }
            Fate::TornAt(_) => put(durable, offset, bytes),
            Fate::Sectors => {
                let mut from = 0;
                while from < bytes.len() {
                    let to = (from + SECTOR - (offset + from) % SECTOR).min(bytes.len());
                    if rng.chance(1, 2) {
                        put(durable, offset + from, &bytes[from..to]);
                    }
                    from = to;
                }
            }
        }
    }
}

fn put(into: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if bytes.is_empty() {
        return;
    }
    let end = offset + bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[offset..end].copy_from_slice(bytes);
}

fn apply_naming(names: &mut BTreeMap<String, u64>, change: &Naming) {
    match change {
        Naming::Create(name, id) => {
            names.insert(name.clone(), *id);
        }
        Naming::Rename(from, to) => {
            if let Some(id) = names.remove(from) {
                names.insert(to.clone(), id);
            }
        }
        Naming::Remove(name) => {
            names.remove(name);
        }
    }
}

impl World {
    fn alive(&self, life: u64) -> Result<(), DiskError> {
        if self.crashed || self.life != life { Err(crashed()) } else { Ok(()) }
    }

    /// Counts a changing call. True: the crash strikes during it.
    fn operation(&mut self, life: u64, operation: Operation) -> Result<bool, DiskError> {
        self.alive(life)?;
        let strikes = self.crash_at == Some(self.operations);
        self.operations += 1;
        self.crashed |= strikes;
        if matches!(operation, Operation::Rename(..)) {
            match &mut self.crash_after_rename {
                Some((0, delay)) => {
                    self.crash_at = Some(self.operations + *delay);
                    self.crash_after_rename = None;
                }
                Some((n, _)) => *n -= 1,
                None => {}
            }
        }
        if let Some(trace) = &mut self.trace {
            trace.push(operation);
        }
        Ok(strikes)
    }

    fn used(&self) -> u64 {
        // By number: a file may have two names.
        let named: BTreeSet<&u64> = self.names.values().collect();
        named.iter().filter_map(|id| self.files.get(id)).map(|file| file.seen.len() as u64).sum()
    }

    /// How many of `more` bytes there is room for.
    fn room(&self, more: u64) -> u64 {
        self.capacity.map_or(more, |capacity| more.min(capacity.saturating_sub(self.used())))
    }

    fn file(&mut self, id: u64) -> Result<&mut Inode, DiskError> {
        // A file whose name was removed lives on while it is open.
        self.files.get_mut(&id).ok_or_else(|| DiskError::Failed("the file is gone".to_string()))
    }

    fn name_of(&self, id: u64) -> String {
        self.files.get(&id).map(|file| file.name.clone()).unwrap_or_default()
    }

    fn rename(&mut self, change: Naming) {
        if let Naming::Rename(from, to) = &change
            && let Some(file) = self.names.get(from).copied().and_then(|id| self.files.get_mut(&id))
        {
            file.name = to.clone();
        }
        apply_naming(&mut self.names, &change);
        self.naming.push(change);
    }
}

/// Counts down to a fault; true when it strikes.
fn strikes(countdown: &mut Option<u64>) -> bool {
    match countdown {
        Some(0) => {
            *countdown = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

fn ended(strikes: bool) -> Result<(), DiskError> {
    if strikes { Err(crashed()) } else { Ok(()) }
}

impl Disk for VirtualDisk {
    type File = VirtualFile;

    fn list(&self) -> Result<Vec<String>, DiskError> {
        let world = lock(&self.world);
        world.alive(self.life)?;
        Ok(world.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> Result<VirtualFile, DiskError> {
        let mut world = lock(&self.world);
        world.alive(self.life)?;
        if world.names.contains_key(name) {
            return Err(DiskError::Failed(format!("{name} exists")));
        }
        let strikes = world.operation(self.life, Operation::Create(name.to_string()))?;
        if world.capacity.is_some() && world.room(1) == 0 {
            return Err(DiskError::Full);
        }
        let id = world.next_file;
        world.next_file += 1;
        world.files.insert(id, Inode { name: name.to_string(), ..Inode::default() });
        world.rename(Naming::Create(name.to_string(), id));
        ended(strikes)?;
        Ok(VirtualFile { world: self.world.clone(), life: self.life, id })
    }

    fn open(&self, name: &str) -> Result<VirtualFile, DiskError> {
        let world = lock(&self.world);
        world.alive(self.life)?;
        let id = *world.names.get(name).ok_or(DiskError::NotFound)?;
        Ok(VirtualFile { world: self.world.clone(), life: self.life, id })
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        world.alive(self.life)?;
        if !world.names.contains_key(from) {
            return Err(DiskError::NotFound);
        }
        let strikes = world.operation(self.life, Operation::Rename(from.to_string(), to.to_string()))?;
        world.rename(Naming::Rename(from.to_string(), to.to_string()));
        ended(strikes)
    }

    fn link(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        world.alive(self.life)?;
        let id = *world.names.get(from).ok_or(DiskError::NotFound)?;
        if world.names.contains_key(to) {
            return Err(DiskError::Failed(format!("{to} exists")));
        }
        let strikes = world.operation(self.life, Operation::Link(from.to_string(), to.to_string()))?;
        world.rename(Naming::Create(to.to_string(), id));
        ended(strikes)
    }

    fn remove(&self, name: &str) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        world.alive(self.life)?;
        if !world.names.contains_key(name) {
            return Err(DiskError::NotFound);
        }
        let strikes = world.operation(self.life, Operation::Remove(name.to_string()))?;
        world.rename(Naming::Remove(name.to_string()));
        ended(strikes)
    }

    fn sync_dir(&self) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        if world.operation(self.life, Operation::SyncDir)? {
            return Err(crashed());
        }
        world.naming.clear();
        world.durable_names = world.names.clone();
        Ok(())
    }
}

impl DiskFile for VirtualFile {
    fn len(&self) -> Result<u64, DiskError> {
        let mut world = lock(&self.world);
        world.alive(self.life)?;
        Ok(world.file(self.id)?.seen.len() as u64)
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> Result<usize, DiskError> {
        let mut world = lock(&self.world);
        world.alive(self.life)?;
        let bytes = &world.file(self.id)?.seen;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let count = into.len().min(bytes.len() - from);
        into[..count].copy_from_slice(&bytes[from..from + count]);
        Ok(count)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        let name = world.name_of(self.id);
        let crash = world.operation(self.life, Operation::Write(name, offset, bytes.len()))?;
        let offset = offset as usize;
        let end = offset + bytes.len();
        let grows = end.saturating_sub(world.file(self.id)?.seen.len());
        let room = world.room(grows as u64) as usize;
        let mut error = None;
        let mut count = bytes.len();
        if room < grows {
            count -= grows - room;
            error = Some(DiskError::Full);
        } else if strikes(&mut world.short_write_in) {
            count /= 2;
            error = Some(DiskError::Full);
        } else if strikes(&mut world.fail_write_in) {
            count /= 2;
            error = Some(DiskError::Failed("input/output error".to_string()));
        }
        let file = world.file(self.id)?;
        put(&mut file.seen, offset, &bytes[..count]);
        file.pending.push(Pending::Write { offset, bytes: bytes[..count].to_vec() });
        ended(crash)?;
        error.map_or(Ok(()), Err)
    }

    fn sync(&mut self) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        let name = world.name_of(self.id);
        if world.operation(self.life, Operation::Sync(name))? {
            return Err(crashed());
        }
        let fails = strikes(&mut world.fail_sync_in);
        let file = world.file(self.id)?;
        let pending = std::mem::take(&mut file.pending);
        if fails {
            return Err(DiskError::Failed("input/output error".to_string()));
        }
        for change in pending {
            match change {
                Pending::Write { offset, bytes } => put(&mut file.durable, offset, &bytes),
                Pending::Length(length) => file.durable.resize(length, 0),
            }
        }
        world.syncs += 1;
        Ok(())
    }

    fn allocate(&mut self, len: u64) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        let name = world.name_of(self.id);
        let crash = world.operation(self.life, Operation::Allocate(name, len))?;
        let grows = len.saturating_sub(world.file(self.id)?.seen.len() as u64);
        if world.room(grows) < grows {
            return Err(DiskError::Full);
        }
        let file = world.file(self.id)?;
        if grows > 0 {
            file.seen.resize(len as usize, 0);
            file.pending.push(Pending::Length(len as usize));
        }
        ended(crash)
    }

    fn truncate(&mut self, len: u64) -> Result<(), DiskError> {
        let mut world = lock(&self.world);
        let name = world.name_of(self.id);
        let crash = world.operation(self.life, Operation::Truncate(name, len))?;
        let file = world.file(self.id)?;
        file.seen.truncate(len as usize);
        file.pending.push(Pending::Length(len as usize));
        ended(crash)
    }
}

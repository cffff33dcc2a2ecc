//! What a script may cost. One budget of instructions pays for everything: Lua's own instructions, bytes that library
//! functions look at, memory that is allocated, commands. No clock: every replica stops a script at the same place.
//!
//! What a run allocates depends on what the interpreter already holds (equal strings are one, stacks keep their size). So
//! only a cold run, in an interpreter that has run nothing, may count up to a limit; a warm one has an allowance so small
//! that a cold one would be far from every limit, and beyond it gives up: see [`Meter::start_warm`].

use std::cell::Cell;

use base::Limits;
use mlua::{Lua, VmState};

/// Instructions between two looks at the budget.
pub const TICK: u32 = 100;
/// Bytes that cost one instruction where they are scanned or allocated.
const BYTES_PER_INSTRUCTION: usize = 16;
/// A string longer than this makes every tick cost more: see [`Meter::tick`].
const LONG_STRING: usize = 32 << 10;
/// Garbage that may lie around before it is collected.
const GARBAGE_BYTES: usize = 1 << 20;

/// Instructions that a warm run may cost.
const WARM_INSTRUCTIONS: u64 = 200_000;
/// Bytes that a warm run may allocate.
const WARM_BYTES: usize = 256 << 10;
/// Bytes that an interpreter may hold when a warm run starts in it.
pub const WARM_HEAP_BYTES: usize = 512 << 10;
/// Limits below these leave no room for warm runs.
const WARM_LIMITS: (u64, usize) = (8_000_000, 1 << 20);

// A cold run allocates what the warm one did and at most what the warm one found already there. So it stays below the
// limit of memory, collects nothing (weak tables keep what they hold), and pays at most, with every string long:
const _: () = {
    let bytes = WARM_BYTES + WARM_HEAP_BYTES;
    assert!(bytes < GARBAGE_BYTES && bytes < WARM_LIMITS.1);
    let ticks = WARM_INSTRUCTIONS / TICK as u64 + 1;
    let most = WARM_INSTRUCTIONS + (bytes / BYTES_PER_INSTRUCTION) as u64 + ticks * (bytes >> 8) as u64;
    assert!(most < WARM_LIMITS.0);
};

/// The budget of the script that runs.
#[derive(Debug, Default)]
pub struct Meter {
    limit: Cell<u64>,
    left: Cell<u64>,
    exhausted: Cell<bool>,
    warm: Cell<bool>,
    memory_seen: Cell<usize>,
    collect_at: Cell<usize>,
    /// No string of the script's is longer than this.
    longest: Cell<usize>,
}

impl Meter {
    /// Fills the budget for a run in an interpreter that has run nothing yet.
    pub fn start_cold(&self, lua: &Lua, limits: &Limits) {
        self.start(lua, limits.script_instructions_max, GARBAGE_BYTES);
        self.warm.set(false);
    }

    /// Grants the allowance of a warm run: one that ends within it, and does not ask what has been used, ends as a cold
    /// one would. Where the allowance is used up, everything ends as if the budget were, and no answer has been found.
    pub fn start_warm(&self, lua: &Lua) {
        self.start(lua, WARM_INSTRUCTIONS, WARM_BYTES);
        self.warm.set(true);
    }

    fn start(&self, lua: &Lua, instructions: u64, bytes: usize) {
        let used = lua.used_memory();
        self.limit.set(instructions);
        self.left.set(instructions);
        self.exhausted.set(false);
        self.memory_seen.set(used);
        self.collect_at.set(used + bytes);
        self.longest.set(0);
    }

    /// Whether these limits leave room for the allowance of a warm run.
    pub fn allows_warm(limits: &Limits) -> bool {
        limits.script_instructions_max >= WARM_LIMITS.0 && limits.script_memory_bytes_max >= WARM_LIMITS.1
    }

    /// Whether the run is a warm one.
    pub fn is_warm(&self) -> bool {
        self.warm.get()
    }

    /// To be called before anything whose outcome depends on what the interpreter has done before: ends a warm run.
    pub fn only_cold(&self) -> mlua::Result<()> {
        if self.warm.get() { self.exhaust() } else { Ok(()) }
    }

    /// Whether a warm run has ended without an answer.
    pub fn gave_up(&self) -> bool {
        self.warm.get() && self.exhausted.get()
    }

    /// Before an effect: ends a warm run that has allocated too much.
    pub fn check(&self, lua: &Lua) -> mlua::Result<()> {
        if self.warm.get() && lua.used_memory() > self.collect_at.get() { self.exhaust() } else { Ok(()) }
    }

    fn exhaust(&self) -> mlua::Result<()> {
        self.exhausted.set(true);
        self.left.set(0);
        Err(mlua::Error::RuntimeError(self.text()))
    }

    /// A string of this length has come to be.
    pub fn note_string(&self, len: usize) {
        self.longest.set(self.longest.get().max(len));
    }

    /// Pays for what a library function has allocated, so that the next tick does not take it for one string.
    pub fn absorb(&self, lua: &Lua) -> mlua::Result<()> {
        let used = lua.used_memory();
        let allocated = used.saturating_sub(self.memory_seen.get());
        self.memory_seen.set(used);
        self.charge((allocated / BYTES_PER_INSTRUCTION) as u64)
    }

    /// Instructions used so far.
    pub fn used(&self) -> u64 {
        self.limit.get() - self.left.get()
    }

    /// Whether the script must end: from then on no `pcall` of the script's catches anything.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Pays for some instructions.
    pub fn charge(&self, instructions: u64) -> mlua::Result<()> {
        match self.left.get().checked_sub(instructions) {
            Some(left) if !self.exhausted.get() => {
                self.left.set(left);
                Ok(())
            }
            _ => self.exhaust(),
        }
    }

    /// Pays for looking at some bytes.
    pub fn charge_bytes(&self, bytes: usize) -> mlua::Result<()> {
        self.charge(1 + (bytes / BYTES_PER_INSTRUCTION) as u64)
    }

    /// What the client is told.
    pub fn text(&self) -> String {
        format!("Script exceeded the limit of {} instructions (limit script_instructions_max)", self.limit.get())
    }

    /// The count hook. The collector is stopped while scripts run, so that it never runs inside a C function, and
    /// memory in use grows by exactly what was allocated; here it is paid for, and collected where much has gathered.
    ///
    /// One instruction of Lua's can look at a whole string (`a .. b`, `a < b`) without allocating, as equal strings are
    /// one. So no string is longer than what one tick allocated, or than what a library made; long ones make ticks dear.
    pub fn tick(&self, lua: &Lua) -> mlua::Result<VmState> {
        let used = lua.used_memory();
        let allocated = used.saturating_sub(self.memory_seen.get());
        self.memory_seen.set(used);
        self.note_string(allocated);
        let long = self.longest.get();
        let dear = if long > LONG_STRING { long >> 8 } else { 0 };
        self.charge(u64::from(TICK) + (allocated / BYTES_PER_INSTRUCTION + dear) as u64)?;
        self.check(lua)?;
        if used > self.collect_at.get() {
            lua.gc_collect()?;
            lua.gc_stop();
            let live = lua.used_memory();
            self.memory_seen.set(live);
            self.collect_at.set(live + live.max(GARBAGE_BYTES));
            self.charge((live / BYTES_PER_INSTRUCTION) as u64)?;
        }
        Ok(VmState::Continue)
    }
}

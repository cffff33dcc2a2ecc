//! What a script may cost. One budget of instructions pays for everything: Lua's own instructions, bytes that library
//! functions look at, memory that is allocated, commands. No clock: every replica stops a script at the same place.

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

/// The budget of the script that runs.
#[derive(Debug, Default)]
pub struct Meter {
    limit: Cell<u64>,
    left: Cell<u64>,
    exhausted: Cell<bool>,
    memory_seen: Cell<usize>,
    collect_at: Cell<usize>,
    /// No string of the script's is longer than this.
    longest: Cell<usize>,
}

impl Meter {
    /// Fills the budget for a new script.
    pub fn start(&self, lua: &Lua, limits: &Limits) {
        let used = lua.used_memory();
        self.limit.set(limits.script_instructions_max);
        self.left.set(limits.script_instructions_max);
        self.exhausted.set(false);
        self.memory_seen.set(used);
        self.collect_at.set(used + GARBAGE_BYTES);
        self.longest.set(0);
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
            _ => {
                self.exhausted.set(true);
                self.left.set(0);
                Err(mlua::Error::RuntimeError(self.text()))
            }
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

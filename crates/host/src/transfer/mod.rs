//! Moving in and out: what a Redis server holds into a node, and what a node holds into a file that Redis loads.
//!
//! ```text
//!   import redis   source ─PSYNC─► snapshot ─► RESTORE … ┐
//!                         └──────► its commands, live ───┴─► the node's Redis door, pipelined
//!   import rdb     file ─────────► RESTORE …
//!   export         SCAN, DUMP ───► file
//! ```
//!
//! All of it is a client of the Redis door: what an import may do is what its user may do, and a value is looked at by RESTORE, whose bounds
//! hold. Blocking, one connection at each end: a person waits for it. In memory is one value, and a window of answers.

mod export;
mod file;
mod link;
mod live;
mod target;

pub use export::{Exported, export};
pub use file::import_rdb;
pub use link::Server;
pub use live::{CutOver, import_redis};
pub use target::{Existing, Imported};

/// Where a person is told how far it is.
pub type Say<'a> = &'a mut dyn FnMut(&str);

/// What an import does beside importing.
#[derive(Clone, Copy, Debug)]
pub struct Wishes {
    /// What becomes of the keys that are there.
    pub existing: Existing,
    /// Whether keys of modules are left out.
    pub skips_modules: bool,
}

/// From one line about how far it is to the next.
const SAY_EVERY: std::time::Duration = std::time::Duration::from_secs(2);

/// Bytes, for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_048_576 => format!("{} KiB", bytes.div_ceil(1024)),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests;

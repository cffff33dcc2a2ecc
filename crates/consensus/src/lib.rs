//! One replicated log per group: TiKV's `raft`, driven step by step (ARCHITECTURE.md, D1).
//!
//! ```text
//!            Input                                   Output
//! host ── Propose, Message, Persisted, … ──▶ Group ──▶ Persist, Send{after}, Commit, ReadReady, … ──▶ host
//!                                             │
//!                        guard ─▶ raft::RawNode ─▶ lease, reads
//! ```
//!
//! A lone voter's day: `Propose` → `Proposed`, `Persist{1}` … `Persisted{1}` → `Commit` … `Applied`. With more voters
//! `Send`s stand beside the `Persist` and the majority's answers come before the `Commit`.
//!
//! **Invariant:** no type of the `raft` crate crosses this room's border; another library can take its place.
//! **Absent:** clocks, threads, files, sockets, OS randomness that could be seen from outside.

mod config;
mod fence;
mod group;
mod guard;
mod io;
mod lease;
mod log;
mod reads;
mod replay;
mod types;
mod wire;

#[cfg(any(test, feature = "planted"))]
pub use config::Planted;
pub use config::{ConfigError, GroupConfig, GroupLimits, Timing};
pub use fence::{Fence, Trust};
pub use group::{Group, Status};
pub use io::{DropReason, Input, Output, Token, WriteToken};
pub use types::{Change, Entry, EntryKind, HardState, MEMBERS_MAX, Membership, Position, Role};
pub use wire::{Envelope, WireError};

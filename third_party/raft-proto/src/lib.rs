//! The messages of TiKV's `raft` 0.7.0, written by hand.
//!
//! crates.io's `raft-proto` generates these types in a build script, which wants `protoc` (and, for the bundled one, cmake)
//! on every machine that builds us. The schema is small and has not changed since 2022, so here it is as plain structs with
//! prost derives: same package, same names, same field numbers, hence the same bytes. The workspace patches it in for
//! crates.io's crate (`[patch.crates-io]`).
//!
//! Two things differ from the original's `prost-codec` form: `bytes` fields are [`bytes::Bytes`] (an entry is shared between
//! log, disk and network without copying), and methods of `protobuf::Message` that `raft` never calls return an error
//! instead of panicking.
//!
//! **Absent:** a build script, `protoc`, reflection, the rust-protobuf wire code. Nothing here knows about consensus.

mod accessors;
mod confchange;
mod confstate;
pub mod eraftpb;
mod message;

pub use crate::confchange::{ConfChangeI, new_conf_change_single, parse_conf_change, stringify_conf_change};
pub use crate::confstate::conf_state_eq;

/// What the original crate's prelude exports.
pub mod prelude {
    pub use crate::eraftpb::{
        ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry, EntryType,
        HardState, Message, MessageType, Snapshot, SnapshotMetadata,
    };
}

/// Conversions that the original crate offers.
pub mod util {
    use crate::eraftpb::ConfState;

    impl<V, L> From<(V, L)> for ConfState
    where
        V: IntoIterator<Item = u64>,
        L: IntoIterator<Item = u64>,
    {
        fn from((voters, learners): (V, L)) -> Self {
            Self { voters: voters.into_iter().collect(), learners: learners.into_iter().collect(), ..Self::default() }
        }
    }
}

#[cfg(test)]
mod tests;

//! Every data command: what it is called, where its keys stand, what it does to tables.
//!
//! A command is a plain function. A *read* gets `&Tables` and may run anywhere under a shared lock; a *write* runs only at
//! apply, in log order, on every replica, and must be deterministic: its only time is `now`, its only randomness `rng`.
//! One file per family; each brings its `SPECS`, and [`find`] is the whole registry.
//!
//! Knows nothing about connections, sockets, Raft, or whether anybody waits for the answer.

#[macro_use]
mod spec;

mod args;
mod container;
mod context;

mod bitfield;
mod bits;
mod dump;
mod elements;
mod expire;
pub(crate) mod fence;
mod function;
mod generic;
mod hash;
mod hyperloglog;
mod lcs;
mod list;
mod long_double;
pub mod named;
mod number;
pub mod rights;
pub(crate) mod scan;
mod script;
mod set;
mod sort;
mod stream;
mod string;
#[cfg(test)]
mod string_model;
#[cfg(test)]
mod testing;
mod zset;

pub use args::{float, integer, is, milliseconds, timeout, upper};
#[cfg(test)]
use container::subcommands_of;
pub use container::{check, subcommand};
pub use context::{Block, Reading, Served, Writing};
pub use spec::{Args, Flags, Keys, Outcome, Run, Spec};
pub use stream::stream_id;
pub(crate) use stream::{GroupQuery, begin_stream, group_query, no_group, reply_streams};

use std::collections::HashMap;
use std::sync::OnceLock;

/// All data commands in the order of their families.
pub fn all() -> impl Iterator<Item = &'static Spec> {
    [
        string::SPECS,
        number::SPECS,
        bits::SPECS,
        expire::SPECS,
        generic::SPECS,
        dump::SPECS,
        scan::SPECS,
        sort::SPECS,
        list::SPECS,
        hash::SPECS,
        set::SPECS,
        zset::SPECS,
        zset::GEO_SPECS,
        hyperloglog::SPECS,
        stream::SPECS,
        script::SPECS,
        function::SPECS,
        named::SPECS,
        fence::SPECS,
    ]
    .into_iter()
    .flatten()
}

/// The command of that name, in any case. Subcommands belong to their command.
#[inline]
pub fn find(name: &[u8]) -> Option<&'static Spec> {
    static REGISTRY: OnceLock<HashMap<&'static [u8], &'static Spec, store::hash::State>> = OnceLock::new();
    const LONGEST: usize = 24;
    let registry =
        REGISTRY.get_or_init(|| all().chain(rights::SPECS).map(|spec| (spec.name.as_bytes(), spec)).collect());
    let mut folded = [0; LONGEST];
    let folded = folded.get_mut(..name.len())?;
    folded.copy_from_slice(name);
    folded.make_ascii_lowercase();
    registry.get(&*folded).copied()
}

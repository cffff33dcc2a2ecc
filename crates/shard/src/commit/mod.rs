//! Commits across shards: two-phase commit on the shards' logs, whose decision is one entry of one log.
//!
//! ```text
//!   door                 participant                               home: the shard with most of the keys
//!    │ Prepare ──────────► locks keys, checks watches, answers values
//!    │ Decide  ────────────────────────────────────────────────────► runs the unit over its own keys and those values;
//!    │                                                               the foreign effects are kept: the *decision*
//!    │ Finish  ──────────► writes them, lets go of the locks
//!    │ Forget  ────────────────────────────────────────────────────► drops the decision
//! ```
//!
//! Before the decision nothing can be seen, after it the outcome is fixed. Both are replicated, so no crash of a door or a leader
//! blocks anybody for good (Gray and Lamport, "Consensus on Transaction Commit", TODS 2006): a participant's leader that has held
//! a transaction for [`RESOLVE_AFTER`] asks its home (`Resolve`), which answers with the decision, or makes sure that none can
//! come any more: a *tombstone*, kept until the transaction's deadline, behind which a decision is refused anyway.
//!
//! Locks lie on keys by name, in all databases at once. **Nothing reads or changes a locked key**: who comes for one is *parked* and
//! runs in order of arrival when it is free. A transaction waits only for younger ones (wait-die: Rosenkrantz, Stearns, Lewis,
//! "System Level Concurrency Control for Distributed Database Systems", TODS 1978), else it is told to begin again; so there
//! is no deadlock, and since it keeps its age, no starvation.
//!
//! All of this is replicated state, in snapshots too. Here: [`Step`] (the units), [`Commits`] (a shard's locks, queues and
//! decisions), [`Coordinator`] (what a door does), [`Recovery`] (what a leader does for a door that has gone). What a unit does to
//! the tables is in `state::commits`.

mod coordinator;
mod recovery;
mod table;
mod unit;

use base::{GroupId, Millis};
use store::codec::{Corrupt, Input, put_varint};

#[cfg(any(test, feature = "planted"))]
pub use coordinator::Planted;
pub use coordinator::{Act, Body, Coordinator, Heard, Plan};
pub use recovery::Recovery;
pub use table::{Commits, Due, PARKED, Parked, Verdict};
pub use unit::{Answer, Foreign, Step};

/// Bytes of the values that one transaction carries between shards, and of what it writes elsewhere.
pub const BYTES_MAX: usize = 64 << 20;
/// Units that wait for locks on one shard.
pub const PARKED_MAX: usize = 10_000;
/// Transactions that are prepared on one shard; the same again of decisions and of tombstones.
pub const PREPARED_MAX: usize = 100_000;
/// After so long a participant's leader asks what has become of a transaction, and a home's leader tells the participants.
pub const RESOLVE_AFTER: Millis = 1_000;
/// A transaction must be decided within this time, by its home's clock.
pub const DECIDE_WITHIN: Millis = 10_000;

/// A transaction's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId {
    /// The shard that decides.
    pub home: GroupId,
    /// The node whose door began it.
    pub origin: u64,
    /// Which life of that door.
    pub incarnation: u64,
    /// Counted by it.
    pub number: u64,
}

/// How old a transaction is: the smaller, the older. One that begins again keeps it. Only a priority: no clock is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Age {
    /// When it began by its door's clock, microseconds.
    pub at: u64,
    /// See [`TxId::origin`].
    pub origin: u64,
    /// The number of its first attempt.
    pub number: u64,
}

impl TxId {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, u64::from(self.home.0));
        put_varint(out, self.origin);
        put_varint(out, self.incarnation);
        put_varint(out, self.number);
    }

    pub(crate) fn read(input: &mut Input<'_>) -> Result<TxId, Corrupt> {
        let home = read_group(input)?;
        Ok(TxId { home, origin: input.varint()?, incarnation: input.varint()?, number: input.varint()? })
    }
}

impl Age {
    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.at);
        put_varint(out, self.origin);
        put_varint(out, self.number);
    }

    pub(crate) fn read(input: &mut Input<'_>) -> Result<Age, Corrupt> {
        Ok(Age { at: input.varint()?, origin: input.varint()?, number: input.varint()? })
    }
}

pub(crate) fn read_group(input: &mut Input<'_>) -> Result<GroupId, Corrupt> {
    u32::try_from(input.varint()?).map(GroupId).map_err(|_| Corrupt("no group has such a number"))
}

#[cfg(test)]
mod tests;

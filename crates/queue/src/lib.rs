//! Event streams as replicated state: topics, partitions, producers, consumer groups' offsets and transactions.
//!
//! ```text
//!   meta group:  Topics ── which topics there are, their partitions and settings      (unit "topics" of an entry)
//!   data group:  Queue  ── the partitions whose slot the shard has                    (unit "queue" of an entry)
//!                  ├ Partition   rows (where which offsets lie), epochs, producers, aborted transactions
//!                  ├ Group       offsets, the last completed generation
//!                  └ Transaction what the coordinator of a transactional id knows
//! ```
//!
//! A [`Command`] comes out of an entry and is applied by every replica alike: offsets are given out *there*, so nothing is
//! guessed while proposals are under way. The record batches in it are never opened and never copied: a partition keeps a
//! [`Row`](partition::Row) that says which entry holds them and where in it. Who reads stamps base offset and leader epoch,
//! which the checksum of a batch leaves out.
//!
//! An example: a produce of three records to partition 0 of `orders` becomes `Command::Produce`, an entry at index 17, and
//! at apply the row {base 40, count 3, index 17, at 96}; its answer is `Outcome::Produced { base: 40, .. }`. A fetch from 41
//! gets a [`Plan`](partition::Plan) of that one piece.
//!
//! **Invariant:** deterministic: time comes only from the entry's stamp, ids only from counters. Nothing here knows of
//! sockets, of the Kafka protocol's framing, or of files; of the protocol it shares the record batch and the error codes.
//! What only the leader knows (who has joined a group a moment ago) is in `coordinator`, and is no replicated state.

pub mod batch;
pub mod code;
pub mod command;
pub mod compact;
pub mod coordinator;
pub mod extents;
mod form;
pub mod group;
pub mod limits;
pub mod marks;
pub mod outcome;
pub mod partition;
#[cfg(any(test, feature = "planted"))]
pub mod planted;
pub mod producer;
pub mod records;
mod repack;
mod state;
pub mod topics;
pub mod transaction;
mod words;

pub use code::Code;
pub use command::Command;
pub use outcome::Outcome;
pub use state::{Due, Figures, PartitionId, Place, Queue};
pub use topics::{Topic, TopicId, Topics};

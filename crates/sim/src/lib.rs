//! The simulator: the product's own store, log, consensus and shards on a disk that forgets, in virtual time.
//!
//! ```text
//!   run ── world ── node (log, snapshots, driver: jobs in one thread, in an order that the seed draws) ── disk
//!             ├──── clients + model (what each believes of its keys, shares no code with the product)
//!             ├──── cache (keys in memory only: the last value, or gone)
//!             └──── oracle (every entry as written, and each shard replayed from its first)
//!
//!   cluster ── nodes as above, a network between them, faults ── history (what clients saw, and whether it can be so)
//! ```
//!
//! Same seed, same bytes: nothing depends on anything but the seed and the options.

pub mod cache;
pub mod clients;
pub mod cluster;
pub mod disk;
pub mod idle;
pub mod model;
pub mod node;
pub mod oracle;
pub mod world;

pub use history;

//! What a shard keeps: tables of values in memory, and the stored forms that bring them back.
//!
//! Knows nothing about commands, wire protocols, Raft or sockets. Everything that touches a file goes through
//! [`disk::Disk`], so the simulator runs this code on a disk that lies.

pub mod codec;
pub mod disk;
pub mod extent;
pub mod fence;
pub mod hash;
pub mod keyspace;
pub mod log;
pub mod snapshot;
pub mod table;
pub mod value;

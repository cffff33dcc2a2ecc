//! The registry: services, instances, checks and the key-value tree, as one value that the meta shard's log changes.
//!
//! Knows nothing of protocols, sockets or clocks: an entry brings the time, a change returns what it did.

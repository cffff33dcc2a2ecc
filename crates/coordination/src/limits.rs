//! Bounds. They are part of what an entry does (what is beyond one is refused on every replica alike), so they are constants and not
//! settings. `docs/limits.md` lists them.

/// Bytes of one request (etcd's `--max-request-bytes`).
pub const REQUEST_BYTES_MAX: usize = 3 << 19;
/// Compares, or operations of one branch, of a transaction; what is nested counts with what it is nested in (etcd's `--max-txn-ops`).
pub const TXN_OPS_MAX: usize = 128;
/// Compares and operations of a transaction in all, however nested.
pub const TXN_OPS_TOTAL_MAX: usize = 10_000;
/// Bytes of keys and values with all that is remembered of them; beyond it only what frees is taken (etcd's `--quota-backend-bytes`, which is 2 GiB there).
pub const STORE_BYTES_MAX: u64 = 1 << 30;
/// Bytes of former revisions; beyond it the oldest are compacted without being asked.
pub const HISTORY_BYTES_MAX: u64 = 256 << 20;
/// Changes that one entry clears away after a compaction.
pub const SWEEP_MAX: usize = 4096;
/// Leases.
pub const LEASES_MAX: usize = 100_000;
/// Seconds of a lease, at most (etcd's own bound) and at least.
pub const LEASE_SECONDS_MAX: i64 = 9_000_000_000;
/// See [`LEASE_SECONDS_MAX`].
pub const LEASE_SECONDS_MIN: i64 = 2;
/// Users, and roles.
pub const USERS_MAX: usize = 10_000;
/// Permissions of one role, roles of one user.
pub const GRANTS_MAX: usize = 1_000;
/// Bytes of a name.
pub const NAME_BYTES_MAX: usize = 255;
/// What a version counts beside its key and value.
pub const VERSION_COST: u64 = 128;

//! The hash of keys and members: foldhash with one seed for the whole process.
//!
//! The seed is the cluster's, so replicas walk their tables in the same order; it is secret, so clients cannot choose
//! colliding keys. Set it once, before the first table is made; the simulator leaves it at its default.

use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::{FixedState, FoldHasher};

static SEED: AtomicU64 = AtomicU64::new(0x51_75_6f_72_61_74_65);

/// Sets the seed. Tables made before are unusable after.
pub fn set_seed(seed: u64) {
    SEED.store(seed, Ordering::Relaxed);
}

/// The `BuildHasher` of every map in this room.
#[derive(Clone, Copy, Debug, Default)]
pub struct State;

impl BuildHasher for State {
    type Hasher = FoldHasher<'static>;
    fn build_hasher(&self) -> FoldHasher<'static> {
        FixedState::with_seed(SEED.load(Ordering::Relaxed)).build_hasher()
    }
}

/// The hash of a byte string.
pub fn of(bytes: &[u8]) -> u64 {
    let mut hasher = State.build_hasher();
    hasher.write(bytes);
    hasher.finish()
}

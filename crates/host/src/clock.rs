//! The clocks of this machine.

use std::time::{SystemTime, UNIX_EPOCH};

use base::{Instant, Millis};
use rustix::time::{ClockId, clock_gettime};

/// The monotonic clock that also runs while the machine sleeps: a lease must not outlive a suspended laptop.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Boottime);
    Instant(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The wall clock, milliseconds since the Unix epoch.
pub fn wall() -> Millis {
    wall_micros() / 1000
}

/// The wall clock, microseconds since the Unix epoch.
pub fn wall_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// A seed that nobody can guess, from the operating system.
pub fn seed() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    // The standard library's keys come from the operating system's generator.
    let mut hasher = std::collections::hash_map::RandomState::new().build_hasher();
    hasher.write_u64(wall_micros());
    hasher.finish()
}

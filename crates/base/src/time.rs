//! Time as a value. Pure rooms are told what time it is.

use std::ops::{Add, Sub};

/// A span of time in nanoseconds.
pub use std::time::Duration;

/// Milliseconds since the Unix epoch in *shard time*: what expiries and entry stamps are counted in.
pub type Millis = u64;

/// A moment on one node's monotonic clock, in nanoseconds since an arbitrary start. Never sent to another node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// The time passed since `earlier`, zero where `earlier` lies ahead.
    pub fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;
    fn add(self, span: Duration) -> Instant {
        Instant(self.0.saturating_add(span.as_nanos() as u64))
    }
}

impl Sub<Duration> for Instant {
    type Output = Instant;
    fn sub(self, span: Duration) -> Instant {
        Instant(self.0.saturating_sub(span.as_nanos() as u64))
    }
}

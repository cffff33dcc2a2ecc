//! Shard time: what expiries, stream ids and entry stamps are counted in.
//!
//! The last entry's stamp plus the leader's monotonic elapsed time, slewed towards its wall clock by at most one part in
//! twenty: it never goes back, and a wrong wall clock cannot drag it far. A leader that starts where nobody else could have
//! led (a lone voter) may jump forward to its wall clock once: the time that the node was down did pass.

use std::sync::atomic::{AtomicU64, Ordering};

use base::{Instant, Millis};

/// Shard time may gain or lose one part in this many against the monotonic clock.
const SLEW: u64 = 20;

/// One shard's clock. Readers need no lock.
#[derive(Debug, Default)]
pub struct Clock {
    /// Shard time at the monotonic clock's zero, milliseconds.
    base: AtomicU64,
    /// Monotonic milliseconds of the last slew.
    slewed: AtomicU64,
}

fn milliseconds(mono: Instant) -> u64 {
    mono.0 / 1_000_000
}

impl Clock {
    /// Shard time now.
    #[inline]
    pub fn now(&self, mono: Instant) -> Millis {
        self.base.load(Ordering::Relaxed) + milliseconds(mono)
    }

    /// Takes up leadership: shard time goes on from `stamp`, or from the wall clock where that is ahead and may be believed.
    pub fn begin(&self, mono: Instant, stamp: Millis, wall: Option<Millis>) {
        let start = stamp.max(wall.unwrap_or(0)).max(self.now(mono));
        self.base.store(start - milliseconds(mono), Ordering::Relaxed);
        self.slewed.store(milliseconds(mono), Ordering::Relaxed);
    }

    /// Moves towards the wall clock by what has been earned since the last call.
    pub fn slew(&self, mono: Instant, wall: Millis) {
        let elapsed = milliseconds(mono).saturating_sub(self.slewed.load(Ordering::Relaxed));
        let allowed = elapsed / SLEW;
        if allowed == 0 {
            return;
        }
        let now = self.now(mono);
        let base = self.base.load(Ordering::Relaxed);
        let base =
            if wall >= now { base + (wall - now).min(allowed) } else { base.saturating_sub((now - wall).min(allowed)) };
        self.base.store(base, Ordering::Relaxed);
        self.slewed.store(milliseconds(mono), Ordering::Relaxed);
    }

    /// Follows a leader: shard time is at least this entry's stamp.
    pub fn follow(&self, mono: Instant, stamp: Millis) {
        let base = stamp.saturating_sub(milliseconds(mono));
        if base > self.base.load(Ordering::Relaxed) {
            self.base.store(base, Ordering::Relaxed);
        }
    }

    /// When shard time will be `at`, on the monotonic clock, as far as known now.
    pub fn when(&self, at: Millis) -> Instant {
        Instant(at.saturating_sub(self.base.load(Ordering::Relaxed)).saturating_mul(1_000_000))
    }
}

#[cfg(test)]
mod tests {
    use super::Clock;
    use base::Instant;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn time_never_goes_back_and_a_wrong_wall_clock_drags_it_slowly() {
        let clock = Clock::default();
        clock.begin(Instant(SECOND), 5_000, None);
        assert_eq!(clock.now(Instant(SECOND)), 5_000);
        let mut last = 0;
        for second in 1..100u64 {
            // The wall clock jumps back by an hour half way, and ahead by a year at the end.
            let wall = if second < 50 { 4_000 + second * 1000 } else { 31_536_000_000 };
            clock.slew(Instant(second * SECOND), if second > 30 && second < 50 { 0 } else { wall });
            let now = clock.now(Instant(second * SECOND));
            assert!(now >= last, "shard time went back");
            let plain = 4_000 + second * 1000;
            assert!(now.abs_diff(plain) <= second * 50, "shard time was dragged to {now} at {second} s");
            last = now;
        }
    }

    #[test]
    fn a_lone_voter_believes_that_time_passed_while_it_was_down() {
        let clock = Clock::default();
        clock.begin(Instant(0), 1_000, Some(90_000));
        assert_eq!(clock.now(Instant(SECOND)), 91_000);
        clock.begin(Instant(SECOND), 1_000, Some(50_000));
        assert_eq!(clock.now(Instant(SECOND)), 91_000, "a wall clock behind changes nothing");
    }
}

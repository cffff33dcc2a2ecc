//! Counting over the last while without a lock: ten slots, each a word of which half says which stretch of time it counts.

use base::{Duration, Instant};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How many slots a window has: what is counted is forgotten in tenths.
pub(super) const SLOTS: u32 = 10;

/// A count over a window that slides by a tenth of itself.
#[derive(Debug)]
pub(super) struct Rolling {
    /// Nanoseconds of a slot.
    slot: u64,
    /// High half: the number of the stretch (as u32); low half: the count.
    slots: [AtomicU64; SLOTS as usize],
}

impl Rolling {
    pub(super) fn new(window: Duration) -> Rolling {
        // A slot that was never used must not look like the first stretch of time: count from stretch 1 (see `stretch`).
        Rolling { slot: (window.as_nanos() as u64 / u64::from(SLOTS)).max(1), slots: Default::default() }
    }

    fn stretch(&self, now: Instant) -> u32 {
        (now.0 / self.slot) as u32
    }

    fn change(&self, now: Instant, step: impl Fn(u32) -> u32) {
        let stretch = self.stretch(now);
        let slot = &self.slots[(stretch % SLOTS) as usize];
        let mut word = slot.load(Relaxed);
        loop {
            let (of, count) = ((word >> 32) as u32, word as u32);
            // A thread that was late adds to what the slot counts by now: it forgets nothing.
            let (of, count) = if stretch.wrapping_sub(of).cast_signed() > 0 { (stretch, 0) } else { (of, count) };
            let next = u64::from(of) << 32 | u64::from(step(count));
            match slot.compare_exchange_weak(word, next, Relaxed, Relaxed) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// Counts one.
    pub(super) fn add(&self, now: Instant) {
        self.change(now, |count| count.saturating_add(1));
    }

    /// Takes back one that was counted at the same moment.
    pub(super) fn undo(&self, now: Instant) {
        self.change(now, |count| count.saturating_sub(1));
    }

    /// What was counted within the window that ends now.
    pub(super) fn sum(&self, now: Instant) -> u64 {
        let stretch = self.stretch(now);
        let words = self.slots.iter().map(|slot| slot.load(Relaxed));
        let within = words.filter(|word| stretch.wrapping_sub((word >> 32) as u32).cast_signed() < SLOTS.cast_signed());
        within.map(|word| u64::from(word as u32)).sum()
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.slots.iter().for_each(|slot| slot.store(0, Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_older_than_the_window_is_forgotten_by_tenths() {
        let rolling = Rolling::new(Duration::from_secs(10));
        let at = |ms: u64| Instant(ms * 1_000_000);
        (0..20).for_each(|tenth| rolling.add(at(tenth * 500)));
        assert_eq!(rolling.sum(at(9_999)), 20);
        assert_eq!(rolling.sum(at(10_000)), 18);
        assert_eq!(rolling.sum(at(15_500)), 8);
        assert_eq!(rolling.sum(at(60_000)), 0);
        rolling.add(at(60_000));
        rolling.undo(at(60_000));
        assert_eq!(rolling.sum(at(60_000)), 0);
    }

    proptest! {
        #[test]
        fn it_counts_what_a_list_of_moments_counts(gaps in proptest::collection::vec(0u64..3_000, 1..200)) {
            let rolling = Rolling::new(Duration::from_millis(1_000));
            let (mut now, mut all) = (0u64, Vec::new());
            for gap in gaps {
                now += gap;
                rolling.add(Instant(now * 1_000_000));
                all.push(now / 100);
                let expected = all.iter().filter(|stretch| now / 100 - **stretch < 10).count() as u64;
                prop_assert_eq!(rolling.sum(Instant(now * 1_000_000)), expected);
            }
        }
    }
}

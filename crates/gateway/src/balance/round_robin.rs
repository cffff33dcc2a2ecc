//! Round robin: each in its turn. One atomic step; the cursor outlives rebuilds, so that a change of the set does not send everybody to the
//! first member again.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Whose turn it is among `len`, and the next one's after it. `len` must not be zero.
pub(super) fn turn(cursor: &AtomicU64, len: usize) -> usize {
    (cursor.fetch_add(1, Relaxed) % len as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_in_its_turn() {
        let cursor = AtomicU64::new(u64::MAX - 1);
        let turns: Vec<usize> = (0..8).map(|_| turn(&cursor, 4)).collect();
        assert_eq!(turns, [2, 3, 0, 1, 2, 3, 0, 1], "also where the cursor goes round");
    }
}

//! Which of a node's data shards a key belongs to. The number of shards is part of the data, so this is the same at every
//! start and on every replica.

use base::{SLOT_COUNT, key_slot};

/// The shard of a key where there are so many.
#[inline]
pub fn shard_of(key: &[u8], count: usize) -> usize {
    match count {
        0 | 1 => 0,
        count => usize::from(key_slot(key)) * count / usize::from(SLOT_COUNT),
    }
}

/// One shard's place among its siblings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots {
    /// Counted from 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Slots {
    /// The only one: it owns every key.
    pub const ALL: Slots = Slots { index: 0, count: 1 };

    /// Whether there are others.
    #[inline]
    pub fn is_split(self) -> bool {
        self.count > 1
    }

    /// Whether a key belongs here.
    #[inline]
    pub fn owns(self, key: &[u8]) -> bool {
        !self.is_split() || shard_of(key, self.count) == self.index
    }

    /// Whether whatever a pattern's `*` stands for belongs here: its `{tag}` stands before the star.
    pub fn owns_all(self, pattern: &[u8]) -> bool {
        let fixed = pattern.split(|byte| *byte == b'*').next().unwrap_or_default();
        let tag = fixed.iter().position(|byte| *byte == b'{').is_some_and(|open| {
            let close = fixed[open + 1..].iter().position(|byte| *byte == b'}');
            close.is_some_and(|length| length > 0)
        });
        !self.is_split() || tag && self.owns(fixed)
    }
}

#[cfg(test)]
mod tests {
    use super::{Slots, shard_of};

    #[test]
    fn every_key_has_one_shard_and_a_tagged_pattern_too() {
        let mut seen = [0; 4];
        for n in 0..1000 {
            let key = format!("k{n}");
            let owner = shard_of(key.as_bytes(), 4);
            seen[owner] += 1;
            let owners = (0..4).filter(|index| Slots { index: *index, count: 4 }.owns(key.as_bytes()));
            assert_eq!(owners.collect::<Vec<_>>(), [owner]);
        }
        assert!(seen.iter().all(|count| *count > 150), "{seen:?}");
        let slots = Slots { index: shard_of(b"tag", 4), count: 4 };
        assert!(slots.owns_all(b"{tag}w_*") && slots.owns_all(b"{tag}w_*->{x}"));
        assert!(
            !slots.owns_all(b"w_*") && !slots.owns_all(b"*{tag}") && !slots.owns_all(b"{*}") && !slots.owns_all(b"{}*")
        );
        assert!(Slots::ALL.owns_all(b"w_*"));
    }
}

//! Sets of slots.

use std::fmt;

use crate::SLOT_COUNT;

const WORDS: usize = SLOT_COUNT as usize / 64;

/// A set of slots: two kilobytes, whatever it holds.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; WORDS]>);

impl Default for SlotSet {
    fn default() -> SlotSet {
        SlotSet::EMPTY_WORDS.into()
    }
}

impl From<[u64; WORDS]> for SlotSet {
    fn from(words: [u64; WORDS]) -> SlotSet {
        SlotSet(Box::new(words))
    }
}

impl fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

/// As people write it: `0-8191,9000`.
impl fmt::Display for SlotSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (first, last)) in self.ranges().into_iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl SlotSet {
    const EMPTY_WORDS: [u64; WORDS] = [0; WORDS];

    /// Every slot.
    pub fn all() -> SlotSet {
        [u64::MAX; WORDS].into()
    }

    /// These slots, both ends included. Slots beyond the last there is do not count.
    pub fn of(ranges: impl IntoIterator<Item = (u16, u16)>) -> SlotSet {
        let mut set = SlotSet::default();
        for (first, last) in ranges {
            (first..=last.min(SLOT_COUNT - 1)).for_each(|slot| set.0[usize::from(slot / 64)] |= 1 << (slot % 64));
        }
        set
    }

    /// The slots that the shard at this place has where there are so many from the beginning.
    pub fn share(index: usize, count: usize) -> SlotSet {
        let first = |at: usize| (at * usize::from(SLOT_COUNT)).div_ceil(count.max(1));
        match first(index + 1) {
            end if index < count && end > first(index) => SlotSet::of([(first(index) as u16, (end - 1) as u16)]),
            _ => SlotSet::default(),
        }
    }

    /// What people wrote: slots and ranges of slots with commas between them.
    ///
    /// # Errors
    /// A sentence.
    pub fn parse(text: &str) -> Result<SlotSet, String> {
        let number = |word: &str| word.trim().parse::<u16>().ok().filter(|slot| *slot < SLOT_COUNT);
        let mut ranges = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            match (number(first), number(last)) {
                (Some(first), Some(last)) if first <= last => ranges.push((first, last)),
                _ => return Err(format!("{part:?} are no slots; slots are 0 to 16383, as in 0-8191,9000")),
            }
        }
        Ok(SlotSet::of(ranges))
    }

    /// Whether it has this one.
    #[inline]
    pub fn has(&self, slot: u16) -> bool {
        self.0[usize::from(slot / 64) % WORDS] & 1 << (slot % 64) != 0
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// Whether it has all that another has.
    pub fn holds(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(own, other)| other & !own == 0)
    }

    /// Whether it has any that another has.
    pub fn meets(&self, other: &SlotSet) -> bool {
        self.0.iter().zip(other.0.iter()).any(|(own, other)| other & own != 0)
    }

    /// Adds another's.
    pub fn add(&mut self, other: &SlotSet) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(own, other)| *own |= other);
    }

    /// Takes another's away.
    pub fn take_away(&mut self, other: &SlotSet) {
        self.0.iter_mut().zip(other.0.iter()).for_each(|(own, other)| *own &= !other);
    }

    /// The slots in order.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..SLOT_COUNT).filter(|slot| self.has(*slot))
    }

    /// As few ranges as there are, in order, both ends included.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for slot in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => ranges.push((slot, slot)),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_add_up_and_are_written_as_people_write_them() {
        let shares: Vec<SlotSet> = (0..3).map(|index| SlotSet::share(index, 3)).collect();
        let mut all = SlotSet::default();
        for share in &shares {
            assert!(!all.meets(share) && !share.is_empty());
            all.add(share);
        }
        assert_eq!(all, SlotSet::all());
        assert_eq!((all.len(), all.to_string()), (16384, "0-16383".to_owned()));
        all.take_away(&shares[1]);
        assert!(all.holds(&shares[0]) && all.holds(&shares[2]) && !all.meets(&shares[1]));
        assert_eq!(SlotSet::parse(&all.to_string()), Ok(all));
        assert_eq!(SlotSet::parse("7,1-3").map(|set| set.ranges()), Ok(vec![(1, 3), (7, 7)]));
        for wrong in ["", "3-1", "16384", "x", "1-", "-1"] {
            assert!(SlotSet::parse(wrong).is_err(), "{wrong}");
        }
    }
}

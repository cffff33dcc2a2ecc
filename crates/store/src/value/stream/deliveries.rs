//! What was delivered in a group and not yet acknowledged, in the order of the ids.
//!
//! Kept in parts that a snapshot may hold on to while they change (see [`Shared`]): a group may have millions.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Pending, StreamId};
use crate::value::shared::Shared;

/// Deliveries in one part at most. A change that meets a part that a snapshot holds copies so many.
const PART_MAX: usize = 256;

/// One part.
pub(in crate::value) type Part = Vec<(StreamId, Pending)>;

/// Deliveries by id.
#[derive(Clone, Debug, Default)]
pub(super) struct Deliveries {
    /// By a bound: what a part holds is not below its own, and below the next one's. The first part's is [`StreamId::MIN`]; no
    /// other part is empty.
    parts: BTreeMap<StreamId, Shared<Part>>,
    len: usize,
}

fn place(part: &Part, id: StreamId) -> Result<usize, usize> {
    part.binary_search_by_key(&id, |(id, _)| *id)
}

impl Deliveries {
    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The delivery of that entry.
    pub(super) fn get(&self, id: StreamId) -> Option<&Pending> {
        let (_, part) = self.parts.range(..=id).next_back()?;
        place(part, id).ok().map(|at| &part[at].1)
    }

    /// All from `start` on.
    pub(super) fn from(&self, start: StreamId) -> impl DoubleEndedIterator<Item = (StreamId, &Pending)> {
        let first = self.parts.range(..=start).next_back().map_or(StreamId::MIN, |(bound, _)| *bound);
        self.parts.range(first..).flat_map(move |(_, part)| {
            let skipped = part.partition_point(|(id, _)| *id < start);
            part[skipped..].iter().map(|(id, pending)| (*id, pending))
        })
    }

    /// Puts one in, and gives back the one of that id that was there.
    pub(super) fn insert(&mut self, id: StreamId, pending: Pending) -> Option<Pending> {
        if self.parts.is_empty() {
            self.parts.insert(StreamId::MIN, Shared::default());
        }
        let (_, shared) = self.parts.range_mut(..=id).next_back().expect("the first part is for all ids");
        let at = match place(shared, id) {
            Ok(at) => return Some(std::mem::replace(&mut shared.own()[at].1, pending)),
            Err(at) => at,
        };
        self.len += 1;
        if shared.len() < PART_MAX {
            shared.own().insert(at, (id, pending));
            return None;
        }
        // Deliveries mostly come in the order of their ids: a part is left full then, and else divided.
        if at == PART_MAX {
            self.parts.insert(id, Shared::Own(vec![(id, pending)]));
            return None;
        }
        let part = shared.own();
        let mut upper = part.split_off(PART_MAX / 2);
        part.shrink_to_fit();
        match at.checked_sub(part.len()) {
            Some(at) if at > 0 => upper.insert(at, (id, pending)),
            _ => part.insert(at, (id, pending)),
        }
        self.parts.insert(upper[0].0, Shared::Own(upper));
        None
    }

    /// Takes one out.
    pub(super) fn remove(&mut self, id: StreamId) -> Option<Pending> {
        let (bound, shared) = self.parts.range_mut(..=id).next_back()?;
        let at = place(shared, id).ok()?;
        self.len -= 1;
        let part = shared.own();
        let (_, pending) = part.remove(at);
        if part.len() * 4 <= part.capacity() {
            part.shrink_to(part.len() * 2);
        }
        let bound = *bound;
        if part.is_empty() && bound != StreamId::MIN {
            self.parts.remove(&bound);
        }
        Some(pending)
    }

    /// The parts as they are now, for a snapshot.
    pub(super) fn hold(&mut self) -> impl Iterator<Item = Arc<Part>> {
        self.parts.values_mut().filter(|part| !part.is_empty()).map(Shared::hold)
    }

    /// Frees up to `parts` parts of what nobody uses any more. Returns whether all are freed.
    pub(super) fn crumble(&mut self, parts: usize) -> bool {
        for _ in 0..parts {
            self.parts.pop_last();
        }
        self.parts.is_empty()
    }
}

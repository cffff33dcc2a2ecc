//! Keys of slots that a shard has given away, or has taken in only in part: the leader looks for them and they go by entries.

use std::sync::atomic::Ordering;

use base::{Instant, key_slot};
use store::keyspace::Durability;
use store::table::Place;

use super::Lane;
use crate::slots::SlotChange;
use crate::state::State;

/// Keys that are looked at in one step, while the state can be read by others.
const STEP_KEYS: usize = 512;
/// Keys that one look may look at, and remove.
const LOOK_KEYS: usize = 64 << 10;
const PURGED_MAX: usize = 4096;
/// Keys that one entry removes.
const ENTRY_KEYS: usize = 256;

/// How far the leader has looked.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// Which litter it looks for; something else begins anew.
    number: u64,
    /// `None` at the end.
    place: Option<Place>,
    /// Whether this pass has found any: then another one follows, for an entry that removes may not have been taken.
    found: bool,
}

impl<C> Lane<C> {
    /// After an entry: whether there is anything to look for.
    pub(super) fn note_litter(&self, state: &State) {
        self.shard.littered.store(state.slots().litter().is_some(), Ordering::Relaxed);
    }

    pub(super) fn has_litter(&self) -> bool {
        self.shard.littered.load(Ordering::Relaxed)
    }

    /// Looks for some more of it.
    pub(super) fn sweep(&mut self, now: Instant) {
        let Some(number) = self.shard.state().slots().litter().map(|(_, number)| number) else {
            return;
        };
        let sweep = self.sweep.get_or_insert_default();
        if sweep.number != number {
            *sweep = Sweep { number, place: Some(Place::default()), found: false };
            self.drop_from_memory(now);
        }
        let sweep = self.sweep.get_or_insert_default();
        let (mut looked, mut purged) = (0, 0);
        while let Some(place) = sweep.place
            && looked < LOOK_KEYS
            && purged < PURGED_MAX
        {
            let state = self.shard.state();
            let mut keys = Vec::new();
            let next = state.tables(Durability::Fsync).sift(place, STEP_KEYS, |db, entry| {
                if state.slots().is_litter(entry.key()) {
                    keys.push((db, entry.key().to_vec()));
                }
            });
            drop(state);
            sweep.found |= !keys.is_empty();
            (looked, purged) = (looked + STEP_KEYS, purged + keys.len());
            while !keys.is_empty() {
                let rest = keys.split_off(keys.len().min(ENTRY_KEYS));
                let change = SlotChange::Purge { keys: std::mem::replace(&mut keys, rest) };
                if self.shard.submit(|batch| batch.slots(None, &change)).is_err() {
                    // Too much waits: from here again, later.
                    return;
                }
            }
            sweep.place = next;
        }
        if sweep.place.is_none() && sweep.found {
            (sweep.place, sweep.found) = (Some(Place::default()), false);
        } else if sweep.place.is_none()
            && self.shard.submit(|batch| batch.slots(None, &SlotChange::Swept { number })).is_ok()
        {
            // Should the word be lost, it is looked for again.
            self.sweep = None;
        }
    }

    /// Memory keyspaces are nobody's but this node's: what they hold of the slots goes at once.
    fn drop_from_memory(&self, now: Instant) {
        let mut state = self.shard.state_mut();
        let stamp = self.shard.now(now).max(state.stamp());
        let mut keys = Vec::new();
        let mut place = Some(Place::default());
        while let Some(at) = place {
            place = state.tables(Durability::Memory).sift(at, STEP_KEYS, |db, entry| {
                if !state.slots().own().has(key_slot(entry.key())) {
                    keys.push((db, entry.key().to_vec()));
                }
            });
        }
        for (db, key) in keys {
            state.tables_mut(Durability::Memory).remove(db, &key, stamp);
        }
    }
}

//! What a copy of some slots needs of the tables it copies: which of their keys change meanwhile, the keys in an order that
//! goes on while they change, and large values piece by piece.
//!
//! Nothing here is replicated state.

use std::collections::BTreeSet;

use base::{Millis, SlotSet, key_slot};

use super::noted::{Noted, What};
use super::{Books, DATABASES, Entry, Expiry, Tables};
use crate::value::{Frozen, Value};

#[derive(Debug)]
pub(super) struct Tracking {
    slots: SlotSet,
    changed: BTreeSet<(u8, Vec<u8>)>,
    /// Whole databases went or changed places.
    lost: bool,
}

impl Books {
    /// Called whenever a key changes, comes or goes.
    #[inline]
    pub(super) fn note_change(&mut self, db: u8, key: &[u8], what: What) {
        if let Some(tracking) = &mut self.tracking {
            tracking.note(db, key);
        }
        if self.noted.is_some() {
            self.note(db, key, what);
        }
    }

    #[cold]
    pub(super) fn note(&mut self, db: u8, key: &[u8], what: What) {
        if let Some(noted) = &mut self.noted {
            noted.push(Noted { db, key: key.to_vec(), what });
        }
    }

    pub(super) fn lose_track(&mut self) {
        if let Some(tracking) = &mut self.tracking {
            tracking.lost = true;
        }
    }
}

impl Tracking {
    #[cold]
    fn note(&mut self, db: u8, key: &[u8]) {
        if self.slots.has(key_slot(key)) {
            self.changed.insert((db, key.to_vec()));
        }
    }
}

/// Where an iteration over all databases is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    db: u8,
    cursor: u64,
}

impl Tables {
    /// From now on remembers which keys of these slots change. One set at a time; `None` ends it.
    pub fn track(&mut self, slots: Option<SlotSet>) {
        self.books.tracking = slots.map(|slots| Box::new(Tracking { slots, changed: BTreeSet::new(), lost: false }));
    }

    /// How many changed keys have been remembered; `None` where nothing is, or something got lost: whole databases were cleared
    /// or swapped.
    pub fn tracked(&self) -> Option<usize> {
        self.books.tracking.as_ref().filter(|tracking| !tracking.lost).map(|tracking| tracking.changed.len())
    }

    /// Takes up to `count` of them.
    pub fn take_tracked(&mut self, count: usize) -> Vec<(u8, Vec<u8>)> {
        let Some(tracking) = &mut self.books.tracking else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(key) = tracking.changed.pop_first()
        {
            taken.push(key);
        }
        taken
    }

    /// Visits about `count` keys of all databases from `place`, the expired ones too. Where to go on; `None` at the end. What is
    /// there during the whole iteration is visited.
    pub fn sift(&self, place: Place, count: usize, mut visit: impl FnMut(u8, &Entry)) -> Option<Place> {
        let Place { db, cursor } = place;
        let next = self.dbs[usize::from(db)].keys.scan(cursor, count, |entry| visit(db, entry));
        match next {
            0 if usize::from(db) + 1 == DATABASES => None,
            0 => Some(Place { db: db + 1, cursor: 0 }),
            cursor => Some(Place { db, cursor }),
        }
    }

    /// The entry of a key, expired or not.
    pub fn entry_of(&self, db: u8, key: &[u8]) -> Option<&Entry> {
        self.dbs[usize::from(db)].keys.find(key)
    }

    /// A value as it is now, its stored form to be written in pieces, and its expiry; `None` where there is no such key or its value
    /// is held in one piece.
    pub fn freeze(&mut self, db: u8, key: &[u8]) -> Option<(Frozen, Millis)> {
        let hash = crate::hash::of(key);
        let entry = self.dbs[usize::from(db)].keys.find_mut(hash, key)?;
        let expire = entry.expire();
        Some((entry.body_mut()?.freeze(Vec::new())?, expire))
    }

    /// Gives a key this value and this expiry (0 for none), as another shard had them.
    pub fn import(&mut self, db: u8, key: &[u8], value: Value, expire: Millis, now: Millis) {
        let expiry = if expire == 0 { Expiry::Clear } else { Expiry::At(expire) };
        self.set(db, key, value, expiry, now);
        if expire == 0 {
            self.set_expire(db, key, 0, now);
        }
    }

    /// Whatever was watched has changed, as far as it is absent: keys have come from elsewhere.
    pub fn touch_absent(&mut self) {
        let version = self.books.next_version();
        self.books.gone.fill(version);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Stored;
    use crate::value::List;

    fn tables() -> Tables {
        Tables::new(Default::default())
    }

    #[test]
    fn every_way_to_change_a_key_is_noticed() {
        let mut tables = tables();
        let key = b"k".as_slice();
        let slots = SlotSet::of([(key_slot(key), key_slot(key))]);
        type Change = fn(&mut Tables, &[u8]);
        let changes: [Change; 9] = [
            |tables, key| tables.set_string(0, key, b"one", Expiry::Clear, 1),
            |tables, key| tables.set_string(0, key, b"two", Expiry::Clear, 1),
            |tables, key| tables.set(0, key, Value::from(b"x".to_vec()), Expiry::At(50), 1),
            |tables, key| {
                tables.edit_text(0, key, 1, |text| (true, text.push(1))).expect("a string");
            },
            |tables, key| {
                tables.set_expire(0, key, 70, 1);
            },
            |tables, key| {
                tables.remove(0, key, 1);
            },
            |tables, key| {
                tables
                    .upsert::<List, ()>(0, key, 1, |list| (true, list.push(crate::value::End::Tail, b"v")))
                    .expect("a list");
            },
            |tables, key| {
                tables
                    .edit::<List, ()>(0, key, 1, |list| (true, list.push(crate::value::End::Tail, b"w")))
                    .expect("a list");
            },
            |tables, key| {
                tables.take(0, key, 1);
            },
        ];
        for (at, change) in changes.iter().enumerate() {
            tables.track(None);
            tables.track(Some(slots.clone()));
            change(&mut tables, key);
            tables.set_string(0, b"another", b"x", Expiry::Clear, 1);
            assert_eq!(tables.tracked(), Some(1), "change {at}");
            assert_eq!(tables.take_tracked(10), [(0, key.to_vec())]);
        }
        tables.clear(Some(3));
        assert_eq!(tables.tracked(), None);
    }

    #[test]
    fn a_sift_meets_every_key_and_a_frozen_value_reads_back() {
        let mut tables = tables();
        for n in 0..3000u32 {
            tables.set_string((n % 3) as u8, &n.to_le_bytes(), b"x", Expiry::At(1), 0);
        }
        let (mut place, mut seen) = (Some(Place::default()), BTreeSet::new());
        while let Some(at) = place {
            place = tables.sift(at, 100, |db, entry| {
                seen.insert((db, entry.key().to_vec()));
            });
        }
        assert_eq!(seen.len(), 3000);
        let long = vec![7u8; 100_000];
        tables.import(1, b"long", Value::from(long.clone()), 0, 5);
        let (mut frozen, expire) = tables.freeze(1, b"long").expect("it is long");
        let mut bytes = Vec::new();
        while !frozen.write(bytes.len() + 999, &mut bytes) {}
        let value = Value::decode(&mut crate::codec::Input::new(&bytes)).expect("it was written whole");
        assert!(matches!(value, Value::Str(text) if *text == long) && expire == 0);
    }
}

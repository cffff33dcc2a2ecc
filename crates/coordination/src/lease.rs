//! Leases: a time that whoever holds one must prolong, and the keys that vanish with it. Time is that of the entries.

use std::collections::{BTreeMap, BTreeSet};

use base::Millis;
use bytes::Bytes;

use crate::error::{self, Error};
use crate::limits::{LEASE_SECONDS_MAX, LEASE_SECONDS_MIN, LEASES_MAX};

/// One lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Seconds that were granted.
    pub seconds: i64,
    /// When it ends unless it is prolonged, shard time.
    pub until: Millis,
    /// Keys that go with it.
    pub keys: BTreeSet<Bytes>,
}

impl Lease {
    /// Whole seconds that are left.
    pub fn left(&self, now: Millis) -> i64 {
        (self.until.saturating_sub(now) / 1000) as i64
    }
}

/// All leases.
#[derive(Clone, Debug, Default)]
pub struct Leases {
    all: BTreeMap<i64, Lease>,
    due: BTreeSet<(Millis, i64)>,
}

impl Leases {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// One of them.
    pub fn get(&self, id: i64) -> Option<&Lease> {
        self.all.get(&id)
    }

    /// All, by their ids.
    pub fn all(&self) -> impl Iterator<Item = (i64, &Lease)> {
        self.all.iter().map(|(id, lease)| (*id, lease))
    }

    /// Their ids, the one that ends first in front.
    pub fn by_end(&self) -> impl Iterator<Item = i64> {
        self.due.iter().map(|(_, id)| *id)
    }

    /// When the next one ends.
    pub fn next_due(&self) -> Option<Millis> {
        self.due.first().map(|(until, _)| *until)
    }

    /// One that is over.
    pub fn overdue(&self, now: Millis) -> Option<i64> {
        self.due.first().filter(|(until, _)| *until <= now).map(|(_, id)| *id)
    }

    /// Grants one; tells for how many seconds.
    ///
    /// # Errors
    /// The id is taken, the time too long, or there are too many.
    pub fn grant(&mut self, id: i64, seconds: i64, now: Millis) -> Result<i64, Error> {
        if id == 0 {
            return Err(error::LEASE_NOT_FOUND);
        }
        if seconds > LEASE_SECONDS_MAX {
            return Err(error::LEASE_TTL_TOO_LARGE);
        }
        if self.all.contains_key(&id) {
            return Err(error::LEASE_EXISTS);
        }
        if self.all.len() >= LEASES_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        let seconds = seconds.max(LEASE_SECONDS_MIN);
        self.insert(id, seconds, now + seconds as u64 * 1000);
        Ok(seconds)
    }

    /// Takes one in as it was.
    pub fn insert(&mut self, id: i64, seconds: i64, until: Millis) {
        self.due.insert((until, id));
        self.all.insert(id, Lease { seconds, until, keys: BTreeSet::new() });
    }

    /// Prolongs one; tells for how many seconds, 0 where there is none.
    pub fn prolong(&mut self, id: i64, now: Millis) -> i64 {
        let Some(lease) = self.all.get_mut(&id) else {
            return 0;
        };
        let until = lease.until.max(now + lease.seconds as u64 * 1000);
        self.due.remove(&(lease.until, id));
        self.due.insert((until, id));
        lease.until = until;
        lease.seconds
    }

    /// Prolongs all: nobody could prolong one while there was no leader.
    pub fn prolong_all(&mut self, now: Millis) {
        let ids: Vec<i64> = self.all.keys().copied().collect();
        for id in ids {
            self.prolong(id, now);
        }
    }

    /// Takes one away, with its keys.
    pub fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.all.remove(&id)?;
        self.due.remove(&(lease.until, id));
        Some(lease)
    }

    /// A key has another lease from now on.
    pub fn attach(&mut self, key: &Bytes, before: i64, after: i64) {
        if before == after {
            return;
        }
        if let Some(lease) = self.all.get_mut(&before) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.all.get_mut(&after) {
            lease.keys.insert(key.clone());
        }
    }
}

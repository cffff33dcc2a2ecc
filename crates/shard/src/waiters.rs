//! Clients that wait for data: BLPOP and kin, XREAD BLOCK.
//!
//! A waiting *write* is replicated state: its entry put it here, the entry that feeds one of its keys serves it, on every
//! replica, in the order of arrival. A waiting *read* stands in the same queue but only on the leader, since serving it
//! changes nothing; its id has the top bit set. A new leader's first entry ends all waits: their clients were the old
//! leader's.

use std::collections::{BTreeMap, HashMap, VecDeque};

use base::{GroupId, Millis, SlotSet, key_slot};
use store::codec::{Corrupt, Input, put_bytes, put_u64, put_varint};

use crate::command::Block;
use crate::reply::Protocol;

/// Top bit of the ids of waits that are not replicated.
pub const LOCAL: u64 = 1 << 63;

/// Bits of an id that count waits; above them stands the group, so that ids differ between shards.
const COUNT_BITS: u32 = 40;

/// The group whose wait this is.
pub fn group_of(id: u64) -> GroupId {
    GroupId((id >> COUNT_BITS) as u32 & 0xFFFF)
}

/// One wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Database of the keys.
    pub db: u8,
    /// What the client speaks.
    pub protocol: Protocol,
    /// The command that is run again.
    pub words: Vec<Vec<u8>>,
    /// What it waits for.
    pub keys: Vec<Vec<u8>>,
    /// Shard time at which it gives up; 0 is never.
    pub until: Millis,
    /// The form of its null answer.
    pub null_is_array: bool,
}

/// All waits of one durability class of one shard.
#[derive(Debug, Default)]
pub struct Waiters {
    next: u64,
    /// Counts the waits that are not replicated: in the ids of those that are, they would be gaps on this node alone.
    next_local: u64,
    locals: usize,
    waits: BTreeMap<u64, Waiter>,
    by_key: HashMap<(u8, Vec<u8>), VecDeque<u64>, store::hash::State>,
    until: BTreeMap<(Millis, u64), ()>,
}

impl Waiters {
    /// No waits yet in this group.
    pub fn new(group: GroupId) -> Waiters {
        assert!(group.0 <= 0xFFFF, "a node has fewer groups than that");
        let next = u64::from(group.0) << COUNT_BITS;
        Waiters { next, next_local: next | LOCAL, ..Waiters::default() }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waits.len()
    }

    /// How many of them are replicated: what a bound on them may depend on.
    pub fn replicated(&self) -> usize {
        self.waits.len() - self.locals
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Adds a wait and names it.
    pub fn add(&mut self, db: u8, protocol: Protocol, words: Vec<Vec<u8>>, block: Block, local: bool) -> u64 {
        let counter = if local { &mut self.next_local } else { &mut self.next };
        *counter += 1;
        let id = *counter;
        let Block { keys, until, again, null_is_array } = block;
        let waiter = Waiter { db, protocol, words: again.unwrap_or(words), keys, until, null_is_array };
        self.insert(id, waiter);
        id
    }

    fn insert(&mut self, id: u64, waiter: Waiter) {
        for key in &waiter.keys {
            let queue = self.by_key.entry((waiter.db, key.clone())).or_default();
            if queue.back() != Some(&id) {
                queue.push_back(id);
            }
        }
        if waiter.until != 0 {
            self.until.insert((waiter.until, id), ());
        }
        self.locals += usize::from(id & LOCAL != 0);
        self.waits.insert(id, waiter);
    }

    /// All of them, in order.
    pub fn ids(&self) -> Vec<u64> {
        self.waits.keys().copied().collect()
    }

    /// The wait behind an id.
    pub fn get(&self, id: u64) -> Option<&Waiter> {
        self.waits.get(&id)
    }

    /// Ends a wait.
    pub fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waits.remove(&id)?;
        self.locals -= usize::from(id & LOCAL != 0);
        for key in &waiter.keys {
            let place = (waiter.db, key.clone());
            if let Some(queue) = self.by_key.get_mut(&place) {
                queue.retain(|other| *other != id);
                if queue.is_empty() {
                    self.by_key.remove(&place);
                }
            }
        }
        self.until.remove(&(waiter.until, id));
        Some(waiter)
    }

    /// Who waits for a key, first come first.
    pub fn waiting_for(&self, db: u8, key: &[u8]) -> Vec<u64> {
        if self.waits.is_empty() {
            return Vec::new();
        }
        self.by_key.get(&(db, key.to_vec())).map(|queue| queue.iter().copied().collect()).unwrap_or_default()
    }

    /// The earliest end of a wait.
    pub fn next_until(&self) -> Option<Millis> {
        self.until.first_key_value().map(|((until, _), ())| *until)
    }

    /// Waits whose time is over at `now`.
    pub fn overdue(&self, now: Millis) -> Vec<u64> {
        self.until.keys().take_while(|(until, _)| *until <= now).map(|(_, id)| *id).collect()
    }

    /// Ends them all; the ids come back so that clients can be told.
    pub fn clear(&mut self) -> Vec<u64> {
        let ids = self.waits.keys().copied().collect();
        *self = Waiters { next: self.next, next_local: self.next_local, ..Waiters::default() };
        ids
    }

    /// Ends those that wait for a key of these slots; the ids come back so that clients can be told.
    pub fn take_in(&mut self, slots: &SlotSet) -> Vec<u64> {
        let such = |waiter: &Waiter| waiter.keys.iter().any(|key| slots.has(key_slot(key)));
        let ids: Vec<u64> = self.waits.iter().filter(|(_, waiter)| such(waiter)).map(|(id, _)| *id).collect();
        ids.iter().for_each(|id| {
            self.remove(*id);
        });
        ids
    }

    /// The replicated waits, for a snapshot.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.next);
        let replicated = || self.waits.iter().filter(|(id, _)| **id & LOCAL == 0);
        put_varint(out, replicated().count() as u64);
        for (id, waiter) in replicated() {
            put_u64(out, *id);
            out.push(waiter.db);
            out.push(u8::from(waiter.protocol == Protocol::Resp3));
            put_varint(out, waiter.until);
            out.push(u8::from(waiter.null_is_array));
            for list in [&waiter.words, &waiter.keys] {
                put_varint(out, list.len() as u64);
                for word in list {
                    put_bytes(out, word);
                }
            }
        }
    }

    /// Reads what [`Waiters::encode`] wrote.
    pub fn decode(input: &mut Input<'_>) -> Result<Waiters, Corrupt> {
        let next = input.u64()?;
        let next_local = next >> COUNT_BITS << COUNT_BITS | LOCAL;
        let mut waiters = Waiters { next, next_local, ..Waiters::default() };
        for _ in 0..input.count()? {
            let id = input.u64()?;
            let db = input.u8()?;
            let protocol = if input.u8()? == 1 { Protocol::Resp3 } else { Protocol::Resp2 };
            let until = input.varint()?;
            let null_is_array = input.u8()? == 1;
            let mut lists = [Vec::new(), Vec::new()];
            for list in &mut lists {
                for _ in 0..input.count()? {
                    list.push(input.bytes()?.to_vec());
                }
            }
            let [words, keys] = lists;
            if words.is_empty() || usize::from(db) >= store::table::DATABASES {
                return Err(Corrupt("a wait without a command"));
            }
            waiters.insert(id, Waiter { db, protocol, words, keys, until, null_is_array });
        }
        Ok(waiters)
    }
}

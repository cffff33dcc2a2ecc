//! A table of records in the order of their keys, and the walk that copies it piecemeal as it was at one moment.
//!
//! A record's `modified` index tells the walk what it needs: what changed after the walk's moment is passed over, and
//! whoever changes or takes away a record of the moment before the walk has reached it leaves the old form in the backlog.
//! So exactly the records of the moment come out, each once, at the cost of the backlog.
//!
//! **Invariant:** every change of a record raises its `modified` above the moment of a walk under way.

use std::collections::BTreeMap;
use std::ops::Bound;

use store::codec::{Corrupt, Input};

use crate::form::Form;
use crate::model::Aged;

#[derive(Clone, Debug)]
struct Walk<K> {
    moment: u64,
    /// The last key that was visited.
    reached: Option<K>,
    over: bool,
    backlog: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Shelf<K, V> {
    /// Its number in the stored form.
    number: u8,
    records: BTreeMap<K, V>,
    walk: Option<Walk<K>>,
}

impl<K: Ord + Clone + Form, V: Form + Aged> Shelf<K, V> {
    pub(crate) fn new(number: u8) -> Shelf<K, V> {
        Shelf { number, records: BTreeMap::new(), walk: None }
    }

    pub(crate) fn records(&self) -> &BTreeMap<K, V> {
        &self.records
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.keep(&key);
        self.records.insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.keep(key);
        self.records.remove(key)
    }

    /// Changes what is derived and not stored: no index moves.
    pub(crate) fn derived(&mut self, key: &K) -> Option<&mut V> {
        self.records.get_mut(key)
    }

    fn keep(&mut self, key: &K) {
        let Some(walk) = &mut self.walk else {
            return;
        };
        let is_ahead = !walk.over && walk.reached.as_ref().is_none_or(|reached| key > reached);
        if is_ahead
            && let Some(record) = self.records.get(key)
            && record.ages().modified <= walk.moment
        {
            put(self.number, key, record, &mut walk.backlog);
        }
    }

    pub(crate) fn begin_walk(&mut self, moment: u64) {
        self.walk = Some(Walk { moment, reached: None, over: false, backlog: Vec::new() });
    }

    pub(crate) fn abort_walk(&mut self) {
        self.walk = None;
    }

    /// Appends records until `out` is `until` long. True when the walk is over.
    pub(crate) fn walk(&mut self, until: usize, out: &mut Vec<u8>) -> bool {
        let Some(walk) = &mut self.walk else {
            return true;
        };
        out.append(&mut walk.backlog);
        let from = walk.reached.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.records.range((from.clone(), Bound::Unbounded));
        let mut last = None;
        while out.len() < until {
            let Some((key, record)) = rest.next() else {
                self.walk = None;
                return true;
            };
            if record.ages().modified <= walk.moment {
                put(self.number, key, record, out);
            }
            last = Some(key);
        }
        walk.reached = match (last, from) {
            (Some(last), _) => Some(last.clone()),
            (None, Bound::Excluded(reached)) => Some(reached),
            (None, _) => None,
        };
        false
    }

    /// Reads one record; its shelf's number has been read already.
    pub(crate) fn restore(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        self.restore_from::<V>(input)
    }

    /// Reads one record of an older form.
    pub(crate) fn restore_from<Old: Form + Into<V>>(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        let (key, value) = <(K, Old)>::take(input)?;
        match self.records.insert(key, value.into()) {
            None => Ok(()),
            Some(_) => Err(Corrupt("a record stands twice")),
        }
    }
}

fn put<K: Form, V: Form>(number: u8, key: &K, record: &V, out: &mut Vec<u8>) {
    out.push(number);
    key.put(out);
    record.put(out);
}

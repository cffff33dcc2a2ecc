//! Which index last touched what: the books behind `X-Consul-Index`.
//!
//! A name that exists has its own last index. One that has gone is remembered with the index at which it went, so that who
//! waits for it, or asks later with an older index, learns of it. At most [`GONE_MAX`] such names are kept; what is
//! forgotten counts as changed at the *floor*, the highest index that was forgotten.

use std::collections::{BTreeMap, BTreeSet};

use crate::form::{Form, form};
use crate::limits::GONE_MAX;
use store::codec::{Corrupt, Input};

/// Names that have gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gone {
    by_name: BTreeMap<String, u64>,
    by_index: BTreeSet<(u64, String)>,
    floor: u64,
}

impl Gone {
    pub(crate) fn add(&mut self, name: &str, index: u64) {
        self.forget(name);
        self.by_name.insert(name.to_owned(), index);
        self.by_index.insert((index, name.to_owned()));
        if self.by_name.len() > GONE_MAX
            && let Some((index, name)) = self.by_index.pop_first()
        {
            self.by_name.remove(&name);
            self.floor = self.floor.max(index);
        }
    }

    /// The name is there again.
    pub(crate) fn forget(&mut self, name: &str) {
        if let Some(index) = self.by_name.remove(name) {
            self.by_index.remove(&(index, name.to_owned()));
        }
    }

    pub(crate) fn get(&self, name: &str) -> u64 {
        self.by_name.get(name).copied().unwrap_or(0)
    }

    pub(crate) fn under(&self, prefix: &str) -> u64 {
        let names = self.by_name.range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded));
        names.take_while(|(name, _)| name.starts_with(prefix)).map(|(_, index)| *index).max().unwrap_or(0)
    }

    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }
}

impl Form for Gone {
    fn put(&self, out: &mut Vec<u8>) {
        self.floor.put(out);
        self.by_name.put(out);
    }
    fn take(input: &mut Input<'_>) -> Result<Gone, Corrupt> {
        let floor = u64::take(input)?;
        let by_name = BTreeMap::<String, u64>::take(input)?;
        let by_index = by_name.iter().map(|(name, index)| (*index, name.clone())).collect();
        Ok(Gone { by_name, by_index, floor })
    }
}

/// Last indexes by name, of what is there and of what has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    live: BTreeMap<String, u64>,
    gone: Gone,
}

form!(Marks { live, gone });

impl Marks {
    pub(crate) fn touch(&mut self, name: &str, index: u64) {
        match self.live.get_mut(name) {
            Some(last) => *last = index,
            None => {
                self.gone.forget(name);
                self.live.insert(name.to_owned(), index);
            }
        }
    }

    pub(crate) fn end(&mut self, name: &str, index: u64) {
        self.live.remove(name);
        self.gone.add(name, index);
    }

    /// The last index of a name, and the floor below which that is not known.
    pub(crate) fn get(&self, name: &str) -> (u64, u64) {
        match self.live.get(name) {
            Some(index) => (*index, 0),
            None => (self.gone.get(name), self.gone.floor()),
        }
    }
}

/// Last indexes of whole tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub(crate) nodes: u64,
    pub(crate) services: u64,
    pub(crate) checks: u64,
    pub(crate) kv: u64,
    pub(crate) documents: u64,
}

form!(Tables { nodes, services, checks, kv, documents });

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_counts_as_changed_at_the_floor() {
        let mut marks = Marks::default();
        marks.touch("a", 1);
        assert_eq!(marks.get("a"), (1, 0));
        marks.end("a", 2);
        assert_eq!(marks.get("a"), (2, 0));
        for index in 0..GONE_MAX as u64 {
            marks.end(&format!("n{index}"), 10 + index);
        }
        assert_eq!(marks.get("a"), (0, 2), "the oldest was forgotten, and the floor says so");
        marks.touch("a", 99);
        assert_eq!(marks.get("a"), (99, 0));
        let mut out = Vec::new();
        marks.put(&mut out);
        assert_eq!(Marks::take(&mut Input::new(&out)), Ok(marks));
    }
}

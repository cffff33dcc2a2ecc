//! What a query depends on, and when that last changed: the index rules of blocking queries.
//!
//! A waiting query is asked again after every change that may be of what it watches ([`Catalog::may_have_changed`]); it ends when something that it
//! depends on has changed after the index it was given. It never misses a change, since names that have gone keep their
//! index; and it does not end for what it does not depend on: the floor (see `index`) counts only where the query was not
//! looked at since.

use crate::catalog::{Catalog, lower};

/// What a query depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watch {
    /// The nodes.
    Nodes,
    /// Everything of one node.
    Node(String),
    /// Which services there are.
    Services,
    /// One service: its instances, their checks and their nodes.
    Service(String),
    /// All checks.
    Checks,
    /// One key.
    Key(String),
    /// All keys that begin so.
    Prefix(String),
    /// All documents.
    Documents,
    /// All sessions.
    Sessions,
    /// Anything at all.
    Everything,
}

/// A query that waits.
#[derive(Clone, Debug)]
pub struct Waiting {
    watch: Watch,
    after: u64,
    /// The catalog's index when it was last looked at.
    seen: u64,
}

impl Waiting {
    /// A query that has seen everything up to `after`.
    pub fn new(watch: Watch, after: u64) -> Waiting {
        Waiting { watch, after, seen: after }
    }

    /// What it depends on.
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Whether something has changed.
    pub fn is_over(&mut self, catalog: &Catalog) -> bool {
        self.hears(catalog.last_change(&self.watch), catalog.index())
    }

    /// The same by what [`Catalog::last_change`] says of its watch, for many who watch the same.
    pub fn hears(&mut self, (last, floor): (u64, u64), index: u64) -> bool {
        let over = last > self.after || floor > self.seen;
        self.seen = self.seen.max(index);
        over
    }

    /// Waits anew, for what comes after this state of the catalog.
    pub fn restart(&mut self, catalog: &Catalog) {
        self.after = catalog.index();
        self.seen = self.after;
    }

    /// Nothing that it depends on has changed up to this index of the catalog.
    pub fn looked(&mut self, index: u64) {
        self.seen = self.seen.max(index);
    }

    /// The index to answer with: the one it was given where nothing has changed.
    pub fn index(&mut self, catalog: &Catalog) -> u64 {
        let (last, floor) = catalog.last_change(&self.watch);
        let told = if self.after <= catalog.index() { self.after } else { 0 };
        // A floor is only told to those who had to be woken for it.
        let floor = if floor > self.seen { floor } else { 0 };
        last.max(floor).max(told).max(1)
    }
}

impl Catalog {
    /// The index of the last change of what is watched, and the floor below which that is not known for sure.
    pub fn last_change(&self, watch: &Watch) -> (u64, u64) {
        match watch {
            Watch::Nodes => (self.tables.nodes, 0),
            Watch::Node(name) => self.node_marks.get(&lower(name)),
            Watch::Services => (self.tables.services, 0),
            Watch::Service(name) => self.service_marks.get(&lower(name)),
            Watch::Checks => (self.tables.checks, 0),
            Watch::Key(key) => match self.kv.entry(key) {
                Some(entry) => (entry.ages.modified, 0),
                None => (self.kv.gone.get(key), self.kv.gone.floor()),
            },
            Watch::Prefix(prefix) if prefix.is_empty() => (self.tables.kv, 0),
            Watch::Prefix(prefix) => {
                let live = self.kv.under(prefix).map(|(_, entry)| entry.ages.modified).max().unwrap_or(0);
                (live.max(self.kv.gone.under(prefix)), self.kv.gone.floor())
            }
            Watch::Documents => (self.tables.documents, 0),
            Watch::Sessions => (self.sessions.modified, 0),
            Watch::Everything => (self.index(), 0),
        }
    }

    /// Whether what is watched can have changed after this index, from what is known of whole tables and of the last keys:
    /// where it cannot, nobody need look closer.
    pub fn may_have_changed(&self, watch: &Watch, since: u64) -> bool {
        let tables = &self.tables;
        let last = match watch {
            Watch::Nodes => tables.nodes,
            Watch::Services => tables.services,
            Watch::Checks => tables.checks,
            Watch::Node(_) | Watch::Service(_) => tables.nodes.max(tables.services).max(tables.checks),
            Watch::Key(_) | Watch::Prefix(_) => tables.kv,
            Watch::Documents => tables.documents,
            Watch::Sessions => self.sessions.modified,
            Watch::Everything => self.index(),
        };
        last > since
            && match watch {
                Watch::Key(own) => self.kv.has_changed(since, |key| key == own).unwrap_or(true),
                Watch::Prefix(prefix) => self.kv.has_changed(since, |key| key.starts_with(prefix)).unwrap_or(true),
                _ => true,
            }
    }

    /// The index that a query which does not wait answers with.
    pub fn index_of(&self, watch: &Watch) -> u64 {
        let (last, floor) = self.last_change(watch);
        last.max(floor).max(1)
    }
}

//! What was removed and is too large to be freed at once: it goes a little with every change that follows.
//!
//! It counts towards no budget and nobody sees it; a removal of a million fields takes no longer than one of ten.

use std::collections::BTreeSet;

use base::Millis;

use super::directory::Directory;
use super::entry::Entry;
use crate::value::Value;

/// Values that cost less are freed at once: some thousand frees at most.
const LARGE_BYTES: usize = 64 << 10;
/// Keys, expiries or pieces of values that one step frees; a piece is at most some hundred members.
const KEYS: usize = 64;
const EXPIRIES: usize = 256;
const PIECES: usize = 1;

#[derive(Debug, Default)]
pub(super) struct Leftovers {
    values: Vec<Value>,
    entries: Vec<Entry>,
    keys: Vec<Directory>,
    expiries: Vec<BTreeSet<(Millis, u64)>>,
    /// Whether any of them holds anything: every write asks.
    any: bool,
}

impl Leftovers {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        !self.any
    }

    /// Frees a value, now or by and by.
    pub(super) fn value(&mut self, value: Value) {
        if value.heap_bytes() > LARGE_BYTES {
            self.values.push(value);
            self.any = true;
        }
    }

    /// Frees an entry, its value by and by.
    pub(super) fn entry(&mut self, entry: Entry) {
        if entry.value().heap_bytes() > LARGE_BYTES {
            self.values.push(entry.into_value());
            self.any = true;
        }
    }

    /// Frees a whole database by and by.
    pub(super) fn database(&mut self, keys: Directory, expiries: BTreeSet<(Millis, u64)>) {
        self.keys.push(keys);
        self.expiries.push(expiries);
        self.any = true;
    }

    /// Frees some: a few microseconds' worth.
    #[cold]
    pub(super) fn free_some(&mut self) {
        if let Some(value) = self.values.last_mut() {
            if value.crumble(PIECES) {
                self.values.pop();
            }
            // The rest is looked at by the next step.
            return;
        }
        for _ in 0..KEYS {
            match self.entries.pop() {
                Some(entry) => self.entry(entry),
                None => break,
            }
        }
        if self.entries.is_empty() {
            // A vector that a huge segment has blown up is not kept.
            self.entries = self.keys.last_mut().and_then(Directory::take_segment).unwrap_or_default();
            if self.entries.is_empty() && self.keys.last().is_some_and(Directory::is_spent) {
                self.keys.pop();
            }
        }
        if let Some(expiries) = self.expiries.last_mut() {
            for _ in 0..EXPIRIES {
                expiries.pop_first();
            }
            if expiries.is_empty() {
                self.expiries.pop();
            }
        }
        self.any =
            !(self.values.is_empty() && self.entries.is_empty() && self.keys.is_empty() && self.expiries.is_empty());
    }
}

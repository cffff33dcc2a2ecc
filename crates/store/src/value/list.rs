//! The list. (Filled in by its author.)

use crate::codec::{Corrupt, Input, Stored};

/// A list.
#[derive(Clone, Debug, Default)]
pub struct List {}

impl List {
    /// How many elements it holds.
    pub fn len(&self) -> usize {
        0
    }

    /// Heap bytes by estimate, kept up to date with every change.
    pub fn heap_bytes(&self) -> usize {
        0
    }
}

impl Stored for List {
    fn encode(&self, _out: &mut Vec<u8>) {}
    fn decode(_input: &mut Input<'_>) -> Result<List, Corrupt> {
        Ok(List {})
    }
}

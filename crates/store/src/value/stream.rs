//! The stream. (Filled in by its author.)

use crate::codec::{Corrupt, Input, Stored};

/// A stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {}

impl Stream {
    /// How many elements it holds.
    pub fn len(&self) -> usize {
        0
    }

    /// Heap bytes by estimate, kept up to date with every change.
    pub fn heap_bytes(&self) -> usize {
        0
    }
}

impl Stored for Stream {
    fn encode(&self, _out: &mut Vec<u8>) {}
    fn decode(_input: &mut Input<'_>) -> Result<Stream, Corrupt> {
        Ok(Stream {})
    }
}

//! One key and what is known about it.

use std::sync::atomic::{AtomicU32, Ordering};

use base::Millis;

use crate::keyspace::KeyspaceId;
use crate::value::Value;

const INLINE: usize = 22;

/// A key's bytes: up to 22 of them in place, so that most keys cost no allocation of their own.
enum Key {
    Inline(u8, [u8; INLINE]),
    Heap(Box<[u8]>),
}

/// A key with its value. Lives in a box of its own, so that growing tables move pointers only.
pub struct Entry {
    key: Key,
    /// What the key holds.
    pub value: Value,
    /// Shard time at which it is gone; 0 is never.
    pub expire: Millis,
    /// The tables' sequence at the last change.
    pub version: u64,
    /// Shard time of the last use in seconds, for eviction and OBJECT IDLETIME.
    used: AtomicU32,
    /// The last snapshot walk that has this entry's old form, or has come by.
    pub(super) walked: u32,
    /// The keyspace that the key's prefix selects.
    pub keyspace: KeyspaceId,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}: {:?}", String::from_utf8_lossy(self.key()), self.value)
    }
}

impl Entry {
    pub(super) fn new(key: &[u8], value: Value, keyspace: KeyspaceId, version: u64) -> Entry {
        let key = if key.len() <= INLINE {
            let mut bytes = [0; INLINE];
            bytes[..key.len()].copy_from_slice(key);
            Key::Inline(key.len() as u8, bytes)
        } else {
            Key::Heap(key.into())
        };
        Entry { key, value, expire: 0, version, used: AtomicU32::new(0), walked: 0, keyspace }
    }

    /// The key's bytes.
    #[inline]
    pub fn key(&self) -> &[u8] {
        match &self.key {
            Key::Inline(len, bytes) => &bytes[..usize::from(*len)],
            Key::Heap(bytes) => bytes,
        }
    }

    /// Whether it counts as absent at this shard time.
    #[inline]
    pub fn is_expired(&self, now: Millis) -> bool {
        self.expire != 0 && self.expire <= now
    }

    /// When it was last used, seconds of shard time.
    pub fn used_seconds(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    /// Remembers a use. Writes only once a second, so that readers do not fight over the cache line.
    #[inline]
    pub(super) fn mark_used(&self, now: Millis) {
        let seconds = (now / 1000) as u32;
        if self.used.load(Ordering::Relaxed) != seconds {
            self.used.store(seconds, Ordering::Relaxed);
        }
    }

    /// Its whole cost in memory by estimate: the box, the table's slot, the key's and the value's heap.
    pub fn bytes(&self) -> usize {
        const SLOT: usize = 12;
        let key = match &self.key {
            Key::Inline(..) => 0,
            Key::Heap(bytes) => bytes.len(),
        };
        size_of::<Entry>() + SLOT + key + self.value.heap_bytes()
    }
}

//! Keyspaces: a key's prefix selects settings of its own. The longest prefix wins; the empty prefix is the default one.

use base::Millis;

use crate::codec::{Corrupt, Input, Stored, put_bytes, put_varint};

/// What an answer to a write promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the replicated log and fsynced on a quorum before the answer.
    Fsync,
    /// In this node's memory only: a cache. Empty after a restart, in no snapshot.
    Memory,
}

/// What happens to a write that would take the keyspace over `max_bytes`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// Refuse it with `-OOM`.
    Refuse,
    /// Drop keys that were used longest ago, by sampling.
    Lru,
}

/// The settings of the keys under one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Keys that start with this.
    pub prefix: Vec<u8>,
    /// See [`Durability`].
    pub durability: Durability,
    /// Budget in bytes, by our own estimate; zero is no bound.
    pub max_bytes: u64,
    /// See [`Eviction`].
    pub eviction: Eviction,
    /// Given to keys that are written without an expiry, milliseconds; zero is none.
    pub default_expiry: Millis,
}

/// The index of a keyspace in [`Keyspaces`].
pub type KeyspaceId = u8;

/// All keyspaces of a node, replicated through the log like everything that changes what an entry means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspaces {
    /// Index 0 is the default keyspace with the empty prefix.
    list: Vec<Keyspace>,
}

impl Default for Keyspaces {
    fn default() -> Keyspaces {
        Keyspaces::new(Vec::new()).expect("no settings cannot clash")
    }
}

impl Keyspaces {
    /// At most this many, the default one included.
    pub const MAX: usize = 255;

    /// Makes the set. A setting for the empty prefix replaces the default. Says what is wrong with duplicates or too many.
    pub fn new(settings: Vec<Keyspace>) -> Result<Keyspaces, String> {
        let mut list = vec![Keyspace {
            prefix: Vec::new(),
            durability: Durability::Fsync,
            max_bytes: 0,
            eviction: Eviction::Refuse,
            default_expiry: 0,
        }];
        for setting in settings {
            if setting.prefix.is_empty() {
                list[0] = setting;
            } else if list.iter().any(|known| known.prefix == setting.prefix) {
                return Err(format!("keyspace prefix {:?} is set twice", String::from_utf8_lossy(&setting.prefix)));
            } else {
                list.push(setting);
            }
        }
        if list.len() > Keyspaces::MAX {
            return Err(format!("{} keyspaces, at most {} can be set", list.len(), Keyspaces::MAX));
        }
        Ok(Keyspaces { list })
    }

    /// The keyspace of a key.
    pub fn of(&self, key: &[u8]) -> KeyspaceId {
        if self.list.len() == 1 {
            return 0;
        }
        let best = self.list.iter().enumerate().filter(|(_, space)| key.starts_with(&space.prefix));
        best.max_by_key(|(_, space)| space.prefix.len()).map_or(0, |(index, _)| index as KeyspaceId)
    }

    /// The settings behind an id.
    pub fn get(&self, id: KeyspaceId) -> &Keyspace {
        &self.list[usize::from(id)]
    }

    /// All of them, the default one first.
    pub fn iter(&self) -> impl Iterator<Item = &Keyspace> {
        self.list.iter()
    }

    /// How many there are; never zero.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Whether some keyspace is not logged, and whether some is.
    pub fn classes(&self) -> (bool, bool) {
        let memory = self.list.iter().any(|space| space.durability == Durability::Memory);
        let logged = self.list.iter().any(|space| space.durability == Durability::Fsync);
        (memory, logged)
    }
}

impl Stored for Keyspaces {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.list.len() as u64);
        for space in &self.list {
            put_bytes(out, &space.prefix);
            out.push(match space.durability {
                Durability::Fsync => 0,
                Durability::Memory => 1,
            });
            out.push(match space.eviction {
                Eviction::Refuse => 0,
                Eviction::Lru => 1,
            });
            put_varint(out, space.max_bytes);
            put_varint(out, space.default_expiry);
        }
    }

    fn decode(input: &mut Input<'_>) -> Result<Keyspaces, Corrupt> {
        let count = input.count()?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(Keyspace {
                prefix: input.bytes()?.to_vec(),
                durability: match input.u8()? {
                    0 => Durability::Fsync,
                    1 => Durability::Memory,
                    _ => return Err(Corrupt("unknown durability")),
                },
                eviction: match input.u8()? {
                    0 => Eviction::Refuse,
                    1 => Eviction::Lru,
                    _ => return Err(Corrupt("unknown eviction")),
                },
                max_bytes: input.varint()?,
                default_expiry: input.varint()?,
            });
        }
        if list.is_empty() || list.len() > Keyspaces::MAX {
            return Err(Corrupt("keyspace count out of range"));
        }
        Ok(Keyspaces { list })
    }
}

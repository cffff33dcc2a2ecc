//! Configuration: keys below certain prefixes, of Consul's tree or of etcd's, are held against a schema before they are written, and who changed
//! what when is remembered.
//!
//! A *rule* makes a prefix configuration. The keys stay where they are: clients read, write and watch them as any other. Of several rules
//! that fit a key the one with the longest prefix counts.
//!
//! **Invariant:** what is written below a rule fits its schema, whoever writes it and through which door; rules and history are changed by
//! entries only.

use std::collections::{BTreeMap, VecDeque};

use base::Millis;
use store::codec::{Corrupt, Input, put_varint};

use crate::change::{KvOp, Verb};
use crate::form::{Blob, Form, form, form_enum};
use crate::schema::Schema;

/// Rules.
pub const RULES_MAX: usize = 256;
/// Bytes of a rule's prefix.
pub const PREFIX_BYTES_MAX: usize = 512;
/// Bytes of a value below a rule.
pub const VALUE_BYTES_MAX: usize = 64 << 10;
/// Changes that are remembered; beyond it the oldest are forgotten.
pub const HISTORY_MAX: usize = 10_000;
/// Bytes of them, with the values before and after.
pub const HISTORY_BYTES_MAX: usize = 8 << 20;
/// Bytes of a name of who changed something.
pub const WHO_BYTES_MAX: usize = 128;
/// Keys that may lie below a prefix when it becomes configuration: all of them are held against the schema then.
pub const KEYS_AT_FIRST_MAX: usize = 10_000;

/// Whose keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Space {
    /// Consul's key-value tree.
    Consul,
    /// etcd's keys.
    Etcd,
}

form_enum!(Space { 0 = Consul, 1 = Etcd });

impl Space {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Space::Consul => "consul",
            Space::Etcd => "etcd",
        }
    }

    /// The space of this word.
    pub fn from_word(word: &str) -> Option<Space> {
        [Space::Consul, Space::Etcd].into_iter().find(|space| space.word() == word)
    }
}

/// What an entry may do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigChange {
    /// Keys that begin so are configuration from now on.
    Keep {
        /// Whose keys.
        space: Space,
        /// How they begin.
        prefix: String,
        /// The schema of their values, JSON; empty for none.
        schema: String,
    },
    /// They are keys like any other again. What is remembered of them stays.
    Forget {
        /// Whose keys.
        space: Space,
        /// How they begin.
        prefix: String,
    },
    /// Operations on the key-value tree by somebody who has a name.
    By {
        /// Who.
        who: String,
        /// What.
        ops: Vec<KvOp>,
    },
}

form_enum!(ConfigChange {
    0 = Keep { space, prefix, schema },
    1 = Forget { space, prefix },
    2 = By { who, ops },
});

/// A change of one key that is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Its number, rising over all keys.
    pub number: u64,
    /// Whose key.
    pub space: Space,
    /// Which.
    pub key: String,
    /// Who, as far as the door knew.
    pub who: String,
    /// When, in shard time.
    pub at: Millis,
    /// The index of Consul's tree, or etcd's revision, that it made.
    pub index: u64,
    /// The value before; `None` for none.
    pub from: Option<Blob>,
    /// The value after; `None` for none.
    pub to: Option<Blob>,
}

form!(Turn { number, space, key, who, at, index, from, to });

impl Turn {
    fn cost(&self) -> usize {
        let value = |value: &Option<Blob>| value.as_ref().map_or(0, |value| value.0.len());
        self.key.len() + self.who.len() + value(&self.from) + value(&self.to) + 64
    }
}

/// Rules, and what is remembered.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Schemas as they were given.
    rules: BTreeMap<(Space, String), String>,
    /// The same, read. Derived.
    schemas: BTreeMap<(Space, String), Schema>,
    turns: VecDeque<Turn>,
    /// Of the turns. Derived.
    bytes: usize,
    /// The number of the last turn.
    last: u64,
}

impl Config {
    /// Whether there was never a rule.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.last == 0
    }

    /// Whether any key of this space is configuration.
    pub fn has_rules(&self, space: Space) -> bool {
        self.rules.keys().any(|(own, _)| *own == space)
    }

    /// Rules: space, prefix, schema (empty for none).
    pub fn rules(&self) -> impl Iterator<Item = (Space, &str, &str)> {
        self.rules.iter().map(|((space, prefix), schema)| (*space, prefix.as_str(), schema.as_str()))
    }

    /// What is remembered, the oldest first.
    pub fn turns(&self) -> impl DoubleEndedIterator<Item = &Turn> {
        self.turns.iter()
    }

    /// The prefix that makes a key configuration, if one does.
    pub fn prefix_of(&self, space: Space, key: &[u8]) -> Option<&str> {
        let prefixes = self.rules.keys().filter(|(own, prefix)| *own == space && key.starts_with(prefix.as_bytes()));
        prefixes.map(|(_, prefix)| prefix.as_str()).max_by_key(|prefix| prefix.len())
    }

    /// Whether operations on Consul's tree may touch what is configuration.
    pub fn concerns(&self, ops: &[KvOp]) -> bool {
        let may_touch = |op: &KvOp| {
            let above = |(space, prefix): &(Space, String)| *space == Space::Consul && prefix.starts_with(&op.key);
            op.verb == Verb::DeleteTree && self.rules.keys().any(above)
                || self.prefix_of(Space::Consul, op.key.as_bytes()).is_some()
        };
        self.has_rules(Space::Consul) && ops.iter().any(|op| !op.verb.is_read() && may_touch(op))
    }

    /// Whether a value may stand under a key.
    ///
    /// # Errors
    /// It may not; a sentence.
    pub fn check(&self, space: Space, key: &[u8], value: &[u8]) -> Result<(), String> {
        let Some(prefix) = self.prefix_of(space, key) else { return Ok(()) };
        let shown = String::from_utf8_lossy(key);
        let refused = |why: String| Err(format!("the value of {shown:?} is refused, nothing was changed: {why}"));
        if std::str::from_utf8(key).is_err() {
            return refused(format!("keys below {prefix:?} are configuration, which is named in UTF-8"));
        }
        if value.len() > VALUE_BYTES_MAX {
            return refused(format!("it is {} bytes long, configuration takes at most {VALUE_BYTES_MAX}", value.len()));
        }
        let Some(schema) = self.schemas.get(&(space, prefix.to_owned())) else { return Ok(()) };
        schema.check(value).or_else(|why| refused(format!("{why} (schema of {prefix:?})")))
    }

    /// Makes a prefix configuration; `keys` are those of Consul's tree below it, which have to fit.
    pub(crate) fn keep<'a>(
        &mut self,
        space: Space,
        prefix: &str,
        schema: &str,
        keys: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<(), String> {
        if prefix.is_empty() || prefix.len() > PREFIX_BYTES_MAX {
            return Err(format!("a prefix has 1 to {PREFIX_BYTES_MAX} bytes"));
        }
        let place = (space, prefix.to_owned());
        if !self.rules.contains_key(&place) && self.rules.len() >= RULES_MAX {
            return Err(format!("there are {RULES_MAX} prefixes of configuration already, which is the most"));
        }
        if !schema.is_empty() {
            let read = Schema::parse(schema)?;
            for (number, (key, value)) in keys.enumerate() {
                if number >= KEYS_AT_FIRST_MAX {
                    return Err(format!(
                        "more than {KEYS_AT_FIRST_MAX} keys lie below {prefix:?}: too many to hold against a schema"
                    ));
                }
                // A longer prefix has the word on its own keys.
                let longest = self.prefix_of(space, key.as_bytes()).map_or(0, str::len);
                if longest <= prefix.len() {
                    read.check(value).map_err(|why| {
                        format!(
                            "what stands under {key:?} does not fit the schema: {why}; mend it first, then try again"
                        )
                    })?;
                }
            }
            self.schemas.insert(place.clone(), read);
        } else {
            self.schemas.remove(&place);
        }
        self.rules.insert(place, schema.to_owned());
        Ok(())
    }

    pub(crate) fn forget(&mut self, space: Space, prefix: &str) -> Result<(), String> {
        let place = (space, prefix.to_owned());
        self.schemas.remove(&place);
        let known = self.rules.remove(&place);
        known.map(|_| ()).ok_or_else(|| format!("{prefix:?} is no prefix of configuration"))
    }

    /// Remembers a change of a key that is configuration; of any other nothing.
    pub fn note(&mut self, space: Space, key: &[u8], who: &str, at: Millis, index: u64, values: [Option<&[u8]>; 2]) {
        if values[0] == values[1] || self.prefix_of(space, key).is_none() {
            return;
        }
        // A value that was there before the rule may be larger than any that is taken now.
        let kept = values.map(|value| value.map(|value| Blob(value[..value.len().min(VALUE_BYTES_MAX)].to_vec())));
        let [from, to] = kept;
        self.last += 1;
        let mut who = who.to_owned();
        crate::catalog::cut(&mut who, WHO_BYTES_MAX);
        let turn =
            Turn { number: self.last, space, key: String::from_utf8_lossy(key).into(), who, at, index, from, to };
        self.bytes += turn.cost();
        self.turns.push_back(turn);
        while self.turns.len() > HISTORY_MAX || self.bytes > HISTORY_BYTES_MAX {
            if let Some(old) = self.turns.pop_front() {
                self.bytes -= old.cost();
            }
        }
    }
}

impl Form for Config {
    fn put(&self, out: &mut Vec<u8>) {
        self.rules.put(out);
        self.last.put(out);
        put_varint(out, self.turns.len() as u64);
        self.turns.iter().for_each(|turn| turn.put(out));
    }
    fn take(input: &mut Input<'_>) -> Result<Config, Corrupt> {
        let (rules, last) = (BTreeMap::<(Space, String), String>::take(input)?, u64::take(input)?);
        let turns: VecDeque<Turn> = Vec::take(input)?.into();
        let bytes = turns.iter().map(Turn::cost).sum();
        // What was read once can be read again: the words of schemas only become more.
        let schemas = rules.iter().filter(|(_, schema)| !schema.is_empty());
        let schemas =
            schemas.filter_map(|(place, schema)| Some((place.clone(), Schema::parse(schema).ok()?))).collect();
        Ok(Config { rules, schemas, turns, bytes, last })
    }
}

#[cfg(test)]
mod tests;

//! Which topics there are: replicated state of the meta group, read by every node.
//!
//! A topic's id names it for good: a topic that is deleted and made anew under its name is another one. The id's second half
//! is the index of the entry that made it, so whoever holds a list of topics of a certain index can tell a topic that has
//! gone from one that is yet to come.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{Millis, key_slot};

use crate::code::Code;
use crate::limits::{NAME_BYTES_MAX, PARTITIONS_MAX, SETTING_BYTES_MAX, TOPIC_PARTITIONS_MAX, TOPICS_MAX};

pub use settings::{KNOWN, Known, Settings, Wrong};

pub(crate) mod form;
mod settings;
#[cfg(test)]
mod tests;

/// Which topic, for good (a UUID in the Kafka protocol).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(pub u128);

impl TopicId {
    /// The id of the topic that the entry at `index` makes.
    pub fn new(index: u64, now: Millis) -> TopicId {
        // Never zero (the protocol's "no id") nor one (its topic of metadata), and unlike that of another cluster.
        let mixed = (now ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1 << 63;
        TopicId(u128::from(mixed) << 64 | u128::from(index))
    }

    /// The index of the entry that made it.
    pub fn born(self) -> u64 {
        self.0 as u64
    }
}

/// One topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: Arc<str>,
    /// Which one it is.
    pub id: TopicId,
    /// How many partitions it has.
    pub partitions: u32,
    /// Its settings that differ from the defaults.
    pub settings: Settings,
    /// When it was made, milliseconds of shard time.
    pub created: Millis,
}

impl Topic {
    /// The name under which its partitions are placed among the slots: `{tag}name` where the topic was made with the setting
    /// `quorate.tag`, else its name, which may hold a `{tag}` itself.
    pub fn place(&self) -> String {
        match (self.settings.own_place(), self.settings.tag()) {
            (Some(place), _) => place.to_owned(),
            (None, Some(tag)) => format!("{{{tag}}}{}", self.name),
            (None, None) => self.name.to_string(),
        }
    }

    /// The slot of one of its partitions.
    pub fn slot(&self, partition: u32) -> u16 {
        slot(&self.place(), partition)
    }
}

/// The slot of a partition: that of the key `topic:PLACE:PARTITION`.
pub fn slot(place: &str, partition: u32) -> u16 {
    key_slot(format!("topic:{place}:{partition}").as_bytes())
}

/// What changes the topics: a unit of an entry of the meta group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A new topic.
    Create {
        /// Its name.
        name: String,
        /// How many partitions.
        partitions: u32,
        /// Settings, key and value.
        settings: Vec<(String, String)>,
    },
    /// A topic goes, with all that it holds.
    Delete {
        /// Its name.
        name: String,
        /// Only if it is this one.
        id: Option<TopicId>,
    },
    /// More partitions.
    Grow {
        /// Its name.
        name: String,
        /// How many there are to be in all.
        partitions: u32,
    },
    /// Other settings. All or none.
    Configure {
        /// Its name.
        name: String,
        /// What is done, in order.
        edits: Vec<Edit>,
        /// Whether settings that are not named go back to their defaults (AlterConfigs).
        replace: bool,
    },
}

impl Change {
    /// Which topic it changes.
    pub fn name(&self) -> &str {
        let (Change::Create { name, .. }
        | Change::Delete { name, .. }
        | Change::Grow { name, .. }
        | Change::Configure { name, .. }) = self;
        name
    }

    /// A word for people.
    pub fn word(&self) -> &'static str {
        match self {
            Change::Create { .. } => "topic made",
            Change::Delete { .. } => "topic deleted",
            Change::Grow { .. } => "topic grown",
            Change::Configure { .. } => "topic configured",
        }
    }
}

/// What is done to one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Which.
    pub key: String,
    /// What.
    pub how: How,
}

/// See [`Edit`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum How {
    /// It gets this value.
    Set(String),
    /// It goes back to its default.
    Delete,
    /// A list gets these members.
    Append(String),
    /// A list loses these members.
    Subtract(String),
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done: which topic it is, and how many partitions it has (or had).
    Done {
        /// Which.
        id: TopicId,
        /// How many.
        partitions: u32,
    },
    /// Nothing was done: Kafka's code, and words for people.
    Refused(Code, String),
}

/// All topics, by name and by id. A copy shares what has not changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topics {
    by_name: BTreeMap<Arc<str>, Arc<Topic>>,
    by_id: BTreeMap<TopicId, Arc<Topic>>,
    partitions: u64,
    index: u64,
}

type Done = Result<(TopicId, u32), (Code, String)>;

fn refuse<T>(code: Code, why: impl Into<String>) -> Result<T, (Code, String)> {
    Err((code, why.into()))
}

impl Topics {
    /// The topic of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Topic>> {
        self.by_name.get(name)
    }

    /// The topic of this id.
    pub fn by_id(&self, id: TopicId) -> Option<&Arc<Topic>> {
        self.by_id.get(&id)
    }

    /// All, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Topic>> {
        self.by_name.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    /// Partitions of all topics.
    pub fn partitions(&self) -> u64 {
        self.partitions
    }

    /// Index of the last entry that changed something.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Whether this topic has gone for good, as seen by someone whose meta group has applied `applied`.
    pub fn is_gone(&self, id: TopicId, applied: u64) -> bool {
        id.born() <= applied && !self.by_id.contains_key(&id)
    }

    /// Applies a change at the index and stamp of its entry: the same on every node.
    pub fn apply(&mut self, change: &Change, index: u64, now: Millis) -> Outcome {
        let before = self.by_name.get(change.name()).cloned();
        let done = match change {
            Change::Create { name, partitions, settings } => self.create(name, *partitions, settings, index, now),
            Change::Delete { name, id } => self.delete(name, *id),
            Change::Grow { name, partitions } => self.grow(name, *partitions),
            Change::Configure { name, edits, replace } => self.configure(name, edits, *replace),
        };
        let made = (!matches!(change, Change::Delete { .. })).then(|| change.name());
        let done = match made.filter(|_| done.is_ok()) {
            Some(name) => match self.provide_dead_letters(name, index, now) {
                Ok(()) => done,
                Err(refused) => {
                    self.undo(name, before);
                    Err(refused)
                }
            },
            None => done,
        };
        match done {
            Ok((id, partitions)) => {
                self.index = index;
                Outcome::Done { id, partitions }
            }
            Err((code, why)) => Outcome::Refused(code, why),
        }
    }

    /// What a change would come to, without doing it (`validate_only`).
    pub fn judge(&self, change: &Change, index: u64, now: Millis) -> Outcome {
        // Names are shared, so a copy is cheap enough for what people ask by hand.
        self.clone().apply(change, index, now)
    }

    fn create(&mut self, name: &str, partitions: u32, settings: &[(String, String)], index: u64, now: Millis) -> Done {
        check_name(name)?;
        if self.by_name.contains_key(name) {
            return refuse(Code::TOPIC_ALREADY_EXISTS, format!("topic {name} exists already"));
        }
        if let Some(other) = self.collides(name) {
            return refuse(
                Code::INVALID_TOPIC_EXCEPTION,
                format!("topic {name} differs from {other} only in '.' and '_', which metrics do not tell apart"),
            );
        }
        self.check_partitions(partitions, 0)?;
        if self.by_name.len() >= TOPICS_MAX {
            return refuse(Code::POLICY_VIOLATION, format!("there are as many topics as there may be ({TOPICS_MAX})"));
        }
        let mut own = Settings::default();
        for (key, value) in settings {
            check_value(value)?;
            own.set(key, value).map_err(|wrong| (Code::INVALID_CONFIG, wrong.0))?;
        }
        // Several topics of one entry are told apart by their stamps' bits: the entry's index is the same.
        let mut id = TopicId::new(index, now);
        while self.by_id.contains_key(&id) {
            id = TopicId(id.0.wrapping_add(1 << 64));
        }
        let topic = Topic { name: name.into(), id, partitions, settings: own, created: now };
        self.partitions += u64::from(partitions);
        self.put(topic);
        Ok((id, partitions))
    }

    /// Puts a topic back as it was.
    fn undo(&mut self, name: &str, before: Option<Arc<Topic>>) {
        if let Some(own) = self.by_name.remove(name) {
            self.by_id.remove(&own.id);
            self.partitions -= u64::from(own.partitions);
        }
        if let Some(topic) = before {
            self.partitions += u64::from(topic.partitions);
            self.put((*topic).clone());
        }
    }

    /// The dead letter topic of a topic that has one: made, or as large as it has to be. Its partitions lie with the topic's, so that an entry
    /// goes there in one commit.
    fn provide_dead_letters(&mut self, name: &str, index: u64, now: Millis) -> Result<(), (Code, String)> {
        let topic = self.known(name)?;
        let Some(dead) = topic.settings.dead_letters(name) else { return Ok(()) };
        if dead == name {
            return refuse(Code::INVALID_CONFIG, "a topic cannot be its own dead letter topic");
        }
        let Some(own) = self.by_name.get(&*dead).cloned() else {
            let settings = [("quorate.place".to_owned(), topic.place())];
            return self.create(&dead, topic.partitions, &settings, index, now).map(|_| ());
        };
        if (0..topic.partitions).any(|nth| slot(&own.place(), nth) != topic.slot(nth)) {
            let why = format!(
                "topic {dead} lies elsewhere: a dead letter topic is made by itself, or with quorate.place={}, or the same tag",
                topic.place()
            );
            return refuse(Code::INVALID_CONFIG, why);
        }
        match own.partitions < topic.partitions {
            true => self.grow(&dead, topic.partitions).map(|_| ()),
            false => Ok(()),
        }
    }

    fn delete(&mut self, name: &str, id: Option<TopicId>) -> Done {
        let topic = self.known(name)?;
        if id.is_some_and(|id| id != topic.id) {
            return refuse(Code::UNKNOWN_TOPIC_OR_PARTITION, format!("topic {name} is another one now"));
        }
        self.by_name.remove(name);
        self.by_id.remove(&topic.id);
        self.partitions -= u64::from(topic.partitions);
        Ok((topic.id, topic.partitions))
    }

    fn grow(&mut self, name: &str, partitions: u32) -> Done {
        let topic = self.known(name)?;
        if partitions <= topic.partitions {
            return refuse(
                Code::INVALID_PARTITIONS,
                format!(
                    "topic {name} has {} partitions already, and partitions cannot be taken away",
                    topic.partitions
                ),
            );
        }
        self.check_partitions(partitions, topic.partitions)?;
        self.partitions += u64::from(partitions - topic.partitions);
        let id = topic.id;
        self.put(Topic { partitions, ..(*topic).clone() });
        Ok((id, partitions))
    }

    fn configure(&mut self, name: &str, edits: &[Edit], replace: bool) -> Done {
        let topic = self.known(name)?;
        let mut settings = if replace { Settings::default() } else { topic.settings.clone() };
        for key in ["quorate.tag", "quorate.place"].into_iter().filter(|key| replace && topic.settings.is_set(key)) {
            let value = topic.settings.get(key).expect("it is set");
            settings.set(key, value).map_err(|wrong| (Code::INVALID_CONFIG, wrong.0))?;
        }
        for Edit { key, how } in edits {
            if let How::Set(value) | How::Append(value) | How::Subtract(value) = how {
                check_value(value)?;
            }
            let done = match how {
                How::Set(value) => settings.set(key, value),
                How::Delete => settings.delete(key),
                How::Append(value) => settings.append(key, value),
                How::Subtract(value) => settings.subtract(key, value),
            };
            done.map_err(|wrong| (Code::INVALID_CONFIG, wrong.0))?;
        }
        if (settings.tag(), settings.own_place()) != (topic.settings.tag(), topic.settings.own_place()) {
            return refuse(
                Code::INVALID_CONFIG,
                "quorate.tag and quorate.place are given when the topic is made: they say where its records lie",
            );
        }
        let (id, partitions) = (topic.id, topic.partitions);
        self.put(Topic { settings, ..(*topic).clone() });
        Ok((id, partitions))
    }

    fn known(&self, name: &str) -> Result<Arc<Topic>, (Code, String)> {
        match self.by_name.get(name) {
            Some(topic) => Ok(topic.clone()),
            None => refuse(Code::UNKNOWN_TOPIC_OR_PARTITION, format!("there is no topic {name}")),
        }
    }

    fn put(&mut self, topic: Topic) {
        let topic = Arc::new(topic);
        self.by_name.insert(topic.name.clone(), topic.clone());
        self.by_id.insert(topic.id, topic);
    }

    fn check_partitions(&self, partitions: u32, before: u32) -> Result<(), (Code, String)> {
        if partitions == 0 {
            return refuse(Code::INVALID_PARTITIONS, "a topic has at least one partition");
        }
        if partitions > TOPIC_PARTITIONS_MAX {
            return refuse(Code::INVALID_PARTITIONS, format!("a topic has at most {TOPIC_PARTITIONS_MAX} partitions"));
        }
        if self.partitions + u64::from(partitions - before) > PARTITIONS_MAX {
            return refuse(
                Code::POLICY_VIOLATION,
                format!("all topics together have at most {PARTITIONS_MAX} partitions"),
            );
        }
        Ok(())
    }

    /// A topic whose name differs only where Kafka's metrics see no difference.
    fn collides(&self, name: &str) -> Option<&str> {
        if !name.contains(['.', '_']) {
            return None;
        }
        // Candidates share what stands before the first such character.
        let head = &name[..name.find(['.', '_']).expect("it was just found")];
        let alike = |other: &str| {
            other.len() == name.len()
                && other.bytes().zip(name.bytes()).all(|(a, b)| a == b || matches!((a, b), (b'.', b'_') | (b'_', b'.')))
        };
        let from = self.by_name.range::<str, _>((std::ops::Bound::Included(head), std::ops::Bound::Unbounded));
        from.map(|(other, _)| &**other).take_while(|other| other.starts_with(head)).find(|other| alike(other))
    }
}

/// Kafka's rule for topic names, and braces beside it: they place a topic with the keys of that tag.
///
/// # Errors
/// What is wrong.
pub fn check_name(name: &str) -> Result<(), (Code, String)> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'{' | b'}');
    if name.is_empty() || name == "." || name == ".." {
        return refuse(Code::INVALID_TOPIC_EXCEPTION, "a topic's name cannot be empty, \".\" or \"..\"");
    }
    if name.len() > NAME_BYTES_MAX {
        return refuse(
            Code::INVALID_TOPIC_EXCEPTION,
            format!("a topic's name has at most {NAME_BYTES_MAX} characters"),
        );
    }
    if !name.bytes().all(legal) {
        return refuse(
            Code::INVALID_TOPIC_EXCEPTION,
            "a topic's name is made of letters, digits, '.', '_', '-' and a '{tag}'",
        );
    }
    Ok(())
}

fn check_value(value: &str) -> Result<(), (Code, String)> {
    if value.len() > SETTING_BYTES_MAX {
        return refuse(Code::INVALID_CONFIG, format!("a setting's value has at most {SETTING_BYTES_MAX} bytes"));
    }
    Ok(())
}

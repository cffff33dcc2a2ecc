//! A topic's settings under Kafka's names (<https://kafka.apache.org/documentation/#topicconfigs>): those that differ from the
//! defaults, as text. What has no effect here is known and kept, so that tools which set it go on working; it says so.

use std::collections::BTreeMap;

use crate::limits::{DELAY_MS_MAX, PRIORITIES_MAX};

/// A setting as people see it.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    /// Its key.
    pub key: &'static str,
    /// Its value where nobody has set it.
    pub default: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it means; what has no effect says so.
    pub about: &'static str,
}

/// What a setting's value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A whole number from the first to the second.
    Number(i64, i64),
    /// true or false.
    Truth,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Any of these words, separated by commas.
    Words(&'static [&'static str]),
    /// A number from 0 to 1.
    Share,
    /// Text that has no other rule than its length.
    Text,
}

/// A key or value that cannot be, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong(pub String);

const LONG: Kind = Kind::Number(0, i64::MAX);
const OR_NONE: Kind = Kind::Number(-1, i64::MAX);
const INT: Kind = Kind::Number(0, i32::MAX as i64);

const fn known(key: &'static str, default: &'static str, kind: Kind, about: &'static str) -> Known {
    Known { key, default, kind, about }
}

/// Every setting that a topic may have.
pub const KNOWN: &[Known] = &[
    known(
        "cleanup.policy",
        "delete",
        Kind::Words(&["delete", "compact"]),
        "delete old records, or keep the last of each key",
    ),
    known(
        "compression.type",
        "producer",
        Kind::Word(&["producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"]),
        "batches are stored as the producer compressed them, whatever this says",
    ),
    known("delete.retention.ms", "86400000", LONG, "how long a deletion stays visible to readers of a compacted topic"),
    known("file.delete.delay.ms", "60000", LONG, "no effect"),
    known("flush.messages", "9223372036854775807", Kind::Number(1, i64::MAX), "no effect: every answer is durable"),
    known("flush.ms", "9223372036854775807", LONG, "no effect: every answer is durable"),
    known("follower.replication.throttled.replicas", "", Kind::Text, "no effect"),
    known("index.interval.bytes", "4096", INT, "no effect"),
    known("leader.replication.throttled.replicas", "", Kind::Text, "no effect"),
    known(
        "max.compaction.lag.ms",
        "9223372036854775807",
        Kind::Number(1, i64::MAX),
        "an older record of a compacted topic is not left uncompacted",
    ),
    known("max.message.bytes", "1048588", Kind::Number(0, 64 << 20), "largest record batch"),
    known("message.format.version", "3.0-IV1", Kind::Text, "no effect: batches are of version 2"),
    known("message.timestamp.after.max.ms", "3600000", LONG, "how far a timestamp may lie after the leader's clock"),
    known(
        "message.timestamp.before.max.ms",
        "9223372036854775807",
        LONG,
        "how far a timestamp may lie before the leader's clock",
    ),
    known("message.timestamp.difference.max.ms", "9223372036854775807", LONG, "no effect"),
    known(
        "message.timestamp.type",
        "CreateTime",
        Kind::Word(&["CreateTime", "LogAppendTime"]),
        "whose time a record has",
    ),
    known("message.downconversion.enable", "true", Kind::Truth, "no effect"),
    known(
        "min.cleanable.dirty.ratio",
        "0.5",
        Kind::Share,
        "the share of uncompacted bytes above which a compacted topic is compacted",
    ),
    known("min.compaction.lag.ms", "0", LONG, "a younger record of a compacted topic is left"),
    known(
        "min.insync.replicas",
        "1",
        Kind::Number(1, i32::MAX as i64),
        "no effect: a majority always has what was answered",
    ),
    known("preallocate", "false", Kind::Truth, "no effect"),
    known(
        "quorate.dead.letter.topic",
        "",
        Kind::Text,
        "where an entry goes that was delivered quorate.deliveries.max times; NAME.dead unless set; made with the setting",
    ),
    known(
        "quorate.delay.ms",
        "0",
        Kind::Number(0, DELAY_MS_MAX as i64),
        "readers of Redis groups are given a record so long after its append",
    ),
    known(
        "quorate.delays",
        "false",
        Kind::Truth,
        "the headers quorate-delay-ms and quorate-deliver-at say when readers of Redis groups are given a record",
    ),
    known(
        "quorate.deliveries.max",
        "0",
        Kind::Number(0, 1_000_000),
        "an entry that so many deliveries have not got acknowledged goes to the dead letter topic; 0 for never",
    ),
    known(
        "quorate.place",
        "",
        Kind::Text,
        "partitions lie where those of this name would; given when the topic is made, by itself to dead letter topics",
    ),
    known(
        "quorate.priorities",
        "0",
        Kind::Number(0, PRIORITIES_MAX as i64),
        "levels of the header quorate-priority, from 0; readers of Redis groups are given higher ones first; 0 for none",
    ),
    known(
        "quorate.tag",
        "",
        Kind::Text,
        "the topic lies in the shard of the keys with this {tag}; given when it is made",
    ),
    known(
        "quorate.visibility.ms",
        "0",
        Kind::Number(0, DELAY_MS_MAX as i64),
        "an entry that a reader of a Redis group has not acknowledged for so long is given to the next one; 0 for never",
    ),
    known("retention.bytes", "-1", OR_NONE, "bytes that a partition keeps; -1 for all"),
    known("retention.ms", "604800000", OR_NONE, "how long a record is kept; -1 for ever"),
    known("segment.bytes", "1073741824", Kind::Number(14, i32::MAX as i64), "no effect"),
    known("segment.index.bytes", "10485760", Kind::Number(4, i32::MAX as i64), "no effect"),
    known("segment.jitter.ms", "0", LONG, "no effect"),
    known("segment.ms", "604800000", Kind::Number(1, i64::MAX), "no effect"),
    known("unclean.leader.election.enable", "false", Kind::Word(&["false"]), "there are no unclean elections"),
];

/// A topic's settings that differ from the defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<&'static str, String>,
}

fn find(key: &str) -> Result<&'static Known, Wrong> {
    KNOWN.iter().find(|known| known.key == key).ok_or_else(|| Wrong(format!("unknown topic config name: {key}")))
}

fn members(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|member| !member.is_empty())
}

impl Kind {
    fn takes(self, value: &str) -> bool {
        match self {
            Kind::Number(from, to) => value.parse::<i64>().is_ok_and(|number| (from..=to).contains(&number)),
            Kind::Truth => matches!(value, "true" | "false"),
            Kind::Word(words) => words.contains(&value),
            Kind::Words(words) => {
                members(value).next().is_some() && members(value).all(|member| words.contains(&member))
            }
            Kind::Share => value.parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share)),
            Kind::Text => value.bytes().all(|byte| (b' '..=b'~').contains(&byte)),
        }
    }
}

impl Settings {
    /// The value in force.
    pub fn get(&self, key: &str) -> Option<&str> {
        let known = find(key).ok()?;
        Some(self.values.get(known.key).map_or(known.default, String::as_str))
    }

    /// Whether somebody has set it.
    pub fn is_set(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// What has been set.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.values.iter().map(|(key, value)| (*key, value.as_str()))
    }

    /// Sets one.
    ///
    /// # Errors
    /// An unknown key or a value that it cannot have.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let known = find(key)?;
        let is_place = matches!(key, "quorate.tag" | "quorate.place");
        if !known.kind.takes(value) || key == "quorate.tag" && value.contains(['{', '}']) {
            return Err(Wrong(format!("invalid value {value} for configuration {key}")));
        }
        if is_place && value.is_empty() {
            return self.delete(key);
        }
        self.values.insert(known.key, value.to_owned());
        Ok(())
    }

    /// Puts one back to its default.
    ///
    /// # Errors
    /// An unknown key.
    pub fn delete(&mut self, key: &str) -> Result<(), Wrong> {
        self.values.remove(find(key)?.key);
        Ok(())
    }

    /// Adds members to a list.
    ///
    /// # Errors
    /// An unknown key, no list, or members that it cannot have.
    pub fn append(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let mut list: Vec<String> = self.list(key)?;
        for member in members(value) {
            if !list.iter().any(|own| own == member) {
                list.push(member.to_owned());
            }
        }
        self.set(key, &list.join(","))
    }

    /// Takes members out of a list.
    ///
    /// # Errors
    /// An unknown key, no list, or a list that may not be empty.
    pub fn subtract(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let mut list: Vec<String> = self.list(key)?;
        list.retain(|own| !members(value).any(|member| member == own));
        self.set(key, &list.join(","))
    }

    fn list(&self, key: &str) -> Result<Vec<String>, Wrong> {
        if !matches!(find(key)?.kind, Kind::Words(_)) {
            return Err(Wrong(format!("configuration {key} is no list")));
        }
        Ok(members(self.get(key).unwrap_or_default()).map(str::to_owned).collect())
    }

    fn number(&self, key: &str) -> i64 {
        self.get(key).and_then(|value| value.parse().ok()).expect("set() and the defaults hold numbers only")
    }

    /// Milliseconds for which a record is kept; `None` for ever.
    pub fn retention_ms(&self) -> Option<u64> {
        u64::try_from(self.number("retention.ms")).ok()
    }

    /// Bytes that a partition keeps; `None` for all.
    pub fn retention_bytes(&self) -> Option<u64> {
        u64::try_from(self.number("retention.bytes")).ok()
    }

    /// Largest record batch, bytes.
    pub fn batch_bytes_max(&self) -> usize {
        self.number("max.message.bytes") as usize
    }

    /// Whether records have the time of their append.
    pub fn append_time(&self) -> bool {
        self.get("message.timestamp.type") == Some("LogAppendTime")
    }

    /// Whether old records are deleted.
    pub fn deletes(&self) -> bool {
        members(self.get("cleanup.policy").unwrap_or_default()).any(|policy| policy == "delete")
    }

    /// Whether the last record of each key is kept.
    pub fn compacts(&self) -> bool {
        members(self.get("cleanup.policy").unwrap_or_default()).any(|policy| policy == "compact")
    }

    /// When a topic that is compacted is to be.
    pub fn cleanable(&self) -> crate::partition::Cleanable {
        let share = self.get("min.cleanable.dirty.ratio").and_then(|value| value.parse().ok());
        crate::partition::Cleanable {
            ratio: share.expect("set() and the defaults hold numbers only"),
            lag_min_ms: self.number("min.compaction.lag.ms").unsigned_abs(),
            lag_max_ms: self.number("max.compaction.lag.ms").unsigned_abs(),
        }
    }

    /// Milliseconds for which a deletion stays in a topic that is compacted.
    pub fn tombstones_ms(&self) -> i64 {
        self.number("delete.retention.ms")
    }

    /// What batches must keep to at this moment of the leader's clock, milliseconds.
    pub fn rules(&self, now: u64) -> crate::batch::Rules {
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        crate::batch::Rules {
            batch_bytes_max: self.batch_bytes_max(),
            append_time: self.append_time(),
            stamp_min: now.saturating_sub(self.number("message.timestamp.before.max.ms")),
            stamp_max: now.saturating_add(self.number("message.timestamp.after.max.ms")),
        }
    }

    /// The name as which its partitions are placed, if it is another one than its own.
    pub fn own_place(&self) -> Option<&str> {
        self.values.get("quorate.place").map(String::as_str)
    }

    /// Milliseconds after which an entry that was not acknowledged is given to the next reader; `None` for never.
    pub fn visibility_ms(&self) -> Option<u64> {
        Some(self.number("quorate.visibility.ms").unsigned_abs()).filter(|span| *span > 0)
    }

    /// Deliveries after which an entry goes to the dead letter topic.
    pub fn deliveries_max(&self) -> Option<u64> {
        Some(self.number("quorate.deliveries.max").unsigned_abs()).filter(|count| *count > 0)
    }

    /// That topic, of the topic of this name; `None` where nothing goes there.
    pub fn dead_letters(&self, name: &str) -> Option<String> {
        self.deliveries_max()?;
        let own = self.get("quorate.dead.letter.topic").filter(|own| !own.is_empty());
        Some(own.map_or_else(|| format!("{name}.dead"), str::to_owned))
    }

    /// Milliseconds from a record's append until group readers are given it, where no header says otherwise.
    pub fn delay_ms(&self) -> u64 {
        self.number("quorate.delay.ms").unsigned_abs()
    }

    /// Whether headers say when a record is due.
    pub fn delays(&self) -> bool {
        self.get("quorate.delays") == Some("true")
    }

    /// Levels of priority; 0 for none.
    pub fn priorities(&self) -> u8 {
        self.number("quorate.priorities") as u8
    }

    /// Whether records may be marked (see [`crate::marks`]).
    pub fn marks(&self) -> bool {
        self.delays() || self.priorities() > 0 || self.delay_ms() > 0
    }

    /// The tag of the keys with which the topic lies.
    pub fn tag(&self) -> Option<&str> {
        self.values.get("quorate.tag").map(String::as_str)
    }
}

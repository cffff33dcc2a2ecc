//! What a commit did beside what somebody asks about: the one transaction of an entry that names a key or writes to a topic.

use queue::{Command, PartitionId, TopicId};
use serde::Serialize;
use shard::command::{Args, find};
use shard::commit::Step;
use shard::entry::{Part, Unit, read_expire, read_header, read_unit};
use shard::streams::{StreamOp, What};
use store::codec::{Corrupt, Input};

use super::tape::{Held, printable};

/// Partitions that are named.
const PARTITIONS_MAX: usize = 8;

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub enum Asked<'a> {
    /// A key of a database.
    Key(u8, &'a [u8]),
    /// A topic, or one of its partitions.
    Topic(TopicId, Option<u32>),
}

/// One transaction, or one command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Told {
    /// Its commands and keys.
    #[serde(flatten)]
    pub held: Held,
    /// Partitions that it writes records to.
    pub partitions: Vec<Partition>,
    /// Consumer groups whose offsets it commits.
    pub groups: Vec<String>,
    /// Whether it is a commit across shards.
    pub across_shards: bool,
    /// Other transactions and commands of the same entry: they were made durable together, and are independent.
    pub others: usize,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// Its topic's id, in hexadecimal; whoever knows the topics puts the name in its place.
    pub topic: String,
    /// Which.
    pub partition: u32,
}

/// The last transaction of an entry that names it. `None` where none does, as far as the entry can be read.
pub fn last(entry: &[u8], asked: Asked<'_>) -> Option<Told> {
    let mut input = Input::new(entry);
    read_header(&mut input).ok()?;
    let (mut found, mut units) = (None, 0usize);
    while !input.is_empty() {
        let mut whole = input;
        let before = input.len();
        let Ok(unit) = read_unit(&mut input) else { break };
        units += 1;
        let mut names = Names { asked, is_named: false, told: Told::default() };
        if names.unit(unit).is_ok() && names.is_named {
            let bytes = whole.take(before - input.len()).ok()?;
            names.told.held = Held::of_unit(bytes);
            found = Some(names.told);
        }
    }
    found.map(|told| Told { others: units - 1, ..told })
}

struct Names<'a> {
    asked: Asked<'a>,
    is_named: bool,
    told: Told,
}

impl Names<'_> {
    fn unit(&mut self, unit: Unit<'_>) -> Result<(), Corrupt> {
        match unit {
            Unit::Command { db, words, .. } => self.command(db, &words),
            Unit::Multi(mut multi) => {
                for _ in 0..multi.count {
                    match multi.next_part()? {
                        Part::Command(db, words) => self.command(db, &words),
                        Part::Stream(op, _) => self.stream(&op),
                        Part::Literal(_) => {}
                    }
                }
            }
            Unit::Expire(mut keys) => {
                while let Some((db, key)) = read_expire(&mut keys)? {
                    self.key(db, key);
                }
            }
            Unit::Queue(command, _) => self.queue(&command),
            Unit::Stream { op, .. } => self.stream(&op),
            // Of a commit across shards the decision is told: it holds all of it.
            Unit::Commit(Step::Decide { unit, .. }) => {
                self.told.across_shards = true;
                self.unit(read_unit(&mut Input::new(unit))?)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn command(&mut self, db: u8, words: &[&[u8]]) {
        let words: Args<'_> = words;
        let Some(spec) = words.first().and_then(|name| find(name)) else { return };
        let places = spec.key_places(words);
        places.into_iter().filter_map(|place| words.get(place)).for_each(|key| self.key(db, key));
    }

    fn key(&mut self, db: u8, key: &[u8]) {
        self.is_named |= matches!(self.asked, Asked::Key(own_db, own) if own_db == db && own == key);
    }

    fn stream(&mut self, op: &StreamOp<'_>) {
        match &op.what {
            What::Queue(command, _) => self.queue(command),
            What::Run { streams, .. } => {
                for named in streams {
                    self.topic((named.topic, named.partition));
                }
            }
            What::Bury { stream, produce, .. } => {
                self.topic((stream.topic, stream.partition));
                self.queue(produce);
            }
        }
    }

    fn queue(&mut self, command: &Command<'_>) {
        match command {
            Command::Produce { topic, partition, .. } => {
                self.topic((*topic, *partition));
                let own = Partition { topic: format!("{:032x}", topic.0), partition: *partition };
                if self.told.partitions.len() < PARTITIONS_MAX && !self.told.partitions.contains(&own) {
                    self.told.partitions.push(own);
                }
            }
            Command::Commit { group, .. } | Command::TransactionCommit { group, .. }
                if self.told.groups.len() < PARTITIONS_MAX =>
            {
                self.told.groups.push(printable(group.as_bytes()));
            }
            _ => {}
        }
    }

    fn topic(&mut self, (topic, partition): PartitionId) {
        self.is_named |= matches!(self.asked, Asked::Topic(own, nth)
            if own == topic && nth.is_none_or(|nth| nth == partition));
    }
}

#[cfg(test)]
mod tests {
    use base::GroupId;
    use queue::records::{Record, batch_of};
    use shard::entry::{MultiBuilder, put_command, put_header};
    use shard::reply::Protocol;
    use shard::streams::put_queue;

    use super::*;

    #[test]
    fn of_an_entry_that_transaction_is_told_which_names_the_key() {
        let mut entry = Vec::new();
        put_header(&mut entry);
        put_command(&mut entry, 0, Protocol::Resp2, &[b"SET", b"other", b"1"]);
        let mut multi = MultiBuilder::default();
        multi.command(0, &[b"SET", b"order:17", b"x"]);
        multi.command(0, &[b"DECR", b"stock"]);
        let mut form = Vec::new();
        let batches = batch_of(&Record { value: Some(b"placed"), ..Record::default() });
        let (topic, place, append_time, transaction) = (TopicId(7), "orders", false, None);
        let produce = Command::Produce {
            topic,
            place,
            partition: 3,
            append_time,
            transaction,
            marks: Vec::new(),
            batches: &batches,
        };
        put_queue(&mut form, GroupId(1), &produce);
        multi.stream(&form);
        multi.finish(&mut entry, Protocol::Resp2, &[]);
        let told = last(&entry, Asked::Key(0, b"order:17")).expect("it is named");
        let keys: Vec<&str> = told.held.keys.iter().map(|key| key.name.as_str()).collect();
        assert_eq!((keys, told.held.transactions, told.others), (vec!["order:17", "stock"], 1, 1));
        assert_eq!(told.partitions, [Partition { topic: format!("{:032x}", 7), partition: 3 }]);
        assert_eq!(last(&entry, Asked::Topic(TopicId(7), None)), Some(told.clone()));
        assert_eq!(last(&entry, Asked::Topic(TopicId(7), Some(3))), Some(told));
        for other in [Asked::Key(1, b"order:17"), Asked::Key(0, b"order"), Asked::Topic(TopicId(7), Some(2))] {
            assert_eq!(last(&entry, other), None, "{other:?}");
        }
        let alone = last(&entry, Asked::Key(0, b"other")).expect("it is named");
        assert_eq!((alone.held.keys.len(), alone.partitions.len()), (1, 0));
        for length in 0..entry.len() {
            // An entry that was cut is read as far as it goes.
            let _ = last(&entry[..length], Asked::Key(0, b"order:17"));
        }
    }
}

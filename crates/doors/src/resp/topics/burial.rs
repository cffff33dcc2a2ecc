//! Entries that were delivered too often: their copies for the dead letter topic, which the reader that finds one makes. Copy and
//! acknowledgement are one unit of the shard, so each goes there once, whoever is killed when.

use std::collections::BTreeMap;

use queue::PartitionId;
use queue::records::{Record, batch_of};
use shard::streams::{self, Named, Stand};

use super::fill::Wanted;
use crate::resp::door::Door;

/// Headers of a dead letter, beside its own: where it comes from, who had it last, and how often it was delivered.
const HEADERS: [&[u8]; 7] = [
    b"quorate-dead-topic",
    b"quorate-dead-partition",
    b"quorate-dead-offset",
    b"quorate-dead-group",
    b"quorate-dead-consumer",
    b"quorate-dead-deliveries",
    b"quorate-dead-reason",
];

/// The copies of one answer's dead entries, by the place of the original.
#[derive(Debug, Default)]
pub(super) struct Burials {
    group: Vec<u8>,
    consumer: Vec<u8>,
    /// How often each was delivered to no avail, and its copy once it was read.
    dead: BTreeMap<Wanted, (u64, Vec<u8>)>,
}

/// The dead entries in an answer of the shard.
pub(super) fn named_in(answer: &[u8], group: Option<&[u8]>, consumer: Option<&[u8]>) -> Burials {
    let (group, consumer) = (group.unwrap_or_default().to_vec(), consumer.unwrap_or_default().to_vec());
    let mut burials = Burials { group, consumer, dead: BTreeMap::new() };
    for stand in super::fill::stands(answer).unwrap_or_default() {
        if stand.is_dead {
            burials.dead.insert((stand.id, stand.offset), (stand.deliveries.saturating_sub(1), Vec::new()));
        }
    }
    burials
}

impl Burials {
    /// Makes the copy of a record, if its entry is dead.
    pub(super) fn note(&mut self, door: &Door, id: PartitionId, record: &Record<'_>) {
        let Some((deliveries, copy)) = self.dead.get_mut(&(id, record.offset)) else { return };
        let topics = door.topics();
        let Some(topic) = topics.as_ref().and_then(|topics| topics.by_id(id.0)) else { return };
        let numbers = [id.1.to_string(), record.offset.to_string(), deliveries.to_string()];
        let values: [&[u8]; 7] = [
            topic.name.as_bytes(),
            numbers[0].as_bytes(),
            numbers[1].as_bytes(),
            &self.group,
            &self.consumer,
            numbers[2].as_bytes(),
            b"deliveries",
        ];
        let mut dead = record.clone();
        // One that dies for the second time tells of the second.
        dead.headers.retain(|(name, _)| !HEADERS.contains(name));
        dead.headers.extend(HEADERS.into_iter().zip(values.map(Some)));
        *copy = batch_of(&dead);
    }
}

/// What is asked of the shard: `words` are those of Q.XACK. `None` where there is nowhere to go.
pub(super) fn form(
    door: &Door,
    at: usize,
    stream: Named,
    words: &[&[u8]],
    burials: &Burials,
    stand: Stand,
) -> Option<Vec<u8>> {
    let (_, batches) = burials.dead.get(&(stand.id, stand.offset)).filter(|(_, copy)| !copy.is_empty())?;
    let topics = door.topics()?;
    let topic = topics.by_id(stand.id.0)?;
    let dead = topics.get(&topic.settings.dead_letters(&topic.name)?)?;
    let partition = stand.id.1;
    if partition >= dead.partitions || door.home_of_partition(dead, partition) != at {
        return None;
    }
    let produce = queue::Command::Produce {
        topic: dead.id,
        place: &dead.place(),
        partition,
        append_time: dead.settings.append_time(),
        transaction: None,
        marks: Vec::new(),
        batches,
    };
    let mut form = Vec::new();
    streams::put_burial(&mut form, door.shards[at].group, stream, words, &produce);
    Some(form)
}

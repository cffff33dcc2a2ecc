//! A shard's queue out to a snapshot, piece by piece, as it was at one moment; and back in.
//!
//! Rows are not part of it: what they speak of goes with the log, is copied out before, and found again by the extent files' own
//! indexes (`extents`). The walk holds what there was by reference; whoever changes it meanwhile changes a copy of that one partition or group,
//! whose rows are shared in parts. So a chunk is as long as asked for, however large one partition is.
//!
//! ```text
//!   books    version:u8  epoch  counter  swept  dropped topics
//!   record   1 partition   id place start next epochs          5 group          name stamp generation marked
//!            3 producers   id (producer)*                       6 its offsets    name offsets
//!                                                               7 its pending    name producer epoch number offsets
//!            4 aborted     id (aborted)*                        8 transaction    id without targets     9 its targets
//!           10 cleaned     id cleans cleaned, where there is something to say
//!           11 marked      id (offset due priority)*
//! ```

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use store::codec::{Corrupt, Input, put_varint};

use crate::command::{id, put_id};
use crate::group::{self, Group, Key, Offset};
use crate::marks::Marked;
use crate::partition::{Aborted, Partition};
use crate::producer::Producer;
use crate::state::{PartitionId, Queue};
use crate::transaction::{Target, Transaction};
use crate::words::{int, int16, int32, list, put_bool, put_int, put_text, text, truth, uint32, version};

const VERSION: u8 = 1;
/// Things of one record at most.
const STEP: usize = 256;

#[derive(Clone, Debug)]
enum Item {
    Partition(PartitionId, Arc<Partition>),
    Group(Arc<str>, Arc<Group>),
    Transaction(Arc<str>, Arc<Transaction>),
}

/// How far an item has been written.
#[derive(Clone, Debug, Default)]
enum At {
    #[default]
    Head,
    Producers(Option<i64>),
    Aborted(usize),
    Marked(Option<u64>),
    Offsets(Option<Key>),
    Pending(i64, Option<Key>),
    Targets(Option<Target>),
    Over,
}

/// A snapshot that is being written.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// What is left, last first.
    items: Vec<Item>,
    at: At,
}

fn put_partition_id(out: &mut Vec<u8>, id: PartitionId) {
    put_id(out, id.0);
    put_varint(out, u64::from(id.1));
}

fn partition_id(input: &mut Input<'_>) -> Result<PartitionId, Corrupt> {
    Ok((id(input)?, uint32(input)?))
}

impl Item {
    /// Writes the next record. Returns how far it is then.
    fn write(&self, at: At, out: &mut Vec<u8>) -> At {
        match self {
            Item::Partition(id, own) => write_partition(*id, own, at, out),
            Item::Group(name, own) => write_group(name, own, at, out),
            Item::Transaction(name, own) => {
                let after = match at {
                    At::Targets(after) => after,
                    _ => {
                        out.push(8);
                        put_text(out, name);
                        own.encode_head(out);
                        None
                    }
                };
                let from = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                let some: Vec<&Target> = own.targets.range::<Target, _>((from, Bound::Unbounded)).take(STEP).collect();
                let Some(last) = some.last() else {
                    return At::Over;
                };
                out.push(9);
                put_text(out, name);
                put_varint(out, some.len() as u64);
                some.iter().for_each(|target| target.encode(out));
                At::Targets(Some((*last).clone()))
            }
        }
    }
}

fn write_partition(id: PartitionId, own: &Partition, at: At, out: &mut Vec<u8>) -> At {
    match at {
        At::Producers(after) => {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let some: Vec<(&i64, &Producer)> = own.producers.range((from, Bound::Unbounded)).take(STEP).collect();
            let Some((last, _)) = some.last() else {
                return At::Aborted(0);
            };
            out.push(3);
            put_partition_id(out, id);
            put_varint(out, some.len() as u64);
            for (producer, known) in &some {
                put_int(out, **producer);
                known.encode(out);
            }
            At::Producers(Some(**last))
        }
        At::Aborted(from) => {
            let some = own.aborted.range(from..own.aborted.len().min(from + STEP));
            if some.len() == 0 {
                return At::Marked(None);
            }
            out.push(4);
            put_partition_id(out, id);
            put_varint(out, some.len() as u64);
            let next = from + some.len();
            for aborted in some {
                put_int(out, aborted.producer);
                [aborted.first, aborted.last, aborted.stable].into_iter().for_each(|offset| put_varint(out, offset));
            }
            At::Aborted(next)
        }
        At::Marked(after) => {
            let from = after.map_or(Bound::Unbounded, Bound::Excluded);
            let some: Vec<(&u64, &Marked)> = own.marked.range((from, Bound::Unbounded)).take(STEP).collect();
            let Some((last, _)) = some.last() else {
                return At::Over;
            };
            out.push(11);
            put_partition_id(out, id);
            put_varint(out, some.len() as u64);
            for (offset, marked) in &some {
                put_varint(out, **offset);
                put_varint(out, marked.due);
                out.push(marked.priority);
            }
            At::Marked(Some(**last))
        }
        _ => {
            out.push(1);
            put_partition_id(out, id);
            put_text(out, &own.place);
            put_varint(out, own.start);
            put_varint(out, own.next);
            put_varint(out, own.epochs.len() as u64);
            for (epoch, first) in &own.epochs {
                put_int(out, i64::from(*epoch));
                put_varint(out, *first);
            }
            if own.cleans > 0 {
                out.push(10);
                put_partition_id(out, id);
                put_varint(out, own.cleans);
                put_varint(out, own.cleaned);
            }
            At::Producers(None)
        }
    }
}

fn after(offsets: &BTreeMap<Key, Offset>, key: Option<Key>) -> Vec<(&Key, &Offset)> {
    let from = key.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
    offsets.range::<Key, _>((from, Bound::Unbounded)).take(STEP).collect()
}

fn write_group(name: &str, own: &Group, at: At, out: &mut Vec<u8>) -> At {
    let pending_after = |producer: Option<i64>| {
        let from = producer.map_or(Bound::Unbounded, Bound::Excluded);
        own.pending.range((from, Bound::Unbounded)).next().map_or(At::Over, |(next, _)| At::Pending(*next, None))
    };
    match at {
        At::Offsets(reached) => {
            let some = after(&own.offsets, reached);
            let Some((last, _)) = some.last() else {
                return pending_after(None);
            };
            out.push(6);
            put_text(out, name);
            group::put_kept(out, &some);
            At::Offsets(Some((*last).clone()))
        }
        At::Pending(producer, reached) => {
            let pending = &own.pending[&producer];
            let some = after(&pending.offsets, reached.clone());
            if some.is_empty() && reached.is_some() {
                return pending_after(Some(producer));
            }
            out.push(7);
            put_text(out, name);
            put_int(out, producer);
            put_int(out, i64::from(pending.epoch));
            put_varint(out, pending.number);
            group::put_kept(out, &some);
            match some.last() {
                Some((last, _)) => At::Pending(producer, Some((*last).clone())),
                None => pending_after(Some(producer)),
            }
        }
        _ => {
            out.push(5);
            put_text(out, name);
            own.encode_head(out);
            At::Offsets(None)
        }
    }
}

impl Queue {
    /// Appends what stands in a snapshot's first chunk.
    pub fn encode_books(&self, out: &mut Vec<u8>) {
        out.push(VERSION);
        put_int(out, i64::from(self.epoch));
        put_varint(out, self.counter);
        put_varint(out, self.swept);
        put_bool(out, self.more_to_sweep);
        put_varint(out, self.dropped.len() as u64);
        self.dropped.iter().for_each(|topic| put_id(out, *topic));
    }

    /// Reads what [`Queue::encode_books`] wrote; the records follow ([`Queue::restore`]).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_books(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        version(input, VERSION)?;
        self.clear();
        self.epoch = int32(input)?;
        self.counter = input.varint()?;
        self.swept = input.varint()?;
        self.more_to_sweep = truth(input)?;
        self.dropped = list(input, id)?.into();
        Ok(())
    }

    /// Begins a walk over all records as they are now. False where there are none.
    pub fn begin_walk(&mut self) -> bool {
        let mut items: Vec<Item> =
            self.transactions.iter().rev().map(|(id, own)| Item::Transaction(id.clone(), own.clone())).collect();
        items.extend(self.groups.iter().rev().map(|(name, own)| Item::Group(name.clone(), own.clone())));
        items.extend(self.partitions.iter().rev().map(|(id, own)| Item::Partition(*id, own.clone())));
        self.walk = (!items.is_empty()).then_some(Walk { items, at: At::Head });
        self.walk.is_some()
    }

    /// Appends records until `out` is about `bytes` long. True when that was all.
    pub fn walk(&mut self, bytes: usize, out: &mut Vec<u8>) -> bool {
        let Some(walk) = &mut self.walk else {
            return true;
        };
        while out.len() < bytes {
            let Some(item) = walk.items.last() else {
                self.walk = None;
                return true;
            };
            walk.at = item.write(std::mem::take(&mut walk.at), out);
            if matches!(walk.at, At::Over) {
                walk.items.pop();
                walk.at = At::Head;
            }
        }
        false
    }

    /// Whether a walk is under way.
    pub fn is_walking(&self) -> bool {
        self.walk.is_some()
    }

    /// Ends a walk early.
    pub fn abort_walk(&mut self) {
        self.walk = None;
    }

    /// Reads the records of one chunk.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn restore(&mut self, records: &[u8]) -> Result<usize, Corrupt> {
        let mut input = Input::new(records);
        let mut count = 0;
        while !input.is_empty() {
            self.record(&mut input)?;
            count += 1;
        }
        Ok(count)
    }

    fn record(&mut self, input: &mut Input<'_>) -> Result<(), Corrupt> {
        const ORPHAN: Corrupt = Corrupt("a part of something that is not there");
        match input.u8()? {
            1 => {
                let id = partition_id(input)?;
                let mut own = Partition::new(text(input)?);
                (own.start, own.next) = (input.varint()?, input.varint()?);
                own.epochs = list(input, |input| Ok((int32(input)?, input.varint()?)))?;
                self.partitions.insert(id, Arc::new(own));
            }
            kind @ 3..=4 => {
                let id = partition_id(input)?;
                let own = Arc::make_mut(self.partitions.get_mut(&id).ok_or(ORPHAN)?);
                match kind {
                    3 => own.producers.extend(list(input, |input| Ok((int(input)?, Producer::decode(input)?)))?),
                    _ => own.aborted.extend(list(input, |input| {
                        let producer = int(input)?;
                        Ok(Aborted { producer, first: input.varint()?, last: input.varint()?, stable: input.varint()? })
                    })?),
                }
            }
            5 => {
                let name = text(input)?;
                self.groups.insert(name.into(), Arc::new(Group::decode_head(input)?));
            }
            kind @ 6..=7 => {
                let own = Arc::make_mut(self.groups.get_mut(text(input)?).ok_or(ORPHAN)?);
                if kind == 6 {
                    own.offsets.extend(group::read_kept(input)?);
                } else {
                    let producer = int(input)?;
                    let (epoch, number) = (int16(input)?, input.varint()?);
                    let offsets = group::read_kept(input)?;
                    let new = || group::Pending { epoch, number, offsets: BTreeMap::new() };
                    own.pending.entry(producer).or_insert_with(new).offsets.extend(offsets);
                }
            }
            8 => {
                let name = text(input)?;
                self.transactions.insert(name.into(), Arc::new(Transaction::decode_head(input)?));
            }
            9 => {
                let own = Arc::make_mut(self.transactions.get_mut(text(input)?).ok_or(ORPHAN)?);
                own.targets.extend(list(input, Target::decode)?);
            }
            10 => {
                let id = partition_id(input)?;
                let own = Arc::make_mut(self.partitions.get_mut(&id).ok_or(ORPHAN)?);
                (own.cleans, own.cleaned) = (input.varint()?, input.varint()?);
            }
            11 => {
                let id = partition_id(input)?;
                let own = Arc::make_mut(self.partitions.get_mut(&id).ok_or(ORPHAN)?);
                own.marked.extend(list(input, |input| {
                    Ok((input.varint()?, Marked { due: input.varint()?, priority: input.u8()? }))
                })?);
            }
            _ => return Err(Corrupt("unknown record of a queue")),
        }
        Ok(())
    }

    /// After the last chunk: builds what is not stored.
    pub fn finish_restore(&mut self) {
        for own in self.partitions.values_mut() {
            let own = Arc::make_mut(own);
            own.rebuild();
            #[cfg(any(test, feature = "planted"))]
            {
                own.planted = self.planted;
                if self.planted.producers_forgotten {
                    own.producers.values_mut().for_each(crate::producer::Producer::forget);
                }
            }
        }
        self.producers = self.partitions.values().map(|own| own.producers.len()).sum();
        self.offsets = self.groups.values().map(|own| own.offset_count()).sum();
    }
}

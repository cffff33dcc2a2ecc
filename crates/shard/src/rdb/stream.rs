//! Streams: entries in listpacks under the id of the first, then the counters, then the groups.
//!
//! ```text
//!   listpack   entries  deleted  fields  field…  0   { flags  ms−first's  seq−first's  [fields  field  value…] or value…  elements } …
//!   group      name  last id  entries read   pending: { id (16)  delivered (8)  count }   consumers: { name  seen  active  ids }
//! ```

use std::collections::BTreeMap;

use store::value::{Pending, Stream, StreamId};

use super::listpack::{Builder, Listpack};
use super::write::{put_bytes, put_length};
use super::{BadData, Source, VERSION, VERSION_OF_MOST, kind};

const DELETED: i64 = 1;
const SAME_FIELDS: i64 = 2;
/// When a listpack is full, as Redis has it by default.
const NODE_ENTRIES_MAX: usize = 100;
const NODE_BYTES_MAX: usize = 4096;
/// Stands for "not known" where entries are counted, and for "never" where it was.
const UNKNOWN: u64 = u64::MAX;

fn put_id(out: &mut Vec<u8>, id: StreamId) {
    put_length(out, id.ms);
    put_length(out, id.seq);
}

fn put_raw_id(out: &mut Vec<u8>, id: StreamId) {
    out.extend_from_slice(&id.ms.to_be_bytes());
    out.extend_from_slice(&id.seq.to_be_bytes());
}

/// The type that can tell all of a stream, and the first version that knows it: the older one cannot tell when a consumer was
/// given something from when it asked.
fn kind_of(stream: &Stream) -> (u8, u16) {
    let mut consumers = stream.groups().flat_map(|(_, group)| group.consumers());
    if consumers.all(|consumer| consumer.active == Some(consumer.seen)) {
        (kind::STREAM_2, VERSION_OF_MOST)
    } else {
        (kind::STREAM_3, VERSION)
    }
}

pub(super) fn write(stream: &Stream, out: &mut Vec<u8>) -> u16 {
    let (kind, version) = kind_of(stream);
    out.push(kind);
    let mut nodes = Vec::new();
    let mut count = 0;
    let mut node: Option<Node> = None;
    for entry in stream.log.range(StreamId::MIN, StreamId::MAX) {
        let fields: Vec<(&[u8], &[u8])> = entry.fields().collect();
        if let Some(full) = node.take_if(|node| node.is_full(&fields)) {
            full.finish(&mut nodes);
            count += 1;
        }
        node.get_or_insert_with(|| Node::new(entry.id, &fields)).push(entry.id, &fields);
    }
    if let Some(last) = node {
        last.finish(&mut nodes);
        count += 1;
    }
    put_length(out, count);
    out.extend_from_slice(&nodes);
    let log = &stream.log;
    put_length(out, log.len());
    put_id(out, log.last_id());
    put_id(out, log.first_id());
    put_id(out, log.max_deleted_id());
    put_length(out, log.entries_added());
    put_length(out, stream.groups().len() as u64);
    for (name, group) in stream.groups() {
        put_bytes(out, name);
        put_id(out, group.last_id);
        put_length(out, group.entries_read.unwrap_or(UNKNOWN));
        put_length(out, group.pending_count() as u64);
        for (id, pending) in group.pending_from(StreamId::MIN) {
            put_raw_id(out, id);
            out.extend_from_slice(&pending.delivered.to_le_bytes());
            put_length(out, pending.count);
        }
        put_length(out, group.consumer_count() as u64);
        for consumer in group.consumers() {
            put_bytes(out, &consumer.name);
            out.extend_from_slice(&consumer.seen.to_le_bytes());
            if kind == kind::STREAM_3 {
                out.extend_from_slice(&consumer.active.unwrap_or(UNKNOWN).to_le_bytes());
            }
            put_length(out, consumer.pending_count() as u64);
            consumer.pending_from(StreamId::MIN).for_each(|id| put_raw_id(out, id));
        }
    }
    version
}

/// A field and its value.
type Pair = (Vec<u8>, Vec<u8>);

/// A listpack of entries. Its head counts them, so it is written last.
struct Node {
    first: StreamId,
    fields: Vec<Vec<u8>>,
    entries: Vec<(StreamId, Vec<Pair>)>,
    bytes: usize,
}

impl Node {
    fn new(first: StreamId, fields: &[(&[u8], &[u8])]) -> Node {
        Node { first, fields: fields.iter().map(|(field, _)| field.to_vec()).collect(), entries: Vec::new(), bytes: 0 }
    }

    fn is_full(&self, fields: &[(&[u8], &[u8])]) -> bool {
        let more: usize = fields.iter().map(|(field, value)| field.len() + value.len()).sum();
        self.entries.len() >= NODE_ENTRIES_MAX || self.bytes + more > NODE_BYTES_MAX
    }

    fn push(&mut self, id: StreamId, fields: &[(&[u8], &[u8])]) {
        self.bytes += fields.iter().map(|(field, value)| field.len() + value.len()).sum::<usize>();
        let owned = fields.iter().map(|(field, value)| (field.to_vec(), value.to_vec()));
        self.entries.push((id, owned.collect()));
    }

    fn finish(self, out: &mut Vec<u8>) {
        let mut id = Vec::with_capacity(16);
        put_raw_id(&mut id, self.first);
        put_bytes(out, &id);
        let mut packed = Builder::new();
        packed.push_number(self.entries.len() as i64);
        packed.push_number(0);
        packed.push_number(self.fields.len() as i64);
        self.fields.iter().for_each(|field| packed.push(field));
        packed.push_number(0);
        for (id, fields) in &self.entries {
            let before = packed.count();
            let same = fields.iter().map(|(field, _)| field).eq(&self.fields);
            packed.push_number(if same { SAME_FIELDS } else { 0 });
            packed.push_number(id.ms.wrapping_sub(self.first.ms) as i64);
            packed.push_number(id.seq.wrapping_sub(self.first.seq) as i64);
            if !same {
                packed.push_number(fields.len() as i64);
            }
            for (field, value) in fields {
                if !same {
                    packed.push(field);
                }
                packed.push(value);
            }
            packed.push_number((packed.count() - before) as i64);
        }
        put_bytes(out, &packed.finish());
    }
}

fn id(source: &mut Source<'_>) -> Result<StreamId, BadData> {
    Ok(StreamId::new(source.length()?, source.length()?))
}

fn raw_id(bytes: &[u8]) -> Result<StreamId, BadData> {
    const BAD: BadData = BadData("no id of a stream");
    let (ms, seq) = bytes.split_first_chunk::<8>().ok_or(BAD)?;
    let seq = <[u8; 8]>::try_from(seq).map_err(|_| BAD)?;
    Ok(StreamId::new(u64::from_be_bytes(*ms), u64::from_be_bytes(seq)))
}

fn time(source: &mut Source<'_>) -> Result<u64, BadData> {
    // Signed in Redis; nothing here was before 1970.
    Ok((source.u64()? as i64).max(0) as u64)
}

pub(super) fn read(source: &mut Source<'_>, kind: u8) -> Result<Stream, BadData> {
    let mut stream = Stream::default();
    for _ in 0..source.count()? {
        let first = raw_id(&source.string()?)?;
        let packed = source.string()?;
        read_node(source, &mut stream, first, &packed)?;
    }
    let len = source.length()?;
    if len != stream.log.len() {
        return Err(BadData("a stream's length is not that of its entries"));
    }
    let last = id(source)?;
    if last < stream.log.last_id() {
        return Err(BadData("a stream's last id is not its last"));
    }
    let (mut added, mut max_deleted) = (len, StreamId::MIN);
    if kind >= kind::STREAM_2 {
        // Where the first entry is, the entries say.
        id(source)?;
        max_deleted = id(source)?;
        added = source.length()?;
    }
    if max_deleted > last {
        return Err(BadData("an id was deleted that never was"));
    }
    stream.log.set_ids(last, Some(added), Some(max_deleted));
    for _ in 0..source.count()? {
        read_group(source, &mut stream, kind)?;
    }
    Ok(stream)
}

fn read_node(source: &mut Source<'_>, stream: &mut Stream, first: StreamId, packed: &[u8]) -> Result<(), BadData> {
    const BAD: BadData = BadData("a stream's entries are damaged");
    let mut elements = Listpack::new(packed)?;
    let live = elements.expect_number()?;
    let deleted = elements.expect_number()?;
    let count = usize::try_from(elements.expect_number()?).ok().filter(|count| *count <= packed.len()).ok_or(BAD)?;
    let shared = (0..count).map(|_| elements.expect()).collect::<Result<Vec<_>, _>>()?;
    elements.expect_number()?;
    let (mut live_seen, mut deleted_seen) = (0, 0);
    let mut words: Vec<Vec<u8>> = Vec::new();
    while let Some(flags) = elements.next()? {
        let flags = flags.number().ok_or(BAD)?;
        // Differences may be below zero where the time has moved on: then the sequence begins anew.
        let ms = first.ms.wrapping_add(elements.expect_number()? as u64);
        let seq = first.seq.wrapping_add(elements.expect_number()? as u64);
        let id = StreamId::new(ms, seq);
        let same = flags & SAME_FIELDS != 0;
        let fields = if same { shared.len() } else { usize::try_from(elements.expect_number()?).map_err(|_| BAD)? };
        if fields > packed.len() {
            return Err(BAD);
        }
        words.clear();
        let mut own = shared.iter();
        for _ in 0..fields {
            source.spend()?;
            let field = match own.next() {
                Some(field) if same => *field,
                _ => elements.expect()?,
            };
            let value = elements.expect()?;
            words.push(field.bytes(&mut [0; 20]).to_vec());
            words.push(value.bytes(&mut [0; 20]).to_vec());
        }
        elements.expect_number()?;
        if flags & DELETED != 0 {
            deleted_seen += 1;
            continue;
        }
        live_seen += 1;
        if id <= stream.log.last_id() {
            return Err(BadData("a stream's ids do not ascend"));
        }
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        stream.log.append(id, &words);
    }
    if (live, deleted) == (live_seen, deleted_seen) { Ok(()) } else { Err(BAD) }
}

fn read_group(source: &mut Source<'_>, stream: &mut Stream, kind: u8) -> Result<(), BadData> {
    source.spend()?;
    let name = source.string()?;
    let last = id(source)?;
    let read = if kind >= kind::STREAM_2 {
        Some(source.length()?).filter(|read| *read != UNKNOWN)
    } else {
        stream.log.entries_until(last)
    };
    if !stream.create_group(&name, last, read) {
        return Err(BadData("a group stands twice"));
    }
    let mut pending: BTreeMap<StreamId, (u64, u64)> = BTreeMap::new();
    for _ in 0..source.count()? {
        source.spend()?;
        let id = raw_id(source.take(16)?)?;
        let delivery = (time(source)?, source.length()?);
        if pending.insert(id, delivery).is_some() {
            return Err(BadData("a delivery stands twice"));
        }
    }
    let consumers = source.count()?;
    let done = stream.edit_group(&name, |_, group| -> Result<(), BadData> {
        for _ in 0..consumers {
            source.spend()?;
            let name = source.string()?;
            let seen = time(source)?;
            let active = match kind {
                kind::STREAM_3 => Some(source.u64()?).filter(|active| *active as i64 >= 0),
                _ => Some(seen),
            };
            let (consumer, is_new) = group.ensure_consumer(&name, seen);
            if !is_new {
                return Err(BadData("a consumer stands twice"));
            }
            if let Some(active) = active {
                group.mark_active(consumer, active);
            }
            for _ in 0..source.count()? {
                let id = raw_id(source.take(16)?)?;
                let (delivered, count) = pending.remove(&id).ok_or(BadData("a delivery to two, or to nobody"))?;
                group.deliver(id, Pending { consumer, delivered, count });
            }
        }
        Ok(())
    });
    done.expect("the group has just been made")?;
    if pending.is_empty() { Ok(()) } else { Err(BadData("a delivery to nobody")) }
}

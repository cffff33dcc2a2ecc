//! XREAD and XREADGROUP: what is new in several streams, also by waiting for it.

use base::Millis;
use smallvec::SmallVec;
use store::value::{Group, Log, Pending, Stream, StreamId};

use super::super::{Args, Block, Outcome, Reading, Writing, integer, milliseconds, upper};
use super::{parse_id, reply_entries, reply_entry, reply_id, text};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

/// A command that was read.
struct Query<'a> {
    /// When to give up waiting, 0 for never; `None` does not wait.
    until: Option<Millis>,
    count: usize,
    group: Option<(&'a [u8], &'a [u8])>,
    no_ack: bool,
    keys: Args<'a>,
    ids: Args<'a>,
}

/// Where the keys stand: the first half of what follows STREAMS.
pub(super) fn key_places(args: Args<'_>) -> SmallVec<[usize; 8]> {
    let mut at = 1;
    while at < args.len() {
        at += match &*upper(args[at]) {
            b"BLOCK" | b"COUNT" => 2,
            b"GROUP" => 3,
            b"NOACK" => 1,
            b"STREAMS" => {
                let count = args.len() - at - 1;
                // Unbalanced, the first half are the keys, as Redis tells them; the command itself refuses that.
                return (at + 1..at + 1 + count / 2).collect();
            }
            _ => break,
        };
    }
    SmallVec::new()
}

/// XREADGROUP's words, for whoever gives entries otherwise than the command does.
pub(crate) struct GroupQuery<'a> {
    pub(crate) count: usize,
    pub(crate) group: (&'a [u8], &'a [u8]),
    pub(crate) no_ack: bool,
    pub(crate) keys: Args<'a>,
    pub(crate) ids: Args<'a>,
}

/// Reads them.
pub(crate) fn group_query<'a>(args: Args<'a>, now: Millis) -> Result<GroupQuery<'a>, CommandError> {
    let Query { count, group, no_ack, keys, ids, .. } = query(args, now, true)?;
    Ok(GroupQuery { count, group: group.expect("a query in a group names it"), no_ack, keys, ids })
}

/// There is no such group.
pub(crate) fn no_group(key: &[u8], group: &[u8]) -> CommandError {
    format!("NOGROUP No such key '{}' or consumer group '{}' in XREADGROUP with GROUP option", text(key), text(group))
        .into()
}

fn query<'a>(args: Args<'a>, now: Millis, in_group: bool) -> Result<Query<'a>, CommandError> {
    let mut query = Query { until: None, count: usize::MAX, group: None, no_ack: false, keys: &[], ids: &[] };
    let mut words = &args[1..];
    loop {
        let [word, rest @ ..] = words else {
            return Err(SYNTAX);
        };
        words = match (&*upper(word), rest) {
            (b"BLOCK", [span, rest @ ..]) => {
                query.until = Some(milliseconds(span, now)?);
                rest
            }
            (b"COUNT", [count, rest @ ..]) => {
                let count = integer(count)?;
                query.count = usize::try_from(count).ok().filter(|count| *count > 0).unwrap_or(usize::MAX);
                rest
            }
            (b"STREAMS", [_, ..]) => {
                if !rest.len().is_multiple_of(2) {
                    let (name, symbol) = if in_group { ("xreadgroup", '>') } else { ("xread", '$') };
                    return Err(format!(
                        "ERR Unbalanced '{name}' list of streams: for each stream key an ID or '{symbol}' must be specified."
                    )
                    .into());
                }
                (query.keys, query.ids) = rest.split_at(rest.len() / 2);
                break;
            }
            (b"GROUP", [_, _, ..]) if !in_group => {
                let text = "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.";
                return Err(CommandError::new(text));
            }
            (b"GROUP", [group, consumer, rest @ ..]) => {
                query.group = Some((group, consumer));
                rest
            }
            (b"NOACK", _) if !in_group => {
                let text = "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.";
                return Err(CommandError::new(text));
            }
            (b"NOACK", rest) => {
                query.no_ack = true;
                rest
            }
            _ => return Err(SYNTAX),
        };
    }
    if in_group && query.group.is_none() {
        return Err(CommandError::new("ERR Missing GROUP option for XREADGROUP"));
    }
    Ok(query)
}

impl Query<'_> {
    fn wish(&self, until: Millis, again: Option<Vec<Vec<u8>>>) -> Block {
        let keys = self.keys.iter().map(|key| key.to_vec()).collect();
        Block { keys, until, again, null_is_array: true }
    }
}

/// Answers the streams that had something: pairs, or a map under RESP3.
pub(crate) fn reply_streams(reply: &mut Reply, count: usize, body: &Reply) {
    if reply.is_resp3() {
        reply.map(count)
    } else {
        reply.array(count)
    }
    reply.append(body);
}

pub(crate) fn begin_stream(body: &mut Reply, key: &[u8]) {
    if !body.is_resp3() {
        body.array(2);
    }
    body.bulk(key);
}

pub(super) fn xread(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let query = query(args, reading.now, false)?;
    let mut ids = SmallVec::<[StreamId; 4]>::new();
    let mut waits_for_new = false;
    for (key, id) in query.keys.iter().zip(query.ids) {
        let stream = reading.tables.get::<Stream>(reading.db, key, reading.now)?;
        ids.push(match *id {
            b"$" => {
                waits_for_new = true;
                stream.map_or(StreamId::MIN, |stream| stream.log.last_id())
            }
            b">" => {
                let text = "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.";
                return Err(CommandError::new(text));
            }
            id => parse_id(id, 0)?,
        });
    }
    let mut body = reply.aside();
    let mut served = 0;
    for (key, after) in query.keys.iter().zip(&ids) {
        let Some(stream) = reading.tables.get::<Stream>(reading.db, key, reading.now)? else {
            continue;
        };
        // Most often nothing is new, which the last id tells at once.
        let Some(start) = after.next().filter(|start| *start <= stream.log.last_id()) else {
            continue;
        };
        let mut entries = stream.log.range(start, StreamId::MAX).take(query.count).peekable();
        if entries.peek().is_some() {
            served += 1;
            begin_stream(&mut body, key);
            reply_entries(&mut body, entries);
        }
    }
    if served > 0 {
        reply_streams(reply, served, &body);
    } else if let Some(until) = query.until {
        let again = waits_for_new.then(|| {
            let head = args.len() - ids.len();
            let told = ids.iter().zip(query.ids).map(|(id, word)| match *word {
                b"$" => id.to_string().into_bytes(),
                word => word.to_vec(),
            });
            args[..head].iter().map(|word| word.to_vec()).chain(told).collect()
        });
        reading.block(query.wish(until, again), reply);
    } else {
        reply.null_array();
    }
    Ok(())
}

/// What one stream of an XREADGROUP is asked for.
#[derive(Clone, Copy)]
enum Wanted {
    /// `>`: what no consumer of the group was given.
    New,
    /// An id: what this consumer was given behind it and has not acknowledged.
    History(StreamId),
}

pub(super) fn xreadgroup(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let query = query(args, writing.now, true)?;
    let (group_name, consumer_name) = query.group.expect("a query in a group names it");
    let mut wanted = SmallVec::<[Wanted; 4]>::new();
    for (key, id) in query.keys.iter().zip(query.ids) {
        let stream = writing.tables.get::<Stream>(writing.db, key, writing.now)?;
        if stream.is_none_or(|stream| stream.group(group_name).is_none()) {
            return Err(no_group(key, group_name));
        }
        wanted.push(match *id {
            b"$" => {
                return Err(CommandError::new(
                    "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this \
                     consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just \
                     return an empty result set.",
                ));
            }
            b">" => Wanted::New,
            id => parse_id(id, 0)?.next().map_or(Wanted::New, Wanted::History),
        });
    }
    let mut body = reply.aside();
    let mut served = 0;
    let now = writing.now;
    for (key, wanted) in query.keys.iter().zip(wanted) {
        let answered = writing.tables.edit(writing.db, key, now, |stream: &mut Stream| {
            let answered = stream.edit_group(group_name, |log, group| {
                let (consumer, _) = group.ensure_consumer(consumer_name, now);
                group.mark_seen(consumer, now);
                let asked = Asked { key, count: query.count, consumer, now };
                match wanted {
                    Wanted::New => asked.new_entries(log, group, query.no_ack, &mut body),
                    Wanted::History(start) => {
                        asked.history(log, group, start, &mut body);
                        true
                    }
                }
            });
            (false, answered.unwrap_or(false))
        })?;
        served += usize::from(answered == Some(true));
    }
    match query.until {
        _ if served > 0 => reply_streams(reply, served, &body),
        Some(until) => writing.block(query.wish(until, None), reply),
        None => reply.null_array(),
    }
    Ok(())
}

struct Asked<'a> {
    key: &'a [u8],
    count: usize,
    consumer: store::value::ConsumerNumber,
    now: Millis,
}

impl Asked<'_> {
    /// Delivers what is new to the group. False where nothing is.
    fn new_entries(&self, log: &Log, group: &mut Group, no_ack: bool, body: &mut Reply) -> bool {
        let Some(start) = group.last_id.next().filter(|start| *start <= log.last_id()) else {
            return false;
        };
        let mut entries = log.range(start, StreamId::MAX).take(self.count).peekable();
        if entries.peek().is_none() {
            return false;
        }
        begin_stream(body, self.key);
        let begun = body.begin_array();
        let mut count = 0;
        for entry in entries {
            log.advance(group, entry.id);
            reply_entry(body, &entry);
            if !no_ack {
                group.deliver(entry.id, Pending { consumer: self.consumer, delivered: self.now, count: 1 });
                group.mark_active(self.consumer, self.now);
            }
            count += 1;
        }
        body.end_array(begun, count);
        true
    }

    /// Delivers again what the consumer has not acknowledged; a deleted entry answers null in place of its fields.
    fn history(&self, log: &Log, group: &mut Group, start: StreamId, body: &mut Reply) {
        begin_stream(body, self.key);
        let ids: Vec<_> = group.consumer(self.consumer).pending_from(start).take(self.count).collect();
        body.array(ids.len());
        for id in ids {
            let Some(entry) = log.get(id) else {
                body.array(2);
                reply_id(body, id);
                body.null_array();
                continue;
            };
            reply_entry(body, &entry);
            if let Some(pending) = group.pending(id).copied() {
                group.deliver(id, Pending { delivered: self.now, count: pending.count.saturating_add(1), ..pending });
            }
        }
    }
}

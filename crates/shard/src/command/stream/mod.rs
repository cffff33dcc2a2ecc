//! Streams: adding, reading by id, deleting, trimming. The rest of the family stands in files of its own: [`read`] (also
//! waiting), [`group`], [`claim`] (deliveries that were not acknowledged) and [`info`].
//!
//! What happens within groups (deliveries, acknowledgements, claims) does not move a key's version, as in Redis: WATCH
//! does not see it, and nobody who waits is woken by it. Only a group's coming and going does.

mod claim;
mod group;
mod info;
mod read;

pub(crate) use read::{GroupQuery, begin_stream, group_query, no_group, reply_streams};

use base::Millis;
use store::value::{Keep, Stream, StreamEntry, StreamId, Trim};

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, NO_SUCH_KEY, SYNTAX};
use crate::reply::Reply;

family!("stream");

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("xack", -4, Flags::FREES.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(group::xack), "5.0.0", "Marks a pending message as correctly processed, effectively removing it from the pending entries list of the consumer group."),
    spec("xadd", -5, Flags::GROWS.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(xadd), "5.0.0", "Appends a new entry to a stream."),
    spec("xautoclaim", -6, Flags::FAST, Keys::Range(1, 1, 1), Run::Write(claim::xautoclaim), "6.2.0", "Changes (or acquires) ownership of messages in a consumer group, as if the messages were delivered to the specified consumer."),
    spec("xclaim", -6, Flags::FAST, Keys::Range(1, 1, 1), Run::Write(claim::xclaim), "5.0.0", "Changes (or acquires) ownership of a message in a consumer group, as if the message was delivered to the specified consumer."),
    spec("xdel", -3, Flags::FREES.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(xdel), "5.0.0", "Removes the specified entries from the stream. Returns the number of items actually deleted, that may be different from the number of IDs passed in case certain IDs do not exist."),
    spec("xgroup", -2, Flags::GROWS.and(Flags::CONTAINER), Keys::Range(2, 2, 1), Run::Write(group::xgroup), "5.0.0", "A container for consumer groups commands."),
    spec("xinfo", -2, Flags::CONTAINER, Keys::Range(2, 2, 1), Run::Read(info::xinfo), "5.0.0", "A container for stream introspection commands."),
    spec("xlen", 2, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(xlen), "5.0.0", "Return the number of entries in a stream."),
    spec("xpending", -3, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(claim::xpending), "5.0.0", "Return information and entries from a stream consumer group pending entries list, that are messages fetched but never acknowledged."),
    spec("xrange", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(xrange), "5.0.0", "Return a range of elements in a stream, with IDs matching the specified IDs interval."),
    spec("xread", -4, Flags::BLOCKING, Keys::Find(read::key_places), Run::Read(read::xread), "5.0.0", "Return never seen elements in multiple streams, with IDs greater than the ones reported by the caller for each stream. Can block."),
    spec("xreadgroup", -7, Flags::BLOCKING, Keys::Find(read::key_places), Run::Write(read::xreadgroup), "5.0.0", "Return new entries from a stream using a consumer group, or access the history of the pending entries for a given consumer. Can block."),
    spec("xrevrange", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(xrevrange), "5.0.0", "Return a range of elements in a stream, with IDs matching the specified IDs interval, in reverse order (from greater to smaller IDs) compared to XRANGE."),
    spec("xsetid", -3, Flags::GROWS.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(xsetid), "5.0.0", "An internal command for replicating stream values."),
    spec("xtrim", -4, Flags::FREES, Keys::Range(1, 1, 1), Run::Write(xtrim), "5.0.0", "Trims the stream to (approximately if '~' is passed) a certain size."),
];

const INVALID_ID: CommandError = CommandError::new("ERR Invalid stream ID specified as stream command argument");

/// Entries that approximate trimming removes at most where LIMIT does not say: a hundred blocks, as in Redis.
const TRIM_LIMIT: u64 = 10_000;

/// An id `ms-seq` or `ms`, which then gets `missing` for its other half.
fn parse_id(word: &[u8], missing: u64) -> Result<StreamId, CommandError> {
    if word.len() > 127 {
        return Err(INVALID_ID);
    }
    let word = word.split(|byte| *byte == 0).next().unwrap_or_default();
    match word.iter().position(|byte| *byte == b'-') {
        Some(dash) => Ok(StreamId::new(parse_part(&word[..dash])?, parse_part(&word[dash + 1..])?)),
        None => Ok(StreamId::new(parse_part(word)?, missing)),
    }
}

/// Half an id, read as Redis does with `strtoull`: space and a sign may stand before the digits, and what is negative
/// behind space wraps around.
fn parse_part(word: &[u8]) -> Result<u64, CommandError> {
    if base::parse_i64(word).is_some_and(|number| number < 0) {
        return Err(INVALID_ID);
    }
    let start = word.iter().position(|byte| !matches!(byte, b' ' | b'\t'..=b'\r')).unwrap_or(word.len());
    let (negative, digits) = match &word[start..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if !digits.first().is_some_and(u8::is_ascii_digit) {
        return Err(INVALID_ID);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| INVALID_ID)?;
    let number = digits.parse::<u64>().map_err(|_| INVALID_ID)?;
    Ok(if negative { number.wrapping_neg() } else { number })
}

/// An id as a client writes it, if it is one.
pub fn stream_id(word: &[u8]) -> Option<StreamId> {
    parse_id(word, 0).ok()
}

/// As [`parse_id`], or `-` or `+` for the first and the last possible one.
fn parse_any_id(word: &[u8], missing: u64) -> Result<StreamId, CommandError> {
    match word {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        word => parse_id(word, missing),
    }
}

/// The lower end of an interval; `(` leaves the id itself out.
fn interval_start(word: &[u8]) -> Result<StreamId, CommandError> {
    match word {
        [b'(', rest @ ..] if !rest.is_empty() => {
            parse_id(rest, 0)?.next().ok_or(CommandError::new("ERR invalid start ID for the interval"))
        }
        word => parse_any_id(word, 0),
    }
}

/// The upper end of an interval.
fn interval_end(word: &[u8]) -> Result<StreamId, CommandError> {
    match word {
        [b'(', rest @ ..] if !rest.is_empty() => {
            parse_id(rest, u64::MAX)?.previous().ok_or(CommandError::new("ERR invalid end ID for the interval"))
        }
        word => parse_any_id(word, u64::MAX),
    }
}

fn parse_ids(words: Args<'_>) -> Result<Vec<StreamId>, CommandError> {
    words.iter().map(|word| parse_id(word, 0)).collect()
}

fn text(word: &[u8]) -> std::borrow::Cow<'_, str> {
    crate::error::shown(word)
}

fn reply_id(reply: &mut Reply, id: StreamId) {
    let mut bytes = Vec::with_capacity(24);
    id.write(&mut bytes);
    reply.bulk(&bytes);
}

fn reply_entry(reply: &mut Reply, entry: &StreamEntry<'_>) {
    reply.array(2);
    reply_id(reply, entry.id);
    if let Some(elsewhere) = entry.is_elsewhere() {
        // The record's number is the first half of its id.
        return crate::streams::put_place(&mut reply.bytes, elsewhere.owner, entry.id.ms);
    }
    reply.array(2 * entry.field_count());
    for (field, value) in entry.fields() {
        reply.bulk(field);
        reply.bulk(value);
    }
}

/// Answers an array of entries.
fn reply_entries<'a>(reply: &mut Reply, entries: impl Iterator<Item = StreamEntry<'a>>) {
    let begun = reply.begin_array();
    let count = entries.map(|entry| reply_entry(reply, &entry)).count();
    reply.end_array(begun, count);
}

/// What stands between the key and the fields of XADD, or behind the key of XTRIM.
struct Options {
    trim: Option<Trim>,
    make: bool,
    /// XADD's id, and whether its second half was given; `None` for `*`.
    id: Option<(StreamId, bool)>,
    /// Where XADD's id stands.
    id_at: usize,
}

fn options(args: Args<'_>, xadd: bool) -> Result<Options, CommandError> {
    let mut options = Options { trim: None, make: true, id: None, id_at: args.len() };
    let (mut keep, mut approximate, mut limit) = (None, false, None);
    let mut at = 2;
    while at < args.len() {
        let (word, more) = (args[at], args.len() - at - 1);
        let by_id = is(word, "MINID");
        if xadd && word == b"*" {
            options.id_at = at;
            break;
        } else if more > 0 && (by_id || is(word, "MAXLEN")) {
            if keep.is_some() {
                let text = "ERR syntax error, MAXLEN and MINID options at the same time are not compatible";
                return Err(CommandError::new(text));
            }
            approximate = more > 1 && args[at + 1] == b"~";
            at += if approximate || (more > 1 && args[at + 1] == b"=") { 2 } else { 1 };
            keep = Some(if by_id {
                Keep::From(parse_id(args[at], 0)?)
            } else {
                let count = integer(args[at])?;
                let count = u64::try_from(count);
                Keep::Newest(count.map_err(|_| CommandError::new("ERR The MAXLEN argument must be >= 0."))?)
            });
        } else if more > 0 && is(word, "LIMIT") {
            at += 1;
            let count = u64::try_from(integer(args[at])?);
            limit = Some(count.map_err(|_| CommandError::new("ERR The LIMIT argument must be >= 0."))?);
        } else if xadd && is(word, "NOMKSTREAM") {
            options.make = false;
        } else if xadd {
            options.id_at = at;
            options.id = Some(match word.strip_suffix(b"-*") {
                Some(ms) if !ms.contains(&b'-') => (parse_id(ms, 0)?, false),
                _ => (parse_id(word, 0)?, true),
            });
            break;
        } else {
            return Err(SYNTAX);
        }
        at += 1;
    }
    if keep.is_none() && limit.is_some_and(|limit| limit > 0) {
        let text = "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy";
        return Err(CommandError::new(text));
    }
    if keep.is_none() && !xadd {
        return Err(CommandError::new("ERR syntax error, XTRIM must be called with a trimming strategy"));
    }
    if limit.is_some() && !approximate {
        return Err(CommandError::new("ERR syntax error, LIMIT cannot be used without the special ~ option"));
    }
    let limit = limit.unwrap_or(if approximate { TRIM_LIMIT } else { 0 });
    options.trim = keep.map(|keep| Trim { keep, approximate, limit });
    Ok(options)
}

fn xadd(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let options = options(args, true)?;
    let words = args.get(options.id_at + 1..).unwrap_or_default();
    if words.len() < 2 || !words.len().is_multiple_of(2) {
        return Err(CommandError::arity("xadd"));
    }
    if options.id == Some((StreamId::MIN, true)) {
        return Err(CommandError::new("ERR The ID specified in XADD must be greater than 0-0"));
    }
    let (db, key, now) = (writing.db, args[1], writing.now);
    if !options.make && writing.tables.get::<Stream>(db, key, now)?.is_none() {
        reply.null();
        return Ok(());
    }
    // A fresh stream takes every id that is left now, so that no failure leaves an empty key behind.
    let id = writing.tables.upsert(db, key, now, |stream: &mut Stream| match new_id(stream, options.id, now) {
        Ok(id) => {
            stream.log.append(id, words);
            if let Some(trim) = options.trim {
                stream.log.trim(trim);
            }
            (true, Ok(id))
        }
        Err(error) => (false, Err(error)),
    })??;
    reply_id(reply, id);
    Ok(())
}

fn new_id(stream: &Stream, asked: Option<(StreamId, bool)>, now: Millis) -> Result<StreamId, CommandError> {
    const EXHAUSTED: &str = "ERR The stream has exhausted the last possible ID, unable to add more items";
    const NOT_LARGER: &str = "ERR The ID specified in XADD is equal or smaller than the target stream top item";
    let last = stream.log.last_id();
    if last == StreamId::MAX {
        return Err(CommandError::new(EXHAUSTED));
    }
    let id = match asked {
        None => stream.log.next_id(now),
        Some((id, false)) if id.ms == last.ms => last.seq.checked_add(1).map(|seq| StreamId::new(id.ms, seq)),
        Some((id, _)) => Some(id),
    };
    id.filter(|id| *id > last).ok_or(CommandError::new(NOT_LARGER))
}

fn xlen(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let stream = reading.tables.get::<Stream>(reading.db, args[1], reading.now)?;
    reply.int(stream.map_or(0, Stream::len) as i64);
    Ok(())
}

fn xrange(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    range(reading, args, (args[2], args[3]), false, reply)
}

fn xrevrange(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    range(reading, args, (args[3], args[2]), true, reply)
}

fn range(
    reading: &Reading<'_>,
    args: Args<'_>,
    (start, end): (&[u8], &[u8]),
    backwards: bool,
    reply: &mut Reply,
) -> Outcome {
    let (start, end) = (interval_start(start)?, interval_end(end)?);
    let mut count = None;
    for pair in args[4..].chunks(2) {
        match pair {
            [word, value] if is(word, "COUNT") => count = Some(integer(value)?.max(0)),
            _ => return Err(SYNTAX),
        }
    }
    let Some(stream) = reading.tables.get::<Stream>(reading.db, args[1], reading.now)? else {
        reply.array(0);
        return Ok(());
    };
    if count == Some(0) {
        reply.null_array();
        return Ok(());
    }
    let count = count.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
    if backwards {
        reply_entries(reply, stream.log.range_back(start, end).take(count));
    } else {
        reply_entries(reply, stream.log.range(start, end).take(count));
    }
    Ok(())
}

fn xdel(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let deleted = writing.tables.edit(writing.db, args[1], writing.now, |stream: &mut Stream| {
        let deleted =
            parse_ids(&args[2..]).map(|ids| ids.into_iter().filter(|id| stream.log.delete(*id)).count() as i64);
        (deleted.as_ref().is_ok_and(|deleted| *deleted > 0), deleted)
    })?;
    reply.int(deleted.transpose()?.unwrap_or(0));
    Ok(())
}

fn xtrim(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let trim = options(args, false)?.trim.expect("options of XTRIM say how to trim");
    let trimmed = writing.tables.edit(writing.db, args[1], writing.now, |stream: &mut Stream| {
        let trimmed = stream.log.trim(trim);
        (trimmed > 0, trimmed)
    })?;
    reply.int(trimmed.unwrap_or(0) as i64);
    Ok(())
}

fn xsetid(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let id = parse_id(args[2], 0)?;
    let (mut entries_added, mut max_deleted) = (None, None);
    for pair in args[3..].chunks(2) {
        match pair {
            [word, value] if is(word, "ENTRIESADDED") => {
                let count = u64::try_from(integer(value)?);
                entries_added = Some(count.map_err(|_| CommandError::new("ERR entries_added must be positive"))?);
            }
            [word, value] if is(word, "MAXDELETEDID") => {
                let deleted = parse_id(value, 0)?;
                if id < deleted {
                    let text = "ERR The ID specified in XSETID is smaller than the provided max_deleted_entry_id";
                    return Err(CommandError::new(text));
                }
                max_deleted = Some(deleted).filter(|deleted| *deleted != StreamId::MIN);
            }
            _ => return Err(SYNTAX),
        }
    }
    let set = writing.tables.edit(writing.db, args[1], writing.now, |stream: &mut Stream| {
        let log = &mut stream.log;
        if id < log.max_deleted_id() {
            let text = "ERR The ID specified in XSETID is smaller than current max_deleted_entry_id";
            return (false, Err(CommandError::new(text)));
        }
        if log.range_back(StreamId::MIN, StreamId::MAX).next().is_some_and(|last| id < last.id) {
            let text = "ERR The ID specified in XSETID is smaller than the target stream top item";
            return (false, Err(CommandError::new(text)));
        }
        if entries_added.is_some_and(|count| log.len() > count) {
            let text = "ERR The entries_added specified in XSETID is smaller than the target stream length";
            return (false, Err(CommandError::new(text)));
        }
        log.set_ids(id, entries_added, max_deleted);
        (true, Ok(()))
    })?;
    set.ok_or(NO_SUCH_KEY)??;
    reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests;

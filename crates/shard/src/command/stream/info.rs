//! XINFO: what a stream, its groups and their consumers are like.

use base::Millis;
use store::value::{Consumer, Group, Stream, StreamId};

use super::super::{Args, Outcome, Reading, integer, is, upper};
use super::group::{help, no_group, unknown};
use super::{reply_entries, reply_entry, reply_id, text};
use crate::error::{CommandError, NO_SUCH_KEY};
use crate::reply::Reply;

const HELP: &[&str] = &[
    "XINFO <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CONSUMERS <key> <groupname>",
    "    Show consumers of <groupname>.",
    "GROUPS <key>",
    "    Show the stream consumer groups.",
    "STREAM <key> [FULL [COUNT <count>]",
    "    Show information about the stream.",
    "HELP",
    "    Print this help.",
];

pub(super) fn xinfo(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let sub = upper(args[1]);
    let right = match &*sub {
        b"HELP" => args.len() == 2,
        b"STREAM" => args.len() >= 3,
        b"GROUPS" => args.len() == 3,
        b"CONSUMERS" => args.len() == 4,
        _ => return Err(unknown("XINFO", args[1])),
    };
    if !right {
        return Err(CommandError::arity(&format!("xinfo|{}", String::from_utf8_lossy(&sub))));
    }
    if &*sub == b"HELP" {
        help(reply, HELP);
        return Ok(());
    }
    let stream = reading.tables.get::<Stream>(reading.db, args[2], reading.now)?.ok_or(NO_SUCH_KEY)?;
    match &*sub {
        b"STREAM" => about_stream(stream, args, reply),
        b"GROUPS" => {
            reply.array(stream.groups().len());
            for (name, group) in stream.groups() {
                reply.map(6);
                reply.bulk(b"name");
                reply.bulk(name);
                int(reply, "consumers", group.consumer_count() as i64);
                int(reply, "pending", group.pending_count() as i64);
                progress(stream, group, reply);
            }
            Ok(())
        }
        _ => {
            let group = stream.group(args[3]).ok_or_else(|| no_group(args[2], args[3]))?;
            about_consumers(group, reading.now, reply);
            Ok(())
        }
    }
}

fn int(reply: &mut Reply, name: &str, value: i64) {
    reply.bulk(name.as_bytes());
    reply.int(value);
}

fn id(reply: &mut Reply, name: &str, id: StreamId) {
    reply.bulk(name.as_bytes());
    reply_id(reply, id);
}

fn maybe_int(reply: &mut Reply, name: &str, value: Option<i64>) {
    reply.bulk(name.as_bytes());
    match value {
        Some(value) => reply.int(value),
        None => reply.null(),
    }
}

/// How far a group has read.
fn progress(stream: &Stream, group: &Group, reply: &mut Reply) {
    id(reply, "last-delivered-id", group.last_id);
    maybe_int(reply, "entries-read", group.entries_read.map(|read| read as i64));
    maybe_int(reply, "lag", stream.log.lag(group));
}

fn about_stream(stream: &Stream, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let wrong = || -> CommandError {
        let shown: String = text(args[1]).chars().take(128).collect();
        format!("ERR unknown subcommand or wrong number of arguments for '{shown}'. Try XINFO HELP.").into()
    };
    let full = match &args[3..] {
        [] => None,
        [word] if is(word, "FULL") => Some(10),
        [word, option, count] if is(word, "FULL") && is(option, "COUNT") => Some(match integer(count)? {
            0 => usize::MAX,
            count => usize::try_from(count).unwrap_or(10),
        }),
        _ => return Err(wrong()),
    };
    let log = &stream.log;
    reply.map(if full.is_some() { 9 } else { 10 });
    int(reply, "length", log.len() as i64);
    // Redis shows its radix tree; ours is a list of blocks, which is one node each and one at the top.
    int(reply, "radix-tree-keys", log.block_count() as i64);
    int(reply, "radix-tree-nodes", log.block_count() as i64 + 1);
    id(reply, "last-generated-id", log.last_id());
    id(reply, "max-deleted-entry-id", log.max_deleted_id());
    int(reply, "entries-added", log.entries_added() as i64);
    id(reply, "recorded-first-entry-id", log.first_id());
    match full {
        Some(count) => {
            reply.bulk(b"entries");
            reply_entries(reply, log.range(StreamId::MIN, StreamId::MAX).take(count));
            reply.bulk(b"groups");
            reply.array(stream.groups().len());
            for (name, group) in stream.groups() {
                about_group(stream, name, group, count, reply);
            }
        }
        None => {
            int(reply, "groups", stream.groups().len() as i64);
            for (name, entry) in [
                ("first-entry", log.range(StreamId::MIN, StreamId::MAX).next()),
                ("last-entry", log.range_back(StreamId::MIN, StreamId::MAX).next()),
            ] {
                reply.bulk(name.as_bytes());
                match entry {
                    Some(entry) => reply_entry(reply, &entry),
                    None => reply.null(),
                }
            }
        }
    }
    Ok(())
}

fn about_group(stream: &Stream, name: &[u8], group: &Group, count: usize, reply: &mut Reply) {
    reply.map(7);
    reply.bulk(b"name");
    reply.bulk(name);
    progress(stream, group, reply);
    int(reply, "pel-count", group.pending_count() as i64);
    reply.bulk(b"pending");
    reply.array(group.pending_count().min(count));
    for (id, pending) in group.pending_from(StreamId::MIN).take(count) {
        reply.array(4);
        reply_id(reply, id);
        reply.bulk(&group.consumer(pending.consumer).name);
        reply.int(pending.delivered as i64);
        reply.int(pending.count as i64);
    }
    reply.bulk(b"consumers");
    reply.array(group.consumer_count());
    for consumer in group.consumers() {
        reply.map(5);
        reply.bulk(b"name");
        reply.bulk(&consumer.name);
        int(reply, "seen-time", consumer.seen as i64);
        int(reply, "active-time", consumer.active.map_or(-1, |active| active as i64));
        int(reply, "pel-count", consumer.pending_count() as i64);
        reply.bulk(b"pending");
        reply.array(consumer.pending_count().min(count));
        let pending = consumer.pending_from(StreamId::MIN).take(count);
        for (id, pending) in pending.filter_map(|id| group.pending(id).map(|pending| (id, pending))) {
            reply.array(3);
            reply_id(reply, id);
            reply.int(pending.delivered as i64);
            reply.int(pending.count as i64);
        }
    }
}

fn about_consumers(group: &Group, now: Millis, reply: &mut Reply) {
    let since = |at: Millis| now.saturating_sub(at) as i64;
    reply.array(group.consumer_count());
    for consumer in group.consumers() {
        let Consumer { name, seen, active, .. } = consumer;
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(name);
        int(reply, "pending", consumer.pending_count() as i64);
        int(reply, "idle", since(*seen));
        int(reply, "inactive", active.map_or(-1, since));
    }
}

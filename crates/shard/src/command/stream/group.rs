//! XGROUP and XACK: groups, their consumers, and what these have done.

use store::value::{Stream, StreamId};

use super::super::{Args, Outcome, Writing, integer, is, upper};
use super::{parse_any_id, parse_id, parse_ids, text};
use crate::error::CommandError;
use crate::reply::Reply;

const HELP: &[&str] = &[
    "XGROUP <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CREATE <key> <groupname> <id|$> [option]",
    "    Create a new consumer group. Options are:",
    "    * MKSTREAM",
    "      Create the empty stream if it does not exist.",
    "    * ENTRIESREAD entries_read",
    "      Set the group's entries_read counter (internal use).",
    "CREATECONSUMER <key> <groupname> <consumer>",
    "    Create a new consumer in the specified group.",
    "DELCONSUMER <key> <groupname> <consumer>",
    "    Remove the specified consumer.",
    "DESTROY <key> <groupname>",
    "    Remove the specified group.",
    "SETID <key> <groupname> <id|$> [ENTRIESREAD entries_read]",
    "    Set the current group ID and entries_read counter.",
    "HELP",
    "    Print this help.",
];

pub(super) fn help(reply: &mut Reply, lines: &[&str]) {
    reply.array(lines.len());
    lines.iter().for_each(|line| reply.simple(line));
}

/// The error for a subcommand that does not exist.
pub(super) fn unknown(container: &str, word: &[u8]) -> CommandError {
    let shown: String = text(word).chars().take(128).collect();
    format!("ERR unknown subcommand '{shown}'. Try {container} HELP.").into()
}

pub(super) fn no_group(key: &[u8], group: &[u8]) -> CommandError {
    format!("NOGROUP No such consumer group '{}' for key name '{}'", text(group), text(key)).into()
}

pub(super) fn xgroup(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let sub = upper(args[1]);
    let arity = |right: bool| {
        let name = format!("xgroup|{}", String::from_utf8_lossy(&sub));
        if right { Ok(()) } else { Err(CommandError::arity(&name)) }
    };
    match &*sub {
        b"HELP" => {
            arity(args.len() == 2)?;
            help(reply, HELP);
            Ok(())
        }
        b"CREATE" => {
            arity(args.len() >= 5)?;
            create(writing, args, reply)
        }
        b"SETID" => {
            arity(args.len() >= 5)?;
            set_id(writing, args, reply)
        }
        b"DESTROY" => {
            arity(args.len() == 4)?;
            destroy(writing, args, reply)
        }
        b"CREATECONSUMER" => {
            arity(args.len() == 5)?;
            consumer(writing, args, reply, true)
        }
        b"DELCONSUMER" => {
            arity(args.len() == 5)?;
            consumer(writing, args, reply, false)
        }
        _ => Err(unknown("XGROUP", args[1])),
    }
}

/// The options of CREATE and SETID: whether to make the stream, and the counter.
fn options(args: Args<'_>, create: bool) -> Result<(bool, Option<u64>), CommandError> {
    let (mut make, mut entries_read) = (false, None);
    let mut at = 5;
    while at < args.len() {
        if create && is(args[at], "MKSTREAM") {
            make = true;
        } else if is(args[at], "ENTRIESREAD") && at + 1 < args.len() {
            at += 1;
            entries_read = match integer(args[at])? {
                -1 => None,
                count => Some(
                    u64::try_from(count)
                        .map_err(|_| CommandError::new("ERR value for ENTRIESREAD must be positive or -1"))?,
                ),
            };
        } else {
            return Err(wrong_options(args));
        }
        at += 1;
    }
    Ok((make, entries_read))
}

fn wrong_options(args: Args<'_>) -> CommandError {
    let shown: String = text(args[1]).chars().take(128).collect();
    format!("ERR unknown subcommand or wrong number of arguments for '{shown}'. Try XGROUP HELP.").into()
}

fn need_key(writing: &Writing<'_>, key: &[u8]) -> Result<(), CommandError> {
    const TEXT: &str = "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use \
                        the MKSTREAM option to create an empty stream automatically.";
    let stream = writing.tables.get::<Stream>(writing.db, key, writing.now)?;
    stream.map(|_| ()).ok_or(CommandError::new(TEXT))
}

fn need_group(writing: &Writing<'_>, key: &[u8], group: &[u8]) -> Result<(), CommandError> {
    need_key(writing, key)?;
    let stream = writing.tables.get::<Stream>(writing.db, key, writing.now)?;
    stream.and_then(|stream| stream.group(group)).map(|_| ()).ok_or_else(|| no_group(key, group))
}

fn create(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (make, entries_read) = options(args, true)?;
    if args.len() > 8 {
        return Err(wrong_options(args));
    }
    let (key, group) = (args[2], args[3]);
    if make {
        writing.tables.get::<Stream>(writing.db, key, writing.now)?;
    } else {
        need_key(writing, key)?;
    }
    let id = if args[4] == b"$" { None } else { Some(parse_id(args[4], 0)?) };
    let created = writing.tables.upsert(writing.db, key, writing.now, |stream: &mut Stream| {
        let id = id.unwrap_or(stream.log.last_id());
        let created = stream.create_group(group, id, entries_read);
        (created, created)
    })?;
    if !created {
        return Err(CommandError::new("BUSYGROUP Consumer Group name already exists"));
    }
    reply.ok();
    Ok(())
}

fn set_id(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (_, entries_read) = options(args, false)?;
    need_group(writing, args[2], args[3])?;
    if args.len() > 7 {
        return Err(wrong_options(args));
    }
    let id = if args[4] == b"$" { None } else { Some(parse_any_id(args[4], 0)?) };
    writing.tables.edit(writing.db, args[2], writing.now, |stream: &mut Stream| {
        stream.edit_group(args[3], |log, group| {
            group.last_id = id.unwrap_or(log.last_id());
            group.entries_read = entries_read;
        });
        (true, ())
    })?;
    reply.ok();
    Ok(())
}

fn destroy(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    need_key(writing, args[2])?;
    // A change, so that those who wait in the group hear of its end.
    let destroyed = writing.tables.edit(writing.db, args[2], writing.now, |stream: &mut Stream| {
        let destroyed = stream.destroy_group(args[3]);
        (destroyed, destroyed)
    })?;
    reply.int(i64::from(destroyed == Some(true)));
    Ok(())
}

fn consumer(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply, create: bool) -> Outcome {
    need_group(writing, args[2], args[3])?;
    let now = writing.now;
    let count = writing.tables.edit(writing.db, args[2], now, |stream: &mut Stream| {
        let count = stream.edit_group(args[3], |_, group| {
            if create {
                i64::from(group.ensure_consumer(args[4], now).1)
            } else {
                group.delete_consumer(args[4]).unwrap_or(0) as i64
            }
        });
        (false, count)
    })?;
    reply.int(count.flatten().unwrap_or(0));
    Ok(())
}

pub(super) fn xack(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let acknowledged = writing.tables.edit(writing.db, args[1], writing.now, |stream: &mut Stream| {
        let acknowledged = stream.edit_group(args[2], |_, group| {
            parse_ids(&args[3..]).map(|ids: Vec<StreamId>| ids.into_iter().filter(|id| group.acknowledge(*id)).count())
        });
        (false, acknowledged)
    })?;
    reply.int(acknowledged.flatten().transpose()?.unwrap_or(0) as i64);
    Ok(())
}

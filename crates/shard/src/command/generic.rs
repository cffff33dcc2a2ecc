//! What can be done with a key whatever it holds: delete, rename, copy, move, and ask about it.

use smallvec::{SmallVec, smallvec};
use store::table::{DATABASES, Expiry};
use store::value::View;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, INT_RANGE, NO_SUCH_KEY, SYNTAX};
use crate::reply::Reply;

family!("generic");

const KEY: Keys = Keys::Range(1, 1, 1);
const KEYS: Keys = Keys::Range(1, -1, 1);
const TWO: Keys = Keys::Range(1, 2, 1);

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("del", -2, Flags::FREES, KEYS, Run::Write(del), "1.0.0", "Deletes one or more keys."),
    spec("unlink", -2, Flags::FAST.and(Flags::FREES), KEYS, Run::Write(del), "4.0.0", "Asynchronously deletes one or more keys."),
    spec("exists", -2, Flags::FAST, KEYS, Run::Read(exists), "1.0.0", "Determines whether one or more keys exist."),
    spec("type", 2, Flags::FAST, KEY, Run::Read(kind), "1.0.0", "Determines the type of value stored at a key."),
    spec("rename", 3, Flags::NONE, TWO, Run::Write(rename), "1.0.0", "Renames a key and overwrites the destination."),
    spec("renamenx", 3, Flags::FAST, TWO, Run::Write(renamenx), "1.0.0", "Renames a key only when the target key name doesn't exist."),
    spec("copy", -3, Flags::GROWS, TWO, Run::Write(copy), "6.2.0", "Copies the value of a key to a new key."),
    spec("move", 3, Flags::FAST, KEY, Run::Write(move_key), "1.0.0", "Moves a key to another database."),
    spec("touch", -2, Flags::FAST, KEYS, Run::Read(touch), "3.2.1", "Returns the number of existing keys out of those specified after updating the time they were last accessed."),
    spec("object", -2, Flags::CONTAINER, Keys::Find(object_key), Run::Read(object), "2.2.3", "A container for object introspection commands."),
];

const SAME: CommandError = CommandError::new("ERR source and destination objects are the same");
/// A database that SELECT would not reach.
pub(super) const NO_DATABASE: CommandError = CommandError::new("ERR DB index is out of range");

fn del(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let gone = args[1..].iter().filter(|key| writing.tables.remove(writing.db, key, writing.now));
    reply.int(gone.count() as i64);
    Ok(())
}

/// EXISTS and TOUCH: both count as use of the keys, and a key named twice counts twice.
fn exists(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    // Not a use of the keys: that is TOUCH.
    let there = args[1..].iter().filter(|key| reading.tables.peek(reading.db, key, reading.now).is_some());
    reply.int(there.count() as i64);
    Ok(())
}

fn touch(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let there = args[1..].iter().filter(|key| reading.tables.entry(reading.db, key, reading.now).is_some());
    reply.int(there.count() as i64);
    Ok(())
}

fn kind(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let entry = reading.tables.peek(reading.db, args[1], reading.now);
    reply.simple(entry.map_or("none", |entry| entry.value().type_name()));
    Ok(())
}

fn rename(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    rename_to(writing, args[1], args[2])?;
    reply.ok();
    Ok(())
}

fn renamenx(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (db, now) = (writing.db, writing.now);
    if writing.tables.peek(db, args[1], now).is_none() {
        return Err(NO_SUCH_KEY);
    }
    let free = writing.tables.peek(db, args[2], now).is_none();
    if free {
        rename_to(writing, args[1], args[2])?;
    }
    reply.int(i64::from(free));
    Ok(())
}

fn rename_to(writing: &mut Writing<'_>, from: &[u8], to: &[u8]) -> Outcome {
    let (db, now) = (writing.db, writing.now);
    if from == to {
        return writing.tables.peek(db, from, now).map(|_| ()).ok_or(NO_SUCH_KEY);
    }
    let (value, expire) = writing.tables.take(db, from, now).ok_or(NO_SUCH_KEY)?;
    writing.tables.set(db, to, value, Expiry::At(expire), now);
    Ok(())
}

/// A database's number.
fn database(word: &[u8]) -> Result<u8, CommandError> {
    let number = i32::try_from(integer(word)?).map_err(|_| INT_RANGE)?;
    u8::try_from(number).ok().filter(|db| usize::from(*db) < DATABASES).ok_or(NO_DATABASE)
}

fn copy(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (from, to, now) = (args[1], args[2], writing.now);
    let mut db = writing.db;
    let mut replace = false;
    let mut words = args[3..].iter();
    while let Some(word) = words.next() {
        if is(word, "REPLACE") {
            replace = true;
        } else if is(word, "DB") {
            db = database(words.next().ok_or(SYNTAX)?)?;
        } else {
            return Err(SYNTAX);
        }
    }
    if db == writing.db && from == to {
        return Err(SAME);
    }
    let free = replace || writing.tables.peek(db, to, now).is_none();
    let source = writing.tables.entry(writing.db, from, now).filter(|_| free);
    let source = source.map(|entry| (entry.to_value(), entry.expire()));
    reply.int(i64::from(source.is_some()));
    if let Some((value, expire)) = source {
        writing.tables.set(db, to, value, Expiry::At(expire), now);
    }
    Ok(())
}

fn move_key(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (key, now) = (args[1], writing.now);
    let db = database(args[2])?;
    if db == writing.db {
        return Err(SAME);
    }
    let free = writing.tables.peek(db, key, now).is_none();
    let moved = if free { writing.tables.take(writing.db, key, now) } else { None };
    reply.int(i64::from(moved.is_some()));
    if let Some((value, expire)) = moved {
        writing.tables.set(db, key, value, Expiry::At(expire), now);
    }
    Ok(())
}

fn object_key(args: Args<'_>) -> SmallVec<[usize; 8]> {
    if args.len() > 2 { smallvec![2] } else { smallvec![] }
}

const OBJECT_HELP: &[&str] = &[
    "OBJECT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "ENCODING <key>",
    "    Return the kind of internal representation used in order to store the value",
    "    associated with a <key>.",
    "FREQ <key>",
    "    Return the access frequency index of the <key>. The returned integer is",
    "    proportional to the logarithm of the recent access frequency of the key.",
    "IDLETIME <key>",
    "    Return the idle time of the <key>, that is the approximated number of",
    "    seconds elapsed since the last access to the key.",
    "REFCOUNT <key>",
    "    Return the number of references of the value associated with the specified",
    "    <key>.",
    "HELP",
    "    Prints this help.",
];

const NO_FREQUENCY: CommandError = CommandError::new(
    "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching \
     between policies at runtime LRU and LFU data will take some time to adjust.",
);

fn object(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let subcommand = super::upper(args[1]);
    let words = match subcommand.as_slice() {
        b"HELP" => 2,
        b"ENCODING" | b"FREQ" | b"IDLETIME" | b"REFCOUNT" => 3,
        _ => {
            let name = String::from_utf8_lossy(args[1]);
            return Err(format!("ERR unknown subcommand '{name}'. Try OBJECT HELP.").into());
        }
    };
    if args.len() != words {
        return Err(CommandError::arity(&format!("object|{}", String::from_utf8_lossy(args[1]))));
    }
    if words == 2 {
        reply.array(OBJECT_HELP.len());
        for line in OBJECT_HELP {
            reply.simple(line);
        }
        return Ok(());
    }
    let Some(entry) = reading.tables.peek(reading.db, args[2], reading.now) else {
        reply.null();
        return Ok(());
    };
    match subcommand.as_slice() {
        b"ENCODING" => reply.bulk(encoding(entry.value()).as_bytes()),
        b"FREQ" => return Err(NO_FREQUENCY),
        b"IDLETIME" => reply.int((reading.now / 1000) as i64 - i64::from(entry.used_seconds())),
        // Values are shared with nobody.
        _ => reply.int(1),
    }
    Ok(())
}

/// What Redis would keep this value as.
fn encoding(value: View<'_>) -> &'static str {
    const EMBEDDED_MAX: usize = 44;
    match value {
        View::Str(text) if base::parse_i64(text).is_some() => "int",
        View::Str(text) if text.len() <= EMBEDDED_MAX => "embstr",
        View::Str(_) => "raw",
        View::List(list) => list.encoding(),
        View::Hash(hash) => hash.encoding(),
        View::Set(set) => set.encoding(),
        View::Zset(zset) => zset.encoding(),
        View::Stream(_) => "stream",
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/generic.txt"));
    }
}

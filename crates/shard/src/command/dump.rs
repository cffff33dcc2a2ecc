//! DUMP and RESTORE: values in Redis's own form ([`crate::rdb`]), and MEMORY, which tells what they cost here.

use smallvec::{SmallVec, smallvec};
use store::table::Expiry;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, SYNTAX};
use crate::rdb::{self, Bounds};
use crate::reply::Reply;

family!("generic");

const KEY: Keys = Keys::Range(1, 1, 1);

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("dump", 2, Flags::NONE, KEY, Run::Read(dump), "2.6.0", "Returns a serialized representation of the value stored at a key."),
    spec("restore", -4, Flags::GROWS, KEY, Run::Write(restore), "2.6.0", "Creates a key from the serialized representation of a value."),
    Spec { group: "server", ..spec("memory", -2, Flags::CONTAINER, Keys::Find(memory_key), Run::Read(memory), "4.0.0", "A container for memory diagnostics commands.") },
];

fn dump(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    match reading.tables.peek(reading.db, args[1], reading.now) {
        Some(entry) => reply.bulk(&rdb::dump(entry.value())),
        None => reply.null(),
    }
    Ok(())
}

fn restore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (mut replace, mut absolute, mut idle, mut frequency) = (false, false, false, false);
    let mut words = args[4..].iter();
    while let Some(word) = words.next() {
        let mut within = |low: i64, high: i64, otherwise: &'static str| {
            let number = integer(words.next().ok_or(SYNTAX)?)?;
            if (low..=high).contains(&number) { Ok(()) } else { Err(CommandError::new(otherwise)) }
        };
        // How long a key was not used, and how often it was, are read and forgotten: they are this server's own business.
        match super::upper(word).as_slice() {
            b"REPLACE" => replace = true,
            b"ABSTTL" => absolute = true,
            b"IDLETIME" if !frequency => {
                within(0, i64::MAX, "ERR Invalid IDLETIME value, must be >= 0")?;
                idle = true;
            }
            b"FREQ" if !idle => {
                within(0, 255, "ERR Invalid FREQ value, must be >= 0 and <= 255")?;
                frequency = true;
            }
            _ => return Err(SYNTAX),
        }
    }
    let (db, key, payload, now) = (writing.db, args[1], args[3], writing.now);
    if !replace && writing.tables.peek(db, key, now).is_some() {
        return Err(CommandError::new("BUSYKEY Target key name already exists."));
    }
    let span = u64::try_from(integer(args[2])?);
    let span = span.map_err(|_| CommandError::new("ERR Invalid TTL value, must be >= 0"))?;
    if !rdb::is_whole(payload) {
        return Err(CommandError::new("ERR DUMP payload version or checksum are wrong"));
    }
    let value = rdb::restore(payload, Bounds::of(writing.limits));
    let value = value.map_err(|_| CommandError::new("ERR Bad data format"))?;
    let expiry = match span {
        0 => Expiry::Clear,
        at if absolute => Expiry::At(at),
        span => Expiry::At(now.saturating_add(span)),
    };
    if matches!(expiry, Expiry::At(at) if at <= now) {
        writing.tables.remove(db, key, now);
    } else {
        writing.tables.set(db, key, value, expiry, now);
    }
    reply.ok();
    Ok(())
}

fn memory_key(args: Args<'_>) -> SmallVec<[usize; 8]> {
    if args.len() > 2 && is(args[1], "USAGE") { smallvec![2] } else { smallvec![] }
}

const MEMORY_HELP: &[&str] = &[
    "MEMORY <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "DOCTOR",
    "    Return memory problems reports.",
    "MALLOC-STATS",
    "    Return internal statistics report from the memory allocator.",
    "PURGE",
    "    Attempt to purge dirty pages for reclamation by the allocator.",
    "STATS",
    "    Return information about the memory usage of the server.",
    "USAGE <key> [SAMPLES <count>]",
    "    Return memory in bytes used by <key> and its value. Nested values are",
    "    sampled up to <count> times (default: 5, 0 means sample all).",
    "HELP",
    "    Prints this help.",
];

fn memory(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    match super::upper(args[1]).as_slice() {
        b"USAGE" => {
            // Bytes are counted with every change, so nothing is sampled.
            for pair in args[3..].chunks(2) {
                match pair {
                    [word, count] if is(word, "SAMPLES") => {
                        if integer(count)? < 0 {
                            return Err(SYNTAX);
                        }
                    }
                    _ => return Err(SYNTAX),
                }
            }
            match reading.tables.peek(reading.db, args[2], reading.now) {
                Some(entry) => reply.int(entry.cost() as i64),
                None => reply.null(),
            }
        }
        b"HELP" => {
            reply.array(MEMORY_HELP.len());
            MEMORY_HELP.iter().for_each(|line| reply.simple(line));
        }
        b"DOCTOR" => {
            reply.verbatim("txt", b"Keys are bounded by their keyspaces' budgets; /metrics tells what they hold.\n")
        }
        b"MALLOC-STATS" => reply.bulk(b"Stats not supported for the current allocator"),
        b"PURGE" => reply.ok(),
        _ => {
            let usage = [reading.tables, reading.other].map(store::table::Tables::total_usage);
            reply.map(2);
            reply.bulk(b"keys.count");
            reply.int(usage.iter().map(|usage| usage.keys as i64).sum());
            reply.bulk(b"dataset.bytes");
            reply.int(usage.iter().map(|usage| usage.bytes as i64).sum());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::Served;
    use super::super::testing::{World, golden, run, run_words};

    #[test]
    fn golden_answers() {
        golden(include_str!("golden/dump.txt"));
    }

    #[test]
    fn a_restored_key_lives_as_long_as_it_was_told_to() {
        let mut world = World::new();
        run(&mut world, "SET k v");
        let payload = crate::rdb::dump(store::value::View::Str(b"v"));
        let restore = |world: &mut World, words: &[&[u8]]| {
            let words: Vec<Vec<u8>> = [&[&b"RESTORE"[..]], words].concat().iter().map(|word| word.to_vec()).collect();
            run_words(world, &words, Served::First)
        };
        assert_eq!(restore(&mut world, &[b"a", b"1500", &payload]), "OK");
        assert_eq!(run(&mut world, "PTTL a"), "1500");
        let at = (world.now + 10_000).to_string();
        assert_eq!(restore(&mut world, &[b"a", at.as_bytes(), &payload, b"ABSTTL", b"REPLACE"]), "OK");
        assert_eq!(run(&mut world, "PTTL a"), "10000");
        assert_eq!(restore(&mut world, &[b"a", b"5", &payload, b"ABSTTL", b"REPLACE"]), "OK");
        assert_eq!(run(&mut world, "EXISTS a"), "0");
        let most = i64::MAX.to_string();
        assert_eq!(restore(&mut world, &[b"a", most.as_bytes(), &payload]), "OK");
        assert_eq!(run(&mut world, "GET a"), "\"v\"");
    }
}

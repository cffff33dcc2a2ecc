//! Hashes.

mod random;

use store::value::Hash;

use super::elements::{Wanted, cursor, scan_step};
use super::long_double::LongDouble;
use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer};
use crate::error::{CommandError, NOT_FLOAT, OVERFLOW};
use crate::reply::Reply;

use random::hrandfield;

const ONE: Keys = Keys::Range(1, 1, 1);
const SETS: Flags = Flags::GROWS.and(Flags::FAST);

const fn spec(
    name: &'static str,
    arity: i32,
    flags: Flags,
    run: Run,
    since: &'static str,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags, keys: ONE, run, group: "hash", since, summary }
}

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("hset", -4, SETS, Run::Write(hset), "2.0.0", "Creates or modifies the value of a field in a hash."),
    spec("hmset", -4, SETS, Run::Write(hmset), "2.0.0", "Sets the values of multiple fields."),
    spec("hsetnx", 4, SETS, Run::Write(hsetnx), "2.0.0", "Sets the value of a field in a hash only when the field doesn't exist."),
    spec("hget", 3, Flags::FAST, Run::Read(hget), "2.0.0", "Returns the value of a field in a hash."),
    spec("hmget", -3, Flags::FAST, Run::Read(hmget), "2.0.0", "Returns the values of all fields in a hash."),
    spec("hgetall", 2, Flags::NONE, Run::Read(hgetall), "2.0.0", "Returns all fields and values in a hash."),
    spec("hkeys", 2, Flags::NONE, Run::Read(hkeys), "2.0.0", "Returns all fields in a hash."),
    spec("hvals", 2, Flags::NONE, Run::Read(hvals), "2.0.0", "Returns all values in a hash."),
    spec("hlen", 2, Flags::FAST, Run::Read(hlen), "2.0.0", "Returns the number of fields in a hash."),
    spec("hexists", 3, Flags::FAST, Run::Read(hexists), "2.0.0", "Determines whether a field exists in a hash."),
    spec("hdel", -3, Flags::FREES.and(Flags::FAST), Run::Write(hdel), "2.0.0", "Deletes one or more fields and their values from a hash. Deletes the hash if no fields remain."),
    spec("hstrlen", 3, Flags::FAST, Run::Read(hstrlen), "3.2.0", "Returns the length of the value of a field."),
    spec("hincrby", 4, SETS, Run::Write(hincrby), "2.0.0", "Increments the integer value of a field in a hash by a number. Uses 0 as initial value if the field doesn't exist."),
    spec("hincrbyfloat", 4, SETS, Run::Write(hincrbyfloat), "2.6.0", "Increments the floating point value of a field by a number. Uses 0 as initial value if the field doesn't exist."),
    spec("hrandfield", -2, Flags::NONE, Run::Read(hrandfield), "6.2.0", "Returns one or more random fields from a hash."),
    spec("hscan", -3, Flags::NONE, Run::Read(hscan), "2.8.0", "Iterates over fields and values of a hash."),
];

fn read<'a>(reading: &Reading<'a>, key: &[u8]) -> Result<Option<&'a Hash>, CommandError> {
    Ok(reading.tables.get::<Hash>(reading.db, key, reading.now)?)
}

fn hset(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let fresh = set_pairs(writing, args, "hset")?;
    reply.int(fresh as i64);
    Ok(())
}

fn hmset(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    set_pairs(writing, args, "hmset")?;
    reply.ok();
    Ok(())
}

/// Sets the pairs from word 2 on. Returns how many fields are new.
fn set_pairs(writing: &mut Writing<'_>, args: Args<'_>, name: &'static str) -> Result<usize, CommandError> {
    let (pairs, []) = args[2..].as_chunks::<2>() else {
        return Err(CommandError::arity(name));
    };
    Ok(writing.tables.upsert(writing.db, args[1], writing.now, |hash: &mut Hash| {
        (true, pairs.iter().filter(|[field, value]| hash.insert(field, value)).count())
    })?)
}

fn hsetnx(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let fresh = writing.tables.upsert(writing.db, args[1], writing.now, |hash: &mut Hash| {
        let fresh = !hash.contains(args[2]) && hash.insert(args[2], args[3]);
        (fresh, fresh)
    })?;
    reply.int(fresh.into());
    Ok(())
}

fn bulk_or_null(reply: &mut Reply, value: Option<&[u8]>) {
    match value {
        Some(value) => reply.bulk(value),
        None => reply.null(),
    }
}

fn hget(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let hash = read(reading, args[1])?;
    bulk_or_null(reply, hash.and_then(|hash| hash.get(args[2])));
    Ok(())
}

fn hmget(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let hash = read(reading, args[1])?;
    reply.array(args.len() - 2);
    for field in &args[2..] {
        bulk_or_null(reply, hash.and_then(|hash| hash.get(field)));
    }
    Ok(())
}

fn hgetall(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let hash = read(reading, args[1])?;
    reply.map(hash.map_or(0, Hash::len));
    for (field, value) in hash.into_iter().flat_map(Hash::iter) {
        reply.bulk(field);
        reply.bulk(value);
    }
    Ok(())
}

fn hkeys(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let hash = read(reading, args[1])?;
    reply.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|(field, _)| reply.bulk(field));
    Ok(())
}

fn hvals(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let hash = read(reading, args[1])?;
    reply.array(hash.map_or(0, Hash::len));
    hash.into_iter().flat_map(Hash::iter).for_each(|(_, value)| reply.bulk(value));
    Ok(())
}

fn hlen(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    reply.int(read(reading, args[1])?.map_or(0, Hash::len) as i64);
    Ok(())
}

fn hexists(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    reply.int(read(reading, args[1])?.is_some_and(|hash| hash.contains(args[2])).into());
    Ok(())
}

fn hstrlen(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let value = read(reading, args[1])?.and_then(|hash| hash.get(args[2]));
    reply.int(value.map_or(0, <[u8]>::len) as i64);
    Ok(())
}

fn hdel(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let removed = writing.tables.edit(writing.db, args[1], writing.now, |hash: &mut Hash| {
        let removed = args[2..].iter().filter(|field| hash.remove(field)).count();
        (removed > 0, removed)
    })?;
    reply.int(removed.unwrap_or(0) as i64);
    Ok(())
}

fn hincrby(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let by = integer(args[3])?;
    let sum = writing.tables.upsert(writing.db, args[1], writing.now, |hash: &mut Hash| {
        let old = match hash.get(args[2]) {
            Some(text) => base::parse_i64(text).ok_or(CommandError::new("ERR hash value is not an integer")),
            None => Ok(0),
        };
        let sum = old.and_then(|old| old.checked_add(by).ok_or(OVERFLOW));
        if let Ok(sum) = sum {
            hash.insert(args[2], base::format_i64(sum, &mut [0; 20]));
        }
        (sum.is_ok(), sum)
    })??;
    reply.int(sum);
    Ok(())
}

fn hincrbyfloat(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let by = LongDouble::parse(args[3]).ok_or(NOT_FLOAT)?;
    if matches!(by, LongDouble::Infinite(_)) {
        return Err(CommandError::new("ERR value is NaN or Infinity"));
    }
    let sum = writing.tables.upsert(writing.db, args[1], writing.now, |hash: &mut Hash| {
        let old = match hash.get(args[2]) {
            Some(text) => LongDouble::parse(text).ok_or(CommandError::new("ERR hash value is not a float")),
            None => Ok(LongDouble::ZERO),
        };
        let sum = old
            .and_then(|old| old.plus(by).ok_or(CommandError::new("ERR increment would produce NaN or Infinity")))
            .map(|sum| sum.to_text());
        if let Ok(sum) = &sum {
            hash.insert(args[2], sum.as_bytes());
        }
        (sum.is_ok(), sum)
    })??;
    reply.bulk(sum.as_bytes());
    Ok(())
}

fn hscan(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let cursor = cursor(args[2])?;
    // As in Redis, nobody reads the options where there is no hash.
    let Some(hash) = read(reading, args[1])? else {
        scan_step(reply, |_| (0, 0));
        return Ok(());
    };
    let wanted = Wanted::read(&args[3..])?;
    scan_step(reply, |found| {
        let mut written = 0;
        let next = hash.scan(cursor, wanted.count, |field, value| {
            if wanted.includes(field) {
                found.bulk(field);
                found.bulk(value);
                written += 2;
            }
        });
        (next, written)
    });
    Ok(())
}

#[cfg(test)]
mod tests;

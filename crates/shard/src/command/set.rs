//! Sets: the commands on one set, and SMOVE. Unions and their kin are in `algebra`.

mod algebra;

use store::value::Set;

use super::elements::{Wanted, check_picked, check_picks, count, cursor, sample, scan_step, signed};
use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

use algebra::{sdiff, sdiffstore, sinter, sintercard, sinterstore, sunion, sunionstore};

const ONE: Keys = Keys::Range(1, 1, 1);
const ALL: Keys = Keys::Range(1, -1, 1);
const FREES: Flags = Flags::FREES.and(Flags::FAST);

family!("set");

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("sadd", -3, Flags::GROWS.and(Flags::FAST), ONE, Run::Write(sadd), "1.0.0", "Adds one or more members to a set. Creates the key if it doesn't exist."),
    spec("srem", -3, FREES, ONE, Run::Write(srem), "1.0.0", "Removes one or more members from a set. Deletes the set if the last member was removed."),
    spec("smembers", 2, Flags::NONE, ONE, Run::Read(smembers), "1.0.0", "Returns all members of a set."),
    spec("sismember", 3, Flags::FAST, ONE, Run::Read(sismember), "1.0.0", "Determines whether a member belongs to a set."),
    spec("smismember", -3, Flags::FAST, ONE, Run::Read(smismember), "6.2.0", "Determines whether multiple members belong to a set."),
    spec("scard", 2, Flags::FAST, ONE, Run::Read(scard), "1.0.0", "Returns the number of members in a set."),
    spec("spop", -2, FREES, ONE, Run::Write(spop), "1.0.0", "Returns one or more random members from a set after removing them. Deletes the set if the last member was popped."),
    spec("srandmember", -2, Flags::NONE, ONE, Run::Read(srandmember), "1.0.0", "Get one or multiple random members from a set"),
    spec("smove", 4, Flags::FAST, Keys::Range(1, 2, 1), Run::Write(smove), "1.0.0", "Moves a member from one set to another."),
    spec("sinter", -2, Flags::NONE, ALL, Run::Read(sinter), "1.0.0", "Returns the intersect of multiple sets."),
    spec("sinterstore", -3, Flags::GROWS, ALL, Run::Write(sinterstore), "1.0.0", "Stores the intersect of multiple sets in a key."),
    spec("sintercard", -3, Flags::NONE, Keys::Counted { at: 1, store: false }, Run::Read(sintercard), "7.0.0", "Returns the number of members of the intersect of multiple sets."),
    spec("sunion", -2, Flags::NONE, ALL, Run::Read(sunion), "1.0.0", "Returns the union of multiple sets."),
    spec("sunionstore", -3, Flags::GROWS, ALL, Run::Write(sunionstore), "1.0.0", "Stores the union of multiple sets in a key."),
    spec("sdiff", -2, Flags::NONE, ALL, Run::Read(sdiff), "1.0.0", "Returns the difference of multiple sets."),
    spec("sdiffstore", -3, Flags::GROWS, ALL, Run::Write(sdiffstore), "1.0.0", "Stores the difference of multiple sets in a key."),
    spec("sscan", -3, Flags::NONE, ONE, Run::Read(sscan), "2.8.0", "Iterates over members of a set."),
];

fn read<'a>(reading: &Reading<'a>, key: &[u8]) -> Result<Option<&'a Set>, CommandError> {
    Ok(reading.tables.get::<Set>(reading.db, key, reading.now)?)
}

fn sadd(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let added = writing.tables.upsert(writing.db, args[1], writing.now, |set: &mut Set| {
        set.expect(args[2], args.len() - 2);
        let added = args[2..].iter().filter(|member| set.insert(member)).count();
        (added > 0, added)
    })?;
    reply.int(added as i64);
    Ok(())
}

fn srem(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let removed = writing.tables.edit(writing.db, args[1], writing.now, |set: &mut Set| {
        let removed = args[2..].iter().filter(|member| set.remove(member)).count();
        (removed > 0, removed)
    })?;
    reply.int(removed.unwrap_or(0) as i64);
    Ok(())
}

fn smembers(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let set = read(reading, args[1])?;
    reply.set(set.map_or(0, Set::len));
    set.into_iter().flat_map(Set::iter).for_each(|member| reply.bulk(&member));
    Ok(())
}

fn sismember(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    reply.int(read(reading, args[1])?.is_some_and(|set| set.contains(args[2])).into());
    Ok(())
}

fn smismember(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let set = read(reading, args[1])?;
    reply.array(args.len() - 2);
    for member in &args[2..] {
        reply.int(set.is_some_and(|set| set.contains(member)).into());
    }
    Ok(())
}

fn scard(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    reply.int(read(reading, args[1])?.map_or(0, Set::len) as i64);
    Ok(())
}

fn spop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let several = match args {
        [_, _] => None,
        [_, _, word] => Some(count(word)?),
        _ => return Err(SYNTAX),
    };
    let Writing { db, now, tables, rng, .. } = writing;
    let found = tables.edit(*db, args[1], *now, |set: &mut Set| {
        let picks = several.unwrap_or(1).min(set.len());
        if several.is_some() {
            reply.set(picks);
        }
        if picks == set.len() && several.is_some() {
            set.iter().for_each(|member| reply.bulk(&member));
            *set = Set::default();
            return (true, ());
        }
        for _ in 0..picks {
            let place = rng.index(set.len());
            reply.bulk(&set.at(place).expect("a place below the length"));
            set.remove_at(place);
        }
        (picks > 0, ())
    })?;
    match (found, several) {
        (Some(()), _) => {}
        (None, None) => reply.null(),
        (None, Some(_)) => reply.set(0),
    }
    Ok(())
}

fn srandmember(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let count = match args {
        [_, _] => None,
        [_, _, word] => Some(signed(word)?),
        _ => return Err(SYNTAX),
    };
    let Some(set) = read(reading, args[1])? else {
        if count.is_some() {
            reply.array(0)
        } else {
            reply.null()
        }
        return Ok(());
    };
    let member = |place| set.at(place).expect("a place below the length");
    match count {
        None => reply.bulk(&member(reading.rng.index(set.len()))),
        Some(count @ 0..) => {
            let picks = usize::try_from(count).unwrap_or(usize::MAX).min(set.len());
            reply.array(picks);
            if picks == set.len() {
                set.iter().for_each(|member| reply.bulk(&member));
            } else {
                sample(reading.rng, set.len(), picks).into_iter().for_each(|place| reply.bulk(&member(place)));
            }
        }
        Some(count) => {
            check_picks(count.unsigned_abs())?;
            reply.array(count.unsigned_abs() as usize);
            // A small set is walked once rather than at every pick.
            let all: Vec<_> = if set.is_small() { set.iter().collect() } else { Vec::new() };
            for _ in 0..count.unsigned_abs() {
                let place = reading.rng.index(set.len());
                reply.bulk(&all.get(place).copied().unwrap_or_else(|| member(place)));
                check_picked(reply)?;
            }
        }
    }
    Ok(())
}

fn smove(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (db, now) = (writing.db, writing.now);
    let (source, destination, member) = (args[1], args[2], args[3]);
    // Without a source nobody looks at the destination's kind.
    let has = match writing.tables.get::<Set>(db, source, now)? {
        Some(set) => {
            writing.tables.get::<Set>(db, destination, now)?;
            set.contains(member)
        }
        None => false,
    };
    if has && source != destination {
        writing.tables.edit(db, source, now, |set: &mut Set| (set.remove(member), ()))?;
        writing.tables.upsert(db, destination, now, |set: &mut Set| (set.insert(member), ()))?;
    }
    reply.int(has.into());
    Ok(())
}

fn sscan(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let cursor = cursor(args[2])?;
    // As in Redis, nobody reads the options where there is no set.
    let Some(set) = read(reading, args[1])? else {
        scan_step(reply, |_| (0, 0));
        return Ok(());
    };
    let wanted = Wanted::read(&args[3..])?;
    scan_step(reply, |found| {
        let mut written = 0;
        let next = set.scan(cursor, wanted.count, |member| {
            if wanted.includes(member) {
                found.bulk(member);
                written += 1;
            }
        });
        (next, written)
    });
    Ok(())
}

#[cfg(test)]
mod tests;

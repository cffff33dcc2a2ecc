//! Sorted sets: single members, ranks, random members, iteration. The rest of the family stands in files of its own:
//! [`range`] (by rank, score and bytes), [`pop`] (also waiting), [`combine`] (unions and their kin) and [`geo`] (positions).

mod combine;
mod geo;
mod pop;
mod range;

pub(super) use geo::SPECS as GEO_SPECS;
use store::value::Zset;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, float, integer, is};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

family!("sorted-set");

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("bzmpop", -5, Flags::FREES.and(Flags::BLOCKING), Keys::Counted { at: 2, store: false }, Run::Write(pop::bzmpop), "7.0.0", "Remove and return members with scores in a sorted set or block until one is available."),
    spec("bzpopmax", -3, Flags::FREES.and(Flags::FAST).and(Flags::BLOCKING), Keys::Range(1, -2, 1), Run::Write(pop::bzpopmax), "5.0.0", "Remove and return the member with the highest score from one or more sorted sets, or block until one is available."),
    spec("bzpopmin", -3, Flags::FREES.and(Flags::FAST).and(Flags::BLOCKING), Keys::Range(1, -2, 1), Run::Write(pop::bzpopmin), "5.0.0", "Remove and return the member with the lowest score from one or more sorted sets, or block until one is available."),
    spec("zadd", -4, Flags::GROWS.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(zadd), "1.2.0", "Add one or more members to a sorted set, or update its score if it already exists."),
    spec("zcard", 2, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(zcard), "1.2.0", "Get the number of members in a sorted set."),
    spec("zcount", 4, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(range::zcount), "2.0.0", "Count the members in a sorted set with scores within the given values."),
    spec("zdiff", -3, Flags::NONE, Keys::Counted { at: 1, store: false }, Run::Read(combine::zdiff), "6.2.0", "Subtract multiple sorted sets."),
    spec("zdiffstore", -4, Flags::GROWS, Keys::Counted { at: 2, store: true }, Run::Write(combine::zdiffstore), "6.2.0", "Subtract multiple sorted sets and store the resulting sorted set in a new key."),
    spec("zincrby", 4, Flags::GROWS.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(zincrby), "1.2.0", "Increment the score of a member in a sorted set."),
    spec("zinter", -3, Flags::NONE, Keys::Counted { at: 1, store: false }, Run::Read(combine::zinter), "6.2.0", "Intersect multiple sorted sets."),
    spec("zintercard", -3, Flags::NONE, Keys::Counted { at: 1, store: false }, Run::Read(combine::zintercard), "7.0.0", "Intersect multiple sorted sets and return the cardinality of the result."),
    spec("zinterstore", -4, Flags::GROWS, Keys::Counted { at: 2, store: true }, Run::Write(combine::zinterstore), "2.0.0", "Intersect multiple sorted sets and store the resulting sorted set in a new key."),
    spec("zlexcount", 4, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(range::zlexcount), "2.8.9", "Count the number of members in a sorted set between a given lexicographical range."),
    spec("zmpop", -4, Flags::FREES, Keys::Counted { at: 1, store: false }, Run::Write(pop::zmpop), "7.0.0", "Remove and return members with scores in a sorted set."),
    spec("zmscore", -3, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(zmscore), "6.2.0", "Get the score associated with the given members in a sorted set."),
    spec("zpopmax", -2, Flags::FREES.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(pop::zpopmax), "5.0.0", "Remove and return members with the highest scores in a sorted set."),
    spec("zpopmin", -2, Flags::FREES.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(pop::zpopmin), "5.0.0", "Remove and return members with the lowest scores in a sorted set."),
    spec("zrandmember", -2, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(zrandmember), "6.2.0", "Get one or multiple random elements from a sorted set."),
    spec("zrange", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(range::zrange), "1.2.0", "Return a range of members in a sorted set."),
    spec("zrangebylex", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(range::zrangebylex), "2.8.9", "Return a range of members in a sorted set, by lexicographical range."),
    spec("zrangebyscore", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(range::zrangebyscore), "1.0.5", "Return a range of members in a sorted set, by score."),
    spec("zrangestore", -5, Flags::GROWS, Keys::Range(1, 2, 1), Run::Write(range::zrangestore), "6.2.0", "Store a range of members from sorted set into another key."),
    spec("zrank", -3, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(zrank), "2.0.0", "Determine the index of a member in a sorted set."),
    spec("zrem", -3, Flags::FREES.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(zrem), "1.2.0", "Remove one or more members from a sorted set."),
    spec("zremrangebylex", 4, Flags::FREES, Keys::Range(1, 1, 1), Run::Write(range::zremrangebylex), "2.8.9", "Remove all members in a sorted set between the given lexicographical range."),
    spec("zremrangebyrank", 4, Flags::FREES, Keys::Range(1, 1, 1), Run::Write(range::zremrangebyrank), "2.0.0", "Remove all members in a sorted set within the given indexes."),
    spec("zremrangebyscore", 4, Flags::FREES, Keys::Range(1, 1, 1), Run::Write(range::zremrangebyscore), "1.2.0", "Remove all members in a sorted set within the given scores."),
    spec("zrevrange", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(range::zrevrange), "1.2.0", "Return a range of members in a sorted set, by index, with scores ordered from high to low."),
    spec("zrevrangebylex", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(range::zrevrangebylex), "2.8.9", "Return a range of members in a sorted set, by lexicographical range, ordered from higher to lower strings."),
    spec("zrevrangebyscore", -4, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(range::zrevrangebyscore), "2.2.0", "Return a range of members in a sorted set, by score, with scores ordered from high to low."),
    spec("zrevrank", -3, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(zrevrank), "2.0.0", "Determine the index of a member in a sorted set, with scores ordered from high to low."),
    spec("zscan", -3, Flags::NONE, Keys::Range(1, 1, 1), Run::Read(zscan), "2.8.0", "Incrementally iterate sorted sets elements and associated scores."),
    spec("zscore", 3, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(zscore), "1.2.0", "Get the score associated with the given member in a sorted set."),
    spec("zunion", -3, Flags::NONE, Keys::Counted { at: 1, store: false }, Run::Read(combine::zunion), "6.2.0", "Add multiple sorted sets."),
    spec("zunionstore", -4, Flags::GROWS, Keys::Counted { at: 2, store: true }, Run::Write(combine::zunionstore), "2.0.0", "Add multiple sorted sets and store the resulting sorted set in a new key."),
];

const NOT_POSITIVE: CommandError = CommandError::new("ERR value is out of range, must be positive");

/// Members with their scores: flat under RESP2, pairs under RESP3, or members alone.
fn reply_members<'a>(reply: &mut Reply, members: impl ExactSizeIterator<Item = (&'a [u8], f64)>, with_scores: bool) {
    let pairs = with_scores && reply.is_resp3();
    reply.array(members.len() * if with_scores && !pairs { 2 } else { 1 });
    for (member, score) in members {
        if pairs {
            reply.array(2);
        }
        reply.bulk(member);
        if with_scores {
            reply.double(score);
        }
    }
}

#[derive(Clone, Copy, Default)]
struct AddOptions {
    absent_only: bool,
    present_only: bool,
    greater: bool,
    less: bool,
    count_changed: bool,
    increment: bool,
}

fn zadd(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    add(writing, args, AddOptions::default(), reply)
}

fn zincrby(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    add(writing, args, AddOptions { increment: true, ..AddOptions::default() }, reply)
}

/// What adding has come to.
#[derive(Default)]
struct Added {
    added: i64,
    updated: i64,
    /// The last member's score, where the options did not hold it back.
    score: Option<f64>,
}

fn add(writing: &mut Writing<'_>, args: Args<'_>, mut options: AddOptions, reply: &mut Reply) -> Outcome {
    let mut first = 2;
    for word in &args[2..] {
        match &*super::upper(word) {
            b"NX" => options.absent_only = true,
            b"XX" => options.present_only = true,
            b"GT" => options.greater = true,
            b"LT" => options.less = true,
            b"CH" => options.count_changed = true,
            b"INCR" => options.increment = true,
            _ => break,
        }
        first += 1;
    }
    let pairs = &args[first..];
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(SYNTAX);
    }
    let AddOptions { absent_only, present_only, greater, less, .. } = options;
    if absent_only && present_only {
        return Err(CommandError::new("ERR XX and NX options at the same time are not compatible"));
    }
    if [greater, less, absent_only].iter().filter(|option| **option).count() > 1 {
        return Err(CommandError::new("ERR GT, LT, and/or NX options at the same time are not compatible"));
    }
    if options.increment && pairs.len() > 2 {
        return Err(CommandError::new("ERR INCR option supports a single increment-element pair"));
    }
    let pairs =
        pairs.chunks_exact(2).map(|pair| Ok((float(pair[0])?, pair[1]))).collect::<Result<Vec<_>, CommandError>>()?;
    let added = writing.tables.upsert(writing.db, args[1], writing.now, |zset: &mut Zset| {
        let added = add_pairs(zset, &pairs, options);
        (added.as_ref().is_ok_and(|added| added.added + added.updated > 0), added)
    })??;
    if !options.increment {
        reply.int(if options.count_changed { added.added + added.updated } else { added.added });
    } else if let Some(score) = added.score {
        reply.double(score);
    } else {
        reply.null();
    }
    Ok(())
}

fn add_pairs(zset: &mut Zset, pairs: &[(f64, &[u8])], options: AddOptions) -> Result<Added, CommandError> {
    let mut sum = Added::default();
    for (score, member) in pairs {
        sum.score = None;
        let Some(old) = zset.score(member) else {
            if !options.present_only {
                zset.insert(member, *score);
                sum.added += 1;
                sum.score = Some(*score);
            }
            continue;
        };
        if options.absent_only {
            continue;
        }
        let score = if options.increment { old + score } else { *score };
        if score.is_nan() {
            return Err(CommandError::new("ERR resulting score is not a number (NaN)"));
        }
        if (options.less && score >= old) || (options.greater && score <= old) {
            continue;
        }
        if score != old {
            zset.insert(member, score);
            sum.updated += 1;
        }
        sum.score = Some(score);
    }
    Ok(sum)
}

fn zrem(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let removed = writing.tables.edit(writing.db, args[1], writing.now, |zset: &mut Zset| {
        let removed = args[2..].iter().filter(|member| zset.remove(member).is_some()).count();
        (removed > 0, removed)
    })?;
    reply.int(removed.unwrap_or(0) as i64);
    Ok(())
}

fn zcard(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let zset = reading.tables.get::<Zset>(reading.db, args[1], reading.now)?;
    reply.int(zset.map_or(0, Zset::len) as i64);
    Ok(())
}

fn zscore(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let zset = reading.tables.get::<Zset>(reading.db, args[1], reading.now)?;
    reply_score(reply, zset.and_then(|zset| zset.score(args[2])));
    Ok(())
}

fn zmscore(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let zset = reading.tables.get::<Zset>(reading.db, args[1], reading.now)?;
    reply.array(args.len() - 2);
    args[2..].iter().for_each(|member| reply_score(reply, zset.and_then(|zset| zset.score(member))));
    Ok(())
}

fn reply_score(reply: &mut Reply, score: Option<f64>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

fn zrank(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    rank(reading, args, false, reply)
}

fn zrevrank(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    rank(reading, args, true, reply)
}

fn rank(reading: &mut Reading<'_>, args: Args<'_>, reverse: bool, reply: &mut Reply) -> Outcome {
    let with_score = match args {
        [_, _, _] => false,
        [_, _, _, word] if is(word, "WITHSCORE") => true,
        [_, _, _, _] => return Err(SYNTAX),
        _ => return Err(CommandError::arity(if reverse { "zrevrank" } else { "zrank" })),
    };
    let zset = reading.tables.get::<Zset>(reading.db, args[1], reading.now)?;
    let found = zset.and_then(|zset| {
        let (rank, score) = zset.rank(args[2])?;
        Some((if reverse { zset.len() - 1 - rank } else { rank }, score))
    });
    match found {
        Some((rank, score)) if with_score => {
            reply.array(2);
            reply.int(rank as i64);
            reply.double(score);
        }
        Some((rank, _)) => reply.int(rank as i64),
        None if with_score => reply.null_array(),
        None => reply.null(),
    }
    Ok(())
}

fn zscan(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let cursor = super::scan::cursor(args[2]).ok_or(CommandError::new("ERR invalid cursor"))?;
    let zset = reading.tables.get::<Zset>(reading.db, args[1], reading.now)?;
    let (mut count, mut pattern) = (10, None);
    // Redis answers for an absent key before it looks at the options.
    for pair in args[3..].chunks(2).take(if zset.is_some() { args.len() } else { 0 }) {
        match pair {
            [word, value] if is(word, "COUNT") => {
                count = usize::try_from(integer(value)?).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
            }
            [word, value] if is(word, "MATCH") => pattern = Some(*value),
            _ => return Err(SYNTAX),
        }
    }
    let mut found = Reply::new(crate::reply::Protocol::Resp2);
    let mut words = 0;
    let next = zset.map_or(0, |zset| {
        zset.scan(cursor, count, |member, score| {
            if pattern.is_none_or(|pattern| base::glob_selects(pattern, member)) {
                words += 2;
                found.bulk(member);
                // A score is a bulk string here under RESP3 too.
                found.double(score);
            }
        })
    });
    reply.array(2);
    reply.bulk(next.to_string().as_bytes());
    reply.array(words);
    reply.append(&found);
    Ok(())
}

/// Most members that a negative count may ask for: Redis has no bound but its memory.
const RANDOM_MAX: u64 = 10_000_000;

fn zrandmember(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let Some(word) = args.get(2) else {
        match reading.tables.get::<Zset>(reading.db, args[1], reading.now)? {
            Some(zset) => {
                let index = reading.rng.index(zset.len());
                zset.range(index..index + 1).for_each(|(member, _)| reply.bulk(member));
            }
            None => reply.null(),
        }
        return Ok(());
    };
    let count = integer(word)?;
    if count == i64::MIN {
        let text = "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807";
        return Err(CommandError::new(text));
    }
    let with_scores = match &args[3..] {
        [] => false,
        [word] if is(word, "WITHSCORES") => true,
        _ => return Err(SYNTAX),
    };
    if (with_scores && count.unsigned_abs() > i64::MAX as u64 / 2) || (count < 0 && count.unsigned_abs() > RANDOM_MAX) {
        return Err(CommandError::new("ERR value is out of range"));
    }
    let Some(zset) = reading.tables.get::<Zset>(reading.db, args[1], reading.now)? else {
        reply.array(0);
        return Ok(());
    };
    let (rng, len) = (&mut *reading.rng, zset.len());
    let count = usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX);
    if word.starts_with(b"-") {
        let drawn = (0..count).map(|_| {
            let index = rng.index(len);
            zset.range(index..index + 1).next().expect("the index lies below the length")
        });
        reply_members(reply, drawn, with_scores);
    } else if count >= len {
        reply_members(reply, zset.iter().rev(), with_scores);
    } else {
        // Distinct ranks by Floyd's method: as many draws as members, whatever the set's size.
        let mut ranks = std::collections::BTreeSet::new();
        for bound in len - count..len {
            let rank = rng.index(bound + 1);
            ranks.insert(if ranks.contains(&rank) { bound } else { rank });
        }
        let drawn = ranks.iter().map(|rank| zset.range(*rank..*rank + 1).next().expect("ranks lie below the length"));
        reply_members(reply, drawn, with_scores);
    }
    Ok(())
}

#[cfg(test)]
mod tests;

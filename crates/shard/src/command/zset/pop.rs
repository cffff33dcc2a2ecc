//! Taking members out at either end, also by waiting for them.

use store::value::Zset;

use super::super::{Args, Block, Outcome, Writing, is, timeout};
use super::{NOT_POSITIVE, reply_members};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Min,
    Max,
}

/// Takes up to `count` members out of a set that must be there.
fn take(writing: &mut Writing<'_>, key: &[u8], end: End, count: usize) -> Result<Vec<(Vec<u8>, f64)>, CommandError> {
    let taken = writing.tables.edit(writing.db, key, writing.now, |zset: &mut Zset| {
        let len = zset.len();
        let count = count.min(len);
        let ranks = if end == End::Min { 0..count } else { len - count..len };
        let mut taken: Vec<_> = zset.range(ranks.clone()).map(|(member, score)| (member.to_vec(), score)).collect();
        if end == End::Max {
            taken.reverse();
        }
        zset.remove_range(ranks);
        (!taken.is_empty(), taken)
    })?;
    Ok(taken.unwrap_or_default())
}

/// The first of the keys that holds something.
fn first_present<'a>(writing: &Writing<'_>, keys: &[&'a [u8]]) -> Result<Option<&'a [u8]>, CommandError> {
    for key in keys {
        if writing.tables.get::<Zset>(writing.db, key, writing.now)?.is_some() {
            return Ok(Some(key));
        }
    }
    Ok(None)
}

fn pairs(taken: &[(Vec<u8>, f64)]) -> impl ExactSizeIterator<Item = (&[u8], f64)> {
    taken.iter().map(|(member, score)| (&**member, *score))
}

pub(super) fn zpopmin(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    pop(writing, args, End::Min, reply)
}

pub(super) fn zpopmax(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    pop(writing, args, End::Max, reply)
}

fn pop(writing: &mut Writing<'_>, args: Args<'_>, end: End, reply: &mut Reply) -> Outcome {
    let count = match args {
        [_, _] => None,
        [_, _, count] => {
            let count = base::parse_i64(count).and_then(|count| usize::try_from(count).ok());
            Some(count.ok_or(NOT_POSITIVE)?)
        }
        _ => return Err(SYNTAX),
    };
    let taken = take(writing, args[1], end, count.unwrap_or(1))?;
    match &taken[..] {
        // Without a count the answer is flat under RESP3 too.
        [(member, score)] if count.is_none() => {
            reply.array(2);
            reply.bulk(member);
            reply.double(*score);
        }
        taken => reply_members(reply, pairs(taken), true),
    }
    Ok(())
}

/// What ZMPOP and BZMPOP say from `numkeys` on.
struct Many<'a> {
    keys: Args<'a>,
    end: End,
    count: usize,
}

fn many<'a>(words: Args<'a>) -> Result<Many<'a>, CommandError> {
    let positive = |word: &[u8], text| {
        base::parse_i64(word).and_then(|number| usize::try_from(number).ok()).filter(|number| *number > 0).ok_or(text)
    };
    let keys = positive(words[0], CommandError::new("ERR numkeys should be greater than 0"))?;
    let rest = words.get(keys.saturating_add(1)..).unwrap_or_default();
    let (end, options) = match rest {
        [word, options @ ..] if is(word, "MIN") => (End::Min, options),
        [word, options @ ..] if is(word, "MAX") => (End::Max, options),
        _ => return Err(SYNTAX),
    };
    let count = match options {
        [] => 1,
        [word, count, rest @ ..] if is(word, "COUNT") => {
            let count = positive(count, CommandError::new("ERR count should be greater than 0"))?;
            if !rest.is_empty() {
                return Err(SYNTAX);
            }
            count
        }
        _ => return Err(SYNTAX),
    };
    Ok(Many { keys: &words[1..=keys], end, count })
}

impl Many<'_> {
    /// Whether one of the keys held something, which then is answered.
    fn serve(&self, writing: &mut Writing<'_>, reply: &mut Reply) -> Result<bool, CommandError> {
        let Some(key) = first_present(writing, self.keys)? else {
            return Ok(false);
        };
        let taken = take(writing, key, self.end, self.count)?;
        reply.array(2);
        reply.bulk(key);
        reply.array(taken.len());
        for (member, score) in &taken {
            reply.array(2);
            reply.bulk(member);
            reply.double(*score);
        }
        Ok(true)
    }
}

pub(super) fn zmpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    if !many(&args[1..])?.serve(writing, reply)? {
        reply.null_array();
    }
    Ok(())
}

pub(super) fn bzmpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let many = many(&args[2..])?;
    let until = timeout(args[1], writing.now)?;
    if !many.serve(writing, reply)? {
        wait(writing, many.keys, until, reply);
    }
    Ok(())
}

pub(super) fn bzpopmin(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    blocking_pop(writing, args, End::Min, reply)
}

pub(super) fn bzpopmax(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    blocking_pop(writing, args, End::Max, reply)
}

fn blocking_pop(writing: &mut Writing<'_>, args: Args<'_>, end: End, reply: &mut Reply) -> Outcome {
    let keys = &args[1..args.len() - 1];
    let until = timeout(args[args.len() - 1], writing.now)?;
    let Some(key) = first_present(writing, keys)? else {
        wait(writing, keys, until, reply);
        return Ok(());
    };
    for (member, score) in take(writing, key, end, 1)? {
        reply.array(3);
        reply.bulk(key);
        reply.bulk(&member);
        reply.double(score);
    }
    Ok(())
}

fn wait(writing: &mut Writing<'_>, keys: Args<'_>, until: base::Millis, reply: &mut Reply) {
    let keys = keys.iter().map(|key| key.to_vec()).collect();
    writing.block(Block { keys, until, again: None, null_is_array: true }, reply);
}

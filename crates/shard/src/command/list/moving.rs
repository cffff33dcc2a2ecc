//! Elements that move from list to list, and clients that wait for them.
//!
//! A blocking command is its plain one with a wish to wait where that finds nothing. It is run again, whole, when one of
//! its keys changes; so when it is served it does and answers what the plain one would at that moment.

use base::Millis;
use store::value::{End, List};

use super::super::elements::{at_least, counted_keys};
use super::super::{Args, Block, Outcome, Writing, is, timeout};
use super::pop_array;
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

fn end(word: &[u8]) -> Result<End, CommandError> {
    if is(word, "LEFT") {
        Ok(End::Head)
    } else if is(word, "RIGHT") {
        Ok(End::Tail)
    } else {
        Err(SYNTAX)
    }
}

/// Waits for `keys`. Where nobody may wait, the answer is that of a wait that ended at once.
fn wait(writing: &mut Writing<'_>, keys: Args<'_>, until: Millis, reply: &mut Reply) {
    let keys = keys.iter().map(|key| key.to_vec()).collect();
    writing.block(Block { keys, until, again: None, null_is_array: true }, reply);
}

/// Moves one element and answers it; false, and no answer, where there is no source list.
fn move_one(
    writing: &mut Writing<'_>,
    (source, from): (&[u8], End),
    (destination, to): (&[u8], End),
    reply: &mut Reply,
) -> Result<bool, CommandError> {
    let (db, now) = (writing.db, writing.now);
    if writing.tables.get::<List>(db, source, now)?.is_none() {
        return Ok(false);
    }
    if source == destination {
        writing.tables.edit(db, source, now, |list: &mut List| {
            let element = list.pop(from, |element| element.to_vec()).expect("a list that is there has an element");
            list.push(to, &element);
            reply.bulk(&element);
            (true, ())
        })?;
        return Ok(true);
    }
    // The destination's kind is looked at before the element leaves its place.
    writing.tables.get::<List>(db, destination, now)?;
    let element = writing
        .tables
        .edit(db, source, now, |list: &mut List| (true, list.pop(from, |element| element.to_vec())))?
        .flatten()
        .expect("a list that is there has an element");
    writing.tables.upsert(db, destination, now, |list: &mut List| {
        list.push(to, &element);
        (true, ())
    })?;
    reply.bulk(&element);
    Ok(true)
}

pub(super) fn lmove(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (from, to) = (end(args[3])?, end(args[4])?);
    if !move_one(writing, (args[1], from), (args[2], to), reply)? {
        reply.null();
    }
    Ok(())
}

pub(super) fn rpoplpush(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    if !move_one(writing, (args[1], End::Tail), (args[2], End::Head), reply)? {
        reply.null();
    }
    Ok(())
}

pub(super) fn blmove(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (from, to) = (end(args[3])?, end(args[4])?);
    move_or_wait(writing, args, from, to, args[5], reply)
}

pub(super) fn brpoplpush(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    move_or_wait(writing, args, End::Tail, End::Head, args[3], reply)
}

fn move_or_wait(
    writing: &mut Writing<'_>,
    args: Args<'_>,
    from: End,
    to: End,
    limit: &[u8],
    reply: &mut Reply,
) -> Outcome {
    let until = timeout(limit, writing.now)?;
    if move_one(writing, (args[1], from), (args[2], to), reply)? {
        return Ok(());
    }
    if writing.may_block {
        wait(writing, &args[1..2], until, reply);
    } else {
        // A null array is the answer when time is up, but in a transaction it is a plain null.
        reply.null();
    }
    Ok(())
}

pub(super) fn blpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    pop_or_wait(writing, args, End::Head, reply)
}

pub(super) fn brpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    pop_or_wait(writing, args, End::Tail, reply)
}

fn pop_or_wait(writing: &mut Writing<'_>, args: Args<'_>, end: End, reply: &mut Reply) -> Outcome {
    let until = timeout(args[args.len() - 1], writing.now)?;
    let keys = &args[1..args.len() - 1];
    for key in keys {
        let found = writing.tables.edit(writing.db, key, writing.now, |list: &mut List| {
            reply.array(2);
            reply.bulk(key);
            list.pop(end, |element| reply.bulk(element)).expect("a list that is there has an element");
            (true, ())
        })?;
        if found.is_some() {
            return Ok(());
        }
    }
    wait(writing, keys, until, reply);
    Ok(())
}

/// `numkeys key [key …] LEFT|RIGHT [COUNT count]`.
struct ManyPops<'a> {
    keys: Args<'a>,
    end: End,
    count: usize,
}

impl<'a> ManyPops<'a> {
    fn read(words: Args<'a>) -> Result<ManyPops<'a>, CommandError> {
        let (keys, rest) = counted_keys(words)?.ok_or(SYNTAX)?;
        let (which, options) = rest.split_first().ok_or(SYNTAX)?;
        let end = end(which)?;
        let count = match options {
            [] => 1,
            [word, value] if is(word, "COUNT") => at_least(value, 1, "ERR count should be greater than 0")?,
            [word, value, ..] if is(word, "COUNT") => {
                at_least(value, 1, "ERR count should be greater than 0")?;
                return Err(SYNTAX);
            }
            _ => return Err(SYNTAX),
        };
        Ok(ManyPops { keys, end, count })
    }

    /// Answers the first list that is there and up to `count` of its elements; false, and no answer, where none is.
    fn run(&self, writing: &mut Writing<'_>, reply: &mut Reply) -> Result<bool, CommandError> {
        for key in self.keys {
            let found = writing.tables.edit(writing.db, key, writing.now, |list: &mut List| {
                reply.array(2);
                reply.bulk(key);
                (pop_array(list, self.end, self.count, reply) > 0, ())
            })?;
            if found.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

pub(super) fn lmpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    if !ManyPops::read(&args[1..])?.run(writing, reply)? {
        reply.null_array();
    }
    Ok(())
}

pub(super) fn blmpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let pops = ManyPops::read(&args[2..])?;
    let until = timeout(args[1], writing.now)?;
    if !pops.run(writing, reply)? {
        wait(writing, pops.keys, until, reply);
    }
    Ok(())
}

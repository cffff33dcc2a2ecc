//! Lists: the commands on one list. Those that move elements between lists or wait for them are in `moving`.

mod moving;

use store::value::{End, List};

use super::elements::{at_least, count, places, signed};
use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, INDEX_RANGE, NO_SUCH_KEY, SYNTAX};
use crate::reply::Reply;

use moving::{blmove, blmpop, blpop, brpop, brpoplpush, lmove, lmpop, rpoplpush};

const ONE: Keys = Keys::Range(1, 1, 1);
const TWO: Keys = Keys::Range(1, 2, 1);
const PUSHES: Flags = Flags::GROWS.and(Flags::FAST);
const POPS: Flags = Flags::FREES.and(Flags::FAST);
const WAITS_AND_POPS: Flags = Flags::FREES.and(Flags::BLOCKING);
const WAITS_AND_MOVES: Flags = Flags::GROWS.and(Flags::BLOCKING);

family!("list");

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("lpush", -3, PUSHES, ONE, Run::Write(lpush), "1.0.0", "Prepends one or more elements to a list. Creates the key if it doesn't exist."),
    spec("rpush", -3, PUSHES, ONE, Run::Write(rpush), "1.0.0", "Appends one or more elements to a list. Creates the key if it doesn't exist."),
    spec("lpushx", -3, PUSHES, ONE, Run::Write(lpushx), "2.2.0", "Prepends one or more elements to a list only when the list exists."),
    spec("rpushx", -3, PUSHES, ONE, Run::Write(rpushx), "2.2.0", "Appends an element to a list only when the list exists."),
    spec("lpop", -2, POPS, ONE, Run::Write(lpop), "1.0.0", "Returns the first elements in a list after removing it. Deletes the list if the last element was popped."),
    spec("rpop", -2, POPS, ONE, Run::Write(rpop), "1.0.0", "Returns and removes the last elements of a list. Deletes the list if the last element was popped."),
    spec("llen", 2, Flags::FAST, ONE, Run::Read(llen), "1.0.0", "Returns the length of a list."),
    spec("lindex", 3, Flags::NONE, ONE, Run::Read(lindex), "1.0.0", "Returns an element from a list by its index."),
    spec("lset", 4, Flags::GROWS, ONE, Run::Write(lset), "1.0.0", "Sets the value of an element in a list by its index."),
    spec("lrange", 4, Flags::NONE, ONE, Run::Read(lrange), "1.0.0", "Returns a range of elements from a list."),
    spec("ltrim", 4, Flags::FREES, ONE, Run::Write(ltrim), "1.0.0", "Removes elements from both ends a list. Deletes the list if all elements were trimmed."),
    spec("lrem", 4, Flags::FREES, ONE, Run::Write(lrem), "1.0.0", "Removes elements from a list. Deletes the list if the last element was removed."),
    spec("linsert", 5, Flags::GROWS, ONE, Run::Write(linsert), "2.2.0", "Inserts an element before or after another element in a list."),
    spec("lpos", -3, Flags::NONE, ONE, Run::Read(lpos), "6.0.6", "Returns the index of matching elements in a list."),
    spec("lmove", 5, Flags::GROWS, TWO, Run::Write(lmove), "6.2.0", "Returns an element after popping it from one list and pushing it to another. Deletes the list if the last element was moved."),
    spec("rpoplpush", 3, Flags::GROWS, TWO, Run::Write(rpoplpush), "1.2.0", "Returns the last element of a list after removing and pushing it to another list. Deletes the list if the last element was popped."),
    spec("lmpop", -4, Flags::FREES, Keys::Counted { at: 1, store: false }, Run::Write(lmpop), "7.0.0", "Returns multiple elements from a list after removing them. Deletes the list if the last element was popped."),
    spec("blpop", -3, WAITS_AND_POPS, Keys::Range(1, -2, 1), Run::Write(blpop), "2.0.0", "Removes and returns the first element in a list. Blocks until an element is available otherwise. Deletes the list if the last element was popped."),
    spec("brpop", -3, WAITS_AND_POPS, Keys::Range(1, -2, 1), Run::Write(brpop), "2.0.0", "Removes and returns the last element in a list. Blocks until an element is available otherwise. Deletes the list if the last element was popped."),
    spec("blmove", 6, WAITS_AND_MOVES, TWO, Run::Write(blmove), "6.2.0", "Pops an element from a list, pushes it to another list and returns it. Blocks until an element is available otherwise. Deletes the list if the last element was moved."),
    spec("brpoplpush", 4, WAITS_AND_MOVES, TWO, Run::Write(brpoplpush), "2.2.0", "Pops an element from a list, pushes it to another list and returns it. Block until an element is available otherwise. Deletes the list if the last element was popped."),
    spec("blmpop", -5, WAITS_AND_POPS, Keys::Counted { at: 2, store: false }, Run::Write(blmpop), "7.0.0", "Pops the first element from one of multiple lists. Blocks until an element is available otherwise. Deletes the list if the last element was popped."),
];

fn lpush(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    push(writing, args, End::Head, reply)
}

fn rpush(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    push(writing, args, End::Tail, reply)
}

fn push(writing: &mut Writing<'_>, args: Args<'_>, end: End, reply: &mut Reply) -> Outcome {
    let len = writing.tables.upsert(writing.db, args[1], writing.now, |list: &mut List| {
        args[2..].iter().for_each(|element| list.push(end, element));
        (true, list.len())
    })?;
    reply.int(len as i64);
    Ok(())
}

fn lpushx(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    push_existing(writing, args, End::Head, reply)
}

fn rpushx(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    push_existing(writing, args, End::Tail, reply)
}

fn push_existing(writing: &mut Writing<'_>, args: Args<'_>, end: End, reply: &mut Reply) -> Outcome {
    let len = writing.tables.edit(writing.db, args[1], writing.now, |list: &mut List| {
        args[2..].iter().for_each(|element| list.push(end, element));
        (true, list.len())
    })?;
    reply.int(len.unwrap_or(0) as i64);
    Ok(())
}

fn lpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    pop(writing, args, End::Head, reply)
}

fn rpop(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    pop(writing, args, End::Tail, reply)
}

fn pop(writing: &mut Writing<'_>, args: Args<'_>, end: End, reply: &mut Reply) -> Outcome {
    let several = match args {
        [_, _] => None,
        [_, _, word] => Some(count(word)?),
        _ => return Err(CommandError::arity(if end == End::Head { "lpop" } else { "rpop" })),
    };
    let found = writing.tables.edit(writing.db, args[1], writing.now, |list: &mut List| match several {
        None => (list.pop(end, |element| reply.bulk(element)).is_some(), ()),
        Some(count) => (pop_array(list, end, count, reply) > 0, ()),
    })?;
    match (found, several) {
        (Some(()), _) => {}
        (None, None) => reply.null(),
        (None, Some(_)) => reply.null_array(),
    }
    Ok(())
}

/// Answers an array of up to `count` elements taken from one end. Returns how many.
fn pop_array(list: &mut List, end: End, count: usize, reply: &mut Reply) -> usize {
    let count = count.min(list.len());
    reply.array(count);
    for _ in 0..count {
        list.pop(end, |element| reply.bulk(element));
    }
    count
}

fn llen(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let list = reading.tables.get::<List>(reading.db, args[1], reading.now)?;
    reply.int(list.map_or(0, List::len) as i64);
    Ok(())
}

/// The place that an index means, if there is one.
fn place(index: i64, len: usize) -> Option<usize> {
    let index = if index < 0 { index.checked_add_unsigned(len as u64)? } else { index };
    usize::try_from(index).ok().filter(|place| *place < len)
}

fn lindex(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let Some(list) = reading.tables.get::<List>(reading.db, args[1], reading.now)? else {
        reply.null();
        return Ok(());
    };
    match place(integer(args[2])?, list.len()).and_then(|place| list.get(place)) {
        Some(element) => reply.bulk(element),
        None => reply.null(),
    }
    Ok(())
}

fn lset(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    // Redis looks for the list before it reads the index.
    let len = writing.tables.get::<List>(writing.db, args[1], writing.now)?.ok_or(NO_SUCH_KEY)?.len();
    let place = place(integer(args[2])?, len).ok_or(INDEX_RANGE)?;
    writing.tables.edit(writing.db, args[1], writing.now, |list: &mut List| (list.set(place, args[3]), ()))?;
    reply.ok();
    Ok(())
}

fn lrange(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (start, stop) = (integer(args[2])?, integer(args[3])?);
    let Some(list) = reading.tables.get::<List>(reading.db, args[1], reading.now)? else {
        reply.array(0);
        return Ok(());
    };
    let range = places(start, stop, list.len());
    reply.array(range.len());
    list.iter_from(range.start).take(range.len()).for_each(|element| reply.bulk(element));
    Ok(())
}

fn ltrim(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (start, stop) = (integer(args[2])?, integer(args[3])?);
    writing.tables.edit(writing.db, args[1], writing.now, |list: &mut List| {
        let range = places(start, stop, list.len());
        (list.trim(range.start, range.len()) > 0, ())
    })?;
    reply.ok();
    Ok(())
}

fn lrem(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let count = integer(args[2])?;
    let end = if count < 0 { End::Tail } else { End::Head };
    let limit = if count == 0 { usize::MAX } else { usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX) };
    let removed = writing.tables.edit(writing.db, args[1], writing.now, |list: &mut List| {
        let removed = list.remove(end, args[3], limit);
        (removed > 0, removed)
    })?;
    reply.int(removed.unwrap_or(0) as i64);
    Ok(())
}

fn linsert(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let after = if is(args[2], "AFTER") {
        1
    } else if is(args[2], "BEFORE") {
        0
    } else {
        return Err(SYNTAX);
    };
    let len = writing.tables.edit(writing.db, args[1], writing.now, |list: &mut List| {
        match list.iter().position(|element| element == args[3]) {
            Some(pivot) => (list.insert(pivot + after, args[4]), list.len() as i64),
            None => (false, -1),
        }
    })?;
    reply.int(len.unwrap_or(0));
    Ok(())
}

fn lpos(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (mut rank, mut several, mut compared_max) = (1i64, None, 0usize);
    let mut words = args[3..].iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or(SYNTAX)?;
        if is(word, "RANK") {
            rank = signed(value)?;
            if rank == 0 {
                return Err(CommandError::new(
                    "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list",
                ));
            }
        } else if is(word, "COUNT") {
            several = Some(at_least(value, 0, "ERR COUNT can't be negative")?);
        } else if is(word, "MAXLEN") {
            compared_max = at_least(value, 0, "ERR MAXLEN can't be negative")?;
        } else {
            return Err(SYNTAX);
        }
    }
    let list = reading.tables.get::<List>(reading.db, args[1], reading.now)?;
    let (element, skip) = (args[2], rank.unsigned_abs() - 1);
    let skip = usize::try_from(skip).unwrap_or(usize::MAX);
    let compared_max = if compared_max == 0 { usize::MAX } else { compared_max };
    let wanted = match several {
        None => 1,
        Some(0) => usize::MAX,
        Some(count) => count,
    };
    let mut found: Vec<usize> = Vec::new();
    if let Some(list) = list {
        if rank > 0 {
            let matches = list.iter().enumerate().take(compared_max).filter(|(_, other)| *other == element);
            found.extend(matches.map(|(place, _)| place).skip(skip).take(wanted));
        } else {
            let matches = list.iter_back().enumerate().take(compared_max).filter(|(_, other)| *other == element);
            found.extend(matches.map(|(place, _)| list.len() - 1 - place).skip(skip).take(wanted));
        }
    }
    if several.is_some() {
        reply.array(found.len());
        found.iter().for_each(|place| reply.int(*place as i64));
    } else {
        match found.first() {
            Some(place) => reply.int(*place as i64),
            None => reply.null(),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

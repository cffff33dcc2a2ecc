//! Intersections, unions, differences: read, counted or stored.

use base::Millis;
use store::table::{Expiry, Tables};
use store::value::{Member, Set, Value};

use super::super::elements::{at_least, counted_keys};
use super::super::{Args, Outcome, Reading, Writing, is};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

/// The sets at these keys, `None` where there is no such key; an error where any holds something else.
fn sets<'a>(tables: &'a Tables, db: u8, keys: Args<'_>, now: Millis) -> Result<Vec<Option<&'a Set>>, CommandError> {
    keys.iter().map(|key| Ok(tables.get::<Set>(db, key, now)?)).collect()
}

/// Members that all sets have, in the order of the smallest set.
fn intersection<'a>(sets: &[Option<&'a Set>]) -> impl Iterator<Item = Member<'a>> {
    let mut present: Vec<&Set> = sets.iter().flatten().copied().collect();
    if present.len() < sets.len() {
        present.clear();
    }
    present.sort_by_key(|set| set.len());
    let smallest = present.first().copied();
    let others = present.split_off(present.len().min(1));
    smallest.into_iter().flat_map(Set::iter).filter(move |member| others.iter().all(|set| set.contains(member)))
}

/// Members of the first set that no other has, in its order.
fn difference<'a>(sets: &[Option<&'a Set>]) -> impl Iterator<Item = Member<'a>> {
    let first = sets.first().copied().flatten();
    let others: Vec<&Set> = sets.iter().skip(1).flatten().copied().collect();
    first.into_iter().flat_map(Set::iter).filter(move |member| !others.iter().any(|set| set.contains(member)))
}

/// Members that any set has, in the order of their first appearance.
fn union(sets: &[Option<&Set>]) -> Set {
    collect(sets.iter().copied().flatten().flat_map(Set::iter))
}

fn collect<'a>(members: impl Iterator<Item = Member<'a>>) -> Set {
    let mut set = Set::default();
    members.for_each(|member| {
        set.insert(&member);
    });
    set
}

/// Answers a set whose size is known only after its members.
fn answer<'a>(members: impl Iterator<Item = Member<'a>>, reply: &mut Reply) {
    let mut found = reply.aside();
    let mut count = 0;
    for member in members {
        found.bulk(&member);
        count += 1;
    }
    reply.set(count);
    reply.append(&found);
}

/// Puts a result in the place of whatever the key held; an empty one removes the key.
fn store(writing: &mut Writing<'_>, key: &[u8], set: Set, reply: &mut Reply) {
    reply.int(set.len() as i64);
    if set.is_empty() {
        writing.tables.remove(writing.db, key, writing.now);
    } else {
        writing.tables.set(writing.db, key, Value::Set(Box::new(set)), Expiry::Clear, writing.now);
    }
}

pub(super) fn sinter(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let sets = sets(reading.tables, reading.db, &args[1..], reading.now)?;
    answer(intersection(&sets), reply);
    Ok(())
}

pub(super) fn sinterstore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let result = collect(intersection(&sets(writing.tables, writing.db, &args[2..], writing.now)?));
    store(writing, args[1], result, reply);
    Ok(())
}

pub(super) fn sunion(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let sets = sets(reading.tables, reading.db, &args[1..], reading.now)?;
    let result = union(&sets);
    reply.set(result.len());
    result.iter().for_each(|member| reply.bulk(&member));
    Ok(())
}

pub(super) fn sunionstore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let result = union(&sets(writing.tables, writing.db, &args[2..], writing.now)?);
    store(writing, args[1], result, reply);
    Ok(())
}

pub(super) fn sdiff(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let sets = sets(reading.tables, reading.db, &args[1..], reading.now)?;
    answer(difference(&sets), reply);
    Ok(())
}

pub(super) fn sdiffstore(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let result = collect(difference(&sets(writing.tables, writing.db, &args[2..], writing.now)?));
    store(writing, args[1], result, reply);
    Ok(())
}

pub(super) fn sintercard(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (keys, options) = counted_keys(&args[1..])?
        .ok_or(CommandError::new("ERR Number of keys can't be greater than number of args"))?;
    let mut limit = usize::MAX;
    let mut words = options.iter();
    while let Some(word) = words.next() {
        let value = words.next().filter(|_| is(word, "LIMIT")).ok_or(SYNTAX)?;
        limit = match at_least(value, 0, "ERR LIMIT can't be negative")? {
            0 => usize::MAX,
            limit => limit,
        };
    }
    let sets = sets(reading.tables, reading.db, keys, reading.now)?;
    reply.int(intersection(&sets).take(limit).count() as i64);
    Ok(())
}

//! SORT: the elements of a list, a set or a sorted set, ordered by themselves or by what other keys hold.
//!
//! ```text
//!   SORT ids BY weight_* GET name_* GET #      key of an element: the pattern with its first * replaced
//!   SORT ids BY user_*->age                    a hash field: what follows the arrow
//!   SORT ids BY nosort                         no star: as they come
//! ```
//!
//! Works on references into the tables; nothing is copied before the answer.

use std::borrow::Cow;
use std::cmp::Ordering;

use base::parse_f64;
use smallvec::{SmallVec, smallvec};
use store::table::{Expiry, Tables};
use store::value::{End, Hash, List, Value, View as Held};

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer};
use crate::error::{CommandError, SYNTAX, WRONG_TYPE};
use crate::reply::Reply;

const fn spec(
    name: &'static str,
    flags: Flags,
    keys: Keys,
    run: Run,
    since: &'static str,
    summary: &'static str,
) -> Spec {
    Spec { name, arity: -2, flags, keys, run, group: "generic", since, summary }
}

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("sort", Flags::GROWS, Keys::Find(places), Run::Write(sort), "1.0.0", "Sorts the elements in a list, a set, or a sorted set, optionally storing the result."),
    spec("sort_ro", Flags::NONE, Keys::Range(1, 1, 1), Run::Read(sort_ro), "7.0.0", "Returns the sorted elements of a list, a set, or a sorted set."),
];

/// Most elements that one SORT answers: every GET answers one more for each element.
const RESULTS_MAX: usize = 10_000_000;
/// Most bytes that one SORT stores.
const STORED_BYTES_MAX: usize = 256 << 20;
const TOO_MUCH: CommandError =
    CommandError::new("ERR SORT would give more elements or bytes than its limits; use LIMIT");
const FOREIGN: CommandError = CommandError::new(
    "ERR BY and GET of SORT are denied while data_shards is above 1, unless a {tag} before the * keeps them in the key's shard",
);
const NOT_SCORES: CommandError = CommandError::new("ERR One or more scores can't be converted into double");

/// The key, and the one behind the last STORE.
fn places(args: Args<'_>) -> SmallVec<[usize; 8]> {
    let mut places = smallvec![1];
    let mut at = 2;
    while at < args.len() {
        at += match super::upper(args[at]).as_slice() {
            b"LIMIT" => 3,
            b"GET" | b"BY" => 2,
            b"STORE" if at + 1 < args.len() => {
                places.truncate(1);
                places.push(at + 1);
                2
            }
            _ => 1,
        };
    }
    places
}

#[derive(Default)]
struct Options<'a> {
    descending: bool,
    alpha: bool,
    start: i64,
    /// Negative is all of them.
    count: i64,
    by: Option<&'a [u8]>,
    get: Vec<&'a [u8]>,
    store: Option<&'a [u8]>,
    /// Whether the answer must not depend on how a set is laid out: it is stored, or may lead to other writes.
    repeatable: bool,
}

impl<'a> Options<'a> {
    fn parse(words: Args<'a>, may_store: bool) -> Result<Options<'a>, CommandError> {
        let mut options = Options { count: -1, ..Options::default() };
        let mut words = words.iter().copied();
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(SYNTAX);
            match super::upper(word).as_slice() {
                b"ASC" => options.descending = false,
                b"DESC" => options.descending = true,
                b"ALPHA" => options.alpha = true,
                b"LIMIT" => {
                    let (start, count) = (value()?, value()?);
                    (options.start, options.count) = (integer(start)?, integer(count)?);
                }
                b"STORE" if may_store => options.store = Some(value()?),
                b"BY" => options.by = Some(value()?),
                b"GET" => options.get.push(value()?),
                _ => return Err(SYNTAX),
            }
        }
        Ok(options)
    }

    /// The part of `len` elements that LIMIT leaves.
    fn window(&self, len: usize) -> std::ops::Range<usize> {
        let start = (self.start.max(0) as u64).min(len as u64) as usize;
        let count = if self.count < 0 { len } else { (self.count as u64).min(len as u64) as usize };
        start..(start + count).min(len)
    }
}

type Bytes<'a> = Cow<'a, [u8]>;

fn sort_ro(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let options = Options::parse(&args[2..], false)?;
    answer(&sorted(reading, args[1], &options)?, reply);
    Ok(())
}

fn sort(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let mut options = Options::parse(&args[2..], true)?;
    options.repeatable = options.store.is_some() || !writing.may_block;
    let reading = writing.reading();
    let result = sorted(&reading, args[1], &options)?;
    let Some(target) = options.store else {
        answer(&result, reply);
        return Ok(());
    };
    if result
        .iter()
        .flatten()
        .try_fold(0usize, |sum, element| sum.checked_add(element.len()))
        .is_none_or(|sum| sum > STORED_BYTES_MAX)
    {
        return Err(TOO_MUCH);
    }
    let mut list = List::default();
    for element in &result {
        list.push(End::Tail, element.as_deref().unwrap_or_default());
    }
    drop(result);
    reply.int(list.len() as i64);
    if list.is_empty() {
        writing.tables.remove(writing.db, target, writing.now);
    } else {
        writing.tables.set(writing.db, target, Value::List(Box::new(list)), Expiry::Clear, writing.now);
    }
    Ok(())
}

fn answer(result: &[Option<Bytes<'_>>], reply: &mut Reply) {
    reply.array(result.len());
    for element in result {
        match element {
            Some(bytes) => reply.bulk(bytes),
            None => reply.null(),
        }
    }
}

/// The elements in the order asked for, or what GET makes of them.
fn sorted<'a>(
    reading: &'a Reading<'_>,
    key: &[u8],
    options: &Options<'_>,
) -> Result<Vec<Option<Bytes<'a>>>, CommandError> {
    let mut patterns = options.by.iter().chain(&options.get).filter(|pattern| pattern.contains(&b'*'));
    if patterns.any(|pattern| !reading.slots.owns_all(pattern)) {
        return Err(FOREIGN);
    }
    let view = View { db: reading.db, now: reading.now, tables: reading.tables, other: reading.other, key };
    let value = reading.tables.value(reading.db, key, reading.now);
    let (mut elements, is_set): (Vec<Bytes<'a>>, bool) = match value {
        None => (Vec::new(), false),
        Some(Held::List(list)) => (list.iter().map(Cow::Borrowed).collect(), false),
        Some(Held::Set(set)) => (set.iter().map(|member| Cow::Owned(member.to_vec())).collect(), true),
        Some(Held::Zset(zset)) => (zset.iter().map(|(member, _)| Cow::Borrowed(member)).collect(), false),
        Some(_) => return Err(WRONG_TYPE),
    };
    match options.by {
        Some(by) if !by.contains(&b'*') => {
            if is_set && options.repeatable {
                elements.sort();
            }
            // A set has no order that could be turned round, except the one just made.
            if options.descending && (!is_set || options.repeatable) {
                elements.reverse();
            }
        }
        by => elements = view.order(elements, by, options)?,
    }
    let window = options.window(elements.len());
    elements.truncate(window.end);
    let elements = elements.into_iter().skip(window.start);
    if options.get.is_empty() {
        return Ok(elements.map(Some).collect());
    }
    if elements.len().saturating_mul(options.get.len()) > RESULTS_MAX {
        return Err(TOO_MUCH);
    }
    let mut result = Vec::new();
    for element in elements {
        for pattern in &options.get {
            result.push(if *pattern == b"#" { Some(element.clone()) } else { view.lookup(pattern, &element) });
        }
    }
    Ok(result)
}

/// Where patterns are looked up.
struct View<'a, 'k> {
    db: u8,
    now: base::Millis,
    tables: &'a Tables,
    other: &'a Tables,
    /// The key that is sorted, whose class `tables` holds.
    key: &'k [u8],
}

impl<'a> View<'a, '_> {
    fn order(
        &self,
        elements: Vec<Bytes<'a>>,
        by: Option<&[u8]>,
        options: &Options<'_>,
    ) -> Result<Vec<Bytes<'a>>, CommandError> {
        let turn = |order: Ordering| if options.descending { order.reverse() } else { order };
        if options.alpha {
            let mut weighed: Vec<(Option<Bytes<'a>>, Bytes<'a>)> =
                elements.into_iter().map(|element| (by.and_then(|by| self.lookup(by, &element)), element)).collect();
            match by {
                Some(_) => weighed.sort_by(|(a, _), (b, _)| turn(a.cmp(b))),
                None => weighed.sort_by(|(_, a), (_, b)| turn(a.cmp(b))),
            }
            return Ok(weighed.into_iter().map(|(_, element)| element).collect());
        }
        let mut weighed: Vec<(f64, Bytes<'a>)> = Vec::with_capacity(elements.len());
        for element in elements {
            let weight = match by {
                None => score(&element).ok_or(NOT_SCORES)?,
                // What has no weight weighs nothing.
                Some(by) => match self.lookup(by, &element) {
                    Some(weight) => score(&weight).ok_or(NOT_SCORES)?,
                    None => 0.0,
                },
            };
            weighed.push((weight, element));
        }
        weighed.sort_by(|(a_score, a), (b_score, b)| {
            turn(a_score.partial_cmp(b_score).expect("NaN is not read as a score").then_with(|| a.cmp(b)))
        });
        Ok(weighed.into_iter().map(|(_, element)| element).collect())
    }

    /// What the key or hash field holds that `pattern` names for an element.
    fn lookup(&self, pattern: &[u8], element: &[u8]) -> Option<Bytes<'a>> {
        let star = pattern.iter().position(|byte| *byte == b'*')?;
        let (before, after) = (&pattern[..star], &pattern[star + 1..]);
        let arrow = after.windows(2).position(|pair| pair == b"->").filter(|at| at + 2 < after.len());
        let (after, field) = match arrow {
            Some(at) => (&after[..at], Some(&after[at + 2..])),
            None => (after, None),
        };
        let key = [before, element, after].concat();
        let same_class = self.tables.durability(&key) == self.tables.durability(self.key);
        let tables = if same_class { self.tables } else { self.other };
        let text = match field {
            Some(field) => tables.get::<Hash>(self.db, &key, self.now).ok()??.get(field)?,
            None => tables.text(self.db, &key, self.now).ok()??,
        };
        Some(Cow::Borrowed(text))
    }
}

/// A weight as C's `strtod` reads it: it ends at a zero byte, blanks may stand before it, and nothing at all is zero.
fn score(text: &[u8]) -> Option<f64> {
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    let text = &text[..end];
    if text.is_empty() {
        return Some(0.0);
    }
    let text = text.trim_ascii_start();
    let value = parse_f64(text)?;
    let said_infinite = || text.iter().any(|byte| byte.eq_ignore_ascii_case(&b'n'));
    (value.is_finite() || said_infinite()).then_some(value)
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/sort.txt"));
    }
}

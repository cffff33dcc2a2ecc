//! Whole databases: list, walk, count, clear and exchange them. These see both durability classes.

use base::glob_selects;
use store::table::{DATABASES, Entry, Tables};

use super::generic::NO_DATABASE;
use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

const fn spec(
    name: &'static str,
    arity: i32,
    flags: Flags,
    run: Run,
    group: &'static str,
    since: &'static str,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags: flags.and(Flags::WHOLE), keys: Keys::None, run, group, since, summary }
}

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("randomkey", 1, Flags::NONE, Run::Read(randomkey), "generic", "1.0.0", "Returns a random key name from the database."),
    spec("dbsize", 1, Flags::FAST, Run::Read(dbsize), "server", "1.0.0", "Returns the number of keys in the database."),
    spec("flushdb", -1, Flags::FREES, Run::Write(flushdb), "server", "1.0.0", "Remove all keys from the current database."),
    spec("flushall", -1, Flags::FREES, Run::Write(flushall), "server", "1.0.0", "Removes all keys from all databases."),
    spec("swapdb", 3, Flags::FAST, Run::Write(swapdb), "server", "4.0.0", "Swaps two Redis databases."),
    spec("keys", 2, Flags::NONE, Run::Read(keys), "generic", "1.0.0", "Returns all key names that match a pattern."),
    spec("scan", -2, Flags::NONE, Run::Read(scan), "generic", "2.8.0", "Iterates over the key names in the database."),
];

fn randomkey(reading: &mut Reading<'_>, _: Args<'_>, reply: &mut Reply) -> Outcome {
    match pick(reading) {
        Some(key) => reply.bulk(&key),
        None => reply.null(),
    }
    Ok(())
}

/// A key by chance.
pub(crate) fn pick(reading: &mut Reading<'_>) -> Option<Vec<u8>> {
    let Reading { db, now, tables, other, rng, repeatable, slots, .. } = reading;
    let (here, there) = (tables.len(*db), other.len(*db));
    let first = here + there > 0 && rng.index(here + there) < here;
    let [one, two] = if first { [*tables, *other] } else { [*other, *tables] };
    let mut random = |tables: &Tables| {
        let found = if *repeatable { tables.random_repeatable(*db, *now, rng) } else { tables.random(*db, *now, rng) };
        found.map(|entry| entry.key().to_vec())
    };
    // Where one class holds only expired keys the other one may still have a live one.
    let mut either = || random(one).or_else(|| random(two));
    // Keys on their way to or from another shard are not for everybody; few keys may be left between them.
    let tries = if slots.is_mixed() { 100 } else { 1 };
    (0..tries).find_map(|_| either().filter(|key| slots.shows(key)))
}

fn dbsize(reading: &mut Reading<'_>, _: Args<'_>, reply: &mut Reply) -> Outcome {
    reply.int(size(reading) as i64);
    Ok(())
}

/// How many keys there are.
pub(crate) fn size(reading: &Reading<'_>) -> usize {
    reading.tables.len(reading.db) + reading.other.len(reading.db)
}

/// ASYNC and SYNC come to the same: a flush is one entry of the log.
fn check_flush_words(args: Args<'_>) -> Outcome {
    match args {
        [_] => Ok(()),
        [_, word] if is(word, "ASYNC") || is(word, "SYNC") => Ok(()),
        _ => Err(SYNTAX),
    }
}

fn flushdb(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    check_flush_words(args)?;
    writing.tables.clear(Some(writing.db));
    writing.other.clear(Some(writing.db));
    reply.ok();
    Ok(())
}

fn flushall(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    check_flush_words(args)?;
    writing.tables.clear(None);
    writing.other.clear(None);
    reply.ok();
    Ok(())
}

fn swapdb(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let index = |word: &[u8], error: &'static str| {
        let number = base::parse_i64(word).and_then(|number| i32::try_from(number).ok());
        number.ok_or(CommandError::new(error))
    };
    let one = index(args[1], "ERR invalid first DB index")?;
    let other = index(args[2], "ERR invalid second DB index")?;
    let database = |number: i32| u8::try_from(number).ok().filter(|db| usize::from(*db) < DATABASES);
    let (one, other) = database(one).zip(database(other)).ok_or(NO_DATABASE)?;
    if one != other {
        writing.tables.swap(one, other);
        writing.other.swap(one, other);
    }
    reply.ok();
    Ok(())
}

fn keys(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let begun = reply.begin_array();
    let count = list(reading, args[1], reply);
    reply.end_array(begun, count);
    Ok(())
}

/// Writes the keys that a pattern selects. Returns how many.
pub(crate) fn list(reading: &Reading<'_>, pattern: &[u8], reply: &mut Reply) -> usize {
    let mut count = 0;
    for tables in [reading.tables, reading.other] {
        tables.scan(reading.db, 0, usize::MAX, reading.now, |entry| {
            if glob_selects(pattern, entry.key()) && reading.slots.shows(entry.key()) {
                reply.bulk(entry.key());
                count += 1;
            }
        });
    }
    count
}

/// What SCAN was asked for beside its cursor.
pub(crate) struct Wanted<'a> {
    pattern: Option<&'a [u8]>,
    type_name: Option<&'a [u8]>,
    count: usize,
}

impl Wanted<'_> {
    fn includes(&self, entry: &Entry) -> bool {
        self.type_name.is_none_or(|name| is(name, entry.value().type_name()))
            && self.pattern.is_none_or(|pattern| glob_selects(pattern, entry.key()))
    }
}

fn scan(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (start, wanted) = asked(args)?;
    let mut page = Page::new(reply);
    let next = page.fill(reading, start, &wanted);
    page.write(next, reply);
    Ok(())
}

/// The words of SCAN.
pub(crate) fn asked<'a>(args: Args<'a>) -> Result<(u64, Wanted<'a>), CommandError> {
    let start = cursor(args[1]).ok_or(CommandError::new("ERR invalid cursor"))?;
    Ok((start, wanted(&args[2..])?))
}

/// An answer of SCAN: the keys are written aside because the cursor, known last, comes before them.
pub(crate) struct Page {
    found: Reply,
    seen: usize,
    hits: usize,
}

impl Page {
    pub(crate) fn new(reply: &Reply) -> Page {
        Page { found: reply.aside(), seen: 0, hits: 0 }
    }

    /// Whether as many keys as wanted have been looked at.
    pub(crate) fn is_enough(&self, wanted: &Wanted<'_>) -> bool {
        self.seen >= wanted.count
    }

    /// Goes on from a cursor until there is enough. Returns where to go on, 0 at the end. The cursor's low bit says which of
    /// the two classes it stands in, the rest where.
    pub(crate) fn fill(&mut self, reading: &Reading<'_>, start: u64, wanted: &Wanted<'_>) -> u64 {
        let mut next = start;
        loop {
            let in_other = next & 1 == 1;
            let tables = if in_other { reading.other } else { reading.tables };
            let Page { found, seen, hits } = self;
            let count = wanted.count.saturating_sub(*seen).max(1);
            let at = tables.scan(reading.db, next >> 1, count, reading.now, |entry| {
                *seen += 1;
                if wanted.includes(entry) && reading.slots.shows(entry.key()) {
                    found.bulk(entry.key());
                    *hits += 1;
                }
            });
            next = match (at, in_other) {
                (0, true) => 0,
                (0, false) if reading.other.len(reading.db) == 0 => 0,
                (0, false) => 1,
                (at, _) => at << 1 | u64::from(in_other),
            };
            // Only a small first class leaves room for the second one in the same answer.
            if next != 1 || self.is_enough(wanted) {
                return next;
            }
        }
    }

    pub(crate) fn write(&self, next: u64, reply: &mut Reply) {
        reply.array(2);
        reply.bulk(next.to_string().as_bytes());
        reply.array(self.hits);
        reply.append(&self.found);
    }
}

/// A cursor as C's `strtoul` reads it, which is what Redis's clients have got used to: an empty one is 0.
pub(super) fn cursor(word: &[u8]) -> Option<u64> {
    // A C string ends at a zero byte.
    let word = word.split(|byte| *byte == 0).next().unwrap_or_default();
    let (negative, digits) = match word {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    if digits.is_empty() {
        return word.is_empty().then_some(0);
    }
    let value = digits.iter().try_fold(0u64, |value, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    })?;
    Some(if negative { value.wrapping_neg() } else { value })
}

fn wanted<'a>(words: Args<'a>) -> Result<Wanted<'a>, CommandError> {
    let mut wanted = Wanted { pattern: None, type_name: None, count: 10 };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value = words.next().ok_or(SYNTAX)?;
        if is(word, "COUNT") {
            wanted.count = usize::try_from(integer(value)?).ok().filter(|count| *count > 0).ok_or(SYNTAX)?;
        } else if is(word, "MATCH") {
            wanted.pattern = Some(value);
        } else if is(word, "TYPE") {
            wanted.type_name = Some(value);
        } else {
            return Err(SYNTAX);
        }
    }
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use store::table::{Expiry, Tables};

    use super::super::testing::{World, run};

    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/scan.txt"));
    }

    fn fill(tables: &mut Tables, now: u64, prefix: &str, count: usize) -> BTreeSet<String> {
        let keys: BTreeSet<String> = (0..count).map(|n| format!("{prefix}{n}")).collect();
        for key in &keys {
            tables.set_string(0, key.as_bytes(), b"v", Expiry::Clear, now);
        }
        keys
    }

    /// Follows the cursor to its end and returns all keys and how often it asked.
    fn follow(world: &mut World, options: &str) -> (Vec<String>, usize) {
        let (mut keys, mut cursor, mut rounds) = (Vec::new(), "0".to_string(), 0);
        loop {
            let answer = run(world, &format!("SCAN {cursor} {options}"));
            let mut words = answer.split('"').skip(1).step_by(2).map(str::to_string);
            cursor = words.next().expect("the cursor comes first");
            keys.extend(words);
            rounds += 1;
            if cursor == "0" {
                return (keys, rounds);
            }
        }
    }

    #[test]
    fn whole_commands_see_both_durability_classes() {
        for (logged, cached) in [(0, 0), (3, 3), (0, 30), (30, 0), (2000, 1500)] {
            let mut world = World::new();
            let mut keys = fill(&mut world.tables, world.now, "log:", logged);
            keys.append(&mut fill(&mut world.other, world.now, "cache:", cached));
            for count in [1, 7, 100, 10_000] {
                let (seen, rounds) = follow(&mut world, &format!("COUNT {count}"));
                assert_eq!(seen.len(), keys.len(), "no key stays away or comes twice while nothing changes");
                assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), keys);
                assert!(rounds <= keys.len().div_ceil(count) + 10, "{rounds} rounds of {count}");
            }
            let (cache, _) = follow(&mut world, "COUNT 50 MATCH c*");
            assert_eq!(cache.len(), cached);
            assert_eq!(run(&mut world, "KEYS *").split('"').count() / 2, keys.len());
            assert_eq!(run(&mut world, "DBSIZE"), keys.len().to_string());
            let random = run(&mut world, "RANDOMKEY");
            assert!(keys.contains(random.trim_matches('"')) || keys.is_empty() && random == "nil");
            assert_eq!(run(&mut world, "SWAPDB 0 1"), "OK");
            assert_eq!(run(&mut world, "DBSIZE"), "0");
            assert_eq!(run(&mut world, "SWAPDB 1 0"), "OK");
            assert_eq!(run(&mut world, "FLUSHDB"), "OK");
            assert_eq!(run(&mut world, "SCAN 0"), r#"["0", []]"#);
        }
    }

    #[test]
    fn any_cursor_is_harmless() {
        let mut world = World::new();
        fill(&mut world.tables, world.now, "k", 3000);
        for cursor in ["18446744073709551615", "-1", "1", "3", "9007199254740993", "72057594037927935"] {
            let answer = run(&mut world, &format!("SCAN {cursor} COUNT 5"));
            assert!(answer.starts_with("[\""), "{answer}");
        }
    }

    #[test]
    fn expired_keys_are_not_seen() {
        let mut world = World::new();
        run(&mut world, "SET k v PX 5");
        run(&mut world, "SET stays v");
        world.now += 5;
        assert_eq!(run(&mut world, "KEYS *"), r#"["stays"]"#);
        assert_eq!(run(&mut world, "SCAN 0"), r#"["0", ["stays"]]"#);
        assert_eq!(run(&mut world, "RANDOMKEY"), r#""stays""#);
    }
}

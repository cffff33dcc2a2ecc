//! Strings: setting, getting and cutting them. Numbers in strings are in `number`, bits in `bits`.

use base::Millis;
use store::table::Expiry;

use super::expire::{DAY_ZERO, MILLISECONDS, SECONDS, deadline};
use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

family!("string");

const KEY: Keys = Keys::Range(1, 1, 1);
const GROWS_FAST: Flags = Flags::GROWS.and(Flags::FAST);

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("get", 2, Flags::FAST, KEY, Run::Read(get), "1.0.0", "Returns the string value of a key."),
    spec("set", -3, Flags::GROWS, KEY, Run::Write(set), "1.0.0", "Sets the string value of a key, ignoring its type. The key is created if it doesn't exist."),
    spec("getset", 3, GROWS_FAST, KEY, Run::Write(getset), "1.0.0", "Returns the previous string value of a key after setting it to a new value."),
    spec("getdel", 2, Flags::FAST.and(Flags::FREES), KEY, Run::Write(getdel), "6.2.0", "Returns the string value of a key after deleting the key."),
    spec("getex", -2, Flags::FAST, KEY, Run::Write(getex), "6.2.0", "Returns the string value of a key after setting its expiration time."),
    spec("mget", -2, Flags::FAST, Keys::Range(1, -1, 1), Run::Read(mget), "1.0.0", "Atomically returns the string values of one or more keys."),
    spec("mset", -3, Flags::GROWS, Keys::Range(1, -1, 2), Run::Write(mset), "1.0.1", "Atomically creates or modifies the string values of one or more keys."),
    spec("msetnx", -3, Flags::GROWS, Keys::Range(1, -1, 2), Run::Write(msetnx), "1.0.1", "Atomically modifies the string values of one or more keys only when all keys don't exist."),
    spec("setnx", 3, GROWS_FAST, KEY, Run::Write(setnx), "1.0.0", "Set the string value of a key only when the key doesn't exist."),
    spec("setex", 4, Flags::GROWS, KEY, Run::Write(setex), "2.0.0", "Sets the string value and expiration time of a key. Creates the key if it doesn't exist."),
    spec("psetex", 4, Flags::GROWS, KEY, Run::Write(psetex), "2.6.0", "Sets both string value and expiration time in milliseconds of a key. The key is created if it doesn't exist."),
    spec("append", 3, GROWS_FAST, KEY, Run::Write(append), "2.0.0", "Appends a string to the value of a key. Creates the key if it doesn't exist."),
    spec("strlen", 2, Flags::FAST, KEY, Run::Read(strlen), "2.2.0", "Returns the length of a string value."),
    spec("setrange", 4, Flags::GROWS, KEY, Run::Write(setrange), "2.2.0", "Overwrites a part of a string value with another by an offset. Creates the key if it doesn't exist."),
    spec("getrange", 4, Flags::NONE, KEY, Run::Read(getrange), "2.4.0", "Returns a substring of the string stored at a key."),
    spec("substr", 4, Flags::NONE, KEY, Run::Read(getrange), "1.0.0", "Returns a substring from a string value."),
    spec("lcs", -3, Flags::NONE, Keys::Range(1, 2, 1), Run::Read(super::lcs::lcs), "7.0.0", "Finds the longest common substring."),
];

pub(super) const TOO_LONG: CommandError =
    CommandError::new("ERR string exceeds maximum allowed size (proto-max-bulk-len)");

/// What a write that ends in a string does to it besides: `SET`'s options.
#[derive(Default)]
struct Options {
    nx: bool,
    xx: bool,
    get: bool,
    keep: bool,
    persist: bool,
    expire: Option<Millis>,
    /// Whether the moment was given as such (EXAT, PXAT).
    absolute: bool,
}

impl Options {
    /// Reads the words after the fixed ones. `setting` says whether it is SET or GETEX that has them. `None` where
    /// they cannot stand together. The moment's own errors come last, as in Redis.
    fn parse(words: Args<'_>, setting: bool, now: Millis) -> Result<Options, CommandError> {
        let mut options = Options::default();
        let mut moment: Option<(&[u8], i64, Millis)> = None;
        let mut words = words.iter();
        // SET k v EX 1 EX 2 is valid and the last one counts, EX 1 PX 2 is not.
        let mut unit_word: &[u8] = b"";
        while let Some(word) = words.next() {
            let free = moment.is_none() && !options.keep && !options.persist;
            let same = moment.is_some() && word.eq_ignore_ascii_case(unit_word);
            if setting && is(word, "NX") && !options.xx {
                options.nx = true;
            } else if setting && is(word, "XX") && !options.nx {
                options.xx = true;
            } else if setting && is(word, "GET") {
                options.get = true;
            } else if setting && is(word, "KEEPTTL") && moment.is_none() {
                options.keep = true;
            } else if !setting && is(word, "PERSIST") && moment.is_none() {
                options.persist = true;
            } else if free || same {
                let (unit, base) = match super::upper(word).as_slice() {
                    b"EX" => (SECONDS, now),
                    b"PX" => (MILLISECONDS, now),
                    b"EXAT" => (SECONDS, DAY_ZERO),
                    b"PXAT" => (MILLISECONDS, DAY_ZERO),
                    _ => return Err(SYNTAX),
                };
                options.absolute = base == DAY_ZERO;
                unit_word = word;
                moment = Some((words.next().ok_or(SYNTAX)?, unit, base));
            } else {
                return Err(SYNTAX);
            }
        }
        if let Some((word, unit, base)) = moment {
            options.expire = Some(deadline(word, unit, base, if setting { "set" } else { "getex" })?);
        }
        Ok(options)
    }
}

fn get(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    match reading.tables.text(reading.db, args[1], reading.now)? {
        Some(text) => reply.bulk(text),
        None => reply.null(),
    }
    Ok(())
}

/// The old value of a key as an answer; an error where it is no string.
fn answer_old(writing: &Writing<'_>, key: &[u8], reply: &mut Reply) -> Result<bool, CommandError> {
    let old = writing.tables.text(writing.db, key, writing.now)?;
    match old {
        Some(text) => reply.bulk(text),
        None => reply.null(),
    }
    Ok(old.is_some())
}

/// Writes a string. A moment that has passed already leaves no key behind: it would be absent at once anyway.
fn write(writing: &mut Writing<'_>, key: &[u8], text: &[u8], expiry: Expiry) {
    match expiry {
        Expiry::At(at) if at <= writing.now => {
            writing.tables.remove(writing.db, key, writing.now);
        }
        expiry => writing.tables.set_string(writing.db, key, text, expiry, writing.now),
    }
}

fn exists(writing: &Writing<'_>, key: &[u8]) -> bool {
    writing.tables.peek(writing.db, key, writing.now).is_some()
}

fn set(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (key, text) = (args[1], args[2]);
    if args.len() == 3 {
        writing.tables.set_string(writing.db, key, text, Expiry::Clear, writing.now);
        reply.ok();
        return Ok(());
    }
    let options = Options::parse(&args[3..], true, writing.now)?;
    if options.get {
        answer_old(writing, key, reply)?;
    }
    let found = exists(writing, key);
    if options.nx && found || options.xx && !found {
        if !options.get {
            reply.null();
        }
        return Ok(());
    }
    let expiry = match options.expire {
        Some(at) => Expiry::At(at),
        None if options.keep && found => Expiry::Keep,
        None => Expiry::Clear,
    };
    write(writing, key, text, expiry);
    if !options.get {
        reply.ok();
    }
    Ok(())
}

fn setnx(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let found = exists(writing, args[1]);
    if !found {
        write(writing, args[1], args[2], Expiry::Clear);
    }
    reply.int(i64::from(!found));
    Ok(())
}

fn setex(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let at = deadline(args[2], SECONDS, writing.now, "setex")?;
    write(writing, args[1], args[3], Expiry::At(at));
    reply.ok();
    Ok(())
}

fn psetex(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let at = deadline(args[2], MILLISECONDS, writing.now, "psetex")?;
    write(writing, args[1], args[3], Expiry::At(at));
    reply.ok();
    Ok(())
}

fn getset(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer_old(writing, args[1], reply)?;
    write(writing, args[1], args[2], Expiry::Clear);
    Ok(())
}

fn getdel(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    if answer_old(writing, args[1], reply)? {
        writing.tables.remove(writing.db, args[1], writing.now);
    }
    Ok(())
}

fn getex(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let options = Options::parse(&args[2..], false, writing.now);
    if options.as_ref().is_err_and(|error| *error == SYNTAX) {
        return Err(SYNTAX);
    }
    // A moment that cannot be is an error only where there is a string to give it to, as in Redis.
    if !answer_old(writing, args[1], reply)? {
        return Ok(());
    }
    let options = options?;
    match options.expire {
        Some(at) if options.absolute && at <= writing.now => {
            writing.tables.remove(writing.db, args[1], writing.now);
        }
        Some(at) => {
            writing.tables.set_expire(writing.db, args[1], at, writing.now);
        }
        None if options.persist => {
            writing.tables.set_expire(writing.db, args[1], 0, writing.now);
        }
        None => {}
    }
    Ok(())
}

fn mget(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    reply.array(args.len() - 1);
    for key in &args[1..] {
        match reading.tables.text(reading.db, key, reading.now) {
            Ok(Some(text)) => reply.bulk(text),
            Ok(None) | Err(_) => reply.null(),
        }
    }
    Ok(())
}

fn pairs<'a>(args: Args<'a>) -> Result<&'a [[&'a [u8]; 2]], CommandError> {
    match args[1..].as_chunks() {
        (pairs, []) => Ok(pairs),
        _ => Err(CommandError::arity(&String::from_utf8_lossy(args[0]))),
    }
}

fn mset(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    for [key, text] in pairs(args)? {
        write(writing, key, text, Expiry::Clear);
    }
    reply.ok();
    Ok(())
}

fn msetnx(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let pairs = pairs(args)?;
    let free = !pairs.iter().any(|[key, _]| exists(writing, key));
    if free {
        for [key, text] in pairs {
            write(writing, key, text, Expiry::Clear);
        }
    }
    reply.int(i64::from(free));
    Ok(())
}

fn append(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (key, tail, longest) = (args[1], args[2], writing.limits.bulk_bytes_max);
    let len = writing.tables.edit_text(writing.db, key, writing.now, |text: &mut Vec<u8>| {
        if text.len() + tail.len() > longest {
            return (false, Err(TOO_LONG));
        }
        text.extend_from_slice(tail);
        (!tail.is_empty(), Ok(text.len()))
    })?;
    let len = match len {
        Some(len) => len?,
        None => {
            write(writing, key, tail, Expiry::Clear);
            tail.len()
        }
    };
    reply.int(len as i64);
    Ok(())
}

fn strlen(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let text = reading.tables.text(reading.db, args[1], reading.now)?;
    reply.int(text.map_or(0, <[u8]>::len) as i64);
    Ok(())
}

fn setrange(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (key, piece) = (args[1], args[3]);
    let offset = integer(args[2])?;
    if offset < 0 {
        return Err(CommandError::new("ERR offset is out of range"));
    }
    let old = writing.tables.text(writing.db, key, writing.now)?;
    if piece.is_empty() {
        reply.int(old.map_or(0, <[u8]>::len) as i64);
        return Ok(());
    }
    let end = (offset as usize).saturating_add(piece.len());
    if end > writing.limits.bulk_bytes_max {
        return Err(TOO_LONG);
    }
    let len = writing.tables.upsert_text(writing.db, key, writing.now, |text: &mut Vec<u8>| {
        if text.len() < end {
            text.resize(end, 0);
        }
        text[end - piece.len()..end].copy_from_slice(piece);
        (true, text.len())
    })?;
    reply.int(len as i64);
    Ok(())
}

fn getrange(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (start, end) = (integer(args[2])?, integer(args[3])?);
    let text = reading.tables.text(reading.db, args[1], reading.now)?.unwrap_or_default();
    reply.bulk(span(text.len(), start, end).map_or(&[], |(first, last)| &text[first..=last]));
    Ok(())
}

/// A range of indexes, negative ones counted from the end, both ends included, as places below `len`. `None` if empty.
pub(super) fn span(len: usize, start: i64, end: i64) -> Option<(usize, usize)> {
    if len == 0 || start < 0 && end < 0 && start > end {
        return None;
    }
    let place = |index: i64| if index < 0 { (len as i64).saturating_add(index).max(0) } else { index };
    let (start, end) = (place(start), place(end).min(len as i64 - 1));
    (start <= end).then_some((start as usize, end as usize))
}

/// The strings of two keys for LCS; an absent key is an empty string.
pub(super) fn two<'a>(reading: &'a Reading<'_>, args: Args<'_>) -> Result<(&'a [u8], &'a [u8]), CommandError> {
    let get = |key: &[u8]| match reading.tables.text(reading.db, key, reading.now) {
        Ok(text) => Ok(text.unwrap_or_default()),
        Err(_) => Err(CommandError::new("ERR The specified keys must contain string values")),
    };
    Ok((get(args[1])?, get(args[2])?))
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/string.txt"));
    }

    #[test]
    fn no_string_grows_beyond_the_limit() {
        use super::super::testing::{World, run};
        const TOO_LONG: &str = "-ERR string exceeds maximum allowed size (proto-max-bulk-len)";
        let mut world = World::new();
        world.limits.bulk_bytes_max = 8;
        assert_eq!(run(&mut world, "APPEND k 12345678"), "8");
        let version = world.version("k");
        assert_eq!(run(&mut world, "APPEND k 9"), TOO_LONG);
        assert_eq!(run(&mut world, "SETRANGE k 8 9"), TOO_LONG);
        assert_eq!(run(&mut world, "SETRANGE k 9223372036854775807 9"), TOO_LONG);
        assert_eq!(run(&mut world, "SETRANGE none 8 9"), TOO_LONG);
        assert_eq!(run(&mut world, "SETBIT k 64 1"), "-ERR bit offset is not an integer or out of range");
        assert_eq!(run(&mut world, "BITFIELD none SET u8 64 1"), "-ERR bit offset is not an integer or out of range");
        assert_eq!(run(&mut world, "EXISTS none"), "0", "a refused write leaves no key behind");
        assert_eq!(run(&mut world, "SETRANGE k 7 9"), "8");
        assert_eq!(run(&mut world, "GET k"), "\"12345679\"");
        assert_ne!(world.version("k"), version);
        let version = world.version("k");
        for nothing in ["APPEND k \"\"", "SETRANGE k 3 \"\"", "SETBIT k 0 0", "INCRBY k a", "SET k v NX", "PERSIST k"] {
            run(&mut world, nothing);
            assert_eq!(world.version("k"), version, "{nothing} changes nothing");
        }
    }
}

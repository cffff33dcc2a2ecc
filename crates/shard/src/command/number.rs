//! Numbers in strings: INCR and its kin.

use store::table::Expiry;

use super::long_double::LongDouble;
use super::{Args, Flags, Keys, Outcome, Run, Spec, Writing, integer};
use crate::error::{CommandError, NOT_FLOAT, NOT_INTEGER, OVERFLOW};
use crate::reply::Reply;

const fn spec(name: &'static str, arity: i32, run: Run, since: &'static str, summary: &'static str) -> Spec {
    let flags = Flags::GROWS.and(Flags::FAST);
    Spec { name, arity, flags, keys: Keys::Range(1, 1, 1), run, group: "string", since, summary }
}

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("incr", 2, Run::Write(incr), "1.0.0", "Increments the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."),
    spec("decr", 2, Run::Write(decr), "1.0.0", "Decrements the integer value of a key by one. Uses 0 as initial value if the key doesn't exist."),
    spec("incrby", 3, Run::Write(incrby), "1.0.0", "Increments the integer value of a key by a number. Uses 0 as initial value if the key doesn't exist."),
    spec("decrby", 3, Run::Write(decrby), "1.0.0", "Decrements a number from the integer value of a key. Uses 0 as initial value if the key doesn't exist."),
    spec("incrbyfloat", 3, Run::Write(incrbyfloat), "2.6.0", "Increment the floating point value of a key by a number. Uses 0 as initial value if the key doesn't exist."),
];

fn incr(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    add(writing, args[1], 1, reply)
}

fn decr(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    add(writing, args[1], -1, reply)
}

fn incrby(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    add(writing, args[1], integer(args[2])?, reply)
}

fn decrby(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let by = integer(args[2])?.checked_neg().ok_or(CommandError::new("ERR decrement would overflow"))?;
    add(writing, args[1], by, reply)
}

fn add(writing: &mut Writing<'_>, key: &[u8], by: i64, reply: &mut Reply) -> Outcome {
    let mut buffer = [0; 20];
    let sum = writing.tables.edit_text(writing.db, key, writing.now, |text: &mut Vec<u8>| {
        let sum = base::parse_i64(text).ok_or(NOT_INTEGER).and_then(|old| old.checked_add(by).ok_or(OVERFLOW));
        if let Ok(sum) = sum {
            text.clear();
            text.extend_from_slice(base::format_i64(sum, &mut buffer));
        }
        (sum.is_ok(), sum)
    })?;
    let sum = match sum {
        Some(sum) => sum?,
        None => {
            let text = base::format_i64(by, &mut buffer);
            writing.tables.set_string(writing.db, key, text, Expiry::Clear, writing.now);
            by
        }
    };
    reply.int(sum);
    Ok(())
}

fn incrbyfloat(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let old = writing.tables.text(writing.db, args[1], writing.now)?;
    let found = old.is_some();
    let old = match old {
        Some(text) => LongDouble::parse(text).ok_or(NOT_FLOAT)?,
        None => LongDouble::ZERO,
    };
    let by = LongDouble::parse(args[2]).ok_or(NOT_FLOAT)?;
    let sum = old.plus(by).ok_or(CommandError::new("ERR increment would produce NaN or Infinity"))?.to_text();
    let expiry = if found { Expiry::Keep } else { Expiry::Clear };
    writing.tables.set_string(writing.db, args[1], sum.as_bytes(), expiry, writing.now);
    reply.bulk(sum.as_bytes());
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/number.txt"));
    }
}

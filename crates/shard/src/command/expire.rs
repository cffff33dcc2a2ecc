//! When keys end: EXPIRE and its kin. Time is shard time, so a replica removes a key exactly where its leader did.

use base::Millis;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing, integer};
use crate::error::{CommandError, shown};
use crate::reply::Reply;

const fn spec(
    name: &'static str,
    arity: i32,
    flags: Flags,
    run: Run,
    since: &'static str,
    summary: &'static str,
) -> Spec {
    Spec { name, arity, flags, keys: Keys::Range(1, 1, 1), run, group: "generic", since, summary }
}

const FREES: Flags = Flags::FAST.and(Flags::FREES);

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("expire", -3, FREES, Run::Write(expire), "1.0.0", "Sets the expiration time of a key in seconds."),
    spec("pexpire", -3, FREES, Run::Write(pexpire), "2.6.0", "Sets the expiration time of a key in milliseconds."),
    spec("expireat", -3, FREES, Run::Write(expireat), "1.2.0", "Sets the expiration time of a key to a Unix timestamp."),
    spec("pexpireat", -3, FREES, Run::Write(pexpireat), "2.6.0", "Sets the expiration time of a key to a Unix milliseconds timestamp."),
    spec("ttl", 2, Flags::FAST, Run::Read(ttl), "1.0.0", "Returns the expiration time in seconds of a key."),
    spec("pttl", 2, Flags::FAST, Run::Read(pttl), "2.6.0", "Returns the expiration time in milliseconds of a key."),
    spec("expiretime", 2, Flags::FAST, Run::Read(expiretime), "7.0.0", "Returns the expiration time of a key as a Unix timestamp."),
    spec("pexpiretime", 2, Flags::FAST, Run::Read(pexpiretime), "7.0.0", "Returns the expiration time of a key as a Unix milliseconds timestamp."),
    spec("persist", 2, Flags::FAST, Run::Write(persist), "2.2.0", "Removes the expiration time of a key."),
];

/// Milliseconds in the unit that a word is given in.
pub(super) const SECONDS: i64 = 1000;
/// See [`SECONDS`].
pub(super) const MILLISECONDS: i64 = 1;
/// What a moment counts from that is not counted from now.
pub(super) const DAY_ZERO: Millis = 0;

fn invalid(command: &str) -> CommandError {
    format!("ERR invalid expire time in '{command}' command").into()
}

/// The moment that `word` units after `base` make, which must be a positive number of them.
pub(super) fn deadline(word: &[u8], unit: i64, base: Millis, command: &str) -> Result<Millis, CommandError> {
    let span = integer(word)?;
    if span <= 0 {
        return Err(invalid(command));
    }
    let at = span.checked_mul(unit).and_then(|span| span.checked_add_unsigned(base));
    at.map(|at| at as Millis).ok_or_else(|| invalid(command))
}

#[derive(Default)]
struct Conditions {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

impl Conditions {
    fn parse(words: Args<'_>) -> Result<Conditions, CommandError> {
        let mut conditions = Conditions::default();
        for word in words {
            match super::upper(word).as_slice() {
                b"NX" => conditions.nx = true,
                b"XX" => conditions.xx = true,
                b"GT" => conditions.gt = true,
                b"LT" => conditions.lt = true,
                _ => return Err(format!("ERR Unsupported option {}", shown(word)).into()),
            }
        }
        let Conditions { nx, xx, gt, lt } = conditions;
        if nx && (xx || gt || lt) {
            let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
            return Err(CommandError::new(text));
        }
        if gt && lt {
            return Err(CommandError::new("ERR GT and LT options at the same time are not compatible"));
        }
        Ok(conditions)
    }

    /// Whether a key that expires at `current` (0 is never) may expire at `at` instead.
    fn allow(&self, current: Millis, at: i64) -> bool {
        // A moment that never comes is later than every other.
        let current = if current == 0 { None } else { Some(current as i64) };
        !(self.nx && current.is_some()
            || self.xx && current.is_none()
            || self.gt && current.is_none_or(|current| at <= current)
            || self.lt && current.is_some_and(|current| at >= current))
    }
}

fn expire_at(
    writing: &mut Writing<'_>,
    args: Args<'_>,
    reply: &mut Reply,
    (unit, base, command): (i64, Millis, &str),
) -> Outcome {
    let conditions = Conditions::parse(&args[3..])?;
    let span = integer(args[2])?;
    let at = span.checked_mul(unit).and_then(|span| span.checked_add_unsigned(base)).ok_or_else(|| invalid(command))?;
    let Some(entry) = writing.tables.entry(writing.db, args[1], writing.now) else {
        reply.int(0);
        return Ok(());
    };
    let allowed = conditions.allow(entry.expire(), at);
    if allowed && at <= writing.now as i64 {
        writing.tables.remove(writing.db, args[1], writing.now);
    } else if allowed {
        writing.tables.set_expire(writing.db, args[1], at as Millis, writing.now);
    }
    reply.int(i64::from(allowed));
    Ok(())
}

fn expire(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let now = writing.now;
    expire_at(writing, args, reply, (SECONDS, now, "expire"))
}

fn pexpire(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let now = writing.now;
    expire_at(writing, args, reply, (MILLISECONDS, now, "pexpire"))
}

fn expireat(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    expire_at(writing, args, reply, (SECONDS, DAY_ZERO, "expireat"))
}

fn pexpireat(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    expire_at(writing, args, reply, (MILLISECONDS, DAY_ZERO, "pexpireat"))
}

/// Answers when a key expires: -2 without the key, -1 without an expiry. Half a second is a whole one, as in Redis.
fn answer_expiry(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply, unit: i64, base: Millis) -> Outcome {
    reply.int(match reading.tables.peek(reading.db, args[1], reading.now) {
        None => -2,
        Some(entry) if entry.expire() == 0 => -1,
        Some(entry) => ((entry.expire() - base) as i64).saturating_add(unit / 2) / unit,
    });
    Ok(())
}

fn ttl(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let now = reading.now;
    answer_expiry(reading, args, reply, SECONDS, now)
}

fn pttl(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let now = reading.now;
    answer_expiry(reading, args, reply, MILLISECONDS, now)
}

fn expiretime(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer_expiry(reading, args, reply, SECONDS, DAY_ZERO)
}

fn pexpiretime(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    answer_expiry(reading, args, reply, MILLISECONDS, DAY_ZERO)
}

fn persist(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let volatile = writing.tables.entry(writing.db, args[1], writing.now).is_some_and(|entry| entry.expire() != 0);
    if volatile {
        writing.tables.set_expire(writing.db, args[1], 0, writing.now);
    }
    reply.int(i64::from(volatile));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/expire.txt"));
    }
}

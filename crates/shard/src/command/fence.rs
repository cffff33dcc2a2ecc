//! Fenced locks: `Q.FENCE`, `Q.LOCK`, `Q.UNLOCK`.
//!
//! A lock alone protects nothing from a holder that was paused while its time ended: it wakes up, believes that it holds the lock, and
//! writes. A number does that every taking of the lock yields and that only grows: who writes shows it, and who is written to refuses
//! one that is smaller than one it has seen.
//!
//! ```text
//!   A: Q.LOCK door fence a 5000 ─► 33 … paused …        MULTI · Q.FENCE fence 33 · SET balance 70 · EXEC ─► -FENCED
//!                            B: Q.LOCK door fence b 5000 ─► 34 · MULTI · Q.FENCE fence 34 · SET balance 90 · EXEC
//! ```
//!
//! A *fence* is a key like any other: a string, the greatest number that was seen. So it is replicated, moves with its slot, and is a part
//! of a transaction, over several shards too. The numbers may be anybody's: those of `Q.LOCK`, of Consul's locks, of etcd's. What looks
//! at fences before a MULTI does anything is `state::fence`.

use store::table::{Expiry, Tables};

use super::{Args, Flags, Keys, Outcome, Run, Spec, Writing, integer};
use crate::error::{CommandError, WRONG_TYPE};
use crate::reply::Reply;

family!("transactions");

/// A lock is taken for so long at most, milliseconds.
pub const LOCK_MS_MAX: i64 = 7 * 86_400_000;

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("q.fence", 3, Flags::GROWS.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(fence), "7.2.0", "Refuses a fencing number that is smaller than one it has seen; in a MULTI, before anything of it is done."),
    spec("q.lock", 5, Flags::GROWS.and(Flags::FAST), Keys::Range(1, 2, 1), Run::Write(lock), "7.2.0", "Takes a lock that nobody holds, or prolongs one's own: its fencing number, or null."),
    spec("q.unlock", 3, Flags::FAST.and(Flags::FREES), Keys::Range(1, 1, 1), Run::Write(unlock), "7.2.0", "Lets go of a lock if it is one's own."),
];

const NO_FENCE: CommandError = CommandError::new("ERR this key holds no fencing number");
const NUMBER: CommandError = CommandError::new("ERR a fencing number is an integer from 1 to 9223372036854775807");
const SPAN: CommandError = CommandError::new("ERR a lock is taken for 1 to 604800000 milliseconds");
const ITSELF: CommandError = CommandError::new("ERR a lock and its fence are two keys");
const OVER: CommandError = CommandError::new("ERR this fence has come to its last number");

/// The greatest number that a fence has seen; 0 for none.
fn seen(tables: &Tables, db: u8, key: &[u8], now: base::Millis) -> Result<i64, CommandError> {
    match tables.text(db, key, now).map_err(|_| WRONG_TYPE)? {
        None => Ok(0),
        Some(text) => base::parse_i64(text).filter(|number| *number >= 0).ok_or(NO_FENCE),
    }
}

/// The number that `Q.FENCE` shows, unless a greater one was seen; and whether it is new.
pub(crate) fn shown(tables: &Tables, db: u8, args: Args<'_>, now: base::Millis) -> Result<(i64, bool), CommandError> {
    let number = integer(args[2]).map_err(|_| NUMBER)?;
    if number < 1 {
        return Err(NUMBER);
    }
    let seen = seen(tables, db, args[1], now)?;
    if number < seen {
        let why = format!(
            "FENCED the number {number} is stale, {seen} has been seen: whoever held the lock has lost it; nothing was done"
        );
        return Err(CommandError(why.into()));
    }
    Ok((number, number > seen))
}

fn fence(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (number, is_new) = shown(writing.tables, writing.db, args, writing.now)?;
    if is_new {
        let text = number.to_string();
        writing.tables.set_string(writing.db, args[1], text.as_bytes(), Expiry::Keep, writing.now);
    }
    reply.ok();
    Ok(())
}

fn lock(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let [_, lock, fence, owner, span] = args else { return Err(SPAN) };
    let span = integer(span).ok().filter(|span| (1..=LOCK_MS_MAX).contains(span)).ok_or(SPAN)?;
    if lock == fence {
        return Err(ITSELF);
    }
    let number = seen(writing.tables, writing.db, fence, writing.now)?;
    let holder = writing.tables.text(writing.db, lock, writing.now).map_err(|_| WRONG_TYPE)?;
    let number = match holder {
        Some(holder) if holder != *owner => {
            reply.null();
            return Ok(());
        }
        // Prolonged: it never ended, so nobody else was given a number.
        Some(_) if number > 0 => number,
        _ => {
            let number = number.checked_add(1).ok_or(OVER)?;
            let text = number.to_string();
            writing.tables.set_string(writing.db, fence, text.as_bytes(), Expiry::Keep, writing.now);
            number
        }
    };
    let until = writing.now + span as base::Millis;
    writing.tables.set_string(writing.db, lock, owner, Expiry::At(until), writing.now);
    reply.int(number);
    Ok(())
}

fn unlock(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let holder = writing.tables.text(writing.db, args[1], writing.now).map_err(|_| WRONG_TYPE)?;
    let is_own = holder.is_some_and(|holder| holder == args[2]);
    reply.int(i64::from(is_own && writing.tables.remove(writing.db, args[1], writing.now)));
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_stale_number_is_refused_and_every_taking_of_a_lock_yields_a_greater_one() {
        super::super::testing::golden(include_str!("golden/fence.txt"));
    }
}

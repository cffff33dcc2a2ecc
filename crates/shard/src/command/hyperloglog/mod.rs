//! HyperLogLog: how many different elements were added, within a percent, in at most 12 KiB ([`sketch`]).
//!
//! PFCOUNT only reads: Redis keeps the count in the string until the next change, which costs it a write (and a WATCH its
//! transaction); here that would be an entry of the log for each count. So GET shows the count that a PFADD left invalid.

mod sketch;

use store::table::Expiry;
use store::value::Value;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing};
use crate::error::CommandError;
use crate::reply::Reply;

family!("hyperloglog");

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("pfadd", -2, Flags::GROWS.and(Flags::FAST), Keys::Range(1, 1, 1), Run::Write(pfadd), "2.8.9", "Adds elements to a HyperLogLog key. Creates the key if it doesn't exist."),
    spec("pfcount", -2, Flags::NONE, Keys::Range(1, -1, 1), Run::Read(pfcount), "2.8.9", "Returns the approximated cardinality of the set(s) observed by the HyperLogLog key(s)."),
    spec("pfmerge", -2, Flags::GROWS, Keys::Range(1, -1, 1), Run::Write(pfmerge), "2.8.9", "Merges one or more HyperLogLog values into a single key."),
    spec("pfdebug", 3, Flags::GROWS, Keys::Range(2, 2, 1), Run::Write(pfdebug), "2.8.9", "Internal commands for debugging HyperLogLog values."),
];

const NO_SKETCH: CommandError = CommandError::new("WRONGTYPE Key is not a valid HyperLogLog string value.");

impl From<sketch::Corrupt> for CommandError {
    fn from(_: sketch::Corrupt) -> CommandError {
        CommandError::new("INVALIDOBJ Corrupted HLL object detected")
    }
}

fn checked(text: &[u8]) -> Result<(), CommandError> {
    if sketch::is_sketch(text) { Ok(()) } else { Err(NO_SKETCH) }
}

fn pfadd(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let add = |text: &mut Vec<u8>, mut raised: bool| {
        let mut outcome = checked(text);
        for element in &args[2..] {
            match outcome.and_then(|()| Ok(sketch::add(text, element)?)) {
                Ok(more) => raised |= more,
                Err(error) => return (raised, Err(error)),
            }
            outcome = Ok(());
        }
        if raised {
            sketch::forget_count(text);
        }
        (raised, outcome.map(|()| raised))
    };
    let (db, key, now) = (writing.db, args[1], writing.now);
    let raised = match writing.tables.edit_text(db, key, now, |text| add(text, false))? {
        Some(raised) => raised?,
        None => {
            let mut text = sketch::empty();
            let (_, raised) = add(&mut text, true);
            writing.tables.set(db, key, Value::from(text), Expiry::Clear, now);
            raised?
        }
    };
    reply.int(i64::from(raised));
    Ok(())
}

/// The registers of all keys together, and whether one of them is dense.
fn merged(reading: &Reading<'_>, keys: Args<'_>) -> Result<(Box<sketch::Registers>, bool), CommandError> {
    let mut registers = Box::new([0; size_of::<sketch::Registers>()]);
    let mut is_dense = false;
    for key in keys {
        if let Some(text) = reading.tables.text(reading.db, key, reading.now)? {
            checked(text)?;
            is_dense |= sketch::is_dense(text);
            sketch::merge(&mut registers, text)?;
        }
    }
    Ok((registers, is_dense))
}

fn pfcount(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let count = if let [_, key] = args {
        match reading.tables.text(reading.db, key, reading.now)? {
            None => 0,
            Some(text) => {
                checked(text)?;
                sketch::count(text)?
            }
        }
    } else {
        sketch::count_registers(&merged(reading, &args[1..])?.0)
    };
    reply.int(count as i64);
    Ok(())
}

fn pfmerge(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (registers, is_dense) = merged(&writing.reading(), &args[1..])?;
    let raise = |text: &mut Vec<u8>| {
        let outcome = if is_dense { sketch::make_dense(text) } else { Ok(()) };
        let outcome = outcome.and_then(|()| {
            let raised = registers.iter().enumerate().filter(|(_, value)| **value > 0);
            raised
                .map(|(index, value)| (index, *value))
                .try_for_each(|(index, value)| sketch::raise(text, index, value).map(|_| ()))
        });
        sketch::forget_count(text);
        (true, outcome)
    };
    let (db, key, now) = (writing.db, args[1], writing.now);
    match writing.tables.edit_text(db, key, now, raise)? {
        Some(outcome) => outcome?,
        None => {
            let mut text = sketch::empty();
            raise(&mut text).1?;
            writing.tables.set(db, key, Value::from(text), Expiry::Clear, now);
        }
    }
    reply.ok();
    Ok(())
}

fn pfdebug(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (db, key, now) = (writing.db, args[2], writing.now);
    let Some(text) = writing.tables.text(db, key, now)? else {
        return Err(CommandError::new("ERR The specified key does not exist"));
    };
    checked(text)?;
    match super::upper(args[1]).as_slice() {
        b"GETREG" => {
            let mut registers: Box<sketch::Registers> = Box::new([0; size_of::<sketch::Registers>()]);
            sketch::merge(&mut registers, text)?;
            reply.array(registers.len());
            registers.iter().for_each(|register| reply.int(i64::from(*register)));
        }
        b"DECODE" if sketch::is_dense(text) => return Err(CommandError::new("ERR HLL encoding is not sparse")),
        b"DECODE" => reply.bulk(sketch::decode(text)?.as_bytes()),
        b"ENCODING" => reply.simple(if sketch::is_dense(text) { "dense" } else { "sparse" }),
        b"TODENSE" => {
            let was_dense = sketch::is_dense(text);
            let made = writing.tables.edit_text(db, key, now, |text| (!was_dense, sketch::make_dense(text)))?;
            made.transpose()?;
            reply.int(i64::from(!was_dense));
        }
        _ => {
            let word = crate::error::shown(args[1]);
            return Err(format!("ERR Unknown PFDEBUG subcommand '{word}'").into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("../golden/hyperloglog.txt"));
    }
}

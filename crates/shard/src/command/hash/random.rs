//! HRANDFIELD.

use store::value::Hash;

use super::super::elements::{check_picked, check_picks, sample, signed};
use super::super::{Args, Outcome, Reading, is};
use super::read;
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

/// Writes a picked field; pairs are nested in RESP3 and flat in RESP2.
fn pick(reply: &mut Reply, (field, value): (&[u8], &[u8]), values: bool) {
    if values && reply.is_resp3() {
        reply.array(2);
    }
    reply.bulk(field);
    if values {
        reply.bulk(value);
    }
}

pub(super) fn hrandfield(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let Some(count) = args.get(2) else {
        match read(reading, args[1])? {
            Some(hash) => reply.bulk(hash.at(reading.rng.index(hash.len())).expect("a place below the length").0),
            None => reply.null(),
        }
        return Ok(());
    };
    let count = signed(count)?;
    let values = match &args[3..] {
        [] => false,
        [word] if is(word, "WITHVALUES") => true,
        _ => return Err(SYNTAX),
    };
    if values && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(CommandError::new("ERR value is out of range"));
    }
    let Some(hash) = read(reading, args[1])? else {
        reply.array(0);
        return Ok(());
    };
    let width = if values && !reply.is_resp3() { 2 } else { 1 };
    if count >= 0 {
        let picks = usize::try_from(count).unwrap_or(usize::MAX).min(hash.len());
        reply.array(picks * width);
        pick_different(reading, hash, picks, values, reply);
        return Ok(());
    }
    check_picks(count.unsigned_abs())?;
    let picks = count.unsigned_abs() as usize;
    reply.array(picks * width);
    // A small hash is walked once rather than at every pick.
    let all: Vec<_> = if hash.is_small() { hash.iter().collect() } else { Vec::new() };
    for _ in 0..picks {
        let place = reading.rng.index(hash.len());
        let pair = all.get(place).copied().or_else(|| hash.at(place)).expect("a place below the length");
        pick(reply, pair, values);
        check_picked(reply)?;
    }
    Ok(())
}

fn pick_different(reading: &mut Reading<'_>, hash: &Hash, picks: usize, values: bool, reply: &mut Reply) {
    if picks == hash.len() {
        return hash.iter().for_each(|pair| pick(reply, pair, values));
    }
    for place in sample(reading.rng, hash.len(), picks) {
        pick(reply, hash.at(place).expect("a place below the length"), values);
    }
}

//! BITFIELD: integers of 1 to 64 bits anywhere in a string, the highest bit first.

use super::bits::offset;
use super::{Args, Outcome, Reading, Writing, integer, is};
use crate::error::{CommandError, SYNTAX};
use crate::reply::Reply;

/// `i1` to `i64`, `u1` to `u63`.
#[derive(Clone, Copy)]
struct Width {
    signed: bool,
    bits: u32,
}

/// What happens to a number that does not fit.
#[derive(Clone, Copy)]
enum Overflow {
    Wrap,
    Saturate,
    Fail,
}

#[derive(Clone, Copy)]
enum Action {
    Get,
    Set(i64, Overflow),
    Add(i64, Overflow),
}

struct Operation {
    action: Action,
    width: Width,
    place: u64,
}

impl Width {
    fn parse(word: &[u8]) -> Option<Width> {
        let (signed, digits) = match word {
            [b'i', rest @ ..] => (true, rest),
            [b'u', rest @ ..] => (false, rest),
            _ => return None,
        };
        let bits = base::parse_i64(digits).and_then(|bits| u32::try_from(bits).ok())?;
        (bits >= 1 && bits <= if signed { 64 } else { 63 }).then_some(Width { signed, bits })
    }

    fn range(self) -> (i128, i128) {
        if self.signed { (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1) } else { (0, (1 << self.bits) - 1) }
    }

    /// The number that these low bits stand for.
    fn number(self, bits: u128) -> i128 {
        let bits = bits & ((1 << self.bits) - 1);
        let negative = self.signed && bits >> (self.bits - 1) == 1;
        if negative { bits as i128 - (1 << self.bits) } else { bits as i128 }
    }

    /// What is stored for a number, `None` where it does not fit and must not be stored.
    fn fit(self, number: i128, overflow: Overflow) -> Option<i128> {
        let (low, high) = self.range();
        if (low..=high).contains(&number) {
            return Some(number);
        }
        match overflow {
            Overflow::Wrap => Some(self.number(number as u128)),
            Overflow::Saturate => Some(number.clamp(low, high)),
            Overflow::Fail => None,
        }
    }

    fn read(self, text: &[u8], place: u64) -> i128 {
        let first = (place >> 3) as usize;
        // Nine bytes hold any 64 bits that begin within the first of them.
        let window =
            (0..9).fold(0u128, |window, index| window << 8 | u128::from(text.get(first + index).copied().unwrap_or(0)));
        self.number(window >> (72 - (place & 7) as u32 - self.bits))
    }

    fn write(self, text: &mut [u8], place: u64, number: i128) {
        for bit in 0..u64::from(self.bits) {
            let at = place + bit;
            let mask = 0x80 >> (at & 7);
            let on = number >> (u64::from(self.bits) - 1 - bit) & 1 == 1;
            let byte = &mut text[(at >> 3) as usize];
            *byte = if on { *byte | mask } else { *byte & !mask };
        }
    }
}

fn operations(words: Args<'_>, longest: usize) -> Result<Vec<Operation>, CommandError> {
    const BAD_TYPE: CommandError = CommandError::new(
        "ERR Invalid bitfield type. Use something like i16 u8. Note that u64 is not supported but i64 is.",
    );
    let mut operations = Vec::new();
    let mut overflow = Overflow::Wrap;
    let mut rest = words;
    while let [word, after @ ..] = rest {
        if let [kind, after @ ..] = after
            && is(word, "OVERFLOW")
        {
            overflow = match super::upper(kind).as_slice() {
                b"WRAP" => Overflow::Wrap,
                b"SAT" => Overflow::Saturate,
                b"FAIL" => Overflow::Fail,
                _ => return Err(CommandError::new("ERR Invalid OVERFLOW type specified")),
            };
            rest = after;
            continue;
        }
        let action: fn(i64, Overflow) -> Action = match (super::upper(word).as_slice(), after.len()) {
            (b"GET", 2..) => |_, _| Action::Get,
            (b"SET", 3..) => Action::Set,
            (b"INCRBY", 3..) => Action::Add,
            _ => return Err(SYNTAX),
        };
        let width = Width::parse(after[0]).ok_or(BAD_TYPE)?;
        let place = offset(after[1], Some(i64::from(width.bits)), longest)?;
        let operands = if is(word, "GET") { 2 } else { 3 };
        let number = if operands == 3 { integer(after[2])? } else { 0 };
        operations.push(Operation { action: action(number, overflow), width, place });
        rest = &after[operands..];
    }
    Ok(operations)
}

/// The length that the string must have to take all that is written to it; 0 where nothing is.
fn needed(operations: &[Operation]) -> usize {
    let writes = operations.iter().filter(|operation| !matches!(operation.action, Action::Get));
    writes.map(|operation| (operation.place + u64::from(operation.width.bits)).div_ceil(8) as usize).max().unwrap_or(0)
}

fn answer_reads(text: &[u8], operations: &[Operation], reply: &mut Reply) {
    reply.array(operations.len());
    for Operation { width, place, .. } in operations {
        reply.int(width.read(text, *place) as i64);
    }
}

/// Whether anything changed.
fn run(text: &mut [u8], operations: &[Operation], reply: &mut Reply) -> bool {
    let mut changed = false;
    reply.array(operations.len());
    for Operation { action, width, place } in operations {
        let old = width.read(text, *place);
        let (new, answers_new) = match *action {
            Action::Get => (Some(old), false),
            Action::Set(number, overflow) => (width.set_to(number, overflow), false),
            Action::Add(number, overflow) => (width.fit(old + i128::from(number), overflow), true),
        };
        match new {
            Some(new) => {
                reply.int(if answers_new { new } else { old } as i64);
                if new != old {
                    width.write(text, *place, new);
                    changed = true;
                }
            }
            None => reply.null(),
        }
    }
    changed
}

impl Width {
    /// What SET stores: an unsigned field reads the given number as 64 unsigned bits, so -1 is the largest of all.
    fn set_to(self, number: i64, overflow: Overflow) -> Option<i128> {
        let number = if self.signed { i128::from(number) } else { i128::from(number as u64) };
        let (_, high) = self.range();
        // Redis saturates the lowest numbers of all upwards: its distance to the upper bound overflows.
        if matches!(overflow, Overflow::Saturate) && self.bits < 64 && high - number > i128::from(i64::MAX) {
            return Some(high);
        }
        self.fit(number, overflow)
    }
}

pub(super) fn bitfield(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let operations = operations(&args[2..], writing.limits.bulk_bytes_max)?;
    let needed = needed(&operations);
    if needed == 0 {
        let text = writing.tables.text(writing.db, args[1], writing.now)?;
        answer_reads(text.unwrap_or_default(), &operations, reply);
        return Ok(());
    }
    writing.tables.upsert_text(writing.db, args[1], writing.now, |text: &mut Vec<u8>| {
        let grows = text.len() < needed;
        if grows {
            text.resize(needed, 0);
        }
        (run(text, &operations, reply) || grows, ())
    })?;
    Ok(())
}

pub(super) fn bitfield_ro(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let operations = operations(&args[2..], base::Limits::DEFAULT.bulk_bytes_max)?;
    if needed(&operations) > 0 {
        return Err(CommandError::new("ERR BITFIELD_RO only supports the GET subcommand"));
    }
    let text = reading.tables.text(reading.db, args[1], reading.now)?;
    answer_reads(text.unwrap_or_default(), &operations, reply);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn golden_answers() {
        super::super::testing::golden(include_str!("golden/bitfield.txt"));
    }
}

//! Bounds that take part in what an entry does, so that they must be the same wherever it is applied: they are replicated
//! state. A node whose settings differ proposes its own as an entry, and they hold from there on. All other bounds are kept
//! before something is proposed, or by what a client is told, and each node has its own.

use base::Limits;
use store::codec::{Corrupt, Input, put_varint};

/// The bounds before any entry has set them. Part of the stored form: these numbers never change, whatever becomes of the
/// defaults.
pub fn first() -> Limits {
    with(Limits::DEFAULT, [64 << 20, 128 << 20, 200_000_000, 64 << 20, 1 << 20, 1_000, 100_000])
}

fn numbers(limits: &Limits) -> [u64; 7] {
    [
        limits.bulk_bytes_max as u64,
        limits.command_bytes_max as u64,
        limits.script_instructions_max,
        limits.script_memory_bytes_max as u64,
        limits.script_bytes_max as u64,
        limits.scripts_max as u64,
        limits.waiters_max as u64,
    ]
}

fn with(limits: Limits, numbers: [u64; 7]) -> Limits {
    let [bulk, command, instructions, memory, script, scripts, waiters] = numbers;
    Limits {
        bulk_bytes_max: bulk as usize,
        command_bytes_max: command as usize,
        script_instructions_max: instructions,
        script_memory_bytes_max: memory as usize,
        script_bytes_max: script as usize,
        scripts_max: scripts as usize,
        waiters_max: waiters as usize,
        ..limits
    }
}

/// Whether two sets of limits are the same to an entry.
pub fn same(one: &Limits, other: &Limits) -> bool {
    numbers(one) == numbers(other)
}

/// Appends those that are replicated.
pub fn encode(limits: &Limits, out: &mut Vec<u8>) {
    let numbers = numbers(limits);
    put_varint(out, numbers.len() as u64);
    numbers.iter().for_each(|number| put_varint(out, *number));
}

/// Reads what [`encode`] wrote. The others are the defaults, and of no consequence.
pub fn decode(input: &mut Input<'_>) -> Result<Limits, Corrupt> {
    let mut read = numbers(&first());
    if input.count()? != read.len() {
        return Err(Corrupt("bounds that this build does not know"));
    }
    for number in &mut read {
        *number = input.varint()?;
    }
    Ok(with(Limits::DEFAULT, read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicated_bounds_read_back_and_differ_where_they_do() {
        let set = Limits { scripts_max: 7, waiters_max: 8, connections_max: 9, ..Limits::DEFAULT };
        let mut bytes = Vec::new();
        encode(&set, &mut bytes);
        let read = decode(&mut Input::new(&bytes)).expect("as written");
        assert!(same(&read, &set) && !same(&read, &first()));
        assert_eq!(read.connections_max, Limits::DEFAULT.connections_max, "each node's own business");
        assert!(same(&first(), &Limits::DEFAULT), "a node with default settings proposes nothing at its first start");
    }
}

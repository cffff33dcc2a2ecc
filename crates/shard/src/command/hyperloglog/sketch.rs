//! The sketch itself, in the bytes that Redis keeps it in, so that values can be carried over as they are.
//!
//! ```text
//!   "HYLL"  encoding  3 unused  cached count (8, its highest bit set: not valid)  registers
//!   dense   16384 registers of 6 bits, the lowest bits of a byte first
//!   sparse  00nnnnnn: n+1 zeros   01nnnnnn nnnnnnnn: n+1 zeros   1vvvvvnn: n+1 times v+1
//! ```
//!
//! Heule, Nunkesser, Hall: "HyperLogLog in Practice" (2013); the estimate is Ertl's (arXiv:1702.01284). Any bytes may be here, since
//! SET and RESTORE write strings: what does not add up to 16384 registers is [`Corrupt`], and nothing is read or written beyond it.

const REGISTERS: usize = 16384;
/// Bits of a hash behind those that choose the register.
const RANKS: usize = 50;
const HEADER: usize = 16;
const DENSE_BYTES: usize = HEADER + REGISTERS * 6 / 8;
/// Beyond this many bytes a sparse sketch becomes dense (Redis's `hll-sparse-max-bytes`).
const SPARSE_BYTES_MAX: usize = 3000;
/// The greatest register that the sparse form can hold.
const SPARSE_VALUE_MAX: u8 = 32;
const ZEROS_MAX: usize = 64;

/// The string is a sketch by its head, but its registers are damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt;

/// All registers, a byte each.
pub type Registers = [u8; REGISTERS];

/// Redis's MurmurHash64A.
fn hash(bytes: &[u8]) -> u64 {
    const M: u64 = 0xC6A4_A793_5BD1_E995;
    const SEED: u64 = 0xADC8_3B19;
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(M);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 47;
        hash = (hash ^ word.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let last = rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        hash = (hash ^ last).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 47).wrapping_mul(M);
    hash ^ hash >> 47
}

/// Which register an element belongs to, and what it says there: how many bits until the first that is set.
fn place(element: &[u8]) -> (usize, u8) {
    let hash = hash(element);
    let rest = hash >> 14 | 1 << RANKS;
    (hash as usize % REGISTERS, rest.trailing_zeros() as u8 + 1)
}

/// A run of equal registers in the sparse form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Run {
    /// 0 for registers that nothing was added to.
    value: u8,
    len: usize,
    /// How many bytes tell it.
    bytes: usize,
}

impl Run {
    /// The run at the front of these bytes.
    fn read(bytes: &[u8]) -> Result<Run, Corrupt> {
        let first = *bytes.first().ok_or(Corrupt)?;
        let low = usize::from(first & 0x3F);
        Ok(match first >> 6 {
            0 => Run { value: 0, len: low + 1, bytes: 1 },
            1 => Run { value: 0, len: (low << 8 | usize::from(*bytes.get(1).ok_or(Corrupt)?)) + 1, bytes: 2 },
            _ => Run { value: (first >> 2 & 0x1F) + 1, len: usize::from(first & 3) + 1, bytes: 1 },
        })
    }

    fn write(out: &mut smallvec::SmallVec<[u8; 8]>, value: u8, len: usize) {
        match (value, len) {
            (_, 0) => {}
            (0, 1..=ZEROS_MAX) => out.push((len - 1) as u8),
            (0, _) => out.extend([0x40 | ((len - 1) >> 8) as u8, (len - 1) as u8]),
            _ => out.push(value_run(value, len)),
        }
    }
}

fn value_run(value: u8, len: usize) -> u8 {
    0x80 | (value - 1) << 2 | (len - 1) as u8
}

fn is_value(byte: u8) -> bool {
    byte & 0x80 != 0
}

/// An empty sketch.
pub fn empty() -> Vec<u8> {
    let mut text = b"HYLL\x01".to_vec();
    text.resize(HEADER, 0);
    let mut run = smallvec::SmallVec::new();
    Run::write(&mut run, 0, REGISTERS);
    text.extend(run);
    text
}

/// Whether a string can be a sketch, by its head and length.
pub fn is_sketch(text: &[u8]) -> bool {
    text.len() >= HEADER && text.starts_with(b"HYLL") && text[4] <= 1 && (text[4] == 1 || text.len() == DENSE_BYTES)
}

/// Whether a sketch has the dense form.
pub fn is_dense(text: &[u8]) -> bool {
    text[4] == 0
}

/// Marks the cached count as not valid any more.
pub fn forget_count(text: &mut [u8]) {
    text[15] |= 0x80;
}

fn dense_get(registers: &[u8], index: usize) -> u8 {
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let low = u16::from(registers[byte]) | u16::from(registers.get(byte + 1).copied().unwrap_or(0)) << 8;
    (low >> shift) as u8 & 0x3F
}

fn dense_set(registers: &mut [u8], index: usize, value: u8) {
    let (byte, shift) = (index * 6 / 8, index * 6 % 8);
    let (mask, bits) = (0x3F_u16 << shift, u16::from(value) << shift);
    registers[byte] = registers[byte] & !mask as u8 | bits as u8;
    if let Some(next) = registers.get_mut(byte + 1) {
        *next = *next & !(mask >> 8) as u8 | (bits >> 8) as u8;
    }
}

/// Visits the runs of registers.
fn runs(text: &[u8], mut visit: impl FnMut(usize, usize, u8)) -> Result<(), Corrupt> {
    let registers = &text[HEADER..];
    if is_dense(text) {
        (0..REGISTERS).for_each(|index| visit(index, 1, dense_get(registers, index)));
        return Ok(());
    }
    let (mut at, mut index) = (0, 0);
    while at < registers.len() {
        let run = Run::read(&registers[at..])?;
        if index + run.len > REGISTERS {
            return Err(Corrupt);
        }
        visit(index, run.len, run.value);
        index += run.len;
        at += run.bytes;
    }
    if index == REGISTERS { Ok(()) } else { Err(Corrupt) }
}

/// Raises the registers to those of a sketch.
pub fn merge(into: &mut Registers, text: &[u8]) -> Result<(), Corrupt> {
    runs(text, |first, len, value| {
        into[first..first + len].iter_mut().for_each(|register| *register = value.max(*register));
    })
}

/// Gives a sketch the dense form.
pub fn make_dense(text: &mut Vec<u8>) -> Result<(), Corrupt> {
    if is_dense(text) {
        return Ok(());
    }
    let mut dense = text[..HEADER].to_vec();
    dense[4] = 0;
    dense.resize(DENSE_BYTES, 0);
    runs(text, |first, len, value| {
        if value > 0 {
            (first..first + len).for_each(|index| dense_set(&mut dense[HEADER..], index, value));
        }
    })?;
    *text = dense;
    Ok(())
}

/// Adds an element. Returns whether a register was raised.
pub fn add(text: &mut Vec<u8>, element: &[u8]) -> Result<bool, Corrupt> {
    let (index, value) = place(element);
    raise(text, index, value)
}

/// Raises one register. Returns whether it was lower.
pub fn raise(text: &mut Vec<u8>, index: usize, value: u8) -> Result<bool, Corrupt> {
    let raised = if is_dense(text) { raise_dense(text, index, value) } else { raise_sparse(text, index, value)? };
    if raised {
        forget_count(text);
    }
    Ok(raised)
}

fn raise_dense(text: &mut [u8], index: usize, value: u8) -> bool {
    let registers = &mut text[HEADER..];
    let raised = value > dense_get(registers, index);
    if raised {
        dense_set(registers, index, value);
    }
    raised
}

/// Splits and joins runs exactly as Redis does, so that the same elements leave the same bytes.
fn raise_sparse(text: &mut Vec<u8>, index: usize, value: u8) -> Result<bool, Corrupt> {
    if value > SPARSE_VALUE_MAX {
        make_dense(text)?;
        return Ok(raise_dense(text, index, value));
    }
    let (mut at, mut first, mut previous) = (HEADER, 0, HEADER);
    let run = loop {
        let run = Run::read(text.get(at..).ok_or(Corrupt)?)?;
        if index < first + run.len {
            break run;
        }
        previous = at;
        at += run.bytes;
        first += run.len;
    };
    if run.value >= value {
        return Ok(false);
    }
    let mut parts = smallvec::SmallVec::<[u8; 8]>::new();
    Run::write(&mut parts, run.value, index - first);
    Run::write(&mut parts, value, 1);
    Run::write(&mut parts, run.value, first + run.len - 1 - index);
    if parts.len() > run.bytes && text.len() + parts.len() - run.bytes > SPARSE_BYTES_MAX {
        make_dense(text)?;
        return Ok(raise_dense(text, index, value));
    }
    text.splice(at..at + run.bytes, parts);
    join(text, previous);
    Ok(true)
}

/// Joins runs of one value that stand side by side, among the five from here on.
fn join(text: &mut Vec<u8>, mut at: usize) {
    let mut looks = 5;
    while at < text.len() && looks > 0 {
        looks -= 1;
        if !is_value(text[at]) {
            at += if text[at] & 0x40 != 0 { 2 } else { 1 };
            continue;
        }
        if let Some(next) = text.get(at + 1).copied().filter(|next| is_value(*next)) {
            let (one, other) = (text[at], next);
            let len = usize::from(one & 3) + usize::from(other & 3) + 2;
            if one >> 2 == other >> 2 && len <= 4 {
                text[at + 1] = value_run((one >> 2 & 0x1F) + 1, len);
                text.remove(at);
                continue;
            }
        }
        at += 1;
    }
}

/// How many different elements a sketch has seen, about.
pub fn count(text: &[u8]) -> Result<u64, Corrupt> {
    let cached = u64::from_le_bytes(text[8..HEADER].try_into().expect("eight bytes"));
    if cached >> 63 == 0 {
        return Ok(cached);
    }
    let mut histogram = [0; 64];
    runs(text, |_, len, value| histogram[usize::from(value)] += len)?;
    Ok(estimate(&histogram))
}

/// How many different elements have raised these registers, about.
pub fn count_registers(registers: &Registers) -> u64 {
    let mut histogram = [0; 64];
    registers.iter().for_each(|value| histogram[usize::from(*value)] += 1);
    estimate(&histogram)
}

fn estimate(histogram: &[usize; 64]) -> u64 {
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let m = REGISTERS as f64;
    let mut z = m * tau((m - histogram[RANKS + 1] as f64) / m);
    for value in (1..=RANKS).rev() {
        z = (z + histogram[value] as f64) * 0.5;
    }
    z += m * sigma(histogram[0] as f64 / m);
    (ALPHA * m * m / z).round() as u64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

/// A sparse sketch's runs in words, as PFDEBUG DECODE shows them.
pub fn decode(text: &[u8]) -> Result<String, Corrupt> {
    let mut words = Vec::new();
    let mut at = HEADER;
    while at < text.len() {
        let run = Run::read(&text[at..])?;
        words.push(match run {
            Run { value: 0, len, bytes: 1 } => format!("z:{len}"),
            Run { value: 0, len, .. } => format!("Z:{len}"),
            Run { value, len, .. } => format!("v:{value},{len}"),
        });
        at += run.bytes;
    }
    Ok(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_hold_the_same_registers_and_the_estimate_is_near() {
        let (mut sparse, mut dense) = (empty(), empty());
        make_dense(&mut dense).unwrap();
        let mut checkpoint = 1;
        for n in 1..=200_000_u64 {
            let element = (n ^ 0x5eed_5eed_5eed).to_le_bytes();
            assert_eq!(add(&mut sparse, &element), add(&mut dense, &element));
            if n == checkpoint {
                checkpoint *= 10;
                let (one, other) = (count(&sparse).unwrap(), count(&dense).unwrap());
                assert_eq!(one, other);
                assert!(one.abs_diff(n) <= (n as f64 * 0.05).ceil() as u64, "{one} for {n}");
                assert_eq!(is_dense(&sparse), n > 1500, "{n}");
            }
        }
        assert_eq!(sparse, dense);
    }

    #[test]
    fn registers_keep_to_themselves() {
        let mut registers = vec![0; DENSE_BYTES - HEADER];
        for index in 0..REGISTERS {
            dense_set(&mut registers, index, (index * 7 % 64) as u8);
        }
        for index in (0..REGISTERS).rev() {
            assert_eq!(dense_get(&registers, index), (index * 7 % 64) as u8);
            dense_set(&mut registers, index, 0);
        }
        assert!(registers.iter().all(|byte| *byte == 0));
    }

    #[test]
    fn no_bytes_do_harm() {
        let mut rng = base::Rng::new(5);
        for _ in 0..20_000 {
            let mut text = empty();
            for n in 0..rng.index(50) as u64 {
                add(&mut text, &n.to_le_bytes()).unwrap();
            }
            for _ in 0..=rng.index(6) {
                let at = HEADER + rng.index(text.len() - HEADER);
                match rng.index(3) {
                    0 => text[at] = rng.index(256) as u8,
                    1 => text.truncate(at),
                    _ => text.insert(at, rng.index(256) as u8),
                }
                if text.len() <= HEADER {
                    break;
                }
            }
            forget_count(&mut text);
            let _ = count(&text);
            let _ = merge(&mut [0; REGISTERS], &text);
            let _ = decode(&text);
            for n in 0..20_u64 {
                let _ = add(&mut text, &(n + 1000).to_le_bytes());
            }
            let _ = raise(&mut text, rng.index(REGISTERS), 40);
        }
    }
}

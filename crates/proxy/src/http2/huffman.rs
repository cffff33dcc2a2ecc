//! The Huffman code of HPACK (RFC 7541 §5.2 and appendix B), read only: what we write is not compressed, which costs the wire some bytes and
//! saves the time.
//!
//! The code is canonical (codes of one length count up in the order of their symbols, and each length goes on where the shorter one ended), so
//! the lengths say everything.

/// Bits of each symbol's code; the last one is EOS.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28,
    28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12,
    10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6,
    5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22,
    22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20,
    22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28,
    27, 27, 27, 27, 27, 26, 30,
];

const LONGEST: usize = 30;
const EOS: u16 = 256;
/// Codes up to so many bits are looked up at once.
const FAST_BITS: u32 = 9;

struct Tables {
    /// By the next [`FAST_BITS`] bits: length and symbol, or zero for a longer code.
    fast: [u16; 1 << FAST_BITS],
    /// The first code of each length.
    first: [u32; LONGEST + 1],
    /// How many codes of each length there are.
    count: [u32; LONGEST + 1],
    /// Where the symbols of each length begin in `symbols`.
    start: [u32; LONGEST + 1],
    symbols: [u16; 257],
}

static TABLES: Tables = {
    let mut it = Tables {
        fast: [0; 1 << FAST_BITS],
        first: [0; LONGEST + 1],
        count: [0; LONGEST + 1],
        start: [0; LONGEST + 1],
        symbols: [0; 257],
    };
    let (mut length, mut code, mut placed) = (1, 0u32, 0);
    while length <= LONGEST {
        code <<= 1;
        it.first[length] = code;
        it.start[length] = placed;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as usize == length {
                it.symbols[placed as usize] = symbol as u16;
                if length <= FAST_BITS as usize {
                    let shift = FAST_BITS as usize - length;
                    let mut low = 0;
                    while low < 1 << shift {
                        it.fast[((code as usize) << shift) + low] = (length as u16) << 9 | symbol as u16;
                        low += 1;
                    }
                }
                placed += 1;
                code += 1;
                it.count[length] += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    // Every sequence of bits means something: the code is complete.
    assert!(code == 1 << LONGEST);
    it
};

/// The text is no Huffman code: EOS in it, or padding that is not the beginning of EOS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadCode;

/// Appends what `text` says.
pub(crate) fn decode(text: &[u8], out: &mut Vec<u8>) -> Result<(), BadCode> {
    let (mut bits, mut have) = (0u64, 0u32);
    let mut rest = text.iter();
    loop {
        while have <= 56
            && let Some(byte) = rest.next()
        {
            bits = bits << 8 | u64::from(*byte);
            have += 8;
        }
        if have == 0 {
            return Ok(());
        }
        // Ones behind the end, as the padding has them.
        let next = if have >= FAST_BITS {
            bits >> (have - FAST_BITS)
        } else {
            bits << (FAST_BITS - have) | ((1 << (FAST_BITS - have)) - 1)
        };
        let found = TABLES.fast[next as usize & ((1 << FAST_BITS) - 1)];
        let length = u32::from(found >> 9);
        if length > 0 && length <= have {
            out.push(found as u8);
            have -= length;
            continue;
        }
        let (symbol, length) = match long(bits, have) {
            Some(it) if length == 0 => it,
            // RFC 7541 §5.2: fewer than eight bits, all ones.
            _ if have < 8 && bits & ((1 << have) - 1) == (1 << have) - 1 => return Ok(()),
            _ => return Err(BadCode),
        };
        if symbol == EOS {
            return Err(BadCode);
        }
        out.push(symbol as u8);
        have -= length;
    }
}

/// A code longer than [`FAST_BITS`].
fn long(bits: u64, have: u32) -> Option<(u16, u32)> {
    (FAST_BITS + 1..=have.min(LONGEST as u32)).find_map(|length| {
        let code = (bits >> (have - length)) as u32 & ((1 << length) - 1);
        let nth = code.checked_sub(TABLES.first[length as usize])?;
        (nth < TABLES.count[length as usize])
            .then(|| (TABLES.symbols[(TABLES.start[length as usize] + nth) as usize], length))
    })
}

/// Appends `text`, coded: the other way round, for tests.
#[cfg(test)]
pub(crate) fn encode(text: &[u8], out: &mut Vec<u8>) {
    let (mut bits, mut have) = (0u64, 0u32);
    for byte in text {
        let length = u32::from(LENGTHS[usize::from(*byte)]);
        let symbols = &TABLES.symbols[TABLES.start[length as usize] as usize..];
        let nth = symbols.iter().position(|it| *it == u16::from(*byte)).expect("a symbol of its length") as u32;
        bits = bits << length | u64::from(TABLES.first[length as usize] + nth);
        have += length;
        while have >= 8 {
            out.push((bits >> (have - 8)) as u8);
            have -= 8;
        }
        bits &= (1 << have) - 1;
    }
    if have > 0 {
        out.push(((bits << (8 - have)) | ((1 << (8 - have)) - 1)) as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8]) -> Result<Vec<u8>, BadCode> {
        let mut out = Vec::new();
        decode(text, &mut out).map(|()| out)
    }

    #[test]
    fn examples_of_rfc_7541() {
        // Appendix C.4.1, C.4.2, C.4.3, C.6.1.
        for (code, text) in [
            ("f1e3c2e5f23a6ba0ab90f4ff", "www.example.com"),
            ("a8eb10649cbf", "no-cache"),
            ("25a849e95ba97d7f", "custom-key"),
            ("25a849e95bb8e8b4bf", "custom-value"),
            ("d07abe941054d444a8200595040b8166e082a62d1bff", "Mon, 21 Oct 2013 20:13:21 GMT"),
            ("9d29ad171863c78f0b97c8e9ae82ae43d3", "https://www.example.com"),
        ] {
            let code: Vec<u8> =
                (0..code.len()).step_by(2).map(|at| u8::from_str_radix(&code[at..at + 2], 16).expect("hex")).collect();
            assert_eq!(read(&code).as_deref(), Ok(text.as_bytes()));
            let mut coded = Vec::new();
            encode(text.as_bytes(), &mut coded);
            assert_eq!(coded, code, "{text}");
        }
    }

    #[test]
    fn what_is_no_code() {
        // §5.2: EOS (thirty ones), padding of eight bits, padding of zeros.
        for text in [&[0xff, 0xff, 0xff, 0xfc][..], &[0xff], &[0xff, 0xff, 0xff, 0xff], &[0b0001_1000]] {
            assert_eq!(read(text), Err(BadCode), "{text:?}");
        }
        assert_eq!(read(&[]), Ok(vec![]));
        assert_eq!(read(&[0b0001_1111]), Ok(b"a".to_vec()));
    }

    proptest! {
        #[test]
        fn any_text_comes_back(text: Vec<u8>) {
            let mut coded = Vec::new();
            encode(&text, &mut coded);
            prop_assert_eq!(read(&coded), Ok(text));
        }

        #[test]
        fn any_bytes_are_read_or_refused(text: Vec<u8>) {
            if let Ok(out) = read(&text) {
                prop_assert!(out.len() <= text.len() * 8 / 5);
            }
        }
    }
}

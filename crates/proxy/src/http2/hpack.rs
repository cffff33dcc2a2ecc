//! Blocks of fields (HPACK, RFC 7541): a reader with its table, and a writer that has none.
//!
//! What we write names static entries and is literal else: no table of what was said before, so that a client's settings cannot make us keep one,
//! and nothing of one answer can be learned from another's size (RFC 7541 §7.1). HAProxy writes so too.

use super::huffman;
use std::collections::VecDeque;

/// Largest table of a client's encoder, bytes as RFC 7541 §4.1 counts them: the first value of SETTINGS_HEADER_TABLE_SIZE, which we leave.
pub(crate) const TABLE_BYTES_MAX: usize = 4096;
/// What an entry costs beside its name and value (RFC 7541 §4.1).
pub(crate) const ENTRY_BYTES: usize = 32;

/// Names and values of RFC 7541, appendix A.
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// The block cannot be read, and no later one could: the connection ends (RFC 9113 §4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadBlock;

impl From<huffman::BadCode> for BadBlock {
    fn from(_: huffman::BadCode) -> BadBlock {
        BadBlock
    }
}

/// A field that a client's encoder keeps: name and value behind each other.
struct Entry {
    text: Box<[u8]>,
    name: usize,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.text.len() + ENTRY_BYTES
    }
}

/// Reads blocks.
pub(crate) struct Decoder {
    entries: VecDeque<Entry>,
    bytes: usize,
    bytes_max: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder { entries: VecDeque::new(), bytes: 0, bytes_max: TABLE_BYTES_MAX, name: Vec::new(), value: Vec::new() }
    }

    /// Tells `see` each field of a whole block.
    pub fn read(&mut self, mut block: &[u8], mut see: impl FnMut(&[u8], &[u8])) -> Result<(), BadBlock> {
        let (mut name, mut value) = (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        let mut fields = false;
        while let Some(first) = block.first() {
            name.clear();
            value.clear();
            match first {
                0x80.. => {
                    let index = number(&mut block, 7)?;
                    let (name, value) = self.field(index)?;
                    see(name, value);
                }
                0x20..0x40 => {
                    // RFC 7541 §4.2: only in front.
                    let bytes_max = number(&mut block, 5)?;
                    if fields || bytes_max > TABLE_BYTES_MAX {
                        return Err(BadBlock);
                    }
                    self.bytes_max = bytes_max;
                    self.shrink(bytes_max);
                    continue;
                }
                _ => {
                    let keep = *first >= 0x40;
                    match number(&mut block, if keep { 6 } else { 4 })? {
                        0 => text(&mut block, &mut name)?,
                        index => name.extend_from_slice(self.field(index)?.0),
                    }
                    text(&mut block, &mut value)?;
                    see(&name, &value);
                    if keep {
                        self.keep(&name, &value);
                    }
                }
            }
            fields = true;
        }
        (self.name, self.value) = (name, value);
        Ok(())
    }

    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), BadBlock> {
        let index = index.checked_sub(1).ok_or(BadBlock)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(BadBlock)?;
        Ok(entry.text.split_at(entry.name))
    }

    /// The newest is the first (RFC 7541 §2.3.2).
    fn keep(&mut self, name: &[u8], value: &[u8]) {
        let bytes = name.len() + value.len() + ENTRY_BYTES;
        // One that is too large empties the table and is no error (§4.4).
        self.shrink(self.bytes_max.saturating_sub(bytes));
        if bytes <= self.bytes_max {
            self.entries.push_front(Entry { text: [name, value].concat().into(), name: name.len() });
            self.bytes += bytes;
        }
    }

    fn shrink(&mut self, bytes_max: usize) {
        while self.bytes > bytes_max
            && let Some(entry) = self.entries.pop_back()
        {
            self.bytes -= entry.bytes();
        }
    }
}

/// A number whose first byte has so many bits for it (RFC 7541 §5.1); more than four bytes behind it are refused.
fn number(block: &mut &[u8], bits: u32) -> Result<usize, BadBlock> {
    let (first, mut rest) = block.split_first().ok_or(BadBlock)?;
    let most = (1usize << bits) - 1;
    let mut number = usize::from(*first) & most;
    if number == most {
        let mut shift = 0;
        loop {
            let (byte, behind) = rest.split_first().ok_or(BadBlock)?;
            rest = behind;
            if shift > 21 {
                return Err(BadBlock);
            }
            number += usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
    }
    *block = rest;
    Ok(number)
}

/// A text, coded or not (RFC 7541 §5.2).
fn text(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), BadBlock> {
    let coded = block.first().ok_or(BadBlock)? & 0x80 != 0;
    let length = number(block, 7)?;
    let (text, rest) = block.split_at_checked(length).ok_or(BadBlock)?;
    *block = rest;
    if coded {
        huffman::decode(text, out)?;
    } else {
        out.extend_from_slice(text);
    }
    Ok(())
}

/// Appends what goes before the first block of a connection: that there is no table (RFC 7541 §6.3).
pub(crate) fn push_no_table(out: &mut Vec<u8>) {
    out.push(0x20);
}

/// Appends `:status`.
pub(crate) fn push_status(status: u16, out: &mut Vec<u8>) {
    let index = match status {
        200 => 8,
        204 => 9,
        206 => 10,
        304 => 11,
        400 => 12,
        404 => 13,
        500 => 14,
        _ => {
            out.push(8);
            out.push(3);
            return [100, 10, 1].iter().for_each(|unit| out.push(b'0' + (status / unit % 10) as u8));
        }
    };
    out.push(0x80 | index);
}

/// Appends a field; the name may have capitals, and goes without.
pub(crate) fn push_field(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    match static_name(name) {
        // Never to be kept by anybody on the way (RFC 7541 §7.1.3).
        SET_COOKIE => push_number(SET_COOKIE, 4, 0x10, out),
        0 => {
            out.push(0);
            push_number(name.len(), 7, 0, out);
            let start = out.len();
            out.extend_from_slice(name);
            out[start..].make_ascii_lowercase();
        }
        index => push_number(index, 4, 0, out),
    }
    push_number(value.len(), 7, 0, out);
    out.extend_from_slice(value);
}

const SET_COOKIE: usize = 55;

/// The static entry of a name that answers have often; zero for others.
fn static_name(name: &[u8]) -> usize {
    let is = |it: &[u8], index: usize| if name.eq_ignore_ascii_case(it) { index } else { 0 };
    match name.len() {
        3 if name[0] | 0x20 == b'a' => is(b"age", 21),
        3 => is(b"via", 60),
        4 => match name[0] | 0x20 {
            b'd' => is(b"date", 33),
            b'e' => is(b"etag", 34),
            b'v' => is(b"vary", 59),
            _ => is(b"link", 45),
        },
        6 => is(b"server", 54),
        7 => is(b"expires", 36),
        8 => is(b"location", 46),
        10 => is(b"set-cookie", SET_COOKIE),
        11 => is(b"retry-after", 53),
        12 => is(b"content-type", 31),
        13 if name[0] | 0x20 == b'l' => is(b"last-modified", 44),
        13 if name[0] | 0x20 == b'a' => is(b"accept-ranges", 18),
        13 if name[1] | 0x20 == b'a' => is(b"cache-control", 24),
        13 => is(b"content-range", 30),
        14 => is(b"content-length", 28),
        16 => is(b"content-encoding", 26),
        25 => is(b"strict-transport-security", 56),
        27 => is(b"access-control-allow-origin", 20),
        _ => 0,
    }
}

/// Appends a number whose first byte has so many bits for it beside `first`.
fn push_number(number: usize, bits: u32, first: u8, out: &mut Vec<u8>) {
    let most = (1usize << bits) - 1;
    if number < most {
        return out.push(first | number as u8);
    }
    out.push(first | most as u8);
    let mut rest = number - most;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        (0..digits.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hexadecimal"))
            .collect()
    }

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<String>, BadBlock> {
        let mut seen = Vec::new();
        let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
        decoder.read(block, |name, value| seen.push(format!("{}: {}", text(name), text(value)))).map(|()| seen)
    }

    /// RFC 7541, appendices C.3, C.4 and C.5: blocks, what they say, and the table's size behind each.
    #[test]
    fn examples_of_rfc_7541() {
        let first = [":method: GET", ":scheme: http", ":path: /", ":authority: www.example.com"];
        let second = [&first[..], &["cache-control: no-cache"]].concat();
        let third = [
            ":method: GET",
            ":scheme: https",
            ":path: /index.html",
            ":authority: www.example.com",
            "custom-key: custom-value",
        ];
        for blocks in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut decoder = Decoder::new();
            let said: [(&[&str], usize); 3] = [(&first, 57), (&second, 110), (&third, 164)];
            for (block, (said, bytes)) in blocks.into_iter().zip(said) {
                assert_eq!(read(&mut decoder, &hex(block)), Ok(said.iter().map(ToString::to_string).collect()));
                assert_eq!(decoder.bytes, bytes);
            }
        }
        // C.5, with a table of 256 bytes, so that entries go.
        let mut decoder = Decoder::new();
        decoder.bytes_max = 256;
        for (block, said, bytes) in [
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                ":status: 302",
                222,
            ),
            ("4803 3330 37c1 c0bf", ":status: 307", 222),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                ":status: 200",
                215,
            ),
        ] {
            let fields = read(&mut decoder, &hex(block)).expect("a block");
            assert_eq!((fields[0].as_str(), decoder.bytes), (said, bytes));
            assert!(fields.contains(&"location: https://www.example.com".to_owned()), "{fields:?}");
        }
    }

    #[test]
    fn blocks_that_are_refused() {
        for (section, block) in [
            ("6.1: index 0", "80"),
            ("2.3.3: an index that is not there", "be"),
            ("2.3.3: a name that is not there", "7e 01 61"),
            ("5.1: a number without end", "ff ff ff ff ff ff ff 01"),
            ("5.1: a number that is cut", "ff"),
            ("5.2: a text that is cut", "00 05 61"),
            ("5.2: coded, with EOS", "00 01 61 84 ff ff ff fc"),
            ("4.2: a size behind a field", "82 20"),
            ("4.2: a table larger than we said", "3f e2 1f"),
        ] {
            assert_eq!(read(&mut Decoder::new(), &hex(block)), Err(BadBlock), "{section}");
        }
        assert_eq!(read(&mut Decoder::new(), &hex("3f e1 1f 20 82")), Ok(vec![":method: GET".into()]), "§4.2");
    }

    #[test]
    fn a_table_of_nothing_keeps_nothing() {
        let mut decoder = Decoder::new();
        assert_eq!(read(&mut decoder, &hex("20 40 01 61 01 62")), Ok(vec!["a: b".into()]));
        assert_eq!((decoder.entries.len(), decoder.bytes), (0, 0));
    }

    #[test]
    fn names_of_answers_have_their_static_entry() {
        for (at, (name, _)) in STATIC.iter().enumerate() {
            let index = static_name(name.as_bytes());
            assert!(index == 0 || index == at + 1, "{name}: {index}");
        }
        let found = STATIC.iter().filter(|(name, _)| static_name(name.as_bytes()) > 0).count();
        assert_eq!(found, 20);
    }

    #[test]
    fn every_status_is_written() {
        for status in 100..1000 {
            let mut block = Vec::new();
            push_status(status, &mut block);
            assert_eq!(read(&mut Decoder::new(), &block), Ok(vec![format!(":status: {status}")]));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(fields in proptest::collection::vec(("[a-zA-Z-]{1,20}|server|Set-Cookie", "[ -~]{0,300}"), 0..9)) {
            let mut block = Vec::new();
            push_no_table(&mut block);
            fields.iter().for_each(|(name, value)| push_field(name.as_bytes(), value.as_bytes(), &mut block));
            let wanted: Vec<_> = fields.iter().map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
            prop_assert_eq!(read(&mut Decoder::new(), &block), Ok(wanted));
        }

        #[test]
        fn any_bytes_are_read_or_refused(blocks: Vec<Vec<u8>>) {
            let mut decoder = Decoder::new();
            for block in blocks {
                let _ = read(&mut decoder, &block);
                let bytes: usize = decoder.entries.iter().map(Entry::bytes).sum();
                prop_assert_eq!(bytes, decoder.bytes);
                prop_assert!(bytes <= TABLE_BYTES_MAX);
            }
        }
    }
}

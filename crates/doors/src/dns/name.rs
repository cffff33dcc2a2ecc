//! Names: read once, lower-cased into one buffer, asked label by label; written from text.

/// Bytes of a name on the wire, its lengths and the root included (RFC 1035, 3.1).
pub const NAME_BYTES_MAX: usize = 255;
/// Bytes of a label (RFC 1035, 3.1).
pub const LABEL_BYTES_MAX: usize = 63;
/// Labels of a name: each takes two bytes at least.
const LABELS_MAX: usize = NAME_BYTES_MAX / 2;

/// The name of a question in lower case (ASCII, RFC 4343), as text with a dot between labels, and where each label begins.
pub struct Name {
    text: [u8; NAME_BYTES_MAX],
    /// Where labels begin, and one past the dot that would follow the last.
    starts: [u8; LABELS_MAX + 1],
    count: usize,
}

impl Name {
    /// Reads a name that is not compressed, as the first of a message cannot be. Gives it with what follows; `None` if malformed.
    pub fn read(bytes: &[u8]) -> Option<(Name, &[u8])> {
        let mut name = Name { text: [0; NAME_BYTES_MAX], starts: [0; LABELS_MAX + 1], count: 0 };
        let mut at = 0;
        loop {
            let length = usize::from(*bytes.get(at)?);
            if length == 0 {
                return Some((name, &bytes[at + 1..]));
            }
            // The root's byte must still fit.
            if length > LABEL_BYTES_MAX || at + 1 + length + 1 > NAME_BYTES_MAX {
                return None;
            }
            let label = bytes.get(at + 1..at + 1 + length)?;
            let own = &mut name.text[at..at + length];
            own.copy_from_slice(label);
            own.make_ascii_lowercase();
            name.text[at + length] = b'.';
            at += 1 + length;
            name.count += 1;
            name.starts[name.count] = at as u8;
        }
    }

    /// How many labels it has, the root not counted.
    pub fn count(&self) -> usize {
        self.count
    }

    /// One label.
    pub fn label(&self, at: usize) -> &[u8] {
        self.joined(at, at + 1)
    }

    /// Labels from one to before another, dots between them.
    pub fn joined(&self, from: usize, to: usize) -> &[u8] {
        assert!(from < to && to <= self.count, "a part of a name has labels of that name");
        &self.text[usize::from(self.starts[from])..usize::from(self.starts[to]) - 1]
    }

    /// The same as text, where it is text.
    pub fn joined_text(&self, from: usize, to: usize) -> Option<&str> {
        std::str::from_utf8(self.joined(from, to)).ok()
    }

    /// Whether it ends with these labels, given in lower case with dots between them.
    pub fn ends_with(&self, suffix: &str, labels: usize) -> bool {
        labels <= self.count && self.joined(self.count - labels, self.count) == suffix.as_bytes()
    }

    /// Bytes on the wire before a label: how far behind the name's begin a pointer to it points.
    pub fn wire_offset(&self, label: usize) -> usize {
        usize::from(self.starts[label])
    }

    /// The address that a name under `in-addr.arpa` or `ip6.arpa` stands for (RFC 1035, 3.5; RFC 3596, 2.5).
    pub fn reverse(&self) -> Option<std::net::IpAddr> {
        if self.count == 6 && self.ends_with("in-addr.arpa", 2) {
            let mut octets = [0_u8; 4];
            for (at, octet) in octets.iter_mut().enumerate() {
                *octet = self.joined_text(3 - at, 4 - at)?.parse().ok()?;
            }
            return Some(octets.into());
        }
        if self.count == 34 && self.ends_with("ip6.arpa", 2) {
            let mut octets = [0_u8; 16];
            for (at, octet) in octets.iter_mut().enumerate() {
                let (high, low) = (self.label(31 - 2 * at), self.label(30 - 2 * at));
                *octet = nibble(high)? << 4 | nibble(low)?;
            }
            return Some(octets.into());
        }
        None
    }
}

fn nibble(label: &[u8]) -> Option<u8> {
    match label {
        [digit] => (*digit as char).to_digit(16).map(|digit| digit as u8),
        _ => None,
    }
}

/// The address that the first label of `….addr.…` spells: 8 hexadecimal digits, or 32.
pub fn hex_address(label: &[u8]) -> Option<std::net::IpAddr> {
    let read = |out: &mut [u8]| {
        for (octet, pair) in out.iter_mut().zip(label.chunks_exact(2)) {
            *octet = nibble(&pair[..1])? << 4 | nibble(&pair[1..])?;
        }
        Some(())
    };
    match label.len() {
        8 => {
            let mut octets = [0; 4];
            read(&mut octets).map(|()| octets.into())
        }
        32 => {
            let mut octets = [0; 16];
            read(&mut octets).map(|()| octets.into())
        }
        _ => None,
    }
}

/// An address as [`hex_address`] reads it.
pub fn spell_address(ip: std::net::IpAddr, digits: &mut [u8; 32]) -> &str {
    let mut length = 0;
    let mut put = |octets: &[u8]| {
        for octet in octets {
            for nibble in [octet >> 4, octet & 0xF] {
                digits[length] = b"0123456789abcdef"[usize::from(nibble)];
                length += 1;
            }
        }
    };
    match ip {
        std::net::IpAddr::V4(ip) => put(&ip.octets()),
        std::net::IpAddr::V6(ip) => put(&ip.octets()),
    }
    std::str::from_utf8(&digits[..length]).expect("digits are ASCII")
}

/// Whether a text can be written as a name: labels of 1 to 63 bytes; a dot at the end may stand.
pub fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() + 2 <= NAME_BYTES_MAX && text.split('.').all(|label| (1..=LABEL_BYTES_MAX).contains(&label.len()))
}

/// Whether a text is a host's name: what [`is_name`] takes, of letters, digits and hyphens (RFC 1123, 2.1).
pub fn is_host(text: &str) -> bool {
    is_name(text) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.')
}

/// Writes the labels of a text that [`is_name`], without the root that ends a name.
pub fn put_labels(out: &mut Vec<u8>, text: &str) {
    for label in text.strip_suffix('.').unwrap_or(text).split('.') {
        debug_assert!((1..=LABEL_BYTES_MAX).contains(&label.len()), "asked before: {text:?}");
        out.push(label.len() as u8);
        out.extend_from_slice(label.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        put_labels(&mut out, text);
        out.push(0);
        out
    }

    #[test]
    fn a_name_is_read_in_lower_case_and_asked_by_labels() {
        let mut bytes = wire("Web.SERVICE.Consul");
        bytes.push(9);
        let (name, rest) = Name::read(&bytes).expect("a name");
        assert_eq!((name.count(), rest), (3, &[9][..]));
        assert_eq!((name.label(0), name.joined(0, 2)), (&b"web"[..], &b"web.service"[..]));
        assert!(name.ends_with("consul", 1) && name.ends_with("service.consul", 2) && !name.ends_with("onsul", 1));
        assert_eq!((name.wire_offset(0), name.wire_offset(2)), (0, 12));
        assert_eq!(Name::read(&[0]).expect("the root").0.count(), 0);
    }

    #[test]
    fn bounds_of_names_are_those_of_the_standard() {
        let longest = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "a".repeat(61));
        assert!(is_name(&longest) && Name::read(&wire(&longest)).is_some());
        assert!(!is_name(&format!("{longest}a")) && Name::read(&wire(&format!("{longest}a"))).is_none());
        let many = vec!["a"; 127].join(".");
        assert_eq!(Name::read(&wire(&many)).expect("127 labels").0.count(), 127);
        for bad in ["", ".", "a..b", ".a", &"a".repeat(64)] {
            assert!(!is_name(bad), "{bad:?}");
        }
        // A pointer, a reserved kind of label, an end in the midst.
        for bad in [&[0xC0, 0x0C][..], &[0x40, 1, 0], &[3, b'a'], &[1, b'a'], &[]] {
            assert!(Name::read(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn addresses_are_read_from_names() {
        for (name, wanted) in [
            ("4.3.2.1.in-addr.arpa", Some("1.2.3.4")),
            ("256.3.2.1.in-addr.arpa", None),
            ("3.2.1.in-addr.arpa", None),
            ("1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", Some("2001:db8::1")),
            ("x.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa", None),
        ] {
            let bytes = wire(name);
            let read = Name::read(&bytes).expect("a name").0.reverse();
            assert_eq!(read, wanted.map(|text| text.parse().expect("an address")), "{name}");
        }
        assert_eq!(hex_address(b"0a000001"), Some([10, 0, 0, 1].into()));
        assert_eq!(spell_address([10, 0, 0, 255].into(), &mut [0; 32]), "0a0000ff");
        assert_eq!(hex_address(b"20010db8000000000000000000000001"), "2001:db8::1".parse().ok());
        assert_eq!((hex_address(b"0a00000x"), hex_address(b"0a0000011"), hex_address(b"")), (None, None, None));
    }
}

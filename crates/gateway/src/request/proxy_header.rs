//! The header that a balancer in front of us puts before a connection's bytes, to say who the client is: the PROXY protocol, versions 1 and 2
//! (HAProxy, `doc/proxy-protocol.txt`).
//!
//! Believed only on listeners that are told to, and there it is required: whoever sends none is refused (§2 of the specification: a receiver
//! does not guess). Bytes in, a value out: the caller reads on while it gets `Ok(None)`, which is never for more than [`PROXY_HEADER_BYTES_MAX`] bytes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header: what version 2 needs for addresses and a few extensions. Longer ones are refused.
pub const PROXY_HEADER_BYTES_MAX: usize = 4096;

/// Longest line of version 1, with its end (§2.1).
const LINE_BYTES_MAX: usize = 107;
/// What version 2 begins with (§2.2).
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2's bytes before the addresses.
const FIXED: usize = 16;
/// The extension that holds a CRC-32C of the header (§2.2.3).
const TYPE_CRC32C: u8 = 0x03;

/// A header that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its bytes: what follows is the client's.
    pub length: usize,
    /// The client's address and the one that it connected to. Nothing where the balancer speaks for itself (a health check: LOCAL), or does not
    /// know (UNKNOWN), or the client came by something else than TCP: the connection's own addresses count then.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
}

/// Why what came is no header; the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadProxyHeader(&'static str);

impl BadProxyHeader {
    /// Why, in words.
    pub fn why(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for BadProxyHeader {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

/// Reads the header at the begin of a connection's bytes. `Ok(None)`: more bytes are needed.
pub fn proxy_header(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let begins = |with: &[u8]| bytes.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) {
        return if bytes.len() < FIXED { Ok(None) } else { version_2(bytes) };
    }
    if begins(b"PROXY ") {
        return version_1(bytes);
    }
    Err(BadProxyHeader("the connection does not begin with a PROXY header"))
}

fn version_1(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let seen = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() < LINE_BYTES_MAX { Ok(None) } else { Err(BadProxyHeader("its line is too long")) };
    };
    let bad = BadProxyHeader("its line is not as it should be");
    let line = std::str::from_utf8(&seen[..end]).map_err(|_| bad)?;
    let header = |addresses| Ok(Some(ProxyHeader { length: end + 2, addresses }));
    let mut words = line.split(' ').skip(1);
    let family = words.next();
    if family == Some("UNKNOWN") {
        return header(None);
    }
    let [Some(from), Some(to), Some(from_port), Some(to_port), None] = std::array::from_fn(|_| words.next()) else {
        return Err(bad);
    };
    let address = |text: &str| -> Option<IpAddr> {
        match family? {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let port = |text: &str| -> Option<u16> {
        let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse().ok().filter(|_| plain)
    };
    let socket = |ip: &str, at: &str| Some(SocketAddr::new(address(ip)?.to_canonical(), port(at)?));
    let (from, to) = (socket(from, from_port).ok_or(bad)?, socket(to, to_port).ok_or(bad)?);
    header(Some((from, to)))
}

fn version_2(bytes: &[u8]) -> Result<Option<ProxyHeader>, BadProxyHeader> {
    let (version, command, family) = (bytes[12] >> 4, bytes[12] & 15, bytes[13]);
    if version != 2 || command > 1 {
        return Err(BadProxyHeader("its version or command is unknown"));
    }
    let length = FIXED + usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if length > PROXY_HEADER_BYTES_MAX {
        return Err(BadProxyHeader("it is longer than 4096 bytes"));
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    let body = &header[FIXED..];
    // What the family says is there must be there; what is behind it are extensions.
    let size = match family >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Err(BadProxyHeader("its address family is unknown")),
    };
    let Some((addresses, extensions)) = body.split_at_checked(size) else {
        return Err(BadProxyHeader("its addresses are cut off"));
    };
    if family >> 4 != 0 {
        check_extensions(header, extensions)?;
    }
    let ports = |at: usize| {
        let port = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
        (port(at), port(at + 2))
    };
    let addresses = match (command, family) {
        (1, 0x11) => {
            let ip = |at: usize| {
                Ipv4Addr::new(addresses[at], addresses[at + 1], addresses[at + 2], addresses[at + 3]).into()
            };
            let (from, to) = ports(8);
            Some((SocketAddr::new(ip(0), from), SocketAddr::new(ip(4), to)))
        }
        (1, 0x21) => {
            let ip = |at: usize| {
                let octets: [u8; 16] = std::array::from_fn(|byte| addresses[at + byte]);
                Ipv6Addr::from(octets).to_canonical()
            };
            let (from, to) = ports(32);
            Some((SocketAddr::new(ip(0), from), SocketAddr::new(ip(16), to)))
        }
        _ => None,
    };
    Ok(Some(ProxyHeader { length, addresses }))
}

/// Extensions are passed over, but for the checksum: a wrong one must not be accepted (§2.2.3).
fn check_extensions(header: &[u8], mut extensions: &[u8]) -> Result<(), BadProxyHeader> {
    let cut = BadProxyHeader("its extensions are cut off");
    while let [kind, high, low, rest @ ..] = extensions {
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([*high, *low]))).ok_or(cut)?;
        if *kind == TYPE_CRC32C {
            let begin = header.len() - rest.len() - value.len();
            let said: [u8; 4] = value.try_into().map_err(|_| BadProxyHeader("its checksum is not four bytes"))?;
            let zeroed = (0..header.len()).map(|at| if (begin..begin + 4).contains(&at) { 0 } else { header[at] });
            if crc32c(zeroed) != u32::from_be_bytes(said) {
                return Err(BadProxyHeader("its checksum is wrong"));
            }
        }
        extensions = rest;
    }
    if extensions.is_empty() { Ok(()) } else { Err(cut) }
}

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: it is asked for rarely, and of few bytes.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0x82F6_3B78 } else { crc >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(bytes: &[u8]) -> String {
        match proxy_header(bytes) {
            Ok(Some(ProxyHeader { length, addresses: Some((from, to)) })) => format!("{length} {from} {to}"),
            Ok(Some(ProxyHeader { length, addresses: None })) => format!("{length} -"),
            Ok(None) => "more".into(),
            Err(bad) => format!("bad: {bad}"),
        }
    }

    #[test]
    fn golden_version_1() {
        for (line, wanted) in [
            ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET /", "47 192.168.0.1:56324 192.168.0.11:443"),
            ("PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", "36 [2001:db8::1]:1 [::1]:65535"),
            ("PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n", "35 1.2.3.4:1 [::1]:2"),
            ("PROXY UNKNOWN\r\n", "15 -"),
            ("PROXY UNKNOWN ffff:f:f:f ffff:f:f:f 65535 65535\r\n", "49 -"),
            ("", "more"),
            ("PRO", "more"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r", "more"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n", "more"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n", "bad: its line is not as it should be"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n", "bad: its line is not as it should be"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n", "bad: its line is not as it should be"),
            ("PROXY TCP4 ::1 ::1 1 2\r\n", "bad: its line is not as it should be"),
            ("PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", "bad: its line is not as it should be"),
            ("PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", "bad: its line is not as it should be"),
            ("PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "bad: its line is not as it should be"),
            ("PROXY \r\n", "bad: its line is not as it should be"),
            ("GET / HTTP/1.1\r\n", "bad: the connection does not begin with a PROXY header"),
            ("proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "bad: the connection does not begin with a PROXY header"),
        ] {
            assert_eq!(shown(line.as_bytes()), wanted, "{line:?}");
        }
        let long = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(shown(&long.as_bytes()[..106]), "more");
        assert_eq!(shown(long.as_bytes()), "bad: its line is too long");
    }

    /// A header of version 2.
    fn second(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend((body.len() as u16).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn golden_version_2() {
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0x1f, 0x90, 1, 0xbb];
        assert_eq!(shown(&second(1, 0x11, &four)), "28 1.2.3.4:8080 5.6.7.8:443");
        assert_eq!(shown(&second(0, 0x11, &four)), "28 -", "LOCAL");
        assert_eq!(shown(&second(0, 0, b"")), "16 -");
        assert_eq!(shown(&second(1, 0, b"whatever")), "24 -", "UNSPEC: its bytes are passed over");
        assert_eq!(shown(&second(1, 0x12, &four)), "28 -", "a datagram");
        assert_eq!(shown(&second(1, 0x31, &[7; 216])), "232 -", "a Unix socket");
        let mut six = [0; 36];
        (six[15], six[31], six[33], six[35]) = (1, 2, 3, 4);
        assert_eq!(shown(&second(1, 0x21, &six)), "52 [::1]:3 [::2]:4");
        assert_eq!(shown(&second(1, 0x11, &four[..11])), "bad: its addresses are cut off");
        assert_eq!(shown(&second(1, 0x41, &four)), "bad: its address family is unknown");
        assert_eq!(shown(&second(2, 0x11, &four)), "bad: its version or command is unknown");
        assert_eq!(shown(&second(1, 0x11, &[0; 4081])), "bad: it is longer than 4096 bytes");
        let with = |extension: &[u8]| second(1, 0x11, &[&four[..], extension].concat());
        assert_eq!(
            shown(&with(&[0xea, 0, 2, 9, 9])),
            "33 1.2.3.4:8080 5.6.7.8:443",
            "an extension that we do not know"
        );
        assert_eq!(shown(&with(&[0xea, 0, 3, 9, 9])), "bad: its extensions are cut off");
        assert_eq!(shown(&with(&[0xea, 0])), "bad: its extensions are cut off");
        let mut sealed = with(&[0xea, 0, 1, 9, TYPE_CRC32C, 0, 4, 0, 0, 0, 0]);
        assert_eq!(shown(&sealed), "bad: its checksum is wrong");
        let sum = crc32c(sealed.iter().copied()).to_be_bytes();
        let begin = sealed.len() - 4;
        sealed[begin..].copy_from_slice(&sum);
        assert_eq!(shown(&sealed), "39 1.2.3.4:8080 5.6.7.8:443");
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c([0u8; 32].into_iter()), 0x8A91_36AA);
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_and_every_part_of_a_header_asks_for_more(
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
            mut cut in 0usize..400,
            first in any::<bool>(),
            family in 0u8..0x32,
        ) {
            let _ = proxy_header(&bytes);
            let body = vec![0; 216];
            let whole = if first { b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec() } else { second(1, family, &body) };
            let mut mixed = whole.clone();
            mixed.extend(&bytes);
            let judged = proxy_header(&mixed);
            cut %= whole.len();
            if let Ok(Some(header)) = judged {
                prop_assert_eq!(header.length, whole.len());
                prop_assert_eq!(proxy_header(&whole[..cut]), Ok(None));
            }
            // Whatever follows the begin of a header is judged without panic too.
            let mut spoilt = whole[..cut].to_vec();
            spoilt.extend(&bytes);
            let _ = proxy_header(&spoilt);
        }
    }
}

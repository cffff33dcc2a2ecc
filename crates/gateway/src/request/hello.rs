//! Which server a TLS client asks for, read from its first bytes without ending TLS (RFC 8446 §4.1.2, RFC 6066 §3): for listeners that pass TLS on.
//!
//! Bytes in, a value out; nothing is kept. The ClientHello may lie in several records (§5.1), and is read when it is whole. An encrypted
//! ClientHello (ECH) is not looked into: its outer name counts, which is the one that whoever routes may know.

use std::borrow::Cow;

/// Longest ClientHello that is read. With post-quantum key shares they have about 2 KiB.
pub const HELLO_BYTES_MAX: usize = 16 << 10;
/// Most bytes with the heads of records; beyond them it is [`Sni::NotTls`]. A client that makes needlessly many records is not waited for.
pub const HELLO_INPUT_BYTES_MAX: usize = 2 * HELLO_BYTES_MAX;

/// What [`server_name`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sni {
    /// The name, in small letters and without a final dot.
    Name(String),
    /// A ClientHello that names nobody.
    None,
    /// More bytes are needed; never said of [`HELLO_INPUT_BYTES_MAX`] bytes.
    Incomplete,
    /// No ClientHello, or one that no server would take.
    NotTls,
}

const RECORD_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const NAME_TYPE_HOST: u8 = 0;

/// Which server a connection's first bytes ask for.
pub fn server_name(bytes: &[u8]) -> Sni {
    match hello(bytes) {
        Ok(Some(hello)) => match name(&hello) {
            Some(Some(name)) => Sni::Name(name),
            Some(None) => Sni::None,
            None => Sni::NotTls,
        },
        Ok(None) if bytes.len() < HELLO_INPUT_BYTES_MAX => Sni::Incomplete,
        _ => Sni::NotTls,
    }
}

/// The ClientHello's body, put together from its records. `Ok(None)`: it is not whole yet.
fn hello(bytes: &[u8]) -> Result<Option<Cow<'_, [u8]>>, ()> {
    let mut message: Cow<'_, [u8]> = Cow::Borrowed(&[]);
    let mut rest = bytes;
    loop {
        // As early as it can be known that this is no ClientHello.
        if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Err(());
        }
        if let [_, a, b, c, body @ ..] = &message[..] {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length + 4 > HELLO_BYTES_MAX {
                return Err(());
            }
            if body.len() >= length {
                return Ok(Some(match message {
                    Cow::Borrowed(message) => Cow::Borrowed(&message[4..4 + length]),
                    Cow::Owned(message) => Cow::Owned(message[4..4 + length].to_vec()),
                }));
            }
        }
        if rest.first().is_some_and(|kind| *kind != RECORD_HANDSHAKE) || rest.get(1).is_some_and(|major| *major != 3) {
            return Err(());
        }
        let [_, _, _, high, low, after @ ..] = rest else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        // RFC 8446 §5.1: at most 2^14 bytes, and never an empty one of a handshake.
        if length == 0 || length > 1 << 14 {
            return Err(());
        }
        let whole = after.len() >= length;
        let fragment = &after[..length.min(after.len())];
        if message.is_empty() {
            message = Cow::Borrowed(fragment);
        } else {
            message.to_mut().extend_from_slice(fragment);
        }
        rest = &after[fragment.len()..];
        if !whole {
            // The part that is there may show already that it is none, or hold all of it.
            return part(message);
        }
    }
}

/// The message of which the last record is not whole.
fn part(message: Cow<'_, [u8]>) -> Result<Option<Cow<'_, [u8]>>, ()> {
    let good = message.first().is_none_or(|kind| *kind == CLIENT_HELLO);
    let short = match &message[..] {
        [_, a, b, c, ..] => u32::from_be_bytes([0, *a, *b, *c]) as usize + 4 <= HELLO_BYTES_MAX,
        _ => true,
    };
    if good && short { Ok(None) } else { Err(()) }
}

/// Takes bytes from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What a length of so many bytes stands before.
    fn vector(&mut self, bytes: usize) -> Option<Reader<'a>> {
        let length = self.number(bytes)?;
        self.take(length).map(Reader)
    }
}

/// The server's name in a ClientHello's body. `None`: it is not well-formed.
fn name(hello: &[u8]) -> Option<Option<String>> {
    let mut hello = Reader(hello);
    hello.take(2 + 32)?;
    if hello.vector(1)?.0.len() > 32 {
        return None;
    }
    let suites = hello.vector(2)?.0.len();
    if suites == 0 || suites % 2 == 1 || hello.vector(1)?.0.is_empty() {
        return None;
    }
    if hello.0.is_empty() {
        // TLS 1.2 and older know clients without extensions.
        return Some(None);
    }
    let mut extensions = hello.vector(2)?;
    if !hello.0.is_empty() {
        return None;
    }
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number(2)?;
        let body = extensions.vector(2)?;
        if kind == usize::from(EXTENSION_SERVER_NAME) {
            // One of each kind (RFC 8446 §4.2).
            if found.is_some() {
                return None;
            }
            found = Some(server_names(body)?);
        }
    }
    Some(found)
}

/// The one host name of a list (RFC 6066 §3: no second of the same type).
fn server_names(mut extension: Reader<'_>) -> Option<String> {
    let mut list = extension.vector(2)?;
    let mut found = None;
    while !list.0.is_empty() {
        let kind = list.number(1)?;
        let name = list.vector(2)?.0;
        if kind != usize::from(NAME_TYPE_HOST) || found.is_some() {
            return None;
        }
        let name = std::str::from_utf8(name).ok().filter(|name| !name.contains([':', '[']))?;
        let (name, _) = super::host_and_port(name).ok()?;
        found = Some(name.into_owned());
    }
    found.filter(|_| extension.0.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_length(bytes: usize, body: &[u8]) -> Vec<u8> {
        let length = body.len().to_be_bytes();
        [&length[length.len() - bytes..], body].concat()
    }

    fn sni(names: &[(u8, &[u8])]) -> Vec<u8> {
        let list: Vec<u8> =
            names.iter().flat_map(|(kind, name)| [&[*kind][..], &with_length(2, name)].concat()).collect();
        with_length(2, &list)
    }

    /// A ClientHello as a handshake message.
    fn message(extensions: Option<&[(u16, Vec<u8>)]>) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend(with_length(1, &[9; 32]));
        body.extend(with_length(2, &[0x13, 0x01, 0x13, 0x02]));
        body.extend(with_length(1, &[0]));
        if let Some(extensions) = extensions {
            let all: Vec<u8> = extensions
                .iter()
                .flat_map(|(kind, body)| [&kind.to_be_bytes()[..], &with_length(2, body)].concat())
                .collect();
            body.extend(with_length(2, &all));
        }
        [&[CLIENT_HELLO][..], &with_length(3, &body)].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        message.chunks(size).flat_map(|part| [&[RECORD_HANDSHAKE, 3, 1][..], &with_length(2, part)].concat()).collect()
    }

    fn hello_for(name: &[u8]) -> Vec<u8> {
        message(Some(&[(10, vec![0, 2, 0, 29]), (0, sni(&[(0, name)])), (0xfe0d, vec![1; 50])]))
    }

    #[test]
    fn golden() {
        let one = |message: &[u8]| server_name(&records(message, 1 << 14));
        let name = |text: &str| Sni::Name(text.to_owned());
        assert_eq!(one(&hello_for(b"Shop.Example")), name("shop.example"));
        assert_eq!(one(&hello_for(b"shop.example.")), name("shop.example"));
        assert_eq!(one(&message(None)), Sni::None);
        assert_eq!(one(&message(Some(&[]))), Sni::None);
        assert_eq!(one(&message(Some(&[(10, vec![0, 0])]))), Sni::None);
        for bad in ["", "a b", "a:443", "[::1]", "a..b", "b\u{fc}cher"] {
            assert_eq!(one(&hello_for(bad.as_bytes())), Sni::NotTls, "{bad:?}");
        }
        assert_eq!(one(&message(Some(&[(0, sni(&[(0, b"a"), (0, b"b")]))]))), Sni::NotTls, "two names");
        assert_eq!(one(&message(Some(&[(0, sni(&[(1, b"a")]))]))), Sni::NotTls, "of an unknown type");
        assert_eq!(one(&message(Some(&[(0, sni(&[]))]))), Sni::NotTls, "an empty list");
        let twice = [(0, sni(&[(0, b"a".as_slice())])), (0, sni(&[(0, b"b".as_slice())]))];
        assert_eq!(one(&message(Some(&twice))), Sni::NotTls, "one name for us, another for the server");
        let mut longer = sni(&[(0, b"a")]);
        longer.push(0);
        assert_eq!(one(&message(Some(&[(0, longer)]))), Sni::NotTls);
        let mut trailing = message(Some(&[(0, sni(&[(0, b"a")]))]));
        trailing.push(0);
        trailing[3] += 1;
        assert_eq!(one(&trailing), Sni::NotTls, "bytes behind the extensions");
    }

    #[test]
    fn what_is_no_client_hello_is_told_at_once() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x80\x2e\x01\x03\x01",
            b"\x16\x02",
            b"\x16\x03\x01\x00\x00",
            b"\x16\x03\x01\x40\x01",
        ] {
            assert_eq!(server_name(bytes), Sni::NotTls, "{bytes:?}");
        }
        assert_eq!(server_name(b"\x16\x03\x01\x00\x10\x02"), Sni::NotTls, "a ServerHello");
        assert_eq!(server_name(b"\x16\x03\x01\x00\x10\x01\x01\x00\x00"), Sni::NotTls, "64 KiB");
        assert_eq!(server_name(b"\x16\x03\x01\x00\x01\x01\x17"), Sni::NotTls, "another record between");
        // So many records of one byte that their heads fill the bound.
        let flood: Vec<u8> = records(&message(Some(&[(21, vec![0; 16_000])])), 1);
        assert_eq!(server_name(&flood[..HELLO_INPUT_BYTES_MAX - 1]), Sni::Incomplete);
        assert_eq!(server_name(&flood[..HELLO_INPUT_BYTES_MAX]), Sni::NotTls);
    }

    proptest! {
        #[test]
        fn however_it_is_cut_the_name_is_the_same(size in 1usize..300, cut in 0usize..2000) {
            let whole = records(&hello_for(b"a.example"), size);
            prop_assert_eq!(server_name(&whole), Sni::Name("a.example".into()));
            let mut early = whole.clone();
            early.extend(b"\x17\x03\x03early data");
            prop_assert_eq!(server_name(&early), Sni::Name("a.example".into()));
            prop_assert_eq!(server_name(&whole[..cut % whole.len()]), Sni::Incomplete);
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..200, byte in any::<u8>()) {
            let _ = server_name(&bytes);
            let mut spoilt = records(&hello_for(b"a.example"), 100);
            let at = at % spoilt.len();
            spoilt[at] = byte;
            let _ = server_name(&spoilt);
            let _ = server_name(&[&[RECORD_HANDSHAKE, 3, 1, 0, 200, 1, 0, 0, 196][..], &bytes].concat());
        }
    }
}

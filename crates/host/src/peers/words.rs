//! What the bodies of frames say, but for messages of consensus and of the doors: who dials, which snapshot, who wants to join.
//!
//! The first 8 bytes of a hello never change: by them two programs find out that they do not speak the same version. Numbers are
//! little-endian; texts and bytes have their length in front (`u32`). Whatever can be read is bounded by the frame it came in; readers
//! refuse what is left over.

use base::{ClusterId, GroupId, NodeId};
use bytes::{Buf, BufMut, Bytes};
use store::extent::ExtentId;

/// How a hello begins.
const MAGIC: &[u8; 6] = b"QRPEER";
/// The version of everything that is said on a connection between nodes.
pub const VERSION: u16 = 1;
/// Addresses in a hello.
const ADDRESSES_MAX: usize = 16;
/// Bytes of an address, and of a refusal's sentence.
pub const TEXT_BYTES_MAX: usize = 512;

/// What cannot be read.
pub const MALFORMED: &str = "it sent something that cannot be read";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Purpose {
    /// Messages and questions.
    Link = 1,
    /// One snapshot.
    Snapshot = 2,
}

/// Who dials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Its cluster.
    pub cluster: ClusterId,
    /// Itself.
    pub node: NodeId,
    /// Whom it means to reach.
    pub to: NodeId,
    /// What for.
    pub purpose: Purpose,
    /// Where it is reached itself.
    pub advertise: Vec<String>,
}

/// Why a hello is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadHello {
    /// Another version.
    Version(u16),
    /// Anything else.
    Malformed,
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u32_le(bytes.len() as u32);
    out.put_slice(bytes);
}

fn take_bytes(input: &mut Bytes) -> Option<Bytes> {
    let length = input.try_get_u32_le().ok()? as usize;
    (length <= input.len()).then(|| input.split_to(length))
}

fn take_text(input: &mut Bytes) -> Option<String> {
    let bytes = take_bytes(input)?;
    (bytes.len() <= TEXT_BYTES_MAX).then(|| String::from_utf8(bytes.to_vec()).ok())?
}

fn take_array<const N: usize>(input: &mut Bytes) -> Option<[u8; N]> {
    let mut array = [0; N];
    input.try_copy_to_slice(&mut array).ok()?;
    Some(array)
}

fn take_node(input: &mut Bytes) -> Option<NodeId> {
    input.try_get_u64_le().ok().filter(|id| *id != 0).map(NodeId)
}

impl Hello {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(128);
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_slice(&self.cluster.0);
        out.put_u64_le(self.node.0);
        out.put_u64_le(self.to.0);
        out.put_u8(self.purpose as u8);
        let addresses = &self.advertise[..self.advertise.len().min(ADDRESSES_MAX)];
        out.put_u8(addresses.len() as u8);
        addresses.iter().for_each(|address| put_bytes(&mut out, address.as_bytes()));
        out
    }

    /// Reads that.
    ///
    /// # Errors
    /// See [`BadHello`].
    pub fn decode(mut input: Bytes) -> Result<Hello, BadHello> {
        let bad = BadHello::Malformed;
        if take_array(&mut input) != Some(*MAGIC) {
            return Err(bad);
        }
        match input.try_get_u16_le() {
            Ok(VERSION) => {}
            Ok(other) => return Err(BadHello::Version(other)),
            Err(_) => return Err(bad),
        }
        let mut rest = || {
            let cluster = ClusterId(take_array(&mut input)?);
            let (node, to) = (take_node(&mut input)?, take_node(&mut input)?);
            let purpose = match input.try_get_u8().ok()? {
                1 => Purpose::Link,
                2 => Purpose::Snapshot,
                _ => return None,
            };
            let count = usize::from(input.try_get_u8().ok()?);
            let mut advertise = Vec::new();
            for _ in 0..Some(count).filter(|count| *count <= ADDRESSES_MAX)? {
                advertise.push(take_text(&mut input)?);
            }
            input.is_empty().then_some(Hello { cluster, node, to, purpose, advertise })
        };
        rest().ok_or(bad)
    }
}

/// A sentence that another machine sent, as it may be shown: without control characters, and not long.
pub fn sentence(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The stamp of a ping or a pong.
pub fn stamp(body: &[u8]) -> Option<u64> {
    body.try_into().ok().map(u64::from_le_bytes)
}

/// The number of a question, taken off its body.
pub fn take_number(body: &mut Bytes) -> Option<u64> {
    body.try_get_u64_le().ok()
}

/// Which snapshot is to be sent, and the extent files that come before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Whose.
    pub group: GroupId,
    /// The last index that it covers.
    pub index: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Names the files beyond group and index, for two nodes may each have one of the same index: what came of one must not be
    /// continued with the other.
    pub print: u64,
    /// The extent files that the snapshot may name, and their bytes, in the order in which they come.
    pub extents: Vec<(ExtentId, u64)>,
}

/// Extent files that one offer may name.
const EXTENTS_MAX: usize = 4096;

impl Offer {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32 + 24 * self.extents.len());
        out.put_u32_le(self.group.0);
        out.put_u64_le(self.index);
        out.put_u64_le(self.bytes);
        out.put_u64_le(self.print);
        for (id, bytes) in &self.extents {
            out.put_u64_le(id.index);
            out.put_u64_le(id.node);
            out.put_u64_le(*bytes);
        }
        out
    }

    /// Reads that.
    pub fn decode(mut input: Bytes) -> Option<Offer> {
        let group = GroupId(input.try_get_u32_le().ok()?);
        let (index, bytes) = (input.try_get_u64_le().ok()?, input.try_get_u64_le().ok()?);
        let print = input.try_get_u64_le().ok()?;
        let (mut extents, mut rest) = (Vec::new(), bytes);
        while !input.is_empty() && extents.len() < EXTENTS_MAX {
            let (index, node) = (input.try_get_u64_le().ok()?, input.try_get_u64_le().ok()?);
            let bytes = input.try_get_u64_le().ok()?;
            rest = rest.checked_sub(bytes)?;
            extents.push((ExtentId { group, index, node }, bytes));
        }
        input.is_empty().then_some(Offer { group, index, bytes, print, extents })
    }
}

/// Somebody wants to become a node.
#[derive(Clone, PartialEq, Eq)]
pub struct Join {
    /// The token's.
    pub secret: [u8; 32],
    /// His public key, DER.
    pub key: Bytes,
    /// Its signature of what only this connection knows.
    pub proof: Bytes,
    /// What else he says of himself.
    pub details: Bytes,
}

impl Join {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 + self.details.len());
        out.put_u16_le(VERSION);
        out.put_slice(&self.secret);
        [&self.key, &self.proof, &self.details].into_iter().for_each(|bytes| put_bytes(&mut out, bytes));
        out
    }

    /// Reads that.
    ///
    /// # Errors
    /// See [`BadHello`].
    pub fn decode(mut input: Bytes) -> Result<Join, BadHello> {
        match input.try_get_u16_le() {
            Ok(VERSION) => {}
            Ok(other) => return Err(BadHello::Version(other)),
            Err(_) => return Err(BadHello::Malformed),
        }
        let mut rest = || {
            let secret = take_array(&mut input)?;
            let (key, proof) = (take_bytes(&mut input)?, take_bytes(&mut input)?);
            let details = take_bytes(&mut input)?;
            input.is_empty().then_some(Join { secret, key, proof, details })
        };
        rest().ok_or(BadHello::Malformed)
    }
}

/// What a new node is given.
#[derive(Clone, PartialEq, Eq)]
pub struct Joined {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Its certificate.
    pub certificate: Bytes,
    /// The authority's certificate.
    pub authority: Bytes,
    /// The authority's key: a secret.
    pub authority_key: Bytes,
    /// What the cluster gives it to start with.
    pub details: Bytes,
}

impl Joined {
    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2048 + self.details.len());
        out.put_slice(&self.cluster.0);
        out.put_u64_le(self.node.0);
        for bytes in [&self.certificate, &self.authority, &self.authority_key, &self.details] {
            put_bytes(&mut out, bytes);
        }
        out
    }

    /// Reads that.
    pub fn decode(mut input: Bytes) -> Option<Joined> {
        let cluster = ClusterId(take_array(&mut input)?);
        let node = take_node(&mut input)?;
        let (certificate, authority) = (take_bytes(&mut input)?, take_bytes(&mut input)?);
        let (authority_key, details) = (take_bytes(&mut input)?, take_bytes(&mut input)?);
        input.is_empty().then_some(Joined { cluster, node, certificate, authority, authority_key, details })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            cluster: ClusterId([5; 16]),
            node: NodeId(1),
            to: NodeId(2),
            purpose: Purpose::Snapshot,
            advertise: vec!["a:1".into(), "[::1]:2".into()],
        }
    }

    #[test]
    fn words_are_read_as_they_are_written_and_nothing_may_be_left_over() {
        let join = Join { secret: [9; 32], key: "k".into(), proof: "p".into(), details: "d".into() };
        let joined = Joined {
            cluster: ClusterId([5; 16]),
            node: NodeId(4),
            certificate: "c".into(),
            authority: "a".into(),
            authority_key: "k".into(),
            details: "d".into(),
        };
        let id = ExtentId { group: GroupId(3), index: 2, node: 7 };
        let offer = Offer { group: GroupId(3), index: 4, bytes: 5, print: 6, extents: vec![(id, 5)] };
        let beyond = Offer { extents: vec![(id, 3), (id, 3)], ..offer.clone() };
        assert_eq!(Offer::decode(beyond.encode().into()), None);
        let more = |bytes: Vec<u8>| Bytes::from([bytes, vec![0]].concat());
        assert_eq!(Hello::decode(hello().encode().into()), Ok(hello()));
        assert_eq!(Hello::decode(more(hello().encode())), Err(BadHello::Malformed));
        assert!(Join::decode(join.encode().into()) == Ok(join.clone()));
        assert!(Join::decode(more(join.encode())).is_err());
        assert!(Joined::decode(joined.encode().into()) == Some(joined.clone()));
        assert!(Joined::decode(more(joined.encode())).is_none());
        assert_eq!(Offer::decode(offer.encode().into()), Some(offer.clone()));
        assert_eq!(Offer::decode(more(offer.encode())), None);
    }

    #[test]
    fn another_version_is_told_from_nonsense() {
        let mut bytes = hello().encode();
        bytes[6] = 9;
        assert_eq!(Hello::decode(bytes.into()), Err(BadHello::Version(9)));
        assert_eq!(Hello::decode(Bytes::from_static(b"GET / HTTP/1.1")), Err(BadHello::Malformed));
        assert_eq!(sentence(b"a\nb\x1b[0m\xff"), "a b [0m\u{fffd}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), keep in 0usize..100) {
            for good in [hello().encode(), Join { secret: [9; 32], key: "k".into(), proof: "p".into(), details: "d".into() }.encode()] {
                let mixed: Vec<u8> = good.iter().copied().take(keep).chain(bytes.iter().copied()).collect();
                let mixed = Bytes::from(mixed);
                let _ = (Hello::decode(mixed.clone()), Join::decode(mixed.clone()), Joined::decode(mixed.clone()), Offer::decode(mixed));
            }
        }
    }
}

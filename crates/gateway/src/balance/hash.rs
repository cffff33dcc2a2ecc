//! SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", INDOCRYPT 2012): a keyed hash whose values are the same on every
//! node and in every version, so that all gateways send a client to the same endpoint. Under a secret key nobody outside can aim at a
//! bucket or make up a cookie.

use std::net::IpAddr;

/// A key of 128 bits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey {
    k0: u64,
    k1: u64,
}

impl std::fmt::Debug for HashKey {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashKey(…)")
    }
}

impl HashKey {
    /// The key under which endpoints get their ids and their places in Maglev's table: no secret, the same everywhere for ever.
    pub const SHARED: HashKey = HashKey::new(*b"quorate balance\0");

    /// A key from 16 bytes, little-endian as the paper has it.
    pub const fn new(bytes: [u8; 16]) -> HashKey {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = bytes;
        HashKey { k0: u64::from_le_bytes([a, b, c, d, e, f, g, h]), k1: u64::from_le_bytes([i, j, k, l, m, n, o, p]) }
    }

    /// The hash of `bytes` under this key.
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        let mut v = [
            self.k0 ^ 0x736f_6d65_7073_6575,
            self.k1 ^ 0x646f_7261_6e64_6f6d,
            self.k0 ^ 0x6c79_6765_6e65_7261,
            self.k1 ^ 0x7465_6462_7974_6573,
        ];
        let mut absorb = |word: u64| {
            v[3] ^= word;
            round(&mut v);
            round(&mut v);
            v[0] ^= word;
        };
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| absorb(u64::from_le_bytes(*word)));
        let mut last = [0u8; 8];
        last[..rest.len()].copy_from_slice(rest);
        last[7] = bytes.len() as u8;
        absorb(u64::from_le_bytes(last));
        v[2] ^= 0xff;
        (0..4).for_each(|_| round(&mut v));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].wrapping_add(v[3]);
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].wrapping_add(v[1]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[2] = v[2].rotate_left(32);
}

/// The hash of a client's address. Of an IPv6 address only the first 64 bits count: a client owns all the rest (RFC 6177), and would else be
/// as many clients as it likes. An IPv4 address written as IPv6 (`::ffff:a.b.c.d`) is that IPv4 address.
pub fn client_hash(key: &HashKey, ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(v4) => key.hash(&v4.octets()),
        IpAddr::V6(v6) => key.hash(&v6.octets()[..8]),
    }
}

/// Spreads a hash into an independent one for each `salt` (the finaliser of SplitMix64, Steele, Lea and Flood 2014).
pub(super) fn remix(hash: u64, salt: u64) -> u64 {
    let mut z = hash.wrapping_add(salt.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::{HashKey, client_hash};

    #[test]
    fn the_papers_vectors() {
        let key = HashKey::new(std::array::from_fn(|at| at as u8));
        let message: Vec<u8> = (0..15).collect();
        // Appendix A of the paper, and the first rows of the reference implementation's `vectors_sip64`.
        assert_eq!(key.hash(&message), 0xa129_ca61_49be_45e5);
        assert_eq!(key.hash(b""), 0x726f_db47_dd0e_0e31);
        assert_eq!(key.hash(&[0]), 0x74f8_39c5_93dc_67fd);
        assert_eq!(key.hash(&message[..8]), 0x93f5_f579_9a93_2462);
    }

    #[test]
    fn an_ipv6_client_is_its_64_bit_prefix_and_a_mapped_ipv4_is_that_ipv4() {
        let hash = |ip: &str| client_hash(&HashKey::SHARED, ip.parse().expect("an address"));
        assert_eq!(hash("2001:db8:1:2::1"), hash("2001:db8:1:2:ffff::9"));
        assert_ne!(hash("2001:db8:1:2::1"), hash("2001:db8:1:3::1"));
        assert_eq!(hash("::ffff:192.0.2.7"), hash("192.0.2.7"));
        assert_ne!(hash("192.0.2.7"), hash("192.0.2.8"));
    }

    #[test]
    fn a_key_is_never_shown() {
        assert_eq!(format!("{:?}", HashKey::new([7; 16])), "HashKey(…)");
    }
}

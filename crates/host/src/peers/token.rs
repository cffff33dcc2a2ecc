//! What somebody needs to join a cluster, in one word that can be copied: which cluster, how to know it, and the secret.
//!
//! ```text
//! base64url of: version 1 (1 byte) · cluster (16) · SHA-256 of the authority's certificate (32) · secret (32) · check (4)
//! ```
//!
//! The check is the beginning of the SHA-256 of what stands before it: a word that was cut or mistyped is refused before anything is
//! sent. The secret goes only to somebody whose certificate the authority of that fingerprint signed, and a cluster keeps its hash only.

use std::fmt;

use base::ClusterId;

use super::keys::{random, sha256};

const VERSION: u8 = 1;
const BYTES: usize = 1 + 16 + 32 + 32 + CHECK;
const CHECK: usize = 4;
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A join token. Its `Debug` does not show the secret; [`Token::encode`] does.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The cluster.
    pub cluster: ClusterId,
    /// [`super::keys::Authority::fingerprint`].
    pub authority: [u8; 32],
    /// What lets its holder in.
    pub secret: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(cluster {}, secret not shown)", self.cluster)
    }
}

impl Token {
    /// A token with a new secret. The cluster has to be told of its [`Token::hash`].
    ///
    /// # Errors
    /// There is no randomness.
    pub fn create(cluster: ClusterId, authority: [u8; 32]) -> Result<Token, String> {
        Ok(Token { cluster, authority, secret: random()? })
    }

    /// What the cluster remembers of it; of no use to whoever wants to join.
    pub fn hash(&self) -> [u8; 32] {
        sha256(&self.secret)
    }

    /// The word to copy: a secret.
    pub fn encode(&self) -> String {
        let mut bytes = Vec::with_capacity(BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.cluster.0);
        bytes.extend_from_slice(&self.authority);
        bytes.extend_from_slice(&self.secret);
        let check = sha256(&bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        to_base64url(&bytes)
    }

    /// Reads the word; white space around it does not matter.
    ///
    /// # Errors
    /// A sentence that says what is wrong with it, without repeating it.
    pub fn decode(text: &str) -> Result<Token, String> {
        let no = |why: &str| format!("this is no join token: {why}; copy it whole from `quorate cluster token`");
        let bytes = from_base64url(text.trim()).ok_or_else(|| no("it was cut, or has characters that no token has"))?;
        if bytes.first().is_some_and(|version| *version != VERSION) {
            return Err(no("it is not of version 1, which this program knows"));
        }
        if bytes.len() != BYTES {
            return Err(no("a part of it is missing, or there is too much"));
        }
        let (bytes, check) = bytes.split_at(BYTES - CHECK);
        if sha256(bytes)[..CHECK] != *check {
            return Err(no("something in it was changed on the way"));
        }
        let (cluster, rest) = bytes[1..].split_first_chunk().expect("the length was checked");
        let (authority, rest) = rest.split_first_chunk().expect("the length was checked");
        let (secret, _) = rest.split_first_chunk().expect("the length was checked");
        Ok(Token { cluster: ClusterId(*cluster), authority: *authority, secret: *secret })
    }
}

/// Base64 with `-` and `_` and without `=` (RFC 4648 §5).
pub(super) fn to_base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

/// Reads that, strictly: bits that stand for nothing must be zero, so that no two texts mean the same.
pub(super) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    for group in text.as_bytes().chunks(4) {
        let mut word = 0u32;
        for digit in group {
            word = word << 6 | DIGITS.iter().position(|known| known == digit)? as u32;
        }
        let whole = group.len() * 6 / 8;
        let spare = group.len() * 6 - whole * 8;
        if whole == 0 || word & ((1 << spare) - 1) != 0 {
            return None;
        }
        bytes.extend_from_slice(&(word >> spare << (8 * (4 - whole))).to_be_bytes()[..whole]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Token, from_base64url, to_base64url};
    use base::ClusterId;
    use proptest::prelude::*;

    fn token() -> Token {
        Token { cluster: ClusterId([1; 16]), authority: [2; 32], secret: [3; 32] }
    }

    #[test]
    fn a_token_is_always_written_the_same_way() {
        let word = token().encode();
        assert_eq!(
            word,
            "AQEBAQEBAQEBAQEBAQEBAQECAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDFdDg6w"
        );
        assert_eq!(Token::decode(&format!(" {word}\n")), Ok(token()));
        assert!(!format!("{:?}", token()).contains("3, 3"));
    }

    #[test]
    fn a_token_that_was_cut_or_mistyped_is_refused_by_what_is_wrong_with_it() {
        let word = token().encode();
        let says = |text: &str, why: &str| {
            let error = Token::decode(text).expect_err("it is wrong");
            assert!(error.contains(why), "{text}: {error}");
        };
        says("", "a part of it is missing");
        says("?", "characters that no token has");
        says(&word[..word.len() - 1], "it was cut");
        says(&word[..word.len() - 2], "a part of it is missing");
        says(&word.replacen("AQEB", "AgEB", 1), "not of version 1");
        says(&word.replacen("ICAg", "ICBg", 1), "was changed on the way");
        says(&format!("{word}AAAA"), "too much");
    }

    proptest! {
        #[test]
        fn base64url_is_read_as_it_is_written(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(from_base64url(&to_base64url(&bytes)), Some(bytes));
        }

        #[test]
        fn whatever_can_be_read_is_written_the_same_way(text in "[A-Za-z0-9_=+-]{0,40}") {
            if let Some(bytes) = from_base64url(&text) {
                prop_assert_eq!(to_base64url(&bytes), text);
            }
        }

        #[test]
        fn no_text_is_read_with_a_panic(text in "\\PC{0,200}") {
            let _ = Token::decode(&text);
        }
    }
}

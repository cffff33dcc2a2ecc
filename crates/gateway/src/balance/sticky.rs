//! Sticky sessions: a cookie that names the client's endpoint without telling anybody which one it is.
//!
//! Its value is the endpoint's id hashed under a secret key, 16 hexadecimal digits: the same for an endpoint on every node and in every set, so
//! it survives that others come and go; worthless for guessing addresses; and a made-up one names nobody. A client whose endpoint is gone or
//! fails is balanced like a new one and gets a new cookie; one whose endpoint is draining may stay.

use super::endpoint::EndpointId;
use super::hash::HashKey;

/// The tokens of one set, for finding a member by its cookie.
#[derive(Clone, Debug, Default)]
pub(super) struct Tokens(Box<[(u64, u16)]>);

/// What an endpoint's cookie says.
pub(super) fn token(key: &HashKey, id: EndpointId) -> u64 {
    key.hash(&id.0.to_le_bytes())
}

/// The value of the cookie: lower-case hexadecimal.
pub(super) fn format(token: u64) -> [u8; 16] {
    std::array::from_fn(|at| b"0123456789abcdef"[(token >> (60 - 4 * at) & 15) as usize])
}

/// What a cookie of the client says; nothing unless it is what [`format`] writes.
pub(super) fn parse(value: &[u8]) -> Option<u64> {
    let digits: &[u8; 16] = value.try_into().ok()?;
    digits.iter().try_fold(0u64, |token, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(token << 4 | u64::from(value))
    })
}

impl Tokens {
    /// The tokens of the members with these ids, in order.
    pub(super) fn new(key: &HashKey, ids: impl Iterator<Item = EndpointId>) -> Tokens {
        let mut tokens: Vec<(u64, u16)> = ids.enumerate().map(|(at, id)| (token(key, id), at as u16)).collect();
        tokens.sort_unstable();
        Tokens(tokens.into())
    }

    /// The member whose token it is.
    pub(super) fn find(&self, token: u64) -> Option<usize> {
        let at = self.0.binary_search_by_key(&token, |(token, _)| *token).ok()?;
        Some(usize::from(self.0[at].1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_else(token: u64, junk in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(parse(&format(token)), Some(token));
            if let Some(token) = parse(&junk) {
                prop_assert_eq!(&format(token)[..], &junk[..]);
            }
        }
    }

    #[test]
    fn a_token_tells_nothing_without_the_key_and_only_members_have_one() {
        let ids = [EndpointId(1), EndpointId(2), EndpointId(3)];
        let key = HashKey::new([9; 16]);
        let tokens = Tokens::new(&key, ids.into_iter());
        assert_eq!(tokens.find(token(&key, EndpointId(2))), Some(1));
        assert_eq!(tokens.find(token(&key, EndpointId(4))), None);
        assert_eq!(tokens.find(token(&HashKey::new([8; 16]), EndpointId(2))), None);
        assert_eq!(parse(b"00000000000000FF"), None, "one spelling only");
    }
}

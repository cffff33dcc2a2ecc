//! What every door asks about users: is the password right, and may somebody be in here at all. The users themselves are the room's
//! ([`users`]); here are the digests and salted keys that the room does not make, and comparing in a time that says nothing.
//!
//! The Redis door asks for each command. The others have no rules of their own for these users (etcd has its own, its roles), so they let in
//! whoever may do all that can be done there: [`Area`].

use std::num::NonZeroU32;

use ring::{digest, hmac, pbkdf2};
use users::commands::{Access, Commands};
use users::{Grant, Proof, User, Users};

/// Rounds of PBKDF2 that SCRAM's clients are asked for (Kafka's own least).
pub const ROUNDS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");

/// SHA-256: what is kept of a password, as Redis keeps it.
pub fn digest_of(password: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, password);
    digest.as_ref().try_into().expect("SHA-256 has 32 bytes")
}

/// Which hash a proof is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Hash {
    pub(crate) fn algorithms(self) -> (hmac::Algorithm, pbkdf2::Algorithm, &'static digest::Algorithm) {
        match self {
            Hash::Sha256 => (hmac::HMAC_SHA256, pbkdf2::PBKDF2_HMAC_SHA256, &digest::SHA256),
            Hash::Sha512 => (hmac::HMAC_SHA512, pbkdf2::PBKDF2_HMAC_SHA512, &digest::SHA512),
        }
    }
}

pub(crate) fn mac(algorithm: hmac::Algorithm, key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key), text).as_ref().to_vec()
}

/// What SCRAM needs of a password (RFC 5802 §3): `StoredKey` and `ServerKey` under this salt. Milliseconds of work.
pub fn prove(password: &[u8], salt: &[u8]) -> Proof {
    let keys = |hash: Hash| {
        let (by, rounds, digest) = hash.algorithms();
        let mut salted = vec![0; digest.output_len()];
        pbkdf2::derive(rounds, ROUNDS, salt, password, &mut salted);
        let stored = digest::digest(digest, &mac(by, &salted, b"Client Key")).as_ref().to_vec();
        [stored, mac(by, &salted, b"Server Key")]
    };
    Proof { salt: salt.to_vec(), sha256: keys(Hash::Sha256), sha512: keys(Hash::Sha512) }
}

/// The salt of a user's passwords: one for all, since SCRAM tells it before it is known which is meant.
pub fn salt_of(user: Option<&User>, random: [u64; 2]) -> Vec<u8> {
    let known = user.and_then(|user| user.passwords.iter().rev().find_map(|password| password.proof.as_ref()));
    known.map_or_else(|| random.iter().flat_map(|word| word.to_be_bytes()).collect(), |proof| proof.salt.clone())
}

/// Whether somebody who shows this password is the user. Takes as long for a wrong one.
pub fn is_right(user: &User, password: &[u8]) -> bool {
    let given = digest_of(password);
    let is_it = |known: &[u8; 32]| known.iter().zip(&given).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0;
    let found = user.passwords.iter().fold(false, |found, password| found | is_it(&password.digest));
    user.enabled && (user.nopass || found)
}

/// Doors that let in whoever may do all of what is done there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Kafka: everything with topics, which are the keys `topic:*` of the Redis door.
    Topics,
    /// Consul's registry and the admin door: everything.
    All,
}

/// Whether a user may be in there.
pub fn may_enter(grant: &Grant, area: Area) -> bool {
    let may = |name: &str| {
        Commands::all().find(name).is_some_and(|command| grant.may_on_all(command, &[], b"topic:", Access::BOTH))
    };
    match area {
        Area::Topics => ["xadd", "xread", "xgroup|create", "q.topic", "q.commitoffset"].into_iter().all(may),
        Area::All => grant.is_all,
    }
}

/// Whether this is a user who may do everything, and the password.
pub fn is_administrator(users: &Users, name: &str, password: &str) -> bool {
    let Some(user) = users.get(name.as_bytes()) else {
        // Nobody's password takes as long.
        return is_right(&User::default(), password.as_bytes());
    };
    is_right(user, password.as_bytes()) && may_enter(&Grant::new(name.as_bytes(), user.clone()), Area::All)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use users::rules::Rule;
    use users::{Grant, User};

    use super::{Area, digest_of, is_right, may_enter};

    fn user(words: &[&str]) -> User {
        let mut user = User::default();
        for word in words {
            Rule::parse(word.as_bytes(), &|_| false).and_then(|rule| rule.apply(&mut user)).expect("rules");
        }
        user
    }

    #[test]
    fn a_password_is_right_if_it_is_one_of_them_and_the_user_is_on() {
        let pass: String = digest_of(b"pass").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(pass, "d74ff0ee8da3b9806b18c877dbf29bbde50b5bd8e4dad7a3a725000feb82e8f1");
        let (hash, other) = (format!("#{pass}"), format!("#{}", "0".repeat(64)));
        for (words, password, right) in [
            (vec!["on", &other, &hash], "pass", true),
            (vec!["on", &hash], "Pass", false),
            (vec!["off", &hash], "pass", false),
            (vec!["on"], "", false),
            (vec!["on", "nopass"], "whatever", true),
            (vec!["nopass"], "whatever", false),
        ] {
            assert_eq!(is_right(&user(&words), password.as_bytes()), right, "{words:?}");
        }
    }

    #[test]
    fn a_door_lets_in_who_may_do_all_that_is_done_there() {
        for (words, topics, all) in [
            (vec!["~*", "&*", "+@all"], true, true),
            (vec!["~*", "+@all"], true, false),
            (vec!["~topic:*", "+@stream"], true, false),
            (vec!["%R~topic:*", "+@stream"], false, false),
            (vec!["~topic:orders", "+@stream"], false, false),
            (vec!["~topic:*", "+xadd"], false, false),
            (vec![], false, false),
        ] {
            let grant = Grant::new(b"x", Arc::new(user(&words)));
            assert_eq!((may_enter(&grant, Area::Topics), may_enter(&grant, Area::All)), (topics, all), "{words:?}");
        }
    }
}

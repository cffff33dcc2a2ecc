//! Who may come in: SASL PLAIN (RFC 4616) and SCRAM (RFC 5802, RFC 7677) against the door's own user, and the users of the access control
//! list ([`Directory`]).
//!
//! Salted keys are made when a password is set, so a wrong password costs the door two hashes and not thousands.

use ring::digest;
use users::Proof as Kept;

use crate::access::{Hash, ROUNDS, mac, prove};
use crate::secret::Secret;

/// Bytes of one message of a client.
const MESSAGE_BYTES_MAX: usize = 4096;

/// One of the ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// The password as it is.
    Plain,
    /// Proof of it.
    Scram256,
    /// The same with a longer hash.
    Scram512,
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Mechanism; 3] = [Mechanism::Plain, Mechanism::Scram256, Mechanism::Scram512];

    /// As it is called on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::Scram256 => "SCRAM-SHA-256",
            Mechanism::Scram512 => "SCRAM-SHA-512",
        }
    }

    /// The one of this name.
    pub fn of(name: &str) -> Option<Mechanism> {
        Mechanism::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }
}

/// The door's own user: the one of its settings.
#[derive(Debug)]
pub struct User {
    name: String,
    password: Secret,
    kept: Kept,
}

impl User {
    /// `random` makes the salt.
    pub fn new(name: String, password: Secret, random: [u64; 2]) -> User {
        let salt: Vec<u8> = random.iter().flat_map(|word| word.to_be_bytes()).collect();
        let kept = prove(password.reveal().as_bytes(), &salt);
        User { name, password, kept }
    }

    /// Whether it is this one.
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// Who may come in.
pub trait Directory {
    /// Whether this is a user's password.
    fn is_right(&self, name: &str, password: &[u8]) -> bool;
    /// What is kept of a user's passwords, the one whose salt is told last. None: nobody of that name may come in so.
    fn kept(&self, name: &str) -> Vec<Kept>;
}

impl Directory for User {
    fn is_right(&self, name: &str, password: &[u8]) -> bool {
        self.password.matches(password) & (name == self.name)
    }

    fn kept(&self, name: &str) -> Vec<Kept> {
        if name == self.name { vec![self.kept.clone()] } else { Vec::new() }
    }
}

/// A client that proves who it is.
#[derive(Debug)]
pub struct Proof {
    mechanism: Mechanism,
    /// Of SCRAM: what was said so far, the nonce of both, and what is kept of the passwords.
    said: Option<(String, String, Vec<Kept>)>,
    /// Who it says it is.
    pub name: String,
}

/// How it goes on.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Say this and wait for more.
    More(Vec<u8>),
    /// Say this: it is who it says.
    Proven(Vec<u8>),
    /// It is not.
    Failed(&'static str),
}

const WRONG: Step = Step::Failed("Authentication failed: wrong user or password");
const ODD: Step = Step::Failed("Authentication failed: that is not how this mechanism speaks");

impl Proof {
    /// Nothing said yet.
    pub fn new(mechanism: Mechanism) -> Proof {
        Proof { mechanism, said: None, name: String::new() }
    }

    /// What a client's next message comes to. `random` for a nonce.
    pub fn step(&mut self, users: &dyn Directory, message: &[u8], random: u64) -> Step {
        let Ok(text) = std::str::from_utf8(message) else {
            return ODD;
        };
        if message.len() > MESSAGE_BYTES_MAX {
            return ODD;
        }
        match (self.mechanism, self.said.take()) {
            (Mechanism::Plain, _) => {
                let mut parts = text.split('\0');
                let (Some(_), Some(name), Some(password), None) =
                    (parts.next(), parts.next(), parts.next(), parts.next())
                else {
                    return ODD;
                };
                name.clone_into(&mut self.name);
                if users.is_right(name, password.as_bytes()) { Step::Proven(Vec::new()) } else { WRONG }
            }
            (_, None) => self.first(users, text, random).unwrap_or(ODD),
            (_, Some((said, nonce, kept))) => self.last(&kept, text, &said, &nonce).unwrap_or(ODD),
        }
    }

    fn first(&mut self, users: &dyn Directory, text: &str, random: u64) -> Option<Step> {
        // gs2-header: no channel binding, perhaps an authorisation identity.
        let mut parts = text.splitn(3, ',');
        let binding = parts.next()?;
        let _identity = parts.next()?;
        let bare = parts.next()?;
        if !matches!(binding, "n" | "y") {
            return None;
        }
        let name = attribute(bare, "n")?.replace("=2C", ",").replace("=3D", "=");
        let nonce = attribute(bare, "r").filter(|nonce| !nonce.is_empty())?;
        let mut kept = users.kept(&name);
        let Some(salt) = kept.last().map(|kept| kept.salt.clone()) else {
            return Some(WRONG);
        };
        kept.retain(|kept| kept.salt == salt);
        self.name = name;
        let nonce = format!("{nonce}{random:016x}");
        let answer = format!("r={nonce},s={},i={ROUNDS}", base64(&salt));
        self.said = Some((format!("{bare},{answer}"), nonce, kept));
        Some(Step::More(answer.into_bytes()))
    }

    fn last(&self, kept: &[Kept], text: &str, said: &str, nonce: &str) -> Option<Step> {
        let (without, proof) = text.rsplit_once(",p=")?;
        let binding = attribute(without, "c")?;
        // librdkafka before 2.6.1 writes its own nonce twice, so ours is what it must end in: it is the fresh half that matters.
        let is_ours = attribute(without, "r")?.ends_with(nonce);
        if !matches!(binding, "biws" | "eSws") && !binding.starts_with("bixh") || !is_ours {
            return None;
        }
        let proof = unbase64(proof)?;
        let hash = if self.mechanism == Mechanism::Scram512 { Hash::Sha512 } else { Hash::Sha256 };
        let (by, _, digest) = hash.algorithms();
        let all = format!("{said},{without}");
        for kept in kept {
            let [stored, server] = if hash == Hash::Sha512 { &kept.sha512 } else { &kept.sha256 };
            let signature = mac(by, stored, all.as_bytes());
            if proof.len() != signature.len() {
                return None;
            }
            let key: Vec<u8> = proof.iter().zip(&signature).map(|(a, b)| a ^ b).collect();
            let shown = digest::digest(digest, &key);
            let difference = shown.as_ref().iter().zip(stored).fold(0, |sum, (a, b)| sum | (a ^ b));
            if difference == 0 && shown.as_ref().len() == stored.len() {
                return Some(Step::Proven(format!("v={}", base64(&mac(by, server, all.as_bytes()))).into_bytes()));
            }
        }
        Some(WRONG)
    }
}

fn attribute<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(',').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding (RFC 4648 §4).
pub(super) fn base64(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * place) & 63) as usize];
            out.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

fn unbase64(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=');
    let mut out = Vec::new();
    let (mut word, mut bits) = (0u32, 0);
    for byte in text.bytes() {
        let digit = DIGITS.iter().position(|digit| *digit == byte)?;
        word = word << 6 | digit as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use ring::pbkdf2;

    use super::*;

    fn user() -> User {
        User::new("user".into(), Secret::new("pencil".into()), [1, 2])
    }

    #[test]
    fn plain_takes_the_one_password_of_the_one_user() {
        for (message, is_right) in [
            ("\0user\0pencil", true),
            ("other\0user\0pencil", true),
            ("\0user\0pencils", false),
            ("\0use\0pencil", false),
            ("user\0pencil", false),
            ("", false),
            ("\0user\0pencil\0", false),
        ] {
            let step = Proof::new(Mechanism::Plain).step(&user(), message.as_bytes(), 0);
            assert_eq!(matches!(step, Step::Proven(_)), is_right, "{message:?}");
        }
    }

    /// The client's side by the RFC, for a password right and wrong.
    #[test]
    fn scram_wants_a_proof_of_this_exchange() {
        for mechanism in [Mechanism::Scram256, Mechanism::Scram512] {
            for (password, twice, is_right) in
                [("pencil", "", true), ("pencil", "rOprNGfwEbeRWgbNEkqO", true), ("pen", "", false)]
            {
                let user = user();
                let mut proof = Proof::new(mechanism);
                let bare = "n=user,r=rOprNGfwEbeRWgbNEkqO";
                let Step::More(first) = proof.step(&user, format!("n,,{bare}").as_bytes(), 7) else {
                    panic!("refused")
                };
                let first = String::from_utf8(first).expect("text");
                let hash = if mechanism == Mechanism::Scram512 { Hash::Sha512 } else { Hash::Sha256 };
                let (by, rounds, digest) = hash.algorithms();
                let salt = unbase64(attribute(&first, "s").expect("a salt")).expect("base64");
                let mut salted = vec![0; digest.output_len()];
                pbkdf2::derive(rounds, ROUNDS, &salt, password.as_bytes(), &mut salted);
                let client = mac(by, &salted, b"Client Key");
                let stored = digest::digest(digest, &client);
                let without = format!("c=biws,r={twice}{}", attribute(&first, "r").expect("a nonce"));
                let all = format!("{bare},{first},{without}");
                let signature = mac(by, stored.as_ref(), all.as_bytes());
                let bytes: Vec<u8> = client.iter().zip(signature).map(|(a, b)| a ^ b).collect();
                let step = proof.step(&user, format!("{without},p={}", base64(&bytes)).as_bytes(), 8);
                match is_right {
                    true => {
                        let server = mac(by, &mac(by, &salted, b"Server Key"), all.as_bytes());
                        assert_eq!(step, Step::Proven(format!("v={}", base64(&server)).into_bytes()));
                    }
                    false => assert_eq!(step, WRONG),
                }
            }
        }
        for odd in ["", "n", "n,,", "p=tls-unique,,n=user,r=x", "n,,n=user", "n,,n=user,r="] {
            assert_eq!(Proof::new(Mechanism::Scram256).step(&user(), odd.as_bytes(), 0), ODD, "{odd:?}");
        }
    }

    #[test]
    fn base64_is_that_of_the_rfc() {
        for (text, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(text.as_bytes()), coded);
            assert_eq!(unbase64(coded), Some(text.as_bytes().to_vec()));
        }
        assert_eq!(unbase64("a b"), None);
    }
}

//! What a user is.

use std::collections::BTreeMap;

use store::codec::{Corrupt, Input, put_bytes, put_varint};

use crate::commands::Access;
use crate::rules::{self, Rule};

/// Whom a client is that has not said who it is.
pub const DEFAULT: &[u8] = b"default";

/// Of a password, what shows that somebody else knows it without telling it (SCRAM, RFC 5802): for SHA-256 and SHA-512.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proof {
    /// The salt of both.
    pub salt: Vec<u8>,
    /// `StoredKey` and `ServerKey` under SHA-256.
    pub sha256: [Vec<u8>; 2],
    /// The same under SHA-512.
    pub sha512: [Vec<u8>; 2],
}

/// A password.
#[derive(Clone, PartialEq, Eq)]
pub struct Password {
    /// Its SHA-256.
    pub digest: [u8; 32],
    /// None where only the digest was given.
    pub proof: Option<Proof>,
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(a password)")
    }
}

/// Keys that are called so, and what may be done to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPattern {
    /// At least one of both.
    pub access: Access,
    /// A glob.
    pub pattern: Vec<u8>,
}

/// Commands, and the keys and channels that they may be used on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// Whether all commands may be used but those that [`Selector::commands`] takes away; else none but those that it gives.
    pub all_commands: bool,
    /// Names and `@categories` in lower case, given (true) or taken away, the later word wins.
    pub commands: Vec<(bool, String)>,
    /// All keys.
    pub all_keys: bool,
    /// Else these.
    pub keys: Vec<KeyPattern>,
    /// All channels.
    pub all_channels: bool,
    /// Else these.
    pub channels: Vec<Vec<u8>>,
}

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// May come in. Whoever is in stays.
    pub enabled: bool,
    /// Any password is right.
    pub nopass: bool,
    /// RESTORE's payloads are believed. Ours never are; it is shown as it was said.
    pub skip_sanitize: bool,
    /// Passwords, each of which is right.
    pub passwords: Vec<Password>,
    /// What it may do.
    pub root: Selector,
    /// What it may do as well.
    pub selectors: Vec<Selector>,
    /// The revision by which it came to be: another user of the same name is another user.
    pub born: u64,
}

/// In hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl KeyPattern {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(match (self.access.read, self.access.write) {
            (true, true) => b"~",
            (true, false) => b"%R~",
            _ => b"%W~",
        });
        out.extend_from_slice(&self.pattern);
    }
}

fn joined(words: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let mut out = Vec::new();
    for (nth, word) in words.enumerate() {
        if nth > 0 {
            out.push(b' ');
        }
        out.extend_from_slice(&word);
    }
    out
}

impl Selector {
    /// Its commands as `ACL GETUSER` shows them.
    pub fn show_commands(&self) -> String {
        let mut out = String::from(if self.all_commands { "+@all" } else { "-@all" });
        for (given, name) in &self.commands {
            out.push_str(if *given { " +" } else { " -" });
            out.push_str(name);
        }
        out
    }

    /// Its keys.
    pub fn show_keys(&self) -> Vec<u8> {
        if self.all_keys {
            return b"~*".to_vec();
        }
        joined(self.keys.iter().map(|pattern| {
            let mut word = Vec::new();
            pattern.put(&mut word);
            word
        }))
    }

    /// Its channels.
    pub fn show_channels(&self) -> Vec<u8> {
        if self.all_channels {
            return b"&*".to_vec();
        }
        joined(self.channels.iter().map(|channel| [b"&", &channel[..]].concat()))
    }

    /// All of it in words.
    pub fn show(&self) -> Vec<u8> {
        let mut out = self.show_keys();
        if !out.is_empty() {
            out.push(b' ');
        }
        if !self.all_channels {
            out.extend_from_slice(b"resetchannels ");
        }
        let channels = self.show_channels();
        out.extend_from_slice(&channels);
        if !channels.is_empty() {
            out.push(b' ');
        }
        out.extend_from_slice(self.show_commands().as_bytes());
        out
    }
}

impl User {
    /// Whoever may do everything, and is in without a password.
    pub fn unbounded() -> User {
        let root = Selector { all_commands: true, all_keys: true, all_channels: true, ..Selector::default() };
        User { enabled: true, nopass: true, root, ..User::default() }
    }

    /// Its flags as `ACL GETUSER` shows them.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.enabled { "on" } else { "off" }];
        if self.nopass {
            flags.push("nopass");
        }
        flags.push(if self.skip_sanitize { "skip-sanitize-payload" } else { "sanitize-payload" });
        flags
    }

    /// The root selector and the others.
    pub fn all_selectors(&self) -> impl Iterator<Item = &Selector> {
        std::iter::once(&self.root).chain(&self.selectors)
    }

    /// As `ACL LIST` shows it, without its name.
    pub fn show(&self) -> Vec<u8> {
        let mut out = self.flags().join(" ").into_bytes();
        for password in &self.passwords {
            out.extend_from_slice(format!(" #{}", hex(&password.digest)).as_bytes());
        }
        out.push(b' ');
        out.extend_from_slice(&self.root.show());
        out.extend_from_slice(&self.show_selectors());
        out
    }

    fn show_selectors(&self) -> Vec<u8> {
        let words = self.selectors.iter().flat_map(|selector| [b" (", &selector.show()[..], b")"].concat());
        words.collect()
    }

    /// What it may do, in words: what a script's entry carries of its user.
    pub fn rights(&self) -> Vec<u8> {
        [self.root.show(), self.show_selectors()].concat()
    }

    /// A user who may do what [`User::rights`] said.
    ///
    /// # Errors
    /// Those are no such words.
    pub fn of_rights(words: &[u8]) -> Result<User, Corrupt> {
        let mut user = User::default();
        for word in rules::split(words) {
            let rule = Rule::parse(&word, &|_| true).map_err(|_| Corrupt("a user's rights"))?;
            rule.apply(&mut user).map_err(|_| Corrupt("a user's rights"))?;
        }
        Ok(user)
    }

    /// Appends the stored form: the words, and what they do not say of passwords.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.born);
        put_bytes(out, &self.show());
        let proofs = self.passwords.iter().filter_map(|password| Some((password.digest, password.proof.as_ref()?)));
        let proofs: BTreeMap<_, _> = proofs.collect();
        put_varint(out, proofs.len() as u64);
        for (digest, proof) in proofs {
            out.extend_from_slice(&digest);
            proof.encode(out);
        }
    }

    /// Reads what [`User::encode`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(input: &mut Input<'_>) -> Result<User, Corrupt> {
        let mut user = User { born: input.varint()?, ..User::default() };
        for word in rules::split(input.bytes()?) {
            let rule = Rule::parse(&word, &|_| true).map_err(|_| Corrupt("a user's words"))?;
            rule.apply(&mut user).map_err(|_| Corrupt("a user's words"))?;
        }
        for _ in 0..input.count()? {
            let digest = input.take(32)?;
            let proof = Proof::decode(input)?;
            let password = user.passwords.iter_mut().find(|password| password.digest == digest);
            password.ok_or(Corrupt("a proof of no password"))?.proof = Some(proof);
        }
        Ok(user)
    }
}

impl Proof {
    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let [a, b] = &self.sha256;
        let [c, d] = &self.sha512;
        [&self.salt, a, b, c, d].into_iter().for_each(|bytes| put_bytes(out, bytes));
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(input: &mut Input<'_>) -> Result<Proof, Corrupt> {
        let mut next = || input.bytes().map(<[u8]>::to_vec);
        Ok(Proof { salt: next()?, sha256: [next()?, next()?], sha512: [next()?, next()?] })
    }
}

//! All users, changed by entries of the meta group's log only.

use std::collections::BTreeMap;
use std::sync::Arc;

use store::codec::{Corrupt, Input, put_bytes, put_varint};

use crate::limits::{ALL_BYTES_MAX, NAME_BYTES_MAX, USER_BYTES_MAX, USERS_MAX};
use crate::model::{DEFAULT, Proof, User};
use crate::rules::Rule;

/// The users. The default user is among them only once it was changed: until then each door's settings say what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    revision: u64,
    users: BTreeMap<Vec<u8>, Arc<User>>,
    bytes: usize,
}

/// What an entry does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes a user, or changes one: all of it or nothing.
    Set {
        /// Whom.
        name: Vec<u8>,
        /// What the user is changed from where there is none of that name; a fresh one where nothing is said.
        base: Option<User>,
        /// See [`Rule`]. No passwords in the clear.
        words: Vec<Vec<u8>>,
        /// Of the passwords among them: by their digests.
        proofs: Vec<([u8; 32], Proof)>,
    },
    /// Removes users.
    Delete {
        /// Whom. Who is not there is not missed.
        names: Vec<Vec<u8>>,
    },
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; the revision that shows it, and how many users were changed.
    Done(u64, u64),
    /// Nothing was done: because of the word at this place, or (`None`) of something else.
    Refused(Option<u64>, String),
}

const SET: u8 = 1;
const DELETE: u8 = 2;

impl Change {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Change::Set { name, base, words, proofs } => {
                out.push(SET);
                put_bytes(&mut out, name);
                out.push(u8::from(base.is_some()));
                if let Some(base) = base {
                    base.encode(&mut out);
                }
                put_list(words, &mut out);
                put_varint(&mut out, proofs.len() as u64);
                for (digest, proof) in proofs {
                    out.extend_from_slice(digest);
                    proof.encode(&mut out);
                }
            }
            Change::Delete { names } => {
                out.push(DELETE);
                put_list(names, &mut out);
            }
        }
        out
    }

    /// Reads what [`Change::encode`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(bytes: &[u8]) -> Result<Change, Corrupt> {
        let mut input = Input::new(bytes);
        match input.u8()? {
            SET => {
                let name = input.bytes()?.to_vec();
                let base = if input.u8()? == 0 { None } else { Some(User::decode(&mut input)?) };
                let words = read_list(&mut input)?;
                let mut proofs = Vec::new();
                for _ in 0..input.count()? {
                    let digest = input.take(32)?.try_into().map_err(|_| Corrupt("a digest"))?;
                    proofs.push((digest, Proof::decode(&mut input)?));
                }
                Ok(Change::Set { name, base, words, proofs })
            }
            DELETE => Ok(Change::Delete { names: read_list(&mut input)? }),
            _ => Err(Corrupt("a change of users of an unknown kind")),
        }
    }
}

fn put_list(list: &[Vec<u8>], out: &mut Vec<u8>) {
    put_varint(out, list.len() as u64);
    list.iter().for_each(|bytes| put_bytes(out, bytes));
}

fn read_list(input: &mut Input<'_>) -> Result<Vec<Vec<u8>>, Corrupt> {
    (0..input.count()?).map(|_| input.bytes().map(<[u8]>::to_vec)).collect()
}

impl Outcome {
    /// The form of an answer.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Outcome::Done(revision, count) => {
                out.push(0);
                put_varint(&mut out, *revision);
                put_varint(&mut out, *count);
            }
            Outcome::Refused(at, why) => {
                out.push(1);
                put_varint(&mut out, at.map_or(0, |at| at + 1));
                put_bytes(&mut out, why.as_bytes());
            }
        }
        out
    }

    /// Reads it.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(bytes: &[u8]) -> Result<Outcome, Corrupt> {
        let mut input = Input::new(bytes);
        match input.u8()? {
            0 => Ok(Outcome::Done(input.varint()?, input.varint()?)),
            1 => {
                let at = input.varint()?.checked_sub(1);
                Ok(Outcome::Refused(at, String::from_utf8_lossy(input.bytes()?).into_owned()))
            }
            _ => Err(Corrupt("an outcome of an unknown kind")),
        }
    }
}

impl Users {
    /// Grows with every change.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether nobody was ever said anything about.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// A user.
    pub fn get(&self, name: &[u8]) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<User>)> {
        self.users.iter().map(|(name, user)| (&name[..], user))
    }

    /// Bytes of all of them.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Does what an entry says.
    pub fn apply(&mut self, change: &Change) -> Outcome {
        match change {
            Change::Set { name, base, words, proofs } => self.set(name, base.as_ref(), words, proofs),
            Change::Delete { names } => {
                if names.iter().any(|name| name == DEFAULT) {
                    return Outcome::Refused(None, "The 'default' user cannot be removed".into());
                }
                let mut count = 0;
                for name in names {
                    if let Some(user) = self.users.remove(name) {
                        self.bytes = self.bytes.saturating_sub(weight(name, &user));
                        count += 1;
                    }
                }
                self.revision += u64::from(count > 0);
                Outcome::Done(self.revision, count)
            }
        }
    }

    fn set(&mut self, name: &[u8], base: Option<&User>, words: &[Vec<u8>], proofs: &[([u8; 32], Proof)]) -> Outcome {
        let refused = |why: &str| Outcome::Refused(None, why.into());
        if name.len() > NAME_BYTES_MAX {
            return refused("The name of a user may have 256 bytes");
        }
        let old = self.users.get(name);
        let mut user = match old {
            Some(user) => User::clone(user),
            None => User { born: self.revision + 1, ..base.cloned().unwrap_or_default() },
        };
        for (at, word) in words.iter().enumerate() {
            let done = Rule::parse(word, &|_| true).and_then(|rule| rule.apply(&mut user));
            if let Err(why) = done {
                return Outcome::Refused(Some(at as u64), why.into());
            }
        }
        for password in &mut user.passwords {
            let proof = proofs.iter().find(|(digest, _)| *digest == password.digest);
            if let Some((_, proof)) = proof {
                password.proof.get_or_insert_with(|| proof.clone());
            }
        }
        let before = old.map_or(0, |old| weight(name, old));
        let after = weight(name, &user);
        if after > USER_BYTES_MAX {
            return refused("A user may have 64 KiB of rules and passwords");
        }
        if old.is_none() && self.users.len() >= USERS_MAX || self.bytes - before + after > ALL_BYTES_MAX {
            return refused("There are as many users as there may be (10000, or 32 MiB of them)");
        }
        self.bytes = self.bytes - before + after;
        self.revision += 1;
        self.users.insert(name.to_vec(), Arc::new(user));
        Outcome::Done(self.revision, 1)
    }

    /// Appends the stored form.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.revision);
        put_varint(out, self.users.len() as u64);
        for (name, user) in &self.users {
            put_bytes(out, name);
            user.encode(out);
        }
    }

    /// Reads what [`Users::encode`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn decode(input: &mut Input<'_>) -> Result<Users, Corrupt> {
        let mut users = Users { revision: input.varint()?, ..Users::default() };
        for _ in 0..input.count()? {
            let name = input.bytes()?.to_vec();
            let user = User::decode(input)?;
            users.bytes += weight(&name, &user);
            users.users.insert(name, Arc::new(user));
        }
        Ok(users)
    }
}

/// Bytes of a user.
fn weight(name: &[u8], user: &User) -> usize {
    let mut form = Vec::new();
    user.encode(&mut form);
    name.len() + form.len()
}

//! Users, roles and the ranges of keys that roles may read and write.
//!
//! Part of the state: whether somebody may is decided where an entry is applied, by what holds there, so that no replica differs and no
//! change of rights is overtaken. Nothing is decided about passwords: what is kept of one is the door's form.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::error::{self, Error};
use crate::limits::{GRANTS_MAX, NAME_BYTES_MAX, USERS_MAX};
use crate::proto::Permission;
use crate::span::{End, Span};

/// Who and what may do everything.
pub const ROOT: &str = "root";

/// `Permission.perm_type`.
pub const READ: i32 = 0;
/// See [`READ`].
pub const WRITE: i32 = 1;
/// See [`READ`].
pub const READ_WRITE: i32 = 2;

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// What the door keeps of the password; empty for none.
    pub password: Vec<u8>,
    /// Roles.
    pub roles: BTreeSet<String>,
}

/// A role: what it may do, by key and end.
pub type Role = BTreeMap<(Bytes, Bytes), i32>;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Auth {
    /// Whether anybody is asked.
    pub enabled: bool,
    /// Grows with every change.
    pub revision: u64,
    /// What tokens are signed with.
    pub secret: Vec<u8>,
    /// Users by name.
    pub users: BTreeMap<String, User>,
    /// Roles by name.
    pub roles: BTreeMap<String, Role>,
}

/// Whether a role's range is the same kind of right.
fn grants(kind: i32, write: bool) -> bool {
    kind == READ_WRITE || kind == if write { WRITE } else { READ }
}

/// Whether these spans together hold all of that one.
fn covers(spans: &mut Vec<Span<'_>>, wanted: Span<'_>) -> bool {
    if wanted.end == End::Single {
        return spans.iter().any(|span| span.has(wanted.key));
    }
    let Some(_) = wanted.bounds() else {
        // Nothing at all, but of somebody who may look there.
        return spans.iter().any(|span| span.has(wanted.key));
    };
    spans.sort_by_key(|span| span.key);
    // All before this is held.
    let mut held = wanted.key.to_vec();
    for span in spans {
        if span.key > &held[..] {
            break;
        }
        let end = match span.end {
            End::Never => return true,
            End::Before(end) => end.to_vec(),
            End::Single => [span.key, &[0]].concat(),
        };
        held = held.max(end);
        if matches!(wanted.end, End::Before(end) if &held[..] >= end) {
            return true;
        }
    }
    false
}

impl Auth {
    /// Whether this user may do everything; who is known is enough where nobody is asked.
    ///
    /// # Errors
    /// No.
    pub fn admin(&self, user: &str) -> Result<(), Error> {
        match self.known(user)? {
            Some(own) if !own.roles.contains(ROOT) => Err(error::PERMISSION_DENIED),
            _ => Ok(()),
        }
    }

    /// The user, where anybody is asked.
    ///
    /// # Errors
    /// There is no such user.
    pub fn known(&self, user: &str) -> Result<Option<&User>, Error> {
        if !self.enabled {
            return Ok(None);
        }
        if user.is_empty() {
            return Err(error::USER_EMPTY);
        }
        self.users.get(user).map(Some).ok_or(error::PERMISSION_DENIED)
    }

    /// Whether this user may read, or write, all these keys.
    ///
    /// # Errors
    /// No.
    pub fn may(&self, user: &str, span: Span<'_>, write: bool) -> Result<(), Error> {
        let Some(own) = self.known(user)? else {
            return Ok(());
        };
        if own.roles.contains(ROOT) {
            return Ok(());
        }
        let roles = own.roles.iter().filter_map(|role| self.roles.get(role));
        let rights = roles.flatten().filter(|(_, kind)| grants(**kind, write));
        let mut spans: Vec<Span<'_>> = rights.map(|((key, end), _)| Span::of(key, end)).collect();
        if covers(&mut spans, span) { Ok(()) } else { Err(error::PERMISSION_DENIED) }
    }

    /// Begins to ask, with this secret.
    ///
    /// # Errors
    /// There is no root to let anybody in.
    pub fn enable(&mut self, secret: &[u8]) -> Result<(), Error> {
        if self.enabled {
            return Ok(());
        }
        let root = self.users.get(ROOT).ok_or(error::ROOT_USER_NOT_EXIST)?;
        if !root.roles.contains(ROOT) {
            return Err(error::ROOT_ROLE_NOT_EXIST);
        }
        self.enabled = true;
        self.secret = secret.to_vec();
        Ok(())
    }

    /// Asks nobody any more.
    pub fn disable(&mut self) {
        if self.enabled {
            self.enabled = false;
            self.revision += 1;
        }
    }

    /// Adds a user.
    ///
    /// # Errors
    /// The name is empty, taken or too long; or there are too many.
    pub fn add_user(&mut self, name: &str, password: Vec<u8>) -> Result<(), Error> {
        if name.is_empty() {
            return Err(error::USER_EMPTY);
        }
        if self.users.contains_key(name) {
            return Err(error::USER_ALREADY_EXIST);
        }
        if name.len() > NAME_BYTES_MAX || self.users.len() >= USERS_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        self.users.insert(name.to_owned(), User { password, roles: BTreeSet::new() });
        self.revision += 1;
        Ok(())
    }

    /// Takes a user away.
    ///
    /// # Errors
    /// There is none, or it is root.
    pub fn delete_user(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(error::INVALID_AUTH_MANAGEMENT);
        }
        self.users.remove(name).ok_or(error::USER_NOT_FOUND)?;
        self.revision += 1;
        Ok(())
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// There is none.
    pub fn change_password(&mut self, name: &str, password: Vec<u8>) -> Result<(), Error> {
        self.users.get_mut(name).ok_or(error::USER_NOT_FOUND)?.password = password;
        self.revision += 1;
        Ok(())
    }

    /// Gives a user a role.
    ///
    /// # Errors
    /// There is no such user or role, or there are too many.
    pub fn grant_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        let is_known = role == ROOT || self.roles.contains_key(role);
        let user = self.users.get_mut(user).ok_or(error::USER_NOT_FOUND)?;
        if !is_known {
            return Err(error::ROLE_NOT_FOUND);
        }
        if user.roles.len() >= GRANTS_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        if user.roles.insert(role.to_owned()) {
            self.revision += 1;
        }
        Ok(())
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// There is no such user, it has no such role, or it is root's.
    pub fn revoke_role(&mut self, user: &str, role: &str) -> Result<(), Error> {
        if self.enabled && user == ROOT && role == ROOT {
            return Err(error::INVALID_AUTH_MANAGEMENT);
        }
        let user = self.users.get_mut(user).ok_or(error::USER_NOT_FOUND)?;
        if !user.roles.remove(role) {
            return Err(error::ROLE_NOT_GRANTED);
        }
        self.revision += 1;
        Ok(())
    }

    /// Adds a role.
    ///
    /// # Errors
    /// The name is empty, taken or too long; or there are too many.
    pub fn add_role(&mut self, name: &str) -> Result<(), Error> {
        if name.is_empty() {
            return Err(error::ROLE_EMPTY);
        }
        if self.roles.contains_key(name) {
            return Err(error::ROLE_ALREADY_EXIST);
        }
        if name.len() > NAME_BYTES_MAX || self.roles.len() >= USERS_MAX {
            return Err(error::TOO_MANY_REQUESTS);
        }
        self.roles.insert(name.to_owned(), Role::new());
        self.revision += 1;
        Ok(())
    }

    /// Takes a role away, from its users too.
    ///
    /// # Errors
    /// There is none, or it is root.
    pub fn delete_role(&mut self, name: &str) -> Result<(), Error> {
        if self.enabled && name == ROOT {
            return Err(error::INVALID_AUTH_MANAGEMENT);
        }
        self.roles.remove(name).ok_or(error::ROLE_NOT_FOUND)?;
        for user in self.users.values_mut() {
            user.roles.remove(name);
        }
        self.revision += 1;
        Ok(())
    }

    /// Gives a role a right; one of the same range is replaced.
    ///
    /// # Errors
    /// No right was given, there is no such role, or it has too many.
    pub fn grant(&mut self, role: &str, permission: Option<&Permission>) -> Result<(), Error> {
        let permission = permission.ok_or(error::PERMISSION_NOT_GIVEN)?;
        let role = self.roles.get_mut(role).ok_or(error::ROLE_NOT_FOUND)?;
        let range = (permission.key.clone(), permission.range_end.clone());
        if role.len() >= GRANTS_MAX && !role.contains_key(&range) {
            return Err(error::TOO_MANY_REQUESTS);
        }
        role.insert(range, permission.perm_type);
        self.revision += 1;
        Ok(())
    }

    /// Takes a right from a role.
    ///
    /// # Errors
    /// There is no such role, or it has no such right.
    pub fn revoke(&mut self, role: &str, key: &Bytes, end: &Bytes) -> Result<(), Error> {
        let role = self.roles.get_mut(role).ok_or(error::ROLE_NOT_FOUND)?;
        role.remove(&(key.clone(), end.clone())).ok_or(error::PERMISSION_NOT_GRANTED)?;
        self.revision += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_covered_by_what_touches_and_by_nothing_with_a_gap() {
        type Case = (&'static [(&'static str, &'static str)], &'static str, &'static str, bool);
        let cases: [Case; 11] = [
            (&[("a", "")], "a", "", true),
            (&[("a", "")], "a", "b", false),
            (&[("a", "")], "a", "\0", false),
            (&[("a", "b"), ("b", "d")], "a", "d", true),
            (&[("a", "b"), ("c", "d")], "a", "d", false),
            (&[("a", "\0")], "b", "\0", true),
            (&[("b", "\0")], "a", "\0", false),
            (&[("a", "c")], "b", "c", true),
            (&[("a", "c")], "b", "\0", false),
            (&[("a", "c")], "c", "", false),
            (&[("a", ""), ("a\0", "c")], "a", "c", true),
        ];
        for (rights, key, end, may) in cases {
            let mut spans: Vec<Span<'_>> =
                rights.iter().map(|(key, end)| Span::of(key.as_bytes(), end.as_bytes())).collect();
            assert_eq!(covers(&mut spans, Span::of(key.as_bytes(), end.as_bytes())), may, "{rights:?} {key:?} {end:?}");
        }
    }
}

//! Users, roles, passwords and tokens.
//!
//! A password is kept as PBKDF2's output (RFC 8018) under a salt of its own. A token names its user, when it was made, and a signature
//! (HMAC-SHA-256) over both and what is kept of the password, under a secret that all nodes know from the log: so any node takes it, and
//! a changed password ends it.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use coordination::Error;
use coordination::command::Kind;
use coordination::error;
use coordination::proto::{
    AuthRoleGetResponse, AuthRolesResponse, AuthStatusResponse, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthenticateRequest, AuthenticateResponse, NameRequest, Permission, RoleRequest,
};
use parking_lot::Mutex;
use prost::Message;
use ring::{hmac, pbkdf2};
use shard::state::State;

use super::{Door, read};
use crate::access;

/// Rounds of PBKDF2.
const ROUNDS: NonZeroU32 = NonZeroU32::new(20_000).expect("not zero");
/// How long a token is good, in shard time.
const TOKEN_MS: u64 = 3_600_000;

/// Methods of `Auth`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Shows a password for a token.
    Authenticate,
    /// `AuthStatus`.
    Status,
    /// `AuthEnable`.
    Enable,
    /// `UserAdd`.
    UserAdd,
    /// `UserChangePassword`.
    UserPassword,
    /// `UserGet`.
    UserGet,
    /// `UserList`.
    UserList,
    /// `RoleGet`.
    RoleGet,
    /// `RoleList`.
    RoleList,
    /// What goes into the log as it is.
    Plain(Kind),
}

impl Method {
    pub(super) fn of(name: &str) -> Option<Method> {
        Some(match name {
            "Authenticate" => Method::Authenticate,
            "AuthStatus" => Method::Status,
            "AuthEnable" => Method::Enable,
            "AuthDisable" => Method::Plain(Kind::AuthDisable),
            "UserAdd" => Method::UserAdd,
            "UserGet" => Method::UserGet,
            "UserList" => Method::UserList,
            "UserDelete" => Method::Plain(Kind::UserDelete),
            "UserChangePassword" => Method::UserPassword,
            "UserGrantRole" => Method::Plain(Kind::UserGrant),
            "UserRevokeRole" => Method::Plain(Kind::UserRevoke),
            "RoleAdd" => Method::Plain(Kind::RoleAdd),
            "RoleGet" => Method::RoleGet,
            "RoleList" => Method::RoleList,
            "RoleDelete" => Method::Plain(Kind::RoleDelete),
            "RoleGrantPermission" => Method::Plain(Kind::RoleGrant),
            "RoleRevokePermission" => Method::Plain(Kind::RoleRevoke),
            _ => return None,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.len().is_multiple_of(2) { digits.chunks(2).map(byte).collect() } else { None }
}

/// What is kept of a password: `pbkdf2$rounds$salt$output`.
fn keep(password: &str, salt: [u64; 2]) -> String {
    let salt = [salt[0].to_le_bytes(), salt[1].to_le_bytes()].concat();
    let mut out = [0; 32];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, &salt, password.as_bytes(), &mut out);
    format!("pbkdf2${ROUNDS}${}${}", hex(&salt), hex(&out))
}

fn is_it(password: &str, kept: &[u8]) -> bool {
    let parts = || {
        let mut parts = std::str::from_utf8(kept).ok()?.split('$');
        let (_, rounds) = (parts.next()?, parts.next()?.parse().ok()?);
        Some((rounds, unhex(parts.next()?)?, unhex(parts.next()?)?))
    };
    let Some((rounds, salt, out)) = parts() else {
        return false;
    };
    pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA256, rounds, &salt, password.as_bytes(), &out).is_ok()
}

fn signed(user: &str, made: u64, kept: &[u8]) -> Vec<u8> {
    [user.as_bytes(), &[0], &made.to_le_bytes(), kept].concat()
}

/// Begins what is kept of a password that is not etcd's own.
const SHARED: u8 = 0;

/// What is kept of a user's password. Of one that was added without (`--no-password`), what the access control list (ACL SETUSER) has of the
/// user of that name: so that one password serves all doors, and a token ends with it.
fn kept_of(state: &State, name: &str) -> Option<Vec<u8>> {
    let own = state.coordination().auth().users.get(name)?;
    if !own.password.is_empty() {
        return Some(own.password.clone());
    }
    let shared = state.users().get(name.as_bytes()).filter(|user| user.enabled && !user.nopass);
    let digests = shared.map(|user| user.passwords.iter().flat_map(|password| password.digest));
    Some(digests.map_or_else(Vec::new, |digests| std::iter::once(SHARED).chain(digests).collect()))
}

impl Door {
    /// Whose a token is; empty where nobody is asked, or none was shown.
    pub(super) fn user(&self, token: Option<&str>) -> Result<String, Error> {
        let now = self.registry.shard().now(self.world.now());
        let state = self.registry.shard().state();
        let auth = state.coordination().auth();
        let Some(token) = token.filter(|_| auth.enabled) else {
            return Ok(String::new());
        };
        let user = || {
            let mut parts = token.rsplitn(3, '.');
            let (signature, made) = (unhex(parts.next()?)?, parts.next()?.parse::<u64>().ok()?);
            let user = parts.next()?;
            let kept = &kept_of(&state, user)?;
            let key = hmac::Key::new(hmac::HMAC_SHA256, &auth.secret);
            hmac::verify(&key, &signed(user, made, kept), &signature).ok()?;
            (now < made.saturating_add(TOKEN_MS)).then(|| user.to_owned())
        };
        user().ok_or_else(|| {
            self.counters.auth_failures.fetch_add(1, Ordering::Relaxed);
            error::INVALID_AUTH_TOKEN
        })
    }

    async fn kept(&self, password: String, is_none: bool) -> String {
        if is_none {
            return String::new();
        }
        let salt = [self.world.random(), self.world.random()];
        let kept = Arc::new(Mutex::new(String::new()));
        let there = kept.clone();
        self.world.aside(Box::new(move || *there.lock() = keep(&password, salt))).await;
        std::mem::take(&mut *kept.lock())
    }

    pub(super) async fn auth(&self, method: Method, user: &str, request: Bytes) -> Result<Vec<u8>, Error> {
        match method {
            Method::Authenticate => self.authenticate(read(request)?).await,
            Method::Status => self.look(|state| {
                let auth = state.auth();
                let (enabled, auth_revision) = (auth.enabled, auth.revision);
                Ok(AuthStatusResponse { header: None, enabled, auth_revision }.encode_to_vec())
            }),
            Method::Enable => {
                let secret: Vec<u8> = (0..4).flat_map(|_| self.world.random().to_le_bytes()).collect();
                self.propose(Kind::AuthEnable, user, &secret).await
            }
            Method::UserAdd => {
                let mut request: AuthUserAddRequest = read(request)?;
                let is_none = request.options.as_ref().is_some_and(|options| options.no_password);
                request.hashed_password = self.kept(std::mem::take(&mut request.password), is_none).await;
                self.propose(Kind::UserAdd, user, &request.encode_to_vec()).await
            }
            Method::UserPassword => {
                let mut request: AuthUserChangePasswordRequest = read(request)?;
                request.hashed_password = self.kept(std::mem::take(&mut request.password), false).await;
                self.propose(Kind::UserPassword, user, &request.encode_to_vec()).await
            }
            Method::UserGet => {
                let request: NameRequest = read(request)?;
                self.registry.fresh().await;
                self.look(|state| {
                    let auth = state.auth();
                    if auth.known(user)?.is_none() || user != request.name {
                        auth.admin(user)?;
                    }
                    let own = auth.users.get(&request.name).ok_or(error::USER_NOT_FOUND)?;
                    let roles = own.roles.iter().cloned().collect();
                    Ok(AuthRolesResponse { header: None, roles }.encode_to_vec())
                })
            }
            Method::UserList => {
                self.registry.fresh().await;
                self.look(|state| {
                    state.auth().admin(user)?;
                    let roles = state.auth().users.keys().cloned().collect();
                    Ok(AuthRolesResponse { header: None, roles }.encode_to_vec())
                })
            }
            Method::RoleGet => {
                let request: RoleRequest = read(request)?;
                self.registry.fresh().await;
                self.look(|state| {
                    let auth = state.auth();
                    if !auth.known(user)?.is_some_and(|own| own.roles.contains(&request.role)) {
                        auth.admin(user)?;
                    }
                    let role = match auth.roles.get(&request.role) {
                        Some(role) => role,
                        None => return Err(error::ROLE_NOT_FOUND),
                    };
                    let perm = role.iter().map(|((key, range_end), kind)| Permission {
                        perm_type: *kind,
                        key: key.clone(),
                        range_end: range_end.clone(),
                    });
                    Ok(AuthRoleGetResponse { header: None, perm: perm.collect() }.encode_to_vec())
                })
            }
            Method::RoleList => {
                self.registry.fresh().await;
                self.look(|state| {
                    state.auth().admin(user)?;
                    let roles = state.auth().roles.keys().cloned().collect();
                    Ok(AuthRolesResponse { header: None, roles }.encode_to_vec())
                })
            }
            Method::Plain(kind) => self.propose(kind, user, &request).await,
        }
    }

    async fn authenticate(&self, request: AuthenticateRequest) -> Result<Vec<u8>, Error> {
        self.registry.fresh().await;
        let (secret, kept) = {
            let state = self.registry.shard().state();
            let auth = state.coordination().auth();
            if !auth.enabled {
                return Err(error::AUTH_NOT_ENABLED);
            }
            (auth.secret.clone(), kept_of(&state, &request.name))
        };
        let kept = kept.unwrap_or_default();
        let shared = self.registry.shard().state().users().get(request.name.as_bytes()).cloned();
        let (name, verdict) = (request.name, Arc::new(Mutex::new(false)));
        let (there, known) = (verdict.clone(), kept.clone());
        self.world
            .aside(Box::new(move || {
                *there.lock() = match shared {
                    // etcd's own user of that name has no password: it is the one of the access control list.
                    Some(user) if known.first() == Some(&SHARED) => {
                        access::is_right(&user, request.password.as_bytes())
                    }
                    _ => is_it(&request.password, &known),
                }
            }))
            .await;
        if !*verdict.lock() {
            self.counters.auth_failures.fetch_add(1, Ordering::Relaxed);
            return Err(error::AUTH_FAILED);
        }
        let made = self.registry.shard().now(self.world.now());
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        let signature = hmac::sign(&key, &signed(&name, made, &kept));
        let token = format!("{name}.{made}.{}", hex(signature.as_ref()));
        self.look(|_| Ok(AuthenticateResponse { header: None, token }.encode_to_vec()))
    }
}

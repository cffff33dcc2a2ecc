//! The stored form of everything, within a snapshot.
//!
//! ```text
//!   books    version:u8=1  revision compacted swept: u64 each  renews:u8  leases  auth
//!   leases   count (id:u64 seconds:u64 until:varint)*
//!   auth     enabled:u8 revision secret  users (name password roles)*  roles (name (key end kind:u8)*)*
//!   record   key  main sub create version lease: varints, lease as u64  value
//! ```

use bytes::Bytes;
use store::codec::{Corrupt, Input, put_bytes, put_u64, put_varint};

use crate::auth::{Auth, Role, User};
use crate::lease::Leases;
use crate::store::Version;

pub(crate) const VERSION: u8 = 1;

pub(crate) fn put_leases(leases: &Leases, out: &mut Vec<u8>) {
    put_varint(out, leases.len() as u64);
    for (id, lease) in leases.all() {
        put_u64(out, id as u64);
        put_u64(out, lease.seconds as u64);
        put_varint(out, lease.until);
    }
}

pub(crate) fn read_leases(input: &mut Input<'_>) -> Result<Leases, Corrupt> {
    let mut leases = Leases::default();
    for _ in 0..input.count()? {
        let (id, seconds) = (input.u64()? as i64, input.u64()? as i64);
        leases.insert(id, seconds, input.varint()?);
    }
    Ok(leases)
}

fn text(input: &mut Input<'_>) -> Result<String, Corrupt> {
    let text = std::str::from_utf8(input.bytes()?).map_err(|_| Corrupt("a text that is not UTF-8"))?;
    Ok(text.to_owned())
}

pub(crate) fn put_auth(auth: &Auth, out: &mut Vec<u8>) {
    let Auth { enabled, revision, secret, users, roles } = auth;
    out.push(u8::from(*enabled));
    put_varint(out, *revision);
    put_bytes(out, secret);
    put_varint(out, users.len() as u64);
    for (name, user) in users {
        put_bytes(out, name.as_bytes());
        put_bytes(out, &user.password);
        put_varint(out, user.roles.len() as u64);
        user.roles.iter().for_each(|role| put_bytes(out, role.as_bytes()));
    }
    put_varint(out, roles.len() as u64);
    for (name, role) in roles {
        put_bytes(out, name.as_bytes());
        put_varint(out, role.len() as u64);
        for ((key, end), kind) in role {
            put_bytes(out, key);
            put_bytes(out, end);
            put_varint(out, *kind as u32 as u64);
        }
    }
}

pub(crate) fn read_auth(input: &mut Input<'_>) -> Result<Auth, Corrupt> {
    let mut auth = Auth { enabled: input.u8()? != 0, revision: input.varint()?, ..Auth::default() };
    auth.secret = input.bytes()?.to_vec();
    for _ in 0..input.count()? {
        let name = text(input)?;
        let mut user = User { password: input.bytes()?.to_vec(), ..User::default() };
        for _ in 0..input.count()? {
            user.roles.insert(text(input)?);
        }
        auth.users.insert(name, user);
    }
    for _ in 0..input.count()? {
        let name = text(input)?;
        let mut role = Role::new();
        for _ in 0..input.count()? {
            let range = (Bytes::copy_from_slice(input.bytes()?), Bytes::copy_from_slice(input.bytes()?));
            role.insert(range, input.varint()? as u32 as i32);
        }
        auth.roles.insert(name, role);
    }
    Ok(auth)
}

pub(crate) fn put_record(key: &[u8], version: &Version, out: &mut Vec<u8>) {
    put_bytes(out, key);
    put_varint(out, version.main as u64);
    put_varint(out, u64::from(version.sub));
    put_varint(out, version.create as u64);
    put_varint(out, version.version as u64);
    put_u64(out, version.lease as u64);
    put_bytes(out, &version.value);
}

pub(crate) fn read_record<'a>(input: &mut Input<'a>) -> Result<(&'a [u8], Version), Corrupt> {
    let key = input.bytes()?;
    let main = input.varint()? as i64;
    let sub = u32::try_from(input.varint()?).map_err(|_| Corrupt("a number is too large"))?;
    let (create, version, lease) = (input.varint()? as i64, input.varint()? as i64, input.u64()? as i64);
    Ok((key, Version { main, sub, create, version, lease, value: Bytes::copy_from_slice(input.bytes()?) }))
}

//! All of it together: what an entry does, in which order, and how it goes into a snapshot and back.

use base::Millis;
use prost::Message;
use store::codec::{Corrupt, Input, put_u64};

use crate::auth::Auth;
use crate::command::{Answer, Command, Kind, Outcome};
use crate::error::{self, Error};
use crate::form;
use crate::lease::Leases;
use crate::limits::STORE_BYTES_MAX;
use crate::proto::{
    AuthRoleGrantPermissionRequest, AuthRoleRevokePermissionRequest, AuthUserAddRequest, AuthUserChangePasswordRequest,
    AuthUserRoleRequest, CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveResponse, LeaseRequest, NameRequest, PutRequest, RangeRequest, RangeResponse, RequestKind,
    RoleRequest, TxnRequest, TxnResponse, UserRevokeRoleRequest,
};
use crate::span::Span;
use crate::store::Store;
use crate::txn::{self, Writing};

/// Leases that one entry ends at most.
const EXPIRED_AT_ONCE_MAX: usize = 1000;

/// See the [crate].
#[derive(Debug, Default)]
pub struct Coordination {
    store: Store,
    leases: Leases,
    auth: Auth,
    /// Whether there is a new leader, so that all leases are prolonged before anything else.
    renews: bool,
}

fn read<M: Message + Default>(request: &[u8]) -> Result<M, Error> {
    // The door has read it before.
    txn::read(request).ok_or(error::BUG)
}

fn puts(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(RequestKind::Put(_)) => true,
        Some(RequestKind::Txn(txn)) => puts(txn),
        _ => false,
    })
}

impl Coordination {
    /// Keys.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Puts bugs in.
    #[cfg(any(test, feature = "planted"))]
    pub fn plant(&mut self, bugs: crate::store::Planted) {
        self.store.planted = bugs;
    }

    /// Leases.
    pub fn leases(&self) -> &Leases {
        &self.leases
    }

    /// Users and roles.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Whether nothing was ever done here.
    pub fn is_empty(&self) -> bool {
        self.store.is_empty() && self.leases.is_empty() && self.auth == Auth::default() && self.store.compacted() < 0
    }

    /// When something ends by itself.
    pub fn next_due(&self) -> Option<Millis> {
        self.leases.next_due()
    }

    /// There is a new leader.
    pub fn new_leader(&mut self) {
        self.renews = !self.leases.is_empty();
    }

    /// Applies a command at this shard time.
    ///
    /// # Errors
    /// Nothing was done, and why.
    pub fn apply(&mut self, command: &Command<'_>, now: Millis) -> Outcome {
        if std::mem::take(&mut self.renews) {
            self.leases.prolong_all(now);
        }
        let body = self.run(command, now);
        self.store.end();
        self.store.sweep();
        Ok(Answer { revision: self.store.revision(), body: body? })
    }

    fn run(&mut self, command: &Command<'_>, now: Millis) -> Result<Vec<u8>, Error> {
        let Command { kind, user, request } = *command;
        let mut writing = Writing { store: &mut self.store, leases: &mut self.leases };
        match kind {
            Kind::Put => {
                let request: PutRequest = read(request)?;
                txn::check_put(&request)?;
                txn::may_put(&self.auth, writing.leases, user, &request)?;
                Self::check_room(writing.store)?;
                let mut response = writing.put(&request)?;
                response.header = None;
                Ok(response.encode_to_vec())
            }
            Kind::Delete => {
                let request: DeleteRangeRequest = read(request)?;
                txn::check_delete(&request)?;
                txn::may_delete(&self.auth, user, &request)?;
                let mut response = writing.delete(&request)?;
                response.header = None;
                Ok(response.encode_to_vec())
            }
            Kind::Txn => {
                txn::check_form(request)?;
                let request: TxnRequest = read(request)?;
                txn::check_txn(&request)?;
                txn::may_txn(&self.auth, writing.leases, user, &request)?;
                if puts(&request) {
                    Self::check_room(writing.store)?;
                }
                let mut response = writing.txn(&request)?;
                response.header = None;
                Ok(response.encode_to_vec())
            }
            Kind::Compact => {
                self.auth.known(user)?;
                let request: CompactionRequest = read(request)?;
                self.store.compact(request.revision)?;
                Ok(Vec::new())
            }
            Kind::Grant => {
                self.auth.known(user)?;
                Self::check_room(writing.store)?;
                let request: LeaseGrantRequest = read(request)?;
                let ttl = writing.leases.grant(request.id, request.ttl, now)?;
                Ok(LeaseGrantResponse { id: request.id, ttl, ..LeaseGrantResponse::default() }.encode_to_vec())
            }
            Kind::Revoke => {
                self.auth.known(user)?;
                let request: LeaseRequest = read(request)?;
                txn::may_use_lease(&self.auth, writing.leases, user, request.id)?;
                writing.revoke(request.id)?;
                Ok(Vec::new())
            }
            Kind::KeepAlive => {
                self.auth.known(user)?;
                let request: LeaseRequest = read(request)?;
                #[cfg(any(test, feature = "planted"))]
                let now = if writing.store.planted.renewals_forgotten { 0 } else { now };
                let ttl = writing.leases.prolong(request.id, now);
                Ok(LeaseKeepAliveResponse { id: request.id, ttl, ..LeaseKeepAliveResponse::default() }.encode_to_vec())
            }
            Kind::Expire => {
                for _ in 0..EXPIRED_AT_ONCE_MAX {
                    let Some(id) = writing.leases.overdue(now) else {
                        break;
                    };
                    writing.revoke(id)?;
                    writing.store.end();
                }
                Ok(Vec::new())
            }
            _ => self.change_auth(kind, user, request).map(|()| Vec::new()),
        }
    }

    fn check_room(store: &Store) -> Result<(), Error> {
        if store.bytes().0 >= STORE_BYTES_MAX { Err(error::NO_SPACE) } else { Ok(()) }
    }

    fn change_auth(&mut self, kind: Kind, user: &str, request: &[u8]) -> Result<(), Error> {
        let auth = &mut self.auth;
        auth.admin(user)?;
        match kind {
            Kind::AuthEnable => auth.enable(request),
            Kind::AuthDisable => {
                auth.disable();
                Ok(())
            }
            Kind::UserAdd => {
                let request: AuthUserAddRequest = read(request)?;
                auth.add_user(&request.name, request.hashed_password.into_bytes())
            }
            Kind::UserDelete => auth.delete_user(&read::<NameRequest>(request)?.name),
            Kind::UserPassword => {
                let request: AuthUserChangePasswordRequest = read(request)?;
                auth.change_password(&request.name, request.hashed_password.into_bytes())
            }
            Kind::UserGrant => {
                let request: AuthUserRoleRequest = read(request)?;
                auth.grant_role(&request.user, &request.role)
            }
            Kind::UserRevoke => {
                let request: UserRevokeRoleRequest = read(request)?;
                auth.revoke_role(&request.name, &request.role)
            }
            Kind::RoleAdd => auth.add_role(&read::<NameRequest>(request)?.name),
            Kind::RoleDelete => auth.delete_role(&read::<RoleRequest>(request)?.role),
            Kind::RoleGrant => {
                let request: AuthRoleGrantPermissionRequest = read(request)?;
                auth.grant(&request.name, request.perm.as_ref())
            }
            Kind::RoleRevoke => {
                let request: AuthRoleRevokePermissionRequest = read(request)?;
                auth.revoke(&request.role, &request.key, &request.range_end)
            }
            _ => Err(error::BUG),
        }
    }

    // ---- reading ---------------------------------------------------------------------------------------------------

    /// Reads a range for a user.
    ///
    /// # Errors
    /// The request is wrong, the user may not, or the revision cannot be read.
    pub fn range(&self, user: &str, request: &RangeRequest) -> Result<RangeResponse, Error> {
        txn::check_range(request)?;
        self.auth.may(user, Span::of(&request.key, &request.range_end), false)?;
        txn::range(&self.store, request)
    }

    /// Runs a transaction that changes nothing.
    ///
    /// # Errors
    /// Like [`Coordination::range`].
    pub fn txn_read(&self, user: &str, request: &TxnRequest) -> Result<TxnResponse, Error> {
        txn::may_txn(&self.auth, &self.leases, user, request)?;
        txn::txn_read(&self.store, request)
    }

    /// A number over all that can be read at a revision, 0 for now.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn hash(&self, revision: i64) -> Result<u32, Error> {
        let found = self.store.range(Span::of(b"\0", b"\0"), revision, 0, false)?;
        // FNV-1a.
        let mut hash = 0x811C_9DC5_u32;
        let mut form = Vec::new();
        for (key, version) in found.keys {
            form.clear();
            form::put_record(key, version, &mut form);
            for byte in &form {
                hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
            }
        }
        Ok(hash)
    }

    /// Appends a copy of all: the books, then the keys that exist as records of one version each. See [`Coordination::read_copy`].
    ///
    /// # Errors
    /// Never, where the state is sound.
    pub fn copy(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.encode_books(out);
        let found = self.store.range(Span::of(b"\0", b"\0"), 0, 0, false)?;
        for (key, version) in found.keys {
            form::put_record(key, version, out);
        }
        Ok(())
    }

    /// Reads such a copy: each key and its value.
    ///
    /// # Errors
    /// Damage, or a version that this build does not know.
    pub fn read_copy(copy: &[u8], mut take: impl FnMut(&[u8], &bytes::Bytes)) -> Result<i64, Corrupt> {
        let mut input = Input::new(copy);
        let books = Coordination::read_books(&mut input)?;
        while !input.is_empty() {
            let (key, version) = form::read_record(&mut input)?;
            take(key, &version.value);
        }
        Ok(books.store.revision())
    }

    // ---- snapshots -------------------------------------------------------------------------------------------------

    /// Begins a snapshot: appends all but the keys, which [`Coordination::walk`] gives.
    pub fn begin_walk(&mut self, out: &mut Vec<u8>) {
        self.encode_books(out);
        self.store.begin_walk();
    }

    fn encode_books(&self, out: &mut Vec<u8>) {
        out.push(form::VERSION);
        self.store.books().iter().for_each(|number| put_u64(out, *number as u64));
        out.push(u8::from(self.renews));
        form::put_leases(&self.leases, out);
        form::put_auth(&self.auth, out);
    }

    /// Goes on, by about so many bytes. True at the end.
    pub fn walk(&mut self, bytes: usize, out: &mut Vec<u8>) -> bool {
        let begun = out.len();
        self.store.walk(|key, version| {
            form::put_record(key, version, out);
            out.len() - begun < bytes
        })
    }

    /// Ends a snapshot early.
    pub fn abort_walk(&mut self) {
        self.store.abort_walk();
    }

    /// Reads what [`Coordination::begin_walk`] wrote.
    ///
    /// # Errors
    /// Damage, or a version that this build does not know.
    pub fn read_books(input: &mut Input<'_>) -> Result<Coordination, Corrupt> {
        if input.u8()? != form::VERSION {
            return Err(Corrupt("etcd's keys of a version that this build does not know"));
        }
        let books = [input.u64()? as i64, input.u64()? as i64, input.u64()? as i64];
        let renews = input.u8()? != 0;
        let (leases, auth) = (form::read_leases(input)?, form::read_auth(input)?);
        Ok(Coordination { store: Store::of_books(books), leases, auth, renews })
    }

    /// Takes records of [`Coordination::walk`] in; tells how many.
    ///
    /// # Errors
    /// Damage.
    pub fn restore(&mut self, records: &[u8]) -> Result<usize, Corrupt> {
        let (mut input, mut count) = (Input::new(records), 0);
        while !input.is_empty() {
            let (key, version) = form::read_record(&mut input)?;
            self.store.restore(key, version);
            count += 1;
        }
        Ok(count)
    }

    /// After the last: builds what is not stored.
    pub fn finish_restore(&mut self) {
        self.store.finish_restore();
        #[cfg(any(test, feature = "planted"))]
        if self.store.planted.attachments_forgotten {
            return;
        }
        for (key, lease) in self.store.leased() {
            self.leases.attach(key, 0, lease);
        }
    }
}

#[cfg(test)]
mod tests;

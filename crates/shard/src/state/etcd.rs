//! etcd's keys within the state machine: a command is a unit, its answer the outcome's form.
//!
//! Keys that the registry calls configuration (`discovery::config`) are held against their schemas here, where both rooms are.

use std::panic::{AssertUnwindSafe, catch_unwind};

use coordination::command::Kind;
use coordination::error::{Error, code};
use coordination::proto::{PutRequest, RequestKind, TxnRequest};
use coordination::{Command, Coordination, command, error, txn};
use discovery::config::{Config, Space};

use super::State;
use crate::reply::Reply;

impl State {
    /// etcd's keys, leases and users, as of the last entry: the meta group's; empty in any other.
    pub fn coordination(&self) -> &Coordination {
        &self.coordination
    }

    /// Applies a command of etcd's. A panic of ours ends it with an error, on every replica alike.
    pub(super) fn etcd_command(&mut self, command: &Command<'_>, reply: &mut Reply) {
        #[cfg(any(test, feature = "planted"))]
        self.coordination.plant(self.planted.coordination);
        let (own, now) = (&mut self.coordination, self.stamp);
        let config = self.catalog.config_mut();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            if !config.has_rules(Space::Etcd) {
                return own.apply(command, now);
            }
            check(config, own, command)?;
            let before = own.store().revision();
            let outcome = own.apply(command, now);
            note(config, own, command, before, now);
            outcome
        }))
        .unwrap_or_else(|_| {
            self.panics += 1;
            Err(error::BUG)
        });
        command::put_outcome(&outcome, &mut reply.bytes);
    }
}

/// Holds every value of a command against its schema, of a transaction's branches that are not taken too. What the user may not write anyway is
/// left to be refused as that.
fn check(config: &Config, own: &Coordination, command: &Command<'_>) -> Result<(), Error> {
    let (auth, leases, user) = (own.auth(), own.leases(), command.user);
    let fits = match command.kind {
        Kind::Put => txn::read(command.request)
            .filter(|request| txn::may_put(auth, leases, user, request).is_ok())
            .map_or(Ok(()), |request| fits(config, &request)),
        // A form that is too large to be read is refused for that.
        Kind::Txn if txn::check_form(command.request).is_ok() => txn::read(command.request)
            .filter(|request| txn::may_txn(auth, leases, user, request).is_ok())
            .map_or(Ok(()), |request| all_fit(config, &request)),
        _ => Ok(()),
    };
    fits.map_err(|why| Error::of(code::INVALID_ARGUMENT, format!("etcdserver: {why}")))
}

fn fits(config: &Config, request: &PutRequest) -> Result<(), String> {
    if request.ignore_value { Ok(()) } else { config.check(Space::Etcd, &request.key, &request.value) }
}

fn all_fit(config: &Config, request: &TxnRequest) -> Result<(), String> {
    request.success.iter().chain(&request.failure).try_for_each(|op| match &op.request {
        Some(RequestKind::Put(put)) => fits(config, put),
        Some(RequestKind::Txn(txn)) => all_fit(config, txn),
        _ => Ok(()),
    })
}

/// Has configuration remember what has changed since a revision.
fn note(config: &mut Config, own: &Coordination, command: &Command<'_>, before: i64, now: base::Millis) {
    let who = match (command.kind, command.user) {
        (Kind::Expire, _) => "a lease that ended".to_owned(),
        (_, "") => "etcd".to_owned(),
        (_, user) => format!("etcd {user}"),
    };
    for change in own.store().changes(before + 1) {
        let Some((is, was)) = own.store().change(change) else { continue };
        let value = |version: &coordination::store::Version| (!version.is_tombstone()).then(|| version.value.clone());
        let values = [was.and_then(value), value(is)];
        let values = values.each_ref().map(|value| value.as_deref());
        config.note(Space::Etcd, &change.key, &who, now, change.main as u64, values);
    }
}

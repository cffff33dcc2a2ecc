//! Reads, writes and transactions on a store with its leases: what etcd's `apply` does, in its order.
//!
//! All compares of a transaction, of nested ones too, look at what was before it; then whatever the branches taken want is checked, and
//! only then is anything done.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::auth::Auth;
use crate::error::{self, Error};
use crate::lease::Leases;
use crate::limits::{TXN_OPS_MAX, TXN_OPS_TOTAL_MAX};
use crate::proto::{
    Compare, CompareWith, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest,
    RangeResponse, RequestKind, RequestOp, ResponseHeader, ResponseKind, ResponseOp, TxnRequest, TxnResponse, compare,
    sort,
};
use crate::span::Span;
use crate::store::{Store, Version};

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader { revision, ..ResponseHeader::default() })
}

// ---- what is wrong with a request, whatever the state ---------------------------------------------------------------

/// Bounds a transaction before it is read into memory, where an empty operation takes a hundred times its two bytes.
///
/// # Errors
/// Too many operations, or damage.
pub fn check_form(mut request: &[u8]) -> Result<(), Error> {
    fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u32, Option<&'a [u8]>)> {
        let (tag, wire) = decode_key(bytes).ok()?;
        if wire == WireType::LengthDelimited {
            let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
            let (inner, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            return Some((tag, Some(inner)));
        }
        skip_field(wire, tag, bytes, DecodeContext::default()).ok()?;
        Some((tag, None))
    }
    fn txn(bytes: &mut &[u8], depth: usize, total: &mut usize) -> Result<(), Error> {
        const DAMAGED: Error = Error::new(error::code::INTERNAL, "grpc: failed to unmarshal the received message");
        let mut counts = [0; 3];
        while !bytes.is_empty() {
            let (tag, inner) = field(bytes).ok_or(DAMAGED)?;
            let (1..=3, Some(mut op)) = (tag, inner) else {
                continue;
            };
            counts[tag as usize - 1] += 1;
            *total += 1;
            if *total > TXN_OPS_TOTAL_MAX || counts[tag as usize - 1] > TXN_OPS_MAX {
                return Err(error::TOO_MANY_OPS);
            }
            while tag > 1 && !op.is_empty() {
                if let (4, Some(mut inner)) = field(&mut op).ok_or(DAMAGED)? {
                    if depth == 0 {
                        return Err(error::TOO_MANY_OPS);
                    }
                    txn(&mut inner, depth - 1, total)?;
                }
            }
        }
        Ok(())
    }
    // Deeper than this the messages' reader refuses (a transaction in an operation is two levels).
    txn(&mut request, 40, &mut 0)
}

/// Checks a read.
///
/// # Errors
/// No key, or an order that there is not.
pub fn check_range(request: &RangeRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    if !(0..=2).contains(&request.sort_order) || !(0..=4).contains(&request.sort_target) {
        return Err(error::INVALID_SORT);
    }
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// No key, or what is to be ignored is given.
pub fn check_put(request: &PutRequest) -> Result<(), Error> {
    if request.key.is_empty() {
        return Err(error::EMPTY_KEY);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(error::VALUE_PROVIDED);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(error::LEASE_PROVIDED);
    }
    Ok(())
}

/// Checks a deletion.
///
/// # Errors
/// No key.
pub fn check_delete(request: &DeleteRangeRequest) -> Result<(), Error> {
    if request.key.is_empty() { Err(error::EMPTY_KEY) } else { Ok(()) }
}

/// Checks a transaction.
///
/// # Errors
/// Too many operations, one that is wrong by itself, or two that change one key.
pub fn check_txn(request: &TxnRequest) -> Result<(), Error> {
    check_ops(request, TXN_OPS_MAX)?;
    check_keys(&request.success)?;
    check_keys(&request.failure)?;
    Ok(())
}

fn check_ops(request: &TxnRequest, most: usize) -> Result<(), Error> {
    let count = request.compare.len().max(request.success.len()).max(request.failure.len());
    if count > most {
        return Err(error::TOO_MANY_OPS);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(error::EMPTY_KEY);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(RequestKind::Range(range)) => check_range(range)?,
            Some(RequestKind::Put(put)) => check_put(put)?,
            Some(RequestKind::Delete(delete)) => check_delete(delete)?,
            Some(RequestKind::Txn(txn)) => check_ops(txn, most - count)?,
            None => return Err(error::KEY_NOT_FOUND),
        }
    }
    Ok(())
}

/// What a list of operations puts and deletes.
#[derive(Default)]
struct Touched<'a> {
    puts: std::collections::BTreeSet<&'a [u8]>,
    deletes: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Touched<'a> {
    /// An end of `\0` is none, where etcd overlooks it here; so nothing that is put has been deleted before.
    fn deletes(&self, key: &[u8]) -> bool {
        self.deletes.iter().any(|(from, end)| Span::of(from, end).has(key))
    }

    fn put(&mut self, key: &'a [u8], other: Option<&std::collections::BTreeSet<&'a [u8]>>) -> Result<(), Error> {
        let is_there = self.puts.contains(key) && !other.is_some_and(|other| other.contains(key));
        if is_there || self.deletes(key) {
            return Err(error::DUPLICATE_KEY);
        }
        self.puts.insert(key);
        Ok(())
    }
}

fn check_keys(ops: &[RequestOp]) -> Result<Touched<'_>, Error> {
    let mut touched = Touched::default();
    for op in ops {
        if let Some(RequestKind::Delete(delete)) = &op.request {
            touched.deletes.push((&delete.key, &delete.range_end));
        }
    }
    for op in ops {
        if let Some(RequestKind::Txn(txn)) = &op.request {
            let then = check_keys(&txn.success)?;
            let otherwise = check_keys(&txn.failure)?;
            for key in &then.puts {
                touched.put(key, None)?;
            }
            for key in &otherwise.puts {
                // Only one of the two happens.
                touched.put(key, Some(&then.puts))?;
            }
            touched.deletes.extend(then.deletes);
            touched.deletes.extend(otherwise.deletes);
        }
    }
    for op in ops {
        if let Some(RequestKind::Put(put)) = &op.request {
            touched.put(&put.key, None)?;
        }
    }
    Ok(touched)
}

/// Whether a transaction changes nothing, whichever way it goes.
pub fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(RequestKind::Range(_)) => true,
        Some(RequestKind::Txn(txn)) => is_read_only(txn),
        _ => false,
    })
}

/// Whether all its reads may be stale.
pub fn is_serializable(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| match &op.request {
        Some(RequestKind::Range(range)) => range.serializable,
        Some(RequestKind::Txn(txn)) => is_serializable(txn),
        _ => true,
    })
}

// ---- who may --------------------------------------------------------------------------------------------------------

/// Whether a user may put this. Taking a key's lease over is a matter of all keys of that lease.
pub fn may_put(auth: &Auth, leases: &Leases, user: &str, request: &PutRequest) -> Result<(), Error> {
    if !auth.enabled {
        return Ok(());
    }
    let span = Span::of(&request.key, &[]);
    auth.may(user, span, true)?;
    if request.prev_kv {
        auth.may(user, span, false)?;
    }
    may_use_lease(auth, leases, user, request.lease)
}

/// Whether a user may end, or use, a lease: who may write all its keys.
pub fn may_use_lease(auth: &Auth, leases: &Leases, user: &str, lease: i64) -> Result<(), Error> {
    for key in leases.get(lease).into_iter().flat_map(|lease| &lease.keys) {
        auth.may(user, Span::of(key, &[]), true)?;
    }
    Ok(())
}

/// Whether a user may delete this.
pub fn may_delete(auth: &Auth, user: &str, request: &DeleteRangeRequest) -> Result<(), Error> {
    let span = Span::of(&request.key, &request.range_end);
    auth.may(user, span, true)?;
    if request.prev_kv { auth.may(user, span, false) } else { Ok(()) }
}

/// Whether a user may do all that a transaction might come to, at whatever depth.
pub fn may_txn(auth: &Auth, leases: &Leases, user: &str, request: &TxnRequest) -> Result<(), Error> {
    if !auth.enabled {
        return Ok(());
    }
    auth.known(user)?;
    for compare in &request.compare {
        auth.may(user, Span::of(&compare.key, &compare.range_end), false)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(RequestKind::Range(range)) => auth.may(user, Span::of(&range.key, &range.range_end), false)?,
            Some(RequestKind::Put(put)) => may_put(auth, leases, user, put)?,
            Some(RequestKind::Delete(delete)) => may_delete(auth, user, delete)?,
            Some(RequestKind::Txn(txn)) => may_txn(auth, leases, user, txn)?,
            None => {}
        }
    }
    Ok(())
}

// ---- reading --------------------------------------------------------------------------------------------------------

/// Reads a range; the header holds the revision.
///
/// # Errors
/// The revision is compacted, or in the future.
pub fn range(store: &Store, request: &RangeRequest) -> Result<RangeResponse, Error> {
    let filters =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    let is_whole = request.sort_order != sort::NONE || filters.iter().any(|bound| *bound != 0);
    let limit = usize::try_from(request.limit).unwrap_or(0);
    let fetched = if is_whole || limit == 0 { 0 } else { limit.saturating_add(1) };
    let span = Span::of(&request.key, &request.range_end);
    let mut found = store.range(span, request.revision, fetched, request.count_only)?;
    let [min_mod, max_mod, min_create, max_create] = filters;
    if is_whole {
        found.keys.retain(|(_, version)| {
            (max_mod == 0 || version.main <= max_mod)
                && (min_mod == 0 || version.main >= min_mod)
                && (max_create == 0 || version.create <= max_create)
                && (min_create == 0 || version.create >= min_create)
        });
    }
    match request.sort_target {
        sort::VERSION => found.keys.sort_by_key(|(_, version)| version.version),
        sort::CREATE => found.keys.sort_by_key(|(_, version)| version.create),
        sort::MOD => found.keys.sort_by_key(|(_, version)| version.main),
        sort::VALUE => found.keys.sort_by(|(_, one), (_, other)| one.value.cmp(&other.value)),
        _ => {}
    }
    if request.sort_order == sort::DESCEND {
        found.keys.reverse();
    }
    let more = limit > 0 && found.keys.len() > limit;
    if more {
        found.keys.truncate(limit);
    }
    let kvs = found.keys.iter().map(|(key, version)| {
        let mut kv = version.to_proto(key);
        if request.keys_only {
            kv.value = Bytes::new();
        }
        kv
    });
    Ok(RangeResponse { header: header(found.revision), kvs: kvs.collect(), more, count: found.count })
}

fn holds(compare: &Compare, version: Option<&Version>) -> bool {
    let (mut main, mut create, mut count, mut lease, mut value) = (0, 0, 0, 0, &[][..]);
    if let Some(version) = version {
        (main, create, count, lease) = (version.main, version.create, version.version, version.lease);
        value = &version.value;
    }
    let number = match compare.target_union {
        Some(CompareWith::Version(number)) if compare.target == compare::VERSION => number,
        Some(CompareWith::Create(number)) if compare.target == compare::CREATE => number,
        Some(CompareWith::Mod(number)) if compare.target == compare::MOD => number,
        Some(CompareWith::Lease(number)) if compare.target == compare::LEASE => number,
        _ => 0,
    };
    let order = match compare.target {
        compare::VALUE => match &compare.target_union {
            Some(CompareWith::Value(wanted)) => value.cmp(wanted),
            _ => value.cmp(&[]),
        },
        compare::CREATE => create.cmp(&number),
        compare::MOD => main.cmp(&number),
        compare::LEASE => lease.cmp(&number),
        _ => count.cmp(&number),
    };
    match compare.result {
        compare::EQUAL => order.is_eq(),
        compare::NOT_EQUAL => order.is_ne(),
        compare::GREATER => order.is_gt(),
        compare::LESS => order.is_lt(),
        _ => true,
    }
}

fn compares(store: &Store, compare: &Compare) -> bool {
    let Ok(found) = store.range(Span::of(&compare.key, &compare.range_end), 0, 0, false) else {
        return false;
    };
    if found.keys.is_empty() {
        // A value cannot be compared with that of nothing.
        return compare.target != compare::VALUE && holds(compare, None);
    }
    found.keys.iter().all(|(_, version)| holds(compare, Some(version)))
}

/// Which way a transaction goes, and those nested in it, in their order.
fn path(store: &Store, request: &TxnRequest, out: &mut Vec<bool>) {
    let succeeds = request.compare.iter().all(|compare| compares(store, compare));
    #[cfg(any(test, feature = "planted"))]
    let succeeds = succeeds || store.planted.compares_ignored;
    out.push(succeeds);
    for op in if succeeds { &request.success } else { &request.failure } {
        if let Some(RequestKind::Txn(txn)) = &op.request {
            path(store, txn, out);
        }
    }
}

/// Walks what the branches taken will do.
fn check_path(
    request: &TxnRequest,
    path: &mut std::slice::Iter<'_, bool>,
    check: &mut impl FnMut(&RequestKind) -> Result<(), Error>,
) -> Result<(), Error> {
    let succeeds = path.next().copied().unwrap_or(false);
    for op in if succeeds { &request.success } else { &request.failure } {
        match &op.request {
            Some(RequestKind::Txn(txn)) => check_path(txn, path, check)?,
            Some(kind) => check(kind)?,
            None => {}
        }
    }
    Ok(())
}

fn check_reads(store: &Store, request: &TxnRequest, taken: &[bool]) -> Result<(), Error> {
    check_path(request, &mut taken.iter(), &mut |kind| match kind {
        RequestKind::Range(range) if range.revision > store.revision() => Err(error::FUTURE_REVISION),
        RequestKind::Range(range) if range.revision != 0 && range.revision < store.compacted() => Err(error::COMPACTED),
        _ => Ok(()),
    })
}

fn read_ops(store: &Store, request: &TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> Result<TxnResponse, Error> {
    let succeeded = path.next().copied().unwrap_or(false);
    let mut responses = Vec::new();
    for op in if succeeded { &request.success } else { &request.failure } {
        let response = match &op.request {
            Some(RequestKind::Range(request)) => ResponseKind::Range(range(store, request)?),
            Some(RequestKind::Txn(txn)) => ResponseKind::Txn(TxnResponse {
                header: Some(ResponseHeader::default()),
                ..read_ops(store, txn, path)?
            }),
            _ => return Err(error::BUG),
        };
        responses.push(ResponseOp { response: Some(response) });
    }
    Ok(TxnResponse { header: header(store.revision()), succeeded, responses })
}

/// Runs a transaction that [changes nothing](is_read_only).
///
/// # Errors
/// One of its reads is of a revision that is compacted, or in the future.
pub fn txn_read(store: &Store, request: &TxnRequest) -> Result<TxnResponse, Error> {
    let mut taken = Vec::new();
    path(store, request, &mut taken);
    check_reads(store, request, &taken)?;
    read_ops(store, request, &mut taken.iter())
}

// ---- writing --------------------------------------------------------------------------------------------------------

/// A store and its leases, within one revision.
pub struct Writing<'a> {
    /// Keys.
    pub store: &'a mut Store,
    /// Leases.
    pub leases: &'a mut Leases,
}

impl Writing<'_> {
    /// Whether a put can be done.
    fn check_put(&self, request: &PutRequest) -> Result<(), Error> {
        if (request.ignore_value || request.ignore_lease) && self.store.get(&request.key).is_none() {
            return Err(error::KEY_NOT_FOUND);
        }
        if request.lease != 0 && self.leases.get(request.lease).is_none() {
            return Err(error::LEASE_NOT_FOUND);
        }
        Ok(())
    }

    /// Sets a key.
    pub fn put(&mut self, request: &PutRequest) -> Result<PutResponse, Error> {
        // By itself it looks for the lease first, in a transaction for the key: as etcd does.
        if request.lease != 0 && self.leases.get(request.lease).is_none() {
            return Err(error::LEASE_NOT_FOUND);
        }
        self.check_put(request)?;
        let before = self.store.get(&request.key).map(|(key, version)| version.to_proto(key));
        let (mut value, mut lease) = (request.value.clone(), request.lease);
        if let Some(before) = &before {
            if request.ignore_value {
                value = before.value.clone();
            }
            if request.ignore_lease {
                lease = before.lease;
            }
        }
        self.store.put(&request.key, value, lease);
        let lease_before = before.as_ref().map_or(0, |before| before.lease);
        if lease_before != lease
            && let Some((key, _)) = self.store.get(&request.key)
        {
            self.leases.attach(key, lease_before, lease);
        }
        let prev_kv = before.filter(|_| request.prev_kv);
        Ok(PutResponse { header: header(self.store.revision()), prev_kv })
    }

    /// Deletes keys.
    pub fn delete(&mut self, request: &DeleteRangeRequest) -> Result<DeleteRangeResponse, Error> {
        let found = self.store.range(Span::of(&request.key, &request.range_end), 0, 0, false)?;
        let gone: Vec<_> = found.keys.iter().map(|(key, version)| ((*key).clone(), version.lease)).collect();
        let prev_kvs = match request.prev_kv {
            true => found.keys.iter().map(|(key, version)| version.to_proto(key)).collect(),
            false => Vec::new(),
        };
        for (key, lease) in &gone {
            self.delete_one(key, *lease);
        }
        Ok(DeleteRangeResponse { header: header(self.store.revision()), deleted: gone.len() as i64, prev_kvs })
    }

    fn delete_one(&mut self, key: &Bytes, lease: i64) {
        self.store.delete(key);
        self.leases.attach(key, lease, 0);
    }

    /// Ends a lease and deletes its keys.
    pub fn revoke(&mut self, id: i64) -> Result<(), Error> {
        let lease = self.leases.remove(id).ok_or(error::LEASE_NOT_FOUND)?;
        for key in &lease.keys {
            self.store.delete(key);
        }
        Ok(())
    }

    /// Runs a transaction.
    pub fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, Error> {
        let mut taken = Vec::new();
        path(self.store, request, &mut taken);
        check_path(request, &mut taken.iter(), &mut |kind| match kind {
            RequestKind::Put(put) => self.check_put(put),
            _ => Ok(()),
        })?;
        check_reads(self.store, request, &taken)?;
        let mut response = self.ops(request, &mut taken.iter())?;
        response.header = header(self.store.revision());
        Ok(response)
    }

    fn ops(&mut self, request: &TxnRequest, path: &mut std::slice::Iter<'_, bool>) -> Result<TxnResponse, Error> {
        let succeeded = path.next().copied().unwrap_or(false);
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match &op.request {
                Some(RequestKind::Range(request)) => ResponseKind::Range(range(self.store, request)?),
                Some(RequestKind::Put(request)) => ResponseKind::Put(self.put(request)?),
                Some(RequestKind::Delete(request)) => ResponseKind::Delete(self.delete(request)?),
                Some(RequestKind::Txn(txn)) => ResponseKind::Txn(self.ops(txn, path)?),
                None => continue,
            };
            responses.push(ResponseOp { response: Some(response) });
            #[cfg(any(test, feature = "planted"))]
            if self.store.planted.torn_transactions {
                self.store.end();
            }
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }
}

/// Reads a message; `None` for one that is none.
pub fn read<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(bytes).ok()
}

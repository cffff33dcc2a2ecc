//! etcd's `Lock` and `Election` services: what its Go library does with a lease, a key and a watch, done here.
//!
//! Whoever wants the lock `name` puts `name/LEASE`; it is whose key was made first. The revision in which it was made only grows from
//! holder to holder: it is the number that fences.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use coordination::command::Kind;
use coordination::error::{self, code};
use coordination::proto::{
    CampaignRequest, CampaignResponse, Compare, CompareWith, DeleteRangeRequest, HeaderResponse, LeaderKey,
    LeaderRequest, LeaderResponse, LeaseGrantRequest, LockRequest, LockResponse, ProclaimRequest, PutRequest,
    RequestKind, RequestOp, ResignRequest, TxnRequest, UnlockRequest, compare,
};
use coordination::{Command, Error, Span, Store};
use prost::Message;
use shard::meta::Changed;

use super::{Door, Soon, Talk, read};
use crate::resp::door::Client;

/// Seconds of a lease that is granted to who brings none.
const SESSION_SECONDS: i64 = 60;

const NO_LEADER: Error = Error::new(code::UNKNOWN, "election: no leader");
const NOT_LEADER: Error = Error::new(code::UNKNOWN, "election: not leader");
const EXPIRED: Error = Error::new(code::UNKNOWN, "mutex: session is expired");

/// Methods of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `Lock`.
    Lock,
    /// `Unlock`.
    Unlock,
    /// `Campaign`.
    Campaign,
    /// `Proclaim`.
    Proclaim,
    /// `Leader`.
    Leader,
    /// `Resign`.
    Resign,
}

impl Method {
    pub(super) fn of(name: &str) -> Option<Method> {
        Some(match name {
            "Lock" => Method::Lock,
            "Unlock" => Method::Unlock,
            "Campaign" => Method::Campaign,
            "Proclaim" => Method::Proclaim,
            "Leader" => Method::Leader,
            "Resign" => Method::Resign,
            _ => return None,
        })
    }
}

fn op(kind: RequestKind) -> RequestOp {
    RequestOp { request: Some(kind) }
}

fn put(key: &Bytes, value: Bytes, lease: i64) -> RequestOp {
    op(RequestKind::Put(PutRequest { key: key.clone(), value, lease, ..PutRequest::default() }))
}

fn delete(key: &Bytes) -> DeleteRangeRequest {
    DeleteRangeRequest { key: key.clone(), ..DeleteRangeRequest::default() }
}

/// The key was made in this revision (0: there is none).
fn made_in(key: &Bytes, revision: i64) -> Compare {
    Compare {
        result: compare::EQUAL,
        target: compare::CREATE,
        key: key.clone(),
        target_union: Some(CompareWith::Create(revision)),
        range_end: Bytes::new(),
    }
}

/// All keys that begin so.
fn below(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// The key under this prefix that was made first.
fn first(store: &Store, prefix: &[u8]) -> Option<(Bytes, coordination::store::Version)> {
    let end = below(prefix);
    let found = store.range(Span::of(prefix, &end), 0, 0, false).ok()?;
    let first = found.keys.into_iter().min_by_key(|(_, version)| version.create)?;
    Some((first.0.clone(), first.1.clone()))
}

/// Takes a place in the queue away again when nobody waits there any more.
struct Place<'a> {
    door: &'a Door,
    user: &'a str,
    key: Bytes,
    is_taken: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_taken {
            let request = delete(&self.key).encode_to_vec();
            // It happens whoever hears of it.
            drop(self.door.registry.etcd(&Command { kind: Kind::Delete, user: self.user, request: &request }));
        }
    }
}

impl Door {
    pub(super) async fn lock(&self, method: Method, user: &str, request: Bytes) -> Result<Vec<u8>, Error> {
        match method {
            Method::Lock => {
                let request: LockRequest = read(request)?;
                let (key, _, _) = self.queue_up(user, &request.name, request.lease, Bytes::new()).await?;
                self.look(|_| Ok(LockResponse { header: None, key }.encode_to_vec()))
            }
            Method::Unlock => {
                let request: UnlockRequest = read(request)?;
                let gone = self.outcome(Kind::Delete, user, &delete(&request.key).encode_to_vec()).await?;
                Ok(self.answer(gone.revision, &HeaderResponse::default().encode_to_vec()))
            }
            Method::Campaign => {
                let request: CampaignRequest = read(request)?;
                let (key, rev, lease) = self.queue_up(user, &request.name, request.lease, request.value).await?;
                let leader = Some(LeaderKey { name: request.name, key, rev, lease });
                self.look(|_| Ok(CampaignResponse { header: None, leader }.encode_to_vec()))
            }
            Method::Proclaim => {
                let request: ProclaimRequest = read(request)?;
                let leader = request.leader.ok_or(error::EMPTY_KEY)?;
                let write = put(&leader.key, request.value, leader.lease);
                self.as_leader(user, &leader, write).await?.ok_or(NOT_LEADER)
            }
            Method::Resign => {
                let request: ResignRequest = read(request)?;
                let leader = request.leader.ok_or(error::EMPTY_KEY)?;
                let write = op(RequestKind::Delete(delete(&leader.key)));
                let answer = self.as_leader(user, &leader, write).await?;
                answer.map_or_else(|| self.look(|_| Ok(Vec::new())), Ok)
            }
            Method::Leader => {
                let request: LeaderRequest = read(request)?;
                self.registry.fresh().await;
                let kv = self.leader(user, &request.name)?.ok_or(NO_LEADER)?;
                self.look(|_| Ok(LeaderResponse { header: None, kv: Some(kv) }.encode_to_vec()))
            }
        }
    }

    fn leader(&self, user: &str, name: &[u8]) -> Result<Option<coordination::proto::KeyValue>, Error> {
        let prefix = [name, b"/"].concat();
        let state = self.registry.shard().state();
        let state = state.coordination();
        state.auth().may(user, Span::of(&prefix, &below(&prefix)), false)?;
        Ok(first(state.store(), &prefix).map(|(key, version)| version.to_proto(&key)))
    }

    async fn as_leader(&self, user: &str, leader: &LeaderKey, write: RequestOp) -> Result<Option<Vec<u8>>, Error> {
        let compare = vec![made_in(&leader.key, leader.rev)];
        let request = TxnRequest { compare, success: vec![write], failure: Vec::new() };
        let answer = self.outcome(Kind::Txn, user, &request.encode_to_vec()).await?;
        let response: coordination::proto::TxnResponse = read(answer.body.into())?;
        Ok(response.succeeded.then(|| self.answer(answer.revision, &[])))
    }

    /// Waits until it is this lease's turn under a name. Tells the key, the revision in which it was made, and the lease.
    async fn queue_up(&self, user: &str, name: &[u8], lease: i64, value: Bytes) -> Result<(Bytes, i64, i64), Error> {
        let lease = match lease {
            0 => {
                let id = (self.world.random() >> 1).max(1) as i64;
                let request = LeaseGrantRequest { ttl: SESSION_SECONDS, id };
                self.outcome(Kind::Grant, user, &request.encode_to_vec()).await?;
                id
            }
            lease => lease,
        };
        let prefix = [name, b"/"].concat();
        let key = Bytes::from([&prefix[..], format!("{lease:x}").as_bytes()].concat());
        let mine = op(RequestKind::Range(coordination::proto::RangeRequest { key: key.clone(), ..Default::default() }));
        let request = TxnRequest {
            compare: vec![made_in(&key, 0)],
            success: vec![put(&key, value.clone(), lease), mine.clone()],
            failure: vec![mine],
        };
        let answer = self.outcome(Kind::Txn, user, &request.encode_to_vec()).await?;
        let response: coordination::proto::TxnResponse = read(answer.body.into())?;
        let kv = response.responses.into_iter().find_map(|response| match response.response {
            Some(coordination::proto::ResponseKind::Range(range)) => range.kvs.into_iter().next(),
            _ => None,
        });
        let kv = kv.ok_or(EXPIRED)?;
        let made = kv.create_revision;
        let mut place = Place { door: self, user, key: key.clone(), is_taken: false };
        if !response.succeeded && kv.value != value {
            let leader = LeaderKey { name: Bytes::new(), key: key.clone(), rev: made, lease };
            self.as_leader(user, &leader, put(&key, value, lease)).await?;
        }
        let mut seen = answer.revision;
        loop {
            // Until this node has what was just done, and from then on until somebody before has gone.
            let (revision, before) = self.before(&prefix, &key, made, seen)?;
            let Some((other, since)) = before else {
                place.is_taken = true;
                return Ok((key, made, lease));
            };
            seen = revision;
            loop {
                let after = Changed::etcd(self.registry.shard().clone(), seen as u64).await;
                seen = after as i64;
                let state = self.registry.shard().state();
                let store = state.coordination().store();
                let is_there = store.get(&other).is_some_and(|(_, version)| version.create == since);
                let am_i = store.get(&key).is_some_and(|(_, version)| version.create == made);
                if !is_there || !am_i {
                    break;
                }
            }
        }
    }

    /// Who stands directly before this key. Where this node has not applied so much yet, something that is not there.
    #[allow(clippy::type_complexity)]
    fn before(&self, prefix: &[u8], key: &Bytes, made: i64, seen: i64) -> Result<(i64, Option<(Bytes, i64)>), Error> {
        let state = self.registry.shard().state();
        let store = state.coordination().store();
        if store.revision() < seen {
            return Ok((store.revision(), Some((Bytes::new(), 0))));
        }
        if store.get(key).is_none_or(|(_, version)| version.create != made) {
            return Err(EXPIRED);
        }
        let end = below(prefix);
        let found = store.range(Span::of(prefix, &end), 0, 0, false)?;
        let before = found.keys.into_iter().filter(|(_, version)| version.create < made);
        let before = before.max_by_key(|(_, version)| version.create);
        Ok((store.revision(), before.map(|(key, version)| (key.clone(), version.create))))
    }
}

/// `Election.Observe`: each leader of a name, and what it says, from now on.
pub struct Observe {
    door: Arc<Door>,
    user: String,
    name: Option<Bytes>,
    /// Key and revision that were told last.
    told: Option<(Bytes, i64)>,
    changed: Option<Changed<Client>>,
    fresh: Option<Soon<()>>,
    out: VecDeque<Vec<u8>>,
}

impl Observe {
    pub(super) fn new(door: Arc<Door>, user: String) -> Observe {
        Observe { door, user, name: None, told: None, changed: None, fresh: None, out: VecDeque::new() }
    }
}

impl Talk for Observe {
    fn take(&mut self, message: Bytes) -> Result<(), Error> {
        let request: LeaderRequest = read(message)?;
        self.name = Some(request.name);
        let registry = self.door.registry.clone();
        self.fresh = Some(Box::pin(async move { registry.fresh().await }));
        Ok(())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Error>>> {
        let Some(name) = self.name.clone() else {
            return Poll::Pending;
        };
        if let Some(fresh) = &mut self.fresh {
            std::task::ready!(fresh.as_mut().poll(context));
            self.fresh = None;
        }
        loop {
            if let Some(message) = self.out.pop_front() {
                return Poll::Ready(Some(Ok(message)));
            }
            if let Some(changed) = &mut self.changed {
                std::task::ready!(std::pin::Pin::new(changed).poll(context));
            }
            let shard = self.door.registry.shard().clone();
            let revision = shard.state().coordination().store().revision();
            self.changed = Some(Changed::etcd(shard, revision as u64));
            match self.door.leader(&self.user, &name) {
                Err(error) => return Poll::Ready(Some(Err(error))),
                Ok(Some(kv)) if self.told.as_ref() != Some(&(kv.key.clone(), kv.mod_revision)) => {
                    self.told = Some((kv.key.clone(), kv.mod_revision));
                    let response = LeaderResponse { header: Some(self.door.header(revision)), kv: Some(kv) };
                    self.out.push_back(response.encode_to_vec());
                }
                Ok(_) => {}
            }
        }
    }
}

//! etcd's v3 API: what a method means and what is answered. How messages travel (HTTP/2, gRPC's frames) is the host's.
//!
//! Reads are answered from what this node has applied, behind [`Registry::fresh`](crate::registry::Registry::fresh) unless they may be
//! stale; whatever changes anything is a command of the meta group's log. Errors bear etcd's texts, which its clients match on.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{Instant, NodeId};
use bytes::Bytes;
use coordination::command::{self, Kind};
use coordination::error::{self, code};
use coordination::limits::REQUEST_BYTES_MAX;
use coordination::proto::{AlarmRequest, AlarmResponse, CompactionRequest, DeleteRangeRequest};
use coordination::proto::{
    HashKvRequest, HashKvResponse, HashResponse, HeaderResponse, LeaseGrantRequest, LeaseLeasesResponse, LeaseRequest,
    LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Member, MemberListResponse, PutRequest, RangeRequest,
    ResponseHeader, StatusResponse, TxnRequest,
};
use coordination::{Command, Coordination, Error, Span, txn};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::registry::{ChangeError, Registry};

mod auth;
mod locks;
pub mod streams;
pub mod watch;

pub use streams::Talk;

/// A future of the host's.
pub type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A message that is none.
pub const UNREADABLE: Error = Error::new(code::INTERNAL, "grpc: failed to unmarshal the received message");
/// A method that is none.
pub const UNKNOWN_METHOD: Error = Error::new(code::UNIMPLEMENTED, "unknown service or method");
/// The version of etcd whose behaviour is meant.
pub const VERSION: &str = "3.4.23";

/// What the door gets from outside.
pub trait World: Send + Sync {
    /// The monotonic clock.
    fn now(&self) -> Instant;
    /// A random number.
    fn random(&self) -> u64;
    /// The term of the meta group, and its last index.
    fn term(&self) -> (u64, u64);
    /// Does work that takes a while where it holds nobody up.
    fn aside(&self, work: Box<dyn FnOnce() + Send>) -> Soon<()>;
}

/// What is counted, for people.
#[derive(Debug, Default)]
pub struct Counters {
    /// Calls begun.
    pub calls: AtomicU64,
    /// Calls that ended with an error.
    pub errors: AtomicU64,
    /// Calls with a token or a password that is none.
    pub auth_failures: AtomicU64,
}

/// The door.
pub struct Door {
    own: NodeId,
    /// Where clients reach it, `host:port`.
    advertise: String,
    /// `http` or `https`.
    scheme: &'static str,
    registry: Arc<Registry>,
    world: Box<dyn World>,
    /// Watches.
    pub hub: Arc<watch::Hub>,
    /// See [`Counters`].
    pub counters: Counters,
}

/// What a method is.
pub enum Call {
    /// One request, one answer.
    Unary(Unary),
    /// A stream of answers, and perhaps of requests.
    Talk(Box<dyn Talk>),
}

/// Methods of one request and one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unary {
    /// `KV`.
    Range,
    /// A command as it is, without a look but its bounds; and the method of the answer.
    Command(Kind),
    /// `KV.Txn`.
    Txn,
    /// `Lease.LeaseGrant`.
    Grant,
    /// `Lease.LeaseTimeToLive`.
    TimeToLive,
    /// `Lease.LeaseLeases`.
    Leases,
    /// `Cluster.MemberList`.
    Members,
    /// `Maintenance.Status`.
    Status,
    /// `Maintenance.Alarm`.
    Alarm,
    /// `Maintenance.Defragment`.
    Defragment,
    /// `Maintenance.Hash`.
    Hash,
    /// `Maintenance.HashKV`.
    HashKv,
    /// `Auth`.
    Auth(auth::Method),
    /// `Lock` and `Election`.
    Lock(locks::Method),
}

impl Unary {
    /// Whether it may take as long as others hold a lock.
    pub fn waits(self) -> bool {
        matches!(self, Unary::Lock(locks::Method::Lock | locks::Method::Campaign))
    }
}

impl Door {
    /// The door of a node that clients reach at this address.
    pub fn new(own: NodeId, advertise: String, is_tls: bool, registry: Arc<Registry>, world: Box<dyn World>) -> Door {
        let hub = Arc::new(watch::Hub::new(registry.shard().clone()));
        let scheme = if is_tls { "https" } else { "http" };
        Door { own, advertise, scheme, registry, world, hub, counters: Counters::default() }
    }

    /// The registry, and with it the meta group.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Tells watchers of changes; it does not end.
    pub async fn look_after(self: Arc<Self>) {
        loop {
            let told = self.hub.told();
            shard::meta::Changed::etcd(self.registry.shard().clone(), told as u64).await;
            self.hub.tell();
        }
    }

    /// What a path means; `token` is what the caller showed.
    ///
    /// # Errors
    /// There is no such method, or the token is none.
    pub fn call(self: &Arc<Self>, path: &str, token: Option<&str>) -> Result<(Call, String), Error> {
        self.counters.calls.fetch_add(1, Ordering::Relaxed);
        let (service, method) = path.strip_prefix('/').and_then(|path| path.split_once('/')).ok_or(UNKNOWN_METHOD)?;
        let unary = match (service, method) {
            ("etcdserverpb.KV", "Range") => Unary::Range,
            ("etcdserverpb.KV", "Put") => Unary::Command(Kind::Put),
            ("etcdserverpb.KV", "DeleteRange") => Unary::Command(Kind::Delete),
            ("etcdserverpb.KV", "Txn") => Unary::Txn,
            ("etcdserverpb.KV", "Compact") => Unary::Command(Kind::Compact),
            ("etcdserverpb.Lease", "LeaseGrant") => Unary::Grant,
            ("etcdserverpb.Lease", "LeaseRevoke") => Unary::Command(Kind::Revoke),
            // Their first name.
            ("etcdserverpb.KV", "LeaseRevoke") => Unary::Command(Kind::Revoke),
            ("etcdserverpb.Lease", "LeaseTimeToLive") => Unary::TimeToLive,
            ("etcdserverpb.Lease", "LeaseLeases") => Unary::Leases,
            ("etcdserverpb.Cluster", "MemberList") => Unary::Members,
            ("etcdserverpb.Maintenance", "Status") => Unary::Status,
            ("etcdserverpb.Maintenance", "Alarm") => Unary::Alarm,
            ("etcdserverpb.Maintenance", "Defragment") => Unary::Defragment,
            ("etcdserverpb.Maintenance", "Hash") => Unary::Hash,
            ("etcdserverpb.Maintenance", "HashKV") => Unary::HashKv,
            ("etcdserverpb.Auth", name) => Unary::Auth(auth::Method::of(name).ok_or(UNKNOWN_METHOD)?),
            ("v3lockpb.Lock" | "v3electionpb.Election", name) if name != "Observe" => {
                Unary::Lock(locks::Method::of(name).ok_or(UNKNOWN_METHOD)?)
            }
            _ => {
                let user = self.user(token)?;
                let talk: Box<dyn Talk> = match (service, method) {
                    ("etcdserverpb.Watch", "Watch") => Box::new(streams::Watching::new(self.clone(), user.clone())),
                    ("etcdserverpb.Lease", "LeaseKeepAlive") => {
                        Box::new(streams::KeepAlive::new(self.clone(), user.clone()))
                    }
                    ("etcdserverpb.Maintenance", "Snapshot") => {
                        Box::new(streams::Snapshot::new(self.clone(), user.clone()))
                    }
                    ("v3electionpb.Election", "Observe") => Box::new(locks::Observe::new(self.clone(), user.clone())),
                    _ => return Err(UNKNOWN_METHOD),
                };
                return Ok((Call::Talk(talk), user));
            }
        };
        // Whoever wants a token may show one that has become none.
        let is_login = unary == Unary::Auth(auth::Method::Authenticate);
        let user = if is_login { String::new() } else { self.user(token)? };
        Ok((Call::Unary(unary), user))
    }

    /// Runs a call of one request.
    ///
    /// # Errors
    /// etcd's.
    pub async fn unary(self: Arc<Self>, unary: Unary, user: String, request: Bytes) -> Result<Vec<u8>, Error> {
        match unary {
            Unary::Range => self.range(&user, request).await,
            Unary::Command(kind) => self.command(kind, &user, request).await,
            Unary::Txn => self.txn(&user, request).await,
            Unary::Grant => {
                let mut request: LeaseGrantRequest = read(request)?;
                if request.id == 0 {
                    request.id = (self.world.random() >> 1).max(1) as i64;
                }
                self.propose(Kind::Grant, &user, &request.encode_to_vec()).await
            }
            Unary::TimeToLive => self.time_to_live(&user, read(request)?).await,
            Unary::Leases => {
                self.registry.fresh().await;
                self.look(|state| {
                    state.auth().known(&user)?;
                    let leases = state.leases().by_end().map(|id| LeaseStatus { id }).collect();
                    Ok(LeaseLeasesResponse { leases, ..LeaseLeasesResponse::default() }.encode_to_vec())
                })
            }
            Unary::Members => self.members(&user),
            Unary::Status => self.status(),
            Unary::Alarm => {
                let request: AlarmRequest = read(request)?;
                self.look(|state| {
                    if request.action == 0 {
                        state.auth().known(&user)?;
                    } else {
                        state.auth().admin(&user)?;
                    }
                    Ok(AlarmResponse::default().encode_to_vec())
                })
            }
            Unary::Defragment => self.look(|state| {
                state.auth().admin(&user)?;
                Ok(HeaderResponse::default().encode_to_vec())
            }),
            Unary::Hash => self.look(|state| {
                state.auth().admin(&user)?;
                Ok(HashResponse { header: None, hash: state.hash(0)? }.encode_to_vec())
            }),
            Unary::HashKv => {
                let request: HashKvRequest = read(request)?;
                self.look(|state| {
                    state.auth().admin(&user)?;
                    let hash = state.hash(request.revision)?;
                    let compact_revision = state.store().compacted();
                    Ok(HashKvResponse { header: None, hash, compact_revision }.encode_to_vec())
                })
            }
            Unary::Auth(method) => self.auth(method, &user, request).await,
            Unary::Lock(method) => self.lock(method, &user, request).await,
        }
    }

    /// A header as of this revision.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        let mut header = ResponseHeader { revision, ..ResponseHeader::default() };
        self.fill(&mut header);
        header
    }

    fn fill(&self, header: &mut ResponseHeader) {
        let id = self.registry.cluster().id().0;
        header.cluster_id = id.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte));
        header.member_id = self.own.0;
        header.raft_term = self.world.term().0;
    }

    /// An answer of these fields behind a header.
    fn answer(&self, revision: i64, body: &[u8]) -> Vec<u8> {
        let header = self.header(revision);
        let mut out = Vec::with_capacity(body.len() + 48);
        encode_key(1, WireType::LengthDelimited, &mut out);
        encode_varint(header.encoded_len() as u64, &mut out);
        // A vector grows: this cannot fail.
        let _ = header.encode(&mut out);
        out.extend_from_slice(body);
        out
    }

    /// Looks at the state as it is here.
    fn look(&self, look: impl FnOnce(&Coordination) -> Result<Vec<u8>, Error>) -> Result<Vec<u8>, Error> {
        let (revision, body) = {
            let state = self.registry.shard().state();
            let state = state.coordination();
            (state.store().revision(), look(state)?)
        };
        Ok(self.answer(revision, &body))
    }

    /// Has a command done.
    async fn outcome(&self, kind: Kind, user: &str, request: &[u8]) -> Result<command::Answer, Error> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(error::REQUEST_TOO_LARGE);
        }
        let form = self.registry.etcd(&Command { kind, user, request }).await.map_err(|error| match error {
            // Whether it was done is unknown; clients do not repeat a write for this text.
            ChangeError::Unknown => error::TIMEOUT,
            ChangeError::Refused(why) if why.starts_with("TRYAGAIN") => error::NO_LEADER,
            ChangeError::Refused(why) => Error::of(code::UNAVAILABLE, format!("etcdserver: {why}")),
        })?;
        command::read_outcome(&form).map_err(|_| error::TIMEOUT)?
    }

    async fn propose(&self, kind: Kind, user: &str, request: &[u8]) -> Result<Vec<u8>, Error> {
        let answer = self.outcome(kind, user, request).await?;
        Ok(self.answer(answer.revision, &answer.body))
    }

    /// A command whose request goes into the log as it came, once it can be read.
    async fn command(&self, kind: Kind, user: &str, request: Bytes) -> Result<Vec<u8>, Error> {
        match kind {
            Kind::Put => txn::check_put(&read::<PutRequest>(request.clone())?)?,
            Kind::Delete => txn::check_delete(&read::<DeleteRangeRequest>(request.clone())?)?,
            Kind::Compact => read::<CompactionRequest>(request.clone()).map(|_| ())?,
            _ => read::<LeaseRequest>(request.clone()).map(|_| ())?,
        }
        self.propose(kind, user, &request).await
    }

    async fn range(&self, user: &str, request: Bytes) -> Result<Vec<u8>, Error> {
        let request: RangeRequest = read(request)?;
        txn::check_range(&request)?;
        if !request.serializable {
            self.registry.fresh().await;
        }
        let mut response = self.registry.shard().state().coordination().range(user, &request)?;
        if let Some(header) = &mut response.header {
            self.fill(header);
        }
        Ok(response.encode_to_vec())
    }

    async fn txn(&self, user: &str, form: Bytes) -> Result<Vec<u8>, Error> {
        if form.len() > REQUEST_BYTES_MAX {
            return Err(error::REQUEST_TOO_LARGE);
        }
        txn::check_form(&form)?;
        let request: TxnRequest = read(form.clone())?;
        txn::check_txn(&request)?;
        if !txn::is_read_only(&request) {
            return self.propose(Kind::Txn, user, &form).await;
        }
        if !txn::is_serializable(&request) {
            self.registry.fresh().await;
        }
        let mut response = self.registry.shard().state().coordination().txn_read(user, &request)?;
        if let Some(header) = &mut response.header {
            self.fill(header);
        }
        Ok(response.encode_to_vec())
    }

    async fn time_to_live(&self, user: &str, request: LeaseTimeToLiveRequest) -> Result<Vec<u8>, Error> {
        self.registry.fresh().await;
        let now = self.registry.shard().now(self.world.now());
        self.look(|state| {
            state.auth().known(user)?;
            let mut response =
                LeaseTimeToLiveResponse { id: request.id, ttl: -1, ..LeaseTimeToLiveResponse::default() };
            if let Some(lease) = state.leases().get(request.id) {
                (response.ttl, response.granted_ttl) = (lease.left(now), lease.seconds);
                if request.keys {
                    for key in &lease.keys {
                        state.auth().may(user, Span::of(key, &[]), false)?;
                        response.keys.push(key.clone());
                    }
                }
            }
            Ok(response.encode_to_vec())
        })
    }

    fn members(&self, user: &str) -> Result<Vec<u8>, Error> {
        let cluster = self.registry.cluster();
        let url = |address: &str| format!("{}://{address}", self.scheme);
        let members = cluster.nodes().iter().map(|(id, node)| {
            let address = if *id == self.own { &self.advertise } else { &node.place.etcd };
            Member {
                id: id.0,
                name: format!("node-{}", id.0),
                peer_urls: vec![format!("https://{}", node.place.peer)],
                client_urls: Some(address)
                    .filter(|address| !address.is_empty())
                    .map(|address| url(address))
                    .into_iter()
                    .collect(),
                is_learner: false,
            }
        });
        let mut members: Vec<Member> = members.collect();
        if members.is_empty() {
            let client_urls = vec![url(&self.advertise)];
            members.push(Member {
                id: self.own.0,
                name: format!("node-{}", self.own.0),
                client_urls,
                ..Member::default()
            });
        }
        self.look(|state| {
            state.auth().known(user)?;
            Ok(MemberListResponse { members, ..MemberListResponse::default() }.encode_to_vec())
        })
    }

    fn status(&self) -> Result<Vec<u8>, Error> {
        let ((raft_term, raft_index), leader) = (self.world.term(), self.registry.leader());
        let raft_applied_index = self.registry.shard().state().applied();
        self.look(|state| {
            let (bytes, live) = state.store().bytes();
            Ok(StatusResponse {
                version: VERSION.into(),
                db_size: bytes as i64,
                db_size_in_use: live as i64,
                leader: leader.map_or(0, |node| node.0),
                raft_index: raft_index.max(raft_applied_index),
                raft_applied_index,
                raft_term,
                errors: if leader.is_none() { vec![error::NO_LEADER.text.into_owned()] } else { Vec::new() },
                ..StatusResponse::default()
            }
            .encode_to_vec())
        })
    }
}

fn read<M: Message + Default>(request: Bytes) -> Result<M, Error> {
    M::decode(request).map_err(|_| UNREADABLE)
}

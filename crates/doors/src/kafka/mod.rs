//! The Kafka door: bytes of a connection in, answers in the order of the requests out.
//!
//! ```text
//!   frame ─► Session::take ─► header, version ─► the request, decoded ─► a future ─► the answer, encoded
//!                  │                                                        │
//!                  └ who is not let in, or speaks no Kafka: closed           └ mailboxes of the shards, the registry's log, timers
//! ```
//!
//! A request is a future that does nothing until it is its turn: one after the other, as Kafka does it. Only a produce that
//! follows nothing but produces is begun at once, so that many are in flight together and still reach the log in their order.
//!
//! Clients go to leaders themselves, so nothing about a partition or a group is forwarded: a node that does not lead says so.
//!
//! **Invariant:** no sockets, no clock of its own; every length that comes from a client is bounded by bytes that are there.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use base::{Duration, GroupId, Instant, NodeId};
use bytes::Bytes;
use queue::partition::Piece;
use store::disk::ReadError;

use crate::registry::Registry;
use crate::resp::door::Door as Shards;

mod admin;
pub mod apis;
mod compaction;
mod data;
mod dispatch;
pub mod errors;
mod groups;
pub mod messages;
mod nodes;
mod proposal;
pub mod sasl;
mod transactions;
mod upkeep;
pub mod wire;

use messages::{RequestHeader, SaslAuthenticateRequest, SaslAuthenticateResponse};
use messages::{SaslHandshakeRequest, SaslHandshakeResponse};
use sasl::{Mechanism, Proof, Step, User};
use users::Grant;

use crate::access::{self, Area};
use wire::{Garbage, Reader};

/// Most bytes of one request (Kafka's `socket.request.max.bytes`).
pub const REQUEST_BYTES_MAX: usize = 100 << 20;
/// Most bytes of one request of a client that has not shown who it is.
pub const STRANGER_BYTES_MAX: usize = 64 << 10;
/// Requests of one connection that wait for their answers at once.
pub const PIPELINE_MAX: usize = 32;

/// Something that comes later.
pub type Soon<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What the outside world gives to the door.
pub trait World: Send + Sync {
    /// Waits.
    fn sleep(&self, how_long: Duration) -> Soon<()>;
    /// A number nobody can guess.
    fn random(&self) -> u64;
    /// The batches of pieces that were planned at this group, stamped, within their windows. What has been read and is not yet dropped is
    /// bounded for all together: who has nothing yet waits for room (`may_wait`), who has some already is told `NotReady`.
    fn read(&self, group: GroupId, pieces: Vec<Piece>, may_wait: bool) -> Soon<Result<Bytes, ReadError>>;
}

/// How the door is told to be.
#[derive(Debug, Default)]
pub struct Config {
    /// Who may come in; anybody without one.
    pub user: Option<User>,
    /// Whether a topic that is asked for and does not exist is made (Kafka's `auto.create.topics.enable`).
    pub creates_topics: bool,
    /// `HOST:PORT` under which clients reach this node.
    pub advertise: String,
    /// Partitions of a topic that is made without a word on it (Kafka's `num.partitions`).
    pub partitions: u32,
}

/// What the door counts; all only grow.
#[derive(Debug, Default)]
pub struct Counters {
    /// Requests received.
    pub requests: AtomicU64,
    /// Connections closed because what they sent is no request.
    pub garbage: AtomicU64,
    /// Wrong passwords.
    pub auth_failures: AtomicU64,
    /// Bytes of record batches taken.
    pub bytes_produced: AtomicU64,
    /// Bytes of record batches handed out.
    pub bytes_fetched: AtomicU64,
    /// Answers that carry an error, one for each partition or whatever it is about.
    pub errors: AtomicU64,
}

/// A Kafka door.
pub struct Door {
    /// This node.
    pub own: NodeId,
    /// See [`Config`].
    pub config: Config,
    /// The shards, and their clock.
    pub shards: Arc<Shards>,
    /// The meta group: topics and nodes.
    pub registry: Arc<Registry>,
    /// See [`World`].
    pub world: Box<dyn World>,
    /// See [`Counters`].
    pub counters: Counters,
    groups: groups::Groups,
    next: AtomicU64,
}

impl Door {
    /// A door to these shards.
    pub fn new(
        own: NodeId,
        config: Config,
        shards: Arc<Shards>,
        registry: Arc<Registry>,
        world: Box<dyn World>,
    ) -> Door {
        let (groups, next) = (groups::Groups::default(), AtomicU64::new(0));
        Door { own, config, shards, registry, world, counters: Counters::default(), groups, next }
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The monotonic clock.
    pub fn now(&self) -> Instant {
        self.shards.world.now()
    }
}

/// What is said to a client.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// A frame, in pieces.
    Answer(Vec<Bytes>),
    /// Nothing: it wanted no answer.
    Nothing,
    /// Nothing any more: the connection ends, for this reason.
    Close(String),
}

enum Trust {
    /// It has yet to say how it will prove itself.
    Stranger,
    /// It is about to.
    Proving(Proof),
    /// It may do everything.
    Friend,
}

/// A request on its way.
struct Pending {
    said: Soon<Said>,
    is_produce: bool,
    /// Whether it has to ask about its transaction before its batches may stand in their queues.
    asking: Arc<AtomicBool>,
    /// Already there, for one that was begun early.
    ready: Option<Said>,
}

/// One connection.
pub struct Session {
    door: Arc<Door>,
    trust: Trust,
    /// The client's address.
    peer: String,
    pending: VecDeque<Pending>,
    /// A user of the access control list, and as of which revision it may be here.
    user: Option<(Arc<Grant>, u64)>,
}

/// A request as it is passed on.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub header: RequestHeader,
    pub flexible: bool,
    pub peer: String,
    /// A produce says here that it asks about its transaction: until it has heard, none that follows may overtake it.
    pub asking: Arc<AtomicBool>,
}

impl Session {
    /// Somebody has come from this address.
    pub fn new(door: Arc<Door>, peer: String) -> Session {
        let trust = if door.config.user.is_some() { Trust::Stranger } else { Trust::Friend };
        Session { door, trust, peer, pending: VecDeque::new(), user: None }
    }

    /// How long a frame of this client may be.
    pub fn frame_bytes_max(&self) -> usize {
        if matches!(self.trust, Trust::Friend) { REQUEST_BYTES_MAX } else { STRANGER_BYTES_MAX }
    }

    /// Whether it may send more now.
    pub fn takes(&self) -> bool {
        self.pending.len() < PIPELINE_MAX
    }

    /// Whether answers are to come.
    pub fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes a frame, without its length. Its answer comes out of [`Session::poll`].
    pub fn take(&mut self, frame: Bytes) {
        self.door.counters.requests.fetch_add(1, Ordering::Relaxed);
        let asking = Arc::new(AtomicBool::new(false));
        let (said, is_produce) = match self.begin(&frame, &asking) {
            Ok(begun) => begun,
            Err(garbage) => {
                self.door.counters.garbage.fetch_add(1, Ordering::Relaxed);
                (at_once(Said::Close(format!("what it sent is no request: {garbage}"))), false)
            }
        };
        let mut pending = Pending { said, is_produce, asking, ready: None };
        let goes_first = |before: &Pending| before.is_produce && !before.asking.load(Ordering::Relaxed);
        if is_produce && self.pending.iter().all(goes_first) {
            // It reaches the log now, behind those before it; who waits for it is looked after when it is its turn.
            let mut context = Context::from_waker(std::task::Waker::noop());
            if let Poll::Ready(said) = pending.said.as_mut().poll(&mut context) {
                pending.ready = Some(said);
            }
        }
        self.pending.push_back(pending);
    }

    /// The next answer.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Said> {
        let Some(first) = self.pending.front_mut() else {
            return Poll::Pending;
        };
        let said = match first.ready.take() {
            Some(said) => said,
            None => std::task::ready!(first.said.as_mut().poll(context)),
        };
        self.pending.pop_front();
        Poll::Ready(said)
    }

    fn begin(&mut self, frame: &Bytes, asking: &Arc<AtomicBool>) -> Result<(Soon<Said>, bool), Garbage> {
        let mut reader = Reader::new(frame, 0, false);
        let header = RequestHeader::read(&mut reader)?;
        let Some(api) = apis::find(header.key) else {
            return Err(Garbage("there is no such API here"));
        };
        let version = header.version;
        if !(api.min..=api.max).contains(&version) {
            if header.key == apis::key::API_VERSIONS {
                return Ok((at_once(dispatch::unknown_version(&header)), false));
            }
            return Err(Garbage("a version of an API that was not offered"));
        }
        let flexible = version >= api.flexible;
        reader.become_message(version, flexible);
        reader.tags()?;
        let call = Call { header, flexible, peer: self.peer.clone(), asking: asking.clone() };
        if !self.may_stay() {
            return Err(Garbage("its user is gone, or may not be here any more"));
        }
        match (call.header.key, &mut self.trust) {
            (apis::key::SASL_HANDSHAKE, _) => {
                let request = dispatch::read(&mut reader)?;
                let answer = self.handshake(&request, version);
                Ok((at_once(dispatch::said(&call, &answer)), false))
            }
            (apis::key::SASL_AUTHENTICATE, _) => {
                let request = dispatch::read(&mut reader)?;
                let answer = self.authenticate(&request);
                Ok((at_once(dispatch::said(&call, &answer)), false))
            }
            (apis::key::API_VERSIONS, _) | (_, Trust::Friend) => {
                let is_produce = call.header.key == apis::key::PRODUCE;
                Ok((dispatch::dispatch(&self.door, call, &mut reader)?, is_produce))
            }
            _ => Err(Garbage("it has not shown who it is (SASL)")),
        }
    }

    /// Whether the user may still be here, where the users have changed since that was looked at.
    fn may_stay(&mut self) -> bool {
        let Some((before, seen)) = &mut self.user else { return true };
        let revision = self.door.registry.shard().users_bell.index();
        if *seen == revision {
            return true;
        }
        *seen = revision;
        let now = self.door.registry.shard().state().users().get(&before.name).cloned();
        let now = now.filter(|now| now.born == before.user.born).map(|user| Grant::new(&before.name, user));
        now.is_some_and(|now| access::may_enter(&now, Area::Topics))
    }

    fn handshake(&mut self, request: &SaslHandshakeRequest, version: i16) -> SaslHandshakeResponse {
        let mechanisms: Vec<String> = Mechanism::ALL.iter().map(|known| known.name().to_owned()).collect();
        let error = match (&self.trust, Mechanism::of(&request.mechanism)) {
            // Version 0 would go on without frames of its own; no client that is not ten years old does.
            _ if version == 0 => errors::UNSUPPORTED_SASL_MECHANISM,
            (_, None) => errors::UNSUPPORTED_SASL_MECHANISM,
            (Trust::Friend, Some(_)) if self.door.knows_nobody() => errors::ILLEGAL_SASL_STATE,
            (_, Some(mechanism)) => {
                self.trust = Trust::Proving(Proof::new(mechanism));
                errors::NONE
            }
        };
        SaslHandshakeResponse { error, mechanisms }
    }

    fn authenticate(&mut self, request: &SaslAuthenticateRequest) -> SaslAuthenticateResponse {
        let refused = |error, message: &str| SaslAuthenticateResponse {
            error,
            message: Some(message.to_owned()),
            ..SaslAuthenticateResponse::default()
        };
        let door = self.door.clone();
        let Trust::Proving(proof) = &mut self.trust else {
            return refused(errors::ILLEGAL_SASL_STATE, "SaslHandshake comes first");
        };
        match proof.step(&*door, &request.bytes, door.world.random()) {
            Step::More(bytes) => {
                SaslAuthenticateResponse { bytes: bytes.into(), ..SaslAuthenticateResponse::default() }
            }
            Step::Proven(bytes) => {
                let revision = door.registry.shard().users_bell.index();
                let is_own = door.config.user.as_ref().is_some_and(|user| user.is(&proof.name));
                self.user = door.guest(&proof.name).filter(|_| !is_own).map(|grant| (grant, revision));
                self.trust = Trust::Friend;
                SaslAuthenticateResponse { bytes: bytes.into(), ..SaslAuthenticateResponse::default() }
            }
            Step::Failed(why) => {
                self.trust = Trust::Stranger;
                door.counters.auth_failures.fetch_add(1, Ordering::Relaxed);
                refused(errors::SASL_AUTHENTICATION_FAILED, why)
            }
        }
    }
}

impl Door {
    /// A user of the access control list who may come in here.
    fn guest(&self, name: &str) -> Option<Arc<Grant>> {
        let user = self.registry.shard().state().users().get(name.as_bytes()).cloned()?;
        let grant = Grant::new(name.as_bytes(), user);
        (grant.user.enabled && access::may_enter(&grant, Area::Topics)).then(|| Arc::new(grant))
    }

    /// Whether there is nobody who could say who they are.
    fn knows_nobody(&self) -> bool {
        self.config.user.is_none() && self.registry.shard().state().users().is_empty()
    }
}

impl sasl::Directory for Door {
    fn is_right(&self, name: &str, password: &[u8]) -> bool {
        if let Some(own) = self.config.user.as_ref().filter(|own| own.is(name)) {
            return own.is_right(name, password);
        }
        // Nobody's password takes as long.
        let known = self.guest(name);
        let nobody = users::User::default();
        access::is_right(known.as_ref().map_or(&nobody, |grant| &grant.user), password)
    }

    fn kept(&self, name: &str) -> Vec<users::Proof> {
        if let Some(own) = self.config.user.as_ref().filter(|own| own.is(name)) {
            return own.kept(name);
        }
        let known = self.guest(name);
        let passwords = known.iter().flat_map(|grant| &grant.user.passwords);
        passwords.filter_map(|password| password.proof.clone()).collect()
    }
}

fn at_once(said: Said) -> Soon<Said> {
    Box::pin(std::future::ready(said))
}

#[cfg(test)]
mod tests;

//! Links between the nodes of a cluster: who may speak, what is sent in which order, and what is told when it cannot be.
//!
//! ```text
//! node 1 ── hello ─────────▶ node 2      the link that node 1 dialled: its messages and questions, in order;
//!        ── message … ask ─▶             back come the welcome, signs of life and answers to its questions
//!        ◀─ welcome, answer, pong ──
//! node 1 ◀── the same from node 2 ──     the link that node 2 dialled
//! node 1 ── snapshot stream ─▶           a connection of its own per stream, so that it holds up no heartbeat
//! ```
//!
//! Each node dials every other one and sends on its own link only, so the order of what it sends is the order of one TCP
//! connection; consensus and the doors take turns on it, each in its own order. A pair is *up* while both links stand: what was asked on one is answered on the other.
//!
//! Always mutual TLS 1.3. A node is who its certificate says ([`identity`]): the cluster's own authority signed it, its name is
//! `node-N.CLUSTER.quorate`, and where the directory knows the node, the key must be the one that it joined with. So neither a
//! client's certificate nor a node that was removed opens a link, though the same authority signed both.
//!
//! **Invariants:** what is taken by [`Peers::send`] is delivered, each kind in order, or [`Handler::unreachable`] is told; messages of one link
//! are handed over by one task. Whatever comes from outside has a bound and never panics. Nobody waits for a slow node.
//! **Absent:** what messages mean, retries of anything but connecting and streams of snapshots, and who belongs to the cluster
//! (that is [`Directory`], told by whoever knows).

mod dial;
mod frame;
mod handler;
pub mod identity;
mod incoming;
pub mod join;
pub mod keys;
mod pair;
mod shared;
mod snapshots;
#[cfg(test)]
mod tests;
mod tls;
pub mod token;
mod words;

pub use handler::{Handler, Later, Message};
pub use identity::Identity;
pub use token::Token;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base::{GroupId, Limits, NodeId};
use bytes::Bytes;
use consensus::Envelope;
use tokio::net::TcpListener;

use self::pair::Peer;
use self::shared::Shared;
use crate::files::Directory as DataDirectory;

/// SHA-256 of a node's public key (SubjectPublicKeyInfo): what the cluster remembers of it.
pub type KeyPin = [u8; 32];

/// Where a node listens for its peers, and what it proves itself by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// `host:port`, the best first; names are looked up at every attempt.
    pub addresses: Vec<String>,
    /// The key that it joined with.
    pub key: KeyPin,
}

/// Who belongs to the cluster, as far as this node has applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// All nodes, this one included.
    pub nodes: BTreeMap<NodeId, PeerAddress>,
    /// The greatest id ever given. Ids are given in order and never again: who is not in `nodes` and not above this has left. Above it
    /// is somebody who joined while this node was away; he may send the log, which will tell of him, and nothing else.
    pub newest: u64,
}

/// How links behave. The defaults are for machines of one data centre.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where others reach this node, told to those who do not know it yet: `host:port`, the best first.
    pub advertise: Vec<String>,
    /// An idle link says that it lives this often.
    pub ping: Duration,
    /// A link is dead when nothing came for so long.
    pub silence: Duration,
    /// The first pause before a node is dialled again; it doubles, with jitter, up to `backoff_max`.
    pub backoff: Duration,
    /// And no longer than this.
    pub backoff_max: Duration,
    /// Until a connection stands, TLS and hello included.
    pub handshake: Duration,
    /// Bytes a second of all streams of snapshots that this node sends; 0: as fast as it goes.
    pub snapshot_bytes_per_second: u64,
    /// A stream of a snapshot that came no further for so long is given up.
    pub snapshot_patience: Duration,
    /// Bounds, and how often they were hit.
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            advertise: Vec::new(),
            ping: Duration::from_millis(500),
            silence: Duration::from_secs(2),
            backoff: Duration::from_millis(50),
            backoff_max: Duration::from_secs(1),
            handshake: Duration::from_secs(5),
            snapshot_bytes_per_second: 64 << 20,
            snapshot_patience: Duration::from_secs(30),
            limits: Limits::DEFAULT,
        }
    }
}

/// Why a question has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AskError {
    /// It was not sent: nothing has happened there.
    NotSent,
    /// It was sent and no answer came: whether it was acted on is unknown.
    Unknown,
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AskError::NotSent => "that node cannot be reached at the moment",
            AskError::Unknown => "that node did not answer; whether it did what it was asked is unknown",
        })
    }
}

impl std::error::Error for AskError {}

/// A link as it is at the moment, for people.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LinkStatus {
    /// The other node; 0 only in a default.
    pub node: u64,
    /// The address that was last dialled.
    pub address: String,
    /// Our link to it stands.
    pub out_up: bool,
    /// Its link to us stands.
    pub in_up: bool,
    /// How long both have stood.
    pub up_for: Option<Duration>,
    /// How long ago anything was heard of it, on either.
    pub heard: Option<Duration>,
    /// The last round of a ping.
    pub rtt: Option<Duration>,
    /// Bytes in frames sent to it since this node started.
    pub bytes_out: u64,
    /// Bytes in frames that came.
    pub bytes_in: u64,
    /// Messages and questions sent to it.
    pub messages_out: u64,
    /// Messages and questions that came.
    pub messages_in: u64,
    /// Bytes that wait to be sent.
    pub queued_bytes: u64,
    /// How often our link has been made.
    pub connects: u64,
    /// Why the last attempt or link ended, in words; empty: none has.
    pub error: String,
}

impl LinkStatus {
    /// Whether both links stand: what is asked is answered.
    pub fn is_up(&self) -> bool {
        self.out_up && self.in_up
    }
}

struct Inner {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop.send_replace(true);
    }
}

/// The links of this node. Clones are handles of the same; when the last one goes, the links end.
#[derive(Clone)]
pub struct Peers(Arc<Inner>);

impl Peers {
    /// Listens for peers, and dials those that the directory will name. `disk` is the data directory: snapshots are read from it and
    /// written to it. Must be called on a tokio runtime, which the links then use.
    ///
    /// # Errors
    /// The identity is not usable: a sentence for people.
    pub fn start(
        listener: TcpListener,
        identity: Identity,
        disk: DataDirectory,
        settings: Settings,
        handler: Arc<dyn Handler>,
    ) -> Result<Peers, String> {
        let shared = Arc::new(Shared::new(identity, disk, settings, handler)?);
        let runtime = tokio::runtime::Handle::current();
        runtime.spawn(incoming::listen(shared.clone(), listener));
        Ok(Peers(Arc::new(Inner { shared, runtime })))
    }

    /// Who belongs to the cluster now. New nodes are dialled, changed addresses take effect at the next attempt, and who left is cut
    /// off and refused.
    pub fn set_directory(&self, directory: &Directory) {
        for peer in self.0.shared.learn(directory) {
            self.0.runtime.spawn(incoming::keep_until_stopped(self.0.shared.clone(), peer));
        }
    }

    /// Where those nodes are whose links to us stand, by their own word: `host:port`, the best first. What another node that does not find
    /// them may be told.
    pub fn whereabouts(&self) -> BTreeMap<NodeId, Vec<String>> {
        let peers = self.0.shared.peers.read();
        let standing = peers.iter().filter(|(_, peer)| peer.status().in_up);
        standing.map(|(node, peer)| (*node, peer.place.lock().learned.clone())).collect()
    }

    /// A third node says where `node` is. It is dialled there too, at once; who answers there must show the key of `node` all the same.
    pub fn hint(&self, node: NodeId, addresses: Vec<String>) {
        if let Some(peer) = self.0.shared.peer(node) {
            let mut place = peer.place.lock();
            if place.learned != addresses {
                place.learned = addresses;
                peer.kick.notify_one();
            }
        }
    }

    /// Queues a message behind those of its kind before it; never waits. False: nothing was queued, for the link is down, or its queue is full
    /// (then [`Handler::unreachable`] is told as well). Messages of consensus need our own link only, those of the doors the pair
    /// ([`Handler::link`]). True promises no delivery: if the link breaks, the handler is told.
    pub fn send(&self, to: NodeId, message: Message) -> bool {
        let shared = &self.0.shared;
        shared.peers.read().get(&to).is_some_and(|peer| peer.send(message, &shared.settings))
    }

    /// Asks another node and waits for its answer, for `timeout` at most. Dropping it takes the question back, if it has not been sent.
    ///
    /// # Errors
    /// See [`AskError`]: only after `NotSent` may a question that changes something be asked again.
    pub async fn ask(&self, to: NodeId, request: Bytes, timeout: Duration) -> Result<Bytes, AskError> {
        struct Waits<'a>(&'a Peer, u64);
        impl Drop for Waits<'_> {
            fn drop(&mut self) {
                self.0.forget(self.1);
            }
        }
        let shared = &self.0.shared;
        let peer = shared.peer(to).ok_or(AskError::NotSent)?;
        let (number, answered) = peer.ask(request, &shared.settings)?;
        let waits = Waits(&peer, number);
        match tokio::time::timeout(timeout, answered).await {
            Ok(answer) => answer.unwrap_or(Err(AskError::Unknown)),
            Err(_) => Err(waits.0.forget(number)),
        }
    }

    /// Streams the group's snapshot file at `index` to a node, the announcement last. [`Handler::snapshot_sent`] is told what became
    /// of it, whatever it is; a connection that breaks meanwhile is no end, the rest follows on the next.
    pub fn send_snapshot(&self, group: GroupId, to: NodeId, index: u64, announcement: Envelope) {
        self.0.runtime.spawn(snapshots::send(self.0.shared.clone(), group, to, index, announcement));
    }

    /// All links, by node.
    pub fn links(&self) -> Vec<LinkStatus> {
        let peers: Vec<Arc<Peer>> = self.0.shared.peers.read().values().cloned().collect();
        peers.iter().map(|peer| peer.status()).collect()
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.0.shared.identity
    }

    /// Ends all links and listens no more.
    pub fn stop(&self) {
        self.0.shared.stop.send_replace(true);
    }
}

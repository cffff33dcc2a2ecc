//! What all links of a node share: who it is, whom it knows, and what it has told people.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use base::{Limit, NodeId};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::handler::Handler;
use super::identity::Identity;
use super::pair::{Peer, Place};
use super::snapshots::Streams;
use super::words::Hello;
use super::{Directory, KeyPin, Settings, tls};
use crate::files::Directory as DataDirectory;

/// Nodes that the directory does not know yet and that may speak all the same.
const STRANGERS_MAX: usize = 64;
/// Things told to people that are remembered, so as not to be told again.
const TOLD_MAX: usize = 1024;
/// Connections that have not proven who they are.
const HANDSHAKES_MAX: usize = 64;
/// Requests to join that are thought about.
const JOINS_MAX: usize = 16;

/// Connections that have not proven who they are, the oldest first.
#[derive(Default)]
struct Handshakes {
    number: u64,
    running: VecDeque<(u64, Arc<Notify>)>,
}

/// A connection's place among those that have not proven who they are; it goes with this.
pub struct Handshake<'a> {
    shared: &'a Shared,
    number: u64,
    /// It has to give way.
    pub stop: Arc<Notify>,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.shared.handshakes.lock().running.retain(|(number, _)| *number != self.number);
    }
}

/// See the module.
pub struct Shared {
    pub identity: Identity,
    pub settings: Settings,
    pub handler: Arc<dyn Handler>,
    pub acceptor: TlsAcceptor,
    pub connector: TlsConnector,
    pub peers: RwLock<BTreeMap<NodeId, Arc<Peer>>>,
    pub streams: Streams,
    handshakes: Mutex<Handshakes>,
    pub joins: Arc<Semaphore>,
    /// True once all is to end.
    pub stop: watch::Sender<bool>,
    newest: Mutex<u64>,
    /// About whom, and why.
    told: Mutex<BTreeSet<(String, String)>>,
}

impl Shared {
    pub fn new(
        identity: Identity,
        disk: DataDirectory,
        settings: Settings,
        handler: Arc<dyn Handler>,
    ) -> Result<Shared, String> {
        Ok(Shared {
            acceptor: tls::server(&identity)?.into(),
            connector: tls::client(&identity)?.into(),
            streams: Streams::new(disk, &settings),
            identity,
            settings,
            handler,
            peers: RwLock::default(),
            handshakes: Mutex::default(),
            joins: Arc::new(Semaphore::new(JOINS_MAX)),
            stop: watch::Sender::new(false),
            newest: Mutex::new(0),
            told: Mutex::default(),
        })
    }

    /// A place for a connection that has not proven who it is. Where there are too many, the oldest gives way: a node needs
    /// milliseconds, and whoever only holds a place keeps nobody out.
    pub fn shakes_hands(&self) -> Handshake<'_> {
        let mut handshakes = self.handshakes.lock();
        if handshakes.running.len() >= HANDSHAKES_MAX
            && let Some((_, oldest)) = handshakes.running.pop_front()
        {
            self.settings.limits.hit(Limit::peer_handshakes_max);
            oldest.notify_one();
        }
        handshakes.number += 1;
        let (number, stop) = (handshakes.number, Arc::new(Notify::new()));
        handshakes.running.push_back((number, stop.clone()));
        Handshake { shared: self, number, stop }
    }

    /// The node, if it is known.
    pub fn peer(&self, node: NodeId) -> Option<Arc<Peer>> {
        self.peers.read().get(&node).cloned()
    }

    /// Resolves once all is to end.
    pub async fn stopped(&self) {
        // The sender lives in `self`.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }

    /// Tells people `sentence`, unless they have been told of `about` for this reason since it was last well.
    pub fn tell(&self, about: &str, why: &str, sentence: &str) {
        {
            let mut told = self.told.lock();
            if told.len() >= TOLD_MAX {
                told.clear();
            }
            if !told.insert((about.to_owned(), why.to_owned())) {
                return;
            }
        }
        self.handler.tell(sentence);
    }

    /// It is well again: what was told of it may be told once more.
    pub fn untell(&self, about: &str) {
        self.told.lock().retain(|(of, _)| of != about);
    }

    /// Takes in a new directory. The nodes that are to be dialled from now on.
    pub fn learn(&self, directory: &Directory) -> Vec<Arc<Peer>> {
        let (mut fresh, mut gone, mut met) = (Vec::new(), Vec::new(), Vec::new());
        {
            let mut newest = self.newest.lock();
            *newest = (*newest).max(directory.newest);
            let newest = *newest;
            let mut peers = self.peers.write();
            peers.retain(|node, peer| {
                let address = directory.nodes.get(node);
                let stays = match address {
                    // Somebody with another key spoke in its name before the directory knew it.
                    Some(address) => peer.place.lock().pin.is_none_or(|pin| pin == address.key),
                    None => node.0 > newest,
                };
                if !stays {
                    gone.push(peer.clone());
                }
                stays
            });
            for (node, address) in directory.nodes.iter().filter(|(node, _)| **node != self.identity.node) {
                let peer = peers.entry(*node).or_insert_with(|| {
                    let peer = Arc::new(Peer::new(*node, Place::default()));
                    fresh.push(peer.clone());
                    peer
                });
                let mut place = peer.place.lock();
                if place.told != address.addresses {
                    place.told.clone_from(&address.addresses);
                    peer.kick.notify_one();
                }
                place.pin = Some(address.key);
                if !std::mem::replace(&mut place.member, true) {
                    met.push(peer.clone());
                }
            }
        }
        // Without the locks: the handler is told, and may send to others.
        gone.iter().for_each(|peer| peer.remove(&*self.handler));
        met.iter().for_each(|peer| peer.meet(&*self.handler));
        fresh
    }

    /// Whether somebody who has proven to hold this certificate's key may speak as the node of its hello; and whether it was
    /// unknown, so that it has to be dialled.
    ///
    /// # Errors
    /// Why not, for both ends.
    pub fn admit(&self, hello: &Hello, pin: KeyPin) -> Result<(Arc<Peer>, bool), String> {
        let (node, own) = (hello.node, self.identity.node);
        if hello.cluster != self.identity.cluster {
            return Err(format!("it belongs to cluster {}, this node to {}", hello.cluster, self.identity.cluster));
        }
        if node == own {
            return Err(format!(
                "both call themselves {own}: a data directory may be used by one node only, and not be copied"
            ));
        }
        if hello.to != own {
            return Err(format!("it looks for {}, this is {own}", hello.to));
        }
        let newest = *self.newest.lock();
        let mut peers = self.peers.write();
        let (peer, fresh) = match peers.get(&node) {
            Some(peer) => (peer.clone(), false),
            None if node.0 <= newest => return Err(format!("{node} has left the cluster")),
            None if peers.values().filter(|peer| !peer.place.lock().member).count() >= STRANGERS_MAX => {
                self.settings.limits.hit(Limit::peer_strangers_max);
                return Err(format!("{node} is not known here yet, and neither are too many others"));
            }
            None => {
                let peer = Arc::new(Peer::new(node, Place { pin: Some(pin), ..Place::default() }));
                peers.insert(node, peer.clone());
                (peer, true)
            }
        };
        drop(peers);
        let mut place = peer.place.lock();
        if place.pin.is_some_and(|known| known != pin) {
            return Err(format!("its key is not the one that {node} joined with"));
        }
        place.learned.clone_from(&hello.advertise);
        drop(place);
        Ok((peer, fresh))
    }
}

//! Real sockets on loopback. Whoever waits, waits for a condition, and not for ever.

mod joins;
mod limits;
mod links;
mod refused;
mod streams;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use base::{ClusterId, GroupId, Limits, NodeId};
use bytes::Bytes;
use consensus::Envelope;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

use super::join::{Accepted, Request};
use super::keys::{Authority, Key};
use super::{Directory, Handler, Identity, Later, LinkStatus, Message, PeerAddress, Peers, Settings};

/// Long enough for a machine that does other things too.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that goes with the test.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new() -> Scratch {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("quorate-peers-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for tests");
        Scratch(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The ids of a test's cluster.
fn founded() -> (ClusterId, Authority) {
    let cluster = ClusterId(super::keys::random().expect("random bytes"));
    (cluster, Authority::found(cluster).expect("random bytes"))
}

fn identity(cluster: ClusterId, authority: &Authority, node: u64) -> Identity {
    let key = Key::create().expect("random bytes");
    let certificate = authority.sign_node(NodeId(node), &key.public()).expect("random bytes");
    Identity { cluster, node: NodeId(node), authority: authority.clone(), certificate, key, started: false }
}

fn identities(count: u64) -> Vec<Identity> {
    let (cluster, authority) = founded();
    (1..=count).map(|node| identity(cluster, &authority, node)).collect()
}

/// What a handler was told.
#[derive(Debug, Default)]
struct Told {
    messages: Vec<(u64, Message)>,
    unreachable: Vec<u64>,
    links: Vec<(u64, bool)>,
    asked: Vec<Bytes>,
    sent: Vec<(GroupId, u64, bool)>,
    arrived: Vec<(u64, GroupId, u64)>,
    sentences: Vec<String>,
}

/// Remembers what it was told.
#[derive(Default)]
struct Recorder {
    told: Mutex<Told>,
    news: Notify,
    /// Questions are not answered while this is set.
    mute: AtomicBool,
    /// The hash of the token that opens the door.
    token: Mutex<Option<[u8; 32]>>,
    joined: Mutex<BTreeMap<Bytes, u64>>,
}

impl Recorder {
    fn note(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.told.lock());
        self.news.notify_waiters();
    }

    /// Waits until something is so.
    async fn until(&self, what: &str, is_so: impl Fn(&Told) -> bool) {
        let wait = async {
            loop {
                let news = self.news.notified();
                tokio::pin!(news);
                news.as_mut().enable();
                if is_so(&self.told.lock()) {
                    return;
                }
                news.await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let told = self.told.lock();
            panic!("never: {what}; {} messages, links {:?}, {:?}", told.messages.len(), told.links, told.sentences);
        }
    }

    async fn says(&self, words: &str) {
        self.until(words, |told| told.sentences.iter().any(|sentence| sentence.contains(words))).await;
    }

    async fn is_up(&self, node: u64) {
        self.until("the link is up", |told| {
            told.links.iter().rev().find(|(of, _)| *of == node).is_some_and(|(_, up)| *up)
        })
        .await;
    }

    async fn is_down(&self, node: u64) {
        self.until("the link is down", |told| {
            told.links.iter().rev().find(|(of, _)| *of == node).is_some_and(|(_, up)| !*up)
        })
        .await;
    }
}

impl Handler for Recorder {
    fn message(&self, from: NodeId, message: Message) {
        self.note(|told| told.messages.push((from.0, message)));
    }

    fn unreachable(&self, node: NodeId) {
        self.note(|told| told.unreachable.push(node.0));
    }

    fn link(&self, node: NodeId, up: bool) {
        self.note(|told| {
            let before = told.links.iter().rev().find(|(of, _)| *of == node.0).is_some_and(|(_, up)| *up);
            assert_ne!(before, up, "up and down alternate");
            told.links.push((node.0, up));
        });
    }

    fn ask(&self, from: NodeId, request: Bytes) -> Later<Bytes> {
        self.note(|told| told.asked.push(request.clone()));
        let mute = self.mute.load(Ordering::Relaxed);
        Box::pin(async move {
            if mute {
                std::future::pending::<()>().await;
            }
            [format!("{from}: ").as_bytes(), &request[..]].concat().into()
        })
    }

    fn snapshot_sent(&self, group: GroupId, to: NodeId, ok: bool) {
        self.note(|told| told.sent.push((group, to.0, ok)));
    }

    fn snapshot_arrived(&self, from: NodeId, group: GroupId, index: u64, _: Envelope) -> Later<Result<(), String>> {
        self.note(|told| told.arrived.push((from.0, group, index)));
        Box::pin(async { Ok(()) })
    }

    fn join(&self, request: Request) -> Later<Result<Accepted, String>> {
        let known = *self.token.lock() == Some(request.token);
        let mut joined = self.joined.lock();
        let next = 10 + joined.len() as u64;
        let node = NodeId(*joined.entry(request.key).or_insert(next));
        let details = [b"welcome, ", &request.details[..]].concat().into();
        Box::pin(async move {
            if known { Ok(Accepted { node, details }) } else { Err("this token has been used or withdrawn".to_owned()) }
        })
    }

    fn tell(&self, sentence: &str) {
        self.note(|told| told.sentences.push(sentence.to_owned()));
    }
}

/// A node's links, and what they tell.
struct Node {
    id: NodeId,
    identity: Identity,
    peers: Peers,
    told: Arc<Recorder>,
    address: SocketAddr,
    limits: Limits,
    scratch: Scratch,
}

/// Quick, and patient enough for a busy machine.
fn quick() -> Settings {
    Settings {
        ping: Duration::from_millis(100),
        silence: Duration::from_secs(1),
        backoff: Duration::from_millis(20),
        backoff_max: Duration::from_millis(100),
        snapshot_patience: Duration::from_secs(10),
        limits: Limits::DEFAULT.counting(),
        ..Settings::default()
    }
}

impl Node {
    async fn start(identity: &Identity) -> Node {
        Node::start_at(identity, "127.0.0.1:0".parse().expect("an address"), quick()).await
    }

    async fn start_at(identity: &Identity, address: SocketAddr, settings: Settings) -> Node {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (scratch, told) = (Scratch::new(), Arc::new(Recorder::default()));
        let disk = crate::files::Directory::open(scratch.path()).expect("a directory");
        let limits = settings.limits.clone();
        let settings = Settings { advertise: vec![address.to_string()], ..settings };
        let peers = Peers::start(listener, identity.clone(), disk, settings, told.clone()).expect("a good identity");
        Node { id: identity.node, identity: identity.clone(), peers, told, address, limits, scratch }
    }

    fn send(&self, to: &Node, number: u64) -> bool {
        self.peers.send(to.id, Message::Raft(raft(self.id.0, to.id.0, number)))
    }

    fn link(&self, to: &Node) -> LinkStatus {
        self.peers.links().into_iter().find(|link| link.node == to.id.0).expect("it is known")
    }

    fn place(&self) -> (NodeId, PeerAddress) {
        (self.id, PeerAddress { addresses: vec![self.address.to_string()], key: self.identity.pin() })
    }
}

fn directory(nodes: &[&Node]) -> Directory {
    let nodes: BTreeMap<NodeId, PeerAddress> = nodes.iter().map(|node| node.place()).collect();
    let newest = nodes.keys().last().map_or(0, |node| node.0);
    Directory { nodes, newest }
}

/// The same, with another way to one of them.
fn directory_by(nodes: &[&Node], to: &Node, way: SocketAddr) -> Directory {
    let mut directory = directory(nodes);
    directory.nodes.get_mut(&to.id).expect("it is one of them").addresses = vec![way.to_string()];
    directory
}

/// Two nodes that know each other and whose links stand.
async fn two() -> (Node, Node) {
    let who = identities(2);
    let (one, two) = (Node::start(&who[0]).await, Node::start(&who[1]).await);
    let directory = directory(&[&one, &two]);
    one.peers.set_directory(&directory);
    two.peers.set_directory(&directory);
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    (one, two)
}

/// A message of consensus whose term says which it is. (An append: kind 3, to, from, term.)
fn raft(from: u64, to: u64, number: u64) -> Envelope {
    let mut bytes = vec![1, 7, 0, 0, 0, 0x08, 3, 0x10];
    let varint = |mut number: u64, out: &mut Vec<u8>| {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    };
    varint(to, &mut bytes);
    bytes.push(0x18);
    varint(from, &mut bytes);
    bytes.push(0x20);
    varint(number, &mut bytes);
    Envelope::decode(bytes.into()).expect("it is one")
}

fn number(message: &Message) -> u64 {
    match message {
        Message::Raft(envelope) => envelope.term(),
        Message::Forward(bytes) => u64::from_le_bytes(*bytes.first_chunk().expect("it begins with a number")),
    }
}

/// A way between two nodes that can be cut, and that can swallow everything.
struct Way {
    address: SocketAddr,
    cut: Arc<Notify>,
    swallow: watch::Sender<bool>,
    /// Bytes until it cuts itself, once.
    fuse: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
}

impl Way {
    async fn to(target: SocketAddr) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let way = Way {
            address: listener.local_addr().expect("it is bound"),
            cut: Arc::new(Notify::new()),
            swallow: watch::Sender::new(false),
            fuse: Arc::new(AtomicU64::new(u64::MAX)),
            carried: Arc::default(),
        };
        let (cut, swallow, fuse, carried) =
            (way.cut.clone(), way.swallow.subscribe(), way.fuse.clone(), way.carried.clone());
        tokio::spawn(async move {
            while let Ok((here, _)) = listener.accept().await {
                let (cut, swallow, fuse, carried) = (cut.clone(), swallow.clone(), fuse.clone(), carried.clone());
                tokio::spawn(async move {
                    let Ok(there) = TcpStream::connect(target).await else { return };
                    let (from_here, to_here) = here.into_split();
                    let (from_there, to_there) = there.into_split();
                    tokio::select! {
                        () = pump(from_here, to_there, swallow.clone(), fuse.clone(), carried.clone()) => {}
                        () = pump(from_there, to_here, swallow, fuse, carried) => {}
                        () = cut.notified() => {}
                    }
                });
            }
        });
        way
    }

    /// Ends all connections.
    fn cut(&self) {
        self.cut.notify_waiters();
    }

    /// From now on nothing is read from either end, and nothing closed.
    fn swallow(&self, on: bool) {
        self.swallow.send_replace(on);
    }
}

async fn pump(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut swallow: watch::Receiver<bool>,
    fuse: Arc<AtomicU64>,
    carried: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        // Whoever made it has gone: then it ends.
        if count == 0 || swallow.wait_for(|swallow| !swallow).await.is_err() {
            return;
        }
        carried.fetch_add(count as u64, Ordering::Relaxed);
        let left = fuse.load(Ordering::Relaxed);
        if left != u64::MAX && left < count as u64 {
            fuse.store(u64::MAX, Ordering::Relaxed);
            return;
        }
        if left != u64::MAX {
            fuse.fetch_sub(count as u64, Ordering::Relaxed);
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}

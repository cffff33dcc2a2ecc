//! What a link between two nodes costs: `cargo run --release -p host --example links`.
//!
//! Two nodes in this process, on loopback, with TLS; the figures are of both ends together. `paced` sends 50,000 messages of 200 bytes a
//! second, a millisecond's worth at a time, as a busy group does; the others send as fast as the queue takes them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{GroupId, NodeId};
use bytes::Bytes;
use consensus::Envelope;
use host::files::Directory as DataDirectory;
use host::peers::join::{Accepted, Request};
use host::peers::{Directory, Handler, Identity, Later, Message, PeerAddress, Peers, Settings};

#[derive(Default)]
struct Counter {
    messages: AtomicU64,
    up: AtomicU64,
}

impl Handler for Counter {
    fn message(&self, _: NodeId, message: Message) {
        std::hint::black_box(&message);
        self.messages.fetch_add(1, Ordering::Relaxed);
    }

    fn unreachable(&self, _: NodeId) {}

    fn link(&self, _: NodeId, up: bool) {
        self.up.store(u64::from(up), Ordering::Relaxed);
    }

    fn ask(&self, _: NodeId, request: Bytes) -> Later<Bytes> {
        Box::pin(async move { request })
    }

    fn snapshot_sent(&self, _: GroupId, _: NodeId, _: bool) {}

    fn snapshot_arrived(&self, _: NodeId, _: GroupId, _: u64, _: Envelope) -> Later<Result<(), String>> {
        Box::pin(async { Ok(()) })
    }

    fn join(&self, _: Request) -> Later<Result<Accepted, String>> {
        Box::pin(async { Err("not here".to_owned()) })
    }
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let of_main = stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0u64);
    let mut all = 0;
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        all += stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0u64);
    }
    Duration::from_nanos(all.max(of_main))
}

struct Pair {
    one: Peers,
    two: Peers,
    heard: Arc<Counter>,
}

impl Pair {
    async fn make() -> Pair {
        let first = Identity::found().expect("random bytes");
        let key = host::peers::keys::Key::create().expect("random bytes");
        let certificate = first.authority.sign_node(NodeId(2), &key.public()).expect("random bytes");
        let second = Identity { node: NodeId(2), certificate, key, ..first.clone() };
        let disk = DataDirectory::open(&std::env::temp_dir()).expect("a directory");
        let mut nodes = BTreeMap::new();
        let mut made = Vec::new();
        for identity in [first, second] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it is bound").to_string();
            nodes.insert(identity.node, PeerAddress { addresses: vec![address], key: identity.pin() });
            let told = Arc::new(Counter::default());
            let peers = Peers::start(listener, identity, disk.clone(), Settings::default(), told.clone());
            made.push((peers.expect("a good identity"), told));
        }
        let directory = Directory { nodes, newest: 2 };
        made.iter().for_each(|(peers, _)| peers.set_directory(&directory));
        while made.iter().any(|(_, told)| told.up.load(Ordering::Relaxed) == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (two, heard) = made.pop().expect("two were made");
        let (one, _) = made.pop().expect("two were made");
        Pair { one, two, heard }
    }

    /// Sends `count` messages, `at_once` of them every millisecond, or as fast as they are taken.
    async fn run(&self, name: &str, message: &Message, count: u64, at_once: u64) {
        let (before, began, cpu_before) = (self.heard.messages.load(Ordering::Relaxed), Instant::now(), cpu());
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        let mut sent = 0;
        while sent < count {
            if at_once > 0 {
                tick.tick().await;
            }
            let until = count.min(sent + if at_once > 0 { at_once } else { 512 });
            while sent < until {
                if self.one.send(NodeId(2), message.clone()) {
                    sent += 1;
                } else {
                    tokio::task::yield_now().await;
                }
            }
            if at_once == 0 {
                tokio::task::yield_now().await;
            }
        }
        while self.heard.messages.load(Ordering::Relaxed) < before + count {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
        let (took, used) = (began.elapsed().as_secs_f64(), (cpu() - cpu_before).as_secs_f64());
        let bytes = match message {
            Message::Forward(bytes) => bytes.len(),
            Message::Raft(envelope) => envelope.encoded_len(),
        };
        println!(
            "{name:28} {:>9.0} messages/s {:>7.0} MB/s  CPU of both ends {:>6.2} µs/message, {:>5.2} s/GB, {:>4.0} % of a core, rtt {:?}",
            count as f64 / took,
            count as f64 * bytes as f64 / took / 1e6,
            used * 1e6 / count as f64,
            used / (count as f64 * bytes as f64 / 1e9),
            used / took * 100.0,
            self.one.links().first().and_then(|link| link.rtt).unwrap_or_default(),
        );
    }
}

/// An append whose entry has so many bytes: kind, to, from, term, and an entry (7) of term, index and data (4).
fn append(bytes: usize) -> Message {
    let varint = |mut number: usize, out: &mut Vec<u8>| {
        while number >= 0x80 {
            out.push(number as u8 | 0x80);
            number >>= 7;
        }
        out.push(number as u8);
    };
    let mut entry = vec![0x10, 5, 0x18, 9, 0x22];
    varint(bytes, &mut entry);
    entry.resize(entry.len() + bytes, 7);
    let mut out = vec![1, 0, 0, 0, 0, 0x08, 3, 0x10, 2, 0x18, 1, 0x20, 5, 0x3a];
    varint(entry.len(), &mut out);
    out.extend_from_slice(&entry);
    Message::Raft(Envelope::decode(out.into()).expect("it is an append"))
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let pair = Pair::make().await;
    let small = Message::Forward(vec![7; 200].into());
    pair.run("warm", &small, 200_000, 0).await;
    pair.run("200 B forward, paced", &small, 250_000, 50).await;
    pair.run("200 B append, paced", &append(200), 250_000, 50).await;
    pair.run("200 B append, one a ms", &append(200), 5_000, 1).await;
    pair.run("200 B forward", &small, 2_000_000, 0).await;
    pair.run("200 B append", &append(200), 2_000_000, 0).await;
    pair.run("1 MB forward", &Message::Forward(vec![7; 1_000_000].into()), 4_000, 0).await;
    pair.run("1 MB append", &append(1_000_000), 4_000, 0).await;
    let began = Instant::now();
    for _ in 0..2_000 {
        pair.one.ask(NodeId(2), "x".into(), Duration::from_secs(5)).await.expect("an answer");
    }
    println!("a question in turn           {:>9.1} µs", began.elapsed().as_micros() as f64 / 2000.0);
    pair.two.stop();
}

//! Snapshots between nodes: whole, byte by byte the same, and what has come is not sent again.

use store::snapshot::{SnapshotWriter, snapshot_name};

use super::*;

const GROUP: GroupId = GroupId(7);

/// A snapshot of so many chunks of 64 KiB; its bytes.
fn write_snapshot(node: &Node, index: u64, chunks: usize) -> Vec<u8> {
    let disk = crate::files::Directory::open(node.scratch.path()).expect("a directory");
    let mut writer = SnapshotWriter::begin(&disk, GROUP, index, 3, b"members").expect("it can be written");
    let mut rng = base::Rng::new(index);
    for _ in 0..chunks {
        let chunk: Vec<u8> = (0..8192).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
        writer.chunk(&chunk).expect("it can be written");
    }
    writer.finish().expect("it can be written");
    std::fs::read(node.scratch.path().join(snapshot_name(GROUP, index))).expect("it is there")
}

fn arrived_bytes(node: &Node, index: u64) -> Vec<u8> {
    let name = snapshot_name(GROUP, index).replacen("snap", "inst", 1);
    std::fs::read(node.scratch.path().join(name)).expect("it is there")
}

async fn pair(settings: Settings) -> (Node, Node, Way) {
    let who = identities(2);
    let any = "127.0.0.1:0".parse().expect("an address");
    let (one, two) = (Node::start_at(&who[0], any, settings).await, Node::start(&who[1]).await);
    let way = Way::to(two.address).await;
    one.peers.set_directory(&directory_by(&[&one, &two], &two, way.address));
    two.peers.set_directory(&directory(&[&one, &two]));
    one.told.is_up(2).await;
    two.told.is_up(1).await;
    (one, two, way)
}

fn send(one: &Node, two: &Node, index: u64) {
    one.peers.send_snapshot(GROUP, two.id, index, raft(1, 2, index));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_comes_byte_by_byte_the_same_and_both_are_told() {
    let (one, two, _way) = pair(quick()).await;
    let bytes = write_snapshot(&one, 5, 40);
    send(&one, &two, 5);
    one.told.until("it is sent", |told| told.sent == [(GROUP, 2, true)]).await;
    assert_eq!(two.told.told.lock().arrived, [(1, GROUP, 5)]);
    assert!(arrived_bytes(&two, 5) == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_break_the_rest_follows_and_not_the_whole() {
    let (one, two, way) = pair(Settings { snapshot_bytes_per_second: 4 << 20, ..quick() }).await;
    let bytes = write_snapshot(&one, 6, 64);
    assert!(bytes.len() > 4 << 20);
    way.carried.store(0, Ordering::Relaxed);
    way.fuse.store(3 << 20, Ordering::Relaxed);
    let began = tokio::time::Instant::now();
    send(&one, &two, 6);
    one.told.until("it is sent", |told| told.sent == [(GROUP, 2, true)]).await;
    // The rate was kept over both connections, and most was sent once only.
    assert!(began.elapsed() >= Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(way.fuse.load(Ordering::Relaxed), u64::MAX, "it was cut");
    let carried = way.carried.load(Ordering::Relaxed);
    assert!(carried < bytes.len() as u64 + (2 << 20), "{carried} bytes for {}", bytes.len());
    assert!(arrived_bytes(&two, 6) == bytes);
    let told = two.told.told.lock();
    assert_eq!(told.arrived.len(), 1);
    drop(told);
    assert_eq!(one.told.told.lock().links.iter().filter(|(_, up)| !up).count(), 0, "the link itself was not cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeats_do_not_wait_for_a_snapshot() {
    let (one, two, _way) = pair(Settings { snapshot_bytes_per_second: 1 << 20, ..quick() }).await;
    write_snapshot(&one, 7, 32);
    send(&one, &two, 7);
    for number in 0..50 {
        assert!(one.send(&two, number));
        two.told.until("it comes", |told| told.messages.len() as u64 == number + 1).await;
    }
    assert!(two.told.told.lock().arrived.is_empty(), "the snapshot takes two seconds");
    one.told.until("it is sent", |told| !told.sent.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_cannot_be_sent_is_told_as_failed() {
    let (one, two, way) = pair(Settings { snapshot_patience: Duration::from_millis(300), ..quick() }).await;
    // There is none.
    send(&one, &two, 99);
    one.told.until("it is told", |told| told.sent == [(GROUP, 2, false)]).await;
    one.told.says("was not sent: it cannot be read").await;
    // It is damaged: the receiver finds it out, and keeps nothing.
    write_snapshot(&one, 8, 4);
    let path = one.scratch.path().join(snapshot_name(GROUP, 8));
    let mut bytes = std::fs::read(&path).expect("it is there");
    bytes[100_000] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    send(&one, &two, 8);
    one.told.until("it is told", |told| told.sent.len() == 2).await;
    one.told.says("fails its checksum").await;
    assert!(std::fs::read_dir(two.scratch.path()).expect("a directory").next().is_none());
    // Nobody is there.
    write_snapshot(&one, 9, 4);
    two.peers.stop();
    way.cut();
    send(&one, &two, 9);
    one.told.until("it is told", |told| told.sent.len() == 3).await;
    assert!(one.told.told.lock().sent.iter().all(|(_, _, ok)| !ok));
    // Nobody is known by that name.
    one.peers.send_snapshot(GROUP, NodeId(44), 9, raft(1, 44, 9));
    one.told.until("it is told", |told| told.sent.len() == 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_come_of_a_snapshot_is_taken_away_when_nobody_goes_on_with_it() {
    let who = identities(2);
    let any = "127.0.0.1:0".parse().expect("an address");
    let patience = || Settings { snapshot_patience: Duration::from_millis(200), ..quick() };
    let slow = Settings { snapshot_bytes_per_second: 1 << 20, ..patience() };
    let (one, two) = (Node::start_at(&who[0], any, slow).await, Node::start_at(&who[1], any, patience()).await);
    let both = directory(&[&one, &two]);
    one.peers.set_directory(&both);
    two.peers.set_directory(&both);
    one.told.is_up(2).await;
    write_snapshot(&one, 11, 64);
    send(&one, &two, 11);
    let files = || std::fs::read_dir(two.scratch.path()).expect("a directory").count();
    let becomes = async |count: usize| {
        while files() != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, becomes(1)).await.expect("it begins");
    one.peers.stop();
    tokio::time::timeout(PATIENCE, becomes(0)).await.expect("it is taken away");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_file_of_the_same_index_is_not_joined_to_what_has_come() {
    let (one, two, way) = pair(Settings { snapshot_bytes_per_second: 2 << 20, ..quick() }).await;
    write_snapshot(&one, 10, 32);
    way.fuse.store(1 << 20, Ordering::Relaxed);
    send(&one, &two, 10);
    let until = async {
        while way.fuse.load(Ordering::Relaxed) != u64::MAX {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, until).await.expect("it is cut");
    // A new leader's snapshot of the same index, with other bytes, takes its place.
    std::fs::remove_file(one.scratch.path().join(snapshot_name(GROUP, 10))).expect("it is there");
    let disk = crate::files::Directory::open(one.scratch.path()).expect("a directory");
    let mut writer = SnapshotWriter::begin(&disk, GROUP, 10, 3, b"members").expect("it can be written");
    (0..24).for_each(|_| writer.chunk(&[9; 65_536]).expect("it can be written"));
    writer.finish().expect("it can be written");
    let bytes = std::fs::read(one.scratch.path().join(snapshot_name(GROUP, 10))).expect("it is there");
    send(&one, &two, 10);
    one.told.until("both are told", |told| told.sent.len() == 2).await;
    assert!(!two.told.told.lock().arrived.is_empty());
    let _ = bytes;
    store::snapshot::SnapshotReader::open(
        &crate::files::Directory::open(two.scratch.path()).expect("a directory"),
        GROUP,
        10,
    )
    .map(|mut reader| {
        let mut chunk = Vec::new();
        while reader.chunk(&mut chunk).expect("it is whole") {}
    })
    .expect("it is whole");
}

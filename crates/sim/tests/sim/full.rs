//! A disk that fills up just when an append is under way: writes are refused, deletes go on.

use std::cell::Cell;

use base::{Instant, NodeId};
use shard::driver::Append;
use shard::live::{Refusal, Shard};
use shard::open::OpenOptions;
use shard::pending::Place;
use shard::reply::Protocol;
use sim::disk::VirtualDisk;
use sim::node::{Actor, Answer, Node, Step, Watch};
use store::disk::Disk;
use store::log::LogOptions;

/// Keeps answers, and the clock.
#[derive(Default)]
struct Scene {
    answers: Vec<(u64, String)>,
    time: Cell<u64>,
}

impl Watch for Scene {
    fn append(&mut self, _: &Append) -> Result<(), String> {
        Ok(())
    }
    fn durable(&mut self) {}
    fn step(&mut self, step: Step) -> Result<(), String> {
        for answer in step.answers {
            if let Answer::Reply(client, bytes) = answer {
                self.answers.push((client, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        Ok(())
    }
}

impl Scene {
    /// Lets everybody work until nobody has anything to do; `upkeep` says whether spare segments are made.
    fn settle(&mut self, node: &mut Node, upkeep: bool) {
        let actors = [Actor::Log, Actor::Upkeep, Actor::Snapshots];
        self.work(node, if upkeep { &actors } else { &[Actor::Log, Actor::Snapshots] });
    }

    /// The same while no snapshot gets anywhere.
    fn settle_without_snapshots(&mut self, node: &mut Node) {
        self.work(node, &[Actor::Log, Actor::Upkeep]);
    }

    fn work(&mut self, node: &mut Node, actors: &[Actor]) {
        for _ in 0..200 {
            self.time.set(self.time.get() + 1);
            let now = Instant(self.time.get() * 1_000_000);
            node.turn(now, 1_000_000 + self.time.get(), &mut || false, self).expect("nothing fatal");
            for actor in actors {
                if node.is_ready(*actor, now) {
                    node.act(*actor);
                }
            }
        }
    }

    fn ask(&mut self, node: &mut Node, client: u64, frees: bool, words: &[&[u8]]) {
        let shard: &Shard<u64> = &node.shards[1];
        shard.put(|batch| batch.command(Place::Logged, frees, client, 0, Protocol::Resp2, words));
        node.wake();
    }
}

#[test]
fn deletes_go_on_behind_an_append_that_found_the_disk_full() {
    const SEGMENT: u64 = 64 << 10;
    let disk = VirtualDisk::new();
    let log = LogOptions { segment_bytes: SEGMENT, ..LogOptions::default() };
    let options = OpenOptions::new(NodeId(1), 1, log);
    let mut node = Node::open(&disk, &options, 0, false, &mut || 7).expect("an empty disk");
    let mut scene = Scene::default();
    scene.settle(&mut node, true);
    disk.set_capacity(Some(disk.used()));
    // No spare is made any more, so that the driver does not hear of the full disk before an append does.
    let value = vec![b'x'; 10 << 10];
    let mut writes = 0;
    while node.shards[1].current_refusal().is_none() {
        writes += 1;
        assert!(writes < 30, "the disk never fills up");
        scene.ask(&mut node, writes, false, &[b"SET", format!("k{writes}").as_bytes(), &value]);
        scene.settle(&mut node, false);
    }
    assert_eq!(node.shards[1].current_refusal(), Some(Refusal::Full));
    assert_eq!(scene.answers.pop(), Some((writes, "+OK\r\n".into())), "the one that met the full disk");
    scene.ask(&mut node, 100, true, &[b"DEL", b"k1"]);
    scene.settle(&mut node, false);
    assert_eq!(scene.answers.pop(), Some((100, ":1\r\n".into())), "a delete goes on");
    scene.ask(&mut node, 101, false, &[b"SET", b"k", b"v"]);
    scene.settle(&mut node, false);
    let (client, answer) = scene.answers.pop().expect("a write is refused, not kept waiting");
    assert!(client == 101 && answer.starts_with("-MISCONF the disk is full"), "{answer}");
    disk.set_capacity(None);
    // The log's thread is idle now and then, and looks.
    node.act(Actor::Log);
    scene.settle(&mut node, true);
    scene.ask(&mut node, 102, false, &[b"SET", b"k", b"v"]);
    scene.settle(&mut node, true);
    assert_eq!(scene.answers.pop(), Some((102, "+OK\r\n".into())), "writing goes on without a restart");
}

/// Segments of the log on the disk.
fn segments(disk: &VirtualDisk) -> usize {
    disk.list().expect("it is there").iter().filter(|name| name.starts_with('0') && name.ends_with(".log")).count()
}

/// Writes to the data shard while the meta group stands still, in `lives` starts; the most segments that were there.
fn grow(lives: usize, writes: usize) -> usize {
    let disk = VirtualDisk::new();
    let log = LogOptions { segment_bytes: 8 << 10, ..LogOptions::default() };
    let options = OpenOptions { snapshot_log_bytes: 16 << 10, ..OpenOptions::new(NodeId(1), 1, log) };
    let (mut scene, mut most) = (Scene::default(), 0);
    for _ in 0..lives {
        let mut node = Node::open(&disk, &options, 0, false, &mut || 7).expect("an undamaged disk");
        scene.settle(&mut node, true);
        for write in 0..writes as u64 {
            scene.ask(&mut node, write, false, &[b"SET", b"k", &[b'x'; 1000]]);
            scene.settle(&mut node, true);
            assert_eq!(scene.answers.pop(), Some((write, "+OK\r\n".into())));
        }
        most = most.max(segments(&disk));
        node.seal().expect("the disk is well");
    }
    most
}

#[test]
fn a_group_that_stands_still_does_not_keep_the_log_of_the_others() {
    // 16 KiB of each of two groups, and what comes in while their snapshots are made.
    let most = grow(1, 400);
    assert!(most <= 10, "{most} segments of 8 KiB");
}

#[test]
fn many_short_lives_do_not_make_the_log_long() {
    let most = grow(100, 4);
    assert!(most <= 10, "{most} segments of 8 KiB");
}

#[test]
fn a_node_that_starts_with_a_full_log_makes_room_by_itself() {
    let disk = VirtualDisk::new();
    let log = LogOptions { segment_bytes: 8 << 10, bytes_max: 64 << 10, ..LogOptions::default() };
    let never = OpenOptions::new(NodeId(1), 1, log);
    let mut scene = Scene::default();
    let mut node = Node::open(&disk, &never, 0, false, &mut || 7).expect("an empty disk");
    let mut write = 0;
    while node.shards[1].current_refusal() != Some(Refusal::Full) {
        write += 1;
        assert!(write < 200, "the log never fills up");
        scene.ask(&mut node, write, false, &[b"SET", b"k", &[b'x'; 1000]]);
        // As if the node died before it could do anything about it.
        scene.settle_without_snapshots(&mut node);
    }
    drop(node);
    let mut node = Node::open(&disk, &never, 0, false, &mut || 7).expect("an undamaged disk");
    for _ in 0..3 {
        scene.settle(&mut node, true);
        // The log's thread is idle now and then, and looks.
        node.act(Actor::Log);
    }
    assert_eq!(node.shards[1].current_refusal(), None, "there is room again");
    scene.ask(&mut node, 1000, false, &[b"SET", b"k", b"v"]);
    scene.settle(&mut node, true);
    assert_eq!(scene.answers.pop(), Some((1000, "+OK\r\n".into())));
}

//! What topics hold, from the produce to where it is read: log, extent files, crashes at every step of the disk.

use std::collections::BTreeMap;

use base::{GroupId, Instant, NodeId, Rng};
use queue::partition::Isolation;
use queue::{Command, Outcome, TopicId, batch};
use shard::driver::Append;
use shard::open::OpenOptions;
use shard::topics::Stored;
use sim::disk::{Keep, VirtualDisk};
use sim::node::{Actor, Answer, Node, Step, Watch};
use store::disk::{ReadError, Wait};
use store::extent;
use store::log::LogOptions;

const GROUP: GroupId = GroupId(1);
const TOPIC: TopicId = TopicId(77);

#[derive(Default)]
struct Scene {
    answers: BTreeMap<u64, Outcome>,
    time: u64,
    next: u64,
    /// What was acknowledged: by partition, offsets and what stands there.
    stored: BTreeMap<u32, BTreeMap<u64, Vec<u8>>>,
}

impl Watch for Scene {
    fn append(&mut self, _: &Append) -> Result<(), String> {
        Ok(())
    }
    fn durable(&mut self) {}
    fn step(&mut self, step: Step) -> Result<(), String> {
        for answer in step.answers {
            if let Answer::Reply(client, bytes) = answer {
                self.answers.insert(client, Outcome::decode(&bytes).map_err(|corrupt| corrupt.to_string())?);
            }
        }
        Ok(())
    }
}

fn options(copies: bool) -> OpenOptions {
    let log = LogOptions { segment_bytes: 16 << 10, ..LogOptions::default() };
    let snapshot_log_bytes = if copies { 8 << 10 } else { u64::MAX };
    OpenOptions { snapshot_log_bytes, ..OpenOptions::new(NodeId(1), 1, log) }
}

/// So that a snapshot finds segments that hold little else than topics.
fn links() -> OpenOptions {
    OpenOptions { snapshot_log_bytes: 48 << 10, ..options(true) }
}

/// How many of the group's files are segments of the log.
fn linked(disk: &VirtualDisk) -> usize {
    let files = extent::list(disk, GROUP).expect("a list");
    let stretches = files.iter().map(|file| extent::stretches(disk, *file).expect("sound"));
    stretches.filter(|stretches| stretches[0].is_raw).count()
}

impl Scene {
    fn open(&mut self, disk: &VirtualDisk, options: &OpenOptions) -> Node {
        let mut node = Node::open(disk, options, 0, false, &mut || 7).expect("it opens");
        self.settle(&mut node);
        node
    }

    fn settle(&mut self, node: &mut Node) {
        for _ in 0..60 {
            self.turn(node);
        }
    }

    fn turn(&mut self, node: &mut Node) {
        self.time += 1;
        let now = Instant(self.time * 1_000_000);
        node.turn(now, 1_000_000 + self.time, &mut || false, self).expect("nothing fatal");
        for actor in [Actor::Log, Actor::Upkeep, Actor::Snapshots] {
            if node.is_ready(actor, now) {
                node.act(actor);
            }
        }
    }

    fn produce(&mut self, node: &mut Node, partition: u32, values: &[&[u8]]) -> u64 {
        self.next += 1;
        let bytes = batch::example(values, self.time as i64, (-1, -1, -1), false);
        let command = Command::Produce {
            topic: TOPIC,
            place: "t",
            partition,
            append_time: partition == 1,
            transaction: None,
            marks: Vec::new(),
            batches: &bytes,
        };
        node.shards[1].put(|batch| batch.queue(self.next, &command));
        node.wake();
        self.next
    }

    /// Retention lets go of everything.
    fn trim(&mut self, node: &mut Node) {
        for partition in 0..3 {
            let high = node.shards[1].state().queue().partition(TOPIC, partition).expect("written").high();
            let trim = Command::Trim { topic: TOPIC, partition, to: high };
            node.shards[1].put(|batch| batch.queue_upkeep(&trim));
        }
        node.wake();
        self.settle(node);
    }

    /// What was answered counts.
    fn note(&mut self, asked: u64, partition: u32, values: &[&[u8]]) {
        if let Some(Outcome::Produced { base, .. }) = self.answers.get(&asked) {
            let own = self.stored.entry(partition).or_default();
            for (at, value) in values.iter().enumerate() {
                assert_eq!(own.insert(base + at as u64, value.to_vec()), None, "an offset is given out once");
            }
        }
    }

    /// Every acknowledged record is where it was, whoever asks from wherever.
    fn check(&self, node: &Node) {
        let stored = Stored::new(node.disk.clone(), node.places().clone());
        for (partition, records) in &self.stored {
            let state = node.shards[1].state();
            let own = state.queue().partition(TOPIC, *partition).expect("something was written");
            for from in records.keys().step_by(7) {
                let plan = own.plan(*from, 100_000, Isolation::Uncommitted).expect("within its bounds");
                let mut bytes = Vec::new();
                for piece in &plan.pieces {
                    stored.read(GROUP, piece, &mut bytes, Wait::Yes).expect("what was acknowledged can be read");
                }
                let mut expected = *from;
                let mut at = 0;
                while let Ok(head) = batch::Header::read(&bytes[at..]) {
                    let base = head.base as u64;
                    assert!(base <= expected && expected < base + head.count as u64, "no gap at {expected}");
                    let whole = &bytes[at..at + head.bytes];
                    for offset in base.max(*from)..base + head.count as u64 {
                        if let Some(value) = records.get(&offset) {
                            let found = whole.windows(value.len()).any(|window| window == value);
                            assert!(found, "partition {partition}, offset {offset}");
                        }
                    }
                    expected = base + head.count as u64;
                    at += head.bytes;
                }
                assert!(at == bytes.len() && expected > *from);
            }
        }
    }
}

fn values(rng: &mut Rng, n: u64, most: u64) -> Vec<Vec<u8>> {
    let count = 1 + rng.below(4);
    (0..count).map(|at| [format!("<{n}.{at}>").as_bytes(), &vec![b'x'; rng.below(most) as usize]].concat()).collect()
}

/// Produces for a while, with snapshots in between. What was answered is noted.
fn fill(scene: &mut Scene, node: &mut Node, rng: &mut Rng, rounds: u64) {
    fill_with(scene, node, rng, rounds, 300);
}

/// The same with values of up to so many bytes.
fn fill_with(scene: &mut Scene, node: &mut Node, rng: &mut Rng, rounds: u64, most: u64) {
    for n in 0..rounds {
        let partition = rng.below(3) as u32;
        let values = values(rng, scene.next * 1000 + n, most);
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let asked = scene.produce(node, partition, &values);
        for _ in 0..3 + rng.below(6) {
            scene.turn(node);
            if node.disk.is_crashed() {
                break;
            }
        }
        scene.note(asked, partition, &values);
        if node.disk.is_crashed() {
            return;
        }
    }
}

#[test]
fn what_was_produced_is_read_from_the_log_and_from_extent_files_also_after_starts() {
    let disk = VirtualDisk::new();
    let mut rng = Rng::new(5);
    let mut scene = Scene::default();
    for life in 0..5 {
        let mut node = scene.open(&disk, &options(true));
        scene.check(&node);
        fill(&mut scene, &mut node, &mut rng, 150);
        scene.settle(&mut node);
        scene.check(&node);
        assert!(node.snapshots > 2, "life {life}: it never took a snapshot");
        let files = extent::list(&disk, GROUP).expect("a list");
        assert_eq!(
            files,
            node.shards[1].state().queue().files(),
            "files that are there are needed, and the other way round"
        );
        assert!(files.len() > 2);
    }
    let rows: usize = {
        let node = scene.open(&disk, &options(true));
        let state = node.shards[1].state();
        state.queue().partitions().map(|(_, own)| own.row_count()).sum()
    };
    assert!(rows < 200, "{rows} rows are held in memory after all has been copied out");
    // What retention lets go of takes its files with it.
    let mut node = scene.open(&disk, &options(true));
    scene.trim(&mut node);
    scene.stored.clear();
    node.want_snapshot(GROUP);
    scene.settle(&mut node);
    assert_eq!(extent::list(&disk, GROUP).expect("a list"), []);
}

#[test]
fn files_that_the_newest_snapshot_names_stay_though_their_records_have_been_deleted_since() {
    let disk = VirtualDisk::new();
    let mut scene = Scene::default();
    let mut node = scene.open(&disk, &options(true));
    fill(&mut scene, &mut node, &mut Rng::new(9), 150);
    scene.settle(&mut node);
    drop(node);
    // No snapshot is taken from here on.
    let mut node = scene.open(&disk, &options(false));
    scene.trim(&mut node);
    drop(node);
    for life in 0..3 {
        let node = scene.open(&disk, &options(false));
        assert_eq!(node.found.damaged_snapshots, [] as [String; 0], "life {life}");
        let state = node.shards[1].state();
        assert!(state.queue().partitions().all(|(_, own)| own.start() == own.high()), "life {life}");
    }
}

#[test]
fn nothing_that_was_acknowledged_is_lost_by_a_crash_at_any_operation_of_the_disk() {
    let crashes = cut_everywhere(&options(true), 60, 300);
    assert!(crashes.with_files > 20, "{crashes:?}");
}

#[test]
fn segments_that_hold_little_else_stay_as_they_are_and_lose_nothing_by_a_crash_at_any_operation_of_the_disk() {
    let crashes = cut_everywhere(&links(), 100, 1500);
    assert!(crashes.with_links > 20, "{crashes:?}");
}

#[derive(Debug, Default)]
struct Crashes {
    all: usize,
    with_files: usize,
    with_links: usize,
}

/// Lets the power fail at every third operation of the disk, and looks whether what was acknowledged is there.
fn cut_everywhere(options: &OpenOptions, rounds: u64, most: u64) -> Crashes {
    // How many operations a run has.
    let run = |crash: Option<u64>, seed: u64| {
        let disk = VirtualDisk::new();
        let mut scene = Scene::default();
        let mut node = scene.open(&disk, options);
        let before = disk.operations();
        if let Some(at) = crash {
            disk.crash_at(before + at);
        }
        fill_with(&mut scene, &mut node, &mut Rng::new(seed), rounds, most);
        let operations = disk.operations() - before;
        drop(node);
        (scene, disk, operations)
    };
    let (_, _, operations) = run(None, 1);
    assert!(operations > 100);
    let mut crashes = Crashes::default();
    for at in (1..operations).step_by(3) {
        let (mut scene, disk, _) = run(Some(at), 1);
        let mut rng = Rng::new(at);
        for keep in [Keep::Nothing, Keep::Any] {
            let left = disk.crash(&mut rng, keep);
            let mut node = scene.open(&left, options);
            scene.check(&node);
            crashes.with_files += usize::from(!node.shards[1].state().queue().files().is_empty());
            crashes.with_links += usize::from(linked(&left) > 0);
            let known = scene.stored.clone();
            fill_with(&mut scene, &mut node, &mut rng, 10, most);
            scene.check(&node);
            scene.stored = known;
            crashes.all += 1;
        }
    }
    assert!(crashes.all > 50, "{crashes:?}");
    crashes
}

#[test]
fn a_segment_that_is_linked_is_read_from_where_it_was_written_also_after_starts_and_goes_with_its_records() {
    let disk = VirtualDisk::new();
    let mut rng = Rng::new(5);
    let mut scene = Scene::default();
    for life in 0..5 {
        let mut node = scene.open(&disk, &links());
        scene.check(&node);
        fill_with(&mut scene, &mut node, &mut rng, 150, 1500);
        scene.settle(&mut node);
        scene.check(&node);
        assert!(linked(&disk) > 2, "life {life}");
        let files = extent::list(&disk, GROUP).expect("a list");
        assert_eq!(files, node.shards[1].state().queue().files());
    }
    let mut node = scene.open(&disk, &links());
    scene.trim(&mut node);
    node.want_snapshot(GROUP);
    scene.settle(&mut node);
    assert_eq!(extent::list(&disk, GROUP).expect("a list"), []);
}

#[test]
fn a_flipped_bit_in_a_stored_batch_is_seen_and_never_given_to_a_reader() {
    let disk = VirtualDisk::new();
    let mut scene = Scene::default();
    let mut node = scene.open(&disk, &options(true));
    fill(&mut scene, &mut node, &mut Rng::new(3), 100);
    scene.settle(&mut node);
    let file = extent::list(&disk, GROUP).expect("a list")[0];
    disk.corrupt(&extent::extent_name(file), 40 + 100, 4);
    let stored = Stored::new(disk, node.places().clone());
    let state = node.shards[1].state();
    let spoiled = state.queue().partitions().filter(|(_, own)| {
        let plan = own.plan(own.start(), 1, Isolation::Uncommitted).expect("within its bounds");
        let mut out = b"before".to_vec();
        let read = stored.read(GROUP, &plan.pieces[0], &mut out, Wait::Yes);
        assert!(read.is_ok() || (matches!(read, Err(ReadError::Disk(_))) && out == b"before"));
        read.is_err()
    });
    assert_eq!(spoiled.count(), 1);
}

#[test]
fn a_damaged_extent_file_stops_a_lone_node_and_fences_the_group_of_one_with_peers() {
    let disk = VirtualDisk::new();
    let mut scene = Scene::default();
    let mut node = scene.open(&disk, &options(true));
    fill(&mut scene, &mut node, &mut Rng::new(4), 100);
    scene.settle(&mut node);
    drop(node);
    let name = extent::extent_name(extent::list(&disk, GROUP).expect("a list")[1]);
    let length = disk.bytes(&name).expect("there").len() as u64;
    disk.corrupt(&name, length - 20, 1);
    let error = Node::open(&disk, &options(true), 0, false, &mut || 7).err().expect("it does not start without it");
    assert!(error.to_string().contains(&name), "{error}");
    let peers = OpenOptions { has_peers: true, ..options(true) };
    let node = Node::open(&disk, &peers, 0, false, &mut || 7).expect("the others have it");
    assert_eq!(node.found.fenced, [GROUP]);
    assert!(node.found.repaired.iter().any(|words| words.contains(&name)), "{:?}", node.found.repaired);
    drop(node);
    let again = Node::open(&disk, &peers, 0, false, &mut || 7).expect("it starts again");
    assert_eq!(again.found.fenced, [GROUP]);
}

#[test]
fn what_a_damaged_log_still_holds_of_a_topic_is_copied_out_before_that_log_goes() {
    let disk = VirtualDisk::new();
    let mut scene = Scene::default();
    let peers = OpenOptions { has_peers: true, ..options(false) };
    let mut node = scene.open(&disk, &peers);
    fill(&mut scene, &mut node, &mut Rng::new(6), 60);
    scene.settle(&mut node);
    drop(node);
    let segments: Vec<String> =
        disk.names().into_iter().filter(|name| name.ends_with(".log") && name.starts_with('0')).collect();
    assert!(segments.len() > 2);
    disk.corrupt(&segments[1], 9000, 8);
    let node = Node::open(&disk, &peers, 0, false, &mut || 7).expect("the others have the rest");
    assert!(node.found.fenced.contains(&GROUP));
    assert!(!node.shards[1].state().queue().files().is_empty());
    for (partition, records) in &mut scene.stored {
        let state = node.shards[1].state();
        let high = state.queue().partition(TOPIC, *partition).expect("written before the damage").high();
        assert!(high > 0);
        records.retain(|offset, _| *offset < high);
    }
    scene.check(&node);
}

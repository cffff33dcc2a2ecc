//! Groups of one cluster in virtual time, over a network and disks of values. Every step is checked against what Raft and
//! our lease promise:
//!
//! - one leader per term;
//! - an index that was committed anywhere never means anything else, nor is it lost: state machines agree on prefixes;
//! - who holds the lease has applied all that was ever acknowledged, by the node's own (drifting) clock;
//! - an index given to a read covers all that was acknowledged when the read was asked.
//!
//! A disk keeps what was synced; a crash loses the rest, or a part of it in order, the last write of that torn.

use base::{GroupId, Instant, NodeId, Rng};
use bytes::Bytes;
use consensus::{
    Change, Entry, EntryKind, Envelope, Group, GroupConfig, HardState, Input, Membership, Output, Planted, Position,
    Role,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};

pub const MS: u64 = 1_000_000;
pub const GROUP: GroupId = GroupId(3);

/// A state machine's image: all entries up to an index.
#[derive(Clone, Debug, Default, PartialEq)]
struct Image {
    entries: Vec<Entry>,
    membership: Membership,
}

impl Image {
    fn index(&self) -> u64 {
        self.entries.len() as u64
    }
}

#[derive(Clone, Debug, Default)]
struct Disk {
    start: Position,
    log: Vec<Entry>,
    hard_state: HardState,
    snapshot: Image,
}

enum Write {
    Log { entries: Vec<Entry>, hard_state: Option<HardState> },
    Install { start: Position, image: Image, hard_state: HardState },
}

impl Disk {
    fn put(&mut self, write: Write) {
        match write {
            Write::Log { entries, hard_state } => {
                let known = self.start.index + self.log.len() as u64;
                assert!(
                    hard_state.is_none_or(|state| state.commit <= known),
                    "a write calls committed what came before it"
                );
                if let Some(first) = entries.first() {
                    let keep = usize::try_from(first.index - self.start.index - 1).unwrap();
                    assert!(keep <= self.log.len(), "entries are written without gaps");
                    self.log.truncate(keep);
                }
                self.log.extend(entries);
                self.hard_state = hard_state.unwrap_or(self.hard_state);
            }
            Write::Install { start, image, hard_state } => {
                *self = Disk { start, log: Vec::new(), hard_state, snapshot: image };
            }
        }
    }
}

struct Node {
    id: NodeId,
    /// None while crashed.
    group: Option<Group>,
    /// Counts starts, so that events of an earlier life are void.
    life: u64,
    clock_offset: u64,
    clock_ppm: i64,
    disk: Disk,
    unsynced: VecDeque<(u64, Write)>,
    syncing: bool,
    held: VecDeque<(u64, Envelope, Option<Image>)>,
    image: Image,
    /// The image that came with the message being stepped.
    incoming: Option<Image>,
    paused: bool,
    inbox: Vec<(Envelope, Option<Image>)>,
    /// Fates of snapshots that the node was not awake to hear of.
    reports: Vec<Input>,
    wake_at: Option<u64>,
    snapshot_wanted: bool,
}

enum Event {
    Deliver { to: NodeId, message: Envelope, image: Option<Image> },
    Synced { node: NodeId, life: u64 },
    Wake { node: NodeId, life: u64 },
}

struct Timed(u64, u64, Event);

impl PartialEq for Timed {
    fn eq(&self, other: &Timed) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Timed {}
impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Timed) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Timed {
    fn cmp(&self, other: &Timed) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// How the world treats messages and writes.
#[derive(Clone, Debug)]
pub struct Weather {
    pub delay_ms: (u64, u64),
    pub sync_ms: (u64, u64),
    /// Of a thousand messages.
    pub lost: u64,
    /// The most that a clock's rate is off, in parts per million.
    pub drift_ppm: u64,
}

pub const CALM: Weather = Weather { delay_ms: (1, 1), sync_ms: (2, 2), lost: 0, drift_ppm: 0 };

pub struct World {
    pub now: u64,
    seed: u64,
    rng: Rng,
    pub weather: Weather,
    nodes: BTreeMap<NodeId, Node>,
    initial: Membership,
    events: BinaryHeap<Reverse<Timed>>,
    sequence: u64,
    /// Links cut, from and to.
    pub cut: BTreeSet<(NodeId, NodeId)>,
    /// The next messages of these kinds that are lost, each once.
    pub doomed: Vec<(NodeId, NodeId, String)>,
    /// What is worth telling since it was last read.
    pub told: Vec<String>,
    pub telling_messages: bool,
    pub snapshot_every: u64,
    pub planted: Planted,
    /// Of groups made from now on.
    pub quiesces: bool,

    leaders: BTreeMap<u64, NodeId>,
    committed: BTreeMap<u64, Entry>,
    /// Of proposals that got an index here: token, by node, index and term.
    proposed: BTreeMap<(NodeId, u64, u64), u64>,
    pub acknowledged: BTreeSet<u64>,
    acknowledged_index: u64,
    reads: BTreeMap<u64, u64>,
    pub reads_answered: u64,
    pub lease_checks: u64,
    last_token: u64,
}

impl World {
    pub fn new(seed: u64, voters: u64, weather: Weather) -> World {
        let initial = Membership::new((1..=voters).map(NodeId), []);
        let mut world = World {
            now: 0,
            seed,
            rng: Rng::new(seed),
            weather,
            nodes: BTreeMap::new(),
            initial,
            events: BinaryHeap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            doomed: Vec::new(),
            told: Vec::new(),
            telling_messages: false,
            snapshot_every: u64::MAX,
            planted: Planted::default(),
            quiesces: false,
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            proposed: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            acknowledged_index: 0,
            reads: BTreeMap::new(),
            reads_answered: 0,
            lease_checks: 0,
            last_token: 0,
        };
        for id in 1..=voters {
            world.add_node(NodeId(id));
        }
        world
    }

    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    pub fn group(&self, id: NodeId) -> Option<&Group> {
        self.nodes.get(&id)?.group.as_ref()
    }

    pub fn is_paused(&self, id: NodeId) -> bool {
        self.nodes[&id].paused
    }

    /// How many entries the node's state machine has applied.
    pub fn applied(&self, id: NodeId) -> u64 {
        self.nodes[&id].image.index()
    }

    pub fn committed_index(&self) -> u64 {
        self.committed.len() as u64
    }

    /// The data that the node's state machine applied, in order, without leaders' first entries.
    pub fn data(&self, id: NodeId) -> Vec<String> {
        let data = |entry: &Entry| String::from_utf8_lossy(&entry.data).into_owned();
        let entries = self.nodes[&id].image.entries.iter();
        entries.filter(|e| e.kind == EntryKind::Normal && !e.data.is_empty()).map(data).collect()
    }

    /// A node with an empty disk.
    pub fn add_node(&mut self, id: NodeId) {
        let drift = self.weather.drift_ppm;
        let node = Node {
            id,
            group: None,
            life: 0,
            clock_offset: self.rng.below(1 << 40),
            clock_ppm: self.rng.below(2 * drift + 1) as i64 - drift as i64,
            disk: Disk { snapshot: Image { membership: self.initial.clone(), ..Image::default() }, ..Disk::default() },
            unsynced: VecDeque::new(),
            syncing: false,
            held: VecDeque::new(),
            image: Image::default(),
            incoming: None,
            paused: false,
            inbox: Vec::new(),
            reports: Vec::new(),
            wake_at: None,
            snapshot_wanted: false,
        };
        self.nodes.insert(id, node);
        self.restart(id);
    }

    fn local(node: &Node, now: u64) -> Instant {
        let rate = 1_000_000 + node.clock_ppm as i128;
        Instant(node.clock_offset + (now as i128 * rate / 1_000_000) as u64)
    }

    fn global(node: &Node, at: Instant) -> u64 {
        let rate = 1_000_000 + node.clock_ppm as i128;
        let span = at.0.saturating_sub(node.clock_offset) as i128;
        ((span * 1_000_000 + rate - 1) / rate) as u64 + 1
    }

    fn schedule(&mut self, at: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse(Timed(at.max(self.now), self.sequence, event)));
    }

    fn draw_ms(&mut self, (low, high): (u64, u64)) -> u64 {
        low * MS + self.rng.below((high - low) * MS + 1)
    }

    // ---- what tests do to it ----

    /// Power cut: what was not synced is gone, but for the first `kept` writes and part of the next.
    pub fn crash(&mut self, id: NodeId, kept: usize) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.group = None;
        node.life += 1;
        node.held.clear();
        node.inbox.clear();
        node.reports.clear();
        node.paused = false;
        let mut survivors: Vec<Write> = node.unsynced.drain(..).take(kept + 1).map(|(_, write)| write).collect();
        if survivors.len() > kept {
            // The first that is not kept is torn: its hard state and some of its entries may be there.
            match survivors.last_mut() {
                Some(Write::Log { entries, .. }) if self.rng.chance(1, 2) => {
                    entries.truncate(self.rng.index(entries.len() + 1));
                }
                _ => drop(survivors.pop()),
            }
        }
        survivors.into_iter().for_each(|write| node.disk.put(write));
    }

    /// Starts a node from its disk.
    pub fn restart(&mut self, id: NodeId) {
        let (seed, planted) = (self.seed, self.planted);
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.group.is_some() {
            return;
        }
        node.life += 1;
        node.unsynced.clear();
        node.syncing = false;
        node.wake_at = None;
        node.snapshot_wanted = false;
        node.image = node.disk.snapshot.clone();
        let config = GroupConfig {
            applied: node.image.index(),
            snapshot: node.image.index(),
            start: node.disk.start,
            entries: node.disk.log.clone(),
            hard_state: node.disk.hard_state,
            planted,
            quiesces: self.quiesces,
            ..GroupConfig::new(GROUP, id, node.image.membership.clone(), seed ^ id.0 << 32 ^ node.life)
        };
        node.group = Some(Group::new(config).expect("a disk that lost nothing synced starts"));
        self.step(id, vec![Input::Wake]);
    }

    pub fn pause(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a node").paused = true;
    }

    pub fn resume(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        node.paused = false;
        let inbox = std::mem::take(&mut node.inbox);
        let life = node.life;
        let reports = std::mem::take(&mut node.reports);
        self.step(id, reports);
        for (message, image) in inbox {
            self.deliver(id, message, image);
        }
        self.schedule(self.now, Event::Wake { node: id, life });
        self.schedule(self.now, Event::Synced { node: id, life });
    }

    /// Cuts a node off, both ways.
    pub fn isolate(&mut self, id: NodeId) {
        for other in self.ids() {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub fn propose(&mut self, id: NodeId, data: &str) -> u64 {
        self.last_token += 1;
        let data = Bytes::copy_from_slice(data.as_bytes());
        self.step(id, vec![Input::Propose { token: self.last_token, data }]);
        self.last_token
    }

    pub fn propose_change(&mut self, id: NodeId, changes: Vec<Change>) {
        self.last_token += 1;
        self.step(id, vec![Input::ProposeMembership { token: self.last_token, changes }]);
    }

    pub fn read(&mut self, id: NodeId) {
        self.last_token += 1;
        self.reads.insert(self.last_token, self.acknowledged_index);
        self.step(id, vec![Input::ReadIndex { token: self.last_token }]);
    }

    pub fn input(&mut self, id: NodeId, input: Input) {
        self.step(id, vec![input]);
    }

    /// Snapshots the node's state machine at what it has applied, and forgets the log up to there.
    pub fn snapshot(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.group.is_none() || !node.unsynced.is_empty() || node.paused {
            return;
        }
        let index = node.image.index();
        // What stands in the synced log may be forgotten; the rest is not there yet.
        let slot = (index - node.disk.start.index) as usize;
        if slot == 0 || slot > node.disk.log.len() {
            return;
        }
        node.snapshot_wanted = false;
        node.disk.snapshot = node.image.clone();
        node.disk.start = Position { index, term: node.disk.log[slot - 1].term };
        node.disk.log.drain(..slot);
        self.step(id, vec![Input::Snapshotted { index }, Input::Compact { index }]);
        let start = self.group(id).unwrap().status().start.index;
        assert_eq!(start, index, "{id} compacted");
    }

    pub fn run(&mut self, span_ms: u64) {
        let end = self.now + span_ms * MS;
        while self.events.peek().is_some_and(|Reverse(timed)| timed.0 <= end) {
            let Reverse(Timed(at, _, event)) = self.events.pop().expect("peeked");
            self.now = at;
            match event {
                Event::Deliver { to, message, image } => self.deliver(to, message, image),
                Event::Synced { node, life } => self.synced(node, life),
                Event::Wake { node, life } => {
                    let found = &mut self.nodes.get_mut(&node).expect("a node");
                    if found.life == life && found.wake_at.is_none_or(|wake| wake <= at) {
                        found.wake_at = None;
                        self.step(node, vec![Input::Wake]);
                    }
                }
            }
        }
        self.now = end;
        self.check_leases();
    }

    // ---- how it goes on ----

    fn deliver(&mut self, to: NodeId, message: Envelope, image: Option<Image>) {
        let Some(node) = self.nodes.get_mut(&to) else { return };
        let from = message.from();
        let reached = node.group.is_some() && !self.cut.contains(&(from, to));
        if reached && node.paused {
            node.inbox.push((message, image));
            return;
        }
        let with_image = image.is_some();
        if reached {
            // Through the wire's form, as between machines.
            let message = Envelope::decode(message.encode()).expect("what was encoded decodes");
            node.incoming = image;
            self.step(to, vec![Input::Message(message)]);
        }
        if with_image {
            self.report(from, to, reached);
        }
    }

    /// Tells the sender of a snapshot how it went.
    fn report(&mut self, from: NodeId, to: NodeId, ok: bool) {
        let Some(node) = self.nodes.get_mut(&from) else { return };
        if node.paused {
            node.reports.push(Input::SnapshotSent { to, ok });
        } else {
            self.step(from, vec![Input::SnapshotSent { to, ok }]);
        }
    }

    fn synced(&mut self, id: NodeId, life: u64) {
        let node = self.nodes.get_mut(&id).expect("a node");
        if node.life != life || node.paused {
            return;
        }
        node.syncing = false;
        let Some(token) = node.unsynced.back().map(|(token, _)| *token) else { return };
        for (_, write) in node.unsynced.drain(..) {
            if let Write::Install { image, .. } = &write {
                node.image = image.clone();
            }
            node.disk.put(write);
        }
        self.step(id, vec![Input::Persisted { token }]);
        let node = self.nodes.get_mut(&id).expect("a node");
        let ready = node.held.iter().take_while(|(after, ..)| *after <= token).count();
        let released: Vec<_> = node.held.drain(..ready).collect();
        for (_, message, image) in released {
            self.transmit(message, image);
        }
    }

    fn transmit(&mut self, message: Envelope, image: Option<Image>) {
        let (from, to) = (message.from(), message.to());
        let doomed = self.doomed.iter().position(|(f, t, kind)| (*f, *t, kind.as_str()) == (from, to, message.kind()));
        if let Some(i) = doomed {
            self.doomed.remove(i);
        }
        let lost = doomed.is_some() || self.cut.contains(&(from, to)) || self.rng.chance(self.weather.lost, 1000);
        if self.telling_messages {
            let fate = if lost { " (lost)" } else { "" };
            self.tell(format!("{from} → {to} {} t{}{fate}", message.kind(), message.term()));
        }
        let delay = self.draw_ms(self.weather.delay_ms);
        if lost {
            if image.is_some() {
                self.report(from, to, false);
            }
            return;
        }
        self.schedule(self.now + delay, Event::Deliver { to, message, image });
    }

    fn step(&mut self, id: NodeId, inputs: Vec<Input>) {
        let now = self.now;
        let mut out = Vec::new();
        let mut applied = None;
        {
            let Some(node) = self.nodes.get_mut(&id) else { return };
            if node.paused {
                return;
            }
            let local = World::local(node, now);
            let Some(group) = node.group.as_mut() else { return };
            group.step_all(local, inputs, &mut out);
        }
        for output in out {
            applied = self.obey(id, output).or(applied);
        }
        if let Some(index) = applied {
            self.step(id, vec![Input::Applied { index }]);
        }
        let node = self.nodes.get_mut(&id).expect("a node");
        let due = node.image.index() >= node.disk.start.index.saturating_add(self.snapshot_every);
        if due || node.snapshot_wanted {
            self.snapshot(id);
        }
        self.check_leases();
        let node = self.nodes.get_mut(&id).expect("a node");
        let Some(group) = node.group.as_ref() else { return };
        if let Some(deadline) = group.deadline() {
            let at = World::global(node, deadline).max(now + 1);
            if node.wake_at != Some(at) {
                node.wake_at = Some(at);
                let life = node.life;
                self.schedule(at, Event::Wake { node: id, life });
            }
        }
    }

    fn write(&mut self, id: NodeId, token: u64, write: Write) {
        let delay = self.draw_ms(self.weather.sync_ms);
        let node = self.nodes.get_mut(&id).expect("a node");
        node.unsynced.push_back((token, write));
        if !node.syncing {
            node.syncing = true;
            let life = node.life;
            self.schedule(self.now + delay, Event::Synced { node: id, life });
        }
    }

    /// Does one output; answers the index to say `Applied` for.
    fn obey(&mut self, id: NodeId, output: Output) -> Option<u64> {
        match output {
            Output::FenceLifted { .. } => {}
            Output::Persist { token, entries, hard_state, needed: _ } => {
                self.write(id, token, Write::Log { entries, hard_state });
            }
            Output::InstallSnapshot { token, index, term, membership, hard_state } => {
                let image =
                    self.nodes.get_mut(&id).and_then(|node| node.incoming.take()).expect("it came with the message");
                assert_eq!((image.index(), &image.membership), (index, &membership), "the image is the one announced");
                self.tell(format!("{id} installs snapshot {index}"));
                self.write(id, token, Write::Install { start: Position { index, term }, image, hard_state });
            }
            Output::Send { message, after } => self.send(id, message, None, after),
            Output::SendSnapshot { message, index, after } => {
                let image = self.nodes[&id].disk.snapshot.clone();
                assert_eq!(image.index(), index, "the newest snapshot declared");
                self.tell(format!("{id} sends snapshot {index} to {}", message.to()));
                self.send(id, message, Some(image), after);
            }
            Output::SnapshotWanted { .. } => self.nodes.get_mut(&id).expect("a node").snapshot_wanted = true,
            Output::Commit { entries } => return self.commit(id, entries),
            Output::Membership { index, membership } => {
                let node = self.nodes.get_mut(&id).expect("a node");
                assert_eq!(node.image.index(), index);
                node.image.membership = membership.clone();
                let joint = if membership.is_joint() {
                    format!(" from {:?}", ids(&membership.voters_outgoing))
                } else {
                    String::new()
                };
                self.tell(format!(
                    "{id} has voters {:?}{joint} learners {:?}",
                    ids(&membership.voters),
                    ids(&membership.learners)
                ));
            }
            Output::ReadReady { token, index } => {
                let asked = self.reads.remove(&token).expect("a read that was asked, answered once");
                assert!(index >= asked, "read at {id} got {index}, but {asked} was acknowledged before it");
                self.reads_answered += 1;
                self.tell(format!("{id} read ready at {index}"));
            }
            Output::ReadDropped { token } => {
                self.reads.remove(&token).expect("a read that was asked, answered once");
                self.tell(format!("{id} read dropped"));
            }
            Output::Proposed { token, index, term } => {
                self.proposed.insert((id, index, term), token);
            }
            Output::ProposalDropped { reason, leader, .. } => {
                let leader = leader.map_or("nobody".to_string(), |leader| leader.to_string());
                self.tell(format!("{id} drops a proposal: {reason:?}, leader {leader}"));
            }
            Output::Role { role, term, leader } => {
                if role == Role::Leader {
                    let first = *self.leaders.entry(term).or_insert(id);
                    assert_eq!(first, id, "two leaders in term {term}");
                }
                let leader = leader.map_or("nobody".to_string(), |leader| leader.to_string());
                self.tell(format!("{id} {role:?} in term {term}, leader {leader}"));
            }
            Output::Lease { until: None } => self.tell(format!("{id} has no lease")),
            Output::Lease { until: Some(_) } => {}
        }
        None
    }

    fn send(&mut self, id: NodeId, message: Envelope, image: Option<Image>, after: Option<u64>) {
        let node = self.nodes.get_mut(&id).expect("a node");
        assert_eq!(message.from(), id);
        let pending = node.unsynced.iter().any(|(token, _)| Some(*token) == after);
        match after {
            Some(after) if pending => node.held.push_back((after, message, image)),
            _ => self.transmit(message, image),
        }
    }

    fn commit(&mut self, id: NodeId, entries: Vec<Entry>) -> Option<u64> {
        let node = self.nodes.get_mut(&id).expect("a node");
        let mut told = Vec::new();
        for entry in entries {
            assert_eq!(entry.index, node.image.index() + 1, "{id} commits in order");
            let first = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
            assert_eq!(*first, entry, "{id} disagrees about what was committed");
            // The proposer answers its client.
            if let Some(token) = self.proposed.remove(&(id, entry.index, entry.term)) {
                self.acknowledged.insert(token);
                self.acknowledged_index = self.acknowledged_index.max(entry.index);
            }
            told.push(match entry.kind {
                EntryKind::Membership => format!("{}:(change)", entry.index),
                EntryKind::Normal if entry.data.is_empty() => format!("{}:()", entry.index),
                EntryKind::Normal => format!("{}:{}", entry.index, String::from_utf8_lossy(&entry.data)),
            });
            node.image.entries.push(entry);
        }
        let last = node.image.index();
        self.tell(format!("{id} commits {}", told.join(" ")));
        Some(last)
    }

    fn tell(&mut self, what: String) {
        self.told.push(format!("{}ms {what}", self.now / MS));
    }

    /// Who may read alone has applied all that was acknowledged, at this very moment of its own clock.
    fn check_leases(&mut self) {
        for node in self.nodes.values() {
            let Some(group) = node.group.as_ref() else { continue };
            if group.lease_valid(World::local(node, self.now)) {
                self.lease_checks += 1;
                let applied = group.status().applied;
                let acknowledged = self.acknowledged_index;
                assert!(
                    applied >= acknowledged,
                    "{} would read {applied} by lease, {acknowledged} is acknowledged",
                    node.id
                );
            }
        }
    }

    // ---- what must hold in the end ----

    /// The one leader that its followers know, if there is one.
    pub fn leader(&self) -> Option<NodeId> {
        let leads = |node: &&Node| node.group.as_ref().is_some_and(|group| group.is_leader());
        self.nodes
            .values()
            .filter(leads)
            .max_by_key(|node| node.group.as_ref().map(|g| g.status().term))
            .map(|node| node.id)
    }

    /// Lifts all faults, waits, and asserts that the group works and has forgotten nothing.
    pub fn heal_and_check(&mut self) {
        self.cut.clear();
        self.doomed.clear();
        self.weather = CALM;
        for id in self.ids() {
            if self.nodes[&id].paused {
                self.resume(id);
            }
            self.restart(id);
        }
        let mut tries = 0;
        let last = loop {
            self.run(4000);
            tries += 1;
            assert!(tries < 20, "the group does not come back");
            let Some(leader) = self.leader() else { continue };
            let token = self.propose(leader, "last");
            self.run(1000);
            if self.acknowledged.contains(&token) {
                break self.group(leader).expect("it runs").membership().clone();
            }
        };
        self.run(3000);
        for id in last.members() {
            assert_eq!(self.applied(id), self.committed_index(), "{id} has caught up");
        }
    }

    pub fn lease_valid(&self, id: NodeId) -> bool {
        let node = &self.nodes[&id];
        node.group.as_ref().is_some_and(|group| group.lease_valid(World::local(node, self.now)))
    }
}

fn ids(nodes: &[NodeId]) -> Vec<u64> {
    nodes.iter().map(|node| node.0).collect()
}

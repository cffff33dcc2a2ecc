//! One commit, cut at every durable step: what each node's disk does while it is under way is counted once, and then the same commit is played
//! again for each of these operations, with that node dying in the middle of it.
//!
//! The commit has four parts: a row, a record of a topic and a group's offset in one shard, and, where it goes [across](Path::Across), a row in another
//! shard. Nobody may ever see one of them without the others, nobody is blocked for good, and what was answered stays so.

use base::key_slot;
use queue::command::Committer;
use queue::group::OffsetOf;
use queue::records::{Record, batch_of};
use queue::{Command, TopicId};
use shard::commit::Body;

use super::*;
use crate::disk::Operation;

const TOPIC: TopicId = TopicId(0xc0de);
const READERS: &str = "readers";
const FAR: GroupId = GroupId(2);
/// How long a cluster may take to be there, and a commit with all that follows it.
const LIMIT: u64 = 60_000 * MILLI;

/// How the commit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// In one shard: one entry.
    One,
    /// Over two shards.
    Across,
    /// The same under a name, asked for until somebody says that it was done.
    Named,
}

/// How the node dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// kill -9: what was written stays, what was not is lost.
    Killed,
    /// A power cut that keeps nothing which was not synced.
    Bare,
    /// One that keeps all, but for the last write, which is torn.
    Torn,
    /// One that keeps whatever the seed says, at all nodes at once.
    Dark,
}

impl Fate {
    /// All of them.
    pub const ALL: [Fate; 4] = [Fate::Killed, Fate::Bare, Fate::Torn, Fate::Dark];
}

/// What is played.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// Draws who leads, how long things take, and what is written beside.
    pub seed: u64,
    /// Nodes.
    pub nodes: u64,
    /// How the commit goes.
    pub path: Path,
    /// The node whose client commits.
    pub door: NodeId,
    /// Whether every node takes a snapshot of both shards whenever it has applied something: then a restart begins with what snapshots hold.
    pub snapshots: bool,
    /// See [`Bugs`].
    pub bugs: Bugs,
    /// Is told the story, a line at a time.
    pub trace: Option<fn(&str)>,
}

/// Where it is cut.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Who dies.
    pub node: NodeId,
    /// In which of its disk operations, counted from the commit's begin.
    pub step: u64,
    /// How.
    pub fate: Fate,
}

/// What the client knows of its commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing yet.
    Nothing,
    /// It was done.
    Done,
    /// It was not.
    Refused,
    /// Its connection broke.
    Unknown,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Played {
    /// What each node's disk did from the commit's begin until all had come to rest.
    pub operations: BTreeMap<NodeId, Vec<Operation>>,
    /// What the client was told at last.
    pub told: Told,
    /// Whether the parts were there in the end.
    pub happened: bool,
}

/// A scripted run.
pub(super) struct Script {
    path: Path,
    /// In the first shard, and in the other.
    rows: [String; 2],
    cut: Option<Cut>,
    told: Told,
    /// The client has asked, and does so again until it is told that it was done.
    insists: bool,
    /// A state may have changed, and who has applied something.
    moved: bool,
    applied: BTreeSet<NodeId>,
}

/// What a reader at this moment is told of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It waits: nobody may answer, or a transaction holds the row.
    Waits,
    Is(u64),
}

/// Plays it. The same course and cut give the same events each time.
///
/// # Errors
/// A promise that was broken.
pub fn play(course: &Course, cut: Option<Cut>) -> Result<Played, String> {
    let options =
        Options { nodes: course.nodes, bugs: course.bugs, commits: true, trace: course.trace, ..Options::default() };
    let mut world = World::new(course.seed, &options);
    let mut played = Played { operations: BTreeMap::new(), told: Told::Nothing, happened: false };
    let Course { seed, nodes, path, door, snapshots, .. } = course;
    guarded(|| world.play_script(course, cut, &mut played)).map_err(|why| {
        let at = world.now / MILLI;
        format!("seed {seed}, {nodes} nodes, {path:?}, door {door}, snapshots {snapshots}, {cut:?}, at {at} ms: {why}")
    })?;
    Ok(played)
}

/// A key of this group's.
fn key_in(group: GroupId, world: &World) -> String {
    let name = |n: u64| format!("row{n}");
    (0..).map(name).find(|key| world.group_of_slot(key_slot(key.as_bytes())) == group).expect("each group has slots")
}

impl Script {
    /// What the script has a node die of.
    pub(super) fn fate(&self, id: NodeId) -> Option<(bool, Keep)> {
        let cut = self.cut.filter(|cut| cut.node == id || cut.fate == Fate::Dark)?;
        Some(match cut.fate {
            Fate::Killed => (true, Keep::All),
            Fate::Bare => (false, Keep::Nothing),
            Fate::Torn => (false, Keep::Torn),
            Fate::Dark => (false, Keep::Any),
        })
    }

    /// A node has done something.
    pub(super) fn touched(&mut self, id: NodeId, applied: bool) {
        self.moved = true;
        if applied {
            self.applied.insert(id);
        }
    }
}

impl World {
    fn play_script(&mut self, course: &Course, cut: Option<Cut>, played: &mut Played) -> Result<(), String> {
        (self.quiet, self.ends) = (true, 0);
        (self.usual.lost, self.usual.doubled, self.usual.reorders) = (0, 0, false);
        self.weather = self.usual;
        let rows = [key_in(DATA, self), key_in(FAR, self)];
        self.script = Some(Box::new(Script {
            path: course.path,
            rows,
            cut: None,
            told: Told::Nothing,
            insists: false,
            moved: false,
            applied: BTreeSet::new(),
        }));
        self.commits.script(course.door);
        self.at(PING, Event::Links);
        self.at(100 * MILLI, Event::Doors);
        self.come_to_rest("before the commit")?;
        if course.path == Path::One {
            // Nobody forwards here.
            let leader = self.leader(DATA).ok_or("nobody leads")?;
            self.commits.script(leader);
        }
        self.tell(|| format!("the commit begins: {cut:?}"));
        for machine in self.machines.values() {
            machine.disk.trace();
        }
        if let Some(cut) = cut {
            let disk = &self.machines[&cut.node].disk;
            disk.crash_at(disk.operations() + cut.step);
            self.script().cut = Some(cut);
        }
        self.ends = self.now;
        self.script().insists = course.path == Path::Named;
        self.script().applied.clear();
        self.commit_script()?;
        self.come_to_rest_with("after the commit", course.snapshots)?;
        for (id, machine) in &self.machines {
            played.operations.insert(*id, machine.disk.take_trace());
        }
        if let Some(cut) = self.script().cut {
            return Err(format!("{} never came to step {}", cut.node, cut.step));
        }
        let first = self.look_at_parts(true)?;
        self.script().insists = false;
        // Nothing of it hangs on what is not durable.
        self.ids().into_iter().for_each(|id| self.go_dark(id));
        self.come_to_rest("after all were dark")?;
        let last = self.look_at_parts(true)?;
        (played.told, played.happened) = (self.script().told, last > 0);
        let named = course.path == Path::Named;
        match played.told {
            _ if first != last => {
                Err(format!("the parts were there {first} times, and behind a power cut {last} times"))
            }
            Told::Nothing => Err("the client was told nothing".into()),
            Told::Done if last != 1 => Err(format!("it was answered, and happened {last} times")),
            Told::Refused if last != 0 => Err(format!("it was refused, and happened {last} times")),
            Told::Unknown | Told::Refused if named => Err("the client has not asked until it was told".into()),
            _ if last > 1 => Err(format!("it happened {last} times")),
            _ => Ok(()),
        }
    }

    fn script(&mut self) -> &mut Script {
        self.script.as_mut().expect("it is a scripted run")
    }

    /// Its power goes now, with all that is not synced.
    fn go_dark(&mut self, id: NodeId) {
        self.script().cut = Some(Cut { node: id, step: 0, fate: Fate::Bare });
        self.stop(id, false);
        self.script().cut = None;
        self.at(self.now + MILLI, Event::Start(id));
    }

    /// Until nobody waits, and all members of each group are alike.
    fn come_to_rest(&mut self, when: &str) -> Result<(), String> {
        self.come_to_rest_with(when, false)
    }

    fn come_to_rest_with(&mut self, when: &str, snapshots: bool) -> Result<(), String> {
        let ends = self.now + LIMIT;
        let mut looked = self.now;
        loop {
            self.next()?;
            self.look_after_script()?;
            for id in std::mem::take(&mut self.script().applied) {
                if let Some(node) = self.machine(id).node.as_mut().filter(|_| snapshots) {
                    [DATA, FAR].into_iter().for_each(|group| node.want_snapshot(group));
                    self.after(id)?;
                }
            }
            if self.now > looked + 50 * MILLI {
                looked = self.now;
                let waits = self.script().insists && self.script().told != Told::Done;
                let rests = if waits { Err("the client asks again".into()) } else { self.rests() };
                match rests {
                    Ok(()) => return Ok(()),
                    Err(why) if self.now > ends => return Err(format!("no rest {when}: {why}")),
                    Err(_) => {}
                }
            }
        }
    }

    fn look_after_script(&mut self) -> Result<(), String> {
        if let Some(cut) = self.script().cut
            && self.machines[&cut.node].node.is_none()
        {
            self.tell(|| format!("{} has died at its step {}: {:?}", cut.node, cut.step, cut.fate));
            let all = if cut.fate == Fate::Dark { self.ids() } else { vec![cut.node] };
            for id in all {
                self.stop(id, false);
                let soon = self.draw((10 * MILLI, 1_500 * MILLI));
                self.at(self.now + soon, Event::Start(id));
            }
            self.script().cut = None;
        }
        if std::mem::take(&mut self.script().moved) {
            self.look_at_parts(false)?;
        }
        Ok(())
    }

    /// The client asks.
    fn commit_script(&mut self) -> Result<(), String> {
        let (path, rows) = (self.script().path, self.script().rows.clone());
        self.script().told = Told::Nothing;
        let (mut multi, mut keys) = (MultiBuilder::default(), vec![rows[0].clone()]);
        if path == Path::Named {
            let name = format!("name{{{}}}", rows[0]);
            multi.command(0, &[b"Q.TXID", name.as_bytes(), b"EX", b"604800"]);
            keys.push(name);
        }
        multi.command(0, &[b"INCR", rows[0].as_bytes()]);
        if path != Path::One {
            multi.command(0, &[b"INCR", rows[1].as_bytes()]);
            // The home is who has the most of the keys: the shard of the topic, as a door sees to it.
            let beside = format!("beside{{{}}}", rows[0]);
            multi.command(0, &[b"INCR", beside.as_bytes()]);
            keys.extend([rows[1].clone(), beside]);
        }
        let batches = batch_of(&Record { value: Some(b"<1>"), stamp: 5, ..Record::default() });
        let produce = Command::Produce {
            topic: TOPIC,
            place: "topic",
            partition: 0,
            append_time: false,
            transaction: None,
            marks: Vec::new(),
            batches: &batches,
        };
        let by = Committer { generation: -1, member: "", instance: None };
        let offset = OffsetOf { topic: "t", id: TOPIC, partition: 0, offset: 1, epoch: -1, metadata: "" };
        let offsets = Command::Commit { group: READERS, by, offsets: vec![offset] };
        for command in [produce, offsets] {
            let mut form = Vec::new();
            shard::streams::put_queue(&mut form, DATA, &command);
            multi.stream(&form);
        }
        self.commit(0, commits::Op::Script, Body::Multi(multi, Protocol::Resp2), keys, Vec::new())
    }

    /// The client hears of it.
    pub(super) fn script_told(&mut self, bytes: Option<&[u8]>) -> Result<(), String> {
        self.tell(|| format!("the client is told {:?}", bytes.map(String::from_utf8_lossy)));
        let told = match bytes {
            None => Told::Unknown,
            Some(bytes) if is_refusal(bytes) => Told::Refused,
            Some(bytes) if bytes.first() == Some(&b'*') => Told::Done,
            Some(bytes) => return Err(format!("it was answered {:?}", String::from_utf8_lossy(bytes))),
        };
        self.script().told = told;
        if told != Told::Done && self.script().insists {
            let pause = self.draw((5 * MILLI, 60 * MILLI));
            self.at(self.now + pause, Event::Commits(0));
        }
        Ok(())
    }

    /// It asks again, at whoever runs.
    pub(super) fn ask_script_again(&mut self) -> Result<(), String> {
        let mut runs = self.machines.values().filter(|machine| machine.runs()).map(|machine| machine.id);
        match runs.next_back() {
            Some(door) => {
                self.commits.script(door);
                self.commit_script()
            }
            None => {
                self.at(self.now + 50 * MILLI, Event::Commits(0));
                Ok(())
            }
        }
    }

    /// How often it has happened, as far as the first shard shows. An error where a part can be seen without the others, or, in the `end`, where
    /// anybody has to wait.
    fn look_at_parts(&mut self, end: bool) -> Result<u64, String> {
        let (path, rows) = (self.script().path, self.script().rows.clone());
        let ids: Vec<NodeId> = self.machines.values().filter(|own| own.node.is_some()).map(|own| own.id).collect();
        let times = |id: NodeId, group: GroupId, row: &str| -> Result<u64, String> {
            match model::Answer::parse(&self.read_words(id, group, &[b"GET", row.as_bytes()]))? {
                model::Answer::Bulk(None) => Ok(0),
                answer => String::from_utf8_lossy(&answer.text()?).parse().map_err(|_| format!("{answer:?}")),
            }
        };
        let (mut most, mut near, mut far) = (0, Seen::Waits, Seen::Waits);
        for id in ids {
            // What lies in one shard is one entry: on each node, at each moment, all of it or nothing.
            let row = times(id, DATA, &rows[0])?;
            let (records, offset) = {
                let state = self.shard(id, DATA).state();
                let queue = state.queue();
                let offset =
                    queue.group(READERS).and_then(|group| group.offset("t", TOPIC, 0)).map_or(0, |own| own.offset);
                (queue.partition(TOPIC, 0).map_or(0, |own| own.high()), offset)
            };
            if row != records || offset != i64::from(row > 0) {
                return Err(format!(
                    "{id} has the row {row} times, the record {records} times, and the offset {offset}"
                ));
            }
            most = most.max(row);
            let local = self.machines[&id].local(self.now);
            for (group, row, seen) in [(DATA, &rows[0], &mut near), (FAR, &rows[1], &mut far)] {
                let shard = self.shard(id, group);
                let spec = command::find(b"GET").expect("it is there");
                if shard.may_read(|| local) && !shard.state().is_locked(spec, &[b"GET", row.as_bytes()]) {
                    *seen = Seen::Is(times(id, group, row)?);
                }
            }
        }
        if path == Path::One {
            return Ok(most);
        }
        // Whoever has the record on whichever node, and then reads, sees the commit that it belongs to, or waits for it.
        match (near, far) {
            (Seen::Is(near), Seen::Is(far)) if near != far => {
                Err(format!("one shard shows the commit {near} times, the other {far} times"))
            }
            (_, Seen::Is(far)) if far < most => {
                Err(format!("the record is there {most} times, the other row {far} times"))
            }
            (Seen::Waits, _) | (_, Seen::Waits) if end => {
                // Silent groups have no lease; then what the members hold is asked.
                let leader = self.leader(FAR).ok_or("nobody leads")?;
                match times(leader, FAR, &rows[1])? {
                    far if far == most => Ok(most),
                    far => Err(format!("in the end one shard shows it {most} times, the other {far} times")),
                }
            }
            _ => Ok(most),
        }
    }
}

//! Transactions over several shards, under faults: the product's own coordinators (`shard::commit::Coordinator`) at every node, and its
//! recoveries at whoever believes to lead, their units lost, late, and asked of the wrong node; whoever drives one dies at any step.
//!
//! Clients append to and read lists in transactions of up to four steps, over one shard or several; move money between accounts, and add
//! it up; and change one key of a pair by what they have seen of both (write skew). The lists are judged by
//! `history::transactions`, and all of it by what must hold at any moment.

use base::key_slot;
use history::transactions::{Step as Part, Transactions as Story};
use shard::commit::{Act, Age, Body, Coordinator, Due, Heard, Plan, Recovery};
use shard::entry::{self, Unit, Watch};
use store::codec::Input as Bytes;

use super::clients::{key, put_mark};
use super::*;

/// Clients of such transactions.
const CLIENTS: usize = 5;
const ACCOUNTS: u64 = 6;
const PAIRS: u64 = 2;
/// How often doors look after what is late, and leaders after what nobody finishes.
const LOOK: u64 = 100 * MILLI;
/// As long as a door tries (`doors::resp::forward::FORWARD_WAIT`).
const WAIT: u64 = 3_000 * MILLI;
/// After so long a door believes that the link to whom it asked is broken.
const LINK_PATIENCE: (u64, u64) = (300 * MILLI, 6_000 * MILLI);
/// A unit on its way for long: behind a resolve, and now and then behind the transaction's deadline.
const LATE: (u64, u64) = (300 * MILLI, 4_000 * MILLI);
const VERY_LATE: (u64, u64) = (8_000 * MILLI, 12_500 * MILLI);

/// What every named commit counts up, each of them once.
const ONCE: [&str; 2] = ["once:left", "once:right"];

/// What a client wants.
#[derive(Clone, Debug)]
pub(super) enum Op {
    /// This number in the story, and on the tape.
    Lists(usize, u64),
    Transfer,
    Audit,
    Change,
    Look(u64),
    /// A commit that has a name.
    Named,
    /// The one of a scripted run.
    Script,
}

/// What a client has seen of a pair, by which it will change a key.
#[derive(Clone, Debug)]
struct Seen {
    key: String,
    value: &'static [u8],
    watches: Vec<Watch>,
}

#[derive(Clone, Debug)]
struct Client {
    home: NodeId,
    busy: bool,
    seen: Option<Seen>,
    /// A commit with a name, asked for until it is answered.
    named: Option<u64>,
}

enum Machine {
    Door(Box<Coordinator>, Vec<Vec<u8>>, Vec<Watch>),
    Leader(Recovery),
}

struct Job {
    node: NodeId,
    machine: Machine,
    begun: u64,
    hurried: bool,
    client: Option<(usize, Op)>,
}

/// A unit under way.
struct Ask {
    job: u64,
    group: GroupId,
    unit: Vec<u8>,
    since: u64,
}

/// What comes of a unit.
#[derive(Clone, Debug)]
pub(super) enum Told {
    Answer(Vec<u8>),
    /// Nothing was done: somebody else leads.
    Elsewhere,
    Lost,
}

/// A unit on its way to another node.
#[derive(Clone, Debug)]
pub(super) struct Errand {
    request: u64,
    group: GroupId,
    unit: Vec<u8>,
}

/// All of it.
#[derive(Default)]
pub(super) struct Commits {
    jobs: BTreeMap<u64, Job>,
    asks: BTreeMap<u64, Ask>,
    /// Who waits for a lock, by node and ticket.
    held: BTreeMap<(NodeId, u64), u64>,
    /// Each door's life: which one, its name, its next number.
    doors: BTreeMap<NodeId, (u64, u64, u64)>,
    clients: Vec<Client>,
    pub(super) story: Story,
    /// Numbers in the story of requests of other clients.
    pub(super) numbers: BTreeMap<u64, usize>,
    next: u64,
    names: u64,
    /// Named commits that were answered.
    named: u64,
    names_commits: bool,
}

impl Commits {
    /// One client, at this node.
    pub(super) fn script(&mut self, home: NodeId) {
        self.clients = vec![Client { home, busy: false, seen: None, named: None }];
    }
}

fn account(number: u64) -> String {
    format!("account{number}")
}

fn pair(number: u64) -> [String; 2] {
    [format!("duty{number}:left"), format!("duty{number}:right")]
}

/// Every key that these clients have.
pub(super) fn keys() -> Vec<String> {
    let lists = (0..LISTS).map(key);
    let pairs = (0..PAIRS).flat_map(pair);
    lists.chain((0..ACCOUNTS).map(account)).chain(pairs).chain(ONCE.map(str::to_owned)).collect()
}

impl World {
    pub(super) fn begin_commits(&mut self) {
        let client = Client { home: NodeId(1), busy: false, seen: None, named: None };
        self.commits.clients = vec![client; CLIENTS];
        // Names are kept by shard time, which may only go wrong by less than a name's life.
        self.commits.names_commits = self.commits_have_names();
        for client in 0..CLIENTS {
            let at = self.rng.below(2_000 * MILLI);
            self.at(at, Event::Commits(client));
        }
        self.at(LOOK, Event::Doors);
    }

    /// Half of the seeds: in these, wall clocks are set wrong by minutes only.
    pub(super) fn commits_have_names(&self) -> bool {
        self.options.commits && !self.quiesces
    }

    pub(super) fn group_of_key(&self, key: &[u8]) -> GroupId {
        self.group_of_slot(key_slot(key))
    }

    // ---- clients -------------------------------------------------------------------------------------------------------

    pub(super) fn play_commits(&mut self, client: usize) -> Result<(), String> {
        if self.script.is_some() {
            return self.ask_script_again();
        }
        if self.commits.clients[client].busy {
            return Ok(());
        }
        let is_over = self.quiet && self.now > self.ends + 500 * MILLI;
        if is_over && self.commits.clients[client].named.is_none() {
            self.commits.clients[client].seen = None;
            return Ok(());
        }
        if self.rng.chance(1, 12) || !self.machines[&self.commits.clients[client].home].runs() {
            self.commits.clients[client].home = self.any();
        }
        let home = self.commits.clients[client].home;
        if !self.machines[&home].runs() || self.machines[&home].node.as_ref().is_none_or(|node| node.shards.len() < 3) {
            self.next_commit(client);
            return Ok(());
        }
        if let Some(name) = self.commits.clients[client].named {
            return self.play_named(client, name);
        }
        if let Some(Seen { key, value, watches }) = self.commits.clients[client].seen.take() {
            let mut multi = MultiBuilder::default();
            multi.command(0, &[b"SET", key.as_bytes(), value]);
            return self.commit(client, Op::Change, Body::Multi(multi, Protocol::Resp2), vec![key], watches);
        }
        match self.rng.below(20) {
            0..=9 => self.play_lists(client),
            10..=13 => {
                let (from, to) = (account(self.rng.below(ACCOUNTS)), account(self.rng.below(ACCOUNTS)));
                let sum = (1 + self.rng.below(100)).to_string();
                let mut multi = MultiBuilder::default();
                multi.command(0, &[b"DECRBY", from.as_bytes(), sum.as_bytes()]);
                multi.command(0, &[b"INCRBY", to.as_bytes(), sum.as_bytes()]);
                self.commit(client, Op::Transfer, Body::Multi(multi, Protocol::Resp2), vec![from, to], Vec::new())
            }
            14 | 15 => self.read_all(client, Op::Audit, (0..ACCOUNTS).map(account).collect()),
            16 if self.commits.names_commits => {
                self.commits.names += 1;
                let name = self.commits.names;
                self.commits.clients[client].named = Some(name);
                self.play_named(client, name)
            }
            16 | 17 => {
                let number = self.rng.below(PAIRS);
                self.read_all(client, Op::Look(number), pair(number).to_vec())
            }
            _ => {
                self.commits.clients[client].seen = self.see_pair();
                self.next_commit(client);
                Ok(())
            }
        }
    }

    /// Asked for again and again until somebody says what came of it; in half of the cases the keys lie in several shards by themselves.
    fn play_named(&mut self, client: usize, name: u64) -> Result<(), String> {
        let mut multi = MultiBuilder::default();
        let key = format!("name{name}");
        multi.command(0, &[b"Q.TXID", key.as_bytes(), b"EX", b"604800"]);
        ONCE.iter().for_each(|key| multi.command(0, &[b"INCR", key.as_bytes()]));
        let mut keys = vec![key];
        keys.extend(ONCE.map(str::to_owned));
        self.commit(client, Op::Named, Body::Multi(multi, Protocol::Resp2), keys, Vec::new())
    }

    fn next_commit(&mut self, client: usize) {
        let pause = self.draw((MILLI / 2, 60 * MILLI));
        self.at(self.now + pause, Event::Commits(client));
    }

    fn read_all(&mut self, client: usize, op: Op, keys: Vec<String>) -> Result<(), String> {
        let mut words: Vec<&[u8]> = vec![b"MGET"];
        words.extend(keys.iter().map(String::as_bytes));
        let mut unit = Vec::new();
        entry::put_command(&mut unit, 0, Protocol::Resp2, &words);
        self.commit(client, op, Body::Command(unit), keys, Vec::new())
    }

    fn play_lists(&mut self, client: usize) -> Result<(), String> {
        let (mut parts, mut multi, mut keys) = (Vec::new(), MultiBuilder::default(), Vec::new());
        for _ in 0..1 + self.rng.below(4) {
            let list = self.rng.below(LISTS);
            keys.push(key(list));
            parts.push(if self.rng.chance(1, 2) {
                self.next_value += 1;
                Part::Append(list, self.next_value - 1, None)
            } else {
                Part::Read(list, None)
            });
        }
        for part in &parts {
            match part {
                Part::Append(list, value, _) => {
                    multi.command(0, &[b"RPUSH", key(*list).as_bytes(), value.to_string().as_bytes()]);
                }
                Part::Read(list, _) => multi.command(0, &[b"LRANGE", key(*list).as_bytes(), b"0", b"-1"]),
            }
        }
        if self.options.moves {
            for part in &parts {
                if let Part::Append(list, value, _) = part {
                    put_mark(&mut multi, *list, *value);
                    keys.push(super::moving::mark(*list));
                }
            }
        }
        let request = self.next_request;
        self.next_request += 1;
        if let Some(tape) = &mut self.tape {
            tape.ask(request, parts.iter().map(taped).collect());
        }
        let number = self.commits.story.begin(parts, self.now);
        self.commit(client, Op::Lists(number, request), Body::Multi(multi, Protocol::Resp2), keys, Vec::new())
    }

    /// Both keys of a pair, one after the other, with their versions, as WATCH and GET show them; and what is to be done.
    fn see_pair(&mut self) -> Option<Seen> {
        let number = self.rng.below(PAIRS);
        let (mut watches, mut is_off) = (Vec::new(), Vec::new());
        for key in pair(number) {
            let group = self.group_of_key(key.as_bytes());
            let leader = self.leader(group)?;
            let local = self.machines[&leader].local(self.now);
            let shard = self.machines[&leader].node.as_ref()?.shards.get(group.0 as usize)?.clone();
            let state = shard.state();
            if !shard.may_read(|| local) || state.commits().locks(key.as_bytes()) {
                return None;
            }
            watches.push(Watch {
                db: 0,
                key: key.clone().into_bytes(),
                version: state.version(0, key.as_bytes(), state.stamp()),
            });
            is_off.push(self.read_words(leader, group, &[b"GET", key.as_bytes()]) == b"$1\r\n0\r\n");
        }
        let own = self.rng.index(2);
        let value: &[u8] = match (is_off[own], is_off[1 - own]) {
            (true, _) => b"1",
            (false, false) => b"0",
            // Somebody has to stay.
            (false, true) => return None,
        };
        Some(Seen { key: pair(number)[own].clone(), value, watches })
    }

    /// As the session does: one shard's by its queue, several shards' by a coordinator.
    pub(super) fn commit(
        &mut self,
        client: usize,
        op: Op,
        body: Body,
        keys: Vec<String>,
        watches: Vec<Watch>,
    ) -> Result<(), String> {
        let home = self.commits.clients[client].home;
        let mut keys: Vec<Vec<u8>> = keys.into_iter().map(String::into_bytes).collect();
        keys.sort_unstable();
        keys.dedup();
        self.commits.clients[client].busy = true;
        let plan = Plan::of(&keys, &watches, |key| self.group_of_key(key));
        if plan.parts.len() == 1 {
            let request = self.next_request;
            self.next_request += 1;
            let group = plan.home;
            let sent = self.submit(home, group, |batch| match &body {
                Body::Command(unit) => batch.unit(Place::Local, false, request, unit),
                Body::Multi(multi, protocol) => batch.multi(Place::Logged, false, request, *protocol, multi, &watches),
            });
            if sent {
                let kind = Kind::Commit(client, op);
                self.requests.insert(request, Request { client: 0, node: home, group, kind, begun: self.now });
                self.at(self.now + PATIENCE, Event::GiveUp(request));
                return self.after(home);
            }
            let leader =
                self.machines[&home].node.as_ref().and_then(|node| node.shards.get(group.0 as usize)?.leader());
            self.commits.clients[client].home = leader.unwrap_or_else(|| self.any());
            return self.commit_answered(client, op, Some(b"-TRYAGAIN not led here\r\n"));
        }
        self.report.cross_begun += 1;
        let machine = &self.machines[&home];
        let wall = machine.wall_offset * 1000 + self.now / 1000;
        let life = machine.life;
        let door = self.commits.doors.entry(home).or_insert((life, wall, 0));
        if door.0 != life {
            *door = (life, wall, 0);
        }
        door.2 += 1;
        let age = Age { at: wall, origin: home.0, number: door.2 };
        let mut own = Box::new(Coordinator::new(body, age, door.1));
        own.planted = self.options.bugs.door;
        self.commits.next += 1;
        let id = self.commits.next;
        let machine = Machine::Door(own, keys, watches);
        let job = Job { node: home, machine, begun: self.now, hurried: false, client: Some((client, op)) };
        self.commits.jobs.insert(id, job);
        self.attempt(id)
    }

    /// What came of a client's wish; nothing, where nobody knows.
    pub(super) fn commit_answered(&mut self, client: usize, op: Op, bytes: Option<&[u8]>) -> Result<(), String> {
        self.commits.clients[client].busy = false;
        if matches!(op, Op::Script) {
            return self.script_told(bytes);
        }
        self.next_commit(client);
        let tape = self.tape.as_mut();
        let Some(bytes) = bytes else {
            self.report.unknown += 1;
            if let (Op::Lists(_, request), Some(tape)) = (&op, tape) {
                tape.unknown(*request);
            }
            return Ok(());
        };
        self.report.digest = self.report.digest.rotate_left(5) ^ u64::from(crc(bytes));
        if is_refusal(bytes) {
            self.report.refused += 1;
            if let Op::Lists(number, request) = op {
                self.commits.story.refused(number);
                if let Some(tape) = tape {
                    tape.refused(request);
                }
            }
            return Ok(());
        }
        let answer = model::Answer::parse(bytes)?;
        let items = answer.items().map_err(|why| format!("{op:?}: {why}"))?;
        match op {
            Op::Transfer | Op::Script => {}
            Op::Change => match answer {
                model::Answer::Array(None) => self.report.watched_changed += 1,
                _ => self.report.changed += 1,
            },
            Op::Audit => {
                self.report.audits += 1;
                let sum: i64 = items.iter().map(amount).sum::<Result<_, _>>()?;
                if sum != 0 {
                    return Err(format!("an audit finds {sum} more than there is: {items:?}"));
                }
            }
            Op::Look(number) => both_on(number, items)?,
            Op::Named => {
                self.commits.clients[client].named = None;
                self.commits.named += 1;
                self.report.named += 1;
            }
            Op::Lists(number, request) => {
                let mut parts = self.commits.story.steps(number).to_vec();
                // Only a bug that is put in answers less than was asked.
                let cheated = items.is_empty() && self.options.bugs.door.answers_early;
                if items.len() < parts.len() && !cheated {
                    return Err(format!("{} steps were answered {answer:?}", parts.len()));
                }
                for (part, item) in parts.iter_mut().zip(items) {
                    match part {
                        Part::Append(_, _, length) => *length = Some(item.number()?),
                        Part::Read(_, values) => {
                            *values = Some(item.items()?.iter().map(model::Answer::number).collect::<Result<_, _>>()?);
                        }
                    }
                }
                if let Some(tape) = tape {
                    tape.answered(request, parts.iter().map(taped).collect());
                }
                self.commits.story.done(number, parts, self.now);
            }
        }
        Ok(())
    }

    // ---- doors ---------------------------------------------------------------------------------------------------------

    pub(super) fn attempt(&mut self, id: u64) -> Result<(), String> {
        let Some(job) = self.commits.jobs.get(&id) else { return Ok(()) };
        let node = job.node;
        if self.machines[&node].paused {
            self.at(self.now + 20 * MILLI, Event::Again(id));
            return Ok(());
        }
        let Machine::Door(own, keys, watches) = &job.machine else { return Ok(()) };
        if own.is_answered() {
            return Ok(());
        }
        let plan = Plan::of(keys, watches, |key| self.group_of_key(key));
        let wall = self.machines[&node].wall_offset + self.now / MILLI;
        let door = self.commits.doors.get_mut(&node).expect("it has begun one");
        door.2 += 1;
        let number = door.2;
        let mut acts = Vec::new();
        if let Some(Job { machine: Machine::Door(own, ..), .. }) = self.commits.jobs.get_mut(&id) {
            own.begin(plan, number, wall, &mut acts);
        }
        self.obey(id, acts)
    }

    fn obey(&mut self, id: u64, acts: Vec<Act>) -> Result<(), String> {
        for act in acts {
            match act {
                Act::Ask { group, unit } => self.ask_unit(id, group, unit)?,
                Act::Answer(bytes) => {
                    if let Some((client, op)) = self.commits.jobs.get_mut(&id).and_then(|job| job.client.take()) {
                        match is_refusal(&bytes) {
                            true => self.report.cross_refused += 1,
                            false => self.report.cross += 1,
                        }
                        self.commit_answered(client, op, Some(&bytes))?;
                    }
                }
                Act::Doom => {
                    if let Some((client, op)) = self.commits.jobs.get_mut(&id).and_then(|job| job.client.take()) {
                        self.commit_answered(client, op, None)?;
                    }
                }
                Act::Again(after) => {
                    self.report.cross_again += 1;
                    self.at(self.now + after * MILLI, Event::Again(id));
                }
                Act::Over => {
                    self.commits.jobs.remove(&id);
                    self.commits.asks.retain(|_, ask| ask.job != id);
                }
            }
        }
        Ok(())
    }

    fn ask_unit(&mut self, id: u64, group: GroupId, unit: Vec<u8>) -> Result<(), String> {
        let Some(job) = self.commits.jobs.get(&id) else { return Ok(()) };
        let node = job.node;
        let request = self.next_request;
        self.next_request += 1;
        let patience = self.draw(LINK_PATIENCE);
        self.at(self.now + patience, Event::AskOver(request));
        if self.script.is_none() && self.rng.chance(1, 40) {
            // It comes when its door has given it up: to nobody's question.
            self.report.late_units += 1;
            let after = if self.rng.chance(1, 4) { VERY_LATE } else { LATE };
            let at = self.now + self.draw(after);
            self.at(at, Event::LateUnit(group, unit.clone()));
        } else {
            self.at(self.now, Event::Route(request));
        }
        self.commits.asks.insert(request, Ask { job: id, group, unit, since: self.now });
        if !self.quiet && self.rng.chance(1, 250) {
            self.strike(node, group);
        }
        Ok(())
    }

    /// Somebody who has a part in it dies: the door's node, or who leads the shard that is asked; now or a moment later.
    fn strike(&mut self, door: NodeId, group: GroupId) {
        let leader = self.leader(group);
        let id = match leader {
            Some(leader) if self.rng.chance(1, 2) => {
                self.report.leaders_struck += 1;
                leader
            }
            _ => {
                self.report.doors_struck += 1;
                door
            }
        };
        let soon = self.now + if self.rng.chance(1, 2) { 0 } else { self.rng.below(20 * MILLI) };
        self.at(soon, Event::Strike(id));
    }

    pub(super) fn struck(&mut self, id: NodeId) {
        if !self.quiet && self.machines[&id].runs() {
            let kill = self.rng.chance(1, 2);
            self.stop(id, kill);
            let soon = self.draw((10 * MILLI, 1_500 * MILLI));
            self.at(self.now + soon, Event::Start(id));
        }
    }

    /// A unit goes to who leads its shard, as far as its door's node knows.
    pub(super) fn route(&mut self, request: u64) -> Result<(), String> {
        let Some(Ask { job, group, unit, .. }) = self.commits.asks.get(&request) else { return Ok(()) };
        let (group, unit) = (*group, unit.clone());
        let Some(node) = self.commits.jobs.get(job).map(|job| job.node) else { return Ok(()) };
        if self.machines[&node].paused {
            self.at(self.now + 20 * MILLI, Event::Route(request));
            return Ok(());
        }
        // The slots may have moved.
        let mut moved = false;
        if let Ok(read @ Unit::Commit(_)) = entry::read_unit(&mut Bytes::new(&unit)) {
            shard::state::keys_of(&read, |key| moved |= self.group_of_key(key) != group);
        }
        if moved {
            let line = b"-TRYAGAIN the slot of a key has moved to another shard; nothing was done\r\n";
            return self.unit_told(request, Told::Answer(line.to_vec()));
        }
        let known = self.machines[&node].node.as_ref().and_then(|own| own.shards.get(group.0 as usize)?.leader());
        let to = match known {
            _ if self.believes(node, group) => node,
            Some(leader) if self.rng.chance(2, 3) => leader,
            _ => self.any(),
        };
        if to == node {
            return self.take_unit(node, node, Errand { request, group, unit });
        }
        self.send(node, to, Packet::Unit(Box::new(Errand { request, group, unit })));
        Ok(())
    }

    /// A unit has come to a node.
    pub(super) fn take_unit(&mut self, id: NodeId, from: NodeId, errand: Errand) -> Result<(), String> {
        let Errand { request, group, unit } = errand;
        let taken = self.put_unit(id, group, &unit, request);
        if taken {
            return self.after(id);
        }
        match id == from {
            true => self.unit_told(request, Told::Elsewhere),
            false => {
                self.send(id, from, Packet::Told(request, Told::Elsewhere));
                Ok(())
            }
        }
    }

    fn put_unit(&mut self, id: NodeId, group: GroupId, unit: &[u8], request: u64) -> bool {
        let Some(node) = self.machine(id).node.as_mut() else { return false };
        let Some(shard) = node.shards.get(group.0 as usize).cloned() else { return false };
        let Ok(read) = entry::read_unit(&mut Bytes::new(unit)) else { return false };
        let place = if matches!(read, Unit::Commit(_)) { Place::Logged } else { Place::Local };
        let frees = matches!(&read, Unit::Commit(step) if step.frees());
        if !shard.state().takes_unit(&read) || shard.refusal(frees).is_some() {
            return false;
        }
        let taken = shard.submit(|batch| batch.unit(place, frees, request, unit)).is_ok();
        if taken {
            node.wake();
        }
        taken
    }

    /// A unit comes that nobody waits for any more.
    pub(super) fn late_unit(&mut self, group: GroupId, unit: &[u8]) -> Result<(), String> {
        let any = self.any();
        let id = self.leader(group).filter(|_| self.rng.chance(9, 10)).unwrap_or(any);
        let request = self.next_request;
        self.next_request += 1;
        if self.machines[&id].runs() && self.put_unit(id, group, unit, request) {
            return self.after(id);
        }
        Ok(())
    }

    /// A node's shard has answered a request: whether that was a unit of a commit.
    pub(super) fn unit_answered(&mut self, id: NodeId, request: u64, bytes: Option<&[u8]>) -> Result<bool, String> {
        let Some(ask) = self.commits.asks.get(&request) else { return Ok(false) };
        let Some(node) = self.commits.jobs.get(&ask.job).map(|job| job.node) else { return Ok(true) };
        let told = bytes.map_or(Told::Lost, |bytes| Told::Answer(bytes.to_vec()));
        if node == id {
            self.unit_told(request, told)?;
        } else {
            self.send(id, node, Packet::Told(request, told));
        }
        Ok(true)
    }

    pub(super) fn unit_told(&mut self, request: u64, told: Told) -> Result<(), String> {
        let Some(Ask { job, group, since, .. }) = self.commits.asks.get(&request) else { return Ok(()) };
        let (id, group, since) = (*job, *group, *since);
        let told = match told {
            Told::Elsewhere if self.now < since + WAIT => {
                let pause = self.draw((5 * MILLI, 60 * MILLI));
                self.at(self.now + pause, Event::Route(request));
                return Ok(());
            }
            Told::Elsewhere => {
                Told::Answer(b"-TRYAGAIN the shard of this key has had no leader for 3 seconds\r\n".to_vec())
            }
            other => other,
        };
        self.commits.asks.remove(&request);
        let heard = match &told {
            Told::Answer(bytes) => Heard::Answer(bytes),
            _ => {
                self.commits.asks.retain(|_, ask| ask.job != id || ask.group != group);
                Heard::Unknown
            }
        };
        self.tell(|| format!("job {id} hears of {group}: {}", show(heard)));
        let mut acts = Vec::new();
        match self.commits.jobs.get_mut(&id).map(|job| &mut job.machine) {
            Some(Machine::Door(own, ..)) => own.heard(group, heard, &mut acts),
            Some(Machine::Leader(own)) => own.heard(group, heard, &mut acts),
            None => {}
        }
        self.obey(id, acts)
    }

    /// That link must be broken.
    pub(super) fn ask_over(&mut self, request: u64) -> Result<(), String> {
        self.unit_told(request, Told::Lost)
    }

    /// Who waits for a lock.
    pub(super) fn unit_held(&mut self, id: NodeId, request: u64, ticket: u64) {
        self.report.held += 1;
        self.commits.held.insert((id, ticket), request);
    }

    /// What came of that.
    pub(super) fn held_answered(&mut self, id: NodeId, ticket: u64, bytes: Option<Vec<u8>>) -> Result<(), String> {
        match (self.commits.held.remove(&(id, ticket)), bytes) {
            (Some(request), Some(bytes)) => self.answered(id, Answer::Reply(request, bytes)),
            (Some(request), None) => self.answered(id, Answer::Lost(request)),
            (None, _) => Ok(()),
        }
    }

    /// With a node its door dies.
    pub(super) fn door_dies(&mut self, node: NodeId) {
        self.commits.held.retain(|(id, _), _| *id != node);
        let gone: Vec<u64> = self.commits.jobs.iter().filter(|(_, job)| job.node == node).map(|(id, _)| *id).collect();
        for id in gone {
            self.commits.asks.retain(|_, ask| ask.job != id);
            if let Some((client, op)) = self.commits.jobs.remove(&id).and_then(|job| job.client) {
                self.report.cross_unknown += 1;
                // An outcome that nobody knows contradicts nothing.
                let _ = self.commit_answered(client, op, None);
                self.commits.clients[client].home = self.any();
            }
        }
    }

    /// What doors do every now and then, and whoever leads.
    pub(super) fn look_after_doors(&mut self) -> Result<(), String> {
        self.at(self.now + LOOK, Event::Doors);
        let ids: Vec<u64> = self.commits.jobs.keys().copied().collect();
        for id in ids {
            let Some(job) = self.commits.jobs.get_mut(&id) else { continue };
            if self.machines[&job.node].paused || job.hurried || self.now < job.begun + WAIT {
                continue;
            }
            let mut acts = Vec::new();
            if let Machine::Door(own, ..) = &mut job.machine
                && !own.is_answered()
            {
                job.hurried = true;
                own.hurry(&mut acts);
                self.obey(id, acts)?;
            }
        }
        for node in self.ids() {
            for group in self.groups().into_iter().skip(1) {
                if self.believes(node, group) {
                    self.recover(node, group)?;
                }
            }
        }
        Ok(())
    }

    fn recover(&mut self, node: NodeId, group: GroupId) -> Result<(), String> {
        let machine = &self.machines[&node];
        let shard = machine.node.as_ref().expect("it believes to lead").shards[group.0 as usize].clone();
        let now = shard.now(machine.local(self.now));
        let due = shard.state().commits().overdue(now, 32);
        for due in due {
            let (Due::Prepared { tx, .. } | Due::Decided { tx, .. }) = &due;
            let is_known = |job: &Job| {
                let known = |own: &Recovery| job.node == node && own.own() == group && own.tx() == *tx;
                matches!(&job.machine, Machine::Leader(own) if known(own))
            };
            if self.commits.jobs.values().any(is_known) {
                continue;
            }
            match &due {
                Due::Prepared { .. } => self.report.resolves += 1,
                Due::Decided { .. } => self.report.reminders += 1,
            }
            let mut acts = Vec::new();
            let machine = Machine::Leader(Recovery::begin(group, due, &mut acts));
            self.commits.next += 1;
            let id = self.commits.next;
            self.commits.jobs.insert(id, Job { node, machine, begun: self.now, hurried: true, client: None });
            self.obey(id, acts)?;
        }
        Ok(())
    }

    // ---- the end -------------------------------------------------------------------------------------------------------

    /// Whether nothing is under way, locked or undecided.
    pub(super) fn commits_rest(&self) -> Result<(), String> {
        if let Some(client) = self.commits.clients.iter().position(|client| client.busy || client.named.is_some()) {
            return Err(format!("client {client} of transactions waits"));
        }
        if !self.commits.jobs.is_empty() {
            return Err(format!("{} doors have something to do", self.commits.jobs.len()));
        }
        for group in self.groups().into_iter().skip(1) {
            let leader = self.leader(group).ok_or_else(|| format!("nobody leads {group}"))?;
            let shard = self.shard(leader, group);
            let (prepared, parked, decisions, _) = shard.state().commits().counts();
            if prepared + parked + decisions > 0 {
                return Err(format!("{group}: {prepared} prepared, {parked} parked, {decisions} decisions"));
            }
        }
        Ok(())
    }

    /// What must hold in the end.
    pub(super) fn judge_commits(&mut self) -> Result<(), String> {
        let mut read = |key: String| -> Result<model::Answer, String> {
            let group = self.group_of_key(key.as_bytes());
            let leader = self.leader(group).ok_or("nobody leads")?;
            model::Answer::parse(&self.read_words(leader, group, &[b"GET", key.as_bytes()]))
        };
        let sum: i64 = (0..ACCOUNTS).map(|at| amount(&read(account(at))?)).sum::<Result<_, String>>()?;
        if sum != 0 {
            return Err(format!("in the end there is {sum} more than there was"));
        }
        for key in ONCE {
            let count = amount(&read(key.to_owned())?)?;
            if count != self.commits.named as i64 {
                return Err(format!("{} commits had a name each, and {key} is {count}", self.commits.named));
            }
        }
        for number in 0..PAIRS {
            let items: Vec<model::Answer> = pair(number).into_iter().map(&mut read).collect::<Result<_, _>>()?;
            both_on(number, &items)?;
        }
        self.commits.story.check()
    }
}

fn amount(item: &model::Answer) -> Result<i64, String> {
    match item {
        model::Answer::Bulk(None) => Ok(0),
        model::Answer::Bulk(Some(text)) => {
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            number.ok_or_else(|| format!("{item:?} is no amount"))
        }
        _ => Err(format!("{item:?} is no amount")),
    }
}

fn both_on(number: u64, items: &[model::Answer]) -> Result<(), String> {
    match items.iter().all(|item| item.text().is_ok_and(|text| text == b"0")) {
        true => Err(format!("write skew: of pair {number} nobody has stayed")),
        false => Ok(()),
    }
}

fn taped(part: &Part) -> tape::Step {
    match part {
        Part::Append(list, value, _) => tape::Step::Append(*list, *value),
        Part::Read(list, values) => tape::Step::Read(*list, values.clone()),
    }
}

fn show(heard: Heard<'_>) -> String {
    match heard {
        Heard::Unknown => "nothing".to_owned(),
        Heard::Answer(bytes) => match shard::commit::Answer::read(bytes) {
            Ok(answer) => format!("{answer:?}").chars().take(60).collect(),
            Err(_) => String::from_utf8_lossy(bytes).into_owned(),
        },
    }
}

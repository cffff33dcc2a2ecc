//! Producers with transactions, a group's members who commit offsets, and what a shard's leader does beside: markers, transactions
//! that take too long, records that go by retention. The product's own commands, each of which may be lost, done twice or come late.

use history::stream::{Ended, Partition, Sent, Stream as Story};
use queue::command::{Committer, Entered, Within};
use queue::group::{Generation, Member as Of, OffsetOf};
use queue::partition::Isolation;
use queue::transaction::{Phase, Target};
use queue::{Code, Command, Outcome, batch};

use super::streams::{Ask, Late, PARTITIONS, TOPIC, Told};
use super::*;

/// The group whose members commit offsets.
const GROUP: &str = "readers";
const NAME: &str = "events";
const PLACE: &str = "topic";
pub(super) const TRANSACTORS: usize = 2;
pub(super) const MEMBERS: usize = 3;
/// How long a command may be on its way that its client has given up.
const LATE: (u64, u64) = (200 * MILLI, 4_000 * MILLI);

/// A producer with transactions, one thing after the other.
#[derive(Debug)]
pub(super) struct Transactor {
    name: String,
    /// Whether it speaks the second version of transactions (KIP-890).
    second: bool,
    home: NodeId,
    asks: bool,
    step: Step,
    producer: (i64, i16),
    /// What it had, where it goes on after an error.
    expected: Option<(i64, i16)>,
    sequences: BTreeMap<Partition, i32>,
    plan: Option<Plan>,
    /// The offset that its group must hold, and others that it may hold: outcomes that nobody knows.
    kept: i64,
    maybe: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Begin,
    Enlist,
    Write,
    Offsets,
    End,
}

/// A transaction that is to be done.
#[derive(Debug)]
struct Plan {
    story: u64,
    number: u64,
    targets: Vec<Target>,
    batches: VecDeque<Run>,
    /// The offset that goes with it.
    offset: Option<i64>,
    commit: bool,
    /// Whether its end has been asked for.
    ending: bool,
}

#[derive(Debug)]
struct Run {
    partition: Partition,
    bytes: Vec<u8>,
    sends: Vec<usize>,
}

/// A member of the group: alone in its generation, until somebody else is.
#[derive(Clone, Debug)]
pub(super) struct Member {
    home: NodeId,
    asks: bool,
    generation: Option<i32>,
    /// Where it is; `None` until it has read the group's offsets.
    positions: Option<BTreeMap<Partition, u64>>,
    committing: BTreeMap<Partition, u64>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Transactions {
    transactors: Vec<Transactor>,
    members: Vec<Member>,
    generations: i32,
    /// What the group's offsets may not go back behind: what was acknowledged, or read.
    floor: BTreeMap<Partition, u64>,
    /// Markers under way.
    marking: BTreeMap<u64, (String, u64, Target)>,
    next: u64,
}

impl Transactions {
    pub(super) fn new(home: NodeId) -> Transactions {
        let transactor = |n: usize| Transactor {
            name: format!("transactions-{n}"),
            second: n.is_multiple_of(2),
            home,
            asks: false,
            step: Step::Begin,
            producer: (-1, -1),
            expected: None,
            sequences: BTreeMap::new(),
            plan: None,
            kept: -1,
            maybe: Vec::new(),
        };
        let member = Member { home, asks: false, generation: None, positions: None, committing: BTreeMap::new() };
        Transactions {
            transactors: (0..TRANSACTORS).map(transactor).collect(),
            members: (0..MEMBERS).map(|_| member.clone()).collect(),
            ..Transactions::default()
        }
    }

    /// Whether nothing is under way.
    pub(super) fn is_drained(&self) -> bool {
        let done = |own: &Transactor| !own.asks && own.plan.is_none() && own.step == Step::Enlist;
        self.transactors.iter().all(done) && self.marking.is_empty() && !self.members.iter().any(|own| own.asks)
    }

    /// What is under way.
    pub(super) fn words(&self) -> String {
        format!("{:?} {:?} {:?}", self.transactors, self.members, self.marking)
    }

    /// Those who ask next do so elsewhere.
    fn send_home(&mut self, ask: Ask, home: NodeId) {
        match ask {
            Ask::Transactor(n) => self.transactors[n].home = home,
            Ask::Join(n, _) | Ask::Commit(n) => self.members[n].home = home,
            _ => {}
        }
    }
}

impl World {
    // ---- producers -----------------------------------------------------------------------------------------------------

    /// One of them does its next step. Not while it waits.
    pub(super) fn transact(&mut self, n: usize, all: &mut Transactions, story: &mut Story) {
        let now = self.now;
        let own = &mut all.transactors[n];
        if own.asks {
            return;
        }
        if self.rng.chance(1, 20) || !self.machines[&own.home].runs() {
            own.home = self.any();
        }
        let home = own.home;
        if !self.machines[&home].runs() {
            return;
        }
        // Somebody takes its place, who knows nothing but the name.
        if own.plan.is_some() && self.rng.chance(1, 150) {
            self.report.usurped += 1;
            give_up(own, story);
        }
        if own.step == Step::Write && self.rng.chance(1, 40) {
            // It does not wait any longer for what it has sent.
            own.plan.as_mut().expect("it writes").commit = false;
            own.step = Step::End;
        }
        let (producer, epoch) = own.producer;
        let asks = match own.step {
            Step::Begin => {
                let timeout_ms = 2_000 + self.rng.below(8_000) as u32;
                let command = Command::Begin { id: &own.name, timeout_ms, expected: own.expected };
                self.ask_queue(home, &command, Ask::Transactor(n), Late::Never)
            }
            Step::Enlist => {
                if own.plan.is_none() {
                    if self.quiet {
                        return;
                    }
                    let plan = self.plan(n, own, story);
                    own.plan = Some(plan);
                }
                let targets = own.plan.as_ref().expect("it was just made").targets.clone();
                let command = Command::Enlist { id: &own.name, producer, epoch, targets };
                self.ask_queue(home, &command, Ask::Transactor(n), Late::Never)
            }
            Step::Write => {
                let plan = own.plan.as_ref().expect("it writes");
                let run = plan.batches.front().expect("else it would be further");
                let command = Command::Produce {
                    topic: TOPIC,
                    place: PLACE,
                    partition: run.partition,
                    append_time: false,
                    transaction: Some(Entered { number: plan.number, second_version: own.second }),
                    marks: Vec::new(),
                    batches: &run.bytes,
                };
                self.ask_queue(home, &command, Ask::Transactor(n), Late::Instead)
            }
            Step::Offsets => {
                let plan = own.plan.as_ref().expect("it commits offsets");
                let by = Committer { generation: -1, member: "", instance: None };
                let offset = plan.offset.expect("else it would be further");
                let offsets = vec![OffsetOf { topic: NAME, id: TOPIC, partition: 0, offset, epoch: -1, metadata: "" }];
                let within = Within { producer, epoch, number: plan.number };
                let command = Command::TransactionCommit { group: &own.name, by, within, offsets };
                self.ask_queue(home, &command, Ask::Transactor(n), Late::Instead)
            }
            Step::End => {
                let plan = own.plan.as_mut().expect("it ends");
                plan.ending = true;
                if plan.commit {
                    story.commit(plan.story, now);
                }
                let (commit, second_version) = (plan.commit, own.second);
                let command = Command::End { id: &own.name, producer, epoch, commit, second_version };
                self.ask_queue(home, &command, Ask::Transactor(n), Late::Never)
            }
        };
        own.asks = asks;
        if !asks {
            own.home = self.leader_seen_by(home);
        }
    }

    fn plan(&mut self, n: usize, own: &mut Transactor, story: &mut Story) -> Plan {
        let number = self.next_value;
        self.next_value += 1;
        let mut batches = VecDeque::new();
        let mut partitions = BTreeSet::new();
        for _ in 0..1 + self.rng.below(4) {
            let partition = self.rng.below(u64::from(PARTITIONS)) as Partition;
            let count = 1 + self.rng.below(3);
            let first = self.next_value;
            self.next_value += count;
            let texts: Vec<String> = (first..first + count).map(|value| format!("<{value}>")).collect();
            let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            let sequence = own.sequences.entry(partition).or_default();
            let (producer, epoch) = own.producer;
            let bytes = batch::example(&texts, (self.now / MILLI) as i64, (producer, epoch, *sequence), true);
            *sequence += count as i32;
            let name = 1_000 + n as u64;
            let sends = (first..first + count)
                .map(|value| story.send(partition, name, value, Some(number), self.now))
                .collect();
            batches.push_back(Run { partition, bytes, sends });
            partitions.insert(partition);
        }
        let target = |partition| Target::Partition { topic: TOPIC, place: PLACE.into(), partition };
        let mut targets: Vec<Target> = partitions.into_iter().map(target).collect();
        let offset = self.rng.chance(1, 2).then_some(number as i64);
        targets.extend(offset.map(|_| Target::Group(own.name.as_str().into())));
        Plan { story: number, number: 0, targets, batches, offset, commit: self.rng.chance(3, 4), ending: false }
    }

    fn transactor_answered(
        &mut self,
        n: usize,
        outcome: Option<Outcome>,
        all: &mut Transactions,
        story: &mut Story,
    ) -> Result<(), String> {
        let now = self.now;
        let own = &mut all.transactors[n];
        own.asks = false;
        let Some(outcome) = outcome else { return Ok(()) };
        match (own.step, outcome) {
            (_, Outcome::Refused { code: Code::CONCURRENT_TRANSACTIONS, .. }) => {}
            (Step::Begin, Outcome::Producer { id, epoch }) => {
                (own.producer, own.expected, own.step) = ((id, epoch), None, Step::Enlist);
                own.sequences.clear();
            }
            (Step::Enlist, Outcome::Enlisted { number }) => {
                own.plan.as_mut().expect("it enlisted for one").number = number;
                own.step = Step::Write;
            }
            (Step::Write, Outcome::Produced { base, .. }) => {
                let plan = own.plan.as_mut().expect("it writes");
                let run = plan.batches.pop_front().expect("it was sent");
                for (at, send) in run.sends.iter().enumerate() {
                    story.sent(*send, Sent::Done(now, base + at as u64));
                }
                if plan.batches.is_empty() {
                    own.step = if plan.offset.is_some() { Step::Offsets } else { Step::End };
                }
            }
            (Step::Offsets, Outcome::Done) => own.step = Step::End,
            (Step::End, Outcome::Producer { id, epoch }) => {
                let plan = own.plan.take().expect("it ends");
                story.ended(plan.story, if plan.commit { Ended::Committed } else { Ended::Aborted });
                match plan.commit {
                    true => self.report.committed += 1,
                    false => self.report.aborted += 1,
                }
                if let Some(offset) = plan.offset.filter(|_| plan.commit) {
                    (own.kept, own.maybe) = (offset, Vec::new());
                }
                (own.producer, own.step) = ((id, epoch), Step::Enlist);
                if own.second {
                    own.sequences.clear();
                } else if !plan.batches.is_empty() {
                    // What it has sent in vain may come yet: another epoch, as Kafka's clients do it.
                    (own.expected, own.step) = (Some(own.producer), Step::Begin);
                }
            }
            (
                _,
                Outcome::Refused {
                    code:
                        Code::PRODUCER_FENCED
                        | Code::INVALID_PRODUCER_EPOCH
                        | Code::INVALID_PRODUCER_ID_MAPPING
                        | Code::INVALID_TXN_STATE,
                    ..
                },
            ) => {
                self.report.fenced += 1;
                give_up(own, story);
            }
            (step, other) => return Err(format!("{} at {step:?} was answered {other:?}", own.name)),
        }
        Ok(())
    }

    // ---- a group -------------------------------------------------------------------------------------------------------

    /// A member joins, reads where the group is, or reads on and commits.
    pub(super) fn attend(&mut self, n: usize, all: &mut Transactions) -> Result<(), String> {
        let own = &mut all.members[n];
        if own.asks {
            return Ok(());
        }
        if self.rng.chance(1, 20) || !self.machines[&own.home].runs() {
            own.home = self.any();
        }
        let home = own.home;
        if !self.machines[&home].runs() || self.quiet && own.generation.is_none() {
            return Ok(());
        }
        let name = format!("member-{n}");
        let Some(generation) = own.generation else {
            if self.rng.chance(1, 30) {
                all.generations += 1;
                let number = all.generations;
                let member = Of { id: name.clone(), session_ms: 10_000, rebalance_ms: 10_000, ..Of::default() };
                let generation = Generation {
                    number,
                    kind: "consumer".into(),
                    protocol: "range".into(),
                    leader: name,
                    members: vec![member],
                };
                let command = Command::SaveGroup { group: GROUP, generation };
                own.asks = self.ask_queue(home, &command, Ask::Join(n, number), Late::Never);
                if !own.asks {
                    own.home = self.leader_seen_by(home);
                }
            }
            return Ok(());
        };
        let Some(positions) = &mut own.positions else {
            let machine = &self.machines[&home];
            let (local, shard) = (machine.local(self.now), self.shard(home, DATA));
            if !shard.may_read(|| local) {
                own.home = self.leader_seen_by(home);
                return Ok(());
            }
            let state = shard.state();
            let mut found = BTreeMap::new();
            for partition in 0..PARTITIONS {
                let offset = state.queue().group(GROUP).and_then(|group| group.offset(NAME, TOPIC, partition));
                let offset = offset.map_or(0, |kept| kept.offset.max(0) as u64);
                let floor = all.floor.entry(partition).or_default();
                if offset < *floor {
                    return Err(format!(
                        "the group's offset of partition {partition} has gone back from {floor} to {offset}, as {name} reads at {home}"
                    ));
                }
                *floor = offset;
                found.insert(partition, offset);
            }
            drop(state);
            self.report.group_reads += 1;
            own.positions = Some(found);
            return Ok(());
        };
        let partition = self.rng.below(u64::from(PARTITIONS)) as Partition;
        let at = positions.entry(partition).or_default();
        let node = self.machines[&home].node.as_ref().expect("it runs");
        let state = node.shards[DATA.0 as usize].state();
        // What it reads is judged of others; here it only gets on.
        if let Some(partition) = state.queue().partition(TOPIC, partition) {
            let end = partition.visible(Isolation::Committed);
            *at = (*at).max(partition.start()).max(end.min(*at + 1 + self.rng.below(40)));
        }
        drop(state);
        if self.rng.chance(1, 3) {
            let by = Committer { generation, member: &name, instance: None };
            let of = |(partition, offset): (&Partition, &u64)| OffsetOf {
                topic: NAME,
                id: TOPIC,
                partition: *partition,
                offset: *offset as i64,
                epoch: -1,
                metadata: "",
            };
            let command = Command::Commit { group: GROUP, by, offsets: positions.iter().map(of).collect() };
            own.committing = positions.clone();
            own.asks = self.ask_queue(home, &command, Ask::Commit(n), Late::Instead);
            if !own.asks {
                own.home = self.leader_seen_by(home);
            }
        }
        Ok(())
    }

    fn member_answered(
        &mut self,
        n: usize,
        joins: Option<i32>,
        outcome: Option<Outcome>,
        all: &mut Transactions,
    ) -> Result<(), String> {
        let own = &mut all.members[n];
        own.asks = false;
        match (joins, outcome) {
            (Some(number), Some(Outcome::Done)) => {
                self.report.generations += 1;
                (own.generation, own.positions) = (Some(number), None);
            }
            // Whether it is in nobody knows: it joins anew.
            (Some(_), None | Some(Outcome::Refused { code: Code::ILLEGAL_GENERATION, .. })) => {}
            (None, Some(Outcome::Done)) => {
                self.report.group_commits += 1;
                for (partition, offset) in std::mem::take(&mut own.committing) {
                    let floor = all.floor.entry(partition).or_default();
                    *floor = (*floor).max(offset);
                }
            }
            // It may be done yet: whoever goes on must have another generation.
            (None, None) => own.generation = None,
            (None, Some(Outcome::Refused { code: Code::ILLEGAL_GENERATION | Code::UNKNOWN_MEMBER_ID, .. })) => {
                self.report.fenced_commits += 1;
                own.generation = None;
            }
            (joins, Some(other)) => return Err(format!("member {n} ({joins:?}) was answered {other:?}")),
        }
        Ok(())
    }

    // ---- who leads -----------------------------------------------------------------------------------------------------

    /// What a leader does beside: markers that are due, transactions that take too long, and now and then retention. Two nodes may
    /// believe to lead.
    pub(super) fn coordinate(&mut self, all: &mut Transactions) {
        for id in self.ids() {
            if !self.believes(id, DATA) {
                continue;
            }
            let node = self.machines[&id].node.as_ref().expect("it believes to lead");
            let state = node.shards[DATA.0 as usize].state();
            let (due, overdue) = (state.queue().markers(16), state.queue().overdue(state.stamp()));
            let (epoch, stamp) = (state.queue().epoch(), state.stamp());
            let partition = self.rng.below(u64::from(PARTITIONS)) as Partition;
            let span = state.queue().partition(TOPIC, partition).map(|own| (own.start(), own.stable()));
            drop(state);
            for own in due {
                let key = (own.id.to_string(), own.number, own.target.clone());
                if all.marking.values().any(|under_way| *under_way == key) {
                    continue;
                }
                let bytes = batch_of(&own, epoch, stamp);
                all.next += 1;
                if self.ask_queue(id, &own.command(&bytes), Ask::Mark(all.next), Late::Instead) {
                    all.marking.insert(all.next, key);
                }
            }
            for (name, number) in overdue {
                self.report.timeouts += 1;
                self.ask_queue(id, &Command::TimeOut { id: &name, number }, Ask::Nothing, Late::Never);
            }
            if let Some((start, stable)) = span.filter(|(start, stable)| start < stable)
                && !self.quiet
                && self.rng.chance(1, 60)
            {
                let to = start + 1 + self.rng.below((stable - start).div_ceil(4));
                self.report.trims += 1;
                self.ask_queue(id, &Command::Trim { topic: TOPIC, partition, to }, Ask::Nothing, Late::Never);
            }
        }
    }

    fn marked(
        &mut self,
        node: NodeId,
        key: u64,
        outcome: Option<Outcome>,
        all: &mut Transactions,
    ) -> Result<(), String> {
        let Some((name, number, target)) = all.marking.remove(&key) else { return Ok(()) };
        match outcome {
            // As the door takes it: whoever has a newer epoch has ended the transaction as well.
            Some(Outcome::Done | Outcome::Refused { code: Code::INVALID_PRODUCER_EPOCH, .. }) => {
                self.report.markers += 1;
                if self.machines[&node].runs() {
                    let command = Command::Marked { id: &name, number, targets: vec![target] };
                    self.ask_queue(node, &command, Ask::Nothing, Late::Never);
                }
                Ok(())
            }
            None => Ok(()),
            Some(other) => Err(format!("a marker of {name} was answered {other:?}")),
        }
    }

    /// An answer to any of these.
    pub(super) fn transaction_answered(
        &mut self,
        node: NodeId,
        ask: Ask,
        told: Told,
        all: &mut Transactions,
        story: &mut Story,
    ) -> Result<(), String> {
        let Told { outcome, leader } = told;
        if outcome.is_none() {
            all.send_home(ask, leader);
        }
        match ask {
            Ask::Transactor(n) => self.transactor_answered(n, outcome, all, story),
            Ask::Join(n, number) => self.member_answered(n, Some(number), outcome, all),
            Ask::Commit(n) => self.member_answered(n, None, outcome, all),
            Ask::Mark(key) => self.marked(node, key, outcome, all),
            _ => Ok(()),
        }
    }

    /// A command that its client has given up comes after all.
    pub(super) fn come_late(&mut self, bytes: &[u8]) -> Result<(), String> {
        let any = self.any();
        let home = self.leader(DATA).filter(|_| self.rng.chance(9, 10)).unwrap_or(any);
        if !self.machines[&home].runs() {
            return Ok(());
        }
        let command = Command::decode(bytes).map_err(|corrupt| corrupt.to_string())?;
        let request = self.next_request;
        self.next_request += 1;
        self.tell(|| format!("late: {}", format!("{command:?}").chars().take(200).collect::<String>()));
        if self.submit(home, DATA, |batch| batch.queue(request, &command)) {
            self.report.late_commands += 1;
        }
        self.after(home)
    }

    pub(super) fn withhold(&mut self, command: &Command<'_>) -> bool {
        if !self.rng.chance(1, 15) {
            return false;
        }
        let at = self.now + self.draw(LATE);
        self.at(at, Event::Late(command.encode()));
        true
    }

    /// In the end no transaction is open, and each group's offset is that of its last transaction.
    pub(super) fn judge_transactions(&self, leader: NodeId, all: &Transactions) -> Result<(), String> {
        let node = self.machines[&leader].node.as_ref().expect("it leads");
        let state = node.shards[DATA.0 as usize].state();
        for ((_, partition), own) in state.queue().partitions() {
            if own.producers().any(|(_, known)| known.ongoing.is_some()) {
                return Err(format!("a transaction is open for ever in partition {partition}"));
            }
        }
        for own in &all.transactors {
            let found = state.queue().group(&own.name).and_then(|group| group.offset(NAME, TOPIC, 0));
            let found = found.map_or(-1, |kept| kept.offset);
            if found != own.kept && !own.maybe.contains(&found) {
                let Transactor { name, kept, maybe, .. } = own;
                return Err(format!(
                    "torn transaction: the offset of {name} is {found}, not {kept} or one of {maybe:?}"
                ));
            }
        }
        Ok(())
    }

    /// Whether the coordinator still has something to end.
    pub(super) fn is_ending(&self) -> bool {
        self.leader(DATA).is_none_or(|leader| {
            let node = self.machines[&leader].node.as_ref().expect("it leads");
            let state = node.shards[DATA.0 as usize].state();
            state.queue().transactions().any(|(_, own)| matches!(own.phase, Phase::Ongoing | Phase::Ending(_)))
        })
    }
}

fn batch_of(due: &queue::Due, epoch: i32, stamp: u64) -> Vec<u8> {
    match due.target {
        Target::Partition { .. } => due.batch(epoch, stamp),
        Target::Group(_) => Vec::new(),
    }
}

/// The transaction is left as it is; the next one begins with another epoch. Nobody else asks for a commit.
fn give_up(own: &mut Transactor, story: &mut Story) {
    if let Some(plan) = own.plan.take() {
        if plan.ending && plan.commit {
            own.maybe.extend(plan.offset);
        } else {
            story.ended(plan.story, Ended::Aborted);
        }
    }
    (own.step, own.expected) = (Step::Begin, None);
}

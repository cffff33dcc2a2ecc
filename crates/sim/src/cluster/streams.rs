//! Producers and consumers of a topic: idempotent sends, several under way, sent again until they are answered; reads at any node.
//!
//! What they saw is judged by `history::stream`. They share nodes and faults with the clients of lists.

use history::stream::{Last, Partition, Poll, Sent, Stream as Story};
use queue::partition::{Aborted, Isolation};
use queue::{Code, Command, Outcome, TopicId, batch};
use shard::topics::Stored;
use store::disk::{ReadError, Wait};
use store::extent::{self, Stretch};

use super::transactions::{MEMBERS, TRANSACTORS, Transactions};
use super::*;

pub(super) const TOPIC: TopicId = TopicId(0x5eed);
pub(super) const PARTITIONS: u32 = 3;
/// Sends of one producer to one partition that are under way together: what a producer's window holds.
const AHEAD: usize = 5;
/// Clients.
const PRODUCERS: usize = 2;
/// Bytes that a large value has besides.
const PAD: usize = 600;
const CONSUMERS: usize = 2;
/// All of them, with those of `transactions`; the last one is the leader's own work.
const CLIENTS: usize = PRODUCERS + CONSUMERS + TRANSACTORS + MEMBERS + 1;

/// What a request of these clients is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ask {
    /// A producer's id.
    Id(usize),
    /// A producer's batch for a partition: the place among those that are to be answered, counted from the first ever.
    Batch(usize, Partition, u64),
    /// The next step of a producer with transactions.
    Transactor(usize),
    /// A member takes the group, as this generation.
    Join(usize, i32),
    /// A member's offsets.
    Commit(usize),
    /// A marker.
    Mark(u64),
    /// Nobody waits for it.
    Nothing,
}

/// Whether a command may come late.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Late {
    Never,
    /// Once, late: its client hears nothing of it.
    Instead,
    /// At once, and late again.
    Again,
}

/// What came of it, if that is known, and who is to be asked next.
pub(super) struct Told {
    pub(super) outcome: Option<Outcome>,
    pub(super) leader: NodeId,
}

/// A batch that is to be answered.
#[derive(Debug)]
struct Pending {
    /// Its records' numbers in the story.
    sends: Vec<usize>,
    bytes: Vec<u8>,
    /// Whether a request with it is under way.
    asked: bool,
    done: bool,
}

#[derive(Debug, Default)]
struct Lane {
    /// The next record's sequence number.
    sequence: i32,
    /// The place of the first in `pending`.
    first: u64,
    pending: VecDeque<Pending>,
    /// Something was not stored or not answered: once nothing is under way, all is sent again, in order.
    again: bool,
}

#[derive(Debug, Default)]
struct Producer {
    id: Option<i64>,
    asks: bool,
    lanes: BTreeMap<Partition, Lane>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Streams {
    story: Story,
    producers: Vec<Producer>,
    /// By consumer and partition: the next offset.
    positions: BTreeMap<(usize, Partition), u64>,
    homes: Vec<NodeId>,
    transactions: Transactions,
}

impl Streams {
    fn new(home: NodeId) -> Streams {
        Streams {
            producers: (0..PRODUCERS).map(|_| Producer::default()).collect(),
            homes: vec![home; PRODUCERS + CONSUMERS],
            transactions: Transactions::new(home),
            ..Streams::default()
        }
    }

    fn is_drained(&self) -> bool {
        let lanes = |own: &Producer| own.lanes.values().all(|lane| lane.pending.is_empty());
        self.producers.iter().all(lanes) && self.transactions.is_drained()
    }
}

/// The values of a batch, each in its brackets.
fn values(bytes: &[u8]) -> Vec<u64> {
    let text = String::from_utf8_lossy(bytes);
    let parts = text.split('<').skip(1).filter_map(|part| part.split_once('>')?.0.parse().ok());
    parts.collect()
}

/// Offsets and values of stored batches; of transactions that are passed over, none.
fn records(bytes: &[u8], aborted: &[Aborted]) -> Result<Vec<(u64, u64)>, String> {
    let (mut records, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let head =
            batch::Header::read(&bytes[at..]).map_err(|refused| format!("what was read is no batch: {refused:?}"))?;
        let base = head.base as u64;
        let hidden = aborted.iter().any(|own| own.producer == head.producer && (own.first..own.last).contains(&base));
        if !(head.is_control() || hidden && head.is_transactional()) {
            let found = values(&bytes[at + batch::HEAD_BYTES..at + head.bytes]);
            if found.len() != head.count as usize {
                return Err(format!("a batch of {} records holds {found:?}", head.count));
            }
            records.extend(found.into_iter().enumerate().map(|(n, value)| (base + n as u64, value)));
        }
        at += head.bytes;
    }
    Ok(records)
}

impl World {
    /// Begins, where this seed has such clients.
    pub(super) fn begin_streams(&mut self) {
        self.streams = Some(Streams::new(NodeId(1)));
        for client in 0..CLIENTS {
            let at = self.rng.below(2_000 * MILLI);
            self.at(at, Event::Streams(client));
        }
    }

    /// Whether nobody waits for anything.
    pub(super) fn streams_rest(&self) -> bool {
        self.streams.as_ref().is_none_or(|own| own.is_drained() && !self.is_ending())
    }

    /// What is still under way, for people.
    pub(super) fn streams_words(&self) -> String {
        self.streams.as_ref().map_or_else(String::new, |own| {
            let lanes: Vec<_> = own
                .producers
                .iter()
                .map(|own| own.lanes.iter().map(|(at, lane)| (at, lane.pending.len(), lane.again)).collect::<Vec<_>>())
                .collect();
            format!("{lanes:?} {}, coordinator ending: {}", own.transactions.words(), self.is_ending())
        })
    }

    /// One of them does something, and comes back for as long as there is something to do.
    pub(super) fn play_streams(&mut self, client: usize) -> Result<(), String> {
        let Some(mut streams) = self.streams.take() else {
            return Ok(());
        };
        let (played, home) = match client.checked_sub(PRODUCERS + CONSUMERS) {
            Some(other) => {
                let Streams { story, transactions, .. } = &mut streams;
                let played = match other.checked_sub(TRANSACTORS) {
                    None => {
                        self.transact(other, transactions, story);
                        Ok(())
                    }
                    Some(MEMBERS) => {
                        self.coordinate(transactions);
                        Ok(())
                    }
                    Some(member) => self.attend(member, transactions),
                };
                (played, None)
            }
            None => {
                if self.rng.chance(1, 20) || !self.machines[&streams.homes[client]].runs() {
                    streams.homes[client] = self.any();
                }
                let home = streams.homes[client];
                let played = match client.checked_sub(PRODUCERS) {
                    _ if !self.machines[&home].runs() => Ok(()),
                    None => {
                        self.produce(client, home, &mut streams);
                        Ok(())
                    }
                    Some(consumer) => self.consume(consumer, home, &mut streams),
                };
                (played, Some(home))
            }
        };
        let rests = self.quiet && streams.is_drained() && self.now > self.ends + 500 * MILLI;
        self.streams = Some(streams);
        played?;
        if !rests {
            let pause = self.draw((MILLI, 40 * MILLI));
            self.at(self.now + pause, Event::Streams(client));
        }
        match home {
            Some(home) => self.after(home),
            None => self.ids().into_iter().try_for_each(|id| self.after(id)),
        }
    }

    /// Asks a node. What may be late may come long after its client has given it up, or come then again.
    pub(super) fn ask_queue(&mut self, home: NodeId, command: &Command<'_>, ask: Ask, late: Late) -> bool {
        let request = self.next_request;
        let comes_late = late != Late::Never && self.withhold(command);
        let comes_now = !comes_late || late != Late::Instead;
        if comes_now && !self.submit(home, DATA, |batch| batch.queue(request, command)) {
            return false;
        }
        self.next_request += 1;
        let kind = Kind::Stream(ask);
        self.requests.insert(request, Request { client: usize::MAX, node: home, group: DATA, kind, begun: self.now });
        let patience = self.draw((200 * MILLI, 2_000 * MILLI));
        self.at(self.now + patience, Event::GiveUp(request));
        true
    }

    fn produce(&mut self, producer: usize, home: NodeId, streams: &mut Streams) {
        let now = self.now;
        let Streams { story, producers, homes, .. } = streams;
        let own = &mut producers[producer];
        let Some(id) = own.id else {
            if !own.asks {
                own.asks = self.ask_queue(home, &Command::InitProducer, Ask::Id(producer), Late::Never);
                if !own.asks {
                    homes[producer] = self.leader_seen_by(home);
                }
            }
            return;
        };
        let partition = self.rng.below(u64::from(PARTITIONS)) as Partition;
        let lane = own.lanes.entry(partition).or_default();
        if lane.again {
            if lane.pending.iter().any(|pending| pending.asked) {
                return;
            }
            lane.again = false;
            self.report.resent += lane.pending.iter().filter(|pending| !pending.done).count() as u64;
        } else if lane.pending.len() < AHEAD && !self.quiet {
            let count = 1 + self.rng.below(3);
            let first = self.next_value;
            self.next_value += count;
            // Now small ones, now such that a segment of the log holds little else.
            let pad = if (first >> 7).is_multiple_of(2) { PAD } else { 0 };
            let texts: Vec<String> =
                (first..first + count).map(|value| format!("<{value}>{}", "x".repeat(pad))).collect();
            let texts: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            let bytes = batch::example(&texts, (now / MILLI) as i64, (id, 0, lane.sequence), false);
            lane.sequence += count as i32;
            let sends = (first..first + count).map(|value| story.send(partition, producer as u64, value, None, now));
            let sends = sends.collect();
            lane.pending.push_back(Pending { sends, bytes, asked: false, done: false });
            self.report.sends += 1;
        }
        for (at, pending) in lane.pending.iter_mut().enumerate().filter(|(_, pending)| !pending.asked && !pending.done)
        {
            let command = Command::Produce {
                topic: TOPIC,
                place: "topic",
                partition,
                append_time: false,
                transaction: None,
                marks: Vec::new(),
                batches: &pending.bytes,
            };
            let ask = Ask::Batch(producer, partition, lane.first + at as u64);
            // Of a producer that a partition does not know it takes any number, as Kafka does: before its first batch is there, a later one
            // that overtakes it would be the end of it.
            let late = if lane.first > 0 { Late::Again } else { Late::Never };
            pending.asked = self.ask_queue(home, &command, ask, late);
            if !pending.asked {
                // Nothing behind it may overtake it.
                homes[producer] = self.leader_seen_by(home);
                break;
            }
        }
    }

    pub(super) fn leader_seen_by(&mut self, home: NodeId) -> NodeId {
        let leader = self.machines[&home].node.as_ref().and_then(|node| node.shards[DATA.0 as usize].leader());
        leader.unwrap_or_else(|| self.any())
    }

    /// A request of theirs ended: with these bytes, or nobody knows how.
    pub(super) fn stream_answered(&mut self, node: NodeId, ask: Ask, bytes: Option<&[u8]>) -> Result<(), String> {
        let now = self.now;
        let refused = bytes.is_some_and(is_refusal);
        let leader = if refused { self.leader_seen_by(node) } else { self.any() };
        let outcome = match bytes.filter(|_| !refused) {
            Some(bytes) => Some(Outcome::decode(bytes).map_err(|corrupt| corrupt.to_string())?),
            None => None,
        };
        self.tell(|| format!("{ask:?} was answered {outcome:?}"));
        let producer = match ask {
            Ask::Id(producer) | Ask::Batch(producer, ..) => producer,
            _ => {
                let Some(mut streams) = self.streams.take() else { return Ok(()) };
                let Streams { story, transactions, .. } = &mut streams;
                let answered = self.transaction_answered(node, ask, Told { outcome, leader }, transactions, story);
                self.streams = Some(streams);
                return answered;
            }
        };
        let Some(streams) = &mut self.streams else {
            return Ok(());
        };
        if outcome.is_none() {
            streams.homes[producer] = leader;
        }
        let own = &mut streams.producers[producer];
        let (partition, place) = match (ask, outcome) {
            (Ask::Id(_), outcome) => {
                own.asks = false;
                if let Some(Outcome::Producer { id, .. }) = outcome {
                    own.id = Some(id);
                }
                return Ok(());
            }
            (Ask::Batch(_, partition, place), Some(Outcome::Produced { base, again, .. })) => {
                let lane = own.lanes.get_mut(&partition).expect("it has asked for it");
                let at = (place - lane.first) as usize;
                let pending = &mut lane.pending[at];
                if !std::mem::replace(&mut pending.done, true) {
                    for (n, send) in pending.sends.iter().enumerate() {
                        streams.story.sent(*send, Sent::Done(now, base + n as u64));
                    }
                    self.report.stored += 1;
                    self.report.again += u64::from(again);
                }
                (partition, place)
            }
            // Something before it was not stored: it comes again behind that.
            (
                Ask::Batch(_, partition, place),
                Some(Outcome::Refused { code: Code::OUT_OF_ORDER_SEQUENCE_NUMBER, .. }),
            ) => {
                own.lanes.get_mut(&partition).expect("it has asked for it").again = true;
                (partition, place)
            }
            (Ask::Batch(_, partition, place), None) => {
                own.lanes.get_mut(&partition).expect("it has asked for it").again = true;
                (partition, place)
            }
            (ask, other) => return Err(format!("{ask:?} was answered {other:?}")),
        };
        let lane = own.lanes.get_mut(&partition).expect("it has asked for it");
        lane.pending[(place - lane.first) as usize].asked = false;
        while lane.pending.front().is_some_and(|pending| pending.done && !pending.asked) {
            lane.pending.pop_front();
            lane.first += 1;
        }
        Ok(())
    }

    /// Reads at a node, whoever leads: whatever it has applied is decided.
    fn consume(&mut self, consumer: usize, home: NodeId, streams: &mut Streams) -> Result<(), String> {
        let partition = self.rng.below(u64::from(PARTITIONS)) as Partition;
        let from = streams.positions.get(&(consumer, partition)).copied().unwrap_or(0);
        let committed = consumer.is_multiple_of(2);
        let most = 1 + self.rng.below(600);
        let node = self.machines[&home].node.as_ref().expect("it runs");
        let start =
            node.shards[DATA.0 as usize].state().queue().partition(TOPIC, partition).map_or(0, |own| own.start());
        // What is no longer there is passed over, as consumers do who begin with the earliest.
        let from = from.max(start);
        streams.positions.insert((consumer, partition), from);
        let Some(records) = self.read_stream(home, partition, from, committed, most)? else {
            return Ok(());
        };
        self.report.polls += 1;
        if let Some((last, _)) = records.last() {
            streams.positions.insert((consumer, partition), last + 1);
        }
        let consumer = consumer as u64;
        streams.story.poll(Poll { consumer, partition, from, committed, records, ended: self.now });
        Ok(())
    }

    /// Records from an offset on. `None` where the node is not that far, or its disk fails.
    fn read_stream(
        &mut self,
        id: NodeId,
        partition: Partition,
        from: u64,
        committed: bool,
        most: u64,
    ) -> Result<Option<Vec<(u64, u64)>>, String> {
        let node = self.machines[&id].node.as_ref().expect("it runs");
        let state = node.shards[DATA.0 as usize].state();
        let Some(own) = state.queue().partition(TOPIC, partition) else {
            return Ok(None);
        };
        let isolation = if committed { Isolation::Committed } else { Isolation::Uncommitted };
        let Ok(plan) = own.plan(from, most, isolation) else {
            return Ok(None);
        };
        let stored = Stored::new(node.disk.clone(), node.places().clone());
        let mut bytes = Vec::new();
        for piece in &plan.pieces {
            match stored.read(DATA, piece, &mut bytes, Wait::Yes) {
                Ok(()) => {}
                // The disk was spoiled, or the power has gone: another node is asked.
                Err(ReadError::Disk(_)) => return Ok(None),
                Err(error) => return Err(format!("{id} cannot read {piece:?}: {error}")),
            }
        }
        let mut records = records(&bytes, &plan.aborted)?;
        // A batch is given whole.
        records.retain(|(offset, _)| *offset >= from);
        Ok(Some(records))
    }

    /// All that is there in the end, and the verdict.
    pub(super) fn judge_streams(&mut self) -> Result<(), String> {
        let leader = self.leader(DATA).ok_or("nobody leads")?;
        let Some(mut streams) = self.streams.take() else {
            return Ok(());
        };
        self.judge_transactions(leader, &streams.transactions)?;
        let status = self.machines[&leader].node.as_ref().expect("it runs").driver.status();
        let mut members = status[DATA.0 as usize].1.membership.members();
        // A disk that was spoiled may not be able to give what the others have: the leader first, then they.
        members.sort_by_key(|id| *id != leader);
        let mut last = [Last::new(), Last::new()];
        let mut unreadable = false;
        for (at, last) in last.iter_mut().enumerate() {
            for partition in 0..PARTITIONS {
                let node = self.machines[&leader].node.as_ref().expect("it leads");
                let start = node.shards[DATA.0 as usize]
                    .state()
                    .queue()
                    .partition(TOPIC, partition)
                    .map_or(0, |own| own.start());
                streams.story.begins(partition, start);
                let mut found = None;
                for member in &members {
                    found = self.read_stream(*member, partition, start, at == 0, u64::MAX)?;
                    if found.is_some() {
                        break;
                    }
                    unreadable = true;
                }
                let node = self.machines[&leader].node.as_ref().expect("it leads");
                let is_there = node.shards[DATA.0 as usize].state().queue().partition(TOPIC, partition).is_some();
                if is_there && (found.is_none() || unreadable && self.report.rots == 0) {
                    return Err(format!("partition {partition} cannot be read, though no disk was spoiled"));
                }
                last.insert(partition, found.unwrap_or_default());
            }
        }
        let node = self.machines[&leader].node.as_ref().expect("it leads");
        let files = node.shards[DATA.0 as usize].state().queue().files();
        self.report.extents += files.len() as u64;
        let is_raw = |stretches: Vec<Stretch>| stretches.first().is_some_and(|stretch| stretch.is_raw);
        let linked = files.iter().filter(|file| extent::stretches(&node.disk, **file).is_ok_and(is_raw));
        self.report.linked += linked.count() as u64;
        streams.story.check(&last[0], &last[1]).map_err(|why| format!("topic: {why}"))
    }
}

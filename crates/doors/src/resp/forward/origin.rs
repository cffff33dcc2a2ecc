//! At the node that a client came to: what it has asked of shards that other nodes lead, until it is answered.

use std::collections::{BTreeMap, VecDeque};
use std::task::Waker;

use base::{GroupId, Instant, Limit, NodeId, Rng};
use shard::entry::Unblock;
use shard::error::CommandError;
use store::codec::Corrupt;

use super::frame::{AnswerRecord, AskRecord, FRAME_BYTES, Frame, FrameKind, Incoming};
use super::place::Placed;
use super::{AWAY, FORWARD_WAIT};
use crate::resp::door::{Client, Door};

/// Bytes of messages to channels that wait for a link, beyond which they are dropped: nobody is promised them.
const MESSAGES_BYTES_MAX: usize = 16 << 20;

struct Unit {
    bytes: Vec<u8>,
    /// Whose it was when it was asked: slots may move meanwhile.
    group: GroupId,
    /// A part of it has been handed to the link: only its node can say that nothing was done.
    sent: bool,
    asked: Instant,
}

/// What one client has under way, all of it for one shard.
struct Line {
    client: Client,
    group: GroupId,
    /// The number of the oldest unit.
    first: u64,
    units: VecDeque<Unit>,
    /// How many of them, from the first on, are the group's. What else there is waits until those have been answered.
    span: usize,
    target: Option<NodeId>,
    /// Grows whenever units go another way, so that what still waits for the old one is passed over.
    way: u64,
    /// The next unit sent is the first on this way.
    fresh: bool,
    /// From here on the target has done nothing.
    refused: Option<(u64, Option<NodeId>)>,
    /// Since when the oldest unit waits for somebody who takes it.
    since: Instant,
    tries: u32,
    /// Its units are being put into the queue of this node's own shard.
    here: bool,
    /// So many answers the client will have got once those are answered that were put there: nothing of it may go to another
    /// node, or be given up, before.
    free_at: u64,
    /// Who knows this client.
    known: Vec<NodeId>,
}

enum Item {
    Unit { client: u64, number: u64, way: u64 },
    Record(Vec<u8>),
}

/// The stream to one node.
struct Channel {
    up: bool,
    epoch: u64,
    offset: u64,
    queue: VecDeque<Item>,
    /// What is left of records that the link has taken in part.
    rest: Vec<u8>,
    messages_bytes: usize,
    incoming: Incoming,
}

/// What is to be done once the lock is let go.
#[derive(Default)]
pub(super) struct After {
    wakers: Vec<Waker>,
    doomed: Vec<Client>,
    here: Vec<u64>,
}

/// Everything that this node's clients have under way elsewhere.
#[derive(Default)]
pub(super) struct Origin {
    lines: BTreeMap<u64, Line>,
    channels: BTreeMap<NodeId, Channel>,
    epochs: u64,
    bytes: usize,
}

impl Origin {
    /// How many units are under way, and their bytes.
    pub(super) fn figures(&self) -> (usize, usize) {
        (self.lines.values().map(|line| line.units.len()).sum(), self.bytes)
    }

    /// Whether something waits that a tick could move.
    pub(super) fn is_busy(&self) -> bool {
        self.bytes > 0 || self.channels.values().any(|channel| !channel.rest.is_empty() || !channel.queue.is_empty())
    }

    pub(super) fn submit(
        &mut self,
        door: &Door,
        client: &Client,
        group: GroupId,
        bytes: Vec<u8>,
        must: bool,
        now: Instant,
    ) -> Result<(), CommandError> {
        if !must && self.bytes > door.limits.pending_bytes_max {
            return Err(CommandError::new(
                "BUSY too many bytes of commands wait for other nodes (limit pending_bytes_max); nothing was done, slow down and try again",
            ));
        }
        self.bytes += bytes.len();
        let line = self.lines.entry(client.id).or_insert_with(|| Line {
            client: client.clone(),
            group,
            first: 1,
            units: VecDeque::new(),
            span: 0,
            target: None,
            way: 0,
            fresh: true,
            refused: None,
            since: now,
            tries: 0,
            here: false,
            free_at: 0,
            known: Vec::new(),
        });
        line.units.push_back(Unit { bytes, group, sent: false, asked: now });
        if line.units.len() == 1 {
            (line.group, line.since, line.tries, line.span) = (group, now, 0, 1);
        } else if line.span + 1 == line.units.len() && line.group == group {
            line.span += 1;
        }
        if line.here || !line.is_free() {
            // Whoever puts those before it into the queue comes back for it, or the tick does.
        } else if line.units.len() == 1 {
            line.go(door.leader_of(group, 0), &mut self.channels);
        } else if line.refused.is_none()
            && line.span == line.units.len()
            && let Some(channel) = line.target.and_then(|target| self.channels.get_mut(&target))
        {
            let number = line.first + line.units.len() as u64 - 1;
            channel.queue.push_back(Item::Unit { client: client.id, number, way: line.way });
        }
        Ok(())
    }

    /// Hands what waits to the links.
    pub(super) fn flush(&mut self, door: &Door) {
        for (node, channel) in &mut self.channels {
            channel.flush(*node, &mut self.lines, door);
        }
    }

    /// The client has left.
    pub(super) fn gone(&mut self, client: u64) {
        let Some(line) = self.lines.remove(&client) else {
            return;
        };
        self.bytes -= line.units.iter().map(|unit| unit.bytes.len()).sum::<usize>();
        for node in line.known {
            self.control(node, &AskRecord::Gone { client });
        }
    }

    /// The client is gone once what it has under way has been answered.
    pub(super) fn left(&mut self, client: u64) {
        if self.lines.get(&client).is_some_and(|line| line.units.is_empty()) {
            self.gone(client);
        }
    }

    /// Ends a wait at the node where it is. False where there is none.
    pub(super) fn unblock(&mut self, client: u64, how: Unblock) -> bool {
        let Some(target) = self.lines.get(&client).filter(|line| !line.units.is_empty()).and_then(|line| line.target)
        else {
            return false;
        };
        self.control(target, &AskRecord::Unblock { client, how });
        true
    }

    fn control(&mut self, node: NodeId, record: &AskRecord<'_>) {
        if let Some(channel) = self.channels.get_mut(&node).filter(|channel| channel.up) {
            let mut bytes = Vec::new();
            record.put(&mut bytes);
            channel.queue.push_back(Item::Record(bytes));
        }
    }

    /// Tells all other nodes of a message. It reaches whom it reaches.
    pub(super) fn publish(&mut self, record: &AskRecord<'_>) {
        let mut bytes = Vec::new();
        record.put(&mut bytes);
        for channel in self.channels.values_mut().filter(|channel| channel.up) {
            if channel.messages_bytes + bytes.len() <= MESSAGES_BYTES_MAX {
                channel.messages_bytes += bytes.len();
                channel.queue.push_back(Item::Record(bytes.clone()));
            }
        }
    }

    /// The links to a node stand, or have broken.
    pub(super) fn link(&mut self, door: &Door, node: NodeId, up: bool, after: &mut After) {
        if up {
            self.epochs = (self.epochs + 1).max(door.world.wall_micros());
            let epoch = self.epochs;
            let channel = self.channels.entry(node).or_insert_with(|| Channel::new(epoch));
            if !channel.up {
                *channel = Channel::new(epoch);
            }
            channel.up = true;
        } else if let Some(mut channel) = self.channels.remove(&node) {
            channel.up = false;
            self.broken(node, after);
        }
        self.look(door, after);
        self.flush(door);
    }

    /// What was under way to this node has an unknown outcome; what it was not sent yet has not.
    fn broken(&mut self, node: NodeId, after: &mut After) {
        let mut doomed = Vec::new();
        for (id, line) in &mut self.lines {
            line.known.retain(|known| *known != node);
            if line.target != Some(node) {
                continue;
            }
            if line.units.iter().any(|unit| unit.sent) {
                doomed.push(*id);
            } else {
                line.go(None, &mut BTreeMap::new());
            }
        }
        for id in doomed {
            let client = self.lines.get(&id).map(|line| line.client.clone());
            self.gone(id);
            after.doomed.extend(client);
        }
    }

    /// A part of a stream of answers has come.
    pub(super) fn receive(&mut self, door: &Door, from: NodeId, frame: &Frame<'_>, after: &mut After) {
        let Some(channel) = self.channels.get_mut(&from).filter(|channel| channel.epoch == frame.epoch) else {
            return;
        };
        let mut is_whole = frame.kind == FrameKind::Answers;
        if is_whole {
            let mut incoming = std::mem::take(&mut channel.incoming);
            // An answer comes in parts: see `put_answers`.
            let taken = incoming.take(frame.offset, frame.bytes, FRAME_BYTES * 2, |record| {
                self.answer(door, from, &AnswerRecord::read(record)?, after);
                Ok::<(), Corrupt>(())
            });
            is_whole = taken.is_ok();
            if let Some(channel) = self.channels.get_mut(&from) {
                channel.incoming = incoming;
            }
        }
        if !is_whole {
            self.epochs = (self.epochs + 1).max(door.world.wall_micros());
            let epoch = self.epochs;
            if let Some(channel) = self.channels.get_mut(&from) {
                *channel = Channel { up: channel.up, ..Channel::new(epoch) };
            }
            self.broken(from, after);
        }
        self.flush(door);
    }

    fn answer(&mut self, door: &Door, from: NodeId, record: &AnswerRecord<'_>, after: &mut After) {
        match *record {
            AnswerRecord::Answers { client, count, waits, bytes } => {
                let Some(line) = self.lines.get_mut(&client).filter(|line| line.target == Some(from)) else {
                    return;
                };
                let sent = line.units.iter().take_while(|unit| unit.sent).count() as u64;
                if count > sent {
                    // It answers what it was not asked: nothing that it says can be believed.
                    let client = line.client.clone();
                    self.gone(client.id);
                    return after.doomed.push(client);
                }
                let now = door.world.now();
                for unit in line.units.drain(..count as usize) {
                    self.bytes -= unit.bytes.len();
                    door.forward.latency.record(now.since(unit.asked));
                }
                line.first += count;
                line.span = line.span.saturating_sub(count as usize);
                if count > 0 {
                    (line.since, line.tries) = (door.world.now(), 0);
                }
                let waiting = if waits && !line.units.is_empty() { AWAY } else { 0 };
                line.client.waiting.store(waiting, std::sync::atomic::Ordering::SeqCst);
                if count > 0 || !bytes.is_empty() {
                    after.wakers.extend(line.client.answers(count, bytes));
                }
                if line.client.is_closed() {
                    self.gone(client);
                    return;
                }
                self.turn(door, client, after);
            }
            AnswerRecord::Refused { client, from: number, leader } => {
                let Some(line) = self.lines.get_mut(&client).filter(|line| line.target == Some(from)) else {
                    return;
                };
                for (unit, own) in line.units.iter_mut().zip(line.first..) {
                    unit.sent &= own < number;
                }
                line.way += 1;
                line.refused = Some((number, leader));
                if line.tries == 0 {
                    line.since = door.world.now();
                }
                self.turn(door, client, after);
            }
            AnswerRecord::Doomed { client } => {
                let Some(line) = self.lines.get(&client).filter(|line| line.target == Some(from)) else {
                    return;
                };
                if line.units.is_empty() {
                    return;
                }
                after.doomed.push(line.client.clone());
                self.gone(client);
            }
        }
    }

    /// Units that were refused go another way once those before them have been answered.
    fn turn(&mut self, door: &Door, client: u64, after: &mut After) {
        let Some(line) = self.lines.get_mut(&client) else { return };
        let Some((_, hint)) = line.refused.filter(|(from, _)| *from <= line.first) else { return };
        line.refused = None;
        if line.units.is_empty() || line.here {
            return;
        }
        line.tries += 1;
        let here = door.forward.node();
        if !door.is_group_elsewhere(line.group) {
            line.go(None, &mut self.channels);
            line.here = true;
            return after.here.push(client);
        }
        // Whom it named, if that is news; else the next tick looks again.
        let next = hint.filter(|node| Some(*node) != line.target && *node != here && line.tries <= 4);
        line.go(next, &mut self.channels);
    }

    /// Looks for somebody who takes what waits; gives up what has waited too long.
    pub(super) fn tick(&mut self, door: &Door, now: Instant, after: &mut After) {
        let over = FORWARD_WAIT;
        let mut given_up = Vec::new();
        for (id, line) in &self.lines {
            let waits = line.waits();
            if waits && line.is_free() && now.since(line.since) >= over {
                given_up.push(*id);
            }
        }
        for id in given_up {
            door.limits.hit(Limit::forward_wait);
            self.give_up(door, id, after);
        }
        let left = self.lines.values().filter(|line| line.units.is_empty() && line.client.is_closed());
        let left: Vec<u64> = left.map(|line| line.client.id).collect();
        left.into_iter().for_each(|id| self.gone(id));
        self.look(door, after);
        self.flush(door);
    }

    fn look(&mut self, door: &Door, after: &mut After) {
        for (id, line) in &mut self.lines {
            let waits = line.waits();
            let is_up = line.target.is_some_and(|target| self.channels.get(&target).is_some_and(|own| own.up));
            if !waits || is_up && line.span > 0 {
                continue;
            }
            if line.is_free() {
                line.regroup(door, &mut self.bytes, after);
            }
            if line.span == 0 {
                continue;
            }
            if !door.is_group_elsewhere(line.group) {
                line.go(None, &mut self.channels);
                line.here = true;
                after.here.push(*id);
                continue;
            }
            if line.is_free() {
                line.tries += 1;
                line.go(door.leader_of(line.group, line.tries), &mut self.channels);
            }
        }
    }

    /// Nobody took it in time: nothing was done.
    fn give_up(&mut self, door: &Door, id: u64, after: &mut After) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        let leader = door.leader_of(line.group, 0);
        let moving = || door.forward.meta.get().is_some_and(|meta| !meta.state().cluster().moves().is_empty());
        let error = match leader {
            _ if line.group != GroupId::META && moving() => format!(
                "-TRYAGAIN the slot of this key has been on its way to another shard for {} seconds; nothing was done\r\n",
                FORWARD_WAIT.as_secs()
            ),
            Some(node) => format!(
                "-TRYAGAIN node {node}, which leads the shard of this key, could not be reached for {} seconds; nothing was done\r\n",
                FORWARD_WAIT.as_secs()
            ),
            None => format!(
                "-TRYAGAIN the shard of this key has had no leader for {} seconds (a majority of its nodes is needed); nothing was done\r\n",
                FORWARD_WAIT.as_secs()
            ),
        };
        let count = line.units.len() as u64;
        line.go(None, &mut BTreeMap::new());
        for unit in line.units.drain(..) {
            self.bytes -= unit.bytes.len();
        }
        line.first += count;
        line.span = 0;
        after.wakers.extend(line.client.answers(count, error.repeat(count as usize).as_bytes()));
    }

    /// Units of a line whose shard this node leads by now: taken out, to be put into its queue. `None` where none are left.
    pub(super) fn take_here(&mut self, id: u64) -> Option<(Client, GroupId, Vec<Vec<u8>>)> {
        let line = self.lines.get_mut(&id)?;
        if line.span == 0 {
            line.here = false;
            return None;
        }
        let span = std::mem::take(&mut line.span).min(line.units.len());
        let units: Vec<Vec<u8>> = line.units.drain(..span).map(|unit| unit.bytes).collect();
        line.free_at = line.free_at.max(line.client.answered()) + units.len() as u64;
        self.bytes -= units.iter().map(Vec::len).sum::<usize>();
        line.first += units.len() as u64;
        Some((line.client.clone(), line.group, units))
    }

    /// Puts back what could not be taken here after all: the next tick looks for somebody else.
    pub(super) fn put_back(&mut self, id: u64, units: Vec<Vec<u8>>) {
        let Some(line) = self.lines.get_mut(&id) else { return };
        line.first -= units.len() as u64;
        line.free_at -= units.len() as u64;
        line.here = false;
        line.span = if line.span == line.units.len() { line.span + units.len() } else { units.len() };
        for bytes in units.into_iter().rev() {
            self.bytes += bytes.len();
            line.units.push_front(Unit { bytes, group: line.group, sent: false, asked: line.since });
        }
    }
}

impl After {
    pub(super) fn run(self, door: &Door) {
        for waker in self.wakers {
            waker.wake();
        }
        for client in self.doomed {
            client.doom();
        }
        let mut rng = Rng::new(door.world.wall_micros());
        let mut wake = false;
        for id in self.here {
            'line: while let Some((client, group, units)) = door.forward.take_here(id) {
                let mut units = units.into_iter();
                while let Some(unit) = units.next() {
                    match door.place_unit(group, &client, &unit, false, door.world.now(), &mut rng) {
                        Placed::Queued(woken) => wake |= woken,
                        Placed::Answered(bytes) => {
                            if let Some(waker) = client.answer(&bytes) {
                                waker.wake();
                            }
                        }
                        Placed::Elsewhere(_) => {
                            door.forward.put_back(id, std::iter::once(unit).chain(units).collect());
                            break 'line;
                        }
                    }
                }
            }
        }
        if wake {
            door.world.wake_driver();
        }
    }
}

impl Line {
    /// Whether the oldest unit waits for somebody who takes it.
    fn waits(&self) -> bool {
        self.units.front().is_some_and(|unit| !unit.sent) && self.refused.is_none() && !self.here
    }

    /// Whether whatever was put into this node's own queue has been answered.
    fn is_free(&self) -> bool {
        self.free_at == 0 || self.client.answered() >= self.free_at
    }

    /// Whose its units are by now, all of which wait. What nobody can do any more is answered.
    fn regroup(&mut self, door: &Door, bytes: &mut usize, after: &mut After) {
        self.span = 0;
        let mut group = None;
        while let Some(unit) = self.units.get(self.span) {
            match door.group_of_unit(&unit.bytes, unit.group) {
                Ok(own) if *group.get_or_insert(own) == own => self.span += 1,
                Err(answer) if self.span == 0 => {
                    *bytes -= unit.bytes.len();
                    self.units.pop_front();
                    self.first += 1;
                    self.way += 1;
                    after.wakers.extend(self.client.answers(1, answer));
                }
                _ => break,
            }
        }
        self.group = group.unwrap_or(self.group);
    }

    /// Sends all that waits another way, or nowhere yet.
    fn go(&mut self, target: Option<NodeId>, channels: &mut BTreeMap<NodeId, Channel>) {
        self.way += 1;
        self.refused = None;
        self.fresh = true;
        self.target = target.filter(|target| channels.get(target).is_some_and(|channel| channel.up));
        let Some(target) = self.target else { return };
        if !self.known.contains(&target) {
            self.known.push(target);
        }
        if let Some(channel) = channels.get_mut(&target) {
            for number in self.first..self.first + self.span as u64 {
                channel.queue.push_back(Item::Unit { client: self.client.id, number, way: self.way });
            }
        }
    }
}

impl Channel {
    fn new(epoch: u64) -> Channel {
        Channel {
            up: false,
            epoch,
            offset: 0,
            queue: VecDeque::new(),
            rest: Vec::new(),
            messages_bytes: 0,
            incoming: Incoming::default(),
        }
    }

    fn send(&mut self, node: NodeId, door: &Door, bytes: &[u8]) -> usize {
        let mut done = 0;
        while done < bytes.len() {
            let part = &bytes[done..(done + FRAME_BYTES).min(bytes.len())];
            let frame = Frame { kind: FrameKind::Asks, epoch: self.epoch, offset: self.offset, bytes: part };
            if !door.world.forward(node, frame.encode()) {
                break;
            }
            done += part.len();
            self.offset += part.len() as u64;
        }
        done
    }

    fn flush(&mut self, node: NodeId, lines: &mut BTreeMap<u64, Line>, door: &Door) {
        if !self.up {
            return;
        }
        loop {
            if !self.rest.is_empty() {
                let rest = std::mem::take(&mut self.rest);
                let done = self.send(node, door, &rest);
                self.rest = rest;
                self.rest.drain(..done);
                if !self.rest.is_empty() {
                    return;
                }
            }
            let (mut bytes, mut taken) = (Vec::new(), Vec::new());
            // A record more begins only within the first frame: so all of these are sent with it, or none.
            while bytes.len() < FRAME_BYTES
                && let Some(item) = self.queue.pop_front()
            {
                match &item {
                    Item::Record(record) => bytes.extend_from_slice(record),
                    Item::Unit { client, number, way } => {
                        let Some(line) = lines.get_mut(client).filter(|line| line.way == *way) else { continue };
                        let Some(at) = number.checked_sub(line.first).map(|at| at as usize) else { continue };
                        let Some(unit) = line.units.get(at).filter(|unit| !unit.sent) else { continue };
                        let fresh = std::mem::take(&mut line.fresh);
                        let (client, number, group) = (*client, *number, line.group.0);
                        AskRecord::Unit { client, number, fresh, group, unit: &unit.bytes }.put(&mut bytes);
                        taken.push((item, fresh));
                        continue;
                    }
                }
                taken.push((item, false));
            }
            if bytes.is_empty() {
                return;
            }
            let done = self.send(node, door, &bytes);
            if done == 0 {
                for (item, fresh) in taken.into_iter().rev() {
                    if let Item::Unit { client, .. } = &item
                        && fresh
                        && let Some(line) = lines.get_mut(client)
                    {
                        line.fresh = true;
                    }
                    self.queue.push_front(item);
                }
                return;
            }
            for (item, _) in &taken {
                match item {
                    Item::Record(record) => {
                        self.messages_bytes = self.messages_bytes.saturating_sub(record.len());
                    }
                    Item::Unit { client, number, .. } => {
                        if let Some(line) = lines.get_mut(client)
                            && let Some(unit) = line.units.get_mut((*number - line.first) as usize)
                        {
                            unit.sent = true;
                        }
                    }
                }
            }
            bytes.drain(..done);
            self.rest = bytes;
        }
    }
}

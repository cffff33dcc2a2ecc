//! Clients of a cluster: appends to lists, and four ways to read them.

use history::transactions::Step as Part;

use super::*;

impl World {
    pub(super) fn again(&mut self, client: usize) {
        let pause = self.draw((MILLI / 2, 40 * MILLI));
        self.at(self.now + pause, Event::Client(client));
    }

    pub(super) fn play(&mut self, client: usize) -> Result<(), String> {
        if self.quiet && self.requests.is_empty() && self.now > self.ends + 500 * MILLI {
            return Ok(());
        }
        let often = if client == WANDERER { 4 } else { 20 };
        if self.rng.chance(1, often) {
            self.homes[client] = self.any();
        }
        let id = self.homes[client];
        if !self.machines[&id].runs() {
            self.homes[client] = self.any();
            self.again(client);
            return Ok(());
        }
        let list = self.rng.below(LISTS);
        let group = self.group_of(list);
        if self.machines[&id].node.as_ref().is_some_and(|node| node.shards.len() <= group.0 as usize) {
            self.homes[client] = self.any();
            self.again(client);
            return Ok(());
        }
        let request = self.next_request;
        self.next_request += 1;
        let hushed = self.hushed.is_some_and(|(at, until)| at == id && self.now < until);
        let what = if client == READER || hushed { 5 } else { self.rng.below(10) };
        let sent = match what {
            4 if self.home_of(list) == self.home_of((list + 1) % LISTS) => {
                self.append_two(client, request, id, (group, list))
            }
            0..=4 => self.append(client, request, id, (group, list)),
            5..=7 => self.lease_read(client, request, id, (group, list)),
            8 => self.queued_read(client, request, id, (group, list)),
            _ => self.index_read(client, request, id, (group, list)),
        };
        if sent {
            let patience = if client == WANDERER { self.draw((200 * MILLI, 800 * MILLI)) } else { PATIENCE };
            self.at(self.now + patience, Event::GiveUp(request));
        } else {
            self.report.refused += 1;
            let leader = self.machines[&id].node.as_ref().and_then(|node| node.shards.get(group.0 as usize)?.leader());
            self.homes[client] = leader.unwrap_or_else(|| self.any());
            self.again(client);
        }
        self.after(id)
    }

    /// A request is under way.
    fn begin(&mut self, client: usize, request: u64, (node, group): (NodeId, GroupId), kind: Kind) {
        if let Some(tape) = &mut self.tape {
            let steps = match &kind {
                Kind::Append(appends) => {
                    let value = |(list, number): &(u64, usize)| {
                        tape::Step::Append(*list, self.lists[*list as usize].value(*number))
                    };
                    appends.iter().map(value).collect()
                }
                Kind::Read(list) => vec![tape::Step::Read(*list, None)],
                Kind::Stream(_) | Kind::Commit(..) | Kind::Etcd(_) | Kind::Lock(..) => Vec::new(),
            };
            tape.ask(request, steps);
        }
        if self.options.commits {
            let parts = match &kind {
                Kind::Append(appends) => {
                    let value = |(list, number): &(u64, usize)| {
                        Part::Append(*list, self.lists[*list as usize].value(*number), None)
                    };
                    appends.iter().map(value).collect()
                }
                Kind::Read(list) => vec![Part::Read(*list, None)],
                Kind::Stream(_) | Kind::Commit(..) | Kind::Etcd(_) | Kind::Lock(..) => Vec::new(),
            };
            let number = self.commits.story.begin(parts, self.now);
            self.commits.numbers.insert(request, number);
        }
        self.requests.insert(request, Request { client, node, group, kind, begun: self.now });
    }

    pub(super) fn shard(&self, id: NodeId, group: GroupId) -> &shard::live::Shard<u64> {
        &self.machines[&id].node.as_ref().expect("it runs").shards[group.0 as usize]
    }

    /// Hands something to a node's queue.
    pub(super) fn submit(
        &mut self,
        id: NodeId,
        group: GroupId,
        add: impl FnOnce(&mut shard::pending::Batch<u64>),
    ) -> bool {
        let shard = self.shard(id, group);
        if shard.refusal(false).is_some() || shard.submit(add).is_err() {
            return false;
        }
        self.machine(id).node.as_mut().expect("it runs").wake();
        true
    }

    fn append(&mut self, client: usize, request: u64, id: NodeId, (group, list): (GroupId, u64)) -> bool {
        let value = self.next_value;
        self.next_value += 1;
        let (key, text) = (key(list), value.to_string());
        let words: [&[u8]; 3] = [b"RPUSH", key.as_bytes(), text.as_bytes()];
        let mut multi = MultiBuilder::default();
        multi.command(0, &words);
        put_mark(&mut multi, list, value);
        let moves = self.options.moves;
        let add = |batch: &mut shard::pending::Batch<u64>| match moves {
            true => batch.multi(Place::Logged, false, request, Protocol::Resp2, &multi, &[]),
            false => batch.command(Place::Logged, false, request, 0, Protocol::Resp2, &words),
        };
        if !self.submit(id, group, add) {
            return false;
        }
        let number = self.lists[list as usize].begin(value, self.now);
        let kind = Kind::Append(vec![(list, number)]);
        self.begin(client, request, (id, group), kind);
        true
    }

    fn append_two(&mut self, client: usize, request: u64, id: NodeId, (group, list): (GroupId, u64)) -> bool {
        let lists = [list, (list + 1) % LISTS];
        let mut multi = MultiBuilder::default();
        let first = self.next_value;
        self.next_value += 2;
        for (at, list) in lists.iter().enumerate() {
            let (key, text) = (key(*list), (first + at as u64).to_string());
            multi.command(0, &[b"RPUSH", key.as_bytes(), text.as_bytes()]);
        }
        if self.options.moves {
            lists.iter().enumerate().for_each(|(at, list)| put_mark(&mut multi, *list, first + at as u64));
        }
        let add = |batch: &mut shard::pending::Batch<u64>| {
            batch.multi(Place::Logged, false, request, Protocol::Resp2, &multi, &[]);
        };
        if !self.submit(id, group, add) {
            return false;
        }
        let now = self.now;
        let numbered = lists
            .iter()
            .enumerate()
            .map(|(at, list)| (*list, self.lists[*list as usize].begin(first + at as u64, now)));
        let kind = Kind::Append(numbered.collect());
        self.begin(client, request, (id, group), kind);
        true
    }

    /// The lease is looked at now, and the state read now or a little later: between the two the node may be stopped.
    fn lease_read(&mut self, client: usize, request: u64, id: NodeId, (group, list): (GroupId, u64)) -> bool {
        let local = self.machines[&id].local(self.now);
        if !self.shard(id, group).may_read(|| local) {
            return false;
        }
        self.report.lease_reads += 1;
        self.begin(client, request, (id, group), Kind::Read(list));
        let pause = if self.rng.chance(1, 3) { self.rng.below(20 * MILLI) } else { 0 };
        self.at(self.now + pause, Event::Look(request));
        true
    }

    fn queued_read(&mut self, client: usize, request: u64, id: NodeId, (group, list): (GroupId, u64)) -> bool {
        // Without a lease the driver lets it ride in an entry.
        let place = Place::Local;
        let key = key(list);
        let words: [&[u8]; 4] = [b"LRANGE", key.as_bytes(), b"0", b"-1"];
        let add = |batch: &mut shard::pending::Batch<u64>| {
            batch.command(place, false, request, 0, Protocol::Resp2, &words);
        };
        if !self.submit(id, group, add) {
            return false;
        }
        self.report.queued_reads += 1;
        self.begin(client, request, (id, group), Kind::Read(list));
        true
    }

    fn index_read(&mut self, client: usize, request: u64, id: NodeId, (group, list): (GroupId, u64)) -> bool {
        self.begin(client, request, (id, group), Kind::Read(list));
        self.machine(id).node.as_mut().expect("it runs").tell(Input::Read(group, request));
        self.report.index_reads += 1;
        true
    }

    /// Reads a node's state for a request that may.
    pub(super) fn look(&mut self, request: u64) -> Result<(), String> {
        let Some(Request { node: id, group, kind: Kind::Read(list), .. }) = self.requests.get(&request) else {
            return Ok(());
        };
        let (id, group, list) = (*id, *group, *list);
        if self.machines[&id].node.as_ref().is_none_or(|node| node.shards.len() <= group.0 as usize) {
            return Ok(());
        }
        if self.machines[&id].paused {
            self.machine(id).stalled.push_back(Event::Look(request));
            return Ok(());
        }
        if self.options.commits {
            let key = key(list);
            let words: [&[u8]; 4] = [b"LRANGE", key.as_bytes(), b"0", b"-1"];
            let spec = command::find(b"LRANGE").expect("it is there");
            if self.shard(id, group).state().is_locked(spec, &words) {
                // It waits behind whoever holds the key; a follower looks again.
                self.report.locked_reads += 1;
                let add = |batch: &mut shard::pending::Batch<u64>| {
                    batch.command(Place::Local, false, request, 0, Protocol::Resp2, &words);
                };
                if !self.submit(id, group, add) {
                    self.at(self.now + 10 * MILLI, Event::Look(request));
                }
                return self.after(id);
            }
        }
        let bytes = self.read(id, group, list);
        self.answered(id, Answer::Reply(request, bytes))
    }

    pub(super) fn read(&self, id: NodeId, group: GroupId, list: u64) -> Vec<u8> {
        self.read_words(id, group, &[b"LRANGE", key(list).as_bytes(), b"0", b"-1"])
    }

    pub(super) fn read_words(&self, id: NodeId, group: GroupId, words: &[&[u8]]) -> Vec<u8> {
        let shard = self.shard(id, group);
        let state = shard.state();
        let spec = command::find(words[0]).expect("it is there");
        let mut reply = Reply::new(Protocol::Resp2);
        let stamp = state.stamp();
        state.read(&Call::new(spec, 0, words, stamp), &mut Rng::new(0), &mut reply);
        reply.bytes.to_vec()
    }

    pub(super) fn answered(&mut self, id: NodeId, answer: Answer) -> Result<(), String> {
        let (request, bytes) = match answer {
            Answer::Reply(request, bytes) => (request, Some(bytes)),
            Answer::Lost(request) => (request, None),
            Answer::Parked(..) | Answer::Served(..) if !self.options.commits => return Err("nobody waits here".into()),
            Answer::Parked(request, ticket) => {
                self.unit_held(id, request, ticket);
                return Ok(());
            }
            Answer::Served(ticket, bytes) => return self.held_answered(id, ticket, Some(bytes)),
            Answer::Abandoned(ticket) => return self.held_answered(id, ticket, None),
        };
        if self.mover_answered(request, bytes.as_deref()) || self.unit_answered(id, request, bytes.as_deref())? {
            return Ok(());
        }
        // What was given up is nobody's.
        let Some(Request { client, node, group, kind, begun }) = self.requests.remove(&request) else {
            return Ok(());
        };
        let sum = bytes.as_deref().map_or(1, crc);
        self.report.digest = self.report.digest.rotate_left(5) ^ u64::from(sum) ^ request;
        let now = self.now;
        if let Kind::Stream(ask) = kind {
            self.report.unknown += u64::from(bytes.is_none());
            return self.stream_answered(node, ask, bytes.as_deref());
        }
        if let Kind::Etcd(ask) = kind {
            return self.etcd_answered(ask, bytes.as_deref());
        }
        if let Kind::Lock(holder, name, ask) = kind {
            return self.lock_answered(holder, &name, &ask, bytes.as_deref());
        }
        if let Kind::Commit(client, op) = kind {
            return self.commit_answered(client, op, bytes.as_deref());
        }
        let number = self.commits.numbers.remove(&request);
        match (kind, bytes) {
            (kind, None) => {
                self.report.unknown += u64::from(matches!(kind, Kind::Append(_)));
                if let Some(tape) = &mut self.tape {
                    tape.unknown(request);
                }
            }
            (kind, Some(bytes)) if is_refusal(&bytes) => {
                self.report.refused += 1;
                if let Some(tape) = &mut self.tape {
                    tape.refused(request);
                }
                if let Some(number) = number {
                    self.commits.story.refused(number);
                }
                if let Kind::Append(appends) = kind {
                    for (list, append) in appends {
                        self.lists[list as usize].end(append, Outcome::Refused);
                    }
                }
                let leader =
                    self.machines[&node].node.as_ref().and_then(|node| node.shards.get(group.0 as usize)?.leader());
                self.homes[client] = leader.unwrap_or_else(|| self.any());
            }
            (Kind::Append(appends), Some(bytes)) => {
                let answer = model::Answer::parse(&bytes)?;
                let lengths = match &answer {
                    model::Answer::Array(Some(items)) => {
                        items.iter().take(appends.len()).map(model::Answer::number).collect()
                    }
                    one => one.number().map(|length| vec![length]),
                };
                let lengths: Vec<u64> = lengths?;
                if let Some(tape) = &mut self.tape {
                    tape.done(request, None);
                }
                if lengths.len() != appends.len() {
                    return Err(format!("{} appends were answered {answer:?}", appends.len()));
                }
                if let Some(number) = number {
                    let part = |((list, append), length): (&(u64, usize), &u64)| {
                        Part::Append(*list, self.lists[*list as usize].value(*append), Some(*length))
                    };
                    let parts = appends.iter().zip(&lengths).map(part).collect();
                    self.commits.story.done(number, parts, now);
                }
                for ((list, append), length) in appends.into_iter().zip(lengths) {
                    self.lists[list as usize].end(append, Outcome::Done(now, length));
                    self.report.appends += 1;
                }
            }
            (Kind::Stream(_) | Kind::Commit(..) | Kind::Etcd(_) | Kind::Lock(..), Some(_)) => {}
            (Kind::Read(list), Some(bytes)) => {
                let answer = model::Answer::parse(&bytes)?;
                let values = answer.items()?.iter().map(model::Answer::number).collect::<Result<Vec<u64>, _>>()?;
                self.tell(|| format!("{node} read {} values of list {list}, asked at {begun}", values.len()));
                if let Some(tape) = &mut self.tape {
                    tape.done(request, Some(&values));
                }
                if let Some(number) = number {
                    self.commits.story.done(number, vec![Part::Read(list, Some(values.clone()))], now);
                }
                self.lists[list as usize].read(values, begun, now);
            }
        }
        self.again(client);
        Ok(())
    }
}

/// What goes with every append where slots move: a key that is there for odd values only.
pub(super) fn put_mark(multi: &mut MultiBuilder, list: u64, value: u64) {
    let (mark, text) = (super::moving::mark(list), value.to_string());
    match value % 2 {
        1 => multi.command(0, &[b"SET", mark.as_bytes(), text.as_bytes()]),
        _ => multi.command(0, &[b"DEL", mark.as_bytes()]),
    }
}

pub(super) fn key(list: u64) -> String {
    format!("list{list}")
}

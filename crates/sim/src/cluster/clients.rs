//! Clients of a cluster: appends to lists, and four ways to read them.

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
        let request = self.next_request;
        self.next_request += 1;
        let hushed = self.hushed.is_some_and(|(at, until)| at == id && self.now < until);
        let what = if client == READER || hushed { 5 } else { self.rng.below(10) };
        let sent = match what {
            0..4 => self.append(client, request, id, list),
            4 => self.append_two(client, request, id, list),
            5..=7 => self.lease_read(client, request, id, list),
            8 => self.queued_read(client, request, id, list),
            _ => self.index_read(client, request, id, list),
        };
        if sent {
            let patience = if client == WANDERER { self.draw((200 * MILLI, 800 * MILLI)) } else { PATIENCE };
            self.at(self.now + patience, Event::GiveUp(request));
        } else {
            self.report.refused += 1;
            let leader = self.machines[&id].node.as_ref().and_then(|node| node.shards[DATA.0 as usize].leader());
            self.homes[client] = leader.unwrap_or_else(|| self.any());
            self.again(client);
        }
        self.after(id)
    }

    /// A request is under way.
    fn begin(&mut self, client: usize, request: u64, node: NodeId, kind: Kind) {
        if let Some(tape) = &mut self.tape {
            let steps = match &kind {
                Kind::Append(appends) => {
                    let value = |(list, number): &(u64, usize)| {
                        tape::Step::Append(*list, self.lists[*list as usize].value(*number))
                    };
                    appends.iter().map(value).collect()
                }
                Kind::Read(list) => vec![tape::Step::Read(*list, None)],
            };
            tape.ask(request, steps);
        }
        self.requests.insert(request, Request { client, node, kind, begun: self.now });
    }

    fn shard(&self, id: NodeId) -> &shard::live::Shard<u64> {
        &self.machines[&id].node.as_ref().expect("it runs").shards[DATA.0 as usize]
    }

    /// Hands something to a node's queue.
    fn submit(&mut self, id: NodeId, add: impl FnOnce(&mut shard::pending::Batch<u64>)) -> bool {
        let shard = self.shard(id);
        if shard.refusal(false).is_some() || shard.submit(add).is_err() {
            return false;
        }
        self.machine(id).node.as_mut().expect("it runs").wake();
        true
    }

    fn append(&mut self, client: usize, request: u64, id: NodeId, list: u64) -> bool {
        let value = self.next_value;
        self.next_value += 1;
        let (key, text) = (key(list), value.to_string());
        let words: [&[u8]; 3] = [b"RPUSH", key.as_bytes(), text.as_bytes()];
        let add = |batch: &mut shard::pending::Batch<u64>| {
            batch.command(Place::Logged, false, request, 0, Protocol::Resp2, &words);
        };
        if !self.submit(id, add) {
            return false;
        }
        let number = self.lists[list as usize].begin(value, self.now);
        let kind = Kind::Append(vec![(list, number)]);
        self.begin(client, request, id, kind);
        true
    }

    fn append_two(&mut self, client: usize, request: u64, id: NodeId, list: u64) -> bool {
        let lists = [list, (list + 1) % LISTS];
        let mut multi = MultiBuilder::default();
        let first = self.next_value;
        self.next_value += 2;
        for (at, list) in lists.iter().enumerate() {
            let (key, text) = (key(*list), (first + at as u64).to_string());
            multi.command(0, &[b"RPUSH", key.as_bytes(), text.as_bytes()]);
        }
        let add = |batch: &mut shard::pending::Batch<u64>| {
            batch.multi(Place::Logged, false, request, Protocol::Resp2, &multi, &[]);
        };
        if !self.submit(id, add) {
            return false;
        }
        let now = self.now;
        let numbered = lists
            .iter()
            .enumerate()
            .map(|(at, list)| (*list, self.lists[*list as usize].begin(first + at as u64, now)));
        let kind = Kind::Append(numbered.collect());
        self.begin(client, request, id, kind);
        true
    }

    /// The lease is looked at now, and the state read now or a little later: between the two the node may be stopped.
    fn lease_read(&mut self, client: usize, request: u64, id: NodeId, list: u64) -> bool {
        let local = self.machines[&id].local(self.now);
        if !self.shard(id).may_read(|| local) {
            return false;
        }
        self.report.lease_reads += 1;
        self.begin(client, request, id, Kind::Read(list));
        let pause = if self.rng.chance(1, 3) { self.rng.below(20 * MILLI) } else { 0 };
        self.at(self.now + pause, Event::Look(request));
        true
    }

    fn queued_read(&mut self, client: usize, request: u64, id: NodeId, list: u64) -> bool {
        // Without a lease the driver lets it ride in an entry.
        let place = Place::Local;
        let key = key(list);
        let words: [&[u8]; 4] = [b"LRANGE", key.as_bytes(), b"0", b"-1"];
        let add = |batch: &mut shard::pending::Batch<u64>| {
            batch.command(place, false, request, 0, Protocol::Resp2, &words);
        };
        if !self.submit(id, add) {
            return false;
        }
        self.report.queued_reads += 1;
        self.begin(client, request, id, Kind::Read(list));
        true
    }

    fn index_read(&mut self, client: usize, request: u64, id: NodeId, list: u64) -> bool {
        self.begin(client, request, id, Kind::Read(list));
        self.machine(id).node.as_mut().expect("it runs").tell(Input::Read(DATA, request));
        self.report.index_reads += 1;
        true
    }

    /// Reads a node's state for a request that may.
    pub(super) fn look(&mut self, request: u64) -> Result<(), String> {
        let Some(Request { node: id, kind: Kind::Read(list), .. }) = self.requests.get(&request) else {
            return Ok(());
        };
        let (id, list) = (*id, *list);
        if self.machines[&id].node.is_none() {
            return Ok(());
        }
        if self.machines[&id].paused {
            self.machine(id).stalled.push_back(Event::Look(request));
            return Ok(());
        }
        let bytes = self.read(id, list);
        self.answered(Answer::Reply(request, bytes))
    }

    pub(super) fn read(&self, id: NodeId, list: u64) -> Vec<u8> {
        let shard = self.shard(id);
        let state = shard.state();
        let key = key(list);
        let words: [&[u8]; 4] = [b"LRANGE", key.as_bytes(), b"0", b"-1"];
        let spec = command::find(b"LRANGE").expect("it is there");
        let mut reply = Reply::new(Protocol::Resp2);
        let stamp = state.stamp();
        state.read(&Call::new(spec, 0, &words, stamp), &mut Rng::new(0), &mut reply);
        reply.bytes.to_vec()
    }

    pub(super) fn answered(&mut self, answer: Answer) -> Result<(), String> {
        let (request, bytes) = match answer {
            Answer::Reply(request, bytes) => (request, Some(bytes)),
            Answer::Lost(request) => (request, None),
            Answer::Parked(..) | Answer::Served(..) => return Err("nobody waits here".into()),
        };
        // What was given up is nobody's.
        let Some(Request { client, node, kind, begun }) = self.requests.remove(&request) else {
            return Ok(());
        };
        let sum = bytes.as_deref().map_or(1, crc);
        self.report.digest = self.report.digest.rotate_left(5) ^ u64::from(sum) ^ request;
        let now = self.now;
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
                if let Kind::Append(appends) = kind {
                    for (list, append) in appends {
                        self.lists[list as usize].end(append, Outcome::Refused);
                    }
                }
                let leader = self.machines[&node].node.as_ref().and_then(|node| node.shards[DATA.0 as usize].leader());
                self.homes[client] = leader.unwrap_or_else(|| self.any());
            }
            (Kind::Append(appends), Some(bytes)) => {
                let answer = model::Answer::parse(&bytes)?;
                let lengths = match &answer {
                    model::Answer::Array(Some(items)) => items.iter().map(model::Answer::number).collect(),
                    one => one.number().map(|length| vec![length]),
                };
                let lengths: Vec<u64> = lengths?;
                if let Some(tape) = &mut self.tape {
                    tape.done(request, None);
                }
                if lengths.len() != appends.len() {
                    return Err(format!("{} appends were answered {answer:?}", appends.len()));
                }
                for ((list, append), length) in appends.into_iter().zip(lengths) {
                    self.lists[list as usize].end(append, Outcome::Done(now, length));
                    self.report.appends += 1;
                }
            }
            (Kind::Read(list), Some(bytes)) => {
                let answer = model::Answer::parse(&bytes)?;
                let values = answer.items()?.iter().map(model::Answer::number).collect::<Result<Vec<u64>, _>>()?;
                self.tell(|| format!("{node} read {} values of list {list}, asked at {begun}", values.len()));
                if let Some(tape) = &mut self.tape {
                    tape.done(request, Some(&values));
                }
                self.lists[list as usize].read(values, begun, now);
            }
        }
        self.again(client);
        Ok(())
    }
}

fn key(list: u64) -> String {
    format!("list{list}")
}

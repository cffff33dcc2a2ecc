//! What befalls a cluster.

use super::*;

impl World {
    /// The node that leads the group, as far as itself believes; the newest of several.
    pub(super) fn leader(&self, group: GroupId) -> Option<NodeId> {
        let leads = self.machines.values().filter(|machine| machine.runs()).filter_map(|machine| {
            let status = machine.node.as_ref()?.driver.status();
            let own = status.into_iter().find(|(id, status, _)| *id == group && status.role == Role::Leader)?;
            Some((own.1.term, machine.id))
        });
        leads.max().map(|(_, id)| id)
    }

    fn victim(&mut self) -> NodeId {
        let group = self.target();
        if self.rng.chance(1, 2) { self.leader(group).unwrap_or_else(|| self.any()) } else { self.any() }
    }

    /// The data group that something is to befall.
    fn target(&mut self) -> GroupId {
        let born = self.moving.born.is_some();
        if self.options.commits {
            let groups = self.groups();
            return groups[1 + self.rng.index(groups.len() - 1)];
        }
        if born && self.rng.chance(1, 2) { self.child() } else { DATA }
    }

    pub(super) fn any_group(&mut self) -> GroupId {
        let groups = self.groups();
        groups[self.rng.index(groups.len())]
    }

    fn links(&self, of: &[NodeId]) -> Vec<(NodeId, NodeId)> {
        let ids = self.ids();
        let pairs = ids.iter().flat_map(|a| ids.iter().map(move |b| (*a, *b)));
        pairs.filter(|(a, b)| of.contains(a) != of.contains(b)).collect()
    }

    fn cut_for(&mut self, links: Vec<(NodeId, NodeId)>, span: (u64, u64)) {
        self.cut.extend(links.iter().copied());
        let pause = self.draw(span);
        self.at(self.now + pause, Event::Mend(links));
    }

    pub(super) fn fault(&mut self) {
        let id = self.victim();
        let soon = self.draw((50 * MILLI, 3_000 * MILLI));
        let kind = self.rng.below(31);
        self.tell(|| format!("fault {kind} at {id}"));
        match kind {
            0 | 1 => {
                self.report.crashes += u64::from(self.machines[&id].node.is_some());
                self.cut_power(id);
                if self.options.bugs.wiped_disk && self.rng.chance(1, 2) {
                    let machine = self.machine(id);
                    (machine.disk, machine.open.log.log_id) = (VirtualDisk::new(), machine.open.log.log_id + 1);
                }
                self.at(self.now + soon, Event::Start(id));
            }
            2 => {
                self.report.kills += u64::from(self.machines[&id].node.is_some());
                self.stop(id, true);
                self.at(self.now + soon / 8, Event::Start(id));
            }
            3 | 4 => {
                if self.machines[&id].runs() {
                    self.report.pauses += 1;
                    self.machine(id).paused = true;
                    self.at(self.now + soon, Event::Resume(id));
                }
            }
            5 | 6 => {
                self.report.isolations += 1;
                let links = self.links(&[id]);
                self.cut_for(links, (100 * MILLI, 4_000 * MILLI));
            }
            7 | 8 => {
                self.report.one_way += 1;
                let other = self.any();
                let whole = self.rng.chance(1, 2);
                let away = self.rng.chance(1, 2);
                let mut links = if whole { self.links(&[id]) } else { vec![(id, other), (other, id)] };
                links.retain(|(from, _)| (*from == id) == away);
                self.cut_for(links, (100 * MILLI, 4_000 * MILLI));
            }
            9 => {
                self.report.halves += 1;
                let mut half = self.ids();
                half.retain(|_| self.rng.chance(1, 2));
                let links = self.links(&half);
                self.cut_for(links, (100 * MILLI, 4_000 * MILLI));
            }
            10 => self.swizzle(),
            11..=13 => self.change_members(),
            14 => {
                let group = self.any_group();
                self.hand_over(group);
            }
            15 => {
                self.report.slow += 1;
                self.machine(id).slow = 5 + self.rng.below(60);
                self.at(self.now + soon, Event::Quick(id));
            }
            16 => {
                self.report.jumps += 1;
                let to = match self.commits_have_names() {
                    true => 1_700_000_000_000 + self.rng.below(3_600_000),
                    false => 1_600_000_000_000 + self.rng.below(200_000_000_000),
                };
                self.machine(id).wall_offset = to;
            }
            17 => {
                if self.machines[&id].runs() {
                    self.report.bad_syncs += 1;
                    let after = self.rng.below(4);
                    self.machine(id).disk.fail_sync(after);
                    // Its log has stopped: somebody restarts it.
                    self.at(self.now + soon, Event::Start(id));
                }
            }
            18 => {
                self.report.slow_links += 1;
                let mut links = self.links(&[id]);
                links.retain(|_| self.rng.chance(1, 2));
                for link in &links {
                    let longer = self.rng.below(2_500 * MILLI);
                    self.slow_links.insert(*link, longer);
                }
                self.at(self.now + soon, Event::QuickLinks(links));
            }
            19 => self.tempt(),
            20 | 21 => self.late_answers(),
            22 => {
                let group = self.target();
                if let Some(node) = self.machine(id).node.as_mut()
                    && node.shards.len() > group.0 as usize
                {
                    node.want_snapshot(group);
                }
            }
            23 => self.flap(id),
            24 | 25 => {
                self.report.storms += 1;
                let lost = 10 + self.rng.below(300);
                let doubled = self.rng.below(200);
                let (low, high) = self.usual.delay;
                let delay = (low, high + self.rng.below(300 * MILLI));
                self.weather = Weather { delay, lost, doubled, reorders: self.rng.chance(1, 2) };
                self.at(self.now + soon, Event::Calm);
            }
            26 => {
                // A new node needs room to begin with.
                if self.machines[&id].node.is_none() {
                    return;
                }
                self.report.full += 1;
                let room = self.machines[&id].disk.used() + self.rng.below(8 << 10);
                self.machine(id).disk.set_capacity(Some(room));
                self.at(self.now + soon, Event::Roomy(id));
            }
            27 => {
                if self.may_rot() {
                    let tail = self.rng.chance(1, 2);
                    self.rot(id, tail);
                    self.at(self.now + soon, Event::Start(id));
                }
            }
            28 | 29 => self.rot_and_fall(),
            _ => {
                if self.rng.chance(1, 3) {
                    self.report.blackouts += 1;
                    let torn = self.rng.chance(1, 2);
                    for id in self.ids() {
                        if torn {
                            self.tear_power(id);
                        } else {
                            self.cut_power(id);
                        }
                        let at = self.now + 50 * MILLI + self.rng.below(1_000 * MILLI);
                        self.at(at, Event::Start(id));
                    }
                }
            }
        }
    }

    /// One follower cannot hear the leader and stands for election again and again; the other one, on whose word the lease
    /// runs, is restarted meanwhile.
    fn tempt(&mut self) {
        let group = self.target();
        let Some(leader) = self.leader(group) else { return };
        let others: Vec<NodeId> = self.ids().into_iter().filter(|id| *id != leader).collect();
        if others.len() < 2 {
            return;
        }
        self.report.tempted += 1;
        let deaf = others[self.rng.index(others.len())];
        if self.rng.chance(1, 2) {
            return self.tempt_once(leader, deaf, &others);
        }
        self.cut_for(vec![(leader, deaf), (deaf, leader)], (2_000 * MILLI, 5_000 * MILLI));
        for other in others.into_iter().filter(|id| *id != deaf) {
            for _ in 0..3 {
                let at = self.now + self.draw((900 * MILLI, 4_000 * MILLI));
                self.at(at, Event::Bounce(other));
            }
        }
    }

    /// A power cut in the middle of the next write, whose bytes are torn.
    fn tear_power(&mut self, id: NodeId) {
        let machine = self.machine(id);
        if !machine.runs() {
            return self.stop(id, false);
        }
        machine.tears = true;
        machine.disk.crash_at(machine.disk.operations());
        let life = machine.life;
        self.at(self.now + 40 * MILLI, Event::Dark(id, life));
    }

    /// A power cut, at once or in the middle of one of the next writes; within 40 ms anyway.
    fn cut_power(&mut self, id: NodeId) {
        let machine = self.machines.get(&id).expect("machines never go");
        if !machine.runs() || self.rng.chance(1, 4) {
            return self.stop(id, false);
        }
        let life = machine.life;
        let strikes = machine.disk.operations() + [0, 0, 2, 4, 6][self.rng.index(5)];
        self.machines[&id].disk.crash_at(strikes);
        self.at(self.now + 40 * MILLI, Event::Dark(id, life));
    }

    /// Whether what one disk loses is still held by others who can say so: nobody else has lost anything, and there are others.
    fn may_rot(&self) -> bool {
        let settled = self.memberships.values().all(|members| members.voters.len() >= 3 && !members.is_joint());
        let calm = self.now > self.changed_at + 3_000 * MILLI;
        // A change of the voters that is yet to be decided could leave so few that one more cannot be lost.
        let decided = |machine: &Machine| {
            let status = machine.node.as_ref().map(|node| node.driver.status());
            status.is_some_and(|all| all.iter().all(|(_, status, _)| status.last == status.committed))
        };
        let calm = calm && self.machines.values().all(decided);
        settled
            && calm
            && self.memberships.len() == self.groups().len()
            && self.machines.values().all(|machine| !machine.rotten)
    }

    /// A power cut of a node, and some bytes of what it had made durable are not what they were: the end of its log, or anything.
    fn rot(&mut self, id: NodeId, tail: bool) {
        let Some((segment, end)) = self.machines[&id].node.as_ref().map(Node::log_end) else { return };
        self.report.rots += 1;
        self.stop(id, false);
        let disk = self.machines[&id].disk.clone();
        let mut names = disk.names();
        names.retain(|name| {
            !name.starts_with("spare") && name != "SHARDS" && name != "SHARDS.copy" && name != "BALLAST"
        });
        for _ in 0..1 + self.rng.below(3) {
            let last = format!("{segment:016x}.log");
            let name = if tail { last } else { names[self.rng.index(names.len())].clone() };
            let bytes = disk.bytes(&name).unwrap_or_default();
            let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at as u64 + 1);
            let (from, to) = if tail { (end.saturating_sub(400).max(4096), end) } else { (0, used) };
            if from < to {
                let at = from + self.rng.below(to - from);
                let xor = 1 << self.rng.below(8);
                disk.corrupt(&name, at, xor);
                self.tell(|| format!("{id}: {name} rots at {at} of {to}"));
            }
        }
        let machine = self.machine(id);
        (machine.rotten, machine.open.has_peers) = (true, true);
    }

    /// A follower lags, the other one acknowledges; then that one's log rots at its end, and the leader falls: the two that are left
    /// must not make do without what the leader has.
    fn rot_and_fall(&mut self) {
        let group = self.target();
        let Some(leader) = self.leader(group).filter(|_| self.may_rot()) else { return };
        let voters = self.memberships[&group].voters.clone();
        let runs = |id: &&NodeId| **id != leader && self.machines[id].runs();
        let followers: Vec<NodeId> = voters.iter().filter(runs).copied().collect();
        // So many as make no majority with the leader's are left out.
        let lagging: Vec<NodeId> = followers.iter().copied().skip(voters.len() / 2).collect();
        if lagging.is_empty() {
            return;
        }
        let links = self.links(&lagging);
        self.cut.extend(links.iter().copied());
        let then = self.now + self.draw((200 * MILLI, 800 * MILLI));
        self.at(then, Event::Mend(links));
        self.at(then, Event::RotAndFall(leader, followers[0]));
    }

    pub(super) fn fall(&mut self, leader: NodeId, rotten: NodeId) {
        if self.quiet || !self.may_rot() {
            return;
        }
        self.rot(rotten, true);
        self.stop(leader, true);
        let soon = self.now + self.rng.below(50 * MILLI);
        self.at(soon, Event::Start(rotten));
        let later = self.now + self.draw((2_000 * MILLI, 5_000 * MILLI));
        self.at(later, Event::Start(leader));
    }

    /// The same, but nothing new is written meanwhile, so that the deaf one may be elected; and nobody hears the leader once the
    /// others have been restarted.
    fn tempt_once(&mut self, leader: NodeId, deaf: NodeId, others: &[NodeId]) {
        self.hushed = Some((leader, self.now + 6_000 * MILLI));
        self.cut_for(vec![(leader, deaf), (deaf, leader)], (3_000 * MILLI, 5_000 * MILLI));
        let then = self.now + self.draw((900 * MILLI, 2_200 * MILLI));
        for other in others.iter().copied().filter(|id| *id != deaf) {
            self.at(then, Event::Bounce(other));
            let links = vec![(leader, other), (other, leader)];
            self.at(then, Event::Cut(links.clone()));
            self.at(then + 2_500 * MILLI, Event::Mend(links));
        }
    }

    /// What the leader hears is late; then nobody hears the leader any more, or it is asked to hand over: a lease must not count
    /// from answers that were on their way for long.
    fn late_answers(&mut self) {
        let group = self.target();
        let Some(leader) = self.leader(group) else { return };
        self.report.late += 1;
        let to: Vec<_> = self.links(&[leader]).into_iter().filter(|(_, to)| *to == leader).collect();
        let from: Vec<_> = to.iter().map(|(from, to)| (*to, *from)).collect();
        let longer = self.draw((300 * MILLI, 2_500 * MILLI));
        self.slow_links.extend(to.iter().map(|link| (*link, longer)));
        self.at(self.now + 6_000 * MILLI, Event::QuickLinks(to));
        let then = self.now + self.draw((200 * MILLI, 1_500 * MILLI));
        if self.rng.chance(1, 2) {
            self.at(then, Event::Cut(from.clone()));
            self.at(then + 4_000 * MILLI, Event::Mend(from));
        } else {
            self.at(then, Event::HandOver);
        }
    }

    /// The data group's leader is asked to hand over to anybody.
    pub(super) fn hand_over(&mut self, group: GroupId) {
        let to = self.any();
        if let Some(leader) = self.leader(group) {
            self.report.transfers += 1;
            self.machine(leader).node.as_mut().expect("it runs").tell(Input::TransferLead(group, to));
            self.at(self.now, Event::Act(leader, self.machines[&leader].life, Actor::Driver));
            if self.rng.chance(1, 2) {
                // It hears of its successor late: what it still answers must not be from the past.
                let into: Vec<(NodeId, NodeId)> =
                    self.ids().into_iter().filter(|id| *id != leader).map(|id| (id, leader)).collect();
                let soon = self.now + self.rng.below(2 * MILLI);
                self.at(soon, Event::Cut(into.clone()));
                self.at(soon + 600 * MILLI, Event::Mend(into));
            }
        }
    }

    /// Links are cut in one order and mended in another (FoundationDB's swizzle-clogging).
    fn swizzle(&mut self) {
        self.report.swizzles += 1;
        for id in self.ids() {
            if self.rng.chance(1, 2) {
                let links = self.links(&[id]);
                let cut = self.now + self.rng.below(500 * MILLI);
                let mend = cut + self.draw((100 * MILLI, 2_000 * MILLI));
                self.at(cut, Event::Cut(links.clone()));
                self.at(mend, Event::Mend(links));
            }
        }
    }

    /// A node's links are cut and mended every few heartbeats; one way in half of the cases.
    fn flap(&mut self, id: NodeId) {
        self.report.flaps += 1;
        let mut links = self.links(&[id]);
        if self.rng.chance(1, 2) {
            let away = self.rng.chance(1, 2);
            links.retain(|(from, _)| (*from == id) == away);
        }
        let mut at = self.now;
        for _ in 0..4 + self.rng.below(8) {
            self.at(at, Event::Cut(links.clone()));
            at += self.draw((20 * MILLI, 900 * MILLI));
            self.at(at, Event::Mend(links.clone()));
            at += self.draw((20 * MILLI, 600 * MILLI));
        }
    }

    fn change_members(&mut self) {
        let group = self.any_group();
        let Some(leader) = self.leader(group) else { return };
        if self.machines.values().any(|machine| machine.rotten) {
            return;
        }
        self.changed_at = self.now;
        let status = self.machines[&leader].node.as_ref().expect("it runs").driver.status();
        let Some((_, status, _)) = status.into_iter().find(|(id, ..)| *id == group) else { return };
        let members = status.membership.members();
        let voters = status.membership.voters;
        let outside: Vec<NodeId> = self.ids().into_iter().filter(|id| !members.contains(id)).collect();
        let newcomer = match outside.is_empty() || self.rng.chance(1, 3) {
            true if self.machines.len() < 8 => {
                let id = NodeId(self.machines.len() as u64 + 1);
                self.add_machine(id);
                Some(id)
            }
            _ if outside.is_empty() => None,
            _ => Some(outside[self.rng.index(outside.len())]),
        };
        let leaver = voters[self.rng.index(voters.len())];
        let may_shrink = voters.len() > 2;
        let changes = match (self.rng.below(5), newcomer) {
            (0, Some(id)) => vec![Change::AddLearner(id)],
            (1, Some(id)) => vec![Change::AddVoter(id)],
            (2, Some(id)) => vec![Change::AddVoter(id), Change::Remove(leaver)],
            (3, Some(id)) if may_shrink => vec![Change::AddLearner(id), Change::Remove(leaver)],
            _ if may_shrink => vec![Change::Remove(leaver)],
            _ => return,
        };
        self.tell(|| format!("{group}: {leader} is asked for {changes:?} of {voters:?}"));
        self.machine(leader).node.as_mut().expect("it runs").tell(Input::ChangeMembers(group, changes));
        self.at(self.now, Event::Act(leader, self.machines[&leader].life, Actor::Driver));
    }
}

//! The end of a run: all is mended, and the cluster has to come to rest.

use super::*;

impl World {
    /// No more faults, and everything that can be mended is.
    pub(super) fn mend(&mut self) {
        self.quiet = true;
        self.ends = self.now;
        self.cut.clear();
        self.slow_links.clear();
        self.weather = self.usual;
        for id in self.ids() {
            let machine = self.machine(id);
            machine.slow = 1;
            machine.disk.set_capacity(None);
            // A sync that was to fail may still.
            if machine.paused {
                self.at(self.now, Event::Resume(id));
            } else if machine.node.as_ref().is_some_and(|node| node.stopped.is_some()) {
                self.stop(id, true);
            }
            self.at(self.now + MILLI, Event::Start(id));
        }
    }

    /// Whether all has come to rest: nobody waits, and all members of each group are alike.
    pub(super) fn rests(&mut self) -> Result<(), String> {
        for id in self.ids() {
            if self.machines[&id].node.as_ref().is_some_and(|node| node.stopped.is_some()) {
                self.stop(id, true);
                self.at(self.now + MILLI, Event::Start(id));
                return Err(format!("the log of {id} has stopped"));
            }
        }
        if !self.streams_rest() {
            return Err(format!("producers wait: {}", self.streams_words()));
        }
        if self.options.commits {
            self.commits_rest()?;
        }
        self.etcd_rests()?;
        self.locks_rest()?;
        if !self.requests.is_empty() || self.now < self.ends + 1_000 * MILLI {
            return Err(format!("{} requests are not answered", self.requests.len()));
        }
        for group in self.groups() {
            let leader = self.leader(group).ok_or_else(|| format!("nobody leads {group}"))?;
            if let Some(refusal) = self.shard(leader, group).current_refusal() {
                return Err(format!("{leader} leads {group}, and refuses: {refusal:?}"));
            }
        }
        if let Some((from, to, _)) = &self.moving.under_way {
            return Err(format!("slots are on their way from {from} to {to}"));
        }
        for group in self.groups() {
            let leader = self.leader(group).ok_or_else(|| format!("nobody leads {group}"))?;
            let status = self.machines[&leader].node.as_ref().expect("it runs").driver.status();
            let (_, status, applied) = status.into_iter().find(|(id, ..)| *id == group).expect("it leads it");
            if status.committed < status.last {
                return Err(format!("{leader} has not committed all that it has of {group}"));
            }
            if status.membership.is_joint() {
                return Err(format!("{group} is between two memberships"));
            }
            let mut first: Option<Vec<Vec<u8>>> = None;
            for member in status.membership.members() {
                let node = self.machines[&member].node.as_ref().ok_or_else(|| format!("{member} is down"))?;
                let own = node.driver.status().into_iter().find(|(id, ..)| *id == group).expect("all have all groups");
                if own.1.trust != consensus::Trust::Whole {
                    return Err(format!("{member} stands behind a fence in {group}: {:?}", own.1.trust));
                }
                if own.2 != applied || own.1.committed != status.committed {
                    return Err(format!("{member} has applied {:?} of {group}, the leader {applied:?}", own.2));
                }
                if let Some((slots, _)) = node.shards[group.0 as usize].state().slots().litter() {
                    return Err(format!("keys of slots {slots} that have gone may lie in {group}"));
                }
                let mut state = node.shards[group.0 as usize].state_mut();
                let all = contents(&mut state)?;
                if *first.get_or_insert_with(|| all.clone()) != all {
                    return Err(format!("{member} holds another state of {group} than {leader} at {applied:?}"));
                }
            }
        }
        Ok(())
    }

    pub(super) fn last_reads(&mut self) -> Result<(), String> {
        self.last_places()?;
        for list in 0..LISTS {
            let group = self.home_of(list);
            let leader = self.leader(group).ok_or("nobody leads")?;
            let membership = self.machines[&leader].node.as_ref().expect("it runs").driver.status()[group.0 as usize]
                .1
                .membership
                .clone();
            for member in membership.members() {
                let answer = model::Answer::parse(&self.read(member, group, list))?;
                let values = answer.items()?.iter().map(model::Answer::number).collect::<Result<Vec<u64>, _>>()?;
                if let Some(tape) = &mut self.tape {
                    tape.read_at_once(list, &values);
                }
                if self.options.moves {
                    self.last_marks(list, &values)?;
                }
                if self.options.commits {
                    let number = self.commits.story.begin(Vec::new(), self.now);
                    let read = history::transactions::Step::Read(list, Some(values.clone()));
                    self.commits.story.done(number, vec![read], self.now + 1);
                }
                self.lists[list as usize].read(values, self.now, self.now + 1);
            }
        }
        Ok(())
    }
}

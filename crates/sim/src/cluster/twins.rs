//! Two changes of one group's members at the same moment, from two nodes: each asks whoever it believes to lead, as two reconcilers or two
//! operators would, and again until its change has come about. One group takes one change at a time, so they meet: at one leader, or one
//! of them at a leader that is none any more.

use super::*;

/// How long one asks for its change. What has not come about by then never was to: others changed the same.
const ASKS: u64 = 6_000 * MILLI;
/// How often.
const AGAIN: u64 = 400 * MILLI;

/// One of the two.
struct Asker {
    node: NodeId,
    changes: Vec<Change>,
    /// Which node was asked last.
    asked: Option<NodeId>,
    done: bool,
}

/// Both.
pub(super) struct Pair {
    group: GroupId,
    until: u64,
    askers: [Asker; 2],
}

/// The two that are under way, if any, and how many there have been.
#[derive(Default)]
pub(super) struct Twins {
    begun: u64,
    pair: Option<Pair>,
}

fn is_done(members: &Membership, change: &Change) -> bool {
    match change {
        Change::AddVoter(id) => members.voters.contains(id),
        Change::AddLearner(id) => members.learners.contains(id),
        Change::Remove(id) => !members.members().contains(id),
    }
}

impl World {
    /// Whether there are others who want a pair; the next one comes a while later.
    pub(super) fn think_of_twins(&mut self) {
        if self.quiet {
            return;
        }
        let next = self.draw((300 * MILLI, 3_000 * MILLI));
        self.at(self.now + next, Event::Twins);
        let may_begin = self.twins.pair.is_none() && !self.machines.values().any(|machine| machine.rotten);
        if let Some(pair) = may_begin.then(|| self.draw_twins()).flatten() {
            self.twins.begun += 1;
            self.twins.pair = Some(pair);
            self.report.twins += 1;
            if self.rng.chance(1, 4) {
                // One of them may still ask the old leader.
                let group = self.twins.pair.as_ref().expect("just begun").group;
                self.hand_over(group);
            }
            let number = self.twins.begun;
            self.at(self.now, Event::AskMembers(number, 0));
            self.at(self.now, Event::AskMembers(number, 1));
        }
    }

    /// Two nodes that run, and a change for each that concerns other nodes than the other's.
    fn draw_twins(&mut self) -> Option<Pair> {
        let group = self.any_group();
        let members = self.memberships.get(&group)?.clone();
        let mut running: Vec<NodeId> = self.machines.values().filter(|machine| machine.runs()).map(|m| m.id).collect();
        if running.len() < 2 || members.is_joint() {
            return None;
        }
        let first = running.swap_remove(self.rng.index(running.len()));
        let second = running[self.rng.index(running.len())];
        let mut outside: Vec<NodeId> = self.ids().into_iter().filter(|id| !members.members().contains(id)).collect();
        let mut leavers = members.voters.clone();
        let mut spare = leavers.len().saturating_sub(2);
        let mut changes = Vec::new();
        for _ in 0..2 {
            if outside.is_empty() && self.machines.len() < 8 {
                let id = NodeId(self.machines.len() as u64 + 1);
                self.add_machine(id);
                outside.push(id);
            }
            let comes = (!outside.is_empty()).then(|| self.rng.index(outside.len()));
            let goes = if leavers.is_empty() { 0 } else { self.rng.index(leavers.len()) };
            changes.push(match (self.rng.below(4), comes) {
                (0, Some(at)) => vec![Change::AddLearner(outside.swap_remove(at))],
                (1, Some(at)) => vec![Change::AddVoter(outside.swap_remove(at))],
                (2, Some(at)) if !leavers.is_empty() => {
                    vec![Change::AddVoter(outside.swap_remove(at)), Change::Remove(leavers.swap_remove(goes))]
                }
                _ if spare > 0 => {
                    spare -= 1;
                    vec![Change::Remove(leavers.swap_remove(goes))]
                }
                _ => return None,
            });
        }
        let mut changes = changes.into_iter();
        let mut asker = |node| Asker { node, changes: changes.next().unwrap_or_default(), asked: None, done: false };
        let askers = [asker(first), asker(second)];
        self.tell(|| {
            let of = |asker: &Asker| format!("{} for {:?}", asker.node, asker.changes);
            format!("{group}: two ask at once, {} and {}", of(&askers[0]), of(&askers[1]))
        });
        Some(Pair { group, until: self.now + ASKS, askers })
    }

    /// One of the two asks, unless its change has come about.
    pub(super) fn ask_members(&mut self, number: u64, which: usize) -> Result<(), String> {
        let (now, quiet) = (self.now, self.quiet);
        let Some(pair) = self.twins.pair.as_mut().filter(|_| self.twins.begun == number) else { return Ok(()) };
        let members = self.memberships.get(&pair.group).ok_or("a group without members")?;
        let asker = &mut pair.askers[which];
        asker.done |= !members.is_joint() && asker.changes.iter().all(|change| is_done(members, change));
        if pair.askers.iter().all(|asker| asker.done) {
            self.report.twins_done += 1;
        } else if now < pair.until && !quiet {
            if !pair.askers[which].done {
                self.ask_leader(number, which)?;
            }
            self.at(now + AGAIN, Event::AskMembers(number, which));
            return Ok(());
        }
        self.twins.pair = None;
        Ok(())
    }

    fn ask_leader(&mut self, number: u64, which: usize) -> Result<(), String> {
        let Some(pair) = &self.twins.pair else { return Ok(()) };
        let (group, from) = (pair.group, pair.askers[which].node);
        let status =
            self.machines[&from].node.as_ref().filter(|_| self.machines[&from].runs()).map(|n| n.driver.status());
        let own = status.and_then(|all| all.into_iter().find(|(id, ..)| *id == group));
        // As it knows it; a node that has no part in the group, or is down, has somebody else ask.
        let Some(to) = own.and_then(|(_, status, _)| status.leader).or_else(|| self.leader(group)) else {
            return Ok(());
        };
        if to == from {
            return self.members_asked(to, number, which);
        }
        self.send(from, to, Packet::Members(number, which));
        self.after(from)
    }

    /// The question has come to whom it was sent.
    pub(super) fn members_asked(&mut self, to: NodeId, number: u64, which: usize) -> Result<(), String> {
        if self.quiet || self.machines.values().any(|machine| machine.rotten) {
            return Ok(());
        }
        let Some(pair) = self.twins.pair.as_mut().filter(|_| self.twins.begun == number) else { return Ok(()) };
        let (group, changes) = (pair.group, pair.askers[which].changes.clone());
        let is_first = pair.askers[which].asked.replace(to).is_none();
        // The other one's is not there yet: they meet.
        if let (true, false, Some(other)) = (is_first, pair.askers[1 - which].done, pair.askers[1 - which].asked) {
            self.report.twins_met += u64::from(other == to);
            self.report.twins_apart += u64::from(other != to);
        }
        self.changed_at = self.now;
        self.tell(|| format!("{group}: {to} is asked for {changes:?}"));
        if let Some(node) = self.machine(to).node.as_mut() {
            node.tell(Input::ChangeMembers(group, changes));
        }
        self.after(to)
    }
}

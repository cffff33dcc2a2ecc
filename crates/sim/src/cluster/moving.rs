//! A shard that is split, and slots that go to and fro, under faults: the product's own mover beside whoever believes to lead the
//! shard that they leave. What the meta group would say is said here: which slots are on their way, and who has them.

use base::{SlotSet, key_slot};
use shard::mover::{Ask, Mover, Told};
use shard::slots::{SlotAnswer, SlotChange};

use super::clients::key;
use super::*;

/// How long a mover waits for an answer.
const MOVER_PATIENCE: (u64, u64) = (100 * MILLI, 1_500 * MILLI);

/// Slots and movers.
#[derive(Default)]
pub(super) struct Moving {
    /// Who has each slot that has moved, as the map says.
    homes: BTreeMap<u16, GroupId>,
    /// Who made up the new shard; `None` before it was made.
    pub(super) born: Option<Vec<NodeId>>,
    /// What is on its way.
    pub(super) under_way: Option<(GroupId, GroupId, SlotSet)>,
    /// Attempts at that.
    tries: u64,
    /// Movers by node, of that life.
    movers: BTreeMap<NodeId, Running>,
    /// Questions by request: who waits for it.
    questions: BTreeMap<u64, NodeId>,
}

struct Running {
    life: u64,
    from: GroupId,
    mover: Mover,
    waits_for: Option<u64>,
    parent: std::sync::Arc<shard::live::Shard<u64>>,
}

/// What goes from a mover to the leader of a shard.
#[derive(Clone, Debug)]
pub(super) struct Question {
    request: u64,
    group: GroupId,
    change: SlotChange,
}

impl World {
    /// Whose shard a list is asked of: mostly who has it, now and then who had it or will have it.
    pub(super) fn group_of(&mut self, list: u64) -> GroupId {
        if self.moving.born.is_none() {
            return self.home_of(list);
        }
        if self.rng.chance(1, 10) {
            return if self.rng.chance(1, 2) { DATA } else { self.child() };
        }
        self.home_of(list)
    }

    pub(super) fn home_of(&self, list: u64) -> GroupId {
        self.group_of_slot(key_slot(key(list).as_bytes()))
    }

    /// Who has a slot, as the map says.
    pub(super) fn group_of_slot(&self, slot: u16) -> GroupId {
        let shards = self.founded() - 1;
        let first = || GroupId((usize::from(slot) * shards / usize::from(base::SLOT_COUNT)) as u32 + 1);
        self.moving.homes.get(&slot).copied().unwrap_or_else(first)
    }

    /// The groups that each node begins with.
    pub(super) fn founded(&self) -> usize {
        GROUPS + usize::from(self.options.commits)
    }

    /// The shard that is made.
    pub(super) fn child(&self) -> GroupId {
        GroupId(self.founded() as u32)
    }

    /// Every group that there is.
    pub(super) fn groups(&self) -> Vec<GroupId> {
        (0..self.founded() as u32).map(GroupId).chain(self.moving.born.iter().map(|_| self.child())).collect()
    }

    /// Begins a move if none is under way.
    pub(super) fn begin_move(&mut self) {
        if self.quiet || self.moving.under_way.is_some() {
            return;
        }
        if self.moving.born.is_none() {
            let Some(members) = self.memberships.get(&DATA).filter(|members| !members.is_joint()).cloned() else {
                return;
            };
            self.moving.born = Some(members.voters);
            self.report.splits += 1;
            for id in self.ids() {
                let soon = self.draw((MILLI, 400 * MILLI));
                self.at(self.now + soon, Event::Learn(id));
            }
        }
        let child = self.child();
        let has_some = self.moving.homes.values().any(|home| *home == child);
        let from = if has_some && self.rng.chance(1, 2) { child } else { DATA };
        let to = if from == DATA { child } else { DATA };
        let keys = if self.options.commits { commits::keys() } else { (0..LISTS).map(key).collect() };
        let mut slots: Vec<u16> = keys.iter().map(|key| key_slot(key.as_bytes())).collect();
        slots.retain(|slot| self.group_of_slot(*slot) == from);
        slots.retain(|_| self.rng.chance(2, 3));
        if slots.is_empty() {
            return;
        }
        let slots = SlotSet::of(slots.into_iter().map(|slot| (slot, slot)));
        self.tell(|| format!("slots {slots} are to go from {from} to {to}"));
        self.moving.under_way = Some((from, to, slots));
        self.moving.tries = 0;
    }

    /// A node hears of the new shard.
    pub(super) fn learn(&mut self, id: NodeId) -> Result<(), String> {
        let Some(founders) = self.moving.born.clone() else { return Ok(()) };
        let child = self.child();
        let Some(node) = self.machine(id).node.as_mut() else { return Ok(()) };
        if !node.add_group(child, &founders)? {
            // Its disk took it not, or the power went.
            self.at(self.now + 100 * MILLI, Event::Learn(id));
        }
        if self.machines[&id].disk.is_crashed() {
            self.stop(id, false);
            return Ok(());
        }
        self.after(id)
    }

    /// Looks which nodes have movers to run.
    pub(super) fn look_after_moves(&mut self) -> Result<(), String> {
        self.at(self.now + 10 * MILLI, Event::Moves);
        if !self.quiet && self.rng.chance(1, 60) {
            self.begin_move();
        }
        for id in self.ids() {
            self.run_mover(id)?;
        }
        Ok(())
    }

    /// Whether a node believes that it leads the group.
    pub(super) fn believes(&self, id: NodeId, group: GroupId) -> bool {
        let machine = &self.machines[&id];
        machine.runs()
            && machine.node.as_ref().is_some_and(|node| {
                node.shards.get(group.0 as usize).is_some_and(|shard| shard.current_refusal().is_none())
            })
    }

    pub(super) fn run_mover(&mut self, id: NodeId) -> Result<(), String> {
        let life = self.machines[&id].life;
        if self.machines[&id].paused {
            return Ok(());
        }
        let from = self.moving.movers.get(&id).map(|own| own.from);
        let goes_on = from.is_some_and(|from| self.believes(id, from));
        if !goes_on || self.moving.movers[&id].life != life {
            if let Some(mut old) = self.moving.movers.remove(&id) {
                old.mover.stop(&old.parent);
            }
            let Some((from, to, slots)) = self.moving.under_way.clone() else { return Ok(()) };
            if !self.believes(id, from) {
                return Ok(());
            }
            let shards = &self.machines[&id].node.as_ref().expect("it runs").shards;
            if shards.len() <= self.child().0 as usize {
                return Ok(());
            }
            let parent = shards[from.0 as usize].clone();
            let mut mover = Mover::new(from, to, slots);
            mover.planted = self.options.bugs.mover;
            self.moving.movers.insert(id, Running { life, from, mover, waits_for: None, parent });
        }
        let Some(own) = self.moving.movers.get_mut(&id).filter(|own| own.waits_for.is_none()) else { return Ok(()) };
        let (from, to) = (own.from, own.mover.to());
        let ask = own.mover.next(&own.parent);
        let request = self.next_request;
        self.next_request += 1;
        let patience = self.draw(MOVER_PATIENCE);
        let (group, change) = match ask {
            Ask::Pause(_) => return Ok(()),
            Ask::Meta(_) => {
                self.moved(id);
                return Ok(());
            }
            Ask::Parent(change) => (from, change),
            Ask::Child(change) => (to, change),
        };
        if let Some(own) = self.moving.movers.get_mut(&id) {
            own.waits_for = Some(request);
        }
        self.tell(|| format!("{id} moves: {} to {group}, question {request}", change.word()));
        self.moving.questions.insert(request, id);
        self.at(self.now + patience, Event::MoverGivesUp(id, request));
        let question = Question { request, group, change };
        let shards = &self.machines[&id].node.as_ref().expect("it runs").shards;
        let leader = shards[group.0 as usize].leader();
        let to = match leader {
            _ if group == from => id,
            // Who is not a member may know of nobody, or of who led once: then others are asked, as the host does.
            Some(leader) if self.rng.chance(2, 3) => leader,
            _ => self.any(),
        };
        if to == id {
            return self.ask_slots(id, question);
        }
        let packet = Packet::Slots(Box::new(question));
        if self.rng.chance(1, 10) {
            // Some word of it comes much later, when others may have been said by others.
            self.report.stale_asks += 1;
            let late = self.now + self.draw((100 * MILLI, 4_000 * MILLI));
            self.at(late, Event::Packet { from: id, to, packet: packet.clone() });
        }
        self.send(id, to, packet);
        Ok(())
    }

    /// A question has come to a node.
    pub(super) fn ask_slots(&mut self, id: NodeId, question: Question) -> Result<(), String> {
        let Question { request, group, change } = question;
        let Some(node) = self.machine(id).node.as_mut() else { return Ok(()) };
        let taken = node.shards.get(group.0 as usize).is_some_and(|shard| {
            shard.refusal(true).is_none() && shard.submit(|batch| batch.slots(Some(request), &change)).is_ok()
        });
        if taken {
            node.wake();
            return self.after(id);
        }
        // It says so at once, as the host does.
        let soon = self.now + self.draw(self.usual.delay);
        if let Some(asker) = self.moving.questions.get(&request) {
            self.at(soon, Event::MoverGivesUp(*asker, request));
        }
        Ok(())
    }

    /// Whether that was an answer to a mover.
    pub(super) fn mover_answered(&mut self, request: u64, bytes: Option<&[u8]>) -> bool {
        let Some(id) = self.moving.questions.remove(&request) else { return false };
        // Answers get lost too.
        if self.rng.chance(1, 30) {
            return true;
        }
        let told = match bytes.map(SlotAnswer::decode) {
            Some(Ok(answer)) if !bytes.is_some_and(|bytes| bytes.starts_with(b"-")) => Told::Slots(answer),
            _ => Told::Unknown,
        };
        self.tell_mover(id, request, told);
        true
    }

    pub(super) fn moving_given_up(&mut self, request: u64) {
        self.moving.questions.remove(&request);
    }

    pub(super) fn tell_mover(&mut self, id: NodeId, request: u64, told: Told) {
        self.tell(|| format!("{id} is told of question {request}: {told:?}"));
        if let Some(own) = self.moving.movers.get_mut(&id).filter(|own| own.waits_for == Some(request)) {
            own.waits_for = None;
            own.mover.told(&own.parent, told);
            if let Told::Slots(SlotAnswer::Begun { frozen, .. }) = told {
                self.moving.tries += 1;
                self.report.attempts += 1;
                self.report.broken_moves += u64::from(self.moving.tries > 1);
                self.report.thaws += u64::from(frozen);
            }
        }
    }

    /// The map changes.
    fn moved(&mut self, id: NodeId) {
        let Some(mut own) = self.moving.movers.remove(&id) else { return };
        own.mover.told(&own.parent, Told::Done);
        own.mover.stop(&own.parent);
        let (from, to) = (own.from, own.mover.to());
        let Some((_, _, slots)) =
            self.moving.under_way.clone().filter(|(own_from, own_to, _)| (*own_from, *own_to) == (from, to))
        else {
            return;
        };
        for slot in (0..base::SLOT_COUNT).filter(|slot| slots.has(*slot)) {
            if self.group_of_slot(slot) == from {
                self.moving.homes.insert(slot, to);
            }
        }
        self.tell(|| format!("slots {slots} have gone from {from} to {to}, as {id} says"));
        self.moving.under_way = None;
        self.report.moves += 1;
    }

    /// At the end: every slot is of one shard alone, and each list lies where its slot is, and nowhere else.
    pub(super) fn last_places(&self) -> Result<(), String> {
        if self.moving.born.is_none() {
            return Ok(());
        }
        let state = |group: GroupId| {
            let leader = self.leader(group).ok_or("nobody leads")?;
            Ok::<_, String>(self.machines[&leader].node.as_ref().expect("it runs").shards[group.0 as usize].state())
        };
        let mut all = SlotSet::default();
        let mut states = Vec::new();
        for group in self.groups().into_iter().skip(1) {
            let state = state(group)?;
            if all.meets(state.slots().own()) {
                return Err("slots are of two shards".into());
            }
            all.add(state.slots().own());
            states.push((group, state));
        }
        if all != SlotSet::all() {
            return Err(format!("of all slots only {all} are anybody's"));
        }
        let mut names: Vec<String> = (0..LISTS).flat_map(|list| [key(list), mark(list)]).collect();
        if self.options.commits {
            names.extend(commits::keys());
        }
        for name in names {
            {
                for (group, state) in &states {
                    let owns = state.slots().own().has(key_slot(name.as_bytes()));
                    let is_there =
                        state.tables(store::keyspace::Durability::Fsync).entry_of(0, name.as_bytes()).is_some();
                    if owns != (self.group_of_key(name.as_bytes()) == *group) || is_there && !owns {
                        return Err(format!("{name}: {group} owns its slot: {owns}, holds it: {is_there}"));
                    }
                }
            }
        }
        Ok(())
    }

    /// At the end: what was set and removed together with the last append of each list is there, or not.
    pub(super) fn last_marks(&self, list: u64, values: &[u64]) -> Result<(), String> {
        let group = self.home_of(list);
        let leader = self.leader(group).ok_or("nobody leads")?;
        let shard = &self.machines[&leader].node.as_ref().expect("it runs").shards[group.0 as usize];
        let state = shard.state();
        let mark = mark(list);
        let found = state.tables(store::keyspace::Durability::Fsync).entry_of(0, mark.as_bytes());
        let text = |value| match value {
            store::value::View::Str(text) => text.to_vec(),
            _ => Vec::new(),
        };
        let found = found.map(|entry| text(entry.value()));
        let last = values.last().copied().unwrap_or(0);
        let wanted = (last % 2 == 1).then(|| last.to_string().into_bytes());
        match found == wanted {
            true => Ok(()),
            false => Err(format!("list {list} ends with {last}, and beside it stands {found:?}, not {wanted:?}")),
        }
    }
}

/// What is set with every odd value that is appended, and removed with every even one.
pub(super) fn mark(list: u64) -> String {
    format!("{{{}}}mark", key(list))
}

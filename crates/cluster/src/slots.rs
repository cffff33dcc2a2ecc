//! Which shard has which slots, and slots on their way from one to another.
//!
//! The map says where to ask; what a shard serves stands in its own log (`shard::slots`), so a map that is behind costs a
//! second question and never a wrong answer.

use std::collections::BTreeMap;

use base::{GroupId, Millis, NodeId, SLOT_COUNT, SlotSet};

use crate::model::{Assignment, Cluster};

/// Shards that a cluster may have, the meta group not counted.
pub const SHARDS_MAX: usize = 1024;

/// Slots on their way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// The shard that takes them.
    pub to: GroupId,
    /// Which.
    pub slots: SlotSet,
    /// Shard time of the meta group when it was asked for.
    pub since: Millis,
    /// Whether that shard was made for them.
    pub is_split: bool,
}

/// The slots of each shard. Each slot has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotMap {
    pub(crate) shards: BTreeMap<GroupId, SlotSet>,
}

impl Cluster {
    /// Shards that were not founded with the cluster, and who made up each at its birth.
    pub fn born(&self) -> &BTreeMap<GroupId, Vec<NodeId>> {
        &self.born
    }

    /// How many data shards it was founded with.
    pub fn founded_shards(&self) -> usize {
        self.groups.keys().filter(|group| **group != GroupId::META && !self.born.contains_key(group)).count()
    }

    /// Slots on their way, by the shard that they leave.
    pub fn moves(&self) -> &BTreeMap<GroupId, Move> {
        &self.moves
    }

    /// The slots that a shard has.
    pub fn slots_of(&self, group: GroupId) -> SlotSet {
        match &self.map {
            Some(map) => map.shards.get(&group).cloned().unwrap_or_default(),
            None if group == GroupId::META => SlotSet::default(),
            None => SlotSet::share(group.0 as usize - 1, self.founded_shards()),
        }
    }

    /// The shard of each slot; none where there is no cluster yet.
    pub fn route(&self) -> Vec<GroupId> {
        let mut route = vec![GroupId::META; usize::from(SLOT_COUNT)];
        for group in self.groups.keys().filter(|group| **group != GroupId::META) {
            self.slots_of(*group).iter().for_each(|slot| route[usize::from(slot)] = *group);
        }
        route
    }

    pub(crate) fn split(
        &mut self,
        from: GroupId,
        slots: &SlotSet,
        founders: &[NodeId],
        now: Millis,
    ) -> Result<GroupId, String> {
        if let Some(own) = self.moves.get(&from).filter(|own| own.is_split && own.slots == *slots) {
            return Ok(own.to);
        }
        self.check_move(from, slots)?;
        if *slots == self.slots_of(from) {
            return Err(format!("nothing would be left of shard {}: name some of its slots", from.0));
        }
        if founders.is_empty() || founders.iter().any(|node| !self.nodes.contains_key(node)) {
            return Err("a shard is made up of nodes of the cluster".into());
        }
        let newest = self.groups.keys().next_back().copied().unwrap_or(GroupId::META);
        if newest.0 as usize >= SHARDS_MAX {
            return Err(format!("the cluster has as many shards as it can ({SHARDS_MAX})"));
        }
        let to = GroupId(newest.0 + 1);
        let mut founders = founders.to_vec();
        founders.sort_unstable();
        founders.dedup();
        let own = self.groups.get(&from).cloned().unwrap_or_default();
        let leader = own.leader.filter(|leader| founders.contains(leader));
        self.fix_map();
        self.groups.insert(to, Assignment { voters: founders.clone(), learners: Vec::new(), leader, by_hand: false });
        self.born.insert(to, founders);
        self.moves.insert(from, Move { to, slots: slots.clone(), since: now, is_split: true });
        Ok(to)
    }

    pub(crate) fn begin_move(
        &mut self,
        from: GroupId,
        to: GroupId,
        slots: &SlotSet,
        now: Millis,
    ) -> Result<(), String> {
        if self.moves.get(&from).is_some_and(|own| own.to == to && own.slots == *slots) {
            return Ok(());
        }
        self.check_move(from, slots)?;
        if to == from || to == GroupId::META || !self.groups.contains_key(&to) {
            return Err(format!("there is no other shard {}", to.0));
        }
        if let Some(word) = self.busy(to) {
            return Err(word);
        }
        self.moves.insert(from, Move { to, slots: slots.clone(), since: now, is_split: false });
        Ok(())
    }

    pub(crate) fn end_move(&mut self, from: GroupId, to: GroupId, slots: &SlotSet) {
        if self.moves.get(&from).is_none_or(|own| own.to != to || own.slots != *slots) {
            return;
        }
        self.moves.remove(&from);
        self.fix_map();
        let map = self.map.get_or_insert_default();
        map.shards.entry(from).or_default().take_away(slots);
        map.shards.entry(to).or_default().add(slots);
    }

    /// Writes the map down as it is, before anything changes that it would be reckoned from.
    fn fix_map(&mut self) {
        if self.map.is_none() {
            let shards = self.groups.keys().filter(|group| **group != GroupId::META);
            let shards = shards.map(|group| (*group, self.slots_of(*group)));
            self.map = Some(SlotMap { shards: shards.collect() });
        }
    }

    fn busy(&self, group: GroupId) -> Option<String> {
        let under_way = self.moves.iter().find(|(from, own)| **from == group || own.to == group);
        under_way.map(|(from, own)| {
            format!(
                "slots are on their way from shard {} to shard {}: a shard takes part in one move at a time",
                from.0, own.to.0
            )
        })
    }

    fn check_move(&self, from: GroupId, slots: &SlotSet) -> Result<(), String> {
        if from == GroupId::META || !self.groups.contains_key(&from) {
            return Err(format!("there is no shard {}", from.0));
        }
        if let Some(word) = self.busy(from) {
            return Err(word);
        }
        let own = self.slots_of(from);
        if slots.is_empty() || !own.holds(slots) {
            return Err(format!("shard {} has the slots {own}, and no others can leave it", from.0));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Outcome};
    use crate::model::{Authority, Place, Roles};
    use base::ClusterId;

    fn founded(shards: u32) -> Cluster {
        let mut cluster = Cluster::default();
        let place = Place {
            peer: "a:1".into(),
            redis: String::new(),
            redis_cluster: String::new(),
            admin: String::new(),
            kafka: String::new(),
            etcd: String::new(),
            zone: String::new(),
            roles: Roles::ALL,
        };
        let authority = Authority { certificate: vec![1], token: [0; 32] };
        let groups = (0..=shards).map(GroupId).collect();
        let change = Change::Found { id: ClusterId([1; 16]), authority, node: NodeId(1), key: [0; 32], place, groups };
        assert_eq!(cluster.apply(&change, 1, 1), Outcome::Done);
        cluster
    }

    #[test]
    fn a_split_makes_a_shard_and_the_map_follows_once_the_slots_have_arrived() {
        let mut cluster = founded(2);
        let before = cluster.route();
        let slots = SlotSet::of([(0, 99)]);
        let split = Change::Split { from: GroupId(1), slots: slots.clone(), founders: vec![NodeId(1)] };
        assert_eq!(cluster.apply(&split, 2, 5), Outcome::Made(GroupId(3)));
        // Asked again, because nobody heard the answer.
        assert_eq!(cluster.apply(&split, 3, 5), Outcome::Made(GroupId(3)));
        assert_eq!((cluster.route(), cluster.founded_shards()), (before.clone(), 2));
        assert_eq!(cluster.born().get(&GroupId(3)), Some(&vec![NodeId(1)]));
        let other = Change::MoveSlots { from: GroupId(2), to: GroupId(3), slots: SlotSet::of([(16383, 16383)]) };
        assert!(matches!(cluster.apply(&other, 4, 5), Outcome::Refused(why) if why.contains("one move at a time")));
        let moved = Change::Moved { from: GroupId(1), to: GroupId(3), slots: slots.clone() };
        assert_eq!(cluster.apply(&moved, 5, 5), Outcome::Done);
        let after = cluster.route();
        assert!(after[..100].iter().all(|group| *group == GroupId(3)));
        assert_eq!(after[100..], before[100..]);
        assert!(cluster.moves().is_empty());
        // A late word changes nothing.
        assert_eq!(cluster.apply(&other, 6, 5), Outcome::Done);
        assert_eq!(cluster.apply(&moved, 7, 5), Outcome::Done);
        assert_eq!(cluster.route(), after);
        let back = Change::Moved { from: GroupId(2), to: GroupId(3), slots: SlotSet::of([(16383, 16383)]) };
        cluster.apply(&back, 8, 5);
        assert_eq!(cluster.slots_of(GroupId(3)).to_string(), "0-99,16383");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let mut cluster = founded(1);
        let all = SlotSet::all();
        let split =
            |slots: &SlotSet| Change::Split { from: GroupId(1), slots: slots.clone(), founders: vec![NodeId(1)] };
        let to = |from, to| Change::MoveSlots { from: GroupId(from), to: GroupId(to), slots: SlotSet::of([(1, 1)]) };
        for change in [split(&all), split(&SlotSet::default()), to(1, 1), to(1, 0), to(1, 9), to(0, 1), to(9, 1)] {
            assert!(matches!(cluster.apply(&change, 2, 2), Outcome::Refused(_)), "{change:?}");
        }
        assert!(cluster.map.is_none());
    }
}

//! When a shard is split without being asked: there are fewer than are wanted, or one has too much to do.
//!
//! Asked now and then by the leader of the meta group. **One split at a time**, a busy shard only where there is another node to take
//! something of it (all shards of a node share one thread of entries and one flush, so on a lone node a split would only cost), and only
//! where it would help: what a few keys carry cannot be divided.

use std::collections::BTreeMap;

use base::{Duration, GroupId, Instant, SlotSet};

use crate::model::{Cluster, NodeState};

/// Parts of the slots in which a shard counts what it has to do.
pub const HEAT_PARTS: usize = 64;
/// Slots of each.
pub const PART_SLOTS: u16 = base::SLOT_COUNT / HEAT_PARTS as u16;
/// A shard is busy once it has been for so long.
const HOT_FOR: Duration = Duration::from_secs(60);

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Shards that there should be at least.
    pub wanted: usize,
    /// Commands a second above which a shard is busy; 0: none ever is.
    pub hot: u64,
    /// Shards that splits of busy ones may come to.
    pub most: usize,
}

/// What a shard has to do, as its leader reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heat {
    /// Commands a second.
    pub load: u64,
    /// How they fall on the parts of the slots, in any unit.
    pub parts: Vec<u64>,
}

/// A split that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Whose slots.
    pub from: GroupId,
    /// Which a new shard takes.
    pub slots: SlotSet,
    /// For people.
    pub why: String,
}

/// Since when shards have been busy.
#[derive(Debug, Default)]
pub struct Growing {
    since: BTreeMap<GroupId, Instant>,
}

impl Growing {
    /// The split that is due now, if one is.
    pub fn look(
        &mut self,
        cluster: &Cluster,
        heats: &BTreeMap<GroupId, Heat>,
        growth: &Growth,
        now: Instant,
    ) -> Option<Split> {
        let is_hot = |group: &GroupId| growth.hot > 0 && heats.get(group).is_some_and(|heat| heat.load >= growth.hot);
        self.since.retain(|group, _| is_hot(group));
        for group in heats.keys().filter(|group| is_hot(group)) {
            self.since.entry(*group).or_insert(now);
        }
        if !cluster.moves().is_empty() {
            return None;
        }
        let own: BTreeMap<GroupId, SlotSet> =
            cluster.groups().keys().map(|group| (*group, cluster.slots_of(*group))).collect();
        let in_use = own.values().filter(|slots| !slots.is_empty()).count();
        if in_use < growth.wanted {
            let (from, slots) = own.iter().max_by_key(|(group, slots)| (slots.len(), std::cmp::Reverse(**group)))?;
            let slots = upper_half(slots, |_| 1)?;
            return Some(Split {
                from: *from,
                slots,
                why: format!("{} shards are wanted, {in_use} are there", growth.wanted),
            });
        }
        let takers = cluster.nodes().values().filter(|node| node.state == NodeState::Active && node.place.roles.data);
        if in_use >= growth.most || takers.count() < 2 {
            return None;
        }
        let long = self.since.iter().filter(|(_, since)| now.since(**since) >= HOT_FOR);
        let mut busy: Vec<GroupId> = long.map(|(group, _)| *group).collect();
        busy.sort_by_key(|group| std::cmp::Reverse(heats[group].load));
        for from in busy {
            let (Some(heat), Some(slots)) = (heats.get(&from), own.get(&from)) else { continue };
            if let Some(slots) = divide(slots, heat) {
                self.since.remove(&from);
                return Some(Split { from, slots, why: format!("it has {} commands a second to do", heat.load) });
            }
        }
        None
    }
}

/// The upper slots, with half of the weight.
fn upper_half(slots: &SlotSet, weigh: impl Fn(u16) -> u64) -> Option<SlotSet> {
    let total: u64 = slots.iter().map(&weigh).sum();
    let mut below = 0;
    let upper = slots.iter().filter(|slot| {
        let is_below = below * 2 < total;
        below += weigh(*slot);
        !is_below
    });
    let upper = SlotSet::of(upper.map(|slot| (slot, slot)));
    (!upper.is_empty() && upper.len() < slots.len()).then_some(upper)
}

/// Half of what a busy shard has to do; nothing where one part of the slots carries the most of it.
fn divide(slots: &SlotSet, heat: &Heat) -> Option<SlotSet> {
    let part = |slot: u16| usize::from(slot / PART_SLOTS);
    let mut owned = [0u64; HEAT_PARTS];
    slots.iter().for_each(|slot| owned[part(slot)] += 1);
    let parts: Vec<u64> =
        (0..HEAT_PARTS).map(|at| if owned[at] > 0 { heat.parts.get(at).copied().unwrap_or(0) } else { 0 }).collect();
    let total: u64 = parts.iter().sum();
    if total == 0 || parts.iter().any(|part| part * 4 > total * 3) {
        return None;
    }
    // Within a part all slots are taken to be alike.
    upper_half(slots, |slot| parts[part(slot)] * 1024 / owned[part(slot)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Outcome};
    use crate::model::{Authority, Place, Roles};
    use base::{ClusterId, NodeId};

    const GROWTH: Growth = Growth { wanted: 1, hot: 1000, most: 4 };

    fn cluster(nodes: u64) -> Cluster {
        let mut cluster = Cluster::default();
        let place = |node: u64| Place {
            peer: format!("a:{node}"),
            redis: String::new(),
            redis_cluster: String::new(),
            admin: String::new(),
            kafka: String::new(),
            etcd: String::new(),
            zone: String::new(),
            roles: Roles::ALL,
        };
        let authority = Authority { certificate: vec![1], token: [0; 32] };
        let groups = (0..=1).map(GroupId).collect();
        let (node, place_of) = (NodeId(1), place(1));
        let found = Change::Found { id: ClusterId([1; 16]), authority, node, key: [0; 32], place: place_of, groups };
        assert_eq!(cluster.apply(&found, 1, 1), Outcome::Done);
        for node in 2..=nodes {
            let join = Change::Join { key: [node as u8; 32], place: place(node) };
            assert_eq!(cluster.apply(&join, node, 1), Outcome::Joined(NodeId(node)));
        }
        cluster
    }

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000_000)
    }

    fn heats(group: u32, load: u64, part: impl Fn(usize) -> u64) -> BTreeMap<GroupId, Heat> {
        BTreeMap::from([(GroupId(group), Heat { load, parts: (0..HEAT_PARTS).map(part).collect() })])
    }

    /// The split is made, and its slots arrive.
    fn done(cluster: &mut Cluster, split: &Split) -> GroupId {
        let Split { from, slots, .. } = split.clone();
        let made = cluster.apply(&Change::Split { from, slots: slots.clone(), founders: vec![NodeId(1)] }, 50, 1);
        let Outcome::Made(to) = made else { panic!("{made:?}") };
        assert_eq!(cluster.apply(&Change::Moved { from, to, slots }, 51, 1), Outcome::Done);
        to
    }

    #[test]
    fn as_many_shards_come_to_be_as_are_wanted_one_after_the_other() {
        let mut own = cluster(1);
        let growth = Growth { wanted: 5, ..GROWTH };
        let mut growing = Growing::default();
        for shards in 2..=5 {
            let split = growing.look(&own, &BTreeMap::new(), &growth, at(1)).expect("there are too few");
            let Split { from, slots, .. } = split.clone();
            let change = Change::Split { from, slots, founders: vec![NodeId(1)] };
            let mut under_way = own.clone();
            assert!(matches!(under_way.apply(&change, 9, 1), Outcome::Made(_)));
            assert_eq!(growing.look(&under_way, &BTreeMap::new(), &growth, at(1)), None, "one at a time");
            assert_eq!(done(&mut own, &split), GroupId(shards));
        }
        assert_eq!(growing.look(&own, &BTreeMap::new(), &growth, at(1)), None);
        let sizes: Vec<usize> = (1..=5).map(|group| own.slots_of(GroupId(group)).len()).collect();
        assert_eq!((sizes.iter().sum::<usize>(), sizes.iter().min()), (16384, Some(&2048)), "{sizes:?}");
    }

    #[test]
    fn a_shard_that_stays_busy_is_split_where_its_load_halves() {
        let own = cluster(3);
        // Three quarters of the work lie in the first quarter of the slots.
        let heat = heats(1, 5000, |part| if part < 16 { 9 } else { 1 });
        let mut growing = Growing::default();
        assert_eq!(growing.look(&own, &heat, &GROWTH, at(0)), None);
        assert_eq!(growing.look(&own, &heats(1, 10, |_| 1), &GROWTH, at(40)), None);
        assert_eq!(growing.look(&own, &heat, &GROWTH, at(50)), None, "it was not busy in between");
        let split = growing.look(&own, &heat, &GROWTH, at(111)).expect("it is busy");
        let first = split.slots.iter().next().expect("it takes some");
        assert!((2600..2900).contains(&first) && split.slots.len() == 16384 - usize::from(first), "{}", split.slots);
        assert_eq!(growing.look(&own, &heat, &GROWTH, at(112)), None, "it begins anew");
    }

    #[test]
    fn what_would_not_help_or_is_not_wanted_is_not_done() {
        let mut growing = Growing::default();
        let mut look = |own: &Cluster, heat: &BTreeMap<GroupId, Heat>, growth: &Growth| {
            growing.look(own, heat, growth, at(0)).or_else(|| growing.look(own, heat, growth, at(100)))
        };
        let even = heats(1, 5000, |_| 1);
        assert_eq!(look(&cluster(1), &even, &GROWTH), None, "nobody to take it");
        assert_eq!(look(&cluster(3), &even, &Growth { hot: 0, ..GROWTH }), None, "switched off");
        assert_eq!(look(&cluster(3), &even, &Growth { most: 1, ..GROWTH }), None, "no more are allowed");
        let one_key = heats(1, 5000, |part| u64::from(part == 7) * 1000 + 1);
        assert_eq!(look(&cluster(3), &one_key, &GROWTH), None, "one part carries it");
        assert!(look(&cluster(3), &even, &GROWTH).is_some());
    }
}

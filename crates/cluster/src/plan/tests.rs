//! A world of nodes that come, die, rest and leave, in which plans are carried out step by step by the groups' leaders.

use super::*;
use crate::change::Outcome;
use crate::model::{Authority, Place, Roles};
use crate::reconcile::{self, Step};
use base::{ClusterId, Rng};

const GROUPS: u32 = 9;

struct World {
    cluster: Cluster,
    seen: BTreeMap<GroupId, Seen>,
    leaders: BTreeMap<GroupId, NodeId>,
    dead: BTreeSet<NodeId>,
    index: u64,
    changes: usize,
}

fn place(name: u64, zone: &str) -> Place {
    let door = |port: u16| format!("10.0.0.{name}:{port}");
    let (peer, redis, admin, zone) = (door(7400), door(6379), door(7070), zone.to_owned());
    Place {
        peer,
        redis,
        redis_cluster: String::new(),
        admin,
        kafka: String::new(),
        etcd: String::new(),
        zone,
        roles: Roles::ALL,
    }
}

impl World {
    fn new(zone: &str) -> World {
        let authority = Authority { certificate: Vec::new(), token: [0; 32] };
        let groups: Vec<GroupId> = (0..GROUPS).map(GroupId).collect();
        let mut world = World {
            cluster: Cluster::default(),
            seen: groups.iter().map(|group| (*group, Seen { voters: vec![NodeId(1)], ..Seen::default() })).collect(),
            leaders: groups.iter().map(|group| (*group, NodeId(1))).collect(),
            dead: BTreeSet::new(),
            index: 0,
            changes: 0,
        };
        let place = place(1, zone);
        world.apply(&Change::Found { id: ClusterId([1; 16]), authority, node: NodeId(1), key: [1; 32], place, groups });
        world
    }

    fn apply(&mut self, change: &Change) -> Outcome {
        self.index += 1;
        let outcome = self.cluster.apply(change, self.index, 0);
        assert!(!matches!(outcome, Outcome::Refused(_)), "{change:?}: {outcome:?}");
        outcome
    }

    fn join(&mut self, zone: &str) -> NodeId {
        let name = self.cluster.next;
        match self.apply(&Change::Join { key: [name as u8; 32], place: place(name, zone) }) {
            Outcome::Joined(id) => id,
            other => panic!("{other:?}"),
        }
    }

    fn sight(&self, silent: Duration) -> Sight {
        Sight {
            silent: self.dead.iter().map(|id| (*id, silent)).collect(),
            groups: self.seen.iter().filter(|(group, _)| self.serves(**group)).map(|(g, s)| (*g, s.clone())).collect(),
            slow: BTreeSet::new(),
            replace_after: Duration::from_secs(300),
        }
    }

    fn serves(&self, group: GroupId) -> bool {
        let voters = &self.seen[&group].voters;
        voters.iter().filter(|id| !self.dead.contains(id)).count() * 2 > voters.len()
    }

    /// Plans, and lets every group take one step. Whether anything was done.
    fn turn(&mut self, silent: Duration) -> bool {
        let changes = plan(&self.cluster, &self.sight(silent));
        for change in &changes {
            self.changes += 1;
            self.apply(change);
        }
        let mut did = !changes.is_empty();
        for group in (0..GROUPS).map(GroupId) {
            did |= self.serves(group) && self.step(group);
        }
        did
    }

    fn step(&mut self, group: GroupId) -> bool {
        let seen = &self.seen[&group];
        let alive: BTreeSet<NodeId> = self.cluster.nodes.keys().copied().filter(|id| !self.dead.contains(id)).collect();
        let leader = Some(self.leaders[&group]).filter(|id| alive.contains(id) && seen.voters.contains(id));
        let own =
            leader.unwrap_or_else(|| seen.voters.iter().copied().find(|id| alive.contains(id)).expect("it serves"));
        self.leaders.insert(group, own);
        let matched = alive.iter().map(|id| (*id, 10)).collect();
        let view = reconcile::Group {
            own,
            voters: &seen.voters,
            learners: &seen.learners,
            is_joint: false,
            last: 10,
            matched: &matched,
            alive: &alive,
        };
        match reconcile::step(&self.cluster.groups[&group], &view) {
            None => false,
            Some(Step::Transfer(to)) => {
                assert!(seen.voters.contains(&to) && alive.contains(&to) && to != own);
                self.leaders.insert(group, to);
                true
            }
            Some(Step::Change { voters, learners, removed }) => {
                let seen = self.seen.get_mut(&group).expect("it was found");
                let old = seen.voters.clone();
                for id in voters.iter().chain(&learners).chain(&removed) {
                    seen.voters.retain(|other| other != id);
                    seen.learners.retain(|other| other != id);
                }
                seen.voters.extend(voters);
                seen.learners.extend(learners);
                seen.voters.sort_unstable();
                seen.learners.sort_unstable();
                assert!(seen.voters.contains(&own) || !old.contains(&own), "a leader does not throw itself out");
                let up = seen.voters.iter().filter(|id| alive.contains(id)).count();
                assert!(
                    up * 2 > seen.voters.len(),
                    "{group} has lost its majority by a step: {old:?} to {:?}",
                    seen.voters
                );
                true
            }
        }
    }

    fn settle(&mut self, silent: Duration) {
        let mut turns = 0;
        while self.turn(silent) {
            turns += 1;
            assert!(turns < 400, "it never comes to rest: {:#?}", self.cluster.groups);
        }
    }

    fn check(&self) {
        let nodes: Vec<&Node> = self.cluster.nodes.values().filter(|node| node.state != NodeState::Leaving).collect();
        let zones: BTreeSet<&str> =
            nodes.iter().map(|node| node.place.zone.as_str()).filter(|zone| !zone.is_empty()).collect();
        for (group, to) in &self.cluster.groups {
            assert!(self.seen[group].is_at(to), "{group}: {:?} is not at {to:?}", self.seen[group]);
            let wanted = self.cluster.voters_of(nodes.len());
            // Two that were left of more both decide.
            assert!(to.voters.len() == wanted || (nodes.len(), to.voters.len()) == (2, 2), "{group}: {to:?}");
            let own: BTreeSet<&str> = to.voters.iter().map(|id| self.cluster.nodes[id].place.zone.as_str()).collect();
            if zones.len() >= 3 && nodes.iter().all(|node| !node.place.zone.is_empty()) && self.dead.is_empty() {
                assert_eq!(own.len(), to.voters.len().min(zones.len()), "{group} shares a zone: {to:?}");
            }
            assert!(
                self.cluster.nodes[&to.leader.expect("somebody leads")].state != NodeState::Draining
                    || nodes.iter().all(|node| node.state == NodeState::Draining)
            );
        }
    }

    fn counts(&self, what: impl Fn(&Assignment, NodeId) -> bool) -> Vec<usize> {
        let nodes =
            self.cluster.nodes.values().filter(|node| node.state == NodeState::Active && !self.dead.contains(&node.id));
        nodes
            .map(|node| {
                self.cluster.groups.iter().filter(|(group, to)| **group != GroupId::META && what(to, node.id)).count()
            })
            .collect()
    }
}

#[test]
fn one_two_three_four_nodes() {
    let mut world = World::new("");
    world.settle(Duration::ZERO);
    world.check();
    world.join("");
    world.settle(Duration::ZERO);
    world.check();
    let to = &world.cluster.groups[&GroupId(1)];
    assert_eq!((to.voters.as_slice(), to.learners.as_slice()), ([NodeId(1)].as_slice(), [NodeId(2)].as_slice()));
    world.join("");
    world.settle(Duration::ZERO);
    world.check();
    let mut leads = world.counts(|to, id| to.leader == Some(id));
    leads.sort_unstable();
    assert_eq!(leads, [2, 3, 3], "leads are spread");
    world.join("");
    world.settle(Duration::ZERO);
    world.check();
    assert_eq!(world.counts(|to, id| to.voters.contains(&id)), [6, 6, 6, 6], "and so are replicas");
}

#[test]
fn the_lost_are_replaced_late_and_only_by_a_spare_one() {
    let mut world = World::new("");
    for _ in 0..3 {
        world.join("");
    }
    world.settle(Duration::ZERO);
    world.dead.insert(NodeId(2));
    let before: Vec<Vec<NodeId>> = world.cluster.groups.values().map(|to| to.voters.clone()).collect();
    world.settle(Duration::from_secs(10));
    let now: Vec<Vec<NodeId>> = world.cluster.groups.values().map(|to| to.voters.clone()).collect();
    assert_eq!(before, now, "a short silence moves no data");
    world.settle(Duration::from_secs(300));
    assert!(world.cluster.groups.values().all(|to| !to.voters.contains(&NodeId(2))), "{:?}", world.cluster.groups);
    world.dead.insert(NodeId(3));
    world.settle(Duration::from_secs(300));
    // Two are left of four: what had a majority on them goes on with it, nothing shrinks.
    assert!(world.cluster.groups.values().all(|to| to.voters.len() == 3));
}

#[test]
fn who_leaves_is_emptied_and_forgotten() {
    let mut world = World::new("a");
    for zone in ["b", "c", "a"] {
        world.join(zone);
    }
    world.settle(Duration::ZERO);
    world.check();
    world.apply(&Change::SetState { node: NodeId(1), state: NodeState::Leaving });
    world.settle(Duration::ZERO);
    world.check();
    assert!(!world.cluster.nodes.contains_key(&NodeId(1)) && world.cluster.was_removed(NodeId(1)));
}

#[test]
fn two_that_are_left_of_three_both_decide() {
    let mut world = World::new("");
    for _ in 0..2 {
        world.join("");
    }
    world.settle(Duration::ZERO);
    world.apply(&Change::SetState { node: NodeId(3), state: NodeState::Leaving });
    world.settle(Duration::ZERO);
    world.check();
    assert!(world.cluster.groups.values().all(|to| to.voters == [NodeId(1), NodeId(2)]), "{:?}", world.cluster.groups);
    world.join("");
    world.settle(Duration::ZERO);
    world.check();
    assert!(world.cluster.groups.values().all(|to| to.voters.len() == 3));
}

#[test]
fn a_busy_group_counts_for_several() {
    let mut world = World::new("");
    for _ in 0..2 {
        world.join("");
    }
    world.settle(Duration::ZERO);
    world.seen.get_mut(&GroupId(1)).expect("it is there").load = 1000;
    world.settle(Duration::ZERO);
    let hot = world.cluster.groups[&GroupId(1)].leader.expect("somebody leads");
    let beside = world.cluster.groups.values().filter(|to| to.leader == Some(hot)).count();
    assert!(beside <= 2, "who leads the busy group leads little else: {beside}");
}

#[test]
fn who_holds_a_busy_group_holds_fewer_others() {
    let mut world = World::new("");
    for _ in 0..3 {
        world.join("");
    }
    world.settle(Duration::ZERO);
    world.seen.get_mut(&GroupId(1)).expect("it is there").load = 1000;
    world.settle(Duration::ZERO);
    let hot = world.cluster.groups[&GroupId(1)].voters.clone();
    for node in (1..=4).map(NodeId) {
        let others = world.cluster.groups.iter().filter(|(group, _)| group.0 > 1);
        let held = others.filter(|(_, to)| to.voters.contains(&node)).count();
        assert!(if hot.contains(&node) { held <= 5 } else { held == 7 }, "{node} holds {held} others: {hot:?}");
    }
    world.seen.get_mut(&GroupId(1)).expect("it is there").load = 0;
    world.settle(Duration::ZERO);
    assert_eq!(world.counts(|to, id| to.voters.contains(&id)), [6, 6, 6, 6], "and all is even once it is busy no more");
}

#[test]
fn a_move_that_was_thought_out_before_another_does_nothing() {
    let mut world = World::new("");
    for _ in 0..4 {
        world.join("");
    }
    world.settle(Duration::ZERO);
    let was = world.cluster.groups[&GroupId(1)].clone();
    let outside: Vec<NodeId> = (1..=5).map(NodeId).filter(|id| !was.voters.contains(id)).collect();
    let moved = |from: usize, to: NodeId| {
        let mut voters = was.voters.clone();
        voters[from] = to;
        voters.sort_unstable();
        let to = Assignment { voters, leader: None, by_hand: true, ..was.clone() };
        Change::Assign { group: GroupId(1), was: Some(was.clone()), to }
    };
    let (first, second) = (moved(0, outside[0]), moved(1, outside[1]));
    assert_eq!(world.cluster.apply(&first, 1000, 0), Outcome::Done);
    let now = world.cluster.groups[&GroupId(1)].clone();
    assert_eq!(world.cluster.apply(&second, 1001, 0), Outcome::Outdated);
    assert_eq!(world.cluster.groups[&GroupId(1)], now, "the first one's move stands");
    assert_eq!(world.cluster.apply(&first, 1002, 0), Outcome::Done, "asked again, it is done");
    assert_eq!(world.cluster.index(), 1000);
}

#[test]
fn worlds_of_all_kinds_come_to_rest() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let zones = ["a", "b", "c", "d"];
        let named = rng.below(2) == 0;
        let zone = |rng: &mut Rng| if named { zones[rng.index(4)] } else { "" };
        let first = zone(&mut rng);
        let mut world = World::new(first);
        for _ in 0..rng.below(25) {
            let nodes: Vec<NodeId> = world.cluster.nodes.keys().copied().collect();
            let any = nodes[rng.index(nodes.len())];
            match rng.below(8) {
                0..=2 if nodes.len() < 9 => {
                    let zone = zone(&mut rng);
                    world.join(zone);
                }
                3 if world.dead.is_empty() => {
                    let serve = |world: &World| (0..GROUPS).all(|group| world.serves(GroupId(group)));
                    world.dead.insert(any);
                    if !serve(&world) {
                        world.dead.clear();
                    }
                }
                4 => world.dead.clear(),
                5 if nodes.len() > 3 && !world.dead.contains(&any) => {
                    let states = [NodeState::Draining, NodeState::Active, NodeState::Leaving];
                    let others =
                        world.cluster.nodes.values().filter(|node| node.id != any && node.state == NodeState::Active);
                    if others.count() >= 3 {
                        world.apply(&Change::SetState { node: any, state: states[rng.index(3)] });
                    }
                }
                6 => {
                    let silent = Duration::from_secs(rng.below(600));
                    world.turn(silent);
                }
                _ => {
                    let group = GroupId(rng.below(u64::from(GROUPS)) as u32);
                    world.seen.get_mut(&group).expect("it is there").load = rng.below(5000);
                }
            }
            let _ = world.turn(Duration::from_secs(1));
        }
        world.dead.clear();
        world.settle(Duration::ZERO);
        world.check();
        let all = world.cluster.nodes.values().all(|node| node.state == NodeState::Active);
        let busy = world.seen.values().any(|seen| seen.load > 0);
        let counts = world.counts(|to, id| to.voters.contains(&id));
        if !busy
            && !named
            && all
            && counts.len() > 2
            && let (Some(most), Some(least)) = (counts.iter().max(), counts.iter().min())
        {
            assert!(most - least <= 1, "seed {seed}: {counts:?}");
        }
    }
}

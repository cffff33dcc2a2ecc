//! Where replicas and leads belong: asked now and then by the leader of the meta group.
//!
//! A group votes on 1, 3 or 5 nodes, as many as there are for it; the second node of a cluster receives a copy without voting. While
//! there are enough zones no two voters share one. A node that has been silent for long is replaced where a spare one answers,
//! a node that leaves is emptied, and what is left is evened out: one move at a time, replicas before leads, weighed by
//! what groups have to do.

use std::collections::{BTreeMap, BTreeSet};

use base::{Duration, GroupId, NodeId};

use crate::change::Change;
use crate::model::{Assignment, Cluster, Node, NodeState};

/// Groups that may be on their way to other nodes at once: each costs a copy of its data.
const MOVES_AT_ONCE: usize = 2;
/// What a group weighs that has nothing to do. One that has as much to do as the others weighs twice as much.
const WEIGHT: u64 = 100;
/// Of so many groups one lead moves in one plan.
const LEADS_SHARE: usize = 32;
/// No group weighs more than so many idle ones, or it would never find a place.
const WEIGHT_MAX: u64 = 10 * WEIGHT;

/// A group as its leader reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Who votes now, in either half of a change that is under way.
    pub voters: Vec<NodeId>,
    /// Who receives the log without voting.
    pub learners: Vec<NodeId>,
    /// Whether a change of the voters is under way.
    pub is_joint: bool,
    /// What it has to do, in any unit that is the same for all groups, over a while.
    pub load: u64,
}

impl Seen {
    fn has(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }

    fn is_at(&self, to: &Assignment) -> bool {
        let same =
            |own: &[NodeId], other: &[NodeId]| own.len() == other.len() && own.iter().all(|id| other.contains(id));
        !self.is_joint && same(&self.voters, &to.voters) && same(&self.learners, &to.learners)
    }
}

/// What the meta leader sees at the moment.
#[derive(Clone, Debug, Default)]
pub struct Sight {
    /// How long nothing has been heard of a node; who is not in here answers.
    pub silent: BTreeMap<NodeId, Duration>,
    /// Nodes whose disks do not keep up: they should lead nothing.
    pub slow: BTreeSet<NodeId>,
    /// The groups that have a leader which reports.
    pub groups: BTreeMap<GroupId, Seen>,
    /// A node that has been silent for so long is replaced where a spare one exists.
    pub replace_after: Duration,
}

impl Sight {
    fn answers(&self, node: NodeId) -> bool {
        !self.silent.contains_key(&node)
    }

    fn is_lost(&self, node: NodeId) -> bool {
        self.silent.get(&node).is_some_and(|silent| *silent >= self.replace_after)
    }
}

/// The changes that are due now, as long as the cluster is at this index. None where everything stands where it belongs, or is on its way.
pub fn plan(cluster: &Cluster, sight: &Sight) -> Vec<Change> {
    let mut planner = Planner::new(cluster, sight);
    for group in cluster.groups.keys() {
        planner.place(*group);
    }
    planner.even_out();
    planner.lead();
    let mut changes = planner.changes();
    changes.extend(forgotten(cluster, sight));
    changes
}

/// Nodes that leave and hold nothing more.
fn forgotten<'a>(cluster: &'a Cluster, sight: &'a Sight) -> impl Iterator<Item = Change> + 'a {
    let leaving = cluster.nodes.values().filter(|node| node.state == NodeState::Leaving);
    leaving.filter_map(|node| {
        let free = cluster.groups.iter().all(|(group, to)| {
            let seen = sight.groups.get(group);
            !to.voters.contains(&node.id)
                && !to.learners.contains(&node.id)
                && seen.is_some_and(|seen| !seen.has(node.id))
        });
        free.then_some(Change::Forget { node: node.id })
    })
}

struct Planner<'a> {
    cluster: &'a Cluster,
    sight: &'a Sight,
    wanted: BTreeMap<GroupId, Assignment>,
    weights: BTreeMap<GroupId, u64>,
    /// Groups that are on their way somewhere, with those that this plan sends.
    moving: BTreeSet<GroupId>,
}

impl<'a> Planner<'a> {
    fn new(cluster: &'a Cluster, sight: &'a Sight) -> Planner<'a> {
        let total: u64 = sight.groups.values().map(|seen| seen.load).fold(0, u64::saturating_add);
        let average = total / (sight.groups.len().max(1) as u64);
        let weigh = |load: u64| (WEIGHT + WEIGHT.saturating_mul(load) / average.max(1)).min(WEIGHT_MAX);
        let weights = cluster
            .groups
            .keys()
            .map(|group| (*group, sight.groups.get(group).map_or(WEIGHT, |seen| weigh(seen.load))));
        let unsettled =
            cluster.groups.iter().filter(|(group, to)| sight.groups.get(group).is_none_or(|seen| !seen.is_at(to)));
        Planner {
            cluster,
            sight,
            wanted: cluster.groups.clone(),
            weights: weights.collect(),
            moving: unsettled.map(|(group, _)| *group).filter(|group| *group != GroupId::META).collect(),
        }
    }

    /// Nodes that may hold this group's replicas, whether they answer or not.
    fn pool(&self, group: GroupId) -> impl Iterator<Item = &'a Node> + use<'a> {
        self.cluster.nodes.values().filter(move |node| {
            let roles = node.place.roles;
            node.state != NodeState::Leaving && if group == GroupId::META { roles.meta } else { roles.data }
        })
    }

    fn zone(&self, node: NodeId) -> &'a str {
        self.cluster.nodes.get(&node).map_or("", |node| node.place.zone.as_str())
    }

    /// How many of these share their zone with an earlier one.
    fn shared_zones(&self, nodes: &[NodeId]) -> usize {
        let zones: Vec<&str> = nodes.iter().map(|id| self.zone(*id)).filter(|zone| !zone.is_empty()).collect();
        zones.len() - zones.iter().collect::<BTreeSet<_>>().len()
    }

    /// What the replicas on a node weigh, as planned so far.
    fn burden(&self, node: NodeId) -> u64 {
        let held = self.wanted.iter().filter(|(_, to)| to.voters.contains(&node) || to.learners.contains(&node));
        held.filter(|(group, _)| **group != GroupId::META).map(|(group, _)| self.weights[group]).sum()
    }

    /// The node that a group would rather have beside these voters.
    fn best(&self, group: GroupId, beside: &[NodeId]) -> Option<NodeId> {
        let spare = self.pool(group).map(|node| node.id).filter(|id| self.sight.answers(*id) && !beside.contains(id));
        spare.min_by_key(|id| {
            let mut with = beside.to_vec();
            with.push(*id);
            (self.shared_zones(&with), self.burden(*id), *id)
        })
    }

    /// Who should hold the group, whatever holds it now.
    fn place(&mut self, group: GroupId) {
        let now = &self.cluster.groups[&group];
        let pool: BTreeSet<NodeId> = self.pool(group).map(|node| node.id).collect();
        let mut voters: Vec<NodeId> = now.voters.iter().copied().filter(|id| pool.contains(id)).collect();
        let is_settled = self.sight.groups.get(&group).is_some_and(|seen| seen.is_at(now));
        // Two that are left of three both go on deciding: either one's loss stops them, but nothing that was answered is on one disk only.
        let wanted = if (pool.len(), voters.len()) == (2, 2) { 2 } else { self.cluster.voters_of(pool.len()) };
        // Who is lost goes only where another comes, and one at a time.
        if let Some(lost) = voters.iter().position(|id| self.sight.is_lost(*id))
            && let Some(spare) = self.best(group, &voters)
        {
            voters[lost] = spare;
        }
        while voters.len() < wanted {
            let Some(more) = self.best(group, &voters) else { break };
            voters.push(more);
        }
        // As many as answer, and an odd number: but never fewer because some are silent.
        let kept = if voters.len() >= wanted { wanted } else { self.cluster.voters_of(voters.len()) };
        while voters.len() > kept.max(1) {
            let worst = (0..voters.len()).max_by_key(|at| {
                let mut without = voters.clone();
                let id = without.remove(*at);
                let is_leader = now.leader == Some(id);
                (
                    !self.sight.answers(id),
                    std::cmp::Reverse(self.shared_zones(&without)),
                    !is_leader,
                    self.burden(id),
                    id,
                )
            });
            voters.remove(worst.expect("there is more than one"));
        }
        if voters.is_empty() {
            return;
        }
        // A better spread over zones is worth a move of its own.
        if is_settled
            && !now.by_hand
            && self.shared_zones(&voters) > 0
            && voters.iter().all(|id| now.voters.contains(id))
        {
            self.spread(group, &mut voters);
        }
        voters.sort_unstable();
        let learners = self.learners(group, &voters, &pool);
        let to = self.wanted.get_mut(&group).expect("every group is wanted somewhere");
        if to.voters != voters || to.learners != learners {
            to.leader = to.leader.filter(|leader| voters.contains(leader));
            (to.voters, to.learners) = (voters, learners);
            to.by_hand &= to.voters == now.voters;
            self.moving.insert(group);
        }
    }

    fn spread(&self, group: GroupId, voters: &mut [NodeId]) {
        for at in 0..voters.len() {
            let others: Vec<NodeId> = voters.iter().copied().filter(|id| *id != voters[at]).collect();
            let Some(better) = self.best(group, voters) else { return };
            let mut with = others.clone();
            with.push(better);
            if self.shared_zones(&with) < self.shared_zones(voters) && self.moving.len() < MOVES_AT_ONCE {
                voters[at] = better;
                return;
            }
        }
    }

    /// The meta group is applied everywhere; a lone voter's group is copied to one node more.
    fn learners(&self, group: GroupId, voters: &[NodeId], pool: &BTreeSet<NodeId>) -> Vec<NodeId> {
        if group == GroupId::META {
            let holds = |id: NodeId| self.sight.groups.iter().any(|(other, seen)| *other != group && seen.has(id));
            let others = self.cluster.nodes.values().filter(|node| {
                // Who leaves must hear what becomes of its replicas until it has none.
                !voters.contains(&node.id) && (node.state != NodeState::Leaving || holds(node.id))
            });
            return others.map(|node| node.id).collect();
        }
        if voters.len() > 1 || pool.len() < 2 {
            return Vec::new();
        }
        let now = &self.cluster.groups[&group].learners;
        let kept = now.iter().copied().find(|id| pool.contains(id) && !voters.contains(id) && !self.sight.is_lost(*id));
        kept.or_else(|| self.best(group, voters)).into_iter().collect()
    }

    /// One replica from the node that holds most to the one that holds least.
    fn even_out(&mut self) {
        if self.moving.len() >= MOVES_AT_ONCE {
            return;
        }
        let mut burdens: Vec<(u64, NodeId)> = self
            .cluster
            .nodes
            .values()
            .filter(|node| node.state == NodeState::Active && node.place.roles.data && self.sight.answers(node.id))
            .map(|node| (self.burden(node.id), node.id))
            .collect();
        burdens.sort_unstable();
        let Some((least, to)) = burdens.first().copied() else { return };
        for (most, from) in burdens.iter().rev().copied() {
            let fits = self.wanted.iter().find_map(|(group, now)| {
                let weight = self.weights[group];
                // Strictly better afterwards, and not by so little that it comes back tomorrow.
                let helps = most.saturating_sub(least) > weight + weight / 10;
                let may = *group != GroupId::META && !now.by_hand && !self.moving.contains(group);
                if !may || !helps || !now.voters.contains(&from) || now.voters.contains(&to) || now.voters.len() < 2 {
                    return None;
                }
                let mut voters: Vec<NodeId> = now.voters.iter().copied().filter(|id| *id != from).collect();
                voters.push(to);
                voters.sort_unstable();
                (self.shared_zones(&voters) <= self.shared_zones(&now.voters)).then_some((*group, voters))
            });
            if let Some((group, voters)) = fits {
                let own = self.wanted.get_mut(&group).expect("it was found there");
                own.leader = own.leader.filter(|leader| voters.contains(leader));
                own.learners.retain(|id| !voters.contains(id));
                own.voters = voters;
                self.moving.insert(group);
                return;
            }
        }
    }

    /// Who should lead: nobody who is silent or about to be restarted, and all about equally.
    fn lead(&mut self) {
        let may_lead = |id: &NodeId| {
            let node = self.cluster.nodes.get(id);
            let is_fit = self.sight.answers(*id) && !self.sight.slow.contains(id);
            is_fit && node.is_some_and(|node| node.state == NodeState::Active)
        };
        let groups: Vec<GroupId> = self.wanted.keys().copied().collect();
        let mut leads: BTreeMap<NodeId, u64> = BTreeMap::new();
        let mut open = Vec::new();
        for group in &groups {
            match self.wanted[group].leader.filter(&may_lead) {
                Some(leader) => *leads.entry(leader).or_default() += self.weights[group],
                None => open.push(*group),
            }
        }
        for group in open {
            let candidates = self.wanted[&group].voters.iter().copied().filter(&may_lead);
            let leader = candidates.min_by_key(|id| (leads.get(id).copied().unwrap_or(0), *id));
            if let Some(leader) = leader {
                *leads.entry(leader).or_default() += self.weights[&group];
            }
            self.wanted.get_mut(&group).expect("it was found there").leader = leader;
        }
        // Some leads that would be better elsewhere; the next plan looks again.
        for _ in 0..groups.len().div_ceil(LEADS_SHARE) {
            let better = groups.iter().find_map(|group| {
                let to = &self.wanted[group];
                let (own, weight) = (to.leader?, self.weights[group]);
                if to.by_hand {
                    return None;
                }
                let load = |id: &NodeId| leads.get(id).copied().unwrap_or(0);
                let other = to.voters.iter().copied().filter(&may_lead).min_by_key(|id| (load(id), *id))?;
                (load(&own) > load(&other) + weight + weight / 10).then_some((*group, own, other))
            });
            let Some((group, own, other)) = better else { return };
            let weight = self.weights[&group];
            *leads.entry(own).or_default() -= weight;
            *leads.entry(other).or_default() += weight;
            self.wanted.get_mut(&group).expect("it was found there").leader = Some(other);
        }
    }

    fn changes(self) -> Vec<Change> {
        let differs = self.wanted.into_iter().filter(|(group, to)| self.cluster.groups[group] != *to);
        let was = |group: &GroupId| Some(self.cluster.groups[group].clone());
        differs.map(|(group, to)| Change::Assign { group, was: was(&group), to }).collect()
    }
}

#[cfg(test)]
mod tests;

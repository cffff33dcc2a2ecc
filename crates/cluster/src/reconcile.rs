//! The next step of one group towards where its replicas belong: asked by the group's leader, again and again.

use std::collections::{BTreeMap, BTreeSet};

use base::NodeId;

use crate::model::Assignment;

/// A follower so few entries behind has caught up.
const LAG_ENTRIES: u64 = 256;

/// A group as its leader sees it.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// The leader.
    pub own: NodeId,
    /// Who votes.
    pub voters: &'a [NodeId],
    /// Who receives the log without voting.
    pub learners: &'a [NodeId],
    /// Whether a change of the voters is under way.
    pub is_joint: bool,
    /// The last index of the log.
    pub last: u64,
    /// How far each other member is known to be.
    pub matched: &'a BTreeMap<NodeId, u64>,
    /// Who answers.
    pub alive: &'a BTreeSet<NodeId>,
}

/// One step of consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Change the members, all at once.
    Change {
        /// Become voters.
        voters: Vec<NodeId>,
        /// Become, or come in as, learners.
        learners: Vec<NodeId>,
        /// Leave.
        removed: Vec<NodeId>,
    },
    /// Hand the lead to this voter.
    Transfer(NodeId),
}

/// The next step, if one is due and can be done now.
pub fn step(to: &Assignment, group: &Group<'_>) -> Option<Step> {
    if group.is_joint {
        return None;
    }
    let is_member = |id: &NodeId| group.voters.contains(id) || group.learners.contains(id);
    let is_up = |id: &NodeId| *id == group.own || group.alive.contains(id);
    let is_level = |id: &NodeId| {
        let matched = group.matched.get(id).copied().unwrap_or(0);
        *id == group.own || (matched > 0 || group.last == 0) && matched.saturating_add(LAG_ENTRIES) >= group.last
    };
    let wanted = || to.voters.iter().chain(&to.learners).copied();
    let missing: Vec<NodeId> = wanted().filter(|id| !is_member(id) && is_up(id)).collect();
    if !missing.is_empty() {
        return Some(Step::Change { voters: Vec::new(), learners: missing, removed: Vec::new() });
    }
    let are_ready = to.voters.iter().all(|id| group.voters.contains(id) || is_member(id) && is_up(id) && is_level(id));
    if are_ready {
        let own_stays = to.voters.contains(&group.own);
        let promoted: Vec<NodeId> = to.voters.iter().copied().filter(|id| !group.voters.contains(id)).collect();
        // The leader goes last, by another leader's hand.
        let touched = |id: &NodeId| own_stays || *id != group.own;
        let demoted: Vec<NodeId> =
            to.learners.iter().copied().filter(|id| group.voters.contains(id) && touched(id)).collect();
        let members = group.voters.iter().chain(group.learners).copied();
        let removed: Vec<NodeId> = members.filter(|id| !wanted().any(|other| other == *id) && touched(id)).collect();
        if !promoted.is_empty() || !demoted.is_empty() || !removed.is_empty() {
            return Some(Step::Change { voters: promoted, learners: demoted, removed });
        }
    }
    let may_lead = |id: &NodeId| *id != group.own && group.voters.contains(id) && is_up(id) && is_level(id);
    let heir = to.leader.filter(may_lead);
    if to.leader == Some(group.own) {
        return None;
    }
    // A leader that is to go hands over to any that stays.
    let must = !to.voters.contains(&group.own);
    let heir = heir.or_else(|| to.voters.iter().copied().find(may_lead).filter(|_| must));
    heir.map(Step::Transfer)
}

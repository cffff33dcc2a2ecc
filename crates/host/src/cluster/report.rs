//! What a node tells the others of itself when it is asked: its groups, and whether its disk keeps up.

use std::collections::BTreeMap;

use base::{GroupId, NodeId};
use consensus::Trust;
use serde::{Deserialize, Serialize};

use crate::node::GroupStatus;

/// How a node is, as it says itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Condition {
    /// Of the program.
    pub version: String,
    /// Why it is not ready; empty: it is.
    pub not_ready: String,
    /// Its disk does not keep up, or has stopped: it should lead nothing.
    pub slow_disk: bool,
    /// Seconds since its start.
    pub uptime: u64,
    /// Resident memory, bytes.
    pub memory: u64,
    /// Bytes of its log.
    pub log_bytes: u64,
}

/// One node's word on itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Who.
    pub node: u64,
    /// How it is.
    #[serde(flatten)]
    pub condition: Condition,
    /// Groups that it has.
    pub groups: Vec<GroupReport>,
    /// Slots that leave shards which it leads.
    #[serde(default)]
    pub moving: Vec<super::Progress>,
    /// Nodes that it hears.
    #[serde(default)]
    pub hears: Vec<u64>,
}

/// One group as this node knows it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GroupReport {
    /// Which.
    pub group: u32,
    /// `leader`, `follower` …
    pub role: String,
    /// Term.
    pub term: u64,
    /// Who leads, 0 where nobody is known to.
    pub leader: u64,
    /// The last index that has been applied here.
    pub applied: u64,
    /// The last index of the log here.
    pub last: u64,
    /// Who votes, in either half of a change.
    pub voters: Vec<u64>,
    /// Who receives the log without voting.
    pub learners: Vec<u64>,
    /// Whether a change of the voters is under way.
    pub joint: bool,
    /// At the leader: how far each other member is known to be.
    pub followers: Vec<(u64, u64)>,
    /// Its replica here has lost something that it had said it holds.
    pub fenced: bool,
    /// Commands in the last seconds, smoothed.
    pub load: u64,
    /// Keys held here.
    pub keys: u64,
    /// How the load falls on the parts of the slots; of leaders alone.
    #[serde(default)]
    pub heat: Vec<u64>,
}

impl Report {
    /// The groups of this node, with their load.
    pub fn groups(groups: &[GroupStatus], loads: &BTreeMap<GroupId, (u64, Vec<u64>)>) -> Vec<GroupReport> {
        let numbers = |ids: &[NodeId]| ids.iter().map(|id| id.0).collect::<Vec<_>>();
        let report = |group: &GroupStatus| {
            let membership = &group.membership;
            let mut voters = numbers(&membership.voters);
            voters.extend(numbers(&membership.voters_outgoing));
            voters.sort_unstable();
            voters.dedup();
            GroupReport {
                group: group.group.0,
                role: group.role.clone(),
                term: group.term,
                leader: group.leader.map_or(0, |leader| leader.0),
                applied: group.applied,
                last: group.last,
                voters,
                learners: numbers(&membership.learners),
                joint: membership.is_joint(),
                followers: group.followers.iter().map(|(id, matched)| (id.0, *matched)).collect(),
                fenced: group.trust != Trust::Whole,
                load: loads.get(&group.group).map_or(0, |(load, _)| *load),
                keys: group.keys,
                heat: loads.get(&group.group).filter(|_| group.leads).map(|(_, heat)| heat.clone()).unwrap_or_default(),
            }
        };
        groups.iter().map(report).collect()
    }

    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What another node sent; nothing where it makes no sense.
    pub fn decode(bytes: &[u8]) -> Option<Report> {
        serde_json::from_slice(bytes).ok()
    }
}

//! The cluster for people: nodes, shards, who leads, who lags, and what is wrong in words.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ::cluster::NodeState;
use ::cluster::growth::Growth;
use base::{GroupId, NodeId};
use serde::Serialize;

use super::{Condition, GroupReport, Member, Progress, Report};

/// A report older than this says nothing of now.
const FRESH: Duration = Duration::from_secs(3);
/// A follower so many entries behind is worth a word.
const LAG_ENTRIES: u64 = 10_000;

/// Everything.
#[derive(Clone, Debug, Serialize)]
pub struct View {
    /// The cluster's id.
    pub cluster: String,
    /// The node that was asked.
    pub asked: u64,
    /// Voters that a shard should have.
    pub replication: usize,
    /// What a person should look at, in words.
    pub problems: Vec<String>,
    /// Moves that are under way, in words.
    pub moves: Vec<String>,
    /// When shards are split without being asked, in words.
    pub splits: String,
    /// Slots that are under way from one shard to another.
    pub slot_moves: Vec<SlotsView>,
    /// Nodes by number.
    pub nodes: Vec<NodeView>,
    /// Groups by number; 0 is the meta group.
    pub groups: Vec<GroupView>,
}

/// One node.
#[derive(Clone, Debug, Default, Serialize)]
pub struct NodeView {
    /// Its number.
    pub node: u64,
    /// What is to become of it.
    pub state: String,
    /// Whether it answers the node that was asked.
    pub up: bool,
    /// Milliseconds since anything was heard of it; `None` for never, or for the node itself.
    pub silent_ms: Option<u64>,
    /// Round trip on the link, microseconds.
    pub rtt_us: Option<u64>,
    /// Its zone.
    pub zone: String,
    /// Its roles.
    pub roles: String,
    /// Its doors.
    pub peer: String,
    /// See `peer`.
    pub redis: String,
    /// See `peer`.
    pub admin: String,
    /// How it is, as it says itself; empty while it says nothing.
    #[serde(flatten)]
    pub condition: Condition,
    /// Groups that it leads.
    pub leads: usize,
    /// Groups that it holds.
    pub holds: usize,
    /// Of them, those of which its disk has lost something, until their leaders have let it back in.
    pub fenced: Vec<u32>,
    /// Why its link does not stand, in words.
    pub error: String,
}

/// One group, as its leader tells it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct GroupView {
    /// Its number.
    pub group: u32,
    /// Who leads; 0 for nobody that answers.
    pub leader: u64,
    /// Term.
    pub term: u64,
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who receives the log without voting.
    pub learners: Vec<u64>,
    /// Where they belong.
    pub wanted: Vec<u64>,
    /// Who should lead.
    pub wanted_leader: u64,
    /// Whether it was placed by hand.
    pub by_hand: bool,
    /// The last entry.
    pub last: u64,
    /// How many entries each other member is behind.
    pub lag: BTreeMap<u64, u64>,
    /// Keys.
    pub keys: u64,
    /// Commands a second, smoothed.
    pub load: u64,
    /// The slots that it has: `0-8191`; empty for the meta group.
    pub slots: String,
}

/// Slots that are under way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SlotsView {
    /// Which.
    pub slots: String,
    /// How far they are, as the leader of the shard knows that they leave; its numbers are 0 while there is none.
    #[serde(flatten)]
    pub progress: Progress,
}

impl Member {
    /// Asks all nodes, and puts together what they say.
    pub async fn view(self: &Arc<Self>) -> View {
        self.ask_all().await;
        let cluster = self.cluster();
        let reports: BTreeMap<NodeId, Report> = self
            .reports()
            .into_iter()
            .filter(|(_, (age, _))| *age < FRESH)
            .map(|(node, (_, report))| (node, report))
            .collect();
        let mut groups: BTreeMap<u32, GroupView> = BTreeMap::new();
        for (group, to) in cluster.groups() {
            let wanted = to.voters.iter().chain(&to.learners).map(|id| id.0).collect();
            let (wanted_leader, by_hand) = (to.leader.map_or(0, |leader| leader.0), to.by_hand);
            let slots = cluster.slots_of(*group).to_string();
            groups.insert(
                group.0,
                GroupView { group: group.0, wanted, wanted_leader, by_hand, slots, ..GroupView::default() },
            );
        }
        for (node, report) in &reports {
            for told in report.groups.iter().filter(|told| told.role == "leader") {
                let Some(view) = groups.get_mut(&told.group).filter(|view| told.term >= view.term) else { continue };
                let GroupReport { term, voters, learners, last, followers, keys, load, .. } = told.clone();
                let lag = followers.iter().map(|(id, matched)| (*id, last.saturating_sub(*matched))).collect();
                let GroupView { group, wanted, wanted_leader, by_hand, slots, .. } = std::mem::take(view);
                *view = GroupView {
                    group,
                    leader: node.0,
                    term,
                    voters,
                    learners,
                    wanted,
                    wanted_leader,
                    by_hand,
                    last,
                    lag,
                    keys,
                    load,
                    slots,
                };
            }
        }
        let links = self.links();
        let nodes: Vec<NodeView> = cluster
            .nodes()
            .values()
            .map(|node| {
                let link = links.iter().find(|link| link.node == node.id.0);
                let report = reports.get(&node.id).cloned().unwrap_or_default();
                let (place, own) = (&node.place, node.id == self.own);
                NodeView {
                    node: node.id.0,
                    state: node.state.word().into(),
                    up: own || link.is_some_and(|link| link.is_up()),
                    silent_ms: link.and_then(|link| link.heard).map(|heard| heard.as_millis() as u64),
                    rtt_us: link.and_then(|link| link.rtt).map(|rtt| rtt.as_micros() as u64),
                    zone: place.zone.clone(),
                    roles: place.roles.to_string(),
                    peer: place.peer.clone(),
                    redis: place.redis.clone(),
                    admin: place.admin.clone(),
                    condition: report.condition,
                    leads: groups.values().filter(|group| group.leader == node.id.0).count(),
                    holds: groups
                        .values()
                        .filter(|group| group.voters.contains(&node.id.0) || group.learners.contains(&node.id.0))
                        .count(),
                    fenced: report.groups.iter().filter(|group| group.fenced).map(|group| group.group).collect(),
                    error: link.map_or(String::new(), |link| link.error.clone()),
                }
            })
            .collect();
        let groups: Vec<GroupView> = groups.into_values().collect();
        let slot_moves: Vec<SlotsView> = cluster
            .moves()
            .iter()
            .map(|(from, own)| {
                let told = reports.values().flat_map(|report| &report.moving).find(|told| told.from == from.0);
                let waiting = || Progress { from: from.0, to: own.to.0, ..Progress::default() };
                SlotsView { slots: own.slots.to_string(), progress: told.cloned().unwrap_or_else(waiting) }
            })
            .collect();
        let mut view = View {
            cluster: cluster.id().to_string(),
            asked: self.own.0,
            replication: cluster.replication(),
            problems: Vec::new(),
            moves: groups.iter().filter_map(move_of).chain(slot_moves.iter().map(slots_of)).collect(),
            slot_moves,
            splits: splits(&self.growth),
            nodes,
            groups,
        };
        view.problems = problems(&view);
        view
    }
}

/// `shard 3`, or the meta group.
pub fn name(group: u32) -> String {
    if group == GroupId::META.0 { "the meta group".into() } else { format!("shard {group}") }
}

fn splits(growth: &Growth) -> String {
    match growth.hot {
        0 => "shards are not split by themselves (cluster.split_load is 0)".into(),
        hot => format!(
            "a shard with more than {hot} commands a second for a minute is split, up to {} shards, where there are other nodes to take a part",
            growth.most
        ),
    }
}

fn list(ids: &[u64]) -> String {
    let words: Vec<String> = ids.iter().map(u64::to_string).collect();
    words.join(", ")
}

fn slots_of(view: &SlotsView) -> String {
    let Progress { from, to, step, keys, bytes, attempts, .. } = &view.progress;
    let slots = &view.slots;
    if step.is_empty() {
        return format!("slots {slots} go from shard {from} to shard {to} (they wait for the leader of shard {from})");
    }
    let again = if *attempts > 1 { format!(", attempt {attempts}") } else { String::new() };
    format!("slots {slots} go from shard {from} to shard {to}: {step} ({keys} keys, {} MiB{again})", bytes >> 20)
}

fn move_of(group: &GroupView) -> Option<String> {
    if group.leader == 0 {
        return None;
    }
    let here: Vec<u64> = group.voters.iter().chain(&group.learners).copied().collect();
    let missing = |from: &[u64], of: &[u64]| of.iter().copied().filter(|id| !from.contains(id)).collect::<Vec<u64>>();
    let (comes, goes) = (missing(&here, &group.wanted), missing(&group.wanted, &here));
    let copied: Vec<String> = group
        .lag
        .iter()
        .filter(|(node, lag)| group.learners.contains(node) && **lag > 0)
        .map(|(node, lag)| format!("node {node} still lacks {lag} entries"))
        .collect();
    if comes.is_empty() && goes.is_empty() {
        return None;
    }
    let mut words = name(group.group);
    if !comes.is_empty() {
        words.push_str(&format!(" goes to node {}", list(&comes)));
    }
    if !goes.is_empty() {
        words.push_str(&format!("{} leaves node {}", if comes.is_empty() { "" } else { " and" }, list(&goes)));
    }
    if !copied.is_empty() {
        words.push_str(&format!(" ({})", copied.join(", ")));
    }
    Some(words)
}

fn problems(view: &View) -> Vec<String> {
    let mut all = Vec::new();
    for group in view.groups.iter().filter(|group| group.leader == 0) {
        all.push(format!(
            "{} has no leader that answers: writes to it wait. A majority of nodes {} is needed",
            name(group.group),
            list(&group.wanted)
        ));
    }
    for node in &view.nodes {
        if !node.up {
            let since = node
                .silent_ms
                .map_or("not heard of since this node started".into(), |ms| format!("silent for {} s", ms / 1000));
            let why = if node.error.is_empty() { String::new() } else { format!(": {}", node.error) };
            all.push(format!("node {} at {} does not answer ({since}){why}", node.node, node.peer));
        }
        if node.condition.slow_disk {
            all.push(format!("the disk of node {} does not keep up: it leads nothing until it does", node.node));
        }
        if !node.fenced.is_empty() {
            let groups: Vec<String> = node.fenced.iter().map(|group| name(*group)).collect();
            all.push(format!(
                "the disk of node {} has lost something of {}: its word there counts again once the leader has let it back in",
                node.node,
                groups.join(", ")
            ));
        }
        if !node.condition.not_ready.is_empty() {
            all.push(format!("node {} is not ready: {}", node.node, node.condition.not_ready));
        }
    }
    for group in &view.groups {
        for (node, lag) in group.lag.iter().filter(|(_, lag)| **lag >= LAG_ENTRIES) {
            all.push(format!("node {node} is {lag} entries behind in {}", name(group.group)));
        }
        let down = group.voters.iter().filter(|id| view.nodes.iter().any(|node| node.node == **id && !node.up)).count();
        if group.leader != 0 && down > 0 && (group.voters.len() - down - 1) * 2 < group.voters.len() {
            all.push(format!(
                "{} has lost {down} of {} voters: one more and it stands still",
                name(group.group),
                group.voters.len()
            ));
        }
    }
    let versions: std::collections::BTreeSet<&str> =
        view.nodes.iter().map(|node| node.condition.version.as_str()).filter(|version| !version.is_empty()).collect();
    if versions.len() > 1 {
        all.push(format!("nodes run different versions: {}", versions.into_iter().collect::<Vec<_>>().join(", ")));
    }
    let data = view.nodes.iter().filter(|node| node.state != NodeState::Leaving.word()).count();
    if data == 2 {
        all.push("two nodes survive the loss of neither one's machine without an operator: add a third".into());
    }
    all
}

//! The task that keeps the cluster as it should be.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::cluster::growth::{Growing, Heat};
use ::cluster::plan::{Seen, Sight, plan};
use ::cluster::reconcile::{self, Step};
use ::cluster::{Authority, Change, Cluster, Outcome, Place, Roles};
use base::{GroupId, Instant, NodeId};
use consensus::Change as MemberChange;
use serde::{Deserialize, Serialize};
use shard::driver::Input;
use tokio::sync::watch;

use super::{Member, Report, links};
use crate::clock;
use crate::node::GroupStatus;
use crate::peers::join::{Accepted, Request};
use crate::peers::keys::PublicKey;
use crate::peers::token::Token;
use crate::peers::{Directory, LinkStatus, PeerAddress};
use crate::start::{FIRST_NODE, note_peers};

/// How often this node looks what it has to do.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the meta leader asks all nodes and plans, and loads are counted.
const PLAN_EVERY: Duration = Duration::from_secs(1);
/// How long a node may take to answer for itself.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);
/// A step of a group is not repeated before so long: it takes its time.
const STEP_EVERY: Duration = Duration::from_millis(500);
/// A node is silent after so long without a link.
const SILENT_AFTER: Duration = Duration::from_secs(2);
/// Others are asked where a node is that is not found, this often.
const WHERE_EVERY: Duration = Duration::from_millis(300);
/// A word on this node is tried again after so long.
const DESCRIBE_EVERY: Duration = Duration::from_secs(5);
/// An append that takes so long means that somebody else should lead.
const SLOW_DISK: Duration = Duration::from_secs(1);
/// And for so long after it.
const SLOW_DISK_FOR: Duration = Duration::from_secs(30);

/// A joining node's word on itself, and what it is told: JSON, which both may extend.
#[derive(Serialize, Deserialize)]
pub struct Details {
    peer: String,
    redis: String,
    redis_cluster: String,
    admin: String,
    zone: String,
    roles: String,
    #[serde(default)]
    kafka: String,
    #[serde(default)]
    etcd: String,
}

/// What a node that has joined must know before its first start.
#[derive(Debug, Serialize, Deserialize)]
pub struct Welcome {
    /// Data shards of the cluster.
    pub data_shards: usize,
}

impl Details {
    /// Of this place.
    pub fn of(place: &Place) -> Details {
        let Place { peer, redis, redis_cluster, admin, kafka, etcd, zone, roles } = place.clone();
        Details { peer, redis, redis_cluster, admin, zone, roles: roles.to_string(), kafka, etcd }
    }

    fn place(self) -> Result<Place, String> {
        let Details { peer, redis, redis_cluster, admin, zone, roles, kafka, etcd } = self;
        Ok(Place { peer, redis, redis_cluster, admin, kafka, etcd, zone, roles: Roles::from_words(roles.split(','))? })
    }

    /// As it is sent.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Welcome {
    /// What a member sent.
    ///
    /// # Errors
    /// A sentence.
    pub fn decode(bytes: &[u8]) -> Result<Welcome, String> {
        serde_json::from_slice(bytes)
            .map_err(|_| "the member's answer cannot be understood: is it of another version?".to_owned())
    }
}

/// What the task remembers between two looks.
#[derive(Default)]
struct Memory {
    /// The cluster's index that the links were last told of.
    told: Option<u64>,
    planned: Instant,
    described: Option<Instant>,
    /// What was last written down about whether there are others.
    peers: Option<bool>,
    /// When others were last asked where somebody is.
    searched: Option<Instant>,
    /// When a group took its last step.
    steps: BTreeMap<GroupId, Instant>,
    /// Since when this node has led the meta group without a break.
    leads_since: Option<Instant>,
    slow_until: Option<Instant>,
    /// What the others were last told of whether this node wants to lead.
    shunned: bool,
    /// Which shards have been busy, where this node leads the meta group.
    growing: Growing,
}

impl Member {
    /// Keeps the cluster as it should be, until told to stop.
    pub async fn keep(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut memory = Memory::default();
        loop {
            let now = clock::now();
            self.look(&mut memory, now).await;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }

    async fn look(self: &Arc<Self>, memory: &mut Memory, now: Instant) {
        let cluster = self.cluster();
        if memory.told != Some(cluster.index()) {
            self.peers.set_directory(&directory(&cluster));
            memory.told = Some(cluster.index());
        }
        let has_peers = cluster.nodes().len() > 1;
        if self.own == FIRST_NODE && !cluster.is_empty() && memory.peers != Some(has_peers) {
            let disk = self.disk.clone();
            let noted = tokio::task::spawn_blocking(move || note_peers(&disk, has_peers)).await;
            memory.peers = matches!(noted, Ok(Ok(()))).then_some(has_peers);
        }
        if self.lacks_shards(&cluster) {
            self.clone().add_shards(&cluster).await;
        }
        self.move_slots(&cluster);
        let links = self.links();
        let groups = self.status.lock().clone();
        // Those that still know this node were not asked yet, or are gone themselves: one word from a member is enough, since
        // numbers are never given again.
        let farewell = format!("{} has left the cluster", self.own);
        if links.iter().any(|link| !link.out_up && link.error.ends_with(&farewell)) {
            self.removed.send_replace(true);
        }
        self.search(memory, &links, now);
        let leads_meta = groups.iter().any(|group| group.group == GroupId::META && group.leads);
        if leads_meta && cluster.is_empty() && self.own == FIRST_NODE {
            self.found().await;
            return;
        }
        if self.place_differs(&cluster) && memory.described.is_none_or(|at| now.since(at) >= DESCRIBE_EVERY) {
            memory.described = Some(now);
            let (member, change) = (self.clone(), Change::Describe { node: self.own, place: self.place.clone() });
            tokio::spawn(async move { member.change(&change).await });
        }
        self.watch_disk(memory, now);
        let up: BTreeSet<NodeId> = links.iter().filter(|link| link.is_up()).map(|link| NodeId(link.node)).collect();
        let shunned = self.shunned.lock().clone();
        for group in groups.iter().filter(|group| group.leads) {
            self.step_group(memory, &cluster, group, (&up, &shunned), now);
        }
        memory.leads_since = if leads_meta { memory.leads_since.or(Some(now)) } else { None };
        if now.since(memory.planned) < PLAN_EVERY {
            return;
        }
        memory.planned = now;
        self.count_loads();
        // Links that broke were told of when they did; that one never stood is not, and a silent group would wait for its leader for
        // ever if a word was missed.
        for link in links.iter().filter(|link| !link.out_up && !link.in_up) {
            if link.heard.is_none_or(|heard| heard >= SILENT_AFTER) {
                (self.put)(Input::LinkLost(NodeId(link.node)));
            }
        }
        if let Some(since) = memory.leads_since {
            self.plan(memory, &cluster, &links, since, now).await;
        }
    }

    /// Asks those that answer where the others are. Where each node is stands in the meta group's log; of two that came back at other
    /// addresses, neither may have read there of the other, and both may be needed for its next entry.
    fn search(self: &Arc<Self>, memory: &mut Memory, links: &[LinkStatus], now: Instant) {
        let is_lost = |link: &&LinkStatus| !link.out_up && !link.error.is_empty();
        let lost: BTreeSet<u64> = links.iter().filter(is_lost).map(|link| link.node).collect();
        if lost.is_empty() || memory.searched.is_some_and(|at| now.since(at) < WHERE_EVERY) {
            return;
        }
        memory.searched = Some(now);
        for link in links.iter().filter(|link| link.out_up) {
            let (member, lost, from) = (self.clone(), lost.clone(), NodeId(link.node));
            tokio::spawn(async move {
                let asked = member.peers.ask(from, links::where_question(), REPORT_PATIENCE).await;
                for (node, addresses) in links::read_where_answer(&asked.unwrap_or_default()) {
                    if lost.contains(&node) && !addresses.is_empty() {
                        member.peers.hint(NodeId(node), addresses);
                    }
                }
            });
        }
    }

    /// The first node founds the cluster, once.
    async fn found(self: &Arc<Self>) {
        let identity = &self.identity;
        let token = match Token::create(identity.cluster, identity.authority.fingerprint()) {
            Ok(token) => token,
            Err(why) => return eprintln!("quorate: the cluster cannot be founded: {why}"),
        };
        let change = Change::Found {
            id: identity.cluster,
            authority: Authority { certificate: identity.authority.certificate().to_vec(), token: token.hash() },
            node: self.own,
            key: identity.pin(),
            place: self.place.clone(),
            groups: (0..=self.options.data_shards as u32).map(GroupId).collect(),
        };
        if let Ok(Outcome::Done) = self.change_here(&change).await {
            let _ = self.token.set(token.encode());
        }
    }

    /// Makes a new join token; the old one is of no use any more.
    ///
    /// # Errors
    /// Why not.
    pub async fn new_token(&self) -> Result<String, String> {
        let token = Token::create(self.identity.cluster, self.identity.authority.fingerprint())?;
        self.change(&Change::Token { token: token.hash() }).await?;
        Ok(token.encode())
    }

    /// Lets a new node in, if it has shown the token.
    pub(super) async fn let_in(&self, request: &Request) -> Result<Accepted, String> {
        let cluster = self.cluster();
        let Some(authority) = cluster.authority() else {
            return Err("this node knows of no cluster yet; try again in a moment".into());
        };
        if authority.token != request.token {
            return Err(
                "the token is not, or no longer, the cluster's; `quorate cluster token` on a member makes a new one"
                    .into(),
            );
        }
        let key = PublicKey::from_der(&request.key).ok_or("the node's key cannot be read")?.pin();
        let details: Details = serde_json::from_slice(&request.details)
            .map_err(|_| "what the node says of itself cannot be understood")?;
        match self.change(&Change::Join { key, place: details.place()? }).await? {
            Outcome::Joined(node) => {
                let welcome = Welcome { data_shards: self.options.data_shards };
                Ok(Accepted { node, details: serde_json::to_vec(&welcome).unwrap_or_default().into() })
            }
            _ => Err("the cluster has not said which node this is".into()),
        }
    }

    fn place_differs(&self, cluster: &Cluster) -> bool {
        cluster.nodes().get(&self.own).is_some_and(|node| node.place != self.place)
    }

    /// Who leads while its disk stands still makes everybody wait.
    fn watch_disk(&self, memory: &mut Memory, now: Instant) {
        if self.append_age(now) >= SLOW_DISK {
            memory.slow_until = Some(now + SLOW_DISK_FOR);
        }
        let is_slow = memory.slow_until.is_some_and(|until| now < until);
        self.is_slow.store(is_slow, Ordering::Relaxed);
        let shunned = is_slow || self.is_retiring.load(Ordering::Relaxed);
        let again = shunned && now.since(memory.planned) >= PLAN_EVERY;
        if shunned != memory.shunned || again {
            memory.shunned = shunned;
            for link in self.links() {
                let (peers, question) = (self.peers.clone(), links::shun_question(shunned));
                tokio::spawn(async move { peers.ask(NodeId(link.node), question, REPORT_PATIENCE).await });
            }
        }
    }

    fn step_group(
        &self,
        memory: &mut Memory,
        cluster: &Cluster,
        group: &GroupStatus,
        (up, shunned): (&BTreeSet<NodeId>, &BTreeSet<NodeId>),
        now: Instant,
    ) {
        let Some(to) = cluster.groups().get(&group.group) else { return };
        let last = memory.steps.get(&group.group).copied();
        if last.is_some_and(|at| now.since(at) < STEP_EVERY) {
            return;
        }
        let matched: BTreeMap<NodeId, u64> = group.followers.iter().copied().collect();
        let membership = &group.membership;
        let level = |id: &NodeId| matched.get(id).is_some_and(|matched| matched + LEVEL_ENTRIES >= group.last);
        let step = if memory.shunned {
            // Whoever has the log may lead rather than this node.
            let mut heirs =
                membership.voters.iter().filter(|id| **id != self.own && up.contains(id) && !shunned.contains(id));
            heirs.find(|id| level(id)).map(|id| Step::Transfer(*id))
        } else {
            let view = reconcile::Group {
                own: self.own,
                voters: &membership.voters,
                learners: &membership.learners,
                is_joint: membership.is_joint(),
                last: group.last,
                matched: &matched,
                alive: up,
            };
            reconcile::step(to, &view).filter(|step| !matches!(step, Step::Transfer(to) if shunned.contains(to)))
        };
        let Some(step) = step else { return };
        memory.steps.insert(group.group, now);
        match step {
            Step::Transfer(to) => (self.put)(Input::TransferLead(group.group, to)),
            Step::Change { voters, learners, removed } => {
                let changes = voters.into_iter().map(MemberChange::AddVoter);
                let changes = changes.chain(learners.into_iter().map(MemberChange::AddLearner));
                let changes = changes.chain(removed.into_iter().map(MemberChange::Remove));
                (self.put)(Input::ChangeMembers(group.group, changes.collect()));
            }
        }
    }

    fn count_loads(&self) {
        let mut loads = self.loads.lock();
        for shard in self.shards.iter() {
            let (counted, heat) = {
                let state = shard.state();
                (state.counts().0, *state.heat())
            };
            let load = loads.entry(shard.group).or_insert_with(|| super::Load { heat, ..super::Load::default() });
            let fresh = if load.counted == 0 { 0 } else { counted.saturating_sub(load.counted) };
            (load.counted, load.smooth) = (counted, (load.smooth * 15 + fresh) / 16);
            let before = std::mem::replace(&mut load.heat, heat);
            for ((part, now), before) in load.parts.iter_mut().zip(heat).zip(before) {
                // Sixteen times what a second brings, so that little is not nothing.
                *part = *part * 15 / 16 + now.saturating_sub(before);
            }
        }
    }

    /// Asks every other node for its word; what has come is in [`Member::reports`].
    pub async fn ask_all(self: &Arc<Self>) {
        let others: Vec<NodeId> = self.cluster().nodes().keys().copied().filter(|id| *id != self.own).collect();
        let asking: Vec<_> = others
            .iter()
            .map(|node| {
                let (peers, node) = (self.peers.clone(), *node);
                tokio::spawn(async move { (node, peers.ask(node, links::report_question(), REPORT_PATIENCE).await) })
            })
            .collect();
        for asked in asking {
            if let Ok((node, Ok(answer))) = asked.await
                && let Some(report) = Report::decode(&answer)
            {
                self.reports.lock().insert(node, (clock::now(), report));
            }
        }
        self.reports.lock().retain(|node, _| others.contains(node));
    }

    async fn plan(
        self: &Arc<Self>,
        memory: &mut Memory,
        cluster: &Cluster,
        links: &[LinkStatus],
        since: Instant,
        now: Instant,
    ) {
        self.ask_all().await;
        let mut heats: BTreeMap<GroupId, Heat> = BTreeMap::new();
        let mut sight = Sight { replace_after: self.replace_after, ..Sight::default() };
        let mut terms: BTreeMap<u32, u64> = BTreeMap::new();
        for (node, (age, report)) in self.reports() {
            if age > PLAN_EVERY + REPORT_PATIENCE {
                continue;
            }
            if report.condition.slow_disk {
                sight.slow.insert(node);
            }
            for group in report.groups.iter().filter(|group| group.role == "leader") {
                let seen = Seen {
                    voters: group.voters.iter().map(|id| NodeId(*id)).collect(),
                    learners: group.learners.iter().map(|id| NodeId(*id)).collect(),
                    is_joint: group.joint,
                    load: group.load,
                };
                // Of two who think that they lead, the newer one does.
                let term = terms.entry(group.group).or_default();
                if group.term >= *term {
                    *term = group.term;
                    sight.groups.insert(GroupId(group.group), seen);
                    heats.insert(GroupId(group.group), Heat { load: group.load, parts: group.heat.clone() });
                }
            }
        }
        for node in cluster.nodes().keys().filter(|node| **node != self.own) {
            let link = links.iter().find(|link| link.node == node.0);
            if link.is_some_and(|link| link.is_up()) {
                continue;
            }
            // What was heard before this node led counts, if it was heard here.
            let silent = link.and_then(|link| link.heard).unwrap_or_else(|| now.since(since));
            if silent >= SILENT_AFTER {
                sight.silent.insert(*node, silent);
            }
        }
        for change in plan(cluster, &sight) {
            if let Err(why) = self.change_here(&change).await {
                // The next plan sees what has become of it.
                return eprintln!("quorate: a move of replicas could not be decided: {why}");
            }
        }
        heats.remove(&GroupId::META);
        if let Some(split) = memory.growing.look(cluster, &heats, &self.growth, now) {
            match self.split(split.from, split.slots).await {
                Ok(made) => {
                    eprintln!("quorate: shard {} is split, shard {} takes a part: {}", split.from.0, made.0, split.why);
                }
                Err(why) => eprintln!("quorate: shard {} cannot be split yet ({}): {why}", split.from.0, split.why),
            }
        }
    }
}

/// A follower so few entries behind may lead at once.
const LEVEL_ENTRIES: u64 = 1024;

fn directory(cluster: &Cluster) -> Directory {
    let address = |place: &Place| vec![place.peer.clone()];
    let nodes =
        cluster.nodes().values().map(|node| (node.id, PeerAddress { addresses: address(&node.place), key: node.key }));
    Directory { nodes: nodes.collect(), newest: cluster.newest().0 }
}

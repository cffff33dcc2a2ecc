//! This node's part in the cluster: its links, its word on itself, and the hands that carry out what has been planned.
//!
//! ```text
//!   every node      directory of links ◄── applied state of the meta group ──► who may be forwarded to
//!                   report ◄─ asked ─ others
//!   group leaders   cluster::reconcile ─► ChangeMembers, TransferLead
//!   meta leader     reports of all ─► cluster::plan ─► changes of the cluster
//! ```
//!
//! **Invariant:** decides nothing by itself but when to ask: what is to be done is said by the pure room `cluster`.

pub mod alive;
mod change;
mod keeper;
mod links;
mod moving;
mod report;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::cluster::growth::{Growth, HEAT_PARTS};
use ::cluster::{Cluster, Place};
use base::{GroupId, Instant, NodeId};
use doors::resp::door::Client;
use parking_lot::Mutex;
use shard::driver::Input;
use shard::live::{Shard, Shards};
use shard::open::OpenOptions;
use store::keyspace::Durability;
use store::table::DATABASES;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::clock;
use crate::files::Directory;
use crate::log::LogThread;
use crate::node::{Fresh, GroupStatus};
use crate::peers::{Identity, LinkStatus, Peers, Settings};
use crate::start::FIRST_NODE;

pub use keeper::{Details, Welcome};
pub use links::{Forwarded, Links};
pub use moving::Progress;
pub use report::{Condition, GroupReport, Report};
pub use view::{GroupView, NodeView, View};

/// Who said something within so long is heard.
const HEARS_WITHIN: Duration = Duration::from_secs(2);

/// What a node needs to be part of a cluster.
pub struct ClusterConfig {
    /// Where other nodes come in.
    pub listener: TcpListener,
    /// Who this node is.
    pub identity: Identity,
    /// What it says of itself.
    pub place: Place,
    /// A node that has been silent for so long is replaced where a spare one exists.
    pub replace_after: Duration,
    /// When shards are split without being asked.
    pub growth: Growth,
    /// How links behave.
    pub settings: Settings,
}

/// The cluster as this node sees it and takes part in it.
pub struct Member {
    /// This node.
    pub own: NodeId,
    /// Its links.
    pub peers: Peers,
    identity: Identity,
    /// What it says of itself.
    place: Place,
    /// The join token, where this node has just founded the cluster.
    pub token: OnceLock<String>,
    replace_after: Duration,
    growth: Growth,
    shards: Arc<Shards<Client>>,
    put: Box<dyn Fn(Input) + Send + Sync>,
    /// Gives the driver a group that the node has not had.
    add: Box<dyn Fn(Fresh) + Send + Sync>,
    disk: Directory,
    options: OpenOptions,
    /// Slots that this node's shards give away, by shard.
    moving: Mutex<BTreeMap<GroupId, moving::Progress>>,
    /// The groups, as the driver last wrote them down.
    status: Arc<Mutex<Vec<Arc<GroupStatus>>>>,
    /// This node's own word, without its groups.
    own_report: Box<dyn Fn() -> Condition + Send + Sync>,
    /// What the others last said, and when.
    reports: Mutex<BTreeMap<NodeId, (Instant, Report)>>,
    /// Commands a second of each group here, smoothed.
    loads: Mutex<BTreeMap<GroupId, Load>>,
    log: Arc<LogThread>,
    /// Its disk does not keep up.
    is_slow: AtomicBool,
    /// This node is about to stop: it leads nothing any more.
    is_retiring: AtomicBool,
    /// Others that want to lead nothing at the moment.
    shunned: Mutex<BTreeSet<NodeId>>,
    /// Told once this node is no part of the cluster any more.
    removed: watch::Sender<bool>,
}

/// What a member is made of, beside its configuration.
pub(crate) struct Parts {
    pub(crate) peers: Peers,
    pub(crate) shards: Arc<Shards<Client>>,
    pub(crate) add: Box<dyn Fn(Fresh) + Send + Sync>,
    pub(crate) disk: Directory,
    pub(crate) options: OpenOptions,
    pub(crate) put: Box<dyn Fn(Input) + Send + Sync>,
    pub(crate) status: Arc<Mutex<Vec<Arc<GroupStatus>>>>,
    pub(crate) own_report: Box<dyn Fn() -> Condition + Send + Sync>,
    pub(crate) log: Arc<LogThread>,
}

#[derive(Clone, Copy, Debug)]
struct Load {
    counted: u64,
    smooth: u64,
    /// What had fallen on each part of the slots when last looked at, and what does, smoothed.
    heat: [u64; HEAT_PARTS],
    parts: [u64; HEAT_PARTS],
}

impl Default for Load {
    fn default() -> Load {
        Load { counted: 0, smooth: 0, heat: [0; HEAT_PARTS], parts: [0; HEAT_PARTS] }
    }
}

impl Member {
    pub(crate) fn new(
        identity: Identity,
        place: Place,
        (replace_after, growth): (Duration, Growth),
        parts: Parts,
    ) -> Member {
        let Parts { peers, shards, add, disk, options, put, status, own_report, log } = parts;
        Member {
            own: identity.node,
            peers,
            identity,
            place,
            token: OnceLock::new(),
            replace_after,
            growth,
            shards,
            put,
            add,
            disk,
            options,
            moving: Mutex::default(),
            status,
            own_report,
            reports: Mutex::default(),
            loads: Mutex::default(),
            log,
            is_slow: AtomicBool::new(false),
            is_retiring: AtomicBool::new(false),
            shunned: Mutex::default(),
            removed: watch::Sender::new(false),
        }
    }

    /// Where other nodes reach this one.
    pub fn address(&self) -> &str {
        &self.place.peer
    }

    /// Whether no other node belongs to the cluster.
    pub fn is_alone(&self) -> bool {
        let cluster = self.cluster();
        self.own == FIRST_NODE && cluster.nodes().keys().all(|node| *node == self.own)
    }

    /// Whether this node holds a replica of the group, as far as it knows.
    pub fn holds(&self, group: GroupId) -> bool {
        // One that was given to another node while this one was down is nobody's any more, though its own log does not know it: the group
        // talks to those that it has now.
        let is_elsewhere =
            |to: &::cluster::Assignment| !to.voters.contains(&self.own) && !to.learners.contains(&self.own);
        if self.cluster().groups().get(&group).is_some_and(is_elsewhere) {
            return false;
        }
        let status = self.status.lock();
        status.iter().any(|own| own.group == group && own.membership.members().contains(&self.own))
    }

    /// What is missing before this node can serve, in words.
    pub fn waits_for(&self) -> Option<String> {
        let cluster = self.cluster();
        if self.status.lock().is_empty() {
            return Some("the first step".into());
        }
        if cluster.nodes().get(&self.own).is_none() {
            let links = self.links().iter().filter(|link| link.is_up()).count();
            return Some(match self.own == FIRST_NODE && cluster.is_empty() {
                true => "founding the cluster".into(),
                false => format!("waiting for the cluster's state from its leader ({links} nodes reached)"),
            });
        }
        let leaderless = |shard: &&Arc<Shard<Client>>| shard.leader().is_none() && self.holds(shard.group);
        let group = self.shards.iter().take(self.options.data_shards + 1).find(leaderless)?.group;
        let name = if group == GroupId::META { "the meta group".to_owned() } else { format!("shard {}", group.0) };
        let missing: Vec<String> = {
            let up: BTreeSet<u64> = self.links().iter().filter(|link| link.is_up()).map(|link| link.node).collect();
            let others = cluster.nodes().values().filter(|node| node.id != self.own && !up.contains(&node.id.0));
            others.map(|node| format!("node {} at {}", node.id.0, node.place.peer)).collect()
        };
        Some(match missing.is_empty() {
            true => format!("{name} is electing its leader"),
            false => format!("{name} has no leader; not reached: {}", missing.join(", ")),
        })
    }

    /// Ends when this node is no part of the cluster any more: whoever it asks says so.
    pub async fn until_removed(&self) {
        let _ = self.removed.subscribe().wait_for(|removed| *removed).await;
    }

    /// From now on this node hands over whatever it leads, if there is somebody to take it.
    pub fn retire(&self) {
        self.is_retiring.store(true, Ordering::Relaxed);
    }

    /// Whether it leads something that another node could lead.
    pub fn could_hand_over(&self) -> bool {
        let links = self.links();
        let up = |id: &NodeId| *id != self.own && links.iter().any(|link| link.node == id.0 && link.is_up());
        self.status.lock().iter().any(|group| group.leads && group.membership.voters.iter().any(up))
    }

    /// How long the append that is under way has taken.
    fn append_age(&self, now: Instant) -> Duration {
        match self.log.figures().under_way_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => now.since(Instant(since)),
        }
    }

    /// The cluster as of the last entry applied here.
    pub fn cluster(&self) -> Arc<Cluster> {
        self.meta().state().cluster().clone()
    }

    fn meta(&self) -> &Arc<Shard<Client>> {
        &self.shards[0]
    }

    /// This node's word on itself.
    pub fn report(&self) -> Report {
        let loads =
            self.loads.lock().iter().map(|(group, load)| (*group, (load.smooth, load.parts.to_vec()))).collect();
        let mut groups: Vec<GroupStatus> = self.status.lock().iter().map(|group| (**group).clone()).collect();
        for group in &mut groups {
            // They mostly stand in the same order.
            let place = self.shards.get(group.group.0 as usize).filter(|shard| shard.group == group.group);
            let Some(shard) = place.or_else(|| self.shards.iter().find(|shard| shard.group == group.group)) else {
                continue;
            };
            let state = shard.state();
            group.applied = state.applied();
            let tables = [state.tables(Durability::Fsync), state.tables(Durability::Memory)];
            group.keys = tables.iter().flat_map(|tables| (0..DATABASES as u8).map(|db| tables.len(db) as u64)).sum();
        }
        let groups = Report::groups(&groups, &loads);
        let condition = Condition { slow_disk: self.is_slow.load(Ordering::Relaxed), ..(self.own_report)() };
        let moving = self.moving().into_values().collect();
        let hears = |link: &LinkStatus| link.is_up() && link.heard.is_some_and(|heard| heard < HEARS_WITHIN);
        let hears = self.links().iter().filter(|link| hears(link)).map(|link| link.node).collect();
        Report { node: self.own.0, condition, groups, moving, hears }
    }

    /// What each node last said of itself, and how long ago; this one included.
    pub fn reports(&self) -> BTreeMap<NodeId, (Duration, Report)> {
        let now = clock::now();
        let others = self.reports.lock();
        let mut all: BTreeMap<NodeId, (Duration, Report)> =
            others.iter().map(|(node, (at, report))| (*node, (now.since(*at), report.clone()))).collect();
        drop(others);
        all.insert(self.own, (Duration::ZERO, self.report()));
        all
    }

    /// The links, by node.
    pub fn links(&self) -> Vec<LinkStatus> {
        self.peers.links()
    }
}

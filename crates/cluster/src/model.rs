//! The cluster as every node knows it.

use std::collections::BTreeMap;
use std::fmt;

use base::{ClusterId, GroupId, Millis, NodeId};

use crate::slots::{Move, SlotMap};

/// Nodes that a cluster may have: each is a member of the meta group.
pub const NODES_MAX: usize = 31;
/// Bytes of an address, a zone or another word that a node says of itself.
pub const WORD_BYTES_MAX: usize = 255;
/// Bytes of a certificate in the stored state.
pub const CERTIFICATE_BYTES_MAX: usize = 16 << 10;

/// What a node is there for. Every node applies the meta group, whatever its roles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Serves the front door.
    pub gateway: bool,
    /// Holds replicas of data shards.
    pub data: bool,
    /// May vote in the meta group.
    pub meta: bool,
}

impl Roles {
    /// Everything: what a node does unless it is told otherwise.
    pub const ALL: Roles = Roles { gateway: true, data: true, meta: true };

    /// The words of a setting: `gateway`, `data`, `meta`.
    ///
    /// # Errors
    /// A sentence that names the word.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Roles, String> {
        let mut roles = Roles { gateway: false, data: false, meta: false };
        for word in words {
            match word.trim() {
                "gateway" => roles.gateway = true,
                "data" => roles.data = true,
                "meta" => roles.meta = true,
                other => return Err(format!("{other:?} is no role of a node; there are gateway, data and meta")),
            }
        }
        if roles.bits() == 0 {
            return Err("a node without a role does nothing; name some of gateway, data and meta".into());
        }
        Ok(roles)
    }

    pub(crate) fn bits(self) -> u8 {
        u8::from(self.gateway) | u8::from(self.data) << 1 | u8::from(self.meta) << 2
    }

    pub(crate) fn from_bits(bits: u8) -> Option<Roles> {
        (1..8).contains(&bits).then_some(Roles { gateway: bits & 1 != 0, data: bits & 2 != 0, meta: bits & 4 != 0 })
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [("gateway", self.gateway), ("data", self.data), ("meta", self.meta)];
        let words: Vec<&str> = words.into_iter().filter(|(_, is)| *is).map(|(word, _)| word).collect();
        f.write_str(&words.join(","))
    }
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where other nodes reach it, `host:port`.
    pub peer: String,
    /// Its plain Redis door, as clients should reach it.
    pub redis: String,
    /// Its cluster Redis door; empty where there is none.
    pub redis_cluster: String,
    /// Its admin door.
    pub admin: String,
    /// Its Kafka door, `host:port`, as clients should reach it; empty for one that does not say.
    pub kafka: String,
    /// Its etcd door, likewise.
    pub etcd: String,
    /// What fails together: a rack, a data centre. Empty for none of that.
    pub zone: String,
    /// See [`Roles`].
    pub roles: Roles,
}

/// What is to become of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Serves.
    Active,
    /// Keeps its replicas but leads nothing: about to be restarted.
    Draining,
    /// Its replicas move away; then it is forgotten.
    Leaving,
}

impl NodeState {
    /// A word for people.
    pub fn word(self) -> &'static str {
        match self {
            NodeState::Active => "active",
            NodeState::Draining => "draining",
            NodeState::Leaving => "leaving",
        }
    }
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number, never given again.
    pub id: NodeId,
    /// What it says of itself.
    pub place: Place,
    /// What is to become of it.
    pub state: NodeState,
    /// SHA-256 of its public key (SubjectPublicKeyInfo): who asks to join twice with one key is the same node.
    pub key: [u8; 32],
    /// Shard time of the meta group when it joined.
    pub since: Millis,
}

/// Where the replicas of a group belong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assignment {
    /// Who should vote, sorted.
    pub voters: Vec<NodeId>,
    /// Who should receive the log without voting, sorted.
    pub learners: Vec<NodeId>,
    /// Who should lead, if it can.
    pub leader: Option<NodeId>,
    /// Placed by hand: the planner leaves it alone as long as these nodes serve.
    pub by_hand: bool,
}

/// What was made when the cluster was founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The certificate of the cluster's own authority, DER.
    pub certificate: Vec<u8>,
    /// SHA-256 of the secret in the join token.
    pub token: [u8; 32],
}

/// The cluster. Empty until it is founded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub(crate) id: ClusterId,
    pub(crate) authority: Option<Authority>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// The number that the next node gets.
    pub(crate) next: u64,
    pub(crate) groups: BTreeMap<GroupId, Assignment>,
    pub(crate) replication: usize,
    /// Shards that were not founded with the cluster, and who made up each at its birth.
    pub(crate) born: BTreeMap<GroupId, Vec<NodeId>>,
    /// Which shard has which slots, where that is not as it was founded.
    pub(crate) map: Option<SlotMap>,
    /// Slots on their way, by the shard that they leave.
    pub(crate) moves: BTreeMap<GroupId, Move>,
    /// Index of the last entry that changed anything here.
    pub(crate) index: u64,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster {
            id: ClusterId([0; 16]),
            authority: None,
            nodes: BTreeMap::new(),
            next: 1,
            groups: BTreeMap::new(),
            replication: REPLICATION,
            born: BTreeMap::new(),
            map: None,
            moves: BTreeMap::new(),
            index: 0,
        }
    }
}

/// Voters of a group where there are enough nodes.
pub const REPLICATION: usize = 3;

impl Cluster {
    /// Whether nobody has founded it yet.
    pub fn is_empty(&self) -> bool {
        self.authority.is_none()
    }

    /// Which cluster.
    pub fn id(&self) -> ClusterId {
        self.id
    }

    /// Its authority, once founded.
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_ref()
    }

    /// Its nodes by number.
    pub fn nodes(&self) -> &BTreeMap<NodeId, Node> {
        &self.nodes
    }

    /// Whether a node of this number was here and has gone.
    pub fn was_removed(&self, node: NodeId) -> bool {
        node.0 < self.next && !self.nodes.contains_key(&node)
    }

    /// The greatest number that a node ever got; 0 before the first.
    pub fn newest(&self) -> NodeId {
        NodeId(self.next - 1)
    }

    /// Where the replicas of each group belong.
    pub fn groups(&self) -> &BTreeMap<GroupId, Assignment> {
        &self.groups
    }

    /// Voters that a group should have where there are enough nodes: 3 or 5.
    pub fn replication(&self) -> usize {
        self.replication
    }

    /// Index of the last entry that changed anything here.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// How many voters a group gets with so many nodes to choose from: an odd number, for two nodes decide no better than one.
    pub fn voters_of(&self, nodes: usize) -> usize {
        match nodes.min(self.replication) {
            0..=2 => 1,
            3 | 4 => 3,
            _ => 5,
        }
    }
}

//! What changes the cluster: units of entries of the meta group, and what comes of them.

use base::{ClusterId, GroupId, Millis, NodeId, SlotSet};

use crate::model::{
    Assignment, Authority, CERTIFICATE_BYTES_MAX, Cluster, NODES_MAX, Node, NodeState, Place, Roles, WORD_BYTES_MAX,
};

/// A change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The first node founds the cluster, if that has not been done.
    Found {
        /// Which.
        id: ClusterId,
        /// Its authority.
        authority: Authority,
        /// The first node.
        node: NodeId,
        /// See [`Node::key`].
        key: [u8; 32],
        /// What it says of itself.
        place: Place,
        /// Its groups.
        groups: Vec<GroupId>,
    },
    /// A new node. Who asks twice with one key gets the same number.
    Join {
        /// See [`Node::key`].
        key: [u8; 32],
        /// What it says of itself.
        place: Place,
    },
    /// A node says of itself what may have changed since it was last up.
    Describe {
        /// Who.
        node: NodeId,
        /// What it says.
        place: Place,
    },
    /// What is to become of a node.
    SetState {
        /// Of whom.
        node: NodeId,
        /// What.
        state: NodeState,
    },
    /// A node that holds nothing more is no part of the cluster.
    Forget {
        /// Who.
        node: NodeId,
    },
    /// Where the replicas of a group belong.
    Assign {
        /// Whose.
        group: GroupId,
        /// Where they belonged when this was thought out: where that is no longer so, somebody else was quicker and nothing is done. `None` in
        /// entries from before there was such a question.
        was: Option<Assignment>,
        /// Where.
        to: Assignment,
    },
    /// Voters that a group should have: 3 or 5.
    Replicate {
        /// How many.
        voters: usize,
    },
    /// Another join token from now on.
    Token {
        /// SHA-256 of its secret.
        token: [u8; 32],
    },
    /// A new shard that is to take these slots from another. Who asks twice gets the same shard.
    Split {
        /// Which has them.
        from: GroupId,
        /// Which.
        slots: SlotSet,
        /// Who makes up the new shard: those who decide in the other.
        founders: Vec<NodeId>,
    },
    /// A shard is to take these slots from another.
    MoveSlots {
        /// Which has them.
        from: GroupId,
        /// Which takes them.
        to: GroupId,
        /// Which.
        slots: SlotSet,
    },
    /// The slots that were on their way from this shard have arrived, as both shards' logs say.
    Moved {
        /// Which had them.
        from: GroupId,
        /// Which has them.
        to: GroupId,
        /// Which.
        slots: SlotSet,
    },
}

impl Change {
    /// A word for people; nothing of what it holds, for some of that is secret.
    pub fn word(&self) -> &'static str {
        match self {
            Change::Found { .. } => "founded",
            Change::Join { .. } => "join",
            Change::Describe { .. } => "describe",
            Change::SetState { .. } => "state",
            Change::Forget { .. } => "forget",
            Change::Assign { .. } => "assign",
            Change::Replicate { .. } => "replicate",
            Change::Token { .. } => "token",
            Change::Split { .. } => "split",
            Change::MoveSlots { .. } => "move-slots",
            Change::Moved { .. } => "moved",
        }
    }
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, or as it was already.
    Done,
    /// The number of the node that joined.
    Joined(NodeId),
    /// The shard that was made.
    Made(GroupId),
    /// Nothing was done.
    Refused(String),
    /// Nothing was done: what it was thought out for has changed meanwhile.
    Outdated,
}

impl Cluster {
    /// Applies a change at the index and stamp of its entry: the same on every node.
    pub fn apply(&mut self, change: &Change, index: u64, now: Millis) -> Outcome {
        match self.change(change, index, now) {
            Ok(outcome) => outcome,
            Err(why) => Outcome::Refused(why),
        }
    }

    fn change(&mut self, change: &Change, index: u64, now: Millis) -> Result<Outcome, String> {
        let before = self.clone();
        let outcome = match change {
            Change::Found { id, authority, node, key, place, groups } => {
                if self.authority.is_some() {
                    return Ok(Outcome::Done);
                }
                check_place(place)?;
                if authority.certificate.len() > CERTIFICATE_BYTES_MAX || node.0 == 0 {
                    return invalid("no cluster can be founded like this");
                }
                self.id = *id;
                self.authority = Some(authority.clone());
                self.next = node.0 + 1;
                let (place, state) = (place.clone(), NodeState::Active);
                self.nodes.insert(*node, Node { id: *node, place, state, key: *key, since: now });
                for group in groups {
                    let to = Assignment { voters: vec![*node], leader: Some(*node), ..Assignment::default() };
                    self.groups.insert(*group, to);
                }
                Outcome::Done
            }
            Change::Join { key, place } => {
                if self.authority.is_none() {
                    return invalid("the cluster has not been founded yet; try again in a moment");
                }
                check_place(place)?;
                if let Some(known) = self.nodes.values_mut().find(|node| node.key == *key) {
                    known.place = place.clone();
                    self.index = index;
                    return Ok(Outcome::Joined(known.id));
                }
                if self.nodes.len() >= NODES_MAX {
                    return invalid("the cluster has as many nodes as it can (31); remove one first");
                }
                if let Some(other) = self.nodes.values().find(|node| node.place.peer == place.peer) {
                    return Err(format!(
                        "node {} already has the address {}. If that node is gone for good, remove it first: quorate cluster remove {}",
                        other.id.0, place.peer, other.id.0
                    ));
                }
                let id = NodeId(self.next);
                self.next += 1;
                let (place, state) = (place.clone(), NodeState::Active);
                self.nodes.insert(id, Node { id, place, state, key: *key, since: now });
                Outcome::Joined(id)
            }
            Change::Describe { node, place } => {
                check_place(place)?;
                self.node(*node)?.place = place.clone();
                Outcome::Done
            }
            Change::SetState { node, state } => {
                if *state == NodeState::Leaving
                    && self.nodes.values().all(|other| other.id == *node || other.state == NodeState::Leaving)
                {
                    return invalid("the last node cannot leave");
                }
                self.node(*node)?.state = *state;
                Outcome::Done
            }
            Change::Forget { node } => {
                if self.nodes.get(node).is_some_and(|known| known.state != NodeState::Leaving) {
                    return invalid("a node leaves before it is forgotten");
                }
                let holds = |to: &Assignment| to.voters.contains(node) || to.learners.contains(node);
                if self.groups.values().any(holds) {
                    return invalid("the node still holds replicas");
                }
                self.nodes.remove(node);
                Outcome::Done
            }
            Change::Assign { group, was, to } => {
                self.check_assignment(to)?;
                let Some(own) = self.groups.get_mut(group) else {
                    return Err(format!("there is no shard {group}"));
                };
                // Asked twice, it is there already.
                if own != to && was.as_ref().is_some_and(|was| was != own) {
                    return Ok(Outcome::Outdated);
                }
                own.clone_from(to);
                Outcome::Done
            }
            Change::Replicate { voters } => {
                if ![3, 5].contains(voters) {
                    return invalid("a shard has 3 or 5 replicas that decide");
                }
                self.replication = *voters;
                Outcome::Done
            }
            Change::Token { token } => {
                let Some(authority) = &mut self.authority else {
                    return invalid("the cluster has not been founded yet");
                };
                authority.token = *token;
                Outcome::Done
            }
            Change::Split { from, slots, founders } => Outcome::Made(self.split(*from, slots, founders, now)?),
            Change::MoveSlots { from, to, slots } => {
                self.begin_move(*from, *to, slots, now)?;
                Outcome::Done
            }
            Change::Moved { from, to, slots } => {
                self.end_move(*from, *to, slots);
                Outcome::Done
            }
        };
        if *self != before {
            self.index = index;
        }
        Ok(outcome)
    }

    fn node(&mut self, node: NodeId) -> Result<&mut Node, String> {
        let next = self.next;
        self.nodes.get_mut(&node).ok_or_else(|| {
            let gone = if node.0 < next { "is no longer part of the cluster" } else { "does not exist" };
            format!("node {} {gone}", node.0)
        })
    }

    fn check_assignment(&self, to: &Assignment) -> Result<(), String> {
        let is_set = |ids: &[NodeId]| ids.windows(2).all(|pair| pair[0] < pair[1]);
        let known = to.voters.iter().chain(&to.learners).all(|id| self.nodes.contains_key(id));
        let apart = to.learners.iter().all(|id| !to.voters.contains(id));
        let leads = to.leader.is_none_or(|leader| to.voters.contains(&leader));
        if to.voters.is_empty() || !is_set(&to.voters) || !is_set(&to.learners) || !known || !apart || !leads {
            return invalid(
                "replicas belong on different nodes of the cluster, one at least that votes, and the leader is one of those",
            );
        }
        Ok(())
    }
}

fn invalid<T>(why: &str) -> Result<T, String> {
    Err(why.to_owned())
}

/// A node's own words are bounded, and printable: they are shown to people and stand in answers of several protocols.
fn check_place(place: &Place) -> Result<(), String> {
    let Place { peer, redis, redis_cluster, admin, kafka, etcd, zone, roles } = place;
    let printable = |word: &String| word.len() <= WORD_BYTES_MAX && word.bytes().all(|byte| byte.is_ascii_graphic());
    if ![peer, redis, redis_cluster, admin, kafka, etcd, zone].into_iter().all(printable) || peer.is_empty() {
        return Err(format!(
            "addresses and zones are up to {WORD_BYTES_MAX} printable characters without spaces, and the peer address is needed"
        ));
    }
    if Roles::from_bits(roles.bits()).is_none() {
        return invalid("a node needs a role");
    }
    Ok(())
}

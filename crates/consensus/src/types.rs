//! The words of this room's border: nothing here names the `raft` crate's types, so that the log room, the shards and the
//! simulator need not know which library decides.

use base::NodeId;
use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb;

/// Indexes and terms from other nodes must stay below this, so that no sum of two of them overflows.
pub(crate) const NUMBER_MAX: u64 = 1 << 62;

/// The most members (voters and learners, both halves of a joint configuration) that a group may have.
pub const MEMBERS_MAX: usize = 64;

/// What an entry's data means. The numbers are stored and never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum EntryKind {
    /// Data for the state machine. Empty data is a new leader's first entry and changes nothing.
    Normal = 0,
    /// A change of membership. The group itself reads it; the state machine only counts its index.
    Membership = 1,
}

impl EntryKind {
    /// The kind with this stored number.
    pub fn from_number(number: u8) -> Option<EntryKind> {
        match number {
            0 => Some(EntryKind::Normal),
            1 => Some(EntryKind::Membership),
            _ => None,
        }
    }
}

/// One position of a group's log. Cloning shares the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position, counted from 1 without gaps.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
    /// What `data` means.
    pub kind: EntryKind,
    /// The proposal's bytes.
    pub data: Bytes,
}

/// What a voter must remember across a restart, beside its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term seen.
    pub term: u64,
    /// Whom this node voted for in that term; 0 for nobody.
    pub vote: u64,
    /// An index known to be committed. It may lag behind what was committed, never run ahead.
    pub commit: u64,
}

/// An index together with the term of its entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Index of the entry; 0 before the first.
    pub index: u64,
    /// Term of the entry; 0 before the first.
    pub term: u64,
}

/// What a node is within its group at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader or waits for one. Learners are always followers.
    Follower,
    /// Asks whether it would be elected; its term is not raised yet.
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Decides the order of entries.
    Leader,
}

/// Who belongs to a group. Each list is sorted and without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Who decides: a majority of these commits.
    pub voters: Vec<NodeId>,
    /// Who receives the log without deciding.
    pub learners: Vec<NodeId>,
    /// The former voters while a change is under way (joint consensus): a majority of these is needed as well.
    pub voters_outgoing: Vec<NodeId>,
    /// Former voters that become learners when the joint configuration is left.
    pub learners_next: Vec<NodeId>,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

/// One step of a change of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Makes the node a voter, whether new or a learner until now.
    AddVoter(NodeId),
    /// Makes the node a learner, whether new or a voter until now.
    AddLearner(NodeId),
    /// Removes the node.
    Remove(NodeId),
}

impl Membership {
    /// A plain configuration.
    pub fn new(voters: impl IntoIterator<Item = NodeId>, learners: impl IntoIterator<Item = NodeId>) -> Membership {
        Membership { voters: sorted(voters), learners: sorted(learners), ..Membership::default() }
    }

    /// Whether a change is under way: two majorities are needed.
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether one node decides all by itself.
    pub fn is_lone(&self) -> bool {
        self.voters.len() == 1 && self.voters_outgoing.is_empty()
    }

    /// Whether `node` votes, in either half of a joint configuration.
    pub fn votes(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.voters_outgoing.contains(&node)
    }

    /// Everyone who takes part in any way, each once, sorted.
    pub fn members(&self) -> Vec<NodeId> {
        let all = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let mut ids: Vec<NodeId> = all.into_iter().flatten().copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// The stored form (for snapshots): protobuf's `ConfState`.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_raft().encode_to_vec()
    }

    /// Reads the stored form. `None` where the bytes are no configuration or one that no group can have.
    pub fn from_bytes(bytes: &[u8]) -> Option<Membership> {
        let state = eraftpb::ConfState::decode(bytes).ok()?;
        let membership = Membership::from_raft(&state);
        membership.is_possible().then_some(membership)
    }

    /// Whether a group can have this configuration. The `raft` crate aborts on those where not.
    pub(crate) fn is_possible(&self) -> bool {
        let all = [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next];
        let each_is_a_set = all.iter().all(|ids| ids.windows(2).all(|w| w[0] < w[1]) && !ids.contains(&NodeId(0)));
        let apart = |a: &[NodeId], b: &[NodeId]| a.iter().all(|id| !b.contains(id));
        each_is_a_set
            && !self.voters.is_empty()
            && all.iter().map(|ids| ids.len()).sum::<usize>() <= MEMBERS_MAX
            && apart(&self.learners, &self.voters)
            && apart(&self.learners, &self.voters_outgoing)
            && apart(&self.learners_next, &self.voters)
            && apart(&self.learners_next, &self.learners)
            && self.learners_next.iter().all(|id| self.voters_outgoing.contains(id))
            && (self.is_joint() || !self.auto_leave)
    }

    pub(crate) fn from_raft(state: &eraftpb::ConfState) -> Membership {
        let nodes = |ids: &[u64]| sorted(ids.iter().map(|id| NodeId(*id)));
        Membership {
            voters: nodes(&state.voters),
            learners: nodes(&state.learners),
            voters_outgoing: nodes(&state.voters_outgoing),
            learners_next: nodes(&state.learners_next),
            auto_leave: state.auto_leave,
        }
    }

    pub(crate) fn to_raft(&self) -> eraftpb::ConfState {
        let ids = |nodes: &[NodeId]| nodes.iter().map(|node| node.0).collect();
        eraftpb::ConfState {
            voters: ids(&self.voters),
            learners: ids(&self.learners),
            voters_outgoing: ids(&self.voters_outgoing),
            learners_next: ids(&self.learners_next),
            auto_leave: self.auto_leave,
        }
    }
}

fn sorted(ids: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut ids: Vec<NodeId> = ids.into_iter().collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

impl Change {
    pub(crate) fn to_raft(self) -> eraftpb::ConfChangeSingle {
        use eraftpb::ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        let (node, kind) = match self {
            Change::AddVoter(node) => (node, AddNode),
            Change::AddLearner(node) => (node, AddLearnerNode),
            Change::Remove(node) => (node, RemoveNode),
        };
        eraftpb::ConfChangeSingle { change_type: kind as i32, node_id: node.0 }
    }
}

impl Entry {
    /// The crate's form; the bytes are shared.
    pub(crate) fn to_raft(&self) -> eraftpb::Entry {
        let entry_type = match self.kind {
            EntryKind::Normal => eraftpb::EntryType::EntryNormal,
            EntryKind::Membership => eraftpb::EntryType::EntryConfChangeV2,
        };
        eraftpb::Entry {
            entry_type: entry_type as i32,
            term: self.term,
            index: self.index,
            data: self.data.clone(),
            ..eraftpb::Entry::default()
        }
    }

    /// Our form of the crate's; the bytes are shared. Other kinds never enter a log (`guard`).
    pub(crate) fn from_raft(entry: &eraftpb::Entry) -> Entry {
        let kind = match entry.get_entry_type() {
            eraftpb::EntryType::EntryNormal => EntryKind::Normal,
            eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => EntryKind::Membership,
        };
        Entry { index: entry.index, term: entry.term, kind, data: entry.data.clone() }
    }
}

impl HardState {
    pub(crate) fn to_raft(self) -> eraftpb::HardState {
        eraftpb::HardState { term: self.term, vote: self.vote, commit: self.commit }
    }

    pub(crate) fn from_raft(state: &eraftpb::HardState) -> HardState {
        HardState { term: state.term, vote: state.vote, commit: state.commit }
    }
}

#[cfg(test)]
mod tests {
    use super::{Membership, NodeId};

    fn nodes(ids: &[u64]) -> Vec<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    #[test]
    fn a_membership_survives_its_stored_form() {
        let joint = Membership {
            voters: nodes(&[1, 2, 3]),
            learners: nodes(&[5]),
            voters_outgoing: nodes(&[1, 4]),
            learners_next: nodes(&[4]),
            auto_leave: true,
        };
        assert_eq!(Membership::from_bytes(&joint.to_bytes()), Some(joint.clone()));
        assert_eq!(joint.members(), nodes(&[1, 2, 3, 4, 5]));
        assert!(joint.is_joint() && joint.votes(NodeId(4)) && !joint.votes(NodeId(5)));
    }

    #[test]
    fn impossible_memberships_are_refused() {
        let plain = Membership::new(nodes(&[2, 1, 2]), []);
        assert_eq!(plain.voters, nodes(&[1, 2]));
        for wrong in [
            Membership::default(),
            Membership::new(nodes(&[0, 1]), []),
            Membership::new(nodes(&[1]), nodes(&[1])),
            Membership { auto_leave: true, ..plain.clone() },
            Membership { learners_next: nodes(&[3]), ..plain.clone() },
            Membership { voters_outgoing: nodes(&[1]), learners_next: nodes(&[1]), ..plain.clone() },
            Membership { voters_outgoing: nodes(&[7]), learners: nodes(&[7]), ..plain.clone() },
            Membership::new((1..100).map(NodeId), []),
        ] {
            assert_eq!(Membership::from_bytes(&wrong.to_bytes()), None, "{wrong:?}");
        }
        assert_eq!(Membership::from_bytes(b"\xff\xff"), None);
    }
}

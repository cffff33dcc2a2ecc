//! What decided entries do to a membership, for whoever replays a log before there is a group.

use crate::log::MemLog;
use crate::types::{Entry, EntryKind, HardState, Membership, Position};
use prost::Message as _;
use raft::eraftpb::ConfChangeV2;
use raft::{Config, RawNode};

impl Membership {
    /// Who belongs to the group behind this decided entry, given who did before it. The `raft` crate's own rules, so that a
    /// replay and a running group never differ; a change that they refuse changes nothing, on every node alike.
    pub fn after(&self, entry: &Entry) -> Membership {
        let unchanged = || self.clone();
        if entry.kind != EntryKind::Membership || !self.is_possible() {
            return unchanged();
        }
        let Ok(change) = ConfChangeV2::decode(entry.data.clone()) else { return unchanged() };
        let log = MemLog::new(Position::default(), &[], HardState::default(), Position::default(), self);
        let config = Config { id: self.voters[0].0, election_tick: 10, heartbeat_tick: 1, ..Config::default() };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let Ok(mut node) = RawNode::new(&config, log, &logger) else { return unchanged() };
        match node.apply_conf_change(&change) {
            Ok(state) => Membership::from_raft(&state),
            Err(_) => unchanged(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Entry, EntryKind, Membership};
    use crate::types::Change;
    use base::NodeId;
    use bytes::Bytes;
    use prost::Message as _;
    use raft::eraftpb::ConfChangeV2;

    fn entry(changes: &[Change]) -> Entry {
        let changes = changes.iter().map(|change| change.to_raft()).collect();
        let change = ConfChangeV2 { changes, ..ConfChangeV2::default() };
        Entry { index: 1, term: 1, kind: EntryKind::Membership, data: Bytes::from(change.encode_to_vec()) }
    }

    #[test]
    fn a_replayed_change_is_what_the_group_would_have_done() {
        let [one, two, three] = [NodeId(1), NodeId(2), NodeId(3)];
        let lone = Membership::new([one], []);
        let learning = lone.after(&entry(&[Change::AddLearner(two)]));
        assert_eq!(learning, Membership::new([one], [two]));
        let joint = learning.after(&entry(&[Change::AddVoter(two), Change::AddVoter(three)]));
        assert!(joint.is_joint() && joint.voters == [one, two, three] && joint.voters_outgoing == [one]);
        assert_eq!(joint.after(&entry(&[Change::Remove(one)])), joint, "refused while another one is under way");
        let three_voters = joint.after(&entry(&[]));
        assert_eq!(three_voters, Membership::new([one, two, three], []));
        assert_eq!(lone.after(&entry(&[Change::Remove(one)])), lone, "nobody would be left");
        let garbage = Entry { data: Bytes::from_static(b"\xff"), ..entry(&[]) };
        assert_eq!(lone.after(&garbage), lone);
    }
}

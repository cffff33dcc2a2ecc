//! What a group does because of fences: what this node's own word is worth, whose votes and acknowledgements count, and how a member
//! that has lost something is let back in. The rules are in [`crate::fence`].

use super::Group;
use crate::fence::{self, Readmission, Tag, Trust};
use crate::io::Output;
use crate::types::Role;
use base::NodeId;
use raft::StateRole;
use raft::eraftpb::{self, Message, MessageType};
use std::collections::BTreeMap;

impl Group {
    pub(super) fn trust(&self) -> Trust {
        #[cfg(any(test, feature = "planted"))]
        match self.fence.trust {
            Trust::Damage if self.planted.fence_ignored => return Trust::Whole,
            Trust::Doubt if self.planted.doubt_ignored => return Trust::Whole,
            _ => {}
        }
        self.fence.trust
    }

    /// Whether this node must not stand for election.
    pub(super) fn is_barred(&self) -> bool {
        self.trust() == Trust::Damage
    }

    /// Whether a message that the gate let in may reach the library, as far as fences go.
    pub(super) fn passes_fence(&mut self, message: &Message, tag: Tag) -> bool {
        use MessageType::{
            MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgReadIndexResp, MsgRequestPreVote,
            MsgRequestPreVoteResponse, MsgRequestVote, MsgRequestVoteResponse, MsgSnapshot, MsgTimeoutNow,
        };
        let (kind, from) = (message.get_msg_type(), NodeId(message.from));
        if fence::is_report(message) {
            self.hear_fence(from, message.term, tag.name);
            return false;
        }
        if matches!(kind, MsgAppendResponse | MsgHeartbeatResponse)
            && self.fences.get(&from).is_some_and(|fence| fence.name != tag.name)
        {
            // From before that node's loss.
            return false;
        }
        let trust = self.trust();
        if trust == Trust::Whole {
            return true;
        }
        match kind {
            MsgAppend | MsgHeartbeat | MsgSnapshot | MsgReadIndexResp
                if self.fence.name == tag.name && tag.word > 0 =>
            {
                self.lifts_at = Some(tag.word);
                true
            }
            MsgHeartbeat => {
                self.asides.push(fence::report(self.fence.name, message));
                false
            }
            MsgAppend | MsgSnapshot | MsgReadIndexResp | MsgTimeoutNow => false,
            MsgRequestVote | MsgRequestPreVote if trust == Trust::Damage => {
                self.asides.push(fence::abstention(self.fence.name, message));
                false
            }
            MsgRequestVoteResponse | MsgRequestPreVoteResponse => trust == Trust::Doubt,
            _ => true,
        }
    }

    /// Another node stands behind a fence: what it acknowledged before counts no more, and it is let in once an entry has been
    /// decided without it.
    pub(super) fn hear_fence(&mut self, from: NodeId, term: u64, name: u64) {
        let core = &mut self.raft.raft;
        let known = self.fences.get(&from).is_some_and(|fence| fence.name == name);
        if core.state != StateRole::Leader || core.term != term || name == 0 || known {
            return;
        }
        let last = core.raft_log.last_index();
        let Some(progress) = core.mut_prs().get_mut(from.0) else { return };
        progress.become_probe();
        (progress.matched, progress.next_idx) = (0, last + 1);
        let entry = eraftpb::Entry::default();
        let propose = MessageType::MsgPropose as i32;
        let message = Message { msg_type: propose, from: core.id, entries: vec![entry], ..Message::default() };
        // Refused while the lead is being handed over: the next report comes with the next heartbeat.
        if core.step(message).is_ok() {
            let proof = core.raft_log.last_index();
            self.fences.insert(from, Readmission { name, proof, admitted: false });
        }
    }

    /// An answer to this node's question for votes is told to the library when it may count.
    pub(super) fn count_votes(&mut self, message: Message, tag: Tag) -> Vec<Message> {
        let core = &self.raft.raft;
        let trial = match message.get_msg_type() {
            MessageType::MsgRequestVoteResponse => false,
            MessageType::MsgRequestPreVoteResponse => true,
            _ => return vec![message],
        };
        let current = match core.state {
            StateRole::PreCandidate => trial && message.term == core.term + 1,
            StateRole::Candidate => !trial && message.term == core.term,
            StateRole::Follower | StateRole::Leader => false,
        };
        if !current {
            // An abstention is no word of the library's.
            return if tag.word == fence::ABSTAINS { Vec::new() } else { vec![message] };
        }
        let own_doubt = self.trust() == Trust::Doubt;
        let others = self.other_voters();
        self.ballots.hear((message.term, trial), message, tag, own_doubt, &others)
    }

    pub(super) fn other_voters(&self) -> Vec<NodeId> {
        let membership = self.membership();
        let voters = membership.voters.iter().chain(&membership.voters_outgoing);
        voters.copied().filter(|id| *id != self.node).collect()
    }

    pub(super) fn begin_role(&mut self, role: Role, term: u64) {
        self.fences.clear();
        if role != Role::Leader {
            return;
        }
        let proof = self.raft.raft.raft_log.last_index();
        let others = self.other_voters();
        let unanimous = if others.is_empty() { Some(BTreeMap::new()) } else { self.ballots.unanimous(term, &others) };
        if let Some(doubts) = unanimous {
            let admit = |(id, name)| (id, Readmission { name, proof, admitted: true });
            self.fences.extend(doubts.into_iter().map(admit));
            if self.fence.trust == Trust::Doubt {
                self.lifts_at = Some(proof);
            }
        }
    }

    /// What is decided lets others in, and lifts this node's own fence.
    pub(super) fn settle_fences(&mut self, out: &mut Vec<Output>) {
        let log = &self.raft.raft.raft_log;
        let (committed, persisted) = (log.committed, log.persisted);
        let mut news = false;
        for fence in self.fences.values_mut().filter(|fence| !fence.admitted && fence.proof <= committed) {
            fence.admitted = true;
            news = true;
        }
        if news {
            self.raft.ping();
        }
        if self.fence.trust != Trust::Whole && self.lifts_at.is_some_and(|at| at <= committed.min(persisted)) {
            self.fence.trust = Trust::Whole;
            out.push(Output::FenceLifted { name: self.fence.name });
        }
    }

    /// What a message says of fences: this node's own in its answers, the addressee's in what a leader says.
    pub(super) fn tag(&self, message: &mut Message) {
        use MessageType::{
            MsgAppend, MsgAppendResponse, MsgHeartbeat, MsgHeartbeatResponse, MsgReadIndexResp,
            MsgRequestPreVoteResponse, MsgRequestVoteResponse, MsgSnapshot,
        };
        let tag = match message.get_msg_type() {
            MsgAppendResponse | MsgHeartbeatResponse => Tag { name: self.fence.name, word: 0 },
            MsgRequestVoteResponse | MsgRequestPreVoteResponse if !message.reject && self.trust() == Trust::Doubt => {
                Tag { name: self.fence.name, word: fence::IN_DOUBT }
            }
            MsgAppend | MsgHeartbeat | MsgSnapshot | MsgReadIndexResp => match self.fences.get(&NodeId(message.to)) {
                Some(fence) if fence.admitted => Tag { name: fence.name, word: fence.proof },
                _ => Tag::default(),
            },
            _ => Tag::default(),
        };
        tag.put(message);
    }
}

//! A node whose disk lost, or may have lost, something that it had vouched for: its word on the group does not count until a leader
//! has let it back in.
//!
//! # What could go wrong
//! A node acknowledged entry 100, or voted in term 7, and its disk forgot. If it votes again it may elect a leader without entry
//! 100; if it acknowledges again it may help a leader of term 6 to decide what term 7 has decided otherwise. So it stands behind a
//! *fence*, which has a name that was drawn at that start and is kept on the disk.
//!
//! # The way back
//! ```text
//! leader                                   node behind the fence X
//!   heartbeat ───────────────────────────►   (dropped: it says nothing that X may pass)
//!   ◄─────────────────────────────────────  report X
//!   what it acknowledged before counts no more; an entry R is proposed
//!   R is decided, without that node's word
//!   append, heartbeat, … with (X, R) ─────►  taken, and answered with X
//!                                            has R, durable and decided: the fence is lifted
//! ```
//! R is decided by a majority M without that node, after its crash. A leader of a later term that it had voted for before would need
//! a vote from M, and M's nodes have R, which that candidate had not: so there is none, and taking orders from this leader breaks no
//! promise. Everything that was decided thanks to acknowledgements of the node that are lost stands in this leader's log before R,
//! since every leader since was elected without its vote: once the node has R it has all of that again.
//!
//! # Torn or rotten
//! A node that cut a torn tail is *in doubt*: most likely nothing was lost, for a write that a power cut tears was never
//! acknowledged; but rot there looks the same. Like the others it waits to be let back in. But after a power cut of all nodes there
//! may be nobody to do so. So a vote from a node in doubt does count **where every voter has spoken**: has granted its vote, or said
//! that it stands behind a fence of known damage. Then whatever was decided is held by a voter that compared logs, unless a
//! majority's tails are all rotten; and nobody is left who could still become leader of an older election. Such a leader has let
//! those voters in at once: R is its first entry.
//!
//! On the wire a fence's name is the message's `priority`, R or a word is its `deprecated_priority`: fields that the library has no
//! use for here.

use base::NodeId;
use raft::eraftpb::{Message, MessageType};
use std::collections::{BTreeMap, BTreeSet};

/// A vote by a node in doubt.
pub(crate) const IN_DOUBT: u64 = 1;
/// Not a vote: the node knows that it has lost something.
pub(crate) const ABSTAINS: u64 = 2;

/// What a node's own word on a group is worth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    /// Everything that it vouched for is there.
    #[default]
    Whole,
    /// A torn tail was cut off that may have been vouched for.
    Doubt,
    /// Something that it vouched for is lost.
    Damage,
}

/// A node's fence in a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    /// Drawn at random when the loss was found, never zero, below 2⁶²; zero if there never was one.
    pub name: u64,
    /// [`Trust::Whole`] once it has been lifted: the name then stays, for a leader may still wait for messages that carry it.
    pub trust: Trust,
}

/// What a leader knows of another node's fence, in this term.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readmission {
    pub name: u64,
    /// R.
    pub proof: u64,
    pub admitted: bool,
}

/// What a message says about a fence.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tag {
    pub name: u64,
    pub word: u64,
}

impl Tag {
    pub(crate) fn of(message: &Message) -> Tag {
        Tag { name: u64::try_from(message.priority).unwrap_or(0), word: message.deprecated_priority }
    }

    pub(crate) fn put(self, message: &mut Message) {
        message.priority = i64::try_from(self.name).unwrap_or(0);
        message.deprecated_priority = self.word;
    }
}

/// A node says that it stands behind a fence: an answer to a heartbeat which the library is not shown.
pub(crate) fn report(name: u64, heartbeat: &Message) -> Message {
    let mut message = Message {
        msg_type: MessageType::MsgHeartbeatResponse as i32,
        from: heartbeat.to,
        to: heartbeat.from,
        term: heartbeat.term,
        reject: true,
        ..Message::default()
    };
    Tag { name, word: 0 }.put(&mut message);
    message
}

/// Whether it is one.
pub(crate) fn is_report(message: &Message) -> bool {
    message.get_msg_type() == MessageType::MsgHeartbeatResponse && message.reject
}

/// A node that has lost something says so to whoever asks for its vote.
pub(crate) fn abstention(name: u64, request: &Message) -> Message {
    let kind = match request.get_msg_type() {
        MessageType::MsgRequestPreVote => MessageType::MsgRequestPreVoteResponse,
        _ => MessageType::MsgRequestVoteResponse,
    };
    let (from, to, term) = (request.to, request.from, request.term);
    let mut message = Message { msg_type: kind as i32, from, to, term, reject: true, ..Message::default() };
    Tag { name, word: ABSTAINS }.put(&mut message);
    message
}

/// The answers to this node's question for votes.
#[derive(Debug, Default)]
pub(crate) struct Ballots {
    /// The round: term of the answers, and whether it is the trial before the real one.
    round: (u64, bool),
    spoken: BTreeSet<NodeId>,
    /// Names of the fences of those in doubt.
    doubts: BTreeMap<NodeId, u64>,
    held: Vec<Message>,
}

impl Ballots {
    /// A voter has spoken. What may be told to the library now: nothing, that message, or all that were held.
    pub(crate) fn hear(
        &mut self,
        round: (u64, bool),
        message: Message,
        tag: Tag,
        own_doubt: bool,
        others: &[NodeId],
    ) -> Vec<Message> {
        if self.round != round {
            *self = Ballots { round, ..Ballots::default() };
        }
        let from = NodeId(message.from);
        if message.reject && tag.word != ABSTAINS {
            return vec![message];
        }
        self.spoken.insert(from);
        if tag.word == IN_DOUBT {
            self.doubts.insert(from, tag.name);
        }
        let mut now = Vec::new();
        if message.reject {
            // An abstention: presence is all that it says.
        } else if own_doubt || tag.word == IN_DOUBT {
            self.held.push(message);
        } else {
            now.push(message);
        }
        if others.iter().all(|id| self.spoken.contains(id)) {
            now.append(&mut self.held);
        }
        now
    }

    /// The fences of those in doubt, if this round was won in which every voter has spoken.
    pub(crate) fn unanimous(&self, term: u64, others: &[NodeId]) -> Option<BTreeMap<NodeId, u64>> {
        let all = self.round == (term, false) && others.iter().all(|id| self.spoken.contains(id));
        all.then(|| self.doubts.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(from: u64, reject: bool) -> Message {
        Message { msg_type: MessageType::MsgRequestVoteResponse as i32, from, reject, term: 7, ..Message::default() }
    }

    fn heard(ballots: &mut Ballots, from: u64, word: u64, own_doubt: bool) -> Vec<u64> {
        let tag = Tag { name: if word == 0 { 0 } else { from * 100 }, word };
        let others = [NodeId(2), NodeId(3)];
        let told = ballots.hear((7, false), vote(from, word == ABSTAINS), tag, own_doubt, &others);
        told.iter().map(|message| message.from).collect()
    }

    #[test]
    fn a_vote_in_doubt_counts_where_every_voter_has_spoken() {
        let mut ballots = Ballots::default();
        assert_eq!(heard(&mut ballots, 2, IN_DOUBT, false), []);
        assert_eq!(heard(&mut ballots, 2, IN_DOUBT, false), [], "twice is not two");
        assert_eq!(heard(&mut ballots, 3, 0, false), [3, 2, 2]);
        assert_eq!(ballots.unanimous(7, &[NodeId(2), NodeId(3)]), Some(BTreeMap::from([(NodeId(2), 200)])));
        assert_eq!(ballots.unanimous(8, &[NodeId(2), NodeId(3)]), None);
    }

    #[test]
    fn a_candidate_in_doubt_needs_every_word() {
        let mut ballots = Ballots::default();
        assert_eq!(heard(&mut ballots, 2, 0, true), []);
        assert_eq!(heard(&mut ballots, 3, ABSTAINS, true), [2], "who abstains has spoken");
    }

    #[test]
    fn whole_voters_need_nobody() {
        let mut ballots = Ballots::default();
        assert_eq!(heard(&mut ballots, 2, 0, false), [2]);
        assert_eq!(ballots.unanimous(7, &[NodeId(2), NodeId(3)]), None);
    }

    #[test]
    fn another_round_starts_anew() {
        let mut ballots = Ballots::default();
        assert_eq!(heard(&mut ballots, 2, IN_DOUBT, false), []);
        let others = [NodeId(2), NodeId(3)];
        let told = ballots.hear((8, false), vote(3, false), Tag::default(), true, &others);
        assert!(told.is_empty());
    }
}

//! Reads that wait for an index, in rounds: all that wait when a round starts share it; what comes while it is under way
//! waits for the next one, for only a question asked *before* a round may be answered by it.
//!
//! A round's name is never used twice, by no node and no start of one: an answer that comes late must not be taken for
//! that of a newer question (etcd-io/etcd #20418).

use base::{Instant, NodeId};
use std::mem::take;

/// Bytes of a round's name: node, start, number.
pub(crate) const NAME: usize = 24;

#[derive(Debug)]
struct Round {
    number: u64,
    tokens: Vec<u64>,
    give_up: Instant,
}

#[derive(Debug)]
pub(crate) struct Reads {
    waiting: Vec<u64>,
    round: Option<Round>,
    node: NodeId,
    start: u64,
    last_number: u64,
    #[cfg(any(test, feature = "planted"))]
    pub(crate) planted_one_name: bool,
}

impl Reads {
    /// `start` differs between two starts of a node.
    pub(crate) fn new(node: NodeId, start: u64) -> Reads {
        Reads {
            waiting: Vec::new(),
            round: None,
            node,
            start,
            last_number: 0,
            #[cfg(any(test, feature = "planted"))]
            planted_one_name: false,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len() + self.round.as_ref().map_or(0, |round| round.tokens.len())
    }

    pub(crate) fn ask(&mut self, token: u64) {
        self.waiting.push(token);
    }

    /// Whether a round can start and somebody waits for it.
    pub(crate) fn is_due(&self) -> bool {
        self.round.is_none() && !self.waiting.is_empty()
    }

    /// Starts a round for all that wait; answers its name.
    pub(crate) fn start_round(&mut self, give_up: Instant) -> Vec<u8> {
        self.last_number += 1;
        #[cfg(any(test, feature = "planted"))]
        if self.planted_one_name {
            self.last_number = 1;
        }
        let number = self.last_number;
        self.round = Some(Round { number, tokens: take(&mut self.waiting), give_up });
        let mut name = Vec::with_capacity(NAME);
        for part in [self.node.0, self.start, number] {
            name.extend_from_slice(&part.to_le_bytes());
        }
        name
    }

    /// The reads of the round with this name, if it is the one under way.
    pub(crate) fn finish_round(&mut self, name: &[u8]) -> Vec<u64> {
        let part = |i: usize| name.get(i * 8..)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
        let ours = name.len() == NAME && part(0) == Some(self.node.0) && part(1) == Some(self.start);
        let number = part(2).filter(|_| ours);
        match self.round.take_if(|round| Some(round.number) == number) {
            Some(round) => round.tokens,
            None => Vec::new(),
        }
    }

    /// When the round under way is to be given up.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.round.as_ref().map(|round| round.give_up)
    }

    /// Gives up the round under way.
    pub(crate) fn drop_round(&mut self) -> Vec<u64> {
        self.round.take().map_or_else(Vec::new, |round| round.tokens)
    }

    /// Gives up everything.
    pub(crate) fn drop_all(&mut self) -> Vec<u64> {
        let mut tokens = self.drop_round();
        tokens.append(&mut self.waiting);
        tokens
    }
}

#[cfg(test)]
mod tests {
    use super::{Instant, NodeId, Reads};

    #[test]
    fn a_round_answers_only_those_who_asked_before_it() {
        let mut reads = Reads::new(NodeId(1), 7);
        reads.ask(10);
        reads.ask(11);
        assert!(reads.is_due());
        let first = reads.start_round(Instant(5));
        reads.ask(12);
        assert!(!reads.is_due() && reads.len() == 3);
        assert_eq!(reads.deadline(), Some(Instant(5)));
        assert_eq!(reads.finish_round(b"other"), []);
        assert_eq!(Reads::new(NodeId(1), 8).start_round(Instant(0)).len(), first.len());
        assert_eq!(reads.finish_round(&first), [10, 11]);
        assert_eq!(reads.finish_round(&first), [], "an answer counts once");
        let second = reads.start_round(Instant(9));
        assert_ne!(first, second);
        reads.ask(13);
        assert_eq!(reads.drop_all(), [12, 13]);
        assert_eq!(reads.finish_round(&second), []);
    }
}

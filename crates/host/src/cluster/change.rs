//! Changes of the cluster, from whichever node to the leader of the meta group.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use ::cluster::{Change, Outcome};
use base::Instant;
use bytes::Bytes;
use doors::resp::peer::Peer;

use super::{Member, links};
use crate::peers::AskError;

/// How long a change may look for a leader.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two attempts.
const AGAIN: Duration = Duration::from_millis(100);
/// How long the leader may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long it may take a node to hear of a change that was decided before its own.
const HEARS: Duration = Duration::from_secs(2);
/// How often it looks.
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of an outcome.
const OUTCOME_BYTES_MAX: usize = 64 << 10;

impl Member {
    /// Makes a change, wherever the meta group is led. All changes may be made twice without harm, so an attempt whose outcome is
    /// unknown is repeated.
    ///
    /// # Errors
    /// A sentence: what was refused and why, or that no leader was found.
    pub async fn change(&self, change: &Change) -> Result<Outcome, String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let why = match self.meta().leader() {
                Some(leader) if leader == self.own => match self.change_here(change).await {
                    Ok(outcome) => return outcome_of(outcome),
                    Err(why) => why,
                },
                Some(leader) => match self.peers.ask(leader, links::change_question(change), ANSWER).await {
                    Ok(answer) => match links::read_change_answer(&answer) {
                        Ok(outcome) => return outcome_of(outcome),
                        Err(why) => why,
                    },
                    Err(AskError::NotSent) => format!("node {} leads and cannot be reached", leader.0),
                    Err(AskError::Unknown) => format!("node {} leads and did not answer", leader.0),
                },
                None => "the meta group has no leader at the moment: a majority of its nodes is needed".to_owned(),
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(why);
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Waits until this node has applied a change of the cluster beyond that index; not for long, since it may be cut off.
    pub async fn hear_beyond(&self, index: u64) {
        let deadline = tokio::time::Instant::now() + HEARS;
        while self.cluster().index() <= index && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Makes a change where this node leads the meta group.
    ///
    /// # Errors
    /// Why it cannot be known to be made; it may be tried again.
    pub(super) async fn change_here(&self, change: &Change) -> Result<Outcome, String> {
        if let Some(error) = self.meta().refusal(true) {
            return Err(error.0.into_owned());
        }
        let peer = Arc::new(Peer::new(0, String::new(), String::new(), Instant::default(), OUTCOME_BYTES_MAX));
        self.meta().submit(|batch| batch.cluster(peer.clone(), change)).map_err(|error| error.0.into_owned())?;
        (self.put)(shard::driver::Input::Wake);
        let bytes = poll_fn(|context| {
            if !peer.listen(context.waker()) {
                return Poll::Pending;
            }
            let mut bytes = Vec::new();
            // Woken without an answer: the lead or the log went away under it.
            Poll::Ready((peer.collect(&mut bytes) > 0).then_some(bytes))
        });
        let bytes = tokio::time::timeout(ANSWER, bytes)
            .await
            .map_err(|_| "a majority of the meta group's nodes does not answer")?;
        let bytes = bytes.ok_or("the lead of the meta group has just moved")?;
        match bytes.strip_prefix(b"-") {
            Some(error) => Err(String::from_utf8_lossy(error).trim_end().to_owned()),
            None => Outcome::decode(&bytes).map_err(|corrupt| corrupt.to_string()),
        }
    }
}

fn outcome_of(outcome: Outcome) -> Result<Outcome, String> {
    match outcome {
        Outcome::Refused(why) => Err(why),
        done => Ok(done),
    }
}

/// The bytes of a change as a question.
pub(super) fn bytes_of(kind: u8, body: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(body.len() + 1);
    bytes.push(kind);
    bytes.extend_from_slice(body);
    bytes.into()
}

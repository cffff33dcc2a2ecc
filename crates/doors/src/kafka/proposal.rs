//! A command of the queue on its way to the log, and several of them at once.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::{Duration, Instant};
use queue::{Command, Outcome, topics};
use shard::live::Shard;

use super::{Door, Soon, errors};
use crate::resp::door::Client;
use crate::resp::peer::{GUESTS, Peer};

/// Numbers of what is forwarded for this door, among those of other clients.
const NUMBERS: u64 = GUESTS >> 1 | GUESTS >> 2;
/// Bytes of one outcome.
const OUTCOME_BYTES_MAX: usize = 1 << 20;

/// Why there is no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// Another node leads the shard, or none does; nothing was done.
    NotLeader,
    /// Too much waits already; nothing was done.
    Busy,
    /// The disk is full, or the log has stopped; nothing was done.
    Storage,
    /// It may have been done.
    Unknown,
}

impl Failed {
    /// What is told of a partition.
    pub(super) fn of_partition(self) -> i16 {
        match self {
            Failed::NotLeader => errors::NOT_LEADER_OR_FOLLOWER,
            Failed::Busy => errors::NOT_ENOUGH_REPLICAS,
            Failed::Storage => errors::KAFKA_STORAGE_ERROR,
            Failed::Unknown => errors::REQUEST_TIMED_OUT,
        }
    }

    /// What is told of a group or a transactional id.
    pub(super) fn of_coordinator(self) -> i16 {
        match self {
            Failed::NotLeader | Failed::Unknown => errors::NOT_COORDINATOR,
            Failed::Busy | Failed::Storage => errors::COORDINATOR_NOT_AVAILABLE,
        }
    }
}

/// What comes of a command.
pub(super) type Done = Result<Outcome, Failed>;

/// A command on its way. Dropped, it still happens; only nobody hears of it.
pub(super) struct Proposal {
    state: State,
    door: Arc<Door>,
    is_away: bool,
}

enum State {
    Failed(Failed),
    Waiting(Client),
}

impl Drop for Proposal {
    fn drop(&mut self) {
        if let State::Waiting(peer) = &self.state {
            peer.close();
            if self.is_away {
                self.door.shards.forward_left(peer.id);
            }
        }
    }
}

fn failed_by(why: &str) -> Failed {
    match why.trim_start_matches('-').split(' ').next() {
        Some("TRYAGAIN" | "LOADING") => Failed::NotLeader,
        Some("BUSY") => Failed::Busy,
        _ => Failed::Storage,
    }
}

impl Proposal {
    /// The answer's bytes, once they are there.
    fn heard(&mut self, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, Failed>> {
        let peer = match &self.state {
            State::Failed(why) => return Poll::Ready(Err(*why)),
            State::Waiting(peer) => peer,
        };
        if !peer.listen(context.waker()) {
            return Poll::Pending;
        }
        let mut bytes = Vec::new();
        if peer.collect(&mut bytes) == 0 {
            let is_over = peer.is_doomed() || bytes.is_empty();
            return if is_over { Poll::Ready(Err(Failed::Unknown)) } else { Poll::Pending };
        }
        Poll::Ready(match bytes.strip_prefix(b"-") {
            Some(line) => Err(failed_by(&String::from_utf8_lossy(line))),
            None => Ok(bytes),
        })
    }
}

impl Future for Proposal {
    type Output = Done;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Done> {
        let bytes = std::task::ready!(self.heard(context));
        Poll::Ready(bytes.and_then(|bytes| Outcome::decode(&bytes).map_err(|_| Failed::Unknown)))
    }
}

impl Door {
    fn one_shot(&self, is_away: bool) -> Client {
        let number = if is_away { NUMBERS | self.next() } else { 0 };
        Arc::new(Peer::new(number, String::new(), String::new(), Instant::default(), OUTCOME_BYTES_MAX))
    }

    fn put(
        self: &Arc<Door>,
        shard: &Shard<Client>,
        frees: bool,
        add: impl FnOnce(Client, &mut shard::pending::Batch<Client>),
    ) -> Proposal {
        let door = self.clone();
        if let Some(error) = shard.refusal(frees) {
            return Proposal { state: State::Failed(failed_by(&error.0)), door, is_away: false };
        }
        let peer = self.one_shot(false);
        let state = match shard.submit(|batch| add(peer.clone(), batch)) {
            Err(error) => State::Failed(failed_by(&error.0)),
            Ok(is_idle) => {
                if is_idle {
                    self.shards.world.wake_driver();
                }
                State::Waiting(peer)
            }
        };
        Proposal { state, door, is_away: false }
    }

    /// Proposes a command to a shard that this node leads; whoever does not lead says so.
    pub(super) fn propose(self: &Arc<Door>, at: usize, command: &Command<'_>) -> Proposal {
        self.put(&self.shards.shards[at], command.frees(), |peer, batch| batch.queue(peer, command))
    }

    /// The same at whichever node leads.
    pub(super) fn propose_anywhere(self: &Arc<Door>, at: usize, command: &Command<'_>) -> Proposal {
        let shard = self.shards.shards[at].clone();
        if !shard.is_led_elsewhere() {
            return self.propose(at, command);
        }
        let mut unit = Vec::new();
        shard::entry::put_queue(&mut unit, command);
        self.send(shard.group, unit)
    }

    fn send(self: &Arc<Door>, group: base::GroupId, unit: Vec<u8>) -> Proposal {
        let peer = self.one_shot(true);
        let door = self.clone();
        match self.shards.forward_unit(&peer, group, unit, false, self.now()) {
            Err(error) => Proposal { state: State::Failed(failed_by(&error.0)), door, is_away: false },
            Ok(()) => {
                self.shards.forward_flush();
                Proposal { state: State::Waiting(peer), door, is_away: true }
            }
        }
    }

    /// Changes the topics, at whichever node leads the meta group. When it returns the change can be read here, unless that takes too long.
    pub(super) async fn change_topics(self: &Arc<Door>, change: &topics::Change) -> Result<topics::Outcome, i16> {
        let meta = self.registry.shard().clone();
        let is_away = meta.is_led_elsewhere();
        let proposal = if is_away {
            let mut unit = Vec::new();
            shard::entry::put_topics(&mut unit, change);
            self.send(meta.group, unit)
        } else {
            let frees = matches!(change, topics::Change::Delete { .. });
            self.put(&meta, frees, |peer, batch| batch.topics(peer, change))
        };
        let mut proposal = Box::pin(proposal);
        let late = self.world.sleep(CHANGE_WAIT);
        let bytes = until(std::future::poll_fn(|context| proposal.heard(context)), late).await;
        let bytes = match bytes {
            None => return Err(errors::REQUEST_TIMED_OUT),
            Some(Err(Failed::NotLeader)) => return Err(errors::NOT_CONTROLLER),
            Some(Err(failed)) => return Err(failed.of_partition()),
            Some(Ok(bytes)) => bytes,
        };
        if is_away {
            until(self.registry.fresh(), self.world.sleep(SEEN_WAIT)).await;
        }
        topics::Outcome::decode(&bytes).map_err(|_| errors::UNKNOWN)
    }

    /// Until what this node knows of a shard that it leads is what any leader would know: nothing newer has been told to anybody.
    pub(super) async fn fresh(self: &Arc<Door>, at: usize) -> Result<(), Failed> {
        let shard = &self.shards.shards[at];
        if shard.is_led_elsewhere() {
            return Err(Failed::NotLeader);
        }
        if shard.may_read(|| self.now()) {
            return Ok(());
        }
        let mut proposal = Box::pin(self.put(shard, true, |peer, batch| batch.literal(peer, b"+")));
        let late = self.world.sleep(CHANGE_WAIT);
        let heard = until(std::future::poll_fn(|context| proposal.heard(context)), late).await;
        heard.unwrap_or(Err(Failed::Unknown)).map(|_| ())
    }
}

/// How long a change of the topics may take.
const CHANGE_WAIT: Duration = Duration::from_secs(20);
/// How long a change that was made elsewhere is waited for here.
const SEEN_WAIT: Duration = Duration::from_secs(5);

/// What comes first: the one, or the end of patience.
pub(super) async fn until<T>(what: impl Future<Output = T>, mut late: Soon<()>) -> Option<T> {
    let mut what = std::pin::pin!(what);
    std::future::poll_fn(|context| {
        if let Poll::Ready(done) = what.as_mut().poll(context) {
            return Poll::Ready(Some(done));
        }
        late.as_mut().poll(context).map(|()| None)
    })
    .await
}

/// All outcomes, in order; whoever has none when patience ends is unknown.
pub(super) async fn all(proposals: Vec<Proposal>, mut late: Soon<()>) -> Vec<Done> {
    let mut waiting: Vec<(Proposal, Option<Done>)> = proposals.into_iter().map(|proposal| (proposal, None)).collect();
    std::future::poll_fn(|context| {
        let mut is_over = true;
        for (proposal, done) in waiting.iter_mut().filter(|(_, done)| done.is_none()) {
            match Pin::new(proposal).poll(context) {
                Poll::Ready(outcome) => *done = Some(outcome),
                Poll::Pending => is_over = false,
            }
        }
        if is_over { Poll::Ready(()) } else { late.as_mut().poll(context) }
    })
    .await;
    waiting.into_iter().map(|(_, done)| done.unwrap_or(Err(Failed::Unknown))).collect()
}

/// The code of an outcome.
pub(super) fn code(done: &Done, failed: impl FnOnce(Failed) -> i16) -> i16 {
    match done {
        Ok(outcome) => outcome.code().0,
        Err(why) => failed(*why),
    }
}

//! A unit on its way, to this node's log or to the node that leads.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use discovery::Outcome;

use super::{Around, ChangeError, Fresh, Shown};
use crate::resp::door::{Client, Door};

/// What a shard says that does not lead any more ([`shard::live::Refusal::Elsewhere`]).
const MOVED: &str = "TRYAGAIN";

/// A unit on its way. Dropped, it still happens; only nobody hears of it.
#[must_use]
pub struct Proposing(State);

enum State {
    /// It was not taken.
    Refused(String),
    /// It waits for the log here. Where the lead moves before it was proposed, it goes there.
    Here(Client, Option<Box<(Arc<Around>, Bytes, Shown)>>),
    /// It is under way to the node that leads.
    There(Away),
}

struct Away {
    peer: Client,
    door: Arc<Door>,
    /// What came of it; told once it can be seen here.
    outcome: Option<Vec<u8>>,
    seen: Fresh,
}

impl Drop for Away {
    fn drop(&mut self) {
        self.peer.close();
        self.door.forward_left(self.peer.id);
    }
}

impl Proposing {
    pub(super) fn refused(why: String) -> Proposing {
        Proposing(State::Refused(why))
    }

    pub(super) fn here(peer: Client, around: Option<Box<(Arc<Around>, Bytes, Shown)>>) -> Proposing {
        Proposing(State::Here(peer, around))
    }

    pub(super) fn there(peer: Client, door: Arc<Door>, seen: Fresh) -> Proposing {
        Proposing(State::There(Away { peer, door, outcome: None, seen }))
    }
}

/// What has come for a unit, if anything has.
fn heard(peer: &Client, context: &mut Context<'_>) -> Poll<Result<Vec<u8>, ChangeError>> {
    if !peer.listen(context.waker()) {
        return Poll::Pending;
    }
    let mut bytes = Vec::new();
    if peer.collect(&mut bytes) == 0 {
        // A part of an answer that comes from another node; or none: leadership, the log or a link went away under it.
        return if peer.is_doomed() || bytes.is_empty() {
            Poll::Ready(Err(ChangeError::Unknown))
        } else {
            Poll::Pending
        };
    }
    Poll::Ready(match bytes.strip_prefix(b"-") {
        Some(error) => Err(ChangeError::Refused(String::from_utf8_lossy(error).trim_end().to_owned())),
        None => Ok(bytes),
    })
}

impl Future for Proposing {
    type Output = Result<Vec<u8>, ChangeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            match &mut self.0 {
                State::Refused(why) => return Poll::Ready(Err(ChangeError::Refused(why.clone()))),
                State::Here(peer, around) => match std::task::ready!(heard(peer, context)) {
                    Err(ChangeError::Refused(why)) if why.starts_with(MOVED) && around.is_some() => {
                        let (around, unit, shown) = *around.take().expect("it was there a line ago");
                        self.0 = around.propose(unit, shown).0;
                    }
                    outcome => return Poll::Ready(outcome),
                },
                State::There(away) => {
                    if away.outcome.is_none() {
                        away.outcome = Some(std::task::ready!(heard(&away.peer, context))?);
                    }
                    std::task::ready!(Pin::new(&mut away.seen).poll(context));
                    return Poll::Ready(Ok(away.outcome.take().expect("it was put there above")));
                }
            }
        }
    }
}

/// A change of the registry on its way; see [`Proposing`].
#[must_use]
pub struct Changing(pub(super) Proposing);

impl Future for Changing {
    type Output = Result<Outcome, ChangeError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = std::task::ready!(Pin::new(&mut self.0).poll(context))?;
        Poll::Ready(Outcome::decode(&outcome).map_err(|_| ChangeError::Unknown))
    }
}

//! Reads that must not be older than what others have been told: the leader is asked how far its log goes, and this node waits
//! until it has applied so much. Those who come while one question is under way share the next one.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use base::{Duration, Instant};
use parking_lot::Mutex;

use crate::resp::door::Door;

/// A question without an answer is asked again after so long.
const AGAIN: Duration = Duration::from_millis(300);

#[derive(Debug, Default)]
struct Rounds {
    /// Questions begun, and ended; the one under way is the last one begun.
    begun: u64,
    ended: u64,
    /// Somebody waits for a round that has not begun.
    is_wanted: bool,
    /// Its token and since when; no moment: to be asked again by the next tick.
    asked: Option<(u64, Option<Instant>)>,
    tokens: u64,
    waiting: Vec<Waker>,
}

/// Questions to the leader of the meta group.
pub struct Reads {
    rounds: Mutex<Rounds>,
    ask: Box<dyn Fn(u64) + Send + Sync>,
}

impl Reads {
    pub(super) fn new(ask: Box<dyn Fn(u64) + Send + Sync>) -> Reads {
        Reads { rounds: Mutex::default(), ask }
    }

    fn begin(&self, rounds: &mut Rounds) {
        rounds.begun += 1;
        rounds.is_wanted = false;
        self.put(rounds);
    }

    fn put(&self, rounds: &mut Rounds) {
        rounds.tokens += 1;
        // Since when is known by the next tick.
        rounds.asked = Some((rounds.tokens, Some(Instant::default())));
        (self.ask)(rounds.tokens);
    }

    /// The round that whoever comes now has to wait for.
    fn enter(&self) -> u64 {
        let mut rounds = self.rounds.lock();
        if rounds.asked.is_some() {
            rounds.is_wanted = true;
            return rounds.begun + 1;
        }
        self.begin(&mut rounds);
        rounds.begun
    }

    /// [`shard::driver::Output::ReadReady`], or with `ready` false [`shard::driver::Output::ReadDropped`].
    pub fn told(&self, token: u64, ready: bool) {
        let mut rounds = self.rounds.lock();
        if rounds.asked.is_none_or(|(asked, _)| asked != token) {
            return;
        }
        if !ready {
            rounds.asked = Some((token, None));
            return;
        }
        rounds.ended = rounds.begun;
        rounds.asked = None;
        if rounds.is_wanted {
            self.begin(&mut rounds);
        }
        let waiting = std::mem::take(&mut rounds.waiting);
        drop(rounds);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// To be called every twenty milliseconds or so: asks again what was dropped or lost.
    pub fn tick(&self, now: Instant) {
        let mut rounds = self.rounds.lock();
        match rounds.asked {
            None => return,
            Some((_, None)) => self.put(&mut rounds),
            Some((token, Some(since))) if since == Instant::default() => rounds.asked = Some((token, Some(now))),
            Some((_, Some(since))) if now.since(since) >= AGAIN => self.put(&mut rounds),
            Some(_) => {}
        }
        // Some wait no longer than their patience.
        let waiting = std::mem::take(&mut rounds.waiting);
        drop(rounds);
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Ends when the catalog here is no older than the moment at which this was polled first.
#[must_use]
pub struct Fresh {
    reads: Option<Arc<Reads>>,
    round: Option<u64>,
    /// Whose clock, and how long it waits at most.
    patience: Option<(Arc<Door>, Duration)>,
    until: Option<Instant>,
}

impl Fresh {
    pub(super) fn already() -> Fresh {
        Fresh { reads: None, round: None, patience: None, until: None }
    }

    pub(super) fn new(reads: Arc<Reads>, patience: Option<(Arc<Door>, Duration)>) -> Fresh {
        Fresh { reads: Some(reads), round: None, patience, until: None }
    }
}

impl Future for Fresh {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(reads) = &this.reads else {
            return Poll::Ready(());
        };
        if let Some((door, patience)) = &this.patience {
            let now = door.world.now();
            if now >= *this.until.get_or_insert(now + *patience) {
                return Poll::Ready(());
            }
        }
        let round = *this.round.get_or_insert_with(|| reads.enter());
        let mut rounds = reads.rounds.lock();
        if rounds.ended >= round {
            return Poll::Ready(());
        }
        rounds.waiting.push(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn one_question_is_under_way_and_whoever_comes_meanwhile_shares_the_next() {
        let asked = Arc::new(AtomicU64::new(0));
        let told = asked.clone();
        let reads = Arc::new(Reads::new(Box::new(move |token| told.store(token, Ordering::SeqCst))));
        let mut context = Context::from_waker(Waker::noop());
        let read = || Box::pin(Fresh::new(reads.clone(), None));
        let (mut one, mut two, mut three) = (read(), read(), read());
        assert!(one.as_mut().poll(&mut context).is_pending());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(two.as_mut().poll(&mut context).is_pending() && three.as_mut().poll(&mut context).is_pending());
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        reads.told(1, true);
        assert!(one.as_mut().poll(&mut context).is_ready());
        assert!(two.as_mut().poll(&mut context).is_pending(), "it came after the question");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        // Dropped by a leader that was none, then lost.
        reads.told(2, false);
        reads.tick(Instant(1));
        assert_eq!(asked.load(Ordering::SeqCst), 3);
        reads.tick(Instant(2));
        reads.tick(Instant(3) + AGAIN);
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        reads.told(3, true);
        assert!(two.as_mut().poll(&mut context).is_pending(), "an old question's answer");
        reads.told(4, true);
        assert!(two.as_mut().poll(&mut context).is_ready() && three.as_mut().poll(&mut context).is_ready());
        assert!(read().as_mut().poll(&mut context).is_pending(), "who comes now asks anew");
        assert!(Box::pin(Fresh::already()).as_mut().poll(&mut context).is_ready());
    }
}

//! One timer for a connection. Setting it costs nothing as long as the moments lie ahead of the one that the runtime knows, which then is only a
//! reason to look again: a busy connection touches the runtime's wheel once in many requests.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    at: Option<Instant>,
}

impl Timer {
    pub fn new() -> Timer {
        Timer { sleep: None, at: None }
    }

    /// When it is to ring; never where it is nothing.
    pub fn set(&mut self, at: Option<Instant>) {
        self.at = at;
    }

    /// Ready when it rings.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(at);
        }
        Poll::Pending
    }

    /// Runs `work` until then; nothing when the time was up first.
    pub async fn until<T>(&mut self, at: Option<Instant>, work: impl Future<Output = T>) -> Option<T> {
        self.set(at);
        let mut work = pin!(work);
        poll_fn(|cx| match work.as_mut().poll(cx) {
            Poll::Ready(it) => Poll::Ready(Some(it)),
            Poll::Pending => self.poll(cx).map(|()| None),
        })
        .await
    }
}

/// The moment that lies `span` ahead; nothing where the span is zero, which turns a limit off.
pub(crate) fn after(span: base::Duration) -> Option<Instant> {
    (!span.is_zero()).then(|| Instant::now() + span)
}

/// The earlier of two moments, of which either may be none.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

//! How long the gateway's connections wait for their turn: from when one was woken (bytes came, from either side) until its task is polled. That is
//! where a queue stands when there is more to do than a core can: the runtime asks the system for what is ready after some sixty tasks, so
//! whatever has come stands in its own queue soon, and the kernel's part is short.
//!
//! One of [`EVERY`] polls is a sample: it hands out a waker that notes the time, and costs an allocation and two looks at the clock.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};

use base::{Duration, Instant};

use crate::clock;

/// Of so many polls one is a sample: some hundred in an interval of the shedder where it matters. Odd, since what a connection does comes in turns.
const EVERY: u32 = 17;

thread_local! {
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// A waker that notes when it was called first.
struct Noting {
    inner: Waker,
    /// Zero: not yet.
    woken: AtomicU64,
}

impl Wake for Noting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.load(Relaxed) == 0 {
            self.woken.store(clock::now().0, Relaxed);
        }
        self.inner.wake_by_ref();
    }
}

/// The samples of one connection.
#[derive(Default)]
pub struct Late {
    noting: Option<Arc<Noting>>,
}

impl Late {
    /// To be asked at the begin of each poll: how long the task waited for it, where that was a sample.
    pub fn waited(&mut self) -> Option<(Duration, Instant)> {
        let woken = self.noting.take()?.woken.load(Relaxed);
        let now = clock::now();
        (woken > 0).then(|| (now.since(Instant(woken)), now))
    }

    /// Polls with the task's waker, or with one of ours.
    pub fn poll<R>(&mut self, cx: &mut Context<'_>, poll: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let turn = POLLS.get().wrapping_add(1);
        POLLS.set(turn);
        if !turn.is_multiple_of(EVERY) {
            return poll(cx);
        }
        let noting = Arc::new(Noting { inner: cx.waker().clone(), woken: AtomicU64::new(0) });
        self.noting = Some(noting.clone());
        poll(&mut Context::from_waker(&Waker::from(noting)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Poll;

    /// What stands before a task in the runtime's queue is what it waits for.
    #[tokio::test(flavor = "current_thread")]
    async fn what_a_task_waits_for_its_turn_is_seen() {
        let busy = std::time::Duration::from_millis(3);
        let (send, mut receive) = tokio::sync::mpsc::channel::<()>(1);
        let waits = tokio::spawn(async move {
            let (mut late, mut most) = (Late::default(), Duration::ZERO);
            for _ in 0..4 * EVERY {
                poll_fn(|cx| {
                    if let Some((waited, _)) = late.waited() {
                        most = most.max(waited);
                    }
                    late.poll(cx, |cx| receive.poll_recv(cx)).map(|_| ())
                })
                .await;
            }
            most
        });
        let wakes = tokio::spawn(async move {
            while send.send(()).await.is_ok() {
                // It is ready from here on, and cannot go on before this task has paused.
                let begun = std::time::Instant::now();
                while begun.elapsed() < busy {
                    std::hint::spin_loop();
                }
                let mut first = true;
                poll_fn(|cx| match std::mem::take(&mut first) {
                    true => {
                        cx.waker().wake_by_ref();
                        Poll::Pending
                    }
                    false => Poll::Ready(()),
                })
                .await;
            }
        });
        let most = waits.await.expect("it ends");
        assert!(most >= busy, "{most:?}");
        wakes.await.expect("it ends with the channel");
    }
}

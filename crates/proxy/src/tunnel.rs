//! Bytes both ways, unread: TCP streams, and what a WebSocket becomes after its handshake.

use crate::buffer::Inbox;
use crate::io::Io;
use crate::plan::Ending;
use crate::side::H1;
use crate::timer::{Timer, after};
use base::Duration;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// One direction.
#[derive(Default)]
struct Way {
    bytes: u64,
    /// Bytes of the inbox that are written already.
    ended: bool,
    closed: bool,
}

/// What went through.
pub(crate) struct Passed {
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub ending: Ending,
}

/// Passes bytes until both ends have closed, one broke, or nothing moved for `idle`. One end's close is passed on and the other way goes on
/// (a half-closed TCP connection is one). What stands in the inboxes goes first.
pub(crate) async fn pass(client: &mut H1, upstream: &mut H1, idle: Duration, timer: &mut Timer) -> Passed {
    let (mut inward, mut outward) = (Way::default(), Way::default());
    if base::is_planted(base::Bug::TunnelStartLost) {
        let early = upstream.inbox.bytes().len();
        upstream.inbox.consume(early);
    }
    let mut moved = 0;
    timer.set(after(idle));
    let ending = poll_fn(|cx| {
        let a = poll_way(&mut client.io, &mut client.inbox, &mut upstream.io, &mut inward, cx);
        let b = poll_way(&mut upstream.io, &mut upstream.inbox, &mut client.io, &mut outward, cx);
        match (a, b) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => return Poll::Ready(Ending::Complete),
            (Poll::Ready(Err(ending)), _) => return Poll::Ready(ending),
            // The other way around: its reader is the upstream.
            (_, Poll::Ready(Err(Ending::Client))) => return Poll::Ready(Ending::Upstream),
            (_, Poll::Ready(Err(_))) => return Poll::Ready(Ending::Client),
            _ => {}
        }
        let now = inward.bytes + outward.bytes + u64::from(inward.closed) + u64::from(outward.closed);
        if now != moved {
            moved = now;
            timer.set(after(idle));
        }
        timer.poll(cx).map(|()| Ending::Complete)
    })
    .await;
    Passed { bytes_in: inward.bytes, bytes_out: outward.bytes, ending }
}

/// [`Ending::Client`]: `from` broke; [`Ending::Upstream`]: `to` did.
fn poll_way(
    from: &mut Io,
    inbox: &mut Inbox,
    to: &mut Io,
    way: &mut Way,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Ending>> {
    for _ in 0..16 {
        while !inbox.is_empty() {
            let count = ready!(Pin::new(&mut *to).poll_write(cx, inbox.bytes())).map_err(|_| Ending::Upstream)?;
            if count == 0 {
                return Poll::Ready(Err(Ending::Upstream));
            }
            inbox.consume(count);
            way.bytes += count as u64;
        }
        if way.closed {
            return Poll::Ready(Ok(()));
        }
        if way.ended {
            // An end that is gone already needs no goodbye.
            let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
            way.closed = true;
            inbox.release();
            return Poll::Ready(Ok(()));
        }
        match poll_read(from, inbox, cx) {
            Poll::Ready(Ok(0)) => way.ended = true,
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Ending::Client)),
            Poll::Pending => {
                inbox.release();
                if !matches!(to, Io::Tcp(_)) {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|_| Ending::Upstream)?;
                }
                return Poll::Pending;
            }
        }
    }
    cx.waker().wake_by_ref();
    Poll::Pending
}

fn poll_read(from: &mut Io, inbox: &mut Inbox, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    if let Io::Tcp(stream) = from {
        // No buffer is held while nothing comes.
        ready!(stream.poll_read_ready(cx))?;
    }
    inbox.poll_fill(from, cx)
}

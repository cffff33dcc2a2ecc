//! What a client's connection is served by. Whoever accepts connections hands each to one of [`Proxy`]'s methods, in a task of its own.

use crate::body::Decoder;
use crate::buffer::Inbox;
use crate::exchange::{Cx, Next, Scratch, exchange, queue_reply};
use crate::forward::Client;
use crate::grpc;
use crate::head::{Bad, Version, bad, parse_request};
use crate::http2;
use crate::io::Io;
use crate::limits::Limits;
use crate::plan::{Action, Again, Attempt, Decide, End, Ending, FailureKind, OnFailure, Peer, PeerTls, Plan, Reply};
use crate::pool::{Connection, NoConnection};
use crate::side::{Broken, H1, Side};
use crate::timer::{Timer, after};
use crate::tunnel;
use base::Duration;
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

/// Turns true when connections shall end: idle ones when for [`Limits::drain_idle`] no request came, others with the answer that is under way
/// (HTTP/1.1: `Connection: close`; HTTP/2: GOAWAY). WebSockets and TCP streams go on; whoever drains ends their tasks when it has waited long enough. A sender that is dropped says
/// the same.
pub type Shutdown = watch::Receiver<bool>;

/// Serves connections by what `D` decides.
pub struct Proxy<D> {
    decider: D,
    limits: Limits,
}

/// How the client's preface of HTTP/2 looks as a head of HTTP/1 (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// What all streams of a connection share.
pub(crate) struct Company {
    pub peer: Peer,
    pub client: Client,
    pub shutdown: Shutdown,
}

/// Whether the connection is to end, for its task; costs next to nothing as long as it is not.
pub(crate) struct Drain {
    wait: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Sees no value of the channel, so that it knows of any change.
    changes: Shutdown,
    registered: bool,
    over: bool,
}

impl Drain {
    pub fn new(shutdown: &Shutdown) -> Drain {
        let (mut waits, changes) = (shutdown.clone(), shutdown.clone());
        let wait = async move {
            // An error says that the sender is gone: nobody could drain this later.
            let _ = waits.wait_for(|it| *it).await;
        };
        Drain { wait: Box::pin(wait), changes, registered: false, over: false }
    }

    /// Whether it is; always by the same task, which is woken when it comes to be.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.over && (!self.registered || !matches!(self.changes.has_changed(), Ok(false))) {
            self.registered = true;
            self.over = self.wait.as_mut().poll(cx).is_ready();
        }
        self.over
    }
}

impl<D: Decide> Proxy<D> {
    /// A proxy without listeners.
    pub fn new(decider: D, limits: Limits) -> Arc<Proxy<D>> {
        Arc::new(Proxy { decider, limits })
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Who decides.
    pub fn decider(&self) -> &D {
        &self.decider
    }

    /// Serves a connection of HTTP/1.1, or of HTTP/2 by prior knowledge, until it ends.
    pub async fn serve(self: &Arc<Self>, io: impl Into<Io>, peer: Peer, shutdown: Shutdown) {
        let client = Client::new(&peer);
        self.serve_h1(io.into(), peer, client, shutdown).await;
    }

    /// Shakes hands, then serves what ALPN chose until the connection ends.
    pub async fn serve_tls(
        self: &Arc<Self>,
        stream: TcpStream,
        acceptor: &TlsAcceptor,
        mut peer: Peer,
        shutdown: Shutdown,
    ) {
        let stream = match Timer::new().until(after(self.limits.head_timeout), acceptor.accept(stream)).await {
            Some(Ok(stream)) => stream,
            Some(Err(_)) => return self.decider.on_refused(&peer, 0, "the TLS handshake failed"),
            None => return self.decider.on_refused(&peer, 0, "the TLS handshake took too long"),
        };
        let session = stream.get_ref().1;
        let http2 = session.alpn_protocol() == Some(b"h2");
        peer.tls = Some(PeerTls { server_name: session.server_name().map(Arc::from) });
        let (client, io) = (Client::new(&peer), Io::TlsIn(Box::new(stream)));
        if http2 {
            return Box::pin(self.serve_h2(io, Inbox::default(), peer, client, shutdown)).await;
        }
        self.serve_h1(io, peer, client, shutdown).await;
    }

    async fn serve_h1(self: &Arc<Self>, io: Io, peer: Peer, client: Client, shutdown: Shutdown) {
        let limits = &self.limits;
        let mut drain = Drain::new(&shutdown);
        let mut side = Side::H1(H1::new(io));
        let mut timer = Timer::new();
        let (mut served, mut draining) = (0, false);
        loop {
            let Side::H1(connection) = &mut side else { return };
            // A client that sends without a pause never comes to the wait below.
            if !draining && served % 16 == 0 {
                draining = poll_fn(|cx| Poll::Ready(drain.poll(cx))).await;
            }
            if connection.inbox.is_empty() {
                connection.inbox.release();
                connection.outbox.release();
                timer.set(after(limits.idle_timeout));
                let mut hurried = false;
                let first = poll_fn(|cx| {
                    if let Poll::Ready(first) = connection.io.poll_first(cx) {
                        return Poll::Ready(first.ok());
                    }
                    draining = draining || drain.poll(cx);
                    if draining && !hurried {
                        // Not at once: its next request may be on the way, and would meet a closed connection instead of an answer.
                        hurried = true;
                        timer.set(after(limits.drain_idle));
                    }
                    timer.poll(cx).map(|()| None)
                });
                match first.await {
                    None => break,
                    Some(None) => {}
                    Some(Some(byte)) => connection.inbox.push_first(byte),
                }
            }
            let in_time = if base::is_planted(base::Bug::HeadNeverLate) { None } else { after(limits.head_timeout) };
            let head = timer.until(in_time, poll_fn(|cx| poll_request_head(connection, limits, cx))).await;
            let length = match head {
                Some(Ok(length)) => length,
                Some(Err(Broken::Bad(bad))) => return self.refuse(side, &peer, bad, timer).await,
                Some(Err(_)) => break,
                None => {
                    return self
                        .refuse(side, &peer, Bad { status: 408, why: "the head did not come in time" }, timer)
                        .await;
                }
            };
            if served == 0 && limits.h2_in_the_clear && &connection.inbox.bytes()[..length] == PREFACE {
                let Side::H1(H1 { io, inbox, .. }) = side else { return };
                return Box::pin(self.serve_h2(io, inbox, peer, client, shutdown)).await;
            }
            served += 1;
            let mut scratch = take_scratch();
            if let Err(bad) = parse_request(&connection.inbox.bytes()[..length], &mut scratch.request, limits) {
                return self.refuse(side, &peer, bad, timer).await;
            }
            connection.inbox.consume(length);
            connection.decoder = Decoder::new(scratch.request.body, limits.trailer_bytes_max, limits.fields_max);
            connection.read_all = connection.decoder.is_done();
            let cx = Cx { decider: &self.decider, limits, peer: &peer, client: &client, shutdown: &shutdown };
            let last = draining || served >= limits.requests_max;
            // On the heap, so that an idle connection's task stays small.
            let next = Box::pin(exchange(&cx, &mut side, &mut scratch, &mut timer, last)).await;
            give_scratch(scratch);
            match next {
                Next::Keep => {}
                Next::Close => break,
                Next::Linger => return self.linger(side, timer).await,
            }
        }
        if let Side::H1(it) = &mut side {
            let _ =
                timer.until(after(limits.linger_timeout), poll_fn(|cx| Pin::new(&mut it.io).poll_shutdown(cx))).await;
        }
    }

    /// Answers what is no request, and ends the connection: nobody knows where the next would begin.
    async fn refuse(&self, mut side: Side, peer: &Peer, bad: Bad, mut timer: Timer) {
        self.decider.on_refused(peer, bad.status, bad.why);
        if queue_reply(&mut side, &Reply::text(bad.status, bad.why), Version::Http11, false, false).is_ok() {
            let sent = timer.until(after(self.limits.write_timeout), poll_fn(|cx| side.poll_flush(cx))).await;
            if matches!(sent, Some(Ok(()))) {
                self.linger(side, timer).await;
            }
        }
    }

    /// Closes our half and reads what the client still sends, so that a reset does not take our answer away from it (RFC 9112 §9.6).
    async fn linger(&self, side: Side, mut timer: Timer) {
        let Side::H1(mut it) = side else { return };
        let bytes_max = it.moved + self.limits.linger_bytes_max;
        let read = async {
            let _ = poll_fn(|cx| Pin::new(&mut it.io).poll_shutdown(cx)).await;
            loop {
                let length = it.inbox.bytes().len();
                it.inbox.consume(length);
                match poll_fn(|cx| it.poll_read(cx)).await {
                    Ok(1..) if it.moved < bytes_max => {}
                    _ => return,
                }
            }
        };
        let _ = timer.until(after(self.limits.linger_timeout), read).await;
    }

    async fn serve_h2(self: &Arc<Self>, io: Io, inbox: Inbox, peer: Peer, client: Client, shutdown: Shutdown) {
        let drain = Drain::new(&shutdown);
        let company = Arc::new(Company { peer, client, shutdown });
        // Many streams do in one poll what tokio's budget grants to one; how long a poll may take the session bounds by itself.
        unconstrained(http2::serve(self.clone(), io, inbox, company, drain)).await;
    }

    /// Serves one request of HTTP/2, whose head stands in `scratch`, or answers that it is `bad`. Gives the timer back.
    pub(crate) async fn serve_stream(
        &self,
        company: &Company,
        mut scratch: Box<Scratch>,
        stream: http2::Stream,
        mut timer: Timer,
        bad: Option<Bad>,
    ) -> Timer {
        let Company { peer, client, shutdown } = company;
        let mut side = Side::Stream(Box::new(stream));
        if let Some(bad) = bad {
            self.decider.on_refused(peer, bad.status, bad.why);
            let reply = Reply::text(bad.status, bad.why);
            let reply = grpc::reply_for(&scratch.request, &reply).unwrap_or(reply);
            if queue_reply(&mut side, &reply, Version::Http2, false, true).is_ok() {
                let _ = timer.until(after(self.limits.write_timeout), poll_fn(|cx| side.poll_flush(cx))).await;
            }
        } else {
            let cx = Cx { decider: &self.decider, limits: &self.limits, peer, client, shutdown };
            exchange(&cx, &mut side, &mut scratch, &mut timer, false).await;
        }
        give_scratch(scratch);
        timer
    }

    /// Passes a TCP stream to the endpoint that [`Decide::on_connection`] names. A failed connection may be tried elsewhere: nothing was sent.
    pub async fn serve_tcp(self: &Arc<Self>, io: impl Into<Io>, peer: Peer) {
        self.serve_tcp_begun(io, Vec::new(), peer).await;
    }

    /// The same of a stream of which `begun` has been read already: it goes first.
    pub async fn serve_tcp_begun(self: &Arc<Self>, io: impl Into<Io>, begun: Vec<u8>, peer: Peer) {
        let began = Instant::now();
        let mut action = self.decider.on_connection(&peer);
        let (plan, mut ticket) = loop {
            match action {
                Action::Forward(plan, ticket) => break (plan, ticket),
                Action::Respond(..) => return,
                Action::Wait(wait) => action = wait.await,
            }
        };
        let mut timer = Timer::new();
        let (connection, attempts) = self.connect_tcp(&plan, &mut ticket).await;
        let until_answer = began.elapsed();
        let mut passed = tunnel::Passed { bytes_in: 0, bytes_out: 0, ending: Ending::Upstream };
        if let Some(Connection { io: upstream, lease }) = connection {
            let (mut client, mut upstream) = (H1::new(io.into()), H1::new(upstream));
            if !begun.is_empty() {
                client.inbox.begin_with(&begun);
            }
            drop(begun);
            passed = tunnel::pass(&mut client, &mut upstream, plan.rules.timeouts.stream_idle, &mut timer).await;
            drop(lease);
        }
        let tunnel::Passed { bytes_in, bytes_out, ending } = passed;
        let end = End { ending, status: 0, attempts, bytes_in, bytes_out, until_answer, took: began.elapsed() };
        self.decider.on_stream_end(ticket, &peer, &end);
    }

    async fn connect_tcp(&self, plan: &Plan, ticket: &mut D::Ticket) -> (Option<Connection>, u32) {
        let mut to = plan.to.clone();
        for number in 0.. {
            let started = Instant::now();
            let kind = match to.connect_stream().await {
                Ok(connection) => match self.decider.on_resume(ticket, to.clone()) {
                    Some(it) if Arc::ptr_eq(&it, &to) => return (Some(connection), number + 1),
                    // It was taken out while the connection was being made.
                    Some(other) => {
                        to = other;
                        continue;
                    }
                    None => return (None, number + 1),
                },
                Err(NoConnection::Full) => FailureKind::Full,
                Err(NoConnection::Failed) => FailureKind::Connect,
            };
            let attempt = Attempt { number, took: started.elapsed(), sent: false, replayable: true };
            let OnFailure::Retry(Again { to: other, pause }) = self.decider.on_failure(ticket, kind, &attempt) else {
                return (None, number + 1);
            };
            if pause > Duration::ZERO {
                sleep(pause).await;
            }
            match self.decider.on_resume(ticket, other) {
                Some(other) => to = other,
                None => return (None, number + 1),
            }
        }
        (None, u32::MAX)
    }
}

/// An empty line before a request is skipped, as RFC 9112 §2.2 asks for; one, not any number.
fn poll_request_head(
    connection: &mut H1,
    limits: &Limits,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<usize, Broken>> {
    const TOO_LARGE: Bad = Bad { status: 431, why: "a head that is too large" };
    let length = std::task::ready!(connection.poll_head(cx, limits.head_bytes_max, TOO_LARGE))?;
    if length > 2 {
        return Poll::Ready(Ok(length));
    }
    connection.inbox.consume(length);
    let length = std::task::ready!(connection.poll_head(cx, limits.head_bytes_max, TOO_LARGE))?;
    Poll::Ready(if length > 2 { Ok(length) } else { Err(bad("an empty request").into()) })
}

/// Scratches that a thread keeps.
const SCRATCHES_MAX: usize = 64;

thread_local! {
    #[expect(clippy::vec_box, reason = "a box is what requests are handed, so that an idle connection's task has no room for heads")]
    static SCRATCHES: RefCell<Vec<Box<Scratch>>> = const { RefCell::new(Vec::new()) };
}

pub(crate) fn take_scratch() -> Box<Scratch> {
    SCRATCHES.with_borrow_mut(Vec::pop).unwrap_or_default()
}

pub(crate) fn give_scratch(scratch: Box<Scratch>) {
    SCRATCHES.with_borrow_mut(|kept| {
        if kept.len() < SCRATCHES_MAX {
            kept.push(scratch);
        }
    });
}

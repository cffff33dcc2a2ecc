//! One request and its answer: asks the decider, makes attempts, moves both bodies at once, and tells how it ended.
//!
//! One task drives both connections. While the request's body goes up the answer may come already (an upstream that refuses, a gRPC stream), so
//! from the first byte on both directions are polled together.

use crate::body::{Decoder, Encoder, push_decimal, push_field};
use crate::forward::{self, Client, Passing};
use crate::grpc;
use crate::head::{AnswerHead, Bad, BodyLength, RequestHead, Version, digits, is_framing, is_token, is_value, list};
use crate::http2::{Code, hpack};
use crate::limits::Limits;
use crate::pace::Pace;
use crate::plan::{Action, Again, Attempt, Decide, End, Ending, FailureKind, OnAnswer, OnFailure, Peer, Plan, Reply};
use crate::pool::{Connection, Endpoint, Lease, NoConnection, Protocol};
use crate::serve::Shutdown;
use crate::side::{Broken, Flow, H1, H2, Kept, PumpError, Side, poll_pump};
use crate::timer::{Timer, after, earlier};
use crate::tunnel;
use base::Duration;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use tokio::time::{Instant, sleep};

/// What all requests of a connection share.
pub(crate) struct Cx<'a, D> {
    pub decider: &'a D,
    pub limits: &'a Limits,
    pub peer: &'a Peer,
    pub client: &'a Client,
    /// Looked at when an answer is passed: its head is the last moment to say that the connection ends.
    pub shutdown: &'a Shutdown,
}

/// Heads, whose memory goes from one request to the next.
#[derive(Default)]
pub(crate) struct Scratch {
    pub request: RequestHead,
    pub answer: AnswerHead,
}

/// What becomes of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// The next request may come.
    Keep,
    /// It ends.
    Close,
    /// It ends, but the client may still be sending: what it sends is read for a while, so that it can read our answer.
    Linger,
}

/// An upstream's side of an attempt.
struct Upstream {
    side: Side,
    lease: Option<Lease>,
}

/// Why an attempt has no answer.
enum NoAnswer {
    Upstream(FailureKind),
    /// A kept connection was closed before it was used.
    Stale,
    /// The client broke its request off, or sends nonsense.
    Client(Broken),
    ClientSlow,
    TooLarge,
    /// Its endpoint was taken out while the connection was being made: nothing was sent, and this is where it goes instead.
    Moved(Option<Arc<Endpoint>>),
}

/// What is told at the end.
struct Account {
    began: Instant,
    until_answer: Option<Duration>,
    status: u16,
    attempts: u32,
    bytes_in: u64,
    bytes_out: u64,
}

impl Account {
    fn end(&self, ending: Ending) -> End {
        let took = self.began.elapsed();
        End {
            ending,
            status: self.status,
            attempts: self.attempts,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            until_answer: self.until_answer.unwrap_or(took),
            took,
        }
    }
}

/// Serves one request, whose head stands in `scratch`. `last`: the connection ends after it whatever the client wants.
pub(crate) async fn exchange<D: Decide>(
    cx: &Cx<'_, D>,
    down: &mut Side,
    scratch: &mut Scratch,
    timer: &mut Timer,
    last: bool,
) -> Next {
    let mut account =
        Account { began: Instant::now(), until_answer: None, status: 0, attempts: 0, bytes_in: 0, bytes_out: 0 };
    let mut action = cx.decider.on_request(&scratch.request, cx.peer);
    let (plan, mut ticket) = loop {
        match action {
            Action::Forward(plan, ticket) => break (plan, ticket),
            Action::Respond(reply, ticket) => {
                let (next, ending) =
                    Box::pin(respond(cx, down, &scratch.request, &reply, &mut account, timer, last)).await;
                cx.decider.on_end(ticket, &scratch.request, cx.peer, &account.end(ending));
                return next;
            }
            Action::Wait(mut wait) => {
                let decided = poll_fn(|cx| match wait.as_mut().poll(cx) {
                    Poll::Ready(action) => Poll::Ready(Some(action)),
                    Poll::Pending if down.read_all() => down.poll_gone(cx).map(|()| None),
                    Poll::Pending => Poll::Pending,
                });
                let Some(decided) = decided.await else {
                    cx.decider.on_end(None, &scratch.request, cx.peer, &account.end(Ending::Client));
                    return Next::Close;
                };
                action = decided;
            }
        }
    };
    let mut work = Work { cx, down, scratch, timer, account: &mut account, plan: &plan, last };
    let (next, ending) = work.run(&mut ticket).await;
    cx.decider.on_end(Some(ticket), &scratch.request, cx.peer, &account.end(ending));
    next
}

/// Everything that the steps of a forwarded request share.
struct Work<'a, 'c, D> {
    cx: &'a Cx<'c, D>,
    down: &'a mut Side,
    scratch: &'a mut Scratch,
    timer: &'a mut Timer,
    account: &'a mut Account,
    plan: &'a Plan,
    last: bool,
}

impl<D: Decide> Work<'_, '_, D> {
    async fn run(&mut self, ticket: &mut D::Ticket) -> (Next, Ending) {
        let rules = &*self.plan.rules;
        if let Err(bad) = forward::check(self.plan) {
            return self.refuse(bad).await;
        }
        if let BodyLength::Known(length) = self.scratch.request.body
            && rules.body_bytes_max > 0
            && length > rules.body_bytes_max
        {
            return self.refuse(TOO_LARGE).await;
        }
        let whole = match (self.plan.deadline, rules.timeouts.request) {
            (Some(client), ours) if !ours.is_zero() => client.min(ours),
            (Some(client), _) => client,
            (None, ours) => ours,
        };
        let deadline = (!whole.is_zero()).then(|| self.account.began + whole);
        let kept = Kept { bytes_max: rules.replay_bytes_max, ..Kept::default() };
        let mut flow = Flow { bytes_max: rules.body_bytes_max, kept, ..Flow::default() };
        let mut to = self.plan.to.clone();
        let mut fresh = false;
        loop {
            let started = Instant::now();
            let result = self.attempt(ticket, &to, &mut flow, deadline, fresh).await;
            self.account.bytes_in = flow.bytes;
            let attempt = Attempt {
                number: self.account.attempts,
                took: started.elapsed(),
                sent: !matches!(result, Err(NoAnswer::Upstream(FailureKind::Connect | FailureKind::Full))),
                replayable: !flow.kept.lost,
            };
            fresh = false;
            let again = match result {
                Err(NoAnswer::Stale) if attempt.replayable && self.scratch.request.is_idempotent() => {
                    fresh = true;
                    continue;
                }
                Err(NoAnswer::Moved(Some(other))) => {
                    to = other;
                    continue;
                }
                Err(NoAnswer::Moved(None)) => return self.reply(&Reply::text(503, http_reason(503))).await,
                Err(NoAnswer::Client(Broken::Bad(bad))) => return self.refuse(bad).await,
                Err(NoAnswer::Client(_)) => return (Next::Close, Ending::Client),
                Err(NoAnswer::ClientSlow) => {
                    return self.refuse(Bad { status: 408, why: "the body did not come in time" }).await;
                }
                Err(NoAnswer::TooLarge) => return self.refuse(TOO_LARGE).await,
                Err(failure @ (NoAnswer::Stale | NoAnswer::Upstream(_))) => {
                    self.account.attempts += 1;
                    let kind = match failure {
                        NoAnswer::Upstream(kind) => kind,
                        _ => FailureKind::Reset,
                    };
                    let plain = || Reply::text(kind.status(), http_reason(kind.status()));
                    match self.cx.decider.on_failure(ticket, kind, &attempt) {
                        OnFailure::Retry(again) if attempt.replayable => again,
                        OnFailure::Retry(_) => return self.reply(&plain()).await,
                        OnFailure::GiveUp(reply) => return self.reply(&reply.unwrap_or_else(plain)).await,
                    }
                }
                Ok(upstream) => {
                    self.account.attempts += 1;
                    match self.cx.decider.on_answer(ticket, &self.scratch.answer, &attempt) {
                        OnAnswer::Retry(again) if attempt.replayable && self.scratch.answer.status != 101 => again,
                        OnAnswer::Retry(_) => return self.pass(&to, upstream, &mut flow, &[]).await,
                        OnAnswer::Pass(added) => return self.pass(&to, upstream, &mut flow, &added).await,
                        OnAnswer::Replace(reply) => return self.reply(&reply).await,
                    }
                }
            };
            let Again { to: other, pause } = again;
            if deadline.is_some_and(|at| Instant::now() + pause >= at) {
                return self.reply(&Reply::text(504, http_reason(504))).await;
            }
            if !pause.is_zero() {
                Box::pin(sleep(pause)).await;
            }
            match self.cx.decider.on_resume(ticket, other) {
                Some(other) => to = other,
                None => return self.reply(&Reply::text(503, http_reason(503))).await,
            }
        }
    }

    async fn refuse(&mut self, bad: Bad) -> (Next, Ending) {
        let reply = Reply { close: true, ..Reply::text(bad.status, bad.why) };
        self.reply(&reply).await
    }

    async fn reply(&mut self, reply: &Reply) -> (Next, Ending) {
        Box::pin(respond(self.cx, self.down, &self.scratch.request, reply, self.account, self.timer, self.last)).await
    }

    /// Sends the request to `to` and waits for the answer's head.
    async fn attempt(
        &mut self,
        ticket: &mut D::Ticket,
        to: &Arc<Endpoint>,
        flow: &mut Flow,
        deadline: Option<Instant>,
        fresh: bool,
    ) -> Result<Upstream, NoAnswer> {
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(NoAnswer::Upstream(FailureKind::Deadline));
        }
        let (mut upstream, reused) = self.open(ticket, to, deadline, left, fresh).await?;
        if flow.bytes > 0 {
            upstream.side.queue(&flow.kept.bytes).map_err(NoAnswer::Client)?;
        }
        if flow.ended {
            upstream.side.finish(self.down.trailers()).map_err(NoAnswer::Client)?;
            // The pump only has to send it.
            flow.done = false;
        }
        loop {
            self.answer(&mut upstream, flow, deadline, reused, to).await?;
            match self.scratch.answer.status {
                101 if self.plan.rules.websocket && self.scratch.request.asks_websocket() => return Ok(upstream),
                101 => return Err(NoAnswer::Upstream(FailureKind::Malformed)),
                100..200 => Box::pin(self.inform()).await?,
                _ => return Ok(upstream),
            }
        }
    }

    /// A connection, with the request's head on it.
    async fn open(
        &mut self,
        ticket: &mut D::Ticket,
        to: &Arc<Endpoint>,
        deadline: Option<Instant>,
        left: Option<Duration>,
        fresh: bool,
    ) -> Result<(Upstream, bool), NoAnswer> {
        let request = &self.scratch.request;
        if to.config().protocol == Protocol::Http2 {
            let opened = Box::pin(self.open_stream(ticket, to, deadline, left)).await;
            return opened.map(|upstream| (upstream, false));
        }
        let idle = if fresh { None } else { to.take_idle() };
        let reused = idle.is_some();
        let Connection { io, lease } = match idle {
            Some(connection) => connection,
            None => match self.timer.until(deadline, Box::pin(to.connect())).await {
                Some(Ok(connection)) => {
                    still_there(self.cx.decider, ticket, to)?;
                    connection
                }
                other => return Err(no_connection(other)),
            },
        };
        let mut side = H1::new(io);
        side.encoder = forward::request_h1(request, self.plan, to, self.cx.client, left, side.outbox.buffer());
        Ok((Upstream { side: Side::H1(side), lease: Some(lease) }, reused))
    }

    /// A stream of a shared connection, with the request's head on it.
    async fn open_stream(
        &mut self,
        ticket: &mut D::Ticket,
        to: &Arc<Endpoint>,
        deadline: Option<Instant>,
        left: Option<Duration>,
    ) -> Result<Upstream, NoAnswer> {
        let request = &self.scratch.request;
        let head = forward::request_h2(request, self.plan, to, self.cx.client, left)
            .map_err(|bad| NoAnswer::Client(bad.into()))?;
        // A connection may be on its way out (GOAWAY) without our knowing: once more, then.
        for _ in 0..2 {
            let mut shares = match self.timer.until(deadline, to.share()).await {
                Some(Ok(shares)) => shares,
                other => return Err(no_connection(other)),
            };
            let ready = self.timer.until(deadline, poll_fn(|cx| shares.send.poll_ready(cx))).await;
            still_there(self.cx.decider, ticket, to)?;
            let sent = match ready {
                None => return Err(NoAnswer::Upstream(FailureKind::Deadline)),
                Some(Ok(())) => shares.send.send_request(head.clone(), request.body == BodyLength::None),
                Some(Err(error)) => Err(error),
            };
            match sent {
                Ok((answer, stream)) => {
                    let mut side = H2::outgoing(answer, stream, shares);
                    if request.body == BodyLength::None {
                        side.send = None;
                    }
                    return Ok(Upstream { side: Side::H2(Box::new(side)), lease: None });
                }
                Err(_) => to.forget(shares.id),
            }
        }
        Err(NoAnswer::Upstream(FailureKind::Connect))
    }

    /// Moves the request's body until an answer's head came.
    async fn answer(
        &mut self,
        upstream: &mut Upstream,
        flow: &mut Flow,
        deadline: Option<Instant>,
        reused: bool,
        to: &Endpoint,
    ) -> Result<(), NoAnswer> {
        let (timeouts, limits) = (self.plan.rules.timeouts, self.cx.limits);
        let (down, timer, answer) = (&mut *self.down, &mut *self.timer, &mut self.scratch.answer);
        let mut request_broken = false;
        let (mut moved, mut late, mut due) = (u64::MAX, false, None);
        let mut pace = Pace::of(&self.plan.rules, &self.scratch.request, Instant::now());
        let head_bytes_max = to.config().head_bytes_max;
        poll_fn(move |cx| {
            if !flow.done && !request_broken {
                match poll_pump(down, &mut upstream.side, flow, cx) {
                    Poll::Ready(Err(PumpError::From(broken))) => return Poll::Ready(Err(NoAnswer::Client(broken))),
                    Poll::Ready(Err(PumpError::TooLarge)) => return Poll::Ready(Err(NoAnswer::TooLarge)),
                    // It may have answered before it stopped reading.
                    Poll::Ready(Err(PumpError::To)) => request_broken = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            match upstream.side.poll_answer(cx, answer, head_bytes_max, limits.fields_max) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(Broken::Bad(_))) => {
                    return Poll::Ready(Err(NoAnswer::Upstream(FailureKind::Malformed)));
                }
                Poll::Ready(Err(_)) if reused && nothing_came(&upstream.side) => {
                    return Poll::Ready(Err(NoAnswer::Stale));
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(NoAnswer::Upstream(FailureKind::Reset))),
                Poll::Pending => {}
            }
            if flow.ended && down.poll_gone(cx).is_ready() {
                return Poll::Ready(Err(NoAnswer::Client(Broken::Ended)));
            }
            let now_moved = down.moved() + upstream.side.moved();
            if now_moved != moved {
                moved = now_moved;
                // A body may take longer than the request's deadline, as long as it moves.
                late |= !flow.done && deadline.is_some_and(|at| Instant::now() >= at);
                let step = if flow.done { timeouts.answer } else { timeouts.idle };
                due = if flow.done && !late { earlier(deadline, after(step)) } else { after(step) };
                let looked = pace.as_ref().filter(|_| !flow.ended).map(|it| it.until);
                timer.set(earlier(due, looked));
            }
            while !flow.ended
                && let Some(it) = &mut pace
                && it.until <= Instant::now()
            {
                if it.is_slow(flow.bytes, Instant::now()) && upstream.side.queued() == 0 {
                    return Poll::Ready(Err(NoAnswer::ClientSlow));
                }
                timer.set(earlier(due, Some(it.until)));
            }
            if timer.poll(cx).is_pending() || base::is_planted(base::Bug::AnswerNeverLate) {
                return Poll::Pending;
            }
            Poll::Ready(Err(match () {
                () if flow.done && !late && deadline.is_some_and(|at| Instant::now() >= at) => {
                    NoAnswer::Upstream(FailureKind::Deadline)
                }
                () if flow.done || upstream.side.queued() > 0 => NoAnswer::Upstream(FailureKind::AnswerTimeout),
                () => NoAnswer::ClientSlow,
            }))
        })
        .await
    }

    /// Passes a 1xx on, to clients that know them.
    async fn inform(&mut self) -> Result<(), NoAnswer> {
        let passing = Passing {
            rules: &self.plan.rules,
            added: &[],
            body: BodyLength::None,
            version: self.scratch.request.version,
            close: false,
            to_head: false,
        };
        match &mut *self.down {
            Side::H1(_) if passing.version == Version::Http10 => return Ok(()),
            Side::H1(it) => {
                forward::answer_h1(&self.scratch.answer, &passing, it.outbox.buffer());
            }
            Side::Stream(it) => {
                let sent = it.head(false, |out| forward::answer_h2(&self.scratch.answer, &passing, out));
                sent.map_err(NoAnswer::Client)?;
            }
            Side::H2(_) => {}
        }
        let sent = self.timer.until(after(self.cx.limits.write_timeout), poll_fn(|cx| self.down.poll_flush(cx))).await;
        sent.unwrap_or(Err(Broken::Ended)).map_err(NoAnswer::Client)
    }

    /// Passes the answer on.
    async fn pass(
        &mut self,
        to: &Arc<Endpoint>,
        mut upstream: Upstream,
        flow: &mut Flow,
        added: &[(Box<str>, Box<str>)],
    ) -> (Next, Ending) {
        let (request, answer) = (&self.scratch.request, &self.scratch.answer);
        let to_head = request.method() == "HEAD";
        // An answer of HTTP/2 may end with its head; gRPC's clients want to see it so ("Trailers-Only").
        let body = match &upstream.side {
            Side::H2(it) if it.read_all => BodyLength::None,
            _ => answer.body(to_head),
        };
        let until_close =
            matches!(body, BodyLength::Streamed | BodyLength::UntilClose) && request.version == Version::Http10;
        let keep = request.keeps_alive() && !self.last && flow.ended && !until_close && !*self.cx.shutdown.borrow();
        let passing = Passing { rules: &self.plan.rules, added, body, version: request.version, close: !keep, to_head };
        self.account.status = answer.status;
        self.account.until_answer = Some(self.account.began.elapsed());
        if let Side::H1(it) = &mut upstream.side {
            it.decoder = Decoder::new(body, self.cx.limits.trailer_bytes_max, self.cx.limits.fields_max);
            it.read_all = body == BodyLength::None;
        }
        match &mut *self.down {
            Side::H1(it) => it.encoder = forward::answer_h1(answer, &passing, it.outbox.buffer()),
            Side::Stream(it) => {
                // Nothing more follows where there is no body.
                let sent = it.head(body == BodyLength::None, |out| forward::answer_h2(answer, &passing, out));
                if sent.is_err() {
                    return (Next::Close, Ending::Client);
                }
            }
            Side::H2(_) => return (Next::Close, Ending::Client),
        }
        if answer.status == 101 {
            return Box::pin(self.switch(upstream)).await;
        }
        let mut back = Flow::default();
        let ending = self.relay(&mut upstream.side, flow, &mut back).await;
        self.account.bytes_in = flow.bytes;
        self.account.bytes_out = back.bytes;
        if ending != Ending::Complete {
            if let Side::Stream(it) = &mut *self.down {
                it.reset(if ending == Ending::Upstream { Code::Internal } else { Code::Cancel });
            }
            return (Next::Close, ending);
        }
        let answer = &self.scratch.answer;
        if let Upstream { side: Side::H1(mut it), lease: Some(lease) } = upstream
            && answer.keeps_alive()
            && body != BodyLength::UntilClose
            && flow.done
            && it.inbox.is_empty()
        {
            it.inbox.release();
            it.outbox.release();
            to.keep(Connection { io: it.io, lease }, promised(answer));
        }
        let next = match (keep, self.down.read_all()) {
            (true, true) => Next::Keep,
            (false, true) => Next::Close,
            (_, false) => Next::Linger,
        };
        (next, ending)
    }

    /// Moves both bodies until the answer's end is sent.
    async fn relay(&mut self, upstream: &mut Side, flow: &mut Flow, back: &mut Flow) -> Ending {
        let timeouts = self.plan.rules.timeouts;
        let (down, timer, scratch) = (&mut *self.down, &mut *self.timer, &*self.scratch);
        let mut idle = timeouts.idle;
        let mut request_broken = false;
        let mut moved = u64::MAX;
        poll_fn(move |cx| {
            if !flow.done && !request_broken {
                match poll_pump(down, upstream, flow, cx) {
                    Poll::Ready(Err(PumpError::From(_) | PumpError::TooLarge)) => return Poll::Ready(Ending::Client),
                    Poll::Ready(Err(PumpError::To)) => request_broken = true,
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                }
            }
            match poll_pump(upstream, down, back, cx) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ending::Complete),
                Poll::Ready(Err(PumpError::To)) => return Poll::Ready(Ending::Client),
                Poll::Ready(Err(_)) => return Poll::Ready(Ending::Upstream),
                Poll::Pending => {}
            }
            if flow.ended && down.poll_gone(cx).is_ready() {
                return Poll::Ready(Ending::Client);
            }
            let now_moved = down.moved() + upstream.moved();
            if now_moved != moved {
                moved = now_moved;
                timer.set(after(idle));
            }
            std::task::ready!(timer.poll(cx));
            if idle != timeouts.stream_idle && is_stream(scratch) && down.queued() == 0 {
                // As long as it has been quiet already counts.
                timer.set(after(timeouts.stream_idle.saturating_sub(idle)));
                idle = timeouts.stream_idle;
                std::task::ready!(timer.poll(cx));
            }
            Poll::Ready(if down.queued() > 0 { Ending::Client } else { Ending::Upstream })
        })
        .await
    }

    /// The answer was 101: from here on bytes only.
    async fn switch(&mut self, upstream: Upstream) -> (Next, Ending) {
        let (Side::H1(client), Upstream { side: Side::H1(mut server), lease }) = (&mut *self.down, upstream) else {
            return (Next::Close, Ending::Upstream);
        };
        let sent = self.timer.until(after(self.cx.limits.write_timeout), poll_fn(|cx| client.poll_flush(cx))).await;
        if !matches!(sent, Some(Ok(()))) {
            return (Next::Close, Ending::Client);
        }
        client.outbox.release();
        server.outbox.release();
        let passed = tunnel::pass(client, &mut server, self.plan.rules.timeouts.stream_idle, self.timer).await;
        drop(lease);
        (self.account.bytes_in, self.account.bytes_out) = (passed.bytes_in, passed.bytes_out);
        (Next::Close, passed.ending)
    }
}

/// Making a connection takes time in which its endpoint may be taken out: asked again right before the first byte.
fn still_there<D: Decide>(decider: &D, ticket: &mut D::Ticket, to: &Arc<Endpoint>) -> Result<(), NoAnswer> {
    match decider.on_resume(ticket, to.clone()) {
        Some(it) if Arc::ptr_eq(&it, to) => Ok(()),
        other => Err(NoAnswer::Moved(other)),
    }
}

/// Why a connection did not come: `None` is the deadline.
fn no_connection<T>(it: Option<Result<T, NoConnection>>) -> NoAnswer {
    NoAnswer::Upstream(match it {
        Some(Err(NoConnection::Full)) => FailureKind::Full,
        Some(_) => FailureKind::Connect,
        None => FailureKind::Deadline,
    })
}

const TOO_LARGE: Bad = Bad { status: 413, why: "a body that is too large" };

fn http_reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|it| it.canonical_reason()).unwrap_or_default()
}

/// Messages that come when there is something to say: gRPC's, and server-sent events.
fn is_stream(scratch: &Scratch) -> bool {
    let events = |it: &[u8]| it.len() >= 17 && it[..17].eq_ignore_ascii_case(b"text/event-stream");
    scratch.request.is_grpc() || scratch.answer.fields.get("content-type").is_some_and(events)
}

fn nothing_came(side: &Side) -> bool {
    matches!(side, Side::H1(it) if it.inbox.is_empty())
}

/// `Keep-Alive: timeout=5` (RFC 2068 §19.7.1.1; node says it).
fn promised(answer: &AnswerHead) -> Option<Duration> {
    let value = answer.fields.get("keep-alive")?;
    let seconds = list(value).find_map(|it| digits(it.strip_prefix(b"timeout=")?))?;
    Some(Duration::from_secs(seconds.min(1 << 20)))
}

/// Answers by ourselves.
async fn respond<D>(
    cx: &Cx<'_, D>,
    down: &mut Side,
    request: &RequestHead,
    reply: &Reply,
    account: &mut Account,
    timer: &mut Timer,
    last: bool,
) -> (Next, Ending) {
    account.status = reply.status;
    account.until_answer = Some(account.began.elapsed());
    let keep = request.keeps_alive() && !last && !reply.close && down.read_all();
    let to_head = request.method() == "HEAD";
    let next = match (keep, down.read_all()) {
        (true, _) => Next::Keep,
        (false, true) => Next::Close,
        (false, false) => Next::Linger,
    };
    // What is told of it keeps the status that it stands for.
    let grpc = grpc::reply_for(request, reply);
    let reply = grpc.as_ref().unwrap_or(reply);
    let queued = queue_reply(down, reply, request.version, to_head, keep);
    if queued.is_err() {
        return (Next::Close, Ending::Client);
    }
    let sent = timer.until(after(cx.limits.write_timeout), poll_fn(|cx| down.poll_flush(cx))).await;
    if !matches!(sent, Some(Ok(()))) {
        return (Next::Close, Ending::Client);
    }
    account.bytes_out = if to_head { 0 } else { reply.body.len() as u64 };
    (next, Ending::Complete)
}

/// Queues an answer of our own.
pub(crate) fn queue_reply(
    down: &mut Side,
    reply: &Reply,
    version: Version,
    to_head: bool,
    keep: bool,
) -> Result<(), Broken> {
    let status = reply.status.clamp(200, 599);
    let none = matches!(status, 204 | 304);
    let body: &[u8] = if to_head || none { &[] } else { &reply.body };
    let fields = || {
        let may = |name: &str, value: &str| {
            is_token(name.as_bytes()) && is_value(value.as_bytes()) && !is_framing(name.as_bytes())
        };
        reply.headers.iter().filter(move |(name, value)| may(name, value))
    };
    match down {
        Side::H1(it) => {
            // Anything that was queued of an answer that is not to be sent: there is none, an answer is queued only to be passed.
            let out = it.outbox.buffer();
            forward::push_status(status, out);
            fields().for_each(|(name, value)| push_field(name.as_bytes(), value.as_bytes(), out));
            if !none {
                out.extend_from_slice(b"content-length: ");
                push_decimal(reply.body.len() as u64, out);
                out.extend_from_slice(b"\r\n");
            }
            match version {
                _ if !keep => out.extend_from_slice(b"connection: close\r\n"),
                Version::Http10 => out.extend_from_slice(b"connection: keep-alive\r\n"),
                _ => {}
            }
            out.extend_from_slice(b"\r\n");
            out.extend_from_slice(body);
            it.encoder = Encoder::None;
        }
        Side::Stream(it) => {
            it.head(body.is_empty(), |out| {
                hpack::push_status(status, out);
                fields().for_each(|(name, value)| hpack::push_field(name.as_bytes(), value.as_bytes(), out));
                if !none && !reply.body.is_empty() {
                    forward::push_length_h2(reply.body.len() as u64, out);
                }
            })?;
            if !body.is_empty() {
                it.queue(body);
                it.finish(None);
            }
        }
        Side::H2(_) => return Err(Broken::Ended),
    }
    Ok(())
}

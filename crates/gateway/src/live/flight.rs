//! A request on its way: what is decided about it after its plan, and what must be given back when it is over.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};

use arc_swap::Guard;
use base::{Duration, Instant, Rng};
use smallvec::SmallVec;

use super::route::Places;
use super::upstream::Ways;
use super::{Answer, Decision, Event, Gateway, LiveRoute, LiveUpstream, Picked};
use crate::balance::{Ask, Attempt, EndpointId, NoEndpoint, Place};
use crate::headers::{TraceContext, TraceId};
use crate::resilience::{
    Bulkhead, Deadline, Failure, Idempotence, Outcome, Pass, RetryVerdict, Shedder, Ticket, Tried,
};

/// What a request needs, in values of its own: it outlives the head's buffer.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub client: IpAddr,
    pub trace: TraceContext,
    pub secure: bool,
    pub target: Option<String>,
    pub host: Option<String>,
    pub endpoint_host: bool,
    pub headers: Vec<(&'static str, String)>,
    pub hash: Option<u64>,
    pub cookie: Option<Box<[u8]>>,
    /// Where the client is, if the upstream wants to know.
    pub place: Place,
    /// It is a connection, not a request.
    pub stream: bool,
    pub idempotence: Idempotence,
    pub has_idempotency_key: bool,
    pub started: Instant,
    pub deadline: Deadline,
}

impl Wish {
    fn ask<'a>(&'a self, now: Instant, tried: &'a [EndpointId]) -> Ask<'a> {
        Ask { now, hash: self.hash, cookie: self.cookie.as_deref(), place: self.place, tried }
    }
}

/// What the engine does with a request: values only.
#[derive(Debug)]
pub struct Plan<E> {
    /// Where it goes first.
    pub to: Arc<E>,
    /// The endpoint's name, for logs.
    pub endpoint: Box<str>,
    /// Path and query for the upstream: what was matched, or what a rewrite made of it. `None`: as the client wrote it, since that was normal.
    pub target: Option<String>,
    /// The Host for the upstream; `None`: the client's.
    pub host: Option<String>,
    /// Whether Host is the endpoint's own address, whichever endpoint it is.
    pub endpoint_host: bool,
    /// Fields put in place of those of the same name: `traceparent`, and what came of it.
    pub headers: Vec<(&'static str, String)>,
    /// When the answer's head must be there.
    pub deadline: Instant,
}

/// The place of a request in its route and in the gateway: given back when dropped.
pub(super) struct Permit {
    pub places: Option<Arc<Places>>,
    pub shed: Arc<Shedder>,
    /// Bytes that are held for it: its head, and as much of a body of known length as may be kept for another attempt.
    pub held: u64,
}

impl Permit {
    /// For a request that was let in and for which so many bytes are held until it ends.
    pub fn holding(shed: &Arc<Shedder>, held: u64) -> Permit {
        shed.hold(held);
        Permit { places: None, shed: Arc::clone(shed), held }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(places) = &self.places {
            places.leave();
        }
        self.shed.free(self.held);
        self.shed.done();
    }
}

/// The place of a request in its upstream.
struct UpstreamPlace(Arc<Bulkhead>);

impl Drop for UpstreamPlace {
    fn drop(&mut self) {
        // It has no queue, so nobody is named.
        let _ = self.0.leave();
    }
}

/// A request on its way. Dropping it, whatever happened, gives everything back.
pub struct Flight<E> {
    /// The route that it took.
    pub route: Arc<LiveRoute<E>>,
    upstream: Arc<LiveUpstream<E>>,
    wish: Wish,
    ways: Arc<Ways>,
    /// Taken when the attempt was reported.
    pass: Option<Pass>,
    attempt: Option<(EndpointId, Attempt)>,
    /// Of the attempt's endpoint when it was picked.
    tenure: u64,
    endpoint: Box<str>,
    stuck: bool,
    last_resort: bool,
    tried: SmallVec<[EndpointId; 4]>,
    attempts: u32,
    answered: Option<(u16, Instant)>,
    _place: UpstreamPlace,
    _permit: Permit,
}

impl<E> Drop for Flight<E> {
    fn drop(&mut self) {
        if let Some(pass) = self.pass.take() {
            self.ways.breaker.cancel(pass);
        }
    }
}

/// A request that waits for a place on its route. Awaited it is over when it has one; when it is not over at [`Queued::until`], drop it (or ask
/// [`Queued::refused`] for the answer). Dropped it leaves the queue.
pub struct Queued<E> {
    route: Arc<LiveRoute<E>>,
    upstream: Arc<LiveUpstream<E>>,
    wish: Option<Wish>,
    ticket: Option<Ticket>,
    /// Until when it may wait.
    pub until: Instant,
    permit: Option<Permit>,
}

impl<E> Future for Queued<E> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        match self.ticket {
            Some(ticket) if !self.route.places.poll(ticket, context.waker()) => Poll::Pending,
            _ => {
                self.ticket = None;
                Poll::Ready(())
            }
        }
    }
}

impl<E> Queued<E> {
    /// Goes on with the request; to be asked once it is over.
    pub fn go(mut self, gateway: &Gateway<E>, now: Instant, rng: &mut Rng) -> Decision<E> {
        if self.ticket.is_some() {
            return Decision::Answer(self.refused());
        }
        let (Some(wish), Some(mut permit)) = (self.wish.take(), self.permit.take()) else {
            return Decision::Answer(self.refused());
        };
        permit.places = Some(Arc::clone(&self.route.places));
        start(gateway, Arc::clone(&self.route), Arc::clone(&self.upstream), wish, permit, now, rng)
    }

    /// What the client gets whose wait was too long.
    pub fn refused(&self) -> Answer {
        self.route.counters.refused.fetch_add(1, Relaxed);
        Answer::error(503, "too many requests wait for this route").on(&self.route.compiled.name)
    }
}

impl<E> Drop for Queued<E> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.route.places.give_up(ticket);
        } else if self.wish.is_some() {
            // It had its place and did not use it.
            self.route.places.leave();
        }
    }
}

/// Begins to wait.
pub(super) fn queue<E>(
    route: Arc<LiveRoute<E>>,
    upstream: Arc<LiveUpstream<E>>,
    wish: Wish,
    ticket: Ticket,
    until: Instant,
    permit: Permit,
) -> Queued<E> {
    Queued { route, upstream, wish: Some(wish), ticket: Some(ticket), until, permit: Some(permit) }
}

/// A request that has its place goes to an endpoint, or is refused.
pub(super) fn start<E>(
    gateway: &Gateway<E>,
    route: Arc<LiveRoute<E>>,
    upstream: Arc<LiveUpstream<E>>,
    mut wish: Wish,
    permit: Permit,
    now: Instant,
    rng: &mut Rng,
) -> Decision<E> {
    let refuse = |why: &'static str, after: Duration| {
        route.counters.refused.fetch_add(1, Relaxed);
        Decision::Answer(Answer::error(503, why).retry_after(after).on(&route.compiled.name))
    };
    let ways = Guard::into_inner(upstream.ways());
    if ways.bulkhead.enter(now).is_err() {
        return refuse("too many requests to this upstream are under way", Duration::from_secs(1));
    }
    let place = UpstreamPlace(Arc::clone(&ways.bulkhead));
    let (admitted, transition) = ways.breaker.admit(now);
    gateway.happened(transition.map(|transition| Event::Breaker { upstream: Arc::clone(&upstream.name), transition }));
    let pass = match admitted {
        Ok(pass) => pass,
        Err(open) => return refuse("the upstream fails: its breaker is open", open.retry_after),
    };
    let picked = match upstream.pick(&wish.ask(now, &[]), rng) {
        Ok(picked) => picked,
        Err(why) => {
            ways.breaker.cancel(pass);
            return refuse(no_endpoint(why), Duration::from_secs(1));
        }
    };
    ways.budget.deposit(now);
    upstream.requests.fetch_add(1, Relaxed);
    let plan = Plan {
        to: Arc::clone(&picked.handle),
        endpoint: picked.name.clone(),
        target: wish.target.take(),
        host: wish.host.take(),
        endpoint_host: wish.endpoint_host,
        headers: std::mem::take(&mut wish.headers),
        deadline: wish.deadline.0,
    };
    let mut flight = Flight {
        route,
        upstream,
        wish,
        ways,
        pass: Some(pass),
        attempt: None,
        tenure: 0,
        endpoint: Box::default(),
        stuck: false,
        last_resort: false,
        tried: SmallVec::new(),
        attempts: 0,
        answered: None,
        _place: place,
        _permit: permit,
    };
    flight.begin(picked, now);
    Decision::Forward(Box::new(plan), Box::new(flight))
}

fn no_endpoint(why: NoEndpoint) -> &'static str {
    match why {
        NoEndpoint::Empty => "the upstream has no endpoints",
        NoEndpoint::NoneUsable => "no endpoint of the upstream is healthy",
        NoEndpoint::AllTried => "every endpoint of the upstream was tried",
    }
}

/// What is known of an attempt when it ended without an answer, or with one that might be tried again.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// How it ended.
    pub failure: Failure,
    /// Whether a byte of the request may have reached the upstream.
    pub sent: bool,
    /// Whether the whole request can be sent again and no byte of an answer has left.
    pub replayable: bool,
    /// The answer's Retry-After.
    pub retry_after: Option<Duration>,
}

/// What follows an attempt.
pub enum Next<E> {
    /// The answer, or the failure's own status, goes to the client. Where the upstream is sticky and the client new: with this Set-Cookie.
    Pass(Option<String>),
    /// Another attempt there, after a pause; when that is over [`Flight::resume`] is to be asked.
    Retry {
        /// Where.
        to: Arc<E>,
        /// The endpoint's name.
        endpoint: Box<str>,
        /// What is waited before.
        pause: Duration,
    },
}

/// Where an attempt goes that was decided a while ago.
pub enum Resumed<E> {
    /// Where it was to go.
    There,
    /// Elsewhere: that endpoint was taken out since.
    Elsewhere {
        /// Where.
        to: Arc<E>,
        /// The endpoint's name.
        endpoint: Box<str>,
    },
    /// Nowhere: nobody is left. The client gets 503.
    Nowhere,
}

impl<E> Flight<E> {
    /// `now` is when it is sent.
    fn begin(&mut self, picked: Picked<E>, now: Instant) {
        self.attempts += 1;
        self.tenure = picked.tenure;
        self.stuck = picked.stuck;
        self.last_resort = picked.last_resort;
        self.endpoint = picked.name;
        self.tried.push(picked.endpoint);
        self.attempt = Some((picked.endpoint, picked.live.begin(now)));
    }

    /// Tells everybody who counts how the attempt ended.
    fn report(&mut self, gateway: &Gateway<E>, outcome: Outcome, now: Instant, rng: &mut Rng) {
        if let Some((id, attempt)) = &self.attempt {
            attempt.finish(now, outcome);
            self.upstream.record(now.since(attempt.started()));
            if self.last_resort && outcome == Outcome::Answered {
                gateway.happened(self.upstream.pardon(*id, &gateway.settings, now, rng));
            }
            if outcome.is_failure() {
                self.upstream.failures.fetch_add(1, Relaxed);
                gateway.happened(self.upstream.suspect(*id, attempt.live(), &gateway.settings, now, rng));
            }
        }
        if let Some(pass) = self.pass.take() {
            let transition = self.ways.breaker.report(pass, now, outcome);
            let name = &self.upstream.name;
            gateway.happened(transition.map(|transition| Event::Breaker { upstream: Arc::clone(name), transition }));
        }
    }

    /// The head of an answer came. `grpc_status`: of an answer without a body (trailers only), where it is gRPC.
    pub fn answered(
        &mut self,
        gateway: &Gateway<E>,
        status: u16,
        grpc_status: Option<u32>,
        ended: Ended,
        now: Instant,
        rng: &mut Rng,
    ) -> Next<E> {
        let outcome = grpc_status.map_or_else(|| Outcome::of_status(status), Outcome::of_grpc_status);
        self.report(gateway, outcome, now, rng);
        if self.route.retry.statuses.contains(&status)
            && let Some(next) = self.again(gateway, ended, now, rng)
        {
            return next;
        }
        self.answered = Some((status, now));
        let picked = self.attempt.as_ref().map(|(id, _)| *id);
        let cookie = picked.filter(|_| !self.stuck).and_then(|id| self.upstream.set_cookie(id, self.wish.secure));
        Next::Pass(cookie)
    }

    /// An attempt ended without an answer. One without a connection ([`Failure::Connect`]) before the upstream's `connect_timeout` had passed was
    /// refused: nobody is there.
    pub fn failed(&mut self, gateway: &Gateway<E>, ended: Ended, now: Instant, rng: &mut Rng) -> Next<E> {
        let started = self.attempt.as_ref().map_or(now, |(_, attempt)| attempt.started());
        let outcome = match ended.failure {
            // A refusal comes back within a round trip. Who let the connect timeout pass may be overloaded: that is another matter.
            Failure::Connect if now.since(started) < self.ways.connect_timeout => Outcome::Unreachable,
            // It said so, or has as many connections as it may: busy is not ill.
            Failure::Refused => Outcome::Cancelled,
            _ => Outcome::GatewayFailure,
        };
        self.report(gateway, outcome, now, rng);
        self.again(gateway, ended, now, rng).unwrap_or(Next::Pass(None))
    }

    fn again(&mut self, gateway: &Gateway<E>, ended: Ended, now: Instant, rng: &mut Rng) -> Option<Next<E>> {
        let tried = Tried {
            failure: ended.failure,
            idempotence: self.wish.idempotence,
            has_idempotency_key: self.wish.has_idempotency_key,
            sent: ended.sent,
            replayable: ended.replayable,
            answer_begun: false,
            attempts: self.attempts,
            retry_after: ended.retry_after,
            deadline: self.wish.deadline,
        };
        // First somebody to go to: a retry that cannot happen must not be paid for.
        let picked = self.pick(now, rng);
        let picked = picked.ok()?;
        let RetryVerdict::After(pause) = self.route.retry.decide(&tried, &self.ways.budget, now, rng) else {
            return None;
        };
        let (admitted, transition) = self.ways.breaker.admit(now);
        let name = &self.upstream.name;
        gateway.happened(transition.map(|transition| Event::Breaker { upstream: Arc::clone(name), transition }));
        self.pass = Some(admitted.ok()?);
        self.upstream.retries.fetch_add(1, Relaxed);
        let (to, endpoint) = (Arc::clone(&picked.handle), picked.name.clone());
        // The pause is not the endpoint's time.
        self.begin(picked, now + pause);
        Some(Next::Retry { to, endpoint, pause })
    }

    fn pick(&self, now: Instant, rng: &mut Rng) -> Result<Picked<E>, NoEndpoint> {
        self.upstream.pick(&self.wish.ask(now, &self.tried), rng).or_else(|why| match why {
            // The only endpoint there is may be tried again.
            NoEndpoint::AllTried => self.upstream.pick(&self.wish.ask(now, &[]), rng),
            why => Err(why),
        })
    }

    /// The pause before an attempt is over: where does it go? An endpoint that was taken out meanwhile gets nothing (I7). To be asked right before
    /// anything is sent; asked at other times, and of a first attempt, it does no harm.
    pub fn resume(&mut self, now: Instant, rng: &mut Rng) -> Resumed<E> {
        let same = self.attempt.as_ref().is_none_or(|(_, attempt)| attempt.live().tenure() == self.tenure);
        if same || base::is_planted(base::Bug::RetryNotAskedAgain) {
            return Resumed::There;
        }
        // Nothing was sent: it was no attempt, and says nothing about anybody.
        self.attempt = None;
        self.attempts = self.attempts.saturating_sub(1);
        self.tried.pop();
        let Ok(picked) = self.pick(now, rng) else {
            if let Some(pass) = self.pass.take() {
                self.ways.breaker.cancel(pass);
            }
            return Resumed::Nowhere;
        };
        let (to, endpoint) = (Arc::clone(&picked.handle), picked.name.clone());
        self.begin(picked, now);
        Resumed::Elsewhere { to, endpoint }
    }

    /// It is over: `status` is what the client got, 0 for nothing; of a stream 200 where the upstream served it.
    pub fn over(&mut self, status: u16, now: Instant) {
        // A stream has no answer's head: how it ended is all that is learned. What we answer to a request by ourselves says nothing of anybody.
        if self.wish.stream
            && status > 0
            && let Some(pass) = self.pass.take()
        {
            let outcome = Outcome::of_status(status);
            if let Some((_, attempt)) = &self.attempt {
                attempt.live().tally.note(outcome);
            }
            let _ = self.ways.breaker.report(pass, now, outcome);
        }
        let took = self.answered.map_or(now, |(_, at)| at).since(self.wish.started);
        self.route.counters.answered(status, took);
    }

    /// The upstream that it went to.
    pub fn upstream(&self) -> &str {
        &self.upstream.name
    }

    /// The endpoint of its last attempt.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Attempts so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Who the client is, behind trusted proxies.
    pub fn client(&self) -> IpAddr {
        self.wish.client
    }

    /// Its trace.
    pub fn trace(&self) -> TraceId {
        self.wish.trace.trace
    }
}

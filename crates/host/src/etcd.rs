//! The sockets of the etcd door: HTTP/2 and gRPC's frames in, [`doors::etcd`]'s answers out.
//!
//! Everything is bounded: connections, calls of one, the bytes of all requests that are being read or answered, heads, how long a request
//! may take to come and an answer to go. A message's buffer grows as its bytes come, never by what its length claims.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base::{Instant, Limit, Limits};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use coordination::error::code;
use coordination::limits::REQUEST_BYTES_MAX;
use coordination::{Error, error};
use doors::etcd::{Call, Counters, Door, Soon, Talk, UNREADABLE, Unary, World};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use crate::clock;
use crate::listener::{self, Converse, Places};
use crate::node::Node;
use crate::tls::DoorTls;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 4096;
/// Calls of one connection at once.
const CALLS_MAX: u32 = 4096;
/// Bytes of one message: a request, and what gRPC may put around it (etcd's own allowance).
const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + (512 << 10);
/// Bytes of all requests that are under way on all connections; beyond it no more is read until some are answered.
const REQUESTS_BYTES_MAX: usize = 256 << 20;
/// What of a request counts at least.
const REQUEST_COST_MIN: usize = 1 << 10;
/// Bytes of a call's head.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// How long HTTP/2's greetings may take.
const GREETING_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request may take to come, and what was answered to go on going.
const MESSAGE_PATIENCE: Duration = Duration::from_secs(60);
/// How long a call may wait for a leader and the log (etcd's five seconds and two elections).
const CALL_PATIENCE: Duration = Duration::from_secs(7);
/// How often a stream looks whether there is a leader, and how long there may be none.
const LEADER_EVERY: Duration = Duration::from_millis(500);
const LEADERLESS_MAX: u32 = 6;
/// How often a silent watch says that it is alive, where that was asked for (etcd's own).
const HEARTBEAT: Duration = Duration::from_secs(600);
/// Passwords that are looked at together.
const ASIDE_MAX: usize = 2;

/// How the door is told to be.
#[derive(Debug, Default)]
pub struct EtcdConfig {
    /// Where clients reach this node, `host:port`.
    pub advertise: String,
    /// TLS, if it speaks it.
    pub tls: Option<Arc<DoorTls>>,
}

/// What the door counts, for people.
pub struct Figures {
    /// Its connections.
    pub places: Arc<Places>,
    door: Arc<Door>,
}

impl Figures {
    /// What the door itself counts.
    pub fn counters(&self) -> &Counters {
        &self.door.counters
    }

    /// Watchers that stand.
    pub fn watchers(&self) -> usize {
        self.door.hub.figures().0
    }
}

struct Outside {
    node: Arc<Node>,
    aside: Arc<Semaphore>,
}

impl World for Outside {
    fn now(&self) -> Instant {
        clock::now()
    }

    fn random(&self) -> u64 {
        clock::seed()
    }

    fn term(&self) -> (u64, u64) {
        self.node.meta_term()
    }

    fn aside(&self, work: Box<dyn FnOnce() + Send>) -> Soon<()> {
        let places = self.aside.clone();
        Box::pin(async move {
            let _place = places.acquire_owned().await;
            let _ = tokio::task::spawn_blocking(work).await;
        })
    }
}

struct Served {
    door: Arc<Door>,
    node: Arc<Node>,
    budget: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Converse for Served {
    const NAME: &'static str = "etcd";
    const LIMIT: Limit = Limit::etcd_connections_max;

    fn limits(&self) -> &Limits {
        &self.node.door.limits
    }

    async fn converse<S>(self: Arc<Self>, stream: S, _: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        converse(stream, self).await;
    }
}

/// Serves the door until told to stop.
pub async fn serve(socket: TcpListener, node: Arc<Node>, config: EtcdConfig, stop: watch::Receiver<bool>) {
    let Ok(address) = socket.local_addr() else {
        return;
    };
    let EtcdConfig { advertise, tls } = config;
    let world = Box::new(Outside { node: node.clone(), aside: Arc::new(Semaphore::new(ASIDE_MAX)) });
    let door = Arc::new(Door::new(node.member.own, advertise, tls.is_some(), node.registry.clone(), world));
    let telling = tokio::spawn(door.clone().look_after());
    let places = Places::new(address, CONNECTIONS_MAX);
    let _ = node.etcd.set(Arc::new(Figures { places: places.clone(), door: door.clone() }));
    let budget = Arc::new(Semaphore::new(REQUESTS_BYTES_MAX));
    let served = Arc::new(Served { door, node, budget, stop: stop.clone() });
    listener::serve(socket, tls, &places, served, stop).await;
    telling.abort();
}

async fn converse<S>(stream: S, served: Arc<Served>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(CALLS_MAX)
        .max_header_list_size(HEAD_BYTES_MAX)
        .initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_send_buffer_size(1 << 20)
        .max_concurrent_reset_streams(256)
        .max_local_error_reset_streams(Some(1024));
    let Ok(Ok(mut connection)) = timeout(GREETING_PATIENCE, builder.handshake::<S, Bytes>(stream)).await else {
        return;
    };
    let mut stop = served.stop.clone();
    let mut is_over = false;
    loop {
        let call = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop), if !is_over => {
                is_over = true;
                connection.graceful_shutdown();
                continue;
            }
            call = connection.accept() => call,
        };
        match call {
            Some(Ok((request, respond))) => {
                tokio::spawn(call_of(request, respond, served.clone()));
            }
            Some(Err(_)) | None => return,
        }
    }
}

/// Until the door closes.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Messages of a call as they come.
struct Messages {
    body: RecvStream,
    buffer: BytesMut,
    served: Arc<Served>,
}

impl Messages {
    /// The next one with its share of the budget; none at the end. May be dropped and asked again.
    async fn next(&mut self) -> Result<Option<(Bytes, OwnedSemaphorePermit)>, Error> {
        loop {
            if let Some(length) = self.length()?
                && self.buffer.len() >= length + 5
            {
                let cost = length.max(REQUEST_COST_MIN) as u32;
                let share = match self.served.budget.clone().try_acquire_many_owned(cost) {
                    Ok(share) => share,
                    Err(_) => {
                        self.served.node.door.limits.hit(Limit::etcd_requests_bytes_max);
                        self.served.budget.clone().acquire_many_owned(cost).await.map_err(|_| error::STOPPED)?
                    }
                };
                self.buffer.advance(5);
                return Ok(Some((self.buffer.split_to(length).freeze(), share)));
            }
            match self.body.data().await {
                None if self.buffer.is_empty() => return Ok(None),
                None | Some(Err(_)) => return Err(UNREADABLE),
                Some(Ok(data)) => {
                    self.buffer.extend_from_slice(&data);
                    let _ = self.body.flow_control().release_capacity(data.len());
                }
            }
        }
    }

    fn length(&self) -> Result<Option<usize>, Error> {
        let Some((flag, rest)) = self.buffer.split_first() else {
            return Ok(None);
        };
        if *flag != 0 {
            return Err(Error::new(code::UNIMPLEMENTED, "grpc: Decompressor is not installed for grpc-encoding"));
        }
        let Some(length) = rest.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length) as usize;
        if length > MESSAGE_BYTES_MAX {
            self.served.node.door.limits.hit(Limit::etcd_request_bytes_max);
            let why = format!("grpc: received message larger than max ({length} vs. {MESSAGE_BYTES_MAX})");
            return Err(Error::of(code::RESOURCE_EXHAUSTED, why));
        }
        Ok(Some(length))
    }
}

/// How long the caller gives a call (`grpc-timeout`).
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

fn status(error: Option<&Error>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let code = error.map_or(0, |error| error.code);
    headers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    if let Some(error) = error {
        let mut text = String::new();
        for byte in error.text.bytes() {
            match byte {
                b' '..=b'$' | b'&'..=b'~' => text.push(char::from(byte)),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
        if let Ok(text) = HeaderValue::from_str(&text) {
            headers.insert("grpc-message", text);
        }
    }
    headers
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// An answer that is an error and nothing else.
fn refuse(mut respond: SendResponse<Bytes>, error: &Error) {
    let mut response = head();
    response.headers_mut().extend(status(Some(error)));
    let _ = respond.send_response(response, true);
}

fn frame(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(message.len() as u32);
    frame.extend_from_slice(message);
    frame.freeze()
}

/// Sends as fast as it is taken; false where it is not.
async fn write(send: &mut SendStream<Bytes>, mut data: Bytes) -> bool {
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        match timeout(MESSAGE_PATIENCE, poll_fn(|context| send.poll_capacity(context))).await {
            Ok(Some(Ok(room))) => {
                let part = data.split_to(room.min(data.len()));
                if !part.is_empty() && send.send_data(part, false).is_err() {
                    return false;
                }
            }
            _ => {
                send.send_reset(h2::Reason::CANCEL);
                return false;
            }
        }
    }
    true
}

async fn call_of(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, served: Arc<Served>) {
    let (parts, body) = request.into_parts();
    let is_grpc =
        parts.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if parts.method != Method::POST || !is_grpc {
        let mut response = Response::new(());
        *response.status_mut() = http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let _ = respond.send_response(response, true);
        return;
    }
    let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    let messages = Messages { body, buffer: BytesMut::new(), served: served.clone() };
    let needs_leader = text("hasleader").is_some_and(|value| value == "true");
    let call = served.door.call(parts.uri.path(), text("token").or_else(|| text("authorization")));
    let leads = || served.door.registry().leader().is_some();
    let outcome = match call {
        Ok(_) if needs_leader && !leads() => Err(error::NO_LEADER),
        Ok((Call::Unary(unary), user)) => {
            unary_of(unary, user, messages, &mut respond, &served, patience(&parts.headers)).await
        }
        Ok((Call::Talk(talk), _)) => {
            return talk_of(talk, messages, respond, served.clone(), needs_leader).await;
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(Some(message)) => {
            let Ok(mut send) = respond.send_response(head(), false) else {
                return;
            };
            if write(&mut send, frame(&message)).await {
                let _ = send.send_trailers(status(None));
            }
        }
        // Nobody is there.
        Ok(None) => {}
        Err(error) => {
            served.door.counters.errors.fetch_add(1, Ordering::Relaxed);
            refuse(respond, &error);
        }
    }
}

/// None where the caller has gone.
async fn unary_of(
    unary: Unary,
    user: String,
    mut messages: Messages,
    respond: &mut SendResponse<Bytes>,
    served: &Arc<Served>,
    given: Option<Duration>,
) -> Result<Option<Vec<u8>>, Error> {
    let come = timeout(MESSAGE_PATIENCE, messages.next()).await.map_err(|_| UNREADABLE)??;
    let (request, _share) = come.ok_or(UNREADABLE)?;
    let own = if unary.waits() { Duration::MAX } else { CALL_PATIENCE };
    let (patience, late) = match given {
        Some(given) if given < own => (given, Error::new(code::DEADLINE_EXCEEDED, "context deadline exceeded")),
        _ => (own, error::TIMEOUT),
    };
    let mut stop = served.stop.clone();
    tokio::select! {
        biased;
        answer = served.door.clone().unary(unary, user, request) => answer.map(Some),
        _ = poll_fn(|context| respond.poll_reset(context)) => Ok(None),
        () = tokio::time::sleep(patience.min(Duration::from_secs(1 << 30))) => Err(late),
        () = stopped(&mut stop) => Err(error::STOPPED),
    }
}

async fn talk_of(
    mut talk: Box<dyn Talk>,
    mut messages: Messages,
    mut respond: SendResponse<Bytes>,
    served: Arc<Served>,
    needs_leader: bool,
) {
    let Ok(mut send) = respond.send_response(head(), false) else {
        return;
    };
    let mut stop = served.stop.clone();
    let (mut is_over, mut leaderless) = (false, 0);
    let mut looks = tokio::time::interval(LEADER_EVERY);
    let mut heartbeats = tokio::time::interval_at(tokio::time::Instant::now() + HEARTBEAT, HEARTBEAT);
    let end = loop {
        tokio::select! {
            biased;
            _ = poll_fn(|context| send.poll_reset(context)) => return,
            () = stopped(&mut stop) => break Some(error::STOPPED),
            answer = poll_fn(|context| talk.poll(context)) => match answer {
                Some(Ok(message)) => {
                    if !write(&mut send, frame(&message)).await {
                        return;
                    }
                }
                Some(Err(error)) => break Some(error),
                None => break None,
            },
            come = messages.next(), if !is_over && talk.takes() => match come {
                Ok(Some((message, _share))) => {
                    if let Err(error) = talk.take(message) {
                        break Some(error);
                    }
                }
                Ok(None) => {
                    is_over = true;
                    talk.heard_all();
                }
                Err(error) => break Some(error),
            },
            _ = looks.tick(), if needs_leader => {
                leaderless = if served.door.registry().leader().is_some() { 0 } else { leaderless + 1 };
                if leaderless > LEADERLESS_MAX {
                    break Some(error::NO_LEADER);
                }
            }
            _ = heartbeats.tick() => talk.heartbeat(),
        }
    };
    if end.is_some() {
        served.door.counters.errors.fetch_add(1, Ordering::Relaxed);
    }
    let _ = send.send_trailers(status(end.as_ref()));
}

//! The sockets of the Kafka door: frames in, [`doors::kafka`]'s answers out.
//!
//! Everything is bounded: connections, the bytes of all requests that are being read or answered, how long a client may be
//! silent or not read. A frame's buffer grows as its bytes come, never by what its length claims.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{GroupId, Limit, Limits};
use bytes::{Buf, Bytes, BytesMut};
use doors::kafka::{Config, Counters, Door, Said, Session, Soon, World};
use queue::partition::Piece;
use store::disk::ReadError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::timeout;

use crate::clock;
use crate::listener::{self, Converse, Places};
use crate::node::Node;
use crate::tls::DoorTls;

/// Most connections at once.
const CONNECTIONS_MAX: usize = 4096;
/// Bytes of all requests that are under way on all connections; beyond it no more is read until some are answered.
const REQUESTS_BYTES_MAX: usize = 256 << 20;
/// Bytes that have been read for fetches on all connections and are not yet written to their clients; beyond it fetches wait.
const FETCHED_BYTES_MAX: usize = 256 << 20;
/// What of a request counts at least.
const REQUEST_COST_MIN: usize = 1 << 10;
/// How long a client may be silent between requests (Kafka's `connections.max.idle.ms`), and before it has shown who it is.
const IDLE_PATIENCE: Duration = Duration::from_secs(600);
const STRANGER_PATIENCE: Duration = Duration::from_secs(20);
/// How long a request that has begun may take to come, and an answer to go.
const FRAME_PATIENCE: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 64 << 10;

/// How the door is told to be.
#[derive(Debug, Default)]
pub struct KafkaConfig {
    /// The door's own part.
    pub door: Config,
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
}

/// What the door gets from outside.
struct Outside {
    node: Arc<Node>,
    room: Room,
}

/// Room for what has been read for fetches and is not yet on its way.
#[derive(Clone)]
struct Room {
    free: Arc<Semaphore>,
    bytes: usize,
}

impl Room {
    fn new(bytes: usize) -> Room {
        Room { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// A share of it; one read that is larger than the room has the whole. Where there is none left it is waited for, or refused.
    async fn take(self, bytes: usize, may_wait: bool, limits: &Limits) -> Result<OwnedSemaphorePermit, ReadError> {
        let cost = bytes.min(self.bytes) as u32;
        if let Ok(share) = self.free.clone().try_acquire_many_owned(cost) {
            return Ok(share);
        }
        limits.hit(Limit::kafka_fetched_bytes_max);
        // Whoever holds some already must not wait for more: all might.
        let later = if may_wait { self.free.acquire_many_owned(cost).await.ok() } else { None };
        later.ok_or(ReadError::NotReady)
    }
}

/// What has been read, and its share of the room: until the last of it has been written to its client.
struct Fetched {
    bytes: Vec<u8>,
    _share: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Fetched {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl World for Outside {
    fn sleep(&self, how_long: base::Duration) -> Soon<()> {
        Box::pin(tokio::time::sleep(how_long))
    }

    fn random(&self) -> u64 {
        clock::seed()
    }

    fn read(&self, group: GroupId, pieces: Vec<Piece>, may_wait: bool) -> Soon<Result<Bytes, ReadError>> {
        let (node, room) = (self.node.clone(), self.room.clone());
        let bytes: usize = pieces.iter().map(|piece| piece.bytes() as usize).sum();
        Box::pin(async move {
            let share = room.take(bytes, may_wait, &node.door.limits).await?;
            let bytes = crate::topics::read(&node.stored, group, &pieces).await?;
            Ok(Bytes::from_owner(Fetched { bytes, _share: share }))
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
    const NAME: &'static str = "Kafka";
    const LIMIT: Limit = Limit::kafka_connections_max;

    fn limits(&self) -> &Limits {
        &self.node.door.limits
    }

    async fn converse<S>(self: Arc<Self>, stream: S, peer: SocketAddr)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        converse(stream, peer, self).await;
    }
}

/// Serves the door until told to stop.
pub async fn serve(socket: TcpListener, node: Arc<Node>, config: KafkaConfig, stop: watch::Receiver<bool>) {
    let Ok(address) = socket.local_addr() else {
        return;
    };
    let KafkaConfig { door, tls } = config;
    let world = Box::new(Outside { node: node.clone(), room: Room::new(FETCHED_BYTES_MAX) });
    let door = Arc::new(Door::new(node.member.own, door, node.door.clone(), node.registry.clone(), world));
    let upkeep = tokio::spawn(door.clone().look_after());
    let places = Places::new(address, CONNECTIONS_MAX);
    let _ = node.kafka.set(Arc::new(Figures { places: places.clone(), door: door.clone() }));
    let budget = Arc::new(Semaphore::new(REQUESTS_BYTES_MAX));
    let served = Arc::new(Served { door, node, budget, stop: stop.clone() });
    listener::serve(socket, tls, &places, served, stop).await;
    upkeep.abort();
}

/// Until the door closes.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// A frame that has come, and its share of the budget.
type Come = (Bytes, OwnedSemaphorePermit);

/// Why nothing more comes.
enum End {
    /// The client has gone, or was silent for too long.
    Gone,
    /// It has broken a rule.
    Wrong(String),
}

async fn converse<S>(stream: S, peer: SocketAddr, served: Arc<Served>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (input, mut output) = tokio::io::split(stream);
    let mut session = Session::new(served.door.clone(), peer.ip().to_string());
    let mut stop = served.stop.clone();
    // The reader is a task of its own that is cut off nowhere: half a frame is never lost. One frame at most waits between the two.
    let (bound, limit) = watch::channel(session.frame_bytes_max());
    let (come, mut frames) = mpsc::channel::<Result<Come, End>>(1);
    let reader = tokio::spawn(listen(input, served.clone(), limit, come));
    let mut shares: std::collections::VecDeque<OwnedSemaphorePermit> = std::collections::VecDeque::new();
    let why = loop {
        tokio::select! {
            biased;
            () = stopped(&mut stop) => break None,
            said = std::future::poll_fn(|context| session.poll(context)), if session.waits() => {
                let _answered = shares.pop_front();
                bound.send_if_modified(|bound| {
                    std::mem::replace(bound, session.frame_bytes_max()) != session.frame_bytes_max()
                });
                match said {
                    Said::Nothing => {}
                    Said::Close(why) => break Some(why),
                    Said::Answer(pieces) => match timeout(FRAME_PATIENCE, write(&mut output, pieces)).await {
                        Ok(Ok(())) => {}
                        _ => break None,
                    },
                }
            }
            frame = frames.recv(), if session.takes() => match frame {
                Some(Ok((frame, share))) => {
                    shares.push_back(share);
                    session.take(frame);
                }
                Some(Err(End::Wrong(why))) => break Some(why),
                Some(Err(End::Gone)) | None => break None,
            },
        }
    };
    reader.abort();
    if let Some(why) = why {
        eprintln!("quorate: the Kafka door closes the connection of {peer}: {why}");
    }
    let _ = output.shutdown().await;
}

/// Reads frames until something is wrong.
async fn listen<S: AsyncRead + Unpin>(
    mut input: ReadHalf<S>,
    served: Arc<Served>,
    bound: watch::Receiver<usize>,
    come: mpsc::Sender<Result<Come, End>>,
) {
    let mut buffer = BytesMut::with_capacity(4 << 10);
    loop {
        let frame = tokio::select! {
            frame = read(&mut input, &mut buffer, &served, &bound) => frame,
            () = come.closed() => return,
        };
        let is_over = frame.is_err();
        if come.send(frame).await.is_err() || is_over {
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(
    input: &mut ReadHalf<S>,
    buffer: &mut BytesMut,
    served: &Served,
    bound: &watch::Receiver<usize>,
) -> Result<Come, End> {
    let is_stranger = *bound.borrow() < doors::kafka::REQUEST_BYTES_MAX;
    let patience = if is_stranger { STRANGER_PATIENCE } else { IDLE_PATIENCE };
    while buffer.len() < 4 {
        more(input, buffer, 4 << 10, patience).await?;
    }
    let length = i32::from_be_bytes(buffer[..4].try_into().expect("four bytes"));
    let most = *bound.borrow();
    let length = match usize::try_from(length) {
        Ok(length) if length <= most => length,
        _ => {
            if length > 0 {
                served.node.door.limits.hit(Limit::kafka_request_bytes_max);
            }
            return Err(End::Wrong(format!("a request of {length} bytes, at most {most} are taken")));
        }
    };
    buffer.advance(4);
    let cost = length.max(REQUEST_COST_MIN) as u32;
    let share = match served.budget.clone().try_acquire_many_owned(cost) {
        Ok(share) => share,
        Err(_) => {
            served.node.door.limits.hit(Limit::kafka_requests_bytes_max);
            served.budget.clone().acquire_many_owned(cost).await.map_err(|_| End::Gone)?
        }
    };
    // The budget has taken it into account, and what is not sent is never touched; but a megabyte must be good for a claim.
    buffer.reserve(length.saturating_sub(buffer.len()).min(1 << 20));
    while buffer.len() < length {
        more(input, buffer, (length - buffer.len()).clamp(4 << 10, CHUNK_BYTES), FRAME_PATIENCE).await?;
    }
    Ok((buffer.split_to(length).freeze(), share))
}

async fn more<S: AsyncRead + Unpin>(
    input: &mut ReadHalf<S>,
    buffer: &mut BytesMut,
    room: usize,
    patience: Duration,
) -> Result<(), End> {
    buffer.reserve(room);
    match timeout(patience, input.read_buf(buffer)).await {
        Ok(Ok(count)) if count > 0 => Ok(()),
        _ => Err(End::Gone),
    }
}

/// Writes all pieces, several at a time.
async fn write<S: AsyncWrite>(output: &mut WriteHalf<S>, pieces: Vec<Bytes>) -> std::io::Result<()> {
    const SLICES: usize = 64;
    let mut pieces: std::collections::VecDeque<Bytes> = pieces.into();
    while let Some(first) = pieces.front() {
        if first.is_empty() {
            pieces.pop_front();
            continue;
        }
        let mut slices: [IoSlice<'_>; SLICES] = std::array::from_fn(|_| IoSlice::new(&[]));
        let count = pieces.len().min(SLICES);
        for (slice, piece) in slices.iter_mut().zip(&pieces) {
            *slice = IoSlice::new(piece);
        }
        let mut written = output.write_vectored(&slices[..count]).await?;
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = pieces.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            pieces.pop_front();
        }
    }
    output.flush().await
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::Poll;

    use super::*;

    #[tokio::test]
    async fn reads_for_fetches_never_hold_more_than_the_room() {
        let limits = Limits::DEFAULT.counting();
        let room = Room::new(100);
        let first = room.clone().take(60, false, &limits).await.expect("there is room");
        let hits = || limits.hits.of(Limit::kafka_fetched_bytes_max);
        assert_eq!(hits(), 0);
        // Who may not wait is refused, and what it asked for is not taken.
        assert!(matches!(room.clone().take(41, false, &limits).await, Err(ReadError::NotReady)));
        let small = room.clone().take(40, false, &limits).await.expect("there is room");
        assert_eq!((hits(), room.free.available_permits()), (1, 0));
        // Who may waits until enough has been written to its client; what is larger than the room waits for the whole.
        let mut late = std::pin::pin!(room.clone().take(1000, true, &limits));
        assert!(now(late.as_mut()).await.is_none());
        drop(first);
        assert!(now(late.as_mut()).await.is_none());
        drop(small);
        let whole = late.await.expect("there is room");
        assert_eq!((hits(), room.free.available_permits()), (2, 0));
        drop(whole);
        assert_eq!(room.free.available_permits(), 100);
    }

    /// What it comes to without waiting.
    async fn now<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
    }
}

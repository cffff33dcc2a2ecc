//! The listener of a door whose connections are counted and bounded: Kafka's, etcd's and Consul's.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::{Limit, Limits};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use crate::net::not_accepted;
use crate::tls::DoorTls;

/// How long open connections may take when the door closes.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// What a listener counts, for people.
#[derive(Debug)]
pub struct Places {
    /// Where it listens.
    pub address: SocketAddr,
    /// Most connections at once.
    pub max: usize,
    free: Arc<Semaphore>,
    /// Connections accepted.
    pub connections: AtomicU64,
    /// Connections refused.
    pub refused: AtomicU64,
}

impl Places {
    /// So many, all of them free.
    pub fn new(address: SocketAddr, max: usize) -> Arc<Places> {
        let (connections, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Places { address, max, free: Arc::new(Semaphore::new(max)), connections, refused })
    }

    /// Connections that stand.
    pub fn open(&self) -> u64 {
        (self.max - self.free.available_permits()) as u64
    }
}

/// What a door does with a connection.
pub trait Converse: Send + Sync + 'static {
    /// What the door is called in messages.
    const NAME: &'static str;
    /// The limit that is hit when no place is free.
    const LIMIT: Limit;
    /// What a client that finds no place is told, if the protocol has a word for it before the client has spoken.
    const NO_PLACE: &'static [u8] = b"";

    /// Where limits are counted.
    fn limits(&self) -> &Limits;

    /// Serves a connection to its end.
    fn converse<S>(self: Arc<Self>, stream: S, peer: SocketAddr) -> impl Future<Output = ()> + Send
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static;
}

/// Accepts connections until told to stop, then waits a little for those that stand.
pub async fn serve<C: Converse>(
    listener: TcpListener,
    tls: Option<Arc<DoorTls>>,
    places: &Places,
    door: Arc<C>,
    mut stop: watch::Receiver<bool>,
) {
    if let Some(tls) = &tls {
        tokio::spawn(tls.clone().follow(stop.clone()));
    }
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => match places.free.clone().try_acquire_owned() {
                Ok(place) => {
                    places.connections.fetch_add(1, Ordering::Relaxed);
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(shake_hands(stream, peer, tls.clone(), door.clone(), place));
                }
                Err(_) => {
                    places.refused.fetch_add(1, Ordering::Relaxed);
                    door.limits().hit(C::LIMIT);
                    let _ = stream.try_write(C::NO_PLACE);
                }
            },
            Err(error) => not_accepted(C::NAME, &error, door.limits()).await,
        }
    }
    let _ = timeout(STOP_PATIENCE, places.free.acquire_many(places.max as u32)).await;
}

async fn shake_hands<C: Converse>(
    stream: tokio::net::TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<DoorTls>>,
    door: Arc<C>,
    _place: OwnedSemaphorePermit,
) {
    match tls {
        None => door.converse(stream, peer).await,
        Some(tls) => {
            if let Some(stream) = tls.accept(stream).await {
                door.converse(stream, peer).await;
            }
        }
    }
}

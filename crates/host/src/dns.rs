//! The sockets of the DNS door: datagrams and connections in, [`doors::dns`]'s answers out.
//!
//! By UDP the workers take turns: one waits for datagrams and takes what is there, then the next waits while it answers. So
//! no datagram wakes more than one of them. An answer is made and sent at once, nothing is kept for anybody.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Limit, Rng};
use doors::dns::{Door, QUERY_BYTES_MAX, Said, TCP_BYTES_MAX, Via};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::time::timeout;

use crate::clock;
use crate::net::not_accepted;
use crate::node::Node;

/// Datagrams that one turn takes.
const TURN_DATAGRAMS_MAX: usize = 32;
/// Connections at once.
const CONNECTIONS_MAX: usize = 256;
/// How long a connection may be silent, or leave an answer unread (RFC 7766, 6.2.3, advises seconds).
const PATIENCE: Duration = Duration::from_secs(10);

/// The door's two sockets, of one address.
pub struct Sockets {
    /// For datagrams.
    pub udp: UdpSocket,
    /// For connections.
    pub tcp: TcpListener,
}

struct Served {
    door: Door,
    node: Arc<Node>,
}

impl Served {
    /// The answer to a message, if one is due.
    fn answer(&self, message: &[u8], via: Via, rng: &mut Rng, out: &mut Vec<u8>) -> bool {
        let said = self.door.answer(self.node.shards[0].state().catalog(), message, via, rng, out);
        if said == Said::Cut {
            self.node.door.limits.hit(Limit::dns_udp_bytes_max);
        }
        said != Said::Nothing
    }
}

/// Serves the DNS door until told to stop, by UDP with so many workers.
pub async fn serve(sockets: Sockets, door: Door, node: Arc<Node>, workers: usize, mut stop: watch::Receiver<bool>) {
    let served = Arc::new(Served { door, node });
    let socket = Arc::new(sockets.udp);
    let turn = Arc::new(Mutex::new(()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers.max(1) {
        tasks.spawn(datagrams(socket.clone(), served.clone(), turn.clone()));
    }
    tasks.spawn(connections(sockets.tcp, served));
    // What ends them is the end of this function: an answer is owed to nobody.
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn datagrams(socket: Arc<UdpSocket>, served: Arc<Served>, turn: Arc<Mutex<()>>) {
    let mut rng = Rng::new(clock::seed());
    // One byte more than is read: so a longer message is seen to be one.
    let mut taken = vec![[0; QUERY_BYTES_MAX + 1]; TURN_DATAGRAMS_MAX];
    let mut senders: Vec<(usize, SocketAddr)> = Vec::with_capacity(TURN_DATAGRAMS_MAX);
    let mut out = Vec::with_capacity(TCP_BYTES_MAX);
    loop {
        senders.clear();
        let waiting = turn.lock().await;
        let ready = socket.readable().await;
        let failed = ready.and_then(|()| {
            while senders.len() < TURN_DATAGRAMS_MAX {
                match socket.try_recv_from(&mut taken[senders.len()]) {
                    Ok(sender) => senders.push(sender),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        drop(waiting);
        for (message, (length, sender)) in taken.iter().zip(&senders) {
            let via = Via::Udp { is_local: sender.ip().to_canonical().is_loopback() };
            if served.answer(&message[..*length], via, &mut rng, &mut out) {
                // A full buffer, an unreachable client: as if the network had lost it, which clients are made for.
                let _ = socket.try_send_to(&out, *sender);
            }
        }
        if let Err(error) = failed {
            eprintln!("quorate: the DNS door cannot receive: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else if senders.len() == TURN_DATAGRAMS_MAX {
            // There may be more without end, and others have work too.
            tokio::task::yield_now().await;
        }
    }
}

async fn connections(listener: TcpListener, served: Arc<Served>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) => match places.clone().try_acquire_owned() {
                Ok(place) => {
                    let served = served.clone();
                    tasks.spawn(async move {
                        let _ = converse(stream, &served).await;
                        drop(place);
                    });
                }
                Err(_) => served.node.door.limits.hit(Limit::dns_connections_max),
            },
            Err(error) => not_accepted("DNS", &error, &served.node.door.limits).await,
        }
        // Forgets those that have ended.
        while tasks.try_join_next().is_some() {}
    }
}

/// Messages with their length before them, one after the other (RFC 7766, 8).
async fn converse(mut stream: TcpStream, served: &Served) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut rng = Rng::new(clock::seed());
    let mut message = [0; QUERY_BYTES_MAX];
    let (mut out, mut framed) = (Vec::new(), Vec::new());
    loop {
        let length = usize::from(timeout(PATIENCE, stream.read_u16()).await??);
        let Some(message) = message.get_mut(..length) else {
            // Longer than any query: what follows cannot be trusted either.
            return Ok(());
        };
        timeout(PATIENCE, stream.read_exact(message)).await??;
        if !served.answer(message, Via::Tcp, &mut rng, &mut out) {
            return Ok(());
        }
        framed.clear();
        framed.extend_from_slice(&(out.len() as u16).to_be_bytes());
        framed.extend_from_slice(&out);
        timeout(PATIENCE, stream.write_all(&framed)).await??;
    }
}

//! Connections of the Redis door: one task each, one pass from socket to tables and back.
//!
//! A task reads into a buffer that all tasks of its thread share, runs what it read at once, and writes the answers with one
//! call. Only what is left of an unfinished command is kept per connection, so an idle one costs little.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use base::{Limit, Limits};
use doors::resp::door::Door;
use doors::resp::session::{Pause, Session};
use shard::reply::{Protocol, Reply};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::server::TlsStream;

use crate::clock;
use crate::node::Figures;
use crate::tls::DoorTls;

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;
/// Unread input of one connection while its answers are under way, bytes; beyond it TCP holds the client back.
const BACKLOG_BYTES: usize = 1 << 20;

thread_local! {
    static SHARED: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
}

/// What a listener's clients expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// A Redis: any key.
    Plain,
    /// A node of a Redis Cluster: MOVED where another one leads.
    Cluster,
}

/// What a connection's bytes come and go by: TCP, or TLS over it. Generic, so that the plain path pays nothing for the other.
trait Wire: AsyncRead + Unpin + Send + 'static {
    /// Writes what can be written at once; else [`ErrorKind::WouldBlock`].
    fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<usize>;
    /// What was taken is with the system.
    fn try_flush(&mut self) -> std::io::Result<()>;
    /// Whether more may be written.
    fn poll_write_ready(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>>;
    /// Says that nothing more comes, if there is a word for it.
    fn say_goodbye(&mut self) {}
}

impl Wire for TcpStream {
    fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        TcpStream::try_write(self, bytes)
    }
    fn try_flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
    fn poll_write_ready(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        TcpStream::poll_write_ready(self, context)
    }
}

fn at_once<T>(polled: Poll<std::io::Result<T>>) -> std::io::Result<T> {
    match polled {
        Poll::Ready(result) => result,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

// Nobody is woken by a try; `poll_write_ready` registers who is to be.
impl Wire for TlsStream<TcpStream> {
    fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        at_once(Pin::new(self).poll_write(&mut Context::from_waker(Waker::noop()), bytes))
    }
    fn try_flush(&mut self) -> std::io::Result<()> {
        at_once(Pin::new(self).poll_flush(&mut Context::from_waker(Waker::noop())))
    }
    fn poll_write_ready(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.get_ref().0.poll_write_ready(context)
    }
    fn say_goodbye(&mut self) {
        // It fits into the socket's buffer, or nobody reads.
        let _ = Pin::new(self).poll_shutdown(&mut Context::from_waker(Waker::noop()));
    }
}

/// Accepts connections until told to stop.
pub async fn accept(
    listener: TcpListener,
    tls: Option<Arc<DoorTls>>,
    door: Arc<Door>,
    figures: Arc<Figures>,
    mut stop: watch::Receiver<bool>,
    speaks: Speaks,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => match &tls {
                None => begin(stream, from, Vec::new(), &door, &figures, &stop, speaks),
                Some(tls) => begin_tls(stream, from, tls, &door, &figures, &stop, speaks),
            },
            Err(error) => not_accepted("Redis", &error, &door.limits).await,
        }
    }
}

/// Lets a client in, or tells it that there are too many. `kept` is the start of a command that it has sent already.
pub fn begin(
    stream: TcpStream,
    from: SocketAddr,
    kept: Vec<u8>,
    door: &Arc<Door>,
    figures: &Arc<Figures>,
    stop: &watch::Receiver<bool>,
    speaks: Speaks,
) {
    let Some(session) = let_in(&stream, from, door, speaks) else {
        let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
        return;
    };
    let connection = Connection::new(stream, session, kept, door.clone(), figures.clone());
    tokio::spawn(connection.run(stop.clone()));
}

/// The same over TLS. Who shakes hands counts as a client already; one that is too many is not told so.
fn begin_tls(
    stream: TcpStream,
    from: SocketAddr,
    tls: &Arc<DoorTls>,
    door: &Arc<Door>,
    figures: &Arc<Figures>,
    stop: &watch::Receiver<bool>,
    speaks: Speaks,
) {
    let Some(mut session) = let_in(&stream, from, door, speaks) else { return };
    let (tls, door, figures, mut stop) = (tls.clone(), door.clone(), figures.clone(), stop.clone());
    tokio::spawn(async move {
        let stream = tokio::select! {
            biased;
            stream = tls.accept(stream) => stream,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        match stream {
            Some(stream) => Connection::new(stream, session, Vec::new(), door, figures).run(stop).await,
            None => session.close(),
        }
    });
}

fn let_in(stream: &TcpStream, from: SocketAddr, door: &Arc<Door>, speaks: Speaks) -> Option<Session> {
    let _ = stream.set_nodelay(true);
    let here = stream.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
    let client = door.admit(from.to_string(), here.to_string(), clock::now())?;
    let session = Session::new(door.clone(), client, clock::seed());
    Some(if speaks == Speaks::Cluster { session.on_cluster_door() } else { session })
}

/// A connection to a door could not be accepted. Out of file descriptors, mostly: connections that end make room, so accepting
/// goes on a little later.
pub async fn not_accepted(door: &str, error: &std::io::Error, limits: &Limits) {
    if is_out_of_files(error) {
        limits.hit(Limit::open_files);
    }
    eprintln!("quorate: a connection to the {door} door could not be accepted: {error}");
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// Whether the process, or the machine, has no file descriptor left.
fn is_out_of_files(error: &std::io::Error) -> bool {
    let code = error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    matches!(code, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
}

struct Connection<S: Wire> {
    stream: S,
    session: Session,
    door: Arc<Door>,
    figures: Arc<Figures>,
    /// Input that is not used up.
    kept: Vec<u8>,
    /// So much of it that nothing more is read, which has been counted.
    held_back: bool,
    out: Reply,
    /// Commands read whose answers have not been written, since this moment: for latency.
    begun: Option<base::Instant>,
}

enum Event {
    /// So many bytes stand in the shared buffer; none: the client has left.
    Read(std::io::Result<usize>),
    Mail,
    Stop,
    Idle,
    Retry,
}

impl<S: Wire> Connection<S> {
    fn new(stream: S, session: Session, kept: Vec<u8>, door: Arc<Door>, figures: Arc<Figures>) -> Connection<S> {
        Connection {
            stream,
            session,
            door,
            figures,
            kept,
            held_back: false,
            out: Reply::new(Protocol::Resp2),
            begun: None,
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<bool>) {
        self.serve(&mut stop).await;
        if self.session.client.is_flooded() {
            self.door.limits.hit(Limit::output_bytes_max);
        }
        self.stream.say_goodbye();
    }

    /// Until the client leaves, breaks the protocol, or the node stops.
    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) {
        let mut pause = Pause::None;
        let mut stopping = false;
        // The client has said all that it wanted to; it may still want the answers.
        let mut ended = false;
        loop {
            match self.wait(pause, stop, stopping, ended).await {
                Event::Read(Ok(count)) if count > 0 => self.run_read(count, &mut pause),
                Event::Read(Err(error)) if error.kind() == ErrorKind::Interrupted => {}
                Event::Read(Ok(_)) if self.session.is_pending() => ended = true,
                Event::Read(_) => return,
                Event::Mail => {
                    self.session.collect(&mut self.out);
                    if pause != Pause::None {
                        pause = self.feed_kept();
                    }
                }
                Event::Retry => pause = self.feed_kept(),
                // Nothing more is taken; what is under way is answered.
                Event::Stop => stopping = true,
                Event::Idle => {
                    self.door.limits.hit(Limit::idle_timeout);
                    return;
                }
            }
            loop {
                if self.session.client.is_doomed() {
                    return;
                }
                if !self.out.bytes.is_empty() && !self.write(stop).await {
                    return;
                }
                if pause != Pause::Output {
                    break;
                }
                pause = self.feed_kept();
            }
            if !self.session.is_pending()
                && let Some(begun) = self.begun.take()
            {
                self.figures.latency.record(clock::now().since(begun));
            }
            if self.session.is_closing()
                || ((stopping || ended) && !self.session.is_pending())
                || (ended && self.session.is_blocked())
            {
                return;
            }
        }
    }

    async fn wait(&mut self, pause: Pause, stop: &mut watch::Receiver<bool>, stopping: bool, ended: bool) -> Event {
        let idle = self.door.idle_ms.load(Ordering::Relaxed);
        let timeout = match pause {
            Pause::Until(at) => Some((at.since(clock::now()).min(PAUSE_LOOK), true)),
            _ if idle > 0 && !self.session.is_pending() && !self.session.is_subscriber() => {
                Some((Duration::from_millis(idle), false))
            }
            _ => None,
        };
        let has_room = self.kept.len() < BACKLOG_BYTES.max(self.kept_wanted(pause));
        if !has_room && !self.held_back {
            self.door.limits.hit(Limit::unread_bytes_max);
        }
        self.held_back = !has_room;
        let reading = !stopping && !ended && has_room;
        let (stream, client) = (&mut self.stream, &self.session.client);
        let ready = poll_fn(|context| {
            if client.listen(context.waker()) {
                return Poll::Ready(Event::Mail);
            }
            if !reading {
                return Poll::Pending;
            }
            // Read here, not after being told that there is something: tokio then knows from a short read that nothing is
            // left, and the socket is not asked a second time.
            SHARED.with_borrow_mut(|shared| {
                let mut buffer = ReadBuf::new(shared);
                let read = std::task::ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer));
                Poll::Ready(Event::Read(read.map(|()| buffer.filled().len())))
            })
        });
        match timeout {
            None if stopping => ready.await,
            None => tokio::select! {
                biased;
                event = ready => event,
                _ = stop.wait_for(|stop| *stop) => Event::Stop,
            },
            Some((span, retry)) => tokio::select! {
                biased;
                event = ready => event,
                _ = stop.wait_for(|stop| *stop), if !stopping => Event::Stop,
                () = tokio::time::sleep(span) => if retry { Event::Retry } else { Event::Idle },
            },
        }
    }

    /// A command that is larger than the backlog is still read to its end.
    fn kept_wanted(&self, pause: Pause) -> usize {
        if pause != Pause::None || self.session.is_pending() { 0 } else { usize::MAX }
    }

    /// Runs what has just been read into the shared buffer.
    fn run_read(&mut self, count: usize, pause: &mut Pause) {
        self.door.counters.bytes_in.fetch_add(count as u64, Ordering::Relaxed);
        SHARED.with_borrow(|shared| {
            if !self.kept.is_empty() {
                self.kept.extend_from_slice(&shared[..count]);
                if *pause == Pause::None {
                    *pause = self.feed_kept();
                }
                return;
            }
            let now = clock::now();
            self.begun.get_or_insert(now);
            let fed = self.session.feed(&shared[..count], now, &mut self.out);
            self.kept.extend_from_slice(&shared[fed.consumed..count]);
            *pause = fed.pause;
            if fed.wake {
                self.door.world.wake_driver();
            }
        });
    }

    fn feed_kept(&mut self) -> Pause {
        if self.kept.is_empty() {
            return Pause::None;
        }
        let now = clock::now();
        self.begun.get_or_insert(now);
        let fed = self.session.feed(&self.kept, now, &mut self.out);
        if fed.consumed == self.kept.len() && self.kept.capacity() > READ_BYTES {
            self.kept = Vec::new();
        } else {
            self.kept.drain(..fed.consumed);
        }
        if fed.wake {
            self.door.world.wake_driver();
        }
        fed.pause
    }

    /// Writes all answers. False where the client has gone or does not read.
    async fn write(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        let mut written = 0;
        loop {
            let done = written == self.out.bytes.len();
            let tried = match done {
                false => self.stream.try_write(&self.out.bytes[written..]),
                true => self.stream.try_flush().map(|()| 0),
            };
            match tried {
                Ok(_) if done => break,
                Ok(count) => written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.out.bytes.len() - written > self.door.limits.output_bytes_max {
                        self.door.limits.hit(Limit::output_bytes_max);
                        return false;
                    }
                    let (stream, client) = (&mut self.stream, &self.session.client);
                    let doomed = poll_fn(|context| {
                        if client.listen_doom(context.waker()) {
                            return Poll::Ready(true);
                        }
                        stream.poll_write_ready(context).map(|_| false)
                    });
                    let gone = tokio::select! {
                        biased;
                        doomed = doomed => doomed,
                        () = stopped_for(stop, WRITE_PATIENCE) => true,
                    };
                    if gone {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
        self.door.counters.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        self.out.bytes.clear();
        if self.out.bytes.capacity() > READ_BYTES {
            self.out.bytes = Vec::new();
        }
        true
    }
}

/// However its task ends, by a panic too: others must not go on believing that the client is there.
impl<S: Wire> Drop for Connection<S> {
    fn drop(&mut self) {
        self.session.close();
    }
}

/// How often a paused client looks whether the pause has been ended early.
const PAUSE_LOOK: Duration = Duration::from_millis(50);

/// How long a stopping node waits for a client that does not read.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);

async fn stopped_for(stop: &mut watch::Receiver<bool>, span: Duration) {
    let _ = stop.wait_for(|stop| *stop).await;
    tokio::time::sleep(span).await;
}

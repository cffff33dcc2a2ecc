//! Connections that others make: who they are is settled first, then their messages are handed over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Limit;
use bytes::{BufMut, Bytes, BytesMut};
use consensus::Envelope;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::server::TlsStream;

use super::dial::{keep, read_frame, silence};
use super::frame::{self, Decoder, FRAME_BYTES_MAX, FrameError, Kind, SMALL_FRAME_BYTES_MAX};
use super::handler::Message;
use super::keys::public_key;
use super::pair::{ASKS_MAX, Handed, Peer};
use super::shared::Shared;
use super::words::{self, BadHello, Hello, MALFORMED, Purpose, VERSION};
use super::{join, snapshots, tls};

/// After an error of accept, which is mostly that there are too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections until all ends.
pub async fn listen(shared: Arc<Shared>, listener: TcpListener) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.stopped() => return,
        };
        let Ok((stream, from)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let shared = shared.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = serve(&shared, stream, from) => {}
                () = shared.stopped() => {}
            }
        });
    }
}

/// Who somebody has proven to be, with his connection.
enum Proven {
    Node(Arc<Peer>, Purpose, TlsStream<TcpStream>, Decoder),
    Joins(TlsStream<TcpStream>, join::Request),
}

async fn serve(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) {
    let proven = {
        let place = shared.shakes_hands();
        tokio::select! {
            proven = prove(shared, stream, from) => proven,
            () = place.stop.notified() => return,
        }
    };
    match proven {
        None => {}
        Some(Proven::Joins(stream, request)) => join::serve(shared, stream, from, request).await,
        Some(Proven::Node(peer, purpose, stream, mut decoder)) => {
            shared.untell(&from.ip().to_string());
            decoder.set_max(FRAME_BYTES_MAX);
            match purpose {
                Purpose::Link => link(shared, &peer, stream, decoder).await,
                Purpose::Snapshot => snapshots::receive(shared, &peer, stream, decoder).await,
            }
        }
    }
}

async fn prove(shared: &Arc<Shared>, stream: TcpStream, from: SocketAddr) -> Option<Proven> {
    let within = shared.settings.handshake;
    let refused = |why: &str| shared.tell(&from.ip().to_string(), why, &format!("{from} is refused: {why}"));
    // It goes out with the first write of whoever dials.
    let _ = stream.set_nodelay(true);
    let mut stream = match tokio::time::timeout(within, shared.acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            refused(&tls::explain(&error));
            return None;
        }
        Err(_) => {
            refused(&format!("no TLS within {} ms", within.as_millis()));
            return None;
        }
    };
    let mut decoder = Decoder::new(SMALL_FRAME_BYTES_MAX);
    let late = || format!("it said nothing within {} ms", within.as_millis());
    let why = if stream.get_ref().1.alpn_protocol() == Some(tls::JOIN) {
        match tokio::time::timeout(within, join::request(&mut stream)).await.unwrap_or_else(|_| Err(late())) {
            Ok(request) => return Some(Proven::Joins(stream, request)),
            Err(why) => why,
        }
    } else {
        match tokio::time::timeout(within, greet(shared, &mut stream, &mut decoder))
            .await
            .unwrap_or_else(|_| Err(late()))
        {
            Ok((peer, fresh, purpose)) => {
                if fresh {
                    tokio::spawn(keep_until_stopped(shared.clone(), peer.clone()));
                }
                return Some(Proven::Node(peer, purpose, stream, decoder));
            }
            Err(why) => why,
        }
    };
    refused(&why);
    refuse(shared, stream, &why).await;
    None
}

/// Dials a node until all ends.
pub async fn keep_until_stopped(shared: Arc<Shared>, peer: Arc<Peer>) {
    let told = shared.clone();
    tokio::select! {
        () = keep(shared, peer) => {}
        () = told.stopped() => {}
    }
}

/// Says why not, and closes. The other end is given a moment to read it.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(shared: &Shared, mut stream: S, why: &str) {
    let mut out = BytesMut::new();
    let why = &why.as_bytes()[..why.len().min(words::TEXT_BYTES_MAX)];
    frame::put(&mut out, Kind::Refused, why);
    let say = async {
        stream.write_all(&out).await?;
        stream.shutdown().await?;
        // Closing with unread input would send a reset, which overtakes the sentence.
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        std::io::Result::Ok(())
    };
    // He may be gone, and that is all the same.
    let _ = tokio::time::timeout(shared.settings.handshake.min(Duration::from_secs(1)), say).await;
}

/// Who it is, and whether he may speak.
async fn greet(
    shared: &Shared,
    stream: &mut TlsStream<TcpStream>,
    decoder: &mut Decoder,
) -> Result<(Arc<Peer>, bool, Purpose), String> {
    let frame = read_frame(stream, decoder).await?;
    if frame.kind != Kind::Hello {
        return Err("it did not begin with a hello".to_owned());
    }
    let hello = Hello::decode(frame.body).map_err(bad_hello)?;
    let chain = stream.get_ref().1.peer_certificates();
    let shown = chain.and_then(|chain| chain.first()).ok_or("it showed no certificate")?;
    let certified = tls::node_of(shown).ok_or("its certificate is not that of a node")?;
    if certified != (hello.cluster, hello.node) {
        return Err(format!("it calls itself {}, its certificate {}", hello.node, certified.1));
    }
    let (peer, fresh) = shared.admit(&hello, public_key(shown)?.pin())?;
    Ok((peer, fresh, hello.purpose))
}

/// What to say to a hello that is not understood.
pub fn bad_hello(bad: BadHello) -> String {
    match bad {
        BadHello::Malformed => MALFORMED.to_owned(),
        BadHello::Version(theirs) => {
            let older = if theirs < VERSION { "it" } else { "this node" };
            format!("it speaks version {theirs} between nodes, this node {VERSION}; upgrade {older}")
        }
    }
}

/// What to say to a frame that is none, counted.
pub fn bad_frame(shared: &Shared, error: &FrameError) -> String {
    if matches!(error, FrameError::TooLong(_)) {
        shared.settings.limits.hit(Limit::peer_frame_bytes_max);
    }
    error.to_string()
}

/// What goes back to whoever dialled.
struct Back {
    /// The stamp of the last ping that is not answered, 0 for none.
    ping: AtomicU64,
    wake: Notify,
    answers: mpsc::UnboundedSender<(u64, Bytes, OwnedSemaphorePermit)>,
    asks: Arc<Semaphore>,
}

async fn link(shared: &Arc<Shared>, peer: &Arc<Peer>, mut stream: TlsStream<TcpStream>, decoder: Decoder) {
    let stop = Arc::new(Notify::new());
    let Some(number) = peer.its_up(stop.clone(), &*shared.handler) else {
        return refuse(shared, stream, &format!("{} has left the cluster", peer.node)).await;
    };
    // It is there: no need to wait until we would have dialled it again.
    peer.kick.notify_one();
    let (answers, answered) = mpsc::unbounded_channel();
    let back = Back { ping: AtomicU64::new(0), wake: Notify::new(), answers, asks: Arc::new(Semaphore::new(ASKS_MAX)) };
    let ended = {
        let (reader, writer) = tokio::io::split(&mut stream);
        tokio::select! {
            why = read(shared, peer, number, reader, decoder, &back) => why,
            why = write(shared, peer, writer, &back, answered) => why,
            why = silence(shared, peer, || peer.figures.heard_its.load(Ordering::Relaxed)) => why,
            () = stop.notified() => String::new(),
            () = shared.stopped() => String::new(),
        }
    };
    peer.its_down(number, &*shared.handler);
    if peer.is_removed() {
        return refuse(shared, stream, &format!("{} has left the cluster", peer.node)).await;
    }
    if !ended.is_empty() {
        shared.tell(&peer.node.to_string(), &ended, &format!("the link from {} ended: {ended}", peer.node));
    }
}

async fn read<R: AsyncRead + Unpin>(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    number: u64,
    mut reader: R,
    mut decoder: Decoder,
    back: &Back,
) -> String {
    loop {
        let mut messages = 0;
        loop {
            let frame = match decoder.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return bad_frame(shared, &error),
            };
            messages += u64::from(frame.kind != Kind::Ping);
            let done = match frame.kind {
                Kind::Ping => ping(&frame.body, back),
                Kind::Raft => match raft(shared, peer, frame.body) {
                    Ok(message) => hand(shared, peer, number, message).await,
                    Err(why) => Err(why),
                },
                Kind::Forward if peer.place.lock().member => {
                    hand(shared, peer, number, Message::Forward(frame.body)).await
                }
                Kind::Ask => ask(shared, peer, frame.body, back),
                Kind::Forward => Err(format!("{} is not known here yet and sent what only members may", peer.node)),
                _ => Err(MALFORMED.to_owned()),
            };
            if let Err(why) = done {
                return why;
            }
        }
        peer.figures.messages_in.fetch_add(messages, Ordering::Relaxed);
        match reader.read_buf(decoder.buffer()).await {
            Ok(0) => return "it closed the link".to_owned(),
            Ok(bytes) => {
                peer.figures.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
                peer.figures.heard_its.store(peer.clock(), Ordering::Relaxed);
            }
            Err(error) => return tls::explain(&error),
        }
    }
}

fn ping(body: &[u8], back: &Back) -> Result<(), String> {
    let stamp = words::stamp(body).ok_or(MALFORMED)?;
    back.ping.store(stamp, Ordering::Relaxed);
    back.wake.notify_one();
    Ok(())
}

fn raft(shared: &Shared, peer: &Peer, body: Bytes) -> Result<Message, String> {
    let envelope = Envelope::decode(body).map_err(|error| error.to_string())?;
    if envelope.from() != peer.node {
        return Err(format!("it sent a message in the name of {}", envelope.from()));
    }
    if envelope.to() != shared.identity.node {
        return Err(format!("it sent a message that is for {}", envelope.to()));
    }
    Ok(Message::Raft(envelope))
}

async fn hand(shared: &Shared, peer: &Peer, number: u64, message: Message) -> Result<(), String> {
    let mut message = Some(message);
    let handed = async {
        loop {
            let paired = peer.paired.notified();
            tokio::pin!(paired);
            paired.as_mut().enable();
            match peer.hand(number, &mut message, &*shared.handler) {
                Handed::Over => return Ok(()),
                Handed::Stale => return Err(String::new()),
                Handed::Early => paired.await,
            }
        }
    };
    // Only what is early waits, and the other link is about to stand: its end has it already.
    match tokio::time::timeout(shared.settings.handshake, handed).await {
        Ok(handed) => handed,
        Err(_) => Err("it sends as if this node's link to it stood, and it does not".to_owned()),
    }
}

fn ask(shared: &Arc<Shared>, peer: &Peer, mut body: Bytes, back: &Back) -> Result<(), String> {
    let number = words::take_number(&mut body).ok_or(MALFORMED)?;
    let Ok(place) = back.asks.clone().try_acquire_owned() else {
        shared.settings.limits.hit(Limit::peer_asks_max);
        return Err(format!("it asked more than {ASKS_MAX} questions at once"));
    };
    // Somebody newer than what this node has applied: it will be known in a moment, and then asks again.
    let answer = match peer.place.lock().member {
        true => shared.handler.ask(peer.node, body),
        false => Box::pin(std::future::ready(Bytes::new())),
    };
    let answers = back.answers.clone();
    tokio::spawn(async move {
        tokio::select! {
            // The link may have gone, and its end with it.
            answer = answer => drop(answers.send((number, answer, place))),
            () = answers.closed() => {}
        }
    });
    Ok(())
}

/// Signs of life and answers. Something was heard: that is said even while a long message is still coming in, behind which the
/// other end's pings wait.
async fn write<W: AsyncWrite + Unpin>(
    shared: &Shared,
    peer: &Peer,
    mut writer: W,
    back: &Back,
    mut answered: mpsc::UnboundedReceiver<(u64, Bytes, OwnedSemaphorePermit)>,
) -> String {
    let mut tick = tokio::time::interval(shared.settings.ping);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut out, mut said) = (BytesMut::new(), peer.figures.heard_its.load(Ordering::Relaxed));
    let mut known = peer.is_member();
    frame::put(&mut out, Kind::Welcome, &[u8::from(known)]);
    loop {
        let mut places = Vec::new();
        let mut heard = false;
        let met = peer.met.notified();
        if !known && peer.is_member() {
            known = true;
            frame::put(&mut out, Kind::Known, &[]);
        }
        // What is there already goes out at once.
        let ready = !out.is_empty();
        tokio::select! {
            () = std::future::ready(()), if ready => {}
            Some((number, answer, place)) = answered.recv() => {
                put_answer(&mut out, number, &answer);
                places.push(place);
            }
            () = back.wake.notified() => {}
            () = met, if !known => {}
            _ = tick.tick() => heard = true,
        }
        while out.len() < SMALL_FRAME_BYTES_MAX
            && let Ok((number, answer, place)) = answered.try_recv()
        {
            put_answer(&mut out, number, &answer);
            places.push(place);
        }
        let last = peer.figures.heard_its.load(Ordering::Relaxed);
        match back.ping.swap(0, Ordering::Relaxed) {
            0 if heard && last != said && out.is_empty() => frame::put(&mut out, Kind::Pong, &0u64.to_le_bytes()),
            0 => {}
            stamp => frame::put(&mut out, Kind::Pong, &stamp.to_le_bytes()),
        }
        if out.is_empty() {
            continue;
        }
        said = last;
        let written = async {
            writer.write_all(&out).await?;
            writer.flush().await
        };
        if let Err(error) = written.await {
            return tls::explain(&error);
        }
        peer.figures.bytes_out.fetch_add(out.len() as u64, Ordering::Relaxed);
        if out.capacity() > SMALL_FRAME_BYTES_MAX * 4 {
            out = BytesMut::new();
        }
        out.clear();
    }
}

fn put_answer(out: &mut BytesMut, number: u64, answer: &[u8]) {
    // An answer that no frame can hold is a fault of whoever made it; the question gets an empty one instead of none at all.
    let answer = if answer.len() < FRAME_BYTES_MAX - 9 { answer } else { &[] };
    frame::head(out, Kind::Answer, 8 + answer.len());
    out.put_u64_le(number);
    out.put_slice(answer);
}

//! Our link to another node: made, kept, made again.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base::{NodeId, Rng};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::client::TlsStream;

use super::frame::{self, Decoder, FRAME_BYTES_MAX, Kind, SMALL_FRAME_BYTES_MAX};
use super::keys::public_key;
use super::pair::{Item, Lanes, OTHERS, Peer, RAFT};
use super::shared::Shared;
use super::words::{self, Hello, MALFORMED, Purpose};
use super::{KeyPin, tls};

/// Written at once, about: what waits is gathered up to this.
const BATCH: usize = 256 << 10;
/// Of consensus so much goes out before the others have their turn, with a batch.
const RAFT_ROUND: usize = 1 << 20;
/// A buffer that grew beyond this for one message is given back.
const KEPT_MAX: usize = 4 << 20;
/// A node that refused us is asked again this much later than one that was not there.
const REFUSED_FACTOR: u32 = 10;
/// A link that stood so long has been a good one: the next pause is the first again.
const GOOD: Duration = Duration::from_secs(1);

/// Why there is no connection.
pub enum Failure {
    /// Nobody is there, or he is somebody else.
    Unreachable(String),
    /// The node itself says why not.
    Refused(String),
}

/// A connection that the other end agrees to.
pub struct Welcomed {
    pub stream: TlsStream<TcpStream>,
    pub decoder: Decoder,
    /// Whether the directory there knows this node.
    pub known: bool,
}

/// Dials a node until it is removed or all ends.
pub async fn keep(shared: Arc<Shared>, peer: Arc<Peer>) {
    let about = peer.node.to_string();
    let mut rng = Rng::new(crate::clock::seed());
    let mut pause = shared.settings.backoff;
    let mut attempt = 0;
    while !peer.is_removed() {
        let (mut wanted, mut patient) = (pause, false);
        match dial(&shared, &peer, attempt).await {
            Ok(welcomed) => {
                shared.untell(&about);
                let stood = Instant::now();
                let ended = link(&shared, &peer, welcomed).await;
                if peer.is_removed() {
                    break;
                }
                peer.fail(&ended);
                shared.tell(&about, &ended, &format!("the link to {} ended: {ended}", peer.node));
                if stood.elapsed() >= GOOD {
                    pause = shared.settings.backoff;
                    wanted = pause;
                } else {
                    // Two nodes whose links end at once must not spur each other on.
                    patient = true;
                }
            }
            Err(failure) => {
                let why = match failure {
                    Failure::Unreachable(why) => why,
                    Failure::Refused(why) => {
                        wanted *= REFUSED_FACTOR;
                        why
                    }
                };
                attempt += 1;
                peer.fail(&why);
                shared.tell(&about, &why, &format!("no link to {}: {why}", peer.node));
            }
        }
        pause = (pause * 2).min(shared.settings.backoff_max);
        // Nodes that lost each other at the same moment do not all come back at the same moment.
        let jittered = wanted.mul_f64(0.5 + rng.unit() * 0.5);
        tokio::select! {
            () = tokio::time::sleep(jittered) => {}
            () = peer.kick.notified(), if !patient => {}
        }
    }
}

async fn dial(shared: &Shared, peer: &Peer, attempt: usize) -> Result<Welcomed, Failure> {
    let (address, pin) = {
        let place = peer.place.lock();
        let all: Vec<&String> = place.told.iter().chain(&place.learned).collect();
        let address = all.get(attempt.checked_rem(all.len()).unwrap_or(0)).map(|address| (*address).clone());
        (address, place.pin)
    };
    let Some(address) = address else {
        return Err(Failure::Unreachable("nobody has said where it is".to_owned()));
    };
    peer.figures.words.lock().1.clone_from(&address);
    connect(shared, peer.node, &address, pin, Purpose::Link).await
}

/// A connection to a node that has welcomed us.
pub async fn connect(
    shared: &Shared,
    node: NodeId,
    address: &str,
    pin: Option<KeyPin>,
    purpose: Purpose,
) -> Result<Welcomed, Failure> {
    let within = shared.settings.handshake;
    let failed = |why: String| Failure::Unreachable(format!("{address}: {why}"));
    match tokio::time::timeout(within, shake(shared, node, address, pin, purpose)).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(Failure::Unreachable(why))) => Err(failed(why)),
        Ok(Err(Failure::Refused(why))) => Err(Failure::Refused(format!("{address}: {why}"))),
        Err(_) => Err(failed(format!("no answer within {} ms", within.as_millis()))),
    }
}

async fn shake(
    shared: &Shared,
    node: NodeId,
    address: &str,
    pin: Option<KeyPin>,
    purpose: Purpose,
) -> Result<Welcomed, Failure> {
    let failed = |error: io::Error| Failure::Unreachable(tls::explain(&error));
    let identity = &shared.identity;
    let stream = TcpStream::connect(address).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let name = tls::name_of(identity.cluster, node);
    let mut stream = shared.connector.connect(name, stream).await.map_err(failed)?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(tls::PEER) {
        return Err(Failure::Unreachable("it is no node of a cluster".to_owned()));
    }
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let shown = shown.and_then(|shown| public_key(shown).ok()).map(|key| key.pin());
    if pin.is_some_and(|pin| shown != Some(pin)) {
        return Err(Failure::Unreachable(format!("its key is not the one that {node} joined with")));
    }
    let advertise = shared.settings.advertise.clone();
    let hello = Hello { cluster: identity.cluster, node: identity.node, to: node, purpose, advertise };
    let mut out = BytesMut::new();
    frame::put(&mut out, Kind::Hello, &hello.encode());
    stream.write_all(&out).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut decoder = Decoder::new(SMALL_FRAME_BYTES_MAX);
    let frame = read_frame(&mut stream, &mut decoder).await.map_err(Failure::Unreachable)?;
    match frame.kind {
        Kind::Welcome => {
            decoder.set_max(FRAME_BYTES_MAX);
            Ok(Welcomed { stream, decoder, known: frame.body.first() == Some(&1) })
        }
        Kind::Refused => Err(Failure::Refused(words::sentence(&frame.body))),
        _ => Err(Failure::Unreachable(MALFORMED.to_owned())),
    }
}

/// The next frame of a connection, or why there is none.
pub async fn read_frame<S: AsyncRead + Unpin>(stream: &mut S, decoder: &mut Decoder) -> Result<frame::Frame, String> {
    loop {
        if let Some(frame) = decoder.next().map_err(|error| error.to_string())? {
            return Ok(frame);
        }
        match stream.read_buf(decoder.buffer()).await {
            Ok(0) => return Err("it closed the connection".to_owned()),
            Ok(_) => {}
            Err(error) => return Err(tls::explain(&error)),
        }
    }
}

/// Resolves when nothing has been heard for too long. `heard` is when something last was, on the peer's clock.
pub async fn silence(shared: &Shared, peer: &Peer, heard: impl Fn() -> u64) -> String {
    let most = shared.settings.silence.as_micros() as u64;
    loop {
        let silent = peer.clock().saturating_sub(heard());
        if silent >= most {
            // This process itself may have been stopped for a while: what came meanwhile is read first.
            tokio::time::sleep(Duration::from_millis(20)).await;
            if peer.clock().saturating_sub(heard()) >= most {
                return format!("nothing was heard of it for {} ms", shared.settings.silence.as_millis());
            }
        }
        tokio::time::sleep(Duration::from_micros(most.saturating_sub(silent)).max(Duration::from_millis(1))).await;
    }
}

async fn link(shared: &Shared, peer: &Peer, welcomed: Welcomed) -> String {
    let stop = Arc::new(Notify::new());
    let Welcomed { stream, decoder, known } = welcomed;
    let Some(number) = peer.ours_up(stop.clone(), known, &*shared.handler) else {
        return "it left the cluster".to_owned();
    };
    let (reader, writer) = tokio::io::split(stream);
    let ended = tokio::select! {
        why = write(shared, peer, number, writer) => why,
        why = answers(shared, peer, number, reader, decoder) => why,
        why = silence(shared, peer, || peer.figures.heard_ours.load(Ordering::Relaxed)) => why,
        () = stop.notified() => "the link from there ended".to_owned(),
        () = shared.stopped() => "this node stops".to_owned(),
    };
    peer.ours_down(number, &*shared.handler);
    ended
}

async fn write<W: AsyncWrite + Unpin>(shared: &Shared, peer: &Peer, number: u64, writer: W) -> String {
    match write_all(shared, peer, number, writer).await {
        Ok(()) => "the link from there ended".to_owned(),
        Err(error) => tls::explain(&error),
    }
}

async fn write_all<W: AsyncWrite + Unpin>(shared: &Shared, peer: &Peer, number: u64, mut writer: W) -> io::Result<()> {
    let mut batch = Batch { out: BytesMut::new(), queued: [0; 2], messages: 0 };
    let mut lanes = Lanes::default();
    let mut ping = tokio::time::interval(shared.settings.ping);
    ping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let Some(overflowed) = peer.take(number, &mut lanes) else {
            return Ok(());
        };
        if overflowed {
            shared.handler.unreachable(peer.node);
        }
        if lanes.iter().all(VecDeque::is_empty) {
            tokio::select! {
                () = peer.wake.notified() => continue,
                _ = ping.tick() => batch.ping(peer),
            }
        }
        for (lane, most) in [(RAFT, RAFT_ROUND), (OTHERS, BATCH)] {
            let mut round = 0;
            while round < most
                && let Some((bytes, item)) = lanes[lane].pop_front()
            {
                round += bytes;
                batch.queued[lane] += bytes;
                match item {
                    Item::Raft(envelope) => batch.raft(&envelope, bytes),
                    Item::Forward(body) if body.len() < BATCH => batch.frame(Kind::Forward, &body),
                    Item::Forward(body) => {
                        frame::head(&mut batch.out, Kind::Forward, body.len());
                        batch.messages += 1;
                        batch.write(peer, number, &mut writer, &body).await?;
                    }
                    Item::Ask(ask, body) if peer.is_asked(ask) => batch.ask(ask, &body),
                    Item::Ask(..) => {}
                }
                if batch.out.len() >= BATCH {
                    batch.write(peer, number, &mut writer, &[]).await?;
                }
            }
        }
        // Also under load, where the loop never waits above: round trips are shown then too.
        if std::future::poll_fn(|context| std::task::Poll::Ready(ping.poll_tick(context).is_ready())).await {
            batch.ping(peer);
        }
        batch.write(peer, number, &mut writer, &[]).await?;
    }
}

/// Frames that go out in one write.
struct Batch {
    out: BytesMut,
    queued: [usize; 2],
    messages: u64,
}

impl Batch {
    fn ping(&mut self, peer: &Peer) {
        // A pong of 0 says only that something was heard.
        frame::put(&mut self.out, Kind::Ping, &peer.clock().max(1).to_le_bytes());
    }

    fn frame(&mut self, kind: Kind, body: &[u8]) {
        frame::put(&mut self.out, kind, body);
        self.messages += 1;
    }

    fn raft(&mut self, envelope: &consensus::Envelope, bytes: usize) {
        frame::head(&mut self.out, Kind::Raft, bytes);
        envelope.encode_into(&mut self.out);
        self.messages += 1;
    }

    fn ask(&mut self, number: u64, body: &Bytes) {
        frame::head(&mut self.out, Kind::Ask, 8 + body.len());
        self.out.put_u64_le(number);
        self.out.put_slice(body);
        self.messages += 1;
    }

    async fn write<W: AsyncWrite + Unpin>(
        &mut self,
        peer: &Peer,
        number: u64,
        writer: &mut W,
        more: &[u8],
    ) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        writer.write_all(&self.out).await?;
        writer.write_all(more).await?;
        writer.flush().await?;
        peer.figures.bytes_out.fetch_add((self.out.len() + more.len()) as u64, Ordering::Relaxed);
        peer.figures.messages_out.fetch_add(std::mem::take(&mut self.messages), Ordering::Relaxed);
        peer.written(number, std::mem::take(&mut self.queued));
        self.out.clear();
        if self.out.capacity() > KEPT_MAX {
            self.out = BytesMut::new();
        }
        Ok(())
    }
}

/// What comes back on our own link: signs of life and answers.
async fn answers<R: AsyncRead + Unpin>(
    shared: &Shared,
    peer: &Peer,
    number: u64,
    mut reader: R,
    mut decoder: Decoder,
) -> String {
    loop {
        loop {
            let mut frame = match decoder.next() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => return super::incoming::bad_frame(shared, &error),
            };
            match frame.kind {
                Kind::Pong => match words::stamp(&frame.body) {
                    Some(0) => {}
                    Some(sent) => {
                        peer.figures.rtt.store(peer.clock().saturating_sub(sent).max(1), Ordering::Relaxed);
                    }
                    None => return MALFORMED.to_owned(),
                },
                Kind::Answer => match words::take_number(&mut frame.body) {
                    Some(number) => peer.answered(number, frame.body),
                    None => return MALFORMED.to_owned(),
                },
                Kind::Known => peer.ours_known(number, &*shared.handler),
                Kind::Refused => return words::sentence(&frame.body),
                _ => return MALFORMED.to_owned(),
            }
        }
        match reader.read_buf(decoder.buffer()).await {
            Ok(0) => return "it closed the link".to_owned(),
            Ok(bytes) => {
                peer.figures.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
                peer.figures.heard_ours.store(peer.clock(), Ordering::Relaxed);
            }
            Err(error) => return tls::explain(&error),
        }
    }
}

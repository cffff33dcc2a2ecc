//! The receiver's end of a snapshot stream.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use consensus::Envelope;
use store::log::LogError;
use store::snapshot::Arrival;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, OwnedMutexGuard, mpsc};
use tokio_rustls::server::TlsStream;

use super::super::dial::silence;
use super::super::frame::{self, Decoder, Frame, Kind, SMALL_FRAME_BYTES_MAX};
use super::super::incoming::{bad_frame, refuse};
use super::super::pair::Peer;
use super::super::shared::Shared;
use super::super::tls;
use super::super::words::{MALFORMED, Offer};
use super::send::alive;
use super::{CHUNK, Part};

/// Chunks that have come and are not written yet.
const AHEAD: usize = 4;

/// Takes what the node at the other end of this connection sends.
pub async fn receive(shared: &Arc<Shared>, peer: &Arc<Peer>, mut stream: TlsStream<TcpStream>, mut decoder: Decoder) {
    decoder.set_max(CHUNK + 1 + SMALL_FRAME_BYTES_MAX);
    let stop = Arc::new(Notify::new());
    let ended = {
        let (reader, writer) = tokio::io::split(&mut stream);
        let (say, said) = mpsc::unbounded_channel();
        let heard = AtomicU64::new(peer.clock());
        let (frames, coming) = mpsc::channel(AHEAD);
        tokio::select! {
            ended = take(shared, peer, coming, &say, stop.clone()) => ended,
            why = read(shared, peer, reader, decoder, frames, &heard) => Err(Ended::Link(why)),
            why = write(shared, writer, said) => Err(Ended::Link(why)),
            why = silence(shared, peer, || heard.load(Ordering::Relaxed)) => Err(Ended::Link(why)),
            // Not to be tried again: the two would end each other in turn.
            () = stop.notified() => Err(Ended::Refused("another stream took its place".to_owned())),
            () = shared.stopped() => Err(Ended::Link("this node stops".to_owned())),
        }
    };
    let about = format!("a snapshot from {}", peer.node);
    match ended {
        Ok(()) => {
            let mut out = BytesMut::new();
            frame::put(&mut out, Kind::SnapshotDone, &[]);
            // If it gets lost the sender tries again, and the group sees that it has it.
            let close = async {
                stream.write_all(&out).await?;
                stream.shutdown().await
            };
            let _ = tokio::time::timeout(shared.settings.handshake, close).await;
        }
        Err(Ended::Link(why)) => {
            peer.fail(&format!("{about}: {why}"));
            tokio::spawn(clear(shared.clone()));
        }
        Err(Ended::Refused(why)) => {
            shared.tell(&about, &why, &format!("{about} is of no use: {why}"));
            refuse(shared, stream, &why).await;
        }
    }
}

/// What nobody goes on with after the sender's patience, and a little, is taken away.
async fn clear(shared: Arc<Shared>) {
    let parts = |shared: &Shared| {
        let slots = shared.streams.slots.lock();
        let free = slots.iter().filter_map(|(group, slot)| Some((*group, slot.part.clone().try_lock_owned().ok()?)));
        free.filter_map(|(group, held)| Some((group, held.as_ref()?.arrival.len(), held))).collect::<Vec<_>>()
    };
    let patience = shared.settings.snapshot_patience;
    let wait = async |time| {
        tokio::select! {
            () = tokio::time::sleep(time) => true,
            () = shared.stopped() => false,
        }
    };
    // A chunk may still be on its way to the disk at first.
    if !wait(patience / 2).await {
        return;
    }
    let before: BTreeMap<_, _> = parts(&shared).into_iter().map(|(group, length, _)| (group, length)).collect();
    if !wait(patience).await {
        return;
    }
    for (group, length, mut held) in parts(&shared) {
        if before.get(&group) == Some(&length)
            && let Some(part) = held.take()
        {
            // It is not whole, so this takes it away.
            let _ = on_disk(move || part.arrival.finish()).await;
        }
    }
}

enum Ended {
    /// The connection ended: the rest may come over another.
    Link(String),
    /// It is of no use.
    Refused(String),
}

async fn read<R: AsyncRead + Unpin>(
    shared: &Shared,
    peer: &Peer,
    mut reader: R,
    mut decoder: Decoder,
    frames: mpsc::Sender<Frame>,
    heard: &AtomicU64,
) -> String {
    loop {
        loop {
            match decoder.next() {
                Ok(Some(frame)) if frame.kind == Kind::Pong => {}
                Ok(Some(frame)) => {
                    let sent = frames.send(frame);
                    tokio::pin!(sent);
                    // While the disk is slow nothing is read, and that is not the other end's silence.
                    while tokio::time::timeout(shared.settings.ping, &mut sent).await.is_err() {
                        heard.store(peer.clock(), Ordering::Relaxed);
                    }
                }
                Ok(None) => break,
                Err(error) => return bad_frame(shared, &error),
            }
        }
        match reader.read_buf(decoder.buffer()).await {
            Ok(0) => return "it closed the connection".to_owned(),
            Ok(bytes) => {
                peer.figures.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
                heard.store(peer.clock(), Ordering::Relaxed);
            }
            Err(error) => return tls::explain(&error),
        }
    }
}

/// Says how far it is, and that it lives.
async fn write<W: AsyncWrite + Unpin>(
    shared: &Shared,
    mut writer: W,
    mut said: mpsc::UnboundedReceiver<u64>,
) -> String {
    let mut out = BytesMut::new();
    frame::put(&mut out, Kind::Welcome, &[]);
    loop {
        let written: io::Result<()> = async {
            writer.write_all(&out).await?;
            writer.flush().await
        }
        .await;
        if let Err(error) = written {
            return tls::explain(&error);
        }
        out.clear();
        tokio::select! {
            Some(offset) = said.recv() => {
                let newest = std::iter::from_fn(|| said.try_recv().ok()).last().unwrap_or(offset);
                frame::put(&mut out, Kind::SnapshotWant, &newest.to_le_bytes());
            }
            () = tokio::time::sleep(shared.settings.ping) => alive(&mut out),
        }
    }
}

type Held = OwnedMutexGuard<Option<Part>>;

async fn take(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    mut frames: mpsc::Receiver<Frame>,
    say: &mpsc::UnboundedSender<u64>,
    stop: Arc<Notify>,
) -> Result<(), Ended> {
    let closed = || Ended::Link("it closed the connection".to_owned());
    let malformed = || Ended::Refused(MALFORMED.to_owned());
    let first = frames.recv().await.ok_or_else(closed)?;
    let offer =
        Some(first).filter(|frame| frame.kind == Kind::SnapshotOffer).and_then(|frame| Offer::decode(frame.body));
    let offer = offer.ok_or_else(malformed)?;
    let _place = shared.streams.receiving.clone().acquire_owned().await.map_err(|_| closed())?;
    let mut held = begin(shared, offer.clone(), stop).await?;
    let tell = |offset: u64| {
        // The writing half ends together with this one.
        let _ = say.send(offset);
    };
    tell(held.as_ref().map_or(0, |part| part.arrival.len()));
    loop {
        let frame = frames.recv().await.ok_or_else(closed)?;
        match frame.kind {
            Kind::SnapshotChunk => {
                let length;
                (held, length) = write_chunk(held, frame.body).await?;
                tell(length);
            }
            Kind::SnapshotEnd => {
                let announcement = announcement(shared, peer, &offer, frame.body).map_err(Ended::Refused)?;
                finish(held).await?;
                let handler = &shared.handler;
                let read = handler.snapshot_arrived(peer.node, offer.group, offer.index, announcement);
                return read.await.map_err(Ended::Refused);
            }
            _ => return Err(malformed()),
        }
    }
}

/// What has come before of the same file, or a new one. Whoever wrote until now is ended.
async fn begin(shared: &Arc<Shared>, offer: Offer, stop: Arc<Notify>) -> Result<Held, Ended> {
    let part = {
        let mut slots = shared.streams.slots.lock();
        let slot = slots.entry(offer.group).or_default();
        std::mem::replace(&mut slot.stop, stop).notify_one();
        slot.part.clone()
    };
    let mut held = part.lock_owned().await;
    let disk = shared.streams.disk.clone();
    on_disk(move || {
        if held.as_ref().is_some_and(|part| part.offer == offer) {
            return Ok(held);
        }
        if let Some(part) = held.take() {
            // It is not whole, so this takes it away.
            let _ = part.arrival.finish();
        }
        let arrival = Arrival::begin(&disk, offer.group, offer.index, &offer.extents)?;
        *held = Some(Part { offer, arrival });
        Ok(held)
    })
    .await
}

async fn write_chunk(mut held: Held, bytes: Bytes) -> Result<(Held, u64), Ended> {
    on_disk(move || {
        let Some(part) = held.as_mut() else {
            return Err(LogError::Misuse("nothing has begun".to_owned()));
        };
        if part.arrival.len() + bytes.len() as u64 > part.offer.bytes {
            *held = None;
            return Err(LogError::Misuse("it is longer than was said".to_owned()));
        }
        if let Err(error) = part.arrival.write(&bytes) {
            // What is there is void.
            *held = None;
            return Err(error);
        }
        let length = part.arrival.len();
        Ok((held, length))
    })
    .await
}

async fn finish(mut held: Held) -> Result<(), Ended> {
    on_disk(move || {
        let Some(part) = held.take() else {
            return Err(LogError::Misuse("nothing has begun".to_owned()));
        };
        let wanted = (part.offer.group, part.offer.index);
        let id = part.arrival.finish()?;
        if (id.group, id.index) == wanted {
            return Ok(());
        }
        Err(LogError::Misuse(format!("it is one of {} at {}", id.group, id.index)))
    })
    .await
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> Result<T, LogError> + Send + 'static) -> Result<T, Ended> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| Ended::Refused(error.to_string())),
        Err(error) => Err(Ended::Refused(error.to_string())),
    }
}

fn announcement(shared: &Shared, peer: &Peer, offer: &Offer, body: Bytes) -> Result<Envelope, String> {
    let announcement = Envelope::decode(body).map_err(|error| error.to_string())?;
    let is_its = announcement.from() == peer.node && announcement.to() == shared.identity.node;
    if !is_its || announcement.group() != offer.group {
        return Err("its announcement is not of this snapshot".to_owned());
    }
    Ok(announcement)
}

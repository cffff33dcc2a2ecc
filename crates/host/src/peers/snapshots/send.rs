//! The sender's end of a snapshot stream.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base::{GroupId, NodeId, Rng};
use bytes::{Bytes, BytesMut};
use consensus::Envelope;
use store::extent;
use store::snapshot::snapshot_name;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::super::dial::{Failure, Welcomed, connect};
use super::super::frame::{self, Decoder, Kind, SMALL_FRAME_BYTES_MAX};
use super::super::keys::sha256;
use super::super::pair::Peer;
use super::super::shared::Shared;
use super::super::tls;
use super::super::words::{self, MALFORMED, Offer, Purpose};

/// Header and footer of a snapshot file, and of an extent file: by their checksums they name what lies between.
const ENDS: (u64, u64) = (40, 32);

/// Streams a snapshot and tells the handler what became of it.
pub async fn send(shared: Arc<Shared>, group: GroupId, to: NodeId, index: u64, announcement: Envelope) {
    let about = format!("the snapshot of {group} for {to}");
    let sent = tokio::select! {
        sent = stream(&shared, group, to, index, &announcement) => sent,
        () = shared.stopped() => Err("this node stops".to_owned()),
    };
    match &sent {
        Ok(()) => shared.untell(&about),
        Err(why) => shared.tell(&about, why, &format!("{about} was not sent: {why}")),
    }
    shared.handler.snapshot_sent(group, to, sent.is_ok());
}

/// The files as they are offered: extent files first, the snapshot's own last.
struct Source {
    /// Each with the byte of all at which it ends.
    files: Vec<(Arc<File>, u64)>,
    offer: Offer,
}

impl Source {
    /// The file in which this byte of all lies, the byte in it, and how many follow there.
    fn at(&self, offset: u64) -> Option<(Arc<File>, u64, u64)> {
        let at = self.files.iter().position(|(_, end)| offset < *end)?;
        let begin = at.checked_sub(1).map_or(0, |before| self.files[before].1);
        let (file, end) = &self.files[at];
        Some((file.clone(), offset - begin, end - offset))
    }
}

fn open(shared: &Shared, group: GroupId, index: u64) -> io::Result<Source> {
    let disk = &shared.streams.disk;
    let mut names = Vec::new();
    // The snapshot names some of these; a file that nothing needs is removed there as it is here.
    for id in extent::list(disk, group).map_err(io::Error::other)?.into_iter().filter(|id| id.index <= index) {
        names.push((Some(id), extent::extent_name(id)));
    }
    names.push((None, snapshot_name(group, index)));
    let (mut files, mut extents, mut total, mut prints) = (Vec::new(), Vec::new(), 0, Vec::new());
    for (id, name) in names {
        let file = match File::open(disk.path().join(name)) {
            // It has gone since: then the snapshot does not name it.
            Err(error) if id.is_some() && error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let bytes = file.metadata()?.len();
        let mut ends = vec![0; (ENDS.0 + ENDS.1) as usize];
        let (head, foot) = ends.split_at_mut(ENDS.0 as usize);
        file.read_exact_at(head, 0)?;
        file.read_exact_at(foot, bytes.saturating_sub(ENDS.1))?;
        prints.extend_from_slice(&ends);
        total += bytes;
        extents.extend(id.map(|id| (id, bytes)));
        files.push((Arc::new(file), total));
    }
    let print = u64::from_le_bytes(*sha256(&prints).first_chunk().expect("32 bytes have eight first ones"));
    Ok(Source { files, offer: Offer { group, index, bytes: total, print, extents } })
}

async fn stream(
    shared: &Arc<Shared>,
    group: GroupId,
    to: NodeId,
    index: u64,
    announcement: &Envelope,
) -> Result<(), String> {
    let _place = shared.streams.sending.clone().acquire_owned().await.map_err(|_| "this node stops".to_owned())?;
    let opening = shared.clone();
    let source = tokio::task::spawn_blocking(move || open(&opening, group, index)).await;
    let source = source.map_err(|error| error.to_string())?.map_err(|error| format!("it cannot be read: {error}"))?;
    let mut rng = Rng::new(crate::clock::seed());
    let mut attempt = 0;
    let mut best = 0;
    let mut moved = Instant::now();
    loop {
        let peer = shared.peer(to).ok_or_else(|| format!("{to} has left the cluster"))?;
        let why = match reach(shared, &peer, attempt).await {
            Ok(welcomed) => {
                let reached = AtomicU64::new(best);
                match pour(shared, &peer, &source, announcement, welcomed, &reached).await {
                    Ok(()) => return Ok(()),
                    Err(Broken::Refused(why)) => return Err(why),
                    Err(Broken::Link(why)) => {
                        let reached = reached.into_inner();
                        if reached > best {
                            (best, moved) = (reached, Instant::now());
                        }
                        why
                    }
                }
            }
            Err(why) => why,
        };
        attempt += 1;
        if moved.elapsed() >= shared.settings.snapshot_patience {
            return Err(why);
        }
        tokio::time::sleep(shared.settings.backoff.mul_f64(1.0 + rng.unit())).await;
    }
}

async fn reach(shared: &Shared, peer: &Peer, attempt: usize) -> Result<Welcomed, String> {
    let (addresses, pin) = {
        let place = peer.place.lock();
        (place.told.iter().chain(&place.learned).cloned().collect::<Vec<_>>(), place.pin)
    };
    let address = addresses.get(attempt.checked_rem(addresses.len()).unwrap_or(0));
    let address = address.ok_or("nobody has said where it is")?;
    connect(shared, peer.node, address, pin, Purpose::Snapshot).await.map_err(|failure| match failure {
        Failure::Unreachable(why) | Failure::Refused(why) => why,
    })
}

/// Why a stream ended before its end.
enum Broken {
    /// The connection; another may go on.
    Link(String),
    /// The other end does not want it or cannot use it.
    Refused(String),
}

/// What both halves of a connection see of it.
struct Course<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    source: &'a Source,
    reached: &'a AtomicU64,
    heard: AtomicU64,
}

/// Sends what is wanted over one connection.
async fn pour(
    shared: &Arc<Shared>,
    peer: &Arc<Peer>,
    source: &Source,
    announcement: &Envelope,
    welcomed: Welcomed,
    reached: &AtomicU64,
) -> Result<(), Broken> {
    let Welcomed { stream, mut decoder, .. } = welcomed;
    decoder.set_max(SMALL_FRAME_BYTES_MAX);
    let course = Course { shared, peer, source, reached, heard: AtomicU64::new(peer.clock()) };
    let (reader, writer) = tokio::io::split(stream);
    let (wanted, want) = tokio::sync::oneshot::channel();
    tokio::select! {
        why = write(&course, writer, want, announcement) => Err(Broken::Link(why)),
        done = hear(&course, reader, decoder, wanted) => done,
        why = super::super::dial::silence(shared, peer, || course.heard.load(Ordering::Relaxed)) => Err(Broken::Link(why)),
    }
}

async fn write<W: AsyncWrite + Unpin>(
    course: &Course<'_>,
    mut writer: W,
    want: tokio::sync::oneshot::Receiver<u64>,
    announcement: &Envelope,
) -> String {
    match write_all(course, &mut writer, want, announcement).await {
        Ok(()) => "it closed the connection".to_owned(),
        Err(error) => tls::explain(&error),
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    course: &Course<'_>,
    writer: &mut W,
    mut want: tokio::sync::oneshot::Receiver<u64>,
    announcement: &Envelope,
) -> io::Result<()> {
    let (streams, offer) = (&course.shared.streams, &course.source.offer);
    let mut out = BytesMut::new();
    frame::put(&mut out, Kind::SnapshotOffer, &offer.encode());
    // While others' snapshots come in there this one waits.
    let mut offset = loop {
        put_all(writer, &mut out).await?;
        tokio::select! {
            wanted = &mut want => match wanted {
                Ok(offset) => break offset,
                Err(_) => return Ok(()),
            },
            () = tokio::time::sleep(course.shared.settings.ping) => alive(&mut out),
        }
    };
    let mut buffer = Vec::new();
    while offset < offer.bytes {
        let Some((file, at, left)) = course.source.at(offset) else { break };
        let length = streams.chunk().min(usize::try_from(left).unwrap_or(usize::MAX));
        buffer.resize(length, 0);
        let read = move || file.read_exact_at(&mut buffer, at).map(|()| buffer);
        buffer = tokio::task::spawn_blocking(read).await.map_err(io::Error::other)??;
        rest(course, streams.wait_for(length), writer, &mut out).await?;
        frame::put(&mut out, Kind::SnapshotChunk, &buffer);
        put_all(writer, &mut out).await?;
        course.peer.figures.bytes_out.fetch_add(length as u64, Ordering::Relaxed);
        offset += length as u64;
    }
    frame::put(&mut out, Kind::SnapshotEnd, &announcement.encode());
    put_all(writer, &mut out).await?;
    loop {
        rest(course, course.shared.settings.ping, writer, &mut out).await?;
        alive(&mut out);
    }
}

/// Waits, and says meanwhile that it lives.
async fn rest<W: AsyncWrite + Unpin>(
    course: &Course<'_>,
    mut pause: Duration,
    writer: &mut W,
    out: &mut BytesMut,
) -> io::Result<()> {
    let ping = course.shared.settings.ping;
    while !pause.is_zero() {
        let now = pause.min(ping);
        tokio::time::sleep(now).await;
        pause -= now;
        if now == ping {
            alive(out);
            put_all(writer, out).await?;
        }
    }
    Ok(())
}

async fn put_all<W: AsyncWrite + Unpin>(writer: &mut W, out: &mut BytesMut) -> io::Result<()> {
    writer.write_all(out).await?;
    writer.flush().await?;
    out.clear();
    Ok(())
}

/// A sign of life.
pub(super) fn alive(out: &mut BytesMut) {
    frame::put(out, Kind::Pong, &0u64.to_le_bytes());
}

/// What the receiver says.
async fn hear<R: AsyncRead + Unpin>(
    course: &Course<'_>,
    mut reader: R,
    mut decoder: Decoder,
    wanted: tokio::sync::oneshot::Sender<u64>,
) -> Result<(), Broken> {
    let mut wanted = Some(wanted);
    let number = |body: &Bytes| words::stamp(body).filter(|offset| *offset <= course.source.offer.bytes);
    loop {
        while let Some(frame) = decoder.next().map_err(|error| Broken::Link(error.to_string()))? {
            match (frame.kind, number(&frame.body)) {
                (Kind::SnapshotWant, Some(offset)) => {
                    course.reached.fetch_max(offset, Ordering::Relaxed);
                    if let Some(wanted) = wanted.take() {
                        // The writer waits for it; if it has ended, so will this.
                        let _ = wanted.send(offset);
                    }
                }
                (Kind::Pong, _) => {}
                (Kind::SnapshotDone, _) => return Ok(()),
                (Kind::Refused, _) => return Err(Broken::Refused(words::sentence(&frame.body))),
                _ => return Err(Broken::Link(MALFORMED.to_owned())),
            }
        }
        match reader.read_buf(decoder.buffer()).await {
            Ok(0) => return Err(Broken::Link("it closed the connection".to_owned())),
            Ok(_) => course.heard.store(course.peer.clock(), Ordering::Relaxed),
            Err(error) => return Err(Broken::Link(tls::explain(&error))),
        }
    }
}

//! Calls of many messages: watches, keep-alives, a copy of everything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use coordination::command::Kind;
use coordination::proto::{LeaseKeepAliveResponse, LeaseRequest, SnapshotResponse};
use coordination::{Error, error};
use prost::Message;

use super::{Door, Soon, read, watch};

/// Keep-alives of one stream that are under way together.
const KEEP_ALIVES_MAX: usize = 128;
/// Bytes of one piece of a copy.
const PIECE_BYTES: usize = 32 << 10;

/// A call of many messages.
pub trait Talk: Send {
    /// Takes a message of the client's.
    ///
    /// # Errors
    /// It is none: the call ends.
    fn take(&mut self, message: Bytes) -> Result<(), Error>;

    /// Whether it takes one now.
    fn takes(&self) -> bool {
        true
    }

    /// The client says nothing more.
    fn heard_all(&mut self) {}

    /// The next answer; none at the end.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Error>>>;

    /// To be called every ten minutes.
    fn heartbeat(&mut self) {}
}

/// `Watch`.
pub struct Watching {
    door: Arc<Door>,
    stream: watch::Stream,
    has_ended: bool,
}

impl Watching {
    pub(super) fn new(door: Arc<Door>, user: String) -> Watching {
        let stream = watch::Stream::new(door.hub.clone(), user);
        Watching { door, stream, has_ended: false }
    }
}

impl Talk for Watching {
    fn take(&mut self, message: Bytes) -> Result<(), Error> {
        self.stream.take(message)
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let door = &self.door;
        self.stream.poll(context, |header| door.fill(header)).map(|message| Some(Ok(message)))
    }

    fn heard_all(&mut self) {
        self.has_ended = true;
    }

    fn heartbeat(&mut self) {
        self.stream.heartbeat();
    }
}

/// `LeaseKeepAlive`: each is an entry, answered in the order in which they came.
pub struct KeepAlive {
    door: Arc<Door>,
    user: String,
    under_way: VecDeque<Pending>,
    has_ended: bool,
}

/// A keep-alive on its way, or its answer behind others.
enum Pending {
    Under(Soon<Result<Vec<u8>, Error>>),
    Done(Result<Vec<u8>, Error>),
}

impl KeepAlive {
    pub(super) fn new(door: Arc<Door>, user: String) -> KeepAlive {
        KeepAlive { door, user, under_way: VecDeque::new(), has_ended: false }
    }
}

impl Talk for KeepAlive {
    fn take(&mut self, message: Bytes) -> Result<(), Error> {
        let request: LeaseRequest = read(message.clone())?;
        let (door, user) = (self.door.clone(), self.user.clone());
        // No lease, no entry. One that is on its way here is known to nobody who was told of it by this node.
        let is_here = door.registry.shard().state().coordination().leases().get(request.id).is_some();
        self.under_way.push_back(Pending::Under(Box::pin(async move {
            if !is_here {
                door.registry.fresh().await;
                let is_there = door.registry.shard().state().coordination().leases().get(request.id).is_some();
                if !is_there {
                    let response = LeaseKeepAliveResponse { id: request.id, ..LeaseKeepAliveResponse::default() };
                    return door.look(|_| Ok(response.encode_to_vec()));
                }
            }
            door.propose(Kind::KeepAlive, &user, &message).await
        })));
        Ok(())
    }

    fn takes(&self) -> bool {
        self.under_way.len() < KEEP_ALIVES_MAX
    }

    fn heard_all(&mut self) {
        self.has_ended = true;
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Error>>> {
        // All are begun, so that those that came together share an entry.
        for own in &mut self.under_way {
            if let Pending::Under(soon) = own
                && let Poll::Ready(answer) = soon.as_mut().poll(context)
            {
                *own = Pending::Done(answer);
            }
        }
        match self.under_way.pop_front() {
            Some(Pending::Done(answer)) => Poll::Ready(Some(answer)),
            Some(own) => {
                self.under_way.push_front(own);
                Poll::Pending
            }
            None if self.has_ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

/// `Maintenance.Snapshot`: a copy of all keys in a form of ours: [`COPY_MAGIC`], a length (u64), so many bytes of [`coordination::Coordination::copy`],
/// zeros up to a multiple of 512, and the SHA-256 of all that.
pub struct Snapshot {
    door: Arc<Door>,
    user: String,
    pieces: Option<Result<(Vec<u8>, usize), Error>>,
}

/// What a copy begins with.
pub const COPY_MAGIC: &[u8; 16] = b"quorate-etcd-v1\n";

impl Snapshot {
    pub(super) fn new(door: Arc<Door>, user: String) -> Snapshot {
        Snapshot { door, user, pieces: None }
    }

    fn copy(&self) -> Result<Vec<u8>, Error> {
        let state = self.door.registry.shard().state();
        let state = state.coordination();
        state.auth().admin(&self.user)?;
        let mut copy = COPY_MAGIC.to_vec();
        copy.extend_from_slice(&[0; 8]);
        state.copy(&mut copy)?;
        let length = (copy.len() - COPY_MAGIC.len() - 8) as u64;
        copy[COPY_MAGIC.len()..COPY_MAGIC.len() + 8].copy_from_slice(&length.to_le_bytes());
        // etcdctl knows by the length that a checksum is there: whole pages and 32 bytes.
        copy.resize(copy.len().next_multiple_of(512), 0);
        let sum = ring::digest::digest(&ring::digest::SHA256, &copy);
        copy.extend_from_slice(sum.as_ref());
        Ok(copy)
    }
}

impl Talk for Snapshot {
    fn take(&mut self, _: Bytes) -> Result<(), Error> {
        if self.pieces.is_none() {
            self.pieces = Some(self.copy().map(|copy| (copy, 0)));
            return Ok(());
        }
        Err(error::BUG)
    }

    fn takes(&self) -> bool {
        self.pieces.is_none()
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Vec<u8>, Error>>> {
        match &mut self.pieces {
            None => Poll::Pending,
            Some(Err(error)) => Poll::Ready(Some(Err(error.clone()))),
            Some(Ok((copy, at))) if *at >= copy.len() => Poll::Ready(None),
            Some(Ok((copy, at))) => {
                let to = copy.len().min(*at + PIECE_BYTES);
                let blob = Bytes::copy_from_slice(&copy[*at..to]);
                let response = SnapshotResponse { header: None, remaining_bytes: (copy.len() - to) as u64, blob };
                *at = to;
                Poll::Ready(Some(Ok(response.encode_to_vec())))
            }
        }
    }
}

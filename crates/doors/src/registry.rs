//! The way from a door to the registry: reads under the meta group's shared lock, changes through its log, waiting for news.
//!
//! The Consul door, DNS, the gateway and the admin door go through here.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::Instant;
use discovery::{Catalog, Change, Outcome};
use parking_lot::MappedRwLockReadGuard;
use shard::live::Shard;
use shard::meta::{Changed, frees};

use crate::resp::door::Client;
use crate::resp::peer::Peer;

/// Bytes of one outcome: the reads of a transaction are bounded far below.
const OUTCOME_BYTES_MAX: usize = 64 << 20;

/// The registry, for those who serve it.
pub struct Registry {
    shard: Arc<Shard<Client>>,
    wake: Box<dyn Fn() + Send + Sync>,
}

/// Why a change has no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// Nothing was done, for this reason: the log takes nothing at the moment.
    Refused(String),
    /// It is unknown whether it was done.
    Unknown,
}

impl std::fmt::Display for ChangeError {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChangeError::Refused(why) => write!(out, "nothing was changed: {why}"),
            ChangeError::Unknown => out.write_str("it is unknown whether the change was made"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl Registry {
    /// The registry of this meta group; `wake` wakes its driver.
    pub fn new(meta: Arc<Shard<Client>>, wake: Box<dyn Fn() + Send + Sync>) -> Registry {
        Registry { shard: meta, wake }
    }

    /// The catalog, for a short look: changes wait meanwhile.
    pub fn read(&self) -> MappedRwLockReadGuard<'_, Catalog> {
        parking_lot::RwLockReadGuard::map(self.shard.state(), |state| state.catalog())
    }

    /// The catalog's index when the bell last rang: a change that anybody has been told of is in it.
    #[inline]
    pub fn index(&self) -> u64 {
        self.shard.bell.index()
    }

    /// Proposes a change. The future ends when it has been applied here, or cannot be.
    pub fn change(&self, change: &Change) -> Changing {
        if let Some(error) = self.shard.refusal(frees(change)) {
            return Changing::Refused(error.0.into_owned());
        }
        let peer = Arc::new(Peer::new(0, String::new(), String::new(), Instant::default(), OUTCOME_BYTES_MAX));
        match self.shard.submit(|batch| batch.change(peer.clone(), change)) {
            Err(error) => Changing::Refused(error.0.into_owned()),
            Ok(is_idle) => {
                if is_idle {
                    (self.wake)();
                }
                Changing::Waits(peer)
            }
        }
    }

    /// Waits until the catalog's index is beyond this one.
    pub fn changed(&self, after: u64) -> Changed<Client> {
        Changed::new(self.shard.clone(), after)
    }

    /// How many wait for a change.
    pub fn waiting(&self) -> usize {
        self.shard.bell.waiting()
    }
}

/// A change on its way. Dropped, it still happens; only nobody hears of it.
#[must_use]
pub enum Changing {
    /// It was not taken.
    Refused(String),
    /// It waits for the log.
    Waits(Client),
}

impl Future for Changing {
    type Output = Result<Outcome, ChangeError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let peer = match &*self {
            Changing::Refused(why) => return Poll::Ready(Err(ChangeError::Refused(why.clone()))),
            Changing::Waits(peer) => peer,
        };
        if !peer.listen(context.waker()) {
            return Poll::Pending;
        }
        let mut bytes = Vec::new();
        if peer.collect(&mut bytes) == 0 {
            // Woken without an answer: leadership or the log went away under it.
            return Poll::Ready(Err(ChangeError::Unknown));
        }
        Poll::Ready(match bytes.strip_prefix(b"-") {
            Some(error) => Err(ChangeError::Refused(String::from_utf8_lossy(error).trim_end().to_owned())),
            None => Outcome::decode(&bytes).map_err(|_| ChangeError::Unknown),
        })
    }
}

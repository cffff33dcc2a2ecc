//! Snapshots between nodes: a connection of their own each, a rate, and what has come is not sent again.
//!
//! ```text
//! sender ── hello (snapshot), offer: group, index, bytes, print ─▶ receiver
//!        ◀─ want: offset ──                                         from where on it lacks it
//!        ── chunk, chunk, … end: announcement ─▶                    store::snapshot::Arrival, byte by byte
//!                                                                    checked, durable, read, told to the driver
//!        ◀─ done ──
//! ```
//!
//! Both say every `ping` that they live, while a rate is kept or a disk is slow, so silence means the same as on a link. A connection
//! that breaks is made again; the sender gives up when nothing was added for `snapshot_patience`. What has come is kept for
//! as long as that: it is continued if the same file is offered (`print`), by whichever node.

mod receive;
mod send;

pub use receive::receive;
pub use send::send;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::GroupId;
use parking_lot::Mutex;
use store::snapshot::Arrival;
use tokio::sync::{Notify, Semaphore};

use super::Settings;
use super::words::Offer;
use crate::files::Directory;

/// Snapshots that are sent at once; the others wait.
pub const SENT_MAX: usize = 2;
/// Snapshots that come at once; the others wait.
pub const RECEIVED_MAX: usize = 4;
/// The most bytes of a chunk.
const CHUNK: usize = 256 << 10;

/// What has come of one.
struct Part {
    offer: Offer,
    arrival: Arrival<Directory>,
}

/// Where a group's snapshot comes to. One connection at a time writes.
#[derive(Default)]
struct Slot {
    part: Arc<tokio::sync::Mutex<Option<Part>>>,
    /// Ends the connection that writes.
    stop: Arc<Notify>,
}

/// All streams of this node.
pub struct Streams {
    disk: Directory,
    sending: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
    rate: Mutex<Rate>,
    slots: Mutex<BTreeMap<GroupId, Slot>>,
}

impl Streams {
    pub fn new(disk: Directory, settings: &Settings) -> Streams {
        Streams {
            disk,
            sending: Arc::new(Semaphore::new(SENT_MAX)),
            receiving: Arc::new(Semaphore::new(RECEIVED_MAX)),
            rate: Mutex::new(Rate { per_second: settings.snapshot_bytes_per_second, free_at: Instant::now() }),
            slots: Mutex::default(),
        }
    }

    /// How long to wait before so many bytes go out.
    fn wait_for(&self, bytes: usize) -> Duration {
        self.rate.lock().take(bytes, Instant::now())
    }

    /// Bytes of a chunk: a tenth of a second's, so that a slow rate is an even one.
    fn chunk(&self) -> usize {
        match self.rate.lock().per_second {
            0 => CHUNK,
            rate => usize::try_from(rate / 10).unwrap_or(CHUNK).clamp(1 << 10, CHUNK),
        }
    }
}

/// A bound of bytes a second, over all streams.
struct Rate {
    per_second: u64,
    /// When what was let through before will have been paid for.
    free_at: Instant,
}

impl Rate {
    fn take(&mut self, bytes: usize, now: Instant) -> Duration {
        if self.per_second == 0 {
            return Duration::ZERO;
        }
        let from = self.free_at.max(now);
        self.free_at = from + Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / self.per_second);
        from - now
    }
}

#[cfg(test)]
mod tests {
    use super::Rate;
    use std::time::{Duration, Instant};

    #[test]
    fn a_rate_is_kept_over_all_who_share_it_and_time_unused_is_not_saved_up() {
        let begin = Instant::now();
        let mut rate = Rate { per_second: 1000, free_at: begin };
        assert_eq!(rate.take(500, begin), Duration::ZERO);
        assert_eq!(rate.take(500, begin), Duration::from_millis(500));
        assert_eq!(rate.take(1, begin), Duration::from_secs(1));
        let later = begin + Duration::from_secs(60);
        assert_eq!(rate.take(1000, later), Duration::ZERO);
        assert_eq!(rate.take(1, later), Duration::from_secs(1));
        assert_eq!(Rate { per_second: 0, free_at: begin }.take(usize::MAX, begin), Duration::ZERO);
    }
}

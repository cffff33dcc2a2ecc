//! How long to wait for company before a batch goes to the log.
//!
//! Clients that write in turn come back together once they have been answered. A batch proposed at the very moment the last
//! append ends holds only those that came meanwhile, and the two halves then take turns for ever, at twice the flushes.
//! So the batch waits until as many requests have come as the last ones held (PostgreSQL's `commit_delay`, with the number
//! of siblings learnt): never longer than a flush takes, and not at all where company has stopped coming.

use std::time::Duration;

use base::Instant;

/// The longest wait, however slow the disk.
const WAIT_MAX: Duration = Duration::from_millis(2);
/// Batches between two attempts to gather more than usual, at most: an attempt in vain costs a flush's time, and must stay
/// rarer than one in a hundred.
const PATIENCE_MAX: u32 = 256;

/// See the module.
#[derive(Debug)]
pub struct Gather {
    /// Requests that a batch usually holds.
    usual: usize,
    /// Batches until more than usual is tried for again.
    probe_in: u32,
    patience: u32,
    probing: bool,
    /// Waiting for so many, until then.
    wait: Option<(usize, Instant)>,
}

impl Default for Gather {
    fn default() -> Gather {
        Gather { usual: 1, probe_in: 0, patience: 1, probing: false, wait: None }
    }
}

impl Gather {
    /// An append has ended that took `flush`, and `queued` requests wait. Returns how many to wait for, if that is wise.
    pub fn begin(&mut self, queued: usize, now: Instant, flush: Duration) -> Option<usize> {
        self.probing = self.probe_in == 0;
        self.probe_in = self.probe_in.saturating_sub(1);
        let wanted = if self.probing { self.usual + self.usual / 4 + 1 } else { self.usual };
        self.wait = Some((wanted, now + flush.min(WAIT_MAX)));
        if self.is_over(queued, now) {
            return None;
        }
        Some(wanted)
    }

    /// Whether a batch is being gathered.
    pub fn is_waiting(&self) -> bool {
        self.wait.is_some()
    }

    /// Until when, at most.
    pub fn deadline(&self) -> Option<Instant> {
        self.wait.map(|(_, until)| until)
    }

    /// Whether the wait is over, because all have come or it has been long enough; then it has ended.
    pub fn is_over(&mut self, queued: usize, now: Instant) -> bool {
        let Some((wanted, until)) = self.wait else {
            return true;
        };
        if queued >= wanted {
            // More came than usual: there may be still more.
            self.patience = if self.probing { 1 } else { self.patience };
            self.usual = queued;
        } else if now >= until {
            self.usual = queued.max(1);
            if self.probing {
                self.patience = (self.patience * 2).min(PATIENCE_MAX);
            }
        } else {
            return false;
        }
        if self.probing {
            self.probe_in = self.patience;
        }
        self.wait = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLUSH: Duration = Duration::from_micros(300);

    fn at(micros: u64) -> Instant {
        Instant::default() + Duration::from_micros(micros)
    }

    /// `clients` ask, are answered when their batch's append ends, and ask again one after the other, `pace` microseconds
    /// apart. Returns how many requests an append held at the end.
    fn settle(clients: usize, pace: u64) -> usize {
        let mut gather = Gather::default();
        let (mut now, mut queued, mut flying, mut coming): (u64, usize, usize, Vec<u64>) = (0, clients, 0, Vec::new());
        let mut last = 0;
        for _ in 0..400 {
            // The append of `flying` ends: its clients come back.
            (0..flying).for_each(|place| coming.push(now + pace * (place as u64 + 1)));
            let mut waits = gather.begin(queued, at(now), FLUSH).is_some();
            while waits {
                now = coming.iter().copied().min().map_or(now + 10, |next| next.max(now)).min(now + 10);
                let before = coming.len();
                coming.retain(|come| *come > now);
                queued += before - coming.len();
                waits = !gather.is_over(queued, at(now));
            }
            if queued == 0 {
                // Nothing is there to append: the next to come is alone.
                now = coming.iter().copied().min().expect("all clients are somewhere");
                coming.retain(|come| *come > now);
                queued = 1;
            }
            (flying, queued, last) = (queued, 0, queued);
            now += FLUSH.as_micros() as u64;
            let before = coming.len();
            coming.retain(|come| *come > now);
            queued += before - coming.len();
        }
        last
    }

    #[test]
    fn clients_that_write_in_turn_come_to_share_their_flushes() {
        assert_eq!(settle(1, 10), 1);
        for clients in [2, 4, 10, 25] {
            assert!(settle(clients, 10) * 10 >= clients * 9, "{clients} clients, {} in a batch", settle(clients, 10));
        }
    }

    #[test]
    fn nobody_waits_for_clients_that_have_gone() {
        let mut gather = Gather { usual: 50, probe_in: 9, ..Gather::default() };
        assert_eq!(gather.begin(3, at(0), FLUSH), Some(50));
        assert!(!gather.is_over(4, at(299)));
        assert!(gather.is_over(4, at(300)));
        assert_eq!(gather.begin(4, at(600), FLUSH), None);
        assert!(!gather.is_waiting());
    }

    #[test]
    fn the_wait_is_bounded_on_a_slow_disk() {
        let mut gather = Gather { usual: 50, ..Gather::default() };
        gather.begin(1, at(0), Duration::from_secs(3));
        assert!(gather.is_over(1, at(0) + WAIT_MAX));
    }
}

//! How long to wait for company before a batch goes to the log.
//!
//! Clients that write in turn come back together once they have been answered. A batch proposed at the very moment the last
//! append ends holds only those that came meanwhile, and the two halves then take turns for ever, at twice the flushes.
//! So the batch waits until as many requests have come as the last ones held (PostgreSQL's `commit_delay`, with the number
//! of siblings learnt): never longer than a flush takes, and not at all where company has stopped coming.
//!
//! Where other nodes have a say, clients are answered only a round trip after the append: so first the round is awaited, and
//! then the company. Each node then flushes once for all clients, instead of once for each part of them that happens to be
//! under way. It is not awaited where it takes long, or where many wait already: then more than one is under way at once.
//!
//! Nobody is waited for where what is there is heavy ([`shard::live::HEAVY_BYTES`]): its flush is worth its while, and while it is
//! written the next ones are received. Waiting would bring all clients into step, and either the disk or they would be idle.

use std::time::Duration;

use base::Instant;

/// The longest wait for company, however slow the disk.
const WAIT_MAX: Duration = Duration::from_millis(2);
/// The longest wait for a round. Where rounds take longer than this, none is awaited.
const ROUND_MAX: Duration = Duration::from_millis(8);
/// Batches between two attempts to gather more than usual, at most: an attempt in vain costs a flush's time, and must stay
/// rarer than one in a hundred. Also those that do not await a round after some that took too long.
const PATIENCE_MAX: u32 = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    /// For the answers to the last batch, until then.
    Round(Instant),
    /// For so many requests, until then.
    Company(usize, Instant),
}

/// See the module.
#[derive(Debug)]
pub struct Gather {
    /// Requests that a batch usually holds.
    usual: usize,
    /// Batches until more than usual is tried for again.
    probe_in: u32,
    patience: u32,
    probing: bool,
    wait: Option<Wait>,
    /// When the batch that is under way was handed to the log, and how long that usually takes until it is answered.
    sent: Option<Instant>,
    round: Duration,
    /// Rounds that are not awaited, and how many will not be after the next one that takes too long.
    skip: u32,
    grudge: u32,
}

impl Default for Gather {
    fn default() -> Gather {
        Gather {
            usual: 1,
            probe_in: 0,
            patience: 1,
            probing: false,
            wait: None,
            sent: None,
            round: Duration::ZERO,
            skip: 0,
            grudge: 1,
        }
    }
}

impl Gather {
    /// A batch goes to the log.
    pub fn sent(&mut self, now: Instant) {
        self.sent.get_or_insert(now);
    }

    /// An append has ended that took `flush`, and `queued` requests wait. Answers are still under way if so it says. Whether to wait.
    pub fn appended(&mut self, flying: bool, queued: usize, now: Instant, flush: Duration) -> bool {
        let sent = self.sent.filter(|_| flying);
        // Before any round has been seen it may take twice a flush.
        let round = if self.round.is_zero() { flush * 2 } else { self.round + self.round / 2 };
        match sent {
            Some(_) if self.skip > 0 => self.skip -= 1,
            // Half of those that usually come are enough: two such batches under way leave nobody idle.
            Some(sent) if round <= ROUND_MAX && queued * 2 < self.usual => {
                self.wait = Some(Wait::Round(sent + round));
                return true;
            }
            _ => {}
        }
        self.begin(queued, now, flush).is_some()
    }

    /// All that was sent has been answered.
    pub fn landed(&mut self, queued: usize, now: Instant, flush: Duration) {
        if let Some(sent) = self.sent.take() {
            let took = now.since(sent);
            self.round = if self.round.is_zero() { took } else { (self.round * 7 + took) / 8 };
        }
        if let Some(Wait::Round(_)) = self.wait {
            self.grudge = 1;
            self.begin(queued, now, flush);
        }
    }

    /// Whether something was sent that has not been answered.
    pub fn is_sent(&self) -> bool {
        self.sent.is_some()
    }

    /// How long after an append's end its wait will be over, about.
    pub fn span(&self, flush: Duration) -> Duration {
        self.round.saturating_sub(flush).min(ROUND_MAX) + flush.min(WAIT_MAX)
    }

    /// Begins to wait for company. Returns for how many, if that is wise.
    fn begin(&mut self, queued: usize, now: Instant, span: Duration) -> Option<usize> {
        self.probing = self.probe_in == 0;
        self.probe_in = self.probe_in.saturating_sub(1);
        let wanted = if self.probing { self.usual + self.usual / 4 + 1 } else { self.usual };
        self.wait = Some(Wait::Company(wanted, now + span.min(WAIT_MAX)));
        if self.is_over(queued, now) {
            return None;
        }
        Some(wanted)
    }

    /// What waits has become heavy: there is no waiting any longer, and nothing is learnt from how many there were.
    pub fn end(&mut self) {
        self.wait = None;
    }

    /// For how many requests it waits at the moment.
    pub fn wanted(&self) -> Option<usize> {
        match self.wait {
            Some(Wait::Company(wanted, _)) => Some(wanted),
            _ => None,
        }
    }

    /// Until when, at most.
    pub fn deadline(&self) -> Option<Instant> {
        self.wait.map(|wait| match wait {
            Wait::Round(until) | Wait::Company(_, until) => until,
        })
    }

    /// Whether the wait is over, because all have come or it has been long enough; then it has ended.
    pub fn is_over(&mut self, queued: usize, now: Instant) -> bool {
        let (wanted, until) = match self.wait {
            None => return true,
            Some(Wait::Round(until)) => {
                if now < until {
                    return false;
                }
                // This round is not awaited any longer, and the next ones not at all for a while.
                self.round = self.round.max(self.sent.map_or(Duration::ZERO, |sent| now.since(sent)));
                (self.skip, self.grudge) = (self.grudge, (self.grudge * 2).min(PATIENCE_MAX));
                self.wait = None;
                return true;
            }
            Some(Wait::Company(wanted, until)) => (wanted, until),
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

    /// `clients` ask, are answered `trip` microseconds after their batch's append has ended, and ask again one after the other, `pace`
    /// microseconds apart. Returns how many requests an append held at the end.
    fn settle(clients: usize, pace: u64, trip: u64) -> usize {
        let mut gather = Gather::default();
        let (mut now, mut queued, mut coming): (u64, usize, Vec<u64>) = (0, clients, Vec::new());
        // Batches whose answers are on their way: when they land, and how many.
        let mut flying: Vec<(u64, usize)> = Vec::new();
        let mut last = 0;
        for _ in 0..400 {
            if queued > 0 {
                gather.sent(at(now));
                let end = now + FLUSH.as_micros() as u64;
                flying.push((end + trip, queued));
                (last, queued, now) = (queued, 0, end);
            }
            let mut step = |gather: &mut Gather, now: u64, queued: &mut usize| {
                let before = coming.len();
                coming.retain(|come| *come > now);
                *queued += before - coming.len();
                for (_, count) in flying.extract_if(.., |(lands, _)| *lands <= now) {
                    (1..=count as u64).for_each(|place| coming.push(now + pace * place));
                }
                if flying.is_empty() && gather.sent.is_some() {
                    gather.landed(*queued, at(now), FLUSH);
                }
                flying.len()
            };
            let left = step(&mut gather, now, &mut queued);
            // Whoever is answered at once is answered in the same step.
            let mut waits = gather.appended(left > 0, queued, at(now), FLUSH);
            while waits || queued == 0 {
                now += 10;
                step(&mut gather, now, &mut queued);
                waits = !gather.is_over(queued, at(now));
            }
        }
        last
    }

    #[test]
    fn clients_that_write_in_turn_come_to_share_their_flushes() {
        for trip in [0, 200] {
            assert_eq!(settle(1, 10, trip), 1);
            for clients in [2, 4, 10, 25] {
                let held = settle(clients, 10, trip);
                // With a round trip two batches may be under way in turn, but no more.
                let share = if trip == 0 { clients * 9 / 10 } else { clients / 2 };
                assert!(held >= share, "{clients} clients, {held} in a batch, {trip} µs to an answer");
            }
        }
    }

    #[test]
    fn nobody_waits_for_clients_that_have_gone() {
        let mut gather = Gather { usual: 50, probe_in: 9, ..Gather::default() };
        assert!(gather.appended(false, 3, at(0), FLUSH));
        assert_eq!(gather.wanted(), Some(50));
        assert!(!gather.is_over(4, at(299)));
        assert!(gather.is_over(4, at(300)));
        assert!(!gather.appended(false, 4, at(600), FLUSH));
    }

    #[test]
    fn the_wait_is_bounded_on_a_slow_disk() {
        let mut gather = Gather { usual: 50, ..Gather::default() };
        gather.appended(false, 1, at(0), Duration::from_secs(3));
        assert!(gather.is_over(1, at(0) + WAIT_MAX));
    }

    #[test]
    fn a_round_that_does_not_end_is_awaited_ever_more_seldom() {
        let mut gather = Gather { usual: 9, round: Duration::from_micros(800), ..Gather::default() };
        let (mut now, mut awaited) = (0, 0);
        for _ in 0..200 {
            gather.sent(at(now));
            now += 300;
            if gather.appended(true, 1, at(now), FLUSH) && matches!(gather.wait, Some(Wait::Round(_))) {
                awaited += 1;
                let until = gather.deadline().expect("it waits");
                assert!(until <= at(now) + ROUND_MAX);
            }
            now += 20_000;
            assert!(gather.is_over(1, at(now)));
        }
        assert!(awaited < 12, "{awaited} of 200");
    }
}

//! Flap damping: a check that comes and goes is not believed for a while when it passes.
//!
//! As routers do it with routes (RFC 2439): each fall is a penalty, penalties halve with time. Above one mark what passes stays critical, until the
//! penalty has fallen below another one. So an instance that fails every few seconds costs a handful of entries and of requests, not one of
//! each every time; one that is restarted now and then is not touched. Failures are believed at once, always.

use base::{Duration, Instant};

use crate::model::Status;

/// A penalty is half of what it was after so long.
pub const HALF_LIFE: Duration = Duration::from_secs(60);
/// So many falls, in quick succession, before what passes is not believed.
pub const HELD_ABOVE: f64 = 5.5;
/// It is believed again below so many.
pub const FREE_BELOW: f64 = 2.0;
/// More is not counted: nothing is held longer than two half-lives after its last fall.
pub const MOST: f64 = 8.0;

/// How often a check has fallen lately.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flaps {
    penalty: f64,
    at: Instant,
    is_held: bool,
}

impl Flaps {
    /// How the check is, and what it would become. Gives how long it is still held critical, if it is.
    pub fn damp(&mut self, is: Status, wanted: Status, now: Instant) -> Option<Duration> {
        let halves = now.since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.penalty *= 0.5_f64.powf(halves);
        self.at = now;
        if self.penalty < FREE_BELOW {
            self.is_held = false;
        }
        if wanted == Status::Critical {
            if is != Status::Critical {
                self.penalty = (self.penalty + 1.0).min(MOST);
                self.is_held |= self.penalty > HELD_ABOVE;
            }
            return None;
        }
        let left = HALF_LIFE.mul_f64((self.penalty / FREE_BELOW).log2().max(0.0));
        self.is_held.then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn play(states: impl Iterator<Item = (u64, bool)>) -> (usize, Option<u64>) {
        let mut flaps = Flaps::default();
        let (mut is, mut falls, mut held) = (Status::Passing, 0, None);
        for (second, passes) in states {
            let wanted = if passes { Status::Passing } else { Status::Critical };
            let now = Instant::default() + Duration::from_secs(1000 + second);
            let next = match flaps.damp(is, wanted, now) {
                Some(_) => Status::Critical,
                None => wanted,
            };
            if passes && next == Status::Critical {
                held = Some(second);
            }
            falls += usize::from(is == Status::Passing && next == Status::Critical);
            is = next;
        }
        (falls, held)
    }

    #[test]
    fn what_comes_and_goes_each_second_falls_a_few_times_and_is_free_two_half_lives_later() {
        // Fails every other second for five minutes, then it is well.
        let (falls, held) = play((0..600).map(|second| (second, second > 300 || second % 2 == 0)));
        assert!((6..=20).contains(&falls), "{falls} of 150 falls are told");
        let held = held.expect("it was held");
        assert!((250..=300 + 121).contains(&held), "held until {held}");
    }

    #[test]
    fn restarts_now_and_then_are_believed() {
        // Down for three seconds in every twenty.
        assert_eq!(play((0..3600).map(|second| (second, second % 20 >= 3))).1, None);
    }
}

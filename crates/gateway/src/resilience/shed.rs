//! Load shedding: refusing early what could not be answered in time, before memory runs out. A refusal costs microseconds; a request that
//! waits costs memory and is often answered to nobody.
//!
//! * *places*: requests in flight in the whole gateway have a bound; so have the bytes it holds for them.
//! * *delay*: the queueing delay is the sign of overload, as in CoDel (RFC 8289 §3; for servers: B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015),
//!   but its **mean** over an interval, as in WeChat's DAGOR (H. Zhou et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018):
//!   CoDel's smallest is the sign of a queue in order, and a runtime's is none. In overload tokio still runs most tasks at once and lets others
//!   stand for a second. A share of requests is refused that grows by [`STEP_UP`] for each interval above the target and shrinks by
//!   [`STEP_DOWN`] for each other one, which is DAGOR's too.
//!
//! The delay is what the host measures, of some: from when a connection was ready to be handled until it is. A process that was stopped for a
//! moment, or had to wait for a core, sees much of it at once and is not overloaded: nothing is refused before [`PATIENCE`] intervals in a
//! row, nor with less than [`IN_FLIGHT_MIN`] requests in flight, which cannot be what keeps it busy.

use super::defaults::Defaults;
use base::{Duration, Instant, Rng};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// By how many hundredths the refused share grows in an interval of overload.
const STEP_UP: u32 = 5;
/// By how many it shrinks in an interval without.
const STEP_DOWN: u32 = 1;
/// Never all: how overload ends can only be seen from requests that are let in.
const SHARE_MAX: u32 = 95;
/// A delay counts as so many targets at most: it takes a tenth of the samples to make an interval one of overload.
const TARGETS_MAX: u32 = 10;
/// Samples below which nothing can be said of an interval; it goes on, ten times as long at most.
const SAMPLES_MIN: u32 = 10;
/// Intervals of overload in a row before anything is refused.
const PATIENCE: u32 = 5;
/// With fewer requests in flight what is late is late for another reason.
const IN_FLIGHT_MIN: u64 = 32;

/// When to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedConfig {
    /// Most requests in flight in the gateway.
    pub in_flight_max: u64,
    /// Most bytes that the gateway holds for requests.
    pub bytes_max: u64,
    /// The delay that the mean of an interval may not exceed.
    pub delay_target: Duration,
    /// How long delays are looked at.
    pub interval: Duration,
}

impl Default for ShedConfig {
    fn default() -> ShedConfig {
        let Defaults { shed_in_flight_max, shed_bytes_max, shed_delay_target_ms, shed_interval_ms, .. } =
            Defaults::DEFAULT;
        ShedConfig {
            in_flight_max: shed_in_flight_max,
            bytes_max: shed_bytes_max,
            delay_target: Duration::from_millis(shed_delay_target_ms),
            interval: Duration::from_millis(shed_interval_ms),
        }
    }
}

/// Why a request was refused; answered 503 with `Retry-After: 1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shed {
    /// Too many in flight.
    InFlight,
    /// Too many bytes held.
    Memory,
    /// The queue is standing.
    Delay,
}

/// A gateway's own limits.
#[derive(Debug)]
pub struct Shedder {
    config: ShedConfig,
    in_flight: AtomicU64,
    bytes: AtomicU64,
    /// Hundredths of requests that are refused.
    share: AtomicU32,
    interval: Mutex<Interval>,
}

#[derive(Debug, Default)]
struct Interval {
    until: Instant,
    samples: u32,
    /// The sum of their delays.
    delays: Duration,
    /// Intervals of overload in a row before this one.
    row: u32,
}

impl Shedder {
    /// Nothing in flight.
    pub fn new(config: ShedConfig) -> Shedder {
        Shedder {
            config,
            in_flight: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            share: AtomicU32::new(0),
            interval: Mutex::default(),
        }
    }

    /// Asks for one request. If it is let in, [`Shedder::done`] when it has ended.
    pub fn admit(&self, now: Instant, rng: &mut Rng) -> Result<(), Shed> {
        if self.bytes.load(Relaxed) >= self.config.bytes_max {
            return Err(Shed::Memory);
        }
        let mut share = self.share.load(Relaxed);
        if share > 0
            && let Some(mut interval) = self.interval.try_lock()
        {
            // Where nobody tells of delays any more, there are none.
            self.turn(&mut interval, now);
            share = self.share.load(Relaxed);
        }
        if share > 0 && rng.chance(u64::from(share), 100) {
            return Err(Shed::Delay);
        }
        if self.in_flight.fetch_add(1, Relaxed) >= self.config.in_flight_max {
            self.in_flight.fetch_sub(1, Relaxed);
            return Err(Shed::InFlight);
        }
        Ok(())
    }

    /// A request that was let in has ended.
    pub fn done(&self) {
        let before = self.in_flight.fetch_sub(1, Relaxed);
        debug_assert!(before > 0, "only who was let in ends");
    }

    /// The gateway holds so many bytes more.
    pub fn hold(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// So many less.
    pub fn free(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Relaxed);
        debug_assert!(before >= bytes, "only what was held is freed");
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Relaxed)
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The share of requests that is refused for delay, 0 to 1.
    pub fn share(&self) -> f64 {
        f64::from(self.share.load(Relaxed)) / 100.0
    }

    /// A connection that was ready to be handled was handled after so long. Samples will do, as long as they are drawn blindly.
    pub fn waited(&self, now: Instant, delay: Duration) {
        // Where another thread holds it this delay is not counted: a sample among many.
        let Some(mut interval) = self.interval.try_lock() else { return };
        self.turn(&mut interval, now);
        interval.samples += 1;
        interval.delays += delay.min(self.config.delay_target * TARGETS_MAX);
    }

    /// Ends the interval if it is over.
    fn turn(&self, interval: &mut Interval, now: Instant) {
        if now < interval.until {
            return;
        }
        // An interval in which nobody came is no overload, however long ago it was.
        let idle = now.since(interval.until).as_nanos() / self.config.interval.as_nanos().max(1);
        let idle = u32::try_from(idle).unwrap_or(u32::MAX);
        if (1..SAMPLES_MIN).contains(&interval.samples) && idle < 10 {
            return;
        }
        let late = interval.delays > self.config.delay_target * interval.samples;
        let overloaded = late && interval.samples >= SAMPLES_MIN && self.in_flight() >= IN_FLIGHT_MIN;
        let row = if overloaded { interval.row.saturating_add(1) } else { 0 };
        let share = self.share.load(Relaxed);
        let next = match row {
            0 => share.saturating_sub(STEP_DOWN.saturating_mul(idle.saturating_add(1))),
            _ if base::is_planted(base::Bug::DelayNotShed) => 0,
            _ if share > 0 || row >= PATIENCE => (share + STEP_UP).min(SHARE_MAX),
            _ => share,
        };
        self.share.store(next, Relaxed);
        *interval = Interval { until: now + self.config.interval, row, ..Interval::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(ms * 1_000_000)
    }

    #[test]
    fn places_and_bytes_are_bounded() {
        let shedder = Shedder::new(ShedConfig { in_flight_max: 2, bytes_max: 100, ..ShedConfig::default() });
        let mut rng = Rng::new(1);
        let mut admit = || shedder.admit(at(0), &mut rng);
        assert_eq!([admit(), admit(), admit()], [Ok(()), Ok(()), Err(Shed::InFlight)]);
        shedder.done();
        shedder.hold(100);
        assert_eq!(admit(), Err(Shed::Memory));
        shedder.free(1);
        assert_eq!(admit(), Ok(()));
        assert_eq!((shedder.in_flight(), shedder.bytes()), (2, 99));
    }

    /// One whose target is 10 ms, with enough requests in flight to be overloaded.
    fn busy() -> (Shedder, Rng) {
        let config = ShedConfig {
            delay_target: Duration::from_millis(10),
            interval: Duration::from_millis(100),
            ..ShedConfig::default()
        };
        let (shedder, mut rng) = (Shedder::new(config), Rng::new(1));
        (0..IN_FLIGHT_MIN).for_each(|_| shedder.admit(at(0), &mut rng).expect("nothing is in flight"));
        (shedder, rng)
    }

    fn waits(shedder: &Shedder, ms: std::ops::Range<u64>, delay: impl Fn(u64) -> u64) {
        ms.for_each(|ms| shedder.waited(at(ms), Duration::from_millis(delay(ms))));
    }

    #[test]
    fn a_burst_is_let_in_and_a_standing_queue_is_not() {
        // Twice a second a burst keeps requests waiting for up to 90 ms.
        let (bursts, _) = busy();
        waits(&bursts, 0..5_000, |ms| 90_u64.saturating_sub(ms % 500));
        assert_eq!(bursts.share(), 0.0);
        let (standing, mut rng) = busy();
        // Most go by a shortcut.
        waits(&standing, 0..1_500, |ms| if ms % 4 > 0 { 1 } else { 500 });
        assert!(standing.share() >= 0.4);
        let refused = (0..100).filter(|_| standing.admit(at(1_500), &mut rng) == Err(Shed::Delay)).count();
        assert!((30..90).contains(&refused), "{refused}");
        assert_eq!(standing.admit(at(20_000), &mut rng), Ok(()));
        assert_eq!(standing.share(), 0.0, "forgotten after a pause");
    }

    #[test]
    fn a_moment_is_no_overload() {
        // Stopped for two seconds, a process finds that everything has waited so long; and so again and again.
        let (stopped, _) = busy();
        for begin in (0..20_000).step_by(2_500) {
            waits(&stopped, begin..begin + 400, |_| 2_000);
            waits(&stopped, begin + 400..begin + 500, |_| 0);
        }
        assert_eq!(stopped.share(), 0.0);
        // A few samples are none.
        let (rare, _) = busy();
        (0..200).for_each(|second| rare.waited(at(second * 1_000), Duration::from_secs(1)));
        assert_eq!(rare.share(), 0.0);
        // What is late while next to nothing is in flight has another reason.
        let other = Shedder::new(ShedConfig::default());
        waits(&other, 0..10_000, |_| 500);
        assert_eq!(other.share(), 0.0);
    }

    /// A server of 1,000 requests a second behind a queue that is offered `rate` a millisecond for `secs`; gives answers per second and the
    /// longest and last delays after the first `settle` seconds.
    fn run(shedding: bool, rate: u64, secs: u64, settle: u64) -> (f64, Duration, Duration) {
        let shedder = Shedder::new(ShedConfig { in_flight_max: u64::MAX, ..ShedConfig::default() });
        let mut rng = Rng::new(5);
        (0..IN_FLIGHT_MIN).for_each(|_| shedder.admit(at(0), &mut rng).expect("nothing is in flight"));
        let (mut queue, mut answered, mut longest, mut last) =
            (std::collections::VecDeque::new(), 0, Duration::ZERO, Duration::ZERO);
        for ms in 0..secs * 1000 {
            (0..rate).for_each(|_| queue.push_back(at(ms)));
            // What is refused costs next to nothing, so the server looks on until it finds one that is let in.
            while let Some(came) = queue.pop_front() {
                let delay = at(ms).since(came);
                if shedding {
                    shedder.waited(at(ms), delay);
                }
                if !shedding || shedder.admit(at(ms), &mut rng).is_ok() {
                    if shedding {
                        shedder.done();
                    }
                    last = delay;
                    if ms >= settle * 1000 {
                        answered += 1;
                        longest = longest.max(delay);
                    }
                    break;
                }
            }
        }
        (f64::from(answered) / (secs - settle) as f64, longest, last)
    }

    #[test]
    fn under_twice_the_load_delay_is_bounded_and_the_server_is_kept_busy() {
        let (_, _, without) = run(false, 2, 60, 20);
        let (rate, longest, _) = run(true, 2, 60, 20);
        println!(
            "twice the load: without shedding {without:?} of delay after 60 s; with it at most {longest:?}, {rate:.0} answers/s of 1,000"
        );
        assert!(without >= Duration::from_secs(29));
        assert!(longest < Duration::from_millis(700), "{longest:?}");
        assert!(rate > 900.0, "{rate}");
        let (rate, longest, _) = run(true, 1, 20, 1);
        assert!(rate > 999.0 && longest.is_zero(), "nothing is refused without overload");
    }
}

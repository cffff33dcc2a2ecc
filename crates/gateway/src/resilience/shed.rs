//! Load shedding: refusing early what could not be answered in time, before memory runs out. A refusal costs microseconds; a request that
//! waits costs memory and is often answered to nobody.
//!
//! * *places*: requests in flight in the whole gateway have a bound; so have the bytes it holds for them.
//! * *delay*: CoDel's sign of overload (RFC 8289 §3.2; for servers: B. Maurer, "Fail at Scale", ACM Queue 13(8), 2015): the **smallest** queueing
//!   delay within an interval. If even that is above the target, the queue is standing, not a burst. What is done then is simpler than CoDel,
//!   whose drops are meant for TCP: a share of requests is refused that grows by [`STEP_UP`] for each such interval and shrinks by [`STEP_DOWN`]
//!   for each other one (the additive control of WeChat's DAGOR, H. Zhou et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018).
//!
//! The delay is what the host measures: from when a request was ready to be handled until it is.

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

/// When to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShedConfig {
    /// Most requests in flight in the gateway.
    pub in_flight_max: u64,
    /// Most bytes that the gateway holds for requests.
    pub bytes_max: u64,
    /// The delay that even the luckiest request of an interval must not exceed.
    pub delay_target: Duration,
    /// How long the luckiest is looked for.
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

#[derive(Debug)]
struct Interval {
    until: Instant,
    smallest: Option<Duration>,
}

impl Shedder {
    /// Nothing in flight.
    pub fn new(config: ShedConfig) -> Shedder {
        Shedder {
            config,
            in_flight: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            share: AtomicU32::new(0),
            interval: Mutex::new(Interval { until: Instant(0), smallest: None }),
        }
    }

    /// Asks for one request that has waited for `delay`. If it is let in, [`Shedder::done`] when it has ended.
    pub fn admit(&self, now: Instant, delay: Duration, rng: &mut Rng) -> Result<(), Shed> {
        self.observe(now, delay);
        if self.bytes.load(Relaxed) >= self.config.bytes_max {
            return Err(Shed::Memory);
        }
        let share = self.share.load(Relaxed);
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

    fn observe(&self, now: Instant, delay: Duration) {
        // Where another thread holds it this delay is not counted: a sample among thousands.
        let Some(mut interval) = self.interval.try_lock() else { return };
        if now >= interval.until {
            let share = self.share.load(Relaxed);
            let overloaded = interval.smallest.is_some_and(|smallest| smallest > self.config.delay_target);
            // An interval in which nobody came is no overload, however long ago it was.
            let idle = now.since(interval.until).as_nanos() / self.config.interval.as_nanos().max(1);
            let idle = u32::try_from(idle).unwrap_or(u32::MAX);
            let next = if overloaded { (share + STEP_UP).min(SHARE_MAX) } else { share.saturating_sub(STEP_DOWN) };
            self.share.store(next.saturating_sub(STEP_DOWN.saturating_mul(idle)), Relaxed);
            *interval = Interval { until: now + self.config.interval, smallest: None };
        }
        interval.smallest = Some(interval.smallest.map_or(delay, |smallest| smallest.min(delay)));
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
        let mut admit = || shedder.admit(at(0), Duration::ZERO, &mut rng);
        assert_eq!([admit(), admit(), admit()], [Ok(()), Ok(()), Err(Shed::InFlight)]);
        shedder.done();
        shedder.hold(100);
        assert_eq!(admit(), Err(Shed::Memory));
        shedder.free(1);
        assert_eq!(admit(), Ok(()));
        assert_eq!((shedder.in_flight(), shedder.bytes()), (2, 99));
    }

    #[test]
    fn a_burst_is_let_in_and_a_standing_queue_is_not() {
        let config = ShedConfig {
            delay_target: Duration::from_millis(10),
            interval: Duration::from_millis(100),
            ..ShedConfig::default()
        };
        let mut rng = Rng::new(1);
        let bursts = Shedder::new(config);
        for ms in 0..2_000 {
            // Every 100 ms a burst of requests waits for up to 90 ms, and the last one for nothing.
            assert!(bursts.admit(at(ms), Duration::from_millis(99 - ms % 100), &mut rng).is_ok());
        }
        assert_eq!(bursts.share(), 0.0);
        let standing = Shedder::new(config);
        (0..1_000).for_each(|ms| _ = standing.admit(at(ms), Duration::from_millis(20), &mut rng));
        assert!(standing.share() >= 0.4);
        standing.observe(at(10_000), Duration::ZERO);
        assert_eq!(standing.share(), 0.0, "forgotten after a pause");
    }

    /// A server of 1,000 requests a second behind a queue that is offered `rate` a millisecond for `secs`; gives answers per second and the
    /// longest and last delays after the first `settle` seconds.
    fn run(shedding: bool, rate: u64, secs: u64, settle: u64) -> (f64, Duration, Duration) {
        let shedder = Shedder::new(ShedConfig { in_flight_max: u64::MAX, ..ShedConfig::default() });
        let mut rng = Rng::new(5);
        let (mut queue, mut answered, mut longest, mut last) =
            (std::collections::VecDeque::new(), 0, Duration::ZERO, Duration::ZERO);
        for ms in 0..secs * 1000 {
            (0..rate).for_each(|_| queue.push_back(at(ms)));
            // What is refused costs next to nothing, so the server looks on until it finds one that is let in.
            while let Some(came) = queue.pop_front() {
                let delay = at(ms).since(came);
                if !shedding || shedder.admit(at(ms), delay, &mut rng).is_ok() {
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

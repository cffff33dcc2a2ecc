//! The last minute: one sample of the counters a second, and what came between two of them.

use std::collections::VecDeque;

use base::Counts;
use base::{Duration, Instant};
use serde::Serialize;

/// Seconds that are remembered.
pub const SECONDS: usize = 60;

/// Counters at one moment. They only grow; where one was set back, nothing came between.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// Commands received.
    pub commands: u64,
    /// Bytes read.
    pub bytes_in: u64,
    /// Bytes written.
    pub bytes_out: u64,
    /// Connections accepted.
    pub connections: u64,
    /// Commits applied.
    pub commits: u64,
    /// Appends made durable.
    pub appends: u64,
    /// Bytes of them.
    pub log_bytes: u64,
    /// Time spent in them, microseconds.
    pub log_micros: u64,
    /// Durations of requests.
    pub latency: Counts,
}

/// What a door did in a span.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct DoorRates {
    /// How long the span really was.
    pub seconds: f64,
    /// Commands a second.
    pub commands_per_second: f64,
    /// Bytes read a second.
    pub bytes_in_per_second: f64,
    /// Bytes written a second.
    pub bytes_out_per_second: f64,
    /// New connections a second.
    pub connections_per_second: f64,
    /// Half of the requests took at most this long, microseconds; none without requests.
    pub p50_us: Option<f64>,
    /// 99 of 100 requests took at most this long, microseconds; none without requests.
    pub p99_us: Option<f64>,
}

/// What the log did in a span.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LogRates {
    /// How long the span really was.
    pub seconds: f64,
    /// Commits a second.
    pub commits_per_second: f64,
    /// Appends a second: each is one write and one fsync for all that waited.
    pub appends_per_second: f64,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// One append with its fsync on average, microseconds; none without appends.
    pub append_us: Option<f64>,
}

/// One figure a second, oldest first, newest last: at most [`SECONDS`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct History {
    /// Commands a second.
    pub commands: Vec<f64>,
    /// Commits a second.
    pub commits: Vec<f64>,
    /// Bytes of log a second.
    pub log_bytes: Vec<f64>,
}

/// Samples of the last minute.
#[derive(Debug, Default)]
pub struct Minute {
    samples: VecDeque<Sample>,
}

fn per_second(now: u64, then: u64, span: Duration) -> f64 {
    let seconds = span.as_secs_f64();
    // Rounded to what a person can use.
    if seconds <= 0.0 { 0.0 } else { (now.saturating_sub(then) as f64 / seconds * 10.0).round() / 10.0 }
}

fn micros(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e7).round() / 10.0
}

impl Minute {
    /// Adds the sample of this second; the oldest goes.
    pub fn push(&mut self, sample: Sample) {
        self.samples.push_back(sample);
        while self.samples.len() > SECONDS + 1 {
            self.samples.pop_front();
        }
    }

    /// The sample that is nearest to `span` before `now`, at least half a second before; the oldest if all are younger.
    fn before(&self, now: Instant, span: Duration) -> Option<&Sample> {
        let old_enough = self.samples.iter().filter(|sample| now.since(sample.at) >= Duration::from_millis(500));
        old_enough.min_by_key(|sample| now.since(sample.at).abs_diff(span))
    }

    /// What the door did in the last `span` before `now`.
    pub fn door(&self, now: &Sample, span: Duration) -> DoorRates {
        let Some(then) = self.before(now.at, span) else {
            return DoorRates::default();
        };
        let span = now.at.since(then.at);
        let latency = now.latency.since(&then.latency);
        DoorRates {
            seconds: span.as_secs_f64(),
            commands_per_second: per_second(now.commands, then.commands, span),
            bytes_in_per_second: per_second(now.bytes_in, then.bytes_in, span),
            bytes_out_per_second: per_second(now.bytes_out, then.bytes_out, span),
            connections_per_second: per_second(now.connections, then.connections, span),
            p50_us: latency.quantile(0.5).map(micros),
            p99_us: latency.quantile(0.99).map(micros),
        }
    }

    /// What the log did in the last `span` before `now`.
    pub fn log(&self, now: &Sample, span: Duration) -> LogRates {
        let Some(then) = self.before(now.at, span) else {
            return LogRates::default();
        };
        let span = now.at.since(then.at);
        let appends = now.appends.saturating_sub(then.appends);
        let spent = now.log_micros.saturating_sub(then.log_micros) as f64;
        LogRates {
            seconds: span.as_secs_f64(),
            commits_per_second: per_second(now.commits, then.commits, span),
            appends_per_second: per_second(now.appends, then.appends, span),
            bytes_per_second: per_second(now.log_bytes, then.log_bytes, span),
            append_us: (appends > 0).then(|| (spent / appends as f64 * 10.0).round() / 10.0),
        }
    }

    /// Second by second.
    pub fn history(&self) -> History {
        let mut history = History::default();
        for (then, now) in self.samples.iter().zip(self.samples.iter().skip(1)) {
            let span = now.at.since(then.at);
            history.commands.push(per_second(now.commands, then.commands, span));
            history.commits.push(per_second(now.commits, then.commits, span));
            history.log_bytes.push(per_second(now.log_bytes, then.log_bytes, span));
        }
        history
    }
}

#[cfg(test)]
mod tests {
    use base::{Duration, Histogram, Instant};

    use super::{Minute, SECONDS, Sample};

    fn sample(second: u64, commands: u64) -> Sample {
        let at = Instant(second * 1_000_000_000);
        Sample { at, commands, appends: commands / 10, log_micros: commands * 5, ..Sample::default() }
    }

    #[test]
    fn rates_are_those_of_the_span_asked_for() {
        let mut minute = Minute::default();
        (0..50).for_each(|second| minute.push(sample(second, second * 100)));
        (50..=100).for_each(|second| minute.push(sample(second, 5_000 + (second - 50) * 1_000)));
        let now = sample(100, 55_000);
        let (ten, sixty) = (minute.door(&now, Duration::from_secs(10)), minute.door(&now, Duration::from_secs(60)));
        assert_eq!((ten.seconds, ten.commands_per_second), (10.0, 1_000.0));
        assert_eq!((sixty.seconds, sixty.commands_per_second), (60.0, 850.0));
        let log = minute.log(&now, Duration::from_secs(10));
        assert_eq!((log.appends_per_second, log.append_us), (100.0, Some(50.0)));
        let history = minute.history();
        assert_eq!(history.commands.len(), SECONDS);
        assert_eq!((history.commands[0], history.commands[SECONDS - 1]), (100.0, 1_000.0));
    }

    #[test]
    fn a_young_node_and_counters_set_back_give_figures_not_nonsense() {
        let mut minute = Minute::default();
        assert_eq!(minute.door(&sample(5, 9), Duration::from_secs(10)).commands_per_second, 0.0);
        minute.push(sample(5, 900));
        assert_eq!(minute.door(&sample(5, 900), Duration::from_secs(10)).seconds, 0.0);
        let reset = minute.door(&sample(7, 10), Duration::from_secs(10));
        assert_eq!((reset.seconds, reset.commands_per_second, reset.p50_us), (2.0, 0.0, None));
        assert_eq!(minute.log(&sample(7, 10), Duration::from_secs(10)).append_us, None);
    }

    #[test]
    fn quantiles_count_only_the_span() {
        let histogram = Histogram::default();
        (0..1000).for_each(|_| histogram.record(Duration::from_millis(50)));
        let mut minute = Minute::default();
        minute.push(Sample { latency: histogram.snapshot(), ..sample(1, 0) });
        (0..100).for_each(|_| histogram.record(Duration::from_micros(100)));
        let now = Sample { latency: histogram.snapshot(), ..sample(2, 0) };
        let p99 = minute.door(&now, Duration::from_secs(10)).p99_us.expect("a hundred came");
        assert!((100.0..110.0).contains(&p99), "{p99}");
    }
}

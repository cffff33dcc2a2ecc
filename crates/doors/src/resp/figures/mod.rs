//! How long commands take, on this node: INFO's commandstats, errorstats and latencystats, LATENCY, SLOWLOG.
//!
//! A command is counted where it runs: by the session, if it was answered at once, or when its entry was applied. What is
//! measured is the running alone, as in Redis, neither the queue before it nor the disk. Nothing here is replicated state.
//!
//! Bounds: a row for each command that exists; [`ERRORS_MAX`] codes of errors; [`latency::SAMPLES`] samples of two events;
//! `slowlog-max-len` entries (at most [`slowlog::ENTRIES_MAX`]) of at most 32 words of 128 bytes.

mod latency;
mod slowlog;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use base::{Duration, glob_matches};
use parking_lot::Mutex;
use shard::command::{self, Flags, Spec};
use shard::reply::Reply;

use super::introspect;
use latency::Events;
use slowlog::Slowlog;
pub use slowlog::{ENTRIES_MAX, Entry};

/// Codes of errors that are told apart; what comes beyond is counted as one.
const ERRORS_MAX: usize = 128;
/// Where the codes beyond [`ERRORS_MAX`] are counted.
const OTHER_ERRORS: &str = "OTHER";
/// Powers of two of 1,024 nanoseconds, the last for all that took longer.
const BUCKETS: usize = 32;

/// A command's name, and its subcommand's (or nothing).
pub type Name = (&'static str, &'static str);

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer that is no error.
    Well,
    /// With an error, whose code this is, before it began.
    Rejected(Code),
    /// With an error while it ran.
    Failed(Code),
}

/// The first word of an error.
pub type Code = smallvec::SmallVec<[u8; 16]>;

/// One command that has run.
#[derive(Clone, Debug)]
pub struct Note {
    /// Which.
    pub name: Name,
    /// Whether it costs little whatever the data.
    pub is_fast: bool,
    /// How long it ran.
    pub took: Duration,
    /// How it ended.
    pub ended: Ended,
}

#[derive(Clone, Debug, Default)]
struct Row {
    calls: u64,
    nanos: u64,
    rejected: u64,
    failed: u64,
    buckets: [u64; BUCKETS],
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<Name, Row>,
    errors: BTreeMap<String, u64>,
    events: Events,
}

/// What a door has measured.
#[derive(Debug)]
pub struct Figures {
    table: Mutex<Table>,
    slowlog: Mutex<Slowlog>,
    /// `slowlog-log-slower-than`, microseconds; negative for never.
    slower_than: AtomicI64,
    /// `latency-monitor-threshold`, milliseconds; 0 for never.
    latency_threshold: AtomicU64,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            table: Mutex::default(),
            slowlog: Mutex::default(),
            slower_than: AtomicI64::new(10_000),
            latency_threshold: AtomicU64::new(0),
        }
    }
}

/// The name under which a data command is counted.
pub fn name_of(spec: &'static Spec, args: &[&[u8]]) -> Name {
    let sub = spec.flags.has(Flags::CONTAINER).then(|| command::subcommand(spec, args)).flatten();
    (spec.name, sub.map_or("", |(sub, _)| sub))
}

/// The name under which a command of the door is counted; `None` for what is no command.
pub fn name_of_door(args: &[&[u8]]) -> Option<(Name, bool)> {
    let spec = introspect::find_door(args[0])?;
    let is_fast = spec.flags.contains(&"fast");
    let sub = args.get(1).and_then(|word| spec.subcommand(word));
    Some(((spec.name, sub.map_or("", |sub| &sub.name[spec.name.len() + 1..])), is_fast))
}

/// How an answer that begins so ended; `rejected` where the command did not begin to run.
pub fn ended(answer: &[u8], rejected: bool) -> Ended {
    let Some(line) = answer.strip_prefix(b"-") else {
        return Ended::Well;
    };
    let code = line.iter().take(32).take_while(|byte| byte.is_ascii_graphic()).copied().collect();
    if rejected { Ended::Rejected(code) } else { Ended::Failed(code) }
}

fn shown((name, sub): Name) -> String {
    if sub.is_empty() { name.to_owned() } else { format!("{name}|{sub}") }
}

fn bucket(nanos: u64) -> usize {
    ((nanos >> 10).checked_ilog2().map_or(0, |power| power as usize + 1)).min(BUCKETS - 1)
}

impl Figures {
    /// Takes down commands that have run.
    pub fn take(&self, notes: &mut Vec<Note>, wall_micros: impl Fn() -> u64) {
        if notes.is_empty() {
            return;
        }
        let threshold = self.latency_threshold.load(Ordering::Relaxed);
        let mut table = self.table.lock();
        let Table { rows, errors, events } = &mut *table;
        for run in notes.chunk_by(|one, other| one.name == other.name) {
            // A pipeline of one command looks for its row once.
            let row = rows.entry(run[0].name).or_default();
            for note in run {
                let code = match &note.ended {
                    Ended::Rejected(code) => {
                        row.rejected += 1;
                        Some(code)
                    }
                    Ended::Well => None,
                    Ended::Failed(code) => {
                        row.failed += 1;
                        Some(code)
                    }
                };
                if let Some(code) = code {
                    count_error(errors, code);
                }
                if matches!(note.ended, Ended::Rejected(_)) {
                    continue;
                }
                let nanos = note.took.as_nanos() as u64;
                row.calls += 1;
                row.nanos += nanos;
                row.buckets[bucket(nanos)] += 1;
                if threshold != 0 && nanos >= threshold.saturating_mul(1_000_000) {
                    events.add(
                        if note.is_fast { "fast-command" } else { "command" },
                        wall_micros() / 1_000_000,
                        nanos / 1_000_000,
                    );
                }
            }
        }
        notes.clear();
    }

    /// An error that no command's row is for.
    pub fn count_error_line(&self, answer: &[u8]) {
        if let Ended::Failed(code) = ended(answer, false) {
            count_error(&mut self.table.lock().errors, &code);
        }
    }

    /// Whether a command that took so long belongs into the slow log.
    #[inline]
    pub fn is_slow(&self, took: Duration) -> bool {
        let bound = self.slower_than.load(Ordering::Relaxed);
        bound >= 0 && took.as_micros() as i64 >= bound
    }

    /// Takes down a slow command.
    pub fn add_slow(&self, args: &[&[u8]], took: Duration, seconds: u64, address: &str, name: &[u8]) {
        if let Some(entry) = Entry::new(args, took, seconds, address, name) {
            self.slowlog.lock().add(entry);
        }
    }

    /// `slowlog-log-slower-than`.
    pub fn set_slower_than(&self, micros: i64) {
        self.slower_than.store(micros, Ordering::Relaxed);
    }

    /// `slowlog-max-len`.
    pub fn set_slowlog_len(&self, count: usize) {
        self.slowlog.lock().set_max(count);
    }

    /// `latency-monitor-threshold`.
    pub fn set_latency_threshold(&self, millis: u64) {
        self.latency_threshold.store(millis, Ordering::Relaxed);
    }

    /// CONFIG RESETSTAT.
    pub fn reset(&self) {
        let mut table = self.table.lock();
        table.rows.clear();
        table.errors.clear();
    }

    /// SLOWLOG.
    pub fn slowlog(&self, name: &str, args: &[&[u8]], reply: &mut Reply) -> Result<(), shard::error::CommandError> {
        self.slowlog.lock().command(name, args, reply)
    }

    /// LATENCY.
    pub fn latency(&self, name: &str, args: &[&[u8]], reply: &mut Reply) -> Result<(), shard::error::CommandError> {
        if name == "latency|histogram" {
            self.histogram(&args[2..], reply);
            return Ok(());
        }
        let threshold = self.latency_threshold.load(Ordering::Relaxed);
        self.table.lock().events.command(name, args, threshold, reply)
    }

    fn histogram(&self, wanted: &[&[u8]], reply: &mut Reply) {
        let table = self.table.lock();
        let is_wanted = |name: Name| {
            let full = shown(name);
            let is = |word: &[u8]| {
                full.as_bytes().eq_ignore_ascii_case(word) || name.0.as_bytes().eq_ignore_ascii_case(word)
            };
            wanted.is_empty() || wanted.iter().any(|word| is(word))
        };
        let rows: Vec<_> = table.rows.iter().filter(|(name, row)| row.calls > 0 && is_wanted(**name)).collect();
        reply.map(rows.len());
        for (name, row) in rows {
            reply.bulk(shown(*name).as_bytes());
            reply.map(2);
            reply.bulk(b"calls");
            reply.int(row.calls as i64);
            reply.bulk(b"histogram_usec");
            let filled: Vec<_> = row.buckets.iter().enumerate().filter(|(_, count)| **count > 0).collect();
            reply.map(filled.len());
            let mut sum = 0;
            for (at, count) in filled {
                sum += count;
                reply.int(((1024u64 << at) / 1000) as i64);
                reply.int(sum as i64);
            }
        }
    }

    /// INFO's section `commandstats`.
    pub fn command_lines(&self) -> String {
        let mut text = String::from("# Commandstats\r\n");
        for (name, row) in &self.table.lock().rows {
            let micros = row.nanos / 1000;
            let each = if row.calls == 0 { 0.0 } else { row.nanos as f64 / 1000.0 / row.calls as f64 };
            let _ = write!(
                text,
                "cmdstat_{}:calls={},usec={micros},usec_per_call={each:.2},rejected_calls={},failed_calls={}\r\n",
                shown(*name),
                row.calls,
                row.rejected,
                row.failed
            );
        }
        text
    }

    /// INFO's section `errorstats`.
    pub fn error_lines(&self) -> String {
        let mut text = String::from("# Errorstats\r\n");
        for (code, count) in &self.table.lock().errors {
            let _ = write!(text, "errorstat_{code}:count={count}\r\n");
        }
        text
    }

    /// INFO's section `latencystats`: from the histogram, so each figure is the upper end of its bucket.
    pub fn latency_lines(&self) -> String {
        let mut text = String::from("# Latencystats\r\n");
        for (name, row) in self.table.lock().rows.iter().filter(|(_, row)| row.calls > 0) {
            let at = |share: f64| {
                let wanted = (row.calls as f64 * share).ceil() as u64;
                let mut sum = 0;
                let place = row.buckets.iter().position(|count| {
                    sum += count;
                    sum >= wanted
                });
                (1024u64 << place.unwrap_or(BUCKETS - 1)) as f64 / 1000.0
            };
            let _ = write!(
                text,
                "latency_percentiles_usec_{}:p50={:.3},p99={:.3},p99.9={:.3}\r\n",
                shown(*name),
                at(0.5),
                at(0.99),
                at(0.999)
            );
        }
        text
    }

    /// Errors that were counted, in all.
    pub fn errors(&self) -> u64 {
        self.table.lock().errors.values().sum()
    }
}

fn count_error(errors: &mut BTreeMap<String, u64>, code: &[u8]) {
    let code = String::from_utf8_lossy(code);
    if let Some(count) = errors.get_mut(&*code) {
        *count += 1;
        return;
    }
    let code = if errors.len() >= ERRORS_MAX || glob_matches(b"*[^A-Za-z0-9_]*", code.as_bytes()) {
        OTHER_ERRORS.to_owned()
    } else {
        code.into_owned()
    };
    *errors.entry(code).or_default() += 1;
}

#[cfg(test)]
mod tests {
    use base::Duration;
    use shard::reply::{Protocol, Reply};

    use super::{ERRORS_MAX, Ended, Figures, Note, bucket, ended};

    fn note(name: &'static str, micros: u64, ended: Ended) -> Note {
        Note { name: (name, ""), is_fast: true, took: Duration::from_micros(micros), ended }
    }

    #[test]
    fn what_ran_is_counted_with_how_it_ended() {
        let figures = Figures::default();
        let failed = ended(b"-WRONGTYPE Operation\r\n", false);
        let mut notes = vec![
            note("get", 3, Ended::Well),
            note("get", 5, failed),
            note("get", 9, ended(b"-ERR wrong number\r\n", true)),
            note("set", 1, ended(b"$1\r\n-\r\n", false)),
        ];
        figures.take(&mut notes, || 0);
        assert!(notes.is_empty());
        let text = figures.command_lines();
        assert!(
            text.contains("cmdstat_get:calls=2,usec=8,usec_per_call=4.00,rejected_calls=1,failed_calls=1\r\n"),
            "{text}"
        );
        assert!(figures.error_lines().contains("errorstat_ERR:count=1\r\nerrorstat_WRONGTYPE:count=1\r\n"));
        let mut reply = Reply::new(Protocol::Resp2);
        figures.latency("latency|histogram", &[b"latency", b"histogram", b"GET", b"nosuch"], &mut reply).unwrap();
        let text = String::from_utf8(reply.bytes).unwrap().replace("\r\n", " ");
        assert_eq!(text, "*2 $3 get *4 $5 calls :2 $14 histogram_usec *4 :4 :1 :8 :2 ");
        figures.reset();
        assert_eq!(figures.command_lines(), "# Commandstats\r\n");
    }

    #[test]
    fn codes_of_errors_are_bounded() {
        let figures = Figures::default();
        for at in 0..ERRORS_MAX + 50 {
            figures.take(&mut vec![note("eval", 1, ended(format!("-CODE{at} x\r\n").as_bytes(), false))], || 0);
        }
        figures.take(&mut vec![note("eval", 1, ended(b"-a:b=c x\r\n", false))], || 0);
        assert_eq!(figures.error_lines().lines().count(), ERRORS_MAX + 2);
        assert!(figures.error_lines().contains("errorstat_OTHER:count=51"));
        assert_eq!(figures.errors(), ERRORS_MAX as u64 + 51);
    }

    #[test]
    fn buckets_are_powers_of_two() {
        for (nanos, place) in [(0, 0), (1023, 0), (1024, 1), (2047, 1), (2048, 2), (u64::MAX, super::BUCKETS - 1)] {
            assert_eq!(bucket(nanos), place, "{nanos}");
        }
    }
}

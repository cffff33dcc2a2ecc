//! LATENCY: samples of what took longer than `latency-monitor-threshold` (<https://redis.io/docs/latest/operate/oss_and_stack/management/optimization/latency-monitor/>).

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;

use shard::error::CommandError;
use shard::reply::Reply;

use crate::resp::text;

/// Samples that are kept of an event, one a second.
pub const SAMPLES: usize = 160;

const HELP: &[&str] = &[
    "DOCTOR",
    "    Return a human readable latency analysis report.",
    "GRAPH <event>",
    "    Return an ASCII latency graph for the <event> class.",
    "HISTORY <event>",
    "    Return time-latency samples for the <event> class.",
    "LATEST",
    "    Return the latest latency samples for all events.",
    "RESET [<event> ...]",
    "    Reset latency data of one or more <event> classes.",
    "    (default: reset all data for all event classes)",
    "HISTOGRAM [COMMAND ...]",
    "    Return a cumulative distribution of commands' durations in the format of a histogram.",
];

#[derive(Debug, Default)]
struct Event {
    /// When (seconds since 1970), and how many milliseconds; the latest last.
    samples: VecDeque<(u64, u64)>,
    max: u64,
}

/// Samples by event.
#[derive(Debug, Default)]
pub struct Events(BTreeMap<&'static str, Event>);

impl Events {
    pub(super) fn add(&mut self, name: &'static str, seconds: u64, millis: u64) {
        let event = self.0.entry(name).or_default();
        event.max = event.max.max(millis);
        match event.samples.back_mut() {
            Some((at, most)) if *at == seconds => *most = (*most).max(millis),
            _ => event.samples.push_back((seconds, millis)),
        }
        if event.samples.len() > SAMPLES {
            event.samples.pop_front();
        }
    }

    fn find(&self, word: &[u8]) -> Option<&Event> {
        self.0.iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word)).map(|(_, event)| event)
    }

    pub(super) fn command(
        &mut self,
        name: &str,
        args: &[&[u8]],
        threshold: u64,
        reply: &mut Reply,
    ) -> Result<(), CommandError> {
        match name {
            "latency|latest" => {
                reply.array(self.0.len());
                for (name, event) in &self.0 {
                    let (seconds, millis) = event.samples.back().copied().unwrap_or_default();
                    reply.array(4);
                    reply.bulk(name.as_bytes());
                    reply.int(seconds as i64);
                    reply.int(millis as i64);
                    reply.int(event.max as i64);
                }
            }
            "latency|history" => {
                let samples = self.find(args[2]).map(|event| &event.samples);
                reply.array(samples.map_or(0, VecDeque::len));
                for (seconds, millis) in samples.into_iter().flatten() {
                    reply.array(2);
                    reply.int(*seconds as i64);
                    reply.int(*millis as i64);
                }
            }
            "latency|graph" => {
                let Some(event) = self.find(args[2]) else {
                    let shown = String::from_utf8_lossy(args[2]);
                    return Err(format!("ERR No samples available for event '{shown}'").into());
                };
                reply.verbatim("txt", graph(args[2], event).as_bytes());
            }
            "latency|reset" => {
                let before = self.0.len();
                let is_named = |name: &str| args[2..].iter().any(|word| name.as_bytes().eq_ignore_ascii_case(word));
                self.0.retain(|name, _| args.len() > 2 && !is_named(name));
                reply.int((before - self.0.len()) as i64);
            }
            "latency|doctor" => reply.verbatim("txt", self.doctor(threshold).as_bytes()),
            "latency|help" => text::help("LATENCY", HELP, reply),
            _ => return Err(text::subcommand_syntax(args)),
        }
        Ok(())
    }

    fn doctor(&self, threshold: u64) -> String {
        if threshold == 0 {
            return "I'm sorry, Dave, I can't do that. Latency monitoring is disabled in this Redis instance. You may use \"CONFIG SET latency-monitor-threshold <milliseconds>.\" in order to enable it.\n".into();
        }
        if self.0.is_empty() {
            return "Dave, no latency spike was observed during the lifetime of this Redis instance, not in the slightest bit. I honestly think you ought to sit down calmly, take a stress pill, and think things over.\n".into();
        }
        let mut text = String::from("Dave, I have observed latency spikes in this Redis instance.\n\n");
        for (at, (name, event)) in self.0.iter().enumerate() {
            let count = event.samples.len().max(1) as u64;
            let mean = event.samples.iter().map(|(_, millis)| millis).sum::<u64>() / count;
            let _ = writeln!(
                text,
                "{}. {name}: {count} latency spikes (average {mean}ms, worst all time event {}ms).",
                at + 1,
                event.max
            );
        }
        text.push_str("\n- SLOWLOG GET shows the commands; large values and long scripts are what takes long here.\n");
        text
    }
}

/// A column for each sample, its height by how long it took.
fn graph(name: &[u8], event: &Event) -> String {
    const COLUMNS: usize = 80;
    const ROWS: u64 = 4;
    let samples: Vec<u64> = event.samples.iter().rev().take(COLUMNS).rev().map(|(_, millis)| *millis).collect();
    let (low, high) = (samples.iter().min().copied().unwrap_or(0), samples.iter().max().copied().unwrap_or(0));
    let mut text = format!(
        "{} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n",
        String::from_utf8_lossy(name),
        event.max,
        "-".repeat(COLUMNS)
    );
    for row in (0..ROWS).rev() {
        for millis in &samples {
            let height = (millis - low) * ROWS / (high - low).max(1);
            text.push(if height > row || row == 0 { '#' } else { ' ' });
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard::reply::Protocol;

    fn say(events: &mut Events, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut reply = Reply::new(Protocol::Resp2);
        let name = format!("latency|{}", line.split(' ').nth(1).unwrap_or_default());
        match events.command(&name, &args, 1, &mut reply) {
            Ok(()) => String::from_utf8_lossy(&reply.bytes).replace("\r\n", " "),
            Err(error) => error.0.into_owned(),
        }
    }

    #[test]
    fn samples_are_one_a_second_and_bounded() {
        let mut events = Events::default();
        events.add("command", 1, 300);
        events.add("command", 1, 200);
        events.add("command", 2, 400);
        assert_eq!(say(&mut events, "latency history COMMAND"), "*2 *2 :1 :300 *2 :2 :400 ");
        assert_eq!(say(&mut events, "latency latest"), "*1 *4 $7 command :2 :400 :400 ");
        assert_eq!(say(&mut events, "latency graph x"), "ERR No samples available for event 'x'");
        assert!(say(&mut events, "latency graph command").contains("high 400 ms, low 300 ms"));
        assert!(say(&mut events, "latency doctor").contains("command: 2 latency spikes"));
        for at in 0..500 {
            events.add("command", at, 1);
        }
        assert_eq!(events.find(b"command").map(|event| event.samples.len()), Some(SAMPLES));
        assert_eq!(say(&mut events, "latency reset nosuch"), ":0 ");
        assert_eq!(say(&mut events, "latency reset"), ":1 ");
        assert_eq!(say(&mut events, "latency history command"), "*0 ");
    }
}

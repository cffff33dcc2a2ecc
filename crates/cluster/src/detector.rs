//! Which nodes are there: by how long each has been silent, held against how silent it usually is.
//!
//! The φ accrual failure detector (Hayashibara, Défago, Yared, Katayama, SRDS 2004): from the gaps between what is heard of a node follows how
//! likely a silence is in which it is well all the same; φ is that likelihood's negative power of ten. A node on a jittery line is given more
//! time than one on a quiet line, within two bounds. Two things beside it, both Lifeguard's (Dadgar, Phillips, Currey, DSN-W 2018): who was late
//! itself judges nobody, and a node that another one hears is there (an indirect probe).

use std::collections::{BTreeMap, BTreeSet};

use base::{Duration, Instant, NodeId};

/// How unlikely a silence must be: one in 10^φ.
pub const PHI: f64 = 8.0;
/// A shorter silence is never a failure: a restart takes that long.
pub const SILENT_MIN: Duration = Duration::from_secs(6);
/// A longer one always is.
pub const SILENT_MAX: Duration = Duration::from_secs(15);
/// Between two looks there should be less than this; more, and this node was not running itself.
const LATE: Duration = Duration::from_secs(1);
/// A new gap counts for so much of what is known: some two minutes of pings.
const WEIGHT: f64 = 1.0 / 256.0;
/// Gaps spread at least so much, in seconds: a quiet line is no promise.
const SPREAD_MIN: f64 = 0.1;

/// What is known of one node.
#[derive(Clone, Copy, Debug)]
struct Heard {
    last: Instant,
    /// Mean of the gaps, in seconds, and of their squared distance from it.
    mean: f64,
    variance: f64,
    is_failed: bool,
}

impl Heard {
    fn hear(&mut self, at: Instant) {
        let gap = at.since(self.last).as_secs_f64();
        self.last = at;
        // What was a failure says nothing of how it is while it is well.
        if !self.is_failed {
            let off = gap - self.mean;
            self.mean += WEIGHT * off;
            self.variance += WEIGHT * (off * off - self.variance);
        }
    }

    /// How unlikely this silence is; the normal distribution's tail by its logistic approximation.
    fn phi(&self, silent: Duration) -> f64 {
        let spread = self.variance.sqrt().max(SPREAD_MIN).max(self.mean / 4.0);
        let off = (silent.as_secs_f64() - self.mean) / spread;
        let exponent = off * (1.5976 + 0.070_566 * off * off);
        // Of e^-x / (1 + e^-x), without what a double cannot hold.
        if exponent > 30.0 {
            exponent / std::f64::consts::LN_10
        } else {
            exponent.exp().ln_1p() / std::f64::consts::LN_10
        }
    }
}

/// The nodes, as one of them hears the others.
#[derive(Debug, Default)]
pub struct Detector {
    nodes: BTreeMap<NodeId, Heard>,
    looked: Option<Instant>,
    /// Until then nobody is judged.
    grace: Instant,
}

impl Detector {
    /// Takes in when each node was last heard (never: as if that were now), and judges. `vouched` are those that another node hears.
    pub fn look(
        &mut self,
        now: Instant,
        heard: impl IntoIterator<Item = (NodeId, Option<Instant>)>,
        vouched: &BTreeSet<NodeId>,
    ) {
        if self.looked.is_none_or(|looked| now.since(looked) > LATE) {
            self.grace = now + SILENT_MIN;
        }
        self.looked = Some(now);
        let mut there = BTreeSet::new();
        for (node, at) in heard {
            there.insert(node);
            let begin = Heard { last: at.unwrap_or(now), mean: 0.5, variance: 0.0, is_failed: false };
            let known = self.nodes.entry(node).or_insert(begin);
            if let Some(at) = at
                && at > known.last
            {
                known.hear(at);
            }
            let silent = now.since(known.last);
            let is_too_long = silent >= SILENT_MIN && known.phi(silent) >= PHI || silent >= SILENT_MAX;
            known.is_failed = is_too_long && !vouched.contains(&node) && (known.is_failed || now >= self.grace);
        }
        self.nodes.retain(|node, _| there.contains(node));
    }

    /// Whether a node has failed, as far as is known.
    pub fn is_failed(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|known| known.is_failed)
    }
}

#[cfg(test)]
mod tests {
    use base::Rng;

    use super::*;

    const PING: f64 = 0.5;
    const LOOK: f64 = 0.1;

    fn at(seconds: f64) -> Instant {
        Instant((seconds * 1e9) as u64)
    }

    /// When what was sent at each ping arrives, in order.
    struct Line {
        rng: Rng,
        /// One in so many pings waits for a stalled process: for so long on average, exponentially.
        stall: (f64, f64),
        /// One in so many segments is lost; TCP sends it again after 200 ms, then twice that, and so on.
        loss: f64,
        sent: f64,
        arrived: f64,
    }

    impl Line {
        fn next(&mut self) -> f64 {
            self.sent += PING;
            let mut delay = 0.001 * -(1.0 - self.rng.unit()).ln();
            if self.rng.unit() < self.stall.0 {
                delay += self.stall.1 * -(1.0 - self.rng.unit()).ln();
            }
            let mut again = 0.2;
            while self.rng.unit() < self.loss {
                delay += again;
                again *= 2.0;
            }
            self.arrived = self.arrived.max(self.sent + delay);
            self.arrived
        }
    }

    /// Verdicts against a node that was well all the time, in so many hours; and how long its end then took to be seen.
    fn play(line: &mut Line, hours: f64) -> (u32, f64) {
        let mut detector = Detector::default();
        let (mut wrong, mut was_failed) = (0, false);
        let (mut last, mut next) = (0.0, line.next());
        let mut now = 0.0;
        let node = NodeId(2);
        let nobody = BTreeSet::new();
        let end = hours * 3600.0;
        loop {
            now += LOOK;
            while next <= now && now < end {
                last = next;
                next = line.next();
            }
            detector.look(at(now), [(node, Some(at(last)))], &nobody);
            let is_failed = detector.is_failed(node);
            if now >= end {
                if is_failed {
                    return (wrong, now - end);
                }
            } else {
                wrong += u32::from(is_failed && !was_failed);
            }
            was_failed = is_failed;
        }
    }

    /// The table of docs/registry.md; `--nocapture` prints it.
    #[test]
    fn false_verdicts_are_few_and_a_failure_is_seen() {
        // Name, stalls, loss, false verdicts that 500 hours of one node may bring.
        let lines = [
            ("quiet", (0.0, 0.0), 0.0, 0),
            ("busy: each 50th ping stalls 0.5 s on average", (0.02, 0.5), 0.0, 0),
            ("overloaded: each 20th ping stalls 1 s on average", (0.05, 1.0), 0.0, 900),
            ("5 % of segments lost", (0.0, 0.0), 0.05, 30),
        ];
        for (name, stall, loss, most) in lines {
            let (mut wrong, mut seen) = (0, 0.0_f64);
            for seed in 0..5 {
                let mut line = Line { rng: Rng::new(seed), stall, loss, sent: 0.0, arrived: 0.0 };
                let (one, took) = play(&mut line, 100.0);
                wrong += one;
                seen = seen.max(took);
            }
            println!("{name}: {wrong} false verdicts in 500 h, a failure is seen within {seen:.1} s");
            assert!(wrong <= most, "{name}: {wrong} false verdicts");
            assert!(seen <= SILENT_MAX.as_secs_f64() + 1.0, "{name}: seen after {seen} s");
        }
    }

    #[test]
    fn who_was_late_judges_nobody_and_a_word_for_a_node_counts() {
        let (node, nobody) = (NodeId(2), BTreeSet::new());
        let mut detector = Detector::default();
        let mut look = |now: f64, heard: f64, vouched: &BTreeSet<NodeId>| {
            detector.look(at(now), [(node, Some(at(heard)))], vouched);
            detector.is_failed(node)
        };
        for step in 0..1000 {
            let now = f64::from(step) * 0.1;
            assert!(!look(now, (now * 2.0).floor() / 2.0, &nobody));
        }
        // This node stood still for 20 seconds, and hears at once that nothing was said for so long.
        assert!(!look(120.0, 99.5, &nobody));
        assert!(!look(120.1, 120.1, &nobody));
        let mut first = None;
        for step in 0..200 {
            let now = 120.2 + f64::from(step) * 0.1;
            if look(now, 120.1, &nobody) {
                first.get_or_insert(now);
            }
        }
        let first = first.expect("it has failed");
        assert!((126.0..136.0).contains(&first), "seen at {first}");
        assert!(!look(140.2, 120.1, &BTreeSet::from([node])), "another one hears it");
        assert!(look(140.3, 120.1, &nobody));
        assert!(!look(140.4, 140.4, &nobody), "it is back");
    }
}

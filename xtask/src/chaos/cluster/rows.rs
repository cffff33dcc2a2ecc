//! The rows of the fault matrix, by their numbers there (31 and above: our own), and which faults each draws.

use super::faults::{Course, FLOOD, Fault, LOG_LOST, LOST, TWICE, image_possible};
use crate::net::switch::Line;
use std::time::Duration;

/// One row.
pub struct Row {
    /// As in the matrix.
    pub number: u32,
    /// The fault.
    pub about: &'static str,
    /// Faults to begin together; empty: none is possible at the moment.
    pub draw: fn(&mut Course) -> Vec<Fault>,
    /// How long they hold, in milliseconds: at least, at most.
    pub hold: (u64, u64),
    /// Frames must be harmed.
    pub network: bool,
    /// Kinds of faults that must have struck.
    pub musts: &'static [&'static str],
    /// Who is refused and asks once more, at another node, is not refused again.
    pub once: bool,
    /// Why it cannot run here, told whether clocks can be shifted.
    pub skip: Option<fn(bool) -> Option<String>>,
}

const fn row(number: u32, about: &'static str, draw: fn(&mut Course) -> Vec<Fault>, hold: (u64, u64)) -> Row {
    Row { number, about, draw, hold, network: false, musts: &[], once: false, skip: None }
}

const fn net(number: u32, about: &'static str, draw: fn(&mut Course) -> Vec<Fault>, hold: (u64, u64)) -> Row {
    Row { network: true, ..row(number, about, draw, hold) }
}

fn needs_image(_: bool) -> Option<String> {
    image_possible()
}

fn needs_clock(clock: bool) -> Option<String> {
    (!clock).then(|| "clocks cannot be shifted without a C compiler".into())
}

/// In their order.
pub const ROWS: &[Row] = &[
    row(1, "kill -9: one, the leader, a majority, all", kills, (100, 2000)),
    row(2, "SIGSTOP of the leader", pauses, (500, 6000)),
    Row { skip: Some(needs_image), ..row(3, "power cut of one, of all", power, (100, 1500)) },
    row(4, "fsync fails once", sync_fails, (500, 2500)),
    Row { musts: &[LOG_LOST], ..row(6, "damaged files of a minority, a shard's whole log", corrupt, (100, 500)) },
    Row { skip: Some(needs_image), ..row(8, "disk full: one, all", full, (500, 3000)) },
    row(9, "slow disk, stalls of 2 s", slow_disk, (1500, 5000)),
    net(10, "partition, the leader in the minority", partition, (1500, 6000)),
    net(11, "one-way cuts, a bridge between two", one_way, (1500, 6000)),
    net(12, "flapping lines, swizzled cuts", flapping, (2000, 6000)),
    net(13, "loss, delay, jitter, reorder, duplicates, 1 Mbit/s", bad_lines, (2000, 6000)),
    Row { skip: Some(needs_clock), ..row(15, "wall clocks jump and drift", clocks, (1000, 4000)) },
    Row { once: true, ..row(16, "rolling restart", restart, (100, 300)) },
    Row {
        musts: &[TWICE],
        ..row(18, "members added, removed dead or alive, replaced, two at once", members, (500, 2000))
    },
    row(19, "replicas, leads and slots moved, shards split, kills", shards, (500, 2000)),
    Row {
        musts: &[FLOOD],
        ..row(22, "a flood at the gateway; a tenth of a CPU for the leader", starve_or_flood, (1500, 5000))
    },
    Row { musts: &[LOST], ..row(31, "a node dies for good, a spare one takes its place", lost, (100, 500)) },
    row(30, "two or three at once", several, (1000, 5000)),
];

fn kills(course: &mut Course) -> Vec<Fault> {
    let victim = course.victim();
    let all = course.running();
    let other = course.other(victim);
    match course.rng.below(10) {
        0 | 1 => vec![Fault::Kill(all)],
        2 | 3 => vec![Fault::Kill(vec![victim, other])],
        _ => vec![Fault::Kill(vec![victim])],
    }
}

fn pauses(course: &mut Course) -> Vec<Fault> {
    vec![Fault::Pause(course.victim())]
}

fn power(course: &mut Course) -> Vec<Fault> {
    let all = course.running();
    vec![Fault::PowerCut(if course.rng.percent(50) { all } else { vec![course.victim()] })]
}

fn sync_fails(course: &mut Course) -> Vec<Fault> {
    vec![Fault::SyncFails(course.victim())]
}

fn corrupt(course: &mut Course) -> Vec<Fault> {
    let at = course.victim();
    vec![if course.injected == 0 || course.rng.percent(20) { Fault::LogLost(at) } else { Fault::Corrupt(at) }]
}

fn full(course: &mut Course) -> Vec<Fault> {
    let all = course.running();
    vec![Fault::Full(if course.rng.percent(40) { all } else { vec![course.victim()] })]
}

fn slow_disk(course: &mut Course) -> Vec<Fault> {
    let millis = if course.rng.percent(30) { 2000 } else { 10 + course.rng.below(150) as u64 };
    vec![Fault::SlowDisk(course.victim(), Duration::from_millis(millis))]
}

/// Lines between one node and the others, in both directions or in one.
fn around(course: &mut Course, victim: usize, out: bool, inward: bool, line: &Line) -> Vec<Fault> {
    let others: Vec<usize> = (0..course.nodes.nodes.len()).filter(|at| *at != victim).collect();
    let mut lines = Vec::new();
    for other in others {
        if out {
            lines.push((victim, other, line.clone()));
        }
        if inward {
            lines.push((other, victim, line.clone()));
        }
    }
    vec![Fault::Lines(lines)]
}

fn partition(course: &mut Course) -> Vec<Fault> {
    let victim = course.victim();
    around(course, victim, true, true, &Line::cut())
}

fn one_way(course: &mut Course) -> Vec<Fault> {
    let victim = course.victim();
    match course.rng.below(4) {
        0 => around(course, victim, true, false, &Line::cut()),
        1 => around(course, victim, false, true, &Line::cut()),
        2 => {
            let other = course.other(victim);
            vec![Fault::Lines(vec![(victim, other, Line::cut())])]
        }
        // The third is a bridge between two that do not reach each other.
        _ => {
            let other = course.other(victim);
            vec![Fault::Lines(vec![(victim, other, Line::cut()), (other, victim, Line::cut())])]
        }
    }
}

fn flapping(course: &mut Course) -> Vec<Fault> {
    let count = course.nodes.nodes.len();
    if course.rng.percent(50) {
        let half = Duration::from_millis(200 + course.rng.below(1500) as u64);
        let line = Line { flap: Some(half), ..Line::default() };
        let victim = course.victim();
        return around(course, victim, true, true, &line);
    }
    let mut lines = Vec::new();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            lines.push((from, to));
        }
    }
    vec![Fault::Swizzle(lines)]
}

fn bad_lines(course: &mut Course) -> Vec<Fault> {
    let rng = &mut course.rng;
    let millis = |most: usize, rng: &mut crate::rng::Rng| Duration::from_millis(1 + rng.below(most) as u64);
    let mut line = Line::default();
    match rng.below(5) {
        0 => line.loss = 0.01 + rng.below(30) as f64 / 100.0,
        1 => (line.delay, line.jitter) = (millis(150, rng), millis(50, rng)),
        2 => (line.reorder, line.duplicate, line.delay) = (0.2, 0.1, millis(10, rng)),
        3 => line.bytes_per_second = Some(125_000),
        _ => (line.loss, line.delay, line.jitter) = (0.03, millis(30, rng), millis(30, rng)),
    }
    let count = course.nodes.nodes.len();
    let mut lines = Vec::new();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            lines.push((from, to, line.clone()));
        }
    }
    vec![Fault::Lines(lines)]
}

fn clocks(course: &mut Course) -> Vec<Fault> {
    let hour = 3_600_000_000_000_i64;
    let shift = *course.rng.pick(&[hour, -hour, 48 * hour, -48 * hour, 500_000_000, -500_000_000]);
    let drift = *course.rng.pick(&[0, 0, 5, -5]);
    vec![Fault::Clock { at: course.victim(), shift, drift_percent: drift }]
}

fn restart(course: &mut Course) -> Vec<Fault> {
    let all = course.running();
    vec![Fault::Restart(all[course.injected as usize % all.len()])]
}

fn members(course: &mut Course) -> Vec<Fault> {
    if course.injected == 0 || course.rng.percent(30) {
        return vec![Fault::Twice];
    }
    let at = course.victim();
    match (course.running().len(), course.rng.below(4)) {
        (..=3, 0) => vec![Fault::Wipe(at)],
        (..=3, _) => vec![Fault::Join],
        (4, 0) => vec![Fault::Join],
        (_, 1) => vec![Fault::Leave { at, dead: true }],
        (_, 2) => vec![Fault::Wipe(at)],
        _ => vec![Fault::Leave { at, dead: false }],
    }
}

fn shards(course: &mut Course) -> Vec<Fault> {
    if course.rng.percent(60) {
        let victim = course.victim();
        return vec![Fault::Slots { kill: course.rng.percent(60).then_some(victim) }];
    }
    // Three nodes have all shards; there must be one to move to.
    if course.running().len() < 4 { vec![Fault::Join] } else { vec![Fault::Move] }
}

fn starve(course: &mut Course) -> Vec<Fault> {
    vec![Fault::Starve(course.victim())]
}

fn starve_or_flood(course: &mut Course) -> Vec<Fault> {
    if course.injected > 0 && course.rng.percent(70) {
        return starve(course);
    }
    vec![Fault::Flood(course.victim())]
}

fn lost(course: &mut Course) -> Vec<Fault> {
    vec![Fault::Lost(course.victim())]
}

fn several(course: &mut Course) -> Vec<Fault> {
    let mut draws: Vec<fn(&mut Course) -> Vec<Fault>> =
        vec![kills, pauses, slow_disk, partition, one_way, flapping, bad_lines, starve, sync_fails];
    if image_possible().is_none() {
        draws.push(power);
        draws.push(full);
    }
    let mut all = Vec::new();
    for _ in 0..2 + course.rng.below(2) {
        let at = course.rng.below(draws.len());
        let draw = draws.swap_remove(at);
        all.extend(draw(course));
    }
    all
}

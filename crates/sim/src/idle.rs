//! What groups cost that nobody asks for anything: three drivers with a thousand groups each, in virtual time. The figures are those of
//! steps and messages; the seconds of a core are for whoever runs it to measure.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{GroupId, Instant, Limits, NodeId, Rng};
use consensus::{Envelope, GroupConfig, Membership, Position};
use shard::driver::{Driver, DriverConfig, Input, Output};
use shard::recover::Recovery;
use shard::state::{Sink, State};
use store::keyspace::Keyspaces;

/// Three nodes are what groups usually have.
const NODES: u64 = 3;
const MILLI: u64 = 1_000_000;
/// How long a message takes.
const DELAY: u64 = MILLI / 10;
/// Until then every group has a leader.
const WARM: u64 = 4_000 * MILLI;

/// Nobody is answered.
struct Nobody;

impl Sink<u64> for Nobody {
    fn reply(&mut self, _: &u64, _: &[u8]) {}
    fn parked(&mut self, _: &u64, _: u64) {}
    fn served(&mut self, _: u64, _: &[u8]) {}
    fn now(&self, step: Instant) -> Instant {
        step
    }
    fn lost(&mut self, _: &u64) {}
    fn publish(&mut self, _: &[u8], _: &[u8]) {}
    fn receivers(&self, _: &[u8]) -> i64 {
        0
    }
}

/// What happened after all groups had a leader.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    /// Groups that have a leader at the end.
    pub led: usize,
    /// Steps of all drivers.
    pub steps: u64,
    /// Messages between them, and their bytes.
    pub messages: u64,
    /// See `messages`.
    pub bytes: u64,
    /// Appends to logs.
    pub appends: u64,
}

/// Runs three nodes with so many idle groups for so many virtual seconds. `warm` is called when every group has a leader.
pub fn run(groups: u32, seconds: u64, mut warm: impl FnMut()) -> Figures {
    let mut rng = Rng::new(7);
    let members = Membership::new((1..=NODES).map(NodeId), []);
    let mut drivers: Vec<Driver<u64>> =
        (1..=NODES).map(|node| driver(NodeId(node), groups, &members, &mut rng)).collect();
    let mut mail: BTreeMap<(u64, u64), (usize, Envelope)> = BTreeMap::new();
    let (mut now, mut number, mut figures, mut is_warm) = (MILLI, 0u64, Figures::default(), false);
    let end = WARM + seconds * 1_000 * MILLI;
    let mut woken = vec![now; drivers.len()];
    while now < end {
        if now >= WARM && !is_warm {
            is_warm = true;
            figures = Figures::default();
            warm();
        }
        let mut inputs: Vec<(usize, Input)> = Vec::new();
        while let Some(entry) = mail.first_entry().filter(|entry| entry.key().0 <= now) {
            let (to, envelope) = entry.remove();
            inputs.push((to, Input::Message(envelope.group(), envelope)));
        }
        inputs.extend((0..drivers.len()).filter(|at| woken[*at] <= now).map(|at| (at, Input::Wake)));
        let touched: Vec<usize> = inputs.iter().map(|(at, _)| *at).collect();
        for (at, mut input) in inputs {
            loop {
                let mut out = Vec::new();
                figures.steps += 1;
                drivers[at].step(Instant(now), now / MILLI, input, &mut Nobody, &mut out);
                let mut appends = false;
                for output in out {
                    match output {
                        Output::Send(_, envelope) => {
                            let bytes = envelope.encode();
                            figures.messages += 1;
                            figures.bytes += bytes.len() as u64;
                            let to = envelope.to().0 as usize - 1;
                            let envelope = Envelope::decode(bytes).expect("what was encoded can be decoded");
                            number += 1;
                            mail.insert((now + DELAY, number), (to, envelope));
                        }
                        Output::Append(_) => appends = true,
                        _ => {}
                    }
                }
                if !appends {
                    break;
                }
                figures.appends += 1;
                input = Input::Appended;
            }
        }
        for at in touched {
            woken[at] = drivers[at].deadline().map_or(u64::MAX, |deadline| deadline.0.max(now + 1));
        }
        let next = mail.keys().next().map_or(u64::MAX, |(at, _)| *at);
        now = next.min(woken.iter().copied().min().unwrap_or(u64::MAX)).max(now);
    }
    figures.led = drivers.iter().map(Driver::leading).sum();
    figures
}

fn driver(node: NodeId, groups: u32, members: &Membership, rng: &mut Rng) -> Driver<u64> {
    let mut driver = Driver::new(DriverConfig {
        node,
        snapshot_log_bytes: u64::MAX,
        snapshot_chunk_bytes: shard::driver::WALK_BYTES,
        limits: Limits::DEFAULT,
        planted: shard::driver::Planted::default(),
    });
    for group in (0..groups).map(GroupId) {
        let state = State::new(group, &Limits::DEFAULT, Arc::new(Keyspaces::default()), rng.next_u64());
        let recovery = Recovery::new(group, state, Position::default(), members.clone(), false);
        let recovered = recovery.finish().expect("nothing was stored yet");
        let config = GroupConfig::new(group, node, members.clone(), rng.next_u64());
        driver.add(config, recovered).expect("an empty group can start");
    }
    driver
}

#[cfg(test)]
mod tests {
    #[test]
    fn idle_groups_get_leaders_and_write_nothing() {
        let figures = super::run(20, 2, || {});
        assert_eq!(figures.led, 20);
        assert_eq!(figures.appends, 0);
    }
}

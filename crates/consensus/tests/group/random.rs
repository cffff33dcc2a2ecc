//! Random faults, shrunk by proptest where a law breaks.

use crate::world::{Weather, World};
use base::NodeId;
use consensus::{Change, Input};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    Run(u64),
    Propose(u64),
    ProposeToLeader,
    Read(u64),
    Crash(u64, usize),
    Restart(u64),
    Pause(u64),
    Resume(u64),
    Isolate(u64),
    Cut(u64, u64),
    Heal,
    Snapshot(u64),
    Transfer(u64),
    Change(u64, u8),
    Swap(u64, u64),
}

fn act() -> impl Strategy<Value = Act> {
    let node = 1..=5u64;
    prop_oneof![
        8 => (1..400u64).prop_map(Act::Run),
        2 => (800..3000u64).prop_map(Act::Run),
        3 => node.clone().prop_map(Act::Propose),
        6 => Just(Act::ProposeToLeader),
        3 => node.clone().prop_map(Act::Read),
        2 => (node.clone(), 0..3usize).prop_map(|(n, kept)| Act::Crash(n, kept)),
        3 => node.clone().prop_map(Act::Restart),
        1 => node.clone().prop_map(Act::Pause),
        2 => node.clone().prop_map(Act::Resume),
        1 => node.clone().prop_map(Act::Isolate),
        1 => (node.clone(), node.clone()).prop_map(|(a, b)| Act::Cut(a, b)),
        2 => Just(Act::Heal),
        1 => node.clone().prop_map(Act::Snapshot),
        1 => node.clone().prop_map(Act::Transfer),
        1 => (node.clone(), 0..3u8).prop_map(|(n, kind)| Act::Change(n, kind)),
        1 => (node.clone(), node).prop_map(|(a, b)| Act::Swap(a, b)),
    ]
}

fn play(world: &mut World, acts: &[Act]) {
    let known: Vec<NodeId> = world.ids();
    let pick = |n: u64| known[(n as usize - 1) % known.len()];
    for (i, act) in acts.iter().enumerate() {
        match act.clone() {
            Act::Run(ms) => world.run(ms),
            Act::Propose(n) => drop(world.propose(pick(n), &format!("p{i}"))),
            Act::ProposeToLeader => {
                if let Some(leader) = world.leader() {
                    world.propose(leader, &format!("p{i}"));
                }
            }
            Act::Read(n) => {
                // A node that is down or held up is not asked.
                if world.group(pick(n)).is_some() && !world.is_paused(pick(n)) {
                    world.read(pick(n));
                }
            }
            Act::Crash(n, kept) => world.crash(pick(n), kept),
            Act::Restart(n) => world.restart(pick(n)),
            Act::Pause(n) => world.pause(pick(n)),
            Act::Resume(n) => {
                if world.is_paused(pick(n)) {
                    world.resume(pick(n));
                }
            }
            Act::Isolate(n) => world.isolate(pick(n)),
            Act::Cut(a, b) => drop(world.cut.insert((pick(a), pick(b)))),
            Act::Heal => world.cut.clear(),
            Act::Snapshot(n) => world.snapshot(pick(n)),
            Act::Transfer(n) => {
                if let Some(leader) = world.leader() {
                    world.input(leader, Input::TransferLeader { to: pick(n) });
                }
            }
            Act::Change(n, kind) => {
                let change = match kind {
                    0 => Change::AddVoter(pick(n)),
                    1 => Change::AddLearner(pick(n)),
                    _ => Change::Remove(pick(n)),
                };
                if let Some(leader) = world.leader() {
                    world.propose_change(leader, vec![change]);
                }
            }
            Act::Swap(a, b) => {
                if let Some(leader) = world.leader() {
                    world.propose_change(leader, vec![Change::AddVoter(pick(a)), Change::Remove(pick(b))]);
                }
            }
        }
    }
}

fn trial(seed: u64, voters: u64, lost: u64, snapshot_every: u64, acts: &[Act]) -> World {
    // Clocks within the lease's bound: its tenth covers two clocks that are off by 4 % each.
    let weather = Weather { delay_ms: (1, 60), sync_ms: (1, 30), lost, drift_ppm: 40_000 };
    let mut world = World::new(seed, voters, weather);
    world.snapshot_every = snapshot_every;
    play(&mut world, acts);
    world.heal_and_check();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn faults_break_no_law(
        seed in any::<u64>(),
        voters in prop_oneof![Just(1u64), Just(3), Just(3), Just(5)],
        lost in prop_oneof![Just(0u64), Just(20), Just(150)],
        snapshot_every in prop_oneof![Just(u64::MAX), Just(5u64)],
        acts in prop::collection::vec(act(), 20..120),
    ) {
        trial(seed, voters, lost, snapshot_every, &acts);
    }
}

/// The same seed and the same acts give the same story, word for word.
#[test]
fn the_same_seed_tells_the_same_story() {
    let acts = [Act::Run(3000), Act::ProposeToLeader, Act::Isolate(1), Act::Run(3000), Act::Heal, Act::Crash(2, 0)];
    let story = |seed| trial(seed, 3, 50, 5, &acts).told;
    assert_eq!(story(4), story(4));
    assert_ne!(story(4), story(5));
}

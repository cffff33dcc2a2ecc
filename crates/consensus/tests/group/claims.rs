//! One test per promise that random faults reach too rarely to rely on.

use crate::world::{CALM, MS, Weather, World};
use base::NodeId;
use consensus::{Change, Input, Role};

const N1: NodeId = NodeId(1);

/// A world whose leader has committed in its term, and that leader, and the others.
fn led(seed: u64, voters: u64, weather: Weather) -> (World, NodeId, Vec<NodeId>) {
    let mut world = World::new(seed, voters, weather);
    world.run(4000);
    let leader = world.leader().expect("elected");
    let others = world.ids().into_iter().filter(|id| *id != leader).collect();
    (world, leader, others)
}

#[test]
fn three_and_five_nodes_elect_one_leader_and_replicate() {
    for voters in [3, 5] {
        let (mut world, leader, _) = led(1, voters, CALM);
        let token = world.propose(leader, "a");
        world.run(5);
        assert!(world.acknowledged.contains(&token), "one round trip and one sync");
        world.run(100);
        assert!(world.ids().iter().all(|id| world.data(*id) == ["a"]));
        assert!(world.lease_valid(leader));
        world.heal_and_check();
    }
}

/// The lease of a leader that nobody hears any more ends before anyone else can lead, whatever the clocks do within their
/// bounds; it steps down after that by itself.
#[test]
fn an_isolated_leaders_lease_ends_before_another_is_elected() {
    for seed in 0..200 {
        let weather = Weather { delay_ms: (1, 20), drift_ppm: 40_000, ..CALM };
        let (mut world, old, _) = led(seed, if seed % 2 == 0 { 3 } else { 5 }, weather);
        world.isolate(old);
        let mut held_ms = 0;
        while world.leader() == Some(old) {
            world.run(1);
            held_ms += u64::from(world.lease_valid(old));
            assert!(world.now < 12_000 * MS, "seed {seed}: another one is elected or it steps down");
        }
        assert!(!world.lease_valid(old), "seed {seed}");
        assert!((250..480).contains(&held_ms), "seed {seed}: the lease ran on for {held_ms} ms");
        world.run(4000);
        let new = world.leader().expect("the others elect one");
        assert_ne!(new, old);
        assert_ne!(world.group(old).unwrap().status().role, Role::Leader, "check-quorum");
        world.heal_and_check();
    }
}

/// A leader whose process ends is replaced as soon as its lease cannot run any more (`World` asserts that no two leases overlap); a
/// lost link to one that lives disturbs nobody.
#[test]
fn a_lost_link_to_the_leader_is_an_election_half_a_second_later() {
    for seed in 0..100 {
        let (mut world, leader, others) = led(seed, 3, CALM);
        for other in &others {
            world.input(*other, Input::LinkLost { node: leader });
        }
        for _ in 0..40 {
            world.run(50);
            assert_eq!(world.leader(), Some(leader), "seed {seed}: it is heard of");
        }
        world.crash(leader, 0);
        let at = world.now;
        // A link breaks behind what was sent on it.
        world.run(25);
        for other in &others {
            world.input(*other, Input::LinkLost { node: leader });
        }
        while world.leader().is_none_or(|new| new == leader) && world.now < at + 5_000 * MS {
            world.run(10);
        }
        let took = (world.now - at) / MS;
        assert!((400..=800).contains(&took), "seed {seed}: {took} ms");
        world.restart(leader);
        world.heal_and_check();
    }
}

/// A group that has nothing to do has no timers; what is asked, a restart and a lost link wake it; nobody is elected beside a leader
/// that lives.
#[test]
fn an_idle_group_falls_silent_and_wakes_for_whatever_matters() {
    for seed in 0..60 {
        let (mut world, _, _) = led(seed, 3, CALM);
        world.quiesces = true;
        // Only groups made from now on are like that.
        for id in world.ids() {
            world.crash(id, 0);
        }
        for id in world.ids() {
            world.restart(id);
        }
        world.run(6000);
        let leader = world.leader().expect("one is elected");
        let others: Vec<NodeId> = world.ids().into_iter().filter(|id| *id != leader).collect();
        let term = world.group(leader).unwrap().status().term;
        let is_silent = |world: &World| {
            world.ids().iter().all(|id| world.group(*id).is_some_and(|group| group.deadline().is_none()))
        };
        assert!(is_silent(&world), "seed {seed}: nothing happened for seconds");
        world.run(60_000);
        assert!(is_silent(&world) && !world.lease_valid(leader), "seed {seed}: nobody is loyal to a lease that long");
        world.propose(leader, "wakes");
        world.run(100);
        assert!(
            world.ids().iter().all(|id| world.data(*id).last().map(String::as_str) == Some("wakes")),
            "seed {seed}"
        );
        assert!(world.lease_valid(leader), "seed {seed}: and it reads alone again");
        world.run(4000);
        assert!(is_silent(&world), "seed {seed}: silent again");
        // One that restarts has timers, asks for votes, and wakes the leader instead.
        world.crash(others[0], 0);
        world.restart(others[0]);
        world.run(8000);
        assert_eq!((world.leader(), world.group(leader).unwrap().status().term), (Some(leader), term), "seed {seed}");
        assert!(is_silent(&world), "seed {seed}: and all are silent again");
        // The leader is gone, or cut off: those who lose the link to it know.
        let is_cut = seed % 2 == 0;
        if is_cut {
            world.isolate(leader);
            others.iter().for_each(|other| world.input(leader, Input::LinkLost { node: *other }));
        } else {
            world.crash(leader, 0);
        }
        others.iter().for_each(|other| world.input(*other, Input::LinkLost { node: leader }));
        world.run(1500);
        let new = world.leader().filter(|new| *new != leader).unwrap_or_else(|| panic!("seed {seed}: nobody leads"));
        world.run(2000);
        if is_cut {
            assert_ne!(world.group(leader).unwrap().status().role, Role::Leader, "seed {seed}: check-quorum");
            assert!(!world.lease_valid(leader));
        }
        world.propose(new, "after");
        world.run(4000);
        // Who is lost must be heard when it comes back.
        assert!(world.group(new).unwrap().deadline().is_some(), "seed {seed}");
        if !is_cut {
            world.restart(leader);
        }
        world.heal_and_check();
        world.run(6000);
        assert!(is_silent(&world), "seed {seed}: all are back");
    }
}

/// A silent leader that is woken while it reaches nobody leads no more, and those who are silent with it are told nothing of it: once it
/// reaches them again, they must not be so loyal to it that it cannot be elected.
#[test]
fn who_is_silent_is_not_loyal_to_a_leader_that_leads_no_more() {
    for seed in 0..30 {
        let (mut world, _, _) = led(seed, 3, CALM);
        world.quiesces = true;
        for id in world.ids() {
            world.crash(id, 0);
        }
        for id in world.ids() {
            world.restart(id);
        }
        world.run(6000);
        let leader = world.leader().expect("one is elected");
        let others: Vec<NodeId> = world.ids().into_iter().filter(|id| *id != leader).collect();
        world.crash(others[0], 0);
        world.isolate(leader);
        world.input(leader, Input::LinkLost { node: others[0] });
        world.run(4000);
        assert_ne!(world.group(leader).unwrap().status().role, Role::Leader, "seed {seed}: check-quorum");
        assert!(world.group(others[1]).unwrap().deadline().is_none(), "seed {seed}: nobody has told it anything");
        world.cut.clear();
        world.run(6000);
        assert!(world.leader().is_some(), "seed {seed}: two of three reach each other");
        world.restart(others[0]);
        world.heal_and_check();
    }
}

/// The vote of a node that hears the leader counts for nobody else: a node that does not hear it cannot take over.
#[test]
fn a_node_that_cannot_hear_the_leader_disturbs_nobody() {
    let (mut world, leader, others) = led(3, 3, CALM);
    world.cut.extend([(leader, others[0]), (others[0], leader)]);
    let term = world.group(leader).unwrap().status().term;
    for _ in 0..100 {
        world.run(100);
        assert_eq!(world.leader(), Some(leader));
        assert!(world.lease_valid(leader));
    }
    assert_eq!(world.group(others[0]).unwrap().status().term, term, "pre-vote: its term did not grow");
    world.heal_and_check();
}

/// A restarted follower may have given its word to a leader just before: it keeps still for one election timeout.
#[test]
fn a_restarted_node_does_not_vote_at_once() {
    for seed in 0..40 {
        let (mut world, leader, others) = led(seed, 3, CALM);
        // The leader is cut off from one, which will stand for election as soon as anyone would vote for it.
        world.cut.extend([(leader, others[0]), (others[0], leader)]);
        world.run(3000);
        world.isolate(leader);
        world.cut.insert((others[1], others[1]));
        world.crash(others[1], 0);
        world.cut.retain(|(a, b)| [a, b].iter().any(|id| **id == leader));
        world.restart(others[1]);
        let at = world.now;
        // Until somebody leads: `World` asserts that the old leader's lease is over by the first acknowledgement.
        while world.leader() == Some(leader) && world.now < at + 10_000 * MS {
            world.run(10);
        }
        assert!(world.now > at + 450 * MS, "seed {seed}: elected after {} ms", (world.now - at) / MS);
        world.heal_and_check();
    }
}

#[test]
fn a_paused_leader_does_not_read_by_lease_when_it_wakes() {
    let (mut world, old, _) = led(5, 3, CALM);
    world.pause(old);
    world.run(5000);
    let new = world.leader().filter(|id| *id != old).expect("the others elect one");
    let token = world.propose(new, "newer");
    world.run(100);
    assert!(world.acknowledged.contains(&token));
    // Before it has heard anything: only its clock has moved.
    assert!(world.group(old).unwrap().is_leader());
    assert!(!world.lease_valid(old));
    world.resume(old);
    world.run(1000);
    assert_eq!(world.data(old), ["newer"]);
    world.heal_and_check();
}

#[test]
fn leadership_moves_when_asked_and_the_lease_ends_first() {
    let (mut world, old, others) = led(6, 3, CALM);
    assert!(world.lease_valid(old));
    world.input(old, Input::TransferLeader { to: others[0] });
    assert!(!world.lease_valid(old), "before any message is on its way");
    world.propose(old, "too late");
    assert!(world.told.last().unwrap().contains("Transferring"));
    world.run(50);
    assert_eq!(world.leader(), Some(others[0]), "at once, not after an election timeout");
    world.heal_and_check();
}

/// A transfer that came to nothing may still start an election later: no lease in that term, but reads go on.
#[test]
fn a_failed_transfer_leaves_reads_without_a_lease() {
    let (mut world, leader, others) = led(7, 3, CALM);
    world.doomed.push((leader, others[0], "campaign-now".into()));
    world.input(leader, Input::TransferLeader { to: others[0] });
    world.run(3000);
    assert_eq!(world.leader(), Some(leader));
    assert!(!world.lease_valid(leader));
    let before = world.reads_answered;
    world.read(leader);
    world.run(50);
    assert_eq!(world.reads_answered, before + 1);
    let token = world.propose(leader, "proposals go on");
    world.run(50);
    assert!(world.acknowledged.contains(&token));
}

#[test]
fn followers_read_through_the_leader() {
    let (mut world, leader, others) = led(8, 3, CALM);
    world.propose(leader, "a");
    world.run(10);
    for id in &others {
        world.read(*id);
    }
    world.run(20);
    assert_eq!(world.reads_answered, 2, "both have asked");
    // A question that is lost is given up after an election timeout.
    world.doomed.push((others[0], leader, "read?".into()));
    world.read(others[0]);
    world.told.clear();
    world.run(1500);
    assert!(world.told.iter().any(|line| line.contains("read dropped")), "{:?}", world.told);
}

#[test]
fn voters_are_replaced_by_joint_consensus_and_a_second_change_meanwhile_is_refused() {
    let (mut world, leader, others) = led(9, 3, CALM);
    for i in 0..10 {
        world.propose(leader, &format!("before {i}"));
    }
    world.run(100);
    world.add_node(NodeId(4));
    world.add_node(NodeId(5));
    let swap = [Change::Remove(others[0]), Change::AddVoter(NodeId(4)), Change::AddLearner(NodeId(5))];
    world.propose_change(leader, swap.to_vec());
    world.propose_change(leader, vec![Change::Remove(others[1])]);
    assert!(world.told.last().unwrap().contains("ChangeUnderWay"), "{:?}", world.told.last());
    world.run(2000);
    let membership = world.group(leader).unwrap().membership().clone();
    assert!(!membership.is_joint());
    let mut voters = vec![leader, others[1], NodeId(4)];
    voters.sort_unstable();
    assert_eq!((membership.voters, membership.learners), (voters, vec![NodeId(5)]));
    assert_eq!(world.data(NodeId(4)).len(), 10);
    assert_eq!(world.data(NodeId(5)).len(), 10);
    assert!(world.lease_valid(leader));
    world.heal_and_check();
}

#[test]
fn a_leader_that_is_removed_steps_down_and_the_rest_goes_on() {
    let (mut world, leader, _) = led(10, 3, CALM);
    world.propose_change(leader, vec![Change::Remove(leader)]);
    world.run(5000);
    assert!(!world.group(leader).unwrap().is_leader());
    let new = world.leader().expect("the others elect one");
    assert_ne!(new, leader);
    assert_eq!(world.group(new).unwrap().membership().voters.len(), 2);
    world.heal_and_check();
}

#[test]
fn one_voter_becomes_three_and_one_again() {
    let (mut world, n1, _) = led(11, 1, CALM);
    assert_eq!(n1, N1);
    world.propose(N1, "alone");
    world.add_node(NodeId(2));
    world.add_node(NodeId(3));
    world.propose_change(N1, vec![Change::AddLearner(NodeId(2))]);
    world.run(500);
    world.propose_change(N1, vec![Change::AddVoter(NodeId(2)), Change::AddVoter(NodeId(3))]);
    world.run(1000);
    assert_eq!(world.group(N1).unwrap().membership().voters.len(), 3);
    assert_eq!(world.data(NodeId(3)), ["alone"]);
    world.propose(N1, "three");
    world.run(100);
    assert!(world.lease_valid(N1));
    // A former lone voter must not elect itself after a restart.
    world.crash(N1, 0);
    world.run(5000);
    let new = world.leader().expect("two of three");
    world.propose(new, "without 1");
    world.run(100);
    world.restart(N1);
    world.run(1000);
    assert_eq!(world.leader(), Some(new));
    assert_eq!(world.data(N1), ["alone", "three", "without 1"]);
    world.propose_change(
        new,
        vec![Change::Remove(N1), Change::Remove(if new == NodeId(2) { NodeId(3) } else { NodeId(2) })],
    );
    world.run(2000);
    assert_eq!(world.group(new).unwrap().membership().voters, [new]);
    assert!(world.lease_valid(new));
    assert_eq!(world.group(new).unwrap().deadline(), None, "alone again, it sleeps");
}

#[test]
fn a_follower_behind_the_logs_start_gets_a_snapshot_and_goes_on() {
    let (mut world, leader, others) = led(12, 3, CALM);
    world.crash(others[0], 0);
    for i in 0..20 {
        world.propose(leader, &format!("{i}"));
        world.run(10);
    }
    world.snapshot(leader);
    world.propose(leader, "after");
    world.run(20);
    world.told.clear();
    world.restart(others[0]);
    world.run(3000);
    assert!(world.told.iter().any(|line| line.contains("installs snapshot")));
    assert_eq!(world.data(others[0]).len(), 21);
    // And from its disk once more.
    world.crash(others[0], 0);
    world.restart(others[0]);
    world.run(3000);
    assert_eq!(world.data(others[0]).len(), 21);
    world.heal_and_check();
}

#[test]
fn a_power_cut_of_all_nodes_comes_back_by_itself() {
    let (mut world, leader, _) = led(13, 5, Weather { sync_ms: (1, 10), ..CALM });
    for i in 0..50 {
        world.propose(leader, &format!("{i}"));
        world.run(1);
    }
    let acknowledged = world.acknowledged.len();
    assert!(acknowledged > 10);
    for (kept, id) in world.ids().into_iter().enumerate() {
        world.crash(id, kept % 2);
    }
    world.heal_and_check();
}

/// The planted bug "hard state not persisted" is caught: a node that forgot its term does not even start.
#[test]
#[should_panic(expected = "a disk that lost nothing synced starts")]
fn a_forgotten_term_is_caught() {
    let mut world = World::new(14, 3, CALM);
    world.planted.hard_state_not_persisted = true;
    for id in world.ids() {
        world.crash(id, 0);
        world.restart(id);
    }
    world.run(4000);
    for id in world.ids() {
        world.crash(id, 0);
        world.restart(id);
    }
}

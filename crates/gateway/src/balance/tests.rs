//! Whole sets: what every policy keeps, and who gets how much.

use super::*;
use crate::resilience::Outcome;
use base::{Duration, Instant, Rng};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::net::SocketAddr;

fn member(at: usize, weight: u32, health: Health) -> Member {
    let addr = SocketAddr::from(([10, 0, (at >> 8) as u8, at as u8], 80));
    Member { endpoint: Endpoint { weight, ..Endpoint::new(&format!("e{at}"), addr) }, health }
}

fn passing(weights: &[u32]) -> Vec<Member> {
    weights.iter().enumerate().map(|(at, weight)| member(at, *weight, Health::Passing)).collect()
}

fn set(policy: Policy, members: Vec<Member>) -> EndpointSet {
    EndpointSet::build(Balance { policy, ..Balance::default() }, members, None, Instant(0), &mut Rng::new(1))
}

fn policies() -> [Policy; 6] {
    [
        Policy::RoundRobin,
        Policy::WeightedRoundRobin,
        Policy::LeastConnections,
        Policy::PeakEwma,
        Policy::Random,
        Policy::Hash(HashOn::ClientIp),
    ]
}

/// Picks by name, of `count` requests from as many clients.
fn counts(set: &EndpointSet, count: u64, mut ask: impl FnMut(u64) -> Ask<'static>) -> BTreeMap<String, u64> {
    let mut rng = Rng::new(9);
    let mut counts = BTreeMap::new();
    for at in 0..count {
        if let Ok(picked) = set.pick(&ask(at), &mut rng) {
            *counts.entry(picked.endpoint.name.to_string()).or_default() += 1;
        }
    }
    counts
}

fn client(at: u64) -> Ask<'static> {
    Ask { hash: Some(HashKey::SHARED.hash(&at.to_le_bytes())), ..Ask::default() }
}

#[test]
fn shares_of_each_policy_over_weights_1_2_and_5() {
    for policy in policies() {
        let even = policy == Policy::RoundRobin;
        let set = set(policy.clone(), passing(&[1, 2, 5]));
        let counts = counts(&set, 80_000, client);
        println!("{policy:?}: {counts:?}");
        for (name, weight) in [("e0", 1u64), ("e1", 2), ("e2", 5)] {
            let due = if even { 80_000 / 3 } else { 10_000 * weight };
            let off = counts[name].abs_diff(due) as f64 / due as f64;
            assert!(off < 0.05, "{policy:?}: {name} has {} of {due}", counts[name]);
        }
    }
}

#[test]
fn least_connections_and_peak_ewma_avoid_the_slow_one() {
    // Four endpoints; one answers in 100 ms, the others in 10 ms; a request a millisecond.
    for (policy, at_most) in [(Policy::Random, 3000), (Policy::LeastConnections, 1500), (Policy::PeakEwma, 500)] {
        let set = set(policy.clone(), passing(&[1; 4]));
        let mut rng = Rng::new(4);
        let mut under_way: Vec<(Instant, Attempt)> = Vec::new();
        let mut slow = 0;
        for ms in 0..10_000u64 {
            let now = Instant(ms * 1_000_000);
            let (done, rest) = under_way.into_iter().partition(|(until, _)| *until <= now);
            let done: Vec<(Instant, Attempt)> = done;
            under_way = rest;
            done.iter().for_each(|(until, attempt)| attempt.finish(*until, Outcome::Answered));
            drop(done);
            let picked = set.pick(&Ask { now, ..Ask::default() }, &mut rng).expect("somebody");
            let is_slow = *picked.endpoint.name == *"e2";
            slow += u32::from(is_slow);
            let takes = Duration::from_millis(if is_slow { 100 } else { 10 });
            under_way.push((now + takes, picked.live.begin(now)));
        }
        println!("{policy:?}: the slow one of four got {slow} of 10,000");
        assert!(slow <= at_most, "{policy:?}: {slow}");
    }
}

#[test]
fn a_member_that_is_off_is_never_picked_not_even_in_panic() {
    for policy in policies() {
        let members = vec![member(0, 1, Health::Off), member(1, 1, Health::Suspect), member(2, 1, Health::Draining)];
        let set = set(policy.clone(), members);
        assert!(set.in_panic());
        assert_eq!(counts(&set, 1000, client).into_iter().collect::<Vec<_>>(), [("e1".to_owned(), 1000)], "{policy:?}");
        let set = self::set(
            policy,
            vec![member(0, 1, Health::Off), member(2, 1, Health::Draining), member(3, 0, Health::Passing)],
        );
        assert_eq!(set.pick(&client(0), &mut Rng::new(1)).err(), Some(NoEndpoint::NoneUsable));
    }
    assert_eq!(set(Policy::Random, vec![]).pick(&client(0), &mut Rng::new(1)).err(), Some(NoEndpoint::Empty));
}

#[test]
fn panic_spreads_or_fails_as_told() {
    let members = || vec![member(0, 1, Health::Passing), member(1, 1, Health::Suspect), member(2, 1, Health::Suspect)];
    let build = |below_percent, action| {
        let balance =
            Balance { policy: Policy::Random, panic: PanicRule { below_percent, action }, ..Balance::default() };
        EndpointSet::build(balance, members(), None, Instant(0), &mut Rng::new(1))
    };
    assert_eq!(counts(&build(0, PanicAction::Spread), 300, client).len(), 1, "one passes: no panic");
    assert_eq!(counts(&build(50, PanicAction::Spread), 300, client).len(), 3);
    assert_eq!(build(50, PanicAction::Fail).pick(&client(0), &mut Rng::new(1)).err(), Some(NoEndpoint::NoneUsable));
    assert_eq!(counts(&build(33, PanicAction::Fail), 300, client).len(), 1);
}

#[test]
fn a_rebuild_keeps_counters_and_turns_and_eases_new_members_in() {
    let balance = Balance {
        policy: Policy::RoundRobin,
        slow_start: Some(SlowStart { window: Duration::from_secs(10), min_percent: 10 }),
        ..Balance::default()
    };
    let mut rng = Rng::new(2);
    let first = EndpointSet::build(balance.clone(), passing(&[1, 1]), None, Instant(5), &mut rng);
    let attempt = first.pick(&Ask::default(), &mut rng).map(|picked| picked.live.begin(Instant(5))).expect("somebody");
    assert_eq!(
        counts(&first, 1000, client).values().copied().collect::<Vec<_>>(),
        [500, 500],
        "the first set does not ramp"
    );
    let second = EndpointSet::build(balance, passing(&[1, 1, 1]), Some(&first), Instant(1_000_000_000), &mut rng);
    assert_eq!(second.iter().map(|(_, _, live)| live.in_flight()).sum::<u32>(), 1);
    drop(attempt);
    assert_eq!(second.iter().map(|(_, _, live)| live.in_flight()).sum::<u32>(), 0);
    let share = |ms: u64| {
        let now = Instant(1_000_000_000 + ms * 1_000_000);
        let counts = counts(&second, 30_000, |_| Ask { now, ..Ask::default() });
        counts["e2"] as f64 / 30_000.0
    };
    let shares = [share(0), share(5_000), share(10_000)];
    println!("slow start: the new one of three gets {shares:.3?} at 0, 5 and 10 s of 10");
    // A turn that is not taken goes to anybody, the new one among them with its chance.
    assert!(shares[0] < 0.06 && (0.15..0.25).contains(&shares[1]) && (shares[2] - 1.0 / 3.0).abs() < 0.001);
}

#[test]
fn a_lone_member_in_slow_start_serves_everything() {
    let balance = Balance {
        slow_start: Some(SlowStart { window: Duration::from_secs(10), min_percent: 0 }),
        ..Balance::default()
    };
    let mut rng = Rng::new(2);
    let mut off = passing(&[1, 1]);
    off[0].health = Health::Off;
    let before = EndpointSet::build(balance.clone(), off, None, Instant(1), &mut rng);
    let one = EndpointSet::build(balance, passing(&[1]), Some(&before), Instant(1), &mut rng);
    assert!(one.iter().all(|(_, _, live)| live.passing_since() > Instant(0)));
    assert_eq!(counts(&one, 100, |_| Ask { now: Instant(1), ..Ask::default() })["e0"], 100);
}

/// The endpoints that are there when the gateway starts: its upstreams begin without any.
#[test]
fn who_comes_where_nobody_was_has_no_slow_start() {
    let balance = Balance {
        slow_start: Some(SlowStart { window: Duration::from_secs(10), min_percent: 10 }),
        ..Balance::default()
    };
    let mut rng = Rng::new(2);
    let none = EndpointSet::build(balance.clone(), vec![], None, Instant(1), &mut rng);
    let first = EndpointSet::build(balance.clone(), passing(&[1, 1]), Some(&none), Instant(1), &mut rng);
    assert!(first.iter().all(|(_, _, live)| live.passing_since() == Instant(0)));
    let more = EndpointSet::build(balance, passing(&[1, 1, 1]), Some(&first), Instant(2), &mut rng);
    let since: Vec<Instant> = more.iter().map(|(_, _, live)| live.passing_since()).collect();
    assert_eq!(since.iter().filter(|since| **since == Instant(2)).count(), 1, "{since:?}");
}

#[test]
fn sticky_clients_stay_while_others_come_and_go() {
    let balance = Balance { sticky: Some(HashKey::new([3; 16])), ..Balance::default() };
    let mut rng = Rng::new(8);
    let build = |members| EndpointSet::build(balance.clone(), members, None, Instant(0), &mut Rng::new(1));
    let before = build(passing(&[1; 5]));
    let id = EndpointId::of("e3");
    let cookie = before.cookie(id).expect("sticky");
    let ask = |tried| Ask { cookie: Some(&cookie), tried, ..Ask::default() };
    let mut others = passing(&[7; 30]);
    for set in [before, build(others.clone())] {
        let picked = set.pick(&ask(&[]), &mut rng).expect("somebody");
        assert!(picked.stuck && picked.endpoint.id == id);
    }
    others[3].health = Health::Draining;
    assert!(build(others.clone()).pick(&ask(&[]), &mut rng).expect("somebody").stuck, "it may finish there");
    let tried = [id];
    assert!(
        !build(others.clone()).pick(&ask(&tried), &mut rng).expect("somebody").stuck,
        "but not where it was refused"
    );
    for health in [Health::Off, Health::Suspect] {
        others[3].health = health;
        let set = build(others.clone());
        let picked = set.pick(&ask(&[]), &mut rng).expect("somebody");
        assert!(!picked.stuck && picked.endpoint.id != id, "{health:?}: balanced like a new client");
    }
    let made_up = Ask { cookie: Some(b"0123456789abcdef"), ..Ask::default() };
    assert!(!build(others).pick(&made_up, &mut rng).expect("somebody").stuck);
}

#[test]
fn zones_keep_traffic_at_home_and_spill_what_they_cannot_take() {
    let zoned = |health: Health| {
        let mut members = passing(&[1; 6]);
        for (at, member) in members.iter_mut().enumerate() {
            member.endpoint.zone = ["a", "b", "c"][at / 2].into();
        }
        members[0].health = health;
        let rule = ZoneRule { local: "a".into(), traffic: vec![] };
        let balance = Balance { policy: Policy::Random, locality: Locality::Zone(rule), ..Balance::default() };
        EndpointSet::build(balance, members, None, Instant(0), &mut Rng::new(1))
    };
    let all = counts(&zoned(Health::Passing), 6000, client);
    assert_eq!(all.keys().collect::<Vec<_>>(), ["e0", "e1"], "all at home");
    // 1/5 of the capacity for 1/3 of the traffic: 3/5 stays.
    let some = counts(&zoned(Health::Suspect), 60_000, client);
    println!("zone a of a, b, c with one of its two endpoints left: {some:?}");
    assert!((some["e1"] as f64 / 60_000.0 - 0.6).abs() < 0.01);
    assert!(["e2", "e3", "e4", "e5"].iter().all(|name| (some[*name] as f64 / 60_000.0 - 0.1).abs() < 0.01));
}

#[test]
fn the_nearest_site_serves_until_it_cannot() {
    let mut members = passing(&[1; 5]);
    let places = [(50.1, 8.6), (50.1, 8.6), (40.7, -74.0), (40.7, -74.0)];
    for (member, (latitude, longitude)) in members.iter_mut().zip(places) {
        member.endpoint.location = Some(Coordinates { latitude, longitude });
    }
    let balance = Balance { policy: Policy::RoundRobin, locality: Locality::Geographic, ..Balance::default() };
    let set = EndpointSet::build(balance, members, None, Instant(0), &mut Rng::new(1));
    let paris = Place { coordinates: Some(Coordinates { latitude: 48.8, longitude: 2.3 }), country: None };
    let near = counts(&set, 100, |_| Ask { place: paris, ..Ask::default() });
    assert_eq!(near.into_iter().collect::<Vec<_>>(), [("e0".to_owned(), 50), ("e1".to_owned(), 50)]);
    let tried = [EndpointId::of("e0"), EndpointId::of("e1")];
    let next = set.pick(&Ask { place: paris, tried: &tried, ..Ask::default() }, &mut Rng::new(1)).expect("somebody");
    assert!(["e2", "e3"].contains(&&*next.endpoint.name));
    assert_eq!(counts(&set, 1000, |_| Ask::default()).len(), 5, "a client at an unknown place is balanced over all");
}

#[test]
fn nonsense_is_refused_before_it_applies() {
    let hash = Balance { policy: Policy::Hash(HashOn::ClientIp), locality: Locality::Geographic, ..Balance::default() };
    assert_eq!(hash.check(), Err(BalanceError::HashWithLocality));
    assert_eq!(Balance { maglev_table_size: 1000, ..Balance::default() }.check(), Err(BalanceError::TableSize(1000)));
    let slow = |secs, min_percent| Some(SlowStart { window: Duration::from_secs(secs), min_percent });
    assert_eq!(Balance { slow_start: slow(0, 1), ..Balance::default() }.check(), Err(BalanceError::NoWindow));
    assert_eq!(Balance { slow_start: slow(1, 101), ..Balance::default() }.check(), Err(BalanceError::Percent(101)));
}

#[test]
fn a_set_of_too_many_keeps_the_first_and_says_so() {
    let members: Vec<Member> = (0..1100).map(|at| member(at % 1050, 1 + at as u32 % 7, Health::Passing)).collect();
    for policy in policies() {
        let set = set(policy, members.clone());
        assert_eq!((set.iter().count(), set.left_out()), (ENDPOINTS_MAX, 1100 - ENDPOINTS_MAX));
        assert!(set.pick(&client(1), &mut Rng::new(1)).is_ok());
    }
}

fn healths() -> impl Strategy<Value = Health> {
    prop_oneof![Just(Health::Passing), Just(Health::Suspect), Just(Health::Draining), Just(Health::Off)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_request_that_tries_again_meets_all_that_pass_then_all_that_are_suspect_and_nobody_else(
        members in proptest::collection::vec((0u32..4, healths()), 0..12),
        which in 0usize..6,
        slow: bool,
        seed: u64,
    ) {
        let given: Vec<Member> = members.iter().enumerate().map(|(at, (weight, health))| member(at, *weight, *health)).collect();
        let slow_start = slow.then_some(SlowStart { window: Duration::from_secs(9), min_percent: 0 });
        let balance = Balance { policy: policies()[which].clone(), slow_start, ..Balance::default() };
        let mut rng = Rng::new(seed);
        let empty = EndpointSet::build(balance.clone(), vec![], None, Instant(1), &mut rng);
        let set = EndpointSet::build(balance, given.clone(), Some(&empty), Instant(1), &mut rng);
        let may = |health| given.iter().filter(move |m| m.health == health && m.endpoint.weight > 0).map(|m| m.endpoint.id);
        let mut first: Vec<EndpointId> = may(Health::Passing).collect();
        let mut last: Vec<EndpointId> = may(Health::Suspect).collect();
        first.sort();
        last.sort();
        let expected = [&first[..], &last[..]].concat();
        let mut tried: Vec<EndpointId> = Vec::new();
        let end = loop {
            match set.pick(&Ask { now: Instant(2), tried: &tried, ..client(seed) }, &mut rng) {
                Ok(picked) => tried.push(picked.endpoint.id),
                Err(end) => break end,
            }
            prop_assert!(tried.len() <= expected.len(), "nobody twice");
        };
        let why = if given.is_empty() { NoEndpoint::Empty } else if expected.is_empty() { NoEndpoint::NoneUsable } else { NoEndpoint::AllTried };
        prop_assert_eq!(end, why);
        let (passed, suspect) = tried.split_at_mut(first.len());
        passed.sort();
        suspect.sort();
        prop_assert_eq!(tried, expected);
    }
}

//! Tables of what members do and hear, in virtual time.

use super::*;

const T0: Instant = Instant(1_000_000_000_000);

fn at(ms: u64) -> Instant {
    T0 + Duration::from_millis(ms)
}

/// A group "g" whose answers are kept by token; what is to be saved is saved at once unless told otherwise.
struct World {
    own: Coordinator,
    answers: BTreeMap<Token, Answer>,
    saved: Vec<Generation>,
    holds: bool,
    tokens: Token,
}

impl World {
    fn new() -> World {
        World { own: Coordinator::default(), answers: BTreeMap::new(), saved: Vec::new(), holds: false, tokens: 0 }
    }

    fn take(&mut self, effects: Effects, now: Instant) {
        for (token, answer) in effects.answers {
            assert_eq!(self.answers.insert(token, answer), None, "one answer each");
        }
        for (name, generation) in effects.save {
            let number = generation.number;
            self.saved.push(generation);
            if !self.holds {
                let more = self.own.saved(&name, number, Code::NONE, now);
                self.take(more, now);
            }
        }
    }

    fn token(&mut self) -> Token {
        self.tokens += 1;
        self.tokens
    }

    fn join_as(&mut self, join: Join, now: u64) -> Token {
        let token = self.token();
        let effects = self.own.join("g", token, join, at(now));
        self.take(effects, at(now));
        token
    }

    fn join(&mut self, member: &str, now: u64) -> Token {
        self.join_as(wish(member), now)
    }

    fn sync(&mut self, member: &str, generation: i32, gives: &[(&str, &str)], now: u64) -> Token {
        let token = self.token();
        let by = By { member, instance: None, generation };
        let gives = gives.iter().map(|(id, words)| ((*id).to_owned(), words.as_bytes().to_vec())).collect();
        let effects = self.own.sync("g", token, &by, None, None, gives, at(now));
        self.take(effects, at(now));
        token
    }

    fn tick(&mut self, now: u64) {
        let effects = self.own.tick(at(now));
        self.take(effects, at(now));
    }

    fn heartbeat(&mut self, member: &str, generation: i32, now: u64) -> Code {
        self.own.heartbeat("g", &By { member, instance: None, generation }, at(now))
    }

    fn joined(&self, token: Token) -> &Joined {
        match self.answers.get(&token) {
            Some(Answer::Joined(joined)) => joined,
            other => panic!("{token} heard {other:?}"),
        }
    }

    fn synced(&self, token: Token) -> &Synced {
        match self.answers.get(&token) {
            Some(Answer::Synced(synced)) => synced,
            other => panic!("{token} heard {other:?}"),
        }
    }

    fn phase(&self) -> Phase {
        self.own.get("g").expect("it is there").phase()
    }

    /// These many members, stable, the first one leads. Returns their ids and the generation.
    fn stable(&mut self, count: usize) -> (Vec<String>, i32) {
        let tokens: Vec<Token> = (0..count).map(|_| self.join("", 0)).collect();
        self.tick(500 * count as u64 + 500);
        let ids: Vec<String> = tokens.iter().map(|token| self.joined(*token).member.clone()).collect();
        let generation = self.joined(tokens[0]).generation;
        let leader = self.joined(tokens[0]).leader.clone();
        let gives: Vec<(&str, &str)> = ids.iter().map(|id| (id.as_str(), id.as_str())).collect();
        for id in ids.iter().filter(|id| **id != leader) {
            self.sync(id, generation, &[], 2_000);
        }
        self.sync(&leader, generation, &gives, 2_000);
        assert_eq!(self.phase(), Phase::Stable);
        (ids, generation)
    }
}

fn wish(member: &str) -> Join {
    thread_local!(static NEXT: std::cell::Cell<u64> = const { std::cell::Cell::new(1) });
    Join {
        member: member.to_owned(),
        client: "c".into(),
        session_ms: 10_000,
        rebalance_ms: 30_000,
        kind: "consumer".into(),
        protocols: vec![("range".into(), b"topics".to_vec())],
        random: NEXT.with(|next| next.replace(next.get() + 1)),
        ..Join::default()
    }
}

#[test]
fn two_join_in_the_moment_of_company_and_each_is_given_its_own() {
    let mut world = World::new();
    let first = world.join("", 0);
    let second = world.join("", 300);
    world.tick(499);
    assert!(world.answers.is_empty(), "who comes makes it wait again");
    world.tick(800);
    let (a, b) = (world.joined(first).clone(), world.joined(second).clone());
    assert_eq!((a.generation, b.generation, &a.leader), (1, 1, &b.leader));
    assert_eq!(a.members.len() + b.members.len(), 2, "only the leader is told of all");
    let (leader, other) = if a.leader == a.member { (a, b) } else { (b, a) };
    let waiting = world.sync(&other.member, 1, &[], 900);
    assert!(!world.answers.contains_key(&waiting));
    let own = world.sync(&leader.member, 1, &[(&leader.member, "x"), (&other.member, "y")], 1_000);
    assert_eq!(world.synced(own).assignment, b"x");
    assert_eq!(world.synced(waiting).assignment, b"y");
    assert_eq!(world.heartbeat(&leader.member, 1, 1_100), Code::NONE);
    assert_eq!(world.saved.len(), 1);
}

#[test]
fn nobody_hears_of_an_assignment_that_is_not_saved() {
    let mut world = World::new();
    let token = world.join("", 0);
    world.tick(500);
    let id = world.joined(token).member.clone();
    world.holds = true;
    let sync = world.sync(&id, 1, &[(&id, "x")], 600);
    assert!(!world.answers.contains_key(&sync));
    let effects = world.own.saved("g", 1, Code::NONE, at(700));
    world.take(effects, at(700));
    assert_eq!(world.synced(sync).assignment, b"x");
}

#[test]
fn who_needs_an_id_comes_twice() {
    let mut world = World::new();
    let join = Join { needs_id: true, ..wish("") };
    let first = world.join_as(join.clone(), 0);
    assert_eq!(world.joined(first).code, MEMBER_ID_REQUIRED);
    let id = world.joined(first).member.clone();
    let second = world.join_as(Join { member: id.clone(), ..join }, 10);
    world.tick(600);
    assert_eq!((world.joined(second).code, &world.joined(second).member), (Code::NONE, &id));
    // Somebody who was never here.
    let stranger = world.join("stranger", 700);
    assert_eq!(world.joined(stranger).code, Code::UNKNOWN_MEMBER_ID);
    // Who is given an id and never comes back leaves nothing behind.
    let mut world = World::new();
    world.join_as(Join { needs_id: true, ..wish("") }, 0);
    world.tick(10_000);
    assert!(world.own.get("g").is_none() && world.own.deadline().is_none());
}

#[test]
fn a_third_member_makes_the_others_join_again() {
    let mut world = World::new();
    let (ids, generation) = world.stable(2);
    let third = world.join("", 3_000);
    assert_eq!(world.phase(), Phase::Preparing);
    for id in &ids {
        assert_eq!(world.heartbeat(id, generation, 3_100), Code::REBALANCE_IN_PROGRESS);
        let by = By { member: id, instance: None, generation };
        assert_eq!(world.own.commits("g", &by, at(3_150)), Code::NONE, "what it has done it may still commit");
    }
    let again: Vec<Token> = ids.iter().map(|id| world.join(id, 3_200)).collect();
    assert_eq!(world.joined(third).generation, generation + 1, "all are here: nothing is waited for");
    for token in again {
        assert_eq!(world.joined(token).generation, generation + 1);
    }
    let by = By { member: &ids[0], instance: None, generation };
    assert_eq!(world.own.commits("g", &by, at(3_300)), Code::ILLEGAL_GENERATION);
    let by = By { generation: generation + 1, ..by };
    assert_eq!(world.own.commits("g", &by, at(3_300)), Code::REBALANCE_IN_PROGRESS);
}

#[test]
fn who_does_not_join_again_is_left_behind() {
    let mut world = World::new();
    let (ids, generation) = world.stable(2);
    let third = world.join("", 3_000);
    let again = world.join(&ids[0], 3_100);
    for ms in (3_500..33_000).step_by(2_000) {
        // It beats but does not join.
        let _ = world.heartbeat(&ids[1], generation, ms);
        world.tick(ms);
    }
    assert!(!world.answers.contains_key(&third));
    world.tick(33_000);
    assert_eq!(world.joined(third).generation, generation + 1);
    assert_eq!(world.joined(again).code, Code::NONE);
    assert_eq!(world.heartbeat(&ids[1], generation, 33_100), Code::UNKNOWN_MEMBER_ID);
}

#[test]
fn silence_costs_the_place_and_the_rest_goes_on() {
    let mut world = World::new();
    let (ids, generation) = world.stable(2);
    assert_eq!(world.heartbeat(&ids[0], generation, 9_000), Code::NONE);
    world.tick(12_001);
    assert_eq!(world.heartbeat(&ids[0], generation, 12_100), Code::REBALANCE_IN_PROGRESS);
    let token = world.join(&ids[0], 12_200);
    assert_eq!(world.joined(token).generation, generation + 1);
    assert_eq!(world.joined(token).leader, ids[0]);
    // And when the last one goes too, that is saved.
    let effects = world.own.leave("g", &ids[0], None, at(12_300));
    assert_eq!(effects.0, Code::NONE);
    world.take(effects.1, at(12_300));
    assert_eq!(world.phase(), Phase::Empty);
    assert_eq!(world.saved.last().map(|saved| (saved.number, saved.members.len())), Some((generation + 2, 0)));
    assert_eq!(world.own.deadline(), None);
}

#[test]
fn a_static_member_comes_back_without_a_rebalance_and_its_ghost_is_fenced() {
    let mut world = World::new();
    let statics = |instance: &str| Join { instance: Some(instance.into()), needs_id: true, ..wish("") };
    let (a, b) = (world.join_as(statics("a"), 0), world.join_as(statics("b"), 0));
    world.tick(1_500);
    let (a, b) = (world.joined(a).clone(), world.joined(b).clone());
    let (leader, other) = if a.leader == a.member { (a, b) } else { (b, a) };
    let other_name = if other.member.starts_with("a-") { "a" } else { "b" };
    let by = |member: &Joined| (member.member.clone(), member.member[..1].to_owned());
    for (member, gives) in [(&other, vec![]), (&leader, vec![(other.member.as_str(), "own")])] {
        let (id, instance) = by(member);
        let token = world.token();
        let by = By { member: &id, instance: Some(&instance), generation: 1 };
        let gives = gives.iter().map(|(id, words)| ((*id).to_owned(), words.as_bytes().to_vec())).collect();
        let effects = world.own.sync("g", token, &by, None, None, gives, at(1_600));
        world.take(effects, at(1_600));
    }
    assert_eq!(world.phase(), Phase::Stable);
    let back = world.join_as(statics(other_name), 2_000);
    let back = world.joined(back).clone();
    assert_eq!((back.generation, world.phase()), (1, Phase::Stable), "no rebalance");
    assert_ne!(back.member, other.member);
    let ghost = By { member: &other.member, instance: Some(other_name), generation: 1 };
    assert_eq!(world.own.heartbeat("g", &ghost, at(2_100)), Code::FENCED_INSTANCE_ID);
    let token = world.token();
    let now = By { member: &back.member, instance: Some(other_name), generation: 1 };
    let effects = world.own.sync("g", token, &now, None, None, Vec::new(), at(2_200));
    world.take(effects, at(2_200));
    assert_eq!(world.synced(token).assignment, b"own", "it has what it had");
    // It is away for a while, and keeps its place until its session ends.
    let third = world.join_as(statics("c"), 3_000);
    let again = Join { member: leader.member.clone(), instance: Some(leader.member[..1].into()), ..wish("") };
    let again = world.join_as(again, 3_100);
    world.tick(11_000);
    assert!(!world.answers.contains_key(&third));
    world.tick(12_300);
    assert_eq!(world.joined(third).generation, 2);
    assert_eq!(world.joined(again).generation, 2);
}

#[test]
fn a_new_leader_of_the_shard_goes_on_with_what_was_saved() {
    let mut world = World::new();
    let (ids, generation) = world.stable(3);
    let mut other = World::new();
    other.own.load("g", world.saved.last().expect("it was saved"), at(5_000));
    for id in &ids {
        assert_eq!(other.heartbeat(id, generation, 6_000), Code::NONE);
        let token = other.sync(id, generation, &[], 6_100);
        assert_eq!(other.synced(token).assignment, id.as_bytes());
    }
    let effects = world.own.abdicate(Code(16));
    assert!(effects.answers.is_empty() && world.own.deadline().is_none());
}

#[test]
fn what_is_wrong_with_a_wish_is_said() {
    let mut world = World::new();
    for (join, code) in [
        (Join { session_ms: 5_999, ..wish("") }, INVALID_SESSION_TIMEOUT),
        (Join { protocols: Vec::new(), ..wish("") }, INCONSISTENT_GROUP_PROTOCOL),
        (Join { kind: String::new(), ..wish("") }, INCONSISTENT_GROUP_PROTOCOL),
        (Join { client: "x".repeat(5_000), ..wish("") }, Code::INVALID_REQUEST),
    ] {
        let token = world.join_as(join, 0);
        assert_eq!(world.joined(token).code, code);
    }
    assert!(world.own.get("g").is_none());
    world.stable(1);
    let odd = Join { protocols: vec![("other".into(), Vec::new())], ..wish("") };
    let token = world.join_as(odd, 3_000);
    assert_eq!(world.joined(token).code, INCONSISTENT_GROUP_PROTOCOL);
    assert_eq!(world.phase(), Phase::Stable, "nobody is bothered by it");
}

/// Members come, go silent, come again, leave, all at once, for long: whoever goes on heart-beating and does as it is told is never told that it
/// is unknown (R29), every wait ends, and no two members lead one generation.
#[test]
fn concurrent_rebalances_lose_nobody_who_plays_by_the_rules() {
    struct Player {
        id: String,
        generation: i32,
        joining: Option<Token>,
        syncing: Option<Token>,
        until: u64,
        beat: u64,
    }
    for seed in 0..30 {
        let mut rng = base::Rng::new(seed);
        let mut world = World::new();
        let mut players: Vec<Player> = Vec::new();
        let mut leaders: BTreeMap<i32, String> = BTreeMap::new();
        for now in (0..120_000).step_by(100) {
            world.tick(now);
            if players.len() < 8 && rng.chance(1, 20) {
                let token = world.join("", now);
                let until = now + 5_000 + rng.below(60_000);
                players.push(Player {
                    id: String::new(),
                    generation: -1,
                    joining: Some(token),
                    syncing: None,
                    until,
                    beat: now,
                });
            }
            for player in &mut players {
                if let Some(token) = player.joining {
                    let Some(Answer::Joined(joined)) = world.answers.get(&token).cloned() else { continue };
                    assert_eq!(joined.code, Code::NONE, "seed {seed} at {now}: {}", joined.code);
                    player.joining = None;
                    (player.id, player.generation) = (joined.member.clone(), joined.generation);
                    let leader = leaders.entry(joined.generation).or_insert_with(|| joined.leader.clone());
                    assert_eq!(*leader, joined.leader, "one leads a generation");
                    let gives: Vec<(String, Vec<u8>)> =
                        joined.members.iter().map(|(id, _, _)| (id.clone(), id.clone().into_bytes())).collect();
                    let gives: Vec<(&str, &str)> = gives.iter().map(|(id, _)| (id.as_str(), id.as_str())).collect();
                    player.syncing = Some(world.sync(&joined.member, joined.generation, &gives, now));
                }
                if let Some(token) = player.syncing {
                    let Some(Answer::Synced(synced)) = world.answers.get(&token).cloned() else { continue };
                    (player.syncing, player.beat) = (None, now);
                    match synced.code {
                        Code::NONE => assert_eq!(synced.assignment, player.id.as_bytes()),
                        Code::REBALANCE_IN_PROGRESS => player.joining = Some(world.join(&player.id, now)),
                        code => panic!("seed {seed} at {now}: a sync heard {code}"),
                    }
                    continue;
                }
                if rng.chance(1, 10) || now > player.beat + 3_000 {
                    player.beat = now;
                    match world.heartbeat(&player.id, player.generation, now) {
                        Code::NONE => {}
                        Code::REBALANCE_IN_PROGRESS => player.joining = Some(world.join(&player.id, now)),
                        code => panic!("seed {seed} at {now}: a heartbeat heard {code}"),
                    }
                }
            }
            let mut left = Vec::new();
            players.retain(|player| {
                let goes = player.until < now && player.joining.is_none() && player.syncing.is_none();
                if goes {
                    left.push(player.id.clone());
                }
                !goes
            });
            for id in left {
                // Some say so, some are silent from now on.
                if rng.below(2) == 0 {
                    let (code, effects) = world.own.leave("g", &id, None, at(now));
                    assert!(matches!(code, Code::NONE | Code::UNKNOWN_MEMBER_ID));
                    world.take(effects, at(now));
                }
            }
        }
        assert!(leaders.len() > 5, "seed {seed}: something happened");
    }
}

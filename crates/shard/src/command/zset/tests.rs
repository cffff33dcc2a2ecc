//! The answers of the sorted set commands; those that Redis 7.0 shares were taken from one.

use std::collections::BTreeSet;

use super::super::Served;
use super::super::testing::{World, golden, run, run_words, words};

#[test]
fn answers_are_those_of_redis() {
    golden(include_str!("tests.golden"));
}

#[test]
fn only_changes_move_the_version() {
    let mut world = World::new();
    run(&mut world, "ZADD z 1 a 2 b");
    let before = world.version("z");
    for line in [
        "ZADD z 1 a",
        "ZADD z NX 7 a",
        "ZADD z GT 0 a",
        "ZINCRBY z 0 a",
        "ZREM z nobody",
        "ZREMRANGEBYSCORE z 8 9",
        "ZPOPMIN z 0",
        "ZADD z INCR x a",
    ] {
        run(&mut world, line);
        assert_eq!(world.version("z"), before, "{line}");
    }
    run(&mut world, "ZADD z 3 a");
    assert_ne!(world.version("z"), before);
}

#[test]
fn waits_for_any_of_its_keys_and_is_served_by_the_first() {
    let mut world = World::new();
    assert_eq!(run(&mut world, "BZPOPMIN a b 2.5"), "waits");
    let block = world.block.take().expect("it waits");
    assert_eq!((block.keys, block.until), (words("a b"), world.now + 2500));
    run(&mut world, "ZADD b 1 x 2 y");
    assert_eq!(run_words(&mut world, &words("BZPOPMIN a b 2.5"), Served::Again), r#"["b", "x", "1"]"#);
    world.may_block = false;
    assert_eq!(run(&mut world, "BZMPOP 0 1 a MIN"), "nil[]");
    run(&mut world, "SET a text");
    assert!(run(&mut world, "BZPOPMAX a b 0").starts_with("-WRONGTYPE"));
}

#[test]
fn random_members_are_distinct_unless_asked_otherwise() {
    let mut world = World::new();
    for n in 0..300 {
        run(&mut world, &format!("ZADD z {n} m{n}"));
    }
    for count in [1, 5, 150, 299, 300, 1000] {
        let answer = run(&mut world, &format!("ZRANDMEMBER z {count}"));
        let members: Vec<_> = answer.trim_matches(['[', ']']).split(", ").collect();
        assert_eq!(members.len(), count.min(300));
        assert_eq!(members.iter().collect::<BTreeSet<_>>().len(), members.len());
    }
    assert_eq!(run(&mut world, "ZRANDMEMBER z -700").split(", ").count(), 700);
    assert_eq!(run(&mut world, "ZRANDMEMBER z -9223372036854775807"), "-ERR value is out of range");
}

#[test]
fn a_large_set_answers_as_a_small_one() {
    let mut world = World::new();
    for n in 0..1000 {
        run(&mut world, &format!("ZADD z {} m{n:03}", n / 10));
    }
    assert_eq!(run(&mut world, "ZRANGE z 5 (6 BYSCORE LIMIT 8 3"), r#"["m058", "m059"]"#);
    assert_eq!(run(&mut world, "ZRANGE z 6 5 BYSCORE REV LIMIT 9 2"), r#"["m060", "m059"]"#);
    assert_eq!(run(&mut world, "ZREVRANK z m990"), "9");
    assert_eq!(run(&mut world, "ZREMRANGEBYRANK z 10 -11"), "980");
    assert_eq!(run(&mut world, "ZCOUNT z -inf 50"), "10");
    assert_eq!(run(&mut world, "ZUNIONSTORE z 1 z WEIGHTS -1"), "20");
    assert_eq!(run(&mut world, "ZRANGE z 0 1 WITHSCORES"), r#"["m990", "-99", "m991", "-99"]"#);
}

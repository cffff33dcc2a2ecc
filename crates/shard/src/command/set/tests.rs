//! Sets: Redis's answers, set algebra against trees, random picks, and what moves a version.

use std::collections::BTreeSet;

use base::Rng;

use crate::command::testing::{World, golden, run};

#[test]
fn sets_answer_as_redis_does() {
    golden(include_str!("answers.txt"));
}

fn members(answer: &str) -> BTreeSet<String> {
    let inner = answer.trim_matches(['~', '[', ']']);
    let all: Vec<String> = inner.split(", ").filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let different: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(different.len(), all.len(), "a set repeats nothing: {answer}");
    different
}

#[test]
fn set_algebra_is_what_trees_would_give() {
    let mut rng = Rng::new(11);
    for round in 0..60 {
        let mut world = World::new();
        let text = if round % 2 == 0 { "" } else { "m" };
        let trees: Vec<BTreeSet<String>> = (0..3)
            .map(|set| {
                let tree = (0..rng.index(250)).map(|_| format!("{text}{}", rng.index(300))).collect::<BTreeSet<_>>();
                for member in &tree {
                    run(&mut world, &format!("SADD s{set} {member}"));
                }
                tree.iter().map(|member| format!("\"{member}\"")).collect()
            })
            .collect();
        let union: BTreeSet<String> = trees.iter().flatten().cloned().collect();
        let all = |member: &&String| trees.iter().all(|tree| tree.contains(*member));
        let intersection: BTreeSet<String> = trees[0].iter().filter(all).cloned().collect();
        let difference = &(&trees[0] - &trees[1]) - &trees[2];
        for (name, expected) in [("SUNION", union), ("SINTER", intersection), ("SDIFF", difference)] {
            assert_eq!(members(&run(&mut world, &format!("{name} s0 s1 s2"))), expected, "{name}");
            assert_eq!(run(&mut world, &format!("{name}STORE d s0 s1 s2")), expected.len().to_string());
            assert_eq!(members(&run(&mut world, "SMEMBERS d")), expected, "{name}STORE");
            assert_eq!(run(&mut world, "SCARD d"), expected.len().to_string());
            if name == "SINTER" {
                assert_eq!(run(&mut world, "SINTERCARD 3 s0 s1 s2"), expected.len().to_string());
            }
        }
    }
}

#[test]
fn pops_take_every_member_once_and_the_same_ones_on_every_replica() {
    for size in [30, 400] {
        let (mut one, mut other) = (World::new(), World::new());
        for n in 0..size {
            run(&mut one, &format!("SADD s m{n}"));
            run(&mut other, &format!("SADD s m{n}"));
        }
        let mut popped = BTreeSet::new();
        for count in 0.. {
            let answer = run(&mut one, &format!("SPOP s {count}"));
            assert_eq!(run(&mut other, &format!("SPOP s {count}")), answer);
            for member in members(&answer) {
                assert!(popped.insert(member), "popped twice");
            }
            if count > 0 && answer == "[]" {
                break;
            }
        }
        assert_eq!(popped.len(), size);
        assert!(one.tables.is_empty());
    }
}

#[test]
fn random_members_are_different_or_not_as_asked() {
    let mut world = World::new();
    for n in 0..300 {
        run(&mut world, &format!("SADD s m{n}"));
        if n < 30 {
            run(&mut world, &format!("SADD i {n}"));
        }
    }
    for (key, size) in [("s", 300), ("i", 30)] {
        for count in [1, 5, size - 1, size, size + 1] {
            assert_eq!(members(&run(&mut world, &format!("SRANDMEMBER {key} {count}"))).len(), count.min(size));
        }
        assert_eq!(run(&mut world, &format!("SRANDMEMBER {key} -1000")).split(", ").count(), 1000);
    }
    assert_eq!(run(&mut world, "SRANDMEMBER s -10000001"), "-ERR value is out of range");
    assert_eq!(run(&mut world, "SCARD s"), "300");
}

#[test]
fn only_real_changes_move_a_version() {
    let mut world = World::new();
    run(&mut world, "SADD s a b c");
    for line in ["SADD s a", "SREM s x", "SPOP s 0", "SMOVE s s a", "SMOVE s other x", "SMEMBERS s", "SRANDMEMBER s"] {
        let before = world.version("s");
        run(&mut world, line);
        assert_eq!(world.version("s"), before, "{line}");
    }
    for line in ["SADD s d", "SREM s d", "SMOVE s other a", "SPOP s", "SUNIONSTORE s other", "SDIFFSTORE s other other"]
    {
        let before = world.version("s");
        run(&mut world, line);
        assert!(world.version("s") > before, "{line}");
    }
    let gone = world.version("s");
    run(&mut world, "SDIFFSTORE s other other");
    assert_eq!(world.version("s"), gone, "what is not there cannot go");
}

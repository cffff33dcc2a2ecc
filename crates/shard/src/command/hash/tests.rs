//! Hashes: Redis's answers, scans, random picks, and what moves a version.

use std::collections::BTreeSet;

use crate::command::testing::{World, golden, run};

#[test]
fn hashes_answer_as_redis_does() {
    golden(include_str!("answers.txt"));
}

fn filled(fields: usize) -> World {
    let mut world = World::new();
    for n in 0..fields {
        run(&mut world, &format!("HSET h f{n} v{n}"));
    }
    world
}

/// The next cursor and the words of an answer of HSCAN.
fn step(answer: &str) -> (u64, Vec<String>) {
    let (cursor, rest) = answer[2..].split_once('"').expect("a cursor");
    let words = rest.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    (cursor.parse().expect("a number"), words)
}

#[test]
fn a_scan_of_a_large_hash_goes_in_steps_and_visits_everything() {
    let mut world = filled(600);
    let (mut seen, mut cursor, mut steps) = (BTreeSet::new(), 0, 0);
    loop {
        let (next, words) = step(&run(&mut world, &format!("HSCAN h {cursor} COUNT 50")));
        assert!(words.len() <= 100);
        for pair in words.chunks(2) {
            assert_eq!(pair[0][1..], pair[1][1..], "a field with its value");
            seen.insert(pair[0].clone());
        }
        steps += 1;
        cursor = next;
        if cursor == 0 {
            break;
        }
    }
    assert_eq!((seen.len(), steps), (600, 12));
    let (next, words) = step(&run(&mut world, "HSCAN h 0 MATCH f7 COUNT 1000"));
    assert_eq!((next, words), (0, vec!["f7".to_owned(), "v7".to_owned()]));
}

#[test]
fn random_fields_are_different_or_not_as_asked() {
    for fields in [20, 600] {
        let mut world = filled(fields);
        for count in [1, 5, fields - 1, fields, fields + 5] {
            let answer = run(&mut world, &format!("HRANDFIELD h {count}"));
            let picked: Vec<&str> = answer[1..answer.len() - 1].split(", ").collect();
            assert_eq!(picked.len(), count.min(fields));
            assert_eq!(picked.iter().collect::<BTreeSet<_>>().len(), picked.len());
        }
        let answer = run(&mut world, "HRANDFIELD h -1000");
        let picked: Vec<&str> = answer.split(", ").collect();
        assert_eq!(picked.len(), 1000);
        assert!(picked.iter().collect::<BTreeSet<_>>().len() > fields / 2);
    }
}

#[test]
fn more_picks_than_an_answer_may_hold_are_refused() {
    let mut world = filled(3);
    assert_eq!(run(&mut world, "HRANDFIELD h -10000001"), "-ERR value is out of range");
    assert_eq!(run(&mut world, "HRANDFIELD h -4611686018427387904"), "-ERR value is out of range");
    assert_eq!(run(&mut world, "HRANDFIELD h 9223372036854775807").split(", ").count(), 3);
}

#[test]
fn only_real_changes_move_a_version() {
    let mut world = World::new();
    run(&mut world, "HSET h a 1 t x");
    for line in ["HSETNX h a 2", "HDEL h nothing", "HINCRBY h t 1", "HINCRBYFLOAT h t 1", "HGET h a", "HRANDFIELD h"] {
        let before = world.version("h");
        run(&mut world, line);
        assert_eq!(world.version("h"), before, "{line}");
    }
    for line in ["HSET h a 1", "HSETNX h b 2", "HINCRBY h a 1", "HINCRBYFLOAT h a 1", "HDEL h a"] {
        let before = world.version("h");
        run(&mut world, line);
        assert!(world.version("h") > before, "{line}");
    }
}

#[test]
fn a_failed_increment_leaves_no_key_behind() {
    let mut world = World::new();
    assert_eq!(run(&mut world, "HINCRBYFLOAT fresh f inf"), "-ERR value is NaN or Infinity");
    assert_eq!(run(&mut world, "HINCRBY fresh f x"), "-ERR value is not an integer or out of range");
    assert_eq!(world.tables.len(0), 0);
}

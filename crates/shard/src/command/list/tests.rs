//! Lists: Redis's answers, what waits and what moves a version.

use crate::command::testing::{World, golden, run, run_words, words};
use crate::command::{Block, Served};

#[test]
fn lists_answer_as_redis_does() {
    golden(include_str!("answers.txt"));
}

fn block(keys: &[&str], until: u64) -> Option<Block> {
    let keys = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    Some(Block { keys, until, again: None, null_is_array: true })
}

#[test]
fn a_command_that_finds_nothing_waits_for_all_its_keys_and_answers_when_run_again() {
    let mut world = World::new();
    let now = world.now;
    for (line, keys, until, served) in [
        ("BLPOP a b c 1.5", &["a", "b", "c"][..], now + 1500, r#"["b", "1"]"#),
        ("BRPOP a b 0", &["a", "b"], 0, r#"["b", "3"]"#),
        ("BLMOVE b to LEFT RIGHT 0.0001", &["b"], now + 1, r#""1""#),
        ("BRPOPLPUSH b to 7", &["b"], now + 7000, r#""3""#),
        ("BLMPOP 2 2 a b RIGHT COUNT 2", &["a", "b"], now + 2000, r#"["b", ["3", "2"]]"#),
    ] {
        assert_eq!(run(&mut world, line), "waits", "{line}");
        assert_eq!(world.block, block(keys, until), "{line}");
        run(&mut world, "RPUSH b 1 2 3");
        assert_eq!(run_words(&mut world, &words(line), Served::Again), served, "{line}");
        run(&mut world, "LTRIM b 1 0");
    }
    assert_eq!(run(&mut world, "LRANGE to 0 -1"), r#"["3", "1"]"#);
}

#[test]
fn where_nobody_may_wait_the_answer_is_null_at_once() {
    let mut world = World::new();
    world.may_block = false;
    assert_eq!(run(&mut world, "BLPOP a 0"), "nil[]");
    assert_eq!(run(&mut world, "BRPOP a 0"), "nil[]");
    assert_eq!(run(&mut world, "BLMPOP 0 1 a LEFT"), "nil[]");
    assert_eq!(run(&mut world, "BLMOVE a b LEFT LEFT 0"), "nil");
    assert_eq!(run(&mut world, "BRPOPLPUSH a b 0"), "nil");
}

#[test]
fn only_real_changes_move_a_version() {
    let mut world = World::new();
    run(&mut world, "RPUSH l a b c");
    for line in [
        "LPOP l 0",
        "LINSERT l BEFORE nothing x",
        "LREM l 0 nothing",
        "LTRIM l 0 -1",
        "LSET l 9 x",
        "LRANGE l 0 -1",
        "LPOS l a",
        "LPUSHX nothing x",
        "LMOVE nothing l LEFT LEFT",
    ] {
        let before = world.version("l");
        run(&mut world, line);
        assert_eq!(world.version("l"), before, "{line}");
    }
    for line in ["LPUSH l x", "LINSERT l BEFORE a y", "LSET l 0 z", "LMOVE l l LEFT RIGHT", "LTRIM l 0 2", "LPOP l"] {
        let before = world.version("l");
        run(&mut world, line);
        assert!(world.version("l") > before, "{line}");
    }
}

#[test]
fn a_move_to_a_key_of_another_kind_leaves_the_element_where_it_is() {
    let mut world = World::new();
    run(&mut world, "SET s x");
    run(&mut world, "RPUSH l a");
    let before = world.version("l");
    assert!(run(&mut world, "LMOVE l s LEFT LEFT").starts_with("-WRONGTYPE"));
    assert!(run(&mut world, "BRPOPLPUSH l s 0").starts_with("-WRONGTYPE"));
    assert_eq!((run(&mut world, "LRANGE l 0 -1").as_str(), world.version("l")), (r#"["a"]"#, before));
}

#[test]
fn an_expired_list_is_absent_to_every_command() {
    let mut world = World::new();
    run(&mut world, "RPUSH l a b");
    world.tables.set_expire(0, b"l", world.now + 10, world.now);
    world.now += 10;
    assert_eq!(run(&mut world, "LLEN l"), "0");
    assert_eq!(run(&mut world, "LPUSHX l c"), "0");
    assert_eq!(run(&mut world, "RPUSH l c"), "1");
    assert_eq!(run(&mut world, "LRANGE l 0 -1"), r#"["c"]"#);
}

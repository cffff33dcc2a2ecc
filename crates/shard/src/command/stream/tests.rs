//! The answers of the stream commands; those that Redis 7.0 shares were taken from one.

use super::super::Served;
use super::super::testing::{World, golden, run, run_words, words};

#[test]
fn answers_are_those_of_redis() {
    golden(include_str!("tests.golden"));
}

#[test]
fn a_star_is_shard_time_and_never_goes_back() {
    let mut world = World::new();
    world.now = 1000;
    assert_eq!(run(&mut world, "XADD s * f v"), r#""1000-0""#);
    assert_eq!(run(&mut world, "XADD s * f v"), r#""1000-1""#);
    world.now = 900;
    assert_eq!(run(&mut world, "XADD s * f v"), r#""1000-2""#);
    world.now = 1001;
    assert_eq!(run(&mut world, "XADD s * f v"), r#""1001-0""#);
}

#[test]
fn approximate_trimming_leaves_whole_blocks() {
    let mut world = World::new();
    for n in 1..=1000 {
        run(&mut world, &format!("XADD s {n} f v"));
    }
    assert_eq!(run(&mut world, "XTRIM s MAXLEN ~ 450 LIMIT 150"), "100");
    assert_eq!(run(&mut world, "XTRIM s MAXLEN ~ 450"), "400");
    assert_eq!(run(&mut world, "XTRIM s MINID ~ 790"), "200");
    assert_eq!(run(&mut world, "XTRIM s MINID 790"), "89");
    assert_eq!(run(&mut world, "XRANGE s - + COUNT 1"), r#"[["790-0", ["f", "v"]]]"#);
}

#[test]
fn a_waiting_group_is_told_when_its_group_is_gone() {
    let mut world = World::new();
    run(&mut world, "XGROUP CREATE s g $ MKSTREAM");
    let line = "XREADGROUP GROUP g c BLOCK 100 STREAMS s >";
    assert_eq!(run(&mut world, line), "waits");
    let block = world.block.take().expect("it waits");
    assert_eq!((block.keys, block.until), (words("s"), world.now + 100));
    world.tables.set_watching(true);
    world.tables.take_touched();
    run(&mut world, "XGROUP DESTROY s g");
    assert_eq!(world.tables.take_touched().len(), 1);
    let gone = "-NOGROUP No such key 's' or consumer group 'g' in XREADGROUP with GROUP option";
    assert_eq!(run_words(&mut world, &words(line), Served::Again), gone);
    let now = world.now;
    world.tables.remove(0, b"s", now);
    assert_eq!(world.tables.take_touched().len(), 1);
    assert_eq!(run_words(&mut world, &words(line), Served::Again), gone);
}

#[test]
fn readers_of_a_group_do_not_wake_each_other() {
    let mut world = World::new();
    run(&mut world, "XGROUP CREATE s g $ MKSTREAM");
    run(&mut world, "XADD s 1 f v");
    world.tables.set_watching(true);
    let before = world.version("s");
    run(&mut world, "XREADGROUP GROUP g c STREAMS s >");
    run(&mut world, "XREADGROUP GROUP g d BLOCK 0 STREAMS s >");
    run(&mut world, "XACK s g 1");
    assert_eq!((world.version("s"), world.tables.take_touched().len()), (before, 0));
    run(&mut world, "XDEL s 7");
    run(&mut world, "XTRIM s MAXLEN 5");
    assert_eq!(world.version("s"), before);
}

#[test]
fn a_waiting_read_remembers_where_it_began() {
    let mut world = World::new();
    run(&mut world, "XADD s 5 f v");
    assert_eq!(run(&mut world, "XREAD COUNT 3 BLOCK 20 STREAMS s none $ 0"), "waits");
    let block = world.block.take().expect("it waits");
    assert_eq!(block.keys, words("s none"));
    assert_eq!(block.until, world.now + 20);
    let again = block.again.expect("a dollar sign becomes an id");
    assert_eq!(again, words("XREAD COUNT 3 BLOCK 20 STREAMS s none 5-0 0"));
    run(&mut world, "XADD s 6 f v");
    assert_eq!(run_words(&mut world, &again, Served::Again), r#"[["s", [["6-0", ["f", "v"]]]]]"#);
    assert_eq!(run(&mut world, "XREAD BLOCK 0 STREAMS s 6"), "waits");
    assert_eq!(world.block.take().map(|block| (block.until, block.again)), Some((0, None)));
    world.may_block = false;
    assert_eq!(run(&mut world, "XREAD BLOCK 0 STREAMS s 6"), "nil[]");
}

#[test]
fn keys_are_found_behind_streams() {
    let spec = super::super::find(b"xreadgroup").expect("it is there");
    let line = words("XREADGROUP GROUP streams c COUNT 2 STREAMS a b > >");
    let args: Vec<&[u8]> = line.iter().map(Vec::as_slice).collect();
    assert_eq!(spec.key_places(&args)[..], [7, 8]);
    assert!(spec.key_places(&args[..8]).is_empty());
}

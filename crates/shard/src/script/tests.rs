//! What is kept, and what it costs to keep too much.

use base::Limits;
use store::codec::{Input, Stored};

use super::*;

fn small() -> Limits {
    Limits { scripts_max: 3, ..Limits::default() }
}

#[test]
fn scripts_survive_a_snapshot() {
    let mut scripts = Scripts::default();
    let limits = small();
    let first = scripts.keep(b"return 1", true, &limits).unwrap();
    scripts.keep(b"return 2", false, &limits).unwrap();
    let mut bytes = Vec::new();
    scripts.encode(&mut bytes);
    let mut again = Scripts::decode(&mut Input::new(&bytes)).unwrap();
    assert_eq!((again.len(), again.bytes()), (2, 16));
    assert!(again.find(first.hex().as_bytes(), &limits).is_ok());
    let mut twice = Vec::new();
    Scripts::decode(&mut Input::new(&bytes)).unwrap().encode(&mut twice);
    assert_eq!(bytes, twice, "the stored form does not depend on how the state came about");
    for end in 0..bytes.len() {
        assert!(Scripts::decode(&mut Input::new(&bytes[..end])).is_err(), "a cut at {end} is noticed");
    }
}

#[test]
fn evaluated_scripts_go_before_loaded_ones_and_the_longest_unused_first() {
    let limits = small();
    let mut scripts = Scripts::default();
    let loaded = scripts.keep(b"return 0", true, &limits).unwrap().hex();
    let [one, two, three, four] =
        ["return 1", "return 2", "return 3", "return 4"].map(|source| sha1::hex(&sha1::digest(source.as_bytes())));
    scripts.keep(b"return 1", false, &limits).unwrap();
    scripts.keep(b"return 2", false, &limits).unwrap();
    scripts.find(one.as_bytes(), &limits).unwrap();
    scripts.keep(b"return 3", false, &limits).unwrap();
    assert!(!scripts.has(two.as_bytes()) && scripts.has(one.as_bytes()) && scripts.has(three.as_bytes()));
    scripts.keep(b"return 4", true, &limits).unwrap();
    scripts.keep(b"return 5", true, &limits).unwrap();
    assert!(scripts.has(loaded.as_bytes()) && scripts.has(four.as_bytes()) && scripts.len() == 3);
    scripts.keep(b"return 6", false, &limits).unwrap();
    assert!(!scripts.has(loaded.as_bytes()), "with nothing but loaded ones the oldest of them goes");
}

#[test]
fn scripts_that_do_not_compile_or_are_too_long_are_not_kept() {
    let mut scripts = Scripts::default();
    let limits = Limits { script_bytes_max: 100, ..Limits::default() };
    let long = format!("return '{}'", "x".repeat(100));
    let error = scripts.keep(long.as_bytes(), true, &limits).unwrap_err();
    assert_eq!(error.0, "ERR Script exceeds the limit of 100 bytes (limit script_bytes_max)");
    assert!(scripts.keep(b"retur", true, &limits).is_err());
    assert!(scripts.keep(b"\x1bLuaQ", true, &limits).is_err(), "bytecode is refused");
    assert!(scripts.is_empty());
}

use super::*;
use crate::Catalog;
use crate::change::{Change, Outcome, Refusal, Verb};

fn op(verb: Verb, key: &str, value: &str) -> KvOp {
    let value = Blob(value.as_bytes().to_vec());
    KvOp { verb, key: key.into(), value, flags: 0, index: 0, session: String::new() }
}

/// Number, key, who, before, after.
type Told = (u64, String, String, Option<String>, Option<String>);

struct World {
    catalog: Catalog,
    index: u64,
}

impl World {
    fn new() -> World {
        World { catalog: Catalog::default(), index: 0 }
    }

    fn apply(&mut self, change: &Change) -> Outcome {
        self.index += 1;
        // What is stored is what was meant.
        let change = Change::decode(&change.encode()).expect("its own form");
        self.catalog.apply_at(&change, self.index, self.index * 1000)
    }

    fn keep(&mut self, prefix: &str, schema: &str) -> Outcome {
        let (prefix, schema) = (prefix.to_owned(), schema.to_owned());
        self.apply(&Change::Config(ConfigChange::Keep { space: Space::Consul, prefix, schema }))
    }

    fn by(&mut self, who: &str, ops: Vec<KvOp>) -> Outcome {
        self.apply(&Change::Config(ConfigChange::By { who: who.into(), ops }))
    }

    fn turns(&self) -> Vec<Told> {
        let text = |value: &Option<Blob>| value.as_ref().map(|value| String::from_utf8_lossy(&value.0).into_owned());
        let turns = self.catalog.config().turns();
        turns.map(|turn| (turn.number, turn.key.clone(), turn.who.clone(), text(&turn.from), text(&turn.to))).collect()
    }
}

fn refused(outcome: &Outcome) -> &str {
    match outcome {
        Outcome::KvFailed(failures) => &failures[0].why,
        Outcome::Refused(_, why) => why,
        other => panic!("it was done: {other:?}"),
    }
}

#[test]
fn what_does_not_fit_is_refused_whoever_writes_it_and_nothing_is_done() {
    let mut world = World::new();
    world.apply(&Change::Kv(vec![op(Verb::Set, "flags/a", "true")]));
    assert_eq!(world.keep("flags/", r#"{"type":"boolean"}"#), Outcome::Done(2));
    let before = format!("{:?}", world.catalog.kv);
    for change in [
        Change::Kv(vec![op(Verb::Set, "flags/b", "maybe")]),
        Change::Kv(vec![op(Verb::Set, "other", "x"), op(Verb::Set, "flags/a", "1")]),
        Change::Config(ConfigChange::By { who: "me".into(), ops: vec![op(Verb::Cas, "flags/b", "\"true\"")] }),
    ] {
        let outcome = world.apply(&change);
        assert!(
            refused(&outcome).contains("boolean is wanted") || refused(&outcome).contains("no JSON"),
            "{outcome:?}"
        );
        let Outcome::KvFailed(failures) = outcome else { panic!("{outcome:?}") };
        assert!(!failures[0].stale);
    }
    assert_eq!(format!("{:?}", world.catalog.kv), before);
    // In a transaction it is the last word on a key that counts.
    let ops = vec![op(Verb::Set, "flags/a", "perhaps"), op(Verb::Set, "flags/a", "false")];
    assert!(matches!(world.by("maria", ops), Outcome::Kv(_)));
    assert!(matches!(world.apply(&Change::Kv(vec![op(Verb::Delete, "flags/a", "")])), Outcome::Kv(_)));
    assert_eq!(
        world.turns(),
        [
            (1, "flags/a".into(), "maria".into(), Some("true".into()), Some("false".into())),
            (2, "flags/a".into(), String::new(), Some("false".into()), None),
        ]
    );
    // The same again is no change.
    world.by("x", vec![op(Verb::Set, "flags/c", "true")]);
    world.by("y", vec![op(Verb::Set, "flags/c", "true")]);
    assert_eq!(world.turns().len(), 3);
}

#[test]
fn the_longest_prefix_counts_and_a_schema_must_fit_what_is_there() {
    let mut world = World::new();
    world.keep("app/", r#"{"type":"object"}"#);
    assert_eq!(world.keep("app/limits/", r#"{"type":"integer"}"#), Outcome::Done(2));
    assert!(matches!(
        world.by("", vec![op(Verb::Set, "app/limits/x", "3"), op(Verb::Set, "app/y", "{}")]),
        Outcome::Kv(_)
    ));
    let wrong = world.keep("app/", r#"{"type":"null"}"#);
    assert!(refused(&wrong).contains("\"app/y\" does not fit"), "{wrong:?}");
    // It is not changed by a schema that is refused.
    assert!(matches!(world.by("", vec![op(Verb::Set, "app/z", "{}")]), Outcome::Kv(_)));
    for (prefix, schema, part) in
        [("", "", "1 to 512 bytes"), ("x", "{", "no JSON"), ("x", r#"{"pattern":"a"}"#, "not available")]
    {
        let outcome = world.keep(prefix, schema);
        assert!(
            matches!(outcome, Outcome::Refused(Refusal::Invalid, _)) && refused(&outcome).contains(part),
            "{outcome:?}"
        );
    }
    let forget = |prefix: &str| Change::Config(ConfigChange::Forget { space: Space::Consul, prefix: prefix.into() });
    assert!(matches!(world.apply(&forget("app/limits/")), Outcome::Done(_)));
    assert!(matches!(world.apply(&forget("app/limits/")), Outcome::Refused(Refusal::Unknown, _)));
    assert!(refused(&world.by("", vec![op(Verb::Set, "app/limits/x", "4")])).contains("object is wanted"));
    // Without a rule everything goes, and nothing is remembered.
    let count = world.turns().len();
    world.apply(&forget("app/"));
    assert!(matches!(world.by("", vec![op(Verb::Set, "app/limits/x", "?")]), Outcome::Kv(_)));
    assert_eq!(world.turns().len(), count);
}

#[test]
fn every_bound_holds() {
    let mut world = World::new();
    world.keep("c/", "");
    let large = "x".repeat(VALUE_BYTES_MAX + 1);
    assert!(refused(&world.by("", vec![op(Verb::Set, "c/a", &large)])).contains("at most 65536"));
    assert!(matches!(world.by("", vec![op(Verb::Set, "other", &large)]), Outcome::Kv(_)));
    // History by bytes: a change holds what was before and after.
    let whole = "x".repeat(VALUE_BYTES_MAX - 8);
    for number in 0..200 {
        world.by(&"w".repeat(500), vec![op(Verb::Set, "c/a", &format!("{whole}{number}"))]);
    }
    let turns = world.turns();
    assert!((60..80).contains(&turns.len()), "{} changes are remembered", turns.len());
    assert_eq!(turns.last().map(|turn| (turn.0, turn.2.len())), Some((200, WHO_BYTES_MAX)));
    // And by number.
    for number in 0..HISTORY_MAX + 70 {
        world.by("", vec![op(Verb::Set, "c/b", &number.to_string())]);
    }
    assert!(world.turns().len() <= HISTORY_MAX);
    for number in 1..RULES_MAX {
        assert!(matches!(world.keep(&format!("p{number}/"), ""), Outcome::Done(_)));
    }
    assert!(refused(&world.keep("more", "")).contains("the most"));
    assert!(matches!(world.keep("c/", ""), Outcome::Done(_)), "one that is there may be changed");
}

#[test]
fn too_many_keys_are_not_made_configuration_at_once() {
    let mut world = World::new();
    for number in 0..=KEYS_AT_FIRST_MAX {
        world.apply(&Change::Kv(vec![op(Verb::Set, &format!("k/{number}"), "1")]));
    }
    assert!(refused(&world.keep("k/", "true")).contains("too many"));
    assert!(matches!(world.keep("k/", ""), Outcome::Done(_)));
}

#[test]
fn a_snapshot_holds_rules_and_history() {
    let mut world = World::new();
    world.keep("flags/", r#"{"type":"boolean"}"#);
    world.by("maria", vec![op(Verb::Set, "flags/a", "true")]);
    let mut books = Vec::new();
    world.catalog.begin_walk(&mut books);
    let mut chunk = Vec::new();
    while !world.catalog.walk(1 << 20, &mut chunk) {}
    let mut other = Catalog::read_books(&mut Input::new(&books)).expect("its own form");
    other.restore(&chunk).expect("its own form");
    other.finish_restore();
    let mut world = World { catalog: other, index: world.index };
    assert_eq!(world.turns(), [(1, "flags/a".into(), "maria".into(), None, Some("true".into()))]);
    assert!(refused(&world.by("", vec![op(Verb::Set, "flags/a", "1")])).contains("boolean"));
    world.by("paul", vec![op(Verb::Set, "flags/a", "false")]);
    assert_eq!(world.turns().last().map(|turn| turn.0), Some(2));
    // Without configuration the form is that of before.
    let mut books = Vec::new();
    Catalog::default().begin_walk(&mut books);
    assert_eq!(books[0], 2);
}

#[test]
fn who_asks_for_what_is_no_configuration_is_not_remembered() {
    let mut world = World::new();
    world.keep("flags/", "");
    let concerns = |world: &World, verb, key: &str| world.catalog.config().concerns(&[op(verb, key, "")]);
    for (verb, key, wanted) in [
        (Verb::Set, "flags/a", true),
        (Verb::Set, "flag", false),
        (Verb::Get, "flags/a", false),
        (Verb::DeleteTree, "fl", true),
        (Verb::DeleteTree, "", true),
        (Verb::DeleteTree, "flags/a/b", true),
        (Verb::Delete, "x", false),
    ] {
        assert_eq!(concerns(&world, verb, key), wanted, "{verb:?} {key}");
    }
}

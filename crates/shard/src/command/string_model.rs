//! Strings and their expiries against a model of a dozen lines: a map from keys to a text and a moment.
//!
//! Besides the answers two laws are checked after every command: a key whose text or moment changed has another version
//! (WATCH must see it), and a command that changed nothing has left every version as it was.

use std::collections::BTreeMap;

use base::Millis;
use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::{World, run};

const KEYS: [&str; 3] = ["a", "b", "c"];

#[derive(Clone, Copy, Debug)]
enum Moment {
    Never,
    Keep,
    Px(u64),
    PxAt(i64),
}

#[derive(Clone, Debug)]
enum Step {
    Set {
        key: usize,
        text: String,
        condition: &'static str,
        get: bool,
        moment: Moment,
    },
    Append(usize, String),
    Add(usize, i64),
    Expire {
        key: usize,
        span: i64,
        condition: &'static str,
    },
    Persist(usize),
    Rename(usize, usize),
    Copy(usize, usize, bool),
    Delete(usize),
    GetEx(usize, Moment),
    Read(usize),
    Pass(u64),
    /// What the leader proposes now and then: keys that have expired are removed.
    Sweep,
}

#[derive(Clone, Debug, PartialEq)]
struct Held {
    text: String,
    expire: Option<Millis>,
}

#[derive(Clone, Debug, Default)]
struct Model {
    keys: BTreeMap<usize, Held>,
    now: Millis,
}

impl Model {
    fn drop_expired(&mut self) {
        let now = self.now;
        self.keys.retain(|_, held| held.expire.is_none_or(|at| at > now));
    }

    fn put(&mut self, key: usize, text: String, expire: Option<Millis>) {
        self.keys.insert(key, Held { text, expire });
        self.drop_expired();
    }

    /// The answer, as [`run`] prints it.
    fn apply(&mut self, step: &Step) -> String {
        let quoted = |held: Option<&Held>| held.map_or("nil".to_string(), |held| format!("\"{}\"", held.text));
        match step {
            Step::Set { key, text, condition, get, moment } => {
                let old = self.keys.get(key).cloned();
                let allowed = match *condition {
                    "NX" => old.is_none(),
                    "XX" => old.is_some(),
                    _ => true,
                };
                if allowed {
                    let expire = match moment {
                        Moment::Never => None,
                        Moment::Keep => old.as_ref().and_then(|held| held.expire),
                        Moment::Px(span) => Some(self.now + span),
                        Moment::PxAt(at) => Some(*at as Millis),
                    };
                    self.put(*key, text.clone(), expire);
                }
                match (get, allowed) {
                    (true, _) => quoted(old.as_ref()),
                    (false, true) => "OK".into(),
                    (false, false) => "nil".into(),
                }
            }
            Step::Append(key, tail) => {
                let held = self.keys.entry(*key).or_insert(Held { text: String::new(), expire: None });
                held.text.push_str(tail);
                held.text.len().to_string()
            }
            Step::Add(key, by) => {
                let held = self.keys.get(key).cloned().unwrap_or(Held { text: "0".into(), expire: None });
                let Some(old) = base::parse_i64(held.text.as_bytes()) else {
                    return "-ERR value is not an integer or out of range".into();
                };
                let Some(sum) = old.checked_add(*by) else {
                    return "-ERR increment or decrement would overflow".into();
                };
                self.keys.insert(*key, Held { text: sum.to_string(), ..held });
                sum.to_string()
            }
            Step::Expire { key, span, condition } => {
                let at = self.now as i64 + span;
                let Some(held) = self.keys.get_mut(key) else {
                    return "0".into();
                };
                let old = held.expire.map_or(i64::MAX, |at| at as i64);
                let allowed = match *condition {
                    "NX" => held.expire.is_none(),
                    "XX" => held.expire.is_some(),
                    "GT" => at > old,
                    "LT" => at < old,
                    _ => true,
                };
                if allowed {
                    held.expire = Some(at.max(0) as Millis);
                    self.drop_expired();
                }
                u8::from(allowed).to_string()
            }
            Step::Persist(key) => {
                let expire = self.keys.get_mut(key).and_then(|held| held.expire.take());
                u8::from(expire.is_some()).to_string()
            }
            Step::Rename(from, to) => match self.keys.remove(from) {
                Some(held) => {
                    self.keys.insert(*to, held);
                    "OK".into()
                }
                None => "-ERR no such key".into(),
            },
            Step::Copy(from, to, _) if from == to => "-ERR source and destination objects are the same".into(),
            Step::Copy(from, to, replace) => match self.keys.get(from).cloned() {
                Some(held) if *replace || !self.keys.contains_key(to) => {
                    self.keys.insert(*to, held);
                    "1".into()
                }
                _ => "0".into(),
            },
            Step::Delete(key) => u8::from(self.keys.remove(key).is_some()).to_string(),
            Step::GetEx(key, moment) => {
                let old = self.keys.get(key).cloned();
                if let Some(held) = self.keys.get_mut(key) {
                    match moment {
                        Moment::Never => held.expire = None,
                        Moment::Keep => {}
                        Moment::Px(span) => held.expire = Some(self.now + span),
                        Moment::PxAt(at) => held.expire = Some(*at as Millis),
                    }
                    self.drop_expired();
                }
                quoted(old.as_ref())
            }
            Step::Read(key) => quoted(self.keys.get(key)),
            Step::Pass(span) => {
                self.now += span;
                self.drop_expired();
                String::new()
            }
            Step::Sweep => String::new(),
        }
    }
}

/// The command line of a step; `None` where it is none.
fn line(step: &Step) -> Option<String> {
    Some(match step {
        Step::Set { key, text, condition, get, moment } => {
            let moment = match moment {
                Moment::Never => String::new(),
                Moment::Keep => "KEEPTTL".into(),
                Moment::Px(span) => format!("PX {span}"),
                Moment::PxAt(at) => format!("PXAT {at}"),
            };
            format!("SET {} \"{text}\" {condition} {} {moment}", KEYS[*key], if *get { "GET" } else { "" })
        }
        Step::Append(key, tail) => format!("APPEND {} \"{tail}\"", KEYS[*key]),
        Step::Add(key, by) => format!("INCRBY {} {by}", KEYS[*key]),
        Step::Expire { key, span, condition } => format!("PEXPIRE {} {span} {condition}", KEYS[*key]),
        Step::Persist(key) => format!("PERSIST {}", KEYS[*key]),
        Step::Rename(from, to) => format!("RENAME {} {}", KEYS[*from], KEYS[*to]),
        Step::Copy(from, to, replace) => {
            format!("COPY {} {} {}", KEYS[*from], KEYS[*to], if *replace { "REPLACE" } else { "" })
        }
        Step::Delete(key) => format!("DEL {}", KEYS[*key]),
        Step::GetEx(key, moment) => {
            let moment = match moment {
                Moment::Never => "PERSIST".into(),
                Moment::Keep => String::new(),
                Moment::Px(span) => format!("PX {span}"),
                Moment::PxAt(at) => format!("PXAT {at}"),
            };
            format!("GETEX {} {moment}", KEYS[*key])
        }
        Step::Read(key) => format!("GET {}", KEYS[*key]),
        Step::Pass(_) | Step::Sweep => return None,
    })
}

const START: Millis = 1000;

fn moment() -> impl Strategy<Value = Moment> {
    prop_oneof![
        Just(Moment::Never),
        Just(Moment::Keep),
        (1..100u64).prop_map(Moment::Px),
        (1..2 * START as i64).prop_map(Moment::PxAt),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0..KEYS.len();
    let text = || prop_oneof!["[a-c]{0,30}", "[0-9]{1,3}", Just(i64::MAX.to_string())];
    let set = (key(), text(), prop::sample::select(vec!["", "", "NX", "XX"]), any::<bool>(), moment());
    let condition = prop::sample::select(vec!["", "NX", "XX", "GT", "LT"]);
    prop_oneof![
        4 => set.prop_map(|(key, text, condition, get, moment)| Step::Set { key, text, condition, get, moment }),
        2 => (key(), text()).prop_map(|(key, tail)| Step::Append(key, tail)),
        2 => (key(), -5..5i64).prop_map(|(key, by)| Step::Add(key, by)),
        2 => (key(), -20..100i64, condition).prop_map(|(key, span, condition)| Step::Expire { key, span, condition }),
        1 => key().prop_map(Step::Persist),
        1 => (key(), key()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (key(), key(), any::<bool>()).prop_map(|(from, to, replace)| Step::Copy(from, to, replace)),
        1 => key().prop_map(Step::Delete),
        1 => (key(), moment()).prop_map(|(key, moment)| Step::GetEx(key, moment)),
        1 => key().prop_map(Step::Read),
        2 => (1..60u64).prop_map(Step::Pass),
        1 => Just(Step::Sweep),
    ]
}

fn sweep(world: &mut World) {
    let mut gone = Vec::new();
    world.tables.expired(world.now, usize::MAX, |db, key| gone.push((db, key.to_vec())));
    for (db, key) in gone {
        assert!(!world.tables.remove(db, &key, world.now), "an expired key is removed but counts as absent");
    }
}

fn check(steps: &[Step]) {
    let mut world = World::new();
    world.now = START;
    let mut model = Model { now: START, ..Model::default() };
    for (at, step) in steps.iter().enumerate() {
        let before = (model.clone(), KEYS.map(|key| world.version(key)));
        let expected = model.apply(step);
        match line(step) {
            Some(line) => assert_eq!(run(&mut world, &line), expected, "step {at}: {line}"),
            None if matches!(step, Step::Sweep) => sweep(&mut world),
            None => world.now = model.now,
        }
        let mut untouched = true;
        for (index, key) in KEYS.iter().enumerate() {
            let (old, new) = (before.0.keys.get(&index), model.keys.get(&index));
            if old != new {
                untouched = false;
                assert_ne!(world.version(key), before.1[index], "step {at}: WATCH {key} must see {step:?}");
            }
            let text = new.map_or("nil".into(), |held| format!("\"{}\"", held.text));
            assert_eq!(run(&mut world, &format!("GET {key}")), text, "step {at}: {key} after {step:?}");
            let expire = new.map_or(-2, |held| held.expire.map_or(-1, |at| at as i64));
            let answer = run(&mut world, &format!("PEXPIRETIME {key}"));
            assert_eq!(answer, expire.to_string(), "step {at}: {key} after {step:?}");
        }
        let overwrites = matches!(step, Step::Set { .. } | Step::Add(..) | Step::Copy(..));
        if untouched && !overwrites {
            assert_eq!(KEYS.map(|key| world.version(key)), before.1, "step {at}: {step:?} changed nothing");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn strings_and_expiries_do_as_the_model(steps in vec(step(), 1..60)) {
        check(&steps);
    }
}

#[test]
fn a_key_that_came_and_expired_has_another_absence() {
    let mut world = World::new();
    let absent = world.version("k");
    run(&mut world, "SET k v PX 10");
    world.now += 10;
    let expired = world.version("k");
    assert_ne!(expired, absent, "WATCH must see that the key was there");
    sweep(&mut world);
    assert_eq!(world.version("k"), expired, "removing what is absent changes nothing");
}

#[test]
fn flushing_or_swapping_moves_only_the_versions_of_keys_that_were_there() {
    let mut world = World::new();
    run(&mut world, "SET there v");
    let (there, absent) = (world.version("there"), world.version("absent"));
    world.db = 1;
    run(&mut world, "FLUSHDB");
    run(&mut world, "SWAPDB 2 3");
    world.db = 0;
    assert_eq!((world.version("there"), world.version("absent")), (there, absent), "other databases changed");
    run(&mut world, "SWAPDB 0 1");
    assert_ne!(world.version("there"), there, "it went to another database");
    run(&mut world, "SWAPDB 0 1");
    let there = world.version("there");
    run(&mut world, "FLUSHALL");
    assert_ne!(world.version("there"), there, "it was removed");
    assert_eq!(world.version("absent"), absent, "it never was there");
}

//! The judges, judged by histories that others have published with their verdicts: `published/README.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use history::linear::{Operation, Verdict, check};
use history::{List, Moment, Outcome};

/// Of the 102 histories of etcd's (one of the 103 numbers is empty), those that one order explains; verdicts of porcupine's own tests.
const EXPLAINED: [u32; 23] =
    [2, 5, 7, 18, 25, 31, 38, 45, 48, 49, 51, 53, 56, 67, 75, 76, 80, 87, 92, 98, 100, 101, 102];
const STEPS_MAX: u64 = 2_000_000;

/// An operation on a register; an outcome that nobody knows is possible in any state.
#[derive(Clone, Debug)]
enum Register {
    /// What was read, where it was answered: nothing yet, or a number.
    Read(Option<Option<i64>>),
    Write(i64),
    /// From, to, and whether it was done.
    Swap(i64, i64, Option<bool>),
}

fn register(state: &Option<i64>, seen: &Register) -> Option<Option<i64>> {
    match seen {
        Register::Read(value) => value.is_none_or(|value| value == *state).then_some(*state),
        Register::Write(value) => Some(Some(*value)),
        Register::Swap(from, to, done) => {
            let fits = *state == Some(*from);
            done.is_none_or(|done| done == fits).then_some(if fits { Some(*to) } else { *state })
        }
    }
}

/// A history as Jepsen logged it: `INFO  jepsen.util - PROCESS :invoke :cas [3 0]`.
fn registers(text: &str) -> Vec<Operation<Register>> {
    let mut all: Vec<Operation<Register>> = Vec::new();
    let mut open: BTreeMap<&str, usize> = BTreeMap::new();
    for (now, line) in text.lines().enumerate() {
        let words: Vec<&str> = line.split_whitespace().skip(3).collect();
        let [process, kind, operation, rest @ ..] = words.as_slice() else { continue };
        let numbers: Vec<i64> = rest.iter().filter_map(|word| word.trim_matches(['[', ']']).parse().ok()).collect();
        let now = now as Moment;
        if *kind == ":invoke" {
            let what = match *operation {
                ":read" => Register::Read(None),
                ":write" => Register::Write(numbers[0]),
                _ => Register::Swap(numbers[0], numbers[1], None),
            };
            open.insert(process, all.len());
            all.push(Operation { what, begun: now, ended: Moment::MAX });
            continue;
        }
        // Not `:info`: what timed out may still happen. A read that failed says nothing, and may end here.
        if *kind == ":info" {
            continue;
        }
        let Some(number) = open.remove(process) else { continue };
        let own = &mut all[number];
        own.ended = now;
        match &mut own.what {
            Register::Read(value) if *kind == ":ok" => *value = Some(numbers.first().copied()),
            Register::Swap(_, _, done) => *done = Some(*kind == ":ok"),
            Register::Read(_) | Register::Write(_) => {}
        }
    }
    all
}

#[derive(Clone, Debug)]
enum Text {
    Get(String),
    Put(String),
    Append(String),
}

fn text(state: &String, seen: &Text) -> Option<String> {
    match seen {
        Text::Get(value) => (value == state).then(|| state.clone()),
        Text::Put(value) => Some(value.clone()),
        Text::Append(value) => Some(format!("{state}{value}")),
    }
}

/// Each key's history: `{:process 0, :type :invoke, :f :append, :key "0", :value "x 0 0 y"}`.
fn keys(history: &str) -> BTreeMap<String, Vec<Operation<Text>>> {
    let mut all: BTreeMap<String, Vec<Operation<Text>>> = BTreeMap::new();
    let mut open: BTreeMap<&str, (String, usize)> = BTreeMap::new();
    for (now, line) in history.lines().enumerate() {
        let field = |name: &str| {
            let rest = line.split_once(name)?.1.trim_start();
            Some(
                rest.strip_prefix('"').map_or_else(|| rest.split([',', '}']).next(), |quoted| quoted.split('"').next()),
            )?
        };
        let (Some(process), Some(key), Some(value)) = (field(":process"), field(":key"), field(":value")) else {
            continue;
        };
        let now = now as Moment;
        if line.contains(":invoke") {
            let what = match field(":f") {
                Some(":get") => Text::Get(String::new()),
                Some(":put") => Text::Put(value.into()),
                _ => Text::Append(value.into()),
            };
            let own = all.entry(key.into()).or_default();
            open.insert(process, (key.into(), own.len()));
            own.push(Operation { what, begun: now, ended: Moment::MAX });
        } else if let Some((key, number)) = open.remove(process) {
            let own = &mut all.get_mut(&key).expect("it was asked for")[number];
            own.ended = now;
            if let Text::Get(seen) = &mut own.what {
                value.clone_into(seen);
            }
        }
    }
    all
}

/// The same key's history as one of a list, where it is one: nothing was put, and no value appended twice.
fn as_list(history: &[Operation<Text>]) -> Option<List> {
    // "x 3 17 y" is the value 3017 of client 3.
    let number = |words: &str| -> Option<u64> {
        let mut words = words.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        Some(words.next()? * 1_000_000 + words.next()?)
    };
    let mut list = List::default();
    let mut appended = BTreeSet::new();
    for Operation { what, begun, ended } in history {
        match what {
            Text::Put(_) => return None,
            Text::Append(value) => {
                let value = number(value).filter(|value| appended.insert(*value))?;
                let append = list.begin(value, *begun);
                list.end(append, if *ended == Moment::MAX { Outcome::Unknown } else { Outcome::Stored(*ended) });
            }
            Text::Get(value) => {
                let values = value.split('y').filter_map(number).collect();
                list.read(values, *begun, *ended);
            }
        }
    }
    Some(list)
}

/// How many histories were judged, and how many keys of them by the judge of lists too.
#[derive(Debug, Default, PartialEq)]
struct Judged {
    explained: usize,
    contradicted: usize,
    lists: usize,
}

fn judge(directory: &Path) -> Judged {
    let mut judged = Judged::default();
    let mut files: Vec<_> =
        std::fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file").path()).collect();
    files.sort();
    for path in files {
        if path.is_dir() {
            let Judged { explained, contradicted, lists } = judge(&path);
            judged.explained += explained;
            judged.contradicted += contradicted;
            judged.lists += lists;
            continue;
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let history = std::fs::read_to_string(&path).expect("text");
        let (verdict, expected) = if let Some(number) = name.strip_prefix("etcd_") {
            let number: u32 = number.trim_end_matches(".log").parse().expect("etcd_NUMBER.log");
            let history = registers(&history);
            if history.is_empty() {
                continue;
            }
            (check(None, register, &history, STEPS_MAX), EXPLAINED.contains(&number))
        } else if name.ends_with("-ok.txt") || name.ends_with("-bad.txt") {
            let mut verdict = Verdict::Explained;
            for (key, history) in keys(&history) {
                let own = check(String::new(), text, &history, STEPS_MAX);
                if let Some(list) = as_list(&history) {
                    let said = list.check();
                    let agree = own == Verdict::TooMuch || said.is_ok() == (own == Verdict::Explained);
                    assert!(agree, "{name}, key {key}: {own:?}, {said:?}");
                    judged.lists += 1;
                }
                // One key that no order explains is enough, however long another one would take.
                if verdict != Verdict::Contradicted && own != Verdict::Explained {
                    verdict = own;
                }
            }
            (verdict, name.ends_with("-ok.txt"))
        } else {
            continue;
        };
        assert_eq!(verdict, if expected { Verdict::Explained } else { Verdict::Contradicted }, "{name}");
        *(if expected { &mut judged.explained } else { &mut judged.contradicted }) += 1;
    }
    judged
}

#[test]
fn published_histories_get_their_verdicts() {
    let own = judge(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/published"));
    assert_eq!((own.explained, own.contradicted), (4, 4), "{own:?}");
    assert!(own.lists > 4, "{own:?}");
    // All of porcupine's, where somebody has them.
    if let Some(all) = std::env::var_os("QUORATE_HISTORIES") {
        println!("{:?}", judge(Path::new(&all)));
    }
}

//! Golden scripts: `scripts/*.txt` hold commands (`> …`) and, below each, what the world told. The file's name is the claim.
//!
//! `UPDATE_SCRIPTS=1 cargo test -p consensus scripts` writes what happens now; read the difference before committing it.
//!
//! Commands: `nodes N`, `run MS`, `propose nI DATA`, `read nI`, `cut nI nJ` (both ways), `isolate nI`, `heal`, `crash nI`,
//! `restart nI`, `pause nI`, `resume nI`, `snapshot nI`, `transfer nI nJ`, `change nI +nA ~nB -nC` (voter, learner, remove),
//! `lose nI nJ KIND` (the next such message), `add nI`, `messages on|off`, `status`, `check` (heal all, all must agree).

use crate::world::{CALM, World};
use base::NodeId;
use consensus::{Change, Input};
use std::fmt::Write as _;
use std::path::Path;

fn node(word: &str) -> NodeId {
    let id = word.trim_start_matches(|c| "+~-".contains(c)).strip_prefix('n').and_then(|id| id.parse().ok());
    NodeId(id.unwrap_or_else(|| panic!("a node like n1, not {word}")))
}

fn change(word: &str) -> Change {
    match word.as_bytes()[0] {
        b'+' => Change::AddVoter(node(word)),
        b'~' => Change::AddLearner(node(word)),
        b'-' => Change::Remove(node(word)),
        _ => panic!("+n1, ~n1 or -n1, not {word}"),
    }
}

fn status(world: &World) -> String {
    let mut text = String::new();
    for id in world.ids() {
        let Some(group) = world.group(id) else {
            writeln!(text, "{id} down").unwrap();
            continue;
        };
        let s = group.status();
        let lease = if world.lease_valid(id) { " lease" } else { "" };
        let (start, last, committed) = (s.start.index, s.last, s.committed);
        writeln!(text, "{id} {:?} t{} log {start}..{last} committed {committed}{lease}", s.role, s.term).unwrap();
    }
    text
}

fn obey(world: &mut World, line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["nodes", n] => *world = World::new(1, n.parse().expect("a number"), CALM),
        ["run", ms] => world.run(ms.parse().expect("milliseconds")),
        ["propose", n, data] => drop(world.propose(node(n), data)),
        ["read", n] => world.read(node(n)),
        ["cut", a, b] => world.cut.extend([(node(a), node(b)), (node(b), node(a))]),
        ["isolate", n] => world.isolate(node(n)),
        ["heal"] => world.cut.clear(),
        ["crash", n] => world.crash(node(n), 0),
        ["restart", n] => world.restart(node(n)),
        ["pause", n] => world.pause(node(n)),
        ["resume", n] => world.resume(node(n)),
        ["snapshot", n] => world.snapshot(node(n)),
        ["add", n] => world.add_node(node(n)),
        ["transfer", n, to] => world.input(node(n), Input::TransferLeader { to: node(to) }),
        ["change", n, changes @ ..] => world.propose_change(node(n), changes.iter().map(|c| change(c)).collect()),
        ["lose", from, to, kind] => world.doomed.push((node(from), node(to), kind.to_string())),
        ["messages", on] => world.telling_messages = *on == "on",
        ["status"] => return status(world),
        ["check"] => world.heal_and_check(),
        _ => panic!("no such command: {line}"),
    }
    let told = std::mem::take(&mut world.told);
    told.into_iter().map(|line| line + "\n").collect()
}

/// Runs the commands of a script; answers it with what was told.
fn play(script: &str) -> String {
    let mut world = World::new(1, 1, CALM);
    let mut text = String::new();
    for line in script.lines() {
        if let Some(comment) = line.strip_prefix('#') {
            writeln!(text, "#{comment}").unwrap();
        } else if let Some(command) = line.strip_prefix("> ") {
            writeln!(text, "> {command}").unwrap();
            text.push_str(&obey(&mut world, command));
        }
    }
    text
}

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/group/scripts");
    let mut paths: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let script = std::fs::read_to_string(&path).unwrap();
        let told = play(&script);
        if std::env::var_os("UPDATE_SCRIPTS").is_some() {
            std::fs::write(&path, &told).unwrap();
        }
        let differs = script.lines().zip(told.lines()).position(|(a, b)| a != b);
        let same = script == told || std::env::var_os("UPDATE_SCRIPTS").is_some();
        assert!(same, "{} differs first in line {:?}:\n{told}", path.display(), differs.map(|line| line + 1));
    }
}

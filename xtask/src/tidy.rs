//! `cargo xtask tidy`: the rules of the house that a program can check. It only reads.
//!
//! ```text
//! cargo xtask tidy
//! ```
//!
//! The arrows between crates and which of them are pure come from the table in ARCHITECTURE.md: document and check are one text. What is not
//! clean yet is an entry in a list here, with its reason (a ratchet: an entry that is no longer needed is a failure too).

use crate::shell::{output, root};
use crate::source::{Product, product};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The line above the table of arrows.
const MARK: &str = "<!-- tidy: arrows -->";

/// A file has at most so many lines.
const LINES_MAX: usize = 1000;

/// Files that are longer, and why.
const LONG: &[(&str, &str)] = &[];

/// `.unwrap()` in product code: the count that is there still. Make it smaller, never larger.
const UNWRAPS: &[(&str, usize)] = &[];

/// What a pure room does not mention, and what to use instead.
const IMPURE: &[(&str, &str)] = &[
    ("tokio", "return an output; host drives the room"),
    // Addresses are values and may be named; what opens a socket may not.
    ("TcpStream", "return an output; host has the sockets"),
    ("TcpListener", "return an output; host has the sockets"),
    ("UdpSocket", "return an output; host has the sockets"),
    ("UnixStream", "return an output; host has the sockets"),
    ("ToSocketAddrs", "take an address; host has the sockets"),
    ("std::fs", "use store::disk::Disk, or return a plan that host runs"),
    ("std::io::stdin", "take it as an argument"),
    ("std::thread", "be a plain value; host has the threads"),
    ("std::process", "return an error; only the binary ends"),
    ("std::env", "take it as an argument; only the binary reads the environment"),
    ("SystemTime", "take the entry's stamp (base::Millis)"),
    ("time::Instant", "take `now: base::Instant`"),
    ("time::UNIX_EPOCH", "take the entry's stamp (base::Millis)"),
    ("rand::", "use base::Rng, seeded by the entry or the host"),
    ("getrandom", "use base::Rng, seeded by the entry or the host"),
    ("RandomState", "use store::hash: iteration order is behaviour"),
];

/// Names that a pure room may not take out of a braced `use std::…::{…}` either.
const IMPURE_USES: &[(&str, &str)] = &[
    ("std::time::{", "Instant"),
    ("std::time::{", "SystemTime"),
    ("std::{", "fs"),
    ("std::{", "thread"),
    ("std::{", "env"),
    ("std::{", "process"),
];

/// What no product code has, and what to use instead.
const NEVER: &[(&str, &str)] = &[
    ("todo!(", "write it, or return an error"),
    ("unimplemented!(", "write it, or return an error"),
    ("dbg!(", "take it out"),
];

/// One row of the table of arrows.
#[derive(Debug, Default, PartialEq, Eq)]
struct Arrow {
    may_use: BTreeSet<String>,
    tests_may_use: BTreeSet<String>,
    pure: bool,
}

/// Entry of `cargo xtask tidy`.
pub fn run(args: &[String]) -> Result<(), String> {
    if let Some(flag) = args.first() {
        return Err(format!("tidy takes no arguments, so not {flag}"));
    }
    let found = check()?;
    for line in &found {
        println!("{line}");
    }
    if found.is_empty() { Ok(()) } else { Err(format!("{} rules broken", found.len())) }
}

/// Every broken rule, one line each.
pub fn check() -> Result<Vec<String>, String> {
    let root = root();
    let files: Vec<PathBuf> = output("git", &["ls-files", "-z", "--cached", "--others", "--exclude-standard"])?
        .split('\0')
        .filter(|path| !path.is_empty() && root.join(path).is_file())
        .map(PathBuf::from)
        .collect();
    let table =
        std::fs::read_to_string(root.join("ARCHITECTURE.md")).map_err(|error| format!("ARCHITECTURE.md: {error}"))?;
    let arrows = arrows(&table)?;
    let metadata = output("cargo", &["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .or_else(|_| output("cargo", &["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Json = serde_json::from_str(&metadata).map_err(|error| format!("cargo metadata: {error}"))?;
    let products = product(&root, &files);
    let mut found = Vec::new();
    let crates = check_arrows(&arrows, &metadata, &root, &mut found);
    check_words(&arrows, &crates, &products, &mut found);
    check_unwraps(&crates, &products, &mut found);
    check_files(&root, &files, &mut found);
    check_links(&root, &files, &mut found);
    Ok(found)
}

/// Reads the table below [`MARK`]: crate, may use, its tests may also use, pure.
fn arrows(text: &str) -> Result<BTreeMap<String, Arrow>, String> {
    let rows = text.split_once(MARK).ok_or_else(|| format!("ARCHITECTURE.md has no line {MARK}"))?.1;
    let names = |cell: &str| -> BTreeSet<String> {
        cell.split(',')
            .map(|name| name.trim().trim_matches('`').to_owned())
            .filter(|name| !name.is_empty() && name != "–")
            .collect()
    };
    let mut arrows = BTreeMap::new();
    for row in rows.lines().skip_while(|line| line.trim().is_empty()).take_while(|line| line.starts_with('|')).skip(2) {
        let cells: Vec<&str> = row.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [name, may_use, tests_may_use, pure, ..] = cells[..] else {
            return Err(format!("ARCHITECTURE.md: not a row of arrows: {row}"));
        };
        let arrow = Arrow { may_use: names(may_use), tests_may_use: names(tests_may_use), pure: pure == "pure" };
        arrows.insert(name.trim_matches('`').to_owned(), arrow);
    }
    if arrows.is_empty() { Err("ARCHITECTURE.md: the table of arrows is empty".into()) } else { Ok(arrows) }
}

/// Checks every crate's dependencies on our own crates; gives the crates' folders by name.
fn check_arrows(
    arrows: &BTreeMap<String, Arrow>,
    metadata: &Json,
    root: &Path,
    found: &mut Vec<String>,
) -> BTreeMap<String, PathBuf> {
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let ours: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut crates = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or("?");
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or(""));
        let dir = manifest.parent().and_then(|dir| dir.strip_prefix(root).ok()).unwrap_or(Path::new("")).to_path_buf();
        let file = dir.join("Cargo.toml");
        let (file, third_party) = (file.display(), dir.starts_with("third_party"));
        crates.insert(name.to_owned(), dir.clone());
        let text = std::fs::read_to_string(manifest).unwrap_or_default();
        if !third_party && !text.contains("[lints]\nworkspace = true") {
            found.push(format!("{file}: write [lints] workspace = true, so that the workspace's lints hold"));
        }
        let Some(arrow) = arrows.get(name) else {
            found.push(format!("{file}: {name} is not in the table of arrows of ARCHITECTURE.md; add its row"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().unwrap_or("?");
            let test = dependency["kind"].as_str() == Some("dev");
            let allowed = arrow.may_use.contains(to) || test && (to == name || arrow.tests_may_use.contains(to));
            if ours.contains(to) && !allowed {
                found.push(format!(
                    "{file}: {name} may not use {to}{}: the table of arrows in ARCHITECTURE.md does not say so; turn the arrow round (the room \
                     that needs a trait defines it) or change the table, with the reason, first",
                    if test { " in its tests" } else { "" }
                ));
            }
        }
    }
    for name in arrows.keys().filter(|name| !ours.contains(name.as_str())) {
        found.push(format!("ARCHITECTURE.md: the table of arrows names {name}, which is no crate here"));
    }
    crates
}

fn crate_of<'a>(crates: &'a BTreeMap<String, PathBuf>, path: &Path) -> Option<&'a str> {
    crates.iter().find(|(_, dir)| !dir.as_os_str().is_empty() && path.starts_with(dir)).map(|(name, _)| name.as_str())
}

/// Words that pure rooms, libraries and product code do not have.
fn check_words(
    arrows: &BTreeMap<String, Arrow>,
    crates: &BTreeMap<String, PathBuf>,
    products: &[Product],
    found: &mut Vec<String>,
) {
    for product in products.iter().filter(|product| !product.path.starts_with("third_party")) {
        let name = crate_of(crates, &product.path).unwrap_or("?");
        // A room may have a small program beside its library; that one has a world.
        let program =
            product.path.ends_with("src/main.rs") || product.path.components().any(|part| part.as_os_str() == "bin");
        let pure = !program && arrows.get(name).is_some_and(|arrow| arrow.pure);
        let path = product.path.display();
        for (at, line) in product.code.lines().enumerate() {
            let at = at + 1;
            for (word, instead) in NEVER.iter().filter(|(word, _)| has_word(line, word)) {
                found.push(format!("{path}:{at}: {word}) in product code: {instead}"));
            }
            let prints =
                ["println!(", "print!(", "eprintln!(", "eprint!("].into_iter().find(|word| has_word(line, word));
            let may_print = program || matches!(name, "quorate" | "xtask");
            if let Some(word) = prints.filter(|word| !(may_print || name == "host" && word.starts_with('e'))) {
                found.push(format!(
                    "{path}:{at}: {word}) in {name}: return it; the binary prints (host may use eprintln!)"
                ));
            }
            if !pure {
                continue;
            }
            for (word, instead) in IMPURE.iter().filter(|(word, _)| has_word(line, word)) {
                found.push(format!("{path}:{at}: {word} in {name}, a pure room: {instead}"));
            }
            // A map of std whose hasher is named is one whose order is the same everywhere.
            let maps = ["HashMap<", "HashSet<", "HashMap::new(", "HashSet::new("];
            if let Some(map) = maps.into_iter().find(|map| has_word(line, map) && !line.contains("State")) {
                found.push(format!(
                    "{path}:{at}: {map} with the default hasher in {name}, a pure room: name store::hash::State, or use BTreeMap or indexmap: \
                     iteration order is behaviour"
                ));
            }
            for (from, word) in IMPURE_USES {
                let names = line.split_once(from).map_or("", |(_, names)| names);
                if names.split(|c: char| !c.is_alphanumeric() && c != '_').any(|part| part == *word) {
                    found.push(format!("{path}:{at}: {from}{word}}} in {name}, a pure room: see what ARCHITECTURE.md says of pure rooms"));
                }
            }
        }
    }
}

/// Whether `line` has `word` not as the end of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

/// `.unwrap()` in product code, counted by crate.
fn check_unwraps(crates: &BTreeMap<String, PathBuf>, products: &[Product], found: &mut Vec<String>) {
    let mut places: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for product in products.iter().filter(|product| product.path.starts_with("crates")) {
        for (at, line) in product.code.lines().enumerate() {
            let places = places.entry(crate_of(crates, &product.path).unwrap_or("?")).or_default();
            places.extend(line.matches(".unwrap()").map(|_| format!("{}:{}", product.path.display(), at + 1)));
        }
    }
    for (name, places) in places {
        let allowed = UNWRAPS.iter().find(|(of, _)| *of == name).map_or(0, |(_, count)| *count);
        if places.len() > allowed {
            found.push(format!(
                "{name}: {} times .unwrap() in product code where {allowed} are allowed; use `?` or expect(\"the law that makes it \
                 impossible\"): {}",
                places.len(),
                places.join(" ")
            ));
        } else if places.len() < allowed {
            found.push(format!(
                "xtask/src/tidy.rs: UNWRAPS allows {name} {allowed}, only {} are left: lower it",
                places.len()
            ));
        }
    }
}

/// Length, and what no file says.
fn check_files(root: &Path, files: &[PathBuf], found: &mut Vec<String>) {
    // Written in two parts, so that this file does not have them.
    let places = [["/wo", "rk/"].concat(), ["/tmp", "/w/"].concat(), ["/root", "/."].concat()];
    for path in files {
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        let lines = text.lines().count();
        let long = LONG.iter().any(|(name, _)| path == Path::new(name));
        let code = path.extension().is_some_and(|end| end == "rs" || end == "py" || end == "mjs");
        if code && lines > LINES_MAX && !long {
            found.push(format!(
                "{}: {lines} lines; a file has at most {LINES_MAX}: split it by what it is about",
                path.display()
            ));
        }
        if long && lines <= LINES_MAX {
            found.push(format!("xtask/src/tidy.rs: LONG names {}, which is short by now: take it out", path.display()));
        }
        for (at, line) in text.lines().enumerate() {
            if places.iter().any(|place| has_word(line, place)) {
                found.push(format!("{}:{}: a path of one machine: say it from the root", path.display(), at + 1));
            }
        }
    }
    for (name, _) in LONG.iter().filter(|(name, _)| !files.iter().any(|path| path == Path::new(name))) {
        found.push(format!("xtask/src/tidy.rs: LONG names {name}, which is gone: take it out"));
    }
}

/// Links of documents to files that are there and to headings that are.
fn check_links(root: &Path, files: &[PathBuf], found: &mut Vec<String>) {
    for path in files.iter().filter(|path| path.extension().is_some_and(|end| end == "md")) {
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        let mut fenced = false;
        for (at, line) in text.lines().enumerate() {
            fenced ^= line.trim_start().starts_with("```");
            if fenced {
                continue;
            }
            for target in line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target) {
                if target.contains("://") || target.starts_with("mailto:") || target.contains(' ') {
                    continue;
                }
                let (file, heading) = target.split_once('#').unwrap_or((target, ""));
                let file =
                    if file.is_empty() { path.clone() } else { path.parent().unwrap_or(Path::new("")).join(file) };
                let there = root.join(&file);
                if !there.exists() {
                    found.push(format!("{}:{}: the link to {target} leads nowhere", path.display(), at + 1));
                } else if !heading.is_empty() && there.extension().is_some_and(|end| end == "md") {
                    let text = std::fs::read_to_string(&there).unwrap_or_default();
                    if !text.lines().filter(|line| line.starts_with('#')).any(|line| anchor(line) == heading) {
                        found.push(format!(
                            "{}:{}: {} has no heading #{heading}",
                            path.display(),
                            at + 1,
                            file.display()
                        ));
                    }
                }
            }
        }
    }
}

/// A heading's name in a link, as forges make it.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
        .map(|c| if c == ' ' { '-' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Arrow, MARK, anchor, arrows, check_words, has_word};
    use crate::source::Product;
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    #[test]
    fn the_table_is_read() {
        let text = format!(
            "# A\n{MARK}\n\n| crate | may use | tests | pure |\n|---|---|---|---|\n| `a` | – | | pure |\n| b | a, `c` | d | |\n\nmore"
        );
        let read = arrows(&text).expect("a table");
        assert!(read["a"].pure && read["a"].may_use.is_empty());
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(read["b"], Arrow { may_use: names(&["a", "c"]), tests_may_use: names(&["d"]), pure: false });
        assert!(arrows("nothing").is_err());
    }

    #[test]
    fn impure_words_are_found_in_pure_rooms_only() {
        let crates =
            BTreeMap::from([("p".to_owned(), PathBuf::from("crates/p")), ("q".to_owned(), PathBuf::from("crates/q"))]);
        let pure = |pure| Arrow { pure, ..Arrow::default() };
        let arrows = BTreeMap::from([("p".to_owned(), pure(true)), ("q".to_owned(), pure(false))]);
        let code = "use std::time::{Duration, Instant};\nlet x = strand::y;\nuse std::fs;\ntodo!()".to_owned();
        let files = ["crates/p/src/a.rs", "crates/q/src/a.rs"];
        let products: Vec<_> =
            files.iter().map(|path| Product { path: PathBuf::from(path), code: code.clone() }).collect();
        let mut found = Vec::new();
        check_words(&arrows, &crates, &products, &mut found);
        let places: Vec<&str> = found.iter().map(|line| line.split(": ").next().expect("a place")).collect();
        assert_eq!(
            places,
            ["crates/p/src/a.rs:1", "crates/p/src/a.rs:3", "crates/p/src/a.rs:4", "crates/q/src/a.rs:4"]
        );
    }

    #[test]
    fn words_and_anchors() {
        assert!(
            has_word("a rand::x", "rand::") && !has_word("strand::x", "rand::") && !has_word("eprintln!(", "println!(")
        );
        assert_eq!(anchor("## How we work: `a`, b"), "how-we-work-a-b");
    }
}

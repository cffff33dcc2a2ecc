//! A shard in a nutshell for the tests of every family: run a command line, read the answer.
//!
//! ```text
//!   > SET k "a b"        answers are printed on one line:
//!   OK                   OK  -ERR text  1  "text"  nil  nil[]  [1, "a"]  {"k": 1}  ~["a"]  ,1.5  true  txt:"…"
//!   > GET k
//!   "a b"
//! ```
//!
//! [`golden`] runs a whole script of that form. Its answers were taken from a real Redis where nothing else is said.

use std::sync::Arc;

use base::{Limits, Millis, Rng};
use store::keyspace::Keyspaces;
use store::table::Tables;

use super::{Block, Reading, Run, Served, Writing, check, find};
use crate::commit::Commits;
use crate::error::CommandError;
use crate::reply::{Protocol, Reply};
use crate::script::{Libraries, Scripts};
use crate::slots::Slots;

/// Both classes of tables and everything else that a command sees.
pub(super) struct World {
    pub db: u8,
    /// Shard time, milliseconds.
    pub now: Millis,
    pub tables: Tables,
    pub other: Tables,
    pub rng: Rng,
    pub scripts: Scripts,
    pub libraries: Libraries,
    pub limits: Limits,
    pub published: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether commands may ask to wait.
    pub may_block: bool,
    /// What the last command asked to wait for; [`run`] then answers `waits`.
    pub block: Option<Block>,
    pub protocol: Protocol,
}

impl World {
    /// Empty tables at a time in 2023.
    pub fn new() -> World {
        let keyspaces = Arc::new(Keyspaces::default());
        World {
            db: 0,
            now: 1_700_000_000_000,
            tables: Tables::new(keyspaces.clone()),
            other: Tables::new(keyspaces),
            rng: Rng::new(7),
            scripts: Scripts::default(),
            libraries: Libraries::default(),
            limits: Limits::default(),
            published: Vec::new(),
            may_block: true,
            block: None,
            protocol: Protocol::Resp2,
        }
    }

    /// What WATCH would compare.
    pub fn version(&self, key: &str) -> u64 {
        self.tables.version(self.db, key.as_bytes(), self.now)
    }
}

/// Runs one command line and prints its answer.
pub(super) fn run(world: &mut World, line: &str) -> String {
    run_words(world, &words(line), Served::First)
}

/// Runs the words of a command: for bytes that no line can spell comfortably, and for waiting commands' second try.
pub(super) fn run_words(world: &mut World, words: &[Vec<u8>], served: Served) -> String {
    let args: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let mut reply = Reply::new(world.protocol);
    world.block = None;
    if let Err(CommandError(text)) = execute(world, &args, served, &mut reply) {
        reply.bytes.clear();
        reply.error(&text);
    }
    if world.block.is_some() {
        assert!(reply.bytes.is_empty(), "a command that waits has no answer yet: {args:?}");
        return "waits".into();
    }
    let mut rest = &reply.bytes[..];
    let printed = print(&mut rest);
    assert!(
        rest.is_empty(),
        "{line} answers more than once: {bytes}",
        line = String::from_utf8_lossy(&args.join(&b' ')),
        bytes = reply.bytes.escape_ascii()
    );
    printed
}

fn execute(world: &mut World, args: &[&[u8]], served: Served, reply: &mut Reply) -> Result<(), CommandError> {
    let Some(spec) = find(args[0]) else {
        let name = String::from_utf8_lossy(args[0]);
        let shown = args[1..].iter().map(|word| format!("'{}' ", String::from_utf8_lossy(word))).collect::<String>();
        return Err(format!("ERR unknown command '{name}', with args beginning with: {shown}").into());
    };
    check(spec, args)?;
    assert!(spec.key_places(args).iter().all(|place| *place < args.len()), "{}: keys are words", spec.name);
    match spec.run {
        Run::Read(read) => {
            let World { db, now, tables, other, rng, may_block, block, .. } = world;
            let (db, now, may_block, slots) = (*db, *now, *may_block, &Slots::default());
            let mut reading = Reading { db, now, tables, other, rng, slots, repeatable: false, may_block, block: None };
            let outcome = read(&mut reading, args, reply);
            *block = reading.block;
            outcome
        }
        Run::Write(write) => {
            let World { db, now, tables, other, rng, scripts, libraries, limits, published, may_block, block, .. } =
                world;
            let mut writing = Writing {
                db: *db,
                now: *now,
                tables,
                other,
                rng,
                may_block: *may_block,
                served,
                block: None,
                scripts,
                libraries,
                limits,
                published,
                events: &mut Vec::new(),
                slots: &Slots::default(),
                commits: &Commits::default(),
                user: None,
            };
            let outcome = write(&mut writing, args, reply);
            *block = writing.block;
            outcome
        }
    }
}

/// Runs a script: a line `> COMMAND` and under it the answer it must give. `#` starts a comment; `> @TIME +250` moves
/// shard time by that many milliseconds, `> @RESP 3` speaks another protocol, `> @DB 1` selects a database.
pub(super) fn golden(script: &str) {
    let mut world = World::new();
    let mut asked: Option<(usize, &str, String)> = None;
    let mut wrong = Vec::new();
    for (at, line) in script.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.strip_prefix("> ") {
            Some(command) => {
                assert!(asked.is_none(), "line {}: the command above has no answer", at + 1);
                if !directive(&mut world, command) {
                    asked = Some((at + 1, command, run(&mut world, command)));
                }
            }
            None => {
                let (at, command, answer) = asked.take().expect("an answer stands under a command");
                if answer != line {
                    wrong.push(format!("line {at}: {command}\n  answers   {answer}\n  should be {line}"));
                }
            }
        }
    }
    assert!(asked.is_none(), "the last command has no answer");
    assert!(wrong.is_empty(), "{} answers differ\n{}", wrong.len(), wrong.join("\n"));
}

fn directive(world: &mut World, line: &str) -> bool {
    match line.split_once(' ') {
        Some(("@TIME", span)) => {
            world.now = world.now.strict_add_signed(span.trim_start_matches('+').parse().expect("milliseconds"));
        }
        Some(("@RESP", "2")) => world.protocol = Protocol::Resp2,
        Some(("@RESP", "3")) => world.protocol = Protocol::Resp3,
        Some(("@DB", db)) => world.db = db.parse().expect("a database's number"),
        _ => return false,
    }
    true
}

/// Splits a line as redis-cli does: spaces part words, `"…"` takes `\n`, `\r`, `\t`, `\b`, `\a`, `\xHH`; `'…'` takes `\'`.
pub(super) fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line.as_bytes();
    loop {
        rest = rest.trim_ascii_start();
        let Some(first) = rest.first().copied() else {
            return words;
        };
        let mut word = Vec::new();
        if first == b'"' || first == b'\'' {
            rest = &rest[1..];
            loop {
                match rest {
                    [byte, after @ ..] if *byte == first => {
                        rest = after;
                        break;
                    }
                    [b'\\', b'x', high, low, after @ ..] if first == b'"' => {
                        let hex = [*high, *low];
                        let hex = std::str::from_utf8(&hex).expect("hexadecimal digits");
                        word.push(u8::from_str_radix(hex, 16).expect("hexadecimal digits"));
                        rest = after;
                    }
                    [b'\\', escaped, after @ ..] if first == b'"' || *escaped == b'\'' => {
                        word.push(match (first, escaped) {
                            (b'"', b'n') => b'\n',
                            (b'"', b'r') => b'\r',
                            (b'"', b't') => b'\t',
                            (b'"', b'b') => 8,
                            (b'"', b'a') => 7,
                            (_, plain) => *plain,
                        });
                        rest = after;
                    }
                    [plain, after @ ..] => {
                        word.push(*plain);
                        rest = after;
                    }
                    [] => panic!("unbalanced quotes: {line}"),
                }
            }
        } else {
            let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
            word.extend_from_slice(&rest[..end]);
            rest = &rest[end..];
        }
        words.push(word);
    }
}

/// Reads one RESP answer off the front and prints it.
fn print(rest: &mut &[u8]) -> String {
    let line = take_line(rest);
    let (mark, text) = (line[0], String::from_utf8_lossy(&line[1..]).into_owned());
    let length = || text.parse::<i64>().expect("a length");
    match mark {
        b'+' | b':' => text,
        b'-' => format!("-{text}"),
        b',' => format!(",{text}"),
        b'_' => "nil".into(),
        b'#' => if text == "t" { "true" } else { "false" }.into(),
        b'$' if length() < 0 => "nil".into(),
        b'*' if length() < 0 => "nil[]".into(),
        b'$' => quote(take(rest, length() as usize)),
        b'=' => {
            let bytes = take(rest, length() as usize);
            format!("{}:{}", String::from_utf8_lossy(&bytes[..3]), quote(&bytes[4..]))
        }
        b'%' => {
            let pairs = (0..length()).map(|_| format!("{}: {}", print(rest), print(rest))).collect::<Vec<_>>();
            format!("{{{}}}", pairs.join(", "))
        }
        b'*' | b'~' | b'>' => {
            let elements = (0..length()).map(|_| print(rest)).collect::<Vec<_>>().join(", ");
            let mark = if mark == b'*' { String::new() } else { char::from(mark).to_string() };
            format!("{mark}[{elements}]")
        }
        _ => panic!("not RESP: {}", line.escape_ascii()),
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (bytes, after) = rest.split_at_checked(len).expect("a whole answer");
    *rest = after.strip_prefix(b"\r\n").expect("a line break after a bulk string");
    bytes
}

fn take_line<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let end = rest.windows(2).position(|pair| pair == b"\r\n").expect("a whole answer");
    let (line, after) = rest.split_at(end);
    *rest = &after[2..];
    line
}

fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for byte in bytes {
        match byte {
            b'"' | b'\\' => text.extend(['\\', char::from(*byte)]),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

#[test]
fn lines_split_and_answers_print_as_redis_cli_does() {
    assert_eq!(words(r#"SET "a \x00\"b" 'c\'\n' "" d"#), [&b"SET"[..], b"a \x00\"b", b"c'\\n", b"", b"d"]);
    let mut world = World::new();
    assert_eq!(run(&mut world, "GET k"), "nil");
    assert_eq!(run(&mut world, r#"SET k "a\x00\"""#), "OK");
    assert_eq!(run(&mut world, "get k"), r#""a\x00\"""#);
    assert_eq!(run(&mut world, "GET"), "-ERR wrong number of arguments for 'get' command");
    assert_eq!(print(&mut &b"*3\r\n:1\r\n*-1\r\n%1\r\n+a\r\n,1.5\r\n"[..]), "[1, nil[], {a: ,1.5}]");
    golden("> SET k v\nOK\n# a comment\n> @TIME +5\n> GET k\n\"v\"\n");
}

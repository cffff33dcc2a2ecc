//! The node that things go to: commands leave in a pipeline, a window of answers waits.

use std::collections::VecDeque;

use base::{Limits, Millis};
use doors::resp::client::{Value, write_command};
use shard::rdb::file::{FileBounds, Item};

use super::link::Link;
use super::{Server, Wishes};

/// What becomes of keys that are at the node already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// There must be none at all.
    Refuse,
    /// Those of the same names are replaced.
    Replace,
    /// All of them go first.
    Flush,
}

/// What has come of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Keys of the snapshot.
    pub keys: u64,
    /// Those of them that had expired on the way.
    pub expired: u64,
    /// Libraries of functions.
    pub libraries: u64,
    /// Commands of the live stream.
    pub commands: u64,
    /// What was left out, and why; the first hundred.
    pub left: Vec<String>,
}

/// Answers that may be awaited, and the bytes of their commands.
const WINDOW: usize = 1_000;
const WINDOW_BYTES: usize = 16 << 20;
/// Bytes that are gathered before they are sent.
const OUTBOX_BYTES: usize = 1 << 17;
/// Things left out that are told by name.
const LEFT_MAX: usize = 100;

/// What an answer is awaited for.
enum For {
    Key(Vec<u8>),
    Library,
    Command(Vec<u8>),
}

/// See the module.
pub(super) struct Target {
    link: Link,
    outbox: Vec<u8>,
    awaited: VecDeque<(For, usize)>,
    awaited_bytes: usize,
    db: u64,
    pub(super) done: Imported,
    now: Millis,
}

impl Target {
    /// Connects, and sees to the keys that are there.
    pub(super) fn open(server: &Server, existing: Existing) -> Result<Target, String> {
        let mut link = Link::open(server)?;
        if existing == Existing::Flush {
            link.ask_ok(&["FLUSHALL"])?;
        }
        if existing == Existing::Refuse {
            let info = link.ask_ok(&["INFO", "keyspace"])?;
            let holds_keys = matches!(&info, Value::Bulk(text) | Value::Verbatim(text) if text.windows(5).any(|some| some == b"keys="));
            if holds_keys {
                return Err(format!(
                    "{} holds keys already: --replace replaces those of the same names, --flush removes all of them first",
                    server.address
                ));
            }
        }
        link.ask_ok(&["SELECT", "0"])?;
        let now = crate::clock::wall();
        let (awaited, done) = (VecDeque::new(), Imported::default());
        Ok(Target { link, outbox: Vec::new(), awaited, awaited_bytes: 0, db: 0, done, now })
    }

    /// What a file may bring: as much as a command.
    pub(super) fn bounds(wishes: &Wishes) -> FileBounds {
        FileBounds { record_bytes: Limits::DEFAULT.command_bytes_max, skips_modules: wishes.skips_modules }
    }

    /// Something out of a file.
    pub(super) fn item(&mut self, item: Item) -> Result<(), String> {
        match item {
            Item::Aux(..) | Item::End => Ok(()),
            Item::Left(what) => {
                self.leave(what);
                Ok(())
            }
            Item::Functions(source) => self.send(&[b"FUNCTION", b"LOAD", b"REPLACE", &source], For::Library),
            Item::Key { db, expiry, key, payload } => self.key(db, expiry, key, &payload),
        }
    }

    fn key(&mut self, db: u64, expiry: Option<Millis>, key: Vec<u8>, payload: &[u8]) -> Result<(), String> {
        if db != self.db {
            let number = db.to_string();
            self.send(&[b"SELECT", number.as_bytes()], For::Command(format!("SELECT {db}").into_bytes()))?;
            self.db = db;
        }
        self.done.expired += u64::from(expiry.is_some_and(|at| at <= self.now));
        let at = expiry.unwrap_or(0).to_string();
        self.send(&[b"RESTORE", &key, at.as_bytes(), payload, b"REPLACE", b"ABSTTL"], For::Key(key.clone()))?;
        self.done.keys += 1;
        Ok(())
    }

    /// A command of the live stream, as it came.
    pub(super) fn command(&mut self, words: &[&[u8]]) -> Result<(), String> {
        let mut name = words[..words.len().min(2)].join(&b' ');
        name.truncate(128);
        self.done.commands += 1;
        self.send(words, For::Command(name))
    }

    fn leave(&mut self, what: String) {
        if self.done.left.len() < LEFT_MAX {
            self.done.left.push(what);
        }
    }

    fn send(&mut self, words: &[&[u8]], what: For) -> Result<(), String> {
        let begun = self.outbox.len();
        write_command(words, &mut self.outbox);
        let bytes = self.outbox.len() - begun;
        self.awaited.push_back((what, bytes));
        self.awaited_bytes += bytes;
        if self.outbox.len() >= OUTBOX_BYTES {
            self.flush()?;
        }
        // Half of the window is let go at once, so that not every command waits for an answer.
        if self.awaited.len() >= WINDOW || self.awaited_bytes >= WINDOW_BYTES {
            self.flush()?;
            self.settle(WINDOW / 2, WINDOW_BYTES / 2)?;
        }
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), String> {
        if !self.outbox.is_empty() {
            self.link.write(&self.outbox)?;
            self.outbox.clear();
        }
        Ok(())
    }

    /// Waits for all answers.
    pub(super) fn finish(&mut self) -> Result<(), String> {
        self.flush()?;
        self.settle(0, 0)
    }

    fn settle(&mut self, count: usize, bytes: usize) -> Result<(), String> {
        while self.awaited.len() > count || self.awaited_bytes > bytes {
            let answer = self.link.answer()?;
            let Some((what, size)) = self.awaited.pop_front() else { break };
            self.awaited_bytes -= size;
            let text = match &answer {
                Value::Error(text) => String::from_utf8_lossy(text).into_owned(),
                // Within an EXEC.
                Value::Array(parts) => {
                    match parts.iter().find_map(|part| if let Value::Error(text) = part { Some(text) } else { None }) {
                        Some(text) => String::from_utf8_lossy(text).into_owned(),
                        None => continue,
                    }
                }
                _ => {
                    self.done.libraries += u64::from(matches!(what, For::Library));
                    continue;
                }
            };
            match what {
                For::Key(key) => return Err(format!("the key '{}' is not taken: {text}", key.escape_ascii())),
                For::Command(name) => return Err(format!("the command {} is not taken: {text}", name.escape_ascii())),
                For::Library => self.leave(format!("a library of functions: {text}")),
            }
        }
        Ok(())
    }
}

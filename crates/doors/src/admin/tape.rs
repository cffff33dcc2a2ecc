//! What a commit holds, for a person: which commands, which keys and streams, how much, from whom.

use serde::Serialize;
use shard::command::{Args, find};
use shard::commit::Step;
use shard::entry::{Part, Unit, read_cut, read_expire, read_header, read_unit};
use shard::streams::{StreamOp, What};
use store::codec::{Corrupt, Input};

/// Keys that are named.
pub const KEYS_MAX: usize = 8;
/// Kinds of commands that are named.
pub const COMMANDS_MAX: usize = 6;
/// Characters of one name.
const NAME_CHARS_MAX: usize = 64;

/// A commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// Grows by one with each commit since the node's start.
    pub number: u64,
    /// Whose entry.
    pub group: String,
    /// Its index in the group's log.
    pub index: u64,
    /// Shard time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// Bytes of the entry.
    pub bytes: usize,
    /// Requests that it answered.
    pub requests: usize,
    /// See [`Held`].
    #[serde(flatten)]
    pub held: Held,
    /// Some of the clients that asked.
    pub clients: Vec<Client>,
    /// Whether there were others.
    pub more_clients: bool,
}

/// A client that asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Client {
    /// Its number.
    pub id: u64,
    /// Its address; empty where it left too long ago.
    pub address: String,
    /// The name that it gave itself.
    pub name: String,
    /// Whether it has left.
    pub gone: bool,
}

/// What stands in an entry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Commands by name, in the order of their first.
    pub commands: Vec<Count>,
    /// Commands that are not among them.
    pub more_commands: usize,
    /// MULTI … EXEC blocks: each is here whole or not at all.
    pub transactions: usize,
    /// The first keys and streams.
    pub keys: Vec<Key>,
    /// How often others are named.
    pub more_keys: usize,
    /// Whether the entry was too long to be read to its end here.
    pub cut: bool,
}

/// A command and how often it stands there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// In capitals; the leader's own doings in small letters.
    pub name: String,
    /// How often.
    pub count: usize,
}

/// A key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Printable and at most 64 characters long.
    pub name: String,
    /// Its database.
    pub db: u8,
    /// Whether it is touched as a stream.
    pub stream: bool,
}

/// Bytes as a person can read them and a terminal or a page does nothing with: what is neither printable ASCII nor a letter
/// or a number of any script becomes `\xNN`. Cut to 64 characters.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::new();
    // A character has at most four bytes.
    let head = &bytes[..bytes.len().min(NAME_CHARS_MAX * 4)];
    for chunk in head.utf8_chunks() {
        for char in chunk.valid().chars() {
            match char {
                '\\' => out.push_str("\\\\"),
                ' '..='~' => out.push(char),
                letter if letter.is_alphanumeric() => out.push(letter),
                other => other.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_hex(&mut out, byte)),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut out, *byte));
    }
    match out.char_indices().nth(NAME_CHARS_MAX) {
        None if head.len() == bytes.len() => out,
        None => out + "…",
        Some(_) => {
            let cut = out.char_indices().nth(NAME_CHARS_MAX - 1).map_or(0, |(at, _)| at);
            out.truncate(cut);
            out + "…"
        }
    }
}

fn push_hex(out: &mut String, byte: u8) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push_str("\\x");
    out.push(char::from(DIGITS[usize::from(byte >> 4)]));
    out.push(char::from(DIGITS[usize::from(byte & 15)]));
}

/// Reads an entry as far as it goes; one that breaks off is told as `cut`.
pub fn read(entry: &[u8]) -> Held {
    let mut held = Held::default();
    held.cut = held.take(entry).is_err();
    held
}

impl Held {
    /// What stands in one unit of an entry.
    pub fn of_unit(unit: &[u8]) -> Held {
        let mut held = Held::default();
        held.cut = held.units(Input::new(unit)).is_err();
        held
    }

    fn take(&mut self, entry: &[u8]) -> Result<(), Corrupt> {
        let mut input = Input::new(entry);
        read_header(&mut input)?;
        self.units(input)
    }

    fn units(&mut self, mut input: Input<'_>) -> Result<(), Corrupt> {
        while !input.is_empty() {
            let mut again = input;
            let unit = read_unit(&mut input).inspect_err(|_| {
                // Mostly one command with a large value: its name and keys come before it.
                if let Some((db, words)) = read_cut(&mut again) {
                    self.command(db, &words);
                }
            });
            match unit? {
                Unit::Command { db, words, .. } => self.command(db, &words),
                Unit::Multi(mut multi) => {
                    self.transactions += 1;
                    for _ in 0..multi.count {
                        match multi.next_part()? {
                            Part::Command(db, words) => self.command(db, &words),
                            Part::Stream(op, _) => self.stream(&op),
                            Part::Literal(_) => {}
                        }
                    }
                }
                Unit::Expire(mut keys) => {
                    while let Some((db, key)) = read_expire(&mut keys)? {
                        self.count("expired");
                        self.key(db, key, false);
                    }
                }
                Unit::Unblock { .. } => self.count("wait ended"),
                Unit::Keyspaces(_) => self.count("keyspaces"),
                Unit::Etcd(command) => self.count(&format!("etcd {:?}", command.kind).to_lowercase()),
                Unit::Change(change) => self.count(&format!("registry {}", change.word())),
                Unit::Bounds(_) => self.count("limits"),
                Unit::Cluster(change) => self.count(&format!("cluster {}", change.word())),
                Unit::Queue(command, _) => self.count(command.word()),
                Unit::Stream { op, .. } => self.stream(&op),
                Unit::Users(change) => self.count(match change {
                    users::Change::Set { .. } => "user set",
                    users::Change::Delete { .. } => "users deleted",
                }),
                Unit::Topics(change) => self.count(change.word()),
                Unit::Slots(change) => self.count(&format!("slots {}", change.word())),
                Unit::Commit(step) => self.step(&step)?,
                Unit::Literal(_) | Unit::Versions(_) => {}
            }
        }
        Ok(())
    }

    fn stream(&mut self, op: &StreamOp<'_>) {
        match &op.what {
            What::Queue(command, _) => self.count(command.word()),
            What::Run { words, .. } => self.command(0, words),
            What::Bury { words, .. } => {
                self.count("dead letter");
                self.command(0, words);
            }
        }
    }

    /// A step of a commit across shards; with the decision comes what was decided.
    fn step(&mut self, step: &Step<'_>) -> Result<(), Corrupt> {
        self.count(step.word());
        match step {
            Step::Decide { unit, .. } => self.units(Input::new(unit)),
            Step::Prepare { keys, .. } => {
                keys.iter().for_each(|key| self.key(0, key, false));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn command(&mut self, db: u8, words: Args<'_>) {
        let name = words.first().copied().unwrap_or_default();
        let Some(spec) = find(name) else {
            return self.count(&printable(name).to_uppercase());
        };
        self.count(&spec.name.to_uppercase());
        let is_stream = spec.group == "stream";
        for place in spec.key_places(words) {
            if let Some(key) = words.get(place) {
                self.key(db, key, is_stream);
            }
        }
    }

    fn count(&mut self, name: &str) {
        let known = self.commands.len();
        match self.commands.iter_mut().find(|known| known.name == name) {
            Some(known) => known.count += 1,
            None if known < COMMANDS_MAX => self.commands.push(Count { name: name.into(), count: 1 }),
            None => self.more_commands += 1,
        }
    }

    fn key(&mut self, db: u8, key: &[u8], stream: bool) {
        if self.keys.len() == KEYS_MAX && self.more_keys > 0 {
            // Nobody reads whether the hundredth mention is of one of the first eight.
            self.more_keys += 1;
            return;
        }
        let name = printable(key);
        let known = self.keys.len();
        match self.keys.iter_mut().find(|known| known.db == db && known.name == name) {
            Some(known) => known.stream |= stream,
            None if known < KEYS_MAX => self.keys.push(Key { name, db, stream }),
            None => self.more_keys += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use shard::entry::{MultiBuilder, put_command, put_expire, put_header};
    use shard::reply::Protocol;

    use super::{Count, Key, printable, read};

    fn key(name: &str, db: u8, stream: bool) -> Key {
        Key { name: name.into(), db, stream }
    }

    #[test]
    fn commands_keys_and_streams_of_an_entry() {
        let mut entry = Vec::new();
        put_header(&mut entry);
        put_command(&mut entry, 0, Protocol::Resp2, &[b"set", b"user:1", b"secret"]);
        put_command(&mut entry, 0, Protocol::Resp2, &[b"SET", b"user:1", b"secret"]);
        let mut multi = MultiBuilder::default();
        multi.command(3, &[b"XADD", b"events", b"*", b"f", b"v"]);
        multi.literal(b"+PONG\r\n");
        multi.finish(&mut entry, Protocol::Resp2, &[]);
        put_expire(&mut entry, &[(0, b"old".to_vec())]);
        let held = read(&entry);
        let count = |name: &str, count| Count { name: name.into(), count };
        assert_eq!(held.commands, [count("SET", 2), count("XADD", 1), count("expired", 1)]);
        assert_eq!(held.keys, [key("user:1", 0, false), key("events", 3, true), key("old", 0, false)]);
        assert_eq!((held.transactions, held.more_keys, held.cut), (1, 0, false));
    }

    #[test]
    fn long_and_broken_entries_stay_short() {
        let mut entry = Vec::new();
        put_header(&mut entry);
        for number in 0..1000 {
            put_command(&mut entry, 0, Protocol::Resp2, &[b"DEL", format!("key:{number}").as_bytes()]);
        }
        let held = read(&entry);
        assert_eq!((held.commands[0].count, held.keys.len(), held.more_keys), (1000, 8, 992));
        let cut = read(&entry[..100]);
        assert!(cut.cut && !cut.keys.is_empty());
        for len in 0..100 {
            read(&entry[..len]);
        }
        let mut large = Vec::new();
        put_header(&mut large);
        put_command(&mut large, 2, Protocol::Resp2, &[b"SET", b"big", &[b'x'; 5000]]);
        let held = read(&large[..3000]);
        assert_eq!(
            (held.commands[0].name.as_str(), &held.keys[..], held.cut),
            ("SET", &[key("big", 2, false)][..], true)
        );
    }

    #[test]
    fn names_are_harmless_and_bounded() {
        assert_eq!(printable(b"user:1 <b>"), "user:1 <b>");
        assert_eq!(printable("größe:日本".as_bytes()), "größe:日本");
        assert_eq!(printable(b"a\x1b[31m\\\xff\n"), "a\\x1b[31m\\\\\\xff\\x0a");
        assert_eq!(printable("\u{202e}x".as_bytes()), "\\xe2\\x80\\xaex");
        assert_eq!(printable(&[b'x'; 64]), "x".repeat(64));
        assert_eq!(printable(&[b'x'; 65]), "x".repeat(63) + "…");
        assert_eq!(printable(&[0; 5000]).chars().count(), 64);
        assert_eq!(printable(b""), "");
    }
}

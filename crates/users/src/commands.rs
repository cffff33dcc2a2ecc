//! Which commands are in which categories, and whether they read or write their keys: facts of Redis 7.2 (what COMMAND tells there), with
//! our own commands added. A command's place in the list is its number within this build; it is stored nowhere.
//!
//! A line of `commands.txt`: name, keys, categories. Keys are `r` read, `w` written, `b` both, `n` looked at without reading a value, `-`
//! none; two letters: the first key, and all the others. `s` is SET's (reads with GET), `f` BITFIELD's (writes unless it only GETs).

use std::collections::HashMap;
use std::sync::OnceLock;

/// Categories, as `ACL CAT` lists them.
pub const CATEGORIES: [&str; 21] = [
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "hyperloglog",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
];

/// What becomes of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Its value is read.
    pub read: bool,
    /// It is changed.
    pub write: bool,
}

impl Access {
    /// Neither: that it is there is all that is asked.
    pub const NONE: Access = Access { read: false, write: false };
    /// Read.
    pub const READ: Access = Access { read: true, write: false };
    /// Changed.
    pub const WRITE: Access = Access { read: false, write: true };
    /// Both.
    pub const BOTH: Access = Access { read: true, write: true };

    /// Whether whoever has this may do `wanted`.
    pub fn covers(self, wanted: Access) -> bool {
        (self.read || !wanted.read) && (self.write || !wanted.write)
    }
}

/// A command, or a subcommand of one (`client|kill`).
#[derive(Debug)]
pub struct Command {
    /// In lower case.
    pub name: &'static str,
    /// Its place in the list.
    pub id: usize,
    /// One bit for each of [`CATEGORIES`].
    pub categories: u32,
    keys: (u8, u8),
}

/// All of them.
#[derive(Debug)]
pub struct Commands {
    list: Vec<Command>,
    names: HashMap<&'static str, usize, store::hash::State>,
}

/// The bit of a category, by its name in any case.
pub fn category(name: &str) -> Option<u32> {
    CATEGORIES.iter().position(|known| known.eq_ignore_ascii_case(name)).map(|at| 1 << at)
}

impl Command {
    /// The command that a subcommand belongs to.
    pub fn parent(&self) -> Option<&'static str> {
        self.name.split_once('|').map(|(parent, _)| parent)
    }

    /// What becomes of its key at this place among its keys.
    pub fn access(&self, nth: usize, args: &[&[u8]]) -> Access {
        let has = |word: &[u8]| args.iter().skip(1).any(|arg| arg.eq_ignore_ascii_case(word));
        match if nth == 0 { self.keys.0 } else { self.keys.1 } {
            b'r' => Access::READ,
            b'w' => Access::WRITE,
            b'b' => Access::BOTH,
            b's' if args.iter().skip(3).any(|arg| arg.eq_ignore_ascii_case(b"get")) => Access::BOTH,
            b's' => Access::WRITE,
            b'f' if has(b"set") || has(b"incrby") => Access::BOTH,
            b'f' => Access::READ,
            _ => Access::NONE,
        }
    }
}

impl Commands {
    /// The list.
    pub fn all() -> &'static Commands {
        static ALL: OnceLock<Commands> = OnceLock::new();
        ALL.get_or_init(|| {
            let mut list = Vec::new();
            for (id, line) in include_str!("commands.txt").lines().enumerate() {
                let mut words = line.split(' ');
                let name = words.next().unwrap_or_default();
                let keys = words.next().unwrap_or_default().as_bytes();
                let categories = words.filter_map(category).fold(0, |all, bit| all | bit);
                let first = keys.first().copied().unwrap_or(b'-');
                list.push(Command { name, id, categories, keys: (first, keys.get(1).copied().unwrap_or(first)) });
            }
            let names = list.iter().map(|command| (command.name, command.id)).collect();
            Commands { list, names }
        })
    }

    /// In the order of their numbers, which is that of their names.
    pub fn iter(&self) -> std::slice::Iter<'_, Command> {
        self.list.iter()
    }

    /// The command of this name, in any case; subcommands as `client|kill`.
    pub fn find(&self, name: &str) -> Option<&Command> {
        if let Some(id) = self.names.get(name) {
            return Some(&self.list[*id]);
        }
        self.names.get(name.to_ascii_lowercase().as_str()).map(|id| &self.list[*id])
    }

    /// Its subcommands.
    pub fn subcommands<'a>(&'a self, of: &'a Command) -> impl Iterator<Item = &'a Command> {
        self.list[of.id + 1..]
            .iter()
            .take_while(|next| next.name.starts_with(of.name))
            .filter(|next| next.name.as_bytes().get(of.name.len()) == Some(&b'|'))
    }

    /// The command that these words are: the subcommand, where the command has any. `None` where it is unknown.
    pub fn of_words(&self, name: &str, args: &[&[u8]]) -> Option<&Command> {
        let command = self.find(name)?;
        let Some(sub) = args.get(1) else { return Some(command) };
        if self.subcommands(command).next().is_none() {
            return Some(command);
        }
        let sub = std::str::from_utf8(sub).ok()?;
        Some(self.find(&format!("{}|{sub}", command.name)).unwrap_or(command))
    }
}

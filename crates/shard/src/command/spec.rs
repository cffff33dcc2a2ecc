//! What is known about a command before it runs.

/// Gives a family its `spec`: what its commands have in common is their group in COMMAND DOCS.
macro_rules! family {
    ($group:literal) => {
        const fn spec(
            name: &'static str,
            arity: i32,
            flags: Flags,
            keys: Keys,
            run: Run,
            since: &'static str,
            summary: &'static str,
        ) -> Spec {
            Spec { name, arity, flags, keys, run, group: $group, since, summary }
        }
    };
}

use smallvec::SmallVec;

use super::context::{Reading, Writing};
use crate::error::CommandError;
use crate::reply::Reply;

/// A command's words, its name first. At least one.
pub type Args<'a> = &'a [&'a [u8]];

/// What running a command comes to; an `Err` becomes the error reply (whatever was written before it is dropped).
pub type Outcome = Result<(), CommandError>;

/// The code of a command.
#[derive(Clone, Copy)]
pub enum Run {
    /// Changes nothing; runs under a shared lock.
    Read(fn(&mut Reading<'_>, Args<'_>, &mut Reply) -> Outcome),
    /// May change something; runs at apply.
    Write(fn(&mut Writing<'_>, Args<'_>, &mut Reply) -> Outcome),
}

/// Where the keys stand among the words.
#[derive(Clone, Copy)]
pub enum Keys {
    /// None at all, or all of them (KEYS, FLUSHALL).
    None,
    /// From `first` to `last` (negative counts from the end), every `step`th. COMMAND INFO shows these.
    Range(usize, isize, usize),
    /// The word at this place says how many keys follow it; with `true` the word before it… `first` is where it stands and
    /// `store` says that word 1 is a key as well (ZUNIONSTORE).
    Counted {
        /// Where `numkeys` stands.
        at: usize,
        /// Whether word 1 is a key too.
        store: bool,
    },
    /// Found by reading the words (XREAD, SORT, GEORADIUS). Returns places of keys.
    Find(fn(Args<'_>) -> SmallVec<[usize; 8]>),
}

/// What sort of command it is, as COMMAND INFO names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u16);

impl Flags {
    /// Nothing special.
    pub const NONE: Flags = Flags(0);
    /// May grow memory: refused when a keyspace or the disk is full.
    pub const GROWS: Flags = Flags(1);
    /// May wait for data.
    pub const BLOCKING: Flags = Flags(2);
    /// Costs little whatever the data (Redis's `fast`).
    pub const FAST: Flags = Flags(4);
    /// Works on every key of the database: both durability classes at once.
    pub const WHOLE: Flags = Flags(8);
    /// May not be called from a script.
    pub const NO_SCRIPT: Flags = Flags(16);
    /// Runs a script.
    pub const SCRIPT: Flags = Flags(32);
    /// Never proposes anything though it is a `Write` (EVAL_RO): runs at its place in the order, unlogged.
    pub const READ_ONLY: Flags = Flags(64);
    /// Frees memory or keeps the database tidy: works on although the disk is full.
    pub const FREES: Flags = Flags(128);
    /// Does nothing but its subcommands (see [`check`](super::check)).
    pub const CONTAINER: Flags = Flags(256);

    /// Both.
    pub const fn and(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` is set.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A command.
pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// Number of words; negative is "at least".
    pub arity: i32,
    /// See [`Flags`].
    pub flags: Flags,
    /// See [`Keys`].
    pub keys: Keys,
    /// See [`Run`].
    pub run: Run,
    /// COMMAND DOCS's group (`string`, `list`, …).
    pub group: &'static str,
    /// The first Redis version that had it.
    pub since: &'static str,
    /// One line of help.
    pub summary: &'static str,
}

impl Spec {
    /// Whether the number of words can be right.
    pub fn accepts(&self, words: usize) -> bool {
        if self.arity < 0 { words >= self.arity.unsigned_abs() as usize } else { words == self.arity as usize }
    }

    /// Whether it may change something.
    pub fn is_write(&self) -> bool {
        matches!(self.run, Run::Write(_)) && !self.flags.has(Flags::READ_ONLY)
    }

    /// Places of the keys among `args`. Words that do not form a valid command give what can be found.
    pub fn key_places(&self, args: Args<'_>) -> SmallVec<[usize; 8]> {
        match self.keys {
            Keys::None => SmallVec::new(),
            Keys::Range(first, last, step) => {
                let last = if last < 0 { args.len() as isize + last } else { last.min(args.len() as isize - 1) };
                (first as isize..=last).step_by(step.max(1)).map(|place| place as usize).collect()
            }
            Keys::Counted { at, store } => {
                let count = args.get(at).and_then(|word| base::parse_i64(word)).unwrap_or(0).max(0) as usize;
                let end = at.saturating_add(count).min(args.len().saturating_sub(1));
                let own = if store && args.len() > 1 { 1..2 } else { 0..0 };
                own.chain(at + 1..end + 1).collect()
            }
            Keys::Find(find) => find(args),
        }
    }
}

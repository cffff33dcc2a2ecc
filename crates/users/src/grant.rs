//! What a user may do, compiled: commands are bits.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::glob_matches;

use crate::commands::{Access, Command, Commands, category};
use crate::model::{KeyPattern, Selector, User};

/// What somebody asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The command, or its subcommand.
    pub command: &'static Command,
    /// Its words.
    pub args: &'a [&'a [u8]],
    /// Its keys and where they stand, in the command's order.
    pub keys: &'a [(usize, &'a [u8])],
}

/// Why not. The greater one is told where selectors differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Denied {
    /// The command.
    Command,
    /// The key that stands there.
    Key(usize),
    /// The channel that stands there.
    Channel(usize),
}

#[derive(Clone, Debug)]
struct Compiled {
    bits: Vec<u64>,
    /// All commands without exception: also such as the list does not know.
    all_commands: bool,
    first_args: BTreeMap<usize, Vec<String>>,
    all_keys: bool,
    keys: Vec<KeyPattern>,
    all_channels: bool,
    channels: Vec<Vec<u8>>,
}

/// What a user may do.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Who it is.
    pub name: Vec<u8>,
    /// What it was made from.
    pub user: Arc<User>,
    /// Everything: nothing has to be asked.
    pub is_all: bool,
    selectors: Vec<Compiled>,
}

/// Commands that need no right: one must be able to say who one is, and to leave.
const OPEN: [&str; 4] = ["auth", "hello", "quit", "reset"];

impl Compiled {
    fn new(selector: &Selector) -> Compiled {
        let commands = Commands::all();
        let count = commands.iter().len();
        let mut own = Compiled {
            bits: vec![if selector.all_commands { u64::MAX } else { 0 }; count.div_ceil(64)],
            all_commands: selector.all_commands,
            first_args: BTreeMap::new(),
            all_keys: selector.all_keys,
            keys: selector.keys.clone(),
            all_channels: selector.all_channels,
            channels: selector.channels.clone(),
        };
        for (given, name) in &selector.commands {
            own.all_commands &= *given;
            if let Some(name) = name.strip_prefix('@') {
                let bit = category(name).unwrap_or(0);
                // In the order of their names a command stands before its subcommands, which may be in other categories than it.
                commands.iter().filter(|command| command.categories & bit != 0).for_each(|command| {
                    own.set_with_subcommands(command, *given);
                });
            } else if let Some(command) = commands.find(name) {
                own.set_with_subcommands(command, *given);
            } else if let Some((parent, first)) = name.split_once('|')
                && let Some(command) = commands.find(parent).filter(|_| *given)
            {
                own.first_args.entry(command.id).or_default().push(first.to_owned());
            }
        }
        own
    }

    fn set_with_subcommands(&mut self, command: &Command, given: bool) {
        self.set(command.id, given);
        Commands::all().subcommands(command).for_each(|sub| self.set(sub.id, given));
    }

    fn set(&mut self, id: usize, given: bool) {
        self.first_args.remove(&id);
        let bit = 1 << (id % 64);
        if given { self.bits[id / 64] |= bit } else { self.bits[id / 64] &= !bit }
    }

    fn has(&self, command: &Command, args: &[&[u8]]) -> bool {
        self.all_commands
            || self.bits[command.id / 64] >> (command.id % 64) & 1 == 1
            || OPEN.contains(&command.name)
            || self.first_args.get(&command.id).is_some_and(|firsts| {
                args.get(1).is_some_and(|word| firsts.iter().any(|first| word.eq_ignore_ascii_case(first.as_bytes())))
            })
    }

    fn has_key(&self, key: &[u8], wanted: Access) -> bool {
        self.all_keys || self.keys.iter().any(|known| known.access.covers(wanted) && glob_matches(&known.pattern, key))
    }

    fn has_channel(&self, channel: &[u8], is_pattern: bool) -> bool {
        // What somebody listens to by a pattern cannot be matched with a pattern: it must be the same one.
        self.all_channels
            || self
                .channels
                .iter()
                .any(|known| if is_pattern { known == channel } else { glob_matches(known, channel) })
    }

    fn check(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        if !self.has(asked.command, asked.args) {
            return Err(Denied::Command);
        }
        for (nth, (place, key)) in asked.keys.iter().enumerate() {
            if !self.has_key(key, asked.command.access(nth, asked.args)) {
                return Err(Denied::Key(*place));
            }
        }
        if let Some((channels, is_pattern)) = channels_of(asked) {
            for place in channels {
                if !asked.args.get(place).is_none_or(|channel| self.has_channel(channel, is_pattern)) {
                    return Err(Denied::Channel(place));
                }
            }
        }
        Ok(())
    }
}

/// Where channels stand among the words, and whether they are patterns. Whoever stops listening needs no right.
fn channels_of(asked: &Asked<'_>) -> Option<(std::ops::Range<usize>, bool)> {
    match asked.command.name {
        "publish" | "spublish" => Some((1..2, false)),
        "subscribe" | "ssubscribe" => Some((1..asked.args.len(), false)),
        "psubscribe" => Some((1..asked.args.len(), true)),
        _ => None,
    }
}

impl Grant {
    /// What this user may do.
    pub fn new(name: &[u8], user: Arc<User>) -> Grant {
        let selectors: Vec<Compiled> = user.all_selectors().map(Compiled::new).collect();
        let is_all = selectors.iter().any(|own| own.all_commands && own.all_keys && own.all_channels);
        Grant { name: name.to_vec(), user, is_all, selectors }
    }

    /// Whether the user may do that: one of its selectors must allow all of it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, asked: &Asked<'_>) -> Result<(), Denied> {
        let mut reason = Denied::Command;
        for own in &self.selectors {
            match own.check(asked) {
                Ok(()) => return Ok(()),
                Err(denied) => reason = reason.max(denied),
            }
        }
        Err(reason)
    }

    /// Whether the user may use a command at all, whatever its keys.
    pub fn may_use(&self, command: &Command) -> bool {
        self.selectors.iter().any(|own| own.has(command, &[]))
    }

    /// Whether the user may use this command, and on every key that begins with `prefix` (on all keys where it is empty).
    pub fn may_on_all(&self, command: &Command, args: &[&[u8]], prefix: &[u8], wanted: Access) -> bool {
        let covers = |known: &KeyPattern| {
            let end = known.pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(known.pattern.len());
            known.access.covers(wanted) && &known.pattern[end..] == b"*" && prefix.starts_with(&known.pattern[..end])
        };
        self.selectors.iter().any(|own| own.has(command, args) && (own.all_keys || own.keys.iter().any(covers)))
    }

    /// Whether the user may listen to it.
    pub fn may_listen(&self, channel: &[u8], is_pattern: bool) -> bool {
        self.selectors.iter().any(|own| own.has_channel(channel, is_pattern))
    }
}

impl Denied {
    /// Redis's words for it. `aloud`: with the key's or channel's name, for whoever asks about somebody (ACL DRYRUN).
    pub fn text(self, name: &[u8], command: &Command, args: &[&[u8]], aloud: bool) -> String {
        let user = String::from_utf8_lossy(name);
        let word = |place: usize| String::from_utf8_lossy(args.get(place).copied().unwrap_or_default()).into_owned();
        match self {
            Denied::Command => format!("User {user} has no permissions to run the '{}' command", command.name),
            Denied::Key(place) if aloud => {
                format!("User {user} has no permissions to access the '{}' key", word(place))
            }
            Denied::Key(_) => "No permissions to access a key".into(),
            Denied::Channel(place) if aloud => {
                format!("User {user} has no permissions to access the '{}' channel", word(place))
            }
            Denied::Channel(_) => "No permissions to access a channel".into(),
        }
    }
}

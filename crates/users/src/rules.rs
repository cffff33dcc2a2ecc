//! The words that change a user (<https://redis.io/docs/latest/operate/oss_and_stack/management/security/acl/>), and their errors in
//! Redis's wording.

use crate::commands::{Access, Commands, category};
use crate::limits::{PASSWORDS_MAX, PATTERNS_MAX, SELECTORS_MAX};
use crate::model::{KeyPattern, Password, Selector, User, hex};

/// Why a word cannot be done: what Redis says behind `Error in ACL SETUSER modifier '…': `.
pub type Wrong = &'static str;

const SYNTAX: Wrong = "Syntax error";
const UNKNOWN: Wrong = "Unknown command or category name in ACL";
const FIRST_ARG_OF_SUB: Wrong = "Allowing first-arg of a subcommand is not supported";
const HASH: Wrong = "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters";
const NO_SUCH_PASSWORD: Wrong = "The password you are trying to remove from the user does not exist";
const ALL_KEYS: Wrong = "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns";
const ALL_CHANNELS: Wrong = "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels";
const PLAIN: Wrong = "A password in the clear stands where only digests may";
const TOO_MANY: Wrong = "Too many passwords, selectors or patterns (docs/users.md has the bounds)";

/// What changes a selector.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Grain {
    AllKeys,
    ResetKeys,
    AllChannels,
    ResetChannels,
    AllCommands,
    NoCommands,
    Key(KeyPattern),
    Channel(Vec<u8>),
    /// A command, a subcommand, a first argument or a category.
    Command(bool, String),
}

/// What changes a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Nothing,
    On(bool),
    SkipSanitize(bool),
    NoPass,
    ResetPass,
    AddPassword([u8; 32]),
    RemovePassword([u8; 32]),
    ClearSelectors,
    Reset,
    Selector(Vec<Grain>),
    Root(Grain),
}

/// Parts a text at its spaces, but not within parentheses.
pub fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let words = text.split(|byte| *byte == b' ').filter(|word| !word.is_empty());
    merge(words.map(<[u8]>::to_vec)).unwrap_or_default()
}

/// Puts words that belong to one selector, `(~a`, `+get)`, together.
///
/// # Errors
/// The word whose parenthesis is never closed.
pub fn merge(words: impl Iterator<Item = Vec<u8>>) -> Result<Vec<Vec<u8>>, Vec<u8>> {
    let mut merged: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(Vec<u8>, Vec<u8>)> = None;
    for word in words {
        match &mut open {
            None if word.first() == Some(&b'(') && word.last() != Some(&b')') => open = Some((word.clone(), word)),
            None => merged.push(word),
            Some((_, whole)) => {
                whole.push(b' ');
                whole.extend_from_slice(&word);
                if word.last() == Some(&b')') {
                    merged.extend(open.take().map(|(_, whole)| whole));
                }
            }
        }
    }
    match open {
        Some((first, _)) => Err(first),
        None => Ok(merged),
    }
}

/// Whether a word cannot be a name or a pattern: it would not come back from `ACL LIST`.
pub fn has_spaces(word: &[u8]) -> bool {
    word.iter().any(|byte| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0b))
}

fn digest(text: &[u8]) -> Result<[u8; 32], Wrong> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        _ => Err(HASH),
    };
    if text.len() != 64 {
        return Err(HASH);
    }
    let mut out = [0; 32];
    for (place, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *place = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Ok(out)
}

fn key_pattern(word: &[u8]) -> Result<KeyPattern, Wrong> {
    let (access, pattern) = match word {
        [b'~', pattern @ ..] => (Access::BOTH, pattern),
        [_, rest @ ..] => {
            let end = rest.iter().position(|byte| *byte == b'~').ok_or(SYNTAX)?;
            let access = match rest[..end].to_ascii_uppercase().as_slice() {
                b"R" => Access::READ,
                b"W" => Access::WRITE,
                b"RW" | b"WR" => Access::BOTH,
                _ => return Err(SYNTAX),
            };
            (access, &rest[end + 1..])
        }
        [] => return Err(SYNTAX),
    };
    if has_spaces(pattern) {
        return Err(SYNTAX);
    }
    Ok(KeyPattern { access, pattern: pattern.to_vec() })
}

/// What is shown as `~*` is that: a user must come back from its words as it was.
fn is_all(pattern: &KeyPattern) -> bool {
    pattern.access == Access::BOTH && pattern.pattern == b"*"
}

/// Whether the list of commands knows what `+…` or `-…` names.
fn name_command(given: bool, name: &str) -> Result<(), Wrong> {
    let commands = Commands::all();
    if let Some(name) = name.strip_prefix('@') {
        return category(name).map(|_| ()).ok_or(UNKNOWN);
    }
    let Some((parent, sub)) = name.rsplit_once('|') else {
        return commands.find(name).map(|_| ()).ok_or(UNKNOWN);
    };
    if !given {
        return commands.find(name).map(|_| ()).ok_or(UNKNOWN);
    }
    let parent = commands.find(parent).ok_or(UNKNOWN)?;
    if parent.parent().is_some() {
        return Err(FIRST_ARG_OF_SUB);
    }
    if sub.is_empty() {
        return Err(SYNTAX);
    }
    let is_container = commands.subcommands(parent).next().is_some();
    if is_container && commands.find(name).is_none() { Err(UNKNOWN) } else { Ok(()) }
}

fn grain(word: &[u8], knows: &dyn Fn(&str) -> bool) -> Result<Grain, Wrong> {
    let lower = word.to_ascii_lowercase();
    Ok(match &lower[..] {
        b"allkeys" | b"~*" => Grain::AllKeys,
        b"resetkeys" => Grain::ResetKeys,
        b"allchannels" | b"&*" => Grain::AllChannels,
        b"resetchannels" => Grain::ResetChannels,
        b"allcommands" | b"+@all" => Grain::AllCommands,
        b"nocommands" | b"-@all" => Grain::NoCommands,
        [b'~' | b'%', ..] => match key_pattern(word)? {
            pattern if is_all(&pattern) => Grain::AllKeys,
            pattern => Grain::Key(pattern),
        },
        [b'&', ..] if has_spaces(word) => return Err(SYNTAX),
        [b'&', ..] => Grain::Channel(word[1..].to_vec()),
        [sign @ (b'+' | b'-'), name @ ..] => {
            let name = std::str::from_utf8(name).ok().filter(|name| !has_spaces(name.as_bytes())).ok_or(UNKNOWN)?;
            let given = *sign == b'+';
            name_command(given, name).or_else(|wrong| if knows(name) { Ok(()) } else { Err(wrong) })?;
            Grain::Command(given, name.to_owned())
        }
        _ => return Err(SYNTAX),
    })
}

impl Rule {
    /// Reads a word. `knows` says which commands are believed that the list does not know: one that another build wrote into the log is.
    ///
    /// # Errors
    /// Redis's reason.
    pub fn parse(word: &[u8], knows: &dyn Fn(&str) -> bool) -> Result<Rule, Wrong> {
        let lower = word.to_ascii_lowercase();
        Ok(Rule(match &lower[..] {
            b"" => Kind::Nothing,
            b"on" => Kind::On(true),
            b"off" => Kind::On(false),
            b"skip-sanitize-payload" => Kind::SkipSanitize(true),
            b"sanitize-payload" => Kind::SkipSanitize(false),
            b"nopass" => Kind::NoPass,
            b"resetpass" => Kind::ResetPass,
            b"clearselectors" => Kind::ClearSelectors,
            b"reset" => Kind::Reset,
            [b'#', ..] => Kind::AddPassword(digest(&word[1..])?),
            [b'!', ..] => Kind::RemovePassword(digest(&word[1..])?),
            // Doors hash before anybody else sees it.
            [b'>' | b'<', ..] => return Err(PLAIN),
            [b'(', .., b')'] => {
                let words = word[1..word.len() - 1].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
                // One that ends like a selector could not be told from its end when it is read again.
                let one = |word: &[u8]| if word.ends_with(b")") { Err(SYNTAX) } else { grain(word, knows) };
                Kind::Selector(words.map(one).collect::<Result<_, _>>()?)
            }
            _ => Kind::Root(grain(word, knows)?),
        }))
    }

    /// The word again.
    pub fn word(&self) -> Vec<u8> {
        let text: &[u8] = match &self.0 {
            Kind::Nothing => b"",
            Kind::On(true) => b"on",
            Kind::On(false) => b"off",
            Kind::SkipSanitize(true) => b"skip-sanitize-payload",
            Kind::SkipSanitize(false) => b"sanitize-payload",
            Kind::NoPass => b"nopass",
            Kind::ResetPass => b"resetpass",
            Kind::ClearSelectors => b"clearselectors",
            Kind::Reset => b"reset",
            Kind::AddPassword(digest) => return format!("#{}", hex(digest)).into_bytes(),
            Kind::RemovePassword(digest) => return format!("!{}", hex(digest)).into_bytes(),
            Kind::Selector(grains) => {
                let words: Vec<Vec<u8>> = grains.iter().map(Grain::word).collect();
                return [b"(", &words.join(&b' ')[..], b")"].concat();
            }
            Kind::Root(grain) => return grain.word(),
        };
        text.to_vec()
    }

    /// The password that it adds.
    pub fn adds_password(&self) -> Option<[u8; 32]> {
        match self.0 {
            Kind::AddPassword(digest) => Some(digest),
            _ => None,
        }
    }

    /// Changes a user.
    ///
    /// # Errors
    /// Redis's reason; then the user is half changed: throw it away.
    pub fn apply(&self, user: &mut User) -> Result<(), Wrong> {
        match &self.0 {
            Kind::Nothing => {}
            Kind::On(on) => user.enabled = *on,
            Kind::SkipSanitize(skip) => user.skip_sanitize = *skip,
            Kind::NoPass => {
                user.nopass = true;
                user.passwords.clear();
            }
            Kind::ResetPass => {
                user.nopass = false;
                user.passwords.clear();
            }
            Kind::AddPassword(digest) => {
                user.nopass = false;
                if !user.passwords.iter().any(|known| known.digest == *digest) {
                    if user.passwords.len() >= PASSWORDS_MAX {
                        return Err(TOO_MANY);
                    }
                    user.passwords.push(Password { digest: *digest, proof: None });
                }
            }
            Kind::RemovePassword(digest) => {
                let at = user.passwords.iter().position(|known| known.digest == *digest).ok_or(NO_SUCH_PASSWORD)?;
                user.passwords.remove(at);
            }
            Kind::ClearSelectors => user.selectors.clear(),
            Kind::Reset => *user = User { born: user.born, ..User::default() },
            Kind::Selector(grains) => {
                if user.selectors.len() >= SELECTORS_MAX {
                    return Err(TOO_MANY);
                }
                let mut selector = Selector::default();
                grains.iter().try_for_each(|grain| grain.apply(&mut selector))?;
                user.selectors.push(selector);
            }
            Kind::Root(grain) => grain.apply(&mut user.root)?,
        }
        Ok(())
    }
}

impl Grain {
    fn word(&self) -> Vec<u8> {
        let selector =
            |selector: Selector, keys: bool| if keys { selector.show_keys() } else { selector.show_channels() };
        let text: &[u8] = match self {
            Grain::AllKeys => b"~*",
            Grain::ResetKeys => b"resetkeys",
            Grain::AllChannels => b"&*",
            Grain::ResetChannels => b"resetchannels",
            Grain::AllCommands => b"+@all",
            Grain::NoCommands => b"-@all",
            Grain::Key(pattern) => {
                return selector(Selector { keys: vec![pattern.clone()], ..Selector::default() }, true);
            }
            Grain::Channel(name) => {
                return selector(Selector { channels: vec![name.clone()], ..Selector::default() }, false);
            }
            Grain::Command(true, name) => return format!("+{name}").into_bytes(),
            Grain::Command(false, name) => return format!("-{name}").into_bytes(),
        };
        text.to_vec()
    }

    fn apply(&self, selector: &mut Selector) -> Result<(), Wrong> {
        match self {
            Grain::AllKeys => {
                selector.all_keys = true;
                selector.keys.clear();
            }
            Grain::ResetKeys => {
                selector.all_keys = false;
                selector.keys.clear();
            }
            Grain::AllChannels => {
                selector.all_channels = true;
                selector.channels.clear();
            }
            Grain::ResetChannels => {
                selector.all_channels = false;
                selector.channels.clear();
            }
            Grain::AllCommands | Grain::NoCommands => {
                selector.all_commands = *self == Grain::AllCommands;
                selector.commands.clear();
            }
            Grain::Key(_) if selector.all_keys => return Err(ALL_KEYS),
            Grain::Key(new) => match selector.keys.iter().position(|known| known.pattern == new.pattern) {
                Some(at) => {
                    let known = &mut selector.keys[at];
                    known.access.read |= new.access.read;
                    known.access.write |= new.access.write;
                    if is_all(known) {
                        Grain::AllKeys.apply(selector)?;
                    }
                }
                None if selector.keys.len() >= PATTERNS_MAX => return Err(TOO_MANY),
                None => selector.keys.push(new.clone()),
            },
            Grain::Channel(_) if selector.all_channels => return Err(ALL_CHANNELS),
            Grain::Channel(name) => {
                if !selector.channels.contains(name) {
                    if selector.channels.len() >= PATTERNS_MAX {
                        return Err(TOO_MANY);
                    }
                    selector.channels.push(name.clone());
                }
            }
            Grain::Command(given, name) => {
                let name = name.to_ascii_lowercase();
                // What is said of a command replaces what was said of it and of its subcommands.
                selector.commands.retain(|(_, known)| {
                    known.strip_prefix(&name[..]).is_none_or(|rest| !(rest.is_empty() || rest.starts_with('|')))
                });
                selector.commands.push((*given, name));
            }
        }
        Ok(())
    }
}

//! What a command answers when it cannot do what it was asked. The texts are Redis 7.2's: clients parse them.

use std::borrow::Cow;

/// An error reply: the whole line after the `-`, its first word the code that clients look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError(pub Cow<'static, str>);

impl CommandError {
    /// An error whose text is known at compile time.
    pub const fn new(text: &'static str) -> CommandError {
        CommandError(Cow::Borrowed(text))
    }

    /// `ERR wrong number of arguments for 'x' command`.
    pub fn arity(name: &str) -> CommandError {
        CommandError(Cow::Owned(format!("ERR wrong number of arguments for '{}' command", name.to_ascii_lowercase())))
    }
}

/// A client's word as an error repeats it: Redis prints C strings, which end at a zero byte.
pub fn shown(word: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(word.split(|byte| *byte == 0).next().unwrap_or_default())
}

impl From<String> for CommandError {
    fn from(text: String) -> CommandError {
        CommandError(Cow::Owned(text))
    }
}

impl From<store::table::WrongType> for CommandError {
    fn from(_: store::table::WrongType) -> CommandError {
        WRONG_TYPE
    }
}

/// The key holds a value of another kind.
pub const WRONG_TYPE: CommandError =
    CommandError::new("WRONGTYPE Operation against a key holding the wrong kind of value");
/// The arguments do not form a valid command.
pub const SYNTAX: CommandError = CommandError::new("ERR syntax error");
/// An argument that must be an integer is not, or does not fit.
pub const NOT_INTEGER: CommandError = CommandError::new("ERR value is not an integer or out of range");
/// An argument that must fit 32 bits does not.
pub const INT_RANGE: CommandError =
    CommandError::new("ERR value is out of range, value must between -2147483648 and 2147483647");
/// An argument that must be a float is not.
pub const NOT_FLOAT: CommandError = CommandError::new("ERR value is not a valid float");
/// An index beyond the end.
pub const INDEX_RANGE: CommandError = CommandError::new("ERR index out of range");
/// An integer result would not fit.
pub const OVERFLOW: CommandError = CommandError::new("ERR increment or decrement would overflow");
/// A source key that must exist does not.
pub const NO_SUCH_KEY: CommandError = CommandError::new("ERR no such key");
/// A timeout that cannot be.
pub const TIMEOUT_NEGATIVE: CommandError = CommandError::new("ERR timeout is negative");
/// A timeout that cannot be read.
pub const TIMEOUT_NOT_FLOAT: CommandError = CommandError::new("ERR timeout is not a float or out of range");

//! What must be right about a command's words before it may be queued or run: their number, and the subcommand.
//!
//! MULTI refuses what is wrong here at once, and EXEC then aborts; so it cannot wait until the command runs.

use super::{Args, Flags, Spec};
use crate::error::{CommandError, shown};

/// Numbers of words, the command's own counted; negative is "at least".
type Subcommands = &'static [(&'static str, i32)];

const FUNCTION: Subcommands = &[
    ("delete", 3),
    ("dump", 2),
    ("flush", -2),
    ("help", 2),
    ("kill", 2),
    ("list", -2),
    ("load", -3),
    ("restore", -3),
    ("stats", 2),
];
const MEMORY: Subcommands =
    &[("doctor", 2), ("help", 2), ("malloc-stats", 2), ("purge", 2), ("stats", 2), ("usage", -3)];
const OBJECT: Subcommands = &[("encoding", 3), ("freq", 3), ("help", 2), ("idletime", 3), ("refcount", 3)];
const SCRIPT: Subcommands = &[("debug", 3), ("exists", -3), ("flush", -2), ("help", 2), ("kill", 2), ("load", 3)];
const XGROUP: Subcommands =
    &[("create", -5), ("createconsumer", 5), ("delconsumer", 5), ("destroy", 4), ("help", 2), ("setid", -5)];
const XINFO: Subcommands = &[("consumers", 4), ("groups", 3), ("help", 2), ("stream", -3)];

/// How much of a client's word an error repeats, bytes.
const PREVIEW_BYTES_MAX: usize = 128;

fn subcommands(container: &str) -> Subcommands {
    match container {
        "function" => FUNCTION,
        "memory" => MEMORY,
        "object" => OBJECT,
        "script" => SCRIPT,
        "xgroup" => XGROUP,
        "xinfo" => XINFO,
        _ => &[],
    }
}

/// The names of a container's subcommands.
#[cfg(test)]
pub(super) fn subcommands_of(container: &str) -> impl Iterator<Item = &'static str> {
    subcommands(container).iter().map(|(name, _)| *name)
}

/// The subcommand that a container's second word names, and whether the number of words can be right. `None` where there is
/// none of that name.
pub fn subcommand(spec: &Spec, args: Args<'_>) -> Option<(&'static str, bool)> {
    let word = args.get(1)?;
    let (name, arity) = subcommands(spec.name).iter().find(|(name, _)| name.as_bytes().eq_ignore_ascii_case(word))?;
    let wanted = arity.unsigned_abs() as usize;
    Some((name, if *arity < 0 { args.len() >= wanted } else { args.len() == wanted }))
}

/// Refuses words that cannot be right whatever the data: too few, too many, or no such subcommand.
#[inline]
pub fn check(spec: &Spec, args: Args<'_>) -> Result<(), CommandError> {
    if !spec.accepts(args.len()) {
        return Err(CommandError::arity(spec.name));
    }
    if spec.flags.has(Flags::CONTAINER) { check_subcommand(spec, args) } else { Ok(()) }
}

#[cold]
fn check_subcommand(spec: &Spec, args: Args<'_>) -> Result<(), CommandError> {
    let word = args[1];
    let Some((name, accepts)) = subcommand(spec, args) else {
        let shown = shown(&word[..word.len().min(PREVIEW_BYTES_MAX)]);
        let container = spec.name.to_ascii_uppercase();
        return Err(format!("ERR unknown subcommand '{shown}'. Try {container} HELP.").into());
    };
    if accepts {
        return Ok(());
    }
    Err(CommandError::arity(&format!("{}|{name}", spec.name)))
}

#[cfg(test)]
mod tests {
    use super::{check, subcommands};
    use crate::command::{Flags, all, find};

    fn checked(line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let spec = find(args[0]).expect("a command");
        check(spec, &args).map_or_else(|error| error.0.into_owned(), |()| "fine".into())
    }

    #[test]
    fn subcommands_are_checked_before_anything_runs() {
        for (line, answer) in [
            ("GET", "ERR wrong number of arguments for 'get' command"),
            ("OBJECT", "ERR wrong number of arguments for 'object' command"),
            ("object Encoding k", "fine"),
            ("OBJECT ENCODING", "ERR wrong number of arguments for 'object|encoding' command"),
            ("OBJECT HELP x", "ERR wrong number of arguments for 'object|help' command"),
            ("OBJECT nosuch\0x k", "ERR unknown subcommand 'nosuch'. Try OBJECT HELP."),
            ("SCRIPT KILLX", "ERR unknown subcommand 'KILLX'. Try SCRIPT HELP."),
            ("SCRIPT EXISTS", "ERR wrong number of arguments for 'script|exists' command"),
            ("XGROUP CREATE s g", "ERR wrong number of arguments for 'xgroup|create' command"),
            ("XINFO STREAM", "ERR wrong number of arguments for 'xinfo|stream' command"),
            ("XINFO STREAM s FULL", "fine"),
        ] {
            assert_eq!(checked(line), answer, "{line}");
        }
    }

    #[test]
    fn every_container_has_its_subcommands() {
        for spec in all() {
            assert_eq!(spec.flags.has(Flags::CONTAINER), !subcommands(spec.name).is_empty(), "{}", spec.name);
        }
    }
}

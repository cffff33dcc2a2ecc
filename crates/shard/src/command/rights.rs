//! Scripts of users who may not do everything.
//!
//! What a script calls is known only where it runs: at apply, on every replica. So its entry says what its user may do, in the words of the
//! access control list: the door puts a word of ours and those rights before the client's own words,
//!
//! ```text
//!   \0as  "alice ~app:* resetchannels -@all +eval +get"  EVAL  "return redis.call('get', KEYS[1])"  1  app:x
//! ```
//!
//! and every replica decides alike, whatever has become of the user by then. No client may send these words itself: doors refuse them.

use std::sync::Arc;

use smallvec::SmallVec;
use users::commands::Commands;
use users::{Asked, Denied, Grant, User};

use super::{Args, Flags, Keys, Outcome, Run, Spec, Writing, find};
use crate::error::CommandError;
use crate::reply::Reply;

/// The word before a script that writes.
pub const AS: &str = "\0as";
/// The word before one that only reads.
const AS_RO: &str = "\0as_ro";

pub(super) const SPECS: &[Spec] = &[
    own(AS, Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::GROWS)),
    own(AS_RO, Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::READ_ONLY)),
];

const fn own(name: &'static str, flags: Flags) -> Spec {
    let (keys, run) = (Keys::Find(keys), Run::Write(run_as));
    Spec {
        name,
        arity: -4,
        flags,
        keys,
        run,
        group: "scripting",
        since: "7.2.0",
        summary: "A script and its user's rights.",
    }
}

const NOT_A_SCRIPT: CommandError = CommandError::new("ERR only scripts say whose they are");

/// Whether a word is one that only doors may write.
pub fn is_internal(spec: &Spec) -> bool {
    spec.name.starts_with('\0')
}

/// The spec that a script of a user with bounds has, beside its own.
pub fn wrapped(spec: &Spec) -> Option<&'static Spec> {
    if !spec.flags.has(Flags::SCRIPT) || is_internal(spec) {
        return None;
    }
    find(if spec.flags.has(Flags::READ_ONLY) { AS_RO } else { AS }.as_bytes())
}

fn inner<'a>(args: Args<'a>) -> Option<(&'static Spec, Args<'a>)> {
    let words = args.get(2..)?;
    let spec = find(words.first()?)?;
    (spec.flags.has(Flags::SCRIPT) && !is_internal(spec)).then_some((spec, words))
}

fn keys(args: Args<'_>) -> SmallVec<[usize; 8]> {
    inner(args)
        .map_or_else(SmallVec::new, |(spec, words)| spec.key_places(words).iter().map(|place| place + 2).collect())
}

fn run_as(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let (spec, words) = inner(args).ok_or(NOT_A_SCRIPT)?;
    let Run::Write(run) = spec.run else { return Err(NOT_A_SCRIPT) };
    super::check(spec, words)?;
    let name = args[1].split(|byte| *byte == b' ').next().unwrap_or_default();
    let user =
        User::of_rights(&args[1][name.len()..]).map_err(|_| CommandError::new("ERR these are no rights of a user"))?;
    writing.user = Some(Arc::new(Grant::new(name, Arc::new(user))));
    let outcome = run(writing, words, reply);
    writing.user = None;
    outcome
}

/// Whether a user may run these words, whose keys stand at these places.
///
/// # Errors
/// Why not.
pub fn check(user: &Grant, name: &str, places: &[usize], words: Args<'_>) -> Result<(), Denied> {
    // What the list does not know is for those who may do everything.
    let command = Commands::all().of_words(name, words).ok_or(Denied::Command)?;
    let keys: SmallVec<[(usize, &[u8]); 8]> =
        places.iter().filter_map(|place| Some((*place, *words.get(*place)?))).collect();
    user.check(&Asked { command, args: words, keys: &keys })?;
    // SORT looks at keys that only its data names.
    let looks = |pair: &[&[u8]]| {
        pair[0].eq_ignore_ascii_case(b"by") && pair[1].contains(&b'*')
            || pair[0].eq_ignore_ascii_case(b"get") && pair[1] != b"#"
    };
    let is_sort = matches!(command.name, "sort" | "sort_ro");
    if is_sort
        && words.get(2..).is_some_and(|rest| rest.windows(2).any(looks))
        && !user.may_on_all(command, words, b"", users::commands::Access::READ)
    {
        return Err(Denied::Key(1));
    }
    Ok(())
}

/// In Redis's words.
pub fn why_not(denied: Denied, user: &Grant, name: &str, words: Args<'_>) -> String {
    match Commands::all().of_words(name, words) {
        Some(command) => denied.text(&user.name, command, words, false),
        None => format!("User {} has no permissions to run the '{name}' command", String::from_utf8_lossy(&user.name)),
    }
}

/// The word that says whose a script is and what its user may do.
pub fn word_of(user: &Grant) -> Vec<u8> {
    // No name has a space in it.
    [&user.name, &b" "[..], &user.user.rights()].concat()
}

#[cfg(test)]
mod tests {
    use users::commands::Commands;

    use super::super::{Flags, all, subcommands_of};

    #[test]
    fn every_command_has_its_categories() {
        for spec in all() {
            assert!(Commands::all().find(spec.name).is_some(), "users/src/commands.txt does not know {}", spec.name);
            if spec.flags.has(Flags::CONTAINER) {
                for name in subcommands_of(spec.name) {
                    let full = format!("{}|{name}", spec.name);
                    assert!(Commands::all().find(&full).is_some(), "users/src/commands.txt does not know {full}");
                }
            }
        }
    }
}

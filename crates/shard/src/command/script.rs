//! Scripts: EVAL and kin, SCRIPT.
//!
//! Knows nothing about Lua: see [`crate::script`]. Known scripts are replicated and survive restarts, which Redis's do
//! not; EVAL_RO and EVALSHA_RO run unlogged and so keep nothing.

use super::{Args, Flags, Keys, Outcome, Run, Spec, Writing, integer, is};
use crate::error::CommandError;
use crate::reply::Reply;
use crate::script::{NO_SCRIPT, Script};

pub(super) const SPECS: &[Spec] = &[
    run(
        "eval",
        Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::GROWS),
        eval,
        "2.6.0",
        "Executes a server-side Lua script.",
    ),
    run(
        "evalsha",
        Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::GROWS),
        evalsha,
        "2.6.0",
        "Executes a server-side Lua script by SHA1 digest.",
    ),
    run(
        "eval_ro",
        Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::READ_ONLY),
        eval_ro,
        "7.0.0",
        "Executes a read-only server-side Lua script.",
    ),
    run(
        "evalsha_ro",
        Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::READ_ONLY),
        evalsha_ro,
        "7.0.0",
        "Executes a read-only server-side Lua script by SHA1 digest.",
    ),
    Spec {
        name: "script",
        arity: -2,
        flags: Flags::NO_SCRIPT.and(Flags::CONTAINER),
        keys: Keys::None,
        run: Run::Write(script),
        group: "scripting",
        since: "2.6.0",
        summary: "A container for Lua scripts management commands.",
    },
];

const fn run(
    name: &'static str,
    flags: Flags,
    code: fn(&mut Writing<'_>, Args<'_>, &mut Reply) -> Outcome,
    since: &'static str,
    summary: &'static str,
) -> Spec {
    Spec {
        name,
        arity: -3,
        flags,
        keys: Keys::Counted { at: 2, store: false },
        run: Run::Write(code),
        group: "scripting",
        since,
        summary,
    }
}

fn eval(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    execute(writing, args, false, reply, |writing, source| writing.scripts.keep(source, false, writing.limits))
}

fn evalsha(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    check_digest(args[1])?;
    execute(writing, args, false, reply, |writing, name| writing.scripts.find(name, writing.limits))
}

fn eval_ro(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    execute(writing, args, true, reply, |writing, source| writing.scripts.peek(source, writing.limits))
}

fn evalsha_ro(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    check_digest(args[1])?;
    execute(writing, args, true, reply, |writing, name| writing.scripts.peek_digest(name, writing.limits))
}

/// What is no digest by its length is refused before the number of keys is looked at.
fn check_digest(word: &[u8]) -> Result<(), CommandError> {
    const DIGITS: usize = 40;
    if word.len() == DIGITS { Ok(()) } else { Err(NO_SCRIPT) }
}

fn execute(
    writing: &mut Writing<'_>,
    args: Args<'_>,
    read_only: bool,
    reply: &mut Reply,
    find: fn(&mut Writing<'_>, &[u8]) -> Result<Script, CommandError>,
) -> Outcome {
    let count = integer(args[2])?;
    let rest = &args[3..];
    if count > rest.len() as i64 {
        return Err(CommandError::new("ERR Number of keys can't be greater than number of args"));
    }
    if count < 0 {
        return Err(CommandError::new("ERR Number of keys can't be negative"));
    }
    let script = find(writing, args[1])?;
    let (keys, arguments) = rest.split_at(count as usize);
    script.run(writing, keys, arguments, read_only, reply)
}

fn script(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    let arity = |name: &str| Err(CommandError::arity(&format!("script|{name}")));
    match (args[1], args.len()) {
        (word, 2) if is(word, "help") => help(reply),
        (word, 3) if is(word, "load") => {
            let script = writing.scripts.keep(args[2], true, writing.limits)?;
            reply.bulk(script.hex().as_bytes());
        }
        (word, 3..) if is(word, "exists") => {
            reply.array(args.len() - 2);
            for name in &args[2..] {
                reply.int(i64::from(writing.scripts.has(name)));
            }
        }
        (word, count) if is(word, "flush") => {
            if !(count == 2 || count == 3 && (is(args[2], "sync") || is(args[2], "async"))) {
                return Err(CommandError::new("ERR SCRIPT FLUSH only support SYNC|ASYNC option"));
            }
            writing.scripts.flush();
            reply.ok();
        }
        // Scripts run to their end, or to their limit, before anything else of the shard does.
        (word, 2) if is(word, "kill") => {
            return Err(CommandError::new("NOTBUSY No scripts in execution right now."));
        }
        (word, 3) if is(word, "debug") => {
            return Err(CommandError::new("ERR SCRIPT DEBUG is not supported"));
        }
        (word, _) => {
            for name in ["help", "load", "exists", "kill", "debug"] {
                if is(word, name) {
                    return arity(name);
                }
            }
            let name = String::from_utf8_lossy(&word[..word.len().min(128)]).into_owned();
            return Err(format!("ERR unknown subcommand '{name}'. Try SCRIPT HELP.").into());
        }
    }
    Ok(())
}

fn help(reply: &mut Reply) {
    const LINES: [&str; 15] = [
        "SCRIPT <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "EXISTS <sha1> [<sha1> ...]",
        "    Return information about the existence of the scripts in the script cache.",
        "FLUSH [ASYNC|SYNC]",
        "    Flush the Lua scripts cache. Very dangerous on replicas.",
        "    When called without the optional mode argument, the behavior is determined by the",
        "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
        "    * ASYNC: Asynchronously flush the scripts cache.",
        "    * SYNC: Synchronously flush the scripts cache.",
        "KILL",
        "    Kill the currently executing Lua script.",
        "LOAD <script>",
        "    Load a script into the scripts cache without executing it.",
        "HELP",
        "    Print this help.",
    ];
    reply.array(LINES.len());
    for line in LINES {
        reply.simple(line);
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod warm_tests;

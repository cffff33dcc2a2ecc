//! Functions: FCALL and kin, FUNCTION.
//!
//! Knows nothing about Lua: see [`crate::script`]. Libraries are replicated and survive restarts, and FLUSHALL.

use super::{Args, Flags, Keys, Outcome, Run, Spec, Writing, integer, is};
use crate::error::{CommandError, shown};
use crate::reply::Reply;
use crate::script::{FUNCTION_FLAGS, Policy};

family!("scripting");

const KEYS: Keys = Keys::Counted { at: 2, store: false };

#[rustfmt::skip]
pub(super) const SPECS: &[Spec] = &[
    spec("fcall", -3, Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::GROWS), KEYS, Run::Write(fcall), "7.0.0", "Invokes a function."),
    spec("fcall_ro", -3, Flags::SCRIPT.and(Flags::NO_SCRIPT).and(Flags::READ_ONLY), KEYS, Run::Write(fcall_ro), "7.0.0", "Invokes a read-only function."),
    spec("function", -2, Flags::NO_SCRIPT.and(Flags::CONTAINER), Keys::None, Run::Write(function), "7.0.0", "A container for function commands."),
];

fn fcall(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    call(writing, args, false, reply)
}

fn fcall_ro(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    call(writing, args, true, reply)
}

fn call(writing: &mut Writing<'_>, args: Args<'_>, read_only: bool, reply: &mut Reply) -> Outcome {
    let function = writing.libraries.find(args[1], writing.limits)?;
    let count = integer(args[2]).map_err(|_| CommandError::new("ERR Bad number of keys provided"))?;
    let rest = &args[3..];
    if count > rest.len() as i64 {
        return Err(CommandError::new("ERR Number of keys can't be greater than number of args"));
    }
    if count < 0 {
        return Err(CommandError::new("ERR Number of keys can't be negative"));
    }
    let (keys, arguments) = rest.split_at(count as usize);
    function.run(writing, keys, arguments, read_only, reply)
}

fn function(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    // As the client wrote it, like Redis.
    let too_many = || {
        let shown: String = String::from_utf8_lossy(args[1]).chars().take(128).collect();
        let text = format!("ERR unknown subcommand or wrong number of arguments for '{shown}'. Try FUNCTION HELP.");
        Err(CommandError::from(text))
    };
    match super::upper(args[1]).as_slice() {
        b"LOAD" => {
            let (code, options) = args[2..].split_last().expect("the arity says so");
            let mut replace = false;
            for option in options {
                if !is(option, "replace") {
                    return Err(format!("ERR Unknown option given: {}", shown(option)).into());
                }
                replace = true;
            }
            let name = writing.libraries.load(code, replace, writing.limits)?;
            reply.bulk(name.as_bytes());
        }
        b"DELETE" => {
            let name = std::str::from_utf8(args[2]).unwrap_or_default();
            if !writing.libraries.delete(name) {
                return Err(CommandError::new("ERR Library not found"));
            }
            reply.ok();
        }
        b"FLUSH" => match &args[2..] {
            [] => flush(writing, reply),
            [mode] if is(mode, "sync") || is(mode, "async") => flush(writing, reply),
            [_] => return Err(CommandError::new("ERR FUNCTION FLUSH only supports SYNC|ASYNC option")),
            _ => return too_many(),
        },
        b"LIST" => list(writing, &args[2..], reply)?,
        b"DUMP" => reply.bulk(&writing.libraries.dump()),
        b"RESTORE" => {
            let policy = match &args[3..] {
                [] => Policy::Append,
                [word] if is(word, "append") => Policy::Append,
                [word] if is(word, "replace") => Policy::Replace,
                [word] if is(word, "flush") => Policy::Flush,
                [_] => {
                    return Err(CommandError::new(
                        "ERR Wrong restore policy given, value should be either FLUSH, APPEND or REPLACE.",
                    ));
                }
                _ => return too_many(),
            };
            writing.libraries.restore(args[2], policy, writing.limits)?;
            reply.ok();
        }
        b"STATS" => stats(writing, reply),
        // Functions run to their end, or to their limit, before anything else of the shard does.
        b"KILL" => return Err(CommandError::new("NOTBUSY No scripts in execution right now.")),
        _ => help(reply),
    }
    Ok(())
}

fn flush(writing: &mut Writing<'_>, reply: &mut Reply) {
    writing.libraries.flush();
    reply.ok();
}

fn list(writing: &Writing<'_>, options: &[&[u8]], reply: &mut Reply) -> Outcome {
    let (mut with_code, mut pattern) = (false, None);
    let mut words = options.iter();
    while let Some(word) = words.next() {
        match word {
            word if is(word, "withcode") && !with_code => with_code = true,
            word if is(word, "libraryname") && pattern.is_none() => {
                let name = words.next().ok_or(CommandError::new("ERR library name argument was not given"))?;
                pattern = Some(name.to_ascii_lowercase());
            }
            word => return Err(format!("ERR Unknown argument {}", shown(word)).into()),
        }
    }
    let matches = |name: &str| {
        pattern.as_ref().is_none_or(|pattern| base::glob_matches(pattern, name.to_ascii_lowercase().as_bytes()))
    };
    let found: Vec<_> = writing.libraries.iter().filter(|(name, _)| matches(name)).collect();
    reply.array(found.len());
    for (name, library) in found {
        reply.map(if with_code { 4 } else { 3 });
        reply.bulk(b"library_name");
        reply.bulk(name.as_bytes());
        reply.bulk(b"engine");
        reply.bulk(b"LUA");
        reply.bulk(b"functions");
        reply.array(library.functions().len());
        for (name, function) in library.functions() {
            reply.map(3);
            reply.bulk(b"name");
            reply.bulk(name.as_bytes());
            reply.bulk(b"description");
            match &function.description {
                Some(text) => reply.bulk(text),
                None => reply.null(),
            }
            reply.bulk(b"flags");
            let flags = FUNCTION_FLAGS.iter().enumerate().filter(|(bit, _)| function.flags >> bit & 1 != 0);
            let flags: Vec<&str> = flags.map(|(_, name)| *name).collect();
            reply.set(flags.len());
            flags.into_iter().for_each(|flag| reply.simple(flag));
        }
        if with_code {
            reply.bulk(b"library_code");
            reply.bulk(library.code());
        }
    }
    Ok(())
}

fn stats(writing: &Writing<'_>, reply: &mut Reply) {
    let (libraries, functions) = writing.libraries.counts();
    reply.map(2);
    reply.bulk(b"running_script");
    reply.null();
    reply.bulk(b"engines");
    reply.map(1);
    reply.bulk(b"LUA");
    reply.map(2);
    reply.bulk(b"libraries_count");
    reply.int(libraries as i64);
    reply.bulk(b"functions_count");
    reply.int(functions as i64);
}

fn help(reply: &mut Reply) {
    const LINES: &[&str] = &[
        "FUNCTION <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
        "LOAD [REPLACE] <FUNCTION CODE>",
        "    Create a new library with the given library name and code.",
        "DELETE <LIBRARY NAME>",
        "    Delete the given library.",
        "LIST [LIBRARYNAME PATTERN] [WITHCODE]",
        "    Return general information on all the libraries:",
        "    * Library name",
        "    * The engine used to run the Library",
        "    * Library description",
        "    * Functions list",
        "    * Library code (if WITHCODE is given)",
        "    It also possible to get only function that matches a pattern using LIBRARYNAME argument.",
        "STATS",
        "    Return information about the current function running:",
        "    * Function name",
        "    * Command used to run the function",
        "    * Duration in MS that the function is running",
        "    If no function is running, return nil",
        "    In addition, returns a list of available engines.",
        "KILL",
        "    Kill the current running function.",
        "FLUSH [ASYNC|SYNC]",
        "    Delete all the libraries.",
        "    When called without the optional mode argument, the behavior is determined by the",
        "    lazyfree-lazy-user-flush configuration directive. Valid modes are:",
        "    * ASYNC: Asynchronously flush the libraries.",
        "    * SYNC: Synchronously flush the libraries.",
        "DUMP",
        "    Return a serialized payload representing the current libraries, can be restored using FUNCTION RESTORE command",
        "RESTORE <PAYLOAD> [FLUSH|APPEND|REPLACE]",
        "    Restore the libraries represented by the given payload, it is possible to give a restore policy to",
        "    control how to handle existing libraries (default APPEND):",
        "    * FLUSH: delete all existing libraries.",
        "    * APPEND: appends the restored libraries to the existing libraries. On collision, abort.",
        "    * REPLACE: appends the restored libraries to the existing libraries, On collision, replace the old",
        "      libraries with the new libraries (notice that even on this option there is a chance of failure",
        "      in case of functions name collision with another library).",
        "HELP",
        "    Print this help.",
    ];
    reply.array(LINES.len());
    LINES.iter().for_each(|line| reply.simple(line));
}

#[cfg(test)]
mod tests {
    use super::super::Served;
    use super::super::testing::{World, golden, run, run_words};
    use crate::script::Libraries;
    use store::codec::{Input, Stored};

    #[test]
    fn golden_answers() {
        golden(include_str!("golden/function.txt"));
    }

    fn load(world: &mut World, code: &str) -> String {
        let words = ["FUNCTION", "LOAD", "REPLACE", code].map(|word| word.as_bytes().to_vec());
        run_words(world, &words, Served::First)
    }

    #[test]
    fn libraries_read_back_as_they_were_written() {
        let mut world = World::new();
        load(&mut world, "#!lua name=one\nredis.register_function('F1', function() return 1 end)");
        load(
            &mut world,
            "#!lua name=two\nredis.register_function{function_name='f2', callback=function(k) return k[1] end, description='d', flags={'no-writes'}}",
        );
        let before = run(&mut world, "FUNCTION LIST WITHCODE");
        let mut form = Vec::new();
        world.libraries.encode(&mut form);
        let mut input = Input::new(&form);
        world.libraries = Libraries::decode(&mut input).expect("as written");
        assert!(input.is_empty());
        assert_eq!(run(&mut world, "FUNCTION LIST WITHCODE"), before);
        assert_eq!(run(&mut world, "FCALL f1 0"), "1");
        assert_eq!(run(&mut world, "FCALL_RO f2 1 key"), "\"key\"");
        assert_eq!(world.libraries.bytes(), {
            let mut again = World::new();
            again.libraries = world.libraries.clone();
            run(&mut again, "FUNCTION DELETE one");
            run(&mut again, "FUNCTION DELETE two");
            assert_eq!(again.libraries.bytes(), 0);
            world.libraries.bytes()
        });
    }

    #[test]
    fn what_a_body_keeps_does_not_outlive_the_call() {
        let mut world = World::new();
        load(
            &mut world,
            "#!lua name=l\nlocal calls = 0\nredis.register_function('f', function() calls = calls + 1 return calls end)",
        );
        for _ in 0..3 {
            assert_eq!(run(&mut world, "FCALL f 0"), "1", "or replicas would differ after a restart of one");
        }
    }

    #[test]
    fn libraries_are_bounded() {
        let mut world = World::new();
        world.limits.scripts_max = 1;
        world.limits.script_instructions_max = 100_000;
        assert_eq!(load(&mut world, "#!lua name=a\nredis.register_function('f', function() return 1 end)"), "\"a\"");
        assert!(load(&mut world, "#!lua name=b\nredis.register_function('g', function() end)").contains("scripts_max"));
        assert!(load(&mut world, "#!lua name=a\nwhile true do end").contains("FUNCTION LOAD timeout"));
        let many = "#!lua name=a\nlocal n='a'\nlocal i=0\nwhile i<2000 do i=i+1 redis.register_function('f'..i, function() end) end";
        world.limits.script_instructions_max = 10_000_000;
        assert!(load(&mut world, many).contains("registers more than"));
        world.limits.script_bytes_max = 4;
        assert!(load(&mut world, "#!lua name=a\n").contains("script_bytes_max"));
        assert_eq!(run(&mut world, "FCALL f 0"), "1", "what was there stays");
    }
}

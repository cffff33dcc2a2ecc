//! Strings: the commands on byte strings and on numbers in them.

use store::table::Expiry;
use store::value::Value;

use super::{Args, Flags, Keys, Outcome, Reading, Run, Spec, Writing};
use crate::reply::Reply;

const fn spec(name: &'static str, arity: i32, flags: Flags, keys: Keys, run: Run, summary: &'static str) -> Spec {
    Spec { name, arity, flags, keys, run, group: "string", since: "1.0.0", summary }
}

pub(super) const SPECS: &[Spec] = &[
    spec("get", 2, Flags::FAST, Keys::Range(1, 1, 1), Run::Read(get), "Returns the string value of a key."),
    spec("set", -3, Flags::GROWS, Keys::Range(1, 1, 1), Run::Write(set), "Sets the string value of a key."),
];

fn get(reading: &mut Reading<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    match reading.tables.get::<Vec<u8>>(reading.db, args[1], reading.now)? {
        Some(text) => reply.bulk(text),
        None => reply.null(),
    }
    Ok(())
}

fn set(writing: &mut Writing<'_>, args: Args<'_>, reply: &mut Reply) -> Outcome {
    if args.len() == 3 {
        writing.tables.set_string(writing.db, args[1], args[2], Expiry::Clear, writing.now);
    } else {
        writing.tables.set(writing.db, args[1], Value::Str(args[2].to_vec()), Expiry::Clear, writing.now);
    }
    reply.ok();
    Ok(())
}

//! COMMAND: what the node says about its commands, in the shapes of Redis 7.2. Clients find keys with it and show help.
//!
//! Data commands come from the shard's registry, the others from [`DOOR_SPECS`]; where both know a name, the shard's counts.
//! Subcommands of data commands (XGROUP CREATE) are not told apart.

use base::glob_matches;
use shard::command::{Flags, Keys, Spec, is};
use shard::error::{CommandError, SYNTAX};
use shard::reply::Reply;

use super::specs::{DOOR_SPECS, DoorSpec, find_door};
use crate::resp::text;

#[derive(Clone, Copy)]
enum Known {
    Data(&'static Spec),
    Door(&'static DoorSpec),
}

/// COMMAND with the words that its subcommand needs (see [`super::check`]).
pub fn command(args: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
    let Some(sub) = args.get(1) else {
        write_all(write_info, reply);
        return Ok(());
    };
    match sub {
        sub if is(sub, "count") => reply.int(all().count() as i64),
        sub if is(sub, "list") => return list(&args[2..], reply),
        sub if is(sub, "info") && args.len() == 2 => write_all(write_info, reply),
        sub if is(sub, "info") => {
            reply.array(args.len() - 2);
            for name in &args[2..] {
                match find(name) {
                    Some(known) => write_info(known, reply),
                    None => reply.null(),
                }
            }
        }
        sub if is(sub, "docs") => {
            let named: Vec<Known> = match args.len() {
                2 => all().collect(),
                _ => args[2..].iter().filter_map(|name| find(name)).collect(),
            };
            reply.map(named.len());
            for known in named {
                reply.bulk(known.name().as_bytes());
                write_docs(known, reply);
            }
        }
        sub if is(sub, "getkeys") => return keys(&args[2..], false, reply),
        sub if is(sub, "getkeysandflags") => return keys(&args[2..], true, reply),
        sub if is(sub, "help") => text::help("COMMAND", HELP, reply),
        _ => return Err(text::subcommand_syntax(args)),
    }
    Ok(())
}

const HELP: &[&str] = &[
    "(no subcommand)",
    "    Return details about all Redis commands.",
    "COUNT",
    "    Return the total number of commands in this Redis server.",
    "LIST",
    "    Return a list of all commands in this Redis server.",
    "INFO [<command-name> ...]",
    "    Return details about multiple Redis commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "DOCS [<command-name> ...]",
    "    Return documentation details about multiple Redis commands.",
    "    If no command names are given, documentation details for all",
    "    commands are returned.",
    "GETKEYS <full-command>",
    "    Return the keys from a full Redis command.",
    "GETKEYSANDFLAGS <full-command>",
    "    Return the keys and the access flags from a full Redis command.",
];

fn all() -> impl Iterator<Item = Known> {
    let doors = DOOR_SPECS.iter().filter(|spec| shard::command::find(spec.name.as_bytes()).is_none());
    shard::command::all().map(Known::Data).chain(doors.map(Known::Door))
}

/// By full name, subcommands (`client|kill`) too.
fn find(name: &[u8]) -> Option<Known> {
    if let Some(spec) = shard::command::find(name) {
        return Some(Known::Data(spec));
    }
    let bar = name.iter().position(|byte| *byte == b'|').unwrap_or(name.len());
    let spec = find_door(&name[..bar])?;
    if bar == name.len() {
        return Some(Known::Door(spec));
    }
    spec.subcommands.iter().find(|sub| sub.name.as_bytes().eq_ignore_ascii_case(name)).map(Known::Door)
}

fn write_all(write: fn(Known, &mut Reply), reply: &mut Reply) {
    reply.array(all().count());
    all().for_each(|known| write(known, reply));
}

fn list(options: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
    let wanted: Box<dyn Fn(Known) -> bool> = match options {
        [] => Box::new(|_| true),
        [by, kind, argument] if is(by, "filterby") => {
            let argument = argument.to_ascii_lowercase();
            match kind {
                kind if is(kind, "module") => Box::new(|_| false),
                kind if is(kind, "aclcat") => Box::new(move |known| {
                    known.categories().iter().any(|category| category.as_bytes()[1..] == argument[..])
                }),
                kind if is(kind, "pattern") => Box::new(move |known| glob_matches(&argument, known.name().as_bytes())),
                _ => return Err(SYNTAX),
            }
        }
        _ => return Err(SYNTAX),
    };
    let with_subcommands =
        all().flat_map(|known| [known].into_iter().chain(known.subcommands().iter().map(Known::Door)));
    let names: Vec<&str> = with_subcommands.filter(|known| wanted(*known)).map(Known::name).collect();
    reply.array(names.len());
    names.iter().for_each(|name| reply.bulk(name.as_bytes()));
    Ok(())
}

/// What a command's second word is.
enum Subcommand {
    /// No subcommand: the command has none, or the word is missing.
    None,
    Unknown,
    Known {
        has_keys: bool,
        /// Whether the number of words can be right.
        accepts: bool,
    },
}

/// The number that a text begins with, as C's `atoi` reads it; 0 where there is none.
fn leading_number(text: &[u8]) -> i64 {
    let text = text.trim_ascii_start();
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        _ => (1, text),
    };
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    sign * digits.fold(0_i64, |number, digit| number.saturating_mul(10).saturating_add(i64::from(digit - b'0')))
}

fn keys(words: &[&[u8]], with_flags: bool, reply: &mut Reply) -> Result<(), CommandError> {
    let error = |text: &'static str| Err(CommandError::new(text));
    let Some(known) = find(words[0]) else { return error("ERR Invalid command specified") };
    let (has_keys, accepts) = match known.subcommand(words) {
        Subcommand::Unknown => return error("ERR Invalid command specified"),
        Subcommand::Known { has_keys, accepts } => (has_keys, accepts),
        Subcommand::None => (known.has_keys(), known.accepts(words.len())),
    };
    if !has_keys {
        return error("ERR The command has no key arguments");
    }
    if !accepts {
        return error("ERR Invalid number of arguments specified for command");
    }
    let places = known.key_places(words);
    if places.is_empty() && !known.flags().contains(&"no_mandatory_keys") {
        return error("ERR Invalid arguments specified for command");
    }
    reply.array(places.len());
    for place in places {
        if with_flags {
            reply.array(2);
        }
        reply.bulk(words[place]);
        if with_flags {
            write_set(known.key_flags(), reply);
        }
    }
    Ok(())
}

impl Known {
    fn name(self) -> &'static str {
        match self {
            Known::Data(spec) => spec.name,
            Known::Door(spec) => spec.name,
        }
    }

    fn accepts(self, words: usize) -> bool {
        match self {
            Known::Data(spec) => spec.accepts(words),
            Known::Door(spec) => spec.accepts(words),
        }
    }

    fn subcommands(self) -> &'static [DoorSpec] {
        match self {
            Known::Data(_) => &[],
            Known::Door(spec) => spec.subcommands,
        }
    }

    fn flags(self) -> Vec<&'static str> {
        let spec = match self {
            Known::Data(spec) => spec,
            Known::Door(spec) => return spec.flags.to_vec(),
        };
        let is_script = spec.flags.has(Flags::SCRIPT);
        let is_movable = matches!(spec.keys, Keys::Counted { .. } | Keys::Find(_)) || spec.name == "sort_ro";
        [
            (spec.is_write() && !is_script, "write"),
            (!spec.is_write() && !is_script || spec.flags.has(Flags::READ_ONLY), "readonly"),
            (spec.flags.has(Flags::GROWS), "denyoom"),
            (spec.flags.has(Flags::NO_SCRIPT) || is_script, "noscript"),
            (spec.flags.has(Flags::BLOCKING), "blocking"),
            (spec.flags.has(Flags::FAST), "fast"),
            (is_script, "no_mandatory_keys"),
            (is_movable && !spec.flags.has(Flags::CONTAINER), "movablekeys"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect()
    }

    /// ACL categories, which follow from group and flags.
    fn categories(self) -> Vec<&'static str> {
        let flags = self.flags();
        let has = |flag: &str| flags.contains(&flag);
        let of_group = match self {
            Known::Data(spec) => match spec.group {
                "generic" | "server" if spec.name != "object" => "@keyspace",
                "string" => "@string",
                "list" => "@list",
                "hash" => "@hash",
                "set" => "@set",
                "sorted-set" | "sorted_set" => "@sortedset",
                "stream" => "@stream",
                "scripting" => "@scripting",
                "bitmap" => "@bitmap",
                "hyperloglog" => "@hyperloglog",
                "geo" => "@geo",
                _ => "",
            },
            Known::Door(spec) => spec.category,
        };
        let is_risky =
            matches!(self.name(), "keys" | "flushall" | "flushdb" | "swapdb" | "sort" | "sort_ro" | "restore");
        [
            (of_group == "@keyspace", "@keyspace"),
            (has("readonly"), "@read"),
            (has("write"), "@write"),
            (!matches!(of_group, "" | "@keyspace" | "@connection" | "@transaction" | "@dangerous"), of_group),
            (has("pubsub"), "@pubsub"),
            (has("admin"), "@admin"),
            (has("fast"), "@fast"),
            (!has("fast"), "@slow"),
            (has("blocking"), "@blocking"),
            (has("admin") || is_risky || of_group == "@dangerous", "@dangerous"),
            (of_group == "@connection", "@connection"),
            (of_group == "@transaction", "@transaction"),
        ]
        .into_iter()
        .filter_map(|(set, name)| set.then_some(name))
        .collect()
    }

    fn subcommand(self, words: &[&[u8]]) -> Subcommand {
        let Some(word) = words.get(1) else { return Subcommand::None };
        match self {
            Known::Data(spec) if spec.flags.has(Flags::CONTAINER) => match shard::command::subcommand(spec, words) {
                Some((name, accepts)) => Subcommand::Known { has_keys: self.has_keys() && name != "help", accepts },
                None => Subcommand::Unknown,
            },
            Known::Door(spec) if !spec.subcommands.is_empty() => {
                let is_it = |sub: &&DoorSpec| sub.name.as_bytes()[spec.name.len() + 1..].eq_ignore_ascii_case(word);
                match spec.subcommands.iter().find(is_it) {
                    Some(sub) => Subcommand::Known { has_keys: false, accepts: sub.accepts(words.len()) },
                    None => Subcommand::Unknown,
                }
            }
            _ => Subcommand::None,
        }
    }

    fn has_keys(self) -> bool {
        match self {
            Known::Data(spec) => !matches!(spec.keys, Keys::None),
            // What names a channel is no key, though it has a slot.
            Known::Door(spec) => spec.keys.0 > 0 && self.key_flags() != ["not_key"],
        }
    }

    /// First, last, step as COMMAND INFO shows them; zeros where no range says it.
    fn range(self) -> (i64, i64, i64) {
        match self {
            Known::Data(spec) => match spec.keys {
                Keys::Range(first, last, step) => (first as i64, last as i64, step as i64),
                Keys::Counted { store: true, .. } => (1, 1, 1),
                _ => (0, 0, 0),
            },
            Known::Door(spec) => spec.keys,
        }
    }

    /// Places of keys; none if the words claim more keys than they have.
    fn key_places(self, words: &[&[u8]]) -> Vec<usize> {
        match self {
            Known::Data(spec) => {
                if let Keys::Counted { at, store } = spec.keys {
                    let word = words.get(at).copied().unwrap_or_default();
                    let most = words.len().saturating_sub(at + 1) as i64;
                    if !base::parse_i64(word).is_some_and(|count| (1..=most).contains(&count)) {
                        // Redis asks its older way then: it reads the number as C's atoi does, and names the target last.
                        let count = leading_number(word);
                        let own = if store { 1..2 } else { 0..0 };
                        let found = (1..=most).contains(&count).then(|| at + 1..at + 1 + count as usize);
                        return found.map_or(Vec::new(), |found| found.chain(own).collect());
                    }
                }
                spec.key_places(words).into_iter().filter(|place| *place < words.len()).collect()
            }
            Known::Door(spec) => {
                let (first, last, step) = spec.keys;
                let last = if last < 0 { words.len() as i64 + last } else { last };
                (first..=last).step_by(step.max(1) as usize).map(|place| place as usize).collect()
            }
        }
    }

    /// What becomes of the keys: the part of Redis's key specifications that does not depend on which key it is.
    fn key_flags(self) -> &'static [&'static str] {
        let spec = match self {
            Known::Data(spec) => spec,
            Known::Door(spec) if spec.name == "watch" => return &["RO"],
            Known::Door(_) => return &["not_key"],
        };
        match spec.name {
            _ if !spec.is_write() => &["RO", "access"],
            "mset" | "setex" | "psetex" | "zunionstore" | "sinterstore" | "sunionstore" => &["OW", "update"],
            "msetnx" => &["OW", "insert"],
            "set" => &["RW", "access", "update", "variable_flags"],
            "del" | "unlink" => &["RM", "delete"],
            "getdel" | "lpop" | "rpop" | "blpop" | "brpop" | "spop" | "zpopmin" | "zpopmax" => {
                &["RW", "access", "delete"]
            }
            "incr" | "decr" | "incrby" | "decrby" | "incrbyfloat" | "getset" | "hincrby" => &["RW", "access", "update"],
            "append" | "lpush" | "rpush" | "lpushx" | "rpushx" | "sadd" | "setnx" => &["RW", "insert"],
            "hdel" | "srem" | "zrem" | "lrem" | "xdel" | "ltrim" => &["RW", "delete"],
            _ => &["RW", "update"],
        }
    }

    fn doc(self) -> [&'static str; 3] {
        match self {
            Known::Data(spec) => [spec.summary, spec.since, spec.group],
            Known::Door(spec) => [spec.summary, spec.since, spec.group],
        }
    }
}

fn write_info(known: Known, reply: &mut Reply) {
    let (first, last, step) = known.range();
    reply.array(10);
    reply.bulk(known.name().as_bytes());
    reply.int(i64::from(match known {
        Known::Data(spec) => spec.arity,
        Known::Door(spec) => spec.arity,
    }));
    write_set(&known.flags(), reply);
    for number in [first, last, step] {
        reply.int(number);
    }
    write_set(&known.categories(), reply);
    reply.set(0);
    write_key_specs(known, reply);
    match known.subcommands() {
        [] => reply.set(0),
        subcommands => {
            reply.array(subcommands.len());
            subcommands.iter().for_each(|sub| write_info(Known::Door(sub), reply));
        }
    }
}

fn write_docs(known: Known, reply: &mut Reply) {
    let [summary, since, group] = known.doc();
    let subcommands = known.subcommands();
    reply.map(3 + usize::from(!subcommands.is_empty()));
    for (name, value) in [("summary", summary), ("since", since), ("group", group)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(subcommands.len());
        for sub in subcommands {
            reply.bulk(sub.name.as_bytes());
            write_docs(Known::Door(sub), reply);
        }
    }
}

fn write_set(words: &[&str], reply: &mut Reply) {
    reply.set(words.len());
    words.iter().for_each(|word| reply.simple(word));
}

/// Where keys begin and how to find the others (<https://redis.io/docs/latest/develop/reference/key-specs/>).
fn write_key_specs(known: Known, reply: &mut Reply) {
    let (first, last, step) = known.range();
    let range = (first > 0).then_some((first, if last < 0 { last } else { last - first }, step));
    let counted = match known {
        Known::Data(Spec { keys: Keys::Counted { at, .. }, .. }) => Some(*at as i64),
        _ => None,
    };
    let is_unknown = matches!(known, Known::Data(Spec { keys: Keys::Find(_), .. }));
    reply.set(usize::from(range.is_some()) + usize::from(counted.is_some()) + usize::from(is_unknown));
    if let Some((first, last, step)) = range {
        write_key_spec(known, Some(first), "range", &[("lastkey", last), ("keystep", step), ("limit", 0)], reply);
    }
    if let Some(at) = counted {
        write_key_spec(known, Some(at), "keynum", &[("keynumidx", 0), ("firstkey", 1), ("keystep", 1)], reply);
    }
    if is_unknown {
        write_key_spec(known, None, "unknown", &[], reply);
    }
}

fn write_key_spec(known: Known, begin: Option<i64>, find: &str, numbers: &[(&str, i64)], reply: &mut Reply) {
    let text = |word: &str, reply: &mut Reply| reply.bulk(word.as_bytes());
    reply.map(3);
    text("flags", reply);
    write_set(known.key_flags(), reply);
    for (part, kind, numbers) in [
        ("begin_search", if begin.is_some() { "index" } else { "unknown" }, begin.map(|at| ("index", at)).as_slice()),
        ("find_keys", find, numbers),
    ] {
        text(part, reply);
        reply.map(2);
        text("type", reply);
        text(kind, reply);
        text("spec", reply);
        reply.map(numbers.len());
        for (name, number) in numbers {
            text(name, reply);
            reply.int(*number);
        }
    }
}

#[cfg(test)]
mod tests {
    use shard::reply::{Protocol, Reply};

    use super::{all, command};

    fn ask(protocol: Protocol, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut reply = Reply::new(protocol);
        if let Err(error) = command(&args, &mut reply) {
            reply.error(&error.0);
        }
        String::from_utf8(reply.bytes).expect("names are plain text").replace("\r\n", " ").trim_end().to_string()
    }

    #[test]
    fn info_has_redis_s_ten_parts() {
        assert_eq!(
            ask(Protocol::Resp3, "COMMAND INFO get nosuch"),
            "*2 *10 $3 get :2 ~2 +readonly +fast :1 :1 :1 ~3 +@read +@string +@fast ~0 ~1 %3 $5 flags ~2 +RO +access $12 \
             begin_search %2 $4 type $5 index $4 spec %1 $5 index :1 $9 find_keys %2 $4 type $5 range $4 spec %3 $7 lastkey :0 \
             $7 keystep :1 $5 limit :0 ~0 _"
        );
        assert_eq!(
            ask(Protocol::Resp2, "COMMAND INFO pubsub|numpat watch nosuch"),
            "*3 *10 $13 pubsub|numpat :2 *3 +pubsub +loading +stale :0 :0 :0 *2 +@pubsub +@slow *0 *0 *0 *10 $5 watch :-2 *5 \
             +noscript +loading +stale +fast +allow_busy :1 :-1 :1 *2 +@fast +@transaction *0 *1 *6 $5 flags *1 +RO $12 \
             begin_search *4 $4 type $5 index $4 spec *2 $5 index :1 $9 find_keys *4 $4 type $5 range $4 spec *6 $7 lastkey \
             :-1 $7 keystep :1 $5 limit :0 *0 $-1"
        );
        let pubsub = ask(Protocol::Resp2, "COMMAND INFO pubsub");
        assert!(
            pubsub.starts_with("*1 *10 $6 pubsub :-2 *0 :0 :0 :0 *1 +@slow *0 *0 *6 *10 $15 pubsub|channels"),
            "{pubsub}"
        );
    }

    #[test]
    fn every_form_counts_the_same_commands() {
        let count = all().count();
        assert_eq!(ask(Protocol::Resp2, "COMMAND COUNT"), format!(":{count}"));
        assert!(ask(Protocol::Resp2, "COMMAND").starts_with(&format!("*{count} *10 ")));
        assert!(ask(Protocol::Resp2, "COMMAND INFO").starts_with(&format!("*{count} *10 ")));
        assert!(ask(Protocol::Resp3, "COMMAND DOCS").starts_with(&format!("%{count} ")));
        assert!(ask(Protocol::Resp2, "COMMAND DOCS").starts_with(&format!("*{} ", 2 * count)));
    }

    #[test]
    fn docs_explain_what_is_asked_for_and_known() {
        assert_eq!(
            ask(Protocol::Resp3, "COMMAND DOCS multi nosuch"),
            "%1 $5 multi %3 $7 summary $21 Begins a transaction. $5 since $5 1.2.0 $5 group $12 transactions"
        );
        assert!(
            ask(Protocol::Resp3, "COMMAND DOCS config").contains("$11 subcommands %5 $10 config|get %3 $7 summary")
        );
    }

    #[test]
    fn lists_can_be_filtered() {
        let pubsub = ask(Protocol::Resp2, "COMMAND LIST FILTERBY ACLCAT PubSub");
        assert!(pubsub.starts_with("*13 $9 subscribe ") && pubsub.contains("pubsub|numpat"), "{pubsub}");
        assert_eq!(
            ask(Protocol::Resp2, "COMMAND LIST FILTERBY PATTERN Client|NO*"),
            "*2 $15 client|no-evict $15 client|no-touch"
        );
        assert_eq!(ask(Protocol::Resp2, "COMMAND LIST FILTERBY MODULE foo"), "*0");
        assert_eq!(ask(Protocol::Resp2, "COMMAND LIST FILTERBY foo x"), "-ERR syntax error");
        assert_eq!(ask(Protocol::Resp2, "COMMAND LIST x"), "-ERR syntax error");
    }

    #[test]
    fn keys_are_found_among_a_command_s_words() {
        let keys = |line: &str| ask(Protocol::Resp2, &format!("COMMAND GETKEYS {line}"));
        assert_eq!(keys("get a"), "*1 $1 a");
        assert_eq!(keys("watch a b"), "*2 $1 a $1 b");
        assert_eq!(keys("get"), "-ERR Invalid number of arguments specified for command");
        assert_eq!(keys("nosuch a"), "-ERR Invalid command specified");
        assert_eq!(keys("ping"), "-ERR The command has no key arguments");
        for (line, found) in [
            // As a real Redis answers them.
            ("zunionstore d 2 a b", "*3 $1 d $1 a $1 b"),
            ("zunionstore d x a", "-ERR Invalid arguments specified for command"),
            ("zunionstore d 0 a", "-ERR Invalid arguments specified for command"),
            ("zunionstore d -1 a", "-ERR Invalid arguments specified for command"),
            ("zunionstore d 3 a b", "-ERR Invalid arguments specified for command"),
            ("zunionstore d 1x a", "*2 $1 a $1 d"),
            ("zunion +1 a", "*1 $1 a"),
            ("eval x 0", "*0"),
            ("eval x 3 a", "*0"),
            ("eval x 01 a", "*1 $1 a"),
            ("xread count 1 streams a b 0", "*1 $1 a"),
            ("spublish a b", "-ERR The command has no key arguments"),
            ("object help", "-ERR The command has no key arguments"),
            ("object nosuch a", "-ERR Invalid command specified"),
            ("config nosuch a", "-ERR Invalid command specified"),
            ("object freq a b", "-ERR Invalid number of arguments specified for command"),
            ("xgroup create a", "-ERR Invalid number of arguments specified for command"),
        ] {
            assert_eq!(keys(line), found, "{line}");
        }
        assert_eq!(ask(Protocol::Resp3, "COMMAND GETKEYSANDFLAGS get a"), "*1 *2 $1 a ~2 +RO +access");
    }
}

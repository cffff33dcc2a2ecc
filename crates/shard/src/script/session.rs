//! Commands that a script calls: the same registry, over the tables of the unit that the script is.

use base::Millis;
use store::keyspace::Durability;

use crate::command::{self, Flags, Reading, Run, Served, Writing, rights};
use crate::error::{self, CommandError};
use crate::notify;
use crate::reply::{Protocol, Reply};

/// Commands of the doors, and others that Redis knows, which a script may not call.
const REFUSED: &[&str] = &[
    "acl",
    "asking",
    "auth",
    "bgrewriteaof",
    "bgsave",
    "client",
    "cluster",
    "command",
    "config",
    "debug",
    "discard",
    "eval",
    "eval_ro",
    "evalsha",
    "evalsha_ro",
    "exec",
    "failover",
    "fcall",
    "fcall_ro",
    "function",
    "hello",
    "info",
    "latency",
    "module",
    "monitor",
    "multi",
    "psubscribe",
    "psync",
    "punsubscribe",
    "quit",
    "readonly",
    "readwrite",
    "replicaof",
    "reset",
    "role",
    "save",
    "script",
    "shutdown",
    "slaveof",
    "slowlog",
    "ssubscribe",
    "subscribe",
    "sunsubscribe",
    "sync",
    "unsubscribe",
    "unwatch",
    "waitaof",
    "watch",
];

const UNKNOWN: CommandError = CommandError::new("ERR Unknown Redis command called from script");
const ARITY: CommandError = CommandError::new("ERR Wrong number of args calling Redis command from script");
const NOT_ALLOWED: CommandError = CommandError::new("ERR This Redis command is not allowed from script");
const READ_ONLY: CommandError = CommandError::new("ERR Write commands are not allowed from read-only scripts.");
const NOT_LOCAL: CommandError = CommandError::new(
    "ERR Script attempted to access a non local key in a cluster node: all its keys must be in one shard",
);
const NOT_DECLARED: CommandError = CommandError::new(
    "TRYAGAIN Script attempted to access a key that it did not declare and that a transaction across shards holds; declare it in KEYS",
);
const NOT_WHOLE: CommandError = CommandError::new(
    "ERR This command works on all shards and is not allowed from script while data_shards is above 1",
);
const MIXED: CommandError = CommandError::new(
    "ERR Script attempted to access a key of another durability than its own: \
     one script cannot use keyspaces in memory together with keyspaces on disk",
);

/// What names of topics begin with.
const TOPIC: &[u8] = b"topic:";
const UNDECLARED_TOPIC: CommandError = CommandError::new(
    "ERR Script has to declare (KEYS) a stream whose name begins with 'topic:', so that it can be told from a topic",
);

/// A running script's view of the shard. It remembers the answers of commands while a warm interpreter runs the script:
/// where that gives up, a cold one starts the script anew, and is told them instead of doing the commands twice.
pub struct Session<'a, 'w> {
    writing: &'a mut Writing<'w>,
    /// SELECT changes only the script's.
    db: u8,
    read_only: bool,
    /// The class of the unit's keys; `None` where all keyspaces are of one class.
    class: Option<Durability>,
    /// Declared keys whose names could be those of topics: the door has seen that they are none.
    declared: Vec<Vec<u8>>,
    /// Answers, one after another; their ends.
    answers: Vec<u8>,
    ends: Vec<usize>,
    /// How many of them this run of the script has been told.
    told: usize,
    remembers: bool,
    /// The commands, to see that the second run asks for the same.
    #[cfg(debug_assertions)]
    asked: Vec<Vec<u8>>,
}

impl<'a, 'w> Session<'a, 'w> {
    /// The class of the first of the declared keys is the unit's. A script without keys is logged.
    pub fn new(writing: &'a mut Writing<'w>, keys: &[&[u8]], read_only: bool) -> Session<'a, 'w> {
        let first_key = keys.first().copied();
        let declared = keys.iter().filter(|key| key.starts_with(TOPIC)).map(|key| key.to_vec()).collect();
        let tables = &writing.tables;
        let class = match tables.keyspaces().classes() {
            (true, true) => Some(first_key.map_or(Durability::Fsync, |key| tables.durability(key))),
            _ => None,
        };
        Session {
            db: writing.db,
            read_only,
            class,
            declared,
            writing,
            answers: Vec::new(),
            ends: Vec::new(),
            told: 0,
            remembers: false,
            #[cfg(debug_assertions)]
            asked: Vec::new(),
        }
    }

    /// The script starts, perhaps anew. `remembers`: this run may give up.
    pub fn start(&mut self, remembers: bool) {
        self.told = 0;
        self.remembers = remembers;
    }

    /// Bytes of the answers that are remembered.
    pub fn remembered(&self) -> usize {
        self.answers.len()
    }

    /// Most bytes of one command.
    pub fn command_bytes_max(&self) -> usize {
        self.writing.limits.command_bytes_max
    }

    /// Runs one command; its answer, error or not, in the script's protocol. At least one word.
    pub fn call(&mut self, words: &[&[u8]], protocol: Protocol) -> &[u8] {
        if let Some(end) = self.ends.get(self.told).copied() {
            let begun = self.told.checked_sub(1).map_or(0, |before| self.ends[before]);
            #[cfg(debug_assertions)]
            assert_eq!(words.join(&0), self.asked[self.told], "a cold run does what the warm one did");
            self.told += 1;
            return &self.answers[begun..end];
        }
        if !self.remembers {
            self.answers.clear();
            self.ends.clear();
            self.told = 0;
        }
        let begun = self.answers.len();
        // All answers that are remembered count, and the limit on them is the script's own on memory.
        let bytes_max = begun.saturating_add(self.writing.limits.script_memory_bytes_max);
        let mut reply = Reply::bounded(protocol, bytes_max);
        reply.bytes = std::mem::take(&mut self.answers);
        let outcome = self.dispatch(words, &mut reply);
        reply.settle(begun, outcome);
        self.answers = reply.bytes;
        if self.remembers {
            #[cfg(debug_assertions)]
            self.asked.push(words.join(&0));
            self.ends.push(self.answers.len());
            self.told += 1;
        }
        &self.answers[begun..]
    }

    fn dispatch(&mut self, words: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
        let Some(spec) = command::find(words[0]) else {
            return self.door(words, reply);
        };
        let never = spec.flags.has(Flags::NO_SCRIPT) || spec.flags.has(Flags::SCRIPT) || is_refused(words[0]);
        if let Err(error) = command::check(spec, words) {
            return Err(if error.0.starts_with("ERR unknown") { UNKNOWN } else { ARITY });
        }
        if never {
            return Err(NOT_ALLOWED);
        }
        self.authorize(spec.name, &spec.key_places(words), words)?;
        if self.read_only && spec.is_write() {
            return Err(READ_ONLY);
        }
        if matches!(spec.name, "xread" | "xreadgroup") && blocks(words) {
            return Err(format!("ERR {} command is not allowed with BLOCK option from scripts", spec.name).into());
        }
        if spec.name == "xadd" && words[1].starts_with(TOPIC) && !self.declared.iter().any(|key| key == words[1]) {
            return Err(UNDECLARED_TOPIC);
        }
        if let Some(class) = self.class {
            let tables = &self.writing.tables;
            let foreign = |place: &usize| tables.durability(words[*place]) != class;
            let whole = spec.flags.has(Flags::WHOLE);
            let sweeps = class == Durability::Memory && whole && spec.is_write();
            // A logged script must not depend on keys that replicas, and this node after a restart, do not have.
            let peeks = class == Durability::Fsync && whole && !spec.is_write() && !self.read_only;
            if sweeps || peeks || spec.key_places(words).iter().any(foreign) {
                return Err(MIXED);
            }
        }
        let slots = self.writing.slots;
        if slots.is_split() && spec.flags.has(Flags::WHOLE) {
            return Err(NOT_WHOLE);
        }
        if slots.is_split() && spec.key_places(words).iter().any(|place| !slots.serves(words[*place])) {
            return Err(NOT_LOCAL);
        }
        let commits = self.writing.commits;
        if commits.locks_any() && spec.key_places(words).iter().any(|place| commits.locks(words[*place])) {
            return Err(NOT_DECLARED);
        }
        let now: Millis = self.writing.now;
        let outer = &mut *self.writing;
        match spec.run {
            Run::Read(run) => {
                let mut reading = Reading { db: self.db, ..outer.reading() };
                run(&mut reading, words, reply)
            }
            Run::Write(run) => {
                let mut writing = Writing {
                    db: self.db,
                    now,
                    tables: outer.tables,
                    other: outer.other,
                    rng: outer.rng,
                    may_block: false,
                    served: Served::First,
                    block: None,
                    scripts: outer.scripts,
                    libraries: outer.libraries,
                    limits: outer.limits,
                    published: outer.published,
                    events: outer.events,
                    slots,
                    commits,
                    user: None,
                };
                let outcome = run(&mut writing, words, reply);
                if outer.tables.has_noted() {
                    notify::gather(outer.tables, spec.name, words, outer.events);
                }
                outcome
            }
        }
    }

    /// Whether the script's user may do that. It is the entry that says whose the script is, so every replica says the same.
    fn authorize(&self, name: &str, places: &[usize], words: &[&[u8]]) -> Result<(), CommandError> {
        let Some(user) = &self.writing.user else {
            return Ok(());
        };
        let denied = rights::check(user, name, places, words);
        denied.map_err(|denied| {
            format!("ERR ACL failure in script: {}", rights::why_not(denied, user, name, words)).into()
        })
    }

    /// Commands that live outside the registry.
    fn door(&mut self, words: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
        let name = command::upper(words[0]);
        let count = words.len();
        if matches!(&name[..], b"PING" | b"ECHO" | b"TIME" | b"SELECT" | b"PUBLISH" | b"SPUBLISH") {
            self.authorize(&String::from_utf8_lossy(&name).to_ascii_lowercase(), &[], words)?;
        }
        match (&name[..], count) {
            (b"PING", 1) => reply.simple("PONG"),
            (b"PING", 2) | (b"ECHO", 2) => reply.bulk(words[1]),
            (b"TIME", 1) => {
                reply.array(2);
                reply.bulk_int((self.writing.now / 1000) as i64);
                reply.bulk_int((self.writing.now % 1000 * 1000) as i64);
            }
            (b"SELECT", 2) => {
                let db = base::parse_i64(words[1]).ok_or(error::NOT_INTEGER)?;
                if i32::try_from(db).is_err() {
                    return Err(error::INT_RANGE);
                }
                if !(0..store::table::DATABASES as i64).contains(&db) {
                    return Err(CommandError::new("ERR DB index is out of range"));
                }
                self.db = db as u8;
                reply.ok();
            }
            (b"PUBLISH" | b"SPUBLISH", 3) => {
                if self.read_only {
                    return Err(READ_ONLY);
                }
                self.writing.published.push((words[1].to_vec(), words[2].to_vec()));
                reply.int(0);
            }
            // Nobody else has what is not applied yet.
            (b"WAIT", 3) => reply.int(0),
            (b"PING" | b"ECHO" | b"TIME" | b"SELECT" | b"PUBLISH" | b"SPUBLISH" | b"WAIT", _) => return Err(ARITY),
            _ if is_refused(words[0]) => return Err(NOT_ALLOWED),
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }
}

/// Whether XREAD or XREADGROUP asks to wait.
fn blocks(words: &[&[u8]]) -> bool {
    let options = words.iter().skip(1).take_while(|word| !command::is(word, "streams"));
    options.into_iter().any(|word| command::is(word, "block"))
}

fn is_refused(name: &[u8]) -> bool {
    REFUSED.iter().any(|refused| name.eq_ignore_ascii_case(refused.as_bytes()))
}

/// Whether `redis.call` could find a command of this name.
pub fn is_known(name: &[u8]) -> bool {
    const DOORS: [&str; 7] = ["ping", "echo", "time", "select", "publish", "spublish", "wait"];
    command::find(name).is_some()
        || is_refused(name)
        || DOORS.iter().any(|door| name.eq_ignore_ascii_case(door.as_bytes()))
}

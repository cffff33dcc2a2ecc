//! The commands that a door answers without the log: about the connection, the node and who listens to what.

use shard::error::CommandError;
use shard::reply::Reply;

use crate::resp::text;

/// A command of the door's own, or a subcommand of one.
pub struct DoorSpec {
    /// In lower case; a subcommand's with its command: `client|kill`.
    pub name: &'static str,
    /// Number of words; negative is "at least". A subcommand's counts its command's word.
    pub arity: i32,
    /// As COMMAND INFO shows them.
    pub flags: &'static [&'static str],
    /// The ACL category that does not follow from the flags, or nothing.
    pub category: &'static str,
    /// The first and last place of keys, and their step; zeros for none. They are channels, except for WATCH.
    pub keys: (i64, i64, i64),
    /// As in COMMAND DOCS.
    pub group: &'static str,
    /// The first Redis version that had it.
    pub since: &'static str,
    /// One line of help.
    pub summary: &'static str,
    /// For a command that does nothing but its subcommands (COMMAND does).
    pub subcommands: &'static [DoorSpec],
}

impl DoorSpec {
    /// Whether the number of words can be right.
    pub fn accepts(&self, words: usize) -> bool {
        if self.arity < 0 { words >= self.arity.unsigned_abs() as usize } else { words == self.arity as usize }
    }

    /// Its subcommand of that name, in any case.
    pub fn subcommand(&self, word: &[u8]) -> Option<&'static DoorSpec> {
        self.subcommands.iter().find(|sub| sub.name.as_bytes()[self.name.len() + 1..].eq_ignore_ascii_case(word))
    }

    const fn of(mut self, category: &'static str) -> DoorSpec {
        self.category = category;
        self
    }

    const fn keys(mut self, first: i64, last: i64, step: i64) -> DoorSpec {
        self.keys = (first, last, step);
        self
    }

    const fn with(mut self, subcommands: &'static [DoorSpec]) -> DoorSpec {
        self.subcommands = subcommands;
        self
    }
}

const fn spec(
    name: &'static str,
    arity: i32,
    flags: &'static [&'static str],
    group: &'static str,
    since: &'static str,
    summary: &'static str,
) -> DoorSpec {
    DoorSpec { name, arity, flags, category: "", keys: (0, 0, 0), group, since, summary, subcommands: &[] }
}

const ALWAYS: &[&str] = &["loading", "stale"];
const ALWAYS_FAST: &[&str] = &["loading", "stale", "fast"];
const EVEN_UNKNOWN: &[&str] = &["noscript", "loading", "stale", "fast", "no_auth", "allow_busy"];
const UNIT: &[&str] = &["noscript", "loading", "stale", "fast", "allow_busy"];
const OWN: &[&str] = &["noscript", "loading", "stale"];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const ADMIN_EVER: &[&str] = &["admin", "loading", "stale"];
const LISTEN: &[&str] = &["pubsub", "noscript", "loading", "stale"];
const LISTENERS: &[&str] = &["pubsub", "loading", "stale"];
const PUBLISH: &[&str] = &["pubsub", "loading", "stale", "fast"];

const CONNECTION: &str = "@connection";
const TRANSACTION: &str = "@transaction";

/// The door's own commands.
pub static DOOR_SPECS: &[DoorSpec] = &[
    spec("ping", -1, &["fast"], "connection", "1.0.0", "Answers PONG, or its argument.").of(CONNECTION),
    spec("echo", 2, ALWAYS_FAST, "connection", "1.0.0", "Answers its argument.").of(CONNECTION),
    spec("quit", -1, EVEN_UNKNOWN, "connection", "1.0.0", "Closes the connection.").of(CONNECTION),
    spec("reset", 1, EVEN_UNKNOWN, "connection", "6.2.0", "Makes the connection as it was when it began.")
        .of(CONNECTION),
    spec(
        "hello",
        -1,
        EVEN_UNKNOWN,
        "connection",
        "6.0.0",
        "Chooses the protocol version, and may give a password and a name.",
    )
    .of(CONNECTION),
    spec("auth", -2, EVEN_UNKNOWN, "connection", "1.0.0", "Gives the password.").of(CONNECTION),
    spec("select", 2, ALWAYS_FAST, "connection", "1.0.0", "Changes the database of the connection.").of(CONNECTION),
    spec("acl", -2, &[], "server", "6.0.0", "Who may do what.").with(ACL),
    spec("client", -2, &[], "connection", "2.4.0", "About this and other connections.").with(CLIENT),
    spec("info", -1, ALWAYS, "server", "1.0.0", "Tells how the node is doing.").of("@dangerous"),
    spec("command", -1, ALWAYS, "server", "2.8.13", "Tells about commands.").of(CONNECTION).with(COMMAND),
    spec("config", -2, &[], "server", "2.0.0", "Shows and changes parameters.").with(CONFIG),
    spec("monitor", 1, ADMIN, "server", "1.0.0", "Shows what this node's clients ask for, as it runs."),
    spec("slowlog", -2, &[], "server", "2.2.12", "Shows commands that took long.").with(SLOWLOG),
    spec("latency", -2, &[], "server", "2.8.13", "Tells how long commands take.").with(LATENCY),
    spec("time", 1, ALWAYS_FAST, "server", "2.6.0", "Tells the node's time."),
    spec(
        "q.commitoffset",
        -5,
        &["write", "fast"],
        "stream",
        "7.2.0",
        "Commits a Kafka consumer group's offset, fenced by its generation, also within MULTI.",
    ),
    spec(
        "q.topic",
        -3,
        &["write", "denyoom"],
        "stream",
        "7.2.0",
        "Makes, changes, shows and deletes topics: CREATE, SET, GET, DELETE.",
    ),
    spec(
        "q.xack",
        -5,
        &["write", "fast"],
        "stream",
        "7.2.0",
        "Acknowledges entries of a topic that are pending for this consumer, or does nothing, nor does its MULTI.",
    ),
    spec("multi", 1, UNIT, "transactions", "1.2.0", "Begins a transaction.").of(TRANSACTION),
    spec(
        "exec",
        1,
        &["noscript", "loading", "stale", "skip_slowlog"],
        "transactions",
        "1.2.0",
        "Runs the commands since MULTI as one.",
    )
    .of(TRANSACTION),
    spec("discard", 1, UNIT, "transactions", "2.0.0", "Forgets the commands since MULTI.").of(TRANSACTION),
    spec("watch", -2, UNIT, "transactions", "2.2.0", "Lets EXEC do nothing if one of these keys changes before it.")
        .of(TRANSACTION)
        .keys(1, -1, 1),
    spec("unwatch", 1, UNIT, "transactions", "2.2.0", "Forgets the keys of WATCH.").of(TRANSACTION),
    spec("subscribe", -2, LISTEN, "pubsub", "2.0.0", "Listens to channels."),
    spec("unsubscribe", -1, LISTEN, "pubsub", "2.0.0", "Stops listening to channels."),
    spec("psubscribe", -2, LISTEN, "pubsub", "2.0.0", "Listens to channels whose names match patterns."),
    spec("punsubscribe", -1, LISTEN, "pubsub", "2.0.0", "Stops listening to patterns."),
    spec("ssubscribe", -2, LISTEN, "pubsub", "7.0.0", "Listens to shard channels.").keys(1, -1, 1),
    spec("sunsubscribe", -1, LISTEN, "pubsub", "7.0.0", "Stops listening to shard channels.").keys(1, -1, 1),
    spec("publish", 3, PUBLISH, "pubsub", "2.0.0", "Sends a message to a channel."),
    spec("spublish", 3, PUBLISH, "pubsub", "7.0.0", "Sends a message to a shard channel.").keys(1, 1, 1),
    spec("pubsub", -2, &[], "pubsub", "2.8.0", "Tells who listens to what.").with(PUBSUB),
    spec("wait", 3, &["noscript"], "generic", "3.0.0", "Waits until replicas have this connection's writes.")
        .of(CONNECTION),
    spec("waitaof", 4, &["noscript"], "generic", "7.2.0", "Waits until this connection's writes are durable.")
        .of(CONNECTION),
    spec("asking", 1, &["fast"], "cluster", "3.0.0", "Announces a command that was redirected by ASK.").of(CONNECTION),
    spec("cluster", -2, &[], "cluster", "3.0.0", "About Redis Cluster.").with(CLUSTER),
    spec("readonly", 1, ALWAYS_FAST, "cluster", "3.0.0", "Allows reads at a replica of Redis Cluster.").of(CONNECTION),
    spec("readwrite", 1, ALWAYS_FAST, "cluster", "3.0.0", "Takes READONLY back.").of(CONNECTION),
];

const HELP: &str = "Lists the subcommands.";

const ACL: &[DoorSpec] = &[
    spec("acl|cat", -2, OWN, "server", "6.0.0", "Lists the categories of commands, or the commands of one."),
    spec("acl|deluser", -3, ADMIN, "server", "6.0.0", "Removes users, and ends their connections."),
    spec("acl|dryrun", -4, ADMIN, "server", "7.0.0", "Tells whether a user may run a command, without running it."),
    spec("acl|genpass", -2, OWN, "server", "6.0.0", "Makes up a password."),
    spec("acl|getuser", 3, ADMIN, "server", "6.0.0", "Tells what a user may do."),
    spec("acl|help", 2, ALWAYS, "server", "6.0.0", HELP),
    spec("acl|list", 2, ADMIN, "server", "6.0.0", "Lists the users and their rules."),
    spec("acl|load", 2, ADMIN, "server", "6.0.0", "Reads users from a file: there is none."),
    spec("acl|log", -2, ADMIN, "server", "6.0.0", "Tells who was refused what at this node."),
    spec("acl|save", 2, ADMIN, "server", "6.0.0", "Writes users to a file: there is none, they are in the log."),
    spec("acl|setuser", -3, ADMIN, "server", "6.0.0", "Makes or changes a user."),
    spec("acl|users", 2, ADMIN, "server", "6.0.0", "Lists the names of the users."),
    spec("acl|whoami", 2, OWN, "server", "6.0.0", "Tells who this connection's user is."),
];

const CLIENT: &[DoorSpec] = &[
    spec("client|caching", 3, OWN, "connection", "6.0.0", "Tells whether the next command's keys are to be tracked.")
        .of(CONNECTION),
    spec("client|getname", 2, OWN, "connection", "2.6.9", "Tells this connection's name.").of(CONNECTION),
    spec("client|getredir", 2, OWN, "connection", "6.0.0", "Tells whom tracking messages go to.").of(CONNECTION),
    spec("client|help", 2, ALWAYS, "connection", "5.0.0", HELP).of(CONNECTION),
    spec("client|id", 2, OWN, "connection", "5.0.0", "Tells this connection's number.").of(CONNECTION),
    spec("client|info", 2, OWN, "connection", "6.2.0", "Tells about this connection.").of(CONNECTION),
    spec("client|kill", -3, ADMIN, "connection", "2.4.0", "Closes connections.").of(CONNECTION),
    spec("client|list", -2, ADMIN, "connection", "2.4.0", "Tells about all connections.").of(CONNECTION),
    spec("client|no-evict", 3, ADMIN, "connection", "7.0.0", "Saves this connection from being closed for its memory.")
        .of(CONNECTION),
    spec("client|no-touch", 3, OWN, "connection", "7.2.0", "Lets this connection's reads not count as uses of keys.")
        .of(CONNECTION),
    spec("client|pause", -3, ADMIN, "connection", "2.9.50", "Lets commands wait for a while.").of(CONNECTION),
    spec("client|reply", 3, OWN, "connection", "3.2.0", "Chooses whether commands are answered.").of(CONNECTION),
    spec("client|setinfo", 4, OWN, "connection", "7.2.0", "Tells the node which library the client uses.")
        .of(CONNECTION),
    spec("client|setname", 3, OWN, "connection", "2.6.9", "Names this connection.").of(CONNECTION),
    spec("client|tracking", -3, OWN, "connection", "6.0.0", "Has changes of the keys that were read told.")
        .of(CONNECTION),
    spec("client|trackinginfo", 2, OWN, "connection", "6.2.0", "Tells how this connection tracks.").of(CONNECTION),
    spec("client|unblock", -3, ADMIN, "connection", "5.0.0", "Ends another connection's blocking command.")
        .of(CONNECTION),
    spec("client|unpause", 2, ADMIN, "connection", "6.2.0", "Ends CLIENT PAUSE.").of(CONNECTION),
];

const COMMAND: &[DoorSpec] = &[
    spec("command|count", 2, ALWAYS, "server", "2.8.13", "Counts the commands.").of(CONNECTION),
    spec("command|docs", -2, ALWAYS, "server", "7.0.0", "Explains commands.").of(CONNECTION),
    spec("command|getkeys", -3, ALWAYS, "server", "2.8.13", "Tells which words of a command are keys.").of(CONNECTION),
    spec(
        "command|getkeysandflags",
        -3,
        ALWAYS,
        "server",
        "7.0.0",
        "Tells which words of a command are keys, and what becomes of them.",
    )
    .of(CONNECTION),
    spec("command|help", 2, ALWAYS, "server", "5.0.0", HELP).of(CONNECTION),
    spec("command|info", -2, ALWAYS, "server", "2.8.13", "Tells about commands.").of(CONNECTION),
    spec("command|list", -2, ALWAYS, "server", "7.0.0", "Lists the names of commands.").of(CONNECTION),
];

const CONFIG: &[DoorSpec] = &[
    spec("config|get", -3, ADMIN, "server", "2.0.0", "Shows parameters."),
    spec("config|help", 2, ALWAYS, "server", "5.0.0", HELP),
    spec("config|resetstat", 2, ADMIN, "server", "2.0.0", "Sets INFO's counters to zero."),
    spec("config|rewrite", 2, ADMIN, "server", "2.8.0", "Writes the configuration file anew: not supported."),
    spec("config|set", -4, ADMIN, "server", "2.0.0", "Changes parameters."),
];

const PUBSUB: &[DoorSpec] = &[
    spec("pubsub|channels", -2, LISTENERS, "pubsub", "2.8.0", "Lists channels that somebody listens to."),
    spec("pubsub|help", 2, ALWAYS, "pubsub", "6.2.0", HELP),
    spec("pubsub|numpat", 2, LISTENERS, "pubsub", "2.8.0", "Counts the patterns that somebody listens to."),
    spec("pubsub|numsub", -2, LISTENERS, "pubsub", "2.8.0", "Counts the listeners of channels."),
    spec("pubsub|shardchannels", -2, LISTENERS, "pubsub", "7.0.0", "Lists shard channels that somebody listens to."),
    spec("pubsub|shardnumsub", -2, LISTENERS, "pubsub", "7.0.0", "Counts the listeners of shard channels."),
];

const SLOWLOG: &[DoorSpec] = &[
    spec("slowlog|get", -2, ADMIN_EVER, "server", "2.2.12", "Shows the newest commands that took long."),
    spec("slowlog|help", 2, ALWAYS, "server", "6.2.0", HELP),
    spec("slowlog|len", 2, ADMIN_EVER, "server", "2.2.12", "Counts the commands that took long."),
    spec("slowlog|reset", 2, ADMIN_EVER, "server", "2.2.12", "Forgets the commands that took long."),
];

const LATENCY: &[DoorSpec] = &[
    spec("latency|doctor", 2, ADMIN, "server", "2.8.13", "Explains the samples in words."),
    spec("latency|graph", 3, ADMIN, "server", "2.8.13", "Draws the samples of an event."),
    spec("latency|help", 2, ALWAYS, "server", "2.8.13", HELP),
    spec("latency|histogram", -2, ADMIN, "server", "7.0.0", "Tells how long commands took, as a distribution."),
    spec("latency|history", 3, ADMIN, "server", "2.8.13", "Shows the samples of an event."),
    spec("latency|latest", 2, ADMIN, "server", "2.8.13", "Shows the latest sample of each event."),
    spec("latency|reset", -2, ADMIN, "server", "2.8.13", "Forgets the samples."),
];

const CLUSTER: &[DoorSpec] = &[
    spec("cluster|countkeysinslot", 3, &["stale"], "cluster", "3.0.0", "Counts the keys of a slot."),
    spec("cluster|getkeysinslot", 4, &["stale"], "cluster", "3.0.0", "Lists keys of a slot."),
    spec("cluster|help", 2, ALWAYS, "cluster", "5.0.0", HELP),
    spec("cluster|info", 2, &["stale"], "cluster", "3.0.0", "Tells how the cluster is doing."),
    spec("cluster|keyslot", 3, &["stale"], "cluster", "3.0.0", "Tells the slot of a key."),
    spec("cluster|links", 2, &["stale"], "cluster", "7.0.0", "Lists links between nodes."),
    spec("cluster|myid", 2, &["stale"], "cluster", "3.0.0", "Tells the node's name."),
    spec("cluster|myshardid", 2, &["stale"], "cluster", "7.2.0", "Tells the shard's name."),
    spec("cluster|nodes", 2, &["stale"], "cluster", "3.0.0", "Lists the nodes."),
    spec("cluster|shards", 2, &["stale"], "cluster", "7.0.0", "Lists slots and their nodes."),
    spec("cluster|slots", 2, &["stale"], "cluster", "3.0.0", "Lists slots and their nodes."),
];

/// The door's command of that name, in any case; not a subcommand.
pub fn find_door(name: &[u8]) -> Option<&'static DoorSpec> {
    DOOR_SPECS.iter().find(|spec| spec.name.as_bytes().eq_ignore_ascii_case(name))
}

/// The door's command, or the subcommand, that these words call, once their number is right: its `name` says what to do.
/// Otherwise the error is written and `None` returned. The first word must name a command of the door.
pub fn check(args: &[&[u8]], reply: &mut Reply) -> Option<&'static DoorSpec> {
    let Some(mut spec) = find_door(args[0]) else {
        text::unknown_command(args, reply);
        return None;
    };
    if let (false, Some(word)) = (spec.subcommands.is_empty(), args.get(1)) {
        match spec.subcommand(word) {
            Some(sub) => spec = sub,
            None => {
                text::unknown_subcommand(args, reply);
                return None;
            }
        }
    }
    if !spec.accepts(args.len()) {
        reply.error(&CommandError::arity(spec.name).0);
        return None;
    }
    Some(spec)
}

#[cfg(test)]
mod tests {
    use shard::reply::{Protocol, Reply};

    use super::{DOOR_SPECS, check};

    fn checked(line: &str) -> Result<&'static str, String> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut reply = Reply::new(Protocol::Resp2);
        let name = check(&args, &mut reply).map(|spec| spec.name);
        name.ok_or_else(|| String::from_utf8_lossy(&reply.bytes).trim_end().to_string())
    }

    #[test]
    fn words_lead_to_the_subcommand_or_to_redis_s_error() {
        assert_eq!(checked("PiNg"), Ok("ping"));
        assert_eq!(checked("Client KILL x"), Ok("client|kill"));
        assert_eq!(checked("command"), Ok("command"));
        for (line, error) in [
            ("client", "-ERR wrong number of arguments for 'client' command"),
            ("client kill", "-ERR wrong number of arguments for 'client|kill' command"),
            ("client id x", "-ERR wrong number of arguments for 'client|id' command"),
            ("client foo", "-ERR unknown subcommand 'foo'. Try CLIENT HELP."),
            ("CLIENT TRACKINGX on", "-ERR unknown subcommand 'TRACKINGX'. Try CLIENT HELP."),
            ("client killx x", "-ERR unknown subcommand 'killx'. Try CLIENT HELP."),
            ("pubsub numpat x", "-ERR wrong number of arguments for 'pubsub|numpat' command"),
            ("config get", "-ERR wrong number of arguments for 'config|get' command"),
            ("echo", "-ERR wrong number of arguments for 'echo' command"),
        ] {
            assert_eq!(checked(line), Err(error.to_string()), "{line}");
        }
    }

    #[test]
    fn every_subcommand_is_named_after_its_command() {
        for spec in DOOR_SPECS {
            for sub in spec.subcommands {
                assert!(sub.name.strip_prefix(spec.name).is_some_and(|rest| rest.starts_with('|')), "{}", sub.name);
            }
        }
    }
}

//! CONFIG: the node's parameters under Redis's names. Most only show what is; SET works where it really changes something.

use base::{glob_matches, parse_i64};
use shard::command::is;
use shard::error::{CommandError, SYNTAX};
use shard::notify::Events;
use shard::reply::Reply;

use crate::resp::text;

/// What the parameters are at the start; from the node's own configuration.
#[derive(Clone, Debug)]
pub struct ConfigFacts {
    /// The door's port.
    pub port: u16,
    /// Addresses it listens on, parted by blanks.
    pub bind: String,
    /// The data directory.
    pub dir: String,
    /// Most connections.
    pub maxclients: u64,
    /// A connection idle for longer is closed; 0 for never.
    pub timeout_seconds: u64,
    /// The bound on data, bytes; 0 for none.
    pub maxmemory: u64,
    /// What happens at that bound.
    pub maxmemory_policy: String,
    /// Databases.
    pub databases: u32,
    /// Longest word of a command, bytes.
    pub bulk_bytes_max: usize,
    /// Longest command, bytes.
    pub command_bytes_max: usize,
    /// Whether the door asks for a password. It is never shown.
    pub has_password: bool,
}

/// A parameter that CONFIG SET has changed: see to it that it takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Close connections that are idle for longer; 0 for never.
    TimeoutSeconds(u64),
    /// Most connections.
    MaxClients(u64),
    /// Commands that take longer (microseconds) belong into the slow log; negative for none.
    SlowerThan(i64),
    /// Entries of the slow log.
    SlowlogLen(u64),
    /// What takes longer (milliseconds) is a latency event; 0 for nothing.
    LatencyThreshold(u64),
    /// Which of the things that happen to keys are told.
    Notifications(Events),
    /// Keys that are remembered for clients that track; 0 for any number.
    TrackedKeys(u64),
}

/// Who may change a parameter.
#[derive(Clone, Copy, Debug)]
enum Access {
    /// CONFIG SET, within bounds; says what changes.
    Settable(i64, i64, fn(i64) -> Change),
    /// The letters of keyspace notifications.
    Letters,
    /// Kept and shown, and of no effect here: what Redis tunes its own inside by.
    Hint(i64, i64),
    /// Redis would change it, this node does not: only what it is already may be set.
    Fixed,
    /// Not even Redis would.
    Immutable,
    /// Redis would only if told so at its start.
    Protected,
}

#[derive(Clone, Debug)]
struct Parameter {
    name: &'static str,
    value: String,
    access: Access,
}

/// The parameters of a door.
#[derive(Clone, Debug)]
pub struct Config {
    /// By name.
    parameters: Vec<Parameter>,
}

/// What tunes the inside of Redis and has nothing to tune here: name, default, and bounds. They may be set, as applications
/// and tests do, and change nothing; OBJECT ENCODING goes by the defaults.
const HINTS: &[(&str, &str, i64, i64)] = &[
    ("busy-reply-threshold", "5000", 0, i64::MAX),
    ("hash-max-listpack-entries", "512", 0, i64::MAX),
    ("hash-max-listpack-value", "64", 0, i64::MAX),
    ("hash-max-ziplist-entries", "512", 0, i64::MAX),
    ("hash-max-ziplist-value", "64", 0, i64::MAX),
    ("hll-sparse-max-bytes", "3000", 0, i64::MAX),
    ("hz", "10", 0, i32::MAX as i64),
    ("list-compress-depth", "0", 0, i32::MAX as i64),
    ("list-max-listpack-size", "-2", i32::MIN as i64, i32::MAX as i64),
    ("list-max-ziplist-size", "-2", i32::MIN as i64, i32::MAX as i64),
    ("lua-time-limit", "5000", 0, i64::MAX),
    ("set-max-intset-entries", "512", 0, i64::MAX),
    ("set-max-listpack-entries", "128", 0, i64::MAX),
    ("set-max-listpack-value", "64", 0, i64::MAX),
    ("stream-node-max-bytes", "4096", 0, i64::MAX),
    ("stream-node-max-entries", "100", 0, i64::MAX),
    ("zset-max-listpack-entries", "128", 0, i64::MAX),
    ("zset-max-listpack-value", "64", 0, i64::MAX),
    ("zset-max-ziplist-entries", "128", 0, i64::MAX),
    ("zset-max-ziplist-value", "64", 0, i64::MAX),
];

/// The other name of a parameter that has two.
fn alias(name: &str) -> &str {
    match name {
        "busy-reply-threshold" => "lua-time-limit",
        "lua-time-limit" => "busy-reply-threshold",
        "hash-max-listpack-entries" => "hash-max-ziplist-entries",
        "hash-max-ziplist-entries" => "hash-max-listpack-entries",
        "hash-max-listpack-value" => "hash-max-ziplist-value",
        "hash-max-ziplist-value" => "hash-max-listpack-value",
        "list-max-listpack-size" => "list-max-ziplist-size",
        "list-max-ziplist-size" => "list-max-listpack-size",
        "zset-max-listpack-entries" => "zset-max-ziplist-entries",
        "zset-max-ziplist-entries" => "zset-max-listpack-entries",
        "zset-max-listpack-value" => "zset-max-ziplist-value",
        "zset-max-ziplist-value" => "zset-max-listpack-value",
        _ => "",
    }
}

impl Config {
    /// The parameters as they are at the start.
    pub fn new(facts: &ConfigFacts) -> Config {
        let fixed = |name, value: &str| Parameter { name, value: value.into(), access: Access::Fixed };
        let with = |name, value: String, access| Parameter { name, value, access };
        let timeout = Access::Settable(0, i64::from(i32::MAX), |seconds| Change::TimeoutSeconds(seconds as u64));
        let maxclients = Access::Settable(1, i64::from(u32::MAX), |count| Change::MaxClients(count as u64));
        let slower_than = Access::Settable(-1, i64::MAX, Change::SlowerThan);
        let slowlog_len = Access::Settable(0, i64::MAX, |count| Change::SlowlogLen(count as u64));
        let tracked = Access::Settable(0, i64::MAX, |count| Change::TrackedKeys(count as u64));
        let latency = Access::Settable(0, i64::MAX, |millis| Change::LatencyThreshold(millis as u64));
        let mut parameters = vec![
            fixed("appendfsync", "always"),
            fixed("appendonly", "yes"),
            fixed("bind", &facts.bind),
            fixed("client-query-buffer-limit", &facts.command_bytes_max.to_string()),
            with("cluster-enabled", "no".into(), Access::Immutable),
            with("databases", facts.databases.to_string(), Access::Immutable),
            with("dir", facts.dir.clone(), Access::Protected),
            with("maxclients", facts.maxclients.to_string(), maxclients),
            fixed("maxmemory", &facts.maxmemory.to_string()),
            fixed("maxmemory-policy", &facts.maxmemory_policy),
            with("latency-monitor-threshold", "0".into(), latency),
            with("notify-keyspace-events", String::new(), Access::Letters),
            fixed("port", &facts.port.to_string()),
            fixed("proto-max-bulk-len", &facts.bulk_bytes_max.to_string()),
            // How long the password is would be a hint too.
            fixed("requirepass", if facts.has_password { "********" } else { "" }),
            fixed("save", ""),
            with("slowlog-log-slower-than", "10000".into(), slower_than),
            with("slowlog-max-len", "128".into(), slowlog_len),
            with("tracking-table-max-keys", "1000000".into(), tracked),
            with("timeout", facts.timeout_seconds.to_string(), timeout),
        ];
        parameters
            .extend(HINTS.iter().map(|(name, value, min, max)| with(name, (*value).into(), Access::Hint(*min, *max))));
        parameters.sort_by_key(|parameter| parameter.name);
        Config { parameters }
    }

    /// CONFIG GET: parameters whose names match any of the patterns.
    pub fn get(&self, args: &[&[u8]], reply: &mut Reply) {
        let patterns: Vec<Vec<u8>> = args[2..].iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
        let wanted =
            |parameter: &&Parameter| patterns.iter().any(|pattern| glob_matches(pattern, parameter.name.as_bytes()));
        let found: Vec<&Parameter> = self.parameters.iter().filter(wanted).collect();
        reply.map(found.len());
        for parameter in found {
            reply.bulk(parameter.name.as_bytes());
            reply.bulk(parameter.value.as_bytes());
        }
    }

    /// CONFIG SET: all of the parameters or, with an error, none. The caller makes the changes take effect and answers OK.
    pub fn set(&mut self, args: &[&[u8]]) -> Result<Vec<Change>, CommandError> {
        let pairs = &args[2..];
        if pairs.len() % 2 == 1 {
            return Err(SYNTAX);
        }
        let mut places = Vec::new();
        for pair in pairs.chunks_exact(2) {
            let place = self.parameters.iter().position(|parameter| is(pair[0], parameter.name)).ok_or_else(|| {
                let name = String::from_utf8_lossy(pair[0]);
                CommandError::from(format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'"))
            })?;
            let parameter = &self.parameters[place];
            match parameter.access {
                Access::Immutable => return Err(parameter.refusal("can't set immutable config")),
                Access::Protected => return Err(parameter.refusal("can't set protected config")),
                _ if places.contains(&place) => return Err(parameter.refusal("duplicate parameter")),
                _ => places.push(place),
            }
        }
        let mut changes = Vec::new();
        for (place, pair) in places.iter().zip(pairs.chunks_exact(2)) {
            changes.extend(self.parameters[*place].change(pair[1])?);
        }
        for (place, pair) in places.iter().zip(pairs.chunks_exact(2)) {
            let value = match self.parameters[*place].access {
                Access::Letters => Events::parse(pair[1]).unwrap_or_default().text(),
                Access::Settable(..) | Access::Hint(..) => String::from_utf8_lossy(pair[1]).into_owned(),
                _ => continue,
            };
            let name = self.parameters[*place].name;
            for parameter in self.parameters.iter_mut().filter(|own| own.name == name || alias(own.name) == name) {
                parameter.value.clone_from(&value);
            }
        }
        Ok(changes)
    }

    /// CONFIG REWRITE: the node's own file is not written by commands.
    pub fn rewrite(&self) -> CommandError {
        CommandError::new("ERR The server is running without a config file")
    }

    /// CONFIG HELP.
    pub fn help(&self, reply: &mut Reply) {
        text::help("CONFIG", HELP, reply);
    }
}

const HELP: &[&str] = &[
    "GET <pattern>",
    "    Return parameters matching the glob-like <pattern> and their values.",
    "SET <directive> <value>",
    "    Set the configuration <directive> to <value>.",
    "RESETSTAT",
    "    Reset statistics reported by the INFO command.",
    "REWRITE",
    "    Rewrite the configuration file.",
];

impl Parameter {
    fn refusal(&self, why: &str) -> CommandError {
        format!("ERR CONFIG SET failed (possibly related to argument '{}') - {why}", self.name).into()
    }

    /// What setting it to `value` would change; nothing if that is what it is.
    fn change(&self, value: &[u8]) -> Result<Option<Change>, CommandError> {
        match self.access {
            Access::Settable(min, max, change) => match parse_i64(value) {
                None => Err(self.refusal("argument couldn't be parsed into an integer")),
                Some(number) if (min..=max).contains(&number) => Ok(Some(change(number))),
                Some(_) => Err(self.refusal(&format!("argument must be between {min} and {max} inclusive"))),
            },
            Access::Hint(min, max) => match parse_i64(value) {
                None => Err(self.refusal("argument couldn't be parsed into an integer")),
                Some(number) if (min..=max).contains(&number) => Ok(None),
                Some(_) => Err(self.refusal(&format!("argument must be between {min} and {max} inclusive"))),
            },
            Access::Letters => match Events::parse(value) {
                Some(events) => Ok(Some(Change::Notifications(events))),
                None => Err(self.refusal("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")),
            },
            _ if value.eq_ignore_ascii_case(self.value.as_bytes()) && self.name != "requirepass" => Ok(None),
            _ => Err(self.refusal("can't set immutable config")),
        }
    }
}

#[cfg(test)]
mod tests {
    use shard::reply::{Protocol, Reply};

    use super::{Change, Config, ConfigFacts};

    fn config() -> Config {
        Config::new(&ConfigFacts {
            port: 6379,
            bind: "127.0.0.1".into(),
            dir: "/data".into(),
            maxclients: 10_000,
            timeout_seconds: 0,
            maxmemory: 0,
            maxmemory_policy: "noeviction".into(),
            databases: 16,
            bulk_bytes_max: 64 << 20,
            command_bytes_max: 128 << 20,
            has_password: true,
        })
    }

    fn get(config: &Config, line: &str, protocol: Protocol) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let mut reply = Reply::new(protocol);
        config.get(&args, &mut reply);
        String::from_utf8_lossy(&reply.bytes).replace("\r\n", " ").trim_end().to_string()
    }

    fn set(config: &mut Config, line: &str) -> Result<Vec<Change>, String> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        config.set(&args).map_err(|error| error.0.into_owned())
    }

    #[test]
    fn get_matches_patterns_in_any_case() {
        let config = config();
        assert_eq!(get(&config, "config get TIME* timeout", Protocol::Resp3), "%1 $7 timeout $1 0");
        assert_eq!(get(&config, "config get save", Protocol::Resp2), "*2 $4 save $0");
        assert_eq!(get(&config, "config get appendonly", Protocol::Resp2), "*2 $10 appendonly $3 yes");
        assert_eq!(get(&config, "config get nosuch", Protocol::Resp2), "*0");
        assert_eq!(get(&config, "config get requirepass", Protocol::Resp2), "*2 $11 requirepass $8 ********");
        assert_eq!(
            get(&config, "config get maxmemory* databases", Protocol::Resp2),
            "*6 $9 databases $2 16 $9 maxmemory $1 0 $16 maxmemory-policy $10 noeviction"
        );
    }

    #[test]
    fn set_changes_what_can_change() {
        let mut config = config();
        let changes = vec![Change::TimeoutSeconds(10), Change::MaxClients(5)];
        assert_eq!(set(&mut config, "config set timeout 10 MaxClients 5"), Ok(changes));
        assert_eq!(
            get(&config, "config get timeout maxclients", Protocol::Resp2),
            "*4 $10 maxclients $1 5 $7 timeout $2 10"
        );
        assert_eq!(set(&mut config, "config set appendonly yes maxmemory 0"), Ok(vec![]), "what it is may be set");
    }

    #[test]
    fn set_refuses_with_redis_s_texts_and_changes_nothing() {
        let mut config = config();
        let related =
            |name: &str, why: &str| format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {why}");
        for (line, error) in [
            ("config set foo 1", "ERR Unknown option or number of arguments for CONFIG SET - 'foo'".into()),
            ("config set timeout 10 foo 1", "ERR Unknown option or number of arguments for CONFIG SET - 'foo'".into()),
            ("config set timeout 10 port", "ERR syntax error".into()),
            ("config set timeout abc", related("timeout", "argument couldn't be parsed into an integer")),
            ("config set timeout -1", related("timeout", "argument must be between 0 and 2147483647 inclusive")),
            ("config set maxclients 0", related("maxclients", "argument must be between 1 and 4294967295 inclusive")),
            ("config set timeout 1 timeout 2", related("timeout", "duplicate parameter")),
            ("config set databases 16", related("databases", "can't set immutable config")),
            ("config set dir /data", related("dir", "can't set protected config")),
            ("config set timeout 5 maxmemory 1mb", related("maxmemory", "can't set immutable config")),
            ("config set requirepass ********", related("requirepass", "can't set immutable config")),
        ] {
            assert_eq!(set(&mut config, line), Err(error), "{line}");
        }
        assert_eq!(get(&config, "config get timeout", Protocol::Resp2), "*2 $7 timeout $1 0");
    }
}

//! Keyspace notifications: what Redis's clients are told when keys change (<https://redis.io/docs/latest/develop/use/keyspace-notifications/>).
//!
//! ```text
//!   tables note what happened to which key ── command's name ──► event (`set`, `lpush`, `del` …) ──► __keyspace@0__:key
//! ```
//!
//! Told by the node that leads the key's shard, to its own subscribers and those of the other nodes, at most once, like any
//! message. Not told: `m` (misses), since reads change nothing here; and what FLUSHALL, FLUSHDB and SWAPDB do to single keys, as in Redis.

use store::table::{Noted, Tables, What};

use crate::command::{Args, is};

/// Which events somebody wants to hear of: the letters of `notify-keyspace-events`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events(pub u16);

/// The letters, each a bit, in the order in which CONFIG GET shows them.
const LETTERS: &[u8; 14] = b"g$lshzxetdnKEm";
/// What `A` stands for: all but those of misses and of new keys.
const ALL: u16 = 0b11_1111_1111;
const KEYSPACE: u16 = 1 << 11;
const KEYEVENT: u16 = 1 << 12;

impl Events {
    /// Reads the letters; `None` where one is unknown.
    pub fn parse(text: &[u8]) -> Option<Events> {
        text.iter().try_fold(Events(0), |events, byte| match byte {
            b'A' => Some(Events(events.0 | ALL)),
            byte => LETTERS.iter().position(|letter| letter == byte).map(|bit| Events(events.0 | 1 << bit)),
        })
    }

    /// The letters, as CONFIG GET shows them.
    pub fn text(self) -> String {
        let all = self.0 & ALL == ALL;
        let rest =
            LETTERS.iter().enumerate().filter(|(bit, _)| self.0 >> bit & 1 != 0 && !(all && ALL >> bit & 1 != 0));
        let head = if all { "A" } else { "" };
        head.chars().chain(rest.map(|(_, letter)| char::from(*letter))).collect()
    }

    /// Whether anybody would be told of anything.
    pub fn is_on(self) -> bool {
        self.0 & (KEYSPACE | KEYEVENT) != 0
    }

    fn has(self, letter: u8) -> bool {
        LETTERS.iter().position(|one| *one == letter).is_some_and(|bit| self.0 >> bit & 1 != 0)
    }
}

/// A change without a name: only those hear of it who keep copies of the key.
const UNTOLD: (u8, &str) = (0, "");

/// Something to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key's database.
    pub db: u8,
    /// The key.
    pub key: Vec<u8>,
    /// Its name.
    pub name: &'static str,
    /// Its kind: a letter; 0 where no notification speaks of it.
    pub kind: u8,
}

impl Event {
    /// The messages that it becomes, if it is wanted.
    pub fn messages(&self, wanted: Events, mut publish: impl FnMut(&[u8], &[u8])) {
        if !wanted.has(self.kind) {
            return;
        }
        if wanted.0 & KEYSPACE != 0 {
            let channel = [format!("__keyspace@{}__:", self.db).as_bytes(), &self.key].concat();
            publish(&channel, self.name.as_bytes());
        }
        if wanted.0 & KEYEVENT != 0 {
            publish(format!("__keyevent@{}__:{}", self.db, self.name).as_bytes(), &self.key);
        }
    }
}

/// Takes what a command did to keys and says it in events, in order.
pub fn gather(tables: &mut Tables, command: &str, args: Args<'_>, events: &mut Vec<Event>) {
    let mut noted = tables.take_noted();
    if matches!(command, "lmove" | "blmove" | "rpoplpush" | "brpoplpush") && args[1] != args[2] {
        // Redis tells of the push first.
        noted.sort_by_key(|noted| noted.key != args[2]);
    }
    for Noted { db, key, what } in noted {
        if what == What::Came {
            events.push(Event { db, key: key.clone(), name: "new", kind: b'n' });
        }
        let is_moving = matches!(command, "rename" | "renamenx" | "copy" | "restore" | "move");
        let (kind, name) = match what {
            What::Expired => (b'x', "expired"),
            What::Went if matches!(command, "rename" | "renamenx") && key == args[1] => (b'g', "rename_from"),
            What::Went if command == "move" => (b'g', "move_from"),
            What::Went | What::Expires if is_moving => UNTOLD,
            What::Went => (b'g', "del"),
            What::Expires => (b'g', "expire"),
            What::Persists => (b'g', "persist"),
            What::Came | What::Changed => name_of(command, &key, args).unwrap_or(UNTOLD),
        };
        events.push(Event { db, key, name, kind });
    }
}

/// Keys that were evicted.
pub fn evicted(tables: &mut Tables, events: &mut Vec<Event>) {
    for Noted { db, key, what } in tables.take_noted() {
        let (kind, name) = if what == What::Expired { (b'x', "expired") } else { (b'e', "evicted") };
        events.push(Event { db, key, name, kind });
    }
}

/// Keys whose time was over. Whatever else has been noted (slots that came) is nothing that clients did.
pub fn expired(tables: &mut Tables, events: &mut Vec<Event>) {
    events.extend(tables.take_noted().into_iter().map(|Noted { db, key, what }| {
        let (kind, name) = if what == What::Expired { (b'x', "expired") } else { UNTOLD };
        Event { db, key, name, kind }
    }));
}

/// What a command calls its change of a key.
fn name_of(command: &str, key: &[u8], args: Args<'_>) -> Option<(u8, &'static str)> {
    let word = |at: usize, text: &str| args.get(at).is_some_and(|word| is(word, text));
    let anywhere = |text: &str| args.iter().skip(1).any(|word| is(word, text));
    let end = |at: usize, left, right| if word(at, "left") { left } else { right };
    Some(match command {
        "set" | "setnx" | "setex" | "psetex" | "getset" | "mset" | "msetnx" | "bitop" => (b'$', "set"),
        "incr" | "decr" | "incrby" | "decrby" => (b'$', "incrby"),
        "incrbyfloat" => (b'$', "incrbyfloat"),
        "append" => (b'$', "append"),
        "setrange" => (b'$', "setrange"),
        "setbit" | "bitfield" => (b'$', "setbit"),
        "pfadd" | "pfmerge" => (b'$', "pfadd"),
        "rename" | "renamenx" => (b'g', "rename_to"),
        "move" => (b'g', "move_to"),
        "copy" => (b'g', "copy_to"),
        "restore" => (b'g', "restore"),
        "lpush" | "lpushx" => (b'l', "lpush"),
        "rpush" | "rpushx" => (b'l', "rpush"),
        "lpop" | "blpop" => (b'l', "lpop"),
        "rpop" | "brpop" => (b'l', "rpop"),
        "linsert" => (b'l', "linsert"),
        "lset" => (b'l', "lset"),
        "lrem" => (b'l', "lrem"),
        "ltrim" => (b'l', "ltrim"),
        "lmpop" | "blmpop" => (b'l', if anywhere("left") { "lpop" } else { "rpop" }),
        "rpoplpush" | "brpoplpush" if key == args[1] && key != args[2] => (b'l', "rpop"),
        "rpoplpush" | "brpoplpush" => (b'l', "lpush"),
        "lmove" | "blmove" if key == args[1] && key != args[2] => (b'l', end(3, "lpop", "rpop")),
        "lmove" | "blmove" => (b'l', end(4, "lpush", "rpush")),
        "sort" => (b'l', "sortstore"),
        "sadd" => (b's', "sadd"),
        "srem" => (b's', "srem"),
        "spop" => (b's', "spop"),
        "smove" => (b's', if key == args[1] { "srem" } else { "sadd" }),
        "sinterstore" => (b's', "sinterstore"),
        "sunionstore" => (b's', "sunionstore"),
        "sdiffstore" => (b's', "sdiffstore"),
        "hset" | "hmset" | "hsetnx" => (b'h', "hset"),
        "hincrby" => (b'h', "hincrby"),
        "hincrbyfloat" => (b'h', "hincrbyfloat"),
        "hdel" => (b'h', "hdel"),
        "zadd" if args.iter().skip(2).take(6).any(|word| is(word, "incr")) => (b'z', "zincr"),
        "zincrby" => (b'z', "zincr"),
        "zadd" | "geoadd" => (b'z', "zadd"),
        "zrem" => (b'z', "zrem"),
        "zremrangebyscore" => (b'z', "zremrangebyscore"),
        "zremrangebyrank" => (b'z', "zremrangebyrank"),
        "zremrangebylex" => (b'z', "zremrangebylex"),
        "zpopmin" | "bzpopmin" => (b'z', "zpopmin"),
        "zpopmax" | "bzpopmax" => (b'z', "zpopmax"),
        "zmpop" | "bzmpop" => (b'z', if anywhere("min") { "zpopmin" } else { "zpopmax" }),
        "zunionstore" => (b'z', "zunionstore"),
        "zinterstore" => (b'z', "zinterstore"),
        "zdiffstore" => (b'z', "zdiffstore"),
        "zrangestore" => (b'z', "zrangestore"),
        "geosearchstore" => (b'z', "geosearchstore"),
        "georadius" | "georadiusbymember" => (b'z', "georadiusstore"),
        "xadd" => (b't', "xadd"),
        "xtrim" => (b't', "xtrim"),
        "xdel" => (b't', "xdel"),
        "xsetid" => (b't', "xsetid"),
        "xgroup" if word(1, "create") => (b't', "xgroup-create"),
        "xgroup" if word(1, "setid") => (b't', "xgroup-setid"),
        "xgroup" if word(1, "destroy") => (b't', "xgroup-destroy"),
        "xgroup" if word(1, "createconsumer") => (b't', "xgroup-createconsumer"),
        "xgroup" if word(1, "delconsumer") => (b't', "xgroup-delconsumer"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_read_back_as_redis_shows_them() {
        for (given, shown) in [("", ""), ("KEA", "AKE"), ("xE$", "$xE"), ("g$lshzxetdKE", "AKE"), ("AKEmn", "AnKEm")] {
            assert_eq!(Events::parse(given.as_bytes()).map(Events::text).as_deref(), Some(shown), "{given}");
        }
        assert_eq!(Events::parse(b"KEq"), None);
        assert!(!Events::parse(b"A").unwrap().is_on() && Events::parse(b"Kg").unwrap().is_on());
    }

    #[test]
    fn an_event_is_told_to_whom_it_is_wanted_by() {
        let event = Event { db: 3, key: b"k".to_vec(), name: "del", kind: b'g' };
        let told = |letters: &str| {
            let mut told = Vec::new();
            event.messages(Events::parse(letters.as_bytes()).unwrap(), |channel, message| {
                told.push(String::from_utf8([channel, b" ", message].concat()).unwrap());
            });
            told
        };
        assert_eq!(told("KEg"), ["__keyspace@3__:k del", "__keyevent@3__:del k"]);
        assert_eq!(told("Eg"), ["__keyevent@3__:del k"]);
        assert!(told("KE$").is_empty());
    }
}

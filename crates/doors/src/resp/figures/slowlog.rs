//! SLOWLOG: the commands that took longest, as Redis keeps them (<https://redis.io/commands/slowlog-get>).

use std::collections::VecDeque;

use base::Duration;
use shard::command::is;
use shard::error::CommandError;
use shard::reply::Reply;

use crate::resp::text;

/// Entries that may be kept, whatever `slowlog-max-len` says.
pub const ENTRIES_MAX: usize = 10_000;
/// Words of a command that are kept.
const WORDS_MAX: usize = 32;
/// Bytes of a word that are kept.
const WORD_BYTES_MAX: usize = 128;

const HELP: &[&str] = &[
    "GET [<count>]",
    "    Return top <count> entries from the slowlog (default: 10, -1 mean all).",
    "    Entries are made of:",
    "    id, timestamp, time in microseconds, arguments array, client IP and port,",
    "    client name",
    "LEN",
    "    Return the length of the slowlog.",
    "RESET",
    "    Reset the slowlog.",
];

/// A slow command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    seconds: u64,
    micros: u64,
    words: Vec<Vec<u8>>,
    address: String,
    name: Vec<u8>,
}

impl Entry {
    /// What is kept of a command; nothing of those that Redis does not log either.
    pub fn new(args: &[&[u8]], took: Duration, seconds: u64, address: &str, name: &[u8]) -> Option<Entry> {
        if is(args[0], "exec") {
            return None;
        }
        let kept = if args.len() > WORDS_MAX { WORDS_MAX - 1 } else { args.len() };
        let mut words: Vec<Vec<u8>> = args[..kept]
            .iter()
            .enumerate()
            .map(|(at, word)| match word {
                _ if is_secret(args, at) => b"(redacted)".to_vec(),
                word if word.len() > WORD_BYTES_MAX => {
                    let more = format!("... ({} more bytes)", word.len() - WORD_BYTES_MAX);
                    [&word[..WORD_BYTES_MAX], more.as_bytes()].concat()
                }
                word => word.to_vec(),
            })
            .collect();
        if kept < args.len() {
            words.push(format!("... ({} more arguments)", args.len() - kept).into_bytes());
        }
        let (address, name) = (address.to_owned(), name.to_vec());
        Some(Entry { seconds, micros: took.as_micros() as u64, words, address, name })
    }
}

/// Whether a word may be a password.
fn is_secret(args: &[&[u8]], at: usize) -> bool {
    match args[0] {
        name if is(name, "auth") => at > 0,
        // HELLO 3 AUTH user password
        name if is(name, "hello") => at > 2 && args[2..at].iter().rev().take(2).any(|word| is(word, "auth")),
        name if is(name, "acl") => at > 1 && args.get(1).is_some_and(|word| is(word, "setuser")),
        name if is(name, "config") => {
            at > 2 && at % 2 == 1 && (is(args[at - 1], "requirepass") || is(args[at - 1], "masterauth"))
        }
        _ => false,
    }
}

/// The newest first.
#[derive(Debug)]
pub struct Slowlog {
    entries: VecDeque<(u64, Entry)>,
    next: u64,
    max: usize,
}

impl Default for Slowlog {
    fn default() -> Slowlog {
        Slowlog { entries: VecDeque::new(), next: 0, max: 128 }
    }
}

impl Slowlog {
    pub(super) fn add(&mut self, entry: Entry) {
        let id = self.next;
        self.next += 1;
        self.entries.push_front((id, entry));
        self.entries.truncate(self.max);
    }

    pub(super) fn set_max(&mut self, count: usize) {
        self.max = count.min(ENTRIES_MAX);
        self.entries.truncate(self.max);
    }

    pub(super) fn command(&mut self, name: &str, args: &[&[u8]], reply: &mut Reply) -> Result<(), CommandError> {
        match name {
            "slowlog|len" => reply.int(self.entries.len() as i64),
            "slowlog|reset" => {
                self.entries.clear();
                reply.ok();
            }
            "slowlog|get" if args.len() <= 3 => {
                let count = match args.get(2) {
                    None => 10,
                    Some(word) => base::parse_i64(word).ok_or(shard::error::NOT_INTEGER)?,
                };
                if count < -1 {
                    return Err(CommandError::new("ERR count should be greater than or equal to -1"));
                }
                let count = usize::try_from(count).map_or(self.entries.len(), |count| count.min(self.entries.len()));
                reply.array(count);
                for (id, entry) in self.entries.iter().take(count) {
                    reply.array(6);
                    reply.int(*id as i64);
                    reply.int(entry.seconds as i64);
                    reply.int(entry.micros as i64);
                    reply.array(entry.words.len());
                    entry.words.iter().for_each(|word| reply.bulk(word));
                    reply.bulk(entry.address.as_bytes());
                    reply.bulk(&entry.name);
                }
            }
            "slowlog|help" => text::help("SLOWLOG", HELP, reply),
            _ => return Err(text::subcommand_syntax(args)),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shard::reply::Protocol;

    fn words(line: &str) -> Vec<String> {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let entry = Entry::new(&args, Duration::from_micros(5), 7, "a:1", b"n");
        entry.map_or(Vec::new(), |entry| entry.words.iter().map(|word| String::from_utf8_lossy(word).into()).collect())
    }

    #[test]
    fn words_are_cut_and_passwords_hidden() {
        let many = words("w ".repeat(40).trim_end());
        assert_eq!((many.len(), many[31].as_str()), (32, "... (9 more arguments)"));
        assert!(words(&format!("set k {}", "A".repeat(129)))[2].ends_with("A... (1 more bytes)"));
        for (line, shown) in [
            ("AUTH secret", "AUTH (redacted)"),
            ("auth user secret", "auth (redacted) (redacted)"),
            ("HELLO 3 AUTH user secret SETNAME x", "HELLO 3 AUTH (redacted) (redacted) SETNAME x"),
            ("acl setuser a >secret", "acl setuser (redacted) (redacted)"),
            ("CONFIG SET timeout 1 requirepass secret", "CONFIG SET timeout 1 requirepass (redacted)"),
            ("EXEC", ""),
        ] {
            assert_eq!(words(line).join(" "), shown, "{line}");
        }
    }

    #[test]
    fn as_many_as_may_are_kept_the_newest_first() {
        let mut slowlog = Slowlog::default();
        slowlog.set_max(2);
        for at in 0..3u64 {
            slowlog.add(Entry::new(&[b"ping"], Duration::from_micros(at), at, "a:1", b"").expect("it is logged"));
        }
        let mut say = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let mut reply = Reply::new(Protocol::Resp2);
            let name = format!("slowlog|{}", line.split(' ').nth(1).unwrap_or_default());
            let done = slowlog.command(&name, &args, &mut reply);
            done.err().map_or_else(
                || String::from_utf8_lossy(&reply.bytes).replace("\r\n", " "),
                |error| error.0.into_owned(),
            )
        };
        assert_eq!(say("slowlog get 1"), "*1 *6 :2 :2 :2 *1 $4 ping $3 a:1 $0  ");
        assert_eq!(say("slowlog len"), ":2 ");
        assert_eq!(say("slowlog get -2"), "ERR count should be greater than or equal to -1");
        assert_eq!(say("slowlog get x"), "ERR value is not an integer or out of range");
        assert_eq!(say("slowlog reset") + &say("slowlog get"), "+OK *0 ");
    }
}

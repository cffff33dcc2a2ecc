//! MONITOR: what the clients of this node ask for, as it runs, to whoever wants to see it.
//!
//! A line is `SECONDS.MICROS [DB ADDRESS] "word" "word"`, as Redis writes it (<https://redis.io/commands/monitor>). Not shown: commands of
//! administration and those that carry passwords, as in Redis; what scripts call, and what clients of other nodes ask for. The commands
//! of a MULTI are shown when they are queued, not at its EXEC.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::door::Client;
use super::introspect;

/// Bytes of one word that are shown: a large value is not copied to everybody who looks.
const WORD_BYTES_MAX: usize = 4096;
/// Words of one command that are shown.
const WORDS_MAX: usize = 128;

/// Who looks.
#[derive(Default)]
pub struct Monitors {
    is_on: AtomicBool,
    clients: Mutex<BTreeMap<u64, Client>>,
}

impl Monitors {
    /// Whether anybody looks: the one thing that every command pays for.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// From now on this client is told.
    pub fn add(&self, client: &Client) {
        let mut clients = self.clients.lock();
        clients.insert(client.id, client.clone());
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// It is not told any more, if it was.
    pub fn remove(&self, id: u64) {
        if self.is_on() {
            let mut clients = self.clients.lock();
            clients.remove(&id);
            self.is_on.store(!clients.is_empty(), Ordering::Relaxed);
        }
    }

    /// Whether this client is told.
    pub fn has(&self, id: u64) -> bool {
        self.is_on() && self.clients.lock().contains_key(&id)
    }

    /// Tells of a command that a client has asked for. One that does not read ends as subscribers do: at its bound.
    pub fn tell(&self, micros: u64, db: u8, address: &str, args: &[&[u8]]) {
        if is_hidden(args) {
            return;
        }
        let line = line(micros, db, address, args);
        let clients = self.clients.lock();
        let wakers: Vec<_> = clients.values().filter_map(|client| client.message(&line)).collect();
        drop(clients);
        wakers.into_iter().for_each(std::task::Waker::wake);
    }
}

fn is_hidden(args: &[&[u8]]) -> bool {
    let Some(spec) = introspect::find_door(args[0]) else { return false };
    let sub = args.get(1).and_then(|word| spec.subcommand(word));
    matches!(spec.name, "auth" | "hello" | "monitor") || sub.unwrap_or(spec).flags.contains(&"admin")
}

fn line(micros: u64, db: u8, address: &str, args: &[&[u8]]) -> Vec<u8> {
    let mut line = Vec::new();
    // Writing to memory does not fail.
    let _ = write!(line, "+{}.{:06} [{db} {address}]", micros / 1_000_000, micros % 1_000_000);
    for word in args.iter().take(WORDS_MAX) {
        line.push(b' ');
        put_quoted(word, &mut line);
    }
    if args.len() > WORDS_MAX {
        let _ = write!(line, " \"... ({} more arguments)\"", args.len() - WORDS_MAX);
    }
    line.extend_from_slice(b"\r\n");
    line
}

/// As `sdscatrepr` of Redis does it.
fn put_quoted(word: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in &word[..word.len().min(WORD_BYTES_MAX)] {
        match byte {
            b'\\' | b'"' => out.extend_from_slice(&[b'\\', *byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            7 => out.extend_from_slice(b"\\a"),
            8 => out.extend_from_slice(b"\\b"),
            b' '..=b'~' => out.push(*byte),
            other => {
                let _ = write!(out, "\\x{other:02x}");
            }
        }
    }
    if word.len() > WORD_BYTES_MAX {
        let _ = write!(out, "... ({} more bytes)", word.len() - WORD_BYTES_MAX);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_redis_writes_it() {
        let shown = line(1_339_518_083_107_412, 3, "127.0.0.1:60866", &[b"set", b"k\"\\", b"\x00\n\r\t\x07\x08\xff v"]);
        let wanted = r#"+1339518083.107412 [3 127.0.0.1:60866] "set" "k\"\\" "\x00\n\r\t\a\b\xff v""#;
        assert_eq!(String::from_utf8(shown).expect("ASCII"), format!("{wanted}\r\n"));
    }

    #[test]
    fn large_words_and_long_commands_are_cut() {
        let large = vec![b'x'; WORD_BYTES_MAX + 5];
        assert!(line(0, 0, "a", &[b"set", &large]).ends_with(b"x... (5 more bytes)\"\r\n"));
        let many = vec![&b"w"[..]; WORDS_MAX + 2];
        assert!(line(0, 0, "a", &many).ends_with(b"\"w\" \"... (2 more arguments)\"\r\n"));
    }

    #[test]
    fn passwords_and_administration_are_not_shown() {
        for hidden in
            ["AUTH secret", "HELLO 3 AUTH default secret", "monitor", "CONFIG SET requirepass x", "client kill x"]
        {
            assert!(is_hidden(&hidden.split(' ').map(str::as_bytes).collect::<Vec<_>>()), "{hidden}");
        }
        for shown in ["get k", "ping", "client setname x", "exec", "nonsense"] {
            assert!(!is_hidden(&shown.split(' ').map(str::as_bytes).collect::<Vec<_>>()), "{shown}");
        }
    }
}

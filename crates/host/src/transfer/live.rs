//! A running Redis server into a node: as its replica, by `PSYNC` (<https://redis.io/docs/latest/operate/oss_and_stack/management/replication/>).
//!
//! ```text
//!   PSYNC ? -1 ─► +FULLRESYNC id offset, snapshot, commands …          REPLCONF ACK offset, each second ─►
//!   (lost)        PSYNC id offset+1 ─► +CONTINUE, commands …           or the source has forgotten: begin again with --flush
//!   cut-over      CLIENT PAUSE … WRITE at the source; its offset; until all before it is in and answered
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::Limits;
use doors::resp::client::Value;
use shard::rdb::file::{Item, Reader};

use super::link::Link;
use super::target::Target;
use super::{Imported, SAY_EVERY, Say, Server, Wishes, size};

/// When the source's writers are to move.
#[derive(Clone, Copy, Debug)]
pub struct CutOver {
    /// As soon as the node has caught up, without being told ([`import_redis`]'s `over`).
    pub at_once: bool,
    /// Whether writers are held back at the source meanwhile, and for a minute.
    pub pauses: bool,
}

/// How long a source may be silent before it counts as lost: it pings every ten seconds.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
const ACK_EVERY: Duration = Duration::from_secs(1);
/// How long a lost source is looked for.
const RETURN_WAIT: Duration = Duration::from_secs(60);
/// What may be missing when writers are held back: a moment's work.
const NEAR_BYTES: u64 = 4 << 20;
const PAUSE_MS: &str = "60000";
/// The words behind a snapshot of unknown length, which stand again at its end.
const MARK_BYTES: usize = 40;

/// How a source goes on.
enum Sync {
    Full { id: String, offset: u64 },
    Continue { id: Option<String> },
}

struct Import<'a> {
    source: &'a Server,
    link: Link,
    target: Target,
    id: String,
    /// Bytes of the stream up to the last command that was passed on.
    offset: u64,
    /// What has come of the next one.
    incoming: Vec<u8>,
    acked: Instant,
    heard: Instant,
}

/// Takes what a server holds into the node, and goes on with what it is told, until the cut-over: until `over` is set, or at once.
///
/// # Errors
/// For people.
pub fn import_redis(
    source: &Server,
    to: &Server,
    wishes: &Wishes,
    cut: CutOver,
    over: &AtomicBool,
    say: Say<'_>,
) -> Result<Imported, String> {
    let mut link = Link::open(source)?;
    let Sync::Full { id, offset } = begin(&mut link, "?", "-1")? else {
        return Err(format!("{} goes on with a stream that nobody asked for", source.address));
    };
    let target = Target::open(to, wishes.existing)?;
    let now = Instant::now();
    let mut import = Import { source, link, target, id, offset, incoming: Vec::new(), acked: now, heard: now };
    import.snapshot(wishes, say)?;
    let keys = import.target.done.keys;
    say(&format!("the snapshot is in: {keys} keys; going on with what {} is told", source.address));
    import.follow(cut, over, say)?;
    Ok(import.target.done)
}

/// Asks to be a replica from an offset on.
fn begin(link: &mut Link, id: &str, offset: &str) -> Result<Sync, String> {
    // A server that knows none of them goes on in its older way.
    for words in [["REPLCONF", "capa", "eof"], ["REPLCONF", "capa", "psync2"]] {
        link.ask(&words)?;
    }
    let mut bytes = Vec::new();
    doors::resp::client::write_command(&["PSYNC", id, offset], &mut bytes);
    link.write(&bytes)?;
    let line = loop {
        let line = link.line()?;
        // It breathes while it gets ready.
        if !line.is_empty() {
            break String::from_utf8_lossy(&line).into_owned();
        }
    };
    let mut words = line.split(' ');
    match (words.next(), words.next(), words.next()) {
        (Some("+FULLRESYNC"), Some(id), Some(offset)) => {
            let offset = offset.parse().map_err(|_| format!("the source answers PSYNC with: {line}"))?;
            Ok(Sync::Full { id: id.to_owned(), offset })
        }
        (Some("+CONTINUE"), id, _) => Ok(Sync::Continue { id: id.map(str::to_owned) }),
        _ => Err(format!("the source answers PSYNC with: {line}")),
    }
}

impl Import<'_> {
    fn snapshot(&mut self, wishes: &Wishes, say: Say<'_>) -> Result<(), String> {
        let head = loop {
            let line = self.link.line()?;
            if !line.is_empty() {
                break String::from_utf8_lossy(&line).into_owned();
            }
        };
        let mark = head.strip_prefix("$EOF:").map(str::to_owned);
        let size_of = head.strip_prefix('$').and_then(|text| text.parse::<u64>().ok());
        if mark.is_none() && size_of.is_none() || mark.as_ref().is_some_and(|mark| mark.len() != MARK_BYTES) {
            return Err(format!("the source begins its snapshot with: {head}"));
        }
        let whole = size_of.map_or_else(String::new, |bytes| format!(" of {}", size(bytes)));
        let (mut reader, mut piece, mut told) = (Reader::new(Target::bounds(wishes)), Vec::new(), Instant::now());
        loop {
            let item = reader.item().map_err(|broken| format!("the source's snapshot, {broken}"))?;
            match item {
                Some(Item::End) => break,
                Some(item) => self.target.item(item)?,
                None => {
                    piece.clear();
                    if !self.link.some(&mut piece)? {
                        return Err(format!("{} is silent in the middle of its snapshot", self.source.address));
                    }
                    reader.feed(&piece);
                }
            }
            if told.elapsed() >= SAY_EVERY {
                told = Instant::now();
                say(&format!("{} keys, {}{whole}", self.target.done.keys, size(reader.position())));
            }
        }
        self.incoming = reader.rest();
        if let Some(mark) = mark {
            while self.incoming.len() < MARK_BYTES {
                if !self.link.some(&mut self.incoming)? {
                    return Err(format!("{} is silent at the end of its snapshot", self.source.address));
                }
            }
            if self.incoming[..MARK_BYTES] != *mark.as_bytes() {
                return Err("the source's snapshot does not end as it began".into());
            }
            self.incoming.drain(..MARK_BYTES);
        }
        self.target.finish()?;
        self.heard = Instant::now();
        self.ack()
    }

    /// Passes on what the source is told, until the cut-over.
    fn follow(&mut self, cut: CutOver, over: &AtomicBool, say: Say<'_>) -> Result<(), String> {
        let mut told = Instant::now();
        let (mut until, mut looked) = (None, Instant::now());
        self.link.set_patience(LOOK_EVERY);
        loop {
            let some = match self.step() {
                Ok(some) => some,
                Err(Wrong::Target(why)) => return Err(why),
                Err(Wrong::Source(why)) => {
                    say(&format!("{why}; looking for it again"));
                    self.come_back()?;
                    true
                }
            };
            if !some {
                // All that has come is passed on; now its answers.
                self.target.finish()?;
            }
            if told.elapsed() >= SAY_EVERY {
                told = Instant::now();
                say(&format!(
                    "{} commands since the snapshot, at byte {} of the source's stream",
                    self.target.done.commands, self.offset
                ));
            }
            match until {
                None if over.load(Ordering::Relaxed) || cut.at_once && (!some || self.is_near(&mut looked)?) => {
                    until = Some(self.last_offset(cut.pauses)?);
                    say("cutting over");
                }
                Some(last) if self.offset >= last => {
                    self.target.finish()?;
                    // The source may know that all of it has come.
                    return self.ack();
                }
                _ => {}
            }
        }
    }

    /// Whether little is missing, though writers go on: looked at each second.
    fn is_near(&self, looked: &mut Instant) -> Result<bool, String> {
        if looked.elapsed() < ACK_EVERY {
            return Ok(false);
        }
        *looked = Instant::now();
        Ok(self.last_offset(false)?.saturating_sub(self.offset) <= NEAR_BYTES)
    }

    /// Where the source's stream ends by now, with writers held back from here on if it `pauses`.
    fn last_offset(&self, pauses: bool) -> Result<u64, String> {
        let mut control = Link::open(self.source)?;
        if pauses {
            control
                .ask_ok(&["CLIENT", "PAUSE", PAUSE_MS, "WRITE"])
                .map_err(|why| format!("{why}. Stop its writers yourself, and cut over with --no-pause"))?;
        }
        let info = control.ask_ok(&["INFO", "replication"])?;
        let (Value::Bulk(text) | Value::Verbatim(text)) = info else {
            return Err("the source's INFO answers something else".into());
        };
        let text = String::from_utf8_lossy(&text).into_owned();
        let offset = text.lines().find_map(|line| line.strip_prefix("master_repl_offset:")?.trim().parse().ok());
        offset.ok_or_else(|| "the source's INFO says nothing of its master_repl_offset".into())
    }

    fn ack(&mut self) -> Result<(), String> {
        self.acked = Instant::now();
        let mut bytes = Vec::new();
        doors::resp::client::write_command(&["REPLCONF", "ACK", &self.offset.to_string()], &mut bytes);
        self.link.write(&bytes)
    }

    /// Takes what has come. False: nothing has.
    fn step(&mut self) -> Result<bool, Wrong> {
        if self.acked.elapsed() >= ACK_EVERY {
            self.ack().map_err(Wrong::Source)?;
        }
        let mut used = 0;
        let mut asked = false;
        loop {
            let rest = &self.incoming[used..];
            let Some((size, words)) = command(rest).map_err(|why| Wrong::Target(why.into()))? else { break };
            used += size;
            self.offset += size as u64;
            let Some(name) = words.first() else { continue };
            match name.to_ascii_uppercase().as_slice() {
                b"PING" => {}
                b"REPLCONF" => asked = true,
                _ => self.target.command(&words).map_err(Wrong::Target)?,
            }
        }
        self.incoming.drain(..used);
        self.target.flush().map_err(Wrong::Target)?;
        if asked {
            self.target.finish().map_err(Wrong::Target)?;
            self.ack().map_err(Wrong::Source)?;
        }
        if used > 0 {
            self.heard = Instant::now();
            return Ok(true);
        }
        if self.incoming.len() > Limits::DEFAULT.command_bytes_max + (1 << 20) {
            return Err(Wrong::Target("a command of the source's is longer than limits.command_bytes_max".into()));
        }
        if self.heard.elapsed() > SILENCE_MAX {
            return Err(Wrong::Source(format!("{} is silent", self.source.address)));
        }
        let some = self.link.some(&mut self.incoming).map_err(Wrong::Source)?;
        if some {
            self.heard = Instant::now();
        }
        Ok(some)
    }

    /// Finds a source that was lost, and goes on where the stream ended.
    fn come_back(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        self.incoming.clear();
        loop {
            let tried = Link::open(self.source).and_then(|mut link| {
                let next = (self.offset + 1).to_string();
                begin(&mut link, &self.id, &next).map(|sync| (link, sync))
            });
            match tried {
                Ok((link, Sync::Continue { id })) => {
                    self.id = id.unwrap_or_else(|| std::mem::take(&mut self.id));
                    self.link = link;
                    self.link.set_patience(LOOK_EVERY);
                    self.heard = Instant::now();
                    return Ok(());
                }
                Ok((_, Sync::Full { .. })) => {
                    return Err(format!(
                        "{} has forgotten what came after byte {} of its stream (its repl-backlog-size): begin again with --flush",
                        self.source.address, self.offset
                    ));
                }
                Err(why) if begun.elapsed() > RETURN_WAIT => {
                    return Err(format!(
                        "{why}. What came before byte {} is in; begin again with --flush",
                        self.offset
                    ));
                }
                // Nothing tells when a server comes back: it is asked once a second.
                Err(_) => std::thread::sleep(ACK_EVERY),
            }
        }
    }
}

enum Wrong {
    /// The source is lost: it may come back.
    Source(String),
    /// It cannot go on.
    Target(String),
}

/// Bytes, and the words in them.
pub(super) type Command<'a> = (usize, Vec<&'a [u8]>);

/// A command of the stream and how many bytes it takes; `None` where it is not whole. A bare line is no command.
pub(super) fn command(bytes: &[u8]) -> Result<Option<Command<'_>>, &'static str> {
    const ODD: &str = "the source's stream is no stream of commands";
    let line = |from: usize| -> Option<(&[u8], usize)> {
        let rest = bytes.get(from..)?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        Some((line, from + end + 1))
    };
    let number = |text: &[u8]| base::parse_i64(text).and_then(|number| usize::try_from(number).ok()).ok_or(ODD);
    let Some((head, mut at)) = line(0) else {
        return if bytes.len() > 64 { Err(ODD) } else { Ok(None) };
    };
    if head.is_empty() {
        return Ok(Some((at, Vec::new())));
    }
    let count = number(head.strip_prefix(b"*").ok_or(ODD)?)?;
    let mut words = Vec::with_capacity(count.min(bytes.len()));
    for _ in 0..count {
        let Some((head, begin)) = line(at) else {
            return if bytes.len() - at > 64 { Err(ODD) } else { Ok(None) };
        };
        let len = number(head.strip_prefix(b"$").ok_or(ODD)?)?;
        let Some(word) = begin.checked_add(len).and_then(|end| bytes.get(begin..end)) else { return Ok(None) };
        if bytes.get(begin + len..begin + len + 2).is_none_or(|end| end != b"\r\n") {
            return if bytes.len() < begin + len + 2 { Ok(None) } else { Err(ODD) };
        }
        words.push(word);
        at = begin + len + 2;
    }
    Ok(Some((at, words)))
}

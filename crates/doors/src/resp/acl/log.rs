//! ACL LOG: who was refused what at this node, the latest first. In memory, as in Redis.

use std::collections::VecDeque;

use base::{Millis, parse_i64};
use shard::command::is;
use shard::error::{CommandError, NOT_INTEGER};
use shard::reply::Reply;

/// Entries (Redis's `acllog-max-len`).
const ENTRIES_MAX: usize = 128;
/// What is the same within this time is counted, not noted again; looked for among so many of the latest.
const SAME_WITHIN: Millis = 60_000;
const SAME_AMONG: usize = 10;
/// Bytes of a name that are kept.
const OBJECT_BYTES_MAX: usize = 512;

/// Why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::resp) enum Reason {
    Command,
    Key,
    Channel,
    Auth,
}

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::resp) enum Context {
    TopLevel,
    Multi,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    count: u64,
    reason: Reason,
    context: Context,
    object: Vec<u8>,
    user: Vec<u8>,
    client: String,
    made: Millis,
    last: Millis,
}

/// See the module.
#[derive(Debug, Default)]
pub(in crate::resp) struct Log {
    entries: VecDeque<Entry>,
    next: u64,
}

impl Log {
    /// Somebody was refused something.
    pub(super) fn note(
        &mut self,
        reason: Reason,
        context: Context,
        object: &[u8],
        user: &[u8],
        client: String,
        now: Millis,
    ) {
        let object = &object[..object.len().min(OBJECT_BYTES_MAX)];
        let user = &user[..user.len().min(OBJECT_BYTES_MAX)];
        let same = self.entries.iter().take(SAME_AMONG).position(|known| {
            (known.reason, known.context) == (reason, context)
                && now.abs_diff(known.last) <= SAME_WITHIN
                && known.object == object
                && known.user == user
        });
        let client = client.trim_end().to_owned();
        let entry = match same.and_then(|at| self.entries.remove(at)) {
            Some(known) => Entry { count: known.count + 1, last: now, client, ..known },
            None => {
                self.next += 1;
                let (object, user, id) = (object.to_vec(), user.to_vec(), self.next - 1);
                Entry { id, count: 1, reason, context, object, user, client, made: now, last: now }
            }
        };
        self.entries.push_front(entry);
        self.entries.truncate(ENTRIES_MAX);
    }

    /// ACL LOG [count | RESET]
    pub(super) fn command(&mut self, word: Option<&[u8]>, now: Millis, out: &mut Reply) -> Result<(), CommandError> {
        if word.is_some_and(|word| is(word, "reset")) {
            self.entries.clear();
            out.ok();
            return Ok(());
        }
        let count = word.map_or(Some(10), parse_i64).ok_or(NOT_INTEGER)?.max(0) as usize;
        let shown = count.min(self.entries.len());
        out.array(shown);
        for entry in self.entries.iter().take(shown) {
            entry.write(now, out);
        }
        Ok(())
    }
}

impl Entry {
    fn write(&self, now: Millis, out: &mut Reply) {
        out.map(10);
        let reason = match self.reason {
            Reason::Command => "command",
            Reason::Key => "key",
            Reason::Channel => "channel",
            Reason::Auth => "auth",
        };
        let context = if self.context == Context::Multi { "multi" } else { "toplevel" };
        out.bulk(b"count");
        out.int(self.count as i64);
        for (name, value) in [
            ("reason", reason.as_bytes()),
            ("context", context.as_bytes()),
            ("object", &self.object),
            ("username", &self.user),
        ] {
            out.bulk(name.as_bytes());
            out.bulk(value);
        }
        out.bulk(b"age-seconds");
        out.double(now.saturating_sub(self.last) as f64 / 1000.0);
        out.bulk(b"client-info");
        out.bulk(self.client.as_bytes());
        for (name, value) in
            [("entry-id", self.id), ("timestamp-created", self.made), ("timestamp-last-updated", self.last)]
        {
            out.bulk(name.as_bytes());
            out.int(value as i64);
        }
    }
}

#[cfg(test)]
mod tests {
    use shard::reply::Protocol;

    use super::*;

    #[test]
    fn what_is_the_same_is_counted_and_there_is_a_bound() {
        let mut log = Log::default();
        for (object, now) in [("get", 0), ("set", 1_000), ("get", 2_000), ("get", 200_000)] {
            log.note(Reason::Command, Context::TopLevel, object.as_bytes(), b"bob", "id=1\n".into(), now);
        }
        let shown: Vec<(u64, u64, &[u8])> =
            log.entries.iter().map(|entry| (entry.id, entry.count, &entry.object[..])).collect();
        assert_eq!(shown, [(2, 1, &b"get"[..]), (0, 2, b"get"), (1, 1, b"set")]);
        for object in 0..1_000 {
            log.note(Reason::Key, Context::Multi, object.to_string().as_bytes(), b"bob", String::new(), 0);
        }
        assert_eq!(log.entries.len(), ENTRIES_MAX);
        let mut out = Reply::new(Protocol::Resp2);
        log.command(Some(b"1"), 5, &mut out).expect("a number");
        let text = String::from_utf8_lossy(&out.bytes).replace("\r\n", " ");
        assert!(text.starts_with("*1 *20 $5 count :1 $6 reason $3 key $7 context $5 multi $6 object $3 999"), "{text}");
        assert!(log.command(Some(b"x"), 0, &mut out).is_err());
        log.command(Some(b"Reset"), 0, &mut out).expect("a word");
        assert!(log.entries.is_empty());
    }
}

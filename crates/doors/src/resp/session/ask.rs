//! Where a client's requests go: into the queue of a shard that this node leads, or to the node that does.

use shard::command::Args;
use shard::entry::{self, MultiBuilder, Watch};
use shard::error::CommandError;
use shard::pending::{Batch, Place};

use super::Session;
use crate::resp::door::Client;

/// An answer up to this many bytes takes its place behind others however much waits.
const SMALL_ANSWER: usize = 1024;

/// One unit that a shard is asked for.
pub(in crate::resp) enum Ask<'a> {
    /// A command.
    Command { place: Place, frees: bool, words: Args<'a> },
    /// MULTI … EXEC.
    Multi { place: Place, frees: bool, multi: &'a MultiBuilder, watches: &'a [Watch] },
    /// An answer that is known already, in its place among others.
    Literal(&'a [u8]),
    /// Work on a topic, by its form.
    Stream { place: Place, frees: bool, form: &'a [u8] },
    /// The versions of keys, for WATCH.
    Versions(&'a [&'a [u8]]),
}

impl Session {
    /// Whether another node leads the shard.
    pub(in crate::resp) fn is_there(&self, at: usize) -> bool {
        let shard = &self.door.shards[at];
        !shard.reads_here() && self.door.is_led_elsewhere(at)
    }

    /// The next request goes to this shard. False where others are under way elsewhere, whose answers must come first.
    /// `taken` where the shard would take it in, were it led here: else it waits like one that nobody leads.
    pub(in crate::resp) fn turn_to(&mut self, at: usize, taken: bool) -> bool {
        let there = !taken || self.is_there(at);
        if self.is_pending() {
            return (self.towards, self.there) == (at, there);
        }
        (self.towards, self.there) = (at, there);
        true
    }

    /// Sends one request on its way; [`Session::turn_to`] has said that it may. An error where too much is under way already.
    pub(in crate::resp) fn ask(&mut self, at: usize, ask: Ask<'_>) -> Result<(), CommandError> {
        // What is small is never put off: its command may have had its effect already, which must not come twice.
        let must = matches!(&ask, Ask::Literal(bytes) if bytes.len() <= SMALL_ANSWER);
        self.ask_for(at, ask, must)
    }

    /// The same; with `must` however much is under way.
    pub(in crate::resp) fn ask_for(&mut self, at: usize, ask: Ask<'_>, must: bool) -> Result<(), CommandError> {
        if self.there {
            return self.ask_there(at, &ask, must);
        }
        let (db, protocol, client) = (self.db, self.protocol, self.client.clone());
        let add = |batch: &mut Batch<Client>| match ask {
            Ask::Command { place, frees, words } => batch.command(place, frees, client, db, protocol, words),
            Ask::Multi { place, frees, multi, watches } => batch.multi(place, frees, client, protocol, multi, watches),
            Ask::Stream { place, frees, form } => batch.stream(place, frees, client, protocol, form),
            Ask::Literal(bytes) => batch.literal(client, bytes),
            Ask::Versions(keys) => batch.versions(client, db, keys.iter().copied()),
        };
        let shard = &self.door.shards[at];
        let wake = if must { shard.put(add) } else { shard.submit(add)? };
        self.wake |= wake;
        self.sent += 1;
        Ok(())
    }

    fn ask_there(&mut self, at: usize, ask: &Ask<'_>, must: bool) -> Result<(), CommandError> {
        let mut unit = Vec::new();
        match ask {
            Ask::Command { words, .. } => entry::put_command(&mut unit, self.db, self.protocol, words),
            Ask::Multi { multi, watches, .. } => multi.finish(&mut unit, self.protocol, watches),
            Ask::Stream { form, .. } => entry::put_stream(&mut unit, self.protocol, form),
            Ask::Literal(bytes) => entry::put_literal(&mut unit, bytes),
            Ask::Versions(keys) => entry::put_versions(&mut unit, self.db, keys.iter().copied()),
        }
        let group = self.door.shards[at].group;
        self.door.forward_unit(&self.client, group, unit, must, self.now)?;
        (self.travelled, self.departs) = (true, true);
        self.sent += 1;
        Ok(())
    }
}

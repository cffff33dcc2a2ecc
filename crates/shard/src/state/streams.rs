//! Topics as streams within the state machine: groups of the Redis door by partition, and their commands.
//!
//! A partition that has such groups has a [`Stream`] here whose entries are elsewhere. For a command it is laid into tables of
//! its own, under the name that the client used, and taken out again: so every command of streams does here what it does on any.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ::queue::{Code, Outcome, PartitionId};
use base::Millis;
use store::table::{Expiry, Tables};
use store::value::{Elsewhere, Stream, StreamId, Value};

use super::State;
use crate::command::{self, Args, Reading, Run, Served, Writing};
use crate::entry::{Multi, Part};
use crate::error::CommandError;
use crate::pending::Place;
use crate::reply::Reply;
use crate::streams::{Named, Rules, StreamOp, What, is_acknowledge};
pub use turns::HELD_MAX;
use turns::Wish;
pub(super) use turns::{AllTurns, Turns};

/// Entries that the consumers of one group may have and not have acknowledged; beyond it the group is given no more.
pub const DELIVERIES_MAX: usize = 1 << 20;
/// Groups of one partition.
pub const GROUPS_MAX: usize = 1024;

/// Commands that topics know.
const KNOWN: &[&str] = &[
    "xack",
    "xautoclaim",
    "xclaim",
    "xgroup",
    "xinfo",
    "xlen",
    "xpending",
    "xrange",
    "xread",
    "xreadgroup",
    "xrevrange",
];

impl State {
    /// Whether work on a topic is to be done in this shard.
    pub(super) fn is_home_of(&self, op: &StreamOp<'_>) -> bool {
        op.home == self.queue.home()
    }

    /// Whether all parts of a MULTI that work on topics are.
    pub(super) fn is_home_of_all(&self, multi: &Multi<'_>) -> bool {
        let mut parts = multi.clone();
        !multi.has_streams
            || (0..multi.count).all(|_| match parts.next_part() {
                Ok(Part::Stream(op, _)) => self.is_home_of(&op),
                _ => true,
            })
    }

    /// Why a MULTI must not be done at all: a record or an offset in it would be refused, and its other parts may not stand alone.
    pub(super) fn streams_refusal(&self, multi: &Multi<'_>) -> Option<CommandError> {
        let mut parts = multi.clone();
        if !multi.has_streams {
            return None;
        }
        (0..multi.count).find_map(|_| match parts.next_part() {
            Ok(Part::Stream(op, _)) => self.stream_refusal(&op),
            _ => None,
        })
    }

    fn stream_refusal(&self, op: &StreamOp<'_>) -> Option<CommandError> {
        match &op.what {
            What::Queue(command, _) => self.queue.refusal(command).map(|(code, why)| refused(code, why)),
            What::Run { streams, words, .. } if is_acknowledge(words) => {
                self.acknowledge_refusal(streams.first()?, words)
            }
            What::Run { .. } => None,
            What::Bury { stream, words, produce, .. } => {
                let produced = self.queue.refusal(produce).map(|(code, why)| refused(code, why));
                self.acknowledge_refusal(stream, words).or(produced)
            }
        }
    }

    /// Why Q.XACK is refused.
    fn acknowledge_refusal(&self, named: &Named, words: Args<'_>) -> Option<CommandError> {
        let [_, _, group, consumer, ids @ ..] = words else { return None };
        let stream = self.streams.get(&(named.topic, named.partition));
        let group = stream.and_then(|stream| stream.group(group));
        let own = group.and_then(|group| Some((group, group.find_consumer(consumer)?)));
        let is_his = |id: &&[u8]| {
            let id = command::stream_id(id)?;
            let (group, consumer) = own?;
            group.pending(id).filter(|pending| pending.consumer == consumer).map(|_| ())
        };
        let all = ids.iter().all(|id| is_his(id).is_some());
        const WHY: CommandError = CommandError::new(
            "FENCED an entry is not pending for this consumer: it was acknowledged, or another one has claimed it",
        );
        (!all).then_some(WHY)
    }

    /// Does it. `end` is where its form ends in the entry's data.
    pub(super) fn stream_op(&mut self, op: &StreamOp<'_>, end: usize, place: Place, now: Millis, reply: &mut Reply) {
        if let Some(error) = self.stream_refusal(op) {
            return reply.error(&error.0);
        }
        if place != Place::Logged && !matches!(op.what, What::Run { .. }) {
            return reply.error("ERR a record or an offset has to be an entry of the log");
        }
        match &op.what {
            What::Bury { stream, words, produce: command, bytes } => {
                let begun = reply.bytes.len();
                self.stream_queue(command, *bytes, end, now, reply);
                if !reply.bytes[begun..].starts_with(b"-") {
                    reply.bytes.truncate(begun);
                    self.stream_words(std::slice::from_ref(stream), words, Rules::default(), now, reply);
                }
            }
            What::Queue(command, bytes) => self.stream_queue(command, *bytes, end, now, reply),
            What::Run { streams, words, rules } => self.stream_words(streams, words, *rules, now, reply),
        }
    }

    fn stream_queue(
        &mut self,
        command: &::queue::Command<'_>,
        bytes: usize,
        end: usize,
        now: Millis,
        reply: &mut Reply,
    ) {
        let at = ::queue::Place { index: self.applied, at: (end - bytes) as u32 };
        let own = &mut self.queue;
        match catch_unwind(AssertUnwindSafe(|| own.apply(command, bytes, at, now))) {
            Ok(Outcome::Produced { base, .. }) => {
                let mut id = Vec::new();
                Elsewhere::id(base).write(&mut id);
                reply.bulk(&id);
            }
            Ok(Outcome::Refused { code, why }) => reply.error(&refused(code, &why).0),
            Ok(_) => reply.ok(),
            Err(_) => {
                self.panics += 1;
                reply.error("ERR internal error: this command met a bug of quorate; please report it");
            }
        }
    }

    fn stream_words(&mut self, streams: &[Named], words: Args<'_>, rules: Rules, now: Millis, reply: &mut Reply) {
        let begun = reply.bytes.len();
        self.commands += 1;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.stream_run(streams, words, rules, now, reply)));
        let outcome = outcome.unwrap_or_else(|_| {
            self.panics += 1;
            self.stream_tables = None;
            Err(CommandError::new("ERR internal error: this command met a bug of quorate; please report it"))
        });
        reply.settle(begun, outcome);
    }

    fn stream_run(
        &mut self,
        streams: &[Named],
        words: Args<'_>,
        rules: Rules,
        now: Millis,
        reply: &mut Reply,
    ) -> command::Outcome {
        // What Q.XACK asks for beyond XACK has been looked at.
        let shorter: Vec<&[u8]>;
        let words = match words {
            [_, key, group, _, ids @ ..] if is_acknowledge(words) => {
                shorter = [&[b"xack".as_slice(), key, group], ids].concat();
                &shorter[..]
            }
            words => words,
        };
        let spec = command::find(words[0]).filter(|spec| KNOWN.contains(&spec.name));
        let spec = spec.ok_or(CommandError::new("ERR a topic does not know this command"))?;
        command::check(spec, words)?;
        let id = |named: &Named| -> PartitionId { (named.topic, named.partition) };
        let twice = |at: usize| streams[..at].iter().any(|named| id(named) == id(&streams[at]));
        if (1..streams.len()).any(twice) {
            return Err(CommandError::new("ERR the same partition twice in one command"));
        }
        if spec.name == "xreadgroup" {
            self.check_deliveries(streams, words)?;
            let query = command::group_query(words, now)?;
            let new = query.ids.iter().filter(|id| **id == b">").count();
            if new > 0 && (rules != Rules::default() || self.has_turns(streams, query.group.0)) {
                if new < query.ids.len() {
                    return Err(CommandError::new(
                        "ERR of topics with delays, priorities or a visibility timeout, new entries (>) and old ones are read by commands of their own",
                    ));
                }
                return self.give_in_turn(streams, &query, rules, now, reply);
            }
        }
        if spec.name == "xgroup" && words[1].eq_ignore_ascii_case(b"create") {
            let own = streams.first().and_then(|named| self.streams.get(&id(named)));
            if own.is_some_and(|own| own.groups().len() >= GROUPS_MAX) {
                return Err(CommandError::new("ERR the partition has as many groups as it may have"));
            }
        }
        let mut tables = self.stream_tables.take().unwrap_or_else(|| Box::new(Tables::new(Arc::default())));
        for named in streams {
            let mut stream = self.streams.remove(&id(named)).unwrap_or_default();
            let own = self.queue.partition(named.topic, named.partition);
            let (start, end) = own.map_or((0, 0), |own| (own.start(), own.stable()));
            let owner = (named.topic.0, named.partition);
            stream.log.set_elsewhere(Elsewhere { owner, start: start.min(end), end });
            tables.set(0, words[named.word], Value::Stream(stream), Expiry::Clear, now);
        }
        if spec.name == "xgroup" && words[1].eq_ignore_ascii_case(b"destroy") {
            // A group that is made anew under the name meets everything anew.
            streams.iter().for_each(|named| {
                self.turns.remove(&(id(named), words[3].into()));
            });
        }
        let outcome = match spec.run {
            Run::Read(run) => {
                let (tables, other, rng, slots) = (&*tables, &self.memory.tables, &mut self.logged.rng, &self.slots);
                let (repeatable, may_block, block) = (false, false, None);
                run(&mut Reading { db: 0, now, tables, other, rng, slots, repeatable, may_block, block }, words, reply)
            }
            Run::Write(run) => {
                let mut writing = Writing {
                    db: 0,
                    now,
                    tables: &mut tables,
                    other: &mut self.memory.tables,
                    rng: &mut self.logged.rng,
                    may_block: false,
                    served: Served::First,
                    block: None,
                    scripts: &mut self.logged.scripts,
                    libraries: &mut self.libraries,
                    limits: &self.limits,
                    published: &mut self.published,
                    events: &mut self.events,
                    slots: &self.slots,
                    commits: &self.commits,
                    user: None,
                };
                run(&mut writing, words, reply)
            }
        };
        for named in streams {
            if let Some((Value::Stream(mut stream), _)) = tables.take(0, words[named.word], now)
                && stream.groups().len() > 0
            {
                stream.log.clear_elsewhere();
                self.streams.insert(id(named), stream);
            }
        }
        self.stream_tables = Some(tables);
        outcome
    }

    /// Whether a group of these partitions cannot be given what is new by its last id alone.
    fn has_turns(&self, streams: &[Named], group: &[u8]) -> bool {
        streams.iter().any(|named| {
            let id = (named.topic, named.partition);
            self.queue.partition(id.0, id.1).is_some_and(|own| own.has_marked())
                || !self.turns.is_empty() && self.turns.contains_key(&(id, group.into()))
        })
    }

    /// XREADGROUP of what is new, of a topic whose entries come out of turn.
    fn give_in_turn(
        &mut self,
        streams: &[Named],
        query: &command::GroupQuery<'_>,
        rules: Rules,
        now: Millis,
        reply: &mut Reply,
    ) -> command::Outcome {
        let (name, consumer) = query.group;
        for (named, key) in streams.iter().zip(query.keys) {
            let own = self.streams.get(&(named.topic, named.partition));
            if own.is_none_or(|own| own.group(name).is_none()) {
                return Err(command::no_group(key, name));
            }
        }
        let (mut body, mut served) = (reply.aside(), 0);
        for (named, key) in streams.iter().zip(query.keys) {
            let id = (named.topic, named.partition);
            let mut turns = self.turns.remove(&(id, name.into())).unwrap_or_default();
            let own = self.queue.partition(id.0, id.1);
            let wish = Wish { consumer, count: query.count, no_ack: query.no_ack, rules, id, now };
            let mut entries = reply.aside();
            let begun = entries.begin_array();
            let stream = self.streams.get_mut(&id).expect("it was just seen");
            let given = stream.edit_group(name, |_, group| wish.give(own, group, &mut turns, &mut entries));
            let given = given.unwrap_or(0);
            if !turns.is_empty() {
                self.turns.insert((id, name.into()), turns);
            }
            if given > 0 {
                entries.end_array(begun, given);
                command::begin_stream(&mut body, key);
                body.append(&entries);
                served += 1;
            }
        }
        match served {
            0 => reply.null_array(),
            _ => command::reply_streams(reply, served, &body),
        }
        Ok(())
    }

    /// When a group's reader may be given something that it cannot be given now, as far as that is known here.
    pub fn next_turn(&self, id: PartitionId, group: &[u8], rules: Rules) -> Option<Millis> {
        let again = self.streams.get(&id).and_then(|own| own.group(group)).and_then(|own| own.oldest_delivery());
        let again = again.filter(|_| rules.visibility_ms > 0).map(|at| at.saturating_add(rules.visibility_ms));
        let later = self.turns.get(&(id, group.into())).and_then(Turns::next_due);
        again.into_iter().chain(later).min()
    }

    fn check_deliveries(&self, streams: &[Named], words: Args<'_>) -> command::Outcome {
        let at = words.iter().position(|word| word.eq_ignore_ascii_case(b"group"));
        let Some(group) = at.and_then(|at| words.get(at + 1)) else { return Ok(()) };
        let full = |named: &Named| {
            let own = self.streams.get(&(named.topic, named.partition)).and_then(|own| own.group(group));
            own.is_some_and(|own| own.pending_count() >= DELIVERIES_MAX)
        };
        match streams.iter().any(full) {
            true => Err(CommandError::new(
                "ERR the group's consumers have 1048576 entries that they have not acknowledged; it is given no more",
            )),
            false => Ok(()),
        }
    }

    /// A topic has gone.
    pub(super) fn drop_streams(&mut self, topic: ::queue::TopicId) {
        self.streams.retain(|(own, _), _| *own != topic);
        self.turns.retain(|((own, _), _), _| *own != topic);
    }

    /// Whether partitions have groups of the Redis door.
    pub fn has_streams(&self) -> bool {
        !self.streams.is_empty()
    }

    /// Topics that have gone and of which there are groups but no partitions (those the queue finds): for the leader to drop. `applied`
    /// is the index up to which this node has applied the meta group.
    pub fn orphaned_streams(&self, topics: &::queue::Topics, applied: u64) -> Vec<::queue::TopicId> {
        let mut gone: Vec<::queue::TopicId> = Vec::new();
        for id in self.streams.keys().filter(|id| self.queue.partition(id.0, id.1).is_none()) {
            if gone.last() != Some(&id.0) && topics.is_gone(id.0, applied) {
                gone.push(id.0);
            }
        }
        gone
    }

    /// The groups of the Redis door of one partition.
    pub fn stream_of(&self, id: PartitionId) -> Option<&Stream> {
        self.streams.get(&id).map(|own| &**own)
    }
}

fn refused(code: Code, why: &str) -> CommandError {
    let word = match code {
        Code::ILLEGAL_GENERATION | Code::UNKNOWN_MEMBER_ID | Code::FENCED_INSTANCE_ID => "FENCED",
        _ => "ERR",
    };
    format!("{word} {why} ({})", code.name()).into()
}

/// The id of a record, for whoever knows its offset.
pub fn stream_id_of(offset: u64) -> StreamId {
    Elsewhere::id(offset)
}

#[cfg(test)]
mod tests;
mod turns;

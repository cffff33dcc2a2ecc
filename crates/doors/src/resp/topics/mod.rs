//! Topics as Redis streams: `topic:NAME:PARTITION`, or `topic:NAME` where a topic has one partition, and for XADD always.
//!
//! ```text
//!   XADD, XACK, XGROUP …   ─► a unit of the partition's shard (`shard::streams`), alone or as a part of a MULTI
//!   XREAD, XRANGE …        ─► the same, by an `errand` beside the session: the shard answers ids and which records stand there,
//!                             the records are read from the disk, the answer is put together (`fill`) and put into the mailbox
//! ```
//!
//! Only declared topics are streams, in database 0; any other key named `topic:…` is an ordinary one. The id of a record is
//! `OFFSET-1`: no record has `0-0`, behind which readers begin, and a bare offset means "from here on", as Kafka's does.

mod burial;
mod errand;
mod fill;
mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::Limit;
use queue::command::Committer;
use queue::group::OffsetOf;
use queue::records::{Record, batch_of, partition_of};
use queue::{Command, Topic, Topics};
use shard::command::{Spec, is};
use shard::error::{CommandError, SYNTAX};
use shard::pending::Place;
use shard::reply::Reply;
use shard::streams::{self, Named};

use super::door::Door;
use super::session::ask::Ask;
use super::session::{CROSS_SLOT, Session, Step};
use errand::Errand;

/// What names of topics begin with.
const PREFIX: &[u8] = b"topic:";
/// Entries that XREAD and XREADGROUP give where COUNT does not say.
const READ_COUNT: &[u8] = b"1000";
/// Entries that XRANGE and XREVRANGE give where COUNT does not say; if there are more, they ask for it.
const RANGE_MAX: usize = 100_000;

/// What the door keeps for topics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Records without a key, which go to all partitions in turn.
    pub(super) turn: AtomicU64,
    /// Numbers of questions to other nodes.
    pub(super) asked: AtomicU64,
}

struct Found {
    topic: Arc<Topic>,
    partition: Option<u32>,
}

fn error(text: String) -> CommandError {
    CommandError::from(text)
}

/// The topic that a key names, if there is one.
fn find(topics: &Topics, key: &[u8]) -> Option<Result<Found, CommandError>> {
    let name = std::str::from_utf8(key.strip_prefix(PREFIX)?).ok()?;
    if let Some(topic) = topics.get(name) {
        return Some(Ok(Found { topic: topic.clone(), partition: None }));
    }
    let (name, partition) = name.rsplit_once(':')?;
    let topic = topics.get(name)?;
    let partition = partition.parse::<u32>().ok().filter(|own| *own < topic.partitions);
    Some(match partition {
        Some(_) => Ok(Found { topic: topic.clone(), partition }),
        None => Err(error(format!("ERR the topic '{name}' has {} partitions: {}", topic.partitions, names(topic)))),
    })
}

fn names(topic: &Topic) -> String {
    match topic.partitions {
        1 => format!("topic:{0} or topic:{0}:0", topic.name),
        count => format!("topic:{0}:0 to topic:{0}:{1}", topic.name, count - 1),
    }
}

impl Found {
    /// The one partition that is meant.
    fn one(&self) -> Result<u32, CommandError> {
        self.partition.or((self.topic.partitions == 1).then_some(0)).ok_or_else(|| {
            error(format!(
                "ERR the topic '{}' has {} partitions, each a stream of its own: name one, {}",
                self.topic.name,
                self.topic.partitions,
                names(&self.topic)
            ))
        })
    }
}

/// Whether its answer holds records.
fn needs_records(spec: &Spec, args: &[&[u8]]) -> bool {
    match spec.name {
        "xread" | "xreadgroup" | "xrange" | "xrevrange" => true,
        // Only behind what is wanted may the word stand: a consumer may be called so.
        "xclaim" => !args[5..].iter().any(|word| is(word, "JUSTID")),
        "xautoclaim" => !args[6..].iter().any(|word| is(word, "JUSTID")),
        "xinfo" => args.get(1).is_some_and(|word| is(word, "STREAM")),
        _ => false,
    }
}

/// The record of XADD's fields: the first `K` is its key, the first `V` its value, all others are its headers.
fn record_of<'a>(fields: &[&'a [u8]], stamp: i64) -> Record<'a> {
    let mut record = Record { stamp, ..Record::default() };
    for pair in fields.chunks_exact(2) {
        match pair[0] {
            b"K" if record.key.is_none() => record.key = Some(pair[1]),
            b"V" if record.value.is_none() => record.value = Some(pair[1]),
            name => record.headers.push((name, Some(pair[1]))),
        }
    }
    record
}

impl Door {
    /// The topics, as far as this node has heard.
    fn topics(&self) -> Option<Arc<Topics>> {
        let topics = self.forward.meta.get()?.state().topics().clone();
        (!topics.is_empty()).then_some(topics)
    }

    /// What the settings of a topic ask of readers for a group.
    fn rules_of(&self, topic: queue::TopicId) -> Option<streams::Rules> {
        let topics = self.topics()?;
        let settings = &topics.by_id(topic)?.settings;
        let visibility_ms = settings.visibility_ms().unwrap_or(0);
        // Without a visibility timeout nothing comes again, and so nothing dies.
        let deliveries_max = settings.deliveries_max().filter(|_| visibility_ms > 0).unwrap_or(0);
        Some(streams::Rules { visibility_ms, deliveries_max })
    }

    fn home_of_partition(&self, topic: &Topic, partition: u32) -> usize {
        self.home_of(format!("topic:{}:{partition}", topic.place()).as_bytes())
    }

    /// The topic that a key names, and which of its partitions.
    pub fn topic_of(&self, key: &[u8]) -> Option<(Arc<Topic>, Option<u32>)> {
        find(&*self.topics()?, key)?.ok().map(|found| (found.topic, found.partition))
    }

    /// The name of the topic of this id, in hexadecimal.
    pub fn topic_name(&self, id: &str) -> Option<String> {
        let id = u128::from_str_radix(id, 16).ok()?;
        self.topics()?.by_id(queue::TopicId(id)).map(|topic| topic.name.to_string())
    }

    /// Whether a key names a topic.
    pub(super) fn is_topic(&self, key: &[u8]) -> bool {
        key.starts_with(PREFIX) && self.topics().is_some_and(|topics| find(&topics, key).is_some())
    }
}

impl Session {
    /// Runs a command one of whose keys is a topic; `None` where none is.
    #[inline]
    pub(super) fn on_topic(&mut self, spec: &'static Spec, args: &[&[u8]], out: &mut Reply) -> Option<Step> {
        if self.db != 0 || !args[1..].iter().any(|word| word.starts_with(PREFIX)) {
            return None;
        }
        let topics = self.door.topics()?;
        let mut found: Vec<(usize, Found)> = Vec::new();
        let places = spec.key_places(args);
        for place in &places {
            match find(&topics, args[*place]) {
                None => {}
                Some(Ok(own)) => found.push((*place, own)),
                Some(Err(wrong)) => return Some(self.refuse(wrong, out)),
            }
        }
        if found.is_empty() {
            return None;
        }
        Some(match self.do_on_topic(spec, args, &found, places.len(), out) {
            Ok(step) => step,
            Err(wrong) => self.refuse(wrong, out),
        })
    }

    fn do_on_topic(
        &mut self,
        spec: &'static Spec,
        args: &[&[u8]],
        found: &[(usize, Found)],
        keys: usize,
        out: &mut Reply,
    ) -> Result<Step, CommandError> {
        let name = &found[0].1.topic.name;
        let no = |why: &str| Err(error(format!("ERR '{name}' is a topic: {why}")));
        match spec.name {
            "xadd" => self.add_record(args, &found[0].1, out),
            "xdel" => no("its records are deleted by retention or Kafka's DeleteRecords, not one by one (XDEL)"),
            "xtrim" => no("retention.ms and retention.bytes say what it keeps, not XTRIM"),
            "xsetid" => no("its ids are offsets, which only records move on (XSETID)"),
            "eval" | "evalsha" | "fcall" | "eval_ro" | "evalsha_ro" | "fcall_ro" => {
                no("a script cannot work on it; put XADD or XACK beside the script's commands in a MULTI")
            }
            _ if keys != found.len() => no("it cannot stand in one command with keys that are none"),
            "type" => Ok(self.say(out, |reply| reply.simple("stream"))),
            "exists" | "touch" => Ok(self.say(out, |reply| reply.int(keys as i64))),
            "ttl" | "pttl" | "expiretime" | "pexpiretime" => Ok(self.say(out, |reply| reply.int(-1))),
            _ if spec.group == "stream" => self.run_on_topic(spec, args, found, out),
            _ if spec.is_write() => no("no command but those of streams changes it; Kafka's DeleteTopics removes it"),
            _ => Err(CommandError::new("WRONGTYPE Operation against a key holding the wrong kind of value")),
        }
    }

    /// An answer that the door knows, in its place, within MULTI too.
    fn say(&mut self, out: &mut Reply, write: impl FnOnce(&mut Reply)) -> Step {
        if self.transaction.is_none() {
            return self.answer(out, write);
        }
        let mut literal = Reply::new(self.protocol);
        write(&mut literal);
        self.enqueue_literal(&literal, out)
    }

    fn add_record(&mut self, args: &[&[u8]], found: &Found, out: &mut Reply) -> Result<Step, CommandError> {
        let at = if args.get(2).is_some_and(|word| is(word, "NOMKSTREAM")) { 3 } else { 2 };
        let id = args.get(at).copied().unwrap_or_default();
        if is(id, "MAXLEN") || is(id, "MINID") {
            return Err(CommandError::new(
                "ERR a topic is not trimmed by XADD: retention.ms and retention.bytes say what it keeps",
            ));
        }
        if id != b"*" {
            return Err(CommandError::new("ERR the ids of a topic are its offsets, which the log gives out: use *"));
        }
        let fields = &args[at + 1..];
        if fields.len() < 2 || !fields.len().is_multiple_of(2) {
            return Err(CommandError::arity("xadd"));
        }
        let wall_ms = self.door.world.wall_micros() / 1000;
        let record = record_of(fields, wall_ms as i64);
        let topic = &*found.topic;
        let partition = found.partition.unwrap_or_else(|| self.choose_partition(topic, record.key));
        let batches = batch_of(&record);
        queue::batch::check(&batches, &topic.settings.rules(wall_ms))
            .map_err(|refused| error(format!("ERR {} ({})", refused.why, refused.code.name())))?;
        if topic.settings.compacts() && record.key.is_none() {
            return Err(CommandError::new("ERR a topic that is compacted wants a key in each record: the field K"));
        }
        let (place, append_time) = (topic.place(), topic.settings.append_time());
        let marks =
            queue::marks::read(&batches, &topic.settings, wall_ms).map_err(|why| error(format!("ERR {why}")))?;
        let command = Command::Produce {
            topic: topic.id,
            place: &place,
            partition,
            append_time,
            transaction: None,
            marks,
            batches: &batches,
        };
        let home = self.door.home_of_partition(topic, partition);
        let mut form = Vec::with_capacity(batches.len() + 64);
        streams::put_queue(&mut form, self.door.shards[home].group, &command);
        Ok(self.put_stream(home, true, false, &form, out))
    }

    /// The partition of a record, as Kafka's producers choose it: by its key; without one each in turn, in a MULTI of those that
    /// live where its other keys do, if there are any.
    fn choose_partition(&self, topic: &Topic, key: Option<&[u8]>) -> u32 {
        let count = topic.partitions;
        if let Some(key) = key {
            return partition_of(key, count);
        }
        let turn = self.door.topic_counts.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = |nth: u32| ((turn + u64::from(nth)) % u64::from(count)) as u32;
        let there = self.transaction_shard();
        let near = |own: &u32| there.is_none_or(|at| self.door.home_of_partition(topic, *own) == at);
        (0..count).map(in_turn).find(near).unwrap_or_else(|| in_turn(0))
    }

    fn run_on_topic(
        &mut self,
        spec: &'static Spec,
        args: &[&[u8]],
        found: &[(usize, Found)],
        out: &mut Reply,
    ) -> Result<Step, CommandError> {
        let mut named = Vec::with_capacity(found.len());
        let mut home = None;
        for (word, own) in found {
            let partition = own.one()?;
            let at = self.door.home_of_partition(&own.topic, partition);
            if *home.get_or_insert(at) != at {
                return Err(CROSS_SLOT);
            }
            named.push(Named { word: *word, topic: own.topic.id, partition });
        }
        let at = home.expect("a topic was found");
        let group = self.door.shards[at].group;
        if !needs_records(spec, args) {
            let mut form = Vec::new();
            streams::put_run(&mut form, group, &named, args);
            let frees = spec.name == "xack";
            return Ok(self.put_stream(at, spec.is_write(), frees, &form, out));
        }
        if self.transaction.is_some() {
            return Err(CommandError::new(
                "ERR records of a topic cannot be read inside MULTI: they lie on the disk; read them before (WATCH or their ids tell whether they are still yours)",
            ));
        }
        if self.is_pending() {
            return Ok(Step::Barrier);
        }
        if spec.name == "xreadgroup"
            && found.windows(2).any(|two| {
                let rules = |found: &Found| self.door.rules_of(found.topic.id);
                rules(&two[0].1) != rules(&two[1].1)
            })
        {
            return Err(CommandError::new(
                "ERR topics with another quorate.visibility.ms or quorate.deliveries.max are read by commands of their own",
            ));
        }
        let errand = Errand::new(self, spec, at, named, args)?;
        // Its answer comes into the mailbox like any other, and nothing overtakes it.
        self.sent += 1;
        self.blocked = true;
        self.door.clone().world.spawn(Box::pin(errand.run()));
        Ok(Step::Next)
    }

    /// Asks a shard for work on a topic, or makes it a part of the MULTI.
    fn put_stream(&mut self, at: usize, is_write: bool, frees: bool, form: &[u8], out: &mut Reply) -> Step {
        if self.transaction.is_some() {
            return self.enqueue_stream(at, is_write, frees, form, out);
        }
        if !self.turn_to(at, true) {
            return Step::Barrier;
        }
        if is_write
            && !self.there
            && let Some(refusal) = self.door.shards[at].refusal(frees)
        {
            return self.refuse(refusal, out);
        }
        let place = if is_write { Place::Logged } else { Place::Local };
        match self.ask(at, Ask::Stream { place, frees, form }) {
            Ok(()) => Step::Next,
            Err(_) if self.is_pending() => Step::Barrier,
            Err(refusal) => {
                self.door.limits.hit(Limit::pending_bytes_max);
                self.refuse(refusal, out)
            }
        }
    }

    /// Q.COMMITOFFSET and Q.XACK.
    pub(super) fn topic_command(&mut self, name: &str, args: &[&[u8]], out: &mut Reply) -> Step {
        let done = if name == "q.xack" { self.acknowledge_own(args, out) } else { self.commit_offset(args, out) };
        done.unwrap_or_else(|wrong| self.refuse(wrong, out))
    }

    /// `Q.XACK key group consumer id [id …]`
    fn acknowledge_own(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<Step, CommandError> {
        const NO_TOPIC: CommandError = CommandError::new("ERR Q.XACK works on topics only");
        let topics = self.door.topics().filter(|_| self.db == 0).ok_or(NO_TOPIC)?;
        let found = find(&topics, args[1]).ok_or(NO_TOPIC)??;
        if args[4..].iter().any(|id| shard::command::stream_id(id).is_none()) {
            return Err(CommandError::new("ERR Invalid stream ID specified as stream command argument"));
        }
        let partition = found.one()?;
        let at = self.door.home_of_partition(&found.topic, partition);
        let mut form = Vec::new();
        let named = [Named { word: 1, topic: found.topic.id, partition }];
        streams::put_run(&mut form, self.door.shards[at].group, &named, args);
        Ok(self.put_stream(at, true, true, &form, out))
    }

    /// `Q.COMMITOFFSET group topic partition offset [generation member [instance]]`
    fn commit_offset(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<Step, CommandError> {
        let text = |word: &'_ [u8]| std::str::from_utf8(word).map(str::to_owned).map_err(|_| SYNTAX);
        let number = |word: &[u8]| base::parse_i64(word).ok_or(shard::error::NOT_INTEGER);
        let (group, name) = (text(args[1])?, text(args[2])?);
        let name = name.strip_prefix("topic:").unwrap_or(&name);
        let (partition, offset) = (number(args[3])?, number(args[4])?);
        let topics = self.door.topics();
        let topic = topics.as_ref().and_then(|topics| topics.get(name));
        let topic = topic.ok_or_else(|| error(format!("ERR there is no topic '{name}'")))?;
        let partition = u32::try_from(partition).ok().filter(|own| *own < topic.partitions);
        let partition =
            partition.ok_or_else(|| error(format!("ERR the topic '{name}' has {} partitions", topic.partitions)))?;
        if offset < 0 {
            return Err(CommandError::new("ERR an offset is 0 or more: that of the next record to be read"));
        }
        let (generation, member, instance) = match &args[5..] {
            [] => (-1, String::new(), None),
            [generation, member] => (number(generation)?, text(member)?, None),
            [generation, member, instance] => (number(generation)?, text(member)?, Some(text(instance)?)),
            _ => return Err(SYNTAX),
        };
        let generation = i32::try_from(generation).map_err(|_| shard::error::NOT_INTEGER)?;
        let by = Committer { generation, member: &member, instance: instance.as_deref() };
        let own = OffsetOf { topic: name, id: topic.id, partition, offset, epoch: -1, metadata: "" };
        let home = self.door.home_of(group.as_bytes());
        let mut form = Vec::new();
        let command = Command::Commit { group: &group, by, offsets: vec![own] };
        streams::put_queue(&mut form, self.door.shards[home].group, &command);
        Ok(self.put_stream(home, true, false, &form, out))
    }
}

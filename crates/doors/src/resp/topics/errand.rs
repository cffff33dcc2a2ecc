//! Reading a topic for one client: asks the shard which records, reads them, waits for more where it may. A task of its own, since
//! it waits for the disk; it holds nothing of the session but the mailbox into which its answer goes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use base::{Duration, Instant};
use queue::PartitionId;
use queue::partition::Isolation;
use queue::records;
use shard::board::Grown;
use shard::command::{Spec, is};
use shard::error::{CommandError, SYNTAX};
use shard::live::Shard;
use shard::pending::Place;
use shard::reply::{Protocol, Reply};
use shard::streams::{self, Named, Rules};
use store::disk::ReadError;

use super::burial::{self, Burials};
use super::fill::{Fill, Records, Wanted, fields, wanted};
use super::{RANGE_MAX, READ_COUNT};
use crate::resp::door::{Client, Door};
use crate::resp::forward::FORWARD_WAIT;
use crate::resp::peer::{GUESTS, Peer};
use crate::resp::session::Session;

/// Numbers of what is forwarded for errands, among those of other clients.
pub(super) const NUMBERS: u64 = GUESTS >> 1 | GUESTS >> 3;
/// Bytes that are read at once.
const READ_BYTES: u64 = 256 << 10;
/// How often a waiting errand looks whether its client is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often records are planned anew that the log has let go of meanwhile.
const READ_TRIES: usize = 5;
/// Shortest time until a waiting errand asks again for what should be due: this node may know it before the leader does.
const LOOK_MIN_MS: u64 = 5;

/// The outcome is unknown: the connection must end.
struct Lost;

/// Reading for one client.
pub(super) struct Errand {
    door: Arc<Door>,
    client: Client,
    protocol: Protocol,
    at: usize,
    name: &'static str,
    is_write: bool,
    words: Vec<Vec<u8>>,
    named: Vec<Named>,
    /// When to give up waiting: never with `Some(None)`.
    patience: Option<Option<Duration>>,
    /// The group, where it reads for one.
    group: Option<Vec<u8>>,
    /// XRANGE without COUNT.
    is_whole: bool,
}

impl Errand {
    /// What a client's command asks for.
    ///
    /// # Errors
    /// What the client is told.
    pub(super) fn new(
        session: &Session,
        spec: &Spec,
        at: usize,
        mut named: Vec<Named>,
        args: &[&[u8]],
    ) -> Result<Errand, CommandError> {
        let mut words: Vec<Vec<u8>> = args.iter().map(|word| word.to_vec()).collect();
        let streams = args.iter().position(|word| is(word, "STREAMS")).unwrap_or(args.len());
        let find = |name: &str| args[..streams].iter().position(|word| is(word, name));
        let reads = matches!(spec.name, "xread" | "xreadgroup");
        let mut patience = None;
        if reads && let Some(block) = find("BLOCK") {
            let span = args.get(block + 1).and_then(|span| base::parse_i64(span));
            let span = span.ok_or(CommandError::new("ERR timeout is not an integer or out of range"))?;
            let span = u64::try_from(span).map_err(|_| CommandError::new("ERR timeout is negative"))?;
            patience = Some((span > 0).then(|| Duration::from_millis(span)));
        }
        let group = match spec.name {
            "xclaim" | "xautoclaim" => args.get(2),
            "xreadgroup" => find("GROUP").and_then(|at| args.get(at + 1)),
            _ => None,
        };
        let group = group.map(|group| group.to_vec());
        if reads && find("COUNT").is_none() {
            words.splice(1..1, [b"COUNT".to_vec(), READ_COUNT.to_vec()]);
            named.iter_mut().for_each(|named| named.word += 2);
        }
        let is_whole = matches!(spec.name, "xrange" | "xrevrange") && args.len() == 4;
        if is_whole {
            words.extend([b"COUNT".to_vec(), (RANGE_MAX + 1).to_string().into_bytes()]);
        }
        if spec.name == "xinfo" && args.len() == 6 && args[5] == b"0" {
            return Err(SYNTAX);
        }
        Ok(Errand {
            door: session.door.clone(),
            client: session.client.clone(),
            protocol: session.protocol,
            at,
            name: spec.name,
            is_write: spec.is_write(),
            words,
            named,
            patience,
            group,
            is_whole,
        })
    }

    /// Does it, and tells the client.
    pub(super) async fn run(mut self) {
        match self.answer().await {
            Ok(answer) => self.client.answer(&answer).into_iter().for_each(std::task::Waker::wake),
            Err(Lost) => self.client.doom(),
        }
    }

    fn shard(&self) -> &Arc<Shard<Client>> {
        &self.door.shards[self.at]
    }

    fn wrong(&self, text: &str) -> Vec<u8> {
        let mut reply = Reply::new(self.protocol);
        reply.error(text);
        reply.bytes
    }

    async fn answer(&mut self) -> Result<Vec<u8>, Lost> {
        let mut late = self.patience.flatten().map(|span| self.door.world.sleep(span));
        if let Some(wrong) = self.resolve_last().await? {
            return Ok(wrong);
        }
        loop {
            // Before the look, so that nothing is missed that comes behind it.
            let ids = self.named.iter().map(|named| (named.topic, named.partition)).collect();
            let mut grown = Grown::new(self.shard().clone(), ids);
            let words: Vec<&[u8]> = self.words.iter().map(Vec::as_slice).collect();
            let answer = self.ask(&words, self.is_write).await?;
            let is_nothing = matches!(&answer[..], b"*-1\r\n" | b"_\r\n");
            if !is_nothing {
                let wanted = wanted(&answer).unwrap_or_default();
                if wanted.is_empty() {
                    return Ok(answer);
                }
                if self.is_whole && wanted.len() > RANGE_MAX {
                    return Ok(
                        self.wrong("ERR more than 100000 records: say how many (COUNT), and go on behind the last id")
                    );
                }
                let (records, burials) = match self.read(&wanted, &answer).await {
                    Ok(read) => read,
                    Err(why) => return Ok(self.wrong(&why)),
                };
                let as_null = self.name == "xinfo";
                let mut fill = Fill { records: &records, as_null, filled: 0, missing: Vec::new(), dead: Vec::new() };
                let Some(filled) = fill.all(&answer) else { return Ok(answer) };
                let (count, missing, dead) = (fill.filled, fill.missing, fill.dead);
                self.acknowledge(&missing).await?;
                for stand in dead {
                    self.bury(stand, &burials).await?;
                }
                if count > 0 || as_null || !self.move_on(&missing) {
                    return Ok(filled);
                }
                continue;
            }
            if self.patience.is_none() {
                return Ok(answer);
            }
            loop {
                if self.client.is_closed() {
                    return Ok(Vec::new());
                }
                let (span, is_turn) = self.next_look();
                let mut look = self.door.world.sleep(span);
                let event = std::future::poll_fn(|context| {
                    if Pin::new(&mut grown).poll(context).is_ready() {
                        return Poll::Ready(Event::Grown);
                    }
                    if late.as_mut().is_some_and(|late| late.as_mut().poll(context).is_ready()) {
                        return Poll::Ready(Event::Late);
                    }
                    look.as_mut().poll(context).map(|()| Event::Look)
                });
                match event.await {
                    Event::Late => return Ok(answer),
                    Event::Grown => break,
                    // A node that holds no copy hears of nothing.
                    Event::Look if is_turn || self.shard().state().applied() == 0 => break,
                    Event::Look => {}
                }
            }
        }
    }

    /// What the topics' settings ask of readers for a group, as they are now.
    fn rules(&self) -> Rules {
        let first = self.named.first().filter(|_| self.name == "xreadgroup");
        first.and_then(|named| self.door.rules_of(named.topic)).unwrap_or_default()
    }

    /// How long to wait before looking again, and whether something is due by then, as far as this node knows.
    fn next_look(&self) -> (Duration, bool) {
        let Some(group) = self.group.as_ref().filter(|_| self.name == "xreadgroup") else { return (LOOK_EVERY, false) };
        let rules = self.rules();
        let now = self.shard().now(self.door.world.now());
        let state = self.shard().state();
        let turn = |named: &Named| state.next_turn((named.topic, named.partition), group, rules);
        match self.named.iter().filter_map(turn).min() {
            Some(due) if due < now + LOOK_EVERY.as_millis() as u64 => {
                (Duration::from_millis(due.saturating_sub(now).max(LOOK_MIN_MS)), true)
            }
            _ => (LOOK_EVERY, false),
        }
    }

    /// An entry goes to the dead letter topic, unless somebody else has it by now. Where it cannot, it is tried again when it is overdue
    /// again.
    async fn bury(&self, stand: streams::Stand, burials: &Burials) -> Result<(), Lost> {
        let Some(group) = &self.group else { return Ok(()) };
        let is_his = |named: &&Named| (named.topic, named.partition) == stand.id;
        let Some(named) = self.named.iter().find(is_his) else { return Ok(()) };
        let Some(consumer) = self.consumer() else { return Ok(()) };
        let id = format!("{}-1", stand.offset);
        let key = &self.words[named.word];
        let words: [&[u8]; 5] = [b"Q.XACK", key, group, consumer, id.as_bytes()];
        let Some(form) = burial::form(&self.door, self.at, Named { word: 1, ..*named }, &words, burials, stand) else {
            return Ok(());
        };
        self.ask_form(&form, true).await.map(|_| ())
    }

    fn consumer(&self) -> Option<&[u8]> {
        let at = self.words.iter().position(|word| word.eq_ignore_ascii_case(b"GROUP"))?;
        self.words.get(at + 2).map(Vec::as_slice)
    }

    /// Behind records that nobody is shown. False where asking again would answer the same.
    fn move_on(&mut self, missing: &[Wanted]) -> bool {
        let count = self.named.len();
        match self.name {
            // What was missing is acknowledged.
            "xreadgroup" => true,
            "xread" => {
                for named in &self.named {
                    let own = missing.iter().filter(|(id, _)| *id == (named.topic, named.partition));
                    if let Some(last) = own.map(|(_, offset)| offset).max() {
                        self.words[named.word + count] = format!("{last}-1").into_bytes();
                    }
                }
                true
            }
            "xrange" | "xrevrange" => {
                let offsets = missing.iter().map(|(_, offset)| *offset);
                let end = if self.name == "xrange" { offsets.max() } else { offsets.min() };
                let Some(end) = end else { return false };
                self.words[2] = format!("({end}-1").into_bytes();
                true
            }
            _ => false,
        }
    }

    /// `$` of XREAD becomes the id that it means now, since it is asked for again and again. An answer where that is an error.
    async fn resolve_last(&mut self) -> Result<Option<Vec<u8>>, Lost> {
        if self.name != "xread" {
            return Ok(None);
        }
        let count = self.named.len();
        for nth in 0..count {
            let named = self.named[nth];
            if self.words.get(named.word + count).map(Vec::as_slice) != Some(b"$") {
                continue;
            }
            let key = self.words[named.word].clone();
            let words: [&[u8]; 3] = [b"xinfo", b"stream", &key];
            let answer = self.ask_about(&[Named { word: 2, ..named }], &words, false).await?;
            let Some(id) = last_id(&answer) else { return Ok(Some(answer)) };
            self.words[named.word + count] = id;
        }
        Ok(None)
    }

    /// What a group was given and nobody can read is no work of anybody's.
    async fn acknowledge(&self, missing: &[Wanted]) -> Result<(), Lost> {
        let Some(group) = &self.group else { return Ok(()) };
        for named in &self.named {
            let own = missing.iter().filter(|(id, _)| *id == (named.topic, named.partition));
            let ids: Vec<String> = own.map(|(_, offset)| format!("{offset}-1")).collect();
            if !ids.is_empty() {
                let mut words: Vec<&[u8]> = vec![b"xack", &self.words[named.word], group];
                words.extend(ids.iter().map(String::as_bytes));
                self.ask_about(&[Named { word: 1, ..*named }], &words, true).await?;
            }
        }
        Ok(())
    }

    async fn ask(&self, words: &[&[u8]], is_write: bool) -> Result<Vec<u8>, Lost> {
        self.ask_about(&self.named, words, is_write).await
    }

    /// Asks the shard, wherever it is led.
    async fn ask_about(&self, named: &[Named], words: &[&[u8]], is_write: bool) -> Result<Vec<u8>, Lost> {
        let mut form = Vec::new();
        let rules = if words[0].eq_ignore_ascii_case(b"xreadgroup") { self.rules() } else { Rules::default() };
        streams::put_run_by(&mut form, self.shard().group, named, words, rules);
        self.ask_form(&form, is_write).await
    }

    /// The same of a form that is made up.
    async fn ask_form(&self, form: &[u8], is_write: bool) -> Result<Vec<u8>, Lost> {
        let (door, shard) = (&self.door, self.shard());
        let is_away = !shard.reads_here() && door.is_led_elsewhere(self.at);
        let number = match is_away {
            true => NUMBERS | door.topic_counts.asked.fetch_add(1, Ordering::Relaxed),
            false => 0,
        };
        let most = door.limits.output_bytes_max;
        let peer = Arc::new(Peer::new(number, String::new(), String::new(), Instant::default(), most));
        let asked = Asked { door: door.clone(), peer, is_away };
        let begun = if is_away {
            let mut unit = Vec::new();
            shard::entry::put_stream(&mut unit, self.protocol, form);
            let begun = door.forward_unit(&asked.peer, shard.group, unit, false, door.world.now());
            door.forward_flush();
            begun
        } else {
            let place = if is_write { Place::Logged } else { Place::Local };
            let refusal = if is_write { shard.refusal(false) } else { None };
            let add = |batch: &mut shard::pending::Batch<Client>| {
                batch.stream(place, false, asked.peer.clone(), self.protocol, form);
            };
            refusal.map_or_else(|| shard.submit(add), Err).map(|wake| {
                if wake {
                    door.world.wake_driver();
                }
            })
        };
        if let Err(refusal) = begun {
            return Ok(self.wrong(&refusal.0));
        }
        std::future::poll_fn(|context| asked.poll(context)).await
    }

    /// Reads records from this node's copy.
    ///
    /// # Errors
    /// What the client is told.
    async fn read(&self, wanted: &[Wanted], answer: &[u8]) -> Result<(Records, Burials), String> {
        let mut records = Records::new();
        let mut burials = burial::named_in(answer, self.group.as_deref(), self.consumer());
        let mut bytes = 0;
        for own in wanted.chunk_by(|one, other| one.0 == other.0) {
            let offsets: Vec<u64> = own.iter().map(|(_, offset)| *offset).collect();
            self.catch_up(own[0].0, *offsets.last().expect("a chunk is not empty")).await?;
            self.read_partition(own[0].0, &offsets, &mut records, &mut burials, &mut bytes).await?;
        }
        Ok((records, burials))
    }

    /// Waits until this node's copy has come as far as the leader that has answered.
    async fn catch_up(&self, id: PartitionId, last: u64) -> Result<(), String> {
        let mut late = self.door.world.sleep(FORWARD_WAIT);
        loop {
            let mut grown = Grown::new(self.shard().clone(), vec![id]);
            {
                let state = self.shard().state();
                let own = state.queue().partition(id.0, id.1);
                if own.is_some_and(|own| own.stable() > last) {
                    return Ok(());
                }
                if state.applied() == 0 {
                    return Err("ERR this node holds no copy of the topic's shard: ask a node that does".into());
                }
            }
            let is_late = std::future::poll_fn(|context| match Pin::new(&mut grown).poll(context) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => late.as_mut().poll(context).map(|()| true),
            });
            if is_late.await {
                return Err("TRYAGAIN this node's copy of the topic is behind; ask again in a moment".into());
            }
        }
    }

    async fn read_partition(
        &self,
        id: PartitionId,
        offsets: &[u64],
        records: &mut Records,
        burials: &mut Burials,
        bytes: &mut usize,
    ) -> Result<(), String> {
        let (mut at, mut tries) = (0, 0);
        while at < offsets.len() {
            let plan = {
                let state = self.shard().state();
                let Some(own) = state.queue().partition(id.0, id.1) else { return Ok(()) };
                // What retention has taken meanwhile is missing.
                at += offsets[at..].partition_point(|offset| *offset < own.start());
                let Some(from) = offsets.get(at) else { return Ok(()) };
                own.plan(*from, READ_BYTES, Isolation::Committed)
            };
            let Ok(plan) = plan else { return Ok(()) };
            let Some(last) = plan.pieces.last() else { return Ok(()) };
            let end = last.base + last.count;
            let read = match self.door.world.read(self.shard().group, plan.pieces).await {
                Ok(read) => read,
                Err(ReadError::Gone) if tries < READ_TRIES => {
                    tries += 1;
                    continue;
                }
                Err(failed) => return Err(format!("ERR a record cannot be read: {failed}")),
            };
            let sought = &offsets[at..];
            let visited = records::visit(&read, &plan.aborted, |record| {
                if sought.binary_search(&record.offset).is_ok() {
                    burials.note(&self.door, id, record);
                    let fields = fields(record);
                    *bytes += fields.len();
                    records.insert((id, record.offset), fields);
                }
            });
            if let Err(why) = visited {
                return Err(format!("ERR the batch behind offset {} cannot be read: {why}", sought[0]));
            }
            if *bytes > self.door.limits.output_bytes_max {
                return Err("ERR the records are more than one answer may hold (output_bytes_max): use COUNT".into());
            }
            at += sought.partition_point(|offset| *offset < end).max(1);
        }
        Ok(())
    }
}

enum Event {
    Grown,
    Late,
    Look,
}

/// A question on its way. Dropped, it may still be answered; only nobody hears of it.
struct Asked {
    door: Arc<Door>,
    peer: Client,
    is_away: bool,
}

impl Asked {
    fn poll(&self, context: &mut std::task::Context<'_>) -> Poll<Result<Vec<u8>, Lost>> {
        if !self.peer.listen(context.waker()) {
            return Poll::Pending;
        }
        let mut bytes = Vec::new();
        if self.peer.collect(&mut bytes) > 0 {
            return Poll::Ready(Ok(bytes));
        }
        Poll::Ready(Err(Lost))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.peer.close();
        if self.is_away {
            self.door.forward_left(self.peer.id);
        }
    }
}

/// What XINFO STREAM says of the last id.
fn last_id(answer: &[u8]) -> Option<Vec<u8>> {
    const NAME: &[u8] = b"last-generated-id\r\n$";
    let at = answer.windows(NAME.len()).position(|window| window == NAME)? + NAME.len();
    let mut lines = answer[at..].split(|byte| *byte == b'\n');
    lines.next()?;
    lines.next()?.strip_suffix(b"\r").map(<[u8]>::to_vec)
}

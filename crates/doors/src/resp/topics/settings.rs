//! `Q.TOPIC`: topics and their settings for clients of the Redis door, by the same entries as Kafka's CreateTopics and
//! AlterConfigs.
//!
//! ```text
//!   Q.TOPIC CREATE name [PARTITIONS n] [setting value …]   +OK, or an error where there is one of that name
//!   Q.TOPIC SET name setting value [setting value …]       +OK; all or none
//!   Q.TOPIC GET name [setting]                             its settings and their values, or the one value
//!   Q.TOPIC DELETE name                                    +OK; its records go
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use base::{Duration, Instant};
use queue::topics::{Change, Edit, How, KNOWN, Outcome};
use shard::command::is;
use shard::error::{CommandError, SYNTAX};
use shard::pending::Batch;
use shard::reply::Reply;

use super::errand::NUMBERS;
use super::{Session, Step, error};
use crate::resp::door::{Client, Door};
use crate::resp::peer::Peer;

/// How long a change may take, and how long it is waited for that this node hears of one made elsewhere.
const CHANGE_WAIT: Duration = Duration::from_secs(20);
/// From one look to the next whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Bytes of an outcome.
const OUTCOME_BYTES_MAX: usize = 1 << 16;

fn text(word: &[u8]) -> Result<String, CommandError> {
    std::str::from_utf8(word).map(str::to_owned).map_err(|_| SYNTAX)
}

fn pairs(words: &[&[u8]]) -> Result<Vec<(String, String)>, CommandError> {
    if !words.len().is_multiple_of(2) {
        return Err(SYNTAX);
    }
    words.chunks_exact(2).map(|pair| Ok((text(pair[0])?, text(pair[1])?))).collect()
}

fn change_of(verb: &[u8], name: String, rest: &[&[u8]]) -> Result<Change, CommandError> {
    if is(verb, "CREATE") {
        let (partitions, settings) = match rest {
            [word, count, rest @ ..] if is(word, "PARTITIONS") => {
                let count = base::parse_i64(count).and_then(|count| u32::try_from(count).ok());
                (count.ok_or(shard::error::NOT_INTEGER)?, rest)
            }
            rest => (1, rest),
        };
        return Ok(Change::Create { name, partitions, settings: pairs(settings)? });
    }
    if is(verb, "SET") && !rest.is_empty() {
        let edits = pairs(rest)?.into_iter().map(|(key, value)| Edit { key, how: How::Set(value) }).collect();
        return Ok(Change::Configure { name, edits, replace: false });
    }
    if is(verb, "DELETE") && rest.is_empty() {
        return Ok(Change::Delete { name, id: None });
    }
    Err(CommandError::new(
        "ERR Q.TOPIC CREATE name [PARTITIONS n] [setting value ...], SET name setting value ..., GET name [setting], DELETE name",
    ))
}

impl Session {
    /// Q.TOPIC
    pub(in crate::resp) fn topic_settings(&mut self, args: &[&[u8]], out: &mut Reply) -> Step {
        self.do_topic_settings(args, out).unwrap_or_else(|wrong| self.refuse(wrong, out))
    }

    fn do_topic_settings(&mut self, args: &[&[u8]], out: &mut Reply) -> Result<Step, CommandError> {
        if self.transaction.is_some() {
            return Err(CommandError::new("ERR Q.TOPIC is not allowed inside MULTI: topics are another group's"));
        }
        if self.is_pending() {
            return Ok(Step::Barrier);
        }
        let name = text(args[2])?;
        let name = name.strip_prefix("topic:").map(str::to_owned).unwrap_or(name);
        if is(args[1], "GET") {
            return self.show_settings(&name, &args[3..], out);
        }
        let change = change_of(args[1], name, &args[3..])?;
        let (door, client, protocol) = (self.door.clone(), self.client.clone(), self.protocol);
        self.sent += 1;
        self.blocked = true;
        self.door.clone().world.spawn(Box::pin(async move {
            let mut reply = Reply::new(protocol);
            match door.change_topics(&change).await {
                None => return client.doom(),
                Some(Ok(())) => reply.ok(),
                Some(Err(why)) => reply.error(&why),
            }
            client.answer(&reply.bytes).into_iter().for_each(std::task::Waker::wake);
        }));
        Ok(Step::Next)
    }

    fn show_settings(&mut self, name: &str, rest: &[&[u8]], out: &mut Reply) -> Result<Step, CommandError> {
        let topics = self.door.topics();
        let topic = topics.as_ref().and_then(|topics| topics.get(name)).cloned();
        let topic = topic.ok_or_else(|| error(format!("ERR there is no topic '{name}'")))?;
        match rest {
            [] => Ok(self.answer(out, |reply| {
                reply.map(KNOWN.len() + 1);
                reply.bulk(b"partitions");
                reply.bulk(topic.partitions.to_string().as_bytes());
                for known in KNOWN {
                    reply.bulk(known.key.as_bytes());
                    reply.bulk(topic.settings.get(known.key).unwrap_or_default().as_bytes());
                }
            })),
            [key] => {
                let value = std::str::from_utf8(key).ok().and_then(|key| topic.settings.get(key)).map(str::to_owned);
                let value = value.ok_or_else(|| CommandError::new("ERR there is no such setting of topics"))?;
                Ok(self.answer(out, |reply| reply.bulk(value.as_bytes())))
            }
            _ => Err(SYNTAX),
        }
    }
}

impl Door {
    /// Changes the topics, wherever the meta group is led, and waits until this node has heard of it. `None`: it may have been done.
    async fn change_topics(self: &Arc<Door>, change: &Change) -> Option<Result<(), String>> {
        let mut unit = Vec::new();
        shard::entry::put_topics(&mut unit, change);
        let frees = matches!(change, Change::Delete { .. });
        let answer = match self.ask_meta(unit, frees, |batch, peer| batch.topics(peer, change)).await? {
            Ok(answer) => answer,
            Err(why) => return Some(Err(why)),
        };
        match Outcome::decode(&answer).ok()? {
            Outcome::Refused(code, why) => Some(Err(format!("ERR {why} ({})", code.name()))),
            Outcome::Done { .. } => {
                self.until(|| self.has_heard(change)).await;
                Some(Ok(()))
            }
        }
    }

    /// Asks the meta group for a unit, wherever it is led. `None`: it may have been done.
    pub(in crate::resp) async fn ask_meta(
        self: &Arc<Door>,
        unit: Vec<u8>,
        frees: bool,
        add: impl FnOnce(&mut Batch<Client>, Client),
    ) -> Option<Result<Vec<u8>, String>> {
        let Some(meta) = self.forward.meta.get().cloned() else {
            return Some(Err("ERR this node has no meta group to keep that".into()));
        };
        let is_away = meta.is_led_elsewhere();
        let number = if is_away { NUMBERS | self.topic_counts.asked.fetch_add(1, Ordering::Relaxed) } else { 0 };
        let peer: Client =
            Arc::new(Peer::new(number, String::new(), String::new(), Instant::default(), OUTCOME_BYTES_MAX));
        let begun = if is_away {
            let begun = self.forward_unit(&peer, meta.group, unit, false, self.world.now());
            self.forward_flush();
            begun
        } else {
            let submitted = meta.refusal(frees).map_or_else(|| meta.submit(|batch| add(batch, peer.clone())), Err);
            submitted.map(|is_idle| {
                if is_idle {
                    self.world.wake_driver();
                }
            })
        };
        if let Err(refusal) = begun {
            return Some(Err(refusal.0.to_string()));
        }
        let mut late = self.world.sleep(CHANGE_WAIT);
        let answer = std::future::poll_fn(|context| {
            if !peer.listen(context.waker()) {
                return late.as_mut().poll(context).map(|()| None);
            }
            let mut bytes = Vec::new();
            Poll::Ready((peer.collect(&mut bytes) > 0).then_some(bytes))
        });
        let answer = answer.await;
        peer.close();
        if is_away {
            self.forward_left(peer.id);
        }
        let answer = answer?;
        Some(match answer.strip_prefix(b"-") {
            Some(line) => Err(String::from_utf8_lossy(line).trim_end().to_owned()),
            None => Ok(answer),
        })
    }

    /// Waits until this is so, but not for ever.
    pub(in crate::resp) async fn until(&self, is_so: impl Fn() -> bool) {
        let mut late = self.world.sleep(CHANGE_WAIT);
        while !is_so() {
            let mut look = self.world.sleep(LOOK_EVERY);
            let is_late = std::future::poll_fn(|context| match late.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(true),
                Poll::Pending => look.as_mut().poll(context).map(|()| false),
            });
            if is_late.await {
                break;
            }
        }
    }

    /// Whether a change that was made can be seen here.
    fn has_heard(&self, change: &Change) -> bool {
        let topics = self.topics();
        let topic = topics.as_ref().and_then(|topics| topics.get(change.name()));
        match change {
            Change::Delete { .. } => topic.is_none(),
            Change::Create { .. } | Change::Grow { .. } => topic.is_some(),
            Change::Configure { edits, .. } => topic.is_some_and(|topic| {
                edits.iter().all(|edit| match &edit.how {
                    How::Set(value) => topic.settings.get(&edit.key) == Some(value),
                    _ => true,
                })
            }),
        }
    }
}
